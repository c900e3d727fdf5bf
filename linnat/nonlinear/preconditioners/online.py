"""Online natural gradient for multilayer networks (Bernacchia, Lengyel and Hennequin 2018). Statement O1.

v_i = (1/L) (Λ̃_i + √λ I)⁻¹ D_i (Λ_{i−1} + √λ I)⁻¹ for the gradient D_i of layer i: Λ_{i−1} = E[h̃_{i−1}h̃_{i−1}ᵀ] over
the data, Λ̃_i = E[δ_iδ_iᵀ] with errors of targets drawn from the model, both as running averages. The factor 1/L makes
it the natural gradient, and not L of them, for identity units where no layer is a bottleneck (statement N1); everywhere
else it is an approximation. Three ways to keep the inverses:

* "cholesky": of the averages, every `period` minibatches;
* "eigen": eigendecompositions of the averages, every `period` minibatches: what is below the rank is known;
* "woodbury": after each minibatch of N rows a rank-N correction of the inverse, for N below the widths. Damping cannot
  be added afterwards then: it enters as rows of its own, √(n √λ/m) e_j for m coordinates j taken in turn, n/m
  minibatches for a round, whose average is √λ I. Rounding drifts; the inverse is made anew when its residual on random
  vectors exceeds `tolerance`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, as_choice, as_count, as_dtype, as_scalar, fail
from linnat.linalg.rank import count_rank
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners._contract import Info
from linnat.nonlinear.preconditioners._factors import (
    Factors,
    averaged,
    copied,
    damped_inverse,
    empty,
    extended,
)
from linnat.nonlinear.preconditioners.kfac import check_decay, kronecker_product
from linnat.nonlinear.statistics import Statistics

STRATEGIES = ("cholesky", "eigen", "woodbury")


class OnlineState(NamedTuple):
    """Running averages and inverses.

    Attributes
    ----------
    net : Network
    factors : Factors
        Without damping; for "woodbury" with the rows that stand for it.
    inverses : tuple of pairs of arrays
    """

    net: Network
    factors: Factors
    inverses: tuple[tuple[Array, Array], ...]


@dataclass(frozen=True)
class OnlineNaturalGradient:
    """Online natural gradient.

    Parameters
    ----------
    damping : float
        λ > 0: √λ is added to each factor.
    decay : float
        Largest weight of the past in the running averages.
    period : int
        Minibatches between refreshes, for "cholesky" and "eigen"; between checks of the drift, for "woodbury".
    strategy : "cholesky", "eigen" or "woodbury"
    coordinates : int
        m, for "woodbury": coordinates damped with each minibatch.
    tolerance : float
        Residual ‖(M P − I)w‖/‖w‖ on random vectors beyond which "woodbury" makes its inverse anew.

    Raises
    ------
    InputError
        For a damping or tolerance that is not positive, a decay outside of [0, 1), unknown strategies.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> online = OnlineNaturalGradient(damping=1.0)
    >>> batch = Statistics((np.array([[1.0], [-1.0]]),), (np.array([[1.0], [-1.0]]),))
    >>> state, _ = online.update(online.init(net), batch)
    >>> online.apply(state, np.array([1.0, 0.0]))
    array([0.25, 0.  ])
    """

    damping: float = 1e-2
    decay: float = 0.95
    period: int = 20
    strategy: str = "cholesky"
    coordinates: int = 8
    tolerance: float = 1e-3
    _probes: int = field(default=4, repr=False)

    def __post_init__(self) -> None:
        as_scalar(self.damping, "damping", low=0.0, open_low=True)
        as_scalar(self.tolerance, "tolerance", low=0.0, open_low=True)
        check_decay(self.decay)
        as_count(self.period, "period")
        as_count(self.coordinates, "coordinates")
        if as_choice(self.strategy, "strategy", STRATEGIES) == "woodbury" and self.decay == 0.0:
            fail("decay", "a number in (0, 1): woodbury corrects what there was", 0.0)

    def init(self, net: Network, dtype: Any = np.float64) -> OnlineState:
        """Return the state before the first minibatch."""
        factors = empty(net, as_dtype(dtype))
        if self.strategy != "woodbury":
            return OnlineState(net, factors, ())
        root = self.damping**0.5
        for matrix in (*factors.inputs, *factors.outputs):
            matrix[np.diag_indices_from(matrix)] = root
        pairs = zip(factors.inputs, factors.outputs, strict=True)
        inverses = tuple(
            (np.eye(len(a), dtype=a.dtype) / root, np.eye(len(g), dtype=g.dtype) / root) for a, g in pairs
        )
        return OnlineState(net, factors, inverses)

    def update(self, state: OnlineState, statistics: Statistics) -> tuple[OnlineState, Info]:
        """Return the state after a minibatch, and whether inverses were made anew."""
        due = state.factors.batches % self.period == 0
        if self.strategy == "woodbury":
            return self._corrected(state, statistics, due)
        state = state._replace(factors=averaged(state.factors, statistics, self.decay, fresh=due))
        if not due:
            return state, Info(False)
        pairs, ranks = [], []
        for i, matrices in enumerate(zip(state.factors.inputs, state.factors.outputs, strict=True), start=1):
            made = [
                self._inverse(m, f"{side} of layer {i}")
                for m, side in zip(matrices, ("inputs", "outputs"), strict=True)
            ]
            pairs.append((made[0][0], made[1][0]))
            ranks.append((made[0][1], made[1][1]))
        known = tuple(ranks) if self.strategy == "eigen" else ()
        return state._replace(inverses=tuple(pairs)), Info(True, known)

    def _inverse(self, matrix: Array, name: str) -> tuple[Array, int]:
        root = self.damping**0.5
        if self.strategy == "cholesky":
            return damped_inverse(matrix, root, name), 0
        values, vectors = np.linalg.eigh(matrix)
        rank = int(count_rank(np.maximum(values[::-1], 0.0), len(values) * float(np.finfo(values.dtype).eps)))
        return (vectors / (np.maximum(values, 0.0) + root)) @ vectors.T, rank

    def apply(self, state: OnlineState, gradient: Array) -> Array:
        """Return v with its factor 1/L, (P,)."""
        out = kronecker_product(state.net, state.inverses, gradient)
        out /= state.net.depth
        return out

    def _corrected(self, state: OnlineState, statistics: Statistics, due: bool) -> tuple[OnlineState, Info]:
        """Return the state after corrections of rank N + m of every inverse."""
        count = state.factors.batches + 1
        old = min(1.0 - 1.0 / (count + 1), self.decay)
        if due:  # a repair may fail, and must leave the state
            pairs = tuple((a.copy(), g.copy()) for a, g in state.inverses)
            state = state._replace(factors=copied(state.factors), inverses=pairs)
        rows = [[extended(h) for h in statistics.signals], list(statistics.errors)]
        sides = (state.factors.inputs, state.factors.outputs)
        repaired, kept = False, []
        for k, (data, matrices) in enumerate(zip(rows, sides, strict=True)):
            inverses = []
            for i, (part, matrix) in enumerate(zip(data, matrices, strict=True)):
                inverse = state.inverses[i][k]
                block = np.concatenate(
                    [part / np.sqrt(len(part)), self._damping_rows(len(matrix), count, matrix.dtype)]
                )
                absorb(matrix, inverse, block, old)
                if due and residual(matrix, inverse, self._probes) > self.tolerance:
                    inverse = damped_inverse(matrix, 0.0, f"factor {k} of layer {i + 1}")
                    repaired = True
                inverses.append(inverse)
            kept.append(inverses)
        pairs = tuple(zip(kept[0], kept[1], strict=True))
        return state._replace(factors=state.factors._replace(batches=count), inverses=pairs), Info(repaired)

    def _damping_rows(self, size: int, count: int, dtype: Any) -> Array:
        """Return rows whose mean square over a round of minibatches is √λ I."""
        taken = min(self.coordinates, size)
        rows = np.zeros((taken, size), dtype)
        places = (np.arange(taken) + (count - 1) * taken) % size
        rows[np.arange(taken), places] = np.sqrt(size / taken * self.damping**0.5)
        return rows


def absorb(matrix: Array, inverse: Array, rows: Array, old: float) -> None:
    """Overwrite M with old M + (1 − old) RᵀR and P = M⁻¹ with its inverse, by Woodbury's identity.

    With T = √((1 − old)/old) R P: P ← (P − Tᵀ(I + T R' )⁻¹T)/old, R' = √((1 − old)/old) Rᵀ.

    Examples
    --------
    >>> matrix, inverse = np.eye(2), np.eye(2)
    >>> absorb(matrix, inverse, np.array([[2.0, 0.0]]), 0.5)
    >>> inverse
    array([[0.4, 0. ],
           [0. , 2. ]])
    """
    weight = np.sqrt((1.0 - old) / old)
    scaled = weight * rows
    through = scaled @ inverse
    core = through @ scaled.T
    core[np.diag_indices_from(core)] += 1.0
    lower = np.linalg.cholesky(core)
    half = np.linalg.solve(lower, through)
    inverse -= half.T @ half  # a symmetric rank-k update: P stays symmetric
    inverse /= old
    matrix *= old
    matrix += (1.0 - old) * (rows.T @ rows)


def residual(matrix: Array, inverse: Array, probes: int) -> float:
    """Return ‖M P w − w‖/‖w‖, the largest of a few fixed vectors of ±1."""
    signs = np.where(np.random.default_rng(0).random((len(matrix), probes)) < 0.5, -1.0, 1.0).astype(
        matrix.dtype
    )
    off = matrix @ (inverse @ signs) - signs
    return float(np.linalg.norm(off, axis=0).max() / len(matrix) ** 0.5)
