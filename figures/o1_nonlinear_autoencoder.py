"""Does online natural gradient beat SGD on a nonlinear autoencoder of MNIST? Statement O1.

Bernacchia, Lengyel and Hennequin (2018) report, as preliminary, that their online natural gradient beats stochastic
gradient descent on auto-encoding MNIST at comparable simplicity. Logistic hidden units, linear code, Bernoulli output,
sparse initial weights, 784-120-40-10-mirror, minibatches of 200 out of 5,000 rows: far smaller than the networks of the
literature and a short budget, so that levels cannot be compared with published ones. SGD, SGD with Nesterov's momentum
0.9, Adam, online natural gradient and K-FAC (the same factors, full steps for blocks: no 1/L, factored damping with π),
both from all rows of a minibatch; each has the best of four settings by last loss after a fifth of the budget. Squared
error per image, summed over pixels, on 2,000 training rows, against updates (a) and processor seconds (b), with the
settings chosen; last squared error on training and 2,000 new rows (c). Medians and ranges of three seeds.

Verdict: reproduced, early in training. Online natural gradient has 0.67 of SGD's squared error at equal updates and
0.87 at equal processor time (of Nesterov's 0.69 and 0.99). Adam is level with it at equal updates (1.02) and well
ahead at equal time (1.8 times its error); K-FAC is 16 % better at equal updates. Runs this short say nothing about
where each ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures._common import DASHES, MARKERS, SERIES, Array, Data, claim, label_panels, publish
from figures._experiments import Spent, descend, images, rows_of, verdict
from linnat.nonlinear import Network, initial, passes
from linnat.nonlinear.optimisers import Adam, Batch, GradientDescent, Preconditioned
from linnat.nonlinear.preconditioners import Kfac, OnlineNaturalGradient

STATEMENTS = ("O1",)

NAMES = ("SGD", "Nesterov 0.9", "Adam", "online natural gradient", "K-FAC")
SETTINGS = (
    ((0.01,), (0.03,), (0.1,), (0.3,)),
    ((0.001,), (0.003,), (0.01,), (0.03,)),
    ((0.001,), (0.003,), (0.01,), (0.03,)),
    ((0.1, 1e-3), (0.3, 1e-3), (0.1, 1e-2), (0.3, 1e-2)),
    ((0.01, 1e-2), (0.03, 1e-2), (0.03, 1e-1), (0.1, 1e-1)),
)
CHEAP = 3  # updates of a first-order method for one with factors


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def method_of(which: int, setting: tuple[float, ...]) -> Any:
    """Return the optimiser of NAMES."""
    if which < 2:
        return GradientDescent(setting[0], 0.9 * which, nesterov=which == 1, with_loss=False)
    if which == 2:
        return Adam(setting[0], with_loss=False)
    rate, damping = setting
    inner = (
        OnlineNaturalGradient(damping=damping, period=10, strategy="cholesky", early=False)
        if which == 3
        else Kfac(damping=damping, period=10, early=False)
    )
    return Preconditioned(inner, rate, rows=None)


def measure(quick: bool) -> dict[str, Array]:
    """Return squared errors and seconds, (methods, seeds, T), and the settings."""
    data = images(quick)
    rows, new, batch, updates, seeds = (900, 400, 100, 60, 2) if quick else (5000, 2000, 200, 150, 3)
    x, other = data.x[:rows], data.x[rows : rows + new]
    n = x.shape[1]
    code = (40, 20, 6) if quick else (120, 40, 10)
    units = ("logistic", "logistic", "identity", "logistic", "logistic")
    net = Network((n, *code, *code[-2::-1], n), units, "bernoulli")
    errors, tests, seconds, chosen = [], [], [], []
    for which, settings in enumerate(SETTINGS):
        ends = [run(net, which, s, x, other, batch, updates // 5, 9)[-1][0] for s in settings]
        best = settings[int(np.nanargmin(ends))]
        found = np.array([run(net, which, best, x, other, batch, updates, s) for s in range(seeds)])
        chosen.append((*best, 0.0)[:2])
        errors.append(found[..., 0])
        tests.append(found[..., 1])
        seconds.append(found[..., 2])
    marks = np.arange(errors[0].shape[1]) * (updates // 20)
    return {
        "errors": np.array(errors),
        "test_errors": np.array(tests),
        "seconds": np.array(seconds),
        "settings": np.array(chosen),
        "updates": np.array([marks * (CHEAP if k < 3 else 1) for k in range(len(NAMES))]),
    }


def run(
    net: Network,
    which: int,
    setting: tuple[float, ...],
    x: Array,
    other: Array,
    batch: int,
    updates: int,
    seed: int,
) -> list[Any]:
    """Return (squared error on training rows, on new rows, processor seconds); inf where the run diverged."""
    more, rows = CHEAP if which < 3 else 1, rows_of(len(x), batch, seed)
    every = max(updates // 20, 1)

    def batches(update: int) -> Batch:
        chosen = x[rows(update)]
        return Batch(chosen, chosen)

    def measured(state: Array, spent: Spent) -> tuple[float, float, float]:
        return squared(net, state, x[:2000]), squared(net, state, other), spent.seconds

    theta = initial(net, "sparse", rng=seed, dtype=np.float32)
    found = descend(
        method_of(which, setting), net, theta, batches, more * updates, seed, measured, more * every
    )
    return found + [(np.inf, np.inf, np.inf)] * (updates // every + 1 - len(found))


def squared(net: Network, theta: Array, x: Array) -> float:
    """Return the squared error per image, summed over pixels."""
    outputs = passes.prepare(net, theta, x)[1].outputs
    return float(((net.family.mean(outputs) - x) ** 2).sum(axis=1).mean())


def check(data: Data) -> None:
    """Hold what the paper reports to these runs."""
    claim("squared error at the start", data["errors"][..., 0], at_least=1.0, at_most=700.0)
    claim("and on new images", data["test_errors"][..., 0], at_least=1.0, at_most=700.0)
    last = np.median(data["errors"][..., -1], axis=1)
    clocks = np.median(data["seconds"], axis=1)
    middle = np.median(data["errors"], axis=1)
    end = clocks[:, -1].min()
    equal = np.array([np.exp(np.interp(end, t, np.log(e))) for t, e in zip(clocks, middle, strict=True)])
    at = int(np.searchsorted(data["updates"][0], data["updates"][3][-1]))
    steps = last[3] / middle[:3, at]
    claim("online over SGD, Nesterov, Adam: squared error at equal updates", steps, at_most=1.2)
    claim("online over SGD: squared error at equal processor time", equal[3] / equal[0], at_most=1.2)
    verdict(
        "Bernacchia et al. 2018",
        "reproduced",
        f"squared error per image of online over SGD, Nesterov, Adam: {steps[0]:.2f}, {steps[1]:.2f}, {steps[2]:.2f} "
        f"at equal updates, {equal[3] / equal[0]:.2f}, {equal[3] / equal[1]:.2f}, {equal[3] / equal[2]:.2f} at equal "
        f"processor time; over K-FAC {last[3] / last[4]:.2f} at equal updates",
    )


def draw(data: Data) -> Figure:
    """Draw errors against updates and processor seconds, last errors."""
    figure, axes = plt.subplots(1, 3, figsize=(7.6, 3.0))
    for k, name in enumerate(NAMES):
        runs, clock = data["errors"][k], np.median(data["seconds"][k], axis=0)
        for axis, x in ((axes[0], data["updates"][k]), (axes[1], clock)):
            axis.fill_between(x, runs.min(axis=0), runs.max(axis=0), color=SERIES[k], alpha=0.2, lw=0)
            axis.plot(x, np.median(runs, axis=0), color=SERIES[k], ls=DASHES[k], marker=MARKERS[k], markevery=4, ms=3.5,
                      mfc="white", label=name)  # fmt: skip
        for values, face in ((runs[:, -1], SERIES[k]), (data["test_errors"][k][:, -1], "white")):
            middle = np.median(values)
            axes[2].errorbar(k, middle, [[middle - values.min()], [values.max() - middle]], color=SERIES[k],
                             marker=MARKERS[k], mfc=face, ms=5, elinewidth=0.9)  # fmt: skip
    axes[0].set(
        xlabel="updates", ylabel="squared error per image", yscale="log", xlim=(0, data["updates"][3][-1])
    )
    axes[1].set(xlabel="processor seconds", yscale="log")
    axes[2].set(yscale="log", ylabel="last squared error (open: new)", xlim=(-0.6, len(NAMES) - 0.4))
    axes[2].set_xticks(range(len(NAMES)), ["SGD", "Nest.", "Adam", "online", "K-FAC"], rotation=40)
    for axis in axes:
        axis.set_yticks([5, 10, 20, 30, 40, 50, 100, 200], ["5", "10", "20", "30", "40", "50", "100", "200"])
        axis.minorticks_off()
        axis.set_ylim(0.9 * data["errors"].min(), 1.1 * data["errors"].max())
    axes[2].set_ylim(0.9 * data["errors"][..., -1].min(), 1.1 * data["errors"][..., -1].max())
    label_panels(axes)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    figure.suptitle(
        "Early in training a nonlinear autoencoder of MNIST: online natural gradient is ahead of SGD, not of Adam"
    )
    return figure
