"""Which matrix is it? The Fisher matrix and the four that are confused with it, for exponential families.

Statement O0: the five matrices and where they coincide. Statement O4: the generalised Gauss–Newton matrix is the Fisher
matrix for canonical links, and Krylov spaces do not see damping. Sources: Amari (1998), Pascanu and Bengio (2014),
Martens (2014).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, operators

STATEMENTS = ("O0", "O4")

Array = NDArray[Any]


def derive() -> tuple[Derivation, ...]:
    """Derive O0 and O4."""
    first = Derivation("O0", "Five matrices and where they coincide", "Amari (1998), Martens (2014)")
    _moments(first)
    _squares(first)
    _chain(first)
    _single_unit(first)
    second = Derivation(
        "O4", "Gauss–Newton is the Fisher matrix for canonical links", "Pascanu and Bengio (2014)"
    )
    _links(second)
    _krylov(second)
    _tonga(second)
    return (first, second)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    fisher(jacobian, information)
        mean_n J_nᵀ C_n J_n for (N, C, P) and (N, C, C).
    squares(jacobian, score)
        mean_n g_n g_nᵀ, g_n = J_nᵀ s_n, for (N, C, P) and (N, C).
    scalar_curvature(slope, bend, information, residual)
        A'' φ'² + (A' − y) φ'' of one output unit φ: what Gauss–Newton pulls back; the Fisher matrix has its first term.
    """

    def fisher(jacobian: Array, information: Array) -> Array:
        return np.asarray(np.einsum("nkp,nkl,nlq->pq", jacobian, information, jacobian) / len(jacobian))

    def squares(jacobian: Array, score: Array) -> Array:
        rows = np.einsum("nkp,nk->np", jacobian, score)
        return np.asarray(rows.T @ rows / len(rows))

    unit, z, pulled = _unit_curvature()
    slope, bend, information, residual = sp.symbols("slope bend information residual")
    plain = pulled.subs(
        {
            sp.diff(unit, z, 2): bend,
            sp.diff(unit, z): slope,
            sp.Symbol("A_2"): information,
            sp.Symbol("r"): residual,
        }
    )
    scalar = sp.lambdify((slope, bend, information, residual), plain, "numpy")
    return {"fisher": fisher, "squares": squares, "scalar_curvature": scalar}


def _moments(d: Derivation) -> None:
    eta = sp.symbols("eta_1 eta_2", real=True)
    weights = sp.symbols("h_1:4", positive=True)
    points = [sp.symbols(f"a_{k} b_{k}", real=True) for k in (1, 2, 3)]
    terms = [h * sp.exp(eta[0] * p[0] + eta[1] * p[1]) for h, p in zip(weights, points, strict=True)]
    partition = sum(terms)
    log_partition = sp.log(partition)

    def mean(values: list[Any]) -> Any:
        return sum(t * v for t, v in zip(terms, values, strict=True)) / partition

    d.define(
        "Model p(y|z) ∝ h(y) exp⟨z, T(y)⟩, A(z) = log ∑ h e^{⟨z,T⟩}, loss A(z) − ⟨z, T(y)⟩; z = z(θ, x) with Jacobian "
        "J. Three points with any weights and any statistic T = (a, b) stand for every sum",
        r"\ell = A(z) - \langle z, T(y)\rangle",
    )
    for k, name in enumerate("ab"):
        d.prove(
            f"The gradient of A is the mean of T: coordinate {name}",
            sp.diff(log_partition, eta[k]),
            mean([p[k] for p in points]),
            formula=rf"\partial_{name} A = \mathrm{{E}}[T_{name}]",
        )
    d.prove(
        "The Hessian of A is its covariance: mixed entry",
        sp.diff(log_partition, eta[0], eta[1]),
        mean([p[0] * p[1] for p in points]) - mean([p[0] for p in points]) * mean([p[1] for p in points]),
        formula=r"\partial_a \partial_b A = \mathrm{E}[T_a T_b] - \mathrm{E}[T_a]\,\mathrm{E}[T_b]",
    )
    d.prove(
        "and diagonal entry",
        sp.diff(log_partition, eta[0], 2),
        mean([p[0] ** 2 for p in points]) - mean([p[0] for p in points]) ** 2,
        formula=r"\partial_a^2 A = \mathrm{E}[T_a^2] - \mathrm{E}[T_a]^2",
    )
    other = sp.symbols("q_1:4", positive=True)
    centre = sp.Symbol("m", real=True)
    total = sum(other)
    drift = sum(q * (p[0] - centre) ** 2 for q, p in zip(other, points, strict=True)) / total
    data_mean = sum(q * p[0] for q, p in zip(other, points, strict=True)) / total
    variance = sum(q * (p[0] - data_mean) ** 2 for q, p in zip(other, points, strict=True)) / total
    d.prove(
        "Targets from elsewhere, with any weights q: the mean square about the model's mean m has the data's variance "
        "and a bias that the Fisher matrix does not have",
        drift,
        variance + (data_mean - centre) ** 2,
        formula=r"\mathrm{E}_q[(T-m)^2] = \mathrm{Var}_q T + (\mathrm{E}_q T - m)^2",
    )


