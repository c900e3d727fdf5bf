"""Where is natural gradient independent of the parametrisation, and at which order is it lost? Statement C10.

One function, a 3 × 3 matrix W, in several parametrisations: depths 1, 2 and 4, other hidden coordinates
W_i → C_iW_iC_{i−1}⁻¹ (minimum norm; the layerwise gauge does not notice them), weights θ = sinh ξ. (a) The natural
flow moves W alike up to the integrator's error; the gradient flow does not. (b) One step of η parts them by η²; lines:
the derived coefficients, nothing fitted. (c) Steps up to t = 1.5 part them by η; lines for the depths:
½(1/M − 1/L) η E(t) log(W(0)⁻¹W(t)). (d) Damping λ parts the first-order changes dW by λ. (e) Minibatches of b at the
optimum, metric of the population: the mean deviation of one step from one layer is η²/b times a matrix (2 × 2; bars:
two standard errors). (f) Directions in two coordinate systems, minimum norm: the empirical Fisher needs n_L n_0 = 9
samples to be independent of them, the true one n_0 = 3 inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import linnat as ln
from figures._common import (
    BLACK,
    DASHES,
    GREY,
    MARKERS,
    SERIES,
    Array,
    Data,
    claim,
    decades,
    label_panels,
    publish,
    rotation,
)

STATEMENTS = ("C10",)

SIZE, END = 3, 1.5
ETAS = 2.0 ** -np.arange(2, 11)
LAMBDAS = np.geomspace(1e-5, 1e1, 13)
BATCHES = np.array([1, 2, 4, 8, 16, 32])
COUNTS = np.arange(1, 15)
PAIRS = ("$L=2$ and 1", "$L=4$ and 1", "other hidden coordinates", r"$\theta$ and $\xi$, $\theta=\sinh\xi$")

Step = Callable[[Sequence[Array], float], list[Array]]


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return deviations between parametrisations, and what the formulas say of them."""
    rng = np.random.default_rng(10)
    start = rotation(SIZE, rng) * np.array([1.5, 1.0, 0.6]) @ rotation(SIZE, rng)
    ratio = rotation(SIZE, rng) * np.array([0.4, 1.8, 3.0])
    teacher = start @ ratio @ (ratio / np.array([0.4, 1.8, 3.0])).T
    task = ln.Task(teacher)
    nets = {depth: ln.LinearNetwork.balanced(start, depth) for depth in (1, 2, 4)}
    turned = ln.invariance.change_coordinates(
        nets[4], [np.diag([2.0, 1.0, 0.5]) @ rotation(3, rng) for _ in range(3)]
    )
    times = np.linspace(0, 2.5, 26)[1:]
    steps = stepping(nets, turned, task)
    etas = ETAS[:6] if quick else ETAS
    return {
        "times": times,
        "flows": flows(nets, turned, task, times),
        "etas": etas,
        "once": np.array([[part(a, b, eta, 1) for eta in etas] for a, b in steps]),
        "coefficients": coefficients(nets, turned, task),
        "often": np.array([[part(a, b, eta, round(END / eta)) for eta in etas] for a, b in steps]),
        "drifts": np.array([norm(ln.invariance.depth_drift(start, teacher, END, depth)) for depth in (2, 4)]),
        "lambdas": LAMBDAS,
        "damped": damped(nets, task),
        "lost": np.array([norm(ln.invariance.damping_deviation(nets[d], task)
                               - ln.invariance.damping_deviation(nets[1], task)) for d in (2, 4)]),
        **minibatches(4_000 if quick else 200_000),
        "counts": COUNTS,
        "directions": directions(nets[2], task),
    }  # fmt: skip


def norm(matrix: Array) -> float:
    """Return the Frobenius norm."""
    return float(np.linalg.norm(matrix))


