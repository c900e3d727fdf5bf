"""N8: equal routes by exchanges, by Sylvester, by parameters and by samples.

Neighbour exchanges span the null space of J, the Sylvester equation of two layers has a limit where it is singular, and
the spaces of parameters and of samples give one spectrum and one solution.

Convention: P_i = B̃_iB̃_i⁺ grow, Q_i = Ã_i⁺Ã_i shrink (N2); layer i reaches the blocks ΔP_k ⊗ ΔQ_l with k ≤ i ≤ l.
Source: new; pseudo-inverses: Penrose 1955.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp

from derivations import _network as n
from derivations import n3_gauges as n3
from derivations._core import Algebra, Derivation, integers, inverse, kron, operators, vec
from derivations._network import Array, Example, example, float_symbols, ladder

STATEMENTS = ("N8",)


def exchange(x: Any, below: Any, above: Any) -> tuple[Any, Any]:
    """Return what X changes in the layer below a hidden layer and in the one above."""
    return x * below, -above * x


def derive() -> tuple[Derivation, ...]:
    """Return the derivation of N8."""
    d = Derivation("N8", "equal routes: exchanges, Sylvester, parameters and samples", "new")
    _exchanges(d)
    _blocks(d)
    _orthonormal(d)
    _alone(d)
    _sylvester(d)
    _two_spaces(d)
    _instances(d)
    return (d,)


# -------------------------------------------------------------------------------------------- null space


def _exchanges(d: Derivation) -> None:
    b, w, a, x, m, after = operators("B̃ W Ã X M B̃₊")
    rules = Algebra()
    rules.rule(after * w, b)
    d.define(
        "layers i and i + 1: B̃_{i+1}W_{i+1} = B̃_i, M_iÃ_i = Ã_{i+1}; an exchange is v_i = XM_i, v_{i+1} = −W_{i+1}X"
    )
    d.prove(
        "it changes nothing: B̃_i(XM_i)Ã_i − B̃_{i+1}(W_{i+1}X)(M_iÃ_i) = 0, for every X",
        b * exchange(x, m, w)[0] * a + after * exchange(x, m, w)[1] * (m * a),
        0,
        rules.reduce,
        formula=r"\tilde B_i X M_i \tilde A_i - \tilde B_{i+1} W_{i+1} X \tilde A_{i+1} = 0",
    )
    i = sp.Symbol("i", integer=True, positive=True)
    family = n.algebra()
    d.define(
        "Z_i = B̃_iv_iÃ_i = P_iZ_iQ_i is what layer i does; v is null if Σ_i Z_i = 0, and ker J_i is Z_i = 0"
    )
    y = operators("Y")[0]
    shared = n.P(i) * y * n.Q(i + 1)
    d.prove(
        "what two neighbours can both do is P_iYQ_{i+1}: layer i can",
        n.P(i) * shared * n.Q(i),
        shared,
        family.reduce,
    )
    d.prove(
        "and layer i + 1 can, since P_i ⊆ P_{i+1} and Q_{i+1} ⊆ Q_i",
        n.P(i + 1) * shared * n.Q(i + 1),
        shared,
        family.reduce,
    )
    d.prove(
        "every such exchange exists: X = B̃_i⁺YÃ_{i+1}⁺ does P_iYQ_{i+1} in layer i and takes it back in the next",
        n.B(i) * (n.BP(i) * y * n.AP(i + 1)) * n.A(i + 1),
        shared,
        family.reduce,
    )


def _blocks(d: Derivation) -> None:
    """On each block (k, l) the layers k … l act alike: a sum of zero is a sum of neighbours' differences."""
    for length in (2, 3, 5):
        z = list(sp.symbols(f"z_1:{length + 1}"))
        partial = [sum(z[: j + 1]) for j in range(length - 1)]
        again = [partial[0]] + [partial[j] - partial[j - 1] for j in range(1, length - 1)] + [-partial[-1]]
        rest = [one - two for one, two in zip(z, again, strict=True)]
        d.prove(
            f"l − k + 1 = {length} layers, z_k + … + z_l = 0: with the partial sums Y_j = z_k + … + z_j the exchanges "
            "(Y_j, −Y_j) of neighbours add up to z",
            sp.Matrix(rest).subs(z[-1], -sum(z[:-1])),
        )
    gap, below, above = sp.symbols("z Y_− Y_+")
    d.prove(
        "for any length: layer j gets Y_j from its own exchange and −Y_{j−1} from the one below, Y_j = Y_{j−1} + z_j",
        (above - below).subs(above, below + gap),
        gap,
        formula="Y_j - Y_{j-1} = z_j",
    )
    d.define(
        "blocks are consecutive, k ≤ i ≤ l, so exchanges with ker J_1, …, ker J_L span ker J: any widths, ranks and S; "
        "and the Y_j are determined by z: no exchange is superfluous on the ranges"
    )
    p, q, size = sp.symbols("p q N", positive=True)
    p_next, q_next = sp.symbols("p_+ q_+", positive=True)
    d.prove(
        "dimension: Σ(n_im_i − p_iq_i) outside and Σ p_iq_{i+1} exchanges, P − rank J with the rank of F1 (two layers)",
        (size - p * q - p_next * q_next) + p * q_next,
        size - (p * q + p_next * q_next - p * q_next),
    )


