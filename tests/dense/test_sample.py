"""Do the weighted points have the moments of the task, exactly?"""

from __future__ import annotations

import numpy as np
import pytest

from linnat import _checks
from linnat.dense.sample import Sample, as_sample, of_data, of_task
from linnat.exact.task import Task
from tests import tolerances
from tests.strategies import Problem, covariance, make_problem

pytestmark = pytest.mark.statement("F1", "X10")


def moments(sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return E[x], E[x xᵀ], E[y xᵀ] of weighted points."""
    weighted = sample.weights[:, None] * sample.x
    return weighted.sum(axis=0), sample.x.T @ weighted, sample.y.T @ weighted


def test_points_have_the_mean_and_the_second_moments_of_the_task(problem: Problem) -> None:
    task, points = problem.task, of_task(problem.task)
    mean, second, cross = moments(points)
    bound = tolerances.backward(np.float64, task.n_inputs)
    scale = np.linalg.norm(task.input_cov)
    assert np.linalg.norm(mean - task.input_mean) <= bound * np.sqrt(scale)
    assert np.linalg.norm(second - task.input_cov) <= bound * scale
    wanted = task.teacher @ task.input_cov + np.outer(task.teacher_bias, task.input_mean)
    size = np.linalg.norm(task.teacher) * scale + np.linalg.norm(task.teacher_bias) * np.sqrt(scale)
    assert np.linalg.norm(cross - wanted) <= bound * size
    np.testing.assert_array_equal(points.target_cov, task.noise_cov)


def test_the_number_of_points_is_twice_the_rank() -> None:
    problem = make_problem("singular", 3, (6, 6, 2), input_rank=2)
    assert len(of_task(problem.task).x) == 4


def test_points_that_forget_the_mean_have_another_second_moment() -> None:
    # Negative control: the test above must be able to fail.
    task = make_problem("biases", 1).task
    points = of_task(task)
    _, second, _ = moments(points._replace(x=points.x - task.input_mean))
    assert tolerances.relative_error(second, task.input_cov) > 0.01


def test_a_constant_input_is_one_point() -> None:
    mean = np.array([1.0, 2.0])
    points = of_task(Task([[1.0, 1.0]], np.outer(mean, mean), input_mean=mean))
    np.testing.assert_array_equal(points.x, mean[None])
    np.testing.assert_array_equal(of_task(Task([[1.0]], [[0.0]])).x, [[0.0]])


def test_a_task_from_data_has_the_moments_of_its_rows(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((9, 3)) + 1.0, rng.standard_normal((9, 2))
    noise = covariance(rng, 2, 2.0)
    found = moments(of_task(Task.from_data(x, y, noise)))
    wanted = moments(of_data(x, y, noise))
    for value, reference in zip(found, wanted, strict=True):
        tolerances.assert_close(value, reference, tolerances.solve(np.float64, 9, float(np.linalg.cond(x))))


def test_bad_points_are_refused() -> None:
    good = of_data(np.ones((2, 1)), np.ones((2, 1)))
    with pytest.raises(_checks.InputError, match=r"weights: expected 2 non-negative numbers of sum 1"):
        as_sample(good._replace(weights=np.array([0.5, 0.6])))
    with pytest.raises(_checks.InputError, match=r"weights"):
        as_sample(good._replace(weights=np.array([1.5, -0.5])))
    with pytest.raises(_checks.InputError, match=r"y: expected 2 rows"):
        of_data(np.ones((2, 1)), np.ones((3, 1)))
    with pytest.raises(_checks.InputError, match=r"x: expected finite numbers"):
        of_data([[np.nan]], [[1.0]])
    with pytest.raises(_checks.InputError, match=r"noise_cov: expected a positive definite"):
        of_data([[1.0]], [[1.0]], [[-1.0]])
    with pytest.raises(_checks.InputError, match=r"noise_cov: expected one matrix"):
        of_data([[1.0]], [[1.0]], [[[1.0]]])
    with pytest.raises(_checks.InputError, match=r"data: expected a Task or a Sample"):
        as_sample("data")  # type: ignore[arg-type]
    with pytest.raises(_checks.InputError, match=r"task: expected a single task"):
        of_task(Task(np.ones((2, 1, 1))))
