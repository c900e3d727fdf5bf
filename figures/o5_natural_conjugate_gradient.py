"""Does natural conjugate gradient converge faster than natural gradient alone? Statement O5.

Pascanu and Bengio (2013) extend natural gradient by second-order information, searching the plane of the natural
gradient and the last step by the loss itself, and benchmark it with truncated Newton against a diagonal metric.
Logistic autoencoders n-100-50-10-mirror with linear code and Bernoulli output, pixels averaged over 2 × 2, of curves-
like images (a stand-in for CURVES: error levels cannot be compared) and of MNIST; minibatches of 500 out of 5,000
rows. Training loss on 1,000 rows against updates (a, c) and against processor seconds (b, d). Natural gradient alone
solves with 20 iterations of conjugate gradients at a fixed damping; truncated Newton is the same with a damping that
adapts; natural conjugate gradient searches the plane by 5 iterations of BFGS on the minibatch, at a fixed damping;
the diagonal of the Fisher matrix is a running average with sampled targets and takes ten updates for each of theirs.
Dampings (at the start), and the rate of the diagonal, are the best of three, by short runs of ten updates; medians
and ranges of three seeds.

Verdict: partly. Natural conjugate gradient ends 31 to 36 % below natural gradient alone at equal updates, 30 to 32 %
at equal time. But truncated Newton, whose damping adapts, is as good or up to 3 % better at equal updates (2 to 5 % at
equal time), and the diagonal metric only 1 % worse at equal time: what the search of the plane gains, a damping that
follows the loss gains as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures._common import DASHES, MARKERS, SERIES, Array, Data, claim, label_panels, publish
from figures._experiments import Spent, averaged, descend, images, rows_of, verdict
from linnat.data import curves_like
from linnat.nonlinear import Network, initial, passes
from linnat.nonlinear.optimisers import Batch, NaturalConjugateGradient, Preconditioned, TruncatedNewton
from linnat.nonlinear.preconditioners import Diagonal

STATEMENTS = ("O5",)

SETS = ("curves-like", "MNIST")
NAMES = ("natural gradient", "truncated Newton", "natural conjugate gradient", "diagonal metric")
SETTINGS = ((0.03, 0.3, 3.0), (0.03, 0.3, 3.0), (0.03, 0.3, 3.0), (0.001, 0.005, 0.025))
SOLVER, SEARCH = 20, 5
MORE = 10  # updates of the diagonal metric for one of the others


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return training losses and work, (sets, methods, seeds, T)."""
    rows, batch = (400, 100) if quick else (5000, 500)
    updates, trial, seeds = (12, 6, 2) if quick else (30, 10, 3)
    losses, seconds, chosen = [], [], []
    for name in SETS:
        x = images_of(name, quick)[:rows]
        code = (40, 20, 6) if quick else (100, 50, 10)
        widths = (x.shape[1], *code, *code[-2::-1], x.shape[1])
        net = Network(widths, ("logistic", "logistic", "identity", "logistic", "logistic"), "bernoulli")
        found, best = [], []
        for which, settings in enumerate(SETTINGS):
            ends = [run(net, which, s, x, batch, trial, 9)[-1][0] for s in settings]
            best.append(settings[int(np.nanargmin(ends))])
            found.append([run(net, which, best[-1], x, batch, updates, s) for s in range(seeds)])
        losses.append([[[row[0] for row in r] for r in method] for method in found])
        seconds.append([[[row[1] for row in r] for r in method] for method in found])
        chosen.append(best)
    return {
        "losses": np.array(losses),
        "seconds": np.array(seconds),
        "settings": np.array(chosen),
        "updates": np.arange(updates + 1),
    }


def images_of(name: str, quick: bool) -> Array:
    """Return images in rows."""
    if name == "MNIST":
        return images(quick, pool=2).x
    return averaged(curves_like(400 if quick else 5000, 1)[0], 28, 4 if quick else 2)


