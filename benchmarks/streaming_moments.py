"""One pass over 10,000,000 × 100 rows: memory that does not depend on N, and the time of its QRs alone.

Rows are drawn chunk by chunk (float32, condition 1e6, noisy teacher) in a process of its own, whose peak memory is
that of the pass; bare QRs are timed between the chunks, so that both see the same machine. The result is checked before
anything is reported: the teacher against the one that made the data, and the smallest singular value of the rows.
`python -m benchmarks.streaming_moments ROWS` is that process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

import linnat as ln
from benchmarks._timing import Row

INPUTS, CHUNK, CONDITION, NOISE = 100, 50_000, 1e6, 0.1
BLOCK, BARE = 1024, 4  # a bare QR fits the cache; its share of the time is a twelfth
FEW, MANY = 1_000_000, 10_000_000


def run() -> list[Row]:
    """Return the growth of the peak memory, and the time against a bare QR of the same rows in blocks."""
    few, many = _pass(FEW), _pass(MANY)
    name = f"{MANY:,} rows: {many['fold']:.0f} s, {MANY / many['fold'] / 1e3:.0f} thousand rows/s"
    return [
        _row(
            f"{MANY:,} rows: peak {many['peak'] / 2**20:.0f} MiB",
            many["peak"] / few["peak"],
            1.1,
            "of 1,000,000 rows",
        ),
        _row(name, many["fold"] / many["bare"], 1.5, "of the QRs alone"),
        _row("drawing the rows, for comparison", many["draw"] / many["fold"], 1.0, "of the pass"),
        _row("teacher: root mean square error", many["teacher"], 1.5, "standard errors"),
        _row("smallest singular value: error", many["smallest"], 5.0, "standard errors"),
    ]


def _row(name: str, value: float, target: float, unit: str) -> Row:
    return Row(name, value, (value, value), target, unit)


def _pass(samples: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.streaming_moments", str(samples)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(run.stdout)
    return found


def measure(samples: int) -> dict[str, float]:
    """Fold synthetic rows; return seconds, bytes, and errors in units of their standard deviations."""
    rng = np.random.default_rng(0)
    scales = np.geomspace(1.0, 1.0 / CONDITION, INPUTS, dtype=np.float32)
    teacher = rng.standard_normal(INPUTS)
    spent = {"draw": 0.0, "bare": 0.0}
    block = np.asfortranarray(rng.standard_normal((BLOCK, INPUTS + 2)))

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _ in range(samples // CHUNK):
            start = time.perf_counter()
            for _ in range(BARE):
                np.linalg.qr(block, mode="r")
            middle = time.perf_counter()
            x = rng.standard_normal((CHUNK, INPUTS), dtype=np.float32) * scales
            y = x @ teacher + NOISE * rng.standard_normal(CHUNK)
            spent["draw"] += time.perf_counter() - middle
            spent["bare"] += middle - start
            yield x, y[:, None]

    start = time.perf_counter()
    task = ln.Task.from_chunks(chunks(), progress=False)
    fold = time.perf_counter() - start - spent["draw"] - spent["bare"]
    peak = _peak()
    # (XᵀX)⁻¹ is diagonal up to 1/√N; singular values of scaled Gaussian rows deviate by σ/√(2N).
    errors = np.abs(task.goal()[0] - teacher) * scales * np.sqrt(samples) / NOISE
    smallest = np.linalg.norm(np.linalg.qr(task.input_factor.T, mode="r")[-1, -1])
    deviation = np.abs(smallest / scales[-1] - 1) * np.sqrt(2 * samples)
    return {
        "fold": fold,
        "draw": spent["draw"],
        "peak": peak,
        "bare": spent["bare"] * CHUNK / (BARE * BLOCK),
        "teacher": float(np.sqrt(np.mean(errors**2))),
        "smallest": float(deviation),
    }


def _peak() -> float:
    """Return the peak resident memory of this process in bytes."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(float(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    except OSError:
        import resource

        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (
            1 if sys.platform == "darwin" else 1024
        )


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
