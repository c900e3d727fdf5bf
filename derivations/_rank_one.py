"""The closed form of X2 for rank one: K's exponential in a time of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, from_words, operators, words

Array = NDArray[Any]


def exponential(tau: float, left: Array, right: Array, goal: Array) -> tuple[Array, Array]:
    """Return e^{Kτ}(u_0, v_0), by the eigenvectors of K."""
    n, m = goal.shape
    k = np.block([[np.zeros((n, n)), goal], [goal.T, np.zeros((m, m))]])
    values, vectors = np.linalg.eigh(k)
    moved = vectors @ (np.exp(values * tau) * (vectors.T @ np.concatenate([left, right])))
    return moved[:n], moved[n:]


def own_time(d: Derivation) -> None:
    """Prove that (u, v) ∝ e^{Kτ}(u_0, v_0) and σ = σ_0 ‖e^{Kτ}(u_0, v_0)‖/√2."""
    a, at, b, bt, g, gt = operators("a aᵀ b bᵀ W* W*ᵀ")
    algebra = Algebra()
    algebra.transposes((a, at), (b, bt), (g, gt))
    d.define(
        "r = 1, Z = σuvᵀ: dσ/ds = uᵀW̃*v, σ du/ds = (I − uuᵀ)W̃*v, σ dv/ds = (I − vvᵀ)W̃*ᵀu. Take dτ = ds/σ"
    )
    d.prove(
        "(a, b)' = K(a, b) = (W̃*b, W̃*ᵀa) keeps |a|² − |b|² (both derivatives are 2aᵀW̃*b)",
        algebra.trace(2 * at * (g * b) - 2 * bt * (gt * a)),
        0,
        formula=r"2 a^{\top} W^* b = 2 b^{\top} W^{*\top} a",
    )
    rho, alpha, size = sp.symbols("ρ α σ_0", positive=True)
    u, v = operators("u v")
    push = from_words(words(g * (rho * v)))  # a' = W*b with b = ρv
    d.prove(
        "With a = ρu, b = ρv, |u| = |v| = 1 and ρ' = ρα, α = uᵀW̃*v: u' = a'/ρ − aρ'/ρ² = W̃*v − αu, as wanted",
        push / rho - rho * u * (rho * alpha) / rho**2,
        g * v - alpha * u,
        algebra.reduce,
    )
    at_rho, now = sp.Function("ρ"), sp.Symbol("τ", real=True)
    scale = size * at_rho(now)
    d.prove(
        "and σ = σ_0 ρ solves dσ/dτ = σα",
        sp.diff(scale, now).subs(sp.diff(at_rho(now), now), alpha * at_rho(now)),
        alpha * scale,
        formula=r"\sigma = \sigma_0 \|e^{K\tau}(u_0, v_0)\|/\sqrt 2,\quad e^t - 1 = \int_0^\tau \sigma",
    )


def exponentials(d: Derivation) -> None:
    """Prove what σ(τ) is made of, where it is analytic, and that an aligned start follows C1."""
    tau, size = sp.Symbol("τ", real=True), sp.Symbol("w", positive=True)
    s, t, p, q = sp.symbols("s t p q", positive=True)
    one, two = p * sp.exp(s * tau) + q * sp.exp(-s * tau), p * sp.exp(s * tau) - q * sp.exp(-s * tau)
    d.prove(
        "On a singular pair the solution is (p e^{sτ} + q e^{−sτ}, p e^{sτ} − q e^{−sτ})",
        sp.diff(one, tau),
        s * two,
    )
    d.prove("and the other half", sp.diff(two, tau), s * one, formula=r"a' = s b,\quad b' = s a")
    d.prove(
        "so |a|² = (|a|² + |b|²)/2 is a positive combination of e^{±2sτ} (and 1)",
        sp.expand((one**2 + two**2) / 2),
        p**2 * sp.exp(2 * s * tau) + q**2 * sp.exp(-2 * s * tau),
    )
    y, lam = sp.symbols("y λ", real=True)
    d.prove(
        "whose real part at τ + iy is Σ c e^{2λτ} cos 2λy > 0 for |y| < π/(4s_1): σ is analytic there",
        sp.re(sp.exp(2 * lam * (tau + sp.I * y))).rewrite(sp.cos),
        sp.exp(2 * lam * tau) * sp.cos(2 * lam * y),
    )
    sigma = size * sp.exp(s * tau)
    found = sp.solve(sp.Eq(sp.exp(t) - 1, sp.integrate(sigma, (tau, 0, tau))), tau)
    d.prove(
        "Aligned (q = 0) it is C1's mode: W̃ = w e^{−t} + s (1 − e^{−t})",
        sp.simplify(sp.exp(-t) * sigma.subs(tau, found[0])),
        sp.exp(-t) * size + s * (1 - sp.exp(-t)),
    )
