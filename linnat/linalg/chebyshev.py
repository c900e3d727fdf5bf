"""How far may an explicit method step on a stiff dissipative flow? As far as the square of its stages.

The stabilised Runge–Kutta–Chebyshev method of second order (Sommeijer, Shampine and Verwer 1997): s stages are stable
on the negative real interval [−⅔ s², 0], where an ordinary explicit method of s stages reaches about −s. For flows
whose Jacobian has a spectrum near the negative real axis, such as gradient flows; nothing is factorised.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from linnat._checks import Array, ConvergenceError

DAMPING = 2.0 / 13.0
MAX_STAGES = 500


class Outcome(NamedTuple):
    """Where an integration ended.

    Attributes
    ----------
    time : float
    state : array
    rate : array
        The velocity there.
    evaluations : int
    """

    time: float
    state: Array
    rate: Array
    evaluations: int


def integrate(
    velocity: Callable[[Array], Array],
    state: Array,
    end: float,
    radius: Callable[[Array], float],
    *,
    rtol: float,
    atol: float,
    done: Callable[[Array], bool] = lambda state: False,
    max_evaluations: int = 1_000_000,
) -> Outcome:
    """Integrate dy/dt = velocity(y) from 0 to `end`, or until `done`.

    Parameters
    ----------
    velocity : function of a state
    state : array (n,)
    end : float
    radius : function of a state
        A bound of the spectral radius of the Jacobian.
    rtol, atol : float
        Of the local error, in the root mean square of the components.
    done : function of a state
        Asked after every accepted step.
    max_evaluations : int

    Returns
    -------
    Outcome

    Raises
    ------
    ConvergenceError
        If `max_evaluations` do not suffice; `.estimate` is the time reached.

    Examples
    --------
    >>> y = integrate(lambda y: -y, np.ones(1), 1.0, lambda y: 1.0, rtol=1e-8, atol=1e-12).state
    >>> float(np.round(y[0], 5))
    0.36788
    """
    time, rate, count = 0.0, velocity(state), 1
    step = _first_step(state, rate, end, radius(state), rtol, atol)
    while time < end and not done(state):
        step = min(step, end - time)
        stages = max(2, int(np.ceil(np.sqrt(1.54 * step * radius(state) + 1.0))))
        if stages > MAX_STAGES:
            stages, step = MAX_STAGES, step * (MAX_STAGES / stages) ** 2
        proposal = _stages(velocity, state, rate, step, stages)
        new = velocity(proposal)
        count += stages
        local = 0.8 * (state - proposal) + 0.4 * step * (rate + new)
        size = atol + rtol * np.maximum(np.abs(state), np.abs(proposal))
        error = float(np.sqrt(np.mean((local / size) ** 2)))
        if error <= 1.0:
            time, state, rate = time + step, proposal, new
        # A state that overflowed has error nan: a tenth of the step.
        step *= min(5.0, max(0.1, 0.8 * max(error, 1e-10) ** (-1 / 3))) if np.isfinite(error) else 0.1
        if count > max_evaluations or step < 1e-14 * max(time, 1e-14):
            raise ConvergenceError(
                f"The integrator stopped at time {time:.6g} after {count} evaluations.", time
            )
    return Outcome(time, state, rate, count)


def _first_step(state: Array, rate: Array, end: float, radius: float, rtol: float, atol: float) -> float:
    size = float(np.sqrt(np.mean((rate / (atol + rtol * np.abs(state))) ** 2)))
    return min(end, 1.0 / max(radius, 1e-300), rtol ** (-1 / 2) / size if size > 0 else end)


def _stages(velocity: Callable[[Array], Array], state: Array, rate: Array, step: float, stages: int) -> Array:
    """Return the state after one step, by the three-term recurrence of the Chebyshev polynomials."""
    first, table = _coefficients(stages)
    before, current = state, state + first * step * rate
    for mu, nu, mu_rate, gamma in table:
        following = (1 - mu - nu) * state + mu * current + nu * before
        following += step * (mu_rate * velocity(current) + gamma * rate)
        before, current = current, following
    return current


@lru_cache(maxsize=256)
def _coefficients(stages: int) -> tuple[float, tuple[tuple[float, float, float, float], ...]]:
    """Return μ̃_1 and (μ_j, ν_j, μ̃_j, γ̃_j) for j = 2 … s."""
    centre = 1.0 + DAMPING / stages**2
    value, slope, bend = [1.0, centre], [0.0, 1.0], [0.0, 0.0]
    for _ in range(2, stages + 1):
        value.append(2 * centre * value[-1] - value[-2])
        slope.append(2 * value[-2] + 2 * centre * slope[-1] - slope[-2])
        bend.append(4 * slope[-2] + 2 * centre * bend[-1] - bend[-2])
    width = slope[stages] / bend[stages]
    b = [bend[j] / slope[j] ** 2 if j > 1 else 0.0 for j in range(stages + 1)]
    b[0] = b[1] = b[2]
    table = []
    for j in range(2, stages + 1):
        mu_rate = 2 * b[j] * width / b[j - 1]
        mu, nu = 2 * b[j] * centre / b[j - 1], -b[j] / b[j - 2]
        table.append((mu, nu, mu_rate, -(1 - b[j - 1] * value[j - 1]) * mu_rate))
    return b[1] * width, tuple(table)
