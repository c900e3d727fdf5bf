"""On what does a statement depend? Ranks and condition numbers of an instance, and its conditions in words.

Every condition is a function of (net, task) that returns None where it is met and otherwise says what is not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np

from linnat._checks import Array, RankWarning
from linnat.claims._oracles import affordable, residual
from linnat.exact.chains import ranks
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task

Condition: TypeAlias = Callable[[LinearNetwork, Task], str | None]


class Geometry(NamedTuple):
    """Ranks and conditions of one network and task.

    Attributes
    ----------
    before, after : tuple of int
        r(Ã_i) and r(B̃_i), i = 1 … L.
    rank : int
        ρ.
    layers : tuple of float
        κ(W_i) (of M_i with biases), over the singular values above eps ‖W_i‖.
    sides : float
        max_i κ(Ã_i) κ(B̃_i), over the kept singular values of the products.
    layerwise : float
        max_i ‖B̃_i⁺‖ ‖Ã_i⁺‖.
    undetermined : str
        The rank warning, where there was one.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    rank: int
    layers: tuple[float, ...]
    sides: float
    layerwise: float
    undetermined: str


@lru_cache(maxsize=16)
def geometry(net: LinearNetwork, task: Task) -> Geometry:
    """Return ranks (decided by the package) and conditions (from singular values of plain products)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before, after = (tuple(int(r) for r in side) for side in ranks(net, task))
    doubt = next((str(w.message) for w in caught if issubclass(w.category, RankWarning)), "")
    factor = task.moments(net.has_biases).factor
    left = [np.linalg.svd(np.linalg.solve(task.noise_factor, b), compute_uv=False) for b in net.after]
    right = [np.linalg.svd(a @ factor, compute_uv=False) for a in net.before]
    tops = [(b[0], a[0]) for b, a in zip(left, right, strict=True)]
    least = [(_last(b, r), _last(a, q)) for b, r, a, q in zip(left, after, right, before, strict=True)]
    sides = [
        t[0] * t[1] / (s[0] * s[1]) if s[0] * s[1] > 0 else 1.0 for t, s in zip(tops, least, strict=True)
    ]
    growth = [1.0 / (s[0] * s[1]) if s[0] * s[1] > 0 else 0.0 for s in least]
    layers = tuple(_condition(m) for m in net.maps)
    return Geometry(
        before, after, int(task.moments(net.has_biases).rank), layers, max(sides), max(growth), doubt
    )


def _last(values: Array, rank: int) -> float:
    return float(values[rank - 1]) if rank else 0.0


def _condition(matrix: Array) -> float:
    values = np.linalg.svd(matrix, compute_uv=False)
    kept = values[values > max(matrix.shape) * np.finfo(matrix.dtype).eps * values[0]]
    return float(kept[0] / kept[-1]) if kept.size else 1.0


def every(*conditions: Condition) -> Condition:
    """Return the condition that all are met; the first that is not speaks."""

    def all_met(net: LinearNetwork, task: Task) -> str | None:
        return next((words for c in conditions if (words := c(net, task)) is not None), None)

    return all_met


def always(net: LinearNetwork, task: Task) -> str | None:
    """No condition."""
    return None


def deep(net: LinearNetwork, task: Task) -> str | None:
    """L ≥ 2."""
    return None if net.depth > 1 else "needs at least two layers"


def without_biases(net: LinearNetwork, task: Task) -> str | None:
    """No biases."""
    return "needs a network without biases" if net.has_biases else None


def with_biases(net: LinearNetwork, task: Task) -> str | None:
    """Biases."""
    return None if net.has_biases else "needs a network with biases"


def determined(net: LinearNetwork, task: Task) -> str | None:
    """Ranks are decided at working precision."""
    return geometry(net, task).undetermined or None


def full_factors(net: LinearNetwork, task: Task) -> str | None:
    """N1's sufficient condition: every B̃_i has rank n_L and every Ã_i has rank ρ."""
    g = geometry(net, task)
    for i, (before, after) in enumerate(zip(g.before, g.after, strict=True), 1):
        if after < net.widths[-1]:
            return f"needs rank {net.widths[-1]} after layer {i}, where it is {after} (N2 applies)"
        if before < g.rank:
            return f"needs rank {g.rank} before layer {i}, where it is {before} (N2 applies)"
    return None


