"""How is a gradient cut? Into pieces of layers, each made by one product, and visited or added to something at once.

Whoever makes a step of a gradient need not hold it whole. He is told of each piece while it is in the cache, or names a
sum that the gradient is added to: with few rows BLAS adds it as it arises, and it is never anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from linnat._checks import Array
from linnat.nonlinear._blas import add_product, adds_products
from linnat.nonlinear._crew import KERNEL, each, members, shares
from linnat.nonlinear._rooms import room
from linnat.nonlinear.activations import BLOCK
from linnat.nonlinear.network import Network

if TYPE_CHECKING:
    from linnat.nonlinear.passes import Workspace

Visit = Callable[[slice, Array], float]


class Piece(NamedTuple):
    """Some rows of a layer's T-block of a gradient.

    Attributes
    ----------
    layer : int
        0 … L − 1.
    rows : slice
        Of the block; the last row is the bias's.
    part : slice
        Where they lie in (P,).
    """

    layer: int
    rows: slice
    part: slice

    @property
    def size(self) -> int:
        """How many numbers they hold."""
        return int(self.part.stop - self.part.start)


@lru_cache(maxsize=64)
def pieces(shapes: tuple[tuple[int, int], ...], count: int) -> tuple[Piece, ...]:
    """Cut the gradient of a network's shapes, each layer for itself, into two or three large pieces for each thread.

    In the order in which they are best made: from above, and the small ones last: nobody is left with a large one.

    Examples
    --------
    >>> pieces(((5, 3), (2, 6)), 1)[1]
    Piece(layer=0, rows=slice(0, 3, None), part=slice(0, 15, None))
    """
    total = sum(width * length for width, length in shapes)
    most = max(1.0, total / (2.5 * count)) if count > 1 else float(total)
    cut: list[Piece] = []
    for i, (width, length) in enumerate(shapes):
        start = cut[-1].part.stop if cut else 0
        for rows in shares(length, ceil(width * length / most), KERNEL):
            cut.append(Piece(i, rows, slice(start + rows.start * width, start + rows.stop * width)))
    small = max(piece.size for piece in cut) / 2
    return tuple(sorted(cut, key=lambda p: (0, -p.layer) if p.size > small else (1, -p.size)))


def make_piece(work: Workspace, piece: Piece, out: Array | None) -> Array:
    """Compute a piece of what `pullback` returns: in its place in `out` (P,), or in a room of this thread; flat."""
    signal, error, rows = work.signal(piece.layer), work.errors[piece.layer], piece.rows
    shape = rows.stop - rows.start, error.shape[1]
    block = room("piece", error.dtype, shape)[0] if out is None else out[piece.part].reshape(shape)
    left = signal[:, rows]
    np.matmul(left.T, error, out=block[: left.shape[1]])
    if rows.stop > signal.shape[1]:
        np.add.reduce(error, axis=0, out=block[-1])
    return block.reshape(-1)


@dataclass(frozen=True)
class Sum:
    """What a gradient is added to: s ← keep · s + factor · gradient.

    Attributes
    ----------
    vector : array (P,)
        s; it may hold the parameters, which nobody reads any more when it is added to.
    factor, keep : float
    visit : callable(part, piece), optional
        Told where a piece lies in (P,) and what it holds of the sum; threads call it.
    """

    vector: Array
    factor: float = 1.0
    keep: float = 1.0
    visit: Visit | None = None

    def takes_products(self, work: Workspace) -> bool:
        """Return whether BLAS adds the products of these rows by itself, and it pays."""
        return adds_products(work.rows, self.vector.dtype)

    def add(self, part: slice, flat: Array) -> float:
        """Add the gradient's numbers of a part, which are overwritten; return what the visit returns."""
        held = self.vector[part]
        self._merge(held, flat)
        return 0.0 if self.visit is None else self.visit(part, held)

    def add_piece(self, work: Workspace, piece: Piece, beside: Array | None) -> Array:
        """Add a piece of what `pullback` returns, without it ever being anywhere else.

        In place, or to a copy in another vector (P,), until `settle`: the same to the last bit. Return where, flat.
        """
        signal, error, rows = work.signal(piece.layer), work.errors[piece.layer], piece.rows
        flat = self.vector[piece.part]
        if beside is not None:
            beside[piece.part] = flat
            flat = beside[piece.part]
        block, left = flat.reshape(rows.stop - rows.start, error.shape[1]), signal[:, rows]
        add_product(left, error, block[: left.shape[1]], self.factor, self.keep)
        if rows.stop > signal.shape[1]:
            self._merge(block[-1], np.add.reduce(error, axis=0))
        return flat

    def settle(self, piece: Piece, flat: Array) -> float:
        """Put a piece where it belongs, if it is not there yet; return what the visits return."""
        held = self.vector[piece.part]
        if not np.may_share_memory(held, flat):
            held[...] = flat
        return 0.0 if self.visit is None else visit_piece(piece, held, self.visit)

    def _merge(self, held: Array, flat: Array) -> None:
        if self.keep == 0.0:
            held[...] = 0.0  # whatever it held
        elif self.keep != 1.0:
            held *= self.keep
        if self.factor == -1.0:
            held -= flat
        else:
            flat *= self.factor
            held += flat


def visit_piece(piece: Piece, flat: Array, visit: Visit) -> float:
    """Visit a piece in blocks that stay in the cache: a visit walks over them several times."""
    visited = 0.0
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        visited += visit(slice(piece.part.start + start, piece.part.start + start + len(block)), block)
    return visited


def pulled_back(
    net: Network, work: Workspace, out: Array | None, visit: Visit | None = None
) -> tuple[float, float]:
    """Compute what `pullback` returns, piece by piece.

    Parameters
    ----------
    net : Network
    work : Workspace
    out : array (P,) or None
        Where to write it; None keeps it nowhere.
    visit : callable(part, piece), optional
        Told where each piece lies in (P,) and what it holds, (size,), which it may overwrite; threads call it.

    Returns
    -------
    square : float
        Sum of squares: what is not finite shows in it.
    visited : float
        Sum of what the visits return.
    """

    def one(piece: Piece) -> tuple[float, float]:
        flat = make_piece(work, piece, out)
        square = float(np.vdot(flat, flat))
        return square, 0.0 if visit is None else visit_piece(piece, flat, visit)

    count = members(2.0 * work.rows * net.n_parameters)
    cut = pieces(net.shapes, count)
    found = each([partial(one, piece) for piece in cut], count, [float(piece.size) for piece in cut])
    squares, visits = zip(*found, strict=True)
    return sum(squares), sum(visits)
