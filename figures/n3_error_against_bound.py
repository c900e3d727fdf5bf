"""How many digits do the solvers have, against their bounds? Statements N2, N3, N4, X9.

Three-by-three layers with singular values spaced geometrically over a condition κ, random rotations, a Gaussian
teacher, S = Σ = 1; relative errors of the whole direction against decimal arithmetic of the very floats given; medians
over seeds with markers, the worst as the end of a bar. The layerwise gauge (a), the minimum norm of two layers by the
Sylvester equation (b) and of four by the projection on the complement of the null space, by QR, by LSQR, and by the QR
that stands in where LSQR is cut short (c): all keep 4 eps Σκ, one κ for each layer, while that leaves a digit; at
κ = 1e14 some ranks are undetermined. LSQR on J in singular bases and the dense pseudo-inverse go with the condition of
J, a power of κ. Exact damping (d), by the singular values, a QR or the LSQR of J and by the Sylvester equation of two
layers, keeps 16 eps √(‖F‖/λ) ζ with the cancellation ζ = ‖Ẽ‖/(√λ ‖v‖); layers have the condition √(‖F‖/λ), too. In
float32 the same, at its eps. One step of refinement (e), by a remainder to twice the precision, makes the residual
smaller and the direction better while the residual has digits, here up to κ = 1e4; where it has none left, a step by it
ruins the direction.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

import linnat as ln
from figures._common import (
    BLACK,
    DASHES,
    GREY,
    MARKERS,
    SERIES,
    Array,
    Data,
    claim,
    decades,
    label_panels,
    publish,
    rotation,
)
from figures._truth import minimum_norm, staircase

STATEMENTS = ("N2", "N3", "N4", "X9")

SIZE = 3
POWERS = {"float64": np.arange(0, 15, 2), "float32": np.arange(0, 7, 2)}
ROUTES = (
    "layerwise, $L = 4$",
    "Sylvester, $L = 2$",
    "kernel, QR (d: SVD of $J$)",
    "kernel, LSQR",
    "kernel, fallback (d: QR of $J$)",
    "LSQR on $J$",
    "dense pinv",
)
DAMPED = ("damped, SVD", "damped, QR of $J$", "damped, LSQR on $J$", "damped, Sylvester, $L = 2$")
REFINED = ("error, none", "error, one step", "residual, none", "residual, one step")
CONSTANT, DAMPED_CONSTANT = 4.0, 16.0
DIGIT = 0.1  # a larger bound decides nothing
TOP = 1e2


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return errors (route, κ or √(‖F‖/λ), seed) for both types, Σκ, and errors and residuals with refinement."""
    seeds, thin = (2, 2) if quick else (9, 1)
    data: dict[str, Array] = {}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ln.RankWarning
        )  # at κ = 1e14 a rank may be undetermined, and is reported so
        for name, powers in POWERS.items():
            chosen = powers[::thin]
            data[f"powers_{name}"] = chosen
            runs = [[one(name, int(p), seed) for seed in range(seeds)] for p in chosen]
            for j, key in enumerate(("errors", "sums", "damped", "refined")):
                array = np.array([[run[j] for run in row] for row in runs])
                data[f"{key}_{name}"] = np.moveaxis(array, (0, 1), (-2, -1))  # (…, power, seed)
            data[f"laws_{name}"] = data[f"damped_{name}"][1]
            data[f"damped_{name}"] = data[f"damped_{name}"][0]
    return data


def one(name: str, power: int, seed: int) -> tuple[Array, Array, Array, Array]:
    """Return the errors of all routes, Σκ for four and two layers, damped errors, and what refinement does."""
    dtype, condition, digits = np.dtype(name), 10.0**power, 60 + 40 * power
    deep, task = instance(4, condition, seed, dtype)
    flat, other = instance(2, condition, seed, dtype)
    short = minimum_norm(deep.weights, task.teacher, digits)
    found = [
        error(ln.natural_gradient(deep, task), staircase(deep.weights, task.teacher, digits)),
        error(
            ln.solve_minimum_norm(flat, other).direction, minimum_norm(flat.weights, other.teacher, digits)
        ),
    ]
    for options in (
        {"method": "kernel-qr"},
        {"method": "kernel-lsqr"},
        {"max_iterations": 1},
        {"method": "range-lsqr"},
    ):
        found.append(error(attempt(deep, task, options), short))
    found.append(error(ln.dense.natural.natural_gradient(deep, task, "minimum-norm"), short))
    sums = [sum(np.linalg.cond(w.astype(np.float64)) for w in net.weights) for net in (deep, flat)]
    records = [ln.solve_minimum_norm(deep, task, method="kernel-qr", refinements=r) for r in (0, 1)]
    refined = [*(error(r.direction, short) for r in records), *(float(r.residual) for r in records)]
    return np.array(found), np.array(sums), np.array(damped(power, seed, dtype)), np.array(refined)


