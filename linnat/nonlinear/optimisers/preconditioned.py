"""Natural gradient by any preconditioner: θ ← θ − ε P⁻¹ g, or the step fitted to the exact Fisher matrix.

After each gradient one more backward pass with targets drawn from the model (or with the data's) feeds the
preconditioner, every `every` updates, by at most `rows` rows of the minibatch (Martens and Grosse (2015), section 8,
take an eighth). "fitted" follows their sections 6.4 and 7: with Δ = −P⁻¹g and the last step δ the new step α Δ + μ δ
minimises the quadratic model ½ sᵀ(F + λ)s + gᵀs with the exact Fisher matrix of rows of the batch, a system of two
equations: no rate, no momentum to choose. sᵀF s' takes how the outputs move along both steps, J s and J s', and nothing
that goes back. λ follows the ratio of what the loss lost to what the model foretold (Levenberg and Marquardt); the
preconditioner's own damping may be searched on the way (section 6.6), since what serves far from the optimum holds back
near to it. Where the gradient's noise rules, the best step for one minibatch keeps hardly any momentum: then a small
rate with a large momentum gets further, but not from a start that only fitted steps leave. `warmup` does one after the
other.
"clipped" bounds the length of the step in the metric: ε is divided by max(1, √(sᵀPs/bound)).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np

from linnat._checks import Array, as_choice, as_count, as_scalar, fail
from linnat.nonlinear._crew import PASS, each, members, row_shares, shares, walk
from linnat.nonlinear.activations import BLOCK, beside
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers._contract import Batch, Report, check_batch, with_crew
from linnat.nonlinear.optimisers.first_order import advance, workspace
from linnat.nonlinear.output import check_finite, mean_loss, square_of, step_gradient
from linnat.nonlinear.passes import Workspace, forward, pushforward
from linnat.nonlinear.preconditioners import Adjustable, Preconditioner, Rowwise, SingularFactorError
from linnat.nonlinear.schedules import Schedule, as_schedule
from linnat.nonlinear.statistics import gather, turn

RULES = ("rate", "clipped", "fitted")
LEAST = 1e-8  # dampings fall while steps keep their promise; from here they are back in time when they do not


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
    found : float or None
        The preconditioner's damping, where it is searched.
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
    found: float | None = None


class Fit(NamedTuple):
    """A step and what the quadratic model foretells of it.

    Attributes
    ----------
    weights : array (k,)
        Of the directions.
    directions : array (k, P)
        −P⁻¹g, and the last step.
    foretold : float
        How the model changes: not above 0.
    """

    weights: Array
    directions: Array
    foretold: float


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
    warmup : int
        For "rate" and "clipped": so many first updates follow "fitted", with all its settings. The rule begins
        from rest then: a large momentum would carry the last fitted step on many times over. Schedules count from the
        start.
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
        For "fitted": updates between changes of λ by (19/20)^adapt or its inverse, down to 1e-8; 0 never changes it.
    model_rows : int or None
        For "fitted": rows of each minibatch in the quadratic model's Fisher matrix, taken in turn; None takes all. By
        default 256, a quarter of a large minibatch as in the paper.
    search : int
        For "fitted": updates between searches of the preconditioner's damping, from the first one on: of the present
        one, (19/20)^search times as much (down to 1e-8) and its inverse, the one whose step the quadratic model likes
        best is kept. 0 never changes it. Of an `Adjustable` preconditioner, and most useful at multiples of its period.
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
    model_rows: int | None = 256
    with_loss: bool = True
    search: int = 0
    warmup: int = 0
    _least: float = field(default=1e-10, repr=False)

    def __post_init__(self) -> None:
        as_schedule(self.rate, "rate")
        as_schedule(self.momentum, "momentum")
        as_choice(self.rule, "rule", RULES)
        as_choice(self.targets, "targets", ("sampled", "data"))
        as_count(self.every, "every")
        as_count(self.adapt, "adapt", low=0)
        for name in ("rows", "model_rows"):
            if getattr(self, name) is not None:
                as_count(getattr(self, name), name)
        if as_count(self.warmup, "warmup", low=0) and self.rule == "fitted":
            fail("warmup", "0 for the rule 'fitted'", self.warmup)
        if self._fits(0) and not self.with_loss:
            fail("with_loss", "True for the rule 'fitted'", False)
        if as_count(self.search, "search", low=0) and not self._fits(0):
            fail("search", "0 for other rules than 'fitted'", self.search)
        if self.search and not isinstance(self.preconditioner, Adjustable):
            fail(
                "search", "0 where the damping cannot be changed", f"{self.search} for {self.preconditioner}"
            )
        as_scalar(self.bound, "bound", low=0.0, open_low=True)
        as_scalar(self.damping, "damping", low=0.0, open_low=True)

    def init(self, net: Network, theta: Array) -> PreconditionedState:
        """Return the state before the first update; the parameters are copied."""
        start = net.as_vector(theta).copy()
        inner = self.preconditioner.init(net, start.dtype)
        zeros, buffers = np.zeros_like(start), (np.empty_like(start), np.empty_like(start))
        return PreconditionedState(net, start, 0, inner, zeros, self.damping, *buffers, None, None)

    def _fits(self, updates: int) -> bool:
        """Return whether the step after so many updates is a fitted one."""
        return self.rule == "fitted" or updates < self.warmup

    @with_crew
    def step(
        self, state: PreconditionedState, batch: Batch, rng: np.random.Generator
    ) -> tuple[PreconditionedState, Report]:
        """Return the state after an update."""
        net, theta, gradient = state.net, state.theta, state.gradient
        check_batch(net, theta.dtype, batch)
        work = workspace(net, state.work, batch.x)
        value, square = step_gradient(net, theta, batch.x, batch.y, work, gradient, with_loss=self.with_loss)
        check_finite(value if self.with_loss else 0.0, square)
        state = state._replace(work=work)
        fed = state.updates % self.every == 0
        if fed:
            state = self._fed(state, batch, work, rng)
        natural = self._natural(state, None if fed else work)
        check_finite(value if self.with_loss else 0.0, square_of(natural))
        products, ratio, foretold, fits = 0, float("nan"), 0.0, self._fits(state.updates)
        if fits:
            fit = self._fit(state, batch, natural)
            if self.search and state.updates % self.search == 0:
                state, fit = self._searched(state, batch, fit)
            foretold, products = fit.foretold, len(fit.directions)
            _combine(fit, state.velocity)
            length = float(np.linalg.norm(state.velocity))
            theta += state.velocity
        else:
            length = self._move(state, natural)
        if fits and self.adapt and state.updates % self.adapt == 0:
            forward(net, theta, batch.x, work)
            after = mean_loss(net.family, work.outputs, batch.y, work.errors[-1])
            ratio = (after - value) / foretold if foretold < 0 else float("nan")
            state = state._replace(damping=self._adapted(state.damping, ratio))
        report = Report(value, square**0.5, length, state.damping, products, ratio)
        return state._replace(updates=state.updates + 1), report

    def _natural(self, state: PreconditionedState, work: Workspace | None) -> Array:
        """Return P⁻¹g; from the rows of which g is made, where their errors are still there and that is less work."""
        inner = self._present(state)
        if work is not None and isinstance(inner, Rowwise) and inner.cost_by_rows(state.net, work.rows) < 1.0:
            return inner.apply_to_rows(state.inner, work, out=state.scratch)
        return inner.apply(state.inner, state.gradient, out=state.scratch)

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
        inner, _ = self._present(state).update(state.inner, statistics)
        return state._replace(inner=inner, metric=metric)

    def _move(self, state: PreconditionedState, natural: Array) -> float:
        rate = as_schedule(self.rate, "rate").at(state.updates)
        momentum = as_schedule(self.momentum, "momentum").at(state.updates)
        if state.updates == self.warmup:
            state.velocity[...] = 0.0
        if self.rule == "clipped":
            length = rate**2 * float(np.vdot(natural, state.gradient))
            rate /= max(1.0, (length / self.bound) ** 0.5)
        return advance(state.theta, state.velocity, natural, rate, momentum)

    def _present(self, state: PreconditionedState) -> Preconditioner[Any]:
        """Return the preconditioner with the damping that has been found."""
        return self._damped(state.found) if state.found is not None else self.preconditioner

    def _damped(self, damping: float) -> Adjustable[Any]:
        return replace(cast("Any", self.preconditioner), damping=damping)  # type: ignore[no-any-return]

    def _fit(self, state: PreconditionedState, batch: Batch, natural: Array) -> Fit:
        """Return the best combination of −natural and the last step."""
        work = workspace(state.net, state.work, batch.x)
        # Not in place: a step that fails must leave the last one.
        directions = np.stack([natural, state.velocity][: 1 if state.updates == 0 else 2])
        directions[0] *= -1.0
        system = self._curvature(
            state, work.part(turn(work.rows, self.model_rows, state.updates)), directions
        )
        products = inner_products(directions, state.gradient)
        system += state.damping * products[:, :-1]
        slopes = products[:, -1]
        # Two nearly parallel directions leave the smallest combination.
        weights = np.linalg.lstsq(system, -slopes, rcond=self._least)[0]
        return Fit(weights, directions, float(0.5 * weights @ system @ weights + slopes @ weights))

    def _searched(
        self, state: PreconditionedState, batch: Batch, fit: Fit
    ) -> tuple[PreconditionedState, Fit]:
        """Return the better ones of the present damping's state and fit, and those of a smaller and a larger one."""
        present = cast("Adjustable[Any]", self._present(state)).damping
        best, chosen = fit, state._replace(found=present)
        smaller, larger = present * (19.0 / 20.0) ** self.search, present * (20.0 / 19.0) ** self.search
        for damping in (smaller, larger) if smaller >= LEAST else (larger,):
            own = self._damped(damping)
            try:
                inner = own.refreshed(state.inner)
                natural = own.apply(inner, state.gradient)
            except SingularFactorError:  # too little damping for the precision
                continue
            if not np.isfinite(square_of(natural)):
                continue
            other = self._fit(state, batch, natural)
            if other.foretold < best.foretold:
                best, chosen = other, state._replace(found=own.damping, inner=inner)
        return chosen, best

    def _curvature(self, state: PreconditionedState, work: Workspace, directions: Array) -> Array:
        """Return dᵀF d' of directions (k, P), with the Fisher matrix of a workspace's rows, (k, k) in float64."""
        net = state.net

        def part(rows: slice) -> Array:
            piece = work.part(rows)
            moved = pushforward(net, state.theta, piece, directions)
            bent = net.family.fisher_product(piece.outputs, moved)
            return np.asarray(np.einsum("inc,jnc->ij", moved, bent, dtype=np.float64))

        count = members(4.0 * len(directions) * work.rows * net.n_parameters)
        parts = [partial(part, rows) for rows in row_shares(work.rows, count)]
        return np.asarray(sum(each(parts, count))) / work.rows

    def _adapted(self, damping: float, ratio: float) -> float:
        factor = (19.0 / 20.0) ** self.adapt
        if ratio > 0.75:
            return max(damping * factor, min(damping, LEAST))
        # A ratio that is not a number is a step that failed.
        return damping / factor if not ratio >= 0.25 else damping


