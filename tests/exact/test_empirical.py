"""Is the empirical Fisher matrix what X6 says? Against quadrature, samples, dense solves, integrators and limits."""

from __future__ import annotations

import itertools

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import linnat as ln
from linnat.dense import fisher as by_definition
from linnat.dense.flow import integrate, total_along
from linnat.dense.sample import Sample, of_data
from linnat.exact import empirical
from tests import tolerances
from tests.strategies import covariance, seeds

pytestmark = pytest.mark.statement("X6")


def draw(seed: int, widths: tuple[int, ...]) -> tuple[ln.LinearNetwork, ln.Task, np.ndarray]:
    rng = np.random.default_rng(seed)
    net = ln.LinearNetwork([rng.standard_normal((b, a)) / np.sqrt(a) for a, b in itertools.pairwise(widths)])
    teacher = rng.standard_normal((widths[-1], widths[0]))
    task = ln.Task(teacher, covariance(rng, widths[0], 3.0), covariance(rng, widths[-1], 2.0))
    return net, task, 0.5 * covariance(rng, widths[-1], 2.0)


def quadrature(net: ln.LinearNetwork, task: ln.Task, noise: np.ndarray) -> Sample:
    """Return points that integrate degree five over Gaussian x and ν exactly."""
    factor = task.input_factor
    size = factor.shape[1]
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    places = np.array(list(itertools.product(range(3), repeat=size + len(noise))))
    z, w = nodes[places], weights[places].prod(axis=1)
    x = z[:, :size] @ factor.T
    y = x @ task.teacher.T + z[:, size:] @ np.linalg.cholesky(noise).T
    return Sample(x, y, w / w.sum(), task.noise_cov, np.zeros_like(noise))


sizes = st.integers(1, 3)


