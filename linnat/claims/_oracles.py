"""By which other routes are closed forms checked? Polynomials, least squares, integrators: from the definitions only.

The total weight and the loss are polynomials in the parameters, so their derivatives along a line are Cauchy integrals
over roots of unity, exact up to rounding, without a formula for any derivative. Everything here starts from the
weights, the factor of S and the noise; nothing is taken from the closed forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
from scipy.integrate import solve_ivp

from linnat._checks import Array
from linnat.claims._core import Case
from linnat.exact.network import Direction, LinearNetwork, flatten, unflatten
from linnat.exact.task import Task

# A dense Jacobian with more entries, or a factorisation with more flops, is left to matrix-free oracles.
MAX_ENTRIES = 6_000_000
MAX_FLOPS = 8e9


class Solution(NamedTuple):
    """The minimum-norm least-squares solution, its image, and what the singular values say.

    Attributes
    ----------
    vector : array (P,)
    image : array (m,)
        The orthogonal projection of the right-hand side on the range.
    rank : int
    condition : float
        Largest over smallest kept singular value.
    right : array (rank, P)
        Orthonormal basis of the row space.
    """

    vector: Array
    image: Array
    rank: int
    condition: float
    right: Array


def whitened(net: LinearNetwork, task: Task, layers: Sequence[Array]) -> Array:
    """Return C⁻¹ W F (…, n_L, ρ) for layers that may be complex and stacked; with biases C⁻¹ [W c] F̂."""
    signal: Array = task.moments(net.has_biases).factor
    for layer in layers:
        if net.has_biases:
            last = np.broadcast_to(
                signal[..., -1:, :],
                (*np.broadcast_shapes(signal.shape[:-2], layer.shape[:-2]), 1, signal.shape[-1]),
            )
            signal = np.concatenate([layer @ signal, last], axis=-2)
        else:
            signal = layer @ signal
    return _whiten(task, signal[..., : net.widths[-1], :])


def residual(net: LinearNetwork, task: Task) -> Array:
    """Return Ẽ = C⁻¹ (W* − W) F, (n_L, ρ)."""
    return _whiten(task, task.moments(net.has_biases).target) - whitened(net, task, net.layers)


def push(net: LinearNetwork, task: Task, direction: Sequence[Array]) -> Array:
    """Return J δ, the whitened first-order change of the total weight along a direction, by a complex step."""
    size = max(float(np.abs(d).max()) for d in direction)
    if size == 0:
        return np.zeros_like(residual(net, task))
    step = 1e-30 / size
    moved = [w + 1j * step * d for w, d in zip(net.layers, direction, strict=True)]
    return cast(Array, whitened(net, task, moved).imag / step)


def pull(net: LinearNetwork, task: Task, matrix: Array) -> Direction:
    """Return Jᵀ M, layer by layer: the adjoint of `push`, by back-propagation through plain products."""
    factor = task.moments(net.has_biases).factor
    whole = np.linalg.cholesky(task.noise_cov)
    pairs = zip(net.after, net.before, strict=True)
    return tuple(np.linalg.solve(whole, b).T @ matrix @ (a @ factor).T for b, a in pairs)


def sides(net: LinearNetwork, task: Task) -> list[float]:
    """Return ‖B̃_i‖ ‖Ã_i‖ for each layer: the norms of the blocks of J."""
    factor = task.moments(net.has_biases).factor
    whole = np.linalg.cholesky(task.noise_cov)
    pairs = zip(net.after, net.before, strict=True)
    return [
        float(np.linalg.norm(np.linalg.solve(whole, b), 2) * np.linalg.norm(a @ factor, 2)) for b, a in pairs
    ]


def one_layer(net: LinearNetwork, direction: Sequence[Array], i: int) -> Direction:
    """Return the direction with every layer but the i-th (from 0) set to zero."""
    return tuple(d if j == i else np.zeros_like(d) for j, d in enumerate(direction))


def null_direction(case: Case, i: int) -> Direction:
    """Return a direction that leaves the total weight unchanged: (X W_i, −W_{i+1} X) at hidden layer i (from 1).

    With biases the layers below are M_i, and X acts on the hidden units alone.
    """
    net = case.net
    size = net.widths[i]
    x = case.rng.standard_normal((size, size))
    steps = [np.zeros_like(layer) for layer in net.layers]
    steps[i - 1] = x @ net.layers[i - 1]
    steps[i][:, :size] = -net.weights[i] @ x
    return tuple(steps)


def n_rows(net: LinearNetwork, task: Task) -> int:
    """Return n_L ρ, the number of rows of the Jacobian."""
    return net.widths[-1] * int(task.moments(net.has_biases).factor.shape[-1])


def affordable(net: LinearNetwork, task: Task) -> bool:
    """Whether the dense Jacobian and its singular value decomposition fit the time that a claim may take."""
    rows, columns = n_rows(net, task), net.n_parameters
    return rows * columns <= MAX_ENTRIES and 6.0 * rows * columns * min(rows, columns) <= MAX_FLOPS


@lru_cache(maxsize=4)
def jacobian(net: LinearNetwork, task: Task) -> Array:
    """Return the dense J (n_L ρ, P), column-stacked rows, parameters as `flatten` orders them, by complex steps."""
    columns = []
    for i, layer in enumerate(net.layers):
        entries = layer.size
        for start in range(0, entries, 256):
            index = np.arange(start, min(start + 256, entries))
            steps = np.zeros((len(index), entries), np.complex128)
            steps[np.arange(len(index)), index] = 1e-30j
            steps = np.swapaxes(steps.reshape(-1, layer.shape[1], layer.shape[0]), -1, -2)
            moved = [layer + steps if j == i else w for j, w in enumerate(net.layers)]
            image = whitened(net, task, moved).imag / 1e-30
            columns.append(np.swapaxes(image, -1, -2).reshape(len(index), -1))
    return np.concatenate(columns).T


def least_squares(matrix: Array, right: Array, rtol: float | None = None) -> Solution:
    """Solve by a singular value decomposition with an explicit rank."""
    left, values, rows = np.linalg.svd(matrix, full_matrices=False)
    cut = max(matrix.shape) * float(np.finfo(np.float64).eps) if rtol is None else rtol
    rank = int((values > cut * values[0]).sum()) if values.size else 0
    left, values, rows = left[:, :rank], values[:rank], rows[:rank]
    inside = left.T @ right
    condition = float(values[0] / values[-1]) if rank else 1.0
    return Solution(rows.T @ (inside / values), left @ inside, rank, condition, rows)


@lru_cache(maxsize=4)
def minimum_norm(net: LinearNetwork, task: Task) -> Solution:
    """Return the minimum-norm least-squares solution of J v = vec Ẽ (v descends)."""
    return least_squares(jacobian(net, task), stack(residual(net, task)))


def stack(matrix: Array) -> Array:
    """Stack columns."""
    return matrix.T.reshape(-1)


class Expansion(NamedTuple):
    """Taylor coefficients of a polynomial along a line, and how far rounding may reach.

    Attributes
    ----------
    coefficients : array (degree + 1, …)
    peak : float
        Largest modulus on the circle.
    radius : float
        Of the circle: the k-th coefficient carries an error of about eps · peak / radius^k.
    """

    coefficients: Array
    peak: float
    radius: float


def along(
    case: Case, direction: Sequence[Array], function: Callable[[list[Array]], Array], degree: int
) -> Expansion:
    """Expand z ↦ function(layers + z δ), a polynomial of the given degree, by Cauchy's integral."""
    # At 1/L of the weights' own size a polynomial of degree 2L has grown by e² at most: little cancellation.
    radius = 1.0 / (case.net.depth * _relative_length(case.net, direction))
    count = degree + 1
    nodes = np.exp(2j * np.pi * np.arange(count) / count)
    values = np.array(
        [
            function([w + radius * z * d for w, d in zip(case.net.layers, direction, strict=True)])
            for z in nodes
        ]
    )
    powers = radius ** np.arange(count).reshape(-1, *[1] * (values.ndim - 1))
    coefficients = (np.fft.fft(values, axis=0) / count).real / powers
    return Expansion(coefficients, float(np.abs(values).max()), radius)


