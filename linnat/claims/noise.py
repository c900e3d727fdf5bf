"""When should learning from noisy data stop? Statement X8."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar

from linnat._checks import Array
from linnat.claims._core import CONSTANT, Case, Claim, Measure, Measures
from linnat.dense.flow import natural_flow, total_along
from linnat.exact.network import LinearNetwork
from linnat.exact.noise import Parts, conditional_parts, parts, risk, stopped_risk, stopping_time
from linnat.exact.task import Task

EPS = float(np.finfo(float).eps)
TIMES = np.array([0.3, 1.0, 3.0])
REPLICATES = 4000
SHAPES = ((3, 2, 12, False), (3, 2, 14, True), (6, 1, 3, False))  # n, m, N, biases

Path = Callable[[Array, Array, Array], Array]


def shrunk(fitted: Array, moment: Array, time: Array) -> Array:
    """Return W(t) of the natural flow from 0, on least squares (…, m, n) and moments (…, n, n) of samples."""
    del moment
    return np.asarray(-np.expm1(-time) * fitted)


def filtered(fitted: Array, moment: Array, time: Array) -> Array:
    """Return W(t) of gradient flow from 0: W_OLS (I − e^{−tŜ})."""
    values, axes = np.linalg.eigh(moment)
    return np.asarray(fitted @ (axes * -np.expm1(-time * values)[..., None, :]) @ axes.mT)


def check_noise(case: Case, path: Path = shrunk) -> Measures:
    """Measure the risk on replicates of the data; then shrinkage of a deep flow, a given design, the best time."""
    measures = [_replicates(case.rng, path)]
    if path is shrunk:
        measures += [_flow(case.rng), _design(case.rng), _best()]
    return measures


def _replicates(rng: np.random.Generator, path: Path) -> Measure:
    """Least squares by pseudo-inverses of the rows, inputs of mean 1 with biases, in standard errors."""
    worst = 0.0
    for n, m, count, biases in SHAPES:
        teacher = 3 * rng.standard_normal((m, n + biases))
        scale = np.geomspace(2.0, 0.2, n) if count >= n else np.ones(n)
        rows = rng.standard_normal((REPLICATES, count, n)) * scale + biases
        if biases:
            rows = np.concatenate([rows, np.ones((REPLICATES, count, 1))], axis=-1)
        targets = rows @ teacher.T + rng.standard_normal((REPLICATES, count, m))
        fitted = (np.linalg.pinv(rows) @ targets).mT
        moment = rows.mT @ rows / count
        # x = Dz, with biases (x, 1) = (Dz + 1, 1): a factor of its second moment.
        factor = np.diag(np.append(scale, 1.0)[: n + biases])
        if biases:
            factor[:, -1] = 1.0
        size = float(((teacher @ factor) ** 2).sum())
        law = risk(TIMES, parts(size, count, n, m, biases=biases))
        for time, wanted in zip(TIMES, law, strict=True):
            errors = (((teacher - path(fitted, moment, time)) @ factor) ** 2).sum(axis=(-1, -2))
            spread = float(errors.std()) / np.sqrt(REPLICATES)
            worst = max(worst, abs(float(errors.mean()) - wanted) / spread)
    return Measure("risk of replicates, in standard errors", worst, 5.5, "stated")


def _flow(rng: np.random.Generator) -> Measure:
    """Two layers moved by the dense flow of the training loss, against the segment to least squares."""
    x = rng.standard_normal((9, 2))
    y = x @ rng.standard_normal((2, 2)) + rng.standard_normal((9, 2))
    net = LinearNetwork([rng.standard_normal((4, 2)), rng.standard_normal((2, 4))])
    totals = total_along(net, natural_flow(net, Task.from_data(x, y), TIMES))
    start, fitted = net.weights[1] @ net.weights[0], np.linalg.lstsq(x, y, rcond=None)[0].T
    line = start - np.expm1(-TIMES)[:, None, None] * (fitted - start)
    gap = float(np.linalg.norm(totals - line) / np.linalg.norm(line))
    return Measure("deep flow on data against shrinkage", gap, 1e-6, "stated")


def _design(rng: np.random.Generator) -> Measure:
    """Given inputs: the expectation over noise, one unit of noise at a time."""
    n, m, count = 3, 1, 6
    x, teacher = rng.standard_normal((count, n)), rng.standard_normal((m, n))
    found = risk(TIMES, conditional_parts(x, LinearNetwork([np.zeros((m, n))]), Task(teacher)))
    solution = np.linalg.pinv(x)
    worst = 0.0
    for time, value in zip(TIMES, found, strict=True):
        total = float((np.exp(-2 * time) * teacher**2).sum())
        for unit in np.eye(count):
            total += float((np.expm1(-time) * (solution @ unit)) @ (np.expm1(-time) * (solution @ unit)))
        worst = max(worst, abs(value - total) / total)
    return Measure("risk of a given design", worst, CONSTANT * EPS * count * float(np.linalg.cond(x)) ** 2)


def _best() -> Measure:
    """The best time and its risk by a search."""
    worst = 0.0
    for a, b in ((1.0, 1.0), (20.0, 0.5), (0.1, 3.0)):
        both = Parts(a, b)
        time = stopping_time(both)
        search = minimize_scalar(
            lambda t, both=both: float(risk(t, both)[0]),
            bounds=(0, 4 * time),
            method="bounded",
            options={"xatol": 1e-12},
        )
        worst = max(worst, abs(search.x / time - 1) * 1e-3, abs(search.fun / stopped_risk(both) - 1))
    return Measure("best time by search (relative to 1e-3 × its own), least risk", worst, 1e-8, "stated")


def _broken(rng: np.random.Generator) -> Measures:
    return check_noise(Case(LinearNetwork([np.eye(1)]), Task(np.eye(1)), rng), filtered)


def _not_one(net: LinearNetwork, task: Task) -> str:
    return "is about random samples, not about one network"


CLAIMS = (
    Claim(
        "X8",
        "Learning from noisy data",
        "on N noisy samples the flow shrinks least squares uniformly; the risk is least at log(1 + a/b)",
        r"\mathrm{risk} = e^{-2t}a + (1-e^{-t})^2 b,\quad b = \tfrac{nm}{N-n-1},\quad t^* = \log(1 + a/b),\quad "
        r"\tfrac{ab}{a+b}",
        "new",
        "Gaussian inputs and noise, N > n + 1 (N > n + 2 with biases); N < n − 1 for white inputs",
        "noise.risk",
        "least squares by pseudo-inverses on 4,000 data sets; layers moved by DOP853; a search",
        "replicates: 5.5 standard errors; given design: κ(X), p = 2; flow: tolerance of the integrator",
        check_noise,
        _not_one,
        _broken,
        "gradient flow, which filters, in place of the natural one",
        about_networks=False,
    ),
)
