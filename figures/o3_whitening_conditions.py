"""Does whitening make the Fisher matrix better conditioned, at the start and on the way? Statement O3.

Desjardins et al. (2015) show the exact Fisher matrix of a small tanh network on MNIST of 10 × 10 pixels before and
after whitening, and how whitening improves its condition number during training. Here: a tanh network 100-10-10-10 with
softmax, 5000 images, the Fisher matrix with the model's targets in expectation over the first 600 (a, b: averages of
|F| over cells; c: all eigenvalues, from singular values of the root of F). In white coordinates (V, d) of the same
function it is BᵀFB. Two condition numbers that any working precision can decide: damped by the mean eigenvalue,
(λ_max + λ̄)/(λ_min + λ̄), and λ_max over the median of the non-zero eigenvalues.

During training (d to f; median and range over five seeds) every method is measured in the coordinates in which it takes
a plain gradient step: PRONG in those in use, T = 50 updates old at most, RMSprop in those that √s scales (and, thinner,
in the parameters themselves), batch normalisation in (W, β, γ) with derivatives through the statistics. The rate of
each is the one of six, half a decade apart, with the least training loss on another seed; PRONG's ε = 0.01 and 500 rows
for its moments are ours.

Verdict: reproduced. At the start whitening with ε = 0.01 divides the damped condition number by about 10 and that to
the median by about 80. On the way PRONG's are smaller than those of gradient descent by 3 and 12, of RMSprop by 2 and 4
(geometric means); batch normalisation is as well conditioned to within a factor of two. After 1000 updates PRONG's
training loss is the least, by a tenth.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from figures import _batch_norm
from figures._common import BLACK, DASHES, MARKERS, SERIES, Array, Data, claim, label_panels, publish
from figures._experiments import verdict
from figures._images import Images, small_images, source
from figures._runs import best, padded, watch
from linnat.nonlinear import Network, curvature, initial, passes
from linnat.nonlinear.optimisers import GradientDescent, Preconditioned, Rmsprop
from linnat.nonlinear.preconditioners import Prong
from linnat.nonlinear.preconditioners.prong import ProngState, Whitening, from_white
from linnat.nonlinear.statistics import gather

STATEMENTS = ("O3",)

EPSILONS = (1e-1, 1e-2, 1e-4)  # of the spectra
SHOWN = 1  # the ε of the images and of the training runs
PERIOD = 50
MOMENT_ROWS = 500
MARKS = (1, 10, 100, 300, 1000)
CELLS = 60  # of the images


class Method(NamedTuple):
    """A method, rates to choose from, and how its state is measured."""

    name: str
    make: Callable[[float], Any]
    rates: tuple[float, ...]
    look: Callable[[Any, Images, int], tuple[float, list[float]]]


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return images and spectra at the start, losses and condition numbers (curve, seed, mark)."""
    images = small_images(1500 if quick else 5000, 10)
    net = Network((100, 6, 6, 10) if quick else (100, 10, 10, 10), "tanh", "categorical")
    rows, marks = (200, MARKS[:3]) if quick else (600, MARKS)
    data = at_the_start(net, images, rows, seeds=2 if quick else 5)
    data |= during_training(net, images, rows, marks, seeds=2 if quick else 5)
    data |= {"marks": np.array(marks), "source": np.array(images.name), "widths": np.array(net.widths)}
    return data | {"full": np.array(not quick)}