def _orthonormal(d: Derivation) -> None:
    c, s, y, z = sp.symbols("c d y z", real=True)
    radius = sp.sqrt(c**2 + s**2)
    d.define(
        "orthonormal bases V_i of range B̃_iᵀ and U_i of range Ã_i; C = U_{i+1}ᵀM_iU_i = P̂ĉQ̂ᵀ, D = V_{i+1}ᵀW_{i+1}V_i = "
        "ÛdV̂ᵀ: the exchange of the unit (a, b) is (ĉ_a, −d_b) in the entry (a, b) of both layers"
    )
    d.prove(
        "its entries over √(c² + d²) are cos and −sin: scalar products of exchanges of one hidden layer are those of Y",
        (c / radius * y) * (c / radius * z) + (-s / radius * y) * (-s / radius * z),
        y * z,
    )
    d.define(
        "c_a > 0 for every a ≤ r(Ã_{i+1}), since M_i maps range Ã_i onto range Ã_{i+1}: the radius is never zero"
    )


def _alone(d: Derivation) -> None:
    """When are exchanges alone, without ker J_i, the whole null space? Two layers, S > 0."""
    n0, n1, n2, r1, r2 = sp.symbols("n_0 n_1 n_2 r_1 r_2", nonnegative=True)
    d.define(
        "L = 2, S > 0: X ↦ (XW₁, −W₂X) vanishes on {X: XW₁ = 0, W₂X = 0}, of dimension (n_1 − r_1)(n_1 − r_2)"
    )
    exchanges = n1**2 - (n1 - r1) * (n1 - r2)
    nullity = n1 * (n0 + n2) - (r2 * n0 + n2 * r1 - r1 * r2)
    d.prove(
        "so that exchanges alone lack (n_1 − r_2)(n_0 − r_1) + (n_1 − r_1)(n_2 − r_2) dimensions",
        nullity - exchanges,
        (n1 - r2) * (n0 - r1) + (n1 - r1) * (n2 - r2),
    )
    d.define(
        "none for generic weights unless n_0, n_1, n_2 strictly rise or fall: 4-3-2 lacks one, with layers of full rank"
    )
    for widths, ranks in (
        ((4, 3, 2), None),
        ((2, 3, 4), None),
        ((3, 4, 2), None),
        ((4, 2, 3), None),
        ((3, 3, 3), (2, 2)),
    ):
        ex = _white(example(widths, ranks))
        first, second = (w.rank() for w in ex.weights)
        a, b, c = widths
        lack = (b - second) * (a - first) + (b - first) * (c - second)
        whole = ex.jacobian.cols - ex.jacobian.rank()
        d.check(
            f"{widths}, ranks {first}, {second}: exchanges alone lack {lack}",
            whole - _span(ex).rank() == lack,
        )


