"""X9: the natural gradient from chains of per-layer factors, and the first-order error of the chain.

Convention: right sweep F = U_1C_1, W_iU_i = U_{i+1}C_{i+1}; left sweep V_L = 1,
V_iᵀW_i = R_iV_{i−1}ᵀ; all U, V with orthonormal columns. G_i = C_i⋯C_1, K_i = C_1⁻¹⋯C_i⁻¹,
Y_i = R_L⋯R_{i+1}. Source: new; product
decompositions De Moor and Van Dooren 1992, derivative of the pseudo-inverse Golub and Pereyra 1973.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp

from derivations._core import Algebra, Derivation, integers, inverse, of_rank, operators, pinv, product
from derivations._network import Array

STATEMENTS = ("X9",)


def derive() -> tuple[Derivation, ...]:
    """Return the derivation of X9."""
    d = Derivation(
        "X9",
        "never multiply: the chain is the pseudo-inverse of the product",
        "new; De Moor–Van Dooren 1992; Golub–Pereyra 1973",
    )
    _any_factor(d)
    _right_sweep(d)
    _left_sweep(d)
    _rank_drop(d)
    _first_order(d)
    _drift(d)
    _examples(d)
    return (d,)


def _penrose(d: Derivation, rules: Algebra, name: str, a: sp.Expr, plus: sp.Expr) -> None:
    """Prove that plus is the pseudo-inverse of a."""
    d.prove(f"{name}: first Penrose equation", a * plus * a, a, rules.reduce)
    d.prove(f"{name}: second", plus * a * plus, plus, rules.reduce)
    d.prove(f"{name}: third, symmetric", rules.transpose(a * plus), a * plus, rules.reduce)
    d.prove(f"{name}: fourth, symmetric", rules.transpose(plus * a), plus * a, rules.reduce)


def _any_factor(d: Derivation) -> None:
    a, ap, at, apt, o, ot, e = operators("Ã Ã⁺ Ãᵀ Ã⁺ᵀ O Oᵀ HEF")
    rules = Algebra()
    rules.moore_penrose(a, ap, at, apt)
    rules.transposes((o, ot))
    rules.rule(o * ot, 1)
    d.define("F and F′ = FO, OOᵀ = 1, are factors of the same S = FFᵀ = F′F′ᵀ; Ã = A_iF, Ã′ = ÃO")
    _penrose(d, rules, "(ÃO)⁺ = OᵀÃ⁺", a * o, ot * ap)
    d.prove("ẼÃ⁺ does not depend on the factor", (e * o) * (ot * ap), e * ap, rules.reduce)
    d.prove(
        "and the projectors of Q turn together: Q′ = OᵀQO",
        (ot * ap) * (a * o),
        ot * (ap * a) * o,
        rules.reduce,
        formula=r"Q\prime = O^\top Q\, O",
    )


def _right_sweep(d: Derivation) -> None:
    w, u, ut, u2, u2t, c, ci, ct, cit, g, k, gt, kt = operators("W U Uᵀ U′ U′ᵀ C C⁻¹ Cᵀ C⁻ᵀ G K Gᵀ Kᵀ")
    rules = Algebra()
    rules.orthonormal(u, ut)
    rules.orthonormal(u2, u2t)
    rules.transposes((g, gt), (k, kt), (c, ct), (ci, cit))
    for one, other in ((g, k), (gt, kt), (c, ci), (ct, cit)):
        rules.inverse(one, other)
    rules.rule(w * u, u2 * c)
    d.define(
        "induction: Ã_i = UG with UᵀU = 1, K = G⁻¹; QR: W_iU = U′C with C = C_{i+1} invertible (no "
        "rank drops)"
    )
    d.prove("Ã_{i+1} = W_iÃ_i = U′(CG), so G_{i+1} = C_{i+1}G_i", w * (u * g), u2 * (c * g), rules.reduce)
    d.prove("K_{i+1} = K_iC_{i+1}⁻¹ is its inverse", (k * ci) * (c * g), 1, rules.reduce)
    d.prove("on both sides", (c * g) * (k * ci), 1, rules.reduce)
    _penrose(d, rules, "Ã_i⁺ = K_iU_iᵀ", u * g, k * ut)


def _left_sweep(d: Derivation) -> None:
    w, v, vt, v2, v2t, r, ri, y, yi, h, hi, e = operators("W V Vᵀ V′ V′ᵀ R R⁻¹ Y Y⁻¹ H H⁻¹ EF")
    yt, yit, ht, hit = operators("Yᵀ Y⁻ᵀ Hᵀ H⁻ᵀ")
    rules = Algebra()
    rules.orthonormal(v, vt)
    rules.orthonormal(v2, v2t)
    rules.transposes((y, yt), (yi, yit), (h, ht), (hi, hit))
    for one, other in ((r, ri), (y, yi), (h, hi), (yt, yit), (ht, hit)):
        rules.inverse(one, other)
    rules.rule(vt * w, r * v2t)
    d.define(
        "induction downwards: B_i = YVᵀ with VᵀV = 1; LQ: VᵀW_i = RV′ᵀ with R = R_i invertible (no "
        "rank drops)"
    )
    d.prove("B_{i−1} = B_iW_i = (YR)V′ᵀ, so Y_{i−1} = Y_iR_i", (y * vt) * w, (y * r) * v2t, rules.reduce)
    _penrose(d, rules, "B̃_i⁺ = (HY_iV_iᵀ)⁺ = V_iY_i⁻¹H⁻¹", h * y * vt, v * yi * hi)
    d.prove(
        "B̃_i⁺Ẽ = V_iY_i⁻¹EF: the output metric drops out", (v * yi * hi) * (h * e), v * yi * e, rules.reduce
    )
    d.prove(
        "X_i = Y_i⁻¹EF obeys X_{i−1} = R_i⁻¹X_i, X_L = EF: solves only",
        (ri * yi) * e,
        ri * (yi * e),
        rules.reduce,
        formula=r"X_{i-1} = R_i^{-1}X_i",
    )
    d.define("together B̃_i⁺ẼÃ_i⁺ = (V_iX_i)(K_iU_iᵀ): one triangular solve per layer and side, no "
             "product inverted",
             r"\tilde B_i^+\tilde E\tilde A_i^+ = (V_iX_i)(K_iU_i^\top)")  # fmt: skip


def _rank_drop(d: Derivation) -> None:
    """Where V_iᵀW_i loses rank: push the basis of its range outwards."""
    names = "Z Zᵀ G G⁻¹ G₂ G₂⁻¹ V Vᵀ V₂ V₂ᵀ W O Oᵀ O₂ O₂ᵀ R R⁻¹"
    z, zt, g, gi, g2, g2i, v, vt, v2, v2t, w, o, ot, o2, o2t, r, ri = operators(names)
    gt, git, g2t, g2it, rt, rit = operators("Gᵀ G⁻ᵀ G₂ᵀ G₂⁻ᵀ Rᵀ R⁻ᵀ")
    rules = Algebra()
    for member, turned in ((z, zt), (v, vt), (v2, v2t), (o, ot), (o2, o2t)):
        rules.orthonormal(member, turned)
    rules.transposes((g, gt), (gi, git), (g2, g2t), (g2i, g2it), (r, rt), (ri, rit))
    for one, other in ((g, gi), (g2, g2i), (r, ri), (gt, git), (g2t, g2it), (rt, rit)):
        rules.inverse(one, other)
    d.define("B̃_i = ZGVᵀ, Z and V orthonormal, G invertible (at i = L: H = ZG, V = 1)")
    _penrose(d, rules, "B̃_i⁺ = VG⁻¹Zᵀ", z * g * vt, v * gi * zt)
    d.prove("Z is an orthonormal basis of P_i", (z * g * vt) * (v * gi * zt), z * zt, rules.reduce)
    d.define(
        "rank-revealing VᵀW_i = O R V₂ᵀ with O orthonormal (fewer columns where rank is lost); QR of "
        "the pushed basis: G O = O₂G₂"
    )
    rules.rule(vt * w, o * r * v2t)
    rules.rule(g * o, o2 * g2)
    d.prove(
        "B̃_{i−1} = B̃_iW_i = (ZO₂)(G₂R)V₂ᵀ: the same form with Z₂ = ZO₂",
        (z * g * vt) * w,
        (z * o2) * (g2 * r) * v2t,
        rules.reduce,
    )
    d.prove("Z₂ is orthonormal", rules.transpose(z * o2) * (z * o2), 1, rules.reduce)
    d.prove(
        "and the bases are nested: P_i P_{i−1} = P_{i−1}",
        (z * zt) * (z * o2) * (o2t * zt),
        (z * o2) * (o2t * zt),
        rules.reduce,
    )
    d.prove("B̃_{i−1}⁺ = V₂(G₂R)⁻¹Z₂ᵀ in the factors alone: first Penrose equation",
            ((z * o2) * (g2 * r) * v2t) * (v2 * ri * g2i * o2t * zt) * ((z * o2) * (g2 * r) * v2t),
            (z * o2) * (g2 * r) * v2t, rules.reduce)  # fmt: skip


def _first_order(d: Derivation) -> None:
    """dK_i is a sum over layers in which each term contains one layer's relative error."""
    t = sp.Symbol("t", real=True)
    for depth in range(1, 5):
        cs = operators(" ".join(f"C{_low(j)}" for j in range(1, depth + 1)))
        cis = operators(" ".join(f"C{_low(j)}⁻¹" for j in range(1, depth + 1)))
        deltas = operators(" ".join(f"Δ{_low(j)}" for j in range(1, depth + 1)))
        rules = Algebra()
        for c, ci in zip(cs, cis, strict=True):
            rules.inverse(c, ci)
        perturbed = [ci - t * ci * delta for ci, delta in zip(cis, deltas, strict=True)]
        if depth == 1:
            d.define("every layer's factor is rounded to C_j + δC_j, Δ_j = δC_jC_j⁻¹, ‖Δ_j‖ ≤ eps κ(C_j)")
            exact = (cs[0] + t * deltas[0] * cs[0]) * perturbed[0]
            d.prove(
                "(C + tΔC)⁻¹ = C⁻¹ − tC⁻¹Δ + O(t²)",
                sp.expand(rules.reduce(exact)).coeff(t, 1),
                0,
                formula=r"(C + t\Delta C)^{-1} = C^{-1} - t\,C^{-1}\Delta + O(t^2)",
            )
        first = sp.expand(sp.Mul(*perturbed)).coeff(t, 1)
        k = sp.Mul(*cis)
        terms = [
            -sp.Mul(*cis[: j + 1]) * deltas[j] * sp.Mul(*reversed(cs[: j + 1])) * k for j in range(depth)
        ]
        d.prove(
            f"i = {depth}: δK_i = −Σ_j K_jΔ_jG_j K_i",
            first,
            sp.Add(*terms),
            rules.reduce,
            r"\delta K_i=-\sum_{j\le i}K_j\Delta_jG_jK_i",
        )
    _first_order_step(d)
    _product_route(d)


