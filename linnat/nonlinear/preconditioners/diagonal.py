"""The diagonal of the Fisher matrix, from squares of rows' gradients: the plainest preconditioner there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, as_dtype, as_scalar, fail
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners._contract import Info
from linnat.nonlinear.preconditioners.kfac import check_decay
from linnat.nonlinear.statistics import Statistics


class DiagonalState(NamedTuple):
    """Running second moments (P,) after a number of minibatches."""

    net: Network
    batches: int
    moments: Array


@dataclass(frozen=True)
class Diagonal:
    """Diagonal Fisher matrix.

    Parameters
    ----------
    damping : float
        λ > 0, added to the diagonal.
    decay : float
        Largest weight of the past in the running average.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> diagonal = Diagonal(damping=1.0)
    >>> batch = Statistics((np.array([[2.0]]),), (np.array([[1.0]]),))
    >>> state, _ = diagonal.update(diagonal.init(net), batch)
    >>> diagonal.apply(state, np.array([1.0, 1.0]))
    array([0.2, 0.5])
    """

    damping: float = 1e-2
    decay: float = 0.95

    def __post_init__(self) -> None:
        as_scalar(self.damping, "damping", low=0.0, open_low=True)
        check_decay(self.decay)

    def init(self, net: Network, dtype: Any = np.float64) -> DiagonalState:
        """Return the state before the first minibatch."""
        return DiagonalState(net, 0, np.zeros(net.n_parameters, as_dtype(dtype)))

    def update(self, state: DiagonalState, statistics: Statistics) -> tuple[DiagonalState, Info]:
        """Return the state after a minibatch."""
        batches = state.batches + 1
        old = min(1.0 - 1.0 / batches, self.decay)
        weight = (1.0 - old) / statistics.rows
        state.moments[...] *= old
        parts = zip(state.net.blocks(state.moments), statistics.signals, statistics.errors, strict=True)
        for part, signal, error in parts:
            squares = error**2
            squares *= weight
            part[:-1] += (signal**2).T @ squares
            part[-1] += squares.sum(axis=0)
        return state._replace(batches=batches), Info(True)

    def apply(self, state: DiagonalState, gradient: Array, *, out: Array | None = None) -> Array:
        """Return the preconditioned gradient (P,)."""
        if state.batches == 0:
            fail("state", "a state that has seen a minibatch", "a new one")
        out = np.empty_like(gradient) if out is None else out
        np.add(state.moments, self.damping, out=out)
        return np.divide(gradient, out, out=out)
