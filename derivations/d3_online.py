"""What does minibatch noise do to the natural gradient of one layer, exactly?

Statement D3, y = W*x + noise of the model, Gaussian inputs of rank n, m outputs, b fresh samples in each step: the
expected excess loss obeys ℓ⁺ = ℓ[1 − 2η + η²(1 + (n+1)/b)] + η²nm/(2b), whatever S, Σ and W*. Stability, the best
schedule, and the rate of 1/k steps follow. Estimated metrics and plain gradients are in `_online_metrics`, deep
networks in `_online_depth`. New; the asymptotic rate is Amari's (1998).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp

from derivations._core import Derivation, operators, words
from derivations._gaussian import chi2, mean_of, wick, wishart, wishart_mean, wishart_second
from derivations._online_depth import correction, deep, exponent
from derivations._online_metrics import estimated, plain_gradients, plain_step, recursive

STATEMENTS = ("D3",)

N, M, B, ETA, LOSS, K, SHIFT = sp.symbols("n m b eta l k s", positive=True)
A, SIGMA = sp.symbols("a sigma2", positive=True)


def second(size: Any, batch: Any) -> Any:
    """Return β = 1 + (n + 1)/b."""
    return 1 + (size + 1) / batch


def noise(size: Any, outputs: Any, batch: Any) -> Any:
    """Return σ² = nm/(2b)."""
    return size * outputs / (2 * batch)


def step(loss: Any, eta: Any, first: Any, square: Any, rest: Any) -> Any:
    """Return (1 − 2αη + βη²)ℓ + σ²η²."""
    return loss * (1 - 2 * first * eta + square * eta**2) + rest * eta**2


def derive() -> tuple[Derivation, ...]:
    """Derive D3."""
    d = Derivation("D3", "Online natural gradient", "new; Amari 1998 for the asymptotic rate")
    wick(d)
    _law(d)
    _other_inputs(d)
    _constant(d)
    _greedy(d)
    _harmonic(d)
    _start(d)
    chi2(d)
    wishart(d)
    estimated(d)
    recursive(d)
    plain_gradients(d)
    deep(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    law(batch, n, m)
        (α, β, σ²) for the population's metric.
    minibatch(batch, n, m), independent(batch, n, m, M)
        The same for metrics from the same minibatch, b > n + 1 or b < n − 1, and from M other inputs.
    losses(etas, start, law)
        ℓ_1 … ℓ_K.
    forgetting(a, shift)
        lim K² × what is left of ℓ_0 = 1 under η_k = 1/(k + shift), by 60 digits of the gamma function.
    plain(errors, eta, batch, rates)
        Second moments of one row of errors after a step of plain gradients, n × n.
    correction(target, total, depth, batch), exponent(depth)
        For deep networks: lim (E ℓ⁺ − law)/η² at whitened W̃*, W̃; the tail exponent of the loss.
    """

    def law(batch: int, n: int, m: int) -> tuple[float, float, float]:
        b, size, outputs = sp.Integer(batch), sp.Integer(n), sp.Integer(m)
        return 1.0, float(second(size, b)), float(noise(size, outputs, b))

    def minibatch(batch: int, n: int, m: int) -> tuple[float, float, float]:
        b, size, outputs = sp.Integer(batch), sp.Integer(n), sp.Integer(m)
        if batch > n + 1:
            return 1.0, 1.0, float(outputs * size * wishart_mean(size, b) / 2)
        return float(b / size), float(b / size), float(outputs * b * wishart_mean(b, size) / 2)

    def independent(batch: int, n: int, m: int, others: int) -> tuple[float, float, float]:
        b, size, outputs, count = (sp.Integer(v) for v in (batch, n, m, others))
        square = count**2 * wishart_second(size, count)
        first = count * wishart_mean(size, count)
        return float(first), float(square * second(size, b)), float(square * noise(size, outputs, b))

    def losses(etas: Any, start: float, law: tuple[float, float, float]) -> list[float]:
        out = []
        for eta in etas:
            start = step(start, eta, *law)
            out.append(start)
        return out

    def forgetting(a: float, shift: float) -> float:
        root = sp.I * sp.sqrt(sp.Rational(a))
        value = sp.gamma(1 + sp.Rational(shift)) ** 2
        value /= sp.gamma(sp.Rational(shift) + root) * sp.gamma(sp.Rational(shift) - root)
        return float(sp.re(sp.N(value, 60)))

    def plain(moments: Any, eta: float, batch: int, rates: Any) -> Any:
        return np.array(
            plain_step(sp.Matrix(moments), eta, sp.Integer(batch), list(rates)).tolist(), dtype=float
        )

    return {
        "law": law,
        "minibatch": minibatch,
        "independent": independent,
        "losses": losses,
        "forgetting": forgetting,
        "plain": plain,
        "correction": correction,
        "exponent": lambda depth: float(exponent(sp.Integer(depth))),
    }