def _squares(d: Derivation) -> None:
    j, jt, s, st, c = operators("J Jᵀ s sᵀ C")
    algebra = Algebra()
    algebra.transposes((j, jt), (s, st))
    algebra.rule(s * st, c)  # in expectation over the model's targets, s = T − ∇A
    gradient = jt * s
    d.prove(
        "One row's gradient is −Jᵀ(T − ∇A). In expectation over the model's targets its square is the Fisher matrix",
        gradient * algebra.transpose(gradient),
        jt * c * j,
        algebra.reduce,
        formula=r"\mathrm{E}_{y \sim p}[g g^{\top}] = J^{\top} \nabla^2 A\, J = F",
    )
    count, variance = sp.symbols("k v", positive=True)
    d.prove(
        "k targets of the model, independent: unbiased, with a variance that adds up over draws and is divided by k²",
        count * variance / count**2,
        variance / count,
        formula=r"\mathrm{Var}(\frac{1}{k} \sum_{i \leq k} g_i g_i^{\top}) = \frac{1}{k} \mathrm{Var}(g g^{\top})",
    )
    _error_of_samples(d)


def _error_of_samples(d: Derivation) -> None:
    a, b, p = sp.symbols("a b p", real=True)
    first, second = sp.Matrix([a, b]), sp.Matrix([1, 2])
    squares = [v * v.T for v in (first, second)]
    own = p * squares[0] + (1 - p) * squares[1]

    def frobenius(matrix: Any) -> Any:
        return sp.expand((matrix.T * matrix).trace())

    mean = p * frobenius(squares[0] - own) + (1 - p) * frobenius(squares[1] - own)
    fourth = p * (first.T * first)[0] ** 2 + (1 - p) * (second.T * second)[0] ** 2
    d.prove(
        "One row with two targets of chances p and 1 − p: the mean square error of one draw is the fourth moment of "
        "the gradient's length less the square of the row's own matrix",
        sp.expand(mean),
        sp.expand(fourth - frobenius(own)),
        formula=r"\mathrm{E}\|g g^{\top} - F_n\|^2 = \mathrm{E}\|g\|^4 - \|F_n\|^2",
    )
    count, rows, total = sp.symbols("k N v", positive=True)
    d.prove(
        "N rows, drawn independently, v the mean of their errors: F_k, the mean over rows and k draws, errs by V/k",
        rows * total * count / (rows * count) ** 2,
        total / rows / count,
        formula=r"\mathrm{E}\|F_k - F\|^2 = V/k, \quad "
        r"V = N^{-2} \sum_n (\mathrm{E}\|g_n\|^4 - \|F_n\|^2)",
    )


def _chain(d: Derivation) -> None:
    a, b = sp.symbols("theta_1 theta_2", real=True)
    z = [sp.Function(f"z_{k}")(a, b) for k in (1, 2)]
    eta = sp.symbols("eta_1 eta_2", real=True)
    big = sp.Function("A")(*eta)
    targets = sp.symbols("T_1 T_2", real=True)
    at = dict(zip(eta, z, strict=True))
    loss = big.subs(at) - sum(t * f for t, f in zip(targets, z, strict=True))
    pulled = sum(
        sp.diff(big, eta[k], eta[m]).subs(at) * sp.diff(z[k], a) * sp.diff(z[m], b)
        for k in (0, 1)
        for m in (0, 1)
    )
    residual = sum((sp.diff(big, eta[k]).subs(at) - targets[k]) * sp.diff(z[k], a, b) for k in (0, 1))
    d.prove(
        "The Hessian of the loss, any two parameters, two outputs: Fisher matrix plus residual times the network's own "
        "curvature. They coincide where residuals vanish or z is linear in θ",
        sp.diff(loss, a, b).doit(),
        (pulled + residual).doit(),
        lambda e: sp.simplify(e.doit()),
        formula=r"\nabla^2 \ell = J^{\top} \nabla^2 A\, J + \sum_k (\nabla A - T)_k \nabla^2 z_k",
    )


def _single_unit(d: Derivation) -> None:
    p = sp.Rational(3, 4)
    x = sp.Matrix([1, 2, 1])  # two inputs and the bias
    scores = {1: 1 - p, 0: -p}
    by_sum = sum((chance * scores[y] ** 2 for y, chance in ((1, p), (0, 1 - p))), sp.Integer(0)) * x * x.T
    d.check(
        "One logistic unit at log-odds log 3, input (1, 2), all targets: F = p(1 − p) x̃x̃ᵀ",
        by_sum == sp.Rational(3, 16) * x * x.T,
        sp.Eq(sp.Symbol("F"), by_sum, evaluate=False),
    )
    d.check(
        "With the data's y = 1 instead: (1 − p)² x̃x̃ᵀ, a third of it; with y = 0 three times as much",
        scores[1] ** 2 / (p * (1 - p)) == sp.Rational(1, 3) and scores[0] ** 2 / (p * (1 - p)) == 3,
    )
    d.check("and the Hessian is F whatever y, since z is linear in θ", p * (1 - p) == sp.Rational(3, 16))


