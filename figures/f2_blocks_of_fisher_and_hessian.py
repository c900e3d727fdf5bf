"""Is the curvature of a deep linear network block-diagonal? Statements F1, F2.

Entries of F, of the Hessian H and of R = H − F at a random network far from its target, layers separated by
lines; then the operator norms ‖F_ij‖ at balanced weights (white input and noise), where all blocks are
equally large. Neither matrix is near block-diagonal: all canonical correlations between two layers are 1.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import linnat as ln
from figures._common import Array, Data, claim, label_panels, publish, rotation

STATEMENTS = ("F1", "F2")

WIDTHS = (3, 3, 3, 3)


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return F, H and H by differences at a random network; block norms and correlations."""
    rng = np.random.default_rng(3)
    net = ln.LinearNetwork([rotation(3, rng) * np.array([1.3, 1.0, 0.8]) for _ in range(3)])
    task = ln.Task(-1.5 * rotation(3, rng))
    values = np.array([2.0, 1.0, 0.5])
    level = ln.LinearNetwork.balanced((rotation(3, rng) * values) @ rotation(3, rng).T, 4)
    at_goal = ln.Task(net.total)
    return {
        "ends": np.cumsum([a * b for a, b in itertools.pairwise(WIDTHS)]),
        "fisher": ln.fisher(net, task),
        "hessian": ln.hessian(net, task),
        "fisher_by_definition": ln.dense.fisher.score_covariance(net, task),
        "hessian_by_differences": ln.dense.fisher.hessian(net, task),
        "hessian_at_target": ln.hessian(net, at_goal) - ln.fisher(net, at_goal),
        "balanced_norms": block_norms(level, ln.Task(np.eye(3))),
        "random_norms": block_norms(net, task),
        "correlations": correlations(net, task),
    }


def block_norms(net: ln.LinearNetwork, task: ln.Task) -> Array:
    """Return the operator norms ‖F_ij‖."""
    layers = range(1, net.depth + 1)
    return np.array([[np.linalg.norm(ln.fisher_block(net, task, i, j), 2) for j in layers] for i in layers])


def correlations(net: ln.LinearNetwork, task: ln.Task) -> Array:
    """Return the singular values of F_ii^{+½} F_ij F_jj^{+½} for all i < j: here all blocks are invertible."""
    found = []
    for i in range(1, net.depth + 1):
        for j in range(i + 1, net.depth + 1):
            first, second = (np.linalg.cholesky(ln.fisher_block(net, task, k, k)) for k in (i, j))
            half = np.linalg.solve(first, ln.fisher_block(net, task, i, j))
            found.append(np.linalg.svd(np.linalg.solve(second, half.T), compute_uv=False))
    return np.array(found)


def check(data: Data) -> None:
    """Hold both matrices to their definitions, and the statements of F2."""
    scale = np.abs(data["hessian"]).max()
    claim(
        "F against the covariance of scores",
        np.abs(data["fisher"] - data["fisher_by_definition"]) / scale,
        at_most=1e-12,
    )
    claim(
        "H against second differences",
        np.abs(data["hessian"] - data["hessian_by_differences"]) / scale,
        at_most=1e-10,
    )
    rest = data["hessian"] - data["fisher"]
    claim(
        "R_ii = 0",
        [np.abs(block).max() for block in diagonal_blocks(rest, data["ends"])],
        at_most=1e-13 * scale,
    )
    claim("H = F at the target", np.abs(data["hessian_at_target"]), at_most=1e-12)
    norms = data["random_norms"]
    ratio = norms**2 / np.outer(np.diag(norms), np.diag(norms))
    claim("‖F_ij‖² / (‖F_ii‖‖F_jj‖) − 1", ratio - 1, at_most=1e-12)
    balanced = data["balanced_norms"] / data["balanced_norms"].mean()
    claim("balanced: norms of the blocks, relative spread", np.abs(balanced - 1), at_most=1e-12)
    claim(
        "canonical correlations between layers, distance from 1",
        np.abs(data["correlations"] - 1),
        at_most=1e-9,
    )
    for name in ("fisher", "hessian"):
        claim(
            f"share of ‖{name}‖² outside of the diagonal blocks",
            off_diagonal_share(data[name], data["ends"]),
            at_least=0.3,
        )


def diagonal_blocks(matrix: Array, ends: Array) -> list[Array]:
    """Return the diagonal blocks."""
    return [matrix[a:b, a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def off_diagonal_share(matrix: Array, ends: Array) -> float:
    """Return the share of the squared Frobenius norm outside of the diagonal blocks."""
    inside = sum(float((block**2).sum()) for block in diagonal_blocks(matrix, ends))
    return 1 - inside / float((matrix**2).sum())


def draw(data: Data) -> Figure:
    """Draw F, H, R and the block norms."""
    figure, axes = plt.subplots(1, 4, figsize=(7.0, 2.35))
    matrices = {
        r"$F$": data["fisher"],
        r"$H=F+R$": data["hessian"],
        r"$R=H-F$": data["hessian"] - data["fisher"],
    }
    top = max(np.abs(m).max() for m in matrices.values())
    for axis, (title, matrix) in zip(axes, matrices.items(), strict=False):
        image = axis.imshow(np.abs(matrix) / top, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
        separate(axis, data["ends"])
        share = off_diagonal_share(matrix, data["ends"])
        axis.set_title(title)
        axis.set_xlabel(f"{100 * share:.0f} % of $\\|\\cdot\\|_F^2$ off\nthe diagonal blocks")
    bar = figure.colorbar(image, ax=axes[:3], fraction=0.02, pad=0.01, ticks=[0, 0.5, 1], shrink=0.75)
    bar.set_label("|entry| / max", labelpad=1)
    norms = data["balanced_norms"] / data["balanced_norms"][0, 0]
    axes[3].imshow(norms, cmap="Greys", vmin=0, vmax=4)
    separate(axes[3], np.arange(1, len(norms) + 1))
    for (i, j), value in np.ndenumerate(norms):
        axes[3].text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8)
    axes[3].set_title(r"$\|F_{ij}\|/\|F_{11}\|$, balanced")
    axes[3].set_xlabel("operator norms\n" + r"($S=I$, $\Pi=I$)")
    label_panels(axes)
    figure.suptitle("Neither the Fisher matrix nor the Hessian is near block-diagonal")
    return figure


def separate(axis: Axes, ends: Array) -> None:
    """Draw the boundaries between layers and name them."""
    for end in ends[:-1]:
        axis.axhline(end - 0.5, color="#0072B2", lw=0.8)
        axis.axvline(end - 0.5, color="#0072B2", lw=0.8)
    starts = np.array([0, *ends[:-1]])
    names = [rf"$W_{k}$" for k in range(1, len(ends) + 1)]
    axis.set(
        xticks=(starts + ends - 1) / 2, yticks=(starts + ends - 1) / 2, xticklabels=names, yticklabels=names
    )
    axis.tick_params(length=0)
    axis.xaxis.set_label_position("bottom")
    for side in ("top", "right"):
        axis.spines[side].set_visible(True)
