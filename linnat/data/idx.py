"""How is an IDX file (MNIST's format) read? Plain or gzip; nothing is allocated that the file cannot fill.

A file is four bytes (0, 0, type, number of axes), the length of each axis as a big-endian 32-bit integer, and the
entries, big-endian, last axis fastest. Whatever is wrong with a file is one `InputError` that names it.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from linnat._checks import Array, InputError, as_count, as_path, fail

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_AXES = 8
# Deflate cannot expand by more than this; a header that claims more than the file can hold is refused unread.
MAX_EXPANSION = 1032
CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str], *, ndim: int | None = None, max_bytes: int | None = None) -> Array:
    """Read an IDX file, plain or gzip (told apart by its content, not by its name).

    Parameters
    ----------
    path : path
    ndim : int, optional
        Expected number of axes: 3 for images, 1 for labels.
    max_bytes : int, optional
        A file whose header claims more entries than that is refused unread.

    Returns
    -------
    array
        Of the file's type, in native byte order.

    Raises
    ------
    InputError
        For a missing, unreadable, truncated, corrupt, overlong or mislabelled file.

    Notes
    -----
    Memory stays within 9/8 of the entries that the file really holds (and of what its header claims), plus 2 MB. A gzip
    file may hold 1032 times its own size: give `max_bytes` where the source is not trusted.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "labels"
    ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    ...     read_idx(file, ndim=1)
    array([7, 9], dtype=uint8)
    """
    file = as_path(path, "IDX file")
    if not file.is_file():
        fail("IDX file", "an existing file", f"no such file: {file}")
    limit = None if max_bytes is None else as_count(max_bytes, "max_bytes", low=0)
    try:
        size = file.stat().st_size
        with file.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not zipped:
                return _read(raw, file, size, ndim, limit)
            with gzip.GzipFile(fileobj=raw) as stream:
                return _read(cast(IO[bytes], stream), file, MAX_EXPANSION * size, ndim, limit)
    except InputError:
        raise
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"IDX file: expected a complete IDX file, found {file} unreadable ({reason})."
        ) from None


def _read(stream: IO[bytes], file: Path, capacity: int, ndim: int | None, limit: int | None) -> Array:
    dtype, shape = _read_header(stream, file, ndim)
    wanted = math.prod(shape) * dtype.itemsize
    claim = f"{wanted} bytes of entries, as the header of {file} says"
    if limit is not None and wanted > limit:
        fail("IDX file", f"at most {limit} bytes of entries", claim)
    if wanted > capacity:
        fail("IDX file", claim, "a file too small to hold them")
    content = _read_at_most(stream, wanted + 1)
    if len(content) < wanted:
        fail("IDX file", claim, f"{len(content)} (truncated)")
    if len(content) > wanted:
        fail("IDX file", claim, "more")
    entries = np.frombuffer(content, dtype=dtype)
    native = dtype.newbyteorder("=")
    if dtype != native:
        entries = entries.byteswap(inplace=True).view(native)
    try:
        return entries.reshape(shape)
    except ValueError:  # no entries, but lengths whose product no array may have
        fail("IDX file", "lengths that an array can have", f"{shape} in the header of {file}")


def _read_header(stream: IO[bytes], file: Path, ndim: int | None) -> tuple[np.dtype[Any], tuple[int, ...]]:
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in TYPES or not 1 <= start[3] <= MAX_AXES:
        fail("IDX file", "a header (0, 0, type, number of axes)", f"{start.hex(' ') or 'nothing'} in {file}")
    axes = start[3]
    if ndim is not None and axes != ndim:
        what = {1: "labels (1 axis)", 3: "images (3 axes)"}.get(ndim, f"{ndim} axes")
        fail("IDX file", what, f"{axes} axes in {file}", "Are the files of images and labels interchanged?")
    lengths = stream.read(4 * axes)
    if len(lengths) < 4 * axes:
        fail("IDX file", f"{axes} lengths in the header", f"a truncated header in {file}")
    return np.dtype(TYPES[start[2]]), tuple(int(n) for n in np.frombuffer(lengths, dtype=">u4"))


def _read_at_most(stream: IO[bytes], limit: int) -> bytearray:
    """Read up to `limit` bytes piece by piece, so that memory follows what is there and not what is claimed."""
    content = bytearray()
    while len(content) < limit:
        piece = stream.read(min(CHUNK, limit - len(content)))
        if not piece:
            break
        content += piece
    return content
