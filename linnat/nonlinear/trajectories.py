"""How good are approximations along the way? `comparison` at points of a training run, a real one.

What is easy at the start, where outputs are nearly constant, is not so later, and the other way round: a matrix that is
compared at random weights alone tells little about training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, as_count, fail
from linnat.nonlinear.comparison import DAMPINGS, Quality, compare
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers import Batch, Optimiser, as_batch
from linnat.nonlinear.passes import loss
from linnat.nonlinear.preconditioners import Preconditioner


class Point(NamedTuple):
    """A point of a training run.

    Attributes
    ----------
    update : int
        Updates before it.
    loss : float
        Mean over all rows.
    theta : array (P,)
    rows : tuple of Quality
    """

    update: int
    loss: float
    theta: Array
    rows: tuple[Quality, ...]


def along(
    net: Network,
    parameters: Any,
    x: Any,
    y: Any,
    optimiser: Optimiser[Any],
    points: Sequence[int],
    *,
    batch: int | None = None,
    rows: int | None = None,
    methods: Mapping[str, Preconditioner[Any]] | None = None,
    dampings: Sequence[float] = DAMPINGS,
    draws: int = 8,
    rng: int = 0,
) -> list[Point]:
    """Train, and compare preconditioners with the exact damped natural gradient on the way.

    Parameters
    ----------
    net : Network
        At most 6000 parameters.
    parameters : array (P,)
        Where training starts.
    x, y : array (N, n_0), (N, n_L)
    optimiser : Optimiser
        Which way is gone; what is compared there does not change it.
    points : sequence of int
        Numbers of updates, increasing; 0 is the start.
    batch : int, optional
        Rows of a minibatch, in a new random order every epoch; all rows by default.
    rows : int, optional
        The first so many rows are those of the comparison; all by default.
    methods, dampings, draws
        As in `compare`.
    rng : int
        Seed of the order of rows, of the optimiser and of the targets drawn.

    Returns
    -------
    list of Point

    Raises
    ------
    InputError
        For points that do not increase, bad input, a run that diverges.

    Examples
    --------
    >>> from linnat.nonlinear.optimisers import GradientDescent
    >>> net = Network((1, 1), family="gaussian")
    >>> found = along(net, [0.0, 0.0], [[1.0], [2.0]], [[1.0], [3.0]], GradientDescent(0.1), [0, 20])
    >>> [point.update for point in found], found[1].loss < 0.1 * found[0].loss
    ([0, 20], True)
    """
    marks = _as_points(points)
    theta = net.as_vector(parameters)
    data = as_batch(net, x, y, theta.dtype)
    size = len(data.x) if batch is None else min(as_count(batch, "batch"), len(data.x))
    kept = slice(len(data.x) if rows is None else as_count(rows, "rows"))
    orders, draw = np.random.default_rng([rng, 0]), np.random.default_rng([rng, 1])
    state, order, found = optimiser.init(net, theta), np.zeros(0, int), []
    for update in range(marks[-1] + 1):
        if update in marks:
            here = state.theta.copy()
            told = compare(
                net,
                here,
                data.x[kept],
                data.y[kept],
                methods=methods,
                dampings=dampings,
                draws=draws,
                rng=rng,
            )
            found.append(Point(update, loss(net, here, data.x, data.y), here, tuple(told)))
        if update == marks[-1]:
            break
        if len(order) < size:
            order = orders.permutation(len(data.x))
        chosen, order = order[:size], order[size:]
        part = data if size == len(data.x) else Batch(data.x[chosen], data.y[chosen])
        state, _ = optimiser.step(state, part, draw)
    return found


def _as_points(value: Sequence[int]) -> list[int]:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) == 0:
        fail("points", "a sequence of numbers of updates", repr(value))
    marks = [as_count(point, "points", low=0) for point in value]
    if any(b <= a for a, b in pairwise(marks)):
        fail("points", "increasing numbers of updates", marks)
    return marks
