"""N3: all solutions of F v = −∇ℓ give the same change of the total weight; the minimum-norm gauge.

Convention: Λ is n_L × ρ, v_i = B̃_iᵀΛÃ_iᵀ; R = FF⁺ projects on range(S). Source: new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp

from derivations import _network as n
from derivations import n2_staircase as n2
from derivations._core import Algebra, Derivation, evaluate, inverse, kron, operators, pinv, unvec, vec
from derivations._network import Array, Example, example, float_symbols, ladder

STATEMENTS = ("N3",)


def derive() -> tuple[Derivation, ...]:
    """Return the derivation of N3."""
    d = Derivation("N3", "gauges: one change of W, many weights", "new")
    _same_change(d)
    _minimum_norm(d)
    _unwhitened(d)
    _two_layers(d)
    _examples(d)
    _two_layer_examples(d)
    return (d,)


def _same_change(d: Derivation) -> None:
    j, jt, x, xt, f, h = operators("J Jᵀ ν νᵀ F H")
    rules = Algebra()
    rules.transposes((j, jt), (x, xt))
    d.define("ν = v − v′ is the difference of two solutions: JᵀJ ν = 0")
    d.prove(
        "νᵀFν = ‖Jν‖² vanishes, so Jν = 0: solutions form v + ker J",
        xt * (jt * j) * x,
        rules.transpose(j * x) * (j * x),
        rules.reduce,
        formula=r"\nu^\top F\nu = \|J\nu\|^2",
    )
    dw, hi, fi, fp = operators("dW H⁻¹ F⁻¹ F⁺")
    rules.inverse(h, hi)
    d.define("J v = T reads H dW F = T with any factors; H is invertible")
    d.prove("so dW F = H⁻¹T in every gauge", hi * (h * dw * f), dw * f, rules.reduce)
    rules.inverse(f, fi)
    d.prove("and dW itself if F is invertible (S > 0)", hi * (h * dw * f) * fi, dw, rules.reduce)
    d.define("for singular S two gauges differ on null(S)", f - f * fp * f)


def _minimum_norm(d: Derivation) -> None:
    rules = n.algebra()
    i, j = sp.symbols("i j", integer=True, positive=True)
    x, xt = operators("Λ Λᵀ")
    rules.transposes((x, xt))
    v = n.BT(i) * x * n.AT(i)
    d.define("minimum norm: v in range Jᵀ, that is v_i = B̃_iᵀ Λ Ã_iᵀ", v)
    d.prove(
        "it is orthogonal to ker J: ⟨v_i, ν_i⟩ = ⟨Λ, B̃_iν_iÃ_i⟩, and Σ_i B̃_iν_iÃ_i = 0 (under the trace)",
        rules.transpose(v) * n.N(i),
        xt * (n.B(i) * n.N(i) * n.A(i)),
        rules.trace,
    )
    t = sp.Symbol("t", real=True)
    both = v + t * n.N(i)
    norm = sp.expand(rules.transpose(both) * both)
    d.prove(
        "so ‖v + tν‖² = ‖v‖² + t²‖ν‖² + 2t⟨Λ, Jν⟩ is least at ν = 0 (layer by layer, under the trace)",
        norm,
        rules.transpose(v) * v + 2 * t * xt * n.B(i) * n.N(i) * n.A(i) + t**2 * n.NT(i) * n.N(i),
        rules.trace,
    )
    d.prove(
        "J v = T reads Σ_j B̃_jB̃_jᵀ Λ Ã_jᵀÃ_j = T",
        n.B(j) * (n.BT(j) * x * n.AT(j)) * n.A(j),
        (n.B(j) * n.BT(j)) * x * (n.AT(j) * n.A(j)),
        rules.reduce,
        formula=r"\sum_j \tilde B_j\tilde B_j^\top \Lambda \tilde A_j^\top\tilde A_j = T",
    )


def _unwhitened(d: Derivation) -> None:
    """With M = HᵀΛFᵀ the metric drops out of the operator."""
    x, h, ht, f, ft, hi, fi, e, b, bt, a, at = operators("Λ H Hᵀ F Fᵀ H⁻¹ F⁻¹ E B Bᵀ A Aᵀ")
    rules = Algebra()
    rules.transposes((h, ht), (f, ft), (b, bt), (a, at))
    rules.inverse(h, hi)
    rules.inverse(f, fi)
    m = ht * x * ft
    d.define("S > 0: M = HᵀΛFᵀ", m)
    d.prove(
        "v_i = B̃_iᵀΛÃ_iᵀ = B_iᵀ M A_iᵀ",
        rules.transpose(h * b) * x * rules.transpose(a * f),
        bt * m * at,
        rules.reduce,
        formula=r"\tilde B_i^\top\Lambda\tilde A_i^\top = B_i^\top M A_i^\top",
    )
    d.prove(
        "each term of J v, freed of H and F: H⁻¹(B̃v Ã)F⁻¹ = BBᵀ M AᵀA, so Σ_j B_jB_jᵀ M A_jᵀA_j = H⁻¹TF⁻¹",
        hi * (h * b * (bt * m * at) * a * f) * fi,
        (b * bt) * m * (at * a),
        rules.reduce,
    )
    d.prove(
        "under (J) T = Ẽ = HEF: the right side is E, and S and Π have dropped out",
        hi * (h * e * f) * fi,
        e,
        rules.reduce,
    )


def _two_layers(d: Derivation) -> None:
    """L = 2: a symmetric Sylvester equation, singular S included."""
    w1, w1t, w2, w2t, m, r, f, fp, ft, fpt, h, hi, ht, hit, t = operators(
        "W₁ W₁ᵀ W₂ W₂ᵀ M R F F⁺ Fᵀ F⁺ᵀ H H⁻¹ Hᵀ H⁻ᵀ T"
    )
    rules = Algebra()
    rules.rule(f * fp, r)
    rules.rule(fpt * ft, r)
    rules.rule(fp * f, 1)
    rules.rule(r * f, f)
    rules.rule(r * r, r)
    rules.inverse(h, hi)
    rules.inverse(ht, hit)
    rules.rule(m * r, m)
    d.define("L = 2: v_1 = W₂ᵀM, v_2 = M W₁ᵀ with M = MR, R = FF⁺ the projector on range(S), F⁺F = 1")
    x = hit * m * fpt
    d.prove("v_1 lies in range Jᵀ with Λ = H⁻ᵀ M F⁺ᵀ", (w2t * ht) * x * ft, w2t * m, rules.reduce)
    d.prove("and v_2 with the same Λ", ht * x * (ft * w1t), m * w1t, rules.reduce)
    sylvester = w2 * w2t * m + m * (r * w1t * w1 * r)
    d.prove(
        "J v = H[W₂W₂ᵀM + M (W₁R)ᵀ(W₁R)]F",
        h * (w2 * (w2t * m) + (m * w1t) * w1) * f,
        h * sylvester * f,
        rules.reduce,
    )
    d.prove(
        "so W₂W₂ᵀM + M(W₁R)ᵀ(W₁R) = H⁻¹TF⁺ gives J v = T: symmetric Sylvester, in W₂ and W₁R without "
        "the metric",
        h * (hi * t * fp) * f,
        t,
        rules.reduce,
    )
    a, b, c, e = sp.symbols("σ_1 σ_2 τ_1 τ_2", nonnegative=True)
    entries = sp.Matrix(2, 2, sp.symbols("m_11 m_12 m_21 m_22"))
    left, right = sp.diag(a**2, b**2), sp.diag(c**2, e**2)
    eigen = sp.Matrix(2, 2, lambda p, q: (left[p, p] + right[q, q]) * entries[p, q])
    d.prove(
        "in the bases of the SVDs of W₂ and W₁R it is diagonal with eigenvalues σ_a² + τ_b²",
        left * entries + entries * right,
        eigen,
    )


def minimum_norm(ex: Example) -> list[sp.Matrix]:
    """Return J⁺ vec Ẽ of an exact example, layer by layer."""
    return split(pinv(ex.jacobian) * vec(ex.e), ex)


def split(vector: sp.Matrix, ex: Example) -> list[sp.Matrix]:
    """Return the layers of a stacked vector."""
    out, begin = [], 0
    for weight in ex.weights:
        out.append(unvec(vector[begin : begin + weight.rows * weight.cols, :], weight.rows, weight.cols))
        begin += weight.rows * weight.cols
    return out


def change(ex: Example, v: Sequence[sp.Matrix]) -> sp.Matrix:
    """Return dW = Σ_i B_i v_i A_i."""
    bare = Example(ex.weights, sp.eye(ex.weights[0].cols), sp.eye(ex.weights[-1].rows), ex.error)
    return unvec(bare.jacobian * bare.stack(v), ex.error.rows, ex.error.cols)


def _examples(d: Derivation) -> None:
    for name, ex in ladder():
        v, w = n2.direction(ex), minimum_norm(ex)
        d.check(f"{name}: J⁺ vec Ẽ solves F v = −∇ℓ exactly", ex.solves(w))
        j = ex.jacobian
        d.check(
            f"{name}: and equals Jᵀ vec Λ with JJᵀ vec Λ = vec T",
            j.T * (pinv(j * j.T) * (j * ex.stack(v))) == ex.stack(w),
        )
        d.check(
            f"{name}: layerwise and minimum norm give the same dW F",
            change(ex, v) * ex.f == change(ex, w) * ex.f,
        )
        norms = [(ex.stack(u).T * ex.stack(u))[0] for u in (v, w)]
        d.check(f"{name}: minimum norm is not longer", norms[1] <= norms[0])
    ex = example((4, 2, 4))
    j = ex.jacobian
    consistent = (j * j.T).row_join(vec(ex.e)).rank() == (j * j.T).rank()
    d.check("4-2-4: with Ẽ in place of T the system for Λ is inconsistent", not consistent)
    singular = example((3, 3, 3), rank_s=2)
    v, w = n2.direction(singular), minimum_norm(singular)
    same = change(singular, v) * singular.f == change(singular, w) * singular.f
    d.check(
        "3-3-3, rank S = 2: dW F agrees while dW itself differs between the gauges",
        same and change(singular, v) != change(singular, w),
    )
    definite = example((3, 3, 3))
    d.check("3-3-3, S > 0: dW agrees, the weights do not",
            change(definite, n2.direction(definite)) == change(definite, minimum_norm(definite))
            and n2.direction(definite) != minimum_norm(definite))  # fmt: skip


def two_layers_exact(ex: Example, whitened: bool = False) -> list[sp.Matrix]:
    """Solve the Sylvester equation of L = 2 exactly; `whitened` takes Π^½W₂ and W₁F (another norm)."""
    w1, w2 = ex.weights
    rows, size = ex.error.rows, ex.f.cols
    symbols = ex.symbols()
    target = evaluate(n2.target(2), symbols)
    if whitened:
        k, g = ex.b[0] * ex.b[0].T, ex.a[1].T * ex.a[1]
        x = unvec(pinv(kron(sp.eye(size), k) + kron(g, sp.eye(rows))) * vec(target), rows, size)
        return [ex.b[0].T * x * pinv(ex.f), inverse(ex.h) * x * ex.a[1].T]
    r = ex.f * pinv(ex.f)
    k, g = w2 * w2.T, (w1 * r).T * (w1 * r)
    operator = kron(sp.eye(g.rows), k) + kron(g, sp.eye(rows))
    m = unvec(pinv(operator) * vec(inverse(ex.h) * target * pinv(ex.f)), rows, g.rows) * r
    return [w2.T * m, m * w1.T]


def _two_layer_examples(d: Derivation) -> None:
    cases = (((3, 2, 3), None, None), ((3, 3, 2), None, 2), ((3, 3, 3), (2, 1), None), ((3, 3, 3), (1, 2), 2))
    for widths, ranks, rho in cases:
        ex = example(widths, ranks, rho, seed=4)
        d.check(f"{widths}, layer ranks {ranks or 'full'}, rank S {rho or 'full'}: the Sylvester "
                f"solution is J⁺ vec Ẽ exactly",
                two_layers_exact(ex) == minimum_norm(ex))  # fmt: skip
    ex = example((2, 3, 2), seed=3)
    v = two_layers_exact(ex, whitened=True)
    d.check(
        "with Π^½W₂ and W₁S^½ in place of W₂ and W₁ the equation still gives a solution of F v = −∇ℓ",
        ex.solves(v),
    )
    d.check(
        "but not the shortest: those singular values belong to the norm ‖v_1S^½‖² + ‖Π^½v_2‖²",
        v != minimum_norm(ex),
    )


def minimum_norm_dense(
    weights: Sequence[Array], error: Array, input_cov: Array, noise_cov: Array
) -> list[Array]:
    """Evaluate J⁺ vec Ẽ on float arrays with J = [Ã_iᵀ ⊗ B̃_i] (descent)."""
    values = float_symbols(weights, error, input_cov, noise_cov)
    layers = range(1, len(weights) + 1)
    jacobian = np.hstack([np.kron(values[n.AT(i)], values[n.B(i)]) for i in layers])
    vector = np.linalg.pinv(jacobian, rcond=1e-10) @ values[n.E].flatten(order="F")
    out: list[Array] = []
    begin = 0
    for weight in weights:
        out.append(vector[begin : begin + weight.size].reshape(weight.shape, order="F"))
        begin += weight.size
    return out


def minimum_norm_sylvester(
    weights: Sequence[Array], error: Array, input_cov: Array, noise_cov: Array
) -> list[Array]:
    """Evaluate the Sylvester form of L = 2 by the SVDs of W₂ and W₁R (descent).

    Parameters
    ----------
    weights : two arrays, (n_1, n_0) and (n_2, n_1)
    error : (n_2, n_0) array
    input_cov, noise_cov : square arrays

    Returns
    -------
    list of two arrays
    """
    first, second = weights
    values = float_symbols(weights, error, input_cov, noise_cov)
    f, h = values[n.A(1)], values[n.B(2)]
    projected = evaluate(n2.target(2), values)
    right = np.linalg.solve(h, projected) @ np.linalg.pinv(f)
    r = f @ np.linalg.pinv(f)
    u, s, _ = np.linalg.svd(second)
    _, t, vt = np.linalg.svd(first @ r)
    sizes = (np.pad(s, (0, len(u) - len(s))), np.pad(t, (0, len(vt) - len(t))))
    cut = 1e-10 * max(part.max(initial=0.0) for part in sizes)
    a, b = (np.where(part > cut, part, 0.0) for part in sizes)
    eigen = a[:, None] ** 2 + b[None, :] ** 2
    m = u @ np.where(eigen > 0, (u.T @ right @ vt.T) / np.where(eigen > 0, eigen, 1.0), 0.0) @ vt @ r
    return [second.T @ m, m @ first.T]


def functions() -> dict[str, Callable[..., Any]]:
    """Return "minimum_norm" and "sylvester" (L = 2): (weights, error, input_cov, noise_cov) → list of v_i."""
    return {"minimum_norm": minimum_norm_dense, "sylvester": minimum_norm_sylvester}