def loss_of(case: Case) -> Callable[[list[Array]], Array]:
    """Return the loss as a function of (complex) layers: from the data rows if there are any, else from moments."""
    net, task = case.net, case.task
    if case.samples is None:
        moments = task.moments(net.has_biases)
        target, rest = _whiten(task, moments.target), _whiten(task, moments.residual)
        return lambda layers: 0.5 * (((target - whitened(net, task, layers)) ** 2).sum() + (rest**2).sum())
    x, y = case.samples
    rows = np.asarray(x, np.float64).T
    goal = np.asarray(y, np.float64).T

    def mean_loss(layers: list[Array]) -> Array:
        signal: Array = rows
        for layer in layers:
            signal = layer @ signal if not net.has_biases else layer[:, :-1] @ signal + layer[:, -1:]
        return np.asarray(0.5 * (_whiten(task, goal - signal) ** 2).sum() / rows.shape[1])

    return mean_loss


def random_direction(case: Case) -> Direction:
    """Draw a direction whose layers have the norms of the network's."""
    lengths = _lengths(case.net)
    draws = [np.asarray(case.rng.standard_normal(layer.shape)) for layer in case.net.layers]
    return tuple(
        draw * (length / float(np.linalg.norm(draw))) for draw, length in zip(draws, lengths, strict=True)
    )


