"""N5: block approximations of the Fisher matrix, any mask: why they work, and where they do not.

Convention: F_M keeps the blocks F_ij with M_ij = 1, M symmetric 0/1; u_i = B̃_i⁺ẼÃ_i⁺; α = 1ᵀc with Mc = 1.
Source: Bernacchia et al. 2018 (block-diagonal), Karakida and Osawa 2020 (wide limit); the rest new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp

from derivations import _network as n
from derivations._core import Algebra, Derivation, evaluate, inverse, operators
from derivations._masks import (
    all_masks,
    band,
    centres,
    coefficients,
    mask_of,
    masked_fisher,
    path,
    rate,
    transitive,
    unstack,
)
from derivations._network import Array, E, Example, dP, dQ, example, float_symbols

STATEMENTS = ("N5",)

# Two hubs, joined, with two leaves each: the smallest mask without solution. One more layer allows α = −5.
INCONSISTENT = ((1, 2), (1, 5), (1, 6), (2, 3), (2, 4))
UPHILL = ((1, 2), (1, 3), (2, 4), (2, 7), (3, 4), (3, 7), (4, 5), (4, 6))


def derive() -> tuple[Derivation, ...]:
    """Return the derivation of N5."""
    d = Derivation(
        "N5",
        "masks: block approximations of the Fisher matrix",
        "Bernacchia et al. 2018; Karakida–Osawa 2020; rest new",
    )
    _reduction(d)
    _rate(d)
    _partitions(d)
    _bands(d)
    _odd_masks(d)
    _any_widths(d)
    _networks(d)
    return (d,)


def _reduction(d: Derivation) -> None:
    """F_M v = −∇ℓ ⇔ Mc = 1 under N1's condition."""
    rules = n.algebra()
    rules.rewrite(1, lambda x: sp.S.One if x.func in (n.P, n.Q) else None)
    i, j = sp.symbols("i j", integer=True, positive=True)
    m, c = sp.symbols("M_ij c_j")
    d.define("N1's condition: P_i = 1, Q_i = 1 (on range S) for all i; try v_j = c_j u_j, u_j = B̃_j⁺ẼÃ_j⁺")
    d.prove(
        "one term of (F_M v)_i = Σ_j M_ij F_ij v_j is M_ij c_j times −∂ℓ/∂W_i = B̃_iᵀẼÃ_iᵀ: solved if Mc = 1",
        m * n.BT(i) * (n.B(j) * (c * n.BP(j) * E * n.AP(j)) * n.A(j)) * n.AT(i),
        m * c * n.BT(i) * E * n.AT(i),
        rules.reduce,
    )
    x = operators("X_j")[0]
    d.define("conversely let v solve it and X_j = B̃_jv_jÃ_j: B̃_iᵀ(Σ_j M_ijX_j − Ẽ)Ã_iᵀ = 0 for all i")
    d.prove(
        "B̃_i⁺ᵀ(·)Ã_i⁺ᵀ undoes B̃_iᵀ(·)Ã_iᵀ here, so Σ_j M_ijX_j = Ẽ",
        n.BPT(i) * (n.BT(i) * (m * x - E) * n.AT(i)) * n.APT(i),
        m * x - E,
        rules.reduce,
    )
    norm, inner = sp.Symbol("‖Ẽ‖²", positive=True), sp.Symbol("⟨Ẽ,X_j⟩", real=True)
    d.prove(
        "and c_j = ⟨Ẽ, X_j⟩/‖Ẽ‖² solves Mc = 1: the inner product of that equation with Ẽ/‖Ẽ‖²",
        m * inner / norm - norm / norm,
        m * (inner / norm) - 1,
    )


def _rate(d: Derivation) -> None:
    """α is unique although c and v need not be."""
    m, c, ct, b, one, onet, x, e = operators("M c cᵀ c′ 1̲ 1̲ᵀ X Ẽ")
    rules = Algebra()
    rules.rule(m * b, one)
    rules.rule(onet, ct * m)
    d.define("α = 1ᵀc; let Mc = 1 and Mc′ = 1, M symmetric, so 1ᵀ = cᵀM")
    d.prove("α does not depend on the solution: 1ᵀc′ = cᵀMc′ = cᵀ1", onet * b, ct * one, rules.reduce)
    rules.rule(m * x, one * e)
    alpha = sp.Symbol("α")
    rules.rule(ct * one, alpha)
    d.define(
        "X stacks the X_j of any solution v of F_M v = −∇ℓ: Σ_j M_ijX_j = Ẽ for all i, MX = 1Ẽ",
        sp.Eq(m * x, one * e),
    )
    d.prove("W̃ moves by Σ_jX_j = 1ᵀX = cᵀMX = αẼ, whatever the solution", onet * x, alpha * e, rules.reduce)
    ct_c = sp.Symbol("cᵀMc", real=True)
    d.prove("dℓ/dt = −⟨Ẽ, αẼ⟩ = −α‖Ẽ‖², and α = cᵀMc ≥ 0 for a positive semi-definite "
            "mask", onet * c, ct * m * c,
            rules.reduce, sp.Eq(alpha, ct_c))  # fmt: skip


