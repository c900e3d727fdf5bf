"""What does it cost to damp the factors in place of their product? Statement N7.

The relative error of factored damping (√λ on each Kronecker factor, K-FAC's) against λ, for three networks: full rank,
ill-conditioned, bottleneck. Above against the block-diagonal matrix, which it approximates: with the factors balanced
by π, without (π = 1), and with the π that is best for weak damping; straight lines are the derived laws c √λ and c/√λ
for K-FAC's π, and no π at all goes below the top of the grey. Below against the whole matrix: the error starts at the
distance of N1's formula from the minimum-norm gauge, along a term in √λ, and ends at 1 − 1/L. Markers are dense solves.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

import linnat as ln
from figures._common import (
    BLACK,
    BLUE,
    DASHES,
    GREEN,
    GREY,
    MARKERS,
    VERMILLION,
    Array,
    Data,
    claim,
    decades,
    label_panels,
    publish,
    rotation,
)

STATEMENTS = ("N7",)

CASES = (("4-4-4-4, condition 3", (4, 4, 4, 4), 3.0), ("4-4-4-4, condition 30", (4, 4, 4, 4), 30.0),
         ("5-2-5, bottleneck", (5, 2, 5), 3.0))  # fmt: skip
CORRECTIONS = ("trace", "none", "weak")
LABELS = (r"$\pi$ of the traces (K-FAC)", r"without, $\pi = 1$", r"$\pi$ best for weak $\lambda$")
LOOKS = tuple(zip((BLUE, VERMILLION, GREEN), MARKERS[:3], DASHES[:3], strict=True))
MASKS = ("block-diagonal", None)
FLOOR, TOP = 3e-5, 3.0


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return errors, floors, series and dense solves: (case, mask, correction, λ), λ in units of ‖F‖."""
    strengths = np.geomspace(1e-20, 1e10, 61 if quick else 151)
    # A dense solve decides no rank: below λ = eps ‖F‖ what J leaves of its null space is of the size of the solution.
    places = np.arange(14, len(strengths), 7) if quick else np.arange(35, len(strengths), 16)
    shape = len(CASES), len(MASKS), len(CORRECTIONS)
    errors, dense = np.empty((*shape, len(strengths))), np.empty((*shape, len(places)))
    weak, strong = np.empty((*shape, 3)), np.empty((*shape, 3))
    floors, tops, limits = np.empty((len(CASES), len(strengths))), np.empty(len(CASES)), np.empty(shape[:2])
    for c, (_, widths, condition) in enumerate(CASES):
        net, task = instance(widths, condition)
        tops[c] = float(ln.fisher_eigenvalues(net, task).values[0])
        for m, mask in enumerate(MASKS):
            for r, correction in enumerate(CORRECTIONS):
                found = ln.factored_damping_error(net, task, tops[c] * strengths, mask, correction=correction)
                errors[c, m, r], limits[c, m] = found.relative, found.weak
                series = ln.factored_damping_series(net, task, mask, correction=correction)
                weak[c, m, r], strong[c, m, r] = series
                chosen = tops[c] * strengths[places]
                dense[c, m, r] = [by_dense_solves(net, task, s, mask, correction) for s in chosen]
            if mask is not None:
                floors[c] = found.floor
    return {
        "strengths": strengths,
        "places": places,
        "errors": errors,
        "dense": dense,
        "weak": weak,
        "strong": strong,
        "floors": floors,
        "tops": tops,
        "limits": limits,
    }


def instance(widths: tuple[int, ...], condition: float) -> tuple[ln.LinearNetwork, ln.Task]:
    """Draw layers of given condition, a teacher far away, correlated inputs and noise on other scales."""
    rng = np.random.default_rng(7)
    weights = []
    for columns, rows in pairwise(widths):
        count = min(rows, columns)
        values = np.geomspace(1.0, 1.0 / condition, count)
        weights.append((rotation(rows, rng)[:, :count] * values) @ rotation(columns, rng)[:count])
    sides = [rotation(n, rng) * np.geomspace(s, s / 3, n) for n, s in ((widths[0], 3.0), (widths[-1], 1.0))]
    moments = [0.5 * (m @ m.T + (m @ m.T).T) for m in sides]
    return ln.LinearNetwork(weights), ln.Task(rng.standard_normal((widths[-1], widths[0])), *moments)


