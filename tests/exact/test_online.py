"""Is the law of online learning exact? Exact quadrature of Gaussians, samples, limits, bad input (D3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linnat as ln
from tests import tolerances
from tests.strategies import conditioned, seeds

pytestmark = pytest.mark.statement("D3")

online = ln.online
counts = st.integers(1, 12)


def nodes(dimensions: int, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return Gauss–Hermite nodes (K, dimensions) and weights: exact for N(0, I) up to degree 2 count − 1 in each."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    weights = weights / weights.sum()
    grid = np.array(list(itertools.product(points, repeat=dimensions)))
    chance = np.array([np.prod(w) for w in itertools.product(weights, repeat=dimensions)])
    return grid, chance


def one_step(
    error: np.ndarray, eta: float, batch: int, step: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors after one step at every node of (z, ε), and their probabilities."""
    m, n = error.shape
    grid, chance = nodes(batch * (n + m))
    z = grid[:, : batch * n].reshape(-1, batch, n)
    noise = grid[:, batch * n :].reshape(-1, batch, m)
    direction = np.einsum("kbj,kbi->kji", np.einsum("ji,kbi->kbj", error, z) + noise, z) / batch
    return error - eta * step(direction, z), chance


def expected(errors: np.ndarray, chance: np.ndarray) -> float:
    return float(0.5 * (chance * (errors**2).sum(axis=(1, 2))).sum())


@pytest.mark.parametrize(
    ("n", "m", "batch"), [(1, 1, 1), (1, 1, 3), (2, 1, 1), (2, 2, 1), (2, 1, 2), (3, 1, 1)]
)
def test_one_step_is_exact(n: int, m: int, batch: int) -> None:
    error = np.random.default_rng(n + 10 * m).standard_normal((m, n))
    for eta in (0.1, 0.7, 1.9):
        errors, chance = one_step(error, eta, batch, lambda direction, _: direction)
        found = online.online_loss(1, 0.5 * np.sum(error**2), eta, batch, n, m)
        tolerances.assert_close(
            found[0], expected(errors, chance), tolerances.product(np.float64, len(chance))
        )


def test_two_steps_are_exact_and_other_constants_are_not() -> None:
    n, m, batch = 2, 1, 1
    error, etas = np.array([[1.5, -0.4]]), np.array([0.3, 0.6])
    errors, chance = one_step(error, etas[0], batch, lambda direction, _: direction)
    total = sum(
        p * expected(*one_step(e, etas[1], batch, lambda direction, _: direction))
        for e, p in zip(errors, chance, strict=True)
    )
    start = 0.5 * float(np.sum(error**2))
    found = online.online_loss(2, start, etas, batch, n, m)[-1]
    tolerances.assert_close(found, total, tolerances.product(np.float64, len(chance) ** 2))
    # Negative controls: n in place of n + 1 (inputs on the sphere have n − 1), one output too many.
    for fourth, outputs in ((n * (n + 1.0), m), (float(n * n), m), (n * (n + 2.0), m + 1)):
        wrong = online.online_loss(2, start, etas, batch, n, outputs, fourth_moment=fourth)[-1]
        assert abs(wrong / total - 1) > 0.02


def test_other_inputs_enter_by_their_fourth_moment() -> None:
    # Rademacher inputs: z ∈ {−1, 1}ⁿ, E‖z‖⁴ = n², exactly.
    n, m, eta = 3, 2, 0.8
    error = np.random.default_rng(0).standard_normal((m, n))
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=n)))
    grid, chance = nodes(m)
    total = 0.0
    for z in signs:
        moved = error - eta * ((error @ z) + grid)[:, :, None] * z
        total += float(0.5 * (chance * (moved**2).sum(axis=(1, 2))).sum()) / len(signs)
    start = 0.5 * float(np.sum(error**2))
    found = online.online_loss(1, start, eta, 1, n, m, fourth_moment=n * n)[0]
    tolerances.assert_close(found, total, tolerances.product(np.float64, 64))
    wrong = online.online_loss(1, start, eta, 1, n, m)[0]
    assert abs(wrong / total - 1) > 0.1


