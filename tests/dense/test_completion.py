"""Do the dense steps on observed entries solve their equation, and are they the shortest in their metrics? (C9)"""

from __future__ import annotations

import numpy as np
import pytest

import linnat as ln
from linnat.dense import completion
from linnat.dense.jacobian import parameters, total, total_jacobian, with_parameters
from tests import tolerances

pytestmark = pytest.mark.statement("C9")


def problem(seed: int = 0) -> tuple[ln.LinearNetwork, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    net = ln.LinearNetwork.random((3, 4, 4, 2), rng=rng)
    return net, rng.standard_normal((2, 3)), np.array([[True, False, True], [True, True, False]])


def test_the_gradient_is_that_of_the_loss() -> None:
    net, target, observed = problem()

    def loss(vector: np.ndarray) -> float:
        return 0.5 * float((((target - total(with_parameters(net, vector))) * observed) ** 2).sum())

    theta, step = parameters(net), 1e-5
    wanted = [(loss(theta + step * e) - loss(theta - step * e)) / (2 * step) for e in np.eye(len(theta))]
    found = completion.observed_gradient(net, target, observed)
    found = np.concatenate([part.flatten(order="F") for part in found])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerances.difference(2, step, 10.0))


@pytest.mark.parametrize("metric", ["observed", "population"])
@pytest.mark.parametrize("gauge", ["minimum-norm", "layerwise", "population"])
def test_steps_solve_the_equation_and_are_the_shortest(metric: str, gauge: str) -> None:
    net, target, observed = problem(1)
    every, rows = total_jacobian(net), completion.observed_jacobian(net, observed)
    root = rows if metric == "observed" else every
    step = completion.completion_gradient(net, target, observed, metric, gauge)
    u = np.concatenate([part.flatten(order="F") for part in step])
    gradient = completion.observed_gradient(net, target, observed)
    g = np.concatenate([part.flatten(order="F") for part in gradient])
    fisher = root.T @ root
    size = np.linalg.norm(fisher, 2) * np.linalg.norm(u) + np.linalg.norm(g)
    assert np.linalg.norm(fisher @ u - g) <= tolerances.backward(np.float64, len(u)) * size
    ends = np.cumsum([w.size for w in net.weights])[:-1]
    blocks = [part.T @ part for part in np.split(root, ends, axis=1)]
    measure = np.eye(len(u)) if gauge == "minimum-norm" else every.T @ every
    if gauge == "layerwise":
        measure = np.zeros_like(fisher)
        for start, block in zip((0, *ends), blocks, strict=True):
            measure[start : start + len(block), start : start + len(block)] = block
    null = np.linalg.svd(root)[2][np.linalg.matrix_rank(root) :]
    rng = np.random.default_rng(2)
    length = u @ measure @ u
    for scale in (1.0, 1e-2):
        other = u + scale * null.T @ rng.standard_normal(len(null))
        assert other @ measure @ other >= length * (1 - 1e-10)
        assert np.linalg.norm(fisher @ other - g) <= 1e-9 * size


def test_the_descent_keeps_the_observed_entries_and_shortens() -> None:
    net, _, observed = problem(3)
    layers = completion.shrinking_flow(net, observed, [0.0, 1.0, 4.0])
    sizes = sum((layer**2).sum(axis=(-1, -2)) for layer in layers)
    assert (np.diff(sizes) < 0).all()
    for k in range(3):
        state = net.replace_layers([layer[k] for layer in layers])
        np.testing.assert_allclose(total(state)[observed], total(net)[observed], rtol=0, atol=1e-8)


def test_bad_input() -> None:
    net, target, observed = problem()
    for mask in (observed.astype(int), observed.T, observed[0]):
        with pytest.raises(ln.InputError, match="^observed"):
            completion.observed_jacobian(net, mask)
    with pytest.raises(ln.InputError, match="^metric"):
        completion.completion_gradient(net, target, observed, "all")
    with pytest.raises(ln.InputError, match="^gauge"):
        completion.completion_gradient(net, target, observed, gauge="longest")
    with pytest.raises(ln.InputError, match="^target"):
        completion.completion_gradient(net, np.full((2, 3), np.nan), observed)
