"""How is Σ_j K_j Λ M_j (+ λΛ) = E solved? Two terms: by two SVDs. More: by an SVD of the whole operator.

Matrix-free solvers are in `linnat.linalg.krylov`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from linnat._checks import Array
from linnat.linalg.kernels import transpose


class SylvesterSolution(NamedTuple):
    """X = Kᵀ M and Y = M Hᵀ of K Kᵀ M + M HᵀH + μ M = T."""

    outer: Array
    inner: Array


def symmetric_sylvester(
    k: Array,
    h: Array,
    target: Array,
    rank_k: int,
    rank_h: int,
    shift: Array | float = 0.0,
    left_root: Array | None = None,
    right_root: Array | None = None,
) -> SylvesterSolution:
    """Solve (K Kᵀ + G Gᵀ) M + M (HᵀH + RᵀR) + μ M = T for Kᵀ M and M Hᵀ, by the SVDs of [K G] and [H; R].

    Parameters
    ----------
    k : array (…, m, p)
    h : array (…, q, n)
    target : array (…, m, n)
    rank_k, rank_h : int
        Singular values of K and H beyond these count as zero; without effect on a side with a root.
    shift : float or array (…)
        μ ≥ 0.
    left_root, right_root : array (…, m, ·), (…, ·, n), optional
        G and R, of rank m and n.

    Returns
    -------
    SylvesterSolution
        `outer` (…, p, n) = Kᵀ M, `inner` (…, m, q) = M Hᵀ; entries of M in the joint null space are zero
        (the least-norm solution, and the limit μ → 0 of the shifted one where T is in the range).

    Notes
    -----
    The quotients a/(a² + b² + μ) are formed without squaring a small number: (a/r)/r with r = √(a² + b² + μ)
    by hypot.
    """
    left, a, turned_k = _side(k, left_root, rank_k)
    right, b, turned_h = _side(transpose(h), None if right_root is None else transpose(right_root), rank_h)
    rotated = transpose(left) @ target @ right
    first, second = _pad(a, rotated.shape[-2])[..., :, None], _pad(b, rotated.shape[-1])[..., None, :]
    root = np.sqrt(np.asarray(shift, dtype=target.dtype))[..., None, None]
    radius = np.hypot(np.hypot(first, second), root)
    radius = np.where(radius > 0, radius, np.inf)
    outer = (first / radius * (rotated / radius))[..., : a.shape[-1], :]
    inner = (second / radius * (rotated / radius))[..., : b.shape[-1]]
    return SylvesterSolution(turned_k @ outer @ transpose(right), left @ inner @ transpose(turned_h))


def _side(matrix: Array, root: Array | None, rank: int) -> tuple[Array, Array, Array]:
    """Return U (complete), a and V with matrix ≈ U[:, :len(a)] a Vᵀ, U and a those of [matrix root]."""
    if root is None:
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        return _complete(left), _cut(values, rank), transpose(right)
    left, values, _ = np.linalg.svd(np.concatenate([matrix, root], axis=-1), full_matrices=False)
    # Not the leading rows of the right singular vectors: beside a large root they have no digits of their own.
    return left, values, transpose(transpose(left) @ matrix / values[..., :, None])


def filtered_solve(matrix: Array, target: Array, rank: int, damping: float = 0.0) -> Array:
    """Return V diag(s/(s² + λ)) Uᵀ e for the first `rank` singular values s of a matrix (…, m, n), e (…, m)."""
    if 0 in matrix.shape[-2:] or rank == 0:
        return np.zeros((*target.shape[:-1], matrix.shape[-1]), target.dtype)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values[..., :rank]
    radius = np.hypot(values, np.sqrt(matrix.dtype.type(damping)))
    radius = np.where(radius > 0, radius, np.inf)
    coordinates = (transpose(left[..., :rank]) @ target[..., None])[..., 0]
    return np.asarray(
        (transpose(right[..., :rank, :]) @ (values / radius * (coordinates / radius))[..., None])[..., 0]
    )


def _cut(values: Array, rank: int) -> Array:
    return np.where(np.arange(values.shape[-1]) < rank, values, 0)


def _pad(values: Array, size: int) -> Array:
    padded = np.zeros((*values.shape[:-1], size), values.dtype)
    padded[..., : values.shape[-1]] = values
    return padded


def _complete(basis: Array) -> Array:
    """Return a square orthogonal matrix whose first columns are the given orthonormal ones."""
    rows, columns = basis.shape[-2:]
    if rows == columns:
        return basis
    complement = np.linalg.qr(basis, mode="complete")[0][..., columns:]
    return np.concatenate([basis, complement], axis=-1)
