"""How do two processes stay out of one folder? By a lock of the operating system on a file in it.

The system releases the lock when its process ends, however it ends: nothing is left to be judged stale, and no process
number that another process has meanwhile is believed. The file itself stays; what it says is for a reader.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from linnat._checks import InputError, fail

NAME = "lock"
PAUSE = 0.1


class Busy(InputError):
    """Another process has the folder."""


@contextlib.contextmanager
def locked(folder: Path, what: str, *, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder for this process.

    Parameters
    ----------
    folder : Path
        Made where it does not exist.
    what : str
        What errors call it.
    wait : float
        Seconds to wait for another process that is about to let go.

    Raises
    ------
    Busy
        Where another process has it.
    InputError
        For a folder that cannot be made or written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name, locked(Path(name), "run"):
    ...     print((Path(name) / "lock").read_text().split()[0] == str(os.getpid()))
    True
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        fail(what, "a folder that can be written", f"{folder} ({error.strerror or error})")
    try:
        _take(descriptor, folder, what, time.monotonic() + wait)
        # Full disks are for those who write more than this to tell.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()} on {platform.node()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path, what: str, deadline: float) -> None:
    while not _try(descriptor, folder, what):
        if time.monotonic() >= deadline:
            with contextlib.suppress(OSError):
                owner = (folder / NAME).read_text(encoding="utf-8").strip()
                raise Busy(f"{what}: expected a folder of its own, found {folder} in use by process {owner}.")
            raise Busy(f"{what}: expected a folder of its own, found {folder} in use.")
        time.sleep(PAUSE)


def _try(descriptor: int, folder: Path, what: str) -> bool:
    """Return whether the lock is ours now."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # beyond what the file says, which stays readable
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            finally:
                os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        fail(what, "a file system with locks", f"{folder} ({error.strerror or error})")
    return True
