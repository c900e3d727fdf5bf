"""Thin sweeps: the same staircase as from full ones, and as by definition, wherever they apply."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import linnat as ln
from linnat.dense.natural import natural_gradient as oracle
from linnat.exact.chains import groups, make_problem
from linnat.exact.staircase import staircase
from linnat.exact.thin_staircase import layerwise, thin_staircase
from linnat.linalg.chain import Columns, undo
from linnat.linalg.kernels import Factored
from tests import tolerances

pytestmark = pytest.mark.statement("N2", "X9")
F64 = np.float64
WIDTHS = [
    (7, 5, 3, 5, 7),
    (6, 6, 6, 2, 6, 6),
    (4, 6, 3, 8, 5),
    (5, 5, 2),
    (2, 5, 5),
    (9, 8, 4, 6, 3),
    (6, 1, 6),
]


def sides(rng: np.random.Generator, widths: tuple[int, ...], kind: str) -> ln.Task:
    inputs, outputs = widths[0], widths[-1]
    teacher = rng.standard_normal((outputs, inputs))
    if kind == "white":
        return ln.Task(teacher)
    if kind == "population":
        root, noise = rng.standard_normal((inputs, inputs)), rng.standard_normal((outputs, outputs))
        return ln.Task(teacher, root @ root.T + np.eye(inputs), noise @ noise.T + np.eye(outputs))
    rows = rng.standard_normal((inputs - 1 if kind == "few rows" else 3 * inputs, inputs))
    return ln.Task.from_data(rows, rows @ teacher.T + rng.standard_normal((len(rows), outputs)))


def both(net: ln.LinearNetwork, task: ln.Task) -> list[tuple[Any, Any, Any]]:
    problem, batch = make_problem(net, task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ln.RankWarning)
        pairs = zip(groups(problem, batch), groups(problem, batch, thin=True), strict=True)
        return [(part, full, thin) for (_, part, full), (_, _, thin) in pairs]


def relative(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    change = np.sqrt(sum(np.linalg.norm(a - b) ** 2 for a, b in zip(found, expected, strict=True)))
    return float(change / np.sqrt(sum(np.linalg.norm(b) ** 2 for b in expected)))


@pytest.mark.parametrize("kind", ["white", "population", "data", "few rows"])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("widths", WIDTHS)
def test_thin_sweeps_give_the_same(
    widths: tuple[int, ...], batch: tuple[int, ...], biases: bool, kind: str
) -> None:
    rng = np.random.default_rng(sum(widths))
    net = ln.LinearNetwork.random(widths, rng=rng, biases=biases, batch_shape=batch)
    ((part, full, thin),) = both(net, sides(rng, widths, kind))
    assert thin.thin == (full.left.drops or full.right.drops)
    condition = max(np.linalg.cond(w).max() for w in net.weights) * np.linalg.cond(part.factor).max()
    bound = tolerances.solve(F64, len(widths) * max(widths), condition)
    assert relative(layerwise(part, thin), staircase(part, full)) <= bound


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("rank", range(1, 4))
def test_layers_that_lose_rank(place: int, rank: int) -> None:
    rng = np.random.default_rng(place)
    weights = [rng.integers(-3, 4, (5, 5)) @ np.diag([1.0] * 5) for _ in range(4)]
    weights[place] = rng.integers(-2, 3, (5, rank)) @ np.eye(rank, 5) + 0.0
    net = ln.LinearNetwork(weights)
    task = sides(rng, net.widths, "population")
    ((part, full, thin),) = both(net, task)
    # A layer that alone has lost rank sees all inputs and all outputs: sweeps are full there.
    assert thin.thin == (place in (0, 3))
    assert relative(layerwise(part, thin), staircase(part, full)) <= tolerances.solve(F64, 40, 1e4)


def test_it_is_the_staircase_by_definition() -> None:
    rng = np.random.default_rng(5)
    net = ln.LinearNetwork.random((7, 5, 3, 5, 7), rng=rng)
    task = sides(rng, net.widths, "population")
    ((part, _, thin),) = both(net, task)
    assert thin.thin
    found = [-v for v in thin_staircase(part, thin)]
    assert relative(found, list(oracle(net, task))) <= tolerances.solve(F64, 40, 1e5)
    # And its terms are needed: without what passes the bottleneck it is not.
    cut = thin._replace(right=thin.right._replace(outer=np.zeros_like(thin.right.outer)))
    assert relative([-v for v in thin_staircase(part, cut)], list(oracle(net, task))) > 1e-3


@pytest.mark.parametrize("matrix", [None, np.linalg.qr(np.vander([1.0, 2.0, 4.0]))[0] * [1.0, 1e-9, 3.0]])
def test_orthogonal_columns_are_undone(matrix: np.ndarray | None) -> None:
    scales = np.array([1.0, 1e-9, 3.0])
    own = Columns(matrix, scales)
    whole = np.diag(scales) if matrix is None else matrix
    inverse = undo(np.eye(3), own)
    assert np.abs(whole @ inverse - np.eye(3)).max() <= tolerances.backward(F64, 30)


def test_whole_links_of_square_layers_are_factored_once() -> None:
    rng = np.random.default_rng(2)
    net = ln.LinearNetwork.random((6, 6, 6, 2, 6), rng=rng)
    ((_, _, thin),) = both(net, ln.Task(np.eye(6)))
    assert [type(own) for own in thin.right.whole] == [type(None), Factored, Factored]
    assert thin.right.outer.shape == (6, 2)


@pytest.mark.parametrize("kind", ["white", "population", "data", "few rows"])
def test_factors_without_biases_have_orthogonal_columns(kind: str) -> None:
    # Thin sweeps take it for granted.
    factor = sides(np.random.default_rng(4), (6, 3, 5), kind).input_factor
    unit = factor / np.linalg.norm(factor, axis=0)
    assert np.abs(unit.T @ unit - np.eye(unit.shape[1])).max() <= tolerances.backward(F64, 30)
