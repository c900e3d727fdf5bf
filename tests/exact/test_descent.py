"""D1, D2, X5 and X10 against loops of steps, mpmath and the complex plane."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest

import linnat as ln
from linnat import descent
from linnat.exact.ratio import square_chain
from tests import tolerances


def _case(size, depth, seed, biases=False):
    rng = np.random.default_rng(seed)
    net = ln.LinearNetwork.random((size,) * (depth + 1), rng=rng, biases=biases)
    turn = np.eye(size) + 0.3 * rng.standard_normal((size, size)) / math.sqrt(size)
    x = rng.standard_normal((30, size)) + 0.5
    return net, ln.Task.from_data(x, x @ (net.total[:, :size] @ turn).T + biases * rng.standard_normal(size))


@pytest.mark.statement("D1", "X10")
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("eta", [0.1, 1.0, 1.7])
def test_step_of_the_parameters_gives_the_map_of_the_total_weight(depth, eta, biases):
    net, task = _case(3, depth, depth, biases)
    # From the definition: every layer moves by (η/L) B_i⁻¹ E A_i⁺.
    moved = []
    for i in range(depth):
        change = np.linalg.solve(net.after[i], task.goal(biases) - net.total) @ np.linalg.inv(net.before[i])
        moved.append(net.layers[i] + eta / depth * change)
    expected = net.replace_layers(moved)
    condition = float(square_chain(net, task, "D1").condition) ** 2 * depth
    bound = tolerances.solve(float, 3, condition) * np.abs(expected.total).max()
    np.testing.assert_allclose(descent.natural_total_step(net, task, eta), expected.total, rtol=0, atol=bound)
    np.testing.assert_allclose(descent.natural_step(net, task, eta).total, expected.total, rtol=0, atol=bound)
    # Spectra map by the scalar map, the affine eigenvalue 1 included.
    after = np.sort_complex(descent.spectrum(expected, task))
    mapped = np.sort_complex(descent.scalar_map(descent.spectrum(net, task), eta, depth))
    np.testing.assert_allclose(after, mapped, rtol=1e-6)
    if depth > 1:
        assert np.abs(descent.scalar_map(descent.spectrum(net, task), eta, 1) - mapped).max() > 1e-6


@pytest.mark.statement("D1")
def test_any_widths_and_zero_targets():
    net = ln.LinearNetwork.random((4, 2, 3), rng=0)
    task = ln.Task(np.ones((3, 4)))
    step = descent.natural_step(net, task, 0.5)
    for a, w, u in zip(step.weights, net.weights, ln.natural_gradient(net, task), strict=True):
        np.testing.assert_allclose(a, w - 0.5 * u, rtol=1e-14)
    one, zero = ln.LinearNetwork([[[2.0]], [[1.5]]]), ln.Task([[0.0]])
    shrunk = descent.natural_step(one, zero, 0.4).total[0, 0]
    assert shrunk == pytest.approx(3.0 * (1 - 0.4 / 2) ** 2)
    assert descent.natural_total_step(one, zero, 0.4)[0, 0] == pytest.approx(shrunk)
    assert descent.scalar_map(0.0, 0.4, 2) == 0.0
    assert descent.scalar_map(-1.0, 1.0, 2) == -np.inf or descent.scalar_map(-1.0, 1.0, 2) == np.inf


@pytest.mark.statement("X5", "X10")
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("eta", [0.3, 1.0, 1.4])
def test_exact_step_moves_the_total_weight_straight(eta, biases):
    net, task = _case(4, 3, 1, biases)
    after = descent.exact_step(net, task, eta)
    line = net.total + eta * (task.goal(biases) - net.total)
    condition = float(square_chain(net, task, "X5").condition) ** 2
    np.testing.assert_allclose(after.total, line, rtol=0, atol=tolerances.solve(float, 4, condition))
    # Every layer changes by the same similarity class: A_i⁻¹ W_i⁻¹ W_i⁺ A_i does not depend on i.
    if not biases:
        roots = [
            np.linalg.inv(a) @ np.linalg.inv(w) @ p @ a
            for a, w, p in zip(net.before, net.weights, after.weights, strict=True)
        ]
        np.testing.assert_allclose(roots[1], roots[0], rtol=0, atol=1e-9)
        assert (np.linalg.eigvals(roots[0]).real > 0).all()
    step = descent.natural_step(net, task, eta).total
    assert np.abs(step - line).max() > 1e-4  # the negative control: D1 overshoots


@pytest.mark.statement("X5")
def test_exact_step_refuses_the_negative_axis():
    net = ln.LinearNetwork([np.eye(2)] * 2)
    with pytest.raises(ln.ConditionError, match="D1"):
        descent.exact_step(net, ln.Task(np.diag([2.0, -1.0])), 0.6)
    assert descent.exact_step(net, ln.Task(np.diag([2.0, -1.0])), 0.4).total[1, 1] == pytest.approx(0.2)
    with pytest.raises(ln.ConditionError, match="X5"):
        descent.exact_step(net, ln.Task(np.diag([2.0, 0.0])), 1.0)
    assert descent.exact_step(net, ln.Task(np.diag([2.0, 0.0])), 0.5).total[1, 1] == pytest.approx(0.5)
    single = descent.exact_step(ln.LinearNetwork([np.zeros((2, 2))]), ln.Task(-np.eye(2)), 1.0)
    np.testing.assert_array_equal(single.total, -np.eye(2))


@pytest.mark.statement("D2")
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_local_rate_convergence_and_bounds(depth):
    for eta in (0.3, 1.5):
        g = 1.0 + 1e-3
        for _ in range(5):
            ratio = (float(descent.scalar_map(g, eta, depth)) - 1) / (g - 1)
            assert ratio == pytest.approx(1 - eta, abs=4e-3)
            g = float(descent.scalar_map(g, eta, depth))
    g = 10.0 ** np.linspace(-3, 3, 25)
    for eta in (0.1, 1.0, 1.9):
        values = g
        for _ in range(1500):
            values = descent.scalar_map(values, eta, depth)
        np.testing.assert_allclose(values, 1.0, atol=1e-8)
    # ρ = |1 − 1/… | in terms of W⁻¹W*: ρ⁺ ≤ (1 − η) ρ + η ρ² for ρ ≤ 1, η ≤ 1, in the complex plane.
    rng = np.random.default_rng(depth)
    points = 1 + np.sqrt(rng.random(2000)) * np.exp(2j * np.pi * rng.random(2000))
    for eta in (0.2, 1.0):
        rho = np.abs(1 - points)
        after = np.abs(1 - descent.scalar_map(points, eta, depth))
        assert (after <= (1 - eta) * rho + eta * rho**2 + 1e-12).all()


@pytest.mark.statement("D2")
def test_monotone_limit_against_mpmath_and_the_map():
    for depth in (1, 2, 3, 4, 9):
        for g in (1e-12, 0.3, 1 - 1e-12, 1 + 1e-9, 7.0, 1e3, 1e12):
            with mp.workdps(40):
                exact = depth * (mp.root(mp.mpf(g), depth) - 1) / (mp.mpf(g) - 1)
            assert float(descent.monotone_limit(g, depth)) == pytest.approx(float(exact), rel=1e-14)
    assert descent.monotone_limit([0.0, 1.0], 3).tolist() == [3.0, 1.0]
    for g in (5.0, 1e3):
        limit = float(descent.monotone_limit(g, 3))
        assert (
            float(descent.scalar_map(g, 0.99 * limit, 3)) > 1 > float(descent.scalar_map(g, 1.01 * limit, 3))
        )
    for depth, factor in ((2, 250.5), (3, 3.726e4), (4, 3.953e6)):
        assert float(descent.first_step_factor(1e3, 1.0, depth)) == pytest.approx(factor, rel=1e-3)
    product = descent.first_step_factor(7.0, 0.5, 3) * descent.scalar_map(7.0, 0.5, 3)
    assert float(product) == pytest.approx(1.0)


@pytest.mark.statement("D2")
def test_basins_are_half_planes_for_two_layers_and_not_for_three():
    axis = np.linspace(-2, 2, 41) + 0.013
    plane = axis[None, :] + 1j * axis[:, None]
    for eta in (0.5, 1.0):
        found = descent.root_basin(plane, eta, 2, 400)
        np.testing.assert_array_equal(found.root, (plane.real < 0).astype(int))
    three = descent.root_basin(plane, 1.0, 3, 200)
    nearest = np.rint(np.angle(plane) * 3 / (2 * np.pi)).astype(int) % 3
    assert (three.root != nearest).any()
    assert (three.root >= 0).mean() > 0.999
    # By iterating layers: which root does x reach from 1 for the ratio g?
    g = (np.exp(1j * np.array([2.9, -2.9, 3.1, 0.2])) * 2.0).astype(complex)
    x = np.ones(4, complex)
    for _ in range(300):
        x = x + (g * x**-2.0 - x) / 3
    index = descent.basin(g, 1.0, 3).root
    np.testing.assert_allclose(g ** (1 / 3) * np.exp(2j * np.pi * index / 3), x, rtol=1e-7)


@pytest.mark.statement("D2")
def test_real_negative_ratios_converge_for_odd_depth_only_and_slow_ones_are_reported():
    g = -np.linspace(0.1, 9, 200)
    for depth in (2, 4):
        assert (descent.basin(g, 1.0, depth, 500).root == -1).all()
    odd = descent.basin(g, 1.0, 3, 500)
    assert (odd.root == 1).mean() > 0.99
    slow = descent.basin([4.0, 0.0], 0.01, 2, 20)
    assert slow.root.tolist() == [-1, -1]
    assert slow.steps.tolist() == [20, 20]
    done = descent.basin([1.0], 1.0, 2)
    assert (done.root[0], done.steps[0]) == (0, 0)
    assert descent.basin(4.0, 1.0, 2).root.shape == ()


def test_broadcasting_float32_and_bad_input():
    net = ln.LinearNetwork.random((3, 3, 3), rng=0, batch_shape=(4,), dtype=np.float32)
    task = ln.Task(np.eye(3))
    stack = descent.natural_total_step(net, task, 0.3)
    assert stack.dtype == np.float32
    for k in range(4):
        alone = descent.natural_total_step(ln.LinearNetwork([w[k] for w in net.weights]), task, 0.3)
        np.testing.assert_allclose(stack[k], alone, rtol=1e-5)
    assert descent.natural_step(net, task, 0.3).dtype == np.float32
    assert descent.monotone_limit(np.float32(2.0), 2).dtype == np.float32
    with pytest.raises(ln.InputError, match="eta"):
        descent.natural_step(net, task, 0.0)
    with pytest.raises(ln.InputError, match="depth"):
        descent.scalar_map(1.0, 1.0, 0)
    with pytest.raises(ln.InputError, match="g"):
        descent.monotone_limit(-1.0, 2)
    with pytest.raises(ln.InputError, match="≠ 0"):
        descent.first_step_factor(0.0, 1.0, 2)
    with pytest.raises(ln.InputError, match="complex"):
        descent.basin([complex("nan")], 1.0, 2)
    with pytest.raises(ln.ConditionError, match="square"):
        descent.natural_total_step(ln.LinearNetwork.random((3, 2, 3), rng=0), task, 1.0)
