"""How many digits does the natural gradient have? Chains, products and the textbook against multiple precision (X9).

Errors are max_i ‖δv_i‖ / ‖v_i‖ against the natural gradient of the very floats given. The rivals are written out here:
pseudo-inverses of products, and the textbook's inverses of the factors Λ and Λ̃ of K-FAC.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, target

import linnat as ln
from tests import tolerances
from tests.mp_oracle import Truth, exact_moments, population_moments, task_moments, truth
from tests.strategies import (
    Problem,
    condition_on_range,
    conditioned,
    integer_rank,
    make_problem,
    orthogonal,
    problems,
    square_problems,
)

pytestmark = pytest.mark.statement("X9")

NO_DIGIT = 0.5
Direction = Sequence[np.ndarray]


class Case(NamedTuple):
    """A network, a task with S = Σ = I, and Σκ over its layers (on their ranges)."""

    net: ln.LinearNetwork
    task: ln.Task
    condition_sum: float

    def truth(self) -> Truth:
        return truth(self.net, partial(population_moments, self.task.teacher, None))


def make_case(weights: Sequence[np.ndarray], seed: int, ranks: Sequence[int] | None = None) -> Case:
    """Put layers and a Gaussian teacher together."""
    full = [min(w.shape) for w in weights] if ranks is None else ranks
    teacher = np.random.default_rng(seed + 10_000).standard_normal((len(weights[-1]), weights[0].shape[1]))
    conditions = [condition_on_range(w.astype(np.float64), r) for w, r in zip(weights, full, strict=True)]
    return Case(ln.LinearNetwork(weights), ln.Task(teacher), sum(conditions))


def gaussian(widths: Sequence[int], seed: int, dtype: Any = np.float64) -> Case:
    return make_case(ln.LinearNetwork.random(widths, rng=seed, dtype=dtype).weights, seed)


def ill_conditioned(widths: Sequence[int], condition: float, seed: int, dtype: Any = np.float64) -> Case:
    rng = np.random.default_rng(seed)
    pairs = zip(widths[1:], widths[:-1], strict=True)
    return make_case([conditioned(rng, m, n, condition).astype(dtype) for m, n in pairs], seed)


def with_rank_drops(widths: Sequence[int], ranks: Sequence[int], seed: int) -> Case:
    rng = np.random.default_rng(seed)
    triples = zip(widths[1:], widths[:-1], ranks, strict=True)
    return make_case([integer_rank(rng, m, n, r) for m, n, r in triples], seed, ranks)


def on_weak_rows(depth: int, weakness: float, seed: int) -> Case:
    """Return a 2-4-…-4-2 network whose last layer lives on the weak rows of each layer before it."""
    rng = np.random.default_rng(seed)
    turns = [orthogonal(rng, 4) for _ in range(depth - 1)]
    graded = np.diag([1.0, 1.0, weakness, weakness])
    first, last = turns[0] @ rng.standard_normal((4, 2)), np.eye(4)[2:] @ turns[-1].T
    middle = [turns[i] @ graded @ turns[i - 1].T for i in range(1, depth - 1)]
    return make_case([first, *middle, last], seed)


def error(found: Direction, wanted: Direction) -> float:
    """Return max_i ‖δv_i‖ / ‖v_i‖; infinite where something is not finite."""
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        if not np.isfinite(a).all():
            return np.inf
        worst = max(worst, tolerances.relative_error(a, b))
    return worst


def total_error(found: Direction, wanted: Direction) -> float:
    """Return ‖δv‖ / ‖v‖ over all layers."""
    return tolerances.relative_error(ln.flatten(found), ln.flatten(wanted))


def by_products(case: Case) -> list[np.ndarray]:
    """Return N2 by pseudo-inverses of the products A_i and B_i (S = Σ = I)."""
    before, after, depth = case.net.before, case.net.after, case.net.depth
    gap = case.net.total - case.task.teacher
    ins, outs = [np.linalg.pinv(a) for a in before], [np.linalg.pinv(b) for b in after]
    p = [np.zeros((len(gap), len(gap)))] + [b @ inv for b, inv in zip(after, outs, strict=True)]
    q = [inv @ a for a, inv in zip(before, ins, strict=True)] + [np.zeros((gap.shape[1], gap.shape[1]))]
    result = []
    for i in range(depth):
        middle = np.zeros_like(gap)
        for k in range(i + 1):
            for l in range(i, depth):
                middle += (p[k + 1] - p[k]) @ gap @ (q[l] - q[l + 1]) / (l - k + 1)
        result.append(outs[i] @ middle @ ins[i])
    return result


def by_textbook(case: Case) -> list[np.ndarray]:
    """Return N1 as K-FAC libraries do, Λ̃_i⁻¹ (∂ℓ/∂W_i) Λ_{i-1}⁻¹ / L (S = Σ = I); NaN where LAPACK gives up."""
    net, result = case.net, []
    gap = net.total - case.task.teacher
    for a, b in zip(net.before, net.after, strict=True):
        try:
            left = np.linalg.solve(b.T @ b, b.T @ gap @ a.T)
            result.append(np.linalg.solve(a @ a.T, left.T).T / net.depth)
        except np.linalg.LinAlgError:
            return [np.full_like(w, np.nan) for w in net.weights]
    return result


def check(case: Case) -> float:
    """Hold the chain against X9's bound without drift, and against its own estimate; return the error."""
    wanted = case.truth()
    found = ln.natural_gradient(case.net, case.task)
    ranks = ln.ranks(case.net, case.task)
    assert list(zip(ranks.after.tolist(), ranks.before.tolist(), strict=True)) == list(wanted.ranks)
    size = error(found, wanted.direction)
    bound = tolerances.chain(case.net.dtype, case.condition_sum, wanted.cancellation)
    assert size <= bound, f"error {size:.3g} exceeds {bound:.3g}"
    assert float(ln.error_estimate(case.net, case.task).relative) >= total_error(found, wanted.direction)
    return size


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("depth", [2, 4, 8, 16, 32])
def test_gaussian_square_networks(depth: int, seed: int) -> None:
    check(gaussian((6,) * (depth + 1), seed))


