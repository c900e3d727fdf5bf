"""What do claims about multilayer networks share? Random instances, and what is the same for all of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from linnat._checks import Array
from linnat.claims._core import CONSTANT, Case
from linnat.dense import multilayer
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network

EPS = float(np.finfo(float).eps)
FAMILIES = ("gaussian", "bernoulli", "categorical", "poisson")
ROWS, OUTPUTS = 4, 3


def instance(
    family: str, rng: np.random.Generator, unit: str = "identity", rows: int = ROWS
) -> tuple[Network, Array, Array, Array]:
    """Return a network of random depth, widths and units with parameters, inputs and targets."""
    depth = int(rng.integers(2, 4))
    hidden = [str(name) for name in rng.choice(("tanh", "logistic", "softplus"), depth - 1)]
    widths = (2, *(int(n) for n in rng.integers(2, 4, depth - 1)), OUTPUTS)
    net = Network(widths, [*hidden, unit], family)
    theta = initial(net, "glorot", rng=rng) + 0.2 * rng.standard_normal(net.n_parameters)
    return net, theta, rng.standard_normal((rows, 2)), targets(family, rng, rows)


def targets(family: str, rng: np.random.Generator, rows: int = ROWS) -> Array:
    """Return targets of a family that do not follow the model."""
    if family == "bernoulli":
        return rng.integers(0, 2, (rows, OUTPUTS)).astype(float)
    if family == "categorical":
        return np.asarray(np.eye(OUTPUTS)[rng.integers(0, OUTPUTS, rows)])
    if family == "poisson":
        return rng.poisson(1.0, (rows, OUTPUTS)).astype(float)
    return rng.standard_normal((rows, OUTPUTS))


def predictors(net: Network, theta: Array, x: Array) -> Array:
    """Return natural parameters (N, n_L), one row at a time."""
    return np.array([multilayer.outputs(theta, net.widths, net.activations, row) for row in x])


def gradients(net: Network, theta: Array, x: Array, y: Array) -> Array:
    """Return the gradient of each row's loss, (N, P), by complex steps."""
    return multilayer.row_gradients(theta, net.widths, net.activations, net.family.name, x, y)


def rounding(net: Network) -> float:
    """Entries are sums over rows, targets and layers of products of well-scaled numbers: p = 0."""
    return CONSTANT * EPS * net.n_parameters


def always(net: LinearNetwork, task: Task) -> str | None:
    """Say that a claim is about none of the linear networks that are checked."""
    return "about multilayer networks"


def nowhere(rng: np.random.Generator) -> Case:
    """Return a case that holds nothing but the generator."""
    net: Any = LinearNetwork([[[1.0]]])
    return Case(net, Task([[1.0]]), rng)
