"""When should learning from noisy data stop?

Statement X8: natural gradient flow on N samples of y = W*x + noise shrinks least squares uniformly; for Gaussian inputs
the whitened risk is e^{−2t}a + (1 − e^{−t})²b with b = nm/(N − n − 1), least at t* = log(1 + a/b). With biases, for
given inputs, and for N < n. New; the moments of the inverse Wishart law are classical and proved here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp

from derivations._core import Algebra, Derivation, operators, words
from derivations._gaussian import chi2, mean_of, wishart, wishart_mean

STATEMENTS = ("X8",)

T, SIGNAL, VARIANCE, N, M, COUNT = sp.symbols("t a b n m N", positive=True)


def risk(time: Any, first: Any, spread: Any) -> Any:
    """Return e^{−2t} a + (1 − e^{−t})² b."""
    return sp.exp(-2 * time) * first + (1 - sp.exp(-time)) ** 2 * spread


def variance(size: Any, outputs: Any, count: Any) -> Any:
    """Return b = nm/(N − n − 1)."""
    return outputs * size * wishart_mean(size, count)


def affine_variance(size: Any, outputs: Any, count: Any) -> Any:
    """Return b with biases."""
    return outputs * (1 / count + (1 + 1 / count) * size * wishart_mean(size, count - 1))


def derive() -> tuple[Derivation, ...]:
    """Derive X8."""
    d = Derivation("X8", "Learning from noisy data", "new")
    _shrinkage(d)
    _risk(d)
    chi2(d)
    wishart(d)
    _variance(d)
    _stopping(d)
    _biases(d)
    _estimate(d)
    _singular(d)
    _instance(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    risk(t, a, b)
    stopping_time(a, b), stopped_risk(a, b)
    variance(n, m, N), affine_variance(n, m, N)
        b without and with biases.
    fixed_design(x, error, t)
        Risk for given inputs X (N × n), S = Π = I, error W* − W(0), by the exact expectation of a polynomial in the
        noise.
    """

    def fixed_design(x: Any, error: Any, time: float) -> float:
        rows, start = sp.Matrix(x), sp.Matrix(error)
        return float(_fixed(rows, start, sp.nsimplify(np.exp(-time), rational=True)))

    return {
        "risk": sp.lambdify((T, SIGNAL, VARIANCE), risk(T, SIGNAL, VARIANCE), "numpy"),
        "stopping_time": sp.lambdify((SIGNAL, VARIANCE), sp.log(1 + SIGNAL / VARIANCE), "numpy"),
        "stopped_risk": sp.lambdify((SIGNAL, VARIANCE), SIGNAL * VARIANCE / (SIGNAL + VARIANCE), "numpy"),
        "variance": sp.lambdify((N, M, COUNT), variance(N, M, COUNT), "numpy"),
        "affine_variance": sp.lambdify((N, M, COUNT), affine_variance(N, M, COUNT), "numpy"),
        "fixed_design": fixed_design,
    }


def _shrinkage(d: Derivation) -> None:
    w, fitted, s, inverse = operators("W W_o S V")
    algebra = Algebra()
    algebra.rule(s * inverse, 1)
    d.define(
        "On the loss of the data, ½ tr[Π(W_OLS − W)Ŝ(W_OLS − W)ᵀ] + const, the natural gradient has the Fisher of "
        "the same inputs, Ŝ ⊗ Π: of one layer, or of any deep one with (J) (C1)"
    )
    d.prove(
        "For invertible Ŝ the metric cancels: no direction of the data is faster than another",
        (fitted - w) * s * inverse,
        fitted - w,
        algebra.reduce,
        formula=r"\frac{dW}{dt} = (W_{\mathrm{OLS}} - W) \hat S \hat S^{-1} = W_{\mathrm{OLS}} - W",
    )
    one, start, goal = sp.symbols("W W_0 W_o")
    path = start + (1 - sp.exp(-T)) * (goal - start)
    d.prove(
        "so the flow is",
        sp.diff(path, T),
        (goal - one).subs(one, path),
        formula=r"W(t) = W_0 + (1-e^{-t})(W_{\mathrm{OLS}} - W_0)",
    )