@pytest.mark.parametrize(("widths", "seed"), [((6,) * 65, 0), ((4,) * 65, 1), ((3,) + (5,) * 63 + (4,), 2)])
def test_gaussian_networks_of_depth_64(widths: tuple[int, ...], seed: int) -> None:
    check(gaussian(widths, seed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "widths",
    [
        (3, 8, 8, 8, 8, 8, 8, 8, 4),
        (5, 9, 7, 9, 5),
        (7, 2, 7),
        (6, 3, 4, 2),
        (4, 6, 3, 6, 2, 5),
        (5,) + (3,) * 15 + (5,),
    ],
)
def test_gaussian_wide_and_bottlenecked_networks(widths: tuple[int, ...], seed: int) -> None:
    check(gaussian(widths, seed))


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize(
    "widths", [(6,) * 7, (4, 6, 8, 6, 4), (6, 6, 6, 3, 6, 6, 6), (6, 4, 3, 5), (5, 1, 5), (2, 7)]
)
def test_ill_conditioned_layers(widths: tuple[int, ...], condition: float) -> None:
    for seed in range(3):
        check(ill_conditioned(widths, condition, seed))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("widths", "ranks"),
    [
        ((5,) * 6, (5, 4, 5, 3, 5)),
        ((5,) * 6, (4, 4, 4, 4, 4)),
        ((4, 5, 4, 5), (3, 2, 4)),
        ((4, 4, 4, 4), (3, 2, 3)),
        ((3, 4, 4, 3), (1, 3, 1)),
        ((4, 6, 6, 6, 4), (4, 4, 5, 2)),
        ((3, 3, 3, 3), (3, 0, 3)),
    ],
)
def test_exact_integer_rank_drops(widths: tuple[int, ...], ranks: tuple[int, ...], seed: int) -> None:
    check(with_rank_drops(widths, ranks, seed))


@pytest.mark.parametrize("seed", range(3))
def test_a_product_that_is_zero_with_layers_that_are_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    second = np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]])
    third = np.array([[1.0, -1, 2], [2, -2, 1], [0, 0, 1]])
    assert not (third @ second).any()
    ends = [integer_rank(rng, 3, 3, 3) for _ in range(2)]
    case = make_case([ends[0], second, third, ends[1]], seed, (3, 1, 2, 3))
    assert case.truth().ranks == ((0, 3), (2, 3), (3, 1), (3, 0))
    check(case)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, 1e-8, 1e-10])
def test_nearly_parallel_rows(gap: float) -> None:
    weights = [np.array([[1.0, 2], [3, 4]]), np.array([[1.0, 1], [1, 1 + gap]]), np.array([[2.0, 1], [1, 1]])]
    check(make_case(weights, 0))


