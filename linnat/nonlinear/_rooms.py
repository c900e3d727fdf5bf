"""Where do intermediate results lie? In rooms that each thread keeps, one for each purpose, and furnishes anew.

What is in a room means nothing to whoever enters it next: no function may keep an array of a room after its return,
nor enter a room that a caller is in. The purposes: "block", of elementwise functions; "piece", of a gradient; "layer"
and "inside", of preconditioners.
"""

from __future__ import annotations

import threading
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from linnat._checks import Array

_rooms = threading.local()


def room(purpose: str, dtype: Any, *shapes: tuple[int, ...]) -> list[Array]:
    """Return arrays side by side in a room of this thread, which grows where it is too small.

    Examples
    --------
    >>> first, second = room("example", float, (2, 3), (4,))
    >>> first.shape, second.shape, np.shares_memory(first, room("example", float, (6,))[0])
    ((2, 3), (4,), True)
    """
    ends = [0]
    for shape in shapes:
        ends.append(ends[-1] + prod(shape))
    kind = np.dtype(dtype)
    key = f"{purpose} {kind.char}"
    whole = _rooms.__dict__.get(key)
    if whole is None or whole.size < ends[-1]:
        whole = _rooms.__dict__[key] = np.empty(ends[-1], kind)
    return [whole[a:b].reshape(shape) for (a, b), shape in zip(pairwise(ends), shapes, strict=True)]
