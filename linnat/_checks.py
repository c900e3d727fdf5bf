"""Validate and return: the sole source of input errors.

Every public function passes its arguments through this module first. A check returns the
argument as an array of the type that the rest of the package may rely on, or raises one error
that names the argument, what was expected, what was found and, where there is one, the remedy.
"""

from __future__ import annotations

import functools
import math
import numbers
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeAlias, TypeVar, cast

import numpy as np
from scipy.linalg import blas

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
RngLike: TypeAlias = np.random.Generator | int | np.integer[Any]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

LARGE = 10_000  # numbers, from which on reading them once is what counts
SUMS = {"d": blas.dasum, "f": blas.sasum}
FLOAT_TYPES = (np.dtype(np.float32), np.dtype(np.float64))


class InputError(ValueError):
    """An argument is not what the function needs."""


class RangeError(InputError, OverflowError):
    """A result, or a number on the way to it, is larger than the type of the numbers can hold."""


class ConditionError(InputError):
    """A formula was asked for outside of its condition; names the statement that applies."""


class FlowBreakdownError(ConditionError):
    """A flow meets a singular matrix.

    Attributes
    ----------
    time : float
        The earliest time at which the flow ceases to exist.
    """

    def __init__(self, message: str, time: float) -> None:
        super().__init__(message)
        self.time = time


class ConvergenceError(RuntimeError):
    """An iteration stopped before it reached its tolerance.

    Attributes
    ----------
    estimate : object
        The best iterate.
    """

    def __init__(self, message: str, estimate: object = None) -> None:
        super().__init__(message)
        self.estimate = estimate


class RankWarning(UserWarning):
    """The numerical rank of a matrix is undetermined at working precision."""


def fail(
    name: str, expected: str, found: object, remedy: str = "", *, kind: type[InputError] = InputError
) -> NoReturn:
    """Raise the one error of bad input: name, expected, found, remedy."""
    raise kind(f"{name}: expected {expected}, found {found}.{' ' + remedy if remedy else ''}")