def by_dense_solves(
    net: ln.LinearNetwork, task: ln.Task, damping: float, mask: str | None, correction: str
) -> float:
    """Return the same error from dense factors and least squares in [J; √λ]."""
    factor, whole = np.linalg.cholesky(task.input_cov), np.linalg.cholesky(task.noise_cov)
    error = np.linalg.solve(whole, (task.teacher - net.total) @ factor)
    found, blocks, root = [], [], np.sqrt(damping)
    for before, after in zip(net.before, net.after, strict=True):
        signal, back = before @ factor, np.linalg.solve(whole, after)
        pi = balance(signal, back, error, correction)
        left = damped_inverse(back, root / pi) @ error
        found.append(left @ damped_inverse(signal.T, root * pi).T)
        blocks.append(np.kron(signal.T, back))
    parts = blocks if mask else [np.concatenate(blocks, axis=1)]
    exact = np.concatenate([damped_inverse(b, damping) @ error.ravel(order="F") for b in parts])
    share = 1.0 if mask else 1.0 / net.depth
    flat = share * np.concatenate([v.ravel(order="F") for v in found])
    return float(np.linalg.norm(flat - exact) / np.linalg.norm(exact))


def damped_inverse(matrix: Array, shift: float) -> Array:
    """Return (XᵀX + μ)⁻¹Xᵀ by least squares, without XᵀX."""
    rows, columns = matrix.shape
    stacked = np.concatenate([matrix, np.sqrt(shift) * np.eye(columns)])
    q, r = np.linalg.qr(stacked)
    return np.asarray(np.linalg.solve(r, q[:rows].T))


def balance(signal: Array, back: Array, error: Array, correction: str) -> float:
    """Return π."""
    if correction == "none":
        return 1.0
    if correction == "trace":
        means = np.sum(signal**2) / signal.shape[0], np.sum(back**2) / back.shape[1]
        return float(np.sqrt(means[0] / means[1]))
    outer, inner = np.linalg.pinv(back), np.linalg.pinv(signal)
    u = outer @ error @ inner
    sizes = np.linalg.norm(outer @ (outer.T @ u)), np.linalg.norm((u @ inner.T) @ inner)
    return float(np.sqrt(sizes[0] / sizes[1]))


def check(data: Data) -> None:
    """Hold errors to dense solves, to their laws at both ends, and to the floor."""
    errors, strengths = data["errors"], data["strengths"]
    gap = np.abs(errors[..., data["places"]] - data["dense"]) / (data["dense"] + 1e-4)
    claim("errors of factored damping against dense solves, relative", gap, at_most=1e-4)
    blocks = errors[:, 0]
    claim("blocks: error over the floor of every π", blocks / data["floors"][:, None], at_least=1 - 1e-9)
    claim("floor: the largest, at most one half", data["floors"].max(), at_most=0.5, at_least=0.3)
    claim("blocks: the largest error", blocks.max(axis=-1), at_least=0.4, at_most=1.0)
    weak, strong = first_terms(data)
    for name, law, side, end in (("√λ", weak, "weak", 0), ("1/√λ", strong, "strong", -1)):
        following = np.abs(data[side][:, 0, :, 2] / data[side][:, 0, :, 1]) * step(data, end)[:, None]
        rest = np.abs(blocks[..., end] / law[..., end] - 1)
        claim(
            f"blocks, {side} end: what c{name} leaves, over the next term",
            rest / (following + 1e-6),
            at_most=1.5,
        )
    slopes = np.diff(np.log(blocks[..., :2]), axis=-1) / np.diff(np.log(strengths[:2]))
    claim("blocks: exponent of λ at the weak end", slopes, at_least=0.48, at_most=0.51)
    constants = np.abs(data["weak"][:, 1, :, 0] / data["limits"][:, 1:] - 1)
    claim("whole: constant of the series against the limit, relative", constants, at_most=1e-7)
    claim("whole: distance of N1's formula from the minimum norm", data["limits"][:, 1], at_least=0.05)
    started = errors[:, 1, :, 0] - data["limits"][:, 1:]
    slope = data["weak"][:, 1, :, 1] * step(data, 0)[:, None]
    claim(
        "whole: what the error moves by first, over the term in √λ",
        (started / slope)[[0, 2]],
        at_least=0.9,
        at_most=1.1,
    )
    depths = np.array([len(widths) - 1 for _, widths, _ in CASES])
    claim(
        "whole: strong end against 1 − 1/L",
        np.abs(errors[:, 1, :, -1] - (1 - 1 / depths)[:, None]),
        at_most=1e-3,
    )
    least = data["weak"][:, 0, 2, 1] / data["weak"][:, 0, :2, 1].min(axis=1)
    claim("first-order error of the best π over that of the others", least, at_most=1 + 1e-9)


