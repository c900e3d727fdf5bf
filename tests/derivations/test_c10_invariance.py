"""C10: derived coefficients against the package, steps multiplied out, integrated flows and averages."""

from __future__ import annotations

import numpy as np
import pytest

from derivations import c10_invariance
from derivations._core import DerivationError
from linnat import LinearNetwork, Task, invariance
from tests import tolerances
from tests.derivations._oracles import (
    integrate,
    jacobian,
    layerwise,
    mutant,
    network,
    positive_ratio,
    shortest,
    total,
)

pytestmark = pytest.mark.statement("C10")
DERIVED = c10_invariance.functions()


def square(size: int, depth: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = [
        np.linalg.qr(rng.standard_normal((size, size)))[0] + 0.2 * rng.standard_normal((size, size))
        for _ in range(depth)
    ]
    return weights, positive_ratio(weights, seed)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_one_step_has_the_coefficient_and_the_package_agrees(depth: int) -> None:
    for seed in range(4):
        weights, teacher = square(3, depth, seed)
        start, eta = total(weights), 1e-4
        moved = total([w + eta * v for w, v in zip(weights, layerwise(weights, teacher), strict=True)])
        found = (moved - start - eta * (teacher - start)) / eta**2
        wanted = DERIVED["depth_deviation"](start, teacher, depth, 1)
        # The next order is η (L−1)(L−2)/6L² E(W⁻¹E)²; rounding is eps/η².
        ratio = np.linalg.norm(np.linalg.solve(start, teacher - start), 2)
        np.testing.assert_allclose(
            found, wanted, rtol=0, atol=np.linalg.norm(wanted) * eta * ratio * depth + 1e-6
        )
        package = invariance.depth_deviation(start, teacher, depth)
        condition = np.linalg.cond(start)
        tolerances.assert_close(package, wanted, tolerances.solve(np.float64, 3, condition))
        drift = DERIVED["depth_drift"](start, teacher, 0.7, depth, 2)
        found = invariance.depth_drift(start, teacher, 0.7, depth, 2)[0]
        np.testing.assert_allclose(found, drift, rtol=0, atol=1e-9 * max(1.0, np.linalg.norm(drift)))


def test_many_steps_have_the_accumulated_coefficient() -> None:
    weights, teacher = square(2, 3, 1)
    errors = []
    for eta in (2e-3, 1e-3):
        state, single = weights, [total(weights)]
        for _ in range(round(1.0 / eta)):
            state = [w + eta * v for w, v in zip(state, layerwise(state, teacher), strict=True)]
            single = [w + eta * v for w, v in zip(single, layerwise(single, teacher), strict=True)]
        gap = (total(state) - single[0]) / eta
        errors.append(np.linalg.norm(gap - DERIVED["depth_drift"](total(weights), teacher, 1.0, 3, 1)))
    # What is left is of the next order in η.
    assert errors[1] < 0.55 * errors[0]
    assert errors[1] < 0.05 * np.linalg.norm(DERIVED["depth_drift"](total(weights), teacher, 1.0, 3, 1))


def test_flows_of_depths_and_gauges_are_one() -> None:
    weights, teacher = square(2, 3, 2)
    ends = [
        total(integrate(start, lambda w, field=field: field(w, teacher), [1.3])[0])
        for start in (weights, [total(weights)])
        for field in (layerwise, shortest)
    ]
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], rtol=0, atol=1e-8)


def test_damping_has_the_coefficient() -> None:
    weights = network((3, 4, 2), 0)
    teacher = np.ones((2, 3))
    j, error = jacobian(weights), (teacher - total(weights)).ravel()
    lam = 1e-6 * np.linalg.svd(j, compute_uv=False)[-1] ** 2
    damped = j @ np.linalg.solve(j.T @ j + lam * np.eye(j.shape[1]), j.T @ error)
    wanted = DERIVED["damping_deviation"](weights, teacher)
    # The next order is λ/σ_min² = 1e-6; rounding κ²(J) eps/λ.
    np.testing.assert_allclose(
        ((error - damped) / lam).reshape(2, 3), wanted, rtol=0, atol=1e-3 * np.abs(wanted).max()
    )
    found = invariance.damping_deviation(LinearNetwork(weights), Task(teacher))
    tolerances.assert_close(found, wanted, tolerances.solve(np.float64, 6, np.linalg.cond(j) ** 2))


def test_minibatches_agree_with_the_package_and_with_an_average() -> None:
    rng = np.random.default_rng(3)
    weight, teacher = np.array([[1.0, 0.4], [-0.2, 0.9]]), np.array([[1.5, 0.0], [0.3, 0.6]])
    cov, noise, batch, draws = np.array([[1.0, 0.2], [0.2, 0.5]]), np.diag([0.6, 0.3]), 3, 100_000
    wanted = DERIVED["minibatch_deviation"](weight, teacher, cov, noise, batch, 3, 1)
    package = invariance.minibatch_deviation(weight, Task(teacher, cov, noise), batch, 3)
    tolerances.assert_close(
        package, wanted, tolerances.solve(np.float64, 2, np.linalg.cond(weight) * np.linalg.cond(cov))
    )
    x = rng.standard_normal((draws, batch, 2)) @ np.linalg.cholesky(cov).T
    r = x @ (teacher - weight).T + rng.standard_normal((draws, batch, 2)) * np.sqrt(np.diag(noise))
    moved = np.swapaxes(np.linalg.solve(cov, np.swapaxes(x, 1, 2) @ r / batch), 1, 2)
    samples = (3 - 1) / (2 * 3) * moved @ np.linalg.solve(weight, moved)
    spread = samples.std(axis=0) / np.sqrt(draws)
    assert np.abs((samples.mean(axis=0) - wanted) / spread).max() < 5
    # Negative control: without the part in 1/b.
    plain = DERIVED["depth_deviation"](weight, teacher, 3, 1)
    assert np.abs((samples.mean(axis=0) - plain) / spread).max() > 20


@pytest.mark.parametrize("name", ["pairs_share", "noisy_part"])
def test_wrong_coefficients_are_not_derived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c10_invariance, name, mutant(2)(getattr(c10_invariance, name)))
    with pytest.raises(DerivationError):
        c10_invariance.derive()
