"""Small linear and quadratic programs over Au ≥ 1 solved by listing: exact, and the same in floating point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

Array = NDArray[Any]


def vertices(rows: sp.Matrix) -> Iterator[tuple[sp.Matrix, tuple[int, ...]]]:
    """Yield the vertices of Au ≥ 1 with the constraints that make them."""
    for chosen in combinations(range(rows.rows), rows.cols):
        part = rows.extract(list(chosen), list(range(rows.cols)))
        if part.det() != 0:
            u = part.solve(sp.ones(rows.cols, 1))
            if all(value >= 1 for value in rows * u):
                yield u, chosen


def best_vertex(rows: sp.Matrix, cost: sp.Matrix) -> tuple[sp.Matrix, sp.Matrix]:
    """Return the exact solution and its multipliers, which prove it optimal where none is negative."""
    u, chosen = min(vertices(rows), key=lambda found: (cost.T * found[0])[0])
    part = rows.extract(list(chosen), list(range(rows.cols)))
    return u, part.T.solve(cost)


def largest_margin(rows: sp.Matrix) -> tuple[sp.Matrix, tuple[int, ...]]:
    """Return the exact argmin ‖u‖ s.t. Au ≥ 1, and its active constraints, by listing sets of support vectors."""
    for count in range(1, rows.cols + 1):
        for chosen in combinations(range(rows.rows), count):
            part = rows.extract(list(chosen), list(range(rows.cols)))
            if part.rank() < count:
                continue
            alpha = (part * part.T).solve(sp.ones(count, 1))
            u = part.T * alpha
            if all(value >= 0 for value in alpha) and all(value >= 1 for value in rows * u):
                return u, tuple(n for n in range(rows.rows) if (rows[n, :] * u)[0] == 1)
    raise ValueError("not separable")


def in_cone(rows: sp.Matrix, chosen: Sequence[int], vector: sp.Matrix) -> bool:
    """Return whether the vector is a non-negative combination of the chosen rows, exactly (Carathéodory)."""
    for count in range(1, rows.cols + 1):
        for subset in combinations(chosen, count):
            part = rows.extract(list(subset), list(range(rows.cols)))
            if part.rank() < count or part.col_join(vector.T).rank() > count:
                continue
            if all(value >= 0 for value in (part * part.T).solve(part * vector)):
                return True
    return False


def listed_limit(rows: Array, start: Array) -> tuple[Array, Array, Array]:
    """Return (u*, q*, offset) of a non-degenerate program by listing all vertices, in floating point."""
    probabilities = 1 / (1 + np.exp(rows @ start))
    cost, best, size = rows.T @ probabilities, None, rows.shape[1]
    for chosen in map(list, combinations(range(len(rows)), size)):
        if abs(np.linalg.det(rows[chosen])) < 1e-12:
            continue
        u = np.linalg.solve(rows[chosen], np.ones(size))
        if (rows @ u >= 1 - 1e-9).all() and (best is None or cost @ u < cost @ best[0]):
            best = u, chosen
    if best is None:
        raise ValueError("no vertex: the data are not separable")
    dual = np.zeros(len(rows))
    dual[best[1]] = np.linalg.solve(rows[best[1]].T, cost)
    return best[0], dual, -np.linalg.solve(rows[best[1]], np.log(dual[best[1]]))


def listed_margin(rows: Array) -> Array:
    """Return argmin ‖u‖ s.t. Au ≥ 1 by listing all sets of support vectors, in floating point."""
    for count in range(1, rows.shape[1] + 1):
        for chosen in map(list, combinations(range(len(rows)), count)):
            part = rows[chosen]
            alpha = np.linalg.lstsq(part @ part.T, np.ones(count), rcond=None)[0]
            u = part.T @ alpha
            if (alpha >= 0).all() and (rows @ u >= 1 - 1e-9).all():
                return np.asarray(u)
    raise ValueError("no support: the data are not separable")