def run(net: Network, which: int, setting: float, x: Array, batch: int, updates: int, seed: int) -> list[Any]:
    """Return (training loss, processor seconds) after every update, of the diagonal metric after every MORE."""
    if which < 2:
        method: Any = TruncatedNewton(iterations=SOLVER, damping=setting, adapt=which == 1)
    elif which == 2:
        method = NaturalConjugateGradient(setting, solver_iterations=SOLVER, iterations=SEARCH)
    else:
        method = Preconditioned(Diagonal(damping=1e-3), setting)
    more, rows, looked = MORE if which == 3 else 1, rows_of(len(x), batch, seed), x[:1000]

    def batches(update: int) -> Batch:
        chosen = x[rows(update)]
        return Batch(chosen, chosen)

    def measured(state: Array, spent: Spent) -> tuple[float, float]:
        return passes.loss(net, state, looked, looked), spent.seconds

    theta = initial(net, "sparse", rng=seed, dtype=np.float32)
    found = descend(method, net, theta, batches, more * updates, seed, measured, more)
    return found + [(np.inf, np.inf)] * (updates + 1 - len(found))


def at_equal_time(data: Data) -> Array:
    """Return the loss of natural conjugate gradient over that of the others when the quicker of two ends, (sets, 3)."""
    found = []
    for losses, seconds in zip(data["losses"], data["seconds"], strict=True):
        clocks, middle = np.median(seconds, axis=1), np.median(losses, axis=1)
        for other in (0, 1, 3):
            end = min(clocks[2, -1], clocks[other, -1])
            found.append(np.interp(end, clocks[2], middle[2]) / np.interp(end, clocks[other], middle[other]))
    return np.array(found).reshape(-1, 3)


def check(data: Data) -> None:
    """Compare last losses at equal updates and at equal processor time."""
    last = data["losses"][..., -1]
    claim("loss at the start, n log 2 or so", data["losses"][..., 0], at_most=500.0)
    claim("last loss over the first, every run", last / data["losses"][..., 0], at_most=0.5)
    # Seeds share their starts and rows: compared in pairs.
    alone, adaptive = last[:, 2] / last[:, 0], last[:, 2] / last[:, 1]
    claim("natural conjugate gradient over natural gradient, equal updates", alone, at_most=1.1)
    claim(
        "natural conjugate gradient over truncated Newton, equal updates", adaptive, at_least=0.6, at_most=1.3
    )
    ratios = at_equal_time(data)
    claim(
        "equal processor time, natural gradient, truncated Newton, diagonal",
        ratios,
        at_least=0.3,
        at_most=2.0,
    )
    spans = [f"{part.min():.2f} … {part.max():.2f}" for part in (alone, adaptive, *ratios.T)]
    verdict(
        "Pascanu and Bengio 2013",
        "partly",
        f"last loss of natural conjugate gradient at equal updates over natural gradient's {spans[0]}, over truncated "
        f"Newton's with a damping that adapts {spans[1]}; at equal processor time {spans[2]}, {spans[3]}, over the "
        f"diagonal metric's {spans[4]}",
    )


def draw(data: Data) -> Figure:
    """Draw losses against updates and processor seconds."""
    figure, axes = plt.subplots(1, 4, figsize=(8.3, 2.8))
    for k, name in enumerate(SETS):
        for m, method in enumerate(NAMES):
            runs = data["losses"][k, m]
            for axis, x in zip(axes[2 * k : 2 * k + 2], (data["updates"], np.median(data["seconds"][k, m], axis=0)),
                               strict=True):  # fmt: skip
                if m == 3 and axis is axes[2 * k]:
                    x = MORE * x
                axis.fill_between(x, runs.min(axis=0), runs.max(axis=0), color=SERIES[m], alpha=0.2, lw=0)
                axis.plot(x, np.median(runs, axis=0), color=SERIES[m], ls=DASHES[m], marker=MARKERS[m], markevery=3,
                          ms=3.5, mfc="white", label=method)  # fmt: skip
        axes[2 * k].set(
            xlabel="updates", ylabel="training loss", title=name, xlim=(0, data["updates"][-1]), yscale="log"
        )
        axes[2 * k + 1].set(xlabel="processor seconds", title=name, yscale="log")
        for axis in axes[2 * k : 2 * k + 2]:
            axis.set_yticks([15, 20, 30, 50, 100, 200], ["15", "20", "30", "50", "100", "200"])
            axis.minorticks_off()
    label_panels(axes)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle("Natural conjugate gradient, truncated Newton and a diagonal metric on autoencoders")
    return figure
