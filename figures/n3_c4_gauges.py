"""What do two gauges of the natural gradient agree on, and what not? Statements N3, C4.

One network, one target, two solutions of F u = ∇ℓ: the layerwise gauge and the minimum-norm one. Both move
the total weight along the same line (a), through very different layer weights (b). The minimum-norm gauge
keeps the balance W_{i+1}ᵀW_{i+1} − W_iW_iᵀ of the start, as gradient flow and the damped natural gradient
do; the layerwise gauge, which is 1/L of the block-diagonal natural gradient, does not (c). All flows are
integrated, weight by weight.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.integrate import solve_ivp

import linnat as ln
from figures._common import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    VERMILLION,
    Array,
    Data,
    claim,
    decades,
    label_panels,
    publish,
)

STATEMENTS = ("N3", "C4")

WIDTHS = (3, 4, 4, 3)
DAMPING = 0.1
NAMES = ("layerwise", "minimum norm", rf"damped, $\lambda={DAMPING}$", "gradient flow")
LOOKS = (
    (BLUE, "-", "o"),
    (VERMILLION, (0, (5, 1.5)), "s"),
    (ORANGE, (0, (5, 1.5, 1.2, 1.5)), "D"),
    (GREEN, (0, (1.2, 1.2)), "^"),
)
ENTRIES = ((0, 0), (1, 2), (2, 1))
FLOOR = 1e-14

Direction: TypeAlias = tuple[Array, ...]
Flow: TypeAlias = Callable[[ln.LinearNetwork], Direction]


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return total weights, first layers, balance and speeds along four flows."""
    rng = np.random.default_rng(12)
    net = ln.LinearNetwork.random(WIDTHS, rng=rng)
    cov = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 0.4]])
    task = ln.Task(1.5 * rng.standard_normal((3, 3)), input_cov=cov)
    times = np.linspace(0, 4, 21 if quick else 81)
    flows: tuple[Flow, ...] = (
        lambda n: ln.natural_gradient(n, task),
        lambda n: ln.natural_gradient(n, task, gauge="minimum-norm"),
        lambda n: ln.natural_gradient(n, task, damping=DAMPING),
        lambda n: ln.gradient(n, task),
    )
    paths = [integrate(net, flow, times) for flow in flows]
    states = [state for path in paths[:2] for state in path]
    lengths = [[np.linalg.norm(ln.flatten(flow(state))) for flow in flows[:2]] for state in states]
    return {
        "times": times,
        "totals": np.array([[state.total for state in path] for path in paths]),
        "first_layers": np.array([[state.weights[0] for state in path] for path in paths]),
        "drift": np.array([drift(path) for path in paths]),
        "teacher": task.teacher,
        "lengths": np.array(lengths),
        "first_steps": np.array([flow(net)[0] for flow in flows[:2]]),
        "change": np.array([ln.induced_change(net, flow(net)) for flow in flows[:2]]),
    }


def integrate(net: ln.LinearNetwork, flow: Flow, times: Array) -> list[ln.LinearNetwork]:
    """Return the networks on the flow dθ/dt = −u."""

    def slope(_: float, vector: Array) -> Array:
        return -ln.flatten(flow(net.replace_layers(ln.unflatten(vector, net))))

    start, end = ln.flatten(net.layers), float(times[-1])
    result = solve_ivp(slope, (0.0, end), start, method="DOP853", t_eval=times, rtol=1e-11, atol=1e-13)
    if not result.success:
        raise RuntimeError(f"the integrator stopped: {result.message}")
    return [net.replace_layers(ln.unflatten(v, net)) for v in result.y.T]


def drift(path: list[ln.LinearNetwork]) -> Array:
    """Return ‖C(t) − C(0)‖ over time, C_i = W_{i+1}ᵀW_{i+1} − W_iW_iᵀ for all hidden layers."""
    levels = [ln.flow.balance(state) for state in path]
    pairs = [zip(level, levels[0], strict=True) for level in levels]
    return np.array([np.sqrt(sum(float(((c - c0) ** 2).sum()) for c, c0 in pair)) for pair in pairs])


def check(data: Data) -> None:
    """Hold both gauges to one dW, and the balance to C4."""
    law = data["teacher"] + np.exp(-data["times"])[:, None, None] * (data["totals"][0, 0] - data["teacher"])
    claim(
        "total weight of both gauges against W* + e^{−t}(W(0) − W*)",
        np.abs(data["totals"][:2] - law),
        at_most=1e-7,
    )
    size = np.abs(data["change"]).max()
    claim(
        "dW of the two gauges at the start, relative difference",
        np.abs(data["change"][0] - data["change"][1]) / size,
        at_most=1e-11,
    )
    steps = data["first_steps"]
    claim(
        "their first layers' steps, relative difference",
        np.linalg.norm(steps[0] - steps[1]) / np.linalg.norm(steps[1]),
        at_least=0.3,
    )
    claim("first layers at the end: ‖difference‖/‖W_1‖", difference(data), at_least=0.2)
    claim("balance kept: minimum norm, damped, gradient flow", data["drift"][1:], at_most=1e-7)
    claim("balance lost: layerwise", data["drift"][0, -1], at_least=0.3)
    claim(
        "layerwise step over minimum-norm step, on both paths",
        data["lengths"][:, 0] / data["lengths"][:, 1],
        at_least=1.0,
    )


def difference(data: Data) -> float:
    """Return how far the first layers of the two gauges are apart at the end, relative."""
    one, two = data["first_layers"][:2, -1]
    return float(np.linalg.norm(one - two) / np.linalg.norm(two))


def draw(data: Data) -> Figure:
    """Draw total weight, first layer, balance."""
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.9))
    for axis, key, name in ((axes[0], "totals", "W"), (axes[1], "first_layers", "W_1")):
        _entries(axis, data, key)
        axis.set(xlabel=r"time $t$", ylabel=rf"entries of ${name}(t)$", xlim=(-0.08, 4.08))
    axes[0].set_title("same total weight")
    axes[1].set_title("different layer weights")
    for drift_, (colour, dash, _), name in zip(data["drift"], LOOKS, NAMES, strict=True):
        axes[2].semilogy(data["times"][1:], np.maximum(drift_[1:], FLOOR), color=colour, ls=dash, label=name)
    axes[2].set(
        xlabel=r"time $t$", ylabel=r"drift of balance $\|C(t)-C(0)\|$", ylim=(1e-15, 30), xlim=(0, 4.08)
    )
    axes[2].set_title("only one loses its balance")
    decades(axes[2], 3)
    handles = [Line2D([], [], color=c, ls=d, marker=m if i < 2 else None, mfc="white", label=n)
               for i, ((c, d, m), n) in enumerate(zip(LOOKS, NAMES, strict=True))]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    label_panels(axes)
    figure.suptitle("Two natural gradients: one path of the function, two of the weights")
    return figure


def _entries(axis: Axes, data: Data, key: str) -> None:
    for gauge in (0, 1):
        colour, dash, marker = LOOKS[gauge]
        for row, column in ENTRIES:
            values = data[key][gauge, :, row, column]
            axis.plot(data["times"], values, ls=dash, color=colour, lw=1.2)
            axis.plot(
                data["times"][4 * gauge :: 8],
                values[4 * gauge :: 8],
                marker,
                color=colour,
                mfc="white",
                ms=3.6,
            )
    for row, column in ENTRIES:
        axis.plot(0, data[key][0, 0, row, column], ".", color=BLACK, ms=6, zorder=4)
