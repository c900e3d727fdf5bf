"""What are the exact Fisher matrix and Hessian? Statements F1, F2, S1.

F = JᵀJ with J_i = Ã_iᵀ ⊗ B̃_i: the Fisher matrix of y | x ~ N(W x, Σ), targets from the model, means over
inputs. Parameters are ordered W_1, …, W_L (with biases [W_i b_i]), each flattened column by column;
`flatten` converts directions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from linnat._checks import Array, as_count, as_float_array, as_layer, fail, representable
from linnat.exact.chains import groups, make_problem
from linnat.exact.jacobian import jacobian_rank
from linnat.exact.loss import forward_signals, whitened_after
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from linnat.linalg.kernels import transpose
from linnat.linalg.kron import outer_kron
from linnat.linalg.memory import refuse_beyond_memory


@representable("net, task")
def fisher_block(net: LinearNetwork, task: Task, i: int, j: int) -> Array:
    """Return F_ij = (A_i S A_jᵀ) ⊗ (B_iᵀ Π B_j) (statement F1).

    Parameters
    ----------
    net : LinearNetwork
    task : Task
    i, j : int
        Layer numbers, 1 … L.

    Returns
    -------
    array (…, n_i n_{i-1}, n_j n_{j-1})
        n_{i-1} + 1 in place of n_{i-1} with biases.

    Examples
    --------
    >>> net = LinearNetwork([[[2.0]], [[3.0]]])
    >>> fisher_block(net, Task([[0.0]]), 1, 2)
    array([[6.]])
    """
    problem, batch = make_problem(net, task)
    first, second = as_layer(i, "i", net.depth) - 1, as_layer(j, "j", net.depth) - 1
    sizes = [layer.shape[-2] * layer.shape[-1] for layer in net.layers]
    count = sizes[first] * sizes[second] * int(np.prod(batch))
    refuse_beyond_memory("net", count, problem.factor.itemsize, "Use fisher_operator.")
    signals, after = forward_signals(problem), whitened_after(problem)
    block = _block(signals, after, first, second)
    return block.reshape(*batch, *block.shape[-2:])


@representable("net, task")
def fisher(net: LinearNetwork, task: Task) -> Array:
    """Return the Fisher matrix F = JᵀJ, dense (statement F1).

    Parameters
    ----------
    net : LinearNetwork
    task : Task

    Returns
    -------
    array (…, P, P)
        Positive semi-definite; singular for every L ≥ 2.

    Raises
    ------
    InputError
        If the matrix would exceed the stated share of memory; names `fisher_operator`.

    Notes
    -----
    True Fisher (targets from the model), mean over inputs, noise covariance Σ, no damping, column stacking.

    Examples
    --------
    >>> fisher(LinearNetwork([[[2.0]], [[3.0]]]), Task([[0.0]]))
    array([[9., 6.],
           [6., 4.]])
    """
    problem, batch = make_problem(net, task)
    _check_size(net, batch, "fisher", copies=2)
    signals, after = forward_signals(problem), whitened_after(problem)
    layers = range(net.depth)
    matrix = np.concatenate(
        [np.concatenate([_block(signals, after, i, j) for j in layers], axis=-1) for i in layers], axis=-2
    )
    return matrix.reshape(*batch, *matrix.shape[-2:])


@representable("net, task")
def fisher_rank(net: LinearNetwork, task: Task, rtol: float | None = None) -> Array:
    """Return rank F = Σ r(B̃_i) r(Ã_i) − Σ_{i<L} r(B̃_i) r(Ã_{i+1}) (statement F1).

    Parameters
    ----------
    net : LinearNetwork
    task : Task
    rtol : float, optional
        See `natural_gradient`.

    Returns
    -------
    integer array (…)
        Also the rank of J; F is never formed.

    Examples
    --------
    >>> int(fisher_rank(LinearNetwork.random((4, 4, 4, 4), rng=0), Task(np.eye(4))))
    16
    """
    problem, batch = make_problem(net, task)
    result = np.empty(problem.maps[0].shape[0] if batch else 1, int)
    for index, _, chains in groups(problem, batch, rtol):
        result[index] = jacobian_rank(chains)
    return result.reshape(batch)


@representable("net, task")
def hessian(net: LinearNetwork, task: Task) -> Array:
    """Return the Hessian of the loss, H = F + R (statement F2).

    Parameters
    ----------
    net : LinearNetwork
    task : Task

    Returns
    -------
    array (…, P, P)
        R_ii = 0; R_ij (i < j) pairs −Ẽ with B̃_j dW_j (W_{j-1} ⋯ W_{i+1}) dW_i Ã_i; H = F where Ẽ = 0 and for L = 1.

    Raises
    ------
    InputError
        If the matrix would exceed the stated share of memory; names `hessian_operator`.

    Examples
    --------
    >>> hessian(LinearNetwork([[[2.0]], [[3.0]]]), Task([[0.0]]))
    array([[ 9., 12.],
           [12.,  4.]])
    """
    problem, batch = make_problem(net, task)
    _check_size(net, batch, "hessian", copies=3)
    matrix = np.array(fisher(net, task)).reshape(
        *problem.maps[0].shape[:-2], net.n_parameters, net.n_parameters
    )
    signals = forward_signals(problem)
    residual = problem.precision(problem.through_last(signals[-1]) - problem.target)
    ends = np.cumsum([0] + [layer.shape[-2] * layer.shape[-1] for layer in net.layers])
    weights = problem.weights
    delta = residual
    for j in range(net.depth - 1, 0, -1):
        between = None
        for i in range(j - 1, -1, -1):
            block = _curvature(delta @ transpose(signals[i]), between, weights[j], i, net)
            rows, columns = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j] + block.shape[-1])
            matrix[..., rows, columns] += block
            matrix[..., columns, rows] += transpose(block)
            between = weights[i] if between is None else between @ weights[i]
        if j > 1:
            delta = transpose(weights[j]) @ delta
    return matrix.reshape(*batch, *matrix.shape[-2:])


@representable("singular_values")
def balanced_spectrum(singular_values: Any, depth: int, n_inputs: int, n_outputs: int) -> Array:
    """Return the eigenvalues of JJᵀ at balanced weights, S = I, Π = I (statement S1).

    Parameters
    ----------
    singular_values : array (…, r)
        Of the total weight, r ≤ min(n_0, n_L); padded with zeros.
    depth, n_inputs, n_outputs : int

    Returns
    -------
    array (…, n_L, n_0)
        λ_ba = Σ_i s_a^{2(i-1)/L} s_b^{2(L-i)/L} with 0⁰ = 1, b an output and a an input mode; its non-zero
        part is that of F.

    Examples
    --------
    >>> balanced_spectrum([4.0], 2, 1, 1)
    array([[8.]])
    """
    count = as_count(depth, "depth")
    inputs, outputs = as_count(n_inputs, "n_inputs"), as_count(n_outputs, "n_outputs")
    values = as_float_array(singular_values, "singular_values", min_ndim=1)
    if values.shape[-1] > min(inputs, outputs):
        fail("singular_values", f"at most min(n_0, n_L) = {min(inputs, outputs)}", f"{values.shape[-1]}")
    if (values < 0).any():
        fail("singular_values", "values ≥ 0", float(values.min()))
    root = np.zeros((*values.shape[:-1], max(inputs, outputs)), values.dtype)
    root[..., : values.shape[-1]] = values ** values.dtype.type(2 / count)
    a, b = root[..., None, :inputs], root[..., :outputs, None]
    return np.asarray(sum(a**i * b ** (count - 1 - i) for i in range(count)))


def _block(signals: list[Array], after: list[Array], i: int, j: int) -> Array:
    return outer_kron(signals[i] @ transpose(signals[j]), transpose(after[i]) @ after[j])


def _curvature(pairing: Array, between: Array | None, weight: Array, i: int, net: LinearNetwork) -> Array:
    """Return the matrix of ⟨D, dW_j X dW_i⟩, D = −B_jᵀ Π E S A_iᵀ, X = W_{j-1} ⋯ W_{i+1} (biases of layer j: none)."""
    # Entry: D_{ac} X_{bd} for dW_j[a, b] and dW_i[d, c]; both sides flattened column by column.
    size = weight.shape[-1]
    batch = pairing.shape[:-2]
    middle = (
        np.broadcast_to(np.eye(size, dtype=weight.dtype), (*batch, size, size))
        if between is None
        else between
    )
    tensor = np.einsum("...ac,...bd->...cdba", pairing, middle)
    rows = net.layers[i].shape[-1] * net.layers[i].shape[-2]
    return np.asarray(tensor.reshape(*batch, rows, -1))


def _check_size(net: LinearNetwork, batch: tuple[int, ...], name: str, copies: int) -> None:
    count = net.n_parameters**2 * int(np.prod(batch))
    refuse_beyond_memory("net", count, net.dtype.itemsize, f"Use {name}_operator.", copies)
