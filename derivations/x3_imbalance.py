"""Which starts of a two-layer network keep the minimum-norm natural gradient flow from breaking?

Statement X3: C = W_2ᵀW_2 − W_1W_1ᵀ is conserved, and λ_min(JJᵀ) ≥ [λ_{n_2}(C)]₊ + [λ_{n_0}(−C)]₊ = c, J the derivative
of vec W (or S = Π = I). With c > 0 the flow exists for all times, passes singular W, and moves the parameters by
‖E(0)‖/√c at most. New.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, integers, kron, operators
from derivations._layers import jacobian

STATEMENTS = ("X3",)

Array = NDArray[Any]


def imbalance(first: Any, first_t: Any, second: Any, second_t: Any) -> Any:
    """Return C = W_2ᵀW_2 − W_1W_1ᵀ."""
    return second_t * second - first * first_t


def derive() -> tuple[Derivation, ...]:
    """Derive X3."""
    d = Derivation("X3", "Imbalance protects the minimum-norm flow of two layers", "new")
    _spectrum(d)
    _weyl(d)
    _conserved(d)
    _length(d)
    _generic(d)
    _scalars(d)
    _instances(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    imbalance_bound(weights)
        c for the two layers.
    distance_bound(weights, teacher)
        ‖W* − W‖/√c, infinite where c = 0.
    """

    def imbalance_bound(weights: Sequence[Array]) -> float:
        first, second = weights
        values = np.linalg.eigvalsh(second.T @ second - first @ first.T)[::-1]
        counts = len(second), first.shape[1]
        sides = (values, -values[::-1])
        return float(sum(max(v[n - 1], 0.0) for v, n in zip(sides, counts, strict=True) if n <= len(v)))

    def distance_bound(weights: Sequence[Array], teacher: Array) -> float:
        least = imbalance_bound(weights)
        start = float(np.linalg.norm(teacher - weights[1] @ weights[0]))
        return start / least**0.5 if least > 0 else float("inf")

    return {"imbalance_bound": imbalance_bound, "distance_bound": distance_bound}


def _spectrum(d: Derivation) -> None:
    w1, w1t, w2, w2t, u, vt, m = operators("W₁ W₁ᵀ W₂ W₂ᵀ u vᵀ M")
    p, q = sp.symbols("p q", nonnegative=True)
    algebra = Algebra()
    algebra.transposes((w1, w1t), (w2, w2t))
    d.prove(
        "JJᵀ acts on n_2 × n_0 matrices: J(W₂ᵀM, MW₁ᵀ) = W₂W₂ᵀM + MW₁ᵀW₁",
        w2 * (w2t * m) + (m * w1t) * w1,
        (w2 * w2t) * m + m * (w1t * w1),
        algebra.reduce,
        formula=r"J J^{\top} = I \otimes W_2 W_2^{\top} + W_1^{\top} W_1 \otimes I",
    )
    algebra.rule(w2 * w2t * u, p * u)
    algebra.rule(vt * w1t * w1, q * vt)
    d.prove(
        "Eigenvectors u of W₂W₂ᵀ and v of W₁ᵀW₁ give all eigenvectors uvᵀ: eigenvalues are sums",
        w2 * w2t * (u * vt) + (u * vt) * w1t * w1,
        (p + q) * u * vt,
        algebra.reduce,
        formula=r"\lambda_{\min}(J J^{\top}) = \lambda_{\min}(W_2 W_2^{\top}) + \lambda_{\min}(W_1^{\top} W_1)",
    )
    d.define(
        "n_1 ≥ n_2: λ_min(W₂W₂ᵀ) is the n_2-th largest eigenvalue of W₂ᵀW₂; n_1 ≥ n_0: λ_min(W₁ᵀW₁) is the n_0-th "
        "largest of W₁W₁ᵀ"
    )


