"""How does depth change the speed of learning? Statements C1, C5.

Ten deep linear networks, depths 1 … 10, with the same total weight at the start and the same target. Under
natural gradient flow the excess loss is e^{−2t} ℓ(0) for every depth: ten curves on one. Under gradient flow a
network of depth L ≥ 3 waits on a plateau, t ~ s₀^{−(1−2/L)} / ((L−2) ŝ). The start is balanced and aligned with
the target and the input white, so that the whole gradient flow is known in closed form (C5). Lines are closed
forms; marks are integrations of all the weights, parameter by parameter.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp

import linnat as ln
from figures._common import BLUE, Array, Data, claim, decades, publish, rotation

STATEMENTS = ("C1", "C5")

SIZE = 4
START = 1e-6
GOAL = 1.0
DEPTHS = np.arange(1, 11)
FLOOR = 1e-6
FIRST, LAST = 0.06, 2e4


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return losses over time: both flows in closed form and integrated."""
    rng = np.random.default_rng(1)
    left, right = rotation(SIZE, rng), rotation(SIZE, rng)
    task = ln.Task(left * GOAL @ right.T)
    nets = [ln.LinearNetwork.balanced(left * START @ right.T, int(depth)) for depth in DEPTHS]
    whole = 0.5 * SIZE * (GOAL - START) ** 2
    times = np.geomspace(FIRST, 10.0, 201)
    marks = np.geomspace(0.1, 6.5, 12)
    checked = DEPTHS[[0, 2, 9]] if quick else DEPTHS
    # Marks where the gradient's loss goes through these heights.
    heights = np.geomspace(0.9, 2e-6, 8)
    spots = np.array([crossings(heights, int(depth)) for depth in checked])
    ladder = np.concatenate([np.linspace(1, 0.5, 61)[:-1], np.geomspace(0.5, FLOOR, 121)])
    pairs = list(zip(checked, spots, strict=True))
    return {
        "depths": DEPTHS,
        "times": times,
        "natural": np.array([total_loss(ln.flow.natural_total(net, task, times), task) for net in nets])
        / whole,
        "ladder": ladder,
        "gradient": np.array([crossings(ladder, int(depth)) for depth in DEPTHS]),
        "marks": marks,
        "natural_integrated": np.array([integrate(net, task, marks, natural=True) for net in nets]) / whole,
        "gradient_depths": checked,
        "spots": spots,
        "heights": heights,
        "gradient_integrated": np.array([integrate(nets[d - 1], task, t, natural=False) for d, t in pairs])
        / whole,
        "half_times": np.array([crossings(np.array(0.5), int(depth)) for depth in DEPTHS]),
        "plateaus": np.array([float(ln.modes.plateau_time(START, GOAL, int(depth))) for depth in DEPTHS[2:]]),
    }


def crossings(heights: Array, depth: int) -> Array:
    """Return when the loss of gradient flow, relative to its start, passes given heights: C5 itself, S = I."""
    return np.asarray(ln.modes.mode_time(GOAL - np.sqrt(heights) * (GOAL - START), START, GOAL, depth))


def total_loss(totals: Array, task: ln.Task) -> Array:
    """Return ½‖W* − W(t)‖², S = I and Π = I."""
    return np.asarray(0.5 * ((task.teacher - totals) ** 2).sum(axis=(-1, -2)))


def integrate(net: ln.LinearNetwork, task: ln.Task, times: Array, *, natural: bool) -> Array:
    """Return the excess loss of an integrated flow, every weight by itself."""

    def slope(_: float, vector: Array) -> Array:
        state = net.replace_layers(ln.unflatten(vector, net))
        return -ln.flatten(ln.natural_gradient(state, task) if natural else ln.gradient(state, task))

    method = "DOP853" if natural else "LSODA"
    options = {
        "method": method,
        "t_eval": times,
        "rtol": 1e-12 if method == "LSODA" else 1e-10,
        "atol": 1e-14,
    }
    result = solve_ivp(slope, (0.0, float(times[-1])), ln.flatten(net.layers), **options)
    if not result.success:
        raise RuntimeError(f"the integrator stopped: {result.message}")
    states = [net.replace_layers(ln.unflatten(v, net)) for v in result.y.T]
    return np.array([float(ln.excess_loss(state, task)) for state in states])


