"""How do the layers themselves move under the layerwise natural gradient flow?

Statement C2, for square invertible layers and S > 0: with G(t) = W(0)⁻¹W(t) every partial product is its initial
value times a principal power of G, W_i(t) = A_{i+1}(0) G(t)^{1/L} A_i(0)⁻¹. All G(t) are polynomials in
M = W(0)⁻¹W*, so that calculus with them is calculus with one variable, Jordan blocks included. The limit of a
mode with μ = 0 is different for semisimple and for defective eigenvalues. New.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, families, integers, inverse, operators
from derivations._layers import before, layerwise, prefixes, principal_power

STATEMENTS = ("C2",)

TIME, DEPTH, INDEX = sp.symbols("t L i", positive=True)
MU = sp.Symbol("mu")
Array = NDArray[Any]


def mode(time: Any, mu: Any) -> Any:
    """Return the eigenvalue of G(t) that belongs to the eigenvalue μ of M: a segment from 1 to μ."""
    return sp.exp(-time) + (1 - sp.exp(-time)) * mu


def exponent(index: Any, depth: Any) -> Any:
    """Return the power of G by which A_{i+1} differs from its initial value."""
    return index / depth


def derive() -> tuple[Derivation, ...]:
    """Derive C2."""
    d = Derivation("C2", "The layers under the layerwise natural gradient flow", "new")
    _velocity(d)
    _solution(d)
    _principal(d)
    _zero_mode(d)
    _jordan(d)
    _instances(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    natural_weights(weights, teacher, times)
        W_i(t), a list over layers of (T, n, n); square invertible layers, diagonalisable W(0)⁻¹W*.
    jordan_root(time, mu, size, depth)
        G(t)^{1/L} for one Jordan block of M of this size, by the exact Taylor coefficients.
    """
    return {"natural_weights": _natural_weights, "jordan_root": _jordan_root}


def _velocity(d: Derivation) -> None:
    i, m = sp.Symbol("i", integer=True), sp.Symbol("m", integer=True)
    (a, inv_a), (e, w_inv) = families("A A⁻¹"), operators("E W⁻¹")
    algebra = Algebra()
    algebra.inverse(a, inv_a)
    d.define(
        "Square invertible layers: B_j⁻¹ = A_{j+1}W⁻¹, hence the layerwise velocity",
        r"v_j = \frac{1}{L} B_j^{-1} E A_j^{-1} = \frac{1}{L} A_{j+1} W^{-1} E A_j^{-1}",
    )
    j = i - m
    pushed = a(i + 1) * inv_a(j + 1) * (a(j + 1) * w_inv * e * inv_a(j)) * a(j) / DEPTH
    d.prove(
        "Layer j = i − m moves A_{i+1} by (W_i⋯W_{j+1}) v_j A_j with W_i⋯W_{j+1} = A_{i+1}A_{j+1}⁻¹: "
        "the same for every j ≤ i",
        pushed,
        a(i + 1) * w_inv * e / DEPTH,
        algebra.reduce,
    )
    d.define("The sum over j = 1…i", r"dA_{i+1}/dt = \frac{i}{L} A_{i+1} W^{-1} E, \qquad dW/dt = E")


