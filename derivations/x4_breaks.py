"""How often does the layerwise flow break between random starts and random targets?

Statement X4: for independent real Gaussian n × n W(0) and W*, the expected number of times at which the line from
W(0) to W* meets det W = 0 is half the expected number of real generalised eigenvalues of the pair,
√π Γ((n+1)/2)/(2Γ(n/2)). That expectation is Edelman, Kostlan and Shub's (1994); it is derived here by the
Kac–Rice formula (classical) for the determinant along a great circle, with every integral computed. The probability
of at least one break is at least ½. The use for the flow is new.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Derivation

STATEMENTS = ("X4",)

SIZE = sp.Symbol("n", positive=True)


def real_eigenvalues(size: Any) -> Any:
    """Return the expected number of real generalised eigenvalues of a pair of Gaussian n × n matrices."""
    return sp.sqrt(sp.pi) * sp.gamma((size + 1) / 2) / sp.gamma(size / 2)


def expected_breaks(size: Any) -> Any:
    """Return the expected number of breaks."""
    return real_eigenvalues(size) / 2


def derive() -> tuple[Derivation, ...]:
    """Derive X4."""
    d = Derivation("X4", "How often the layerwise flow breaks", "new; Edelman, Kostlan and Shub 1994")
    _circle(d)
    _adjugate(d)
    _moment(d)
    _signs(d)
    _values(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    expected_breaks(n)
        Expected number of singular times of the line from W(0) to W*.
    breaks(starts, targets)
        Their number for a batch of pairs (N, n, n): real negative eigenvalues of W(0)⁻¹W*.
    probability(n)
        Probability of a break where it is known exactly, n = 1 and 2.
    """

    def breaks(starts: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.int64]:
        mu = np.linalg.eigvals(np.linalg.solve(starts, targets))
        return np.asarray(np.sum((np.imag(mu) == 0) & (np.real(mu) < 0), axis=-1))

    def probability(size: int) -> float:
        return float({1: sp.Rational(1, 2), 2: _probability_two()}[size])

    return {
        "expected_breaks": lambda n: float(expected_breaks(sp.Integer(n))),
        "breaks": breaks,
        "probability": probability,
    }


def _circle(d: Derivation) -> None:
    theta = sp.Symbol("theta", real=True)
    d.define(
        "C3: breaks are real negative μ with det(W* − μW(0)) = 0. M(θ) = cos θ M₁ + sin θ M₂ for independent "
        "Gaussian M₁, M₂: a zero of f(θ) = det M(θ) on [0, π) is a real generalised eigenvalue"
    )
    turn = sp.Matrix([[sp.cos(theta), sp.sin(theta)], [-sp.sin(theta), sp.cos(theta)]])
    d.prove(
        "(M(θ), M′(θ)) has the law of (M₁, M₂) at every θ: the covariance of each pair of entries",
        sp.simplify(turn * turn.T),
        sp.eye(2),
        formula=r"R_\theta R_\theta^{\top} = I",
    )
    d.define(
        "Kac–Rice: the expected number of zeros is π times the density at θ = 0",
        r"\mathrm{E}\, N = \pi \, \mathrm{E} [\, |f'| \, \delta(f) \,], \quad f = \det M_1, \quad "
        r"f' = \mathrm{tr}(\mathrm{adj}(M_1) M_2)",
    )
    for n in (2, 3):
        one, two = (sp.Matrix(n, n, sp.symbols(f"{letter}0:{n * n}")) for letter in "ab")
        h = sp.Symbol("h")
        d.prove(
            f"Jacobi's formula for f′, n = {n}",
            sp.diff(sp.expand((one + h * two).det()), h).subs(h, 0),
            (one.adjugate() * two).trace(),
            formula=r"\frac{d}{dh} \det(M_1 + h M_2) = \mathrm{tr}(\mathrm{adj}(M_1) M_2)",
        )
    x, s = sp.symbols("x sigma", positive=True)
    density = sp.exp(-(x**2) / (2 * s**2)) / (s * sp.sqrt(2 * sp.pi))
    d.prove(
        "Given M₁, f′ is N(0, σ²) with σ = ‖adj M₁‖: E|f′|",
        2 * sp.integrate(x * density, (x, 0, sp.oo)),
        s * sp.sqrt(2 / sp.pi),
    )
    d.prove(
        "Given the first n−1 columns C of M₁, f = cᵀm with the cofactors c of the last column m: its density at 0, "
        "s = ‖c‖",
        density.subs(x, 0),
        1 / (sp.sqrt(2 * sp.pi) * s),
    )
    d.prove(
        "Together, the density of zeros is E[‖adj M₁‖/‖c‖ | cᵀm = 0] times",
        sp.sqrt(2 / sp.pi) / sp.sqrt(2 * sp.pi),
        1 / sp.pi,
    )


