"""Training steps of a deep autoencoder in float32 against the multiplications that they cannot avoid."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from benchmarks._timing import Call, Row, block_times, ratio
from linnat.nonlinear import Network, initial
from linnat.nonlinear.optimisers import Batch, GradientDescent, Preconditioned
from linnat.nonlinear.preconditioners import Ekfac, Kfac, OnlineNaturalGradient, Preconditioner

WIDTHS = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
BATCHES = (100, 1000)
CYCLE = 20  # updates in one timed call: a period of the inverses


def run() -> list[Row]:
    """Return ratios of a plain step to its GEMMs, and of preconditioned steps to the plain one, amortised."""
    units = ["logistic"] * 3 + ["identity"] + ["logistic"] * 3 + ["identity"]
    net = Network(WIDTHS, units, "bernoulli")
    rng = np.random.default_rng(0)
    theta = initial(net, "sparse", rng=0, dtype=np.float32)
    rows = []
    for count in BATCHES:
        x = rng.random((count, WIDTHS[0]), dtype=np.float32)
        batch = Batch(x, x)
        plain = _step(GradientDescent(1e-4, with_loss=False), net, theta, batch)
        times = block_times({"products": _products(net, theta, count), "plain": plain}, blocks=7)
        rows.append(
            ratio(f"SGD step, batch {count}, over its GEMMs", times["plain"], times["products"], 1.2, "×")
        )
        if count < 1000:
            continue
        methods: tuple[tuple[str, Preconditioner, float], ...] = (
            ("online natural gradient", OnlineNaturalGradient(0.1), 1.5),
            ("K-FAC", Kfac(0.1), 2.0),
            ("EKFAC", Ekfac(0.1), 3.0),
        )
        calls: dict[str, Call] = {"plain": _cycle(GradientDescent(1e-4, with_loss=False), net, theta, batch)}
        for name, method, _ in methods:
            calls[name] = _cycle(Preconditioned(method, 1e-6), net, theta, batch)
        times = block_times(calls, blocks=3, seconds=0.01)
        rows += [
            ratio(f"{name}, batch {count}, over SGD", times[name], times["plain"], target, "×")
            for name, _, target in methods
        ]
    return rows


def _step(method: GradientDescent, net: Network, theta: np.ndarray, batch: Batch) -> Call:
    holder, rng = [method.init(net, theta)], np.random.default_rng(0)

    def call() -> None:
        holder[0] = method.step(holder[0], batch, rng)[0]

    return call


def _cycle(method: GradientDescent | Preconditioned, net: Network, theta: np.ndarray, batch: Batch) -> Call:
    single = _step(method, net, theta, batch)  # type: ignore[arg-type]

    def call() -> None:
        for _ in range(CYCLE):
            single()

    return call


def _products(net: Network, theta: np.ndarray, rows: int) -> Call:
    """Return the matrix products of a step, with buffers of their own: forward, backward, gradients."""
    weights = [np.ascontiguousarray(block[:-1]) for block in net.blocks(theta)]
    signals = [np.full((rows, n), 0.5, np.float32) for n in net.widths]
    errors = [np.full((rows, n), 1e-3, np.float32) for n in net.widths]
    slopes = [np.empty(shape, np.float32) for shape in pairwise(net.widths)]

    def call() -> None:
        for i, weight in enumerate(weights):
            np.matmul(signals[i], weight, out=signals[i + 1])
        for i in range(len(weights) - 1, -1, -1):
            np.matmul(signals[i].T, errors[i + 1], out=slopes[i])
            if i > 0:
                np.matmul(errors[i + 1], weights[i].T, out=errors[i])
        for part in (*signals[1:], *errors[:-1]):
            part[0, 0] = 0.5  # nothing grows from call to call

    return call
