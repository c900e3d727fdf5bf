"""What is kept of a matrix? Everything, blocks of layers, also those of neighbours, of units, the diagonal: products.

A matrix that is a sum of squares g gᵀ is multiplied by any of these at the price of the whole product, since g is
⊕ vec(δ_i h̃_{i−1}ᵀ): what differs is which parts of gᵀd weigh which part of g. Of any other matrix each block kept takes
a product of its own, of a direction that is zero elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linnat._checks import Array
from linnat.nonlinear.network import Network

STRUCTURES = ("full", "layers", "tridiagonal", "units", "diagonal")


def extended(signal: Array) -> Array:
    """Return (h, 1)."""
    return np.concatenate([signal, np.ones((len(signal), 1), signal.dtype)], axis=1)


def square_product(
    net: Network, signals: Sequence[Array], errors: Sequence[Array], vectors: Array, structure: str
) -> Array:
    """Return Σ_n of the kept parts of g_n g_nᵀ times vectors (K, P), shape (K, P).

    Examples
    --------
    >>> net = Network((1, 1, 1), family="gaussian")
    >>> signals, errors = [np.array([[2.0]])] * 2, [np.array([[1.0]])] * 2
    >>> square_product(net, signals, errors, np.array([[1.0, 0.0, 0.0, 0.0]]), "full")
    array([[4., 2., 4., 2.]])
    >>> square_product(net, signals, errors, np.array([[1.0, 0.0, 0.0, 0.0]]), "layers")
    array([[4., 2., 0., 0.]])
    """
    out = np.empty_like(vectors)
    # (h̃_n d)_a, and with it the derivative δ_nᵀ D h̃_n of each row's loss along the layer's part of each direction.
    moved = [
        signal @ change[:, :-1] + change[:, -1:]
        for signal, change in zip(signals, net.blocks(vectors), strict=True)
    ]
    if structure == "units":
        weighted = [step * error**2 for step, error in zip(moved, errors, strict=True)]
    else:
        along = [(step * error).sum(axis=2) for step, error in zip(moved, errors, strict=True)]
        weighted = [
            sum(along[j] for j in _reached(i, len(along), structure))[:, :, None] * error
            for i, error in enumerate(errors)
        ]
    for part, signal, weights in zip(net.blocks(out), signals, weighted, strict=True):
        np.matmul(signal.T, weights, out=part[:, :-1])
        np.add.reduce(weights, axis=1, out=part[:, -1])
    return out


def _reached(layer: int, depth: int, structure: str) -> range:
    reach = {"full": depth, "tridiagonal": 1, "layers": 0}[structure]
    return range(max(0, layer - reach), min(depth, layer + reach + 1))


def groups(net: Network, structure: str) -> list[tuple[Array, Array]]:
    """Return pairs of places in the parameter vector, (of the direction, of the product), that make up a structure.

    Examples
    --------
    >>> [(a.tolist(), b.tolist()) for a, b in groups(Network((1, 2), family="gaussian"), "units")]
    [([0, 2], [0, 2]), ([1, 3], [1, 3])]
    """
    places = np.arange(net.n_parameters)
    if structure == "units":
        found = []
        for where, (rows, _) in zip(net.slices, net.shapes, strict=True):
            found += [(unit := places[where][a::rows], unit) for a in range(rows)]
        return found
    kept = [
        np.concatenate([places[net.slices[j]] for j in _reached(i, net.depth, structure)])
        for i in range(net.depth)
    ]
    return [(places[where], out) for where, out in zip(net.slices, kept, strict=True)]
