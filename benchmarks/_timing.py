"""How is a ratio measured on a noisy machine? In alternating blocks with pauses, medians over the blocks.

A block runs one function several times; between blocks the program sleeps, so that no BLAS pool still spins
while another works. Interleaving single calls of two pools would slow the reference and flatter the ratio.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy

import linnat
from linnat import hardware

PAUSE = 0.05
Call = Callable[[], object]


class Row(NamedTuple):
    """One promise: what was measured, as a ratio, against what was promised."""

    name: str
    ratio: float
    spread: tuple[float, float]
    target: float
    unit: str
    higher_is_better: bool = False

    @property
    def met(self) -> bool:
        """Whether the median ratio keeps the promise."""
        return self.ratio >= self.target if self.higher_is_better else self.ratio <= self.target


class Outcome(NamedTuple):
    """What a benchmark returns that has more to tell than rows."""

    rows: list[Row]
    text: str = ""
    data: Any = None


def block_times(
    calls: Mapping[str, Call],
    *,
    blocks: int = 9,
    seconds: float = 0.25,
    pause: float = PAUSE,
    warm: float = 0.0,
) -> dict[str, np.ndarray]:
    """Return seconds per call, one number per block, for each function; the functions take turns.

    A block begins after a pause and calls that are not counted: one, or as many as fit into so many warm seconds.
    """
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(seconds / max(time.perf_counter() - start, 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(blocks):
        for name, call in calls.items():
            time.sleep(pause)
            start = time.perf_counter()
            call()
            while time.perf_counter() - start < warm:
                call()
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: np.asarray(values) for name, values in times.items()}


def ratio(
    name: str, above: np.ndarray, below: np.ndarray, target: float, unit: str, higher_is_better: bool = False
) -> Row:
    """Return the median of the block-by-block ratios with its quartiles."""
    quotient = above / below
    low, middle, high = np.quantile(quotient, (0.25, 0.5, 0.75))
    return Row(name, float(middle), (float(low), float(high)), target, unit, higher_is_better)


def environment() -> dict[str, str]:
    """Return what a reader needs in order to repeat the run: versions, processor, BLAS, kernels, threads."""
    return {
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "SciPy": scipy.__version__,
        "linnat": linnat.__version__,
        **hardware.facts(),
    }


def table(title: str, rows: list[Row], before: str = "") -> str:
    """Return the rows as text, with other text before them."""
    lines = [title, "", *([before, ""] if before else [])]
    width = max(52, *(len(row.name) for row in rows), 0)
    for row in rows:
        sign = "≥" if row.higher_is_better else "≤"
        low, high = row.spread
        promise, verdict = f"{sign} {row.target:<5g}", "  met" if row.met else "  MISSED"
        if not math.isfinite(row.target):  # told, and nothing promised
            promise, verdict = " " * len(promise), ""
        lines.append(
            f"  {row.name:<{width}} {row.ratio:8.2f} [{low:.2f}, {high:.2f}]  {promise} {row.unit}{verdict}"
        )
    return "\n".join(lines)
