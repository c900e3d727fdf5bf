"""Exact rational matrices: examples of given rank, pseudo-inverse, vec and Kronecker product."""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from derivations._printing import DerivationError


def integers(rows: int, columns: int, seed: int, low: int = -3, high: int = 3) -> sp.Matrix:
    """Return a deterministic matrix of small integers, the same on every platform."""
    state = (seed * 2654435761 + rows * 97 + columns * 31 + 12345) % 2**32
    entries = []
    for _ in range(rows * columns):
        state = (1664525 * state + 1013904223) % 2**32
        entries.append(low + (state >> 8) % (high - low + 1))
    return sp.Matrix(rows, columns, entries)


def of_rank(rows: int, columns: int, rank: int, seed: int) -> sp.Matrix:
    """Return a deterministic integer matrix of exactly this rank."""
    for attempt in range(1000):
        left = integers(rows, rank, 7 * seed + attempt)
        right = integers(rank, columns, 11 * seed + attempt + 5)
        product = left * right if rank else sp.zeros(rows, columns)
        if product.rank() == rank:
            return product
    raise DerivationError(f"no {rows} x {columns} matrix of rank {rank} found")


def inverse(matrix: sp.MatrixBase) -> sp.Matrix:
    """Return the inverse of a rational matrix, exactly."""
    return matrix.to_DM(field=True).inv().to_Matrix()


def pinv(matrix: sp.MatrixBase) -> sp.Matrix:
    """Return the Moore–Penrose inverse of a rational matrix of any rank, exactly, by full-rank factors."""
    reduced, pivots = matrix.rref()
    if not pivots:
        return sp.zeros(matrix.cols, matrix.rows)
    left, right = matrix[:, list(pivots)], reduced[: len(pivots), :]
    return right.T * inverse(right * right.T) * inverse(left.T * left) * left.T


def product(matrices: Iterable[sp.MatrixBase], size: int | None = None) -> sp.Matrix:
    """Return the product from left to right; the identity of the given size for none."""
    out: sp.Matrix | None = None
    for matrix in matrices:
        out = sp.Matrix(matrix) if out is None else out * matrix
    return sp.eye(size) if out is None else out


def vec(matrix: sp.MatrixBase) -> sp.Matrix:
    """Return the columns stacked."""
    return sp.Matrix(matrix.rows * matrix.cols, 1, list(matrix.T))


def unvec(vector: sp.MatrixBase, rows: int, columns: int) -> sp.Matrix:
    """Return the matrix whose stacked columns are the vector."""
    return sp.Matrix(columns, rows, list(vector)).T


def kron(left: sp.MatrixBase, right: sp.MatrixBase) -> sp.Matrix:
    """Return the Kronecker product left ⊗ right, entry by entry."""
    return sp.Matrix(
        left.rows * right.rows,
        left.cols * right.cols,
        lambda i, j: left[i // right.rows, j // right.cols] * right[i % right.rows, j % right.cols],
    )
