"""Which Fisher matrix does natural gradient need? Statement X6.

The same network, 2-3-2, from the same start far from its optimum, moved along the solution of F u = ∇ℓ for the
true Fisher matrix (C1), for a Monte Carlo one with targets drawn from the model at every step, and for the
empirical one, with the targets of the data: marks are integrated layers, lines closed forms; sampled steps are
faster by the bias of an inverse and their size (a). Modes of the whitened error under the empirical flow,
by Lambert's W, beside the true flow's: large modes wait (b). The distance of sampled matrices from the closed ones
falls like N^{−1/2}, for the empirical as for the true one; that between the two stays (c).
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp

import linnat as ln
from figures._common import (
    BLACK,
    BLUE,
    DASHES,
    GREEN,
    GREY,
    SERIES,
    VERMILLION,
    Array,
    Data,
    claim,
    decades,
    label_panels,
    publish,
)

STATEMENTS = ("X6",)

END, STEP, TARGETS = 50.0, 0.1, 200
MODES = np.array([6.0, 2.0, 0.5])


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return losses under three matrices, modes, distances of sampled matrices."""
    net, task = problem()
    times = np.linspace(0, END, 251)
    start = np.linalg.svd(net.total - task.teacher, compute_uv=False)
    marks = np.linspace(0, END, 11)
    sampled = np.array([monte_carlo(net, task, seed) for seed in range(2 if quick else 5)])
    counts = np.array([100, 1000] if quick else [100, 300, 1000, 3000, 10_000, 30_000])
    rows = [[sampled_distances(net, task, int(n), seed) for seed in range(3 if quick else 8)] for n in counts]
    closed, true = ln.empirical.fisher(net, task), ln.fisher(net, task)
    return {
        "times": times,
        "true": 0.5 * (start**2).sum() * np.exp(-2 * times),
        "empirical": 0.5 * (ln.empirical.mode_flow(times, start) ** 2).sum(axis=-1),
        "marks": marks,
        "empirical_integrated": losses(net, task, ln.empirical.natural_gradient, marks),
        "true_integrated": losses(net, task, ln.natural_gradient, np.linspace(0, 5, 6)),
        "sampled": sampled,
        "modes": ln.empirical.mode_flow(times, MODES),
        "modes_integrated": integrated_modes(marks),
        "counts": counts,
        "distances": np.array(rows),
        "between": np.array(np.linalg.norm(closed - true) / np.linalg.norm(closed)),
    }


def problem() -> tuple[ln.LinearNetwork, ln.Task]:
    """Return a white problem whose error has the singular values 5 and 2."""
    rng = np.random.default_rng(1)
    net = ln.LinearNetwork([rng.standard_normal((3, 2)), rng.standard_normal((2, 3))])
    turn = np.linalg.qr(rng.standard_normal((2, 2)))[0]
    return net, ln.Task(net.total + turn @ np.diag([5.0, 2.0]))


def losses(net: ln.LinearNetwork, task: ln.Task, ascent: object, times: Array) -> Array:
    """Return excess losses of layers moved along −u by an integrator."""

    def slope(_: float, vector: Array) -> Array:
        state = net.replace_layers(ln.unflatten(vector, net))
        return -ln.flatten(ascent(state, task, "minimum-norm"))  # type: ignore[operator]

    run = solve_ivp(slope, (0.0, times[-1]), ln.flatten(net.layers), "DOP853", times, rtol=1e-9, atol=1e-11)
    states = [net.replace_layers(ln.unflatten(v, net)) for v in run.y.T]
    return np.array([ln.excess_loss(state, task) for state in states])


def monte_carlo(net: ln.LinearNetwork, task: ln.Task, seed: int) -> Array:
    """Return excess losses of steps with a Fisher matrix from targets drawn from the model, new ones at each step."""
    rng = np.random.default_rng([6, seed])
    state, found = net, []
    for _ in range(int(5 / STEP) + 1):
        found.append(float(ln.excess_loss(state, task)))
        x, e = rng.standard_normal((2, TARGETS, 2))
        scores = np.concatenate(
            [(np.einsum("na,nb->nab", x @ a.T, e @ b)).reshape(TARGETS, -1)
             for a, b in zip(state.before, state.after, strict=True)], axis=1)  # fmt: skip
        u = np.linalg.lstsq(scores.T @ scores / TARGETS, ln.flatten(ln.gradient(state, task)), rcond=1e-10)[0]
        state = state.replace_layers(
            [w - STEP * d for w, d in zip(state.layers, ln.unflatten(u, net), strict=True)]
        )
    return np.array(found)


def integrated_modes(times: Array) -> Array:
    """Integrate the modes' equation."""

    def slope(_: float, d: Array) -> Array:
        share = (d**2 / (1 + 2 * d**2)).sum()
        return -d / ((1 + share) * (1 + 2 * d**2))

    return solve_ivp(slope, (0.0, times[-1]), MODES, "DOP853", times, rtol=1e-11, atol=1e-13).y.T


