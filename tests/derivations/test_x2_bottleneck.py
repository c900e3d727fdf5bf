"""X2: the derived velocity, eigenvalues and rank-one path against layers, differences and integrators."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from derivations import x2_bottleneck
from derivations._core import DerivationError
from linnat import Task
from linnat.exact import bottleneck
from tests import tolerances
from tests.derivations._oracles import integrate, jacobian, layerwise, mutant, network, shortest, total

pytestmark = pytest.mark.statement("X2")
DERIVED = x2_bottleneck.functions()


@pytest.mark.parametrize("widths", [(3, 1, 4), (4, 2, 3), (4, 3, 2, 5), (3, 2, 2, 3)])
def test_the_velocity_is_that_of_every_gauge(widths: tuple[int, ...]) -> None:
    rank = min(widths)
    for seed in range(5):
        weights = network(widths, seed)
        teacher = np.random.default_rng(seed).standard_normal((widths[-1], widths[0]))
        claimed = DERIVED["velocity"](total(weights), teacher, rank)
        step = jacobian(weights) @ np.concatenate([v.ravel() for v in shortest(weights, teacher)])
        condition = np.linalg.cond(jacobian(weights)[:, :1]) * max(
            values[0] / values[values > 1e-9 * values[0]][-1]
            for values in [np.linalg.svd(jacobian(weights), compute_uv=False)]
        )
        tolerances.assert_close(
            step.reshape(claimed.shape), claimed, tolerances.least_squares(np.float64, 20, condition, 0.0)
        )


def test_layers_follow_the_velocity() -> None:
    weights = network((3, 2, 4, 3), 1)
    teacher = np.random.default_rng(4).standard_normal((3, 3))
    run = solve_ivp(
        lambda _, w: DERIVED["velocity"](w.reshape(3, 3), teacher, 2).ravel(),
        (0.0, 1.0),
        total(weights).ravel(),
        "DOP853",
        rtol=1e-11,
        atol=1e-12,
    )
    state = integrate(weights, lambda w: shortest(w, teacher), [1.0])[0]
    tolerances.assert_close(total(state), run.y[:, -1].reshape(3, 3), 1e-8)
    # Negative control: N1 is not the natural gradient here.
    wrong = integrate(weights, lambda w: layerwise(w, teacher), [0.2])[0]
    right = integrate(weights, lambda w: shortest(w, teacher), [0.2])[0]
    assert tolerances.relative_error(total(wrong), total(right)) > 1e-3


def test_the_package_agrees() -> None:
    values = [5.0, 3.0, 2.0, 0.5]
    for kept in ([0], [1, 3], [0, 1, 2]):
        for rows, columns in ((4, 4), (4, 6), (7, 4)):
            found = bottleneck.linearised_eigenvalues(values, kept, (rows, columns))
            wanted = DERIVED["eigenvalues"](values, kept, rows, columns)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerances.product(np.float64, 2))
    assert float(bottleneck.rate(values, 2)) == pytest.approx(DERIVED["rate"](values, 2), rel=1e-14)


def test_the_rank_one_path_is_an_exponential() -> None:
    rng = np.random.default_rng(2)
    goal, left, right = rng.standard_normal((4, 3)), rng.standard_normal(4), rng.standard_normal(3)
    left, right = left / np.linalg.norm(left), right / np.linalg.norm(right)
    path = bottleneck.rank_one_flow(0.7 * left[:, None], right[:, None], goal, 1.3)
    # Where is τ at t = 1.3? From the derived exponential alone, by an ODE for e^t − 1.
    run = solve_ivp(
        lambda tau, _: [
            0.7 * np.linalg.norm(np.concatenate(DERIVED["rank_one"](tau, left, right, goal))) / np.sqrt(2)
        ],
        (0.0, 20.0),
        [0.0],
        "DOP853",
        events=lambda tau, s: s[0] - np.expm1(1.3),
        rtol=1e-12,
        atol=1e-13,
    )
    a, b = DERIVED["rank_one"](float(run.t_events[0][0]), left, right, goal)
    product = (path.left[0] * path.values[0]) @ path.right[0].T
    wanted = np.exp(-1.3) * 0.7 * np.outer(a, b) / np.linalg.norm(a) * np.linalg.norm(a) / np.linalg.norm(b)
    tolerances.assert_close(product, wanted * np.linalg.norm(b) / np.linalg.norm(a), 1e-9)


def test_an_autoencoder_has_roots_of_eigenvalues() -> None:
    cov = np.diag([9.0, 4.0, 1.0])
    values = bottleneck.target_values(Task(np.eye(3), cov))
    np.testing.assert_allclose(values, [3, 2, 1], rtol=tolerances.spectrum(np.float64, 3))


@pytest.mark.parametrize("name", ["tangential", "coupling"])
def test_a_wrong_formula_is_not_derived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x2_bottleneck, name, mutant(2)(getattr(x2_bottleneck, name)))
    with pytest.raises(DerivationError):
        x2_bottleneck.derive()
