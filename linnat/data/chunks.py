"""How is data that does not fit into memory cut into chunks? Slices of arrays on disk, IDX files read front to back.

A chunk is a pair (x, y) of arrays with one sample in a row, as `Task.from_chunks` wants it; x and y are one object
where the data is its own target. Nothing here holds more than one chunk.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast, overload

import numpy as np

from linnat._checks import Array, InputError, as_count, fail
from linnat.data.idx import _read_at_most, _read_header

BYTE = np.float32(1 / 256)  # a power of two: exact
Chunk = tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class RowChunks(Sequence[Chunk]):
    """Consecutive rows of two arrays, cut when asked for; made by `row_chunks`."""

    x: Any
    y: Any
    rows: int

    def __len__(self) -> int:
        return -(-int(self.x.shape[0]) // self.rows)

    @overload
    def __getitem__(self, k: int) -> Chunk: ...
    @overload
    def __getitem__(self, k: slice) -> list[Chunk]: ...
    def __getitem__(self, k: int | slice) -> Chunk | list[Chunk]:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        place = range(len(self))[k]
        first, last = place * self.rows, min((place + 1) * self.rows, self.x.shape[0])
        x = _rows(self.x, first, last)
        return x, x if self.y is self.x else _rows(self.y, first, last)


def row_chunks(x: Any, y: Any = None, rows: int = 8192) -> RowChunks:
    """Cut arrays into chunks of rows: NumPy arrays, memory maps, and whatever else can be sliced (HDF5, Zarr).

    Parameters
    ----------
    x : array-like with shape and slices (N, n_0)
    y : array-like (N, n_L), optional
        x itself by default: an autoencoder.
    rows : int
        Rows in a chunk; the last one may have fewer.

    Returns
    -------
    RowChunks
        A sequence of pairs (x, y), read when asked for. Memory maps of files are read piece by piece and not through
        the map, whose pages would count as the process's own.

    Raises
    ------
    InputError
        For arrays without shape or rows, or of different lengths.

    Examples
    --------
    >>> chunks = row_chunks(np.arange(10.0).reshape(5, 2), rows=2)
    >>> len(chunks), chunks[-1][0]
    (3, array([[8., 9.]]))
    """
    size = as_count(rows, "rows")
    other = x if y is None else y
    for name, value in (("x", x), ("y", other)):
        shape = getattr(value, "shape", None)
        if not isinstance(shape, tuple) or len(shape) != 2 or not hasattr(value, "__getitem__"):
            found = type(value).__name__ if shape is None else f"shape {shape}"
            fail(name, "an array that can be sliced, shape (N, n)", found)
        if 0 in shape:
            fail(name, "a non-empty array", f"shape {shape}")
    if x.shape[0] != other.shape[0]:
        fail("y", f"{x.shape[0]} rows, one for each of x", f"{other.shape[0]}")
    return RowChunks(x, other, size)


def idx_chunks(
    images: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    rows: int = 8192,
    *,
    n_classes: int | None = None,
) -> Iterator[Chunk]:
    """Read IDX files (MNIST's format), plain or gzip, in chunks of rows.

    Parameters
    ----------
    images : path
        One sample for each entry of the first axis; the other axes become columns. Bytes are divided by 256.
    labels : path, optional
        Bytes, one for each image, which become one-hot rows. Without it the images are their own targets.
    rows : int
        Images in a chunk.
    n_classes : int, optional
        One more than the largest label by default, for which the labels are read once more.

    Returns
    -------
    iterator of pairs of arrays (rows, n_0), (rows, n_L)

    Raises
    ------
    InputError
        At once for files that are missing or not IDX files, or whose lengths differ; when it is met for a file that is
        truncated, corrupt or overlong.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "images"
    ...     _ = file.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 3, 0, 0, 0, 1, 128, 64, 0]))
    ...     [x.tolist() for x, _ in idx_chunks(file, rows=2)]
    [[[0.5], [0.25]], [[0.0]]]
    """
    size = as_count(rows, "rows")
    shape = _shape(Path(images), None)
    if len(shape) < 2 or 0 in shape:
        fail(f"images in {images}", "at least one image", f"shape {shape}")
    if labels is None:
        return ((x, x) for x in map(_pixels, _pieces(Path(images), size)))
    count = _shape(Path(labels), 1)[0]
    if count != shape[0]:
        fail(f"labels in {labels}", f"{shape[0]}, one for each image", f"{count}")
    classes = n_classes
    if classes is None:
        classes = 1 + max(int(_bytes(piece, labels).max()) for piece in _pieces(Path(labels), 1 << 20))
    pairs = zip(_pieces(Path(images), size), _pieces(Path(labels), size), strict=True)
    return ((_pixels(x), _one_hot(_bytes(y, labels), as_count(classes, "n_classes"))) for x, y in pairs)


def _rows(array: Any, first: int, last: int) -> Array:
    """Return rows of an array on disk or in memory."""
    mapped = isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.mode != "c"
    if not mapped or array.filename is None or not array.flags.c_contiguous:
        rows = array[first:last]
        # A mask is kept, so that it is refused and not dropped.
        return rows if isinstance(rows, np.ma.MaskedArray) else np.asarray(rows)
    width = array.shape[1]
    start = array.offset + first * width * array.itemsize
    found = np.fromfile(array.filename, array.dtype, (last - first) * width, offset=start)
    if found.size < (last - first) * width:
        fail("x", f"rows {first} to {last} in {array.filename}", "a file that ends before")
    return cast(Array, found.reshape(-1, width))


def _pixels(images: Array) -> Array:
    flat = images.reshape(len(images), -1)
    if flat.dtype == np.uint8:
        return flat * BYTE
    with np.errstate(invalid="ignore"):  # NaN is refused where the numbers are used
        return flat.astype(np.float64)


def _bytes(labels: Array, path: str | os.PathLike[str]) -> Array:
    if labels.dtype != np.uint8:
        fail(f"labels in {path}", "bytes", f"type {labels.dtype}")
    return labels


def _one_hot(labels: Array, n_classes: int) -> Array:
    if int(labels.max()) >= n_classes:
        fail("labels", f"classes below {n_classes}", f"{int(labels.max())}")
    return np.eye(n_classes, dtype=np.float32)[labels]


def _shape(file: Path, ndim: int | None) -> tuple[int, ...]:
    """Return the shape that the header states."""
    if not file.is_file():
        fail("IDX file", "an existing file", f"no such file: {file}")
    with _opened(file) as stream:
        return _read_header(stream, file, ndim)[1]


def _pieces(file: Path, rows: int) -> Iterator[Array]:
    """Yield the entries of an IDX file, `rows` of its first axis at a time."""
    with _opened(file) as stream:
        dtype, shape = _read_header(stream, file, None)
        for first in range(0, shape[0], rows):
            count = min(rows, shape[0] - first)
            wanted = count * math.prod(shape[1:]) * dtype.itemsize
            content = _read_at_most(stream, wanted)
            if len(content) < wanted:
                fail("IDX file", f"{shape[0]} entries, as the header of {file} says", "fewer (truncated)")
            entries = np.frombuffer(content, dtype).reshape(count, *shape[1:])
            yield entries.astype(dtype.newbyteorder("="), copy=False)
        if stream.read(1):
            fail("IDX file", f"{shape[0]} entries, as the header of {file} says", "more")


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """Open an IDX file, plain or gzip; whatever is wrong with it is one InputError."""
    try:
        with file.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            yield cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if zipped else raw
    except InputError:
        raise
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"IDX file: expected a complete IDX file, found {file} unreadable ({reason})."
        ) from None
