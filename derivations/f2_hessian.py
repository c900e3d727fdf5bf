"""F2: the Hessian of the loss, and why neither it nor the Fisher matrix is near block-diagonal.

Convention: ℓ = ½‖Ẽ‖² + floor; blocks act on vec dW_i (column stacking). Source: Bernacchia et al. 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp

from derivations import _network as n
from derivations._core import Algebra, Derivation, evaluate, families, kron, operators, pinv, product
from derivations._network import Array, Example, example, float_symbols, ladder

STATEMENTS = ("F2",)


def derive() -> tuple[Derivation, ...]:
    """Return the derivation of F2."""
    d = Derivation("F2", "Hessian, and the coupling between layers", "Bernacchia et al. 2018")
    _second_variation(d)
    _hessian_instance(d)
    _norms(d)
    _balanced(d)
    _canonical(d)
    return (d,)


def _second_variation(d: Derivation) -> None:
    """The second-order change of W is the sum over pairs of layers; by induction on the depth."""
    t = sp.Symbol("t", real=True)
    w, x = families("W D")
    d.define("W(t) = (W_L + tD_L)⋯(W_1 + tD_1)")
    for depth in range(1, 5):
        total = sp.expand(sp.Mul(*(w(i) + t * x(i) for i in range(depth, 0, -1))))
        note = ": none, so R = 0 and H = F" if depth == 1 else ""
        d.prove(
            f"depth {depth}: the coefficient of t² is the sum over pairs i < j{note}",
            total.coeff(t, 2),
            _pairs(w, x, depth),
            formula=r"\sum_{i<j} W_L\cdots D_j\cdots D_i\cdots W_1",
        )
    m0, m1, m2, wn, xn = operators("M₀ M₁ M₂ W_{L+1} D_{L+1}")
    longer = sp.expand((wn + t * xn) * (m0 + t * m1 + t**2 * m2))
    d.prove(
        "from L to L+1, any L: the pairs (i, L+1) are D_{L+1} times the first-order change M₁ = Σ_i "
        "B_iD_iA_i",
        longer.coeff(t, 2),
        wn * m2 + xn * m1,
        formula=r"[t^2]\,(W_{L+1} + tD_{L+1})(M_0 + tM_1 + t^2M_2) = W_{L+1}M_2 + "
        r"D_{L+1}M_1",
    )
    e, et, h, ht, j1, j1t, k, kt = operators("Ẽ Ẽᵀ H Hᵀ (JD) (JD)ᵀ K Kᵀ")
    rules = Algebra()
    rules.transposes((e, et), (h, ht), (j1, j1t), (k, kt))
    moved = e - t * j1 - t**2 * k
    loss = sp.expand(moved * rules.transpose(moved) / 2)
    d.define("Ẽ(t) = Ẽ − t JD − t² K with K = Σ_{i<j} B̃_jD_j(W_{j−1}⋯W_{i+1})D_iÃ_i", e - t * j1 - t**2 * k)
    d.prove(
        "½ d²ℓ: H = F + R, ⟨D, F D⟩ = ‖JD‖² and ⟨D, R D⟩ = −2⟨Ẽ, K⟩ (under the trace)",
        2 * loss.coeff(t, 2),
        j1 * j1t - 2 * e * kt,
        rules.trace,
    )
    d.prove(
        "R vanishes with Ẽ",
        (j1 * j1t - 2 * e * kt).subs(e, 0),
        j1 * j1t,
        formula=r"\tilde E = 0 \Rightarrow H = F",
    )


def _pairs(w: Any, x: Any, depth: int) -> sp.Expr:
    total = sp.S.Zero
    for j in range(2, depth + 1):
        for i in range(1, j):
            factors = [x(m) if m in (i, j) else w(m) for m in range(depth, 0, -1)]
            total += sp.Mul(*factors)
    return total


def _hessian_instance(d: Derivation) -> None:
    """The bilinear form against derivatives of the exact loss in one symbolic direction."""
    ex = example((2, 3, 2, 2), rank_s=1)
    t = sp.Symbol("t", real=True)
    steps = tuple(product([weight]).applyfunc(lambda entry: (3 * entry + 1) % 4 - 1) for weight in ex.weights)
    teacher = ex.error + product(reversed(ex.weights))
    moving = product(
        weight + t * step for weight, step in zip(reversed(ex.weights), reversed(steps), strict=True)
    )
    loss = sum(entry**2 for entry in ex.h * (teacher - moving) * ex.f) / 2
    second = sp.diff(loss, t, 2).subs(t, 0)
    j = ex.jacobian * ex.stack(steps)
    pairs = sp.S.Zero
    for late in range(1, 3):
        for early in range(late):
            middle = product(reversed(ex.weights[early + 1 : late]), ex.weights[early].rows)
            change = ex.b[late] * steps[late] * middle * steps[early] * ex.a[early]
            pairs += 2 * (ex.e.T * change).trace()
    d.prove("2-3-2-2, singular S: d²ℓ/dt² along one direction, exactly", second, (j.T * j)[0] - pairs,
            formula=r"d^2\ell/dt^2 = \|JD\|^2 - 2\langle\tilde E, K\rangle")  # fmt: skip
    d.check("and R contributes there: H ≠ F", pairs != 0)


def _norms(d: Derivation) -> None:
    ji, jit, jj, jjt = operators("J₁ J₁ᵀ J₂ J₂ᵀ")
    c = sp.Symbol("c", nonnegative=True)
    rules = Algebra()
    rules.transposes((ji, jit), (jj, jjt))
    d.define("F_ij = J_iᵀJ_j; c = ‖F_22‖ = ‖J₂J₂ᵀ‖, so c − J₂J₂ᵀ is positive semi-definite")
    d.prove(
        "c F_11 − F_12F_21 = J₁ᵀ(c − J₂J₂ᵀ)J₁ is positive semi-definite: ‖F_12‖² ≤ ‖F_11‖ ‖F_22‖",
        c * jit * ji - jit * jj * rules.transpose(jit * jj),
        jit * (c - jj * jjt) * ji,
        rules.reduce,
    )


def _balanced(d: Derivation) -> None:
    """Balanced weights, S = Π = I: every block has the same operator norm."""
    u, ut, s = families("U Uᵀ D")
    rules = Algebra()
    rules.orthonormal(u, ut)
    rules.symmetric(s)
    rules.rewrite(
        2, lambda x, y: s(sp.simplify(x.args[0] + y.args[0])) if x.func == s and y.func == s else None
    )
    i, size = sp.symbols("i L", integer=True, positive=True)
    d.define(
        "balanced weights, singular vectors of the layers aligned: W_i = U_i D(1/L) U_{i−1}ᵀ, where "
        "D(x)D(y) = D(x+y) are powers of the singular values of W"
    )
    before = u(i - 1) * s((i - 1) / size) * ut(0)
    d.prove(
        "A_i = U_{i−1} D((i−1)/L) U_0ᵀ: the step A_{i+1} = W_i A_i",
        u(i) * s(1 / size) * ut(i - 1) * before,
        u(i) * s(i / size) * ut(0),
        rules.reduce,
    )
    after = u(size) * s((size - i) / size) * ut(i)
    d.prove(
        "B_i = U_L D((L−i)/L) U_iᵀ: the step B_{i−1} = B_i W_i",
        after * u(i) * s(1 / size) * ut(i - 1),
        u(size) * s((size - i + 1) / size) * ut(i - 1),
        rules.reduce,
    )
    _balanced_blocks(d, rules, before, after)


def _balanced_blocks(d: Derivation, rules: Algebra, before: sp.Expr, after: sp.Expr) -> None:
    u, ut, s = families("U Uᵀ D")
    i, j, size = sp.symbols("i j L", integer=True, positive=True)
    other_a = u(j - 1) * s((j - 1) / size) * ut(0)
    other_b = u(size) * s((size - j) / size) * ut(j)
    d.prove(
        "input half of F_ij: A_iA_jᵀ = U_{i−1} D((i+j−2)/L) U_{j−1}ᵀ",
        before * rules.transpose(other_a),
        u(i - 1) * s((i + j - 2) / size) * ut(j - 1),
        rules.reduce,
    )
    d.prove(
        "output half: B_iᵀB_j = U_i D((2L−i−j)/L) U_jᵀ",
        rules.transpose(after) * other_b,
        u(i) * s((2 * size - i - j) / size) * ut(j),
        rules.reduce,
    )
    top = sp.Symbol("s", positive=True)
    d.prove(
        "so ‖F_ij‖ = s^{(i+j−2)/L} s^{(2L−i−j)/L} = s^{2−2/L}, the same for every block, diagonal or "
        "not (s largest singular value)",
        top ** ((i + j - 2) / size) * top ** ((2 * size - i - j) / size),
        top ** (2 - 2 / size),
        sp.simplify,
    )


def _canonical(d: Derivation) -> None:
    """All canonical correlations between layers are 0 or 1, for every network."""
    k1, k1t, k2, k2t = operators("K₁ K₁ᵀ K₂ K₂ᵀ")
    p1, p2 = operators("𝒫₁ 𝒫₂")
    rules = Algebra()
    rules.transposes((k1, k1t), (k2, k2t))
    rules.rule(k1 * k1t, p1)
    rules.rule(k2 * k2t, p2)
    for p, k, kt in ((p1, k1, k1t), (p2, k2, k2t)):
        rules.rule(p * p, p)
        rules.rule(p * k, k)
        rules.rule(kt * p, kt)
    rules.rule(p2 * p1, p1 * p2)
    d.define(
        "J_i = K_i F_ii^{½} (polar form), 𝒫_i = K_iK_iᵀ = Q_i ⊗ P_i projects on range J_i; layers i "
        "< j called 1, 2"
    )
    algebra = n.algebra()
    i, a, x = (
        sp.Symbol("i", integer=True, positive=True),
        sp.Symbol("a", integer=True, nonnegative=True),
        operators("X")[0],
    )
    d.prove(
        "nestedness makes 𝒫₁ and 𝒫₂ commute: both products are X ↦ P_i X Q_{i+a}",
        n.P(i) * n.P(i + a) * x * n.Q(i + a) * n.Q(i),
        n.P(i + a) * n.P(i) * x * n.Q(i) * n.Q(i + a),
        algebra.reduce,
    )
    c, ct = k1t * k2, k2t * k1
    d.prove(
        "C = F_ii^{+½}F_ijF_jj^{+½} = K₁ᵀK₂ is a partial isometry, CCᵀC = C: in every network, "
        "whatever the ranks",
        c * ct * c,
        c,
        rules.reduce,
    )
    rules.rule(p1, 1)
    rules.rule(p2, 1)
    d.prove(
        "if moreover P_i = 1 and Q_i = 1 at both layers, K₁CK₂ᵀ = 1: all canonical correlations are 1",
        k1 * c * k2t,
        1,
        rules.reduce,
    )
    _canonical_instances(d)


def _canonical_instances(d: Derivation) -> None:
    """CCᵀ is similar to F_ii⁺F_ijF_jj⁺F_ji, which is rational: an idempotent matrix."""
    for name, ex in ladder():
        if ex.depth < 2:
            continue
        first, last = kron(ex.a[0].T, ex.b[0]), kron(ex.a[-1].T, ex.b[-1])
        cross = pinv(first) * last * pinv(last) * first
        d.check(f"{name}: F_11⁺F_1LF_LL⁺F_L1 is idempotent, trace r(P_1) r(Q_L)",
                cross * cross == cross and cross.trace() == ex.b[0].rank() * ex.a[-1].rank())  # fmt: skip
    identity = Example((sp.eye(2),) * 3, sp.eye(2), sp.eye(2), sp.eye(2))
    j = identity.jacobian
    blocks = {sp.ImmutableMatrix((j.T * j)[r : r + 4, c : c + 4]) for r in (0, 4, 8) for c in (0, 4, 8)}
    d.check("three identity layers, S = Π = 1: the nine blocks of F are equal", len(blocks) == 1)


def functions() -> dict[str, Callable[..., Any]]:
    """Return "hessian": (weights, error, input_cov, noise_cov) → F + R, from the derived blocks."""
    return {"hessian": hessian}


def hessian(weights: Sequence[Array], error: Array, input_cov: Array, noise_cov: Array) -> Array:
    """Return the dense Hessian: F_ij plus R_ij, which pairs −Ẽ with B̃_j dW_j (W_{j−1}⋯W_{i+1}) dW_i Ã_i.

    Parameters
    ----------
    weights : sequence of (n_i, n_{i−1}) arrays
    error : (n_L, n_0) array
    input_cov, noise_cov : square arrays

    Returns
    -------
    (n_parameters, n_parameters) array
    """
    values = float_symbols(weights, error, input_cov, noise_cov)
    layers = range(1, len(weights) + 1)
    rows: list[list[Array]] = []
    for i in layers:
        row: list[Array] = []
        for j in layers:
            block: Array = np.kron(evaluate(n.A(i) * n.AT(j), values), evaluate(n.BT(i) * n.B(j), values))
            if i != j:
                block = block + _pairing(weights, values, i, j)
            row.append(block)
        rows.append(row)
    return np.block(rows)


def _pairing(weights: Sequence[Array], values: dict[Any, Array], i: int, j: int) -> Array:
    """R_ij for i ≠ j: entry ((a,b),(c,d)) is −Ẽ paired with the change of W by both unit steps."""
    early, late = min(i, j), max(i, j)
    middle = np.eye(weights[early - 1].shape[0])
    for weight in weights[early : late - 1]:
        middle = weight @ middle
    outer = evaluate(
        n.BT(late) * n.E * n.AT(early), values
    )  # (n_late, n_{early−1}) pairs with D_late · middle · D_early
    block = -np.einsum("ad,bc->badc", outer, middle)
    late_early: Array = block.reshape(weights[late - 1].size, weights[early - 1].size)
    return late_early if i > j else late_early.T
