"""The baselines: gradient descent, momentum, Nesterov's acceleration, RMSprop, Adam.

Momentum in the form of Sutskever et al. (2013): v ← μ v − ε g, θ ← θ + v; g at θ, or at θ + μ v for Nesterov. Adam as
in Kingma and Ba (2015), algorithm 1, with its bias corrections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from linnat._checks import Array, as_scalar, fail
from linnat.nonlinear._crew import walk
from linnat.nonlinear._pieces import Sum
from linnat.nonlinear._rooms import room, with_room
from linnat.nonlinear.activations import BLOCK
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers._contract import Batch, Report, check_batch, with_crew
from linnat.nonlinear.output import step_through
from linnat.nonlinear.passes import Workspace
from linnat.nonlinear.schedules import Schedule, as_schedule

USUAL = (1e-6, 1e3)  # rates


class DescentState(NamedTuple):
    """Parameters, velocity, and a buffer.

    Attributes
    ----------
    net : Network
    theta : array (P,)
    updates : int
    velocity : array (P,)
        v; zero where the momentum is the number 0, and nothing is kept.
    point : array (P,)
        Where Nesterov's gradient is taken; a buffer, of length 0 for others.
    work : Workspace or None
        Of the last number of rows.
    """

    net: Network
    theta: Array
    updates: int
    velocity: Array
    point: Array
    work: Workspace | None


@dataclass(frozen=True)
class GradientDescent:
    """Stochastic gradient descent with momentum.

    Parameters
    ----------
    rate : float or schedule
        ε.
    momentum : float or schedule
        μ; 0 is plain descent.
    nesterov : bool
        Whether the gradient is taken ahead, at θ + μ v.
    with_loss : bool
        Whether reports carry the loss (NaN otherwise), one more pass over the outputs.
    with_norms : bool
        Whether they carry the norms (NaN otherwise). Without, a gradient of few rows is never written down: BLAS adds
        it to θ, or v, as it arises, with other rounding.

    Examples
    --------
    >>> net, method = Network((1, 1), family="gaussian"), GradientDescent(0.5)
    >>> batch = Batch(np.array([[1.0]]), np.array([[1.0]]))
    >>> state, report = method.step(method.init(net, np.zeros(2)), batch, np.random.default_rng(0))
    >>> state.theta, report.loss
    (array([0.5, 0.5]), 0.5)
    """

    rate: float | Schedule = 0.1
    momentum: float | Schedule = 0.0
    nesterov: bool = False
    with_loss: bool = True
    with_norms: bool = True

    def __post_init__(self) -> None:
        as_schedule(self.rate, "rate")
        if not 0.0 <= as_schedule(self.momentum, "momentum").at(0) < 1.0:
            fail("momentum", "a number in [0, 1)", self.momentum)

    def init(self, net: Network, theta: Array) -> DescentState:
        """Return the state before the first update; the parameters are copied."""
        start = net.as_vector(theta).copy()
        point = np.empty(len(start) if self.nesterov else 0, start.dtype)
        return DescentState(net, start, 0, np.zeros_like(start), point, None)

    @with_crew
    def step(
        self, state: DescentState, batch: Batch, rng: np.random.Generator
    ) -> tuple[DescentState, Report]:
        """Return the state after an update."""
        check_batch(state.net, state.theta.dtype, batch)
        rate = as_schedule(self.rate, "rate").at(state.updates)
        momentum = as_schedule(self.momentum, "momentum").at(state.updates)
        work = workspace(state.net, state.work, batch.x)
        theta, velocity, point = state.theta, state.velocity, state.theta
        if self.nesterov:
            point = state.point
            _ahead(theta, velocity, momentum, point)
        plain = self.momentum == 0.0
        # The rate comes with the errors, where squares of the gradient so scaled keep within float32.
        scale = rate if USUAL[0] <= rate <= USUAL[1] else 1.0

        def move(part: slice, moved: Array) -> float:
            theta[part] += moved
            return float(np.vdot(moved, moved)) if self.with_norms else np.nan

        onto = Sum(theta, -rate / scale) if plain else Sum(velocity, -rate / scale, momentum, move)

        value, square, length = step_through(
            state.net,
            point,
            batch.x,
            batch.y,
            work,
            onto,
            scale=scale,
            with_loss=self.with_loss,
            with_square=self.with_norms,
        )
        norm = square**0.5 / scale
        report = Report(value, norm, rate * norm if plain else length**0.5)
        return state._replace(updates=state.updates + 1, work=work), report


class RmspropState(NamedTuple):
    """Parameters, the running second moment of the gradient, and buffers."""

    net: Network
    theta: Array
    updates: int
    second: Array
    work: Workspace | None


@dataclass(frozen=True)
class Rmsprop:
    """RMSprop: s ← β s + (1 − β) g², θ ← θ − ε g/(√s + ϵ).

    Parameters
    ----------
    rate : float or schedule
        ε.
    decay : float
        β.
    epsilon : float
        ϵ > 0, added to the root, so that the first updates are at most ε/√(1 − β) long in each coordinate.
    with_loss : bool
        Whether reports carry the loss.

    Raises
    ------
    InputError
        For settings out of range.

    Examples
    --------
    >>> net, method = Network((1, 1), family="gaussian"), Rmsprop(0.5, 0.75)
    >>> batch = Batch(np.array([[1.0]]), np.array([[1.0]]))
    >>> state, _ = method.step(method.init(net, np.zeros(2)), batch, np.random.default_rng(0))
    >>> state.theta.round(6)
    array([1., 1.])
    """

    rate: float | Schedule = 1e-3
    decay: float = 0.9
    epsilon: float = 1e-8
    with_loss: bool = True

    def __post_init__(self) -> None:
        as_schedule(self.rate, "rate")
        if as_scalar(self.decay, "decay", low=0.0, high=1.0) == 1.0:
            fail("decay", "a number in [0, 1)", 1.0)
        as_scalar(self.epsilon, "epsilon", low=0.0, open_low=True)

    def init(self, net: Network, theta: Array) -> RmspropState:
        """Return the state before the first update; the parameters are copied."""
        start = net.as_vector(theta).copy()
        return RmspropState(net, start, 0, np.zeros_like(start), None)

    @with_crew
    def step(
        self, state: RmspropState, batch: Batch, rng: np.random.Generator
    ) -> tuple[RmspropState, Report]:
        """Return the state after an update."""
        check_batch(state.net, state.theta.dtype, batch)
        work = workspace(state.net, state.work, batch.x)
        rate = as_schedule(self.rate, "rate").at(state.updates)

        def visit(part: slice, gradient: Array) -> float:
            second, (scratch,) = state.second[part], room("block", gradient.dtype, gradient.shape)
            np.multiply(gradient, gradient, out=scratch)
            scratch *= 1.0 - self.decay
            second *= self.decay
            second += scratch
            scratch[...] = second
            return _divide(state.theta[part], gradient, scratch, self.epsilon, rate)

        args = (batch.x, batch.y, work, visit)
        value, square, length = step_through(state.net, state.theta, *args, with_loss=self.with_loss)
        return state._replace(updates=state.updates + 1, work=work), Report(value, square**0.5, length**0.5)


class AdamState(NamedTuple):
    """Parameters, running moments of the gradient, and buffers."""

    net: Network
    theta: Array
    updates: int
    first: Array
    second: Array
    work: Workspace | None


@dataclass(frozen=True)
class Adam:
    """Adam.

    Parameters
    ----------
    rate : float or schedule
    beta1, beta2 : float
        Decays of the first and second moments.
    epsilon : float
        Added to the root of the second moment, after its bias correction.
    with_loss : bool
        Whether reports carry the loss.

    Examples
    --------
    >>> net, method = Network((1, 1), family="gaussian"), Adam(0.5)
    >>> batch = Batch(np.array([[1.0]]), np.array([[1.0]]))
    >>> method.step(method.init(net, np.zeros(2)), batch, np.random.default_rng(0))[0].theta.round(6)
    array([0.5, 0.5])
    """

    rate: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    with_loss: bool = True

    def __post_init__(self) -> None:
        as_schedule(self.rate, "rate")
        for name in ("beta1", "beta2"):
            if as_scalar(getattr(self, name), name, low=0.0, high=1.0) == 1.0:
                fail(name, "a number in [0, 1)", 1.0)
        as_scalar(self.epsilon, "epsilon", low=0.0, open_low=True)

    def init(self, net: Network, theta: Array) -> AdamState:
        """Return the state before the first update; the parameters are copied."""
        start = net.as_vector(theta).copy()
        moments = np.zeros_like(start), np.zeros_like(start)
        return AdamState(net, start, 0, *moments, None)

    @with_crew
    def step(self, state: AdamState, batch: Batch, rng: np.random.Generator) -> tuple[AdamState, Report]:
        """Return the state after an update."""
        check_batch(state.net, state.theta.dtype, batch)
        work = workspace(state.net, state.work, batch.x)
        count = state.updates + 1
        rate = as_schedule(self.rate, "rate").at(state.updates) / (1.0 - self.beta1**count)

        def visit(part: slice, gradient: Array) -> float:
            first, second = state.first[part], state.second[part]
            (scratch,) = room("block", gradient.dtype, gradient.shape)
            np.multiply(gradient, gradient, out=scratch)
            for moment, decay, new in ((first, self.beta1, gradient), (second, self.beta2, scratch)):
                moment *= decay
                new *= 1.0 - decay
                moment += new
            np.divide(second, 1.0 - self.beta2**count, out=scratch)
            return _divide(state.theta[part], first, scratch, self.epsilon, rate)

        args = (batch.x, batch.y, work, visit)
        value, square, length = step_through(state.net, state.theta, *args, with_loss=self.with_loss)
        return state._replace(updates=count, work=work), Report(value, square**0.5, length**0.5)


def advance(theta: Array, velocity: Array, direction: Array, rate: float, momentum: float) -> float:
    """Set v ← μ v − ε d and θ ← θ + v in one walk through memory; overwrite d; return the length of v.

    Examples
    --------
    >>> theta, velocity = np.array([1.0]), np.array([2.0])
    >>> advance(theta, velocity, np.array([10.0]), 0.1, 0.5), theta
    (0.0, array([1.]))
    """

    def visit(block: slice) -> float:
        part, change = velocity[block], direction[block]
        if momentum:
            part *= momentum
            change *= rate
            part -= change
        else:
            np.multiply(change, -rate, out=part)
        theta[block] += part
        return float(np.vdot(part, part))

    return float(walk(len(theta), visit, BLOCK) ** 0.5)


def _divide(theta: Array, numerator: Array, scratch: Array, epsilon: float, rate: float) -> float:
    """Set θ ← θ − ε n/(√s + ϵ) for s in scratch, which is overwritten; return the square of the step."""
    np.sqrt(scratch, out=scratch)
    scratch += epsilon
    np.divide(numerator, scratch, out=scratch)
    scratch *= rate
    theta -= scratch
    return float(np.vdot(scratch, scratch))


def _ahead(theta: Array, velocity: Array, momentum: float, out: Array) -> None:
    """Write θ + μ v."""

    def visit(block: slice) -> float:
        np.multiply(velocity[block], momentum, out=out[block])
        out[block] += theta[block]
        return 0.0

    walk(len(theta), visit, BLOCK)


def workspace(net: Network, kept: Workspace | None, x: Array) -> Workspace:
    """Return buffers for the rows of x: the ones that are there, or some of them, if they fit."""
    count = len(x)
    if kept is None or kept.dtype != x.dtype:
        return Workspace(net, count, x.dtype)
    if kept.rows == count:
        return kept
    whole = kept.whole
    rows = with_room(whole.rows, count)
    if rows != whole.rows:
        whole = Workspace(net, rows, x.dtype)
    return whole.part(slice(0, count))
