"""What are the ranks of a chain of matrices? Decided layer by layer, and only where two criteria agree.

A singular value of X_j U_{j-1} counts when it exceeds a multiple of eps ‖X_j‖ (the largest singular value of
X_j U_{j-1} itself would be fooled by X_2 X_1 = 0) and when it is stable under a rerun of the sweep with the
factors perturbed in their last bits (a fixed cut-off is fooled by a factor with two nearly parallel rows).
Undetermined cases warn (statement X9).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from linnat._checks import Array, RankWarning
from linnat.linalg import kernels as k

COPIES = 6
FLOOR = 8.0  # times max(m, n) eps ‖X_j‖: what rounding alone can leave in place of a zero
NOISE = 30.0  # times the change under perturbation: a value kept is known to 3 %
DRIFT = 10.0  # times the turn of a space between copies: what is taken for its error
CERTAIN = 1e-3  # a relative perturbation that leaves full rank beyond doubt
DOUBT = 10.0**0.5  # closer than half a decade to the cut-off on either side is undetermined


class Decision(NamedTuple):
    """How the rank of one factor on what reaches it was decided; sizes are relative to ‖X_j‖.

    Attributes
    ----------
    rank : int
    kept, dropped : float
        The smallest singular value that counts, the largest one that does not; NaN where there is none.
    cut_kept, cut_dropped : float
        The cut-offs that the two were held to (they differ where the rerun knows one better than the other).
    margin : float
        The least ratio of a kept singular value and its cut-off; infinite where none is kept or needs one.
    """

    rank: int
    kept: float
    dropped: float
    cut_kept: float
    cut_dropped: float
    margin: float

    @property
    def gap(self) -> float:
        """Decades between kept and dropped; the cut-off stands for the one that there is none of."""
        above = self.cut_dropped if np.isnan(self.kept) else self.kept
        below = self.cut_kept if np.isnan(self.dropped) else self.dropped
        return float(np.log10(above / below)) if 0 < below < np.inf else np.inf

    @property
    def undetermined(self) -> bool:
        """Whether a value is within half a decade of its cut-off, or less than a decade lies between the two sides."""
        close = self.margin < DOUBT or self.dropped > self.cut_dropped / DOUBT
        return bool(close or self.dropped * DOUBT**2 > self.kept)


def decide_ranks(start: Array | None, factors: Sequence[Array], rtol: float | None = None) -> tuple[int, ...]:
    """Return r_0 … r_m of one chain H_j = X_j ⋯ X_0.

    Parameters
    ----------
    start : array (n_0, ρ) or None
        X_0, of full column rank up to trailing zero columns; None stands for the identity.
    factors : sequence of arrays (n_j, n_{j-1})
        X_1 … X_m.
    rtol : float, optional
        Keep singular values of X_j U_{j-1} above rtol ‖X_j‖, without a rerun. By default the two criteria of
        the module.

    Warns
    -----
    RankWarning
        Where a singular value is so close to the cut-off that the rank is undetermined.

    Notes
    -----
    A sweep of 7 copies, by QR where a condition estimate proves full rank, by SVD elsewhere (1 copy if
    `rtol` is given).
    """
    first = _start_rank(start, factors)
    decisions = list(_decisions(start, factors, rtol, measured=False))
    for j, decision in enumerate(decisions, 1):
        if rtol is None and decision.undetermined:
            _warn(j, decision)
    return (first, *(decision.rank for decision in decisions))


def examine_ranks(
    start: Array | None, factors: Sequence[Array], rtol: float | None = None
) -> tuple[Decision, ...]:
    """Return the decisions r_1 … r_m of `decide_ranks` with the singular values on which they rest; never warns.

    Parameters
    ----------
    start, factors, rtol
        See `decide_ranks`, whose ranks these are.
    """
    return tuple(_decisions(start, factors, rtol, measured=True))


def _decisions(
    start: Array | None, factors: Sequence[Array], rtol: float | None, *, measured: bool
) -> Iterator[Decision]:
    """Sweep and decide; where full rank is proved, singular values are computed only if they are to be `measured`."""
    copies = 0 if rtol is not None else COPIES
    noise = np.random.default_rng(0)  # a fixed seed: the decision is a function of the chain
    basis: Array | None = None
    if start is not None:
        basis = np.linalg.qr(_perturbed(start[:, : _start_rank(start, factors)], copies, noise))[0]
    for matrix in factors:
        stack = _perturbed(matrix, copies, noise)
        image = stack if basis is None else stack @ basis
        if rtol is None and _is_full(image[0], matrix, basis):
            rank = min(image.shape[-2:])
            values = np.linalg.svd(image[:1], compute_uv=False) if measured else np.full((1, rank), np.inf)
            yield _decision(values, _cuts(values, matrix, rtol), rank, matrix)
            basis = np.linalg.qr(image)[0] if rank < image.shape[-2] else None
        else:
            left, values, _ = np.linalg.svd(image, full_matrices=False)
            cut = _cuts(values, matrix, rtol)
            rank = int(np.logical_and.accumulate(values[0] > cut).sum()) if cut.size else 0
            yield _decision(values, cut, rank, matrix)
            basis = left[..., :rank]


def _decision(values: Array, cut: Array, rank: int, matrix: Array) -> Decision:
    norm = float(k.two_norm(matrix)) or 1.0
    kept, cut_kept = (values[0, rank - 1], cut[rank - 1]) if rank else (np.nan, np.nan)
    dropped, cut_dropped = (values[0, rank], cut[rank]) if rank < values.shape[-1] else (np.nan, np.nan)
    positive = cut[:rank] > 0
    margin = (values[0, :rank][positive] / cut[:rank][positive]).min(initial=np.inf)
    above, below = (
        (float(kept) / norm, float(cut_kept) / norm),
        (float(dropped) / norm, float(cut_dropped) / norm),
    )
    return Decision(rank, above[0], below[0], above[1], below[1], float(margin))


def _start_rank(start: Array | None, factors: Sequence[Array]) -> int:
    return factors[0].shape[-1] if start is None else int((np.abs(start).max(axis=0) > 0).sum())


def _is_full(image: Array, matrix: Array, basis: Array | None) -> bool:
    """Prove full rank from a triangular condition estimate and the drift measured between the copies."""
    if 0 in image.shape:
        return False
    drift = slack(matrix)
    if basis is not None and basis.shape[-2] > basis.shape[-1]:
        turned = basis - basis[0] @ (basis[0].T @ basis)
        drift += DRIFT * float(k.frobenius(turned).max())
    upper = k.qr(image if image.shape[0] >= image.shape[1] else image.T)[1]
    inverse = float(k.inverse_norm_triangular(upper, lower=False))
    return float(k.two_norm(matrix)) * inverse * drift < CERTAIN


def perturbed(matrix: Array, copies: int, rng: np.random.Generator) -> Array:
    """Return a matrix (or stack) and copies of it, perturbed in the last bits of each entry, along a new first axis."""
    eps = np.finfo(matrix.dtype).eps
    signs = rng.integers(0, 2, (copies, *matrix.shape), dtype=np.int8) * 2 - 1
    stack = matrix * (1 + 2 * eps * signs).astype(matrix.dtype)
    return np.concatenate([matrix[None], stack])


def slack(matrix: Array) -> float:
    """Return max(m, n) · eps, the relative rounding error of a product with the matrix."""
    return float(max(matrix.shape[-2:]) * np.finfo(matrix.dtype).eps)


def _perturbed(matrix: Array, copies: int, rng: np.random.Generator) -> Array:
    return perturbed(matrix, copies, rng) if copies else matrix[None]


def _cuts(values: Array, matrix: Array, rtol: float | None) -> Array:
    """Return the cut-off of each singular value of the first copy."""
    norm = float(k.two_norm(matrix))
    if rtol is not None:
        return np.full(values.shape[-1], rtol * norm)
    floor = FLOOR * slack(matrix) * norm
    change = np.abs(values[1:] - values[0]).max(axis=0, initial=0.0)
    return np.asarray(np.maximum(floor, NOISE * change))


def _warn(j: int, decision: Decision) -> None:
    kept = not decision.dropped > decision.cut_dropped / DOUBT
    size, cut = (decision.kept, decision.cut_kept) if kept else (decision.dropped, decision.cut_dropped)
    warnings.warn(
        f"the rank of factor {j} on what reaches it is undetermined: {decision.rank} singular values are kept, "
        f"one of size {size:.3g} relative to the factor is known to {cut / NOISE:.1g} only; "
        "pass rtol to decide it",
        RankWarning,
        stacklevel=4,
    )
