"""Where does the natural flow of a classifier go on separable data, and why is it not the maximum margin?

Statement C8. Rows a_n = y_n x_n, logistic loss, G_0 = −∇ℓ(w(0)). The natural flow obeys ∇ℓ(w(t)) = e^{−t}∇ℓ(w(0))
(C7): w(t) minimises the tilted loss ℓ(w) + e^{−t}⟨G_0, w⟩, and its weights q_n = e^t σ(−a_n·w) are exactly feasible for
the dual of min ⟨G_0, u⟩ s.t. a_n·u ≥ 1. Weak duality bounds them, margins follow, and w/t is feasible and optimal up to
1/t. New in the setting of Kerekes, Mészáros and Huszár 2021; the face of several solutions is Cominetti and San
Martín's (1994).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp

from derivations._core import Algebra, Derivation, operators
from derivations._polyhedra import best_vertex, in_cone, largest_margin, listed_limit, listed_margin, vertices

STATEMENTS = ("C8",)

T = sp.Symbol("t", positive=True)


def weight(margin: Any) -> Any:
    """Return σ(−m), the probability that the model gives to the wrong label."""
    return 1 / (1 + sp.exp(margin))


def margin_of(weight_in_units: Any, time: Any) -> Any:
    """Return the margin of a sample with e^t σ(−m) = q."""
    return sp.log(sp.exp(time) / weight_in_units - 1)


def derive() -> tuple[Derivation, ...]:
    """Derive C8."""
    d = Derivation(
        "C8", "The limit of the natural flow on separable data", "Kerekes et al. 2021 (setting); new"
    )
    _tilted(d)
    _duality(d)
    _primal(d)
    _sharp(d)
    _expansion(d)
    _value(d)
    _independent(d)
    _categorical(d)
    _instances(d)
    _degenerate(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    limit(rows, start)
        (u*, q*, offset) of a non-degenerate program by listing all vertices; rows a_n (N, d), start w(0).
    maximum_margin(rows)
        û by listing all sets of support vectors.
    margins(times, initial)
        Margins of independent samples, (T, N).
    """
    margin = sp.Symbol("m", real=True)
    path = sp.lambdify((T, margin), margin_of(weight(margin), T), "numpy")
    return {
        "limit": listed_limit,
        "maximum_margin": listed_margin,
        "margins": lambda times, initial: path(np.asarray(times)[:, None], np.asarray(initial)[None, :]),
    }


def _tilted(d: Derivation) -> None:
    rows = sp.Matrix(3, 2, sp.symbols("a0:6", real=True))
    w, g = (sp.Matrix(2, 1, sp.symbols(f"{letter}0:2", real=True)) for letter in "wg")
    margins = rows * w
    tilted = sp.Add(*(sp.exp(T) * sp.log(1 + sp.exp(-m)) for m in margins)) / 3 + (g.T * w)[0]
    weights = margins.applyfunc(lambda m: sp.exp(T) * weight(m))
    d.define(
        "C7: ∇ℓ(w(t)) = e^{−t}∇ℓ(w(0)). With G₀ = −∇ℓ(w(0)), w(t) is the stationary point of e^tℓ(w) + ⟨G₀, w⟩",
        r"\ell(w) = \frac{1}{N} \sum_n \mathrm{log}(1 + e^{-a_n \cdot w})",
    )
    d.prove(
        "Its gradient is G₀ − (1/N)Aᵀq with q_n = e^tσ(−a_n·w) > 0 (each sample contributes alone; here N = 3, d = 2)",
        sp.Matrix([sp.diff(tilted, entry) for entry in w]),
        g - rows.T * weights / 3,
        formula=r"\frac{1}{N} \sum_n q_n a_n = G_0, \quad q_n = e^t \sigma(-a_n \cdot w) > 0",
    )
    q, m = sp.symbols("q m", positive=True)
    d.prove(
        "The margin from the weight: m = log(e^t/q − 1)",
        sp.exp(T) * weight(margin_of(q, T)),
        q,
        formula=sp.Eq(sp.Symbol("m"), margin_of(q, T), evaluate=False),
    )
    p = weight(m)
    d.prove(
        "The Hessian of one sample's loss is positive along a_n, so w is unique modulo the null space of the data",
        sp.diff(sp.log(1 + sp.exp(-m)), m, 2),
        p * (1 - p),
    )


