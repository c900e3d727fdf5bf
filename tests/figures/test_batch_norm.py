"""Is the batch-normalised network of the figures PyTorch's, with its gradient and its Fisher matrix?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from figures._batch_norm import NormalisedDescent, fisher, forward, gradient, loss, pushforward, start
from linnat.nonlinear import Network, initial
from linnat.nonlinear.optimisers import Batch


def problem(family: str = "categorical", hidden: str = "tanh") -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    net = Network((5, 4, 3, 2), hidden, family)
    omega = start(net, initial(net, "glorot", rng=rng))
    omega += 0.3 * rng.standard_normal(len(omega))
    x = rng.standard_normal((12, 5))
    return net, omega, x, np.eye(2)[rng.integers(0, 2, 12)]


@pytest.mark.parametrize(("family", "hidden"), [("categorical", "tanh"), ("bernoulli", "logistic")])
def test_pytorch_has_the_same_loss_and_gradient(family: str, hidden: str) -> None:
    torch = pytest.importorskip("torch")
    net, omega, x, y = problem(family, hidden)
    vector = torch.tensor(omega, requires_grad=True)
    signal, targets, gain = torch.tensor(x), torch.tensor(y), net.n_parameters
    for i, (part, (rows, columns)) in enumerate(zip(net.slices, net.shapes, strict=True)):
        block = vector[part].reshape(columns, rows)
        signal = signal @ block[:-1]
        if i < net.depth - 1:
            scale, gain = vector[gain : gain + rows], gain + rows
            signal = torch.nn.functional.batch_norm(
                signal, None, None, scale, block[-1], training=True, eps=1e-5
            )
            signal = torch.tanh(signal) if hidden == "tanh" else torch.sigmoid(signal)
        else:
            signal = signal + block[-1]
    if family == "categorical":
        value = -(torch.log_softmax(signal, 1) * targets).sum(1).mean()
    else:
        value = torch.nn.functional.binary_cross_entropy_with_logits(signal, targets, reduction="sum") / len(
            x
        )
    value.backward()
    found, slope = gradient(net, omega, x, y)
    assert found == pytest.approx(float(value.detach()), rel=1e-12)
    assert loss(net, omega, x, y) == found
    assert np.abs(slope - vector.grad.numpy()).max() <= 1e-12 * np.abs(slope).max()


def test_the_derivative_of_the_outputs_is_the_limit_of_differences_and_the_adjoint_of_the_gradient() -> None:
    net, omega, x, y = problem()
    passed, directions = forward(net, omega, x), np.eye(len(omega))
    moved = pushforward(net, omega, passed, directions)
    for k, direction in enumerate(directions):
        ahead, behind = (forward(net, omega + s * 1e-5 * direction, x).outputs for s in (1, -1))
        assert np.abs(moved[k] - (ahead - behind) / 2e-5).max() <= 1e-8
    score = net.family.score(passed.outputs, y) / -len(x)
    assert np.abs(np.einsum("knc,nc->k", moved, score) - gradient(net, omega, x, y)[1]).max() <= 1e-14


def test_the_fisher_matrix_is_the_jacobian_s() -> None:
    net, omega, x, _ = problem()
    passed = forward(net, omega, x)
    jacobian = pushforward(net, omega, passed, np.eye(len(omega)))
    means = net.family.mean(passed.outputs)
    inner = np.einsum("nc,cd->ncd", means, np.eye(2)) - np.einsum("nc,nd->ncd", means, means)
    wanted = np.einsum("inc,ncd,jnd->ij", jacobian, inner, jacobian) / len(x)
    assert np.abs(fisher(net, omega, x) - wanted).max() <= 1e-14


def test_rescaled_weights_change_nothing_and_descent_lowers_the_loss() -> None:
    net, omega, x, y = problem()
    scaled = omega.copy()
    net.blocks(scaled[: net.n_parameters])[0][:-1] *= 1e3
    assert loss(net, scaled, x, y) == pytest.approx(loss(net, omega, x, y), rel=1e-4)
    method, rng = NormalisedDescent(0.1), np.random.default_rng(0)
    state = method.init(net, omega[: net.n_parameters])
    first = loss(net, state.theta, x, y)
    for _ in range(50):
        state, report = method.step(state, Batch(x, y), rng)
    assert report.loss < 0.5 * first
