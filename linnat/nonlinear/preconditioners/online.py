"""Online natural gradient for multilayer networks (Bernacchia, Lengyel and Hennequin 2018). Statement O1.

v_i = (1/L) (Λ̃_i + √λ I)⁻¹ D_i (Λ_{i−1} + √λ I)⁻¹ for the gradient D_i of layer i: Λ_{i−1} = E[h̃_{i−1}h̃_{i−1}ᵀ] over
the data, Λ̃_i = E[δ_iδ_iᵀ] with errors of targets drawn from the model, both as running averages. The factor 1/L makes
it the natural gradient, and not L of them, for identity units where no layer is a bottleneck (statement N1); everywhere
else it is an approximation. Three ways to keep the inverses:

* "cholesky": of the averages, every `period` minibatches;
* "eigen": eigendecompositions of the averages, every `period` minibatches: what is below the rank is known. With a
  `cutoff` eigenvalues up to cutoff √λ count as none, an error of that relative size at most in the inverse, and where
  fewer than half are left the inverse is (I − H Hᵀ)/√λ with one column of H for each: two thin products for a square
  one. Damping rules those directions anyway; as λ → 0 all come back;
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
from linnat.nonlinear._rooms import room
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners._contract import Info
from linnat.nonlinear.preconditioners._factors import (
    Factors,
    averaged,
    by_layers,
    copied,
    damped_inverse,
    empty,
    extended,
    is_due,
    of_factors,
)
from linnat.nonlinear.preconditioners.kfac import check_decay
from linnat.nonlinear.statistics import Statistics

STRATEGIES = ("cholesky", "eigen", "woodbury")


class Deflated(NamedTuple):
    """The matrix (I − H Hᵀ)/root with few columns.

    Attributes
    ----------
    columns : array (n, k)
        H.
    root : float
        √λ.
    """

    columns: Array
    root: float


class OnlineState(NamedTuple):
    """Running averages and inverses.

    Attributes
    ----------
    net : Network
    factors : Factors
        Without damping; for "woodbury" with the rows that stand for it.
    inverses : tuple of pairs of arrays, or of Deflated where a cutoff leaves few columns
    """

    net: Network
    factors: Factors
    inverses: tuple[tuple[Any, Any], ...]


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
    cutoff : float
        For "eigen": share of √λ up to which eigenvalues are left out, with a relative error of at most as much in those
        directions; 0 leaves out none, and the inverse is that of "cholesky" to rounding.
    coordinates : int
        m, for "woodbury": coordinates damped with each minibatch.
    tolerance : float
        Residual ‖(M P − I)w‖/‖w‖ on random vectors beyond which "woodbury" makes its inverse anew.
    early : bool
        Whether the first period has renewals with updates 1, 2, 4, 8, … too: the average of one minibatch lacks
        directions of the next.

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
    period: int = 100
    strategy: str = "eigen"
    cutoff: float = 0.1
    coordinates: int = 8
    tolerance: float = 1e-3
    early: bool = True
    _probes: int = field(default=4, repr=False)

    def __post_init__(self) -> None:
        as_scalar(self.damping, "damping", low=0.0, open_low=True)
        as_scalar(self.tolerance, "tolerance", low=0.0, open_low=True)
        as_scalar(self.cutoff, "cutoff", low=0.0, high=1.0)
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
        due = is_due(state.factors.batches, self.period, self.early)
        if self.strategy == "woodbury":
            return self._corrected(state, statistics, due)
        state = state._replace(factors=averaged(state.factors, statistics, self.decay, fresh=due))
        if not due:
            return state, Info(False)
        state, ranks = self._refreshed(state)
        return state, Info(True, ranks if self.strategy == "eigen" else ())

    def refreshed(self, state: OnlineState) -> OnlineState:
        """Return the state with inverses of the present factors.

        Raises
        ------
        InputError
            For "woodbury", whose damping is in the averages.
        """
        if self.strategy == "woodbury":
            fail("strategy", "'cholesky' or 'eigen' where the damping changes", self.strategy)
        return self._refreshed(state)[0]

    def _refreshed(self, state: OnlineState) -> tuple[OnlineState, tuple[tuple[int, int], ...]]:
        made = of_factors(state.factors, lambda k, matrix, name: self._inverse(matrix, name))
        ranks = tuple((a[1], g[1]) for a, g in made)
        return state._replace(inverses=tuple((a[0], g[0]) for a, g in made)), ranks

    def _inverse(self, matrix: Array, name: str) -> tuple[Array | Deflated, int]:
        root = self.damping**0.5
        if self.strategy == "cholesky":
            return damped_inverse(matrix, root, name), 0
        values, vectors = np.linalg.eigh(matrix)
        eps = float(np.finfo(values.dtype).eps)
        rank = int(count_rank(np.maximum(values[::-1], 0.0), len(values) * eps))
        kept = values > self.cutoff * root
        # I − H Hᵀ cancels in the direction of a large eigenvalue a: a relative error of eps a/√λ.
        if 2 * kept.sum() < len(values) and eps * values[-1] <= self.cutoff * root:
            columns = vectors[:, kept] * np.sqrt(values[kept] / (values[kept] + root))
            return Deflated(columns, root), rank
        return (vectors / (np.maximum(values, 0.0) + root)) @ vectors.T, rank

    def apply(self, state: OnlineState, gradient: Array, *, out: Array | None = None) -> Array:
        """Return v with its factor 1/L, (P,), in `out` if that is given."""
        if not state.inverses:
            fail("state", "a state that has seen a minibatch", "a new one")

        def layer(i: int, block: Array, part: Array) -> None:
            inner, outer = state.inverses[i]
            (half,) = room("layer", gradient.dtype, block.shape)
            apply_inverse(inner, block, half)
            half *= 1.0 / state.net.depth
            # N is symmetric: N D = (Dᵀ N)ᵀ.
            apply_inverse(outer, half.T, part.T)

        return by_layers(state.net, gradient, out, layer)

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


def apply_inverse(inverse: Array | Deflated, rows: Array, out: Array) -> None:
    """Write the product of an inverse and (n, m) into `out`, which is not `rows`.

    Examples
    --------
    >>> out = np.empty((2, 1))
    >>> apply_inverse(Deflated(np.array([[0.5], [0.0]]), 2.0), np.ones((2, 1)), out)
    >>> out
    array([[0.375],
           [0.5  ]])
    """
    if not isinstance(inverse, Deflated):
        np.matmul(inverse, rows, out=out)
        return
    columns, root = inverse
    (inside,) = room("inside", out.dtype, (columns.shape[1], rows.shape[1]))
    np.matmul(columns.T, rows, out=inside)
    np.matmul(columns, inside, out=out)
    np.subtract(rows, out, out=out)
    out *= 1.0 / root


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