def _duality(d: Derivation) -> None:
    at, q, ut, one_t = operators("Aᵀ q uᵀ 1ᵀ")
    g = sp.Symbol("NG₀", commutative=False)
    algebra = Algebra()
    algebra.rule(at * q, g)
    d.define(
        "The program min ⟨G₀, u⟩ s.t. Au ≥ 1; its dual max (1/N)Σq_n s.t. (1/N)Aᵀq = G₀, q ≥ 0: q(t) is feasible for "
        "it at all times. The data are strictly separable: the program has feasible points, its value v is finite"
    )
    d.prove(
        "Weak duality: for every feasible u, N⟨G₀, u⟩ − Σq_n = Σ q_n(a_n·u − 1) ≥ 0, so Σq_n ≤ Nv = V: the weights "
        "stay bounded",
        ut * g - one_t * q,
        (ut * at - one_t) * q,
        algebra.reduce,
        formula=r"N \langle G_0, u \rangle - \sum_n q_n = \sum_n q_n (a_n \cdot u - 1) \geq 0",
    )
    v = sp.Symbol("V", positive=True)
    d.prove(
        "q_n ≤ V and e^t ≥ 2V: m_n ≥ log(e^t/V − 1) ≥ log(e^t/(2V)), every margin is at least t − log 2V",
        (sp.exp(T) / v - 1) - sp.exp(T) / (2 * v),
        (sp.exp(T) - 2 * v) / (2 * v),
        formula=r"a_n \cdot w(t) \geq t - \mathrm{log} 2V",
    )


def _primal(d: Derivation) -> None:
    q, x = sp.symbols("q x", positive=True)
    d.prove(
        "Upper bound: m_n = t − log q_n + log(1 − q_n e^{−t}), the last term ≤ 0",
        sp.exp(margin_of(q, T)),
        sp.exp(T) / q * (1 - q * sp.exp(-T)),
    )
    entropy = -x * sp.log(x)
    d.prove("−q log q has its only stationary point at 1/e", sp.diff(entropy, x).subs(x, sp.exp(-1)), 0)
    d.prove("  is concave", sp.diff(entropy, x, 2), -1 / x)
    d.prove("  and at most 1/e", entropy.subs(x, sp.exp(-1)), sp.exp(-1))
    d.define(
        "Hence N⟨G₀, w⟩ = Σq_n m_n ≤ tΣq_n + N/e ≤ tV + N/e: w/t has the value v up to 1/(e t), and violates no "
        "constraint by more than (log 2V)/t. Every limit point solves the program: if the solution is unique, w/t → u*",
        r"\langle G_0, w/t \rangle \leq v + 1/(e t), \qquad a_n \cdot w/t \geq 1 - (\mathrm{log} 2V)/t",
    )


