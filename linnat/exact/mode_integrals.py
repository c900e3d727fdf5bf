"""How long does dx/dτ = x^{1−a} (±1 − x) take from x_0 to x, and the other way round? Statements C5, C6.

Approach (+): τ = Φ(x) − Φ(x_0), Φ' = x^{a−1}/(1 − x); Φ = (x^a/a) ₂F₁(1, a; 1 + a; x). Fall (−): τ = Ψ(x_0)
− Ψ(x), Ψ' = x^{a−1}/(1 + x); Ψ = (x^a/a) ₂F₁(1, a; 1 + a; −x). Both for −1 < a ≤ 2, with the constants of
integration chosen so that nothing is lost near a = 0 and a = −1: the two singular terms are split off as
h(x, a) = (x^a − 1)/a and h(x, a + 1), and what is left is smooth in a and small for small x. Differences of
h are formed relative to their start, so that short ways between tiny numbers keep their digits:

    Φ = h(x, a) + h(x, a+1) + B(x, a+2),  B(x, b) = ∫_0^x y^{b−1}/(1 − y) dy,
    Ψ = h(x, a) − h(x, a+1) + C(x, a+2),  C(x, b) = ∫_0^x y^{b−1}/(1 + y) dy,  x ≤ 1;  by y → 1/y for x > 1.

In θ = log(x/(1 − x)), dΦ/dθ = x^a: monotone and of one curvature, so that Newton's iteration converges from
one side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from scipy.special import digamma, expit

from linnat._checks import Array, ConvergenceError

TERMS = 56  # of series in y ≤ 1/2
STEPS = 200
LOWEST = -1460.0  # below the logarithm of every quotient of positive float64
NORMAL = np.finfo(np.float64).tiny


def approach_time(value: Array, start: Array, target: Array, a: float) -> Array:
    """Return Φ(value/target) − Φ(start/target) for start ≤ value ≤ target, inf at the target."""
    end = value >= target
    safe = np.where(end, start, value)
    first = _log_quotient(start, target), _log_quotient(target - start, target)
    last = _log_quotient(safe, target), _log_quotient(target - safe, target)
    return np.where(end, np.inf, _approach(*first, *last, a))


def invert_approach(near: Array, far: Array, tau: Array, a: float) -> Array:
    """Return log x(τ) from x_0 = near/(near + far), near ≥ 0, far > 0, for dx/dτ = x^{1−a} (1 − x)."""
    first = _log_quotient(near, near + far), _log_quotient(far, near + far)
    low = np.maximum(_log_quotient(near, far), LOWEST)
    # The asymptote θ + K of Φ lies on one side of it, since Φ is convex (a ≥ 0) or concave in θ.
    edge = np.zeros_like(tau), np.full_like(tau, -1.0)
    constant = float(digamma(a + 2)) + np.euler_gamma + _beta_tail(edge[1], a + 2)
    asymptote = tau + constant - _approach(*first, *edge, a)
    high = np.minimum(_largest_theta(first[0], tau, a), 2000.0)
    if a >= 0:
        high = np.minimum(high, asymptote + 1e-9 * (1 + np.abs(asymptote)))
        guess = high
    else:
        high = np.minimum(high, low + tau)  # dΦ/dθ ≥ 1
        guess = asymptote
    high = np.maximum(high, low)

    def fun(theta: Array) -> tuple[Array, Array]:
        log_x, log_y = -np.logaddexp(0, -theta), -np.logaddexp(0, theta)
        return _approach(*first, log_x, log_y, a), np.exp(a * log_x)

    return cast(Array, -np.logaddexp(0, -_solve(fun, tau, low, high, np.clip(guess, low, high))))


def fall_time(value: Array, start: Array, a: float) -> Array:
    """Return Ψ(start) − Ψ(value) for 0 ≤ value ≤ start; inf at 0 unless a > 0."""
    with np.errstate(divide="ignore"):
        return -_fall(np.log(start), np.log(value), a)


def invert_fall(start: Array, tau: Array, a: float) -> Array:
    """Return x(τ) from x_0 > 0 for dx/dτ = −x^{1−a} (1 + x); 0 once it is reached."""
    first = np.log(start)
    ended = tau >= -_fall(first, np.full_like(first, -np.inf), a) if a > 0 else np.zeros(tau.shape, bool)
    goal = np.where(ended, 0.0, -tau)
    # Below x = 1, with v = min(x_0, 1): h(x, a) − h(v, a) ≤ Ψ(x) − Ψ(v) ≤ ½ (h(x, a) − h(v, a)).
    entry = np.minimum(first, 0.0)
    inside = np.minimum(goal - _fall(first, entry, a), 0.0)  # what is left to fall below 1
    scale = np.exp(-a * entry)
    low = np.where(inside < 0, entry + _log_box_cox(2 * inside * scale, a), entry)
    high = np.where(inside < 0, np.minimum(entry + _log_box_cox(inside * scale, a), entry), first)
    low = np.minimum(np.maximum(low, LOWEST), high)

    def fun(u: Array) -> tuple[Array, Array]:
        return _fall(first, u, a), np.exp(a * u - np.logaddexp(0, u))

    return np.where(ended, 0.0, np.exp(_solve(fun, goal, low, high, high)))


def _log_quotient(value: Array, whole: Array) -> Array:
    """Return log(value/whole), −inf for 0, also where the quotient leaves the range of float64."""
    with np.errstate(divide="ignore", over="ignore"):
        quotient = value / whole
        far = np.log(value) - np.log(whole)
        return np.where((quotient >= NORMAL) & (quotient < np.inf), np.log(quotient), far)


def _log_box_cox(value: Array, a: float) -> Array:
    """Return log x with h(x, a) = value; −inf where there is none."""
    if a == 0:
        return value
    with np.errstate(divide="ignore"):
        return cast(Array, np.log1p(np.maximum(a * value, -1.0)) / a)


def _rise(first: Array, last: Array, a: float) -> Array:
    """Return h(x, a) − h(x_0, a) from logarithms, without cancellation: x_0^a h(x/x_0, a)."""
    if a == 0:
        return last - first
    way = a * (last - first)
    far = np.exp(
        a * np.where(way > 0, last, first)
    )  # the larger of x^a and x_0^a, so that neither overflows first
    return cast(Array, -np.sign(way) * far * np.expm1(-np.abs(way)) / a)


def _largest_theta(first: Array, tau: Array, a: float) -> Array:
    """Return an upper bound of θ from Φ(x) − Φ(x_0) ≥ h(x, a) − h(x_0, a)."""
    powers = np.exp(a * first)  # 0 from x_0 = 0
    log_x = np.log(powers + a * tau) / a if a > 0 else first + _log_box_cox(tau / powers, a)
    inside = log_x < -1e-3
    safe = np.where(inside, np.maximum(log_x, LOWEST), -1.0)
    return np.where(inside, safe - np.log(-np.expm1(safe)) + 1e-9, np.inf)


def _approach(log_x: Array, log_y: Array, log_u: Array, log_v: Array, a: float) -> Array:
    """Return Φ(u) − Φ(x) from log x, log(1 − x), log u, log(1 − u)."""
    plain = _rise(log_x, log_u, a) + _rise(log_x, log_u, a + 1)
    return plain + _beta(log_u, log_v, a + 2) - _beta(log_x, log_y, a + 2)


def _beta(log_x: Array, log_y: Array, b: float) -> Array:
    """Return B(x, b) = ∫_0^x y^{b−1}/(1 − y) dy by the series in x, or in y = 1 − x beyond ½."""
    near_zero = log_x < -np.log(2)
    x = np.exp(np.where(near_zero, log_x, -np.inf))
    series = np.exp(b * np.where(near_zero, log_x, -1.0)) * _horner(1 / (np.arange(TERMS) + b), x)
    return np.where(near_zero, series, _beta_tail(np.where(near_zero, -1.0, log_y), b))


def _beta_tail(log_y: Array, b: float) -> Array:
    # ∫_0^1 (1 − u^{b−1})/(1 − u) du = ψ(b) + γ; (1 − y)^{b−1} expanded: binom(b−1, k) (−1)^k / k.
    orders = np.arange(1, TERMS)
    tail = np.concatenate([[0.0], np.cumprod((orders - b) / orders) / orders])
    return cast(Array, -log_y - float(digamma(b)) - np.euler_gamma - _horner(tail, np.exp(log_y)))


def _fall(first: Array, last: Array, a: float) -> Array:
    """Return Ψ(x) − Ψ(x_0) from log x_0, log x; beyond 1 by y → 1/y, which takes a to 1 − a."""
    below = _fall_below(np.minimum(first, 0.0), np.minimum(last, 0.0), a)
    return cast(Array, below - _fall_below(np.minimum(-first, 0.0), np.minimum(-last, 0.0), 1 - a))


def _fall_below(first: Array, last: Array, a: float) -> Array:
    """Return Ψ(x) − Ψ(x_0) for x, x_0 ≤ 1; C by Pfaff's transformation: positive terms in x/(1 + x) ≤ ½."""
    b, orders = a + 2, np.arange(1, TERMS)
    terms = np.concatenate([[1.0], np.cumprod(orders / (b + orders))]) / b

    def rest(u: Array) -> Array:
        return cast(Array, np.exp(b * u) * expit(-u) * _horner(terms, expit(u)))

    # −inf for x = 0 and a ≤ 0; h(0, a) = −1/a otherwise.
    with np.errstate(over="ignore"):
        plain = -_rise(last, first, a) + _rise(last, first, a + 1)
    return cast(Array, plain + rest(last) - rest(first))


def _horner(coefficients: Array, x: Array) -> Array:
    result = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        result = result * x + c
    return result


def _solve(
    fun: Callable[[Array], tuple[Array, Array]], goal: Array, low: Array, high: Array, guess: Array
) -> Array:
    """Solve f(u) = goal for increasing f, Newton within a shrinking bracket, bisection where a step leaves it."""
    u, low, high = guess.copy(), low.copy(), high.copy()
    for _ in range(STEPS):
        value, slope = fun(u)
        miss = value - goal
        low, high = np.where(miss <= 0, u, low), np.where(miss >= 0, u, high)
        step = np.divide(miss, slope, out=np.full_like(miss, np.inf), where=slope > 0)
        following = u - step
        inside = (following > low) & (following < high)
        following = np.where(inside, following, 0.5 * (low + high))
        close = 2 * np.finfo(np.float64).eps * np.maximum(1.0, np.abs(u))
        done = (np.abs(following - u) <= close) | (high - low <= close)
        u = following
        if done.all():
            return u
    raise ConvergenceError(f"modes: Newton's iteration did not settle in {STEPS} steps.", u)