def at_the_start(net: Network, images: Images, rows: int, seeds: int) -> dict[str, Array]:
    """Return |F| in cells, condition numbers (ε or none, seed, kind), spectra of the first seed."""
    conditions, cells, spectra, defects = [], [], [], []
    for seed in range(seeds):
        theta = initial(net, "glorot", rng=seed)
        plain = curvature.true_fisher(net, theta, images.x[:rows]).dense()
        states = [whitened(net, theta, images.x, epsilon) for epsilon in EPSILONS]
        matrices = [plain, *(in_white(state, plain) for state in states)]
        conditions.append([condition_numbers(matrix) for matrix in matrices])
        defects.append(max(defect(s, plain, m) for s, m in zip(states, matrices[1:], strict=True)))
        if seed == 0:
            cells = [coarse(np.abs(matrix)) for matrix in (plain, matrices[1 + SHOWN])]
            root = fisher_root(net, theta, images.x[:rows])
            roots = [root, *(rows_in_white(state, root) for state in states)]
            spectra = [np.linalg.svd(r, compute_uv=False) ** 2 for r in roots]
            defects.append(float(np.abs(root.T @ root - plain).max() / np.abs(plain).max()))
    return {
        "conditions": np.moveaxis(np.array(conditions), 0, 1),
        "cells": np.array(cells, dtype=np.float32),
        "spectra": np.array(spectra),
        "defects": np.array(defects),
    }


def whitened(net: Network, theta: Array, x: Array, epsilon: float) -> ProngState:
    """Return coordinates from the moments of all rows."""
    prong = Prong(epsilon=epsilon)
    _, work = passes.prepare(net, theta, x)
    return prong.update(prong.init(net), gather(net, theta, work, "sampled", 0))[0]


def white_map(white: Whitening) -> Array:
    """Return M with [W b]ᵀ = M [V d]ᵀ, for outer scales of one."""
    size = len(white.centre)
    out = np.eye(size + 1)
    out[:size, :size] = white.basis / white.scales
    out[size, :size] = -white.centre @ out[:size, :size]
    return out


def rows_in_white(state: ProngState, rows: Array) -> Array:
    """Return rows (K, P) times B, the derivative of θ in white coordinates."""
    out = np.empty_like(rows)
    parts = zip(state.net.blocks(rows), state.net.blocks(out), state.whitenings, strict=True)
    for block, part, white in parts:
        np.einsum("ij,kim->kjm", white_map(white), block, out=part, optimize=True)
    return out


def in_white(state: ProngState, matrix: Array) -> Array:
    """Return BᵀFB."""
    return rows_in_white(state, np.ascontiguousarray(rows_in_white(state, matrix).T))


def defect(state: ProngState, plain: Array, white: Array) -> float:
    """Return by how much dᵀ(BᵀFB)d is not (Bd)ᵀF(Bd) with Bd from the reparametrised network itself."""
    direction = np.random.default_rng(0).standard_normal(len(plain))
    moved = from_white(state, direction) - from_white(state, np.zeros_like(direction))
    wanted = float(moved @ plain @ moved)
    return abs(float(direction @ white @ direction) - wanted) / wanted


def fisher_root(net: Network, theta: Array, x: Array) -> Array:
    """Return R (N n_L, P) with RᵀR = F."""
    _, work = passes.prepare(net, theta, x)
    inner = net.family.fisher_root(work.outputs)
    root = np.einsum("ncr,ncp->nrp", inner, passes.jacobian(net, theta, x), optimize=True)
    return root.reshape(-1, net.n_parameters) / len(x) ** 0.5


def condition_numbers(matrix: Array) -> list[float]:
    """Return the damped condition number, and that to the median of the non-zero eigenvalues."""
    values = np.linalg.eigvalsh(matrix)[::-1]
    mean = float(values.mean())
    apart = values[values > len(values) * np.finfo(float).eps * values[0]]
    damped = (values[0] + mean) / (max(values[-1], 0.0) + mean)
    return [float(damped), float(values[0] / np.median(apart))]


def coarse(matrix: Array) -> Array:
    """Return means over cells."""
    ends = np.linspace(0, len(matrix), CELLS + 1).astype(int)
    sums = np.add.reduceat(np.add.reduceat(matrix, ends[:-1], axis=0), ends[:-1], axis=1)
    return sums / np.outer(np.diff(ends), np.diff(ends))


