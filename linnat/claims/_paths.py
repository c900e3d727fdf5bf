"""Where do integrated flows go? Layer weights moved by SciPy's integrators, of which C1–C6 say the outcome.

The velocity is a dense solve by definition where that is cheap, otherwise the natural gradient (itself checked by N2,
X9): what is tested here is what the layers multiply out to and where they are, of which no velocity knows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from linnat._checks import Array
from linnat.claims._conditions import geometry
from linnat.claims._core import CONSTANT, Case
from linnat.claims._oracles import whitened
from linnat.dense.flow import integrate
from linnat.dense.natural import natural_gradient as dense_natural_gradient
from linnat.exact.flow import breakdown_time
from linnat.exact.natural import natural_gradient
from linnat.exact.network import Direction, LinearNetwork
from linnat.exact.task import Task

RTOL = 1e-9
DENSE = 40  # parameters
MAX_PARAMETERS = 1200
MAX_CONDITION = 1e6


class Path(NamedTuple):
    """An integrated flow.

    Attributes
    ----------
    times : array (T,)
    layers : tuple of arrays (T, n_i, m_i)
    """

    times: Array
    layers: tuple[Array, ...]

    def state(self, k: int, net: LinearNetwork) -> LinearNetwork:
        """Return the network at the k-th time."""
        return net.replace_layers([layer[k] for layer in self.layers])


@lru_cache(maxsize=8)
def natural_path(net: LinearNetwork, task: Task, gauge: str, end: float) -> Path:
    """Integrate the natural flow of the layers up to a time."""
    times = end * np.array([0.2, 0.6, 1.0])

    def ascent(state: LinearNetwork) -> Direction:
        if net.n_parameters <= DENSE and not net.has_biases:
            return dense_natural_gradient(state, task, gauge)
        return natural_gradient(state, task, gauge)

    scale = max(float(np.abs(layer).max()) for layer in net.layers)
    return Path(times, integrate(net, ascent, times, rtol=RTOL, atol=RTOL * 1e-2 * scale))


def horizon(net: LinearNetwork, task: Task) -> float:
    """Return a time to integrate to: 1, or well before the layerwise flow breaks."""
    return float(min(1.0, 0.7 * float(breakdown_time(net, task))))


def integrable(net: LinearNetwork, task: Task) -> bool:
    """Whether an integrator is cheap and accurate enough to be an oracle."""
    return net.n_parameters <= MAX_PARAMETERS and geometry(net, task).sides <= MAX_CONDITION


def steady(net: LinearNetwork, task: Task) -> bool:
    """Whether no rank is below what the widths allow: elsewhere the layerwise velocity is singular at the start."""
    g = geometry(net, task)
    rank, before = g.rank, []
    for layer in net.layers:
        rank = min(rank, layer.shape[1])
        before.append(rank)
    rank, after = net.widths[-1], []
    for width in reversed(net.widths[1:]):
        rank = min(rank, width)
        after.append(rank)
    return g.before == tuple(before) and g.after == tuple(after[::-1])


def path_bound(case: Case, power: float = 1.0) -> float:
    """Return constant × tolerance of the integrator × size × (κ(B̃)κ(Ã))^p."""
    condition = geometry(case.net, case.task).sides
    factor = max(RTOL, float(np.finfo(case.net.dtype).eps)) * sum(case.net.widths)
    return float(CONSTANT * factor * condition**power)


def whitened_total(case: Case, state: LinearNetwork) -> Array:
    """Return C⁻¹ W F of a state."""
    return whitened(state, case.task, state.layers)


def crossing(net: LinearNetwork, task: Task, latest: float) -> float:
    """Integrate N1's velocity by plain solves until W is almost singular, and extrapolate; infinite if it never is.

    Square networks without biases. The determinant of W is a smooth function of time up to the break and beyond, so a
    polynomial through five points close to it gives its zero.
    """
    depth, shape = net.depth, net.weights[0].shape

    def layers_of(theta: Array) -> Array:
        return theta.reshape(depth, *shape)

    def total_of(theta: Array) -> Array:
        total = np.eye(shape[0])
        for weight in layers_of(theta):
            total = weight @ total
        return total

    def rate(_: float, theta: Array) -> Array:
        weights, error = layers_of(theta), task.linear_teacher - total_of(theta)
        below = [np.eye(shape[0])]
        for weight in weights[:-1]:
            below.append(weight @ below[-1])
        above, steps = np.eye(shape[0]), []
        for weight, product in zip(weights[::-1], below[::-1], strict=True):
            steps.append(np.linalg.solve(product.T, np.linalg.solve(above, error).T).T / depth)
            above = above @ weight
        return np.stack(steps[::-1]).ravel()

    start = np.stack(net.weights).ravel()
    smallest = float(np.linalg.svd(net.total, compute_uv=False)[-1])
    for share in (1e-2, 1e-3, 1e-4, 1e-5):

        def nearly_singular(_: float, theta: Array, level: float = share * smallest) -> float:
            return float(np.linalg.svd(total_of(theta), compute_uv=False)[-1]) - level

        nearly_singular.terminal = True  # type: ignore[attr-defined]
        options = {"rtol": 1e-11, "atol": 1e-13, "events": nearly_singular, "dense_output": True}
        run = solve_ivp(rate, (0.0, latest), start, "DOP853", **options)
        if not run.t_events[0].size:
            return np.inf
        last = float(run.t_events[0][0])
        steps = np.linspace(0.0, -0.02, 5)
        roots = np.roots(
            np.polyfit(steps, [np.linalg.det(total_of(run.sol(last * (1 + step)))) for step in steps], 4)
        )
        ahead = roots[np.argmin(np.abs(roots))]
        if abs(ahead) < 5e-3:
            break
    return last * (1 + float(ahead.real))
