"""What does exact damping do? Statement N4: (F + λI) u = ∇ℓ.

v_i = B_iᵀ M A_iᵀ with Σ_j B_jB_jᵀ M A_jA_jᵀ + λ Σ M S⁺ = E on range S. λ → 0 is the minimum-norm gauge, λ → ∞
gradient/λ. Two layers: a Sylvester equation as soon as S or Σ is a multiple of the identity. Elsewhere a QR of the
whitened J with rows of length one while that is small, LSQR beyond.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from linnat._checks import (
    Array,
    ConditionError,
    ConvergenceError,
    InputError,
    as_choice,
    as_count,
    as_scalar,
    representable,
)
from linnat.exact.cells import Found, factor_on_cells, solve_on_cells
from linnat.exact.chains import Chains, Problem, make_problem
from linnat.exact.jacobian import Core, core, dense_core, embed, jacobian_rank
from linnat.exact.loss import forward_signals, pull_back, whitened_after
from linnat.exact.masks import layer_mask
from linnat.exact.minimum_norm import TOLERANCE, Options, Solution, collect
from linnat.exact.network import LinearNetwork
from linnat.exact.staircase import change_of_total, expressible_error, range_basis
from linnat.exact.task import Task
from linnat.linalg import kernels as k
from linnat.linalg.kernels import frobenius, transpose
from linnat.linalg.kron import outer_kron
from linnat.linalg.memory import refuse_beyond_memory
from linnat.linalg.solve import filtered_solve, symmetric_sylvester

METHODS = ("auto", "range-qr", "svd", "sylvester", "range-lsqr")
QR_FLOPS = 1e9  # below, a QR of J is faster than an iteration


@representable("net, task, damping")
def solve_damped(
    net: LinearNetwork,
    task: Task,
    damping: float,
    *,
    method: str = "auto",
    tol: float | None = None,
    max_iterations: int = 20_000,
    rtol: float | None = None,
) -> Solution:
    """Return the solution of (F + λI) u = ∇ℓ with the method, the residual and the rank (statement N4).

    Parameters
    ----------
    net : LinearNetwork
    task : Task
        Leading axes of both broadcast.
    damping : float
        λ > 0.
    method : "auto", "range-qr", "svd", "sylvester" or "range-lsqr"
        By default "direct" for one layer, "sylvester" for two where S and Σ are multiples of the identity,
        elsewhere "range-qr" while it takes fewer than 1e9 flops; beyond, "sylvester" for two layers where S or
        Σ is a multiple of the identity (it inverts a root of the other one), "range-lsqr", and "range-qr"
        again where that does not converge and the matrix fits into memory. "svd" is an SVD of J.
    tol : float, optional
        LSQR stops when the preconditioned residual is at most tol times the right-hand side; 256 eps by default.
    max_iterations : int
    rtol : float, optional
        See `natural_gradient`.

    Returns
    -------
    Solution
        `residual` is ‖(F + λ)u − ∇ℓ‖ / (‖∇ℓ‖ + λ‖u‖). Exact damping stays in the range of Jᵀ: `tilt` is zero here too.

    Raises
    ------
    ConvergenceError
        If LSQR has not reached `tol`; `.estimate` is the direction.
    ConditionError
        For "sylvester" where it does not apply.
    InputError
        For bad arguments, and where "svd" would exceed the stated share of memory.

    Notes
    -----
    "range-qr" and "range-lsqr" solve [J̃ √λ](x; z) = Ẽ for the shortest (x; z) on the rank J cells that can be
    reached, in singular bases and with rows scaled to length one, by a QR of 4 (Σ r(B̃_i) r(Ã_i) + rank J) (rank
    J)² flops or by LSQR: one iteration for balanced layers in white moments, 50 to 500 for Gaussian ones, whatever
    κ(J), each of 2 r(B̃_i) r(Ã_i) (r(B̃_i) + r(Ã_i)) flops per layer and product.

    Scaling the rows is what keeps digits: with four 4 × 4 layers of condition κ and λ = ‖F‖/κ² both are right to
    4e-14 at κ = 1e6, "svd" to 2e-11; with λ = ‖F‖/κ⁴ to 1e-11 at κ = 1e4, "svd" to 1e-9.

    Examples
    --------
    >>> found = solve_damped(LinearNetwork([[[2.0]], [[1.0]]]), Task([[3.0]]), 5.0)
    >>> found.direction, str(found.method)
    ((array([[-0.1]]), array([[-0.2]])), 'sylvester')
    """
    strength = as_scalar(damping, "damping", low=0.0, open_low=True)
    as_choice(method, "method", METHODS)
    limit = as_count(max_iterations, "max_iterations")
    problem, batch = make_problem(net, task)
    eps = float(np.finfo(net.dtype).eps)
    accuracy = TOLERANCE * eps if tol is None else as_scalar(tol, "tol", low=0.0)

    def solve(part: Problem, chains: Chains) -> tuple[Found, Array]:
        found = shrunk(part, chains, strength, Options(method, limit), accuracy)
        return found, _residual(part, strength, found.pieces)

    return collect(problem, batch, rtol, solve)


def damped(problem: Problem, chains: Chains, damping: float, mask: Any = None) -> list[Array]:
    """Return the solution of (F + λI) v = −∇ℓ, or of (F_M + λI) v = −∇ℓ with a mask."""
    if mask is not None:
        return _masked(problem, chains, damping, mask)
    eps = float(np.finfo(problem.factor.dtype).eps)
    return shrunk(problem, chains, damping, Options(), TOLERANCE * eps).pieces


def shrunk(problem: Problem, chains: Chains, damping: float, options: Options, tol: float) -> Found:
    """Return the damped solution, a descent direction."""
    if problem.depth == 1:
        return Found([_single(problem, damping)], "direct")
    columns = sum(p * q for p, q in zip(chains.output_ranks, chains.input_ranks, strict=True))
    rank = jacobian_rank(chains)
    cheap = 4 * (columns + rank) * rank**2 < QR_FLOPS
    method = options.method
    if method in ("auto", "sylvester"):
        # With one anisotropic side the equation inverts a root of its moment; the QR, while it is cheap, does not.
        both = cheap and method == "auto"
        pieces = _two_layers(problem, chains, damping, both=both) if problem.depth == 2 else None
        if pieces is not None:
            return Found(pieces, "sylvester")
        if method == "sylvester":
            raise ConditionError(
                "method: 'sylvester' needs two layers, and S or Σ a multiple of the identity (N4); "
                "use 'range-qr' or 'range-lsqr'."
            )
    if method == "auto":
        method = "range-qr" if cheap and _has_root(problem, damping) else "range-lsqr"
    if method == "range-qr":
        return factor_on_cells(problem, chains, damping)
    if method == "svd":
        remedy = "Use method='range-lsqr', which needs no dense matrix."
        matrix = dense_core(core(problem, chains, problem.factor, whitened=True), remedy)
        error = _vec(problem.whiten(problem.error_factor))
        x = filtered_solve(matrix, error, rank, damping)
        return Found(embed(x, problem, chains), method)
    try:
        return solve_on_cells(problem, chains, damping, tol, options.limit)
    except ConvergenceError as failure:
        if options.method != "auto":
            raise
        try:
            return shrunk(problem, chains, damping, options._replace(method="range-qr"), tol)
        except InputError:  # it does not fit into memory
            raise failure from None


def _has_root(problem: Problem, damping: float) -> bool:
    """Return whether √λ is a normal number of the dtype, so that the rows of [J √λ] are independent."""
    return bool(np.sqrt(damping) >= np.finfo(problem.factor.dtype).tiny)


def _two_layers(problem: Problem, chains: Chains, damping: float, *, both: bool) -> list[Array] | None:
    """Solve W_2W_2ᵀM + M W_1W_1ᵀ + λ Σ M S⁺ = E on range S where S = s I or Σ = σ² I (`both`: and), else return None.

    The third term joins the first, (λ/s) C Cᵀ M, or the second, M (λσ²) R⁻ᵀR⁻¹ with F = U R.
    """
    first, second = problem.maps[0], problem.weights[1]
    ranks = chains.output_ranks[0], chains.input_ranks[1]
    inputs = _multiple_of_identity(problem.factor)
    outputs = np.ones(second.shape[:-2]) if problem.noise is None else _multiple_of_identity(problem.noise)
    if inputs is not None and outputs is not None:
        shift = damping * outputs / inputs
        return list(symmetric_sylvester(second, first, problem.error, *ranks, shift=shift))
    if both or (inputs is None and outputs is None):
        return None
    # What cannot be expressed would give an M of size 1/λ that W_2ᵀ and W_1 take to rounding errors of that size.
    target = expressible_error(problem, chains)
    if inputs is not None:
        scale = np.sqrt(damping / inputs)[..., None, None].astype(second.dtype)
        return list(symmetric_sylvester(second, first, target, *ranks, left_root=scale * problem.noise))
    basis = range_basis(problem)
    inner = first if basis is None else k.matmul(first, basis)
    scale = np.sqrt(damping * np.asarray(outputs))[..., None, None].astype(second.dtype)
    root = scale * _root_of_precision(problem)
    found = symmetric_sylvester(second, inner, target, *ranks, right_root=root)
    return [found.outer if basis is None else k.matmul(found.outer, transpose(basis)), found.inner]


def _root_of_precision(problem: Problem) -> Array:
    """Return X with XᵀX = S⁻¹ in the coordinates of `range_basis`."""
    size, basis = problem.factor.shape[-2], range_basis(problem)
    count = size if basis is None else basis.shape[-1]
    orthogonal, upper = k.qr(problem.factor[..., :count])
    identity = np.broadcast_to(np.eye(count, dtype=upper.dtype), (*upper.shape[:-2], count, count))
    rows = identity if basis is not None else transpose(orthogonal)
    return np.asarray(k.solve_triangular(upper, rows, lower=False))


def _residual(problem: Problem, damping: float, pieces: list[Array]) -> Array:
    """Return ‖(F + λ)v + ∇ℓ‖ / (‖∇ℓ‖ + λ‖v‖)."""
    signals = forward_signals(problem)
    change = change_of_total(problem, pieces, problem.factor)
    pulled = pull_back(problem, problem.precision(change - problem.error_factor), signals)
    slope = pull_back(problem, problem.precision(problem.error_factor), signals)
    left = [p + damping * v for p, v in zip(pulled, pieces, strict=True)]
    gap, size, length = (np.sqrt(sum(frobenius(x) ** 2 for x in group)) for group in (left, slope, pieces))
    scale = size + damping * length
    return np.asarray(np.divide(gap, scale, out=np.zeros_like(gap), where=scale > 0))


def _single(problem: Problem, damping: float) -> Array:
    """Solve the equation of one layer, Π v S + λ v = Π E S."""
    outputs = problem.weights[0].shape[-2]
    eye = np.broadcast_to(
        np.eye(outputs, dtype=problem.factor.dtype), (*problem.factor.shape[:-2], outputs, outputs)
    )
    error = problem.whiten(problem.error_factor)
    return _one_layer(problem.whiten(eye), problem.factor, error, damping)


def _one_layer(back: Array, signal: Array, error: Array, damping: float) -> Array:
    """Solve B̃ᵀB̃ v ÃÃᵀ + λ v = B̃ᵀ Ẽ Ãᵀ in the singular bases of B̃ and Ã: no moment is formed."""
    left, a, right_rows = np.linalg.svd(back, full_matrices=False)
    u, b, v_rows = np.linalg.svd(signal, full_matrices=False)
    rotated = transpose(left) @ error @ transpose(v_rows)
    values = a[..., :, None] * b[..., None, :]
    radius = np.hypot(values, np.sqrt(signal.dtype.type(damping)))
    radius = np.where(radius > 0, radius, 1)
    return np.asarray(transpose(right_rows) @ (values / radius * (rotated / radius)) @ transpose(u))


def _multiple_of_identity(factor: Array) -> Array | None:
    """Return c if F Fᵀ = c I to rounding in every network of the stack, else None."""
    size = factor.shape[-2]
    if factor.shape[-1] != size:
        return None
    product = factor @ transpose(factor)
    scale = np.asarray(np.trace(product, axis1=-2, axis2=-1) / size)
    error = np.abs(product - scale[..., None, None] * np.eye(size)).max(axis=(-1, -2))
    if (scale <= 0).any() or (error > 8 * size * np.finfo(factor.dtype).eps * scale).any():
        return None
    return scale


def _masked(problem: Problem, chains: Chains, damping: float, mask: Any) -> list[Array]:
    """Solve (F_M + λI) v = −∇ℓ: layer by layer for diagonal blocks, else with F_M on the subspace of the sweeps."""
    keep = layer_mask(mask, problem.depth)
    if (keep == np.eye(problem.depth)).all():
        error = problem.whiten(problem.error_factor)
        pairs = zip(whitened_after(problem), forward_signals(problem), strict=True)
        return [_one_layer(back, signal, error, damping) for back, signal in pairs]
    small = core(problem, chains, problem.factor, whitened=True)
    _refuse_large(small)
    error = _vec(problem.whiten(problem.error_factor))
    blocks = [
        outer_kron(transpose(a), b) if 0 not in (a.shape[-2], b.shape[-1]) else None
        for a, b in zip(*small, strict=True)
    ]
    matrix, right = _assemble(small, blocks, keep, error)
    size = matrix.shape[-1]
    if size == 0:
        return embed(right, problem, chains)
    shifted = matrix + matrix.dtype.type(damping) * np.eye(size, dtype=matrix.dtype)
    # F_M is indefinite for some masks, so that λ may meet an eigenvalue: solve by eigh and say so.
    values, vectors = np.linalg.eigh(shifted)
    smallest, largest = np.abs(values).min(axis=-1), np.abs(values).max(axis=-1)
    if (smallest <= size * np.finfo(matrix.dtype).eps * largest).any():
        raise ConditionError(
            "damping: F_M + λI is singular for this mask (an indefinite F_M, statement N5); change λ."
        )
    coordinates = (transpose(vectors) @ right[..., None])[..., 0] / values
    return embed((vectors @ coordinates[..., None])[..., 0], problem, chains)


def _refuse_large(small: Core) -> None:
    """Raise before J and F_M are formed if they do not fit into memory."""
    shape = small.after[0].shape
    size = sum(b.shape[-1] * a.shape[-2] for a, b in zip(*small, strict=True))
    count = math.prod(shape[:-2]) * size * (4 * size + shape[-2] * small.before[0].shape[-1])
    remedy = "Use no mask, or 'block-diagonal', or damping_kind='factored'."
    refuse_beyond_memory("net", count, small.after[0].itemsize, remedy)


def _assemble(small: Core, blocks: list[Array | None], keep: Array, error: Array) -> tuple[Array, Array]:
    present = [(i, b) for i, b in enumerate(blocks) if b is not None]
    size = sum(b.shape[-1] for _, b in present)
    batch = error.shape[:-1]
    matrix, right = np.zeros((*batch, size, size), error.dtype), np.zeros((*batch, size), error.dtype)
    row = 0
    for i, b in present:
        column = 0
        for j, c in present:
            if keep[i, j]:
                matrix[..., row : row + b.shape[-1], column : column + c.shape[-1]] = transpose(b) @ c
            column += c.shape[-1]
        right[..., row : row + b.shape[-1]] = (transpose(b) @ error[..., None])[..., 0]
        row += b.shape[-1]
    return matrix, right


def _vec(matrix: Array) -> Array:
    return transpose(matrix).reshape(*matrix.shape[:-2], -1)
