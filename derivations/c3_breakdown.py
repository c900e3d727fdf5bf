"""When does the layerwise natural gradient flow stop, and who escapes?

Statement C3, square invertible layers, S > 0: the flow ends when an eigenvalue of G(t) = W(0)⁻¹W(t) reaches zero,
which only real negative μ ∈ spec(W(0)⁻¹W*) do, at t = log(1 + 1/|μ|). At a semisimple eigenvalue the weights stay
finite there; at a defective one they do not. A hidden layer of width n makes both of its sides singular
at that time; the minimum-norm gauge needs only one of them, and keeps it unless the layers are balanced. New.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, integers, inverse, operators
from derivations._layers import balanced_layers, before, conjugated, jacobian
from derivations.c2_layers import mode

STATEMENTS = ("C3",)

TIME, DEPTH, NEGATIVE = sp.symbols("t L m", positive=True)


def stopping(magnitude: Any) -> Any:
    """Return the time at which the mode with μ = −magnitude vanishes."""
    return sp.log(1 + 1 / magnitude)


def derive() -> tuple[Derivation, ...]:
    """Derive C3."""
    d = Derivation("C3", "When the layerwise flow breaks", "new")
    _time(d)
    _rates(d)
    _determinants(d)
    _narrow(d)
    _wide(d)
    _minimum_norm(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    breakdown_time(total, teacher)
        The earliest log(1 + 1/|μ|) over the real negative eigenvalues μ of W⁻¹W*; inf if there is none.
    singular_times(total, teacher)
        All of them in order: the times at which the line of C1 meets det W = 0.
    """
    time = sp.lambdify(NEGATIVE, stopping(NEGATIVE), "numpy")

    def singular_times(total: NDArray[Any], teacher: NDArray[Any]) -> NDArray[np.float64]:
        mu = np.linalg.eigvals(np.linalg.solve(total, teacher))
        real = mu[(mu.imag == 0) & (mu.real < 0)].real
        return np.sort(time(-real))

    def breakdown_time(total: NDArray[Any], teacher: NDArray[Any]) -> float:
        times = singular_times(total, teacher)
        return float(times[0]) if times.size else float("inf")

    return {"breakdown_time": breakdown_time, "singular_times": singular_times}


def _time(d: Derivation) -> None:
    d.define(
        "C2: W_i(t) = A_{i+1}(0)G^{1/L}A_i(0)⁻¹; an eigenvalue of G leaves the domain of the principal power "
        "only through zero, which a segment from 1 to μ meets only for real μ < 0",
        r"\mu = -m, \quad m > 0",
    )
    d.prove("The eigenvalue at that time", mode(stopping(NEGATIVE), -NEGATIVE), 0)
    d.prove(
        "It is the only zero",
        sp.solve(sp.Eq(mode(TIME, -NEGATIVE), 0), TIME)[0],
        stopping(NEGATIVE),
        lambda e: sp.simplify(sp.logcombine(e, force=True)),
    )
    slope = sp.diff(stopping(NEGATIVE), NEGATIVE)
    d.check(
        "It decreases in |μ|: the most negative real eigenvalue stops the flow",
        bool(sp.factor(slope).is_negative),
        sp.Eq(sp.Symbol("dt/dm"), sp.factor(slope), evaluate=False),
    )


def _rates(d: Derivation) -> None:
    early = sp.Symbol("delta", positive=True)
    g = mode(stopping(NEGATIVE) - early, -NEGATIVE)
    d.prove(
        "At the time t_s − δ the eigenvalue is linear in δ to first order",
        sp.limit(g / early, early, 0),
        NEGATIVE,
        formula=r"g = m \delta + O(\delta^2)",
    )
    z = sp.Symbol("g", positive=True)
    d.prove(
        "Semisimple μ: the weights contain g^{1/L} → 0, finite; the velocity g^{1/L−1}/L · dg/dt behaves like "
        "δ^{−(1−1/L)}",
        sp.diff(z ** (1 / DEPTH), z),
        z ** -(1 - 1 / DEPTH) / DEPTH,
    )
    for k in (1, 2):
        exponent = sp.simplify(
            z * sp.diff(sp.diff(z ** (1 / DEPTH), z, k), z) / sp.diff(z ** (1 / DEPTH), z, k)
        )
        d.prove(
            f"Defective μ: {k} place{'s' * (k > 1)} off the diagonal of its Jordan block stands "
            f"f^({k})(g)/{k}! for f = g^{{1/L}}, which diverges with the exponent",
            exponent,
            1 / DEPTH - k,
        )
    d.define("So for L ≥ 2 the weights stay finite at t_s exactly when the eigenvalue is semisimple")


