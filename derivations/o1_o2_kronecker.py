"""Why do products of two small matrices stand for a layer's Fisher block, and what is best in their eigenbasis?

Statement O1: the online natural gradient, N1 with running averages. Statement O2: K-FAC and EKFAC. Sources: Bernacchia,
Lengyel and Hennequin (2018), Martens and Grosse (2015), George et al. (2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, Derivation, integers, kron, operators, vec

STATEMENTS = ("O1", "O2")

Array = NDArray[Any]


def derive() -> tuple[Derivation, ...]:
    """Derive O1 and O2."""
    first = Derivation(
        "O1", "Online natural gradient: N1 with estimated factors", "Bernacchia, Lengyel and Hennequin (2018)"
    )
    _online(first)
    _corrections(first)
    second = Derivation(
        "O2",
        "K-FAC's blocks, and the best diagonal in their eigenbasis",
        "Martens and Grosse (2015), George et al. (2018)",
    )
    _kronecker(second)
    _diagonal(second)
    _spectrum(second)
    _chain(second)
    return (first, second)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    online_step(inputs, outputs, gradient, damping, depth)
        (1/L)(Λ̃ + √λ I)⁻¹ D (Λ + √λ I)⁻¹ of one layer.
    best_diagonal(matrix, basis)
        The diagonal that is nearest in an orthonormal basis, and its distance in the Frobenius norm.
    """

    def online_step(inputs: Array, outputs: Array, gradient: Array, damping: float, depth: int) -> Array:
        root = np.sqrt(damping)
        left = np.linalg.solve(outputs + root * np.eye(len(outputs)), gradient)
        return np.asarray(np.linalg.solve(inputs + root * np.eye(len(inputs)), left.T).T / depth)

    def best_diagonal(matrix: Array, basis: Array) -> tuple[Array, float]:
        inside = basis.T @ matrix @ basis
        diagonal = np.diagonal(inside)
        return diagonal, float(np.linalg.norm(inside - np.diag(diagonal)))

    return {"online_step": online_step, "best_diagonal": best_diagonal}


def _online(d: Derivation) -> None:
    b, bt, a, at, e, k, m = operators("B Bᵀ A Aᵀ E K M")
    algebra = Algebra()
    algebra.transposes((b, bt), (a, at))
    algebra.rule(k * bt * b, 1)  # full column rank of B̃
    algebra.rule(a * at * m, 1)  # full row rank of Ã
    d.define(
        "Identity units: errors of the model's own targets have Λ̃ = B̃ᵀB̃, inputs have Λ = ÃÃᵀ, and the descent "
        "direction of layer i is B̃ᵀẼÃᵀ (G1). K and M are the inverses of Λ̃ and Λ, no damping"
    )
    d.prove(
        "The step moves the layer by the pseudo-inverses of N1: multiplied by B̃ᵀB̃ and ÃÃᵀ it gives the gradient back",
        (bt * b) * (k * (bt * e * at) * m) * (a * at),
        bt * e * at,
        lambda x: _both_sides(algebra, x, k, m, b, bt, a, at),
    )
    beta, alpha, damping, depth = sp.symbols("beta alpha lambda L", positive=True)
    root = sp.sqrt(damping)
    step = beta * alpha / (depth * (beta**2 + root) * (alpha**2 + root))
    exact = 1 / (depth * beta * alpha)
    d.prove(
        "On singular vectors with singular values β of B̃ and α of Ã the damped step is a fraction of N1's",
        sp.simplify(step / exact),
        1 / ((1 + root / beta**2) * (1 + root / alpha**2)),
    )
    epsilon = sp.Symbol("epsilon", positive=True)
    fraction = (step / exact).subs(damping, epsilon**2)
    d.prove(
        "which is 1 − √λ(1/α² + 1/β²) + O(λ): the error is of order √λ, not λ",
        sp.series(fraction, epsilon, 0, 2).removeO(),
        1 - epsilon * (1 / alpha**2 + 1 / beta**2),
        formula=r"1 - \sqrt{\lambda} (\alpha^{-2} + \beta^{-2}) + O(\lambda)",
    )


