"""What does minibatch noise do to the natural gradient? Replicates of online learning, vectorised. Statement D3.

y = W*x + noise of covariance Σ, x Gaussian of covariance S. Each step sees b fresh samples. In whitened coordinates,
x = F z, Ẽ = Σ^{−½}(W* − W)F, the minibatch's error direction is D = (1/b) Σ_s (Ẽz_s + ε_s)z_sᵀ and the step is Ẽ⁺ =
Ẽ − ηD for the metric S. Deep networks, square invertible chains in the layerwise gauge, obey W̃⁺ = W̃[I + (η/L)W̃⁻¹D]^L:
D1 with D in place of Ẽ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from linnat._checks import (
    Array,
    ConditionError,
    RngLike,
    as_choice,
    as_count,
    as_covariance,
    as_float_array,
    as_rng,
    as_scalar,
    fail,
    representable,
)
from linnat.exact.network import LinearNetwork
from linnat.exact.ratio import as_pair, square_chain
from linnat.exact.replicates import Estimate, blocks, mean_and_error
from linnat.exact.task import Task

METRICS = ("population", "minibatch", "independent", "running", "none")


class Runs(NamedTuple):
    """Excess losses of replicates.

    Attributes
    ----------
    steps : integer array (K,)
        The recorded steps; 0 is the start.
    losses : array (K, R)
    stopped : integer array (R,)
        The step at which a replicate left the region `within` and was stopped, −1 where it never did.
    finite : bool array (K,)
        Whether the expectation is finite. Of a deep chain it is infinite from step 2 on, unless it is stopped.
    """

    steps: Array
    losses: Array
    stopped: Array
    finite: Array

    def mean(self) -> Estimate:
        """Return means with standard errors, or raise where an expectation is infinite."""
        if not self.finite.all():
            raise ConditionError(
                f"mean: the expected loss is infinite at step {int(self.steps[~self.finite][0])} (D3, L ≥ 2). Use "
                "the median, tail_exponent, or stop the runs with `within`."
            )
        return mean_and_error(self.losses)

    def quantiles(self, levels: Any = 0.5) -> Array:
        """Return quantiles over replicates, (…, K); the median by default."""
        return np.asarray(np.quantile(self.losses, levels, axis=-1))


class _Plan(NamedTuple):
    """All that a block of replicates needs, in whitened coordinates."""

    target: Array
    start: Array
    etas: Array
    batch: int
    depth: int
    metric: str
    samples: int
    decay: float | None
    sphere: bool
    inside: Array | None  # Fᵀ P⁻¹ F for an explicit metric P
    outside: Array | None  # (CᵀC)⁻¹ of Σ = CCᵀ, for plain gradients
    record: Array
    within: tuple[float, float] | None


@representable("net, task, eta")
def simulate(
    net: LinearNetwork,
    task: Task,
    eta: Any,
    batch: Any,
    steps: Any,
    replicates: Any,
    *,
    metric: Any = "population",
    metric_samples: Any = None,
    decay: Any = None,
    inputs: str = "gaussian",
    record: Any = None,
    within: Any = None,
    rng: RngLike = 0,
) -> Runs:
    """Return excess losses of replicates of online learning (D3).

    Parameters
    ----------
    net : LinearNetwork
        The start: one layer of any shape, or a deep square invertible chain. No biases, no leading axes.
    task : Task
        Population moments. Targets have the noise Σ of the model.
    eta : float or array (steps,)
        η > 0.
    batch, steps, replicates : int
    metric : str or array (n_0, n_0)
        What stands for S: "population" (S itself), "minibatch" (the second moment of the same samples), "independent"
        (of `metric_samples` fresh unlabelled samples at each step), "running" (an average over the minibatches so far,
        this one included), "none" (plain gradient, W⁺ = W + η Π Ê S: L = 1 only) or a fixed positive definite matrix.
    metric_samples : int, optional
        For "independent"; at least ρ = rank S.
    decay : float, optional
        Weight γ of the newest minibatch in the running average, 0 < γ ≤ 1; 1/k at step k by default, the plain mean.
    inputs : "gaussian" or "sphere"
        Of z: Gaussian, or uniform on the sphere of radius √ρ.
    record : integers, optional
        The steps whose losses are kept, 0 … steps; 1 … steps by default.
    within : pair (low, high), optional
        A replicate stops where the singular values of W̃ leave [low, high]; its loss stays that of the exit.
    rng : Generator or int

    Returns
    -------
    Runs

    Raises
    ------
    ConditionError
        For biases (x̂ = (x, 1) is not Gaussian), deep networks that are not square invertible chains, and
        minibatches too small for the metric.

    Notes
    -----
    A seed gives the same bits on one machine, and the same draws whatever the depth, η and metric (but "independent",
    which draws more): differences between runs can be taken replicate by replicate. Memory: the recorded losses
    and some 50 MB. O(b ρ n_L) numbers for each step and replicate; 10,000 replicates of 100 steps take seconds.

    Examples
    --------
    >>> runs = simulate(LinearNetwork([[[0.0, 0.0]]]), Task([[1.0, 2.0]]), 0.1, 4, 3, 10000)
    >>> mean, error = runs.mean()
    >>> bool((abs(mean - [2.04625, 1.67531, 1.37207]) < 5 * error).all())
    True
    """
    plan = _plan(net, task, eta, batch, steps, metric, metric_samples, decay, inputs, record, within)
    count, generator = as_count(replicates, "replicates", low=2), as_rng(rng)
    losses, stopped = np.empty((len(plan.record), count)), np.full(count, -1)
    rows, columns = plan.start.shape
    numbers = plan.batch * (rows + columns) + plan.samples * columns + 8 * rows * columns + 2 * columns**2
    for part, child in blocks(count, numbers, generator):
        losses[:, part], stopped[part] = _run(plan, part.stop - part.start, child)
    wild = plan.depth > 1 and plan.within is None
    return Runs(plan.record, losses, stopped, plan.record < (2 if wild else np.inf))


def _plan(
    net: Any,
    task: Any,
    eta: Any,
    batch: Any,
    steps: Any,
    metric: Any,
    metric_samples: Any,
    decay: Any,
    inputs: Any,
    record: Any,
    within: Any,
) -> _Plan:
    """Check everything, and whiten."""
    network, problem, factor = white_problem(net, task)
    size, length, rank = as_count(batch, "batch"), as_count(steps, "steps"), factor.shape[-1]
    target, start = (problem.whiten(matrix @ factor) for matrix in (problem.teacher, network.total))
    if network.depth > 1:
        square_chain(network, problem, "D3")
    named = isinstance(metric, str)
    kind = as_choice(metric, "metric", METRICS) if named else "fixed"
    samples = _samples(kind, metric_samples, rank)
    if kind == "running" and size < rank:
        raise ConditionError(
            f"batch: a running metric needs at least rank S = {rank} samples at its start, found {size}."
        )
    if kind == "none" and network.depth > 1:
        raise ConditionError(
            "metric: 'none' is for one layer: plain gradients of deep networks need their layers."
        )
    outside = None
    if kind == "none":
        inside: Array | None = factor.mT @ factor
        outside = np.linalg.solve(problem.noise_factor.mT @ problem.noise_factor, np.eye(len(start)))
    else:
        inside = None if named else _inside(metric, factor)
    if decay is not None:
        decay = as_scalar(decay, "decay", low=0.0, high=1.0, open_low=True)
    sphere = as_choice(inputs, "inputs", ("gaussian", "sphere")) == "sphere"
    etas = as_schedule(eta, length)
    kept = _record(record, length)
    bounds = None if within is None else _interval(within)
    return _Plan(
        target, start, etas, size, network.depth, kind, samples, decay, sphere, inside, outside, kept, bounds
    )


def white_problem(net: Any, task: Any) -> tuple[LinearNetwork, Task, Array]:
    """Return one network without biases, one task, and the factor F of S, n_0 × ρ."""
    network, problem = as_pair(net, task)
    if network.has_biases:
        raise ConditionError("net: D3 needs Gaussian inputs, and (x, 1) is not. Leave the biases out.")
    if network.batch_shape or problem.batch_shape:
        fail(
            "net, task",
            "no leading axes",
            f"{network.batch_shape} and {problem.batch_shape}",
            "Loop over them.",
        )
    return network, problem, problem.input_factor


def as_schedule(eta: Any, steps: int) -> Array:
    """Return η_1 … η_K > 0, from one number or one for each step."""
    values = as_float_array(eta, "eta").astype(np.float64)
    if values.shape not in ((), (steps,)):
        fail("eta", f"a number or shape ({steps},), one for each step", f"shape {values.shape}")
    if (values <= 0).any():
        fail("eta", "steps > 0", float(values.min()))
    return np.broadcast_to(values, (steps,))


def _samples(kind: str, value: Any, rank: int) -> int:
    if kind != "independent":
        return 0
    count = as_count(value, "metric_samples")
    if count < rank:
        raise ConditionError(
            f"metric_samples: an invertible metric needs at least rank S = {rank}, found {count}."
        )
    return count


def _inside(metric: Any, factor: Array) -> Array:
    matrix = as_covariance(metric, "metric", factor.shape[0], definite=True)
    if matrix.ndim != 2:
        fail("metric", "one matrix", f"shape {matrix.shape}")
    half = np.linalg.solve(np.linalg.cholesky(matrix), factor)
    return np.asarray(half.T @ half)


def _record(record: Any, steps: int) -> Array:
    if record is None:
        return np.arange(1, steps + 1)
    items: Sequence[Any] = [record] if np.ndim(record) == 0 else list(record)
    kept = np.array(
        [as_count(k.item() if isinstance(k, np.ndarray) else k, "record", low=0) for k in items], int
    )
    if not kept.size or (np.diff(kept) <= 0).any() or kept[-1] > steps:
        fail("record", f"increasing steps between 0 and {steps}", kept.tolist())
    return kept


def _interval(within: Any) -> tuple[float, float]:
    pair = as_float_array(within, "within", ndim=1)
    if pair.shape != (2,) or not 0 <= pair[0] < pair[1]:
        fail("within", "a pair 0 ≤ low < high", pair.tolist())
    return float(pair[0]), float(pair[1])


def _run(plan: _Plan, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the recorded losses (K, count) of one block and the steps at which replicates were stopped."""
    weight = np.broadcast_to(plan.start, (count, *plan.start.shape))
    losses, stopped = np.empty((len(plan.record), count)), np.full(count, -1)
    root: Array | None = None
    place = 0
    for k in range(len(plan.etas) + 1):
        if k > 0:
            direction, root = _direction(plan, plan.target - weight, root, k, rng)
            moved = _moved(plan, weight, direction, plan.etas[k - 1])
            weight = moved if plan.within is None else _stop(plan.within, weight, moved, stopped, k)
        if place < len(plan.record) and k == plan.record[place]:
            losses[place] = 0.5 * ((plan.target - weight) ** 2).sum(axis=(-1, -2))
            place += 1
        if place == len(plan.record):
            break
    return losses, stopped


