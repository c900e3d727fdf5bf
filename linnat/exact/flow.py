"""Where is a network at time t of the natural gradient flow? Closed forms for the total weight and the layers.

Statements C1–C4, X4, and X10 for biases. Flows move along −u, u the natural gradient; time t is the flow's
own, the excess loss falls like e^{-2t}. Arrays have the time axis just before the matrix axes, (…, T, n_i,
n_{i-1}), one column wider with biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from linnat._checks import (
    Array,
    ConditionError,
    FlowBreakdownError,
    as_choice,
    as_float_array,
    as_scalar,
    as_times,
    check_broadcast,
    fail,
    representable,
)
from linnat.exact.breakdown import (
    Frequency,
    break_probability,
    breakdown_time,
    expected_breaks,
    first_break,
    line_break,
    require_onto,
)
from linnat.exact.network import LinearNetwork, as_network
from linnat.exact.ratio import analyse, as_pair, square_chain
from linnat.exact.roots import move_layers
from linnat.exact.task import Task
from linnat.linalg.kernels import frobenius

__all__ = [
    "Frequency",
    "balance",
    "break_probability",
    "breakdown_time",
    "expected_breaks",
    "fisher_length",
    "natural_loss",
    "natural_total",
    "natural_weights",
    "time_to",
]


@representable("net, task")
def natural_total(net: LinearNetwork, task: Task, times: Any, gauge: str = "layerwise") -> Array:
    """Return the total weight under natural gradient flow (C1).

    Parameters
    ----------
    net : LinearNetwork
        The start.
    task : Task
    times : array (T,) or float
    gauge : "layerwise" or "minimum-norm"
        The total weight follows the same line in both; they differ in how long.

    Returns
    -------
    array (…, T, n_L, n_0)
        W* + e^{-t} (W(0) − W*) on the range of S, W(0) on its null space: there no gauge-independent answer
        exists. One column wider with biases.

    Raises
    ------
    FlowBreakdownError
        Past the time at which the line loses rank, in the layerwise gauge through a layer that is just wide
        enough (C3) and in the minimum-norm gauge from a balanced start.
    ConditionError
        Where (J) fails at the start (X2).

    Notes
    -----
    2 T n_L n_0 flops, and an eigendecomposition for the breakdown time. In the minimum-norm gauge from an
    unbalanced start (J) can fail only where W(t) S^½ loses rank, and need not fail there (X3); that is not
    checked. Source: Bernacchia, Lengyel, Hennequin 2018.

    Examples
    --------
    >>> natural_total(LinearNetwork([[[1.0]], [[1.0]]]), Task([[3.0]]), [0.0, np.log(2)])
    array([[[1.]],
    <BLANKLINE>
           [[2.]]])
    """
    network, problem, moments = *as_pair(net, task), as_times(times)
    as_choice(gauge, "gauge", ("layerwise", "minimum-norm"))
    _require_before(_end_of_line(network, problem, gauge), moments)
    total = network.total.astype(np.float64)
    error = problem.goal(network.has_biases) - total
    step = _on_range(error, problem, network.has_biases)
    path = total[..., None, :, :] - np.expm1(-moments)[:, None, None] * step[..., None, :, :]
    return cast(Array, path.astype(network.dtype))


@representable("net, task")
def natural_loss(net: LinearNetwork, task: Task, times: Any, gauge: str = "layerwise") -> Array:
    """Return the excess loss under natural gradient flow, e^{-2t} ℓ_0 (C1).

    Parameters
    ----------
    net, task, times, gauge
        As in `natural_total`, which says what is raised.

    Returns
    -------
    array (…, T)

    Examples
    --------
    >>> natural_loss(LinearNetwork([[[1.0]]]), Task([[3.0]]), 0.0)
    array([2.])
    """
    network, problem, moments = *as_pair(net, task), as_times(times)
    as_choice(gauge, "gauge", ("layerwise", "minimum-norm"))
    _require_before(_end_of_line(network, problem, gauge), moments)
    loss = _excess(network, problem)[..., None] * np.exp(-2 * moments)
    return cast(Array, loss.astype(network.dtype))


@representable("net, task")
def natural_weights(
    net: LinearNetwork, task: Task, times: Any, *, rtol: float | None = None
) -> tuple[Array, ...]:
    """Return every layer under natural gradient flow in the layerwise gauge (C2).

    Parameters
    ----------
    net : LinearNetwork
        The start: square invertible layers (any for one layer).
    task : Task
        With S > 0.
    times : array (T,) or float
    rtol : float, optional
        Singular values of W* below rtol times the largest count as 0; n eps by default.

    Returns
    -------
    tuple over layers of arrays (…, T, n, n)
        W_i(t) = A_{i+1}(0) G(t)^{1/L} A_i(0)⁻¹, G(t) = W(0)⁻¹ W(t), principal power; [W_i b_i] with biases.

    Raises
    ------
    FlowBreakdownError
        At and past `breakdown_time`.
    ConditionError
        For layers that are not square and invertible, S that is singular, and where W* has a defective
        eigenvalue 0 relative to W(0) and the weights, which diverge, overflow.

    Notes
    -----
    One factorisation of W(0)⁻¹ W* serves all times; 2 T L n³ flops beyond it. Computed as W_i(0) plus a
    correction: exact at t = 0, relative to the correction for small t. Errors grow with the condition of
    the product W(0), not only of single layers: two layers of condition 1e4 left 11 digits, four of them 3.
    Source: new.

    Examples
    --------
    >>> natural_weights(LinearNetwork([[[1.0]], [[1.0]]]), Task([[7.0]]), np.log(2))[0]
    array([[[2.]]])
    """
    network, problem, moments = *as_pair(net, task), as_times(times)
    if rtol is not None:
        as_scalar(rtol, "rtol", low=0.0)
    if network.depth == 1:
        return (natural_total(network, problem, moments),)
    chain = square_chain(network, problem, "C2")
    ratio = analyse(chain, rtol)
    _require_before(first_break(ratio), moments)
    layers = move_layers(chain, ratio, -np.expm1(-moments), -moments)
    if ratio.defective.any() and not all(np.isfinite(layer).all() for layer in layers):
        raise ConditionError(
            "times: the weights overflow, because W(0)⁻¹ W* has a defective eigenvalue 0 "
            "(C2: W → W* while the weights diverge). "
            "Ask for smaller times."
        )
    rows = network.widths[0]
    return tuple(layer[..., :rows, :].astype(network.dtype, copy=False) for layer in layers)


@representable("net")
def balance(net: LinearNetwork) -> tuple[Array, ...]:
    """Return what gradient flow and minimum-norm natural flow conserve (C4).

    Parameters
    ----------
    net : LinearNetwork

    Returns
    -------
    tuple of L − 1 arrays (…, n_i, n_i)
        W_{i+1}ᵀ W_{i+1} − W_i W_iᵀ, minus b_i b_iᵀ with biases.

    Notes
    -----
    Conserved by every flow with velocity in range Jᵀ; not by the layerwise gauge. 4 n³ flops per layer.
    Source: new.

    Examples
    --------
    >>> balance(LinearNetwork([[[1.0]], [[2.0]]]))[0]
    array([[3.]])
    """
    network = as_network(net)
    return _differences(network.layers, network.weights)


@representable("net, task")
def fisher_length(net: LinearNetwork, task: Task) -> Array:
    """Return the Fisher length √(2 ℓ_0) of the whole path to the optimum, ℓ_0 the excess loss (C1).

    Parameters
    ----------
    net : LinearNetwork
    task : Task

    Returns
    -------
    array (…)
        ‖Π^½ (W* − W) S^½‖, the Fisher–Rao distance; independent of depth, width, conditioning.

    Raises
    ------
    ConditionError
        Where (J) fails (X2).

    Examples
    --------
    >>> fisher_length(LinearNetwork([[[1.0]]]), Task([[3.0]]))
    array(2.)
    """
    network, problem = as_pair(net, task)
    require_onto(network, problem)
    return frobenius(_whitened_error(network, problem)).astype(network.dtype, copy=False)


def time_to(excess: Any, eps: Any) -> Array:
    """Return the time after which natural flow has brought an excess loss down to eps (C1).

    Parameters
    ----------
    excess : array (…)
        Excess loss at the start, ≥ 0.
    eps : array (…)
        Excess loss at the end, > 0.

    Returns
    -------
    array (…)
        ½ log(excess / eps), 0 where eps is reached at the start.

    Examples
    --------
    >>> float(time_to(1.0, np.exp(-6.0)))
    3.0
    """
    start, end = as_float_array(excess, "excess"), as_float_array(eps, "eps")
    if (start < 0).any():
        fail("excess", "an excess loss ≥ 0", float(start.min()))
    if (end <= 0).any():
        fail("eps", "an excess loss > 0", float(end.min()))
    check_broadcast([start.shape, end.shape], "excess, eps")
    # A difference of logarithms: the quotient may overflow.
    return np.asarray(0.5 * (np.log(np.maximum(start, end)) - np.log(end)))


def _excess(net: LinearNetwork, task: Task) -> Array:
    return np.asarray(0.5 * frobenius(_whitened_error(net, task)) ** 2)


def _whitened_error(net: LinearNetwork, task: Task) -> Array:
    moments = task.moments(net.has_biases)
    return task.whiten(moments.target - net.total.astype(np.float64) @ moments.factor)


def _on_range(error: Array, task: Task, biases: bool) -> Array:
    """Return E P with P the projector on the range of S (of E[x̂ x̂ᵀ] with biases)."""
    factor, _, rank, _ = task.moments(biases)
    ranks = np.asarray(rank)
    if (ranks == factor.shape[-2]).all():
        return error
    left = np.linalg.svd(factor, full_matrices=False)[0]
    left = left * (np.arange(left.shape[-1]) < ranks[..., None])[..., None, :]
    return cast(Array, (error @ left) @ np.swapaxes(left, -1, -2))


def _end_of_line(net: LinearNetwork, task: Task, gauge: str) -> Array:
    if gauge == "layerwise" or net.depth == 1:
        return breakdown_time(net, task)
    require_onto(net, task)
    if _is_balanced(net):
        return line_break(net, task, narrow=True)
    return np.asarray(np.inf)


def _is_balanced(net: LinearNetwork) -> bool:
    cut = 16 * max(net.widths) * float(np.finfo(net.dtype).eps)
    scale = max(float(np.abs(layer).max()) for layer in net.layers)
    if not scale:
        return True
    # All layers divided by one number, so that no square leaves the range of the dtype.
    layers, size = [layer.astype(np.float64) / scale for layer in net.layers], net.widths
    scaled = [layer[..., : size[i]] for i, layer in enumerate(layers)]
    return all(float(np.abs(c).max()) <= cut for c in _differences(layers, scaled))


def _differences(layers: Sequence[Array], weights: Sequence[Array]) -> tuple[Array, ...]:
    """Return W_{i+1}ᵀ W_{i+1} − [W_i b_i][W_i b_i]ᵀ."""
    pairs = zip(weights[1:], layers[:-1], strict=True)
    return tuple(np.swapaxes(w, -1, -2) @ w - m @ np.swapaxes(m, -1, -2) for w, m in pairs)


def _require_before(end: Array, times: Array) -> None:
    earliest = float(np.min(end))
    if times.max() >= earliest:
        raise FlowBreakdownError(
            f"times: the flow meets a singular matrix at t = {earliest:.6g} (C3), asked for t = {times.max():.6g}. "
            "Layerwise flow with "
            "every hidden layer wider than min(n_L, rank S) generically passes.",
            earliest,
        )
