"""Do the integrated flows follow the theorems, and do iterated steps tend to them?"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg

from linnat import _checks
from linnat.dense import flow
from linnat.dense.fisher import gradient
from linnat.dense.natural import natural_gradient
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from tests import tolerances
from tests.strategies import make_problem

pytestmark = pytest.mark.statement("C1", "C2", "X10")

TIMES = np.array([0.0, 0.3, 2.0])
# DOP853 at a relative tolerance of 1e-10 per step: a few tens of steps, errors contracted by the flows.
INTEGRATED = 1e-8


def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """Return the principal power of a general matrix by its eigenvectors."""
    values, vectors = np.linalg.eig(matrix)
    result = (vectors * values.astype(complex) ** exponent) @ np.linalg.inv(vectors)
    assert np.abs(result.imag).max() < 1e-9
    return result.real


def square_start(seed: int, size: int = 3, depth: int = 3) -> tuple[LinearNetwork, Task]:
    """Return a network and a task whose layerwise flow exists for all times: W(0)⁻¹W* has positive eigenvalues."""
    rng = np.random.default_rng(seed)
    net = make_problem("tame", seed, (size,) * (depth + 1)).net
    basis = rng.standard_normal((size, size))
    ratio = basis @ np.diag(np.linspace(0.4, 2.5, size)) @ np.linalg.inv(basis)
    cov = make_problem("tame", seed + 1, (size, size)).task.input_cov
    return net, Task(net.total @ ratio, cov, make_problem("tame", seed + 2, (size, size)).task.noise_cov)


@pytest.mark.parametrize("gauge", ["layerwise", "minimum-norm"])
@pytest.mark.parametrize("rung", ["tame", "singular", "biases"])
def test_natural_flow_takes_the_total_weight_along_a_line(gauge: str, rung: str) -> None:
    problem = make_problem(rung, 2, (2, 4, 3, 2), **({"input_rank": 1} if rung == "singular" else {}))
    net, task = problem.net, problem.task
    layers = flow.natural_flow(net, task, TIMES, gauge)
    found, goal = flow.total_along(net, layers), task.goal(net.has_biases)
    factor = task.moments(net.has_biases).factor
    wanted = (goal + np.exp(-TIMES)[:, None, None] * (net.total - goal)) @ factor
    tolerances.assert_close(found @ factor, wanted, INTEGRATED)
    # Negative control: gradient flow takes another road.
    other = flow.total_along(net, flow.gradient_flow(net, task, TIMES)) @ factor
    assert tolerances.relative_error(other, wanted) > 1e-3


def test_layerwise_flow_is_the_principal_power() -> None:
    net, task = square_start(4)
    layers = flow.natural_flow(net, task, TIMES)
    before, start, depth = net.before, net.total, net.depth
    for place, time in enumerate(TIMES):
        total = task.teacher + np.exp(-time) * (start - task.teacher)
        root = power(np.linalg.solve(start, total), 1 / depth)
        for i in range(depth):
            after_layer = net.weights[i] @ before[i]
            wanted = after_layer @ root @ np.linalg.inv(before[i])
            tolerances.assert_close(layers[i][place], wanted, INTEGRATED)
    other = flow.natural_flow(net, task, TIMES, "minimum-norm")
    assert tolerances.relative_error(other[0], layers[0]) > 1e-3


def test_minimum_norm_flow_conserves_balance_and_the_layerwise_flow_does_not() -> None:
    net, task = square_start(5)

    def drift(layers: tuple[np.ndarray, ...]) -> float:
        worst = 0.0
        for lower, upper in itertools.pairwise(layers):
            balance = [u.T @ u - w @ w.T for u, w in zip(upper, lower, strict=True)]
            worst = max(worst, *(float(np.linalg.norm(b - balance[0])) for b in balance))
        return worst

    conserved = (
        flow.natural_flow(net, task, TIMES, "minimum-norm"),
        flow.natural_flow(net, task, TIMES, damping=0.1),
        flow.gradient_flow(net, task, TIMES),
        flow.fractional_flow(net, task, TIMES, 0.5),
    )
    assert max(drift(layers) for layers in conserved) < INTEGRATED
    assert drift(flow.natural_flow(net, task, TIMES)) > 0.01
    block = flow.natural_flow(net, task, TIMES / net.depth, mask="block-diagonal")
    for one, two in zip(block, flow.natural_flow(net, task, TIMES), strict=True):
        tolerances.assert_close(one, two, INTEGRATED)


def test_gradient_flow_of_one_layer_is_a_matrix_exponential() -> None:
    problem = make_problem("tame", 3, (3, 2))
    task, start = problem.task, problem.net.total
    rate = np.kron(task.input_cov, np.linalg.inv(task.noise_cov))
    found = flow.gradient_flow(problem.net, task, TIMES)[0]
    for time, weight in zip(TIMES, found, strict=True):
        decayed = scipy.linalg.expm(-time * rate) @ (start - task.teacher).flatten(order="F")
        tolerances.assert_close(weight, task.teacher + decayed.reshape(start.shape, order="F"), INTEGRATED)


def test_fractional_flow_interpolates_between_gradient_and_natural_flow() -> None:
    problem = make_problem("biases", 6, (2, 3, 2))
    net, task = problem.net, problem.task
    ends = {
        0.0: flow.gradient_flow(net, task, TIMES),
        1.0: flow.natural_flow(net, task, TIMES, "minimum-norm"),
    }
    for gamma, layers in ends.items():
        for one, two in zip(flow.fractional_flow(net, task, TIMES, gamma), layers, strict=True):
            tolerances.assert_close(one, two, INTEGRATED)
    # One layer with one input: dE/dt = −s^{1−γ} E.
    single, scalar = LinearNetwork([[[2.0]]]), Task([[0.5]], [[7.0]])
    found = flow.fractional_flow(single, scalar, TIMES, 0.25)[0].ravel()
    np.testing.assert_allclose(found, 0.5 + 1.5 * np.exp(-TIMES * 7.0**0.75), atol=INTEGRATED)
    cut = flow.fractional_gradient(
        LinearNetwork([np.eye(2)]), Task(np.zeros((2, 2)), np.diag([1.0, 1e-8])), 1.0, 1e-3
    )
    np.testing.assert_allclose(cut[0], np.diag([1.0, 0.0]), atol=1e-12)


def test_flows_compose_in_time_and_times_may_come_in_any_order() -> None:
    problem = make_problem("tame", 7, (3, 4, 2))
    net, task = problem.net, problem.task
    first = flow.natural_flow(net, task, 0.4)
    middle = net.replace_layers([layer[0] for layer in first])
    for one, two in zip(flow.natural_flow(middle, task, 0.6), flow.natural_flow(net, task, 1.0), strict=True):
        tolerances.assert_close(one, two, INTEGRATED)
    shuffled = flow.natural_flow(net, task, [1.0, 0.0, 0.4, 1.0])
    for one, two, start in zip(
        shuffled, flow.natural_flow(net, task, [0.0, 0.4, 1.0]), net.layers, strict=True
    ):
        np.testing.assert_array_equal(one, two[[2, 0, 1, 2]])
        np.testing.assert_array_equal(one[1], start)
    for one, start in zip(flow.natural_flow(net, task, [0.0, 0.0]), net.layers, strict=True):
        np.testing.assert_array_equal(one, np.stack([start, start]))


@pytest.mark.parametrize("depth", [2, 3])
def test_the_integrator_stops_where_the_flow_breaks_down(depth: int) -> None:
    net, task = LinearNetwork([np.ones((1, 1))] * depth), Task([[-1.0]])
    with pytest.raises(_checks.ConvergenceError) as caught:
        flow.natural_flow(net, task, 1.0)
    assert isinstance(caught.value.estimate, float)
    assert abs(caught.value.estimate - np.log(2.0)) < 1e-6
    flow.natural_flow(net, task, np.log(2.0) - 1e-3)


def test_steps_follow_the_exact_discrete_map_and_tend_to_the_flow() -> None:
    net, task = square_start(8)
    points, eta = net.total, 0.5
    states = flow.steps(net, lambda state: natural_gradient(state, task), eta, 3)
    assert len(states) == 4
    assert states[0] is net
    for state in states[1:]:
        ratio = np.linalg.solve(points, task.teacher) - np.eye(3)
        points = points @ np.linalg.matrix_power(np.eye(3) + eta / net.depth * ratio, net.depth)
        tolerances.assert_close(state.total, points, tolerances.solve(np.float64, 9, 1e3))
    limit, errors = flow.gradient_flow(net, task, 1.0), []
    counts = np.array([64, 128, 256])
    for count in counts:
        end = flow.steps(net, lambda state: gradient(state, task), 1.0 / count, int(count))[-1]
        errors.append(max(np.linalg.norm(w - path[0]) for w, path in zip(end.weights, limit, strict=True)))
    assert abs(np.polyfit(np.log(counts), np.log(errors), 1)[0] + 1) < 0.15, errors


def test_bad_arguments_are_refused() -> None:
    net, task = LinearNetwork.random((2, 2), rng=0), Task(np.eye(2))
    with pytest.raises(_checks.InputError, match=r"times: expected times ≥ 0"):
        flow.gradient_flow(net, task, [-1.0])
    with pytest.raises(_checks.InputError, match=r"gamma"):
        flow.fractional_flow(net, task, 1.0, float("nan"))
    with pytest.raises(_checks.InputError, match=r"count"):
        flow.steps(net, lambda state: state.weights, 0.1, -1)
    with pytest.raises(_checks.InputError, match=r"direction: expected one array per layer"):
        flow.integrate(net, lambda state: (state.weights[0][:1],), 1.0)
