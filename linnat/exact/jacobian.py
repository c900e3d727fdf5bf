"""What does the Jacobian look like on the subspace that matters? J_i = Ã_iᵀ ⊗ B̃_i = (Â_iᵀ ⊗ B̂_i)(U_i ⊗ V_i)ᵀ.

U_i and V_i are orthonormal bases of range Ã_i and range B̃_iᵀ from the sweeps; directions outside of them
change nothing. So v_i = V_i x_i U_iᵀ, and x solves the same problem with Σ r(B̃_i) r(Ã_i) unknowns and the
same Euclidean norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linnat._checks import Array
from linnat.exact.chains import Chains, Problem
from linnat.linalg import kernels as k
from linnat.linalg.kernels import transpose
from linnat.linalg.kron import outer_kron
from linnat.linalg.memory import refuse_beyond_memory
from linnat.linalg.vec import unvec


class Core(NamedTuple):
    """Â_i (r(Ã_i) × columns of `start`) and B̂_i (n_L × r(B̃_i)) of every layer, i = 1 … L."""

    before: tuple[Array, ...]
    after: tuple[Array, ...]


def core(problem: Problem, chains: Chains, start: Array | None, *, whitened: bool) -> Core:
    """Return the small factors of the Jacobian, with A_1 = `start` (None: the identity) and B_L = I or C⁻¹."""
    left, right = chains
    before: list[Array] = []
    for i, basis in enumerate(right.bases):
        if i == 0:
            eye = np.broadcast_to(
                np.eye(problem.maps[0].shape[-1], dtype=problem.factor.dtype), _square(problem.maps[0])
            )
            signal = eye if start is None else start
            before.append(signal if basis is None else transpose(basis) @ signal)
            continue
        below = right.bases[i - 1]
        image = problem.maps[i - 1] if below is None else problem.maps[i - 1] @ below
        before.append((image if basis is None else transpose(basis) @ image) @ before[-1])
    last = problem.weights[-1]
    size = last.shape[-2]
    identity = np.broadcast_to(np.eye(size, dtype=last.dtype), (*last.shape[:-2], size, size))
    outer = problem.whiten(identity) if whitened else identity
    after: list[Array] = []
    for level, basis in enumerate(left.bases):
        if level == 0:
            after.append(outer if basis is None else outer @ basis)
            continue
        above = left.bases[level - 1]
        weight = problem.weights[-level]
        image = weight if above is None else transpose(above) @ weight
        after.append(after[-1] @ (image if basis is None else image @ basis))
    return Core(tuple(before), tuple(reversed(after)))


def dense_core(small: Core, remedy: str) -> Array:
    """Return the n_L ρ × Σ r(B̃_i) r(Ã_i) matrix [Â_iᵀ ⊗ B̂_i]."""
    rows = small.after[0].shape[-2] * small.before[0].shape[-1]
    columns = sum(b.shape[-1] * a.shape[-2] for a, b in zip(*small, strict=True))
    batch = int(np.prod(small.after[0].shape[:-2]))
    refuse_beyond_memory("net", batch * rows * columns, small.after[0].itemsize, remedy, copies=3)
    pairs = [(transpose(a), b) for a, b in zip(*small, strict=True) if 0 not in (a.shape[-2], b.shape[-1])]
    if not pairs:
        return np.zeros((*small.after[0].shape[:-2], rows, 0), small.after[0].dtype)
    return np.concatenate([outer_kron(a, b) for a, b in pairs], axis=-1)


def embed(vector: Array, problem: Problem, chains: Chains) -> list[Array]:
    """Return v_i = V_i x_i U_iᵀ from the stacked vec x_i."""
    parts, start = [], 0
    for rows, columns in zip(chains.output_ranks, chains.input_ranks, strict=True):
        piece = vector[..., start : start + rows * columns]
        empty = np.zeros((*vector.shape[:-1], rows, columns), vector.dtype)
        parts.append(unvec(piece, (rows, columns)) if rows * columns else empty)
        start += rows * columns
    return stretch(parts, problem, chains)


def stretch(parts: Sequence[Array], problem: Problem, chains: Chains) -> list[Array]:
    """Return v_i = V_i x_i U_iᵀ."""
    result = []
    for i, x in enumerate(parts):
        left, right = chains.left.bases[problem.depth - 1 - i], chains.right.bases[i]
        x = x if left is None else k.matmul(left, x)
        result.append(x if right is None else k.matmul(x, transpose(right)))
    return result


def jacobian_rank(chains: Chains) -> int:
    """Return Σ r(B̃_i) r(Ã_i) − Σ_{i<L} r(B̃_i) r(Ã_{i+1}), the rank of the Fisher matrix (statement F1)."""
    p, q = chains.output_ranks, chains.input_ranks
    own = sum(a * b for a, b in zip(p, q, strict=True))
    return own - sum(a * b for a, b in zip(p[:-1], q[1:], strict=True))


def _square(matrix: Array) -> tuple[int, ...]:
    return (*matrix.shape[:-2], matrix.shape[-1], matrix.shape[-1])
