"""What does a stream of samples teach? Statement D3: the exact law of the online natural gradient."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from linnat._checks import Array
from linnat.claims._core import Case, Claim, Measure, Measures
from linnat.exact.network import LinearNetwork
from linnat.exact.online import (
    deep_correction,
    efficient_loss,
    harmonic_steps,
    law,
    online_loss,
    preconditioned_loss,
    running_metric_loss,
    simulate,
    tail_exponent,
    tail_law,
)
from linnat.exact.task import Task

EPS = float(np.finfo(float).eps)
SHAPES = ((1, 1, 1), (2, 1, 1), (2, 2, 1), (1, 2, 2), (3, 1, 1))  # n, m, b
REPLICATES = 4000
WILD = 100_000

Loss = Callable[[float, float, int, int, int], float]


class Nodes(NamedTuple):
    """Points and probabilities that integrate polynomials in standard Gaussian variables exactly."""

    points: Array
    chances: Array


@cache
def nodes(dimensions: int, count: int = 3) -> Nodes:
    """Return Gauss–Hermite nodes: exact up to degree 2 count − 1 in each variable."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    weights = weights / weights.sum()
    grid = np.array(list(itertools.product(points, repeat=dimensions)))
    return Nodes(grid, np.array([np.prod(w) for w in itertools.product(weights, repeat=dimensions)]))


def _claimed(start: float, eta: float, batch: int, n: int, m: int) -> float:
    return float(online_loss(1, start, eta, batch, n, m)[0])


def check_online(case: Case, candidate: Loss = _claimed) -> Measures:
    """Measure one step against exact quadrature of the samples, then schedules, metrics, and deep networks by runs."""
    rng = case.rng
    measures = [_quadrature(rng, candidate)]
    if candidate is not _claimed:
        return measures
    measures += [_plain(rng), _replicates(rng), _recursive(rng), _efficient(), _correction(), _tail(rng)]
    return measures


def _quadrature(rng: np.random.Generator, candidate: Loss) -> Measure:
    """Return the largest error of one step, every sample of every minibatch by nodes."""
    error = 0.0
    for n, m, batch in SHAPES:
        gap, eta = rng.standard_normal((m, n)), float(rng.uniform(0.2, 1.5))
        points, chances = nodes(batch * (n + m))
        z = points[:, : batch * n].reshape(-1, batch, n)
        noise = points[:, batch * n :].reshape(-1, batch, m)
        residual = np.einsum("ji,kbi->kbj", gap, z) + noise
        moved = gap - eta * np.einsum("kbj,kbi->kji", residual, z) / batch
        wanted = 0.5 * float(chances @ (moved**2).sum(axis=(1, 2)))
        found = candidate(0.5 * float((gap**2).sum()), eta, batch, n, m)
        error = max(error, abs(found - wanted) / wanted)
    return Measure("one step against quadrature of the samples", error, 30 * EPS * len(nodes(4).points))


def _problem(rng: np.random.Generator, n: int, m: int) -> tuple[LinearNetwork, Task]:
    half, spread = rng.standard_normal((n, n)), rng.standard_normal((m, m))
    cov, noise = half @ half.T + 0.1 * np.eye(n), spread @ spread.T + np.eye(m)
    return LinearNetwork([rng.standard_normal((m, n))]), Task(rng.standard_normal((m, n)), cov, noise)


def _plain(rng: np.random.Generator) -> Measure:
    """One plain gradient with one sample, in the coordinates of the data."""
    net, task = _problem(rng, 2, 2)
    points, chances = nodes(4)
    x = points[:, :2] @ np.linalg.cholesky(task.input_cov).T
    y = x @ task.teacher.T + points[:, 2:] @ np.linalg.cholesky(task.noise_cov).T
    gradient = (y - x @ net.weights[0].T)[:, :, None] * x[:, None, :]
    gap = task.teacher - net.weights[0] - 0.1 * np.linalg.solve(task.noise_cov, gradient)
    wanted = 0.5 * float(
        chances @ (np.linalg.solve(task.noise_cov, gap) * (gap @ task.input_cov)).sum(axis=(1, 2))
    )
    found = float(preconditioned_loss(1, net, task, 0.1, 1)[0])
    condition = float(np.linalg.cond(task.input_cov) * np.linalg.cond(task.noise_cov))
    return Measure(
        "plain gradients against quadrature", abs(found - wanted) / wanted, 30 * EPS * 81 * condition
    )


def _replicates(rng: np.random.Generator) -> Measure:
    """Steps 1/(k + a) on replicates, population's metric and that of the same minibatch, in standard errors."""
    n, m, batch, steps = 3, 2, 8, 8
    net, task = _problem(rng, n, m)
    gap = np.linalg.solve(np.linalg.cholesky(task.noise_cov), task.teacher - net.weights[0])
    start = 0.5 * float(((gap @ np.linalg.cholesky(task.input_cov)) ** 2).sum())
    worst = 0.0
    for metric in ("population", "minibatch"):
        rule = law(batch, n, m, metric=metric)
        etas = harmonic_steps(steps, rule, 1.0)
        runs = simulate(net, task, etas, batch, steps, REPLICATES, metric=metric, rng=rng)
        mean, error = runs.mean()
        wanted = online_loss(steps, start, etas, batch, n, m, metric=metric)
        worst = max(worst, float((np.abs(mean - wanted) / error).max()))
    return Measure("expected loss of replicates, in standard errors", worst, 5.5, "stated")


