"""How far is natural gradient from being independent of the parametrisation?

Statement C10. The flow of the population metric moves the function in one way in all coordinates and, with (J), at all
depths. A finite step parts them by a multiple of η², damping by one of λ, minibatches by η²/b in the mean; the
empirical Fisher is a tensor as well, and parts them only where it has null directions in function space, with fewer
than n_L n_0 samples. Leading coefficients are derived. New, except for the first sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product as tuples
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, families, integers, inverse, operators, pinv

STATEMENTS = ("C10",)

Array = NDArray[Any]


def pairs_share(depth: Any) -> Any:
    """Return (L−1)/(2L): L(L−1)/2 pairs of layers, each with 1/L²."""
    return (depth - 1) / (2 * depth)


def noisy_part(m: Any, e: Any, s: Any, sigma: Any, s_inverse: Any) -> Any:
    """Return (Σ + ESEᵀ)MᵀS⁻¹ + tr(ME)E."""
    trace = np.trace(m @ e) if isinstance(m, np.ndarray) else (m * e).trace()
    return (sigma + e @ s @ e.T) @ m.T @ s_inverse + trace * e


def derive() -> tuple[Derivation, ...]:
    """Derive C10."""
    d = Derivation("C10", "Invariance under reparametrisation, and where it is lost", "DWM; new")
    _pulled_back(d)
    _depths(d)
    _second_order(d)
    _accumulated(d)
    _coordinates(d)
    _damping(d)
    _minibatches(d)
    _empirical(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    depth_deviation(weight, teacher, depth, other)
        ½ (1/other − 1/depth) E W⁻¹ E.
    depth_drift(start, teacher, time, depth, other)
        ½ (1/other − 1/depth) E(t) log(W(0)⁻¹W(t)), by eigenvectors.
    minibatch_deviation(weight, teacher, input_cov, noise_cov, batch, depth, other)
        The mean over minibatches.
    damping_deviation(weights, teacher)
        (JJᵀ)⁻¹ applied to W* − W for white inputs and noise.
    """

    def share(depth: int, other: int) -> float:
        return float(pairs_share(sp.Integer(depth)) - pairs_share(sp.Integer(other)))

    def depth_deviation(weight: Array, teacher: Array, depth: int, other: int) -> Array:
        error = teacher - weight
        return np.asarray(share(depth, other) * error @ np.linalg.solve(weight, error))

    def depth_drift(start: Array, teacher: Array, time: float, depth: int, other: int) -> Array:
        error = teacher - start
        values, vectors = np.linalg.eig(np.linalg.solve(start, error))
        logs = np.log(1 - np.expm1(-time) * values.astype(complex))
        log = np.linalg.solve(vectors.T, (vectors * logs).T).T.real
        return np.asarray(share(depth, other) * np.exp(-time) * error @ log)

    def minibatch_deviation(
        weight: Array, teacher: Array, input_cov: Array, noise_cov: Array, batch: int, depth: int, other: int
    ) -> Array:
        error, m = teacher - weight, np.linalg.inv(weight)
        spread = noisy_part(m, error, input_cov, noise_cov, np.linalg.inv(input_cov))
        return np.asarray(share(depth, other) * (error @ m @ error + spread / batch))

    def damping_deviation(weights: list[Array], teacher: Array) -> Array:
        before, after = [np.eye(weights[0].shape[1])], [np.eye(len(weights[-1]))]
        for below, above in zip(weights, weights[::-1], strict=True):
            before.append(below @ before[-1])
            after.append(after[-1] @ above)
        gram = sum(np.kron(a.T @ a, b @ b.T) for a, b in zip(before[:-1], after[-2::-1], strict=True))
        error = teacher - before[-1]
        return np.linalg.solve(gram, error.flatten(order="F")).reshape(error.shape, order="F")

    return {
        "depth_deviation": depth_deviation,
        "depth_drift": depth_drift,
        "minibatch_deviation": minibatch_deviation,
        "damping_deviation": damping_deviation,
    }


def _pulled_back(d: Derivation) -> None:
    f, h, ht, back, w, g, j = operators("F H Hᵀ H⁻ᵀ w g J")
    algebra = Algebra()
    algebra.rule(back * ht, 1)
    d.define(
        "Other coordinates θ = h(ξ), H = h' invertible: J becomes JH, F = JᵀMJ (M any metric of the function, the "
        "population's or another) becomes HᵀFH, the gradient Hᵀg",
        r"H^{\top} F H w = H^{\top} g",
    )
    d.prove(
        "so that Hw solves F(Hw) = g",
        back * (ht * f * h * w - ht * g),
        f * h * w - g,
        algebra.reduce,
    )
    jt, n, x, xt = operators("Jᵀ M x xᵀ")
    kernel = Algebra()
    kernel.rule(jt * n * j * x, 0)
    d.prove(
        "Two solutions differ by x with Fx = 0, and M > 0: (Jx)ᵀM(Jx) = xᵀFx = 0, Jx = 0: the function moves alike, in "
        "every gauge, for any widths",
        (xt * jt) * n * (j * x),
        0,
        kernel.reduce,
        formula=r"J_\xi w = J H w = J v",
    )


