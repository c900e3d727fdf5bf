"""What is the empirical Fisher matrix of a linear network, and where does its natural gradient go? Statement X6.

The empirical Fisher averages gradients over the *data's* targets in place of the model's. For Gaussian x of mean 0 and
second moment S, y = W*x + ν with ν ~ N(0, Σ_ν) independent, whitened by the model's S and Σ,

    EF = J̃ᵀ M J̃,   M D = (Σ̃_ν + ẼẼᵀ) D + Ẽ ⟨Ẽ, D⟩ + Ẽ Dᵀ Ẽ,

where the true one has M = I. K-FAC on it keeps the first term of the diagonal blocks and misses the other two. Its
natural gradient flow keeps the singular vectors of Ẽ and is slow where the error is large. All of this vanishes
with the error if the data's noise is the model's.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
from scipy.special import wrightomega

from linnat._checks import (
    Array,
    ConditionError,
    as_covariance,
    as_float_array,
    as_scalar,
    as_times,
    check_broadcast,
    fail,
    representable,
)
from linnat.exact.conditions import is_onto
from linnat.exact.natural import natural_gradient as true_natural_gradient
from linnat.exact.network import Direction, LinearNetwork
from linnat.exact.ratio import as_pair
from linnat.exact.task import Task
from linnat.linalg.kron import outer_kron
from linnat.linalg.memory import refuse_beyond_memory
from linnat.linalg.rank import default_rtol

__all__ = [
    "fisher",
    "induced_change",
    "kfac_gap",
    "mode_flow",
    "mode_rates",
    "natural_gradient",
    "natural_total",
]

MAX_NEWTON = 100


class _White(NamedTuple):
    """Ẽ (…, n_L, ρ), Σ̃_ν (…, n_L, n_L), F, C and the dtype of the results."""

    error: Array
    noise: Array
    factor: Array
    outer: Array
    dtype: Any


@representable("net, task")
def fisher(net: LinearNetwork, task: Task, target_noise: Any = None) -> Array:
    """Return the empirical Fisher matrix for Gaussian data, in closed form (X6).

    Parameters
    ----------
    net : LinearNetwork
        Without biases.
    task : Task
        Its `noise_cov` is that of the model; leading axes broadcast.
    target_noise : array (n_L, n_L), optional
        Σ_ν, the noise of the data. By default what the task knows: E[yyᵀ] − W*SW*ᵀ, which is Σ for population moments.

    Returns
    -------
    array (…, P, P)
        In the order of `linnat.flatten`.

    Raises
    ------
    ConditionError
        For biases, and for inputs with a mean: fourth moments are those of a centred Gaussian.
    InputError
        For arguments that do not fit, and before it takes more than a share of the memory.

    Notes
    -----
    For data that are not Gaussian only the second moments are right. O(P² n_L ρ) flops. Source: new, by Isserlis 1918.

    Examples
    --------
    >>> fisher(LinearNetwork([[[1.0]]]), Task([[3.0]]))
    array([[13.]])
    """
    white, jacobian = _jacobian(net, task, target_noise)
    matrix = np.swapaxes(jacobian, -1, -2) @ (_moment(white) @ jacobian)
    return cast(Array, (0.5 * (matrix + np.swapaxes(matrix, -1, -2))).astype(white.dtype))


@representable("net, task")
def kfac_gap(net: LinearNetwork, task: Task, target_noise: Any = None) -> tuple[Array, ...]:
    """Return what K-FAC on the empirical Fisher misses: its blocks minus K-FAC's, J̃_iᵀ(vec Ẽ vec Ẽᵀ + swap)J̃_i (X6).

    Parameters
    ----------
    net, task, target_noise
        As in `fisher`.

    Returns
    -------
    tuple of arrays (…, P_i, P_i)
        For every layer. K-FAC's block is A_iSA_iᵀ ⊗ B_iᵀΠ(Σ_ν + ESEᵀ)ΠB_i, from the second moments of the layer's
        inputs and of the back-propagated errors.

    Examples
    --------
    >>> kfac_gap(LinearNetwork([[[1.0]]]), Task([[3.0]]))[0]
    array([[8.]])
    """
    white, jacobian = _jacobian(net, task, target_noise)
    rest = _moment(white) - _factored(white)
    blocks = np.split(jacobian, np.cumsum([w.shape[-1] * w.shape[-2] for w in net.weights])[:-1], axis=-1)
    return tuple((np.swapaxes(b, -1, -2) @ (rest @ b)).astype(white.dtype) for b in blocks)


@representable("net, task")
def induced_change(net: LinearNetwork, task: Task, target_noise: Any = None) -> Array:
    """Return D̃ = M⁻¹Ẽ, the change of the whitened total weight under the empirical natural flow (X6).

    Parameters
    ----------
    net, task, target_noise
        As in `fisher`; Σ_ν positive definite.

    Returns
    -------
    array (…, n_L, ρ)
        In the true flow it is Ẽ.

    Raises
    ------
    ConditionError
        Where (J) fails: then the change is not M⁻¹Ẽ.

    Notes
    -----
    Where Σ̃_ν = s² I it has the singular vectors of Ẽ and d_a (1 − κ)/(s² + 2d_a²) for d_a: one SVD. Elsewhere a
    Cholesky solve with n_L ρ unknowns.

    Examples
    --------
    >>> induced_change(LinearNetwork([[[1.0]]]), Task([[3.0]])).round(12)
    array([[0.15384615]])
    """
    white = _white(net, task, target_noise)
    if not np.asarray(is_onto(net, task)).all():
        raise ConditionError(
            "net: X6's change needs (J): the layers cannot express every change of the total weight. "
            "Solve with empirical.fisher itself."
        )
    return _change(white).astype(white.dtype)


@representable("net, task")
def natural_gradient(
    net: LinearNetwork, task: Task, gauge: str = "layerwise", target_noise: Any = None
) -> Direction:
    """Return a solution u of EF u = ∇ℓ (X6).

    Parameters
    ----------
    net, task, target_noise
        As in `induced_change`, which says what is raised.
    gauge : "layerwise" or "minimum-norm"

    Returns
    -------
    tuple of arrays like `net.layers`
        An ascent direction: the true natural gradient towards the total weight that D̃ leads to.

    Notes
    -----
    That total weight is formed, so where D̃ is small it is known to eps ‖W‖/‖D‖ only.

    Examples
    --------
    >>> natural_gradient(LinearNetwork([[[1.0]]]), Task([[3.0]]))[0].round(12)
    array([[-0.15384615]])
    """
    white = _white(net, task, target_noise)
    change = induced_change(net, task, target_noise).astype(np.float64)
    near = net.total.astype(np.float64) + _unwhiten(white, change)
    towards = Task(near, task.input_cov, None if task.white_noise else task.noise_cov)
    return true_natural_gradient(net, towards, gauge)


@representable("modes")
def mode_rates(modes: Any, noise: Any = 1.0) -> Array:
    """Return −ḋ_a/d_a = (1 − κ)/(s² + 2d_a²), κ/(1 − κ) = Σ_a d_a²/(s² + 2d_a²) (X6).

    Parameters
    ----------
    modes : array (…, k)
        Singular values d_a of Ẽ, ≥ 0.
    noise : float
        s² > 0, Σ_ν = s² Σ.

    Returns
    -------
    array (…, k)
        1 in the true flow.

    Examples
    --------
    >>> mode_rates([0.0, 1.0]).round(12)
    array([0.75, 0.25])
    """
    values, scale = _modes(modes), as_scalar(noise, "noise", low=0.0, open_low=True)
    weights = 1 / (scale + 2 * values.astype(np.float64) ** 2)
    total = (values.astype(np.float64) ** 2 * weights).sum(axis=-1, keepdims=True)
    return np.asarray((weights / (1 + total)).astype(values.dtype))


@representable("modes")
def mode_flow(times: Any, modes: Any, noise: Any = 1.0) -> Array:
    """Return the singular values of Ẽ under the empirical natural flow, in closed form (X6).

    Parameters
    ----------
    times : array (T,) or float
    modes : array (…, k)
        At time 0, ≥ 0.
    noise : float
        s² > 0.

    Returns
    -------
    array (…, T, k)

    Notes
    -----
    With q_a = d_a² and a common clock σ: s² log q_a + 2 q_a = s² log q_a(0) + 2 q_a(0) − 2σ, so that q_a = (s²/2) ω(y),
    ω(y) = W(e^y) (Lambert's W as Wright's ω, safe for any y), and t = σ + ½ Σ_a (q_a(0) − q_a(σ)), inverted by Newton's
    iteration within brackets. One mode: t = ½ s² log(q(0)/q) + 3/2 (q(0) − q), explicitly q = (s²/3) ω(·).

    Examples
    --------
    >>> mode_flow([0.0, 2.0], [1.0]).round(6)
    array([[1.      ],
           [0.448533]])
    """
    moments, values = as_times(times), _modes(modes)
    scale = as_scalar(noise, "noise", low=0.0, open_low=True)
    with np.errstate(over="ignore"):
        start = values.astype(np.float64)[..., None, :] ** 2
        largest = float(3 * start.max() / scale)
    if not np.isfinite(largest):
        fail("modes, noise", "d²/s² that is finite in float64", f"{float(values.max())}, {scale}")
    clock = np.broadcast_to(moments, (*values.shape[:-1], len(moments)))
    if values.shape[-1] == 1:
        squares = _square(start, 3.0, clock, scale)
    else:
        squares = _square(start, 2.0, _clock(start, clock, scale), scale)
    result = np.where(moments[:, None] > 0, np.sqrt(squares), values.astype(np.float64)[..., None, :])
    return cast(Array, result.astype(values.dtype))


@representable("net, task")
def natural_total(net: LinearNetwork, task: Task, times: Any, target_noise: Any = None) -> Array:
    """Return the total weight under the empirical natural flow (X6).

    Parameters
    ----------
    net, task, target_noise
        As in `fisher`, with Σ_ν = s² Σ.
    times : array (T,) or float

    Returns
    -------
    array (…, T, n_L, n_0)
        On the range of S; W(0) on its null space.

    Raises
    ------
    ConditionError
        Where (J) fails at the start, and for Σ_ν that is not a multiple of Σ. Whether (J) lasts is not checked:
        like C1's line, the path may meet a singular total weight (C3).

    Examples
    --------
    >>> natural_total(LinearNetwork([[[1.0]]]), Task([[2.0]]), [0.0, 2.0]).round(6).ravel()
    array([1.      , 1.551467])
    """
    white, moments = _white(net, task, target_noise), as_times(times)
    scale = _isotropic(white.noise)
    if scale is None:
        raise ConditionError(
            "target_noise: X6's flow is closed for Σ_ν = s² Σ only; integrate induced_change instead."
        )
    if not np.asarray(is_onto(net, task)).all():
        raise ConditionError("net: X6's flow needs (J), which fails at the start.")
    left, values, right = np.linalg.svd(white.error, full_matrices=False)
    modes = mode_flow(moments, values, scale)
    gone = values[..., None, :] - modes
    path = (left[..., None, :, :] * gone[..., None, :]) @ right[..., None, :, :]
    total = net.total[..., None, :, :] + _unwhiten(white, path, times=True)
    return cast(Array, total.astype(white.dtype))


def _white(net: LinearNetwork, task: Task, target_noise: Any) -> _White:
    network, problem = as_pair(net, task)
    if network.has_biases:
        raise ConditionError("net: X6 is about networks without biases, found biases.")
    moments = problem.moments()
    if target_noise is None:
        if problem.n_samples is None and problem.input_mean.any():
            raise ConditionError("task: X6 needs Gaussian inputs of mean 0, found an input_mean.")
        root = problem.whiten(moments.residual)
        noise = root @ np.swapaxes(root, -1, -2)
    else:
        size = problem.n_outputs
        half = problem.whiten(as_covariance(target_noise, "target_noise", size))
        noise = np.swapaxes(problem.whiten(np.swapaxes(half, -1, -2)), -1, -2)
        noise = 0.5 * (noise + np.swapaxes(noise, -1, -2))
    signal = moments.factor
    for weight in network.weights:
        signal = weight @ signal
    error = problem.whiten(moments.target - signal)
    shape = check_broadcast([error.shape[:-2], noise.shape[:-2]], "net, task, target_noise")
    error = np.broadcast_to(error, (*shape, *error.shape[-2:]))
    return _White(error, noise, moments.factor, problem.noise_factor, network.dtype)


def _jacobian(net: LinearNetwork, task: Task, target_noise: Any) -> tuple[_White, Array]:
    """Return J̃ = [Ã_iᵀ ⊗ B̃_i], (…, n_L ρ, P)."""
    white = _white(net, task, target_noise)
    rows = white.error.shape[-1] * white.error.shape[-2]
    count = int(np.prod(white.error.shape[:-2])) * max(net.n_parameters, rows) ** 2
    refuse_beyond_memory(
        "net", count, 8, "Use induced_change, which needs no matrix in the parameters.", copies=3
    )
    batch = white.error.shape[:-2]
    blocks = []
    for before, after in zip(net.before, net.after, strict=True):
        inner, outer = np.swapaxes(before @ white.factor, -1, -2), task.whiten(after.astype(np.float64))
        pair = (np.broadcast_to(m, (*batch, *m.shape[-2:])) for m in (inner, outer))
        blocks.append(outer_kron(*pair))
    return white, np.concatenate(blocks, axis=-1)


def _factored(white: _White) -> Array:
    """Return I ⊗ (Σ̃_ν + ẼẼᵀ)."""
    spread = white.noise + white.error @ np.swapaxes(white.error, -1, -2)
    identity = np.broadcast_to(
        np.eye(white.error.shape[-1]), (*spread.shape[:-2], *[white.error.shape[-1]] * 2)
    )
    return outer_kron(identity, spread)


def _moment(white: _White) -> Array:
    """Return M of vec D, columns stacked: I ⊗ (Σ̃_ν + ẼẼᵀ) + vec Ẽ vec Ẽᵀ + swap."""
    error = white.error
    size = error.shape[-1] * error.shape[-2]
    flat = np.swapaxes(error, -1, -2).reshape(*error.shape[:-2], size)
    swap = np.einsum("...da,...bc->...abcd", error, error).reshape(*error.shape[:-2], size, size)
    return cast(Array, _factored(white) + flat[..., :, None] * flat[..., None, :] + swap)


def _change(white: _White) -> Array:
    scale = _isotropic(white.noise)
    error = white.error
    if scale is not None and scale > 0:
        left, values, right = np.linalg.svd(error, full_matrices=False)
        return cast(Array, (left * (values * mode_rates(values, scale))[..., None, :]) @ right)
    matrix = _moment(white)
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        fail(
            "target_noise",
            "a positive definite matrix",
            "a singular one",
            "Then EF u = ∇ℓ has many solutions.",
        )
    flat = np.swapaxes(error, -1, -2).reshape(*error.shape[:-2], -1, 1)
    solved = np.linalg.solve(matrix, flat)[..., 0]
    return cast(
        Array, np.swapaxes(solved.reshape(*error.shape[:-2], error.shape[-1], error.shape[-2]), -1, -2)
    )


def _isotropic(noise: Array) -> float | None:
    """Return s² where Σ̃_ν = s² I throughout, to rounding."""
    scale = float(np.trace(noise, axis1=-2, axis2=-1).flat[0]) / noise.shape[-1]
    gap = float(np.abs(noise - scale * np.eye(noise.shape[-1])).max())
    return scale if gap <= 64 * noise.shape[-1] * float(np.finfo(float).eps) * scale else None


def _unwhiten(white: _White, matrix: Array, times: bool = False) -> Array:
    """Return C M F⁺."""
    outer, values, inner = np.linalg.svd(white.factor, full_matrices=False)
    keep = values > default_rtol(white.factor) * values[..., :1]
    scaled = np.divide(1, values, out=np.zeros_like(values), where=keep)[..., None] * np.swapaxes(
        outer, -1, -2
    )
    back = np.swapaxes(inner, -1, -2) @ scaled
    front = white.outer
    if times:
        back, front = back[..., None, :, :], front[..., None, :, :]
    return cast(Array, front @ matrix @ back)


def _modes(modes: Any) -> Array:
    values = as_float_array(modes, "modes", min_ndim=1)
    if (values < 0).any():
        fail("modes", "singular values ≥ 0", float(values.min()))
    return values


def _square(start: Array, slope: float, clock: Array, scale: float) -> Array:
    """Return q with s² log q + slope · q = s² log q_0 + slope · q_0 − 2 clock."""
    ratio = slope / scale * start
    with np.errstate(divide="ignore"):
        argument = np.log(ratio) + ratio - 2 / scale * clock[..., None]
    moved = np.where(np.isneginf(argument), 0.0, wrightomega(np.maximum(argument, -1e5)))
    return cast(Array, scale / slope * moved)


def _clock(start: Array, times: Array, scale: float) -> Array:
    """Return σ with σ + ½ Σ_a (q_a(0) − q_a(σ)) = t, between t/(1 + k/2) and t."""
    low, high = times / (1 + start.shape[-1] / 2), times.astype(np.float64)
    sigma = 0.5 * (low + high)
    for _ in range(MAX_NEWTON):
        squares = _square(start, 2.0, sigma, scale)
        gap = sigma + 0.5 * (start - squares).sum(axis=-1) - times
        low, high = np.where(gap < 0, sigma, low), np.where(gap > 0, sigma, high)
        step = gap / (1 + (squares / (scale + 2 * squares)).sum(axis=-1))
        new = np.where((sigma - step > low) & (sigma - step < high), sigma - step, 0.5 * (low + high))
        done = np.abs(new - sigma) <= 4 * np.finfo(float).eps * high
        sigma = np.where(gap == 0, sigma, new)
        if done.all():
            break
    return cast(Array, sigma)
