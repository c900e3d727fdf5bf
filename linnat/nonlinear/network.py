"""What is a multilayer network? An architecture; its parameters are one vector, in the order of the whole package.

Layer i maps h ↦ φ_i(W_i h + b_i). The parameters of layer i are [W_i b_i], n_i × (n_{i−1} + 1), flattened by columns
(`linnat.flatten` for networks with biases does the same), layers in order. Its memory is therefore a C-ordered array
T_i = [W_i b_i]ᵀ: its first n_{i−1} rows multiply the rows of the data, its last row is the bias. `blocks` returns
views, nothing is ever copied or transposed. The last layer's outputs are the natural parameters of the family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from linnat._checks import Array, as_count, as_float_array, as_matrix, as_rows, fail
from linnat.families import Family, as_family
from linnat.nonlinear.activations import as_activation


@dataclass(frozen=True, init=False)
class Network:
    """An architecture: widths, activations, output family. Parameters are vectors θ of length `n_parameters`.

    Parameters
    ----------
    widths : sequence of int
        (n_0, …, n_L).
    activations : str or sequence of str
        "identity", "tanh", "logistic", "relu" or "softplus": of the hidden layers, where one name stands for all; a
        sequence of L names gives the output layer's too, which otherwise is "identity". With another output unit the
        link is not canonical: the Gauss–Newton matrix is not the Fisher matrix (statement O4).
    family : str or Family
        "gaussian", "bernoulli", "categorical" or "poisson": the distribution of y given the natural parameters.

    Attributes
    ----------
    widths : tuple of int
    activations : tuple of str
        One for each layer.
    family : Family

    Raises
    ------
    InputError
        For fewer than two widths, unknown activations or families, or a wrong number of activations.

    Examples
    --------
    >>> net = Network((3, 5, 2), "tanh", "bernoulli")
    >>> net.depth, net.n_parameters, net.activations
    (2, 32, ('tanh', 'identity'))
    """

    widths: tuple[int, ...]
    activations: tuple[str, ...]
    family: Family = field(repr=False)

    def __init__(
        self,
        widths: Sequence[int],
        activations: str | Sequence[str] = "tanh",
        family: str | Family = "gaussian",
    ) -> None:
        if isinstance(widths, str) or not isinstance(widths, Sequence) or len(widths) < 2:
            fail("widths", "a sequence of at least two positive integers", repr(widths))
        object.__setattr__(self, "widths", tuple(as_count(n, "widths") for n in widths))
        object.__setattr__(self, "activations", _as_activations(activations, len(widths) - 1))
        object.__setattr__(self, "family", as_family(family))

    @property
    def depth(self) -> int:
        """Number of layers L."""
        return len(self.widths) - 1

    @cached_property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The shape n_i × (n_{i−1} + 1) of each [W_i b_i]."""
        return tuple((n, m + 1) for m, n in pairwise(self.widths))

    @cached_property
    def n_parameters(self) -> int:
        """P = Σ_i n_i (n_{i−1} + 1)."""
        return sum(rows * columns for rows, columns in self.shapes)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where each layer's parameters lie in the vector."""
        ends = np.cumsum([0, *(rows * columns for rows, columns in self.shapes)])
        return tuple(slice(int(a), int(b)) for a, b in pairwise(ends))

    @cached_property
    def _places(self) -> tuple[tuple[slice, tuple[int, int]], ...]:
        return tuple((part, shape[::-1]) for part, shape in zip(self.slices, self.shapes, strict=True))

    def blocks(self, vector: Array) -> tuple[Array, ...]:
        """Return views T_i = [W_i b_i]ᵀ (…, n_{i−1} + 1, n_i) of a vector (…, P), C-ordered in its last two axes."""
        if vector.ndim == 1:  # in every step
            return tuple([vector[part].reshape(shape) for part, shape in self._places])
        return tuple(vector[..., part].reshape(*vector.shape[:-1], *shape) for part, shape in self._places)

    def layers(self, vector: Array) -> tuple[Array, ...]:
        """Return views [W_i b_i] (…, n_i, n_{i−1} + 1) of a vector (…, P).

        Examples
        --------
        >>> net = Network((1, 2), family="gaussian")
        >>> net.layers(np.arange(4.0))[0]
        array([[0., 2.],
               [1., 3.]])
        """
        return tuple(np.swapaxes(block, -1, -2) for block in self.blocks(self.as_vector(vector)))

    def vector(self, layers: Sequence[Any]) -> Array:
        """Return the parameter vector of layers [W_i b_i].

        Parameters
        ----------
        layers : sequence of L arrays (n_i, n_{i−1} + 1)

        Raises
        ------
        InputError
            For another number of layers or other shapes.
        """
        if len(layers) != self.depth:
            fail("layers", f"{self.depth} arrays", len(layers))
        checked = [as_matrix(layer, f"layers[{i}]") for i, layer in enumerate(layers)]
        for i, (layer, shape) in enumerate(zip(checked, self.shapes, strict=True)):
            if layer.shape != shape:
                fail(f"layers[{i}]", f"shape {shape}", f"shape {layer.shape}")
        return np.concatenate([layer.T.ravel() for layer in checked])

    def as_vector(self, value: object, name: str = "parameters") -> Array:
        """Return a checked parameter vector (…, P): finite, float32 or float64, C-ordered."""
        vector = as_float_array(value, name, min_ndim=1)
        if vector.shape[-1] != self.n_parameters:
            fail(name, f"{self.n_parameters} numbers for widths {self.widths}", f"shape {vector.shape}")
        return np.ascontiguousarray(vector)

    def as_inputs(self, x: object, dtype: np.dtype[Any]) -> Array:
        """Return checked inputs (N, n_0) in the dtype of the parameters."""
        rows = as_rows(x, "x")
        if rows.shape[1] != self.widths[0]:
            fail("x", f"{self.widths[0]} columns", f"shape {rows.shape}")
        return np.ascontiguousarray(rows, dtype=dtype)


def _as_activations(value: object, depth: int) -> tuple[str, ...]:
    if isinstance(value, str):
        return (*(depth - 1) * (as_activation(value),), "identity")
    if not isinstance(value, Sequence) or len(value) not in (depth - 1, depth):
        fail("activations", f"one name, or {depth - 1} (hidden layers) or {depth} (all) names", repr(value))
    names = tuple(as_activation(name) for name in value)
    return names if len(names) == depth else (*names, "identity")
