"""Why is natural gradient flow a straight line of the means, for every exponential family and every depth?

Statement C7. Targets with density exp(⟨z, T(y)⟩ − A(z)), z = wᵀx, and the Fisher matrix of the training inputs under
the model's own targets. The Fisher matrix is the Hessian H of the loss in w, pulled back to the parameters by D =
∂w/∂θ; if D is onto, D may be cancelled: H dw/dt = −G, and since dG/dt = H dw/dt, G(t) = e^{−t}G(0). Classical for one
layer (an m-geodesic, Amari 1998), observed in deep networks by Kerekes, Mészáros and Huszár (2021); the deep corollary,
the closed forms of margins and class probabilities are new.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, integers, operators, pinv
from derivations._families import FAMILIES, Z, damped_newton, means_and_variances, partition
from derivations._layers import jacobian

STATEMENTS = ("C7",)

Array = NDArray[Any]

T = sp.Symbol("t", positive=True)


def mean_at(time: Any, start: Any, target: Any) -> Any:
    """Return the mean of a sample at this time."""
    return target + sp.exp(-time) * (start - target)


def margin_at(time: Any, start: Any) -> Any:
    """Return the margin of a sample with a hard label at this time."""
    return sp.log((1 + sp.exp(start)) * sp.exp(time) - 1)


def derive() -> tuple[Derivation, ...]:
    """Derive C7."""
    d = Derivation(
        "C7", "Natural flow is Newton flow of the function", "Amari 1998; Kerekes et al. 2021; depth new"
    )
    partition(d)
    means_and_variances(d)
    _cancel(d)
    _chain_rule(d)
    _law(d)
    _tilted(d)
    _independent(d)
    _hard_labels(d)
    _classes(d)
    _other_links(d)
    damped_newton(d)
    _instances(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    mean_parameters(times, initial, targets)
        (T, N).
    margins(times, initial)
        (T, N).
    tilted_gradient(family, predictor, time, x, y, initial)
        Gradient of the tilted loss in w, (d,), zero at w(t); scalar families by name.
    softmax_tilted_gradient(predictor, time, x, y, initial)
        The same for classes, (d, C).
    """
    start, target = sp.symbols("mu_0 y", real=True)
    mean = sp.lambdify((T, start, target), mean_at(T, start, target), "numpy")
    margin = sp.lambdify((T, start), margin_at(T, start), "numpy")
    means = {name: sp.lambdify(Z, sp.diff(a, Z), "numpy") for name, a in FAMILIES.items()}

    def tilted_gradient(family: str, w: Array, time: float, x: Array, y: Array, initial: Array) -> Array:
        g, g_0 = (x.T @ (means[family](x @ v) - y) / len(x) for v in (w, initial))
        return np.asarray(g - np.exp(-time) * g_0)

    def softmax_tilted_gradient(w: Array, time: float, x: Array, y: Array, initial: Array) -> Array:
        def gradient(v: Array) -> Array:
            odds = np.exp(x @ v)
            return np.asarray(x.T @ (odds / odds.sum(axis=1, keepdims=True) - y) / len(x))

        return np.asarray(gradient(w) - np.exp(-time) * gradient(initial))

    return {
        "mean_parameters": lambda t, a, b: mean(np.asarray(t)[:, None], np.asarray(a), np.asarray(b)),
        "margins": lambda t, a: margin(np.asarray(t)[:, None], np.asarray(a)),
        "tilted_gradient": tilted_gradient,
        "softmax_tilted_gradient": softmax_tilted_gradient,
    }


def _cancel(d: Derivation) -> None:
    dw, dt, left, p, h, g, v = operators("D Dᵀ K P H G v")
    algebra = Algebra()
    algebra.rule(left * dt * p, p)
    algebra.rule(p * h, h)
    algebra.rule(p * g, g)
    d.define(
        "w(θ) is the predictor that the layers multiply out to, D = ∂ vec w/∂θ, G = ∂ℓ/∂ vec w, H = ∂²ℓ/∂(vec w)². By "
        "the chain rule ∇ℓ = DᵀG and F = DᵀHD; v is any solution of F v = −∇ℓ, in any gauge. P projects on the range "
        "of H: PH = H, PG = G. It leaves out the inputs outside of the row space of X and the gauge of softmax"
    )
    d.prove(
        "While PD is onto the range of P, KDᵀP = P for some K, and Dᵀ cancels: no depth, no width, no gauge is left",
        left * (dt * p * (h * dw * v) + dt * p * g),
        h * dw * v + g,
        algebra.reduce,
        formula=r"D^{\top} H D v = -D^{\top} G \Rightarrow H \, dw/dt = -G",
    )
    d.define(
        "That is (J), modulo the null space of H: generic weights have it if all hidden widths are at least min(d, C), "
        "for softmax min(d, C − 1)"
    )


