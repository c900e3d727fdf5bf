"""C4: the derived drift against finite differences and integrated flows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from derivations import c4_balance
from derivations._core import DerivationError
from linnat import LinearNetwork, Task
from linnat.dense.flow import gradient_flow, natural_flow
from linnat.exact import flow
from tests import tolerances
from tests.derivations._oracles import (
    gradient,
    integrate,
    jacobian,
    layerwise,
    mutant,
    network,
    shortest,
    split,
)

pytestmark = pytest.mark.statement("C4")
DERIVED = c4_balance.functions()
WIDTHS = [3, 4, 3, 2]


def fractional(weights: list[np.ndarray], teacher: np.ndarray) -> list[np.ndarray]:
    """Return F^{−½}(−∇ℓ) by an eigendecomposition of F."""
    j = jacobian(weights)
    values, vectors = np.linalg.eigh(j.T @ j)
    kept = values > 1e-10 * values[-1]
    slope = np.concatenate([part.ravel() for part in gradient(weights, teacher)])
    vector = vectors[:, kept] @ ((vectors[:, kept].T @ slope) / np.sqrt(values[kept]))
    return split(vector, [weight.shape for weight in weights])


def test_the_drift_is_the_derivative_of_the_balance() -> None:
    weights, velocity, h = network(WIDTHS, 1), network(WIDTHS, 2), 1e-5
    ahead = DERIVED["balance"]([w + h * v for w, v in zip(weights, velocity, strict=True)])
    back = DERIVED["balance"]([w - h * v for w, v in zip(weights, velocity, strict=True)])
    for a, b, derived in zip(ahead, back, DERIVED["balance_drift"](weights, velocity), strict=True):
        # The balance is quadratic: a central difference has rounding errors alone.
        assert np.abs((a - b) / (2 * h) - derived).max() <= tolerances.difference(4, h) * 10


@pytest.mark.parametrize("rule", [gradient, shortest, fractional])
def test_velocities_in_the_range_conserve_it(rule: object) -> None:
    weights, teacher = network(WIDTHS, 3), 0.5 * np.ones((2, 3))
    start = DERIVED["balance"](weights)
    end = DERIVED["balance"](integrate(weights, lambda w: rule(w, teacher), [0.6])[0])  # type: ignore[operator]
    for a, b in zip(start, end, strict=True):
        tolerances.assert_close(b, a, 1e-8)


def test_the_layerwise_gauge_does_not_and_takes_a_longer_step() -> None:
    weights, teacher = network(WIDTHS, 3), 0.5 * np.ones((2, 3))
    own, least = layerwise(weights, teacher), shortest(weights, teacher)
    change = [jacobian(weights) @ np.concatenate([part.ravel() for part in step]) for step in (own, least)]
    condition = np.linalg.cond(jacobian(weights)) ** 2
    tolerances.assert_close(change[0], change[1], tolerances.solve(np.float64, change[0].size, condition))
    assert sum(np.sum(part**2) for part in own) > 1.01 * sum(np.sum(part**2) for part in least)
    assert max(np.abs(drift).max() for drift in DERIVED["balance_drift"](weights, own)) > 0.01


def test_balanced_aligned_white_steps_agree() -> None:
    rng = np.random.default_rng(4)
    u = [np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(4)]
    weights = [b @ np.diag([1.5, 1.0, 0.6]) @ a.T for a, b in itertools.pairwise(u)]
    teacher = u[3] @ np.diag([2.0, -1.0, 0.5]) @ u[0].T
    for own, least in zip(layerwise(weights, teacher), shortest(weights, teacher), strict=True):
        tolerances.assert_close(own, least, tolerances.solve(np.float64, 27, 1e3))


def test_a_wrong_drift_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c4_balance, "drift", mutant(-1)(c4_balance.drift))
    with pytest.raises(DerivationError):
        c4_balance.derive()


def test_exact_and_dense_agree() -> None:
    weights, teacher = network(WIDTHS, 3), 0.5 * np.ones((2, 3))
    net, task = (
        LinearNetwork(weights),
        Task(teacher, np.diag([1.0, 2.0, 0.5]), np.array([[2.0, 0.5], [0.5, 1.0]])),
    )
    start = DERIVED["balance"](weights)
    for exact, derived in zip(flow.balance(net), start, strict=True):
        tolerances.assert_close(exact, derived, tolerances.product(np.float64, 8, 10.0))
    flows = [gradient_flow(net, task, [0.5]), natural_flow(net, task, [0.5], "minimum-norm")]
    for layers in flows:
        for a, b in zip(DERIVED["balance"]([layer[0] for layer in layers]), start, strict=True):
            tolerances.assert_close(a, b, 1e-7)
    layers = natural_flow(net, task, [0.5])
    moved = DERIVED["balance"]([layer[0] for layer in layers])
    assert max(np.abs(a - b).max() for a, b in zip(moved, start, strict=True)) > 1e-2
