"""Which flows conserve the balance W_{i+1}ᵀW_{i+1} − W_iW_iᵀ of neighbouring layers?

Statement C4: every flow whose velocity lies in range Jᵀ, that is v_i = B_iᵀXA_iᵀ with one matrix X for all layers.
The layerwise gauge (the block-diagonal natural gradient divided by L) is not among them: it makes the same dW with
a longer step, and the same weights only where these are balanced, aligned and white. Huh (2020) for the
objection to the block-diagonal natural gradient; the rest is new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, families, integers, operators, vec
from derivations._layers import after, bases, before, jacobian, layerwise, least_norm, powers

STATEMENTS = ("C4",)

Array = NDArray[Any]


def drift(later: Any, later_v: Any, layer: Any, layer_v: Any) -> Any:
    """Return d/dt (W_{i+1}ᵀW_{i+1} − W_iW_iᵀ) for matrices with a transpose `.T`."""
    return later_v.T * later + later.T * later_v - layer_v * layer.T - layer * layer_v.T


def derive() -> tuple[Derivation, ...]:
    """Derive C4."""
    d = Derivation("C4", "Which flows conserve the balance of the layers", "Huh; new")
    _conserved(d)
    _members(d)
    _layerwise(d)
    _aligned(d)
    _instances(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    balance(weights)
        The matrices W_{i+1}ᵀW_{i+1} − W_iW_iᵀ, i = 1…L−1.
    balance_drift(weights, velocity)
        Their time derivatives.
    """

    def balance(weights: Sequence[Array]) -> list[Array]:
        return [b.T @ b - a @ a.T for a, b in pairwise(weights)]

    def balance_drift(weights: Sequence[Array], velocity: Sequence[Array]) -> list[Array]:
        pairs = zip(weights[:-1], velocity[:-1], weights[1:], velocity[1:], strict=True)
        return [np.asarray(vb.T @ b + b.T @ vb - va @ a.T - a @ va.T) for a, va, b, vb in pairs]

    return {"balance": balance, "balance_drift": balance_drift}


def _conserved(d: Derivation) -> None:
    i = sp.Symbol("i", integer=True)
    (w, wt, a, at, b, bt), (x, xt) = families("W Wᵀ A Aᵀ B Bᵀ"), operators("X Xᵀ")
    algebra = Algebra()
    algebra.transposes((w, wt), (a, at), (b, bt), (x, xt))
    algebra.rule(a(i + 1), w(i) * a(i))
    algebra.rule(at(i + 1), at(i) * wt(i))
    algebra.rule(b(i), b(i + 1) * w(i + 1))
    algebra.rule(bt(i), wt(i + 1) * bt(i + 1))
    layer, later = bt(i) * x * at(i), bt(i + 1) * x * at(i + 1)
    d.define(
        "A velocity in range Jᵀ",
        r"v_i = B_i^{\top} X A_i^{\top}, \quad A_{i+1} = W_i A_i, \quad "
        r"B_i = B_{i+1} W_{i+1}",
    )
    d.prove(
        "Neighbouring layers: the inner products of velocity and weight agree",
        wt(i + 1) * later,
        layer * wt(i),
        algebra.reduce,
    )
    half = wt(i + 1) * later - layer * wt(i)
    d.prove(
        "so the balance does not move, for every X, every depth and every width; X may depend on anything",
        half + algebra.transpose(half),
        0,
        algebra.reduce,
        formula=r"\frac{d}{dt}(W_{i+1}^{\top} W_{i+1} - W_i W_i^{\top}) = 0",
    )
    _biases(d, i)


def _biases(d: Derivation, i: sp.Symbol) -> None:
    (w, wt, m, mt, a, at, b, bt), (x,) = families("W Wᵀ M Mᵀ A Aᵀ B Bᵀ"), operators("X")
    algebra = Algebra()
    algebra.rule(a(i + 1), m(i) * a(i))
    algebra.rule(at(i + 1), at(i) * mt(i))
    algebra.rule(b(i), b(i + 1) * w(i + 1))
    algebra.rule(bt(i), wt(i + 1) * bt(i + 1))
    d.prove(
        "With biases (X10) layer i is M_i = [W_i b_i] for the inputs and W_{i+1} for the errors: W_{i+1}ᵀ times the "
        "velocity of W_{i+1} is the velocity of M_i times M_iᵀ",
        wt(i + 1) * bt(i + 1) * x * at(i + 1),
        bt(i) * x * at(i) * mt(i),
        algebra.reduce,
        formula=r"\frac{d}{dt}(W_{i+1}^{\top} W_{i+1} - W_i W_i^{\top} - b_i b_i^{\top}) = 0",
    )


def _members(d: Derivation) -> None:
    y, yt, x, xt, e = operators("Y Yᵀ U Uᵀ ẽ")
    (sigma,) = families("σ")
    gamma = sp.Symbol("gamma", positive=True)
    algebra = Algebra()
    algebra.orthonormal(y, yt)
    algebra.orthonormal(x, xt)
    powers(algebra, sigma)
    jt = y * sigma(1) * xt
    fisher_power = y * sigma(-2 * gamma) * yt
    d.prove(
        "F^{−γ} (Moore–Penrose power) maps range Jᵀ into itself: with J = UσYᵀ, F^{−γ}Jᵀ = Jᵀ(JJᵀ)^{−γ}",
        fisher_power * jt * e,
        jt * x * sigma(-2 * gamma) * xt * e,
        algebra.reduce,
        formula=r"F^{-\gamma} J^{\top} = J^{\top} (J J^{\top})^{-\gamma}",
    )
    d.prove(
        "γ = 1 is the minimum-norm natural gradient J⁺ẽ",
        y * sigma(-2) * yt * jt * e,
        y * sigma(-1) * xt * e,
        algebra.reduce,
        formula=r"F^+ J^{\top} = J^+",
    )
    d.define(
        "In range Jᵀ: gradient flow and minibatch gradients (X = −∂ℓ/∂W), F^{−γ}(−∇ℓ), the minimum norm J⁺ẽ, "
        "damping (F + λ)⁻¹Jᵀ = Jᵀ(JJᵀ + λ)⁻¹; from whitened Λ, X = Π^{1/2} Λ S^{1/2}"
    )


