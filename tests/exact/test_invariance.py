"""Does the flow see the parametrisation? At which order do steps, damping, minibatches? Statement C10."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linnat as ln
from linnat.claims.invariance import check_invariance
from linnat.dense.flow import natural_flow, steps, total_along
from linnat.dense.jacobian import total
from tests import tolerances
from tests.strategies import problems, seeds, square_problems

pytestmark = pytest.mark.statement("C10")


def turned(net: ln.LinearNetwork, seed: int) -> ln.LinearNetwork:
    rng = np.random.default_rng(seed)
    changes = [
        np.linalg.qr(rng.standard_normal((n, n)))[0] * np.geomspace(2, 0.5, n) for n in net.widths[1:-1]
    ]
    return ln.invariance.change_coordinates(net, changes)


def moved(net: ln.LinearNetwork, task: ln.Task, gauge: str) -> np.ndarray:
    return ln.induced_change(net, ln.natural_gradient(net, task, gauge))


@given(
    problems(rungs=("tame",), max_depth=4, max_width=4), seeds, st.sampled_from(["layerwise", "minimum-norm"])
)
def test_the_flow_does_not_see_hidden_coordinates_and_depth(problem, seed: int, gauge: str) -> None:  # type: ignore[no-untyped-def]
    net, task = problem.net, problem.task
    other = turned(net, seed)
    kappa = 27.0 * np.prod(problem.conditions) * problem.input_condition * problem.noise_condition
    bound = tolerances.solve(np.float64, sum(net.widths), 4.0**net.depth * kappa)
    tolerances.assert_close(other.total, net.total, bound)
    wanted = moved(net, task, gauge)
    tolerances.assert_close(moved(other, task, gauge), wanted, bound)
    tolerances.assert_close(moved(ln.LinearNetwork([net.total]), task, gauge), wanted, bound)


def test_flows_agree_along_their_paths_and_gradients_do_not() -> None:
    net = ln.LinearNetwork.random((2, 5, 3), rng=0)
    task = ln.Task(np.ones((3, 2)), np.diag([1.0, 0.3]))
    others, times = (turned(net, 1), ln.LinearNetwork([net.total])), [0.5, 2.0]
    wanted = total_along(net, natural_flow(net, task, times, "minimum-norm"))
    for other in others:
        found = total_along(other, natural_flow(other, task, times, "minimum-norm"))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-7)
        assert (
            np.abs(
                ln.induced_change(other, ln.gradient(other, task))
                - ln.induced_change(net, ln.gradient(net, task))
            ).max()
            > 0.1
        )


@given(square_problems(max_size=4, max_depth=4, max_log_condition=1.0))
def test_pairs_of_layers_add_up_to_the_closed_form(problem) -> None:  # type: ignore[no-untyped-def]
    net, task = problem.net, problem.task
    step = ln.natural_gradient(net, task)
    found = ln.invariance.second_order(net, step)
    teacher = task.linear_teacher
    wanted = ln.invariance.depth_deviation(net.total, teacher, net.depth)
    kappa = float(np.prod(problem.conditions))
    # E W⁻¹ E may cancel: measured against the product of its norms.
    size = np.linalg.norm(teacher - net.total) ** 2 * np.linalg.norm(np.linalg.pinv(net.total), 2)
    assert np.linalg.norm(found - wanted) <= tolerances.solve(np.float64, sum(net.widths), kappa**2) * size
    zero = ln.invariance.depth_deviation(net.total, teacher, 3, 3)
    assert not zero.any()


def test_second_order_is_the_coefficient_of_steps() -> None:
    # W(θ − ηu) is a polynomial in η: its even second difference at unit steps, for depth two, is exact.
    net = ln.LinearNetwork.random((3, 4, 2), rng=1)
    direction = tuple(np.random.default_rng(2).standard_normal(w.shape) for w in net.weights)
    ends = [
        total(net.replace_layers([w + s * d for w, d in zip(net.weights, direction, strict=True)]))
        for s in (1, -1)
    ]
    found = ln.invariance.second_order(net, direction)
    np.testing.assert_allclose(found, (ends[0] + ends[1]) / 2 - net.total, rtol=0, atol=1e-12)
    deep = ln.LinearNetwork.random((3, 4, 5, 4, 2), rng=1)
    direction = tuple(np.random.default_rng(2).standard_normal(w.shape) for w in deep.weights)
    errors = []
    for eta in (1e-2, 5e-3):
        ends = [
            total(
                deep.replace_layers([w + s * eta * d for w, d in zip(deep.weights, direction, strict=True)])
            )
            for s in (1, -1)
        ]
        gap = ((ends[0] + ends[1]) / 2 - deep.total) / eta**2 - ln.invariance.second_order(deep, direction)
        errors.append(np.linalg.norm(gap))
    assert 3.5 < errors[0] / errors[1] < 4.5  # the next even order


@pytest.mark.parametrize(
    ("forward", "backward", "slope", "bend"),
    [
        (np.sinh, np.arcsinh, lambda w: np.sqrt(1 + w**2), lambda w: w / (1 + w**2)),
        (np.exp, np.log, lambda w: w, lambda w: 1 / w),
    ],
)
def test_nonlinear_coordinates_add_their_curvature(forward, backward, slope, bend) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(5)
    net = ln.LinearNetwork([rng.uniform(0.5, 2.0, (4, 3)), rng.uniform(0.5, 2.0, (2, 4))])
    task = ln.Task(rng.uniform(4.0, 5.0, (2, 3)))
    u = ln.natural_gradient(net, task)
    bends = [bend(w) for w in net.weights]
    wanted = ln.invariance.second_order(net, u) + ln.invariance.coordinate_deviation(net, u, bends)
    errors = []
    for eta in (1e-3, 5e-4):
        ends = [forward(backward(w) - eta * d / slope(w)) for w, d in zip(net.weights, u, strict=True)]
        gap = total(ln.LinearNetwork(ends)) - net.total + eta * ln.induced_change(net, u)
        errors.append(np.linalg.norm(gap / eta**2 - wanted))
    assert 1.8 < errors[0] / errors[1] < 2.2
    assert errors[1] < 0.1 * np.linalg.norm(wanted)


def test_steps_up_to_a_time_part_depths_by_the_drift() -> None:
    rng = np.random.default_rng(0)
    start = np.eye(3) + 0.3 * rng.standard_normal((3, 3))
    basis = rng.standard_normal((3, 3))
    teacher = start @ np.linalg.solve(basis.T, (basis * [0.4, 1.5, 3.0]).T).T
    task, end = ln.Task(teacher), 1.0
    wanted = ln.invariance.depth_drift(start, teacher, [0.0, end], 4, 2)
    assert not wanted[0].any()
    errors = []
    for count in (100, 200):
        ends = []
        for depth in (4, 2):
            state = ln.LinearNetwork.balanced(start, depth)
            last = steps(state, lambda net: ln.natural_gradient(net, task), end / count, count)[-1]
            ends.append(total(last))
        errors.append(np.linalg.norm((ends[0] - ends[1]) * count / end - wanted[1]))
    assert 1.7 < errors[0] / errors[1] < 2.3
    assert errors[1] < 0.05 * np.linalg.norm(wanted[1])
    # It is the integral of its own equation, by differences.
    h = 1e-5
    around = ln.invariance.depth_drift(start, teacher, [end - h, end, end + h], 4, 2)
    weight = teacher + np.exp(-end) * (start - teacher)
    rate = (around[2] - around[0]) / (2 * h)
    fed = ln.invariance.depth_deviation(weight, teacher, 4, 2)
    np.testing.assert_allclose(rate, fed - around[1], rtol=0, atol=1e-7)
    assert np.abs(ln.invariance.depth_drift(start, teacher, 60.0, 4)).max() < 1e-20


@given(problems(rungs=("tame",), max_depth=3, max_width=3))
def test_damping_is_the_first_order(problem) -> None:  # type: ignore[no-untyped-def]
    net, task = problem.net, problem.task
    claimed = ln.invariance.damping_deviation(net, task)
    error = task.linear_teacher - net.total
    # λ relative to the weakest mode of JJᵀ: the largest response of the whitened error.
    pull = np.linalg.norm(claimed) / np.linalg.norm(error)
    gaps = []
    for lam in (1e-4 / pull, 5e-5 / pull):
        damped = -ln.induced_change(net, ln.natural_gradient(net, task, damping=lam))
        gaps.append((error - damped) / lam - claimed)
    # What is left is of the next order: it halves.
    first, second = np.linalg.norm(gaps[0]), np.linalg.norm(gaps[1])
    assert second <= 0.05 * np.linalg.norm(claimed)
    assert second <= 0.6 * first + 1e-7 * np.linalg.norm(claimed)


def test_balanced_white_layers_divide_by_their_eigenvalues() -> None:
    net = ln.LinearNetwork.balanced(np.diag([4.0, 9.0]), 2)
    found = ln.invariance.damping_deviation(net, ln.Task(np.diag([5.0, 12.0])))
    np.testing.assert_allclose(found, np.diag([1 / 8, 3 / 18]), rtol=0, atol=1e-12)
    # It depends on the parametrisation.
    other = ln.invariance.damping_deviation(ln.LinearNetwork([net.total]), ln.Task(np.diag([5.0, 12.0])))
    np.testing.assert_allclose(other, np.diag([1.0, 3.0]), rtol=0, atol=1e-12)


def test_minibatches_keep_a_part_at_the_optimum() -> None:
    rng = np.random.default_rng(1)
    weight, noise = np.array([[1.0, 0.5], [-0.3, 0.8]]), np.array([[1.0, 0.3], [0.3, 0.5]])
    task = ln.Task(weight, np.diag([1.0, 0.4]), noise)
    draws, batch = 50_000, 4
    first = rng.standard_normal((2, 2))
    second = weight @ np.linalg.pinv(first)
    x = rng.standard_normal((draws, batch, 2)) * np.sqrt([1.0, 0.4])
    nu = rng.standard_normal((draws, batch, 2)) @ np.linalg.cholesky(noise).T
    gradient = np.swapaxes(nu, 1, 2) @ x / batch / np.array([1.0, 0.4])
    v1 = np.linalg.solve(second, gradient) / 2
    v2 = np.swapaxes(np.linalg.solve(first.T, np.swapaxes(gradient, 1, 2)), 1, 2) / 2
    gaps = (second + v2) @ (first + v1) - weight - gradient
    wanted = ln.invariance.minibatch_deviation(weight, task, batch, 2)
    spread = gaps.std(axis=0) / np.sqrt(draws)
    assert np.abs((gaps.mean(axis=0) - wanted) / spread).max() < 5
    assert np.abs(gaps.mean(axis=0) / spread).max() > 20
    np.testing.assert_allclose(ln.invariance.minibatch_deviation(weight, task, 8, 2), wanted / 2, rtol=1e-12)
    far = ln.Task(weight + 1, np.diag([1.0, 0.4]), noise)
    limit = ln.invariance.minibatch_deviation(weight, far, 10**9, 3)
    np.testing.assert_allclose(limit, ln.invariance.depth_deviation(weight, weight + 1, 3), rtol=0, atol=1e-7)


def test_the_empirical_fisher_needs_as_many_samples_as_entries() -> None:
    rng = np.random.default_rng(3)
    net = ln.LinearNetwork.random((2, 4, 3), rng=3)
    other = turned(net, 4)
    x, y = rng.standard_normal((12, 2)), rng.standard_normal((12, 3))
    gaps = []
    for count in (6, 5):
        changes = []
        for state in (net, other):
            rows = ln.dense.jacobian.output_jacobian(state, x[:count])
            gradients = np.einsum("ncp,nc->np", rows, y[:count] - ln.dense.jacobian.outputs(state, x[:count]))
            step = np.linalg.pinv(gradients, rcond=1e-10) @ np.ones(count)
            changes.append(ln.induced_change(state, ln.unflatten(step, state)))
        gaps.append(np.linalg.norm(changes[0] - changes[1]) / np.linalg.norm(changes[0]))
    assert gaps[0] < 1e-8
    assert gaps[1] > 1e-2


def test_the_claim_measures_minibatches_and_samples() -> None:
    from linnat.claims._core import Case

    rng = np.random.default_rng(0)
    net = ln.LinearNetwork([np.eye(2) + 0.3 * rng.standard_normal((2, 2)) for _ in range(3)])
    measures = check_invariance(Case(net, ln.Task(rng.standard_normal((2, 2))), rng))
    assert all(m.ratio <= 1 for m in measures)
    words = " ".join(m.quantity for m in measures)
    for word in (
        "sinh",
        "order in λ",
        "minibatches of 2",
        "empirical Fisher, 3 samples",
        "EW⁻¹E",
        "two gauges",
    ):
        assert word in words


def test_stacks_equal_a_loop_and_float32_is_kept() -> None:
    net = ln.LinearNetwork.random((3, 3, 3), rng=0, batch_shape=(2,))
    task = ln.Task(np.random.default_rng(1).standard_normal((3, 3)), np.diag([1.0, 0.5, 2.0]))
    u = ln.natural_gradient(net, task)
    together = (
        ln.invariance.second_order(net, u),
        ln.invariance.damping_deviation(net, task),
        ln.invariance.depth_deviation(net.total, task.teacher, 2),
        ln.invariance.minibatch_deviation(net.total, task, 3, 2),
        ln.invariance.coordinate_deviation(net, u, net.weights),
    )
    for k in range(2):
        single, d = ln.LinearNetwork([w[k] for w in net.weights]), [v[k] for v in u]
        alone = (
            ln.invariance.second_order(single, d),
            ln.invariance.damping_deviation(single, task),
            ln.invariance.depth_deviation(single.total, task.teacher, 2),
            ln.invariance.minibatch_deviation(single.total, task, 3, 2),
            ln.invariance.coordinate_deviation(single, d, single.weights),
        )
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one[k], other, rtol=1e-10, atol=1e-12)
    drift = ln.invariance.depth_drift(np.stack([np.eye(2), 2 * np.eye(2)]), 3 * np.eye(2), [0.1, 0.2], 2)
    assert drift.shape == (2, 2, 2, 2)
    np.testing.assert_allclose(
        drift[1], ln.invariance.depth_drift(2 * np.eye(2), 3 * np.eye(2), [0.1, 0.2], 2)
    )
    low = ln.LinearNetwork([w[0].astype(np.float32) for w in net.weights])
    assert ln.invariance.second_order(low, low.weights).dtype == np.float32
    assert ln.invariance.damping_deviation(low, task).dtype == np.float32
    assert ln.invariance.change_coordinates(low, [np.eye(3, dtype=np.float32)]).dtype == np.float32


def test_bad_input() -> None:
    api, net, task = ln.invariance, ln.LinearNetwork.random((2, 3, 2), rng=0), ln.Task(np.eye(2))
    with pytest.raises(ln.InputError, match="^net: expected a LinearNetwork"):
        api.second_order([np.eye(2)], [np.eye(2)])  # type: ignore[arg-type]
    biased = ln.LinearNetwork.random((2, 3, 2), rng=0, biases=True)
    for call in (
        lambda: api.second_order(biased, biased.weights),
        lambda: api.damping_deviation(biased, task),
    ):
        with pytest.raises(ln.ConditionError, match="^net: expected a network without biases"):
            call()
    for changes in (
        [],
        [np.eye(2)],
        [np.eye(3), np.eye(3)],
        np.eye(3),
        [np.full((3, 3), np.nan)],
        [np.zeros((3, 3))],
    ):
        with pytest.raises(ln.InputError, match="^changes"):
            api.change_coordinates(net, changes)
    with pytest.raises(ln.InputError, match="^direction"):
        api.second_order(net, [np.eye(2)])
    with pytest.raises(ln.InputError, match="^curvature"):
        api.coordinate_deviation(net, net.weights, [np.eye(2), np.eye(2)])
    with pytest.raises(ln.InputError, match="^start: expected a square matrix"):
        api.depth_deviation(np.ones((2, 3)), np.ones((2, 3)), 2)
    with pytest.raises(ln.InputError, match="^start: expected an invertible matrix"):
        api.depth_deviation(np.zeros((2, 2)), np.eye(2), 2)
    with pytest.raises(ln.InputError, match="^teacher"):
        api.depth_deviation(np.eye(2), np.eye(3), 2)
    for bad in (0, 1.5, True):
        with pytest.raises(ln.InputError, match="^depth"):
            api.depth_deviation(np.eye(2), np.eye(2), bad)  # type: ignore[arg-type]
        with pytest.raises(ln.InputError, match="^batch"):
            api.minibatch_deviation(np.eye(2), task, bad, 2)  # type: ignore[arg-type]
    with pytest.raises(ln.InputError, match="^times"):
        api.depth_drift(np.eye(2), np.eye(2), -1.0, 2)
    with pytest.raises(ln.FlowBreakdownError, match="meets a singular W at t = 0.693147") as caught:
        api.depth_drift(np.eye(2), np.diag([-1.0, 2.0]), 1.0, 2)
    assert caught.value.time == pytest.approx(np.log(2))
    with pytest.raises(ln.ConditionError, match="^net: .J. fails"):
        api.damping_deviation(ln.LinearNetwork.random((3, 1, 3), rng=0), ln.Task(np.eye(3)))
    flat = ln.Task(np.eye(2), np.diag([1.0, 0.0]))
    with pytest.raises(ln.ConditionError, match="^task: expected S > 0"):
        api.damping_deviation(net, flat)
    with pytest.raises(ln.ConditionError, match="^task: expected S > 0"):
        api.minibatch_deviation(np.eye(2), flat, 2, 2)


def test_the_ends_of_the_range() -> None:
    api, net = ln.invariance, ln.LinearNetwork([1e200 * np.eye(2)] * 2)
    for call in (
        lambda: api.change_coordinates(net, [1e200 * np.eye(2)]),
        lambda: api.second_order(net, net.weights),
        lambda: api.coordinate_deviation(net, net.weights, net.weights),
        lambda: api.depth_deviation(1e-300 * np.eye(2), 1e10 * np.eye(2), 2),
        lambda: api.depth_drift(1e-300 * np.eye(2), 1e10 * np.eye(2), 1.0, 2),
        lambda: api.damping_deviation(net, ln.Task(np.eye(2))),
        lambda: api.minibatch_deviation(1e-200 * np.eye(2), ln.Task(1e200 * np.eye(2)), 3, 2),
    ):
        with pytest.raises(ln.RangeError):
            call()


def test_single_precision_is_kept_by_pairs_of_matrices() -> None:
    start, goal = np.eye(2, dtype=np.float32), 2 * np.eye(2, dtype=np.float32)
    assert ln.invariance.depth_deviation(start, goal, 2).dtype == np.float32
    assert ln.invariance.depth_drift(start, goal, 0.5, 2).dtype == np.float32
    assert ln.invariance.minibatch_deviation(start, ln.Task(goal), 3, 2).dtype == np.float32
    assert ln.invariance.depth_deviation(start, goal.astype(float), 2).dtype == np.float64
