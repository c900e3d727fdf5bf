"""Are gradients less correlated in the Kronecker eigenbasis, and who knows their second moments there? Statement O2.

George et al. (2018) state that the matrix of the gradients' second moments is closer to diagonal in the eigenbasis of
K-FAC's factors than in the parameters, that of all diagonals in this basis EKFAC's is nearest to it, and that EKFAC,
whose diagonal is refreshed at every update, follows the curvature between two changes of the basis, which K-FAC cannot.
The matrix is theirs, the empirical Fisher matrix G of each layer. A tanh network 100-12-12-10 with softmax is trained
by gradient descent (rate 0.3) with minibatches of 100 of 2000 images of 10 × 10 pixels, five seeds.

(a, b) Correlations |G_jk|/√(G_jj G_kk) of layer 2 at the last update. (c) Mean of the correlations that are not on
the diagonal, and the share of ‖G‖² there, in the parameters and in the basis of all rows, at three points. (d, e)
Along the way: distance ‖s − s*‖/‖s*‖ of the diagonal in use to the second moments s* of all rows in the basis in use,
all layers together, for bases renewed every n updates; K-FAC's s are products of the factors' eigenvalues at the last
renewal, EKFAC's a running average (decay 0.95, both) that is carried over into each new basis by what sets it apart
from K-FAC's. (f) What matters for G: ‖G − QsQᵀ‖/‖G‖.

Verdict: reproduced. In the eigenbasis the share of ‖G‖² off the diagonal is smaller in every layer, at the last update
0.12 for 0.95, 0.37 for 0.78 and 0.49 for 0.80; mean correlations fall by a third, but for the first layer in the end.
On the average over updates EKFAC's diagonal is within 0.12 of the second moments at n = 1, 100 and 500 alike, also just
after a basis 500 updates old has been left; K-FAC's is off by 0.3 at n = 100 and 0.6 at n = 500 (0.24 if it is always
fresh). For the matrix the gain is smaller, an error of 0.40 for 0.47 at n = 100: what is off the diagonal stays; and
EKFAC in a basis of n = 500 (0.59) is worse than a K-FAC that is always fresh (0.42).
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures._common import BLACK, DASHES, MARKERS, SERIES, Array, Data, claim, label_panels, publish
from figures._experiments import verdict
from figures._images import Images, small_images, source
from figures._runs import minibatches
from linnat.nonlinear import Network, curvature, initial, passes
from linnat.nonlinear.optimisers import Batch, GradientDescent
from linnat.nonlinear.preconditioners import Ekfac
from linnat.nonlinear.preconditioners.ekfac import EkfacState
from linnat.nonlinear.statistics import Statistics, gather

STATEMENTS = ("O2",)

RATE, BATCH = 0.3, 100
PERIODS = (1, 100, 500)
POINTS = (10, 110, 590)  # of the correlations
STEP = 20  # updates between measurements of distances
LAYER = 2  # of the images
CORNER = 42  # coordinates shown: the first parameters, the largest eigenvalues


class Watcher(NamedTuple):
    """A state of EKFAC that is fed and never used, and K-FAC's second moments at its last renewal."""

    method: Ekfac
    state: EkfacState
    kfac: tuple[Array, ...]


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return correlations, shares, distances and errors."""
    images = small_images(1000 if quick else 2000, 10)
    net = Network((100, 6, 6, 10) if quick else (100, 12, 12, 10), "tanh", "categorical")
    points = POINTS[:2] if quick else POINTS
    runs = [along(net, images, points, seed) for seed in range(2 if quick else 5)]
    data = {key: np.array([run[key] for run in runs]) for key in runs[0] if key != "pictures"}
    marks = np.arange(STEP // 2, points[-1] + 1, STEP)
    pictures = runs[0]["pictures"].astype(np.float32)
    return data | {
        "pictures": pictures,
        "points": np.array(points),
        "marks": marks,
        "source": np.array(images.name),
        "full": np.array(not quick),
    }


def along(net: Network, images: Images, points: tuple[int, ...], seed: int) -> dict[str, Array]:
    """Train, feed the watchers, and measure at the marks."""
    descent, rng = GradientDescent(RATE), np.random.default_rng(seed)
    state = descent.init(net, initial(net, "glorot", rng=seed))
    watchers = [fresh(net, period) for period in PERIODS]
    distances, errors, summaries, pictures = [], [], [], np.empty(0)
    for update, rows in enumerate(islice(minibatches(len(images.x), BATCH, rng), points[-1] + 1)):
        x, y = images.x[rows], images.y[rows]
        statistics = taken(net, state.theta, x, y)
        watchers = [fed(watcher, statistics) for watcher in watchers]
        if update % STEP == STEP // 2:
            everything = taken(net, state.theta, images.x, images.y)
            found = [apart(watcher, everything) for watcher in watchers]
            distances.append([pair for pair, _ in found])
            norm = square_norm(everything)
            errors.append([[(1 + lost / norm) ** 0.5 for lost in extra] for _, extra in found])
        if update in points:
            summary, pictures = correlations(net, state.theta, images)
            summaries.append(summary)
        state, _ = descent.step(state, Batch(x, y), rng)
    return {
        "distances": np.array(distances),
        "errors": np.array(errors),
        "summaries": np.array([s[:, :4] for s in summaries]),
        "routes": np.array([s[:, 4:] for s in summaries]),
        "pictures": pictures,
    }


def taken(net: Network, theta: Array, x: Array, y: Array) -> Statistics:
    """Return signals and errors with the data's targets."""
    _, work = passes.prepare(net, theta, x)
    return gather(net, theta, work, y)


