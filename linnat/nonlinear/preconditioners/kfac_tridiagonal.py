"""K-FAC with a block-tridiagonal inverse: a Gaussian chain of layers (Martens and Grosse 2015, section 4.3). O2.

Take the layers' gradients for a chain in which layer i depends on layer i + 1 alone, with the second moments of K-FAC
between neighbours, A_{i,i+1} = E[h̃_{i−1}h̃_iᵀ] and G_{i,i+1} = E[δ_iδ_{i+1}ᵀ]. The precision matrix of that chain is
block-tridiagonal, Ξᵀ Λ Ξ: Ξ takes from layer i its regression on layer i + 1, Ψ^A_i ⊗ Ψ^G_i with
Ψ^A_i = A_{i,i+1} A_{i+1}⁻¹, and Λ_i is the inverse of what the regression leaves,
A_i ⊗ G_i − (Ψ^A A_{i+1} Ψ^Aᵀ) ⊗ (Ψ^G G_{i+1} Ψ^Gᵀ), found from two generalised eigenproblems. Its inverse agrees with
the damped Kronecker factors in all blocks on and beside the diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from linnat._checks import Array, as_count, as_dtype, as_scalar, fail
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners._contract import Info
from linnat.nonlinear.preconditioners._factors import (
    Factors,
    SingularFactorError,
    averaged,
    correlations,
    damping_ratio,
    empty,
    is_due,
)
from linnat.nonlinear.preconditioners.kfac import check_decay
from linnat.nonlinear.statistics import Statistics


class Conditional(NamedTuple):
    """What layer i is, given layer i + 1.

    Attributes
    ----------
    inputs, outputs : array
        Ψ^A_i (n_{i−1} + 1, n_i + 1), Ψ^G_i (n_i, n_{i+1}); None for the last layer.
    left, right : array
        K with Kᵀ A_i K = I that diagonalises Ψ^A A_{i+1} Ψ^Aᵀ, and the same for G.
    values : array (n_{i−1} + 1, n_i)
        1 minus the products of the two sets of eigenvalues.
    """

    inputs: Array | None
    outputs: Array | None
    left: Array
    right: Array
    values: Array


class TridiagonalState(NamedTuple):
    """Factors, moments between neighbours, and the chain in use.

    Attributes
    ----------
    net : Network
    factors : Factors
    between : tuple of pairs of arrays
        A_{i,i+1}, G_{i,i+1} for i = 1 … L − 1.
    chain : tuple of Conditional
        Empty before the first refresh.
    """

    net: Network
    factors: Factors
    between: tuple[tuple[Array, Array], ...]
    chain: tuple[Conditional, ...]


@dataclass(frozen=True)
class KfacTridiagonal:
    """Block-tridiagonal K-FAC.

    Parameters
    ----------
    damping : float
        λ > 0, as for block-diagonal K-FAC with π: √λ on each factor.
    decay : float
        Largest weight of the past in the running averages.
    period : int
        Updates between refreshes of the chain.
    early : bool
        Whether the first period has renewals with updates 1, 2, 4, 8, … too: the average of one minibatch lacks
        directions of the next.

    Raises
    ------
    InputError
        For a damping that is not positive, or a decay outside of [0, 1).

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> kfac = KfacTridiagonal(damping=1.0)
    >>> batch = Statistics((np.array([[1.0], [-1.0]]),), (np.array([[1.0], [-1.0]]),))
    >>> state, _ = kfac.update(kfac.init(net), batch)
    >>> kfac.apply(state, np.array([1.0, 0.0]))
    array([0.25, 0.  ])
    """

    damping: float = 1e-2
    decay: float = 0.95
    period: int = 20
    early: bool = True

    def __post_init__(self) -> None:
        as_scalar(self.damping, "damping", low=0.0, open_low=True)
        check_decay(self.decay)
        as_count(self.period, "period")

    def init(self, net: Network, dtype: Any = np.float64) -> TridiagonalState:
        """Return the state before the first minibatch."""
        kind = as_dtype(dtype)
        widths = net.widths
        between = tuple(
            (
                np.zeros((widths[i] + 1, widths[i + 1] + 1), kind),
                np.zeros((widths[i + 1], widths[i + 2]), kind),
            )
            for i in range(net.depth - 1)
        )
        return TridiagonalState(net, empty(net, kind), between, ())

    def update(self, state: TridiagonalState, statistics: Statistics) -> tuple[TridiagonalState, Info]:
        """Return the state after a minibatch, and whether the chain was refreshed."""
        due = is_due(state.factors.batches, self.period, self.early)
        factors = averaged(state.factors, statistics, self.decay, fresh=due)
        if due:  # what may fail below must leave the state
            between = tuple((a.copy(), g.copy()) for a, g in state.between)
            state = state._replace(between=between)
        old = min(1.0 - 1.0 / factors.batches, self.decay)
        errors = statistics.errors
        products = [a.T @ b / len(a) for a, b in pairwise(errors)]
        fresh = zip(correlations(statistics.signals), products, strict=True)
        for pair, new in zip(state.between, fresh, strict=True):
            for matrix, product in zip(pair, new, strict=True):
                matrix *= old
                matrix += (1.0 - old) * product
        state = state._replace(factors=factors)
        return (state if not due else self.refreshed(state)), Info(due)

    def damped(self, state: TridiagonalState) -> tuple[list[Array], list[Array]]:
        """Return A_i + π_i √λ and G_i + √λ/π_i of every layer."""
        root, inputs, outputs = self.damping**0.5, [], []
        for inner, outer in zip(state.factors.inputs, state.factors.outputs, strict=True):
            ratio = damping_ratio(inner, outer)
            inputs.append(inner + root * ratio * np.eye(len(inner), dtype=inner.dtype))
            outputs.append(outer + root / ratio * np.eye(len(outer), dtype=outer.dtype))
        return inputs, outputs

    def refreshed(self, state: TridiagonalState) -> TridiagonalState:
        """Return the state with the chain of the present factors.

        Raises
        ------
        SingularFactorError
            Where a damped factor is not positive definite at working precision.
        """
        try:
            return state._replace(chain=tuple(self._links(state)))
        except np.linalg.LinAlgError:
            fail(
                "inputs and outputs",
                "factors that are positive definite after damping",
                f"a pivot ≤ 0 with damping {self.damping:.3g}",
                "Take more damping or more rows.",
                kind=SingularFactorError,
            )

    def _links(self, state: TridiagonalState) -> list[Conditional]:
        inputs, outputs = self.damped(state)
        chain = []
        for i in range(state.net.depth):
            a, g = inputs[i], outputs[i]
            if i == state.net.depth - 1:
                nothing = np.zeros_like(a), np.zeros_like(g)
                chain.append(_conditional(None, None, a, g, *nothing))
                continue
            across, back = state.between[i]
            # Ψ = A_{i,i+1} A_{i+1}⁻¹ by Cholesky of the damped factor.
            psi_a = scipy.linalg.cho_solve(scipy.linalg.cho_factor(inputs[i + 1], lower=True), across.T).T
            psi_g = scipy.linalg.cho_solve(scipy.linalg.cho_factor(outputs[i + 1], lower=True), back.T).T
            chain.append(_conditional(psi_a, psi_g, a, g, across @ psi_a.T, back @ psi_g.T))
        return chain

    def apply(self, state: TridiagonalState, gradient: Array, *, out: Array | None = None) -> Array:
        """Return the preconditioned gradient (P,): Ξᵀ Λ Ξ times it."""
        if not state.chain:
            fail("state", "a state that has seen a minibatch", "a new one")
        blocks, out = state.net.blocks(gradient), np.empty_like(gradient) if out is None else out
        parts = state.net.blocks(out)
        scaled: list[Array] = []
        for i, link in enumerate(state.chain):
            rest = blocks[i]
            if link.inputs is not None and link.outputs is not None:
                rest = rest - link.inputs @ blocks[i + 1] @ link.outputs.T
            inside = link.left.T @ rest @ link.right
            inside /= link.values
            scaled.append(link.left @ inside @ link.right.T)
        for i, part in enumerate(parts):
            part[...] = scaled[i]
            before = state.chain[i - 1] if i > 0 else None
            if before is not None and before.inputs is not None and before.outputs is not None:
                part -= before.inputs.T @ scaled[i - 1] @ before.outputs
        return out


def _conditional(
    psi_a: Array | None, psi_g: Array | None, a: Array, g: Array, explained_a: Array, explained_g: Array
) -> Conditional:
    """Return the link of one layer, from its damped factors and what the next layer explains of them."""
    values_a, left = scipy.linalg.eigh(_symmetric(explained_a), a)
    values_g, right = scipy.linalg.eigh(_symmetric(explained_g), g)
    # Eigenvalues are squared correlations of damped moments: in [0, 1) but for rounding.
    shares = np.clip(values_a, 0.0, 1.0)[:, None] * np.clip(values_g, 0.0, 1.0)
    return Conditional(psi_a, psi_g, left, right, np.maximum(1.0 - shares, np.finfo(a.dtype).eps))


def _symmetric(matrix: Array) -> Array:
    both: Array = 0.5 * (matrix + matrix.T)
    return both
