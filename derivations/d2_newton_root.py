"""Why is natural descent Newton's iteration for the L-th root, and which step sizes are safe?

Statement D2: an eigenvalue w = y^L of W*⁻¹W turns the map of D1 into relaxed Newton steps for y^L = 1. Local rate,
the overshoot bound η₁(g), monotone and global convergence on g > 0, the contraction of ‖I − W⁻¹W*‖, the fate of
negative g, half-planes for L = 2. New; Newton's iteration itself and its basins are classical (Cayley 1879), and the
theorem that an interval map without 2-cycles sends every bounded orbit to a fixed point is Coppel's (1955).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy as sp

from derivations._core import Derivation
from derivations._newton import (
    ROOT,
    almost_every,
    bound,
    contraction,
    convergence,
    landing,
    newton,
    overshoot_limit,
)
from derivations.d1_exact_map import DEPTH, ETA, MODE, bracket, scalar_map

STATEMENTS = ("D2",)


def derive() -> tuple[Derivation, ...]:
    """Derive D2."""
    d = Derivation("D2", "Natural descent is Newton's iteration for the L-th root", "new")
    _newton(d)
    _overshoot(d)
    convergence(d)
    contraction(d)
    _numbers(d)
    _half_planes(d)
    _negative(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    newton(y, eta, depth)
        A relaxed Newton step for y^L = 1 (real or complex y).
    monotone_limit(g, depth)
        η₁(g) for g ≠ 1.
    contraction(rho, eta)
        The bound (1 − η)ρ + ηρ² on ‖I − W⁻¹W*‖ after a step.
    first_landing(g, eta, depth)
        The multiple of the target at which the first step lands.
    """
    rho = sp.Symbol("rho", positive=True)
    return {
        "newton": sp.lambdify((ROOT, ETA, DEPTH), newton(ROOT, ETA, DEPTH), "numpy"),
        "monotone_limit": sp.lambdify((MODE, DEPTH), overshoot_limit(MODE, DEPTH), "numpy"),
        "contraction": sp.lambdify((rho, ETA), bound(rho), "numpy"),
        "first_landing": sp.lambdify((MODE, ETA, DEPTH), landing(MODE, ETA, DEPTH), "numpy"),
    }


def _newton(d: Derivation) -> None:
    d.define(
        "w = 1/g = y^L: the eigenvalue of W*⁻¹W and its L-th root, which the layers share", r"w^+ = 1/g^+"
    )
    image = 1 / scalar_map(ROOT**-DEPTH, ETA, DEPTH)
    inner = sp.expand(ROOT * bracket(ROOT**-DEPTH, ETA, DEPTH))
    d.prove(
        "D1 says w⁺ = (y(1 + η(y^{−L} − 1)/L))^L",
        image,
        (ROOT * bracket(ROOT**-DEPTH, ETA, DEPTH)) ** DEPTH,
        _ratio_free,
    )
    d.prove(
        "whose root is Newton's step for y^L − 1, multiplied by η",
        inner,
        newton(ROOT, ETA, DEPTH),
        formula=r"y^+ = y - \eta \, (y^L - 1)/(L y^{L-1})",
    )
    d.prove("Local rate at the root y = 1", sp.diff(newton(ROOT, ETA, DEPTH), ROOT).subs(ROOT, 1), 1 - ETA)
    omega = sp.Symbol("omega")
    for depth in (2, 3, 4):
        turned = sp.expand(newton(omega * ROOT, ETA, depth) * omega ** (depth - 1)).subs(omega**depth, 1)
        d.prove(
            f"L = {depth}: where ω^L = 1 the map commutes with y ↦ ωy, so every root has the same local rate",
            turned,
            newton(ROOT, ETA, depth),
            formula=r"N(\omega y) = \omega N(y)",
        )


def _ratio_free(expression: Any) -> Any:
    terms = sp.Add.make_args(sp.expand_power_base(sp.powdenest(expression, force=True), force=True))
    if len(terms) != 2:
        return sp.simplify(expression)
    quotient = sp.simplify(sp.expand(sp.expand_log(sp.log(-terms[0] / terms[1]), force=True)))
    return sp.S.Zero if quotient == 0 else expression


def _same_power(expression: Any) -> Any:
    """Merge (x²)^{−h} with x^{−2h}, which agree for real x and integer h, and simplify."""
    merged = expression.replace(
        lambda e: e.is_Pow and e.base.is_Pow and e.base.exp == 2, lambda e: e.base.base ** (2 * e.exp)
    )
    return sp.simplify(merged)


