"""In which layers are approximations good, and at which damping? Statements O1, O2, O3, O4.

The two training runs of `figures/_quality.py`, layer by layer. For each place and damping λ: the decrease of the damped
quadratic model that the layer's part of a direction achieves alone, at its own best length, as a fraction of what that
layer could achieve alone. The exact direction's parts belong together, so that alone they are not the best ones either.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures._common import BLACK, Array, Data, claim, label_panels, publish
from figures._quality import PLACES, SHOWN, draw_methods, measured, title

STATEMENTS = ("O1", "O2", "O3", "O4")


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return decreases and cosines (seeds, places, dampings, exact and methods, layers), losses (seeds, places)."""
    data = measured(quick)
    return {name: data[name] for name in ("layer_decreases", "layer_cosines", "losses", "dampings")}


def check(data: Data) -> None:
    """Hold the fractions to their range; blocks of layers leave to their layer what it can do."""
    decreases, cosines = data["layer_decreases"], data["layer_cosines"]
    claim("fractions of a layer's own decrease", decreases, at_least=-1e-9, at_most=1.0 + 1e-9)
    claim("cosines of a layer's part", np.abs(cosines), at_most=1.0 + 1e-9)
    claim("cosine of the exact direction with itself", np.abs(cosines[..., 0, :] - 1.0), at_most=1e-8)
    place = {name: k + 1 for k, name in enumerate(SHOWN)}
    mean = decreases.mean(axis=(0, 1, 2, 4))
    for better, worse in (
        ("kfac", "gradient"),
        ("kfac", "prong"),
        ("ekfac", "kfac"),
        ("unit-wise", "diagonal"),
    ):
        claim(
            f"mean over layers, {better} above {worse}",
            mean[place[better]] - mean[place[worse]],
            at_least=0.0,
        )
    # Methods that know of no other layer are at their best alone: better there than the exact direction's parts.
    claim("EKFAC above the exact direction's parts, alone", mean[place["ekfac"]] - mean[0], at_least=0.0)


def draw(data: Data) -> Figure:
    """Draw a grid of layers and places."""
    depth = data["layer_decreases"].shape[-1]
    figure, axes = plt.subplots(depth, len(PLACES), figsize=(8.3, 5.6), sharex=True, sharey=True)
    losses = np.median(data["losses"], axis=0)
    for k, place in enumerate(PLACES):
        values = np.median(data["layer_decreases"][:, k], axis=0)
        for layer in range(depth):
            axis = axes[layer, k]
            axis.semilogx(data["dampings"], values[:, 0, layer], color=BLACK, lw=2.0, label="exact, its part")
            draw_methods(axis, data["dampings"], values[:, :, layer])
        axes[0, k].set_title(title(place, losses[k]), loc="center", fontsize="small")
        axes[-1, k].set_xlabel(r"damping $\lambda$")
    for layer in range(depth):
        axes[layer, 0].set(ylabel=f"layer {layer + 1}", ylim=(-0.02, 1.04))
    label_panels(axes)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small"
    )
    figure.suptitle("What each layer's part achieves alone, as a fraction of what the layer could")
    return figure
