"""Which directions of the parameters change nothing that the network computes? Statements F1, N8.

ker J = ⊕_i ker J_i ⊕ exchanges, for any widths, any ranks of the layers, any S. ker J_i, "outside", are the steps of
one layer beyond the ranges of B̃_iᵀ and Ã_i. An exchange is v_i = X M_i, v_{i+1} = −W_{i+1} X: what layer i gains the
next one takes back. On the ranges X = V_i Y U_{i+1}ᵀ with Y (r(B̃_i) × r(Ã_{i+1})) free, so that the nullity of F is
Σ_i (n_i m_i − r(B̃_i)r(Ã_i)) + Σ_{i<L} r(B̃_i)r(Ã_{i+1}).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from linnat._checks import Array, ConditionError, representable
from linnat.exact.chains import Chains, Problem, groups, make_problem
from linnat.exact.kernel import dense_kernel, directions, make_kernel
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from linnat.linalg.kron import kron
from linnat.linalg.memory import refuse_beyond_memory
from linnat.linalg.vec import vec

REMEDY = "gauge='minimum-norm' projects on its complement without forming it."


class NullSpace(NamedTuple):
    """A basis of the null space of J, which is that of F; columns in the order of `flatten`.

    Attributes
    ----------
    exchanges : array (…, P, k)
        Unit vectors. The exchanges of one hidden layer are orthonormal, so are those of hidden layers two or more
        apart; those of neighbours are independent but not orthogonal.
    outside : array (…, P, m)
        Orthonormal, each within one layer, orthogonal to every exchange.
    """

    exchanges: Array
    outside: Array

    @property
    def dimension(self) -> int:
        """The nullity of F."""
        return int(self.exchanges.shape[-1] + self.outside.shape[-1])


@representable("net, task")
def null_space(net: LinearNetwork, task: Task, rtol: float | None = None) -> NullSpace:
    """Return a basis of the directions along which the total weight stands still on the inputs (statement N8).

    Parameters
    ----------
    net : LinearNetwork
    task : Task
        Leading axes of both broadcast.
    rtol : float, optional
        See `natural_gradient`: the ranks decide the dimension.

    Returns
    -------
    NullSpace

    Raises
    ------
    ConditionError
        Where the networks of a stack have null spaces of different dimension.
    InputError
        For bad arguments, and where the basis would exceed the stated share of memory.

    Warns
    -----
    RankWarning
        Where a rank is undetermined at working precision.

    Notes
    -----
    Two small SVDs for each hidden layer and the P × dimension numbers of the result; no SVD of J, whose condition does
    not enter.

    Examples
    --------
    >>> found = null_space(LinearNetwork([[[3.0]], [[4.0]]]), Task([[1.0]]))
    >>> found.exchanges, found.dimension
    (array([[ 0.6],
           [-0.8]]), 1)
    """
    problem, batch = make_problem(net, task)
    size = math.prod(batch)
    refuse_beyond_memory("net", size * net.n_parameters**2, net.dtype.itemsize, REMEDY, copies=3)
    found = [
        (index, _exchanges(part, chains), _outside(part, chains))
        for index, part, chains in groups(problem, batch, rtol)
    ]
    widths = {(first.shape[-1], second.shape[-1]) for _, first, second in found}
    if len(widths) > 1:
        dimensions = sorted({sum(pair) for pair in widths})
        raise ConditionError(
            f"net: expected networks of equal ranks in a stack, found null spaces of {dimensions} dimensions; "
            "take them one by one (N8)."
        )
    ((exchanges, outside),) = widths
    leading = (size,) if batch else ()
    result = [np.empty((*leading, net.n_parameters, count), net.dtype) for count in (exchanges, outside)]
    for index, *pair in found:
        for whole, part in zip(result, pair, strict=True):
            whole[index] = part
    return NullSpace(*(r.reshape(*batch, *r.shape[-2:]) for r in result))


def _exchanges(problem: Problem, chains: Chains) -> Array:
    """Return the exchanges of `linnat.exact.kernel` as columns (…, P, k)."""
    shape = problem.maps[0].shape[:-2]
    length = sum(w.shape[-2] * m.shape[-1] for w, m in zip(problem.weights, problem.maps, strict=True))
    kernel = make_kernel(problem, chains) if problem.depth > 1 else None
    if kernel is None or kernel.size == 0:
        return np.zeros((*shape, length, 0), problem.factor.dtype)
    pieces = directions(kernel, np.moveaxis(dense_kernel(kernel), -1, 0))
    return np.moveaxis(np.concatenate([vec(v) for v in pieces], axis=-1), 0, -1)


def _outside(problem: Problem, chains: Chains) -> Array:
    """Return the steps of single layers beyond range B̃_iᵀ and range Ã_i, orthonormal columns (…, P, m)."""
    blocks, sizes = [], []
    for i, (weight, matrix) in enumerate(zip(problem.weights, problem.maps, strict=True)):
        rows, columns = weight.shape[-2], matrix.shape[-1]
        own, beyond = _split(chains.left.bases[problem.depth - 1 - i], rows, weight)
        other, past = _split(chains.right.bases[i], columns, weight)
        parts = [(np.concatenate([other, past], axis=-1), beyond), (past, own)]
        blocks.append([kron(b, a) for b, a in parts if a.shape[-1] and b.shape[-1]])
        sizes.append(rows * columns)
    shape, dtype, start = problem.maps[0].shape[:-2], problem.factor.dtype, 0
    result = []
    for size, members in zip(sizes, blocks, strict=True):
        for block in members:
            columns_of = np.zeros((*shape, sum(sizes), block.shape[-1]), dtype)
            columns_of[..., start : start + size, :] = block
            result.append(columns_of)
        start += size
    return np.concatenate(result, axis=-1) if result else np.zeros((*shape, sum(sizes), 0), dtype)


def _split(basis: Array | None, size: int, like: Array) -> tuple[Array, Array]:
    """Return an orthonormal basis (the identity for None) and one of its complement."""
    if basis is None:
        eye = np.broadcast_to(np.eye(size, dtype=like.dtype), (*like.shape[:-2], size, size))
        return eye, eye[..., :0]
    if basis.shape[-1] == 0:
        return basis, np.broadcast_to(np.eye(size, dtype=like.dtype), (*like.shape[:-2], size, size))
    return basis, np.linalg.qr(basis, mode="complete")[0][..., basis.shape[-1] :]