def _weyl(d: Derivation) -> None:
    w1, w1t, w2, w2t, x, xt = operators("W₁ W₁ᵀ W₂ W₂ᵀ x xᵀ")
    algebra = Algebra()
    algebra.transposes((w1, w1t), (w2, w2t), (x, xt))
    c = imbalance(w1, w1t, w2, w2t)
    one, two = w1t * x, w2 * x
    d.prove(
        "On every x the form of W₂ᵀW₂ exceeds that of C by a square",
        xt * (w2t * w2) * x - xt * c * x,
        algebra.transpose(one) * one,
        algebra.reduce,
        formula=r"x^{\top} W_2^{\top} W_2 x - x^{\top} C x = \|W_1^{\top} x\|^2 \geq 0",
    )
    d.prove(
        "and the form of W₁W₁ᵀ that of −C",
        xt * (w1 * w1t) * x + xt * c * x,
        algebra.transpose(two) * two,
        algebra.reduce,
        formula=r"x^{\top} W_1 W_1^{\top} x + x^{\top} C x = \|W_2 x\|^2 \geq 0",
    )
    d.define(
        "By Courant–Fischer every eigenvalue follows (Weyl), and all are non-negative",
        r"\lambda_{\min}(J J^{\top}) \geq [\lambda_{n_2}(C)]_+ + [\lambda_{n_0}(-C)]_+ = c",
    )


def _conserved(d: Derivation) -> None:
    w1, w1t, w2, w2t, m, mt = operators("W₁ W₁ᵀ W₂ W₂ᵀ M Mᵀ")
    algebra = Algebra()
    algebra.transposes((w1, w1t), (w2, w2t), (m, mt))
    v1, v2 = w2t * m, m * w1t
    drift = algebra.transpose(v2) * w2 + w2t * v2 - v1 * w1t - w1 * algebra.transpose(v1)
    d.prove(
        "Along v = (W₂ᵀM, MW₁ᵀ), in range Jᵀ, C does not move (C4): c is a bound for all times",
        drift,
        0,
        algebra.reduce,
        formula=r"\frac{d}{dt}(W_2^{\top} W_2 - W_1 W_1^{\top}) = 0",
    )


def _length(d: Derivation) -> None:
    j, jt, k, e, et = operators("J Jᵀ K e eᵀ")
    algebra = Algebra()
    algebra.transposes((j, jt), (e, et))
    algebra.symmetric(k)
    algebra.rule(k * j * jt, 1)
    algebra.rule(j * jt * k, 1)
    v = jt * k * e
    d.define("While JJᵀ ≥ c > 0, with K = (JJᵀ)⁻¹, the minimum-norm velocity is v = JᵀKe, e = vec(W* − W)")
    d.prove("It moves W along its error: E(t) = E(0)e^{−t}, C1", j * v, e, algebra.reduce)
    d.prove(
        "and has the length ‖v‖² = eᵀKe ≤ ‖e‖²/c",
        algebra.transpose(v) * v,
        et * k * e,
        algebra.reduce,
    )
    c, start, t = sp.symbols("c E_0 t", positive=True)
    speed = start * sp.exp(-t) / sp.sqrt(c)
    d.prove(
        "Integrated over time: parameters stay within a ball in which JJᵀ ≥ c, where v is smooth, so the flow exists "
        "for all times",
        sp.integrate(speed, (t, 0, sp.oo)),
        start / sp.sqrt(c),
        formula=r"\|\theta(\infty) - \theta(0)\| \leq \int_0^\infty \|v\| dt \leq \|E(0)\| / \sqrt{c}",
    )


def _generic(d: Derivation) -> None:
    first, second = integers(5, 2, 3), integers(2, 5, 4)
    c = imbalance(first, first.T, second, second.T)
    both = second.T.row_join(first)
    signs = sp.diag(1, 1, -1, -1)
    d.prove(
        "C is a congruence of diag(I, −I) by [W₂ᵀ W₁] (here 2-5-2)",
        c,
        both * signs * both.T,
        formula=r"C = [W_2^{\top}\ W_1] \mathrm{diag}(I, -I) [W_2^{\top}\ W_1]^{\top}",
    )
    positive, negative = _signs(c)
    d.check(
        "so that for independent columns, generic once n_1 ≥ n_0 + n_2, it has exactly n_2 positive and n_0 negative "
        "eigenvalues (Sylvester): c > 0",
        both.rank() == 4 and (positive, negative) == (2, 2),
    )


