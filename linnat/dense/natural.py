"""What is the natural gradient by definition? A solution of F u = ∇ℓ; statements N1–N6 and X1.

F is singular for depth ≥ 2, so a solution needs a gauge, and a gauge is a least norm (X1): "minimum-norm"
minimises ‖u‖² over the solutions, "layerwise" minimises uᵀ blockdiag(F) u. Both are least-squares problems
in the Jacobian J of `fisher.root_jacobian`, F = JᵀJ, whose condition is the root of F's. Zero means: below a
stated multiple of the largest singular value. The P × P routes, `solve` and `block_mask`, do the same on the
matrix itself.

Sign: u is an ascent direction of the loss (v = −u in the theory).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from linnat._checks import Array, ConditionError, as_choice, as_float_array, as_scalar, fail
from linnat.dense.fisher import gauss_newton, root_jacobian, root_residual
from linnat.dense.jacobian import check_room, parameters, split
from linnat.dense.sample import Sample
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task

Mask = Array | str | None


class Solution(NamedTuple):
    """A solution of a symmetric singular system.

    Attributes
    ----------
    vector : array (P,)
    rank : int
        Of the matrix at the cut-off used.
    residual : float
        ‖F u − g‖ / ‖g‖, 0 for g = 0: not small where the system is inconsistent.
    """

    vector: Array
    rank: int
    residual: float


def natural_gradient(
    net: LinearNetwork,
    data: Task | Sample,
    gauge: str = "layerwise",
    damping: float = 0.0,
    mask: Mask = None,
    rtol: float | None = None,
) -> tuple[Array, ...]:
    """Return the natural gradient: the solution of F u = ∇ℓ in a gauge, damped, or with blocks of F masked.

    Parameters
    ----------
    net : LinearNetwork
    data : Task or Sample
    gauge : "layerwise" or "minimum-norm"
        Which solution, where there are many.
    damping : float
        λ ≥ 0 in (F + λI) u = ∇ℓ; if positive the solution is unique and `gauge` has no effect.
    mask : None, "block-diagonal", "block-tridiagonal" or symmetric 0/1 array (L, L)
        Which blocks F_ij are kept (N5).
    rtol : float, optional
        Cut-off on singular values of the Jacobian of each layer (layerwise) or of all (minimum norm),
        relative to the largest; size · eps by default. In the layerwise gauge a second cut, on what the
        layers' ranges have in common, is size · eps times the condition of what the first one kept.

    Returns
    -------
    tuple of arrays like `net.layers`

    Raises
    ------
    InputError
        For bad arguments, and before a dense array takes more than a quarter of the memory.
    ConditionError
        If an undamped masked system is inconsistent, or a damped one singular (N5).

    Notes
    -----
    O(P³) flops and more. The layerwise gauge by its definition: with J_i = U_i s_i V_iᵀ and u_i = V_i s_i⁻¹
    z_i the norm uᵀ blockdiag(F) u is ‖z‖², so z is the minimum-norm least-squares solution of Σ_i U_i z_i =
    −r; where blockdiag(F) is singular its null space lies in that of F, and u has no part in it.

    Examples
    --------
    >>> net = LinearNetwork([[[2.0]], [[3.0]]])
    >>> [float(d[0, 0].round(12)) for d in natural_gradient(net, Task([[0.0]]))]
    [1.0, 1.5]
    >>> [float(d[0, 0].round(12)) for d in natural_gradient(net, Task([[0.0]]), "minimum-norm")]
    [1.384615384615, 0.923076923077]
    """
    as_choice(gauge, "gauge", ("layerwise", "minimum-norm"))
    strength = as_scalar(damping, "damping", low=0.0)
    jacobian, residual = root_jacobian(net, data), root_residual(net, data)
    if strength > 0 and mask is None:
        # |J u + r|² + λ|u|² is least where (JᵀJ + λI) u = −Jᵀr.
        size = jacobian.shape[1]
        extended = np.concatenate([jacobian, np.sqrt(strength) * np.eye(size)])
        return split(least_squares(extended, np.concatenate([-residual, np.zeros(size)])), net)
    if strength > 0:
        matrix = gauss_newton(net, data) * block_mask(net, mask)
        solution = solve(matrix + strength * np.eye(len(matrix)), -jacobian.T @ residual)
        if solution.rank < len(matrix):
            raise ConditionError("damping: F_M + λI is singular for this mask, whose F_M is indefinite (N5).")
        return split(solution.vector, net)
    if gauge == "minimum-norm":
        if mask is None:
            return split(least_squares(jacobian, -residual, rtol), net)
        cut = None if rtol is None else as_scalar(rtol, "rtol", low=0.0) ** 2  # on eigenvalues: squares
        solution = solve(gauss_newton(net, data) * block_mask(net, mask), -jacobian.T @ residual, cut)
        return split(_consistent(solution, 1e-6), net)
    return split(_layerwise(net, jacobian, -residual, mask, rtol), net)


def solve(matrix: Array, vector: Array, rtol: float | None = None) -> Solution:
    """Return the least-norm least-squares solution of a symmetric P × P system, and its residual.

    Parameters
    ----------
    matrix : array (P, P)
        Symmetric, not necessarily semi-definite.
    vector : array (P,)
    rtol : float, optional
        Eigenvalues up to `rtol` times the largest in modulus count as zero; P · eps by default.

    Returns
    -------
    Solution

    Examples
    --------
    >>> solve(np.diag([2.0, 0.0]), np.array([4.0, 0.0]))
    Solution(vector=array([2., 0.]), rank=1, residual=0.0)
    """
    array, right = as_float_array(matrix, "matrix", ndim=2), as_float_array(vector, "vector", ndim=1)
    if array.shape != (len(right), len(right)):
        fail("matrix", f"shape {(len(right), len(right))}, as the vector", f"shape {array.shape}")
    gap = float(np.abs(array - array.T).max())  # `eigh` reads one half
    if gap > 64 * len(right) * np.finfo(float).eps * float(np.abs(array).max()):
        fail("matrix", "a symmetric matrix", f"|A - Aᵀ| up to {gap:.3g}")
    cut = _cut(rtol, len(right))
    values, vectors = np.linalg.eigh(array)
    keep = np.abs(values) > cut * np.abs(values).max()
    kept = vectors[:, keep]
    solution = kept @ ((kept.T @ right) / values[keep])
    size = float(np.linalg.norm(right))
    residual = float(np.linalg.norm(array @ solution - right)) / size if size else 0.0
    return Solution(solution, int(keep.sum()), residual)


def least_squares(jacobian: Array, residual: Array, rtol: float | None = None) -> Array:
    """Return J⁺ r, the least-norm least-squares solution of J u = r: with F = JᵀJ it is F⁺ Jᵀ r.

    Parameters
    ----------
    jacobian : array (M, P)
    residual : array (M,)
    rtol : float, optional
        Singular values up to `rtol` times the largest count as zero; max(M, P) · eps by default.

    Returns
    -------
    array (P,)

    Examples
    --------
    >>> least_squares(np.array([[3.0, 4.0]]), np.array([5.0])).round(12)
    array([0.6, 0.8])
    """
    matrix = as_float_array(jacobian, "jacobian", ndim=2)
    wanted = as_float_array(residual, "residual", ndim=1)
    if len(matrix) != len(wanted):
        fail("residual", f"length {len(matrix)}, one number for each row of the Jacobian", f"{len(wanted)}")
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    keep = values > _cut(rtol, max(matrix.shape)) * values[0]
    solution: Array = right[keep].T @ ((left[:, keep].T @ wanted) / values[keep])
    return solution


def block_mask(net: LinearNetwork, mask: Mask) -> Array:
    """Return the P × P array of zeros and ones that keeps the blocks F_ij with mask_ij = 1.

    Parameters
    ----------
    net : LinearNetwork
    mask : None, "block-diagonal", "block-tridiagonal" or symmetric 0/1 array (L, L)
        None keeps all.

    Returns
    -------
    array (P, P)

    Raises
    ------
    InputError
        For a mask that is not one of these.

    Examples
    --------
    >>> block_mask(LinearNetwork([[[2.0]], [[3.0]]]), "block-diagonal")
    array([[1., 0.],
           [0., 1.]])
    """
    size = len(parameters(net))
    check_room((size, size), "the mask")
    pattern = _pattern(mask, len(net.weights))
    layer = np.repeat(np.arange(len(net.weights)), [block.size for block in split(np.zeros(size), net)])
    return pattern[np.ix_(layer, layer)]


def _pattern(mask: Mask, depth: int) -> Array:
    distance = np.abs(np.subtract.outer(np.arange(depth), np.arange(depth)))
    if mask is None:
        return np.ones((depth, depth))
    if isinstance(mask, str):
        as_choice(mask, "mask", ("block-diagonal", "block-tridiagonal"))
        return (distance <= (mask == "block-tridiagonal")).astype(np.float64)
    logical = isinstance(mask, np.ndarray) and mask.dtype == bool
    pattern = as_float_array(mask.astype(np.float64) if logical else mask, "mask", ndim=2)
    square = pattern.shape == (depth, depth)
    if not square or not np.isin(pattern, (0.0, 1.0)).all() or (pattern != pattern.T).any():
        expected = f"a symmetric array of zeros and ones, shape {(depth, depth)}"
        fail("mask", expected, f"shape {pattern.shape}: {pattern.tolist()!s:.80}")
    return pattern


def _layerwise(net: LinearNetwork, jacobian: Array, target: Array, mask: Mask, rtol: float | None) -> Array:
    """Return the solution of least uᵀ blockdiag(F) u, in coordinates in which that norm is Euclidean."""
    ranges, pullbacks, condition = [], [], 1.0
    sizes = [block.size for block in split(np.zeros(jacobian.shape[1]), net)]
    for block in np.split(jacobian, np.cumsum(sizes)[:-1], axis=1):
        left, values, right = np.linalg.svd(block, full_matrices=False)
        keep = values > _cut(rtol, max(block.shape)) * values[0]
        if keep.any():
            condition = max(condition, values[0] / values[keep][-1])
        ranges.append(left[:, keep])
        pullbacks.append(right[keep].T / values[keep])
    together = np.concatenate(ranges, axis=1)
    if not together.shape[1]:
        return np.zeros(jacobian.shape[1])
    cut = min(0.1, max(jacobian.shape) * np.finfo(float).eps * condition)
    if mask is None:
        coordinates = least_squares(together, target, cut)
    else:
        layer = np.repeat(np.arange(len(ranges)), [r.shape[1] for r in ranges])
        kept = _pattern(mask, len(ranges))[np.ix_(layer, layer)]
        coordinates = _consistent(solve(together.T @ together * kept, together.T @ target, cut), np.sqrt(cut))
    pieces = np.split(coordinates, np.cumsum([r.shape[1] for r in ranges])[:-1])
    return np.concatenate([pull @ piece for pull, piece in zip(pullbacks, pieces, strict=True)])


def _consistent(solution: Solution, tolerance: float) -> Array:
    if solution.residual > tolerance:
        raise ConditionError(
            "mask: expected one for which F_M u = gradient can be solved, found a relative residual of "
            f"{solution.residual:.3g}. Statement N5: partitions of the layers and bands always work."
        )
    return solution.vector


def _cut(rtol: float | None, size: int) -> float:
    return size * float(np.finfo(float).eps) if rtol is None else as_scalar(rtol, "rtol", low=0.0)
