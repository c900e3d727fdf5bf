"""Is noisy learning uniform shrinkage, and is the risk what X8 says? Samples, fixed designs, flows, bad input."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.optimize import minimize_scalar

import linnat as ln
from linnat.dense.flow import natural_flow, total_along
from linnat.exact.replicates import mean_and_error
from tests import tolerances
from tests.strategies import conditioned, seeds

pytestmark = pytest.mark.statement("X8")

noise = ln.noise
TIMES = np.array([0.0, 0.3, 1.0, 3.0])
COUNT = 10_000
sizes = st.floats(1e-3, 1e3)


def problem(seed: int, n: int, m: int, biases: bool = False) -> tuple[ln.LinearNetwork, ln.Task]:
    rng = np.random.default_rng(seed)
    half, spread = conditioned(rng, n, n, 5.0), conditioned(rng, m, m, 3.0)
    mean = rng.standard_normal(n) if biases else np.zeros(n)
    bias = rng.standard_normal(m) if biases else None
    cov = half @ half.T + np.outer(mean, mean)
    task = ln.Task(rng.standard_normal((m, n)), cov, spread @ spread.T, bias, mean if biases else None)
    return ln.LinearNetwork([0.3 * rng.standard_normal((m, n))], [np.zeros(m)] if biases else None), task


def draw(task: ln.Task, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    cov = task.input_cov - np.outer(task.input_mean, task.input_mean)
    x = rng.standard_normal((count, task.n_inputs)) @ np.linalg.cholesky(cov).T + task.input_mean
    spread = rng.standard_normal((count, task.n_outputs)) @ np.linalg.cholesky(task.noise_cov).T
    return x, x @ task.teacher.T + task.teacher_bias + spread


@pytest.mark.parametrize("biases", [False, True])
def test_the_flow_on_data_is_uniform_shrinkage(biases: bool) -> None:
    # Layers of a deep network, moved by the dense flow of the training loss.
    _, task = problem(1, 3, 2, biases)
    rng = np.random.default_rng(0)
    x, y = draw(task, 12, rng)
    data = ln.Task.from_data(x, y, task.noise_cov)
    layers = [rng.standard_normal((4, 3)), rng.standard_normal((2, 4))]
    net = ln.LinearNetwork(layers, [rng.standard_normal(4), rng.standard_normal(2)] if biases else None)
    totals = total_along(net, natural_flow(net, data, TIMES[1:]))
    rows = np.column_stack([x, np.ones(12)]) if biases else x
    fitted = np.linalg.lstsq(rows, y, rcond=None)[0].T
    start = net.total
    for time, total in zip(TIMES[1:], totals, strict=True):
        np.testing.assert_allclose(total, start - np.expm1(-time) * (fitted - start), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("n", "m", "count", "biases"), [(3, 2, 12, False), (5, 1, 9, False), (3, 2, 14, True), (2, 1, 8, True)]
)
def test_the_risk_of_ten_thousand_replicates(n: int, m: int, count: int, biases: bool) -> None:
    net, task = problem(n, n, m, biases)
    risks = noise.simulate(TIMES, net, task, count, 2 * COUNT, rng=n)
    mean, error = mean_and_error(risks[1:])
    parts = noise.parts(float(noise.signal(net, task)), count, n, m, biases=biases)
    law = noise.risk(TIMES, parts)
    assert (np.abs(mean - law[1:]) < 5 * error).all()
    np.testing.assert_allclose(risks[0], law[0], rtol=1e-10)
    # Controls: N − n in place of N − n − 1; n + 1 Gaussian inputs in place of a bias.
    wrong = noise.Parts(parts.signal, n * m / (count - n))
    assert np.abs(mean - noise.risk(TIMES[1:], wrong)).max() > 8 * error[-1]
    if biases:
        other = noise.risk(TIMES[1:], noise.Parts(parts.signal, noise.variance(count, n + 1, m)))
        assert (np.abs(mean - other) / error).max() > 4


def test_the_simulation_is_least_squares_sample_by_sample() -> None:
    net, task = problem(4, 3, 2, True)
    risks = noise.simulate(TIMES, net, task, 9, 3, rng=5)
    child = np.random.default_rng(5).spawn(1)[0]
    cov = task.input_cov - np.outer(task.input_mean, task.input_mean)
    x = child.standard_normal((3, 9, 3)) @ np.linalg.cholesky(cov).T + task.input_mean
    spread = child.standard_normal((3, 9, 2)) @ task.noise_factor.T
    for k in range(3):
        y = x[k] @ task.teacher.T + task.teacher_bias + spread[k]
        data = ln.Task.from_data(x[k], y, task.noise_cov)
        paths = ln.flow.natural_total(net, data, TIMES)
        states = [ln.LinearNetwork([p[:, :-1]], [p[:, -1]]) for p in paths]
        wanted = [2 * float(ln.excess_loss(state, task)) for state in states]
        np.testing.assert_allclose(risks[:, k], wanted, rtol=tolerances.solve(np.float64, 16, 1e3))


@given(seeds, st.integers(1, 5), st.integers(1, 3), st.integers(0, 8), st.booleans())
def test_a_given_design_by_the_definition(seed: int, n: int, m: int, more: int, biases: bool) -> None:
    # Expectation over Gaussian noise of a quadratic function: the values at 0 and at ± each unit of noise.
    net, task = problem(seed, n, m, biases)
    rng = np.random.default_rng(seed)
    count = n + biases + more
    x, _ = draw(task, count, rng)
    parts = noise.conditional_parts(x, net, task)
    rows = np.column_stack([x, np.ones(count)]) if biases else x
    pseudo = np.linalg.pinv(rows).T
    start, goal = net.total, task.goal(biases)
    moment = task.moments(biases).factor @ task.moments(biases).factor.T
    spread = np.linalg.cholesky(task.noise_cov)
    law = noise.risk(TIMES, parts)
    condition = np.linalg.cond(rows) ** 2
    for time, found in zip(TIMES, law, strict=True):

        def at(targets: np.ndarray, time: float = time) -> float:
            weight = start - np.expm1(-time) * (targets.T @ pseudo - start)
            error = goal - weight
            return float(np.trace(np.linalg.solve(task.noise_cov, error) @ moment @ error.T))

        clean = rows @ goal.T
        total = at(clean)
        for i in range(count):
            for j in range(m):
                shift = np.zeros((count, m))
                shift[i] = spread[:, j]
                total += 0.5 * (at(clean + shift) + at(clean - shift)) - at(clean)
        assert abs(found - total) <= tolerances.solve(np.float64, 64, condition) * (total + 1)


def test_a_singular_sample_keeps_part_of_the_signal() -> None:
    n, m = 8, 2
    net, task = (
        ln.LinearNetwork([np.zeros((m, n))]),
        ln.Task(np.random.default_rng(0).standard_normal((m, n))),
    )
    a = float(noise.signal(net, task))
    for count in (2, 5):
        risks = noise.simulate(TIMES, net, task, count, COUNT, rng=count)
        mean, error = mean_and_error(risks[1:])
        parts = noise.parts(a, count, n, m)
        assert parts.fixed == pytest.approx(a * (1 - count / n))
        assert (np.abs(mean - noise.risk(TIMES[1:], parts)) < 5 * error).all()
        control = noise.Parts(a, parts.variance)
        assert (np.abs(mean - noise.risk(TIMES[1:], control)) > 8 * error).all()
    # The mean over designs of the exact risk of each design.
    rng = np.random.default_rng(3)
    designs = [noise.conditional_parts(rng.standard_normal((3, n)), net, task) for _ in range(2000)]
    for k, wanted in enumerate(noise.parts(a, 3, n, m)):
        value = mean_and_error([part[k] for part in designs])
        assert abs(value.value - wanted) <= 5 * value.error + 1e-12
    # In other inputs the answer depends on S.
    skew = ln.Task(task.teacher, np.diag(np.geomspace(1.0, 1e-3, n)))
    mean, error = mean_and_error(noise.simulate(TIMES[1:], net, skew, 3, COUNT, rng=1))
    law = noise.risk(TIMES[1:], noise.parts(float(noise.signal(net, skew)), 3, n, m))
    assert (np.abs(mean - law) > 20 * error).any()


def test_singular_inputs_count_by_their_rank() -> None:
    task = ln.Task(np.array([[1.0, 2.0, 5.0]]), np.diag([4.0, 1.0, 0.0]))
    net = ln.LinearNetwork([np.zeros((1, 3))])
    mean, error = mean_and_error(noise.simulate(TIMES[1:], net, task, 8, COUNT))
    law = noise.risk(TIMES[1:], noise.parts(8.0, 8, 2, 1))
    assert (np.abs(mean - law) < 5 * error).all()


@given(sizes, sizes)
def test_the_best_time_by_search(a: float, b: float) -> None:
    parts = noise.Parts(a, b)
    time, least = noise.stopping_time(parts), noise.stopped_risk(parts)
    assert time == pytest.approx(np.log1p(a / b), rel=1e-12)
    assert least == pytest.approx(a * b / (a + b), rel=1e-12)
    assert least <= min(a, b) * (1 + 1e-12)
    found = minimize_scalar(
        lambda t: float(noise.risk(t, parts)[0]),
        bounds=(0, 4 * time),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found.fun >= least * (1 - 1e-12)
    assert found.fun <= least * (1 + 1e-6)
    assert noise.risk(0.0, parts)[0] == pytest.approx(a)
    assert noise.risk(700.0, parts)[0] == pytest.approx(b)


@given(sizes, sizes, st.floats(-0.99, 0.99), sizes)
def test_the_best_time_with_a_cross_term(a: float, b: float, correlation: float, fixed: float) -> None:
    parts = noise.Parts(a, b, fixed, correlation * np.sqrt(a * fixed))
    time = noise.stopping_time(parts)
    least = noise.stopped_risk(parts)
    grid = noise.risk(np.concatenate([[0.0], np.geomspace(1e-4, 100.0, 400)]), parts)
    assert (grid >= least - 1e-9 * (a + b + fixed)).all()
    assert time >= 0


def test_ends_of_the_range() -> None:
    assert noise.stopping_time(noise.Parts(1.0, 0.0)) == np.inf
    assert noise.stopped_risk(noise.Parts(1.0, 0.0)) == 0.0
    assert noise.stopping_time(noise.Parts(0.0, 1.0)) == 0.0
    assert noise.stopping_time(noise.Parts(0.0, 0.0)) == 0.0
    assert noise.variance(5, 4, 3) == noise.variance(6, 4, 3, biases=True) == np.inf
    assert noise.variance(4, 4, 3, noise_trace=0.0) == 0.0
    wild = noise.parts(2.0, 5, 4, 3)
    assert noise.risk([0.0, 1.0], wild).tolist() == [2.0, np.inf]
    assert (noise.stopping_time(wild), noise.stopped_risk(wild)) == (0.0, 2.0)
    assert noise.parts(2.0, 3, 4, 1).variance == np.inf
    assert noise.variance(20, 4, 3, noise_trace=6.0) == 2 * noise.variance(20, 4, 3)


@pytest.mark.parametrize("biases", [False, True])
def test_the_estimated_signal_is_unbiased_and_its_rule_works(biases: bool) -> None:
    net, task = problem(2, 4, 2, biases)
    a, rng, estimates, stopped, plain = float(noise.signal(net, task)), np.random.default_rng(1), [], [], []
    b = noise.variance(10, 4, 2, biases=biases)
    for _ in range(500):
        data = ln.Task.from_data(*draw(task, 10, rng), task.noise_cov)
        estimate = noise.signal_estimate(net, data)
        estimates.append(estimate)
        time = noise.stopping_time(noise.Parts(max(estimate, 0.0), b))
        total = ln.flow.natural_total(net, data, [time, 50.0])
        for path, out in zip(total, (stopped, plain), strict=True):
            state = ln.LinearNetwork([path[:, :4]], [path[:, 4]] if biases else None)
            out.append(2 * float(ln.excess_loss(state, task)))
    mean, error = mean_and_error(estimates)
    assert abs(mean - a) < 5 * error
    gain = mean_and_error(np.subtract(plain, stopped))
    assert gain.value > 3 * gain.error
    # The oracle's rule is better still, and no rule beats ab/(a + b) by more than its error.
    assert np.mean(stopped) > noise.stopped_risk(noise.Parts(a, b)) - 5 * np.std(stopped) / np.sqrt(500)


def test_gradient_flow_filters_and_the_population_metric_does_too() -> None:
    # Negative control: of other flows on the same data W(t) is not on the segment to least squares.
    net, task = problem(6, 3, 1)
    x, y = draw(task, 10, np.random.default_rng(2))
    data = ln.Task.from_data(x, y, task.noise_cov)
    fitted, start = data.goal(), net.total
    metrics = {"natural": data.input_cov, "population": task.input_cov, "gradient": np.eye(3)}
    for name, metric in metrics.items():

        def slope(_: float, w: np.ndarray, metric: np.ndarray = metric) -> np.ndarray:
            return np.linalg.solve(metric, data.input_cov @ (fitted[0] - w))

        path = solve_ivp(slope, (0, 1), start[0], rtol=1e-10, atol=1e-12).y[:, -1] - start[0]
        aim = fitted[0] - start[0]
        angle = float(path @ aim / np.linalg.norm(path) / np.linalg.norm(aim))
        assert (angle > 1 - 1e-12) == (name == "natural")


def test_a_mean_without_biases_is_outside_the_condition() -> None:
    mean = np.array([3.0, 0.0])
    task = ln.Task(np.ones((1, 2)), np.eye(2) + np.outer(mean, mean), input_mean=mean)
    net = ln.LinearNetwork([np.zeros((1, 2))])
    value, error = mean_and_error(noise.simulate(20.0, net, task, 5, 4 * COUNT)[0])
    assert abs(value - noise.variance(5, 2, 1)) > 5 * error


def test_a_seed_gives_the_same_bits_in_bounded_memory() -> None:
    net, task = problem(3, 4, 2)
    one = noise.simulate(TIMES, net, task, 12, COUNT, rng=4)
    two = noise.simulate(TIMES, net, task, 12, COUNT, rng=np.random.default_rng(4))
    assert one.tobytes() == two.tobytes()
    assert one.tobytes() != noise.simulate(TIMES, net, task, 12, COUNT, rng=5).tobytes()
    tracemalloc.start()
    noise.simulate(1.0, net, task, 400, 5_000, rng=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The draws alone are 96 MB.
    assert peak < 60e6


NET, TASK = ln.LinearNetwork([np.zeros((1, 2))]), ln.Task(np.ones((1, 2)))
PARTS = ln.noise.Parts(1.0, 1.0)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"^n_samples: X8 needs Ŝ invertible, at least 4", lambda: noise.variance(3, 4, 1)),
        (r"^n_samples: X8 needs Ŝ invertible, at least 5", lambda: noise.parts(1.0, 4, 4, 1, biases=True)),
        (r"^n_samples: expected an integer", lambda: noise.variance(3.5, 4, 1)),
        (r"^noise_trace: ", lambda: noise.variance(9, 4, 1, noise_trace=-1.0)),
        (r"^signal: ", lambda: noise.parts(-1.0, 9, 4, 1)),
        (r"^signal: ", lambda: noise.parts(np.nan, 9, 4, 1)),
        (r"^times: expected times ≥ 0", lambda: noise.risk(-1.0, PARTS)),
        (r"^times: expected finite", lambda: noise.risk(np.inf, PARTS)),
        (r"^parts: expected Parts, found tuple", lambda: noise.risk(1.0, (1.0, 1.0))),
        (r"^parts.variance: ", lambda: noise.risk(1.0, noise.Parts(1.0, np.nan))),
        (r"^parts.signal: ", lambda: noise.stopping_time(noise.Parts(-1.0, 1.0))),
        (r"^x: expected 2 columns", lambda: noise.conditional_parts(np.eye(3), NET, TASK)),
        (r"^x: expected finite", lambda: noise.conditional_parts([[np.nan, 1.0]], NET, TASK)),
        (r"^x: .*complex", lambda: noise.conditional_parts(np.eye(2) + 0j, NET, TASK)),
        (r"^rtol: ", lambda: noise.conditional_parts(np.eye(2), NET, TASK, rtol=-1.0)),
        (r"^task: expected a task made from data", lambda: noise.signal_estimate(NET, TASK)),
        (r"^task: expected 2 inputs", lambda: noise.simulate(1.0, NET, ln.Task(np.eye(3)), 9, 9)),
        (r"^net: expected a LinearNetwork", lambda: noise.signal(np.eye(2), TASK)),
        (
            r"^net, task: expected no leading",
            lambda: noise.simulate(1.0, NET, ln.Task(np.ones((3, 1, 2))), 9, 9),
        ),
        (
            r"^task: X8 needs targets",
            lambda: noise.simulate(1.0, NET, ln.Task(np.ones((1, 2)), teacher_bias=[1.0]), 9, 9),
        ),
        (r"^replicates: ", lambda: noise.simulate(1.0, NET, TASK, 9, 0)),
        (r"^rng: ", lambda: noise.simulate(1.0, NET, TASK, 9, 9, rng=-1)),
    ],
)
def test_bad_input(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ln.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
