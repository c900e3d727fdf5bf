"""How does one work with F and H where they do not fit in memory? Products, diagonals, traces. Statements F1, F2.

A direction is a step δ_i of every layer. Both products are two sweeps through the layers, with all columns of a
block at once: the K steps of one layer stand side by side as an array (m_i, K, n_i) of transposes, which column
stacking needs no copy for, so that each operation is one GEMM however many columns there are. The sweeps carry
either the ρ columns of the inputs or the n_L rows of the outputs, whichever costs less. For F:

    inputs:   Z ← W_i Z + δ_i Ã_i,   Z ← Π Z,       result_i = Z Ã_iᵀ,   Z ← W_iᵀ Z;
    outputs:  G ← G M_i + B̃_i δ_i,   G ← G F Fᵀ,   result_i = B̃_iᵀ G,   G ← G M_iᵀ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from linnat._checks import Array, as_float_array, check_broadcast, fail, representable
from linnat.exact.chains import Problem, make_problem
from linnat.exact.loss import forward_signals, whitened_after
from linnat.exact.network import Direction, LinearNetwork, as_direction
from linnat.exact.task import Task
from linnat.linalg import kernels as k

# A step of every layer, or a product with one: transposes (m_i, K, n_i), K columns side by side.
Steps = list[Array]
Product = Callable[[Steps], Steps]

WORKSPACE = 2**25  # numbers that a sweep may hold per layer; wider blocks are cut into several


@representable("net, task")
def fisher_operator(net: LinearNetwork, task: Task) -> LinearOperator:
    """Return F as a SciPy LinearOperator: products with F, never F itself (statement F1).

    Parameters
    ----------
    net : LinearNetwork
        One network: batch shape ().
    task : Task

    Returns
    -------
    LinearOperator (P, P)
        Symmetric positive semi-definite, of the network's dtype; vectors as `flatten` orders them. A block of
        columns (P, K) costs K products, all columns in the same GEMMs.

    Raises
    ------
    InputError
        For stacks of networks or tasks, and for vectors of the wrong length or not finite.

    Notes
    -----
    4L GEMMs, 8 min(ρ, n_L) Σ n_i n_{i-1} flops per column; O(min(ρ, n_L) Σ n_i) memory beside the network.
    `eigsh` finds one copy of a multiple eigenvalue, `lobpcg` with a block of two both.

    Examples
    --------
    >>> operator = fisher_operator(LinearNetwork([[[2.0]], [[3.0]]]), Task([[0.0]]))
    >>> operator @ np.array([1.0, 0.0])
    array([9., 6.])
    """
    problem = _single(net, task)
    product = _fisher_by_inputs if _inputs_are_cheaper(problem) else _fisher_by_outputs
    return _operator(net, problem, product(problem))


@representable("net, task")
def hessian_operator(net: LinearNetwork, task: Task) -> LinearOperator:
    """Return the Hessian H = F + R as a SciPy LinearOperator: products with H, never H itself (statement F2).

    Parameters
    ----------
    net : LinearNetwork
        One network: batch shape ().
    task : Task

    Returns
    -------
    LinearOperator (P, P)
        Symmetric, indefinite away from the optimum, of the network's dtype; exact, no differences.

    Raises
    ------
    InputError
        Like `fisher_operator`.

    Notes
    -----
    The derivative of both sweeps of the gradient along the direction (Pearlmutter 1994): 6L GEMMs, 12 min(ρ, n_L)
    Σ n_i n_{i-1} flops per column.

    Examples
    --------
    >>> operator = hessian_operator(LinearNetwork([[[2.0]], [[3.0]]]), Task([[0.0]]))
    >>> operator @ np.array([1.0, 0.0])
    array([ 9., 12.])
    """
    problem = _single(net, task)
    product = _hessian_by_inputs if _inputs_are_cheaper(problem) else _hessian_by_outputs
    return _operator(net, problem, product(problem))


@representable("net, task, direction")
def fisher_norm2(net: LinearNetwork, task: Task, direction: Any) -> Array:
    """Return uᵀ F u, twice the Kullback–Leibler divergence of a small step to second order (statement F1).

    Parameters
    ----------
    net : LinearNetwork
    task : Task
    direction : sequence of arrays like `net.layers`
        Leading axes broadcast against those of the network and the task.

    Returns
    -------
    array (…)
        ‖C⁻¹ (Σ_i B_i δ_i A_i) F‖², Σ = C Cᵀ, S = F Fᵀ: non-negative by construction. The divergence of the model
        at θ + h u from that at θ is ½ h² uᵀFu + O(h³).

    Notes
    -----
    4 ρ Σ n_i n_{i-1} flops; F is never formed.

    Examples
    --------
    >>> net = LinearNetwork([[[2.0]], [[3.0]]])
    >>> float(fisher_norm2(net, Task([[0.0]]), [np.ones((1, 1)), np.ones((1, 1))]))
    25.0
    """
    problem, batch = make_problem(net, task)
    steps = [s.astype(net.dtype, copy=False) for s in as_direction(direction, net)]
    check_broadcast([batch, *(s.shape[:-2] for s in steps)], "net, task and direction")

    def spread(array: Array) -> Array:
        return array.reshape(*batch, *array.shape[-2:])

    signals = [spread(s) for s in forward_signals(problem)]
    change = k.matmul(steps[0], signals[0])
    for weight, step, signal in zip(net.weights[1:], steps[1:], signals[1:], strict=True):
        change = k.matmul(weight, change) + k.matmul(step, signal)
    if problem.noise is not None:
        change = problem._replace(noise=spread(problem.noise)).whiten(change)
    return np.asarray((change**2).sum(axis=(-1, -2)))


@representable("net, task")
def fisher_diagonal(net: LinearNetwork, task: Task) -> Direction:
    """Return the diagonal of F (statement F1).

    Parameters
    ----------
    net : LinearNetwork
    task : Task

    Returns
    -------
    tuple of arrays (…, n_i, n_{i-1}), like `net.layers`
        Entry (a, b) of layer i is (B_iᵀ Π B_i)_aa (A_i S A_iᵀ)_bb ≥ 0; `flatten` gives the diagonal of `fisher`.

    Notes
    -----
    2 (ρ + n_L) Σ n_i n_{i-1} flops; F is never formed.

    Examples
    --------
    >>> fisher_diagonal(LinearNetwork([[[2.0]], [[3.0]]]), Task([[0.0]]))
    (array([[9.]]), array([[4.]]))
    """
    problem, batch = make_problem(net, task)
    result = []
    for signal, back in zip(forward_signals(problem), whitened_after(problem), strict=True):
        inner, outer = (signal**2).sum(axis=-1), (back**2).sum(axis=-2)
        block = outer[..., :, None] * inner[..., None, :]
        result.append(block.reshape(*batch, *block.shape[-2:]))
    return tuple(result)


@representable("net, task")
def fisher_trace(net: LinearNetwork, task: Task) -> Array:
    """Return tr F = Σ_i ‖B̃_i‖² ‖Ã_i‖², which is also the trace of the Hessian (statements F1, F2).

    Parameters
    ----------
    net : LinearNetwork
    task : Task

    Returns
    -------
    array (…)

    Notes
    -----
    R_ii = 0, so that tr H = tr F. 2 (ρ + n_L) Σ n_i n_{i-1} flops.

    Examples
    --------
    >>> float(fisher_trace(LinearNetwork([[[2.0]], [[3.0]]]), Task([[0.0]])))
    13.0
    """
    problem, batch = make_problem(net, task)
    pairs = zip(forward_signals(problem), whitened_after(problem), strict=True)
    sizes = [(a**2).sum(axis=(-1, -2)) * (b**2).sum(axis=(-1, -2)) for a, b in pairs]
    return np.asarray(sum(sizes)).reshape(batch)


def _single(net: LinearNetwork, task: Task) -> Problem:
    problem, batch = make_problem(net, task)
    if batch:
        fail("net, task", "one network and one task", f"batch shape {batch}", "Use a loop.")
    return problem


def _operator(net: LinearNetwork, problem: Problem, product: Product) -> LinearOperator:
    """Wrap a product of steps: unpack columns, cut wide blocks, pack the result."""
    shapes = [layer.shape for layer in net.layers]
    ends = np.cumsum([0] + [m * n for m, n in shapes])
    width = max(max(shape) for shape in shapes)
    columns = max(1, WORKSPACE // (width * max(1, min(problem.factor.shape[-1], net.widths[-1]))))

    @representable("net, task, vector")
    def matmat(vectors: Any) -> Array:
        block = as_float_array(vectors, "vector", min_ndim=1).astype(net.dtype, copy=False)
        block = block.reshape(ends[-1], -1)
        result = np.empty(block.shape, net.dtype)
        for start in range(0, block.shape[1], columns):
            part = block[:, start : start + columns]
            # Column stacking: entry (a, b) of layer i stands at a + b n_i.
            steps = [
                np.ascontiguousarray(part[lo:hi].reshape(n, m, -1).transpose(0, 2, 1))
                for lo, hi, (m, n) in zip(ends[:-1], ends[1:], shapes, strict=True)
            ]
            for lo, hi, found in zip(ends[:-1], ends[1:], product(steps), strict=True):
                place = result[lo:hi].reshape(len(found), -1, block.shape[1])
                place[:, :, start : start + columns] = found.transpose(0, 2, 1)
        return result

    def matvec(vector: Any) -> Array:
        return matmat(vector)[:, 0]

    return LinearOperator(
        (int(ends[-1]),) * 2, matvec=matvec, rmatvec=matvec, matmat=matmat, rmatmat=matmat, dtype=net.dtype
    )


def _inputs_are_cheaper(problem: Problem) -> bool:
    layers = 2 * sum(m.size for m in problem.maps)
    inputs, columns = problem.factor.shape
    outputs = problem.weights[-1].shape[0]
    return bool(columns * layers <= outputs * (layers + inputs * columns))


def _fisher_by_inputs(problem: Problem) -> Product:
    signals, weights = forward_signals(problem), problem.weights

    def product(steps: Steps) -> Steps:
        delta = _precision(problem, _changes(problem, signals, steps)[-1])
        result = []
        for i in range(problem.depth - 1, -1, -1):
            result.append(contract(signals[i], delta))
            if i:
                delta = contract(delta, weights[i])
        return result[::-1]

    return product


def _fisher_by_outputs(problem: Problem) -> Product:
    after, factor = whitened_after(problem), problem.factor

    def product(steps: Steps) -> Steps:
        back = contract(factor, contract(factor.T, _rows(problem, after, steps)[0]))
        result = []
        for i in range(problem.depth):
            result.append(contract(back, after[i]))
            if i < problem.depth - 1:
                back = contract(problem.maps[i], back)
        return result

    return product


def _hessian_by_inputs(problem: Problem) -> Product:
    signals, weights = forward_signals(problem), problem.weights
    deltas = [problem.precision(problem.through_last(signals[-1]) - problem.target)]
    for weight in weights[:0:-1]:
        deltas.append(k.matmul(weight.T, deltas[-1]))
    deltas = deltas[::-1]  # gradient_i = deltas_i Ã_iᵀ

    def product(steps: Steps) -> Steps:
        moved = _changes(problem, signals, steps)
        delta = _precision(problem, moved[-1])
        result = []
        for i in range(problem.depth - 1, -1, -1):
            found = contract(signals[i], delta)
            if i:
                size = weights[i].shape[1]
                found[:size] += contract(moved[i - 1].transpose(2, 1, 0), deltas[i].T)
                delta = contract(delta, weights[i])
                delta += contract(steps[i][:size], deltas[i]).transpose(2, 1, 0)
            result.append(found)
        return result[::-1]

    return product


def _hessian_by_outputs(problem: Problem) -> Product:
    after, factor = whitened_after(problem), problem.factor
    pulls = [k.matmul(-problem.whiten(problem.error_factor), factor.T)]  # gradient_i = B̃_iᵀ pulls_i
    for matrix in problem.maps[:-1]:
        pulls.append(k.matmul(pulls[-1], matrix.T))

    def product(steps: Steps) -> Steps:
        rows = _rows(problem, after, steps)
        back = contract(factor, contract(factor.T, rows[0]))
        result = []
        for i in range(problem.depth):
            found = contract(back, after[i])
            if i < problem.depth - 1:
                size = after[i].shape[1]
                found += contract(pulls[i].T, rows[i + 1][:size].transpose(2, 1, 0))
                back = contract(problem.maps[i], back)
                back[:size] += contract(pulls[i], steps[i]).transpose(2, 1, 0)
            result.append(found)
        return result

    return product


def _changes(problem: Problem, signals: Steps, steps: Steps) -> Steps:
    """Return the derivative (ρ, K, n_i) of the response of every layer to the columns of F."""
    changes = [contract(signals[0].T, steps[0])]
    for i in range(1, problem.depth):
        change = contract(changes[-1], problem.weights[i].T)
        change += contract(signals[i].T, steps[i])
        changes.append(change)
    return changes


def _rows(problem: Problem, after: Steps, steps: Steps) -> Steps:
    """Return the derivative (m_i, K, n_L) of C⁻¹ M_L ⋯ M_i for every layer i = 1 … L."""
    rows = [contract(steps[-1], after[-1].T)]
    for i in range(problem.depth - 2, -1, -1):
        row = contract(problem.maps[i].T, rows[-1])
        row += contract(steps[i], after[i].T)
        rows.append(row)
    return rows[::-1]


def _precision(problem: Problem, change: Array) -> Array:
    if problem.noise is None:
        return change
    flat = change.reshape(math.prod(change.shape[:-1]), change.shape[-1])
    return problem.precision(flat.T).T.reshape(change.shape)


def contract(a: Array, b: Array) -> Array:
    """Sum over the last axis of a and the first of b: one GEMM, and a result in C order, without a copy of it."""
    shape = *a.shape[:-1], *b.shape[1:]
    left = a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
    right = b.reshape(b.shape[0], math.prod(b.shape[1:]))
    return k.matmul(right.T, left.T).T.reshape(shape)