def representable(
    names: str, *, inf: bool = False, nan: bool = False
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Make a public function raise RangeError where its numbers leave the range of their type.

    The one rule of overflow: no warning, no silent NaN or inf. Whatever is lost by overflow on the way counts, also
    where the result would have been small; what is too small for the type is rounded to zero. Results are looked at
    once more at the end, since BLAS does not report what overflows in it.

    Parameters
    ----------
    names : str
        The arguments whose size is at fault.
    inf, nan : bool
        Whether the function may return infinities, or NaN, on purpose.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        owner, _, own = function.__qualname__.rpartition(".")
        place = owner if own.startswith("_") else own
        # As a decorator it takes half as long as in `with`.
        strict = np.errstate(over="raise", invalid="raise", divide="raise")(function)

        @functools.wraps(function)
        def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            try:
                result = strict(*args, **kwargs)
            except (FloatingPointError, np.linalg.LinAlgError) as error:
                cause = str(error)
            else:
                if is_in_range(result, inf=inf, nan=nan):
                    return result
                cause = "inf or NaN in the result"
            found = next((getattr(a, "dtype", None) for a in args), None)
            kind = found if isinstance(found, np.dtype) else np.dtype(np.float64)
            remedy = "Rescale them." if kind != np.float32 else "Rescale them, or use float64."
            raise RangeError(
                f"{names}: expected sizes that stay within the range of {kind.name} in {place}, "
                f"found {cause}. {remedy}"
            ) from None

        return guarded

    return decorate


def is_in_range(value: object, *, inf: bool = False, nan: bool = False) -> bool:
    """Return whether all floating-point arrays of a (nested) tuple are finite, or not NaN where `inf` is allowed."""
    if isinstance(value, (tuple, list)):
        return all(is_in_range(v, inf=inf, nan=nan) for v in value)
    if nan or not isinstance(value, (np.ndarray, np.inexact, float)):
        return True
    array = np.asarray(value)
    if array.dtype.kind not in "fc":
        return True
    return not np.isnan(array).any() if inf else _all_finite(array)


def as_float_array(value: object, name: str, *, ndim: int | None = None, min_ndim: int = 0) -> Array:
    """Return `value` as a finite, non-empty float32 or float64 array (integers become float64)."""
    if _has_mask(value):
        fail(name, "numbers without a mask", "masked entries", "Leave out these rows, or fill them.")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: expected an array of real numbers, found {error}.") from None
    if array.dtype.kind in "iu":
        array = array.astype(np.float64)
    if array.dtype.newbyteorder("=") not in FLOAT_TYPES:
        fail(name, "real numbers (float64, float32 or integers)", f"dtype {array.dtype}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if ndim is not None and array.ndim != ndim:
        fail(name, f"{ndim} dimension(s)", f"shape {array.shape}")
    if array.ndim < min_ndim:
        fail(name, f"at least {min_ndim} dimension(s)", f"shape {array.shape}")
    if array.size == 0:
        fail(name, "a non-empty array", f"shape {array.shape}")
    if not _all_finite(array):
        where = np.argwhere(~np.isfinite(array))[0]
        place = tuple(int(k) for k in where)
        fail(name, "finite numbers", f"{array[place]} at index {place}")
    return array


def as_matrix(value: object, name: str) -> Array:
    """Return `value` as a stack of matrices, shape (…, m, n)."""
    return as_float_array(value, name, min_ndim=2)


def as_rows(value: object, name: str) -> Array:
    """Return `value` as data, one sample in a row, shape (N, n)."""
    return as_float_array(value, name, ndim=2)


def as_scalar(
    value: object, name: str, *, low: float = -math.inf, high: float = math.inf, open_low: bool = False
) -> float:
    """Return `value` as a finite float within [low, high] (or (low, high] with `open_low`)."""
    # Floats are the most frequent case, at a tenth of the price.
    number = value if type(value) is float else _as_number(value, name)
    too_low = number <= low if open_low else number < low
    if not math.isfinite(number) or too_low or number > high:
        bracket = "(" if open_low else "["
        fail(name, f"a finite number in {bracket}{low}, {high}]", number)
    return number


def as_count(value: object, name: str, *, low: int = 1) -> int:
    """Return `value` as an integer ≥ `low`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        fail(name, f"an integer ≥ {low}", f"{type(value).__name__} {_short(value)}")
    if value < low:
        fail(name, f"an integer ≥ {low}", value)
    return int(value)


def as_layer(value: object, name: str, depth: int) -> int:
    """Return a layer number in the theory's counting, 1…depth."""
    number = as_count(value, name, low=1)
    if number > depth:
        fail(name, f"a layer number from 1 to {depth}", number)
    return number


def as_times(value: object, name: str = "times") -> Array:
    """Return times as a float64 array of one dimension (a scalar becomes length 1), all ≥ 0 and finite."""
    times = np.atleast_1d(as_float_array(value, name)).astype(np.float64)
    if times.ndim != 1:
        fail(name, "a scalar or a one-dimensional array of times", f"shape {times.shape}")
    if (times < 0).any():
        fail(name, "times ≥ 0", float(times.min()))
    return times


def as_rng(value: object, name: str = "rng") -> np.random.Generator:
    """Return a NumPy Generator from a Generator or an integer seed."""
    if isinstance(value, np.random.Generator):
        return value
    if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_)) and value >= 0:
        return np.random.default_rng(int(value))
    fail(name, "a numpy.random.Generator or a non-negative integer seed", f"{type(value).__name__}")


def as_choice(value: object, name: str, choices: Sequence[str]) -> str:
    """Return `value` if it is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        fail(name, "one of " + ", ".join(repr(choice) for choice in choices), _short(value))
    return value


def as_path(value: object, name: str = "path") -> Path:
    """Return the path of a file."""
    if not isinstance(value, (str, os.PathLike)) or "\0" in str(value):
        fail(name, "the path of a file", _short(value))
    return Path(value)


def as_shape(value: object, name: str) -> tuple[int, ...]:
    """Return leading axes, a tuple of positive integers (one integer counts as one axis)."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_)):
        return (as_count(value, name),)
    if isinstance(value, str) or not isinstance(value, Iterable):
        fail(name, "a tuple of positive integers", _short(value))
    return tuple(as_count(n, name) for n in value)


