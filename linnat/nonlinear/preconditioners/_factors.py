"""Which two matrices stand for a layer? Running second moments of what enters it and of the errors that come back.

A_i = E[h̃_{i−1} h̃_{i−1}ᵀ], (n_{i−1} + 1) square, and G_i = E[δ_i δ_iᵀ], n_i square. Their Kronecker product A_i ⊗ G_i is
layer i's block of the Fisher matrix where h and δ are independent, and always for identity units.

Everything here is NumPy's: its wheel and SciPy's bring a BLAS each, whose threads wait actively and would slow each
other down in one loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np

from linnat._checks import Array, InputError, fail
from linnat.nonlinear._crew import each, members
from linnat.nonlinear._rooms import room
from linnat.nonlinear.activations import row_blocks
from linnat.nonlinear.network import Network
from linnat.nonlinear.statistics import Statistics

Made = TypeVar("Made")

CHUNK = 256  # rows that are taken through a layer's bases at a time
SMALL = 64  # up to it a matrix is factorised by LAPACK


class SingularFactorError(InputError):
    """A factor is not positive definite at working precision after damping."""


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
    outputs = tuple(np.zeros((n, n), dtype) for n in net.widths[1:])
    return Factors(0, inputs, outputs)


def averaged(factors: Factors, statistics: Statistics, decay: float, *, fresh: bool = False) -> Factors:
    """Return the factors after a minibatch, old ones with weight min(1 − 1/k, decay): a mean first, then a window.

    The arrays given are written over, unless `fresh`: for updates that may fail afterwards, and must leave the state.
    """
    if fresh:
        factors = copied(factors)
    count = factors.batches + 1
    old = min(1.0 - 1.0 / count, decay)
    tasks: list[Callable[[], None]] = []
    tasks += [
        partial(_absorb_signals, *pair, old) for pair in zip(factors.inputs, statistics.signals, strict=True)
    ]
    tasks += [partial(_absorb, *pair, old) for pair in zip(factors.outputs, statistics.errors, strict=True)]
    costs = [float(statistics.rows * matrix.size) for matrix in (*factors.inputs, *factors.outputs)]
    each(tasks, members(sum(costs)), costs)
    return factors._replace(batches=count)


def is_due(batches: int, period: int, early: bool) -> bool:
    """Return whether what is made of running averages is made anew with the next minibatch, after `batches` of them.

    Every `period` minibatches, and if `early` in the first period with minibatches 1, 2, 4, 8, … too: the average of
    one minibatch misses directions of the others, and where it does the inverse knows its damping alone.

    Examples
    --------
    >>> [batches + 1 for batches in range(50) if is_due(batches, 20, True)]
    [1, 2, 4, 8, 16, 21, 41]
    """
    number = batches + 1
    return batches % period == 0 or (early and batches < period and number & (number - 1) == 0)


def copied(factors: Factors) -> Factors:
    """Return factors with arrays of their own."""
    inputs, outputs = (tuple(m.copy() for m in side) for side in (factors.inputs, factors.outputs))
    return factors._replace(inputs=inputs, outputs=outputs)


def _absorb_signals(matrix: Array, signal: Array, old: float) -> None:
    _absorb(matrix[:-1, :-1], signal, old)
    matrix[-1, :-1] *= old
    matrix[-1, :-1] += (1.0 - old) * np.mean(signal, axis=0)
    matrix[:-1, -1] = matrix[-1, :-1]
    matrix[-1, -1] = 1.0


def _absorb(matrix: Array, rows: Array, old: float) -> None:
    (square,) = room("layer", rows.dtype, matrix.shape)
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


def of_factors(factors: Factors, make: Callable[[int, Array, str], Made]) -> tuple[tuple[Made, Made], ...]:
    """Return what is made of A_i and of G_i, a pair for each layer; `make` is given a number, a factor and its name."""
    layers = range(1, len(factors.inputs) + 1)
    names = *(f"inputs of layer {i}" for i in layers), *(f"outputs of layer {i}" for i in layers)
    matrices = *factors.inputs, *factors.outputs
    tasks = [partial(make, k, *pair) for k, pair in enumerate(zip(matrices, names, strict=True))]
    costs = [float(len(matrix)) ** 3 for matrix in matrices]
    made = each(tasks, members(sum(costs)), costs)
    return tuple(zip(made[: len(layers)], made[len(layers) :], strict=True))


def by_layers(
    net: Network, gradient: Array, out: Array | None, layer: Callable[[int, Array, Array], None]
) -> Array:
    """Return `out`, or a new array (P,), after `layer(i, D_i, part)` has written each layer's part; i from 0."""
    out = np.empty_like(gradient) if out is None else out
    pairs = list(zip(net.blocks(gradient), net.blocks(out), strict=True))
    costs = [2.0 * block.size * sum(block.shape) for block, _ in pairs]
    each([partial(layer, i, *pair) for i, pair in enumerate(pairs)], members(sum(costs)), costs)
    return out


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
    SingularFactorError
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
            kind=SingularFactorError,
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
