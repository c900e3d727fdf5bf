"""What are the eigenvalues of the Fisher matrix at balanced weights, and how fast does its condition grow?

Statement S1, for white inputs and noise (S = I, Π = I) and balanced layers W_{i+1}ᵀW_{i+1} = W_iW_iᵀ. The
Gram matrices of the partial products are powers of one matrix on each side, for every depth, every width and
every rank; the rest is a geometric sum. Arora, Cohen and Hazan (2018), Saxe, McClelland and Ganguli (2014).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, families, operators
from derivations._layers import balanced_layers, jacobian

STATEMENTS = ("S1",)

X, Y, DEPTH = sp.symbols("x y L", positive=True)


def eigenvalue(x: Any, y: Any, depth: int) -> Any:
    """Return the sum over the layers of x^(i−1) y^(L−i) with 0⁰ = 1, where x = s_a^(2/L), y = s_b^(2/L)."""
    one = x * 0 + 1
    return sum(_power(x, i - 1, one) * _power(y, depth - i, one) for i in range(1, depth + 1))


def quotient(x: Any, y: Any, depth: Any) -> Any:
    """Return the closed form of the sum, (x^L − y^L)/(x − y), for x ≠ y."""
    return (x**depth - y**depth) / (x - y)


def derive() -> tuple[Derivation, ...]:
    """Derive S1."""
    d = Derivation("S1", "The spectrum of the Fisher matrix at balanced weights", "ACH, SMG")
    _grams(d)
    _sum(d)
    _condition(d)
    _instances(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    balanced_spectrum(singular_values, n_inputs, n_outputs, depth)
        Eigenvalues of JJᵀ, shape (n_0, n_L), entry (a, b); singular values of W in descending order.
    condition_number(singular_values, n_inputs, n_outputs, depth)
        Largest over smallest non-zero eigenvalue of F.
    """
    return {"balanced_spectrum": _balanced_spectrum, "condition_number": _condition_number}


def _power(x: Any, exponent: int, one: Any) -> Any:
    return one if exponent == 0 else x**exponent


def _grams(d: Derivation) -> None:
    d.define(
        "S = I, Π = I, balanced layers; M = W₁ᵀW₁ and N = W_LW_Lᵀ",
        r"W_{i+1}^{\top} W_{i+1} = W_i W_i^{\top}, \quad A_{i+1} = W_i A_i, \quad B_{i-1} = B_i W_i",
    )
    i = sp.Symbol("i", integer=True, positive=True)
    (w, wt, a, at), (m,) = families("W Wᵀ A Aᵀ"), operators("M")
    up = Algebra()
    up.rule(a(i + 1), w(i) * a(i))
    up.rule(at(i + 1), at(i) * wt(i))
    up.rule(wt(i + 1) * w(i + 1), w(i) * wt(i))
    up.rule(wt(i) * w(i) * a(i), a(i) * m)
    d.prove(
        "Induction on i, upwards: W_iᵀW_iA_i = A_iM is the definition of M at i = 1 (A₁ = I), and follows at "
        "i + 1 from balance",
        wt(i + 1) * w(i + 1) * a(i + 1),
        a(i + 1) * m,
        up.reduce,
    )
    d.prove(
        "So each layer multiplies the Gram matrix by M: A_iᵀA_i = M^(i−1), and WᵀW = M^L",
        at(i + 1) * a(i + 1),
        at(i) * a(i) * m,
        up.reduce,
    )
    _grams_after(d)


def _grams_after(d: Derivation) -> None:
    i = sp.Symbol("i", integer=True, positive=True)
    (w, wt, b, bt), (n,) = families("W Wᵀ B Bᵀ"), operators("N")
    down = Algebra()
    down.rule(b(i - 1), b(i) * w(i))
    down.rule(bt(i - 1), wt(i) * bt(i))
    down.rule(w(i - 1) * wt(i - 1), wt(i) * w(i))
    down.rule(b(i) * w(i) * wt(i), n * b(i))
    d.prove(
        "Induction on i, downwards: B_iW_iW_iᵀ = NB_i at i = L (B_L = I) gives the same at i − 1",
        b(i - 1) * w(i - 1) * wt(i - 1),
        n * b(i - 1),
        down.reduce,
    )
    d.prove(
        "So B_iB_iᵀ = N^(L−i) and WWᵀ = N^L; M and N are the unique positive semi-definite L-th roots",
        b(i - 1) * bt(i - 1),
        n * b(i) * bt(i),
        down.reduce,
    )
    d.define(
        "JJᵀ = Σ A_iᵀA_i ⊗ B_iB_iᵀ is therefore diagonal in the singular vectors v_a ⊗ u_b of W, with the "
        "eigenvalues (singular values padded with zeros, 0⁰ = 1 because M⁰ = N⁰ = I)",
        r"\lambda_{ab} = \sum_{i=1}^{L} s_a^{2(i-1)/L} s_b^{2(L-i)/L}, \quad a \le n_0, \ b \le n_L",
    )


