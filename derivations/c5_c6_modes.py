"""How fast do singular modes move under gradient flow and under partial correction F^{−γ}?

Statements C5 (γ = 0) and C6 (any γ), for balanced, aligned, white networks: every singular value of W obeys a scalar
equation, ds/dt = (L s^{2−2/L})^{1−γ} (ŝ − s), whose time is a hypergeometric function of s. The closed forms are
proved term by term for general exponent p = (2−2/L)(1−γ), a = 1 − p, and against their elementary cases.
Saxe, McClelland and Ganguli (2014) for γ = 0, L = 2; Huh (2020) for partial correction; the closed form is new.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy as sp

from derivations._core import Algebra, Derivation, families, operators, unvec, vec
from derivations._layers import after, bases, before, jacobian, powers
from derivations._modes import (
    A,
    X,
    degenerate,
    exponent,
    hypergeometric,
    mode,
    mode_time,
    series_term,
    vanishing_time,
    velocity,
)

STATEMENTS = ("C5", "C6")

S, TIME = sp.symbols("s t", positive=True)
P, GAMMA, DEPTH = sp.symbols("p gamma L", positive=True)
TARGET = sp.Symbol("ŝ", real=True)


def derive() -> tuple[Derivation, ...]:
    """Derive C5 and C6."""
    c5 = Derivation("C5", "Singular modes under gradient flow", "SMG; closed form new")
    _aligned_layers(c5)
    _closed_forms(c5, sp.S.Zero)
    _elementary(c5)
    _plateau(c5)
    c6 = Derivation("C6", "Singular modes under partial correction", "Huh; closed form new")
    _partial_power(c6)
    _closed_forms(c6, GAMMA)
    _vanishing_target(c6)
    _escape(c6)
    _correction_limits(c6)
    _instance(c6)
    return (c5, c6)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions, for start > 0.

    mode_time(s, start, target, depth, gamma)
        Time at which the mode is at s; inf at the target itself.
    mode(times, start, target, depth, gamma)
        The mode at the times, by inversion; nan once a mode with a negative target has vanished.
    vanishing_time(start, target, depth, gamma)
        Time at which a mode with target < 0 reaches zero; inf if p ≥ 1.
    plateau(start, target, depth)
        Leading order of the escape time from a small start, L ≥ 3, γ = 0.
    """
    leading = sp.lambdify((S, TARGET, DEPTH), _plateau_time(S, TARGET, DEPTH), "numpy")
    return {"mode_time": mode_time, "mode": mode, "vanishing_time": vanishing_time, "plateau": leading}


def _aligned_layers(d: Derivation) -> None:
    i, depth = sp.symbols("i L", integer=True, positive=True)
    u, ut, (e,) = *families("U Uᵀ"), operators("e")
    (r,) = families("r")
    algebra = Algebra()
    algebra.orthonormal(u, ut)
    powers(algebra, r)
    algebra.rewrite(
        2, lambda one, other: other * one if one == e and getattr(other, "func", None) == r else None
    )
    d.define(
        "Balanced, aligned, white: W_i = U_i r U_{i−1}ᵀ and W* − W = U_L e U_0ᵀ with diagonal r = s^{1/L} and "
        "e = ŝ − s, which commute",
        r"A_i = U_{i-1} r^{i-1} U_0^{\top}, \quad B_i = U_L r^{L-i} U_i^{\top}",
    )
    after_t, before_t = u(i) * r(depth - i) * ut(depth), u(0) * r(i - 1) * ut(i - 1)
    d.prove(
        "Gradient flow: the velocity B_iᵀ(W* − W)A_iᵀ of a layer keeps its singular vectors and moves r alike in "
        "every layer",
        after_t * (u(depth) * e * ut(0)) * before_t,
        u(i) * r(depth - 1) * e * ut(i - 1),
        algebra.reduce,
        formula=r"dW_i/dt = U_i \, r^{L-1} e \, U_{i-1}^{\top}",
    )
    rate = DEPTH * X ** (DEPTH - 1) * (X ** (DEPTH - 1) * (TARGET - S))
    d.prove(
        "With s = r^L, ds/dt = L r^{L−1} dr/dt",
        rate.subs(X, S ** (1 / DEPTH)),
        velocity(S, TARGET, DEPTH, sp.S.Zero),
    )


