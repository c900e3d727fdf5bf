"""How far are deep networks from the law of one layer, and where does the expectation end (D3)?"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linnat as ln
from tests.strategies import seeds

pytestmark = pytest.mark.statement("D3")

online = ln.online


def chain(seed: int, size: int, depth: int) -> tuple[ln.LinearNetwork, ln.Task]:
    rng = np.random.default_rng(seed)
    layers = [np.eye(size) + 0.2 * rng.standard_normal((size, size)) for _ in range(depth)]
    net = ln.LinearNetwork(layers)
    teacher = net.total @ (np.eye(size) + 0.3 * np.diag(rng.uniform(0.5, 1.0, size)))
    return net, ln.Task(teacher, np.diag(rng.uniform(0.5, 2, size)), np.diag(rng.uniform(0.5, 2, size)))


def expected_step(net: ln.LinearNetwork, task: ln.Task, eta: float, nodes: int) -> float:
    """Return E ℓ⁺ with one sample by Gauss–Hermite nodes, exact for polynomials; layers moved by their definition."""
    size = net.widths[0]
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    grid = np.array(list(itertools.product(points, repeat=2 * size)))
    chance = np.array([np.prod(w) for w in itertools.product(weights, repeat=2 * size)])
    x = grid[:, :size] * np.sqrt(np.diag(task.input_cov))
    noise = grid[:, size:] * np.sqrt(np.diag(task.noise_cov))
    gradient = (x @ (task.teacher - net.total).T + noise)[:, :, None] * x[:, None, :]
    aim = gradient / np.diag(task.input_cov)
    moved = []
    for k, layer in enumerate(net.weights):
        before, after = np.eye(size), np.eye(size)
        for other in net.weights[:k]:
            before = other @ before
        for other in net.weights[k + 1 :]:
            after = other @ after
        moved.append(layer + eta / net.depth * np.linalg.solve(after, aim) @ np.linalg.pinv(before))
    total = np.eye(size)
    for layer in moved:
        total = layer @ total
    error = task.teacher - total
    white = error * np.sqrt(np.diag(task.input_cov)) / np.sqrt(np.diag(task.noise_cov))[:, None]
    return float(0.5 * chance @ (white**2).sum(axis=(-1, -2)))


@pytest.mark.parametrize(("size", "depth"), [(1, 2), (1, 3), (2, 2)])
def test_the_first_correction_is_exact(size: int, depth: int) -> None:
    net, task = chain(size + depth, size, depth)
    start = float(ln.excess_loss(net, task))

    def gap(eta: float) -> float:
        law = online.online_loss(1, start, eta, 1, size, size)[0]
        return (expected_step(net, task, eta, 2 * depth + 1) - law) / eta**2

    found = online.deep_correction(net, task, 1)
    # Richardson: what is left of a polynomial in η, its terms η and η² removed.
    steps = [0.01, 0.005, 0.0025]
    values = [gap(eta) for eta in steps]
    first = [2 * values[1] - values[0], 2 * values[2] - values[1]]
    limit = (4 * first[1] - first[0]) / 3
    assert abs(limit - found) < 1e-5 * (abs(found) + start)
    # The order: the remainder is of first order in η.
    order = np.log2(abs(values[0] - found) / abs(values[1] - found))
    assert 0.8 < order < 1.2
    assert abs(online.deep_correction(net, task, 2) / found - 1) > 1e-3


def test_one_layer_needs_no_correction() -> None:
    net, task = chain(0, 2, 1)
    assert online.deep_correction(net, task, 3) == 0
    assert (online.deep_deviation([0.5, 2.0], net, task, 3) == 0).all()


@given(seeds, st.integers(1, 3), st.integers(2, 4), st.integers(1, 5))
def test_the_deviation_obeys_its_equation(seed: int, size: int, depth: int, batch: int) -> None:
    net, task = chain(seed, size, depth)
    times = np.linspace(0, 3, 61)
    values = online.deep_deviation(times, net, task, batch)
    assert values[0] == 0
    totals = ln.flow.natural_total(net, task, times)
    rates = [
        online.deep_correction(
            ln.LinearNetwork([np.eye(size)] * (depth - 1) + [total]), task, batch
        )
        for total in totals
    ]  # fmt: skip
    # dδ/dt = −2δ + c(t), by Simpson's rule over pairs of intervals.
    weight = np.exp(2 * times)
    inner = weight * rates
    step = times[1]
    for k in range(0, 58, 2):
        change = weight[k + 2] * values[k + 2] - weight[k] * values[k]
        simpson = step / 3 * (inner[k] + 4 * inner[k + 1] + inner[k + 2])
        assert abs(change - simpson) < 1e-4 * (np.abs(inner[k : k + 3]).max() * step)
    # Layers do not matter, only their product and number.
    assert rates[0] == pytest.approx(online.deep_correction(net, task, batch), rel=1e-9, abs=1e-12)


def test_the_deviation_is_of_first_order_in_the_step() -> None:
    net, task = chain(3, 2, 2)
    start, batch, time = float(ln.excess_loss(net, task)), 8, 1.0
    limit = online.deep_deviation(time, net, task, batch)[0]
    gaps, errors = [], []
    shallow = ln.LinearNetwork([net.total])
    for steps in (10, 40):
        eta = time / steps
        runs = [
            online.simulate(one, task, eta, batch, steps, 5_000, record=steps, rng=4, within=(0.05, 50.0))
            for one in (net, shallow)
        ]
        assert (runs[0].stopped < 0).all()
        # The same draws: the variance of the difference is that of the correction alone.
        gap = online.mean_and_error(runs[0].losses[0] - runs[1].losses[0])
        gaps.append(float(gap.value) / eta)
        errors.append(float(gap.error) / eta)
        law = online.online_loss(steps, start, eta, batch, 2, 2)[-1]
        mean = runs[1].mean()
        assert abs(mean.value[0] - law) < 5 * mean.error[0]
    assert abs(gaps[1] - limit) < 5 * errors[1] + 0.6 * abs(gaps[0] - limit)
    assert abs(gaps[1]) > 10 * errors[1]


@pytest.mark.parametrize(("depth", "size"), [(2, 1), (2, 2), (3, 1)])
def test_the_tail_exponent_of_a_hundred_thousand_replicates(depth: int, size: int) -> None:
    net = ln.LinearNetwork([0.5 * np.eye(size)] + [np.eye(size)] * (depth - 1))
    runs = online.simulate(net, ln.Task(np.eye(size)), 0.9, 2 * size, 4, 100_000, rng=depth, record=[1, 4])
    assert runs.finite.tolist() == [True, False]
    used = 400
    found = online.tail_exponent(runs.losses[1], used)
    law = online.tail_law(depth)
    # Hill's estimate is biased by the next term of the tail: 15 % is allowed for, beside five standard errors.
    assert abs(found.value / law - 1) < 5 / np.sqrt(used) + 0.15
    # The mean is that of a few replicates; the median is not.
    losses = np.sort(runs.losses[1])
    assert losses[-10:].sum() > 0.9 * losses.sum()
    halves = [np.median(part) for part in np.split(runs.losses[1], 2)]
    assert halves[0] == pytest.approx(halves[1], rel=0.05)
    # Control: one layer, and the first step, have lighter tails.
    single = online.simulate(
        ln.LinearNetwork([net.total]), ln.Task(np.eye(size)), 0.9, 2 * size, 4, 100_000, rng=3, record=4
    )
    assert online.tail_exponent(single.losses[0], used).value > 1
    assert online.tail_exponent(runs.losses[0], used).value > 1


def test_the_first_step_of_a_deep_chain_has_a_mean() -> None:
    net, task = chain(1, 1, 2)
    runs = online.simulate(net, task, 0.3, 1, 1, 50_000, rng=2)
    mean = runs.mean()
    assert abs(mean.value[0] - expected_step(net, task, 0.3, 5)) < 5 * mean.error[0]


def wide_losses(size: int, hidden: int, steps: int, count: int, seed: int) -> np.ndarray:
    """Return losses of two layers with a hidden layer wider than W, moved by pseudo-inverses."""
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((hidden, size)), rng.standard_normal((size, hidden))
    first, second = first / np.linalg.norm(first), second / np.linalg.norm(second)
    first, second = (np.broadcast_to(w, (count, *w.shape)) for w in (first, second))
    batch = 2 * size
    losses = []
    for _ in range(steps):
        z, noise = rng.standard_normal((2, count, batch, size))
        direction = (z @ (np.eye(size) - second @ first).mT + noise).mT @ z / batch
        first, second = (
            first + 0.45 * np.linalg.pinv(second) @ direction,
            second + 0.45 * direction @ np.linalg.pinv(first),
        )
        losses.append(0.5 * ((np.eye(size) - second @ first) ** 2).sum(axis=(1, 2)))
    return np.array(losses)


@pytest.mark.slow
def test_a_wider_hidden_layer_has_lighter_tails() -> None:
    # h ≥ 2n: no layer can lose rank at the first step, and the second loss has a mean; later ones have not.
    used = 200
    for size, hidden in ((1, 2), (2, 4)):
        exponents = online.tail_exponent(
            wide_losses(size, hidden, 6, 100_000, 10 * size + hidden), used
        ).value
        assert (exponents[:2] > 1.3).all()
        assert 1.5 * online.tail_law(2) < exponents[5] < 0.8
    # n < h < 2n: codimension h − n + 1 = 2 and an exponent of 1 at most, from step 2 on.
    exponents = online.tail_exponent(wide_losses(2, 3, 4, 100_000, 23), used).value
    assert exponents[0] > 1.3
    assert (exponents[1:] < 1).all()


def test_the_law_of_the_tail() -> None:
    assert online.tail_law(1) == np.inf
    assert [1 / online.tail_law(depth) for depth in (2, 3, 4)] == pytest.approx([4, 12, 24])


def test_bad_input() -> None:
    wide = ln.LinearNetwork([np.ones((3, 2)), np.ones((2, 3))])
    task = ln.Task(np.eye(2))
    for call in (
        online.deep_correction,
        lambda net, task, batch: online.deep_deviation(1.0, net, task, batch),
    ):
        with pytest.raises(ln.ConditionError):
            call(wide, task, 1)
        with pytest.raises(ln.ConditionError, match=r"^net: expected a square"):
            call(ln.LinearNetwork([np.ones((1, 2))]), ln.Task(np.ones((1, 2))), 1)
        with pytest.raises(ln.ConditionError, match=r"^net: D3 needs Gaussian"):
            call(ln.LinearNetwork([np.eye(2)], [np.ones(2)]), task, 1)
        with pytest.raises(ln.InputError, match=r"^batch"):
            call(ln.LinearNetwork([np.eye(2)]), task, 0)
    with pytest.raises(ln.InputError, match=r"^times: expected times ≥ 0"):
        online.deep_deviation(-1.0, ln.LinearNetwork([np.eye(2)]), task, 1)
    with pytest.raises(ln.InputError, match=r"^depth"):
        online.tail_law(0)
    # The line to the teacher passes a singular weight: the flow itself ends there.
    for depth in (2, 3):
        with pytest.raises(ln.FlowBreakdownError, match="C3"):
            online.deep_deviation(3.0, ln.LinearNetwork([[[1.0]]] * depth), ln.Task([[-1.0]]), 1)
    assert online.deep_deviation(0.6, ln.LinearNetwork([[[1.0]]] * 2), ln.Task([[-1.0]]), 1) > 0