def _partitions(d: Derivation) -> None:
    size, blocks = sp.symbols("s b", integer=True, positive=True)
    j = sp.Symbol("j", integer=True)
    d.define(
        "a partition of the layers: M_ij = 1 ⇔ i, j in the same block; take c_j = 1/s in a block of s layers"
    )
    d.prove("(Mc)_i = Σ over the block of 1/s = 1, and each block adds 1 to α: α is the number of blocks",
            sp.Sum(1 / size, (j, 1, size)), 1, lambda rest: rest.doit())  # fmt: skip
    d.prove(
        "so block-diagonal (L blocks) moves at rate L, full (1 block) at rate 1",
        sp.Sum(1, (j, 1, blocks)),
        blocks,
        lambda rest: rest.doit(),
    )
    d.prove(
        "i ~ j ~ k without i ~ k has a negative minor, so positive semi-definite masks are "
        "transitive: partitions",
        path(3).det(),
        -1,
        formula=sp.Eq(sp.Determinant(sp.ImmutableMatrix(path(3))), -1, evaluate=False),
    )
    agree = all(
        bool(mask.is_positive_semidefinite) == transitive(mask)
        for depth in (2, 3, 4)
        for mask in all_masks(depth)
    )
    d.check("all masks with unit diagonal, L ≤ 4: positive semi-definite exactly for partitions", agree)


def _bands(d: Derivation) -> None:
    """Bands |i−j| ≤ k: α = ⌈L/(2k+1)⌉ for every L, by windows that cover 1…L exactly once."""
    m = sp.Symbol("m", integer=True, positive=True)
    k, a = sp.symbols("k a", integer=True, nonnegative=True)
    r, s, b = sp.symbols("r s b", integer=True, positive=True)
    w = 2 * k + 1
    depth = (m - 1) * w + r

    def centre(index: Any) -> sp.Expr:
        return s + (index - 1) * w

    d.define(
        "L = (m−1)(2k+1) + r with 1 ≤ r ≤ 2k+1, so m = ⌈L/(2k+1)⌉; c_j = 1 at j = s, s+w, …, "
        "s+(m−1)w (w = 2k+1) with s = max(1, r−k), else 0",
        sp.Eq(sp.Symbol("L"), depth),
    )
    d.prove("m is that ceiling: L/w − (m−1) = r/w, between 0 and 1", depth / w - (m - 1), r / w)
    d.prove("(Mc)_i counts the windows [j−k, j+k] that contain i; neighbouring windows join without gap "
            "or overlap",
            centre(b) + k + 1, centre(b + 1) - k)  # fmt: skip
    small = {s: 1, r: k + 1 - a}
    d.check("r = k+1−a ≤ k+1, s = 1: the first window reaches 1", (1 - (1 - k)).is_nonnegative)
    d.prove(
        "its last centre is L − r + 1 ≤ L, a layer",
        (depth - centre(m) - (r - 1)).subs(s, 1),
        0,
        formula=r"1 + (m-1)(2k+1) = L - r + 1",
    )
    d.prove(
        "and the last window ends a ≥ 0 places beyond L",
        (centre(m) + k - depth).subs(small),
        a,
        formula=r"1 + (m-1)(2k+1) + k - L = a",
    )
    large = {s: r - k}
    d.prove(
        "r ≥ k+1, s = r−k ≥ 1: the last window ends exactly at L",
        (centre(m) + k - depth).subs(large),
        0,
        formula=r"r - k + (m-1)(2k+1) + k = L",
    )
    d.prove(
        "and the first, with r = 2k+1−a, begins at 1−a ≤ 1",
        (centre(1) - k).subs(large).subs(r, 2 * k + 1 - a),
        1 - a,
        formula=r"r - 2k = 1 - a",
    )
    d.define("so Mc = 1 with m ones: α = ⌈L/(2k+1)⌉", r"\alpha = \lceil L/(2k+1)\rceil")
    _band_instances(d)