def coordinates(case: Case, limit: int = 24) -> list[Direction]:
    """Return every coordinate direction of a small network, a few random directions of a large one."""
    count = case.net.n_parameters
    if count <= limit:
        return [unflatten(row, case.net) for row in np.eye(count)]
    return [random_direction(case) for _ in range(6)]


def integrate(
    velocity: Callable[[LinearNetwork], Sequence[Array]],
    net: LinearNetwork,
    times: Array,
    rtol: float = 1e-10,
) -> list[LinearNetwork]:
    """Integrate dθ/dt = velocity(θ) from a network by DOP853 and return the networks at the given times."""

    def rate(_: float, theta: Array) -> Array:
        return flatten(velocity(net.replace_layers(unflatten(theta, net))))

    start = flatten(net.layers)
    scale = rtol * max(float(np.abs(start).max()), 1e-300)
    run = solve_ivp(rate, (0.0, float(times[-1])), start, "DOP853", t_eval=times, rtol=rtol, atol=scale)
    if not run.success:
        raise ArithmeticError(f"the integrator stopped: {run.message}")
    return [net.replace_layers(unflatten(column, net)) for column in run.y.T]


def inner(first: Sequence[Array], second: Sequence[Array]) -> float:
    """Return Σ_i ⟨a_i, b_i⟩."""
    return float(sum(np.vdot(a, b) for a, b in zip(first, second, strict=True)))


def norm(direction: Sequence[Array]) -> float:
    """Return the Frobenius norm over all layers."""
    return float(np.sqrt(sum(np.linalg.norm(d) ** 2 for d in direction)))


def _lengths(net: LinearNetwork) -> list[float]:
    """Return the norms of the layers, with zero layers counted as typical ones."""
    lengths = [float(np.linalg.norm(layer)) for layer in net.layers]
    typical = norm(net.layers) / np.sqrt(net.depth) or 1.0
    return [length if length > 1e-8 * typical else typical for length in lengths]


def _relative_length(net: LinearNetwork, direction: Sequence[Array]) -> float:
    pairs = zip(direction, _lengths(net), strict=True)
    return max(float(np.linalg.norm(d)) / length for d, length in pairs) or 1.0


def _whiten(task: Task, matrix: Array) -> Array:
    if task.white_noise:
        return matrix
    factor: Any = np.linalg.cholesky(task.noise_cov)
    return cast(Array, np.linalg.solve(factor, matrix))
