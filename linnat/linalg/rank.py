"""Which singular values are zero? One rank rule, and what is built on it; the rank is always reported.

A singular value counts when it exceeds `rtol` times the largest one. `rtol` acts on singular values, never on
their squares; the default is max(m, n) · eps of the dtype.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, as_covariance, as_matrix, as_scalar


class RangeFactor(NamedTuple):
    """A factor S = F Fᵀ of a positive semi-definite matrix, and its rank.

    Attributes
    ----------
    factor : array (…, n, ρ)
        Columns beyond the rank are zero where the ranks of a stack differ.
    rank : int, or integer array (…)
    """

    factor: Array
    rank: int | Array


def default_rtol(matrix: Array) -> float:
    """Return max(m, n) · eps for a stack of matrices (…, m, n)."""
    return float(max(matrix.shape[-2:]) * np.finfo(matrix.dtype).eps)


def count_rank(values: Array, rtol: float) -> Array:
    """Return how many of the descending singular values (…, k) exceed rtol times the first (0 for a zero matrix)."""
    return np.asarray((values > rtol * values[..., :1]).sum(axis=-1))


def matrix_rank(matrix: Any, rtol: float | None = None) -> Array:
    """Return the numerical rank of each matrix of a stack.

    Parameters
    ----------
    matrix : array (…, m, n)
    rtol : float, optional
        Cut-off relative to the largest singular value; max(m, n) · eps by default.

    Returns
    -------
    integer array (…)

    Examples
    --------
    >>> int(matrix_rank(np.ones((3, 2))))
    1
    """
    array = as_matrix(matrix, "matrix")
    cut = default_rtol(array) if rtol is None else as_scalar(rtol, "rtol", low=0.0)
    return count_rank(np.linalg.svd(array, compute_uv=False), cut)


def pseudo_inverse(matrix: Any, rtol: float | None = None) -> Array:
    """Return the Moore–Penrose inverse by a singular value decomposition with an explicit cut-off.

    Parameters
    ----------
    matrix : array (…, m, n)
    rtol : float, optional
        See `matrix_rank`.

    Returns
    -------
    array (…, n, m)

    Examples
    --------
    >>> pseudo_inverse(np.array([[2.0, 0.0], [0.0, 0.0]]))
    array([[0.5, 0. ],
           [0. , 0. ]])
    """
    array = as_matrix(matrix, "matrix")
    cut = default_rtol(array) if rtol is None else as_scalar(rtol, "rtol", low=0.0)
    left, values, right = np.linalg.svd(array, full_matrices=False)
    keep = values > cut * values[..., :1]
    inverse = np.divide(1, values, out=np.zeros_like(values), where=keep)
    return np.asarray(np.swapaxes(right, -1, -2) @ (inverse[..., None] * np.swapaxes(left, -1, -2)))


def psd_factor(
    matrix: Any, rtol: float | None = None, name: str = "matrix", scale: Array | float = 0.0
) -> RangeFactor:
    """Factor a positive semi-definite matrix as F Fᵀ by an eigendecomposition with an explicit rank.

    Parameters
    ----------
    matrix : array (…, n, n)
    rtol : float, optional
        Cut-off on eigenvalues relative to the largest; 8 n eps by default, the slack to which
        semi-definiteness is tested.
    name : str
        Used in errors.
    scale : float or array (…), optional
        Of the rounding errors in the matrix, if larger than its largest eigenvalue (a difference of larger matrices).

    Returns
    -------
    RangeFactor
        Columns in descending order of eigenvalue.

    Examples
    --------
    >>> psd_factor(np.diag([0.0, 4.0])).factor
    array([[0.],
           [2.]])
    """
    size = as_matrix(matrix, name).shape[-1]
    covariance = as_covariance(matrix, name, size, scale=scale)
    cut = 8 * default_rtol(covariance) if rtol is None else as_scalar(rtol, "rtol", low=0.0)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[..., ::-1], vectors[..., ::-1]
    keep = values > cut * np.maximum(values[..., :1], np.asarray(scale)[..., None])
    rank = keep.sum(axis=-1)
    root = np.sqrt(np.where(keep, values, 0.0))
    factor = (vectors * root[..., None, :])[..., : int(rank.max())]
    return RangeFactor(np.ascontiguousarray(factor), int(rank) if rank.ndim == 0 else rank)
