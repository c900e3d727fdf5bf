"""How much does what a network has learnt depend on one segment of the stream of its data? Statement O5.

Pascanu and Bengio (2013) state that natural gradient is more robust than stochastic gradient descent to the order in
which the training set comes: outputs vary less when a segment of the stream is replaced. A tanh network learns MNIST
(pixels averaged over 2 × 2) in one pass over six segments of 500 rows. One segment after the other is replaced by
four others; the variance of the class probabilities over them, mean over classes and 1,000 test rows, is the
influence of that segment (b). Truncated Newton takes minibatches of 250; SGD and K-FAC of 25: K-FAC tells the metric
from the larger minibatch. Rates of SGD and K-FAC are those out of eight that end closest to truncated Newton's test
loss (a), on streams of their own. Bands and errors over the streams (c: ratios to SGD).

Verdict: partly. At equal loss the variance under truncated Newton is 0.68 of SGD's (± 0.03, two errors), lower for
every segment; most of all for the last one, 0.34, and 0.75 for the first. With SGD's own minibatches natural gradient
(K-FAC) is more robust to the first segment, 0.82, and to the last, 0.31, not to those in between: there it is the
larger minibatch that counts.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures._common import DASHES, GREY, MARKERS, SERIES, Array, Data, claim, label_panels, publish
from figures._experiments import images, verdict
from linnat.nonlinear import Network, initial, passes
from linnat.nonlinear.optimisers import Batch, GradientDescent, Preconditioned, TruncatedNewton
from linnat.nonlinear.preconditioners import Kfac

STATEMENTS = ("O5",)

NAMES = ("truncated Newton", "SGD", "K-FAC")
SEGMENTS, ROWS, TESTS = 6, 500, 1000
BATCHES = (250, 25, 25)
SGD_RATES = tuple(np.geomspace(0.03, 2.0, 8))
KFAC_RATES = tuple(np.geomspace(0.01, 1.0, 8))


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


class Stream:
    """Segments of labelled rows, others to replace them, and test rows; a network and its start."""

    def __init__(self, quick: bool, seed: int, others: int) -> None:
        data = images(quick, pool=2, seed=seed)
        rows = 100 if quick else ROWS
        y = np.eye(10, dtype=np.float32)[data.labels]
        count = rows * (SEGMENTS if not quick else 4)
        self.segments = [(data.x[k : k + rows], y[k : k + rows]) for k in range(0, count, rows)]
        pool = data.x[count:-TESTS], y[count:-TESTS]
        rng = np.random.default_rng([seed, 1])
        self.others = [tuple(part[places] for part in pool) for places in
                       (rng.choice(len(pool[0]), rows, replace=False) for _ in range(others))]  # fmt: skip
        self.test = data.x[-TESTS:], y[-TESTS:]
        self.net = Network((data.x.shape[1], 16 if quick else 32, 10), "tanh", "categorical")
        self.start = initial(self.net, "glorot", rng=seed, dtype=np.float32)

    def loss(self, theta: Array) -> float:
        """Return the test loss."""
        return passes.loss(self.net, theta, *self.test)

    def probabilities(self, theta: Array) -> Array:
        """Return class probabilities of the test rows."""
        return np.asarray(self.net.family.mean(passes.prepare(self.net, theta, self.test[0])[1].outputs))


def method_of(which: int, rate: float) -> Any:
    """Return the optimiser of NAMES."""
    if which == 0:
        return TruncatedNewton(iterations=20, damping=0.3, adapt=False, rate=rate)
    if which == 1:
        return GradientDescent(rate, with_loss=False)
    return Preconditioned(Kfac(damping=0.1, period=5, early=False), rate)


def learn(method: Any, state: Any, segment: tuple[Array, Array], batch: int, seed: int) -> Any:
    """Return the state after a segment."""
    rng = np.random.default_rng(seed)
    for begin in range(0, len(segment[0]), batch):
        part = slice(begin, begin + batch)
        state, _ = method.step(state, Batch(segment[0][part], segment[1][part]), rng)
    return state


def whole(stream: Stream, which: int, rate: float) -> list[Any]:
    """Return the states before each segment and at the end."""
    method = method_of(which, rate)
    states = [method.init(stream.net, stream.start)]
    for k, segment in enumerate(stream.segments):
        states.append(learn(method, deepcopy(states[-1]), segment, batch_of(which, segment), k))
    return states


def batch_of(which: int, segment: tuple[Array, Array]) -> int:
    """Return the rows of a minibatch: at least two, or ten, of them in a segment."""
    return min(BATCHES[which], len(segment[0]) // (2 if which == 0 else 10))


def influence(stream: Stream, which: int, rate: float) -> Array:
    """Return the variance of the outputs over the others in place of each segment, (segments,)."""
    method, states, found = method_of(which, rate), whole(stream, which, rate), []
    for k in range(len(stream.segments)):
        ends = []
        for other in stream.others:
            state = deepcopy(states[k])
            for place, segment in enumerate((other, *stream.segments[k + 1 :]), start=k):
                state = learn(method, state, segment, batch_of(which, segment), place)
            ends.append(stream.probabilities(state.theta))
        found.append(float(np.var(ends, axis=0, ddof=1).mean()))
    return np.array(found)


def measure(quick: bool) -> dict[str, Array]:
    """Return rates, losses along the streams and the influence of each segment, (methods, streams, segments)."""
    streams, others = (2, 3) if quick else (5, 4)
    tuning = [Stream(quick, 100 + s, 1) for s in range(1 if quick else 3)]
    aim = np.mean([s.loss(whole(s, 0, 1.0)[-1].theta) for s in tuning])
    rates = [1.0]
    for which, grid in ((1, SGD_RATES), (2, KFAC_RATES)):
        ends = np.array([np.mean([s.loss(whole(s, which, r)[-1].theta) for s in tuning]) for r in grid])
        rates.append(grid[int(np.nanargmin(np.abs(ends - aim)))])
    data = [Stream(quick, s, others) for s in range(streams)]
    losses = [[[s.loss(state.theta) for state in whole(s, w, r)] for s in data] for w, r in enumerate(rates)]
    spread = [[influence(s, w, r) for s in data] for w, r in enumerate(rates)]
    return {"rates": np.array(rates), "losses": np.array(losses), "influence": np.array(spread)}


def ratios(data: Data) -> tuple[Array, Array]:
    """Return logarithms of the influence over SGD's: means over streams and their errors, (methods, segments)."""
    logs = np.log(data["influence"] / data["influence"][1])
    return logs.mean(axis=1), logs.std(axis=1, ddof=1) / np.sqrt(logs.shape[1])


