"""How much of the exact natural gradient's decrease does each approximation achieve? Statements O1, O2, O3.

A tanh network 64-16-16-10 learns the first digits, all rows at once. At three points of its way, and for four dampings
λ, each approximation's direction is compared with the exact damped natural gradient (F + λI)⁻¹∇ℓ of the dense Fisher
matrix: the fraction of the largest decrease of the quadratic model that the direction achieves at its own best length
(a to c), and, layer by layer, the cosine of the angle to the exact direction's part at λ = 0.01 (d). Statistics come
from eight draws of the model's targets for every row. The way there is that of K-FAC with a fixed rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures._common import BLACK, DASHES, MARKERS, SERIES, Array, Data, claim, label_panels, publish
from linnat.data.sets import load_data
from linnat.nonlinear import Network, curvature, initial
from linnat.nonlinear.comparison import METHODS, compare
from linnat.nonlinear.optimisers import Batch, Preconditioned
from linnat.nonlinear.preconditioners import Info, Kfac

STATEMENTS = ("O1", "O2", "O3")

SHOWN = ("gradient", "diagonal", "unit-wise", "prong", "online", "kfac", "kfac-tridiagonal", "ekfac")
DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1)
POINTS = (0, 5, 40)
LAYERS = 2  # index of the damping shown by layers


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


@dataclass(frozen=True)
class Exact:
    """The exact solution as a method: what it is measured to achieve must be all."""

    matrix: Array
    damping: float = 1.0

    def init(self, net: Network, dtype: Any = np.float64) -> None:
        """Return nothing: there is no state."""

    def update(self, state: None, statistics: Any) -> tuple[None, Info]:
        """Do nothing."""
        return None, Info(False)

    def apply(self, state: None, gradient: Array) -> Array:
        """Return (F + λI)⁻¹ times the gradient, by the eigenvectors of F."""
        values, vectors = np.linalg.eigh(self.matrix)
        return np.asarray(vectors @ ((vectors.T @ gradient) / (values + self.damping)))


def measure(quick: bool) -> dict[str, Array]:
    """Return decreases and cosines, (points, dampings, methods), cosines by layers, losses."""
    digits = load_data("digits")
    rows = 60 if quick else 400
    x, y = digits.x[:rows] / digits.x.max(), np.asarray(digits.targets(10))[:rows].astype(float)
    net = Network((64, 8, 8, 10) if quick else (64, 16, 16, 10), "tanh", "categorical")
    method = Preconditioned(Kfac(damping=1e-2), 0.3)
    state, rng = method.init(net, initial(net, "glorot", rng=0)), np.random.default_rng(0)
    chosen = {name: METHODS[name] for name in SHOWN}
    decrease, layers, losses, exact = [], [], [], []
    for update in range(POINTS[-1] + 1):
        if update in POINTS:
            found = compare(
                net,
                state.theta.copy(),
                x,
                y,
                methods=chosen,
                dampings=DAMPINGS,
                draws=2 if quick else 8,
                rng=1,
            )
            shape = len(DAMPINGS), len(SHOWN)
            point = state.theta.copy()
            own = {"exact": Exact(curvature.true_fisher(net, point, x).dense())}
            exact.append([r.decrease for r in compare(net, point, x, y, methods=own, dampings=DAMPINGS)])
            decrease.append(np.array([r.decrease for r in found]).reshape(shape))
            layers.append(np.array([r.layer_cosines for r in found]).reshape(*shape, net.depth))
        state, report = method.step(state, Batch(x, y), rng)
        if update in POINTS:
            losses.append(report.loss)
    return {
        "decrease": np.array(decrease),
        "exact": np.array(exact),
        "layers": np.array(layers),
        "losses": np.array(losses),
        "points": np.array(POINTS),
        "dampings": np.array(DAMPINGS),
    }


def check(data: Data) -> None:
    """Hold the fractions to their range, and what must be better to being so on the whole."""
    claim("the exact direction's fraction", np.abs(data["exact"] - 1.0), at_most=1e-8)
    claim("fractions of the exact decrease", data["decrease"], at_least=0.0, at_most=1.0 + 1e-9)
    claim("the best of these, from the exact one", 1.0 - data["decrease"].max(), at_most=0.09)
    claim("and none is exact", 1.0 - data["decrease"].max(), at_least=0.01)
    place = {name: k for k, name in enumerate(SHOWN)}
    mean = data["decrease"].mean(axis=(0, 1))
    for better, worse in (
        ("kfac", "gradient"),
        ("kfac", "prong"),
        ("kfac", "online"),
        ("kfac-tridiagonal", "kfac"),
    ):
        gain = float(mean[place[better]] - mean[place[worse]])
        claim(f"mean fraction, {better} above {worse}", gain, at_least=-0.005)
    claim("loss, from the first point to the last", data["losses"][-1] / data["losses"][0], at_most=0.5)


def draw(data: Data) -> Figure:
    """Draw fractions against damping at three points, cosines by layers."""
    figure, axes = plt.subplots(1, 4, figsize=(8.3, 2.8))
    looks = list(zip(SHOWN, (BLACK, *SERIES), (*MARKERS, "*"), (*DASHES, *DASHES), strict=False))
    for panel, (point, loss) in enumerate(zip(data["points"], data["losses"], strict=True)):
        for k, (name, colour, marker, dash) in enumerate(looks):
            axes[panel].semilogx(
                data["dampings"], data["decrease"][panel][:, k], marker=marker, color=colour, ls=dash, lw=1.1, ms=4,
                mfc="white", label=name.replace("kfac", "K-FAC").replace("eK-FAC", "EKFAC").replace("prong", "PRONG"),
            )  # fmt: skip
        axes[panel].set(xlabel=r"damping $\lambda$", ylim=(-0.02, 1.02))
        axes[panel].set_title(f"update {point}, loss {loss:.2g}")
    axes[0].set_ylabel("fraction of the exact decrease")
    layers = data["layers"][1, LAYERS]
    places = np.arange(1, layers.shape[1] + 1)
    for k, (_, colour, marker, _) in enumerate(looks):
        axes[3].plot(
            places + 0.06 * (k - 3.5), layers[k], marker=marker, color=colour, ls="", ms=4.5, mfc="white"
        )
    axes[3].set(xlabel="layer", xticks=places, ylim=(-0.05, 1.02), ylabel="cosine to the exact direction")
    axes[3].set_title(rf"update {data['points'][1]}, $\lambda={data['dampings'][LAYERS]:g}$")
    label_panels(axes)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=8, fontsize="small")
    figure.suptitle("Approximations of the natural gradient, against the exact one")
    return figure
