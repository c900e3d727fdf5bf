"""What is the answer without any rounding? Exact rational arithmetic on the very floating-point numbers given.

A float is a rational number, so products, ranks, pseudo-inverses and the staircase (N2) of a network exist exactly.
Matrices are object arrays of `fractions.Fraction`; costs grow with widths and depth, so only small networks qualify.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, cast

import numpy as np

from linnat._checks import Array
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task

MAX_WIDTH = 8
MAX_WORK = 300  # Σ n_i n_{i-1}: beyond it exact elimination takes seconds


def exact(matrix: Array) -> Array:
    """Return the same numbers as fractions."""
    result = np.empty(matrix.shape, object)
    for index, entry in np.ndenumerate(matrix):
        result[index] = Fraction(float(entry))
    return result


def rounded(matrix: Array) -> Array:
    """Return the nearest floats."""
    return np.array([[float(entry) for entry in row] for row in matrix], float).reshape(matrix.shape)


def identity(size: int) -> Array:
    """Return the identity of fractions."""
    return exact(np.eye(size))


def reduce_rows(matrix: Array) -> tuple[Array, list[int]]:
    """Return the reduced row echelon form and its pivot columns."""
    rows = [list(row) for row in matrix]
    pivots: list[int] = []
    for column in range(matrix.shape[1]):
        place = len(pivots)
        choices = [i for i in range(place, len(rows)) if rows[i][column] != 0]
        if not choices:
            continue
        rows[place], rows[choices[0]] = rows[choices[0]], rows[place]
        lead = rows[place][column]
        rows[place] = [entry / lead for entry in rows[place]]
        for i, row in enumerate(rows):
            if i != place and row[column] != 0:
                share = row[column]
                rows[i] = [a - share * b for a, b in zip(row, rows[place], strict=True)]
        pivots.append(column)
        if len(pivots) == len(rows):
            break
    result = np.empty(matrix.shape, object)
    for i, row in enumerate(rows):
        result[i] = row
    return result, pivots


def solve_exactly(matrix: Array, right: Array) -> Array | None:
    """Return one solution of M X = B in fractions, or None where there is none."""
    count = matrix.shape[1]
    reduced, pivots = reduce_rows(np.concatenate([matrix, right], axis=1))
    if any(p >= count for p in pivots):
        return None
    result = np.full((count, right.shape[1]), Fraction(0), object)
    for i, column in enumerate(pivots):
        result[column] = reduced[i, count:]
    return result


def inverse(matrix: Array) -> Array:
    """Return the exact inverse of a regular matrix."""
    solution = solve_exactly(matrix, identity(len(matrix)))
    if solution is None:
        raise ZeroDivisionError("singular matrix")
    return solution


def pseudo_inverse(matrix: Array) -> tuple[Array, int]:
    """Return the exact Moore–Penrose inverse and the exact rank, from a full-rank factorisation C R."""
    reduced, pivots = reduce_rows(matrix)
    rank = len(pivots)
    if rank == 0:
        return np.full(matrix.shape[::-1], Fraction(0), object), 0
    left, right = matrix[:, pivots], reduced[:rank]
    inner = inverse(left.T @ matrix @ right.T)
    return cast(Array, right.T @ inner @ left.T), rank


def affordable(net: LinearNetwork) -> bool:
    """Whether the exact staircase of the network takes well under a second."""
    work = sum(w.size for w in net.layers)
    return max(net.widths) <= MAX_WIDTH and work <= MAX_WORK


class Sides:
    """Exact B̃_i, Ã_i, their pseudo-inverses and ranks, and Ẽ, of the floating-point instance."""

    def __init__(self, net: LinearNetwork, task: Task) -> None:
        moments = task.moments(net.has_biases)
        noise = inverse(exact(task.noise_factor))
        maps = [exact(m) for m in net.maps]
        before = [exact(moments.factor)]
        for matrix in maps[:-1]:
            before.append(matrix @ before[-1])
        after = [noise]
        for weight in reversed(net.weights[1:]):
            after.append(after[-1] @ exact(weight))
        outputs = net.widths[-1]
        self.before, self.after = before, after[::-1]
        self.error = noise @ (exact(moments.target) - maps[-1][:outputs] @ before[-1])
        self.before_inverse, self.before_ranks = _inverses(self.before)
        self.after_inverse, self.after_ranks = _inverses(self.after)


@lru_cache(maxsize=2)
def sides(net: LinearNetwork, task: Task) -> Sides:
    """Return the exact sides of a network, kept for the next question about it."""
    return Sides(net, task)


def staircase(sides: Sides) -> list[Array]:
    """Return v_i of N2 exactly: B̃_i⁺ [Σ_{k≤i≤l} ΔP_k Ẽ ΔQ_l/(l−k+1)] Ã_i⁺."""
    depth = len(sides.before)
    left = [b @ inv for b, inv in zip(sides.after, sides.after_inverse, strict=True)]
    right = [inv @ a for a, inv in zip(sides.before, sides.before_inverse, strict=True)]
    rises = [left[0], *(left[k] - left[k - 1] for k in range(1, depth))]
    falls = [*(right[k] - right[k + 1] for k in range(depth - 1)), right[-1]]
    result = []
    for i in range(depth):
        middle: Any = 0 * sides.error
        for k in range(i + 1):
            for last in range(i, depth):
                middle = middle + rises[k] @ sides.error @ falls[last] / Fraction(last - k + 1)
        result.append(sides.after_inverse[i] @ middle @ sides.before_inverse[i])
    return result


def _inverses(matrices: Sequence[Array]) -> tuple[list[Array], list[int]]:
    pairs = [pseudo_inverse(m) for m in matrices]
    return [p for p, _ in pairs], [r for _, r in pairs]
