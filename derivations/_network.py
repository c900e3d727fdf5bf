"""A deep linear network as the proofs see it: its operators as symbols, and exact rational examples.

Ã(i), B̃(i), P(i), Q(i) are families with integer or symbolic index i = 1…L. The proofs use only S = FFᵀ and
Π = HᵀH, so that F and H may be any factors (F = S^½, H = Π^½ among them): Ã_i = A_iF, B̃_i = HB_i, Ẽ = HEF.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, families, kron, of_rank, operators, pinv, product, vec

Array = NDArray[np.floating[Any]]

A, AP, AT, APT = families("Ã Ã⁺ Ãᵀ Ã⁺ᵀ")
B, BP, BT, BPT = families("B̃ B̃⁺ B̃ᵀ B̃⁺ᵀ")
P, Q = families("P Q")
V, VT, N, NT = families("v vᵀ ν νᵀ")
E, ET = operators("Ẽ Ẽᵀ")


def algebra() -> Algebra:
    """Return the rules of Ã, B̃ and their nested projectors P_i = B̃_iB̃_i⁺, Q_i = Ã_i⁺Ã_i (proved in N2)."""
    rules = Algebra()
    rules.rewrite(1, lambda x: sp.S.Zero if x == P(0) else None)
    rules.nested(P, increasing=True)
    rules.nested(Q, increasing=False)
    _absorb(rules, P, (B, BPT), (BP, BT), lambda p, b: (p - b).is_nonnegative)
    _absorb(rules, Q, (AP, AT), (A, APT), lambda q, a: (a - q).is_nonnegative)
    _collapse(rules, B, BP, P)
    _collapse(rules, AP, A, Q)
    _collapse(rules, BPT, BT, P)
    _collapse(rules, AT, APT, Q)
    rules.moore_penrose(A, AP, AT, APT)
    rules.moore_penrose(B, BP, BT, BPT)
    rules.transposes((V, VT), (N, NT), (E, ET))
    return rules


def _absorb(
    rules: Algebra, projector: Any, on_left: Sequence[Any], on_right: Sequence[Any], inside: Any
) -> None:
    """Projector × factor = factor (and factor × projector) where the factor's range is inside."""

    def match(one: sp.Expr, other: sp.Expr) -> sp.Expr | None:
        if one.func == projector and other.func in on_left and inside(one.args[0], other.args[0]):
            return other
        if other.func == projector and one.func in on_right and inside(other.args[0], one.args[0]):
            return one
        return None

    rules.rewrite(2, match)


def _collapse(rules: Algebra, one: Any, other: Any, projector: Any) -> None:
    rules.rewrite(
        2,
        lambda x, y: (
            projector(*x.args)
            if x.func == one and y.func == other and sp.expand(x.args[0] - y.args[0]) == 0
            else None
        ),
    )


def dP(k: Any) -> sp.Expr:
    """ΔP_k = P_k − P_{k−1}, with P_0 = 0."""
    return P(k) - (0 if k == 1 else P(k - 1))


def dQ(index: Any, depth: Any) -> sp.Expr:
    """ΔQ_l = Q_l − Q_{l+1}, with Q_{L+1} = 0."""
    return Q(index) - (0 if sp.expand(index - depth) == 0 else Q(index + 1))


def moved(directions: Sequence[sp.Expr]) -> sp.Expr:
    """J v = Σ_i B̃_i v_i Ã_i for directions v_1…v_L."""
    return sp.Add(*(B(i) * v * A(i) for i, v in enumerate(directions, 1)))


# ------------------------------------------------------------------------------------------ exact examples


@dataclass(frozen=True)
class Example:
    """An exact network and task: weights, F (n_0 × ρ) with S = FFᵀ, H with Π = HᵀH, E = W* − W."""

    weights: tuple[sp.Matrix, ...]
    f: sp.Matrix
    h: sp.Matrix
    error: sp.Matrix

    @property
    def depth(self) -> int:
        """L."""
        return len(self.weights)

    @property
    def a(self) -> list[sp.Matrix]:
        """Ã_1…Ã_L."""
        return [product([*reversed(self.weights[:i]), self.f]) for i in range(self.depth)]

    @property
    def b(self) -> list[sp.Matrix]:
        """B̃_1…B̃_L."""
        return [product([self.h, *reversed(self.weights[i + 1 :])]) for i in range(self.depth)]

    @property
    def e(self) -> sp.Matrix:
        """Ẽ = HEF."""
        return self.h * self.error * self.f

    @property
    def p(self) -> list[sp.Matrix]:
        """P_0…P_L."""
        return [sp.zeros(self.h.rows), *(b * pinv(b) for b in self.b)]

    @property
    def q(self) -> list[sp.Matrix]:
        """Q_1…Q_{L+1} at the places 1…L+1 (place 0 is unused)."""
        size = self.f.cols
        return [sp.eye(size), *(pinv(a) * a for a in self.a), sp.zeros(size)]

    @property
    def jacobian(self) -> sp.Matrix:
        """J = [Ã_iᵀ ⊗ B̃_i]."""
        return sp.Matrix.hstack(*(kron(a.T, b) for a, b in zip(self.a, self.b, strict=True)))

    @property
    def gradient(self) -> sp.Matrix:
        """The stacked gradient −Jᵀ vec Ẽ."""
        return -self.jacobian.T * vec(self.e)

    def symbols(self) -> dict[Any, sp.Matrix]:
        """The matrices that stand for the operators of `algebra`."""
        out: dict[Any, sp.Matrix] = {E: self.e, ET: self.e.T, Q(self.depth + 1): self.q[-1], P(0): self.p[0]}
        for i, (a, b) in enumerate(zip(self.a, self.b, strict=True), 1):
            ap, bp = pinv(a), pinv(b)
            out |= {
                A(i): a,
                AP(i): ap,
                AT(i): a.T,
                APT(i): ap.T,
                B(i): b,
                BP(i): bp,
                BT(i): b.T,
                BPT(i): bp.T,
            }
            out |= {P(i): b * bp, Q(i): ap * a}
        return out

    def stack(self, direction: Sequence[sp.Matrix]) -> sp.Matrix:
        """The vector of stacked columns of v_1…v_L."""
        return sp.Matrix.vstack(*(vec(v) for v in direction))

    def solves(self, direction: Sequence[sp.Matrix]) -> bool:
        """Whether F v = −∇ℓ, with F = JᵀJ."""
        j = self.jacobian
        return bool(j.T * (j * self.stack(direction)) == -self.gradient)


