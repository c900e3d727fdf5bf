"""Which units are there? Each is a value φ and its first two derivatives, all told from the value itself.

For identity, tanh, logistic, ReLU and softplus both φ'(z) and φ''(z) are functions of h = φ(z), so that passes keep the
outputs of the layers and nothing else. Every function writes where it is told to and allocates nothing but scratch
of one block; arrays are walked through in blocks that stay in the cache, where several passes cost what one does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from linnat._checks import Array, as_choice

BLOCK = 1 << 15  # numbers in a block: 128 KiB in float32, half a usual second-level cache with its scratch


class Activation(NamedTuple):
    """A unit φ.

    Attributes
    ----------
    name : str
    apply : callable(z)
        Overwrite z with φ(z).
    slope : callable(h, out)
        Multiply `out` by φ'(z), where h = φ(z).
    bend : callable(h, out)
        Multiply `out` by φ''(z), where h = φ(z). ReLU counts as straight at 0, and so has φ'(0) = φ''(0) = 0.
    """

    name: str
    apply: Callable[[Array], None]
    slope: Callable[[Array, Array], None]
    bend: Callable[[Array, Array], None]


def _nothing(z: Array) -> None:
    """Leave z as it is."""


def _one(h: Array, out: Array) -> None:
    """Multiply by one."""


def _zero(h: Array, out: Array) -> None:
    out[...] = 0.0


def _tanh(z: Array) -> None:
    np.tanh(z, out=z)


def _tanh_slope(h: Array, out: Array) -> None:
    scratch = h * h
    np.subtract(1.0, scratch, out=scratch)
    out *= scratch


def _tanh_bend(h: Array, out: Array) -> None:
    _tanh_slope(h, out)
    out *= h
    out *= -2.0


def _logistic(z: Array) -> None:
    # By 1/(1 + e^{-z}): small values keep their relative precision, and an overflow of e^{-z} is the right zero.
    np.negative(z, out=z)
    np.exp(z, out=z)
    z += 1.0
    np.reciprocal(z, out=z)


def _logistic_slope(h: Array, out: Array) -> None:
    scratch = 1.0 - h
    scratch *= h
    out *= scratch


def _logistic_bend(h: Array, out: Array) -> None:
    _logistic_slope(h, out)
    scratch = -2.0 * h
    scratch += 1.0
    out *= scratch


def _relu(z: Array) -> None:
    np.maximum(z, 0.0, out=z)


def _relu_slope(h: Array, out: Array) -> None:
    out *= h > 0


def _softplus(z: Array) -> None:
    # log(1 + e^z) = max(z, 0) + log(1 + e^{-|z|})
    positive = np.maximum(z, 0.0)
    np.abs(z, out=z)
    np.negative(z, out=z)
    np.exp(z, out=z)
    np.log1p(z, out=z)
    z += positive


def _softplus_slope(h: Array, out: Array) -> None:
    # φ' = logistic(z) = 1 - e^{-h}
    scratch = np.negative(h)
    np.expm1(scratch, out=scratch)
    out *= scratch
    np.negative(out, out=out)


def _softplus_bend(h: Array, out: Array) -> None:
    _softplus_slope(h, out)
    out *= np.exp(-h)


ACTIVATIONS = {
    unit.name: unit
    for unit in (
        Activation("identity", _nothing, _one, _zero),
        Activation("tanh", _tanh, _tanh_slope, _tanh_bend),
        Activation("logistic", _logistic, _logistic_slope, _logistic_bend),
        Activation("relu", _relu, _relu_slope, _zero),
        Activation("softplus", _softplus, _softplus_slope, _softplus_bend),
    )
}


def as_activation(value: object, name: str = "activations") -> str:
    """Return the name of an activation."""
    return as_choice(value, name, tuple(ACTIVATIONS))


def activate(name: str, z: Array, bias: Array | None = None) -> None:
    """Overwrite the rows of z with φ(z + bias).

    Parameters
    ----------
    name : str
        Of the activation.
    z : array (N, n)
        Overwritten.
    bias : array (n,), optional

    Examples
    --------
    >>> z = np.array([[0.0, 1.0]])
    >>> activate("relu", z, np.array([0.5, -3.0]))
    >>> z
    array([[0.5, 0. ]])
    """
    unit = ACTIVATIONS[name]
    with np.errstate(over="ignore", under="ignore"):
        for rows in _blocks(z):
            part = z[rows]
            if bias is not None:
                part += bias
            unit.apply(part)


def multiply_by_slope(name: str, h: Array, out: Array) -> None:
    """Multiply `out` by φ'(z), told from h = φ(z).

    Examples
    --------
    >>> out = np.ones((1, 2))
    >>> multiply_by_slope("tanh", np.array([[0.0, 0.5]]), out)
    >>> out
    array([[1.  , 0.75]])
    """
    _blockwise(ACTIVATIONS[name].slope, h, out)


def multiply_by_bend(name: str, h: Array, out: Array) -> None:
    """Multiply `out` by φ''(z), told from h = φ(z).

    Examples
    --------
    >>> out = np.ones((1, 2))
    >>> multiply_by_bend("logistic", np.array([[0.5, 0.25]]), out)
    >>> out
    array([[0.     , 0.09375]])
    """
    _blockwise(ACTIVATIONS[name].bend, h, out)


def _blockwise(function: Callable[[Array, Array], None], h: Array, out: Array) -> None:
    if function is _one:
        return
    with np.errstate(under="ignore"):
        for rows in _blocks(h):
            function(h[rows], out[rows])


def _blocks(array: Array) -> list[slice]:
    """Return slices of rows that hold about BLOCK numbers each."""
    rows, columns = array.shape
    step = max(1, BLOCK // columns)
    return [slice(start, start + step) for start in range(0, rows, step)]
