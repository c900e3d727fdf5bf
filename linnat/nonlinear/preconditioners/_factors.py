"""Which two matrices stand for a layer? Running second moments of what enters it and of the errors that come back.

A_i = E[h̃_{i−1} h̃_{i−1}ᵀ], (n_{i−1} + 1) square, and G_i = E[δ_i δ_iᵀ], n_i square. Their Kronecker product A_i ⊗ G_i is
layer i's block of the Fisher matrix where h and δ are independent, and always for identity units.

Everything here is NumPy's: its wheel and SciPy's bring a BLAS each, whose threads wait actively and would slow each
other down in one loop.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, fail
from linnat.nonlinear.activations import row_blocks
from linnat.nonlinear.network import Network
from linnat.nonlinear.statistics import Statistics

CHUNK = 256  # rows that are taken through a layer's bases at a time
SMALL = 64  # up to it a matrix is factorised by LAPACK


class Factors(NamedTuple):
    """Running second moments.

    Attributes
    ----------
    batches : int
        Minibatches seen.
    inputs : tuple of arrays (n_{i−1} + 1, n_{i−1} + 1)
        A_i; the last row and column are the bias's.
    outputs : tuple of arrays (n_i, n_i)
        G_i.
    scratch : array
        Room for products of minibatches and of layers; what it holds means nothing.
    """

    batches: int
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    scratch: Array


def empty(net: Network, dtype: Any) -> Factors:
    """Return factors before the first minibatch."""
    inputs = tuple(np.zeros((n + 1, n + 1), dtype) for n in net.widths[:-1])
    outputs = tuple(np.zeros((n, n), dtype) for n in net.widths[1:])
    widest = max(net.widths) + 1
    # Two arrays of a layer's size and the same rows of both sides: what EKFAC asks for, who asks for most.
    size = 2 * (widest**2 + CHUNK * widest)
    return Factors(0, inputs, outputs, np.empty(size, dtype))


def cut(scratch: Array, dtype: Any, *shapes: tuple[int, ...]) -> list[Array]:
    """Return arrays side by side in scratch, of its own memory where it is too small or of another dtype.

    Examples
    --------
    >>> scratch = np.empty(10)
    >>> [np.shares_memory(scratch, a) for a in cut(scratch, float, (2, 3), (4,))]
    [True, True]
    >>> np.shares_memory(scratch, cut(scratch, float, (11,))[0])
    False
    """
    ends = [0]
    for shape in shapes:
        ends.append(ends[-1] + prod(shape))
    room = scratch if scratch.dtype == dtype and scratch.size >= ends[-1] else np.empty(ends[-1], dtype)
    return [
        room[begin:end].reshape(shape) for (begin, end), shape in zip(pairwise(ends), shapes, strict=True)
    ]


def averaged(factors: Factors, statistics: Statistics, decay: float, *, fresh: bool = False) -> Factors:
    """Return the factors after a minibatch, old ones with weight min(1 − 1/k, decay): a mean first, then a window.

    The arrays given are written over, unless `fresh`: for updates that may fail afterwards, and must leave the state.
    """
    if fresh:
        factors = copied(factors)
    count = factors.batches + 1
    old = min(1.0 - 1.0 / count, decay)
    for matrix, signal in zip(factors.inputs, statistics.signals, strict=True):
        _absorb(matrix[:-1, :-1], signal, old, factors.scratch)
        matrix[-1, :-1] *= old
        matrix[-1, :-1] += (1.0 - old) * np.mean(signal, axis=0)
        matrix[:-1, -1] = matrix[-1, :-1]
        matrix[-1, -1] = 1.0
    for matrix, error in zip(factors.outputs, statistics.errors, strict=True):
        _absorb(matrix, error, old, factors.scratch)
    return factors._replace(batches=count)


def copied(factors: Factors) -> Factors:
    """Return factors with arrays of their own."""
    inputs, outputs = (tuple(m.copy() for m in side) for side in (factors.inputs, factors.outputs))
    return factors._replace(inputs=inputs, outputs=outputs)


def _absorb(matrix: Array, rows: Array, old: float, scratch: Array) -> None:
    (square,) = cut(scratch, rows.dtype, matrix.shape)
    # A matrix times its own transpose is one symmetric rank-k update in BLAS: half the work of a general product.
    np.matmul(rows.T, rows, out=square)
    blend(matrix, square, old, (1.0 - old) / len(rows))


def blend(mean: Array, fresh: Array, old: float, weight: float) -> None:
    """Set M ← old M + weight X block by block; X is overwritten.

    Examples
    --------
    >>> mean = np.ones((1, 2))
    >>> blend(mean, np.array([[4.0, 8.0]]), 0.5, 0.25)
    >>> mean
    array([[1.5, 2.5]])
    """
    for rows in row_blocks(mean):
        part, new = mean[rows], fresh[rows]
        part *= old
        new *= weight
        part += new


def correlations(signals: tuple[Array, ...]) -> list[Array]:
    """Return E[h̃_{i−1} h̃_iᵀ] between neighbouring layers' signals."""
    wide = [extended(signal) for signal in signals]
    return [a.T @ b / len(a) for a, b in pairwise(wide)]


