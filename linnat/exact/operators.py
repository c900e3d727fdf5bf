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
from collections.abc import Callable, Sequence
from typing import Any, cast

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
Product = Callable[[Steps, Steps], None]  # reads the first, writes into the second

WORKSPACE = 2**25  # numbers that a sweep may hold per layer; wider blocks are cut into several
COLUMNS = (
    2**22
)  # numbers in the columns that a sweep takes at once: more of them cost page faults and save nothing


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
        For stacks of networks or tasks, and for vectors that are not finite or not real.
    ValueError
        SciPy's "dimension mismatch", for vectors of the wrong length.

    Notes
    -----
    4L GEMMs, two fewer where S or Σ is the identity, 8 min(ρ, n_L) Σ n_i n_{i-1} flops per column; O(min(ρ, n_L) Σ n_i)
    memory beside the network. A vector is read and a result is written in place; of blocks, those in column order are.
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
    InputError, ValueError
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
    carried = width * max(1, min(problem.factor.shape[-1], net.widths[-1]))
    columns = max(1, min(WORKSPACE // carried, COLUMNS // int(ends[-1])))
    places = [(slice(lo, hi), n, m) for lo, hi, (m, n) in zip(ends[:-1], ends[1:], shapes, strict=True)]

    def cut(block: Array) -> Steps:
        # Column stacking: entry (a, b) of layer i stands at a + b n_i. A single column needs no copy.
        return [
            np.ascontiguousarray(block[place].reshape(n, m, -1).transpose(0, 2, 1)) for place, n, m in places
        ]

    @representable("net, task, vector")
    def matmat(vectors: Any) -> Array:
        block = as_float_array(vectors, "vector", min_ndim=1).astype(net.dtype, copy=False)
        block = block.reshape(ends[-1], -1)
        # Column by column: the K columns of a product are then moved in runs of n_i.
        result = np.empty(block.shape, net.dtype, order="F")
        for start in range(0, block.shape[1], columns):
            part = slice(start, start + columns)
            steps = cut(block[:, part])
            if min(columns, block.shape[1] - start) == 1:  # a column of the result is contiguous
                product(steps, [result[place, start].reshape(n, 1, m) for place, n, m in places])
                continue
            found = [np.empty_like(step) for step in steps]
            product(steps, found)
            for (place, n, m), piece in zip(places, found, strict=True):
                result.T[part, place].reshape(-1, n, m)[...] = piece.transpose(1, 0, 2)
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
    signals, weights = _input_signals(problem), problem.weights

    def product(steps: Steps, out: Steps) -> None:
        delta = _precision(problem, _changes(problem, signals, steps)[-1])
        for i in range(problem.depth - 1, -1, -1):
            contract(signals[i], delta, out[i])
            if i:
                delta = contract(delta, weights[i])

    return product


def _fisher_by_outputs(problem: Problem) -> Product:
    after, factor = _output_factors(problem), _unless_identity(problem.factor)

    def product(steps: Steps, out: Steps) -> None:
        back = _covariance(factor, _rows(problem, after, steps)[0])
        for i in range(problem.depth):
            contract(back, after[i], out[i])
            if i < problem.depth - 1:
                back = contract(problem.maps[i], back)

    return product


def _hessian_by_inputs(problem: Problem) -> Product:
    signals, weights = _input_signals(problem), problem.weights
    last = forward_signals(problem)[-1]
    deltas = [problem.precision(problem.through_last(last) - problem.target)]
    for weight in weights[:0:-1]:
        deltas.append(k.matmul(weight.T, deltas[-1]))
    deltas = deltas[::-1]  # gradient_i = deltas_i Ã_iᵀ

    def product(steps: Steps, out: Steps) -> None:
        moved = _changes(problem, signals, steps)
        delta = _precision(problem, moved[-1])
        for i in range(problem.depth - 1, -1, -1):
            contract(signals[i], delta, out[i])
            if i:
                size = weights[i].shape[1]
                contract(moved[i - 1].transpose(2, 1, 0), deltas[i].T, out[i][:size], add=True)
                delta = contract(delta, weights[i])
                delta += contract(steps[i][:size], deltas[i]).transpose(2, 1, 0)

    return product


def _hessian_by_outputs(problem: Problem) -> Product:
    after, factor = _output_factors(problem), _unless_identity(problem.factor)
    pulls = [k.matmul(-problem.whiten(problem.error_factor), problem.factor.T)]  # gradient_i = B̃_iᵀ pulls_i
    for matrix in problem.maps[:-1]:
        pulls.append(k.matmul(pulls[-1], matrix.T))

    def product(steps: Steps, out: Steps) -> None:
        rows = _rows(problem, after, steps)
        back = _covariance(factor, rows[0])
        for i in range(problem.depth):
            contract(back, after[i], out[i])
            if i < problem.depth - 1:
                size = problem.weights[i].shape[0]
                contract(pulls[i].T, rows[i + 1][:size].transpose(2, 1, 0), out[i], add=True)
                back = contract(problem.maps[i], back)
                back[:size] += contract(pulls[i], steps[i]).transpose(2, 1, 0)

    return product


def _changes(problem: Problem, signals: Sequence[Array | None], steps: Steps) -> Steps:
    """Return the derivative (ρ, K, n_i) of the response of every layer to the columns of F."""
    changes = [contract(_flip(signals[0]), steps[0])]
    for i in range(1, problem.depth):
        change = contract(changes[-1], problem.weights[i].T)
        contract(_flip(signals[i]), steps[i], change, add=True)
        changes.append(change)
    return changes


def _rows(problem: Problem, after: Sequence[Array | None], steps: Steps) -> Steps:
    """Return the derivative (m_i, K, n_L) of C⁻¹ M_L ⋯ M_i for every layer i = 1 … L."""
    rows = [contract(steps[-1], _flip(after[-1]))]
    for i in range(problem.depth - 2, -1, -1):
        row = contract(problem.maps[i].T, rows[-1])
        contract(steps[i], _flip(after[i]), row, add=True)
        rows.append(row)
    return rows[::-1]


def _input_signals(problem: Problem) -> list[Array | None]:
    """Return Ã_i; None for an Ã_1 = F that is the identity."""
    first, *others = forward_signals(problem)
    return [_unless_identity(first), *others]


def _output_factors(problem: Problem) -> list[Array | None]:
    """Return B̃_i; None for a B̃_L = C⁻¹ that is the identity."""
    *others, last = whitened_after(problem)
    return [*others, None if problem.noise is None else last]


def _unless_identity(matrix: Array) -> Array | None:
    rows, columns = matrix.shape
    return None if rows == columns and (matrix == np.eye(rows, dtype=matrix.dtype)).all() else matrix


def _flip(matrix: Array | None) -> Array | None:
    return None if matrix is None else matrix.T


def _covariance(factor: Array | None, rows: Array) -> Array:
    """Return F Fᵀ X."""
    return rows if factor is None else contract(factor, contract(factor.T, rows))


def _precision(problem: Problem, change: Array) -> Array:
    if problem.noise is None:
        return change
    flat = change.reshape(math.prod(change.shape[:-1]), change.shape[-1])
    return problem.precision(flat.T).T.reshape(change.shape)


def contract(a: Array | None, b: Array | None, out: Array | None = None, *, add: bool = False) -> Array:
    """Sum over the last axis of a and the first of b (None: the identity), into `out`, or to be added to it.

    One GEMM, and a result in C order, without a copy of it.
    """
    if a is None or b is None:
        only = cast(Array, b if a is None else a)
        if out is None:
            return only
        out[...] = out + only if add else only
        return out
    shape = *a.shape[:-1], *b.shape[1:]
    left = a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
    right = b.reshape(b.shape[0], math.prod(b.shape[1:]))
    if out is None:
        return k.matmul(right.T, left.T).T.reshape(shape)
    k.matmul_into(out.reshape(len(left), right.shape[1]).T, right.T, left.T, add=add)
    return out
