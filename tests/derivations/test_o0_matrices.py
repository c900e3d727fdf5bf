"""O0, O4: the derived matrices against textbook networks and the package's own."""

from __future__ import annotations

import numpy as np
import pytest

from derivations import o0_matrices
from linnat.dense import multilayer
from linnat.families import as_family
from linnat.nonlinear import curvature
from linnat.nonlinear.network import Network
from tests import tolerances

DERIVED = o0_matrices.functions()


@pytest.mark.statement("O0")
@pytest.mark.parametrize("family", ["bernoulli", "categorical"])
def test_the_derived_fisher_matrix_is_the_mean_over_targets(family: str) -> None:
    rng = np.random.default_rng(0)
    net = Network((2, 3, 3), "tanh", family)
    theta, x = rng.standard_normal(net.n_parameters), rng.standard_normal((4, 2))
    y = np.eye(3)[[0, 2, 1, 1]]
    jac = multilayer.jacobian(theta, net.widths, net.activations, x)
    z = np.array([multilayer.outputs(theta, net.widths, net.activations, row) for row in x])
    found = DERIVED["fisher"](jac, as_family(family).fisher(z))
    enumerated = multilayer.fisher(theta, net.widths, net.activations, family, x)
    size = tolerances.product(float, 60) * np.abs(enumerated).max()
    assert np.abs(found - enumerated).max() <= size
    assert np.abs(found - curvature.true_fisher(net, theta, x).dense()).max() <= size
    squares = DERIVED["squares"](jac, as_family(family).score(z, y))
    rows = multilayer.row_gradients(theta, net.widths, net.activations, family, x, y)
    assert np.abs(squares - rows.T @ rows / 4).max() <= size * 4
    assert np.abs(squares - enumerated).max() > 1e-2 * np.abs(enumerated).max()


@pytest.mark.statement("O4")
def test_the_curvature_of_one_output_unit() -> None:
    rng = np.random.default_rng(1)
    net = Network((2, 1), ["tanh"], "poisson")
    theta, x, y = rng.standard_normal(3), rng.standard_normal((5, 2)), rng.poisson(2.0, (5, 1)).astype(float)
    s = np.c_[x, np.ones(5)] @ theta
    unit, rate = np.tanh(s), np.exp(np.tanh(s))
    bent = DERIVED["scalar_curvature"](1 - unit**2, -2 * unit * (1 - unit**2), rate, rate - y[:, 0])
    rows = np.c_[x, np.ones(5)]
    wanted = (rows.T * bent) @ rows / 5
    found = curvature.gauss_newton(net, theta, x, y).dense()
    assert np.abs(found - wanted).max() <= tolerances.product(float, 60) * np.abs(wanted).max()
    # The network below the unit is linear: Gauss–Newton is the whole Hessian.
    full = curvature.hessian(net, theta, x, y).dense()
    assert np.abs(full - wanted).max() <= tolerances.product(float, 60) * np.abs(wanted).max()
