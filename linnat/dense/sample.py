"""Which finitely many weighted points are the task? Everything in `linnat.dense` is a finite sum over them.

Every quantity of a linear network with Gaussian noise is at most quadratic in the input and in the target,
so a weighted sum over points that have the right first and second moments *is* the expectation, without
error. For inputs of mean m̄ and uncentred second moment S such points are m̄ ± √ρ c_k, k = 1 … ρ, each of
weight 1/(2ρ), with Σ_k c_k c_kᵀ = S − m̄ m̄ᵀ. Data are points of weight 1/N.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, as_covariance, as_float_array, as_rows, fail
from linnat.exact.task import Task, as_task


class Sample(NamedTuple):
    """Weighted points that stand for a regression problem.

    Attributes
    ----------
    x : array (N, n_0)
    y : array (N, n_L)
        The mean of the targets at each point.
    weights : array (N,)
        Non-negative, of sum 1.
    noise_cov : array (n_L, n_L)
        Σ of the model y | x ~ N(f(x), Σ).
    target_cov : array (n_L, n_L)
        Covariance of the targets about `y`: Σ for population moments, 0 for data.
    """

    x: Array
    y: Array
    weights: Array
    noise_cov: Array
    target_cov: Array


def of_data(x: Any, y: Any, noise_cov: Any = None) -> Sample:
    """Return the points of a data set, each of weight 1/N.

    Parameters
    ----------
    x : array (N, n_0)
    y : array (N, n_L)
    noise_cov : array (n_L, n_L), optional
        The identity by default.

    Returns
    -------
    Sample
        In float64.

    Raises
    ------
    InputError
        For rows that do not match, or a covariance that is not positive definite.

    Examples
    --------
    >>> of_data([[1.0], [2.0]], [[0.0], [1.0]]).weights
    array([0.5, 0.5])
    """
    rows, values = as_rows(x, "x").astype(np.float64), as_rows(y, "y").astype(np.float64)
    count, size = len(rows), values.shape[1]
    if len(values) != count:
        fail("y", f"{count} rows, one for each of x", f"{len(values)}")
    noise = np.eye(size) if noise_cov is None else as_covariance(noise_cov, "noise_cov", size, definite=True)
    if noise.ndim != 2:
        fail("noise_cov", "one matrix", f"shape {noise.shape}")
    return Sample(rows, values, np.full(count, 1 / count), noise, np.zeros((size, size)))


def of_task(task: Task) -> Sample:
    """Return points that realise the mean and the second moment of a task's inputs exactly.

    Parameters
    ----------
    task : Task
        A single one, without leading axes. Only its plain fields are used.

    Returns
    -------
    Sample
        2ρ points, ρ the rank of the centred covariance (one point where that is zero).

    Raises
    ------
    InputError
        For a task with leading axes.

    Notes
    -----
    The c_k are the scaled eigenvectors of S − m̄ m̄ᵀ; eigenvalues up to 8 n_0 eps λ_max(S) count as zero.
    O(n_0³) flops.

    Examples
    --------
    >>> points = of_task(Task([[2.0]], input_cov=[[9.0]]))
    >>> points.x.ravel(), points.y.ravel()
    (array([ 3., -3.]), array([ 6., -6.]))
    """
    if as_task(task).batch_shape:
        found = f"leading axes {task.batch_shape}"
        fail("task", "a single task", found, "Loop over them: the oracles are dense.")
    mean, second = task.input_mean, task.input_cov
    values, vectors = np.linalg.eigh(second - np.outer(mean, mean))
    keep = values > 8 * len(mean) * np.finfo(float).eps * np.linalg.norm(second, 2)
    columns = np.sqrt(keep.sum()) * vectors[:, keep] * np.sqrt(values[keep])
    x = np.concatenate([mean + columns.T, mean - columns.T]) if keep.any() else mean[None, :]
    y = x @ task.teacher.T + task.teacher_bias
    return Sample(x, y, np.full(len(x), 1 / len(x)), task.noise_cov, task.noise_cov)


def as_sample(data: Task | Sample) -> Sample:
    """Return the points of a task, or the given points after a check.

    Parameters
    ----------
    data : Task or Sample

    Returns
    -------
    Sample

    Raises
    ------
    InputError
        For anything else, and for points whose parts do not fit together.

    Examples
    --------
    >>> as_sample(of_data([[1.0]], [[2.0]])).y
    array([[2.]])
    """
    if isinstance(data, Task):
        return of_task(data)
    if not isinstance(data, Sample):
        fail("data", "a Task or a Sample", type(data).__name__, "Points of a data set: sample.of_data(x, y).")
    x, y, _, noise, _ = of_data(data.x, data.y, data.noise_cov)
    weights = as_float_array(data.weights, "weights", ndim=1).astype(np.float64)
    if weights.shape != (len(x),) or (weights < 0).any() or abs(weights.sum() - 1) > 1e-12:
        found = f"shape {weights.shape}, sum {weights.sum():.6g}"
        fail("weights", f"{len(x)} non-negative numbers of sum 1", found)
    return Sample(x, y, weights, noise, as_covariance(data.target_cov, "target_cov", y.shape[1]))