def _adjugate(d: Derivation) -> None:
    for n in (2, 3, 4):
        head = sp.Matrix(n, n - 1, sp.symbols(f"c0:{n * (n - 1)}"))
        y = sp.Matrix(n - 1, 1, sp.symbols(f"y0:{n - 1}"))
        singular = head.row_join(head * y)
        cofactors = sp.Matrix(1, n, [(-1) ** (n - 1 + k) * _without_row(head, k).det() for k in range(n)])
        d.prove(
            f"cᵀm = 0 means m = Cy. Then adj M₁ = z cᵀ with z = (−y, 1), n = {n}",
            (singular.adjugate() - (-y).col_join(sp.Matrix([1])) * cofactors).applyfunc(sp.expand),
            formula=r"\mathrm{adj}(M_1) = z c^{\top}, \quad M_1 z = 0, \quad c^{\top} M_1 = 0",
        )
    d.define(
        "(for every n: the columns of adj M₁ lie in null M₁ = span z, its last row is cᵀ), so that",
        r"\|\mathrm{adj} M_1\| / \|c\| = \sqrt{1 + |y|^2}",
    )
    d.define(
        "m is a standard Gaussian on range C: m = C(CᵀC)^{−½}g, y = (CᵀC)^{−½}g, |y|² = gᵀ(CᵀC)⁻¹g. CᵀC is "
        "rotation invariant: |y|² = |g|² [(CᵀC)⁻¹]₁₁ in law"
    )
    a = sp.Symbol("a")
    b, c = (
        sp.Matrix(sp.symbols("b0:2")),
        sp.Matrix([[sp.Symbol("c0"), sp.Symbol("c1")], [sp.Symbol("c1"), sp.Symbol("c2")]]),
    )
    gram = sp.Matrix([[a]]).row_join(b.T).col_join(b.row_join(c))
    schur = a - (b.T * c.inv() * b)[0]
    d.prove(
        "[(CᵀC)⁻¹]₁₁ is one over the squared distance of the first column from the others (Schur complement, three "
        "columns)",
        sp.cancel(gram.inv()[0, 0]),
        sp.cancel(1 / schur),
        formula=r"[(C^{\top}C)^{-1}]_{11} = 1/(a - b^{\top} D^{-1} b)",
    )
    d.define(
        "That distance is Gaussian in n − (n−2) = 2 dimensions and independent of g (n−1 dimensions)",
        r"|y|^2 \sim \chi^2_{n-1} / \chi^2_2",
    )


def _without_row(matrix: sp.Matrix, row: int) -> sp.Matrix:
    rows = [k for k in range(matrix.rows) if k != row]
    return matrix.extract(rows, list(range(matrix.cols)))


