"""C1: the derived line, loss, time and length against integrated flows in two gauges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.integrate import quad

import linnat
from derivations import c1_total
from derivations._core import DerivationError
from linnat import LinearNetwork, Task
from linnat.dense.flow import natural_flow, total_along
from linnat.exact import flow
from tests import tolerances
from tests.derivations._oracles import integrate, layerwise, mutant, network, positive_ratio, shortest, total

pytestmark = pytest.mark.statement("C1")
DERIVED = c1_total.functions()
TIMES = [0.3, 1.0, 2.0]
# DOP853 at rtol 1e-11: the global error stays within a few hundred local ones on these short paths.
INTEGRATOR = 1e-8


@pytest.mark.parametrize("gauge", [layerwise, shortest])
@pytest.mark.parametrize("widths", [[2, 2, 2], [2, 4, 5, 2], [3, 4, 2]])
def test_every_gauge_runs_along_the_line(gauge: Callable[..., list[np.ndarray]], widths: list[int]) -> None:
    weights = network(widths, 3)
    teacher = positive_ratio(weights, 5) if widths == [2, 2, 2] else 0.4 * np.ones((widths[-1], widths[0]))
    found = [total(layers) for layers in integrate(weights, lambda w: gauge(w, teacher), TIMES)]
    derived = DERIVED["natural_total"](total(weights), teacher, np.array(TIMES))
    tolerances.assert_close(np.array(found), derived, INTEGRATOR)


def test_a_bottleneck_leaves_the_line() -> None:
    weights = network([3, 1, 3], 3)
    teacher = np.eye(3)
    found = total(integrate(weights, lambda w: shortest(w, teacher), [1.0])[0])
    derived = DERIVED["natural_total"](total(weights), teacher, np.array([1.0]))[0]
    assert np.linalg.norm(found - derived) > 0.1


def test_loss_time_and_length_belong_together() -> None:
    start, target = 3.0, 0.01
    time = DERIVED["time_to"](start, target)
    assert abs(DERIVED["excess_loss"](start, time) - target) <= tolerances.product(np.float64, 4) * target
    # Speed √(vᵀFv) = √(2ℓ), integrated numerically.
    length = quad(lambda t: np.sqrt(2 * DERIVED["excess_loss"](start, t)), 0, np.inf, epsrel=1e-11)[0]
    assert abs(length - DERIVED["path_length"](start)) <= 1e-9 * length


def test_a_wrong_rate_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    decay = c1_total.decay
    for wrong in (lambda t: decay(2 * t), mutant(-1)(decay)):
        monkeypatch.setattr(c1_total, "decay", wrong)
        with pytest.raises(DerivationError):
            c1_total.derive()


def coloured(widths: list[int], seed: int) -> tuple[LinearNetwork, Task]:
    """Return a network and a task with full covariances of inputs and noise."""
    rng = np.random.default_rng(seed)
    left, right = (rng.standard_normal((n, 2 * n)) for n in (widths[-1], widths[0]))
    teacher = rng.standard_normal((widths[-1], widths[0]))
    return LinearNetwork(network(widths, seed)), Task(teacher, right @ right.T / 6, left @ left.T / 6)


@pytest.mark.parametrize("gauge", ["layerwise", "minimum-norm"])
def test_exact_and_dense_agree(gauge: str) -> None:
    net, task = coloured([2, 5, 4, 2], 1)
    derived = DERIVED["natural_total"](net.total, task.teacher, np.array(TIMES))
    exact = flow.natural_total(net, task, TIMES, gauge)
    tolerances.assert_close(exact, derived, tolerances.product(np.float64, 8))
    dense = total_along(net, natural_flow(net, task, TIMES, gauge))
    tolerances.assert_close(dense, derived, INTEGRATOR)
    start = float(linnat.excess_loss(net, task))
    assert float(flow.fisher_length(net, task)) == pytest.approx(
        float(DERIVED["path_length"](start)), rel=1e-13
    )
    assert float(flow.time_to(start, 1e-3)) == pytest.approx(
        float(DERIVED["time_to"](start, 1e-3)), rel=1e-13
    )
    losses = flow.natural_loss(net, task, TIMES, gauge)
    tolerances.assert_close(losses, DERIVED["excess_loss"](start, np.array(TIMES)), 1e-12)
