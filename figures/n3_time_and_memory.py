"""How do time and memory grow with the width and the depth? Statements N2, N3, measured.

Networks of L layers of width n, singular values spaced geometrically from √2 to 1/√2 between random permutations and
reflections, a Gaussian teacher, S = Σ = 1. The layerwise natural gradient, the minimum norm of two layers (two singular
value decompositions) and of more (LSQR on the null space of J, or one QR of it where that is cheaper), and the dense
pseudo-inverse of J, against the width and against the depth, each as far as some seconds go. Every curve is measured
in a process of its own with one thread, sizes ascending: the least of several times, and by how much the peak of the
resident memory exceeds what the process held before its first call. Exponents are slopes of the upper half of a curve,
with standard errors; what is below a mebibyte of memory is not shown. Where the automatic choice takes LSQR for some
sizes of a curve, the exponents are LSQR's, and filled markers are those of direct methods.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

import linnat as ln
from figures._common import (
    BLACK,
    DASHES,
    MARKERS,
    SERIES,
    Array,
    Data,
    claim,
    label_panels,
    publish,
)

STATEMENTS = ("N2", "N3")

MEBIBYTE = 2.0**20
REPEAT = 0.3  # seconds for each size, or one run
BUDGET = 900.0  # seconds for each curve
QUICK = 4  # sizes: whatever the machine does besides, a quick run measures the same


class Curve(NamedTuple):
    """A route and the sizes to which it is taken; one of width and depth is given, the other varies."""

    name: str
    route: str
    sizes: tuple[int, ...]
    width: int | None
    depth: int | None
    times: tuple[float, float]  # between which the exponent of time is claimed
    memory: tuple[float, float]
    growth: float  # of time, to tell whether the next size fits the budget

    def shape(self, size: int) -> tuple[int, int]:
        """Return (n, L)."""
        return (size, self.depth) if self.depth is not None else (self.width or 1, size)


WIDTHS = (16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024, 1448, 2048)
DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
CURVES = (
    Curve("layerwise, $L = 4$", "layerwise", WIDTHS, None, 4, (1.2, 3.8), (1.4, 2.6), 3.0),
    Curve("minimum norm, $L = 2$", "minimum-norm", WIDTHS, None, 2, (1.2, 4.0), (1.4, 2.6), 3.0),
    Curve("minimum norm, $L = 4$", "minimum-norm", WIDTHS, None, 4, (1.2, 5.0), (1.4, 2.8), 3.3),
    Curve(
        "dense, $L = 4$",
        "dense",
        (4, 6, 8, 11, 13, 16, 19, 23, 27, 32, 38, 45),
        None,
        4,
        (2.5, 8.0),
        (3.0, 5.0),
        6.0,
    ),
    Curve("layerwise, $n = 64$", "layerwise", DEPTHS, 64, None, (0.4, 2.6), (0.3, 1.7), 1.0),
    Curve("minimum norm, $n = 32$", "minimum-norm", DEPTHS, 32, None, (0.5, 5.0), (0.3, 3.5), 3.0),
    Curve("dense, $n = 8$", "dense", DEPTHS, 8, None, (0.2, 2.8), (0.3, 2.0), 1.5),
)
POINTS = max(len(curve.sizes) for curve in CURVES)
KEYS = ("seconds", "bytes", "residuals", "iterations")


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return seconds, bytes, residuals and iterations, (curve, size), NaN beyond the budget; exponents, errors."""
    data: dict[str, Array] = {key: np.full((len(CURVES), POINTS), np.nan) for key in KEYS}
    for place in range(len(CURVES)):
        # A quick run needs no true peaks of memory, and starts one interpreter only.
        found = list(points(place, quick)) if quick and place else in_a_process_of_its_own(place, quick)
        for j, point in enumerate(found):
            for key in KEYS:
                data[key][place, j] = point[key]
        print(f"    {CURVES[place].name}: {int(np.isfinite(data['seconds'][place]).sum())} sizes", flush=True)
    fits = [[fit(data, place, key) for key in ("seconds", "bytes")] for place in range(len(CURVES))]
    data["exponents"], data["errors"] = np.moveaxis(np.array(fits), -1, 0)
    data["full"] = np.array(not quick)
    settings = [f"{k}={os.environ.get(k, '')}" for k in ("OPENBLAS_CORETYPE",)]
    data["where"] = np.array(
        [platform.machine(), f"NumPy {np.__version__}", f"{os.cpu_count()} CPUs", *settings]
    )
    return data


def in_a_process_of_its_own(place: int, quick: bool) -> list[dict[str, float]]:
    """Return the points of one curve: `child` in a fresh interpreter, whose peak of memory is its own."""
    code = f"from figures.n3_time_and_memory import child; child({place}, {quick})"
    root = Path(__file__).resolve().parents[1]
    # One thread: two pools of BLAS threads on few processors measure each other.
    one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=root, env=os.environ | one, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{CURVES[place].name}: {run.stderr[-2000:]}")
    return [json.loads(line) for line in run.stdout.splitlines()]


