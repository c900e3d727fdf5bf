"""What does a search in the plane of the natural gradient and the last step do? Statement O5.

Source: Pascanu and Bengio (2014).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, operators

STATEMENTS = ("O5",)

Array = NDArray[Any]


def derive() -> tuple[Derivation, ...]:
    """Derive O5."""
    d = Derivation(
        "O5", "Natural conjugate gradients, and a metric without targets", "Pascanu and Bengio (2014)"
    )
    _plane(d)
    _equal(d)
    _metric(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    plane_step(hessian, gradient, natural, last)
        The step a p + b d that minimises the quadratic model in the plane of p and d.
    """

    def plane_step(hessian: Array, gradient: Array, natural: Array, last: Array) -> Array:
        plane = np.column_stack([natural, last])
        system = plane.T @ hessian @ plane
        return np.asarray(-plane @ np.linalg.solve(system, plane.T @ gradient))

    return {"plane_step": plane_step}


def _plane(d: Derivation) -> None:
    a, b = sp.symbols("a b", real=True)
    pp, pd, dd = sp.symbols("p_H p_d d_H", real=True)  # pᵀHp, pᵀHd, dᵀHd
    gp, gd = sp.symbols("g_p g_d", real=True)  # gᵀp, gᵀd
    model = a * gp + b * gd + (a**2 * pp + 2 * a * b * pd + b**2 * dd) / 2
    d.define(
        "Quadratic loss with Hessian H, gradient g; p = F⁻¹g the natural gradient, d the last step; the new step "
        "a p + b d minimises the model. g_p = gᵀp, p_H = pᵀHp, p_d = pᵀHd and so on",
        sp.Eq(sp.Symbol("m"), model, evaluate=False),
    )
    solution = sp.solve([sp.diff(model, a), sp.diff(model, b)], [a, b], dict=True)[0]
    after = gd + solution[a] * pd + solution[b] * dd
    d.prove(
        "The new gradient has no part along d",
        sp.simplify(after),
        0,
        formula=r"d^{\top}(g + H(a p + b d)) = 0",
    )
    exact = {gd: 0}
    d.prove(
        "An exact last search has left gᵀd = 0: then the new step is conjugate to the last one",
        sp.simplify((solution[a] * pd + solution[b] * dd).subs(exact)),
        0,
        formula=r"d^{\top} H (a p + b d) = 0",
    )
    d.prove(
        "with the coefficient of preconditioned conjugate gradients, b/a = −pᵀHd/dᵀHd",
        sp.simplify((solution[b] / solution[a]).subs(exact)),
        -pd / dd,
        formula=r"b/a = -p^{\top} H d / d^{\top} H d",
    )


def _equal(d: Derivation) -> None:
    h, k, g = operators("H K g")
    algebra = Algebra()
    algebra.symmetric(h, k)
    algebra.rule(h * k, 1)
    algebra.rule(k * h, 1)
    d.prove(
        "F = H (K = F⁻¹): one step −K g ends at the minimum, where the gradient g − HKg is zero",
        g - h * k * g,
        0,
        algebra.reduce,
    )


def _metric(d: Derivation) -> None:
    p = sp.Symbol("p", positive=True)
    y = sp.Symbol("y", real=True)
    score = y - p
    mean = p * score.subs(y, 1) ** 2 + (1 - p) * score.subs(y, 0) ** 2
    d.prove(
        "The metric takes its expectation over the model's targets, so that none is needed: one logistic unit",
        sp.expand(mean),
        sp.expand(p * (1 - p)),
        formula=r"\mathrm{E}_{y \sim p} (y - p)^2 = p (1 - p)",
    )
    d.define("It can be estimated on any inputs, labelled or not, other than those of the gradient")