def onto(net: LinearNetwork, task: Task) -> str | None:
    """(J): at every hidden layer the rank after is n_L or the rank before is ρ."""
    g = geometry(net, task)
    for i in range(1, net.depth):
        before, after = g.before[i], g.after[i - 1]
        if after < net.widths[-1] and before < g.rank:
            return (
                f"needs (J): hidden layer {i} passes rank {before} of {g.rank} inputs on to rank {after} of "
                f"{net.widths[-1]} outputs"
            )
    return None


def regular_start(net: LinearNetwork, task: Task) -> str | None:
    """Where a hidden layer is just wide enough, the total weight starts with full rank (C3)."""
    offset, g = int(net.has_biases), geometry(net, task)
    size = min(net.widths[-1] + offset, g.rank)
    if not size or all(n + offset != size for n in net.widths[1:-1]):
        return None
    start = task.moments(net.has_biases).factor
    for matrix in net.maps:
        start = matrix.astype(np.float64) @ start
    values = np.linalg.svd(start, compute_uv=False)
    if values[size - 1] <= 8 * max(start.shape) * np.finfo(np.float64).eps * values[0]:
        return f"needs a start whose total weight has full rank {size}, a hidden layer being no wider (C3)"
    if len(set(net.widths)) == 1 and max(g.layers) * net.widths[0] * np.finfo(net.dtype).eps >= 1:
        return "needs invertible layers: one is singular to working precision"
    return None


def square(net: LinearNetwork, task: Task) -> str | None:
    """Square invertible layers, S > 0."""
    if len(set(net.widths)) > 1:
        return "needs square layers, all of one width"
    g = geometry(net, task)
    if g.rank < net.widths[0] + net.has_biases:
        return f"needs S > 0, its rank is {g.rank} of {net.widths[0] + net.has_biases}"
    for i, condition in enumerate(g.layers, 1):
        if (
            condition * net.widths[0] * np.finfo(net.dtype).eps > 1e-3
            or min(g.before[-1], g.after[0]) < net.widths[0]
        ):
            return f"needs invertible layers, layer {i} is singular or nearly so"
    return None


def white(net: LinearNetwork, task: Task) -> str | None:
    """S = I and Π = I."""
    for name, matrix in (("E[xxᵀ]", task.input_cov), ("the noise covariance", task.noise_cov)):
        if np.abs(matrix - np.eye(len(matrix))).max() > 1e-12:
            return f"needs white data: {name} is not the identity"
    return None


def balanced(net: LinearNetwork, task: Task) -> str | None:
    """W_{i+1}ᵀ W_{i+1} = W_i W_iᵀ."""
    for i, (lower, upper) in enumerate(zip(net.weights, net.weights[1:], strict=False), 1):
        gap, size = (
            float(np.linalg.norm(upper.T @ upper - lower @ lower.T)),
            float(np.linalg.norm(lower)) ** 2,
        )
        if gap > 1e-12 * max(size, 1e-300):
            return f"needs balanced layers: layers {i} and {i + 1} differ by {gap / size:.1e}"
    return None


def aligned(net: LinearNetwork, task: Task) -> str | None:
    """The total weight and the teacher share singular vectors, and every mode is positive."""
    total, teacher = net.total, task.teacher
    left, values, right = np.linalg.svd(total, full_matrices=False)
    modes = left.T @ teacher @ right.T
    rest = np.linalg.norm(modes - np.diag(np.diag(modes))) + np.linalg.norm(teacher - left @ modes @ right)
    if rest > 1e-10 * np.linalg.norm(teacher):
        return "needs a total weight and a teacher with the same singular vectors"
    return None if values[-1] > 1e-6 * values[0] else "needs positive modes at the start"


def error_left(net: LinearNetwork, task: Task) -> str | None:
    """The network is not at the optimum already."""
    size = np.linalg.norm(residual(net, task))
    scale = np.linalg.norm(np.linalg.solve(task.noise_factor, task.moments(net.has_biases).target))
    return None if size > 1e-10 * scale else "needs an error: the network is already at the optimum"


def small(net: LinearNetwork, task: Task) -> str | None:
    """The dense Jacobian is affordable."""
    if affordable(net, task):
        return None
    return f"needs a dense Jacobian, too large for {net.n_parameters} parameters"


def at_most(parameters: int) -> Condition:
    """Return the condition that the network is small enough for an integrator."""

    def few(net: LinearNetwork, task: Task) -> str | None:
        if net.n_parameters <= parameters:
            return None
        return f"needs at most {parameters} parameters for the integrator, has {net.n_parameters}"

    return few
