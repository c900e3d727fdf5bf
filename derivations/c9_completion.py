"""Which entries of a factorised matrix does a natural gradient move, if it sees some of them only?

Statement C9. Metric of the population: with (J) the unobserved entries never move, whatever the gauge. Metric of the
observed entries: these decay like e^{−t} while J_Ω is onto, and the gauge moves the others. In the minimum-norm gauge
the rescaled layers descend ‖φ‖² among the networks that fit the observed entries, for a time log(1/ε), and rest where
Schatten's 2/L quasi-norm of W is stationary; in the layerwise gauge every layer is shortened for itself. Population:
Kerekes, Mészáros and Huszár (2021); what the gauges do is new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, families, integers, kron, operators, pinv, vec
from derivations._layers import after, before, jacobian, prefixes

STATEMENTS = ("C9",)

Array = NDArray[Any]


def rescaled_rate(projected: Any, layers: Any, depth: Any) -> Any:
    """Return dφ/d log ρ = (J_Ω⁺J_Ωφ − φ)/L from J_Ω⁺J_Ωφ and φ."""
    return (projected - layers) / depth


def derive() -> tuple[Derivation, ...]:
    """Derive C9."""
    d = Derivation("C9", "Matrix completion: the metric and the gauge decide", "DWM; new")
    _population(d)
    _observed(d)
    _layerwise(d)
    _euler(d)
    _rescaled(d)
    _rest(d)
    _alone(d)
    _instances(d)
    _ranks(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    completion_velocity(weights, error, observed, gauge)
        v (a list of layers) with J_Ω v = e on the observed entries; "population" is the shortest with Jv = P_Ω e.
    rescaled_velocity(weights, observed)
        −(1/L)(I − J_Ω⁺J_Ω)θ, a list of layers.
    """

    def roots(weights: Sequence[Array]) -> list[Array]:
        below, above = prefixes(weights), [np.eye(len(weights[-1]))]
        for weight in weights[:0:-1]:
            above.append(above[-1] @ weight)
        return [np.kron(a.T, b) for a, b in zip(below[:-1], above[::-1], strict=True)]

    def pieces(weights: Sequence[Array], vectors: Sequence[Array]) -> list[Array]:
        return [v.reshape(w.shape, order="F") for w, v in zip(weights, vectors, strict=True)]

    def cut(weights: Sequence[Array], vector: Array) -> list[Array]:
        return pieces(weights, np.split(vector, np.cumsum([w.size for w in weights])[:-1]))

    def completion_velocity(
        weights: Sequence[Array], error: Array, observed: Array, gauge: str
    ) -> list[Array]:
        every, seen = roots(weights), np.asarray(observed).flatten(order="F")
        if gauge == "population":
            return cut(weights, np.linalg.pinv(np.hstack(every)) @ (error * observed).flatten(order="F"))
        parts, e = [j[seen] for j in every], error.flatten(order="F")[seen]
        if gauge == "minimum-norm":
            return cut(weights, np.linalg.pinv(np.hstack(parts)) @ e)
        inverses = [np.linalg.pinv(j, rcond=1e-11) for j in parts]
        shared = sum(j @ plus for j, plus in zip(parts, inverses, strict=True))
        common = np.linalg.pinv(shared) @ e
        return pieces(weights, [plus @ common for plus in inverses])

    def rescaled_velocity(weights: Sequence[Array], observed: Array) -> list[Array]:
        j = np.hstack(roots(weights))[np.asarray(observed).flatten(order="F")]
        theta = np.concatenate([w.flatten(order="F") for w in weights])
        return cut(weights, rescaled_rate(np.linalg.pinv(j) @ (j @ theta), theta, len(weights)))

    return {"completion_velocity": completion_velocity, "rescaled_velocity": rescaled_velocity}