def _partial_power(d: Derivation) -> None:
    y, yt, x, xt, e = operators("Y Yᵀ V Vᵀ ẽ")
    (sigma,) = families("σ")
    algebra = Algebra()
    algebra.orthonormal(y, yt)
    algebra.orthonormal(x, xt)
    powers(algebra, sigma)
    j, jt = x * sigma(1) * yt, y * sigma(1) * xt
    d.prove(
        "Singular value decomposition J = VσYᵀ, F = JᵀJ: the flow v = F^{−γ}Jᵀẽ moves W by",
        j * y * sigma(-2 * GAMMA) * yt * jt * e,
        x * sigma(2 - 2 * GAMMA) * xt * e,
        algebra.reduce,
        formula=r"J F^{-\gamma} J^{\top} \mathrm{vec} \tilde{E} = (J J^{\top})^{1-\gamma} \mathrm{vec} \tilde{E}",
    )
    d.define(
        "Aligned errors excite the pairs (a, a) alone, whose eigenvalue in JJᵀ is L s^{2−2/L} (S1); the velocity "
        "is in range Jᵀ with an aligned multiplier, so balance (C4) and alignment (C5) persist",
        sp.Eq(sp.Symbol("ds/dt"), velocity(S, TARGET, DEPTH, GAMMA), evaluate=False),
    )


def _closed_forms(d: Derivation, gamma: Any) -> None:
    size, p = sp.Symbol("ŝ", positive=True), exponent(DEPTH, gamma)
    for sign, integrand in ((1, 1 - X), (-1, -1 - X)):
        scaled = velocity(size * X, sign * size, DEPTH, gamma) / size
        d.prove(
            f"x = s/|ŝ| for ŝ {'>' if sign > 0 else '<'} 0, p = (2−2/L)(1−γ)",
            scaled,
            DEPTH ** (1 - gamma) * size**p * X**p * integrand,
            lambda e: sp.simplify(sp.powsimp(sp.expand_power_base(sp.expand(e), force=True))),
            formula=rf"dx/dt = L^{{1-\gamma}} |\hat s|^p x^p ({'1 - x' if sign > 0 else '-1 - x'})",
        )
    d.define(
        "Time is an integral; Φ and its series with a = 1 − p",
        r"t = L^{\gamma-1} |\hat s|^{-p} [\Phi(x) - \Phi(x_0)] \ (\hat s > 0), \quad "
        r"-L^{\gamma-1} |\hat s|^{-p} [\Phi(x) - \Phi(x_0)] \ (\hat s < 0)",
    )
    n = sp.Symbol("n", integer=True, nonnegative=True)
    names = {"below": "0 < x < 1", "above": "x > 1", "opposite": "ŝ < 0, x > 0"}
    for branch, where in names.items():
        _branch(d, branch, where, n)


_PRINTED = {
    "below": r"\Phi = (x^a/a) \; _2F_1(1, a; 1+a; x)",
    "above": r"\Phi = x^{a-1}/(1-a) \; _2F_1(1, 1-a; 2-a; 1/x)",
    "opposite": r"\Phi = (x^a/a) \; _2F_1(1, a; 1+a; -x)",
}


def _branch(d: Derivation, branch: str, where: str, n: Any) -> None:
    front, b, z = hypergeometric(branch, X, A)
    coefficient = sp.gammasimp(sp.rf(1, n) * sp.rf(b, n) / (sp.rf(1 + b, n) * sp.factorial(n)))
    d.prove(
        f"{where}: the n-th term of prefactor · ₂F₁(1, b; 1+b; z), since (b)_n/(1+b)_n = b/(b+n)",
        front * coefficient * z**n,
        series_term(branch, n),
        lambda e: sp.simplify(sp.powsimp(sp.expand_power_base(sp.powdenest(e, force=True), force=True))),
        formula=_PRINTED[branch],
    )
    slope = sp.diff(series_term(branch, n), X)
    ratio = sp.simplify(slope.subs(n, n + 1) / slope)
    first = sp.simplify(slope.subs(n, 0))
    goal = 1 / (X ** (1 - A) * (1 + X if branch == "opposite" else 1 - X))
    d.prove(
        "  its derivative is a geometric series; the sum is 1/(x^p(1 ∓ x)) (beyond |x| = 1 by analytic "
        "continuation where ŝ < 0)",
        first / (1 - ratio),
        goal,
        formula=sp.Eq(sp.Symbol("Φ'"), goal, evaluate=False),
    )
    special = sp.S.One if branch == "above" else sp.S.Zero
    d.prove(
        f"  a = {special}: the logarithm in its place",
        sp.diff(degenerate(branch, X), X),
        goal.subs(A, special),
        formula=sp.Eq(sp.Symbol("Φ"), degenerate(branch, X), evaluate=False),
    )


