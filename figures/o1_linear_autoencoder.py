"""Does online natural gradient follow the exact one in a deep linear autoencoder, and beat SGD? C1, X2, N5, O1.

Bernacchia, Lengyel and Hennequin (2018) state that the loss of a deep linear network falls exponentially under
natural gradient, at one rate whatever the depth, and that the same formula with running covariances, online natural
gradient, beats stochastic gradient descent. Linear autoencoders of MNIST with biases, where the exact curve is known.
No hidden layer narrower than the data (a, b; pixels averaged over 2 × 2): the excess loss is e^{−2t} of its start
(C1). With a bottleneck 784-100-30-100-784 (c, d; second moment of rank 712): the flow on the matrices of rank 30
(X2), above the floor that centred principal components leave. Exact steps of η = 0.2 take the closed form N2 (one
layer would fall like (1 − η)^{2k}); "blocks" drops what lies between layers (N5), which is what the online formula
estimates. Online natural gradient, with new inverses at every update, and SGD see minibatches of 500; its rate and
damping, or SGD's rate and momentum, are the best of six settings each by short runs; rates fall to a tenth (in a and
b online: 0.1 to 0.03, damping 1e-4); bands span three seeds.

Verdict: partly. Without a bottleneck all is as stated: rate 2 at depths 2, 4 and 6, and minibatches come to a
hundredth of the loss in the law's time, before damping slows them. In the bottleneck online natural gradient is not
the natural gradient, as N5 foretells (the blocks alone have 14 times the loss of exact steps at t = 4); yet it needs
1/29 of SGD's updates and 0.3 of its processor time for SGD's last loss, and ends at a fifth of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    decades,
    label_panels,
    publish,
)
from figures._experiments import Spent, descend, images, reach, rows_of, verdict
from linnat.nonlinear import Network, initial
from linnat.nonlinear.optimisers import Batch, GradientDescent, Preconditioned
from linnat.nonlinear.preconditioners import OnlineNaturalGradient
from linnat.nonlinear.schedules import Exponential

STATEMENTS = ("C1", "X2", "N5", "O1")

BATCH = 500
STEP = 0.2  # of the exact descent
ONLINE = tuple((rate, damping) for damping in (1e-2, 3e-2) for rate in (0.2, 0.4, 0.8))
GRADIENT = ((0.002, 0.0), (0.005, 0.0), (0.01, 0.0), (0.001, 0.9), (0.003, 0.9), (0.006, 0.9))
FALL = 0.1


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return excess losses by the closed forms, exact steps, online natural gradient and SGD."""
    return wide(quick) | narrow(quick)


def wide(quick: bool) -> dict[str, Array]:
    """Return excess losses without a bottleneck, relative to their start."""
    data = images(quick, pool=2)
    x = data.x[: 1500 if quick else 6000]
    task, n = ln.Task.from_data(x, x), x.shape[1]
    shapes = [(n, *(depth - 1) * (n + 20,), n) for depth in ((2, 4) if quick else (2, 4, 6))]
    nets = [Network(shape, "identity", "gaussian") for shape in shapes]
    starts = [initial(net, "orthogonal", rng=k) for k, net in enumerate(nets)]
    exact = np.array([stepped(net, theta, task, 15, None) for net, theta in zip(nets, starts, strict=True)])
    net, theta, updates = nets[1], starts[1].astype(np.float32), 60 if quick else 75
    seeds, every = 2 if quick else 3, updates // 15
    online = [online_run(net, theta, x, task, 0.1, 1e-4, updates, s, every, 0.3) for s in range(seeds)]
    _, sgd = several(
        GRADIENT,
        lambda rate, momentum: sgd_run(net, theta, x, task, rate, momentum, updates, 9, every),
        lambda rate, momentum, seed: sgd_run(net, theta, x, task, rate, momentum, updates, seed, every),
        seeds,
    )
    return {
        "depths": np.array([net.depth for net in nets]),
        "wide_exact": exact / exact[:, :1],
        "wide_online": scaled(online),
        "wide_sgd": scaled(sgd),
        "wide_updates": np.arange(0, updates + 1, every),
        "wide_times": time_of(0.1, updates, every, 0.3),
    }


