"""Which way do probabilities go, and does depth change it? Statement C7.

Softmax, three classes, three samples with independent inputs: the model's class probabilities in the triangle of all
distributions (a). Natural gradient flow takes each to its label on a straight line, for one, two and four layers;
gradient flow takes another way for each depth. Logistic regression on labels that overlap, N = 14 > d = 2 (b): the
predictor w(t) is the minimum of the tilted convex loss, again one path for all depths, to the same maximum of the
likelihood. The gradient in the predictor, relative to its start (c): e^{−t} for Gaussian, Bernoulli, categorical and
Poisson targets and a deep linear network, and for the residuals of a tanh network with more parameters than samples;
gradient flow knows no such law. Lines of natural flow are closed forms or minima; marks are layers, integrated by
dense solves.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import linnat as ln
from figures._common import (
    BLACK,
    BLUE,
    DASHES,
    GREY,
    MARKERS,
    SERIES,
    VERMILLION,
    Array,
    Data,
    claim,
    decades,
    label_panels,
    publish,
)

STATEMENTS = ("C7",)

DEPTHS = (1, 2, 4)
CLASS_SHAPES = ((3, 3), (3, 4, 3), (3, 4, 5, 4, 3))
LOGIT_SHAPES = ((2, 1), (2, 3, 1), (2, 3, 4, 3, 1))
FAMILIES = ("gaussian", "bernoulli", "categorical", "poisson")
STARTS = np.array([[0.10, 0.25, 0.65], [0.80, 0.08, 0.12], [0.25, 0.65, 0.10]])
LABELS = np.array([0, 1, 2])
END = 5.0


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return probabilities, predictors and gradients along both flows."""
    marks = np.linspace(0.0, END, 6 if quick else 11)
    fine = np.concatenate([np.linspace(0, 2, 41), np.geomspace(2.1, 400, 60)])
    return classes(marks, fine) | logits(marks, fine) | laws(marks)


def classes(marks: Array, fine: Array) -> dict[str, Array]:
    """Return class probabilities of three samples, (depth, T, N, C)."""
    rng = np.random.default_rng(3)
    x = np.array([[1.0, 0.7, 0.2], [0.8, 1.0, -0.2], [0.6, 0.7, 0.6]])
    family, y = ln.families.Categorical(), ln.families.one_hot(LABELS, 3)
    start = np.linalg.solve(x, family.link(STARTS))
    nets = [layers_for(start, shape, rng) for shape in CLASS_SHAPES]
    natural = [family.mean(along(net, x, y, family, marks, True)) for net in nets]
    gradient = [family.mean(along(net, x, y, family, fine, False)) for net in nets]
    lines = ln.geodesics.class_probabilities(marks, STARTS, LABELS)
    return {
        "marks": marks,
        "fine": fine,
        "class_natural": np.array(natural),
        "class_gradient": np.array(gradient),
        "class_lines": np.swapaxes(lines, 0, 1),
    }


def logits(marks: Array, fine: Array) -> dict[str, Array]:
    """Return predictors of logistic regression, (depth, T, 2)."""
    rng = np.random.default_rng(14)
    x = rng.standard_normal((14, 2)) * [1.0, 0.45]
    y = (rng.random(14) < 1 / (1 + np.exp(-x @ [1.2, 2.0]))).astype(float)
    start = np.array([-1.2, 1.6])
    family = ln.families.Bernoulli()
    nets = [layers_for(start[:, None], shape, rng) for shape in LOGIT_SHAPES]
    inverse = np.linalg.pinv(x)
    natural = [along(net, x, y[:, None], family, marks, True)[..., 0] @ inverse.T for net in nets]
    gradient = [along(net, x, y[:, None], family, fine, False)[..., 0] @ inverse.T for net in nets]
    return {
        "x": x,
        "y": y,
        "predictor": ln.geodesics.predictor(fine, x, y, start),
        "predictor_at_marks": ln.geodesics.predictor(marks, x, y, start),
        "logit_natural": np.array(natural),
        "logit_gradient": np.array(gradient),
        "optimum": ln.geodesics.predictor(1e3, x, y, start)[0],
    }


