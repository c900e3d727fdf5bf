"""What does the natural gradient do to a convolutional network? Statement X7.

One channel, two layers, kernels of full length n = 8: every frequency of the total kernel moves on a straight
segment to its target (line: closed form; marks: kernels moved by an integrator), and the flow ends where a segment
meets zero, which needs a real negative ratio: here at k = 4 (a). Kernels of two entries follow the line towards
the truncated target until their two roots meet (b): det of Sylvester's matrix, the resultant. Cut to m entries,
the formula of full kernels does not solve the system of short ones: its residual, over seeds, until m = n (c).
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp

import linnat as ln
from figures._common import (
    BLACK,
    BLUE,
    DASHES,
    GREY,
    SERIES,
    VERMILLION,
    Array,
    Data,
    claim,
    decades,
    label_panels,
    publish,
)

STATEMENTS = ("X7",)

SIZE = 8
RATIOS = np.array([1.8, 0.5 + 1.2j, -0.9 + 0.8j, 0.4 - 0.9j, -1.5])  # ŵ*/ŵ(0) at k = 0 … 4
SHORT = (np.array([[[-1.0, 1.0]]]), np.array([[[-3.0, 1.0]]]))  # roots 1 and 3
GOAL = np.array([[[5.0, -4.0, 1.0, 0.6]]])  # beyond the support: 0.6


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return paths of frequencies, the flow of two short kernels, residuals of the cut formula."""
    rng = np.random.default_rng(3)
    kernels = [np.eye(SIZE)[0][None, None] + 0.15 * rng.standard_normal((1, 1, SIZE)) for _ in range(2)]
    start = np.fft.rfft(ln.convolution.total(kernels)[0, 0])
    target = np.fft.irfft(start * RATIOS, SIZE)[None, None]
    stop = float(ln.convolution.breakdown_time(kernels, target))
    times = np.linspace(0, 0.999 * stop, 41)
    totals = ln.convolution.natural_total(kernels, target, times)[:, 0, 0]
    marks = np.linspace(0, 0.95 * stop, 6)
    moved = flow(kernels, target, marks)
    short_times = np.linspace(0, 0.69, 70)
    path = short_flow(short_times)
    seeds = 4 if quick else 30
    residuals = np.array([[cut_residual(seed, m) for m in range(2, SIZE + 1)] for seed in range(seeds)])
    return {
        "stop": np.array(stop),
        "paths": np.fft.rfft(totals) / start,
        "integrated": np.fft.rfft(moved) / start,
        "marks": marks,
        "times": times,
        "short_times": short_times,
        "short_totals": path[0],
        "resultants": path[1],
        "roots": path[2],
        "residuals": residuals,
    }


def flow(kernels: list[Array], target: Array, times: Array) -> Array:
    """Move the kernels along −u and return their total at the times."""

    def slope(_: float, vector: Array) -> Array:
        u = ln.convolution.natural_gradient([p[None, None] for p in np.split(vector, 2)], target)
        return -np.concatenate([k.ravel() for k in u])

    run = solve_ivp(slope, (0.0, times[-1]), np.concatenate([k.ravel() for k in kernels]), "DOP853", times,
                    rtol=1e-9, atol=1e-11)  # fmt: skip
    return np.array([ln.convolution.total([p[None, None] for p in np.split(v, 2)])[0, 0] for v in run.y.T])


def short_flow(times: Array) -> tuple[Array, Array, Array]:
    """Return totals, resultants and roots along the flow of two kernels of two entries."""

    def slope(_: float, vector: Array) -> Array:
        u = ln.convolution.finite_natural_gradient([p[None, None] for p in np.split(vector, 2)], GOAL)
        return -np.concatenate([k.ravel() for k in u])

    run = solve_ivp(slope, (0.0, times[-1]), np.concatenate([k.ravel() for k in SHORT]), "DOP853", times,
                    rtol=1e-10, atol=1e-12)  # fmt: skip
    totals = np.array([np.convolve(*np.split(v, 2)) for v in run.y.T])
    return totals, run.y[0] * run.y[3] - run.y[1] * run.y[2], -run.y[::2] / run.y[1::2]


def cut_residual(seed: int, m: int) -> float:
    """Return ‖F u − ∇ℓ‖/‖∇ℓ‖ of the full formula cut to m entries, by differences of the loss in the short kernels."""
    rng = np.random.default_rng([7, seed])
    short = [
        np.eye(SIZE)[0][None, None, :m] + 0.2 * rng.standard_normal((1, 1, SIZE))[..., :m] for _ in range(2)
    ]
    target = 0.5 * rng.standard_normal((1, 1, SIZE))
    full = [np.concatenate([k, np.zeros((1, 1, SIZE - m))], axis=-1) for k in short]
    u = [d[..., :m] for d in ln.convolution.natural_gradient(full, target)]
    # J column by column: the total kernel is linear in each layer.
    spectra = [np.fft.fft(k[0, 0]) for k in full]
    shifts = np.fft.ifft(
        np.fft.fft(np.eye(SIZE)[:, :m], axis=0) * np.array(spectra[::-1])[:, :, None], axis=1
    ).real
    jacobian = np.concatenate(list(shifts), axis=1)
    error = (target - ln.convolution.total(full))[0, 0]
    gradient = -jacobian.T @ error
    step = jacobian.T @ (jacobian @ np.concatenate([d.ravel() for d in u]))
    return float(np.linalg.norm(step - gradient) / np.linalg.norm(gradient))


