"""Training steps of a deep autoencoder in float32: against their multiplications, PyTorch, JAX, and each other.

Correctness first: gradients of all libraries against ours in float64, factors of K-FAC against ours. Then ratios within
one run. Inverses and eigenbases are amortised over their default periods: a step that renews them and one that does not
are timed apart. No step computes the loss or norms where they can be left out. What is not installed is skipped.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import _training_jax, _training_torch
from benchmarks._timing import Call, Outcome, Row, block_times, ratio
from benchmarks._training_problem import (
    RATE,
    Problem,
    kronecker_products,
    make_problem,
    squares,
    step_products,
)
from linnat import hardware
from linnat.nonlinear import passes
from linnat.nonlinear.optimisers import Batch, GradientDescent, Preconditioned
from linnat.nonlinear.passes import Workspace
from linnat.nonlinear.preconditioners import Ekfac, Kfac, OnlineNaturalGradient
from linnat.nonlinear.statistics import gather

BATCHES = (100, 1000)
DAMPING = 1e-2
NEVER = 10**9
# A loop of steps is what matters: its threads are awake, and those that other libraries left spinning asleep.
LONG = {"seconds": 0.3, "pause": 0.25, "warm": 0.1}
METHODS: tuple[tuple[str, Any, float], ...] = (
    ("online natural gradient", OnlineNaturalGradient(DAMPING), 1.5),
    # Its dense products alone reach 1.5: no target.
    (
        "online natural gradient, dense inverses",
        OnlineNaturalGradient(DAMPING, strategy="cholesky", period=20),
        float("inf"),
    ),
    ("K-FAC", Kfac(DAMPING), 2.0),
    ("EKFAC", Ekfac(DAMPING), 3.0),
)
RIVALS: dict[str, tuple[tuple[str, ...], Callable[[Problem], Any]]] = {
    "PyTorch": (("torch",), lambda p: _training_torch.step(p, False)),
    "PyTorch, compiled": (("torch",), lambda p: _training_torch.step(p, True)),
    "JAX, jitted": (("jax",), _training_jax.step),
}
FACTORS: tuple[Any, ...] = (_training_torch.Curvlinops, _training_torch.Nngeometry)


def run() -> Outcome:
    """Return what is right, and then how long it takes."""
    threads, lines, rows = _threads(), [], []
    for count in BATCHES:
        problem = make_problem(count)
        steps, told = _steps(problem)
        lines += told
        times = block_times(steps, blocks=11, **LONG)
        rows += _step_rows(times, count)
        lines.append(_milliseconds(f"batch {count}", times))
    large = make_problem(BATCHES[-1])
    for part in (_preconditioned, _factors):
        told, found = part(large)
        lines += told
        rows += found
    head = f"  Widths {'-'.join(map(str, large.net.widths))}, rows of {large.source}, {threads} threads."
    return Outcome(rows, "\n".join([head, *lines]))


def _threads() -> int:
    """Give PyTorch as many threads as NumPy's BLAS has; JAX takes as many as the process has processors."""
    count = hardware.libraries()[0].threads or int(hardware.processor()["cores"])
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(count)
    return count


def _missing(packages: tuple[str, ...]) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


def _milliseconds(name: str, times: dict[str, np.ndarray]) -> str:
    return f"  {name}, ms: " + ", ".join(f"{k} {1e3 * np.median(v):.4g}" for k, v in times.items())


def _steps(problem: Problem) -> tuple[dict[str, Call], list[str]]:
    """Return the steps to be timed, after their gradients were held against ours in float64."""
    net, theta = problem.net, problem.theta
    exact = passes.gradient(net, theta.astype(float), problem.x.astype(float), problem.x.astype(float))[1]
    calls: dict[str, Call] = {
        "products": step_products(problem),
        "SGD": cycle(GradientDescent(RATE, with_loss=False, with_norms=False), problem),
    }
    found = {"linnat": passes.gradient(net, theta, problem.x, problem.x)[1]}
    told = []
    for name, (packages, make) in RIVALS.items():
        if _missing(packages):
            told.append(f"  {name}: not installed")
            continue
        calls[name], gradient = make(problem)
        found[name] = gradient()
    errors = {k: np.linalg.norm(g - exact) / np.linalg.norm(exact) for k, g in found.items()}
    told.append(
        f"  error of the gradient, batch {len(problem.x)}: "
        + ", ".join(f"{k} {v:.0e}" for k, v in errors.items())
    )
    return calls, told


