"""What does a partial correction F^{−γ} do to the singular modes? Statement C6.

A balanced network of depth 4, aligned with its target, white input. Under gradient flow (γ = 0) strong
modes are learned first, after a plateau each; with γ = ½ the plateaus shrink; under the natural gradient (γ
= 1) all modes follow 1 − e^{−t}(1 − s₀/ŝ) together. Lines are the closed form, marks the singular values of
the total weight when all weights are integrated with F^{−γ}∇ℓ, F^{−γ} from the singular values of the
Jacobian.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import linnat as ln
from figures._common import (
    BLUE,
    GREEN,
    ORANGE,
    VERMILLION,
    Array,
    Data,
    claim,
    label_panels,
    publish,
    rotation,
)

STATEMENTS = ("C6",)

GAMMAS = (0.0, 0.5, 1.0)
GOALS = (4.0, 2.0, 1.0, 0.5)
START = 0.02
DEPTH = 4
LOOKS = (
    (BLUE, "o", "-"),
    (VERMILLION, "s", (0, (5, 1.5))),
    (GREEN, "^", (0, (1.2, 1.2))),
    (ORANGE, "D", (0, (5, 1.5, 1.2, 1.5))),
)


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return modes (γ, mode, time), closed form and integrated."""
    rng = np.random.default_rng(0)
    left, right = rotation(len(GOALS), rng), rotation(len(GOALS), rng)
    goals = np.array(GOALS)
    task = ln.Task((left * goals) @ right.T)
    net = ln.LinearNetwork.balanced(START * left @ right.T, DEPTH)
    ends = (12.0, 6.0, 6.0)
    times = np.array([np.linspace(0, end, 241) for end in ends])
    marks = np.array([np.linspace(0, end, 5 if quick else 13) for end in ends])
    return {
        "gammas": np.array(GAMMAS),
        "goals": goals,
        "times": times,
        "modes": np.array([modes(t, goals, g) for t, g in zip(times, GAMMAS, strict=True)]),
        "marks": marks,
        "modes_at_marks": np.array([modes(t, goals, g) for t, g in zip(marks, GAMMAS, strict=True)]),
        "integrated": np.array(
            [integrated(net, task, t, g, left, right) for t, g in zip(marks, GAMMAS, strict=True)]
        ),
        "half_times": np.array([ln.modes.escape_time(START, goals, DEPTH, g) for g in GAMMAS]),
    }


def modes(times: Array, goals: Array, gamma: float) -> Array:
    """Return s_a(t), (mode, time), in closed form."""
    return np.asarray(ln.modes.partial_mode(times, np.full(len(goals), START), goals, DEPTH, gamma))


def integrated(
    net: ln.LinearNetwork, task: ln.Task, times: Array, gamma: float, left: Array, right: Array
) -> Array:
    """Return the diagonal of Uᵀ W(t) V along the integrated flow of all weights."""
    flow = ln.dense.flow
    layers = flow.fractional_flow(net, task, times, gamma, rtol=1e-8, atol=1e-10)
    totals = flow.total_along(net, layers)
    return np.asarray(np.einsum("ia,tij,ja->at", left, totals, right))


def check(data: Data) -> None:
    """Hold the closed form to the integrator, and the order in which modes are learned."""
    goals = data["goals"]
    error = np.abs(data["integrated"] - data["modes_at_marks"]) / goals[:, None]
    claim("closed form against integrated weights, |Δs|/ŝ", error, at_most=1e-5)
    law = goals[:, None] - np.exp(-data["times"][2]) * (goals[:, None] - START)
    claim("γ = 1: |s(t) − ŝ − e^{−t}(s₀ − ŝ)|", np.abs(data["modes"][2] - law), at_most=1e-12)
    half = data["half_times"]
    claim(
        "γ = 0: half time of a mode over that of the next stronger one",
        half[0, 1:] / half[0, :-1],
        at_least=1.5,
    )
    spread = half.max(axis=1) / half.min(axis=1)
    claim("spread of half times shrinks with γ: γ = 0 over γ = ½", spread[0] / spread[1], at_least=1.5)
    claim("γ = ½ over γ = 1", spread[1] / spread[2], at_least=1.2)


def draw(data: Data) -> Figure:
    """Draw one panel for each γ."""
    figure, axes = plt.subplots(1, 3, sharey=True, figsize=(7.0, 2.85))
    names = (
        r"$\gamma=0$, gradient: one by one",
        r"$\gamma=1/2$: closer together",
        r"$\gamma=1$, natural: all at once",
    )
    for panel, (axis, name) in enumerate(zip(axes, names, strict=True)):
        for mode, (colour, marker, dash) in enumerate(LOOKS):
            goal = data["goals"][mode]
            axis.plot(data["times"][panel], data["modes"][panel, mode] / goal, ls=dash, color=colour)
            axis.plot(
                data["marks"][panel],
                data["integrated"][panel, mode] / goal,
                marker,
                color=colour,
                mfc="white",
                ms=4,
            )
        axis.set(
            xlabel=r"time $t$",
            ylim=(-0.03, 1.06),
            xlim=(-0.02 * data["times"][panel, -1], data["times"][panel, -1]),
        )
        axis.set_title(name)
    axes[0].set_ylabel(r"singular mode $s(t)/\hat s$")
    handles = [
        Line2D([], [], color=colour, marker=marker, ls=dash, mfc="white", label=rf"$\hat s={goal:g}$")
        for goal, (colour, marker, dash) in zip(data["goals"], LOOKS, strict=True)
    ]
    axes[2].legend(handles=handles, loc="lower right")
    label_panels(axes)
    figure.suptitle(
        r"The correction $F^{-\gamma}$ takes the waiting out of deep learning's modes ($L=4$, $s_0=0.02$)"
    )
    return figure
