"""What is the minimum-norm natural gradient of balanced layers? A division by eigenvalues: statements S1, N3.

W_{i+1}ᵀW_{i+1} = W_iW_iᵀ means W_i = O_i r O_{i-1}ᵀ with orthonormal O_i and the same r for every layer. Then all
terms of Σ_j B_jB_jᵀ M A_jᵀA_j = T are diagonal in the bases O_L and O_0.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from linnat._checks import Array
from linnat.exact.chains import Chains, Problem
from linnat.exact.staircase import range_basis
from linnat.linalg.kernels import frobenius, transpose

SLACK = 16.0  # times size · eps · r_1: what rounding leaves of balance


def balanced_solution(problem: Problem, chains: Chains, target: Array) -> list[Array] | None:
    """Return v_i = O_i [r_b^{L-i} Λ_ba r_a^{i-1}] O_{i-1}ᵀ, Λ = T / λ, or None where the layers are not balanced.

    `target` is T in the basis of range S. One SVD, a QR and four products a layer.
    """
    factored = None if problem.biases else _factor(problem, chains.input_ranks[min(1, problem.depth - 1)])
    if factored is None:
        return None
    bases, root = factored
    depth = problem.depth
    first, last = _complete(bases[0]), _complete(bases[-1])
    rotated = transpose(last) @ target @ first
    inputs = _pad(root, rotated.shape[-1])[..., None, :]
    outputs = _pad(root, rotated.shape[-2])[..., :, None]
    largest = np.maximum(inputs, outputs)
    scale = np.where(largest > 0, largest, 1)
    shares = [(outputs / scale) ** (depth - i) * (inputs / scale) ** (i - 1) for i in range(1, depth + 1)]
    radius = np.sqrt(sum(s**2 for s in shares))
    # Λ scaled by largest^{L-1}: the power of the layers' size is divided out before anything is squared.
    quotient = np.where(largest > 0, rotated / np.where(radius > 0, radius, 1) / scale ** (depth - 1), 0)
    result, basis = [], range_basis(problem)
    for i, share in enumerate(shares, 1):
        rows = last if i == depth else bases[i]
        columns = first if i == 1 else bases[i - 1]
        core = (share / np.where(radius > 0, radius, 1) * quotient)[
            ..., : rows.shape[-1], : columns.shape[-1]
        ]
        v = rows @ core @ transpose(columns)
        result.append(v if i > 1 or basis is None else v @ transpose(basis))
    return result


def _factor(problem: Problem, rank: int) -> tuple[list[Array], Array] | None:
    """Return O_0 … O_L (…, n_i, rank) and r, or None where W_i O_{i-1} = O_i r fails or leaves something out."""
    basis = range_basis(problem)
    start = problem.weights[0] if basis is None else problem.weights[0] @ basis
    if rank == 0 or not _is_balanced([start, *problem.weights[1:]]):
        return None
    left, values, right = np.linalg.svd(start, full_matrices=False)
    root = values[..., :rank]
    bases = [transpose(right)[..., :rank], left[..., :rank]]
    for weight in problem.weights[1:]:
        image = weight @ bases[-1]
        turned, upper = np.linalg.qr(image)
        sign = np.where(np.diagonal(upper, axis1=-2, axis2=-1) < 0, -1, 1).astype(image.dtype)
        turned = turned * sign[..., None, :]
        gap = frobenius(weight - (turned * root[..., None, :]) @ transpose(bases[-1]))
        if (gap > _slack(weight) * values[..., 0]).any():
            return None
        bases.append(turned)
    return bases, root


def _is_balanced(weights: list[Array]) -> bool:
    for below, above in pairwise(weights):
        gap = frobenius(transpose(above) @ above - below @ transpose(below))
        if (gap > _slack(above) * frobenius(above) ** 2).any():
            return False
    return True


def _slack(matrix: Array) -> float:
    return float(SLACK * max(matrix.shape[-2:]) * np.finfo(matrix.dtype).eps)


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