def step(data: Data, end: int) -> Array:
    """Return √λ at the weak end, 1/√λ at the strong end, for each case."""
    root = np.sqrt(data["tops"] * data["strengths"][end])
    return np.asarray(root if end == 0 else 1 / root)


def first_terms(data: Data) -> tuple[Array, Array]:
    """Return c √λ and c/√λ of the blocks, (case, correction, λ)."""
    root = np.sqrt(data["tops"][:, None] * data["strengths"])[:, None]
    return data["weak"][:, 0, :, 1:2] * root, data["strong"][:, 0, :, 1:2] / root


def draw(data: Data) -> Figure:
    """Draw errors against λ/‖F‖, blocks above, the whole matrix below."""
    figure, axes = plt.subplots(2, len(CASES), sharex=True, sharey="row", figsize=(7.0, 4.3))
    weak, strong = first_terms(data)
    for c, (name, _, _) in enumerate(CASES):
        above, below = axes[0, c], axes[1, c]
        _laws(above, data["strengths"], weak[c, 0], strong[c, 0])
        above.fill_between(data["strengths"], FLOOR, np.maximum(data["floors"][c], FLOOR), color="0.88", lw=0)
        for m, axis in enumerate((above, below)):
            _curves(axis, data, c, m)
        above.set_title(name)
        above.set(xscale="log", yscale="log", ylim=(FLOOR, TOP))
        below.set(xlabel=r"damping $\lambda\,/\,\|F\|$", yscale="log", ylim=(0.4, 4.0))
        below.axhline(1 - 1 / (len(CASES[c][1]) - 1), color=GREY, lw=0.8, ls=(0, (1.2, 1.2)))
        below.plot(
            data["strengths"][0], data["limits"][c, 1], ">", color=BLACK, ms=5, clip_on=False, zorder=5
        )
        below.set_xticks([1e-18, 1e-12, 1e-6, 1.0, 1e6])
        below.set_yticks([0.5, 1.0, 2.0, 4.0], ["0.5", "1", "2", "4"])
        below.yaxis.set_minor_locator(NullLocator())
    decades(axes[0, 0], 1)
    axes[0, 0].set_ylabel("error against\nexactly damped blocks")
    axes[1, 0].set_ylabel("error against\nexactly damped $F$")
    handles = [Line2D([], [], color=c, ls=d, marker=m, mfc="white", label=label)
               for (c, m, d), label in zip(LOOKS, LABELS, strict=True)]  # fmt: skip
    handles += [
        Line2D([], [], color=BLACK, lw=0.8, label=r"laws $c\sqrt{\lambda}$, $c/\sqrt{\lambda}$"),
        Line2D([], [], color="0.8", lw=5, label=r"below every $\pi$"),
        Line2D([], [], color=BLACK, marker=">", ls="none", label=r"limit $\lambda\to0$"),
        Line2D([], [], color=GREY, lw=0.8, ls=(0, (1.2, 1.2)), label="$1-1/L$"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    label_panels(axes)
    figure.suptitle(
        r"Damping the factors errs by $\sqrt{\lambda}$ where damping the matrix errs by $\lambda$"
    )
    return figure


def _laws(axis: Axes, strengths: Array, weak: Array, strong: Array) -> None:
    for law, part in ((weak, strengths < 1e-2), (strong, strengths > 1e1)):
        shown = part & (law < 1)
        axis.plot(strengths[shown], law[shown], color=BLACK, lw=0.8, zorder=4)


def _curves(axis: Axes, data: Data, c: int, m: int) -> None:
    for r, (colour, marker, dash) in enumerate(LOOKS):
        axis.plot(data["strengths"], data["errors"][c, m, r], color=colour, ls=dash, lw=1.3)
        axis.plot(
            data["strengths"][data["places"]],
            data["dense"][c, m, r],
            marker,
            color=colour,
            mfc="white",
            ms=3.4,
        )
