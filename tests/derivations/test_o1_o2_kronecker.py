"""O1, O2: the derived step and the best diagonal, against the package's preconditioners and dense blocks."""

from __future__ import annotations

import numpy as np
import pytest

from derivations import o1_o2_kronecker
from linnat.nonlinear import passes
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners import Ekfac, OnlineNaturalGradient
from linnat.nonlinear.statistics import gather
from tests import tolerances

DERIVED = o1_o2_kronecker.functions()


def batch_and_gradient() -> tuple:
    rng = np.random.default_rng(2)
    net = Network((4, 5, 3), "tanh", "bernoulli")
    theta = initial(net, "glorot", rng=rng)
    x, y = rng.standard_normal((20, 4)), rng.integers(0, 2, (20, 3)).astype(float)
    gradient = passes.gradient(net, theta, x, y)[1]
    _, work = passes.prepare(net, theta, x)
    return net, gather(net, theta, work, "sampled", rng), gradient


@pytest.mark.statement("O1")
def test_the_online_step() -> None:
    net, batch, gradient = batch_and_gradient()
    online = OnlineNaturalGradient(damping=0.01, cutoff=0.0)
    state, _ = online.update(online.init(net), batch)
    found = net.layers(online.apply(state, gradient))
    layers = zip(found, batch.signals, batch.errors, net.layers(gradient), strict=True)
    for layer, signal, error, slope in layers:
        wide = np.c_[signal, np.ones(20)]
        wanted = DERIVED["online_step"](wide.T @ wide / 20, error.T @ error / 20, slope, 0.01, 2)
        assert np.abs(layer - wanted).max() <= tolerances.solve(float, 6, 1e3) * np.abs(wanted).max()


@pytest.mark.statement("O2")
def test_the_best_diagonal() -> None:
    net, batch, _ = batch_and_gradient()
    state, _ = Ekfac(decay=0.0).update(Ekfac(decay=0.0).init(net), batch)
    rng = np.random.default_rng(0)
    for i, ((left, right), moments) in enumerate(zip(state.bases, state.moments, strict=True)):
        wide = np.c_[batch.signals[i], np.ones(20)]
        rows = np.einsum("na,nb->nab", wide, batch.errors[i]).reshape(20, -1)
        block, basis = rows.T @ rows / 20, np.kron(left, right)
        diagonal, distance = DERIVED["best_diagonal"](block, basis)
        assert np.abs(diagonal - moments.ravel()).max() <= tolerances.backward(float, 30) * np.linalg.norm(
            block
        )
        for _ in range(5):
            other = diagonal + 1e-3 * rng.standard_normal(len(diagonal))
            assert np.linalg.norm(block - (basis * other) @ basis.T) > distance
