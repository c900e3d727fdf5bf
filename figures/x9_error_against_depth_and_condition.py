"""How many digits does the natural gradient keep? Statement X9.

Never multiply layers, never square a factor. Relative error of the layerwise natural gradient by three routes:
chains of per-layer factors (the package), pseudo-inverses of the products B_i and A_i, and the textbook's
inverses of Λ = AAᵀ and Λ̃ = BᵀB. The last two are given the true ranks. Truth: decimal arithmetic of hundreds
of digits on the very same floats. Medians over random networks, bars from the smallest to the largest error.

(a) Gaussian 8 × 8 layers against depth. (b) A bottleneck against the condition κ of each layer. (c) Networks on
which the chain loses digits too: hidden layers wider than the output whose last layers live on the weak rows of
the ones before, error ~ eps κ³ for three such layers (from κ = 1e5 on their rank is undetermined, and the
package warns). Thin line: the package's own estimate from perturbed reruns.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

import linnat as ln
from figures import _truth
from figures._common import (
    BLUE,
    GREEN,
    GREY,
    VERMILLION,
    Array,
    Data,
    claim,
    decades,
    label_panels,
    publish,
    rotation,
)

STATEMENTS = ("X9",)

DEPTHS = (2, 4, 8, 16, 32, 64)
CONDITIONS = (1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8)
WEAK = (1e0, 10**0.5, 1e1, 10**1.5, 1e2, 10**2.5, 1e3, 10**3.5, 1e4)
BOTTLENECK = (6, 6, 6, 3, 6, 6, 6)
ROUTES = (
    (BLUE, "o", "-", "chains"),
    (VERMILLION, "s", (0, (5, 1.5)), "products"),
    (GREEN, "^", (0, (1.2, 1.2)), "textbook"),
)
EPS = float(np.finfo(float).eps)
TOP = 10.0


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return errors (case, seed, [chains, products, textbook, estimate]) of the three families."""
    seeds = 2 if quick else 11
    depths = DEPTHS[:4] if quick else DEPTHS
    conditions = CONDITIONS[::4] if quick else CONDITIONS
    weak = WEAK[::4] if quick else WEAK
    return {
        "depths": np.array(depths),
        "by_depth": np.array([[errors(gaussian(d, s), 60 + 2 * d, s) for s in range(seeds)] for d in depths]),
        "conditions": np.array(conditions),
        "by_condition": np.array(
            [[errors(conditioned(c, s), 220, s) for s in range(seeds)] for c in conditions]
        ),
        "weak": np.array(weak),
        "by_weakness": np.array([[errors(weak_rows(c, s), 160, s) for s in range(seeds)] for c in weak]),
    }


def gaussian(depth: int, seed: int) -> ln.LinearNetwork:
    """Return Gaussian 8 × 8 layers."""
    return ln.LinearNetwork.random((8,) * (depth + 1), rng=np.random.default_rng([seed, depth]))


def conditioned(condition: float, seed: int) -> ln.LinearNetwork:
    """Return a bottleneck whose layers have singular values from 1 to 1/κ."""
    rng = np.random.default_rng([seed, 6])
    layers = []
    for inputs, outputs in itertools.pairwise(BOTTLENECK):
        rank = min(inputs, outputs)
        values = np.geomspace(1, 1 / condition, rank)
        layers.append((rotation(outputs, rng)[:, :rank] * values) @ rotation(inputs, rng)[:, :rank].T)
    return ln.LinearNetwork(layers)


def weak_rows(condition: float, seed: int) -> ln.LinearNetwork:
    """Return 2-4-4-4-4-2 where each of the last layers reads the two weak left singular vectors of the one before."""
    rng = np.random.default_rng([seed, 4])
    values = np.array([1, 1, 1 / condition, 1 / condition])
    frames = [rotation(4, rng) for _ in range(4)]
    # W_i = U_i diag(1, 1, δ, δ) U_{i−1}ᵀ keeps the weak pair weak all the way down; a generic first layer ends it.
    middle = [(frames[i + 1] * values) @ frames[i].T for i in range(3)]
    first, last = rng.standard_normal((4, 2)), rng.standard_normal((2, 2)) @ frames[3][:, 2:].T
    return ln.LinearNetwork([first, *middle, last])