def _population(d: Derivation) -> None:
    j, jt, k, n, e, v = operators("J Jᵀ K P_Ω e v")
    algebra = Algebra()
    algebra.transposes((j, jt))
    algebra.symmetric(k, n)
    algebra.rule(k * j * jt, 1)
    algebra.rule(n * n, n)
    d.define(
        "Loss ½‖P_Ω e‖², e = vec(W* − W), P_Ω the diagonal projector on the observed entries; J of all entries is onto "
        "(J), K = (JJᵀ)⁻¹; the natural gradient flow of the population metric is any v with",
        r"J^{\top} J v = -\nabla\ell = J^{\top} P_\Omega e",
    )
    d.prove(
        "KJ times this equation: Jv = P_Ω e",
        k * j * (jt * j * v - jt * n * e),
        j * v - n * e,
        algebra.reduce,
    )
    d.prove(
        "so the unobserved entries do not move, in any gauge, at any depth",
        (1 - n) * (n * e),
        0,
        algebra.reduce,
        formula=r"(I - P_\Omega) J v = 0",
    )
    d.prove(
        "and the step solves the equation of the observed entries as well: P_Ω J v = P_Ω e",
        n * (n * e),
        n * e,
        algebra.reduce,
        formula=r"P_\Omega J v = P_\Omega e",
    )


def _observed(d: Derivation) -> None:
    o, ot, m, e, v, xt, n, j, jt = operators("J_Ω J_Ωᵀ M e_Ω v xᵀ P_Ω J Jᵀ")
    algebra = Algebra()
    algebra.transposes((o, ot), (j, jt))
    algebra.symmetric(m, n)
    algebra.rule(m * o * ot, 1)
    algebra.rule(o * ot * m, 1)
    algebra.rule(n * n, n)
    d.define("Metric of the observed entries: J_Ω = the rows of J in Ω, onto, M = (J_ΩJ_Ωᵀ)⁻¹; any v with")
    d.prove(
        "J_Ωᵀ J_Ω v = J_Ωᵀ e_Ω moves them by J_Ω v = e_Ω",
        m * o * (ot * o * v - ot * e),
        o * v - e,
        algebra.reduce,
    )
    t, start = sp.symbols("t e_0", real=True)
    decay = start * sp.exp(-t)
    d.prove("that is e_Ω(t) = e^{−t} e_Ω(0)", sp.diff(decay, t), -decay)
    d.prove("One of them is v = J_Ωᵀ M e_Ω,", o * (ot * m * e), e, algebra.reduce)
    algebra.rule(xt * ot, 0)
    d.prove(
        "orthogonal to every x with J_Ω x = 0, so the shortest (minimum norm)",
        xt * (ot * m * e),
        0,
        algebra.reduce,
        formula=r"x^{\top} J_\Omega^{\top} M e_\Omega = (J_\Omega x)^{\top} M e_\Omega = 0",
    )
    d.prove(
        "In the metric F of the population ‖Jv‖² = ‖P_Ω Jv‖² + ‖(I − P_Ω)Jv‖², the first fixed: the shortest solution "
        "leaves the unobserved entries where they are (gauge 'population')",
        jt * j,
        jt * n * n * j + jt * (1 - n) * (1 - n) * j,
        algebra.reduce,
    )


def _layerwise(d: Derivation) -> None:
    count = 3
    (j, jp, jt, jpt, x, xt), (lam, q) = families("J J⁺ Jᵀ J⁺ᵀ x xᵀ"), operators("λ Q")
    algebra = Algebra()
    algebra.moore_penrose(j, jp, jt, jpt)
    algebra.transposes((x, xt))
    d.define(
        "Gauge 'layerwise': v_i = J_{Ω,i}⁺ λ with Σ_i J_{Ω,i}J_{Ω,i}⁺ λ = e_Ω, so that J_Ω v = e_Ω (three layers here; "
        "their number enters nowhere)"
    )
    d.prove(
        "In the metric blockdiag(F_Ω) it is orthogonal to every x with J_Ω x = Σ J_{Ω,i}x_i = 0: the shortest solution",
        sum(xt(i) * jt(i) * j(i) * jp(i) * lam for i in range(1, count + 1)),
        sum(xt(i) * jt(i) for i in range(1, count + 1)) * lam,
        algebra.reduce,
        formula=r"\sum_i x_i^{\top} J_i^{\top} J_i v_i = (\sum_i J_i x_i)^{\top} \lambda = 0",
    )
    onto = Algebra()
    for i in range(1, count + 1):
        onto.rule(j(i) * jp(i), 1)
    d.prove(
        "Where each layer alone is onto, λ = e_Ω/L: every layer makes the same share of the change",
        sum(j(i) * jp(i) for i in range(1, count + 1)) * q / count,
        q,
        onto.reduce,
        formula=r"v_i = \frac{1}{L} J_{\Omega,i}^+ e_\Omega",
    )


