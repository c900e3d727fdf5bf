"""N1: the layerwise natural gradient, exactly when it solves F v = −∇ℓ, and what it does elsewhere.

Convention: v_i = (1/L) B̃_i⁺ẼÃ_i⁺ (descent). Source: Bernacchia et al. 2018; the condition (iff) is new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp

from derivations import _network as n
from derivations._core import Derivation, evaluate
from derivations._network import Array, E, Example, dP, dQ, example, float_symbols, ladder

STATEMENTS = ("N1",)


def layerwise(i: int, depth: int) -> sp.Expr:
    """Return v_i = (1/L) B̃_i⁺ Ẽ Ã_i⁺ as an expression."""
    return sp.Rational(1, depth) * n.BP(i) * E * n.AP(i)


def derive() -> tuple[Derivation, ...]:
    """Return the derivation of N1."""
    d = Derivation("N1", "layerwise natural gradient and its condition", "Bernacchia et al. 2018; iff new")
    _two_forms(d)
    _rates(d)
    _condition(d)
    _examples(d)
    return (d,)


def _two_forms(d: Derivation) -> None:
    """B̃⁺ẼÃ⁺ is the gradient between the pseudo-inverses of the two Kronecker factors."""
    rules = n.algebra()
    i = sp.Symbol("i", integer=True, positive=True)
    gram, plus = n.BT(i) * n.B(i), n.BP(i) * n.BPT(i)
    d.define("B_iᵀΠB_i = B̃_iᵀB̃_i and A_iSA_iᵀ = Ã_iÃ_iᵀ; the candidate for (B̃ᵀB̃)⁺ is B̃⁺B̃⁺ᵀ", plus)
    d.prove("first Penrose equation", gram * plus * gram, gram, rules.reduce)
    d.prove("second Penrose equation", plus * gram * plus, plus, rules.reduce)
    d.prove(
        "third and fourth: both products are B̃⁺B̃, which is symmetric",
        gram * plus,
        n.BP(i) * n.B(i),
        rules.reduce,
    )
    d.prove("the other product", plus * gram, n.BP(i) * n.B(i), rules.reduce)
    gram_a, plus_a = n.A(i) * n.AT(i), n.APT(i) * n.AP(i)
    d.prove("likewise (ÃÃᵀ)⁺ = Ã⁺ᵀÃ⁺: first Penrose equation", gram_a * plus_a * gram_a, gram_a, rules.reduce)
    d.prove("second Penrose equation", plus_a * gram_a * plus_a, plus_a, rules.reduce)
    d.prove("third and fourth", gram_a * plus_a - plus_a * gram_a, 0, rules.reduce)
    d.prove(
        "so (B_iᵀΠB_i)⁺(−∂ℓ/∂W_i)(A_iSA_iᵀ)⁺ = B̃_i⁺ẼÃ_i⁺: the two forms of v_i agree",
        plus * (n.BT(i) * E * n.AT(i)) * plus_a,
        n.BP(i) * E * n.AP(i),
        rules.reduce,
    )


def _rates(d: Derivation) -> None:
    """Block (k,l) of the error moves at rate (l−k+1)/L."""
    rules = n.algebra()
    k, size = sp.symbols("k L", integer=True, positive=True)
    j, last = sp.symbols("j l", integer=True)
    a = sp.Symbol("a", integer=True, nonnegative=True)
    dp, dq = n.P(k) - n.P(k - 1), n.Q(k) - n.Q(k + 1)
    d.define("J v = (1/L) Σ_j P_jẼQ_j; take the block ΔP_k(·)ΔQ_l of it")
    d.prove("layers j = k+a ≥ k keep ΔP_k", dp * n.P(k + a), dp, rules.reduce)
    d.prove("layers j = k−1−a < k remove it", dp * n.P(k - 1 - a), 0, rules.reduce)
    d.prove("layers j = l−a ≤ l keep ΔQ_l (here l is called k)", n.Q(k - a) * dq, dq, rules.reduce)
    d.prove("layers j = l+1+a > l remove it", n.Q(k + 1 + a) * dq, 0, rules.reduce)
    d.prove(
        "so the layers k ≤ j ≤ l contribute the block once each: rate (l−k+1)/L for k ≤ l, 0 otherwise",
        sp.Sum(1 / size, (j, k, last)),
        (last - k + 1) / size,
        lambda rest: sp.simplify(rest.doit()),
    )
    for depth in range(1, 6):
        total = n.moved([layerwise(i, depth) for i in range(1, depth + 1)]).subs(n.Q(depth + 1), 0)
        blocks = [
            sp.Rational(last_ - first + 1, depth) * dP(first) * E * dQ(last_, depth)
            for first in range(1, depth + 1)
            for last_ in range(first, depth + 1)
        ]
        d.prove(
            f"L = {depth}, written out: J v = Σ_(k≤l) (l−k+1)/L ΔP_kẼΔQ_l",
            total,
            sp.Add(*blocks),
            rules.reduce,
            r"Jv=\sum_{k\le l}\frac{l-k+1}{L}\Delta P_k\tilde E\,\Delta Q_l",
        )
    et = n.ET
    i = sp.Symbol("i", integer=True, positive=True)
    d.prove(
        "always downhill: dℓ/dt = −⟨Ẽ, Jv⟩ = −(1/L) Σ_j ⟨Ẽ, P_jẼQ_j⟩, and ⟨Ẽ, PẼQ⟩ = ‖PẼQ‖² (under "
        "the trace)",
        et * n.P(i) * E * n.Q(i),
        rules.transpose(n.P(i) * E * n.Q(i)) * (n.P(i) * E * n.Q(i)),
        rules.trace,
    )


def _condition(d: Derivation) -> None:
    size, k, last = sp.symbols("L k l", integer=True, positive=True)
    rate = (last - k + 1) / size
    d.define("F v = −∇ℓ ⇔ J v = T: both lie in range J, on which Jᵀ is one-to-one (N2: JᵀT = JᵀẼ)")
    gap = sp.Symbol("g", integer=True)
    d.prove(
        "a block with k ≤ l may stay only if its rate is 1, that is l − k + 1 = L",
        (rate - 1).subs(last, k + gap) * size,
        gap + 1 - size,
    )
    pairs = [(first, end, depth) for depth in range(1, 9) for first in range(1, depth + 1)
             for end in range(first, depth + 1) if end - first + 1 == depth]  # fmt: skip
    d.check(
        "with 1 ≤ k ≤ l ≤ L that is the block (1, L) alone",
        pairs == [(1, depth, depth) for depth in range(1, 9)],
    )
    rules = n.algebra()
    for depth in (2, 4):
        rules_full = n.algebra()
        rules_full.rewrite(1, lambda x: sp.S.One if x.func in (n.P, n.Q) else None)
        rest = sp.Add(
            *(
                dP(a) * E * dQ(b, depth)
                for a in range(1, depth + 1)
                for b in range(a, depth + 1)
                if (a, b) != (1, depth)
            )
        )
        d.prove(
            f"L = {depth}: r(B̃_i) = n_L and r(Ã_i) = ρ for all i (P_i = Q_i = 1) leave no other block",
            rest,
            0,
            rules_full.reduce,
            formula=r"\Delta P_k\tilde E\,\Delta Q_l = 0 \quad ((k,l)\neq(1,L))",
        )
        d.check(f"L = {depth}: without that condition they do not vanish", rules.reduce(rest) != 0)


def direction(ex: Example) -> list[sp.Matrix]:
    """Return v_1…v_L of an exact example."""
    symbols = ex.symbols()
    return [evaluate(layerwise(i, ex.depth), symbols) for i in range(1, ex.depth + 1)]


def holds(ex: Example) -> bool:
    """Whether all blocks ΔP_kẼΔQ_l, k ≤ l, except (1, L) vanish."""
    symbols, depth = ex.symbols(), ex.depth
    blocks = (
        evaluate(dP(k) * E * dQ(last, depth), symbols)
        for k in range(1, depth + 1)
        for last in range(k, depth + 1)
        if (k, last) != (1, depth)
    )
    return all(block.is_zero_matrix for block in blocks)


def _examples(d: Derivation) -> None:
    for name, ex in ladder():
        solved = ex.solves(direction(ex))
        d.check(
            f"{name}: F v = −∇ℓ {'holds' if solved else 'fails'}, and so does the condition",
            solved == holds(ex),
        )
    wide = example((2, 3, 4, 2))
    d.check("2-3-4-2, hidden widths ≥ max(n_L, ρ): F v = −∇ℓ exactly", wide.solves(direction(wide)))
    bottleneck = example((5, 2, 5))
    d.check("counter-example 5-2-5: F v ≠ −∇ℓ", not bottleneck.solves(direction(bottleneck)))
    narrow = example((6, 3, 4, 2))
    d.check(
        "counter-example 6-3-4-2, no bottleneck for W but 3 < 6: F v ≠ −∇ℓ",
        not narrow.solves(direction(narrow)),
    )
    missing = [2 * v for v in direction(example((2, 2, 2)))]
    d.check("without the factor 1/L it fails even for 2-2-2", not example((2, 2, 2)).solves(missing))


def natural_gradient(
    weights: Sequence[Array], error: Array, input_cov: Array, noise_cov: Array
) -> list[Array]:
    """Evaluate (1/L) B̃_i⁺ẼÃ_i⁺ on float arrays, whether or not the condition holds.

    Parameters
    ----------
    weights : sequence of (n_i, n_{i−1}) arrays
    error : (n_L, n_0) array
        W* − W.
    input_cov, noise_cov : square arrays
        S and Σ.

    Returns
    -------
    list of (n_i, n_{i−1}) arrays
    """
    values = float_symbols(weights, error, input_cov, noise_cov)
    return [evaluate(layerwise(i, len(weights)), values) for i in range(1, len(weights) + 1)]


def functions() -> dict[str, Callable[..., Any]]:
    """Return "natural_gradient": (weights, error, input_cov, noise_cov) → list of v_i (descent)."""
    return {"natural_gradient": natural_gradient}