@settings(max_examples=15)
@given(seeds, sizes, st.lists(st.integers(1, 3), max_size=2), sizes)
def test_the_matrix_is_that_of_exact_quadrature(
    seed: int, inputs: int, hidden: list[int], outputs: int
) -> None:
    net, task, noise = draw(seed, (inputs, *hidden, outputs))
    bound = tolerances.product(np.float64, 3 ** (inputs + outputs) // 9 + 9, 4.0)
    for given_noise, used in ((noise, noise), (None, task.noise_cov)):
        exact = by_definition.empirical_fisher(net, quadrature(net, task, used))
        tolerances.assert_close(empirical.fisher(net, task, given_noise), exact, bound)
    # Negative control: the true one, by which it is often replaced, lacks what is quadratic in the network's error.
    true = by_definition.gauss_newton(net, task)
    gap = min(1.0, float(np.linalg.norm(net.total - task.teacher)))
    assert tolerances.relative_error(true, empirical.fisher(net, task)) > 1e-4 * gap**2


def test_samples_come_closer_like_one_over_the_root_of_their_number() -> None:
    net, task, noise = draw(1, (2, 2, 2))
    claimed, gaps = empirical.fisher(net, task, noise), []
    for count in (1000, 16_000):
        errors = []
        for seed in range(12):
            rng = np.random.default_rng([seed, count])
            x = rng.standard_normal((count, 2)) @ task.input_factor.T
            y = x @ task.teacher.T + rng.standard_normal((count, 2)) @ np.linalg.cholesky(noise).T
            sampled = by_definition.empirical_fisher(net, of_data(x, y, task.noise_cov))
            errors.append(tolerances.relative_error(sampled, claimed))
        gaps.append(np.sqrt(np.mean(np.square(errors))))
    # Root mean squares over 12 seeds: N^{−½} is a factor of 4, known to 1/√12 each.
    assert 2.2 < gaps[0] / gaps[1] < 7.3


def test_what_kfac_misses() -> None:
    net, task, noise = draw(2, (2, 3, 2))
    points = quadrature(net, task, noise)
    back = np.linalg.solve(task.noise_cov, (points.y - points.x @ net.total.T).T).T
    exact, start = by_definition.empirical_fisher(net, points), 0
    for i, gap in enumerate(empirical.kfac_gap(net, task, noise)):
        inputs, errors = points.x @ net.before[i].T, back @ net.after[i]
        kfac = np.kron((points.weights * inputs.T) @ inputs, (points.weights * errors.T) @ errors)
        block = exact[start : start + len(gap), start : start + len(gap)]
        tolerances.assert_close(kfac + gap, block, tolerances.backward(np.float64, 32))
        assert np.linalg.norm(gap) > 0.1 * np.linalg.norm(block)
        start += len(gap)
    # At the optimum nothing is missed.
    end = ln.LinearNetwork([task.teacher])
    assert max(np.abs(g).max() for g in empirical.kfac_gap(end, task)) <= 1e-14


@settings(max_examples=10)
@given(seeds, sizes, sizes, st.booleans())
def test_the_direction_solves_the_dense_system(
    seed: int, inputs: int, outputs: int, proportional: bool
) -> None:
    net, task, noise = draw(seed, (inputs, max(inputs, outputs), outputs))
    noise = 0.3 * task.noise_cov if proportional else noise
    matrix = by_definition.empirical_fisher(net, quadrature(net, task, noise))
    gradient = ln.flatten(by_definition.gradient(net, task))
    for gauge in ("layerwise", "minimum-norm"):
        u = ln.flatten(empirical.natural_gradient(net, task, gauge, noise))
        size = np.linalg.norm(matrix, 2) * np.linalg.norm(u) + np.linalg.norm(gradient)
        # By way of a total weight: rounding of W over the change.
        change = np.linalg.norm(empirical.induced_change(net, task, noise))
        bound = tolerances.backward(np.float64, 9) * (1 + np.linalg.norm(net.total) / change) * 10
        assert np.linalg.norm(matrix @ u - gradient) <= bound * size
        if gauge == "minimum-norm":
            wanted = np.linalg.lstsq(matrix, gradient, rcond=1e-10)[0]
            assert tolerances.relative_error(u, wanted) <= 1e-5


def test_layers_move_as_the_modes_say() -> None:
    net, task, _ = draw(5, (2, 2, 2))
    noise = 0.4 * task.noise_cov

    def ascent(state: ln.LinearNetwork) -> tuple[np.ndarray, ...]:
        matrix = by_definition.empirical_fisher(state, quadrature(state, task, noise))
        vector = np.linalg.lstsq(matrix, ln.flatten(by_definition.gradient(state, task)), rcond=1e-11)[0]
        return ln.unflatten(vector, state)

    times = [0.3, 0.8]
    moved = total_along(net, integrate(net, ascent, times, rtol=1e-8, atol=1e-10))
    tolerances.assert_close(moved, empirical.natural_total(net, task, times, noise), 1e-6)
    # Negative control: C1's line.
    line = ln.flow.natural_total(net, task, times, "minimum-norm")
    assert tolerances.relative_error(line, moved) > 0.05


@settings(max_examples=20)
@given(seeds, st.integers(1, 5), st.floats(0.05, 20.0))
def test_modes_are_those_of_the_integrated_equation(seed: int, count: int, noise: float) -> None:
    modes = np.exp(np.random.default_rng(seed).uniform(-3, 2, count))

    def slope(_: float, d: np.ndarray) -> np.ndarray:
        share = float((d**2 / (noise + 2 * d**2)).sum())
        return -d / ((1 + share) * (noise + 2 * d**2))

    run = solve_ivp(slope, (0.0, 4.0), modes, "DOP853", t_eval=[0.5, 4.0], rtol=1e-11, atol=1e-14)
    found = empirical.mode_flow([0.0, 0.5, 4.0], modes, noise)
    np.testing.assert_array_equal(found[0], modes)
    tolerances.assert_close(found[1:], run.y.T, 1e-8)
    # Composition.
    again = empirical.mode_flow(3.5, found[1], noise)
    spread = float(1 + (modes**2).max() / noise)
    tolerances.assert_close(again[0], found[2], tolerances.product(np.float64, 16, spread))


def test_one_output_against_extended_precision_and_at_extremes() -> None:
    mp.mp.dps = 40
    for start, noise, t in ((3.0, 0.5, 1.0), (30.0, 1e-3, 400.0), (1e-3, 2.0, 5.0), (1e3, 1.0, 1.4e6)):
        ratio = 3 * mp.mpf(start) ** 2 / mp.mpf(noise)
        y = mp.log(ratio) + ratio - 2 * mp.mpf(t) / mp.mpf(noise)
        w = mp.lambertw(mp.exp(y)).real
        wanted = float(mp.sqrt(mp.mpf(noise) / 3 * w))
        found = float(empirical.mode_flow(t, [start], noise)[0, 0])
        # The argument is a difference of numbers of the size of 3 q_0/s².
        assert found == pytest.approx(wanted, rel=tolerances.product(np.float64, 2, float(ratio)))
    mp.mp.dps = 15
    # A plain Lambert W overflows here: 3 q_0/s² = 3e8.
    assert float(empirical.mode_flow(1.0, [1e4])[0, 0]) == pytest.approx(np.sqrt(1e8 - 2 / 3), rel=1e-12)
    assert float(empirical.mode_flow(1e5, [1.0])[0, 0]) == 0.0
    np.testing.assert_array_equal(empirical.mode_flow([0.0, 1.0], [0.0, 0.0]), 0.0)


def test_slow_far_away_and_true_at_the_end() -> None:
    # From afar many modes of size d move at (s² + 2d²)(1 + k/2) times less than the true rate 1.
    rates = empirical.mode_rates([100.0] * 4)
    np.testing.assert_allclose(rates, 1 / ((1 + 2e4) * (1 + 4e4 / (1 + 2e4))), rtol=1e-12)
    np.testing.assert_allclose(empirical.mode_rates([1e-8] * 4), 1.0, rtol=1e-14)
    np.testing.assert_allclose(empirical.mode_rates([1e-8] * 4, 0.25), 4.0, rtol=1e-14)
    # The time to halve a single error d: ½ log 2 s² ... of the true one log 2, here 3/2 · ¾ d² more.
    time = 0.5 * np.log(4.0) + 1.5 * 0.75 * 100.0
    assert float(empirical.mode_flow(time, [10.0])[0, 0]) == pytest.approx(5.0, rel=1e-12)


def test_data_carry_their_own_noise_and_only_second_moments() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((50_000, 2))
    y = x @ [[1.0, 0.5], [0.0, 2.0]] + 0.5 * rng.standard_normal((50_000, 2))
    net = ln.LinearNetwork([np.eye(2), np.eye(2)])
    found = empirical.fisher(net, ln.Task.from_data(x, y))
    sampled = by_definition.empirical_fisher(net, of_data(x, y))
    assert tolerances.relative_error(found, sampled) <= 0.05
    # Uniform inputs have other fourth moments: the closed form is no longer theirs.
    x = rng.choice([-1.0, 1.0], (50_000, 2))
    y = x @ [[3.0, 0.5], [0.0, 2.0]] + 0.5 * rng.standard_normal((50_000, 2))
    found = empirical.fisher(net, ln.Task.from_data(x, y))
    assert tolerances.relative_error(found, by_definition.empirical_fisher(net, of_data(x, y))) > 0.1


def test_stacks_equal_a_loop_and_float32_is_kept() -> None:
    net = ln.LinearNetwork.random((2, 3, 2), rng=0, batch_shape=(2, 1))
    task = ln.Task(np.random.default_rng(1).standard_normal((3, 2, 2)))
    matrices, changes = empirical.fisher(net, task), empirical.induced_change(net, task)
    paths, steps = empirical.natural_total(net, task, [0.0, 1.0]), empirical.natural_gradient(net, task)
    gaps = empirical.kfac_gap(net, task)
    assert paths.shape == (2, 3, 2, 2, 2)
    for a, b in np.ndindex(2, 3):
        single, alone = ln.LinearNetwork([w[a, 0] for w in net.weights]), ln.Task(task.teacher[b])
        np.testing.assert_allclose(matrices[a, b], empirical.fisher(single, alone), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(
            changes[a, b], empirical.induced_change(single, alone), rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(
            paths[a, b], empirical.natural_total(single, alone, [0.0, 1.0]), atol=1e-12
        )
        np.testing.assert_allclose(steps[1][a, b], empirical.natural_gradient(single, alone)[1], atol=1e-10)
        np.testing.assert_allclose(gaps[0][a, b], empirical.kfac_gap(single, alone)[0], atol=1e-12)
    low = ln.LinearNetwork([w[0, 0].astype(np.float32) for w in net.weights])
    alone = ln.Task(task.teacher[0])
    for array in (
        empirical.fisher(low, alone),
        empirical.induced_change(low, alone),
        empirical.natural_total(low, alone, 1.0),
        *empirical.kfac_gap(low, alone),
        *empirical.natural_gradient(low, alone),
        empirical.mode_flow(1.0, np.ones(2, np.float32)),
        empirical.mode_rates(np.ones(2, np.float32)),
    ):
        assert array.dtype == np.float32


def test_conditions() -> None:
    net, task = ln.LinearNetwork.random((3, 1, 3), rng=0), ln.Task(np.eye(3))
    for call in (empirical.induced_change, empirical.natural_gradient):
        with pytest.raises(ln.ConditionError, match=r"\(J\)"):
            call(net, task)
    with pytest.raises(ln.ConditionError, match=r"\(J\)"):
        empirical.natural_total(net, task, 1.0)
    with pytest.raises(ln.ConditionError, match="biases"):
        empirical.fisher(ln.LinearNetwork.random((2, 2), rng=0, biases=True), ln.Task(np.eye(2)))
    with pytest.raises(ln.ConditionError, match="mean 0"):
        empirical.fisher(ln.LinearNetwork([np.eye(1)]), ln.Task([[1.0]], [[2.0]], input_mean=[1.0]))
    with pytest.raises(ln.ConditionError, match="s² Σ"):
        empirical.natural_total(
            ln.LinearNetwork([np.eye(2)]), ln.Task(2 * np.eye(2)), 1.0, np.diag([1.0, 2.0])
        )


def test_bad_input() -> None:
    net, task = ln.LinearNetwork([np.eye(2), np.eye(2)]), ln.Task(2 * np.eye(2))
    for call, name in (
        (lambda: empirical.fisher([np.eye(2)], task), "net"),
        (lambda: empirical.fisher(net, ln.Task(np.eye(3))), "task"),
        (lambda: empirical.fisher(net, task, np.eye(3)), "target_noise"),
        (lambda: empirical.fisher(net, task, -np.eye(2)), "target_noise"),
        (lambda: empirical.fisher(net, task, np.nan * np.eye(2)), "target_noise"),
        (lambda: empirical.fisher(net, task, 1j * np.eye(2)), "target_noise"),
        (lambda: empirical.induced_change(net, task, np.zeros((2, 2))), "target_noise"),
        (lambda: empirical.natural_gradient(net, task, "euclidean"), "gauge"),
        (lambda: empirical.natural_total(net, task, -1.0), "times"),
        (lambda: empirical.mode_flow([np.inf], [1.0]), "times"),
        (lambda: empirical.mode_flow(1.0, [-1.0]), "modes"),
        (lambda: empirical.mode_flow(1.0, 1.0), "modes"),
        (lambda: empirical.mode_flow(1.0, [1e200]), "modes"),
        (lambda: empirical.mode_flow(1.0, [1.0], 0.0), "noise"),
        (lambda: empirical.mode_rates([1.0], "one"), "noise"),
    ):
        with pytest.raises(ln.InputError, match=f"^{name}"):
            call()


def test_what_overflows_is_one_clear_error() -> None:
    net, task = ln.LinearNetwork([np.full((2, 2), 1e200), np.eye(2)]), ln.Task(np.eye(2))
    for call in (empirical.fisher, empirical.kfac_gap, empirical.natural_gradient):
        with pytest.raises(ln.RangeError, match="stay within the range of float64"):
            call(net, task)
    with pytest.raises(ln.RangeError, match="stay within the range of float64"):
        empirical.mode_rates([1e200, 1.0])
