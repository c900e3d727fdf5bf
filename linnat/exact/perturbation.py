"""What do a network and a task look like with their given numbers perturbed in the last bits? For error estimates (X9).

Ranks are kept: they have been decided. What was given is perturbed (the rows' R factor of data; S, Σ, W*,
c*, m̄ of a population), not what was derived from it, so that the condition of the derivation counts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array
from linnat.exact.moments import Moments, affine_moments, regress, teacher_without_bias, times_vector
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task

AMOUNT = 2.0  # times eps, with random signs


class Sides(NamedTuple):
    """What a network sees of a task: moments, the total weight that minimises the loss, C (None for the identity)."""

    moments: Moments
    goal: Array
    noise: Array | None


def sides_of(task: Task, biases: bool) -> Sides:
    """Return what a network without (or with) biases sees of a task."""
    return Sides(task.moments(biases), task.goal(biases), None if task.white_noise else task.noise_factor)


def perturbed_network(net: LinearNetwork, rng: np.random.Generator) -> LinearNetwork:
    """Return the network with every parameter perturbed by 2 eps."""
    return net.replace_layers([_entries(layer, rng, net.dtype) for layer in net.layers])


def perturbed_sides(task: Task, biases: bool, rng: np.random.Generator, dtype: Any) -> Sides:
    """Return the sides of the task, its numbers perturbed by 2 eps of float64 and the result by 2 eps of dtype."""
    sides = _from_root(task, biases, rng) if task.root is not None else _from_population(task, biases, rng)
    if np.dtype(dtype) == np.float64:
        return sides
    factor, target, rank, residual = sides.moments
    moments = Moments(_entries(factor, rng, dtype), _entries(target, rng, dtype), rank, residual)
    noise = None if sides.noise is None else _entries(sides.noise, rng, dtype)
    return Sides(moments, _entries(sides.goal, rng, dtype), noise)


def _from_root(task: Task, biases: bool, rng: np.random.Generator) -> Sides:
    # The rounding of a QR is relative to the norm of each column.
    root, inputs = np.asarray(task.root), task.n_inputs
    size = np.linalg.norm(root, axis=0)
    root = root + AMOUNT * np.finfo(float).eps * size * _signs(root.shape, rng)
    ones, rows, values = root[:, 0], root[:, 1 : 1 + inputs], root[:, 1 + inputs :]
    # The first column of [1, x, y] has rounding errors below the diagonal, too; a rotation would remove them.
    noise = None if task.white_noise else _covariance_root(task.noise_cov, rng)
    if not biases:
        moments, goal = regress(rows, values, rank=int(np.asarray(task.plain.rank)))
        return Sides(moments, goal, noise)
    mean, average = rows[0] / ones[0], values[0] / ones[0]
    centred, teacher = regress(rows[1:], values[1:], rank=int(np.asarray(task.affine.rank)) - 1)
    moments = affine_moments(centred.factor, centred.target, mean, average, centred.residual)
    offset = average - teacher @ mean
    return Sides(moments, np.concatenate([teacher, offset[:, None]], axis=1), noise)


def _from_population(task: Task, biases: bool, rng: np.random.Generator) -> Sides:
    teacher, bias = _entries(task.teacher, rng), _entries(task.teacher_bias, rng)
    mean, noise = (
        _entries(task.input_mean, rng),
        None if task.white_noise else _covariance_root(task.noise_cov, rng),
    )
    cov = _covariance(task.input_cov, rng)
    residual = task.moments(biases).residual
    if not biases:
        factor = _leading_root(cov, task.plain.rank)
        goal, _ = teacher_without_bias(teacher, bias, mean, factor)
        return Sides(Moments(factor, goal @ factor, task.plain.rank, residual), goal, noise)
    centred = _leading_root(cov - mean[..., :, None] * mean[..., None, :], np.asarray(task.affine.rank) - 1)
    moments = affine_moments(centred, teacher @ centred, mean, times_vector(teacher, mean) + bias, residual)
    shape = np.broadcast_shapes(teacher.shape[:-2], bias.shape[:-1])
    parts = [np.broadcast_to(p, (*shape, *p.shape[-2:])) for p in (teacher, bias[..., None])]
    return Sides(moments, np.concatenate(parts, axis=-1), noise)


def _covariance_root(matrix: Array, rng: np.random.Generator) -> Array:
    return np.asarray(np.linalg.cholesky(_covariance(matrix, rng)))


def _covariance(matrix: Array, rng: np.random.Generator) -> Array:
    """Perturb each entry by 2 eps √(C_ii C_jj), symmetrically."""
    signs = np.triu(_signs(matrix.shape, rng))
    signs = signs + np.swapaxes(np.triu(signs, 1), -1, -2)
    scale = np.sqrt(np.maximum(np.diagonal(matrix, axis1=-2, axis2=-1), 0))
    size = scale[..., :, None] * scale[..., None, :]
    return np.asarray(matrix + AMOUNT * np.finfo(float).eps * size * signs)


def _leading_root(matrix: Array, rank: int | Array) -> Array:
    """Return V λ^½ for the leading eigenvalues, as many as the rank says; columns beyond it are zero in a stack."""
    values, vectors = np.linalg.eigh(matrix)
    ranks = np.asarray(rank)
    root = np.sqrt(np.maximum(values[..., ::-1], 0))
    root = np.where(np.arange(root.shape[-1]) < ranks[..., None], root, 0)
    columns = int(ranks.max(initial=0))
    return np.asarray(vectors[..., ::-1] * root[..., None, :])[..., :columns]


def _entries(array: Array, rng: np.random.Generator, dtype: Any = np.float64) -> Array:
    """Perturb each entry by 2 eps of dtype, relative to itself."""
    factor = 1 + AMOUNT * float(np.finfo(dtype).eps) * _signs(array.shape, rng)
    return (array * factor).astype(array.dtype)


def _signs(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return rng.integers(0, 2, shape, dtype=np.int8) * 2.0 - 1.0