def _determinants(d: Derivation) -> None:
    re, im = sp.symbols("alpha beta", real=True)
    d.prove(
        "A complex pair contributes a positive factor to det W(0)⁻¹W*",
        sp.expand((re + sp.I * im) * (re - sp.I * im)),
        re**2 + im**2,
    )
    d.define(
        "det W(0) and det W* of opposite sign: an odd number of negative eigenvalues, so the flow breaks. "
        "Sufficient, not necessary:"
    )
    basis = sp.Matrix([[2, 1], [1, 1]])
    teacher = conjugated([-1, -2], basis)
    t1 = stopping(sp.Integer(2))
    d.check(
        "Counter-example: W(0) = I, spec W* = {−1, −2}, equal signs; W(t) is singular first at log(3/2)",
        teacher.det() > 0
        and sp.simplify(mode(t1, -2)) == 0
        and sp.simplify(t1 - sp.log(sp.Rational(3, 2))) == 0,
    )
    spiral = sp.Matrix([[0, -1], [1, 0]])
    q = sp.Symbol("q", positive=True)
    along = (q * sp.eye(2) + (1 - q) * spiral).det()
    d.prove(
        "A complex pair on the imaginary axis never breaks the flow: det G along it (q = e^{−t})",
        along,
        q**2 + (1 - q) ** 2,
    )
    h = sp.Symbol("h", positive=True)
    past = -(h ** (1 / DEPTH))
    d.prove(
        "L odd: beyond g = 0 the real root −|g|^{1/L} of g = −h solves the same equation of the layers "
        "(dy/dg = y/(Lg))",
        sp.diff(past, h) / -1,
        past / (DEPTH * -h),
    )
    d.prove(
        "and the velocity is integrable through the singularity: an integrator can step over it unnoticed",
        sp.integrate(h ** (1 / DEPTH - 1) / DEPTH, (h, 0, 1)),
        1,
        formula=r"\int_0^1 \frac{1}{L} h^{1/L-1} dh = 1",
    )


def _narrow(d: Derivation) -> None:
    b_inv, c, c_plus, e, a, w_inv = operators("B⁻¹ C C⁺ E A W⁻¹")
    d.define(
        "Hidden layers at least n wide, layer i exactly n wide: W = B A with square B = B_i, A = A_{i+1}; for "
        "j ≤ i, C = W_i⋯W_{j+1} and B_j = BC has full row rank: B_jB_j⁺ = 1, B_j⁺ = C⁺B⁻¹",
        r"C C^+ = 1",
    )
    square = Algebra()
    square.rule(c * c_plus, 1)
    square.rule(a * w_inv, b_inv)
    d.prove(
        "Every layer j ≤ i moves A by C v_j A_j = (1/L) C B_j⁺ E A_j⁺A_j = (1/L) A W⁻¹E (A_j has full column "
        "rank), as in C2",
        c * c_plus * b_inv * e,
        a * w_inv * e,
        square.reduce,
    )
    i, g = sp.symbols("i g", positive=True)
    d.prove(
        "so A = A(0)G^{i/L} and B = WA⁻¹ = W(0)G^{1−i/L}A(0)⁻¹: both contain a positive power of g and become "
        "singular at the same time",
        g ** (i / DEPTH) * g ** (1 - i / DEPTH),
        g,
        lambda x: sp.simplify(sp.powsimp(x)),
    )
    d.define(
        "There neither side of layer i has rank n: (J) fails and the flow cannot be continued. One hidden layer "
        "of width exactly n suffices, however wide the others are"
    )