def as_dtype(value: object, name: str = "dtype") -> np.dtype[Any]:
    """Return float32 or float64 as a NumPy dtype."""
    try:
        dtype = np.dtype(value)  # type: ignore[call-overload]
    except TypeError:
        fail(name, "float32 or float64", repr(value))
    if dtype not in FLOAT_TYPES:
        fail(name, "float32 or float64", dtype)
    return cast(np.dtype[Any], np.dtype(dtype))


def as_covariance(
    value: object, name: str, size: int, *, definite: bool = False, scale: Array | float = 0.0
) -> Array:
    """Return a symmetric positive semi-definite matrix of the given size, in float64.

    Symmetry and semi-definiteness are tested to size · eps(dtype) · λ_max; `definite` demands that the
    smallest eigenvalue exceeds that same cut-off. A `scale` above λ_max takes its place, where the matrix
    is a difference of larger ones.
    """
    matrix = as_matrix(value, name)
    if matrix.shape[-2:] != (size, size):
        fail(name, f"shape (…, {size}, {size})", f"shape {matrix.shape}")
    slack = 8 * size * float(np.finfo(matrix.dtype).eps)
    matrix = matrix.astype(np.float64)
    transposed = np.swapaxes(matrix, -1, -2)
    size_of_entries = np.maximum(np.abs(matrix).max(axis=(-1, -2)), scale)[..., None, None]
    if (np.abs(matrix - transposed) > slack * size_of_entries).any():
        worst = float(np.abs(matrix - transposed).max())
        fail(name, "a symmetric matrix", f"|C - Cᵀ| up to {worst:.3g}", "Symmetrise it with (C + C.T) / 2.")
    matrix = 0.5 * (matrix + transposed)
    values = np.linalg.eigvalsh(matrix)
    smallest, largest = values[..., 0], values[..., -1]
    cut = slack * np.maximum(np.abs(values).max(axis=-1), scale)
    if definite and (smallest <= cut).any():
        fail(name, "a positive definite matrix", f"smallest eigenvalue {float(smallest.min()):.6g}")
    if (smallest < -cut).any():
        worst = float(smallest[smallest < -cut].min())
        fail(
            name,
            "a positive semi-definite matrix",
            f"eigenvalue {worst:.6g} (largest {float(largest.max()):.3g})",
        )
    return matrix


def _as_number(value: object, name: str) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.ndarray)):
        fail(name, "a real number", f"{type(value).__name__} {_short(value)}")
    array = np.asarray(value)
    if array.ndim != 0 or array.dtype.kind not in "iuf":
        fail(name, "a real scalar", f"shape {array.shape}, dtype {array.dtype}")
    return float(array)


def _all_finite(array: Array) -> bool:
    """Return whether all numbers are finite, at once from a sum of them, which is not finite if one is not."""
    if array.size > LARGE:
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(array.sum()):
                return True
    elif array.size and array.dtype.char in SUMS:
        # In BLAS overflow is no floating-point error, and so few numbers start no second thread.
        total = SUMS[array.dtype.char](array.ravel(order="K"))
        if math.isfinite(total):
            return True
    return bool(np.isfinite(array).all())


def _has_mask(value: object) -> bool:
    """Return whether an array, or one within nested lists, has masked entries, which np.asarray would drop."""
    if isinstance(value, (list, tuple)):
        return any(_has_mask(item) for item in value)
    return isinstance(value, np.ma.MaskedArray) and bool(np.ma.is_masked(value))


def _short(value: object) -> str:
    """Return one line that shows a value."""
    return " ".join(repr(value).split())[:80]


def check_broadcast(shapes: Iterable[tuple[int, ...]], name: str) -> tuple[int, ...]:
    """Return the broadcast of leading shapes, or raise naming the argument."""
    shapes = list(shapes)
    if not shapes or shapes.count(shapes[0]) == len(shapes):
        return tuple(shapes[0]) if shapes else ()
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError:
        fail(name, "leading axes that broadcast", " and ".join(str(shape) for shape in shapes))


def freeze(array: Array) -> Array:
    """Return a read-only copy (or the array itself when it already owns read-only memory)."""
    if array.flags.writeable or array.base is not None:
        array = array.copy()
        array.flags.writeable = False
    return array
