"""What do block approximations of the Fisher matrix do? Statement N5."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from linnat._checks import Array, ConditionError
from linnat.claims._conditions import deep, full_factors, geometry
from linnat.claims._core import Case, Claim, Measure, Measures, bound, relative
from linnat.claims._oracles import norm, one_layer, pull, push, residual, sides
from linnat.claims._rational import exact, solve_exactly
from linnat.claims.ladder import layer, task_for
from linnat.claims.natural import cancellation, growth
from linnat.exact.masks import mask_coefficients
from linnat.exact.natural import natural_gradient
from linnat.exact.network import Direction, LinearNetwork
from linnat.exact.task import Task

Masked = Callable[[LinearNetwork, Task, Any], Direction]
# Trees of two joined hubs: with two leaves each M c = 1 has no solution; one more leaf makes the step go uphill.
INCONSISTENT = ((1, 5), (2, 5), (3, 6), (4, 6), (5, 6))
UPHILL = (*INCONSISTENT, (5, 7))


def _solution(net: LinearNetwork, task: Task, mask: Any) -> Direction:
    return natural_gradient(net, task, mask=mask)


def check_masks(
    case: Case, candidate: Masked = _solution, rate: Callable[[Array], float] | None = None
) -> Measures:
    """Solve with blocks left out: residual of F_M u = ∇ℓ, and the rate at which the total weight moves."""
    net, task = case.net, case.task
    measures = [_exact_rates()]
    whole = full_factors(net, task) is None or rate is not None
    for name, mask in _masks(net.depth, case.rng):
        try:
            claimed = candidate(net, task, mask)
        except ConditionError:
            # In a bottleneck the mask of a part of the layers may be inconsistent where that of all is not.
            if whole:
                raise
            continue
        measures.append(_residual(case, mask, claimed, name))
        if whole:
            alpha = float(exact_rate(mask) or 0) if rate is None else rate(mask)
            change = push(net, task, claimed)
            condition = sum(geometry(net, task).layers) * (growth(case, claimed) + cancellation(case))
            gap = relative(change, -alpha * residual(net, task), float(np.linalg.norm(residual(net, task))))
            measures.append(Measure(f"{name}: dW̃ = α Ẽ", gap, bound(case, condition)))
    return measures


def _masks(depth: int, rng: np.random.Generator) -> list[tuple[str, Array]]:
    place = np.arange(depth)
    distance = np.abs(place[:, None] - place)
    groups = np.sort(rng.integers(0, 2, depth)) if depth > 1 else place
    return [
        ("block-diagonal", (distance == 0).astype(float)),
        ("block-tridiagonal", (distance <= 1).astype(float)),
        ("bands |i−j| ≤ 2", (distance <= 2).astype(float)),
        ("two groups of layers", (groups[:, None] == groups).astype(float)),
    ]


def exact_rate(mask: Array) -> Fraction | None:
    """Return α = 1ᵀc with M c = 1 in rational arithmetic, or None where M c = 1 has no solution."""
    solution = solve_exactly(exact(mask), exact(np.ones((len(mask), 1))))
    return None if solution is None else sum((entry for (entry,) in solution), Fraction(0))


@cache
def _exact_rates() -> Measure:
    """Compare bands up to depth 12 with ⌈L/(2k+1)⌉ and exact rates; a mask that goes uphill; one without solution."""
    gap = 0.0
    for depth in range(1, 13):
        place = np.arange(depth)
        for width in range(3):
            mask = (np.abs(place[:, None] - place) <= width).astype(float)
            alpha = mask_coefficients(mask, depth)[1]
            gap = max(
                gap, abs(alpha - float(exact_rate(mask) or 0)), abs(alpha - -(-depth // (2 * width + 1)))
            )
    gap = max(
        gap,
        abs(mask_coefficients(_tree(7, UPHILL), 7)[1] + 5.0),
        abs(float(exact_rate(_tree(7, UPHILL)) or 0) + 5.0),
    )
    if exact_rate(_tree(6, INCONSISTENT)) is not None:
        gap = np.inf
    try:
        mask_coefficients(_tree(6, INCONSISTENT), 6)
        gap = np.inf
    except ConditionError:
        pass
    return Measure("bands: α = ⌈L/(2k+1)⌉; a mask of 7 layers with α = −5", gap, 1e-12, "stated")


def _tree(depth: int, pairs: tuple[tuple[int, int], ...]) -> Array:
    mask = np.eye(depth)
    for i, j in pairs:
        mask[i - 1, j - 1] = mask[j - 1, i - 1] = 1.0
    return mask


def _residual(case: Case, mask: Array, direction: Direction, name: str) -> Measure:
    """Backward error of F_M u = ∇ℓ: in row i of blocks the kept layers' contributions must make up for Ẽ."""
    net, task = case.net, case.task
    error, parts = (
        residual(net, task),
        [push(net, task, one_layer(net, direction, i)) for i in range(net.depth)],
    )
    total = 0.0
    for i in range(net.depth):
        kept = error + sum(part for j, part in enumerate(parts) if mask[i, j])
        total += float(np.linalg.norm(pull(net, task, kept)[i])) ** 2
    blocks = sides(net, task)
    size = max(blocks) * (
        sum(b * float(np.linalg.norm(d)) for b, d in zip(blocks, direction, strict=True))
        + float(np.linalg.norm(error))
    )
    gap = np.sqrt(total) / size if size else norm(direction)
    condition = sum(geometry(net, task).layers) * cancellation(case)
    return Measure(f"{name}: F_M u = ∇ℓ, backward", float(gap), bound(case, condition))


def _broken(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(2, 5, 2.0, rng), layer(5, 2, 2.0, rng)])
    return check_masks(Case(net, task_for(net, rng), rng), rate=lambda mask: float(exact_rate(mask) or 0))


CLAIMS = (
    Claim(
        "N5",
        "Masks",
        "block approximations solve F_M u = ∇ℓ where M c = 1 can be solved, and only rescale the step",
        r"F_M v = -\nabla\ell \iff M c = 1,\ v_i = c_i u_i;\quad \dot W = \alpha E,\ \alpha = 1^\top c,\ "
        r"\alpha = \lceil L/(2k+1)\rceil \text{ for bands}",
        "Bernacchia et al. 2018 (diagonal), Karakida and Osawa 2020 (wide limit); rest new",
        "two layers or more; the rescaling: N1's condition",
        "natural_gradient",
        "residual of F_M u = ∇ℓ by complex steps; rates by exact rational arithmetic",
        "Σκ(layer) × (growth of the layers' parts + cancellation in E), p = 1",
        check_masks,
        deep,
        _broken,
        "the rescaling claimed in a 5-2-5 bottleneck",
    ),
)
