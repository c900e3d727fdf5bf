"""Do nonlinear networks follow the linear one under natural gradient flow, and where does that end? Statements C7, C8.

Kerekes, Mészáros and Huszár (2021) state that the trajectory of natural gradient does not depend on the
parametrisation, and that part of what holds for deep linear networks on separable data extends to nonlinear ones with
sufficient, finite over-parametrisation. Logistic loss, labels of a linear teacher in d = 4 dimensions, the Fisher
matrix of the training inputs, flows started from the same margins.

N = 4 ≤ d (a): margins of a deep linear, a tanh and a ReLU network against the closed form log((1 + e^{m(0)})e^t − 1).
N = 20 > d (b): the linear network's margins (closed form, C8) grow at rates of their own, those of the tanh network
all alike: the two kinds agree no longer. (c) N = 20, networks 4-h-1 with P = 6h + 1 parameters: largest distance of a
probability from the straight line y + e^{−t}(p(0) − y) over t ≤ 8; where P or the rank of the Jacobian is less than N,
the relative error of the velocity at the start instead (open marks). (d) Log-odds on new inputs: difference between
networks of two seeds with the same path on the training inputs, relative to their size. ReLU flows have corners in
which they slide: there steps of 0.02 are taken (midpoint rule), everywhere else an adaptive integrator.

Verdict: partly. For smooth units the agreement is exact, 1e-7, as soon as there are as many parameters as samples
(P/N = 1.25 of the widths tried), and gone below. ReLU networks leave the line at corners of the flow, by 0.16 at
the worst width; the distance falls as they get wider, to 0.002 at h = 512. With N > d it is the nonlinear
networks that agree among themselves, not with the linear one; and on inputs that are not in the Fisher matrix nothing
agrees at any width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.integrate import RK45

import linnat as ln
from figures._common import (
    BLACK,
    BLUE,
    DASHES,
    GREEN,
    GREY,
    MARKERS,
    VERMILLION,
    Array,
    Data,
    claim,
    decades,
    label_panels,
    publish,
)
from figures._experiments import verdict
from linnat.nonlinear import Network, passes

STATEMENTS = ("C7", "C8")

END, DIMENSIONS, SAMPLES, NEW = 8.0, 4, 20, 200
TANH, RELU = (1, 2, 3, 4, 6, 8, 16, 32), (2, 4, 8, 16, 32, 64, 128, 256, 512)
MOST_STEPS = (
    600  # of the adaptive integrator; where the Jacobian gets near lower rank they do not reach the end
)
CORNERS = 400  # steps of a ReLU flow
FULL = 1e-8  # error of the velocity below which the Jacobian has full row rank
Draws: TypeAlias = dict[str, Array]


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> Draws:
    """Return margins for few and many samples, distances from the lines by width, differences on new inputs."""
    rng = np.random.default_rng(0)
    x, new = rng.standard_normal((SAMPLES, DIMENSIONS)), rng.standard_normal((NEW, DIMENSIONS))
    signs = np.where(x @ [1.0, 0.5, 0.0, -0.4] > 0, 1.0, -1.0)
    marks = np.linspace(0.0, END, 17)
    few = slice(0, DIMENSIONS)
    result = {"marks": marks} | few_samples(x[few], signs[few], marks) | many_samples(x, signs, marks)
    seeds = 2 if quick else 5
    for unit, widths in (("tanh", TANH), ("relu", RELU)):
        chosen = tuple(h for h in widths if not quick or h in (2, 16, 128))
        rows = [[along_width(unit, h, s, x, signs, new) for s in range(seeds)] for h in chosen]
        result[f"{unit}_widths"] = np.array(chosen)
        result[f"{unit}_residuals"] = np.array([[run[0] for run in row] for row in rows])
        result[f"{unit}_distances"] = np.array([[run[1] for run in row] for row in rows])
        result[f"{unit}_reached"] = np.array([[run[2] for run in row] for row in rows])
        outputs = np.array([[run[3] for run in row] for row in rows])
        size = np.sqrt((outputs**2).mean(axis=(1, 2)))
        apart = np.sqrt(((outputs[:, :1] - outputs[:, 1:]) ** 2).mean(axis=2))
        result[f"{unit}_elsewhere"] = apart / size[:, None]
    return result


def few_samples(x: Array, signs: Array, marks: Array) -> Draws:
    """Return margins of a deep linear, a tanh and a ReLU network from one start, (3, T, N), and the closed form."""
    net = ln.LinearNetwork.random((DIMENSIONS, 5, 5, 1), rng=3)
    start = x @ net.total[0]
    model = ln.dense.exponential.network_model(net, x)
    y = (signs[:, None] + 1) / 2
    states = ln.dense.exponential.natural_flow(
        model, ln.flatten(net.layers), y, "bernoulli", marks, rtol=1e-8, atol=1e-10
    )
    found = [np.array([model.outputs(state)[:, 0] for state in states])]
    for unit in ("tanh", "relu"):
        nonlinear = Network((DIMENSIONS, 32, 1), unit, "bernoulli")
        theta = put_through(nonlinear, draw_start(nonlinear, 1), x, start)
        found.append(np.array([outputs_of(nonlinear, v, x) for v in flow(nonlinear, theta, x, signs, marks)]))
    return {
        "few": np.array(found) * signs,
        "few_lines": ln.geodesics.margins(marks, start * signs),
    }


def many_samples(x: Array, signs: Array, marks: Array) -> Draws:
    """Return margins of the linear network (closed form; integrated in three layers) and of a tanh network."""
    net = ln.LinearNetwork.random((DIMENSIONS, 5, 5, 1), rng=3)
    start = x @ net.total[0]
    y = (signs + 1) / 2
    line = ln.geodesics.predictor(marks, x, y, net.total[0]) @ x.T
    model = ln.dense.exponential.network_model(net, x)
    states = ln.dense.exponential.natural_flow(
        model, ln.flatten(net.layers), y[:, None], "bernoulli", marks, rtol=1e-8, atol=1e-10
    )
    smooth = Network((DIMENSIONS, 32, 1), "tanh", "bernoulli")
    theta = put_through(smooth, draw_start(smooth, 1), x, start)
    found = np.array([outputs_of(smooth, v, x) for v in flow(smooth, theta, x, signs, marks)])
    return {
        "many_linear": line * signs,
        "many_integrated": np.array([model.outputs(state)[:, 0] for state in states]) * signs,
        "many_tanh": found * signs,
        "many_lines": ln.geodesics.margins(marks, start * signs),
    }


def along_width(
    unit: str, h: int, seed: int, x: Array, signs: Array, new: Array
) -> tuple[float, float, float, Array]:
    """Return the velocity's error at the start, the largest distance from the lines and until when, new log-odds."""
    net = Network((DIMENSIONS, h, 1), unit, "bernoulli")
    theta = draw_start(net, seed)
    residual = velocity(net, theta, x, signs)[1]
    if residual > FULL:
        return residual, np.nan, 0.0, np.full(len(new), np.nan)
    times = np.linspace(0.0, END, 33)
    states = flow(net, theta, x, signs, times)
    margins = np.array([outputs_of(net, state, x) for state in states]) * signs
    reached = times[: len(states)]
    line = np.exp(-reached)[:, None] / (1 + np.exp(margins[0]))
    off = np.abs(1 / (1 + np.exp(margins)) - line)
    last = outputs_of(net, states[-1], new) if len(states) == len(times) else np.full(len(new), np.nan)
    return residual, float(off.max()), float(reached[-1]), last


