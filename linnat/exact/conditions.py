"""Which statements apply to a network? (J), the condition of N1, and how far rounding reaches (X9)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from linnat._checks import Array, RngLike, as_rng, representable
from linnat.exact.chains import Problem, assemble, groups, make_chains, make_problem, ranks
from linnat.exact.network import LinearNetwork
from linnat.exact.perturbation import perturbed_network, perturbed_sides
from linnat.exact.task import Task
from linnat.exact.thin_staircase import layerwise
from linnat.linalg.kernels import frobenius

SAFETY = 4.0
COPIES = 4


class ErrorEstimate(NamedTuple):
    """How far rounding may have reached.

    Attributes
    ----------
    relative : array (…)
        Estimated relative error of the layerwise natural gradient, ‖δu‖/‖u‖ over all layers. From 1 on no digit is
        right. Where u is computed as exactly zero, 4 if a rerun finds anything else and 0 otherwise: it has lost
        everything, or nothing.
    layers : array (…, L)
        The same for each layer.
    absolute : array (…)
        ‖δu‖: what counts near the optimum, where u is rounding alone and has no relative accuracy.
    """

    relative: Array
    layers: Array
    absolute: Array


@representable("net, task")
def is_onto(net: LinearNetwork, task: Task, rtol: float | None = None) -> Array:
    """Return whether (J) holds: range J = R^{n_L} ⊗ range(S^½).

    Parameters
    ----------
    net : LinearNetwork
    task : Task
    rtol : float, optional
        See `natural_gradient`.

    Returns
    -------
    boolean array (…)
        True if at every hidden layer i r(W_L ⋯ W_{i+1}) = n_L or r(W_i ⋯ W_1 S^½) = ρ. Then every natural
        gradient moves the total weight straight to the teacher (C1).

    Examples
    --------
    >>> task = Task(np.eye(5))
    >>> [bool(is_onto(LinearNetwork.random((5, n, 5), rng=0), task)) for n in (2, 7)]
    [False, True]
    """
    before, after = ranks(net, task, rtol)
    full = (after[..., :-1] == net.widths[-1]) | (before[..., 1:] == before[..., :1])
    return np.asarray(full.all(axis=-1))


@representable("net, task")
def has_full_ranks(net: LinearNetwork, task: Task, rtol: float | None = None) -> Array:
    """Return whether r(B̃_i) = n_L and r(Ã_i) = ρ for every layer, the sufficient condition of N1.

    Parameters
    ----------
    net : LinearNetwork
    task : Task
    rtol : float, optional
        See `natural_gradient`.

    Returns
    -------
    boolean array (…)

    Examples
    --------
    >>> bool(has_full_ranks(LinearNetwork.random((3, 5, 2), rng=0), Task(np.ones((2, 3)))))
    True
    """
    before, after = ranks(net, task, rtol)
    return np.asarray(((after == net.widths[-1]) & (before == before[..., :1])).all(axis=-1))


@representable("net, task", inf=True)
def error_estimate(
    net: LinearNetwork, task: Task, rtol: float | None = None, rng: RngLike = 0
) -> ErrorEstimate:
    """Estimate the rounding error of the layerwise natural gradient by perturbed reruns (statement X9).

    Parameters
    ----------
    net : LinearNetwork
    task : Task
    rtol : float, optional
        See `natural_gradient`; ranks are decided once and kept in the reruns.
    rng : Generator or int

    Returns
    -------
    ErrorEstimate

    Notes
    -----
    Layers and the task's own numbers (rows, or covariances and teacher) are perturbed in their last bits 4
    times; the largest change, times 4, is the estimate. It covers cancellation, the drift of row spaces
    and the rounding of the moments, which bounds by condition numbers miss or overstate; `relative` was
    never below the truth in the package's trials, `layers` rarely (by a factor 2). Five natural gradients.

    The ranks that were decided are kept in the reruns. If one of them is wrong, so is u, by any amount, and this
    estimate does not see it: `rank_report` says how sure they are.

    Examples
    --------
    >>> float(error_estimate(LinearNetwork([np.eye(2)] * 3), Task(np.diag([1.0, 2.0]))).relative) < 1e-13
    True
    """
    generator = as_rng(rng)
    problem, batch = make_problem(net, task)
    size = problem.maps[0].shape[0] if batch else 1
    copies = [_perturbed(net, task, batch, generator) for _ in range(COPIES)]
    total, layers, absolute = np.empty(size), np.empty((size, net.depth)), np.empty(size)
    for index, part, chains in groups(problem, batch, rtol, thin=True):
        ranks = chains.left.ranks, chains.right.ranks
        moved = []
        for copy in copies:
            again = copy if index is ... else copy.take(index)
            moved.append(layerwise(again, make_chains(again, *ranks, thin=True)))
        base = layerwise(part, chains)
        changes = np.stack(
            [np.max([frobenius(m[i] - v) for m in moved], axis=0) for i, v in enumerate(base)], axis=-1
        )
        sizes = np.stack([frobenius(v) for v in base], axis=-1)
        layers[index] = SAFETY * _quotient(changes, sizes)
        length = np.linalg.norm(changes, axis=-1)
        total[index] = SAFETY * _quotient(length, np.linalg.norm(sizes, axis=-1))
        absolute[index] = SAFETY * length
    return ErrorEstimate(total.reshape(batch), layers.reshape(*batch, net.depth), absolute.reshape(batch))


def _perturbed(net: LinearNetwork, task: Task, batch: tuple[int, ...], rng: np.random.Generator) -> Problem:
    sides = perturbed_sides(task, net.has_biases, rng, net.dtype)
    return assemble(perturbed_network(net, rng), sides, batch)


def _quotient(change: Array, size: Array) -> Array:
    # The truth is 0, or something of which 0 has lost everything.
    start = np.where(change > 0, 1.0, 0.0).astype(change.dtype)
    return np.asarray(np.divide(change, size, out=start, where=size > 0))
