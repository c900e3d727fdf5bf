"""Where is one singular mode at time t? Gradient flow and partial correction F^{−γ}, at every depth.

Statements C5 and C6 (balanced, aligned layers, white input and noise): a singular value s of the total
weight moves towards ŝ by

    ds/dt = (L s^{2 − 2/L})^{1 − γ} (ŝ − s),

γ = 0 gradient flow (Saxe, McClelland, Ganguli 2014), γ = 1 natural gradient flow. With p = (2 − 2/L)(1 −
γ), a = 1 − p, x = s/|ŝ| and τ = L^{1−γ} |ŝ|^p t the solution is τ = Φ(x) − Φ(x_0), Φ a hypergeometric
function (`mode_integrals`); s is found from t by a safeguarded Newton iteration on logit x or log x, where
Φ is monotone and smooth over any ratio of scales. Singular values are ≥ 0, targets have any sign: with ŝ <
0 the mode shrinks to 0. float64 inside.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np

from linnat._checks import (
    Array,
    ConditionError,
    FlowBreakdownError,
    as_count,
    as_float_array,
    as_scalar,
    as_times,
    check_broadcast,
    fail,
    representable,
)
from linnat.exact.mode_integrals import (
    approach_time,
    fall_time,
    invert_approach,
    invert_fall,
)


class _Mode(NamedTuple):
    """Checked arguments: start and target broadcast and float64, p, the prefactor L^{1−γ}, the result's dtype."""

    start: Array
    target: Array
    power: float
    rate: float
    depth: int
    dtype: Any


def gradient_mode(times: Any, start: Any, target: Any, depth: Any) -> Array:
    """Return a singular mode under gradient flow (C5).

    Parameters
    ----------
    times, start, target, depth
        As in `partial_mode`, which this is with γ = 0.

    Returns
    -------
    array (…, T)

    Examples
    --------
    >>> gradient_mode([0.0, 1.0], 0.5, 1.0, 1).round(6)
    array([0.5    , 0.81606])
    """
    return partial_mode(times, start, target, depth, 0.0)


@representable("times, start, target")
def partial_mode(times: Any, start: Any, target: Any, depth: Any, gamma: Any) -> Array:
    """Return a singular mode under the flow preconditioned by the Moore–Penrose power F^{−γ} (C6).

    Parameters
    ----------
    times : array (T,) or float
    start : array (…)
        s(0) ≥ 0.
    target : array (…)
        ŝ, of any sign; broadcasts with `start`.
    depth : int
        L.
    gamma : float
        γ in [0, 1].

    Returns
    -------
    array (…, T)
        s(t): the singular value; for depth 1 the signed weight, which may cross 0.

    Raises
    ------
    FlowBreakdownError
        For γ = 1, L ≥ 2, ŝ < 0, at and after the time log(1 + s(0)/|ŝ|) at which the mode reaches 0 (C3).

    Notes
    -----
    From s(0) = 0 a mode escapes if p < 1 (the limit s(0) → 0⁺, not the other solution s = 0) and stays if p
    ≥ 1. With ŝ < 0 and 0 < p < 1 it reaches 0 in finite time and stays. Relative error: some eps × (1 +
    condition of s with respect to t and s(0)); leaving a plateau is that ill-conditioned. At most some 30
    Newton steps of 60 terms for each number.

    Examples
    --------
    >>> partial_mode(np.log(2), 1.0, 3.0, 4, 1.0)
    array([2.])
    """
    moments = as_times(times)
    mode = _as_mode(start, target, depth, gamma)
    start, target = np.broadcast_arrays(mode.start[..., None], mode.target[..., None])
    shape = np.broadcast_shapes(start.shape, moments.shape)
    clock = np.broadcast_to(moments, shape)
    start, target = (np.broadcast_to(m, shape) for m in (start, target))
    if mode.depth == 1:
        # No difference of start and target: exact at both ends, however far apart they are.
        return cast(Array, (np.exp(-clock) * start - np.expm1(-clock) * target).astype(mode.dtype))
    if mode.power == 0:
        _require_positive(start, target, clock)
    result = start.copy()
    moving = (clock > 0) & (start != target)
    for branch, solve in ((target > 0, _to_positive), (target == 0, _to_zero), (target < 0, _to_negative)):
        chosen = moving & branch
        if chosen.any():
            result[chosen] = solve(start[chosen], target[chosen], clock[chosen], mode)
    return cast(Array, result.astype(mode.dtype))


