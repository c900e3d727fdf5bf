"""Are the layer weights of the natural gradient flow known in closed form? Statement C2.

W_i(t) = A_{i+1}(0) G(t)^{1/L} A_i(0)⁻¹ for every entry of every layer of a network of depth 3 (lines), and
the same from an integrator whose natural gradient is a least-squares solution on the Jacobian (marks):
coloured input and noise, complex eigenvalues of W(0)⁻¹W*.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import linnat as ln
from figures._common import BLUE, DASHES, GREEN, ORANGE, VERMILLION, Array, Data, claim, label_panels, publish

STATEMENTS = ("C2",)

SIZE, DEPTH = 2, 3
LOOKS = ((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (ORANGE, "D"))


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return the layers over time, closed form and integrated."""
    net = ln.LinearNetwork([[[1.2, -0.7], [0.5, 0.8]], [[0.9, 0.6], [-0.8, 0.5]], [[-0.5, 1.1], [1.0, 0.4]]])
    turn = np.array([[-0.4, -1.7], [2.1, 0.3]])
    task = ln.Task(net.total @ turn, input_cov=[[2.0, 0.6], [0.6, 0.5]], noise_cov=[[1.0, -0.3], [-0.3, 0.4]])
    times, marks = np.linspace(0, 5, 201), 5 * np.linspace(0, 1, 6 if quick else 12) ** 1.6
    integrated = ln.dense.flow.natural_flow(net, task, marks, rtol=1e-10, atol=1e-12)
    return {
        "times": times,
        "closed": np.array(ln.flow.natural_weights(net, task, times)),
        "marks": marks,
        "closed_at_marks": np.array(ln.flow.natural_weights(net, task, marks)),
        "integrated": np.array(integrated),
        "spectrum": np.linalg.eigvals(turn),
        "teacher": task.teacher,
    }


def check(data: Data) -> None:
    """Hold the closed form to the integrator."""
    size = np.abs(data["integrated"]).max()
    claim(
        "closed form against integrator, relative",
        np.abs(data["closed_at_marks"] - data["integrated"]) / size,
        at_most=1e-8,
    )
    claim(
        "the spectrum of W(0)⁻¹W* is complex: |imaginary part|", np.abs(data["spectrum"].imag), at_least=0.5
    )
    claim(
        "weights move: largest change over largest weight",
        np.abs(data["closed"] - data["closed"][:, :1]).max() / size,
        at_least=0.2,
    )
    w1, w2, w3 = data["closed"][:, -1]
    start = data["closed"][:, 0]
    away = data["teacher"] - start[2] @ start[1] @ start[0]
    left = np.linalg.norm(data["teacher"] - w3 @ w2 @ w1) / np.linalg.norm(away)
    claim(
        "product of the layers at the end: ‖E(t)‖/‖E(0)‖ against e^{−t}, relative",
        np.abs(left * np.exp(data["times"][-1]) - 1),
        at_most=1e-9,
    )


def draw(data: Data) -> Figure:
    """Draw one panel for each layer, one line for each entry."""
    figure, axes = plt.subplots(1, DEPTH, sharey=True, figsize=(7.0, 2.7))
    for layer, axis in enumerate(axes):
        for entry, (colour, marker) in enumerate(LOOKS):
            row, column = divmod(entry, SIZE)
            axis.plot(data["times"], data["closed"][layer, :, row, column], ls=DASHES[entry], color=colour)
            axis.plot(
                data["marks"],
                data["integrated"][layer, :, row, column],
                marker,
                color=colour,
                mfc="white",
                ms=4,
            )
        axis.set(xlabel=r"time $t$", xlim=(-0.1, 5.1))
        axis.set_title(rf"layer $W_{layer + 1}(t)$")
    axes[0].set_ylabel("weight")
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            marker=marker,
            ls=dash,
            mfc="white",
            label=rf"$[W_i]_{{{entry // SIZE + 1}{entry % SIZE + 1}}}$",
        )
        for entry, ((colour, marker), dash) in enumerate(zip(LOOKS, DASHES, strict=False))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    label_panels(axes)
    figure.suptitle(
        r"Closed form $W_i(t)=A_{i+1}G(t)^{1/L}A_i^{-1}$ (lines) on top of the integrator (marks)"
    )
    return figure