def narrow(quick: bool) -> dict[str, Array]:
    """Return excess losses above the floor with a bottleneck."""
    data = images(quick)
    x = data.x
    task, n = ln.Task.from_data(x, x), x.shape[1]
    rank = 8 if quick else 30
    net = Network((n, 3 * rank + 10, rank, 3 * rank + 10, n), "identity", "gaussian")
    theta = initial(net, "glorot", rng=0)
    values = ln.bottleneck.target_values(task, biases=True)
    floor = 0.5 * float((values[rank:] ** 2).sum())
    times = np.linspace(0.0, 12.0, 49)
    totals = ln.bottleneck.natural_total(as_linear(net, theta), task, times, 1e-5)
    closed = (
        np.array([ln.excess_loss(ln.LinearNetwork([w[:, :-1]], [w[:, -1]]), task) for w in totals]) - floor
    )
    steps = 20
    exact, blocks = (
        np.array(stepped(net, theta, task, steps, mask)) - floor for mask in (None, "block-diagonal")
    )
    result = {
        "times": times,
        "closed": closed,
        "exact": exact,
        "blocks": blocks,
        "floor": np.array(floor),
        "range": np.array([rank, task.rank, n]),
    }
    return result | minibatches(quick, net, theta.astype(np.float32), x, task, floor)


