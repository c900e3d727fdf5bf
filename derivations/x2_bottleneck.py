"""Where does natural gradient flow go through a bottleneck, and how fast?

Statement X2: W̃ moves on the matrices of rank r by the tangential part of its error; Z = e^t W̃ is dynamical low-rank
approximation (Koch and Lubich 2007) of a line. Equilibria are subsets of the singular value decomposition of W̃*, their
linearisation is diagonal, the best rank-r approximation alone is stable, and r = 1 is solved in closed form. New.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import (
    Algebra,
    Derivation,
    families,
    integers,
    operators,
    pinv,
    unvec,
    vec,
)
from derivations._layers import after, before, jacobian, rotation
from derivations._rank_one import exponential, exponentials, own_time

STATEMENTS = ("X2",)

Array = NDArray[Any]


def tangential(p: Any, q: Any, x: Any) -> Any:
    """Return PX + XQ − PXQ, P and Q the projections on the column and the row space of W."""
    return p * x + x * q - p * x * q


def coupling(kept: Any, left_out: Any) -> Any:
    """Return the off-diagonal element s_j/s_a of the linearisation on the pair (u_j v_aᵀ, u_a v_jᵀ)."""
    return left_out / kept


def derive() -> tuple[Derivation, ...]:
    """Derive X2."""
    d = Derivation("X2", "Natural gradient flow on the matrices of rank r", "new, by Koch and Lubich 2007")
    _range(d)
    _tangent(d)
    _line(d)
    _equilibria(d)
    _linearisation(d)
    _spectrum(d)
    own_time(d)
    exponentials(d)
    _autoencoder(d)
    _instances(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    velocity(total, teacher, rank)
        P_W (W* − W) for white data.
    eigenvalues(values, kept, rows, columns)
        Of the flow linearised at the equilibrium that keeps these singular values, descending.
    rate(values, rank)
        1 − s_{r+1}/s_r.
    rank_one(tau, left, right, goal)
        e^{Kτ}(u_0, v_0), by the exponential's eigenvectors.
    """
    element = sp.lambdify(_PAIR, coupling(*_PAIR), "numpy")

    def velocity(total: Array, teacher: Array, rank: int) -> Array:
        left, _, right = np.linalg.svd(total)
        p, q = left[:, :rank] @ left[:, :rank].T, right[:rank].T @ right[:rank]
        error = teacher - total
        return np.asarray(p @ error + error @ q - p @ error @ q)

    def eigenvalues(values: Sequence[float], kept: Sequence[int], rows: int, columns: int) -> Array:
        rest = [s for j, s in enumerate(values) if j not in kept]
        pairs = [element(values[a], s) for a in kept for s in rest]
        count = len(kept) * (rows + columns - len(kept)) - 2 * len(pairs)
        return np.sort(np.array([-1.0] * count + [-1 + c for c in pairs] + [-1 - c for c in pairs]))[::-1]

    def rate(values: Sequence[float], rank: int) -> float:
        return float(-eigenvalues(values, list(range(rank)), len(values), len(values))[0])

    return {"velocity": velocity, "eigenvalues": eigenvalues, "rate": rate, "rank_one": exponential}


_PAIR = sp.symbols("s_a s_j", positive=True)


def _range(d: Derivation) -> None:
    (pf, qf), (x,) = families("P Q"), operators("X")
    i, j = sp.symbols("i j", integer=True, positive=True)
    gap = sp.Symbol("g", integer=True, positive=True)
    algebra = Algebra()
    algebra.nested(pf)
    algebra.nested(qf, increasing=False)
    d.define(
        "P_i, Q_i project on the ranges of B̃_i and Ã_iᵀ and are nested. Where layers i ≤ j have r(B̃_i) = r = "
        "r(W̃) and "
        "layers i > j have r(Ã_i) = r, as with a hidden width r at j, these P_i = P_j and Q_i = Q_{j+1} project "
        "on the column and the row space of W̃ = B̃_jÃ_{j+1}, and range J = Σ_i P_i ⊗ Q_i is P_j ⊗ Q_1 + P_L ⊗ Q_{j+1}"
    )
    d.prove(
        "for P_i ⊗ Q_i lies in P_j ⊗ Q_1 where i ≤ j",
        pf(j) * (pf(j - gap) * x * qf(j - gap)) - pf(j - gap) * x * qf(j - gap),
        0,
        algebra.reduce,
        formula=r"P_j P_i = P_i,\quad i \leq j",
    )
    d.prove(
        "and in P_L ⊗ Q_{j+1} where i > j",
        pf(i) * x * qf(j + gap) * qf(j) - pf(i) * x * qf(j + gap),
        0,
        algebra.reduce,
        formula=r"Q_i Q_{j+1} = Q_i,\quad i > j",
    )