def _step_rows(times: dict[str, np.ndarray], count: int) -> list[Row]:
    target = 1.2 if count == BATCHES[-1] else float("inf")
    rows = [ratio(f"SGD step, batch {count}", times["SGD"], times["products"], target, "× its products")]
    for name in RIVALS:
        if name in times:
            rows.append(
                ratio(f"SGD step, batch {count}", times["SGD"], times[name], 1.0, f"× that of {name}")
            )
    return rows


def cycle(method: Any, problem: Problem) -> Call:
    """Return a function that makes one update after another."""
    holder, rng = [method.init(problem.net, problem.theta)], np.random.default_rng(0)
    batch = Batch(problem.x, problem.x)

    def call() -> None:
        holder[0] = method.step(holder[0], batch, rng)[0]

    return call


def _preconditioned(problem: Problem) -> tuple[list[str], list[Row]]:
    """Return times of preconditioned steps over those of SGD, and of the products that the methods cannot avoid."""
    calls: dict[str, Call] = {
        "SGD": cycle(GradientDescent(RATE, with_loss=False, with_norms=False), problem),
        "products of a step": step_products(problem),
        "products with two factors": kronecker_products(problem),
    }
    for name, method, _ in METHODS:
        for period, label in ((NEVER, name), (1, f"{name}, renewed")):
            variant = dataclasses.replace(method, period=period, early=False)
            calls[label] = cycle(Preconditioned(variant, 1e-6, with_loss=False), problem)
    times = block_times(calls, blocks=7, **LONG)
    plain, rows, floors = times["SGD"], [], []
    for name, method, target in METHODS:
        usual = times[name]
        amortised = usual + (times[f"{name}, renewed"] - usual) / method.period
        title = f"{name}, period {method.period}"
        rows.append(ratio(title, amortised, plain, target, "× SGD step"))
        if getattr(method, "cutoff", 0.0) == 0.0:
            twice = 2 if isinstance(method, Ekfac) else 1
            floor = np.median((plain + twice * times["products with two factors"]) / plain)
            floors.append(f"{name} {floor:.2f}")
    told = [
        _milliseconds(f"batch {len(problem.x)}", times),
        "  SGD step and the products with dense factors alone, × SGD step: " + ", ".join(floors),
    ]
    return told, rows


def _factors(problem: Problem) -> tuple[list[str], list[Row]]:
    """Return times of K-FAC's factors, and of inverses and a direction, over those of other libraries."""
    method, work = Kfac(DAMPING), Workspace(problem.net, len(problem.x), np.float32)
    state = [method.init(problem.net, np.float32)]
    vector = problem.theta.copy()
    lazy = dataclasses.replace(method, period=NEVER, decay=0.0, early=False)
    state[0] = lazy.update(state[0], _statistics(problem, work))[0]

    def factors() -> None:
        state[0] = lazy.update(state[0], _statistics(problem, work))[0]

    def direction() -> None:
        state[0] = method.refreshed(state[0])
        method.apply(state[0], vector, out=out)

    out = np.empty_like(vector)
    calls: dict[str, Call] = {"factors": factors, "direction": direction, "squares": squares(problem)}
    told, names = [], []
    for kind in FACTORS:
        if _missing(kind.packages):
            told.append(f"  {kind.name}: not installed")
            continue
        rival = kind(problem, DAMPING)
        rival.factors()
        ours = zip(state[0].factors.inputs, state[0].factors.outputs, strict=True)
        errors = [
            max(np.linalg.norm(a - c) / np.linalg.norm(a), np.linalg.norm(g - d) / np.linalg.norm(g))
            for (a, g), (c, d) in zip(ours, rival.arrays(), strict=True)
        ]
        told.append(f"  factors of {kind.name} against ours: {max(errors):.0e}")
        names.append(kind.name)
        calls[f"factors, {kind.name}"], calls[f"direction, {kind.name}"] = rival.factors, rival.direction
    times = block_times(calls, blocks=7, **LONG)
    rows = [
        ratio(f"K-FAC, {what}", times[key], times[f"{key}, {name}"], 1.0, f"× {name}")
        for name in names
        for key, what in (("factors", "factors of a minibatch"), ("direction", "inverses and a direction"))
    ]
    told.append(_milliseconds(f"K-FAC, batch {len(problem.x)}", times))
    return told, rows


def _statistics(problem: Problem, work: Workspace) -> Any:
    passes.forward(problem.net, problem.theta, problem.x, work)
    return gather(problem.net, problem.theta, work, problem.x)
