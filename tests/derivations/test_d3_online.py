"""D3: the derived laws against samples, exact quadrature and the package."""

from __future__ import annotations

import numpy as np
import pytest

from derivations import _gaussian, _online_depth, d3_online
from derivations._core import DerivationError
from linnat import LinearNetwork, Task, online
from tests import tolerances
from tests.derivations._oracles import mutant

pytestmark = pytest.mark.statement("D3")
DERIVED = d3_online.functions()
SAMPLES = 40_000


def draw(seed: int, error: np.ndarray, batch: int, samples: int = SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and residuals of minibatches in whitened coordinates."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((samples, batch, error.shape[1]))
    return z, z @ error.T + rng.standard_normal((samples, batch, len(error)))


def assert_mean(losses: np.ndarray, wanted: float) -> None:
    assert abs(losses.mean() - wanted) <= losses.std() * tolerances.monte_carlo(len(losses))


@pytest.mark.parametrize(("n", "m", "batch"), [(1, 1, 1), (3, 2, 4)])
def test_the_law_by_samples(n: int, m: int, batch: int) -> None:
    error = np.random.default_rng(n).standard_normal((m, n))
    z, residual = draw(n, error, batch)
    moved = error - 0.4 * residual.mT @ z / batch
    losses = 0.5 * (moved**2).sum(axis=(1, 2))
    law = DERIVED["law"](batch, n, m)
    wanted = DERIVED["losses"]([0.4], 0.5 * np.sum(error**2), law)[0]
    assert_mean(losses, wanted)
    first, second, noise = law
    wrong = DERIVED["losses"]([0.4], 0.5 * np.sum(error**2), (first, second, 2 * noise))[0]
    assert abs(losses.mean() - wrong) > losses.std() * tolerances.monte_carlo(SAMPLES)


@pytest.mark.parametrize("batch", [1, 9])
def test_the_metric_of_the_same_minibatch_by_samples(batch: int) -> None:
    error = np.array([[1.0, -2.0, 0.5, 0.2]])
    z, residual = draw(batch, error, batch)
    moved = error - 0.6 * (np.linalg.pinv(z) @ residual).mT
    law = DERIVED["minibatch"](batch, 4, 1)
    assert_mean(0.5 * (moved**2).sum(axis=(1, 2)), DERIVED["losses"]([0.6], 0.5 * np.sum(error**2), law)[0])


def test_the_metric_of_other_inputs_by_samples() -> None:
    error = np.array([[1.0, -2.0]])
    z, residual = draw(3, error, 4)
    other = np.random.default_rng(4).standard_normal((SAMPLES, 13, 2))
    step = np.linalg.solve(other.mT @ other / 13, z.mT @ residual / 4).mT
    law = DERIVED["independent"](4, 2, 1, 13)
    losses = 0.5 * ((error - 0.3 * step) ** 2).sum(axis=(1, 2))
    assert_mean(losses, DERIVED["losses"]([0.3], 0.5 * np.sum(error**2), law)[0])


def test_plain_gradients_by_samples() -> None:
    error, rates = np.array([[1.0, -2.0]]), np.array([2.0, 0.3])
    z, residual = draw(5, error, 3)
    moved = error - 0.2 * rates * (residual.mT @ z / 3)
    outer = moved[:, 0, :, None] * moved[:, 0, None, :]
    wanted = DERIVED["plain"](error.T @ error, 0.2, 3, rates)
    assert (np.abs(outer.mean(axis=0) - wanted) <= outer.std(axis=0) * tolerances.monte_carlo(SAMPLES)).all()


def test_inverse_wishart_moments_by_samples() -> None:
    z = np.random.default_rng(6).standard_normal((SAMPLES, 14, 3))
    inverse = np.linalg.solve(z.mT @ z, np.eye(3))
    for values, wanted in (
        (inverse, _gaussian.wishart_mean(3, 14)),
        (inverse @ inverse, _gaussian.wishart_second(3, 14)),
    ):
        bound = values.std(axis=0) * tolerances.monte_carlo(SAMPLES)
        assert (np.abs(values.mean(axis=0) - float(wanted) * np.eye(3)) <= bound).all()


@pytest.mark.parametrize(("n", "m", "batch"), [(1, 1, 1), (3, 2, 4), (7, 1, 2)])
def test_the_package_agrees_on_laws(n: int, m: int, batch: int) -> None:
    bound = tolerances.product(np.float64, 16)
    tolerances.assert_close(online.law(batch, n, m), DERIVED["law"](batch, n, m), bound)
    many = online.law(n + 5, n, m, metric="minibatch")
    tolerances.assert_close(many, DERIVED["minibatch"](n + 5, n, m), bound)
    other = online.law(batch, n, m, metric="independent", metric_samples=n + 9)
    tolerances.assert_close(other, DERIVED["independent"](batch, n, m, n + 9), bound)
    etas = [0.3, 0.1, 0.7]
    wanted = DERIVED["losses"](etas, 2.0, DERIVED["law"](batch, n, m))
    tolerances.assert_close(online.online_loss(3, 2.0, etas, batch, n, m), wanted, bound)
    if n > 2:
        few = online.law(1, n, m, metric="minibatch")
        tolerances.assert_close(few, DERIVED["minibatch"](1, n, m), bound)


@pytest.mark.parametrize("shift", [0, 1, 7])
def test_the_package_agrees_on_how_the_start_is_forgotten(shift: int) -> None:
    for n, batch in ((3, 2), (9, 5), (60, 1)):
        found = online.forgetting(online.law(batch, n, 1), float(shift))
        # logarithms of gamma functions of size up to |Γ(i√61)| lose that many units
        tolerances.assert_close(found, DERIVED["forgetting"]((n + 1) / batch, shift), 1e-12)


def test_the_package_agrees_on_plain_gradients() -> None:
    error, rates = np.array([[1.0, -2.0]]), np.array([2.0, 0.3])
    task = Task(error, np.diag(rates))
    whitened = error * np.sqrt(rates)
    wanted = 0.5 * np.trace(DERIVED["plain"](whitened.T @ whitened, 0.2, 3, rates))
    found = online.preconditioned_loss(1, LinearNetwork([np.zeros((1, 2))]), task, 0.2, 3)
    tolerances.assert_close(found[0], wanted, tolerances.product(np.float64, 16))


def test_the_package_agrees_on_deep_networks() -> None:
    rng = np.random.default_rng(7)
    total = np.eye(3) + 0.3 * rng.standard_normal((3, 3))
    target = total + 0.5 * rng.standard_normal((3, 3))
    for depth in (2, 5):
        net = LinearNetwork([total] + [np.eye(3)] * (depth - 1))
        found = online.deep_correction(net, Task(target), 4)
        bound = tolerances.solve(np.float64, 9, np.linalg.cond(total))
        tolerances.assert_close(found, DERIVED["correction"](target, total, depth, 4), bound)
        assert online.tail_law(depth) == pytest.approx(DERIVED["exponent"](depth), rel=1e-15)


@pytest.mark.parametrize("name", ["second", "noise", "step"])
def test_a_wrong_law_is_not_derived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(d3_online, name, mutant(2)(getattr(d3_online, name)))
    with pytest.raises(DerivationError):
        d3_online.derive()


@pytest.mark.parametrize("name", ["inner", "exponent"])
def test_a_wrong_depth_is_not_derived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_online_depth, name, mutant(2)(getattr(_online_depth, name)))
    with pytest.raises(DerivationError):
        _online_depth.deep(d3_online.Derivation("D3", "", ""))
