"""What does a multilayer network compute, and how does it change? By the textbook, one row at a time (statement O0).

First derivatives are complex steps, f(θ + ih)/h with h far below rounding: no subtraction, hence no error of their own.
So all functions here take complex parameters, and units and losses are written for them. Parameters are ordered as
everywhere: [W_i b_i] by columns, layers in order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from linnat._checks import Array, fail

STEP = 1e-40
DIFFERENCE = 1e-3

UNITS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda z: z,
    "tanh": np.tanh,
    "logistic": lambda z: 1 / (1 + np.exp(-z)),
    "relu": lambda z: np.where(z.real > 0, z, 0),
    "softplus": lambda z: np.log(1 + np.exp(z)),
}
LOSSES: dict[str, Callable[[Array, Array], Any]] = {
    "gaussian": lambda z, y: 0.5 * ((y - z) ** 2).sum(),
    "bernoulli": lambda z, y: (np.log(1 + np.exp(z)) - y * z).sum(),
    "categorical": lambda z, y: np.log(np.exp(z).sum()) - (y * z).sum(),
    "poisson": lambda z, y: (np.exp(z) - y * z).sum(),
}


def outputs(parameters: Array, widths: Sequence[int], units: Sequence[str], row: Array) -> Array:
    """Return the natural parameters (n_L,) of one row (n_0,).

    Examples
    --------
    >>> outputs(np.array([1.0, 2.0, 3.0]), (2, 1), ["identity"], np.array([1.0, 1.0]))
    array([6.])
    """
    signal, start = row, 0
    for inputs, count, unit in zip(widths[:-1], widths[1:], units, strict=True):
        stop = start + count * (inputs + 1)
        layer = parameters[start:stop].reshape((count, inputs + 1), order="F")
        signal = UNITS[unit](layer[:, :-1] @ signal + layer[:, -1])
        start = stop
    return signal


def row_gradients(
    parameters: Array, widths: Sequence[int], units: Sequence[str], family: str, x: Array, y: Array
) -> Array:
    """Return the gradient of each row's loss, (N, P).

    Examples
    --------
    >>> row_gradients(np.zeros(2), (1, 1), ["identity"], "bernoulli", np.array([[2.0]]), np.array([[1.0]]))
    array([[-1. , -0.5]])
    """
    rows = [_slopes(_row_loss(widths, units, family, a, b), parameters) for a, b in zip(x, y, strict=True)]
    return np.array(rows)


def _row_loss(
    widths: Sequence[int], units: Sequence[str], family: str, row: Array, target: Array
) -> Callable[[Array], Any]:
    def loss(parameters: Array) -> Any:
        return LOSSES[family](outputs(parameters, widths, units, row), target)

    return loss


def jacobian(parameters: Array, widths: Sequence[int], units: Sequence[str], x: Array) -> Array:
    """Return the derivatives of the natural parameters of every row, (N, n_L, P).

    Examples
    --------
    >>> jacobian(np.zeros(2), (1, 1), ["identity"], np.array([[2.0]]))
    array([[[2., 1.]]])
    """

    def at(row: Array) -> Callable[[Array], Array]:
        return lambda vector: outputs(vector, widths, units, row)

    return np.array([_slopes(at(row), parameters) for row in x])


def fisher(parameters: Array, widths: Sequence[int], units: Sequence[str], family: str, x: Array) -> Array:
    """Return the Fisher matrix (P, P): the mean of g gᵀ over all targets that the model can draw.

    Raises
    ------
    InputError
        For families with infinitely many targets.

    Examples
    --------
    >>> fisher(np.zeros(2), (1, 1), ["identity"], "bernoulli", np.array([[2.0]]))
    array([[1.  , 0.5 ],
           [0.5 , 0.25]])
    """
    if family not in ("bernoulli", "categorical"):
        fail("family", "'bernoulli' or 'categorical': finitely many targets", repr(family))
    size = widths[-1]
    labels = np.array(list(itertools.product((0.0, 1.0), repeat=size)))
    if family == "categorical":
        labels = np.eye(size)
    total = np.zeros((len(parameters),) * 2)
    for row in x:
        z = outputs(parameters, widths, units, row)
        chances = np.exp([-LOSSES[family](z, y) for y in labels])
        slopes = row_gradients(parameters, widths, units, family, np.tile(row, (len(labels), 1)), labels)
        total += (slopes.T * chances) @ slopes
    return total / len(x)


def hessian(
    parameters: Array, widths: Sequence[int], units: Sequence[str], family: str, x: Array, y: Array
) -> Array:
    """Return the Hessian of the mean loss, (P, P): central differences of gradients, extrapolated (Richardson).

    Gradients are complex steps and hence exact; differences over ±h and ±h/2, h = 1e-3, leave an error of order h⁴ and
    rounding of order eps/h.

    Examples
    --------
    >>> x, y = np.array([[2.0]]), np.array([[1.0]])
    >>> hessian(np.zeros(2), (1, 1), ["identity"], "bernoulli", x, y).round(10)
    array([[1.  , 0.5 ],
           [0.5 , 0.25]])
    """

    def gradient(moved: Array) -> Array:
        return np.asarray(row_gradients(moved, widths, units, family, x, y).mean(axis=0))

    columns = []
    for unit in np.eye(len(parameters)):
        wide, narrow = (
            (gradient(parameters + h * unit) - gradient(parameters - h * unit)) / (2 * h)
            for h in (DIFFERENCE, DIFFERENCE / 2)
        )
        columns.append((4 * narrow - wide) / 3)
    return np.stack(columns, axis=-1)


def _slopes(function: Callable[[Array], Any], parameters: Array) -> Array:
    """Return the derivatives with respect to each parameter, on the last axis."""
    columns = []
    for k in range(len(parameters)):
        moved = parameters.astype(complex)
        moved[k] += 1j * STEP
        columns.append(np.imag(function(moved)) / STEP)
    return np.stack(columns, axis=-1)
