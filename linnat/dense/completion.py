"""Which steps solve the natural gradient equation when only some entries are observed? By definition (statement C9).

The Fisher matrix of the observed entries is J_ΩᵀJ_Ω with J_Ω by unit perturbations; of all solutions a gauge takes the
one that is shortest in its metric, found here by minimising over the null space.

Sign: the functions return ascent directions u; flows are dθ/dt = −u(θ).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from linnat._checks import Array, as_choice, as_matrix, fail
from linnat.dense.flow import integrate
from linnat.dense.jacobian import parameters, split, total, total_jacobian
from linnat.exact.network import LinearNetwork

CUT = 1e-11
"""Singular values below this share of the largest (of the metric's, for a metric on the null space) count as zero."""


def observed_jacobian(net: LinearNetwork, observed: Any) -> Array:
    """Return J_Ω, the rows of ∂ vec W / ∂θ that belong to observed entries.

    Parameters
    ----------
    net : LinearNetwork
        A single one, without biases.
    observed : boolean array (n_L, n_0)

    Returns
    -------
    array (|Ω|, P)

    Examples
    --------
    >>> observed_jacobian(LinearNetwork([[[2.0, 5.0]], [[3.0]]]), [[True, False]])
    array([[3., 0., 2.]])
    """
    return total_jacobian(net)[_mask(net, observed)]


def observed_gradient(net: LinearNetwork, target: Any, observed: Any) -> tuple[Array, ...]:
    """Return the gradient of ½ Σ (W* − W)² over the observed entries.

    Parameters
    ----------
    net : LinearNetwork
    target : array (n_L, n_0)
    observed : boolean array (n_L, n_0)

    Returns
    -------
    tuple of arrays like `net.weights`

    Examples
    --------
    >>> observed_gradient(LinearNetwork([[[2.0, 5.0]]]), [[3.0, 0.0]], [[True, False]])
    (array([[-1.,  0.]]),)
    """
    return split(-observed_jacobian(net, observed).T @ _error(net, target, observed), net)


def completion_gradient(
    net: LinearNetwork, target: Any, observed: Any, metric: str = "observed", gauge: str = "minimum-norm"
) -> tuple[Array, ...]:
    """Return the solution u of F u = ∇ℓ that is shortest in the gauge's metric.

    Parameters
    ----------
    net : LinearNetwork
    target : array (n_L, n_0)
    observed : boolean array (n_L, n_0)
    metric : "observed" or "population"
        F from the observed entries or from all.
    gauge : "minimum-norm", "layerwise" or "population"
        Shortest in the identity, in the diagonal blocks of F, or in the Fisher matrix of all entries; what is left free
        is settled by the Euclidean norm.

    Returns
    -------
    tuple of arrays like `net.weights`

    Examples
    --------
    >>> net = LinearNetwork([[[2.0, 5.0]], [[3.0]]])
    >>> u = completion_gradient(net, [[7.0, 0.0]], [[True, False]], gauge="population")
    >>> [part.round(6) + 0.0 for part in u]
    [array([[-0.298246,  0.087719]]), array([[-0.052632]])]
    """
    as_choice(metric, "metric", ("observed", "population"))
    as_choice(gauge, "gauge", ("minimum-norm", "layerwise", "population"))
    every, seen = total_jacobian(net), observed_jacobian(net, observed)
    descent = seen.T @ _error(net, target, observed)
    root = seen if metric == "observed" else every
    start = _pinv(root) @ (_pinv(root).T @ descent)  # F⁺ = R⁺R⁺ᵀ for F = RᵀR
    free = _null(root)
    if gauge != "minimum-norm" and free.shape[1]:
        measure = every if gauge == "population" else _block_root(root, net)
        size = float(np.linalg.norm(measure, 2))
        start = start - free @ (_pinv(measure @ free, size) @ (measure @ start))
        free = free @ _null(measure @ free, size)
    return split(-(start - free @ (free.T @ start)), net)


def completion_flow(
    net: LinearNetwork,
    target: Any,
    observed: Any,
    times: Any,
    metric: str = "observed",
    gauge: str = "minimum-norm",
    **tolerances: float,
) -> tuple[Array, ...]:
    """Integrate dθ/dt = −u, u of `completion_gradient`.

    Parameters
    ----------
    net : LinearNetwork
    target : array (n_L, n_0)
    observed : boolean array (n_L, n_0)
    times : scalar or array (T,)
    metric, gauge
        See `completion_gradient`.
    **tolerances : float
        `rtol`, `atol` of `integrate`.

    Returns
    -------
    tuple of arrays (T, n_i, n_{i-1})

    Examples
    --------
    >>> net = LinearNetwork([[[2.0, 5.0]]])
    >>> completion_flow(net, [[3.0, 0.0]], [[True, False]], 1.0)[0].round(6)
    array([[[2.632121, 5.      ]]])
    """
    return integrate(
        net, lambda state: completion_gradient(state, target, observed, metric, gauge), times, **tolerances
    )


def shrinking_flow(net: LinearNetwork, observed: Any, times: Any, **tolerances: float) -> tuple[Array, ...]:
    """Integrate dφ/dτ = −(1/L)(I − J_Ω⁺J_Ω)φ: descent of ‖φ‖²/2L where the observed entries do not change.

    Parameters
    ----------
    net : LinearNetwork
    observed : boolean array (n_L, n_0)
    times : scalar or array (T,)
        Of τ.
    **tolerances : float
        `rtol`, `atol` of `integrate`.

    Returns
    -------
    tuple of arrays (T, n_i, n_{i-1})

    Examples
    --------
    >>> shrinking_flow(LinearNetwork([[[2.0, 5.0]]]), [[True, False]], 1.0)[0].round(6)
    array([[[2.      , 1.839397]]])
    """
    mask = _mask(net, observed)

    def ascent(state: LinearNetwork) -> tuple[Array, ...]:
        free, theta = _null(total_jacobian(state)[mask]), parameters(state)
        return split(free @ (free.T @ theta) / state.depth, state)

    return integrate(net, ascent, times, **tolerances)


def _mask(net: LinearNetwork, observed: Any) -> Array:
    """Return Ω as booleans in the order of vec, columns after columns."""
    seen, shape = np.asarray(observed), (net.widths[-1], net.widths[0])
    if seen.dtype != np.bool_ or seen.shape != shape:
        fail("observed", f"booleans of shape {shape}", f"{seen.dtype} of shape {seen.shape}")
    return seen.flatten(order="F")


def _error(net: LinearNetwork, target: Any, observed: Any) -> Array:
    gap: Array = as_matrix(target, "target") - total(net)
    return gap.flatten(order="F")[_mask(net, observed)]


def _svd(matrix: Array, size: float) -> tuple[Array, Array, Array, int]:
    left, values, right = np.linalg.svd(matrix)
    return left, values, right, int((values > CUT * max(size, *values[:1], 0.0)).sum())


def _pinv(matrix: Array, size: float = 0.0) -> Array:
    left, values, right, rank = _svd(matrix, size)
    inverse: Array = right[:rank].T @ (left[:, :rank] / values[:rank]).T
    return inverse


def _null(matrix: Array, size: float = 0.0) -> Array:
    _, _, right, rank = _svd(matrix, size)
    basis: Array = right[rank:].T
    return basis


def _block_root(jacobian: Array, net: LinearNetwork) -> Array:
    """Return R with RᵀR the diagonal blocks of JᵀJ: the blocks of J below each other."""
    root, start = np.zeros((len(jacobian) * net.depth, jacobian.shape[1])), 0
    for i, weight in enumerate(net.weights):
        own = slice(start, start + weight.size)
        root[i * len(jacobian) : (i + 1) * len(jacobian), own] = jacobian[:, own]
        start += weight.size
    return root
