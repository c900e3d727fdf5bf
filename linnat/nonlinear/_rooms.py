"""Where do intermediate results lie? In rooms that each thread keeps, one for each purpose, and furnishes anew.

Arrays that are used together lie side by side in one allocation, each from the beginning of a cache line: NumPy asks
for huge pages where an array has 4 MiB, which the signals of a single layer have not.

What is in a room means nothing to whoever enters it next: no function may keep an array of a room after its return,
nor enter a room that a caller is in. The purposes: "block", of elementwise functions; "piece", of a gradient; "turned",
of errors that run back; "layer" and "inside", of preconditioners.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from linnat._checks import Array

LINE = 64  # bytes of a cache line
MOST = (
    1 << 25
)  # bytes; what is larger, glibc gives back to the system at once: its pages are filled with zeros anew
WAYS = 256  # of furnishing rooms that are kept; batches that grow bring new ones for ever

_rooms = threading.local()


def room(purpose: str, dtype: Any, *shapes: tuple[int, ...]) -> tuple[Array, ...]:
    """Return arrays side by side in a room of this thread, which grows where it is too small.

    Examples
    --------
    >>> first, second = room("example", float, (2, 3), (4,))
    >>> first.shape, second.shape, np.shares_memory(first, room("example", float, (6,))[0])
    ((2, 3), (4,), True)
    """
    # The same few ways of furnishing a room come back with every layer and update.
    ways: dict[Any, tuple[Array, ...]] = _rooms.__dict__.setdefault("ways", {})
    way = purpose, dtype, shapes
    found = ways.get(way)
    if found is not None:
        return found
    kind = np.dtype(dtype)
    key, ends = f"{purpose} {kind.char}", _ends(kind, shapes)
    whole = _rooms.__dict__.get(key)
    if whole is None or whole.size < ends[-1]:
        ways.clear()  # they hold on to what is too small
        whole = _rooms.__dict__[key] = _allocated(kind, ends[-1])
    elif len(ways) == WAYS:
        ways.clear()
    found = ways[way] = tuple(_cut(whole, ends, shapes))
    return found


def side_by_side(dtype: Any, *shapes: tuple[int, ...]) -> list[Array]:
    """Return arrays, not filled, in an allocation of their own; each alone where together they are too large.

    Examples
    --------
    >>> first, second = side_by_side(float, (2, 3), (4,))
    >>> first.shape, second.shape, (second.ctypes.data - first.ctypes.data) % 64
    ((2, 3), (4,), 0)
    """
    kind = np.dtype(dtype)
    ends = _ends(kind, shapes)
    if ends[-1] * kind.itemsize > MOST and len(shapes) > 1:
        return [side_by_side(kind, shape)[0] for shape in shapes]
    return _cut(_allocated(kind, ends[-1]), ends, shapes)


def with_room(held: int, count: int) -> int:
    """Return how many rows a buffer of so many is to have for a batch: a batch that has grown may grow by a quarter.

    Examples
    --------
    >>> with_room(0, 100), with_room(100, 104), with_room(130, 105), with_room(130, 20)
    (100, 130, 130, 20)
    """
    if count <= held <= 4 * count:
        return held
    return count + count // 4 if 0 < held < count else count


def _ends(kind: np.dtype[Any], shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Return where arrays begin, at cache lines, and where the last one ends."""
    line = LINE // kind.itemsize
    return list(accumulate((-(-prod(shape) // line) * line for shape in shapes), initial=0))


def _allocated(kind: np.dtype[Any], size: int) -> Array:
    whole = np.empty(size + LINE // kind.itemsize, kind)
    start = (-whole.ctypes.data % LINE) // kind.itemsize
    return whole[start : start + size]


def _cut(whole: Array, ends: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    return [whole[a : a + prod(shape)].reshape(shape) for a, shape in zip(ends[:-1], shapes, strict=True)]