def _moment(d: Derivation) -> None:
    k, s, b = sp.symbols("k s b", positive=True)

    def chi2(value: Any, freedom: Any) -> Any:
        return value ** (freedom / 2 - 1) * sp.exp(-value / 2) / (2 ** (freedom / 2) * sp.gamma(freedom / 2))

    joint = chi2(s * (1 - b), k) * chi2(s * b, sp.Integer(2)) * s
    split = chi2(s, k + 2) * (k / 2) * (1 - b) ** (k / 2 - 1)
    logarithm = sp.expand_log(sp.log(joint / split), force=True)
    d.prove(
        "X ~ χ²_k, Y ~ χ²_2: in s = X + Y, b = Y/(X+Y) (Jacobian s) the density splits, b being Beta(1, k/2)",
        sp.simplify(sp.expand(sp.gammasimp(sp.exp(sp.simplify(sp.expand(logarithm)))))),
        1,
        formula=r"p(b) = \frac{k}{2} (1-b)^{k/2-1}",
    )
    half = sp.integrate(b ** sp.Rational(-1, 2) * (1 - b) ** (k / 2 - 1), (b, 0, 1), conds="none") * k / 2
    value = sp.sqrt(sp.pi) * sp.gamma(k / 2 + 1) / sp.gamma((k + 1) / 2)
    d.prove(
        "E√(1 + |y|²) = E b^{−½}, a beta integral",
        sp.gammasimp(half.rewrite(sp.gamma) / value),
        1,
        formula=r"\mathrm{E} b^{-1/2} = \sqrt{\pi} \Gamma(k/2+1) / \Gamma((k+1)/2)",
    )
    d.prove(
        "With k = n − 1, π · (1/π) · E√(1 + |y|²): the expected number of real generalised eigenvalues",
        value.subs(k, SIZE - 1),
        real_eigenvalues(SIZE),
    )


def _signs(d: Derivation) -> None:
    mu = sp.Symbol("mu")
    start, goal = (sp.Matrix(2, 2, sp.symbols(f"{letter}0:4")) for letter in "wg")
    d.prove(
        "W(0) → −W(0) keeps the law and turns μ into −μ: half of them are negative",
        (goal - mu * start).det(),
        (goal - (-mu) * (-start)).det(),
        formula=expected_breaks(SIZE),
    )
    d.prove(
        "Changing the sign of one column of W(0) keeps the law and turns det W(0)⁻¹W*: it is negative with "
        "probability ½, an odd number of breaks (C3), so P(break) ≥ ½",
        (start * sp.diag(-1, 1)).det() * goal.det(),
        -start.det() * goal.det(),
    )
    real_both, one, two = sp.symbols("r p_1 p_2")
    found = sp.solve(
        [
            2 * real_both - real_eigenvalues(sp.Integer(2)),
            one - sp.Rational(1, 2),
            one + 2 * two - expected_breaks(sp.Integer(2)),
        ],
        [real_both, one, two],
        dict=True,
    )[0]
    d.prove(
        "n = 2: P(real) = r, P(one break) = ½ (negative determinant), p₁ + 2p₂ = E; P(break)",
        found[one] + found[two],
        _probability_two(),
        formula=sp.Eq(sp.Symbol("P"), _probability_two(), evaluate=False),
    )


def _probability_two() -> Any:
    two = (expected_breaks(sp.Integer(2)) - sp.Rational(1, 2)) / 2
    return sp.expand(sp.Rational(1, 2) + two)


def _values(d: Derivation) -> None:
    d.prove("n = 1: a break with probability ½", expected_breaks(sp.Integer(1)), sp.Rational(1, 2))
    d.prove("n = 2", expected_breaks(sp.Integer(2)), sp.pi / 4)
    d.prove("n = 3: one on average", expected_breaks(sp.Integer(3)), 1)
    d.prove(
        "n → ∞: E ~ √(πn/8)", sp.limit(expected_breaks(SIZE) / sp.sqrt(SIZE), SIZE, sp.oo), sp.sqrt(sp.pi / 8)
    )
    goal = sp.Matrix([[-2, 0], [0, -3]])
    d.check(
        "Counter-example to necessity: W(0) = I, W* = diag(−2, −3) breaks twice with determinants of one sign",
        goal.det() > 0 and all(value < 0 for value in goal.eigenvals()),
    )
