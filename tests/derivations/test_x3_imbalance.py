"""X3: the derived bounds against unit perturbations and integrated flows."""

from __future__ import annotations

import numpy as np
import pytest

from derivations import x3_imbalance
from derivations._core import DerivationError
from linnat import LinearNetwork, Task
from linnat.exact import imbalance
from tests import tolerances
from tests.derivations._oracles import integrate, jacobian, layerwise, mutant, network, shortest, total

pytestmark = pytest.mark.statement("X3")
DERIVED = x3_imbalance.functions()


def least(weights: list[np.ndarray]) -> float:
    return float(np.linalg.svd(jacobian(weights), compute_uv=False)[-1] ** 2)


@pytest.mark.parametrize("widths", [(1, 2, 1), (2, 5, 2), (3, 6, 2), (2, 3, 3)])
def test_the_bound_is_below_the_least_eigenvalue(widths: tuple[int, ...]) -> None:
    for seed in range(20):
        weights = network(widths, seed)
        bound = DERIVED["imbalance_bound"](weights)
        assert bound <= least(weights) + tolerances.backward(np.float64, 8) * sum(
            np.sum(w**2) for w in weights
        )
        if widths[1] >= widths[0] + widths[2]:
            assert bound > 0


def test_it_holds_along_the_flow_and_bounds_its_length() -> None:
    weights = network((2, 5, 2), 3)
    teacher = total(weights) @ np.diag([-1.0, 1.5])
    bound, distance = DERIVED["imbalance_bound"](weights), DERIVED["distance_bound"](weights, teacher)
    states = integrate(weights, lambda w: shortest(w, teacher), [0.3, 0.8, 2.0, 6.0])
    signs = {np.sign(np.linalg.det(total(state))) for state in states}
    assert signs == {-1.0, 1.0}
    for state in states:
        assert least(state) >= bound * (1 - 1e-8)
        moved = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(state, weights, strict=True)))
        assert moved <= distance
    error, start = total(states[-1]) - teacher, total(weights) - teacher
    tolerances.assert_close(error, np.exp(-6.0) * start, 1e-6)


def test_the_layerwise_gauge_does_not_keep_it() -> None:
    weights = network((2, 5, 2), 3)
    teacher = total(weights) @ np.diag([0.5, 1.5])
    state = integrate(weights, lambda w: layerwise(w, teacher), [1.0])[0]
    bounds = [DERIVED["imbalance_bound"](w) for w in (weights, state)]
    assert abs(bounds[1] / bounds[0] - 1) > 1e-2


def test_the_package_agrees() -> None:
    for seed in range(10):
        weights = network((2, 5, 2), seed)
        teacher = np.ones((2, 2))
        net = LinearNetwork(weights)
        found = float(imbalance.imbalance_bound(net)), float(imbalance.distance_bound(net, Task(teacher)))
        wanted = DERIVED["imbalance_bound"](weights), DERIVED["distance_bound"](weights, teacher)
        np.testing.assert_allclose(found, wanted, rtol=tolerances.spectrum(np.float64, 5, 1e2))
    balanced = [np.eye(2), np.eye(2)]
    assert DERIVED["distance_bound"](balanced, 2 * np.eye(2)) == np.inf


def test_a_wrong_imbalance_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x3_imbalance, "imbalance", mutant(-1)(x3_imbalance.imbalance))
    with pytest.raises(DerivationError):
        x3_imbalance.derive()