def _solution(d: Derivation) -> None:
    goal, start, start_inv = operators("W* W₀ W₀⁻¹")
    total = goal + sp.exp(-TIME) * (start - goal)
    algebra = Algebra()
    algebra.rule(start_inv * start, 1)
    d.prove(
        "G = W(0)⁻¹W is a polynomial in M = W(0)⁻¹W*: all G(t) commute",
        start_inv * total,
        mode(TIME, start_inv * goal),
        algebra.reduce,
    )
    d.define(
        "For commuting G(t) and f holomorphic on the spectrum, d f(G)/dt = f′(G) dG/dt (differentiate "
        "f(G) = ∮ f(z)(z − G)⁻¹dz/2πi under the integral, then integrate by parts), whether G is "
        "diagonalisable or not: identities may be verified with a scalar g"
    )
    g = mode(TIME, MU)
    d.prove(
        "W⁻¹E = G⁻¹dG/dt, because dG/dt = M − G",
        sp.diff(g, TIME),
        MU - g,
        formula=r"dg/dt = \mu - g, \quad g = e^{-t} + (1 - e^{-t}) \mu",
    )
    power = g ** exponent(INDEX, DEPTH)
    d.prove(
        "Hence A_{i+1}(t) = A_{i+1}(0) G(t)^{i/L} solves the equation of A_{i+1}, for every i and L",
        sp.diff(power, TIME),
        INDEX / DEPTH * power * (MU - g) / g,
        formula=r"\frac{d}{dt} g^{i/L} = \frac{i}{L} g^{i/L} g^{-1} (\mu - g)",
    )
    d.prove("and starts at A_{i+1}(0)", g.subs(TIME, 0) ** exponent(INDEX, DEPTH), 1)
    d.prove(
        "The layer W_i = A_{i+1}A_i⁻¹ takes the power i/L − (i−1)/L, the same in every layer",
        exponent(INDEX, DEPTH) - exponent(INDEX - 1, DEPTH),
        1 / DEPTH,
        formula=r"W_i(t) = A_{i+1}(0) G(t)^{1/L} A_i(0)^{-1}",
    )


def _principal(d: Derivation) -> None:
    re, im = sp.symbols("alpha beta", real=True)
    g = mode(TIME, re + sp.I * im)
    d.prove(
        "The eigenvalue moves on the segment from 1 to μ = α + iβ: its imaginary part",
        sp.im(g),
        (1 - sp.exp(-TIME)) * im,
        lambda e: sp.simplify(sp.expand(e, complex=True)),
    )
    s, r = sp.Symbol("mu", nonnegative=True), sp.Symbol("r", positive=True)
    d.prove(
        "It vanishes for t > 0 only if μ is real; real μ ≥ 0 keep the eigenvalue positive: with t = log(1 + r)",
        mode(sp.log(1 + r), s),
        (1 + r * s) / (1 + r),
    )
    d.define(
        "So (−∞, 0] is met only by real μ < 0 (C3), or at t = ∞ by μ = 0: until then the principal power is "
        "differentiable, and it is the solution"
    )


def _zero_mode(d: Derivation) -> None:
    g = mode(TIME, sp.S.Zero)
    d.prove(
        "μ = 0, semisimple: G^{1/L} acts as e^{−t/L}, so the weights converge, at that rate",
        g ** (1 / DEPTH),
        sp.exp(-TIME / DEPTH),
        lambda e: sp.simplify(sp.powdenest(e, force=True)),
    )
    growth = sp.simplify(_taylor(2, sp.S.Zero, DEPTH)[1])
    d.prove(
        "μ = 0 in a Jordan block of size 2: the off-diagonal entry of G^{1/L}",
        growth,
        (1 - sp.exp(-TIME)) * sp.exp(TIME * (1 - 1 / DEPTH)) / DEPTH,
        lambda e: sp.simplify(sp.expand(sp.powdenest(e, force=True))),
    )
    limit = sp.limit(
        sp.expand(sp.diff(sp.log(1 - sp.exp(-TIME)) + TIME * (1 - 1 / DEPTH), TIME)), TIME, sp.oo
    )
    d.prove(
        "it grows like e^{(1−1/L)t} for L ≥ 2: W → W* while the weights diverge; its logarithmic rate tends to",
        limit,
        1 - 1 / DEPTH,
        formula=r"1 - 1/L",
    )
    for k in (2, 3):
        entry = _taylor(k + 1, sp.S.Zero, DEPTH)[k]
        d.prove(
            f"  {k} places off the diagonal of a larger block: the binomial series",
            entry,
            sp.expand_func(sp.ff(1 / DEPTH, k))
            / sp.factorial(k)
            * sp.exp(-TIME / DEPTH)
            * (sp.exp(TIME) - 1) ** k,
            lambda e: sp.simplify(sp.expand(sp.powdenest(sp.expand(e), force=True))),
            formula=rf"(1/L)(1/L-1){r'(1/L-2)' * (k == 3)}/{k}! \, (e^t - 1)^{k} e^{{-t/L}} \sim e^{{({k} - 1/L) t}}",
        )