def draw_start(net: Network, seed: int) -> Array:
    """Draw weights of variance 2/n and biases of variance one half in the hidden layer: corners lie everywhere."""
    rng = np.random.default_rng([seed, net.widths[1]])
    theta = np.zeros(net.n_parameters)
    for layer in net.layers(theta):
        layer[:, :-1] = rng.standard_normal(layer[:, :-1].shape) * np.sqrt(2 / (layer.shape[1] - 1))
    hidden = net.layers(theta)[0]
    hidden[:, -1] = rng.standard_normal(len(hidden)) * np.sqrt(0.5)
    return theta


def put_through(net: Network, theta: Array, x: Array, outputs: Array) -> Array:
    """Return parameters with the smallest change of the last layer that gives these outputs."""
    _, work = passes.prepare(net, theta, x)
    signals = np.column_stack([work.signals[-1], np.ones(len(x))])
    moved = theta.copy()
    net.layers(moved)[-1][0] += np.linalg.lstsq(signals, outputs - work.outputs[:, 0], rcond=None)[0]
    return moved


def outputs_of(net: Network, theta: Array, x: Array) -> Array:
    """Return the log-odds (N,)."""
    return np.asarray(passes.prepare(net, theta, x)[1].outputs[:, 0])


def velocity(net: Network, theta: Array, x: Array, signs: Array) -> tuple[Array, float]:
    """Return −F⁺∇ℓ of the exact Fisher matrix of x, and by how much the outputs' velocity misses the law, relatively.

    With F = (1/N) JᵀDJ, D = diag p(1 − p), it is the shortest minimum of ‖D^½(J v − D⁻¹(y − p))‖.
    """
    jacobian = passes.jacobian(net, theta, x)[:, 0]
    margins = np.clip(outputs_of(net, theta, x) * signs, -300, 300)
    root = 0.5 / np.cosh(margins / 2)
    rows, wanted = root[:, None] * jacobian, signs * np.exp(-margins / 2)
    if len(theta) >= len(x):
        basis, corner = np.linalg.qr(rows.T)
        pivots = np.abs(np.diagonal(corner))
        if pivots.min() > 1e-10 * pivots.max():
            step = basis @ scipy.linalg.solve_triangular(corner, wanted, trans=1)
            return step, float(np.linalg.norm(rows @ step - wanted) / np.linalg.norm(wanted))
    step = np.linalg.lstsq(rows, wanted, rcond=1e-10)[0]
    return step, float(np.linalg.norm(rows @ step - wanted) / np.linalg.norm(wanted))