def _wide(d: Derivation) -> None:
    rows, columns, rank = sp.symbols("N n r", positive=True)
    free = rank * (rows + columns - rank)
    d.prove(
        "All hidden layers wider: an N × n matrix of rank r = n − 1 has r(N + n − r) free parameters (classical), "
        "so rank is lost on a set of codimension",
        sp.expand(rows * columns - free.subs(rank, columns - 1)),
        rows - columns + 1,
    )
    thin = sp.Matrix([[1, 0], [0, 0], [0, 0]])
    entries = sp.symbols("x0:6")
    general = sp.Matrix(3, 2, entries)
    minors = [general.extract(list(pair), [0, 1]).det() for pair in ((0, 1), (0, 2), (1, 2))]
    point = dict(zip(entries, list(thin), strict=True))
    normal = sp.Matrix(minors).jacobian(sp.Matrix(entries)).subs(point)
    d.check("  for 3 × 2 at rank 1: the minors have two independent differentials", normal.rank() == 2)
    d.define(
        "Codimension ≥ 2 for N > n: a generic curve of weights misses it, although W(t) = B A still passes "
        "det W = 0 (a statement about generic starts, not about all)"
    )
    b, a = sp.Matrix([[1, 0, 1], [0, 1, 0]]), sp.Matrix([[1, 0], [0, 1], [-1, 1]])
    d.check(
        "  such a passage exists: 2-3-2 with both sides of rank 2 and a singular product",
        b.rank() == 2 and a.rank() == 2 and (b * a).det() == 0 and jacobian([a, b]).rank() == 4,
    )


def _minimum_norm(d: Derivation) -> None:
    w1, w2 = sp.symbols("w_1 w_2", real=True)
    charge, total = sp.symbols("C w", real=True)
    norm = w1**2 + w2**2
    d.prove(
        "Minimum norm, two scalar layers, w = w₂w₁, C = w₂² − w₁² conserved (C4): JJᵀ squared",
        norm**2,
        charge**2 + 4 * total**2,
        lambda e: sp.expand(e.subs({charge: w2**2 - w1**2, total: w1 * w2})),
    )
    start, goal, time = sp.symbols("w_0 w_goal t", real=True)
    line = goal + sp.exp(-time) * (start - goal)
    d.prove(
        "Its flow, dw₁/dt = w₂(w* − w)/(w₁² + w₂²) and likewise w₂, moves w along the line of C1",
        (w2 * w2 + w1 * w1) * (goal - total) / norm,
        sp.diff(line, time).subs(line, total),
        lambda e: sp.simplify(e.subs(sp.exp(-time), (total - goal) / (start - goal))),
    )
    d.prove(
        "At w = 0, JJᵀ is |C|: an unbalanced start passes, a balanced one meets J = 0",
        sp.sqrt(charge**2 + 4 * total**2).subs(total, 0),
        sp.Abs(charge),
    )
    x, xt, w2s, w2t, w1s, w1t = operators("x xᵀ W₂ W₂ᵀ W₁ W₁ᵀ")
    algebra = Algebra()
    algebra.rule(w2s * x, 0)
    algebra.rule(xt * w2t, 0)
    d.prove(
        "L = 2, n × n: where W₂x = 0, xᵀCx = −‖W₁ᵀx‖² for the conserved C = W₂ᵀW₂ − W₁W₁ᵀ; so C > 0 keeps W₂ "
        "invertible and the flow passes det W = 0",
        xt * (w2t * w2s - w1s * w1t) * x,
        -xt * w1s * w1t * x,
        algebra.reduce,
    )
    balanced = balanced_layers([2, 0], [2, 2, 2, 2])
    d.check(
        "Balanced square layers lose rank together (A_iᵀA_i = M^{i−1}, S1): at det W = 0 J is not onto",
        jacobian(balanced).rank() < 4 and all(layer.rank() == 1 for layer in balanced),
    )
    loose = [sp.Matrix([[1, 2], [2, 4]]), integers(2, 2, 4) + 4 * sp.eye(2)]
    d.check(
        "Unbalanced: one singular layer beside an invertible one leaves J onto",
        jacobian(loose).rank() == 4 and before(loose, 3).det() == 0 and inverse(loose[1]).rank() == 2,
    )
