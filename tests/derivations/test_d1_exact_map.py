"""D1: the derived map against steps of the layers."""

from __future__ import annotations

import numpy as np
import pytest

from derivations import d1_exact_map
from derivations._core import DerivationError
from linnat import LinearNetwork, Task
from linnat.dense.flow import steps
from linnat.dense.natural import natural_gradient
from linnat.exact import descent
from tests import tolerances
from tests.derivations._oracles import layerwise, mutant, network, positive_ratio, shortest, total

pytestmark = pytest.mark.statement("D1")
DERIVED = d1_exact_map.functions()


@pytest.mark.parametrize(
    ("size", "depth", "eta"), [(1, 3, 0.5), (3, 1, 0.7), (3, 2, 1.0), (4, 4, 0.3), (2, 6, 1.5)]
)
def test_the_product_of_stepped_layers(size: int, depth: int, eta: float) -> None:
    weights = network([size] * (depth + 1), depth)
    teacher = positive_ratio(weights, 8)
    stepped = total([w + eta * v for w, v in zip(weights, layerwise(weights, teacher), strict=True)])
    derived = DERIVED["total_step"](total(weights), teacher, eta, depth)
    condition = float(np.prod([np.linalg.cond(w) for w in weights]))
    tolerances.assert_close(derived, stepped, tolerances.solve(np.float64, size * depth, condition))


def test_eigenvalues_follow_the_scalar_map() -> None:
    weights = network([4] * 4, 2)
    teacher, eta = positive_ratio(weights, 3), 0.6
    stepped = total([w + eta * v for w, v in zip(weights, layerwise(weights, teacher), strict=True)])
    before = np.linalg.eigvals(np.linalg.solve(total(weights), teacher))
    after = np.linalg.eigvals(np.linalg.solve(stepped, teacher))
    condition = np.linalg.cond(total(weights)) * np.linalg.cond(stepped)
    derived = DERIVED["scalar_map"](before, eta, 3)
    bound = tolerances.solve(np.float64, 12, condition)
    assert max(np.abs(derived - value).min() for value in after) <= bound * np.abs(derived).max()


def test_the_minimum_norm_step_has_another_map() -> None:
    weights = network([3, 3, 3], 2)
    teacher = positive_ratio(weights, 3)
    stepped = total([w + 0.5 * v for w, v in zip(weights, shortest(weights, teacher), strict=True)])
    assert np.linalg.norm(stepped - DERIVED["total_step"](total(weights), teacher, 0.5, 2)) > 1e-2


@pytest.mark.parametrize("name", ["bracket", "scalar_map"])
def test_a_wrong_map_is_not_derived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(d1_exact_map, name, mutant(2)(getattr(d1_exact_map, name)))
    with pytest.raises(DerivationError):
        d1_exact_map.derive()


def test_exact_and_dense_agree_for_any_covariances() -> None:
    weights, eta = network([3] * 4, 2), 0.6
    teacher = positive_ratio(weights, 3)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 6))
    net, task = LinearNetwork(weights), Task(teacher, a @ a.T / 6, b @ b.T / 6)
    derived = DERIVED["total_step"](total(weights), teacher, eta, 3)
    condition = float(np.prod([np.linalg.cond(w) for w in weights])) ** 2
    bound = tolerances.solve(np.float64, 9, condition)
    tolerances.assert_close(descent.natural_total_step(net, task, eta), derived, bound)
    tolerances.assert_close(descent.natural_step(net, task, eta).total, derived, bound)
    dense = steps(net, lambda state: natural_gradient(state, task), eta, 1)[1]
    tolerances.assert_close(total(dense.weights), derived, 1e-6)
    g = np.array([0.1, 1.0, 5.0, 100.0])
    tolerances.assert_close(descent.scalar_map(g, eta, 3), DERIVED["scalar_map"](g, eta, 3), 1e-14)