def sampled_distances(net: ln.LinearNetwork, task: ln.Task, count: int, seed: int) -> tuple[float, float]:
    """Return relative distances of matrices over drawn samples from the closed empirical and true ones."""
    rng = np.random.default_rng([count, seed])
    x, noise = rng.standard_normal((2, count, 2))
    found = []
    for targets, closed in (
        (x @ task.teacher.T + noise, ln.empirical.fisher(net, task)),
        (x @ net.total.T + noise, ln.fisher(net, task)),
    ):
        e = targets - x @ net.total.T
        parts = [np.einsum("na,nb->nab", x @ a.T, e @ b).reshape(count, -1)
                 for a, b in zip(net.before, net.after, strict=True)]  # fmt: skip
        scores = np.concatenate(parts, axis=1)
        found.append(float(np.linalg.norm(scores.T @ scores / count - closed) / np.linalg.norm(closed)))
    return found[0], found[1]


def check(data: Data) -> None:
    """Hold integrated layers to closed forms, samples to N^{−1/2}."""
    at = np.searchsorted(data["times"], data["marks"] - 1e-9)
    gap = np.abs(data["empirical_integrated"] - data["empirical"][at]) / data["empirical"][0]
    claim("empirical: integrated layers against the closed form", gap, at_most=1e-6)
    law = data["true"][0] * np.exp(-2 * np.linspace(0, 5, 6))
    claim(
        "true: integrated layers against e^{−2t}",
        np.abs(data["true_integrated"] - law) / law[0],
        at_most=1e-6,
    )
    rates = np.log(data["sampled"][:, 0] / data["sampled"][:, 10]) / (2 * STEP * 10)
    claim("Monte Carlo: mean rate over the first unit of time", rates.mean(), at_least=0.8, at_most=1.35)
    gap = np.abs(data["modes"][at] - data["modes_integrated"]) / MODES
    claim("modes by Lambert's W against the integrated equation", gap, at_most=1e-8)
    half = np.interp(-0.5 * data["empirical"][0], -data["empirical"], data["times"])
    claim("time to half the loss, empirical over true", half / (0.5 * np.log(2)), at_least=20)
    root = np.sqrt((data["distances"] ** 2).mean(axis=1))
    slope = np.polyfit(np.log(data["counts"]), np.log(root), 1)[0]
    claim("slope of log distance against log N", slope, at_least=-0.75, at_most=-0.3)
    claim("distance between the two closed matrices", data["between"], at_least=0.9)


def draw(data: Data) -> Figure:
    """Draw losses, modes, distances."""
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.9))
    axes[0].semilogy(data["times"], data["true"], color=BLUE, label="true")
    axes[0].semilogy(np.linspace(0, 5, 6), data["true_integrated"], "o", color=BLUE, mfc="white", ms=4)
    grid = STEP * np.arange(data["sampled"].shape[1])
    for k, path in enumerate(data["sampled"]):
        name = "Monte Carlo" if k == 0 else None
        axes[0].semilogy(grid, path, color=GREEN, lw=0.7, ls=DASHES[1], label=name)
    axes[0].semilogy(data["times"], data["empirical"], color=VERMILLION, ls=DASHES[3], label="empirical")
    axes[0].semilogy(data["marks"], data["empirical_integrated"], "s", color=VERMILLION, mfc="white", ms=4)
    axes[0].set(xlabel=r"time $t$", ylabel="excess loss", ylim=(1e-5, 40), xlim=(0, END))
    axes[0].set_title("the same network")
    axes[0].legend(loc="lower center", bbox_to_anchor=(0.52, 0.02), fontsize=7.5, handlelength=1.5)
    for k, (value, colour) in enumerate(zip(MODES, SERIES, strict=False)):
        axes[1].semilogy(data["times"], data["modes"][:, k], color=colour, ls=DASHES[k])
        axes[1].semilogy(
            data["marks"], data["modes_integrated"][:, k], "o", color=colour, mfc="white", ms=3.6
        )
        axes[1].semilogy(data["times"], value * np.exp(-data["times"]), color=colour, lw=0.6, ls=DASHES[k])
    axes[1].annotate("thin: true flow", (17, 0.5), fontsize=7.5)
    axes[1].set(
        xlabel=r"time $t$", ylabel=r"singular values $d_a$ of $\tilde E$", ylim=(0.02, 10), xlim=(0, END)
    )
    axes[1].set_title("large modes wait")
    for k, (name, colour, marker) in enumerate((("empirical", VERMILLION, "s"), ("true", BLUE, "o"))):
        for seed in range(data["distances"].shape[1]):
            axes[2].loglog(data["counts"], data["distances"][:, seed, k], color=colour, lw=0.4)
        root = np.sqrt((data["distances"][:, :, k] ** 2).mean(axis=1))
        axes[2].loglog(data["counts"], root, marker + "-", color=colour, mfc="white", label=name)
    axes[2].axhline(float(data["between"]), color=GREY, lw=0.8)
    axes[2].annotate("between the two", (data["counts"][-1], float(data["between"])), xytext=(0, 3),
                     textcoords="offset points", ha="right", color=GREY, fontsize=7.5)  # fmt: skip
    guide = 2.5 / np.sqrt(data["counts"])
    axes[2].loglog(data["counts"], guide, color=BLACK, ls=DASHES[2], lw=0.9, label=r"$\propto N^{-1/2}$")
    axes[2].set(xlabel="samples $N$", ylabel="relative distance", ylim=(None, 2))
    axes[2].set_title("sampled against closed")
    axes[2].legend(loc="lower left")
    decades(axes[0], 2)
    label_panels(axes)
    figure.suptitle("Three Fisher matrices: the empirical one is slow where the error is large")
    return figure
