"""Where do two flows of one classifier go on separable data, and at which speed does each margin grow? Statement C8.

Eight samples in the plane, logistic loss, deep linear classifiers of one, two and three layers from one predictor w(0).
Left the data, with the samples that decide each limit and the two boundaries (a). The layers are integrated: under
natural flow all depths follow one path, which settles on the line t u* + offset of the linear program; under gradient
flow each depth has a path of its own, and all bend towards the maximum margin (b). On the right the margins under
natural flow, integrated in the state q = e^t σ(−m), and their lines t(1 + slack) + a·offset: two grow like t, the
others faster (c).
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from scipy.special import expit, log_expit

import linnat as ln
from figures._common import (
    BLACK,
    BLUE,
    DASHES,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    VERMILLION,
    Array,
    Data,
    claim,
    label_panels,
    publish,
)

STATEMENTS = ("C8",)

X = np.array(
    [[0.7, 0.9], [0.6, 3.0], [2.6, 2.8], [-2.8, -1.8], [-1.9, -2.3], [-1.5, -2.8], [-0.2, -2.1], [1.7, -3.0]]
)
LABELS = np.array([1, 1, 1, -1, -1, -1, -1, -1])
ROWS = LABELS[:, None] * X
START = np.array([-2.0, 1.0])
DEPTHS = (1, 2, 3)
MARKS = np.array([2.0, 4.0, 6.0, 8.0])
LENGTH = 200.0  # of the gradient paths; the first 24 are drawn
DRAWN = 24.0


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return both limits, the paths of all depths under both flows, and margins over time."""
    program, best = ln.separable.limit_program(X, LABELS, START), ln.separable.maximum_margin(X, LABELS)
    times = np.concatenate([np.linspace(0, 8, 41), [10.0, 12.0, 14.0]])
    lengths = np.append(np.linspace(0, DRAWN, 13 if quick else 61), LENGTH)
    return {
        "limit": program.direction,
        "offset": program.offset,
        "active": program.active.astype(float),
        "slack": program.slack,
        "value": np.array(program.value),
        "widest": best.direction,
        "support": best.support.astype(float),
        "times": times,
        "natural": np.array([natural_path(depth, times) for depth in DEPTHS]),
        "predicted": ln.geodesics.predictor(times, X, (LABELS + 1) / 2, START),
        "gradient": np.array([gradient_path(depth, lengths) for depth in DEPTHS]),
        "margins": margins(times),
    }


def network(depth: int) -> ln.LinearNetwork:
    """Return a balanced network with the total weight w(0)."""
    return ln.LinearNetwork.balanced(START[None, :], depth, width=2)


def natural_path(depth: int, times: Array) -> Array:
    """Integrate the layers under natural flow; return total weights (T, 2).

    The Fisher matrix of the classifier is the input moment of the task, and the error is the velocity of the function.
    """
    net = network(depth)

    def slope(_: float, vector: Array) -> Array:
        state = net.replace_layers(ln.unflatten(vector, net))
        log_wrong = log_expit(-ROWS @ state.total[0])
        weights = np.exp(log_wrong - log_wrong.max())
        fisher = (ROWS * (weights * expit(ROWS @ state.total[0]))[:, None]).T @ ROWS
        velocity = np.linalg.solve(fisher, ROWS.T @ weights)
        task = ln.Task(state.total + velocity, 0.5 * (fisher + fisher.T))
        return -ln.flatten(ln.natural_gradient(state, task))

    run = solve_ivp(slope, (0, times[-1]), ln.flatten(net.layers), "DOP853", times, rtol=1e-10, atol=1e-11)
    return totals(net, run)


def gradient_path(depth: int, lengths: Array) -> Array:
    """Integrate the layers under gradient flow, by the length of the path of w; return total weights (S, 2)."""
    net = network(depth)

    def slope(_: float, vector: Array) -> Array:
        state = net.replace_layers(ln.unflatten(vector, net))
        log_wrong = log_expit(-ROWS @ state.total[0])
        downhill = ROWS.T @ np.exp(log_wrong - log_wrong.max())
        step = tuple(-g for g in ln.gradient(state, ln.Task(state.total + downhill)))
        return ln.flatten(step) / np.linalg.norm(ln.induced_change(state, step))

    run = solve_ivp(slope, (0, lengths[-1]), ln.flatten(net.layers), "LSODA", lengths, rtol=1e-7, atol=1e-8)
    return totals(net, run)