def look_plain(state: Any, images: Images, rows: int) -> tuple[float, list[float]]:
    """Return the training loss, and condition numbers in the parameters."""
    value = passes.loss(state.net, state.theta, images.x, images.y)
    return value, condition_numbers(fisher_at(state, images, rows))


def look_rmsprop(state: Any, images: Images, rows: int) -> tuple[float, list[float]]:
    """Return the same, and then condition numbers in the coordinates that √s scales."""
    matrix = fisher_at(state, images, rows)
    value = passes.loss(state.net, state.theta, images.x, images.y)
    scale = (np.sqrt(state.second) + Rmsprop().epsilon) ** -0.5
    return value, [*condition_numbers(matrix), *condition_numbers(matrix * np.outer(scale, scale))]


def look_normalised(state: Any, images: Images, rows: int) -> tuple[float, list[float]]:
    """Return the loss with statistics of all rows, and condition numbers in (W, β, γ)."""
    value = _batch_norm.loss(state.net, state.theta, images.x, images.y)
    return value, condition_numbers(_batch_norm.fisher(state.net, state.theta, images.x[:rows]))


def look_white(state: Any, images: Images, rows: int) -> tuple[float, list[float]]:
    """Return the loss, and condition numbers in the coordinates in use."""
    matrix = in_white(state.inner, fisher_at(state, images, rows))
    return passes.loss(state.net, state.theta, images.x, images.y), condition_numbers(matrix)


def fisher_at(state: Any, images: Images, rows: int) -> Array:
    """Return the Fisher matrix at a state's parameters, over the first rows."""
    return curvature.true_fisher(state.net, state.theta, images.x[:rows]).dense()


def prong(rate: float) -> Preconditioned:
    """Return PRONG as published: moments of one draw of rows, coordinates kept for T updates."""
    return Preconditioned(Prong(epsilon=EPSILONS[SHOWN], decay=0.0, period=1), rate, every=PERIOD, rows=None)


RATES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
METHODS = (
    Method("gradient descent", GradientDescent, RATES, look_plain),
    Method("RMSprop", Rmsprop, tuple(r / 30 for r in RATES), look_rmsprop),
    Method("batch normalisation", _batch_norm.NormalisedDescent, RATES, look_normalised),
    Method("PRONG", prong, RATES, look_white),
)
CURVES = (*(m.name for m in METHODS), "RMSprop, in the parameters")


def during_training(
    net: Network, images: Images, rows: int, marks: tuple[int, ...], seeds: int
) -> dict[str, Array]:
    """Return losses (method, seed, mark), condition numbers (kind, curve, seed, mark), rates, losses by rate."""
    losses = np.empty((len(METHODS), seeds, len(marks)))
    kappa = np.empty((2, len(CURVES), seeds, len(marks)))
    rates, scores = [], np.empty((len(METHODS), len(RATES)))
    for place, method in enumerate(METHODS):

        def trained(rate: float, seed: int, at: tuple[int, ...], rows: int, method: Method = method) -> Any:
            return watch(
                method.make(rate),
                net,
                initial(net, "glorot", rng=seed),
                images.x,
                images.y,
                marks=at,
                look=lambda s: method.look(s, images, rows),
                batch=100,
                seed=seed,
                metric=MOMENT_ROWS,
                every=PERIOD,
            )

        for k, rate in enumerate(method.rates):
            found = trained(rate, 100, marks[-1:], 5).found
            scores[place, k] = found[0][0] if found else np.inf
        rates.append(best(dict(zip(method.rates, scores[place], strict=True))))
        for seed in range(seeds):
            found = trained(rates[-1], seed, marks, rows).found
            losses[place, seed] = padded([value for value, _ in found], len(marks))
            numbers = np.array([kinds for _, kinds in found]).T
            kappa[:, place, seed] = numbers[-2:]
            if method.name == "RMSprop":
                kappa[:, -1, seed] = numbers[:2]
    return {"losses": losses, "kappa": kappa, "rates": np.array(rates), "scores": scores}


