"""Blocks of single units: the row [w_a b_a] of a layer, whole or quasi-diagonal (Ollivier 2015).

The block of unit a is E[δ_a² h̃h̃ᵀ], (n_{i−1} + 1) square. "full" keeps it: n_i factorisations, for small layers. It is
invariant under affine changes of the unit's inputs. "quasi-diagonal" keeps its diagonal and its last row, the coupling
of weights and bias, and solves with the matrix that has these and zeros elsewhere only approximately: the bias is
eliminated as if each weight met it alone, which needs O(P) operations and is invariant under affine changes of single
inputs, such as exchanging an input for its complement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, as_choice, as_count, as_dtype, as_scalar, fail
from linnat.linalg.memory import refuse_beyond_memory
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners._contract import Info
from linnat.nonlinear.preconditioners._factors import extended, is_due
from linnat.nonlinear.preconditioners.kfac import check_decay
from linnat.nonlinear.statistics import Statistics

KINDS = ("full", "quasi-diagonal")


class UnitState(NamedTuple):
    """Running blocks.

    Attributes
    ----------
    net : Network
    batches : int
        Minibatches seen.
    blocks : tuple of arrays (n_i, n_{i−1} + 1, n_{i−1} + 1)
        For "full".
    diagonals, couplings : tuple of arrays (n_{i−1} + 1, n_i), (n_{i−1}, n_i)
        For "quasi-diagonal": E[δ² h̃²] and E[δ² h].
    factors : tuple of arrays
        Cholesky factors of the damped blocks in use.
    """

    net: Network
    batches: int
    blocks: tuple[Array, ...]
    diagonals: tuple[Array, ...]
    couplings: tuple[Array, ...]
    factors: tuple[Array, ...]


@dataclass(frozen=True)
class UnitWise:
    """Unit-wise natural gradient.

    Parameters
    ----------
    damping : float
        λ > 0, added to the diagonals.
    decay : float
        Largest weight of the past in the running averages.
    kind : "full" or "quasi-diagonal"
    period : int
        Updates between factorisations, for "full".
    early : bool
        Whether the first period has renewals with updates 1, 2, 4, 8, … too: the average of one minibatch lacks
        directions of the next.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> batch = Statistics((np.array([[2.0]]),), (np.array([[1.0]]),))
    >>> for kind in KINDS:
    ...     method = UnitWise(damping=1.0, kind=kind)
    ...     state, _ = method.update(method.init(net), batch)
    ...     print(method.apply(state, np.array([1.0, 0.0])))
    [ 0.33333333 -0.33333333]
    [ 0.33333333 -0.33333333]
    """

    damping: float = 1e-2
    decay: float = 0.95
    kind: str = "quasi-diagonal"
    period: int = 20
    early: bool = True

    def __post_init__(self) -> None:
        as_scalar(self.damping, "damping", low=0.0, open_low=True)
        check_decay(self.decay)
        as_choice(self.kind, "kind", KINDS)
        as_count(self.period, "period")

    def init(self, net: Network, dtype: Any = np.float64) -> UnitState:
        """Return the state before the first minibatch; refuses whole blocks beyond the stated share of memory."""
        kind = as_dtype(dtype)
        if self.kind == "full":
            entries = sum(rows * columns**2 for rows, columns in net.shapes)
            refuse_beyond_memory("net", entries, kind.itemsize, "Use kind='quasi-diagonal'.", 2)
            blocks = tuple(np.zeros((rows, columns, columns), kind) for rows, columns in net.shapes)
            return UnitState(net, 0, blocks, (), (), ())
        diagonals = tuple(np.zeros((columns, rows), kind) for rows, columns in net.shapes)
        couplings = tuple(np.zeros((columns - 1, rows), kind) for rows, columns in net.shapes)
        return UnitState(net, 0, (), diagonals, couplings, ())

    def update(self, state: UnitState, statistics: Statistics) -> tuple[UnitState, Info]:
        """Return the state after a minibatch, and whether blocks were factorised."""
        due = is_due(state.batches, self.period, self.early)
        batches = state.batches + 1
        old = min(1.0 - 1.0 / batches, self.decay)
        weight = (1.0 - old) / statistics.rows
        if due and self.kind == "full":  # factorisations may fail, and must leave the state
            state = state._replace(blocks=tuple(block.copy() for block in state.blocks))
        for i, (signal, error) in enumerate(zip(statistics.signals, statistics.errors, strict=True)):
            squares = weight * error**2
            if self.kind == "full":
                wide = extended(signal)
                state.blocks[i][...] *= old
                for a, block in enumerate(state.blocks[i]):
                    weighted = np.sqrt(squares[:, a])[:, None] * wide
                    block += weighted.T @ weighted
                continue
            diagonal, coupling = state.diagonals[i], state.couplings[i]
            diagonal *= old
            diagonal[:-1] += (signal**2).T @ squares
            diagonal[-1] += squares.sum(axis=0)
            coupling *= old
            coupling += signal.T @ squares
        state = state._replace(batches=batches)
        if self.kind == "full" and due:
            state = state._replace(factors=self._factorised(state))
        return state, Info(due and self.kind == "full")

    def _factorised(self, state: UnitState) -> tuple[Array, ...]:
        found = []
        for i, block in enumerate(state.blocks, start=1):
            try:
                found.append(
                    np.linalg.cholesky(block + self.damping * np.eye(block.shape[-1], dtype=block.dtype))
                )
            except np.linalg.LinAlgError:
                fail(
                    f"units of layer {i}",
                    "blocks that are positive definite after damping",
                    f"a pivot ≤ 0 with damping {self.damping:.3g}",
                    "Take more damping or more rows.",
                )
        return tuple(found)

    def apply(self, state: UnitState, gradient: Array, *, out: Array | None = None) -> Array:
        """Return the preconditioned gradient (P,)."""
        if state.batches == 0:
            fail("state", "a state that has seen a minibatch", "a new one")
        out = np.empty_like(gradient) if out is None else out
        for i, (block, part) in enumerate(
            zip(state.net.blocks(gradient), state.net.blocks(out), strict=True)
        ):
            if self.kind == "full":
                lower = state.factors[i]
                half = np.linalg.solve(lower, block.T[:, :, None])
                part[...] = np.linalg.solve(np.swapaxes(lower, -1, -2), half)[:, :, 0].T
                continue
            diagonal = state.diagonals[i] + self.damping
            share = state.couplings[i] / diagonal[-1]
            # By Cauchy and Schwarz E[δ²h]² ≤ E[δ²] E[δ²h²], so what is left is at least the damping.
            rest = np.maximum(diagonal[:-1] - share * state.couplings[i], self.damping)
            part[:-1] = (block[:-1] - share * block[-1]) / rest
            part[-1] = block[-1] / diagonal[-1] - (share * part[:-1]).sum(axis=0)
        return out