def test_noise_that_is_not_the_models_enters_by_its_trace() -> None:
    error, eta = np.array([[1.0, 0.5]]), 0.4
    grid, chance = nodes(3)
    z, noise = grid[:, :2], 3.0 * grid[:, 2]
    moved = error - eta * ((z @ error[0] + noise)[:, None] * z)
    total = float(0.5 * (chance * (moved**2).sum(axis=1)).sum())
    found = online.online_loss(1, 0.5 * 1.25, eta, 1, 2, 1, noise_trace=9.0)[0]
    tolerances.assert_close(found, total, tolerances.product(np.float64, 64))


@given(counts, counts, counts, st.floats(0.01, 0.99), st.floats(0, 1e3))
def test_stability_and_the_stationary_loss(n: int, m: int, batch: int, share: float, start: float) -> None:
    rule = online.law(batch, n, m)
    limit = online.stability_limit(rule)
    assert limit == pytest.approx(2 * batch / (batch + n + 1), rel=1e-14)
    eta = share * limit
    end = float(online.stationary_loss(eta, rule))
    # It is the fixed point; below the limit the law contracts to it, above it does not.
    kept = online.online_loss(1, end, eta, batch, n, m)[0]
    tolerances.assert_close(kept, end, tolerances.product(np.float64, 8))
    moved = online.online_loss(1, start, eta, batch, n, m)[0]
    rate = 1 - 2 * eta + eta**2 * (1 + (n + 1) / batch)
    assert abs((moved - end) - rate * (start - end)) <= tolerances.product(np.float64, 8) * (start + end + 1)
    assert online.online_loss(1, 1e6, 1.01 * limit, batch, n, m)[0] > 1e6
    assert online.fastest_step(rule) == pytest.approx(limit / 2)


@given(counts, counts, counts, st.floats(1e-3, 1e3), st.integers(1, 30), st.integers(0, 2**31))
def test_no_schedule_beats_the_greedy_one(
    n: int, m: int, batch: int, start: float, steps: int, seed: int
) -> None:
    rule = online.law(batch, n, m)
    greedy = online.greedy_schedule(steps, start, rule)
    again = online.online_loss(steps, start, greedy.etas, batch, n, m)
    tolerances.assert_close(again, greedy.losses, tolerances.product(np.float64, 8 * steps))
    rng = np.random.default_rng(seed)
    other = online.online_loss(
        steps, start, greedy.etas * np.exp(0.3 * rng.standard_normal(steps)), batch, n, m
    )
    assert (other >= greedy.losses * (1 - 1e-12)).all()
    best = online.best_constant_step(steps, start, rule)
    assert best.losses[-1] >= greedy.losses[-1] * (1 - 1e-12)
    for factor in (0.9, 1.1):
        near = online.online_loss(steps, start, factor * best.etas[0], batch, n, m)[-1]
        assert near >= best.losses[-1] * (1 - 1e-12)
    # 1/ℓ⁺ = 1/ℓ + 1/(aℓ + nm/2b)
    before = np.append(start, greedy.losses[:-1])
    growth = 1 / ((n + 1) / batch * before + n * m / (2 * batch))
    np.testing.assert_allclose(1 / greedy.losses - 1 / before, growth, rtol=1e-9)


@pytest.mark.parametrize("shift", [0.0, None, 40.0])
def test_harmonic_steps_are_efficient(shift: float | None) -> None:
    n, m, batch, steps = 5, 3, 2, 200_000
    rule = online.law(batch, n, m)
    etas = online.harmonic_steps(steps, rule, shift)
    losses = online.online_loss(steps, 1.0, etas, batch, n, m)
    bound = online.efficient_loss(steps, batch, n, m)
    # (K + s)² ℓ_K = σ²K + aσ² log K + C ℓ_0 + …
    a, s = 3.0, 3.0 if shift is None else shift
    rest = (a * np.log(steps) + online.forgetting(rule, shift) / rule.noise + 2 * s) / steps
    assert abs(losses[-1] / bound[-1] - 1) < 1.5 * rest < 6e-3
    assert abs(losses[-1] / bound[-1] - 1) < abs(losses[999] / bound[999] - 1)
    # Control: another constant is not.
    for factor in (1.5, 2.0):
        slow = online.online_loss(steps, 1.0, factor * etas, batch, n, m)
        assert slow[-1] / bound[-1] == pytest.approx(factor**2 / (2 * factor - 1), rel=0.02)
    greedy = online.greedy_schedule(20_000, 1.0, rule).losses[-1]
    assert 1 - 2e-3 < greedy / bound[19_999] < 1 + 2e-3


