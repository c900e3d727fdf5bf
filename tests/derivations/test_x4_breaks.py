"""X4: the derived expectation and probability against samples."""

from __future__ import annotations

import numpy as np
import pytest

from derivations import x4_breaks
from derivations._core import DerivationError
from linnat.exact import breakdown
from tests import tolerances
from tests.derivations._oracles import mutant

pytestmark = pytest.mark.statement("X4")
DERIVED = x4_breaks.functions()
SAMPLES = 20_000


def counts(size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    starts, targets = rng.standard_normal((2, SAMPLES, size, size))
    return np.asarray(DERIVED["breaks"](starts, targets))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_the_expected_number_of_breaks(size: int) -> None:
    found = counts(size, size)
    deviation = found.std() * tolerances.monte_carlo(SAMPLES)
    assert abs(found.mean() - DERIVED["expected_breaks"](size)) <= deviation
    # The control: the number of real eigenvalues, positive ones included, is another one.
    assert abs(found.mean() - 2 * DERIVED["expected_breaks"](size)) > deviation


@pytest.mark.parametrize("size", [1, 2])
def test_the_exact_probabilities(size: int) -> None:
    probability = DERIVED["probability"](size)
    deviation = np.sqrt(probability * (1 - probability)) * tolerances.monte_carlo(SAMPLES)
    assert abs(np.mean(counts(size, 10 + size) > 0) - probability) <= deviation


def test_breaks_get_more_likely_with_size() -> None:
    # The values that the statement lists, to its two digits and the sampling error.
    deviation = 0.5 * tolerances.monte_carlo(SAMPLES) + 0.005
    for size, listed in ((1, 0.50), (2, 0.64), (3, 0.73), (5, 0.82), (8, 0.89)):
        assert abs(np.mean(counts(size, 20 + size) > 0) - listed) <= deviation


def test_breaks_are_sign_changes_of_the_determinant() -> None:
    rng = np.random.default_rng(3)
    starts, targets = rng.standard_normal((2, 200, 2, 2))
    # det(qW(0) + (1 − q)W*) is a quadratic in q for n = 2: count its roots in (0, 1).
    at = [np.linalg.det(q * starts + (1 - q) * targets) for q in (0.0, 0.5, 1.0)]
    quadratic = np.stack([2 * at[0] - 4 * at[1] + 2 * at[2], -3 * at[0] + 4 * at[1] - at[2], at[0]], axis=1)
    roots = [np.roots(row) for row in quadratic]
    found = [int(np.sum((np.imag(r) == 0) & (np.real(r) > 0) & (np.real(r) < 1))) for r in roots]
    assert np.array_equal(found, DERIVED["breaks"](starts, targets))


def test_a_wrong_expectation_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x4_breaks, "real_eigenvalues", mutant(2)(x4_breaks.real_eigenvalues))
    with pytest.raises(DerivationError):
        x4_breaks.derive()


@pytest.mark.parametrize("size", [1, 2, 3, 10, 40])
def test_exact_agrees(size: int) -> None:
    assert breakdown.expected_breaks(size) == pytest.approx(DERIVED["expected_breaks"](size), rel=1e-12)


@pytest.mark.parametrize("size", [1, 2])
def test_the_probability_of_exact_agrees(size: int) -> None:
    found = breakdown.break_probability(size, samples=SAMPLES, rng=1)
    assert abs(found.probability - DERIVED["probability"](size)) <= 5 * found.error + 1e-12
