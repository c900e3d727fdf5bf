"""All rows at once, by SciPy: limited-memory BFGS and nonlinear conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

from linnat._checks import Array, as_choice, as_count
from linnat.nonlinear.network import Network
from linnat.nonlinear.output import check_finite, step_gradient
from linnat.nonlinear.passes import Workspace, as_targets, prepare

METHODS = {"l-bfgs": "L-BFGS-B", "cg": "CG"}


class Minimum(NamedTuple):
    """Where a full-batch method stopped.

    Attributes
    ----------
    theta : array (P,)
    loss : float
    gradient_norm : float
    iterations, evaluations : int
    converged : bool
        Whether the method's own criterion was met, rather than the number of iterations.
    """

    theta: Array
    loss: float
    gradient_norm: float
    iterations: int
    evaluations: int
    converged: bool


def minimise(
    net: Network,
    parameters: Any,
    x: Any,
    y: Any,
    method: str = "l-bfgs",
    *,
    iterations: int = 200,
    tolerance: float = 1e-8,
    progress: Callable[[int, float], None] | None = None,
) -> Minimum:
    """Minimise the mean loss over all rows.

    Parameters
    ----------
    net : Network
    parameters : array (P,)
    x, y : array (N, n_0), (N, n_L)
    method : "l-bfgs" or "cg"
    iterations : int
        At most.
    tolerance : float
        On the largest entry of the gradient.
    progress : callable(iteration, loss), optional

    Returns
    -------
    Minimum

    Raises
    ------
    InputError
        For bad input, and a loss that is not finite at the start.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> found = minimise(net, [0.0, 0.0], [[1.0], [2.0]], [[1.0], [3.0]])
    >>> found.theta.round(4), found.converged
    (array([ 2., -1.]), True)
    """
    chosen = METHODS[as_choice(method, "method", tuple(METHODS))]
    limit = as_count(iterations, "iterations")
    theta, first = prepare(net, parameters, x)
    targets = as_targets(net, y, first)
    inputs, work, buffer = first.inputs, Workspace(net, first.rows, theta.dtype), np.empty_like(theta)
    check_finite(*step_gradient(net, theta, inputs, targets, work, buffer))
    seen: list[float] = []

    def objective(vector: Array) -> tuple[float, Array]:
        value, _ = step_gradient(net, vector.astype(theta.dtype), inputs, targets, work, buffer)
        seen.append(value)
        return value, buffer.astype(np.float64)

    def told(vector: Array) -> None:
        if progress is not None:
            progress(len(seen), seen[-1])

    options: dict[str, float] = {"maxiter": limit, "gtol": tolerance}
    if chosen == "L-BFGS-B":
        options["ftol"] = 0.0  # the gradient alone decides, as for the other method
    found = minimize(
        objective, theta.astype(np.float64), jac=True, method=chosen, callback=told, options=options
    )
    value, gradient = objective(found.x)
    return Minimum(
        found.x.astype(theta.dtype),
        value,
        float(np.linalg.norm(gradient)),
        int(found.nit),
        int(found.nfev),
        bool(found.success),
    )