def _tangent(d: Derivation) -> None:
    x = sp.Symbol("X", commutative=False)
    p, q = operators("P Q")
    algebra = _projectors(p, q)
    once = tangential(p, q, x)
    d.prove(
        "With P_L = I, Q_1 = I the projection on it is X ↦ PX + XQ − PXQ: idempotent",
        tangential(p, q, once),
        once,
        algebra.reduce,
        formula=r"P_{\tilde W} X = P X + X Q - P X Q",
    )
    d.prove(
        "it keeps P X and X Q",
        tangential(p, q, p * x),
        p * x,
        algebra.reduce,
        formula=r"P_{\tilde W} (P X) = P X",
    )
    y, yt, xt = operators("Y Yᵀ Xᵀ")
    algebra.transposes((y, yt), (x, xt))
    d.prove(
        "and is symmetric in the trace form: it is the tangent space of the matrices of rank r at W̃, in every gauge",
        algebra.trace(yt * tangential(p, q, x) - algebra.transpose(tangential(p, q, y)) * x),
        0,
        formula=r"\langle Y, P_{\tilde W} X\rangle = \langle P_{\tilde W} Y, X\rangle",
    )


def _projectors(p: Any, q: Any) -> Algebra:
    algebra = Algebra()
    algebra.symmetric(p, q)
    algebra.rule(p * p, p)
    algebra.rule(q * q, q)
    return algebra


def _line(d: Derivation) -> None:
    p, q, w, g, v, vt, u, ut = operators("P Q W W* V Vᵀ U Uᵀ")
    algebra = _projectors(p, q)
    algebra.rule(p * w, w)
    algebra.rule(w * q, w)
    t = sp.Symbol("t", real=True)
    z_dot = sp.exp(t) * w + sp.exp(t) * tangential(p, q, g - w)
    d.prove(
        "W̃ lies in its own tangent space, so Z = e^t W̃ has dZ/dt = e^t P_Z W̃*: with s = e^t − 1, dZ/ds = P_Z W̃*",
        z_dot,
        sp.exp(t) * tangential(p, q, g),
        algebra.reduce,
        formula=r"\frac{dZ}{ds} = P_Z \tilde W^*,\quad Z = e^t \tilde W,\ s = e^t - 1",
    )
    algebra = Algebra()
    algebra.orthonormal(u, ut)
    algebra.orthonormal(v, vt)
    k, s, lt = g * v * vt, u * ut * g * v * vt, u * ut * g
    d.prove(
        "P_Z splits in three, each of which is solved exactly: US moves along W̃*V, S back along UᵀW̃*V, SVᵀ along "
        "UᵀW̃*",
        tangential(u * ut, v * vt, g),
        k - s + lt,
        algebra.reduce,
    )


def _equilibria(d: Derivation) -> None:
    p, q, e = operators("P Q E")
    algebra = _projectors(p, q)
    d.prove(
        "At rest P_W̃ E = 0: from the left by P it is P E = 0",
        p * tangential(p, q, e),
        p * e,
        algebra.reduce,
        formula=r"P P_{\tilde W} E = P E",
    )
    d.prove(
        "and from the right by Q it is E Q = 0",
        tangential(p, q, e) * q,
        e * q,
        algebra.reduce,
        formula=r"(P_{\tilde W} E) Q = E Q",
    )
    u, ut, v, vt, g, gt, s, st = operators("U Uᵀ V Vᵀ W* W*ᵀ S Sᵀ")
    algebra = Algebra()
    algebra.orthonormal(u, ut)
    algebra.orthonormal(v, vt)
    algebra.transposes((g, gt), (s, st))
    algebra.rule(g * v, u * s)
    algebra.rule(gt * u, v * st)
    d.prove(
        "With W̃ = USVᵀ: W̃*V = US, W̃*ᵀU = VSᵀ, so that U spans an invariant subspace of W̃*W̃*ᵀ, V that of "
        "W̃*ᵀW̃*, and W̃ "
        "is the part of W̃* on them: for distinct singular values a subset of r",
        g * gt * u,
        u * s * st,
        algebra.reduce,
        formula=r"\tilde W^* \tilde W^{*\top} U = U S S^{\top}",
    )


