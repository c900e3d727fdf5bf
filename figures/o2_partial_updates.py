"""What does it cost to renew inverses or eigenbases only every n updates? Statement O2.

George et al. (2018) state that EKFAC, whose diagonal is refreshed at every update, may keep its eigenbasis for n
updates, and that on the MNIST autoencoder it optimises faster than K-FAC, whose inverses are as old. Here: an
autoencoder 100-50-10-50-100, logistic hidden units, Bernoulli pixels, 5000 images of 10 × 10, minibatches of 200,
float32, n ∈ {1, 10, 50, 100, 500}, statistics with the data's targets as theirs. Rate and damping of each of the two
are those of a grid (six by seven) with the least loss at n = 50 on another seed; then every n runs with them, three
seeds. Seconds are processor seconds of one thread, training alone.

Verdict: reproduced, but for n = 1. At n = 10 to 500 EKFAC ends lower (17.6 to 18.1 for 19.2 to 19.8) and reaches the
last loss of K-FAC with n = 50 in a quarter of the updates and 0.3 of the processor time. It is best at damping 1e-5,
where K-FAC diverges from every start (best at 0.1): knowing the moments is what lets damping go. A basis that is 500
updates old costs EKFAC 3 % in the end and a half of the loss on the way. n = 1 takes two to three times as long, and at
these settings harms EKFAC: the first steps, by moments of a few minibatches in a basis of their own, go too far, and
600 small ones do not make up for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures._common import (
    BLUE,
    DASHES,
    MARKERS,
    SERIES,
    VERMILLION,
    Array,
    Data,
    claim,
    label_panels,
    publish,
)
from figures._experiments import verdict
from figures._images import small_images, source
from figures._runs import Seen, best, first_below, loss_by_hand, padded, watch
from linnat.nonlinear import Network, initial, passes
from linnat.nonlinear.optimisers import Preconditioned
from linnat.nonlinear.preconditioners import Ekfac, Kfac

STATEMENTS = ("O2",)

NAMES = ("K-FAC", "EKFAC")
MAKE: tuple[Callable[..., Any], ...] = (Kfac, Ekfac)
PERIODS = (1, 10, 50, 100, 500)
RATES, DAMPINGS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003), (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)
TUNED = 50  # the n of the grid
MARKS = (0, 5, 10, 20, 50, 100, 150, 200, 300, 400, 500, 600)
BATCH = 200


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return losses and seconds (method, n, seed, mark), the grid's losses, settings."""
    images = small_images(1500 if quick else 5000, 10)
    x = np.ascontiguousarray(images.x, dtype=np.float32)
    net = Network((100, 20, 5, 20, 100) if quick else (100, 50, 10, 50, 100), "logistic", "bernoulli")
    marks, seeds = (MARKS[:6], 2) if quick else (MARKS, 3)

    def run(place: int, rate: float, damping: float, period: int, seed: int, at: tuple[int, ...]) -> Seen:
        inner = MAKE[place](damping=damping, period=period, early=False)
        return watch(
            Preconditioned(inner, rate, targets="data"),
            net,
            initial(net, "sparse", rng=seed, dtype=np.float32),
            x,
            x,
            marks=at,
            look=lambda state: passes.loss(net, state.theta, x, x),
            batch=BATCH,
            seed=seed,
        )

    thin = (slice(1, None, 2), slice(1, None, 3)) if quick else (slice(None),) * 2
    grid = [(rate, damping) for rate in RATES[thin[0]] for damping in DAMPINGS[thin[1]]]
    scores = np.array(
        [[padded(run(m, r, d, TUNED, 100, marks[-1:]).found, 1)[0] for r, d in grid] for m in range(2)]
    )
    chosen = [best(dict(zip(grid, row, strict=True))) for row in scores]
    losses = np.empty((2, len(PERIODS), seeds, len(marks)))
    seconds = np.empty_like(losses)
    for m, (rate, damping) in enumerate(chosen):
        for k, period in enumerate(PERIODS):
            for seed in range(seeds):
                seen = run(m, rate, damping, period, seed, marks)
                losses[m, k, seed] = padded(seen.found, len(marks))
                seconds[m, k, seed] = padded(seen.seconds, len(marks), np.nan)
    starts = [loss_by_hand(net, initial(net, "sparse", rng=s, dtype=np.float32), x) for s in range(seeds)]
    return {
        "starts": np.array(starts),
        "losses": losses,
        "seconds": seconds,
        "scores": scores,
        "settings": np.array(chosen),
        "marks": np.array(marks),
        "source": np.array(images.name),
        "full": np.array(not quick),
    }