def _euler(d: Derivation) -> None:
    for depth in (1, 2, 3, 5):
        w = operators(" ".join(f"W_{i}" for i in range(1, depth + 1)))
        whole = sp.Mul(*w[::-1])
        moved = sum(sp.Mul(*w[:i:-1]) * w[i] * sp.Mul(*w[:i][::-1]) for i in range(depth))
        d.prove(
            f"Euler: W is homogeneous of degree L in the layers, J θ = Σ B_iW_iA_i = L W, L = {depth}",
            moved,
            depth * whole,
            sp.expand,
        )
    d.define("and J(cθ) = c^{L−1}J(θ), a product of L − 1 layers in each block")


def _rescaled(d: Derivation) -> None:
    rho, depth, eps, t = sp.symbols("rho L epsilon t", positive=True)
    share = 1 - (1 - eps) * sp.exp(-t)
    d.define(
        "Minimum-norm gauge from W(0) = εW* on Ω: W = ρ(t)W* there, y = W*_Ω; z = 1 − e^{−t} is the better clock",
        r"\rho = 1 - (1-\epsilon)e^{-t}, \quad d\theta/d\rho = J_\Omega(\theta)^+ y",
    )
    d.prove("dρ/dt = (1 − ε)e^{−t}, the factor of e_Ω(t) = (1 − ε)e^{−t}y", sp.diff(share, t), 1 - share)
    d.prove(
        "log ρ runs through log(1/ε)",
        sp.log(sp.limit(share, t, sp.oo)) - sp.log(share.subs(t, 0)),
        -sp.log(eps),
    )
    jp, phi, y, j = operators("J_Ω⁺ φ y J_Ω")
    algebra = Algebra()
    algebra.rule(j * jp * j, j)
    algebra.rule(jp * j * jp, jp)
    algebra.rule(jp * y, jp * j * phi / depth)
    d.define(
        "φ = ρ^{−1/L}θ, τ = log ρ; J_Ω at θ is ρ^{1−1/L} times that at φ, and y = W_Ω(θ)/ρ = W_Ω(φ) = J_Ωφ/L (Euler)"
    )
    d.prove(
        "Then φ descends ‖φ‖²/2L where the observed entries stay fixed",
        rho * rho ** (-1 / depth) * rho ** (-(1 - 1 / depth)) * jp * y - phi / depth,
        rescaled_rate(jp * j * phi, phi, depth),
        algebra.reduce,
        formula=r"\frac{d\varphi}{d\tau} = -\frac{1}{L} (I - J_\Omega^+ J_\Omega)\varphi",
    )
    d.prove("which keeps W_Ω(φ) = y", j * rescaled_rate(jp * j * phi, phi, depth), 0, algebra.reduce)
    p, phit = operators("P φᵀ")
    projector = Algebra()
    projector.transposes((phi, phit))
    projector.symmetric(p)
    projector.rule(p * p, p)
    d.prove(
        "and shortens φ: with the projector P = J_Ω⁺J_Ω, d‖φ‖²/d log ρ = −(2/L)‖(I − P)φ‖²",
        2 * phit * rescaled_rate(p * phi, phi, depth),
        -2 / depth * phit * (1 - p) * (1 - p) * phi,
        projector.reduce,
    )
    d.define(
        "Only homogeneity was used: the same holds for every homogeneous network fitted by the minimum-norm natural "
        "flow. L = 1: (I − P)φ are the unobserved entries, which stay where they are in θ"
    )


def _rest(d: Derivation) -> None:
    i = sp.Symbol("i", integer=True)
    (wt, at, bt), (m, mt) = families("Wᵀ Aᵀ Bᵀ"), operators("M Mᵀ")
    algebra = Algebra()
    algebra.rule(at(i + 1), at(i) * wt(i))
    algebra.rule(bt(i), wt(i + 1) * bt(i + 1))
    algebra.transposes((m, mt))
    d.define(
        "At rest θ = J_Ωᵀμ, stationary ½Σ‖W_i‖² at fixed W_Ω with multipliers M on Ω",
        r"W_i = B_i^{\top} M A_i^{\top}",
    )
    d.prove(
        "Such layers are balanced: W_{i+1}ᵀW_{i+1} = W_iW_iᵀ",
        wt(i + 1) * (bt(i + 1) * m * at(i + 1)),
        (bt(i) * m * at(i)) * wt(i),
        algebra.reduce,
    )
    d.define(
        "and balanced layers have the least Σ‖W_i‖² of all with this product, L Σ s^{2/L}: rest points are those of "
        "Schatten's quasi-norm at fixed observed entries; L = 2 is twice the nuclear norm"
    )
    a, b, s = sp.symbols("a b s", positive=True)
    d.prove(
        "(scalars: a² + b² at ab = s exceeds 2s by a square)",
        (a**2 + b**2 - 2 * a * b).subs(b, s / a),
        (a - s / a) ** 2,
    )


