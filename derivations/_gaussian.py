"""Moments of Gaussian vectors and of inverse Wishart matrices, proved for every size; shared by D3 and X8."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import sympy as sp

from derivations._core import Algebra, Derivation, operators

N, DOF = sp.symbols("n M", positive=True)


def delta(i: int, j: int) -> int:
    """Return 1 if i = j, 0 otherwise."""
    return int(i == j)


def pairings(i: int, a: int, b: int, j: int) -> int:
    """Return E[z_i z_a z_b z_j] by Isserlis' theorem."""
    return delta(i, a) * delta(b, j) + delta(i, b) * delta(a, j) + delta(i, j) * delta(a, b)


def mean_of(polynomial: Any, variables: Sequence[Any]) -> Any:
    """Return the expectation of a polynomial in independent standard Gaussian variables, monomial by monomial."""
    total = sp.S.Zero
    for powers, coefficient in sp.Poly(sp.expand(polynomial), *variables).terms():
        if all(p % 2 == 0 for p in powers):
            total += coefficient * sp.prod([sp.factorial2(p - 1) if p else 1 for p in powers])
    return sp.expand(total)


def sandwich(matrix: Any, trace: Any, transposed: Any) -> Any:
    """Return E[z zᵀ M z zᵀ] = M + Mᵀ + tr(M) I, for the multiple of I given as `trace`."""
    return matrix + transposed + trace


def wick(d: Derivation) -> None:
    """Prove Isserlis' theorem for four factors, and E[z zᵀ M z zᵀ], for every dimension."""
    t = sp.symbols("t0:4", real=True)
    generating = sp.exp(sum(s**2 for s in t) / 2)
    wrong = 0
    for pattern in itertools.product(range(4), repeat=4):
        if any(k > max((-1, *pattern[:place])) + 1 for place, k in enumerate(pattern)):
            continue  # one representative for each of the 15 patterns of equal indices
        moment = sp.diff(generating, *(t[k] for k in pattern)).subs(dict.fromkeys(t, 0))
        wrong += int(moment != pairings(*pattern))
    d.check(
        "z ~ N(0, I): E[z_i z_a z_b z_j] from the moment generating function, on all 15 patterns of equal indices; "
        "four indices take at most four values, so this is every dimension (Isserlis)",
        wrong == 0,
        r"\mathrm{E}[z_i z_a z_b z_j] = \delta_{ia}\delta_{bj} + \delta_{ib}\delta_{aj} + \delta_{ij}\delta_{ab}",
    )
    m = sp.Matrix(4, 4, sp.symbols("m0:16"))
    contracted = sp.Matrix(
        4, 4, lambda i, j: sum(m[a, b] * pairings(i, a, b, j) for a in range(4) for b in range(4))
    )
    d.prove(
        "so E[z zᵀ M z zᵀ] = M + Mᵀ + tr(M) I: the coefficient of each entry of M depends on a pattern of four "
        "indices",
        contracted,
        sandwich(m, m.trace() * sp.eye(4), m.T),
        formula=r"\mathrm{E}[z z^{\top} M z z^{\top}] = M + M^{\top} + \mathrm{tr}(M) I",
    )


def inverse_chi2(power: int, freedom: Any) -> Any:
    """Return E[x^{−p}] for x ~ χ²_k."""
    return 1 / sp.prod([freedom - 2 * j for j in range(1, power + 1)])


def chi2(d: Derivation) -> None:
    """Prove E[1/x] and E[1/x²] of a χ² variable."""
    k, x = sp.symbols("k x", positive=True)
    for power in (1, 2):
        value = sp.integrate(x ** (k / 2 - 1 - power) * sp.exp(-x / 2), (x, 0, sp.oo), conds="none")
        d.prove(
            f"x ~ χ²_k, k > {2 * power}: the mean of x^−{power}, a gamma integral",
            sp.gammasimp(value / (2 ** (k / 2) * sp.gamma(k / 2))),
            inverse_chi2(power, k),
        )


def wishart_mean(size: Any, freedom: Any) -> Any:
    """Return c where E[V] = c I, V the inverse of ZᵀZ, Z Gaussian M × n."""
    return inverse_chi2(1, freedom - size + 1)


def wishart_second(size: Any, freedom: Any) -> Any:
    """Return c where E[V²] = c I."""
    return inverse_chi2(2, freedom - size + 1) * (1 + (size - 1) * wishart_mean(size - 1, freedom))


def wishart(d: Derivation) -> None:
    """Prove the mean and the mean square of an inverse Wishart matrix for every size."""
    d.define("Z is M × n with independent standard Gaussian entries, V = (ZᵀZ)⁻¹")
    h, ht, r, rt, v = operators("h hᵀ R Rᵀ V'")
    algebra = Algebra()
    algebra.transposes((h, ht), (r, rt))
    algebra.symmetric(v)
    algebra.rule(v * rt * r, 1)
    algebra.rule(rt * r * v, 1)
    gap = h - r * v * rt * h
    d.prove(
        "Z = [h R], V' = (RᵀR)⁻¹, β = V'Rᵀh the regression of the first column on the others: Z(1, −β) = h − Rβ is "
        "orthogonal to the others",
        rt * gap,
        0,
        algebra.reduce,
    )
    d.prove(
        "  and its product with h is its squared length d, so ZᵀZ(1, −β) = (d, 0)",
        ht * gap,
        algebra.transpose(gap) * gap,
        algebra.reduce,
        formula=r"V e_1 = (1, -\beta)/d",
    )
    d.define(
        "Given the others, the first column is Gaussian: d ~ χ²_{M−n+1} is independent of β ~ N(0, V'), V' the same "
        "matrix for n − 1 columns. A change of sign of one column of Z keeps the law: E V and E V² are diagonal"
    )
    d.prove(
        "E V = E[1/d] I, M > n + 1",
        wishart_mean(N, DOF),
        1 / (DOF - N - 1),
        formula=r"\mathrm{E} V = I / (M - n - 1)",
    )
    d.prove(
        "E[V²]₁₁ = E[1/d²](1 + E|β|²), E|β|² = tr E V' = (n−1)/(M−n), M > n + 3",
        wishart_second(N, DOF),
        (DOF - 1) / ((DOF - N) * (DOF - N - 1) * (DOF - N - 3)),
        formula=r"\mathrm{E} V^2 = \frac{M-1}{(M-n)(M-n-1)(M-n-3)} I",
    )


def substitute(expression: Any, values: Mapping[Any, Any]) -> Any:
    """Return the expression with all values put in at once."""
    return sp.sympify(expression).subs(values, simultaneous=True)
