"""How often does the layerwise natural gradient flow break? Statement X4.

W(0) and W* independent Gaussian n × n matrices, drawn again and again: the mean number of breaks (real
negative eigenvalues of W(0)⁻¹W*) against its exact expectation √π Γ((n+1)/2) / (2Γ(n/2)) (Edelman, Kostlan
and Shub 1994 for the eigenvalues), and the frequency of at least one break against the probabilities, exact
for n ≤ 3. Bars are two standard errors. On the right, how many flows still run at time t.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import linnat as ln
from figures._common import (
    BLACK,
    BLUE,
    DASHES,
    GREEN,
    SERIES,
    VERMILLION,
    Array,
    Data,
    claim,
    label_panels,
    publish,
)

STATEMENTS = ("X4",)

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
STATED = {1: 0.50, 2: 0.64, 3: 0.73, 5: 0.82, 8: 0.89}
SHOWN = (1, 3, 8, 16)
TIMES = np.linspace(0, 4, 161)


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return means and standard errors over draws, first break times from the flow, and the exact values."""
    draws = 2000 if quick else 20000
    counts, often, alive, differ = [], [], [], []
    for size in SIZES:
        start, goal = np.random.default_rng([0, size]).standard_normal((2, draws, size, size))
        found = breaks(start, goal)
        # Depth 2 with a square hidden layer: W_2 = I, W_1 = W(0).
        unit = np.broadcast_to(np.eye(size), start.shape)
        first = ln.flow.breakdown_time(ln.LinearNetwork([start, unit]), ln.Task(goal))
        counts.append(mean_and_error(found))
        often.append(mean_and_error(found > 0))
        alive.append((first[:, None] > TIMES).mean(axis=0))
        differ.append((np.isfinite(first) != (found > 0)).mean())
    return {
        "sizes": np.array(SIZES),
        "draws": np.array(draws),
        "counts": np.array(counts),
        "often": np.array(often),
        "times": TIMES,
        "alive": np.array(alive),
        "differ": np.array(differ),
        "expected": np.array([ln.flow.expected_breaks(size) for size in SIZES]),
        "exact_probabilities": np.array([ln.flow.break_probability(size).probability for size in (1, 2, 3)]),
        "stated_sizes": np.array(list(STATED)),
        "stated": np.array(list(STATED.values())),
    }


def breaks(start: Array, goal: Array) -> Array:
    """Return the number of singular matrices on the open segment from W(0) to W*, by its real negative eigenvalues."""
    values = np.linalg.eigvals(np.linalg.solve(start, goal))
    return np.asarray(((values.imag == 0) & (values.real < 0)).sum(axis=-1))


def mean_and_error(values: Array) -> tuple[float, float]:
    """Return the mean and its standard error over draws."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def check(data: Data) -> None:
    """Hold means and frequencies to the exact values within their standard errors."""
    mean, error = data["counts"].T
    sigmas = np.abs(mean - data["expected"]) / error
    claim(
        "mean number of breaks against its expectation, standard errors, worst of all n", sigmas, at_most=3.5
    )
    often, spread = data["often"].T
    claim("frequency of a break below ½, in standard errors", (0.5 - often) / spread, at_most=3.5)
    sigmas = np.abs(often[:3] - data["exact_probabilities"]) / spread[:3]
    claim("frequency against exact probability, n = 1, 2, 3, standard errors", sigmas, at_most=3.5)
    places = [list(data["sizes"]).index(n) for n in data["stated_sizes"]]
    excess = np.abs(often[places] - data["stated"]) - 3.5 * spread[places]
    claim("frequency against the stated two digits, beyond 3.5 standard errors", excess, at_most=0.006)
    claim("draws on which the flow's breakdown time and the count disagree", data["differ"], at_most=1e-3)
    claim("standard error of the frequencies", spread, at_most=0.02)
    last = np.abs(data["alive"][0] - (0.5 + 0.5 * first_break_tail(data["times"])))
    claim(
        "n = 1: still running at t against its law, standard errors",
        last.max() / (0.5 / np.sqrt(data["draws"])),
        at_most=4.0,
    )


def first_break_tail(times: Array) -> Array:
    """Return P(first break > t | a break) for n = 1: −1/μ = e^t − 1 is the modulus of a Cauchy variable."""
    return np.asarray(1 - 2 / np.pi * np.arctan(np.expm1(times)))


def draw(data: Data) -> Figure:
    """Draw expectation, probability and times."""
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.9))
    sizes = data["sizes"]
    mean, error = data["counts"].T
    axes[0].plot(sizes, data["expected"], color=BLUE, label="exact expectation")
    law = r"$\frac{\sqrt{\pi}\;\Gamma((n+1)/2)}{2\,\Gamma(n/2)}$"
    axes[0].text(1.2, 2.25, law, color=BLUE, fontsize=12)
    axes[0].errorbar(
        sizes, mean, 2 * error, fmt="o", color=BLACK, mfc="white", ms=4, capsize=2, label="Monte Carlo"
    )
    axes[0].set(xlabel=r"width $n$", ylabel="breaks of one flow", ylim=(0, None), xticks=[1, 4, 8, 12, 16])
    axes[0].set_title("mean number of breaks")
    axes[0].legend(loc="lower right")
    often, spread = data["often"].T
    axes[1].axhline(0.5, color=BLUE, ls=DASHES[1])
    axes[1].annotate("bound ½", (16, 0.5), xytext=(0, 3), textcoords="offset points", color=BLUE, ha="right")
    axes[1].plot(
        [1, 2, 3],
        data["exact_probabilities"],
        "+",
        color=VERMILLION,
        ms=11,
        mew=1.6,
        label=r"exact, $n\leq3$",
    )
    axes[1].errorbar(
        sizes, often, 2 * spread, fmt="o", color=BLACK, mfc="white", ms=4, capsize=2, label="Monte Carlo"
    )
    axes[1].set(
        xlabel=r"width $n$", ylabel="probability of a break", ylim=(0.4, 1.02), xticks=[1, 4, 8, 12, 16]
    )
    axes[1].set_title("at least one break")
    axes[1].legend(loc="lower right", bbox_to_anchor=(1, 0.2))
    for size, colour, dash in zip(SHOWN, (*SERIES[:2], GREEN, BLACK), DASHES, strict=False):
        alive = data["alive"][list(sizes).index(size)]
        axes[2].plot(data["times"], alive, color=colour, ls=dash, label=rf"$n={size}$")
    axes[2].set(xlabel=r"time $t$", ylabel="still running at $t$", ylim=(0, 1.02), xlim=(0, 4))
    axes[2].set_title("most breaks come early")
    axes[2].legend(loc="upper right")
    label_panels(axes)
    figure.suptitle(
        "From Gaussian starts to Gaussian targets the layerwise flow breaks at least every other time"
    )
    return figure