def child(place: int, quick: bool) -> None:
    """Print one line of JSON for each point."""
    for point in points(place, quick):
        print(json.dumps(point), flush=True)


def points(place: int, quick: bool) -> Iterator[dict[str, float]]:
    """Measure a curve at each size that the budget allows."""
    curve = CURVES[place]
    sizes = curve.sizes[: QUICK if quick else None]
    solve(curve.route, *instance(*curve.shape(sizes[0])))  # libraries are loaded
    held, begin = resident("VmRSS"), time.perf_counter()
    last: tuple[int, float] | None = None
    for size in sizes:
        if last is not None and not quick:
            expected = last[1] * (size / last[0]) ** curve.growth
            if time.perf_counter() - begin + expected > BUDGET:
                break
        start = time.perf_counter()
        net, task = instance(*curve.shape(size))
        seconds, found = least_time(
            lambda net=net, task=task: solve(curve.route, net, task), 0.0 if quick else REPEAT
        )
        yield {"seconds": seconds, "bytes": resident("VmHWM") - held, **quality(net, task, found)}
        last = size, time.perf_counter() - start  # with the drawing of the network


def instance(width: int, depth: int) -> tuple[ln.LinearNetwork, ln.Task]:
    """Draw a network of well-conditioned layers and a teacher."""
    rng = np.random.default_rng([width, depth])
    weights = [layer(width, rng) for _ in range(depth)]
    return ln.LinearNetwork(weights), ln.Task(rng.standard_normal((width, width)))


def layer(width: int, rng: np.random.Generator) -> Array:
    """Draw H D P H′ with random reflections H, H′ and a random signed permutation P: n² work, no factorisation."""
    values = np.geomspace(2**0.5, 2**-0.5, width) * rng.choice([-1.0, 1.0], width)
    matrix = np.diag(values)[:, rng.permutation(width)]
    left, right = (v / np.linalg.norm(v) for v in rng.standard_normal((2, width)))
    matrix -= 2 * np.outer(left, left @ matrix)
    matrix -= 2 * np.outer(matrix @ right, right)
    return matrix


def solve(route: str, net: ln.LinearNetwork, task: ln.Task) -> Any:
    """Return a direction, or the record of a solve."""
    if route == "layerwise":
        return ln.natural_gradient(net, task)
    if route == "dense":
        return ln.dense.natural.natural_gradient(net, task, "minimum-norm")
    return ln.solve_minimum_norm(net, task)


def least_time(call: Callable[[], Any], total: float) -> tuple[float, Any]:
    """Return the least of the times that fit in a total, and the result."""
    times: list[float] = []
    while not times or (sum(times) < total and len(times) < 20):
        start = time.perf_counter()
        found = call()
        times.append(time.perf_counter() - start)
    return min(times), found


def quality(net: ln.LinearNetwork, task: ln.Task, found: Any) -> dict[str, float]:
    """Return ‖induced change − error‖ / ‖error‖, which every route must meet, and the iterations."""
    solution = isinstance(found, ln.Solution)
    change = ln.induced_change(net, found.direction if solution else found)
    gap = net.total - task.teacher
    residual = float(np.linalg.norm(change - gap) / np.linalg.norm(gap))
    return {"residuals": residual, "iterations": float(found.iterations) if solution else 0.0}


