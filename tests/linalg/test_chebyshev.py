"""Does the stabilised method keep its order and its reach on stiff problems?"""

from __future__ import annotations

import numpy as np
import pytest

import linnat as ln
from linnat.linalg import chebyshev


def test_the_stabilised_method_has_order_two_and_a_long_reach() -> None:
    def velocity(y: np.ndarray) -> np.ndarray:
        return np.array([-(y[0] ** 2), -1e4 * (y[1] - np.cos(y[0]))])

    start_state, exact = np.array([1.0, np.cos(1.0)]), 1 / 3.0
    errors, counts = [], []
    for rtol in (1e-5, 1e-8):
        run = chebyshev.integrate(velocity, start_state, 2.0, lambda y: 1.1e4, rtol=rtol, atol=rtol)
        errors.append(abs(run.state[0] - exact))
        counts.append(run.evaluations)
        assert run.time == 2.0
    assert errors[0] < 1e-3
    assert errors[1] < 1e-5
    assert counts[0] < 2500  # an explicit method needs 2 × 1e4 / 3.3 steps
    with pytest.raises(ln.ConvergenceError, match="stopped at time"):
        chebyshev.integrate(
            velocity, start_state, 2.0, lambda y: 1.1e4, rtol=1e-8, atol=1e-8, max_evaluations=50
        )
    # Negative control: with a bound of the spectrum ten times too small it is unstable, and says so by its step size.
    small = chebyshev.integrate(velocity, start_state, 2.0, lambda y: 1.1e3, rtol=1e-5, atol=1e-5)
    assert small.evaluations > 2 * counts[0]


def test_fitted_order_and_edges() -> None:
    errors = []
    for rtol in (1e-4, 1e-7):
        run = chebyshev.integrate(lambda y: -(y**3), np.ones(1), 3.0, lambda y: 3.0, rtol=rtol, atol=1e-14)
        errors.append(abs(run.state[0] - 7**-0.5))
    # Error per step goes with h³, the sum with h² and so with rtol^(2/3): a thousandth gives a hundredth.
    assert 10 < errors[0] / errors[1] < 1000
    still = chebyshev.integrate(lambda y: 0 * y, np.ones(2), 5.0, lambda y: 0.0, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(still.state, np.ones(2))
    stopped = chebyshev.integrate(
        lambda y: -y, np.ones(1), 50.0, lambda y: 1.0, rtol=1e-6, atol=1e-9, done=lambda y: bool(y[0] < 0.1)
    )
    assert 2.3 < stopped.time < 50
    assert 0 < stopped.state[0] < 0.1
    none = chebyshev.integrate(lambda y: -y, np.ones(1), 0.0, lambda y: 1.0, rtol=1e-6, atol=1e-9)
    assert none.time == 0.0
