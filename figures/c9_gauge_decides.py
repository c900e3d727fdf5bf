"""Does natural gradient complete a matrix of which it sees some entries? Statement C9.

Deep factorisations of a 12 × 12 matrix of rank 2, 60 % of its entries observed, from small balanced orthogonal starts
W(0) = sQ; median and quartiles over seeds. Error on the unobserved entries (1: nothing learned) and effective rank
under gradient flow (to 1 % of the first training error) and under natural flow (to t = ∞, which is reached exactly)
with three metrics and gauges. The metric of the population never moves an unobserved entry (a–d): no generalisation,
at any depth. That of the observed entries in the minimum-norm gauge completes the matrix, the better the deeper and
smaller it starts; in the layerwise gauge it hardly does. The gauge decides, because the observed entries follow the
same e^{−t} in all three (checked). Why (e, f): the rescaled layers φ = ρ^{−1/L}θ descend ‖φ‖² among those that fit the
observed entries, for a time log(1/s), to rest points of Schatten's 2/L quasi-norm.

The arrays beside the picture are the table: `errors`, `ranks` (flow, depth, scale, seed), `residuals` what is left of
the observed entries; `table()` prints it.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
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
)

STATEMENTS = ("C9",)

SIZE, RANK, SHARE = 12, 2, 0.6
DEPTHS = (1, 2, 3, 4)
SCALES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
FLOWS = ("gradient", "minimum-norm", "layerwise", "population")
NAMES = (
    "gradient flow",
    "natural, observed, minimum norm",
    "natural, observed, layerwise",
    "natural, population (metric or gauge)",
)
STOP = 0.01


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    data = measure(quick)
    publish(__file__, out, data, check, draw)
    print(table(data))


def measure(quick: bool) -> dict[str, Array]:
    """Return errors, ranks, residuals (flow, depth, scale, seed), and the rescaled norm along flows."""
    seeds = range(3 if quick else 10)
    scales = SCALES[::4] if quick else SCALES
    shape = (len(FLOWS), len(DEPTHS), len(scales), len(seeds))
    errors, ranks, residuals = np.empty(shape), np.empty(shape), np.empty(shape)
    for i, depth in enumerate(DEPTHS):
        for j, scale in enumerate(scales):
            net, target, observed = problems(depth, scale, seeds)
            for k, flow in enumerate(FLOWS):
                total, residuals[k, i, j] = limit(net, target, observed, flow)
                errors[k, i, j] = ln.completion.unobserved_error(total, target, observed)
                ranks[k, i, j] = ln.completion.effective_rank(total)
    norms, rests, times, least = descent(scales[-1], seeds)
    return {
        "errors": errors,
        "ranks": ranks,
        "residuals": residuals,
        "scales": np.array(scales),
        "depths": np.array(DEPTHS),
        "true_ranks": ln.completion.effective_rank(problems(1, 1.0, seeds)[1]),
        "norms": norms,
        "rests": rests,
        "times": times,
        "least": least,
    }


def problems(depth: int, scale: float, seeds: range) -> tuple[ln.LinearNetwork, Array, Array]:
    """Return stacks of balanced orthogonal starts sQ, targets of rank 2, and observed entries."""
    layers: list[list[Array]] = [[] for _ in range(depth)]
    targets, masks = [], []
    for seed in seeds:
        rng = np.random.default_rng([9, seed])
        targets.append(rng.standard_normal((SIZE, RANK)) @ rng.standard_normal((RANK, SIZE)) / np.sqrt(RANK))
        mask = np.zeros(SIZE * SIZE, bool)
        mask[rng.permutation(SIZE * SIZE)[: round(SHARE * SIZE * SIZE)]] = True
        masks.append(mask.reshape(SIZE, SIZE))
        for layer in layers:
            q, r = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))
            layer.append(scale ** (1 / depth) * q * np.sign(np.diag(r)))
    return ln.LinearNetwork([np.stack(layer) for layer in layers]), np.stack(targets), np.stack(masks)


def limit(net: ln.LinearNetwork, target: Array, observed: Array, flow: str) -> tuple[Array, Array]:
    """Return the total weight where a flow ends, and what is left of the error on the observed entries."""
    if flow == "population":
        total = ln.completion.natural_total(net, target, observed, np.inf)[:, 0]
    elif flow == "gradient":
        path = ln.completion.gradient_flow(net, target, observed, 1e5, tol=STOP)
        total = ln.LinearNetwork([layer[:, 0] for layer in path.layers]).total
    else:
        run = ln.completion.natural_flow(net, target, observed, np.inf, gauge=flow, rtol=1e-5)
        total = ln.LinearNetwork([layer[:, 0] for layer in run.layers]).total
    left = np.sqrt((((total - target) * observed) ** 2).sum(axis=(-1, -2)))
    return total, left / np.sqrt((((net.total - target) * observed) ** 2).sum(axis=(-1, -2)))


def descent(scale: float, seeds: range) -> tuple[Array, Array, Array, Array]:
    """Return the rescaled norm over the target's, distance from rest, shares and last norms, minimum-norm flows."""
    times = -np.log1p(-np.geomspace(3 * scale, 1 - 1e-9, 25))
    norms, rests, least = [], [], []
    for depth in DEPTHS[1:]:
        net, target, observed = problems(depth, scale, seeds)
        path = ln.completion.natural_flow(net, target, observed, times, rtol=1e-5)
        states = [ln.LinearNetwork([layer[:, t] for layer in path.layers]) for t in range(len(times))]
        share = -np.expm1(-times)
        squares = np.stack([sum((w**2).sum(axis=(-1, -2)) for w in net.weights) for net in states])
        goal = ln.completion.schatten(target, depth)
        norms.append((squares / share[:, None] ** (2 / depth) / goal).T)
        rests.append(np.stack([ln.completion.stationarity(net, observed) for net in states]).T)
        least.append(ln.completion.schatten(states[-1].total, depth) / goal)
    return np.array(norms), np.array(rests), share, np.array(least)