@pytest.mark.parametrize("inside", [(1.0, 1.0, 1.0), (3.0, 0.0, -1.0)])
@pytest.mark.parametrize("gap", [2.0**-7, 2.0**-14, 2.0**-20, 2.0**-27, 2.0**-34])
def test_nearly_parallel_rows_on_a_product_of_rank_one(gap: float, inside: tuple[float, ...]) -> None:
    # The range of W_2 contains the kernel of W_3, exactly; rounding leaves eps / gap there, which no fixed
    # cut-off foresees.
    second = np.outer(inside, [1.0, 1.0]) + np.outer([2.0, -1.0, 0.0], [1.0, -1.0])
    third = np.array([[1.0, 2, 3], [1, 2, 3 + gap]])
    case = make_case([np.eye(2), second, third], 0)
    assert case.truth().ranks == ((1, 2), (2, 2), (2, 2))
    check(case)


def test_rows_parallel_to_the_last_bits_are_undetermined() -> None:
    weights = [
        np.array([[1.0, 2], [3, 4]]),
        np.array([[1.0, 1], [1, 1 + 1e-13]]),
        np.array([[2.0, 1], [1, 1]]),
    ]
    case = make_case(weights, 0)
    with pytest.warns(ln.RankWarning, match="undetermined"):
        ln.natural_gradient(case.net, case.task)
    # Decided by the user, the answer is the truth to the digits that the estimate leaves.
    wanted = case.truth()
    found = ln.natural_gradient(case.net, case.task, rtol=1e-15)
    estimate = float(ln.error_estimate(case.net, case.task, rtol=1e-15).relative)
    assert total_error(found, wanted.direction) <= estimate < 1


@pytest.mark.slow
@pytest.mark.parametrize("depth", [4, 16, 32])
def test_float32_keeps_three_digits(depth: int) -> None:
    errors = [check(gaussian((16,) * (depth + 1), seed, np.float32)) for seed in range(1 if depth > 4 else 3)]
    assert float(np.median(errors)) < 1e-3


@pytest.mark.parametrize("widths", [(6,) * 7, (4, 6, 8, 6, 4), (6, 6, 3, 6, 6)])
@pytest.mark.parametrize("condition", [1e1, 1e2, 1e3])
def test_float32_ill_conditioned(widths: tuple[int, ...], condition: float) -> None:
    for seed in range(3):
        check(ill_conditioned(widths, condition, seed, np.float32))


class Rivals(NamedTuple):
    """Medians over seeds of the errors of the three routes."""

    chain: float
    products: float
    textbook: float


@cache
def medians(make: Callable[[int], Case], seeds: int = 5) -> Rivals:
    """Return the median errors over the seeds."""
    rows = []
    for seed in range(seeds):
        case = make(seed)
        wanted = case.truth().direction
        found = (ln.natural_gradient(case.net, case.task), by_products(case), by_textbook(case))
        rows.append([error(route, wanted) for route in found])
    return Rivals(*(float(v) for v in np.median(rows, axis=0)))


def test_sixteen_gaussian_layers_chain_products_and_textbook() -> None:
    found = medians(partial(gaussian, (8,) * 17))
    assert found.chain < 1e-12
    assert found.products > 1e4 * found.chain
    assert found.textbook > NO_DIGIT


def test_fourteen_layers_of_width_ten() -> None:
    found = medians(partial(gaussian, (10,) * 15), seeds=3)
    assert found.chain < 1e-12
    assert found.products > 1e3 * found.chain
    assert found.textbook > 1e3 * found.products


def test_forty_layers_leave_the_rivals_no_digit() -> None:
    found = medians(partial(gaussian, (6,) * 41), seeds=3)
    assert found.chain < 1e-12
    assert found.products > NO_DIGIT
    assert found.textbook > NO_DIGIT


@pytest.mark.parametrize(("condition", "chain", "products"), [(1e4, 1e-11, 1e-7), (1e6, 1e-9, NO_DIGIT)])
def test_a_bottleneck_of_ill_conditioned_layers(condition: float, chain: float, products: float) -> None:
    found = medians(partial(ill_conditioned, (6, 6, 6, 3, 6, 6, 6), condition))
    assert found.chain < chain
    assert found.products > products
    assert found.textbook > NO_DIGIT


def test_layers_of_condition_1e8_leave_the_rivals_no_digit() -> None:
    found = medians(partial(ill_conditioned, (6,) * 7, 1e8))
    assert found.chain < 1e-7
    assert found.products > NO_DIGIT
    assert found.textbook > NO_DIGIT


