"""Does the natural gradient solve F u = ∇ℓ, in which networks, and in which gauge? Statements N1, N2, N3."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from linnat.claims._conditions import always, deep, every, full_factors, geometry, small
from linnat.claims._core import Case, Claim, Measure, Measures, bound, relative
from linnat.claims._oracles import (
    affordable,
    inner,
    minimum_norm,
    norm,
    null_direction,
    one_layer,
    pull,
    push,
    residual,
    sides,
)
from linnat.claims.ladder import layer, task_for
from linnat.dense.natural import natural_gradient as dense_natural_gradient
from linnat.exact.natural import natural_gradient
from linnat.exact.network import Direction, LinearNetwork, flatten
from linnat.exact.task import Task

Solver = Callable[[LinearNetwork, Task], Direction]


def growth(case: Case, direction: Direction) -> float:
    """Return Σ_i ‖B̃_i‖ ‖u_i‖ ‖Ã_i‖ over ‖Ẽ‖: how much larger the layers' parts are than what they add up to."""
    size = float(np.linalg.norm(residual(case.net, case.task)))
    parts = zip(sides(case.net, case.task), direction, strict=True)
    return sum(p * float(np.linalg.norm(d)) for p, d in parts) / size if size else 1.0


def reach(case: Case, direction: Direction) -> float:
    """Return ζ = max_i ‖B̃_i⁺‖ ‖Ẽ‖ ‖Ã_i⁺‖ / ‖u‖, the cancellation in the layerwise solution itself (X9)."""
    size = float(np.linalg.norm(residual(case.net, case.task)))
    length = norm(direction)
    return max(1.0, geometry(case.net, case.task).layerwise * size / length) if length else 1.0


def cancellation(case: Case) -> float:
    """Return (‖W̃*‖ + ‖W_L‖⋯‖W_1‖‖F‖) / ‖Ẽ‖: how much of the error is lost to its own rounding."""
    net, task = case.net, case.task
    factor = task.moments(net.has_biases).factor
    whole = float(np.prod([np.linalg.norm(m, 2) for m in net.maps]) * np.linalg.norm(factor, 2))
    root = float(np.linalg.norm(task.moments(net.has_biases).target)) + whole
    noise = np.linalg.eigvalsh(task.noise_cov)[0] ** -0.5
    size = float(np.linalg.norm(residual(net, task)))
    return root * float(noise) / size if size else 1.0


def solves(case: Case, direction: Direction) -> Measure:
    """Measure the backward error of F u = ∇ℓ, that is of Jᵀ(J u + Ẽ) = 0."""
    net, task = case.net, case.task
    left = norm(pull(net, task, push(net, task, direction) + residual(net, task)))
    parts = sides(net, task)
    size = max(parts) * (
        sum(p * float(np.linalg.norm(d)) for p, d in zip(parts, direction, strict=True))
        + float(np.linalg.norm(residual(net, task)))
    )
    condition = sum(geometry(net, task).layers) * cancellation(case)
    return Measure("F u = ∇ℓ, backward", left / size if size else left, bound(case, condition))


def check_layerwise(case: Case, candidate: Solver | None = None) -> Measures:
    """N1: (1/L) of the block-diagonal solution solves the whole system; every layer contributes E/L."""
    net, task = case.net, case.task
    claimed = _first(net, task) if candidate is None else candidate(net, task)
    error = residual(net, task)
    condition = sum(geometry(net, task).layers) * (growth(case, claimed) + cancellation(case))
    parts = [push(net, task, one_layer(net, claimed, i)) for i in range(net.depth)]
    gap = max(relative(part, -error / net.depth) for part in parts)
    whole = relative(sum(parts, np.zeros_like(error)), -error)
    measures = [
        solves(case, claimed),
        Measure("dW̃ = Ẽ", whole, bound(case, condition)),
        Measure("every layer contributes Ẽ/L", gap, bound(case, condition)),
    ]
    if candidate is None:
        staircase = flatten(natural_gradient(net, task))
        measures.append(Measure("N1 = N2", relative(flatten(claimed), staircase), bound(case, condition)))
    return measures


def _first(net: LinearNetwork, task: Task) -> Direction:
    """N1 as stated, from the block-diagonal solution: every layer for itself, divided by L."""
    return tuple(d / net.depth for d in natural_gradient(net, task, mask="block-diagonal"))


