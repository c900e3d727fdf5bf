"""How is a tall matrix reduced without squaring its condition? Blocks of rows, merged by QR (TSQR).

A root of N rows is an upper triangular R with Rᵀ R = [1, x, y]ᵀ [1, x, y] / N (statement X9: never XᵀX). Roots are
joined like the digits of a binary counter, so that a row passes through 1 + log₂(number of blocks) QRs at most: the
backward error of Rᵀ R is a constant × width × eps times that number, whatever the order of the rows. (Blocks stacked on
the root of all before them would cost half the joins, but the errors add up: 64 blocks of integer rows with dependent
columns leave a singular value of 20 eps, against 1.5 here, and the rank is lost.)

References: Demmel, Grigori, Hoemmen & Langou (2012), "Communication-optimal parallel and sequential QR and LU
factorizations", SIAM J. Sci. Comput. 34.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from linnat._checks import Array

# A block is to stay in the second-level cache, and to be tall against the join of two roots that follows.
BLOCK_ROWS = 1024
BLOCK_RATIO = 16


class Part(NamedTuple):
    """The root of some rows.

    Attributes
    ----------
    root : array (≤ width, width)
    rows : int
        How many rows it stands for.
    level : int
        Its digit in the binary counter: it holds 2^level parts.
    """

    root: Array
    rows: int
    level: int = 0


def root_of_rows(rows: Array, values: Array | None) -> Array:
    """Return the R factor of [1, x, y] / √N in float64, block by block.

    Parameters
    ----------
    rows, values : array (N, n), array (N, m) or None

    Returns
    -------
    array (min(N, p), p), p = 1 + n + m

    Notes
    -----
    2 N p² (1 + 1/8) flops; memory beyond the rows: three blocks of max(1024, 16 p) rows in float64.

    Examples
    --------
    >>> abs(root_of_rows(np.array([[3.0], [4.0]]), None)).round(12)
    array([[1. , 3.5],
           [0. , 0.5]])
    """
    width = 1 + rows.shape[1] + (0 if values is None else values.shape[1])
    block = max(BLOCK_ROWS, BLOCK_RATIO * width)
    stack: tuple[Part, ...] = ()
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        # Column by column, as LAPACK wants it: NumPy would transpose once more.
        joined = np.empty((len(rows[part]), width), order="F")
        joined[:, 0], joined[:, 1 : 1 + rows.shape[1]] = 1.0, rows[part]
        if values is not None:
            joined[:, 1 + rows.shape[1] :] = values[part]
        root = cast(Array, np.linalg.qr(joined, mode="r")) / np.sqrt(len(joined))
        stack = carry(stack, Part(root, len(joined)))
    return collapse(stack).root


def carry(stack: tuple[Part, ...], part: Part) -> tuple[Part, ...]:
    """Return the binary counter with one more part: parts of the same level are joined and move up one level."""
    while stack and stack[-1].level == part.level:
        part = join([stack[-1], part])._replace(level=part.level + 1)
        stack = stack[:-1]
    return (*stack, part)


def collapse(stack: Sequence[Part]) -> Part:
    """Return the root of all rows, the latest parts (of few rows) first."""
    total = stack[-1]
    for part in reversed(stack[:-1]):
        total = join([part, total])
    return total


def join(parts: Sequence[Part]) -> Part:
    """Return the root of several parts together, by one QR of 2 k p³ flops for k parts."""
    count = sum(part.rows for part in parts)
    scaled = [part.root * np.sqrt(part.rows / count) for part in parts]
    return Part(cast(Array, np.linalg.qr(np.concatenate(scaled), mode="r")), count)