def example(
    widths: Sequence[int], ranks: Sequence[int] | None = None, rank_s: int | None = None, seed: int = 1
) -> Example:
    """Return a deterministic exact example with layers of these ranks (default full) and rank S = rank_s."""
    pairs = list(zip(widths[1:], widths[:-1], strict=True))
    full = [min(pair) for pair in pairs]
    weights = tuple(
        of_rank(*pair, rank, seed + 13 * i)
        for i, (pair, rank) in enumerate(zip(pairs, ranks or full, strict=True))
    )
    rho = widths[0] if rank_s is None else rank_s
    f = of_rank(widths[0], rho, rho, seed + 101)
    h = of_rank(widths[-1], widths[-1], widths[-1], seed + 103)
    error = of_rank(widths[-1], widths[0], min(widths[-1], widths[0]), seed + 107)
    return Example(weights, f, h, error)


def ladder() -> list[tuple[str, Example]]:
    """Named examples: generic, bottleneck, expanding, dropped ranks, zero layer, singular S, one layer."""
    return [
        ("3-3-3-3, full rank", example((3, 3, 3, 3))),
        ("4-2-4, a bottleneck", example((4, 2, 4))),
        ("3-2-3-2, widths up and down", example((3, 2, 3, 2))),
        ("3-3-3-3, layer ranks 2, 1, 2", example((3, 3, 3, 3), (2, 1, 2))),
        ("3-3-3-3, middle layer zero", example((3, 3, 3, 3), (3, 0, 3))),
        ("4-3-3-2, rank S = 2", example((4, 3, 3, 2), rank_s=2)),
        ("3-2, one layer", example((3, 2))),
    ]


# -------------------------------------------------------------------------------------------- float arrays


def float_symbols(
    weights: Sequence[Array],
    error: Array,
    input_cov: Array,
    noise_cov: Array,
    rtol: float = 1e-10,
    biases: Sequence[Array] | None = None,
) -> dict[Any, Array]:
    """Return the float matrices that stand for the operators of `algebra`, so that formulas become numbers.

    With biases (X10) `error` is [W* − W, c* − c], `input_cov` the moment of (x, 1); Ã_i has one row more.
    """
    values, vectors = np.linalg.eigh(input_cov)
    f = vectors * np.sqrt(np.clip(values, 0, None))
    f = f[:, values > rtol * values.max()]
    h = np.linalg.cholesky(np.linalg.inv(noise_cov)).T
    depth = len(weights)
    out: dict[Any, Array] = {E: h @ error @ f}
    out[ET] = out[E].T
    a = f
    for i, weight in enumerate(weights, 1):
        out[A(i)] = a
        a = weight @ a if biases is None else affine(weight, biases[i - 1]) @ a
    b = h
    for i in range(depth, 0, -1):
        out[B(i)] = b
        b = b @ weights[i - 1]
    for i in range(1, depth + 1):
        for plain, plus, at, plus_t in ((A, AP, AT, APT), (B, BP, BT, BPT)):
            out[plus(i)] = np.linalg.pinv(out[plain(i)], rcond=rtol)
            out[at(i)], out[plus_t(i)] = out[plain(i)].T, out[plus(i)].T
        out[P(i)] = out[B(i)] @ out[BP(i)]
        out[Q(i)] = out[AP(i)] @ out[A(i)]
    return out


def affine(weight: Array, bias: Array) -> Array:
    """Return [W b; 0 1]."""
    rows, columns = weight.shape
    out = np.zeros((rows + 1, columns + 1))
    out[:rows, :columns], out[:rows, columns], out[rows, columns] = weight, bias, 1.0
    return out
