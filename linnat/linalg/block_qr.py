"""How is a vector projected on the range of a block bidiagonal matrix? By the QR of one block column after the other.

    N = [D_1        ]
        [E_1 D_2    ]
        [    E_2 D_3]
        [        E_3]

A QR of [carry; E_j] clears block column j, and what it leaves of [0; D_{j+1}] below its first rows is the carry to the
next column. Only the orthogonal factors are kept. k block columns of size s cost about 12 k s³ flops and 2 k s²
numbers, where a QR of the whole matrix costs 2 k³ s³ and k² s².
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from linnat._checks import Array
from linnat.linalg.kernels import QR_BLOCK, transpose


class Turn(NamedTuple):
    """The orthogonal factor of one block column.

    Attributes
    ----------
    factor : array
        Householder vectors of a single matrix, the square Q (…, m, m) of a stack.
    blocks : array or None
        The triangular factors of blocks of Householder vectors; None for a stack.
    size : int
        The number of columns that it clears.
    """

    factor: Array
    blocks: Array | None
    size: int

    @property
    def rows(self) -> int:
        """The number of rows that it turns."""
        return int(self.factor.shape[-2])

    def apply(self, matrix: Array, *, transposed: bool) -> Array:
        """Return Q M, or Qᵀ M."""
        if self.blocks is None:
            return np.asarray((transpose(self.factor) if transposed else self.factor) @ matrix)
        gemqrt = lapack.dgemqrt if self.factor.dtype == np.float64 else lapack.sgemqrt
        return np.asarray(gemqrt(self.factor, self.blocks, matrix, trans="T" if transposed else "N")[0])


def factor_bidiagonal(first: Array, columns: Iterable[tuple[Array, Array | None]]) -> tuple[Turn, ...]:
    """Return the orthogonal factors of N, of full column rank.

    Parameters
    ----------
    first : array (…, m_1, s_1)
        D_1.
    columns : iterable of pairs (E_j (…, m_{j+1}, s_j), D_{j+1} (…, m_{j+1}, s_{j+1}))
        Asked for one after the other, so that they need not stand in memory together; the last D is None.

    Returns
    -------
    tuple of Turn

    Examples
    --------
    >>> turns = factor_bidiagonal(np.array([[3.0]]), [(np.array([[4.0]]), None)])
    >>> [part.round(12) for part in project_on_bidiagonal(turns, [np.array([1.0]), np.array([0.0])])]
    [array([0.36]), array([0.48])]
    """
    turns: list[Turn] = []
    carry = first
    for below, following in columns:
        turn = _turn(np.concatenate([carry, below], axis=-2))
        turns.append(turn)
        if following is not None:
            above = np.zeros((*following.shape[:-2], carry.shape[-2], following.shape[-1]), following.dtype)
            carry = turn.apply(np.concatenate([above, following], axis=-2), transposed=True)[
                ..., turn.size :, :
            ]
    return tuple(turns)


def project_on_bidiagonal(turns: Sequence[Turn], parts: Sequence[Array]) -> list[Array]:
    """Return the orthogonal projection of a vector, given by its blocks of rows (…, m_j), on the range of N."""
    rest, inside = parts[0][..., None], []
    for turn, part in zip(turns, parts[1:], strict=True):
        turned = turn.apply(np.concatenate([rest, part[..., None]], axis=-2), transposed=True)
        inside.append(turned[..., : turn.size, :])
        rest = turned[..., turn.size :, :]
    rest = np.zeros_like(rest)
    result: list[Array] = []
    for turn, own in zip(reversed(turns), reversed(inside), strict=True):
        back = turn.apply(np.concatenate([own, rest], axis=-2), transposed=False)
        count = turn.rows - parts[len(turns) - len(result)].shape[-1]
        result.append(back[..., count:, 0])
        rest = back[..., :count, :]
    return [rest[..., 0], *reversed(result)]


def _turn(matrix: Array) -> Turn:
    rows, columns = matrix.shape[-2:]
    if matrix.ndim > 2 or 0 in matrix.shape:
        return Turn(np.linalg.qr(matrix, mode="complete")[0], None, columns)
    geqrt = lapack.dgeqrt if matrix.dtype == np.float64 else lapack.sgeqrt
    packed, blocks, _ = geqrt(min(QR_BLOCK, rows, columns), matrix)
    return Turn(packed, blocks, columns)
