"""Limited-memory BFGS on minibatches: a burst of iterations on each, started anew (Le et al. 2011).

Curvature pairs of two minibatches do not fit together: the memory is forgotten between them. On all rows this is
`minimise` in instalments. It needs large minibatches and few iterations on each, or it fits their noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from linnat._checks import Array, as_count
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers._contract import Batch, Report
from linnat.nonlinear.optimisers.first_order import workspace
from linnat.nonlinear.optimisers.full_batch import minimise
from linnat.nonlinear.output import check_finite, step_gradient
from linnat.nonlinear.passes import Workspace


class BurstState(NamedTuple):
    """Parameters, and buffers.

    Attributes
    ----------
    net : Network
    theta : array (P,)
    updates : int
    gradient : array (P,)
        Buffer.
    work : Workspace or None
    """

    net: Network
    theta: Array
    updates: int
    gradient: Array
    work: Workspace | None


@dataclass(frozen=True)
class LbfgsBursts:
    """L-BFGS, `iterations` of it on each minibatch.

    Parameters
    ----------
    iterations : int
        On one minibatch, with their line searches.

    Examples
    --------
    >>> net, method = Network((1, 1), family="gaussian"), LbfgsBursts(9)
    >>> batch = Batch(np.array([[1.0], [2.0]]), np.array([[1.0], [3.0]]))
    >>> method.step(method.init(net, np.zeros(2)), batch, np.random.default_rng(0))[0].theta.round(4)
    array([ 2., -1.])
    """

    iterations: int = 5

    def __post_init__(self) -> None:
        as_count(self.iterations, "iterations")

    def init(self, net: Network, theta: Array) -> BurstState:
        """Return the state before the first update; the parameters are copied."""
        start = net.as_vector(theta).copy()
        return BurstState(net, start, 0, np.empty_like(start), None)

    def step(self, state: BurstState, batch: Batch, rng: np.random.Generator) -> tuple[BurstState, Report]:
        """Return the state after an update."""
        net, theta, gradient = state.net, state.theta, state.gradient
        work = workspace(net, state.work, batch.x)
        value, square = step_gradient(net, theta, batch.x, batch.y, work, gradient)
        check_finite(value, square)
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # the line search comes back from where it overflows
            found = minimise(net, theta, batch.x, batch.y, iterations=self.iterations)
        length = float(np.linalg.norm(found.theta - theta))
        theta[...] = found.theta
        return state._replace(updates=state.updates + 1, work=work), Report(value, square**0.5, length)