def _layerwise(d: Derivation) -> None:
    w1, w2, e = sp.symbols("w_1 w_2 e", positive=True)
    one, two = sp.Matrix([[w1]]), sp.Matrix([[w2]])
    own = [sp.Matrix([[e / (2 * w2)]]), sp.Matrix([[e / (2 * w1)]])]
    d.prove(
        "Two scalar layers, layerwise gauge: the balance moves unless w₁² = w₂²",
        drift(two, own[1], one, own[0])[0],
        e * (w2**2 - w1**2) / (w1 * w2),
    )
    norm = w1**2 + w2**2
    excess = own[0][0] ** 2 + own[1][0] ** 2 - e**2 / norm
    d.prove(
        "Its squared length exceeds the least one by a square",
        excess,
        e**2 * (w2**2 - w1**2) ** 2 / (4 * w1**2 * w2**2 * norm),
    )
    d.define(
        "In general J⁺ẽ is the unique shortest solution: a layerwise step not in range Jᵀ is strictly longer"
    )


def _aligned(d: Derivation) -> None:
    i, depth = sp.symbols("i L", integer=True, positive=True)
    u, ut = families("U Uᵀ")
    s, (e,) = families("s")[0], operators("e")
    algebra = Algebra()
    algebra.orthonormal(u, ut)
    powers(algebra, s)
    algebra.rewrite(
        2, lambda one, other: other * one if one == e and getattr(other, "func", None) == s else None
    )
    d.define(
        "Balanced, aligned, white: W_i = U_i s^{1/L} U_{i−1}ᵀ, E = U_L e U_0ᵀ, with commuting diagonal s, e",
        r"A_i = U_{i-1} s^{(i-1)/L} U_0^{\top}, \quad B_i = U_L s^{(L-i)/L} U_i^{\top}",
    )
    after_plus = u(i) * s(-(depth - i) / depth) * ut(depth)
    before_plus = u(0) * s(-(i - 1) / depth) * ut(i - 1)
    own = after_plus * (u(depth) * e * ut(0)) * before_plus / depth
    multiplier = u(depth) * s(-(2 * depth - 2) / depth) * e * ut(0) / depth
    after_t = u(i) * s((depth - i) / depth) * ut(depth)
    before_t = u(0) * s((i - 1) / depth) * ut(i - 1)
    d.prove(
        "The layerwise step is in range Jᵀ, with X = U_L (e/L) s^{−(2−2/L)} U_0ᵀ: all gauges agree",
        own,
        after_t * multiplier * before_t,
        algebra.reduce,
        formula=r"v_i = \frac{1}{L} B_i^+ E A_i^+ = B_i^{\top} X A_i^{\top}",
    )


def _instances(d: Derivation) -> None:
    layers = [integers(3, 2, 1), integers(2, 3, 2), integers(2, 2, 8) + 3 * sp.eye(2)]
    x = integers(2, 2, 5)
    velocity = [after(layers, i).T * x * before(layers, i).T for i in (1, 2, 3)]
    d.check(
        "Exact, 2-3-2-2: a random X conserves both balances",
        all(drift(layers[i + 1], velocity[i + 1], layers[i], velocity[i]).is_zero_matrix for i in (0, 1)),
    )
    teacher = integers(2, 2, 7)
    own, least = layerwise(layers, teacher), least_norm(layers, teacher)
    d.check(
        "  the minimum-norm step conserves them, the layerwise one does not",
        all(drift(layers[i + 1], least[i + 1], layers[i], least[i]).is_zero_matrix for i in (0, 1))
        and not any(drift(layers[i + 1], own[i + 1], layers[i], own[i]).is_zero_matrix for i in (0, 1)),
    )
    change = [jacobian(layers) * sp.Matrix.vstack(*(vec(part) for part in step)) for step in (own, least)]
    lengths = [sum(entry**2 for part in step for entry in part) for step in (own, least)]
    d.check(
        "  both make the same dW, the layerwise step being longer",
        change[0] == change[1] and lengths[0] > lengths[1],
        sp.Eq(sp.Symbol("ratio"), sp.N(sp.sqrt(lengths[0] / lengths[1]), 6), evaluate=False),
    )
    u = bases([2, 2, 2])
    aligned = [u[1] * sp.diag(2, 3) * u[0].T, u[2] * sp.diag(2, 3) * u[1].T]
    goal = u[2] * sp.diag(5, -1) * u[0].T
    d.check(
        "  balanced, aligned, white: the two steps are equal",
        layerwise(aligned, goal) == least_norm(aligned, goal),
    )
    d.check(
        "  balanced and white, not aligned: they differ",
        layerwise(aligned, integers(2, 2, 3)) != least_norm(aligned, integers(2, 2, 3)),
    )