def _stop(within: tuple[float, float], weight: Array, moved: Array, stopped: Array, step: int) -> Array:
    """Keep the replicates that were stopped before; mark those that have just left the region."""
    still = stopped < 0
    following = np.where(still[:, None, None], moved, weight)
    values = np.linalg.svd(following, compute_uv=False)
    out = still & ((values[:, -1] < within[0]) | (values[:, 0] > within[1]))
    stopped[out] = step
    return following


def _moved(plan: _Plan, weight: Array, direction: Array, eta: float) -> Array:
    """Return W̃ after one step along D."""
    if plan.depth == 1:
        return np.asarray(weight + eta * direction)
    factor = np.eye(weight.shape[-1]) + (eta / plan.depth) * np.linalg.solve(weight, direction)
    for _ in range(plan.depth):
        weight = weight @ factor
    return weight


def _direction(
    plan: _Plan, error: Array, root: Array | None, step: int, rng: np.random.Generator
) -> tuple[Array, Array | None]:
    """Return D times the inverse of the metric in whitened coordinates, and the root of the running metric."""
    count, rows, columns = error.shape
    inputs = _draw(rng, (count, plan.batch, columns), plan.sphere)
    residual = inputs @ error.mT + rng.standard_normal((count, plan.batch, rows))
    if plan.metric == "minibatch":
        return least_squares(inputs, residual), None
    gradient = residual.mT @ inputs / plan.batch
    if plan.metric == "independent":
        other = _draw(rng, (count, plan.samples, columns), plan.sphere) / np.sqrt(plan.samples)
        return _divide(gradient, _root(other)), None
    if plan.metric == "running":
        newest = 1.0 / step if plan.decay is None else (1.0 if step == 1 else plan.decay)
        parts = [np.sqrt(newest / plan.batch) * inputs]
        if root is not None:
            parts.append(np.sqrt(1 - newest) * root)
        root = _root(np.concatenate(parts, axis=-2))
        return _divide(gradient, root), root
    if plan.outside is not None:
        gradient = plan.outside @ gradient
    return (gradient if plan.inside is None else gradient @ plan.inside), None


def _draw(rng: np.random.Generator, shape: tuple[int, ...], sphere: bool) -> Array:
    values = rng.standard_normal(shape)
    if sphere:
        values *= np.sqrt(shape[-1]) / np.sqrt((values**2).sum(axis=-1, keepdims=True))
    return values


def least_squares(inputs: Array, values: Array) -> Array:
    """Return the minimum-norm M with inputs Mᵀ = values in the least-squares sense, (…, m, n), by QR."""
    if inputs.shape[-2] >= inputs.shape[-1]:
        basis, upper = np.linalg.qr(inputs)
        return np.asarray(np.linalg.solve(upper, basis.mT @ values).mT)
    basis, upper = np.linalg.qr(inputs.mT)
    return np.asarray((basis @ np.linalg.solve(upper.mT, values)).mT)


def _root(rows: Array) -> Array:
    """Return R of a QR of the rows."""
    return cast(Array, np.linalg.qr(rows, mode="r"))


def _divide(gradient: Array, root: Array) -> Array:
    """Return G (RᵀR)⁻¹ by two solves."""
    return np.asarray(np.linalg.solve(root, np.linalg.solve(root.mT, gradient.mT)).mT)
