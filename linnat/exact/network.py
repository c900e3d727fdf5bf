"""What is a deep linear network? Weights W_1 … W_L, optionally biases; conventions of the whole package.

Layer i maps h ↦ W_i h (+ b_i), W_i is (n_i, n_{i-1}); the total weight is W = W_L ⋯ W_1. With biases every
per-layer array is [W_i b_i], one column wider, and the layer acts on (h, 1) as M_i = [W_i b_i; 0 1] (statement X10).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from linnat._checks import (
    Array,
    RngLike,
    as_choice,
    as_count,
    as_dtype,
    as_float_array,
    as_matrix,
    as_path,
    as_rng,
    as_shape,
    check_broadcast,
    fail,
    freeze,
    representable,
)
from linnat._files import read_npz, write_npz
from linnat.linalg.vec import unvec, vec

Direction = tuple[Array, ...]


@dataclass(frozen=True, eq=False, init=False)
class LinearNetwork:
    """A deep linear network, possibly with biases; immutable.

    Parameters
    ----------
    weights : sequence of arrays (…, n_i, n_{i-1}), i = 1 … L
        Leading axes broadcast against each other: one object may hold a thousand networks.
    biases : sequence of arrays (…, n_i), optional

    Attributes
    ----------
    weights : tuple of read-only arrays (…, n_i, n_{i-1})
        float32 if every array given was float32, float64 otherwise; all with the same leading axes.
    biases : tuple of read-only arrays (…, n_i), or None

    Raises
    ------
    InputError
        For empty networks, widths that do not chain, or arrays that are not finite and real.

    Examples
    --------
    >>> net = LinearNetwork([[[1.0, 2.0]], [[3.0], [4.0]]])
    >>> net.widths, net.depth
    ((2, 1, 2), 2)
    >>> net.total
    array([[3., 6.],
           [4., 8.]])
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...] | None = None

    def __init__(self, weights: Sequence[Any], biases: Sequence[Any] | None = None) -> None:
        checked = _as_weights(weights)
        offsets = None if biases is None else _as_biases(biases, checked)
        every = [*checked, *(offsets or ())]
        dtype = np.result_type(*every)
        leading = [w.shape[:-2] for w in checked] + [b.shape[:-1] for b in offsets or ()]
        batch = check_broadcast(leading, "weights" if offsets is None else "weights, biases")
        object.__setattr__(self, "weights", tuple(_settle(w, batch, 2, dtype) for w in checked))
        settled = None if offsets is None else tuple(_settle(b, batch, 1, dtype) for b in offsets)
        object.__setattr__(self, "biases", settled)

    @property
    def depth(self) -> int:
        """Number of layers L."""
        return len(self.weights)

    @property
    def widths(self) -> tuple[int, ...]:
        """(n_0, …, n_L)."""
        return (self.weights[0].shape[-1], *(w.shape[-2] for w in self.weights))

    @property
    def has_biases(self) -> bool:
        """Whether the layers have biases."""
        return self.biases is not None

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64; results computed from the network have it too."""
        return self.weights[0].dtype

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes: () for a single network."""
        return tuple(self.weights[0].shape[:-2])

    @property
    def n_parameters(self) -> int:
        """P = Σ_i n_i n_{i-1} (+ n_i with biases), for one network of the batch."""
        return sum(layer.shape[-1] * layer.shape[-2] for layer in self.layers)

    @property
    def layers(self) -> Direction:
        """The parameters as one array per layer: W_i, or [W_i b_i] (…, n_i, n_{i-1} + 1) with biases."""
        if self.biases is None:
            return self.weights
        pairs = zip(self.weights, self.biases, strict=True)
        return tuple(np.concatenate([w, b[..., None]], axis=-1) for w, b in pairs)

    @property
    def maps(self) -> Direction:
        """The matrices that act on the signal: W_i, or M_i = [W_i b_i; 0 1] with biases (X10)."""
        if self.biases is None:
            return self.weights
        return tuple(_augment(layer) for layer in self.layers)

    @property
    @representable("weights")
    def total(self) -> Array:
        """W_L ⋯ W_1, shape (…, n_L, n_0); with biases [W c], one column wider."""
        signal = self.layers[0]
        for i in range(1, self.depth):
            signal = self.weights[i] @ signal
            if self.biases is not None:
                signal[..., -1] += self.biases[i]
        return signal

    @property
    @representable("weights")
    def before(self) -> tuple[Array, ...]:
        """A_i = W_{i-1} ⋯ W_1 (M_{i-1} ⋯ M_1 with biases) at place i - 1: what stands before layer i."""
        maps = self.maps
        size = maps[0].shape[-1]
        products = [np.broadcast_to(np.eye(size, dtype=self.dtype), (*self.batch_shape, size, size))]
        for matrix in maps[:-1]:
            products.append(matrix @ products[-1])
        return tuple(products)

    @property
    @representable("weights")
    def after(self) -> tuple[Array, ...]:
        """B_i = W_L ⋯ W_{i+1} at place i - 1: what the error goes through after layer i; never has biases."""
        size = self.widths[-1]
        products = [np.broadcast_to(np.eye(size, dtype=self.dtype), (*self.batch_shape, size, size))]
        for matrix in reversed(self.weights[1:]):
            products.append(products[-1] @ matrix)
        return tuple(reversed(products))

    @classmethod
    def random(
        cls,
        widths: Sequence[int],
        *,
        rng: RngLike,
        biases: bool = False,
        batch_shape: tuple[int, ...] = (),
        dtype: Any = np.float64,
    ) -> LinearNetwork:
        """Draw independent Gaussian weights of variance 1/n_{i-1} (and biases of variance 1/n_{i-1}).

        Parameters
        ----------
        widths : (n_0, …, n_L)
        rng : Generator or int
        biases : bool
        batch_shape : tuple of int
            Leading axes of every array.
        dtype : float64 or float32

        Examples
        --------
        >>> LinearNetwork.random((3, 5, 2), rng=0).widths
        (3, 5, 2)
        """
        sizes = as_widths(widths)
        generator, kind, leading = as_rng(rng), as_dtype(dtype), as_shape(batch_shape, "batch_shape")
        layers, offsets = [], []
        for fan_in, fan_out in pairwise(sizes):
            layers.append(generator.standard_normal((*leading, fan_out, fan_in)) / np.sqrt(fan_in))
            if biases:
                offsets.append(generator.standard_normal((*leading, fan_out)) / np.sqrt(fan_in))
        return cls([w.astype(kind) for w in layers], [b.astype(kind) for b in offsets] if biases else None)

    @classmethod
    @representable("total")
    def balanced(cls, total: Any, depth: int, width: int | None = None) -> LinearNetwork:
        """Factor a total weight into balanced layers, W_{i+1}ᵀ W_{i+1} = W_i W_iᵀ.

        Parameters
        ----------
        total : array (…, n_L, n_0)
        depth : int
        width : int, optional
            Every hidden width, at least min(n_0, n_L), which is the default.

        Notes
        -----
        With the singular value decomposition U s Vᵀ of the total weight, W_1 = s^{1/L} Vᵀ, W_i = s^{1/L},
        W_L = U s^{1/L}, padded with zeros to the width. One SVD: O(n_0 n_L min(n_0, n_L)) flops.

        Examples
        --------
        >>> net = LinearNetwork.balanced([[8.0, 0.0], [0.0, 27.0]], 3)
        >>> [float(np.round(w[0, 0] ** 2 + w[1, 0] ** 2, 9)) for w in net.weights[1:2]]
        [9.0]
        """
        matrix = as_matrix(total, "total")
        count = as_count(depth, "depth")
        rank = min(matrix.shape[-2:])
        hidden = rank if width is None else as_count(width, "width", low=rank)
        if count == 1:
            return cls([matrix])
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        root = values ** matrix.dtype.type(1 / count)
        padded = np.zeros((*root.shape[:-1], hidden), matrix.dtype)
        padded[..., :rank] = root
        first, last = _pad_rows(root[..., :, None] * right, hidden), left * root[..., None, :]
        last = np.swapaxes(_pad_rows(np.swapaxes(last, -1, -2), hidden), -1, -2)
        middle = padded[..., None] * np.eye(hidden, dtype=matrix.dtype)
        return cls([first, *[middle] * (count - 2), last])

    def replace_layers(self, layers: Sequence[Array]) -> LinearNetwork:
        """Return a network of the same kind with other parameters, given like `layers`."""
        direction = as_direction(layers, self, "layers")
        if not self.has_biases:
            return LinearNetwork(direction)
        return LinearNetwork([d[..., :-1] for d in direction], [d[..., -1] for d in direction])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an `.npz` file with arrays W1 … WL (and b1 … bL), atomically."""
        arrays = {f"W{i}": w for i, w in enumerate(self.weights, 1)}
        arrays |= {f"b{i}": b for i, b in enumerate(self.biases or (), 1)}
        write_npz(as_path(path), arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LinearNetwork:
        """Read a network from an `.npz` file with arrays W1 … WL (and b1 … bL)."""
        arrays = read_npz(as_path(path), "network")
        depth = sum(key.startswith("W") for key in arrays)
        with_biases = any(key.startswith("b") for key in arrays)
        wanted = {f"W{i}" for i in range(1, depth + 1)}
        if with_biases:
            wanted |= {f"b{i}" for i in range(1, depth + 1)}
        if depth == 0 or set(arrays) != wanted:
            fail("network file", "arrays W1 … WL (and b1 … bL)", f"{sorted(arrays)} in {path}")
        weights = [arrays[f"W{i}"] for i in range(1, depth + 1)]
        return cls(weights, [arrays[f"b{i}"] for i in range(1, depth + 1)] if with_biases else None)


def as_network(value: object, name: str = "net") -> LinearNetwork:
    """Return `value` if it is a LinearNetwork."""
    if not isinstance(value, LinearNetwork):
        fail(name, "a LinearNetwork", type(value).__name__, "Wrap the weights: LinearNetwork([W1, …, WL]).")
    return value


def as_widths(value: Sequence[int]) -> tuple[int, ...]:
    """Return widths (n_0, …, n_L), at least two positive integers."""
    try:
        sizes = tuple(as_count(n, "widths") for n in value)
    except TypeError:
        fail("widths", "a sequence of positive integers", repr(value))
    if len(sizes) < 2:
        fail("widths", "at least (n_0, n_1)", sizes)
    return sizes


def as_direction(value: Sequence[Any], net: LinearNetwork, name: str = "direction") -> Direction:
    """Return a tuple of arrays shaped like `net.layers` up to leading axes."""
    shapes = [layer.shape[-2:] for layer in net.layers]
    if isinstance(value, np.ndarray) or not isinstance(value, Sequence) or len(value) != len(shapes):
        fail(name, f"a sequence of {len(shapes)} arrays, one per layer", f"{type(value).__name__}")
    arrays = tuple(as_matrix(v, f"{name}[{i}]") for i, v in enumerate(value))
    for i, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
        if array.shape[-2:] != shape:
            fail(f"{name}[{i}]", f"shape (…, {shape[0]}, {shape[1]})", f"shape {array.shape}")
    return arrays


def flatten(direction: Sequence[Array], order: str = "F") -> Array:
    """Flatten a direction to the vector that the dense matrices act on.

    Parameters
    ----------
    direction : sequence of arrays (…, n_i, m_i)
    order : "F" or "C"
        "F" stacks columns, the package's convention; "C" stacks rows, as PyTorch flattens W_i. (JAX's kernels are
        W_iᵀ, so that its rows are "F"; with biases PyTorch keeps W_i and b_i apart: see the conventions page.)

    Returns
    -------
    array (…, P)
        Layers in the order 1 … L.

    Examples
    --------
    >>> flatten([np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])])
    array([1., 2., 3., 4.])
    """
    arrays = [as_matrix(d, f"direction[{i}]") for i, d in enumerate(direction)]
    if not arrays:
        fail("direction", "at least one array", "none")
    as_choice(order, "order", ("F", "C"))
    batch = check_broadcast([a.shape[:-2] for a in arrays], "direction")
    arrays = [np.broadcast_to(a, (*batch, *a.shape[-2:])) for a in arrays]
    return np.concatenate([vec(a) if order == "F" else a.reshape(*batch, -1) for a in arrays], axis=-1)


def unflatten(vector: Any, net: LinearNetwork, order: str = "F") -> Direction:
    """Undo `flatten` for the shapes of `net.layers`.

    Examples
    --------
    >>> net = LinearNetwork([[[1.0, 2.0]], [[3.0], [4.0]]])
    >>> unflatten(np.arange(4.0), net)[0]
    array([[0., 1.]])
    """
    as_network(net)
    flat = as_float_array(vector, "vector", min_ndim=1)
    as_choice(order, "order", ("F", "C"))
    if flat.shape[-1] != net.n_parameters:
        fail("vector", f"length {net.n_parameters}", f"length {flat.shape[-1]}")
    shapes = [layer.shape[-2:] for layer in net.layers]
    pieces = np.split(flat, np.cumsum([m * n for m, n in shapes])[:-1], axis=-1)
    if order == "F":
        return tuple(unvec(p, s) for p, s in zip(pieces, shapes, strict=True))
    return tuple(p.reshape(*p.shape[:-1], *s) for p, s in zip(pieces, shapes, strict=True))


@representable("net, direction")
def induced_change(net: LinearNetwork, direction: Sequence[Array]) -> Array:
    """Return the change of the total weight that a direction induces to first order, Σ_i B_i δ_i A_i.

    Parameters
    ----------
    net : LinearNetwork
    direction : sequence of arrays like `net.layers`

    Returns
    -------
    array (…, n_L, n_0)
        One column wider with biases (the change of c comes last).

    Notes
    -----
    By forward propagation of (signal, change): at most 6 n³ flops per layer, nothing is stored.

    Examples
    --------
    >>> net = LinearNetwork([[[2.0]], [[3.0]]])
    >>> induced_change(net, [np.array([[1.0]]), np.array([[1.0]])])
    array([[5.]])
    """
    steps = as_direction(direction, as_network(net))
    batch = check_broadcast([net.batch_shape, *(step.shape[:-2] for step in steps)], "net and direction")
    signal, change = net.layers[0], np.array(np.broadcast_to(steps[0], (*batch, *steps[0].shape[-2:])))
    for i in range(1, net.depth):
        change = net.weights[i] @ change + steps[i][..., : net.widths[i]] @ signal
        signal = net.weights[i] @ signal
        if net.biases is not None:
            change[..., -1] += steps[i][..., -1]
            signal[..., -1] += net.biases[i]
    return change


def _as_weights(weights: Sequence[Any]) -> list[Array]:
    if isinstance(weights, np.ndarray) and weights.dtype != object and weights.ndim == 2:
        fail("weights", "a sequence of matrices", "one matrix", "For one layer write [W].")
    try:
        items = list(weights)
    except TypeError:
        fail("weights", "a sequence of matrices", type(weights).__name__)
    if not items:
        fail("weights", "at least one layer", "an empty sequence")
    checked = [as_matrix(w, f"weights[{i}]") for i, w in enumerate(items)]
    for i in range(1, len(checked)):
        below, above = checked[i - 1].shape[-2], checked[i].shape[-1]
        if below != above:
            fail(f"weights[{i}]", f"{below} columns, the width of layer {i}", f"shape {checked[i].shape}")
    return checked


def _as_biases(biases: Sequence[Any], weights: list[Array]) -> list[Array]:
    try:
        items = list(biases)
    except TypeError:
        fail("biases", "a sequence of vectors", type(biases).__name__)
    if len(items) != len(weights):
        fail("biases", f"{len(weights)} vectors, one per layer", f"{len(items)}")
    checked = [as_float_array(b, f"biases[{i}]", min_ndim=1) for i, b in enumerate(items)]
    for i, (b, w) in enumerate(zip(checked, weights, strict=True)):
        if b.shape[-1] != w.shape[-2]:
            fail(f"biases[{i}]", f"length {w.shape[-2]}", f"shape {b.shape}")
    return checked


def _settle(array: Array, batch: tuple[int, ...], core: int, dtype: np.dtype[Any]) -> Array:
    shaped = np.broadcast_to(array, (*batch, *array.shape[-core:]))
    return freeze(np.array(shaped, dtype=dtype, order="C"))


def _augment(layer: Array) -> Array:
    bottom = np.zeros((*layer.shape[:-2], 1, layer.shape[-1]), layer.dtype)
    bottom[..., -1] = 1
    return np.concatenate([layer, bottom], axis=-2)


def _pad_rows(matrix: Array, rows: int) -> Array:
    missing = rows - matrix.shape[-2]
    filler = np.zeros((*matrix.shape[:-2], missing, matrix.shape[-1]), matrix.dtype)
    return np.concatenate([matrix, filler], axis=-2)