def extended(signal: Array) -> Array:
    """Return (h, 1)."""
    return np.concatenate([signal, np.ones((len(signal), 1), signal.dtype)], axis=1)


def damping_ratio(inputs: Array, outputs: Array) -> float:
    """Return π = √((tr A/dim A)/(tr G/dim G)), which minimises a bound on the error of factored damping.

    Where one trace is zero the ratio is 1: there is nothing to balance.
    """
    traces = float(np.trace(inputs)) / len(inputs), float(np.trace(outputs)) / len(outputs)
    return float(np.sqrt(traces[0] / traces[1])) if min(traces) > 0 else 1.0


def damped_inverse(matrix: Array, damping: float, name: str) -> Array:
    """Return (M + damping I)⁻¹ by Cholesky, to be used in many products until it is refreshed.

    Raises
    ------
    InputError
        Where the damped matrix is not positive definite at working precision.
    """
    shifted = matrix.copy()
    shifted[np.diag_indices_from(shifted)] += damping
    try:
        half = inverse_factor(shifted)
    except np.linalg.LinAlgError:
        fail(
            name,
            "a factor that is positive definite after damping",
            f"a pivot ≤ 0 with damping {damping:.3g}",
            "Take more damping or more rows.",
        )
    inverse: Array = half.T @ half  # L⁻ᵀL⁻¹ by a symmetric rank-k update
    return inverse


def inverse_factor(matrix: Array) -> Array:
    """Return L⁻¹ of the Cholesky factor, M = L Lᵀ, by halves: products throughout, 1.2 n³ flops.

    With M in blocks L₂₁ = M₂₁L₁₁⁻ᵀ, and L₂₂ is the factor of M₂₂ − L₂₁L₂₁ᵀ. NumPy's own factorisation copies by
    columns, which costs more than the products.

    Raises
    ------
    LinAlgError
        Where a pivot is not positive.

    Examples
    --------
    >>> inverse_factor(np.array([[4.0, 4.0], [4.0, 20.0]]))
    array([[ 0.5 ,  0.  ],
           [-0.25,  0.25]])
    """
    size = len(matrix)
    if size <= SMALL:
        lower = np.linalg.cholesky(matrix)
        return np.asarray(np.tril(np.linalg.solve(lower, np.eye(size, dtype=lower.dtype))))
    half = size // 2
    out = np.zeros_like(matrix)
    first = out[:half, :half] = inverse_factor(matrix[:half, :half])
    below = matrix[half:, :half] @ first.T
    second = out[half:, half:] = inverse_factor(matrix[half:, half:] - below @ below.T)
    np.matmul(-second, below @ first, out=out[half:, :half])
    return out
