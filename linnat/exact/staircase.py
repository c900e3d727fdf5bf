"""Which solution of F v = −∇ℓ comes from layer-by-layer solves? Statements N1, N2, N5, X9.

The staircase natural gradient from the two sweeps, and its fast path for square invertible layers. Any positive
shares of the layers in the blocks of the error give another solution; N2 takes equal ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from linnat._checks import Array
from linnat.exact.chains import Chains, Problem
from linnat.exact.masks import shares
from linnat.linalg import kernels as k
from linnat.linalg.chain import Link, Sweep, extend_inverse, solve_outer
from linnat.linalg.chain_ranks import CERTAIN, slack
from linnat.linalg.kernels import transpose
from linnat.linalg.square_chain import divide_by_others

Key = tuple[Array | None, Link | None]


def square(problem: Problem, mask: Any = None) -> list[Array] | None:
    """Return N1 for square invertible layers by one LU each, as u = −v, or None where that is not certain.

    u_i = −c_i X_i K_i with X_i = W_{i+1}⁻¹ X_{i+1}, X_L = E and K_i = K_{i-1} W_{i-1}⁻¹, K_1 = I; S and Σ cancel.
    """
    if not _has_inverses(problem):
        return None
    if mask is None and problem.goal.ndim == 2 and len(problem.goal) <= k.DIRECT and not problem.biases:
        return divide_by_others(problem.weights, problem.goal, -1 / problem.depth, CERTAIN)
    return _square(problem, mask)


def _has_inverses(problem: Problem) -> bool:
    """Return whether all layers are square and S is invertible; whether the layers are, is for their LU to tell."""
    size = problem.maps[0].shape[-1]
    for matrix in problem.maps[:-1]:
        if matrix.shape[-2] != size:
            return False
    last, factor = problem.weights[-1], problem.factor
    if factor.shape[-1] != size or last.shape[-1] != last.shape[-2]:
        return False
    row = factor[..., 0, :]  # most often without a zero; a column of zeros stands for a drop of the rank
    return np.count_nonzero(row) == row.size or bool(factor.any(axis=-2).all())


def _square(problem: Problem, mask: Any) -> list[Array] | None:
    """Return the same for networks of any kind."""
    outputs, size = problem.weights[0].shape[-2], problem.maps[0].shape[-1]
    limit = CERTAIN / slack(problem.maps[0])
    factors = [k.factor(w) for w in problem.weights]
    depth, dtype = problem.depth, problem.weights[0].dtype
    # Without a mask all shares are equal, and taken at once.
    coefficient = (
        None if mask is None else -shares(mask, depth, (outputs,) * depth, (size,) * depth)[:, 0, -1]
    )
    solved = [problem.error * dtype.type(-1 / depth) if coefficient is None else problem.error]
    for i in range(depth - 1, 0, -1):
        x, condition = k.solve_checked(factors[i], problem.weights[i], solved[-1])
        if not (condition < limit).all():
            return None
        solved.append(x)
    # Layer 1 enters only with its inverse on the right, K_2 = M_1⁻¹.
    inverse, condition = k.inverse_checked(factors[0], problem.weights[0])
    if not (condition < limit).all():
        return None
    offset = np.zeros((*inverse.shape[:-1], 1), dtype)
    result = []
    for i, x in enumerate(reversed(solved)):
        if i > 1:
            inverse = k.solve_right(inverse, factors[i - 1])
        v = x[..., :outputs] if i == 0 else k.matmul(x[..., :outputs], inverse)
        if problem.biases:
            # A_i⁻¹ in the affine group: the last column takes off what the constant signal has become.
            v = np.concatenate([v, x[..., outputs:] - k.matmul(v, offset)], axis=-1)
            offset = k.matmul(problem.weights[i], offset) + problem.maps[i][..., :outputs, outputs:]
        result.append(v if coefficient is None else v * v.dtype.type(coefficient[i]))
    return result


def staircase(
    problem: Problem,
    chains: Chains,
    mask: Any = None,
    error: Array | None = None,
    weights: Array | None = None,
) -> list[Array]:
    """Return N2, v_i = B̃_i⁺ [Σ c_i^{(kl)} ΔP_k Ẽ ΔQ_l] Ã_i⁺, from the two sweeps.

    With `error` in place of `bare_error`; positive `weights` (L,) make shares in their proportion, another solution.
    """
    left, right, depth = chains.left, chains.right, problem.depth
    p, q = chains.output_ranks, chains.input_ranks
    error = rotated_error(problem, chains, error)
    share, together = shares(mask, depth, p, q), mask is None and weights is None
    if weights is not None:
        share = share * weights[:, None, None]
        total = share.sum(axis=0)
        share = share / np.where(total > 0, total, 1)
    weights = _spread(share.astype(error.dtype), p, q, together=together)
    uniform = not (left.drops or right.drops)
    keys = inverses(right, p, q)
    result: list[Array] = []
    solved = error
    for i in range(depth - 1, -1, -1):
        level = depth - 1 - i
        if level and (uniform or (together and p[i] == p[i + 1])):
            solved = solve_outer(left.links[level : level + 1], solved, p[i])
        else:
            weighted = error if uniform else error[..., : p[i], :] * weights[i, : p[i]]
            solved = solve_outer(left.links[: level + 1], weighted, p[i])
        middle = solved[..., : q[i]]
        v = between(left.bases[level], middle, *keys[i], right.bases[i])
        if level == 0 and left.drops:
            v = problem.colour(v)
        result.append(v * weights[i].flat[0] if uniform and weights[i].size else v)
    return result[::-1]


def bare_error(problem: Problem, chains: Chains) -> Array:
    """Return E F, or E where the right sweep does without F."""
    right = chains.right
    return problem.error if right.links[0] is None else problem.error_factor[..., :, : right.ranks[0]]


def rotated_error(problem: Problem, chains: Chains, error: Array | None = None) -> Array:
    """Return Z_Pᵀ Ẽ Z_Q, in which every ΔP_k Ẽ ΔQ_l is a block of consecutive rows and columns; zero unless k ≤ l.

    Without a drop of rank on the output side it is not whitened, and without F in the right sweep it is E, not E F.
    """
    left, right = chains
    error = bare_error(problem, chains) if error is None else error
    if left.drops:
        error = problem.whiten(error)
    if left.outer is None or right.outer is None:
        if left.outer is not None:
            error = k.matmul(transpose(left.outer), error)
        return error if right.outer is None else k.matmul(error, right.outer)
    rotated, start = np.zeros_like(error), 0
    for end, count in zip(chains.output_ranks, chains.input_ranks, strict=True):
        if end > start:
            rows, columns = transpose(left.outer[..., start:end]), right.outer[..., :count]
            first = k.matmul(rows, error) if end - start < count else None
            block = k.matmul(rows, k.matmul(error, columns)) if first is None else k.matmul(first, columns)
            rotated[..., start:end, :count] = block
            start = end
    return rotated


def expressible_error(problem: Problem, chains: Chains) -> Array:
    """Return T U, (…, n_L, ρ): the part of the error that the layers can express, in the basis of range S.

    T itself if S is invertible. T̃ = Σ_{k ≤ l} ΔP_k Ẽ ΔQ_l is the projection of the whitened error on the range of J.
    """
    left, right = chains
    if not (left.drops or right.drops):
        return error_on_range(problem)
    error = project_on_range(chains, problem.whiten(problem.error_factor[..., : right.ranks[0]]))
    basis, upper = k.qr(problem.factor[..., : right.ranks[0]])
    error = problem.colour(k.solve_triangular_right(error, upper, lower=False))
    return error if basis.shape[-2] > basis.shape[-1] else k.matmul(error, transpose(basis))


def project_on_range(chains: Chains, whitened: Array) -> Array:
    """Return Σ_{k ≤ l} ΔP_k X ΔQ_l, the orthogonal projection of X (…, n_L, ρ) on the range of J."""
    left, right = chains
    if left.outer is None or right.outer is None:
        return whitened  # all of R^{n_L} ⊗ R^ρ can be expressed
    rotated = k.matmul(k.matmul(transpose(left.outer), whitened), right.outer)
    rotated = rotated * _reachable(chains).astype(rotated.dtype)
    return k.matmul(k.matmul(left.outer, rotated), transpose(right.outer))


def error_on_range(problem: Problem) -> Array:
    """Return E U for the orthonormal basis U of range S (E itself if S is invertible)."""
    basis = range_basis(problem)
    if basis is None:
        return problem.error
    count = basis.shape[-1]
    _, upper = k.qr(problem.factor[..., :count])
    return k.solve_triangular_right(problem.error_factor[..., :count], upper, lower=False)


def range_basis(problem: Problem) -> Array | None:
    """Return orthonormal U with range U = range S, None (the identity) if S is invertible."""
    rank = int((np.abs(problem.factor).max(axis=-2, initial=0.0) > 0).sum(axis=-1).max(initial=0))
    if rank == problem.factor.shape[-2]:
        return None
    return k.qr(problem.factor[..., :rank])[0]


def _reachable(chains: Chains) -> Array:
    """Return the 0/1 pattern k ≤ l of the rotated error."""
    p, q = np.asarray(chains.output_ranks), np.asarray(chains.input_ranks)
    row = np.searchsorted(p, np.arange(p[-1]), side="right")
    column = (q[None, :] > np.arange(q[0])[:, None]).sum(axis=1) - 1
    return np.asarray(row[:, None] <= column[None, :])


def change_of_total(problem: Problem, pieces: list[Array], start: Array | None) -> Array:
    """Return Σ B_i v_i A_i X for X = `start` (None: the identity)."""
    signal = start
    change = pieces[0] if start is None else k.matmul(pieces[0], start)
    for i in range(1, problem.depth):
        signal = problem.maps[i - 1] if signal is None else k.matmul(problem.maps[i - 1], signal)
        change = k.matmul(problem.weights[i], change) + k.matmul(pieces[i], signal)
    return change


def _spread(share: Array, p: Sequence[int], q: Sequence[int], *, together: bool) -> Array:
    """Return c[i, a, b] for rows a and columns b of the rotated error; `together` when c does not depend on i."""
    row_block = np.searchsorted(p, np.arange(p[-1]), side="right")
    column_block = (np.asarray(q)[None, :] > np.arange(q[0])[:, None]).sum(axis=1) - 1
    if together:
        common = share.max(axis=0)[row_block[:, None], column_block]
        return np.broadcast_to(common, (len(share), *common.shape))
    return share[:, row_block[:, None], column_block[None, :]]


def inverses(right: Sweep, p: Sequence[int], q: Sequence[int]) -> list[Key]:
    """Return K_i = (T_{i-1} ⋯ T_0)⁻¹, leading blocks, for every layer: as K, or as K and a link to solve with.

    What comes after a drop of rank needs only a block of K_i; the layer itself, with few rows, is better off solving.
    """
    result: list[Key] = []
    inverse: Array | None = None
    for link, few, rank, after in zip(right.links, p, q, (*q[1:], 0), strict=True):
        if link is not None and few < rank and after < rank:
            block = Link(link.matrix[..., :rank, :rank], link.lower)
            result.append((None if inverse is None else inverse[..., :rank, :rank], block))
            inverse = extend_inverse(inverse, link, after) if after else None
        else:
            inverse = extend_inverse(inverse, link, rank)
            result.append((inverse, None))
    return result


def between(
    left: Array | None, middle: Array, inverse: Array | None, link: Link | None, right: Array | None
) -> Array:
    """Return U X K T⁻¹ Vᵀ, factors None being the identity, in the order that costs least."""
    if inverse is not None and (link is not None or right is None or middle.shape[-2] <= right.shape[-2]):
        middle, inverse = k.matmul(middle, inverse), None
    if link is not None:
        middle = k.solve_triangular_right(middle, link.matrix, lower=link.lower)
    if left is not None:
        left = left[..., : middle.shape[-2]]
    if right is None:
        return middle if left is None else k.matmul(left, middle)
    rows = transpose(right) if inverse is None else k.matmul(inverse, transpose(right))
    if left is None:
        return k.matmul(middle, rows)
    (n, p), (q, m) = left.shape[-2:], rows.shape[-2:]
    if n * q * (p + m) <= p * m * (q + n):
        return k.matmul(k.matmul(left, middle), rows)
    return k.matmul(left, k.matmul(middle, rows))
