"""Does automatic differentiation agree? JAX, on losses written out: every derivative that passes and matrices use."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from linnat.nonlinear import curvature, passes
from linnat.nonlinear.statistics import gather
from tests import tolerances
from tests.nonlinear.test_passes import FAMILIES, UNITS, case

jax = pytest.importorskip("jax")
jnp = jax.numpy

UNIT = {
    "identity": lambda z: z,
    "tanh": jnp.tanh,
    "logistic": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
}
LOSS = {
    "gaussian": lambda z, y: 0.5 * ((z - y) ** 2).sum(-1),
    "bernoulli": lambda z, y: (jax.nn.softplus(z) - y * z).sum(-1),
    "categorical": lambda z, y: -(y * jax.nn.log_softmax(z)).sum(-1),
    "poisson": lambda z, y: (jnp.exp(z) - y * z).sum(-1),
}
EVERYDAY = (("categorical", "identity"), ("poisson", "tanh"))


@pytest.fixture(autouse=True)
def _double() -> Any:
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        yield


def forward(net: Any, rows: Any) -> Any:
    """Return the function from parameters to what enters the last units, (N, n_L)."""

    def function(vector: Any) -> Any:
        signal = jnp.asarray(rows)
        for i, (where, (count, columns)) in enumerate(zip(net.slices, net.shapes, strict=True)):
            block = vector[where].reshape(columns, count)
            signal = signal @ block[:-1] + block[-1]
            if i < net.depth - 1:
                signal = UNIT[net.activations[i]](signal)
        return signal

    return function


@pytest.mark.statement("O0", "O4")
@pytest.mark.parametrize(
    ("family", "output_unit"),
    [
        pytest.param(*pair, marks=() if pair in EVERYDAY else pytest.mark.slow)  # each is compiled: seconds
        for pair in itertools.product(FAMILIES, UNITS)
    ],
)
def test_jax_agrees(family: str, output_unit: str) -> None:
    net, theta, x, y, rng = case(11, family, 3, output_unit)
    before, unit, row_loss = forward(net, x), UNIT[output_unit], LOSS[family]
    outputs = lambda v: unit(before(v))  # noqa: E731
    loss = lambda v: row_loss(outputs(v), y).mean()  # noqa: E731
    directions = rng.standard_normal((3, len(theta)))
    cotangents = rng.standard_normal((3, len(x), net.widths[-1]))
    _, work = passes.prepare(net, theta, x)
    args, point = (net, theta, work), jnp.asarray(theta)
    z, pull = jax.vjp(outputs, point)
    hessian = jax.hessian(loss)(point)
    jac, inner = jax.jacobian(outputs)(point), jax.jacobian(before)(point)
    # Of each row's loss in the natural parameters; in what enters the output units.
    bent = jax.vmap(jax.hessian(row_loss), (0, 0))(z, jnp.asarray(y))
    bent_before = jax.vmap(jax.hessian(lambda s, t: row_loss(unit(s), t)))(before(point), jnp.asarray(y))
    fisher = jnp.einsum("nkp,nkl,nlq->pq", jac, bent, jac) / len(x)
    newton = jnp.einsum("nkp,nkl,nlq->pq", inner, bent_before, inner) / len(x)
    rows = jax.jacobian(lambda v: row_loss(outputs(v), y))(point)
    pairs = {
        "gradient": (passes.gradient(net, theta, x, y)[1], jax.grad(loss)(point)),
        "jacobian": (passes.jacobian(net, theta, x), jac),
        "pushforward": (passes.pushforward(*args, directions), jnp.einsum("nkp,dp->dnk", jac, directions)),
        "vector-Jacobian": (
            passes.vector_jacobian_product(*args, cotangents),
            jnp.stack([pull(jnp.asarray(c))[0] for c in cotangents]),
        ),
        "Hessian product": (passes.hessian_product(*args, y, directions), directions @ hessian),
        "Fisher product": (passes.fisher_product(*args, directions), directions @ fisher),
        "Gauss-Newton product": (passes.gauss_newton_product(*args, y, directions), directions @ newton),
        "Hessian": (curvature.hessian(net, theta, x, y).dense(), hessian),
        "Fisher matrix": (curvature.true_fisher(net, theta, x).dense(), fisher),
        "Gauss-Newton matrix": (curvature.gauss_newton(net, theta, x, y).dense(), newton),
        "empirical matrix": (curvature.empirical_fisher(net, theta, x, y).dense(), rows.T @ rows / len(x)),
    }
    for name, (found, wanted) in pairs.items():
        size = tolerances.product(float, 40 * max(4, *net.widths)) * (1 + np.abs(wanted).max())
        assert np.abs(found - np.asarray(wanted)).max() <= size, name
    passes.forward(net, theta, x, work)
    gather(net, theta, work, y)
    single = passes.row_gradients(net, work)
    size = tolerances.product(float, 40 * max(4, *net.widths)) * (1 + np.abs(rows).max())
    assert np.abs(single - np.asarray(rows)).max() <= size