def _signs(matrix: sp.Matrix) -> tuple[int, int]:
    """Return the numbers of positive and negative eigenvalues, by Descartes' rule on the (real-rooted) polynomial."""
    x = sp.Symbol("x")
    coefficients = [a for a in sp.Poly(matrix.charpoly(x).as_expr(), x).all_coeffs() if a != 0]
    mirrored = [a for a in sp.Poly(matrix.charpoly(x).as_expr().subs(x, -x), x).all_coeffs() if a != 0]
    return _changes(coefficients), _changes(mirrored)


def _changes(coefficients: Sequence[Any]) -> int:
    return sum(1 for a, b in pairwise(coefficients) if a * b < 0)


def _scalars(d: Derivation) -> None:
    a, b = sp.symbols("w_1 w_2", real=True)
    d.prove(
        "Scalar layers: JJᵀ = w₁² + w₂² is c where W = w₁w₂ = 0, c = |w₂² − w₁²|: sharp, and no obstacle at W = 0",
        (a**2 + b**2) ** 2,
        (b**2 - a**2) ** 2 + 4 * (a * b) ** 2,
        formula=r"(J J^{\top})^2 = c^2 + 4 W^2",
    )
    w = sp.Symbol("w", positive=True)
    d.prove(
        "Balanced scalar layers, w₁ = w₂ = w, c = 0: JJᵀ = 2W vanishes with W, and ‖v‖² = E²/(2W) without bound",
        (a**2 + b**2).subs({a: w, b: w}),
        2 * (a * b).subs({a: w, b: w}),
    )


def _instances(d: Derivation) -> None:
    first, second = sp.Matrix([[0], [1], [0]]), sp.Matrix([[2, 0, 0]])
    j = jacobian([first, second])
    d.check(
        "Sharp: W₁ = (0, 1, 0)ᵀ, W₂ = (2, 0, 0) have C = diag(4, −1, 0), c = 4 + 1, and JJᵀ = 5 with W = 0",
        (j * j.T)[0] == 5
        and imbalance(first, first.T, second, second.T) == sp.diag(4, -1, 0)
        and (second * first)[0] == 0,
    )
    first, second = integers(5, 2, 3), integers(2, 5, 4)
    j = jacobian([first, second])
    form = kron(sp.eye(2), second * second.T) + kron(first.T * first, sp.eye(2))
    d.check("Exact, 2-5-2: JJᵀ is the sum of Kronecker products", j * j.T == form)
    least = sp.Rational(bound_of(first, second)).limit_denominator(1000) - sp.Rational(1, 500)
    shifted = form - least * sp.eye(4)
    minors = [shifted[:n, :n].det() for n in range(1, 5)]
    d.check(
        "  JJᵀ − c is positive definite (leading minors, c rounded down to a rational)",
        least > 0 and all(minor > 0 for minor in minors),
        sp.Eq(sp.Symbol("c"), sp.N(least, 4), evaluate=False),
    )
    top = sp.Rational(
        float(max(np.linalg.eigvalsh(_floats(imbalance(first, first.T, second, second.T)))))
    ).limit_denominator(10)
    shifted = form - 2 * top * sp.eye(4)
    d.check(
        "  twice the largest eigenvalue of C in place of c is no bound",
        any(shifted[:n, :n].det() <= 0 for n in range(1, 5)),
    )


def bound_of(first: sp.Matrix, second: sp.Matrix) -> float:
    """Return c of two exact layers as a float."""
    return float(functions()["imbalance_bound"]([_floats(first), _floats(second)]))


def _floats(matrix: sp.Matrix) -> Array:
    return np.array(matrix.tolist(), dtype=float)