def _elementary(d: Derivation) -> None:
    start = sp.Symbol("s_0", positive=True)
    size = sp.Symbol("ŝ", positive=True)
    growth = sp.exp(2 * size * TIME)
    logistic = size * growth / (growth - 1 + size / start)
    d.prove(
        "L = 2, γ = 0 (a = 0): inverting the logarithm gives the logistic curve",
        sp.diff(logistic, TIME),
        velocity(logistic, size, sp.Integer(2), 0),
    )
    d.prove("  with the right start", logistic.subs(TIME, 0), start)
    single = size + (start - size) * sp.exp(-TIME)
    d.prove(
        "L = 1 (a = 1): the exponential of C1",
        sp.diff(single, TIME),
        velocity(single, size, sp.Integer(1), 0),
    )
    front, b, z = hypergeometric("below", X, sp.Rational(1, 2))
    d.prove(
        "a = ½ (L = 2, γ = ½): Φ = 2 artanh √x",
        front * sp.hyperexpand(sp.hyper([1, b], [1 + b], z)),
        2 * sp.atanh(sp.sqrt(X)),
        lambda e: sp.simplify(e.rewrite(sp.log)) if e != 0 else e,
    )


def _plateau_time(start: Any, target: Any, depth: Any) -> Any:
    return start ** -(1 - 2 / depth) / ((depth - 2) * target)


def _plateau(d: Derivation) -> None:
    start, size = sp.symbols("s_0 ŝ", positive=True)
    p = exponent(DEPTH, sp.S.Zero)
    first = series_term("below", sp.S.Zero, start / size, 1 - p)
    d.prove(
        "L ≥ 3, γ = 0: a = −(1−2/L) < 0, and −Φ(x_0) is dominated by its first term: the plateau lasts",
        -(size**-p) / DEPTH * first,
        _plateau_time(start, size, DEPTH),
        lambda e: sp.simplify(sp.powsimp(sp.expand_power_base(sp.simplify(e), force=True))),
    )
    n = sp.Symbol("n", integer=True, positive=True)
    d.prove(
        "  the other terms of Φ(x_0) are smaller by the factors",
        series_term("below", n) / series_term("below", sp.S.Zero),
        A / (A + n) * X**n,
    )
    d.define(
        "  and vanish as x_0 → 0 because a + n > 0 for n ≥ 1; Φ(x) at the end of the plateau stays fixed"
    )


def _vanishing_target(d: Derivation) -> None:
    start = sp.Symbol("s_0", positive=True)
    t = DEPTH ** (GAMMA - 1) * (S**-P - start**-P) / P
    # P stands for its value: 1/(dt/ds) = −L^{1−γ} s^{p+1} is compared as a ratio, whose exponents cancel.
    ratio = velocity(S, sp.S.Zero, DEPTH, GAMMA) * sp.diff(t, S).subs(P, exponent(DEPTH, GAMMA))
    d.prove(
        "ŝ = 0: the product of ds/dt and dt/ds",
        _flat(ratio),
        1,
        formula=r"t = L^{\gamma-1} (s^{-p} - s_0^{-p})/p",
    )
    d.prove(
        "  p = 0: the limit is the exponential decay of C1",
        sp.limit((S**-P - start**-P) / P, P, 0),
        sp.log(start / S),
        lambda e: sp.simplify(sp.expand_log(e, force=True)),
    )


def _flat(expression: Any) -> Any:
    """Simplify products of powers of positive symbols by adding up their exponents."""
    logarithm = sp.expand_log(sp.log(expression), force=True)
    return sp.exp(sp.simplify(sp.expand(logarithm)))


