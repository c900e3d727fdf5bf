"""C5 and C6 against mpmath quadrature, known closed forms, and their own composition, over 24 orders of magnitude."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest

import linnat as ln
from linnat import modes
from tests import tolerances

pytestmark = pytest.mark.statement("C5", "C6")


def _speed(s, target, depth, gamma):
    return (depth * s ** (2 - mp.mpf(2) / depth)) ** (1 - mp.mpf(gamma)) * (target - s)


def _time(s, start, target, depth, gamma):
    """Integrate ds / (ds/dt) in log s, panel by panel."""
    with mp.workdps(30):
        s, start, target = mp.mpf(s), mp.mpf(start), mp.mpf(target)
        a, b = mp.log(start), mp.log(s)
        panels = int(abs(b - a)) + 1
        edges = [a + (b - a) * mp.mpf(k) / panels for k in range(panels + 1)]
        return float(mp.quad(lambda u: mp.e**u / _speed(mp.e**u, target, depth, gamma), edges))


@pytest.mark.parametrize("depth", [2, 3, 7, 50])
@pytest.mark.parametrize("gamma", [0.0, 0.25, 1 / 3, 0.5, 1.0])
def test_time_and_its_inverse_against_quadrature(depth, gamma):
    rng = np.random.default_rng(depth)
    for target in (1.0, 2e-3, -1.0, -30.0, 5e4):
        for start in (1e-12, 1e-5, 0.3, 3.0, 1e12):
            end = max(target, 0.0)
            share = rng.uniform(0.01, 0.9)
            s = start * (end / start) ** share if end else start * (1 - share)
            exact = _time(s, start, target, depth, gamma)
            assert float(modes.mode_time(s, start, target, depth, gamma)) == pytest.approx(exact, rel=1e-11)
            found = float(modes.partial_mode(exact, start, target, depth, gamma)[0])
            speed = float(_speed(mp.mpf(s), target, depth, gamma))
            first = float(_speed(mp.mpf(start), target, depth, gamma))
            # |∂log s/∂log t| + |∂log s/∂log s_0|: what rounding of the arguments alone does.
            condition = 1 + abs(speed * exact / s) + abs(speed / first * start / s)
            # Powers of x pass through logarithms of ratios, up to log 1e24 times the power p < 2.
            size = 2 * math.ceil(math.log(1e24))
            assert abs(found - s) <= tolerances.product(float, size, condition) * s


def test_known_closed_forms():
    times = np.linspace(0, 3, 7)
    line = modes.gradient_mode(times, 0.2, 1.5, 1)
    np.testing.assert_allclose(line, 1.5 - 1.3 * np.exp(-times), rtol=1e-14)
    # Saxe et al.: two layers are a logistic curve.
    logistic = 1.5 / (1 + (1.5 / 0.2 - 1) * np.exp(-2 * 1.5 * times))
    np.testing.assert_allclose(modes.gradient_mode(times, 0.2, 1.5, 2), logistic, rtol=1e-14)
    for depth in (1, 2, 5):
        natural = modes.partial_mode(times, 0.2, 1.5, depth, 1.0)
        np.testing.assert_allclose(natural, 1.5 - 1.3 * np.exp(-times), rtol=1e-14)
    np.testing.assert_allclose(modes.gradient_mode(times, 2.0, 0.0, 2), 1 / (1 / 2.0 + 2 * times), rtol=1e-14)
    assert modes.gradient_mode(1.0, 1.0, -2.0, 1)[0] == pytest.approx(-2 + 3 * math.exp(-1))


def test_a_balanced_network_follows_its_modes_under_gradient_flow():
    start, target = np.array([0.3, 1.4, 0.05]), np.array([2.0, 0.5, 0.0])
    net, task = ln.LinearNetwork.balanced(np.diag(start), 3), ln.Task(np.diag(target))
    times = [0.0, 0.5, 2.0]
    layers = ln.dense.flow.integrate(net, lambda m: ln.gradient(m, task), times)
    total = layers[2] @ layers[1] @ layers[0]
    found = modes.gradient_mode(times, start, target, 3)
    np.testing.assert_allclose(np.diagonal(total, axis1=1, axis2=2).T, found, rtol=1e-7, atol=1e-9)
    other = modes.gradient_mode(times, start, target, 2)  # the negative control: another depth
    assert np.abs(other - found).max() > 1e-2


def test_composition_limits_and_stationary_points():
    start, target = np.array([1e-3, 0.4, 6.0, 2.0]), np.array([2.0, -1.0, 0.7, 2.0])
    for depth, gamma in ((2, 0.0), (4, 0.0), (4, 0.5)):
        middle = modes.partial_mode(0.3, start, target, depth, gamma)[:, 0]
        onward = modes.partial_mode(0.5, middle, target, depth, gamma)
        np.testing.assert_allclose(onward, modes.partial_mode(0.8, start, target, depth, gamma), rtol=1e-12)
        np.testing.assert_array_equal(modes.partial_mode(0.0, start, target, depth, gamma)[:, 0], start)
        late = modes.partial_mode(1e7, start, target, depth, gamma)[:, 0]
        np.testing.assert_allclose(late, np.maximum(target, 0), atol=1e-4)
        assert modes.partial_mode(1.0, 2.0, 2.0, depth, gamma)[0] == 2.0
    assert modes.mode_time(2.0, 1.0, 2.0, 3) == np.inf
    assert modes.mode_time(0.0, 1.0, 0.0, 3) == np.inf
    assert modes.mode_time(1.0, 1.0, 2.0, 3) == 0.0


@pytest.mark.parametrize(("depth", "gamma"), [(2, 0.0), (3, 0.0), (3, 0.5), (4, 0.5), (8, 0.75)])
def test_escape_from_zero_in_finite_time_exactly_if_the_power_is_below_one(depth, gamma):
    power = (2 - 2 / depth) * (1 - gamma)
    time = float(modes.escape_time(0.0, 1.0, depth, gamma))
    assert np.isfinite(time) == (power < 1)
    moved = float(modes.partial_mode(5.0, 0.0, 1.0, depth, gamma)[0])
    if power < 1:
        assert float(modes.partial_mode(time, 0.0, 1.0, depth, gamma)[0]) == pytest.approx(0.5, rel=1e-12)
        assert time == pytest.approx(float(modes.escape_time(1e-200, 1.0, depth, gamma)), rel=1e-9)
    else:
        assert moved == 0.0


def test_plateau_is_the_leading_term():
    errors = []
    for start in (1e-6, 1e-8):
        exact = float(modes.escape_time(start, 2.0, 4))
        errors.append(abs(float(modes.plateau_time(start, 2.0, 4)) / exact - 1))
    assert errors[1] < 0.2 * errors[0] < 0.01
    with pytest.raises(ln.ConditionError, match="escape_time"):
        modes.plateau_time(0.1, 1.0, 2)


def test_negative_targets_end_at_zero():
    assert modes.partial_mode([0.0, 100.0], 1.0, -1.0, 3, 0.5).tolist() == [[1.0, 0.0]][0]
    reached = float(modes.mode_time(0.0, 1.0, -1.0, 3, 0.5))
    just_before = float(modes.partial_mode(reached * (1 - 1e-6), 1.0, -1.0, 3, 0.5)[0])
    assert 0 < just_before < 1e-12
    assert 0 < float(modes.gradient_mode(50.0, 1.0, -1.0, 2)[0]) < 1e-40
    with pytest.raises(ln.FlowBreakdownError) as caught:
        modes.partial_mode(1.0, 1.0, -1.0, 2, 1.0)
    assert caught.value.time == pytest.approx(math.log(2))
    assert modes.partial_mode(0.5, 1.0, -1.0, 2, 1.0)[0] == pytest.approx(2 * math.exp(-0.5) - 1)


def test_broadcasting_and_float32():
    start, target = np.array([[0.1], [2.0]]), np.array([1.0, -0.5, 0.0])
    times = [0.0, 0.2, 3.0]
    stack = modes.gradient_mode(times, start, target, 3)
    assert stack.shape == (2, 3, 3)
    for i in range(2):
        for j in range(3):
            alone = modes.gradient_mode(times, start[i, 0], target[j], 3)
            np.testing.assert_allclose(stack[i, j], alone, rtol=1e-13)
    single = modes.gradient_mode(times, np.float32(0.1), np.float32(1.0), 3)
    assert single.dtype == np.float32


def test_bad_input():
    with pytest.raises(ln.InputError, match="start"):
        modes.gradient_mode(1.0, -1.0, 1.0, 2)
    with pytest.raises(ln.InputError, match="gamma"):
        modes.partial_mode(1.0, 1.0, 1.0, 2, 1.5)
    with pytest.raises(ln.InputError, match="depth"):
        modes.gradient_mode(1.0, 1.0, 1.0, 0)
    with pytest.raises(ln.InputError, match="times"):
        modes.gradient_mode(-1.0, 1.0, 1.0, 2)
    with pytest.raises(ln.InputError, match="between start and target"):
        modes.mode_time(3.0, 1.0, 2.0, 2)
    with pytest.raises(ln.InputError, match="fraction"):
        modes.escape_time(0.1, 1.0, 2, fraction=1.0)
    with pytest.raises(ln.InputError, match="start, target"):
        modes.plateau_time(0.0, 1.0, 4)


def test_one_layer_keeps_a_small_start() -> None:
    path = modes.gradient_mode([0.0, 1e-13, 800.0], 1e-12, [-2.0, 3.0], 1)
    np.testing.assert_allclose(path[:, 0], 1e-12, rtol=1e-15)
    np.testing.assert_allclose(path[:, 1], [8e-13, 1.3e-12], rtol=1e-12)
    np.testing.assert_array_equal(path[:, 2], [-2.0, 3.0])
