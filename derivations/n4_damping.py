"""N4: the damped natural gradient (F + λ) v = −∇ℓ, its limits, its form for two layers, factored damping.

Convention: λ > 0; v_i = B̃_iᵀΛÃ_iᵀ (descent). Source: new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp

from derivations import _network as n
from derivations import n3_gauges as n3
from derivations._core import Algebra, Derivation, evaluate, inverse, kron, of_rank, operators, vec
from derivations._network import Array, Example, example, float_symbols, ladder

STATEMENTS = ("N4",)


def derive() -> tuple[Derivation, ...]:
    """Return the derivation of N4."""
    d = Derivation("N4", "damping: one solution, between minimum norm and gradient", "new")
    _push_through(d)
    _limits(d)
    _exact_limits(d)
    _two_layers(d)
    _factored(d)
    return (d,)


def _push_through(d: Derivation) -> None:
    j, jt, x, e = operators("J Jᵀ Λ Ẽ")
    lam = sp.Symbol("λ", positive=True)
    rules = Algebra()
    rules.rule(e, j * jt * x + lam * x)
    d.define("Λ solves JJᵀΛ + λΛ = Ẽ, which is positive definite; v = JᵀΛ")
    d.prove("then (F + λ)v = (JᵀJ + λ)JᵀΛ = JᵀẼ = −∇ℓ", (jt * j + lam) * (jt * x), jt * e, rules.reduce)
    y, yt = operators("ν νᵀ")
    both = Algebra()
    both.transposes((j, jt), (y, yt))
    d.prove(
        "and only that: νᵀ(F + λ)ν = ‖Jν‖² + λ‖ν‖² > 0",
        yt * (jt * j + lam) * y,
        both.transpose(j * y) * (j * y) + lam * yt * y,
        both.reduce,
    )
    rules_n = n.algebra()
    k = sp.Symbol("j", integer=True, positive=True)
    d.prove(
        "layer by layer: JJᵀΛ = Σ_j B̃_jB̃_jᵀ Λ Ã_jᵀÃ_j",
        n.B(k) * (n.BT(k) * x * n.AT(k)) * n.A(k),
        (n.B(k) * n.BT(k)) * x * (n.AT(k) * n.A(k)),
        rules_n.reduce,
        formula=r"JJ^\top\Lambda = \sum_j \tilde B_j\tilde B_j^\top \Lambda \tilde "
        r"A_j^\top\tilde A_j",
    )


def _limits(d: Derivation) -> None:
    """Along each singular triple of J."""
    s, lam, e = sp.symbols("σ λ e", positive=True)
    v = s / (s**2 + lam) * e
    d.define(
        "along a singular vector of J with singular value σ and error e: v = σe/(σ² + λ), the gradient −σe", v
    )
    d.prove(
        "λ → 0⁺: e/σ, the minimum norm J⁺",
        sp.Limit(v, lam, 0, "+"),
        e / s,
        lambda rest: sp.simplify(rest.doit()),
    )
    d.prove("σ = 0: v = 0 for every λ > 0, again J⁺", v.subs(s, 0), 0, formula=r"v|_{\sigma=0} = 0")
    d.prove(
        "λ → ∞: λv → σe, minus the gradient",
        sp.Limit(lam * v, lam, sp.oo),
        s * e,
        lambda rest: sp.simplify(rest.doit()),
    )
    d.prove(
        "the error of the first limit is of order λ: v = e/σ − λe/σ³ + …",
        sp.series(v, lam, 0, 2).removeO(),
        e / s - lam * e / s**3,
    )


def _exact_limits(d: Derivation) -> None:
    lam = sp.Symbol("λ", positive=True)
    for name, ex in [
        *ladder()[-2:],
        ("2-1-2, a bottleneck", example((2, 1, 2))),
        ("2-2-2, singular", example((2, 2, 2), (1, 2), 1)),
    ]:
        j = ex.jacobian
        gram = j * j.T
        solution = j.T * inverse(gram + lam * sp.eye(gram.rows)) * vec(ex.e)
        v = solution.applyfunc(sp.cancel)
        zero = v.applyfunc(lambda entry: sp.limit(entry, lam, 0, "+"))
        infinite = v.applyfunc(lambda entry: sp.limit(lam * entry, lam, sp.oo))
        d.check(
            f"{name}: v(λ) as exact rational functions tends to J⁺ vec Ẽ as λ → 0⁺",
            zero == ex.stack(n3.minimum_norm(ex)),
        )
        d.check(f"{name}: and λ v(λ) to −∇ℓ as λ → ∞", infinite == -ex.gradient)


def _two_layers(d: Derivation) -> None:
    """L = 2: Sylvester if S or Π is isotropic, three terms otherwise."""
    x, k, g, pi, pii, s = operators("Λ K G Π Π⁻¹ S")
    lam, scale = sp.symbols("λ s", positive=True)
    d.define(
        "L = 2: K = B̃_1B̃_1ᵀ, G = Ã_2ᵀÃ_2, B̃_2B̃_2ᵀ = Π (H = Π^½), Ã_1ᵀÃ_1 = S (F = S^½)",
        k * x * s + pi * x * g + lam * x,
    )
    rules = Algebra()
    rules.inverse(pi, pii)
    three = k * x * s + pi * x * g + lam * x
    d.prove(
        "S = s·1: multiplied by Π⁻¹ it is the Sylvester equation [Π⁻¹(sK + λ)]Λ + ΛG = Π⁻¹Ẽ",
        pii * three.subs(s, scale),
        (pii * (scale * k + lam)) * x + x * g,
        rules.reduce,
    )
    si = operators("S⁻¹")[0]
    rules.inverse(s, si)
    d.prove(
        "Π = p·1: multiplied by S⁻¹ it is KΛ + Λ[(pG + λ)S⁻¹] = ẼS⁻¹",
        three.subs(pi, scale) * si,
        k * x + x * ((scale * g + lam) * si),
        rules.reduce,
    )
    half = sp.Rational(1, 2)
    other = sp.Symbol("p", positive=True)
    d.prove(
        "both isotropic: symmetric as it stands, (sK + λ/2)Λ + Λ(pG + λ/2)",
        three.subs({s: scale, pi: other}),
        (scale * k + lam * half) * x + x * (other * g + lam * half),
        rules.reduce,
    )
    _tensor_rank(d)


def _tensor_rank(d: Derivation) -> None:
    """Neither isotropic: no Sylvester form."""
    ex = example((2, 2, 2), seed=5)
    f, h = sp.diag(1, 2), sp.diag(1, 3)
    generic = Example(ex.weights, f, h, ex.error)
    d.define(
        "a Sylvester equation, multiplied from left and right by anything invertible, has an "
        "operator of tensor rank "
        "≤ 2; S ⊗ K + G ⊗ Π + λ 1 ⊗ 1 has tensor rank 3 where K, Π, 1 and S, G, 1 are linearly independent"
    )
    d.check("neither isotropic (an exact 2-2-2 instance): both triples are independent, so no Sylvester "
            "form exists",
            _independent_terms(generic) == (3, 3))  # fmt: skip
    d.check(
        "S isotropic: two on the right",
        _independent_terms(Example(ex.weights, sp.eye(2), h, ex.error))[1] == 2,
    )
    d.check(
        "Π isotropic: two on the left",
        _independent_terms(Example(ex.weights, f, sp.eye(2), ex.error))[0] == 2,
    )


def _independent_terms(ex: Example) -> tuple[int, int]:
    """Numbers of linearly independent left factors {K, Π, 1} and right factors {S, G, 1}."""
    left = [vec(ex.b[0] * ex.b[0].T), vec(ex.b[1] * ex.b[1].T), vec(sp.eye(ex.h.rows))]
    right = [vec(ex.a[0].T * ex.a[0]), vec(ex.a[1].T * ex.a[1]), vec(sp.eye(ex.f.cols))]
    return sp.Matrix.hstack(*left).rank(), sp.Matrix.hstack(*right).rank()


def _factored(d: Derivation) -> None:
    x, b, a = operators("X Λ̃ Λ")
    lam, pi = sp.symbols("λ π", positive=True)
    root = sp.sqrt(lam)
    d.define("factored damping of a block: Λ̃ + √λ/π on one factor, Λ + π√λ on the other")
    factored = (b + root / pi) * x * (a + pi * root)
    exact = b * x * a + lam * x
    d.prove(
        "it adds the cross terms √λ(πΛ̃X + XΛ/π) to the exact F_ii + λ",
        factored - exact,
        root * (pi * b * x + x * a / pi),
    )
    ta, tb, n_a, n_b = sp.symbols("t_Λ t_Λ̃ n_Λ n_Λ̃", positive=True)
    cross = pi * tb * n_a + ta * n_b / pi
    best = sp.sqrt(ta * n_b / (tb * n_a))
    d.prove(
        "π² = (tr Λ/n_Λ)/(tr Λ̃/n_Λ̃) makes the trace of the cross terms stationary, hence least (it "
        "is convex in π)",
        sp.diff(cross, pi).subs(pi, best),
        0,
        formula=r"\partial_\pi\,(\pi\, n_\Lambda \operatorname{tr}\tilde{\Lambda} + "
        r"n_{\tilde{\Lambda}} \operatorname{tr}\Lambda/\pi) = 0",
    )
    left, right, g = of_rank(2, 2, 2, 3), of_rank(2, 2, 2, 8), of_rank(2, 2, 2, 12)
    left, right = left * left.T, right * right.T
    exact_v = inverse(kron(right, left) + sp.eye(4)) * vec(g)
    factored_v = vec(inverse(left + sp.eye(2)) * g * inverse(right + sp.eye(2)))
    d.check(
        "on an exact 2 × 2 block the two steps differ: factored damping is an approximation",
        exact_v != factored_v,
    )


def damped(
    weights: Sequence[Array], error: Array, input_cov: Array, noise_cov: Array, damping: float
) -> list[Array]:
    """Evaluate v_i = B̃_iᵀΛÃ_iᵀ with Σ_j B̃_jB̃_jᵀΛÃ_jᵀÃ_j + λΛ = Ẽ on float arrays (descent).

    Parameters
    ----------
    weights : sequence of (n_i, n_{i−1}) arrays
    error : (n_L, n_0) array
    input_cov, noise_cov : square arrays
    damping : float
        λ > 0.

    Returns
    -------
    list of (n_i, n_{i−1}) arrays
    """
    values = float_symbols(weights, error, input_cov, noise_cov)
    layers = range(1, len(weights) + 1)
    shape = values[n.E].shape
    operator = damping * np.eye(shape[0] * shape[1])
    for i in layers:
        operator += np.kron(evaluate(n.AT(i) * n.A(i), values), evaluate(n.B(i) * n.BT(i), values))
    solution = np.linalg.solve(operator, values[n.E].flatten(order="F")).reshape(shape, order="F")
    return [values[n.BT(i)] @ solution @ values[n.AT(i)] for i in layers]


def factored(
    weights: Sequence[Array], error: Array, input_cov: Array, noise_cov: Array, damping: float
) -> list[Array]:
    """Evaluate the block-diagonal step with π-corrected factored damping on float arrays (descent)."""
    values = float_symbols(weights, error, input_cov, noise_cov)
    out = []
    for i in range(1, len(weights) + 1):
        left, right = evaluate(n.BT(i) * n.B(i), values), evaluate(n.A(i) * n.AT(i), values)
        pi = np.sqrt((np.trace(right) / len(right)) / (np.trace(left) / len(left)))
        root = np.sqrt(damping)
        step = np.linalg.solve(
            left + root / pi * np.eye(len(left)), evaluate(n.BT(i) * n.E * n.AT(i), values)
        )
        out.append(np.linalg.solve(right + pi * root * np.eye(len(right)), step.T).T)
    return out


def functions() -> dict[str, Callable[..., Any]]:
    """Return "damped" and "factored": (weights, error, input_cov, noise_cov, damping) → list of v_i."""
    return {"damped": damped, "factored": factored}