def check(data: Data) -> None:
    """Hold observed entries to zero error at t = ∞, population to its start, and the order of the gauges."""
    errors, ranks, last = data["errors"], data["ranks"], -1
    claim("observed entries at t = ∞, natural flows", data["residuals"][1:], at_most=1e-4)
    claim("observed entries where gradient flow was stopped", data["residuals"][0], at_most=1.01 * STOP)
    claim("population: error on unobserved entries, |1 − error| / s", np.abs(errors[3] - 1) / data["scales"][:, None],
          at_most=0.2)  # fmt: skip
    claim("one layer: all flows alike", np.abs(errors[:3, 0] - errors[3, 0]), at_most=0.01)
    middle = np.median(errors, axis=-1)
    claim("minimum norm, L = 3 and 4, smallest start: median error", middle[1, 2:, last], at_most=0.02)
    claim("  against s = 0.1", middle[1, 2:, 0], at_least=0.1)
    claim("minimum norm, L = 2, smallest start: median error", middle[1, 1, last], at_least=0.05, at_most=0.6)
    claim("layerwise, L ≥ 2, all scales: median error", middle[2, 1:], at_least=0.3, at_most=0.95)
    claim("gradient flow, L = 3, smallest start: median error", middle[0, 2, last], at_most=0.05)
    claim("population: median effective rank", np.median(ranks[3], axis=-1), at_least=5.0)
    excess = np.median(ranks[1, 2:, last] - data["true_ranks"], axis=-1)
    claim(
        "minimum norm, L = 3 and 4, smallest start: effective rank above the truth",
        np.abs(excess),
        at_most=0.1,
    )
    claim("‖φ‖² along the flow, largest increase", np.diff(data["norms"], axis=-1), at_most=1e-3)
    claim("‖φ‖² at the end over ‖W*‖ of Schatten, L ≥ 2", data["norms"][..., -1], at_most=1.35)
    gap = np.abs(data["norms"][..., -1] / data["least"] - 1)
    claim("layers at the end: balanced, ‖φ‖² over that of W", gap, at_most=0.02)
    claim("distance from rest at the end", np.median(data["rests"][..., -1], axis=-1), at_most=0.15)


