"""On which real problems? Autoencoding and classification through bottlenecks, and small parts of the same data.

Real inputs make S singular and badly conditioned. Statements about square flows need S > 0 and those about modes need
white inputs and aligned weights: they get a few pixels of the same data, as they are or whitened.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from linnat._checks import Array, RngLike, as_rng
from linnat.claims.ladder import Problem, layer
from linnat.claims.report import number
from linnat.data import DataSet
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from linnat.linalg.rank import default_rtol

# Oracles that run over the data rows themselves are used up to this many numbers.
MAX_ROWS = 2_000_000
SMALL, SQUARE, MODES = 12, 6, 4


def real_problems(data: DataSet, rng: RngLike = 0) -> tuple[Problem, ...]:
    """Return the problems made from one data set.

    Parameters
    ----------
    data : DataSet
        Images with labels, images alone, or x and y.
    rng : Generator or int
        For the initial weights.

    Returns
    -------
    tuple of Problem
    """
    generator = as_rng(rng)
    return (*_whole(data, generator), *_parts(data, generator))


def own_problem(network: LinearNetwork, task: Task, data: DataSet | None, rung: str = "yours") -> Problem:
    """Return the problem of a user's network."""
    samples = None if data is None else _rows(data.x, data.targets(network.widths[-1]))
    return Problem("-".join(str(n) for n in network.widths), rung, network, task, samples)


def describe(name: str, task: Task, biases: bool = False) -> str:
    """Return one line about S: size, rank, condition in square-root form, cut-off.

    Examples
    --------
    >>> describe("mine", Task(np.eye(2)))
    'mine: E[xxᵀ] is 2 × 2 of rank 2, κ(S^½) = 1, cut-off 4e-15 on eigenvalues'
    """
    factor = task.moments(biases).factor
    values = np.linalg.svd(factor, compute_uv=False)
    kept = values[: int(task.moments(biases).rank)]
    condition = kept[0] / kept[-1] if len(kept) else np.nan
    size = factor.shape[0]
    if task.root is None:
        cut = 8 * size * float(np.finfo(float).eps) if task.rtol is None else task.rtol
        on = "eigenvalues"
    else:
        block = task.root[:, 1 : 1 + task.n_inputs]
        cut, on = (default_rtol(block) if task.rtol is None else task.rtol), "singular values of the rows"
    matrix = "E[x̂x̂ᵀ], x̂ = (x, 1)," if biases else "E[xxᵀ]"
    shape = f"{matrix} is {size} × {size} of rank {len(kept)}"
    return f"{name}: {shape}, κ(S^½) = {number(condition)}, cut-off {number(cut)} on {on}"


def _whole(data: DataSet, rng: np.random.Generator) -> Iterator[Problem]:
    """All inputs: through a bottleneck to themselves (or to y), and to the labels."""
    inputs = data.x.shape[1]
    narrow = max(1, min(8, inputs // 2))
    goals = (
        [data.y.shape[1]]
        if data.y is not None
        else [inputs, *([data.n_classes] if data.labels is not None else [])]
    )
    for outputs in goals:
        y = data.targets(outputs)
        task = Task.from_data(data.x, y)
        width = narrow if outputs == inputs else max(outputs, narrow) + 2
        for widths in _shapes(inputs, width, outputs):
            yield _problem(data, widths, task, (data.x, y), rng)


def _shapes(inputs: int, width: int, outputs: int) -> Iterator[tuple[int, ...]]:
    yield (inputs, width, outputs)
    if outputs < inputs:
        yield (inputs, width, width, outputs)
    elif inputs <= 100:
        yield (inputs, inputs, outputs)


def _parts(data: DataSet, rng: np.random.Generator) -> Iterator[Problem]:
    """A few inputs: small enough for every oracle."""
    used = _lively(data.x, 2 * SMALL, rng)
    if len(used) < 2:
        return
    some = used[: min(SMALL, len(used) // 2 * 2)]
    x = np.asarray(data.x[:, some], np.float64)
    yield _problem(data, (len(some), 3, len(some)), Task.from_data(x, x), (x, x), rng, "part ")
    y = data.targets(data.n_classes) if data.labels is not None else x
    widths = (len(some), len(some), y.shape[1])
    yield _problem(data, widths, Task.from_data(x, y), (x, y), rng, "part ", biases=True)
    count = min(SQUARE, len(used) // 2)
    x, y = (np.asarray(data.x[:, used[k : k + count]], np.float64) for k in (0, count))
    task = Task.from_data(x, y)
    if task.rank == count and np.linalg.matrix_rank(task.linear_teacher) == count:
        yield _problem(data, (count, count, count), task, (x, y), rng, "part ")
    yield from _white(data, used[: 2 * MODES], rng)


def _white(data: DataSet, used: Array, rng: np.random.Generator) -> Iterator[Problem]:
    """Whitened inputs, a teacher from the data, balanced weights aligned with it."""
    half = len(used) // 2
    x, y = (np.asarray(data.x[:, part], np.float64) for part in (used[:half], used[half:]))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    root = np.linalg.qr(x / np.sqrt(len(x)))[1]
    if np.linalg.cond(root) > 1e6:
        return
    teacher = y.T @ np.linalg.solve(root.T, x.T).T / len(x)
    left, values, right = np.linalg.svd(teacher, full_matrices=False)
    if values[-1] < 1e-3 * values[0]:
        return
    teacher = (left * (values / values[0])) @ right
    for depth in (2, 3):
        start = np.sort(rng.uniform(0.2, 0.6, half))[::-1] * values / values[0]
        net = LinearNetwork.balanced((left * start) @ right, depth)
        name = "-".join(str(n) for n in net.widths)
        yield Problem(f"part {name}, whitened", data.name, net, Task(teacher))


def _lively(x: Array, count: int, rng: np.random.Generator) -> Array:
    """Choose inputs that vary the most, at random among the upper half."""
    spread = (
        np.asarray(x, np.float64).std(axis=0)
        if x.size <= MAX_ROWS
        else np.asarray(x[:4096], np.float64).std(axis=0)
    )
    order = np.argsort(spread)[::-1]
    order = order[spread[order] > 0]
    pool = order[: max(count, len(order) // 2)]
    return np.asarray(rng.permutation(pool)[: min(count, len(pool))])


def _problem(
    data: DataSet,
    widths: tuple[int, ...],
    task: Task,
    samples: tuple[Array, Array],
    rng: np.random.Generator,
    prefix: str = "",
    *,
    biases: bool = False,
) -> Problem:
    weights = [layer(m, n, 3.0, rng) for n, m in itertools.pairwise(widths)]
    offsets = [0.3 * rng.standard_normal(m) for m in widths[1:]] if biases else None
    name = prefix + "-".join(str(n) for n in widths) + (" + b" if biases else "")
    return Problem(name, data.name, LinearNetwork(weights, offsets), task, _rows(*samples))


def _rows(x: Array, y: Array) -> tuple[Array, Array] | None:
    return (x, y) if x.size + y.size <= MAX_ROWS else None