def _first_order_step(d: Derivation) -> None:
    k, ci, dk, delta, gn, kn = operators("K C⁻¹ δK Δ G′ K′")
    rules = Algebra()
    rules.rule(kn, k * ci)
    rules.rule(gn * k * ci, 1)
    d.prove(
        "from i to i+1, any depth: K′ = KC⁻¹, δK′ = δK C⁻¹ − K C⁻¹Δ: the old sum times C⁻¹ and one "
        "new term −K′ΔG′K′",
        dk * ci - k * ci * delta,
        dk * ci - kn * delta * gn * kn,
        rules.reduce,
    )
    d.define("G_jK_i = C_{j+1}⁻¹⋯C_i⁻¹, so ‖δK_i‖ ≤ eps Σ_j κ(C_j) ‖C_1⁻¹⋯C_j⁻¹‖ ‖C_{j+1}⁻¹⋯C_i⁻¹‖: "
             "conditions of layers add, those of products do not enter",
             r"\|\delta K_i\|\le \mathrm{eps}\sum_{j\le i}\kappa(C_j)\,\|C_1^{-1}\cdots "
             r"C_j^{-1}\|\,\|C_{j+1}^{-1}\cdots C_i^{-1}\|")  # fmt: skip


def _product_route(d: Derivation) -> None:
    g, k, e = operators("G K δG")
    t = sp.Symbol("t", real=True)
    rules = Algebra()
    rules.inverse(g, k)
    inverse_ = k - t * k * e * k
    d.prove(
        "a product formed first carries an unstructured error δG ~ eps ‖C_i‖⋯‖C_1‖, and δK = −K δG K "
        "has κ of the product",
        sp.expand(rules.reduce((g + t * e) * inverse_)).coeff(t, 1),
        0,
        formula=r"\delta K = -K\,\delta G\,K",
    )