def fresh(net: Network, period: int) -> Watcher:
    """Return a watcher before the first minibatch."""
    method = Ekfac(period=period, decay=0.95, early=False)
    return Watcher(method, method.init(net), ())


def fed(watcher: Watcher, statistics: Statistics) -> Watcher:
    """Return the watcher after a minibatch."""
    state, info = watcher.method.update(watcher.state, statistics)
    return Watcher(watcher.method, state, products(state) if info.refreshed else watcher.kfac)


def products(state: EkfacState) -> tuple[Array, ...]:
    """Return K-FAC's second moments, products of the factors' eigenvalues, in the basis that was just renewed."""
    sides = zip(state.bases, state.factors.inputs, state.factors.outputs, strict=True)
    return tuple(
        np.multiply.outer(
            np.einsum("ik,ij,jk->k", left, inner, left, optimize=True),
            np.einsum("ik,ij,jk->k", right, outer, right, optimize=True),
        )
        for (left, right), inner, outer in sides
    )


def moments(bases: tuple[tuple[Array, Array], ...], everything: Statistics) -> list[Array]:
    """Return s*: mean squares of every row's gradient in a basis."""
    found = []
    for (left, right), signal, error in zip(bases, everything.signals, everything.errors, strict=True):
        inner = (signal @ left[:-1] + left[-1]) ** 2
        found.append(inner.T @ (error @ right) ** 2 / len(signal))
    return found


def apart(watcher: Watcher, everything: Statistics) -> tuple[list[float], list[float]]:
    """Return ‖s − s*‖/‖s*‖ of K-FAC and EKFAC, and ‖s − s*‖² − ‖s*‖² of both."""
    true = moments(watcher.state.bases, everything)
    whole = sum(float((t**2).sum()) for t in true)
    lost = [
        sum(float(((s - t) ** 2).sum()) for s, t in zip(given, true, strict=True))
        for given in (watcher.kfac, watcher.state.moments)
    ]
    return [(value / whole) ** 0.5 for value in lost], [value - whole for value in lost]


def square_norm(everything: Statistics) -> float:
    """Return Σ ‖G‖² of the layers' blocks: mean of (h̃_mᵀh̃_n)² (δ_mᵀδ_n)² over pairs of rows."""
    total = 0.0
    for signal, error in zip(everything.signals, everything.errors, strict=True):
        total += float((((signal @ signal.T + 1.0) * (error @ error.T)) ** 2).mean())
    return total