def laws(marks: Array) -> dict[str, Array]:
    """Return ‖Xᵀ(μ − y)‖ relative to its start in four families, of a tanh network, and under gradient flow."""
    natural, gradient = [], []
    dense = np.linspace(0.0, END, 61)
    for k, name in enumerate(FAMILIES):
        rng = np.random.default_rng(20 + k)
        outputs = 3 if name == "categorical" else 1
        x, family = rng.standard_normal((8, 2)), ln.families.as_family(name)
        y = targets(name, 8, rng)
        net = layers_for(rng.standard_normal((2, outputs)), (2, 4, 3, outputs), rng)
        for store, times in ((natural, marks), (gradient, dense)):
            score = family.score(along(net, x, y, family, times, store is natural), y)
            norms = np.linalg.norm(np.einsum("nd,tnc->tdc", x, score), axis=(1, 2))
            store.append(norms / norms[0])
    return {
        "dense": dense,
        "law": np.array(natural),
        "law_of_gradient": np.array(gradient),
        "law_of_tanh": tanh(marks),
    }


def tanh(marks: Array) -> Array:
    """Return ‖μ − y‖ relative to its start, 3 samples, Bernoulli targets, a tanh network 2-5-1 with biases."""
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((3, 2)), np.array([[1.0], [0.0], [1.0]])

    def outputs(theta: Array) -> Array:
        hidden = np.tanh(x @ theta[:10].reshape(2, 5) + theta[10:15])
        return np.asarray(hidden @ theta[15:20, None] + theta[20])

    flow = ln.dense.exponential.natural_flow
    model = ln.dense.exponential.function_model(outputs)
    states = flow(model, rng.standard_normal(21), y, "bernoulli", marks, rtol=1e-8, atol=1e-10)
    means = np.array([ln.families.Bernoulli().mean(outputs(state)) for state in states])
    norms = np.linalg.norm(means - y, axis=(1, 2))
    return np.asarray(norms / norms[0])


def targets(name: str, count: int, rng: np.random.Generator) -> Array:
    """Draw targets of a family."""
    if name == "categorical":
        return np.asarray(ln.families.one_hot(rng.integers(0, 3, count), 3))
    if name == "gaussian":
        return rng.standard_normal((count, 1))
    return rng.integers(0, 2 if name == "bernoulli" else 4, (count, 1)).astype(float)


def layers_for(predictor: Array, widths: tuple[int, ...], rng: np.random.Generator) -> ln.LinearNetwork:
    """Return random layers that multiply out to a predictor (d, C)."""
    later = [rng.standard_normal((m, n)) / np.sqrt(n) for n, m in pairwise(widths[1:])]
    after = np.eye(widths[-1])
    for layer in reversed(later):
        after = after @ layer
    return ln.LinearNetwork([np.linalg.lstsq(after, predictor.T, rcond=None)[0], *later])


def along(
    net: ln.LinearNetwork, x: Array, y: Array, family: ln.families.Family, times: Array, natural: bool
) -> Array:
    """Return the outputs on the training inputs along an integrated flow, (T, N, C)."""
    oracle = ln.dense.exponential
    model, flow = oracle.network_model(net, x), oracle.natural_flow if natural else oracle.gradient_flow
    states = flow(model, ln.flatten(net.layers), y, family, times, rtol=1e-8, atol=1e-10)
    return np.array([model.outputs(state) for state in states])


def check(data: Data) -> None:
    """Hold natural flows to lines, minima and e^{−t}; gradient flows must be somewhere else."""
    off = np.abs(data["class_natural"] - data["class_lines"])
    claim("class probabilities, three depths, against straight lines", off, at_most=1e-6)
    ends = np.eye(3)[LABELS]
    claim(
        "the lines end at the labels up to e^{−5}",
        np.abs(data["class_lines"][-1] - ends),
        at_most=np.exp(-END),
    )
    paths = np.moveaxis(data["class_gradient"], 2, 1).reshape(-1, len(data["fine"]), 3)
    away = np.array([distance_from_chord(path) for path in paths]).reshape(len(DEPTHS), -1)
    claim(
        "gradient flow: largest distance from the straight lines, each depth", away.max(axis=1), at_least=0.1
    )
    off = np.abs(data["logit_natural"] - data["predictor_at_marks"])
    claim("predictors, three depths, against the tilted minimum", off, at_most=1e-5)
    residual = data["x"].T @ (1 / (1 + np.exp(-data["x"] @ data["optimum"])) - data["y"])
    claim("gradient at the common end", np.abs(residual), at_most=1e-12)
    gaps = [nearest(path, data["predictor"]) for path in data["logit_gradient"]]
    claim("gradient flow: largest distance of w from the natural path, each depth", gaps, at_least=0.1)
    law = np.exp(-data["marks"])
    claim("gradient over e^{−t}, four families", np.abs(data["law"] / law - 1), at_most=1e-5)
    claim("residuals of the tanh network over e^{−t}", np.abs(data["law_of_tanh"] / law - 1), at_most=1e-5)
    ratio = np.abs(np.log(data["law_of_gradient"]) + data["dense"]).max(axis=1)
    claim("gradient flow: furthest from e^{−t}, logarithm of the ratio, each family", ratio, at_least=0.3)


