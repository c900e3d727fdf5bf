"""How are arrays read from and written to disk? `.npz` without pickle, written atomically, errors in one line."""

from __future__ import annotations

import contextlib
import glob
import os
import uuid
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from linnat._checks import Array, InputError, fail


def read_npz(path: Path, what: str) -> dict[str, Array]:
    """Read every array of an `.npz` file, or raise one InputError that names the file and what is wrong."""
    if not path.is_file():
        fail(f"{what} file", "an existing .npz file", f"no such file: {path}")
    try:
        # Opened here, since NumPy leaves a file open that turns out not to be an archive.
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                fail(f"{what} file", "an .npz archive", f"a single array in {path}")
            return {key: archive[key] for key in archive.files}
    except InputError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "allow_pickle" in reason:  # NumPy's advice for any file that is not its own
            reason = "not an archive, or one that holds Python objects"
        raise InputError(
            f"{what} file: expected a complete .npz archive of plain arrays, found {path} unreadable ({reason})."
        ) from None


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an `.npz` file atomically: a reader sees the old file or the whole new one."""
    _write(path, lambda stream: np.savez(stream, **cast(dict[str, Any], dict(arrays))))


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    _write(path, lambda stream: stream.write(text.encode()))


def _write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(temporary, "xb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"path: expected a file that can be written, found {path} ({error.strerror or error})."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_leftovers(path: Path) -> None:
    """Remove what writers of this file left that were killed; nobody else may be writing it."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError):
            leftover.unlink()
