"""How does the output depend on the parameters? Jacobians by definition (statements G1, F1, X10).

A deep linear network is affine in each layer while the others are held. So the derivative with respect to
one entry of layer i is, without error, what the network does when that layer is replaced by the matrix with
a single one at that entry and the biases above it are zero: no step size, no cancellation, and none of the
products A_i, B_i of the closed forms.

Parameters are ordered W_1, …, W_L, each stacked by columns; with biases a layer is [W_i b_i], its last
column b_i.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from linnat._checks import Array, as_float_array, as_rows, fail
from linnat.exact.network import LinearNetwork, as_network

MEMORY_SHARE = 0.25
"""Share of the physical memory that one dense array may take."""

OPERATOR = "linnat.fisher_operator gives products with the Fisher matrix and forms nothing."


def parameters(net: LinearNetwork) -> Array:
    """Return the parameters as one vector: layers in order, each stacked by columns.

    Parameters
    ----------
    net : LinearNetwork
        A single one, without leading axes.

    Returns
    -------
    array (P,)
        In float64.

    Examples
    --------
    >>> parameters(LinearNetwork([[[1.0, 3.0], [2.0, 4.0]]], [[5.0, 6.0]]))
    array([1., 2., 3., 4., 5., 6.])
    """
    return np.concatenate([layer.flatten(order="F") for layer in _layers(net)])


def split(vector: Any, net: LinearNetwork) -> tuple[Array, ...]:
    """Undo `parameters`: one array per layer, [W_i b_i] with biases; stacks of vectors give stacks of arrays.

    Parameters
    ----------
    vector : array (…, P)
    net : LinearNetwork
        Gives the shapes.

    Returns
    -------
    tuple of arrays (…, n_i, n_{i-1}), one column wider with biases

    Raises
    ------
    InputError
        For a vector of another length.

    Examples
    --------
    >>> split([1.0, 2.0, 3.0, 4.0], LinearNetwork([[[0.0, 0.0]], [[0.0], [0.0]]]))[0]
    array([[1., 2.]])
    """
    flat = as_float_array(vector, "vector", min_ndim=1).astype(np.float64)
    shapes = [layer.shape for layer in _layers(net)]
    size = sum(rows * columns for rows, columns in shapes)
    if flat.shape[-1] != size:
        fail("vector", f"length {size}, the number of parameters", f"shape {flat.shape}")
    pieces, start = [], 0
    for rows, columns in shapes:
        block = flat[..., start : start + rows * columns].reshape(*flat.shape[:-1], columns, rows)
        pieces.append(np.swapaxes(block, -1, -2))
        start += rows * columns
    return tuple(pieces)


def with_parameters(net: LinearNetwork, vector: Any) -> LinearNetwork:
    """Return a network of the same kind with other parameters.

    Parameters
    ----------
    net : LinearNetwork
    vector : array (P,)

    Returns
    -------
    LinearNetwork

    Examples
    --------
    >>> net = LinearNetwork([[[1.0]], [[2.0]]])
    >>> with_parameters(net, [3.0, 4.0]).weights[1]
    array([[4.]])
    """
    layers = split(vector, net)
    if net.biases is None:
        return LinearNetwork(layers)
    return LinearNetwork([layer[..., :-1] for layer in layers], [layer[..., -1] for layer in layers])


def outputs(net: LinearNetwork, x: Any) -> Array:
    """Apply the network to rows of inputs, layer by layer.

    Parameters
    ----------
    net : LinearNetwork
    x : array (N, n_0)

    Returns
    -------
    array (N, n_L)

    Examples
    --------
    >>> outputs(LinearNetwork([[[2.0]], [[3.0]]], [[1.0], [10.0]]), [[0.0], [1.0]])
    array([[13.],
           [19.]])
    """
    return outputs_at(parameters(net), net, _inputs(net, x))


def outputs_at(vectors: Array, net: LinearNetwork, x: Array) -> Array:
    """Apply networks given by a stack of parameter vectors: (…, P) and (N, n_0) give (…, N, n_L)."""
    signal = x.T
    for layer in split(vectors, net):
        signal = layer @ signal if net.biases is None else layer[..., :-1] @ signal + layer[..., -1:]
    return np.swapaxes(signal, -1, -2)


def output_jacobian(net: LinearNetwork, x: Any) -> Array:
    """Return the derivative of every output with respect to every parameter.

    Parameters
    ----------
    net : LinearNetwork
        A single one, without leading axes.
    x : array (N, n_0)

    Returns
    -------
    array (N, n_L, P)

    Raises
    ------
    InputError
        If the array would take more than `MEMORY_SHARE` of the physical memory.

    Notes
    -----
    O(N P Σ_i n_i n_{i-1}) flops: every parameter is perturbed in turn.

    Examples
    --------
    >>> output_jacobian(LinearNetwork([[[2.0]], [[3.0]]]), [[5.0]])
    array([[[15., 10.]]])
    """
    rows = _inputs(net, x)
    layers = _layers(net)
    size = sum(layer.size for layer in layers)
    check_room((len(rows), net.widths[-1], size), "the Jacobian")
    columns, signal = [], rows.T
    for i, layer in enumerate(layers):
        if net.biases is not None:
            signal = np.concatenate([signal, np.ones((1, len(rows)))])
        change = _unit_matrices(*layer.shape) @ signal
        for weight in net.weights[i + 1 :]:
            change = weight.astype(np.float64) @ change
        columns.append(np.moveaxis(change, 0, -1))
        signal = layer @ signal
    return np.swapaxes(np.concatenate(columns, axis=-1), 0, 1)


def total(net: LinearNetwork) -> Array:
    """Return the total weight [W c] by applying the network to the unit vectors and to zero.

    Parameters
    ----------
    net : LinearNetwork

    Returns
    -------
    array (n_L, n_0), one column wider with biases

    Examples
    --------
    >>> total(LinearNetwork([[[2.0]], [[3.0]]], [[1.0], [10.0]]))
    array([[ 6., 13.]])
    """
    return _affine_part(outputs(net, _probes(net)), net)


def total_jacobian(net: LinearNetwork) -> Array:
    """Return the derivative of vec of the total weight, ∂ vec [W c] / ∂θ.

    Parameters
    ----------
    net : LinearNetwork

    Returns
    -------
    array (n_L n_0, P), n_L more rows with biases
        vec stacks columns.

    Examples
    --------
    >>> total_jacobian(LinearNetwork([[[2.0]], [[3.0]]]))
    array([[3., 2.]])
    """
    jacobian = output_jacobian(net, _probes(net))
    parts = np.stack([_affine_part(jacobian[..., a], net) for a in range(jacobian.shape[-1])], axis=-1)
    return parts.transpose(1, 0, 2).reshape(-1, parts.shape[-1])


def check_room(shape: Sequence[int], what: str, remedy: str = OPERATOR) -> None:
    """Refuse an array that would take more than `MEMORY_SHARE` of the memory, before it is allocated."""
    needed, available = 8 * math.prod(shape), _physical_memory()
    if needed > MEMORY_SHARE * available:
        sizes = " × ".join(str(n) for n in shape)
        limit = f"{MEMORY_SHARE:.0%} of {available / 2**30:.1f} GiB"
        fail("net", f"{what} within {limit}", f"{sizes} numbers, {needed / 2**30:.1f} GiB", remedy)


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return 8 * 2**30


def _layers(net: LinearNetwork) -> list[Array]:
    """Return [W_i b_i] in float64, built from the plain fields."""
    if as_network(net).weights[0].ndim != 2:
        found = f"leading axes {net.weights[0].shape[:-2]}"
        fail("net", "a single network", found, "Loop over them: the oracles are dense.")
    if net.biases is None:
        return [w.astype(np.float64) for w in net.weights]
    return [np.column_stack([w, b]).astype(np.float64) for w, b in zip(net.weights, net.biases, strict=True)]


def _probes(net: LinearNetwork) -> Array:
    """Return the unit vectors and zero as rows of inputs."""
    inputs = as_network(net).widths[0]
    return np.concatenate([np.eye(inputs), np.zeros((1, inputs))])


def _inputs(net: LinearNetwork, x: Any) -> Array:
    rows = as_rows(x, "x").astype(np.float64)
    if rows.shape[1] != as_network(net).widths[0]:
        fail("x", f"{net.widths[0]} columns, the input width", f"shape {rows.shape}")
    return rows


def _unit_matrices(rows: int, columns: int) -> Array:
    """Return the matrices with a single one, in the order of column stacking."""
    return np.eye(rows * columns).reshape(rows * columns, columns, rows).transpose(0, 2, 1)


def _affine_part(values: Array, net: LinearNetwork) -> Array:
    """Turn values at the unit vectors and at zero, (n_0 + 1, n_L), into [W c] (or W)."""
    linear = (values[:-1] - values[-1]).T
    return linear if net.biases is None else np.column_stack([linear, values[-1]])