def correlations(net: Network, theta: Array, images: Images) -> tuple[Array, Array]:
    """Return (layer, kind) and the correlations of one layer in the parameters and in the eigenbasis.

    Kinds: mean correlation in the parameters, in the basis; share of ‖G‖² off the diagonal in both; s* by the mean
    squares of projected rows against the diagonal of QᵀGQ, and by how much K-FAC's error exceeds EKFAC's.
    """
    everything = taken(net, theta, images.x, images.y)
    method = Ekfac(period=1)
    state, _ = method.update(method.init(net), everything)
    direct, kfac, summary = moments(state.bases, everything), products(state), []
    shown: list[Array] = []
    matrix = curvature.empirical_fisher(net, theta, images.x, images.y)
    for i, (left, right) in enumerate(state.bases):
        plain = matrix.block(i + 1, i + 1)
        basis = np.kron(left, right)
        turned = basis.T @ plain @ basis
        pair = [correlation(plain), correlation(turned)]
        shares = [1 - float((np.diag(m) ** 2).sum() / (m**2).sum()) for m in (plain, turned)]
        difference = float(np.abs(np.diag(turned) - direct[i].ravel()).max() / direct[i].max())
        error = [np.linalg.norm(turned - np.diag(s.ravel())) for s in (kfac[i], direct[i])]
        summary.append([*(off_diagonal(c) for c in pair), *shares, difference, float(error[0] / error[1])])
        shown = pair if i == LAYER - 1 else shown
    return np.array(summary), np.array(shown)


def correlation(matrix: Array) -> Array:
    """Return |G_jk|/√(G_jj G_kk), zero where a coordinate has no gradient."""
    scale = np.sqrt(np.maximum(np.diag(matrix), 0.0))
    scale = np.where(scale > 1e-7 * scale.max(), scale, np.inf)
    return np.asarray(np.abs(matrix) / np.outer(scale, scale))


def off_diagonal(matrix: Array) -> float:
    """Return the mean off the diagonal, over coordinates that have a gradient."""
    alive = int((np.diag(matrix) > 0).sum())
    return float((matrix.sum() - np.trace(matrix)) / (alive * (alive - 1)))


def check(data: Data) -> None:
    """Hold the numbers to the verdict."""
    claim("second moments, by rows and by the dense matrix", data["routes"][..., 0], at_most=1e-12)
    ones = np.diagonal(data["pictures"], axis1=1, axis2=2)
    claim("correlations of coordinates with themselves", np.abs(ones - 1), at_most=1e-5)
    explained, close = 1 - data["errors"] ** 2, 1 - data["distances"] ** 2
    crossed = explained[..., 0] * close[..., 1] - explained[..., 1] * close[..., 0]
    claim("errors of matrices and distances of diagonals tell the same", np.abs(crossed), at_most=1e-8)
    claim(
        "error of K-FAC over EKFAC's, moments of all rows, every layer", data["routes"][..., 1], at_least=1.0
    )
    means = data["summaries"].mean(axis=0)
    claim(
        "mean correlation, parameters over eigenbasis, every layer and point",
        means[..., 0] / means[..., 1],
        at_least=1.0,
    )
    claim("share off the diagonal, parameters over eigenbasis", means[..., 2] / means[..., 3], at_least=1.3)
    late = data["distances"][:, 1:].mean(axis=1)
    claim(
        "distance of K-FAC over EKFAC's, n = 100 and 500, all seeds",
        late[:, 1:, 0] / late[:, 1:, 1],
        at_least=1.5,
    )
    errors = data["errors"][:, 1:].mean(axis=1)
    claim("error of the matrix, the same", errors[:, 1:, 0] / errors[:, 1:, 1], at_least=1.05)
    claim(
        "and of a fresh K-FAC over EKFAC's in the stalest basis",
        errors[:, 0, 0] / errors[:, 2, 1],
        at_most=1.0,
    )
    shares, distances, wholes = means[-1, :, 2:], np.median(late, axis=0), np.median(errors, axis=0)
    if data["full"] and data["source"] == "MNIST":
        quoted = np.array([[0.95, 0.12], [0.78, 0.37], [0.80, 0.49]])
        claim("quoted: shares off the diagonal", np.abs(shares - quoted), at_most=0.02)
        claim("quoted: distances of EKFAC", distances[:, 1], at_most=0.12)
        claim("quoted: its medians along the way", np.median(data["distances"][..., 1], axis=0), at_most=0.18)
        claim("quoted: distances of K-FAC", np.abs(distances[:, 0] - [0.24, 0.3, 0.6]), at_most=0.03)
        near = np.abs(wholes - [[0.42, wholes[0, 1]], [0.47, 0.40], [0.76, 0.59]])
        claim("quoted: errors of the matrix", near, at_most=0.01)
    sentence = (
        f"Off the diagonal lie, by layers, {said(shares[:, 0])} of the squared norm in the parameters and "
        f"{said(shares[:, 1])} in the eigenbasis; distance of the diagonal at n = 100 and 500: EKFAC "
        f"{said(distances[1:, 1])}, K-FAC {said(distances[1:, 0])}; error of the matrix: EKFAC {said(wholes[1:, 1])}, "
        f"K-FAC {said(wholes[1:, 0])}, fresh {wholes[0, 0]:.2f}."
    )
    verdict("George et al. 2018, theorem 3 and diagnostics", "reproduced", sentence)


