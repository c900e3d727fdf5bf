"""How do signals, errors and tangents run through a network? Forward, backward, and products without any P × P matrix.

A `Workspace` holds the buffers of one batch: outputs h_i of the layers and errors δ_i at their inputs. Every pass takes
one and allocates nothing beside it; a workspace belongs to one network, one number of rows and one dtype, and may be
used again and again. Large passes share rows, or parts of layers, among threads (`linnat.nonlinear._crew`). With
h̃ = (h, 1), layer i contributes Σ_n h̃_{i−1,n} δ_{i,n}ᵀ to every gradient: T-blocks of the parameter vector
(`Network.blocks`).

Sums are means over rows wherever a loss is meant: `gradient`, `fisher_product`, `gauss_newton_product`,
`hessian_product`; `pullback` and `vector_jacobian_product` are plain sums, the adjoint of `pushforward`. Products take
one direction (P,) or many with leading axes (…, P), in one pass for all. Cost in flops per row, with P parameters:
forward 2P, backward 2P, pullback 2P, pushforward 4P, Hessian product 12P.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np

from linnat._checks import Array, as_rows, fail
from linnat.nonlinear._crew import each, members, row_shares
from linnat.nonlinear._pieces import pulled_back
from linnat.nonlinear._rooms import room, side_by_side
from linnat.nonlinear.activations import activate, multiply_by_bend, multiply_by_slope
from linnat.nonlinear.network import Network


class Workspace:
    """Buffers of one batch.

    Parameters
    ----------
    net : Network
    rows : int
    dtype : float32 or float64

    Attributes
    ----------
    inputs : array (N, n_0)
        Of the last forward pass; not a copy.
    hidden : list of arrays (N, n_i), i = 1 … L
        Outputs of the layers; the last are the natural parameters of the family.
    errors : list of arrays (N, n_i), i = 1 … L
        Of the last backward pass: derivatives with respect to W_i h_{i−1} + b_i.
    gradient : array (P,)
        A buffer; furnished when it is first asked for.
    """

    def __init__(self, net: Network, rows: int, dtype: Any = np.float64) -> None:
        self.inputs: Array = np.zeros((0, net.widths[0]), dtype)
        shapes = [(rows, n) for n in net.widths[1:]]
        self.hidden: list[Array] = side_by_side(dtype, *shapes)
        self.errors: list[Array] = side_by_side(dtype, *shapes)
        self._size = net.n_parameters
        self._whole: Workspace | None = None

    @cached_property
    def gradient(self) -> Array:
        """A buffer (P,); of the whole."""
        return np.empty(self._size, self.dtype) if self._whole is None else self._whole.gradient

    @property
    def whole(self) -> Workspace:
        """Return the workspace of which this is a part, or itself."""
        return self if self._whole is None else self._whole

    def part(self, rows: slice) -> Workspace:
        """Return the workspace of some of the rows: views of this one's signals and errors, which it writes over."""
        piece = object.__new__(Workspace)
        piece._size, piece._whole = self._size, self.whole
        piece.inputs = self.inputs[rows]
        piece.hidden = [h[rows] for h in self.hidden]
        piece.errors = [e[rows] for e in self.errors]
        return piece

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return int(self.hidden[0].shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.hidden[0].dtype

    def back(self, net: Network, theta: Array) -> None:
        """Run the last errors, derivatives with respect to the outputs, back through the network, in place."""
        count = members(2.0 * self.rows * net.n_parameters)
        parts = [self.part(rows) for rows in row_shares(self.rows, count)] if count > 1 else [self]
        each([partial(run_back, net, theta, part) for part in parts], count)

    @property
    def outputs(self) -> Array:
        """Natural parameters (N, n_L) of the last forward pass."""
        return self.hidden[-1]

    @property
    def signals(self) -> list[Array]:
        """What enters the layers: h_0 … h_{L−1}."""
        return [self.inputs, *self.hidden[:-1]]

    def signal(self, layer: int) -> Array:
        """Return what enters a layer, 0 … L − 1."""
        return self.hidden[layer - 1] if layer else self.inputs


FEW = 200  # rows, at most half the width


def _through(weights: Array, errors: Array, out: Array) -> None:
    """Write δ Wᵀ. BLAS rearranges W for it, which costs time where rows are few; for W δᵀ it takes W as it lies."""
    if len(errors) > min(FEW, weights.shape[1] // 2):
        np.matmul(errors, weights.T, out=out)
        return
    (turned,) = room("turned", out.dtype, (len(weights), len(errors)))
    np.matmul(weights, errors.T, out=turned)
    out[...] = turned.T


def prepare(net: Network, parameters: object, x: object) -> tuple[Array, Workspace]:
    """Check parameters and inputs, and run the forward pass in a new workspace.

    Parameters
    ----------
    net : Network
    parameters : array (P,)
    x : array (N, n_0)

    Returns
    -------
    theta : array (P,)
    work : Workspace

    Raises
    ------
    InputError
        For wrong shapes, numbers that are not finite, or outputs that overflow.
    """
    theta = net.as_vector(parameters)
    if theta.ndim != 1:
        fail("parameters", "one vector", f"shape {theta.shape}")
    inputs = net.as_inputs(x, theta.dtype)
    work = Workspace(net, len(inputs), theta.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        forward(net, theta, inputs, work)
    if not np.isfinite(work.outputs).all():
        fail("parameters", "a network with finite outputs", "inf or NaN", "The weights are too large.")
    return theta, work


def forward(net: Network, theta: Array, x: Array, work: Workspace) -> Array:
    """Fill `work.hidden`; return the natural parameters (N, n_L), a view of the workspace.

    Nothing is checked: `prepare` does. `x` must have the rows and the dtype of the workspace.

    Examples
    --------
    >>> net = Network((2, 1), family="gaussian")
    >>> work = Workspace(net, 1)
    >>> forward(net, np.array([1.0, 2.0, 3.0]), np.array([[1.0, 1.0]]), work)
    array([[6.]])
    """
    count = members(2.0 * len(x) * net.n_parameters)
    if count == 1:
        return run_forward(net, theta, x, work)
    work.inputs = x
    parts = row_shares(len(x), count)
    each([partial(run_forward, net, theta, x[rows], work.part(rows)) for rows in parts], count)
    return work.outputs


def run_forward(net: Network, theta: Array, x: Array, work: Workspace) -> Array:
    """Do what `forward` does, in this thread."""
    work.inputs = signal = x
    for block, out, name in zip(net.blocks(theta), work.hidden, net.activations, strict=True):
        np.matmul(signal, block[:-1], out=out)
        activate(name, out, block[-1])
        signal = out
    return signal


def run_back(
    net: Network, theta: Array, work: Workspace, told: Callable[[int], None] = lambda layer: None
) -> None:
    """Do what `Workspace.back` does, in this thread.

    `told(i)` is called when the errors of layer i = L − 1 … 0 are there.
    """
    blocks = net.blocks(theta)
    for i in range(net.depth - 1, -1, -1):
        if i < net.depth - 1:
            _through(blocks[i + 1][:-1], work.errors[i + 1], work.errors[i])
        multiply_by_slope(net.activations[i], work.hidden[i], work.errors[i])
        told(i)


def backward(net: Network, theta: Array, work: Workspace, cotangents: Array) -> None:
    """Fill `work.errors` from derivatives (N, n_L) with respect to the outputs; needs the forward pass of `theta`."""
    work.errors[-1][...] = cotangents
    work.back(net, theta)


def pullback(net: Network, work: Workspace, out: Array | None = None) -> Array:
    """Return Σ_n J_nᵀ c_n, shape (P,), after `backward` with the cotangents c_n."""
    out = np.empty(net.n_parameters, work.dtype) if out is None else out
    pulled_back(net, work, out)
    return out


def vector_jacobian_product(net: Network, theta: Array, work: Workspace, cotangents: Array) -> Array:
    """Return Σ_n J_nᵀ c_n of cotangents (…, N, n_L), shape (…, P); needs the forward pass.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> theta, work = prepare(net, [2.0, 0.0], [[1.0], [3.0]])
    >>> vector_jacobian_product(net, theta, work, np.array([[[1.0], [0.0]], [[1.0], [1.0]]]))
    array([[1., 1.],
           [4., 2.]])
    """
    last = np.array(cotangents, dtype=work.dtype)
    _slope(net.activations[-1], work.outputs, last)
    return _gathered(net, work, _errors_from(net, theta, work, last))


def pushforward(net: Network, theta: Array, work: Workspace, direction: Array) -> Array:
    """Return the derivative J_n d of the outputs along directions (…, P), shape (…, N, n_L); needs the forward pass."""
    return _tangents(net, theta, work, direction)[-1]


def _tangents(
    net: Network, theta: Array, work: Workspace, direction: Array, before_unit: list[Array] | None = None
) -> list[Array]:
    """Return the derivatives of all h_i, and into `before_unit` those of what enters the units."""
    tangents: list[Array] = []
    moved: Array | None = None
    sides = zip(
        net.blocks(theta), net.blocks(direction), work.signals, work.hidden, net.activations, strict=True
    )
    for block, change, signal, output, name in sides:
        step = signal @ change[..., :-1, :]
        step += change[..., -1:, :]
        if moved is not None:
            step += moved @ block[:-1]
        if before_unit is not None:
            before_unit.append(step.copy())
        _slope(name, output, step)
        tangents.append(step)
        moved = step
    return tangents


def _slope(name: str, output: Array, out: Array) -> None:
    """Multiply (…, N, n) by φ' of outputs (N, n)."""
    for part in out.reshape(-1, *output.shape):
        multiply_by_slope(name, output, part)


def _bend(name: str, output: Array, out: Array) -> None:
    for part in out.reshape(-1, *output.shape):
        multiply_by_bend(name, output, part)


def _errors_from(net: Network, theta: Array, work: Workspace, last: Array) -> list[Array]:
    """Return errors at the inputs of all layers from those (…, N, n_L) of the last; one set is in the workspace."""
    errors = [*work.errors[:-1], last]
    for i in range(net.depth - 2, -1, -1):
        out = errors[i] if last.ndim == 2 else None
        errors[i] = np.matmul(errors[i + 1], net.blocks(theta)[i + 1][:-1].T, out=out)
        _slope(net.activations[i], work.hidden[i], errors[i])
    return errors


def _gathered(net: Network, work: Workspace, errors: list[Array]) -> Array:
    """Return Σ_n h̃_{i−1} δ_iᵀ of errors (…, N, n_i), shape (…, P)."""
    out = np.empty((*errors[-1].shape[:-2], net.n_parameters), work.dtype)
    for block, signal, error in zip(net.blocks(out), work.signals, errors, strict=True):
        np.matmul(signal.T, error, out=block[..., :-1, :])
        np.add.reduce(error, axis=-2, out=block[..., -1, :])
    return out


def loss(net: Network, parameters: object, x: object, y: object) -> float:
    """Return the mean negative log-likelihood of targets (N, n_L), as the family defines it.

    Parameters
    ----------
    net : Network
    parameters : array (P,)
    x : array (N, n_0)
    y : array (N, n_L)

    Raises
    ------
    InputError
        For wrong shapes, numbers that are not finite, targets outside of the family's range.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> loss(net, [2.0, 0.0], [[1.0], [2.0]], [[2.0], [3.0]])
    0.25
    """
    _, work = prepare(net, parameters, x)
    return float(np.mean(net.family.loss(work.outputs, as_targets(net, y, work))))


def as_targets(net: Network, y: object, work: Workspace) -> Array:
    """Return checked targets (N, n_L) in the workspace's dtype."""
    rows = as_rows(y, "y")
    if rows.shape != work.outputs.shape:
        fail("y", f"shape {work.outputs.shape}", f"shape {rows.shape}")
    return net.family.targets(rows).astype(work.dtype, copy=False)


def gradient(net: Network, parameters: object, x: object, y: object) -> tuple[float, Array]:
    """Return the mean loss and its gradient (P,).

    Raises
    ------
    InputError
        As `loss`.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> gradient(net, [2.0, 0.0], [[1.0], [2.0]], [[2.0], [3.0]])
    (0.25, array([1. , 0.5]))
    """
    theta, work = prepare(net, parameters, x)
    targets = as_targets(net, y, work)
    value = float(np.mean(net.family.loss(work.outputs, targets)))
    backward(net, theta, work, net.family.score(work.outputs, targets) / -work.rows)
    return value, pullback(net, work)


def fisher_product(net: Network, theta: Array, work: Workspace, direction: Array) -> Array:
    """Return F d, (…, P), F = mean_n J_nᵀ F_n J_n with the family's Fisher information F_n of its outputs."""
    if direction.ndim == 1:

        def rows_back(rows: slice) -> None:
            part = work.part(rows)
            bent = net.family.fisher_product(part.outputs, pushforward(net, theta, part, direction))
            bent /= work.rows
            backward(net, theta, part, bent)

        count = members(6.0 * work.rows * net.n_parameters)
        each([partial(rows_back, rows) for rows in row_shares(work.rows, count)], count)
        return pullback(net, work)
    return _mean_of_shares(
        lambda rows: _fisher_products(net, theta, work.part(rows), direction), work, direction
    )


def _fisher_products(net: Network, theta: Array, work: Workspace, direction: Array) -> Array:
    moved = net.family.fisher_product(work.outputs, pushforward(net, theta, work, direction))
    moved /= work.rows
    _slope(net.activations[-1], work.outputs, moved)
    return _gathered(net, work, _errors_from(net, theta, work, moved))


def gauss_newton_product(
    net: Network, theta: Array, work: Workspace, targets: Array, direction: Array
) -> Array:
    """Return G d, (…, P): the loss is bent in what enters the output units, the network below is not.

    With an identity output unit the link is canonical and G = F, whatever the targets; otherwise the output unit's own
    curvature enters with the residual.
    """
    return _mean_of_shares(
        lambda rows: _gauss_newton_product(net, theta, work.part(rows), targets[rows], direction),
        work,
        direction,
    )


def hessian_product(net: Network, theta: Array, work: Workspace, targets: Array, direction: Array) -> Array:
    """Return H d of the mean loss, (…, P), exactly: Pearlmutter's (1994) R-operator on forward and backward pass."""
    return _mean_of_shares(
        lambda rows: _hessian_product(net, theta, work.part(rows), targets[rows], direction), work, direction
    )


def _mean_of_shares(product: Callable[[slice], Array], work: Workspace, direction: Array) -> Array:
    """Return a product that is a mean over rows, from those of parts of the rows."""
    cost = 8.0 * work.rows * direction.size  # flops, at least
    parts = row_shares(work.rows, members(cost))
    total, *others = each([partial(product, part) for part in parts], len(parts))
    if not others:
        return total
    total *= (parts[0].stop - parts[0].start) / work.rows
    for part, other in zip(parts[1:], others, strict=True):
        other *= (part.stop - part.start) / work.rows
        total += other
    return total


def _gauss_newton_product(
    net: Network, theta: Array, work: Workspace, targets: Array, direction: Array
) -> Array:
    before: list[Array] = []
    tangents = _tangents(net, theta, work, direction, before)
    output, name = work.outputs, net.activations[-1]
    through = net.family.fisher_product(output, tangents[-1])
    _slope(name, output, through)
    bent = -net.family.score(output, targets) * before[-1]
    _bend(name, output, bent)
    return _gathered(net, work, _errors_from(net, theta, work, (through + bent) / work.rows))


def _hessian_product(net: Network, theta: Array, work: Workspace, targets: Array, direction: Array) -> Array:
    blocks, changes = net.blocks(theta), net.blocks(direction)
    before: list[Array] = []
    tangents = _tangents(net, theta, work, direction, before)
    out = np.empty_like(direction)
    # Derivatives with respect to the output of layer i, and their change along the direction.
    outer = net.family.score(work.outputs, targets) / -work.rows
    moved = net.family.fisher_product(work.outputs, tangents[-1]) / work.rows
    signals, moving = work.signals, [None, *tangents[:-1]]
    for i in range(net.depth - 1, -1, -1):
        name, output = net.activations[i], work.hidden[i]
        bent = outer * before[i]
        _bend(name, output, bent)
        _slope(name, output, moved)
        moved += bent
        multiply_by_slope(name, output, outer)
        part, tangent = net.blocks(out)[i], moving[i]
        np.matmul(signals[i].T, moved, out=part[..., :-1, :])
        if tangent is not None:
            part[..., :-1, :] += np.swapaxes(tangent, -1, -2) @ outer
        np.add.reduce(moved, axis=-2, out=part[..., -1, :])
        if i > 0:
            moved = moved @ blocks[i][:-1].T
            moved += outer @ np.swapaxes(changes[i][..., :-1, :], -1, -2)
            outer = outer @ blocks[i][:-1].T
    return out


def row_gradients(net: Network, work: Workspace) -> Array:
    """Return J_nᵀ c_n of every row, shape (N, P), after `backward` with the cotangents c_n."""
    out = np.empty((work.rows, net.n_parameters), work.dtype)
    for block, signal, error in zip(net.blocks(out), work.signals, work.errors, strict=True):
        np.multiply(signal[:, :, None], error[:, None, :], out=block[:, :-1])
        block[:, -1] = error
    return out


def jacobian(net: Network, parameters: object, x: object) -> Array:
    """Return the derivatives of the natural parameters of every row, shape (N, n_L, P).

    One backward pass for each output; N n_L P numbers, for small networks.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> jacobian(net, [2.0, 0.0], [[1.0], [3.0]])
    array([[[1., 1.]],
    <BLANKLINE>
           [[3., 1.]]])
    """
    theta, work = prepare(net, parameters, x)
    out = np.empty((work.rows, net.widths[-1], net.n_parameters), work.dtype)
    for k in range(net.widths[-1]):
        unit = np.zeros_like(work.outputs)
        unit[:, k] = 1.0
        backward(net, theta, work, unit)
        out[:, k] = row_gradients(net, work)
    return out
