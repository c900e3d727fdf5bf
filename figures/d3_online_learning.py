"""What does a stream of samples teach, and what does the metric change? Statement D3.

One layer, n = 10 Gaussian inputs, m = 2 outputs, b = 4 samples in each step, 10,000 replicates. Means (dots; their
standard errors are smaller than the dots) against the exact law for constant steps (a), for schedules (b: greedy,
1/k, 1/(k + a), a = (n+1)/b, and the Cramér–Rao bound nm/2bk), for plain gradients, whose loss depends on the spectrum
of S (c: the best constant step for each condition number, after 150 steps), and for metrics estimated from data (d, b =
20: the same minibatch, 30 other inputs at each step, all samples so far with steps 1/k).
"""

from __future__ import annotations

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
    GREEN,
    GREY,
    MARKERS,
    PURPLE,
    SERIES,
    VERMILLION,
    Array,
    Data,
    claim,
    label_panels,
    publish,
)

STATEMENTS = ("D3",)

N, M, BATCH, STEPS = 10, 2, 4, 300
START = 5.0
ETAS = (0.5, 0.2, 0.05)  # below the stability limit 2b/(b + n + 1) = 0.533
CONDITIONS = np.array([1.0, 3.0, 10.0, 30.0, 100.0, 300.0])
LATE, MANY, OTHERS, LARGE = 150, 30, 30, 20
online = ln.online


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def problem(condition: float = 1.0) -> tuple[ln.LinearNetwork, ln.Task]:
    """Return a start and a task with excess loss `START`, shared equally by the eigenvectors of S."""
    values = np.geomspace(1.0, 1.0 / condition, N)
    teacher = np.sqrt(2 * START / (N * M)) / np.sqrt(values) * np.ones((M, N))
    return ln.LinearNetwork([np.zeros((M, N))]), ln.Task(teacher, np.diag(values))


def measure(quick: bool) -> dict[str, Array]:
    """Return means, standard errors and laws of all panels."""
    count = 1000 if quick else 10_000
    net, task = problem()
    marks = np.unique(np.geomspace(1, STEPS, 14).round().astype(int))
    rule = online.law(BATCH, N, M)
    schedules = {
        "greedy": online.greedy_schedule(STEPS, START, rule).etas,
        "harmonic": online.harmonic_steps(STEPS, rule, 0.0),
        "shifted": online.harmonic_steps(STEPS, rule),
    }
    runs = [np.full(STEPS, eta) for eta in ETAS] + list(schedules.values())
    means, errors, laws = [], [], []
    for seed, etas in enumerate(runs):
        result = online.simulate(net, task, etas, BATCH, STEPS, count, record=marks, rng=seed).mean()
        means.append(result.value)
        errors.append(result.error)
        laws.append(online.online_loss(STEPS, START, etas, BATCH, N, M))
    return {
        "count": np.array(count),
        "marks": marks,
        "means": np.array(means),
        "errors": np.array(errors),
        "laws": np.array(laws),
        "bound": online.efficient_loss(STEPS, BATCH, N, M),
        "stationary": online.stationary_loss(np.array(ETAS), rule),
        **plain(count),
        **estimated(count),
    }


def plain(count: int) -> dict[str, Array]:
    """Return the best expected loss of plain gradients after `LATE` steps, with runs, and that of natural ones."""
    laws, means, errors, natural, limits = [], [], [], [], []
    for k, condition in enumerate(CONDITIONS):
        net, task = problem(condition)
        limit = online.preconditioned_limit(task, BATCH)
        etas = limit * np.geomspace(0.003, 0.99, 60)
        losses = [online.preconditioned_loss(LATE, net, task, eta, BATCH)[-1] for eta in etas]
        best = etas[int(np.argmin(losses))]
        result = online.simulate(
            net, task, best, BATCH, LATE, count, metric="none", record=LATE, rng=k
        ).mean()
        laws.append(min(losses))
        means.append(result.value[0])
        errors.append(result.error[0])
        natural.append(online.best_constant_step(LATE, START, online.law(BATCH, N, M)).losses[-1])
        limits.append(limit)
    return {
        "conditions": CONDITIONS,
        "plain": np.array(laws),
        "plain_means": np.array(means),
        "plain_errors": np.array(errors),
        "natural": np.array(natural),
        "limits": np.array(limits),
    }


