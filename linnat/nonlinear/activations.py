"""Which units are there? Each is a value φ and its first two derivatives, all told from the value itself.

For identity, tanh, logistic, ReLU and softplus both φ'(z) and φ''(z) are functions of h = φ(z), so that passes keep the
outputs of the layers and nothing else. Every function writes where it is told to and allocates nothing; arrays are
walked through in blocks that stay in the cache, where several passes cost what one does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from linnat._checks import Array, as_choice
from linnat.nonlinear._rooms import room

BLOCK = 1 << 16  # numbers in a block: 256 KiB in float32, a usual second-level cache with its scratch


class Activation(NamedTuple):
    """A unit φ.

    Attributes
    ----------
    name : str
    apply : callable(z, bias, scratch)
        Overwrite z with φ(z + b), for a row b that every row is given; scratch of the same shape.
    slope : callable(h, out, scratch)
        Multiply `out` by φ'(z), where h = φ(z).
    bend : callable(h, out, scratch)
        Multiply `out` by φ''(z), where h = φ(z). ReLU counts as straight at 0, and so has φ'(0) = φ''(0) = 0.
    bounded : bool
        Whether |φ| ≤ 1.
    """

    name: str
    apply: Callable[[Array, Array, Array], None]
    slope: Callable[[Array, Array, Array], None]
    bend: Callable[[Array, Array, Array], None]
    bounded: bool = False


def _identity(z: Array, bias: Array, scratch: Array) -> None:
    z += bias


def _one(h: Array, out: Array, scratch: Array) -> None:
    """Multiply by one."""


def _zero(h: Array, out: Array, scratch: Array) -> None:
    out[...] = 0.0


def _tanh(z: Array, bias: Array, scratch: Array) -> None:
    z += bias
    np.tanh(z, out=z)


def _tanh_slope(h: Array, out: Array, scratch: Array) -> None:
    np.multiply(h, h, out=scratch)
    np.subtract(1.0, scratch, out=scratch)
    out *= scratch


def _tanh_bend(h: Array, out: Array, scratch: Array) -> None:
    _tanh_slope(h, out, scratch)
    out *= h
    out *= -2.0


def _logistic(z: Array, bias: Array, scratch: Array) -> None:
    # By 1/(1 + e^{-z}): small values keep their relative precision, and an overflow of e^{-z} is the right zero.
    np.subtract(-bias, z, out=z)
    np.exp(z, out=z)
    z += 1.0
    np.divide(1.0, z, out=z)  # faster than `reciprocal`


def _logistic_slope(h: Array, out: Array, scratch: Array) -> None:
    np.subtract(1.0, h, out=scratch)
    scratch *= h
    out *= scratch


def _logistic_bend(h: Array, out: Array, scratch: Array) -> None:
    _logistic_slope(h, out, scratch)
    np.multiply(h, -2.0, out=scratch)
    scratch += 1.0
    out *= scratch


def _relu(z: Array, bias: Array, scratch: Array) -> None:
    z += bias
    np.maximum(z, 0.0, out=z)


def _relu_slope(h: Array, out: Array, scratch: Array) -> None:
    out *= np.greater(h, 0.0, out=scratch)


def _softplus(z: Array, bias: Array, scratch: Array) -> None:
    # log(1 + e^z) = max(z, 0) + log(1 + e^{-|z|})
    z += bias
    positive = np.maximum(z, 0.0, out=scratch)
    np.abs(z, out=z)
    np.negative(z, out=z)
    np.exp(z, out=z)
    np.log1p(z, out=z)
    z += positive


def _softplus_slope(h: Array, out: Array, scratch: Array) -> None:
    # φ' = logistic(z) = 1 - e^{-h}
    np.negative(h, out=scratch)
    np.expm1(scratch, out=scratch)
    out *= scratch
    np.negative(out, out=out)


def _softplus_bend(h: Array, out: Array, scratch: Array) -> None:
    _softplus_slope(h, out, scratch)
    np.negative(h, out=scratch)
    out *= np.exp(scratch, out=scratch)


ACTIVATIONS = {
    unit.name: unit
    for unit in (
        Activation("identity", _identity, _one, _zero),
        Activation("tanh", _tanh, _tanh_slope, _tanh_bend, True),
        Activation("logistic", _logistic, _logistic_slope, _logistic_bend, True),
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
        None is zero.

    Examples
    --------
    >>> z = np.array([[0.0, 1.0]])
    >>> activate("relu", z, np.array([0.5, -3.0]))
    >>> z
    array([[0.5, 0. ]])
    """
    unit, row = ACTIVATIONS[name], np.zeros(z.shape[1], z.dtype) if bias is None else bias
    with np.errstate(over="ignore", under="ignore"):
        for rows in row_blocks(z):
            part = z[rows]
            unit.apply(part, row, beside(part))


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


def _blockwise(function: Callable[[Array, Array, Array], None], h: Array, out: Array) -> None:
    if function is _one:
        return
    with np.errstate(under="ignore"):
        for rows in row_blocks(h):
            function(h[rows], out[rows], beside(h[rows]))


def beside(part: Array) -> Array:
    """Return scratch for a block, of its shape and dtype, in a room of this thread."""
    return room("block", part.dtype, part.shape)[0]


def row_blocks(array: Array) -> tuple[slice, ...]:
    """Return slices of rows that hold about BLOCK numbers each."""
    return _row_blocks(*array.shape)


@lru_cache(maxsize=256)
def _row_blocks(rows: int, columns: int) -> tuple[slice, ...]:
    step = max(1, BLOCK // columns)
    return tuple(slice(start, start + step) for start in range(0, rows, step))
