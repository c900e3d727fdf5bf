"""Natural gradient by any preconditioner: θ ← θ − ε P⁻¹ g, or the step fitted to the exact Fisher matrix.

After each gradient one more backward pass with targets drawn from the model (or with the data's) feeds the
preconditioner, every `every` updates, by at most `rows` rows of the minibatch (Martens and Grosse (2015), section 8,
take an eighth). "fitted" follows Martens and Grosse (2015), section 6.4 and 7: with Δ = −P⁻¹g and
the last step δ the new step α Δ + μ δ minimises the quadratic model with the exact Fisher matrix of the batch,
½ sᵀ(F + λ)s + gᵀs, a system of two equations from two Fisher products: no rate, no momentum to choose. λ follows the
ratio of what the loss lost to what the model foretold (Levenberg and Marquardt). "clipped" bounds the length of the
step in the metric: ε is divided by max(1, √(sᵀPs/bound)).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, as_choice, as_count, as_scalar, fail
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers._contract import Batch, Report, check_batch
from linnat.nonlinear.optimisers.first_order import advance, workspace
from linnat.nonlinear.output import check_finite, mean_loss, step_gradient
from linnat.nonlinear.passes import Workspace, fisher_product, forward
from linnat.nonlinear.preconditioners import Preconditioner
from linnat.nonlinear.schedules import Schedule, as_schedule
from linnat.nonlinear.statistics import gather, turn

RULES = ("rate", "clipped", "fitted")


class PreconditionedState(NamedTuple):
    """Parameters, the preconditioner's state, the last step, and buffers.

    Attributes
    ----------
    net : Network
    theta : array (P,)
    updates : int
    inner : object
        The preconditioner's state.
    velocity : array (P,)
        The last step δ.
    damping : float
        λ of the quadratic model, for "fitted".
    gradient, scratch : array (P,)
        Buffers.
    work, metric : Workspace or None
        Of the last numbers of rows.
    """

    net: Network
    theta: Array
    updates: int
    inner: Any
    velocity: Array
    damping: float
    gradient: Array
    scratch: Array
    work: Workspace | None
    metric: Workspace | None


@dataclass(frozen=True)
class Preconditioned:
    """Preconditioned descent.

    Parameters
    ----------
    preconditioner : Preconditioner
    rate : float or schedule
        ε, for "rate" and "clipped".
    momentum : float or schedule
        μ, for "rate" and "clipped": v ← μ v − ε P⁻¹g.
    rule : "rate", "clipped" or "fitted"
    targets : "sampled" or "data"
        Whose errors feed the preconditioner: the model's (Fisher matrix) or the data's (empirical Fisher matrix).
    every : int
        Updates between statistics.
    rows : int or None
        Rows of each minibatch that feed them, taken in turn, so that a batch that stays the same is covered; None takes
        all. By default 128: the running averages hold the last 20 minibatches, hence 2,560 rows, more than most layers
        have units, while all rows would cost as much as the gradient.
    bound : float
        For "clipped": of ε² gᵀP⁻¹g.
    damping : float
        For "fitted": λ at the start.
    adapt : int
        For "fitted": updates between changes of λ by (19/20)^adapt or its inverse; 0 never changes it.
    with_loss : bool
        Whether reports carry the loss (NaN otherwise), one more pass over the outputs; "fitted" needs it.

    Examples
    --------
    >>> from linnat.nonlinear.preconditioners import Diagonal
    >>> net, method = Network((1, 1), family="gaussian"), Preconditioned(Diagonal(damping=1.0), 0.5)
    >>> batch = Batch(np.array([[1.0]]), np.array([[1.0]]))
    >>> state, report = method.step(method.init(net, np.zeros(2)), batch, np.random.default_rng(0))
    >>> report.loss
    0.5
    """

    preconditioner: Preconditioner[Any]
    rate: float | Schedule = 0.1
    momentum: float | Schedule = 0.0
    rule: str = "rate"
    targets: str = "sampled"
    every: int = 1
    bound: float = 1e-3
    damping: float = 1e-2
    adapt: int = 5
    rows: int | None = 128
    with_loss: bool = True
    _least: float = field(default=1e-10, repr=False)

    def __post_init__(self) -> None:
        as_schedule(self.rate, "rate")
        as_schedule(self.momentum, "momentum")
        as_choice(self.rule, "rule", RULES)
        as_choice(self.targets, "targets", ("sampled", "data"))
        as_count(self.every, "every")
        as_count(self.adapt, "adapt", low=0)
        if self.rows is not None:
            as_count(self.rows, "rows")
        if self.rule == "fitted" and not self.with_loss:
            fail("with_loss", "True for the rule 'fitted'", False)
        as_scalar(self.bound, "bound", low=0.0, open_low=True)
        as_scalar(self.damping, "damping", low=0.0, open_low=True)

    def init(self, net: Network, theta: Array) -> PreconditionedState:
        """Return the state before the first update; the parameters are copied."""
        start = net.as_vector(theta).copy()
        inner = self.preconditioner.init(net, start.dtype)
        zeros, buffers = np.zeros_like(start), (np.empty_like(start), np.empty_like(start))
        return PreconditionedState(net, start, 0, inner, zeros, self.damping, *buffers, None, None)

    def step(
        self, state: PreconditionedState, batch: Batch, rng: np.random.Generator
    ) -> tuple[PreconditionedState, Report]:
        """Return the state after an update."""
        net, theta, gradient = state.net, state.theta, state.gradient
        check_batch(net, theta.dtype, batch)
        work = workspace(net, state.work, batch.x)
        value = step_gradient(net, theta, batch.x, batch.y, work, gradient, with_loss=self.with_loss)
        check_finite(value if self.with_loss else 0.0, gradient)
        state = state._replace(work=work)
        if state.updates % self.every == 0:
            state = self._fed(state, batch, work, rng)
        natural = self.preconditioner.apply(state.inner, gradient, out=state.scratch)
        check_finite(value if self.with_loss else 0.0, natural)
        size = float(np.linalg.norm(gradient))
        products, ratio = 0, float("nan")
        if self.rule == "fitted":
            foretold, products = self._fit(state, batch, natural)
            length = float(np.linalg.norm(state.velocity))
            theta += state.velocity
        else:
            length = self._move(state, natural)
        if self.rule == "fitted" and self.adapt and state.updates % self.adapt == 0:
            forward(net, theta, batch.x, work)
            after = mean_loss(net.family, work.outputs, batch.y, work.errors[-1])
            ratio = (after - value) / foretold if foretold < 0 else float("nan")
            state = state._replace(damping=self._adapted(state.damping, ratio))
        report = Report(value, size, length, state.damping, products, ratio)
        return state._replace(updates=state.updates + 1), report

    def _fed(
        self, state: PreconditionedState, batch: Batch, work: Workspace, rng: np.random.Generator
    ) -> PreconditionedState:
        """Return the state whose preconditioner has seen the batch, or the rows for the metric."""
        given = batch.x if batch.metric is None else batch.metric
        rows = turn(len(given), self.rows, state.updates // self.every)
        metric = state.metric
        if batch.metric is None:
            part = work.part(rows)
        else:
            part = metric = workspace(state.net, metric, batch.metric[rows])
            forward(state.net, state.theta, batch.metric[rows], part)
        chosen = "sampled" if self.targets == "sampled" else batch.y[rows]
        statistics = gather(state.net, state.theta, part, chosen, rng)
        inner, _ = self.preconditioner.update(state.inner, statistics)
        return state._replace(inner=inner, metric=metric)

    def _move(self, state: PreconditionedState, natural: Array) -> float:
        rate = as_schedule(self.rate, "rate").at(state.updates)
        momentum = as_schedule(self.momentum, "momentum").at(state.updates)
        if self.rule == "clipped":
            length = rate**2 * float(np.vdot(natural, state.gradient))
            rate /= max(1.0, (length / self.bound) ** 0.5)
        return advance(state.theta, state.velocity, natural, rate, momentum)

    def _fit(self, state: PreconditionedState, batch: Batch, natural: Array) -> tuple[float, int]:
        """Write the best combination of −natural and the last step into the velocity; return the model's decrease."""
        work = workspace(state.net, state.work, batch.x)
        directions = [-natural]
        if state.updates > 0:
            directions.append(state.velocity.copy())
        images = [fisher_product(state.net, state.theta, work, d) + state.damping * d for d in directions]
        system = np.array([[float(np.vdot(a, b)) for b in images] for a in directions])
        slopes = np.array([float(np.vdot(state.gradient, d)) for d in directions])
        # Two nearly parallel directions leave the smallest combination.
        weights = np.linalg.lstsq(system, -slopes, rcond=self._least)[0]
        state.velocity[...] = sum(w * d for w, d in zip(weights, directions, strict=True))
        return float(0.5 * weights @ system @ weights + slopes @ weights), len(directions)

    def _adapted(self, damping: float, ratio: float) -> float:
        factor = (19.0 / 20.0) ** self.adapt
        if ratio > 0.75:
            return damping * factor
        # A ratio that is not a number is a step that failed.
        return damping / factor if not ratio >= 0.25 else damping