def flow(
    net: Network, theta: Array, x: Array, signs: Array, times: Array, steps: int = CORNERS
) -> list[Array]:
    """Return the states of natural gradient flow at equidistant times."""
    if net.activations[0] == "relu":
        each, states = steps // (len(times) - 1), [theta]
        step = (times[1] - times[0]) / each
        for _ in times[1:]:
            for _ in range(each):
                middle = theta + 0.5 * step * velocity(net, theta, x, signs)[0]
                theta = theta + step * velocity(net, middle, x, signs)[0]
            states.append(theta)
        return states
    solver = RK45(lambda _, v: velocity(net, v, x, signs)[0], 0.0, theta, END, rtol=1e-7, atol=1e-9)
    states = [theta]
    for _ in range(MOST_STEPS):
        solver.step()
        if solver.status == "failed":
            break
        path = solver.dense_output()
        while len(states) < len(times) and times[len(states)] <= solver.t:
            states.append(path(times[len(states)]))
        if len(states) == len(times):
            break
    return states


def check(data: Data) -> None:
    """Hold the paper's statement where it holds, and show where it ends."""
    lines = data["few_lines"]
    off = np.abs(data["few"] - lines).max(axis=(1, 2))
    claim("N ≤ d: margins against the closed form, deep linear and tanh", off[:2], at_most=1e-5)
    claim("N ≤ d: margins against the closed form, ReLU", off[2], at_most=0.5)
    inside = np.abs(data["many_integrated"] - data["many_linear"])
    claim("N > d: three linear layers against the linear predictor", inside, at_most=1e-4)
    claim(
        "N > d: margins of tanh against the closed form",
        np.abs(data["many_tanh"] - data["many_lines"]),
        at_most=1e-5,
    )
    growth = data["many_linear"][-1] - data["many_linear"][-3]
    claim(
        "N > d: fastest over slowest growth of a margin, linear network",
        growth.max() / growth.min(),
        at_least=1.5,
    )
    parameters = 6 * data["tanh_widths"] + 1
    enough = parameters >= SAMPLES
    claim("tanh, P ≥ N: distance from the lines", data["tanh_distances"][enough], at_most=1e-6)
    claim(
        "tanh, P ≥ 1.8 N: time reached",
        data["tanh_reached"][parameters >= 1.8 * SAMPLES],
        at_least=END,
        at_most=END,
    )
    claim("tanh, P < N: error of the velocity", data["tanh_residuals"][~enough], at_least=1e-2, at_most=1.0)
    apart = np.concatenate([data["tanh_elsewhere"][parameters >= 1.8 * SAMPLES], data["relu_elsewhere"][-1:]])
    claim("new inputs: relative difference between seeds", apart.mean(axis=1), at_least=0.1, at_most=3.0)
    middle = np.median(data["relu_distances"], axis=1)
    worst = float(middle[np.isfinite(middle)].max())
    claim("ReLU: median distance from the lines, worst width", worst, at_least=0.03, at_most=1.0)
    claim("ReLU: median distance, widest network over the worst", middle[-1] / worst, at_most=0.5)
    verdict(
        "Kerekes et al. 2021",
        "partly",
        f"tanh within {np.nanmax(data['tanh_distances'][enough]):.1g} of the lines from P/N = "
        f"{parameters[enough].min() / SAMPLES:.3g} on; ReLU within {worst:.2g} at the worst width, "
        f"{middle[-1]:.1g} at h = {data['relu_widths'][-1]}; elsewhere seeds differ by {apart.mean():.2g} of the "
        "log-odds.",
    )