def _expect(expression: Any, square: Any, size: Any, product: Any) -> Any:
    """Return the expected trace: E C = 1, E C² = `square`, one N gives 0, tr NᵀN = `product`, tr EᵀE = `size`."""
    total = sp.S.Zero
    for word, coefficient in words(expression).items():
        names = [str(factor) for factor in word]
        noises = sum(name in ("N", "Nᵀ") for name in names)
        if noises == 1:
            continue
        inner = size if not noises else product
        total += coefficient * inner * (square if names.count("C") == 2 else 1)
    return total


def _law(d: Derivation) -> None:
    e, et, c, n, nt = operators("E Eᵀ C N Nᵀ")
    d.define(
        "Whitened coordinates x = Fz, Ẽ = Σ^{−½}(W* − W)F, noise Σ^½ε: the minibatch gives the direction ẼC + N with "
        "C = (1/b)Σ z zᵀ, N = (1/b)Σ ε zᵀ, and the step in the metric S is",
        r"\tilde E^+ = \tilde E - \eta (\tilde E C + N)",
    )
    q = sp.Symbol("q")
    d.prove(
        "E C² = (1/b²)(b q + b(b−1)) with E[‖z‖²zzᵀ] = q I; M = I gives q = n + 2",
        sp.expand((B * q + B * (B - 1)) / B**2).subs(q, N + 2),
        second(N, B),
        formula=r"\mathrm{E}\, C^2 = (1 + (n+1)/b) I",
    )
    d.prove("E tr NᵀN = (1/b²) Σ_s E‖ε_s‖²‖z_s‖² = (1/b²) b m n", B * M * N / B**2, 2 * noise(N, M, B))
    moved, moved_t = e - ETA * (e * c + n), et - ETA * (c * et + nt)
    # tr(C Eᵀ E C) = tr(EᵀE C²): _expect counts the C's of a word.
    found = _expect(moved_t * moved, second(N, B), 2 * LOSS, 2 * noise(N, M, B)) / 2
    d.prove(
        "Noise is independent of the inputs and centred: the expected loss, linear in the loss and blind to all else",
        found,
        step(LOSS, ETA, 1, second(N, B), noise(N, M, B)),
        formula=r"\ell^+ = \ell \, [1 - 2\eta + \eta^2 (1 + (n+1)/b)] + \eta^2 \frac{nm}{2b}",
    )
    z, noises = sp.symbols("z0:2"), sp.symbols("w0:1")
    x, y = sp.symbols("x y")
    error = sp.Matrix([[x, y]])
    row = sp.Matrix([list(z)])
    gap = error - ETA * ((error * row.T)[0] + noises[0]) * row
    d.prove(
        "Exact instance, n = 2, m = b = 1: moments of every monomial",
        mean_of(gap.dot(gap) / 2, (*z, *noises)),
        sp.expand(
            step((x**2 + y**2) / 2, ETA, 1, second(sp.Integer(2), sp.S.One), noise(sp.Integer(2), 1, 1))
        ),
    )


