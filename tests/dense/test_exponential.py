"""Are the flows of other losses those of the definitions? Against matrices of the square loss, differences, samples."""

from __future__ import annotations

import numpy as np
import pytest

import linnat as ln
from linnat.dense import exponential, flow, sample
from linnat.dense import fisher as square
from linnat.dense import natural as dense_natural
from linnat.dense.jacobian import parameters
from linnat.families import Bernoulli, Gaussian, as_family, one_hot
from tests import tolerances

pytestmark = pytest.mark.statement("C7")


def problem(outputs: int) -> tuple[ln.LinearNetwork, np.ndarray]:
    rng = np.random.default_rng(3)
    return ln.LinearNetwork.random((2, 3, outputs), rng=rng), rng.standard_normal((5, 2))


def test_with_gaussian_targets_it_is_the_square_loss() -> None:
    net, x = problem(2)
    cov, y = np.array([[2.0, 0.3], [0.3, 0.5]]), np.random.default_rng(1).standard_normal((5, 2))
    points, model, family = sample.of_data(x, y, cov), exponential.network_model(net, x), Gaussian(cov)
    theta = parameters(net)
    root = exponential.fisher_root(model, theta, family)
    tolerances.assert_close(
        root.T @ root, square.gauss_newton(net, points), tolerances.backward(np.float64, 12)
    )
    gradient = np.concatenate([g.ravel(order="F") for g in square.gradient(net, points)])
    tolerances.assert_close(exponential.gradient(model, theta, y, family), gradient, 1e-13)
    wanted = dense_natural.natural_gradient(net, points, "minimum-norm")
    found = exponential.natural_gradient(model, theta, y, family)
    tolerances.assert_close(found, np.concatenate([u.ravel(order="F") for u in wanted]), 1e-9)
    path = flow.natural_flow(net, points, [0.5], "minimum-norm")
    found = exponential.natural_flow(model, theta, y, family, [0.5])[0]
    tolerances.assert_close(found, np.concatenate([w[0].ravel(order="F") for w in path]), 1e-7)


@pytest.mark.parametrize("family", ["bernoulli", "poisson", "categorical", "gaussian"])
def test_gradients_are_differences_and_fisher_matrices_second_moments_of_samples(family: str) -> None:
    net, x = problem(2)
    distribution, model, theta = as_family(family), exponential.network_model(net, x), parameters(net)
    y = one_hot([0, 1, 1, 0, 1], 2) if family == "categorical" else np.ones((5, 2))
    step = 1e-5
    slopes = [
        (
            distribution.loss(model.outputs(theta + h), y) - distribution.loss(model.outputs(theta - h), y)
        ).mean()
        / (2 * step)
        for h in step * np.eye(len(theta))
    ]
    found = exponential.gradient(model, theta, y, distribution)
    np.testing.assert_allclose(found, slopes, rtol=0, atol=tolerances.difference(2, step, 1e2))
    root = exponential.fisher_root(model, theta, distribution)
    fisher = root.T @ root
    # Monte Carlo over the model's own targets.
    rng, draws = np.random.default_rng(0), 40_000
    z, jacobian = model.outputs(theta), model.jacobian(theta)
    scores = distribution.score(z, distribution.sample(np.broadcast_to(z, (draws, *z.shape)), rng))
    terms = np.einsum("snc,ncp->snp", scores, jacobian)
    estimate = np.einsum("snp,snq->pq", terms, terms) / (draws * len(z))
    assert np.abs(estimate - fisher).max() <= tolerances.monte_carlo(draws) * 4 * np.abs(fisher).max()
    # Negative control: the data's targets give another matrix.
    data = np.einsum("nc,ncp->np", distribution.score(z, y), jacobian)
    assert np.abs(data.T @ data / len(z) - fisher).max() > 0.1 * np.abs(fisher).max()


def test_independent_coordinates_may_be_drawn_one_at_a_time() -> None:
    # The Fisher root draws one coordinate at a time; all outcomes together have the same second moments.
    net, x = problem(3)
    model, theta, family = exponential.network_model(net, x), parameters(net), Bernoulli()
    together = np.zeros((len(theta), len(theta)))
    for z, jacobian in zip(model.outputs(theta), model.jacobian(theta), strict=True):
        targets, weights = exponential.outcomes(z, family)
        assert targets.shape == (8, 3)
        scores = family.score(z, targets) @ jacobian
        together += (scores * weights[:, None]).T @ scores / len(x)
    root = exponential.fisher_root(model, theta, family)
    np.testing.assert_allclose(root.T @ root, together, rtol=0, atol=1e-14)


def test_differences_give_the_jacobian_of_a_linear_network() -> None:
    net, x = problem(2)
    model = exponential.network_model(net, x)
    other = exponential.function_model(model.outputs)
    theta = parameters(net)
    np.testing.assert_allclose(other.jacobian(theta), model.jacobian(theta), rtol=0, atol=1e-11)


def test_flows_at_time_zero_and_beyond_their_end() -> None:
    net, x = problem(1)
    model, theta = exponential.network_model(net, x), parameters(net)
    np.testing.assert_array_equal(
        exponential.gradient_flow(model, theta, np.ones((5, 1)), "bernoulli", 0.0), [theta]
    )
    with pytest.raises(ln.ConvergenceError, match="stopped after time 0.99|stopped after time 1"):
        exponential.flow(lambda state: -(state**2), [1.0], [2.0])


def test_bad_input() -> None:
    net, x = problem(1)
    model, theta = exponential.network_model(net, x), parameters(net)
    with pytest.raises(ln.InputError, match="^family"):
        exponential.fisher_root(model, theta, "probit")
    with pytest.raises(ln.InputError, match="^theta"):
        exponential.gradient(model, [np.nan], np.ones((5, 1)), "bernoulli")
    with pytest.raises(ln.InputError, match="^y: expected labels"):
        exponential.gradient(model, theta, 2 * np.ones((5, 1)), "bernoulli")
    with pytest.raises(ln.InputError, match="^rtol"):
        exponential.natural_gradient(model, theta, np.ones((5, 1)), "bernoulli", rtol=-1)
    with pytest.raises(ln.InputError, match="^times"):
        exponential.flow(lambda state: state, theta, [-1.0])