def _low(index: int) -> str:
    return chr(0x2080 + index)


def _drift(d: Derivation) -> None:
    """The derivative of the pseudo-inverse at constant rank, from the linearised Penrose equations."""
    a, x, at, xt, e, et = operators("A A⁺ Aᵀ A⁺ᵀ δA δAᵀ")
    rules = Algebra()
    rules.moore_penrose(a, x, at, xt)
    rules.transposes((e, et))
    rules.rule(a * x * e * x * a, a * x * e + e * x * a - e)
    rules.rule(at * xt * et * xt * at, rules.transpose(a * x * e + e * x * a - e))
    y = -x * e * x + x * xt * et * (1 - a * x) + (1 - x * a) * et * xt * x
    d.define("δA⁺ = −A⁺δAA⁺ + A⁺A⁺ᵀδAᵀ(1−AA⁺) + (1−A⁺A)δAᵀA⁺ᵀA⁺, constant rank: (1−AA⁺)δA(1−A⁺A) = 0", y)
    d.prove("linearised AA⁺A = A", e * x * a + a * y * a + a * x * e, e, rules.reduce)
    d.prove(
        "linearised A⁺AA⁺ = A⁺",
        y * a * x + x * e * x + x * a * y,
        y,
        rules.reduce,
        formula=r"\delta A^+\,AA^+ + A^+\,\delta A\,A^+ + A^+A\,\delta A^+ = \delta A^+",
    )
    d.prove("AA⁺ stays symmetric", e * x + a * y, rules.transpose(e * x + a * y), rules.reduce)
    d.prove("A⁺A stays symmetric", y * a + x * e, rules.transpose(y * a + x * e), rules.reduce)
    _unique(d)
    square = Algebra()
    square.inverse(a, x)
    square.inverse(at, xt)
    square.transposes((a, at), (x, xt), (e, et))
    d.prove("A square and invertible: the two drift terms vanish", y, -x * e * x, square.reduce)
    wide = Algebra()
    wide.rule(a * x, 1)
    d.prove(
        "A of full row rank with more columns: the drift (1−A⁺A)δAᵀA⁺ᵀA⁺ of the row space remains",
        y,
        -x * e * x + (1 - x * a) * et * xt * x,
        wide.reduce,
    )


