"""G1: the loss of a deep linear network and its gradient in every layer.

Convention: y | x ~ N(Wx, Σ), Π = Σ⁻¹ = HᵀH, S = E[xxᵀ] = FFᵀ with any factors H and F; ⟨X, Y⟩ = tr XᵀY.
Source: Saxe et al. 2014; Bernacchia et al. 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp

from derivations._core import Algebra, Derivation, evaluate, integers, operators
from derivations._network import AT, BT, Array, E, Example, example, float_symbols, ladder

STATEMENTS = ("G1",)

GRADIENT = -BT(sp.Symbol("i")) * E * AT(sp.Symbol("i"))


def derive() -> tuple[Derivation, ...]:
    """Return the derivation of G1."""
    d = Derivation("G1", "gradient of every layer", "Saxe et al. 2014; Bernacchia et al. 2018")
    _loss(d)
    _variation(d)
    _entries(d)
    _differences(d)
    return (d,)


def _loss(d: Derivation) -> None:
    """Split the expected loss into excess and floor."""
    w, wt, ws, wst, c, ct, cy, pi, s = operators("W Wᵀ W* W*ᵀ C Cᵀ C_yy Π S")
    rules = Algebra()
    rules.transposes((w, wt), (ws, wst), (c, ct))
    rules.symmetric(pi, s, cy)
    d.define(
        "C = E[y xᵀ], S = E[x xᵀ]; the teacher solves W* S = C (any solution, S may be singular)",
        sp.Eq(ws * s, c),
    )
    rules.rule(c, ws * s)
    rules.rule(ct, s * wst)
    half = sp.Rational(1, 2)
    loss = half * pi * (cy - w * ct - c * wt + w * s * wt)
    error, error_t = ws - w, wst - wt
    floor = half * pi * (cy - ws * s * wst)
    d.prove(
        "the expected loss ½ E‖y − Wx‖² in the metric Π is an excess loss plus a floor without W "
        "(under the trace)",
        loss,
        half * pi * error * s * error_t + floor,
        rules.trace,
    )


def _variation(d: Derivation) -> None:
    """Vary one layer: W → W + t B_i D A_i, for general sizes."""
    a, at, b, bt, x, xt, f, ft, h, ht, e, et = operators("A Aᵀ B Bᵀ D Dᵀ F Fᵀ H Hᵀ E Eᵀ")
    rules = Algebra()
    rules.transposes((a, at), (b, bt), (x, xt), (f, ft), (h, ht), (e, et))
    t = sp.Symbol("t", real=True)
    moved = h * (e - t * b * x * a) * f
    loss = sp.expand(moved * rules.transpose(moved) / 2)
    slope = loss.coeff(t, 1)
    d.define(
        "layer i moves by t D: W moves by t B_i D A_i, so Ẽ = HEF moves by −t B̃_i D Ã_i",
        h * e * f - t * h * b * x * a * f,
    )
    d.prove(
        "the slope of ½‖Ẽ‖² at t = 0 is ⟨−B̃_iᵀ Ẽ Ã_iᵀ, D⟩ for every D, which is the gradient (under "
        "the trace)",
        slope,
        -rules.transpose(h * b) * (h * e * f) * rules.transpose(a * f) * xt,
        rules.trace,
    )
    pi, s = operators("Π S")
    rules.rule(ht * h, pi)
    rules.rule(f * ft, s)
    d.prove(
        "in moments: B̃_iᵀ Ẽ Ã_iᵀ = B_iᵀ Π E S A_iᵀ, in which the factors F and H no longer occur",
        rules.transpose(h * b) * h * e * f * rules.transpose(a * f),
        bt * pi * e * s * at,
        rules.reduce,
    )


def _entries(d: Derivation) -> None:
    """Differentiate the loss of a 2-3-2-2 network with respect to every symbolic weight."""
    shapes = ((3, 2), (2, 3), (2, 2))
    weights = tuple(sp.Matrix(r, c, list(sp.symbols(f"w{i}_:{r * c}"))) for i, (r, c) in enumerate(shapes, 1))
    base = example((2, 3, 2, 2), rank_s=1)
    teacher = integers(2, 2, 5)
    total = weights[2] * weights[1] * weights[0]
    ex = Example(weights, base.f, base.h, teacher - total)
    loss = sum(entry**2 for entry in ex.e) / 2
    for i, weight in enumerate(weights):
        formula = -ex.b[i].T * ex.e * ex.a[i].T
        direct = weight.applyfunc(lambda entry: sp.diff(loss, entry))
        d.prove(
            f"layer {i + 1} of a 2-3-2-2 network with singular S: ∂ℓ/∂w, entry by entry, with symbolic "
            f"weights",
            direct,
            formula,
            lambda rest: rest.applyfunc(sp.expand),
            formula=sp.Eq(sp.Symbol("ℓ_W", commutative=False), GRADIENT, evaluate=False),
        )


def _differences(d: Derivation) -> None:
    """The loss is quadratic along one layer, so that central differences are exact at any step."""
    for name, ex in ladder():
        agree = True
        for i, weight in enumerate(ex.weights):
            step = integers(weight.rows, weight.cols, 17 + i)
            moved = ex.b[i] * step * ex.a[i]
            plus, minus = (sum(x**2 for x in ex.e - sign * moved) / 2 for sign in (1, -1))
            slope = sum((-ex.b[i].T * ex.e * ex.a[i].T).multiply_elementwise(step))
            agree = agree and (plus - minus) / 2 == slope
        d.check(f"{name}: exact central differences of the loss in every layer", agree)


def functions() -> dict[str, Callable[..., Any]]:
    """Return "gradient": (weights, error, input_cov, noise_cov) → list of ∂ℓ/∂W_i."""
    return {"gradient": gradient}


def gradient(weights: Sequence[Array], error: Array, input_cov: Array, noise_cov: Array) -> list[Array]:
    """Evaluate −B̃_iᵀ Ẽ Ã_iᵀ in every layer.

    Parameters
    ----------
    weights : sequence of (n_i, n_{i−1}) arrays
    error : (n_L, n_0) array
        W* − W.
    input_cov, noise_cov : square arrays
        S and Σ.

    Returns
    -------
    list of (n_i, n_{i−1}) arrays
    """
    values = float_symbols(weights, error, input_cov, noise_cov)
    return [evaluate(-BT(i) * E * AT(i), values) for i in range(1, len(weights) + 1)]
