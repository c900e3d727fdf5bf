"""What do all optimisers promise?"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from linnat._checks import Array, as_dtype, as_rows, fail
from linnat.nonlinear._crew import crew
from linnat.nonlinear.network import Network

State = TypeVar("State")
Result = TypeVar("Result")


class Batch(NamedTuple):
    """Rows of one update.

    Attributes
    ----------
    x, y : array (N, n_0), (N, n_L)
        In the dtype of the parameters, C-ordered. A step looks at shapes and dtypes only, and converts nothing: what
        targets may be is checked once, before the loop, by `as_batch`.
    metric : array (M, n_0) or None
        Rows of inputs for the metric; x by default. The Fisher matrix needs no targets: unlabelled ones do.
    search : (x, y) or None
        Rows on which a subspace is searched; x and y by default.
    """

    x: Array
    y: Array
    metric: Array | None = None
    search: tuple[Array, Array] | None = None


def as_batch(
    net: Network, x: Any, y: Any, dtype: Any = np.float64, *, metric: Any = None, search: Any = None
) -> Batch:
    """Return checked rows in a dtype, C-ordered: copies where they are not that already.

    Parameters
    ----------
    net : Network
    x, y : array (N, n_0), (N, n_L)
    dtype : float32 or float64
        Of the parameters.
    metric : array (M, n_0), optional
    search : (x, y), optional

    Raises
    ------
    InputError
        For numbers that are not finite, other shapes, targets outside of the family's range.

    Examples
    --------
    >>> as_batch(Network((1, 1), family="bernoulli"), [[1], [2]], [[0], [1]], np.float32).y.dtype
    dtype('float32')
    """
    kind = as_dtype(dtype)
    rows = net.as_inputs(x, kind)
    batch = Batch(
        rows,
        _targets(net, y, kind),
        None if metric is None else net.as_inputs(metric, kind),
        None if search is None else (net.as_inputs(search[0], kind), _targets(net, search[1], kind)),
    )
    check_batch(net, kind, batch)
    return batch


def _targets(net: Network, y: Any, dtype: np.dtype[Any]) -> Array:
    return np.ascontiguousarray(net.family.targets(as_rows(y, "y")), dtype=dtype)


def with_crew(step: Callable[[Any, Any, Batch, Any], Result]) -> Callable[[Any, Any, Batch, Any], Result]:
    """Return a step that has a crew from beginning to end, where its gradient is worth one."""

    @wraps(step)
    def inner(self: Any, state: Any, batch: Batch, rng: Any) -> Result:
        rows = len(batch.x) if isinstance(batch.x, np.ndarray) and batch.x.ndim else 0
        with crew(6.0 * rows * state.net.n_parameters):
            return step(self, state, batch, rng)

    return inner


def check_batch(net: Network, dtype: np.dtype[Any], batch: Batch) -> None:
    """Raise unless the rows have the shapes of the network and the dtype of the parameters; no number is read."""
    pairs = [(batch.x, batch.y)]
    if batch.search is not None:
        pairs.append(batch.search)
    for x, y in pairs:
        _check_rows("x", x, net.widths[0], dtype)
        _check_rows("y", y, net.widths[-1], dtype)
        if len(x) != len(y):
            fail("y", f"{len(x)} rows, as x has", len(y))
    if batch.metric is not None:
        _check_rows("metric", batch.metric, net.widths[0], dtype)


def _check_rows(name: str, rows: Array, columns: int, dtype: np.dtype[Any]) -> None:
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != columns or len(rows) == 0:
        fail(name, f"an array of rows and {columns} columns", f"shape {np.shape(rows)}")
    if rows.dtype != dtype:
        fail(name, f"dtype {dtype}, that of the parameters", rows.dtype, "as_batch converts.")


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
    where an error is raised (`DivergenceError` for a loss or gradient that is not finite, `InputError` for rows that do
    not fit) it is as it was, but for its buffers.
    """

    def init(self, net: Network, theta: Array) -> State:
        """Return the state before the first update."""
        ...

    def step(self, state: State, batch: Batch, rng: np.random.Generator) -> tuple[State, Report]:
        """Return the state after an update."""
        ...
