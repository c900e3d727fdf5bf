"""How ill-conditioned is the Fisher matrix of a deep network? Statement S1.

At balanced weights with white inputs the non-zero spectrum of F has the condition number (s₁/s_n)^{2−2/L}
for an invertible square total weight, L (s₁/s_n)^{2−2/L} where n₀ ≠ n_L: worse with every layer, up to the
square of that of the total weight. Lines are the closed form, marks the singular values of a Jacobian by
definition (no product rule, rotated networks). The error of the total weight sees none of it: its natural
gradient flow has condition 1.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import linnat as ln
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

STATEMENTS = ("S1",)

SPREADS = (10.0, 100.0, 1000.0)
SQUARE, WIDE = (4, 4), (4, 6)


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return condition numbers (shape, spread, depth): closed form over depths, dense over some of them."""
    rng = np.random.default_rng(0)
    depths = np.arange(1, 11)
    dense_depths = depths[:4] if quick else depths
    formula = np.empty((2, len(SPREADS), len(depths)))
    dense = np.empty((2, len(SPREADS), len(dense_depths)))
    for a, (outputs, inputs) in enumerate((SQUARE, WIDE)):
        rank = min(outputs, inputs)
        left, right = rotation(outputs, rng)[:, :rank], rotation(inputs, rng)[:, :rank]
        for b, spread in enumerate(SPREADS):
            values = np.geomspace(spread, 1.0, rank)
            for c, depth in enumerate(depths):
                spectrum = ln.balanced_spectrum(values, int(depth), inputs, outputs)
                formula[a, b, c] = spectrum.max() / spectrum[spectrum > 0].min()
            for c, depth in enumerate(dense_depths):
                net = ln.LinearNetwork.balanced((left * values) @ right.T, int(depth))
                dense[a, b, c] = jacobian_condition(net, ln.Task(np.eye(outputs, inputs)))
    sizes = np.array([[min(s), max(s)] for s in (SQUARE, WIDE)])
    return {"depths": depths, "spreads": np.array(SPREADS), "formula": formula, "dense_depths": dense_depths,
            "dense": dense, "sizes": sizes}  # fmt: skip


def jacobian_condition(net: ln.LinearNetwork, task: ln.Task) -> float:
    """Return the condition number of the non-zero part of F = JᵀJ from the singular values of J, by definition."""
    values = np.linalg.svd(ln.dense.fisher.root_jacobian(net, task), compute_uv=False)
    return float((values[0] / values[int(ln.fisher_rank(net, task)) - 1]) ** 2)


def check(data: Data) -> None:
    """Hold the closed form to the dense one and to the laws of S1."""
    depths, spreads, formula = data["depths"], data["spreads"], data["formula"]
    dense = data["dense"]
    error = np.abs(formula[..., : dense.shape[-1]] / dense - 1)
    claim("closed form against singular values of the Jacobian, relative", error, at_most=1e-9)
    law = spreads[:, None] ** (2 - 2 / depths)
    claim("square: κ(F) against (s₁/s_n)^(2−2/L), relative", np.abs(formula[0] / law - 1), at_most=1e-12)
    claim(
        "n₀ ≠ n_L: κ(F) against L (s₁/s_n)^(2−2/L), relative",
        np.abs(formula[1] / (depths * law) - 1),
        at_most=1e-12,
    )
    claim(
        "κ(F) grows with every layer, smallest ratio",
        formula[..., 1:] / formula[..., :-1],
        at_least=1.0 + 1e-9,
    )


def draw(data: Data) -> Figure:
    """Draw condition against depth, square and rectangular."""
    figure, axes = plt.subplots(1, 2, sharey=True, figsize=(7.0, 2.9))
    depths, spreads = data["depths"], data["spreads"]
    styles = ((BLUE, "o", "-"), (VERMILLION, "s", (0, (5, 1.5))), (GREEN, "^", (0, (1.2, 1.2))))
    for a, axis in enumerate(axes):
        for b, (colour, marker, dash) in enumerate(styles):
            axis.semilogy(depths, data["formula"][a, b], ls=dash, color=colour)
            axis.semilogy(data["dense_depths"], data["dense"][a, b], marker, color=colour, mfc="white")
            exponent = round(np.log10(spreads[b]))
            end = (depths[-1], data["formula"][a, b, -1])
            power = "10" if exponent == 1 else f"10^{exponent}"
            axis.annotate(
                rf"$s_1/s_n={power}$",
                end,
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                color=colour,
            )
        axis.axhline(1.0, color=GREY, lw=1.0)
        axis.set(xlabel=r"depth $L$", xticks=depths, xlim=(0.7, 10.3), ylim=(0.5, 3e8))
        decades(axis, 2)
    axes[0].annotate(
        "natural gradient flow, any depth",
        (10.3, 1.0),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        color=GREY,
    )
    axes[0].set_ylabel(r"condition number $\kappa(F)$")
    axes[0].set_title(r"$n_0=n_L$: $\kappa=(s_1/s_n)^{2-2/L}$")
    axes[1].set_title(r"$n_0\neq n_L$: $\kappa=L\,(s_1/s_n)^{2-2/L}$")
    label_panels(axes)
    figure.suptitle(
        "Every layer makes the Fisher matrix worse conditioned (lines: S1; marks: Jacobian by definition)"
    )
    return figure
