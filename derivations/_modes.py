"""The formulas of the scalar modes, as proved in c5_c6_modes, and their evaluation with mpmath.

Times come from the formulas at thirty digits; a mode at a given time from inverting them by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import mpmath
import numpy as np
import sympy as sp
from numpy.typing import NDArray

X, A = sp.symbols("x a", positive=True)


def exponent(depth: Any, gamma: Any) -> Any:
    """Return p = (2 − 2/L)(1 − γ)."""
    return (2 - 2 / depth) * (1 - gamma)


def velocity(s: Any, target: Any, depth: Any, gamma: Any) -> Any:
    """Return ds/dt."""
    return (depth * s ** (2 - 2 / depth)) ** (1 - gamma) * (target - s)


def series_term(branch: str, n: Any, x: Any = X, a: Any = A) -> Any:
    """Return the n-th term of Φ on a branch: "below" x < 1, "above" x > 1, "opposite" ŝ < 0."""
    if branch == "below":
        return x ** (a + n) / (a + n)
    if branch == "opposite":
        return (-1) ** n * x ** (a + n) / (a + n)
    return x ** (a - 1 - n) / (1 - a + n)


def hypergeometric(branch: str, x: Any, a: Any) -> tuple[Any, Any, Any]:
    """Return prefactor, second parameter and argument of Φ = prefactor · ₂F₁(1, b; 1 + b; argument)."""
    if branch == "below":
        return x**a / a, a, x
    if branch == "opposite":
        return x**a / a, a, -x
    return x ** (a - 1) / (1 - a), 1 - a, 1 / x


def degenerate(branch: str, x: Any, log: Callable[[Any], Any] = sp.log) -> Any:
    """Return Φ where the hypergeometric parameter b vanishes: a = 0, or a = 1 above the target."""
    if branch == "below":
        return log(x / (1 - x))
    if branch == "opposite":
        return log(x / (1 + x))
    return -log(x - 1)


def _phi(branch: str, x: Any, a: Any) -> Any:
    if a == (1 if branch == "above" else 0):
        return degenerate(branch, x, mpmath.log)
    front, b, z = hypergeometric(branch, x, a)
    return front * mpmath.hyp2f1(1, b, 1 + b, z)


def _rational_exponent(depth: int, gamma: float) -> Any:
    # Exact arithmetic: a = 0 and a = 1 are cases of their own, which rounding must not hide.
    return mpmath.mpmathify(str(sp.N(exponent(sp.Integer(depth), sp.Rational(gamma)), 40)))


def mode_time(s: float, start: float, target: float, depth: int, gamma: float = 0.0) -> float:
    """Return the time at which the mode is at s; inf at the target itself."""
    with mpmath.workdps(30):
        return float(_time(mpmath.mpf(s), mpmath.mpf(start), mpmath.mpf(target), depth, gamma))


def _time(s: Any, start: Any, target: Any, depth: int, gamma: float) -> Any:
    if s == start:
        return mpmath.mpf(0)
    if s == target:
        return mpmath.inf
    p = _rational_exponent(depth, gamma)
    scale = mpmath.mpf(depth) ** (mpmath.mpf(gamma) - 1)
    if target == 0:
        return scale * (mpmath.log(start / s) if p == 0 else (s**-p - start**-p) / p)
    size = abs(target)
    branch = "opposite" if target < 0 else "below" if start < target else "above"
    sign = -1 if target < 0 else 1
    return sign * scale * size**-p * (_phi(branch, s / size, 1 - p) - _phi(branch, start / size, 1 - p))


def vanishing_time(start: float, target: float, depth: int, gamma: float = 0.0) -> float:
    """Return the time at which a mode with target < 0 reaches zero; inf if p ≥ 1."""
    with mpmath.workdps(30):
        p = _rational_exponent(depth, gamma)
        if target >= 0 or p >= 1:
            return float("inf")
        size = mpmath.mpf(-target)
        return float(
            mpmath.mpf(depth) ** (mpmath.mpf(gamma) - 1) * size**-p * _phi("opposite", start / size, 1 - p)
        )


def mode(
    times: Iterable[float], start: float, target: float, depth: int, gamma: float = 0.0
) -> NDArray[np.float64]:
    """Return the mode at the times; nan once a mode with a negative target has vanished."""
    return np.array([_invert(float(time), start, target, depth, gamma) for time in times])


def _invert(time: float, start: float, target: float, depth: int, gamma: float) -> float:
    """Return the s with this time, by bisection of log(distance to the end)."""
    if time == 0 or start == target:
        return start
    if time >= vanishing_time(start, target, depth, gamma):
        return float("nan")
    with mpmath.workdps(30):
        first, end = mpmath.mpf(start), mpmath.mpf(max(target, 0.0))
        far, near = mpmath.mpf(1), mpmath.mpf(0)
        while _time(end + (first - end) * mpmath.exp(-far), first, mpmath.mpf(target), depth, gamma) < time:
            near, far = far, 2 * far
        for _ in range(70):
            middle = (near + far) / 2
            s = end + (first - end) * mpmath.exp(-middle)
            early = _time(s, first, mpmath.mpf(target), depth, gamma) < time
            near, far = (middle, far) if early else (near, middle)
        return float(end + (first - end) * mpmath.exp(-(near + far) / 2))