def check(data: Data) -> None:
    """Hold the numbers to the verdict."""
    claim(
        "white coordinates against the reparametrised network, F against its root",
        data["defects"],
        at_most=1e-10,
    )
    values = data["spectra"]
    means = values.mean(axis=1)
    damped = (values[:, 0] + means) / (values[:, -1] + means)
    own = data["conditions"][:, 0, 0]
    claim("condition numbers by singular values of the root", np.abs(damped / own - 1), at_most=1e-8)
    gains = data["conditions"][0] / data["conditions"][1:]
    claim(
        f"damped condition number divided by, at ε = {EPSILONS[SHOWN]:g}, all seeds",
        gains[SHOWN, :, 0],
        at_least=3,
    )
    claim("condition number to the median divided by", gains[SHOWN, :, 1], at_least=10)
    claim("the smaller ε, the better", np.diff(np.median(gains, axis=1), axis=0), at_least=0.0)
    wholes = np.array([whole(v) for v in values])
    claim("all non-zero eigenvalues: divided by", wholes[0] / wholes[1 + SHOWN], at_least=10)
    ratios = on_the_way(data)
    for place, name in ((0, "gradient descent"), (1, "RMSprop"), (4, "RMSprop's in the parameters")):
        claim(f"on the way, {name} over PRONG, damped and to the median", ratios[:, place], at_least=1.2)
    claim(
        "batch normalisation over PRONG, damped: neither is better", ratios[0, 2], at_least=0.5, at_most=2.0
    )
    claim("the same to the median", ratios[1, 2], at_least=0.5, at_most=4.0)
    last = np.median(data["losses"][..., -1], axis=1)
    claim(
        "training loss at the end, PRONG over the best of the others", last[3] / last[:3].min(), at_most=1.0
    )
    if data["full"] and data["source"] == "MNIST":
        claim("quoted: damped, at the start", np.median(gains[SHOWN, :, 0]), at_least=9, at_most=13)
        claim("quoted: to the median, at the start", np.median(gains[SHOWN, :, 1]), at_least=70, at_most=95)
        claim("quoted: gradient descent on the way", ratios[:, 0] / [3, 12], at_least=0.8, at_most=1.25)
        claim("quoted: RMSprop on the way", ratios[:, 1] / [2, 4], at_least=0.8, at_most=1.25)
        claim("quoted: batch normalisation on the way", ratios[:, 2], at_least=0.5, at_most=2.0)
        claim("quoted: loss, PRONG over the best of the others", last[3] / last[:3].min(), at_most=0.95)
    sentence = (
        f"Whitening divides the damped condition number by {np.median(gains[SHOWN, :, 0]):.1f}, that to the median "
        f"by {np.median(gains[SHOWN, :, 1]):.0f}; on the way PRONG's are smaller than those of gradient descent by "
        f"{ratios[0, 0]:.1f} and {ratios[1, 0]:.0f}, of RMSprop by {ratios[0, 1]:.1f} and {ratios[1, 1]:.0f}, of "
        f"batch normalisation by {ratios[0, 2]:.1f} and {ratios[1, 2]:.1f}."
    )
    verdict("Desjardins et al. 2015", "reproduced", sentence)


def whole(values: Array) -> float:
    """Return λ_max over the least non-zero eigenvalue, from squares of singular values."""
    apart = values[values > (len(values) * np.finfo(float).eps) ** 2 * values[0]]
    return float(values[0] / apart[-1])


def on_the_way(data: Data) -> Array:
    """Return condition numbers over PRONG's, (kind, curve): medians over seeds, geometric mean over marks after 1."""
    logs = np.log(np.median(data["kappa"], axis=2))[..., 1:].mean(axis=-1)
    ratios: Array = np.exp(logs - logs[:, 3:4])
    return ratios


