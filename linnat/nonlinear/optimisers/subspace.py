"""Search a small subspace by the true loss: Krylov subspace descent and natural conjugate gradients. Statements O4, O5.

Krylov subspace descent (Vinyals and Povey 2012) spans {g, M g, …, M^{K−1} g, last step} with a curvature matrix M; the
space is the same for M and M + λ I (statement O4), so no damping is chosen. Natural conjugate gradients (Pascanu and
Bengio 2014) span the natural gradient and the last step. In either case the basis is made orthonormal and the loss
itself is minimised over it by a few iterations of BFGS, on rows of their own if there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

from linnat._checks import Array, as_choice, as_count, as_scalar
from linnat.nonlinear import passes
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers._contract import Batch, Report, check_batch
from linnat.nonlinear.optimisers.first_order import workspace
from linnat.nonlinear.optimisers.truncated_newton import conjugate_gradients
from linnat.nonlinear.output import check_finite, step_gradient
from linnat.nonlinear.passes import Workspace

MATRICES = ("fisher", "gauss-newton", "hessian")


class SubspaceState(NamedTuple):
    """Parameters, the last step, and buffers."""

    net: Network
    theta: Array
    updates: int
    last: Array
    work: Workspace | None
    metric: Workspace | None


class _Subspace:
    """What both methods share: from spanning vectors to a step."""

    iterations: int

    def init(self, net: Network, theta: Array) -> SubspaceState:
        """Return the state before the first update; the parameters are copied."""
        start = net.as_vector(theta).copy()
        return SubspaceState(net, start, 0, np.zeros_like(start), None, None)

    def step(
        self, state: SubspaceState, batch: Batch, rng: np.random.Generator
    ) -> tuple[SubspaceState, Report]:
        """Return the state after an update."""
        net, theta = state.net, state.theta
        check_batch(net, theta.dtype, batch)
        work, gradient = workspace(net, state.work, batch.x), np.empty_like(theta)
        value, square = step_gradient(net, theta, batch.x, batch.y, work, gradient)
        check_finite(value, square)
        rows = work
        if batch.metric is not None:
            rows = workspace(net, state.metric, batch.metric)
            passes.forward(net, theta, batch.metric, rows)
        vectors, products = self._span(state, rows, batch, gradient)
        if state.updates > 0:
            vectors.append(state.last)
        basis = orthonormal(vectors)
        coefficients = search(net, theta, basis, batch.search or (batch.x, batch.y), self.iterations)
        state.last[...] = basis @ coefficients
        theta += state.last
        report = Report(value, square**0.5, float(np.linalg.norm(state.last)), products=products)
        state = state._replace(updates=state.updates + 1, work=work)
        return state._replace(metric=rows if batch.metric is not None else state.metric), report

    def _span(
        self, state: SubspaceState, rows: Workspace, batch: Batch, gradient: Array
    ) -> tuple[list[Array], int]:
        raise NotImplementedError


@dataclass(frozen=True)
class KrylovSubspaceDescent(_Subspace):
    """Krylov subspace descent.

    Parameters
    ----------
    size : int
        K, powers of the matrix.
    iterations : int
        Of BFGS.
    matrix : "fisher", "gauss-newton" or "hessian"

    Examples
    --------
    >>> net, method = Network((1, 1), family="gaussian"), KrylovSubspaceDescent(2)
    >>> batch = Batch(np.array([[1.0], [2.0]]), np.array([[1.0], [3.0]]))
    >>> method.step(method.init(net, np.zeros(2)), batch, np.random.default_rng(0))[0].theta.round(4)
    array([ 2., -1.])
    """

    size: int = 20
    iterations: int = 30
    matrix: str = "gauss-newton"

    def __post_init__(self) -> None:
        as_count(self.size, "size")
        as_count(self.iterations, "iterations")
        as_choice(self.matrix, "matrix", MATRICES)

    def _span(
        self, state: SubspaceState, rows: Workspace, batch: Batch, gradient: Array
    ) -> tuple[list[Array], int]:
        net, theta = state.net, state.theta
        vectors = [gradient]
        for _ in range(self.size - 1):
            vector = vectors[-1] / np.linalg.norm(vectors[-1]) if vectors[-1].any() else vectors[-1]
            if self.matrix == "fisher":
                vectors.append(passes.fisher_product(net, theta, rows, vector))
            elif self.matrix == "gauss-newton":
                vectors.append(passes.gauss_newton_product(net, theta, rows, batch.y, vector))
            else:
                vectors.append(passes.hessian_product(net, theta, rows, batch.y, vector))
        return vectors, self.size - 1


@dataclass(frozen=True)
class NaturalConjugateGradient(_Subspace):
    """Natural conjugate gradients: the best step in the plane of the natural gradient and the last step.

    Parameters
    ----------
    damping : float
        λ of (F + λ I) u = g.
    solver_iterations : int
        Of conjugate gradients, for u.
    iterations : int
        Of BFGS in the plane.

    Examples
    --------
    >>> net, method = Network((1, 1), family="gaussian"), NaturalConjugateGradient(1e-9)
    >>> batch = Batch(np.array([[1.0], [2.0]]), np.array([[1.0], [3.0]]))
    >>> method.step(method.init(net, np.zeros(2)), batch, np.random.default_rng(0))[0].theta.round(4)
    array([ 2., -1.])
    """

    damping: float = 1e-2
    solver_iterations: int = 50
    iterations: int = 10

    def __post_init__(self) -> None:
        as_scalar(self.damping, "damping", low=0.0)
        as_count(self.solver_iterations, "solver_iterations")
        as_count(self.iterations, "iterations")

    def _span(
        self, state: SubspaceState, rows: Workspace, batch: Batch, gradient: Array
    ) -> tuple[list[Array], int]:
        net, theta = state.net, state.theta

        def damped(vector: Array) -> Array:
            return passes.fisher_product(net, theta, rows, vector) + self.damping * vector

        start = np.zeros_like(gradient)
        kept, count = conjugate_gradients(damped, gradient, start, self.solver_iterations, 5e-4)
        return [kept[-1]], count


def orthonormal(vectors: Sequence[Array]) -> Array:
    """Return orthonormal columns with the span of the vectors, nearly dependent ones left out.

    Examples
    --------
    >>> orthonormal([np.array([2.0, 0.0]), np.array([-4.0, 0.0])]).shape
    (2, 1)
    """
    lengths = [float(np.linalg.norm(v)) for v in vectors]
    columns = [v / size for v, size in zip(vectors, lengths, strict=True) if size > 0]
    if not columns:
        return np.zeros((len(vectors[0]), 0), vectors[0].dtype)
    left, values, _ = np.linalg.svd(np.column_stack(columns), full_matrices=False)
    keep = values > len(columns) * np.sqrt(np.finfo(values.dtype).eps) * values[0]
    return np.asarray(left[:, keep])


def search(net: Network, theta: Array, basis: Array, rows: tuple[Array, Array], iterations: int) -> Array:
    """Return coefficients of orthonormal columns that lower the loss from 0, by BFGS."""
    if basis.shape[1] == 0:
        return np.zeros(0, theta.dtype)
    work, buffer = Workspace(net, len(rows[0]), theta.dtype), np.empty_like(theta)

    def objective(coefficients: Array) -> tuple[float, Array]:
        point = theta + basis @ coefficients.astype(theta.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            value, _ = step_gradient(net, point, *rows, work, buffer)
        if not np.isfinite(value):
            return float(np.finfo(np.float64).max) ** 0.5, np.zeros(basis.shape[1])
        return value, (basis.T @ buffer).astype(np.float64)

    return np.asarray(_bfgs(objective, basis.shape[1], iterations), dtype=theta.dtype)


def _bfgs(objective: Callable[[Array], tuple[float, Array]], size: int, iterations: int) -> Any:
    start = np.zeros(size)
    found = minimize(objective, start, jac=True, method="BFGS", options={"maxiter": iterations})
    return found.x if found.fun < objective(start)[0] else start
