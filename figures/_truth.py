"""What are the layerwise, the minimum-norm and the damped natural gradient of these very floats?

N2, N3 and N4 in decimal arithmetic of many digits, white input and noise. N2 only for networks of generic ranks, where
rank (W_j ⋯ W_i) is the least width on the way: a product C R through that width is a full-rank factorisation, so
pseudo-inverses and projectors need no decision. N3 only where every error can be expressed: Σ_j B_jB_jᵀ M A_jᵀA_j
+ λM = E has one solution. The digits must cover every condition that such products can have; two precisions are
compared.
"""

from __future__ import annotations

import decimal
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Attempt: TypeAlias = Callable[[list[Array], Array], list[Array]]


def staircase(weights: Sequence[Array], teacher: Array, digits: int) -> list[Array]:
    """Return N2's u_1 … u_L (ascent directions), rounded to float64 at the end.

    Parameters
    ----------
    weights : sequence of float arrays (n_i, n_{i−1})
    teacher : array (n_L, n_0)
    digits : int
        Decimal digits; the result must not change with a third more.

    Raises
    ------
    ArithmeticError
        If it does, by more than 1e-20 of the largest entry.
    """
    return _settled(_staircase, weights, teacher, digits)


def minimum_norm(weights: Sequence[Array], teacher: Array, digits: int, damping: float = 0.0) -> list[Array]:
    """Return N3's directions, or N4's for λ > 0, like `staircase`."""

    def attempt(layers: list[Array], goal: Array) -> list[Array]:
        return _shortest(layers, goal, decimal.Decimal(float(damping)))

    return _settled(attempt, weights, teacher, digits)


def _settled(attempt: Attempt, weights: Sequence[Array], teacher: Array, digits: int) -> list[Array]:
    first, second = (_at(attempt, weights, teacher, count) for count in (digits, digits * 4 // 3))
    for one, two in zip(first, second, strict=True):
        scale = max(abs(x) for x in two.flat)
        if any(
            abs(x - y) > scale * decimal.Decimal("1e-20") for x, y in zip(one.flat, two.flat, strict=True)
        ):
            raise ArithmeticError(f"{digits} digits are not enough")
    return [np.array([[float(x) for x in row] for row in matrix]) for matrix in second]


def _at(attempt: Attempt, weights: Sequence[Array], teacher: Array, digits: int) -> list[Array]:
    context = decimal.Context(prec=digits, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
    with decimal.localcontext(context):
        return attempt([_exact(w) for w in weights], _exact(teacher))


def _shortest(weights: list[Array], teacher: Array, damping: decimal.Decimal) -> list[Array]:
    """Solve Σ_j B_jB_jᵀ M A_jᵀA_j + λM = E and return −B_iᵀ M A_iᵀ."""
    depth, inputs, outputs = len(weights), weights[0].shape[1], len(weights[-1])
    before = [_product(weights[:i], inputs) for i in range(depth)]
    after = [_product(weights[i:], len(weights[i - 1])) for i in range(1, depth)] + [_identity(outputs)]
    operator = damping * _identity(inputs * outputs)
    for a, b in zip(before, after, strict=True):
        operator = operator + np.kron(a.T @ a, b @ b.T)
    error = teacher - weights[-1] @ before[-1]
    middle = _solve(operator, error.reshape(-1, 1, order="F")).reshape(error.shape, order="F")
    return [-(b.T @ middle @ a.T) for a, b in zip(before, after, strict=True)]


def _exact(matrix: Array) -> Array:
    return np.array([[decimal.Decimal(float(x)) for x in row] for row in matrix], dtype=object)


def _identity(size: int) -> Array:
    return _exact(np.eye(size))


def _staircase(weights: list[Array], teacher: Array) -> list[Array]:
    depth, widths = len(weights), [weights[0].shape[1], *(len(w) for w in weights)]
    error = teacher - _product(weights, widths[0])
    outputs = [_full_rank(weights[i:], widths[i:]) for i in range(1, depth)] + [(_identity(widths[-1]),) * 2]
    inputs = [(_identity(widths[0]),) * 2] + [
        _full_rank(weights[:i], widths[: i + 1]) for i in range(1, depth)
    ]
    left = [c @ _left_inverse(c) for c, _ in outputs]
    right = [_left_inverse(r.T).T @ r for _, r in inputs]
    rises = [left[0], *(b - a for a, b in itertools.pairwise(left))]
    falls = [*(a - b for a, b in itertools.pairwise(right)), right[-1]]
    ranks_out = [0, *(c.shape[1] for c, _ in outputs)]
    ranks_in = [*(r.shape[0] for _, r in inputs), 0]
    first = [k for k in range(depth) if ranks_out[k + 1] > ranks_out[k]]
    final = [last for last in range(depth) if ranks_in[last] > ranks_in[last + 1]]
    blocks = {(k, last): rises[k] @ error @ falls[last] for k in first for last in final if k <= last}
    result = []
    for i in range(depth):
        middle = error * 0
        for (k, last), block in blocks.items():
            if k <= i <= last:
                middle = middle - block / decimal.Decimal(last - k + 1)
        result.append(_pseudo_inverse(*outputs[i]) @ middle @ _pseudo_inverse(*inputs[i]))
    return result


def _product(weights: list[Array], size: int) -> Array:
    total = _identity(size)
    for weight in weights:
        total = weight @ total
    return total


def _full_rank(weights: list[Array], widths: list[int]) -> tuple[Array, Array]:
    """Return C (columns) and R (rows) with W_j ⋯ W_i = C R through the least width."""
    cut = int(np.argmin(widths))
    return _product(weights[cut:], widths[cut]), _product(weights[:cut], widths[0])


def _pseudo_inverse(columns: Array, rows: Array) -> Array:
    return _left_inverse(rows.T).T @ _left_inverse(columns)


def _left_inverse(columns: Array) -> Array:
    """Return (CᵀC)⁻¹Cᵀ; squaring is harmless at these digits."""
    if columns.shape[0] == columns.shape[1]:
        return _solve(columns, _identity(len(columns)))
    return _solve(columns.T @ columns, columns.T)


def _solve(matrix: Array, right: Array) -> Array:
    """Solve by Gauss–Jordan elimination with row pivoting."""
    size = len(matrix)
    work = np.concatenate([matrix, right], axis=1)
    for i in range(size):
        pivot = i + int(np.argmax([abs(x) for x in work[i:, i]]))
        work[[i, pivot]] = work[[pivot, i]]
        work[i] = work[i] / work[i, i]
        for j in range(size):
            if j != i:
                work[j] = work[j] - work[j, i] * work[i]
    return work[:, size:]
