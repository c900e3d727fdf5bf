"""When does a deep network leave the law of one layer, and when has its loss no mean? Statement D3, L ≥ 2.

Square chains in the layerwise gauge. The gap between mean loss and the law of one layer at time t = kη, over η, for
n = 2 and L = 2, from replicates that share their samples with one layer: it tends to the derived limit as η → 0 (a),
in first order (b: the gap itself at t = 1 against η). Scalar chains with one sample in a step: the share of 400,000
losses above x at step 4, with the slope 1/(2L(L−1)) of the derived tail (c); the running mean of those losses over
replicates, which settles nowhere for L ≥ 2, and their median, which does (d).
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import linnat as ln
from figures._common import BLACK, DASHES, GREY, MARKERS, SERIES, Array, Data, claim, label_panels, publish

STATEMENTS = ("D3",)

TIMES = np.array([0.5, 1.0, 1.5, 2.0])
HALVES = (4, 8, 16, 32)  # steps until t = 0.5: η = 1/8 … 1/64
BATCH = 8
DEPTHS = (1, 2, 3)
ETA, LAST = 0.6, 4
online = ln.online


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return gaps to the law with errors and limits, and losses of scalar chains."""
    count, wild = (2000, 50_000) if quick else (20_000, 400_000)
    return {"count": np.array(count), "wild": np.array(wild), **gaps(count), **tails(wild)}


def gaps(count: int) -> dict[str, Array]:
    """Return (E ℓ − law)/η at the times for each η, by differences of runs on the same samples."""
    net = ln.LinearNetwork([np.array([[1.0, 0.3], [-0.2, 0.8]]), np.array([[0.9, -0.1], [0.4, 1.1]])])
    task = ln.Task(net.total @ np.array([[1.8, 0.2], [0.0, 1.4]]))
    shallow = ln.LinearNetwork([net.total])
    values, errors, left = [], [], 0
    for seed, half in enumerate(HALVES):
        eta, record = 0.5 / half, (TIMES * 2 * half).astype(int)
        both = [
            online.simulate(
                one, task, eta, BATCH, int(record[-1]), count, record=record, within=(0.02, 50.0), rng=seed
            )
            for one in (net, shallow)
        ]
        gap = online.mean_and_error(both[0].losses - both[1].losses)
        values.append(gap.value / eta)
        errors.append(gap.error / eta)
        left += int((both[0].stopped >= 0).sum())
    grid = np.linspace(0, TIMES[-1], 41)
    return {
        "etas": 0.5 / np.array(HALVES),
        "gaps": np.array(values),
        "gap_errors": np.array(errors),
        "left": np.array(left),
        "grid": grid,
        "limit": online.deep_deviation(grid, net, task, BATCH),
        "limit_at_times": online.deep_deviation(TIMES, net, task, BATCH),
    }


