"""How do the two sides of each layer factor? Sweeps of Ã_i = A_i F and B̃_iᵀ, and their ranks (X9, X10).

Stacks of networks are grouped by their ranks: each group is swept at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, as_scalar, check_broadcast, fail, representable
from linnat.exact.network import LinearNetwork, as_network
from linnat.exact.perturbation import Sides, sides_of
from linnat.exact.task import Task, as_task
from linnat.linalg import kernels as k
from linnat.linalg.chain import Sweep, generic_ranks, sweep
from linnat.linalg.chain_ranks import decide_ranks
from linnat.linalg.kernels import transpose


class Problem(NamedTuple):
    """Plain arrays of a network and a task (or of a group of networks of equal ranks).

    Attributes
    ----------
    maps : tuple of arrays
        M_i (with biases) or W_i.
    weights : tuple of arrays
        W_i.
    factor, target : arrays
        F and W* F.
    goal : array
        The total weight that minimises the loss.
    noise : array or None
        C with Σ = C Cᵀ; None for the identity.
    """

    maps: tuple[Array, ...]
    weights: tuple[Array, ...]
    factor: Array
    target: Array
    goal: Array
    noise: Array | None

    @property
    def depth(self) -> int:
        """Number of layers L."""
        return len(self.weights)

    @property
    def biases(self) -> bool:
        """Whether the maps are affine."""
        return bool(self.maps[0].shape[-1] > self.weights[0].shape[-1])

    @property
    def error(self) -> Array:
        """E = W* − W (with biases [W* − W, c* − c])."""
        return self.goal - self.through(None)

    @property
    def error_factor(self) -> Array:
        """E F, from W* F and W_L(⋯(W_1 F)): no product of layers."""
        return self.target - self.through(self.factor)

    def through(self, signal: Array | None) -> Array:
        """Return the network's response to the columns of `signal` (the identity if None)."""
        for matrix in self.maps[:-1]:
            signal = matrix if signal is None else k.matmul(matrix, signal)
        return self.through_last(signal)

    def through_last(self, signal: Array | None) -> Array:
        """Return the last layer's response."""
        last = self.maps[-1][..., : self.weights[-1].shape[-2], :]
        return last if signal is None else k.matmul(last, signal)

    def whiten(self, matrix: Array) -> Array:
        """Return C⁻¹ M."""
        return matrix if self.noise is None else k.solve_triangular(self.noise, matrix, lower=True)

    def precision(self, matrix: Array) -> Array:
        """Return Π M."""
        if self.noise is None:
            return matrix
        return k.solve_triangular(self.noise, self.whiten(matrix), lower=True, transposed=True)

    def colour(self, matrix: Array) -> Array:
        """Return C M."""
        return matrix if self.noise is None else k.matmul(self.noise, matrix)

    def take(self, index: Any) -> Problem:
        """Return part of a stack."""
        return Problem(
            tuple(m[index] for m in self.maps),
            tuple(w[index] for w in self.weights),
            self.factor[index],
            self.target[index],
            self.goal[index],
            None if self.noise is None else self.noise[index],
        )


class Chains(NamedTuple):
    """Both sweeps of a problem: `left` of B̃_L = C⁻¹, …, B̃_1 (transposed), `right` of Ã_1 = F, …, Ã_L."""

    left: Sweep
    right: Sweep

    @property
    def thin(self) -> bool:
        """Whether a sweep has left out what a drop of rank cuts off."""
        return bool(self.left.whole or self.right.whole)

    @property
    def output_ranks(self) -> tuple[int, ...]:
        """r(B̃_1), …, r(B̃_L)."""
        return self.left.ranks[::-1]

    @property
    def input_ranks(self) -> tuple[int, ...]:
        """r(Ã_1), …, r(Ã_L)."""
        return self.right.ranks


class Ranks(NamedTuple):
    """The ranks of both sides of every layer.

    Attributes
    ----------
    before : integer array (…, L)
        r(Ã_i), of what the input goes through before layer i.
    after : integer array (…, L)
        r(B̃_i), of what the error goes through after layer i.
    """

    before: Array
    after: Array


def make_problem(net: LinearNetwork, task: Task) -> tuple[Problem, tuple[int, ...]]:
    """Validate a pair; return its arrays, leading axes made one, and the batch shape (() for one network)."""
    as_network(net), as_task(task)
    inputs, outputs = net.weights[0].shape[-1], net.weights[-1].shape[-2]
    if (outputs, inputs) != task.teacher.shape[-2:]:
        widths = f"{inputs} inputs and {outputs} outputs"
        fail("task", f"{widths}, like the network", f"{task.n_inputs} inputs and {task.n_outputs} outputs")
    batch = check_broadcast([net.batch_shape, task.batch_shape], "net and task")
    return assemble(net, sides_of(task, net.has_biases), batch), batch


def assemble(net: LinearNetwork, sides: Sides, batch: tuple[int, ...]) -> Problem:
    """Return the arrays of a network and of what it sees of a task, leading axes made one."""
    if not batch and net.dtype.char == "d":
        return Problem(net.maps, net.weights, *sides.moments[:2], sides.goal, sides.noise)

    def settle(array: Array) -> Array:
        array = array.astype(net.dtype, copy=False)
        if not batch:
            return array
        core = array.shape[-2:]
        return np.broadcast_to(array, (*batch, *core)).reshape(math.prod(batch), *core)

    noise = None if sides.noise is None else settle(sides.noise)
    moments = settle(sides.moments.factor), settle(sides.moments.target)
    return Problem(
        tuple(map(settle, net.maps)), tuple(map(settle, net.weights)), *moments, settle(sides.goal), noise
    )