def _chain_rule(d: Derivation) -> None:
    a = sp.Function("A")
    x = sp.Matrix(3, 2, sp.symbols("x_1:7", real=True))
    y = sp.Matrix(sp.symbols("y_1:4", real=True))
    w = sp.Matrix([sp.Function(f"w_{k}")(T) for k in (1, 2)])
    z = x * w

    def derivative(value: Any, order: int) -> Any:
        return sp.Subs(sp.diff(a(Z), Z, order), Z, value).doit()

    g = x.T * sp.Matrix([derivative(b, 1) - c for b, c in zip(z, y, strict=True)]) / 3
    h = x.T * sp.diag(*(derivative(b, 2) for b in z)) * x / 3
    d.prove(
        "For any A, any path w(t): the gradient changes by the Hessian, which is Xᵀ diag A'' X, the Fisher matrix "
        "(N = 3, d = 2, one output)",
        g.diff(T),
        h * w.diff(T),
        formula=r"\frac{d}{dt} X^{\top}(\mu - y) = X^{\top} \mathrm{diag} A'' X \, dw/dt",
    )
    one, two = sp.symbols("z_1 z_2", real=True)
    powers = [(i, j) for i in range(4) for j in range(4 - i)]
    general = sum(sp.Symbol(f"a_{i}{j}") * one**i * two**j for i, j in powers)
    path = {one: sp.Function("z_1")(T), two: sp.Function("z_2")(T)}
    mu = sp.Matrix([general.diff(b) for b in path]).subs(path)
    d.prove(
        "and with several outputs dμ = ∇²A dz, sample by sample (two outputs; A to third order, arbitrary, which is "
        "all that the chain rule sees)",
        mu.diff(T),
        sp.hessian(general, list(path)).subs(path) * sp.Matrix(list(path.values())).diff(T),
        formula=r"d\mu/dt = \nabla^2 A(z) \, dz/dt",
    )


def _law(d: Derivation) -> None:
    g, g0 = sp.Function("G"), sp.Symbol("G_0", real=True)
    solution = sp.dsolve(sp.Eq(g(T).diff(T), -g(T)), g(T), ics={g(0): g0})
    d.prove(
        "Together dG/dt = H dw/dt = −G: the gradient law",
        solution.rhs,
        g0 * sp.exp(-T),
        formula=r"X^{\top}(\mu(t) - y) = e^{-t} X^{\top}(\mu(0) - y)",
    )


def _tilted(d: Derivation) -> None:
    a = sp.Function("A")
    z, start, y, mu = (sp.Matrix(sp.symbols(f"{name}_1:3", real=True)) for name in ("z", "z0", "y", "mu"))
    keep = 1 - sp.exp(-T)

    def loss(targets: sp.Matrix) -> Any:
        return sum(a(b) - b * c for b, c in zip(z, targets, strict=True))

    tilted = loss(y) - sp.exp(-T) * sum(b * (m - c) for b, c, m in zip(z, y, mu, strict=True))
    d.prove(
        "w(t) is the stationary point of the tilted loss, which is the loss with moved targets τ (two samples, "
        "z_n = x_n·w)",
        tilted,
        loss(sp.Matrix([mean_at(T, m, c) for m, c in zip(mu, y, strict=True)])),
        formula=r"\ell(w) - e^{-t} \langle G_0, w \rangle = \sum_n A(z_n) - \tau_n z_n,"
        r"\quad \tau = y + e^{-t}(\mu(0) - y)",
    )
    divergence = sum(a(b) - a(c) - (b - c) * m for b, c, m in zip(z, start, mu, strict=True))
    d.prove(
        "or, up to a constant, of a mixture of the loss and of the divergence KL(p_{w(0)} ‖ p_w) from the start",
        tilted - keep * loss(y) - sp.exp(-T) * divergence,
        sp.exp(-T) * sum(a(c) - c * m for c, m in zip(start, mu, strict=True)),
        formula=r"(1 - e^{-t}) \, \ell(w) + e^{-t} \, \mathrm{KL}(p_{w(0)} \| p_w)",
    )
    d.define(
        "The loss is bounded below and convex, A is strictly convex modulo its gauge, and τ, a mixture with the "
        "interior point μ(0), is in the interior of the means: A(z) − τz → ∞ in every direction modulo the gauge. So "
        "w(t) exists for all t and is unique modulo null(X)"
    )


def _independent(d: Derivation) -> None:
    jt, left, v, velocity, j, y, mu = operators("Jᵀ K V v J y μ")
    algebra = Algebra()
    algebra.rule(left * jt, 1)
    d.define("Any network of which the Jacobian J on the training inputs has full row rank: KJᵀ = 1")
    d.prove(
        "The same cancellation one level higher: V J v = y − μ, sample by sample, and dμ/dt = V dz/dt, V = ∇²A",
        left * (jt * v * j * velocity - jt * (y - mu)),
        v * j * velocity - (y - mu),
        algebra.reduce,
        formula=r"J^{\top} V J v = J^{\top}(y - \mu) \Rightarrow d\mu/dt = y - \mu",
    )
    start, target = sp.symbols("mu_0 y", real=True)
    path = mean_at(T, start, target)
    d.prove(
        "so every mean moves on a straight line",
        path.diff(T),
        target - path,
        formula=sp.Eq(sp.Symbol("mu"), path, evaluate=False),
    )
    d.prove("from its start", path.subs(T, 0), start)


