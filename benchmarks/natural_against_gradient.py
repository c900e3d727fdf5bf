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
    right, left = _sweep(calls, widths[:-1]), _sweep(calls, widths[:0:-1])
    p, q = left.ranks[::-1], right.ranks
    seen, unseen = right.drop, depth - left.drop  # layers before see all inputs, from there on all outputs
    height, width = p[unseen - 1], q[seen]
    _error(calls, p, q, seen, unseen)
    if seen:
        _near_inputs(calls, widths, left, right)
    inverted = _inverses(calls, right, p, [min(size, width) for size in q])
    for i in range(unseen - 1, seen - 1, -1):
        level = depth - 1 - i
        again = i < unseen - 1 and p[i] == p[i + 1]
        calls["trsm", p[i], width, p[i]] += sum(
            left.links[level : level + 1] if again else left.links[: level + 1]
        )
        _between(calls, widths, i, (left, right), inverted[i])
    if left.drop:
        calls["gemm", outputs, q[unseen], height] += 1
        for level in range(left.drop):
            if left.links[level]:
                calls["solve" if left.square[level] else "trsm", outputs, q[unseen], outputs] += 1
            _between(calls, widths, depth - 1 - level, (left, right), inverted[depth - 1 - level])
    return +calls


def _error(calls: Counter[Shape], p: list[int], q: list[int], seen: int, unseen: int) -> None:
    """Count the rows and columns of the error that pass, and Z_Pᵀ E Z_Q block by block of rows."""
    outputs, inputs, left, right = p[-1], q[0], unseen < len(p), seen > 0
    calls["gemm", p[seen - 1], inputs, outputs] += left and right
    calls["gemm", outputs, q[unseen] if left else 0, inputs] += left and right
    for rows, end, reach in zip(np.diff(p[:unseen], prepend=0).tolist(), p, q, strict=False):
        count = min(reach, q[seen])
        if not rows or not (left or right):
            continue
        if right and end <= p[seen - 1]:
            calls["gemm", rows, count, inputs] += 1
        elif not right or (left and count <= q[unseen]):
            calls["gemm", rows, count, outputs] += 1
        elif rows < count:
            calls["gemm", rows, inputs, outputs] += 1
            calls["gemm", rows, count, inputs] += 1
        else:
            calls["gemm", outputs, count, inputs] += 1
            calls["gemm", rows, count, outputs] += 1


def _near_inputs(calls: Counter[Shape], widths: tuple[int, ...], left: _Swept, right: _Swept) -> None:
    """Count the layers before the first drop: rows of the error through the links as they come."""
    p, seen, inputs = left.ranks[::-1], right.drop, widths[0]
    height = p[seen - 1]
    calls["gemm", height, inputs, right.ranks[seen]] += 1
    for link, rank in zip(left.links, left.ranks, strict=True):
        size = min(rank, height)
        calls["trsm", size, size, size] += link
    for i in range(seen):
        level = len(p) - 1 - i
        if right.links[i]:
            calls["solve" if right.square[i] else "trsm", inputs, height, inputs] += 1
        calls["gemm", p[i], inputs, p[i]] += any(left.links[: level + 1])
        calls["gemm", widths[i + 1], inputs, p[i]] += left.bases[level]
        calls["gemm", widths[i + 1], widths[i], inputs] += right.bases[i]


def _inverses(
    calls: Counter[Shape], right: _Swept, p: list[int], sizes: list[int]
) -> list[tuple[bool, bool]]:
    """Count the inverses of the links; return for each layer whether there is one, and a link left to solve with."""
    result, inverted = [], False
    for link, few, size, after in zip(right.links, p, sizes, [*sizes[1:], 0], strict=True):
        late = link and few < size and after < size
        kept = after if late else size
        calls["trsm", kept, kept, kept] += link and kept > 0
        result.append((inverted or (link and not late), late))
        inverted = inverted or link
    return result


def _between(
    calls: Counter[Shape],
    widths: tuple[int, ...],
    i: int,
    sides: tuple[_Swept, _Swept],
    key: tuple[bool, bool],
) -> None:
    left, right = sides
    level, (inverted, late) = len(left.ranks) - 1 - i, key
    p, q = left.ranks[level], right.ranks[i]
    if late:
        calls["trsm", q, p, q] += 1  # bᵀ is what is solved for
    shape = (widths[i + 1] if left.bases[level] else 0, p, q, widths[i] if right.bases[i] else 0)
    _layer(calls, shape, inverted, late)


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
    """What a sweep leaves at each level: rank, basis, link to solve with, whether it is square; the first drop or 0."""

    ranks: list[int]
    bases: list[bool]
    links: list[bool]
    square: list[bool]
    drop: int


def _sweep(calls: Counter[Shape], sizes: tuple[int, ...]) -> _Swept:
    """Count one thin sweep of generic matrices: the way out with products and QRs, the way back with rotations."""
    ranks = list(accumulate(sizes, min))
    drop = next((j for j, rank in enumerate(ranks) if rank < ranks[0]), 0)
    bases, links, turns, square = [False], [False], [False], [False]
    for j, size in enumerate(sizes[1:], 1):
        columns = ranks[j - 1]
        square.append(not bases[-1] and size == columns > ranks[-1])
        if bases[-1]:
            calls["gemm", size, columns, sizes[j - 1]] += 1
        if square[-1]:
            bases.append(False)  # the rotation to come triangularises this square link
        elif size >= columns:
            calls["qr", size, columns, columns] += 1
            bases.append(True)
        else:
            calls["qr", columns, size, size if j == drop else columns] += 1
            bases.append(False)
        links.append(True)
        turns.append(size < columns)
    turned = False
    for j in range(len(sizes) - 1, drop - 1, -1):
        rank = ranks[j]
        if turned:
            calls["gemm", sizes[j], rank, rank] += bases[j]
            calls["gemm", rank, rank, rank] += links[j]
            calls["qr", rank, rank, rank] += links[j]
            calls["gemm", ranks[j - 1], rank, rank] += turns[j]
        bases[j] = bases[j] or turned
        turned = turned or turns[j]
    for _ in range(drop - 1):
        calls["gemm", ranks[0], ranks[drop], ranks[0]] += 1
        calls["qr", ranks[0], ranks[drop], ranks[drop]] += 1
    return _Swept(ranks, bases, links, square, drop)


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