def damped(power: int, seed: int, dtype: np.dtype[Any]) -> list[list[float]]:
    """Return errors of exact damping at √(‖F‖/λ) = 10^power, layers of that condition, and √(‖F‖/λ) ζ."""
    errors, laws = [], []
    for depth, methods in ((4, ("svd", "range-qr", "range-lsqr")), (2, ("sylvester",))):
        net, task = instance(depth, 10.0**power, seed, dtype)
        top = float(ln.fisher_eigenvalues(net, task).values[0])
        strength = top * 10.0 ** (-2 * power)
        truth = minimum_norm(net.weights, task.teacher, 60 + 40 * power, strength)
        length = np.sqrt(sum(float(np.sum(v**2)) for v in truth))
        law = 10.0**power * np.linalg.norm(task.teacher - net.total) / (np.sqrt(strength) * length)
        for method in methods:
            try:
                found: Any = ln.solve_damped(net, task, strength, method=method).direction
            except ln.ConvergenceError as stopped:
                found = stopped.estimate
            errors.append(error(found, truth))
            laws.append(float(law))
    return [errors, laws]


def attempt(net: ln.LinearNetwork, task: ln.Task, options: dict[str, Any]) -> Sequence[Array]:
    """Return the direction, or the estimate of what did not converge."""
    if (
        "max_iterations" in options
    ):  # LSQR as for large networks, cut short: the automatic choice goes on with a QR
        try:
            ln.solve_minimum_norm(net, task, method="kernel-lsqr", **options)
        except ln.ConvergenceError:
            return ln.solve_minimum_norm(net, task, **options).direction
    try:
        return ln.solve_minimum_norm(net, task, **options).direction
    except ln.ConvergenceError as stopped:
        estimate: Sequence[Array] = stopped.estimate  # type: ignore[assignment]
        return estimate


def instance(
    depth: int, condition: float, seed: int, dtype: np.dtype[Any]
) -> tuple[ln.LinearNetwork, ln.Task]:
    """Draw layers of this condition and a teacher, in the type."""
    rng = np.random.default_rng([3, depth, seed])
    values = np.geomspace(1.0, 1.0 / condition, SIZE)
    weights = [((rotation(SIZE, rng) * values) @ rotation(SIZE, rng)).astype(dtype) for _ in range(depth)]
    return ln.LinearNetwork(weights), ln.Task(rng.standard_normal((SIZE, SIZE)).astype(dtype))


def error(found: Any, wanted: Sequence[Array]) -> float:
    """Return ‖δv‖/‖v‖ over all layers."""
    pairs = [(np.asarray(a, dtype=np.float64), b) for a, b in zip(found, wanted, strict=True)]
    gap = np.sqrt(sum(float(np.sum((a - b) ** 2)) for a, b in pairs))
    return float(gap / np.sqrt(sum(float(np.sum(b**2)) for _, b in pairs)))


def check(data: Data) -> None:
    """Hold every solver to its bound, at every condition and seed, and show what the others lose."""
    for name in POWERS:
        eps = float(np.finfo(name).eps)
        errors, sums, powers = data[f"errors_{name}"], data[f"sums_{name}"], data[f"powers_{name}"]
        bounds = [sums[0], sums[1], sums[0], sums[0], sums[0]]
        for route, (bound, found) in enumerate(zip(bounds, errors, strict=False)):
            sure = CONSTANT * eps * bound < DIGIT
            ratio = found[sure] / (eps * bound[sure])
            claim(f"{name}, {ROUTES[route]}: worst error over eps Σκ", ratio, at_most=CONSTANT)
        claim(
            f"{name}: largest Σκ over 4κ", sums[0] / (4 * 10.0 ** powers[:, None]), at_least=0.3, at_most=3.0
        )
        for route, (found, law) in enumerate(zip(data[f"damped_{name}"], data[f"laws_{name}"], strict=True)):
            sure = DAMPED_CONSTANT * eps * law < DIGIT
            ratio = found[sure] / (eps * law[sure])
            claim(f"{name}, {DAMPED[route]}: worst error over eps √(‖F‖/λ) ζ", ratio, at_most=DAMPED_CONSTANT)
    errors, powers = np.median(data["errors_float64"], axis=-1), data["powers_float64"]
    hard = (powers >= 6) & (powers <= 12)
    claim(
        "float64, κ from 1e6 to 1e12: dense pseudo-inverse over kernel QR, medians",
        errors[6, hard] / errors[2, hard],
        at_least=1e3,
    )
    refined = data["refined_float64"]
    digits = powers <= 4
    claim(
        "float64, κ to 1e4: direction after refinement over before, the worst",
        refined[1, digits] / refined[0, digits],
        at_most=2.0,
    )
    claim(
        "the same: residual, medians",
        np.median(refined[3, digits], axis=-1) / np.median(refined[2, digits], axis=-1),
        at_most=0.5,
    )
    claim(
        "float64, κ from 1e6 to 1e12, no digit in the residual: direction after over before, medians",
        np.median(refined[1, hard], axis=-1) / np.median(refined[0, hard], axis=-1),
        at_least=5.0,
    )
    claim("float64, κ = 1: direction and residual, with and without refinement", refined[:, 0], at_most=1e-13)


