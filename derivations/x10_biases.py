"""X10: biases make the layers affine; the same theorems, and centring as the elimination of the bias.

Convention: M_i = [W_i b_i; 0 1], x̂ = (x, 1), Ŝ = E[x̂x̂ᵀ], directions [dW_i db_i], Ã_i = M_{i−1}⋯M_1F̂ with
Ŝ = F̂F̂ᵀ, B̃_i from the W's alone, Ẽ = H[W*−W, c*−c]F̂. Source: new; centring Desjardins et al. 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from derivations import n1_layerwise as n1
from derivations import n2_staircase as n2
from derivations._core import (
    Algebra,
    Derivation,
    evaluate,
    integers,
    inverse,
    of_rank,
    operators,
    pinv,
    product,
    vec,
)
from derivations._network import Array, Example, float_symbols

STATEMENTS = ("X10",)


def derive() -> tuple[Derivation, ...]:
    """Return the derivation of X10."""
    d = Derivation("X10", "biases: the same theorems in the affine group", "new; Desjardins et al. 2015")
    _group(d)
    _elimination(d)
    _singular(d)
    _spectrum(d)
    _teacher(d)
    _gradient(d)
    _examples(d)
    return (d,)


def _matrix(rules: Algebra) -> Callable[[Any], Any]:
    """Reduce the entries of a block matrix."""
    return lambda block: sp.Matrix(block).applyfunc(rules.reduce)


def _times(one: sp.Matrix, other: sp.Matrix) -> sp.Matrix:
    """Multiply block matrices, factors kept in order."""
    return sp.Matrix(
        one.rows, other.cols, lambda i, j: sp.Add(*(one[i, k] * other[k, j] for k in range(one.cols)))
    )


def _group(d: Derivation) -> None:
    w1, w2, b1, b2, x, y, c, w0, c0 = operators("W₁ W₂ b₁ b₂ D δ c A a")
    rules = Algebra()
    one, two = sp.Matrix([[w1, b1], [0, 1]]), sp.Matrix([[w2, b2], [0, 1]])
    d.prove(
        "the affine layers compose as maps do: x ↦ W₂(W₁x + b₁) + b₂",
        _times(two, one),
        sp.Matrix([[w2 * w1, w2 * b1 + b2], [0, 1]]),
        _matrix(rules),
    )
    after, step, before = (
        sp.Matrix([[w2, c], [0, 1]]),
        sp.Matrix([[x, y], [0, 0]]),
        sp.Matrix([[w0, c0], [0, 1]]),
    )
    top = _times(_times(sp.Matrix([[w2]]), sp.Matrix([[x, y]])), before)
    d.prove(
        "a step [D δ] of one layer moves the total by B_i [D δ] Â_i: B_i from the W's alone, Â_i = "
        "M_{i−1}⋯M_1",
        _times(_times(after, step), before),
        sp.Matrix([[top[0], top[1]], [0, 0]]),
        _matrix(rules),
    )
    d.define(
        "so J_i[D δ] = B̃_i[D δ]Ã_i with Ã_{i+1} = M_iÃ_i and B̃_{i−1} = B̃_iW_i: the projectors are "
        "nested, and the "
        "proofs of G1, F1, F2, N1–N6, X1 and X9, which use nothing else, hold word for word"
    )


def _elimination(d: Derivation) -> None:
    """The block inverse of the second moment of (h, 1)."""
    h, ht, cov, inv, lam, gw, gb = operators("h̄ h̄ᵀ Cov Cov⁻¹ Λ g_W g_b")
    rules = Algebra()
    rules.inverse(cov, inv)
    rules.rule(lam, cov + h * ht)
    moment = sp.Matrix([[lam, h], [ht, 1]])
    lower, upper = sp.Matrix([[1, 0], [ht, 1]]), sp.Matrix([[1, h], [0, 1]])
    d.define("input factor of layer i: Λ̂ = E[ĥĥᵀ], ĥ = (h_{i−1}, 1), Λ = Cov + h̄h̄ᵀ", moment)
    d.prove(
        "centring makes it block-diagonal: Wh + b = W(h − h̄) + (b + Wh̄)",
        _times(_times(upper, sp.diag(cov, 1)), lower),
        moment,
        _matrix(rules),
    )
    block_inverse = sp.Matrix([[inv, -inv * h], [-ht * inv, 1 + ht * inv * h]])
    d.prove("its inverse, Cov invertible", _times(moment, block_inverse), sp.eye(2), _matrix(rules))
    solved = _times(sp.Matrix([[gw, gb]]), block_inverse)
    v_w = (gw - gb * ht) * inv
    d.prove(
        "[g_W g_b]Λ̂⁻¹: v_W = (g_W − g_b h̄ᵀ)Cov⁻¹, v_b = g_b − v_W h̄",
        solved,
        sp.Matrix([[v_w, gb - v_w * h]]),
        _matrix(rules),
    )
    d.define(
        "with g = −(1/L)Λ̃_i⁺[∂ℓ/∂W_i ∂ℓ/∂b_i] this is N1 with the bias eliminated: centring is that "
        "elimination",
        r"v_{W_i}=-\frac{1}{L}\tilde{\Lambda}_i^+(\partial_{W_i}\ell-\partial_{b_i}\ell\,\bar "
        r"h^\top)\mathrm{Cov}^{-1},\quad "
        r"v_{b_i}=-\frac{1}{L}\tilde{\Lambda}_i^+\partial_{b_i}\ell-v_{W_i}\bar h",
    )


def _singular(d: Derivation) -> None:
    """With Cov⁺ the elimination is a solution, and the pseudo-inverse only where h̄ is in range Cov."""
    h, ht, cov, plus = operators("h̄ h̄ᵀ Cov Cov⁺")
    rules = Algebra()
    rules.rule(cov * plus * cov, cov)
    rules.rule(plus * cov * plus, plus)
    rules.rule(plus * cov, cov * plus)
    rules.symmetric(cov, plus)
    rules.transposes((h, ht))
    moment = sp.Matrix([[cov + h * ht, h], [ht, 1]])
    general = sp.Matrix([[plus, -plus * h], [-ht * plus, 1 + ht * plus * h]])
    d.define("Cov singular: Γ = [Cov⁺, −Cov⁺h̄; −h̄ᵀCov⁺, 1 + h̄ᵀCov⁺h̄]")
    d.prove(
        "Λ̂ΓΛ̂ = Λ̂, so zΛ̂ ↦ zΛ̂Γ solves v̂Λ̂ = zΛ̂: the elimination still solves F v = −∇ℓ",
        _times(_times(moment, general), moment),
        moment,
        _matrix(rules),
        formula=r"\hat\Lambda\Gamma\hat\Lambda = \hat\Lambda",
    )
    d.prove(
        "ΓΛ̂Γ = Γ",
        _times(_times(general, moment), general),
        general,
        _matrix(rules),
        formula=r"\Gamma\hat\Lambda\Gamma = \Gamma",
    )
    both = _times(moment, general)
    d.prove("Λ̂Γ", both, sp.Matrix([[cov * plus, (1 - cov * plus) * h], [0, 1]]), _matrix(rules))
    d.define(
        "Λ̂Γ is symmetric, and Γ = Λ̂⁺, exactly where (1 − Cov Cov⁺)h̄ = 0: h̄ in range Cov; "
        "elsewhere it is another gauge"
    )
    other = Algebra()
    other.rule(cov * plus * h, h)
    d.prove(
        "h̄ in range Cov: Λ̂Γ is symmetric",
        _matrix(other)(both)[0, 1],
        0,
        other.reduce,
        formula=r"(1 - \mathrm{Cov}\,\mathrm{Cov}^+)\bar h = 0",
    )


def _spectrum(d: Derivation) -> None:
    w, wi, ws, c, cs = operators("W W⁻¹ W* c c*")
    rules = Algebra()
    rules.inverse(w, wi)
    m, ms = sp.Matrix([[w, c], [0, 1]]), sp.Matrix([[ws, cs], [0, 1]])
    mi = sp.Matrix([[wi, -wi * c], [0, 1]])
    d.prove("M⁻¹ = [W⁻¹ −W⁻¹c; 0 1]", _times(mi, m), sp.eye(2), _matrix(rules))
    g = _times(mi, ms)
    d.prove(
        "G = M⁻¹M* = [W⁻¹W*, W⁻¹(c*−c); 0 1]: block-triangular",
        g,
        sp.Matrix([[wi * ws, wi * (cs - c)], [0, 1]]),
        _matrix(rules),
    )
    d.prove(
        "(0, 1) is a left eigenvector with eigenvalue 1: every power and root of G is affine again",
        _times(sp.Matrix([[0, 1]]), g),
        sp.Matrix([[0, 1]]),
        _matrix(rules),
        formula=r"(0\ 1)\,G = (0\ 1)",
    )
    a, b = sp.Matrix(2, 2, sp.symbols("g_11 g_12 g_21 g_22")), sp.Matrix(sp.symbols("h_1 h_2"))
    x = sp.Symbol("z")
    full = sp.Matrix.vstack(sp.Matrix.hstack(a, b), sp.Matrix([[0, 0, 1]]))
    d.prove("spec M⁻¹M* = spec W⁻¹W* ∪ {1} (2 × 2, all entries symbolic): biases never break a flow",
            (x * sp.eye(3) - full).det(), (x - 1) * (x * sp.eye(2) - a).det())  # fmt: skip


def _teacher(d: Derivation) -> None:
    ws, cs, mt, s, sp_ = operators("W* c* m̄ᵀ S S⁺")
    rules = Algebra()
    rules.rule(mt * sp_ * s, mt)
    d.define(
        "m̄ is in range S, for S = Cov + m̄m̄ᵀ; so m̄ᵀS⁺S = m̄ᵀ. Without biases the teacher solves "
        "XS = E[yxᵀ] = W*S + c*m̄ᵀ"
    )
    d.prove("X = W* + c*m̄ᵀS⁺ does", (ws + cs * mt * sp_) * s, ws * s + cs * mt, rules.reduce)


@dataclass(frozen=True)
class AffineExample(Example):
    """An exact network with biases: f is F̂ ((n_0+1) × ρ̂), error is [W*−W, c*−c]."""

    biases: tuple[sp.Matrix, ...] = ()

    @property
    def maps(self) -> list[sp.Matrix]:
        """M_1…M_L."""
        return [
            sp.Matrix.vstack(sp.Matrix.hstack(w, b), sp.zeros(1, w.cols).row_join(sp.ones(1, 1)))
            for w, b in zip(self.weights, self.biases, strict=True)
        ]

    @property
    def a(self) -> list[sp.Matrix]:
        """Ã_1…Ã_L."""
        return [product([*reversed(self.maps[:i]), self.f]) for i in range(self.depth)]


def affine_example(widths: Sequence[int], ranks: Sequence[int] | None = None, seed: int = 1) -> AffineExample:
    """Return an exact network with biases on four data points."""
    pairs = list(zip(widths[1:], widths[:-1], strict=True))
    weights = tuple(
        of_rank(*pair, (ranks or [min(p) for p in pairs])[i], seed + 13 * i) for i, pair in enumerate(pairs)
    )
    biases = tuple(integers(rows, 1, seed + 7 * i) for i, (rows, _) in enumerate(pairs))
    f = sp.Matrix.vstack(integers(widths[0], 4, seed + 3), sp.ones(1, 4)) / 2
    h = of_rank(widths[-1], widths[-1], widths[-1], seed + 5)
    return AffineExample(weights, f, h, integers(widths[-1], widths[0] + 1, seed + 9), biases)


def _gradient(d: Derivation) -> None:
    """Differentiate the loss of a 2-2-2 network with respect to every symbolic weight and bias."""
    base = affine_example((2, 2, 2))
    layers = [sp.Matrix(2, 3, sp.symbols(f"w{i}_:6")) for i in (1, 2)]
    target = integers(2, 3, 8)
    weights, biases = tuple(layer[:, :2] for layer in layers), tuple(layer[:, 2] for layer in layers)
    trial = AffineExample(weights, base.f, base.h, sp.zeros(2, 3), biases)
    total = trial.maps[1] * trial.maps[0]
    ex = AffineExample(weights, base.f, base.h, target - total[:2, :], biases)
    loss = sum(entry**2 for entry in ex.e) / 2
    for i, layer in enumerate(layers):
        d.prove(f"G1 for layer {i + 1} of a 2-2-2 network with biases, entry by entry: [∂ℓ/∂W ∂ℓ/∂b] = "
                f"−B̃ᵀẼÃᵀ",
                layer.applyfunc(lambda entry: sp.diff(loss, entry)), -ex.b[i].T * ex.e * ex.a[i].T,
                lambda rest: rest.applyfunc(sp.expand), r"\partial\ell/\partial[W_i\,b_i] = -\tilde "
                                                        r"B_i^\top\tilde E\tilde A_i^\top")  # fmt: skip


def eliminated(ex: AffineExample) -> list[sp.Matrix]:
    """Return N1 with the bias eliminated, Cov⁺ where Cov is singular."""
    out = []
    for a, b in zip(ex.a, ex.b, strict=True):
        moment = a * a.T
        size = moment.rows - 1
        mean = moment[:size, size]
        cov = moment[:size, :size] - mean * mean.T
        g = pinv(b.T * b) * (b.T * ex.e * a.T) / ex.depth
        v_w = (g[:, :size] - g[:, size] * mean.T) * pinv(cov)
        out.append(v_w.row_join(g[:, size] - v_w * mean))
    return out


def _examples(d: Derivation) -> None:
    cases = [
        ("2-2-2", affine_example((2, 2, 2))),
        ("3-1-3", affine_example((3, 1, 3))),
        ("2-3-3-2, ranks 2, 1, 2", affine_example((2, 3, 3, 2), (2, 1, 2))),
    ]
    for name, ex in cases:
        d.check(f"{name} with biases: the staircase N2 solves F v = −∇ℓ exactly", ex.solves(n2.direction(ex)))
        same = ex.jacobian * ex.stack(n2.direction(ex)) == ex.jacobian * (pinv(ex.jacobian) * vec(ex.e))
        d.check(f"{name}: and moves the function like the minimum norm", same)
    ex = affine_example((2, 2, 2))
    d.check("2-2-2, Cov invertible: the elimination equals N1 exactly", eliminated(ex) == n1.direction(ex))
    wide = affine_example((1, 3, 1))
    v, w = eliminated(wide), n1.direction(wide)
    d.check(
        "1-3-1, Cov of the hidden layer singular, h̄ outside its range: the elimination solves F v = −∇ℓ too",
        wide.solves(v) and wide.solves(w),
    )
    d.check("but it is another gauge than N1", v != w)
    d.check(
        "N1 without the bias column, as if Ŝ were S, does not solve it: 2-2-2",
        not ex.solves([x[:, :-1].row_join(sp.zeros(x.rows, 1)) for x in n1.direction(ex)]),
    )
    s, m, ws, cs = of_rank(3, 2, 2, 3), integers(2, 1, 4), integers(2, 3, 5), integers(2, 1, 6)
    mean = s * m
    cov = s * s.T + mean * mean.T
    d.check(
        "rank S = 2 of 3: (W* + c*m̄ᵀS⁺)S = W*S + c*m̄ᵀ exactly",
        (ws + cs * mean.T * pinv(cov)) * cov == ws * cov + cs * mean.T,
    )
    d.check("M⁻¹ of an exact layer is affine", inverse(ex.maps[0])[2, :] == sp.Matrix([[0, 0, 1]]))


def natural_gradient(
    weights: Sequence[Array], biases: Sequence[Array], error: Array, augmented_cov: Array, noise_cov: Array
) -> list[Array]:
    """Evaluate the staircase N2 of a network with biases on float arrays (descent).

    Parameters
    ----------
    weights : sequence of (n_i, n_{i−1}) arrays
    biases : sequence of (n_i,) arrays
    error : (n_L, n_0 + 1) array
        [W* − W, c* − c].
    augmented_cov : (n_0 + 1, n_0 + 1) array
        Ŝ, the second moment of (x, 1).
    noise_cov : (n_L, n_L) array

    Returns
    -------
    list of (n_i, n_{i−1} + 1) arrays
        The last column belongs to b_i.
    """
    values = float_symbols(weights, error, augmented_cov, noise_cov, biases=biases)
    return [evaluate(n2.staircase(i, len(weights)), values) for i in range(1, len(weights) + 1)]


def eliminate_bias(scaled: Array, cov: Array, mean: Array) -> tuple[Array, Array]:
    """Evaluate v_W = (g_W − g_b h̄ᵀ)Cov⁺ and v_b = g_b − v_W h̄.

    Parameters
    ----------
    scaled : (n, m + 1) array
        [g_W g_b] = −(1/L)Λ̃⁺[∂ℓ/∂W ∂ℓ/∂b].
    cov : (m, m) array
        Covariance of the layer's input h.
    mean : (m,) array
        h̄.

    Returns
    -------
    tuple of arrays (n, m) and (n,)
    """
    v_w = (scaled[:, :-1] - np.outer(scaled[:, -1], mean)) @ np.linalg.pinv(cov, rcond=1e-10, hermitian=True)
    return v_w, scaled[:, -1] - v_w @ mean


def functions() -> dict[str, Callable[..., Any]]:
    """Return "natural_gradient" (weights, biases, error, augmented_cov, noise_cov) and "eliminate_bias".

    The latter takes (scaled, cov, mean).
    """
    return {"natural_gradient": natural_gradient, "eliminate_bias": eliminate_bias}