def _white(ex: Example) -> Example:
    return Example(ex.weights, sp.eye(ex.f.rows), sp.eye(ex.h.rows), ex.error)


def _span(ex: Example) -> sp.Matrix:
    """Return (XW_i, −W_{i+1}X) for all unit matrices X and all hidden layers, stacked as columns."""
    columns = []
    for i in range(ex.depth - 1):
        size = ex.weights[i].rows
        for place in range(size * size):
            x = sp.zeros(size)
            x[place % size, place // size] = 1
            steps = [sp.zeros(*w.shape) for w in ex.weights]
            steps[i], steps[i + 1] = exchange(x, ex.weights[i], ex.weights[i + 1])
            columns.append(ex.stack(steps))
    return sp.Matrix.hstack(*columns)


def _outside(ex: Example) -> sp.Matrix:
    """Return a basis of ⊕_i ker J_i as columns."""
    blocks = []
    for a, b in zip(ex.a, ex.b, strict=True):
        kernel = kron(a.T, b).nullspace()
        blocks.append(sp.Matrix.hstack(*kernel) if kernel else sp.zeros(b.cols * a.rows, 0))
    return sp.diag(*blocks)


# ---------------------------------------------------------------------------------------------- Sylvester


def _sylvester(d: Derivation) -> None:
    sigma, tau, mu, t = sp.symbols("σ τ μ t", positive=True)
    entry = t / (sigma**2 + tau**2 + mu)
    d.define(
        "L = 2 in the bases of the SVDs of W₂ and W₁R, shifted by μ: M = t/(σ² + τ² + μ), v_1 = σM, v_2 = Mτ",
        entry,
    )
    for name, limits, found in (
        ("both positive", {}, t / (sigma**2 + tau**2)),
        ("σ = 0", {sigma: 0}, t / tau**2),
        ("τ = 0", {tau: 0}, t / sigma**2),
    ):
        d.prove(f"{name}: the limit μ → 0⁺", sp.limit(entry.subs(limits), mu, 0, "+"), found)
    both = entry.subs({sigma: 0, tau: 0})
    d.check("σ = τ = 0: M grows like t/μ without a limit, unless t = 0", sp.limit(both, mu, 0, "+") == sp.oo)
    d.prove(
        "but v_1 and v_2 are zero for every μ > 0: the limit of the direction is the pseudo-inverse",
        sp.Matrix([sigma * entry, tau * entry]).subs({sigma: 0, tau: 0}),
    )
    k, g, m, s, si, pc, qc = operators("K G M Σ S⁻¹ P⊥ Q⊥")
    lam = sp.Symbol("λ", positive=True)
    rules = Algebra()
    rules.rule(pc * k, 0)
    rules.rule(g * qc, 0)
    equation = k * m + m * g + lam * s * m * si
    d.prove(
        "damped with any S and Σ: multiplied by P⊥ (of ker K) and Q⊥ (of ker G) only the damping is left, so "
        "P⊥ΣMS⁻¹Q⊥ = P⊥TQ⊥/λ, zero for an expressible T: nothing grows",
        pc * equation * qc,
        lam * pc * s * m * si * qc,
        rules.reduce,
    )
    w2t, null, w1t = operators("W₂ᵀ N W₁ᵀ")
    other = Algebra()
    other.rule(w2t * null, 0)
    other.rule(null * w1t, 0)
    d.prove(
        "the limits of M in two metrics differ by N with W₂ᵀN = 0, NW₁ᵀ = 0: v_1 = W₂ᵀM and v_2 = MW₁ᵀ do not see it",
        sp.Matrix([[w2t * (m + null) - w2t * m, (m + null) * w1t - m * w1t]]),
        sp.zeros(1, 2),
        lambda rest: rest.applyfunc(other.reduce),
        formula=r"W_2^\top(M + N) = W_2^\top M,\quad (M + N)W_1^\top = M W_1^\top",
    )
    _generalised(d)


def _generalised(d: Derivation) -> None:
    """One anisotropic side, singular layers: exact rational functions of λ."""
    lam = sp.Symbol("λ", positive=True)
    base = example((2, 2, 2), (1, 1), seed=3)
    for name, f, h in (("S isotropic", sp.eye(2), sp.diag(1, 2)), ("Π isotropic", sp.diag(1, 2), sp.eye(2))):
        ex = Example(base.weights, f, h, base.error)
        limit = solution(ex, lam).applyfunc(lambda x: sp.limit(x, lam, 0, "+"))
        d.check(
            f"2-2-2, layer ranks 1, 1, {name}: the damped equation tends to J⁺ vec Ẽ",
            limit == ex.stack(n3.minimum_norm(ex)),
        )


def solution(ex: Example, damping: Any) -> sp.Matrix:
    """Return Jᵀ(JJᵀ + λ)⁻¹ vec Ẽ."""
    j = ex.jacobian
    return (j.T * inverse(j * j.T + damping * sp.eye(j.rows)) * vec(ex.e)).applyfunc(sp.cancel)


# ------------------------------------------------------------------------- parameters and samples


def _two_spaces(d: Derivation) -> None:
    j, jp, jt, jpt = operators("J J⁺ Jᵀ J⁺ᵀ")
    rules = Algebra()
    rules.moore_penrose(j, jp, jt, jpt)
    rules.rule(jt * jpt * jp, jp)
    rules.rule(jp * jpt * jt, jp)
    rules.rule(jt * jpt, jp * j)
    rules.rule(jpt * jt, j * jp)
    f, fp, k, kp = jt * j, jp * jpt, j * jt, jpt * jp
    for name, one, two in (("F = JᵀJ, F⁺ = J⁺J⁺ᵀ", f, fp), ("JJᵀ, (JJᵀ)⁺ = J⁺ᵀJ⁺", k, kp)):
        d.prove(f"{name}: AA⁺A = A", one * two * one, one, rules.reduce)
        d.prove("  A⁺AA⁺ = A⁺", two * one * two, two, rules.reduce)
        d.prove("  AA⁺ and A⁺A are the same symmetric projector", one * two - two * one, 0, rules.reduce)
    d.prove("one solution: Jᵀ(JJᵀ)⁺ = J⁺", jt * kp, jp, rules.reduce, formula=r"J^\top (JJ^\top)^+ = J^+")
    d.prove("and (JᵀJ)⁺Jᵀ = J⁺", fp * jt, jp, rules.reduce, formula=r"(J^\top J)^+ J^\top = J^+")
    lam, r, s = sp.Symbol("λ", positive=True), *operators("R_F R_K")
    push = Algebra()
    push.rule(r * jt * j, 1 - lam * r)
    push.rule(j * jt * s, 1 - lam * s)
    d.define("R_F = (JᵀJ + λ)⁻¹, R_K = (JJᵀ + λ)⁻¹")
    d.prove(
        "damped as well: R_FJᵀ = R_F Jᵀ(JJᵀ + λ)R_K = JᵀR_K",
        r * (jt * j) * jt * s + lam * r * jt * s,
        jt * s,
        push.reduce,
    )
    v, value = operators("u")[0], sp.Symbol("σ²", positive=True)
    eigen = Algebra()
    eigen.rule(jt * j * v, value * v)
    d.prove(
        "one spectrum: F u = σ²u gives JJᵀ(Ju) = σ²(Ju), with ‖Ju‖² = σ²‖u‖² > 0",
        j * jt * (j * v),
        value * j * v,
        eigen.reduce,
    )
    x = sp.Symbol("x")
    for rows, columns in ((2, 3), (4, 3), (3, 3)):
        matrix = integers(rows, columns, 5 + rows)
        one, two = ((x * sp.eye(g.rows) - g).det() for g in (matrix.T * matrix, matrix * matrix.T))
        d.prove(
            f"with multiplicities, exactly ({rows} × {columns}): x^m det(x − JᵀJ) = x^n det(x − JJᵀ)",
            sp.expand(x**rows * one - x**columns * two),
            formula=r"x^m \det(x - J^\top J) = x^n \det(x - JJ^\top)",
        )
    d.define("so the products of the non-zero eigenvalues agree, and log pdet F = 2 Σ log σ(J)")


def _instances(d: Derivation) -> None:
    for name, ex in ladder()[:-1]:
        j, whole = ex.jacobian, sp.Matrix.hstack(_span(ex), _outside(ex))
        d.check(f"{name}: exchanges and ⊕ ker J_i are null exactly", (j * whole).is_zero_matrix is True)
        d.check("  and span ker J", whole.rank() == j.cols - j.rank())


# ------------------------------------------------------------------------------------------------ numbers


def exchanges(weights: Sequence[Array], input_cov: Array, noise_cov: Array) -> Array:
    """Evaluate a spanning set of ker J: all (XW_i, −W_{i+1}X) and all of ⊕ ker J_i, as columns (P, ·).

    Parameters
    ----------
    weights : sequence of (n_i, n_{i−1}) arrays
    input_cov, noise_cov : square arrays

    Returns
    -------
    array
        More columns than dimensions.
    """
    error = np.zeros((len(weights[-1]), weights[0].shape[1]))
    values = float_symbols(weights, error, input_cov, noise_cov)
    columns = []
    for i in range(len(weights) - 1):
        size = len(weights[i])
        for place in range(size * size):
            x = np.zeros((size, size))
            x[place % size, place // size] = 1.0
            columns.append(_stacked(weights, {i: x @ weights[i], i + 1: -weights[i + 1] @ x}))
    for i, weight in enumerate(weights):
        rows, inner = np.eye(len(weight)), np.eye(weight.shape[1])
        left = rows - values[n.BP(i + 1)] @ values[n.B(i + 1)]
        right = inner - values[n.A(i + 1)] @ values[n.AP(i + 1)]
        for a, b in np.ndindex(*weight.shape):
            unit = np.outer(rows[a], inner[b])
            columns += [_stacked(weights, {i: left @ unit}), _stacked(weights, {i: unit @ right})]
    return np.stack(columns, axis=1)


def _stacked(weights: Sequence[Array], parts: dict[int, Array]) -> Array:
    return np.concatenate([parts.get(i, np.zeros(w.shape)).flatten(order="F") for i, w in enumerate(weights)])


def minimum_norm(
    weights: Sequence[Array], error: Array, input_cov: Array, noise_cov: Array, space: str
) -> list[Array]:
    """Evaluate F⁺Jᵀ vec Ẽ ("parameters") or Jᵀ(JJᵀ)⁺ vec Ẽ ("samples") on float arrays (descent)."""
    values = float_symbols(weights, error, input_cov, noise_cov)
    layers = range(1, len(weights) + 1)
    j = np.hstack([np.kron(values[n.AT(i)], values[n.B(i)]) for i in layers])
    e = values[n.E].flatten(order="F")
    if space == "parameters":
        vector = np.linalg.pinv(j.T @ j, rcond=1e-10, hermitian=True) @ (j.T @ e)
    else:
        vector = j.T @ (np.linalg.pinv(j @ j.T, rcond=1e-10, hermitian=True) @ e)
    ends = np.cumsum([w.size for w in weights])[:-1]
    return [part.reshape(w.shape, order="F") for part, w in zip(np.split(vector, ends), weights, strict=True)]


def functions() -> dict[str, Callable[..., Any]]:
    """Return "exchanges" (columns that span ker J) and "minimum_norm" (by the space of parameters or of samples)."""
    return {"exchanges": exchanges, "minimum_norm": minimum_norm}
