"""How is a chain of matrices inverted without multiplying it out?

Of H_j = X_j X_{j-1} ⋯ X_0 a sweep keeps H_j = U_j T_j ⋯ T_0 Zᵀ: orthonormal U_j (n_j × r_j), small T's, one
orthogonal Z whose first r_j columns span the row space of H_j, for every j at once (statement X9; product
QR, De Moor & Van Dooren 1992). Hence H_j⁺ = Z[:, :r_j] (T_j ⋯ T_0)⁻¹[:r_j, :r_j] U_jᵀ: the T's below a drop
of rank are lower triangular, so the leading block of the inverse of the product is the chain of solves with
leading blocks. No product is formed, none is inverted.

Before the first drop, r_j = r_0, the whole row space counts: H_j⁺ = (T_j ⋯ T_0)⁻¹ U_jᵀ with the T's as they come, and
the columns of Z beyond the drop are not needed. A thin sweep leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linnat._checks import Array
from linnat.linalg import kernels as k
from linnat.linalg.chain_ranks import CERTAIN, slack
from linnat.linalg.kernels import transpose


class Link(NamedTuple):
    """One T of a sweep: square, r_j × r_j after truncation to its leading rows and columns."""

    matrix: Array
    lower: bool


class Columns(NamedTuple):
    """A square T = V diag(scales) with orthonormal V: `matrix` is T itself, None where V is the identity."""

    matrix: Array | None
    scales: Array


Whole = Link | Columns | k.Factored


class Sweep(NamedTuple):
    """A chain H_j = X_j ⋯ X_0 in factored form, j = 0 … m.

    Attributes
    ----------
    bases : tuple of arrays (…, n_j, r_j)
        U_j; None stands for the identity.
    links : tuple of Link
        T_j, of which the leading r_j × r_j block counts; None stands for the identity.
    outer : array (…, n, r_0)
        Z; None stands for the identity.
    ranks : tuple of int
        r_0 ≥ r_1 ≥ … ≥ r_m.
    certain : boolean array (…)
        Whether the condition of the T's proves that no rank is lower than r_j.
    whole : tuple of Whole
        Of a thin sweep with a drop: the T_j before the drop, j = 0 … d − 1, as they come (None stands for the
        identity). Their U_j is not rotated, their `links` have the leading r_d rows and columns only, like Z.
    """

    bases: tuple[Array | None, ...]
    links: tuple[Link | None, ...]
    outer: Array | None
    ranks: tuple[int, ...]
    certain: Array
    whole: tuple[Whole | None, ...] = ()

    @property
    def drops(self) -> bool:
        """Whether a rank drops along the chain."""
        return self.ranks[-1] < self.ranks[0]


def generic_ranks(start: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the ranks of a generic chain: running minima of the widths."""
    ranks = [start]
    for size in sizes:
        ranks.append(min(ranks[-1], size))
    return tuple(ranks)


