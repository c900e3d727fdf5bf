"""What do plain stochastic gradients do to one layer? The exact second moments, for any fixed metric. Statement D3.

W⁺ = W + η (1/b) Σ_s (y_s − Wx_s)x_sᵀ P⁻¹, P a fixed metric on the inputs, y − W*x ~ N(0, Σ); or W⁺ = W + η Π(…) without
a metric, plain stochastic gradient descent. Let s_i be the eigenvalues of the pencil (S, P) and p_j those of Π (1 with
a metric: then Σ drops out). In whitened coordinates, turned to their eigenvectors, the moments of a pair of rows j, l
of the error, K_ik = E ê_ji ê_lk, close: with r_ji = p_j s_i,

    K⁺_ik = (1 − ηr_ji)(1 − ηr_lk)K_ik + (η²/b) r_ji r_lk [K_ki + δ_ik (tr K + δ_jl)].

All r = 1 is the natural gradient, whose law depends on nothing but n, m and b.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq

from linnat._checks import (
    Array,
    ConditionError,
    as_choice,
    as_count,
    as_covariance,
    fail,
    representable,
)
from linnat.exact.network import LinearNetwork
from linnat.exact.online_runs import as_schedule, white_problem
from linnat.exact.task import Task, as_task


class Rates(NamedTuple):
    """The rates at which the mean error decays, η p_j s_i.

    Attributes
    ----------
    inputs : array (ρ,)
        s_i, eigenvalues of the pencil (S, P), largest first.
    outputs : array (n_L,)
        p_j, those of Π without a metric, 1 with one.
    """

    inputs: Array
    outputs: Array


class Moments2(NamedTuple):
    """Mean and second moment of the error W* − W, on the range of S, after some steps.

    Attributes
    ----------
    mean : array (n_L, n_0)
    second : array (n_L, n_0, n_L, n_0)
        E[E_ji E_lk]; the covariance is second − mean ⊗ mean.
    """

    mean: Array
    second: Array


class _Frame(NamedTuple):
    """Coordinates in which everything is diagonal: W* − W = left Ê right on the range of S."""

    rates: Array  # (n_L, ρ): r_ji
    start: Array  # Ê (n_L, ρ)
    left: Array  # (n_L, n_L)
    right: Array  # (ρ, n_0)


@representable("task")
def metric_rates(task: Task, metric: Any = "population") -> Rates:
    """Return the spectrum on which stochastic gradients with a fixed metric depend (D3).

    Parameters
    ----------
    task : Task
    metric : "population", "none" or array (n_0, n_0)
        P = S, no metric (plain gradients), or a positive definite P.

    Returns
    -------
    Rates

    Examples
    --------
    >>> metric_rates(Task([[1.0, 2.0]], np.diag([4.0, 1.0])), "none").inputs
    array([4., 1.])
    """
    problem = _single(task)
    return _axes(problem, metric)[0]


@representable("net, task, eta")
def preconditioned_loss(
    steps: Any, net: LinearNetwork, task: Task, eta: Any, batch: Any, metric: Any = "none"
) -> Array:
    """Return the expected excess loss after each step of stochastic gradients with a fixed metric (D3).

    Parameters
    ----------
    steps : int
    net : LinearNetwork
        The start, one layer without biases.
    task : Task
        Population moments, Gaussian inputs, targets with the noise Σ.
    eta : float or array (steps,)
    batch : int
    metric : "none", "population" or array (n_0, n_0)
        "none" is plain stochastic gradient descent. With an estimate Ŝ that is kept fixed, this is the law of the
        natural gradient in a wrong metric.

    Returns
    -------
    array (steps,)

    Raises
    ------
    ConditionError
        For more than one layer, or biases.

    Notes
    -----
    10 steps ρ n_L flops after two eigendecompositions. Source: new.

    Examples
    --------
    >>> task = Task([[1.0, 2.0]], np.diag([4.0, 0.1]))
    >>> preconditioned_loss(3, LinearNetwork([[[0.0, 0.0]]]), task, 0.1, 8).round(4)
    array([1.0101, 0.5317, 0.338 ])
    """
    length, size = as_count(steps, "steps"), as_count(batch, "batch")
    etas, frame = as_schedule(eta, length), _frame(net, task, metric)
    diagonal = frame.start**2
    losses = np.empty(length)
    for k, step in enumerate(etas):
        pull = step * frame.rates
        noise = diagonal.sum(axis=-1, keepdims=True) + 1
        diagonal = (1 - pull) ** 2 * diagonal + pull**2 / size * (diagonal + noise)
        losses[k] = 0.5 * float(diagonal.sum())
    return losses.astype(net.dtype, copy=False)


@representable("task, eta")
def preconditioned_stationary(task: Task, eta: Any, batch: Any, metric: Any = "none") -> float:
    """Return the stationary expected excess loss, ½ Σ_j R_j/(1 − R_j), R_j = Σ_i ηp_js_i/(2b − ηp_j(b+1)s_i) (D3).

    Parameters
    ----------
    task : Task
    eta : float
        Below `preconditioned_limit`.
    batch : int
    metric : "none", "population" or array (n_0, n_0)

    Returns
    -------
    float

    Raises
    ------
    ConditionError
        Where η is not stable.

    Examples
    --------
    >>> preconditioned_stationary(Task(np.ones((1, 2)), np.diag([4.0, 0.1])), 0.1, 8)
    0.017002...
    """
    problem, size = _single(task), as_count(batch, "batch")
    step = float(as_schedule(eta, 1)[0])
    rates = _axes(problem, metric)[0]
    limit = _limit(rates, size)
    if step >= limit:
        raise ConditionError(
            f"eta: a stationary loss needs η < {limit:.6g} (preconditioned_limit), found {step:.6g}."
        )
    shares = np.array([_share(step * p, rates.inputs, size) for p in rates.outputs])
    return float(0.5 * (shares / (1 - shares)).sum())


@representable("task")
def preconditioned_limit(task: Task, batch: Any, metric: Any = "none") -> float:
    """Return the largest stable step: the root η of Σ_i ηps_i/(2b − ηp(b+1)s_i) = 1 for the largest p (D3).

    Parameters
    ----------
    task : Task
    batch : int
    metric : "none", "population" or array (n_0, n_0)

    Returns
    -------
    float
        The expected loss stays bounded for η below; 2b/(b + n + 1) for the population's metric.

    Notes
    -----
    The diagonal of M obeys a non-negative matrix D + u uᵀ, whose spectral radius is below 1 if and only if D < 1
    and uᵀ(1 − D)⁻¹u < 1 (Perron, Frobenius).

    Examples
    --------
    >>> round(preconditioned_limit(Task(np.ones((1, 3))), 4), 12)
    1.0
    """
    return _limit(_axes(_single(task), metric)[0], as_count(batch, "batch"))


@representable("net, task, eta")
def error_moments(
    steps: Any, net: LinearNetwork, task: Task, eta: Any, batch: Any, metric: Any = "population"
) -> Moments2:
    """Return mean and full second moment of the error of the weights after some steps (D3).

    Parameters
    ----------
    steps, net, task, eta, batch, metric
        As in `preconditioned_loss`.

    Returns
    -------
    Moments2
        Of (W* − W) on the range of S.

    Notes
    -----
    The moments of rows j, l of the error decouple from other pairs. Off the diagonal, entries (i, k) of a pair decay
    alone. steps n_L² ρ² flops.

    Examples
    --------
    >>> moments = error_moments(1, LinearNetwork([[[0.0]]]), Task([[1.0]]), 0.5, 2)
    >>> moments.mean, float(moments.second.squeeze())
    (array([[0.5]]), 0.625)
    """
    length, size = as_count(steps, "steps"), as_count(batch, "batch")
    etas, frame = as_schedule(eta, length), _frame(net, task, metric)
    mean, rates = frame.start, frame.rates
    rows, columns = np.eye(rates.shape[0]), np.eye(rates.shape[1])
    second = mean[:, :, None, None] * mean
    pairs = rates[:, :, None, None] * rates
    for step in etas:
        keep = (1 - step * rates)[:, :, None, None] * (1 - step * rates)
        spread = np.einsum("jala->jl", second) + rows
        same = np.einsum("jl,ik->jilk", spread, columns)
        second = keep * second + (step**2 / size) * pairs * (second.transpose(0, 3, 2, 1) + same)
        mean = (1 - step * rates) * mean
    left, right = frame.left, frame.right
    full = np.einsum("aj,jilk,ib,cl,kd->abcd", left, second, right, left, right, optimize=True)
    first = (left @ mean @ right).astype(net.dtype, copy=False)
    return Moments2(first, full.astype(net.dtype, copy=False))


def _single(task: Any) -> Task:
    problem = as_task(task)
    if problem.batch_shape:
        fail("task", "no leading axes", f"{problem.batch_shape}", "Loop over them.")
    return problem


def _axes(problem: Task, metric: Any) -> tuple[Rates, Array, Array]:
    """Return the rates, and the orthogonal axes of outputs and of whitened inputs."""
    factor, rows = problem.input_factor, problem.n_outputs
    named = isinstance(metric, str)
    kind = as_choice(metric, "metric", ("none", "population")) if named else "fixed"
    if kind == "population":
        return Rates(np.ones(factor.shape[-1]), np.ones(rows)), np.eye(rows), np.eye(factor.shape[-1])
    half = factor
    if kind == "fixed":
        matrix = as_covariance(metric, "metric", len(factor), definite=True)
        if matrix.ndim != 2:
            fail("metric", "one matrix", f"shape {matrix.shape}")
        half = np.linalg.solve(np.linalg.cholesky(matrix), factor)
    # Singular values of a factor, not eigenvalues of a product: small rates keep their digits.
    _, values, axes = np.linalg.svd(half, full_matrices=False)
    if kind == "fixed":
        return Rates(values**2, np.ones(rows)), np.eye(rows), axes.T
    _, roots, turned = np.linalg.svd(problem.noise_factor)
    return Rates(values**2, 1 / roots**2), turned.T, axes.T


def _frame(net: Any, task: Any, metric: Any) -> _Frame:
    """Return the start in diagonal coordinates, and the way back to W* − W."""
    network, problem, factor = white_problem(net, task)
    if network.depth != 1:
        raise ConditionError(f"net: expected one layer, found {network.depth}. D3 is exact for L = 1 only.")
    rates, outputs, inputs = _axes(problem, metric)
    white = problem.whiten((problem.teacher - network.total) @ factor)
    basis, upper = np.linalg.qr(factor)
    back = inputs.T @ np.linalg.solve(upper, basis.T)
    pulls = rates.outputs[:, None] * rates.inputs
    return _Frame(pulls, outputs.T @ white @ inputs, problem.noise_factor @ outputs, back)


def _share(pull: float, rates: Array, batch: int) -> float:
    return float((pull * rates / (2 * batch - pull * (batch + 1) * rates)).sum())


def _limit(rates: Rates, batch: int) -> float:
    """Return the root by Brent: the sum grows from 0 to ∞ before its first pole."""
    pole = 2 * batch / ((batch + 1) * float(rates.inputs.max()))
    if (rates.inputs == rates.inputs[0]).all():
        root = 2 * batch / ((batch + 1 + len(rates.inputs)) * float(rates.inputs[0]))
    else:
        low = 2 * batch / ((batch + 1 + len(rates.inputs)) * float(rates.inputs.max()))
        root = brentq(
            lambda x: 1 / _share(x, rates.inputs, batch) - 1,
            low * (1 - 1e-12),
            pole * (1 - 1e-14),
            xtol=1e-15,
        )
    return float(root / rates.outputs.max())