def draw(data: Data) -> Figure:
    """Draw matrices, spectra, and what happens on the way."""
    figure, axes = plt.subplots(2, 3, figsize=(7.6, 5.2))
    top = float(data["cells"].max())
    for axis, cells, numbers, name in zip(
        axes[0],
        data["cells"],
        (data["conditions"][0], data["conditions"][1 + SHOWN]),
        ("θ", "white"),
        strict=False,
    ):
        shown = axis.imshow(
            np.maximum(cells, 1e-6 * top), norm=LogNorm(1e-5 * top, top), interpolation="nearest"
        )
        where = (
            "in the parameters"
            if name == "θ"
            else rf"in white coordinates, $\varepsilon={EPSILONS[SHOWN]:g}$"
        )
        sizes = rf"$\kappa$ = {numbers[0, 0]:.0f} damped, {numbers[0, 1]:.0f} to median"
        axis.set_title(f"$|F|$ {where}:\n{sizes}", fontsize=7)
        axis.set(xticks=[], yticks=[], xlabel="layers 1 to 3, by columns")
    figure.colorbar(shown, ax=axes[0, :2], shrink=0.8, pad=0.02).set_label("mean over cells")
    names = ("parameters", *(rf"$\varepsilon={epsilon:g}$" for epsilon in EPSILONS))
    for values, label, colour, dash in zip(data["spectra"], names, (BLACK, *SERIES), DASHES, strict=False):
        shares = values / values[0]
        axes[0, 2].loglog(
            np.arange(1, len(shares) + 1), np.maximum(shares, 1e-18), color=colour, ls=dash, label=label
        )
    axes[0, 2].set(xlabel="eigenvalue", ylabel=r"$\lambda_k/\lambda_{\max}$", ylim=(1e-14, 2))
    axes[0, 2].set_title("Spectrum at the start")
    axes[0, 2].legend(loc="lower left")
    draw_the_way(axes[1], data)
    label_panels(axes)
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(f"Whitening and the condition of the Fisher matrix ({source(str(data['source']), 10)})")
    return figure


def draw_the_way(axes: Array, data: Data) -> None:
    """Draw condition numbers and losses against updates, median and range over seeds."""
    marks = data["marks"]
    for axis, kind, title in zip(axes, data["kappa"], ("damped", "to the median eigenvalue"), strict=False):
        for k, name in enumerate(CURVES):
            look: dict[str, Any] = {
                "color": SERIES[k % 4 if k < 4 else 1],
                "ls": DASHES[k],
                "marker": MARKERS[k],
            }
            axis.loglog(
                marks, np.median(kind[k], axis=0), mfc="white", label=name, lw=1.4 if k < 4 else 0.8, **look
            )
            if k < len(METHODS):
                axis.fill_between(
                    marks, kind[k].min(axis=0), kind[k].max(axis=0), color=SERIES[k], alpha=0.15, lw=0
                )
        axis.set(xlabel="updates", ylabel=r"condition number $\kappa$")
        plain_ticks(axis, kind)
        axis.set_title(f"On the way, {title}")
    for k in range(len(METHODS)):
        axes[2].loglog(
            marks,
            np.median(data["losses"][k], axis=0),
            color=SERIES[k],
            ls=DASHES[k],
            marker=MARKERS[k],
            mfc="white",
        )
    axes[2].set(xlabel="updates", ylabel="training loss")
    plain_ticks(axes[2], data["losses"])
    axes[2].set_title("Best of six rates each")


def plain_ticks(axis: Axes, values: Array) -> None:
    """Tick a logarithmic axis at 1, 2 and 5 of every decade where it has few, and at decades where it has many."""
    few = np.nanmax(values) / np.nanmin(values) < 100
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axis.yaxis.set_minor_locator(NullLocator())
    if few:
        axis.yaxis.set_major_formatter("{x:g}")
