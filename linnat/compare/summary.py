"""What do runs come to? Final losses with their spread, time and updates to a target: numbers for tables.

Everything is said of the parameters or of their running average, whichever has the lower *training* loss at that
evaluation: the same rule for all methods, and the test set decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from linnat.nonlinear.record import Row


class Reported(NamedTuple):
    """What an evaluation is quoted with.

    Attributes
    ----------
    update : int
    examples : int
    seconds : float
    train_loss, train_squared, test_loss, test_squared : float
    averaged : bool
        Whether the numbers are those of the running average.
    """

    update: int
    examples: int
    seconds: float
    train_loss: float
    train_squared: float
    test_loss: float
    test_squared: float
    averaged: bool


class Curve(NamedTuple):
    """A run as the summary needs it.

    Attributes
    ----------
    method : str
    seed : int
    status : str
        "finished", "diverged", "failed" or "missing".
    message : str
    points : tuple of Reported
    """

    method: str
    seed: int
    status: str
    message: str
    points: tuple[Reported, ...]


class Spread(NamedTuple):
    """A number over seeds.

    Attributes
    ----------
    middle, low, high : float
        Median, least and largest; NaN where there is none.
    """

    middle: float
    low: float
    high: float


class Summary(NamedTuple):
    """One method.

    Attributes
    ----------
    method : str
    runs, finished, diverged : int
    train_loss, train_squared, test_loss, test_squared, seconds, updates, examples : Spread
        At the end, of the finished runs.
    """

    method: str
    runs: int
    finished: int
    diverged: int
    train_loss: Spread
    train_squared: Spread
    test_loss: Spread
    test_squared: Spread
    seconds: Spread
    updates: Spread
    examples: Spread


class Reach(NamedTuple):
    """What a method needs to get to a loss.

    Attributes
    ----------
    runs, reached : int
        Runs of the method that have ended, and those that get there and do not diverge.
    seconds, updates : float
        Median over all runs at the first evaluation that is there; inf where at least half of them do not get there.
    """

    runs: int
    reached: int
    seconds: float
    updates: float


def reported(row: Row) -> Reported:
    """Return the numbers of the parameters, or of their average where its training loss is lower.

    Examples
    --------
    >>> row = Row(1, 100, 0.1, 50, 2.0, 0.5, 2.1, 0.6, 1.5, 0.4, 2.2, 0.5, 2.3, 0.01, float("nan"))
    >>> reported(row).train_loss, reported(row).test_loss
    (1.5, 2.2)
    """
    place = row.update, row.examples, row.seconds
    if row.averaged_train_loss < row.train_loss or not math.isfinite(row.train_loss):
        numbers = (
            row.averaged_train_loss,
            row.averaged_train_squared,
            row.averaged_test_loss,
            row.averaged_test_squared,
        )
        if math.isfinite(row.averaged_train_loss):
            return Reported(*place, *numbers, True)
    return Reported(*place, row.train_loss, row.train_squared, row.test_loss, row.test_squared, False)


def spread(numbers: Sequence[float]) -> Spread:
    """Return median, least and largest of numbers.

    Examples
    --------
    >>> spread([3.0, 1.0, 2.0])
    Spread(middle=2.0, low=1.0, high=3.0)
    """
    if not numbers:
        return Spread(math.nan, math.nan, math.nan)
    return Spread(float(median(numbers)), float(min(numbers)), float(max(numbers)))


def summarise(method: str, curves: Sequence[Curve]) -> Summary:
    """Return one method's numbers at the end of its finished runs."""
    own = [curve for curve in curves if curve.method == method]
    ends = [curve.points[-1] for curve in own if curve.status == "finished"]
    names = ("train_loss", "train_squared", "test_loss", "test_squared", "seconds", "update", "examples")
    spreads = (spread([float(getattr(end, name)) for end in ends]) for name in names)
    return Summary(method, len(own), len(ends), sum(c.status == "diverged" for c in own), *spreads)


def reach(method: str, curves: Sequence[Curve], target: float) -> Reach:
    """Return when the runs of a method are first at a training loss, or below it.

    Parameters
    ----------
    method : str
    curves : sequence of Curve
    target : float

    Examples
    --------
    >>> points = tuple(Reported(10 * k, 0, float(k), 5.0 - k, 0, 0, 0, False) for k in range(4))
    >>> reach("sgd", [Curve("sgd", 0, "finished", "", points)], 3.5)
    Reach(runs=1, reached=1, seconds=2.0, updates=20.0)
    """
    own = [curve for curve in curves if curve.method == method and curve.status in ("finished", "diverged")]
    # A run that diverges later has not got anywhere.
    firsts = [
        next((p for p in curve.points if p.train_loss <= target and curve.status == "finished"), None)
        for curve in own
    ]
    seconds = [math.inf if p is None else p.seconds for p in firsts]
    updates = [math.inf if p is None else float(p.update) for p in firsts]
    if not own:
        return Reach(0, 0, math.inf, math.inf)
    # The upper median: half of the runs or more get there by then.
    middle = len(own) // 2
    return Reach(
        len(own), sum(p is not None for p in firsts), sorted(seconds)[middle], sorted(updates)[middle]
    )


def best_baseline(summaries: Sequence[Summary], baselines: Sequence[str]) -> Summary | None:
    """Return the baseline with the lowest median training loss at its end, if one has finished."""
    ended = [s for s in summaries if s.method in baselines and math.isfinite(s.train_loss.middle)]
    return min(ended, key=lambda s: s.train_loss.middle) if ended else None
