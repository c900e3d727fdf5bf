"""Which entries of the error can be expressed, and how do layers move them? Reachable cells: statements F1, N2, N4.

In nested orthonormal bases of the ranges of B̃_i and of the row spaces of Ã_i, layer i moves the leading
r(B̃_i) × r(Ã_i) block and nothing else. The union of these blocks is a staircase with rank J entries, often far fewer
than n_L ρ. Within each step of the stairs the bases are singular ones, so that the rows of J are nearly orthogonal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, ConvergenceError
from linnat.exact.chains import Chains, Problem
from linnat.exact.jacobian import Core, core, stretch
from linnat.linalg import kernels as k
from linnat.linalg.kernels import transpose
from linnat.linalg.krylov import lsqr
from linnat.linalg.memory import refuse_beyond_memory


class Found(NamedTuple):
    """What a method returns: descent directions, its name, and its iterations."""

    pieces: list[Array]
    method: str
    iterations: Array | int = 0


class Cells(NamedTuple):
    """The Jacobian on the reachable cells.

    Attributes
    ----------
    after : tuple of arrays (…, p_i, p_i)
        B̃_i on the bases of its range.
    before : tuple of arrays (…, q_i, q_i)
    steps : tuple of (start, stop, columns)
        Rows start … stop − 1 reach the first `columns` columns.
    left, right : arrays (…, n_L, n_L), (…, ρ, ρ)
        The bases.
    """

    after: tuple[Array, ...]
    before: tuple[Array, ...]
    steps: tuple[tuple[int, int, int], ...]
    left: Array
    right: Array

    @property
    def size(self) -> int:
        """The number of cells, rank J."""
        return sum((stop - start) * columns for start, stop, columns in self.steps)


def make_cells(problem: Problem, chains: Chains, small: Core) -> Cells:
    """Choose the bases and restrict the small factors to them."""
    p, q = chains.output_ranks, chains.input_ranks
    after = [_turn(chains.left.outer, b) for b in small.after]
    before = [transpose(_turn(chains.right.outer, transpose(a))) for a in small.before]
    total = _turn(chains.left.outer, problem.whiten(problem.through(problem.factor)[..., : q[0]]))
    total = total if chains.right.outer is None else total @ chains.right.outer
    left = _nested(p, [total, *after[1:]])
    right = _nested(q[::-1], [transpose(total), *(transpose(a) for a in before[-2::-1])])
    after = [(transpose(left) @ b)[..., :size, :] for b, size in zip(after, p, strict=True)]
    before = [(a @ right)[..., :size] for a, size in zip(before, q, strict=True)]
    edges = sorted({0, *p})
    steps = [(a, b, q[next(i for i, size in enumerate(p) if size >= b)]) for a, b in pairwise(edges)]
    bases = (
        basis if outer is None else outer @ basis
        for basis, outer in ((left, chains.left.outer), (right, chains.right.outer))
    )
    return Cells(tuple(after), tuple(before), tuple(s for s in steps if s[2]), *bases)


class Rows(NamedTuple):
    """The equations D [J̃ √λ](x; z) = D Ẽ on the cells, D the inverse lengths of the rows of [J̃ √λ].

    Attributes
    ----------
    cells : Cells
    shapes : list of (p_i, q_i)
        Of x_i.
    root : float
        √λ.
    scale, right : arrays (…, size)
        D and D Ẽ.
    """

    cells: Cells
    shapes: list[tuple[int, int]]
    root: Any
    scale: Array
    right: Array

    @property
    def ends(self) -> int:
        """The number of unknowns x."""
        return sum(p * q for p, q in self.shapes)


def make_rows(problem: Problem, chains: Chains, damping: float) -> Rows:
    """Set up the equations on the reachable cells."""
    shapes = list(zip(chains.output_ranks, chains.input_ranks, strict=True))
    cells = make_cells(problem, chains, core(problem, chains, problem.factor, whitened=True))
    root = cells.left.dtype.type(np.sqrt(damping))
    if cells.size == 0:
        nothing = np.zeros((*cells.left.shape[:-2], 0), cells.left.dtype)
        return Rows(cells, shapes, root, nothing, nothing)
    lengths = np.sqrt(row_lengths(cells) + root**2)
    scale = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    error = problem.whiten(problem.error_factor)[..., : chains.right.ranks[0]]
    return Rows(cells, shapes, root, scale, scale * read(cells, error))


def solve_on_cells(problem: Problem, chains: Chains, damping: float, tol: float, limit: int) -> Found:
    """Find the shortest (x; z) with D [J̃ √λ](x; z) = D Ẽ on the cells by LSQR.

    Without damping this is the minimum-norm gauge, by iterations on J itself.
    """
    rows = make_rows(problem, chains, damping)
    cells, root, scale, ends = rows.cells, rows.root, rows.scale, rows.ends
    if cells.size == 0:
        return Found(_nothing(rows, problem, chains), "range-lsqr")

    def apply(flat: Array) -> Array:
        return np.asarray(
            scale * (move(cells, split(flat[..., :ends], rows.shapes)) + root * flat[..., ends:])
        )

    def adjoint(flat: Array) -> Array:
        y = scale * flat
        return np.concatenate([join(pull(cells, y)), root * y], axis=-1)

    run = lsqr(apply, adjoint, rows.right, tol=tol, limit=limit)
    pieces = stretch(split(run.x[..., :ends], rows.shapes), problem, chains)
    if not run.converged.all():
        raise ConvergenceError(
            f"LSQR on J has not reached tol {tol:.2g} in {limit} iterations; raise max_iterations, tol or damping",
            tuple(-p for p in pieces),
        )
    return Found(pieces, "range-lsqr", run.iterations)


def factor_on_cells(problem: Problem, chains: Chains, damping: float) -> Found:
    """Find the shortest (x; z) like `solve_on_cells`, λ > 0, by a QR of the rows: 4 (ends + size) size² flops.

    A QR of columns is as accurate as if they had one length; singular values of J do not have that.
    """
    rows = make_rows(problem, chains, damping)
    cells = rows.cells
    if cells.size == 0:
        return Found(_nothing(rows, problem, chains), "range-qr")
    batch = cells.left.shape[:-2]
    count = math.prod(batch) * (rows.ends + cells.size) * cells.size
    refuse_beyond_memory("net", count, rows.scale.itemsize, "Use method='range-lsqr'.", copies=4)
    units = (
        np.eye(cells.size, dtype=rows.scale.dtype).reshape(cells.size, *[1] * len(batch), cells.size)
        * rows.scale
    )
    matrix = np.concatenate([join(pull(cells, units)), rows.root * units], axis=-1)
    basis, upper = k.qr(np.moveaxis(matrix, 0, -1))
    coordinates = k.solve_triangular(upper, rows.right[..., None], lower=False, transposed=True)
    y = k.matmul(basis, coordinates)[..., 0]
    x, z = y[..., : rows.ends], y[..., rows.ends :]
    # Where √λ exceeds every row of J, z is large beside x, and x = Jᵀz/√λ has the digits that x itself has not.
    strong = (rows.root * rows.scale >= 0.7).all(axis=-1, keepdims=True)
    if strong.any():
        x = np.where(strong, join(pull(cells, z / rows.root)), x)
    return Found(stretch(split(x, rows.shapes), problem, chains), "range-qr")


def _nothing(rows: Rows, problem: Problem, chains: Chains) -> list[Array]:
    left = rows.cells.left
    return stretch([np.zeros((*left.shape[:-2], p, q), left.dtype) for p, q in rows.shapes], problem, chains)


def read(cells: Cells, error: Array) -> Array:
    """Return the reachable cells of a whitened matrix (…, n_L, ρ), flat."""
    rotated = transpose(cells.left) @ error @ cells.right
    return join([rotated[..., a:b, :c] for a, b, c in cells.steps])


def move(cells: Cells, parts: Sequence[Array]) -> Array:
    """Return Σ B̃_i x_i Ã_i on the cells, flat: products with J."""
    blocks: list[Any] = [0.0] * len(cells.steps)
    for x, b, a in zip(parts, cells.after, cells.before, strict=True):
        change = b @ x @ a
        rows, columns = change.shape[-2:]
        for s, (start, stop, width) in enumerate(cells.steps):
            if stop <= rows and columns:
                if columns == width:
                    blocks[s] = blocks[s] + change[..., start:stop, :]
                else:
                    padded = np.zeros((*change.shape[:-2], stop - start, width), change.dtype)
                    padded[..., :columns] = change[..., start:stop, :]
                    blocks[s] = blocks[s] + padded
    return join(blocks)


def pull(cells: Cells, flat: Array) -> list[Array]:
    """Return x_i = B̃_iᵀ Y Ã_iᵀ: products with Jᵀ."""
    blocks = split(flat, [(b - a, c) for a, b, c in cells.steps])
    result = []
    for b, a in zip(cells.after, cells.before, strict=True):
        columns = a.shape[-1]
        total = np.zeros((*flat.shape[:-1], b.shape[-1], columns), flat.dtype)
        for (start, stop, _), y in zip(cells.steps, blocks, strict=True):
            if stop <= b.shape[-2]:
                total = total + transpose(b[..., start:stop, :]) @ y[..., :columns]
        result.append(total @ transpose(a))
    return result


def row_lengths(cells: Cells) -> Array:
    """Return the squared length of the row of J of every cell, flat."""
    squares = []
    for a, b, width in cells.steps:
        total = np.zeros((*cells.left.shape[:-2], b - a, width), cells.left.dtype)
        for outer, inner in zip(cells.after, cells.before, strict=True):
            if b <= outer.shape[-2]:
                rows = (outer[..., a:b, :] ** 2).sum(axis=-1)[..., :, None]
                total[..., : inner.shape[-1]] += rows * (inner**2).sum(axis=-2)[..., None, :]
        squares.append(total)
    return join(squares)


def split(flat: Array, shapes: Sequence[tuple[int, int]]) -> list[Array]:
    """Cut a flat array into matrices."""
    ends = np.cumsum([math.prod(s) for s in shapes])
    parts = np.split(flat, ends[:-1], axis=-1)
    return [p.reshape(*flat.shape[:-1], *s) for p, s in zip(parts, shapes, strict=True)]


def join(parts: Sequence[Array]) -> Array:
    """Return matrices as one flat array, row by row."""
    return np.concatenate([p.reshape(*p.shape[:-2], -1) for p in parts], axis=-1)


def _turn(outer: Array | None, matrix: Array) -> Array:
    return matrix if outer is None else transpose(outer) @ matrix


def _nested(ranks: Sequence[int], images: Sequence[Array]) -> Array:
    """Return an orthogonal matrix, block-diagonal over the rises of the ranks: left singular vectors of the images."""
    size = ranks[-1]
    basis = np.zeros((*images[0].shape[:-2], size, size), images[0].dtype)
    start = 0
    for rank, image in zip(ranks, images, strict=True):
        if rank > start:
            rows = image[..., start:rank, :]
            basis[..., start:rank, start:rank] = np.linalg.svd(rows)[0]
            start = rank
    return basis