def _corrections(d: Derivation) -> None:
    m, p, r, rt, k = operators("M P R Rᵀ K")
    algebra = Algebra()
    algebra.transposes((r, rt))
    algebra.rule(m * p, 1)
    algebra.rule(r * p * rt * k, 1 - k)
    d.define(
        "P = M⁻¹, R the rows of a minibatch, K = (1 + R P Rᵀ)⁻¹, small: R P Rᵀ K = 1 − K. Woodbury's correction"
    )
    d.prove(
        "is the inverse of the corrected matrix",
        (m + rt * r) * (p - p * rt * k * r * p),
        1,
        algebra.reduce,
        formula=r"(M + R^{\top} R)^{-1} = P - P R^{\top} (1 + R P R^{\top})^{-1} R P",
    )
    decay, step, start = sp.symbols("gamma epsilon d_0", positive=True)
    count = sp.Symbol("k", integer=True, nonnegative=True)

    def drift(n: Any) -> Any:
        return decay**n * start + step * (1 - decay**n) / (1 - decay)

    d.define(
        "An error of P is one of M = P⁻¹, −M dP M to first order, which γM + … forgets by the factor γ like old data; "
        "each update adds ε of rounding"
    )
    d.prove(
        "After k updates the drift is d_k, by induction: γ d_k + ε = d_{k+1}. It stays below d_0 + ε/(1 − γ), however "
        "many there are",
        sp.expand(sp.simplify(decay * drift(count) + step - drift(count + 1))),
        0,
        sp.simplify,
        formula=r"d_k = \gamma^k d_0 + \epsilon (1 - \gamma^k)/(1 - \gamma)",
    )


def _both_sides(algebra: Algebra, expression: Any, k: Any, m: Any, b: Any, bt: Any, a: Any, at: Any) -> Any:
    """Reduce with (B̃ᵀB̃)K = 1 and M(ÃÃᵀ) = 1 beside the rules on the other sides."""
    two_sided = Algebra()
    two_sided.transposes((b, bt), (a, at))
    two_sided.rule(bt * b * k, 1)
    two_sided.rule(m * a * at, 1)
    return two_sided.reduce(algebra.reduce(expression))


def _kronecker(d: Derivation) -> None:
    h, delta = integers(3, 1, 1), integers(2, 1, 2)
    gradient = vec(delta * h.T)
    d.check(
        "One row: the gradient is vec(δh̃ᵀ) = h̃ ⊗ δ, its square (h̃h̃ᵀ) ⊗ (δδᵀ), exactly",
        gradient == kron(h, delta) and gradient * gradient.T == kron(h * h.T, delta * delta.T),
        sp.Eq(sp.Symbol("g"), gradient.T, evaluate=False),
    )
    p = sp.symbols("p_1:3", positive=True)
    q = sp.symbols("q_1:3", positive=True)
    hs = [integers(2, 1, s) for s in (3, 4)]
    ds = [integers(2, 1, s) for s in (5, 6)]
    joint = sum(
        (p[i] * q[j] * kron(hs[i] * hs[i].T, ds[j] * ds[j].T) for i in (0, 1) for j in (0, 1)), sp.zeros(4, 4)
    )
    inputs = sum((p[i] * hs[i] * hs[i].T for i in (0, 1)), sp.zeros(2, 2))
    outputs = sum((q[j] * ds[j] * ds[j].T for j in (0, 1)), sp.zeros(2, 2))
    d.prove(
        "Signals and errors independent, any weights p and q: the mean is the product of means. So it is for identity "
        "units, whose errors under the model do not know the inputs (N6), and for one row alone",
        joint,
        kron(inputs, outputs),
        formula=r"\mathrm{E}[h h^{\top} \otimes \delta \delta^{\top}] "
        r"= \mathrm{E}[h h^{\top}] \otimes \mathrm{E}[\delta \delta^{\top}]",
    )
    both = sum((sp.Rational(1, 2) * kron(hs[i] * hs[i].T, ds[i] * ds[i].T) for i in (0, 1)), sp.zeros(4, 4))
    apart = kron(
        sum((hs[i] * hs[i].T / 2 for i in (0, 1)), sp.zeros(2, 2)),
        sum((ds[i] * ds[i].T / 2 for i in (0, 1)), sp.zeros(2, 2)),
    )
    d.check("Dependent, two rows: K-FAC is not the block", both != apart)