def _risk(d: Derivation) -> None:
    e, et, z, zt = operators("E Eᵀ Z Zᵀ")
    left = sp.Symbol("u", positive=True)
    error, error_t = left * e - (1 - left) * z, left * et - (1 - left) * zt
    total = sp.S.Zero
    for word, coefficient in words(error_t * error).items():
        names = tuple(str(factor) for factor in word)
        total += coefficient * {("Eᵀ", "E"): SIGNAL, ("Zᵀ", "Z"): VARIANCE}.get(names, 0)
    d.prove(
        "W_OLS = W* + Z with E[Z | X] = 0: cross terms vanish, a = ‖Ẽ‖², b = E‖Z̃‖², u = e^{−t}",
        total.subs(left, sp.exp(-T)),
        risk(T, SIGNAL, VARIANCE),
        formula=r"W^* - W(t) = e^{-t} E - (1-e^{-t}) Z, \quad \mathrm{risk} = e^{-2t} a + (1-e^{-t})^2 b",
    )


def _variance(d: Derivation) -> None:
    f, ft, x, xt, v = operators("F Fᵀ z zᵀ V")
    algebra = Algebra()
    inverse_f, inverse_ft = operators("F⁻¹ F⁻ᵀ")
    for one, two in ((f, inverse_f), (ft, inverse_ft)):
        algebra.inverse(one, two)
    algebra.rule(v * xt * x, 1)
    gram = f * xt * x * ft
    d.prove(
        "x = Fz: (XᵀX)⁻¹ = F⁻ᵀ V F⁻¹ with V = (ZᵀZ)⁻¹, Z standard Gaussian N × n",
        inverse_ft * v * inverse_f * gram,
        1,
        algebra.reduce,
    )
    d.prove(
        "  and Fᵀ(XᵀX)⁻¹F = V: S drops out",
        ft * (inverse_ft * v * inverse_f) * f,
        v,
        algebra.reduce,
        formula=r"\mathrm{tr}[S (X^{\top}X)^{-1}] = \mathrm{tr} V",
    )
    d.prove(
        "Rows of Z̃ are Π^½Σ^½ε X(XᵀX)⁻¹: b = m E tr V, N > n + 1",
        variance(N, M, COUNT),
        N * M / (COUNT - N - 1),
        formula=r"b = m \, \mathrm{E}\, \mathrm{tr} V = \frac{nm}{N-n-1}",
    )


def _stopping(d: Derivation) -> None:
    best = sp.log(1 + SIGNAL / VARIANCE)
    d.prove(
        "The risk is stationary at t*", sp.simplify(sp.diff(risk(T, SIGNAL, VARIANCE), T).subs(T, best)), 0
    )
    u = sp.Symbol("u", positive=True)
    square = u**2 * SIGNAL + (1 - u) ** 2 * VARIANCE
    d.prove(
        "and nowhere else: in u = e^{−t} it is a parabola",
        sp.expand(square),
        sp.expand(
            (SIGNAL + VARIANCE) * (u - VARIANCE / (SIGNAL + VARIANCE)) ** 2
            + SIGNAL * VARIANCE / (SIGNAL + VARIANCE)
        ),
        sp.cancel,
        formula=r"\mathrm{risk} = (a+b)(u - \frac{b}{a+b})^2 + \frac{ab}{a+b}",
    )
    d.prove(
        "the least risk, below a and below b, at t* = log(1 + a/b)",
        sp.simplify(risk(best, SIGNAL, VARIANCE)),
        SIGNAL * VARIANCE / (SIGNAL + VARIANCE),
        formula=r"t^* = \log(1 + a/b), \quad \frac{ab}{a+b}",
    )
    d.prove(
        "It grows with the signal to noise ratio a/b, without bound: fewer data, earlier stopping",
        sp.diff(best, SIGNAL),
        1 / (SIGNAL + VARIANCE),
        formula=r"dt^*/da = 1/(a+b)",
    )


