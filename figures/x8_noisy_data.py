"""When should learning from noisy data stop? Statement X8.

Natural gradient flow on N noisy samples of n = 10 Gaussian inputs, m = 2 outputs, signal a = ‖W̃*‖² = 1. The whitened
risk over time on 10,000 data sets (marks) against e^{−2t}a + (1 − e^{−t})²b for several N, with the best time
log(1 + a/b) (a). Risk against N when stopped at the best time, when stopped by an estimate of a from the same data, and
never stopped: ab/(a + b) and b, infinite for n − 1 ≤ N ≤ n + 1, and below n, white inputs, the part that the row space
of the data sees (b). Gradient flow on the same data filters directions that the sample hardly sees: its risk depends on
the spectrum of S, and its best is below that of uniform shrinkage for white inputs, above for ill-conditioned ones (c).
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
    SERIES,
    VERMILLION,
    Array,
    Data,
    claim,
    label_panels,
    publish,
)

STATEMENTS = ("X8",)

N, M, SIGNAL = 10, 2, 1.0
SAMPLES = (15, 30, 100)
TIMES = np.linspace(0, 4, 17)
COUNTS = np.array([3, 5, 7, 8, 12, 13, 15, 20, 30, 60, 150])
CONDITIONS = (1.0, 10.0, 1000.0)
FLOW = 15  # samples behind the comparison with gradient flow
noise = ln.noise


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def problem(condition: float = 1.0) -> tuple[ln.LinearNetwork, ln.Task]:
    """Return the start 0 and a task with the signal shared equally by the eigenvectors of S."""
    values = np.geomspace(1.0, 1.0 / condition, N)
    teacher = np.sqrt(SIGNAL / (N * M)) / np.sqrt(values) * np.ones((M, N))
    return ln.LinearNetwork([np.zeros((M, N))]), ln.Task(teacher, np.diag(values))


def measure(quick: bool) -> dict[str, Array]:
    """Return risks, standard errors and laws of all panels."""
    count = 1000 if quick else 10_000
    net, task = problem()
    means, errors, laws = [], [], []
    for seed, size in enumerate(SAMPLES):
        found = ln.online.mean_and_error(noise.simulate(TIMES, net, task, size, count, rng=seed))
        means.append(found.value)
        errors.append(found.error)
        laws.append(noise.risk(TIMES, noise.parts(SIGNAL, size, N, M)))
    every = [noise.parts(SIGNAL, int(size), N, M) for size in COUNTS]
    return {
        "count": np.array(count),
        "times": TIMES,
        "means": np.array(means),
        "errors": np.array(errors),
        "laws": np.array(laws),
        "best_times": np.array([noise.stopping_time(noise.parts(SIGNAL, k, N, M)) for k in SAMPLES]),
        "best_risks": np.array([noise.stopped_risk(noise.parts(SIGNAL, k, N, M)) for k in SAMPLES]),
        "counts": COUNTS,
        "stopped": np.array([noise.stopped_risk(parts) for parts in every]),
        "never": np.array([parts.fixed + parts.variance for parts in every]),
        **rules(count, every),
        **gradient(max(400, count // 5)),
    }


def rules(count: int, every: list[ln.noise.Parts]) -> dict[str, Array]:
    """Return measured risks at the best time, at the end, and at the time estimated from the same data."""
    net, task = problem()
    stopped, ends, plug = [], [], []
    for seed, (size, parts) in enumerate(zip(COUNTS, every, strict=True)):
        best = noise.stopping_time(parts)
        found = ln.online.mean_and_error(
            noise.simulate([best, 40.0], net, task, int(size), count, rng=50 + seed)
        )
        stopped.append((found.value[0], found.error[0]))
        ends.append((found.value[1], found.error[1]))
        if size > N + 2:
            plug.append(estimated(int(size), max(300, count // 10), parts.variance, seed))
    return {"stopped_runs": np.array(stopped), "never_runs": np.array(ends), "plug_runs": np.array(plug)}


def estimated(size: int, count: int, variance: float, seed: int) -> tuple[float, float]:
    """Return the mean risk, and its error, of stopping at log(1 + [â]₊/b)."""
    net, task = problem()
    rng, risks = np.random.default_rng([8, seed]), []
    for _ in range(count):
        x = rng.standard_normal((size, N))
        data = ln.Task.from_data(x, x @ task.teacher.T + rng.standard_normal((size, M)))
        time = noise.stopping_time(noise.Parts(max(noise.signal_estimate(net, data), 0.0), variance))
        state = ln.LinearNetwork([ln.flow.natural_total(net, data, time)[0]])
        risks.append(2 * float(ln.excess_loss(state, task)))
    found = ln.online.mean_and_error(risks)
    return float(found.value), float(found.error)


def gradient(count: int) -> dict[str, Array]:
    """Return mean risks of gradient flow over natural time units, by the spectrum of each sample's Ŝ."""
    times, curves = np.geomspace(0.03, 3000, 60), []
    for seed, condition in enumerate(CONDITIONS):
        _, task = problem(condition)
        rng = np.random.default_rng([9, seed])
        root = np.sqrt(np.diag(task.input_cov))
        x = rng.standard_normal((count, FLOW, N)) * root
        y = x @ task.teacher.T + rng.standard_normal((count, FLOW, M))
        _, values, axes = np.linalg.svd(x, full_matrices=False)
        fitted = np.linalg.pinv(x) @ y
        curve = []
        for time in times:
            kept = -np.expm1(-time * values**2 / FLOW)
            weight = axes.mT @ (kept[..., None] * (axes @ fitted))
            curve.append((((weight.mT - task.teacher) * root) ** 2).sum(axis=(1, 2)).mean())
        curves.append(curve)
    parts = noise.parts(SIGNAL, FLOW, N, M)
    return {
        "flow_times": times,
        "flow_risks": np.array(curves),
        "flow_natural": noise.risk(times, parts),
        "flow_best": np.array(noise.stopped_risk(parts)),
    }


