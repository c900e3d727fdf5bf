"""How far are deep networks from the law of one layer, and when has their loss no expectation?

The part of D3 for L ≥ 2, square invertible chains in the layerwise gauge: W⁺ = W(I + (η/L)W⁻¹D)^L with the minibatch's
D. The law of one layer holds to leading order as η → 0 on compact sets of invertible W; the second order is derived.
From step 2 on P(loss > t) ~ t^{−1/(2L(L−1))}: the expectation is infinite. New.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from derivations._core import Algebra, Derivation, families, operators
from derivations._gaussian import mean_of, sandwich
from derivations._layers import powers

ETA, DEPTH, B = sp.symbols("eta L b", positive=True)


def exponent(depth: Any) -> Any:
    """Return α where P(loss > t) ~ t^{−α}."""
    return 1 / (2 * depth * (depth - 1))


def inner(error: Any, resolvent: Any, batch: Any) -> Any:
    """Return E[DRD], D the minibatch's direction for the whitened error Ẽ, R = W̃⁻¹."""
    k = resolvent * error
    return error * k + (error * k.T + k.trace() * error + resolvent.T) / batch


def deep(d: Derivation) -> None:
    """Derive the second order in η, and the tails."""
    _map(d)
    _second_order(d)
    _mean(d)
    _deviation(d)
    _tails(d)
    _wide(d)


def correction(target: Any, total: Any, depth: int, batch: int) -> float:
    """Return lim (E ℓ⁺ − law)/η² for whitened W̃*, W̃."""
    error = target - total
    mean = inner(sp.Matrix(error), sp.Matrix(np.linalg.solve(total, np.eye(len(total)))), sp.Integer(batch))
    return -(depth - 1) / (2 * depth) * float((sp.Matrix(error).T * mean).trace())


def _map(d: Derivation) -> None:
    i = sp.Symbol("i", integer=True, positive=True)
    (a, inv_a, y), (w_inv, direction) = families("A A⁻¹ Y"), operators("W⁻¹ D")
    algebra = Algebra()
    algebra.inverse(a, inv_a)
    powers(algebra, y)
    layer = a(i + 1) * inv_a(i) + ETA / DEPTH * a(i + 1) * w_inv * direction * inv_a(i)
    d.prove(
        "The layerwise step with any direction D of the total weight in place of E, B_i⁻¹ = A_{i+1}W⁻¹ (D1)",
        layer,
        a(i + 1) * (1 + ETA / DEPTH * w_inv * direction) * inv_a(i),
        algebra.reduce,
        formula=r"W_i^+ = A_{i+1} (I + \frac{\eta}{L} W^{-1} D) A_i^{-1}",
    )
    d.prove(
        "multiplies out by induction on i, Y = I + (η/L)W⁻¹D: W is a Markov chain by itself",
        a(i + 1) * y(1) * inv_a(i) * a(i) * y(i - 1),
        a(i + 1) * y(i),
        algebra.reduce,
        formula=r"W^+ = W (I + \frac{\eta}{L} W^{-1} D)^L",
    )


def _second_order(d: Derivation) -> None:
    x = sp.Symbol("x")
    powered = sp.series((1 + ETA * x / DEPTH) ** DEPTH, ETA, 0, 3).removeO()
    d.prove(
        "To second order in η (powers of one matrix commute)",
        sp.expand(powered),
        1 + ETA * x + ETA**2 * (DEPTH - 1) / (2 * DEPTH) * x**2,
        formula=r"W^+ = W + \eta D + \eta^2 \frac{L-1}{2L} D W^{-1} D + O(\eta^3)",
    )
    e, moved, extra = sp.symbols("e d q")
    loss = (e - ETA * moved - ETA**2 * extra) ** 2 / 2 - (e - ETA * moved) ** 2 / 2
    d.prove(
        "and the loss differs from that of one layer by −η² tr Ẽᵀ[(L−1)/(2L) DW̃⁻¹D] at second order",
        sp.expand(loss).coeff(ETA, 2),
        -e * extra,
    )


def _mean(d: Derivation) -> None:
    r, e = (sp.Matrix(2, 2, sp.symbols(f"{letter}0:4")) for letter in "re")
    for batch in (1, 2):
        z = [sp.Matrix(2, 1, sp.symbols(f"z{s}_0:2")) for s in range(batch)]
        w = [sp.Matrix(2, 1, sp.symbols(f"w{s}_0:2")) for s in range(batch)]
        direction = sum(((e * u + v) * u.T for u, v in zip(z, w, strict=True)), sp.zeros(2, 2)) / batch
        names = [entry for part in (*z, *w) for entry in part]
        entry = (direction * r * direction)[0, 1]
        d.prove(
            f"E[D R D], R = W̃⁻¹, K = RẼ: an entry, every monomial, n = 2, b = {batch}",
            mean_of(entry, names),
            sp.expand(inner(e, r, sp.Integer(batch))[0, 1]),
            formula=r"\mathrm{E}[D R D] = \tilde E K + \frac{1}{b} (\tilde E K^{\top} + \mathrm{tr}(K) \tilde E "
            r"+ R^{\top})",
        )
    m = sp.Matrix(3, 3, sp.symbols("m0:9"))
    d.prove(
        "for every n by Wick: (1 − 1/b)K + (1/b)(K + Kᵀ + tr(K) I) between Ẽ and 1",
        (1 - 1 / B) * m + sandwich(m, m.trace() * sp.eye(3), m.T) / B,
        m + (m.T + m.trace() * sp.eye(3)) / B,
    )
    d.define("The noise part: E[εzᵀR εzᵀ] = E[ε εᵀ Rᵀ z zᵀ] = Rᵀ for each sample, 1/b in all")


