"""X5: the derived step against the total weight it must produce, and the flow it interpolates."""

from __future__ import annotations

import numpy as np
import pytest

from derivations import c2_layers, x5_exact_step
from derivations._core import DerivationError
from linnat import ConditionError, LinearNetwork, Task
from linnat.dense.flow import natural_flow
from linnat.exact import descent
from tests import tolerances
from tests.derivations._oracles import integrate, layerwise, mutant, network, positive_ratio, total

pytestmark = pytest.mark.statement("X5")
DERIVED = x5_exact_step.functions()


@pytest.mark.parametrize(("size", "depth"), [(1, 2), (3, 1), (3, 2), (4, 5)])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_the_total_weight_moves_exactly_along_its_error(size: int, depth: int, eta: float) -> None:
    weights = network([size] * (depth + 1), 2 * depth)
    teacher = positive_ratio(weights, 9)
    start = total(weights)
    condition = float(np.prod([np.linalg.cond(w) for w in weights])) ** 2
    bound = tolerances.solve(np.float64, size * depth, condition)
    tolerances.assert_close(
        total(DERIVED["exact_step"](weights, teacher, eta)), start + eta * (teacher - start), bound
    )


def test_it_is_the_layerwise_flow_for_another_time() -> None:
    weights = network([3, 3, 3, 3], 4)
    teacher = positive_ratio(weights, 9)
    time = 0.8
    flowed = integrate(weights, lambda w: layerwise(w, teacher), [time])[0]
    closed = c2_layers.functions()["natural_weights"](weights, teacher, np.array([time]))
    for step, flow, layer in zip(
        DERIVED["exact_step"](weights, teacher, 1 - np.exp(-time)), flowed, closed, strict=True
    ):
        tolerances.assert_close(step, flow, 1e-8)
        tolerances.assert_close(step, layer[0], 1e-10)


def test_it_exists_up_to_the_edge_alone() -> None:
    weights, teacher = [np.eye(2), np.eye(2)], np.diag([-1.0, 2.0])
    DERIVED["exact_step"](weights, teacher, 0.49)
    with pytest.raises(ValueError, match="principal"):
        DERIVED["exact_step"](weights, teacher, 0.51)


def test_the_plain_step_overshoots_where_this_one_arrives() -> None:
    weights, teacher = [np.array([[0.1]]), np.array([[0.1]])], np.array([[1.0]])
    plain = total([w + v for w, v in zip(weights, layerwise(weights, teacher), strict=True)])
    assert plain[0, 0] > 10
    assert total(DERIVED["exact_step"](weights, teacher, 1.0))[0, 0] == pytest.approx(1.0, rel=1e-14)


def test_a_wrong_radicand_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x5_exact_step, "radicand", mutant(2)(x5_exact_step.radicand))
    with pytest.raises(DerivationError):
        x5_exact_step.derive()


def test_exact_and_dense_agree() -> None:
    weights = network([3, 3, 3], 4)
    teacher = positive_ratio(weights, 9)
    net, task, eta = LinearNetwork(weights), Task(teacher, np.diag([1.0, 3.0, 0.4])), 0.6
    condition = float(np.prod([np.linalg.cond(w) for w in weights])) ** 2
    flowed = natural_flow(net, task, [-np.log(1 - eta)])
    for derived, exact, dense in zip(
        DERIVED["exact_step"](weights, teacher, eta),
        descent.exact_step(net, task, eta).weights,
        flowed,
        strict=True,
    ):
        tolerances.assert_close(exact, derived, tolerances.solve(np.float64, 6, condition))
        tolerances.assert_close(dense[0], derived, 1e-7)
    with pytest.raises(ConditionError, match="X5"):
        descent.exact_step(LinearNetwork([np.eye(2)] * 2), Task(np.diag([-1.0, 2.0])), 0.51)
