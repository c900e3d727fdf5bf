"""Do the simulated replicates obey the laws, to their standard errors, bit for bit, in bounded memory (D3)?"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import linnat as ln
from linnat.exact import replicates
from tests import tolerances

pytestmark = pytest.mark.statement("D3")

online = ln.online
COUNT = 10_000


def ill(seed: int, n: int, m: int) -> tuple[ln.LinearNetwork, ln.Task]:
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((n, n)) * np.geomspace(1.0, 0.2, n)
    noise = rng.standard_normal((m, m))
    task = ln.Task(rng.standard_normal((m, n)), half @ half.T, noise @ noise.T + np.eye(m))
    return ln.LinearNetwork([rng.standard_normal((m, n))]), task


def deviations(runs: Any, law: np.ndarray) -> np.ndarray:
    mean, error = runs.mean()
    return np.asarray(np.abs(mean - law) / error)


@pytest.mark.parametrize(("n", "m", "batch"), [(4, 2, 8), (3, 3, 1)])
def test_ten_thousand_replicates_obey_the_law(n: int, m: int, batch: int) -> None:
    net, task = ill(n, n, m)
    start = float(ln.excess_loss(net, task))
    steps = 20
    etas = online.harmonic_steps(steps, online.law(batch, n, m))
    runs = online.simulate(net, task, etas, batch, steps, COUNT, rng=1)
    assert runs.losses.shape == (steps, COUNT)
    law = online.online_loss(steps, start, etas, batch, n, m)
    assert deviations(runs, law).max() < 5
    # Control: the law with n in place of n + 1.
    wrong = online.online_loss(steps, start, etas, batch, n, m, fourth_moment=n * (n + 1.0))
    assert deviations(runs, wrong).max() > 6


def test_inputs_on_a_sphere() -> None:
    net, task = ill(2, 3, 1)
    start = float(ln.excess_loss(net, task))
    runs = online.simulate(net, task, 0.4, 2, 6, COUNT, inputs="sphere", rng=2)
    law = online.online_loss(6, start, 0.4, 2, 3, 1, fourth_moment=9.0)
    assert deviations(runs, law).max() < 5
    assert deviations(runs, online.online_loss(6, start, 0.4, 2, 3, 1)).max() > 20


@pytest.mark.parametrize("seed", [0, 1])
def test_plain_gradients_and_fixed_metrics(seed: int) -> None:
    net, task = ill(seed, 3, 2)
    for metric in ("none", np.diag([1.0, 2.0, 3.0])):
        eta = 0.3 * online.preconditioned_limit(task, 2, metric)
        runs = online.simulate(net, task, eta, 2, 12, COUNT, metric=metric, rng=seed)
        law = online.preconditioned_loss(12, net, task, eta, 2, metric)
        assert deviations(runs, law).max() < 5
        wrong = online.preconditioned_loss(12, net, task, 1.1 * eta, 2, metric)
        assert deviations(runs, wrong).max() > 5


def test_estimated_metrics() -> None:
    net, task = ill(5, 3, 2)
    start, n, m, batch, steps = float(ln.excess_loss(net, task)), 3, 2, 9, 6
    cases: list[tuple[dict[str, Any], np.ndarray]] = [
        ({"metric": "minibatch"}, online.online_loss(steps, start, 0.5, batch, n, m, metric="minibatch")),
        (
            {"metric": "independent", "metric_samples": 16},
            online.online_loss(steps, start, 0.5, batch, n, m, metric="independent", metric_samples=16),
        ),
    ]
    for options, law in cases:
        runs = online.simulate(net, task, 0.5, batch, steps, 2 * COUNT, rng=3, **options)
        assert deviations(runs, law).max() < 5
        assert deviations(runs, online.online_loss(steps, start, 0.5, batch, n, m)).max() > 8
    small = online.simulate(net, task, 0.5, 1, steps, COUNT, metric="minibatch", rng=4)
    assert deviations(small, online.online_loss(steps, start, 0.5, 1, n, m, metric="minibatch")).max() < 5


def test_a_running_metric_is_recursive_least_squares() -> None:
    net, task = ill(6, 3, 2)
    runs = online.simulate(net, task, 1 / np.arange(1.0, 9), 6, 8, COUNT, metric="running", rng=5)
    law = online.running_metric_loss(8, 6, 3, 2)
    # At the first step 1/(bk − n − 1) = 1/2: the variance of the loss is infinite there.
    assert deviations(runs, law)[1:].max() < 5
    assert deviations(runs, online.efficient_loss(8, 6, 3, 2))[1:].min() > 8


@pytest.mark.parametrize(("n", "batch"), [(1, 6), (3, 24)])
def test_a_running_average_with_decay_is_biased_as_predicted_to_leading_order(n: int, batch: int) -> None:
    # The mean step is E[C S_k⁻¹] times the natural one; S_k after 40 steps is stationary.
    gamma, rng, count = 0.3, np.random.default_rng(n), 8_000
    metric = np.broadcast_to(np.eye(n), (count, n, n))
    for _ in range(40):
        z = rng.standard_normal((count, batch, n))
        newest = z.mT @ z / batch
        metric = (1 - gamma) * metric + gamma * newest
    ratio = np.trace(np.linalg.solve(metric, newest), axis1=1, axis2=2) / n
    mean, error = replicates.mean_and_error(ratio)
    bias = online.metric_bias(batch, n, metric="running", decay=gamma)
    assert abs(mean - bias) < 5 * error + (gamma * (n + 1) / batch) ** 2
    assert abs(mean - 1) > 5 * error


def test_the_deep_chain_is_the_layers_by_the_package() -> None:
    # The same draws, moved as layers by the natural gradient of a task whose teacher is the minibatch's.
    rng = np.random.default_rng(8)
    layers = [np.eye(2) + 0.3 * rng.standard_normal((2, 2)) for _ in range(3)]
    net = ln.LinearNetwork(layers)
    task = ln.Task(net.total + 0.3 * rng.standard_normal((2, 2)), np.diag([1.0, 0.5]), np.diag([1.0, 0.3]))
    eta, batch, steps, count = 0.2, 5, 3, 4
    found = online.simulate(net, task, eta, batch, steps, count, rng=9, within=(0, 1e9))
    child = np.random.default_rng(9).spawn(1)[0]
    factor, noise = task.input_factor, task.noise_factor
    state = ln.LinearNetwork([np.broadcast_to(w, (count, 2, 2)) for w in layers])
    for k in range(steps):
        x = child.standard_normal((count, batch, 2)) @ factor.T
        y = x @ task.teacher.T + child.standard_normal((count, batch, 2)) @ noise.T
        gradient = (y - x @ state.total.mT).mT @ x / batch
        aim = ln.Task(state.total + gradient / np.diag(task.input_cov), task.input_cov, task.noise_cov)
        state = ln.descent.natural_step(state, aim, eta)
        losses = ln.excess_loss(state, task)
        np.testing.assert_allclose(found.losses[k], losses, rtol=tolerances.solve(np.float64, 16, 100.0))


def test_a_seed_gives_the_same_bits_and_blocks_do_not_depend_on_the_count() -> None:
    net, task = ill(1, 3, 2)
    one = online.simulate(net, task, 0.2, 4, 5, 3000, rng=7)
    two = online.simulate(net, task, 0.2, 4, 5, 3000, rng=np.random.default_rng(7))
    assert one.losses.tobytes() == two.losses.tobytes()
    assert online.simulate(net, task, 0.2, 4, 5, 3000, rng=8).losses.tobytes() != one.losses.tobytes()
    last = online.simulate(net, task, 0.2, 4, 5, 3000, rng=7, record=[0, 5])
    np.testing.assert_array_equal(last.losses[1], one.losses[-1])
    np.testing.assert_allclose(last.losses[0], float(ln.excess_loss(net, task)), rtol=1e-12)
    assert last.steps.tolist() == [0, 5]
    # The same draws for another η: replicate by replicate, larger steps start further away.
    near = online.simulate(net, task, 0.21, 4, 1, 3000, rng=7)
    assert np.corrcoef(near.losses[0], one.losses[0])[0, 1] > 0.99


def test_memory_is_bounded_by_blocks() -> None:
    net, task = ill(1, 4, 2)
    peaks = []
    for count in (10_000, 40_000):
        tracemalloc.start()
        online.simulate(net, task, 0.1, 64, 2, count, record=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # All draws of a step for 40,000 replicates would be 123 MB.
    assert peaks[1] < 60e6
    assert peaks[1] < peaks[0] + 40_000 * 8 * 4


def test_a_replicate_that_leaves_is_stopped() -> None:
    net = ln.LinearNetwork([np.array([[0.5]]), np.array([[1.0]])])
    task = ln.Task([[1.0]])
    runs = online.simulate(net, task, 0.8, 1, 30, 2000, within=(0.05, 5.0), rng=3)
    assert runs.finite.all()
    left = runs.stopped > 0
    assert 0.2 < left.mean() < 1
    k = int(runs.stopped[left].min())
    some = runs.stopped == k
    assert np.ptp(runs.losses[k - 1 :, some], axis=0).max() == 0
    inside = np.abs(1 - np.sqrt(2 * runs.losses[-1, ~left]))
    assert inside.max() <= 5
    assert np.isfinite(runs.mean().value).all()


# Tails and means


def test_hill_finds_the_exponent_of_pareto_samples_and_says_how_sure_it_is() -> None:
    rng = np.random.default_rng(0)
    for alpha in (0.25, 1.0, 3.0):
        values = rng.uniform(size=(200, 4000)) ** (-1 / alpha)
        found = online.tail_exponent(values, 200)
        assert found.value.shape == (200,)
        pulls = (found.value - alpha) / found.error
        assert abs(pulls.mean()) < 5 / np.sqrt(200) + 0.05
        assert 0.8 < pulls.std() < 1.2
    assert online.tail_exponent(np.exp(rng.standard_normal(100_000) / 10)).value > 10


def test_means_have_standard_errors() -> None:
    values = np.random.default_rng(1).standard_normal((500, 100)) + 2
    mean, error = online.mean_and_error(values)
    pulls = (mean - 2) / error
    assert abs(pulls.mean()) < 0.25
    assert 0.85 < pulls.std() < 1.2


DEEP = ln.LinearNetwork([np.eye(2)] * 2)
SQUARE = ln.Task(2 * np.eye(2))
NET, TASK = ln.LinearNetwork([np.zeros((1, 2))]), ln.Task(np.ones((1, 2)))


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (
            r"^mean: the expected loss is infinite at step 2",
            lambda: online.simulate(DEEP, SQUARE, 0.1, 4, 3, 9).mean(),
        ),
        (r"^replicates: expected an integer ≥ 2", lambda: online.simulate(NET, TASK, 0.1, 1, 1, 1)),
        (r"^eta: expected a number or shape", lambda: online.simulate(NET, TASK, [0.1, 0.1], 1, 1, 2)),
        (r"^metric: expected one of", lambda: online.simulate(NET, TASK, 0.1, 1, 1, 2, metric="best")),
        (
            r"^metric: 'none' is for one layer",
            lambda: online.simulate(DEEP, SQUARE, 0.1, 1, 1, 2, metric="none"),
        ),
        (
            r"^metric: expected a positive definite",
            lambda: online.simulate(NET, TASK, 0.1, 1, 1, 2, metric=np.zeros((2, 2))),
        ),
        (
            r"^metric_samples: expected an integer",
            lambda: online.simulate(NET, TASK, 0.1, 1, 1, 2, metric="independent"),
        ),
        (
            r"^metric_samples: an invertible",
            lambda: online.simulate(NET, TASK, 0.1, 1, 1, 2, metric="independent", metric_samples=1),
        ),
        (
            r"^batch: a running metric needs at least rank S = 2",
            lambda: online.simulate(NET, TASK, 0.1, 1, 1, 2, metric="running"),
        ),
        (r"^decay: ", lambda: online.simulate(NET, TASK, 0.1, 2, 1, 2, metric="running", decay=1.5)),
        (
            r"^inputs: expected one of 'gaussian', 'sphere'",
            lambda: online.simulate(NET, TASK, 0.1, 2, 1, 2, inputs="cube"),
        ),
        (
            r"^record: expected increasing steps between 0 and 3",
            lambda: online.simulate(NET, TASK, 0.1, 2, 3, 2, record=[2, 1]),
        ),
        (r"^record: expected increasing steps", lambda: online.simulate(NET, TASK, 0.1, 2, 3, 2, record=[4])),
        (r"^record: expected an integer", lambda: online.simulate(NET, TASK, 0.1, 2, 3, 2, record=[0.5])),
        (r"^within: expected a pair", lambda: online.simulate(NET, TASK, 0.1, 2, 3, 2, within=(2.0, 1.0))),
        (r"^rng: ", lambda: online.simulate(NET, TASK, 0.1, 2, 3, 2, rng="x")),
        (
            r"^net: D3 needs Gaussian inputs",
            lambda: online.simulate(ln.LinearNetwork([np.eye(2)], [np.zeros(2)]), SQUARE, 0.1, 2, 3, 2),
        ),
        (
            r"D3.*square|square.*D3|[Ss]quare",
            lambda: online.simulate(
                ln.LinearNetwork([np.ones((3, 2)), np.ones((2, 3))]), SQUARE, 0.1, 2, 3, 2
            ),
        ),
        (r"^task: expected 2 inputs", lambda: online.simulate(NET, SQUARE, 0.1, 2, 3, 2)),
        (r"^net: expected a LinearNetwork", lambda: online.simulate(np.eye(2), SQUARE, 0.1, 2, 3, 2)),
        (r"^values: expected at least 2", lambda: online.mean_and_error([1.0])),
        (r"^count: expected fewer than the 3", lambda: online.tail_exponent([1.0, 2.0, 3.0], 3)),
        (r"^values: expected positive", lambda: online.tail_exponent([-1.0, -2.0, 3.0], 2)),
        (r"^values: expected different", lambda: online.tail_exponent([1.0, 1.0, 1.0], 2)),
        (r"^values: expected finite", lambda: online.tail_exponent([np.nan, 1.0])),
    ],
)
def test_bad_input(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ln.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
