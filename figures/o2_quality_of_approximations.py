"""How much of the exact natural gradient does each approximation achieve on the way? Statements O1, O2, O3, O4.

Two training runs on digits (`figures/_quality.py`). Above: the fraction of the largest decrease of the damped quadratic
model that a direction achieves at its own best length, against the damping λ. Below: the divergence that the step of
that length really moves the model by, with what the Fisher matrix foretells for the exact step. The exact step of a
small λ is the best one of a model that it leaves: there approximations lose little by being worse.
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
    """Return decreases and divergences (seeds, places, dampings, exact and methods), losses (seeds, places)."""
    data = measured(quick)
    kept = ("cosine", "length", "decrease", "moved", "foretold", "reduction", "losses", "dampings")
    return {name: data[name] for name in kept}


def check(data: Data) -> None:
    """Hold the fractions to their range, and what must be better to being so on the whole."""
    decrease = data["decrease"]
    claim("the exact direction's fraction", np.abs(decrease[..., 0] - 1.0), at_most=1e-8)
    claim("fractions of the exact decrease", decrease, at_least=0.0, at_most=1.0 + 1e-9)
    claim("cosines", data["cosine"], at_least=0.0, at_most=1.0 + 1e-9)
    others = 1.0 - decrease[..., 1:].max(axis=-1)
    claim("the best of the others, from the exact one", others, at_least=0.01)
    place = {name: k + 1 for k, name in enumerate(SHOWN)}
    mean = decrease.mean(axis=(0, 1, 2))
    for better, worse in (
        ("kfac", "gradient"),
        ("kfac", "prong"),
        ("ekfac", "kfac"),
        ("kfac-tridiagonal", "kfac"),
        ("tonga", "gradient"),
        ("unit-wise", "diagonal"),
    ):
        gain = float(mean[place[better]] - mean[place[worse]])
        claim(
            f"mean fraction, {better} above {worse}", gain, at_least=-0.01
        )  # measured: none of it is a theorem
    small, large = (np.abs(np.log(data["moved"] / data["foretold"]))[:, :, k, 0] for k in (0, -1))
    claim("KL moved over KL foretold by the exact step, λ = 0.1, a factor of", np.exp(large), at_most=2.5)
    claim("and at the least λ it is another one, median", np.median(np.exp(small)), at_least=2.0)
    lost = data["reduction"][:, :, 0, 0]
    claim("loss at the exact step of the least λ: it does not fall, median", np.median(lost), at_most=0.0)
    claim("loss at the exact step of the largest λ: it falls", data["reduction"][:, :, -1, 0], at_least=0.0)
    claim(
        "loss, from the first point to the last of both ways",
        data["losses"][:, [2, 4]] / data["losses"][:, :1],
        at_most=0.5,
    )


def draw(data: Data) -> Figure:
    """Draw fractions and divergences against damping, one column for each place."""
    figure, axes = plt.subplots(2, len(PLACES), figsize=(8.3, 4.6), sharex=True, sharey="row")
    losses, lambdas = np.median(data["losses"], axis=0), data["dampings"]
    for k, place in enumerate(PLACES):
        rows = {name: np.median(data[name][:, k], axis=0) for name in ("decrease", "moved", "foretold")}
        above, below = axes[:, k]
        above.set_xscale("log")
        draw_methods(above, lambdas, rows["decrease"])
        above.axhline(1.0, color=BLACK, lw=2.0)
        draw_methods(below, lambdas, rows["moved"])
        below.loglog(lambdas, rows["moved"][:, 0], color=BLACK, lw=2.0, label="exact")
        below.loglog(
            lambdas, rows["foretold"][:, 0], color=BLACK, lw=2.0, ls=":", label="exact, foretold by F"
        )
        above.set_title(title(place, losses[k]), loc="center", fontsize="small")
        below.set_xlabel(r"damping $\lambda$")
    axes[0, 0].set(ylabel="fraction of the exact decrease", ylim=(-0.02, 1.04))
    axes[1, 0].set_ylabel("KL really moved")
    label_panels(axes)
    lines, words = axes[1, 0].get_legend_handles_labels()
    figure.legend(lines, words, loc="outside lower center", ncols=6, fontsize="small")
    figure.suptitle("Approximations of the natural gradient along two training runs, against the exact one")
    return figure