def draw(data: Data) -> Figure:
    """Draw margins, distances, differences."""
    figure, axes = plt.subplots(1, 4, figsize=(8.3, 2.9))
    _few(axes[0], data)
    _many(axes[1], data)
    _distances(axes[2], data)
    _elsewhere(axes[3], data)
    label_panels(axes)
    figure.suptitle(
        "Smooth networks with enough parameters follow natural flow's straight lines; ReLU networks nearly"
    )
    return figure


def _few(axis: Axes, data: Data) -> None:
    axis.plot(data["marks"], data["few_lines"], color=BLACK, lw=0.9)
    looks = (("deep linear", BLUE, 3.2), ("tanh", VERMILLION, 5.2), ("ReLU", GREEN, 7.0))
    for k, (name, colour, size) in enumerate(looks):
        lines = axis.plot(
            data["marks"][::2], data["few"][k][::2], MARKERS[k], color=colour, mfc="none", ms=size, mew=0.8
        )
        lines[0].set_label(name)
    axis.set(xlabel=r"time $t$", ylabel="margin")
    axis.set_title(rf"$N={data['few'].shape[2]}\leq d$")
    axis.legend(loc="upper left", fontsize=7)


def _many(axis: Axes, data: Data) -> None:
    axis.plot(data["marks"], data["many_linear"], color=BLUE, lw=0.8, ls=DASHES[1])
    axis.plot(data["marks"], data["many_lines"], color=BLACK, lw=0.8)
    axis.plot(
        data["marks"][::2], data["many_tanh"][::2], MARKERS[1], color=VERMILLION, mfc="none", ms=3, mew=0.6
    )
    axis.plot([], [], color=BLUE, ls=DASHES[1], lw=0.9, label="linear")
    axis.plot([], [], MARKERS[1], color=VERMILLION, mfc="none", ms=3, label="tanh")
    axis.set(xlabel=r"time $t$", ylabel="margin", ylim=(-4, 25))
    axis.set_title(rf"$N={data['many_tanh'].shape[1]}>d$")
    axis.legend(loc="upper left", fontsize=7)


def _distances(axis: Axes, data: Data) -> None:
    for unit, colour, marker in (("tanh", VERMILLION, MARKERS[1]), ("relu", GREEN, MARKERS[2])):
        ratio = (6 * data[f"{unit}_widths"] + 1) / SAMPLES
        for values, face in ((data[f"{unit}_distances"], colour), (data[f"{unit}_residuals"], "white")):
            shown = np.where(values > FULL, values, np.nan) if face == "white" else values
            middle, low, high = (np.array([f(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan
                                           for row in shown]) for f in (np.median, np.min, np.max))  # fmt: skip
            axis.errorbar(ratio, middle, (middle - low, high - middle), color=colour, marker=marker, ms=4, mfc=face,
                          ls="-" if face != "white" else "", lw=1.0, elinewidth=0.7)  # fmt: skip
        name = {"tanh": "tanh", "relu": "ReLU"}[unit]
        axis.plot([], [], color=colour, marker=marker, ms=4, label=name)
    axis.axvline(1.0, color=GREY, lw=0.8, ls=DASHES[1])
    axis.annotate("$P=N$", (1, 1), xycoords=("data", "axes fraction"), xytext=(3, -8), textcoords="offset points",
                  color=GREY, fontsize=7)  # fmt: skip
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="parameters / samples",
        ylabel="distance from the lines",
        ylim=(1e-10, 5),
    )
    decades(axis, 2)
    axis.set_title("where it begins")
    axis.legend(loc="center right", fontsize=7)


def _elsewhere(axis: Axes, data: Data) -> None:
    for unit, colour, marker, name in (
        ("tanh", VERMILLION, MARKERS[1], "tanh"),
        ("relu", GREEN, MARKERS[2], "ReLU"),
    ):
        ratio, values = (6 * data[f"{unit}_widths"] + 1) / SAMPLES, data[f"{unit}_elsewhere"]
        axis.errorbar(ratio, values.mean(axis=1), values.std(axis=1), color=colour, marker=marker, ms=4, lw=1.0,
                      elinewidth=0.7, label=name)  # fmt: skip
    axis.axhline(0.0, color=BLUE, ls=DASHES[1], lw=0.9, label="linear")
    axis.set(
        xscale="log", xlabel="parameters / samples", ylabel="difference of seeds, relative", ylim=(-0.1, None)
    )
    axis.set_title("on new inputs")
    axis.legend(loc="upper right", fontsize=7)