def _hard_labels(d: Derivation) -> None:
    m = sp.Symbol("m_0", real=True)
    path = margin_at(T, m)
    wrong = 1 / (1 + sp.exp(path))
    d.prove(
        "Bernoulli, label y: the wrong label's probability shrinks like e^{−t}, which the margin says as",
        sp.simplify(wrong),
        sp.exp(-T) / (1 + sp.exp(m)),
        formula=sp.Eq(sp.Symbol("m"), path, evaluate=False),
    )
    d.prove("It starts right", sp.simplify(path.subs(T, 0)), m, sp.simplify)
    p = 1 / (1 + sp.exp(-path))
    d.prove("and obeys dm/dt = (1 − p)/(p(1 − p))", sp.simplify(path.diff(T) * p), 1, formula=r"dm/dt = 1/p")
    d.prove(
        "All margins grow like t: m − t → log(1 + e^{m(0)})",
        sp.simplify(sp.limit(sp.exp(path - T), T, sp.oo)),
        1 + sp.exp(m),
    )


def _classes(d: Derivation) -> None:
    p = sp.Matrix(sp.symbols("p_1:4", positive=True))
    unit = sp.Matrix([1, 0, 0])
    path = unit + sp.exp(-T) * (p - unit)
    d.prove(
        "Classes: p(t) = e_y + e^{−t}(p(0) − e_y) obeys dp/dt = e_y − p",
        path.diff(T),
        unit - path,
        formula=r"dp/dt = e_y - p",
    )
    d.prove("stays on the simplex", sum(path).subs(p[0], 1 - p[1] - p[2]), 1)
    d.prove("keeps the proportions of the wrong classes", path[1] / path[2], p[1] / p[2])
    odds = sp.log(path[0] / (1 - path[0]))
    d.prove(
        "and has the margin of the two-class case",
        sp.simplify(sp.exp(odds) - sp.exp(margin_at(T, sp.log(p[0] / (1 - p[0]))))),
        0,
        formula=r"\mathrm{log}(p_y / (1 - p_y)) = \mathrm{log}((1 + e^{m(0)}) e^t - 1)",
    )


def _other_links(d: Derivation) -> None:
    mu, variance = sp.Function("mu")(Z), sp.Function("V")(Z)
    y = sp.Symbol("y", real=True)
    slope = mu.diff(Z) / variance
    d.define(
        "Another link: mean μ(z), variance V(z), the loss has the derivative (μ − y)μ′/V and the Fisher matrix μ′²/V"
    )
    d.prove(
        "Hessian and Fisher matrix differ by residual × (μ′/V)′, which vanishes for all data iff μ′ ∝ V: canonical",
        ((mu - y) * slope).diff(Z) - mu.diff(Z) ** 2 / variance,
        (mu - y) * slope.diff(Z),
        formula=r"\ell'' - F = (\mu - y)(\mu'/V)'",
    )
    p = 1 - sp.exp(-sp.exp(Z))
    bad = (p.diff(Z) / (p * (1 - p))).diff(Z).subs(Z, 0)
    d.check(
        "The complementary log-log link of Bernoulli targets: (μ′/V)′ at z = 0 is not zero",
        bool(sp.N(bad) > 0.1),
        sp.N(bad, 4),
    )


def _instances(d: Derivation) -> None:
    x = integers(4, 2, 3)
    weights = sp.diag(*(sp.Rational(1, k) for k in (4, 5, 7, 9)))
    residual = sp.Matrix([sp.Rational(1, 2), sp.Rational(-1, 3), sp.Rational(1, 5), sp.Rational(-2, 7)])
    h, g = x.T * weights * x, x.T * residual
    for widths in ((2, 1), (2, 2, 1), (2, 1, 1), (2, 3, 2, 1)):
        layers = [integers(m, n, 5 + m + n) for n, m in pairwise(widths)]
        change = jacobian(layers)
        fisher, gradient = change.T * h * change, change.T * g
        v = -pinv(fisher) * gradient
        d.check(
            f"Exact, widths {'-'.join(map(str, widths))}, N = 4: the minimum-norm solution moves w as Newton's does",
            change.rank() == 2 and h * change * v == -g,
        )
    corner = sp.Matrix([[1, 0], [0, 0]])
    left, right = corner[:, :1], corner[:1, :]  # W_2 and W_1
    change = jacobian([right, left])
    gradient = sp.Matrix([0, 0, 0, -1])  # of ½‖W − I‖²
    d.check(
        "Without (J) it fails: W = e₁e₁ᵀ of width one, target I, stays where it is, and its gradient does not shrink",
        change.rank() == 3 and change.T * gradient == sp.zeros(4, 1),
    )
