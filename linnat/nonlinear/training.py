"""How does a run go from a start to a result? One loop for every optimiser: rows, updates, clock, record, checkpoints.

Everything random is a function of the seed and the update: the order of the rows, one permutation for each pass over
them, and the optimiser's own draws. Nothing of it is stored, so that a run that was killed and is started again with
the same arguments goes on from its checkpoint as if nothing had happened: bit for bit, but for the clock.

Statements O0–O5 are about single steps; here they are put in a row and measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, InputError, as_count, as_path, as_rows, as_scalar, fail
from linnat.nonlinear._loop import Draw, Interruption, Position, Stored, average
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers import Batch, Optimiser, Report
from linnat.nonlinear.record import Row, evaluate
from linnat.nonlinear.schedules import Schedule, as_schedule

Progress = Callable[[float, Row], None]
PROGRESS_EVERY = 0.1  # seconds


class Split(NamedTuple):
    """Rows to learn from, and rows to be judged by.

    Attributes
    ----------
    x, y : array (N, n_0), (N, n_L)
        Training rows, C-ordered, in the dtype of the parameters. For autoencoders y is x, the same object.
    x_test, y_test : array (M, n_0), (M, n_L) or None
    """

    x: Array
    y: Array
    x_test: Array | None = None
    y_test: Array | None = None


class Budget(NamedTuple):
    """How long a run may be: a number of updates, or seconds of training (evaluations do not count). Give one.

    Attributes
    ----------
    updates : int or None
    seconds : float or None
    """

    updates: int | None = None
    seconds: float | None = None

    def share(self, updates: int, seconds: float) -> float:
        """Return how much of the budget is spent, 1 or more at its end.

        Examples
        --------
        >>> Budget(updates=10).share(5, 3.0)
        0.5
        """
        if self.updates is not None:
            return updates / self.updates if self.updates else 1.0
        return seconds / self.seconds if self.seconds else 1.0


class Run(NamedTuple):
    """What a run leaves.

    Attributes
    ----------
    status : "finished", "diverged" or "interrupted"
    rows : tuple of Row
        The record; the first row is the start.
    theta : array (P,)
    averaged : array (P,) or None
        Running average of the parameters.
    message : str
        Why a run diverged.
    """

    status: str
    rows: tuple[Row, ...]
    theta: Array
    averaged: Array | None
    message: str = ""


def train(
    net: Network,
    optimiser: Optimiser[Any],
    split: Split,
    theta: Any,
    *,
    budget: Budget,
    batch: int | Schedule = 200,
    seed: int = 0,
    evaluations: int = 20,
    evaluation_rows: int = 10_000,
    averaging: float | None = 0.99,
    metric: Any = None,
    checkpoint: Any = None,
    checkpoint_every: float = 60.0,
    progress: Progress | None = None,
) -> Run:
    """Train a network.

    Parameters
    ----------
    net : Network
    optimiser : Optimiser
        Any of `linnat.nonlinear.optimisers`.
    split : Split
    theta : array (P,)
        Start; its dtype is that of the whole run.
    budget : Budget
    batch : int or schedule
        Rows of an update; more than there are means all.
    seed : int
    evaluations : int
        Spread evenly over the budget, beside start and end.
    evaluation_rows : int
        Training rows, the first ones, of the evaluations in between; start and end take all of them.
    averaging : float or None
        β of θ̄ ← β θ̄ + (1 − β) θ after every update, a plain mean at first; None for no average.
    metric : array (M, n_0), optional
        Inputs from which the rows for the metric are drawn anew at every update, as many as the batch has: the training
        inputs themselves, or unlabelled ones. By default the metric is that of the batch's own rows (statement O5).
    checkpoint : path, optional
        A file, written atomically; where it exists the run goes on from it. It may have had a smaller budget.
    checkpoint_every : float
        Seconds between writings; also written at the end, on divergence and on interruption.
    progress : callable(share of the budget, latest row), optional
        Called about ten times a second at most.

    Returns
    -------
    Run
        "interrupted" after SIGINT (Ctrl-C) or SIGTERM in the main thread: the update in hand is finished and the
        checkpoint written; a second signal stops at once. "diverged" where an update left the finite numbers: with the
        parameters before it, and a last row with what was measured there.

    Raises
    ------
    InputError
        For bad arguments, an optimiser that refuses the first update, a checkpoint of another run, a file that cannot
        be written.

    Examples
    --------
    >>> from linnat.nonlinear.optimisers import GradientDescent
    >>> x = np.random.default_rng(0).standard_normal((50, 3))
    >>> net, data = Network((3, 2), family="gaussian"), Split(x, x[:, :2])
    >>> run = train(net, GradientDescent(0.5), data, np.zeros(8), budget=Budget(updates=40), batch=10)
    >>> run.status, run.rows[-1].update, run.rows[-1].train_loss < 1e-3
    ('finished', 40, True)
    """
    start = net.as_vector(theta)
    data = as_split(net, split, start.dtype)
    _check_budget(budget)
    draw = Draw(
        data.x,
        data.y,
        as_schedule(batch, "batch"),
        as_count(seed, "seed", low=0),
        None if metric is None else net.as_inputs(metric, start.dtype),
    )
    if averaging is not None:
        averaging = as_scalar(averaging, "averaging", low=0.0, high=1.0)
    loop = _Loop(
        net,
        optimiser,
        data,
        budget,
        draw,
        as_count(evaluations, "evaluations", low=0),
        as_count(evaluation_rows, "evaluation_rows"),
        averaging,
        progress,
    )
    stored = None
    if checkpoint is not None:
        kept = (seed, evaluations, evaluation_rows, averaging, metric is not None)
        described = (net, net.family, optimiser, draw.batch, *kept)
        arrays = (start, data.x, data.y, data.x_test, data.y_test, draw.metric)
        pause = as_scalar(checkpoint_every, "checkpoint_every", low=0.0)
        stored = Stored(as_path(checkpoint, "checkpoint"), repr(described), arrays, pause)
    position = stored.load(net) if stored is not None else None
    return loop.run(position or loop.start(start), stored)


def as_split(net: Network, split: Split, dtype: np.dtype[Any]) -> Split:
    """Return a checked split in the dtype of the parameters; y stays x where it was.

    Raises
    ------
    InputError
        For shapes that do not fit, targets outside of the family's range, a test set without its other half.
    """
    if (split.x_test is None) != (split.y_test is None):
        fail("split", "both x_test and y_test, or neither", "one of them")
    x, y = _as_pair(net, split.x, split.y, "y", dtype)
    if split.x_test is None:
        return Split(x, y)
    return Split(x, y, *_as_pair(net, split.x_test, split.y_test, "y_test", dtype))


def _as_pair(net: Network, x: Any, y: Any, name: str, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    inputs = net.as_inputs(x, dtype)
    targets = inputs if y is x else as_rows(y, name)
    if targets.shape != (len(inputs), net.widths[-1]):
        fail(name, f"shape {(len(inputs), net.widths[-1])}", f"shape {targets.shape}")
    net.family.targets(targets)
    return inputs, np.ascontiguousarray(targets, dtype=dtype)


def _check_budget(budget: Budget) -> None:
    if (budget.updates is None) == (budget.seconds is None):
        fail("budget", "either updates or seconds", f"updates {budget.updates}, seconds {budget.seconds}")
    if budget.updates is not None:
        as_count(budget.updates, "budget.updates", low=0)
    else:
        as_scalar(budget.seconds, "budget.seconds", low=0.0)


class _Loop(NamedTuple):
    """The arguments of a run, checked."""

    net: Network
    optimiser: Optimiser[Any]
    data: Split
    budget: Budget
    draw: Draw
    evaluations: int
    evaluation_rows: int
    averaging: float | None
    progress: Progress | None

    def start(self, theta: Array) -> Position:
        """Return the position before the first update, with its row."""
        state = self.optimiser.init(self.net, theta)
        position = Position(state, None if self.averaging is None else theta.copy(), 0, 0, 0.0, (), "running")
        return position._replace(rows=(self.row(position, None, whole=True),))

    def run(self, position: Position, stored: Stored | None) -> Run:
        """Go from a position to the end of the budget."""
        told = -np.inf
        with Interruption() as interruption:
            while position.status in ("running", "interrupted"):
                share = self.budget.share(position.updates, position.seconds)
                if share >= 1.0:
                    break
                if interruption.asked:
                    position = position._replace(status="interrupted")
                    break
                position, report = self.update(position)
                if report is None:
                    break
                share = self.budget.share(position.updates, position.seconds)
                if self.due(position, share):
                    position = position._replace(rows=(*position.rows, self.row(position, report)))
                if self.progress is not None and time.monotonic() - told >= PROGRESS_EVERY:
                    self.progress(share, self.latest(position, report))
                    told = time.monotonic()
                if stored is not None and share < 1.0:
                    stored.keep(position)
        return self.end(position, stored)

    def update(self, position: Position) -> tuple[Position, Report | None]:
        """Return the position after an update; without a report where it diverged."""
        begin = time.perf_counter()
        x, y, metric, examples = self.draw(position.updates, position.examples)
        rng = self.draw.rng(position.updates)
        try:
            # What overflows on the way is told by what it leaves: a loss or gradient that is not finite.
            with np.errstate(over="ignore", invalid="ignore"):
                state, report = self.optimiser.step(position.state, Batch(x, y, metric), rng)
        except InputError as error:
            # At the first update it is the arguments' fault, or the start's; later the run has left the finite numbers.
            if position.updates == 0:
                raise
            return position._replace(status="diverged", message=str(error)), None
        if position.average is not None and self.averaging is not None:
            average(position.average, state.theta, position.updates + 1, self.averaging)
        seconds = position.seconds + time.perf_counter() - begin
        return (
            position._replace(
                state=state,
                updates=position.updates + 1,
                examples=examples,
                seconds=seconds,
                status="running",
            ),
            report,
        )

    def due(self, position: Position, share: float) -> bool:
        """Return whether an evaluation's mark lies between the last one and here; the end has its own."""
        last = position.rows[-1]
        before = self.budget.share(last.update, last.seconds)
        marks = self.evaluations + 1
        return share < 1.0 and int(share * marks) > int(before * marks)

    def row(self, position: Position, report: Report | None, *, whole: bool = False) -> Row:
        """Evaluate parameters and average."""
        count = len(self.data.x) if whole else min(self.evaluation_rows, len(self.data.x))
        found = self.losses(position.state.theta, count)
        # The average starts where the parameters do.
        same = position.updates == 0 and position.average is not None
        averaged = found if same else self.losses(position.average, count)
        nan = float("nan")
        row = Row._make((0, 0, 0.0, count, *found, *averaged, nan, nan, nan))
        return self.latest(position, report, row)

    def losses(self, theta: Array | None, count: int) -> list[float]:
        """Return loss and squared error of the first training rows, and of all test rows; NaN for what is not there."""
        data, numbers = self.data, list[float]()
        for x, y in ((data.x[:count], data.y[:count]), (data.x_test, data.y_test)):
            if theta is None or x is None or y is None:
                numbers += (float("nan"), float("nan"))
            else:
                numbers += evaluate(self.net, theta, x, y)
        return numbers

    def latest(self, position: Position, report: Report | None, row: Row | None = None) -> Row:
        """Return a row with the present clock and the last update's report."""
        row = row or position.rows[-1]
        row = row._replace(update=position.updates, examples=position.examples, seconds=position.seconds)
        if report is None:
            return row
        rate = getattr(self.optimiser, "rate", None)
        known = float("nan") if rate is None else as_schedule(rate, "rate").at(position.updates - 1)
        return row._replace(batch_loss=float(report.loss), rate=known, damping=float(report.damping))

    def end(self, position: Position, stored: Stored | None) -> Run:
        """Close the record, write the checkpoint, return the run."""
        over = self.budget.share(position.updates, position.seconds) >= 1.0
        if over and position.status != "diverged":
            position = position._replace(status="finished")
        if position.status in ("finished", "diverged") and not self.closed(position):
            last = position.rows[-1]
            row = self.row(position, None, whole=True)
            row = row._replace(batch_loss=last.batch_loss, rate=last.rate, damping=last.damping)
            position = position._replace(rows=(*position.rows, row))
            if not np.isfinite(row.train_loss):
                message = position.message or f"train_loss: expected a finite number, found {row.train_loss}."
                position = position._replace(status="diverged", message=message)
        if stored is not None:
            stored.write(position)
        if self.progress is not None:
            self.progress(min(1.0, self.budget.share(position.updates, position.seconds)), position.rows[-1])
        theta = position.state.theta.copy()
        return Run(position.status, position.rows, theta, position.average, position.message)

    def closed(self, position: Position) -> bool:
        """Return whether the last row is this position's, of all rows."""
        last = position.rows[-1]
        return last.update == position.updates and last.evaluated_rows == len(self.data.x)
