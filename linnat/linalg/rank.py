"""Which singular values are zero? One rank rule, and what is built on it; the rank is always reported.

A singular value counts when it exceeds `rtol` times the largest one. `rtol` acts on singular values, never on
their squares; the default is max(m, n) · eps of the dtype. Where that leaves less than a decade between the values that
count and those that do not, the rank is undetermined, and a warning says so.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, RankWarning, as_covariance, as_matrix, as_scalar

DECADE = 10.0  # between what counts and what does not; a smaller gap warns


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

    Warns
    -----
    RankWarning
        Without `rtol`, where less than a decade lies between the eigenvalues that count and those that do not.

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
    if rtol is None:
        warn_of_narrow_gap(values, rank, name, stacklevel=6)  # who makes a Task
    root = np.sqrt(np.where(keep, values, 0.0))
    factor = (vectors * root[..., None, :])[..., : int(rank.max())]
    return RangeFactor(np.ascontiguousarray(factor), int(rank) if rank.ndim == 0 else rank)


def warn_of_narrow_gap(values: Array, rank: Array | int, name: str, stacklevel: int = 2) -> None:
    """Warn where less than a decade lies between the last of the descending values that counts and the next one.

    Parameters
    ----------
    values : array (…, k)
    rank : int, or integer array (…)
        How many of them count.
    name : str
        Of the matrix, used in the warning.
    stacklevel : int
        Of the warning, counted from here.

    Warns
    -----
    RankWarning

    Examples
    --------
    >>> warn_of_narrow_gap(np.array([1.0, 1e-17]), 1, "matrix")
    """
    count, size = np.broadcast_to(rank, values.shape[:-1])[..., None], values.shape[-1]
    if not size:
        return
    kept, dropped = (
        np.take_along_axis(values, np.clip(place, 0, size - 1), axis=-1)[..., 0]
        for place in (count - 1, count)
    )
    both = (count[..., 0] > 0) & (count[..., 0] < size)
    narrow = np.argwhere(both & (kept < DECADE * dropped))
    if len(narrow):
        place = tuple(narrow[0])
        where = f" (matrix {tuple(int(i) for i in place)} of the stack)" if place else ""
        warnings.warn(
            f"the rank of {name}{where} is undetermined: {count[place][0]} values are kept, the smallest "
            f"{kept[place]:.3g}, the largest dropped is {dropped[place]:.3g}; pass an rtol within a gap of at least a "
            "decade",
            RankWarning,
            stacklevel=stacklevel,
        )