@given(st.integers(1, 40), st.integers(1, 20), st.one_of(st.none(), st.floats(0.0, 30.0)))
def test_how_the_start_is_forgotten(n: int, batch: int, shift: float | None) -> None:
    steps = 20_000
    rule = online.law(batch, n, 1)
    etas = online.harmonic_steps(steps, rule, shift)
    left = online.online_loss(steps, 1.0, etas, batch, n, 1, noise_trace=0.0)[-1]
    a = (n + 1) / batch
    s = a if shift is None else shift
    assert left * (steps + s) ** 2 == pytest.approx(online.forgetting(rule, shift), rel=2 * a / steps + 1e-9)
    if shift == 0:
        root = np.sqrt(a)
        assert online.forgetting(rule, 0.0) == pytest.approx(root * np.sinh(np.pi * root) / np.pi, rel=1e-12)


def test_a_shift_mends_the_harmonic_steps() -> None:
    rule = online.law(1, 60, 1)
    a = 61.0
    assert online.forgetting(rule, 0.0) > 1e6 * online.forgetting(rule)
    assert online.forgetting(rule) == pytest.approx(np.e * a**2, rel=0.05)
    # s = a is not the best: a/2 forgets e/4·… faster, e²a²/4 in the limit.
    shifts = np.linspace(5, 90, 200)
    best = shifts[np.argmin([online.forgetting(rule, s) for s in shifts])]
    assert best == pytest.approx(a / 2, rel=0.1)
    assert online.forgetting(rule, a / 2) == pytest.approx(np.e**2 / 4 * a**2, rel=0.05)


def test_metrics_from_the_same_minibatch_by_samples() -> None:
    rng = np.random.default_rng(5)
    error, eta, n, m, draws = np.array([[1.0, -0.5, 0.3]]), 0.7, 3, 1, 40_000
    start = 0.5 * float(np.sum(error**2))
    for batch in (1, 8):
        z = rng.standard_normal((draws, batch, n))
        y = z @ error.T + rng.standard_normal((draws, batch, m))
        step = (np.linalg.pinv(z) @ y).mT
        losses = 0.5 * ((error - eta * step) ** 2).sum(axis=(1, 2))
        found = online.online_loss(1, start, eta, batch, n, m, metric="minibatch")[0]
        assert abs(losses.mean() - found) < 5 * losses.std() / np.sqrt(draws)
        bias = online.metric_bias(batch, n, metric="minibatch")
        spread = step.std(axis=0) / np.sqrt(draws)
        assert (abs(step.mean(axis=0) - bias * error) < 5 * spread).all()
        # Control: the law of the population's metric is another one.
        wrong = online.online_loss(1, start, eta, batch, n, m)[0]
        assert abs(losses.mean() - wrong) > 8 * losses.std() / np.sqrt(draws)


def test_metrics_from_other_samples() -> None:
    rng = np.random.default_rng(6)
    error, eta, n, m, draws, others, batch = np.array([[1.0, -0.5]]), 0.4, 2, 1, 60_000, 14, 3
    start = 0.5 * float(np.sum(error**2))
    z, other = rng.standard_normal((draws, batch, n)), rng.standard_normal((draws, others, n))
    gradient = (z @ error.T + rng.standard_normal((draws, batch, m))).mT @ z / batch
    step = np.linalg.solve(other.mT @ other / others, gradient.mT).mT
    losses = 0.5 * ((error - eta * step) ** 2).sum(axis=(1, 2))
    found = online.online_loss(1, start, eta, batch, n, m, metric="independent", metric_samples=others)[0]
    assert abs(losses.mean() - found) < 5 * losses.std() / np.sqrt(draws)
    bias = online.metric_bias(batch, n, metric="independent", metric_samples=others)
    assert bias == pytest.approx(14 / 11)
    assert (abs(step.mean(axis=0) - bias * error) < 5 * step.std(axis=0) / np.sqrt(draws)).all()
    wrong = online.online_loss(1, start, eta, batch, n, m)[0]
    assert abs(losses.mean() - wrong) > 8 * losses.std() / np.sqrt(draws)
    many = online.law(3, 2, 1, metric="independent", metric_samples=10**9)
    np.testing.assert_allclose(many, online.law(3, 2, 1), rtol=1e-7)