def _sum(d: Derivation) -> None:
    partial = quotient(X, Y, DEPTH)
    d.prove("The geometric sum at L = 1 is 1", quotient(X, Y, 1), eigenvalue(X, Y, 1), formula=r"\lambda = 1")
    d.prove(
        "Induction on L: a layer more multiplies the sum by x and adds y^L; the closed form does the same",
        sp.expand((X - Y) * (X * partial + Y**DEPTH - quotient(X, Y, DEPTH + 1))),
        0,
        lambda e: sp.simplify(sp.expand(sp.powsimp(sp.expand(sp.simplify(e))))),
        formula=r"(x^{L+1}-y^{L+1})/(x-y) = x (x^L - y^L)/(x-y) + y^L",
    )
    for depth in (2, 3, 5):
        d.prove(
            f"The sum written out for L = {depth}",
            sp.cancel(quotient(X, Y, depth)),
            eigenvalue(X, Y, depth),
            formula=sp.Eq((X**depth - Y**depth) / (X - Y), eigenvalue(X, Y, depth), evaluate=False),
        )
    s = sp.Symbol("s", positive=True)
    d.prove(
        "Coinciding singular values: the limit y → x is L s^(2−2/L) with x = s^(2/L)",
        sp.limit(quotient(X, Y, DEPTH), Y, X).subs(X, s ** (2 / DEPTH)),
        DEPTH * s ** (2 - 2 / DEPTH),
    )


def _condition(d: Derivation) -> None:
    s1, sn = sp.symbols("s_1 s_n", positive=True)
    for depth in (1, 2, 3, 4):
        slope = sp.expand(sp.diff(eigenvalue(X, Y, depth), X))
        terms = [] if slope == 0 else list(sp.Add.make_args(slope))
        d.check(
            f"L = {depth}: every term of ∂λ/∂x has a non-negative coefficient, so λ grows in both arguments",
            all(sp.Poly(t, X, Y).coeffs()[0] > 0 for t in terms),
        )
    top, bottom = DEPTH * s1 ** (2 - 2 / DEPTH), DEPTH * sn ** (2 - 2 / DEPTH)
    d.prove(
        "Square invertible W: the extreme pairs are (1, 1) and (n, n)",
        top / bottom,
        (s1 / sn) ** (2 - 2 / DEPTH),
        lambda e: sp.simplify(sp.expand_power_base(e)),
    )
    for depth in (2, 3, 4):
        zero = eigenvalue(X, sp.S.Zero, depth)
        d.prove(
            f"L = {depth}: a pair with one vanishing singular value keeps a single term of the sum",
            zero,
            X ** (depth - 1),
        )
    d.define(
        "Such pairs exist when n₀ ≠ n_L or W is rank-deficient; they are the smallest non-zero eigenvalues",
        r"\kappa = (s_1/s_n)^{2-2/L} \quad \mathrm{or} \quad L (s_1/s_{\min})^{2-2/L}",
    )


def _instances(d: Derivation) -> None:
    x = sp.Symbol("x")
    cases = (
        ([3, 2], [2, 2, 2, 2], "square, invertible"),
        ([2, 1], [3, 2, 2], "three inputs, two outputs"),
        ([2, 0], [2, 3, 2], "rank-deficient"),
        ([3, 1], [2, 3, 3, 2], "wide hidden layers"),
    )
    for roots, widths, words in cases:
        depth = len(widths) - 1
        layers = balanced_layers(roots, widths)
        j = jacobian(layers)
        padded_in = [sp.Integer(r) for r in roots] + [sp.S.Zero] * (widths[0] - len(roots))
        padded_out = [sp.Integer(r) for r in roots] + [sp.S.Zero] * (widths[-1] - len(roots))
        spectrum = [eigenvalue(a**2, b**2, depth) for a in padded_in for b in padded_out]
        expected = sp.prod([x - value for value in spectrum]) * x ** (j.cols - j.rows)
        fisher = (j.T * j).charpoly(x).as_expr()
        d.check(
            f"Exact: {words}, widths {'-'.join(map(str, widths))}: the characteristic polynomial of F",
            sp.expand(fisher - expected) == 0,
            sp.Eq(sp.Symbol("λ"), sp.Tuple(*sorted(spectrum, reverse=True)), evaluate=False),
        )
    layers = balanced_layers([3, 2], [2, 2, 2])
    unbalanced = [2 * layers[0], layers[1] / 2]
    j = jacobian(unbalanced)
    spectrum = [eigenvalue(sp.Integer(a) ** 2, sp.Integer(b) ** 2, 2) for a in (3, 2) for b in (3, 2)]
    d.check(
        "Counter-example: the same W with unbalanced layers has another spectrum",
        sp.expand((j * j.T).charpoly(x).as_expr() - sp.prod([x - value for value in spectrum])) != 0,
    )


def _balanced_spectrum(
    singular_values: NDArray[Any], n_inputs: int, n_outputs: int, depth: int
) -> NDArray[np.float64]:
    values = np.asarray(singular_values, float) ** (2 / depth)
    x = np.concatenate([values, np.zeros(n_inputs - values.size)])
    y = np.concatenate([values, np.zeros(n_outputs - values.size)])
    return np.asarray(eigenvalue(x[:, None] + 0 * y, y + 0 * x[:, None], depth), float)


def _condition_number(singular_values: NDArray[Any], n_inputs: int, n_outputs: int, depth: int) -> float:
    s = np.asarray(singular_values, float)
    kept = s[s > 0]
    ratio = float(kept[0] / kept[-1]) ** (2 - 2 / depth)
    full = kept.size == n_inputs == n_outputs
    return float(ratio if full else depth * ratio)
