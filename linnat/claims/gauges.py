"""Which norm does each gauge minimise, and which changes of hidden coordinates does it follow? Statement X1."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from linnat._checks import Array
from linnat.claims._conditions import deep, geometry
from linnat.claims._core import Case, Claim, Measure, Measures, bound
from linnat.claims._oracles import norm, null_direction, one_layer, push, sides
from linnat.claims.ladder import layer, task_for
from linnat.claims.natural import cancellation, reach
from linnat.exact.natural import natural_gradient
from linnat.exact.network import Direction, LinearNetwork
from linnat.exact.task import Task

Solver = Callable[[LinearNetwork, Task], Direction]


def check_least(case: Case, candidate: Solver = natural_gradient) -> Measures:
    """N2 is orthogonal to null directions in the metric blockdiag(F), and equivariant under hidden coordinates."""
    net, task = case.net, case.task
    claimed = candidate(net, task)
    condition = sum(geometry(net, task).layers) * cancellation(case)
    worst = 0.0
    for i in range(1, net.depth):
        step = null_direction(case, i)
        parts = sides(net, task)
        pairs = [
            (push(net, task, one_layer(net, claimed, j)), push(net, task, one_layer(net, step, j)))
            for j in (i - 1, i)
        ]
        inner = sum(float(np.vdot(a, b)) for a, b in pairs)
        lengths = [
            (parts[j] * float(np.linalg.norm(claimed[j])), parts[j] * float(np.linalg.norm(step[j])))
            for j in (i - 1, i)
        ]
        size = sum(a * b for a, b in lengths)
        worst = max(worst, abs(inner) / size if size else abs(inner))
    measures = [Measure("u ⟂ null directions in blockdiag(F)", worst, bound(case, condition))]
    if _regular(case):
        measures.append(_equivariance(case, candidate, claimed))
    return measures


def _regular(case: Case) -> bool:
    """Whether blockdiag(F) is non-singular: hidden units neither blind nor silent."""
    g, net = geometry(case.net, case.task), case.net
    inputs = [w.shape[1] for w in net.layers]
    return all(b == n for b, n in zip(g.before, inputs, strict=True)) and all(
        a == n for a, n in zip(g.after, net.widths[1:], strict=True)
    )


def _equivariance(case: Case, candidate: Solver, claimed: Direction) -> Measure:
    """Solve in the coordinates C_i h_i and transform back."""
    net, task = case.net, case.task
    frames = [
        np.eye(net.widths[0]),
        *(layer(n, n, 9.0, case.rng) for n in net.widths[1:-1]),
        np.eye(net.widths[-1]),
    ]
    moved = LinearNetwork(*_transform(net, frames))
    back = candidate(moved, task)
    expected = [
        _change(d, lower, upper) for d, lower, upper in zip(claimed, frames, frames[1:], strict=False)
    ]
    gap = norm([a - b for a, b in zip(back, expected, strict=True)])
    size = norm(expected)
    condition = 81 * sum(geometry(net, task).layers) * reach(case, claimed) * cancellation(case)
    return Measure(
        "equivariant under W_i → C_i W_i C_{i−1}⁻¹", gap / size if size else gap, bound(case, condition)
    )


def _transform(net: LinearNetwork, frames: Sequence[Array]) -> tuple[list[Array], list[Array] | None]:
    weights = [
        _change(w, lower, upper) for w, lower, upper in zip(net.weights, frames, frames[1:], strict=False)
    ]
    if net.biases is None:
        return weights, None
    return weights, [upper @ b for b, upper in zip(net.biases, frames[1:], strict=True)]


def _change(matrix: Array, lower: Array, upper: Array) -> Array:
    """Return C_i M C_{i−1}⁻¹; a last column for biases is only mapped forwards."""
    size = len(lower)
    inner = np.linalg.solve(lower.T, matrix[:, :size].T).T
    changed: Array = upper @ np.concatenate([inner, matrix[:, size:]], axis=1)
    return changed


def _shortest(net: LinearNetwork, task: Task) -> Direction:
    return natural_gradient(net, task, gauge="minimum-norm")


def _broken(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(3, 3, 3.0, rng), layer(3, 3, 3.0, rng)])
    return check_least(Case(net, task_for(net, rng), rng), _shortest)


CLAIMS = (
    Claim(
        "X1",
        "Gauges are least norms",
        "of all solutions N2 is the shortest in the metric blockdiag(F): it follows changes of hidden coordinates",
        r"v = \arg\min_{Fv = -\nabla\ell} v^\top \operatorname{blockdiag}(F)\,v",
        "new",
        "two layers or more; equivariance: blockdiag(F) non-singular",
        "natural_gradient",
        "inner products with null directions by complex steps; other hidden coordinates",
        "Σκ(layer) × cancellation in E, p = 1; equivariance: × κ(C)² ζ",
        check_least,
        deep,
        _broken,
        "the minimum-norm gauge, in coordinates that are not orthogonal",
    ),
)
