"""Which starts pass a singular total weight without breaking? Statement X3.

Two layers, 2-5-2, the natural gradient flow in the minimum-norm gauge, from one total weight W(0) to a W* of the
other orientation: det W is zero on the way. The layers are W_1 = s W̄_1, W_2 = W̄_2/s with balanced W̄: only s
tells the starts apart. λ_min(JJᵀ) stays above c, which the imbalance gives and the flow conserves (a); total
weights are on one line, beyond det W = 0 except from the balanced start, which ends there (b). On the right how
far the parameters travel, over the bound ‖E(0)‖/√c, from random starts of three widths (c).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp

import linnat as ln
from figures._common import BLACK, DASHES, GREY, MARKERS, SERIES, Array, Data, claim, label_panels, publish

STATEMENTS = ("X3",)

SCALES = (1.0, 0.97, 0.85, 0.6)
RATIO = (-1.0, 1.5)  # eigenvalues of W(0)⁻¹W*: the balanced flow ends at log(1 + 1/1)
END = 2.0
HIDDEN = (4, 6, 10)


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return λ_min, its two parts, c, totals along the flows, and distances from random starts."""
    start = np.array([[1.2, 0.4], [-0.3, 0.8]])
    task = ln.Task(start @ np.diag(RATIO))
    balanced = ln.LinearNetwork.balanced(start, 2, width=5)
    times, stop = np.linspace(0, END, 61), float(np.log(2.0))
    paths = []
    for scale in SCALES:
        net = ln.LinearNetwork([scale * balanced.weights[0], balanced.weights[1] / scale])
        grid = times if scale < 1 else np.linspace(0, 0.998 * stop, len(times))
        paths.append((grid, integrate(net, task, grid)))
    states = [path for _, path in paths]
    moved, limits, widths = travel(5 if quick else 25)
    return {
        "scales": np.array(SCALES),
        "times": np.array([grid for grid, _ in paths]),
        "least": np.array([[ln.fisher_eigenvalues(n, task).values[-1] for n in path] for path in states]),
        "parts": np.array([[smallest(n) for n in path] for path in states]),
        "bounds": np.array([[ln.imbalance_bound(n, rtol=1e-7) for n in path] for path in states]),
        "totals": np.array([[n.total for n in path] for path in states]),
        "start": start,
        "teacher": task.teacher,
        "stop": np.array(stop),
        "moved": moved,
        "limits": limits,
        "widths": widths,
    }


def integrate(net: ln.LinearNetwork, task: ln.Task, times: Array) -> list[ln.LinearNetwork]:
    """Return the networks on the flow dθ/dt = −u in the minimum-norm gauge."""

    def slope(_: float, vector: Array) -> Array:
        state = net.replace_layers(ln.unflatten(vector, net))
        return -ln.flatten(ln.natural_gradient(state, task, gauge="minimum-norm"))

    result = solve_ivp(
        slope, (0.0, float(times[-1])), ln.flatten(net.layers), "DOP853", times, rtol=1e-10, atol=1e-12
    )
    if not result.success:
        raise RuntimeError(f"the integrator stopped: {result.message}")
    return [net.replace_layers(ln.unflatten(v, net)) for v in result.y.T]


def smallest(net: ln.LinearNetwork) -> float:
    """Return σ_min(W_2)² + σ_min(W_1)²."""
    return float(sum(np.linalg.svd(w, compute_uv=False)[-1] ** 2 for w in net.weights))


def travel(seeds: int) -> tuple[Array, Array, Array]:
    """Return distances travelled, their bounds and hidden widths, from random starts."""
    moved, limits, widths = [], [], []
    for hidden in HIDDEN:
        for seed in range(seeds):
            rng = np.random.default_rng([3, hidden, seed])
            net = ln.LinearNetwork([rng.standard_normal((n, m)) for m, n in ((2, hidden), (hidden, 2))])
            task = ln.Task(3 * rng.standard_normal((2, 2)))
            end = integrate(net, task, np.array([0.0, 16.0]))[-1]
            pairs: Sequence[tuple[Array, Array]] = list(zip(end.layers, net.layers, strict=True))
            moved.append(np.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in pairs)))
            limits.append(float(ln.distance_bound(net, task)))
            widths.append(hidden)
    return np.array(moved), np.array(limits), np.array(widths)


