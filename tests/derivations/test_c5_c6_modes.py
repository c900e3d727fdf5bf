"""C5 and C6: the hypergeometric modes against quadrature, integrators and whole networks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from derivations import c5_c6_modes
from derivations._core import DerivationError
from linnat import LinearNetwork, Task
from linnat.dense.flow import fractional_flow, total_along
from linnat.exact import modes
from tests import tolerances
from tests.derivations._oracles import gradient, integrate, jacobian, mutant, split, total

pytestmark = pytest.mark.statement("C5", "C6")
DERIVED = c5_c6_modes.functions()

# Below, above, negative and vanishing targets; a = 0 and a = 1 are logarithms, 10/3 and 4/3 are p > 1.
CASES = [(0.1, 2.0), (3.0, 0.7), (1.2, -0.8), (0.9, 0.0), (0.02, 1.0)]
RULES = [(1, 0.0), (2, 0.0), (3, 0.0), (10, 0.0), (2, 0.5), (3, 0.5), (4, 0.25), (5, 1.0), (3, 0.25)]


def speed(s: float, target: float, depth: int, gamma: float) -> float:
    return float((depth * s ** (2 - 2 / depth)) ** (1 - gamma) * (target - s))


@pytest.mark.parametrize(("depth", "gamma"), RULES)
@pytest.mark.parametrize(("start", "target"), CASES)
def test_the_time_is_the_integral_of_one_over_the_speed(
    start: float, target: float, depth: int, gamma: float
) -> None:
    for share in (0.3, 0.9):
        s = start + share * (max(target, 0.0) - start)
        found = quad(
            lambda x: 1 / speed(x, target, depth, gamma), start, s, epsabs=0, epsrel=1e-11, limit=200
        )[0]
        assert DERIVED["mode_time"](s, start, target, depth, gamma) == pytest.approx(found, rel=1e-9)


@pytest.mark.parametrize(("depth", "gamma"), RULES)
@pytest.mark.parametrize(("start", "target"), CASES)
def test_the_mode_is_that_of_an_integrator(start: float, target: float, depth: int, gamma: float) -> None:
    end = min(3.0, 0.9 * DERIVED["vanishing_time"](start, target, depth, gamma))
    times = [0.0, 0.2 * end, 0.6 * end, end]
    run = solve_ivp(
        lambda _, s: [speed(s[0], target, depth, gamma)],
        (0, end),
        [start],
        "DOP853",
        times,
        rtol=1e-11,
        atol=1e-13,
    )
    derived = DERIVED["mode"](times, start, target, depth, gamma)
    tolerances.assert_close(derived, run.y[0], 1e-8)


def test_modes_of_negative_targets_end() -> None:
    end = DERIVED["vanishing_time"](1.0, -0.5, 2, 0.5)
    found = quad(lambda x: -1 / speed(x, -0.5, 2, 0.5), 0, 1.0, epsrel=1e-11)[0]
    assert end == pytest.approx(found, rel=1e-8)
    assert np.isnan(DERIVED["mode"]([1.01 * end], 1.0, -0.5, 2, 0.5)[0])
    assert DERIVED["vanishing_time"](1.0, -0.5, 2, 0.0) == np.inf
    assert DERIVED["vanishing_time"](1.0, -0.5, 7, 1.0) == pytest.approx(np.log(1 + 1 / 0.5), rel=1e-12)


@pytest.mark.parametrize("depth", [3, 4, 8])
def test_the_plateau_is_the_leading_order(depth: int) -> None:
    ratios = [
        DERIVED["mode_time"](0.5, start, 1.0, depth, 0.0) / DERIVED["plateau"](start, 1.0, depth)
        for start in (1e-6, 1e-12)
    ]
    assert abs(ratios[1] - 1) < abs(ratios[0] - 1) < 0.2
    assert abs(ratios[1] - 1) < 2e-2


def aligned(depth: int) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(5)
    u = [np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(depth + 1)]
    root = np.diag(np.array([0.2, 0.5, 1.5]) ** (1 / depth))
    weights = [b @ root @ a.T for a, b in itertools.pairwise(u)]
    return weights, u[-1] @ np.diag([1.0, 0.1, 2.0]) @ u[0].T, u


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_whole_networks_follow_their_modes(depth: int, gamma: float) -> None:
    weights, teacher, u = aligned(depth)

    def velocity(w: list[np.ndarray]) -> list[np.ndarray]:
        if gamma == 0:
            return gradient(w, teacher)
        left, s, right = np.linalg.svd(jacobian(w), full_matrices=False)
        vector = right.T @ (s ** (1 - 2 * gamma) * (left.T @ (teacher - total(w)).ravel()))
        return split(vector, [layer.shape for layer in w])

    final = total(integrate(weights, velocity, [0.8])[0])
    modes = [DERIVED["mode"]([0.8], s, t, depth, gamma)[0] for s, t in ((0.2, 1.0), (0.5, 0.1), (1.5, 2.0))]
    tolerances.assert_close(final, u[-1] @ np.diag(modes) @ u[0].T, 1e-8)


def test_unbalanced_networks_do_not() -> None:
    weights, teacher, u = aligned(2)
    final = total(integrate([3 * weights[0], weights[1] / 3], lambda w: gradient(w, teacher), [0.8])[0])
    modes = [DERIVED["mode"]([0.8], s, t, 2, 0.0)[0] for s, t in ((0.2, 1.0), (0.5, 0.1), (1.5, 2.0))]
    assert np.linalg.norm(final - u[-1] @ np.diag(modes) @ u[0].T) > 0.1


def shifted(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda branch, n, x=c5_c6_modes.X, a=c5_c6_modes.A: function(branch, n, x, a + 1)


@pytest.mark.parametrize("name", ["degenerate", "velocity", "exponent"])
def test_a_wrong_formula_is_not_derived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c5_c6_modes, name, mutant(-1)(getattr(c5_c6_modes, name)))
    with pytest.raises(DerivationError):
        c5_c6_modes.derive()


def test_a_wrong_series_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c5_c6_modes, "series_term", shifted(c5_c6_modes.series_term))
    with pytest.raises(DerivationError):
        c5_c6_modes.derive()


def test_a_wrong_parameter_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    original = c5_c6_modes.hypergeometric
    monkeypatch.setattr(
        c5_c6_modes, "hypergeometric", lambda branch, x, a: (*original(branch, x, a)[:2], 1 / x)
    )
    with pytest.raises(DerivationError):
        c5_c6_modes.derive()


@pytest.mark.parametrize(("depth", "gamma"), RULES)
@pytest.mark.parametrize(("start", "target"), CASES)
def test_exact_agrees(start: float, target: float, depth: int, gamma: float) -> None:
    end = min(3.0, 0.9 * DERIVED["vanishing_time"](start, target, depth, gamma))
    times = np.array([0.0, 0.1 * end, 0.5 * end, end])
    derived = DERIVED["mode"](times, start, target, depth, gamma)
    # The condition of s with respect to t and s(0) stays below 100 on these cases.
    bound = tolerances.product(np.float64, 100)
    tolerances.assert_close(modes.partial_mode(times, start, target, depth, gamma), derived, bound)
    s = start + 0.6 * (max(target, 0.0) - start)
    exact = float(modes.mode_time(s, start, target, depth, gamma))
    assert exact == pytest.approx(DERIVED["mode_time"](s, start, target, depth, gamma), rel=bound)


def test_the_plateau_of_exact_agrees() -> None:
    for depth in (3, 5):
        assert float(modes.plateau_time(1e-4, 2.0, depth)) == pytest.approx(
            DERIVED["plateau"](1e-4, 2.0, depth), rel=1e-12
        )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_dense_agrees(gamma: float) -> None:
    weights, teacher, u = aligned(3)
    net = LinearNetwork(weights)
    final = total_along(net, fractional_flow(net, Task(teacher), [0.8], gamma))[0]
    derived = [DERIVED["mode"]([0.8], s, t, 3, gamma)[0] for s, t in ((0.2, 1.0), (0.5, 0.1), (1.5, 2.0))]
    tolerances.assert_close(final, u[-1] @ np.diag(derived) @ u[0].T, 1e-7)
