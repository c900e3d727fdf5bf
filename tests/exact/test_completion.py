"""Which entries does a natural gradient move, and does it complete the matrix? The metric and the gauge decide (C9)."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linnat as ln
from linnat.dense import completion as by_definition
from linnat.dense.flow import total_along
from tests import tolerances
from tests.strategies import seeds

pytestmark = pytest.mark.statement("C9")
GAUGES = ("minimum-norm", "layerwise", "population")


def draw(
    seed: int, widths: tuple[int, ...], share: float = 0.6
) -> tuple[ln.LinearNetwork, np.ndarray, np.ndarray]:
    """Return a Gaussian network, a target, and observed entries: at least one, not all of two or more."""
    rng = np.random.default_rng(seed)
    net = ln.LinearNetwork.random(widths, rng=rng)
    shape = (widths[-1], widths[0])
    size = int(np.prod(shape))
    mask = np.zeros(size, bool)
    mask[rng.permutation(size)[: min(max(1, round(share * size)), max(1, size - 1))]] = True
    return net, rng.standard_normal(shape), mask.reshape(shape)


def start(
    depth: int, scale: float, count: int, size: int = 12, rank: int = 2, share: float = 0.6
) -> tuple[ln.LinearNetwork, np.ndarray, np.ndarray]:
    """Return stacks of balanced orthogonal starts, targets of low rank, observed entries."""
    layers: list[list[np.ndarray]] = [[] for _ in range(depth)]
    targets, masks = [], []
    for seed in range(count):
        rng = np.random.default_rng([5, seed])
        targets.append(rng.standard_normal((size, rank)) @ rng.standard_normal((rank, size)) / np.sqrt(rank))
        masks.append((rng.permutation(size * size) < round(share * size * size)).reshape(size, size))
        for layer in layers:
            layer.append(scale ** (1 / depth) * np.linalg.qr(rng.standard_normal((size, size)))[0])
    return ln.LinearNetwork([np.stack(layer) for layer in layers]), np.stack(targets), np.stack(masks)


def moved(net: ln.LinearNetwork, step: tuple[np.ndarray, ...]) -> np.ndarray:
    return -ln.induced_change(net, step)


def joined(direction: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate([part.ravel() for part in direction])


def squared_condition(net: ln.LinearNetwork, observed: np.ndarray) -> float:
    """Return the largest κ² of J_Ω and its blocks on their ranges: what factorising J_ΩJ_Ωᵀ costs."""
    every = by_definition.observed_jacobian(net, observed)
    parts = [every, *np.split(every, np.cumsum([w.size for w in net.weights])[:-1], axis=1)]
    values = [np.linalg.svd(part, compute_uv=False) for part in parts]
    return max(float(v[0] / v[v > 1e-11 * v[0]][-1]) ** 2 for v in values)


widths_between = st.tuples(st.integers(1, 4), st.integers(4, 6), st.integers(4, 6), st.integers(1, 4))
any_widths = st.one_of(
    st.tuples(st.integers(1, 4), st.integers(1, 4)), st.tuples(st.integers(1, 4), st.integers(4, 6), st.integers(1, 4)),
    widths_between,
)  # fmt: skip


@given(seeds, any_widths, st.sampled_from(GAUGES))
def test_steps_are_those_of_the_definition(seed: int, widths: tuple[int, ...], gauge: str) -> None:
    net, target, observed = draw(seed, widths)
    condition = squared_condition(net, observed)
    if condition > 1e8:
        return
    found = ln.completion.natural_step(net, target, observed, gauge=gauge)
    wanted = by_definition.completion_gradient(net, target, observed, gauge=gauge)
    bound = tolerances.solve(np.float64, net.n_parameters, condition)
    tolerances.assert_close(joined(found.direction), joined(wanted), bound)
    assert int(found.rank) == observed.sum()
    # What moves: the observed entries along their error, whatever the gauge.
    error = (target - net.total)[observed]
    tolerances.assert_close(moved(net, found.direction)[observed], error, bound)
    assert float(found.residual) <= bound


@given(seeds, any_widths, st.sampled_from(GAUGES[:2]))
def test_the_population_never_moves_an_unobserved_entry(
    seed: int, widths: tuple[int, ...], gauge: str
) -> None:
    net, target, observed = draw(seed, widths)
    step = ln.completion.natural_step(net, target, observed, "population", gauge)
    change = moved(net, step.direction)
    condition = squared_condition(net, np.ones_like(observed))
    bound = tolerances.solve(np.float64, net.n_parameters, condition)
    tolerances.assert_close(change, (target - net.total) * observed, bound)
    wanted = by_definition.completion_gradient(net, target, observed, "population", gauge)
    if condition < 1e8:
        tolerances.assert_close(joined(step.direction), joined(wanted), bound)


def test_without_j_the_population_moves_them_and_its_gauge_refuses() -> None:
    net, target, observed = draw(1, (4, 2, 4))
    step = ln.completion.natural_step(net, target, observed, "population")
    change = moved(net, step.direction)
    assert np.abs(change[~observed]).max() > 1e-2 * np.abs(change).max()
    assert float(step.residual) > 1e-2
    with pytest.raises(ln.ConditionError, match=r"^net: the gauge 'population' needs \(J\)"):
        ln.completion.natural_step(net, target, observed, gauge="population")
    with pytest.raises(ln.ConditionError, match=r"^net: \(J\) fails at the start"):
        ln.completion.natural_total(net, target, observed, 1.0)


def test_gauges_move_the_unobserved_entries_differently() -> None:
    # Negative control: neither of the other gauges is the population's.
    net, target, observed = draw(3, (3, 4, 3))
    steps = [ln.completion.natural_step(net, target, observed, gauge=gauge).direction for gauge in GAUGES]
    hidden = [moved(net, step)[~observed] for step in steps]
    size = np.abs(target - net.total).max()
    assert np.abs(hidden[2]).max() <= 1e-12 * size
    assert (
        min(np.abs(hidden[0]).max(), np.abs(hidden[1]).max(), np.abs(hidden[0] - hidden[1]).max())
        > 1e-2 * size
    )
    # Each is the shortest in its own metric.
    lengths = [np.linalg.norm(joined(step)) for step in steps]
    assert lengths[0] < min(lengths[1:])
    changes = [np.linalg.norm(moved(net, step)) for step in steps]
    assert changes[2] < min(changes[:2])


def test_where_too_many_are_observed_the_rank_says_so() -> None:
    # Rank one, 3 × 3, balanced: the tangent space has dimension 5.
    rng = np.random.default_rng(0)
    unit, left, right = np.eye(3)[0], rng.standard_normal(3), rng.standard_normal(3)
    size = np.sqrt(np.linalg.norm(left) * np.linalg.norm(right))
    first, last = unit[:, None] * right / np.linalg.norm(right), left[:, None] * unit / np.linalg.norm(left)
    net = ln.LinearNetwork([size * first, np.outer(unit, unit), size * last])
    target = rng.standard_normal((3, 3))
    seen = np.ones((3, 3), bool)
    seen[2, 2] = False
    step = ln.completion.natural_step(net, target, seen)
    assert int(step.rank) == 5
    assert float(step.residual) > 1e-2
    wanted = by_definition.completion_gradient(net, target, seen)
    # Least squares by J_ΩJ_Ωᵀ: the rank is decided at √eps, far from the next singular value.
    tolerances.assert_close(joined(step.direction), joined(wanted), 1e-10)
    with pytest.raises(ln.ConditionError, match="^net: J_Ω is not onto"):
        ln.completion.stationarity(net, seen)
    with pytest.raises(ln.FlowBreakdownError, match="no step moves all observed entries"):
        ln.completion.natural_flow(net, target, seen, 1.0)
    cross = np.zeros((3, 3), bool)
    cross[0], cross[:, 0] = True, True
    assert int(ln.completion.natural_step(net, target, cross).rank) == 5
    assert int(ln.completion.natural_step(net, target, cross, rtol=2.0).rank) == 0


@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize("widths", [(3, 3), (3, 7, 3), (2, 6, 6, 3)])
def test_flows_are_those_integrated_from_the_definition(widths: tuple[int, ...], gauge: str) -> None:
    net, target, observed = draw(2, widths)
    times = np.array([0.0, 0.3, 2.0])
    found = ln.completion.natural_flow(net, target, observed, times, gauge=gauge, rtol=1e-8)
    wanted = by_definition.completion_flow(net, target, observed, times, gauge=gauge, rtol=1e-9, atol=1e-11)
    for one, other in zip(found.layers, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())
    assert found.drift.max() < 1e-6
    totals = total_along(net, wanted)
    line = target + np.exp(-times)[:, None, None] * (net.total - target)
    np.testing.assert_allclose(totals[:, observed], line[:, observed], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.layers[0][0], net.weights[0])
    if gauge == "population":
        closed = ln.completion.natural_total(net, target, observed, times)
        np.testing.assert_allclose(totals, closed, rtol=0, atol=1e-6)
        for metric_gauge in GAUGES[:2]:
            path = ln.completion.natural_flow(
                net, target, observed, times, "population", metric_gauge, rtol=1e-8
            )
            np.testing.assert_allclose(total_along(net, path.layers), closed, rtol=0, atol=1e-6)


def test_times_compose_and_infinity_is_reached() -> None:
    net, target, observed = draw(4, (3, 5, 4))
    whole = ln.completion.natural_flow(net, target, observed, [0.5, 1.5, np.inf], rtol=1e-9)
    half = net.replace_layers([layer[0] for layer in whole.layers])
    rest = ln.completion.natural_flow(half, target, observed, [1.0, np.inf], rtol=1e-9)
    for one, other in zip(whole.layers, rest.layers, strict=True):
        np.testing.assert_allclose(one[1:], other, rtol=0, atol=1e-6)
    end = net.replace_layers([layer[-1] for layer in whole.layers]).total
    np.testing.assert_allclose(end[observed], target[observed], rtol=0, atol=1e-7)
    assert ln.completion.natural_flow(net, target, observed, 0.0).drift[0] == 0


@pytest.mark.parametrize("widths", [(3, 3), (3, 4, 3), (3, 4, 4, 3)])
def test_the_rescaled_layers_descend_their_norm(widths: tuple[int, ...]) -> None:
    # W(0) = εW* on Ω: φ = ρ^{−1/L}θ follows the projected descent of ‖φ‖²/2L for the time log(1/ε).
    net, _, observed = draw(6, widths)
    epsilon, times = 0.2, np.array([0.4, 1.0, 30.0])
    target = net.total / epsilon
    share = 1 - (1 - epsilon) * np.exp(-times)
    path = ln.completion.natural_flow(net, target, observed, times, rtol=1e-9)
    descent = by_definition.shrinking_flow(net, observed, np.log(share / epsilon), rtol=1e-10, atol=1e-12)
    for layer, wanted in zip(path.layers, descent, strict=True):
        rescaled = layer * (share / epsilon)[:, None, None] ** (-1 / net.depth)
        np.testing.assert_allclose(rescaled, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    # Negative control: the layerwise gauge goes elsewhere.
    if net.depth > 1:
        other = ln.completion.natural_flow(net, target, observed, times, gauge="layerwise")
        assert np.abs(other.layers[0][-1] - path.layers[0][-1]).max() > 1e-2


def test_a_rest_point_is_a_ray() -> None:
    # Layers at rest stay on their ray: W(t) = ρ(t)/ε W(0), unobserved entries included, and are balanced.
    net, _, observed = draw(7, (3, 4, 3))
    layers = by_definition.shrinking_flow(net, observed, 400.0, rtol=1e-9, atol=1e-12)
    rest = net.replace_layers([layer[0] for layer in layers])
    # The descent ends algebraically slowly at worst; what is left of it bounds the drift from the ray.
    left = float(ln.completion.stationarity(rest, observed))
    assert left < 1e-4 < float(ln.completion.stationarity(net, observed))
    path = ln.completion.natural_flow(rest, rest.total / 0.1, observed, np.inf, rtol=1e-9)
    end = rest.replace_layers([layer[0] for layer in path.layers]).total
    np.testing.assert_allclose(0.1 * end, rest.total, rtol=0, atol=10 * left + 1e-7)
    assert np.abs(ln.flow.balance(rest)[0]).max() <= 100 * left
    size = sum(float(np.sum(w**2)) for w in rest.weights)
    assert size == pytest.approx(float(ln.completion.schatten(rest.total, 2)), abs=100 * left)


def test_gradient_flow_is_that_of_the_definition() -> None:
    from linnat.dense.flow import integrate

    net, target, observed = draw(8, (3, 4, 4, 3))
    times = np.array([0.0, 0.5, 3.0])
    found = ln.completion.gradient_flow(net, target, observed, times, rtol=1e-7)
    wanted = integrate(net, lambda state: by_definition.observed_gradient(state, target, observed), times)
    for one, other in zip(found.layers, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert found.residual[0] == 1
    assert (np.diff(found.residual) < 0).all()
    stopped = ln.completion.gradient_flow(net, target, observed, 1e4, tol=0.5)
    assert 0.3 < float(stopped.residual[0]) <= 0.5
    # Balance is conserved by gradient flow and the minimum-norm gauge (C4), not by the layerwise gauge.
    runs = (
        found.layers,
        ln.completion.natural_flow(net, target, observed, times, rtol=1e-9).layers,
        ln.completion.natural_flow(net, target, observed, times, gauge="layerwise").layers,
    )
    drifts = []
    for layers in runs:
        end = net.replace_layers([layer[-1] for layer in layers])
        pairs = zip(ln.flow.balance(end), ln.flow.balance(net), strict=True)
        drifts.append(max(float(np.abs(a - b).max()) for a, b in pairs))
    assert max(drifts[:2]) < 1e-5
    assert drifts[2] > 1e-2


def test_measures() -> None:
    target, observed = np.array([[1.0, 2.0], [0.0, 2.0]]), np.array([[True, False], [True, False]])
    assert float(ln.completion.unobserved_error(target, target, observed)) == 0
    assert float(ln.completion.unobserved_error(0 * target, target, observed)) == 1
    assert float(ln.completion.unobserved_error(target + 1, 0 * target, observed)) == pytest.approx(
        np.sqrt(18)
    )
    rng = np.random.default_rng(0)
    assert float(ln.completion.effective_rank(np.outer(rng.random(4), rng.random(3)))) == pytest.approx(1)
    assert float(ln.completion.effective_rank(np.zeros((2, 2)))) == 0
    matrix = rng.standard_normal((4, 3))
    for depth in (1, 2, 3):
        least = float(ln.completion.schatten(matrix, depth))
        balanced = ln.LinearNetwork.balanced(matrix, depth)
        assert least == pytest.approx(sum(float(np.sum(w**2)) for w in balanced.weights))
        if depth > 1:
            longer = [balanced.weights[0] * 2, balanced.weights[1] / 2, *balanced.weights[2:]]
            assert least < sum(float(np.sum(w**2)) for w in longer)
    assert float(ln.completion.schatten(matrix, 2)) == pytest.approx(2 * np.linalg.norm(matrix, "nuc"))


def test_stacks_equal_a_loop_and_float32_is_kept() -> None:
    net, target, observed = start(2, 1e-2, 3, size=4)
    step = ln.completion.natural_step(net, target, observed, gauge="layerwise")
    path = ln.completion.natural_flow(net, target, observed, [1.0, np.inf], rtol=1e-9)
    slow = ln.completion.gradient_flow(net, target, observed, 1.0, rtol=1e-6)
    rest = ln.completion.stationarity(net, observed)
    assert path.layers[0].shape == (3, 2, 4, 4)
    assert path.drift.shape == (3, 2)
    for k in range(3):
        single = ln.LinearNetwork([w[k] for w in net.weights])
        alone = ln.completion.natural_step(single, target[k], observed[k], gauge="layerwise")
        np.testing.assert_allclose(step.direction[0][k], alone.direction[0], rtol=1e-8, atol=1e-9)
        one = ln.completion.natural_flow(single, target[k], observed[k], [1.0, np.inf], rtol=1e-9)
        np.testing.assert_allclose(path.layers[1][k], one.layers[1], rtol=0, atol=1e-6)
        one_slow = ln.completion.gradient_flow(single, target[k], observed[k], 1.0, rtol=1e-6)
        np.testing.assert_allclose(slow.layers[1][k], one_slow.layers[1], rtol=0, atol=1e-4)
        assert float(ln.completion.stationarity(single, observed[k])) == pytest.approx(
            float(rest[k]), rel=1e-9
        )
    before = [w.copy() for w in net.weights]
    low = ln.LinearNetwork([w.astype(np.float32) for w in net.weights])
    for result in (
        ln.completion.natural_step(low, target, observed).direction[0],
        ln.completion.natural_flow(low, target, observed, 1.0).layers[0],
        ln.completion.gradient_flow(low, target, observed, 1.0).layers[0],
        ln.completion.natural_total(low, target, observed, 1.0),
    ):
        assert result.dtype == np.float32
    for kept, weight in zip(before, net.weights, strict=True):
        np.testing.assert_array_equal(kept, weight)


def test_small_deep_starts_complete_in_the_minimum_norm_gauge_only() -> None:
    net, target, observed = start(3, 1e-4, 3)
    errors = {}
    for gauge in GAUGES[:2]:
        path = ln.completion.natural_flow(net, target, observed, np.inf, gauge=gauge, rtol=1e-5)
        total = ln.LinearNetwork([layer[:, 0] for layer in path.layers]).total
        errors[gauge] = np.median(ln.completion.unobserved_error(total, target, observed))
    frozen = ln.completion.natural_total(net, target, observed, np.inf)[:, 0]
    errors["population"] = np.median(ln.completion.unobserved_error(frozen, target, observed))
    assert errors["minimum-norm"] < 0.1 < 0.3 < errors["layerwise"]
    assert abs(errors["population"] - 1) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "gradient", "shortest"), [(2, (0.31, 2.6), (0.42, 2.9)), (3, (0.05, 2.1), (0.17, 2.3))]
)
def test_the_published_kind_of_table(
    depth: int, gradient: tuple[float, float], shortest: tuple[float, float]
) -> None:
    """12 × 12, rank 2, 60 % observed, scale 1e-3 of ‖W*‖ = 1: values of three seeds within the spread of thirty."""
    net, target, observed = start(depth, 1e-3, 30)
    target = target / np.linalg.norm(target, 2, axis=(-1, -2))[:, None, None]
    slow = ln.completion.gradient_flow(net, target, observed, 1e5, tol=0.01)
    natural = ln.completion.natural_flow(net, target, observed, np.inf, rtol=1e-5)
    frozen = ln.completion.natural_total(net, target, observed, np.inf)[:, 0]
    for layers, (error, rank) in ((slow.layers, gradient), (natural.layers, shortest)):
        total = ln.LinearNetwork([layer[:, 0] for layer in layers]).total
        errors = ln.completion.unobserved_error(total, target, observed)
        ranks = ln.completion.effective_rank(total)
        # Means of three draws out of this distribution: between the extremes of means over ten such triples.
        triples, counts = errors.reshape(10, 3).mean(axis=1), ranks.reshape(10, 3).mean(axis=1)
        assert triples.min() <= error <= triples.max()
        assert counts.min() - 0.2 <= rank <= counts.max() + 0.2
    assert np.abs(ln.completion.unobserved_error(frozen, target, observed) - 1).max() < 1e-2
    assert abs(np.median(ln.completion.effective_rank(frozen)) - 6.0) < 1.0
    assert abs(np.median(ln.completion.effective_rank(target)) - 1.9) < 0.1


@pytest.mark.slow
def test_fifty_by_fifty_in_seconds() -> None:
    net, target, observed = start(3, 1e-3, 1, size=50, rank=3, share=0.36)
    net = ln.LinearNetwork([w[0] for w in net.weights])
    begin = time.process_time()
    path = ln.completion.natural_flow(net, target[0], observed[0], np.inf, rtol=1e-4)
    # Processor time, on a machine whose speed is not known: ten seconds, with a margin.
    assert time.process_time() - begin < 60
    total = ln.LinearNetwork([layer[0] for layer in path.layers]).total
    assert float(path.drift[0]) < 1e-5
    assert float(ln.completion.unobserved_error(total, target[0], observed[0])) < 0.02
    assert (
        abs(float(ln.completion.effective_rank(total)) - float(ln.completion.effective_rank(target[0]))) < 0.1
    )


def test_bad_input() -> None:
    net, target, observed = draw(0, (2, 3, 2))
    step = ln.completion.natural_step
    with pytest.raises(ln.InputError, match="^net: expected a LinearNetwork"):
        step([np.eye(2)], target, observed)  # type: ignore[arg-type]
    with pytest.raises(ln.ConditionError, match="^net: C9 is about factorisations"):
        step(ln.LinearNetwork.random((2, 2), rng=0, biases=True), target, observed)
    for bad in (
        np.full((2, 2), np.nan),
        np.full((2, 2), np.inf),
        np.ones((2, 2)) * 1j,
        np.ones(2),
        np.ones((3, 2)),
    ):
        with pytest.raises(ln.InputError, match="^target"):
            step(net, bad, observed)
    for mask in (observed.astype(int), observed[0], np.ones((3, 2), bool), np.zeros((2, 2), bool)):
        with pytest.raises(ln.InputError, match="^observed"):
            step(net, target, mask)
    uneven = np.array([[[True, True], [False, False]], [[True, False], [False, False]]])
    with pytest.raises(ln.InputError, match="^observed: expected equally many entries"):
        step(net, target, uneven)
    with pytest.raises(ln.InputError, match="leading axes that broadcast"):
        step(net, np.ones((3, 2, 2)), np.ones((2, 2, 2), bool))
    for name, options in (("metric", {"metric": "full"}), ("gauge", {"gauge": "shortest"}), ("rtol", {"rtol": -1.0}),
                          ("gauge", {"metric": "population", "gauge": "population"})):  # fmt: skip
        with pytest.raises(ln.InputError, match=f"^{name}"):
            step(net, target, observed, **options)
    for times in (-1.0, [1.0, 0.5], np.nan, "soon", [[1.0]], [], 1j):
        with pytest.raises(ln.InputError, match="^times"):
            ln.completion.natural_flow(net, target, observed, times)
        with pytest.raises(ln.InputError, match="^times"):
            ln.completion.gradient_flow(net, target, observed, times)
    with pytest.raises(ln.InputError, match="^times"):
        ln.completion.gradient_flow(net, target, observed, np.inf)
    with pytest.raises(ln.InputError, match="^rtol"):
        ln.completion.natural_flow(net, target, observed, 1.0, rtol=0.0)
    with pytest.raises(ln.ConvergenceError, match="stopped at time"):
        ln.completion.gradient_flow(net, target, observed, 100.0, max_evaluations=5)
    with pytest.raises(ln.InputError, match="^observed"):
        ln.completion.unobserved_error(target, target, np.ones((2, 2), bool))
    with pytest.raises(ln.InputError, match="^observed"):
        ln.completion.unobserved_error(target, target, np.ones((2, 2)))
    with pytest.raises(ln.InputError, match="^target, observed"):
        ln.completion.unobserved_error(target, np.ones((3, 3)), observed)
    with pytest.raises(ln.InputError, match="^depth"):
        ln.completion.schatten(target, 0)
    with pytest.raises(ln.InputError, match="^net"):
        ln.completion.stationarity([np.eye(2)], observed)  # type: ignore[arg-type]


@pytest.mark.parametrize("times", [[np.inf], [0.1, np.inf]])
def test_a_flow_that_meets_a_singular_matrix_ends_with_its_time(times: list[float]) -> None:
    # Two layers from W = 1 to W* = −1: zero is met at log 2 (C3), whatever times are asked for.
    net = ln.LinearNetwork([[[1.0]], [[1.0]]])
    with pytest.raises(ln.ConvergenceError, match="has not passed t = 0.693147 after 2000 evaluations"):
        ln.completion.natural_flow(net, [[-1.0]], [[True]], times, max_evaluations=2000)
    square, target = ln.LinearNetwork([1e-2 * np.eye(2)] * 2), np.array([[2.0, 4.0], [1.0, 2.0]])
    observed = np.array([[True, True], [True, False]])
    with pytest.raises(ln.ConvergenceError, match="singular W"):
        ln.completion.natural_flow(
            square, target, observed, times, "population", "layerwise", max_evaluations=500
        )


def test_the_ends_of_the_range() -> None:
    net, target, observed = draw(1, (2, 3, 2))
    large = ln.LinearNetwork([1e200 * w for w in net.weights])
    for call in (
        lambda: ln.completion.natural_step(large, target, observed),
        lambda: ln.completion.natural_total(large, target, observed, 1.0),
        lambda: ln.completion.natural_flow(large, target, observed, 1.0),
        lambda: ln.completion.gradient_flow(large, target, observed, 1.0),
        lambda: ln.completion.stationarity(large, observed),
        lambda: ln.completion.unobserved_error(1e200 * target, target, observed),
        lambda: ln.completion.schatten(1e308 * np.eye(2), 1),
    ):
        with pytest.raises(ln.RangeError):
            call()
    zero = ln.LinearNetwork([np.zeros((2, 2))])
    assert ln.completion.stationarity(zero, observed) == 0
