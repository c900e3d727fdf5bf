"""What do estimated metrics, and no metric at all, do to online learning? Parts of D3."""

from __future__ import annotations

from typing import Any

import sympy as sp

from derivations._core import Algebra, Derivation, operators
from derivations._gaussian import mean_of, wishart_mean, wishart_second

N, M, B, ETA, OTHER = sp.symbols("n m b eta M", positive=True)


def estimated(d: Derivation) -> None:
    """Derive the laws of metrics from the same minibatch, from other inputs, from a running average."""
    _minibatch(d)
    _independent(d)
    _average(d)


def _minibatch(d: Derivation) -> None:
    e, c, v, n = operators("E C V N")
    algebra = Algebra()
    algebra.rule(c * v, 1)
    d.prove(
        "Metric of the same minibatch, b ≥ n, V = C⁻¹: the step is least squares on the minibatch, unbiased",
        (e * c + n) * v,
        e + n * v,
        algebra.reduce,
        formula=r"\tilde E^+ = (1-\eta) \tilde E - \eta N C^{-1}",
    )
    d.prove(
        "E‖NC⁻¹‖² = (m/b) tr E C⁻¹ = m n/(b − n − 1), b > n + 1: α = β = 1 and no fourth moment, but more noise",
        M / B * N * B * wishart_mean(N, B),
        M * N / (B - N - 1),
        formula=r"\ell^+ = (1-\eta)^2 \ell + \eta^2 \frac{nm}{2(b-n-1)}",
    )
    d.prove(
        "b < n − 1: CC⁺ projects on b random dimensions, E CC⁺ = (b/n) I; C⁺ has the spectrum of b(ZZᵀ)⁻¹, b × b",
        M / B * B * B * wishart_mean(B, N),
        M * B / (N - B - 1),
        formula=r"\ell^+ = \ell [1 - (2\eta - \eta^2) b/n] + \eta^2 \frac{mb}{2(n-b-1)}",
    )


def _independent(d: Derivation) -> None:
    alpha, gamma = OTHER / (OTHER - N - 1), sp.Symbol("gamma")
    d.prove(
        "Metric of M other inputs, V = M(ZᵀZ)⁻¹ independent of C and N: the mean step is too long",
        OTHER * wishart_mean(N, OTHER),
        alpha,
        formula=r"\mathrm{E} V = \frac{M}{M-n-1} I",
    )
    d.prove(
        "and E V² multiplies both second-order terms: E tr ẼC V² CẼᵀ = γ β ‖Ẽ‖², E‖NV‖² = γ nm/b",
        OTHER**2 * wishart_second(N, OTHER),
        OTHER**2 * (OTHER - 1) / ((OTHER - N) * (OTHER - N - 1) * (OTHER - N - 3)),
        formula=sp.Eq(gamma, OTHER**2 * (OTHER - 1) / ((OTHER - N) * (OTHER - N - 1) * (OTHER - N - 3))),
    )


def _average(d: Derivation) -> None:
    g = sp.Symbol("g", positive=True)
    d.prove(
        "Running average with weight g of the newest: Σ weights² = g/(2−g). To second order in its fluctuation Δ, "
        "E[C V] = 1 − E[δΔ] + E[Δ²], with E[δ²] = (n+1)/b for one minibatch",
        sp.simplify((g / (2 - g) - g) * (N + 1) / B),
        -g * (1 - g) * (N + 1) / ((2 - g) * B),
        formula=r"\mathrm{E}[C V] \approx 1 - \frac{g(1-g)}{2-g} \frac{n+1}{b}",
    )
    d.prove(
        "  the sum q of squared weights is stationary, q = g² + (1−g)²q",
        g**2 + (1 - g) ** 2 * g / (2 - g),
        g / (2 - g),
    )


def recursive(d: Derivation) -> None:
    """Derive that a running metric with steps 1/k is recursive least squares."""
    w, plus, y, x, xt, v = operators("W A Y X Xᵀ V")
    algebra = Algebra()
    algebra.rule(v * plus, 1)
    d.define(
        "Running metric, mean of all samples so far, η_k = 1/k: (1/k)(1/b)(…)S_k⁻¹ = (…)A_k⁻¹ with A_k = Σ x xᵀ. "
        "Suppose W_{k−1}A_{k−1} = T_{k−1} = Σ y xᵀ (true after the first step, b ≥ n), A_k = A_{k−1} + XXᵀ"
    )
    moved = w + (y - w * x) * xt * v
    d.prove(
        "Then W_kA_k = T_k: recursive least squares, whose loss is that of bk samples, nm/(2(bk − n − 1)) (X8)",
        moved * plus,
        w * (plus - x * xt) + y * xt,
        algebra.reduce,
        formula=r"W_k A_k = W_{k-1} A_{k-1} + Y X^{\top}",
    )