def draw(data: Data) -> Figure:
    """Draw errors against the scale for each depth, ranks, the descent of the rescaled norm."""
    figure, axes = plt.subplots(2, 3, figsize=(7.0, 4.2))
    looks = list(zip(NAMES, (GREY, SERIES[0], SERIES[1], BLACK), DASHES, MARKERS, strict=False))
    flat = axes.ravel()
    for i, depth in enumerate(DEPTHS[1:]):
        for k, (name, colour, dash, marker) in enumerate(looks):
            low, middle, high = np.percentile(data["errors"][k, i + 1], (25, 50, 75), axis=-1)
            flat[i].fill_between(data["scales"], low, high, color=colour, alpha=0.2, lw=0)
            flat[i].plot(data["scales"], middle, color=colour, ls=dash, marker=marker, ms=3.5, label=name)
        flat[i].set(xscale="log", xlabel="scale $s$ of the start", ylim=(-0.04, 1.12), title=f"$L={depth}$")
        flat[i].invert_xaxis()
    flat[0].set_ylabel("unobserved error")
    for k, (_, colour, dash, marker) in enumerate(looks):
        low, middle, high = np.percentile(data["ranks"][k, :, -1], (25, 50, 75), axis=-1)
        flat[3].fill_between(data["depths"], low, high, color=colour, alpha=0.2, lw=0)
        flat[3].plot(data["depths"], middle, color=colour, ls=dash, marker=marker, ms=3.5)
    flat[3].axhline(np.median(data["true_ranks"]), color=GREY, lw=0.8)
    flat[3].annotate("$W^*$", (1, np.median(data["true_ranks"])), xytext=(0, -9), textcoords="offset points")
    flat[3].set(xlabel="depth $L$", ylabel="effective rank", xticks=data["depths"], ylim=(1.2, 7.6))
    flat[3].set_title(f"rank, $s=10^{{{round(np.log10(data['scales'][-1]))}}}$")
    for i, depth in enumerate(DEPTHS[1:]):
        colour, dash = SERIES[i], DASHES[i]
        flat[4].semilogx(
            data["times"], np.median(data["norms"][i], axis=0), color=colour, ls=dash, label=f"$L={depth}$"
        )
        flat[5].loglog(
            data["times"], np.median(data["rests"][i], axis=0), color=colour, ls=dash, label=f"$L={depth}$"
        )
    flat[4].axhline(1, color=GREY, lw=0.8)
    flat[4].set(xlabel=r"$1-e^{-t}$", ylabel=r"$\|\varphi\|^2$ over that of $W^*$")
    flat[4].set_title("minimum norm: shrinks")
    flat[4].legend()
    flat[5].set(xlabel=r"$1-e^{-t}$", ylabel=r"$\|(I-J_\Omega^+J_\Omega)\varphi\|/\|\varphi\|$")
    flat[5].set_title("and approaches rest")
    flat[5].set_ylim(1e-2, 1)
    decades(flat[5])
    label_panels(axes)
    figure.suptitle("Matrix completion: the metric and the gauge decide")
    figure.legend(*flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def table(data: Data) -> str:
    """Return medians and quartiles of error and effective rank as text."""
    lines = [
        f"true effective rank {np.median(data['true_ranks']):.2f}; error and effective rank: median [quartiles]"
    ]
    for i, depth in enumerate(data["depths"]):
        for j, scale in enumerate(data["scales"]):
            for k, name in enumerate(NAMES):
                low, middle, high = np.percentile(data["errors"][k, i, j], (25, 50, 75))
                least, rank, most = np.percentile(data["ranks"][k, i, j], (25, 50, 75))
                head = f"L={depth} s={scale:.0e} {name:37s}"
                lines.append(
                    f"{head} {middle:7.4f} [{low:.4f}, {high:.4f}] {rank:5.2f} [{least:.2f}, {most:.2f}]"
                )
    return "\n".join(lines)