def flows(nets: dict[int, ln.LinearNetwork], turned: ln.LinearNetwork, task: ln.Task, times: Array) -> Array:
    """Return distances of W(t) from that of one layer: natural (3 ways), gradient (3 ways)."""
    others = (nets[2], nets[4], turned)
    options = {"rtol": 1e-10, "atol": 1e-12}
    rows = []
    for integrate in (
        lambda net: ln.dense.flow.natural_flow(net, task, times, "minimum-norm", **options),
        lambda net: ln.dense.flow.gradient_flow(net, task, times, **options),
    ):
        one = ln.dense.flow.total_along(nets[1], integrate(nets[1]))
        for net in others:
            rows.append(np.linalg.norm(ln.dense.flow.total_along(net, integrate(net)) - one, axis=(-1, -2)))
    return np.array(rows)


def stepping(
    nets: dict[int, ln.LinearNetwork], turned: ln.LinearNetwork, task: ln.Task
) -> list[tuple[Callable[[float, int], Array], Callable[[float, int], Array]]]:
    """Return pairs of functions (η, count) ↦ W after steps of η."""

    def walk(net: ln.LinearNetwork, gauge: str, stretched: bool = False) -> Callable[[float, int], Array]:
        def run(eta: float, count: int) -> Array:
            state = net
            for _ in range(count):
                moves = zip(state.weights, ln.natural_gradient(state, task, gauge), strict=True)
                if stretched:
                    layers = [np.sinh(np.arcsinh(w) - eta * u / np.sqrt(1 + w**2)) for w, u in moves]
                else:
                    layers = [w - eta * u for w, u in moves]
                state = ln.LinearNetwork(layers)
            return state.total

        return run

    one = walk(nets[1], "layerwise")
    return [
        (walk(nets[2], "layerwise"), one),
        (walk(nets[4], "layerwise"), one),
        (walk(turned, "minimum-norm"), walk(nets[4], "minimum-norm")),
        (walk(nets[2], "layerwise", stretched=True), walk(nets[2], "layerwise")),
    ]


def part(
    first: Callable[[float, int], Array], second: Callable[[float, int], Array], eta: float, count: int
) -> float:
    """Return the distance of two parametrisations after some steps."""
    return norm(first(eta, count) - second(eta, count))


def coefficients(nets: dict[int, ln.LinearNetwork], turned: ln.LinearNetwork, task: ln.Task) -> Array:
    """Return the derived coefficients of η² for the four pairs."""
    start, teacher = nets[1].total, task.teacher
    least = [
        ln.invariance.second_order(net, ln.natural_gradient(net, task, "minimum-norm"))
        for net in (turned, nets[4])
    ]
    bends = [w / (1 + w**2) for w in nets[2].weights]
    stretched = ln.invariance.coordinate_deviation(nets[2], ln.natural_gradient(nets[2], task), bends)
    by_depth = [ln.invariance.depth_deviation(start, teacher, depth) for depth in (2, 4)]
    return np.array([norm(m) for m in (*by_depth, least[0] - least[1], stretched)])


def damped(nets: dict[int, ln.LinearNetwork], task: ln.Task) -> Array:
    """Return distances of the damped dW from that of one layer, (depth, λ)."""
    changes = {
        depth: np.array(
            [ln.induced_change(net, ln.natural_gradient(net, task, damping=lam)) for lam in LAMBDAS]
        )
        for depth, net in nets.items()
    }
    return np.array([np.linalg.norm(changes[depth] - changes[1], axis=(-1, -2)) for depth in (2, 4)])


def minibatches(draws: int) -> dict[str, Array]:
    """Return the mean of one step of two layers less that of one layer, over η², at the optimum, against b."""
    rng = np.random.default_rng(11)
    weight, noise = np.array([[1.0, 0.5], [-0.3, 0.8]]), np.array([[1.0, 0.3], [0.3, 0.5]])
    task = ln.Task(weight, np.diag([1.0, 0.4]), noise)
    found, spread, wanted = [], [], []
    for batch in BATCHES:
        x = rng.standard_normal((draws, batch, 2)) * np.sqrt([1.0, 0.4])
        nu = rng.standard_normal((draws, batch, 2)) @ np.linalg.cholesky(noise).T
        moved = np.swapaxes(nu, 1, 2) @ x / batch / np.array([1.0, 0.4])
        gaps = moved @ np.linalg.solve(weight, moved) / 4  # two layers, exactly: W(I + ηX/2)² − W(I + ηX)
        goal = ln.invariance.minibatch_deviation(weight, task, int(batch), 2)
        unit = goal / norm(goal)
        along = (gaps * unit).sum(axis=(-1, -2))
        found.append(float(along.mean()))
        spread.append(float(along.std()) / np.sqrt(draws))
        wanted.append(norm(goal))
    return {
        "batch_means": np.array(found),
        "batch_errors": np.array(spread),
        "batch_wanted": np.array(wanted),
    }


