"""Do the four roads to the Fisher matrix meet, and do gradient and Hessian differentiate the loss?"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given

from linnat import _checks
from linnat.dense import fisher
from linnat.dense.jacobian import parameters, with_parameters
from linnat.dense.sample import of_data, of_task
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from tests import tolerances
from tests.strategies import Problem, make_problem, problems

pytestmark = pytest.mark.statement("G1", "F1", "F2", "N6", "X10")


def stack(direction: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate([d.flatten(order="F") for d in direction])


def shifted_loss(net: LinearNetwork, task: Task) -> float:
    """Return an upper bound for the loss within the unit steps of the differences: it carries their rounding."""
    absolute = net.replace_layers([np.abs(layer) + 2.0 for layer in net.layers])
    points = of_task(task)
    return fisher.loss(absolute, points._replace(x=np.abs(points.x), y=-np.abs(points.y)))


def weighted_samples(problem: Problem, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((12, problem.task.n_inputs)), rng.standard_normal((12, problem.task.n_outputs))


def test_the_roads_to_the_fisher_matrix_meet(problem: Problem) -> None:
    net, task = problem.net, problem.task
    exact = fisher.gauss_newton(net, task)
    bound = tolerances.product(np.float64, sum(net.widths), problem.noise_condition**2)
    tolerances.assert_close(fisher.score_covariance(net, task), exact, bound)
    # Differences at unit steps round relative to the divergence there, not relative to F.
    slack = tolerances.product(np.float64, sum(net.widths)) * max(shifted_loss(net, task), 1.0)
    np.testing.assert_allclose(fisher.kl_curvature(net, task), exact, rtol=0, atol=slack)


@given(problems(max_depth=3, max_width=4, max_log_condition=3.0))
def test_score_covariance_equals_gauss_newton_on_the_whole_ladder(problem: Problem) -> None:
    bound = tolerances.product(np.float64, sum(problem.net.widths), problem.noise_condition**2)
    tolerances.assert_close(
        fisher.score_covariance(problem.net, problem.task),
        fisher.gauss_newton(problem.net, problem.task),
        bound,
    )


def test_no_other_matrix_passes_for_the_fisher_matrix() -> None:
    # Negative controls: forgotten noise, the empirical Fisher, the Hessian away from the solution, a centred input.
    problem = make_problem("tame", 5, (3, 4, 2))
    net, task = problem.net, problem.task
    exact = fisher.score_covariance(net, task)
    points = of_task(task)
    others = {
        "white noise": fisher.gauss_newton(net, points._replace(noise_cov=np.eye(2))),
        "empirical": fisher.empirical_fisher(net, points._replace(target_cov=np.zeros((2, 2)))),
        "hessian": fisher.hessian(net, task),
    }
    for name, other in others.items():
        assert tolerances.relative_error(other, exact) > 0.05, name


def test_divergence_is_half_the_fisher_metric_to_second_order(
    problem: Problem, rng: np.random.Generator
) -> None:
    net, start = problem.net, parameters(problem.net)
    direction = rng.standard_normal(len(start))
    wanted = 0.5 * direction @ fisher.score_covariance(net, problem.task) @ direction
    # KL(t)/t² − ½ dᵀFd = O(t): first order, or second where the third derivative vanishes.
    steps = 2.0 ** -np.arange(9, 14)
    errors = []
    for t in steps:
        value = fisher.kl_divergence(net, with_parameters(net, start + t * direction), problem.task) / t**2
        errors.append(abs(value - wanted))
    if problem.net.depth == 1:
        assert max(errors) <= 1e-9 * wanted
        return
    order = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert 0.95 < order < 2.05, order


def test_sampled_fisher_converges_like_the_inverse_root_of_the_number_of_targets() -> None:
    problem = make_problem("tame", 3, (3, 3, 2))
    exact = fisher.score_covariance(problem.net, problem.task)
    counts = np.array([8, 32, 128, 512])
    errors = []
    for count in counts:
        runs = [
            fisher.sampled_fisher(problem.net, problem.task, int(count), seed).estimate for seed in range(12)
        ]
        errors.append(np.sqrt(np.mean([np.linalg.norm(run - exact) ** 2 for run in runs])))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    # Over twelve sets of seeds the slope was -0.484 with a standard deviation of 0.046.
    assert abs(slope + 0.5) < 0.15, slope


def test_the_standard_error_is_the_error() -> None:
    problem = make_problem("biases", 4, (2, 3, 2))
    exact = fisher.score_covariance(problem.net, problem.task)
    ratios = []
    for seed in range(20):
        estimate, stderr = fisher.sampled_fisher(problem.net, problem.task, 200, seed)
        ratios.append(np.mean(((estimate - exact) / stderr) ** 2))
    # Mean squares of standardised errors: 1.08 with a standard deviation of 0.9 per run, over 200 runs.
    assert 0.6 < np.mean(ratios) < 1.5, np.mean(ratios)
    again = fisher.sampled_fisher(problem.net, problem.task, 200, 0)
    np.testing.assert_array_equal(
        again.estimate, fisher.sampled_fisher(problem.net, problem.task, 200, 0).estimate
    )


def test_loss_of_a_task_is_the_trace_formula(problem: Problem) -> None:
    net, task = problem.net, problem.task
    weight = net.total if net.has_biases else np.column_stack([net.total, np.zeros(net.widths[-1])])
    error = np.column_stack([task.teacher, task.teacher_bias]) - weight
    second = np.block([[task.input_cov, task.input_mean[:, None]], [task.input_mean[None], np.ones((1, 1))]])
    wanted = 0.5 * np.trace(np.linalg.solve(task.noise_cov, error @ second @ error.T)) + 0.5 * net.widths[-1]
    bound = tolerances.product(np.float64, sum(net.widths), problem.noise_condition**2)
    assert abs(fisher.loss(net, task) - wanted) <= bound * wanted


def test_loss_of_data_is_a_loop_over_rows(problem: Problem) -> None:
    net, noise = problem.net, problem.task.noise_cov
    x, y = weighted_samples(problem)
    wanted = 0.0
    for row, target in zip(x, y, strict=True):
        signal = row
        for i, weight in enumerate(net.weights):
            signal = weight @ signal + (0 if net.biases is None else net.biases[i])
        wanted += 0.5 * (target - signal) @ np.linalg.solve(noise, target - signal) / len(x)
    bound = tolerances.product(np.float64, sum(net.widths), problem.noise_condition**2)
    assert abs(fisher.loss(net, of_data(x, y, noise)) - wanted) <= bound * wanted


def test_gradient_is_minus_the_mean_score_of_the_data(problem: Problem) -> None:
    net = problem.net
    data = of_data(*weighted_samples(problem), problem.task.noise_cov)
    found = stack(fisher.gradient(net, data))
    score = fisher.scores(net, data.x, data.y, data.noise_cov)
    slack = tolerances.product(np.float64, sum(net.widths)) * max(shifted_loss(net, problem.task), 100.0)
    np.testing.assert_allclose(found, -score.mean(axis=0), rtol=0, atol=slack)
    residual, jacobian = fisher.root_residual(net, data), fisher.root_jacobian(net, data)
    np.testing.assert_allclose(found, -jacobian.T @ residual, rtol=0, atol=slack)
    assert np.linalg.norm(found + jacobian.T @ residual) < 1e-6 * np.linalg.norm(found)


def test_gradient_of_a_task_is_the_gradient_over_its_rows(problem: Problem) -> None:
    x, y = weighted_samples(problem)
    task = Task.from_data(x, y, problem.task.noise_cov)
    found = stack(fisher.gradient(problem.net, task))
    slack = tolerances.product(np.float64, sum(problem.net.widths)) * max(
        shifted_loss(problem.net, task), 100.0
    )
    np.testing.assert_allclose(
        found, stack(fisher.gradient(problem.net, of_data(x, y, problem.task.noise_cov))), rtol=0, atol=slack
    )


def test_differences_do_not_depend_on_the_step() -> None:
    problem = make_problem("biases", 6, (3, 4, 2))
    net, task = problem.net, problem.task
    slack = tolerances.product(np.float64, sum(net.widths)) * shifted_loss(net, task) * 16
    for function in (fisher.hessian, fisher.kl_curvature):
        results = [function(net, task, step) for step in (0.5, 1.0, 2.0)]
        for one, two in itertools.combinations(results, 2):
            np.testing.assert_allclose(one, two, rtol=0, atol=slack)
    for one, two in zip(fisher.gradient(net, task, 0.5), fisher.gradient(net, task, 2.0), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=slack)


def test_hessian_is_the_derivative_of_the_gradient(problem: Problem, rng: np.random.Generator) -> None:
    net, task, start = problem.net, problem.task, parameters(problem.net)
    direction = rng.standard_normal(len(start))
    direction /= np.linalg.norm(direction)
    step = 1e-3

    def slope(t: float) -> np.ndarray:
        moved = with_parameters(net, start + t * direction)
        return -fisher.root_jacobian(moved, task).T @ fisher.root_residual(moved, task)

    # Fourth order: the weights of f(±h), f(±2h) are 8/12 and 1/12.
    wanted = (8 * (slope(step) - slope(-step)) - (slope(2 * step) - slope(-2 * step))) / (12 * step)
    found = fisher.hessian(net, task) @ direction
    scale = max(shifted_loss(net, task), 1.0)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerances.difference(4, step, scale))
    assert np.linalg.norm(found - wanted) <= 1e-6 * max(np.linalg.norm(wanted), 1e-3)


def test_hessian_is_the_fisher_matrix_at_zero_error_and_nowhere_else_when_deep() -> None:
    problem = make_problem("biases", 2, (3, 4, 4, 2))
    net, old = problem.net, problem.task
    total = net.total
    task = Task(total[:, :-1], old.input_cov, old.noise_cov, total[:, -1], old.input_mean)
    exact = fisher.gauss_newton(net, task)
    slack = tolerances.product(np.float64, sum(net.widths)) * shifted_loss(net, task)
    np.testing.assert_allclose(fisher.hessian(net, task), exact, rtol=0, atol=slack)
    assert tolerances.relative_error(fisher.hessian(net, old), exact) > 0.05
    single = make_problem("tame", 2, (3, 2))
    hessian = fisher.hessian(single.net, single.task)
    tolerances.assert_close(hessian, fisher.gauss_newton(single.net, single.task), 1e-12)


def test_empirical_fisher_is_the_second_moment_of_the_scores(problem: Problem) -> None:
    data = of_data(*weighted_samples(problem), problem.task.noise_cov)
    score = fisher.scores(problem.net, data.x, data.y, data.noise_cov)
    wanted = sum(np.outer(s, s) for s in score) / len(score)
    bound = tolerances.product(np.float64, len(score))
    tolerances.assert_close(fisher.empirical_fisher(problem.net, data), wanted, bound)


def test_empirical_fisher_over_targets_of_the_model_is_the_fisher_matrix() -> None:
    problem = make_problem("tame", 8, (2, 3, 2))
    net, points = problem.net, of_task(problem.task)
    exact = fisher.score_covariance(net, problem.task)
    rng, factor = np.random.default_rng(0), np.linalg.cholesky(points.noise_cov)
    count = 4000
    x = np.repeat(points.x, count, axis=0)
    y = fisher.outputs(net, x) + rng.standard_normal((len(x), 2)) @ factor.T
    error = tolerances.relative_error(fisher.empirical_fisher(net, of_data(x, y, points.noise_cov)), exact)
    assert error < tolerances.monte_carlo(count)


def test_bad_arguments_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net, task = LinearNetwork.random((2, 3, 2), rng=0), Task(np.eye(2))
    with pytest.raises(_checks.InputError, match=r"data: expected population moments.*of_data"):
        fisher.loss(net, Task.from_data(np.eye(2), np.eye(2)))
    with pytest.raises(_checks.InputError, match=r"data: expected a Sample.*Fourth moments"):
        fisher.empirical_fisher(net, task)  # type: ignore[arg-type]
    with pytest.raises(_checks.InputError, match=r"data: expected 2 inputs and 2 outputs"):
        fisher.gradient(net, Task(np.ones((3, 2))))
    with pytest.raises(_checks.InputError, match=r"other: expected widths \(2, 3, 2\)"):
        fisher.kl_divergence(net, LinearNetwork.random((2, 2), rng=0), task)
    with pytest.raises(_checks.InputError, match=r"step"):
        fisher.hessian(net, task, step=0.0)
    with pytest.raises(_checks.InputError, match=r"n_targets: expected an integer ≥ 2"):
        fisher.sampled_fisher(net, task, 1, 0)
    with pytest.raises(_checks.InputError, match=r"rng"):
        fisher.sampled_fisher(net, task, 2, None)  # type: ignore[arg-type]
    monkeypatch.setattr("linnat.dense.jacobian._physical_memory", lambda: 4000)
    with pytest.raises(_checks.InputError, match=r"shifted parameters within.*Use a smaller network"):
        fisher.hessian(net, task)
