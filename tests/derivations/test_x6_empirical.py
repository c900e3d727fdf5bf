"""X6: the derived matrix and modes against samples, quadrature, integrators and the package."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from derivations import x6_empirical
from derivations._core import DerivationError
from linnat import LinearNetwork, Task
from linnat.exact import empirical
from tests import tolerances
from tests.derivations._oracles import mutant

pytestmark = pytest.mark.statement("X6")
DERIVED = x6_empirical.functions()


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    root, other = rng.standard_normal((2, 2)), rng.standard_normal((3, 3))
    return root @ root.T, rng.standard_normal((3, 2)), other @ other.T


def test_the_matrix_is_that_of_samples_and_of_the_package() -> None:
    cov, error, noise = problem(0)
    claimed = DERIVED["matrix"](cov, error, noise)
    rng, count = np.random.default_rng(1), 200_000
    x = rng.standard_normal((count, 2)) @ np.linalg.cholesky(cov).T
    e = x @ error.T + rng.standard_normal((count, 3)) @ np.linalg.cholesky(noise).T
    products = np.einsum("na,nb->nab", x, e).reshape(count, 6)
    sampled = products.T @ products / count
    spread = np.sqrt(((products**2).T @ products**2) / count)
    assert (np.abs(sampled - claimed) <= tolerances.monte_carlo(count) * spread).all()
    # One layer, model noise 1: the matrix itself.
    net, task = LinearNetwork([np.zeros((3, 2))]), Task(error, cov)
    found = empirical.fisher(net, task, noise)
    tolerances.assert_close(found, claimed, tolerances.backward(np.float64, 6))


def test_modes_follow_the_rates() -> None:
    modes, noise = np.array([0.1, 1.0, 5.0]), 0.7
    run = solve_ivp(
        lambda _, d: DERIVED["rates"](d, noise), (0, 6.0), modes, "DOP853", rtol=1e-11, atol=1e-13
    )
    tolerances.assert_close(empirical.mode_flow(6.0, modes, noise)[0], run.y[:, -1], 1e-9)
    found = -modes * empirical.mode_rates(modes, noise)
    tolerances.assert_close(found, DERIVED["rates"](modes, noise), tolerances.product(np.float64, 4))
    one = DERIVED["one_output"](2.0, 4.0, noise)
    assert float(empirical.mode_flow(2.0, [2.0], noise)[0, 0]) ** 2 == pytest.approx(one, rel=1e-13)


@pytest.mark.parametrize("name", ["moment", "velocity"])
def test_a_wrong_formula_is_not_derived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x6_empirical, name, mutant(2)(getattr(x6_empirical, name)))
    with pytest.raises(DerivationError):
        x6_empirical.derive()
