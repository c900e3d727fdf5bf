"""How does the total weight move under the natural gradient flow, in any gauge?

Statement C1: while (J) holds (J is onto), W̃ runs along a straight line at rate e^{−t}, whatever the depth, the
widths and the conditioning; without (J), dW̃/dt = T, the projection of Ẽ on the range of J. The projectors
are P_i ⊗ Q_i on the error: P acts from the left, Q from the right, so that the two families commute.
Bernacchia, Lengyel and Hennequin (2018) for the exponential; the rest is new.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, families, integers, of_rank, operators, pinv, product, vec
from derivations._layers import before, jacobian

STATEMENTS = ("C1",)

TIME, LOSS, TARGET = sp.symbols("t ell_0 epsilon", positive=True)


def decay(time: Any) -> Any:
    """Return the factor by which the error of the total weight has shrunk at this time."""
    return sp.exp(-time)


def derive() -> tuple[Derivation, ...]:
    """Derive C1."""
    d = Derivation("C1", "The total weight under the natural gradient flow", "BLH; the rest new")
    _every_gauge(d)
    _range(d)
    _onto(d)
    _flow(d)
    _instances(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    natural_total(total, teacher, times)
        W(t), shape (T, n_L, n_0).
    excess_loss(initial, times)
        Excess loss at the times.
    time_to(initial, target)
        Time at which the excess loss reaches the target.
    path_length(initial)
        Fisher length of the whole path.
    """
    factor = sp.lambdify(TIME, decay(TIME), "numpy")

    def natural_total(total: NDArray[Any], teacher: NDArray[Any], times: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(teacher + factor(np.asarray(times))[:, None, None] * (total - teacher))

    return {
        "natural_total": natural_total,
        "excess_loss": sp.lambdify((LOSS, TIME), LOSS * decay(TIME) ** 2, "numpy"),
        "time_to": sp.lambdify((LOSS, TARGET), _time_to(), "numpy"),
        "path_length": sp.lambdify(LOSS, _length(), "numpy"),
    }


def _time_to() -> Any:
    return sp.solve(sp.Eq(LOSS * decay(TIME) ** 2, TARGET), TIME)[0]


def _length() -> Any:
    return sp.integrate(sp.sqrt(2 * LOSS) * decay(TIME), (TIME, 0, sp.oo))


def _every_gauge(d: Derivation) -> None:
    j, jt, plus, plus_t, v, vt, e, et = operators("J Jᵀ J⁺ J⁺ᵀ v vᵀ ẽ ẽᵀ")
    d.define(
        "Whitened error ẽ = vec Ẽ; F = JᵀJ and −∇ℓ = Jᵀẽ; v is any solution of F v = −∇ℓ",
        r"J^{\top} J v = J^{\top} \mathrm{vec} \tilde{E}, \qquad \mathrm{vec} \, d\tilde{W}/dt = J v",
    )
    algebra = Algebra()
    algebra.moore_penrose(j, plus, jt, plus_t)
    d.prove(
        "Multiply the equation from the left by J⁺ᵀ: every solution has J v = JJ⁺ẽ, the projection T of ẽ on "
        "range J",
        plus_t * (jt * j * v - jt * e),
        j * v - j * plus * e,
        algebra.reduce,
    )
    algebra.transposes((v, vt), (e, et))
    algebra.rule(j * v, j * plus * e)
    algebra.rule(vt * jt, et * j * plus)
    algebra.rule(j * plus, 1)
    d.prove(
        "If J is onto (JJ⁺ = 1) the squared Fisher speed is the squared error",
        vt * jt * j * v,
        et * e,
        algebra.reduce,
    )


def _range(d: Derivation) -> None:
    i = sp.Symbol("i", integer=True, positive=True)
    m = sp.Symbol("m", integer=True, positive=True)
    p, q = families("P Q")
    algebra = _projectors(p, q)
    d.define(
        "range J is the sum of the ranges of P_i ⊗ Q_i; P_i grows with i, Q_i shrinks. R_i is the projector "
        "on the sum of the first i: R_1 = P_1Q_1, R_{i+1} = R_i + (1 − R_i)P_{i+1}Q_{i+1}",
        r"R_i = \sum_{j<i} P_j (Q_j - Q_{j+1}) + P_i Q_i",
    )
    earlier = i - m
    d.prove(
        "Induction on i: the terms with j < i vanish on Q_{i+1}",
        p(earlier) * (q(earlier) - q(earlier + 1)) * q(i + 1) * p(i + 1),
        0,
        algebra.reduce,
    )
    d.prove(
        "and the last term turns into P_iQ_{i+1}",
        p(i) * q(i) * q(i + 1) * p(i + 1),
        p(i) * q(i + 1),
        algebra.reduce,
    )
    d.prove(
        "so that R_{i+1} − R_i = P_{i+1}Q_{i+1} − P_iQ_{i+1}, which is the formula at i + 1",
        p(i + 1) * q(i + 1) - p(i) * q(i + 1),
        p(i) * (q(i) - q(i + 1)) + p(i + 1) * q(i + 1) - p(i) * q(i),
        algebra.reduce,
    )
    for depth in (2, 3, 4):
        left = sp.S.One
        for k in range(1, depth + 1):
            left = algebra.reduce(left * (1 - p(k) * q(k)))
        blocks = sum(
            _difference(p, k, -1, 0) * _difference(q, l, 1, depth + 1)
            for k in range(1, depth + 1)
            for l in range(k, depth + 1)
        )
        d.prove(
            f"L = {depth} written out: T keeps the blocks k ≤ l of the error",
            1 - left,
            blocks,
            algebra.reduce,
            formula=r"R_L = \sum_{k \leq l} \Delta P_k \, \Delta Q_l",
        )


def _projectors(p: Any, q: Any) -> Algebra:
    algebra = Algebra()
    algebra.nested(p)
    algebra.nested(q, increasing=False)

    def commute(one: Any, other: Any) -> Any:
        swap = getattr(one, "func", None) == q and getattr(other, "func", None) == p
        return other * one if swap else None

    algebra.rewrite(2, commute)
    return algebra


def _difference(family: Any, index: int, step: int, end: int) -> Any:
    return family(index) - (0 if index + step == end else family(index + step))


def _onto(d: Derivation) -> None:
    p, q = families("P Q")
    n, m = sp.symbols("n m", integer=True, nonnegative=True)
    i = n + 1
    algebra = _projectors(p, q)
    for depth in (2, 3, 4):
        algebra.rule(p(depth), 1)
        range_j = sum(p(l) * _difference(q, l, 1, depth + 1) for l in range(1, depth + 1))
        missing = sum((p(k + 1) - p(k)) * (q(1) - q(k + 1)) for k in range(1, depth))
        d.prove(
            f"L = {depth}: with P_L = 1, what J does not reach of the errors P_LQ_1 is a sum of orthogonal "
            "projectors",
            q(1) - range_j,
            missing,
            algebra.reduce,
            formula=r"Q_1 - R_L = \sum_{i<L} (P_{i+1} - P_i)(Q_1 - Q_{i+1})",
        )
        algebra = _projectors(p, q)
    further = p(i + m + 1) - p(i + m)
    d.prove(
        "If those vanish, so does (P_{i+m+1} − P_{i+m})(Q_1 − Q_{i+1}) for every m ≥ 0, because "
        "Q_1 − Q_{i+1} lies in Q_1 − Q_{i+m+1}",
        further * (q(1) - q(i + m + 1)) * (q(1) - q(i + 1)),
        further * (q(1) - q(i + 1)),
        algebra.reduce,
    )
    d.define(
        "Sum over m: J is onto ⇔ (1 − P_i)(Q_1 − Q_{i+1}) = 0 at every hidden layer i ⇔ P_i = 1 or "
        "Q_{i+1} = Q_1, which is condition (J)",
        r"r(W_L \cdots W_{i+1}) = n_L \quad \mathrm{or} \quad r(W_i \cdots W_1 S^{1/2}) = \rho",
    )


def _flow(d: Derivation) -> None:
    start, goal = operators("W̃₀ W̃*")
    line = goal + decay(TIME) * (start - goal)
    d.prove(
        "While (J) holds dW̃/dt = W̃* − W̃ in every gauge; its solution is a straight line",
        sp.diff(line, TIME),
        goal - line,
        sp.expand,
        formula=r"\tilde W(t) = \tilde W^* + e^{-t} (\tilde W(0) - \tilde W^*)",
    )
    d.prove("It starts at W̃(0)", line.subs(TIME, 0), start, sp.expand)
    later = sp.Symbol("r", positive=True)
    d.prove(
        "Flowing for t and then for r is flowing for t + r",
        goal + decay(later) * (line - goal),
        goal + decay(TIME + later) * (start - goal),
        lambda e: sp.expand(sp.powsimp(sp.expand(e))),
    )
    loss = LOSS * decay(TIME) ** 2
    d.prove("The excess loss ℓ = ‖Ẽ‖²/2", loss, LOSS * sp.exp(-2 * TIME))
    d.prove(
        "The time to reach ε", _time_to(), sp.log(LOSS / TARGET) / 2, lambda e: sp.expand_log(e, force=True)
    )
    d.prove("The Fisher length of the path, its speed being ‖Ẽ‖ = √(2ℓ)", _length(), sp.sqrt(2 * LOSS))
    d.define(
        "In W̃ the metric is constant, tr(dW̃ᵀdW̃): geodesics are straight lines, and the Fisher–Rao "
        "distance ‖Ẽ(0)‖ = √(2ℓ₀) is the length just found: the flow runs along the geodesic"
    )


def _instances(d: Derivation) -> None:
    cases = (
        ([2, 2, 2], 2),
        ([3, 2, 3, 2], 2),
        ([3, 3, 2], 3),
        ([2, 4, 3], 1),
        ([3, 2, 3], 3),
        ([3, 2, 3], 1),
    )
    for number, (widths, rank) in enumerate(cases):
        layers = [integers(widths[k + 1], widths[k], 5 * number + k) for k in range(len(widths) - 1)]
        factor = of_rank(widths[0], rank, rank, number + 1)
        j = jacobian(layers, factor)
        onto = all(
            product(layers[i:][::-1]).rank() == widths[-1] or (before(layers, i + 1) * factor).rank() == rank
            for i in range(1, len(layers))
        )
        d.check(
            f"Exact: widths {'-'.join(map(str, widths))}, ρ = {rank}: (J) ⇔ rank J = n_Lρ",
            onto == (j.rank() == widths[-1] * rank),
        )
        error = vec(integers(widths[-1], rank, 31 + number))
        least = pinv(j) * error
        kernel = j.nullspace()
        other = sum(((2 * k + 1) * vector for k, vector in enumerate(kernel)), start=least)
        moves = j * least == error and j * other == error and other != least
        d.check(
            "  the least-norm solution and another one "
            + ("both move" if onto else "do not move")
            + " W̃ along its error",
            moves == onto,
        )
    narrow = [sp.Matrix([[1, 2]]), sp.Matrix([[1], [1]])]
    j = jacobian(narrow)
    error = vec(sp.Matrix([[1, 0], [0, 0]]))
    moved = j * pinv(j) * error
    d.check(
        "Counter-example, 2-1-2: (J) fails, every solution moves W̃ along T ≠ Ẽ",
        moved != error and j.T * moved == j.T * error,
        sp.Eq(sp.Symbol("rank_J"), j.rank(), evaluate=False),
    )