def directions(net: ln.LinearNetwork, task: ln.Task) -> Array:
    """Return by how much dW differs between two coordinate systems, (empirical or true, samples), medians of draws."""
    rows = np.empty((2, len(COUNTS), 15))
    for draw in range(rows.shape[-1]):
        rng = np.random.default_rng([12, draw])
        other = ln.invariance.change_coordinates(net, [np.diag([3.0, 1.0, 0.3]) @ rotation(SIZE, rng)])
        x = rng.standard_normal((COUNTS[-1], SIZE))
        y = x @ task.teacher.T + rng.standard_normal(x.shape)
        for k, count in enumerate(COUNTS):
            for kind in (0, 1):
                first, second = (change(state, x[:count], y[:count], kind == 0) for state in (net, other))
                rows[kind, k, draw] = norm(first - second) / norm(first)
    return np.median(rows, axis=-1)


def change(net: ln.LinearNetwork, x: Array, y: Array, empirical: bool) -> Array:
    """Return dW for the shortest natural step, by the definition of either matrix from samples."""
    jacobian, residual = ln.dense.jacobian.output_jacobian(net, x), y - ln.dense.jacobian.outputs(net, x)
    if empirical:
        root, right = np.einsum("ncp,nc->np", jacobian, residual), np.ones(len(x))
        rank = min(len(x), SIZE * SIZE)
    else:
        root, right = jacobian.reshape(-1, jacobian.shape[-1]), residual.ravel()
        rank = SIZE * min(len(x), SIZE)
    left, values, rows = np.linalg.svd(root, full_matrices=False)
    step = rows[:rank].T @ (left[:, :rank].T @ right / values[:rank])
    return ln.induced_change(net, ln.unflatten(step, net))


def check(data: Data) -> None:
    """Hold flows to one another, orders to 2, 1, 1 and −1, coefficients to the formulas."""
    scale = np.log(2.0)
    claim("natural flows, distance from one layer", data["flows"][:3], at_most=1e-6)
    claim("gradient flows, largest distance from one layer", data["flows"][3:].max(axis=-1), at_least=0.05)
    once, often, etas = data["once"], data["often"], data["etas"]
    claim("one step: |order in η − 2|", np.abs(np.log(once[:, -2] / once[:, -1]) / scale - 2), at_most=0.05)
    claim("one step: coefficient of η², relative", np.abs(once[:, -1] / etas[-1] ** 2 / data["coefficients"] - 1),
          at_most=3 * etas[-1])  # fmt: skip
    claim(
        "steps to t: |order in η − 1|", np.abs(np.log(often[:, -2] / often[:, -1]) / scale - 1), at_most=0.08
    )
    claim("steps to t: coefficient of η for depths, relative", np.abs(often[:2, -1] / etas[-1] / data["drifts"] - 1),
          at_most=5 * etas[-1])  # fmt: skip
    lam, lost = data["lambdas"], data["damped"]
    order = np.log(lost[:, 1] / lost[:, 0]) / np.log(lam[1] / lam[0])
    claim("damping: |order in λ − 1|", np.abs(order - 1), at_most=0.01)
    claim("damping: coefficient of λ, relative", np.abs(lost[:, 0] / lam[0] / data["lost"] - 1), at_most=0.01)
    off = np.abs(data["batch_means"] - data["batch_wanted"]) / data["batch_errors"]
    claim("minibatches: mean deviation, in standard errors", off, at_most=4.5)
    whole = data["batch_wanted"] * BATCHES
    claim("minibatches: b × formula, relative spread", np.ptp(whole) / whole[0], at_most=1e-9)
    claim("minibatches: standard error over mean", data["batch_errors"] / data["batch_means"], at_most=0.25)
    enough = data["counts"] >= SIZE * SIZE
    claim(
        "empirical Fisher, 9 samples or more: directions differ by",
        data["directions"][0, enough],
        at_most=1e-9,
    )
    claim("  fewer", data["directions"][0, ~enough], at_least=0.05)
    claim("true Fisher, 3 inputs or more", data["directions"][1, data["counts"] >= SIZE], at_most=1e-9)