def _alone(d: Derivation) -> None:
    depth = sp.Symbol("L", positive=True)
    jp, j, phi, phit, y, p = operators("J_i⁺ J_i φ_i φ_iᵀ y P_i")
    algebra = Algebra()
    algebra.rule(jp * y, jp * j * phi)
    d.prove(
        "Layerwise gauge, each layer onto: J_{Ω,i}φ_i = W_Ω = y for every layer, so each is shortened for itself, "
        "while the others count as fixed",
        jp * y / depth - phi / depth,
        rescaled_rate(jp * j * phi, phi, depth),
        algebra.reduce,
        formula=r"\frac{d\varphi_i}{d\tau} = -\frac{1}{L} (I - J_{\Omega,i}^+ J_{\Omega,i})\varphi_i",
    )
    projector = Algebra()
    projector.transposes((phi, phit))
    projector.symmetric(p)
    projector.rule(p * p, p)
    d.prove(
        "Every ‖φ_i‖ decreases; at rest W_i = B_iᵀM_iA_iᵀ with a matrix M_i for each layer: a weaker condition",
        2 * phit * rescaled_rate(p * phi, phi, depth),
        -2 / depth * phit * (1 - p) * (1 - p) * phi,
        projector.reduce,
    )


def _instances(d: Derivation) -> None:
    layers = [integers(3, 2, 3), integers(2, 3, 4)]
    seen = [0, 1, 2]  # in the order of vec; the entry (2, 2) is not observed
    j, e = jacobian(layers), vec(integers(2, 2, 9))
    shown = sp.Matrix([e[k] if k in seen else 0 for k in range(4)])
    short = pinv(j) * shown
    blocks = [kron(before(layers, i).T, after(layers, i)) for i in (1, 2)]
    own = sp.Matrix.vstack(*(pinv(b) * shown / 2 for b in blocks))
    d.check(
        "Exact, 2-3-2, one entry not observed, metric of the population: shortest and layerwise steps differ, and both "
        "leave it where it is",
        j * short == shown and j * own == shown and short != own,
    )
    rows = j[seen, :]
    least = pinv(rows) * e[seen, :]
    parts = [pinv(b[seen, :]) * e[seen, :] / 2 for b in blocks]
    each = sp.Matrix.vstack(*parts)
    d.check(
        "  metric of the observed entries: minimum-norm and layerwise gauges move the observed ones alike",
        rows * least == e[seen, :] and rows * each == e[seen, :],
    )
    moved = [(j * least)[3], (j * each)[3]]
    d.check(
        "  and the unobserved one each in its own way",
        moved[0] != 0 and moved[1] != 0 and moved[0] != moved[1],
        sp.Eq(sp.Symbol("moved"), sp.Tuple(*(sp.N(value, 4) for value in moved)), evaluate=False),
    )
    d.check(
        "  of the solutions the population step has the least ‖Jv‖", (j * short).norm() < (j * least).norm()
    )
    d.check("  and the minimum-norm step the least ‖v‖", least.norm() < min(short.norm(), each.norm()))


def _ranks(d: Derivation) -> None:
    d.define(
        "J_Ω is onto unless a matrix M ≠ 0 on Ω has B_iᵀMA_iᵀ = 0 for all i. At balanced layers and W of rank r range "
        "J is the tangent space of the matrices of rank r, of dimension r(m + n − r) ≥ |Ω|"
    )
    diagonal = sp.diag(2, 0, 0)
    layers = [diagonal, diagonal]
    turn = integers(3, 3, 2) + 4 * sp.eye(3)
    layers = [layers[0] * turn, turn.T * layers[1]]
    j = jacobian(layers)
    fits, too_many = [0, 1, 2, 3, 6], [0, 1, 2, 3, 4, 6]
    d.check(
        "Exact, 3 × 3 of rank 1 (dimension 5): five observed entries, a row and a column, can be moved freely, six not",
        j.rank() == 5 and j[fits, :].rank() == 5 and j[too_many, :].rank() == 5,
    )
