"""What do natural gradient flow and gradient flow do when the loss is not a square? Integrated, statement C7.

Any differentiable map from parameters to outputs on the training inputs, deep linear or not; the Fisher matrix of the
training inputs by its definition, the expectation over the model's own targets, outcome by outcome, of outer products
of scores. Nothing is known here of predictors, mean parameters or convexity.

Sign: ascent directions; flows are dθ/dt = −u(θ).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.integrate
import scipy.special

from linnat._checks import Array, ConvergenceError, as_float_array, as_scalar, as_times, fail
from linnat.dense.jacobian import output_jacobian, outputs_at, with_parameters
from linnat.exact.network import LinearNetwork
from linnat.families import Family, Gaussian, as_family

Direction: TypeAlias = Callable[[Array], Array]


class Model(NamedTuple):
    """A map from parameters to outputs on the training inputs.

    Attributes
    ----------
    outputs : function of an array (P,), returns an array (N, C)
    jacobian : function of an array (P,), returns an array (N, C, P)
    """

    outputs: Callable[[Array], Array]
    jacobian: Callable[[Array], Array]


def network_model(net: LinearNetwork, x: Any) -> Model:
    """Return the map of a linear network's parameters to its outputs, with the Jacobian by unit perturbations.

    Parameters
    ----------
    net : LinearNetwork
        Gives the shapes.
    x : array (N, n_0)

    Returns
    -------
    Model

    Examples
    --------
    >>> model = network_model(LinearNetwork([[[0.0]], [[0.0]]]), [[5.0]])
    >>> model.outputs(np.array([2.0, 3.0])), model.jacobian(np.array([2.0, 3.0]))
    (array([[30.]]), array([[[15., 10.]]]))
    """
    rows = np.asarray(x, dtype=np.float64)
    return Model(
        lambda theta: outputs_at(theta, net, rows),
        lambda theta: output_jacobian(with_parameters(net, theta), rows),
    )


def function_model(outputs: Callable[[Array], Array], step: float = 1e-3) -> Model:
    """Return a map with its Jacobian by central differences of fourth order.

    Parameters
    ----------
    outputs : function of an array (P,), returns an array (N, C)
    step : float
        Errors are about step⁴ + eps/step relative to derivatives of order one.

    Returns
    -------
    Model

    Examples
    --------
    >>> model = function_model(lambda theta: np.tanh(theta)[None, :])
    >>> model.jacobian(np.array([0.5])).round(9)
    array([[[0.78644773]]])
    """

    def jacobian(theta: Array) -> Array:
        columns = []
        for unit in np.eye(len(theta)) * step:
            near = outputs(theta + unit) - outputs(theta - unit)
            far = outputs(theta + 2 * unit) - outputs(theta - 2 * unit)
            columns.append((8 * near - far) / (12 * step))
        return np.stack(columns, axis=-1)

    return Model(outputs, jacobian)


def fisher_root(model: Model, theta: Any, family: Family | str) -> Array:
    """Return R with RᵀR = E[score scoreᵀ], scores with respect to the parameters, targets drawn from the model.

    Parameters
    ----------
    model : Model
    theta : array (P,)
    family : Family or str

    Returns
    -------
    array (N O, P)
        A row √(p/N) score for each sample and each of its O outcomes (see `outcomes`). Coordinates that are
        independent are drawn one at a time, the others at their means, where their scores vanish.

    Examples
    --------
    >>> root = fisher_root(network_model(LinearNetwork([[[0.0]]]), [[2.0]]), [0.0], "bernoulli")
    >>> root.T @ root
    array([[1.]])
    """
    distribution = as_family(family)
    parameters = as_float_array(theta, "theta", ndim=1).astype(np.float64)
    z, jacobian = model.outputs(parameters), model.jacobian(parameters)
    blocks = []
    for predictor, derivative in zip(z, jacobian, strict=True):
        for targets, weights in _draws(predictor, distribution):
            scores = distribution.score(predictor, targets) @ derivative
            blocks.append(np.sqrt(weights / len(z))[:, None] * scores)
    return np.concatenate(blocks)


def _draws(predictor: Array, family: Family) -> Iterator[tuple[Array, Array]]:
    if family.name in ("gaussian", "categorical"):
        yield outcomes(predictor, family)
        return
    for c in range(len(predictor)):
        values, weights = outcomes(predictor[c : c + 1], family)
        targets = np.tile(family.mean(predictor), (len(values), 1))
        targets[:, c] = values[:, 0]
        yield targets, weights


def outcomes(z: Any, family: Family | str) -> tuple[Array, Array]:
    """Return targets and weights that stand for the distribution at one predictor: all there are, or enough.

    Parameters
    ----------
    z : array (C,)
    family : Family or str

    Returns
    -------
    targets : array (O, C)
    weights : array (O,)
        Bernoulli and categorical: every outcome with its probability. Poisson: every count until the rest is below
        rounding. Gaussian: 2C points with its mean and covariance, which is all that a score of degree one asks for.

    Examples
    --------
    >>> outcomes([0.0], "bernoulli")
    (array([[0.],
           [1.]]), array([0.5, 0.5]))
    """
    distribution, predictor = as_family(family), as_float_array(z, "z", ndim=1).astype(np.float64)
    size = len(predictor)
    if isinstance(distribution, Gaussian):
        cov = np.eye(size) if distribution.cov is None else distribution.cov
        columns = np.sqrt(size) * np.linalg.cholesky(cov)
        return np.concatenate([predictor + columns.T, predictor - columns.T]), np.full(2 * size, 0.5 / size)
    if distribution.name == "categorical":
        return np.eye(size), scipy.special.softmax(predictor)
    if distribution.name == "bernoulli":
        values = [(0.0, 1.0)] * size
        masses = [(scipy.special.expit(-a), scipy.special.expit(a)) for a in predictor]
    elif distribution.name == "poisson":
        rates = np.exp(predictor)
        values = [tuple(np.arange(np.ceil(rate + 12 * np.sqrt(rate) + 30))) for rate in rates]
        masses = [tuple(np.exp(scipy.special.xlogy(k, r) - r - scipy.special.gammaln(np.add(k, 1))))
                  for k, r in zip(values, rates, strict=True)]  # fmt: skip
    else:
        fail("family", "one of the four of linnat.families", distribution.name)
    return np.array(list(product(*values))), np.array([np.prod(m) for m in product(*masses)])


def gradient(model: Model, theta: Any, y: Any, family: Family | str) -> Array:
    """Return the gradient of the mean loss, (P,).

    Examples
    --------
    >>> gradient(network_model(LinearNetwork([[[0.0]]]), [[2.0]]), [0.0], [[1.0]], "bernoulli")
    array([-1.])
    """
    parameters = as_float_array(theta, "theta", ndim=1).astype(np.float64)
    z, jacobian = model.outputs(parameters), model.jacobian(parameters)
    scores = as_family(family).score(z, y)
    return np.asarray(-np.einsum("nc,ncp->p", scores, jacobian) / len(z))


def natural_gradient(
    model: Model, theta: Any, y: Any, family: Family | str, rtol: float | None = None
) -> Array:
    """Return F⁺∇ℓ: the minimum-norm natural gradient.

    Parameters
    ----------
    model : Model
    theta : array (P,)
    y : array (N, C)
    family : Family or str
    rtol : float, optional
        Cut-off on the singular values of the root of F, relative to the largest; 8 × size × eps by default.

    Returns
    -------
    array (P,)

    Examples
    --------
    >>> natural_gradient(network_model(LinearNetwork([[[0.0]]]), [[2.0]]), [0.0], [[1.0]], "bernoulli")
    array([-1.])
    """
    root = fisher_root(model, theta, family)
    _, values, right = np.linalg.svd(root, full_matrices=False)
    default = 8 * max(root.shape) * float(np.finfo(float).eps)
    cut = default if rtol is None else as_scalar(rtol, "rtol", low=0.0)
    keep = right[values > cut * values[0]]
    inverse = values[values > cut * values[0]] ** -2.0
    return np.asarray(keep.T @ (inverse * (keep @ gradient(model, theta, y, family))))


def flow(direction: Direction, theta: Any, times: Any, *, rtol: float = 1e-10, atol: float = 1e-12) -> Array:
    """Integrate dθ/dt = −direction(θ) by DOP853.

    Parameters
    ----------
    direction : function of an array (P,), returns an array (P,)
    theta : array (P,)
    times : scalar or array (T,)
    rtol, atol : float

    Returns
    -------
    array (T, P)

    Raises
    ------
    ConvergenceError
        If the step size underflows; `.estimate` is the last time reached.

    Examples
    --------
    >>> flow(lambda theta: theta, [1.0], [1.0]).round(9)
    array([[0.36787944]])
    """
    moments, start = as_times(times), as_float_array(theta, "theta", ndim=1).astype(np.float64)
    end = float(moments.max())
    if end == 0.0:
        return np.broadcast_to(start, (len(moments), len(start))).copy()
    options = {"method": "DOP853", "dense_output": True, "rtol": rtol, "atol": atol}
    result = scipy.integrate.solve_ivp(lambda _, state: -direction(state), (0.0, end), start, **options)
    if not result.success:
        reached = float(result.t[-1])
        raise ConvergenceError(f"The integrator stopped after time {reached:.6g}: {result.message}", reached)
    return np.asarray(result.sol(moments).T)


def natural_flow(
    model: Model, theta: Any, y: Any, family: Family | str, times: Any, **tolerances: float
) -> Array:
    """Integrate dθ/dt = −F⁺∇ℓ; see `natural_gradient` and `flow`.

    Examples
    --------
    >>> model = network_model(LinearNetwork([[[0.0]]]), [[1.0]])
    >>> natural_flow(model, [0.0], [[1.0]], "bernoulli", np.log(2.0)).round(9)
    array([[1.09861229]])
    """
    return flow(lambda state: natural_gradient(model, state, y, family), theta, times, **tolerances)


def gradient_flow(
    model: Model, theta: Any, y: Any, family: Family | str, times: Any, **tolerances: float
) -> Array:
    """Integrate dθ/dt = −∇ℓ; see `gradient` and `flow`.

    Examples
    --------
    >>> gradient_flow(network_model(LinearNetwork([[[1.0]]]), [[1.0]]), [1.0], [[0.0]], "gaussian", 1.0).round(9)
    array([[0.36787944]])
    """
    return flow(lambda state: gradient(model, state, y, family), theta, times, **tolerances)
