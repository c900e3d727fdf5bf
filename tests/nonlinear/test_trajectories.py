"""Is the way a training run, and does what is measured there leave it alone?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from linnat._checks import InputError
from linnat.nonlinear import passes
from linnat.nonlinear.comparison import compare
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers import Batch, GradientDescent, Preconditioned
from linnat.nonlinear.output import DivergenceError
from linnat.nonlinear.preconditioners import Diagonal, Kfac
from linnat.nonlinear.trajectories import along
from tests.nonlinear.test_preconditioners import multilayer

pytestmark = pytest.mark.statement("O2")
FEW: dict[str, Any] = {"methods": {"diagonal": Diagonal(), "kfac": Kfac()}, "dampings": [0.1], "draws": 2}


@pytest.mark.parametrize("optimiser", [GradientDescent(0.2, 0.9), Preconditioned(Kfac(), 0.3)])
def test_points_lie_on_the_run_of_the_optimiser(optimiser: Any) -> None:
    net, theta, x, y, _ = multilayer(0)
    found = along(net, theta, x, y, optimiser, [0, 2, 5], rows=20, rng=4, **FEW)
    state, draw = optimiser.init(net, theta), np.random.default_rng([4, 1])
    for update in range(6):
        for point in found:
            if point.update == update:
                assert np.array_equal(point.theta, state.theta)
                assert point.loss == passes.loss(net, point.theta, x, y)
                assert list(point.rows) == compare(net, point.theta, x[:20], y[:20], rng=4, **FEW)
        state, _ = optimiser.step(state, Batch(x, y), draw)
    assert found[2].loss < found[1].loss < found[0].loss
    # Fewer points, the same way.
    alone = along(net, theta, x, y, optimiser, [5], rows=20, rng=4, **FEW)
    assert np.array_equal(alone[0].theta, found[2].theta)


def test_minibatches_take_every_row_once_an_epoch() -> None:
    net, theta, x, y, _ = multilayer(0, rows=12)
    seen: list[Any] = []

    class Watched(GradientDescent):
        def step(self, state: Any, batch: Batch, rng: Any) -> Any:
            seen.append(batch.x)
            return super().step(state, batch, rng)

    along(net, theta, x, y, Watched(0.1), [6], batch=4, **FEW)
    for epoch in (np.concatenate(seen[:3]), np.concatenate(seen[3:])):
        assert np.array_equal(np.sort(epoch, axis=0), np.sort(x, axis=0))
    assert not np.array_equal(seen[0], seen[3])


def test_bad_input() -> None:
    net, theta, x, y, _ = multilayer(0)
    for points, message in (
        ([], "points: expected a sequence of numbers of updates"),
        ("3", "points: expected a sequence of numbers of updates"),
        ([2, 2], "points: expected increasing numbers of updates"),
        ([-1], "points: expected an integer ≥ 0"),
    ):
        with pytest.raises(InputError, match=message):
            along(net, theta, x, y, GradientDescent(), points, **FEW)
    with pytest.raises(InputError, match="y: expected labels 0 or 1"):
        along(net, theta, x, 2 * y, GradientDescent(), [1], **FEW)
    wild = Network((5, 4, 3), "softplus", "poisson")
    with pytest.raises(DivergenceError, match="loss: expected a finite loss"):
        along(wild, theta[: wild.n_parameters], x, y, GradientDescent(50.0), [99], **FEW)
