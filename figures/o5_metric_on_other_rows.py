"""Does it matter on which rows the metric is taken, and do unlabelled ones help? Statement O5.

Pascanu and Bengio (2013) state that the Fisher matrix needs no targets, so that unlabelled inputs may give the
metric, and that this improves the generalisation of natural gradient. A tanh network classifies MNIST (pixels
averaged over 2 × 2) from 1,000 labelled rows; truncated Newton steps with minibatches of 250, the metric of the
minibatch itself ("same"), of another minibatch of the labelled rows ("other"), of 250 unlabelled rows out of 20,000
("unlabelled"), and of 1,000 unlabelled rows ("4 × unlabelled"). Everything else is the same: start, order of the
rows, at most 20 iterations of conjugate gradients, a fixed damping of 0.1 (a) or 0.03 (b). Test loss on 10,000 rows
against updates (a, b), the gap to the training loss where the training loss first comes to a level (c), and the least
test loss on the way, less that of "same", paired by seed (d; six seeds).

Verdict: not reproduced. With the metric of other rows or of unlabelled ones the least test loss is higher in all six
comparisons, by 0.001 to 0.01 at damping 0.1 and by 0.02 to 0.10 at 0.03 (errors up to 0.016), and the gap at equal
training loss is no smaller. A metric from the minibatch itself bounds the step on just the rows that its gradient
fits; with other rows that bound is lost, less so with more of them.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures._common import BLACK, DASHES, GREY, MARKERS, SERIES, Array, Data, claim, label_panels, publish
from figures._experiments import Spent, descend, images, rows_of, verdict
from linnat.nonlinear import Network, initial, passes
from linnat.nonlinear.optimisers import Batch, TruncatedNewton

STATEMENTS = ("O5",)

METRICS = ("same", "other", "unlabelled", "4 × unlabelled")
DAMPINGS = (0.1, 0.03)


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return training loss, test loss, test error, (dampings, metrics, seeds, updates, 3)."""
    seeds, updates = (3, 16) if quick else (6, 18)
    runs = [
        [[run(quick, damping, metric, seed, updates) for seed in range(seeds)] for metric in METRICS]
        for damping in DAMPINGS
    ]
    return {"runs": np.array(runs), "updates": np.arange(updates + 1), "dampings": np.array(DAMPINGS)}


def run(quick: bool, damping: float, metric: str, seed: int, updates: int) -> Array:
    """Return (training loss, test loss, test error) after every update."""
    data = images(quick, pool=2, seed=seed)
    labelled, batch, pool, tests = (200, 50, 600, 900) if quick else (1000, 250, 20_000, 10_000)
    y = np.eye(10, dtype=np.float32)[data.labels]
    x_train, y_train = data.x[:labelled], y[:labelled]
    unlabelled = data.x[labelled : labelled + pool]
    test = data.x[labelled + pool :][:tests], y[labelled + pool :][:tests]
    net = Network((data.x.shape[1], 20 if quick else 50, 10), "tanh", "categorical")
    theta = initial(net, "glorot", rng=seed, dtype=np.float32)
    method = TruncatedNewton(iterations=20, damping=damping, adapt=False)
    own = rows_of(labelled, batch, seed)

    def batches(update: int) -> Batch:
        rows, rng = own(update), np.random.default_rng([seed, update, 7])
        chosen = Batch(x_train[rows], y_train[rows])
        if metric == "same":
            return chosen
        if metric == "other":
            others = np.setdiff1d(np.arange(labelled), rows)
            return chosen._replace(metric=x_train[rng.choice(others, batch, replace=False)])
        count = batch if metric == "unlabelled" else 4 * batch
        return chosen._replace(metric=unlabelled[rng.choice(len(unlabelled), count, replace=False)])

    def measured(state: Array, spent: Spent) -> tuple[float, float, float]:
        outputs = passes.prepare(net, state, test[0])[1].outputs
        loss = float(np.mean(net.family.loss(outputs, test[1])))
        wrong = float(np.mean(outputs.argmax(axis=1) != test[1].argmax(axis=1)))
        return passes.loss(net, state, x_train, y_train), loss, wrong

    return np.array(descend(method, net, theta, batches, updates, seed, measured))


def gaps(runs: Array, levels: Array) -> Array:
    """Return test loss less training loss where the training loss first falls to each level, (…, levels)."""
    found = np.full((*runs.shape[:-2], len(levels)), np.nan)
    for place in np.ndindex(*runs.shape[:-2]):
        train, test = runs[place][:, 0], runs[place][:, 1]
        for k, level in enumerate(levels):
            below = np.flatnonzero(train <= level)
            if len(below) and below[0] > 0:
                b = int(below[0])
                share = (train[b - 1] - level) / (train[b - 1] - train[b])
                found[(*place, k)] = test[b - 1] + share * (test[b] - test[b - 1]) - level
    return found


