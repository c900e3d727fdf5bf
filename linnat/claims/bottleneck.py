"""Where does natural gradient flow go through a bottleneck? Statement X2."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from linnat._checks import Array, ConditionError
from linnat.claims._conditions import determined, every
from linnat.claims._core import Case, Claim, Measure, Measures, relative
from linnat.claims._oracles import whitened
from linnat.claims._paths import integrable, natural_path, path_bound, steady
from linnat.claims.ladder import layer, task_for
from linnat.exact import bottleneck
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task

END = 0.5
TOLERANCE = 1e-10
MAX_PARAMETERS = 120
MAX_TANGENT = 60  # dimensions of the manifold for differences

Totals = Callable[[Case, Array], Array]


def _claimed(case: Case, times: Array) -> Array:
    """Return W̃ (T, n_L, ρ), with biases that of the centred inputs."""
    path = bottleneck.natural_path(case.net, case.task, times, TOLERANCE)
    product: Array = (path.left * path.values[:, None, :]) @ np.swapaxes(path.right, -1, -2)
    return product


def _line(case: Case, times: Array) -> Array:
    """Return C1's line, as if nothing were in the way."""
    start, goal = _seen(case, case.net), bottleneck_goal(case)
    line: Array = goal + np.exp(-times)[:, None, None] * (start - goal)
    return line


def bottleneck_goal(case: Case) -> Array:
    """Return W̃*, with biases that of the centred inputs."""
    moments = case.task.moments(case.net.has_biases)
    return np.asarray(case.task.whiten(moments.target)[:, int(case.net.has_biases) :])


def _seen(case: Case, state: LinearNetwork) -> Array:
    """Return what the layers of a state multiply out to."""
    return np.asarray(whitened(state, case.task, state.layers)[:, int(case.net.has_biases) :])


def check_bottleneck(case: Case, candidate: Totals = _claimed) -> Measures:
    """Compare paths with integrated layers in both gauges; eigenvalues with differences of the projected velocity."""
    measures = []
    for gauge in ("layerwise", "minimum-norm") if case.net.n_parameters <= 30 else ("layerwise",):
        path = natural_path(case.net, case.task, gauge, END)
        claimed = candidate(case, path.times)
        states = np.stack([_seen(case, path.state(k, case.net)) for k in range(len(path.times))])
        words = f"integrated layers multiply out to the path, {gauge}"
        measures.append(Measure(words, relative(claimed, states), path_bound(case)))
    if candidate is _claimed:
        measures += _equilibrium(case)
    return measures


def _equilibrium(case: Case) -> Measures:
    """Approach the best approximation, and hold its linearisation to differences."""
    goal = bottleneck_goal(case)
    rank = bottleneck.width(case.net, case.task)
    left, values, right = np.linalg.svd(goal)
    rows, columns = goal.shape
    if rank * (rows + columns - rank) > MAX_TANGENT or values[rank - 1] < 1e-3 * values[0]:
        return []
    measures = []
    for kept in (list(range(rank)), list(range(1, rank + 1))):
        if values[kept[-1]] < 1e-3 * values[0]:
            continue
        claimed = bottleneck.linearised_eigenvalues(values, kept, (rows, columns))
        found = _differences(goal, left[:, kept], values[kept], right[kept])
        growth = float(values[0] / values[kept[-1]])
        # Central differences with step eps^⅓: eps^⅔ in the units of the smallest kept singular value.
        reach = 30 * np.finfo(float).eps ** (2 / 3) * rows * columns * growth**3
        gap = float(np.abs(claimed - found).max()) / growth
        name = "best" if kept[0] == 0 else "second"
        measures.append(Measure(f"eigenvalues at the {name} equilibrium", gap, reach))
    return measures


def _differences(goal: Array, left: Array, values: Array, right: Array) -> Array:
    """Return the eigenvalues of the derivative of W ↦ P_W (W* − W), from central differences along the manifold."""
    state, step = (left * values) @ right, float(np.finfo(float).eps ** (1 / 3) * values[-1])
    rank, outer, inner = len(values), np.linalg.svd(left)[0], np.linalg.svd(right)[2]
    basis = [
        np.outer(outer[:, a], inner[b])
        for a in range(len(outer))
        for b in range(len(inner))
        if a < rank or b < rank
    ]
    columns = []
    for direction in basis:
        up, down = (_velocity(goal, state + sign * step * direction, rank) for sign in (1, -1))
        change = (up - down) / (2 * step)
        columns.append([float(np.vdot(change, other)) for other in basis])
    matrix = np.array(columns)
    return np.linalg.eigvalsh(0.5 * (matrix + matrix.T))[::-1]


def _velocity(goal: Array, near: Array, rank: int) -> Array:
    """Return P_W (W* − W) at the matrix W of rank r closest to a given one."""
    left, values, right = np.linalg.svd(near, full_matrices=False)
    u, v = left[:, :rank], right[:rank]
    error = goal - (u * values[:rank]) @ v
    velocity: Array = u @ (u.T @ error) + (error @ v.T) @ v - u @ (u.T @ error @ v.T) @ v
    return velocity


def _narrow(net: LinearNetwork, task: Task) -> str | None:
    if net.depth == 1:
        return "needs a bottleneck: a hidden layer"
    try:
        bottleneck.width(net, task)
    except ConditionError as unmet:
        return f"needs a bottleneck of full rank: {str(unmet).partition('found ')[2].partition('.')[0]}"
    if net.n_parameters > MAX_PARAMETERS or not integrable(net, task) or not steady(net, task):
        return "needs an integrator that is cheap and accurate: few parameters, layers of generic rank"
    return None


def _broken(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(2, 4, 3.0, rng), layer(4, 2, 3.0, rng)])
    return check_bottleneck(Case(net, task_for(net, rng), rng), _line)


CLAIMS = (
    Claim(
        "X2",
        "Bottlenecks",
        "through width r the flow is projected on the matrices of rank r; the best attracts at rate 1 − s_{r+1}/s_r",
        r"\dot{\tilde W} = P_{\tilde W}(\tilde W^* - \tilde W),\quad "
        r"\lambda \in \{-1 \pm s_j/s_a,\ -1\},\quad \mathrm{rate}\ 1 - s_{r+1}/s_r",
        "new, by Koch and Lubich 2007",
        "at every layer r(B̃_i) = r or r(Ã_i) = r, r = r(W̃) < min(n_L, ρ); generic weights: least hidden width r",
        "bottleneck.natural_total",
        "layers moved by DOP853 in both gauges; central differences of the projected velocity",
        "tolerance of the integrator × κ(B̃)κ(Ã), p = 1; differences: eps^⅔ (s_1/s_r)³",
        check_bottleneck,
        every(determined, _narrow),
        _broken,
        "C1's line in place of the path on the manifold",
    ),
)
