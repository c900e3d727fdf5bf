"""What do the figures of approximations measure? Every method at points of two training runs on digits, all at once.

A tanh network 64-16-16-10 with softmax learns all 1797 digits from Glorot's start, by gradient descent with momentum in
minibatches of 100 and by K-FAC on the same minibatches. At the start, after 10 and after 100 updates each
approximation's direction is compared with the exact damped natural gradient of the first 400 rows. Statistics come from
eight draws of the model's targets for every row, TONGA's too: its low-rank blocks are those of layers. Three seeds of
start, order and draws.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from figures._common import BLUE, DASHES, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, Array
from linnat.data.sets import load_data
from linnat.nonlinear import Network, initial
from linnat.nonlinear.comparison import METHODS, Quality
from linnat.nonlinear.optimisers import GradientDescent, Preconditioned
from linnat.nonlinear.preconditioners import Kfac
from linnat.nonlinear.trajectories import along

SHOWN = ("gradient", "diagonal", "unit-wise", "prong", "tonga", "online", "kfac", "kfac-tridiagonal", "ekfac")
DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1)
POINTS = (0, 10, 100)
WAYS = {"momentum": GradientDescent(0.05, 0.9), "K-FAC": Preconditioned(Kfac(damping=1e-2, early=False), 0.1)}
PLACES = (("start", 0), *((way, point) for way in WAYS for point in POINTS[1:]))
SEEDS = 3


@cache
def measured(quick: bool) -> dict[str, Array]:
    """Return arrays (seeds, places, dampings, exact and methods), those by layers with one axis more; losses.

    Places are the start, and two points on each way.
    """
    digits = load_data("digits")
    count, rows, points = (200, 60, (0, 5, 40)) if quick else (None, 400, POINTS)
    x, y = digits.x[:count] / digits.x.max(), np.asarray(digits.targets(10))[:count].astype(float)
    net = Network((64, 8, 8, 10) if quick else (64, 16, 16, 10), "tanh", "categorical")
    methods = {name: METHODS[name] for name in SHOWN}
    found: list[list[tuple[Quality, ...]]] = []
    losses = []
    for seed in range(1 if quick else SEEDS):
        theta, places = initial(net, "glorot", rng=seed), []
        for k, optimiser in enumerate(WAYS.values()):
            places += along(
                net, theta, x, y, optimiser, points if k == 0 else points[1:],
                batch=100, rows=rows, methods=methods, dampings=DAMPINGS, draws=8, rng=seed,
            )  # fmt: skip
        found.append([place.rows for place in places])
        losses.append([place.loss for place in places])
    shape = len(found), len(PLACES), len(DAMPINGS), 1 + len(SHOWN)
    flat = [row for seed in found for place in seed for row in place]
    names = (
        *("cosine", "length", "decrease", "divergence", "moved", "foretold", "reduction"),
        *("layer_cosines", "layer_decreases"),
    )
    data = {name: np.array([getattr(row, name) for row in flat]) for name in names}
    return {
        **{name: values.reshape(*shape, *values.shape[1:]) for name, values in data.items()},
        "losses": np.array(losses),
        "dampings": np.array(DAMPINGS),
    }


class Look(NamedTuple):
    """How a method is drawn."""

    label: str
    colour: str
    marker: str
    dash: Any


LOOKS = {
    "gradient": Look("gradient", GREY, "o", DASHES[0]),
    "diagonal": Look("diagonal", GREY, "s", DASHES[1]),
    "unit-wise": Look("unit-wise", GREEN, "^", DASHES[2]),
    "prong": Look("PRONG", PURPLE, "D", DASHES[3]),
    "tonga": Look("TONGA", ORANGE, "v", DASHES[4]),
    "online": Look("online", SKY, "P", DASHES[2]),
    "kfac": Look("K-FAC", BLUE, "X", DASHES[0]),
    "kfac-tridiagonal": Look("K-FAC tridiagonal", BLUE, "<", DASHES[1]),
    "ekfac": Look("EKFAC", VERMILLION, "*", DASHES[0]),
}


def draw_methods(axis: Axes, lambdas: Array, values: Array) -> None:
    """Draw one line for each method of SHOWN, from values (dampings, exact and methods)."""
    for m, name in enumerate(SHOWN, start=1):
        look = LOOKS[name]
        axis.plot(
            lambdas, values[:, m], marker=look.marker, color=look.colour, ls=look.dash, lw=1.0, ms=3.5,
            mfc="white", label=look.label,
        )  # fmt: skip


def title(place: tuple[str, int], loss: float) -> str:
    """Return what stands above a column."""
    way, point = place
    return f"{way if point == 0 else f'{way}, update {point}'}\nloss {loss:.2g}"


def markdown(decrease: Array, moved: Array, damping: int = 2) -> str:
    """Return a table of medians over seeds at one damping: decrease, and KL moved over the exact step's."""
    head = [title(place, 0.0).split("\n", maxsplit=1)[0] for place in PLACES]
    lines = ["| method | " + " | ".join(head) + " |", "|---" * (1 + len(PLACES)) + "|"]
    for m, name in enumerate(SHOWN, start=1):
        cells = []
        for k in range(len(PLACES)):
            share = np.median(decrease[:, k, damping, m])
            ratio = np.median(moved[:, k, damping, m] / moved[:, k, damping, 0])
            cells.append(f"{share:.2f}, {ratio:.2f}")
        lines.append(f"| {LOOKS[name].label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