def _other_inputs(d: Derivation) -> None:
    q, kappa = sp.symbols("q kappa", positive=True)
    d.prove(
        "Other inputs with E[‖z‖²zzᵀ] = q I (isotropic; or independent coordinates of one law): the trace gives q",
        sp.solve(q * N - kappa, q)[0],
        kappa / N,
        formula=r"q = \mathrm{E}\|z\|^4 / n, \quad \beta = 1 + (q - 1)/b",
    )
    d.prove("On the sphere ‖z‖² = n: β = 1 + (n − 1)/b", 1 + (N**2 / N - 1) / B, 1 + (N - 1) / B)
    d.prove(
        "With a bias x̂ = (1, z) is not such an input: E[‖x̂‖²x̂x̂ᵀ] is 1 + n for the constant, n + 3 for the "
        "others, and the law does not close",
        (1 + N + 2) - (1 + N),
        2,
        formula=r"\mathrm{E}[\|\hat z\|^2 \hat z \hat z^{\top}] = \mathrm{diag}(n+1, n+3, \dots, n+3)",
    )


def _constant(d: Derivation) -> None:
    rate = 1 - 2 * ETA + second(N, B) * ETA**2
    d.prove(
        "The loss stays bounded ⇔ the factor, (1−η)² + aη² ≥ 0 with a = (n+1)/b, is below 1 ⇔ η < 2b/(b + n + 1)",
        sp.solve(sp.Eq(rate, 1), ETA)[-1],
        2 * B / (B + N + 1),
    )
    d.prove("its form as a sum of squares", rate, (1 - ETA) ** 2 + (N + 1) / B * ETA**2)
    end = ETA * N * M / (2 * B * (2 - ETA * (1 + (N + 1) / B)))
    d.prove(
        "Constant steps end at",
        step(end, ETA, 1, second(N, B), noise(N, M, B)),
        end,
        formula=r"\ell_\infty = \frac{\eta n m}{2b (2 - \eta (1 + (n+1)/b))}",
    )
    best = B / (B + N + 1)
    d.prove("The start is forgotten fastest at half the limit", sp.diff(rate, ETA).subs(ETA, best), 0)
    d.prove("by the factor (n+1)/(b+n+1) in each step", rate.subs(ETA, best), (N + 1) / (B + N + 1))


def _greedy(d: Derivation) -> None:
    after = step(LOSS, ETA, 1, 1 + A, SIGMA)
    best = LOSS / ((1 + A) * LOSS + SIGMA)
    d.prove("β = 1 + a, σ² = nm/2b. The step of least ℓ⁺", sp.diff(after, ETA).subs(ETA, best), 0)
    d.check("  a minimum", bool(sp.diff(after, ETA, 2).is_positive))
    least = sp.cancel(after.subs(ETA, best))
    d.prove(
        "and its loss",
        sp.cancel(1 / least),
        1 / LOSS + 1 / (A * LOSS + SIGMA),
        formula=r"\frac{1}{\ell^+} = \frac{1}{\ell} + \frac{1}{a \ell + nm/2b}",
    )
    d.prove(
        "ℓ⁺ grows with ℓ for every η: a smaller loss at one step is smaller at all later ones, so greedy is optimal "
        "at every horizon among schedules fixed beforehand",
        sp.diff(after, LOSS),
        (1 - ETA) ** 2 + A * ETA**2,
    )
    x = sp.Symbol("x", positive=True)
    d.prove(
        "ℓ → 0: 1/ℓ grows by 1/σ² in each step, K ℓ_K → σ²",
        sp.limit(1 / (A * x + SIGMA), x, 0),
        1 / SIGMA,
        formula=r"\ell_K \sim nm/(2bK)",
    )


