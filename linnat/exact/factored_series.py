"""How does the error of factored damping begin, for weak and for strong damping? Statement N7.

With 𝓡 = Λ̃⁺/π ⊕ πΛ⁺ and 𝒮 = πΛ̃ ⊕ Λ/π on each layer (on a pair of singular vectors: 1/(πβ) + π/α and πβ + α/π), u the
undamped step of the blocks, g = −∇ℓ, m the minimum-norm gauge and c = 1/L, or 1 for the mask "block-diagonal":

    λ → 0:  factored = c [u − √λ 𝓡u + λ (𝓡² − Λ̃⁺ ⊗ Λ⁺) u + …],       exact = m − λ F⁺m + …;
    λ → ∞:  λ factored = c [g − 𝒮g/√λ + (𝒮² − Λ̃ ⊗ Λ) g/λ − …],       λ exact = g − F g/λ + ….
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, as_choice, representable
from linnat.exact.chains import Chains, Problem, groups, make_problem
from linnat.exact.factored import CORRECTIONS, Block, decompose, is_diagonal, layer_share
from linnat.exact.jacobian import core, dense_core, embed, jacobian_rank
from linnat.exact.loss import forward_signals, pull_back
from linnat.exact.network import LinearNetwork
from linnat.exact.staircase import change_of_total
from linnat.exact.task import Task
from linnat.linalg.kernels import transpose
from linnat.linalg.vec import vec


class DampingSeries(NamedTuple):
    """The first coefficients of the relative error of factored damping.

    Attributes
    ----------
    weak : array (…, 3)
        Of 1, √λ and λ as λ → 0.
    strong : array (…, 3)
        Of 1, 1/√λ and 1/λ as λ → ∞.
    """

    weak: Array
    strong: Array


class _Side(NamedTuple):
    """Three terms of factored minus exact damping, and exact = `base` − h² `slope` + …; lists over layers."""

    gap: tuple[Sequence[Array], Sequence[Array], Sequence[Array]]
    base: Sequence[Array]
    slope: Sequence[Array]


@representable("net, task")
def factored_damping_series(
    net: LinearNetwork, task: Task, mask: Any = None, rtol: float | None = None, correction: str = "trace"
) -> DampingSeries:
    """Return the relative error of factored damping to first order in λ and in 1/λ (statement N7).

    Parameters
    ----------
    net : LinearNetwork
    task : Task
        Leading axes of both broadcast.
    mask : "block-diagonal", optional
    rtol : float, optional
    correction : "trace", "none" or "weak"
        All as in `factored_damping_error`, of which this is the beginning.

    Returns
    -------
    DampingSeries
        Zeros where the gradient vanishes.

    Raises
    ------
    InputError
        For bad arguments, and without mask where J would exceed the stated share of memory.

    Notes
    -----
    Two SVDs a layer; without mask an SVD of J besides. The weak series without mask is of use while √λ is below the
    constant over the second coefficient; a constant of at most √eps counts as zero, since its series would be of use
    for λ below eps only.

    Examples
    --------
    >>> net, task = LinearNetwork([[[2.0]]]), Task([[3.0]])
    >>> factored_damping_series(net, task)
    DampingSeries(weak=array([ 0.,  2., -4.]), strong=array([ 0.,  2., -4.]))
    >>> float(np.polynomial.Polynomial([0, 2, -4])(1e-2).round(6))  # λ = 1e-4
    0.0196
    """
    as_choice(correction, "correction", CORRECTIONS)
    problem, batch = make_problem(net, task)
    diagonal, share = is_diagonal(mask, problem.depth), layer_share(problem, mask)
    size = problem.maps[0].shape[0] if batch else 1
    weak, strong = np.empty((size, 3)), np.empty((size, 3))
    for index, part, chains in groups(problem, batch, rtol):
        blocks = decompose(part, chains, correction)
        whole = None if diagonal else _undamped(part, chains, blocks)
        weak[index] = _series(_weak(blocks, share, whole), part.factor.dtype)
        strong[index] = _series(_strong(part, blocks, share, diagonal=diagonal), part.factor.dtype)
    return DampingSeries(weak.reshape(*batch, 3), strong.reshape(*batch, 3))


def _weak(
    blocks: Sequence[Block], share: float, whole: tuple[Sequence[Array], Sequence[Array]] | None
) -> _Side:
    """Return the terms in h = √λ; `whole` is m and F⁺m, None for the block-diagonal matrix."""
    terms = []
    for b in blocks:
        u = b.error / b.outer / b.inner
        inverse, other = 1 / b.outer / b.outer / b.pi, b.pi / b.inner / b.inner
        once = inverse * u + other * u
        # 𝓡² − Λ̃⁺ ⊗ Λ⁺ without a difference: L² + LR + R².
        terms.append(
            (share * u, -share * once, share * (inverse * once + other * other * u), inverse * other * u)
        )
    first, second, third, product = zip(*terms, strict=True)
    if whole is None:
        return _Side(([0 * u for u in first], second, _sum(third, product)), first, product)
    base, slope = whole
    return _Side(([u - m for u, m in zip(first, base, strict=True)], second, _sum(third, slope)), base, slope)


def _strong(problem: Problem, blocks: Sequence[Block], share: float, *, diagonal: bool) -> _Side:
    """Return the terms in h = 1/√λ."""
    terms = []
    for b in blocks:
        g = b.outer * b.error * b.inner
        own, other = b.pi * b.outer * b.outer, b.inner * b.inner / b.pi
        once = own * g + other * g
        terms.append((g, -share * once, share * (own * once + other * other * g), own * other * g))
    slope, second, third, product = zip(*terms, strict=True)
    moved = product if diagonal else _product(problem, blocks, slope)
    return _Side(([(share - 1) * g for g in slope], second, _sum(third, moved)), slope, moved)


def _series(side: _Side, dtype: Any) -> Array:
    """Expand ‖gap_0 + h gap_1 + h² gap_2‖ / ‖base − h² slope‖ to second order in h."""
    zeroth, first, second = side.gap
    size = np.sqrt(_inner(side.base, side.base))
    scale = np.where(size > 0, size, 1)
    constant = np.sqrt(_inner(zeroth, zeroth)) / scale
    length = np.sqrt(_inner(first, first)) / scale
    along = _inner(first, second) / scale**2
    vanishing = constant <= np.sqrt(np.finfo(dtype).eps)
    own, step = np.where(vanishing, 1, constant), np.where(length > 0, length, 1)
    mixed = _inner(zeroth, first) / scale**2 / own
    curve = (length**2 + 2 * _inner(zeroth, second) / scale**2 - mixed**2) / (2 * own)
    curve = curve + own * _inner(side.base, side.slope) / scale**2
    plain = np.stack([constant, mixed, curve], axis=-1)
    return np.where(vanishing[..., None], np.stack([0 * constant, length, along / step], axis=-1), plain)


def _undamped(problem: Problem, chains: Chains, blocks: Sequence[Block]) -> tuple[list[Array], list[Array]]:
    """Return m = J⁺Ẽ and F⁺m in the singular vectors of the blocks, by an SVD of J."""
    remedy = (
        "Use factored_damping_error at small dampings, or mask='block-diagonal': both need no dense matrix."
    )
    matrix = dense_core(core(problem, chains, problem.factor, whitened=True), remedy)
    error, rank = vec(problem.whiten(problem.error_factor)), jacobian_rank(chains)
    if 0 in matrix.shape[-2:] or rank == 0:
        zeros = [np.zeros_like(b.error) for b in blocks]
        return zeros, zeros
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values, right = values[..., :rank], right[..., :rank, :]
    found = (transpose(left[..., :rank]) @ error[..., None])[..., 0] / values
    pair = []
    for coordinates in (found, found / values / values):
        pieces = embed((transpose(right) @ coordinates[..., None])[..., 0], problem, chains)
        pair.append([transpose(b.left) @ v @ b.right for b, v in zip(blocks, pieces, strict=True)])
    return pair[0], pair[1]


def _product(problem: Problem, blocks: Sequence[Block], cores: Sequence[Array]) -> list[Array]:
    """Return F δ for a direction given and returned in the singular vectors of the blocks."""
    pieces = [b.widen(x) for b, x in zip(blocks, cores, strict=True)]
    change = change_of_total(problem, pieces, problem.factor)
    pulled = pull_back(problem, problem.precision(change), forward_signals(problem))
    return [transpose(b.left) @ v @ b.right for b, v in zip(blocks, pulled, strict=True)]


def _sum(first: Sequence[Array], second: Sequence[Array]) -> list[Array]:
    return [a + b for a, b in zip(first, second, strict=True)]


def _inner(first: Sequence[Array], second: Sequence[Array]) -> Array:
    pairs = zip(first, second, strict=True)
    return np.asarray(sum(np.einsum("...ij,...ij->...", a, b, dtype=np.float64) for a, b in pairs))
