"""N6: K-FAC and EKFAC are exact on deep linear networks, and what their step does.

Convention: factors Λ_{i−1} = E[x_{i−1}x_{i−1}ᵀ], Λ̃_i = E[e_ie_iᵀ] with e_i = B_iᵀΠε, ε the model's own noise.
Source: Bernacchia et al. 2018; Martens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp

from derivations import _network as n
from derivations import n1_layerwise
from derivations._core import Algebra, Derivation, evaluate, kron, operators, vec
from derivations._network import Array, E, dP, dQ, example, float_symbols, ladder

STATEMENTS = ("N6",)


def derive() -> tuple[Derivation, ...]:
    """Return the derivation of N6."""
    d = Derivation("N6", "K-FAC and EKFAC are exact here", "Bernacchia et al. 2018; Martens")
    _factors(d)
    _eigenbasis(d)
    _step(d)
    _sampled(d)
    _empirical(d)
    return (d,)


def _factors(d: Derivation) -> None:
    a, at, b, bt, pi, sigma, s = operators("A Aᵀ B Bᵀ Π Σ S")
    rules = Algebra()
    rules.transposes((a, at), (b, bt))
    rules.symmetric(pi, sigma, s)
    rules.rule(pi * sigma, 1)
    d.prove(
        "output factor: E[e eᵀ] = BᵀΠ E[εεᵀ] ΠB = BᵀΠB",
        (bt * pi) * sigma * rules.transpose(bt * pi),
        bt * pi * b,
        rules.reduce,
    )
    d.define(
        "input factor: E[x_{i−1}x_{i−1}ᵀ] = A S Aᵀ; ε and x are independent, so the block E[(x_{i−1} "
        "⊗ e)(x_{i−1} ⊗ e)ᵀ] factorises",
        r"F_{ii} = (A_iSA_i^\top)\otimes(B_i^\top\Pi B_i)",
    )
    for name, ex in ladder()[:3]:
        j = ex.jacobian
        begin = 0
        agree = True
        for aa, bb in zip(ex.a, ex.b, strict=True):
            size = aa.rows * bb.cols
            block = (j.T * j)[begin : begin + size, begin : begin + size]
            agree = agree and block == kron(aa * aa.T, bb.T * bb)
            begin += size
        d.check(f"{name}: the diagonal blocks of F are these Kronecker products exactly", agree)


def _eigenbasis(d: Derivation) -> None:
    """In the eigenbasis of the factors the exact block is diagonal already: EKFAC corrects nothing."""
    u, ut, w, wt, x, y, z = operators("U Uᵀ V Vᵀ D_Λ D_Λ̃ X")
    rules = Algebra()
    rules.orthonormal(u, ut)
    rules.orthonormal(w, wt)
    d.define("Λ = U D_Λ Uᵀ, Λ̃ = V D_Λ̃ Vᵀ; the block maps X to Λ̃ X Λ")
    d.prove("in the eigenbasis X = V Z Uᵀ it maps Z to D_Λ̃ Z D_Λ: diagonal, with no rescaling left to EKFAC",
            wt * (w * y * wt) * (w * z * ut) * (u * x * ut) * u, y * z * x, rules.reduce)  # fmt: skip


def _step(d: Derivation) -> None:
    """The undamped block-diagonal step moves block (k,l) at rate l−k+1."""
    rules = n.algebra()
    for depth in range(1, 6):
        total = n.moved([n.BP(i) * E * n.AP(i) for i in range(1, depth + 1)]).subs(n.Q(depth + 1), 0)
        blocks = [
            (end - first + 1) * dP(first) * E * dQ(end, depth)
            for first in range(1, depth + 1)
            for end in range(first, depth + 1)
        ]
        d.prove(
            f"L = {depth}: J u = Σ_(k≤l) (l−k+1) ΔP_kẼΔQ_l for u_i = B̃_i⁺ẼÃ_i⁺",
            total,
            sp.Add(*blocks),
            rules.reduce,
            r"Ju=\sum_{k\le l}(l-k+1)\,\Delta P_k\tilde E\,\Delta Q_l",
        )
    d.prove(
        "the step is L times N1's, layer by layer (L = 1…5)",
        sp.Add(*(n.BP(i) * E * n.AP(i) for i in range(1, 6))),
        sp.Add(*(i * n1_layerwise.layerwise(i, i) for i in range(1, 6))),
        rules.reduce,
        r"u_i = L\,v_i",
    )


def _sampled(d: Derivation) -> None:
    """The sampled output factor is unbiased with variance 1/N, from Isserlis' theorem."""
    a, b, c = sp.symbols("σ_11 σ_22 σ_12", real=True)
    t1, t2 = sp.symbols("t_1 t_2", real=True)
    generating = sp.exp((a * t1**2 + 2 * c * t1 * t2 + b * t2**2) / 2)
    d.define("moment generating function of (e_1, e_2) ~ N(0, σ)", generating)

    def moment(p: int, q: int) -> sp.Expr:
        return sp.expand(sp.diff(generating, t1, p, t2, q).subs({t1: 0, t2: 0}))

    d.prove("mean of e_1e_2", moment(1, 1), c, formula=r"E[e_1e_2] = \sigma_{12}")
    d.prove(
        "variance of e_1e_2: σ_11σ_22 + σ_12²; the mean over N samples has 1/N of it, an error ~ N^{−½}",
        moment(2, 2) - moment(1, 1) ** 2,
        a * b + c**2,
    )
    d.prove("variance of e_1²: 2σ_11²", moment(4, 0) - moment(2, 0) ** 2, 2 * a**2)