def _sharp(d: Derivation) -> None:
    weights = sp.symbols("q1:4", positive=True)
    errors = sp.symbols("epsilon1:4", real=True)
    d.define(
        "Unique solution: its active constraints I with q* > 0 (Goldman and Tucker) have full column rank. "
        "ε_n = a_n·w − t on I, NG₀ = A_Iᵀq*, Σq* = V"
    )
    at, qs, wt, one_t = operators("A_Iᵀ q* wᵀ 1ᵀ")
    d.prove(
        "Σ q*_nε_n = N⟨G₀, w⟩ − tV ≤ N/e",
        wt * (at * qs) - T * one_t * qs,
        (wt * at - T * one_t) * qs,
        Algebra().reduce,
        formula=r"\sum_I q^*_n \epsilon_n = N \langle G_0, w \rangle - tV \leq N/e",
    )
    pairs = list(zip(weights, errors, strict=True))
    d.prove(
        "|ε| = ε + 2[−ε]₊: Σq*|ε| ≤ N/e + 2V[log 2V]₊, independent of t",
        sp.Add(*(q * sp.Abs(e) for q, e in pairs)),
        sp.Add(*(q * (e + 2 * sp.Max(-e, 0)) for q, e in pairs)),
        lambda difference: sp.simplify(difference.rewrite(sp.Piecewise)),
        formula=r"\sum_I q^*_n |\epsilon_n| \leq N/e + 2V [\mathrm{log} 2V]_+",
    )
    d.define(
        "w − tu* = A_I⁺ε: the rate is 1/t, for every t ≥ log 2V",
        r"\| w/t - u^* \| \leq \frac{1}{t} \max_n \frac{\|A_I^+ e_n\|}{q^*_n} (N/e + 2V [\mathrm{log} 2V]_+)",
    )


def _expansion(d: Derivation) -> None:
    at, ot, k, q, o, qs = operators("A_Iᵀ A_Oᵀ A_I⁻ᵀ q_I q_O q*")
    algebra = Algebra()
    algebra.inverse(at, k)
    d.define(
        "Non-degenerate vertex: A_I square and invertible, q* > 0 on I, slack s_n = a_n·u* − 1 > 0 outside (O)"
    )
    algebra.rule(ot * o, at * qs - at * q)
    d.define(
        "From the rate, a_n·w ≥ t(1 + s_n) − C‖a_n‖: the weights outside vanish exponentially",
        r"q_n \leq e^{t - a_n \cdot w} \leq e^{-t s_n + C \|a_n\|}",
    )
    d.prove(
        "A_Iᵀq_I + A_Oᵀq_O = NG₀ = A_Iᵀq*: what the weights on I miss is what the others hold",
        q,
        qs - k * ot * o,
        algebra.reduce,
        formula=r"q_I = q^* - A_I^{-\top} A_O^{\top} q_O",
    )
    c1, c2, q1, q2 = sp.symbols("c1 c2 q1 q2", positive=True)
    margins = [margin_of(value, T) for value in (q1, q2)]
    outside = sp.exp(T - c1 * margins[0] - c2 * margins[1])
    slack = c1 + c2 - 1
    units = {q: sp.exp(T) / (1 + sp.Symbol(f"x_{q}", positive=True)) for q in (q1, q2)}  # 0 < q < e^t
    product = (q1 / (1 - q1 * sp.exp(-T))) ** c1 * (q2 / (1 - q2 * sp.exp(-T))) ** c2
    d.prove(
        "a_n = c_nA_I outside, with c_n·1 = a_n·u* = 1 + s_n: e^{t − m_n} = e^{−t s_n} ∏(q_i/(1 − q_i e^{−t}))^{c_i}, "
        "in terms of the weights on I (here two)",
        sp.expand_log(sp.log(outside / (sp.exp(-T * slack) * product)), force=True),
        0,
        lambda rest: sp.simplify(sp.expand_log(sp.expand(rest.subs(units)), force=True)),
        formula=r"q_n \leq e^{t - m_n} = e^{-t s_n} \prod_I (q_i/(1 - q_i e^{-t}))^{c_{ni}}",
    )
    d.define(
        "w = A_I⁻¹m_I with m_I = t − log q_I + log(1 − q_I e^{−t}): the constant of the rate is the offset's length",
        r"w = t u^* - A_I^{-1} \mathrm{log} q^*_I + O(e^{-t}) + O(e^{-t \min s})",
    )


