"""S1: the derived spectrum against dense Fisher matrices of balanced networks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import linnat
from derivations import s1_spectrum
from derivations._core import DerivationError
from linnat import LinearNetwork, Task
from linnat.dense.fisher import score_covariance
from tests import tolerances
from tests.derivations._oracles import jacobian, mutant, network

pytestmark = pytest.mark.statement("S1")
DERIVED = s1_spectrum.functions()

CASES = [
    ([3, 3, 3], [2.0, 1.0, 0.5]),
    ([4, 3, 3, 2], [1.5, 0.7]),
    ([2, 5, 5, 3], [3.0, 0.2]),
    ([3, 3, 3, 3, 3], [2.0, 2.0, 0.0]),
    ([2, 3], [1.0, 0.4]),
]


def balanced(widths: list[int], singular: list[float], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    bases = [np.linalg.qr(rng.standard_normal((n, n)))[0][:, : len(singular)] for n in widths]
    root = np.diag(np.array(singular) ** (1 / (len(widths) - 1)))
    return [b @ root @ a.T for a, b in itertools.pairwise(bases)]


@pytest.mark.parametrize(("widths", "singular"), CASES)
def test_the_spectrum_is_that_of_the_dense_fisher_matrix(widths: list[int], singular: list[float]) -> None:
    j = jacobian(balanced(widths, singular))
    derived = np.sort(
        DERIVED["balanced_spectrum"](np.array(singular), widths[0], widths[-1], len(widths) - 1).ravel()
    )
    found = np.linalg.eigvalsh(j @ j.T)
    bound = tolerances.spectrum(np.float64, len(found)) * derived[-1]
    assert np.abs(found - derived).max() <= bound
    both = np.linalg.eigvalsh(j.T @ j)[-len(found) :]
    count = int(np.sum(derived > 1e-8))
    assert np.abs(np.sort(both)[-count:] - derived[-count:]).max() <= bound


@pytest.mark.parametrize(("widths", "singular"), CASES)
def test_the_condition_number_is_that_of_the_non_zero_part(widths: list[int], singular: list[float]) -> None:
    s = np.linalg.svd(jacobian(balanced(widths, singular)), compute_uv=False)
    kept = s[s > 1e-8 * s[0]] ** 2
    derived = DERIVED["condition_number"](np.array(singular), widths[0], widths[-1], len(widths) - 1)
    assert abs(kept[0] / kept[-1] / derived - 1) <= tolerances.spectrum(np.float64, len(s), derived)


def test_unbalanced_layers_have_another_spectrum() -> None:
    weights = network([3, 3, 3], 1)
    s = np.linalg.svd(weights[1] @ weights[0], compute_uv=False)
    derived = np.sort(DERIVED["balanced_spectrum"](s, 3, 3, 2).ravel())
    j = jacobian(weights)
    assert np.abs(np.linalg.eigvalsh(j @ j.T) - derived).max() > 1e-3 * derived[-1]


@pytest.mark.parametrize(("widths", "singular"), CASES)
def test_exact_agrees(widths: list[int], singular: list[float]) -> None:
    depth = len(widths) - 1
    derived = np.sort(DERIVED["balanced_spectrum"](np.array(singular), widths[0], widths[-1], depth).ravel())
    exact = np.sort(np.ravel(linnat.balanced_spectrum(np.array(singular), depth, widths[0], widths[-1])))
    tolerances.assert_close(exact, derived, tolerances.product(np.float64, depth))


@pytest.mark.parametrize("name", ["eigenvalue", "quotient"])
def test_a_wrong_formula_is_not_derived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s1_spectrum, name, mutant(2)(getattr(s1_spectrum, name)))
    with pytest.raises(DerivationError):
        s1_spectrum.derive()


@pytest.mark.parametrize(("widths", "singular"), CASES)
def test_dense_agrees(widths: list[int], singular: list[float]) -> None:
    derived = np.sort(
        DERIVED["balanced_spectrum"](np.array(singular), widths[0], widths[-1], len(widths) - 1).ravel()
    )
    teacher = np.zeros((widths[-1], widths[0]))
    found = np.linalg.eigvalsh(score_covariance(LinearNetwork(balanced(widths, singular)), Task(teacher)))
    kept = np.count_nonzero(derived > 1e-8)
    bound = tolerances.spectrum(np.float64, len(found)) * derived[-1]
    assert np.abs(found[-kept:] - derived[-kept:]).max() <= bound
