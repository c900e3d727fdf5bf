"""What is the natural gradient of a deep linear convolutional network? One staircase per frequency. Statement X7.

Layer i maps C_{i−1} channels of n positions on a circle to C_i channels, y_c(p) = Σ_d Σ_q w_i[c, d, q] x_d(p − q);
input and noise are white. The discrete Fourier transform makes of every layer n blocks ŵ_i(k) of C_i × C_{i−1} numbers,
of which those at k and −k are conjugate. With kernels of full length the blocks are free, so that N2, C1, C2, C3 and D1
hold at every frequency by itself, in both gauges. Complex blocks X + iY are computed as real ones, [X −Y; Y X]:
products, adjoints, pseudo-inverses and principal powers go along.

Kernels of finite support are another model: `finite_natural_gradient`. For one channel and polynomials w_i(z) without
common roots the total kernel still moves on a straight line; it ends where two layers first share a root.

Loss: excess_loss = n/2 ‖w* − w‖² = ½ Σ_k ‖ŵ*(k) − ŵ(k)‖², the mean over x ~ N(0, I), unit noise, all positions summed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from linnat._checks import (
    Array,
    ConditionError,
    as_choice,
    as_float_array,
    as_scalar,
    as_times,
    check_broadcast,
    fail,
    representable,
)
from linnat.exact import descent, flow, natural
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task

__all__ = [
    "breakdown_time",
    "excess_loss",
    "finite_change",
    "finite_natural_gradient",
    "natural_gradient",
    "natural_step",
    "natural_total",
    "natural_total_step",
    "natural_weights",
    "ratio",
    "total",
]

Kernels = tuple[Array, ...]


class _Blocks(NamedTuple):
    """The frequencies 0 … n/2 of a network: the real ones, and the complex ones as real matrices.

    Attributes
    ----------
    parts : tuple of (places, network, task)
        Networks with leading axes (…, number of places).
    size : int
        n.
    dtype : float32 or float64
    batch : tuple of int
    """

    parts: tuple[tuple[list[int], LinearNetwork, Task], ...]
    size: int
    dtype: np.dtype[Any]
    batch: tuple[int, ...]


@representable("kernels")
def total(kernels: Sequence[Any]) -> Array:
    """Return the total kernel, the circular convolution of all layers.

    Parameters
    ----------
    kernels : sequence of arrays (…, C_i, C_{i−1}, n), i = 1 … L

    Returns
    -------
    array (…, C_L, C_0, n)

    Examples
    --------
    >>> total([[[[1.0, 2.0, 0.0]]], [[[3.0, 1.0, 0.0]]]]).round(12)
    array([[[3., 7., 2.]]])
    """
    layers = _as_kernels(kernels)
    return _inverse(_product([_transform(w) for w in layers]), layers[0].shape[-1])


@representable("kernels, target")
def excess_loss(kernels: Sequence[Any], target: Any) -> Array:
    """Return the excess loss n/2 ‖w* − w‖².

    Parameters
    ----------
    kernels : sequence of arrays (…, C_i, C_{i−1}, n)
    target : array (…, C_L, C_0, n)
        w*.

    Returns
    -------
    array (…)

    Examples
    --------
    >>> float(excess_loss([[[[1.0, 0.0]]]], [[[0.0, 0.0]]]))
    1.0
    """
    layers, goal = _as_problem(kernels, target)
    gap = goal - total(layers)
    return cast(Array, 0.5 * gap.shape[-1] * (gap**2).sum(axis=(-1, -2, -3)))


@representable("kernels, target")
def natural_gradient(kernels: Sequence[Any], target: Any, gauge: str = "layerwise") -> Kernels:
    """Return a solution u of F u = ∇ℓ, F the Fisher matrix of the kernels (X7).

    Parameters
    ----------
    kernels : sequence of arrays (…, C_i, C_{i−1}, n)
        Of full length n.
    target : array (…, C_L, C_0, n)
    gauge : "layerwise" or "minimum-norm"
        See `linnat.natural_gradient`: N2 and N3 at every frequency.

    Returns
    -------
    tuple of arrays like `kernels`
        An ascent direction.

    Warns
    -----
    RankWarning
        Where a rank is undetermined at some frequency.

    Notes
    -----
    n/2 natural gradients of blocks of 2 C_i × 2 C_{i−1}: O(L n C³ + L C² n log n) flops, where the dense Fisher matrix
    takes O((L C² n)³). Source: new.

    Examples
    --------
    >>> kernels = [np.array([[[2.0, 0.0]]]), np.array([[[1.0, 0.0]]])]
    >>> [u.ravel() for u in natural_gradient(kernels, [[[3.0, 0.0]]])]
    [array([-0.5,  0. ]), array([-0.25,  0.  ])]
    """
    layers, goal = _as_problem(kernels, target)
    as_choice(gauge, "gauge", natural.GAUGES)
    return _each(_blocks(layers, goal), lambda net, task: natural.natural_gradient(net, task, gauge))


@representable("kernels, target")
def natural_total(kernels: Sequence[Any], target: Any, times: Any) -> Array:
    """Return the total kernel under natural gradient flow in the layerwise gauge, w* + e^{-t}(w(0) − w*) (C1, X7).

    Parameters
    ----------
    kernels : sequence of arrays (…, C_i, C_{i−1}, n)
    target : array (…, C_L, C_0, n)
    times : array (T,) or float

    Returns
    -------
    array (…, T, C_L, C_0, n)

    Raises
    ------
    FlowBreakdownError
        At and past `breakdown_time`.
    ConditionError
        Where (J) fails at some frequency (X2).

    Examples
    --------
    >>> natural_total([[[[1.0, 0.0]]]], [[[3.0, 2.0]]], np.log(2)).round(12)
    array([[[[2., 1.]]]])
    """
    layers, goal = _as_problem(kernels, target)
    moments = as_times(times)
    blocks = _blocks(layers, goal)
    spectra = _each(blocks, lambda net, task: (flow.natural_total(net, task, moments),), axes=1)
    return spectra[0]


@representable("kernels, target")
def natural_weights(kernels: Sequence[Any], target: Any, times: Any) -> Kernels:
    """Return every kernel under natural gradient flow in the layerwise gauge (C2 at every frequency, X7).

    Parameters
    ----------
    kernels : sequence of arrays (…, C, C, n)
        Blocks ŵ_i(k) that are invertible; all layers of C channels.
    target : array (…, C, C, n)
    times : array (T,) or float

    Returns
    -------
    tuple of arrays (…, T, C, C, n)
        For one channel ŵ_i(t) = ŵ_i(0) (e^{-t} + (1 − e^{-t}) ŵ*/ŵ(0))^{1/L}, principal power.

    Raises
    ------
    FlowBreakdownError
        At and past `breakdown_time`.
    ConditionError
        For other shapes, or singular blocks.

    Examples
    --------
    >>> kernels = [np.array([[[1.0, 0.0]]]), np.array([[[1.0, 0.0]]])]
    >>> natural_weights(kernels, [[[7.0, 0.0]]], np.log(2))[0].round(12)
    array([[[[2., 0.]]]])
    """
    layers, goal = _as_problem(kernels, target)
    moments = as_times(times)
    return _each(_blocks(layers, goal), lambda net, task: flow.natural_weights(net, task, moments), axes=1)


@representable("kernels, target")
def ratio(kernels: Sequence[Any], target: Any) -> Array:
    """Return ŵ*(k)/ŵ(k) of a network of one channel, k = 0 … n − 1 (X7).

    Parameters
    ----------
    kernels : sequence of arrays (…, 1, 1, n)
    target : array (…, 1, 1, n)

    Returns
    -------
    complex array (…, n)
        The layerwise flow of two and more layers breaks at log(1 + 1/|g|) for every real g < 0 among them. Real at
        k = 0 and, for even n, n/2; elsewhere generically not.

    Raises
    ------
    ConditionError
        For more channels, and where ŵ(k) = 0.

    Examples
    --------
    >>> ratio([[[[1.0, 0.0]]]], [[[2.0, 3.0]]])
    array([ 5.+0.j, -1.+0.j])
    """
    layers, goal = _as_problem(kernels, target)
    if any(w.shape[-3:-1] != (1, 1) for w in layers):
        raise ConditionError("kernels: ŵ*/ŵ is a number for one channel only; see breakdown_time (X7).")
    start = np.prod(np.stack([np.fft.fft(w[..., 0, 0, :]) for w in layers]), axis=0)
    if (start == 0).any():
        raise ConditionError("kernels: ŵ(k) is 0 at some frequency, where the flow of X7 does not exist.")
    return cast(Array, np.fft.fft(goal[..., 0, 0, :]) / start)


@representable("kernels, target", inf=True)
def breakdown_time(kernels: Sequence[Any], target: Any) -> Array:
    """Return the earliest time at which the layerwise flow meets a singular block at some frequency (C3, X7).

    Parameters
    ----------
    kernels : sequence of arrays (…, C_i, C_{i−1}, n)
    target : array (…, C_L, C_0, n)

    Returns
    -------
    array (…)
        Infinite if none does, and for one layer.

    Raises
    ------
    ConditionError
        Where (J) fails at the start (X2).

    Examples
    --------
    >>> kernels = [np.array([[[1.0, 0.0]]]), np.array([[[1.0, 0.0]]])]
    >>> float(np.exp(breakdown_time(kernels, [[[2.0, 3.0]]])).round(12))
    2.0
    """
    layers, goal = _as_problem(kernels, target)
    blocks = _blocks(layers, goal)
    ends = [flow.breakdown_time(net, task).min(axis=-1) for _, net, task in blocks.parts]
    return np.asarray(np.min(np.stack([np.broadcast_to(e, blocks.batch) for e in ends]), axis=0))


@representable("kernels, target")
def natural_step(kernels: Sequence[Any], target: Any, eta: Any) -> Kernels:
    """Return the kernels after one natural gradient step, w_i − η u_i, in the layerwise gauge (D1, X7).

    Parameters
    ----------
    kernels : sequence of arrays (…, C_i, C_{i−1}, n)
    target : array (…, C_L, C_0, n)
    eta : float
        η > 0.

    Returns
    -------
    tuple of arrays like `kernels`

    Examples
    --------
    >>> kernels = [np.array([[[1.0, 0.0]]]), np.array([[[1.0, 0.0]]])]
    >>> total(natural_step(kernels, [[[3.0, 0.0]]], 1.0)).round(12)
    array([[[4., 0.]]])
    """
    step = as_scalar(eta, "eta", low=0.0, open_low=True)
    layers, goal = _as_problem(kernels, target)
    moved = natural_gradient(layers, goal)
    return tuple(w - w.dtype.type(step) * u for w, u in zip(layers, moved, strict=True))


@representable("kernels, target")
def natural_total_step(kernels: Sequence[Any], target: Any, eta: Any) -> Array:
    """Return the total kernel after one step by the exact map, ŵ⁺ = ŵ [I + (η/L)(ŵ⁻¹ŵ* − I)]^L (D1, X7).

    Parameters
    ----------
    kernels : sequence of arrays (…, C, C, n)
        Blocks that are invertible.
    target : array (…, C, C, n)
    eta : float
        η > 0.

    Returns
    -------
    array (…, C, C, n)

    Examples
    --------
    >>> kernels = [np.array([[[1.0, 0.0]]]), np.array([[[1.0, 0.0]]])]
    >>> natural_total_step(kernels, [[[3.0, 0.0]]], 1.0).round(12)
    array([[[4., 0.]]])
    """
    step = as_scalar(eta, "eta", low=0.0, open_low=True)
    layers, goal = _as_problem(kernels, target)
    blocks = _blocks(layers, goal)
    return _each(blocks, lambda net, task: (descent.natural_total_step(net, task, step),))[0]


@representable("kernels, target")
def finite_natural_gradient(kernels: Sequence[Any], target: Any, rtol: float | None = None) -> Kernels:
    """Return the natural gradient for kernels of finite support, in the minimum-norm gauge (X7).

    Parameters
    ----------
    kernels : sequence of arrays (C_i, C_{i−1}, m_i)
        The first m_i ≤ n entries of kernels that are zero beyond.
    target : array (C_L, C_0, n)
    rtol : float, optional
        Singular values of the Jacobian below rtol times the largest count as zero; its longer side × eps by default.

    Returns
    -------
    tuple of arrays like `kernels`
        An ascent direction.

    Notes
    -----
    An SVD of the Jacobian of the total kernel, (C_L C_0 n) × Σ C_i C_{i−1} m_i, which is a stack of shifted kernels.

    Examples
    --------
    >>> kernels = [np.array([[[1.0, 2.0]]]), np.array([[[1.0, -1.0]]])]
    >>> u = finite_natural_gradient(kernels, [[[1.0, 1.0, -2.0, 0.0]]])
    >>> float(max(np.abs(k).max() for k in u).round(12))
    0.0
    """
    layers, goal, jacobian, dtype = _finite(kernels, target)
    left, values, right, keep = _cut(jacobian, rtol)
    error = (goal - _padded_total(layers, goal.shape[-1])).ravel()
    vector = -right[keep].T @ ((left[:, keep].T @ error) / values[keep])
    ends = np.cumsum([w.size for w in layers])[:-1]
    return tuple(
        p.reshape(w.shape).astype(dtype) for p, w in zip(np.split(vector, ends), layers, strict=True)
    )


@representable("kernels, target")
def finite_change(kernels: Sequence[Any], target: Any, rtol: float | None = None) -> Array:
    """Return dw/dt, the change of the total kernel under the natural flow of kernels of finite support (X7).

    Parameters
    ----------
    kernels, target, rtol
        As in `finite_natural_gradient`.

    Returns
    -------
    array (C_L, C_0, n)
        The orthogonal projection of w* − w on what the kernels can express. For one channel, polynomials w_i(z) without
        common roots and Σ (m_i − 1) < n that is w* − w itself on the support of w: C1 towards the truncated target.

    Examples
    --------
    >>> kernels = [np.array([[[1.0, 2.0]]]), np.array([[[1.0, -1.0]]])]
    >>> finite_change(kernels, [[[2.0, 1.0, -2.0, 5.0]]]).round(12) + 0.0
    array([[[1., 0., 0., 0.]]])
    """
    layers, goal, jacobian, dtype = _finite(kernels, target)
    left, _, _, keep = _cut(jacobian, rtol)
    error = (goal - _padded_total(layers, goal.shape[-1])).ravel()
    return cast(Array, (left[:, keep] @ (left[:, keep].T @ error)).reshape(goal.shape).astype(dtype))


def _blocks(layers: Kernels, goal: Array) -> _Blocks:
    size = goal.shape[-1]
    dtype = np.result_type(*layers)
    batch = check_broadcast([w.shape[:-3] for w in (*layers, goal)], "kernels, target")
    spectra = [
        np.broadcast_to(_transform(w), (*batch, size // 2 + 1, *w.shape[-3:-1])) for w in (*layers, goal)
    ]
    real = [0, size // 2] if size % 2 == 0 else [0]
    rest = [k for k in range(size // 2 + 1) if k not in real]
    parts = []
    for places, embed in ((real, np.real), (rest, _embed)):
        if places:
            *weights, teacher = (embed(s[..., places, :, :]) for s in spectra)
            parts.append((places, LinearNetwork([w.astype(dtype) for w in weights]), Task(teacher)))
    return _Blocks(tuple(parts), size, dtype, batch)


def _each(
    blocks: _Blocks, function: Callable[[LinearNetwork, Task], Sequence[Array]], axes: int = 0
) -> Kernels:
    """Apply a function to the blocks of all frequencies; `axes` counts axes between them and the matrices."""
    collected: list[Array] = []
    half = blocks.size // 2 + 1
    for number, (places, net, task) in enumerate(blocks.parts):
        embedded = places[0] != 0
        for i, result in enumerate(function(net, task)):
            value = _extract(result) if embedded else result
            value = np.moveaxis(value, -3 - axes, 0)
            if number == 0:
                collected.append(np.zeros((half, *value.shape[1:]), np.result_type(value, 1j)))
            collected[i][places] = value
    return tuple(_inverse(np.moveaxis(c, 0, -3), blocks.size).astype(blocks.dtype) for c in collected)


def _embed(matrix: Array) -> Array:
    """Return [X −Y; Y X] for X + iY."""
    x, y = matrix.real, matrix.imag
    return np.concatenate([np.concatenate([x, -y], axis=-1), np.concatenate([y, x], axis=-1)], axis=-2)


def _extract(matrix: Array) -> Array:
    """Undo `_embed`, with the mean of both copies."""
    rows, columns = matrix.shape[-2] // 2, matrix.shape[-1] // 2
    x = 0.5 * (matrix[..., :rows, :columns] + matrix[..., rows:, columns:])
    y = 0.5 * (matrix[..., rows:, :columns] - matrix[..., :rows, columns:])
    return cast(Array, x + 1j * y)


def _transform(kernel: Array, size: int | None = None) -> Array:
    """Return ŵ(k), (…, n//2 + 1, C, C'), from kernels (…, C, C', n)."""
    return cast(Array, np.moveaxis(np.fft.rfft(kernel, size), -1, -3))


def _inverse(spectrum: Array, size: int) -> Array:
    """Return kernels (…, C, C', n) from half spectra (…, n//2 + 1, C, C')."""
    return cast(Array, np.fft.irfft(np.moveaxis(spectrum, -3, -1), size))


def _product(spectra: Sequence[Array]) -> Array:
    result = spectra[0]
    for spectrum in spectra[1:]:
        result = spectrum @ result
    return result


def _padded_total(layers: Kernels, size: int) -> Array:
    return _inverse(_product([_transform(w, size) for w in layers]), size)


def _finite(kernels: Sequence[Any], target: Any) -> tuple[Kernels, Array, Array, np.dtype[Any]]:
    """Return checked kernels and target in float64, and the Jacobian of the total kernel."""
    goal = as_float_array(target, "target", ndim=3)
    size = goal.shape[-1]
    layers = _as_kernels(kernels, finite=True)
    for i, w in enumerate(layers):
        if w.ndim != 3 or w.shape[-1] > size:
            fail(
                f"kernels[{i}]", f"shape (C, C', m) with m ≤ {size}, the length of target", f"shape {w.shape}"
            )
    _fit(layers, goal)
    dtype = np.result_type(*layers)
    layers, goal = tuple(w.astype(np.float64) for w in layers), goal.astype(np.float64)
    spectra = [_transform(w, size) for w in layers]
    columns = []
    for i, w in enumerate(layers):
        after = _product(
            [np.broadcast_to(np.eye(w.shape[0]), (size // 2 + 1, *[w.shape[0]] * 2)), *spectra[i + 1 :]]
        )
        before = _product([np.broadcast_to(np.eye(layers[0].shape[1]), (size // 2 + 1, *[layers[0].shape[1]] * 2)),
                           *spectra[:i]])  # fmt: skip
        response = np.fft.irfft(np.einsum("kac,kdb->abcdk", after, before), size)
        shifted = np.stack([np.roll(response, q, axis=-1) for q in range(w.shape[-1])], axis=-1)
        columns.append(np.moveaxis(shifted, 4, 2).reshape(goal.size, w.size))
    return layers, goal, np.concatenate(columns, axis=1), dtype


def _cut(jacobian: Array, rtol: float | None) -> tuple[Array, Array, Array, Array]:
    left, values, right = np.linalg.svd(jacobian, full_matrices=False)
    default = max(jacobian.shape) * float(np.finfo(float).eps)
    cut = default if rtol is None else as_scalar(rtol, "rtol", low=0.0)
    return left, values, right, values > cut * values[0]


def _as_kernels(kernels: Sequence[Any], finite: bool = False) -> Kernels:
    if isinstance(kernels, (str, bytes)) or not isinstance(kernels, Sequence) or not len(kernels):
        fail("kernels", "a sequence of arrays (…, C_i, C_{i−1}, n), one per layer", type(kernels).__name__)
    layers = tuple(as_float_array(w, f"kernels[{i}]", min_ndim=3) for i, w in enumerate(kernels))
    for i in range(1, len(layers)):
        below, above = layers[i - 1].shape, layers[i].shape
        if above[-2] != below[-3]:
            fail(f"kernels[{i}]", f"{below[-3]} input channels, as layer {i} puts out", f"shape {above}")
        if not finite and above[-1] != below[-1]:
            remedy = "Kernels of finite support are another model: finite_natural_gradient (X7)."
            fail(f"kernels[{i}]", f"length {below[-1]}, like the others", f"shape {above}", remedy)
    return layers


def _as_problem(kernels: Sequence[Any], target: Any) -> tuple[Kernels, Array]:
    layers, goal = _as_kernels(kernels), as_float_array(target, "target", min_ndim=3)
    size = goal.shape[-1]
    if layers[0].shape[-1] != size:
        remedy = "Kernels of finite support are another model: finite_natural_gradient (X7)."
        fail("kernels[0]", f"length {size}, that of target", f"shape {layers[0].shape}", remedy)
    _fit(layers, goal)
    check_broadcast([w.shape[:-3] for w in (*layers, goal)], "kernels, target")
    return layers, goal


def _fit(layers: Kernels, goal: Array) -> None:
    wanted = (layers[-1].shape[-3], layers[0].shape[-2])
    if goal.shape[-3:-1] != wanted:
        fail("target", f"{wanted[0]} × {wanted[1]} channels, like the kernels", f"shape {goal.shape}")