def _taylor(size: int, mu: Any, depth: Any) -> list[Any]:
    """Return the Taylor coefficients (1 − e^{−t})^k f^{(k)}(g)/k! of G^{1/L} on a Jordan block of M."""
    z = sp.Symbol("z", positive=True)
    g = mode(TIME, mu)
    out = []
    for k in range(size):
        slope = sp.diff(z ** (1 / depth), z, k).subs(z, g)
        out.append((1 - sp.exp(-TIME)) ** k * slope / sp.factorial(k))
    return out


def _upper(coefficients: Sequence[Any]) -> sp.Matrix:
    size = len(coefficients)
    return sp.Matrix(size, size, lambda a, b: coefficients[b - a] if b >= a else 0)


def _jordan(d: Derivation) -> None:
    q = sp.Symbol("q", positive=True)
    for size, depth in ((2, 2), (2, 3), (3, 2)):
        root = _upper([c.subs(sp.exp(-TIME), q) for c in _taylor(size, MU, sp.Integer(depth))])
        block = sp.Matrix(size, size, lambda a, b: MU if a == b else int(b == a + 1))
        g = q * sp.eye(size) + (1 - q) * block
        d.prove(
            f"A Jordan block of size {size} with any μ, L = {depth}: the L-th power of the root is G",
            root**depth,
            g,
            lambda m: m.applyfunc(sp.simplify),
        )
        rate = (-q * sp.diff(root, q) * g * depth - root * (block - g)).applyfunc(sp.simplify)
        d.prove(
            "  and it solves the equation of A_2, with d/dt = −q d/dq, q = e^{−t}",
            rate,
            formula=r"L \, (dG^{1/L}/dt) G = G^{1/L} (M - G)",
        )


def _instances(d: Derivation) -> None:
    for size, depth in ((2, 3), (3, 2)):
        layers = [integers(size, size, 3 + 5 * k + depth) + 4 * sp.eye(size) for k in range(depth)]
        start = before(layers, depth + 1)
        root = sp.eye(size) + sp.Matrix(size, size, lambda a, b: sp.Rational(1, 3 + a + b))
        half = sp.Rational(1, 2)
        goal = start * (sp.eye(size) + (root**depth - sp.eye(size)) / half)
        moved = [before(layers, k + 2) * root * inverse(before(layers, k + 1)) for k in range(depth)]
        d.check(
            f"Exact, {size} × {size}, L = {depth}, e^{{−t}} = ½: the product of the layers is the line of C1",
            before(moved, depth + 1) == half * start + half * goal,
        )
        d.check(
            "  and their velocity (1/L)A_{i+1}(0)G^{1/L−1}(M − G)A_i(0)⁻¹ is the layerwise one there",
            _velocities(layers, root, goal) == layerwise(moved, goal),
        )
    scaled = [2 * moved[0], moved[1] / 2]
    d.check(
        "Counter-example: another factorisation of the same W(t) has another velocity",
        _velocities(layers, root, goal) != layerwise(scaled, goal),
    )


def _velocities(layers: list[sp.Matrix], root: sp.Matrix, goal: sp.Matrix) -> list[sp.Matrix]:
    depth = len(layers)
    m = inverse(before(layers, depth + 1)) * goal
    drive = inverse(root) ** (depth - 1) * (m - root**depth) / depth
    return [before(layers, i + 1) * drive * inverse(before(layers, i)) for i in range(1, depth + 1)]


def _natural_weights(weights: Sequence[Array], teacher: Array, times: Array) -> list[Array]:
    a = prefixes(weights)
    depth = len(weights)
    m = np.linalg.solve(a[-1], teacher)
    out: list[list[Array]] = [[] for _ in weights]
    for time in np.asarray(times, float):
        g = float(np.exp(-time)) * np.eye(len(m)) + float(-np.expm1(-time)) * m
        power = principal_power(g, float(exponent(1, depth)))
        for index in range(depth):
            out[index].append(np.linalg.solve(a[index].T, (a[index + 1] @ power).T).T)
    return [np.array(layer) for layer in out]


def _jordan_root(time: float, mu: float, size: int, depth: int) -> Array:
    values = [complex(c.subs(TIME, time)).real for c in _taylor(size, sp.Float(mu, 30), sp.Integer(depth))]
    return np.array([[values[b - a] if b >= a else 0.0 for b in range(size)] for a in range(size)])
