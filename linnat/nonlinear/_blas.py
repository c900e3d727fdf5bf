"""How is a product added to what is there? By BLAS, which does C ← β C + AᵀB in one pass over C.

NumPy hands out AᵀB alone. BLAS writes zeros for it, then the product over them, and whoever wants it in C reads all of
it again, while nothing is computed: where C holds the weights of a layer and rows are few, such passes are a twentieth
of a training step, and a sixth while neighbours use the same memory. SciPy's functions take β but hold the interpreter,
so that threads wait for each other, and belong to another library with threads of its own. NumPy's own library has the
function too; threadpoolctl, which controls its threads, has it open, and ctypes lets the interpreter go meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_double, c_float, c_int, c_int64, c_void_p
from functools import cache
from typing import Any

import numpy as np

from linnat._checks import Array
from linnat.hardware import blas_threads

KINDS: dict[np.dtype[Any], tuple[str, Any]] = {
    np.dtype(np.float32): ("sgemm", c_float),
    np.dtype(np.float64): ("dgemm", c_double),
}
# Of the libraries that NumPy's wheels bring; the suffix says that sizes are integers of 64 bits.
NAMES = "scipy_cblas_{}64_", "cblas_{}64_"
ROW_MAJOR, AS_IT_LIES, TURNED = 101, 111, 112
FEW = 384  # rows: with more BLAS goes over C several times


def adds_products(rows: int, dtype: Any) -> bool:
    """Return whether BLAS itself adds a product of so many rows, and is the faster for it.

    Examples
    --------
    >>> adds_products(10**6, float)
    False
    """
    return rows <= FEW and _gemm(np.dtype(dtype)) is not None


def add_product(left: Array, right: Array, out: Array, factor: float = 1.0, keep: float = 1.0) -> None:
    """Overwrite `out` (m, n) with keep · out + factor · leftᵀ right.

    Parameters
    ----------
    left : array (N, m)
    right : array (N, n)
    out : array (m, n)
        Apart from both in memory, and of their dtype.
    factor, keep : float
        Where `keep` is 0, nothing of what `out` held is read.

    Notes
    -----
    Without the function of BLAS, for other dtypes, and where the numbers of a row are not neighbours, NumPy does it in
    three passes. BLAS adds in stretches of a few hundred rows: each is rounded with what is there.

    Examples
    --------
    >>> out = np.ones((2, 1))
    >>> add_product(np.array([[1.0, 2.0]]), np.array([[3.0]]), out, keep=0.5)
    >>> out
    array([[3.5],
           [6.5]])
    """
    gemm = _gemm(out.dtype)
    a, b, c = _step(left), _step(right), _step(out)
    fits = a and b and c and left.dtype == right.dtype == out.dtype and out.flags.writeable
    if gemm is None or not fits:
        if keep == 0.0:
            out[...] = 0.0
        elif keep != 1.0:
            out *= keep
        out += factor * (left.T @ right)
        return
    sizes = out.shape[0], out.shape[1], len(left)
    places = [array.ctypes.data for array in (left, right, out)]
    gemm(ROW_MAJOR, TURNED, AS_IT_LIES, *sizes, factor, places[0], a, places[1], b, keep, places[2], c)


def _step(array: Array) -> int:
    """Return by how many numbers the rows lie apart; 0 where BLAS cannot take it as it lies."""
    (count, width), size = array.shape, array.itemsize
    if not array.flags.aligned or (width > 1 and array.strides[1] != size):
        return 0
    step, rest = divmod(array.strides[0], size) if count > 1 else (width, 0)
    return step if 0 < width <= step and rest == 0 else 0


@cache
def _gemm(kind: np.dtype[Any]) -> Callable[..., None] | None:
    """Return BLAS's function for a dtype; None where there is none."""
    control = blas_threads()
    if control is None or control.internal_api != "openblas" or kind not in KINDS:
        return None
    name, number = KINDS[kind]
    for pattern in NAMES:
        function = getattr(control.dynlib, pattern.format(name), None)
        if function is not None:
            size, place = c_int64, c_void_p
            function.argtypes = (
                [c_int] * 3 + [size] * 3 + [number] + [place, size] * 2 + [number, place, size]
            )
            function.restype = None
            return function  # type: ignore[no-any-return]
    return None