def draw(data: Data) -> Figure:
    """Draw the five panels."""
    plt.rcParams["savefig.dpi"] = 160  # many slanted lines: as large a file as those of the other figures
    figure, axes = plt.subplots(2, 3, sharey=True, figsize=(7.0, 4.3))
    names = tuple(POWERS)
    for axis, route in ((axes[0, 0], 0), (axes[0, 1], 1)):
        for name, dash in zip(names, DASHES, strict=False):
            values, eps = data[f"errors_{name}"][route], float(np.finfo(name).eps)
            x = 10.0 ** data[f"powers_{name}"]
            _series(axis, x, values, route, dash)
            _bound(axis, x, CONSTANT * eps * np.median(data[f"sums_{name}"][min(route, 1)], axis=-1))
    for name, dash, routes in zip(names, DASHES, (range(2, 7), (2, 5)), strict=False):
        x = 10.0 ** data[f"powers_{name}"]
        for route in routes:
            _series(axes[0, 2], x, data[f"errors_{name}"][route], route, dash)
        _bound(
            axes[0, 2], x, CONSTANT * float(np.finfo(name).eps) * np.median(data[f"sums_{name}"][0], axis=-1)
        )
    for name, dash in zip(names, DASHES, strict=False):
        x = 10.0 ** data[f"powers_{name}"]
        for row, place in enumerate((2, 4, 5, 1)):
            _series(axes[1, 0], x, data[f"damped_{name}"][row], place, dash)
        law = np.median(data[f"laws_{name}"][0], axis=-1)
        _bound(axes[1, 0], x, DAMPED_CONSTANT * float(np.finfo(name).eps) * law)
    x = 10.0 ** data["powers_float64"]
    for row, (colour, dash) in enumerate(((0, 0), (0, 2), (1, 0), (1, 2))):
        _series(axes[1, 1], x, data["refined_float64"][row], colour, DASHES[dash])
    _dress(figure, axes)
    return figure


def _dress(figure: Figure, axes: Any) -> None:
    titles = (*ROUTES[:1], "minimum norm, $L = 2$", "minimum norm, $L = 4$", "exact damping", "refinement")
    panels = list(axes.flat[:5])
    for axis, title in zip(panels, titles, strict=True):
        axis.set(xscale="log", yscale="log", ylim=(1e-17, TOP), title=title)
        axis.axhspan(1.0, TOP, color="0.93", lw=0, zorder=0)
        axis.set_xlabel(r"condition of each layer $\kappa$")
        axis.set_xticks([1.0, 1e4, 1e8, 1e12])
        axis.xaxis.set_minor_locator(NullLocator())
    axes[1, 0].set_xlabel(r"$\sqrt{\|F\|/\lambda}$")
    for axis in axes[:, 0]:
        axis.set_ylabel("relative error")
    for axis in panels[:4]:
        axis.text(0.03, 0.93, "dashed: float32", transform=axis.transAxes, color=GREY, fontsize=7)
    words = "circles: direction\nsquares: residual\ndotted: after one step"
    axes[1, 1].text(0.97, 0.04, words, transform=axes[1, 1].transAxes, fontsize=6.5, ha="right")
    decades(axes[0, 0], 4)
    handles = [
        Line2D([], [], color=SERIES[i], marker=MARKERS[i], mfc="white", ls=DASHES[0], lw=1.2, label=name)
        for i, name in enumerate(ROUTES)
    ]
    handles.append(Line2D([], [], color=BLACK, lw=0.8, label="bound"))
    axes[1, 2].axis("off")
    axes[1, 2].legend(handles=handles, loc="center")
    label_panels(panels)
    figure.suptitle("Errors go with the sum of the layers' conditions, not with that of their product")


def _series(axis: Axes, x: Array, values: Array, look: int, dash: Any) -> None:
    shown = np.minimum(np.maximum(values, 1e-17), 0.9 * TOP)
    middle, high = np.median(shown, axis=-1), shown.max(axis=-1)
    bars = (np.zeros_like(middle), high - middle)
    axis.errorbar(x, middle, bars, fmt=MARKERS[look], ls=dash, color=SERIES[look], mfc="white", lw=1.1, ms=3.4,
                  elinewidth=0.7)  # fmt: skip


def _bound(axis: Axes, x: Array, values: Array) -> None:
    axis.plot(x, np.minimum(values, TOP), color=BLACK, lw=0.8, zorder=1)
