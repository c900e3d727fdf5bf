"""Where does natural gradient flow go through a bottleneck? The flow on the matrices of rank r. Statement X2.

Where a hidden layer of width r < min(n_L, ρ) limits the rank, the whitened total weight W̃ = Π^½ W S^½ obeys, in every
gauge and at every depth,

    dW̃/dt = P_W̃ (W̃* − W̃),

P the orthogonal projection on the tangent space of the matrices of rank r. Z = e^t W̃ follows the constant velocity
W̃* in the time s = e^t − 1: dynamical low-rank approximation (Koch and Lubich 2007; `low_rank` integrates it).
Equilibria of rank r are the subsets of r singular values of W̃*; the best approximation alone is stable, and is
approached at rate 1 − s_{r+1}/s_r. For a linear autoencoder with white noise that is PCA at rate 1 − √(λ_{r+1}/λ_r).

With biases (X10) the mean output follows C1 and W on the centred inputs follows X2.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, NamedTuple, cast

import numpy as np

from linnat._checks import (
    Array,
    ConditionError,
    FlowBreakdownError,
    as_count,
    as_float_array,
    as_matrix,
    as_scalar,
    as_times,
    check_broadcast,
    fail,
    representable,
)
from linnat.exact import low_rank
from linnat.exact.chains import ranks
from linnat.exact.network import LinearNetwork
from linnat.exact.ratio import as_pair
from linnat.exact.task import Task, as_task
from linnat.linalg.rank import default_rtol

__all__ = [
    "Equilibria",
    "Path",
    "equilibria",
    "linearised_eigenvalues",
    "low_rank_flow",
    "natural_path",
    "natural_total",
    "rank_one_flow",
    "rate",
    "target_values",
    "width",
]

MAX_SUBSETS = 1_000_000


class Path(NamedTuple):
    """A path of whitened total weights of rank r, W̃ = left · diag(values) · rightᵀ.

    Attributes
    ----------
    left : array (…, T, n_L, r)
        Orthonormal columns.
    values : array (…, T, r)
        Descending.
    right : array (…, T, ρ, r)
        Orthonormal columns, in the coordinates of `Task.input_factor` (of its centred part with biases).
    excess : array (…, T)
        ½‖W̃* − W̃‖².
    error : array (…, T)
        Sum of the local error estimates, relative to ‖W̃‖; 0 for the closed form of rank one.
    """

    left: Array
    values: Array
    right: Array
    excess: Array
    error: Array


class Equilibria(NamedTuple):
    """The equilibria of rank r, by increasing loss.

    Attributes
    ----------
    subsets : integer array (K, r)
        Which singular values are kept, counted from 0.
    excess : array (K,)
        ½ Σ of the squares of the others.
    rates : array (K,)
        The smallest rate of approach, 1 − max s_j / min s_a over j left out and a kept: negative for saddles.
    """

    subsets: Array
    excess: Array
    rates: Array


class _Ends(NamedTuple):
    """Start (as two factors) and goal of one network, whitened and in the singular bases of the goal."""

    left: Array
    right: Array
    goal: Array


def width(net: LinearNetwork, task: Task, rtol: float | None = None) -> int:
    """Return r, the rank of the manifold to which the flow is confined (statement X2).

    Parameters
    ----------
    net : LinearNetwork
    task : Task
    rtol : float, optional
        For the ranks, as in `natural_gradient`.

    Returns
    -------
    int

    Raises
    ------
    ConditionError
        Where r = min(n_L, ρ), so that nothing is confined (C1); where W has a lower rank than the layers allow, so
        that the velocity is not tangent to the matrices of that rank (N2); in stacks of different ranks.

    Notes
    -----
    With P_i, Q_i the nested projections on the ranges of B̃_i and Ã_iᵀ the range of J is Σ_i P_i ⊗ Q_i. It is the
    tangent space P ⊗ I + I ⊗ Q at W̃ if and only if at every layer r(B̃_i) = r or r(Ã_i) = r, r = r(W̃). Generic
    weights: r is the least hidden width.

    Examples
    --------
    >>> width(LinearNetwork.random((5, 4, 2, 3, 5), rng=0), Task(np.eye(5)))
    2
    """
    network, problem = as_pair(net, task)
    found = ranks(network, problem, rtol)
    # With biases every Ã_i carries the constant signal beside the centred ones.
    bound = np.minimum(found.after, found.before - network.has_biases)
    most = bound.max(axis=-1)
    top = int(most.max())
    full = min(network.widths[-1], int(np.max(problem.moments(network.has_biases).rank)) - network.has_biases)
    if top >= full:
        raise ConditionError(
            f"net: X2 needs a bottleneck, found rank {full} at every layer, all that the task has. "
            "Then the total weight moves on the line of C1 (flow.natural_total)."
        )
    least = int(_total_rank(network, problem).min())
    if least < top or int(most.min()) < top or least == 0:
        raise ConditionError(
            f"net: X2 needs a total weight of the rank {top} that its layers can express, found {least}. "
            "There the velocity leaves the matrices of that rank: N2 (natural_gradient) gives it."
        )
    return top


@representable("net, task")
def natural_path(net: LinearNetwork, task: Task, times: Any, tolerance: float = 1e-9) -> Path:
    """Return the whitened total weight under natural gradient flow through a bottleneck, in factors (X2).

    Parameters
    ----------
    net : LinearNetwork
        The start. Only its total weight matters.
    task : Task
        Leading axes broadcast.
    times : array (T,) or float
    tolerance : float
        Largest local error, relative to ‖W̃‖; for r = 1 the closed form is used and needs none.

    Returns
    -------
    Path

    Raises
    ------
    ConditionError
        Where `width` raises.
    FlowBreakdownError
        For r = 1 where W̃(0) is orthogonal to everything that grows, so that it shrinks to zero in finite time.
    ConvergenceError
        After 100,000 steps; for r = 1 beyond t of about 200,000.

    Notes
    -----
    One SVD of W̃* for the task, then about 200 (n_L + ρ) r² flops a step. For r = 1 a start for which W̃ reaches 0 is
    of measure zero: elsewhere singular vectors turn in time. For r > 1 a vanishing σ_r is not looked for; in 300
    Gaussian draws with r < min(n_L, ρ) ≤ 4 it stayed above 0.006 ‖W̃*‖, where the square flow breaks for at least
    half of the starts (X4).

    Examples
    --------
    >>> net = LinearNetwork([[[1.0, 0.0]], [[1.0], [0.0]]])
    >>> natural_path(net, Task(np.diag([3.0, 1.0])), [0.0, np.log(2.0)]).values.round(12)
    array([[1.],
           [2.]])
    """
    network, problem = as_pair(net, task)
    moments, rank = as_times(times), width(network, problem)
    limit = _tolerance(tolerance)
    batch = check_broadcast([network.batch_shape, problem.batch_shape], "net and task")
    left, right = _halves(network, problem)
    goal = _goal(problem, network.has_biases)
    parts = []
    for place in np.ndindex(*batch):
        one = (_pick(a, batch, place) for a in (left, right, goal))
        parts.append(_solve(_Ends(*one), rank, moments, limit))
    fields = [np.stack(f).reshape(*batch, *f[0].shape) for f in zip(*parts, strict=True)]
    return Path(*(f.astype(network.dtype) for f in fields))


@representable("net, task")
def natural_total(net: LinearNetwork, task: Task, times: Any, tolerance: float = 1e-9) -> Array:
    """Return the total weight under natural gradient flow through a bottleneck (X2).

    Parameters
    ----------
    net, task, times, tolerance
        As in `natural_path`, which says what is raised.

    Returns
    -------
    array (…, T, n_L, n_0)
        On the range of S (of the centred covariance with biases); what W does outside of it depends on the gauge and is
        left out. One column wider with biases, the output for x = 0.

    Examples
    --------
    >>> net = LinearNetwork([[[1.0, 0.0]], [[1.0], [0.0]]])
    >>> natural_total(net, Task(np.diag([3.0, 1.0])), np.log(2.0)).round(12)
    array([[[2., 0.],
            [0., 0.]]])
    """
    network, problem = as_pair(net, task)
    moments = as_times(times)
    path = natural_path(network, problem, moments, tolerance)
    biases = network.has_biases
    factor = _factor(problem, biases)
    # F⁺ from its own singular values: F may have zero columns in a stack.
    outer, values, inner = np.linalg.svd(factor, full_matrices=False)
    keep = values > default_rtol(factor) * values[..., :1]
    scaled = np.divide(1, values, out=np.zeros_like(values), where=keep)[..., None] * np.swapaxes(
        outer, -1, -2
    )
    back = np.swapaxes(inner, -1, -2) @ scaled
    white = (path.left * path.values[..., None, :]) @ np.swapaxes(path.right, -1, -2)
    total = problem.noise_factor[..., None, :, :] @ white @ back[..., None, :, :]
    if biases:
        mean = problem.input_mean[..., None]
        layers = network.total
        first = layers[..., :-1] @ mean + layers[..., -1:]
        goal = problem.goal(True)
        last = goal[..., :-1] @ mean + goal[..., -1:]
        output = last[..., None, :, :] + np.exp(-moments)[:, None, None] * (first - last)[..., None, :, :]
        total = np.concatenate([total, output - total @ mean[..., None, :, :]], axis=-1)
    return cast(Array, total.astype(network.dtype))


@representable("left, right, goal")
def low_rank_flow(left: Any, right: Any, goal: Any, times: Any, tolerance: float = 1e-9) -> Path:
    """Return the solution of dW/dt = P_W (G − W) on the matrices of rank r from W(0) = left rightᵀ (X2).

    Parameters
    ----------
    left, right : arrays (n, r), (m, r)
        Of full rank, r < min(n, m).
    goal : array (n, m)
        G.
    times : array (T,) or float
    tolerance : float
        Largest local error, relative to ‖W‖.

    Returns
    -------
    Path
        Without leading axes.

    Raises
    ------
    ConditionError
        For factors that are not of full rank, or r = min(n, m): then P is the identity.

    Notes
    -----
    Factors, not their product, so that singular values may be as small as they like. A σ_r far below the tolerance is
    forgotten, but only like a power of time: the path then depends on its start like a fractional power of it.

    Examples
    --------
    >>> left = np.array([[1.0], [1.0]])
    >>> low_rank_flow(left, left, np.diag([2.0, 1.0]), 40.0).values.round(9)
    array([[2.]])
    """
    ends, rank, dtype = _as_factors(left, right, goal)
    path = _solve(ends, rank, as_times(times), _tolerance(tolerance))
    return Path(*(f.astype(dtype) for f in path))


@representable("left, right, goal")
def rank_one_flow(left: Any, right: Any, goal: Any, times: Any) -> Path:
    """Return the same for r = 1 in closed form (X2).

    Parameters
    ----------
    left, right : arrays (n, 1), (m, 1)
    goal : array (n, m)
    times : array (T,) or float

    Returns
    -------
    Path

    Raises
    ------
    FlowBreakdownError
        At and after the time at which W reaches zero, if it does.
    ConvergenceError
        Beyond t of about 200,000.

    Notes
    -----
    With K = [[0, G], [Gᵀ, 0]], (u, v) ∝ e^{Kτ}(u_0, v_0), W = e^{-t} σ(τ) u vᵀ, σ(τ) = σ_0 ‖e^{Kτ}(u_0, v_0)‖/√2, and
    e^t − 1 = ∫_0^τ σ, which is inverted in logarithms. One panel of quadrature for each unit of time.

    Examples
    --------
    >>> path = rank_one_flow([[1.0], [0.0]], [[1.0], [0.0]], np.diag([3.0, 1.0]), [0.0, np.log(2.0)])
    >>> path.values.round(12)
    array([[1.],
           [2.]])
    """
    ends, rank, dtype = _as_factors(left, right, goal)
    if rank != 1:
        fail("left", "one column", f"{rank}", "For higher ranks: low_rank_flow.")
    path = _solve(ends, 1, as_times(times), 0.0)
    return Path(*(f.astype(dtype) for f in path))


@representable("task")
def target_values(task: Task, biases: bool = False) -> Array:
    """Return the singular values of W̃* = Π^½ W* S^½, padded with zeros to min(n_L, ρ) (X2).

    Parameters
    ----------
    task : Task
    biases : bool
        On the centred inputs, which is what a network with biases has to learn in its bottleneck.

    Returns
    -------
    array (…, min(n_L, ρ))
        Descending. √λ_a of S for an autoencoder with white noise.

    Examples
    --------
    >>> target_values(Task(np.eye(2), np.diag([4.0, 1.0])))
    array([2., 1.])
    """
    return np.asarray(np.linalg.svd(_goal(as_task(task), biases), compute_uv=False))


@representable("values")
def rate(values: Any, rank: Any) -> Array:
    """Return 1 − s_{r+1}/s_r, the rate at which the best approximation of rank r is approached (X2).

    Parameters
    ----------
    values : array (…, k)
        Singular values of W̃*, descending; see `target_values`.
    rank : int
        r, at most k; s_{k+1} = 0.

    Returns
    -------
    array (…)
        Of W̃; the loss approaches its infimum at twice that rate.

    Raises
    ------
    ConditionError
        Where s_r = 0: then W̃ tends to a matrix of lower rank.

    Examples
    --------
    >>> float(rate([4.0, 3.0, 1.0], 2).round(12))
    0.666666666667
    """
    ordered, r = _descending(values), _rank_within(rank, values)
    if (ordered[..., r - 1] == 0).any():
        raise ConditionError(
            f"rank: X2 needs s_{r} > 0, found 0. W̃ then tends to a matrix of lower rank, not exponentially."
        )
    following = ordered[..., r] if r < ordered.shape[-1] else 0 * ordered[..., 0]
    return np.asarray(1 - following / ordered[..., r - 1])


@representable("values")
def linearised_eigenvalues(values: Any, subset: Any, shape: tuple[int, int]) -> Array:
    """Return every eigenvalue of the flow, linearised at an equilibrium, with multiplicity (X2).

    Parameters
    ----------
    values : array (k,)
        Singular values of W̃*, k = min(shape).
    subset : sequence of r integers
        The kept ones, counted from 0; all positive.
    shape : (n_L, ρ)

    Returns
    -------
    array (r (n_L + ρ − r),)
        Descending: −1 ± s_j/s_a for a kept and j left out, and −1, r² + r |n_L − ρ| times.

    Notes
    -----
    The operator is δ ↦ −δ + W⁺ᵀδᵀE + Eδᵀ W⁺ᵀ on tangent δ, E = W̃* − W. It is symmetric.

    Examples
    --------
    >>> linearised_eigenvalues([2.0, 1.0], [0], (2, 2))
    array([-0.5, -1. , -1.5])
    """
    spectrum = as_float_array(values, "values", ndim=1)
    if (spectrum < 0).any():
        fail("values", "singular values ≥ 0", float(spectrum.min()))
    kept = _as_subset(subset, len(spectrum))
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        fail("shape", "two sizes, (n_L, ρ)", repr(shape))
    rows, columns = (as_count(n, "shape") for n in shape)
    if min(rows, columns) != len(spectrum):
        fail("shape", f"two sizes, the smaller {len(spectrum)}, as many as values", (rows, columns))
    chosen, rest = spectrum[kept], np.delete(spectrum, kept)
    if (chosen == 0).any():
        raise ConditionError("subset: an equilibrium of rank r keeps positive singular values, found 0 (X2).")
    ratios = (rest / chosen[:, None]).ravel()
    ones = np.full(len(kept) ** 2 + len(kept) * abs(rows - columns), -1.0)
    return np.asarray(np.sort(np.concatenate([-1 + ratios, -1 - ratios, ones]))[::-1].astype(spectrum.dtype))


@representable("values")
def equilibria(values: Any, rank: Any) -> Equilibria:
    """Return all equilibria of rank r for distinct singular values, by increasing loss (X2).

    Parameters
    ----------
    values : array (k,)
        Singular values of W̃*, descending.
    rank : int
        r.

    Returns
    -------
    Equilibria

    Raises
    ------
    InputError
        Where there are more than a million; for equal singular values, of which every rotation is one.

    Examples
    --------
    >>> equilibria([3.0, 2.0, 1.0], 1)
    Equilibria(subsets=array([[0],
           [1],
           [2]]), excess=array([2.5, 5. , 6.5]), rates=array([ 0.33333333, -0.5       , -2.        ]))
    """
    ordered = _descending(as_float_array(values, "values", ndim=1)).astype(np.float64)
    r = _rank_within(rank, values)
    positive = ordered[ordered > 0]
    if (np.diff(positive) == 0).any():
        fail(
            "values",
            "distinct positive singular values",
            "equal ones",
            "Their rotations are equilibria, too.",
        )
    if math.comb(len(positive), r) > MAX_SUBSETS:
        fail("values, rank", f"at most {MAX_SUBSETS} subsets", math.comb(len(positive), r))
    subsets = np.array(list(combinations(range(len(positive)), r)), dtype=int).reshape(-1, r)
    kept = np.zeros((len(subsets), len(ordered)), bool)
    np.put_along_axis(kept, subsets, True, axis=1)
    excess = 0.5 * (np.where(kept, 0.0, ordered) ** 2).sum(axis=1)
    largest = np.where(kept, 0.0, ordered).max(axis=1)
    rates = 1 - largest / np.where(kept, ordered, np.inf).min(axis=1)
    order = np.argsort(excess, kind="stable")
    return Equilibria(subsets[order], excess[order], rates[order])


def _solve(ends: _Ends, rank: int, times: Array, tolerance: float) -> Path:
    """Solve in the singular bases of the goal, where its action is a scaling of rows."""
    outer, diagonal, inner = np.linalg.svd(ends.goal)
    start = low_rank.factorise(outer.T @ ends.left, inner @ ends.right)
    if rank < start.core.shape[0]:
        first, values, second = np.linalg.svd(start.core)
        core = np.diag(values[:rank])
        start = low_rank.Factors(start.left @ first[:, :rank], core, start.right @ second[:rank].T)
    if rank == 1:
        end = low_rank.last_time(start, diagonal)
        if times.max() >= end:
            words = f"times: W reaches zero at t = {end:.6g}, where the flow of rank one ends (X2)."
            raise FlowBreakdownError(words, end)
        line = low_rank.rank_one(start, diagonal, times)
        left, values, right = line.left[..., None], line.scale[:, None], line.right[..., None]
        error = np.zeros(len(times))
    else:
        walk = low_rank.follow(start, diagonal, times, tolerance)
        left, core, right = (np.stack(part) for part in zip(*walk.states, strict=True))
        first, values, second = np.linalg.svd(core)
        left, right, error = left @ first, right @ np.swapaxes(second, -1, -2), walk.error
    excess = _excess(left, values, right, diagonal)
    return Path(outer @ left, values, inner.T @ right, excess, error)


def _excess(left: Array, values: Array, right: Array, diagonal: Array) -> Array:
    """Return ½‖G − W‖² for a diagonal G, without the product n × m beyond one time."""
    sums = []
    for u, s, v in zip(left, values, right, strict=True):
        gap = (u * s) @ v.T
        gap[np.arange(len(diagonal)), np.arange(len(diagonal))] -= diagonal
        sums.append(0.5 * float(np.vdot(gap, gap)))
    return np.array(sums)


def _halves(net: LinearNetwork, task: Task) -> tuple[Array, Array]:
    """Return W̃ (on centred inputs with biases) as left rightᵀ, cut at the narrowest hidden layer."""
    hidden = net.widths[1:-1]
    cut = 1 + int(np.argmin(hidden))
    left = net.weights[-1].astype(np.float64)
    for weight in net.weights[-2 : cut - 1 : -1]:
        left = left @ weight
    right = _factor(task, net.has_biases)
    for weight in net.weights[:cut]:
        right = weight @ right
    return task.whiten(left), np.swapaxes(right, -1, -2)


def _total_rank(net: LinearNetwork, task: Task) -> Array:
    if net.depth == 1:
        return np.asarray(0)
    left, right = _halves(net, task)
    (_, upper), (_, lower) = np.linalg.qr(left), np.linalg.qr(right)
    values = np.linalg.svd(upper @ np.swapaxes(lower, -1, -2), compute_uv=False)
    size = np.linalg.norm(upper, axis=(-1, -2)) * np.linalg.norm(lower, axis=(-1, -2))
    cut = max(left.shape[-2], right.shape[-2]) * float(np.finfo(net.dtype).eps)
    return np.asarray((values > cut * size[..., None]).sum(axis=-1))


def _factor(task: Task, biases: bool) -> Array:
    """Return F, of the centred covariance with biases."""
    return task.affine.factor[..., :-1, 1:] if biases else task.plain.factor


def _goal(task: Task, biases: bool) -> Array:
    target = task.affine.target[..., 1:] if biases else task.plain.target
    return task.whiten(target)


def _pick(array: Array, batch: tuple[int, ...], place: tuple[int, ...]) -> Array:
    return cast(Array, np.broadcast_to(array, (*batch, *array.shape[-2:]))[place])


def _tolerance(value: Any) -> float:
    return as_scalar(value, "tolerance", low=1e-13, high=0.1)


def _as_factors(left: Any, right: Any, goal: Any) -> tuple[_Ends, int, Any]:
    aim = as_matrix(goal, "goal")
    if aim.ndim != 2:
        fail("goal", "one matrix", f"shape {aim.shape}")
    parts = []
    for value, name, rows in ((left, "left", aim.shape[0]), (right, "right", aim.shape[1])):
        part = as_float_array(value, name, ndim=2)
        if part.shape[0] != rows:
            fail(name, f"{rows} rows, to fit goal", f"shape {part.shape}")
        parts.append(part)
    dtype = np.result_type(aim, *parts)
    first, second = (part.astype(np.float64) for part in parts)
    rank = first.shape[1]
    if second.shape[1] != rank:
        fail("right", f"{rank} columns, like left", f"shape {second.shape}")
    if rank >= min(aim.shape):
        raise ConditionError(
            f"left, right: X2 needs a rank below {min(aim.shape)}, found {rank}. W then moves on a line: C1."
        )
    for part, name in ((first, "left"), (second, "right")):
        values = np.linalg.svd(part, compute_uv=False)
        if values[-1] <= default_rtol(part) * values[0]:
            raise ConditionError(
                f"{name}: expected {rank} independent columns (X2), found σ_min = {values[-1]:.3g}."
            )
    return _Ends(first, second, aim.astype(np.float64)), rank, dtype


def _descending(values: Any) -> Array:
    array = as_float_array(values, "values", min_ndim=1)
    if (array < 0).any() or (np.diff(array) > 0).any():
        fail("values", "singular values ≥ 0 in descending order", "others")
    return array


def _rank_within(rank: Any, values: Any) -> int:
    count, size = as_count(rank, "rank"), np.asarray(values).shape[-1]
    if count > size:
        fail("rank", f"at most {size}, the number of values", count)
    return count


def _as_subset(subset: Any, size: int) -> list[int]:
    if isinstance(subset, (str, int, np.integer)):
        fail("subset", "a sequence of places in values", repr(subset))
    kept = [as_count(k, "subset", low=0) for k in subset]
    if not kept or len(set(kept)) != len(kept) or max(kept) >= size:
        fail("subset", f"different places from 0 to {size - 1}", kept)
    return kept
