"""How are small training runs watched? A loop over minibatches that stops at given updates to look at the state.

`linnat.nonlinear.training` trains; here the state of the method itself is looked at (coordinates, eigenbases), and the
parameters need not be those of a plain network (`_batch_norm`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy.special import expit, xlogy

from figures._common import Array
from linnat.nonlinear import Network
from linnat.nonlinear.optimisers import Batch
from linnat.nonlinear.output import DivergenceError

T = TypeVar("T")


class Seen(NamedTuple):
    """What was seen at the marks: as many as were reached before a divergence; processor seconds without looking."""

    found: list[Any]
    seconds: list[float]
    diverged: bool


def minibatches(rows: int, size: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield places of rows, every row once an epoch, for ever."""
    while True:
        order = rng.permutation(rows)
        for first in range(0, rows - size + 1, size):
            yield order[first : first + size]


def watch(
    method: Any,
    net: Network,
    theta: Array,
    x: Array,
    y: Array,
    *,
    marks: Sequence[int],
    look: Callable[[Any], Any],
    batch: int,
    seed: int,
    metric: int = 0,
    every: int = 1,
) -> Seen:
    """Train to the last mark, and look at the state after each marked number of updates (0: before the first).

    Parameters
    ----------
    method : optimiser
    net : Network
    theta : array (P,)
    x, y : array (N, n_0), (N, n_L)
    marks : ascending sequence of int
    look : function of the state
    batch : int
        Rows of a minibatch.
    seed : int
        Of the order of rows and of the method's draws, which are two generators: every method sees the same rows.
    metric : int
        Rows for the metric, drawn at every `every`-th update; those of the minibatch where 0.
    """
    order, draws = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    chosen, state = minibatches(len(x), batch, order), method.init(net, theta)
    seen, spent = Seen([], [], False), 0.0
    for update in range(marks[-1] + 1):
        if update in marks:
            seen.found.append(look(state))
            seen.seconds.append(spent)
        if update == marks[-1]:
            break
        begin = time.process_time()
        rows = next(chosen)
        others = x[draws.integers(0, len(x), metric)] if metric and update % every == 0 else None
        try:
            state, _ = method.step(state, Batch(x[rows], y[rows], others), draws)
        except DivergenceError:
            return seen._replace(diverged=True)
        spent += time.process_time() - begin
    return seen


def loss_by_hand(net: Network, theta: Array, x: Array) -> float:
    """Return the cross-entropy of a logistic autoencoder with Bernoulli pixels.

    In float64, by its definition −x log p − (1 − x) log(1 − p): what recorded losses at the start are held to.
    """
    signal = x.astype(float)
    for layer in net.layers(theta.astype(float)):
        signal = expit(signal @ layer[:, :-1].T + layer[:, -1])
    parts = xlogy(x, signal) + xlogy(1.0 - x, 1.0 - signal)
    return float(-parts.sum(axis=1).mean())


def padded(values: Sequence[float], length: int, fill: float = np.inf) -> Array:
    """Return the values as an array of a length, filled up where a run ended early."""
    return np.array([*values, *[fill] * (length - len(values))], dtype=float)


def best(scores: Mapping[T, float]) -> T:
    """Return the setting with the least score; settings of failed runs have score inf."""
    return min(scores, key=lambda setting: scores[setting])


def first_below(level: float, values: Array, at: Array) -> float:
    """Return where a curve first is at or below a level, by linear interpolation between marks; inf if nowhere."""
    below = np.flatnonzero(values <= level)
    if not below.size:
        return np.inf
    k = int(below[0])
    if k == 0:
        return float(at[0])
    share = (values[k - 1] - level) / (values[k - 1] - values[k])
    return float(at[k - 1] + share * (at[k] - at[k - 1]))
