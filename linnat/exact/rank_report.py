"""How sure is each rank? The singular values on both sides of every cut-off. Statements N2, X9.

A natural gradient is discontinuous where a rank drops, so that the cut-off is part of its definition. The ranks are
those of `ranks` and of every solver, decided by one rule (`linnat.linalg.chain_ranks`), which says here on what they
rest.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linnat._checks import Array, RankWarning, as_scalar, representable
from linnat.exact.chains import make_problem, outward_factors
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from linnat.linalg.chain_ranks import Decision, examine_ranks
from linnat.linalg.rank import default_rtol


class SideReport(NamedTuple):
    """The ranks on one side of every layer, and what they rest on; arrays (…, L).

    Attributes
    ----------
    ranks : integer array
    kept, dropped : arrays
        The smallest singular value that counts and the largest that does not, relative to the norm of the layer that
        the side gains there; NaN where there is none. At the input what the task's own cut-off acts on: eigenvalues of
        a given S, singular values of the rows of data, relative to the largest.
    cut_off : array
        What separates them, on the same scale.
    gap : array
        Decades between kept and dropped; the cut-off stands for the one that there is none of. Infinite where what was
        dropped is exactly zero or nothing could be.
    undetermined : boolean array
        Whether one of the two is within half a decade of its cut-off, or the gap below one decade.
    """

    ranks: Array
    kept: Array
    dropped: Array
    cut_off: Array
    gap: Array
    undetermined: Array


class RankReport(NamedTuple):
    """What the ranks of a network rest on.

    Attributes
    ----------
    before : SideReport
        Of Ã_i = A_i S^½: what the input goes through before layer i. Layer 1: S itself, decided by the task.
    after : SideReport
        Of B_i: what the error goes through after layer i. Layer L: the identity.
    """

    before: SideReport
    after: SideReport


@representable("net, task", nan=True)
def rank_report(net: LinearNetwork, task: Task, rtol: float | None = None) -> RankReport:
    """Return the ranks of both sides of every layer with the singular values on which they rest.

    Parameters
    ----------
    net : LinearNetwork
    task : Task
    rtol : float, optional
        See `natural_gradient`. The rank of S has its own, given to the task.

    Returns
    -------
    RankReport
        `before` and `after`, each with arrays (…, L).

    Warns
    -----
    RankWarning
        Where a rank is undetermined, also for a given `rtol`; names the side and the layer.

    Notes
    -----
    Two sweeps of SVDs: about 20 n³ flops per layer, 7 times that without `rtol`.

    Examples
    --------
    >>> report = rank_report(LinearNetwork([np.diag([1.0, 1e-3, 1e-17]), np.eye(3)]), Task(np.eye(3)))
    >>> report.before.ranks, report.before.kept
    (array([3, 2]), array([1.   , 0.001]))
    >>> float(report.before.gap[1].round(3))
    14.0
    """
    cut = None if rtol is None else as_scalar(rtol, "rtol", low=0.0)
    problem, batch = make_problem(net, task)
    singles = [problem.take(i) for i in range(len(problem.maps[0]))] if batch else [problem]
    inputs = _input_decisions(task, net.has_biases, batch)
    before, after = [], []
    for start, single in zip(inputs, singles, strict=True):
        outer, inner = outward_factors(single)
        before.append([start, *examine_ranks(single.factor, inner, cut)])
        whole = Decision(net.widths[-1], 1.0, np.nan, 0.0, np.nan, np.inf)
        after.append([*(examine_ranks(None, outer, cut) if outer else ())[::-1], whole])
    report = RankReport(_side(before, batch), _side(after, batch))
    _warn(report)
    return report


def _side(decisions: Sequence[Sequence[Decision]], batch: tuple[int, ...]) -> SideReport:
    shape = *batch, len(decisions[0])
    rows = [d for row in decisions for d in row]

    def gather(values: Sequence[float]) -> Array:
        return np.asarray(values).reshape(shape)

    return SideReport(
        gather([d.rank for d in rows]),
        gather([d.kept for d in rows]),
        gather([d.dropped for d in rows]),
        gather([d.cut_kept if np.isnan(d.dropped) else d.cut_dropped for d in rows]),
        gather([d.gap for d in rows]),
        gather([d.undetermined for d in rows]),
    )


def _input_decisions(task: Task, biases: bool, batch: tuple[int, ...]) -> list[Decision]:
    """Return the decision on S (with biases on the covariance, beside the constant) of every network."""
    values, scale, cut = _input_values(task, biases)
    ranks = np.asarray(task.moments(biases).rank) - int(biases)
    shape = batch or ()
    values = np.broadcast_to(values, (*shape, values.shape[-1])).reshape(-1, values.shape[-1])
    pairs = (np.broadcast_to(a, shape).reshape(-1) for a in (ranks, scale))
    decisions = []
    for row, rank, size in zip(values, *pairs, strict=True):
        sizes = row / (size or 1.0)
        kept = float(sizes[rank - 1]) if rank else np.nan
        dropped = float(sizes[rank]) if rank < len(sizes) else np.nan
        margin = kept / cut if rank and cut else np.inf
        decisions.append(Decision(int(rank) + int(biases), kept, dropped, cut, cut, margin))
    return decisions


def _input_values(task: Task, biases: bool) -> tuple[Array, Array, float]:
    """Return what the task decided the rank of S (with biases of the covariance) on, its scale, and its cut-off."""
    size = task.n_inputs
    if task.root is not None:
        rows = task.root[1:, 1 : 1 + size] if biases else task.root[:, 1 : 1 + size]
        found = np.linalg.svd(rows, compute_uv=False) if len(rows) else np.zeros(0)
        values = np.zeros(size)
        values[: len(found)] = found
        return values, values[0], default_rtol(rows) if task.rtol is None else task.rtol
    cov, mean = task.input_cov, task.input_mean
    scale = np.linalg.eigvalsh(cov)[..., -1]
    if biases:
        cov = cov - mean[..., :, None] * mean[..., None, :]
    values = np.maximum(np.linalg.eigvalsh(cov)[..., ::-1], 0)
    return (
        values,
        np.maximum(values[..., 0], scale),
        8 * default_rtol(cov) if task.rtol is None else task.rtol,
    )


def _warn(report: RankReport) -> None:
    for name, side in zip(("before", "after"), report, strict=True):
        if side.undetermined.any():
            place = tuple(np.argwhere(side.undetermined)[0])
            where = f" of network {tuple(int(i) for i in place[:-1])}" if len(place) > 1 else ""
            warnings.warn(
                f"the rank {name} layer {place[-1] + 1}{where} is undetermined: kept {side.kept[place]:.3g}, dropped "
                f"{side.dropped[place]:.3g}, cut-off {side.cut_off[place]:.3g} relative to the layer; pass an rtol "
                "within a gap of at least a decade",
                RankWarning,
                stacklevel=5,
            )