def errors(net: ln.LinearNetwork, digits: int, seed: int) -> Array:
    """Return the relative errors of the three routes and the package's estimate, white input and noise."""
    teacher = np.random.default_rng([seed, 99]).standard_normal((net.widths[-1], net.widths[0]))
    task = ln.Task(teacher)
    truth = ln.flatten(_truth.staircase(net.weights, teacher, digits))

    def relative(direction: tuple[Array, ...]) -> float:
        found = float(np.linalg.norm(ln.flatten(direction) - truth) / np.linalg.norm(truth))
        return found if found < 1e30 else 1e30

    chains, estimate = relative(ln.natural_gradient(net, task)), float(ln.error_estimate(net, task).relative)
    return np.array([chains, relative(by_products(net, task)), relative(by_textbook(net, task)), estimate])


def by_products(net: ln.LinearNetwork, task: ln.Task) -> tuple[Array, ...]:
    """Return N2 from the singular value decompositions of the products B_i and A_i, cut at the true rank."""

    def side(matrix: Array, rank: int) -> tuple[Array, Array]:
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        left, values, right = left[:, :rank], values[:rank], right[:rank]
        return (right.T / values) @ left.T, left @ left.T

    outputs = [side(b, r) for b, r in zip(net.after, output_ranks(net), strict=True)]
    inputs = [side(a.T, r) for a, r in zip(net.before, input_ranks(net), strict=True)]
    return combine(net, task, outputs, [(pinv.T, q) for pinv, q in inputs])


def by_textbook(net: ln.LinearNetwork, task: ln.Task) -> tuple[Array, ...]:
    """Return N2 from the pseudo-inverses of Λ̃ = BᵀB and Λ = AAᵀ, cut at the true rank."""

    def side(matrix: Array, rank: int) -> tuple[Array, Array]:
        values, vectors = np.linalg.eigh(matrix.T @ matrix)
        values, vectors = values[len(values) - rank :], vectors[:, len(values) - rank :]
        pinv = ((vectors / values) @ vectors.T) @ matrix.T
        return pinv, matrix @ pinv

    outputs = [side(b, r) for b, r in zip(net.after, output_ranks(net), strict=True)]
    inputs = [side(a.T, r) for a, r in zip(net.before, input_ranks(net), strict=True)]
    return combine(net, task, outputs, [(pinv.T, q) for pinv, q in inputs])


def output_ranks(net: ln.LinearNetwork) -> list[int]:
    """Return the generic ranks of B_1 … B_L."""
    return [min(net.widths[i:]) for i in range(1, net.depth + 1)]


def input_ranks(net: ln.LinearNetwork) -> list[int]:
    """Return the generic ranks of A_1 … A_L."""
    return [min(net.widths[:i]) for i in range(1, net.depth + 1)]


def combine(
    net: ln.LinearNetwork,
    task: ln.Task,
    outputs: list[tuple[Array, Array]],
    inputs: list[tuple[Array, Array]],
) -> tuple[Array, ...]:
    """Return −B_i⁺ [Σ ΔP_k E ΔQ_l / (l − k + 1)] A_i⁺ from pairs (pseudo-inverse, projector)."""
    error, depth = task.teacher - net.total, net.depth
    p, q = [0, *output_ranks(net)], [*input_ranks(net), 0]
    rises = {k: outputs[k][1] - (outputs[k - 1][1] if p[k] else 0) for k in range(depth) if p[k + 1] > p[k]}
    falls = {m: inputs[m][1] - (inputs[m + 1][1] if q[m + 1] else 0) for m in range(depth) if q[m] > q[m + 1]}
    result = []
    for i in range(depth):
        parts = [
            a @ error @ b / (m - k + 1) for k, a in rises.items() for m, b in falls.items() if k <= i <= m
        ]
        result.append(-outputs[i][0] @ sum(parts) @ inputs[i][0])
    return tuple(result)