def _linearisation(d: Derivation) -> None:
    w, wt, plus, plus_t, e, et, delta, delta_t = operators("W Wᵀ W⁺ W⁺ᵀ E Eᵀ δ δᵀ")
    algebra = Algebra()
    algebra.moore_penrose(w, plus, wt, plus_t)
    algebra.transposes((e, et), (delta, delta_t))
    p, q = w * plus, plus * w
    dp = delta * plus - p * delta * plus
    dq = plus * delta - plus * delta * q
    dp, dq = dp + algebra.transpose(dp), dq + algebra.transpose(dq)
    d.prove(
        "Along W + εδ of constant rank P moves by (I−P)δW⁺ + transpose, which keeps PP = P to first order",
        dp * p + p * dp,
        dp,
        algebra.reduce,
        formula=r"\dot P = (I-P)\delta W^+ + W^{+\top}\delta^{\top}(I-P)",
    )
    d.prove(
        "and (P + εṖ)(W + εδ) = W + εδ for tangent δ, (I−P)δ(I−Q) = 0",
        dp * w + p * delta - delta,
        -(delta - p * delta - delta * q + p * delta * q),
        algebra.reduce,
    )
    # At an equilibrium PE = 0 = EQ, hence W⁺E = 0, EW⁺ = 0 and their transposes.
    for left in (plus * e, e * plus, et * plus_t, plus_t * et, wt * e, e * wt, et * w, w * et):
        algebra.rule(left, 0)
    change = dp * e + e * dq - dp * e * q - p * e * dq - tangential(p, q, delta)
    normal = delta - tangential(p, q, delta)
    d.prove(
        "so that P_W (W* − W) is linearised at an equilibrium to δ ↦ −δ + W⁺ᵀδᵀE + EδᵀW⁺ᵀ",
        change - normal,
        -delta + plus_t * delta_t * e + e * delta_t * plus_t,
        algebra.reduce,
        formula=r"\dot\delta = -\delta + W^{+\top}\delta^{\top}E + E\delta^{\top}W^{+\top}",
    )


def _spectrum(d: Derivation) -> None:
    a, j = _PAIR
    plus_t, e, ua, uj, va, vj = operators("W⁺ᵀ E u_a u_j v_a v_j")
    uat, ujt, vat, vjt = operators("u_aᵀ u_jᵀ v_aᵀ v_jᵀ")
    algebra = Algebra()
    algebra.transposes((ua, uat), (uj, ujt), (va, vat), (vj, vjt))
    images = ((plus_t * va, ua / a), (uat * plus_t, vat / a), (ujt * e, j * vjt), (e * vj, j * uj))
    for left, right in (*images, *((zero, 0) for zero in (uat * e, e * va, plus_t * vj, ujt * plus_t))):
        algebra.rule(left, right)

    def image(x: Any) -> Any:
        xt = algebra.transpose(x)
        return algebra.reduce(-x + plus_t * xt * e + e * xt * plus_t)

    one, other = uj * vat, ua * vjt
    d.prove(
        "a kept, j left out: u_jv_aᵀ goes to u_av_jᵀ",
        image(one),
        -one + coupling(a, j) * other,
        algebra.reduce,
    )
    d.prove("and back", image(other), -other + coupling(a, j) * one, algebra.reduce)
    d.prove("u_av_bᵀ with both kept only decays", image(ua * vat), -ua * vat, algebra.reduce)
    block, lam = sp.Matrix([[-1, coupling(a, j)], [coupling(a, j), -1]]), sp.Symbol("λ")
    d.prove(
        "Each pair has the eigenvalues −1 ± s_j/s_a; with s_j = 0 (and where u_j or v_j has no partner) both are −1",
        block.charpoly(lam).as_expr(),
        (lam + 1 - j / a) * (lam + 1 + j / a),
        formula=r"\lambda = -1 \pm s_j/s_a",
    )
    n, m, r = sp.symbols("n m r", positive=True)
    k = n - r
    d.prove(
        "Counted for n ≤ m: r² kept pairs, 2 r (n − r) mixed, r (m − n) without partner: the dimension r (n + m − r)",
        r**2 + 2 * r * k + r * (m - n),
        r * (n + m - r),
    )
    d.define(
        "Stable if and only if every s_j < s_a: the r largest, s_{r+1} < s_r. The slowest rate is 1 − s_{r+1}/s_r",
        r"\mathrm{rate} = 1 - s_{r+1}/s_r",
    )