def check(data: Data) -> None:
    """Hold frequencies to segments, short kernels to the truncated line, the cut formula to failing."""
    line = 1 - np.expm1(-data["times"])[:, None] * (RATIOS - 1)
    claim("frequencies against straight segments", np.abs(data["paths"] - line), at_most=1e-12)
    line = 1 - np.expm1(-data["marks"])[:, None] * (RATIOS - 1)
    claim("frequencies of integrated kernels", np.abs(data["integrated"] - line), at_most=1e-6)
    claim("the end over log(1 + 1/1.5), less one", abs(data["stop"] / np.log1p(1 / 1.5) - 1), at_most=1e-9)
    start, goal = np.convolve(SHORT[0][0, 0], SHORT[1][0, 0]), GOAL[0, 0, :3]
    line = goal + np.exp(-data["short_times"])[:, None] * (start - goal)
    claim(
        "short kernels against the line to the truncated target",
        np.abs(data["short_totals"] - line),
        at_most=1e-6,
    )
    square = data["resultants"] ** 2
    law = line[:, 1] ** 2 - 4 * line[:, 0] * line[:, 2]
    claim("squared resultant against the discriminant of the line", np.abs(square - law), at_most=1e-5)
    claim("its last value over its first", abs(data["resultants"][-1] / data["resultants"][0]), at_most=0.1)
    claim(
        "residual of the cut formula, m < n, median over seeds",
        np.median(data["residuals"][:, :-1], axis=0),
        at_least=1e-2,
    )
    claim("residual of the full formula, m = n", data["residuals"][:, -1], at_most=1e-12)


def draw(data: Data) -> Figure:
    """Draw segments, the resultant, residuals."""
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.9))
    for k, (goal, colour, dash) in enumerate(zip(RATIOS, SERIES, DASHES, strict=False)):
        path = data["paths"][:, k]
        axes[0].plot([1, goal.real], [0, goal.imag], color=GREY, lw=0.5)
        axes[0].plot(path.real, path.imag, color=colour, ls=dash)
        axes[0].plot(data["integrated"][:, k].real, data["integrated"][:, k].imag, ".", color=colour, ms=4)
        axes[0].annotate(f"$k={k}$", (goal.real, goal.imag), xytext=(0, 5), textcoords="offset points", ha="center",
                         color=colour, fontsize=7.5)  # fmt: skip
        axes[0].plot(goal.real, goal.imag, "*", color=colour, ms=5, clip_on=False)
    axes[0].plot(0, 0, "x", color=BLACK, ms=7, mew=1.6)
    axes[0].annotate(
        "flow ends", (0, 0), xytext=(-2, -12), textcoords="offset points", ha="center", fontsize=7.5
    )
    axes[0].set(xlabel=r"Re $\hat w(k,t)/\hat w(k,0)$", ylabel="Im", xlim=(-2.1, 2.3), ylim=(-1.3, 1.7))
    axes[0].set_title("frequencies go straight")
    for root, colour, dash in zip(data["roots"], (BLUE, VERMILLION), DASHES, strict=False):
        axes[1].plot(data["short_times"], root, color=colour, ls=dash)
    axes[1].axvline(np.log(2.0), color=GREY, lw=0.8)
    axes[1].annotate("they meet", (np.log(2.0), 1.05), xytext=(-3, 0), textcoords="offset points", ha="right",
                     color=GREY, fontsize=7.5)  # fmt: skip
    axes[1].set(
        xlabel=r"time $t$", ylabel="roots of two kernels of two entries", xlim=(0, 0.75), ylim=(0.95, 3.05)
    )
    axes[1].set_title("short kernels, until roots meet")
    lengths = np.arange(2, SIZE + 1)
    axes[2].semilogy(lengths, np.maximum(data["residuals"].T, 1e-17), color=GREY, lw=0.4)
    axes[2].semilogy(
        lengths, np.maximum(np.median(data["residuals"], axis=0), 1e-17), "o-", color=BLACK, mfc="white"
    )
    axes[2].set(
        xlabel=r"entries $m$ of 8 in a kernel",
        ylabel=r"$\|Fu-\nabla\ell\|/\|\nabla\ell\|$",
        xticks=lengths,
    )
    decades(axes[2], 4)
    axes[2].set_title("the full formula, cut")
    label_panels(axes)
    figure.suptitle("Convolutions: with full kernels every frequency follows its own natural gradient")
    return figure
