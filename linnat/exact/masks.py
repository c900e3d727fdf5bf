"""Which blocks of the Fisher matrix are kept, and what does that do? Statements N2 and N5.

On the block (k, l) of the error, ΔP_k Ẽ ΔQ_l, only layers k … l act. With the blocks F_ij where M_ij = 1
kept, layer i takes the share c_i of it with M[k…l] c = 1: c_i = 1/(l − k + 1) for the whole matrix, 1 for
its diagonal blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from linnat._checks import Array, ConditionError, as_choice, as_count, as_float_array, fail

MASK_WIDTHS = {"full": np.inf, "block-diagonal": 0, "block-tridiagonal": 1}


def layer_mask(mask: Any, depth: int) -> Array:
    """Return a symmetric 0/1 matrix (L, L) from a name or an array.

    Parameters
    ----------
    mask : None, "full", "block-diagonal", "block-tridiagonal", or array (L, L)
    depth : int

    Examples
    --------
    >>> layer_mask("block-tridiagonal", 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 1],
           [0, 1, 1]])
    """
    size = as_count(depth, "depth")
    if mask is None:
        return np.ones((size, size))
    if isinstance(mask, str):
        width = MASK_WIDTHS[as_choice(mask, "mask", tuple(MASK_WIDTHS))]
        place = np.arange(size)
        return np.asarray(np.abs(place[:, None] - place) <= width, float)
    if isinstance(mask, np.ndarray) and mask.dtype == bool:
        mask = mask.astype(float)
    matrix = as_float_array(mask, "mask", ndim=2)
    if matrix.shape != (size, size):
        fail("mask", f"shape ({size}, {size}), one row per layer", f"shape {matrix.shape}")
    if not np.isin(matrix, (0.0, 1.0)).all() or (matrix != matrix.T).any():
        fail("mask", "a symmetric matrix of zeros and ones", "other entries or an asymmetric one")
    return matrix.astype(np.float64)


def mask_coefficients(mask: Any, depth: int) -> tuple[Array, float]:
    """Return c = M⁺ 1 and the rate α = 1ᵀ c at which the total weight moves along the error (statement N5).

    Parameters
    ----------
    mask : see `layer_mask`
    depth : int

    Returns
    -------
    c : array (L,)
        The least-norm solution of M c = 1.
    alpha : float
        Unique although c need not be.

    Raises
    ------
    ConditionError
        If M c = 1 has no solution (there are such masks from L = 6 on).

    Examples
    --------
    >>> [round(mask_coefficients("block-tridiagonal", depth)[1]) for depth in range(1, 8)]
    [1, 1, 1, 2, 2, 2, 3]
    """
    matrix = layer_mask(mask, depth)
    solution = _solve_ones(matrix)
    if solution is None:
        raise ConditionError(f"mask: M c = 1 has no solution for this mask of {depth} layers (statement N5).")
    return solution, float(solution.sum())


def shares(mask: Any, depth: int, output_ranks: Sequence[int], input_ranks: Sequence[int]) -> Array:
    """Return c[i, k, l] (counted from 0): the share of layer i in the error block (k, l), zero unless k ≤ i ≤ l.

    Only blocks that exist at the given ranks (r(B̃_1) … r(B̃_L) and r(Ã_1) … r(Ã_L)) are filled.
    """
    result = np.zeros((depth, depth, depth))
    matrix = layer_mask(mask, depth)
    rises = np.diff(output_ranks, prepend=0) > 0
    falls = -np.diff(input_ranks, append=0) > 0
    for k in np.flatnonzero(rises):
        for last in np.flatnonzero(falls):
            if k > last:
                continue
            if mask is None or (isinstance(mask, str) and mask == "full"):
                result[k : last + 1, k, last] = 1 / (last - k + 1)
                continue
            solution = _solve_ones(matrix[k : last + 1, k : last + 1])
            if solution is None:
                raise ConditionError(
                    f"mask: no solution for the part of the error that layers {k + 1} … {last + 1} express: "
                    "M[k…l] c = 1 is inconsistent (statement N5). Add damping or choose another mask."
                )
            result[k : last + 1, k, last] = solution
    return result


def _solve_ones(matrix: Array) -> Array | None:
    """Return M⁺ 1 for a 0/1 matrix, or None where M c = 1 has no solution."""
    ones = np.ones(len(matrix))
    solution: Array = np.linalg.lstsq(matrix, ones, rcond=1e-10)[0]
    return solution if np.abs(matrix @ solution - ones).max() < 1e-8 else None