def distance_from_chord(path: Array) -> float:
    """Return the largest distance of a path from the segment between its ends."""
    chord = path[-1] - path[0]
    along_chord = (path - path[0]) @ chord / (chord @ chord)
    return float(np.linalg.norm(path - path[0] - np.outer(along_chord, chord), axis=1).max())


def nearest(path: Array, other: Array) -> float:
    """Return how far a path gets from another one."""
    return float(np.linalg.norm(path[:, None] - other[None], axis=-1).min(axis=1).max())


def draw(data: Data) -> Figure:
    """Draw the triangle, the predictors, the law."""
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 3.4), width_ratios=(1.1, 1, 1))
    _triangle(axes[0], data)
    _plane(axes[1], data)
    _law(axes[2], data)
    label_panels(axes)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles[::2] + handles[1::2], labels[::2] + labels[1::2], loc="outside lower left", ncols=2)
    handles, labels = axes[2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2)
    figure.suptitle("Natural gradient flow is one path of the function at any depth; gradient flow is not")
    return figure


def _triangle(axis: Axes, data: Data) -> None:
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
    axis.plot(*corners[[0, 1, 2, 0]].T, color=GREY, lw=0.8)
    for corner, name, where in zip(corners, "123", ((-12, -12), (-16, -12), (-14, 5)), strict=True):
        axis.annotate(f"class {name}", corner, xytext=where, textcoords="offset points", color=GREY)
    for k, dash in enumerate(DASHES[: len(DEPTHS)]):
        for sample in range(3):
            path = data["class_gradient"][k, :, sample] @ corners
            axis.plot(*path.T, color=VERMILLION, ls=dash, lw=1.1)
            marks = data["class_natural"][k, :, sample] @ corners
            axis.plot(*marks.T, MARKERS[k], color=BLUE, mfc="none", ms=3.5 + 2.2 * k, mew=0.8)
    for sample in range(3):
        line = data["class_lines"][:, sample] @ corners
        axis.plot(*line.T, color=BLUE, lw=1.2)
        axis.plot(*line[0], "o", color=BLACK, ms=3.5, zorder=5)
    axis.set(aspect="equal", xlim=(-0.1, 1.1), ylim=(-0.12, 1.0))
    axis.axis("off")
    axis.set_title("class probabilities")


def _plane(axis: Axes, data: Data) -> None:
    axis.plot(*data["predictor"].T, color=BLUE, lw=1.2)
    for k, (depth, dash) in enumerate(zip(DEPTHS, DASHES, strict=False)):
        name = f"{depth} layer{'s' if depth > 1 else ''}"
        axis.plot(*data["logit_natural"][k].T, MARKERS[k], color=BLUE, mfc="none", ms=3.5 + 2.2 * k, mew=0.8,
                  label=f"natural, {name}")  # fmt: skip
        axis.plot(*data["logit_gradient"][k].T, color=VERMILLION, ls=dash, lw=1.1, label=f"gradient, {name}")
    axis.plot(*data["predictor"][0], "o", color=BLACK, ms=3.5, zorder=5)
    axis.plot(*data["optimum"], "*", color=BLACK, ms=8, zorder=5)
    axis.annotate("$w(0)$", data["predictor"][0], xytext=(7, 4), textcoords="offset points")
    axis.annotate(
        "maximum\nlikelihood", data["optimum"], xytext=(-17, -26), textcoords="offset points", ha="right"
    )
    axis.set(xlabel=r"$w_1$", ylabel=r"$w_2$", ylim=(-1.25, 2.0))
    axis.set_title("logistic predictor")


def _law(axis: Axes, data: Data) -> None:
    axis.plot(data["marks"], np.exp(-data["marks"]), color=BLACK, lw=0.9, label=r"$e^{-t}$")
    for k, name in enumerate(FAMILIES):
        colour = SERIES[k]
        axis.plot(
            data["marks"], data["law"][k], MARKERS[k], color=colour, mfc="none", ms=3.5 + 1.8 * k, label=name
        )
        axis.plot(data["dense"], data["law_of_gradient"][k], color=colour, ls=DASHES[1], lw=0.9)
    axis.plot(data["marks"], data["law_of_tanh"], "x", color=BLACK, ms=4, label="tanh network")
    axis.plot([], [], color=GREY, ls=DASHES[1], lw=0.9, label="gradient flow")
    axis.set(
        yscale="log", xlabel=r"time $t$", ylabel="gradient, relative", xlim=(-0.3, END + 0.3), ylim=(2e-3, 2)
    )
    decades(axis)
    axis.set_title("the gradient law")
