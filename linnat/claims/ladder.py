"""On which random problems? A ladder of widths, depths, ranks and conditions.

Rungs: tame → ill-conditioned → bottleneck → rank-deficient → singular S → biases; beside them the shapes that special
statements need: square flows that last and flows that break, balanced and aligned white problems.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from linnat._checks import Array, RngLike, as_rng
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task


class Problem(NamedTuple):
    """A named instance.

    Attributes
    ----------
    name, rung : str
    net, task : LinearNetwork, Task
    samples : (x, y) or None
        The data rows behind the task.
    """

    name: str
    rung: str
    net: LinearNetwork
    task: Task
    samples: tuple[Array, Array] | None = None


def ladder(rng: RngLike = 0) -> tuple[Problem, ...]:
    """Return the random problems of `verify`, tame ones first.

    Parameters
    ----------
    rng : Generator or int

    Returns
    -------
    tuple of Problem

    Examples
    --------
    >>> [p.rung for p in ladder(0)][:2]
    ['tame', 'tame']
    """
    generator = as_rng(rng)
    rungs = (tame, square, ill_conditioned, bottleneck, rank_deficient, singular_inputs, biased, symmetric)
    return tuple(problem for rung in rungs for problem in rung(generator))


def spd(size: int, rng: np.random.Generator, condition: float = 10.0, rank: int | None = None) -> Array:
    """Draw a covariance with eigenvalues from 1 down to 1/condition, `rank` of them non-zero."""
    kept = size if rank is None else rank
    values = np.zeros(size)
    values[:kept] = np.geomspace(1.0, 1.0 / condition, kept) if kept > 1 else 1.0
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    matrix: Array = (basis * values) @ basis.T
    symmetric_part: Array = 0.5 * (matrix + matrix.T)
    return symmetric_part


def layer(rows: int, columns: int, condition: float, rng: np.random.Generator) -> Array:
    """Draw a layer with geometrically spaced singular values from √condition down to 1/√condition."""
    count = min(rows, columns)
    left = np.linalg.qr(rng.standard_normal((rows, count)))[0]
    right = np.linalg.qr(rng.standard_normal((columns, count)))[0]
    values = np.geomspace(np.sqrt(condition), 1 / np.sqrt(condition), count) if count > 1 else np.ones(1)
    matrix: Array = (left * values) @ right.T
    return matrix


def task_for(
    net: LinearNetwork,
    rng: np.random.Generator,
    *,
    condition: float = 10.0,
    rank: int | None = None,
    distance: float = 1.0,
) -> Task:
    """Draw a teacher near or far from the network, a covariance of given condition and rank, correlated noise."""
    inputs, outputs = net.widths[0], net.widths[-1]
    linear = net.total[:, :inputs]
    scale = np.linalg.norm(linear) / np.sqrt(linear.size) or 1.0
    teacher = linear + distance * scale * rng.standard_normal(linear.shape)
    cov, noise = spd(inputs, rng, condition, rank), spd(outputs, rng, 4.0)
    if not net.has_biases:
        return Task(teacher, cov, noise)
    mean = (
        np.linalg.cholesky(cov + 1e-9 * np.eye(inputs))[:, 0]
        if rank is None
        else cov @ rng.standard_normal(inputs)
    )
    second = cov + np.outer(mean, mean)
    return Task(teacher, 0.5 * (second + second.T), noise, rng.standard_normal(outputs), mean)


def tame(rng: np.random.Generator) -> Iterator[Problem]:
    """Well-conditioned layers, widths that keep every rank."""
    for widths in ((3, 2), (1, 1, 1), (4, 5, 6, 3), (3, 6, 7, 5), (2, 4, 4, 4, 3), (3, 4, 4, 4, 4, 4, 2)):
        net = LinearNetwork([layer(m, n, 4.0, rng) for n, m in itertools.pairwise(widths)])
        yield Problem(_name(widths), "tame", net, task_for(net, rng))


def square(rng: np.random.Generator) -> Iterator[Problem]:
    """Square layers: flows that last (W⁻¹W* near the identity), and flows that break (a real negative eigenvalue)."""
    for width, depth in ((4, 1), (3, 2), (4, 3), (5, 4)):
        net = LinearNetwork([layer(width, width, 3.0, rng) for _ in range(depth)])
        teacher = net.total @ (np.eye(width) + 0.4 * _unit(rng.standard_normal((width, width))))
        yield Problem(
            f"{_name(net.widths)}", "square", net, Task(teacher, spd(width, rng), spd(width, rng, 4.0))
        )
    for width, depth in ((3, 2), (4, 3)):
        net = LinearNetwork([layer(width, width, 3.0, rng) for _ in range(depth)])
        ratio = np.diag([-1.0 - rng.random(), *(1 + rng.random(width - 1))])
        turn = layer(width, width, 2.0, rng)
        teacher = net.total @ np.linalg.solve(turn.T, (turn @ ratio).T).T
        yield Problem(f"{_name(net.widths)} breaking", "square", net, Task(teacher, spd(width, rng)))


def ill_conditioned(rng: np.random.Generator) -> Iterator[Problem]:
    """Layers of condition 1e4 and covariances of condition 1e6; deep Gaussian layers."""
    for widths in ((4, 4, 4, 4), (3, 5, 5, 3), (5, 3, 4)):
        net = LinearNetwork([layer(m, n, 1e4, rng) for n, m in itertools.pairwise(widths)])
        yield Problem(f"{_name(widths)} κ 1e4", "ill-conditioned", net, task_for(net, rng, condition=1e6))
    net = LinearNetwork.random((6,) * 9, rng=rng)
    yield Problem("6 × 8 Gaussian layers", "ill-conditioned", net, task_for(net, rng))


def bottleneck(rng: np.random.Generator) -> Iterator[Problem]:
    """Hidden widths below the widths of input and output."""
    for widths in ((5, 2, 5), (6, 3, 4, 2), (5, 4, 2, 3, 5), (4, 1, 3)):
        net = LinearNetwork([layer(m, n, 4.0, rng) for n, m in itertools.pairwise(widths)])
        yield Problem(_name(widths), "bottleneck", net, task_for(net, rng))


def rank_deficient(rng: np.random.Generator) -> Iterator[Problem]:
    """Integer layers of exact lower rank, a product that vanishes with layers that do not, zero layers."""
    draw = [rng.integers(-2, 3, (4, 4)).astype(float) for _ in range(3)]
    draw[0][:, 3] = draw[0][:, 0] + draw[0][:, 1]
    draw[1][3], draw[1][2] = draw[1][0] + draw[1][1], draw[1][0] - draw[1][1]
    draw[2][:, 0] = -draw[2][:, 2]
    net = LinearNetwork(draw)
    yield Problem("4-4-4-4, ranks 3, 2, 3", "rank-deficient", net, task_for(net, rng))
    first, second = np.zeros((4, 4)), np.zeros((4, 4))
    first[:2], second[:, 2:] = rng.standard_normal((2, 4)), rng.standard_normal((4, 2))
    net = LinearNetwork([first, second, layer(3, 4, 3.0, rng)])
    yield Problem("4-4-4-3, W₂W₁ = 0", "rank-deficient", net, task_for(net, rng))
    net = LinearNetwork([layer(4, 3, 3.0, rng), np.zeros((2, 4))])
    yield Problem("3-4-2, W₂ = 0", "rank-deficient", net, Task(rng.standard_normal((2, 3)), spd(3, rng)))


def singular_inputs(rng: np.random.Generator) -> Iterator[Problem]:
    """Covariances of lower rank."""
    for widths, rank in (((4, 5, 3), 2), ((5, 4, 4, 5), 3), ((6, 2, 4), 4)):
        net = LinearNetwork([layer(m, n, 4.0, rng) for n, m in itertools.pairwise(widths)])
        yield Problem(f"{_name(widths)}, rank S {rank}", "singular S", net, task_for(net, rng, rank=rank))


def biased(rng: np.random.Generator) -> Iterator[Problem]:
    """Networks with biases: square, wide, bottlenecked, singular covariance."""
    for widths, rank in (((3, 3, 3), None), ((3, 5, 4, 2), None), ((4, 2, 4), None), ((4, 5, 3), 2)):
        weights = [layer(m, n, 3.0, rng) for n, m in itertools.pairwise(widths)]
        net = LinearNetwork(weights, [0.5 * rng.standard_normal(m) for m in widths[1:]])
        task = task_for(net, rng, rank=rank, distance=0.3)
        rest = "" if rank is None else f", rank Cov x {rank}"
        yield Problem(f"{_name(widths)} + b{rest}", "biases", net, task)


def symmetric(rng: np.random.Generator) -> Iterator[Problem]:
    """Balanced layers and white data; some aligned with the teacher, of which the modes are then scalar."""
    for (outputs, inputs), depth in (((3, 3), 2), ((2, 4), 3), ((4, 3), 4)):
        net = LinearNetwork.balanced(rng.standard_normal((outputs, inputs)), depth)
        yield Problem(
            f"{_name(net.widths)} balanced", "balanced", net, Task(rng.standard_normal((outputs, inputs)))
        )
    for (outputs, inputs), depth in (((2, 2), 1), ((3, 3), 2), ((2, 3), 3), ((2, 2), 5)):
        yield aligned_problem(outputs, inputs, depth, rng)


def aligned_problem(outputs: int, inputs: int, depth: int, rng: np.random.Generator) -> Problem:
    """Draw a balanced network whose total weight shares its singular vectors with the teacher."""
    left, _, right = np.linalg.svd(rng.standard_normal((outputs, inputs)), full_matrices=False)
    count = min(outputs, inputs)
    start, goal = rng.uniform(0.2, 0.6, count), rng.uniform(0.8, 2.0, count)
    net = LinearNetwork.balanced((left * np.sort(start)[::-1]) @ right, depth)
    return Problem(f"{_name(net.widths)} aligned", "balanced", net, Task((left * goal) @ right))


def _unit(matrix: Array) -> Array:
    scaled: Array = matrix / np.linalg.norm(matrix, 2)
    return scaled


def _name(widths: tuple[int, ...]) -> str:
    return "-".join(str(n) for n in widths)
