"""What do flows and descents do when integrated or iterated parameter by parameter? Statements C1, C2, X10.

The velocity comes from a function of the network, any of those in `natural`, and SciPy's adaptive
Runge–Kutta method moves the P parameters. Nothing is known of the total weight here: it is what the
integrated layers multiply out to.

Sign: the functions return ascent directions u; flows are dθ/dt = −u(θ), steps θ ← θ − η u(θ).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import scipy.integrate

from linnat._checks import Array, ConvergenceError, as_count, as_float_array, as_scalar, as_times, fail
from linnat.dense.fisher import gradient, root_jacobian, root_residual
from linnat.dense.jacobian import parameters, split, total, with_parameters
from linnat.dense.natural import natural_gradient
from linnat.dense.sample import Sample, as_sample
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task

Velocity: TypeAlias = Callable[[LinearNetwork], Sequence[Array]]


def integrate(
    net: LinearNetwork, ascent: Velocity, times: Any, *, rtol: float = 1e-10, atol: float = 1e-12
) -> tuple[Array, ...]:
    """Integrate dθ/dt = −ascent(θ) and return the layers at the given times.

    Parameters
    ----------
    net : LinearNetwork
        The state at time 0.
    ascent : function of a LinearNetwork, returns arrays like `net.layers`
    times : scalar or array (T,)
        Non-negative, in any order.
    rtol, atol : float
        Of SciPy's DOP853, per step.

    Returns
    -------
    tuple of arrays (T, n_i, n_{i-1}), one column wider with biases

    Raises
    ------
    InputError
        For bad times.
    ConvergenceError
        If the step size underflows, as it does where a flow breaks down; `.estimate` is the last time
        reached.

    Notes
    -----
    The error at the times is a multiple of `rtol` that grows with the length of the path: check it by a
    second `rtol`.

    Examples
    --------
    >>> net = LinearNetwork([[[1.0]]])
    >>> integrate(net, lambda state: state.weights, [0.0, 1.0])[0].ravel().round(9)
    array([1.        , 0.36787944])
    """
    moments = as_times(times)
    start, end = parameters(net), float(moments.max())
    if end == 0.0:
        return split(np.broadcast_to(start, (len(moments), len(start))), net)

    def slope(_: float, vector: Array) -> Array:
        return -_stack(ascent(with_parameters(net, vector)), net)

    options = {"method": "DOP853", "dense_output": True, "rtol": rtol, "atol": atol}
    result = scipy.integrate.solve_ivp(slope, (0.0, end), start, **options)
    if not result.success:
        reached = float(result.t[-1])
        raise ConvergenceError(f"The integrator stopped after time {reached:.6g}: {result.message}", reached)
    return split(result.sol(moments).T, net)


def gradient_flow(
    net: LinearNetwork, data: Task | Sample, times: Any, **tolerances: float
) -> tuple[Array, ...]:
    """Integrate dθ/dt = −∇ℓ.

    Parameters
    ----------
    net : LinearNetwork
    data : Task or Sample
    times : scalar or array (T,)
    **tolerances : float
        `rtol`, `atol` of `integrate`.

    Returns
    -------
    tuple of arrays (T, n_i, n_{i-1}), one column wider with biases

    Examples
    --------
    >>> gradient_flow(LinearNetwork([[[1.0]]]), Task([[0.0]]), 1.0)[0].round(9)
    array([[[0.36787944]]])
    """
    points = as_sample(data)
    return integrate(net, lambda state: gradient(state, points), times, **tolerances)


def natural_flow(
    net: LinearNetwork,
    data: Task | Sample,
    times: Any,
    gauge: str = "layerwise",
    *,
    damping: float = 0.0,
    mask: Array | str | None = None,
    cutoff: float | None = None,
    **tolerances: float,
) -> tuple[Array, ...]:
    """Integrate dθ/dt = −u, u the natural gradient by dense solves (C1, C2).

    Parameters
    ----------
    net : LinearNetwork
    data : Task or Sample
    times : scalar or array (T,)
    gauge, damping, mask : see `natural.natural_gradient`
    cutoff : float, optional
        Its `rtol`, for the rank.
    **tolerances : float
        `rtol`, `atol` of `integrate`.

    Returns
    -------
    tuple of arrays (T, n_i, n_{i-1}), one column wider with biases

    Examples
    --------
    >>> layers = natural_flow(LinearNetwork([[[2.0]], [[3.0]]]), Task([[1.0]]), [np.log(2.0)])
    >>> total_along(LinearNetwork([[[2.0]], [[3.0]]]), layers).round(8)
    array([[[3.5]]])
    """
    points = as_sample(data)

    def ascent(state: LinearNetwork) -> tuple[Array, ...]:
        return natural_gradient(state, points, gauge, damping, mask, cutoff)

    return integrate(net, ascent, times, **tolerances)


def fractional_gradient(
    net: LinearNetwork, data: Task | Sample, gamma: float, rtol: float | None = None
) -> tuple[Array, ...]:
    """Return F^{−γ} ∇ℓ, a Moore–Penrose power: γ = 0 the gradient, γ = 1 the minimum-norm natural gradient.

    Parameters
    ----------
    net : LinearNetwork
    data : Task or Sample
    gamma : float
    rtol : float, optional
        Cut-off on the singular values of the Jacobian, relative to the largest; size · eps by default.

    Returns
    -------
    tuple of arrays like `net.layers`

    Notes
    -----
    With J = U s Vᵀ and ∇ℓ = −Jᵀ r it is −V s^{1−2γ} Uᵀ r.

    Examples
    --------
    >>> fractional_gradient(LinearNetwork([[[1.0]]]), Task([[3.0]], [[4.0]]), 0.5)[0].round(12)
    array([[-4.]])
    """
    power = 1 - 2 * as_scalar(gamma, "gamma")
    jacobian, residual = root_jacobian(net, data), root_residual(net, data)
    left, values, right = np.linalg.svd(jacobian, full_matrices=False)
    cut = max(jacobian.shape) * np.finfo(float).eps if rtol is None else as_scalar(rtol, "rtol", low=0.0)
    keep = values > cut * values[0]
    return split(-right[keep].T @ (values[keep] ** power * (left[:, keep].T @ residual)), net)


def fractional_flow(
    net: LinearNetwork, data: Task | Sample, times: Any, gamma: float, **tolerances: float
) -> tuple[Array, ...]:
    """Integrate dθ/dt = −F^{−γ} ∇ℓ.

    Parameters
    ----------
    net : LinearNetwork
    data : Task or Sample
    times : scalar or array (T,)
    gamma : float
    **tolerances : float
        `rtol`, `atol` of `integrate`.

    Returns
    -------
    tuple of arrays (T, n_i, n_{i-1}), one column wider with biases

    Examples
    --------
    >>> fractional_flow(LinearNetwork([[[1.0]]]), Task([[0.0]], [[4.0]]), 1.0, 0.5)[0].round(9)
    array([[[0.13533528]]])
    """
    points = as_sample(data)
    return integrate(net, lambda state: fractional_gradient(state, points, gamma), times, **tolerances)


def steps(net: LinearNetwork, ascent: Velocity, eta: float, count: int) -> list[LinearNetwork]:
    """Iterate θ ← θ − η ascent(θ).

    Parameters
    ----------
    net : LinearNetwork
    ascent : function of a LinearNetwork, returns arrays like `net.layers`
    eta : float
    count : int
        Number of steps.

    Returns
    -------
    list of LinearNetwork
        count + 1 networks, the first one `net`.

    Examples
    --------
    >>> states = steps(LinearNetwork([[[8.0]]]), lambda state: state.weights, 0.5, 3)
    >>> [float(state.weights[0][0, 0]) for state in states]
    [8.0, 4.0, 2.0, 1.0]
    """
    rate, number = as_scalar(eta, "eta"), as_count(count, "count", low=0)
    states = [net]
    for _ in range(number):
        states.append(with_parameters(net, parameters(states[-1]) - rate * _stack(ascent(states[-1]), net)))
    return states


def total_along(net: LinearNetwork, layers: Sequence[Array]) -> Array:
    """Return the total weight [W c] of layers along a flow.

    Parameters
    ----------
    net : LinearNetwork
        Gives the kind and the shapes.
    layers : sequence of arrays (T, n_i, n_{i-1}), one column wider with biases
        As returned by the flows.

    Returns
    -------
    array (T, n_L, n_0), one column wider with biases

    Examples
    --------
    >>> path = [np.full((2, 1, 1), 2.0), np.full((2, 1, 1), 5.0)]
    >>> total_along(LinearNetwork([[[2.0]], [[3.0]]]), path).ravel()
    array([10., 10.])
    """
    states = zip(*layers, strict=True)
    return np.stack([total(with_parameters(net, _stack(state, net))) for state in states])


def _stack(direction: Sequence[Array], net: LinearNetwork) -> Array:
    """Return a direction as one vector, after comparing its shapes with those of the network."""
    wanted = [layer.shape for layer in split(parameters(net), net)]
    arrays = [as_float_array(d, f"direction[{i}]") for i, d in enumerate(direction)]
    if [array.shape for array in arrays] != wanted:
        fail("direction", f"one array per layer, shapes {wanted}", f"{[array.shape for array in arrays]}")
    return np.concatenate([array.flatten(order="F") for array in arrays])