def estimated(count: int) -> dict[str, Array]:
    """Return runs and laws of estimated metrics, steps 1/(k + shift), b = `LARGE`."""
    net, task = problem(100.0)
    rule = online.law(LARGE, N, M)
    etas, plain_mean = online.harmonic_steps(MANY, rule), 1 / np.arange(1.0, MANY + 1)
    cases: list[tuple[str, int | None, Array, Array]] = [
        ("population", None, etas, online.online_loss(MANY, START, etas, LARGE, N, M)),
        ("minibatch", None, etas, online.online_loss(MANY, START, etas, LARGE, N, M, metric="minibatch")),
        (
            "independent",
            OTHERS,
            etas,
            online.online_loss(MANY, START, etas, LARGE, N, M, metric="independent", metric_samples=OTHERS),
        ),
        ("running", None, plain_mean, online.running_metric_loss(MANY, LARGE, N, M)),
    ]
    means, errors = [], []
    for seed, (metric, samples, steps, _) in enumerate(cases):
        result = online.simulate(
            net, task, steps, LARGE, MANY, count, metric=metric, metric_samples=samples, rng=100 + seed
        ).mean()
        means.append(result.value)
        errors.append(result.error)
    return {
        "metric_laws": np.array([case[3] for case in cases]),
        "metric_means": np.array(means),
        "metric_errors": np.array(errors),
        "metric_bound": online.efficient_loss(MANY, LARGE, N, M),
    }


def check(data: Data) -> None:
    """Hold means to laws in standard errors, schedules to their order, plain gradients to the spectrum."""
    at = data["laws"][:, data["marks"] - 1]
    claim("runs against the law, standard errors", np.abs(data["means"] - at) / data["errors"], at_most=5.0)
    claim("standard error over mean", data["errors"] / data["means"], at_most=0.15)
    claim("constant steps: last loss over the stationary one", data["laws"][:2, -1] / data["stationary"][:2],
          at_least=1 - 1e-4, at_most=1.02)  # fmt: skip
    claim("no schedule beats the greedy one", (data["laws"] / data["laws"][3]).min(), at_least=1 - 1e-12)
    ratios = data["laws"][3:, -1] / data["bound"][-1]
    claim("greedy, 1/k, 1/(k + a): last loss over the Cramér–Rao bound", ratios, at_least=1.0, at_most=1.5)
    early = data["laws"][4, 9] / data["laws"][5, 9]
    claim("loss of 1/k over that of 1/(k + a) at step 10", early, at_least=2.5)
    gaps = np.abs(data["plain_means"] - data["plain"]) / data["plain_errors"]
    claim("plain gradients against their law, standard errors", gaps, at_most=5.0)
    ratios = data["plain"] / data["natural"]
    claim("plain gradients at condition 1 over natural ones", ratios[0], at_least=0.95, at_most=1.05)
    claim("plain gradients at condition 300 over natural ones", ratios[-1], at_least=8.0)
    claim("natural ones do not depend on it", np.ptp(data["natural"]), at_most=1e-12)
    gaps = np.abs(data["metric_means"] - data["metric_laws"])[:, 1:] / data["metric_errors"][:, 1:]
    claim("estimated metrics against their laws, standard errors", gaps, at_most=5.0)
    last = data["metric_laws"][:, -1] / data["metric_bound"][-1]
    inflation = LARGE / (LARGE - N - 1)
    ratio = last[1] / inflation
    claim("same minibatch: loss over the bound, against b/(b − n − 1)", ratio, at_least=0.85, at_most=1.1)
    claim("running metric: loss over the bound", last[3], at_least=1.0, at_most=1.03)


