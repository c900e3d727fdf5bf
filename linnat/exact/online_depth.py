"""How far is a deep network from the law of one layer, and when has its loss no expectation? Statement D3, L ≥ 2.

Square invertible chains in the layerwise gauge: W̃⁺ = W̃(I + (η/L)W̃⁻¹D)^L = W̃ + ηD + η²(L−1)/(2L) DW̃⁻¹D + O(η³), with the
minibatch's D. The second-order term moves the expected loss by η² `deep_correction` in a step, and by η
`deep_deviation` until time t = kη. One step has moments of all orders. Then det W̃ has a positive density at 0, and
W̃⁻¹ makes every later loss heavy-tailed: P(loss > t) ~ t^{−α} with α = 1/(2L(L−1)), no expectation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from linnat._checks import Array, ConditionError, FlowBreakdownError, as_count, as_times, representable
from linnat.exact.breakdown import breakdown_time
from linnat.exact.network import LinearNetwork
from linnat.exact.online_runs import white_problem
from linnat.exact.ratio import square_chain
from linnat.exact.task import Task

NODES = 48


@representable("net, task")
def deep_correction(net: LinearNetwork, task: Task, batch: Any) -> float:
    """Return lim (E ℓ⁺ − [law of one layer])/η² for one step of a deep network (D3).

    Parameters
    ----------
    net : LinearNetwork
        Square invertible chain; 0 for one layer.
    task : Task
        Population moments, S > 0, Gaussian inputs, targets with the noise Σ.
    batch : int

    Returns
    -------
    float
        −(L−1)/(2L) tr Ẽᵀ E[DW̃⁻¹D], E[DW̃⁻¹D] = ẼK + (ẼKᵀ + tr(K)Ẽ + W̃⁻ᵀ)/b, K = W̃⁻¹Ẽ.

    Raises
    ------
    ConditionError
        For networks that are not square invertible chains, singular S, or biases.

    Notes
    -----
    Depends on W̃ and not on n, m, b alone: there is no law for all networks. O(n³). Source: new.

    Examples
    --------
    >>> deep_correction(LinearNetwork([[[1.0]], [[1.0]]]), Task([[3.0]]), 4)
    -3.125
    """
    size = as_count(batch, "batch")
    target, weight = _white(net, task)
    return float(_correction(target - weight, weight, net.depth, size))


@representable("net, task")
def deep_deviation(times: Any, net: LinearNetwork, task: Task, batch: Any) -> Array:
    """Return lim (E ℓ(t) − [law of one layer])/η at t = kη, η → 0, for a deep network (D3).

    Parameters
    ----------
    times : array (T,) or float
    net : LinearNetwork
        The start, a square invertible chain whose flow exists until the last time (C3).
    task : Task
        Population moments, S > 0.
    batch : int

    Returns
    -------
    array (T,)
        ∫_0^t e^{−2(t−τ)} c(τ) dτ, c the `deep_correction` at W̃(τ) on the line of C1. Of runs that are stopped outside
        of a compact set of invertible W̃ that has the line in its interior: of runs that go on for ever there is no
        expectation. Such exits are exponentially rare in 1/η.

    Raises
    ------
    FlowBreakdownError
        Where the line meets a singular weight until then (C3).

    Notes
    -----
    Gauss's rule of 48 nodes, one solve in each. Source: new.

    Examples
    --------
    >>> net = LinearNetwork([[[1.0]], [[1.0]]])
    >>> deep_deviation([0.0, 1.0], net, Task([[1.5]]), 4).round(6)
    array([ 0.      , -0.009527])
    """
    moments, size = as_times(times), as_count(batch, "batch")
    target, weight = _white(net, task)
    end = float(breakdown_time(net, task))
    if moments.max() >= end:
        raise FlowBreakdownError(f"times: the line of C1 meets a singular weight at t = {end:.6g} (C3).", end)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    values = []
    for time in moments:
        inner, share = time * (nodes + 1) / 2, time * weights / 2
        fade = np.exp(-inner)[:, None, None]
        error = fade * (target - weight)
        rates = _correction(error, target - error, net.depth, size)
        values.append(float((share * np.exp(-2 * (time - inner)) * rates).sum()))
    return np.array(values, dtype=net.dtype)


def tail_law(depth: Any) -> float:
    """Return α = 1/(2L(L−1)), the tail exponent of the loss of square chains from step 2 on (D3).

    Parameters
    ----------
    depth : int
        L. One layer has moments of all orders: inf.

    Returns
    -------
    float
        P(loss > t) ~ t^{−α}: ¼, 1/12, 1/24 for L = 2, 3, 4. Even the moment of order α is infinite.

    Notes
    -----
    After one step the smallest singular value of I + X, X = (η/L)W̃⁻¹D, is below ε with probability ~ ε, that of W̃⁺ =
    W̃(I + X)^L then is ~ ε^L, and the next step adds ε^{−L(L−1)} to W̃: a loss ~ ε^{−2L(L−1)}. Needs hidden layers
    exactly as wide as W. Where all are wider a rank drops less often (codimension > 1): the second loss may still have
    a mean (two layers with h ≥ 2n do not lose rank at the first step), but exponents were measured to fall below 1
    at steps 3 to 5 for n ≤ 2. Source: new.

    Examples
    --------
    >>> [tail_law(depth) for depth in (1, 2)]
    [inf, 0.25]
    """
    count = as_count(depth, "depth")
    return float("inf") if count == 1 else 1.0 / (2 * count * (count - 1))


def _white(net: Any, task: Any) -> tuple[Array, Array]:
    network, problem, factor = white_problem(net, task)
    if network.depth > 1:
        square_chain(network, problem, "D3")
    elif factor.shape[0] != factor.shape[1] or factor.shape[0] != problem.n_outputs:
        raise ConditionError(
            "net: expected a square invertible chain with S > 0. One layer of any shape obeys D3's law."
        )
    return problem.whiten(problem.teacher @ factor), problem.whiten(network.total @ factor)


def _correction(error: Array, weight: Array, depth: int, batch: int) -> Array:
    """Return −(L−1)/(2L) tr Ẽᵀ E[DW̃⁻¹D] for stacks."""
    inner = np.linalg.solve(weight, error)
    trace = np.trace(inner, axis1=-2, axis2=-1)
    # tr Ẽᵀ W̃⁻ᵀ = tr K.
    products = [(error * (error @ part)).sum(axis=(-1, -2)) for part in (inner, inner.mT)]
    size = (error**2).sum(axis=(-1, -2))
    total = products[0] + (products[1] + trace * size + trace) / batch
    return np.asarray(-(depth - 1) / (2 * depth) * total)