def said(values: Array) -> str:
    """Return numbers in words' place."""
    return ", ".join(f"{value:.2f}" for value in values)


def draw(data: Data) -> Figure:
    """Draw correlations, distances and errors."""
    figure, axes = plt.subplots(2, 3, figsize=(7.6, 5.2))
    whole = data["pictures"][0].shape[0]
    corners = (slice(0, CORNER), slice(whole - CORNER, whole))
    for axis, picture, name, part in zip(
        axes[0], data["pictures"], ("parameters", "eigenbasis"), corners, strict=False
    ):
        shown = axis.imshow(picture[part, part], vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(f"Correlation, {name}:\nmean {off_diagonal(picture):.2f} off the diagonal")
        axis.set(xticks=[], yticks=[], xlabel=f"{CORNER} of {whole} coordinates, layer {LAYER}")
    figure.colorbar(shown, ax=axes[0, :2], shrink=0.8, pad=0.02, aspect=30)
    draw_summaries(axes[0, 2], data)
    for place, (axis, name) in enumerate(zip(axes[1, :2], ("K-FAC", "EKFAC"), strict=True)):
        for k, period in enumerate(PERIODS):
            band(axis, data["marks"], data["distances"][:, :, k, place], k, f"$n={period}$")
        axis.set(xlabel="updates", ylabel=r"$\|s-s^*\|/\|s^*\|$", ylim=(0, float(data["distances"].max())))
        axis.set_title(f"Diagonal of {name}")
    axes[1, 1].legend(loc="upper left", ncols=3, columnspacing=0.8, handlelength=1.8)
    band(axes[1, 2], data["marks"], data["errors"][:, :, 0, 0], 0, "K-FAC, $n=1$")
    for place, name in enumerate(("K-FAC", "EKFAC")):
        band(axes[1, 2], data["marks"], data["errors"][:, :, 1, place], 1 + 2 * place, f"{name}, $n=100$")
    axes[1, 2].set(xlabel="updates", ylabel=r"$\|G-QsQ^\top\|/\|G\|$")
    axes[1, 2].set_title("Error of the matrix")
    axes[1, 2].legend()
    label_panels(axes)
    figure.suptitle(f"Gradients in the Kronecker eigenbasis ({source(str(data['source']), 10)})")
    return figure


def draw_summaries(axis: Axes, data: Data) -> None:
    """Draw mean correlations of the layers against the update, median and range over seeds."""
    layers = data["summaries"].shape[2]
    for layer in range(layers):
        for kind, (colour, name) in enumerate(((BLACK, "parameters"), (SERIES[0], "eigenbasis"))):
            values = data["summaries"][:, :, layer, kind]
            middle = np.median(values, axis=0)
            reach = np.abs(np.array([values.min(axis=0), values.max(axis=0)]) - middle)
            axis.errorbar(
                data["points"], middle, reach, color=colour, ls=DASHES[layer], marker=MARKERS[layer], mfc="white",
                capsize=2, lw=1.1, label=f"{name}, {layer + 1}",
            )  # fmt: skip
    top = 1.7 * float(data["summaries"][..., :2].max())
    axis.set(xlabel="updates", ylabel="mean correlation", xscale="log", ylim=(0, top))
    axis.set_title("Off the diagonal")
    axis.legend(
        fontsize=6, ncols=2, loc="upper right", handlelength=1.6, columnspacing=0.6, handletextpad=0.4
    )


def band(axis: Axes, marks: Array, values: Array, k: int, label: str) -> None:
    """Draw median and range over seeds."""
    axis.plot(marks, np.median(values, axis=0), color=SERIES[k], ls=DASHES[k], label=label)
    axis.fill_between(marks, values.min(axis=0), values.max(axis=0), color=SERIES[k], alpha=0.15, lw=0)
