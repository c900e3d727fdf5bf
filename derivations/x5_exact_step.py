"""Which finite step of the layers moves the total weight exactly along its error?

Statement X5, square layers, S > 0: W_i⁺ = A_{i+1}[I + η(W⁻¹W* − I)]^{1/L}A_i⁻¹ with the principal root gives
W⁺ = W + ηE, for every η for which the root exists. It is the layerwise flow (C2) run for the time
−log(1 − η), but also reaches η = 1, one step to W*, where that time is infinite. New.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, families, integers, inverse, operators
from derivations._layers import before, conjugated, layerwise, powers, prefixes, principal_power
from derivations.c2_layers import mode

STATEMENTS = ("X5",)

ETA = sp.Symbol("eta", positive=True)
MU = sp.Symbol("mu")
Array = NDArray[Any]


def radicand(mu: Any, eta: Any) -> Any:
    """Return 1 + η(μ − 1), the eigenvalue whose L-th root is taken."""
    return 1 + eta * (mu - 1)


def derive() -> tuple[Derivation, ...]:
    """Derive X5."""
    d = Derivation("X5", "The exact finite step", "new")
    _telescope(d)
    _existence(d)
    _instances(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    exact_step(weights, teacher, eta)
        The layers after the step; ValueError where the principal root does not exist.
    """

    def exact_step(weights: Sequence[Array], teacher: Array, eta: float) -> list[Array]:
        a = prefixes(weights)
        move = np.linalg.solve(a[-1], teacher)
        root = principal_power(radicand_matrix(move, eta), 1 / len(weights))
        return [np.linalg.solve(a[k].T, (a[k + 1] @ root).T).T for k in range(len(weights))]

    def radicand_matrix(move: Array, eta: float) -> Array:
        return np.asarray(np.eye(len(move)) + eta * (move - np.eye(len(move))))

    return {"exact_step": exact_step}


def _telescope(d: Derivation) -> None:
    i, depth = sp.symbols("i L", integer=True, positive=True)
    (a, inv_a, r), (w, w_inv, goal) = families("A A⁻¹ R"), operators("W W⁻¹ W*")
    algebra = Algebra()
    algebra.inverse(a, inv_a)
    algebra.rule(w * w_inv, 1)
    powers(algebra, r)
    d.define(
        "R is the principal root, R(q) its powers",
        r"R^L = I + \eta (W^{-1} W^* - I), \quad "
        r"W_i^+ = A_{i+1} R A_i^{-1}",
    )
    d.prove(
        "Induction on i: A_i⁺ = A_iR^{i−1} gives A_{i+1}⁺ = A_{i+1}R^i",
        a(i + 1) * r(1 / depth) * inv_a(i) * a(i) * r((i - 1) / depth),
        a(i + 1) * r(i / depth),
        algebra.reduce,
        formula=r"W_i^+ A_i R^{i-1} = A_{i+1} R^i",
    )
    d.prove(
        "At i = L the root has gone: W⁺ = WR^L is exactly W + ηE",
        w * (1 + ETA * (w_inv * goal - 1)),
        w + ETA * (goal - w),
        algebra.reduce,
    )
    d.prove("η = 1 arrives", w * (1 + (w_inv * goal - 1)), goal, algebra.reduce)


def _existence(d: Derivation) -> None:
    time = sp.Symbol("t", positive=True)
    d.prove(
        "It is the flow of C2 at η = 1 − e^{−t}: the eigenvalues under the root agree",
        radicand(MU, 1 - sp.exp(-time)),
        mode(time, MU),
    )
    edge = sp.solve(sp.Eq(radicand(MU, ETA), 0), MU)[0]
    d.prove(
        "The principal root exists ⇔ no eigenvalue 1 + η(μ−1) on (−∞, 0] ⇔ no real μ ≤ 1 − 1/η",
        edge,
        1 - 1 / ETA,
    )
    re, im = sp.symbols("alpha beta", real=True)
    d.prove(
        "  (its imaginary part vanishes only for real μ)",
        sp.im(sp.expand(radicand(re + sp.I * im, ETA))),
        ETA * im,
    )
    d.check(
        "For η ≤ 1 the edge is not positive: positive spectra never obstruct the step",
        all(edge.subs(ETA, value) <= 0 for value in (sp.Rational(1, 9), sp.Rational(1, 2), 1)),
    )


def _instances(d: Derivation) -> None:
    half = sp.Rational(1, 2)
    for depth in (2, 3):
        layers = [integers(2, 2, 17 + k) + 4 * sp.eye(2) for k in range(depth)]
        total = before(layers, depth + 1)
        root = conjugated([sp.Rational(1, 2), 2], sp.Matrix([[2, 1], [1, 1]]))
        goal = total * (sp.eye(2) + (root**depth - sp.eye(2)) / half)
        stepped = [before(layers, k + 2) * root * inverse(before(layers, k + 1)) for k in range(depth)]
        d.check(
            f"Exact, L = {depth}, η = ½: the stepped layers multiply to (W + W*)/2",
            before(stepped, depth + 1) == total + half * (goal - total),
        )
        plain = [w + half * v for w, v in zip(layers, layerwise(layers, goal), strict=True)]
        d.check(
            "  the plain step of the same size does not",
            before(plain, depth + 1) != total + half * (goal - total),
        )
    flip = sp.Matrix([[-1, 0], [0, 1]])
    x = sp.symbols("x0:4", real=True)
    square = sp.Matrix(2, 2, x) ** 2
    solutions = sp.solve(list(square - flip), x, dict=True)
    d.check(
        "Counter-example: W = I, spec W* = {−1, 1}, η = 1: diag(−1, 1) has no real square root at all",
        not solutions,
    )
    turn = sp.Matrix([[0, -1], [1, 0]])
    d.check(
        '  but −I has one that is not principal: "exists" is about the principal root', turn**2 == -sp.eye(2)
    )
