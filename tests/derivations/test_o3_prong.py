"""O3: the derived step against the package's preconditioner and the network in white coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from derivations import o3_prong
from linnat.nonlinear import passes
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners import Prong
from linnat.nonlinear.preconditioners.prong import SCALES, from_white, to_white, white_gradient
from linnat.nonlinear.statistics import gather
from tests import tolerances

pytestmark = pytest.mark.statement("O3")
DERIVED = o3_prong.functions()


@pytest.mark.parametrize("scale", SCALES)
def test_the_white_step(scale: str) -> None:
    rng = np.random.default_rng(2)
    net = Network((4, 5, 3), "logistic", "poisson")
    theta = initial(net, "glorot", rng=rng)
    x, y = rng.standard_normal((20, 4)) + 2, rng.poisson(1.0, (20, 3)).astype(float)
    _, work = passes.prepare(net, theta, x)
    method = Prong(epsilon=0.02, scale=scale)
    state, _ = method.update(method.init(net), gather(net, theta, work, "sampled", rng))
    gradient = passes.gradient(net, theta, x, y)[1]
    _, slope = white_gradient(state, to_white(state, theta), x, y)
    white = theta - from_white(state, to_white(state, theta) - slope)
    layers = zip(
        net.layers(method.apply(state, gradient)),
        net.layers(white),
        net.layers(gradient),
        work.signals,
        state.whitenings,
        strict=True,
    )
    for one, other, part, signal, coordinates in layers:
        weights, bias = DERIVED["white_step"](
            part[:, :-1],
            part[:, -1],
            signal.mean(axis=0),
            np.cov(signal.T, bias=True),
            0.02,
            coordinates.outer,
        )
        wanted = np.column_stack([weights, bias])
        size = tolerances.solve(float, 6, 1e3) * np.abs(wanted).max()
        assert np.abs(one - wanted).max() <= size
        assert np.abs(other - wanted).max() <= size * 10
