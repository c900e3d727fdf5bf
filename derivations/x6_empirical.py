"""What is the empirical Fisher matrix of a linear network with Gaussian data, and what does its natural gradient do?

Statement X6: fourth moments of Gaussians (Isserlis 1918) add to the true Fisher matrix two terms in the error and
enlarge a third; K-FAC keeps the third. With noise s² of the data the natural gradient flow moves singular values
of the whitened error only, and Lambert's W solves it. New.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath
import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, integers, kron, operators, vec

STATEMENTS = ("X6",)

Array = NDArray[Any]

D, Q, S2, KAPPA, TIME, CLOCK = sp.symbols("d q s² κ t σ", positive=True)


def moment(cov: Any, error: Any, noise: Any, change: Any, transposed: Any, inner: Any) -> Any:
    """Return M D: (Σ + ESEᵀ)DS + (ES)⟨ES, D⟩ + (ES)Dᵀ(ES) for the change D of the gradient's side."""
    cross = error * cov
    spread = noise + error * cov * error.T
    return spread * change * cov + cross * inner + cross * transposed * cross


def velocity(d: Any, noise: Any, kappa: Any) -> Any:
    """Return ḋ = −(1 − κ) d/(s² + 2d²)."""
    return -(1 - kappa) * d / (noise + 2 * d**2)


