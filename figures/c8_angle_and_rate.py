"""How far apart are the limits of natural and of gradient flow, and how fast is the limit reached? Statement C8.

Random separable data in d dimensions: Gaussian inputs, labels of a random hyperplane, Gaussian start. The solution u*
of the linear program is the maximum-margin direction exactly where G_0 lies in the cone of the support vectors: a share
of the problems that depends on the number of samples and on the dimension (a). Where it does not, the angle between the
two, median and quartiles (b). Predictors of a hundred problems by the tilted loss to t = 1e6: the distance of w/t from
u* over ‖offset‖/t tends to 1, once t exceeds the inverse of the least slack; some of them drawn (c).
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
    ORANGE,
    SERIES,
    Array,
    Data,
    claim,
    label_panels,
    publish,
)

STATEMENTS = ("C8",)

DIMENSIONS = (2, 4, 8)
RATIOS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
FAR = np.array([3.0, 10.0, 30.0, 1e2, 3e2, 1e3, 1e4, 1e5, 1e6])
DRAWN = 14  # of the hundred problems
SAME = 1e-7  # angle below which two solutions are one


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return angles and cones over random problems, and the approach of a hundred predictors."""
    angles, inside = angles_between(15 if quick else 150)
    return {"angles": angles, "inside": inside} | approach(12 if quick else 100)


def problem(key: list[int], samples: int, inputs: int) -> tuple[Array, Array, Array]:
    """Draw separable data, labels and a start."""
    rng = np.random.default_rng([8, *key])
    x = rng.standard_normal((samples, inputs))
    return x, np.where(x @ rng.standard_normal(inputs) > 0, 1.0, -1.0), rng.standard_normal(inputs)


def angles_between(seeds: int) -> tuple[Array, Array]:
    """Return the angles (dimensions, ratios, seeds) and whether G_0 is in the cone of the support vectors."""
    angles = np.empty((len(DIMENSIONS), len(RATIOS), seeds))
    inside = np.empty(angles.shape)
    for a, b, seed in np.ndindex(angles.shape):
        drawn = problem([a, b, seed], max(1, round(RATIOS[b] * DIMENSIONS[a])), DIMENSIONS[a])
        limit = ln.separable.limit_direction(*drawn)
        widest = ln.separable.maximum_margin(*drawn[:2]).direction
        widest = widest / np.linalg.norm(widest)
        # Accurate for small angles, where the cosine is not.
        angles[a, b, seed] = 2 * np.arcsin(min(1.0, np.linalg.norm(limit - widest) / 2))
        inside[a, b, seed] = ln.separable.support_cone(*drawn).inside
    return angles, inside


def approach(count: int) -> dict[str, Array]:
    """Return distances of w/t from u* in units of ‖offset‖/t and of the proved bound, and least slacks."""
    distances, slacks, bounds = [], [], []
    for seed in range(count):
        rng = np.random.default_rng([88, seed])
        inputs = int(rng.integers(2, 7))
        x, labels, start = problem([9, seed], int(rng.integers(inputs + 1, 50)), inputs)
        program = ln.separable.limit_program(x, labels, start)
        paths = ln.geodesics.predictor(FAR, x, (labels + 1) / 2, start)
        gap = np.linalg.norm(paths - FAR[:, None] * program.direction, axis=1)
        distances.append(gap / np.linalg.norm(program.offset))
        bounds.append(np.where(program.bound_from <= FAR, gap, 0.0) / program.bound)
        slacks.append(program.smallest_slack)
    return {"distances": np.array(distances), "slacks": np.array(slacks), "bounds": np.array(bounds)}


def check(data: Data) -> None:
    """Hold equality to the cone, the rate to the offset and to the proved bound."""
    same = data["angles"] < SAME
    claim(
        "limits that are one without G_0 in the cone, or two with it",
        np.abs(same - data["inside"]),
        at_most=0.0,
    )
    share = data["inside"].mean(axis=(0, 2))
    claim("share of problems with one limit, over numbers of samples", share, at_least=0.02, at_most=0.98)
    claim("angles where G_0 is not in the cone", data["angles"][data["inside"] == 0], at_least=SAME)
    claim("their largest, in degrees", np.degrees(data["angles"].max()), at_least=60.0, at_most=180.0)
    ready = FAR * np.minimum(data["slacks"], 1)[:, None] > 40
    claim("problems settled by t = 1e6", ready[:, -1].mean(), at_least=0.95)
    claim(
        "t ‖w/t − u*‖ over ‖offset‖ where settled, less 1", np.abs(data["distances"][ready] - 1), at_most=1e-6
    )
    claim("and over the proved bound, everywhere", data["bounds"], at_most=1.0)


def draw(data: Data) -> Figure:
    """Draw shares, angles and approach."""
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.7))
    for k, size in enumerate(DIMENSIONS):
        look = {
            "color": SERIES[k],
            "marker": MARKERS[k],
            "ls": DASHES[k],
            "mfc": "white",
            "label": f"$d={size}$",
        }
        axes[0].plot(RATIOS, 100 * data["inside"][k].mean(axis=-1), **look)
        apart = [np.degrees(a[i == 0]) for a, i in zip(data["angles"][k], data["inside"][k], strict=True)]
        enough = np.array([len(a) >= 8 for a in apart])
        quartiles = np.array([np.percentile(a, (25, 50, 75)) if len(a) else [np.nan] * 3 for a in apart])
        shift = 1.04 ** (k - 1)
        axes[1].errorbar(np.array(RATIOS)[enough] * shift, quartiles[enough, 1], capsize=1.5, elinewidth=0.8,
                         yerr=np.abs(quartiles[enough][:, [0, 2]] - quartiles[enough][:, 1:2]).T, **look)  # fmt: skip
    axes[0].set(xscale="log", xlabel="samples per dimension $N/d$", ylabel="problems in %", ylim=(-3, 103))
    axes[0].set_title("the two limits agree exactly")
    axes[0].legend(loc="lower right")
    axes[1].set(xscale="log", xlabel="samples per dimension $N/d$", ylabel="angle in degrees", ylim=(0, None))
    axes[1].set_title("angle where they differ")
    axes[1].legend(loc="upper right")
    for axis in axes[:2]:
        axis.set_xticks([0.5, 1, 2, 5, 10, 20], ["½", "1", "2", "5", "10", "20"])
        axis.minorticks_off()
    slack = np.minimum(data["slacks"], 1)
    order = np.argsort(slack)
    for rank, n in enumerate(order):
        if rank % max(1, len(order) // DRAWN):
            continue
        shade = GREY if data["slacks"][n] < 1 else ORANGE
        axes[2].semilogx(FAR * slack[n], data["distances"][n], color=shade, lw=0.8)
    axes[2].axhline(1, color=BLACK, ls=DASHES[1], lw=0.9)
    axes[2].axvline(1, color=GREY, lw=0.6)
    axes[2].set(xlabel=r"time $t\,\min(1, s)$, least slack $s$", ylim=(0, 2), xlim=(4e-3, 3e6),
                ylabel=r"$t\,\|w/t-u^*\|\,/\,\|\mathrm{offset}\|$")  # fmt: skip
    axes[2].set_title("rate of the limit, to $t=10^6$")
    axes[2].annotate("grey: $s<1$\norange: $s>1$", (0.97, 0.06), xycoords="axes fraction", ha="right")
    label_panels(axes)
    figure.suptitle("The limit on separable data: often not the maximum margin, reached at rate $1/t$")
    return figure