def _unique(d: Derivation) -> None:
    """The linearised equations have one solution: a difference Z vanishes."""
    a, x, at, xt, z, zt = operators("A A⁺ Aᵀ A⁺ᵀ Z Zᵀ")
    rules = Algebra()
    rules.moore_penrose(a, x, at, xt)
    rules.transposes((z, zt))
    rules.rule(a * z * a, 0)
    d.define("uniqueness: a difference Z has AZA = 0, AZ and ZA symmetric, Z = ZAA⁺ + A⁺AZ")
    d.prove("AZ = (AZ)ᵀ = Zᵀ(AA⁺A)ᵀ = (AZ)(AA⁺) = 0", (a * z) * (a * x), 0, rules.reduce)
    d.prove("where (AZ)ᵀ = ZᵀAᵀ is ZᵀAᵀ(AA⁺)", zt * at, zt * at * a * x, rules.reduce)
    d.prove("likewise ZA = (A⁺A)(ZA) = 0, so Z = 0", (x * a) * (z * a), 0, rules.reduce)


def _orthonormal(rows: int, columns: int, seed: int) -> sp.Matrix:
    """Rational orthonormal columns: a Householder reflection of the identity."""
    x = integers(rows, 1, seed)
    x = x if any(x) else sp.ones(rows, 1)
    return (sp.eye(rows) - 2 * x * x.T / (x.T * x)[0])[:, :columns]