def _recursive(rng: np.random.Generator) -> Measure:
    """A running metric with steps 1/k against the variance of least squares."""
    net, task = _problem(rng, 3, 2)
    runs = simulate(
        net, task, 1 / np.arange(1.0, 6), 8, 5, REPLICATES, metric="running", record=[3, 5], rng=rng
    )
    mean, error = runs.mean()
    gap = np.abs(mean - running_metric_loss(5, 8, 3, 2)[[2, 4]]) / error
    return Measure("running metric with steps 1/k, in standard errors", float(gap.max()), 5.5, "stated")


def _efficient() -> Measure:
    """K ℓ_K against nm/2b, on top of what is left of the start and the logarithm."""
    steps, worst = 4000, 0.0
    for n, m, batch in ((2, 3, 4), (9, 1, 3)):
        rule = law(batch, n, m)
        last = online_loss(steps, 1.0, harmonic_steps(steps, rule), batch, n, m)[-1]
        a = (n + 1) / batch
        rest = (a * np.log(steps) + np.e * a**2 / rule.noise + 2 * a) / steps
        worst = max(worst, abs(float(last / efficient_loss(steps, batch, n, m)[-1]) - 1) / rest)
    return Measure("steps 1/(k + a) against the Cramér–Rao rate, over the next order", worst, 2.0, "stated")


def _correction() -> Measure:
    """The second order of a step of two scalar layers, from quadrature of degree 9 and three small steps."""
    net, task, start = LinearNetwork([[[1.5]], [[0.8]]]), Task([[2.0]]), 0.5 * 0.8**2
    points, chances = nodes(2, 5)
    direction = (0.8 * points[:, 0] + points[:, 1]) * points[:, 0]
    values = []
    for eta in (0.01, 0.005, 0.0025):
        total = (1.5 + eta / 2 * direction / 0.8) * (0.8 + eta / 2 * direction / 1.5)
        gap = 0.5 * float(chances @ (2.0 - total) ** 2) - float(online_loss(1, start, eta, 1, 1, 1)[0])
        values.append(gap / eta**2)
    first = [2 * values[1] - values[0], 2 * values[2] - values[1]]
    limit = (4 * first[1] - first[0]) / 3
    found = deep_correction(net, task, 1)
    return Measure("second order of a deep step", abs(limit - found) / abs(found), 1e-6, "stated")


def _tail(rng: np.random.Generator) -> Measure:
    """Hill's exponent of 1e5 losses of two layers at step 3, in standard errors of the estimate and its bias."""
    net, task = LinearNetwork([[[0.25]], [[1.0]]]), Task([[1.0]])
    runs = simulate(net, task, 0.6, 1, 3, WILD, record=[3], rng=rng)
    found = tail_exponent(runs.losses[0], 400)
    gap = abs(float(found.value) / tail_law(2) - 1)
    return Measure("tail exponent of deep losses against 1/(2L(L−1))", gap, 5 / 20 + 0.1, "stated")


def _without_one(start: float, eta: float, batch: int, n: int, m: int) -> float:
    """The inputs' second moments alone, n/b for (n + 1)/b."""
    return float(online_loss(1, start, eta, batch, n, m, fourth_moment=n * (n + 1.0))[0])


def _broken(rng: np.random.Generator) -> Measures:
    return check_online(Case(LinearNetwork([np.eye(1)]), Task(np.eye(1)), rng), _without_one)


def _not_one(net: LinearNetwork, task: Task) -> str:
    return "is about streams of random samples, not about one network"


CLAIMS = (
    Claim(
        "D3",
        "Online natural gradient",
        "the expected loss of one layer obeys one law for all S, Σ, W*; 1/k steps are efficient; deep: no mean",
        r"\ell^+ = \ell\,[1 - 2\eta + \eta^2(1 + \tfrac{n+1}b)] + \eta^2\tfrac{nm}{2b};\quad "
        r"P(\ell > t) \sim t^{-1/(2L(L-1))},\ L \ge 2",
        "new; Amari 1998 for the rate",
        "one layer, Gaussian inputs, the model's noise; second part: square chains from step 2 on",
        "online.online_loss",
        "Gauss–Hermite quadrature of all samples of a step, exact; replicates; Hill's estimate on 100,000 losses",
        "quadrature: p = 0 (plain gradients: κ(S)κ(Σ), p = 1); replicates: 5.5 standard errors",
        check_online,
        _not_one,
        _broken,
        "n/b in place of (n + 1)/b",
        about_networks=False,
    ),
)
