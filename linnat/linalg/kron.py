"""How is a Kronecker product applied or formed? (A ⊗ B) vec X = vec(B X Aᵀ), with vec stacking columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from linnat._checks import Array, as_matrix, fail


def kron(a: Any, b: Any) -> Array:
    """Return A ⊗ B for stacks of matrices; for small sizes.

    Parameters
    ----------
    a : array (…, m, n)
    b : array (…, p, q)

    Returns
    -------
    array (…, m p, n q)

    Examples
    --------
    >>> kron([[1.0, 2.0]], [[1.0], [3.0]])
    array([[1., 2.],
           [3., 6.]])
    """
    return outer_kron(as_matrix(a, "a"), as_matrix(b, "b"))


def outer_kron(a: Array, b: Array) -> Array:
    """Return A ⊗ B like `kron`, of arrays that have been checked or come from a computation."""
    product = a[..., :, None, :, None] * b[..., None, :, None, :]
    return product.reshape(*product.shape[:-4], a.shape[-2] * b.shape[-2], a.shape[-1] * b.shape[-1])


def kron_apply(a: Any, b: Any, x: Any) -> Array:
    """Return B X Aᵀ, the matrix whose vec is (A ⊗ B) vec X, without forming the product.

    Parameters
    ----------
    a : array (…, m, n)
    b : array (…, p, q)
    x : array (…, q, n)

    Returns
    -------
    array (…, p, m)

    Examples
    --------
    >>> kron_apply([[2.0]], [[3.0]], [[1.0]])
    array([[6.]])
    """
    first, second, matrix = as_matrix(a, "a"), as_matrix(b, "b"), as_matrix(x, "x")
    if matrix.shape[-2:] != (second.shape[-1], first.shape[-1]):
        fail("x", f"shape (…, {second.shape[-1]}, {first.shape[-1]})", f"shape {matrix.shape}")
    return second @ matrix @ np.swapaxes(first, -1, -2)