def check(data: Data) -> None:
    """Hold every natural curve to e^{−2t}, and the gradient curves to the integrator and the plateau."""
    law, marks = np.exp(-2 * data["times"]), np.exp(-2 * data["marks"])
    claim("natural flow, depths 1…10: |ℓ(t)/ℓ(0) − e^{−2t}|", np.abs(data["natural"] - law), at_most=1e-12)
    error = np.abs(data["natural_integrated"] / marks - 1)
    claim("natural flow integrated: ℓ(t)/ℓ(0) against e^{−2t}, relative", error, at_most=1e-4)
    error = np.abs(data["gradient_integrated"] / data["heights"] - 1)
    claim(
        "gradient flow: integrated loss where the closed form passes given heights, relative",
        error,
        at_most=1e-3,
    )
    ratio = data["half_times"] / (0.5 * np.log(2))
    claim(
        "depth 1, white input: gradient flow takes as long as natural flow, |ratio − 1|",
        np.abs(ratio[0] - 1),
        at_most=1e-9,
    )
    claim(
        "each layer delays gradient flow: ratio of half times, depth L+1 to L",
        ratio[1:] / ratio[:-1],
        at_least=1.05,
    )
    claim("depth 10: time to half the loss, gradient over natural flow", ratio[-1], at_least=3e3)
    error = np.abs(data["half_times"][2:] / data["plateaus"] - 1)
    claim("depth ≥ 3: half time against s₀^{−(1−2/L)}/((L−2)ŝ), relative", error, at_most=0.1)


def draw(data: Data) -> Figure:
    """Draw all curves on one axis."""
    figure, axis = plt.subplots(figsize=(6.4, 3.5))
    _gradient(axis, data)
    _natural(axis, data)
    axis.set(xscale="log", yscale="log", xlim=(FIRST, LAST), ylim=(FLOOR, 6))
    decades(axis)
    axis.spines["left"].set_bounds(FLOOR, 1)
    axis.set(xlabel=r"time $t$", ylabel=r"excess loss $\ell(t)\,/\,\ell(0)$")
    figure.suptitle("Natural gradient flow has one speed; gradient flow waits longer with every layer")
    return figure


def _gradient(axis: Axes, data: Data) -> None:
    """Draw depth 2 … 10 from light to dark; depth 1 lies on the natural curve."""
    shades = plt.get_cmap("copper_r")(np.linspace(0.2, 1.0, len(DEPTHS)))
    for depth, times, half, shade in zip(
        data["depths"], data["gradient"], data["half_times"], shades, strict=True
    ):
        if depth > 1:
            axis.plot(times.clip(FIRST / 2), data["ladder"], color=shade, lw=1.4)
            axis.text(
                half * (1.1 if depth == 10 else 1), 1.3, str(depth), color=shade, ha="center", va="bottom"
            )
    for depth, spots, found in zip(
        data["gradient_depths"], data["spots"], data["gradient_integrated"], strict=True
    ):
        if depth > 1:
            axis.plot(spots, found, "s", ms=3, color=shades[depth - 1], mfc="white", mew=0.8)
    axis.text(5.8, 1.3, r"depth $L=$", ha="right", va="bottom")
    axis.text(32, 3e-4, "gradient flow", color=shades[3], ha="center", va="bottom", fontsize=10)
    axis.text(32, 2.2e-4, r"from $s_0=10^{-6}\,\hat s$", color=shades[3], ha="center", va="top")


def _natural(axis: Axes, data: Data) -> None:
    axis.plot(data["times"], np.exp(-2 * data["times"]), color=BLUE, lw=4, alpha=0.35, solid_capstyle="butt")
    axis.plot(data["times"], data["natural"].T, color=BLUE, lw=1.2)
    spots = np.broadcast_to(data["marks"], data["natural_integrated"].shape)
    axis.plot(spots.T, data["natural_integrated"].T, "o", color=BLUE, mfc="white", mew=1.1, ms=4.5)
    axis.text(
        0.085,
        3e-4,
        "natural gradient flow,\nall depths 1 … 10:",
        color=BLUE,
        va="bottom",
        fontsize=10,
        linespacing=1.3,
    )
    axis.text(0.085, 2.2e-4, r"$\ell(t)=e^{-2t}\,\ell(0)$", color=BLUE, va="top", fontsize=12)
