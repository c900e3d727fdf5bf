"""What do the scripts share that repeat an experiment of a paper? A printed verdict, images, one loop of updates."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from figures._common import Array, ClaimError
from linnat import InputError
from linnat.data import load_data
from linnat.nonlinear import Network
from linnat.nonlinear.optimisers import Batch

VERDICTS = ("reproduced", "partly", "not")


def verdict(paper: str, word: str, sentence: str) -> None:
    """Print whether a paper's statement is reproduced, and by how much.

    Parameters
    ----------
    paper : str
    word : "reproduced", "partly" or "not"
    sentence : str
        With the numbers.
    """
    if word not in VERDICTS:
        raise ClaimError(f"verdict {word!r}: one of {', '.join(VERDICTS)} was expected")
    print(f"    verdict ({paper}): {word}. {sentence}")


class Images(NamedTuple):
    """Images in rows, in a random order that the seed gives, pixels in [0, 1].

    Attributes
    ----------
    name : str
    x : array (N, n), float32
    labels : integer array (N,)
    """

    name: str
    x: Array
    labels: Array


def images(quick: bool, pool: int = 1, seed: int = 0) -> Images:
    """Return MNIST with pixels averaged over pool × pool, or digits: with `quick`, or where MNIST is not found."""
    data = _loaded(quick, pool)
    order = np.random.default_rng(seed).permutation(len(data.x))
    return Images(data.name, data.x[order], data.labels[order])


@lru_cache(maxsize=2)
def _loaded(quick: bool, pool: int) -> Images:
    name = "digits" if quick else "mnist"
    try:
        data = load_data(name)
    except InputError as missing:
        print(f"    digits instead of MNIST: {missing}")
        name, data = "digits", load_data("digits")
    x = np.ascontiguousarray(data.x, np.float32)
    if name == "mnist" and pool > 1:
        x = averaged(x, 28, pool)
    return Images(name, x, np.zeros(len(x), int) if data.labels is None else data.labels)


def averaged(x: Array, side: int, pool: int) -> Array:
    """Return square images in rows with pixels averaged over pool × pool."""
    parts = x.reshape(-1, side // pool, pool, side // pool, pool)
    return np.ascontiguousarray(parts.mean(axis=(2, 4)).reshape(len(x), -1))


def rows_of(count: int, batch: int, seed: int) -> Callable[[int], Array]:
    """Return a function of the update: its rows, one permutation an epoch."""
    each = count // batch

    def at(update: int) -> Array:
        epoch, place = divmod(update, each)
        order = np.random.default_rng([seed, epoch]).permutation(count)
        return np.asarray(order[place * batch : (place + 1) * batch])

    return at


class Spent(NamedTuple):
    """What a run has used so far: updates, products with a curvature matrix, processor seconds without measuring."""

    updates: int
    products: int
    seconds: float


def descend(
    method: Any,
    net: Network,
    theta: Array,
    batches: Callable[[int], Batch],
    updates: int,
    seed: int,
    measure: Callable[[Array, Spent], Any],
    every: int = 1,
) -> list[Any]:
    """Run updates; return `measure(theta, spent)` of the start and after every `every` of them.

    Where a step leaves the finite numbers the run ends: the list is shorter.
    """
    state, rng = method.init(net, theta), np.random.default_rng([seed, 1])
    found, products, seconds = [measure(state.theta, Spent(0, 0, 0.0))], 0, 0.0
    for update in range(updates):
        begin = time.process_time()
        try:
            state, report = method.step(state, batches(update), rng)
        except InputError:
            return found
        seconds += time.process_time() - begin
        products += report.products
        if (update + 1) % every == 0:
            found.append(measure(state.theta, Spent(update + 1, products, seconds)))
    return found


def reach(losses: Array, level: float, spent: Array) -> float:
    """Return what was spent when a level is reached, interpolated in the logarithm of the loss; inf if it is not."""
    below = np.flatnonzero(losses <= level)
    if not len(below):
        return np.inf
    k = int(below[0])
    if k == 0:
        return 0.0
    share = np.log(losses[k - 1] / level) / np.log(losses[k - 1] / losses[k])
    return float(spent[k - 1] + share * (spent[k] - spent[k - 1]))