def check(data: Data) -> None:
    """Hold λ_min to its parts and to c, totals to C1's line, distances to their bound."""
    claim(
        "λ_min(JJᵀ) against σ_min(W_2)² + σ_min(W_1)², relative",
        np.abs(data["least"] - data["parts"]) / data["parts"].max(),
        at_most=1e-9,
    )
    off = data["bounds"][1:]
    claim("c along the flow, relative change", np.abs(off / off[:, :1] - 1), at_most=1e-6)
    claim("λ_min(JJᵀ) over c, unbalanced starts", data["least"][1:] / off, at_least=1 - 1e-6)
    claim("the closest approach: λ_min over c", (data["least"][1:] / off).min(), at_most=1.3)
    scales = data["scales"][1:]
    law = (scales**-2 - scales**2) * np.linalg.svd(data["start"], compute_uv=False)[-1]
    claim("c against (s⁻² − s²) σ_min(W(0)), relative", np.abs(off[:, 0] / law - 1), at_most=1e-9)
    claim("c of the balanced start", data["bounds"][0], at_most=0.0)
    weight = np.exp(-data["times"])[:, :, None, None]
    line = data["teacher"] + weight * (data["start"] - data["teacher"])
    claim("total weights against C1's line", np.abs(data["totals"] - line), at_most=1e-6)
    dets = np.linalg.det(data["totals"])
    claim("unbalanced starts: det W at the end over det W(0)", dets[1:, -1] / dets[1:, 0], at_most=-0.5)
    last = data["least"][0, -1] / data["least"][0, 0]
    claim("balanced start: λ_min near the end over its first value", last, at_most=0.02)
    claim("its end against log(1 + 1/|μ|)", abs(data["times"][0, -1] / data["stop"] - 0.998), at_most=1e-9)
    ratios = data["moved"] / data["limits"]
    claim("distance travelled over ‖E(0)‖/√c", ratios, at_most=1.0)
    claim("the largest of these: the bound is of the right size", ratios.max(), at_least=0.3)


def draw(data: Data) -> Figure:
    """Draw λ_min and c, determinants, distances."""
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.9))
    looks = list(zip(data["scales"], (BLACK, *SERIES), DASHES, strict=False))
    for k, (scale, colour, dash) in enumerate(looks):
        times = data["times"][k]
        name = "balanced" if scale == 1 else rf"$s={scale:g}$"
        axes[0].semilogy(times, data["least"][k], color=colour, ls=dash, label=name)
        if scale < 1:
            axes[0].axhline(data["bounds"][k, 0], color=colour, lw=0.7)
            axes[0].annotate("$c$", (END, data["bounds"][k, 0]), xytext=(3, -2), textcoords="offset points",
                             color=colour, annotation_clip=False)  # fmt: skip
        axes[1].plot(times, np.linalg.det(data["totals"][k]), color=colour, ls=dash, lw=2.2 - 0.4 * k)
    axes[0].set(xlabel=r"time $t$", ylabel=r"$\lambda_{\min}(JJ^\top)$", xlim=(0, END))
    axes[0].set_title("conserved floors")
    axes[0].legend(loc="lower right")
    axes[1].axhline(0, color=GREY, lw=0.6)
    axes[1].plot(data["times"][0, -1], np.linalg.det(data["totals"][0, -1]), "x", color=BLACK, ms=7, mew=1.6)
    axes[1].annotate("balanced: ends here", (data["times"][0, -1], 0), xytext=(6, 8),
                     textcoords="offset points", color=BLACK)  # fmt: skip
    axes[1].set(xlabel=r"time $t$", ylabel=r"$\det W(t)$", xlim=(0, END))
    axes[1].set_title("through singular $W$")
    for hidden, colour, marker in zip(HIDDEN, SERIES, MARKERS, strict=False):
        part = data["widths"] == hidden
        axes[2].loglog(data["limits"][part], data["moved"][part], marker, color=colour, mfc="white", ms=3.6,
                       label=rf"$n_1={hidden}$")  # fmt: skip
    ends = np.array([data["moved"].min(), data["limits"].max()])
    axes[2].plot(ends, ends, color=BLACK, ls=DASHES[1], lw=0.9, label="bound")
    axes[2].set(xlabel=r"$\|E(0)\|/\sqrt{c}$", ylabel=r"$\|\theta(\infty)-\theta(0)\|$")
    axes[2].set_title("a short way")
    axes[2].legend(loc="upper left")
    label_panels(axes)
    figure.suptitle("Layers out of balance keep the minimum-norm flow from breaking")
    return figure
