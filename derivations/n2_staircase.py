"""N2: the staircase natural gradient, which solves F v = −∇ℓ for any widths, ranks and S.

The proof needs nestedness of the projectors alone and holds for every depth: indices are symbols.
Convention: v = −F⁺∇ℓ up to the gauge (descent), Σ_i B̃_i v_i Ã_i = T. Source: new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp

from derivations import _network as n
from derivations._core import Algebra, Derivation, evaluate, families, operators
from derivations._network import Array, E, Example, dP, dQ, example, float_symbols, ladder

STATEMENTS = ("N2",)


def staircase(i: int, depth: int) -> sp.Expr:
    """Return v_i = B̃_i⁺ [Σ_{k≤i≤l} ΔP_k Ẽ ΔQ_l / (l−k+1)] Ã_i⁺ as an expression, for integer i and depth."""
    inner = sp.Add(
        *(
            sp.Rational(1, last - first + 1) * dP(first) * E * dQ(last, depth)
            for first in range(1, i + 1)
            for last in range(i, depth + 1)
        )
    )
    return n.BP(i) * inner * n.AP(i)


def target(depth: int) -> sp.Expr:
    """Return T = Σ_{k≤l} ΔP_k Ẽ ΔQ_l."""
    return sp.Add(*(dP(k) * E * dQ(last, depth) for k in range(1, depth + 1) for last in range(k, depth + 1)))


def derive() -> tuple[Derivation, ...]:
    """Return the derivation of N2."""
    d = Derivation("N2", "staircase natural gradient: any widths, any ranks, any S", "new")
    _nested(d)
    _blocks(d)
    _solution(d)
    _fixed_depths(d)
    _examples(d)
    _discontinuity(d)
    return (d,)


def _nested(d: Derivation) -> None:
    """P_i ⊆ P_{i+1} and Q_i ⊇ Q_{i+1} from the chain of layers."""
    rules = Algebra()
    b, bp, bt, bpt, c, cp, ct, cpt, w = operators("B̃ B̃⁺ B̃ᵀ B̃⁺ᵀ C C⁺ Cᵀ C⁺ᵀ W")
    rules.moore_penrose(b, bp, bt, bpt)
    rules.moore_penrose(c, cp, ct, cpt)
    d.define("B̃_i = B̃_{i+1}W_{i+1}: write B̃ = B̃_{i+1}, W = W_{i+1}, C = B̃_i", sp.Eq(c, b * w))
    d.prove("P_{i+1} does nothing to B̃_i", b * bp * (b * w), b * w, rules.reduce)
    rules.rule(b * bp * c, c)
    d.prove("so P_{i+1}P_i = P_i for neighbours", (b * bp) * (c * cp), c * cp, rules.reduce)
    d.prove(
        "and, transposed, P_iP_{i+1} = P_i: the projectors are symmetric (Penrose)",
        rules.transpose(b * bp),
        b * bp,
        rules.reduce,
    )
    p1, p2, p3 = operators("P_i P_j P_{j+1}")
    chain = Algebra()
    chain.rule(p3 * p2, p2)
    step = p3 * (p2 * p1)
    d.define(
        "induction: suppose P_jP_i = P_i; then P_{j+1}P_i = P_{j+1}(P_jP_i), and P_{j+1}P_j = P_j by "
        "the above"
    )
    d.prove("P_{j+1}(P_jP_i) = P_jP_i, which is P_i: P_1 ⊆ … ⊆ P_L", step, p2 * p1, chain.reduce)
    a, ap, at, apt, x = operators("Ã Ã⁺ Ãᵀ Ã⁺ᵀ Z")
    rules.moore_penrose(a, ap, at, apt)
    d.define("Ã_{i+1} = W_iÃ_i: for any C = WÃ, (C⁺C)(Ã⁺Ã) = C⁺(WÃ)Ã⁺Ã")
    d.prove(
        "so Q_{i+1}Q_i = Q_{i+1}: Q_1 ⊇ … ⊇ Q_L, by the same induction",
        x * (w * a) * (ap * a),
        x * (w * a),
        rules.reduce,
    )


def _blocks(d: Derivation) -> None:
    """The differences are orthogonal projectors, and T is an orthogonal projection of Ẽ."""
    rules = n.algebra()
    k = sp.Symbol("k", integer=True, positive=True)
    a = sp.Symbol("a", integer=True, nonnegative=True)
    dp = n.P(k + 1) - n.P(k)
    d.define(
        "ΔP_k = P_k − P_{k−1}, ΔQ_l = Q_l − Q_{l+1}, P_0 = Q_{L+1} = 0; rules P_iP_j = P_min, Q_iQ_j = Q_max"
    )
    d.prove("ΔP_k is idempotent", dp * dp, dp, rules.reduce)
    d.prove(
        "ΔP_k ΔP_k' = 0 for k ≠ k', whatever the distance",
        dp * (n.P(k + 2 + a) - n.P(k + 1 + a)),
        0,
        rules.reduce,
    )
    dq = n.Q(k) - n.Q(k + 1)
    d.prove("ΔQ_l is idempotent", dq * dq, dq, rules.reduce)
    d.prove("ΔQ_l ΔQ_l' = 0 for l ≠ l'", dq * (n.Q(k + 1 + a) - n.Q(k + 2 + a)), 0, rules.reduce)


def _solution(d: Derivation) -> None:
    """J v = T and Jᵀ T = Jᵀ Ẽ, with symbolic indices."""
    rules = n.algebra()
    i = sp.Symbol("i", integer=True, positive=True)
    j = sp.Symbol("j", integer=True)
    k, last = sp.symbols("k l", integer=True, positive=True)
    a, c = sp.symbols("a c", integer=True, nonnegative=True)
    block = (n.P(i - a) - n.P(i - a - 1)) * E * (n.Q(i + c) - n.Q(i + c + 1))
    d.define(
        "v_i = B̃_i⁺[Σ_{k≤i≤l} ΔP_k Ẽ ΔQ_l/(l−k+1)]Ã_i⁺",
        r"v_i=\tilde B_i^+\Big[\sum_{k\le i\le l}\frac{\Delta P_k\tilde E\,\Delta "
        r"Q_l}{l-k+1}\Big]\tilde A_i^+",
    )
    d.prove(
        "layer i expresses exactly the blocks k = i−a ≤ i ≤ l = i+c: B̃_iB̃_i⁺ΔP_kẼΔQ_lÃ_i⁺Ã_i is "
        "the block itself",
        n.B(i) * n.BP(i) * block * n.AP(i) * n.A(i),
        block,
        rules.reduce,
    )
    d.prove(
        "block (k,l) is expressed by the layers k ≤ j ≤ l, each with share 1/(l−k+1): together once, "
        "so J v = Σ_{k≤l} ΔP_kẼΔQ_l = T",
        sp.Sum(1 / (last - k + 1), (j, k, last)),
        1,
        lambda rest: sp.simplify(rest.doit()),
    )
    _gradient_of_target(d)


def _gradient_of_target(d: Derivation) -> None:
    """JᵀT = JᵀẼ: what layer i sees of T."""
    rules = n.algebra()
    i = sp.Symbol("i", integer=True, positive=True)
    a, c = sp.symbols("a c", integer=True, nonnegative=True)
    d.prove(
        "a block with k = i+1+a is invisible to layer i: B̃_iᵀΔP_k = 0",
        n.BT(i) * (n.P(i + 1 + a) - n.P(i + a)),
        0,
        rules.reduce,
    )
    d.prove(
        "and so is one with l = i−1−c: ΔQ_lÃ_iᵀ = 0", (n.Q(i - 1 - c) - n.Q(i - c)) * n.AT(i), 0, rules.reduce
    )
    sum_p, sum_q = operators("Σ_{k≤i}ΔP_k Σ_{l≥i}ΔQ_l")
    rules.rule(sum_p, n.P(i))
    rules.rule(sum_q, n.Q(i))
    d.prove("Σ_{k≤i}ΔP_k = P_i by induction: the step", sum_p + n.P(i + 1) - n.P(i), n.P(i + 1), rules.reduce)
    d.prove(
        "Σ_{l≥i}ΔQ_l = Q_i by induction downwards: the step",
        sum_q + n.Q(i - 1) - n.Q(i),
        n.Q(i - 1),
        rules.reduce,
    )
    d.prove(
        "so JᵀT = JᵀẼ: the terms of T that layer i sees are P_iẼQ_i (all of them have k ≤ i ≤ l)",
        n.BT(i) * sum_p * E * sum_q * n.AT(i),
        n.BT(i) * E * n.AT(i),
        rules.reduce,
    )
    d.define(
        "hence F v = JᵀJ v = JᵀT = JᵀẼ = −∇ℓ for every network, and, T = Jv with Jᵀ(Ẽ − T) = 0, T is "
        "the orthogonal projection of Ẽ on range J",
        r"F v = -\nabla\ell",
    )


def _fixed_depths(d: Derivation) -> None:
    """The same, written out in full for L = 1…6: no index is left to the reader."""
    rules = n.algebra()
    for depth in range(1, 7):
        zero = {n.Q(depth + 1): sp.S.Zero}
        directions = [staircase(i, depth).subs(zero) for i in range(1, depth + 1)]
        total = n.moved(directions)
        d.prove(f"L = {depth}, written out: Σ_i B̃_iv_iÃ_i = T", total, target(depth), rules.reduce, r"Jv=T")
        left, right = families("Y Z")
        seen = [left(i) * n.BT(i) * target(depth) * n.AT(i) * right(i) for i in range(1, depth + 1)]
        wanted = [left(i) * n.BT(i) * E * n.AT(i) * right(i) for i in range(1, depth + 1)]
        d.prove(
            f"L = {depth}, all layers at once (between arbitrary Y_i, Z_i): B̃_iᵀ T Ã_iᵀ = B̃_iᵀ Ẽ Ã_iᵀ",
            sp.Add(*seen),
            sp.Add(*wanted),
            rules.reduce,
            r"(Fv)_i = -\partial\ell/\partial W_i",
        )


def direction(ex: Example) -> list[sp.Matrix]:
    """Return v_1…v_L of an exact example."""
    symbols = ex.symbols()
    return [evaluate(staircase(i, ex.depth), symbols) for i in range(1, ex.depth + 1)]


def _examples(d: Derivation) -> None:
    for name, ex in ladder():
        v = direction(ex)
        d.check(f"{name}: F v = −∇ℓ exactly", ex.solves(v))
        projected = evaluate(target(ex.depth), ex.symbols())
        total = ex.jacobian * ex.stack(v)
        d.check(f"{name}: J v = T exactly", list(total) == list(projected.T))
    ex = example((4, 2, 4))
    wrong = [(ex.depth - i) * v for i, v in enumerate(direction(ex))]
    d.check("4-2-4: other shares (v_1 doubled) do not solve F v = −∇ℓ", not ex.solves(wrong))


def _discontinuity(d: Derivation) -> None:
    """v jumps where a rank drops: a 1-1-1 network with second weight ε."""
    eps, w, e = sp.symbols("ε w e", nonzero=True)
    first, second = e / (2 * eps), e / (2 * w)
    d.prove(
        "1-1-1 with W_2 = ε ≠ 0: B̃_1 = ε, and both layers move half of the error",
        eps * first + second * w,
        e,
        formula=r"v = (e/(2\epsilon),\ e/(2w))",
    )
    d.define("at ε = 0: P_1 = 0, so ΔP_2 = 1 and v = (0, e/w)")
    d.check(
        "lim ε→0⁺ of v_1 is infinite while at ε = 0 it is 0", sp.limit(first.subs(e, 1), eps, 0, "+") == sp.oo
    )
    zero = Example((sp.Matrix([[2]]), sp.Matrix([[0]])), sp.eye(1), sp.eye(1), sp.Matrix([[3]]))
    d.check(
        "exactly: W = (2, 0), E = 3 gives v = (0, 3/2)",
        [v[0] for v in direction(zero)] == [0, sp.Rational(3, 2)],
    )


def natural_gradient(
    weights: Sequence[Array], error: Array, input_cov: Array, noise_cov: Array, rtol: float = 1e-10
) -> list[Array]:
    """Evaluate the derived staircase formula on float arrays; the descent direction v, one array per layer.

    Parameters
    ----------
    weights : sequence of (n_i, n_{i−1}) arrays
    error : (n_L, n_0) array
        W* − W.
    input_cov, noise_cov : square arrays
        S and Σ.
    rtol : float
        Cut-off of the pseudo-inverses.

    Returns
    -------
    list of (n_i, n_{i−1}) arrays
    """
    values = float_symbols(weights, error, input_cov, noise_cov, rtol)
    depth = len(weights)
    return [evaluate(staircase(i, depth), values) for i in range(1, depth + 1)]


def functions() -> dict[str, Callable[..., Any]]:
    """Return "natural_gradient": (weights, error, input_cov, noise_cov, rtol) → list of v_i (descent)."""
    return {"natural_gradient": natural_gradient}
