"""The natural gradient against other ways to it: first whether it is right, then how long it takes.

Same network, same data, same number of threads, float64. Rows of data are as few as the inputs: the smallest data set
with the same moments, and the fastest for libraries that pass over rows. Networks, modules, data and compiled functions
are ready before the clock starts; the clock runs from weights and data to the direction. The error is the relative one
of the induced change of the total weight, against a truth that uses no solver (`benchmarks._problems`). CG stops at
a relative residual of 1e-10 or after 500 iterations. Floors are hand-written closed forms (N1) in NumPy and JAX.
"""

from __future__ import annotations

import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import numpy as np

import linnat as ln
from benchmarks._problems import SIZES, SPECTRA, Case, make_case, relative_error, truth
from benchmarks._rivals import (
    DENSE,
    FACTORS,
    FLOOR,
    LAYERWISE,
    LIMIT,
    OPERATOR,
    SHORTEST,
    TOLERANCE,
    Rival,
    as_arrays,
    numpy_rivals,
)
from benchmarks._rivals_jax import jax_rivals
from benchmarks._rivals_torch import torch_rivals
from benchmarks._timing import PAUSE, Outcome, Row, block_times
from linnat import hardware

OWN = "linnat"
TARGETS = {DENSE: 100.0, OPERATOR: 100.0, FACTORS: 50.0, FLOOR: 1.0}
LARGE = 64  # the targets hold from this width on
ACCURATE = 1e-6
TOTAL = 400.0  # seconds of a whole comparison, about
FAST, SLOW = 0.1, 1.0  # seconds: blocks below, one call above
PACKAGES = ("torch", "jax", "jaxlib", "curvlinops-for-pytorch", "nngeometry")
NOT_SOLVED = f"not solved in {LIMIT} iterations"


class Found(NamedTuple):
    """What became of one method on one case; without times it did not run, and `note` says why."""

    name: str
    kind: str
    gauge: str
    error: float = float("nan")
    seconds: tuple[float, ...] = ()
    note: str = ""

    @property
    def time(self) -> float:
        """The median of the seconds."""
        return float(np.median(self.seconds)) if self.seconds else float("nan")


def run(sizes: Iterable[Sequence[int]] = SIZES) -> Outcome:
    """Compare on every size, with tame, moderate and Gaussian layers."""
    _same_threads()
    rivals, deadline = all_rivals(), time.monotonic() + TOTAL
    _warm_up(rivals)
    text, rows, data = ["  " + line for line in _setting()], [], []
    for widths in sizes:
        # Rectangular Gaussian layers are tame as they are.
        for layers in (*SPECTRA, "Gaussian") if len(set(widths)) == 1 else ("Gaussian",):
            case = make_case(widths, layers)
            found = measure(case, rivals, deadline)
            text += ["", *describe(case, found)]
            rows += judge(case, found)
            data.append(
                {"case": case.name, "condition": case.condition, "found": [f._asdict() for f in found]}
            )
    return Outcome(rows, "\n".join(text), {"setting": _setting(), "cases": data})


def all_rivals() -> list[Rival]:
    """Return linnat in both gauges, the rivals, the floors."""
    return [
        Rival("layerwise", OWN, LAYERWISE, (), lambda case: _own(case, "layerwise")),
        Rival("minimum norm", OWN, SHORTEST, (), lambda case: _own(case, "minimum-norm")),
        *numpy_rivals(),
        *torch_rivals(),
        *jax_rivals(),
    ]


def measure(case: Case, rivals: Iterable[Rival], deadline: float = float("inf")) -> list[Found]:
    """Run each method once for its error, then all of them for their times, in turns; no rival after the deadline."""
    expected, results, calls = truth(case), [], {}
    for rival in rivals:
        _progress(f"{case.name}: {rival.name}")
        if rival.kind not in (OWN, FLOOR) and time.monotonic() > deadline:
            note = f"skipped: the comparison has taken {TOTAL:.0f} s"
            results.append(Found(rival.name, rival.kind, rival.gauge, note=note))
            continue
        found, call = _try(case, rival, expected)
        results.append(found)
        if call is not None:
            calls[rival.name] = call
    _progress(f"{case.name}: times")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        times = block_times(calls, blocks=7, seconds=0.05)
    _progress("")
    return [f._replace(seconds=tuple(times[f.name])) if f.name in times else f for f in results]


def _own(case: Case, gauge: str) -> Callable[[], object]:
    net, task = ln.LinearNetwork(case.weights), ln.Task.from_data(case.rows, case.targets)
    return lambda: ln.natural_gradient(net, task, gauge=gauge)


