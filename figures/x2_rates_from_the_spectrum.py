"""How fast does a bottleneck learn? Statement X2.

A 4-2-4 bottleneck and deeper networks from the same total weight, integrated in two gauges (marks), against the flow on
the matrices of rank 2 (line): the loss above its infimum, beside C1's e^{−2t} of a wide network (a). From a start close
to the smallest of the three equilibria of rank one, the loss rests at every saddle, at the level and with the slope out
of it that the singular values give (b). Linear autoencoders with white noise find principal components at the rate
1 − √(λ_{r+1}/λ_r): the slope of log ‖W̃ − W̃_∞‖ against that number, for digits, 10,000 images of MNIST, several r (c).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp

import linnat as ln
from figures._common import (
    BLACK,
    BLUE,
    DASHES,
    GREY,
    MARKERS,
    SERIES,
    Array,
    Data,
    claim,
    label_panels,
    publish,
)
from linnat.data import load_data

STATEMENTS = ("X2",)

SHAPES = (
    ((4, 2, 4), "layerwise"),
    ((4, 3, 2, 4), "layerwise"),
    ((4, 2, 3, 4, 4), "layerwise"),
    ((4, 2, 4), "minimum-norm"),
)
SADDLES = np.array([3.0, 2.0, 1.0])
SETS = ("digits", "MNIST")
SLOWEST = 0.06  # rates below it take minutes
ROWS = 10_000


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return excess losses of networks and of the flow, a path along saddles, rates of autoencoders."""
    rng = np.random.default_rng(4)
    left, right = (np.linalg.qr(rng.standard_normal((4, 4)))[0] for _ in range(2))
    values = np.array([3.0, 2.4, 1.6, 1.0])
    task = ln.Task((left * values) @ right)
    start = 0.5 * rng.standard_normal((4, 2)), rng.standard_normal((2, 4))
    times, marks = np.linspace(0, 14, 281), np.linspace(0, 14, 15)
    path = ln.bottleneck.natural_path(ln.LinearNetwork(list(start[::-1])), task, times, 1e-10)
    layers = []
    for widths, gauge in SHAPES:
        net = network(widths, start, rng)
        layers.append(totals(net, task, gauge, marks))
    floor = 0.5 * float((values[2:] ** 2).sum())
    found = [0.5 * ((w - task.teacher) ** 2).sum(axis=(-1, -2)) - floor for w in layers]
    clock = np.linspace(0, 45, 451)
    tilt = np.array([[1e-12], [1e-5], [1.0]])
    steps = ln.bottleneck.rank_one_flow(0.2 * tilt, tilt, np.diag(SADDLES), clock)
    rates = [autoencoder_rates(name, quick) for name in SETS[: 1 if quick else 2]]
    which, ranks, predicted, measured = (np.concatenate(part) for part in zip(*rates, strict=True))
    return {
        "times": times,
        "flow": path.excess - floor,
        "marks": marks,
        "networks": np.array(found),
        "wide": path.excess[0] * np.exp(-2 * times),
        "spectrum": values,
        "clock": clock,
        "saddles": steps.excess,
        "predicted": predicted,
        "measured": measured,
        "which": which,
        "ranks": ranks,
    }


def totals(net: ln.LinearNetwork, task: ln.Task, gauge: str, times: Array) -> Array:
    """Return what the layers, moved along −u, multiply out to."""

    def slope(_: float, vector: Array) -> Array:
        state = net.replace_layers(ln.unflatten(vector, net))
        return -ln.flatten(ln.natural_gradient(state, task, gauge=gauge))

    run = solve_ivp(slope, (0.0, times[-1]), ln.flatten(net.layers), "DOP853", times, rtol=1e-9, atol=1e-11)
    if not run.success:
        raise RuntimeError(f"the integrator stopped: {run.message}")
    return np.array([net.replace_layers(ln.unflatten(v, net)).total for v in run.y.T])


def network(
    widths: tuple[int, ...], start: tuple[Array, Array], rng: np.random.Generator
) -> ln.LinearNetwork:
    """Return layers of these widths whose product is that of the two factors of rank 2."""
    narrow = widths.index(2)
    # Between the ends random layers, which the outermost ones undo.
    layers = [rng.standard_normal((b, a)) / np.sqrt(a) for a, b in pairwise(widths)]
    below, above = layers[1:narrow], layers[narrow:-1]
    down, up = product(below, 4), product(above, 2)
    # Corrections of generic layers: no rank drops.
    first = (
        layers[0] + np.linalg.lstsq(down, start[1] - down @ layers[0], rcond=None)[0] if below else start[1]
    )
    last = (
        layers[-1] + np.linalg.lstsq(up.T, (start[0] - layers[-1] @ up).T, rcond=None)[0].T
        if above
        else start[0]
    )
    return ln.LinearNetwork([first, *below, *above, last])


def product(layers: list[Array], size: int) -> Array:
    """Multiply layers."""
    total = np.eye(layers[0].shape[1] if layers else size)
    for layer in layers:
        total = layer @ total
    return total