def draw(data: Data) -> Figure:
    """Draw four panels."""
    figure, axes = plt.subplots(2, 2, figsize=(5.9, 4.1))
    steps = np.arange(1, STEPS + 1)
    constant, schedules, spectrum, metrics = axes.ravel()
    for k, (eta, colour) in enumerate(zip(ETAS, SERIES, strict=False)):
        constant.loglog(steps, data["laws"][k], color=colour, ls=DASHES[k], label=rf"$\eta={eta:g}$")
        constant.loglog(
            data["marks"][::2], data["means"][k][::2], MARKERS[k], color=colour, mfc="white", ms=4
        )
        constant.axhline(data["stationary"][k], color=colour, lw=0.6)
    constant.set(xlabel=r"step $k$", ylabel=r"excess loss, mean")
    constant.set_title("constant steps (thin: stationary)")
    constant.legend(loc="center right", bbox_to_anchor=(1, 0.62))
    names = ("greedy", r"$1/k$", r"$1/(k+a)$")
    for k, (name, colour) in enumerate(zip(names, (GREEN, VERMILLION, BLUE), strict=True)):
        row = 3 + k
        schedules.loglog(steps, data["laws"][row], color=colour, ls=DASHES[k], label=name)
        schedules.loglog(
            data["marks"][::2], data["means"][row][::2], MARKERS[k], color=colour, mfc="white", ms=4
        )
    schedules.loglog(steps, data["bound"], color=BLACK, lw=0.8, label=r"bound $nm/2bk$")
    schedules.set(xlabel=r"step $k$", ylabel=r"excess loss, mean", ylim=(8e-4, 30))
    schedules.set_title("decreasing steps")
    schedules.legend(loc="lower left")
    spectrum.loglog(data["conditions"], data["plain"], color=VERMILLION, label="plain gradient, law")
    spectrum.errorbar(data["conditions"], data["plain_means"], 2 * data["plain_errors"], fmt="s", color=VERMILLION,
                      mfc="white", ms=4, label="plain gradient, runs")  # fmt: skip
    spectrum.loglog(
        data["conditions"], data["natural"], color=BLUE, ls=DASHES[1], label="natural gradient, law"
    )
    spectrum.set(xlabel=r"condition number of $S$", ylabel=f"excess loss after {LATE} steps", ylim=(0.015, 4))
    spectrum.set_title("best constant step for each spectrum")
    spectrum.legend(loc="upper left")
    draw_metrics(data, metrics)
    for axis in axes.ravel():
        axis.minorticks_off()
    label_panels(axes)
    figure.suptitle(
        rf"One layer, $n={N}$, $m={M}$, $b={BATCH}$: laws (lines) and {int(data['count']):,} replicates (marks)"
    )
    return figure


def draw_metrics(data: Data, axis: Axes) -> None:
    """Draw the losses under estimated metrics."""
    looks = (
        ("population", BLUE, "-", "o"),
        ("same minibatch", VERMILLION, DASHES[1], "s"),
        (f"{OTHERS} other inputs", PURPLE, DASHES[3], "D"),
        (r"all so far, $\eta_k=1/k$", GREEN, DASHES[2], "^"),
    )
    late = np.arange(1, MANY + 1)
    for k, (name, colour, dash, marker) in enumerate(looks):
        axis.loglog(late, data["metric_laws"][k], color=colour, ls=dash, label=name)
        axis.loglog(late[::7], data["metric_means"][k][::7], marker, color=colour, mfc="white", ms=4)
    axis.loglog(late, data["metric_bound"], color=GREY, lw=0.8, label=r"bound $nm/2bk$")
    axis.set(xlabel=r"step $k$", ylabel=r"excess loss, mean", ylim=(0.0001, 13))
    axis.set_title(rf"where the metric comes from, $b={LARGE}$")
    axis.legend(loc="lower left", fontsize=7)