def resident(word: str) -> float:
    """Return the resident memory (VmRSS) or its peak (VmHWM) in bytes; the peak for both where there is no /proc."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text(encoding="ascii").splitlines() if x.startswith(word))
        return 1024.0 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)


def by_iterations(data: Data, place: int) -> Array:
    """Return which sizes of a curve count for its exponents: those of the iterations, where there are any."""
    counts = data["iterations"][place]
    return np.asarray(counts > 0 if np.nansum(counts) > 0 else np.isfinite(counts))


def fit(data: Data, place: int, key: str) -> tuple[float, float]:
    """Return the slope in log–log of the upper half of what was measured, and its standard error; NaN for too few."""
    values, sizes = data[key][place], np.array(CURVES[place].sizes, dtype=float)
    seen = np.flatnonzero(by_iterations(data, place)[: len(sizes)])
    if len(seen) < 4:
        return np.nan, np.nan
    upper = seen[len(seen) // 2 :]
    upper = seen[-3:] if len(upper) < 3 else upper
    upper = upper[values[upper] >= (MEBIBYTE if values[seen].max() > MEBIBYTE else 0.0)]
    if len(upper) < 3:
        return np.nan, np.nan
    x, y = np.log(sizes[upper]), np.log(values[upper])
    spread = x - x.mean()
    slope = float(spread @ y / (spread @ spread))
    left = y - y.mean() - slope * spread
    return slope, float(np.sqrt(left @ left / (len(x) - 2) / (spread @ spread)))


def check(data: Data) -> None:
    """Hold every solve to its equation and, in a full run, exponents to generous ranges."""
    measured = np.isfinite(data["seconds"])
    claim("sizes measured on each curve", measured.sum(axis=1), at_least=4)
    for place, curve in enumerate(CURVES):
        residuals = data["residuals"][place, measured[place]]
        claim(f"{curve.name}: ‖induced change − error‖/‖error‖", residuals, at_most=1e-8)
        again = np.array([fit(data, place, key) for key in ("seconds", "bytes")])[:, 0]
        stored = data["exponents"][place]
        same = np.nan_to_num(np.abs(again - stored)) + (np.isnan(again) != np.isnan(stored))
        claim(f"{curve.name}: stored exponents against a new fit", same, at_most=1e-9)
    if not data["full"]:
        return
    for place, curve in enumerate(CURVES):
        for column, (word, (low, high)) in enumerate((("time", curve.times), ("memory", curve.memory))):
            value = data["exponents"][place, column]
            if column == 0 or np.isfinite(value):
                claim(f"{curve.name}: exponent of {word}", value, at_least=low, at_most=high)
    dense, fast = data["seconds"][3], data["seconds"][2]
    pairs = [(dense[j], fast[WIDTHS.index(n)]) for j, n in enumerate(CURVES[3].sizes) if n in WIDTHS]
    ratios = [d / f for d, f in pairs if np.isfinite(d)]
    claim("minimum norm at the largest width that dense reaches: times faster", ratios[-1], at_least=10)


def draw(data: Data) -> Figure:
    """Draw time above, memory below, against the width and against the depth."""
    plt.rcParams["savefig.dpi"] = 160  # as large a file as those of the other figures
    figure, axes = plt.subplots(2, 2, sharex="col", sharey="row", figsize=(7.0, 5.0))
    for column, curves in enumerate((range(4), range(4, 7))):
        for row, key in enumerate(("seconds", "bytes")):
            axis = axes[row, column]
            for place in curves:
                _curve(axis, data, place, key, row)
            axis.set(xscale="log", yscale="log")
            axis.legend(loc="upper left" if row == 0 else "lower right", fontsize=6.6, handlelength=1.8)
            axis.xaxis.set_minor_locator(NullLocator())
    axes[0, 0].set(ylabel="time (s)", title="against the width")
    axes[0, 1].set_title("against the depth")
    axes[1, 0].set(ylabel="peak memory (MiB)", xlabel="width $n$", xticks=[8, 32, 128, 512, 2048])
    axes[1, 1].set(xlabel="depth $L$", xticks=[1, 4, 16, 64])
    for axis in axes[1]:
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axes[0, 0].get_ylim()
    axes[0, 0].set_ylim(low, 300 * high)
    low, high = axes[1, 0].get_ylim()
    axes[1, 0].set_ylim(low / 100, high)
    label_panels(axes)
    figure.suptitle("Time and memory of the natural gradient: structure against a dense matrix")
    return figure


def _curve(axis: Axes, data: Data, place: int, key: str, row: int) -> None:
    curve, values = CURVES[place], data[key][place]
    look = place if place < 4 else (0, 2, 3)[place - 4]
    seen = np.isfinite(values[: len(curve.sizes)])
    if key == "bytes":
        seen &= values[: len(curve.sizes)] >= MEBIBYTE
    sizes = np.array(curve.sizes)[seen]
    shown = values[: len(curve.sizes)][seen] / (MEBIBYTE if key == "bytes" else 1.0)
    slope, error = data["exponents"][place, row], data["errors"][place, row]
    law = f": ${slope:.2f} \\pm {error:.2f}$" if np.isfinite(slope) else ""
    axis.plot(sizes, shown, ls=DASHES[look], marker=MARKERS[look], color=SERIES[look], mfc="white", lw=1.2, ms=4,
              label=curve.name + law)  # fmt: skip
    counted = by_iterations(data, place)[: len(curve.sizes)][seen]
    axis.plot(sizes[~counted], shown[~counted], ls="", marker=MARKERS[look], color=SERIES[look], ms=4)
    sizes, shown = sizes[counted], shown[counted]
    if np.isfinite(slope) and len(sizes) > 2:
        upper = sizes[len(sizes) // 2 :].astype(float)
        middle = np.exp(np.mean(np.log(shown[len(sizes) // 2 :])))
        law_values = middle * (upper / np.exp(np.mean(np.log(upper)))) ** slope
        axis.plot(upper, law_values, color=BLACK, lw=0.7, zorder=4)