def _band_instances(d: Derivation) -> None:
    covered = all(
        sum(abs(i - j) <= width for j in centres(size, width)) == 1
        for size in range(1, 16)
        for width in range(size)
        for i in range(1, size + 1)
    )
    d.check("the windows cover exactly once for all L ≤ 15 and k < L", covered)
    solved = all(
        rate(band(size, width)) == -(-size // (2 * width + 1))
        for size in range(1, 11)
        for width in range(size)
    )
    d.check("elimination on Mc = 1 gives the same α for all L ≤ 10 and k < L", solved)
    n0, n1 = sp.symbols("D_n D_{n+1}")
    n2 = n1 - n0
    d.define(
        "tridiagonal: D_{n+2} = D_{n+1} − D_n for the determinant, expanding along the last row; D_0 "
        "= D_1 = 1",
        sp.Eq(sp.Symbol("D_{n+2}"), n2),
    )
    d.prove(
        "so D_{n+3} = −D_n, and with D_2 = 0 every L = 3s+2 has a singular mask",
        n2 - n1,
        -n0,
        formula=r"D_{n+3} = D_{n+2} - D_{n+1} = -D_n",
    )
    dets = [int(band(size, 1).det()) for size in range(1, 9)]
    d.check("determinants for L = 1…8 are 1, 0, −1, −1, 0, 1, 1, 0", dets == [1, 0, -1, -1, 0, 1, 1, 0])
    d.check(
        "yet Mc = 1 is solvable there, α = s+1 = ⌈L/3⌉: no depth need be excluded",
        all(rate(band(3 * s + 2, 1)) == s + 1 for s in range(4)),
    )


def _odd_masks(d: Derivation) -> None:
    rates = [rate(mask) for depth in range(1, 6) for mask in all_masks(depth)]
    d.check(
        f"all {len(rates)} masks with unit diagonal and L ≤ 5 are solvable with α ≥ 1",
        all(a is not None and a >= 1 for a in rates),
    )
    mask = mask_of(6, INCONSISTENT)
    z = sp.Matrix([1, 1, -1, -1, -1, -1])
    d.prove("L = 6, pairs 12, 15, 16, 23, 24: Mz = 0 for this z", mask * z, sp.zeros(6, 1),
            formula=sp.MatMul(sp.ImmutableMatrix(mask), sp.ImmutableMatrix(z), evaluate=False))  # fmt: skip
    d.prove("but 1ᵀz = −2 ≠ 0, so Mc = 1 has no solution", sum(z), -2, formula=r"1^\top z = -2")
    uphill = mask_of(7, UPHILL)
    c = inverse(uphill) * sp.ones(7, 1)
    d.check("L = 7, pairs 12, 13, 24, 27, 34, 37, 45, 46: M is invertible", uphill.det() != 0)
    d.prove("and α = 1ᵀM⁻¹1 = −5: the step goes uphill", rate(uphill), -5, formula=r"\alpha = -5")
    d.prove("with this c", uphill * c, sp.ones(7, 1), formula=sp.Eq(sp.Symbol("c"), c.T, evaluate=False))


def _any_widths(d: Derivation) -> None:
    """Each error block (k,l) obeys the sub-mask M[k..l]."""
    rules = n.algebra()
    for depth in (2, 3, 4):
        m = sp.Matrix(depth, depth, lambda i, j: sp.Symbol(f"M_{min(i, j) + 1}{max(i, j) + 1}"))
        blocks = [(k, end) for k in range(1, depth + 1) for end in range(k, depth + 1)]
        places = [(k, end, j) for k, end in blocks for j in range(k, end + 1)]
        share = {(k, end, j): sp.Symbol(f"c^{{{k}{end}}}_{j}") for k, end, j in places}

        def express(j: int, blocks: Any = blocks, share: Any = share, depth: int = depth) -> sp.Expr:
            return sp.Add(
                *(share[k, end, j] * dP(k) * E * dQ(end, depth) for k, end in blocks if k <= j <= end)
            )

        steps = [n.BP(j) * express(j) * n.AP(j) for j in range(1, depth + 1)]
        for i in range(1, depth + 1):
            total = sp.Add(*(m[i - 1, j - 1] * n.B(j) * steps[j - 1] * n.A(j) for j in range(1, depth + 1)))
            expected = sp.Add(
                *(
                    sum(m[i - 1, j - 1] * share[k, end, j] for j in range(k, end + 1))
                    * dP(k)
                    * E
                    * dQ(end, depth)
                    for k, end in blocks
                    if k <= i <= end
                )
            )
            d.prove(
                f"any widths, L = {depth}, layer {i}: (F_Mv)_i contains ΔP_kẼΔQ_l with factor Σ_(k≤j≤l) "
                f"M_ij c_j^(kl)",
                n.BT(i) * total * n.AT(i),
                n.BT(i) * expected * n.AT(i),
                rules.reduce,
                r"M_{[k..l]}\,c^{(kl)} = 1\quad\text{for } k\le i\le l",
            )


def masked_direction(ex: Example, mask: sp.Matrix) -> list[sp.Matrix]:
    """Return v of an exact example, every block (k,l) by its own sub-mask."""
    symbols = ex.symbols()
    return [evaluate(masked(i, mask), symbols) for i in range(1, ex.depth + 1)]


def masked(i: int, mask: sp.Matrix) -> sp.Expr:
    """Return v_i = B̃_i⁺[Σ_{k≤i≤l} c_i^{(kl)} ΔP_kẼΔQ_l]Ã_i⁺ as an expression."""
    depth = mask.rows
    inner = sp.S.Zero
    for k in range(1, i + 1):
        for end in range(i, depth + 1):
            c = coefficients(mask[k - 1 : end, k - 1 : end])
            if c is None:
                raise ValueError(f"Mc = 1 has no solution for the layers {k}…{end} of the mask")
            inner += c[i - k] * dP(k) * E * dQ(end, depth)
    return n.BP(i) * inner * n.AP(i)


def _networks(d: Derivation) -> None:
    wide = example((2, 2, 2, 2, 2), seed=6)
    for name, mask in (
        ("block-diagonal", sp.eye(4)),
        ("tridiagonal", band(4, 1)),
        ("pairs 12 and 34", mask_of(4, [(1, 2), (3, 4)])),
    ):
        v = wide.stack(masked_direction(wide, mask))
        d.check(f"2-2-2-2-2, {name}: F_M v = −∇ℓ exactly", masked_fisher(wide, mask) * v == -wide.gradient)
        d.check(
            f"2-2-2-2-2, {name}: J v = {rate(mask)} Ẽ",
            unstack(wide.jacobian * v, wide.e) == rate(mask) * wide.e,
        )
    for widths in ((4, 2, 4), (3, 2, 3, 2), (2, 1, 2, 2)):
        ex = example(widths)
        for width in (0, 1):
            mask = band(ex.depth, width)
            v = ex.stack(masked_direction(ex, mask))
            d.check(
                f"{widths}, band {width}: F_M v = −∇ℓ exactly", masked_fisher(ex, mask) * v == -ex.gradient
            )
    ex = example((4, 2, 4))
    total = ex.jacobian * ex.stack(masked_direction(ex, sp.eye(2)))
    natural = ex.jacobian * ex.stack(masked_direction(ex, sp.ones(2)))
    d.check(
        "4-2-4: the block-diagonal step is no multiple of the natural gradient",
        sp.Matrix.hstack(total, natural).rank() == 2,
    )
    thin = example((1,) * 7, seed=9)
    fisher = masked_fisher(thin, mask_of(6, INCONSISTENT))
    d.check(
        "six layers of width 1, the inconsistent mask: F_M v = −∇ℓ has no solution",
        fisher.row_join(thin.gradient).rank() > fisher.rank(),
    )
    thin = example((1,) * 8, seed=9)
    v = thin.stack(masked_direction(thin, mask_of(7, UPHILL)))
    d.check(
        "seven layers of width 1: the mask with α = −5 raises the loss",
        (thin.gradient.T * v)[0] == 5 * (thin.e.T * thin.e)[0],
    )


def masked_gradient(
    weights: Sequence[Array], error: Array, input_cov: Array, noise_cov: Array, mask: Array
) -> list[Array]:
    """Evaluate the masked step on float arrays, any widths (descent).

    Parameters
    ----------
    weights : sequence of (n_i, n_{i−1}) arrays
    error : (n_L, n_0) array
    input_cov, noise_cov : square arrays
    mask : (L, L) array of 0 and 1
        Symmetric, with unit diagonal.

    Returns
    -------
    list of (n_i, n_{i−1}) arrays

    Raises
    ------
    ValueError
        Where Mc = 1 has no solution on some range of layers.
    """
    values = float_symbols(weights, error, input_cov, noise_cov)
    exact = sp.Matrix(np.asarray(mask, dtype=int).tolist())
    return [evaluate(masked(i, exact), values) for i in range(1, len(weights) + 1)]


def mask_rate(mask: Array) -> float | None:
    """Return α = 1ᵀc, None where Mc = 1 has no solution."""
    value = rate(sp.Matrix(np.asarray(mask, dtype=int).tolist()))
    return None if value is None else float(value)


def functions() -> dict[str, Callable[..., Any]]:
    """Return "masked_gradient" (weights, error, input_cov, noise_cov, mask) and "mask_rate" (mask)."""
    return {"masked_gradient": masked_gradient, "mask_rate": mask_rate}
