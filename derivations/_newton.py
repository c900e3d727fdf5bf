"""Relaxed Newton iteration for y^L = 1: the formulas of D2, global convergence and contraction.

A 2-cycle needs η ≥ 2, by the concavity of tanh; Coppel's theorem (1955) then sends every orbit on y > 0 to 1. The
contraction of ‖I − W⁻¹W*‖ is the non-negativity of the Taylor coefficients of D1's map.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from derivations._core import Derivation
from derivations.d1_exact_map import DEPTH, ETA, bracket, scalar_map

ROOT = sp.Symbol("y", positive=True)


def newton(root: Any, eta: Any, depth: Any) -> Any:
    """Return a relaxed Newton step for y^L = 1."""
    return root - eta * (root**depth - 1) / (depth * root ** (depth - 1))


def overshoot_limit(mode: Any, depth: Any) -> Any:
    """Return η₁(g), the largest step that does not cross g = 1."""
    return depth * (mode ** (1 / depth) - 1) / (mode - 1)


def landing(mode: Any, eta: Any, depth: Any) -> Any:
    """Return where the first step takes an eigenvalue of W*⁻¹W that starts at 1/g."""
    return bracket(mode, eta, depth) ** depth / mode


def bound(rho: Any) -> Any:
    return (1 - ETA) * rho + ETA * rho**2


def convergence(d: Derivation) -> None:
    """Prove that every g > 0 converges for 0 < η < 2: no 2-cycles."""
    y, z = sp.symbols("y z", positive=True)
    d.define(
        "Convergence on y > 0 for 0 < η < 2, L ≥ 2: y⁺ = (1 − η/L)y + (η/L)y^{1−L} > 0 is bounded and its only "
        "fixed point is 1; a bounded orbit converges unless there is a 2-cycle y < 1 < z (Coppel 1955)"
    )
    d.prove(
        "  bounded: above 1 it decreases, y⁺ − y = −(η/L)(y − y^{1−L}) < 0",
        newton(y, ETA, DEPTH) - y,
        -ETA / DEPTH * (y - y ** (1 - DEPTH)),
        formula=r"y^+ - y = -\frac{\eta}{L} (y - y^{1-L})",
    )
    add = sp.expand(newton(y, ETA, DEPTH) - z + newton(z, ETA, DEPTH) - y)
    d.prove(
        "A 2-cycle N(y) = z, N(z) = y: the sum of its equations",
        add * DEPTH / ETA,
        y ** (1 - DEPTH) + z ** (1 - DEPTH) - y - z,
        lambda e: sp.simplify(sp.expand(e)),
        formula=r"y + z = y^{1-L} + z^{1-L}",
    )
    half = (newton(y, ETA, DEPTH) - y) * 2 - (newton(z, ETA, DEPTH) - z) * 2
    d.prove(
        "and their difference, 2(z − y) = N(y) − y − (N(z) − z)",
        half / 2 * DEPTH / ETA,
        (y ** (1 - DEPTH) - z ** (1 - DEPTH)) - (y - z),
        lambda e: sp.simplify(sp.expand(e)),
        formula=r"2 (z-y) = \frac{\eta}{L} [(z - y) + y^{1-L} - z^{1-L}]",
    )
    _no_cycle(d)


def _no_cycle(d: Derivation) -> None:
    theta = sp.Symbol("theta", positive=True)
    m = sp.Symbol("m", positive=True)
    low, high = m * sp.exp(-theta), m * sp.exp(theta)
    total = (low ** (1 - DEPTH) + high ** (1 - DEPTH)) / (low + high) * m**DEPTH
    d.prove(
        "With y = me^{−θ}, z = me^θ the sum says m^L = cosh((L−1)θ)/cosh θ",
        total,
        sp.cosh((DEPTH - 1) * theta) / sp.cosh(theta),
        _hyperbolic,
        formula=r"m^L = \cosh((L-1)\theta) / \cosh \theta",
    )
    gap = (low ** (1 - DEPTH) - high ** (1 - DEPTH)) / (high - low) * m**DEPTH
    d.prove(
        "and the bracket of the difference is (z − y)(1 + q), m^L q = sinh((L−1)θ)/sinh θ",
        gap,
        sp.sinh((DEPTH - 1) * theta) / sp.sinh(theta),
        _hyperbolic,
        formula=r"q = \tanh((L-1)\theta) / \tanh \theta",
    )
    q = sp.Symbol("q", positive=True)
    d.prove(
        "so that a 2-cycle needs η = 2L/(1 + q)",
        sp.solve(sp.Eq(2, ETA / DEPTH * (1 + q)), ETA)[0],
        2 * DEPTH / (1 + q),
    )
    slope = sp.diff(sp.tanh(theta), theta, 2)
    d.prove(
        "tanh is concave on θ > 0 and vanishes at 0", slope, -2 * sp.tanh(theta) * (1 - sp.tanh(theta) ** 2)
    )
    d.define(
        "hence q ≤ L − 1 (equality for L = 2) and η ≥ 2: no 2-cycle for η < 2, every g > 0 converges to 1",
        r"\tanh((L-1)\theta) \leq (L-1) \tanh \theta \Rightarrow \eta = 2L/(1+q) \geq 2",
    )
    d.prove(
        "L = 1: y⁺ − 1 = (1 − η)(y − 1) converges for the same steps",
        newton(ROOT, ETA, 1) - 1,
        (1 - ETA) * (ROOT - 1),
    )


def _hyperbolic(expression: Any) -> Any:
    rewritten = sp.expand_power_base(sp.powdenest(expression.rewrite(sp.exp), force=True), force=True)
    return sp.simplify(sp.powsimp(sp.expand(sp.simplify(sp.expand(rewritten)))))


def contraction(d: Derivation) -> None:
    """Prove the contraction of ‖I − W⁻¹W*‖ by the signs of a power series."""
    x, k = sp.Symbol("x"), sp.Symbol("k", integer=True, positive=True)
    d.define(
        "X = I − W⁻¹W*, ρ = ‖X‖ in any submultiplicative norm; X⁺ = φ(X) by D1",
        r"\varphi(x) = 1 - (1-x)(1 - \eta x/L)^{-L} = \sum_k c_k x^k, \quad "
        r"(1 - \eta x/L)^{-L} = \sum_k d_k x^k",
    )
    d.prove(
        "φ is D1's map in x = 1 − g",
        1 - scalar_map(1 - x, ETA, DEPTH),
        1 - (1 - x) * (1 - ETA * x / DEPTH) ** -DEPTH,
    )
    ratio = (DEPTH + k - 1) / (k * DEPTH) * ETA
    term = sp.rf(DEPTH, k) / sp.factorial(k) * (ETA / DEPTH) ** k
    series = [sp.diff((1 - ETA * x / DEPTH) ** -DEPTH, x, n).subs(x, 0) / sp.factorial(n) for n in range(4)]
    for n in (1, 2, 3):
        d.prove(
            f"The binomial series: d_{n}",
            series[n],
            term.subs(k, n),
            lambda e: sp.simplify(sp.expand_func(e)),
        )
    d.prove(
        "The ratio d_k/d_{k−1} for every k",
        sp.gammasimp((term / term.subs(k, k - 1)).rewrite(sp.gamma)),
        ratio,
        formula=r"d_k / d_{k-1} = \eta \frac{L + k - 1}{k L}",
    )
    d.prove(
        "For η ≤ 1 the ratio is at most 1, because kL − (L + k − 1) = (k−1)(L−1) ≥ 0",
        k * DEPTH - (DEPTH + k - 1),
        (k - 1) * (DEPTH - 1),
        formula=r"k L - (L + k - 1) = (k-1)(L-1)",
    )
    d.prove(
        "so every c_k = d_{k−1} − d_k ≥ 0; the first one is 1 − η",
        series[0] - series[1],
        1 - ETA,
        formula=r"c_1 = 1 - \eta",
    )
    _summed(d, x, series)


def _summed(d: Derivation, x: Any, series: list[Any]) -> None:
    c = [sp.diff(1 - scalar_map(1 - x, ETA, DEPTH), x, n).subs(x, 0) / sp.factorial(n) for n in (1, 2, 3)]
    d.prove(
        "Their sums telescope: c_1 + … + c_K = 1 − d_K ≤ 1 (here K = 3), so Σ_{k≥2} c_k ≤ η",
        sum(c),
        1 - series[3],
        formula=r"\sum_{k=1}^{K} c_k = 1 - d_K",
    )
    rho = sp.Symbol("rho", positive=True)
    d.prove(
        "For ρ ≤ 1: ρ⁺ ≤ c_1ρ + ρ²Σ_{k≥2}c_k",
        (series[0] - series[1]) * rho + (1 - c[0]) * rho**2,
        bound(rho),
        formula=r"\rho^+ \leq (1-\eta) \rho + \eta \rho^2",
    )
    d.prove("It contracts: ρ − bound", sp.factor(rho - bound(rho)), ETA * rho * (1 - rho))
    near_pole = sp.Rational(-9, 10)
    after = 1 - scalar_map(near_pole, sp.S.One, sp.Integer(2))
    d.check(
        "Counter-example with ρ = 1.9 > 1: g = −0.9, η = 1, L = 2 gives ρ⁺ = 361 > ρ² (a pole at g = −1)",
        after == 361,
    )
    over = sp.Rational(3, 2)
    moved = 1 - scalar_map(sp.Rational(9, 10), over, sp.Integer(2))
    rho_0 = sp.Rational(1, 10)
    d.check(
        "Counter-example with η = 3/2 > 1: at ρ = 1/10 the bound is negative, ρ⁺ is not",
        abs(moved) > (1 - over) * rho_0 + over * rho_0**2,
    )
    x_max = sp.ones(3, 3) * sp.Rational(2, 3)
    d.check(
        "Counter-example to other norms: X = (2/3)·(3 × 3 of ones) has largest entry ρ = 2/3, which is no "
        "submultiplicative norm, and the step with η = 1, L = 2 is singular",
        (sp.eye(3) - x_max / 2).det() == 0,
    )


def almost_every(d: Derivation) -> None:
    """Prove that almost every complex start converges, by following the critical points."""
    critical = ETA * (DEPTH - 1) / (DEPTH - ETA)
    d.prove(
        "Critical points of the map: besides the pole y = 0, all L-th roots of one positive number",
        sp.solve(sp.diff(newton(ROOT, ETA, DEPTH), ROOT) * ROOT**DEPTH, ROOT**DEPTH)[0],
        critical,
        formula=r"N'(y) = 0 \iff y^L = \eta (L-1)/(L - \eta)",
    )
    u = sp.Symbol("u")
    for depth in (2, 3):
        at_infinity = 1 / newton(1 / u, ETA, depth)
        d.prove(
            f"L = {depth}: infinity is a fixed point, repelling for 0 < η < 2 ≤ L: its multiplier is 1/(1 − η/L) > 1",
            sp.limit(at_infinity / u, u, 0),
            1 / (1 - ETA / depth),
        )
    d.define(
        "N commutes with y ↦ ωy and every y > 0 converges to 1, so every critical point converges to a root, except "
        "the pole, which maps to the repelling infinity: N is subhyperbolic, its Julia set has area zero (classical), "
        "and every other start lies in the basin of a root: almost every complex g converges, for every "
        "L ≥ 2 and 0 < η < 2"
    )