def differences(runs: Array) -> tuple[Array, Array]:
    """Return the least test loss and the error there, less those of "same": means, standard errors, (D, M − 1, 2)."""
    least = runs[..., 1].argmin(axis=-1)
    at = np.take_along_axis(runs, least[..., None, None], axis=-2)[..., 0, 1:]
    off = at[:, 1:] - at[:, :1]
    return off.mean(axis=2), off.std(axis=2, ddof=1) / np.sqrt(off.shape[2])


def check(data: Data) -> None:
    """State what the rows of the metric change, with its error."""
    runs = data["runs"]
    seeds = runs.shape[2]
    claim("training loss, last over first", runs[..., -1, 0] / runs[..., 0, 0], at_most=0.8)
    claim("losses at the start", runs[..., 0, :2], at_least=1.5, at_most=4.0)
    claim("starts are one", np.ptp(runs[..., 0, 0], axis=1), at_most=1e-6)
    mean, error = differences(runs)
    # What the paper states would be differences below zero.
    claim(
        "least test loss, other rows less the same: mean + 2 errors",
        mean[..., 0] + 2 * error[..., 0],
        at_least=0.0,
    )
    claim("the same, in classification error", mean[..., 1] + 2 * error[..., 1], at_least=0.0)
    least, most = mean[..., 0].min(), mean[..., 0].max()
    verdict(
        "Pascanu and Bengio 2013", "not",
        f"least test loss with other rows for the metric, less that with the same: {least:+.3f} … {most:+.3f} (errors "
        f"{error[..., 0].min():.3f} … {error[..., 0].max():.3f}, {seeds} seeds); classification error "
        f"{mean[..., 1].min():+.4f} … {mean[..., 1].max():+.4f}",
    )  # fmt: skip


def draw(data: Data) -> Figure:
    """Draw test losses, gaps, differences."""
    figure, axes = plt.subplots(1, 4, figsize=(8.3, 2.8))
    for axis, runs, damping in zip(axes, data["runs"], data["dampings"], strict=False):
        for k, name in enumerate(METRICS):
            axis.plot(
                data["updates"],
                runs[k, :, :, 1].mean(axis=0),
                color=SERIES[k],
                ls=DASHES[k],
                lw=1.3,
                label=name,
            )
        axis.set(xlabel="update", ylabel="test loss", ylim=(0.35, 1.0))
        axis.set_title(rf"damping $\lambda={damping:g}$")
    # Down to what every run came to.
    lowest = float(data["runs"][0, ..., 0].min(axis=-1).max())
    levels = np.geomspace(min(1.0, 4 * lowest), lowest, 7)
    found = gaps(data["runs"][0], levels)
    for k in range(len(METRICS)):
        middle, error = found[k].mean(axis=0), found[k].std(axis=0, ddof=1) / np.sqrt(found.shape[1])
        axes[2].errorbar(levels * 1.03 ** (k - 1.5), middle, error, color=SERIES[k], ls=DASHES[k], marker=MARKERS[k],
                         ms=3.5, mfc="white", lw=1.0, elinewidth=0.7)  # fmt: skip
    axes[2].set(xscale="log", xlabel="training loss", ylabel="test loss − training loss")
    ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 1.0, 2.0) if levels[-1] * 0.95 <= t <= levels[0] * 1.05]
    axes[2].set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes[2].minorticks_off()
    axes[2].invert_xaxis()
    axes[2].set_title(rf"gap, $\lambda={data['dampings'][0]:g}$")
    mean, error = differences(data["runs"])
    for d, damping in enumerate(data["dampings"]):
        places = np.arange(len(METRICS) - 1) + 0.16 * (d - 0.5)
        axes[3].errorbar(places, mean[d, :, 0], 2 * error[d, :, 0], color=(BLACK, GREY)[d], marker=MARKERS[d], ls="",
                         ms=4, mfc="white", elinewidth=0.9, label=rf"$\lambda={damping:g}$")  # fmt: skip
    axes[3].axhline(0.0, color=GREY, lw=0.8, ls=DASHES[1])
    axes[3].set_xticks(range(len(METRICS) - 1), ["other", "unlab.", "4 × unl."])
    axes[3].set(ylabel="least test loss, less “same”", xlim=(-0.5, len(METRICS) - 1.5))
    axes[3].set_title("paired, ± 2 errors")
    axes[3].legend(fontsize=7, loc="best")
    label_panels(axes)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle("The metric of other rows, or of unlabelled ones, does not lower the test loss here")
    return figure
