"""Where are arrays flattened? Here only: vec stacks columns, (A ⊗ B) vec X = vec(B X Aᵀ)."""

from __future__ import annotations

import numpy as np

from linnat._checks import Array, as_float_array, as_matrix, fail


def vec(matrix: Array) -> Array:
    """Stack the columns of a matrix.

    Parameters
    ----------
    matrix : array (…, m, n)

    Returns
    -------
    array (…, m n)
        Entry (a, b) of the matrix stands at a + b m.

    Examples
    --------
    >>> vec(np.array([[1.0, 3.0], [2.0, 4.0]]))
    array([1., 2., 3., 4.])
    """
    matrix = as_matrix(matrix, "matrix")
    return np.swapaxes(matrix, -1, -2).reshape(*matrix.shape[:-2], -1)


def unvec(vector: Array, shape: tuple[int, int]) -> Array:
    """Undo `vec`.

    Parameters
    ----------
    vector : array (…, m n)
    shape : (m, n)

    Returns
    -------
    array (…, m, n)

    Examples
    --------
    >>> unvec(np.array([1.0, 2.0, 3.0, 4.0]), (2, 2))
    array([[1., 3.],
           [2., 4.]])
    """
    vector = as_float_array(vector, "vector", min_ndim=1)
    rows, columns = shape
    if vector.shape[-1] != rows * columns:
        fail("vector", f"length {rows * columns} for shape {shape}", f"length {vector.shape[-1]}")
    return np.swapaxes(vector.reshape(*vector.shape[:-1], columns, rows), -1, -2)
