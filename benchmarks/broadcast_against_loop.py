"""Ten thousand networks in one call against a loop over them."""

from __future__ import annotations

import numpy as np

import linnat as ln
from benchmarks._timing import Row, block_times, ratio

COUNT = 10_000


def run() -> list[Row]:
    """Return the ratio for 4-4-4-4; the loop is over ready-made networks."""
    rng = np.random.default_rng(0)
    task = ln.Task(rng.standard_normal((4, 4)))
    stack = ln.LinearNetwork.random((4, 4, 4, 4), rng=rng, batch_shape=(COUNT,))
    networks = [ln.LinearNetwork([w[i] for w in stack.weights]) for i in range(COUNT)]
    calls = {
        "loop": lambda: [ln.natural_gradient(net, task) for net in networks],
        "broadcast": lambda: ln.natural_gradient(stack, task),
    }
    times = block_times(calls, blocks=5)
    return [ratio("10,000 networks of 4-4-4-4", times["loop"], times["broadcast"], 30.0, "× faster", True)]