@representable("s, start, target", inf=True)
def mode_time(s: Any, start: Any, target: Any, depth: Any, gamma: Any = 0.0) -> Array:
    """Return the time at which a mode passes through s: the closed form itself (C5, C6).

    Parameters
    ----------
    s : array (…)
        Between `start` and where the mode goes: the target, or 0 if that is negative (any sign for depth 1).
    start, target : arrays (…)
    depth : int
    gamma : float

    Returns
    -------
    array (…)
        t; inf where s is reached in the limit only.

    Raises
    ------
    InputError
        Where s is not on the way.

    Notes
    -----
    Error: some eps × (Φ(x) + Φ(x_0)), so a short time between nearly equal s keeps its absolute accuracy
    only.

    Examples
    --------
    >>> float(mode_time(2.0, 1.0, 3.0, 1).round(6))
    0.693147
    """
    mode = _as_mode(start, target, depth, gamma)
    place = as_float_array(s, "s")
    check_broadcast([place.shape, mode.start.shape], "s, start, target")
    value, start, target = np.broadcast_arrays(place.astype(np.float64), mode.start, mode.target)
    end = target if mode.depth == 1 else np.maximum(target, 0.0)
    away = (value < np.minimum(start, end)) | (value > np.maximum(start, end))
    if away.any():
        fail("s", "values between start and target (or 0 for a negative target)", float(value[away].flat[0]))
    result = np.zeros(value.shape)
    moving = value != start
    for branch, measure in ((target > 0, _time_up), (target == 0, _time_to_zero), (target < 0, _time_down)):
        chosen = moving & branch
        if chosen.any():
            result[chosen] = measure(value[chosen], start[chosen], target[chosen], mode)
    return result.astype(np.result_type(mode.dtype, place.dtype))


def escape_time(start: Any, target: Any, depth: Any, gamma: Any = 0.0, fraction: Any = 0.5) -> Array:
    """Return the time a mode takes from its start to a fraction of its target (C5, C6).

    Parameters
    ----------
    start : array (…)
        Below fraction × target.
    target : array (…)
        ŝ > 0.
    depth : int
    gamma : float
    fraction : float
        In (0, 1).

    Returns
    -------
    array (…)
        inf from 0 unless p = (2 − 2/L)(1 − γ) < 1.

    Examples
    --------
    >>> [float(escape_time(0.0, 1.0, 4, gamma).round(4)) for gamma in (0.0, 0.5)]
    [inf, 1.9234]
    """
    share = as_scalar(fraction, "fraction", low=0.0, high=1.0, open_low=True)
    goal = as_float_array(target, "target")
    if share == 1 or (goal <= 0).any():
        fail("target, fraction", "target > 0, fraction in (0, 1)", f"{float(goal.min())}, {share}")
    return mode_time(share * goal, start, target, depth, gamma)


@representable("start, target")
def plateau_time(start: Any, target: Any, depth: Any, gamma: Any = 0.0) -> Array:
    """Return the leading term of the escape time as start → 0⁺ (C5, C6).

    Parameters
    ----------
    start : array (…)
        s(0) > 0.
    target : array (…)
        ŝ > 0.
    depth : int
    gamma : float

    Returns
    -------
    array (…)
        L^{γ−1} s(0)^{1−p} / ((p − 1) ŝ); s(0)^{−(1−2/L)} / ((L − 2) ŝ) for γ = 0.

    Raises
    ------
    ConditionError
        For p ≤ 1 (L ≤ 2 at γ = 0): no plateau whose length is a power of the start; see `escape_time`.

    Examples
    --------
    >>> float(plateau_time(1e-4, 2.0, 4))
    25.0
    """
    mode = _as_mode(start, target, depth, gamma)
    if (mode.start <= 0).any() or (mode.target <= 0).any():
        fail("start, target", "numbers > 0", f"{float(mode.start.min())}, {float(mode.target.min())}")
    if mode.power <= 1:
        raise ConditionError(
            f"depth, gamma: a plateau needs (2 − 2/L)(1 − γ) > 1, found {mode.power:.6g}. "
            "The exact escape time of C6 is escape_time."
        )
    time = mode.start ** (1 - mode.power) / (mode.rate * (mode.power - 1) * mode.target)
    return cast(Array, time.astype(mode.dtype))