def check(data: Data) -> None:
    """Hold the losses to each other, and the influences to what the paper states."""
    claim("test loss at the start", data["losses"][..., 0], at_least=1.5, at_most=5.0)
    claim("variances of probabilities", data["influence"], at_least=0.0, at_most=0.25)
    ends = data["losses"][..., -1].mean(axis=1)
    claim("last test loss over that of truncated Newton", ends / ends[0], at_least=0.6, at_most=1.6)
    logs = np.log(data["influence"] / data["influence"][1])
    whole, first = logs.mean(axis=2), logs[..., 0]
    mean, error = whole.mean(axis=1), whole.std(axis=1, ddof=1) / np.sqrt(whole.shape[1])
    claim(
        "influence, truncated Newton over SGD, geometric mean + 2 errors",
        np.exp(mean[0] + 2 * error[0]),
        at_most=1.0,
    )
    verdict(
        "Pascanu and Bengio 2013",
        "partly",
        f"variance over SGD's at equal loss ({ends[0]:.2f}, {ends[1]:.2f}, {ends[2]:.2f}): truncated Newton "
        f"{np.exp(mean[0]):.2g} (± {2 * error[0]:.0%} of it), for the first segment {np.exp(first[0].mean()):.2g}; "
        f"K-FAC {np.exp(mean[2]):.2g} (± {2 * error[2]:.0%}), first {np.exp(first[2].mean()):.2g}",
    )


def draw(data: Data) -> Figure:
    """Draw losses, influences, ratios."""
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.9))
    count = data["influence"].shape[2]
    places = np.arange(1, count + 1)
    mean, error = ratios(data)
    for k, name in enumerate(NAMES):
        losses, spread = data["losses"][k], data["influence"][k]
        look = {"color": SERIES[k], "marker": MARKERS[k], "ms": 4, "mfc": "white", "ls": DASHES[k]}
        axes[0].errorbar(
            np.arange(count + 1), losses.mean(axis=0), losses.std(axis=0), elinewidth=0.7, label=name, **look
        )
        axes[1].fill_between(places, spread.min(axis=0), spread.max(axis=0), color=SERIES[k], alpha=0.2, lw=0)
        axes[1].plot(places, np.exp(np.log(spread).mean(axis=0)), **look)
        if k != 1:
            axes[2].errorbar(places, np.exp(mean[k]), (np.exp(mean[k]) * (1 - np.exp(-2 * error[k])),
                             np.exp(mean[k]) * (np.exp(2 * error[k]) - 1)), elinewidth=0.7, **look)  # fmt: skip
    axes[0].set(xlabel="segments learnt", ylabel="test loss", yscale="log")
    axes[0].set_yticks([0.3, 0.5, 1.0, 2.0], ["0.3", "0.5", "1", "2"])
    axes[0].minorticks_off()
    axes[0].set_title("equal final loss")
    axes[1].set(xlabel="segment replaced", ylabel="variance of probabilities", yscale="log")
    axes[1].set_title("influence of a segment")
    axes[2].axhline(1.0, color=GREY, lw=0.8, ls=DASHES[1])
    axes[2].set(xlabel="segment replaced", ylabel="variance, relative to SGD", yscale="log")
    axes[2].set_yticks([0.2, 0.3, 0.5, 0.7, 1.0], ["0.2", "0.3", "0.5", "0.7", "1"])
    axes[2].minorticks_off()
    for axis in axes[1:]:
        axis.set_xticks(places)
    axes[2].set_title("ratio, ± 2 errors")
    label_panels(axes)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.suptitle("What a segment of the stream leaves in the network")
    return figure