def _overshoot(d: Derivation) -> None:
    d.prove(
        "At η₁(g) the step lands exactly on g = 1",
        bracket(MODE, overshoot_limit(MODE, DEPTH), DEPTH),
        MODE ** (1 / DEPTH),
        formula=r"\eta_1(g) = L (g^{1/L} - 1)/(g - 1)",
    )
    d.define(
        "(1 + η(g−1)/L)^L grows with η for g > 1 and shrinks for g < 1: no overshoot ⇔ η ≤ η₁(g) on both sides"
    )
    partial = (ROOT**DEPTH - 1) / (ROOT - 1)
    d.prove(
        "η₁ = L/(1 + y + … + y^{L−1}) with y = g^{1/L}: induction on L of the geometric sum",
        (ROOT - 1) * (partial + ROOT**DEPTH) - (ROOT ** (DEPTH + 1) - 1),
        0,
        lambda e: sp.expand(sp.simplify(e)),
        formula=r"(y^{L+1}-1)/(y-1) = (y^L - 1)/(y-1) + y^L",
    )
    d.prove(
        "Every term y^j with j ≥ 1 grows: η₁ decreases with g, below 1 for g > 1 and above 1 for g < 1, from",
        sp.limit(overshoot_limit(MODE, DEPTH), MODE, 1),
        1,
        formula=r"\eta_1(1) = 1",
    )
    d.define(
        "If η ≤ min(1, η₁(g)) then g⁺ lies between 1 and g, where η₁ is no smaller (g > 1) or at least 1 (g < 1): "
        "monotone for ever. If η > 1, the local rate 1 − η < 0 overshoots, unless a step lands on 1 exactly; so, but "
        "for those countably many starts, monotone ⇔ η ≤ min(1, η₁(g_max))"
    )
    d.check(
        "Such a start: g = 1/4, L = 2, η = η₁(g) = 4/3 > 1 is at 1 after one step",
        overshoot_limit(sp.Rational(1, 4), sp.Integer(2)) == sp.Rational(4, 3)
        and scalar_map(sp.Rational(1, 4), sp.Rational(4, 3), sp.Integer(2)) == 1,
    )


def _numbers(d: Derivation) -> None:
    g = sp.Integer(1000)
    limits = [overshoot_limit(g, sp.Integer(depth)) for depth in (2, 3, 4)]
    decimals = [sp.N(value, 4) for value in limits]
    for value, (low, high) in zip(limits, ((613, 614), (270, 271), (185, 186)), strict=True):
        d.check(
            f"η₁(10³) between {low / 10**4} and {high / 10**4}",
            bool(sp.Rational(low, 10**4) <= value) and bool(value < sp.Rational(high, 10**4)),
        )
    d.define("η₁(10³) for L = 2, 3, 4", sp.Tuple(*decimals))
    first = [landing(g, sp.S.One, sp.Integer(depth)) for depth in (2, 3, 4)]
    d.check(
        "Starting too small, w = 10⁻³, η = 1: the first step lands at this multiple of the target (exact)",
        first == [sp.Rational(1001**2, 4000), sp.Rational(334**3, 1000), sp.Rational(1003**4, 256000)],
        sp.Tuple(*first),
    )
    d.check(
        "  that is 250, 3.7·10⁴ and 4·10⁶, growing with depth",
        [int(v) for v in first] == [250, 37259, 3953336],
        sp.Tuple(*[sp.N(v, 3) for v in first]),
    )


def _half_planes(d: Derivation) -> None:
    re, im = sp.symbols("alpha beta", real=True)
    z = re + sp.I * im
    step = newton(z, ETA, 2)
    d.prove(
        "L = 2: the real part of y keeps its sign for 0 < η < 2",
        sp.re(sp.simplify(sp.expand_complex(step))),
        re * (1 - ETA / 2 + ETA / (2 * (re**2 + im**2))),
    )
    y = sp.Symbol("y")
    moebius = (newton(y, ETA, 2) - 1) / (newton(y, ETA, 2) + 1)
    x = (y - 1) / (y + 1)
    d.prove(
        "In x = (y−1)/(y+1), the half-plane Re y > 0 is the disc, and the map a Blaschke product",
        moebius,
        x * (x + 1 - ETA) / (1 + (1 - ETA) * x),
        formula=r"x^+ = x \frac{x + 1 - \eta}{1 + (1-\eta) x}",
    )
    d.define(
        "|1 − η| < 1: it maps the disc into itself with |x⁺| < |x| (Schwarz), so the half-planes are the basins of "
        "y = ±1; for L ≥ 3 the basins are fractal (at η = 1 Newton's, classical)"
    )
    almost_every(d)
    cube = sp.expand(newton(sp.Integer(-1), sp.S.One, 3))
    d.check(
        "L = 3, η = 1: y = −1 maps to −1/3, then to 25/9, across the other roots' sectors",
        cube == sp.Rational(-1, 3) and newton(cube, sp.S.One, 3) == sp.Rational(25, 9),
    )


def _negative(d: Derivation) -> None:
    size = sp.Symbol("u", positive=True)
    half = sp.Symbol("h", integer=True, positive=True)
    square = bracket(-size, ETA, 2 * half) ** 2
    d.prove(
        "L = 2h even, real g = −u < 0: g⁺/g is a power of the square of the real bracket, so g never becomes "
        "positive (where the bracket vanishes W⁺ is singular)",
        scalar_map(-size, ETA, 2 * half) / -size,
        square**-half,
        _same_power,
        formula=r"g^+ = g [(1 - \eta (u + 1)/L)^2]^{-h}",
    )
    for depth in (3, 5):
        gain = sp.factor(newton(-size, ETA, depth) + size)
        d.prove(f"L = {depth}, y = −u < 0: y grows by", gain, ETA / depth * (size + size ** (1 - depth)))
    d.define(
        "L odd: the gain has no zero, so y cannot converge on y < 0 and enters y > 0, unless it hits 0 exactly (a "
        "countable set of starts): the step jumps over the singularity at which the flow stops (C3)"
    )
    orbit = [sp.Integer(-2)]
    while orbit[-1] < 0:
        orbit.append(newton(orbit[-1], sp.S.One, 3))
    d.check(
        "Exact, L = 3, η = 1 from y = −2 (g = −1/8): negative until it jumps to a positive value",
        len(orbit) > 2 and orbit[-1] > 0 and all(value < 0 for value in orbit[:-1]),
        sp.Tuple(*orbit),
    )