def groups(
    problem: Problem, batch: tuple[int, ...], rtol: float | None = None, *, thin: bool = False
) -> Iterator[tuple[Any, Problem, Chains]]:
    """Yield (index, problem, chains) for each set of networks with equal ranks; sweeps are thin where they can be."""
    cut = None if rtol is None else as_scalar(rtol, "rtol", low=0.0)
    generic = _generic(problem)
    if cut is None and generic is not None:
        chains = make_chains(problem, *generic, thin=thin)
        certain = chains.left.certain & chains.right.certain
        if certain.all():
            yield ..., problem, chains
            return
    else:
        certain = np.zeros(problem.maps[0].shape[:-2], bool)
    if not batch:
        yield ..., problem, make_chains(problem, *_decide(problem, cut), thin=thin)
        return
    patterns: dict[Any, list[int]] = {}
    for i in range(len(certain)):
        key = generic if certain[i] else _decide(problem.take(i), cut)
        patterns.setdefault(key, []).append(i)
    for (left, right), members in patterns.items():
        part = problem.take(members)
        yield members, part, make_chains(part, left, right, thin=thin)


def make_chains(
    problem: Problem, left: tuple[int, ...], right: tuple[int, ...], *, thin: bool = False
) -> Chains:
    """Sweep both sides with given ranks (r_0 … r_m, counted from the outside); `thin` where they can be."""
    thin = thin and _can_be_thin(left, right)
    factors, maps = outward_factors(problem)
    if factors and left[-1] < left[0]:
        # Where a rank drops on the output side, projectors are orthogonal in the metric of the noise.
        factors[0] = transpose(problem.whiten(problem.weights[-1]))
    start = problem.factor if _needs_factor(problem, right) else None
    scales = k.column_norms(start) if thin and start is not None and not problem.biases else None
    chains = Chains(
        sweep(None, factors, left, thin=thin), sweep(start, maps, right, thin=thin, scales=scales)
    )
    shape = problem.maps[0].shape[:-2]
    if not shape:
        return chains
    sides = (s._replace(certain=np.broadcast_to(s.certain, shape)) for s in chains)
    return Chains(*sides)


@representable("net, task")
def ranks(net: LinearNetwork, task: Task, rtol: float | None = None) -> Ranks:
    """Return the ranks of both sides of every layer, decided as `natural_gradient` decides them.

    Parameters
    ----------
    net : LinearNetwork
    task : Task
    rtol : float, optional
        See `natural_gradient`.

    Returns
    -------
    Ranks
        Integer arrays (…, L): `before`, r(Ã_i) = rank of A_i S^½, and `after`, r(B̃_i) = rank of B_i.

    Examples
    --------
    >>> net = LinearNetwork.random((5, 2, 5), rng=0)
    >>> ranks(net, Task(np.eye(5)))
    Ranks(before=array([5, 2]), after=array([2, 5]))
    """
    problem, batch = make_problem(net, task)
    size = problem.maps[0].shape[0] if batch else 1
    before, after = (np.empty((size, net.depth), int) for _ in range(2))
    for index, _, chains in groups(problem, batch, rtol):
        before[index], after[index] = chains.input_ranks, chains.output_ranks
    return Ranks(before.reshape(*batch, net.depth), after.reshape(*batch, net.depth))


def _needs_factor(problem: Problem, right: tuple[int, ...]) -> bool:
    # With S invertible and no drop of rank S cancels, and its condition with it; and where it is the identity.
    size = problem.maps[0].shape[-1]
    return right[0] < size or (right[-1] < right[0] and not _is_identity(problem.factor))


def _is_identity(matrix: Array) -> bool:
    rows, columns = matrix.shape[-2:]
    diagonal = np.diagonal(matrix, axis1=-2, axis2=-1)
    return rows == columns and bool((diagonal == 1).all()) and np.count_nonzero(matrix) == diagonal.size


def _can_be_thin(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    """Return whether no layer sees all inputs and all outputs, where both sides drop."""
    both = left[-1] < left[0] and right[-1] < right[0]
    return not both or left.count(left[0]) + right.count(right[0]) <= len(left)


def _generic(problem: Problem) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the ranks that the widths allow, or None where the ranks of S differ within the stack."""
    counts = (np.abs(problem.factor).max(axis=-2, initial=0.0) > 0).sum(axis=-1)
    if counts.ndim and (counts != counts.flat[0]).any():
        return None
    left = generic_ranks(problem.weights[-1].shape[-2], [w.shape[-1] for w in problem.weights[:0:-1]])
    return left, generic_ranks(int(counts.flat[0]), [m.shape[-2] for m in problem.maps[:-1]])


def outward_factors(problem: Problem) -> tuple[list[Array], list[Array]]:
    """Return the factors of both sweeps, counted from the outside: W_Lᵀ … W_2ᵀ, and M_1 … M_{L-1}."""
    return [transpose(w) for w in problem.weights[:0:-1]], list(problem.maps[:-1])


def _decide(problem: Problem, rtol: float | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    outer, inner = outward_factors(problem)
    left: tuple[int, ...] = (problem.weights[-1].shape[-2],)
    if outer:
        left = decide_ranks(None, outer, rtol)
    return left, decide_ranks(problem.factor, inner, rtol)