def tails(count: int) -> dict[str, Array]:
    """Return quantiles, tail exponents, running means and medians of losses at step `LAST`."""
    levels = 1 - np.geomspace(1.0, 10 / count, 60)
    sizes = np.unique(np.geomspace(100, count, 80).astype(int))
    quantiles, exponents, errors, means, medians, heavy = [], [], [], [], [], []
    for depth in DEPTHS:
        net = ln.LinearNetwork([[[0.25]]] + [[[1.0]]] * (depth - 1))
        losses = online.simulate(net, ln.Task([[1.0]]), ETA, 1, LAST, count, record=LAST, rng=depth).losses[0]
        quantiles.append(np.quantile(losses, levels))
        found = online.tail_exponent(losses, count // 400)
        exponents.append(found.value)
        errors.append(found.error)
        means.append(np.cumsum(losses)[sizes - 1] / sizes)
        medians.append([np.median(losses[:size]) for size in sizes])
        top = np.sort(losses)[-max(10, count // 10_000) :]
        heavy.append(top.sum() / losses.sum())
    return {
        "levels": levels,
        "sizes": sizes,
        "quantiles": np.array(quantiles),
        "exponents": np.array(exponents),
        "exponent_errors": np.array(errors),
        "tail_laws": np.array([online.tail_law(depth) for depth in DEPTHS[1:]]),
        "running_means": np.array(means),
        "running_medians": np.array(medians),
        "heavy": np.array(heavy),
        "law": np.array(online.online_loss(LAST, 0.5 * 0.75**2, ETA, 1, 1, 1)[-1]),
    }


def check(data: Data) -> None:
    """Hold gaps to the limit with a first-order remainder, exponents to their law, means to no value."""
    claim("replicates that left the region", data["left"], at_most=0)
    off = np.abs(data["gaps"] - data["limit_at_times"])
    claim("gap/η at the least η: distance to the limit, in standard errors and a share of the largest η's",
          off[-1] / (5 * data["gap_errors"][-1] + 0.3 * off[0]), at_most=1.0)  # fmt: skip
    slope = np.polyfit(np.log(data["etas"]), np.log(np.abs(data["etas"] * data["gaps"][:, 1])), 1)[0]
    claim("order of the gap at t = 1", slope, at_least=0.85, at_most=1.2)
    claim(
        "limit over the error of the gaps",
        np.abs(data["limit_at_times"]) / data["gap_errors"][-1],
        at_least=3.0,
    )
    ratios = data["exponents"][1:] / data["tail_laws"]
    claim("tail exponents against 1/(2L(L−1))", ratios, at_least=0.9, at_most=1.1)
    claim("the law itself, L = 2 and 3", np.abs(data["tail_laws"] * [4, 12] - 1), at_most=1e-12)
    claim(
        "standard error of the exponents, relative", data["exponent_errors"] / data["exponents"], at_most=0.1
    )
    claim("one layer: exponent (its tail is no power)", data["exponents"][0], at_least=1.0)
    claim("share of the sum that one loss in 10,000 makes, L ≥ 2", data["heavy"][1:], at_least=0.99)
    claim("one layer: running mean against the law", data["running_means"][0, -1] / data["law"], at_least=0.9,
          at_most=1.1)  # fmt: skip
    spread = data["running_means"][1:].max(axis=1) / data["running_means"][1:, 0]
    claim("L ≥ 2: running means rise by a factor of", spread, at_least=1e3)
    settled = data["running_medians"][:, -20:] / data["running_medians"][:, -1:]
    claim("medians over the last of them", settled, at_least=0.9, at_most=1.1)


def draw(data: Data) -> Figure:
    """Draw four panels."""
    figure, axes = plt.subplots(2, 2, figsize=(6.2, 4.3))
    gap, order, tail, mean = axes.ravel()
    gap.plot(data["grid"], data["limit"], color=BLACK, label=r"limit $\eta\to0$")
    order.loglog(
        data["etas"],
        data["etas"] * abs(data["limit_at_times"][1]),
        color=BLACK,
        label=r"limit $\times\,\eta$",
    )
    order.errorbar(data["etas"], data["etas"] * np.abs(data["gaps"][:, 1]), 2 * data["etas"] * data["gap_errors"][:, 1],
                   fmt="o", color=SERIES[0], mfc="white", ms=4.5, capsize=2, label="replicates")  # fmt: skip
    for k in range(len(HALVES)):
        gap.errorbar(TIMES, data["gaps"][k], 2 * data["gap_errors"][k], fmt=MARKERS[k], color=SERIES[k], mfc="white",
                     ms=4.5, capsize=2, label=rf"$\eta=1/{2 * HALVES[k]}$")  # fmt: skip
    gap.axhline(0, color=GREY, lw=0.6)
    gap.set(xlabel=r"time $t=k\eta$", ylabel=r"(mean loss $-$ law) $/\,\eta$")
    gap.set_title("deviation from one layer, $L=2$")
    gap.legend(loc="lower right", fontsize=6.5, borderaxespad=0.1, labelspacing=0.25)
    order.set(xlabel=r"step size $\eta$", ylabel="|mean loss − law| at $t=1$")
    order.set_title("it is of first order")
    order.set_xticks(data["etas"], [f"1/{round(1 / eta)}" for eta in data["etas"]])
    order.minorticks_off()
    order.set_yticks([3e-4, 1e-3, 2e-3], ["0.0003", "0.001", "0.002"])
    order.legend(loc="upper left")
    draw_tails(data, tail, mean)
    label_panels(axes)
    figure.suptitle("Deep chains: near the law of one layer while $W$ stays invertible, and without a mean")
    return figure


def draw_tails(data: Data, tail: Axes, mean: Axes) -> None:
    """Draw shares above x, running means and medians."""
    for k, depth in enumerate(DEPTHS):
        colour, dash = SERIES[k], DASHES[k]
        tail.loglog(data["quantiles"][k], 1 - data["levels"], color=colour, ls=dash, label=rf"$L={depth}$")
        mean.loglog(
            data["sizes"], data["running_means"][k], color=colour, ls=dash, label=rf"mean, $L={depth}$"
        )
        mean.loglog(data["sizes"], data["running_medians"][k], color=colour, lw=0.8)
    for k, law in enumerate(data["tail_laws"]):
        start = data["quantiles"][k + 1, 30]
        grid = np.geomspace(start, data["quantiles"][k + 1, -1] * 10, 5)
        shift = 3.0 * (1 - data["levels"][30])
        tail.loglog(grid, shift * (grid / start) ** -law, color=GREY, lw=0.8)
        place = grid[3 - 2 * k], shift * (grid[3 - 2 * k] / start) ** -law
        words = rf"slope $-1/{round(1 / law)}$"
        tail.annotate(words, place, xytext=(3, 4), textcoords="offset points", color=GREY, fontsize=7)
    tail.set(xlabel="loss $x$", ylabel="share of losses above $x$", ylim=(8 / data["wild"], 2))
    tail.set_xlim(1e-3, None)
    tail.set_title(f"tails at step {LAST}, $n=1$")
    tail.legend(loc="upper right", bbox_to_anchor=(1.02, 1.08))
    mean.set(xlabel="replicates", ylabel=f"loss at step {LAST}")
    mean.set_title("means settle nowhere (thin: medians)")
    mean.legend(loc="upper left", fontsize=7)
