"""What is minimised, and its gradient? Statement G1.

The loss is ½ tr[Π E S Eᵀ] + floor, the mean negative log-likelihood of y | x ~ N(W x, Σ) without its normaliser.
"""

from __future__ import annotations

import numpy as np

from linnat._checks import Array, representable
from linnat.exact.chains import Problem, make_problem
from linnat.exact.network import Direction, LinearNetwork
from linnat.exact.task import Task
from linnat.linalg import kernels as k
from linnat.linalg.kernels import transpose


@representable("net, task")
def excess_loss(net: LinearNetwork, task: Task) -> Array:
    """Return ½ tr[Π E S Eᵀ], the loss above the least one.

    Parameters
    ----------
    net : LinearNetwork
    task : Task

    Returns
    -------
    array (…)

    Notes
    -----
    ½ ‖C⁻¹ E F‖², Σ = C Cᵀ, S = F Fᵀ: non-negative by construction. 2 ρ Σ n_i n_{i-1} flops.

    Examples
    --------
    >>> float(excess_loss(LinearNetwork([[[1.0]], [[1.0]]]), Task([[3.0]])))
    2.0
    """
    problem, batch = make_problem(net, task)
    error = problem.whiten(problem.error_factor)
    return np.asarray(0.5 * (error**2).sum(axis=(-1, -2))).reshape(batch)


@representable("net, task")
def loss(net: LinearNetwork, task: Task) -> Array:
    """Return ½ E[(y − Wx)ᵀ Π (y − Wx)] = excess loss + floor.

    Parameters
    ----------
    net : LinearNetwork
    task : Task

    Returns
    -------
    array (…)
        A mean over samples; the floor is n_L/2 for population moments, since y has noise Σ.

    Examples
    --------
    >>> x, y = np.array([[1.0], [2.0]]), np.array([[1.0], [4.0]])
    >>> float(loss(LinearNetwork([[[1.0]]]), Task.from_data(x, y)).round(12))
    1.0
    """
    excess = excess_loss(net, task)
    return np.asarray(excess + task.floor(net.has_biases).astype(net.dtype))


@representable("net, task")
def gradient(net: LinearNetwork, task: Task) -> Direction:
    """Return ∂ℓ/∂W_i = −B_iᵀ Π E S A_iᵀ (statement G1).

    Parameters
    ----------
    net : LinearNetwork
    task : Task

    Returns
    -------
    tuple of arrays (…, n_i, n_{i-1})
        An ascent direction; with biases ∂ℓ/∂[W_i b_i], one column wider.

    Notes
    -----
    Back-propagation of the ρ columns of F as if they were samples: 6 ρ Σ n_i n_{i-1} flops.

    Examples
    --------
    >>> gradient(LinearNetwork([[[2.0]], [[1.0]]]), Task([[3.0]]))
    (array([[-1.]]), array([[-2.]]))
    """
    problem, batch = make_problem(net, task)
    signals = forward_signals(problem)
    delta = problem.precision(problem.through_last(signals[-1]) - problem.target)
    return tuple(g.reshape(*batch, *g.shape[-2:]) for g in pull_back(problem, delta, signals))


def forward_signals(problem: Problem) -> list[Array]:
    """Return Ã_i = A_i F for i = 1 … L."""
    signals = [problem.factor]
    for matrix in problem.maps[:-1]:
        signals.append(k.matmul(matrix, signals[-1]))
    return signals


def whitened_after(problem: Problem) -> list[Array]:
    """Return B̃_i = C⁻¹ B_i for i = 1 … L."""
    last = problem.weights[-1]
    size = last.shape[-2]
    identity = np.broadcast_to(np.eye(size, dtype=last.dtype), (*last.shape[:-2], size, size))
    result = [problem.whiten(identity)]
    for weight in problem.weights[:0:-1]:
        result.append(k.matmul(result[-1], weight))
    return result[::-1]


def pull_back(problem: Problem, delta: Array, signals: list[Array]) -> list[Array]:
    """Return B_iᵀ δ Ã_iᵀ for every layer, δ on the output side."""
    result = [k.matmul(delta, transpose(signals[-1]))]
    for i in range(problem.depth - 1, 0, -1):
        delta = k.matmul(transpose(problem.weights[i]), delta)
        result.append(k.matmul(delta, transpose(signals[i - 1])))
    return result[::-1]
