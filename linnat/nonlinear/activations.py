"""Which units are there? Each is a value φ and its first two derivatives, all told from the value itself.

For identity, tanh, logistic, ReLU and softplus both φ'(z) and φ''(z) are functions of h = φ(z), so that passes keep the
outputs of the layers and nothing else. Every function writes where it is told to and allocates nothing but scratch
of one block, nor that where scratch is given; arrays are walked through in blocks that stay in the cache, where several
passes cost what one does.
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
    apply : callable(z, scratch)
        Overwrite z with φ(z); scratch of the same shape, or None.
    slope : callable(h, out, scratch)
        Multiply `out` by φ'(z), where h = φ(z).
    bend : callable(h, out, scratch)
        Multiply `out` by φ''(z), where h = φ(z). ReLU counts as straight at 0, and so has φ'(0) = φ''(0) = 0.
    """

    name: str
    apply: Callable[[Array, Array | None], None]
    slope: Callable[[Array, Array, Array | None], None]
    bend: Callable[[Array, Array, Array | None], None]


def _nothing(z: Array, scratch: Array | None = None) -> None:
    """Leave z as it is."""


def _one(h: Array, out: Array, scratch: Array | None = None) -> None:
    """Multiply by one."""


def _zero(h: Array, out: Array, scratch: Array | None = None) -> None:
    out[...] = 0.0


def _tanh(z: Array, scratch: Array | None = None) -> None:
    np.tanh(z, out=z)


def _tanh_slope(h: Array, out: Array, scratch: Array | None = None) -> None:
    scratch = np.multiply(h, h, out=scratch)
    np.subtract(1.0, scratch, out=scratch)
    out *= scratch


def _tanh_bend(h: Array, out: Array, scratch: Array | None = None) -> None:
    _tanh_slope(h, out, scratch)
    out *= h
    out *= -2.0


def _logistic(z: Array, scratch: Array | None = None) -> None:
    # By 1/(1 + e^{-z}): small values keep their relative precision, and an overflow of e^{-z} is the right zero.
    np.negative(z, out=z)
    np.exp(z, out=z)
    z += 1.0
    np.reciprocal(z, out=z)


def _logistic_slope(h: Array, out: Array, scratch: Array | None = None) -> None:
    scratch = np.subtract(1.0, h, out=scratch)
    scratch *= h
    out *= scratch


def _logistic_bend(h: Array, out: Array, scratch: Array | None = None) -> None:
    _logistic_slope(h, out, scratch)
    scratch = np.multiply(h, -2.0, out=scratch)
    scratch += 1.0
    out *= scratch


def _relu(z: Array, scratch: Array | None = None) -> None:
    np.maximum(z, 0.0, out=z)


def _relu_slope(h: Array, out: Array, scratch: Array | None = None) -> None:
    out *= np.greater(h, 0.0, out=scratch)


def _softplus(z: Array, scratch: Array | None = None) -> None:
    # log(1 + e^z) = max(z, 0) + log(1 + e^{-|z|})
    positive = np.maximum(z, 0.0, out=scratch)
    np.abs(z, out=z)
    np.negative(z, out=z)
    np.exp(z, out=z)
    np.log1p(z, out=z)
    z += positive


def _softplus_slope(h: Array, out: Array, scratch: Array | None = None) -> None:
    # φ' = logistic(z) = 1 - e^{-h}
    scratch = np.negative(h, out=scratch)
    np.expm1(scratch, out=scratch)
    out *= scratch
    np.negative(out, out=out)


def _softplus_bend(h: Array, out: Array, scratch: Array | None = None) -> None:
    _softplus_slope(h, out, scratch)
    scratch = np.negative(h, out=scratch)
    out *= np.exp(scratch, out=scratch)


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


def activate(name: str, z: Array, bias: Array | None = None, scratch: Array | None = None) -> None:
    """Overwrite the rows of z with φ(z + bias).

    Parameters
    ----------
    name : str
        Of the activation.
    z : array (N, n)
        Overwritten.
    bias : array (n,), optional
    scratch : array (`scratch_size(N, n)`,), optional
        Overwritten; allocated block by block by default.

    Examples
    --------
    >>> z = np.array([[0.0, 1.0]])
    >>> activate("relu", z, np.array([0.5, -3.0]))
    >>> z
    array([[0.5, 0. ]])
    """
    unit = ACTIVATIONS[name]
    with np.errstate(over="ignore", under="ignore"):
        for rows in row_blocks(z):
            part = z[rows]
            if bias is not None:
                part += bias
            unit.apply(part, fitting(scratch, part))


def multiply_by_slope(name: str, h: Array, out: Array, scratch: Array | None = None) -> None:
    """Multiply `out` by φ'(z), told from h = φ(z).

    Examples
    --------
    >>> out = np.ones((1, 2))
    >>> multiply_by_slope("tanh", np.array([[0.0, 0.5]]), out)
    >>> out
    array([[1.  , 0.75]])
    """
    _blockwise(ACTIVATIONS[name].slope, h, out, scratch)


def multiply_by_bend(name: str, h: Array, out: Array) -> None:
    """Multiply `out` by φ''(z), told from h = φ(z).

    Examples
    --------
    >>> out = np.ones((1, 2))
    >>> multiply_by_bend("logistic", np.array([[0.5, 0.25]]), out)
    >>> out
    array([[0.     , 0.09375]])
    """
    _blockwise(ACTIVATIONS[name].bend, h, out, None)


def _blockwise(
    function: Callable[[Array, Array, Array | None], None], h: Array, out: Array, scratch: Array | None
) -> None:
    if function is _one:
        return
    with np.errstate(under="ignore"):
        for rows in row_blocks(h):
            function(h[rows], out[rows], fitting(scratch, h[rows]))


def row_blocks(array: Array) -> list[slice]:
    """Return slices of rows that hold about BLOCK numbers each."""
    rows, columns = array.shape
    step = max(1, BLOCK // columns)
    return [slice(start, start + step) for start in range(0, rows, step)]


def scratch_size(rows: int, columns: int) -> int:
    """Return how many numbers the largest block of an array (N, n) has.

    Examples
    --------
    >>> scratch_size(10, 3), scratch_size(1000, 1000)
    (30, 32000)
    """
    return min(rows, max(1, BLOCK // columns)) * columns


def fitting(scratch: Array | None, part: Array) -> Array | None:
    """Return scratch in the shape of a block, or None for none."""
    return None if scratch is None else scratch[: part.size].reshape(part.shape)