def check(data: Data) -> None:
    """Hold the numbers to the verdict."""
    by_hand = np.abs(data["losses"][..., 0] / data["starts"] - 1)
    claim("loss at the start, against its definition", by_hand, at_most=1e-5)
    early = data["marks"] <= PERIODS[1]
    spread = np.ptp(data["losses"][:, 1:, :, early], axis=1)
    claim("n = 10 to 500 are one method until the first renewal", spread, at_most=0.0)
    middle, times = np.median(data["losses"], axis=2), np.median(data["seconds"], axis=2)
    ends, place = middle[..., -1], PERIODS.index(TUNED)
    updates = first_below(ends[0, place], middle[1, place], data["marks"]) / data["marks"][-1]
    seconds = first_below(ends[0, place], middle[1, place], times[1, place]) / times[0, place, -1]
    dearer = times[1, 0, -1] / times[1, 1:, -1].mean()
    if data["full"] and data["source"] == "MNIST":
        claim("loss at the end, EKFAC over K-FAC, n = 10 to 500", ends[1, 1:] / ends[0, 1:], at_most=0.95)
        claim("updates to the last loss of K-FAC, share", updates, at_most=0.6)
        claim("processor time to it, share", seconds, at_most=0.7)
        claim("EKFAC at the end, n = 500 over n = 10", ends[1, -1] / ends[1, 1], at_most=1.04)
        late = middle[1][:, data["marks"] >= 100]
        claim("EKFAC on the way, the same", late[-1] / late[1], at_most=1.55)
        claim("EKFAC at the end, n = 1 over n = 10", ends[1, 0] / ends[1, 1], at_least=1.3)
        claim(
            "EKFAC after 5 updates with n = 1, over the start",
            middle[1, 0, 1] / middle[1, 0, 0],
            at_least=1.2,
        )
        claim("time of EKFAC, n = 1 over the others", dearer, at_least=1.5, at_most=3.0)
        grid = data["scores"].reshape(2, len(RATES), len(DAMPINGS))
        claim("K-FAC at damping 1e-5, the best rate", grid[0, :, DAMPINGS.index(1e-5)].min(), at_least=1e3)
        places = [np.unravel_index(int(np.argmin(g)), g.shape) for g in grid]
        inner = [0 < i < n - 1 for place in places for i, n in zip(place, grid.shape[1:], strict=True)]
        claim("best settings that are not on the grid's edge", sum(inner), at_least=4)
        quoted = np.array([ends[1, 1:].min(), ends[1, 1:].max(), ends[0].max()])
        claim("quoted losses", np.abs(quoted - [17.6, 18.1, 19.8]), at_most=0.07)
        # K-FAC's runs depend on rounding: the lowest is 19.41 with AVX2 kernels, 19.25 with AVX-512.
        claim("quoted least loss of K-FAC", ends[0].min(), at_least=19.2, at_most=19.4 + 0.07)
        claim("quoted shares", np.abs(np.array([updates, seconds]) - [0.25, 0.3]), at_most=0.05)
    sentence = (
        f"Loss at the end, by n: EKFAC {', '.join(f'{v:.1f}' for v in ends[1])}, K-FAC "
        f"{', '.join(f'{v:.1f}' for v in ends[0])}; to K-FAC's (n = {TUNED}) in {updates:.2f} of its updates, "
        f"{seconds:.2f} of its processor time; EKFAC with n = 1 takes {dearer:.1f} times as long."
    )
    verdict("George et al. 2018", "reproduced", sentence)


def draw(data: Data) -> Figure:
    """Draw losses against updates and seconds, and what is left at the end against n."""
    figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.4))
    marks = data["marks"]
    for m, (axis, name) in enumerate(zip(axes[0], NAMES, strict=True)):
        for k, period in enumerate(PERIODS):
            values = data["losses"][m, k]
            axis.plot(marks, np.median(values, axis=0), color=SERIES[k], ls=DASHES[k], label=f"$n={period}$")
            axis.fill_between(
                marks, values.min(axis=0), values.max(axis=0), color=SERIES[k], alpha=0.15, lw=0
            )
        rate, damping = data["settings"][m]
        axis.set(xlabel="updates", ylabel="training loss", ylim=limits(data))
        axis.set_title(f"{name}: rate {rate:g}, λ = {damping:g}")
    axes[0, 0].legend()
    for m, (name, colour) in enumerate(zip(NAMES, (VERMILLION, BLUE), strict=True)):
        for k, period in ((0, 1), (2, 50), (4, 500)):
            axes[1, 0].plot(
                np.median(data["seconds"][m, k], axis=0), np.median(data["losses"][m, k], axis=0), color=colour,
                ls=DASHES[k], label=f"{name}, $n={period}$",
            )  # fmt: skip
        values = data["losses"][m, ..., -1]
        middle = np.median(values, axis=1)
        reach = np.abs(np.array([values.min(axis=1), values.max(axis=1)]) - middle)
        axes[1, 1].errorbar(
            PERIODS,
            middle,
            reach,
            color=colour,
            marker=MARKERS[m],
            ls=DASHES[m],
            mfc="white",
            capsize=2,
            label=name,
        )
    axes[1, 0].set(xlabel="processor seconds", ylabel="training loss", ylim=limits(data))
    axes[1, 0].set_title("The same against time")
    axes[1, 0].legend()
    axes[1, 1].set(xlabel="updates between renewals $n$", ylabel="training loss at the end", xscale="log")
    axes[1, 1].set_title(f"After {marks[-1]} updates, median and range")
    axes[1, 1].legend()
    label_panels(axes)
    figure.suptitle(f"Renewals every $n$ updates, autoencoder ({source(str(data['source']), 10)})")
    return figure


def limits(data: Data) -> tuple[float, float]:
    """Return the range of losses to show: the first few updates are off the picture."""
    return 0.97 * float(data["losses"].min()), 2.2 * float(np.median(data["losses"][..., -1]))