def check(data: Data) -> None:
    """Hold risks to their laws in standard errors, and the best time to be the best."""
    gaps = np.abs(data["means"] - data["laws"])[:, 1:] / data["errors"][:, 1:]
    claim("risk over time against its law, standard errors", gaps, at_most=5.0)
    claim("standard error over risk", data["errors"] / data["means"], at_most=0.06)
    claim(
        "no risk on the grid is below ab/(a + b)",
        (data["laws"].min(axis=1) / data["best_risks"]),
        at_least=1 - 1e-12,
    )
    variance = N * M / (np.array(SAMPLES) - N - 1)
    law = np.log1p(SIGNAL / variance)
    claim("best times against log(1 + a/b)", np.abs(data["best_times"] / law - 1), at_most=1e-12)
    # Standard errors exist where the risk of least squares has a variance: N > n + 3 or N < n − 3.
    fair = (data["counts"] > N + 3) | (data["counts"] < N - 3)
    gaps = np.abs(data["stopped_runs"][:, 0] - data["stopped"])[fair] / data["stopped_runs"][fair, 1]
    claim("risk at the best time against its law, standard errors", gaps, at_most=5.0)
    gaps = np.abs(data["never_runs"][:, 0] - data["never"])[fair] / data["never_runs"][fair, 1]
    claim("risk at the end against its law, standard errors", gaps, at_most=5.0)
    late = data["counts"] > N + 2
    claim(
        "stopping by the estimate costs at most", data["plug_runs"][:, 0] / data["stopped"][late], at_most=2.0
    )
    claim("  and gains on never stopping", data["plug_runs"][:, 0] / data["never"][late], at_most=1.02)
    least = data["flow_risks"].min(axis=1) / data["flow_best"]
    claim(
        "best risk of gradient flow over that of natural flow, white inputs: filtering helps",
        least[0],
        at_most=0.9,
    )
    claim("  condition 1000, signal in all directions: it does not", least[2], at_least=1.0)
    ends = data["flow_risks"][:, -1] / data["flow_natural"][-1]
    claim("gradient flow at the end over natural flow", ends[:2], at_least=0.85, at_most=1.2)


def draw(data: Data) -> Figure:
    """Draw risk over time, over N, and of gradient flow."""
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.9))
    time, size, flow = axes
    for k, (count, colour) in enumerate(zip(SAMPLES, SERIES, strict=False)):
        time.plot(data["times"], data["laws"][k], color=colour, ls=DASHES[k], label=rf"$N={count}$")
        time.plot(data["times"], data["means"][k], MARKERS[k], color=colour, mfc="white", ms=3.6)
        time.plot(data["best_times"][k], data["best_risks"][k], "|", color=colour, ms=14, mew=1.6)
    time.set(xlabel=r"time $t$", ylabel="risk", yscale="log", ylim=(0.12, 6.5))
    time.set_title(r"bars: $t^*=\log(1+a/b)$")
    time.set_yticks([0.2, 0.5, 1, 2, 5])
    time.set_yticklabels(["0.2", "0.5", "1", "2", "5"])
    time.minorticks_off()
    time.legend(loc="center right", bbox_to_anchor=(1, 0.34), fontsize=7)
    draw_counts(data, size)
    for k, condition in enumerate(CONDITIONS):
        flow.loglog(data["flow_times"], data["flow_risks"][k], color=SERIES[k + 1], ls=DASHES[k + 1],
                    label=rf"gradient, $\kappa={condition:g}$")  # fmt: skip
    flow.loglog(data["flow_times"], data["flow_natural"], color=BLACK, label=r"natural, every $\kappa$")
    flow.set(xlabel=r"time $t$", ylabel="risk", ylim=(0.6, 20))
    flow.set_yticks([1, 2, 5, 10])
    flow.set_yticklabels(["1", "2", "5", "10"])
    flow.set_title(rf"gradient flow filters, $N={FLOW}$")
    flow.legend(loc="upper left", fontsize=7)
    label_panels(axes)
    figure.suptitle(rf"Noisy data: laws (lines) and {int(data['count']):,} data sets (marks)")
    return figure


def draw_counts(data: Data, size: Axes) -> None:
    """Draw risks against the number of samples."""
    counts, high = data["counts"], data["counts"] > N
    for part in (high, ~high):
        size.loglog(counts[part], data["never"][part], color=VERMILLION, ls=DASHES[1],
                    label="never" if part is high else None)  # fmt: skip
        size.loglog(counts[part], data["stopped"][part], color=BLUE,
                    label=r"at $t^*$" if part is high else None)  # fmt: skip
    size.plot(counts, data["never_runs"][:, 0], "s", color=VERMILLION, mfc="white", ms=3.6)
    size.plot(counts, data["stopped_runs"][:, 0], "o", color=BLUE, mfc="white", ms=3.6)
    late = counts > N + 2
    size.plot(
        counts[late],
        data["plug_runs"][:, 0],
        "^",
        color=GREEN,
        mfc="white",
        ms=4,
        label=r"at $\hat t$ from data",
    )
    size.axvspan(N - 1, N + 1, color=GREY, alpha=0.25, lw=0)
    size.set(xlabel=r"samples $N$", ylabel="risk", ylim=(0.1, 40), xticks=[3, 10, 30, 100])
    size.set_xticklabels(["3", "10", "30", "100"])
    size.minorticks_off()
    size.set_title(rf"when to stop, $n={N}$")
    size.legend(loc="lower left", fontsize=7)
