"""How often does the layerwise flow break? Statement X4."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from linnat._checks import Array
from linnat.claims._core import Case, Claim, Measure, Measures
from linnat.exact.flow import break_probability, breakdown_time, expected_breaks
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task

SIZES = (1, 2, 3, 5, 8)
DRAWS = 4000
SHARES = {1: 0.50, 2: 0.64, 3: 0.73, 5: 0.82, 8: 0.89}

Draw = Callable[[np.random.Generator, int], tuple[Array, Array]]


def independent(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    """Draw independent Gaussian starts and teachers."""
    start = rng.standard_normal((DRAWS, size, size))
    return start, rng.standard_normal((DRAWS, size, size))


def check_chance(case: Case, draw: Draw = independent) -> Measures:
    """Count real negative eigenvalues of W(0)⁻¹W* and compare with the formula, in standard errors."""
    mean, share, least, mismatch = 0.0, 0.0, 0.0, 0
    for size in SIZES:
        start, teacher = draw(case.rng, size)
        values = np.linalg.eigvals(np.linalg.solve(start, teacher))
        breaks = ((values.imag == 0) & (values.real < 0)).sum(axis=-1)
        spread = float(breaks.std()) / np.sqrt(DRAWS)
        mean = max(mean, abs(float(breaks.mean()) - expected_breaks(size)) / spread)
        probability = float((breaks > 0).mean())
        sigma = np.sqrt(probability * (1 - probability) / DRAWS)
        claimed = break_probability(size, samples=DRAWS, rng=case.rng)
        share = max(
            share, abs(probability - float(claimed.probability)) / np.hypot(sigma, float(claimed.error))
        )
        share = max(share, (abs(probability - SHARES[size]) - 0.005) / sigma)
        least = max(least, (0.5 - probability) / sigma)
        few = slice(0, 200)
        net = LinearNetwork([np.broadcast_to(np.eye(size), (200, size, size)), start[few]])
        mismatch += int((np.isfinite(breakdown_time(net, Task(teacher[few]))) != (breaks[few] > 0)).sum())
    return [
        Measure("mean number of breaks, in standard errors", mean, 4.5, "stated"),
        Measure("probability of a break, in standard errors", max(share, least), 4.5, "stated"),
        Measure("breakdown times that disagree with the count", float(mismatch), 0.5, "stated"),
    ]


def _near(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    start, teacher = independent(rng, size)
    return start, start + 0.5 * teacher


def _broken(rng: np.random.Generator) -> Measures:
    return check_chance(Case(LinearNetwork([np.eye(1)]), Task(np.eye(1)), rng), _near)


def _not_one(net: LinearNetwork, task: Task) -> str:
    return "is about random networks, not about one"


CLAIMS = (
    Claim(
        "X4",
        "How often the layerwise flow breaks",
        "from independent Gaussian starts the flow breaks with probability at least ½, and more often the wider it is",
        r"E[\#] = \sqrt\pi\,\Gamma(\tfrac{n+1}2)/(2\Gamma(\tfrac n2)),\quad P \ge \tfrac12",
        "new, by Edelman, Kostlan and Shub 1994",
        "W(0), W* independent real Gaussian n × n",
        "flow.expected_breaks",
        "real negative eigenvalues counted in 4,000 pairs for each of n = 1, 2, 3, 5, 8",
        "4.5 standard errors of the count",
        check_chance,
        _not_one,
        _broken,
        "a teacher that depends on the start",
        about_networks=False,
    ),
)
