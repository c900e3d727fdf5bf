"""EKFAC: K-FAC's eigenbasis with the right variances in it (George et al. 2018). Statement O2.

With A_i = U_A diag(a) U_Aᵀ and G_i = U_G diag(g) U_Gᵀ, K-FAC takes a gᵀ for the second moments of the gradient's
coordinates in the basis U_A ⊗ U_G; EKFAC takes those moments themselves, s = E[(U_Aᵀ h̃)² (U_Gᵀ δ)²ᵀ]. Of all diagonals
in that basis this one is nearest to the block of F in the Frobenius norm, and has its trace: both for the basis in use,
stale or fresh. It follows neither that a stale basis beats a fresh K-FAC, nor that the inverse is nearer. When the
basis is renewed, the running average goes with it (`carried`).

Where an eigenvalue of a factor is multiple, its eigenvectors are rounding's choice, and with them s and the step:
EKFAC, unlike K-FAC, is then no function of the factors and the rows. Units that were zero on all rows so far make such
a space.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, as_choice, as_count, as_dtype, as_scalar, fail
from linnat.nonlinear._crew import each, members
from linnat.nonlinear._rooms import room
from linnat.nonlinear.activations import beside, row_blocks
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners._contract import Info
from linnat.nonlinear.preconditioners._factors import (
    CHUNK,
    Factors,
    averaged,
    blend,
    by_layers,
    damping_ratio,
    empty,
    is_due,
    of_factors,
)
from linnat.nonlinear.preconditioners.kfac import check_decay
from linnat.nonlinear.statistics import Statistics


class EkfacState(NamedTuple):
    """Factors, eigenbases and second moments in them.

    Attributes
    ----------
    net : Network
    factors : Factors
    bases : tuple of pairs of arrays
        (U_A, U_G) of each layer; empty before the first minibatch.
    moments : tuple of arrays (n_{i−1} + 1, n_i)
        s of each layer.
    spectra : tuple of pairs of arrays (n_{i−1} + 1,), (n_i,)
        Eigenvalues of the factors that the bases belong to, a/π and π g with π of `damping_ratio`.
    """

    net: Network
    factors: Factors
    bases: tuple[tuple[Array, Array], ...]
    moments: tuple[Array, ...]
    spectra: tuple[tuple[Array, Array], ...]


@dataclass(frozen=True)
class Ekfac:
    """EKFAC.

    Parameters
    ----------
    damping : float
        Added to the second moments: λ > 0.
    decay : float
        Largest weight of the past in running averages, of factors and second moments; 0 takes the last minibatch alone.
    period : int
        Updates between eigendecompositions.
    moments : "rows" or "mean"
        Where s comes from: the squares of every row's gradient (two products of the layer's size), or the square of
        the mean gradient times the number of rows (EKFAC-ra: cheaper, noisier, and biased by the square of the
        gradient where that is not small against its noise).
    early : bool
        Whether the first period has renewals with updates 1, 2, 4, 8, … too: the average of one minibatch lacks
        directions of the next.
    factored : bool
        Whether the damping is K-FAC's, s + √λ (a/π + π g) + λ with π of `damping_ratio`. Otherwise s + λ, as the paper
        has it: where s comes from fewer rows than the gradient does, steps are long in directions that the former have
        not seen.

    Raises
    ------
    InputError
        For a damping that is not positive, or a decay outside of [0, 1).

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> ekfac = Ekfac(damping=1.0)
    >>> batch = Statistics((np.array([[1.0], [-1.0]]),), (np.array([[1.0], [-1.0]]),))
    >>> state, _ = ekfac.update(ekfac.init(net), batch)
    >>> ekfac.apply(state, np.array([1.0, 0.0]))
    array([0.5, 0. ])
    """

    damping: float = 1e-2
    decay: float = 0.95
    period: int = 50
    moments: str = "rows"
    early: bool = True
    factored: bool = False

    def __post_init__(self) -> None:
        as_scalar(self.damping, "damping", low=0.0, open_low=True)
        check_decay(self.decay)
        as_count(self.period, "period")
        as_choice(self.moments, "moments", ("rows", "mean"))

    def init(self, net: Network, dtype: Any = np.float64) -> EkfacState:
        """Return the state before the first minibatch."""
        return EkfacState(net, empty(net, as_dtype(dtype)), (), (), ())

    def update(self, state: EkfacState, statistics: Statistics) -> tuple[EkfacState, Info]:
        """Return the state after a minibatch, and whether the eigenbases were renewed; then s is carried over."""
        seen = state.factors.batches
        due = is_due(seen, self.period, self.early)
        state = state._replace(factors=averaged(state.factors, statistics, self.decay, fresh=due))
        if due:
            state = self.renewed(state)
        old = min(1.0 - 1.0 / (seen + 1), self.decay)
        costs = [2.0 * statistics.rows * moments.size for moments in state.moments]
        tasks = [
            partial(self._absorb, state, statistics, i, moments, old)
            for i, moments in enumerate(state.moments)
        ]
        each(tasks, members(sum(costs)), costs)
        return state, Info(due)

    def refreshed(self, state: EkfacState) -> EkfacState:
        """Return the state: nothing in it depends on the damping."""
        return state

    def renewed(self, state: EkfacState) -> EkfacState:
        """Return the state with eigenbases of the present factors, and the second moments carried over into them."""
        pairs = of_factors(state.factors, lambda k, matrix, name: np.linalg.eigh(matrix))
        bases = tuple((inner.eigenvectors, outer.eigenvectors) for inner, outer in pairs)
        ratios = map(damping_ratio, state.factors.inputs, state.factors.outputs)
        spectra = tuple(
            (np.maximum(inner.eigenvalues, 0.0) / ratio, np.maximum(outer.eigenvalues, 0.0) * ratio)
            for (inner, outer), ratio in zip(pairs, ratios, strict=True)
        )
        state = state._replace(spectra=spectra)
        if not state.bases:
            sides = zip(state.factors.inputs, state.factors.outputs, strict=True)
            empty_moments = tuple(np.zeros((len(a), len(g)), a.dtype) for a, g in sides)
            return state._replace(bases=bases, moments=empty_moments)
        factors = zip(state.factors.inputs, state.factors.outputs, strict=True)
        layers = zip(state.moments, factors, state.bases, bases, strict=True)
        costs = [2.0 * moments.size * sum(moments.shape) for moments in state.moments]
        tasks = [partial(carried, *layer) for layer in layers]
        return state._replace(bases=bases, moments=tuple(each(tasks, members(sum(costs)), costs)))

    def _absorb(
        self, state: EkfacState, statistics: Statistics, layer: int, moments: Array, old: float
    ) -> None:
        """Average the minibatch into the second moments of a layer, numbered from 0."""
        (left, right), signals, errors = (
            state.bases[layer],
            statistics.signals[layer],
            statistics.errors[layer],
        )
        count, kind = statistics.rows, moments.dtype
        rows = min(count, CHUNK)
        shapes = (moments.shape, moments.shape, (rows, len(left)), (rows, len(right)))
        total, product, inner, outer = room("layer", kind, *shapes)
        for start in range(0, count, rows):
            signal, error = signals[start : start + rows], errors[start : start + rows]
            inside, outside = inner[: len(signal)], outer[: len(signal)]
            np.matmul(signal, left[:-1], out=inside)
            inside += left[-1]  # the bias's input, 1
            np.matmul(error, right, out=outside)
            if self.moments == "rows":
                inside *= inside
                outside *= outside
            np.matmul(inside.T, outside, out=product if start else total)
            if start:
                total += product
        if self.moments == "mean":
            total *= total  # N times the square of a mean is the square of a sum over N
        blend(moments, total, old, (1.0 - old) / count)

    def apply(self, state: EkfacState, gradient: Array, *, out: Array | None = None) -> Array:
        """Return the preconditioned gradient (P,), in `out` if that is given."""
        if not state.bases:
            fail("state", "a state that has seen a minibatch", "a new one")

        def layer(i: int, block: Array, part: Array) -> None:
            (left, right), moments = state.bases[i], state.moments[i]
            inside, half = room("layer", gradient.dtype, block.shape, block.shape)
            np.matmul(left.T, block, out=half)
            np.matmul(half, right, out=inside)
            shifts = np.full((len(moments), 1), self.damping, moments.dtype)
            if self.factored:
                along, across = (self.damping**0.5 * values for values in state.spectra[i])
                shifts += along[:, None]
            for rows in row_blocks(inside):
                divided = inside[rows]
                damped = np.add(moments[rows], shifts[rows], out=beside(divided))
                if self.factored:
                    damped += across
                divided /= damped
            np.matmul(left, inside, out=half)
            np.matmul(half, right.T, out=part)

        return by_layers(state.net, gradient, out, layer)


def carried(
    moments: Array,
    factors: tuple[Array, Array],
    old: tuple[Array, Array],
    new: tuple[Array, Array],
) -> Array:
    """Return second moments (p, q) in new bases from those in old ones, by what sets them apart from K-FAC's.

    The factors alone give k = diag(UᵀAU) diag(UᵀGU)ᵀ in any basis. By how much s exceeds k, relative to k + m with the
    mean m, is of the order of 1 for every pair of directions; a new pair takes the mean of the old ones' by squares of
    cosines, (C_A∘C_A)ᵀ r (C_G∘C_G), C = U_oldᵀ U_new. To do the same with s itself would leak large moments into
    directions that have turned a little towards them: spectra span many decades.

    Examples
    --------
    >>> turned = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> factors = np.diag([5.0, 8.0]), np.eye(1)
    >>> carried(np.array([[4.0], [9.0]]), factors, (np.eye(2), np.eye(1)), (turned, np.eye(1))).round(9)
    array([[9.],
           [4.]])
    """
    mean = float(np.trace(factors[0])) * float(np.trace(factors[1])) / moments.size
    mean = max(mean, float(np.finfo(moments.dtype).tiny))
    before, after = _by_factors(factors, old), _by_factors(factors, new)
    inner, outer = ((a.T @ b) ** 2 for a, b in zip(old, new, strict=True))
    excess = inner.T @ ((moments - before) / (before + mean)) @ outer
    return np.asarray(np.maximum(after + excess * (after + mean), 0.0))


def _by_factors(factors: tuple[Array, Array], bases: tuple[Array, Array]) -> Array:
    """Return K-FAC's second moments in a basis."""
    sides = [np.sum(basis * (factor @ basis), axis=0) for factor, basis in zip(factors, bases, strict=True)]
    return np.asarray(np.maximum(np.multiply.outer(*sides), 0.0))