def _value(d: Derivation) -> None:
    q, m = sp.symbols("q m", positive=True)
    d.prove(
        "The loss in terms of the weights: log(1 + e^{−m}) = −log(1 − p)",
        sp.exp(-sp.log(1 + sp.exp(-m))),
        1 - weight(m),
    )
    d.prove(
        "so that e^tℓ = (1/N)Σ e^t(−log(1 − q_n e^{−t})) → (1/N)Σq*_n = v",
        sp.limit(-sp.exp(T) * sp.log(1 - q * sp.exp(-T)), T, sp.oo),
        q,
        formula=r"e^t \ell(w(t)) \to v",
    )
    ut, at, qq, one_t, st = operators("u*ᵀ Aᵀ q 1ᵀ sᵀ")
    algebra = Algebra()
    algebra.rule(ut * at, one_t + st)
    d.prove(
        "and the gap is Nv − Σq_n = Σq_n s_n exactly (strong duality, slacks vanish on I): exponentially small",
        ut * at * qq - one_t * qq,
        st * qq,
        algebra.reduce,
        formula=r"V - \sum_n q_n = \sum_O q_n s_n",
    )


def _independent(d: Derivation) -> None:
    m = sp.Symbol("m_0", real=True)
    d.define(
        "N ≤ d, independent rows: A_I = A on the row space, NG₀ = Aᵀσ(−m(0)) has one representation, so that "
        "q(t) = σ(−m(0)) = q* at all times, and u* = A⁺1: all margins are equal"
    )
    path = margin_of(weight(m), T)
    d.prove("m(t) = log((1 + e^{m(0)})e^t − 1)", path, sp.log((1 + sp.exp(m)) * sp.exp(T) - 1))
    d.prove(
        "m(t) − t − log(1 + e^{m(0)}) = log(1 − e^{−t}σ(−m(0))) = O(e^{−t})",
        sp.exp(path),
        sp.exp(T) * (1 + sp.exp(m)) * (1 - sp.exp(-T) * weight(m)),
        formula=r"m_n(t) = t + \mathrm{log}(1 + e^{m_n(0)}) + \mathrm{log}(1 - e^{-t} \sigma(-m_n(0)))",
    )
    a, plus, at, plus_t, w = operators("A A⁺ Aᵀ A⁺ᵀ w")
    algebra = Algebra()
    algebra.moore_penrose(a, plus, at, plus_t)
    d.prove(
        "Only the row-space part A⁺Aw of w is seen by the margins: the rest is the gauge's",
        a * (w - plus * a * w),
        0,
        algebra.reduce,
    )


def _categorical(d: Derivation) -> None:
    z = sp.symbols("z0:3", real=True)
    total = sp.Add(*(sp.exp(value) for value in z))
    loss = sp.log(total) - z[0]
    p = [sp.exp(value) / total for value in z]
    gap = sp.Matrix([0, 0, 0])
    for c in (1, 2):
        gap += p[c] * sp.Matrix([1 if k == 0 else -1 if k == c else 0 for k in range(3)])
    d.prove(
        "C classes: −∇ of −log p_y in the scores is Σ_{c≠y} p_c(e_y − e_c), so rows (e_y − e_c) ⊗ x_n with weights "
        "q_nc = e^t p_nc are dual feasible (here C = 3, y = 0)",
        -sp.Matrix([sp.diff(loss, value) for value in z]),
        gap,
        formula=r"\frac{1}{N} \sum_{n, c \neq y_n} q_{nc} (e_{y_n} - e_c) \otimes x_n = G_0",
    )
    d.prove(
        "Margins m_c = z_y − z_c = log((1 − Σp)/p_c) = t − log q_c + log(1 − Σ_c′ q_c′e^{−t}): all bounds above hold "
        "with NC − N constraints (u_y − u_c)·x_n ≥ 1",
        sp.exp(z[0] - z[1]),
        (1 - p[1] - p[2]) / p[1],
        formula=r"m_{nc} = t - \mathrm{log} q_{nc} + \mathrm{log}(1 - e^{-t} \sum_{c'} q_{nc'})",
    )
    d.prove(
        "Two classes are the logistic case",
        sp.exp(z[1]) / (sp.exp(z[0]) + sp.exp(z[1])),
        weight(z[0] - z[1]),
    )


