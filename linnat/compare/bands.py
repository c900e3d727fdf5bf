"""What is the middle of several curves? Median and range over runs, at common places on the axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linnat._checks import Array, as_choice
from linnat.compare.summary import Curve

AXES = ("update", "seconds")
LOSSES = ("train_loss", "train_squared", "test_loss", "test_squared")
PLACES = 200


class Band(NamedTuple):
    """Median and range over runs.

    Attributes
    ----------
    places : array (K,)
        Updates or seconds.
    middle, low, high : array (K,)
    runs : int
    """

    places: Array
    middle: Array
    low: Array
    high: Array
    runs: int


def band(curves: Sequence[Curve], axis: str, loss: str) -> Band | None:
    """Return median and range of finished runs, as far as all of them go; None where there is none.

    Between evaluations the logarithm of the loss is interpolated, linearly in the logarithm of updates or seconds;
    the start, at zero, is left out.

    Parameters
    ----------
    curves : sequence of Curve
        Of one method.
    axis : "update" or "seconds"
    loss : "train_loss", "train_squared", "test_loss" or "test_squared"

    Examples
    --------
    >>> from linnat.compare.summary import Reported
    >>> def run(seed, scale):
    ...     points = (Reported(k, 0, float(k), scale / k, 0, 0, 0, False) for k in (1, 10, 100))
    ...     return Curve("sgd", seed, "finished", "", tuple(points))
    >>> found = band([run(0, 1.0), run(1, 2.0), run(2, 4.0)], "update", "train_loss")
    >>> [float(np.round(part[-1], 6)) for part in found[:4]]
    [100.0, 0.02, 0.01, 0.04]
    """
    as_choice(axis, "axis", AXES)
    as_choice(loss, "loss", LOSSES)
    lines = [line(c, axis, loss) for c in curves if c.status == "finished"]
    lines = [found for found in lines if len(found[0])]
    if not lines:
        return None
    first, last = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    if first > last:
        return None
    inner = np.unique(np.concatenate([x for x, _ in lines] + [np.geomspace(first, last, PLACES)]))
    places = inner[(inner >= first) & (inner <= last)]
    values = np.array([np.exp(np.interp(np.log(places), np.log(x), np.log(y))) for x, y in lines])
    return Band(places, np.median(values, axis=0), values.min(axis=0), values.max(axis=0), len(lines))


def line(curve: Curve, axis: str, loss: str) -> tuple[Array, Array]:
    """Return places and losses of one run, those that logarithmic axes can show."""
    points = [(float(getattr(p, axis)), float(getattr(p, loss))) for p in curve.points]
    kept = [(x, y) for x, y in points if x > 0 and y > 0 and np.isfinite(y)]
    x, y = np.array(kept, np.float64).reshape(len(kept), 2).T
    return x, y
