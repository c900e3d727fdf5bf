"""What does a natural gradient learn from a stream of samples? The exact law of the expected loss. Statement D3.

One layer, n Gaussian inputs, m outputs with the noise of the model, b fresh samples in each step:

    ℓ⁺ = (1 − 2αη + βη²)ℓ + σ²η²,  α = 1, β = 1 + (n+1)/b, σ² = nm/(2b)

for the expected excess loss, whatever S, Σ, W* and the start. With n the rank of S. `law` gives α, β, σ² also for other
isotropic inputs and for metrics that are estimated; stability, best steps and stationary loss follow from them.
Deep networks and plain gradients: `deep_deviation`, `preconditioned_loss`; replicates: `simulate`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import loggamma

from linnat._checks import (
    Array,
    ConditionError,
    as_choice,
    as_count,
    as_float_array,
    as_scalar,
    fail,
    representable,
)
from linnat.exact.online_depth import deep_correction, deep_deviation, tail_law
from linnat.exact.online_moments import (
    Moments2,
    Rates,
    error_moments,
    metric_rates,
    preconditioned_limit,
    preconditioned_loss,
    preconditioned_stationary,
)
from linnat.exact.online_runs import Runs, as_schedule, simulate
from linnat.exact.replicates import Estimate, mean_and_error, tail_exponent

__all__ = [
    "Estimate",
    "Law",
    "Moments2",
    "Rates",
    "Runs",
    "Schedule",
    "best_constant_step",
    "deep_correction",
    "deep_deviation",
    "efficient_loss",
    "error_moments",
    "fastest_step",
    "forgetting",
    "greedy_schedule",
    "harmonic_steps",
    "law",
    "mean_and_error",
    "metric_bias",
    "metric_rates",
    "online_loss",
    "preconditioned_limit",
    "preconditioned_loss",
    "preconditioned_stationary",
    "running_metric_loss",
    "simulate",
    "stability_limit",
    "stationary_loss",
    "tail_exponent",
    "tail_law",
]


class Law(NamedTuple):
    """ℓ⁺ = (1 − 2 first η + second η²) ℓ + noise η²."""

    first: float
    second: float
    noise: float


class Schedule(NamedTuple):
    """Steps η_1 … η_K, shape (…, K), and the expected loss after each."""

    etas: Array
    losses: Array


@representable("n_inputs, n_outputs")
def law(
    batch: Any,
    n_inputs: Any,
    n_outputs: Any,
    *,
    metric: str = "population",
    metric_samples: Any = None,
    fourth_moment: Any = None,
    noise_trace: Any = None,
) -> Law:
    """Return the coefficients of the law of the expected excess loss (D3).

    Parameters
    ----------
    batch : int
        b, samples in each step.
    n_inputs, n_outputs : int
        n, the rank of S, and m.
    metric : "population", "minibatch" or "independent"
        What stands for S: itself; the second moment of the same minibatch (its pseudo-inverse for b < n); that of M
        `metric_samples` other, unlabelled inputs, fresh at each step.
    metric_samples : int, optional
        M > n + 3.
    fourth_moment : float, optional
        E‖z‖⁴ of the whitened inputs, n² at least, n(n + 2) for Gaussian ones by default. Then the distribution must
        have E‖z‖²zzᵀ ∝ I: isotropic, or independent coordinates of one distribution. For the population's metric.
    noise_trace : float, optional
        tr(ΠΣ_ν), where the noise Σ_ν of the targets is not the model's Σ; m by default.

    Returns
    -------
    Law
        "population": (1, 1 + (E‖z‖⁴/n − 1)/b, n tr/(2b)).
        "minibatch": (1, 1, n tr/(2(b−n−1))) for b > n + 1, (b/n, b/n, b tr/(2(n−b−1))) for b < n − 1.
        "independent": (α, γ(1 + (n+1)/b), γ n tr/(2b)) with α = M/(M−n−1), γ = M²(M−1)/((M−n)(M−n−1)(M−n−3)), the
        moments of an inverse Wishart matrix.

    Raises
    ------
    ConditionError
        For n − 1 ≤ b ≤ n + 1 with the same minibatch, and M ≤ n + 3: moments are infinite.

    Notes
    -----
    Source: new; Amari 1998 for the asymptotic rate.

    Examples
    --------
    >>> law(4, 3, 2)
    Law(first=1.0, second=2.0, noise=0.75)
    """
    b, n, m = as_count(batch, "batch"), as_count(n_inputs, "n_inputs"), as_count(n_outputs, "n_outputs")
    kind = as_choice(metric, "metric", ("population", "minibatch", "independent"))
    trace = float(m) if noise_trace is None else as_scalar(noise_trace, "noise_trace", low=0.0)
    if fourth_moment is not None and kind != "population":
        raise ConditionError(
            f"fourth_moment: the moments of {kind!r} metrics are known for Gaussian inputs only."
        )
    if metric_samples is not None and kind != "independent":
        fail("metric_samples", f"None for the metric {kind!r}", metric_samples)
    if kind == "minibatch":
        return _minibatch_law(b, n, trace)
    fourth = (
        n * (n + 2.0)
        if fourth_moment is None
        else as_scalar(fourth_moment, "fourth_moment", low=float(n * n))
    )
    second, noise = 1 + (fourth / n - 1) / b, n * trace / (2 * b)
    if kind == "population":
        return Law(1.0, second, noise)
    samples = as_count(metric_samples, "metric_samples")
    if samples <= n + 3:
        raise ConditionError(
            f"metric_samples: second moments of the inverse need M > n + 3 = {n + 3}, found {samples}."
        )
    rest = samples - n
    inflated = samples**2 * (samples - 1) / (rest * (rest - 1) * (rest - 3))
    return Law(samples / (rest - 1), inflated * second, inflated * noise)


def _minibatch_law(b: int, n: int, trace: float) -> Law:
    if n - 1 <= b <= n + 1:
        raise ConditionError(
            f"batch: with the metric of the same minibatch the expected loss is infinite for n − 1 ≤ b ≤ n + 1, "
            f"found b = {b}, n = {n}."
        )
    if b > n + 1:
        return Law(1.0, 1.0, n * trace / (2 * (b - n - 1)))
    return Law(b / n, b / n, b * trace / (2 * (n - b - 1)))


@representable("initial, eta")
def online_loss(
    steps: Any,
    initial: Any,
    eta: Any,
    batch: Any,
    n_inputs: Any,
    n_outputs: Any,
    *,
    metric: str = "population",
    metric_samples: Any = None,
    fourth_moment: Any = None,
    noise_trace: Any = None,
) -> Array:
    """Return the expected excess loss after each step of the online natural gradient, L = 1 (D3).

    Parameters
    ----------
    steps : int
        K.
    initial : array (…) or float
        ℓ_0 ≥ 0, excess loss of the start.
    eta : float or array (K,)
        η_1 … η_K > 0.
    batch, n_inputs, n_outputs : int
        b samples in each step, n = rank S inputs, m outputs.
    metric, metric_samples, fourth_moment, noise_trace
        As in `law`.

    Returns
    -------
    array (…, K)
        E ℓ_1 … E ℓ_K, for every S, Σ, W* and start of that loss.

    Raises
    ------
    ConditionError
        Where the expectation is infinite (estimated metrics).

    Notes
    -----
    O(K). Exact for one layer and Gaussian inputs; for deep networks see `deep_deviation`, `tail_law`. Source: new.

    Examples
    --------
    >>> online_loss(3, 2.5, 0.1, 4, 2, 1)
    array([2.04625   , 1.67530938, 1.37206541])
    """
    count, start = as_count(steps, "steps"), _losses(initial)
    rule = law(
        batch,
        n_inputs,
        n_outputs,
        metric=metric,
        metric_samples=metric_samples,
        fourth_moment=fourth_moment,
        noise_trace=noise_trace,
    )
    return _iterate(start, as_schedule(eta, count), rule)


def stability_limit(rule: Law) -> float:
    """Return 2α/β: the expected loss stays bounded for constant steps below (D3).

    Parameters
    ----------
    rule : Law

    Returns
    -------
    float
        2b/(b + n + 1) for the population's metric.

    Examples
    --------
    >>> stability_limit(law(4, 3, 2))
    1.0
    """
    found = _rule(rule)
    return 2 * found.first / found.second


def fastest_step(rule: Law) -> float:
    """Return α/β, the constant step that forgets the start fastest, by 1 − α²/β in each step (D3).

    Parameters
    ----------
    rule : Law

    Returns
    -------
    float
        b/(b + n + 1) for the population's metric.

    Examples
    --------
    >>> fastest_step(law(4, 3, 2))
    0.5
    """
    return 0.5 * stability_limit(rule)


@representable("eta")
def stationary_loss(eta: Any, rule: Law) -> Array:
    """Return where constant steps end, ησ²/(2α − βη) (D3).

    Parameters
    ----------
    eta : array (…) or float
        0 < η < 2α/β.
    rule : Law

    Returns
    -------
    array (…)

    Examples
    --------
    >>> float(stationary_loss(0.5, law(4, 3, 2)))
    0.375
    """
    found, values = _rule(rule), as_float_array(eta, "eta").astype(np.float64)
    if (values <= 0).any() or (values >= stability_limit(found)).any():
        fail("eta", f"0 < η < {stability_limit(found):.6g}, the stability limit", values.tolist())
    return np.asarray(values * found.noise / (2 * found.first - found.second * values))


def best_constant_step(steps: Any, initial: Any, rule: Law) -> Schedule:
    """Return the constant step of least expected loss after K steps (D3).

    Parameters
    ----------
    steps : int
        K.
    initial : float
        ℓ_0 > 0.
    rule : Law

    Returns
    -------
    Schedule
        The same step K times, and the losses.

    Notes
    -----
    The minimum lies in (0, α/β]: beyond, both the rate and the noise are worse. Grid of 400 steps, then Brent's method;
    η itself to about √eps, the loss to rounding.

    Examples
    --------
    >>> best = best_constant_step(100, 1.0, law(4, 3, 2))
    >>> float(best.etas[0].round(3)), float(best.losses[-1].round(4))
    (0.031, 0.014)
    """
    count, start, found = (
        as_count(steps, "steps"),
        as_scalar(initial, "initial", low=0.0, open_low=True),
        _rule(rule),
    )
    top = fastest_step(found)

    def after(logarithm: float) -> float:
        eta = float(np.exp(logarithm))
        gap = eta * (2 * found.first - found.second * eta)
        left = np.exp(count * np.log1p(-min(gap, 1.0))) if gap < 1 else 0.0
        return float(left * start + found.noise * eta**2 * (1 - left) / gap)

    # For small starts the best step is the greedy one, elsewhere of the order 1/K.
    greedy = found.first * start / (found.second * start + found.noise) / top
    least = max(min(1e-3 / count, 0.1 * greedy), np.finfo(np.float64).tiny)
    grid = np.log(top) + np.log(np.geomspace(least, 1.0, 400))
    place = int(np.argmin([after(x) for x in grid]))
    low, high = grid[max(place - 1, 0)], grid[min(place + 1, 399)]
    inner = minimize_scalar(after, bounds=(low, high), method="bounded", options={"xatol": 1e-10}).x
    best = float(np.exp(min((inner, grid[place]), key=after)))
    etas = np.full(count, best)
    return Schedule(etas, _iterate(np.asarray(start), etas, found))


@representable("initial")
def greedy_schedule(steps: Any, initial: Any, rule: Law) -> Schedule:
    """Return the steps of least expected loss, η_k = αℓ/(βℓ + σ²), ℓ⁺ = ℓ − α²ℓ²/(βℓ + σ²) (D3).

    Parameters
    ----------
    steps : int
    initial : array (…) or float
        ℓ_0 > 0.
    rule : Law

    Returns
    -------
    Schedule
        Arrays (…, K). Greedy is optimal: no schedule fixed beforehand has a smaller expected loss at any step, since
        the law is increasing in ℓ. 1/ℓ⁺ = 1/ℓ + 1/((β/α² − 1)ℓ + σ²/α²).

    Examples
    --------
    >>> greedy_schedule(3, 1.0, law(4, 3, 2)).losses.round(4)
    array([0.6364, 0.4362, 0.3189])
    """
    count, found = as_count(steps, "steps"), _rule(rule)
    loss = _losses(initial)
    if (loss <= 0).any():
        fail("initial", "losses > 0", float(loss.min()))
    kind = loss.dtype
    loss = loss.astype(np.float64)
    etas, losses = [], []
    ratio, noise = found.second / found.first**2 - 1, found.noise / found.first**2
    for _ in range(count):
        etas.append(found.first * loss / (found.second * loss + found.noise))
        loss = loss * (ratio * loss + noise) / ((ratio + 1) * loss + noise)
        losses.append(loss)
    return Schedule(np.stack(etas, -1).astype(kind), np.stack(losses, -1).astype(kind))


def harmonic_steps(steps: Any, rule: Law, shift: Any = None) -> Array:
    """Return η_k = 1/(α(k + shift)), k = 1 … K (D3).

    Parameters
    ----------
    steps : int
    rule : Law
    shift : float, optional
        β/α² − 1 by default, (n + 1)/b for the population's metric: then the first step is the fastest one, α/β.

    Returns
    -------
    array (K,)
        Whatever the shift, K ℓ_K → σ²/α²: Fisher-efficient for the population's metric. What is left of the start is
        `forgetting` ℓ_0/K².

    Examples
    --------
    >>> harmonic_steps(3, law(4, 3, 2))
    array([0.5       , 0.333..., 0.25      ])
    """
    count, found = as_count(steps, "steps"), _rule(rule)
    return np.asarray(1 / (found.first * (np.arange(1, count + 1) + _shift(shift, found))))


@representable("shift")
def forgetting(rule: Law, shift: Any = None) -> float:
    """Return C where C ℓ_0/K² is left of the start after K harmonic steps, Γ(1+s)²/|Γ(s + i√a)|² (D3).

    Parameters
    ----------
    rule : Law
    shift : float, optional
        s, as in `harmonic_steps`. s = 0 has C = √a sinh(π√a)/π, a = β/α² − 1: exponential in √a. s = a has C ~ e a²;
        the least C, e²a²/4, is near s = a/2, both for large a.

    Returns
    -------
    float

    Examples
    --------
    >>> [round(forgetting(law(1, 9, 1), shift), 1) for shift in (0.0, 5.0, 10.0)]
    [10383.8, 196.5, 281.0]
    """
    found = _rule(rule)
    a, s = max(found.second / found.first**2 - 1, 0.0), _shift(shift, found)
    if s == 0 and a == 0:
        return 0.0
    return float(np.exp(2 * (loggamma(1 + s).real - loggamma(s + 1j * np.sqrt(a)).real)))


def efficient_loss(steps: Any, batch: Any, n_inputs: Any, n_outputs: Any) -> Array:
    """Return nm/(2bk), k = 1 … K: the Cramér–Rao bound on the expected excess loss of unbiased estimates (D3).

    Parameters
    ----------
    steps, batch, n_inputs, n_outputs : int

    Returns
    -------
    array (K,)

    Examples
    --------
    >>> efficient_loss(2, 4, 3, 2)
    array([0.75 , 0.375])
    """
    rule = law(batch, n_inputs, n_outputs)
    return np.asarray(rule.noise / np.arange(1, as_count(steps, "steps") + 1))


def running_metric_loss(steps: Any, batch: Any, n_inputs: Any, n_outputs: Any) -> Array:
    """Return nm/(2(bk − n − 1)): η_k = 1/k with the metric of all samples so far is recursive least squares (D3).

    Parameters
    ----------
    steps, batch, n_inputs, n_outputs : int
        b ≥ n.

    Returns
    -------
    array (K,)
        Infinite where bk ≤ n + 1. The start is forgotten at the first step, and nothing of S need be known.

    Examples
    --------
    >>> running_metric_loss(3, 4, 3, 2)
    array([  inf, 0.75 , 0.375])
    """
    b, n, m = as_count(batch, "batch"), as_count(n_inputs, "n_inputs"), as_count(n_outputs, "n_outputs")
    if b < n:
        raise ConditionError(f"batch: the first metric is singular for b < n, found b = {b}, n = {n}.")
    rest = b * np.arange(1, as_count(steps, "steps") + 1) - n - 1.0
    return np.where(rest > 0, n * m / (2 * np.where(rest > 0, rest, 1.0)), np.inf)


def metric_bias(
    batch: Any, n_inputs: Any, *, metric: str, metric_samples: Any = None, decay: Any = None
) -> float:
    """Return c where E[step] = c × [the natural gradient's], in a metric estimated from Gaussian inputs (D3).

    Parameters
    ----------
    batch, n_inputs : int
    metric : "minibatch", "independent" or "running"
    metric_samples : int, optional
        M > n + 1, for "independent".
    decay : float, optional
        γ of a running average in its stationary state; None for the mean of all samples so far.

    Returns
    -------
    float
        "minibatch": 1 for b ≥ n, b/n for b < n. "independent": M/(M − n − 1). "running": 1 for the plain mean (with all
        samples exchangeable); 1 − γ(1−γ)(n+1)/((2−γ)b) + O((γ/b)²) with a decay, leading order only. All but the last
        are exact.

    Examples
    --------
    >>> metric_bias(4, 9, metric="independent", metric_samples=20)
    2.0
    """
    b, n = as_count(batch, "batch"), as_count(n_inputs, "n_inputs")
    kind = as_choice(metric, "metric", ("minibatch", "independent", "running"))
    if kind == "minibatch":
        return min(1.0, b / n)
    if kind == "running":
        share = 0.0 if decay is None else as_scalar(decay, "decay", low=0.0, high=1.0, open_low=True)
        return 1 - share * (1 - share) * (n + 1) / ((2 - share) * b)
    samples = as_count(metric_samples, "metric_samples")
    if samples <= n + 1:
        raise ConditionError(
            f"metric_samples: the inverse has a mean for M > n + 1 = {n + 1}, found {samples}."
        )
    return samples / (samples - n - 1)


def _iterate(start: Array, etas: Array, rule: Law) -> Array:
    loss, losses = start.astype(np.float64), np.empty((*start.shape, len(etas)))
    for k, eta in enumerate(etas):
        # α²/β is at most 1 for every law: the factor is (1 − αη)² + (β − α²)η² ≥ 0.
        factor = (1 - rule.first * eta) ** 2 + (rule.second - rule.first**2) * eta**2
        loss = factor * loss + rule.noise * eta**2
        losses[..., k] = loss
    return losses.astype(start.dtype)


def _losses(initial: Any) -> Array:
    values = as_float_array(initial, "initial")
    if (values < 0).any():
        fail("initial", "losses ≥ 0", float(values.min()))
    return values


def _rule(rule: Any) -> Law:
    if not isinstance(rule, Law):
        fail("rule", "a Law", type(rule).__name__, "Make one: online.law(batch, n_inputs, n_outputs).")
    first = as_scalar(rule.first, "rule.first", low=0.0, open_low=True)
    # (1 − αη)² + (β − α²)η² is an expectation of squares.
    second = as_scalar(rule.second, "rule.second", low=first**2 * (1 - 1e-12))
    return Law(first, second, as_scalar(rule.noise, "rule.noise", low=0.0))


def _shift(shift: Any, rule: Law) -> float:
    if shift is None:
        return max(rule.second / rule.first**2 - 1, 0.0)
    return as_scalar(shift, "shift", low=0.0)
