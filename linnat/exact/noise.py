"""When should learning from noisy data stop? Natural gradient flow on N samples shrinks least squares. Statement X8.

On the loss of N samples, Ŝ invertible, the flow obeys W(t) = W(0) + (1 − e^{−t})(W_OLS − W(0)), C1 with Ŝ: uniform
shrinkage, no spectral filtering. For Gaussian inputs and noise Σ the whitened risk, E‖Π^½(W* − W(t))S^½‖² = 2 E (excess
loss), is

    e^{−2t} a + (1 − e^{−t})² b,  a = ‖Π^½(W* − W(0))S^½‖²,  b = nm/(N − n − 1),

least, ab/(a + b), at t* = log(1 + a/b). With biases b = m(N(n+1) − 2)/(N(N − n − 2)), not that of n + 1 Gaussian
inputs. For N < n the flow stays in the row space of the data; in white inputs that keeps a(1 − N/n) for ever.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from linnat._checks import (
    Array,
    ConditionError,
    RngLike,
    as_count,
    as_covariance,
    as_rng,
    as_rows,
    as_scalar,
    as_times,
    fail,
    representable,
)
from linnat.exact.loss import excess_loss
from linnat.exact.network import LinearNetwork
from linnat.exact.online_runs import least_squares
from linnat.exact.ratio import as_pair
from linnat.exact.replicates import blocks
from linnat.exact.task import Task


class Parts(NamedTuple):
    """Risk(t) = fixed + 2 e^{−t} cross + e^{−2t} signal + (1 − e^{−t})² variance."""

    signal: float
    variance: float
    fixed: float = 0.0
    cross: float = 0.0


@representable("net, task")
def signal(net: LinearNetwork, task: Task) -> Array:
    """Return a = ‖Π^½(W* − W(0))S^½‖², twice the excess loss of the start (X8).

    Parameters
    ----------
    net : LinearNetwork
        The start, of any depth.
    task : Task
        Population moments.

    Returns
    -------
    array (…)

    Examples
    --------
    >>> float(signal(LinearNetwork([[[0.0, 0.0]]]), Task([[1.0, 2.0]])))
    5.0
    """
    return np.asarray(2 * excess_loss(net, task))


@representable("noise_trace", inf=True)
def variance(
    n_samples: Any, n_inputs: Any, n_outputs: Any, *, biases: bool = False, noise_trace: Any = None
) -> float:
    """Return b = E‖Π^½(W_OLS − W*)S^½‖² = nm/(N − n − 1), the whitened risk of least squares (X8).

    Parameters
    ----------
    n_samples, n_inputs, n_outputs : int
        N ≥ n, n = rank S (of the covariance of the inputs, with biases: N ≥ n + 1), m.
    biases : bool
        With biases m(N(n+1) − 2)/(N(N − n − 2)), whatever the mean of the inputs; without, that mean is to be 0.
    noise_trace : float, optional
        tr(ΠΣ_ν), where the noise Σ_ν of the targets is not the model's Σ; takes the place of m.

    Returns
    -------
    float
        Infinite for N ≤ n + 1 (n + 2 with biases), where the mean of an inverse Wishart matrix is.

    Raises
    ------
    ConditionError
        For N < n: see `parts`.

    Examples
    --------
    >>> variance(20, 4, 3), variance(20, 4, 3, biases=True)
    (0.8, 1.05)
    """
    count, n, m = (
        as_count(n_samples, "n_samples"),
        as_count(n_inputs, "n_inputs"),
        as_count(n_outputs, "n_outputs"),
    )
    trace = float(m) if noise_trace is None else as_scalar(noise_trace, "noise_trace", low=0.0)
    if count < n + bool(biases):
        raise ConditionError(
            f"n_samples: X8 needs Ŝ invertible, at least {n + bool(biases)} samples, found {count}. See noise.parts."
        )
    rest = count - n - 1 - bool(biases)
    if rest <= 0:
        return float("inf") if trace > 0 else 0.0
    if biases:
        return trace * (count * (n + 1) - 2) / (count * rest)
    return n * trace / rest


@representable("signal, noise_trace", inf=True)
def parts(
    signal: Any,
    n_samples: Any,
    n_inputs: Any,
    n_outputs: Any,
    *,
    biases: bool = False,
    noise_trace: Any = None,
) -> Parts:
    """Return the parts of the expected whitened risk, N samples of Gaussian inputs (X8).

    Parameters
    ----------
    signal : float
        a, see `noise.signal`.
    n_samples, n_inputs, n_outputs, biases, noise_trace
        As in `variance`; N < n is allowed without biases.

    Returns
    -------
    Parts
        For N < n of white inputs only (S a multiple of I; otherwise the answer depends on S, see `conditional_parts`):
        fixed a(1 − N/n), signal aN/n, variance mN/(n − N − 1), infinite for N ≥ n − 1.

    Examples
    --------
    >>> parts(5.0, 20, 4, 3)
    Parts(signal=5.0, variance=0.8, fixed=0.0, cross=0.0)
    >>> parts(5.0, 2, 5, 1)
    Parts(signal=2.0, variance=1.0, fixed=3.0, cross=0.0)
    """
    size = as_scalar(signal, "signal", low=0.0)
    count, n, m = (
        as_count(n_samples, "n_samples"),
        as_count(n_inputs, "n_inputs"),
        as_count(n_outputs, "n_outputs"),
    )
    if biases or count >= n:
        return Parts(size, variance(count, n, m, biases=biases, noise_trace=noise_trace))
    trace = float(m) if noise_trace is None else as_scalar(noise_trace, "noise_trace", low=0.0)
    rest = n - count - 1
    spread = count * trace / rest if rest > 0 else (float("inf") if trace > 0 else 0.0)
    return Parts(size * count / n, spread, size * (n - count) / n)


@representable("x, net, task")
def conditional_parts(x: Any, net: LinearNetwork, task: Task, *, rtol: float | None = None) -> Parts:
    """Return the parts of the whitened risk for given inputs, expectation over the noise of targets alone (X8).

    Parameters
    ----------
    x : array (N, n_0)
        Any inputs. With biases in `net`, (x, 1) counts.
    net : LinearNetwork
        The start, of any depth.
    task : Task
        Population moments.
    rtol : float, optional
        Singular values of the rows below rtol times the largest count as 0; max(N, n_0) eps by default.

    Returns
    -------
    Parts
        variance m tr(S (XᵀX)⁺); where Ŝ is singular the weights move in its range alone (minimum norm, L = 1), and
        `fixed`, `cross` are what that leaves.

    Examples
    --------
    >>> conditional_parts(2 * np.eye(2), LinearNetwork([[[0.0, 0.0]]]), Task([[1.0, 2.0]]))
    Parts(signal=5.0, variance=0.5, fixed=0.0, cross=0.0)
    """
    network, problem = _single(net, task)
    rows = as_rows(x, "x").astype(np.float64)
    if rows.shape[1] != problem.n_inputs:
        fail("x", f"{problem.n_inputs} columns", f"shape {rows.shape}")
    start, goal = network.total.astype(np.float64), problem.goal(network.has_biases)
    factor = problem.moments(network.has_biases).factor
    if network.has_biases:
        rows = np.column_stack([rows, np.ones(len(rows))])
    cut = max(rows.shape) * float(np.finfo(float).eps) if rtol is None else as_scalar(rtol, "rtol", low=0.0)
    _, values, axes = np.linalg.svd(rows, full_matrices=False)
    kept = values > cut * values[0]
    axes = axes[kept]
    error = problem.whiten(goal - start)
    moved = error @ axes.T @ (axes @ factor)
    left = error @ factor - moved
    if len(axes) == rows.shape[1]:
        left = np.zeros_like(left)
    spread = ((axes @ factor) / values[kept, None]) ** 2
    return Parts(
        float((moved**2).sum()),
        float(problem.n_outputs * spread.sum()),
        float((left**2).sum()),
        float((left * moved).sum()),
    )


@representable("times", inf=True)
def risk(times: Any, parts: Parts) -> Array:
    """Return the whitened risk, twice the expected excess loss, at time t (X8).

    Parameters
    ----------
    times : array (T,) or float
    parts : Parts

    Returns
    -------
    array (T,)

    Examples
    --------
    >>> risk([0.0, np.log(2.0)], Parts(4.0, 1.0)).round(12)
    array([4.  , 1.25])
    """
    moments, found = as_times(times), _parts(parts)
    left, gained = np.exp(-moments), -np.expm1(-moments)
    # Where the variance is infinite, 0 × ∞ at t = 0 is 0.
    noise = np.where(gained > 0, found.variance, 0.0) * np.where(gained > 0, gained, 1.0) ** 2
    return np.asarray(found.fixed + 2 * left * found.cross + left**2 * found.signal + noise)


@representable("parts", inf=True)
def stopping_time(parts: Parts) -> float:
    """Return when the risk is least, t* = log(1 + a/b) (X8).

    Parameters
    ----------
    parts : Parts

    Returns
    -------
    float
        In general log((a + b)/(b − cross)); inf where it falls for ever (no noise), 0 where the variance is infinite.

    Examples
    --------
    >>> round(stopping_time(Parts(3.0, 1.0)), 12)
    1.386294361...
    """
    found = _parts(parts)
    if np.isinf(found.variance):
        return 0.0
    gap = found.variance - found.cross
    if found.signal + found.variance == 0 or gap >= found.signal + found.variance:
        return 0.0
    return float(np.log1p((found.signal + found.cross) / gap)) if gap > 0 else float("inf")


@representable("parts", inf=True)
def stopped_risk(parts: Parts) -> float:
    """Return the least risk, ab/(a + b) (X8).

    Parameters
    ----------
    parts : Parts

    Returns
    -------
    float
        Below both a, the risk of the start, and b, that of least squares.

    Examples
    --------
    >>> stopped_risk(Parts(3.0, 1.0))
    0.75
    """
    found, time = _parts(parts), stopping_time(parts)
    if np.isinf(time):
        return found.fixed + found.variance
    return float(risk(time, found)[0])


@representable("net, task")
def signal_estimate(net: LinearNetwork, task: Task) -> float:
    """Return an unbiased estimate of a from the data alone, ‖Π^½(W_OLS − W(0))Ŝ^½‖² − mρ/N (X8).

    Parameters
    ----------
    net : LinearNetwork
        The start.
    task : Task
        From N data, with their true noise Σ; ρ = rank Ŝ (of (x, 1) with biases).

    Returns
    -------
    float
        Unbiased where Ŝ is invertible; negative at times. The plug-in rule is `stopping_time` of it,
        or of 0 where it is negative.

    Examples
    --------
    >>> round(signal_estimate(LinearNetwork([[[0.0]]]), Task.from_data([[1.0], [-1.0]], [[2.0], [-2.0]])), 12)
    3.5
    """
    network, problem = _single(net, task)
    if problem.n_samples is None:
        fail("task", "a task made from data", "population moments", "Use Task.from_data, with noise_cov.")
    rank = int(problem.moments(network.has_biases).rank)
    return float(2 * excess_loss(network, problem)) - problem.n_outputs * rank / problem.n_samples


@representable("net, task")
def simulate(
    times: Any, net: LinearNetwork, task: Task, n_samples: Any, replicates: Any, *, rng: RngLike = 0
) -> Array:
    """Return whitened risks of replicates: N Gaussian samples, least squares, W(t) (X8).

    Parameters
    ----------
    times : array (T,) or float
    net : LinearNetwork
        The start, of any depth; with biases (x, 1) is regressed on.
    task : Task
        Population: x ~ N(m̄, S − m̄m̄ᵀ), targets with noise Σ. With biases, or a mean, the covariance is to be positive
        definite.
    n_samples, replicates : int
    rng : Generator or int

    Returns
    -------
    array (T, R)
        For N < rank S weights move in the row space of the data (minimum norm).

    Notes
    -----
    A seed gives the same bits on one machine; memory is bounded by blocks. 2 R N n² flops.

    Examples
    --------
    >>> risks = simulate(np.log(2.0), LinearNetwork([[[0.0]]]), Task([[2.0]]), 8, 20000)
    >>> bool(abs(risks.mean() - (4 + 1 / 6) / 4) < 5 * risks.std() / 20000**0.5)
    True
    """
    network, problem = _single(net, task)
    moments, count = as_times(times), as_count(replicates, "replicates")
    size, generator = as_count(n_samples, "n_samples"), as_rng(rng)
    root, reduced, mean = _inputs(network, problem, size)
    biases = network.has_biases
    factor = problem.moments(biases).factor
    error = problem.whiten(problem.goal(biases) - network.total)
    if reduced:
        error, factor = error @ factor, np.eye(factor.shape[-1])
    kept, gained = np.exp(-moments), -np.expm1(-moments)
    out = np.empty((len(moments), count))
    for part, child in blocks(count, 2 * size * (sum(error.shape) + 1), generator):
        rows = child.standard_normal((part.stop - part.start, size, root.shape[-1])) @ root.T + mean
        if biases:
            rows = np.concatenate([rows, np.ones((*rows.shape[:-1], 1))], axis=-1)
        noise = child.standard_normal((*rows.shape[:-1], len(error)))
        # The target is the error of the start plus noise: M = (W_OLS − W(0)), of signal and of noise apart.
        fitted = least_squares(rows, np.concatenate([rows @ error.T, noise], axis=-1))
        moved, spread = fitted[..., : len(error), :], fitted[..., len(error) :, :]
        aim, moved, spread = error @ factor, moved @ factor, spread @ factor
        for k in range(len(moments)):
            gap = (aim - moved) + kept[k] * moved - gained[k] * spread
            out[k, part] = (gap**2).sum(axis=(-1, -2))
    return out


def _inputs(network: LinearNetwork, problem: Task, size: int) -> tuple[Array, bool, Array]:
    """Return a root of the covariance of x, whether x is replaced by z with x = Fz, and the mean."""
    mean, factor = problem.input_mean, problem.input_factor
    if network.has_biases or mean.any():
        cov = problem.input_cov - np.outer(mean, mean)
        cov = as_covariance(
            cov, "input_cov − m̄m̄ᵀ", len(mean), definite=True, scale=float(np.abs(mean).max()) ** 2
        )
        return np.linalg.cholesky(cov), False, mean
    if size < factor.shape[-1]:
        return factor, False, mean
    # Least squares in x and in z have the same predictions where N ≥ rank S.
    return np.eye(factor.shape[-1]), True, np.zeros(factor.shape[-1])


def _single(net: Any, task: Any) -> tuple[LinearNetwork, Task]:
    network, problem = as_pair(net, task)
    if network.batch_shape or problem.batch_shape:
        fail(
            "net, task",
            "no leading axes",
            f"{network.batch_shape} and {problem.batch_shape}",
            "Loop over them.",
        )
    if not network.has_biases and problem.n_samples is None and problem.teacher_bias.any():
        raise ConditionError(
            "task: X8 needs targets W*x + noise; with a teacher_bias the network needs biases (X10)."
        )
    return network, problem


def _parts(value: Any) -> Parts:
    if not isinstance(value, Parts):
        fail(
            "parts",
            "Parts",
            type(value).__name__,
            "Make them: noise.parts(signal, N, n, m) or conditional_parts.",
        )
    spread = value.variance
    if not np.isposinf(spread):
        spread = as_scalar(spread, "parts.variance", low=0.0)
    first, fixed = (
        as_scalar(v, f"parts.{k}", low=0.0) for k, v in (("signal", value.signal), ("fixed", value.fixed))
    )
    return Parts(first, spread, fixed, as_scalar(value.cross, "parts.cross"))
