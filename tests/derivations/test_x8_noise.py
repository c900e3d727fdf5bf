"""X8: the derived risk against samples, quadrature over noise and the package."""

from __future__ import annotations

import numpy as np
import pytest

from derivations import x8_noise
from derivations._core import DerivationError
from linnat import LinearNetwork, Task, noise
from tests import tolerances
from tests.derivations._oracles import mutant

pytestmark = pytest.mark.statement("X8")
DERIVED = x8_noise.functions()
SAMPLES = 20_000


def fits(seed: int, count: int, teacher: np.ndarray, biases: bool) -> np.ndarray:
    """Return the whitened squared errors of least squares, white inputs of mean 1 with biases, 0 without."""
    rng = np.random.default_rng(seed)
    m, n = teacher.shape
    x = rng.standard_normal((SAMPLES, count, n)) + biases
    y = x @ teacher.T + rng.standard_normal((SAMPLES, count, m))
    rows = np.concatenate([x, np.ones((SAMPLES, count, 1))], axis=-1) if biases else x
    fitted = (np.linalg.pinv(rows) @ y).mT
    error = fitted - (np.column_stack([teacher, np.zeros(m)]) if biases else teacher)
    if not biases:
        return np.asarray((error**2).sum(axis=(1, 2)))
    shift = error[..., :-1].sum(axis=-1) + error[..., -1]
    return np.asarray((error[..., :-1] ** 2).sum(axis=(1, 2)) + (shift**2).sum(axis=-1))


@pytest.mark.parametrize(("n", "m", "count"), [(1, 1, 6), (3, 2, 9)])
@pytest.mark.parametrize("biases", [False, True])
def test_the_variance_by_samples(n: int, m: int, count: int, biases: bool) -> None:
    errors = fits(n, count, np.ones((m, n)), biases)
    wanted = DERIVED["affine_variance" if biases else "variance"](n, m, count)
    assert abs(errors.mean() - wanted) <= errors.std() * tolerances.monte_carlo(SAMPLES)
    found = noise.variance(count, n, m, biases=biases)
    tolerances.assert_close(found, wanted, tolerances.product(np.float64, 16))


def test_a_given_design_by_every_monomial() -> None:
    rng = np.random.default_rng(1)
    x, error = rng.integers(-3, 4, (4, 2)), np.array([[2.0, -1.0]])
    net, task = LinearNetwork([np.zeros((1, 2))]), Task(error)
    parts = noise.conditional_parts(x, net, task)
    for time in (0.0, 0.4, 2.0):
        wanted = DERIVED["fixed_design"](x.tolist(), error.tolist(), time)
        bound = tolerances.solve(np.float64, 16, np.linalg.cond(x) ** 2)
        tolerances.assert_close(noise.risk(time, parts)[0], wanted, bound)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (3.0, 0.2), (0.01, 5.0)])
def test_the_package_agrees_on_risk_and_stopping(a: float, b: float) -> None:
    parts, times = noise.Parts(a, b), np.array([0.0, 0.1, 1.0, 10.0])
    bound = tolerances.product(np.float64, 8)
    tolerances.assert_close(noise.risk(times, parts), DERIVED["risk"](times, a, b), bound)
    tolerances.assert_close(noise.stopping_time(parts), DERIVED["stopping_time"](a, b), bound)
    tolerances.assert_close(noise.stopped_risk(parts), DERIVED["stopped_risk"](a, b), bound)
    time = DERIVED["stopping_time"](a, b)
    for other in (0.9 * time, 1.1 * time):
        assert DERIVED["risk"](other, a, b) > DERIVED["stopped_risk"](a, b)


@pytest.mark.parametrize("name", ["risk", "variance", "affine_variance"])
def test_a_wrong_risk_is_not_derived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x8_noise, name, mutant(2)(getattr(x8_noise, name)))
    with pytest.raises(DerivationError):
        x8_noise.derive()
