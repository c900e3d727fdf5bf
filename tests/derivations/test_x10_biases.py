"""Does the derived staircase with biases (X10) solve F v = −∇ℓ? Is centring the elimination of the bias?"""

from __future__ import annotations

import numpy as np
import pytest

import linnat as ln
from derivations import x10_biases
from linnat import dense
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from tests import tolerances
from tests.derivations._definitions import residual, stack
from tests.strategies import make_problem

pytestmark = pytest.mark.statement("X10")

natural_gradient = x10_biases.functions()["natural_gradient"]
eliminate = x10_biases.functions()["eliminate_bias"]
WIDTHS = [(3, 3, 2), (3, 1, 3), (2, 4, 3, 2)]


def arguments(net: LinearNetwork, task: Task) -> tuple[list, list, np.ndarray, np.ndarray, np.ndarray]:
    w, c = np.eye(net.widths[0]), np.zeros(net.widths[0])
    for weight, bias in zip(net.weights, net.biases or (), strict=True):
        w, c = weight @ w, weight @ c + bias
    error = np.column_stack([task.teacher - w, task.teacher_bias - c])
    moment = np.block(
        [[task.input_cov, task.input_mean[:, None]], [task.input_mean[None, :], np.ones((1, 1))]]
    )
    return list(net.weights), list(net.biases or ()), error, moment, np.asarray(task.noise_cov)


def bound(widths: tuple[int, ...], task: Task) -> float:
    """eps × size × κ of the products (3 per layer, by construction) and of the moment of (x, 1), p = 1."""
    condition = 3.0 ** (2 * len(widths)) * np.sqrt(np.linalg.cond(task.input_cov)) * 10
    return tolerances.solve(np.float64, sum(widths), condition)


@pytest.mark.parametrize("widths", WIDTHS)
def test_staircase_with_biases_solves_and_is_linnats(widths: tuple[int, ...]) -> None:
    problem = make_problem("biases", 3, widths)
    net, task = problem.net, problem.task
    found = natural_gradient(*arguments(net, task))
    fisher = dense.fisher.score_covariance(net, task)
    gradient = stack(dense.fisher.gradient(net, task))
    assert residual(fisher, stack(found), -gradient) <= bound(widths, task)
    for u in (ln.natural_gradient(net, task), dense.natural.natural_gradient(net, task, rtol=1e-10)):
        tolerances.assert_close(stack(found), -stack(u), 10 * bound(widths, task))


def test_staircase_of_a_bottleneck_without_the_mean_does_not_solve() -> None:
    problem = make_problem("biases", 3, (3, 1, 3))  # in a wide network the metric drops out of the condition
    net, task = problem.net, problem.task
    weights, biases, error, moment, noise = arguments(net, task)
    moment[:-1, -1] = moment[-1, :-1] = 0.0
    found = natural_gradient(weights, biases, error, moment, noise)
    gradient = stack(dense.fisher.gradient(net, task))
    assert residual(dense.fisher.score_covariance(net, task), stack(found), -gradient) > 1e-3


def hidden_moments(net: LinearNetwork, task: Task, layer: int) -> tuple[np.ndarray, np.ndarray]:
    mean, cov = task.input_mean, task.input_cov - np.outer(task.input_mean, task.input_mean)
    for weight, bias in zip(net.weights[:layer], (net.biases or ())[:layer], strict=True):
        mean, cov = weight @ mean + bias, weight @ cov @ weight.T
    return mean, cov


@pytest.mark.parametrize(("widths", "same"), [((3, 3, 3), True), ((2, 4, 2), False)])
def test_eliminating_the_bias_is_the_natural_gradient_where_covariances_are_invertible(
    widths: tuple[int, ...], same: bool
) -> None:
    problem = make_problem("biases", 5, widths)
    net, task = problem.net, problem.task
    gradient = dense.fisher.gradient(net, task)
    found = natural_gradient(*arguments(net, task))
    eliminated = []
    for i in range(len(net.weights)):
        after = np.eye(widths[-1])
        for weight in net.weights[:i:-1]:
            after = after @ weight
        output = after.T @ np.linalg.solve(task.noise_cov, after)
        mean, cov = hidden_moments(net, task, i)
        scaled = -np.linalg.pinv(output, rcond=1e-10, hermitian=True) @ gradient[i] / len(net.weights)
        v_w, v_b = eliminate(scaled, cov, mean)
        eliminated.append(np.column_stack([v_w, v_b]))
    fisher = dense.fisher.score_covariance(net, task)
    # It solves in either case: covariances are inverted, hence κ² of the products.
    limit = bound(widths, task) * 3.0 ** (2 * len(widths))
    assert residual(fisher, stack(eliminated), -stack(gradient)) <= limit
    difference = tolerances.relative_error(stack(eliminated), stack(found))
    assert (difference <= 100 * limit) == same
    assert same or difference > 1e-3
