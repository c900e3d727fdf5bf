"""Where does training start? Sparse (Martens 2010), orthogonal (Saxe et al. 2014), Glorot (2010), balanced weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from linnat._checks import Array, RngLike, as_choice, as_count, as_dtype, as_rng, as_scalar, fail
from linnat.nonlinear.network import Network

INCOMING = 15  # connections of a unit at the start, after Martens (2010) and Sutskever et al. (2013)


def initial(
    net: Network,
    kind: str = "sparse",
    *,
    rng: RngLike,
    gain: float = 1.0,
    incoming: int = INCOMING,
    dtype: Any = np.float64,
) -> Array:
    """Draw a parameter vector.

    Parameters
    ----------
    net : Network
    kind : "sparse", "orthogonal", "glorot" or "balanced"
        "sparse": `incoming` standard normal weights into each unit, the others zero, biases zero; into tanh units the
        weights are multiplied by 0.25 and biases are 0.5 (Sutskever et al. 2013). "orthogonal": orthonormal columns
        or rows. "glorot": uniform of variance 2/(n_i + n_{i−1}). "balanced": orthonormal factors between layers with
        one set of singular values, so that W_{i+1}ᵀW_{i+1} = W_iW_iᵀ at every hidden layer, of rank min n_i.
    rng : Generator or int
    gain : float
        Multiplies the weights, not the biases.
    incoming : int
        For "sparse"; layers with fewer inputs are full.
    dtype : float32 or float64

    Returns
    -------
    array (P,)

    Raises
    ------
    InputError
        For an unknown kind, or a gain that is not positive.

    Examples
    --------
    >>> net = Network((20, 4), family="gaussian")
    >>> weights = net.layers(initial(net, rng=0))[0][:, :-1]
    >>> (weights != 0).sum(axis=1)
    array([15, 15, 15, 15])
    """
    draw = DRAWS[as_choice(kind, "kind", tuple(DRAWS))]
    generator = as_rng(rng)
    gain = as_scalar(gain, "gain", low=0.0, open_low=True)
    count = as_count(incoming, "incoming")
    if count != INCOMING and kind != "sparse":
        fail("incoming", f"{INCOMING}, since {kind!r} has no such number", count)
    target = as_dtype(dtype)
    layers = draw(net, generator, count)
    for layer in layers:
        layer[:, :-1] *= gain
    return net.vector(layers).astype(target)


def _empty(net: Network) -> list[Array]:
    return [np.zeros(shape) for shape in net.shapes]


def _sparse(net: Network, rng: np.random.Generator, incoming: int) -> list[Array]:
    layers = _empty(net)
    for layer, name in zip(layers, net.activations, strict=True):
        inputs = layer.shape[1] - 1
        count = min(incoming, inputs)
        # Without a loop over units: the first places of a random order of the inputs, one order for each unit.
        places = rng.random((len(layer), inputs)).argpartition(count - 1, axis=1)[:, :count]
        values = rng.standard_normal((len(layer), count))
        np.put_along_axis(layer[:, :-1], places, values * (0.25 if name == "tanh" else 1.0), axis=1)
        layer[:, -1] = 0.5 if name == "tanh" else 0.0
    return layers


def _orthonormal(rows: int, columns: int, rng: np.random.Generator) -> Array:
    """Draw orthonormal columns (rows, if there are fewer of them), uniform under rotations."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return q if rows >= columns else q.T


def _orthogonal(net: Network, rng: np.random.Generator, incoming: int) -> list[Array]:
    layers = _empty(net)
    for layer in layers:
        layer[:, :-1] = _orthonormal(layer.shape[0], layer.shape[1] - 1, rng)
    return layers


def _glorot(net: Network, rng: np.random.Generator, incoming: int) -> list[Array]:
    layers = _empty(net)
    for layer in layers:
        limit = np.sqrt(6.0 / (layer.shape[0] + layer.shape[1] - 1))
        layer[:, :-1] = rng.uniform(-limit, limit, (layer.shape[0], layer.shape[1] - 1))
    return layers


def _balanced(net: Network, rng: np.random.Generator, incoming: int) -> list[Array]:
    rank = min(net.widths)
    bases = [_orthonormal(n, rank, rng) for n in net.widths]
    # The singular values of a Gaussian matrix of the rank's size: order one, none of them equal.
    values = np.linalg.svd(rng.standard_normal((rank, rank)) / np.sqrt(rank), compute_uv=False)
    layers = _empty(net)
    for i, layer in enumerate(layers):
        layer[:, :-1] = (bases[i + 1] * values ** (1.0 / net.depth)) @ bases[i].T
    return layers


Draw = Callable[[Network, np.random.Generator, int], list[Array]]
DRAWS: dict[str, Draw] = {
    "sparse": _sparse,
    "orthogonal": _orthogonal,
    "glorot": _glorot,
    "balanced": _balanced,
}
