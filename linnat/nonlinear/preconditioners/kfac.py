"""K-FAC: the Fisher matrix as Kronecker products of layers' factors (Martens and Grosse 2015). Statement O2.

F ≈ ⊕ A_i ⊗ G_i, so that layer i's step is (G_i + √λ/π_i)⁻¹ D_i (A_i + π_i √λ)⁻¹ for the gradient D_i. The factors are
exact for identity units, and with them the diagonal blocks of F (statement N6); what is left out between layers makes
the step too long there: block (k, l) of the error moves at rate l − k + 1 and not at 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, as_count, as_dtype, as_scalar, fail
from linnat.nonlinear._rooms import room
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners._contract import Info
from linnat.nonlinear.preconditioners._factors import (
    Factors,
    averaged,
    by_layers,
    damped_inverse,
    damping_ratio,
    empty,
    is_due,
    of_factors,
)
from linnat.nonlinear.statistics import Statistics


class KfacState(NamedTuple):
    """Factors, and the damped inverses in use.

    Attributes
    ----------
    net : Network
    factors : Factors
    inverses : tuple of pairs of arrays
        (A_i + π_i√λ)⁻¹ and (G_i + √λ/π_i)⁻¹; empty before the first refresh.
    """

    net: Network
    factors: Factors
    inverses: tuple[tuple[Array, Array], ...]


@dataclass(frozen=True)
class Kfac:
    """Block-diagonal K-FAC.

    Parameters
    ----------
    damping : float
        λ > 0, of the whole block: √λ on each factor.
    decay : float
        Largest weight of the past in the running averages; 0 forgets everything but the last minibatch.
    period : int
        Updates between refreshes of the inverses.
    balanced : bool
        Whether the damping is divided between the factors by π_i = √((tr A_i/dim)/(tr G_i/dim)); otherwise π_i = 1.
    early : bool
        Whether the first period has renewals with updates 1, 2, 4, 8, … too: the average of one minibatch lacks
        directions of the next.

    Raises
    ------
    InputError
        For a damping that is not positive, or a decay outside of [0, 1).

    Examples
    --------
    >>> from linnat.nonlinear.statistics import Statistics
    >>> net = Network((1, 1), family="gaussian")
    >>> kfac = Kfac(damping=1.0, balanced=False)
    >>> batch = Statistics((np.array([[1.0], [-1.0]]),), (np.array([[1.0], [-1.0]]),))
    >>> state, _ = kfac.update(kfac.init(net), batch)
    >>> kfac.apply(state, np.array([1.0, 0.0]))
    array([0.25, 0.  ])
    """

    damping: float = 1e-2
    decay: float = 0.95
    period: int = 20
    balanced: bool = True
    early: bool = True

    def __post_init__(self) -> None:
        as_scalar(self.damping, "damping", low=0.0, open_low=True)
        check_decay(self.decay)
        as_count(self.period, "period")

    def init(self, net: Network, dtype: Any = np.float64) -> KfacState:
        """Return the state before the first minibatch."""
        return KfacState(net, empty(net, as_dtype(dtype)), ())

    def update(self, state: KfacState, statistics: Statistics) -> tuple[KfacState, Info]:
        """Return the state after a minibatch, and whether the inverses were refreshed."""
        due = is_due(state.factors.batches, self.period, self.early)
        state = state._replace(factors=averaged(state.factors, statistics, self.decay, fresh=due))
        return (state if not due else self.refreshed(state)), Info(due)

    def refreshed(self, state: KfacState) -> KfacState:
        """Return the state with inverses of the present factors."""
        root = self.damping**0.5
        inputs, outputs = state.factors.inputs, state.factors.outputs
        ratios = [damping_ratio(a, g) if self.balanced else 1.0 for a, g in zip(inputs, outputs, strict=True)]
        shifts = *(root * ratio for ratio in ratios), *(root / ratio for ratio in ratios)
        made = of_factors(state.factors, lambda k, matrix, name: damped_inverse(matrix, shifts[k], name))
        return state._replace(inverses=made)

    def apply(self, state: KfacState, gradient: Array, *, out: Array | None = None) -> Array:
        """Return the preconditioned gradient (P,), in `out` if that is given."""
        return kronecker_product(state.net, state.inverses, gradient, out)


def check_decay(value: float) -> None:
    """Raise unless a decay lies in [0, 1)."""
    if as_scalar(value, "decay", low=0.0, high=1.0) == 1.0:
        fail("decay", "a number in [0, 1)", 1.0)


def kronecker_product(
    net: Network, pairs: tuple[tuple[Array, Array], ...], gradient: Array, out: Array | None
) -> Array:
    """Return N_i D_i M_i of every layer D_i of a vector (P,), for pairs (M_i, N_i) of symmetric matrices."""
    if not pairs:
        fail("state", "a state that has seen a minibatch", "a new one")

    def layer(i: int, block: Array, part: Array) -> None:
        inner, outer = pairs[i]
        (half,) = room("layer", gradient.dtype, block.shape)
        np.matmul(inner, block, out=half)
        np.matmul(half, outer, out=part)

    return by_layers(net, gradient, out, layer)
