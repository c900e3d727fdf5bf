"""O5: the derived plane step against a search by the package on a quadratic loss."""

from __future__ import annotations

import numpy as np
import pytest

from derivations import o5_conjugate
from linnat.nonlinear import curvature, passes
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers import Batch, NaturalConjugateGradient
from tests import tolerances

pytestmark = pytest.mark.statement("O5")
DERIVED = o5_conjugate.functions()


def test_two_steps_on_a_quadratic_loss() -> None:
    rng = np.random.default_rng(0)
    net = Network((4, 2), family="gaussian")
    batch = Batch(rng.standard_normal((30, 4)), rng.standard_normal((30, 2)), rng.standard_normal((30, 4)))
    # Gaussian, one layer: the loss is quadratic. The metric from other rows makes the second step a true search.
    method = NaturalConjugateGradient(1e-3, 200, 100)
    state = method.init(net, np.zeros(net.n_parameters))
    state, _ = method.step(state, batch, rng)
    before, last = state.theta.copy(), state.last.copy()
    state, _ = method.step(state, batch, rng)
    slope = passes.gradient(net, before, batch.x, batch.y)[1]
    hessian = curvature.hessian(net, before, batch.x, batch.y).dense()
    metric = curvature.true_fisher(net, before, batch.metric).dense() + 1e-3 * np.eye(len(before))
    wanted = DERIVED["plane_step"](hessian, slope, np.linalg.solve(metric, slope), last)
    found = state.theta - before
    assert np.linalg.norm(found - wanted) <= 1e-2 * np.linalg.norm(wanted)
    # Conjugate to the last step, and no slope along it: what an exact search leaves.
    size = np.linalg.norm(hessian, 2) * np.linalg.norm(wanted) * np.linalg.norm(last)
    assert abs(last @ hessian @ wanted) <= 1e-4 * size
    assert abs(last @ (slope + hessian @ wanted)) <= tolerances.solve(float, 10, 1e3) * size
    # Steepest descent from the same place is not conjugate.
    assert abs(last @ hessian @ slope) > 1e-2 * np.linalg.norm(hessian, 2) * np.linalg.norm(
        slope
    ) * np.linalg.norm(last)
