"""Products with F and H of a network with a million parameters, and the upper end of their spectra.

Statements F1, F2. The floor of a product is the time of its GEMMs, 4L for F and 6L for H, each measured alone on
matrices of the same shape (with ten columns checks and copies of the vectors cost more than the arithmetic). A block of
columns is set against as many single products. The spectra are found by
SciPy's eigsh to 1e-6; of balanced layers the eigenvalues are known (S1), and held to that before any time is told.
"""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
from scipy.linalg import blas
from scipy.sparse.linalg import eigsh

import linnat as ln
from benchmarks._timing import Row, block_times, ratio

SQUARE = (512,) * 5
NARROW = (784, 700, 650, 10)
COLUMNS = 8
EIGENVALUES = 4


def run() -> list[Row]:
    """Return products over their GEMMs, blocks over single products, and seconds for a few eigenvalues."""
    rows = []
    for name, widths in (("four layers of 512", SQUARE), ("784-700-650-10", NARROW)):
        rng = np.random.default_rng(0)
        net = ln.LinearNetwork.random(widths, rng=rng)
        task = ln.Task(rng.standard_normal((widths[-1], widths[0])))
        rows += _products(f"{name}, {net.n_parameters / 1e6:.1f}e6 parameters", net, task)
    return rows + _spectra()


def _products(name: str, net: ln.LinearNetwork, task: ln.Task) -> list[Row]:
    rng = np.random.default_rng(1)
    vector, block = rng.standard_normal(net.n_parameters), rng.standard_normal((net.n_parameters, COLUMNS))
    fisher, hessian = ln.fisher_operator(net, task), ln.hessian_operator(net, task)
    times = block_times(
        {
            "fisher": lambda: fisher @ vector,
            "hessian": lambda: hessian @ vector,
            "block": lambda: fisher @ block,
        },
        blocks=5,
    )
    floors = _floors(net.widths)
    count = len(times["fisher"])
    return [
        ratio(f"{name}: F u", times["fisher"], np.full(count, floors[0]), 1.5, "× its 4L GEMMs"),
        ratio("H u", times["hessian"], np.full(count, floors[1]), 1.5, "× its 6L GEMMs"),
        ratio(
            f"F with {COLUMNS} columns", times["block"], COLUMNS * times["fisher"], 1.5, "× single products"
        ),
    ]


def _floors(widths: tuple[int, ...]) -> tuple[float, float]:
    """Return the times of the GEMMs of F u and H u: per layer 3 (4) that take its matrix, 1 (2) that make one."""
    rng = np.random.default_rng(0)
    columns, takes, makes = min(widths[0], widths[-1]), 0.0, 0.0
    for n, m in pairwise(widths):
        a, b, c = (np.asfortranarray(rng.standard_normal(s)) for s in ((m, n), (n, columns), (columns, n)))
        d = np.asfortranarray(rng.standard_normal((m, columns)))
        calls = {
            "take": lambda a=a, b=b: blas.dgemm(1.0, a, b),
            "make": lambda c=c, d=d: blas.dgemm(1.0, d, c),
        }
        times = block_times(calls, blocks=5)
        takes, makes = takes + float(np.median(times["take"])), makes + float(np.median(times["make"]))
    return 3 * takes + makes, 4 * takes + 2 * makes


def _spectra() -> list[Row]:
    size, depth = SQUARE[0], len(SQUARE) - 1
    rng = np.random.default_rng(2)
    values = 2.0 / np.sqrt(np.arange(1.0, size + 1))
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    net, task = ln.LinearNetwork.balanced((left * values) @ right, depth), ln.Task(np.zeros((size, size)))
    # Double eigenvalues are found once: one Krylov space sees one copy.
    wanted = np.unique(ln.balanced_spectrum(values, depth, size, size).round(12))[::-1][:EIGENVALUES]
    start = rng.standard_normal(net.n_parameters)
    rows = []
    for name, operator in (("F", ln.fisher_operator(net, task)), ("H", ln.hessian_operator(net, task))):
        began = time.perf_counter()
        found = np.sort(eigsh(operator, EIGENVALUES, v0=start, tol=1e-6, return_eigenvectors=False))[::-1]
        seconds = time.perf_counter() - began
        if name == "F" and np.abs(found / wanted - 1).max() > 1e-6:
            raise ArithmeticError(f"eigenvalues {found}, expected {wanted}")
        label = f"{EIGENVALUES} largest eigenvalues of {name}, balanced, 1e6 parameters"
        rows.append(Row(label, seconds, (seconds, seconds), 30.0, "s"))
    return rows
