"""How is a product of matrices had to twice the working precision, from the BLAS of one? By slices without rounding.

Each factor is cut into slices of so few bits that sums of n products of them fit into a float without rounding (Ozaki,
Ogita, Oishi and Rump 2012); six of their products, added by exact sums of two, give what is left of a residual after
its leading digits have cancelled, which no other order of the same operations does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from linnat._checks import Array

SLICES = 3


class Pair(NamedTuple):
    """The unevaluated sum of two matrices in double precision, the second below half an ulp of the first."""

    high: Array
    low: Array


def as_pair(matrix: Array) -> Pair:
    """Return a matrix in double precision and zeros."""
    return Pair(matrix, np.zeros_like(matrix))


def two_sum(a: Array, b: Array) -> Pair:
    """Return a + b rounded, and exactly what rounding took (Knuth).

    Examples
    --------
    >>> two_sum(np.array([1.0]), np.array([2.0**-60]))
    Pair(high=array([1.]), low=array([8.67361738e-19]))
    """
    total = a + b
    part = total - a
    return Pair(total, (a - (total - part)) + (b - part))


def add(a: Pair, b: Pair) -> Pair:
    """Return a + b up to a few units of 2⁻¹⁰⁵, relative to |a| + |b|."""
    high, low = two_sum(a.high, b.high)
    return two_sum(high, low + (a.low + b.low))


def matmul(a: Pair, b: Pair) -> Pair:
    """Return a b, leading axes broadcast, up to about n^{5/2} 2⁻⁷⁸ of the largest entries of a row and a column.

    Examples
    --------
    >>> a, b = as_pair(np.array([[1.0, 2.0**-30]])), as_pair(np.array([[1.0], [2.0**-30]]))
    >>> product = matmul(a, b)
    >>> product.high, product.low == 2.0**-60
    (array([[1.]]), array([[ True]]))
    """
    terms = a.high.shape[-1]
    bits = (53 - int(np.ceil(np.log2(terms)))) // 2
    left, right = _slices(a, bits, -1), _slices(b, bits, -2)
    total = as_pair(left[0] @ right[0])
    for order in range(1, SLICES):
        for i in range(order + 1):
            high, low = two_sum(total.high, left[i] @ right[order - i])
            total = Pair(high, total.low + low)
    return two_sum(*total)


def _slices(matrix: Pair, bits: int, axis: int) -> list[Array]:
    """Return slices that add up to the matrix, each of integers up to 2^bits times one power of two for each row."""
    rest, found = matrix, []
    for _ in range(SLICES):
        largest = np.abs(rest.high).max(axis=axis, keepdims=True)
        # Adding 3/4 2^(e + 53 - bits) rounds to a multiple of 2^(e - bits), where 2^e bounds the entries.
        anchor = np.ldexp(0.75, np.frexp(largest)[1] + (53 - bits))
        piece = (rest.high + anchor) - anchor
        found.append(piece)
        rest = two_sum(rest.high - piece, rest.low)
    return found