def _escape(d: Derivation) -> None:
    small = sp.Symbol("x_0", positive=True)
    rising, falling = sp.symbols("a b", positive=True)
    d.prove(
        "p < 1 (a > 0): Φ(x_0) → 0 as x_0 → 0, so the time from x_0 to x stays finite as x_0 → 0 (and a "
        "mode with ŝ < 0 arrives at 0 in finite time)",
        sp.limit(series_term("below", sp.S.Zero, small, rising), small, 0),
        0,
    )
    d.check("p = 1: the logarithm diverges", sp.limit(degenerate("below", small), small, 0) == -sp.oo)
    d.check(
        "p > 1 (a = −b < 0): Φ(x_0) diverges, 0 is left and reached only after infinite time",
        sp.limit(series_term("below", sp.S.Zero, small, -falling), small, 0) == -sp.oo,
    )
    magnitude, start = sp.symbols("m s_0", positive=True)
    d.prove(
        "γ = 1 (a = 1), ŝ = −m: the mode vanishes at Φ(s_0/m) = log(1 + s_0/m), the time of C3 for μ = −m/s_0",
        sp.integrate(1 / (1 + X), (X, 0, start / magnitude)),
        sp.log(1 + 1 / (magnitude / start)),
        lambda e: sp.simplify(sp.expand_log(sp.simplify(e), force=True)),
    )


def _correction_limits(d: Derivation) -> None:
    d.prove("γ = 1: the depth drops out, C1", velocity(S, TARGET, DEPTH, 1), TARGET - S)
    d.prove(
        "γ = 0: gradient flow, C5", velocity(S, TARGET, DEPTH, 0), DEPTH * S ** (2 - 2 / DEPTH) * (TARGET - S)
    )
    start, size = sp.symbols("s_0 ŝ", positive=True)
    p = exponent(DEPTH, GAMMA)
    first = -(DEPTH ** (GAMMA - 1)) * size**-p * series_term("below", sp.S.Zero, start / size, 1 - p)
    d.prove(
        "p > 1: the plateau lasts s_0^{−(p−1)} L^{γ−1}/((p−1)ŝ)",
        _flat(first / (start ** (1 - p) * DEPTH ** (GAMMA - 1) / ((p - 1) * size))),
        1,
        formula=r"t \sim L^{\gamma-1} s_0^{-(p-1)} / ((p-1) \hat s)",
    )


def _instance(d: Derivation) -> None:
    u = bases([2, 2, 2])
    layers = [u[1] * sp.diag(1, 2) * sp.sqrt(2) * u[0].T, u[2] * sp.diag(1, 2) * sp.sqrt(2) * u[1].T]
    j = jacobian(layers).applyfunc(sp.expand)
    fisher = (j.T * j).applyfunc(sp.expand)
    parts = [j.T * vec(u[2][:, k] * u[0][:, k].T * weight) for k, weight in enumerate((3, -5))]
    for part, value in zip(parts, (4, 16), strict=True):
        rest = (fisher * part - value * part).applyfunc(sp.expand)
        d.check(
            f"Exact, L = 2, s = (2, 8): an aligned gradient is an eigenvector of F, eigenvalue L s = {value}",
            rest.is_zero_matrix,
        )
    half = parts[0] / 2 + parts[1] / 4
    moved = unvec((j * half).applyfunc(sp.expand), 2, 2)
    speeds = [velocity(sp.Integer(s), s + e, sp.Integer(2), sp.Rational(1, 2)) for s, e in ((2, 3), (8, -5))]
    d.check(
        "  γ = ½: F^{−½}(−∇ℓ) moves the singular values with the stated speeds",
        (moved - u[2] * sp.diag(*speeds) * u[0].T).applyfunc(sp.expand).is_zero_matrix,
        sp.Eq(sp.Symbol("ds/dt"), sp.Tuple(*speeds), evaluate=False),
    )
    skew = u[2] * sp.Matrix([[0, 1], [0, 0]]) * u[0].T
    turned = sum(
        (
            after(layers, i) * after(layers, i).T * skew * before(layers, i).T * before(layers, i)
            for i in (1, 2)
        ),
        start=sp.zeros(2),
    )
    d.check(
        "Counter-example: an error that is not aligned, (a, b) = (1, 2), moves at λ_ab = 2 + 8, not at L s",
        (turned - 10 * skew).applyfunc(sp.expand).is_zero_matrix,
    )
