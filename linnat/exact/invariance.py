"""How far is natural gradient from being independent of the parametrisation? Statement C10.

Networks that compute the same function, in other hidden coordinates (W_i → C_iW_iC_{i−1}⁻¹), of another depth, or with
weights that are functions of other numbers (θ = sinh ξ), follow one path of the total weight under the natural *flow*
of the population metric. Finite steps, damping and minibatches part them; each function here is the leading term:

* step η: W⁺ = W + η dW + η² D(v) + …, D(v) = Σ_{i<j} B_j v_j (W_{j−1}⋯W_{i+1}) v_i A_i (`second_order`), plus
  ½ Σ_i B_i (h''/h'² ∘ v_i²) A_i for θ = h(ξ) (`coordinate_deviation`); square layers in the layerwise gauge:
  D = (L−1)/(2L) E W⁻¹ E, and after a time t in steps of η, networks of depths L and M differ by
  ½ (1/M − 1/L) η E(t) log(W(0)⁻¹W(t)) (`depth_deviation`, `depth_drift`);
* damping λ: dW − λ (JJᵀ)⁻¹E + O(λ²) (`damping_deviation`);
* minibatches of b, metric of the population: the mean of D has a part in 1/b that stays at the optimum
  (`minibatch_deviation`).

The empirical Fisher is a tensor too: its flow, though another one, is as independent while there are n_L n_0 samples
or more; with fewer, as with the true Fisher of fewer than n_0 inputs, null directions are the gauge's to fill.
With biases nothing changes but the notation (X10); these functions leave them out. Source: new, Martens 2014 for the
loss of invariance at finite steps in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.linalg import logm

from linnat._checks import (
    Array,
    ConditionError,
    FlowBreakdownError,
    as_count,
    as_matrix,
    as_times,
    check_broadcast,
    fail,
    representable,
)
from linnat.exact.conditions import is_onto
from linnat.exact.network import LinearNetwork, as_direction, as_network
from linnat.exact.task import Task, as_task
from linnat.linalg.memory import refuse_beyond_memory

__all__ = [
    "change_coordinates",
    "coordinate_deviation",
    "damping_deviation",
    "depth_deviation",
    "depth_drift",
    "minibatch_deviation",
    "second_order",
]


@representable("net, changes")
def change_coordinates(net: LinearNetwork, changes: Sequence[Any]) -> LinearNetwork:
    """Return the same function in other hidden coordinates, W_i → C_i W_i C_{i−1}⁻¹ (C_0 = C_L = I).

    Parameters
    ----------
    net : LinearNetwork
        Without biases.
    changes : sequence of L − 1 arrays (…, n_i, n_i)
        C_1 … C_{L−1}, invertible.

    Returns
    -------
    LinearNetwork

    Raises
    ------
    InputError
        For singular C_i or the wrong shapes.

    Examples
    --------
    >>> net = LinearNetwork([[[1.0]], [[6.0]]])
    >>> [float(w[0, 0]) for w in change_coordinates(net, [[[2.0]]]).weights]
    [2.0, 3.0]
    """
    weights = list(_plain(net).weights)
    if (
        isinstance(changes, np.ndarray)
        or not isinstance(changes, Sequence)
        or len(changes) != len(weights) - 1
    ):
        fail("changes", f"a sequence of {len(weights) - 1} matrices", type(changes).__name__)
    for i, value in enumerate(changes):
        matrix, width = as_matrix(value, f"changes[{i}]"), net.widths[i + 1]
        if matrix.shape[-2:] != (width, width):
            fail(f"changes[{i}]", f"shape (…, {width}, {width})", f"shape {matrix.shape}")
        weights[i] = matrix @ weights[i]
        weights[i + 1] = _solve_right(weights[i + 1], matrix, f"changes[{i}]")
    return LinearNetwork(weights)


@representable("net, direction")
def second_order(net: LinearNetwork, direction: Sequence[Any]) -> Array:
    """Return D(v) = Σ_{i<j} B_j v_j (W_{j−1}⋯W_{i+1}) v_i A_i: the coefficient of η² in the total weight of θ + ηv.

    Parameters
    ----------
    net : LinearNetwork
        Without biases.
    direction : sequence of arrays (…, n_i, n_{i−1})
        v, or −v: D is even.

    Returns
    -------
    array (…, n_L, n_0)

    Notes
    -----
    Three products per layer, O(L n³).

    Examples
    --------
    >>> second_order(LinearNetwork([[[2.0]], [[3.0]]]), [np.array([[5.0]]), np.array([[7.0]])])
    array([[35.]])
    """
    network = _plain(net)
    pieces = as_direction(direction, network)
    signal, moved, bent = network.weights[0], pieces[0], np.zeros_like(pieces[0])
    for weight, piece in zip(network.weights[1:], pieces[1:], strict=True):
        bent = weight @ bent + piece @ moved
        moved = weight @ moved + piece @ signal
        signal = weight @ signal
    return np.asarray(bent)


@representable("net, direction, curvature")
def coordinate_deviation(net: LinearNetwork, direction: Sequence[Any], curvature: Sequence[Any]) -> Array:
    """Return ½ Σ_i B_i (h''/h'² ∘ v_i ∘ v_i) A_i: what θ = h(ξ) adds to the coefficient of η².

    Parameters
    ----------
    net : LinearNetwork
        Without biases.
    direction : sequence of arrays (…, n_i, n_{i−1})
        v in the weights θ, or −v.
    curvature : sequence of arrays (…, n_i, n_{i−1})
        h''(ξ)/h'(ξ)² of every weight: θ/(1 + θ²) for sinh, 1/θ for exp.

    Returns
    -------
    array (…, n_L, n_0)

    Examples
    --------
    >>> net = LinearNetwork([[[2.0]]])
    >>> coordinate_deviation(net, [np.array([[3.0]])], [np.array([[0.5]])])
    array([[2.25]])
    """
    network = _plain(net)
    pieces, bends = as_direction(direction, network), as_direction(curvature, network, "curvature")
    signal, bent = network.weights[0], 0.5 * bends[0] * pieces[0] ** 2
    for weight, piece, bend in zip(network.weights[1:], pieces[1:], bends[1:], strict=True):
        bent = weight @ bent + (0.5 * bend * piece**2) @ signal
        signal = weight @ signal
    return np.asarray(bent)


@representable("start, teacher")
def depth_deviation(start: Any, teacher: Any, depth: int, other: int = 1) -> Array:
    """Return ½ (1/other − 1/depth) E W⁻¹ E: by how much one step parts networks of two depths, over η².

    Parameters
    ----------
    start, teacher : arrays (…, n, n)
        W, invertible, and W*.
    depth, other : int
        Numbers of square invertible layers; the layerwise gauge.

    Returns
    -------
    array (…, n, n)
        (W⁺ of `depth` layers − W⁺ of `other` layers)/η² + O(η).

    Examples
    --------
    >>> depth_deviation([[2.0]], [[6.0]], 2)
    array([[2.]])
    """
    weight, error = _square_pair(start, teacher)
    deviation = _coefficient(depth, other) * error @ _left_solve(weight, error)
    return np.asarray(deviation.astype(_dtype(start, teacher), copy=False))


@representable("start, teacher")
def depth_drift(start: Any, teacher: Any, times: Any, depth: int, other: int = 1) -> Array:
    """Return ½ (1/other − 1/depth) E(t) log(W(0)⁻¹W(t)): by how much steps of η have parted two depths, over η.

    Parameters
    ----------
    start, teacher : arrays (…, n, n)
        W(0), invertible, and W*.
    times : array (T,) or float
        t = kη after k steps.
    depth, other : int
        Numbers of square invertible layers; the layerwise gauge.

    Returns
    -------
    array (…, T, n, n)
        (W_k of `depth` layers − W_k of `other` layers)/η + O(η), principal logarithm. It vanishes like t e^{−t}.

    Raises
    ------
    FlowBreakdownError
        Past the time at which the flow meets a singular W (C3).

    Notes
    -----
    It solves δ' = −δ + ½ (1/other − 1/depth) E W⁻¹ E along the flow. One matrix logarithm for each time.

    Examples
    --------
    >>> depth_drift([[1.0]], [[3.0]], np.log(2.0), 2).round(6)
    array([[[0.173287]]])
    """
    weight, error = _square_pair(start, teacher)
    factor, moments = _coefficient(depth, other), as_times(times)
    batch, size = weight.shape[:-2], weight.shape[-1]
    ratio = _left_solve(weight, error)
    shares = -np.expm1(-moments)[:, None, None]
    along = np.eye(size) + shares * ratio[..., None, :, :]
    values = np.linalg.eigvals(along)
    real = np.abs(values.imag) <= 16 * size * np.finfo(np.float64).eps * np.abs(values).max(initial=1.0)
    if (real & (values.real <= 0)).any():
        mu = np.linalg.eigvals(ratio)
        mu = mu[np.abs(mu.imag) <= 1e-12 * np.abs(mu).max()].real
        time = float(np.log1p(1 / np.max(-1 - mu[mu < -1])))
        message = f"times: the flow meets a singular W at t = {time:.6g} (C3). Ask for earlier times."
        raise FlowBreakdownError(message, time)
    logs = np.stack([np.real(logm(g)) for g in along.reshape(-1, size, size)]).reshape(*batch, -1, size, size)
    drift = factor * np.exp(-moments)[:, None, None] * (error[..., None, :, :] @ logs)
    return np.asarray(drift.astype(_dtype(start, teacher), copy=False))


@representable("net, task")
def damping_deviation(net: LinearNetwork, task: Task) -> Array:
    """Return X = (JJᵀ)⁻¹ applied to the error: damping λ turns dW = E into E − λX + O(λ²).

    Parameters
    ----------
    net : LinearNetwork
        Without biases.
    task : Task
        With S > 0.

    Returns
    -------
    array (…, n_L, n_0)
        X with Σ_j B̃_jB̃_jᵀ X̃ Ã_jᵀÃ_j = Ẽ, X̃ = Π^½ X S^½.

    Raises
    ------
    ConditionError
        Where (J) fails or S is singular.
    InputError
        Where JJᵀ, n_L n_0 in size, exceeds the stated share of memory.

    Notes
    -----
    A solve with JJᵀ, O((n_L n_0)³). It depends on the parametrisation, as the flow does not: balanced white layers
    s divide the modes by L s^{2−2/L}.

    Examples
    --------
    >>> damping_deviation(LinearNetwork([[[2.0]], [[1.0]]]), Task([[12.0]]))
    array([[2.]])
    """
    network, problem = _plain(net), as_task(task)
    factor = np.asarray(problem.input_factor)
    if factor.shape[-2] != factor.shape[-1] or not np.abs(factor).max(axis=-2).all():
        raise ConditionError(
            "task: expected S > 0, found a singular S; leave out inputs that never vary (C10)."
        )
    if not is_onto(network, problem).all():
        raise ConditionError("net: (J) fails; there is no expansion in λ around the whole error (C10, X2).")
    noise = np.linalg.cholesky(problem.noise_cov)
    count = network.widths[-1] * network.widths[0]
    check_broadcast([network.batch_shape, problem.batch_shape], "net, task")
    refuse_beyond_memory(
        "net", count**2 * max(1, int(np.prod(network.batch_shape))), 8, "Use fewer entries.", 3
    )
    gram: Any = 0.0
    for before, after in zip(network.before, network.after, strict=True):
        a, b = before.astype(np.float64) @ factor, np.linalg.solve(noise, after.astype(np.float64))
        inner, outer = np.swapaxes(a, -1, -2) @ a, b @ np.swapaxes(b, -1, -2)
        block = inner[..., :, None, :, None] * outer[..., None, :, None, :]
        gram = gram + block.reshape(*block.shape[:-4], count, count)
    error = np.linalg.solve(noise, (problem.linear_teacher - network.total) @ factor)
    vector = np.swapaxes(error, -1, -2).reshape(*error.shape[:-2], count, 1)
    solved = np.linalg.solve(gram, vector)[..., 0]
    matrix = np.swapaxes(solved.reshape(*solved.shape[:-1], network.widths[0], network.widths[-1]), -1, -2)
    return np.asarray(_solve_right(noise @ matrix, factor, "task")).astype(network.dtype, copy=False)


@representable("start, task")
def minibatch_deviation(start: Any, task: Task, batch: int, depth: int, other: int = 1) -> Array:
    """Return the mean of `depth_deviation` over minibatches, with the metric of the population.

    Parameters
    ----------
    start : array (…, n, n)
        W, invertible.
    task : Task
        With Gaussian inputs of covariance S > 0 and Gaussian noise Σ.
    batch : int
        b samples for the gradient.
    depth, other : int
        Numbers of square invertible layers; the layerwise gauge.

    Returns
    -------
    array (…, n, n)
        ½ (1/other − 1/depth) {E W⁻¹ E + (1/b) [(Σ + E S Eᵀ) W⁻ᵀ S⁻¹ + tr(W⁻¹E) E]}: of the difference of the means
        after one step, over η², up to O(η). At the optimum Σ W⁻ᵀ S⁻¹/b is left.

    Raises
    ------
    ConditionError
        Where S is singular.

    Notes
    -----
    Isserlis' theorem for the four Gaussian factors. Five solves.

    Examples
    --------
    >>> minibatch_deviation([[2.0]], Task([[2.0]]), batch=4, depth=2)
    array([[0.03125]])
    """
    problem, size = as_task(task), as_count(batch, "batch")
    weight, error = _square_pair(start, problem.linear_teacher)
    if (np.asarray(problem.rank) < weight.shape[-1]).any():
        raise ConditionError(
            "task: expected S > 0, found a singular S; leave out inputs that never vary (C10)."
        )
    ratio = _left_solve(weight, error)
    spread = problem.noise_cov + error @ problem.input_cov @ np.swapaxes(error, -1, -2)
    noisy = _solve_right(
        _solve_right(spread, np.swapaxes(weight, -1, -2), "start"), problem.input_cov, "task"
    )
    trace = np.trace(ratio, axis1=-2, axis2=-1)[..., None, None]
    deviation = _coefficient(depth, other) * (error @ ratio + (noisy + trace * error) / size)
    return np.asarray(deviation.astype(_dtype(start), copy=False))


def _coefficient(depth: int, other: int) -> float:
    return 0.5 * (1 / as_count(other, "other") - 1 / as_count(depth, "depth"))


def _dtype(*values: Any) -> np.dtype[Any]:
    """Return float32 where all arguments are, float64 otherwise."""
    single = all(np.asarray(value).dtype == np.float32 for value in values)
    return np.dtype(np.float32 if single else np.float64)


def _plain(net: LinearNetwork) -> LinearNetwork:
    network = as_network(net)
    if network.has_biases:
        raise ConditionError("net: expected a network without biases; they change the notation only (X10).")
    return network


def _square_pair(start: Any, teacher: Any) -> tuple[Array, Array]:
    """Return W and E = W* − W for square W."""
    weight, goal = (
        as_matrix(start, "start").astype(np.float64),
        as_matrix(teacher, "teacher").astype(np.float64),
    )
    if weight.shape[-1] != weight.shape[-2]:
        fail("start", "a square matrix", f"shape {weight.shape}", "For other shapes use second_order.")
    if goal.shape[-2:] != weight.shape[-2:]:
        fail("teacher", f"shape (…, {weight.shape[-2]}, {weight.shape[-1]})", f"shape {goal.shape}")
    batch = check_broadcast([weight.shape[:-2], goal.shape[:-2]], "start, teacher")
    return np.broadcast_to(weight, (*batch, *weight.shape[-2:])), goal - weight


def _left_solve(weight: Array, right: Array) -> Array:
    try:
        return np.linalg.solve(weight, np.broadcast_to(right, weight.shape))
    except np.linalg.LinAlgError:
        fail("start", "an invertible matrix", "a singular one")


def _solve_right(matrix: Array, right: Array, name: str) -> Array:
    """Return matrix · right⁻¹."""
    try:
        return np.swapaxes(np.linalg.solve(np.swapaxes(right, -1, -2), np.swapaxes(matrix, -1, -2)), -1, -2)
    except np.linalg.LinAlgError:
        fail(name, "an invertible matrix", "a singular one")
