"""Which root do the layers realise under natural gradient descent? Statement D2.

A step of size η takes the factor z of a mode (a layer in units of the principal L-th root of its target) to
a relaxed Newton step for z^L = 1. For η = 1 these are half-planes for L = 2 and Newton's fractal for L ≥ 3;
a smaller η smooths the boundaries and does not remove them. Each colour is the basin of one of the L roots
(circles); white: no root is reached within the steps. Colours come from the package, claims from Newton's
iteration on the polynomial and from networks that take the steps.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

import linnat as ln
from figures._common import Array, Data, claim, publish

STATEMENTS = ("D2",)

DEPTHS = (2, 3, 4, 5)
ETAS = (1.0, 0.3)
REACH = 2.0
TURN = 1e-4
# White: nothing reached. The roots' colours differ in lightness, so that neighbours differ in grey too.
COLOURS = ("#FFFFFF", "#F4E8C1", "#0072B2", "#E69F00", "#12352A", "#C45A8D")


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return the roots reached over the plane (η, L, imaginary, real), by two routes, and by networks."""
    size = 60 if quick else 320  # even: no start lies on an axis
    axis = REACH * (2 * np.arange(size) + 1 - size) / size
    # Turned a little: on the lines of symmetry Newton's iteration goes nowhere.
    plane = (axis[None, :] + 1j * axis[:, None]) * np.exp(1j * TURN)
    steps = 250
    roots = np.array(
        [[ln.descent.root_basin(plane, eta, depth, steps).root for depth in DEPTHS] for eta in ETAS]
    )
    thin = slice(None, None, 4)
    again = np.array([[newton(plane[thin, thin], eta, depth, steps) for depth in DEPTHS] for eta in ETAS])
    starts, reached = networks(size=40 if quick else 200)
    return {
        "axis": axis,
        "roots": roots.astype(np.int8),
        "newton": again.astype(np.int8),
        "network_starts": starts,
        "network_roots": reached,
        "network_expected": np.array([[basin_at(z, depth) for z in starts] for depth in DEPTHS]),
    }


def newton(start: Array, eta: float, depth: int, steps: int) -> Array:
    """Return the root within 1e-6 after relaxed Newton steps for p(z) = z^L − 1 by Horner's rule, or −1."""
    z = start.copy()
    for _ in range(steps):
        value, slope = np.ones_like(z), np.zeros_like(z)
        for coefficient in [0.0] * (depth - 1) + [-1.0]:
            slope = slope * z + value
            value = value * z + coefficient
        z = z - eta * value / slope
    roots = np.exp(2j * np.pi * np.arange(depth) / depth)
    distance = np.abs(z[..., None] - roots)
    return np.where(distance.min(axis=-1) < 1e-6, distance.argmin(axis=-1), -1)


def real_form(z: Array) -> Array:
    """Return complex numbers as real 2 × 2 matrices."""
    return np.moveaxis(np.array([[z.real, -z.imag], [z.imag, z.real]]), (0, 1), (-2, -1))


def networks(size: int) -> tuple[Array, Array]:
    """Return starts z and the roots (L, start) that networks reach in steps of η = 1 (layers z, target I)."""
    rng = np.random.default_rng(0)
    starts = 1.8 * np.sqrt(rng.uniform(0.05, 1, size)) * np.exp(2j * np.pi * rng.uniform(size=size))
    reached = []
    for depth in DEPTHS:
        net, task = ln.LinearNetwork([real_form(starts)] * depth), ln.Task(np.eye(2))
        for _ in range(60):
            step = ln.natural_gradient(net, task)
            net = net.replace_layers([w - u for w, u in zip(net.weights, step, strict=True)])
        ends = net.weights[0][:, 0, 0] + 1j * net.weights[0][:, 1, 0]
        index = np.rint(np.angle(ends) * depth / (2 * np.pi)).astype(int) % depth
        arrived = np.abs(ends - np.exp(2j * np.pi * index / depth)) < 1e-6
        reached.append(np.where(arrived, index, -1))
    return starts, np.array(reached)


