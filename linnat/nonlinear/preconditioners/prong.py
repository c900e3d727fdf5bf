"""PRONG: white, centred inputs of every layer by reparametrisation (Desjardins et al. 2015). Statement O3.

A layer z = W h + b is rewritten as z = r ∘ (V U (h − c) + d) with c = E[h] and U the whitening matrix of Cov h + ε I;
the function is the same, W = diag(r) V U, b = r ∘ d − W c. One gradient step in (V, d) moves W by
−η r² ∘ (∂ℓ/∂W − ∂ℓ/∂b cᵀ)(Cov h + ε I)⁻¹ and b by −η r² ∘ ∂ℓ/∂b − ΔW c: the input half of K-FAC, and exactly what the
elimination of biases does in the closed form (X10). Both views are here: `Prong` preconditions the gradient, or where
rows are few makes their signals white twice, which is the same and costs what the other view does; `to_white`,
`from_white`, `white_gradient` are the network in its other coordinates.

r = 1 is PRONG. PRONG⁺ adds a diagonal scaling of the outputs. "batch" is the published one, that of batch
normalisation: r_a² = Var z_a + ε, so that V U (h − c) + d has variance one and the function stays as it is. Var z_a is
w_aᵀ(Cov h) w_a, of the moments and weights at the change of coordinates; it is held until the next one, where batch
normalisation itself takes every minibatch's and makes another network. "fisher" is the diagonal of the Fisher matrix:
r_a² = 1/(E δ_a² + ε), large where errors are small.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, as_choice, as_count, as_dtype, as_scalar, fail
from linnat.nonlinear._crew import each, members
from linnat.nonlinear._rooms import room
from linnat.nonlinear.activations import activate, multiply_by_slope
from linnat.nonlinear.network import Network
from linnat.nonlinear.passes import Workspace
from linnat.nonlinear.preconditioners._contract import Info
from linnat.nonlinear.preconditioners._factors import Factors, averaged, by_layers, empty, is_due
from linnat.nonlinear.preconditioners.kfac import check_decay
from linnat.nonlinear.statistics import Statistics

SCALES = ("none", "batch", "fisher")


class Whitening(NamedTuple):
    """The coordinates of one layer.

    Attributes
    ----------
    centre : array (n_{i−1},)
        c.
    basis : array (n_{i−1}, n_{i−1})
        Eigenvectors Q of Cov h.
    scales : array (n_{i−1},)
        √(eigenvalue + ε): U = diag(1/scales) Qᵀ.
    outer : array (n_i,)
        r.
    """

    centre: Array
    basis: Array
    scales: Array
    outer: Array


class ProngState(NamedTuple):
    """Running moments, and the coordinates in use; empty before the first minibatch."""

    net: Network
    factors: Factors
    whitenings: tuple[Whitening, ...]


@dataclass(frozen=True)
class Prong:
    """PRONG, or PRONG⁺ with a `scale`.

    Parameters
    ----------
    epsilon : float
        ε > 0, added to the variances: caps the step where a unit hardly varies.
    decay : float
        Largest weight of the past in the running moments; 0 takes the last minibatch alone, as published.
    period : int
        T, updates between changes of coordinates.
    scale : "none", "batch" or "fisher"
        Of the outputs: none is PRONG, the others PRONG⁺. "batch" needs statistics that carry the parameters, as those
        of `gather` do.
    early : bool
        Whether the first period has renewals with updates 1, 2, 4, 8, … too: the average of one minibatch lacks
        directions of the next.

    Raises
    ------
    InputError
        For an ε that is not positive, a decay outside of [0, 1), unknown scales.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> prong = Prong(epsilon=1.0)
    >>> batch = Statistics((np.array([[1.0], [-1.0]]),), (np.array([[1.0], [-1.0]]),))
    >>> state, _ = prong.update(prong.init(net), batch)
    >>> prong.apply(state, np.array([1.0, 3.0]))
    array([0.5, 3. ])
    """

    epsilon: float = 1e-3
    decay: float = 0.95
    period: int = 100
    scale: str = "none"
    early: bool = True

    def __post_init__(self) -> None:
        as_scalar(self.epsilon, "epsilon", low=0.0, open_low=True)
        check_decay(self.decay)
        as_choice(self.scale, "scale", SCALES)
        as_count(self.period, "period")

    def init(self, net: Network, dtype: Any = np.float64) -> ProngState:
        """Return the state before the first minibatch."""
        return ProngState(net, empty(net, as_dtype(dtype)), ())

    def update(self, state: ProngState, statistics: Statistics) -> tuple[ProngState, Info]:
        """Return the state after a minibatch, and whether the coordinates changed."""
        due = is_due(state.factors.batches, self.period, self.early)
        if due and self.scale == "batch" and statistics.theta is None:
            fail("statistics", "parameters beside signals and errors, for scale='batch'", None)
        state = state._replace(factors=averaged(state.factors, statistics, self.decay, fresh=due))
        return (state if not due else self.renewed(state, statistics.theta)), Info(due)

    def renewed(self, state: ProngState, theta: Array | None = None) -> ProngState:
        """Return the state with coordinates of the present moments; scale "batch" needs the parameters (P,)."""
        layers = [None] * state.net.depth if theta is None else state.net.blocks(theta)

        def whitening(inner: Array, outer: Array, layer: Array | None) -> Whitening:
            centre = inner[-1, :-1].copy()
            values, basis = np.linalg.eigh(inner[:-1, :-1] - np.outer(centre, centre))
            # Rounding leaves small negative variances; ε is added to what they are, which is zero.
            values = np.maximum(values, 0.0)
            scales = np.sqrt(values + self.epsilon)
            ratio = np.ones_like(outer[0])
            if self.scale == "fisher":
                ratio = 1 / np.sqrt(np.diagonal(outer) + self.epsilon)
            elif self.scale == "batch" and layer is not None:
                ratio = np.sqrt(values @ (basis.T @ layer[:-1]) ** 2 + self.epsilon)
            return Whitening(centre, basis, scales, ratio)

        tasks = [
            partial(whitening, *given)
            for given in zip(state.factors.inputs, state.factors.outputs, layers, strict=True)
        ]
        costs = [float(len(inner)) ** 3 for inner in state.factors.inputs]
        return state._replace(whitenings=tuple(each(tasks, members(sum(costs)), costs)))

    def apply(self, state: ProngState, gradient: Array, *, out: Array | None = None) -> Array:
        """Return the preconditioned gradient (P,)."""
        _check(state)

        def layer(i: int, block: Array, part: Array) -> None:
            white = state.whitenings[i]
            centred, inside = room("layer", gradient.dtype, block[:-1].shape, block[:-1].shape)
            np.subtract(block[:-1], np.outer(white.centre, block[-1]), out=centred)
            np.matmul(white.basis.T, centred, out=inside)
            inside /= white.scales[:, None] ** 2
            np.matmul(white.basis, inside, out=part[:-1])
            part[:-1] *= white.outer**2
            part[-1] = white.outer**2 * block[-1] - white.centre @ part[:-1]

        return by_layers(state.net, gradient, out, layer)

    def cost_by_rows(self, net: Network, rows: int) -> float:
        """Return the products of `apply_to_rows` over those of `apply`."""
        inputs = sum(n * n for n in net.widths[:-1])
        through = sum(n * n * m for n, m in pairwise(net.widths))
        return rows * (2 * inputs + net.n_parameters) / (2 * through)

    def apply_to_rows(self, state: ProngState, work: Workspace, *, out: Array) -> Array:
        """Write the preconditioned gradient (P,) of a workspace's rows: the white signals instead of the gradient.

        (Cov h + ε I)⁻¹ Σ_n (h_n − c) δ_nᵀ is Σ_n [(Cov h + ε I)⁻¹(h_n − c)] δ_nᵀ: with N rows 2 N n_{i−1}² products
        where the gradient takes 2 n_{i−1}² n_i.
        """
        _check(state)

        def layer(i: int, part: Array) -> None:
            white, signal, error = state.whitenings[i], work.signals[i], work.errors[i]
            centred, inside = room("layer", signal.dtype, signal.shape, signal.shape)
            np.subtract(signal, white.centre, out=centred)
            np.matmul(centred, white.basis, out=inside)
            inside /= white.scales**2
            np.matmul(inside, white.basis.T, out=centred)
            np.matmul(centred.T, error, out=part[:-1])
            np.add.reduce(error, axis=0, out=part[-1])
            part *= white.outer**2
            part[-1] -= white.centre @ part[:-1]

        parts = state.net.blocks(out)
        costs = [2.0 * work.rows * n * (2 * n + m) for n, m in (part.shape for part in parts)]
        each([partial(layer, *pair) for pair in enumerate(parts)], members(sum(costs)), costs)
        return out


def to_white(state: ProngState, theta: Array) -> Array:
    """Return the parameters (V, d) of the same function in the coordinates of a state, in the order of θ."""
    _check(state)
    out = np.empty_like(theta)
    for block, part, white in zip(
        state.net.blocks(theta), state.net.blocks(out), state.whitenings, strict=True
    ):
        np.matmul(white.basis.T, block[:-1], out=part[:-1])
        part[:-1] *= white.scales[:, None] / white.outer
        part[-1] = (block[-1] + white.centre @ block[:-1]) / white.outer
    return out


def from_white(state: ProngState, omega: Array) -> Array:
    """Return the parameters θ of white ones: undo `to_white`."""
    _check(state)
    out = np.empty_like(omega)
    for block, part, white in zip(
        state.net.blocks(omega), state.net.blocks(out), state.whitenings, strict=True
    ):
        np.matmul(white.basis / white.scales, block[:-1] * white.outer, out=part[:-1])
        part[-1] = white.outer * block[-1] - white.centre @ part[:-1]
    return out


def white_gradient(state: ProngState, omega: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Return outputs (N, n_L) and the gradient of the mean loss in (V, d), by the network in white coordinates.

    Nothing of the canonical network is used: every layer centres and whitens what enters it.
    """
    _check(state)
    net, blocks = state.net, state.net.blocks(omega)
    signal, whites, hidden = x, [], []
    for block, white, name in zip(blocks, state.whitenings, net.activations, strict=True):
        entering = ((signal - white.centre) @ white.basis) / white.scales
        signal = (entering @ block[:-1] + block[-1]) * white.outer
        activate(name, signal)
        whites.append(entering)
        hidden.append(signal)
    out = np.empty_like(omega)
    error = net.family.score(hidden[-1], y) / -len(x)
    for i in range(net.depth - 1, -1, -1):
        white, part = state.whitenings[i], net.blocks(out)[i]
        multiply_by_slope(net.activations[i], hidden[i], error)
        error = error * white.outer
        np.matmul(whites[i].T, error, out=part[:-1])
        part[-1] = error.sum(axis=0)
        if i > 0:
            error = ((error @ blocks[i][:-1].T) / white.scales) @ white.basis.T
    return hidden[-1], out


def _check(state: ProngState) -> None:
    if not state.whitenings:
        fail("state", "a state that has seen a minibatch", "a new one")
