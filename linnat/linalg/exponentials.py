"""What are logistic functions, softmax and their differences, at arguments of any size?

Each is computed on the side where it is small, so that relative errors are eps (1 + |z|) and nothing overflows. float32
is kept. The last axis is that of the classes.
"""

from __future__ import annotations

import numpy as np

from linnat._checks import Array


def sigmoid(z: Array) -> Array:
    """Return 1/(1 + e^{−z}).

    Examples
    --------
    >>> sigmoid(np.array([-700.0, 0.0, 700.0]))
    array([9.85967654e-305, 5.00000000e-001, 1.00000000e+000])
    """
    # e^{−|z|} never overflows; the branch keeps the smaller of p and 1 − p free of cancellation.
    small = np.exp(-np.abs(z))
    return np.asarray(np.where(z < 0, small, 1.0).astype(z.dtype) / (1 + small))


def softplus(z: Array) -> Array:
    """Return log(1 + e^z).

    Examples
    --------
    >>> softplus(np.array([-700.0, 700.0]))
    array([9.85967654e-305, 7.00000000e+002])
    """
    return np.asarray(np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))))


def _rest(logits: Array) -> tuple[Array, Array, Array]:
    """Return z − max z, Σ e^{z − max z} over all but one largest class, and where that class is."""
    top = np.expand_dims(logits.argmax(axis=-1), -1)
    below = logits - np.take_along_axis(logits, top, axis=-1)
    is_top = np.arange(logits.shape[-1]) == top
    return below, np.where(is_top, 0, np.exp(below)).sum(axis=-1), is_top


def log_sum_exp(logits: Array) -> Array:
    """Return log Σ_c e^{z_c}.

    Examples
    --------
    >>> float(log_sum_exp(np.array([1000.0, 0.0])))
    1000.0
    """
    return np.asarray(logits.max(axis=-1) + np.log1p(_rest(logits)[1]))


def log_softmax(logits: Array) -> Array:
    """Return log p_c, p_c = e^{z_c}/Σ e^z.

    Examples
    --------
    >>> log_softmax(np.array([300.0, -300.0]))
    array([-2.65039655e-261, -6.00000000e+002])
    """
    below, rest, _ = _rest(logits)
    return np.asarray(below - np.log1p(rest)[..., None])


def softmax(logits: Array) -> tuple[Array, Array]:
    """Return p and 1 − p, p_c = e^{z_c}/Σ e^z.

    Examples
    --------
    >>> softmax(np.array([300.0, -300.0]))
    (array([1.00000000e+000, 2.65039655e-261]), array([2.65039655e-261, 1.00000000e+000]))
    """
    below, rest, is_top = _rest(logits)
    p = np.exp(below) / (1 + rest[..., None])
    return p, np.where(is_top, (rest / (1 + rest))[..., None], 1 - p)


def softmax_divergence(one: Array, two: Array) -> Array:
    """Return KL(p ‖ q) = Σ p (e^u − 1 − u), u = log q − log p, of the softmax of two arguments.

    A sum of non-negative terms, since Σ p (e^u − 1) = Σ q − p = 0.

    Examples
    --------
    >>> float(softmax_divergence(np.zeros(2), np.array([0.0, 1e-6])).round(20))
    1.25e-13
    """
    p, q = softmax(one)[0], softmax(two)[0]
    far = log_softmax(two) - log_softmax(one)
    # For nearby arguments u from the differences of z, relative to those of the largest class, which may be all of p.
    top = np.expand_dims(one.argmax(axis=-1), -1)
    shift = two - one
    shift = shift - np.take_along_axis(shift, top, axis=-1)
    close = (np.abs(shift) < 0.5).all(axis=-1, keepdims=True)
    bounded = np.where(close, shift, 0)
    near = bounded - np.log1p((p * np.expm1(bounded)).sum(axis=-1, keepdims=True))
    return np.asarray(exponential_excess(p, q, np.where(close, near, far)).sum(axis=-1))


def exponential_excess(p: Array, q: Array, u: Array) -> Array:
    """Return q − p − p u ≥ 0 where q = p e^u, without cancellation for small u.

    Examples
    --------
    >>> float(exponential_excess(np.array(1.0), np.exp(1e-8), np.array(1e-8)).round(20))
    5e-17
    """
    small = np.abs(u) < 0.5
    x = np.where(small, u, 0)
    # Σ_{k ≥ 2} x^k/k!: 17 terms leave less than eps of the first at |x| = 1/2.
    series = np.zeros_like(x)
    for k in range(18, 1, -1):
        series = (1 + series) * x / k
    return np.asarray(np.where(small, p * series * x, np.maximum(q - p - p * u, 0)))