def basin_at(z: complex, depth: int) -> int:
    """Return the root that one start reaches at η = 1."""
    return int(ln.descent.root_basin(np.array([z]), 1.0, depth, 60).root[0])


def check(data: Data) -> None:
    """Hold the basins to Newton's iteration, half-planes and networks."""
    roots, axis = data["roots"], data["axis"]
    plane = axis[None, :] + 1j * axis[:, None]
    differ = (roots[:, :, ::4, ::4] != data["newton"]).mean(axis=(-1, -2))
    claim("share of starts where Newton on z^L − 1 by Horner's rule ends elsewhere", differ, at_most=2e-3)
    half = np.where((plane * np.exp(1j * TURN)).real > 0, 0, 1)
    claim(
        "L = 2: starts outside of their half-plane, η = 1 and relaxed",
        (roots[:, 0] != half).mean(axis=(-1, -2)),
        at_most=0.0,
    )
    claim("share of starts that reach no root", (roots == -1).mean(axis=(-1, -2)), at_most=2e-3)
    shares = np.array(
        [[(roots[e, d] == 0).mean() * depth for d, depth in enumerate(DEPTHS)] for e in range(len(ETAS))]
    )
    claim(
        "L ≤ 4: share of each root times L, |· − 1| (rotation symmetry, on a square)",
        np.abs(shares[:, [0, 2]] - 1),
        at_most=0.02,
    )
    nearest = np.array([sector(plane, depth) for depth in DEPTHS])
    away = (roots[0] != nearest).mean(axis=(-1, -2))
    claim(
        "L ≥ 3, η = 1: share of starts that end elsewhere than at the nearest root", away[1:], at_least=0.03
    )
    claim(
        "share of networks that end elsewhere than their start's basin",
        (data["network_roots"] != data["network_expected"]).mean(axis=1),
        at_most=0.02,
    )


def sector(plane: Array, depth: int) -> Array:
    """Return the index of the nearest root for each start."""
    return np.asarray(np.rint(np.angle(plane) * depth / (2 * np.pi)).astype(int) % depth)


def draw(data: Data) -> Figure:
    """Draw a row for each step size, a column for each depth."""
    figure, axes = plt.subplots(len(ETAS), len(DEPTHS), sharex=True, sharey=True, figsize=(7.0, 3.95))
    for row, eta in enumerate(ETAS):
        for column, depth in enumerate(DEPTHS):
            _basins(axes[row, column], data["roots"][row, column], depth)
            if row == 0:
                name = "half-planes" if depth == 2 else "fractal"
                axes[row, column].set_title(rf"$L={depth}$: {name}", loc="center")
        kind = "Newton" if eta == 1 else "relaxed"
        axes[row, 0].set_ylabel(rf"$\eta={eta:g}$, {kind}" + "\n" + r"$\mathrm{Im}\;z_0$")
    for axis in axes[-1]:
        axis.set_xlabel(r"$\mathrm{Re}\;z_0$")
    figure.suptitle(
        r"The start $z_0$ decides which $L$-th root the layers become; from $L=3$ the boundary is a fractal"
    )
    return figure


def _basins(axis: Axes, roots: Array, depth: int) -> None:
    box = (-REACH, REACH, -REACH, REACH)
    axis.imshow(
        roots,
        origin="lower",
        extent=box,
        cmap=ListedColormap(COLOURS),
        vmin=-1,
        vmax=4,
        interpolation="nearest",
    )
    for index in range(depth):
        place = np.exp(2j * np.pi * index / depth)
        axis.plot(place.real, place.imag, "o", ms=6, mfc=COLOURS[index + 1], mec="black", mew=1.1)
    axis.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    for side in ("top", "right"):
        axis.spines[side].set_visible(True)