def _biases(d: Derivation) -> None:
    d.define(
        "With biases, x ~ N(m̄, C): predictions are Ȳ + Z(x − x̄), the mean x̄ independent of the centred rows, "
        "whose Gram matrix has N − 1 degrees of freedom. New x − x̄ has covariance (1 + 1/N) C"
    )
    d.prove(
        "b = m E[1/N + (x − x̄)ᵀ(X_cᵀX_c)⁻¹(x − x̄)], N > n + 2, whatever m̄ and C",
        affine_variance(N, M, COUNT),
        M * (COUNT * (N + 1) - 2) / (COUNT * (COUNT - N - 2)),
        formula=r"b = \frac{m (N(n+1) - 2)}{N (N-n-2)}",
    )
    d.prove(
        "less than n + 1 Gaussian inputs would have, by 2m/(N(N − n − 2))",
        variance(N + 1, M, COUNT) - affine_variance(N, M, COUNT),
        2 * M / (COUNT * (COUNT - N - 2)),
    )


def _estimate(d: Derivation) -> None:
    d.define(
        "Without a: on the data ‖Π^½(W_OLS − W(0))Ŝ^½‖² has the mean a, from E Ŝ = S, plus the noise m tr[ŜŜ⁻¹]/N"
    )
    extra = M * N / COUNT
    d.prove(
        "so it is unbiased after subtraction; m(n+1)/N with biases",
        (SIGNAL + extra) - M * N / COUNT,
        SIGNAL,
        formula=r"\hat a = \|\Pi^{1/2}(W_{\mathrm{OLS}} - W_0)\hat S^{1/2}\|^2 - mn/N",
    )


def _singular(d: Derivation) -> None:
    e, p, z = operators("E P Z")
    algebra = Algebra()
    algebra.symmetric(p)
    algebra.rule(p * p, p)
    algebra.rule(z * p, z)
    d.define(
        "N < n: the flow moves W in the row space of the data alone, P its projector, Z = ZP (minimum norm)"
    )
    d.prove(
        "The part of the error outside of it stays",
        (e * (1 - p) + sp.exp(-T) * e * p - (1 - sp.exp(-T)) * z) * (1 - p),
        e * (1 - p),
        algebra.reduce,
        formula=r"W^* - W(t) = E(I-P) + e^{-t} E P - (1-e^{-t}) Z",
    )
    d.prove(
        "White inputs: P is a random projector of rank N, E P = (N/n) I by rotation, tr E P = N; and (XᵀX)⁺ has the "
        "spectrum of (XXᵀ)⁻¹, an inverse Wishart matrix N × N of n degrees of freedom",
        variance(COUNT, M, N),
        M * COUNT / (N - COUNT - 1),
        formula=r"\mathrm{risk} = a(1-N/n) + e^{-2t} a N/n + (1-e^{-t})^2 \frac{mN}{n-N-1}",
    )
    c, u, f = sp.symbols("c u f", positive=True)
    general = f + 2 * u * c + u**2 * SIGNAL + (1 - u) ** 2 * VARIANCE
    d.prove(
        "Other inputs: E(I−P) S PEᵀ does not vanish, and the answer depends on S. With 2c = its double trace the "
        "risk is least at",
        sp.solve(sp.diff(general, u), u)[0],
        (VARIANCE - c) / (SIGNAL + VARIANCE),
        formula=r"e^{-t^*} = (b - c)/(a + b)",
    )


def _fixed(rows: Any, start: Any, left: Any) -> Any:
    """Return E‖u E − (1 − u) εX(XᵀX)⁻¹‖² over Gaussian noise, term by term."""
    noises = sp.Matrix(start.rows, rows.rows, sp.symbols(f"w0:{start.rows * rows.rows}"))
    spread = noises * rows * (rows.T * rows).inv()
    gap = left * start - (1 - left) * spread
    return mean_of(sp.expand(sum(entry**2 for entry in gap)), list(noises))


def _instance(d: Derivation) -> None:
    rows, start = sp.Matrix([[1, 2], [0, 1], [-1, 1]]), sp.Matrix([[2, -1]])
    u = sp.Symbol("u")
    spread = (rows.T * rows).inv().trace()
    d.prove(
        "Exact instance, N = 3, n = 2, m = 1, given inputs: every monomial of the noise",
        _fixed(rows, start, u),
        sp.expand(u**2 * 5 + (1 - u) ** 2 * spread),
    )