def draw(data: Data) -> Figure:
    """Draw flows, one step, many steps, damping, minibatches, samples."""
    figure, axes = plt.subplots(2, 3, figsize=(6.4, 3.9))
    a, b, c, d, e, f = axes.ravel()
    names = ("$L=2$", "$L=4$", "$L=4$, turned")
    for k, (colour, dash) in enumerate(zip(SERIES[:3], DASHES, strict=False)):
        a.semilogy(data["times"], data["flows"][k], color=colour, ls=dash)
        a.semilogy(data["times"], data["flows"][3 + k], color=colour, ls=dash, label=names[k])
    a.text(1.25, 3e-14, "natural flow", color=BLACK, ha="center")
    a.text(1.25, 8.0, "gradient flow", color=BLACK, ha="center")
    a.set(xlabel="time $t$", ylabel=r"$\|W-W_{L=1}\|$", ylim=(1e-15, 1e3), title="flows")
    a.legend(loc="center", bbox_to_anchor=(0.5, 0.54))
    for k, (colour, marker) in enumerate(zip(SERIES, MARKERS, strict=False)):
        if k == len(PAIRS):
            break
        b.loglog(data["etas"], data["once"][k], marker, color=colour, mfc="white", ms=4, label=PAIRS[k])
        b.loglog(data["etas"], data["coefficients"][k] * data["etas"] ** 2, color=colour, lw=0.8)
        c.loglog(data["etas"], data["often"][k], marker, color=colour, mfc="white", ms=4)
        if k < 2:
            c.loglog(data["etas"], data["drifts"][k] * data["etas"], color=colour, lw=0.8)
            d.loglog(data["lambdas"], data["damped"][k], marker, color=colour, mfc="white", ms=4)
            d.loglog(data["lambdas"], data["lost"][k] * data["lambdas"], color=colour, lw=0.8)
    b.set(xlabel=r"step $\eta$", ylabel="distance", title=r"one step: $\eta^2$")
    c.set(xlabel=r"step $\eta$", ylabel=f"distance at $t={END:g}$", title=r"up to a time: $\eta$")
    d.set(
        xlabel=r"damping $\lambda$", ylabel=r"distance of $dW$", title=r"damping: $\lambda$", ylim=(1e-6, 10)
    )
    draw_samples(data, e, f)
    label_panels(axes)
    figure.suptitle("One function, many parametrisations: the flow does not see them, steps do")
    figure.legend(*b.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_samples(data: Data, e: Axes, f: Axes) -> None:
    """Draw what minibatches and the number of samples do."""
    e.errorbar(
        BATCHES, data["batch_means"], 2 * data["batch_errors"], fmt="o", color=SERIES[0], mfc="white", ms=4
    )
    e.loglog(BATCHES, data["batch_wanted"], color=SERIES[0], lw=0.8)
    e.set(xscale="log", yscale="log", xlabel="batch $b$", ylabel=r"mean deviation $/\,\eta^2$")
    e.set_title("minibatches: $1/b$")
    e.set_ylim(1e-2, 1)
    decades(e)
    for kind, (word, height, colour, marker) in enumerate(
        (("empirical", 1e-5, SERIES[1], "s"), ("true", 2e-13, BLACK, "o"))
    ):
        shown = np.maximum(data["directions"][kind], 1e-17)
        f.semilogy(data["counts"], shown, color=colour, marker=marker, ms=3.5, mfc="white")
        f.text(5.6, height, word, color=colour, ha="center")
    for place in (SIZE, SIZE * SIZE):
        f.axvline(place - 0.5, color=GREY, lw=0.6)
    f.set(
        xlabel="samples $N$",
        ylabel="difference of $dW$",
        title="two coordinate systems",
        ylim=(1e-17, 20),
    )