def derive() -> tuple[Derivation, ...]:
    """Derive X6."""
    d = Derivation("X6", "The empirical Fisher matrix in closed form", "new, by Isserlis 1918")
    _moments(d)
    _kfac(d)
    _whitened(d)
    _modes(d)
    _closed(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    matrix(cov, error, noise)
        E[vec(e xᵀ) vec(e xᵀ)ᵀ].
    rates(modes, noise)
        ḋ of every mode.
    one_output(t, q, noise)
        q(t) for one mode, by Lambert's W.
    """
    step = sp.lambdify((D, S2, KAPPA), velocity(D, S2, KAPPA), "numpy")

    def matrix(cov: Array, error: Array, noise: Array) -> Array:
        rows, columns = error.shape
        images = []
        for k in range(rows * columns):
            unit = np.zeros(rows * columns)
            unit[k] = 1.0
            change = unit.reshape(columns, rows).T
            cross = error @ cov
            image = (noise + error @ cov @ error.T) @ change @ cov + cross * np.vdot(cross, change)
            images.append((image + cross @ change.T @ cross).T.ravel())
        return np.array(images).T

    def rates(modes: Sequence[float], noise: float) -> Array:
        d = np.asarray(modes, dtype=float)
        share = float((d**2 / (noise + 2 * d**2)).sum())
        return np.asarray(step(d, noise, share / (1 + share)))

    def one_output(t: float, q: float, noise: float) -> float:
        ratio = 3 * q / noise
        return float(noise / 3 * mpmath.lambertw(ratio * mpmath.exp(ratio - 2 * t / noise)).real)

    return {"matrix": matrix, "rates": rates, "one_output": one_output}


def _moments(d: Derivation) -> None:
    d.define(
        "x ~ N(0, S), e = y − Wx = Ex + ν with ν ~ N(0, Σ_ν): jointly Gaussian, E[eeᵀ] = R = Σ_ν + ESEᵀ, E[exᵀ] = "
        "ES. The "
        "gradient of one sample in W is −Π e xᵀ, so EF = Gᵀ E[vec(exᵀ)vec(exᵀ)ᵀ] G with G = (I ⊗ Π) ∂vec W/∂θ",
        r"E[x_a e_b x_c e_d] = S_{ac} R_{bd} + (ES)_{ba} (ES)_{dc} + (ES)_{bc} (ES)_{da}",
    )
    cov = sp.Matrix([[5, 2], [2, 3]])
    error, noise = sp.Matrix([[1, -2], [3, 1]]), sp.Matrix([[2, 1], [1, 4]])
    found, claimed = _pairs(cov, error, noise), sp.zeros(4, 4)
    for k in range(4):
        change = sp.zeros(2, 2)
        change[k % 2, k // 2] = 1
        inner = sum((error * cov).multiply_elementwise(change))
        claimed[:, k] = vec(moment(cov, error, noise, change, change.T, inner))
    d.check(
        "Exact, 2 × 2: Isserlis' sum over pairings, entry by entry, is S ⊗ R + vec(ES)vec(ES)ᵀ + swap, "
        "swap vec D = vec(ES Dᵀ ES)",
        found == claimed,
        r"EF = G^{\top}[S \otimes R + \mathrm{vec}(ES)\mathrm{vec}(ES)^{\top} + \mathrm{swap}]G",
    )
    x = sp.Symbol("x", real=True)
    weight = sp.exp(-(x**2) / 2) / sp.sqrt(2 * sp.pi)
    second, fourth = (sp.integrate(x**k * weight, (x, -sp.oo, sp.oo)) for k in (2, 4))
    a, b = sp.symbols("a b", real=True)
    d.prove(
        "One input, one output, by integration: E[x²(ax + bν)²] = R + 2a² with R = a² + b²",
        a**2 * fourth + b**2 * second**2,
        a**2 + b**2 + 2 * a**2,
    )


def _pairs(cov: sp.Matrix, error: sp.Matrix, noise: sp.Matrix) -> sp.Matrix:
    """Return the fourth moments from the joint covariance of (x, e), every pairing written out."""
    joint = sp.Matrix(sp.BlockMatrix([[cov, cov * error.T], [error * cov, noise + error * cov * error.T]]))
    size = len(cov.row(0))

    def entry(row: int, column: int) -> Any:
        (a, b), (c, e) = (divmod(int(k), 2) for k in (row, column))
        places = (a, size + b, c, size + e)
        pairings = (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))
        return sum(sp.prod(joint[places[p], places[q]] for p, q in pairing) for pairing in pairings)

    return sp.Matrix(4, 4, entry)


def _kfac(d: Derivation) -> None:
    cov, spread = integers(2, 2, 1), integers(2, 2, 2)
    below, above = integers(3, 2, 3), integers(2, 3, 4)
    d.prove(
        "K-FAC's factors on it are E[hhᵀ] = A_iSA_iᵀ and B_iᵀΠRΠB_i (here R for ΠRΠ): their product is the S ⊗ R "
        "part of the "
        "diagonal block, so it misses Gᵀ[vec vecᵀ + swap]G and nothing else",
        kron(below, above.T) * kron(cov, spread) * kron(below, above.T).T,
        kron(below * cov * below.T, above.T * spread * above),
        formula=r"(A^{\top} \otimes B)^{\top} (S \otimes R) (A^{\top} \otimes B) = A S A^{\top} \otimes B^{\top} R B",
    )


def _whitened(d: Derivation) -> None:
    m, j, jt, e, v, change = operators("M J Jᵀ E v D")
    algebra = Algebra()
    algebra.transposes((j, jt))
    algebra.rule(j * v, change)
    algebra.rule(m * change, e)
    d.prove(
        "Whitened, EF = J̃ᵀMJ̃ and −∇ℓ = J̃ᵀ vec Ẽ: v with J̃v = D and M D = Ẽ solves EF v = −∇ℓ; J̃ onto (J) has "
        "such a v",
        jt * m * j * v,
        jt * e,
        algebra.reduce,
    )


def _modes(d: Derivation) -> None:
    size = 2
    modes, changes = sp.symbols(f"d_1:{size + 1}", positive=True), sp.symbols(f"δ_1:{size + 1}")
    e, x = sp.diag(*modes), sp.diag(*changes)
    inner = sum(a * b for a, b in zip(modes, changes, strict=True))
    image = moment(sp.eye(size), e, S2 * sp.eye(size), x, x.T, inner)
    d.prove(
        "Σ̃_ν = s² I, Ẽ = diag(d) in its own singular bases: M maps diagonals δ to (s² + 2d²)δ + d Σ d_bδ_b",
        image,
        sp.diag(*((S2 + 2 * a**2) * b + a * inner for a, b in zip(modes, changes, strict=True))),
        lambda rest: rest.applyfunc(sp.expand),
    )
    share = sum(a**2 / (S2 + 2 * a**2) for a in modes)
    kappa = share / (1 + share)
    solution = {b: -velocity(a, S2, kappa) for a, b in zip(modes, changes, strict=True)}
    d.prove(
        "so that δ_a = d_a(1 − κ)/(s² + 2d_a²) with κ/(1 − κ) = Σ d_a²/(s² + 2d_a²) solves M δ = d; d moves along −δ",
        (image - e).subs(solution),
        sp.zeros(size, size),
        lambda rest: rest.applyfunc(sp.cancel),
        formula=r"\dot d_a = -\frac{(1-\kappa) d_a}{s^2 + 2 d_a^2}",
    )


def _closed(d: Derivation) -> None:
    speed = sp.simplify(2 * D * velocity(D, S2, KAPPA)).subs(D, sp.sqrt(Q))
    d.prove("Squares q = d²: q̇ = −2(1 − κ)q/(s² + 2q)", speed, -2 * (1 - KAPPA) * Q / (S2 + 2 * Q))
    own = -2 * Q / (S2 + 2 * Q)
    first = S2 * sp.log(Q) + 2 * Q
    d.prove(
        "In the clock dσ = (1 − κ)dt every mode is alone: s² log q + 2q falls at rate 2",
        sp.diff(first, Q) * own,
        -2,
        formula=r"s^2 \log q_a + 2 q_a = s^2 \log q_a(0) + 2 q_a(0) - 2\sigma",
    )
    d.prove(
        "and 1/(1 − κ) = 1 + Σ q/(s² + 2q), whose terms are −½ dq/dσ: t = σ + ½ Σ_a (q_a(0) − q_a(σ))",
        Q / (S2 + 2 * Q),
        -own / 2,
        formula=r"t = \sigma + \tfrac12 \sum_a (q_a(0) - q_a(\sigma))",
    )
    ratio = 2 * Q / S2
    d.prove(
        "With w = 2q/s² it is w e^w = const · e^{−2σ/s²}: Lambert's W",
        sp.expand_log(sp.log(ratio * sp.exp(ratio)), force=True) * S2,
        first + S2 * sp.log(2) - S2 * sp.log(S2),
        lambda x: sp.simplify(sp.expand_log(x, force=True)),
        formula=r"q = \tfrac{s^2}{2} W(e^{y}),\quad y = \log\tfrac{2q_0}{s^2} + \tfrac{2q_0}{s^2} - "
        r"\tfrac{2\sigma}{s^2}",
    )
    share = Q / (S2 + 2 * Q)
    single = speed.subs(KAPPA, share / (1 + share))
    d.prove("One mode (one output): q̇ = −2q/(s² + 3q)", sp.simplify(single), -2 * Q / (S2 + 3 * Q))
    start = sp.Symbol("q_0", positive=True)
    lam = S2 / 3 * sp.LambertW(3 * start / S2 * sp.exp(3 * start / S2 - 2 * TIME / S2))
    d.prove(
        "solved by q = (s²/3) W((3q_0/s²) e^{3q_0/s² − 2t/s²})",
        sp.simplify(sp.diff(lam, TIME) + 2 * lam / (S2 + 3 * lam)),
        0,
        formula=r"q = \tfrac{s^2}{3} W\big(\tfrac{3q_0}{s^2} e^{(3q_0 - 2t)/s^2}\big)",
    )
    d.prove("Far away, d → ∞, it stalls", sp.limit(velocity(D, S2, KAPPA) / D, D, sp.oo), 0)
    d.prove(
        "near the optimum each mode has the rate 1/s², the true flow's 1 if the data's noise is the model's",
        sp.limit(velocity(D, S2, 0) / D, D, 0),
        -1 / S2,
    )