def check_staircase(case: Case, candidate: Solver = natural_gradient) -> Measures:
    """N2: a solution for every network; dW̃ is the orthogonal projection of Ẽ on range J; equal to the definition."""
    net, task = case.net, case.task
    claimed = candidate(net, task)
    measures = [solves(case, claimed)]
    g = geometry(net, task)
    if affordable(net, task) and not g.undetermined:
        least = minimum_norm(net, task)
        size = float(np.linalg.norm(residual(net, task)))
        change = push(net, task, claimed).T.reshape(-1)
        condition = max(least.condition, growth(case, claimed) * sum(g.layers), cancellation(case))
        gap = float(np.linalg.norm(change + least.image)) / size if size else 0.0
        measures.append(Measure("dW̃ is the projection of Ẽ on range J", gap, bound(case, condition)))
        if net.n_parameters <= 400:
            dense = dense_natural_gradient(net, task)
            gap = relative(flatten(claimed), flatten(dense), 1e-8 * norm(net.layers))
            condition = g.sides * cancellation(case)
            measures.append(Measure("u, least in blockdiag(F)", gap, bound(case, condition)))
    return measures


def check_gauges(case: Case, candidate: Solver | None = None) -> Measures:
    """N3: both gauges induce the same change; the minimum-norm one is J⁺ vec Ẽ and orthogonal to the null space."""
    net, task = case.net, case.task
    layerwise = natural_gradient(net, task)
    shortest = (
        natural_gradient(net, task, gauge="minimum-norm") if candidate is None else candidate(net, task)
    )
    least = minimum_norm(net, task)
    g = geometry(net, task)
    size = float(np.linalg.norm(residual(net, task))) or 1.0
    condition = least.condition * cancellation(case)
    growths = (growth(case, layerwise) + growth(case, shortest)) * sum(g.layers)
    change = float(np.linalg.norm(push(net, task, layerwise) - push(net, task, shortest))) / size
    worst = 0.0
    for i in range(1, net.depth):
        step = null_direction(case, i)
        length = norm(step) * norm(shortest)
        worst = max(worst, abs(inner(step, shortest)) / length if length else 0.0)
    gap = relative(flatten(shortest), -least.vector, 1e-8 * norm(net.layers))
    return [
        solves(case, shortest),
        Measure("same dW̃ in both gauges", change, bound(case, max(condition, growths))),
        Measure("minimum norm ⟂ null directions", worst, bound(case, condition)),
        Measure("minimum norm = J⁺ vec Ẽ", gap, bound(case, condition)),
    ]


def _bottleneck(rng: np.random.Generator) -> Case:
    net = LinearNetwork([layer(2, 5, 2.0, rng), layer(5, 2, 2.0, rng)])
    return Case(net, task_for(net, rng), rng)


def _broken_first(rng: np.random.Generator) -> Measures:
    return check_layerwise(_bottleneck(rng), _first)


def _broken_staircase(rng: np.random.Generator) -> Measures:
    return check_staircase(_bottleneck(rng), _first)


def _broken_gauges(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(4, 3, 4.0, rng), 3.0 * layer(3, 4, 4.0, rng)])
    return check_gauges(Case(net, task_for(net, rng), rng), natural_gradient)


CLAIMS = (
    Claim(
        "N1",
        "Layerwise natural gradient",
        "the block-diagonal solution divided by L solves the whole system; every layer contributes E/L",
        r"v_i = \tfrac1L \tilde B_i^+ \tilde E \tilde A_i^+",
        "Bernacchia et al. 2018; condition new",
        "rank n_L after every layer and rank ρ before it (hidden widths ≥ max(n_L, ρ), generically)",
        "natural_gradient",
        "residual of F u = ∇ℓ and each layer's contribution to dW, by complex steps",
        "Σκ(layer) × (growth of the layers' parts + cancellation in E), p = 1",
        check_layerwise,
        full_factors,
        _broken_first,
        "the same formula in a 5-2-5 bottleneck",
    ),
    Claim(
        "N2",
        "Staircase natural gradient",
        "each block of the error is shared equally by the layers that can express it: any widths, ranks, inputs",
        r"v_i = \tilde B_i^+ \Big[\sum_{k\le i\le l} \Delta P_k \tilde E \Delta Q_l/(l-k+1)\Big] \tilde A_i^+",
        "new",
        "none",
        "natural_gradient",
        "residual of F u = ∇ℓ by complex steps; dense projection and least-norm solution",
        "κ(J) or Σκ(layer) × growth, p = 1; u itself: κ(B̃)κ(Ã) × cancellation in E, p = 1",
        check_staircase,
        always,
        _broken_staircase,
        "N1 in a 5-2-5 bottleneck",
    ),
    Claim(
        "N3",
        "Gauges",
        "all solutions induce the same change of the total weight; the shortest one is J⁺ vec Ẽ",
        r"v = J^+\operatorname{vec}\tilde E,\quad v_i = \tilde B_i^\top \Lambda \tilde A_i^\top",
        "new",
        "none; checked for two layers or more",
        "natural_gradient",
        "J⁺ by singular values of the dense Jacobian; null directions (XW_i, −W_{i+1}X)",
        "κ(J) × cancellation in E, p = 1",
        check_gauges,
        every(deep, small),
        _broken_gauges,
        "the layerwise solution called the shortest",
    ),
)
