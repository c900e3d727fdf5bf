"""N7: factored damping, √λ on each Kronecker factor, against the exactly damped solution, for weak and strong λ.

Convention: β, α eigenvalues of Λ̃_i = B̃_iᵀB̃_i and Λ = Ã_iÃ_iᵀ, σ² = βα of F_ii; v descends. Source: new; π of
K-FAC: Martens & Grosse 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp

from derivations import _network as n
from derivations import n3_gauges as n3
from derivations._core import (
    Algebra,
    Derivation,
    evaluate,
    inverse,
    kron,
    of_rank,
    operators,
    pinv,
    vec,
)
from derivations._network import Array, Example, example, float_symbols

STATEMENTS = ("N7",)

BETA, ALPHA, PI, ROOT = sp.symbols("β α π s", positive=True)  # s = √λ
POINT = {BETA: sp.Rational(3, 2), ALPHA: sp.Rational(1, 3), PI: sp.Rational(5, 4), ROOT: sp.Rational(2, 7)}


def factored_part(root: Any, pi: Any = PI) -> sp.Expr:
    """Return 1/((β + s/π)(α + πs)): what factored damping multiplies the gradient by."""
    return 1 / ((BETA + root / pi) * (ALPHA + pi * root))


def exact_part(root: Any) -> sp.Expr:
    """Return 1/(βα + s²)."""
    return 1 / (BETA * ALPHA + root**2)


def reach(pi: Any = PI) -> sp.Expr:
    """Return the eigenvalue of K = Λ̃⁺/π ⊕ πΛ⁺."""
    return 1 / (pi * BETA) + pi / ALPHA


def spread(pi: Any = PI) -> sp.Expr:
    """Return the eigenvalue of G = πΛ̃ ⊕ Λ/π."""
    return pi * BETA + ALPHA / pi


def derive() -> tuple[Derivation, ...]:
    """Return the derivation of N7."""
    d = Derivation("N7", "factored damping: an error of order √λ", "new; damping by π: Martens & Grosse 2015")
    _one_pair(d)
    _best_correction(d)
    _weak(d)
    _strong(d)
    _whole(d)
    _norms(d)
    _limits(d)
    _instances(d)
    return (d,)


def _agrees(left: Any, right: Any) -> bool:
    """Whether two sides are the same number at a rational point: every rewriting is tested."""
    return bool(sp.nsimplify(left.subs(POINT)) == sp.nsimplify(right.subs(POINT)))


def _one_pair(d: Derivation) -> None:
    """On one pair of singular vectors, for every λ."""
    d.define(
        "on a pair of singular vectors of B̃_i and Ã_i, with the component g of −∇ℓ: factored",
        factored_part(ROOT),
    )
    d.define("and exact damping of the block, s = √λ", exact_part(ROOT))
    ratio = factored_part(ROOT) / exact_part(ROOT)
    lost = ROOT * spread() * factored_part(ROOT)
    d.prove(
        "their ratio is below one for every λ > 0 and π > 0: factored damping damps more", ratio, 1 - lost
    )
    d.check("  the same at a rational point", _agrees(ratio, 1 - lost))
    square = (sp.sqrt(PI * BETA) - sp.sqrt(ALPHA / PI)) ** 2
    d.prove(
        "the cross terms are least where πβ = α/π: πβ + α/π = 2σ + (√(πβ) − √(α/π))²",
        spread(),
        2 * sp.sqrt(BETA * ALPHA) + square,
        lambda rest: sp.simplify(sp.expand(rest)),
    )
    sigma = sp.Symbol("σ", positive=True)
    best = (sigma**2 + ROOT**2) / (sigma + ROOT) ** 2
    d.prove(
        "so the denominator is at least (σ + s)²",
        1 / factored_part(ROOT),
        (sp.sqrt(BETA * ALPHA) + ROOT) ** 2 + ROOT * square,
        lambda rest: sp.simplify(sp.expand(rest)),
        formula=r"(\beta + s/\pi)(\alpha + \pi s) = (\sigma + s)^2 + s(\sqrt{\pi\beta} - \sqrt{\alpha/\pi})^2",
    )
    d.prove(
        "and no π, not even one for each pair, keeps more than this",
        best,
        1 - 2 * sigma * ROOT / (sigma + ROOT) ** 2,
    )
    slope = sp.factor(sp.diff(best, ROOT))
    d.prove("which is least at λ = σ²", slope, 2 * sigma * (ROOT - sigma) / (sigma + ROOT) ** 3)
    d.prove("where half of the step is lost", best.subs(ROOT, sigma), sp.Rational(1, 2), formula="1/2")


def _best_correction(d: Derivation) -> None:
    one, two = sp.symbols("x y", positive=True)
    size = one / PI**2 + two * PI**2
    best = (one / two) ** sp.Rational(1, 4)
    d.define("the first-order error of a layer, ‖(Λ̃⁺/π + πΛ⁺)u‖² = ‖Λ̃⁺u‖²/π² + π²‖uΛ⁺‖² + a term without π")
    d.prove(
        "is least at π⁴ = ‖Λ̃⁺u‖²/‖uΛ⁺‖²",
        sp.diff(size, PI).subs(PI, best),
        formula=r"\partial_\pi(x/\pi^2 + y\pi^2) = 0",
    )
    d.prove("and it is convex in π", sp.diff(size, PI, 2), 6 * one / PI**4 + 2 * two)
    c = sp.Symbol("c", positive=True)
    scaled = {BETA: c * BETA, ALPHA: ALPHA / c}
    d.prove(
        "the scale of the moments, Π → cΠ and S → S/c, leaves F; with π → π/c it leaves factored damping too",
        factored_part(ROOT, PI / c).subs(scaled, simultaneous=True),
        factored_part(ROOT),
    )
    d.check(
        "  without correction, π = 1, it does not",
        sp.simplify(factored_part(ROOT, 1).subs(scaled, simultaneous=True) - factored_part(ROOT, 1)) != 0,
    )


def _weak(d: Derivation) -> None:
    u = BETA * ALPHA * factored_part(ROOT)
    series = 1 - ROOT * reach() + ROOT**2 * (reach() ** 2 - 1 / (BETA * ALPHA))
    rest = sp.simplify((u - series) / ROOT**3)
    d.prove(
        "λ → 0: factored = [1 − √λ K + λ(K² − Λ̃⁺ ⊗ Λ⁺)] u + O(λ^{3/2}), u the undamped step of the block",
        sp.series(u, ROOT, 0, 3).removeO(),
        series,
        formula=r"v = [1 - \sqrt{\lambda} K + \lambda(K^2 - \tilde{\Lambda}^+ \otimes \Lambda^+)] u + O(\lambda^{3/2})",
    )
    d.check("  the rest over λ^{3/2} stays finite", bool(sp.limit(rest, ROOT, 0).is_finite))
    gap = BETA * ALPHA * (factored_part(ROOT) - exact_part(ROOT))
    d.prove(
        "against the exactly damped block, of which the error is of order λ, it is −√λ Ku + λK²u + O(λ^{3/2})",
        sp.series(gap, ROOT, 0, 3).removeO(),
        -ROOT * reach() + ROOT**2 * reach() ** 2,
    )
    both = 1 / (PI * BETA), PI / ALPHA
    d.prove(
        "without a difference: K² − Λ̃⁺ ⊗ Λ⁺ = L² + LR + R² with L = Λ̃⁺/π, R = πΛ⁺",
        reach() ** 2 - 1 / (BETA * ALPHA),
        both[0] ** 2 + both[0] * both[1] + both[1] ** 2,
    )


def _strong(d: Derivation) -> None:
    t = sp.Symbol("t", positive=True)  # 1/√λ
    scaled = factored_part(1 / t) / t**2
    d.prove(
        "λ → ∞: λ factored = [1 − G/√λ + (G² − Λ̃ ⊗ Λ)/λ] g + O(λ^{−3/2})",
        sp.series(sp.simplify(scaled), t, 0, 3).removeO(),
        1 - t * spread() + t**2 * (spread() ** 2 - BETA * ALPHA),
    )
    d.prove(
        "and λ exact = g − F g/λ + O(λ^{−2})",
        sp.series(sp.simplify(exact_part(1 / t) / t**2), t, 0, 4).removeO(),
        1 - t**2 * BETA * ALPHA,
    )


def _whole(d: Derivation) -> None:
    """Against the whole matrix, by resolvents: F m = g with m in the range of F."""
    f, fp, r, m, g = operators("F F⁺ R_λ m g")
    lam = sp.Symbol("λ", positive=True)
    rules = Algebra()
    rules.moore_penrose(f, fp, f, fp)
    rules.rule(g, f * m)
    rules.rule(fp * f * m, m)
    rules.rule(r * f, 1 - lam * r)
    d.define(
        "the whole matrix: g = F m with m = F⁺g the minimum-norm gauge, R_λ = (F + λ)⁻¹, R_λF = 1 − λR_λ"
    )
    d.prove("exact damping is m less λR_λ m", r * g, m - lam * r * m, rules.reduce)
    # R_λ m = R_λ F F⁺m = F⁺m − λ R_λ F⁺m, as m = F F⁺ m.
    step = f * fp * m
    commute = Algebra()
    commute.rule(r * f, 1 - lam * r)
    d.prove(
        "m = FF⁺m lies in the range: R_λ m = F⁺m − λR_λF⁺m, so v = m − λF⁺m + λ²R_λF⁺m",
        m - lam * (r * step),
        m - lam * fp * m + lam**2 * r * fp * m,
        commute.reduce,
    )


def _norms(d: Derivation) -> None:
    """The relative error from the terms of factored − exact."""
    h, size, slope = sp.symbols("h m q", positive=True)
    zero, one = sp.symbols("d e", positive=True)
    mixed, curve = sp.symbols("p r", real=True)
    squared = zero**2 + 2 * h * mixed + h**2 * (one**2 + 2 * curve)
    below = size**2 - 2 * h**2 * slope
    error = sp.sqrt(squared / below)
    d.define(
        "gap = g₀ + h g₁ + h² g₂ + …, exact = base − h² slope + …; d = ‖g₀‖, p = ⟨g₀,g₁⟩, e = ‖g₁‖, r = ⟨g₀,g₂⟩, m = "
        "‖base‖, q = ⟨base, slope⟩",
        squared,
    )
    d.prove(
        "with a constant, d > 0 (N1's formula is not the minimum norm): the error is d/m at h = 0",
        error.subs(h, 0),
        zero / size,
    )
    d.prove("its slope in h is p/(dm)", sp.diff(error, h).subs(h, 0), mixed / (zero * size))
    d.prove(
        "half its second derivative (e² + 2r − p²/d²)/(2dm) + dq/m³",
        sp.diff(error, h, 2).subs(h, 0) / 2,
        (one**2 + 2 * curve - mixed**2 / zero**2) / (2 * zero * size) + zero * slope / size**3,
    )
    other = sp.Symbol("w", real=True)  # ⟨g₁, g₂⟩
    without = h * sp.sqrt((one**2 + 2 * h * other) / below)
    d.prove(
        "without one, d = 0 (blocks; one layer): h e/m + h² ⟨g₁,g₂⟩/(em)",
        sp.series(without, h, 0, 3).removeO(),
        h * one / size + h**2 * other / (one * size),
    )


def _limits(d: Derivation) -> None:
    """Which pseudo-inverse, and when there is no limit."""
    b, bp, bt, bpt, a, ap, at, apt, e = operators("B̃ B̃⁺ B̃ᵀ B̃⁺ᵀ Ã Ã⁺ Ãᵀ Ã⁺ᵀ Ẽ")
    rules = Algebra()
    rules.moore_penrose(b, bp, bt, bpt)
    rules.moore_penrose(a, ap, at, apt)
    d.prove(
        "λ → 0, singular factors: the limit takes the Moore–Penrose inverse of each, (B̃ᵀB̃)⁺(B̃ᵀẼÃᵀ)(ÃÃᵀ)⁺ = B̃⁺ẼÃ⁺",
        (bp * bpt) * (bt * e * at) * (apt * ap),
        bp * e * ap,
        rules.reduce,
    )
    d.define("which by (A ⊗ B)⁺ = A⁺ ⊗ B⁺ is that of the block F_ii, but not of F")
    for name, beta, alpha, order in (("one factor", 0, ALPHA, 1), ("both factors", 0, 0, 2)):
        part = 1 / ((beta + ROOT / PI) * (alpha + PI * ROOT))
        d.check(
            f"a right side outside of the range of {name} (of another batch than the factors) has no limit: order "
            f"λ^−{sp.Rational(order, 2)}",
            bool(sp.limit(part * ROOT**order, ROOT, 0).is_finite) and sp.limit(part, ROOT, 0) == sp.oo,
        )
    d.check(
        "exact damping divides it by λ, whatever the factors",
        sp.limit(exact_part(ROOT).subs({BETA: 0}), ROOT, 0, "+") == sp.oo,
    )


def _instances(d: Derivation) -> None:
    for name, ex in (
        ("2-2-2", example((2, 2, 2))),
        ("2-1-2, a bottleneck", example((2, 1, 2))),
        ("2-2-2, layer ranks 1, 2", example((2, 2, 2), (1, 2))),
        ("2-2-2, rank S = 1", example((2, 2, 2), rank_s=1)),
    ):
        exact, half = _terms(ex)
        limit = [sp.Matrix(pinv(b) * ex.e * pinv(a)) for a, b in zip(ex.a, ex.b, strict=True)]
        found = [m.applyfunc(lambda x: sp.limit(x, ROOT, 0, "+")) for m in exact]
        d.check(f"{name}: the layers' limits as λ → 0 are B̃_i⁺ẼÃ_i⁺ exactly", found == limit)
        root_terms = [m.applyfunc(lambda x: sp.limit(sp.diff(x, ROOT), ROOT, 0, "+")) for m in exact]
        d.check(f"{name}: their derivatives in √λ are −Ku exactly", root_terms == half)
        whole = ex.stack(limit) / ex.depth
        shortest = ex.stack(n3.minimum_norm(ex))
        d.check(f"{name}: 1/L of them is not the minimum-norm gauge", whole != shortest)
    bottleneck = example((2, 1, 2))
    averaged = [
        sp.Matrix(pinv(b) * bottleneck.e * pinv(a)) / 2
        for a, b in zip(bottleneck.a, bottleneck.b, strict=True)
    ]
    d.check("2-1-2: nor any solution of F v = −∇ℓ", not bottleneck.solves(averaged))
    left, right, g = of_rank(2, 2, 2, 3), of_rank(2, 2, 2, 8), of_rank(2, 2, 2, 12)
    left, right = left * left.T, right * right.T
    step = inverse(left + 3 * sp.eye(2) / 2) * g * inverse(right + 3 * 2 * sp.eye(2))
    same = inverse(kron(right + 6 * sp.eye(2), left + sp.Rational(3, 2) * sp.eye(2))) * vec(g)
    d.check(
        "the two-sided solve is the inverse of the Kronecker product of the damped factors", vec(step) == same
    )


def _terms(ex: Example) -> tuple[list[sp.Matrix], list[sp.Matrix]]:
    """Return (Λ̃ + s/π)⁻¹(−∂ℓ/∂W)(Λ + πs)⁻¹ for π = 2 as functions of s, and −Ku."""
    values, slopes = [], []
    for a, b in zip(ex.a, ex.b, strict=True):
        outer, inner = b.T * b, a * a.T
        left = (outer + ROOT / 2 * sp.eye(outer.rows)).inv()
        right = (inner + 2 * ROOT * sp.eye(inner.rows)).inv()
        values.append((left * (b.T * ex.e * a.T) * right).applyfunc(sp.cancel))
        u = pinv(b) * ex.e * pinv(a)
        slopes.append(-(pinv(outer) * u / 2 + 2 * u * pinv(inner)))
    return values, slopes


# ------------------------------------------------------------------------------------------------ numbers


def factored(
    weights: Sequence[Array],
    error: Array,
    input_cov: Array,
    noise_cov: Array,
    damping: float,
    pi: float | None = None,
) -> list[Array]:
    """Evaluate (Λ̃_i + √λ/π)⁻¹(−∂ℓ/∂W_i)(Λ_{i−1} + π√λ)⁻¹ on float arrays (descent); π of the traces by default."""
    values = float_symbols(weights, error, input_cov, noise_cov)
    out = []
    for i in range(1, len(weights) + 1):
        outer, inner = evaluate(n.BT(i) * n.B(i), values), evaluate(n.A(i) * n.AT(i), values)
        balance, root = _pi(outer, inner) if pi is None else pi, damping**0.5
        step = np.linalg.solve(
            outer + root / balance * np.eye(len(outer)), evaluate(n.BT(i) * n.E * n.AT(i), values)
        )
        out.append(np.linalg.solve(inner + balance * root * np.eye(len(inner)), step.T).T)
    return out


def weak_terms(
    weights: Sequence[Array], error: Array, input_cov: Array, noise_cov: Array
) -> tuple[list[Array], list[Array], list[Array]]:
    """Evaluate u, −Ku and (K² − Λ̃⁺ ⊗ Λ⁺)u of every layer on float arrays."""
    values = float_symbols(weights, error, input_cov, noise_cov)
    zeroth, first, second = [], [], []
    for i in range(1, len(weights) + 1):
        pi = _pi(evaluate(n.BT(i) * n.B(i), values), evaluate(n.A(i) * n.AT(i), values))
        left, right = evaluate(n.BP(i) * n.BPT(i), values) / pi, evaluate(n.APT(i) * n.AP(i), values) * pi
        u = values[n.BP(i)] @ values[n.E] @ values[n.AP(i)]
        once = left @ u + u @ right
        zeroth.append(u)
        first.append(-once)
        second.append(left @ once + once @ right - left @ u @ right)
    return zeroth, first, second


def kept(beta: float, alpha: float, damping: float, pi: float) -> float:
    """Evaluate the ratio of factored to exact damping on one pair of singular vectors."""
    values = {BETA: beta, ALPHA: alpha, ROOT: damping**0.5, PI: pi}
    return float((factored_part(ROOT) / exact_part(ROOT)).subs(values))


def _pi(outer: Array, inner: Array) -> float:
    means = np.trace(inner) / len(inner), np.trace(outer) / len(outer)
    return float(np.sqrt(means[0] / means[1])) if min(means) > 0 else 1.0


def functions() -> dict[str, Callable[..., Any]]:
    """Return "factored" and "weak_terms": (weights, error, input_cov, noise_cov, …) → lists over layers; and "kept"."""
    return {"factored": factored, "weak_terms": weak_terms, "kept": kept}
