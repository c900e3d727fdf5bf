"""When does the layerwise natural gradient flow break, and how does width avoid it? Statement C3.

(a) The eigenvalues of G(t) = W(0)⁻¹W(t) run on segments from 1 to the eigenvalues μ of W(0)⁻¹W*: only a
real negative μ leads through 0, at t_s = log(1 + 1/|μ|). (b) Towards t_s the speed of the layers grows like
(t_s − t)^{−(1−1/L)} while their weights stay finite. (c) The same start and target with one or more hidden
units beyond n: the flow passes (thin: random starts, thick: median). Speeds are those of the package's
natural gradient along integrated flows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.integrate import DOP853, solve_ivp

import linnat as ln
from figures._common import (
    BLACK,
    BLUE,
    DASHES,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    Array,
    Data,
    claim,
    label_panels,
    publish,
)

STATEMENTS = ("C3",)

SIZE = 3
DEPTHS = (2, 3, 4)
EXTRA = (0, 1, 2, 5)
END = 3.0
LOOKS = ((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (ORANGE, "D"))


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def pair() -> tuple[Array, Array]:
    """Return W(0) and W(0)⁻¹W* with one real negative eigenvalue and a complex pair."""
    rng = np.random.default_rng(4)
    ratio = np.array([[-0.8, 0.3, 0.1], [0.0, 0.7, -1.1], [0.0, 1.2, 0.6]])
    basis = np.eye(SIZE) + 0.3 * rng.standard_normal((SIZE, SIZE))
    start = np.eye(SIZE) + 0.4 * rng.standard_normal((SIZE, SIZE))
    return start, basis @ np.linalg.solve(basis.T, ratio.T).T


def deep(start: Array, depth: int) -> ln.LinearNetwork:
    """Return square layers with product W(0) that are neither balanced nor aligned."""
    rng = np.random.default_rng(depth)
    layers = [np.eye(SIZE) + 0.3 * rng.standard_normal((SIZE, SIZE)) for _ in range(depth - 1)]
    rest = start
    for layer in layers:
        rest = np.linalg.solve(layer.T, rest.T).T
    return ln.LinearNetwork([*layers, rest])


def widen(start: Array, extra: int, seed: int) -> ln.LinearNetwork:
    """Return two layers with hidden width n + extra and product W(0)."""
    rng = np.random.default_rng([seed, extra])
    first = rng.standard_normal((SIZE + extra, SIZE))
    second = start @ np.linalg.pinv(first)
    if extra:
        left = np.linalg.svd(first)[0][:, SIZE:]
        second = second + 0.7 * rng.standard_normal((SIZE, extra)) @ left.T
    return ln.LinearNetwork([first, second])


def speed(net: ln.LinearNetwork, task: ln.Task) -> float:
    """Return ‖v‖ over all layers."""
    return float(np.linalg.norm(ln.flatten(ln.natural_gradient(net, task))))


def measure(quick: bool) -> dict[str, Array]:
    """Return eigenvalue paths, speeds before the break, and speeds and losses for several widths."""
    start, ratio = pair()
    task = ln.Task(start @ ratio)
    nets = [deep(start, depth) for depth in DEPTHS]
    breaks = np.array([float(ln.flow.breakdown_time(net, task)) for net in nets])
    gaps = np.geomspace(1e-6, 0.2, 9 if quick else 13)
    approach = np.array([before_break(net, task, b - gaps) for net, b in zip(nets, breaks, strict=True)])
    times = np.linspace(0, END, 61 if quick else 121)
    seeds = 2 if quick else 9
    wide = [[passing(widen(start, extra, seed), task, times) for seed in range(seeds)] for extra in EXTRA[1:]]
    narrow = widen(start, 0, 0)
    until = breaks[0] - np.geomspace(breaks[0], 1e-4, 61)
    moving = passing(widen(start, EXTRA[-1], 0), task, times, totals=True)
    return {
        "mu": np.linalg.eigvals(ratio),
        "paths": np.linalg.eigvals(np.linalg.solve(start, moving)),
        "crossing": np.array(sign_change(times, np.linalg.det(moving))),
        "breaks": breaks,
        "gaps": gaps,
        "speeds": approach[:, 0],
        "largest_weights": approach[:, 1],
        "stalled_at": np.array(stalling_time(narrow, task)),
        "times": times,
        "narrow_times": until,
        "narrow": before_break(narrow, task, until)[0],
        "wide": np.array([[run[0] for run in runs] for runs in wide]),
        "wide_losses": np.array([[run[1] for run in runs] for runs in wide]),
        "wide_breaks": np.array(
            [float(ln.flow.breakdown_time(widen(start, extra, 0), task)) for extra in EXTRA]
        ),
    }


def before_break(net: ln.LinearNetwork, task: ln.Task, times: Array) -> tuple[Array, Array]:
    """Return speed and largest weight on the closed-form flow."""
    layers = ln.flow.natural_weights(net, task, times)
    states = [ln.LinearNetwork(state) for state in zip(*layers, strict=True)]
    speeds = [speed(state, task) for state in states]
    return np.array(speeds), np.array([max(np.abs(w).max() for w in state.weights) for state in states])


def slope_of(net: ln.LinearNetwork, task: ln.Task) -> Callable[[float, Array], Array]:
    """Return dθ/dt = −u for an integrator."""

    def slope(_: float, vector: Array) -> Array:
        return -ln.flatten(ln.natural_gradient(net.replace_layers(ln.unflatten(vector, net)), task))

    return slope


def passing(net: ln.LinearNetwork, task: ln.Task, times: Array, *, totals: bool = False) -> Array:
    """Return speeds and excess losses (2, time) of the integrated flow, or its total weights."""
    start, end = ln.flatten(net.layers), float(times[-1])
    result = solve_ivp(
        slope_of(net, task), (0.0, end), start, method="DOP853", t_eval=times, rtol=1e-9, atol=1e-11
    )
    if not result.success:
        raise RuntimeError(f"the integrator stopped: {result.message}")
    states = [net.replace_layers(ln.unflatten(v, net)) for v in result.y.T]
    if totals:
        return np.array([state.total for state in states])
    whole = float(ln.excess_loss(net, task))
    return np.array(
        [[speed(s, task) for s in states], [float(ln.excess_loss(s, task)) / whole for s in states]]
    )


def stalling_time(net: ln.LinearNetwork, task: ln.Task) -> float:
    """Return how far an integrator comes on a network of width n within 3000 evaluations."""
    solver = DOP853(slope_of(net, task), 0.0, ln.flatten(net.layers), END, rtol=1e-9, atol=1e-11)
    while solver.status == "running" and solver.nfev < 3000:
        solver.step()
    return float(solver.t)


def sign_change(times: Array, values: Array) -> float:
    """Return where a smooth function changes its sign, by a cubic through four points."""
    place = int(np.flatnonzero(np.diff(np.sign(values)))[0])
    near = slice(max(place - 2, 0), place + 4)
    return float(np.polynomial.Polynomial.fit(values[near], times[near], len(times[near]) - 1)(0.0))


def check(data: Data) -> None:
    """Hold times, powers and passages to C3."""
    share = -np.expm1(-data["times"])
    paths = [np.sort_complex(values) for values in data["paths"]]
    segments = [np.sort_complex(1 + c * (data["mu"] - 1)) for c in share]
    claim(
        "eigenvalues of G(t), integrated wide network, from their segments",
        np.abs(np.array(paths) - segments),
        at_most=1e-5,
    )
    breaks, law = data["breaks"], np.log1p(1 / 0.8)
    claim("breakdown time against log(1 + 1/|μ|), μ = −0.8", np.abs(breaks - law), at_most=1e-12)
    claim(
        "det W(t) = 0 of the integrated wide network at that time, difference",
        abs(data["crossing"] - law),
        at_most=1e-5,
    )
    claim(
        "where an integrator stalls at width n, relative to it",
        abs(data["stalled_at"] / law - 1),
        at_most=1e-4,
    )
    fits = np.array([np.polyfit(np.log(data["gaps"][:5]), np.log(v[:5]), 1)[0] for v in data["speeds"]])
    claim(
        "fitted power of the speed against −(1−1/L), L = 2, 3, 4",
        np.abs(fits + 1 - 1 / np.array(DEPTHS)),
        at_most=0.01,
    )
    claim(
        "largest weight at the break over the one 0.2 earlier",
        data["largest_weights"][:, 0] / data["largest_weights"][:, -1],
        at_most=3.0,
    )
    claim(
        "wider layers: ℓ(t)/ℓ(0) against e^{−2t} beyond the break, relative",
        np.abs(data["wide_losses"] * np.exp(2 * data["times"]) - 1),
        at_most=1e-4,
    )
    claim("wider layers: breakdown time", data["wide_breaks"][1:], at_least=1e300)
    claim("width n: last speed shown over the first", data["narrow"][-1] / data["narrow"][0], at_least=3.0)
    claim(
        "wider layers: median over starts of the peak speed over the first",
        np.median(data["wide"].max(axis=-1) / data["wide"][..., 0], axis=1),
        at_most=1.5,
    )


def draw(data: Data) -> Figure:
    """Draw eigenvalue paths, the approach, and the passages."""
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.9), width_ratios=[1, 1, 1.15])
    _paths(axes[0], data)
    _approach(axes[1], data)
    _passages(axes[2], data)
    label_panels(axes)
    figure.suptitle(
        r"A real negative $\mu$ stops the layerwise flow at width $n$; one more hidden unit lets it pass"
    )
    return figure


def _paths(axis: Axes, data: Data) -> None:
    for number, mu in enumerate(sorted(data["mu"], key=lambda m: m.real)):
        colour = VERMILLION if number == 0 else BLUE
        axis.plot([1, mu.real], [0, mu.imag], color=colour, ls=DASHES[0] if number == 0 else DASHES[1])
        axis.plot(mu.real, mu.imag, "s", color=colour, mfc="white")
    ends = data["paths"][:: len(data["paths"]) // 10]
    axis.plot(ends.real, ends.imag, "o", color=GREY, ms=2.5, zorder=3)
    axis.plot(1, 0, "o", color=BLACK)
    axis.plot(0, 0, "x", color=BLACK, ms=8, mew=1.8)
    axis.annotate("singular", (0, 0), xytext=(0, 8), textcoords="offset points", ha="center")
    axis.annotate("start", (1, 0), xytext=(6, 0), textcoords="offset points", va="center")
    axis.annotate(
        r"$\mu<0$", (-0.8, 0), xytext=(0, -12), textcoords="offset points", ha="center", color=VERMILLION
    )
    axis.set(xlim=(-1.1, 2.1), ylim=(-1.45, 1.45), xticks=[-1, 0, 1, 2], yticks=[-1, 0, 1])
    axis.set(xlabel=r"real part", ylabel=r"imaginary part")
    axis.set_title(r"eigenvalues of $W(0)^{-1}W(t)$")


def _approach(axis: Axes, data: Data) -> None:
    for depth, speeds, (colour, marker), dash in zip(DEPTHS, data["speeds"], LOOKS, DASHES, strict=False):
        law = speeds[0] * (data["gaps"] / data["gaps"][0]) ** (1 / depth - 1)
        axis.loglog(data["gaps"], law, color=colour, ls=dash)
        power = rf"-{depth - 1}/{depth}"
        axis.loglog(
            data["gaps"], speeds, marker, color=colour, mfc="white", label=rf"$L={depth}$: power ${power}$"
        )
    axis.set(xlabel=r"time to the break, $t_s-t$", ylabel=r"speed of the layers $\|v\|$")
    axis.set_title("approach at width $n$")
    axis.legend(loc="lower left", handlelength=1.0)
    axis.set_ylim(0.02, None)


def _passages(axis: Axes, data: Data) -> None:
    axis.semilogy(data["narrow_times"], data["narrow"], color=BLACK, lw=1.8, label=r"$n$: stops at $t_s$")
    for extra, runs, (colour, _), dash in zip(EXTRA[1:], data["wide"], LOOKS, DASHES, strict=False):
        for run in runs:
            axis.semilogy(data["times"], run, color=colour, lw=0.4, alpha=0.45)
        axis.semilogy(
            data["times"], np.median(runs, axis=0), color=colour, ls=dash, label=rf"$n+{extra}$: passes"
        )
    axis.axvline(data["breaks"][0], color=GREY, lw=0.8, zorder=0)
    axis.annotate(r"$t_s$", (data["breaks"][0], 0.03), xytext=(3, 0), textcoords="offset points", color=GREY)
    axis.set(xlabel=r"time $t$", ylabel=r"speed of the layers $\|v\|$", xlim=(0, END), ylim=(0.02, 200))
    axis.set_title("one hidden layer of width …")
    axis.legend(loc="upper right")