def _depths(d: Derivation) -> None:
    j, jt, k, e, v = operators("J Jᵀ K e v")
    algebra = Algebra()
    algebra.rule(k * j * jt, 1)
    d.prove(
        "Other depths: where J is onto (J), K = (JJᵀ)⁻¹, every solution of JᵀJv = Jᵀe has Jv = e, whatever J",
        k * j * (jt * j * v - jt * e),
        j * v - e,
        algebra.reduce,
        formula=r"dW/dt = W^{*} - W",
    )


def _second_order(d: Derivation) -> None:
    eta = sp.Symbol("eta")
    for depth in (2, 3, 4):
        w, v = (operators(" ".join(f"{s}_{i}" for i in range(1, depth + 1))) for s in "WV")
        whole = sp.expand(sp.Mul(*[a + eta * b for a, b in zip(w[::-1], v[::-1], strict=True)]))
        pairs = sum(
            sp.Mul(*[v[k] if k in (i, j) else w[k] for k in reversed(range(depth))])
            for j in range(depth)
            for i in range(j)
        )
        d.prove(
            f"One step of η, L = {depth}: the coefficient of η² is the sum over pairs of layers",
            whole.coeff(eta, 2),
            pairs,
            sp.expand,
            formula=r"D(v) = \sum_{i<j} B_j v_j (W_{j-1} \cdots W_{i+1}) v_i A_i",
        )
    (b, bi, a, ai), (w, wi, e, x) = families("B B⁻¹ A A⁻¹"), operators("W_j W_j⁻¹ E W⁻¹")
    depth = sp.Symbol("L", positive=True)
    algebra = Algebra()
    for one, other in ((b, bi), (a, ai)):
        algebra.inverse(one, other)
    algebra.rule(ai(2) * wi * bi(2), x)
    later, middle, earlier = bi(2) * e * ai(2) / depth, wi * bi(2) * b(1), bi(1) * e * ai(1) / depth
    d.prove(
        "Square layers, layerwise gauge v_i = B_i⁻¹EA_i⁻¹/L, between them (B_jW_j)⁻¹B_i: each pair gives EW⁻¹E/L²",
        b(2) * later * middle * earlier * a(1),
        e * x * e / depth**2,
        algebra.reduce,
    )
    d.prove(
        "and all L(L−1)/2 of them (L−1)/(2L) EW⁻¹E",
        depth * (depth - 1) / 2 / depth**2,
        pairs_share(depth),
        formula=r"W^{+} = W + \eta E + \eta^2 \frac{L-1}{2L} E W^{-1} E + O(\eta^3)",
    )
    other = sp.Symbol("M", positive=True)
    d.prove(
        "Two depths are parted by ½(1/M − 1/L) EW⁻¹E",
        pairs_share(depth) - pairs_share(other),
        (1 / other - 1 / depth) / 2,
    )


def _accumulated(d: Derivation) -> None:
    t, e0, start, c = sp.symbols("t e_0 w_0 c", positive=True)
    goal = start + e0

    def weight(time: Any) -> Any:
        return goal - e0 * sp.exp(-time)

    d.define(
        "t/η steps: the leading deviation δ·η of two depths is carried by the flow, dW/dt = W* − W, and fed by each "
        "step; all matrices are E(0) times functions of W(0)⁻¹E(0), so scalars decide",
        r"\frac{d\delta}{dt} = -\delta + c\, E W^{-1} E, \quad c = \frac{1}{2}(1/M - 1/L)",
    )
    drift = c * e0 * sp.exp(-t) * sp.log(weight(t) / start)
    error = e0 * sp.exp(-t)
    d.prove(
        "Its solution is c E(t) log(W(0)⁻¹W(t))",
        sp.diff(drift, t),
        -drift + c * error**2 / weight(t),
        formula=r"\delta(t) = c\, E(t) \log(W(0)^{-1} W(t))",
    )
    d.prove("with δ(0) = 0", sp.simplify(drift.subs(t, 0)), 0)


