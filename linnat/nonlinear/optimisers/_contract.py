"""What do all optimisers promise?"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from linnat._checks import Array
from linnat.nonlinear.network import Network

State = TypeVar("State")


class Batch(NamedTuple):
    """Rows of one update.

    Attributes
    ----------
    x, y : array (N, n_0), (N, n_L)
        In the dtype of the parameters, C-ordered; nothing is checked or converted in the loop.
    metric : array (M, n_0) or None
        Rows of inputs for the metric; x by default. The Fisher matrix needs no targets: unlabelled ones do.
    search : (x, y) or None
        Rows on which a subspace is searched; x and y by default.
    """

    x: Array
    y: Array
    metric: Array | None = None
    search: tuple[Array, Array] | None = None


class Report(NamedTuple):
    """What a step did.

    Attributes
    ----------
    loss : float
        Mean loss on the batch before the step (at the point where the gradient was taken).
    gradient_norm, step_norm : float
        Euclidean.
    damping : float
        In use; 0 where there is none.
    products : int
        Products with a curvature matrix.
    ratio : float
        Reduction of the loss over what the quadratic model foretold; NaN where it was not measured.
    """

    loss: float
    gradient_norm: float
    step_norm: float
    damping: float = 0.0
    products: int = 0
    ratio: float = float("nan")


class Optimiser(Protocol[State]):
    """The contract.

    ``init(net, theta)`` returns a state, which has the parameters as its `theta`; ``step(state, batch, rng)`` returns
    the next state and a `Report`. The state that was given must not be used again, since its arrays are written over;
    where `DivergenceError` is raised it is as it was.
    """

    def init(self, net: Network, theta: Array) -> State:
        """Return the state before the first update."""
        ...

    def step(self, state: State, batch: Batch, rng: np.random.Generator) -> tuple[State, Report]:
        """Return the state after an update."""
        ...
