"""How is N2 computed where a bottleneck cuts most of the error off? Without what it cuts off (statements N2, X9).

Where a rank drops, only the leading columns Z of the orthogonal factor of a side are computed, those of the space that
passes. A layer before the drop sees the whole space; its part of the error comes as it is, scaled, with what passes put
right in low rank:

    Σ_l c_l (X ΔQ_l) = c X + Σ_l (c_l − c) (X Z_l) Z_lᵀ,    c the share where nothing passes,

and is solved for row by row (on the output side column by column) with the factors as they are. For 784-100-30-100-784
these are 30 rows and 30 columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array
from linnat.exact.chains import Chains, Problem
from linnat.exact.masks import shares
from linnat.exact.staircase import Key, bare_error, between, inverses, staircase
from linnat.linalg import kernels as k
from linnat.linalg.chain import extend_inverse, solve_outer, undo
from linnat.linalg.kernels import transpose


class Error(NamedTuple):
    """The error in thin coordinates.

    Attributes
    ----------
    rows : array (…, p, ρ) or None
        Z_PᵀẼ, the rows for the layers that see all inputs.
    columns : array (…, n_L, q) or None
        Ẽ Z_Q, the columns for the layers that see all outputs.
    core : array (…, r, s)
        Z_PᵀẼ Z_Q where it can be expressed, zero elsewhere.
    share : array (L, L)
        c_kl, the share of each layer that can express the block.
    """

    rows: Array | None
    columns: Array | None
    core: Array
    share: Array


def layerwise(problem: Problem, chains: Chains, mask: Any = None) -> list[Array]:
    """Return N2 from sweeps of either kind, thin ones only without a mask."""
    return thin_staircase(problem, chains) if chains.thin else staircase(problem, chains, mask)


def thin_staircase(problem: Problem, chains: Chains) -> list[Array]:
    """Return N2 in equal shares from thin sweeps, as `staircase` does from full ones."""
    left, right, depth = chains.left, chains.right, problem.depth
    p, q = chains.output_ranks, chains.input_ranks
    inputs, outputs = len(right.whole), depth - len(left.whole)  # layers before, and from there on, see all
    error = _error(problem, chains)
    near = [] if error.rows is None else _near_inputs(chains, error, error.rows)
    width = error.core.shape[-1]
    keys = inverses(right, p, [min(size, width) for size in q])
    middle: list[Array] = []
    solved = error.core
    for i in range(outputs - 1, inputs - 1, -1):
        level = depth - 1 - i
        if middle and p[i] == p[i + 1]:
            solved = solve_outer(left.links[level : level + 1], solved, p[i])
        else:
            block = error.core[..., : p[i], :] * _shares(error, chains, p[i], width)
            solved = solve_outer(left.links[: level + 1], block, p[i])
        middle.append(between(left.bases[level], solved[..., : q[i]], *keys[i], right.bases[i]))
    far = [] if error.columns is None else _near_outputs(problem, chains, error, error.columns, keys)
    return [*near, *reversed(middle), *reversed(far)]


def _error(problem: Problem, chains: Chains) -> Error:
    left, right = chains
    p, q, depth = chains.output_ranks, chains.input_ranks, problem.depth
    inputs, outputs = len(right.whole), depth - len(left.whole)
    error = bare_error(problem, chains)
    if left.drops:
        error = problem.whiten(error)
    rows = columns = None
    if inputs:
        rows = error if left.outer is None else k.matmul(transpose(left.outer[..., : p[inputs - 1]]), error)
    if outputs < depth:
        columns = error if right.outer is None else k.matmul(error, right.outer[..., : q[outputs]])
    width = q[inputs] if inputs else q[0]
    core = np.zeros((*error.shape[:-2], p[outputs - 1], width), error.dtype)
    start = 0
    for end, reach in zip(p[:outputs], q, strict=False):
        place = start, end, min(reach, width)
        if end > start and reach:
            core[..., start:end, : place[2]] = _block(chains, error, rows, columns, place)
        start = end
    return Error(rows, columns, core, shares(None, depth, p, q).max(axis=0).astype(error.dtype))


def _block(
    chains: Chains, error: Array, rows: Array | None, columns: Array | None, place: tuple[int, int, int]
) -> Array:
    """Return rows start … end − 1 and the first `count` columns of Z_PᵀẼ Z_Q, from what is known of it."""
    start, end, count = place
    outer, inner = chains.left.outer, chains.right.outer
    if inner is not None and rows is not None and end <= rows.shape[-2]:
        return k.matmul(rows[..., start:end, :], inner[..., :count])
    if outer is None or inner is None or (columns is not None and count <= columns.shape[-1]):
        known = error if columns is None else columns[..., :count]
        return known if outer is None else k.matmul(transpose(outer[..., start:end]), known)
    if end - start < count:
        return k.matmul(k.matmul(transpose(outer[..., start:end]), error), inner[..., :count])
    return k.matmul(transpose(outer[..., start:end]), k.matmul(error, inner[..., :count]))


def _near_inputs(chains: Chains, error: Error, rows: Array) -> list[Array]:
    """Return v_i of the layers that see all inputs: rows of the error through T_0, T_1, … as they come."""
    left, right = chains
    p, count = chains.output_ranks, len(right.whole)
    height, width = rows.shape[-2], error.core.shape[-1]
    common = error.share[_steps(p, height), count - 1][:, None]
    extra = error.core[..., :height, :] * (_shares(error, chains, height, width) - common)
    passed = extra if right.outer is None else k.matmul(extra, transpose(right.outer))
    y = common * rows + passed
    fronts: list[Array | None] = []
    inverse: Array | None = None
    for link, rank in zip(left.links, left.ranks, strict=True):
        inverse = extend_inverse(inverse, link, min(rank, height))
        fronts.append(inverse)
    result = []
    for i, own in enumerate(right.whole):
        y = undo(y, own)
        level = len(p) - 1 - i
        basis, front, inner = left.bases[level], fronts[level], right.bases[i]
        v = y[..., : p[i], :]
        v = v if front is None else k.matmul(transpose(front), v)
        v = v if basis is None else k.matmul(basis, v)
        result.append(v if inner is None else k.matmul(v, transpose(inner)))
    return result


def _near_outputs(
    problem: Problem, chains: Chains, error: Error, columns: Array, keys: list[Key]
) -> list[Array]:
    """Return v_i of the layers that see all outputs, the last one first: columns of the error, like rows elsewhere."""
    left, right = chains
    q, depth = chains.input_ranks, problem.depth
    outputs = depth - len(left.whole)
    height, width = error.core.shape[-2], columns.shape[-1]
    common = error.share[outputs, _steps_down(q, width)]
    extra = error.core[..., :width] * (_shares(error, chains, height, width) - common)
    solved = columns * common + (extra if left.outer is None else k.matmul(left.outer, extra))
    result = []
    for level, own in enumerate(left.whole):
        i = depth - 1 - level
        solved = transpose(undo(transpose(solved), own))
        v = between(left.bases[level], solved[..., : q[i]], *keys[i], right.bases[i])
        result.append(problem.colour(v) if level == 0 else v)
    return result


def _shares(error: Error, chains: Chains, height: int, width: int) -> Array:
    """Return c_kl at rows and columns of the core."""
    rows, columns = _steps(chains.output_ranks, height), _steps_down(chains.input_ranks, width)
    return error.share[rows[:, None], columns[None, :]]


def _steps(p: Sequence[int], size: int) -> Array:
    """Return the layer k to whose ΔP_k each row belongs."""
    return np.asarray(np.searchsorted(p, np.arange(size), side="right"))


def _steps_down(q: Sequence[int], size: int) -> Array:
    """Return the layer l to whose ΔQ_l each column belongs."""
    return np.asarray((np.asarray(q)[None, :] > np.arange(size)[:, None]).sum(axis=1) - 1)