def _instances(d: Derivation) -> None:
    d.define(
        "Maximum margin û = argmin ‖u‖ s.t. Au ≥ 1. It solves C8's program ⇔ G₀ = Σλ_n a_n, λ ≥ 0, over its active "
        "constraints (Karush–Kuhn–Tucker): ⇔ G₀ lies in the cone of the support vectors"
    )
    half = sp.Rational(1, 2)
    outcomes = {}
    for name, rows in {
        "inside": sp.Matrix([[1, 1], [1, -1], [3, 1], [2, 0]]),
        "outside": sp.Matrix([[1, 0], [3, 1], [3, -2], [4, 2]]),
        "three dimensions": sp.Matrix([[1, 0, 1], [2, 1, 0], [0, 2, 1], [3, -1, 1], [1, 1, 1]]),
    }.items():
        cost = rows.T * (half * sp.ones(rows.rows, 1))
        u, dual = best_vertex(rows, cost)
        widest, support = largest_margin(rows)
        outcomes[name] = (u == widest, in_cone(rows, support, cost), all(value > 0 for value in dual))
    d.check(
        "Exact, w(0) = 0, rows (1,1), (1,−1), (3,1), (2,0): G₀ is in the cone, u* = û = (1, 0)",
        outcomes["inside"] == (True, True, True),
    )
    d.check(
        "Exact, rows (1,0), (3,1), (3,−2), (4,2): G₀ is not in the cone of the support vector (1,0), u* ≠ û",
        outcomes["outside"] == (False, False, True),
    )
    same, inside, positive = outcomes["three dimensions"]
    d.check("Exact, five rows in three dimensions: equal ⇔ in the cone", positive and same == inside)


def _degenerate(d: Derivation) -> None:
    rows = sp.Matrix([[1, 0], [2, 1], [3, -1]])
    cost = rows.T * sp.ones(3, 1) / 2
    values = [(cost.T * u)[0] for u, _ in vertices(rows)]
    widest, support = largest_margin(rows)
    d.check(
        "A face of solutions, exactly: rows (1,0), (2,1), (3,−1), w(0) = 0, NG₀ = (3, 0). All u = (1, y), −1 ≤ y ≤ 2, "
        "are optimal, also û = (1, 0), and G₀ is in its cone",
        sorted(values) == [3, 3] and widest == sp.Matrix([1, 0]) and in_cone(rows, support, cost),
    )
    q = sp.symbols("q1:4", positive=True)
    w1, w2 = sp.symbols("w1 w2", real=True)
    balance = (rows.T * sp.Matrix(q) - cost)[1]
    d.prove("The second row of Aᵀq = NG₀ says q₂ = q₃ at all times", balance, q[1] - q[2])
    d.prove(
        "so a₂·w = a₃·w, w₂ = w₁/2 exactly: w/t → (1, 1/2) and not û. Equality of the limits in the cone needs a "
        "unique solution; else the limit is the centroid of the face, where the least slack is largest",
        (rows[1, :] * sp.Matrix([w1, w2]) - rows[2, :] * sp.Matrix([w1, w2]))[0].subs(w2, w1 / 2),
        0,
        formula=r"\mathrm{lim} w/t = (1, \frac{1}{2}) = \mathrm{arg max}_{u = (1, y)} \min(2 + y, 3 - y)",
    )
    y = sp.Symbol("y", real=True)
    d.check(
        "  the centroid: 2 + y = 3 − y at y = 1/2, slack 3/2 against 1 at û",
        sp.solve((2 + y) - (3 - y), y) == [sp.Rational(1, 2)],
    )
    d.define(
        "In general w = tu* + offset + exponentially small, with the centroid of the face for u*: in u = w/t the "
        "tilted loss is the program's exponential penalty with parameter 1/t (cited: Cominetti and San Martín 1994)",
        r"t \left[ \langle G_0, u \rangle + \frac{1}{tN} \sum_n e^{-t(a_n \cdot u - 1)} \right]",
    )