def _examples(d: Derivation) -> None:
    """Exact rational chains, where QR factors are rational by construction."""
    for case, (widths, inner) in enumerate((((3, 3, 3), 3), ((2, 3, 4), 2), ((3, 4, 3), 2)), 1):
        us = [_orthonormal(width, inner, 3 * case + i) for i, width in enumerate(widths)]
        cs = [of_rank(inner, inner, inner, case + 5 * i) for i in range(len(widths))]
        f = us[0] * cs[0]
        layers = []
        for i, width in enumerate(widths[:-1]):
            rest = integers(widths[i + 1], width, case + i) * (sp.eye(width) - us[i] * us[i].T)
            layers.append(us[i + 1] * cs[i + 1] * us[i].T + rest)
        a = product([*reversed(layers), f])
        chain = product([inverse(c) for c in cs]) * us[-1].T
        d.check(
            f"widths {widths}, ρ = {inner}: C_1⁻¹⋯C_i⁻¹U_iᵀ is the exact pseudo-inverse of the product",
            chain == pinv(a),
        )
    small = sp.Rational(1, 10**6)
    one, two = sp.Matrix([[1, 1], [0, small]]), sp.Matrix([[small, 0], [1, 1]])
    g = two * one
    loss = sp.Matrix([[1, 0], [0, 0]]) * small
    exact, rounded = inverse(g), inverse(g + loss * small)
    d.check("two layers of condition ~10⁶: an error of 10⁻¹² in one entry of the product "
            "changes its inverse by a third or more",
            _largest(exact - rounded) * 3 > _largest(exact))  # fmt: skip


def _largest(matrix: sp.Matrix) -> sp.Expr:
    return max(abs(entry) for entry in matrix)


def pseudo_inverses(weights: Sequence[Array], factor: Array) -> list[Array]:
    """Evaluate Ã_i⁺ = K_iU_iᵀ for i = 1…L by the right sweep, while no rank drops.

    Parameters
    ----------
    weights : sequence of (n_i, n_{i−1}) arrays
    factor : (n_0, ρ) array
        F with S = FFᵀ.

    Returns
    -------
    list of (ρ, n_{i−1}) arrays
    """
    out: list[Array] = []
    k: Array = np.eye(factor.shape[1])
    block = factor
    for weight in weights:
        u, c = np.linalg.qr(block)
        k = np.linalg.solve(c.T, k.T).T
        out.append(k @ u.T)
        block = weight @ u
    return out


def directions(weights: Sequence[Array], factor: Array, error: Array) -> list[Array]:
    """Evaluate u_i = (V_iX_i)(K_iU_iᵀ) for i = 1…L by both sweeps, while no rank drops.

    Parameters
    ----------
    weights : sequence of (n_i, n_{i−1}) arrays
    factor : (n_0, ρ) array
    error : (n_L, n_0) array

    Returns
    -------
    list of (n_i, n_{i−1}) arrays
    """
    right = pseudo_inverses(weights, factor)
    x: Array = error @ factor
    v: Array = np.eye(error.shape[0])
    out: list[Array] = []
    for i in range(len(weights) - 1, -1, -1):
        out.append((v @ x) @ right[i])
        q, r = np.linalg.qr((v.T @ weights[i]).T)
        if i:
            v, x = q, np.linalg.solve(r.T, x)
    return out[::-1]


def functions() -> dict[str, Callable[..., Any]]:
    """Return "pseudo_inverses" (weights, factor) and "directions" (weights, factor, error): lists."""
    return {"pseudo_inverses": pseudo_inverses, "directions": directions}