def _autoencoder(d: Derivation) -> None:
    f, ft, c, w = operators("F Fᵀ C⁻¹ W*")
    algebra = Algebra()
    algebra.transposes((f, ft))
    algebra.symmetric(c, w)
    algebra.rule(c, 1)
    algebra.rule(w, 1)
    goal = c * w * f
    d.prove(
        "Autoencoder, W* = I, Σ = I, S = FFᵀ: W̃*W̃*ᵀ = S, so that s_a = √λ_a, the best rank r is the projection on "
        "the "
        "r leading eigenvectors (PCA), at rate 1 − √(λ_{r+1}/λ_r). With Σ = S all s_a are 1, and the rate is 0",
        goal * algebra.transpose(goal),
        f * ft,
        algebra.reduce,
        formula=r"s_a = \sqrt{\lambda_a},\quad 1 - \sqrt{\lambda_{r+1}/\lambda_r}",
    )


def _instances(d: Derivation) -> None:
    for widths, seed in (((3, 1, 3), 2), ((3, 2, 3), 5), ((3, 2, 4, 3), 7), ((3, 4, 2, 3), 9)):
        layers = [integers(b, a, seed + k, -4, 5) for k, (a, b) in enumerate(pairwise(widths))]
        total, teacher = before(layers, len(layers) + 1), integers(3, 3, seed + 20)
        j, rank = jacobian(layers), min(widths)
        p, q = total * pinv(total), pinv(total) * total
        projected = unvec(j * (pinv(j) * vec(teacher - total)), 3, 3)
        d.check(
            f"Exact, {'-'.join(map(str, widths))}: JJ⁺ vec E is the tangential part of E at rank {rank}",
            total.rank() == rank
            and projected == tangential(p, q, teacher - total)
            and j.rank() == rank * (6 - rank)
            and after(layers, 1).rank() >= rank,
        )
    outer, inner = rotation(2, 1, 3) * rotation(3, 1, 3, (1, 2)), rotation(3, 2, 3)
    goal = outer * sp.diag(5, 3, 2) * inner.T
    kept, rest = sp.diag(0, 3, 0), sp.diag(5, 0, 2)
    plus, error = outer * sp.diag(0, sp.Rational(1, 3), 0) * inner.T, outer * rest * inner.T
    basis = [outer[:, a] * inner[:, b].T for a in range(3) for b in range(3) if 1 in (a, b)]
    matrix = sp.Matrix(
        len(basis),
        len(basis),
        lambda k, l: (
            (-basis[l] + plus * basis[l].T * error + error * basis[l].T * plus).T * basis[k]
        ).trace(),
    )
    wanted = {
        -1 + sp.Rational(5, 3): 1,
        -1 - sp.Rational(5, 3): 1,
        sp.Rational(-1, 3): 1,
        sp.Rational(-5, 3): 1,
        -1: 1,
    }
    d.check(
        "Exact, singular values 5, 3, 2, the second one kept: eigenvalues 2/3, −1/3, −1, −5/3, −8/3: a saddle",
        matrix.eigenvals() == wanted and goal == error + outer * kept * inner.T,
    )
