"""What decides a layerwise flow on square chains? The ratio G = W(0)⁻¹ W* and its spectrum.

Statements C2, C3, D1, D2 and X5 are statements about G: the flow has W(t) = W(0) [e^{-t} I + (1 − e^{-t})
G], a discrete step W⁺ = W [I + (η/L)(G − I)]^L. With biases M_i = [W_i b_i; 0 1] stands for W_i (X10): spec
G gains an eigenvalue 1. G is obtained by a chain of solves with single layers, never with their product
(X9). Everything is float64 inside.

Two decisions need a tolerance. Which eigenvalues are 0: as many as W* has singular values below `rtol` (its
Jordan chains by a staircase of orthogonal deflations). Which are real: those of a complex pair, too, whose
standardised 2 × 2 Schur block [a b; c a] has min(|b|, |c|) within the error of G, for then a matrix as
close as rounding has a real double eigenvalue.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np

from linnat._checks import Array, ConditionError, as_scalar, check_broadcast, fail
from linnat.exact.network import LinearNetwork, as_network
from linnat.exact.task import Task, as_task
from linnat.linalg.rank import count_rank, default_rtol


class Ratio(NamedTuple):
    """G = W(0)⁻¹ W* and its eigendecomposition.

    Attributes
    ----------
    matrix : array (…, n, n)
        G; with biases (…, n + 1, n + 1).
    values : complex array (…, n)
        Eigenvalues; those that are 0 are exactly 0.
    vectors : complex array (…, n, n)
        Eigenvectors in columns, of length 1; conjugate for conjugate eigenvalues.
    on_axis : bool array (…, n)
        Whether the eigenvalue is real to the precision of G.
    defective : bool array (…)
        Whether the eigenvalue 0 is defective: then the columns of `vectors` do not span.
    nullity : integer array (…)
        Dimension of the null space of W*.
    slack : array (…)
        First-order error of G in norm.
    """

    matrix: Array
    values: Array
    vectors: Array
    on_axis: Array
    defective: Array
    nullity: Array
    slack: Array


class Chain(NamedTuple):
    """A square chain in float64: the layers' maps, the goal as a square matrix, Σ_i κ(map_i) (…)."""

    maps: tuple[Array, ...]
    goal: Array
    condition: Array


def square_chain(net: LinearNetwork, task: Task, statement: str) -> Chain:
    """Return the layers as square non-singular matrices, or raise naming the condition that is not met."""
    widths = net.widths
    goal = task.goal(net.has_biases)
    if len(set(widths)) > 1:
        raise ConditionError(
            f"net: {statement} needs square layers, found widths {widths}. The total weight follows C1 "
            "(flow.natural_total) where (J) holds and X2 in a bottleneck."
        )
    rank, size = np.min(task.moments(net.has_biases).rank), widths[0] + net.has_biases
    if rank < size:
        raise ConditionError(
            f"task: {statement} needs a positive definite second moment of the inputs, found rank "
            f"{rank} of {size}{' in (x, 1)' if net.has_biases else ''}. "
            "The total weight on the range of S follows C1 (flow.natural_total)."
        )
    maps = tuple(m.astype(np.float64) for m in net.maps)
    values = np.linalg.svd(np.stack(maps, axis=-3), compute_uv=False)
    cut = values.shape[-1] * float(np.finfo(net.dtype).eps)
    singular = values[..., -1] <= cut * values[..., 0]
    if singular.any():
        layer = int(np.argwhere(singular)[0][-1]) + 1
        raise ConditionError(
            f"net: {statement} needs invertible layers; layer {layer} is singular (σ_min/σ_max ≤ {cut:.1e}). "
            "Where (J) fails the total weight stays on the manifold of its rank: X2."
        )
    condition = (values[..., 0] / values[..., -1]).sum(axis=-1)
    if net.has_biases:
        bottom = np.zeros((*goal.shape[:-2], 1, goal.shape[-1]))
        bottom[..., -1] = 1
        goal = np.concatenate([goal, bottom], axis=-2)
    return Chain(maps, goal, condition)


def as_pair(net: Any, task: Any) -> tuple[LinearNetwork, Task]:
    """Return a network and a task that fit each other."""
    network, problem = as_network(net), as_task(task)
    if (network.widths[0], network.widths[-1]) != (problem.n_inputs, problem.n_outputs):
        found = f"{problem.n_inputs} inputs and {problem.n_outputs} outputs"
        fail("task", f"{network.widths[0]} inputs and {network.widths[-1]} outputs, as net has", found)
    check_broadcast([network.batch_shape, problem.batch_shape], "net, task")
    return network, problem


def ratio_matrix(chain: Chain) -> Array:
    """Return G = W(0)⁻¹ W* by one solve per layer."""
    ratio = chain.goal
    for matrix in reversed(chain.maps):
        ratio = np.linalg.solve(matrix, ratio)
    return ratio