def _empirical(d: Derivation) -> None:
    """The empirical Fisher does not factorise: residuals depend on inputs."""
    ex = example((2, 2, 2))
    inputs = [sp.Matrix([1, 0]), sp.Matrix([0, 1]), sp.Matrix([1, 1])]
    weight = ex.weights[1] * ex.weights[0]
    targets = [sp.Matrix([1, 2]), sp.Matrix([0, 3]), sp.Matrix([-1, 1])]
    errors = [y - weight * x for x, y in zip(inputs, targets, strict=True)]
    third = sp.Rational(1, 3)
    block = sp.zeros(4, 4)
    for x, e in zip(inputs, errors, strict=True):
        block += third * vec(e * x.T) * vec(e * x.T).T
    factors = kron(
        sum((x * x.T for x in inputs), sp.zeros(2)) / 3, sum((e * e.T for e in errors), sp.zeros(2)) / 3
    )
    d.check(
        "the empirical Fisher of three data points differs from the product of its factors", block != factors
    )
    own = sp.zeros(4, 4)
    noises = [sp.Matrix(signs) for signs in itertools.product((1, -1), repeat=2)]
    for x, e in itertools.product(inputs, noises):
        own += vec(e * x.T) * vec(e * x.T).T / 12
    white = kron(sum((x * x.T for x in inputs), sp.zeros(2)) / 3, sp.eye(2))
    d.check("with noise independent of the inputs, on the same inputs, the product is exact", own == white)


def kfac_step(weights: Sequence[Array], error: Array, input_cov: Array, noise_cov: Array) -> list[Array]:
    """Evaluate the block-diagonal step (BᵀΠB)⁺(−∂ℓ)(ASAᵀ)⁺ = B̃⁺ẼÃ⁺ (descent) on float arrays."""
    values = float_symbols(weights, error, input_cov, noise_cov)
    return [evaluate(n.BP(i) * E * n.AP(i), values) for i in range(1, len(weights) + 1)]


def factors(
    weights: Sequence[Array], error: Array, input_cov: Array, noise_cov: Array
) -> list[tuple[Array, Array]]:
    """Evaluate (A_iSA_iᵀ, B_iᵀΠB_i) in every layer on float arrays."""
    values = float_symbols(weights, error, input_cov, noise_cov)
    layers = range(1, len(weights) + 1)
    return [(evaluate(n.A(i) * n.AT(i), values), evaluate(n.BT(i) * n.B(i), values)) for i in layers]


def functions() -> dict[str, Callable[..., Any]]:
    """Return "kfac_step" and "factors": (weights, error, input_cov, noise_cov) → list over layers."""
    return {"kfac_step": kfac_step, "factors": factors}