def _combine(fit: Fit, out: Array) -> None:
    """Write the combination of a fit's directions."""

    def visit(block: slice) -> float:
        part = np.multiply(fit.directions[0, block], float(fit.weights[0]), out=out[block])
        for weight, direction in zip(fit.weights[1:], fit.directions[1:], strict=True):
            part += np.multiply(direction[block], float(weight), out=beside(part))
        return 0.0

    walk(len(out), visit, BLOCK)


def inner_products(rows: Array, vector: Array) -> Array:
    """Return products of rows (k, P) with each other and with a vector (P,), (k, k + 1), summed in float64 by blocks.

    Examples
    --------
    >>> inner_products(np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([3.0, 4.0]))
    array([[ 5.,  2., 11.],
           [ 2.,  1.,  4.]])
    """

    def stretch(part: slice) -> Array:
        total = np.zeros((len(rows), len(rows) + 1))
        for a in range(part.start, part.stop, BLOCK):
            block = slice(a, min(a + BLOCK, part.stop))
            piece = rows[:, block]
            total[:, :-1] += piece @ piece.T
            total[:, -1] += piece @ vector[block]
        return total

    count = members(PASS * len(vector))
    return np.asarray(sum(each([partial(stretch, part) for part in shares(len(vector), count)], count)))
