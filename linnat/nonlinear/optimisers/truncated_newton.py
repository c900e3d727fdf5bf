"""Natural gradient by products alone: truncated Newton, which with Gauss–Newton is Hessian-free (statements O4, O5).

(M + λ I) d = −g is solved by a few iterations of conjugate gradients or MINRES with products of a curvature matrix M
(`curvature`): the Fisher matrix, Gauss–Newton, or the Hessian, on the batch's rows or on others, which need no targets
for the Fisher matrix. As in Martens (2010): the last solution, shortened, starts the next; iterations end when the
quadratic model has stopped to fall (over a tenth of them, by less than a relative `tolerance`); of the iterates kept on
the way the best one by the loss is taken; the step is halved until the loss has fallen; λ is multiplied by 3/2 where
the loss fell by less than a quarter of what the model foretold, by 2/3 where by more than three quarters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator, minres

from linnat._checks import Array, as_choice, as_count, as_scalar
from linnat.nonlinear import passes
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers._contract import Batch, Report, check_batch
from linnat.nonlinear.optimisers.first_order import workspace
from linnat.nonlinear.output import check_finite, mean_loss, step_gradient
from linnat.nonlinear.passes import Workspace

MATRICES = ("fisher", "gauss-newton", "hessian")
SOLVERS = ("cg", "minres")
GROWTH = 1.3  # between the iterates that are kept for backtracking
HALVINGS = 12


class NewtonState(NamedTuple):
    """Parameters, damping, and the last solution.

    Attributes
    ----------
    net : Network
    theta : array (P,)
    updates : int
    damping : float
        λ.
    solution : array (P,)
        d of the last update.
    work, metric : Workspace or None
    """

    net: Network
    theta: Array
    updates: int
    damping: float
    solution: Array
    work: Workspace | None
    metric: Workspace | None


@dataclass(frozen=True)
class TruncatedNewton:
    """Truncated Newton.

    Parameters
    ----------
    matrix : "fisher", "gauss-newton" or "hessian"
        The last may be indefinite: use MINRES, or damping.
    solver : "cg" or "minres"
    iterations : int
        At most.
    tolerance : float
        Of the quadratic model's relative progress (CG), of the residual (MINRES).
    damping : float
        λ at the start.
    adapt : bool
        Whether λ follows the reduction ratio.
    warm : float
        The last solution times this starts the next; 0 starts from nothing. CG only.
    rate : float
        Longest step along the solution.

    Raises
    ------
    InputError
        For settings out of range.

    Examples
    --------
    >>> net, method = Network((1, 1), family="gaussian"), TruncatedNewton(damping=1e-12)
    >>> batch = Batch(np.array([[1.0], [2.0]]), np.array([[1.0], [3.0]]))
    >>> method.step(method.init(net, np.zeros(2)), batch, np.random.default_rng(0))[0].theta.round(6)
    array([ 2., -1.])
    """

    matrix: str = "fisher"
    solver: str = "cg"
    iterations: int = 50
    tolerance: float = 5e-4
    damping: float = 1.0
    adapt: bool = True
    warm: float = 0.95
    rate: float = 1.0

    def __post_init__(self) -> None:
        as_choice(self.matrix, "matrix", MATRICES)
        as_choice(self.solver, "solver", SOLVERS)
        as_count(self.iterations, "iterations")
        as_scalar(self.tolerance, "tolerance", low=0.0)
        as_scalar(self.damping, "damping", low=0.0)
        as_scalar(self.warm, "warm", low=0.0, high=1.0)
        as_scalar(self.rate, "rate", low=0.0, open_low=True)

    def init(self, net: Network, theta: Array) -> NewtonState:
        """Return the state before the first update; the parameters are copied."""
        start = net.as_vector(theta).copy()
        return NewtonState(net, start, 0, self.damping, np.zeros_like(start), None, None)

    def step(self, state: NewtonState, batch: Batch, rng: np.random.Generator) -> tuple[NewtonState, Report]:
        """Return the state after an update."""
        net, theta = state.net, state.theta
        check_batch(net, theta.dtype, batch)
        work = workspace(net, state.work, batch.x)
        gradient = np.empty_like(theta)
        value, square = step_gradient(net, theta, batch.x, batch.y, work, gradient)
        check_finite(value, square)
        rows = work
        if batch.metric is not None:
            rows = workspace(net, state.metric, batch.metric)
            passes.forward(net, theta, batch.metric, rows)
        product = self._products(net, theta, rows, batch)

        def damped(vector: Array) -> Array:
            return product(vector) + state.damping * vector

        begin = self.warm * state.solution if self.warm and self.solver == "cg" else np.zeros_like(theta)
        if self.solver == "minres":
            kept, count = _minres(damped, gradient, self.iterations, self.tolerance)
        else:
            kept, count = conjugate_gradients(damped, -gradient, begin, self.iterations, self.tolerance)
        probe = Workspace(net, len(batch.x), theta.dtype)

        def loss(step: Array) -> float:
            passes.forward(net, theta + step, batch.x, probe)
            return mean_loss(net.family, probe.outputs, batch.y, probe.errors[-1])

        direction, after = _best(kept, loss)
        ratio = self._ratio(damped, gradient, direction, after - value)
        length, after = _searched(direction, self.rate, value, after, loss)
        damping = self._adapted(state.damping, ratio) if self.adapt else state.damping
        theta += length * direction
        size = float(np.linalg.norm(direction)) * length
        report = Report(value, square**0.5, size, damping, count + 1, ratio)
        state = state._replace(updates=state.updates + 1, damping=damping, solution=kept[-1], work=work)
        return state._replace(metric=rows if batch.metric is not None else state.metric), report

    def _products(
        self, net: Network, theta: Array, rows: Workspace, batch: Batch
    ) -> Callable[[Array], Array]:
        if self.matrix == "fisher":
            return lambda v: passes.fisher_product(net, theta, rows, v)
        if self.matrix == "gauss-newton":
            return lambda v: passes.gauss_newton_product(net, theta, rows, batch.y, v)
        return lambda v: passes.hessian_product(net, theta, rows, batch.y, v)

    def _ratio(self, damped: Callable[[Array], Array], gradient: Array, step: Array, change: float) -> float:
        foretold = float(np.vdot(gradient, step) + 0.5 * np.vdot(step, damped(step)))
        return change / foretold if foretold < 0 else float("nan")

    def _adapted(self, damping: float, ratio: float) -> float:
        if ratio > 0.75:
            return damping * 2.0 / 3.0
        return damping * 1.5 if not ratio >= 0.25 else damping


def conjugate_gradients(
    product: Callable[[Array], Array], target: Array, start: Array, iterations: int, tolerance: float
) -> tuple[list[Array], int]:
    """Return iterates on the way to the solution of M d = b, and the number of products.

    Ends where ½ dᵀMd − bᵀd has fallen by less than a relative `tolerance` over the last tenth of the iterations (at
    least ten), after `iterations`, or at a direction of negative curvature.

    Examples
    --------
    >>> iterates, count = conjugate_gradients(lambda v: np.array([1.0, 4.0]) * v, np.ones(2), np.zeros(2), 9, 0.0)
    >>> iterates[-1], count
    (array([1.  , 0.25]), 3)
    """
    solution = start.copy()
    residual = target - product(solution)
    direction = residual.copy()
    square = float(np.vdot(residual, residual))
    values = [-0.5 * float(np.vdot(solution, residual + target))]
    kept, due, count = [solution.copy()], 1.0, 1
    floor = float(np.finfo(target.dtype).eps) ** 2 * float(np.vdot(target, target))
    for k in range(1, iterations + 1):
        if square <= floor:
            break
        image = product(direction)
        count += 1
        curvature = float(np.vdot(direction, image))
        if curvature <= 0:
            break
        length = square / curvature
        solution += length * direction
        residual -= length * image
        new = float(np.vdot(residual, residual))
        direction *= new / square
        direction += residual
        square = new
        values.append(-0.5 * float(np.vdot(solution, residual + target)))
        if k >= due:
            kept.append(solution.copy())
            due = max(due * GROWTH, due + 1)
        window = max(10, k // 10)
        if (
            k > window
            and values[-1] < 0
            and values[-1] - values[-1 - window] > window * tolerance * values[-1]
        ):
            break
    kept.append(solution)
    return kept, count


def _minres(
    product: Callable[[Array], Array], gradient: Array, iterations: int, tolerance: float
) -> tuple[list[Array], int]:
    count = 0

    def counted(vector: Array) -> Array:
        nonlocal count
        count += 1
        return product(np.ascontiguousarray(vector.ravel(), dtype=gradient.dtype))

    size = len(gradient)
    operator = LinearOperator((size, size), matvec=counted, dtype=gradient.dtype)
    solution, _ = minres(operator, -gradient, rtol=tolerance, maxiter=iterations)
    return [solution.astype(gradient.dtype)], count


def _best(kept: list[Array], loss: Callable[[Array], float]) -> tuple[Array, float]:
    """Return the iterate with the least loss, walking back from the last while it falls."""
    best, value = kept[-1], loss(kept[-1])
    for earlier in reversed(kept[:-1]):
        other = loss(earlier)
        if not (other < value or not np.isfinite(value)):
            break
        best, value = earlier, other
    return best, value


def _searched(
    direction: Array, rate: float, value: float, after: float, loss: Callable[[Array], float]
) -> tuple[float, float]:
    """Return the first of rate, rate/2, … at which the loss has fallen, 0 if none does."""
    length = rate
    if length != 1.0:
        after = loss(length * direction)
    for _ in range(HALVINGS):
        if after < value:
            return length, after
        length *= 0.5
        after = loss(length * direction)
    return 0.0, value