def autoencoder_rates(name: str, quick: bool) -> tuple[Array, Array, Array, Array]:
    """Return, for several r, the rate that the spectrum predicts and the slope of the measured approach."""
    try:
        x = load_data(name.lower()).x[:ROWS].astype(np.float64)
    except ln.InputError as missing:
        print(f"    {name} skipped: {missing}")
        return (np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0))
    task = ln.Task.from_data(x, x)
    left, values, right = np.linalg.svd(task.plain.target, full_matrices=False)
    rows = []
    for rank in range(1, 5 if quick else 9):
        rate = float(ln.bottleneck.rate(values, rank))
        if rate < SLOWEST:
            continue
        # Late enough for the slowest mode to be alone: from there over one and a half of its time constants.
        gaps = np.sort((1 - values[rank : rank + 9] / values[:rank, None]).ravel())
        begin = min(4 / float(gaps[1] - gaps[0]) + 2 / rate, 14 / rate)
        net = ln.LinearNetwork.random((x.shape[1], rank, x.shape[1]), rng=rank)
        path = ln.bottleneck.natural_path(net, task, [begin, begin + 1.5 / rate], 1e-8)
        best = (left[:, :rank] * values[:rank]) @ right[:rank]
        away = [
            np.linalg.norm((u * s) @ v.T - best)
            for u, s, v in zip(path.left, path.values, path.right, strict=True)
        ]
        rows.append((SETS.index(name), rank, rate, np.log(away[0] / away[1]) * rate / 1.5))
    which, ranks, predicted, measured = np.array(rows).T
    return which.astype(int), ranks.astype(int), predicted, measured


def check(data: Data) -> None:
    """Hold networks to the flow, the flow to its rates, saddles to their levels, slopes to the spectrum."""
    at = np.searchsorted(data["times"], data["marks"])
    gaps = np.abs(data["networks"] - data["flow"][at]) / data["flow"][0]
    claim("excess loss of integrated networks against the flow, relative to the start", gaps, at_most=1e-7)
    values = data["spectrum"]
    slope = np.diff(np.log(data["flow"][-21:])) / np.diff(data["times"][-21:])
    claim(
        "final slope over −2 (1 − s_3/s_2)",
        slope[-1] / (-2 * (1 - values[2] / values[1])),
        at_least=0.97,
        at_most=1.03,
    )
    claim(
        "loss of a wide network at the end over that of the bottleneck",
        data["wide"][-1] / data["flow"][-1],
        at_most=1e-2,
    )
    levels = 0.5 * ((SADDLES**2).sum() - SADDLES[::-1] ** 2)
    near = np.abs(data["saddles"][:, None] - levels).min(axis=0)
    claim("closest approach to the three equilibria of rank one", near, at_most=2e-3)
    claim("loss along saddles never rises", np.diff(data["saddles"]), at_most=1e-9)
    ratio = data["measured"] / data["predicted"]
    claim("measured over predicted rate of autoencoders", ratio, at_least=0.95, at_most=1.05)
    claim("number of ranks", len(ratio), at_least=3)


def draw(data: Data) -> Figure:
    """Draw losses, a path along saddles, rates."""
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.9))
    axes[0].semilogy(data["times"], data["wide"], color=GREY, ls=DASHES[1], label="no bottleneck")
    axes[0].semilogy(data["times"], data["flow"], color=BLACK, label="rank-2 flow")
    for k, (widths, gauge) in enumerate(SHAPES):
        name = "-".join(map(str, widths)) + (", min. norm" if gauge == "minimum-norm" else "")
        axes[0].semilogy(data["marks"][k % 2 :: 2], data["networks"][k][k % 2 :: 2], MARKERS[k], color=SERIES[k],
                         mfc="white", ms=4.6 - 0.5 * k, label=name)  # fmt: skip
    axes[0].set(xlabel=r"time $t$", ylabel="loss above its infimum", ylim=(1e-5, 3e2))
    axes[0].set_title("any depth, any gauge")
    axes[0].legend(loc="upper right", fontsize=6.5, handlelength=1.8)
    axes[1].plot(data["clock"], data["saddles"], color=BLUE)
    for value in SADDLES:
        level = 0.5 * float((SADDLES**2).sum() - value**2)
        axes[1].axhline(level, color=GREY, lw=0.6)
        axes[1].annotate(rf"keeps $s={value:g}$", (45, level), xytext=(-2, 3), textcoords="offset points",
                         ha="right", color=GREY, fontsize=7)  # fmt: skip
    axes[1].set(xlabel=r"time $t$", ylabel=r"$\|\tilde W^*-\tilde W\|^2/2$", xlim=(0, 45), ylim=(2, 7.2))
    axes[1].set_title("equilibria are subsets")
    draw_rates(axes[2], data)
    label_panels(axes)
    figure.suptitle("Through a bottleneck the natural gradient learns at rates that the spectrum sets")
    return figure


def draw_rates(axis: Axes, data: Data) -> None:
    """Draw measured against predicted rates."""
    ends = 0.05, 1.0
    axis.loglog(ends, ends, color=BLACK, ls=DASHES[1], lw=0.9)
    for k, name in enumerate(SETS):
        part = data["which"] == k
        if part.any():
            axis.loglog(
                data["predicted"][part],
                data["measured"][part],
                MARKERS[k],
                color=SERIES[k],
                mfc="white",
                label=name,
            )
    for x, y, rank in zip(data["predicted"], data["measured"], data["ranks"], strict=True):
        if rank == 1:
            axis.annotate("$r=1$", (x, y), xytext=(-5, 2), textcoords="offset points", ha="right", fontsize=7)
    axis.set(xlabel=r"$1-\sqrt{\lambda_{r+1}/\lambda_r}$", ylabel="measured rate", xlim=ends, ylim=ends)
    ticks = (0.05, 0.1, 0.2, 0.5, 1.0)
    axis.set_xticks(ticks, [f"{v:g}" for v in ticks])
    axis.set_yticks(ticks, [f"{v:g}" for v in ticks])
    axis.minorticks_off()
    axis.set_title("autoencoders")
    axis.legend(loc="lower right")
