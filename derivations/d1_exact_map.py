"""What does one natural-gradient step of size η do to the total weight, exactly?

Statement D1, square invertible layers, S > 0, layerwise gauge: W⁺ = W[I + (η/L)(W⁻¹W* − I)]^L. The products
W_k⁻¹W* all commute, so that their eigenvalues follow a scalar map. New.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp

from derivations._core import Algebra, Derivation, families, integers, inverse, operators
from derivations._layers import before, layerwise, powers

STATEMENTS = ("D1",)

MODE, ETA, DEPTH = sp.symbols("g eta L", positive=True)


def bracket(mode: Any, eta: Any, depth: Any) -> Any:
    """Return 1 + η(g − 1)/L."""
    return 1 + eta * (mode - 1) / depth


def scalar_map(mode: Any, eta: Any, depth: Any) -> Any:
    """Return the image of an eigenvalue g of W⁻¹W* under one step."""
    return mode * bracket(mode, eta, depth) ** (-depth)


def derive() -> tuple[Derivation, ...]:
    """Derive D1."""
    d = Derivation("D1", "The exact map of one layerwise step", "new")
    _layers(d)
    _spectrum(d)
    _instances(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    scalar_map(g, eta, depth)
        One step of an eigenvalue of W⁻¹W*.
    total_step(total, teacher, eta, depth)
        W⁺ for square invertible W.
    """

    def total_step(total: Any, teacher: Any, eta: float, depth: int) -> Any:
        move = np.linalg.solve(total, teacher) - np.eye(len(total))
        return total @ np.linalg.matrix_power(np.eye(len(total)) + eta / depth * move, depth)

    return {
        "scalar_map": sp.lambdify((MODE, ETA, DEPTH), scalar_map(MODE, ETA, DEPTH), "numpy"),
        "total_step": total_step,
    }


def _layers(d: Derivation) -> None:
    i = sp.Symbol("i", integer=True, positive=True)
    (a, inv_a, y), (w_inv, e) = families("A A⁻¹ Y"), operators("W⁻¹ E")
    algebra = Algebra()
    algebra.inverse(a, inv_a)
    powers(algebra, y)
    d.define(
        "Square invertible layers: v_i = (1/L)A_{i+1}W⁻¹E A_i⁻¹ (C2) and W_i = A_{i+1}A_i⁻¹",
        r"X = W^{-1} E = W^{-1} W^* - I, \qquad Y = I + \frac{\eta}{L} X",
    )
    step = a(i + 1) * inv_a(i) + ETA / DEPTH * a(i + 1) * w_inv * e * inv_a(i)
    d.prove(
        "A layer after the step, W_i + ηv_i",
        step,
        a(i + 1) * (1 + ETA / DEPTH * w_inv * e) * inv_a(i),
        algebra.reduce,
        formula=r"W_i^+ = A_{i+1} Y A_i^{-1}",
    )
    d.prove(
        "Induction on i: A_i⁺ = A_iY^{i−1} gives A_{i+1}⁺ = W_i⁺A_i⁺ = A_{i+1}Y^i",
        a(i + 1) * y(1) * inv_a(i) * a(i) * y(i - 1),
        a(i + 1) * y(i),
        algebra.reduce,
    )
    d.define("At i = L", r"W^+ = W [I + \frac{\eta}{L} (W^{-1} W^* - I)]^L")


def _spectrum(d: Derivation) -> None:
    g_of, y_of = operators("G Y⁻¹")
    y_def = 1 + ETA / DEPTH * (g_of - 1)
    d.prove(
        "G = W⁻¹W* commutes with Y = I + (η/L)(G − I), hence with Y⁻¹",
        g_of * y_def,
        y_def * g_of,
        sp.expand,
        formula=r"G Y = Y G",
    )
    algebra = Algebra()
    algebra.rule(g_of * y_of, y_of * g_of)
    d.prove(
        "so G⁺ = (WY^L)⁻¹W* = Y^{−L}G commutes with G (written for L = 2), and all later products with it",
        y_of * y_of * g_of * g_of,
        g_of * y_of * y_of * g_of,
        algebra.reduce,
        formula=r"G^+ = Y^{-L} G, \quad G^+ G = G G^+",
    )
    d.prove(
        "An eigenvalue goes from g to g(1 + η(g−1)/L)^{−L}; g = 1 is fixed",
        scalar_map(sp.S.One, ETA, DEPTH),
        1,
    )
    shrink = sp.Symbol("g", real=True)
    d.prove(
        "On null(W⁻¹W*) (g = 0, W* singular) W itself is multiplied by (1 − η/L)^L",
        bracket(shrink, ETA, DEPTH).subs(shrink, 0) ** DEPTH,
        (1 - ETA / DEPTH) ** DEPTH,
    )
    d.prove(
        "The multiplier of the fixed point g = 1 is 1 − η, for every depth",
        sp.diff(scalar_map(MODE, ETA, DEPTH), MODE).subs(MODE, 1),
        1 - ETA,
    )
    d.prove(
        "Small steps follow the flow of C1, where dg/dt = −g(g − 1)",
        sp.diff(scalar_map(MODE, ETA, DEPTH), ETA).subs(ETA, 0),
        -MODE * (MODE - 1),
    )


def _instances(d: Derivation) -> None:
    eta = sp.Rational(2, 3)
    for size, depth in ((2, 3), (3, 2), (2, 1)):
        layers = [integers(size, size, 11 + 3 * k + depth) + 4 * sp.eye(size) for k in range(depth)]
        teacher = integers(size, size, 40 + size)
        total = before(layers, depth + 1)
        stepped = [w + eta * v for w, v in zip(layers, layerwise(layers, teacher), strict=True)]
        move = inverse(total) * teacher - sp.eye(size)
        d.check(
            f"Exact, {size} × {size}, L = {depth}: the product of the stepped layers, η = 2/3",
            before(stepped, depth + 1) == total * (sp.eye(size) + eta / depth * move) ** depth,
        )
    singular = sp.Matrix([[1, 2], [2, 4]])
    layers = [sp.Matrix([[2, 1], [1, 1]]), sp.Matrix([[1, 0], [3, 1]])]
    total = before(layers, 3)
    kernel = (inverse(total) * singular).nullspace()[0]
    stepped = [w + eta * v for w, v in zip(layers, layerwise(layers, singular), strict=True)]
    d.check(
        "Exact, singular W*: null(W⁻¹W*) shrinks by (1 − η/2)²",
        before(stepped, 3) * kernel == (1 - eta / 2) ** 2 * total * kernel,
    )
    wrong = total + eta * (singular - total)
    d.check(
        "Counter-example: for L = 2 the step is not the Euler step W + ηE of the total weight",
        before(stepped, 3) != wrong,
    )