def totals(net: ln.LinearNetwork, run: object) -> Array:
    """Return the total weights along an integrated path."""
    if not run.success:
        raise RuntimeError(f"the integrator stopped: {run.message}")
    return np.array([net.replace_layers(ln.unflatten(v, net)).total[0] for v in run.y.T])


def margins(times: Array) -> Array:
    """Integrate d log q_n/dt = 1 − (1 − p_n) a_n·v with v from q alone; return margins (T, N)."""

    def slope(time: float, logs: Array) -> Array:
        weights = np.exp(logs)
        right = 1 - weights * np.exp(-time)
        velocity = np.linalg.solve((ROWS * (weights * right)[:, None]).T @ ROWS, ROWS.T @ weights)
        return 1 - right * (ROWS @ velocity)

    run = solve_ivp(slope, (0, times[-1]), log_expit(-ROWS @ START), "DOP853", times, rtol=1e-11, atol=1e-12)
    return times[:, None] - run.y.T + np.log1p(-np.exp(run.y.T - times[:, None]))


def check(data: Data) -> None:
    """Hold paths to C7 and to C8's line, gradient flow to the maximum margin, margins to their lines."""
    times, limit, widest = data["times"], data["limit"], data["widest"]
    line = times[:, None] * limit + data["offset"]
    claim("natural flow of 1, 2, 3 layers: apart", np.ptp(data["natural"], axis=0), at_most=1e-5)
    claim("and from the tilted minimum of C7", np.abs(data["natural"] - data["predicted"]), at_most=1e-5)
    late = times >= 14
    claim("off the line t u* + offset at t = 14", np.abs(data["natural"][:, late] - line[late]), at_most=2e-3)
    rows, least = ROWS, (ROWS @ limit).min()
    claim("least margin of u*", least, at_least=1 - 1e-9, at_most=1 + 1e-9)
    claim("value of the program against ⟨G_0, u*⟩",
          abs((expit(-rows @ START) @ (rows @ limit)) / len(rows) / data["value"] - 1), at_most=1e-9)  # fmt: skip
    claim("û is shorter: ‖û‖/‖u*‖", np.linalg.norm(widest) / np.linalg.norm(limit), at_most=0.95)
    claim("cosine between the limits", cosine(limit, widest), at_most=0.96)
    claim("û is feasible", (rows @ widest).min(), at_least=1 - 1e-9, at_most=1 + 1e-9)
    ends = data["gradient"][:, -1]
    turned = np.array([cosine(end, widest) - cosine(end, limit) for end in ends])
    claim("gradient flow ends nearer to û than to u*, in cosine", turned, at_least=0.2)
    claim("its cosine with û", [cosine(end, widest) for end in ends], at_least=0.98)
    claim(
        "paths of depths 1 and 3 apart", np.abs(data["gradient"][0] - data["gradient"][2]).max(), at_least=0.3
    )
    growth = (data["margins"][-1] - data["margins"][-2]) / (times[-1] - times[-2])
    claim("growth of margins against 1 + slack", np.abs(growth - 1 - data["slack"]), at_most=1e-3)
    claim("margins against their lines at t = 14",
          np.abs(data["margins"][-1] - ROWS @ line[-1]), at_most=5e-3)  # fmt: skip
    claim("margins against the integrated layers",
          np.abs(data["margins"] - data["natural"][0] @ ROWS.T), at_most=1e-5)  # fmt: skip


def cosine(one: Array, other: Array) -> float:
    """Return the cosine between two vectors."""
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def draw(data: Data) -> Figure:
    """Draw the data, the paths, the margins."""
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 3.7), width_ratios=(1, 1.05, 1))
    draw_data(axes[0], data)
    draw_paths(axes[1], data)
    draw_margins(axes[2], data)
    label_panels(axes)
    figure.suptitle(
        "On separable data natural flow solves a linear program, gradient flow maximises the margin"
    )
    return figure


