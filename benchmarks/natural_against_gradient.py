"""Layerwise natural gradient against the gradient, and against the time of its own operations.

The floor is the sum of the times of the BLAS and LAPACK calls that the algorithm needs, each measured alone
on matrices of the same shape: LU and solves for square layers; products, QR and triangular solves for the
sweeps of wide nets and bottlenecks. `tests/benchmarks` compares the count with the calls that are made.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

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
BLOCK = 64  # of recursive QRs: the faster of LAPACK's two on several threads


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
    """Return the calls (kind, m, n, k) that the layerwise natural gradient of a generic network needs if S > 0.

    Not the estimates of condition numbers, which take matrices times vectors. "qr" is of m × n with k columns of Q.
    """
    depth, inputs, outputs = len(widths) - 1, widths[0], widths[-1]
    calls: Counter[Shape] = Counter()
    for i in range(1, depth):  # the total weight
        calls["gemm", widths[i + 1], inputs, widths[i]] += 1
    if len(set(widths)) == 1:
        n = widths[0]
        calls["lu", n, n, n] += depth
        calls["solve", n, n, n] += 2 * depth - 2
        calls["gemm", n, n, n] += depth - 1
        return +calls
    right = _sweep(calls, widths[:-1], start=min(widths[:-1]) < inputs)
    left = _sweep(calls, widths[:0:-1], start=False)
    if right.links[0]:  # the error is E F, with W_1 F as one more product
        calls["gemm", widths[1], inputs, inputs] += 1
    p, q = left.ranks[::-1], right.ranks
    _rotated_error(calls, p, q)
    uniform = p[0] == outputs and q[-1] == inputs
    inverted = False  # whether an inverse of the links below is kept
    for i in range(depth):
        level = depth - 1 - i
        again = level > 0 and (uniform or p[i] == p[i + 1])
        links = left.links[level : level + 1] if again else left.links[: level + 1]
        calls["trsm", p[i], inputs, p[i]] += sum(links)
        after = q[i + 1] if i + 1 < depth else 0
        late = right.links[i] and p[i] < q[i] and after < q[i]
        size = after if late else q[i]
        calls["trsm", size, size, size] += right.links[i] and size > 0
        if late:
            # bᵀ is what is solved for
            calls["trsm", q[i], p[i], q[i]] += 1
        shape = (widths[i + 1] if left.bases[level] else 0, p[i], q[i], widths[i] if right.bases[i] else 0)
        _layer(calls, shape, inverted or (right.links[i] and not late), late)
        inverted = inverted or right.links[i]
    return +calls


def _rotated_error(calls: Counter[Shape], p: list[int], q: list[int]) -> None:
    """Count Z_Pᵀ E Z_Q, block by block of rows, where ranks drop on both sides; one product where on one."""
    outputs, inputs = p[-1], q[0]
    if p[0] == outputs or q[-1] == inputs:
        calls["gemm", outputs, inputs, outputs] += p[0] < outputs
        calls["gemm", outputs, inputs, inputs] += q[-1] < inputs
        return
    for rows, columns in zip(np.diff(p, prepend=0).tolist(), q, strict=True):
        if rows and rows < columns:
            calls["gemm", rows, inputs, outputs] += 1
            calls["gemm", rows, columns, inputs] += 1
        elif rows:
            calls["gemm", outputs, columns, inputs] += 1
            calls["gemm", rows, columns, outputs] += 1


def _layer(calls: Counter[Shape], shape: tuple[int, int, int, int], inverted: bool, late: bool) -> None:
    """Count U X K Vᵀ: n × p, p × q, q × q, q × m; n and m are 0 where U and V are the identity."""
    n, p, q, m = shape
    early = late or not m or p <= m
    calls["gemm", p, q, q] += inverted and early
    calls["gemm", q, m, q] += inverted and not early
    if n and m:
        if n * q * (p + m) <= p * m * (q + n):
            calls["gemm", n, q, p] += 1
            calls["gemm", n, m, q] += 1
        else:
            calls["gemm", p, m, q] += 1
            calls["gemm", n, m, p] += 1
    elif n:
        calls["gemm", n, q, p] += 1
    elif m:
        calls["gemm", p, m, q] += 1


class _Swept(NamedTuple):
    """What a sweep leaves at each level: rank, whether there is a basis, whether there is a link to solve with."""

    ranks: list[int]
    bases: list[bool]
    links: list[bool]


def _sweep(calls: Counter[Shape], sizes: tuple[int, ...], *, start: bool) -> _Swept:
    """Count one sweep of generic matrices: the way out with products and QRs, the way back with rotations."""
    ranks = list(accumulate(sizes, min))
    bases, links, turns = [False], [start], [False]
    for j, size in enumerate(sizes[1:], 1):
        columns = ranks[j - 1]
        if bases[-1]:
            calls["gemm", size, columns, sizes[j - 1]] += 1
        if not bases[-1] and size == columns > ranks[-1]:
            bases.append(False)  # the rotation to come triangularises this square link
        elif size >= columns:
            calls["qr", size, columns, columns] += 1
            bases.append(True)
        else:
            calls["qr", columns, size, columns] += 1
            bases.append(False)
        links.append(True)
        turns.append(size < columns)
    turned = False
    for j in range(len(sizes) - 1, -1, -1):
        rank = ranks[j]
        if turned:
            calls["gemm", sizes[j], rank, rank] += bases[j]
            calls["gemm", rank, rank, rank] += links[j]
            calls["qr", rank, rank, rank] += links[j]
            calls["gemm", ranks[j - 1], rank, rank] += turns[j]
        bases[j] = bases[j] or turned
        turned = turned or turns[j]
    return _Swept(ranks, bases, links)


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
        identity, block = np.eye(m, k, order="F"), min(BLOCK, n)

        def decompose() -> object:
            packed, blocks, _ = lapack.dgeqrt(block, a)
            return lapack.dgemqrt(packed, blocks, identity)

        return decompose

    total = 0.0
    for shape, count in calls.items():
        if count:
            total += count * float(np.median(block_times({"": kernel(*shape)}, blocks=5, seconds=0.05)[""]))
            time.sleep(0.01)
    return total
