"""How are the layers of a chain of small square matrices solved for in little more than the time of LAPACK's calls?

For matrices of up to `kernels.DIRECT` rows a wrapper around every call would take as long as the call. All calls are on
transposes, which are in Fortran order as they come, so that nothing but the right-hand sides is copied; products
of layers are for the error alone, and none is inverted (statement X9).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import blas, lapack

from linnat._checks import Array


class _Calls(NamedTuple):
    """BLAS and LAPACK in one precision."""

    eps: float
    gemm: Callable[..., Any]
    getrf: Callable[..., Any]
    getrs: Callable[..., Any]
    gecon: Callable[..., Any]
    lange: Callable[..., Any]


_CALLS = {
    "d": _Calls(2.0**-52, blas.dgemm, lapack.dgetrf, lapack.dgetrs, lapack.dgecon, lapack.dlange),
    "f": _Calls(2.0**-23, blas.sgemm, lapack.sgetrf, lapack.sgetrs, lapack.sgecon, lapack.slange),
}


def divide_by_others(
    matrices: Sequence[Array], goal: Array, share: float, certain: float
) -> list[Array] | None:
    """Return share · B_i⁻¹ E A_i⁻¹ with E = goal − W_L ⋯ W_1, B_i = W_L ⋯ W_{i+1}, A_i = W_{i-1} ⋯ W_1, for each i.

    Parameters
    ----------
    matrices : sequence of arrays (n, n)
        W_1 … W_L.
    goal : array (n, n)
        Of the same dtype.
    share, certain : float

    Returns
    -------
    list of arrays (n, n), or None
        None unless n eps times the condition number of every W_i is below `certain`.

    Notes
    -----
    8 n³ flops per layer. The condition, in the 1-norm, is exact for W_1, whose inverse is needed. A layer between has
    at most ‖W_i‖ ‖W_{i-1}‖ ⋯ ‖W_1‖ ‖A_{i+1}⁻¹‖, since W_i⁻¹ = A_i A_{i+1}⁻¹. W_L is tried on noise: for Gaussian z
    and the norm σ of W_L⁻¹, ‖W_L⁻¹ z‖ < σ/θ has a probability below 1/θ, for k of them below θ⁻ᵏ. LAPACK's
    estimate, five solves with one column, is made where this is not enough.
    """
    eps, gemm, getrf, getrs, gecon, lange = _CALLS[goal.dtype.char]
    limit = certain / (len(goal) * eps)
    first, *others = [w.T for w in matrices]
    product = first
    for matrix in others:
        product = gemm(1.0, product, matrix)
    error = np.subtract(goal.T, product, out=product if others else None)
    error *= share
    # What layer i gets from above, i = L … 1, and the factors of the layers between. The norm "I" of a transpose
    # is the 1-norm.
    solved, between = [error.T], []
    for matrix in reversed(others):
        lu, pivots, _ = getrf(matrix)
        if len(solved) > 1:
            between.append((lu, pivots, matrix))
        else:
            norm, (noise, doubt) = lange("I", matrix), _noise(len(goal), goal.dtype.char)
            reaction = lange("I", getrs(lu, pivots, noise, 1)[0])
            if not (doubt * norm * reaction < limit or gecon(lu, norm, "I")[0] * limit > 1):
                return None
        solved.append(getrs(lu, pivots, solved[-1], 1)[0])
    result = [solved.pop()]
    if not others:
        return result
    lu, pivots, _ = getrf(first)
    inverse = getrs(lu, pivots, _identity(len(first), first.dtype.char), 0)[0]
    reach = lange("I", first)
    if not reach * lange("I", inverse) < limit:
        return None
    while between:
        result.append(gemm(1.0, solved.pop(), inverse, trans_b=1))
        lu, pivots, matrix = between.pop()
        inverse = getrs(lu, pivots, inverse, 0, 1)[0]
        norm = lange("I", matrix)
        reach *= norm
        if not (reach * lange("I", inverse) < limit or gecon(lu, norm, "I")[0] * limit > 1):
            return None
    result.append(gemm(1.0, inverse, error).T)
    return result


@lru_cache(maxsize=8)
def _noise(size: int, kind: str) -> tuple[Array, float]:
    """Return read-only Gaussian columns Z, and c with ‖W⁻¹‖ ≤ c ‖W⁻¹ Z‖, 1-norm and norm "I", up to odds of 1e-12."""
    noise = np.asfortranarray(np.random.default_rng(0).standard_normal((size, 4)).astype(kind))
    noise.flags.writeable = False
    return noise, 1e3 * size  # each of the two norms is within √n of the Euclidean one


@lru_cache(maxsize=8)
def _identity(size: int, kind: str) -> Array:
    """Return a read-only identity; np.eye alone takes as long as a factorisation of 16 rows."""
    identity = np.eye(size, dtype=kind, order="F")
    identity.flags.writeable = False
    return identity