def draw_data(axis: Axes, data: Data) -> None:
    """Draw samples, those that are active for each limit, and the boundaries."""
    for sign, marker, name in ((1, "o", "$y=+1$"), (-1, "D", "$y=-1$")):
        part = X[sign == LABELS]
        axis.plot(
            part[:, 0],
            part[:, 1],
            marker,
            color=BLACK,
            mfc=BLACK if sign > 0 else "white",
            ms=3.6,
            label=name,
        )
    for key, size, colour, style in (("active", 9, BLUE, "s"), ("support", 12.5, VERMILLION, "o")):
        part = X[data[key] > 0]
        axis.plot(part[:, 0], part[:, 1], style, ms=size, mfc="none", mec=colour, mew=1.1)
    reach = np.array([-4.0, 4.0])
    for key, colour, dash, name in (
        ("limit", BLUE, DASHES[0], "natural: $u^*\\cdot x=0$"),
        ("widest", VERMILLION, DASHES[1], r"gradient: $\hat u\cdot x=0$"),
    ):
        u = data[key] / np.linalg.norm(data[key])
        axis.plot(-u[1] * reach, u[0] * reach, color=colour, ls=dash, label=name)
    axis.plot([], [], "s", ms=6, mfc="none", mec=BLUE, mew=1.1, label="active for $u^*$")
    axis.plot([], [], "o", ms=7, mfc="none", mec=VERMILLION, mew=1.1, label="support vector")
    # Nearly square: an exact aspect would clip the label in this layout.
    axis.set(xlim=(-3.85, 3.85), ylim=(-3.9, 3.9), xlabel="$x_1$", ylabel="$x_2$")
    axis.set_title("data and boundaries")
    legend(axis)


def legend(axis: Axes) -> None:
    """Put the legend below the axis, where it hides nothing."""
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=7)


def draw_paths(axis: Axes, data: Data) -> None:
    """Draw total weights under both flows."""
    shown = data["times"] <= 14
    at = np.searchsorted(data["times"], MARKS)
    for key, colour, name, side in (("limit", BLUE, "$u^*$", -16), ("widest", VERMILLION, r"$\hat u$", 8)):
        u = data[key] / np.linalg.norm(data[key])
        axis.plot(*np.outer(u, [0, 40]), color=colour, lw=0.6, ls=DASHES[2])
        axis.annotate(name, 20 * u, xytext=(side, -3), textcoords="offset points", color=colour)
    axis.plot(*data["natural"][0][shown].T, color=BLUE, lw=1.2)
    for depth, marker, size in zip(DEPTHS, MARKERS, (7.5, 5.2, 3.0), strict=False):
        path = data["natural"][depth - 1]
        axis.plot(*path[at].T, marker, mec=BLUE, mfc="white" if depth < 3 else BLUE, ms=size, mew=0.9,
                  label=f"natural, {depth} layer" + "s" * (depth > 1) + ", $t=2,4,6,8$" * (depth == 1))  # fmt: skip
    for depth, colour, dash in zip(DEPTHS, (VERMILLION, ORANGE, PURPLE), DASHES, strict=False):
        axis.plot(
            *data["gradient"][depth - 1][:-1].T,
            color=colour,
            ls=dash,
            label=f"gradient, {depth} layer" + "s" * (depth > 1),
        )
    axis.plot(*START, "X", color=BLACK, ms=5, label="$w(0)$")
    axis.set(xlabel="$w_1$", ylabel="$w_2$", xlim=(-11.5, 16.5), ylim=(-1, 26))
    axis.set_title("paths of the predictor")
    legend(axis)


def draw_margins(axis: Axes, data: Data) -> None:
    """Draw margins and their lines."""
    times = data["times"]
    for n in np.argsort(data["active"]):
        active = data["active"][n] > 0
        axis.plot(times, data["margins"][:, n], color=BLUE if active else GREEN, lw=1.6 if active else 1.0)
        line = times * (1 + data["slack"][n]) + ROWS[n] @ data["offset"]
        axis.plot(times, line, color=BLACK, ls=DASHES[2], lw=0.9)
    axis.plot([], [], color=BLUE, lw=1.6, label="active: slope 1")
    axis.plot([], [], color=GREEN, lw=1.0, label="slack $s_n$: slope $1+s_n$")
    axis.plot([], [], color=BLACK, ls=DASHES[2], lw=0.9, label="line of the program")
    axis.axhline(0, color=GREY, lw=0.6)
    axis.set(xlabel="time $t$", ylabel="margin $m_n(t)$", xlim=(0, 8), ylim=(-4, 30))
    axis.set_title("margins, natural flow")
    legend(axis)
