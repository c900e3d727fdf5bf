"""TONGA: the covariance of rows' gradients, by layers and at low rank, online (Le Roux et al. 2008). Statement O4.

For each layer C ← γ C + (1 − γ) mean_n g_n g_nᵀ, kept as its k largest eigenpairs: the old ones, scaled, and the new
rows are one tall matrix, whose singular vectors are the new ones. The step is (C + λ I)⁻¹ times the gradient.
With the data's targets and uncentred rows C is the empirical Fisher matrix (O0), not the Fisher matrix; "centred"
subtracts the minibatch's mean gradient from its rows, as a covariance does. Neither is right far from the optimum,
where rows agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, as_count, as_dtype, as_scalar, fail
from linnat.linalg.memory import refuse_beyond_memory
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners._contract import Info
from linnat.nonlinear.preconditioners._factors import extended
from linnat.nonlinear.preconditioners.kfac import check_decay
from linnat.nonlinear.statistics import Statistics


class TongaState(NamedTuple):
    """Eigenpairs of each layer's matrix.

    Attributes
    ----------
    net : Network
    batches : int
        Minibatches seen.
    values : tuple of arrays (r_i,)
        Eigenvalues, r_i ≤ k of them, all positive.
    vectors : tuple of arrays (P_i, r_i)
        Orthonormal eigenvectors, in the order of the layer's parameters.
    """

    net: Network
    batches: int
    values: tuple[Array, ...]
    vectors: tuple[Array, ...]


@dataclass(frozen=True)
class Tonga:
    """TONGA.

    Parameters
    ----------
    damping : float
        λ > 0.
    decay : float
        γ, largest weight of the past.
    rank : int
        k, eigenpairs kept for each layer.
    centred : bool
        Whether each minibatch's mean gradient is subtracted from its rows.

    Notes
    -----
    A minibatch's rows are held at once, N P numbers: meant for small networks or few rows.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> tonga = Tonga(damping=1.0, centred=False)
    >>> batch = Statistics((np.array([[2.0]]),), (np.array([[1.0]]),))
    >>> state, _ = tonga.update(tonga.init(net), batch)
    >>> tonga.apply(state, np.array([1.0, 0.0])).round(6)
    array([ 0.333333, -0.333333])
    """

    damping: float = 1e-2
    decay: float = 0.95
    rank: int = 50
    centred: bool = True

    def __post_init__(self) -> None:
        as_scalar(self.damping, "damping", low=0.0, open_low=True)
        check_decay(self.decay)
        as_count(self.rank, "rank")

    def init(self, net: Network, dtype: Any = np.float64) -> TongaState:
        """Return the state before the first minibatch."""
        kind = as_dtype(dtype)
        sizes = [rows * columns for rows, columns in net.shapes]
        return TongaState(
            net,
            0,
            tuple(np.zeros(0, kind) for _ in sizes),
            tuple(np.zeros((size, 0), kind) for size in sizes),
        )

    def update(self, state: TongaState, statistics: Statistics) -> tuple[TongaState, Info]:
        """Return the state after a minibatch."""
        batches = state.batches + 1
        old = min(1.0 - 1.0 / batches, self.decay)
        largest = max(rows * columns for rows, columns in state.net.shapes)
        entries = largest * (statistics.rows + self.rank)
        refuse_beyond_memory("statistics", entries, statistics.errors[0].itemsize, "Give fewer rows.", 2)
        values, vectors = [], []
        for i, (signal, error) in enumerate(zip(statistics.signals, statistics.errors, strict=True)):
            rows = (extended(signal)[:, :, None] * error[:, None, :]).reshape(len(error), -1)
            if self.centred:
                rows = rows - rows.mean(axis=0)
            tall = [
                state.vectors[i] * np.sqrt(old * state.values[i]),
                rows.T * np.sqrt((1.0 - old) / len(rows)),
            ]
            left, singular, _ = np.linalg.svd(np.concatenate(tall, axis=1), full_matrices=False)
            keep = min(
                self.rank, int((singular > len(rows) * np.finfo(singular.dtype).eps * singular[0]).sum())
            )
            values.append(singular[:keep] ** 2)
            vectors.append(np.ascontiguousarray(left[:, :keep]))
        return state._replace(batches=batches, values=tuple(values), vectors=tuple(vectors)), Info(True)

    def matrix(self, state: TongaState, layer: int) -> Array:
        """Return C of a layer, numbered from 1, (P_i, P_i)."""
        number = as_count(layer, "layer")
        if number > state.net.depth:
            fail("layer", f"a number from 1 to {state.net.depth}", number)
        vectors = state.vectors[number - 1]
        dense: Array = (vectors * state.values[number - 1]) @ vectors.T
        return dense

    def apply(self, state: TongaState, gradient: Array, *, out: Array | None = None) -> Array:
        """Return the preconditioned gradient (P,)."""
        if state.batches == 0:
            fail("state", "a state that has seen a minibatch", "a new one")
        out = np.empty_like(gradient) if out is None else out
        for where, values, vectors in zip(state.net.slices, state.values, state.vectors, strict=True):
            inside = vectors.T @ gradient[where]
            # (C + λ)⁻¹ = (1 − U diag(s/(s + λ)) Uᵀ)/λ
            out[where] = (
                gradient[where] - vectors @ (inside * (values / (values + self.damping)))
            ) / self.damping
        return out