def test_the_bound_refuses_the_rivals() -> None:
    # The negative control: what the chain passes, a route through products fails.
    for seed in range(3):
        case = ill_conditioned((6,) * 7, 1e4, seed)
        wanted = case.truth()
        bound = tolerances.chain(np.float64, case.condition_sum, wanted.cancellation)
        assert error(by_products(case), wanted.direction) > 1e3 * bound
        shuffled = ln.natural_gradient(case.net, ln.Task(case.task.teacher + 1e-3))
        assert error(shuffled, wanted.direction) > bound


def test_digits_are_lost_where_the_last_layers_live_on_weak_rows() -> None:
    ratios, errors, moved = [], [], []
    for seed in range(8):
        case = on_weak_rows(6, 1e-2, seed)
        wanted = case.truth()
        found = ln.natural_gradient(case.net, case.task)
        size = error(found, wanted.direction)
        errors.append(size)
        ratios.append(size / tolerances.chain(np.float64, case.condition_sum, wanted.cancellation))
        assert float(ln.error_estimate(case.net, case.task).relative) >= total_error(found, wanted.direction)
        # A property of the network: the exact answer moves as far when the layers change in their last bits.
        rng = np.random.default_rng(seed)
        near = [w * (1 + 2.0**-52 * rng.choice([-1, 1], w.shape)) for w in case.net.weights]
        moved.append(error(case._replace(net=ln.LinearNetwork(near)).truth().direction, wanted.direction))
    assert np.median(ratios) > 100
    assert np.median(errors) > 1e-10
    assert np.median(moved) > 0.1 * np.median(errors)


def test_drift_multiplies_with_each_layer() -> None:
    loss = []
    for depth in (3, 4, 5, 6):
        sizes = []
        for seed in range(5):
            case = on_weak_rows(depth, 1e-2, seed)
            sizes.append(error(ln.natural_gradient(case.net, case.task), case.truth().direction))
        loss.append(float(np.median(sizes)))
    # Each hidden layer more costs about its condition, 100: between 10 and 1000 in the median.
    for shallow, deep in pairwise(loss[1:]):
        assert 10 < deep / shallow < 1000


def trial(seed: int) -> Case:
    """Return one of many kinds of network."""
    rng = np.random.default_rng(seed)
    kind, depth = seed % 6, int(rng.integers(2, 8))
    widths = [int(n) for n in rng.integers(1, 6, depth + 1)]
    if kind == 0:
        return gaussian([widths[0]] * (depth + 1), seed)
    if kind == 1:
        return gaussian(widths, seed)
    if kind == 2:
        return ill_conditioned([widths[0] + 1] * (depth + 1), 10.0 ** rng.uniform(0, 8), seed)
    if kind == 3:
        return ill_conditioned(widths, 10.0 ** rng.uniform(0, 8), seed)
    if kind == 4:
        full = [min(pair) for pair in zip(widths[1:], widths[:-1], strict=True)]
        return with_rank_drops(widths, [max(1, r - int(rng.integers(0, 3))) for r in full], seed)
    return on_weak_rows(max(depth, 3), 10.0 ** -rng.uniform(0.5, 2), seed)


def test_the_estimate_is_never_below_the_truth() -> None:
    quotients = []
    for seed in range(120):
        case = trial(seed)
        wanted = case.truth().direction
        found = ln.natural_gradient(case.net, case.task)
        size = total_error(found, wanted)
        estimate = float(ln.error_estimate(case.net, case.task).relative)
        assert estimate >= size, f"seed {seed}: {estimate:.3g} is below {size:.3g}"
        if size > 0:
            quotients.append(estimate / size)
    # With no failure in 120 trials the rate of failures is below 2.5 % at 95 % confidence (rule of three).
    assert 5 < np.median(quotients) < 100
    assert np.quantile(quotients, 0.9) < 1000


def test_the_estimate_covers_the_rounding_of_a_small_error() -> None:
    # Near the teacher W* − W keeps few digits: ‖W‖ eps / ‖E‖ rules.
    for seed in range(5):
        rng = np.random.default_rng(seed)
        case = gaussian((4, 5, 4), seed)
        close = case.net.total + 1e-9 * rng.standard_normal((4, 4))
        near = case._replace(task=ln.Task(close))
        wanted = near.truth()
        found = ln.natural_gradient(near.net, near.task)
        size = total_error(found, wanted.direction)
        assert size <= float(ln.error_estimate(near.net, near.task).relative)
        growth = np.linalg.norm(close, 2) / np.linalg.norm(close - case.net.total, 2)
        assert size <= tolerances.chain(np.float64, case.condition_sum, wanted.cancellation * growth)


