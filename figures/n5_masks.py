"""Why do block approximations of the Fisher matrix work, and when do they not? Statement N5.

Rate α at which the total weight moves along the error when only some blocks of F are kept, measured on
random networks (marks) against ⌈L/(2k+1)⌉ (lines) for bands |i−j| ≤ k; a mask of seven layers with α = −5;
the loss under the flow of each; and a bottleneck, where the block-diagonal step is not a multiple of the
natural gradient.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.integrate import solve_ivp

import linnat as ln
from figures._common import BLACK, BLUE, GREEN, ORANGE, VERMILLION, Array, Data, claim, label_panels, publish

STATEMENTS = ("N5",)

BANDS = (0, 1, 2)
UPHILL = ((1, 2), (1, 3), (2, 4), (2, 7), (3, 4), (3, 7), (4, 5), (4, 6))
SIZE = 3
# (colour, marker, line, name) of full, block-diagonal, tridiagonal, |i−j| ≤ 2 and the uphill mask.
FULL = (BLACK, "o", "-", "all blocks")
LOOKS = (
    (BLUE, "s", (0, (5, 1.5)), "block-diagonal"),
    (GREEN, "^", (0, (1.2, 1.2)), "block-tridiagonal"),
    (ORANGE, "D", (0, (5, 1.5, 1.2, 1.5)), r"$|i-j|\leq2$"),
)
WRONG = (VERMILLION, "X", (0, (8, 2)), "mask of panel b")


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def band(depth: int, width: int) -> Array:
    """Return the mask |i − j| ≤ width."""
    place = np.arange(depth)
    return np.asarray(np.abs(place[:, None] - place) <= width, dtype=float)


def uphill() -> Array:
    """Return the mask of seven layers with α = −5."""
    mask = np.eye(7)
    for i, j in UPHILL:
        mask[i - 1, j - 1] = mask[j - 1, i - 1] = 1.0
    return mask


def measure(quick: bool) -> dict[str, Array]:
    """Return measured rates, the paths of the loss, and block rates in a bottleneck."""
    depths = np.arange(1, 8 if quick else 13)
    rates = np.array([[measured_rate(int(depth), band(int(depth), k)) for depth in depths] for k in BANDS])
    full = np.array([measured_rate(int(depth), None) for depth in depths])
    times = np.linspace(0, 1.2, 13 if quick else 25)
    masks = [None, *(band(7, k) for k in BANDS), uphill()]
    alphas = np.array([measured_rate(7, mask) for mask in masks])
    losses = np.array([loss_path(mask, times) for mask in masks])
    return {"depths": depths, "bands": np.array(BANDS), "rates": rates, "full": full, "times": times, "alphas": alphas,
            "losses": losses, "uphill": uphill(), "bottleneck": bottleneck_rates()}  # fmt: skip


def problem(depth: int) -> tuple[ln.LinearNetwork, ln.Task]:
    """Return a random square network and a task whose flow meets no singular weight."""
    rng = np.random.default_rng(depth)
    net = ln.LinearNetwork([np.eye(SIZE) + 0.25 * rng.standard_normal((SIZE, SIZE)) for _ in range(depth)])
    goal = net.total @ (np.eye(SIZE) + 0.3 * rng.standard_normal((SIZE, SIZE)))
    return net, ln.Task(goal)


def measured_rate(depth: int, mask: Array | None) -> Array:
    """Return the rate along the error and the part of dW across it, relative, from the dense masked system."""
    net, task = problem(depth)
    keep = np.ones((depth, depth)) if mask is None else mask
    sizes = [SIZE * SIZE] * depth
    matrix = ln.fisher(net, task) * np.repeat(np.repeat(keep, sizes, 0), sizes, 1)
    solution = np.linalg.lstsq(matrix, ln.flatten(ln.gradient(net, task)), rcond=1e-9)[0]
    change = -ln.induced_change(net, ln.unflatten(solution, net))
    error = task.teacher - net.total
    rate = float((change * error).sum() / (error**2).sum())
    return np.array([rate, np.linalg.norm(change - rate * error) / np.linalg.norm(error)])


def loss_path(mask: Array | None, times: Array) -> Array:
    """Return ℓ(t)/ℓ(0) of the flow along the masked natural gradient, seven layers."""
    net, task = problem(7)

    def slope(_: float, vector: Array) -> Array:
        state = net.replace_layers(ln.unflatten(vector, net))
        return -ln.flatten(ln.natural_gradient(state, task, mask=mask))

    start = ln.flatten(net.layers)
    # Uphill the error grows like e^{5t}: a third of the time fills the picture.
    end = times <= (0.41 if mask is not None and mask.sum() == uphill().sum() else np.inf)
    result = solve_ivp(slope, (0.0, float(times[end][-1])), start, t_eval=times[end], rtol=1e-8, atol=1e-10)
    states = [net.replace_layers(ln.unflatten(v, net)) for v in result.y.T]
    path = np.full(len(times), np.nan)
    path[: len(states)] = [float(ln.excess_loss(state, task) / ln.excess_loss(net, task)) for state in states]
    return path


def bottleneck_rates() -> Array:
    """Return columns (l − k + 1, rate of the block (k, l) under the block-diagonal mask) in widths 5-3-4-2-5."""
    widths = (5, 3, 4, 2, 5)
    net, task = (
        ln.LinearNetwork.random(widths, rng=1),
        ln.Task(np.random.default_rng(2).standard_normal((5, 5))),
    )
    change = -ln.induced_change(net, ln.natural_gradient(net, task, mask="block-diagonal"))
    error = task.teacher - net.total
    outputs = [np.zeros((5, 5)), *(projector(b) for b in net.after)]
    inputs = [*(projector(a.T) for a in net.before), np.zeros((5, 5))]
    rows = []
    for k in range(1, net.depth + 1):
        for last in range(k, net.depth + 1):
            block = (outputs[k] - outputs[k - 1]) @ error @ (inputs[last - 1] - inputs[last])
            size = float((block**2).sum())
            if size > 1e-12:
                rows.append((last - k + 1, float((change * block).sum()) / size))
    return np.array(rows)


def projector(matrix: Array) -> Array:
    """Return the orthogonal projector on the range of a matrix, by an SVD."""
    left, values, _ = np.linalg.svd(matrix)
    basis = left[:, : int((values > 1e-10 * values[0]).sum())]
    return np.asarray(basis @ basis.T)


def check(data: Data) -> None:
    """Hold the measured rates to ⌈L/(2k+1)⌉ and −5, the losses to e^{−2αt}."""
    depths = data["depths"]
    for k, found in zip(data["bands"], data["rates"], strict=True):
        claim(
            f"|i−j| ≤ {k}: rate against ⌈L/(2k+1)⌉",
            np.abs(found[:, 0] - np.ceil(depths / (2 * k + 1))),
            at_most=1e-7,
        )
    claim("all blocks: rate against 1", np.abs(data["full"][:, 0] - 1), at_most=1e-7)
    claim("dW across E, relative", data["rates"][..., 1], at_most=1e-7)
    claim("uphill mask: rate against −5", np.abs(data["alphas"][-1, 0] + 5), at_most=1e-7)
    law = np.exp(-2 * data["alphas"][:, :1] * data["times"])
    drawn = np.isfinite(data["losses"])
    claim("integrated loss against e^{−2αt}, relative", np.abs(data["losses"] / law - 1)[drawn], at_most=1e-4)
    claim("points of the integrated loss", drawn.sum(axis=1), at_least=3)
    spans, rates = data["bottleneck"].T
    claim("bottleneck: block (k,l) moves at rate l−k+1", np.abs(rates - spans), at_most=1e-9)
    claim("bottleneck: different rates in one step", len(set(spans)), at_least=2)


def draw(data: Data) -> Figure:
    """Draw rates, the uphill mask, losses and the bottleneck."""
    figure, axes = plt.subplots(1, 4, figsize=(7.0, 2.75), width_ratios=[1.25, 0.75, 1.1, 1.0])
    _rates(axes[0], data)
    _mask(axes[1], data["uphill"])
    _losses(axes[2], data)
    _bottleneck(axes[3], data["bottleneck"])
    label_panels(axes)
    handles, names = axes[0].get_legend_handles_labels()
    handles.append(Line2D([], [], color=WRONG[0], marker=WRONG[1], ls=WRONG[2], mfc="white", lw=1.2))
    figure.legend(handles, [*names, WRONG[3]], loc="outside lower center", ncols=5, columnspacing=1.6)
    figure.suptitle(
        r"With enough width, keeping blocks of $F$ only changes the speed $\alpha$; some masks go backwards"
    )
    return figure


def _rates(axis: Axes, data: Data) -> None:
    depths = data["depths"]
    looks = (FULL, *LOOKS)
    laws = [np.ones(len(depths)), *(np.ceil(depths / (2 * k + 1)) for k in data["bands"])]
    for law, found, (colour, marker, dash, name) in zip(
        laws, [data["full"], *data["rates"]], looks, strict=True
    ):
        axis.plot(
            depths, law, color=colour, ls=dash, marker=marker, mfc="white", label=name, lw=0.9, zorder=1
        )
        axis.plot(depths, found[:, 0], marker, color=colour, mfc="white", ms=4.5, zorder=2)
    axis.set(
        xlabel=r"depth $L$",
        ylabel=r"rate $\alpha$, $\dot W=\alpha(W^*-W)$",
        xticks=depths[::2],
        yticks=depths[::2],
    )
    axis.set_title(r"$\alpha=\lceil L/(2k+1)\rceil$")


def _mask(axis: Axes, mask: Array) -> None:
    axis.imshow(mask, cmap="Greys", vmin=0, vmax=1.6)
    for place in np.arange(len(mask) - 1) + 0.5:
        axis.axhline(place, color="white", lw=0.8)
        axis.axvline(place, color="white", lw=0.8)
    ticks = [0, 3, 6]
    axis.set(xticks=ticks, yticks=ticks, xticklabels=["1", "4", "7"], yticklabels=["1", "4", "7"])
    axis.set_xlabel(r"layer $j$")
    axis.set_ylabel(r"layer $i$", labelpad=1)
    axis.set_title(r"kept, $\alpha=-5$")
    for side in ("top", "right"):
        axis.spines[side].set_visible(True)


def _losses(axis: Axes, data: Data) -> None:
    for alpha, path, (colour, marker, dash, _) in zip(
        data["alphas"][:, 0], data["losses"], (FULL, *LOOKS, WRONG), strict=True
    ):
        law = np.exp(-2 * alpha * data["times"])
        shown = np.where(np.isfinite(path), law, np.nan)
        axis.semilogy(data["times"], shown, color=colour, ls=dash, lw=1.2)
        axis.semilogy(data["times"][::4], path[::4], marker, color=colour, mfc="white")
    axis.set(xlabel=r"time $t$", ylabel=r"loss $\ell(t)/\ell(0)$", ylim=(1e-4, 3e2), xlim=(-0.05, 1.25))
    axis.set_title(r"$L=7$: $e^{-2\alpha t}$")


def _bottleneck(axis: Axes, blocks: Array) -> None:
    spans, rates = blocks.T
    axis.axhline(1.0, color=BLACK, lw=1.0)
    axis.annotate("all blocks", (4.3, 1), xytext=(0, -3), textcoords="offset points", va="top", ha="right")
    axis.plot(spans, rates, LOOKS[0][1], color=BLUE, mfc="white")
    axis.set(xlim=(0.6, 4.4), ylim=(0, 4.4), xticks=[1, 2, 3, 4], yticks=[1, 2, 3, 4])
    axis.set(xlabel=r"layers, $l-k+1$", ylabel=r"rate of error block $(k,l)$")
    axis.set_title(r"bottleneck: no one $\alpha$")