# Plain gradients and fixed metrics: online_moments


def raw_step(
    net: np.ndarray, task: ln.Task, eta: float, metric: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights after one step with one sample at every node of (x, y), by the definition."""
    m, n = net.shape
    grid, chance = nodes(n + m)
    x = grid[:, :n] @ np.linalg.cholesky(task.input_cov).T
    y = x @ task.teacher.T + grid[:, n:] @ np.linalg.cholesky(task.noise_cov).T
    gradient = np.einsum("kj,ki->kji", y - x @ net.T, x)
    plain = metric is None
    step = np.linalg.solve(task.noise_cov, gradient) if plain else np.linalg.solve(metric, gradient.mT).mT
    return net + eta * step, chance


def raw_loss(weights: np.ndarray, task: ln.Task) -> np.ndarray:
    error = task.teacher - weights
    return 0.5 * np.einsum("kji,kji->k", np.linalg.solve(task.noise_cov, error), error @ task.input_cov)


def general_task(seed: int, n: int, m: int) -> tuple[np.ndarray, ln.Task]:
    rng = np.random.default_rng(seed)
    half, noise = conditioned(rng, n, n, 3.0), conditioned(rng, m, m, 2.0)
    task = ln.Task(rng.standard_normal((m, n)), half @ half.T, noise @ noise.T)
    return rng.standard_normal((m, n)), task


@pytest.mark.parametrize("kind", ["none", "population", "fixed"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 2), (3, 1)])
def test_gradients_with_a_fixed_metric_are_exact(n: int, m: int, kind: str) -> None:
    start, task = general_task(n + m, n, m)
    metric: Any = kind
    matrix: np.ndarray | None = None if kind == "none" else task.input_cov
    if kind == "fixed":
        metric = matrix = np.diag(np.arange(1.0, n + 1)) + 0.2
    etas = np.array([0.15, 0.3])
    found = online.preconditioned_loss(2, ln.LinearNetwork([start]), task, etas, 1, metric)
    weights, chance = raw_step(start, task, etas[0], matrix)
    bound = tolerances.solve(np.float64, len(chance), 10.0)
    tolerances.assert_close(found[0], chance @ raw_loss(weights, task), bound)
    second = 0.0
    outer = np.zeros((m, n, m, n))
    mean = np.zeros((m, n))
    for weight, p in zip(weights, chance, strict=True):
        last, q = raw_step(weight, task, etas[1], matrix)
        second += p * float(q @ raw_loss(last, task))
        errors = task.teacher - last
        outer += p * np.einsum("k,kji,klo->jilo", q, errors, errors)
        mean += p * np.einsum("k,kji->ji", q, errors)
    tolerances.assert_close(found[1], second, bound)
    moments = online.error_moments(2, ln.LinearNetwork([start]), task, etas, 1, metric)
    tolerances.assert_close(moments.mean, mean, bound)
    tolerances.assert_close(moments.second, outer, bound)
    if kind == "population":
        law = online.online_loss(2, float(ln.excess_loss(ln.LinearNetwork([start]), task)), etas, 1, n, m)
        tolerances.assert_close(found, law, bound)


def test_moments_of_minibatches() -> None:
    # Two samples: the term with 1 − 1/b. The definition again, nodes of both samples.
    start, task = general_task(3, 2, 1)
    grid, chance = nodes(6)
    x = grid[:, :4].reshape(-1, 2, 2) @ np.linalg.cholesky(task.input_cov).T
    noise = float(np.sqrt(task.noise_cov[0, 0])) * grid[:, 4:].reshape(-1, 2, 1)
    gradient = (x @ (task.teacher - start).T + noise).mT @ x / 2
    weights = start + 0.3 * gradient / task.noise_cov[0, 0]
    found = online.preconditioned_loss(1, ln.LinearNetwork([start]), task, 0.3, 2)
    tolerances.assert_close(
        found[0], chance @ raw_loss(weights, task), tolerances.solve(np.float64, 729, 10.0)
    )


@given(seeds, st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.floats(1.0, 100.0))
def test_stability_of_plain_gradients(seed: int, n: int, m: int, batch: int, condition: float) -> None:
    rng = np.random.default_rng(seed)
    half, noise = conditioned(rng, n, n, np.sqrt(condition)), conditioned(rng, m, m, 2.0)
    task = ln.Task(rng.standard_normal((m, n)), half @ half.T, noise @ noise.T)
    limit = online.preconditioned_limit(task, batch)
    rates = online.metric_rates(task, "none")
    # The spectral radius of the recursion of the slowest outputs, built entry by entry.
    radii = []
    for eta in (0.999 * limit, 1.001 * limit):
        pull = eta * rates.outputs.max() * rates.inputs
        matrix = np.diag((1 - pull) ** 2 + pull**2 / batch) + (pull**2)[:, None] / batch
        radii.append(np.abs(np.linalg.eigvals(matrix)).max())
    assert radii[0] < 1 < radii[1]
    eta = 0.5 * limit
    end = online.preconditioned_stationary(task, eta, batch)
    steps = 400
    start = ln.LinearNetwork([task.teacher])
    late = online.preconditioned_loss(steps, start, task, eta, batch)
    assert (np.diff(late) >= -1e-12 * end).all()
    assert late[-1] <= end * (1 + 1e-9)
    white = ln.Task(np.ones((m, n)))
    assert online.preconditioned_limit(white, batch) == pytest.approx(2 * batch / (batch + n + 1), rel=1e-12)
    rule = online.law(batch, n, m)
    natural = online.preconditioned_stationary(task, 0.3 * online.stability_limit(rule), batch, "population")
    assert natural == pytest.approx(
        float(online.stationary_loss(0.3 * online.stability_limit(rule), rule)), rel=1e-12
    )


def test_plain_gradients_depend_on_the_spectrum_and_natural_ones_do_not() -> None:
    start = ln.LinearNetwork([np.zeros((1, 2))])
    white, slow = ln.Task(np.ones((1, 2))), ln.Task(np.array([[1.0, 10.0]]), np.diag([1.0, 0.01]))
    assert float(ln.excess_loss(start, white)) == pytest.approx(float(ln.excess_loss(start, slow)))
    plain = [online.preconditioned_loss(50, start, task, 0.2, 4)[-1] for task in (white, slow)]
    assert plain[1] > 5 * plain[0]
    natural = [
        online.preconditioned_loss(50, start, task, 0.2, 4, "population")[-1] for task in (white, slow)
    ]
    assert natural[0] == pytest.approx(natural[1], rel=1e-12)


def test_a_stationary_loss_is_where_the_recursion_ends() -> None:
    start, task = general_task(7, 3, 2)
    eta = 0.4 * online.preconditioned_limit(task, 2)
    end = online.preconditioned_stationary(task, eta, 2)
    last = online.preconditioned_loss(20_000, ln.LinearNetwork([start]), task, eta, 2)[-1]
    assert last == pytest.approx(end, rel=1e-10)


def test_singular_inputs_count_by_their_rank() -> None:
    task = ln.Task(np.array([[1.0, 2.0, 5.0]]), np.diag([4.0, 1.0, 0.0]), [[2.0]])
    net = ln.LinearNetwork([np.zeros((1, 3))])
    natural = online.preconditioned_loss(4, net, task, 0.3, 2, "population")
    start = float(ln.excess_loss(net, task))
    tolerances.assert_close(
        natural, online.online_loss(4, start, 0.3, 2, 2, 1), tolerances.product(np.float64, 32)
    )
    moments = online.error_moments(1, net, task, 0.3, 2)
    np.testing.assert_allclose(moments.mean, [[0.7, 1.4, 0.0]], atol=1e-15)


# Recursive least squares


@given(seeds, st.integers(1, 3), st.integers(1, 2), st.integers(0, 4), st.integers(1, 6))
def test_a_running_metric_is_least_squares(seed: int, n: int, m: int, more: int, steps: int) -> None:
    rng, batch = np.random.default_rng(seed), n + more
    x, y = rng.standard_normal((steps, batch, n)), rng.standard_normal((steps, batch, m))
    weight, metric = rng.standard_normal((m, n)), np.zeros((n, n))
    for k in range(steps):
        metric += (x[k].T @ x[k] / batch - metric) / (k + 1)
        gradient = (y[k] - x[k] @ weight.T).T @ x[k] / batch
        weight = weight + np.linalg.solve(metric, gradient.T).T / (k + 1)
        if k == 0:
            worst = np.linalg.cond(x[0]) ** 2
    rows = x.reshape(-1, n)
    solution = np.linalg.lstsq(rows, y.reshape(-1, m), rcond=None)[0].T
    np.testing.assert_allclose(weight, solution, rtol=0, atol=1e-12 * worst * (1 + np.abs(solution).max()))


# Types, shapes, bad input


def test_stacks_equal_a_loop_and_float32_is_kept() -> None:
    starts = np.array([[1.0, 2.0], [0.0, 7.0]])
    found = online.online_loss(3, starts, [0.1, 0.2, 0.3], 4, 3, 2)
    assert found.shape == (2, 2, 3)
    schedule = online.greedy_schedule(3, starts + 1, online.law(4, 3, 2))
    assert schedule.etas.shape == schedule.losses.shape == (2, 2, 3)
    for a, b in np.ndindex(2, 2):
        np.testing.assert_array_equal(
            found[a, b], online.online_loss(3, starts[a, b], [0.1, 0.2, 0.3], 4, 3, 2)
        )
        alone = online.greedy_schedule(3, starts[a, b] + 1, online.law(4, 3, 2))
        np.testing.assert_array_equal(schedule.losses[a, b], alone.losses)
    low = online.online_loss(2, np.float32(1), 0.1, 4, 3, 2)
    assert low.dtype == np.float32
    assert online.online_loss(2, 1, 0.1, 4, 3, 2).dtype == np.float64
    assert ln.descent.online_loss is online.online_loss
    single = ln.LinearNetwork([np.zeros((1, 2), np.float32)])
    task = ln.Task(np.ones((1, 2)))
    assert online.preconditioned_loss(2, single, task, 0.1, 1).dtype == np.float32
    assert online.error_moments(2, single, task, 0.1, 1).second.dtype == np.float32
    double = online.preconditioned_loss(2, ln.LinearNetwork([np.zeros((1, 2))]), task, 0.1, 1)
    np.testing.assert_allclose(online.preconditioned_loss(2, single, task, 0.1, 1), double, rtol=1e-6)


RULE = ln.online.law(4, 3, 2)
NET, TASK = ln.LinearNetwork([np.zeros((1, 2))]), ln.Task(np.ones((1, 2)))


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"^steps: expected an integer ≥ 1", lambda: online.online_loss(0, 1.0, 0.1, 4, 3, 2)),
        (r"^initial: expected losses ≥ 0", lambda: online.online_loss(2, -1.0, 0.1, 4, 3, 2)),
        (r"^initial: expected finite numbers", lambda: online.online_loss(2, np.nan, 0.1, 4, 3, 2)),
        (r"^initial: .*complex", lambda: online.online_loss(2, 1j, 0.1, 4, 3, 2)),
        (r"^initial: .*non-empty", lambda: online.online_loss(2, [], 0.1, 4, 3, 2)),
        (r"^eta: expected steps > 0", lambda: online.online_loss(2, 1.0, 0.0, 4, 3, 2)),
        (r"^eta: expected a number or shape \(2,\)", lambda: online.online_loss(2, 1.0, [0.1] * 3, 4, 3, 2)),
        (r"^eta: expected finite", lambda: online.online_loss(2, 1.0, np.inf, 4, 3, 2)),
        (r"^batch: ", lambda: online.online_loss(2, 1.0, 0.1, 0, 3, 2)),
        (r"^n_inputs: ", lambda: online.law(4, 2.5, 2)),
        (r"^n_outputs: ", lambda: online.law(4, 2, True)),
        (r"^fourth_moment: expected a finite number in \[9", lambda: online.law(4, 3, 2, fourth_moment=8.0)),
        (
            r"^fourth_moment: the moments of 'minibatch'",
            lambda: online.law(9, 3, 2, metric="minibatch", fourth_moment=16),
        ),
        (r"^metric: expected one of", lambda: online.law(4, 3, 2, metric="best")),
        (r"^metric_samples: expected None", lambda: online.law(4, 3, 2, metric_samples=9)),
        (
            r"^metric_samples: .*n \+ 3 = 6, found 6",
            lambda: online.law(4, 3, 2, metric="independent", metric_samples=6),
        ),
        (r"^metric_samples: expected an integer", lambda: online.law(4, 3, 2, metric="independent")),
        (r"^batch: .*infinite", lambda: online.law(4, 3, 2, metric="minibatch")),
        (r"^batch: .*infinite", lambda: online.online_loss(2, 1.0, 0.1, 2, 3, 2, metric="minibatch")),
        (r"^noise_trace: ", lambda: online.law(4, 3, 2, noise_trace=-1.0)),
        (r"^rule: expected a Law, found tuple", lambda: online.stability_limit((1.0, 2.0, 3.0))),
        (r"^rule.second: ", lambda: online.stability_limit(online.Law(1.0, 0.5, 1.0))),
        (r"^eta: expected 0 < η < 1", lambda: online.stationary_loss([0.5, 1.0], RULE)),
        (r"^initial: expected losses > 0", lambda: online.greedy_schedule(2, 0.0, RULE)),
        (r"^initial: ", lambda: online.best_constant_step(2, 0.0, RULE)),
        (r"^shift: ", lambda: online.harmonic_steps(3, RULE, -1.0)),
        (r"^batch: the first metric is singular", lambda: online.running_metric_loss(3, 2, 3, 1)),
        (
            r"^metric_samples: the inverse has a mean",
            lambda: online.metric_bias(4, 3, metric="independent", metric_samples=4),
        ),
        (r"^decay: ", lambda: online.metric_bias(4, 3, metric="running", decay=0.0)),
        (
            r"^net: expected one layer, found 2",
            lambda: online.preconditioned_loss(
                1, ln.LinearNetwork([np.eye(2)] * 2), ln.Task(np.eye(2)), 0.1, 1
            ),
        ),
        (
            r"^net: D3 needs Gaussian inputs",
            lambda: online.preconditioned_loss(
                1, ln.LinearNetwork([np.eye(2)], [np.zeros(2)]), ln.Task(np.eye(2)), 0.1, 1
            ),
        ),
        (
            r"^net, task: expected no leading axes",
            lambda: online.preconditioned_loss(1, ln.LinearNetwork([np.zeros((3, 1, 2))]), TASK, 0.1, 1),
        ),
        (
            r"^task: expected no leading axes",
            lambda: online.preconditioned_limit(ln.Task(np.zeros((3, 1, 2))), 1),
        ),
        (
            r"^metric: expected one of 'none', 'population'",
            lambda: online.preconditioned_limit(TASK, 1, "minibatch"),
        ),
        (
            r"^metric: expected a positive definite",
            lambda: online.preconditioned_limit(TASK, 1, np.diag([1.0, 0.0])),
        ),
        (r"^metric: expected shape", lambda: online.preconditioned_limit(TASK, 1, np.eye(3))),
        (
            r"^metric: expected one matrix",
            lambda: online.preconditioned_limit(TASK, 1, np.stack([np.eye(2)] * 2)),
        ),
        (r"^eta: a stationary loss needs η < 0\.5", lambda: online.preconditioned_stationary(TASK, 0.5, 1)),
        (r"^initial, eta: expected sizes", lambda: online.online_loss(900, 1e300, 2.0, 1, 9, 1)),
    ],
)
def test_bad_input(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ln.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [1, 10, 1000])
@pytest.mark.parametrize("start", [1e-300, 1e-12, 1e-6, 1e-3, 1.0, 1e3])
def test_the_best_constant_step_from_starts_of_any_size(count: int, start: float) -> None:
    rule = online.law(4, 3, 2)
    best = online.best_constant_step(count, start, rule)
    etas = np.geomspace(1e-8 * min(1.0, start), online.fastest_step(rule), 2001)
    losses = np.full(len(etas), start)
    for _ in range(count):
        losses = (1 - 2 * etas + rule.second * etas**2) * losses + rule.noise * etas**2
    rounding = tolerances.product(np.float64, count + 1)
    assert best.losses[-1] <= losses.min() * (1 + rounding)
    assert best.losses[-1] >= online.greedy_schedule(count, start, rule).losses[-1] * (1 - rounding)


def test_a_law_out_of_range_says_so() -> None:
    with pytest.raises(ln.RangeError, match="in law"):
        online.law(1, 10**200, 10**200)
