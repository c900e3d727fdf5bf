"""Do the floors count the products that are made, and do the rivals of a training step compute the same?"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from benchmarks import _training_jax, _training_torch, training_steps
from benchmarks._training_problem import Problem, kronecker_products, make_problem, squares, step_products
from linnat.nonlinear import _pieces, passes
from linnat.nonlinear.optimisers import GradientDescent
from linnat.nonlinear.preconditioners import Kfac
from tests import tolerances

SMALL = (12, 20, 7, 20, 12)
UNITS = ("logistic", "identity", "logistic", "identity")
MATMUL, ADD = np.matmul, _pieces.add_product


@pytest.fixture
def problem() -> Problem:
    return make_problem(40, SMALL, UNITS)


def products(monkeypatch: pytest.MonkeyPatch, call: Any) -> Counter[tuple[int, ...]]:
    """Return the sizes of the products that a call makes by `numpy.matmul`, or adds to something."""
    seen: Counter[tuple[int, ...]] = Counter()

    def recorded(a: Any, b: Any, **options: Any) -> Any:
        assert "out" in options
        seen[(a.shape[0], a.shape[1], b.shape[1])] += 1
        return MATMUL(a, b, **options)

    def added(left: Any, right: Any, out: Any, *factors: float) -> None:
        seen[(left.shape[1], left.shape[0], right.shape[1])] += 1
        ADD(left, right, out, *factors)

    monkeypatch.setattr(np, "matmul", recorded)
    monkeypatch.setattr(_pieces, "add_product", added)
    call()
    monkeypatch.undo()
    return seen


def test_floors_are_the_products_of_a_step(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    step = training_steps.cycle(GradientDescent(1e-4, with_loss=False, with_norms=False), problem)
    made = products(monkeypatch, step)
    assert made == products(monkeypatch, step_products(problem))
    assert sum(made.values()) == 3 * len(UNITS) - 1


def test_and_of_factors_and_their_inverses(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    net, method = problem.net, Kfac()
    work = passes.Workspace(net, len(problem.x), np.float32)
    batch = training_steps._statistics(problem, work)
    state, _ = method.update(method.init(net, np.float32), batch)
    made = products(monkeypatch, lambda: method.apply(state, problem.theta))
    assert made == products(monkeypatch, kronecker_products(problem))
    made = products(monkeypatch, lambda: method.update(state, batch))
    assert made == products(monkeypatch, squares(problem))


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("torch", lambda p: _training_torch.step(p, False)),
        ("jax", _training_jax.step),
    ],
)
def test_rivals_take_the_same_step(package: str, make: Any, problem: Problem) -> None:
    pytest.importorskip(package)
    exact = passes.gradient(problem.net, *(a.astype(float) for a in (problem.theta, problem.x, problem.x)))[1]
    call, gradient = make(problem)
    found = gradient()
    call()  # a step has no effect on what the gradient is compared with
    size = tolerances.product(np.float32, 40) * np.abs(exact).max()
    assert np.abs(found - exact).max() <= size
    assert np.abs(found - 1.01 * exact).max() > size


@pytest.mark.parametrize("kind", training_steps.FACTORS, ids=lambda k: k.name)
def test_rivals_have_the_same_factors(kind: Any, problem: Problem) -> None:
    for package in kind.packages:
        pytest.importorskip(package)
    method = Kfac()
    work = passes.Workspace(problem.net, len(problem.x), np.float32)
    batch = training_steps._statistics(problem, work)
    state, _ = method.update(method.init(problem.net, np.float32), batch)
    rival = kind(problem, 0.1)
    rival.factors()
    ours = zip(state.factors.inputs, state.factors.outputs, strict=True)
    for pair, other in zip(ours, rival.arrays(), strict=True):
        for matrix, found in zip(pair, other, strict=True):
            assert np.abs(matrix - found).max() <= tolerances.product(np.float32, 100) * np.abs(matrix).max()
    rival.direction()
