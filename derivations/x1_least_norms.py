"""X1: which norm each gauge minimises, and under which changes of hidden coordinates it is equivariant.

Convention: blockdiag(F) has the blocks F_ii = (Ã_iÃ_iᵀ) ⊗ (B̃_iᵀB̃_i). Source: new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp

from derivations import _network as n
from derivations import n2_staircase as n2
from derivations import n3_gauges as n3
from derivations._core import Algebra, Derivation, evaluate, integers, inverse, operators
from derivations._network import Array, E, Example, dP, dQ, example, float_symbols, ladder

STATEMENTS = ("X1",)


def derive() -> tuple[Derivation, ...]:
    """Return the derivation of X1."""
    d = Derivation("X1", "the gauges are least norms", "new")
    _orthogonal(d)
    _least(d)
    _equivariance(d)
    _examples(d)
    return (d,)


def _orthogonal(d: Derivation) -> None:
    """N2 is orthogonal to ker J in the block-diagonal metric."""
    rules = n.algebra()
    i, k = sp.symbols("i k", integer=True, positive=True)
    a = sp.Symbol("a", integer=True, nonnegative=True)
    d.prove(
        "vᵀ blockdiag(F) v = Σ_i ‖B̃_iv_iÃ_i‖² (one layer, under the trace)",
        n.VT(i) * (n.BT(i) * n.B(i)) * n.V(i) * (n.A(i) * n.AT(i)),
        rules.transpose(n.B(i) * n.V(i) * n.A(i)) * (n.B(i) * n.V(i) * n.A(i)),
        rules.trace,
    )
    d.define("v is the staircase N2, ν any element of ker J: Σ_i B̃_iν_iÃ_i = 0")
    d.prove(
        "layer i = k−1−a < k has no part in block (k,l)",
        (n.P(k) - n.P(k - 1)) * n.B(k - 1 - a),
        0,
        rules.reduce,
    )
    d.prove("nor has layer i = l+1+a > l", n.A(k + 1 + a) * (n.Q(k) - n.Q(k + 1)), 0, rules.reduce)
    d.define(
        "so in ⟨B̃_iv_iÃ_i, B̃_iν_iÃ_i⟩, summed over i, block (k,l) meets all layers that express it "
        "with one share 1/(l−k+1): it meets ΔP_k(Jν)ΔQ_l = 0"
    )
    for depth in range(1, 5):
        cross = sp.S.Zero
        for layer in range(1, depth + 1):
            moved = n.B(layer) * n2.staircase(layer, depth).subs(n.Q(depth + 1), 0) * n.A(layer)
            cross += rules.transpose(rules.reduce(moved)) * n.B(layer) * n.N(layer) * n.A(layer)
        total = n.moved([n.N(layer) for layer in range(1, depth + 1)])
        shares = sp.Add(
            *(
                sp.Rational(1, end - first + 1) * rules.transpose(dP(first) * E * dQ(end, depth)) * total
                for first in range(1, depth + 1)
                for end in range(first, depth + 1)
            )
        )
        d.prove(f"L = {depth}, written out: Σ_i⟨B̃_iv_iÃ_i, B̃_iν_iÃ_i⟩ = Σ_(k≤l) ⟨ΔP_kẼΔQ_l, "
                f"Jν⟩/(l−k+1)", cross, shares, rules.trace,
                r"\sum_i\langle\tilde B_iv_i\tilde A_i,\tilde B_i\nu_i\tilde A_i\rangle = \sum_{k\le "
                r"l}\frac{\langle\Delta P_k\tilde E\,\Delta Q_l,\,J\nu\rangle}{l-k+1}")  # fmt: skip


def _least(d: Derivation) -> None:
    rules = n.algebra()
    i = sp.Symbol("i", integer=True, positive=True)
    t = sp.Symbol("t", real=True)
    both = n.B(i) * (n.V(i) + t * n.N(i)) * n.A(i)
    one, other = n.B(i) * n.V(i) * n.A(i), n.B(i) * n.N(i) * n.A(i)
    d.prove(
        "v + tν costs ‖B̃vÃ‖² + 2t⟨B̃vÃ, B̃νÃ⟩ + t²‖B̃νÃ‖² per layer; the middle terms add to 0: N2 is least",
        rules.transpose(both) * both,
        rules.transpose(one) * one
        + 2 * t * rules.transpose(one) * other
        + t**2 * rules.transpose(other) * other,
        rules.trace,
    )
    d.prove(
        "among equals (B̃_iν_iÃ_i = 0) it is the shortest: v_i = B̃_i⁺B̃_i v_i Ã_iÃ_i⁺",
        n.BP(i) * n.B(i) * (n.BP(i) * E * n.AP(i)) * n.A(i) * n.AP(i),
        n.BP(i) * E * n.AP(i),
        rules.reduce,
    )
    d.define("minimum norm minimises ‖v‖² by N3: v in range Jᵀ")


def _equivariance(d: Derivation) -> None:
    """W_i → C_iW_iC_{i−1}⁻¹ with C_0 = C_L = 1."""
    b, bp, bt, bpt, a, ap, at, apt = operators("B̃ B̃⁺ B̃ᵀ B̃⁺ᵀ Ã Ã⁺ Ãᵀ Ã⁺ᵀ")
    c, ci, ct, cit, g, gi, gt, git, v, vt = operators("C C⁻¹ Cᵀ C⁻ᵀ D D⁻¹ Dᵀ D⁻ᵀ v vᵀ")
    rules = Algebra()
    rules.moore_penrose(b, bp, bt, bpt)
    rules.moore_penrose(a, ap, at, apt)
    rules.transposes((c, ct), (ci, cit), (g, gt), (gi, git), (v, vt))
    for one, other in ((c, ci), (ct, cit), (g, gi), (gt, git)):
        rules.inverse(one, other)
    d.define("W_i → C_iW_iC_{i−1}⁻¹: with C = C_i, D = C_{i−1}, Ã → DÃ and B̃ → B̃C⁻¹")
    d.prove(
        "v → CvD⁻¹ keeps what layer i does to W̃, so solutions go to solutions",
        (b * ci) * (c * v * gi) * (g * a),
        b * v * a,
        rules.reduce,
    )
    rules.rule(bp * b, 1)
    rules.rule(bt * bpt, 1)
    rules.rule(a * ap, 1)
    rules.rule(apt * at, 1)
    d.define("blockdiag(F) non-singular: B̃⁺B̃ = 1, ÃÃ⁺ = 1")
    new, plus = b * ci, c * bp
    d.prove("(B̃C⁻¹)⁺ = CB̃⁺: first Penrose equation", new * plus * new, new, rules.reduce)
    d.prove("second", plus * new * plus, plus, rules.reduce)
    d.prove("third: B̃C⁻¹·CB̃⁺ = P is unchanged", new * plus, b * bp, rules.reduce)
    d.prove("fourth: CB̃⁺·B̃C⁻¹ = 1", plus * new, 1, rules.reduce)
    other, plus_a = g * a, ap * gi
    d.prove("(DÃ)⁺ = Ã⁺D⁻¹: first Penrose equation", other * plus_a * other, other, rules.reduce)
    d.prove("second", plus_a * other * plus_a, plus_a, rules.reduce)
    d.prove("third: Ã⁺D⁻¹·DÃ = Q is unchanged", plus_a * other, ap * a, rules.reduce)
    d.prove("fourth", other * plus_a, 1, rules.reduce)
    block = operators("ΔẼΔ")[0]
    d.prove(
        "so N2's v → CvD⁻¹",
        plus * block * plus_a,
        c * (bp * block * ap) * gi,
        rules.reduce,
        formula=r"(\tilde BC^{-1})^+\,[\cdot]\,(D\tilde A)^+ = C\,\tilde B^+[\cdot]\tilde A^+\,D^{-1}",
    )
    _orthogonal_changes(d)


def _orthogonal_changes(d: Derivation) -> None:
    c, ct, g, gt, v, vt = operators("C Cᵀ D Dᵀ v vᵀ")
    orthogonal = Algebra()
    orthogonal.transposes((c, ct), (g, gt), (v, vt))
    orthogonal.rule(ct * c, 1)
    orthogonal.rule(gt * g, 1)
    moved = c * v * gt
    d.prove(
        "orthogonal C_i keep ‖v‖ (D⁻¹ = Dᵀ, under the trace), hence the minimum-norm gauge",
        orthogonal.transpose(moved) * moved,
        vt * v,
        orthogonal.trace,
    )


def transformed(ex: Example, changes: Sequence[sp.Matrix]) -> Example:
    """Return the example with W_i → C_iW_iC_{i−1}⁻¹; changes are C_0…C_L."""
    weights = tuple(changes[i + 1] * weight * inverse(changes[i]) for i, weight in enumerate(ex.weights))
    return Example(weights, ex.f, ex.h, ex.error)


def _follows(ex: Example, changes: Sequence[sp.Matrix], gauge: Callable[[Example], list[sp.Matrix]]) -> bool:
    expected = [changes[i + 1] * v * inverse(changes[i]) for i, v in enumerate(gauge(ex))]
    return gauge(transformed(ex, changes)) == expected


def block_form(ex: Example, direction: Sequence[sp.Matrix]) -> sp.Expr:
    """Return vᵀ blockdiag(F) v of an exact example."""
    return sum(
        (sum(x**2 for x in b * v * a) for b, v, a in zip(ex.b, direction, ex.a, strict=True)), sp.S.Zero
    )


def _examples(d: Derivation) -> None:
    for name, ex in ladder():
        if ex.depth < 2:
            continue
        v = n2.direction(ex)
        x = integers(ex.weights[0].rows, ex.weights[0].rows, 5)
        null = [sp.zeros(*weight.shape) for weight in ex.weights]
        null[0], null[1] = x * ex.weights[0], -ex.weights[1] * x
        other = [a + b for a, b in zip(v, null, strict=True)]
        shortest = n3.minimum_norm(ex)
        d.check(f"{name}: N2 costs no more in blockdiag(F) than v + ν and than the minimum-norm solution",
                block_form(ex, v) <= min(block_form(ex, other), block_form(ex, shortest)))  # fmt: skip
    ex = example((2, 2, 2), seed=3)
    skew, rotation = sp.Matrix([[1, 2], [0, 1]]), sp.Matrix([[3, -4], [4, 3]]) / 5
    one = sp.eye(2)
    d.check("2-2-2, C_1 = a shear: N2 follows exactly", _follows(ex, (one, skew, one), n2.direction))
    d.check("the minimum norm does not", not _follows(ex, (one, skew, one), n3.minimum_norm))
    d.check(
        "C_1 = a rotation: both follow",
        all(_follows(ex, (one, rotation, one), g) for g in (n2.direction, n3.minimum_norm)),
    )
    wide = example((2, 3, 2), seed=3)
    shear = sp.Matrix([[1, 2, 0], [0, 1, 0], [1, 0, 1]])
    d.check(
        "2-3-2, where blockdiag(F) is singular: N2 does not follow a shear",
        not _follows(wide, (one, shear, one), n2.direction),
    )


def block_quadratic_form(
    weights: Sequence[Array], direction: Sequence[Array], input_cov: Array, noise_cov: Array
) -> float:
    """Evaluate vᵀ blockdiag(F) v = Σ_i tr[v_iᵀ(B̃_iᵀB̃_i)v_i(Ã_iÃ_iᵀ)] on float arrays."""
    error = np.zeros((len(noise_cov), len(input_cov)))
    values = float_symbols(weights, error, input_cov, noise_cov)
    for i, v in enumerate(direction, 1):
        values[n.V(i)], values[n.VT(i)] = v, v.T
    terms = (n.VT(i) * n.BT(i) * n.B(i) * n.V(i) * n.A(i) * n.AT(i) for i in range(1, len(weights) + 1))
    return float(sum(np.trace(evaluate(term, values)) for term in terms))


def transform(arrays: Sequence[Array], changes: Sequence[Array]) -> list[Array]:
    """Return C_iX_iC_{i−1}⁻¹ for weights or directions X_i; changes are C_0…C_L."""
    return [np.linalg.solve(changes[i].T, (changes[i + 1] @ x).T).T for i, x in enumerate(arrays)]


def functions() -> dict[str, Callable[..., Any]]:
    """Return "block_quadratic_form" (weights, direction, input_cov, noise_cov) and "transform"."""
    return {"block_quadratic_form": block_quadratic_form, "transform": transform}