def _harmonic(d: Derivation) -> None:
    v = sp.Symbol("v", positive=True)
    j = K + SHIFT
    d.prove(
        "η_k = 1/(k+s), v_k = (k+s)²ℓ_k: the law becomes",
        j**2 * step(v / (j - 1) ** 2, 1 / j, 1, 1 + A, SIGMA),
        (1 + A / (j - 1) ** 2) * v + SIGMA,
        formula=r"v_k = (1 + \frac{a}{(k+s-1)^2}) v_{k-1} + \sigma^2",
    )
    d.define(
        "The product of the brackets converges, so v_k = O(k), v_k − v_{k−1} → σ² and v_K/K → σ² (Stolz–Cesàro): ℓ_K "
        "~ nm/(2bK), the Cramér–Rao bound tr[(S ⊗ Π)(2N S ⊗ Π)⁻¹] = nm/(2N) of N = bK samples, for every s"
    )
    c, u, x = sp.symbols("c u x", positive=True)
    # x = 1/k; u = k ℓ_k.
    after = step(u * x / (1 - x), c * x, 1, 1 + A, SIGMA) / x
    drift = sp.series(after - u, x, 0, 2).removeO().coeff(x, 1)
    d.prove(
        "Another constant, η_k = c/k, c > ½: kℓ_k drifts by (1/k)[…] and ends at",
        sp.solve(drift, u)[0],
        SIGMA * c**2 / (2 * c - 1),
        formula=r"k \ell_k \to \sigma^2 c^2/(2c-1)",
    )
    d.prove("least at c = 1", sp.diff(c**2 / (2 * c - 1), c).subs(c, 1), 0, formula=r"c^2/(2c-1) \geq 1")
    d.prove("  since the excess is a square", c**2 / (2 * c - 1) - 1, (c - 1) ** 2 / (2 * c - 1))


def _start(d: Derivation) -> None:
    root = sp.I * sp.sqrt(A)
    left = sp.gamma(K + SHIFT + root) * sp.gamma(K + SHIFT - root) / sp.gamma(K + SHIFT + 1) ** 2
    ratio = sp.gammasimp(left / left.subs(K, K - 1))
    d.prove(
        "What is left of the start is a ratio of gamma functions: the factor of step k",
        sp.simplify(ratio),
        sp.expand((K + SHIFT - 1) ** 2 + A) / (K + SHIFT) ** 2,
        formula=r"P_k = \frac{|\Gamma(k+s+i\sqrt a)|^2}{|\Gamma(s+i\sqrt a)|^2} \frac{\Gamma(1+s)^2}{\Gamma(k+s+1)^2}",
    )
    d.define("so that, by Stirling, K²P_K tends to", r"C = \Gamma(1+s)^2 / |\Gamma(s + i \sqrt a)|^2")
    x = sp.Symbol("x", positive=True)
    product = sp.gamma(1 + sp.I * x) * sp.gamma(1 - sp.I * x)
    reflected = sp.gammasimp(product).rewrite(sp.exp)
    d.prove(
        "s = 0: |Γ(i√a)|² = |Γ(1+i√a)|²/a and Euler's reflection give C = a sinh(π√a)/(π√a)",
        sp.simplify(reflected - (sp.pi * x / sp.sinh(sp.pi * x)).rewrite(sp.exp)),
        0,
        formula=r"C = \sqrt a \sinh(\pi \sqrt a)/\pi",
    )
    large, r = sp.symbols("L r", positive=True)
    logarithm = sp.log(1 + large / (r * large + K) ** 2)
    order = sp.integrate(sp.limit(logarithm.subs(K, K * large) * large, large, sp.oo), (K, 0, sp.oo))
    d.prove(
        "s = ra, a large: C ~ s² exp(∫ da/(ra + k)²) = (ra)² e^{1/r}: polynomial in a",
        order,
        1 / r,
        formula=r"C \sim r^2 e^{1/r} a^2",
    )
    d.prove("least at r = ½; r = 1, whose first step is the fastest one, has e a²", sp.diff(r**2 * sp.exp(1 / r), r)
            .subs(r, sp.Rational(1, 2)), 0, formula=r"r = \frac{1}{2}: e^2 a^2/4")  # fmt: skip