def medians(values: Array) -> Array:
    """Return medians over seeds, (case, column)."""
    return np.median(values, axis=1)


def check(data: Data) -> None:
    """Hold the chains to X9 and show where the others fail."""
    depth, condition, weak = (medians(data[key]) for key in ("by_depth", "by_condition", "by_weakness"))
    last = data["depths"][-1]
    claim("Gaussian layers: median error of the chains, every depth", depth[:, 0], at_most=1e-11)
    claim(f"Gaussian layers, depth {last}: products over chains", depth[-1, 1] / depth[-1, 0], at_least=1e5)
    claim(f"Gaussian layers, depth {last}: textbook has no digit", depth[-1, 2], at_least=0.1)
    size = len(BOTTLENECK) * max(BOTTLENECK)
    claim(
        "bottleneck: median error of the chains over eps × size × κ",
        condition[:, 0] / (EPS * size * data["conditions"]),
        at_most=10.0,
    )
    hard = data["conditions"] >= 1e4
    claim("bottleneck, κ ≥ 1e4: products over chains", condition[hard, 1] / condition[hard, 0], at_least=1e3)
    claim("bottleneck, κ ≥ 1e4: textbook has no digit", condition[hard, 2], at_least=0.1)
    law = EPS * data["weak"] ** 3
    claim("weak rows: median error of the chains over eps κ³", weak[:, 0] / law, at_least=0.1, at_most=10.0)
    every = np.concatenate([data[key].reshape(-1, 4) for key in ("by_depth", "by_condition", "by_weakness")])
    claim("estimate over true error of the chains, every network", every[:, 3] / every[:, 0], at_least=1.0)


def draw(data: Data) -> Figure:
    """Draw errors against depth, condition and weakness."""
    figure, axes = plt.subplots(1, 3, sharey=True, figsize=(7.0, 3.1))
    for axis, x, key in (
        (axes[0], "depths", "by_depth"),
        (axes[1], "conditions", "by_condition"),
        (axes[2], "weak", "by_weakness"),
    ):
        _routes(axis, data[x], data[key])
    axes[0].set(xlabel=r"depth $L$", ylabel="relative error of the natural gradient", xticks=data["depths"])
    axes[0].set_xticklabels([str(d) for d in data["depths"]])
    for axis in axes:
        axis.xaxis.set_minor_locator(NullLocator())
        axis.margins(x=0.08)
    axes[0].set_title(r"Gaussian $8\times8$ layers")
    axes[1].set(xlabel=r"condition of each layer $\kappa$")
    axes[1].set_title("-".join(map(str, BOTTLENECK)))
    axes[2].set(xlabel=r"condition of each layer $\kappa$")
    axes[2].set_title("2-4-4-4-4-2, weak rows")
    axes[0].set_ylim(1e-17, 3 * TOP)
    decades(axes[0], 4)
    handles = [Line2D([], [], color=c, marker=m, ls=d, mfc="white", label=n) for c, m, d, n in ROUTES]
    handles.append(Line2D([], [], color=GREY, lw=0.9, label="estimate (chains)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    label_panels(axes)
    figure.suptitle(
        "Chains of factors keep the digits that products and normal equations lose; (c) is the exception"
    )
    return figure


def _routes(axis: Axes, x: Array, values: Array) -> None:
    axis.set_xscale("log")
    shown = np.minimum(values, TOP)
    middle, low, high = np.median(shown, axis=1), shown.min(axis=1), shown.max(axis=1)
    axis.loglog(x, middle[:, 3], color=GREY, lw=0.9)
    axis.axhspan(1.0, 3 * TOP, color="0.93", lw=0, zorder=0)
    for column, (colour, marker, dash, _) in enumerate(ROUTES):
        bars = (middle[:, column] - low[:, column], high[:, column] - middle[:, column])
        axis.errorbar(
            x,
            middle[:, column],
            bars,
            fmt=marker,
            ls=dash,
            color=colour,
            mfc="white",
            lw=1.2,
            elinewidth=0.7,
            ms=4,
        )
    if x[-1] < 1e3:
        axis.text(x[0], 4.0, "no digit", va="center", color=GREY)
