"""What does whitening every layer's inputs do to a gradient step? Statement O3 (Desjardins et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, operators

STATEMENTS = ("O3",)

Array = NDArray[Any]


def derive() -> tuple[Derivation, ...]:
    """Derive O3."""
    d = Derivation("O3", "A step in white coordinates is the input half of K-FAC", "Desjardins et al. (2015)")
    _function(d)
    _step(d)
    _scale(d)
    _block(d)
    _elimination(d)
    _mirror(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    white_step(weight_gradient, bias_gradient, centre, covariance, epsilon, scale)
        (D_W, D_b): minus these times the step size is what one gradient step in (V, d) does to W and b; scale is r.
    """

    def white_step(
        weight_gradient: Array,
        bias_gradient: Array,
        centre: Array,
        covariance: Array,
        epsilon: float,
        scale: Array,
    ) -> tuple[Array, Array]:
        damped = covariance + epsilon * np.eye(len(centre))
        centred = weight_gradient - np.outer(bias_gradient, centre)
        weights = scale[:, None] ** 2 * np.linalg.solve(damped, centred.T).T
        return weights, scale**2 * bias_gradient - weights @ centre

    return {"white_step": white_step}


def _function(d: Derivation) -> None:
    w, k, u, h, c, b = operators("W K U h c b")
    algebra = Algebra()
    algebra.rule(k * u, 1)
    d.define(
        "A layer z = W h + b, rewritten as z = V U (h − c) + d with V = W U⁻¹, d = b + W c; K stands for U⁻¹"
    )
    v, shift = w * k, b + w * c
    d.prove("The function is the same", v * u * (h - c) + shift, w * h + b, algebra.reduce)


def _step(d: Derivation) -> None:
    u, ut, g, s, c, ct, m = operators("U Uᵀ G s c cᵀ M")
    algebra = Algebra()
    algebra.transposes((u, ut), (c, ct))
    algebra.rule(ut * u, m)
    eta = sp.Symbol("eta", positive=True)
    d.define(
        "U = (Cov h + ε)^{−1/2} up to a rotation: UᵀU = M = (Cov h + ε)⁻¹. G and s: gradients in W and b at fixed h. "
        "In (V, d) the entering signal is U(h − c), so that the gradients are (G − s cᵀ)Uᵀ and s"
    )
    change = -eta * (g - s * ct) * ut * u
    d.prove("One step moves W = V U by", change, -eta * (g - s * ct) * m, algebra.reduce)
    d.prove(
        "and b = d − W c by −η s minus ΔW c",
        -eta * s - change * c,
        -eta * s + eta * (g - s * ct) * m * c,
        algebra.reduce,
    )


def _scale(d: Derivation) -> None:
    u, ut, g, s, c, ct, m, r = operators("U Uᵀ G s c cᵀ M R")
    algebra = Algebra()
    algebra.transposes((u, ut), (c, ct))
    algebra.symmetric(r)
    algebra.rule(ut * u, m)
    eta = sp.Symbol("eta", positive=True)
    d.define(
        "PRONG⁺: z = R(V U(h − c) + d), R = diag(r), so that W = R V U and b = R d − W c, and the gradients in (V, d) "
        "are R(G − s cᵀ)Uᵀ and R s"
    )
    change = r * (-eta * r * (g - s * ct) * ut) * u
    d.prove("One step moves W by", change, -eta * r * r * (g - s * ct) * m, algebra.reduce)
    d.prove(
        "and b by −η R² s minus ΔW c",
        r * (-eta * r * s) - change * c,
        -eta * r * r * s + eta * r * r * (g - s * ct) * m * c,
        algebra.reduce,
    )
    variance = sp.Symbol("v", positive=True)
    d.prove(
        "Batch normalisation's scale, r² = Var z: what is scaled has variance one",
        variance / sp.sqrt(variance) ** 2,
        1,
        formula=r"\mathrm{Var}(z_a / r_a) = 1",
    )


def _block(d: Derivation) -> None:
    u, ut, k, kt = operators("U Uᵀ K Kᵀ")
    algebra = Algebra()
    algebra.transposes((u, ut), (k, kt))
    algebra.rule(u * k, 1)
    algebra.rule(kt * ut, 1)
    d.prove(
        "ε = 0, Cov h = K Kᵀ with K = U⁻¹: what enters has covariance one, so that where signals and errors are "
        "independent the layer's block is 1 ⊗ G: the input half of its condition is gone, the output half stays",
        u * (k * kt) * ut,
        1,
        algebra.reduce,
        formula=r"U \mathrm{Cov}(h)\, U^{\top} = I",
    )


def _elimination(d: Derivation) -> None:
    n = 2
    cov = sp.Matrix(n, n, lambda i, j: sp.Symbol(f"k_{min(i, j) + 1}{max(i, j) + 1}", real=True))
    centre = sp.Matrix(sp.symbols("c_1:3", real=True))
    gradient = sp.Matrix([sp.symbols("g_1:3", real=True)])
    bias = sp.Symbol("s", real=True)
    moment = sp.BlockMatrix([[cov + centre * centre.T, centre], [centre.T, sp.ones(1, 1)]]).as_explicit()
    adjugate = cov.adjugate() / cov.det()
    weights = (gradient - bias * centre.T) * adjugate
    offset = bias - (weights * centre)[0]
    found = sp.Matrix([[*weights, offset]]) * moment
    wanted = sp.Matrix([[*gradient, bias]])
    d.prove(
        "ε = 0, A = E[h̃h̃ᵀ], h̃ = (h, 1): the solution with K-FAC's input factor, the bias eliminated by "
        "centring (X10). Two inputs, any covariance",
        found,
        wanted,
        lambda m: m.applyfunc(sp.simplify),
        formula=r"[D_W\ D_b]\, A = [G\ s]",
    )


def _mirror(d: Derivation) -> None:
    r, k, g = operators("R K g")
    algebra = Algebra()
    algebra.symmetric(r, k)
    algebra.rule(r * k, 1)
    algebra.rule(k * r, 1)
    d.define(
        "Frozen F = R², R symmetric, K = R⁻¹: in the dual coordinates Rω of the potential ½ ωᵀRω the gradient is K g"
    )
    d.prove(
        "A gradient step there is a natural gradient step, R F⁻¹ g = K g",
        r * (k * k * g),
        k * g,
        algebra.reduce,
    )
    x, f = sp.symbols("omega f", positive=True)
    moved = sp.Symbol("eta", positive=True)
    d.prove(
        "One parameter, any frozen curvature f: ω√f − η g/√f is √f times ω − η g/f",
        sp.sqrt(f) * x - moved * sp.Symbol("g") / sp.sqrt(f),
        sp.sqrt(f) * (x - moved * sp.Symbol("g") / f),
    )
