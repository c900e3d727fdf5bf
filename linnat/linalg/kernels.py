"""Which library does the arithmetic? One of them in each path.

NumPy and SciPy wheels carry an OpenBLAS each, with a pool of busy-waiting threads of its own; mixed in one
loop they slow each other down by an order of magnitude. A single matrix goes to SciPy's BLAS and LAPACK
throughout (only SciPy has reusable LU factors and triangular solves), a stack of matrices to NumPy's
broadcasting routines throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from scipy.linalg import blas, lapack

from linnat._checks import Array

SMALL = 48  # below this size an SVD is cheaper than an iteration
SETTLED = 1e-2  # relative change at which an iteration ends
ITERATIONS = 12
QR_BLOCK = 64
NARROW = 8  # fewer columns than this, and matrices of up to DIRECT rows, are solved for by one call of LAPACK
DIRECT = 128
SMALLEST_SQUARE = 1e-260  # below, the squares in a norm may have been rounded to zero


class Factored(NamedTuple):
    """A square matrix ready for solves: LU factors of a single matrix, or of its transpose; or the stack itself.

    `order` are the rows of what was factored in the order of L (empty where LAPACK does the whole solve), `turned`
    tells that it was the transpose.
    """

    matrix: Array
    pivots: Array | None
    order: Array | None = None
    turned: bool = False


def transpose(a: Array) -> Array:
    """Swap the last two axes (a view)."""
    return np.swapaxes(a, -1, -2)


def matmul(a: Array, b: Array) -> Array:
    """Return a b. 2 m k n flops."""
    if a.ndim > 2 or b.ndim > 2 or 0 in a.shape or 0 in b.shape:
        return cast(Array, np.matmul(a, b))
    a, b = _same_dtype(a, b)
    first, first_flag = _fortran(a)
    second, second_flag = _fortran(b)
    gemm = blas.dgemm if a.dtype == np.float64 else blas.sgemm
    if first_flag and second_flag:  # bᵀaᵀ, so that the product is like its factors
        return cast(Array, gemm(1.0, second, first).T)
    return cast(Array, gemm(1.0, first, second, trans_a=first_flag, trans_b=second_flag))


def matmul_into(out: Array, a: Array, b: Array, *, add: bool = False) -> None:
    """Write a b, or add it, into a matrix in Fortran order; like `matmul`, for single matrices of one dtype."""
    if 0 in a.shape or 0 in b.shape:
        if not add:
            out[...] = 0
        return
    first, first_flag = _fortran(a)
    second, second_flag = _fortran(b)
    gemm = blas.dgemm if out.dtype == np.float64 else blas.sgemm
    found = gemm(
        1.0, first, second, beta=float(add), c=out, trans_a=first_flag, trans_b=second_flag, overwrite_c=1
    )
    if found is not out:  # it was not in Fortran order, and has been copied
        out[...] = found


def qr(a: Array, *, full: bool = False) -> tuple[Array, Array]:
    """Return Q and R of a; reduced, or with a square Q (`full`). About 4 m n² flops with Q."""
    rows, columns = a.shape[-2:]
    if a.ndim > 2 or 0 in a.shape:
        return cast(tuple[Array, Array], tuple(np.linalg.qr(a, mode="complete" if full else "reduced")))
    double = a.dtype == np.float64
    # Recursive panels and wide blocks: unlike geqrf and orgqr they gain from a second thread.
    geqrt, gemqrt = (lapack.dgeqrt, lapack.dgemqrt) if double else (lapack.sgeqrt, lapack.sgemqrt)
    short = min(rows, columns)
    packed, blocks, _ = geqrt(min(QR_BLOCK, short), a)
    identity = np.eye(rows, rows if full else short, dtype=a.dtype, order="F")
    basis, _ = gemqrt(packed[:, :short], blocks, identity, overwrite_c=1)
    return basis, np.triu(packed if full else packed[:short])


def solve_triangular(t: Array, b: Array, *, lower: bool, transposed: bool = False) -> Array:
    """Return t⁻¹ b, or t⁻ᵀ b. n² k flops."""
    if t.ndim > 2 or b.ndim > 2 or 0 in b.shape:
        return cast(Array, np.linalg.solve(transpose(t) if transposed else t, b))
    t, b = _same_dtype(t, b)
    trsm = blas.dtrsm if t.dtype == np.float64 else blas.strsm
    matrix, flag = _fortran(t)
    right, side = _fortran(b)  # on bᵀ from the right where that is the Fortran array: nothing is copied
    solution = trsm(1.0, matrix, right, side=side, lower=lower ^ flag, trans_a=flag ^ transposed ^ side)
    return cast(Array, solution.T if side else solution)


def solve_triangular_right(b: Array, t: Array, *, lower: bool) -> Array:
    """Return b t⁻¹. n² k flops."""
    if t.ndim > 2 or b.ndim > 2 or 0 in b.shape:
        return transpose(np.linalg.solve(transpose(t), transpose(b)))
    return solve_triangular(t, b.T, lower=lower, transposed=True).T


def factor(a: Array) -> Factored:
    """Factor a square matrix for `solve` and `solve_right`. ⅔ n³ flops."""
    if a.ndim > 2:
        return Factored(a, None)
    getrf = lapack.dgetrf if a.dtype == np.float64 else lapack.sgetrf
    matrix, flag = _fortran(a)
    lu, pivots, _ = getrf(matrix)
    if len(a) <= DIRECT:
        return Factored(lu, pivots, turned=flag)
    order = lapack.dlaswp(np.arange(len(a), dtype=np.float64)[:, None], pivots)[:, 0]
    return Factored(lu, pivots, order.astype(np.intp), flag)


def solve(a: Factored, b: Array, *, transposed: bool = False) -> Array:
    """Return a⁻¹ b, or a⁻ᵀ b. 2 n² k flops."""
    if a.pivots is None:
        return cast(Array, np.linalg.solve(transpose(a.matrix) if transposed else a.matrix, b))
    double, transposed = a.matrix.dtype == np.float64, transposed ^ a.turned
    if b.shape[-1] < NARROW or a.order is None:
        getrs = lapack.dgetrs if double else lapack.sgetrs
        return cast(Array, getrs(a.matrix, a.pivots, b, trans=int(transposed))[0])
    # On bᵀ from the right: getrs solves from the left, for which OpenBLAS has the slower kernels (up to 1.7 times).
    lu, b, trsm = a.matrix, b.astype(a.matrix.dtype, copy=False), blas.dtrsm if double else blas.strsm
    if not transposed:
        half = trsm(1.0, lu, b[a.order].T, side=1, lower=1, diag=1, trans_a=1, overwrite_b=1)
        return cast(Array, trsm(1.0, lu, half, side=1, trans_a=1, overwrite_b=1).T)
    half = trsm(1.0, lu, b.T, side=1)
    solution = np.empty(b.shape, b.dtype)
    solution[a.order] = trsm(1.0, lu, half, side=1, lower=1, diag=1, overwrite_b=1).T
    return solution


def solve_right(b: Array, a: Factored) -> Array:
    """Return b a⁻¹. 2 n² k flops."""
    return transpose(solve(a, transpose(b), transposed=True))


def solve_checked(a: Factored, original: Array, b: Array) -> tuple[Array, Array]:
    """Return a⁻¹ b and the condition number of a: estimated in the 1-norm for one matrix, Frobenius for a stack."""
    if a.pivots is not None:
        gecon = lapack.dgecon if original.dtype == np.float64 else lapack.sgecon
        norm = _one_norm(original)
        reciprocal = gecon(a.matrix, norm, norm="I" if a.turned else "1")[0] if norm else 0.0
        return solve(a, b), np.asarray(1 / reciprocal if reciprocal > 0 else np.inf)
    size, columns = original.shape[-1], b.shape[-1]
    identity = np.broadcast_to(np.eye(size, dtype=original.dtype), original.shape)
    try:
        solution = np.linalg.solve(original, np.concatenate([b, identity], axis=-1))
    except np.linalg.LinAlgError:
        return b, np.full(original.shape[:-2], np.inf)
    return solution[..., :columns], frobenius(original) * frobenius(solution[..., columns:])


def inverse_checked(a: Factored, original: Array) -> tuple[Array, Array]:
    """Return a⁻¹ and the condition number of a like `solve_checked`, here without an estimate. 2 n³ flops."""
    identity = np.eye(original.shape[-1], dtype=original.dtype)
    if a.pivots is not None:
        inverse = solve_right(identity, a)
        condition = _one_norm(original) * _one_norm(inverse)
        return inverse, np.asarray(condition if np.isfinite(condition) else np.inf)
    try:
        inverse = np.linalg.solve(original, np.broadcast_to(identity, original.shape))
    except np.linalg.LinAlgError:
        return original, np.full(original.shape[:-2], np.inf)
    return inverse, frobenius(original) * frobenius(inverse)


def _one_norm(a: Array) -> float:
    lange = lapack.dlange if a.dtype == np.float64 else lapack.slange
    matrix, flag = _fortran(a)
    return float(lange("I" if flag else "1", matrix))


def frobenius(a: Array) -> Array:
    """Return the Frobenius norm of each matrix."""
    # In float64: squares of large float32 entries overflow.
    square = np.einsum("...ij,...ij->...", a, a, dtype=np.float64)
    if a.dtype == np.float32 or ((square > SMALLEST_SQUARE) & (square < np.inf)).all():
        return np.asarray(np.sqrt(square))
    largest = np.abs(a).max(axis=(-1, -2), initial=0.0)
    scale = np.where((largest > 0) & (largest < np.inf), largest, 1.0)
    scaled = a / scale[..., None, None]
    return np.asarray(scale * np.sqrt(np.einsum("...ij,...ij->...", scaled, scaled)))


def column_norms(a: Array) -> Array:
    """Return the Euclidean norm of each column (…, n), in the dtype of the matrix."""
    square = np.einsum("...ij,...ij->...j", a, a, dtype=np.float64)
    if ((square > SMALLEST_SQUARE) & (square < np.inf)).all():
        return np.asarray(np.sqrt(square).astype(a.dtype))
    largest = np.abs(a).max(axis=-2, initial=0.0)
    scale = np.where(largest > 0, largest, 1.0).astype(np.float64)
    return np.asarray(scale * np.linalg.norm(a / scale[..., None, :], axis=-2)).astype(a.dtype)


def two_norm(a: Array) -> Array:
    """Return the largest singular value: by a power iteration, within a few per cent, for a large matrix."""
    if 0 in a.shape[-2:]:
        return np.zeros(a.shape[:-2])
    if a.ndim > 2 or min(a.shape) < SMALL:
        return np.asarray(np.linalg.svd(a, compute_uv=False)[..., 0])
    # By gemv: a product with a matrix of one column would pack the other one.
    gemv = blas.dgemv if a.dtype == np.float64 else blas.sgemv
    matrix, flag = _fortran(a)

    def step(x: Array) -> Array:
        return cast(Array, gemv(1.0, matrix, gemv(1.0, matrix, x, trans=flag), trans=not flag))

    return np.asarray(_power_iteration(step, a.shape[1], a.dtype))


def inverse_norm(a: Factored, original: Array) -> Array:
    """Return ‖a⁻¹‖ of a square matrix, like `two_norm`; inf where singular."""
    size = original.shape[-1]
    if original.ndim > 2 or size < SMALL:
        return inverse_norm_triangular(original, lower=False)  # by singular values
    if not np.diagonal(a.matrix).all():
        return np.asarray(np.inf)

    def step(x: Array) -> Array:
        column = solve(a, x[:, None], transposed=True)
        return solve(a, column)[:, 0]

    return np.asarray(_power_iteration(step, size, original.dtype))


def inverse_norm_triangular(t: Array, *, lower: bool) -> Array:
    """Return ‖t⁻¹‖, like `two_norm`; inf where singular."""
    size = t.shape[-1]
    if size == 0:
        return np.zeros(t.shape[:-2])
    if t.ndim > 2 or size < SMALL:
        smallest = np.linalg.svd(t, compute_uv=False)[..., -1]
        with np.errstate(over="ignore"):  # a subnormal singular value is as good as none
            return np.asarray(np.divide(1, smallest, out=np.full_like(smallest, np.inf), where=smallest > 0))
    if not np.diagonal(t).all():
        return np.asarray(np.inf)

    trsv = blas.dtrsv if t.dtype == np.float64 else blas.strsv
    matrix, flag = _fortran(t)

    def step(x: Array) -> Array:
        half = trsv(matrix, x, lower=lower ^ flag, trans=not flag)
        return cast(Array, trsv(matrix, half, lower=lower ^ flag, trans=flag, overwrite_x=1))

    return np.asarray(_power_iteration(step, size, t.dtype))


def _power_iteration(step: Callable[[Array], Array], size: int, dtype: Any) -> float:
    """Return the square root of the largest eigenvalue of a positive semi-definite operator, from a fixed start."""
    x = np.random.default_rng(0).standard_normal(size).astype(dtype)
    x, value = x / np.linalg.norm(x), 0.0
    for _ in range(ITERATIONS):
        x = step(x)
        largest = float(np.abs(x).max())
        if not 0 < largest < np.inf:
            value = largest
            break
        x = x / dtype.type(largest)  # first, since the squares in a norm may overflow
        length = float(np.linalg.norm(x))
        before, value = value, largest * length
        if (
            abs(value - before) <= SETTLED * value
        ):  # steps of a separated singular value die out in three or four
            break
        x = x / dtype.type(length)
    return float(np.sqrt(value)) if np.isfinite(value) else np.inf


def _same_dtype(a: Array, b: Array) -> tuple[Array, Array]:
    if a.dtype == b.dtype:
        return a, b
    kind: Any = np.result_type(a, b)
    return a.astype(kind), b.astype(kind)


def _fortran(a: Array) -> tuple[Array, bool]:
    """Return a Fortran-ordered array and whether it is the transpose, so that BLAS copies nothing."""
    if a.flags.c_contiguous and not a.flags.f_contiguous:
        return a.T, True
    return a, False