def minibatches(
    quick: bool, net: Network, theta: Array, x: Array, task: ln.Task, floor: float
) -> dict[str, Array]:
    """Return losses above the floor, updates and seconds of the two methods, (seeds, T), and their settings."""
    trial, long = ((20, 60), (40, 200)) if quick else ((40, 120), (80, 400))
    seeds, parts = 2 if quick else 3, 20
    chosen, online = several(
        ONLINE,
        lambda rate, damping: online_run(net, theta, x, task, rate, damping, trial[0], 9, trial[0]),
        lambda rate, damping, s: online_run(net, theta, x, task, rate, damping, long[0], s, long[0] // parts),
        seeds,
    )
    plain, sgd = several(
        GRADIENT,
        lambda rate, momentum: sgd_run(net, theta, x, task, rate, momentum, trial[1], 9, trial[1]),
        lambda rate, momentum, s: sgd_run(net, theta, x, task, rate, momentum, long[1], s, long[1] // parts),
        seeds,
    )
    result = {
        "online_times": time_of(chosen[0], long[0], long[0] // parts, FALL),
        "online_setting": np.array(chosen),
        "sgd_setting": np.array(plain),
    }
    for name, runs in (("online", online), ("sgd", sgd)):
        found = np.array(runs)
        result |= {
            name: found[..., 0] - floor,
            f"{name}_updates": found[0, :, 1],
            f"{name}_seconds": found[..., 2],
        }
    return result


def as_linear(net: Network, theta: Array) -> ln.LinearNetwork:
    """Return the same network for the closed forms."""
    layers = net.layers(theta.astype(np.float64))
    return ln.LinearNetwork([layer[:, :-1] for layer in layers], [layer[:, -1] for layer in layers])


def stepped(net: Network, theta: Array, task: ln.Task, steps: int, mask: str | None) -> list[float]:
    """Return the excess loss along exact natural gradient steps; with a mask, of the masked matrix over the depth."""
    state = as_linear(net, theta)
    losses, rate = [float(ln.excess_loss(state, task))], STEP / (1 if mask is None else net.depth)
    for _ in range(steps):
        direction = ln.natural_gradient(state, task, mask=mask)
        state = state.replace_layers([w - rate * u for w, u in zip(state.layers, direction, strict=True)])
        losses.append(float(ln.excess_loss(state, task)))
    return losses


Trial = Callable[[float, float], list[Any]]


def several(
    settings: tuple[tuple[float, float], ...],
    trial: Trial,
    full: Callable[[float, float, int], list[Any]],
    seeds: int,
) -> tuple[tuple[float, float], list[Any]]:
    """Return the setting with the least last loss of the trials, and its runs; of those that do not diverge."""
    trials = [trial(*setting) for setting in settings]
    length = max(len(found) for found in trials)
    order = sorted((found[-1][0], k) for k, found in enumerate(trials) if len(found) == length)
    for _, k in order:
        runs = [full(*settings[k], seed) for seed in range(seeds)]
        if len({len(found) for found in runs}) == 1 and np.isfinite([found[-1][0] for found in runs]).all():
            return settings[k], runs
    raise RuntimeError(f"every run diverged: {settings}")


def online_run(
    net: Network, theta: Array, x: Array, task: ln.Task, rate: float, damping: float, updates: int, seed: int,
    every: int, fall: float = FALL,
) -> list[Any]:  # fmt: skip
    """Return excess losses, updates and seconds of online natural gradient."""
    # New inverses at every update, from all rows of it: signals are singular, and inverses without bound where signals
    # come to be that their averages have not seen. Fewer rows than units diverge at the first updates.
    method = Preconditioned(
        OnlineNaturalGradient(damping=damping, period=1, strategy="cholesky"),
        Exponential(rate, fall, updates),
        rows=None,
    )
    return run(method, net, theta, x, task, updates, seed, every)


def sgd_run(
    net: Network, theta: Array, x: Array, task: ln.Task, rate: float, momentum: float, updates: int, seed: int,
    every: int,
) -> list[Any]:  # fmt: skip
    """Return excess losses, updates and seconds of stochastic gradient descent."""
    return run(
        GradientDescent(Exponential(rate, FALL, updates), momentum), net, theta, x, task, updates, seed, every
    )


def run(
    method: Any, net: Network, theta: Array, x: Array, task: ln.Task, updates: int, seed: int, every: int,
) -> list[Any]:  # fmt: skip
    """Return (excess loss on all rows, updates, processor seconds) after every so many updates."""
    rows = rows_of(len(x), min(BATCH, len(x) // 2), seed)

    def batch(update: int) -> Batch:
        chosen = x[rows(update)]
        return Batch(chosen, chosen)

    def measured(state: Array, spent: Spent) -> tuple[float, float, float]:
        return float(ln.excess_loss(as_linear(net, state), task)), float(spent.updates), spent.seconds

    return descend(method, net, theta, batch, updates, seed, measured, every)


def scaled(runs: list[Any]) -> Array:
    """Return losses relative to their start, (seeds, T)."""
    losses = np.array(runs)[..., 0]
    return np.asarray(losses / losses[:, :1])


def time_of(rate: float, updates: int, every: int, fall: float) -> Array:
    """Return the time t = Σ η before each evaluation."""
    rates = rate * fall ** (np.arange(updates) / updates)
    return np.concatenate([[0.0], np.cumsum(rates)])[::every]


def check(data: Data) -> None:
    """Hold exact steps to their closed forms, online natural gradient to the exact one, SGD to both."""
    count = data["wide_exact"].shape[1]
    law = (1 - STEP) ** (2 * np.arange(count))
    slopes = np.log(data["wide_exact"][:, -1] / data["wide_exact"][:, -6]) / np.log(law[-1] / law[-6])
    claim(
        "no bottleneck: last slope of exact steps over that of one layer, each depth",
        slopes,
        at_least=0.97,
        at_most=1.03,
    )
    begins = [runs[:, 0] for runs in (data["wide_exact"], data["wide_online"], data["wide_sgd"])]
    claim("no bottleneck: losses relative to their start", np.abs(np.concatenate(begins) - 1), at_most=1e-9)
    middle = np.median(data["wide_online"], axis=0)
    hundredth = reach(middle, 0.01, data["wide_times"]) / (0.5 * np.log(100))
    claim("no bottleneck: online's time to a hundredth over the law's", hundredth, at_least=0.5, at_most=1.5)
    claim(
        "no bottleneck: online over SGD, last loss",
        middle[-1] / np.median(data["wide_sgd"][:, -1]),
        at_most=0.2,
    )
    verdict(
        "Bernacchia et al. 2018",
        "reproduced",
        f"without a bottleneck: slope {slopes.min():.2f} … {slopes.max():.2f} of the law at depths "
        f"{', '.join(map(str, data['depths']))}, online reaches a hundredth in {hundredth:.2f} of the law's time",
    )
    check_narrow(data)


def check_narrow(data: Data) -> None:
    """Hold the runs through the bottleneck to the flow, the floor and each other."""
    clock = STEP * np.arange(len(data["exact"]))
    begins = np.concatenate([data["exact"][:1], data["blocks"][:1], data["online"][:, 0], data["sgd"][:, 0]])
    claim(
        "bottleneck: starts over that of the closed form",
        np.abs(begins / data["closed"][0] - 1),
        at_most=1e-5,
    )
    near = np.exp(np.interp(clock, data["times"], np.log(data["closed"])))
    late = clock >= 2.0
    claim(
        "bottleneck: exact steps over the closed form, t ≥ 2",
        data["exact"][late] / near[late],
        at_least=0.6,
        at_most=1.7,
    )
    claim("bottleneck: closed form never rises", np.diff(data["closed"]), at_most=1e-6 * data["closed"][0])
    slower = data["blocks"][-1] / data["exact"][-1]
    claim("bottleneck: blocks over exact, loss above the floor at the end", slower, at_least=1.5)
    level = float(np.median(data["sgd"][:, -1]))
    updates = [reach(row, level, data["online_updates"]) for row in data["online"]]
    seconds = [
        reach(row, level, spent) for row, spent in zip(data["online"], data["online_seconds"], strict=True)
    ]
    saved = np.array(updates) / data["sgd_updates"][-1]
    quicker = np.array(seconds) / np.median(data["sgd_seconds"][:, -1])
    claim("bottleneck: updates to SGD's last loss, share of SGD's", saved, at_most=0.25)
    claim("bottleneck: processor seconds to SGD's last loss, share of SGD's", quicker, at_most=0.9)
    claim("bottleneck: last loss, online over SGD", np.median(data["online"][:, -1]) / level, at_most=0.9)
    verdict(
        "Bernacchia et al. 2018", "partly",
        f"with one: online follows the blocks (above the floor {slower:.2g} × the exact steps at t = {clock[-1]:g}), "
        f"and needs {saved.max():.2g} of SGD's updates, {quicker.max():.2g} of its processor time for its last loss",
    )  # fmt: skip


def draw(data: Data) -> Figure:
    """Draw losses against time and updates."""
    figure, axes = plt.subplots(1, 4, figsize=(8.3, 2.9))
    _wide(axes[0], axes[1], data)
    _narrow(axes[2], axes[3], data)
    label_panels(axes)
    figure.suptitle(
        "Linear autoencoders: exact natural gradient, online natural gradient, stochastic gradient descent"
    )
    return figure


def band(axis: Axes, x: Array, runs: Array, colour: str, name: str, marker: str) -> None:
    """Draw the median of the seeds in a band from the least to the largest."""
    axis.fill_between(x, runs.min(axis=0), runs.max(axis=0), color=colour, alpha=0.25, lw=0)
    axis.plot(x, np.median(runs, axis=0), color=colour, marker=marker, ms=3, mfc="white", lw=1.1, label=name)


def _wide(left: Axes, right: Axes, data: Data) -> None:
    t = np.linspace(0, 6, 61)
    left.semilogy(t, np.exp(-2 * t), color=BLACK, lw=1.0, label=r"$e^{-2t}$")
    clock = STEP * np.arange(data["wide_exact"].shape[1])
    for k, depth in enumerate(data["depths"]):
        left.semilogy(clock[k::3], data["wide_exact"][k][k::3], MARKERS[k], color=(BLUE, ORANGE, PURPLE)[k], mfc="none",
                      ms=4 + k, mew=0.8, label=f"exact, depth {depth}")  # fmt: skip
    band(left, data["wide_times"], data["wide_online"], GREEN, "online, depth 4", MARKERS[4])
    left.set(xlabel=r"time $t$, $\Sigma\eta$", ylabel="excess loss, relative", xlim=(0, 5.2), ylim=(1e-5, 2))
    decades(left)
    left.set_title("no bottleneck")
    left.legend(fontsize=6.5, loc="lower left", handlelength=1.6)
    band(right, data["wide_updates"], data["wide_online"], GREEN, "online", MARKERS[4])
    band(right, data["wide_updates"], data["wide_sgd"], VERMILLION, "SGD", MARKERS[5])
    right.set(xlabel="updates", yscale="log", ylim=(1e-5, 2))
    decades(right)
    right.set_title("no bottleneck, depth 4")
    right.legend(fontsize=6.5, loc="lower left")


def _narrow(left: Axes, right: Axes, data: Data) -> None:
    left.semilogy(data["times"], data["closed"], color=BLACK, lw=1.0, label="closed form")
    clock = STEP * np.arange(len(data["exact"]))
    left.semilogy(
        clock[::3], data["exact"][::3], MARKERS[0], color=BLUE, mfc="none", ms=4, mew=0.8, label="exact steps"
    )
    left.semilogy(clock, data["blocks"], color=GREY, ls=DASHES[1], lw=1.1, label="blocks, steps")
    band(left, data["online_times"], data["online"], GREEN, "online", MARKERS[4])
    left.set(xlabel=r"time $t$, $\Sigma\eta$", ylabel="loss above the floor", xlim=(0, 12))
    rank, found, n = data["range"]
    left.set_title(f"bottleneck of {rank}")
    left.annotate(
        f"rank of data {found} of {n}", (0.03, 0.02), xycoords="axes fraction", fontsize=6.5, color=GREY
    )
    left.legend(fontsize=6.5, loc="upper right", handlelength=1.6)
    band(right, np.median(data["online_seconds"], axis=0), data["online"], GREEN, "online", MARKERS[4])
    band(right, np.median(data["sgd_seconds"], axis=0), data["sgd"], VERMILLION, "SGD", MARKERS[5])
    right.set(xlabel="processor seconds", yscale="log")
    right.axhline(float(data["floor"]), color=GREY, lw=0.8, ls=DASHES[2])
    right.annotate("level of the floor", (1, float(data["floor"])), xycoords=("axes fraction", "data"),
                   xytext=(-2, 3), textcoords="offset points", ha="right", fontsize=6.5, color=GREY)  # fmt: skip
    right.set_title("bottleneck")
    right.legend(fontsize=6.5, loc="upper right")