def plain_step(moments: Any, eta: Any, batch: Any, rates: Any) -> Any:
    """Return K⁺_ik = (1−ηr_i)(1−ηr_k)K_ik + (η²/b) r_i r_k [K_ki + δ_ik(tr K + 1)] of one row."""
    size = moments.rows
    return sp.Matrix(
        size,
        size,
        lambda i, k: (
            (1 - eta * rates[i]) * (1 - eta * rates[k]) * moments[i, k]
            + eta**2 / batch * rates[i] * rates[k] * (moments[k, i] + int(i == k) * (moments.trace() + 1))
        ),
    )


def plain_gradients(d: Derivation) -> None:
    """Derive the second moments under plain gradients, or any fixed metric."""
    _moments(d)
    _stationary(d)


def _moments(d: Derivation) -> None:
    d.define(
        "Plain gradients, or any fixed metric: turned to the eigenvectors of S (or of its pencil with the metric) "
        "and of Π, with rates r_ji = p_j s_i, the step is",
        r"\hat e_{ji}^+ = \hat e_{ji} - \eta r_{ji} (\hat E C + N)_{ji}",
    )
    e, r = sp.symbols("e0:2"), sp.symbols("r0:2", positive=True)
    for batch in (1, 2):
        z = [sp.symbols(f"z{s}_0:2") for s in range(batch)]
        w = sp.symbols(f"w0:{batch}")
        moved = []
        for i in range(2):
            pull = sum((e[0] * z[s][0] + e[1] * z[s][1] + w[s]) * z[s][i] for s in range(batch)) / batch
            moved.append(e[i] - ETA * r[i] * pull)
        names = [v for pair in z for v in pair] + list(w)
        found = sp.Matrix(2, 2, lambda i, k, names=names, moved=moved: mean_of(moved[i] * moved[k], names))
        start = sp.Matrix(2, 2, lambda i, k: e[i] * e[k])
        d.prove(
            f"Second moments of a row of errors after a step, every monomial, n = 2, b = {batch} (by Wick the same "
            "for every n and b); the diagonal closes",
            found,
            plain_step(start, ETA, sp.Integer(batch), r).applyfunc(sp.expand),
            formula=r"K_{ik}^+ = (1-\eta r_i)(1-\eta r_k) K_{ik} + \frac{\eta^2}{b} r_i r_k "
            r"[K_{ki} + \delta_{ik}(\mathrm{tr} K + 1)]",
        )


def _stationary(d: Derivation) -> None:
    r = sp.symbols("r0:3", positive=True)
    shares = [ETA * s / (2 * B - ETA * (B + 1) * s) for s in r]
    total = sp.Symbol("R")
    diagonal = [share * (1 + total / (1 - total)) for share in shares]
    found = []
    for s, value in zip(r, diagonal, strict=True):
        pull = ETA * s
        after = ((1 - pull) ** 2 + pull**2 / B) * value + pull**2 / B * (total / (1 - total) + 1)
        found.append(sp.simplify(after - value))
    d.prove(
        "Its fixed point: K_ii = R_i/(1 − R), R_i = ηr_i/(2b − η(b+1)r_i), R = Σ R_i",
        sp.Matrix(found),
        sp.zeros(3, 1),
        formula=r"\ell_\infty = \frac{1}{2} \sum_j R_j/(1 - R_j), \quad R_j = \sum_i "
        r"\frac{\eta r_{ji}}{2b - \eta (b+1) r_{ji}}",
    )
    d.define(
        "The diagonal obeys a non-negative matrix D + uuᵀ: its spectral radius is below 1 ⇔ D < 1 and uᵀ(1 − D)⁻¹u = "
        "R < 1 (Perron–Frobenius, Sherman–Morrison)",
        r"\text{stable} \Leftrightarrow \eta r_{ji} < 2b/(b+1), \; R_j < 1",
    )
    d.prove(
        "All rates 1: the law above",
        sp.solve(sp.Eq(N * ETA / (2 * B - ETA * (B + 1)), 1), ETA)[0],
        2 * B / (B + N + 1),
    )
    share = N * ETA / (2 * B - ETA * (B + 1))
    d.prove(
        "  and its stationary loss",
        M * share / (1 - share) / 2,
        ETA * N * M / (2 * B * (2 - ETA * (1 + (N + 1) / B))),
    )
