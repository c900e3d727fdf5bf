"""Ranks, (J), the condition of N1 and the error estimate: against dense Jacobians, for stacks, with biases."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import linnat as ln
from tests import tolerances
from tests.mp_oracle import exact_moments, task_moments, truth
from tests.strategies import RUNGS, Problem, conditioned, integer_rank, make_problem, problems

pytestmark = pytest.mark.statement("X9", "N1", "C1")

EXACT = ("tame", "bottleneck", "rank-deficient", "singular", "biases")


def dense_rank(matrix: np.ndarray) -> int:
    """Return the rank, with a cut-off in the wide gap that the ladder's exact rungs leave."""
    values = np.linalg.svd(matrix, compute_uv=False)
    return int((values > 1e-9 * values.max(initial=1e-300)).sum())


def sides(problem: Problem) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return Ã_i and B̃_i as products."""
    factor = problem.task.moments(problem.net.has_biases).factor
    return [a @ factor for a in problem.net.before], list(problem.net.after)


@given(problems(EXACT, max_depth=4, max_width=4))
def test_ranks_are_those_of_the_products(problem: Problem) -> None:
    before, after = sides(problem)
    found = ln.ranks(problem.net, problem.task)
    assert found.before.tolist() == [dense_rank(a) if a.size else 0 for a in before]
    assert found.after.tolist() == [dense_rank(b) for b in after]


@given(problems(EXACT, max_depth=3, max_width=3))
def test_onto_means_that_the_jacobian_is(problem: Problem) -> None:
    before, after = sides(problem)
    rank = np.asarray(problem.task.moments(problem.net.has_biases).rank)
    jacobian = np.concatenate([np.kron(a.T, b) for a, b in zip(before, after, strict=True)], axis=1)
    onto = (dense_rank(jacobian) if jacobian.size else 0) == problem.net.widths[-1] * int(rank)
    assert bool(ln.is_onto(problem.net, problem.task)) == onto
    full = all(dense_rank(b) == problem.net.widths[-1] for b in after)
    full = full and all((dense_rank(a) if a.size else 0) == int(rank) for a in before)
    assert bool(ln.has_full_ranks(problem.net, problem.task)) == full
    assert onto or not full


def mixed_stack() -> tuple[ln.LinearNetwork, ln.Task]:
    """Return six networks of three different patterns of ranks, and two tasks."""
    rng = np.random.default_rng(0)
    second = np.stack([integer_rank(rng, 3, 3, r) for r in (3, 2, 3, 1, 2, 3)]).reshape(3, 2, 3, 3)
    net = ln.LinearNetwork([rng.standard_normal((3, 1, 3, 3)), second, rng.standard_normal((3, 3))])
    covs = np.stack([np.eye(3), np.diag([1.0, 4.0, 0.0])])
    return net, ln.Task(rng.standard_normal((3, 3)), covs)


def test_stacks_of_different_ranks_equal_a_loop() -> None:
    net, task = mixed_stack()
    found, onto, full = ln.ranks(net, task), ln.is_onto(net, task), ln.has_full_ranks(net, task)
    answer = ln.natural_gradient(net, task)
    estimate = ln.error_estimate(net, task)
    assert found.before.shape == found.after.shape == estimate.layers.shape == (3, 2, 3)
    assert onto.shape == full.shape == estimate.relative.shape == (3, 2)
    for a, b in np.ndindex(3, 2):
        single = ln.LinearNetwork([w[a, b] for w in net.weights])
        one = ln.Task(task.teacher, task.input_cov[b])
        alone = ln.ranks(single, one)
        assert found.before[a, b].tolist() == alone.before.tolist()
        assert found.after[a, b].tolist() == alone.after.tolist()
        assert onto[a, b] == ln.is_onto(single, one)
        assert full[a, b] == ln.has_full_ranks(single, one)
        own = ln.natural_gradient(single, one)
        error = float(ln.error_estimate(single, one).relative)
        # Other random signs: the same size, not the same number.
        assert error / 30 <= estimate.relative[a, b] <= 30 * error
        for whole, part in zip(answer, own, strict=True):
            assert np.linalg.norm(whole[a, b] - part) <= 2 * error * np.linalg.norm(ln.flatten(own))


@pytest.mark.parametrize("rung", RUNGS)
def test_the_estimate_on_the_ladder(rung: str) -> None:
    for seed in range(15):
        problem = make_problem(rung, seed)
        net, task = problem.net, problem.task
        wanted = truth(net, task_moments(task, net.has_biases), task.noise_cov).direction
        found = ln.natural_gradient(net, task)
        size = tolerances.relative_error(ln.flatten(found), ln.flatten(wanted))
        assert float(ln.error_estimate(net, task).relative) >= size


def test_the_estimate_of_each_layer() -> None:
    below = 0
    for seed in range(60):
        problem = make_problem("bottleneck", seed, input_condition=1.0, noise_condition=1.0)
        wanted = truth(problem.net, task_moments(problem.task), problem.task.noise_cov).direction
        found = ln.natural_gradient(problem.net, problem.task)
        layers = ln.error_estimate(problem.net, problem.task).layers
        for a, b, bound in zip(found, wanted, layers, strict=True):
            below += tolerances.relative_error(a, b) > bound
    # About 180 layers; a single one may fall short.
    assert below <= 1


def test_the_estimate_is_repeatable_and_random() -> None:
    problem = make_problem("bottleneck", 0)
    first, second = (float(ln.error_estimate(problem.net, problem.task).relative) for _ in range(2))
    third = float(ln.error_estimate(problem.net, problem.task, rng=1).relative)
    fourth = float(ln.error_estimate(problem.net, problem.task, rng=np.random.default_rng(1)).relative)
    assert first == second
    assert third == fourth != first


def test_the_estimate_of_nothing_is_nothing() -> None:
    net = ln.LinearNetwork([np.zeros((2, 3)), np.zeros((3, 2))])
    found = ln.error_estimate(net, ln.Task(np.eye(3)))
    assert found.relative == 0
    assert found.layers.tolist() == [0, 0]


def test_the_estimate_where_the_direction_is_zero() -> None:
    # W = W* to the last bit, by exact products: u is 0, and a rerun with other last bits is not.
    net = ln.LinearNetwork([np.diag([2.0, 4.0]), np.diag([8.0, 0.5])])
    found = ln.error_estimate(net, ln.Task(net.total))
    assert not any(u.any() for u in ln.natural_gradient(net, ln.Task(net.total)))
    assert found.relative == 4
    assert found.layers.tolist() == [4, 4]
    assert 0 < found.absolute < 1e-13
    # Beside it a direction is rounding alone, and its size is what the absolute error says.
    near = ln.Task(net.total * (1 + 2.0**-52))
    found = ln.error_estimate(net, near)
    size = float(np.linalg.norm(ln.flatten(ln.natural_gradient(net, near))))
    assert 1 < found.relative < np.inf
    assert size <= found.absolute == pytest.approx(float(found.relative) * size)


def test_the_absolute_estimate_is_the_relative_one_times_the_size() -> None:
    problem = make_problem("bottleneck", 3)
    found = ln.error_estimate(problem.net, problem.task)
    size = np.linalg.norm(ln.flatten(ln.natural_gradient(problem.net, problem.task)))
    assert float(found.absolute) == pytest.approx(float(found.relative * size), rel=1e-6)


def test_the_estimate_does_not_see_a_rank_that_is_wrong() -> None:
    # A true rank of 2 cut to 1: the answer is far off, the estimate small. It is `rank_report` that has the gap.
    net, task = ln.LinearNetwork([np.diag([1.0, 1e-5]), np.eye(2)]), ln.Task(np.eye(2))
    cut, whole = (ln.flatten(ln.natural_gradient(net, task, rtol=rtol)) for rtol in (1e-3, None))
    assert np.linalg.norm(cut - whole) > 0.5 * np.linalg.norm(whole)
    assert float(ln.error_estimate(net, task, rtol=1e-3).relative) < 1e-12


def test_a_tie_is_decided_by_the_cut_off() -> None:
    net = ln.LinearNetwork([np.diag([1.0, 1e-5]), np.eye(2)])
    task = ln.Task(np.eye(2))
    assert ln.ranks(net, task).before.tolist() == [2, 2]
    assert ln.ranks(net, task, rtol=1e-3).before.tolist() == [2, 1]
    assert ln.is_onto(net, task)
    assert not ln.has_full_ranks(net, task, rtol=1e-3)


@pytest.mark.parametrize("function", [ln.ranks, ln.is_onto, ln.has_full_ranks, ln.error_estimate])
def test_bad_input(function: Any) -> None:
    net, task = ln.LinearNetwork([np.eye(2)]), ln.Task(np.eye(2))
    with pytest.raises(ln.InputError, match="^net: expected a LinearNetwork, found list"):
        function([np.eye(2)], task)
    with pytest.raises(ln.InputError, match="^task: expected a Task, found ndarray"):
        function(net, np.eye(2))
    with pytest.raises(
        ln.InputError, match="^task: expected 2 inputs and 2 outputs, like the network, found 3"
    ):
        function(net, ln.Task(np.eye(3)))
    with pytest.raises(ln.InputError, match="^rtol: expected a finite number in"):
        function(net, task, rtol=-1.0)
    stack, tasks = ln.LinearNetwork([np.ones((3, 2, 2))]), ln.Task(np.ones((4, 2, 2)))
    with pytest.raises(ln.InputError, match="^net and task: expected leading axes that broadcast"):
        function(stack, tasks)


def test_bad_generators() -> None:
    with pytest.raises(ln.InputError, match="^rng"):
        ln.error_estimate(ln.LinearNetwork([np.eye(2)]), ln.Task(np.eye(2)), rng=None)  # type: ignore[arg-type]


def test_undetermined_ranks_warn_once_from_every_function() -> None:
    net = ln.LinearNetwork([np.diag([1.0, 1e-14]), np.eye(2)])
    task = ln.Task(np.eye(2))
    for function in (ln.ranks, ln.is_onto, ln.has_full_ranks, ln.error_estimate, ln.natural_gradient):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function(net, task)
        assert [w.category for w in caught] == [ln.RankWarning]


@pytest.mark.parametrize("condition", [1e4, 1e6])
@pytest.mark.parametrize("hidden", [2, 6])
def test_the_estimate_covers_the_rounding_of_moments(hidden: int, condition: float) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = 3 * conditioned(rng, 20, 5, condition)
        y = x @ rng.standard_normal((5, 4)) + 1e-2 * rng.standard_normal((20, 4))
        net, task = ln.LinearNetwork.random((5, hidden, 4), rng=seed), ln.Task.from_data(x, y)
        wanted = truth(net, lambda field, x=x, y=y: exact_moments(x, y, field)).direction
        size = tolerances.relative_error(ln.flatten(ln.natural_gradient(net, task)), ln.flatten(wanted))
        assert float(ln.error_estimate(net, task).relative) >= size