def sweep(
    start: Array | None,
    factors: Sequence[Array],
    ranks: Sequence[int],
    *,
    thin: bool = False,
    scales: Array | None = None,
) -> Sweep:
    """Factor a chain whose ranks are known.

    Parameters
    ----------
    start : array (…, n_0, ρ) or None
        X_0, of full column rank up to trailing zero columns; None stands for the identity.
    factors : sequence of arrays (…, n_j, n_{j-1})
        X_1 … X_m; leading axes equal.
    ranks : sequence of int
        r_0 … r_m; where r_j is less than it could be, singular values beyond it are taken as zero.
    thin : bool
        Leave out what a drop of rank cuts off.
    scales : array (…, ρ), optional
        Norms of the columns of X_0 where these are orthogonal: a thin sweep then need not factor it.

    Returns
    -------
    Sweep

    Notes
    -----
    A product and a QR per factor, an SVD where a rank is below the generic one, and a second QR per factor
    below a drop, thin before the first drop. The first QR is left out of square factors (and of a square start) of full
    rank before a drop: they map the whole space onto the whole space, so that any basis serves, and the second QR makes
    their link triangular.
    """
    batch = factors[0].shape[:-2] if factors else (() if start is None else start.shape[:-2])
    certain, drift = np.ones(batch, bool), np.zeros(batch)
    drop = next((j for j, rank in enumerate(ranks) if rank < ranks[0]), 0) if thin else 0
    basis, first, own = _first(start, ranks, scales if drop else None, thin=drop > 0)
    if start is not None and ranks[0] < start.shape[-2]:
        drift = drift + slack(start)
    bases: list[Array | None] = [basis]
    links: list[Link | None] = [first]
    turns: list[Array | None] = [None]
    whole: list[Whole | None] = [own]
    for j, matrix in enumerate(factors, 1):
        image = matrix if basis is None else k.matmul(matrix, basis)
        if basis is None and image.shape[-2] == image.shape[-1] == ranks[j] > ranks[-1]:
            # The whole space goes over into the whole space, and a drop to come will factor this link anyway.
            new, link, turn, exact, own = None, Link(image, False), None, True, k.factor(image)
        else:
            new, link, turn, exact = _stage(image, ranks[j], full=j != drop)
            own = link
        if exact:
            # The triangular factor of the matrix itself has its norm.
            norm = k.two_norm(link.matrix if image is matrix else matrix)
            norms = norm.astype(np.float64), _inverse_norm(link, own)
            sure, drift = _certify(norms, slack(matrix), drift, whole=ranks[j] == matrix.shape[-2])
            certain = certain & sure
        bases.append(new)
        links.append(link)
        turns.append(turn)
        whole.append(own)
        basis = new
    if not drop:
        return _nest(bases, links, turns, tuple(ranks), certain)
    return _nest_thin(bases, links, turns, tuple(ranks), certain, tuple(whole[:drop]))


def _first(
    start: Array | None, ranks: Sequence[int], scales: Array | None, *, thin: bool
) -> tuple[Array | None, Link | None, Whole | None]:
    """Return U_0 and T_0, twice; a square start is its own link where a drop to come will factor that anyway."""
    if start is None:
        return None, None, None
    columns = start[..., : ranks[0]]
    if scales is not None:
        scales = scales[..., : ranks[0]]
        if start.shape[-2] > ranks[0]:
            return columns / scales[..., None, :], None, Columns(None, scales)
        return None, Link(columns, False), Columns(columns, scales)
    if start.shape[-2] == ranks[0] > ranks[-1]:
        return None, Link(columns, False), k.factor(columns) if thin else None
    basis, upper = k.qr(columns)
    return basis, Link(upper, False), Link(upper, False)


def _stage(image: Array, rank: int, *, full: bool) -> tuple[Array | None, Link, Array | None, bool]:
    """Split image = U [T 0] Yᵀ with T of size `rank`, Y square if `full`; tell whether T was found without a cut."""
    rows, columns = image.shape[-2:]
    if rank == columns:
        basis, upper = k.qr(image)
        return basis, Link(upper, False), None, True
    if rank == rows:
        turn, upper = k.qr(transpose(image), full=full)
        return None, Link(transpose(upper[..., :rows, :]), True), turn, True
    left, values, right = np.linalg.svd(image, full_matrices=full)
    diagonal = values[..., :rank, None] * np.eye(rank, dtype=image.dtype)
    turn = transpose(right) if full else transpose(right[..., :rank, :])
    return left[..., :rank], Link(diagonal, True), turn, False


def _inverse_norm(link: Link, own: Whole | None) -> Array:
    if isinstance(own, k.Factored):
        return k.inverse_norm(own, link.matrix)
    return k.inverse_norm_triangular(link.matrix, lower=link.lower)