def _unit_curvature() -> tuple[Any, sp.Symbol, Any]:
    """Return φ(s), s, and the second derivative of A(φ(s)) − yφ(s) with A'' = A_2 and A' − y = r."""
    s, y = sp.symbols("s y", real=True)
    unit, big = sp.Function("phi")(s), sp.Function("A")
    second = sp.diff(big(unit) - y * unit, s, 2).doit()
    eta = sp.Dummy()
    first_order = sp.diff(big(eta), eta).subs(eta, unit)
    second_order = sp.diff(big(eta), eta, 2).subs(eta, unit)
    pulled = second.subs(second_order, sp.Symbol("A_2")).subs(first_order, sp.Symbol("r") + y)
    return unit, s, sp.expand(pulled)


def _links(d: Derivation) -> None:
    unit, s, pulled = _unit_curvature()
    slope, bend = sp.diff(unit, s), sp.diff(unit, s, 2)
    d.define(
        "Gauss–Newton bends the loss in what enters the output units, s, with z = φ(s), and not the network below: "
        "G = KᵀHK, K = ∂s/∂θ, H the Hessian in s",
    )
    d.prove(
        "H of one unit, with A'' = A₂ and residual r = A' − y",
        pulled,
        sp.Symbol("A_2") * slope**2 + sp.Symbol("r") * bend,
        formula=r"H = A''\,\varphi'^2 + (A' - y)\,\varphi''",
    )
    d.define("The Fisher matrix is KᵀA''φ'²K: J = φ'K")
    d.prove(
        "Canonical link, φ the identity: φ'' = 0, and G = F for every target",
        pulled.subs(unit, s).doit(),
        sp.Symbol("A_2"),
    )
    d.prove(
        "φ = tanh, another link: they differ by the residual",
        pulled.subs(unit, sp.tanh(s)).doit() - sp.Symbol("A_2") * (1 - sp.tanh(s) ** 2) ** 2,
        -2 * sp.Symbol("r") * sp.tanh(s) * (1 - sp.tanh(s) ** 2),
    )


def _krylov(d: Derivation) -> None:
    k, m = sp.symbols("k m", integer=True, positive=True)
    d.define(
        "Claim: (F + λ)^k g = Σ_m c_{km} λ^{k−m} F^m g with binomial coefficients c_{km}; true for k = 0. "
        "Multiplying by F + λ gives F^m the coefficient c_{k,m−1} + c_{km}, which is the next binomial coefficient"
    )
    d.prove(
        "Pascal's rule, for every k and m: the induction step",
        sp.binomial(k, m - 1) + sp.binomial(k, m),
        sp.binomial(k + 1, m),
        lambda e: sp.combsimp(sp.expand_func(e.rewrite(sp.gamma)).simplify()),
        formula=r"c_{k,m-1} + c_{k,m} = c_{k+1,m}",
    )
    f, g = operators("F g")
    damping = sp.Symbol("lambda", positive=True)
    power: Any = g
    for n in range(1, 4):
        power = sp.expand(f * power + damping * power)
        terms = [sp.binomial(n, q) * damping ** (n - q) * sp.Mul(*([f] * q), g) for q in range(n + 1)]
        d.prove(f"Written out, k = {n}", power, sum(terms), sp.expand, formula=sp.Eq(sp.Symbol("v"), power))
    d.define(
        "The coefficients form a triangular matrix with ones on its diagonal: both sequences span the same Krylov "
        "space, so a method that searches it needs no damping of its own",
        r"\mathrm{span}(g, \ldots, F^k g) = \mathrm{span}(g, \ldots, (F + \lambda I)^k g)",
    )


def _tonga(d: Derivation) -> None:
    a, b = sp.symbols("a_1:3", real=True), sp.symbols("b_1:3", real=True)
    rows = [sp.Matrix(a), sp.Matrix(b)]
    mean = (rows[0] + rows[1]) / 2
    centred = sum(((r - mean) * (r - mean).T for r in rows), sp.zeros(2, 2)) / 2
    plain = sum((r * r.T for r in rows), sp.zeros(2, 2)) / 2
    d.prove(
        "TONGA's covariance of rows' gradients is the empirical Fisher matrix less the square of the mean gradient; "
        "two rows, any gradients. Uncentred it is that matrix; where the mean vanishes, both are",
        centred,
        plain - mean * mean.T,
        lambda m: m.applyfunc(sp.expand),
        formula=r"\mathrm{E}_n (g_n - g)(g_n - g)^{\top} = \mathrm{E}_n g_n g_n^{\top} - g g^{\top}, \quad "
        r"g = \mathrm{E}_n g_n",
    )
