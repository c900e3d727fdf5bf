"""How are thousands of replicates run, and what may be said of them? Blocks, standard errors, tails (D3, X8).

Replicates are run in blocks whose size depends on the shape of the problem alone, each with a generator spawned from
the one given: a seed gives the same bits whatever the memory of the machine, and memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, as_count, as_float_array, fail, representable

BLOCK = 2**20  # numbers drawn at once: 8 MB, and some temporaries of the same size


class Estimate(NamedTuple):
    """An estimate and its standard error."""

    value: Array
    error: Array


def blocks(
    replicates: int, numbers: int, rng: np.random.Generator
) -> Iterator[tuple[slice, np.random.Generator]]:
    """Yield slices of the replicates, each with its generator.

    Parameters
    ----------
    replicates : int
    numbers : int
        Drawn at once for one replicate.
    rng : Generator
        Spawns the generators.

    Examples
    --------
    >>> [part for part, _ in blocks(5, 2**19, np.random.default_rng(0))]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = max(1, BLOCK // max(1, numbers))
    starts = range(0, replicates, size)
    for start, child in zip(starts, rng.spawn(len(starts)), strict=True):
        yield slice(start, min(start + size, replicates)), child


@representable("values")
def mean_and_error(values: Any) -> Estimate:
    """Return means over the last axis with their standard errors.

    Parameters
    ----------
    values : array (…, R)
        R ≥ 2 independent replicates. Meaningless where the expectation is infinite: see `tail_exponent`.

    Returns
    -------
    Estimate
        Arrays (…).

    Examples
    --------
    >>> [float(x) for x in mean_and_error([1.0, 3.0])]
    [2.0, 1.0]
    """
    samples = as_float_array(values, "values", min_ndim=1)
    count = samples.shape[-1]
    if count < 2:
        fail("values", "at least 2 replicates", count)
    return Estimate(samples.mean(axis=-1), samples.std(axis=-1, ddof=1) / np.sqrt(count))


@representable("values")
def tail_exponent(values: Any, count: Any = None) -> Estimate:
    """Return Hill's estimate of α where P(value > t) ~ t^{−α}, from the largest values.

    Parameters
    ----------
    values : array (…, R)
        Independent, positive.
    count : int, optional
        How many of the largest are used, k < R; √R by default. Fewer: less bias, more spread.

    Returns
    -------
    Estimate
        α = 1 / mean log(x_(i)/x_(k+1)) over the k largest, with the standard error α/√k. The expectation is infinite
        where α ≤ 1: then a sample mean converges to nothing.

    Notes
    -----
    Hill 1975; logarithms, so that values up to the end of the range serve. O(R).

    Examples
    --------
    >>> uniform = (np.arange(10000) + 0.5) / 10000
    >>> float(tail_exponent(uniform**-4.0, 1000).value.round(3))
    0.25
    """
    samples = as_float_array(values, "values", min_ndim=1)
    size = samples.shape[-1]
    used = max(1, int(np.sqrt(size))) if count is None else as_count(count, "count")
    if used >= size:
        fail("count", f"fewer than the {size} values", used)
    top = np.sort(np.partition(samples, size - used - 1, axis=-1)[..., size - used - 1 :], axis=-1)
    if (top[..., 0] <= 0).any():
        fail("values", "positive numbers among the largest", float(top[..., 0].min()))
    logs = np.log(top)
    gaps = np.asarray((logs[..., 1:] - logs[..., :1]).mean(axis=-1))
    if (gaps == 0).any():
        fail("values", "different numbers", "ties among the largest")
    return Estimate(1 / gaps, 1 / (gaps * np.sqrt(used)))
