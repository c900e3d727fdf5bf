"""Is the textbook network right? Its derivatives against differences, its Fisher matrix by hand."""

from __future__ import annotations

import numpy as np
import pytest

from linnat._checks import InputError
from linnat.dense import multilayer
from tests import tolerances

pytestmark = pytest.mark.statement("O0")
WIDTHS, UNITS = (2, 3, 2), ("softplus", "identity")


def test_derivatives_are_those_of_differences() -> None:
    rng = np.random.default_rng(0)
    theta, x, y = rng.standard_normal(17), rng.standard_normal((3, 2)), np.eye(2)[[0, 1, 1]]
    step = 1e-3
    jac = multilayer.jacobian(theta, WIDTHS, UNITS, x)
    for family in multilayer.LOSSES:
        found = multilayer.row_gradients(theta, WIDTHS, UNITS, family, x, y)
        for k, unit in enumerate(np.eye(17)):
            ends = [
                [multilayer.outputs(theta + s * step * unit, WIDTHS, UNITS, row) for row in x]
                for s in (2, 1, -1, -2)
            ]
            weights = (-1 / 12, 2 / 3, -2 / 3, 1 / 12)
            slope = sum(w * np.array(e) for w, e in zip(weights, ends, strict=True)) / step
            assert np.abs(slope - jac[..., k]).max() <= tolerances.difference(4, step, 30.0)
            losses = [[multilayer.LOSSES[family](z, t) for z, t in zip(e, y, strict=True)] for e in ends]
            slope = sum(w * np.array(e) for w, e in zip(weights, losses, strict=True)) / step
            assert np.abs(slope - found[:, k]).max() <= tolerances.difference(4, step, 100.0)


def test_the_hessian_is_that_of_a_polynomial_and_of_a_logistic_unit() -> None:
    rng = np.random.default_rng(1)
    # Two identity layers of one unit: ½(y − v(wx + b) − c)², with parameters w, b, v, c.
    w, b, v, c, x, y = rng.standard_normal(6)
    found = multilayer.hessian(
        np.array([w, b, v, c]), (1, 1, 1), ("identity",) * 2, "gaussian", np.array([[x]]), np.array([[y]])
    )
    slope, residual = np.array([v * x, v, w * x + b, 1.0]), v * (w * x + b) + c - y
    wanted = np.outer(slope, slope)
    for i, bend in ((0, x), (1, 1.0)):
        wanted[i, 2] += residual * bend
        wanted[2, i] += residual * bend
    assert np.abs(found - wanted).max() <= tolerances.difference(4, multilayer.DIFFERENCE, 100.0)
    p = 0.75
    found = multilayer.hessian(
        np.array([np.log(3.0), 0.0]), (1, 1), ["identity"], "bernoulli", np.ones((1, 1)), np.ones((1, 1))
    )
    assert np.abs(found - p * (1 - p)).max() <= tolerances.difference(4, multilayer.DIFFERENCE, 100.0)


def test_a_logistic_unit_by_hand() -> None:
    theta, x = np.array([np.log(3.0), 0.0]), np.array([[1.0]])
    found = multilayer.fisher(theta, (1, 1), ["identity"], "bernoulli", x)
    assert found == pytest.approx(np.full((2, 2), 3 / 16), rel=1e-14)
    with pytest.raises(InputError, match="family: expected 'bernoulli' or 'categorical'"):
        multilayer.fisher(theta, (1, 1), ["identity"], "poisson", x)