@given(square_problems(max_depth=6, max_log_condition=6.0))
def test_hunt_for_the_worst_error_of_square_networks(problem: Problem) -> None:
    # S and Σ cancel where layers are square: their conditions must not enter.
    wanted = truth(problem.net, task_moments(problem.task), problem.task.noise_cov)
    found = ln.natural_gradient(problem.net, problem.task)
    size = error(found, wanted.direction)
    bound = tolerances.chain(
        np.float64, sum(problem.conditions), wanted.cancellation * rounding_of_error(problem)
    )
    target(float(np.log10(max(size, 1e-20) / bound)), label="error / bound")
    assert size <= bound


def rounding_of_error(problem: Problem) -> float:
    """Return max(1, ‖W_L‖⋯‖W_1‖ / ‖E‖): what the rounding of the total weight costs the error."""
    gap = problem.task.goal(problem.net.has_biases) - problem.net.total
    product = np.prod([np.linalg.norm(m, 2) for m in problem.net.maps])
    return max(1.0, float(product / max(np.linalg.norm(gap, 2), 1e-300)))


@pytest.mark.statement("X10")
@given(problems(("tame", "bottleneck", "biases", "ill-conditioned"), max_log_condition=3.0))
def test_hunt_with_moments_noise_and_biases(problem: Problem) -> None:
    net, task = problem.net, problem.task
    wanted = truth(net, task_moments(task, net.has_biases), task.noise_cov)
    found = ln.natural_gradient(net, task)
    size = error(found, wanted.direction)
    maps = [
        np.linalg.cond(m) if m.shape[0] == m.shape[1] else condition_on_range(m, min(m.shape))
        for m in net.maps
    ]
    # Population moments arrive squared: the factors of S and Σ are known to eps κ², p = 2.
    moments = problem.input_condition**2 + problem.noise_condition**2
    scale = wanted.cancellation * rounding_of_error(problem)
    bound = tolerances.chain(np.float64, sum(maps) + moments, scale)
    # Drift: the widths leave room for weak rows; a hidden layer passes on at most its condition.
    drift = np.prod([m for w, m in zip(net.weights, maps, strict=True) if w.shape[0] != w.shape[1]])
    target(float(np.log10(max(size, 1e-20) / (bound * drift))), label="error / bound")
    assert size <= bound * drift


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("hidden", [2, 6])
def test_from_rows_of_data_to_the_natural_gradient(hidden: int, seed: int) -> None:
    # κ(X) = 1e6: the square-root form keeps the digits that XᵀX loses.
    rng = np.random.default_rng(seed)
    x = conditioned(rng, 20, 5, 1e6)
    y = x @ rng.standard_normal((5, 4)) + 1e-8 * rng.standard_normal((20, 4))
    net = ln.LinearNetwork.random((5, hidden, 4), rng=seed)
    wanted = truth(net, partial(exact_moments, x, y))
    conditions = sum(float(np.linalg.cond(w)) for w in net.weights) + 1e6
    bound = tolerances.chain(np.float64, conditions, wanted.cancellation)
    size = error(ln.natural_gradient(net, ln.Task.from_data(x, y)), wanted.direction)
    assert size <= bound
    if hidden == 6:
        assert size < 1e-8
        teacher = np.linalg.solve(x.T @ x, x.T @ y).T
        squared = ln.Task(teacher, x.T @ x / 20)
        assert error(ln.natural_gradient(net, squared), wanted.direction) > 100 * size


def test_nothing_warns_without_need() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(5):
            case = ill_conditioned((6, 6, 3, 6), 1e8, seed)
            ln.natural_gradient(case.net, case.task)


@pytest.mark.parametrize("rung", ["rank-deficient", "singular"])
def test_ranks_of_the_ladder_are_found(rung: str) -> None:
    for seed in range(20):
        problem = make_problem(rung, seed)
        wanted = truth(problem.net, task_moments(problem.task), problem.task.noise_cov)
        ranks = ln.ranks(problem.net, problem.task)
        assert list(zip(ranks.after.tolist(), ranks.before.tolist(), strict=True)) == list(wanted.ranks)
        found = ln.natural_gradient(problem.net, problem.task)
        conditions = sum(problem.conditions) + problem.noise_condition**2 + problem.input_condition**2
        scale = wanted.cancellation * rounding_of_error(problem)
        bound = tolerances.chain(np.float64, conditions, max(scale, 1.0))
        assert error(found, wanted.direction) <= bound, f"seed {seed}"