def _as_mode(start: Any, target: Any, depth: Any, gamma: Any) -> _Mode:
    first, last = as_float_array(start, "start"), as_float_array(target, "target")
    check_broadcast([first.shape, last.shape], "start, target")
    if (first < 0).any():
        fail("start", "singular values ≥ 0", float(first.min()))
    count, correction = as_count(depth, "depth"), as_scalar(gamma, "gamma", low=0.0, high=1.0)
    dtype = np.result_type(first, last)
    left, right = np.broadcast_arrays(first.astype(np.float64), last.astype(np.float64))
    power = (2 - 2 / count) * (1 - correction)
    return _Mode(left, right, power, count ** (1 - correction), count, dtype)


def _require_positive(start: Array, target: Array, clock: Array) -> None:
    """Raise where a natural flow reaches 0: from s(0) to ŝ < 0 at log(1 + s(0)/|ŝ|)."""
    below = target < 0
    ends = np.where(below, np.log1p(start / np.where(below, -target, 1.0)), np.inf)
    if (below & (clock >= ends)).any():
        first = float(ends[below & (clock >= ends)].min())
        raise FlowBreakdownError(
            f"times: with γ = 1 a mode with negative target reaches 0 at t = {first:.6g}, where the flow ends "
            "(C3).",
            first,
        )


def _to_positive(start: Array, target: Array, clock: Array, mode: _Mode) -> Array:
    result = np.empty_like(start)
    tau = mode.rate * target**mode.power * clock
    below = start < target
    stay = below & (start == 0) & (mode.power >= 1)
    result[stay] = 0.0
    below &= ~stay
    if below.any():
        first, goal = start[below], target[below]
        result[below] = _times_exp(goal, invert_approach(first, goal - first, tau[below], 1 - mode.power))
    above = start > target
    if above.any():
        # q = 1/x obeys dq/dτ = q^{1−p} (1 − q): the same equation with 1 − p for p.
        first, goal = start[above], target[above]
        result[above] = _times_exp(goal, -invert_approach(goal, first - goal, tau[above], mode.power))
    return result


def _times_exp(scale: Array, exponent: Array) -> Array:
    """Return scale · e^exponent, by half of the exponent twice: e^exponent itself may leave the range of float64."""
    half = np.exp(0.5 * exponent)
    return cast(
        Array,
        np.where(np.abs(exponent) < 700, scale * np.exp(np.clip(exponent, -700, 700)), scale * half * half),
    )


def _to_zero(start: Array, target: Array, clock: Array, mode: _Mode) -> Array:
    # s^{−p} = s_0^{−p} + p L^{1−γ} t; the limit p → 0 is exponential.
    step = mode.rate * clock
    if mode.power == 0:
        return cast(Array, start * np.exp(-step))
    return cast(Array, start * np.exp(-np.log1p(mode.power * step * start**mode.power) / mode.power))


def _to_negative(start: Array, target: Array, clock: Array, mode: _Mode) -> Array:
    result, moving = np.zeros_like(start), start > 0
    size = -target[moving]
    tau = mode.rate * size**mode.power * clock[moving]
    if mode.power == 0:
        result[moving] = start[moving] + np.expm1(-tau) * (start[moving] + size)
    else:
        result[moving] = size * invert_fall(start[moving] / size, tau, 1 - mode.power)
    return result


def _time_up(value: Array, start: Array, target: Array, mode: _Mode) -> Array:
    scale = mode.rate * target**mode.power
    below = start < target
    tau = np.empty_like(value)
    tau[below] = approach_time(value[below], start[below], target[below], 1 - mode.power)
    above = ~below
    # With q = ŝ/s: a fraction of 1 is ŝ out of s.
    first, last, goal = start[above], value[above], target[above]
    tau[above] = approach_time(goal * (first / last), goal, first, mode.power)
    near = above & (value == target)
    tau[near] = np.inf
    return tau / scale


def _time_to_zero(value: Array, start: Array, target: Array, mode: _Mode) -> Array:
    with np.errstate(divide="ignore"):
        ratio = -np.log(value / start)  # inf at 0
    if mode.power == 0:
        return cast(Array, ratio / mode.rate)
    grown = np.expm1(np.minimum(mode.power * ratio, 709.0))
    time = grown * start**-mode.power / (mode.power * mode.rate)
    return np.where(value == 0, np.inf, time)


def _time_down(value: Array, start: Array, target: Array, mode: _Mode) -> Array:
    size = -target
    scale = mode.rate * size**mode.power
    if mode.power == 0:  # also depth 1, where s may be negative
        with np.errstate(divide="ignore"):
            return cast(Array, np.log1p((start - value) / (value + size)))
    return fall_time(value / size, start / size, 1 - mode.power) / scale
