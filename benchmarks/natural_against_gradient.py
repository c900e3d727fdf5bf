"""Layerwise natural gradient against the gradient, and against the time of its own operations.

The floor is the sum of the times of the BLAS and LAPACK calls that the algorithm needs, each measured alone
on matrices of the same shape: LU and solves for square layers; products, QR and triangular solves for the
sweeps of wide nets and bottlenecks.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy.linalg import blas, lapack

import linnat as ln
from benchmarks._timing import Row, block_times, ratio

N = 512
NETWORKS = {
    "square, 8 layers of 512": ((N,) * 9, 3.0),
    "wide, 256-512-…-512-256": ((N // 2, *(N,) * 7, N // 2), 7.0),
    "bottleneck of 256 in the middle": ((*(N,) * 4, N // 2, *(N,) * 4), 7.0),
}
Shape = tuple[str, int, int, int]


def run() -> list[Row]:
    """Return the ratios of every network."""
    rows = []
    for name, (widths, target) in NETWORKS.items():
        rng = np.random.default_rng(0)
        net = ln.LinearNetwork.random(widths, rng=rng)
        task = ln.Task(rng.standard_normal((widths[-1], widths[0])))
        times = _measure(net, task)
        rows.append(ratio(name, times["natural"], times["gradient"], target, "× gradient"))
        floor = _floor(_operations(widths))
        rows.append(
            ratio("", times["natural"], np.full(len(times["natural"]), floor), 1.5, "× its BLAS/LAPACK calls")
        )
    return rows


def _measure(net: ln.LinearNetwork, task: ln.Task) -> dict[str, np.ndarray]:
    return block_times(
        {"gradient": lambda: ln.gradient(net, task), "natural": lambda: ln.natural_gradient(net, task)}
    )


def _operations(widths: tuple[int, ...]) -> Counter[Shape]:
    """Return the calls (kind, m, n, k) that the layerwise natural gradient needs."""
    depth, inputs, outputs = len(widths) - 1, widths[0], widths[-1]
    calls: Counter[Shape] = Counter()
    for i in range(1, depth):  # the total weight
        calls["gemm", widths[i + 1], inputs, widths[i]] += 1
    if len(set(widths)) == 1:
        n = widths[0]
        calls["lu", n, n, n] += depth
        calls["solve", n, n, n] += 2 * depth - 2
        calls["gemm", n, n, n] += depth - 1
        return calls
    right = _sweep(calls, widths[:-1])
    left = _sweep(calls, widths[:0:-1])[::-1]
    narrow = min(*right, *left)
    for i, (p, q) in enumerate(zip(left, right, strict=True)):
        size = outputs if narrow == outputs else narrow
        calls["trsm", min(p, size), inputs, min(p, size)] += i < depth - 1
        calls["trsm", q, q, q] += i > 0
        calls["gemm", widths[i + 1], q, p] += 1
        calls["gemm", q, widths[i], q] += 1
        calls["gemm", widths[i + 1], widths[i], q] += 1
    return calls


def _sweep(calls: Counter[Shape], sizes: tuple[int, ...]) -> list[int]:
    """Count one sweep: a product and a QR per layer, and a second QR and product per layer above a drop of rank."""
    ranks = [sizes[0]]
    for below, size in pairwise(sizes):
        rank = min(ranks[-1], size)
        calls["gemm", size, ranks[-1], below] += 1
        calls["qr", max(size, ranks[-1]), max(size, ranks[-1]) if size < ranks[-1] else rank, 0] += 1
        ranks.append(rank)
    for rank in ranks[1 : ranks.index(ranks[-1])]:
        if rank > ranks[-1]:
            calls["gemm", rank, rank, rank] += 2
            calls["qr", rank, rank, 0] += 1
    return ranks


def _floor(calls: Counter[Shape]) -> float:
    """Return the sum over calls of the median time of each, measured alone."""
    rng = np.random.default_rng(0)

    def draw(m: int, n: int) -> np.ndarray:
        return np.asfortranarray(rng.standard_normal((m, n)))

    def kernel(kind: str, m: int, n: int, k: int) -> Callable[[], object]:
        if kind == "gemm":
            a, b = draw(m, k), draw(k, n)
            return lambda: blas.dgemm(1.0, a, b)
        if kind == "lu":
            a = draw(m, m)
            return lambda: lapack.dgetrf(a)
        if kind == "solve":
            lu, pivots, _ = lapack.dgetrf(draw(m, m))
            b = draw(m, n)
            return lambda: lapack.dgetrs(lu, pivots, b)
        if kind == "trsm":
            t, b = np.triu(draw(m, m)) + m * np.eye(m), draw(m, n)
            return lambda: blas.dtrsm(1.0, t, b)
        a = draw(m, n)
        return lambda: lapack.dorgqr(*lapack.dgeqrf(a)[:2])

    total = 0.0
    for shape, count in calls.items():
        if count:
            total += count * float(np.median(block_times({"": kernel(*shape)}, blocks=5, seconds=0.05)[""]))
            time.sleep(0.01)
    return total
