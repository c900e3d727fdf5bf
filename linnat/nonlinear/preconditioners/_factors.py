"""Which two matrices stand for a layer? Running second moments of what enters it and of the errors that come back.

A_i = E[h̃_{i−1} h̃_{i−1}ᵀ], (n_{i−1} + 1) square, and G_i = E[δ_i δ_iᵀ], n_i square. Their Kronecker product A_i ⊗ G_i is
layer i's block of the Fisher matrix where h and δ are independent, and always for identity units.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from linnat._checks import Array, fail
from linnat.nonlinear.network import Network
from linnat.nonlinear.statistics import Statistics


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
    """

    batches: int
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


def empty(net: Network, dtype: Any) -> Factors:
    """Return factors before the first minibatch."""
    inputs = tuple(np.zeros((n + 1, n + 1), dtype) for n in net.widths[:-1])
    return Factors(0, inputs, tuple(np.zeros((n, n), dtype) for n in net.widths[1:]))


def averaged(factors: Factors, statistics: Statistics, decay: float, *, fresh: bool = False) -> Factors:
    """Return the factors after a minibatch, old ones with weight min(1 − 1/k, decay): a mean first, then a window.

    The arrays given are written over, unless `fresh`: for updates that may fail afterwards, and must leave the state.
    """
    if fresh:
        factors = copied(factors)
    count = factors.batches + 1
    old = min(1.0 - 1.0 / count, decay)
    for matrix, signal in zip(factors.inputs, statistics.signals, strict=True):
        _absorb(matrix[:-1, :-1], signal, old)
        means = np.mean(signal, axis=0)
        matrix[-1, :-1] *= old
        matrix[-1, :-1] += (1.0 - old) * means
        matrix[:-1, -1] = matrix[-1, :-1]
        matrix[-1, -1] = 1.0
    for matrix, error in zip(factors.outputs, statistics.errors, strict=True):
        _absorb(matrix, error, old)
    return factors._replace(batches=count)


def copied(factors: Factors) -> Factors:
    """Return factors with arrays of their own."""
    inputs, outputs = (tuple(m.copy() for m in side) for side in (factors.inputs, factors.outputs))
    return Factors(factors.batches, inputs, outputs)


def _absorb(matrix: Array, rows: Array, old: float) -> None:
    # rows.T @ rows is one symmetric rank-k update in BLAS: half the work of a general product.
    square = rows.T @ rows
    square *= (1.0 - old) / len(rows)
    matrix *= old
    matrix += square


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
    factor, status = scipy.linalg.lapack.get_lapack_funcs(("potrf",), (shifted,))[0](
        shifted, lower=True, overwrite_a=True
    )
    if status != 0:
        fail(
            name,
            "a factor that is positive definite after damping",
            f"a pivot ≤ 0 at {status} with damping {damping:.3g}",
            "Take more damping or more rows.",
        )
    inverse = scipy.linalg.lapack.get_lapack_funcs(("potri",), (factor,))[0](
        factor, lower=True, overwrite_c=True
    )[0]
    lower: Array = np.tril(inverse)
    lower += np.tril(inverse, -1).T
    return lower