def _deviation(d: Derivation) -> None:
    t, tau, p = sp.symbols("t tau p", positive=True)
    value = sp.exp(-2 * t) * sp.integrate(sp.exp(2 * tau) * sp.exp(-(p + 2) * tau), (tau, 0, t))
    d.prove(
        "Over kη = t steps: δ = E ℓ − law obeys δ⁺ = (1 − 2η)δ + η²c + …, so δ = ηΔ(t) with dΔ/dt = −2Δ + c along "
        "the line of C1: variation of constants, here for c = e^{−(p+2)t}",
        sp.simplify(sp.diff(value, t) + 2 * value),
        sp.exp(-(p + 2) * t),
        formula=r"\Delta(t) = \int_0^t e^{-2(t-\tau)} c(\tau) d\tau",
    )
    d.define(
        "Of the process stopped outside of a compact set of invertible W around the line: there all terms are "
        "bounded by moments of D, and exits are exponentially rare in 1/η"
    )


def _tails(d: Derivation) -> None:
    x, y, direction = sp.symbols("x y D", positive=True)
    d.prove(
        "n = 1: the layers' common factor, W = x^L, moves by Newton's step with noise (D2)",
        sp.powsimp(
            sp.expand_power_base((x**DEPTH * (1 + ETA * direction / (DEPTH * x**DEPTH)) ** DEPTH), force=True)
        ),
        sp.powsimp(
            sp.expand_power_base((x * (1 + ETA * direction / (DEPTH * x**DEPTH))) ** DEPTH, force=True)
        ),
        formula=r"x^+ = x + \frac{\eta}{L} D x^{1-L}",
    )
    d.define(
        "D has a continuous density, positive everywhere (a quadratic form plus Gaussian noise): after one step x "
        "has a density f with f(0) > 0, after which x^{1−L} has a tail"
    )
    t = sp.Symbol("t", positive=True)
    cut = sp.solve(sp.Eq(y ** (-2 * DEPTH * (DEPTH - 1)), t), y)[0]
    d.prove(
        "loss ~ x^{2L} ~ x_1^{−2L(L−1)}: P(loss > t) ~ 2f(0) P(|x_1| < cut)",
        sp.simplify(sp.log(cut) / sp.log(t)),
        -exponent(DEPTH),
        lambda rest: sp.simplify(sp.expand_log(sp.expand(rest), force=True)),
        formula=r"P(\ell > t) \sim t^{-1/(2L(L-1))}",
    )
    for depth in (2, 3, 4):
        power = 2 * depth * (depth - 1)
        d.check(
            f"L = {depth}: the expectation ∫_0 x^−{power} f(x) dx is infinite, as is the moment of order 1/{power}",
            sp.integrate(x**-power, (x, 0, 1)) == sp.oo and sp.integrate(1 / x, (x, 0, 1)) == sp.oo,
        )
    d.check("L = 1: no inverse, moments of all orders", exponent(DEPTH).subs(DEPTH, 1) == sp.zoo)
    d.define(
        "n > 1: det Y = 0 has codimension one, det Y a positive density at 0. Where Y has an eigenvalue ε, W⁺ = WY^L "
        "has a singular value ~ ε^L, and the next step adds terms ~ (W⁺)^{−(L−1)}: the same exponents"
    )
    d.define(
        "Step 1 is a polynomial of degree 2L in D: its moments are finite, the expectation ends at step 2"
    )


def _wide(d: Derivation) -> None:
    a, p, q, step = sp.symbols("a p q D", real=True)
    w1, w2 = sp.Matrix([a, 0]), sp.Matrix([p, q])
    after = w2 + ETA / 2 * step * w1 / w1.dot(w1)
    d.prove(
        "A condition: hidden width h > n. n = 1, two layers w_1 = (a, 0), w_2 = (p, q): the first step moves w_2 "
        "along w_1 alone and cannot make it vanish where q ≠ 0",
        after.dot(after).subs(step, -2 * p * a / ETA),
        q**2,
        formula=r"|w_2^+| \geq |q|",
    )
    d.define(
        "so the second loss has a mean if h ≥ 2n and the start is generic. n < h < 2n: a layer loses rank in "
        "codimension h − n + 1, P(second loss > t) ~ t^{−(h−n+1)/2} by counting: infinite from step 2 on for h ≤ n + "
        "1 only"
    )
