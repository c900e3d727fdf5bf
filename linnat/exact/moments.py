"""How are second moments kept so that nothing is squared? As a factor F of S = F Fᵀ beside W* F (X9, X10)."""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np

from linnat._checks import Array, check_broadcast
from linnat.linalg.rank import count_rank, default_rtol, warn_of_narrow_gap


class Moments(NamedTuple):
    """What a network sees of the data.

    Attributes
    ----------
    factor : array (…, n, ρ)
        F with S = F Fᵀ; n = n_0, or n_0 + 1 with biases. Without biases its columns are orthogonal: sweeps rely on it.
    target : array (…, n_L, ρ)
        W* F.
    rank : int or integer array (…)
        Rank of S.
    residual : array (…, n_L, m)
        K with K Kᵀ = E[y yᵀ] − W* S W*ᵀ: what no network of this kind can fit.
    """

    factor: Array
    target: Array
    rank: int | Array
    residual: Array


def times_vector(matrix: Array, vector: Array) -> Array:
    """Return M v for stacks of matrices and vectors."""
    return cast(Array, (matrix @ vector[..., None])[..., 0])


def teacher_without_bias(teacher: Array, bias: Array, mean: Array, factor: Array) -> tuple[Array, Array]:
    """Return W* + c* m̄ᵀ S⁺ and 1 − m̄ᵀ S⁺ m̄ ≥ 0."""
    if not mean.any():
        return teacher, np.ones(mean.shape[:-1])
    left, values, _ = np.linalg.svd(factor, full_matrices=False)
    keep = values > default_rtol(factor) * values[..., :1]
    inverse = np.divide(1, values, out=np.zeros_like(values), where=keep)
    inside = inverse * times_vector(np.swapaxes(left, -1, -2), mean)  # F⁺ m̄ in the basis of its right vectors
    row = times_vector(left, inverse * inside)
    return teacher + bias[..., :, None] * row[..., None, :], np.maximum(1 - (inside**2).sum(axis=-1), 0.0)


def population_residual(noise_factor: Array, bias: Array, outside: Array) -> Array:
    """Return [C, c* (1 − m̄ᵀS⁺m̄)^½], a factor of what a network without biases cannot fit."""
    column = (bias * np.sqrt(outside)[..., None])[..., None]
    shape = check_broadcast([noise_factor.shape[:-2], column.shape[:-2]], "teacher_bias, noise_cov")
    parts = [np.broadcast_to(p, (*shape, *p.shape[-2:])) for p in (noise_factor, column)]
    return np.concatenate(parts, axis=-1)


def affine_moments(centred: Array, target: Array, mean: Array, average: Array, residual: Array) -> Moments:
    """Return the moments in x̂ = (x, 1): F̂ = [m̄ F_c; 1 0] with F_c a factor of the centred covariance (X10).

    The mean comes first, so that columns that are zero because ranks differ within a stack stay last.
    """
    shape = check_broadcast([centred.shape[:-2], mean.shape[:-1]], "input_mean, input_cov")
    inputs, columns = centred.shape[-2:]
    factor = np.zeros((*shape, inputs + 1, columns + 1))
    factor[..., :inputs, 0], factor[..., inputs, 0], factor[..., :inputs, 1:] = mean, 1.0, centred
    shape = check_broadcast([target.shape[:-2], average.shape[:-1]], "teacher_bias, teacher")
    goal = np.empty((*shape, average.shape[-1], columns + 1))
    goal[..., 0], goal[..., 1:] = average, target
    rank = 1 + (np.abs(centred).max(axis=-2, initial=0.0) > 0).sum(axis=-1)
    return Moments(factor, goal, int(rank) if np.ndim(rank) == 0 else rank, residual)


def regress(
    rows: Array, values: Array, rtol: float | None = None, rank: int | None = None, scale: float = 0.0
) -> tuple[Moments, Array]:
    """Return the moments of the R factors of x and y, and the minimum-norm teacher; the rank by `rtol` unless given.

    The rows may come from larger ones, of norm `scale` (centred rows, where the mean is large), with the rounding
    errors of those: what is below them counts as zero unless `rtol` says otherwise.
    """
    cut = default_rtol(rows)
    if not len(rows):
        rows, values = np.zeros((1, rows.shape[1])), np.zeros((1, values.shape[1]))
    left, singular, right = np.linalg.svd(rows, full_matrices=False)
    if rank is None:
        rank = int(count_rank(singular, cut if rtol is None else rtol))
        if rtol is None:
            rank = min(rank, int((singular > cut * scale).sum()))
            name = "the centred rows of x" if scale else "the rows of x"
            warn_of_narrow_gap(singular, rank, name, stacklevel=7)  # who makes a Task from data
    left, singular, right = left[:, :rank], singular[:rank], right[:rank]
    target = values.T @ left
    residual = values.T - target @ left.T
    return Moments(right.T * singular, target, rank, residual), (target / singular) @ right