def _try(case: Case, rival: Rival, expected: np.ndarray) -> tuple[Found, Callable[[], object] | None]:
    """Return the error with the times of a slow method, or with the call of one that is to be timed in blocks."""
    found = Found(rival.name, rival.kind, rival.gauge, note=rival.refused(case))
    if found.note:
        return found, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that CG did not converge is in the error
            call = rival.prepare(case)
            result, seconds = _once(call)
            found = found._replace(error=relative_error(case, as_arrays(result), expected))
            if seconds > SLOW:
                return found._replace(seconds=(seconds,)), None
            if min(seconds, _once(call)[1]) < FAST:
                return found, call
            return found._replace(seconds=tuple(_once(call)[1] for _ in range(2))), None
    except Exception as error:  # whatever a rival does must not end the comparison
        return found._replace(note=f"failed: {type(error).__name__}: {str(error).split('.')[0][:60]}"), None


def _warm_up(rivals: Iterable[Rival]) -> None:
    """Have every library import and set up what it does once in a process: slow methods are timed once only."""
    case = make_case((3, 3, 3), "tame")
    for rival in rivals:
        _progress(f"warming up: {rival.name}")
        _try(case, rival, truth(case))


def _progress(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


def _once(call: Callable[[], object]) -> tuple[object, float]:
    time.sleep(PAUSE)
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def describe(case: Case, found: list[Found]) -> list[str]:
    """Return the table of one case, the error first."""
    layerwise, shortest = found[0], found[1]
    head = f"{'':28} {'gauge':12} {'error':>8} {'time':>10} {'÷ layerwise':>12} {'÷ minimum norm':>15}"
    lines = [f"  {case.name}; layers of condition ≤ {case.condition:.3g}", "  " + head]
    for f in found:
        name = f"linnat {f.name}" if f.kind == OWN else f"floor: {f.name}" if f.kind == FLOOR else f.name
        if not f.seconds:
            lines.append(f"  {name:28} {f.note}")
            continue
        wrong = "" if f.error < ACCURATE else "  " + _verdict(case, f)
        lines.append(
            f"  {name:28} {f.gauge:12} {f.error:8.0e} {_milliseconds(f.time):>10} "
            f"{f.time / layerwise.time:12.3g} {f.time / shortest.time:15.3g}{wrong}"
        )
    return lines


def judge(case: Case, found: list[Found]) -> list[Row]:
    """Return the promises about one case: ratios to the layerwise solution, for methods that are right.

    A method that has not solved the system within its limit gives a lower bound of the ratio.
    """
    rows, own = [], found[0]
    if max(case.widths) < LARGE:
        return rows
    for f in found:
        bound = f.kind == OPERATOR and f.error >= ACCURATE
        if f.kind == OWN or not f.seconds or not (f.error < ACCURATE or bound):
            continue
        quotient = np.outer(f.seconds, 1 / np.asarray(own.seconds)).ravel()
        low, middle, high = (float(q) for q in np.quantile(quotient, (0.25, 0.5, 0.75)))
        unit = "× layerwise" + (f", at least: {NOT_SOLVED}" if bound else "")
        rows.append(Row(f"{case.name}: {f.name}", middle, (low, high), TARGETS[f.kind], unit, True))
    return rows


def _verdict(case: Case, found: Found) -> str:
    if found.kind == OPERATOR:
        return NOT_SOLVED
    if found.kind == DENSE:
        return "inaccurate" if case.onto else "wrong here: J Jᵀ is singular"
    return "inaccurate" if case.onto else "wrong here: N1 is not a natural gradient of a bottleneck"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _setting() -> list[str]:
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    return [
        ", ".join(versions),
        f"Threads: {_threads()}. CG: relative residual {TOLERANCE:g}, at most {LIMIT} iterations.",
        "Input moments: eigenvalues 0.1 … 1, random eigenbasis; as many rows as inputs. Layers tame (singular values",
        "uniform in [0.5, 1.5]), moderate (log-uniform in [0.2, 2]) or Gaussian of variance 1/n (plus the identity",
        "where square). Error: of the induced change of the total weight. K-FAC solves with the diagonal blocks and is",
        "divided by L (N6).",
    ]


def _threads() -> int:
    return hardware.libraries()[0].threads or int(hardware.processor()["cores"])


def _same_threads() -> None:
    """Give PyTorch as many threads as NumPy's BLAS has; JAX takes as many as the process has processors."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(_threads())
