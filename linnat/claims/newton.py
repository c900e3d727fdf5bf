"""Where do natural gradient steps end? Statement D2: Newton's iteration for the L-th root."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import brentq

from linnat.claims._conditions import error_left, every, geometry, square
from linnat.claims._core import Case, Claim, Measure, Measures, bound, relative
from linnat.claims.descent import blocked, sensitivity, square_pair
from linnat.claims.natural import cancellation
from linnat.exact.descent import (
    basin,
    exact_step,
    first_step_factor,
    monotone_limit,
    natural_step,
    scalar_map,
    spectrum,
)
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task


def check_newton(
    case: Case, candidate: Callable[[LinearNetwork, Task], LinearNetwork] | None = None
) -> Measures:
    """D2: steps with η = 1 end in the layers of the root that the basins name; scalar laws."""
    net, task = case.net, case.task
    measures = [_basins(), _monotone(), _rates()]
    values = spectrum(net, task)
    reached = basin(values, 1.0, net.depth)
    # Beyond this the condition of the iterates on the way leaves no digits to compare.
    tame = (
        geometry(net, task).sides < 1e6
        and float(np.abs(first_step_factor(values, 1.0, net.depth)).max()) < 1e3
    )
    if candidate is not None or ((reached.root == 0).all() and tame and not blocked(values, 1.0)):
        state = net
        for _ in range(int(reached.steps.max()) + 8):
            state = natural_step(state, task, 1.0)
        arrived = exact_step(net, task, 1.0) if candidate is None else candidate(net, task)
        gap = max(relative(a, b) for a, b in zip(state.layers, arrived.layers, strict=True))
        condition = geometry(net, task).sides * cancellation(case) * sensitivity(net, task)
        measures.append(Measure("layers realise the principal root", gap, bound(case, condition)))
    return measures


def _starts() -> Iterator[tuple[complex, int]]:
    for depth in (2, 3, 4, 5):
        for g in (4.0, 0.2, 30.0, 2 + 3j, -1 + 2j, -3 + 0.5j, 0.3 - 0.8j):
            yield g, depth


@cache
def _basins() -> Measure:
    """Newton's iteration for r^L = g from r = 1, in extended precision, against the named root."""
    wrong = 0
    for g, depth in _starts():
        root: Any = np.clongdouble(1.0)
        for _ in range(400):
            root = root - (root**depth - np.clongdouble(g)) / (depth * root ** (depth - 1))
        named = int(basin(np.array([g], complex), 1.0, depth, 400).root[0])
        expected = np.exp(2j * np.pi * named / depth) * complex(g) ** (1 / depth)
        settled = abs(complex(root**depth) - g) < 1e-10 * abs(g)
        wrong += settled != (named >= 0) or (settled and abs(complex(root) - expected) > 1e-6)
    for depth in (2, 4):
        wrong += int(basin(np.array([-4.0]), 1.0, depth).root[0] != -1)
    return Measure("basins that differ from Newton's iteration", float(wrong), 0.5, "stated")


@cache
def _monotone() -> Measure:
    """The largest step without overshoot, as the root of the first step's overshoot."""
    worst = 0.0
    for depth in (2, 3, 4, 7):
        for g in (1.5, 10.0, 1e3):
            found = brentq(
                lambda eta, g=g, depth=depth: float(first_step_factor(g, eta, depth)) - 1,
                1e-9,
                1.0,
                xtol=1e-15,
            )
            worst = max(worst, abs(found - float(monotone_limit(g, depth))) / found)
    return Measure("η₁ = L(g^{1/L} − 1)/(g − 1)", worst, 1e-11)


@cache
def _rates() -> Measure:
    """The local rate |1 − η| and the safe side ρ⁺ ≤ (1 − η)ρ + ηρ², from iterates of the scalar map."""
    worst = 0.0
    for depth in (2, 3, 6):
        for eta in (0.4, 1.0, 1.7):
            near = 1.0 + 1e-5
            rate = (float(scalar_map(near, eta, depth)) - 1) / (near - 1)
            worst = max(worst, abs(rate - (1 - eta)) / 1e-4)
        for rho in (0.2, 0.6, 1.0):
            for eta in (0.3, 1.0):
                after = max(
                    abs(float(scalar_map(1 + sign * rho, eta, depth)) - 1)
                    for sign in (-1.0, 1.0)
                    if sign * rho > -1
                )
                worst = max(worst, after - ((1 - eta) * rho + eta * rho**2) - 1e-12)
    return Measure("local rate |1 − η|, ρ⁺ ≤ (1 − η)ρ + ηρ², excess", worst, 1.0, "stated")


def _other_root(net: LinearNetwork, task: Task) -> LinearNetwork:
    first, second = exact_step(net, task, 1.0).weights
    return LinearNetwork([-first, -second])


def _broken_newton(rng: np.random.Generator) -> Measures:
    return check_newton(square_pair(rng), _other_root)


CLAIMS = (
    Claim(
        "D2",
        "Newton's root",
        "η = 1 is Newton's iteration for the L-th root: basins decide which root the layers realise",
        r"\eta \le \eta_1(g) = L(g^{1/L}-1)/(g-1);\quad \text{local rate } |1-\eta|",
        "new",
        "square invertible layers, S > 0, layerwise gauge",
        "descent.basin",
        "Newton's iteration in extended precision; loops of steps on the layers",
        "κ(B̃)κ(Ã) × condition of the step's bracket, p = 1; scalar laws: stated",
        check_newton,
        every(error_left, square),
        _broken_newton,
        "the other square root",
    ),
)