def _coordinates(d: Derivation) -> None:
    xi, eta, v = sp.symbols("xi eta v", real=True)
    d.define("A weight θ = h(ξ) moves with ξ by w = v/h', so that its first order is ηv")
    for name, h, bend in (
        ("sinh", sp.sinh(xi), sp.sinh(xi) / (1 + sp.sinh(xi) ** 2)),
        ("exp", sp.exp(xi), sp.exp(-xi)),
        ("a cubic", xi + xi**3, 6 * xi / (1 + 3 * xi**2) ** 2),
    ):
        moved = h.subs(xi, xi + eta * v / sp.diff(h, xi))
        second = sp.diff(moved, eta, 2).subs(eta, 0) / 2
        d.prove(
            f"{name}: the coefficient of η² is ½ (h''/h'²) v²",
            sp.simplify((second - bend * v**2 / 2).rewrite(sp.exp)),
            0,
            formula=r"\theta^{+} = \theta + \eta v + \frac{1}{2} \eta^2 (h''/h'^2) v^2 + O(\eta^3)",
        )


def _damping(d: Derivation) -> None:
    k, lam = sp.symbols("k lambda", positive=True)
    d.prove(
        "Damping: J(JᵀJ + λ)⁻¹Jᵀ = JJᵀ(JJᵀ + λ)⁻¹ has k/(k + λ) for each eigenvalue k of JJᵀ, which depends on the "
        "parametrisation",
        sp.series(k / (k + lam), lam, 0, 2).removeO(),
        1 - lam / k,
        formula=r"dW = E - \lambda (J J^{\top})^{-1} E + O(\lambda^2)",
    )


def _minibatches(d: Derivation) -> None:
    b = sp.Symbol("b", positive=True)
    mean, one = sp.symbols("m q")
    d.define(
        "Minibatch of b, metric of the population: W moves first along R = mean of r = (Ex + ν)xᵀS⁻¹, the same in all "
        "parametrisations, E[R] = E, and then by η² D, a quadratic form R M R, M = W⁻¹"
    )
    d.prove(
        "b equal and b(b−1) different pairs of samples: m = EME, q = E[rMr]",
        (b * one + b * (b - 1) * mean) / b**2,
        mean + (one - mean) / b,
        formula=r"\mathbb{E}[R M R] = E M E + \frac{1}{b}(\mathbb{E}[r M r] - E M E)",
    )
    s, sigma = sp.Matrix([[2, 1], [1, 3]]), sp.Matrix([[3, -1], [-1, 1]])
    e, m = integers(2, 2, 3), integers(2, 2, 8)
    si = inverse(s)

    def fourth(i: int, j: int, k: int, h: int) -> Any:
        return s[i, j] * s[k, h] + s[i, k] * s[j, h] + s[i, h] * s[j, k]

    signal, noise = sp.zeros(2), sp.zeros(2)
    n = si * m * e
    for p, q in tuples(range(2), range(2)):
        wick = sum(
            e[p, a] * n[k, h] * fourth(a, k, h, c) * si[c, q] for a, k, h, c in tuples(range(2), repeat=4)
        )
        signal[p, q] = wick
        noise[p, q] = sum(
            sigma[p, a] * (si * m)[k, a] * s[k, c] * si[c, q] for a, k, c in tuples(range(2), repeat=3)
        )
    d.check(
        "Gaussian x and ν, by Isserlis' theorem entry by entry (2 × 2, exact)",
        signal + noise - e * m * e == noisy_part(m, e, s, sigma, si),
        r"\mathbb{E}[r M r] - E M E = (\Sigma + E S E^{\top}) M^{\top} S^{-1} + \mathrm{tr}(M E) E",
    )
    d.check(
        "At the optimum E = 0 the part Σ W⁻ᵀS⁻¹/b is left: per step η²/b, so of order η over a fixed time",
        noisy_part(m, sp.zeros(2), s, sigma, si) == sigma * m.T * si,
    )


def _empirical(d: Derivation) -> None:
    d.define(
        "The empirical Fisher is JᵀMJ with M = mean of vec(Πrxᵀ)vec(Πrxᵀ)ᵀ over the data's own residuals r: a tensor, "
        "to which the first steps apply where M > 0, so with n_L n_0 samples or more. With N fewer its rank is N"
    )
    x = sp.Matrix([[1, 2], [2, -1], [1, 1]])
    y = sp.Matrix([3, 1, -1])
    change = sp.diag(1, 3)
    outcomes = []
    for count in (1, 3):
        rows, r = x[:count, :], y[:count, :]
        gradients = sp.Matrix.hstack(*(rows[i, :].T * r[i] for i in range(count)))
        g = gradients * sp.ones(count, 1)
        plain = pinv(gradients * gradients.T) * g
        pulled = change * pinv(change * gradients * gradients.T * change) * change * g
        outcomes.append(plain == pulled)
    d.check(
        "Exact, one layer 2-1, θ = Hξ, minimum norm: one sample gives two directions, three samples one",
        outcomes == [False, True],
    )
    rows = x[:2, :]
    fisher = rows.T * rows
    g = rows.T * y[:2, :]
    d.check(
        "  the true Fisher needs n_0 = 2 inputs only",
        pinv(fisher) * g == change * pinv(change * fisher * change) * change * g,
    )
