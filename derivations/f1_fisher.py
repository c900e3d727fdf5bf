"""F1: the Fisher matrix of a deep linear network, its rank for any depth, and its null directions.

Convention: vec stacks columns, J_i D = B̃_i D Ã_i, F = JᵀJ. Source: Bernacchia et al. 2018; rank formula new.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp

from derivations import _network as n
from derivations._core import Algebra, Derivation, evaluate, integers, kron, operators, vec
from derivations._network import Array, example, float_symbols, ladder

STATEMENTS = ("F1",)


def derive() -> tuple[Derivation, ...]:
    """Return the derivation of F1."""
    d = Derivation("F1", "Fisher matrix and its rank", "Bernacchia et al. 2018; rank formula new")
    _blocks(d)
    _null_directions(d)
    _rank(d)
    _generic_rank(d)
    _examples(d)
    return (d,)


def _blocks(d: Derivation) -> None:
    """The covariance of the score is JᵀJ, block by block."""
    x, b, a = (
        sp.Matrix(2, 3, sp.symbols("x:6")),
        sp.Matrix(2, 2, sp.symbols("b:4")),
        sp.Matrix(2, 3, sp.symbols("a:6")),
    )
    d.prove(
        "vec(B X Aᵀ) = (A ⊗ B) vec X, column stacking, all entries symbolic",
        vec(b * x * a.T),
        kron(a, b) * vec(x),
    )
    ai, ait, aj, ajt, bi, bit, bj, bjt = operators("A₁ A₁ᵀ A₂ A₂ᵀ B₁ B₁ᵀ B₂ B₂ᵀ")
    pi, sigma, s, y, f, ft, h, ht = operators("Π Σ S D F Fᵀ H Hᵀ")
    rules = Algebra()
    rules.transposes((ai, ait), (aj, ajt), (bi, bit), (bj, bjt), (f, ft), (h, ht))
    rules.symmetric(pi, sigma, s)
    rules.rule(pi * sigma, 1)
    rules.rule(sigma * pi, 1)
    d.define("the score of layer i is B_iᵀ Π ε (A_i x)ᵀ with ε = y − Wx ~ N(0, Σ) independent of x")
    d.prove(
        "second moments of its two factors: E[B_iᵀΠε(B_jᵀΠε)ᵀ] = B_iᵀΠΣΠB_j = B_iᵀΠB_j",
        bit * pi * sigma * rules.transpose(bjt * pi),
        bit * pi * bj,
        rules.reduce,
    )
    d.define(
        "so F_ij = E[vec(score_i) vec(score_j)ᵀ] with vec(b aᵀ) = a ⊗ b",
        r"F_{ij} = (A_iSA_j^\top)\otimes(B_i^\top\Pi B_j)",
    )
    rules.rule(f * ft, s)
    rules.rule(ht * h, pi)
    d.prove(
        "and F_ij = J_iᵀJ_j: applied to any D, with J_i D = B̃_i D Ã_i and its adjoint X ↦ B̃_iᵀ X Ã_iᵀ",
        bit * ht * (h * bj * y * aj * f) * ft * ait,
        (bit * pi * bj) * y * rules.transpose(ai * s * ajt),
        rules.reduce,
    )
    _exact_score(d)


def _exact_score(d: Derivation) -> None:
    """Average the outer product of scores over a finite distribution with the moments S and Σ."""
    ex = example((3, 2, 2), rank_s=2)
    sigma_factor = ex.h.inv()
    rows, columns = ex.h.rows, ex.f.cols
    fisher = ex.jacobian.T * ex.jacobian
    total = sp.zeros(*fisher.shape)
    pi = ex.h.T * ex.h
    plain_a, plain_b = (sp.eye(3), ex.weights[0]), (ex.weights[1], sp.eye(2))
    for r, c in itertools.product(range(rows), range(columns)):
        noise, x = sigma_factor[:, r], ex.f[:, c]
        score = sp.Matrix.vstack(
            *(vec(b.T * pi * noise * (a * x).T) for a, b in zip(plain_a, plain_b, strict=True))
        )
        total += score * score.T
    d.check(
        "3-2-2 with singular S: E[score scoreᵀ] over the columns of F and of H⁻¹ is JᵀJ exactly",
        total == fisher,
    )


def _null_directions(d: Derivation) -> None:
    w1, w2, x, bi, b2, ai, a2 = operators("W₁ W₂ X B₁ B₂ A₁ A₂")
    rules = Algebra()
    rules.rule(bi, b2 * w2)
    rules.rule(a2, w1 * ai)
    d.define("two neighbouring layers, called 1 and 2: B₁ = B₂W₂ and A₂ = W₁A₁")
    d.prove(
        "F is singular for L ≥ 2: dW₁ = X W₁ with dW₂ = −W₂ X leaves W where it is, for any X",
        bi * (x * w1) * ai + b2 * (-w2 * x) * a2,
        0,
        rules.reduce,
    )


def _rank(d: Derivation) -> None:
    """range J for any depth from the nested projectors, and its dimension."""
    rules = n.algebra()
    k, i = sp.symbols("k i", integer=True, positive=True)
    a = sp.Symbol("a", integer=True, nonnegative=True)
    x, y = operators("X D")
    d.define("P_i = B̃_iB̃_i⁺ and Q_i = Ã_i⁺Ã_i are nested (N2); ΔP_k = P_k − P_{k−1}; 𝒯X = Σ_k ΔP_k X Q_k")
    d.prove(
        "𝒯 keeps range J_i: terms with k = i+1+a vanish on B̃_i D Ã_i",
        (n.P(i + 1 + a) - n.P(i + a)) * n.B(i) * y * n.A(i) * n.Q(i + 1 + a),
        0,
        rules.reduce,
    )
    d.prove(
        "and in those with k = i−a the factor Q_k does nothing",
        n.B(i) * y * n.A(i) * n.Q(i - a),
        n.B(i) * y * n.A(i),
        rules.reduce,
    )
    d.prove("while Σ_{k≤i} ΔP_k = P_i: the first sum", n.P(1) - n.P(0), n.P(1), rules.reduce)
    total = sp.Symbol("Σ_i", commutative=False)
    rules.rule(total, n.P(i))
    d.prove("and the step from i to i+1; so 𝒯J_i = J_i", total + n.dP(i + 1), n.P(i + 1), rules.reduce)
    d.prove(
        "𝒯 is idempotent: terms k = j+1+a, j are orthogonal",
        (n.P(k + 1 + a) - n.P(k + a)) * (n.P(k) - n.P(k - 1)),
        0,
        rules.reduce,
    )
    d.prove(
        "and every term is a projection, X ↦ ΔP_k X Q_k, symmetric in the inner product",
        n.dP(k + 1) * n.dP(k + 1) * x * n.Q(k + 1) * n.Q(k + 1),
        n.dP(k + 1) * x * n.Q(k + 1),
        rules.reduce,
    )
    d.prove(
        "every term lies in range J: ΔP_k X Q_k = J_k(B̃_k⁺ ΔP_k X Ã_k⁺), so 𝒯 is the projection on range J",
        n.B(k) * n.BP(k) * (n.P(k) - n.P(k - 1)) * x * n.AP(k) * n.A(k),
        (n.P(k) - n.P(k - 1)) * x * n.Q(k),
        rules.reduce,
    )
    _count(d)


def _count(d: Derivation) -> None:
    p, q = sp.Function("p"), sp.Function("q")
    size = sp.Symbol("L", integer=True, positive=True)
    claim = sp.Function("c")

    def formula(depth: int) -> sp.Expr:
        return sum((p(i) * q(i) for i in range(1, depth + 1)), sp.S.Zero) - sum(
            (p(i) * q(i + 1) for i in range(1, depth)), sp.S.Zero
        )

    d.define(
        "the trace of 𝒯 is rank F: with p_i = r(B̃_i), q_i = r(Ã_i), p_0 = 0, one layer more adds "
        "(p_{L+1} − p_L) q_{L+1}",
        sp.Eq(claim(size + 1), claim(size) + (p(size + 1) - p(size)) * q(size + 1)),
    )
    for depth in range(1, 6):
        d.prove(
            f"depth {depth}: Σ_k (p_k − p_(k−1)) q_k = Σ_i p_i q_i − Σ_(i<L) p_i q_(i+1)",
            sum(((p(k) - (p(k - 1) if k > 1 else 0)) * q(k) for k in range(1, depth + 1)), sp.S.Zero),
            formula(depth),
        )
    total = sp.Symbol("R_L")
    d.prove(
        "and the step from L to L+1 for any L: both sides grow by p_{L+1}q_{L+1} − p_L q_{L+1}",
        (p(size + 1) - p(size)) * q(size + 1) + total,
        total + p(size + 1) * q(size + 1) - p(size) * q(size + 1),
        formula=r"\operatorname{rank} F = \sum_i r(\tilde B_i)r(\tilde A_i) - \sum_{i<L} r(\tilde "
        r"B_i)r(\tilde A_{i+1})",
    )


def _generic_rank(d: Derivation) -> None:
    """Generic weights reach the dimension r(n_0 + n_L − r) of the matrices of rank r."""
    q = sp.Function("q")
    r, m, size, first, last, i = sp.symbols("r m L n_0 n_L i", integer=True, positive=True)
    d.define(
        "generic weights, narrowest width r = n_m: p_i = min(n_i…n_L), q_i = min(n_0…n_{i−1}), so "
        "p_i = r for 1 ≤ i ≤ m and q_i = r for i > m"
    )
    inner = sp.Sum(r * (q(i) - q(i + 1)), (i, 1, m)).doit()
    d.prove(
        "Σ_{i<L} p_i(q_i − q_{i+1}) + p_Lq_L telescopes to r(n_0 + n_L − r), the dimension of the "
        "rank-r matrices (0 < m < L)",
        inner.subs({q(1): first, q(m + 1): r}) + last * r,
        r * (first + last - r),
    )
    boundary = sp.Sum(r * (q(i) - q(i + 1)), (i, 1, size - 1)).doit() + r * q(size)
    d.prove(
        "m = L: p_i = r for all i gives r n_0",
        boundary.subs(q(1), first),
        (r * (first + last - r)).subs(last, r),
        formula=r"\sum_{i<L} r(q_i - q_{i+1}) + r q_L = r n_0",
    )
    agree = all(
        rank([min(w[i:]) for i in range(1, depth + 1)], [min(w[:i]) for i in range(1, depth + 1)])
        == min(w) * (w[0] + w[-1] - min(w))
        for depth in range(1, 5)
        for w in itertools.product(range(1, 5), repeat=depth + 1)
    )
    d.check("all widths up to 4 and depths up to 4 agree with r(n_0 + n_L − r)", agree)


def _examples(d: Derivation) -> None:
    for name, ex in ladder():
        p = [b.rank() for b in ex.b]
        q = [a.rank() for a in ex.a]
        fisher = ex.jacobian.T * ex.jacobian
        d.check(
            f"{name}: the rank of the exact F is {rank(p, q)} of {fisher.rows}", fisher.rank() == rank(p, q)
        )
    ex = example((4, 4, 4, 4), (3, 2, 3), seed=2)
    p, q = [b.rank() for b in ex.b], [a.rank() for a in ex.a]
    generic = example((4, 4, 4, 4), seed=2).jacobian.rank()
    d.check(
        "not only generic weights: 4-4-4-4 with layer ranks 3, 2, 3 has rank F = 13, the model "
        "manifold dimension 16",
        (p, q, rank(p, q), ex.jacobian.rank(), generic) == ([2, 3, 4], [4, 3, 2], 13, 13, 16),
        r"p = (2, 3, 4),\quad q = (4, 3, 2),\quad 8 + 9 + 8 - 6 - 6 = 13",
    )
    x = integers(4, 4, 3)
    null = [x * ex.weights[0], -ex.weights[1] * x, sp.zeros(4, 4)]
    d.check(
        "its null direction X W_1, −W_2 X, exactly", (ex.jacobian * ex.stack(null)).is_zero_matrix is True
    )


def rank(p: Sequence[int], q: Sequence[int]) -> int:
    """Return Σ_i p_i q_i − Σ_{i<L} p_i q_{i+1} for p_i = r(B̃_i), q_i = r(Ã_i)."""
    return sum(a * b for a, b in zip(p, q, strict=True)) - sum(
        a * b for a, b in zip(p[:-1], q[1:], strict=True)
    )


def fisher_block(weights: Sequence[Array], input_cov: Array, noise_cov: Array, i: int, j: int) -> Array:
    """Return F_ij = (A_i S A_jᵀ) ⊗ (B_iᵀ Π B_j), layers numbered from 1."""
    values = float_symbols(weights, np.zeros((len(noise_cov), len(input_cov))), input_cov, noise_cov)
    left = evaluate(n.A(i) * n.AT(j), values)
    right = evaluate(n.BT(i) * n.B(j), values)
    return np.kron(left, right)


def fisher(weights: Sequence[Array], input_cov: Array, noise_cov: Array) -> Array:
    """Return the whole F, blocks in the order W_1…W_L."""
    layers = range(1, len(weights) + 1)
    return np.block([[fisher_block(weights, input_cov, noise_cov, i, j) for j in layers] for i in layers])


def functions() -> dict[str, Callable[..., Any]]:
    """Return "fisher_block", "fisher" (weights, input_cov, noise_cov[, i, j]) and "rank" (p, q)."""
    return {"fisher_block": fisher_block, "fisher": fisher, "rank": rank}
