"""Closed-form layer weights (C2) against an adaptive integrator to 1e-8.

The integrator is SciPy's DOP853 on the package's own natural gradient, rtol = atol = 1e-8, with the same
output times.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

import linnat as ln
from benchmarks._timing import Row, block_times, ratio

N, DEPTH, END = 32, 4, 5.0


def run() -> list[Row]:
    """Return the share of the integrator's time at 1,000 and at 20 times."""
    rng = np.random.default_rng(0)
    net = ln.LinearNetwork([np.eye(N) + 0.3 * rng.standard_normal((N, N)) / np.sqrt(N) for _ in range(DEPTH)])
    task = ln.Task(np.eye(N) + 0.3 * rng.standard_normal((N, N)) / np.sqrt(N))
    rows = []
    for count, target in ((1000, 1 / 8), (20, 1 / 30)):
        times = np.linspace(0.0, END, count)
        calls = {
            "closed": lambda: ln.flow.natural_weights(net, task, times),  # noqa: B023
            "integrator": lambda: _integrate(net, task, times),  # noqa: B023
        }
        _check(calls["closed"](), calls["integrator"]())
        measured = block_times(calls, blocks=5)
        rows.append(
            ratio(f"{count} times", measured["closed"], measured["integrator"], target, "of the integrator")
        )
    return rows


def _integrate(net: ln.LinearNetwork, task: ln.Task, times: np.ndarray) -> tuple[np.ndarray, ...]:
    def velocity(_: float, state: np.ndarray) -> np.ndarray:
        return -ln.flatten(ln.natural_gradient(net.replace_layers(ln.unflatten(state, net)), task))

    start = ln.flatten(net.layers)
    run = solve_ivp(velocity, (0.0, END), start, method="DOP853", t_eval=times, rtol=1e-8, atol=1e-8)
    return ln.unflatten(run.y.T, net)


def _check(closed: tuple[np.ndarray, ...], integrated: tuple[np.ndarray, ...]) -> None:
    worst = max(float(np.abs(a - b).max()) for a, b in zip(closed, integrated, strict=True))
    if worst > 1e-5:
        raise RuntimeError(f"the closed form and the integrator differ by {worst:.1e}: nothing is timed")