def analyse(chain: Chain, rtol: float | None = None) -> Ratio:
    """Return G and its spectrum.

    Parameters
    ----------
    chain : Chain
    rtol : float, optional
        Singular values of W* below rtol times the largest count as 0; n eps by default.

    Returns
    -------
    Ratio

    Notes
    -----
    One eigendecomposition, about 25 n³ flops. First-order error of G: 8 n eps ‖G‖ Σ_i κ(W_i).
    """
    matrix = ratio_matrix(chain)
    cut = default_rtol(matrix) if rtol is None else as_scalar(rtol, "rtol", low=0.0)
    size = matrix.shape[-1]
    norm = np.linalg.norm(matrix, axis=(-1, -2))
    slack = 8 * size * float(np.finfo(np.float64).eps) * norm * chain.condition
    values, vectors = (a.astype(np.complex128) for a in np.linalg.eig(matrix))
    defective = np.zeros(norm.shape, dtype=bool)
    goal = np.broadcast_to(chain.goal, matrix.shape)
    nullity = size - count_rank(np.linalg.svd(goal, compute_uv=False), cut)
    for place in map(tuple, np.argwhere(nullity > 0)):
        basis = null_basis(goal[place], int(nullity[place]))
        values[place], vectors[place], defective[place] = _with_zeros(
            matrix[place], basis, float(slack[place])
        )
    return Ratio(matrix, values, vectors, _on_axis(matrix, values, vectors, slack), defective, nullity, slack)


def analyse_matrix(matrix: Array, slack: Array) -> tuple[Array, Array]:
    """Return eigenvalues of general real matrices and whether they are real to within `slack`."""
    values, vectors = (a.astype(np.complex128) for a in np.linalg.eig(matrix))
    return values, _on_axis(matrix, values, vectors, slack)


def null_basis(matrix: Array, nullity: int) -> Array:
    """Return an orthonormal basis (n, nullity) of the null space of one matrix of known nullity."""
    return cast(Array, np.linalg.svd(matrix)[2][matrix.shape[-1] - nullity :].T)


def staircase(matrix: Array, basis: Array, cut: float) -> tuple[Array, list[int]]:
    """Deflate the eigenvalue 0 of one matrix by orthogonal transformations (Kublanovskaya).

    `basis` spans the null space. Returns orthogonal Q and block sizes m_1, m_2, …: Qᵀ G Q is block upper
    triangular, its leading diagonal blocks of these sizes are 0 and the remaining one is non-singular. One
    block: 0 is semisimple; more: defective.
    """
    size, sizes = len(matrix), [basis.shape[1]]
    rotation = np.concatenate([basis, _complement(basis)], axis=1)
    while (top := sum(sizes)) < size:
        rest = rotation[:, top:]
        _, values, right = np.linalg.svd(rest.T @ matrix @ rest)
        count = int((values <= cut).sum())
        if not count:
            break
        rotation = np.concatenate([rotation[:, :top], rest @ right[::-1].T], axis=1)
        sizes.append(count)
    return rotation, sizes


def _complement(basis: Array) -> Array:
    full = np.linalg.qr(basis, mode="complete")[0]
    return full[:, basis.shape[1] :]


def _with_zeros(matrix: Array, basis: Array, cut: float) -> tuple[Array, Array, bool]:
    """Return eigenvalues with exact zeros, eigenvectors, and whether 0 is defective."""
    rotation, sizes = staircase(matrix, basis, cut)
    top, size = sum(sizes), len(matrix)
    turned = rotation.T @ matrix @ rotation
    values, vectors = np.zeros(size, np.complex128), np.eye(size, dtype=np.complex128)
    if top < size:
        values[top:], vectors[top:, top:] = np.linalg.eig(turned[top:, top:])
    if len(sizes) == 1:
        # [0 C; 0 H] (x, v) = μ (x, v) has x = C v / μ.
        vectors[:top, top:] = turned[:top, top:] @ vectors[top:, top:] / values[top:]
    vectors = rotation @ vectors
    return values, vectors / np.linalg.norm(vectors, axis=0), len(sizes) > 1


def _on_axis(matrix: Array, values: Array, vectors: Array, slack: Array) -> Array:
    """Say which eigenvalues are real, or belong to a pair that an error of G within `slack` makes real."""
    on_axis = values.imag == 0
    if on_axis.all():
        return np.asarray(on_axis)
    first = vectors.real / np.maximum(np.linalg.norm(vectors.real, axis=-2, keepdims=True), 1e-300)
    second = vectors.imag - first * (first * vectors.imag).sum(axis=-2, keepdims=True)
    length = np.linalg.norm(second, axis=-2, keepdims=True)
    second = np.divide(second, length, out=np.zeros_like(second), where=length > 0)
    # Of the standardised block [a b; c a]: |b| + |c| = |q − r| and |b c| = β², invariant under rotations.
    q = (first * (matrix @ second)).sum(axis=-2)
    r = (second * (matrix @ first)).sum(axis=-2)
    spread, beta = np.abs(q - r), np.abs(values.imag)
    root = np.sqrt(np.maximum(spread**2 - 4 * beta**2, 0.0))
    smaller = np.divide(2 * beta**2, spread + root, out=np.zeros_like(beta), where=spread > 0)
    return np.asarray(on_axis | (smaller <= np.asarray(slack)[..., None]))