def _diagonal(d: Derivation) -> None:
    entries = sp.symbols("m_11 m_12 m_22", real=True)
    s = sp.symbols("s_1 s_2", real=True)
    inside = sp.Matrix([[entries[0], entries[1]], [entries[1], entries[2]]])
    distance = ((inside - sp.diag(*s)) ** 2).trace()
    best = ((inside - sp.diag(entries[0], entries[2])) ** 2).trace()
    d.define(
        "M the block, Q any orthonormal basis: ‖M − Q diag(s) Qᵀ‖ = ‖QᵀMQ − diag(s)‖, entry by entry",
    )
    d.prove(
        "Pythagoras: the distance exceeds that of s = diag(QᵀMQ) by the squares of what s is off (two by two; the "
        "sum over entries is the same for every size)",
        sp.expand(distance - best),
        sp.expand((s[0] - entries[0]) ** 2 + (s[1] - entries[2]) ** 2),
        formula=r"\|M - Q \mathrm{diag}(s) Q^{\top}\|^2 = \|M - Q \mathrm{diag}(s^*) Q^{\top}\|^2 + \|s - s^*\|^2",
    )
    d.define(
        "s* are the second moments of the gradient's coordinates in Q, EKFAC's. K-FAC's diagonal a ⊗ g lies in the "
        "same basis: EKFAC is never farther from the block. And tr diag(QᵀMQ) = tr M in every basis, stale or not"
    )
    q, qt, m = operators("Q Qᵀ M")
    algebra = Algebra()
    algebra.transposes((q, qt))
    algebra.symmetric(m)
    algebra.rule(q * qt, 1)
    d.prove(
        "The trace: QQᵀ = 1 under the trace, tr(QᵀMQ) = tr(MQQᵀ)",
        m * q * qt,
        m,
        algebra.reduce,
        formula=r"\mathrm{tr}(Q^{\top} M Q) = \mathrm{tr}\, M",
    )
    c, t = sp.Rational(3, 5), sp.Rational(4, 5)
    fresh, stale = sp.eye(2), sp.Matrix([[c, -t], [t, c]])
    block = sp.diag(4, 1)
    turned = stale.T * block * stale
    d.check(
        "A stale basis can be worse than the factors themselves: for M = diag(4, 1) the fresh basis leaves nothing, "
        "the one turned by arctan 4/3 leaves off-diagonal entries",
        (fresh.T * block * fresh).is_diagonal() and turned[0, 1] != 0,
        sp.Eq(sp.Symbol("M"), turned, evaluate=False),
    )


def _spectrum(d: Derivation) -> None:
    angle = sp.Symbol("phi", real=True)
    high, low = sp.symbols("lambda_1 lambda_2", real=True)
    turn = sp.Matrix([[sp.cos(angle), -sp.sin(angle)], [sp.sin(angle), sp.cos(angle)]])
    inside = (turn.T * sp.diag(high, low) * turn).applyfunc(sp.trigsimp)
    d.prove(
        "Schur and Horn, two by two: s* = diag(QᵀMQ) mixes the eigenvalues with weights that sum to one, so that none "
        "exceeds the largest. In general Q ∘ Q is doubly stochastic: s* is majorised by the spectrum",
        sp.trigsimp(high - inside[0, 0]),
        sp.sin(angle) ** 2 * (high - low),
        sp.trigsimp,
        formula=r"\lambda_1 - s^*_1 = \sin^2\varphi\, (\lambda_1 - \lambda_2) \geq 0",
    )
    damping = sp.Symbol("lambda", positive=True)
    first, across, second = sp.symbols("m_11 m_12 m_22", positive=True)
    shifted = sp.Matrix([[first + damping, across], [across, second + damping]])
    left = sp.diag(1 / (first + damping), 1 / (second + damping)) * shifted
    d.prove(
        "What EKFAC leaves of the block, with any damping on both: eigenvalues of mean 1, in any basis, since on the "
        "diagonal nothing is left",
        sp.simplify(left.trace()),
        2,
        formula=r"\mathrm{tr} (\mathrm{diag}(s^*) + \lambda)^{-1} (Q^{\top} M Q + \lambda) = n",
    )
    inputs, outputs = (sp.Integer(1), sp.Integer(4)), (sp.Integer(4), sp.Integer(1))
    block = sum(a * g for a, g in zip(inputs, outputs, strict=True)) / 2
    kron = sum(inputs) * sum(outputs) / 4
    d.check(
        "K-FAC's eigenvalues a ⊗ g are not: large signals with small errors, h² = 1, 4 and δ² = 4, 1, have the block 4 "
        "and the product 25/4 > 4",
        block == 4 and kron == sp.Rational(25, 4),
    )


def _chain(d: Derivation) -> None:
    first, second, third, left, right = sp.symbols("m_1 m_2 m_3 c_1 c_2", positive=True)
    matrix = sp.Matrix(
        [
            [first, left, left * right / second],
            [left, second, right],
            [left * right / second, right, third],
        ]
    )
    d.prove(
        "The chain of three layers, one parameter each: where layer 1 knows of layer 3 only through layer 2, "
        "m_13 = c_1 c_2/m_2, the inverse has nothing beyond the neighbours",
        sp.simplify(matrix.adjugate()[0, 2]),
        0,
        formula=r"(M^{-1})_{13} = 0",
    )
