"""Block masks on the layers: exact solutions of Mc = 1, bands, partitions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import sympy as sp

from derivations._network import Example


def mask_of(depth: int, pairs: Sequence[tuple[int, int]]) -> sp.Matrix:
    """Return the symmetric mask with unit diagonal and these pairs of layers (numbered from 1)."""
    mask = sp.eye(depth)
    for i, j in pairs:
        mask[i - 1, j - 1] = mask[j - 1, i - 1] = 1
    return mask


def band(depth: int, width: int) -> sp.Matrix:
    """Return the mask |i − j| ≤ width."""
    return sp.Matrix(depth, depth, lambda i, j: int(bool(abs(i - j) <= width)))


def coefficients(mask: sp.Matrix) -> sp.Matrix | None:
    """Return one exact solution c of Mc = 1, or None where there is none."""
    size = mask.rows
    reduced, pivots = mask.row_join(sp.ones(size, 1)).rref()
    if size in pivots:
        return None
    c = sp.zeros(size, 1)
    for row, column in enumerate(pivots):
        c[column] = reduced[row, size]
    return c


def all_masks(depth: int) -> list[sp.Matrix]:
    """Return every symmetric 0/1 mask with unit diagonal."""
    pairs = list(itertools.combinations(range(1, depth + 1), 2))
    chosen = itertools.product((0, 1), repeat=len(pairs))
    return [mask_of(depth, [pair for pair, one in zip(pairs, bits, strict=True) if one]) for bits in chosen]


def centres(depth: int, width: int) -> list[int]:
    """Return layers whose windows |i − j| ≤ width cover 1…L exactly once."""
    period = 2 * width + 1
    count = -(-depth // period)
    rest = depth - (count - 1) * period
    first = max(1, rest - width)
    return [first + a * period for a in range(count)]


def rate(mask: sp.Matrix) -> sp.Expr | None:
    """Return α = 1ᵀc of an exact mask, None where Mc = 1 has no solution."""
    c = coefficients(mask)
    return None if c is None else sum(c)


def unstack(vector: sp.Matrix, like: sp.Matrix) -> sp.Matrix:
    """Return the stacked columns as a matrix of the given shape."""
    return sp.Matrix(like.cols, like.rows, list(vector)).T


def path(depth: int) -> sp.Matrix:
    """The tridiagonal mask, in which only neighbours are joined."""
    return mask_of(depth, [(i, i + 1) for i in range(1, depth)])


def transitive(mask: sp.Matrix) -> bool:
    """Return whether i ~ j ~ k implies i ~ k."""
    layers = range(mask.rows)
    return all(mask[i, k] or not (mask[i, j] and mask[j, k]) for i in layers for j in layers for k in layers)


def masked_fisher(ex: Example, mask: sp.Matrix) -> sp.Matrix:
    """Return F_M of an exact example."""
    j = ex.jacobian
    full = j.T * j
    layer = [i for i, weight in enumerate(ex.weights) for _ in range(weight.rows * weight.cols)]
    return sp.Matrix(*full.shape, lambda p, q: full[p, q] * mask[layer[p], layer[q]])