def _certify(
    norms: tuple[Array, Array], rounding: float, drift: Array, *, whole: bool
) -> tuple[Array, Array]:
    """Prove from ‖X‖ and ‖T⁻¹‖ that T has full rank, and bound the drift of its range.

    A perturbation δ of the space that comes in turns the space that goes out by at most κ δ, κ = ‖X‖/σ_min(T).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        reach = norms[0] * norms[1] * (drift + rounding)
    sure = reach < CERTAIN
    return sure, np.zeros_like(drift) if whole else np.where(sure, reach, np.inf)


def _nest(
    bases: list[Array | None],
    links: list[Link | None],
    turns: list[Array | None],
    ranks: tuple[int, ...],
    certain: Array,
) -> Sweep:
    """Push every rotation Y inwards to the start by LQs, so that all row spaces are leading columns of one Z."""
    turn: Array | None = None  # orthogonal, r_j × r_j
    for j in range(len(ranks) - 1, -1, -1):
        own, link, basis = turns[j], links[j], bases[j]
        if turn is not None:
            bases[j] = turn if basis is None else k.matmul(basis, turn)
            if link is not None:
                rotated, upper = k.qr(transpose(k.matmul(transpose(turn), link.matrix)))
                links[j] = Link(transpose(upper), True)
                turn = rotated
        if own is not None:
            size = ranks[j]
            if turn is not None:
                own = np.concatenate([k.matmul(own[..., :size], turn), own[..., size:]], axis=-1)
            turn = own
    return Sweep(tuple(bases), tuple(links), turn, ranks, certain)


def _nest_thin(
    bases: list[Array | None],
    links: list[Link | None],
    turns: list[Array | None],
    ranks: tuple[int, ...],
    certain: Array,
    whole: tuple[Whole | None, ...],
) -> Sweep:
    """Push the rotations inwards like `_nest`; before the drop, only the columns that it leaves, by thin QRs."""
    drop = len(whole)
    found = _nest(bases[drop:], links[drop:], turns[drop:], ranks[drop:], certain)
    turn, inner = found.outer, list(links[:drop])
    for j in range(drop - 1, -1, -1):
        own, link = whole[j], links[j]
        if turn is None or own is None:
            continue  # T_j is the identity
        if isinstance(own, Columns) and own.matrix is None:
            image = own.scales[..., :, None] * turn
        else:
            image = k.matmul(transpose(link.matrix), turn) if link is not None else turn
        turn, upper = k.qr(image)
        inner[j] = Link(transpose(upper), True)
    return Sweep((*bases[:drop], *found.bases), (*inner, *found.links), turn, ranks, certain, whole)


def undo(right: Array, own: Whole | None) -> Array:
    """Return X T⁻¹ for a whole T."""
    if own is None:
        return right
    if isinstance(own, Link):
        return k.solve_triangular_right(right, own.matrix, lower=own.lower)
    if isinstance(own, k.Factored):
        return k.solve_right(right, own)
    scaled = right / own.scales[..., None, :]
    if own.matrix is None:
        return scaled
    return k.matmul(scaled, transpose(own.matrix / own.scales[..., None, :]))


def solve_outer(links: Sequence[Link | None], right: Array, rank: int) -> Array:
    """Return (T_m ⋯ T_0)⁻ᵀ[:r, :r] X for the leading r rows of X: one triangular solve per link."""
    solution = right[..., :rank, :]
    for link in links:
        if link is not None:
            block = link.matrix[..., :rank, :rank]
            solution = k.solve_triangular(block, solution, lower=link.lower, transposed=True)
    return solution


def extend_inverse(inverse: Array | None, link: Link | None, rank: int) -> Array | None:
    """Return K T⁻¹ for the leading blocks, given K = (T_{j-1} ⋯ T_0)⁻¹; None stands for the identity."""
    if link is None:
        return None if inverse is None else inverse[..., :rank, :rank]
    block = link.matrix[..., :rank, :rank]
    if inverse is None:
        inverse = np.broadcast_to(np.eye(rank, dtype=block.dtype), block.shape)
    return k.solve_triangular_right(inverse[..., :rank, :rank], block, lower=link.lower)
