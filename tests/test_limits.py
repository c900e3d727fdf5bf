"""What becomes of the answers at the ends? λ → 0 and ∞, t → 0 and ∞, small steps, many samples, single precision.

Rates are fitted, not assumed: an error that should fall like h^p must fall by 10^p when h falls by 10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linnat as ln
from tests import tolerances
from tests.strategies import Problem, condition_on_range, make_problem, problems, seeds, square_problems

F64 = np.float64
Direction = Sequence[np.ndarray]


def gap(found: Direction, wanted: Direction) -> float:
    """Return ‖found − wanted‖ / ‖wanted‖ over all layers."""
    return tolerances.relative_error(ln.flatten(found), ln.flatten(wanted))


def order_of(errors: Sequence[float], steps: Sequence[float]) -> float:
    """Return the slope of log error against log step."""
    return float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


@pytest.mark.statement("N4", "N3")
@pytest.mark.parametrize("widths", [(3, 2), (3, 4, 2), (4, 2, 3), (3, 3, 3, 3), (4, 2, 3, 5)])
def test_weak_damping_tends_to_the_minimum_norm_gauge(widths: tuple[int, ...]) -> None:
    problem = make_problem("tame", 2, widths)
    net, task = problem.net, problem.task
    limit = ln.natural_gradient(net, task, "minimum-norm")
    steps = [1e-4, 1e-5, 1e-6]
    errors = [gap(ln.natural_gradient(net, task, damping=s), limit) for s in steps]
    assert order_of(errors, steps) == pytest.approx(1.0, abs=0.05)
    assert errors[-1] < 1e-2
    if len(widths) > 2:  # The negative control: the layerwise gauge is not the limit.
        layerwise = ln.natural_gradient(net, task)
        assert gap(ln.natural_gradient(net, task, damping=steps[-1]), layerwise) > 10 * errors[-1]


@pytest.mark.statement("N4")
@pytest.mark.parametrize("kind", ["bottleneck", "rank-deficient", "singular", "biases", "tame"])
def test_strong_damping_tends_to_the_gradient_over_lambda(kind: str) -> None:
    problem = make_problem(kind, 5)
    net, task = problem.net, problem.task
    slope = ln.gradient(net, task)
    size = float(np.linalg.norm(ln.fisher(net, task), 2))
    steps = [1e3, 1e4, 1e5]
    errors = []
    for s in steps:
        found = ln.natural_gradient(net, task, damping=s * size)
        errors.append(gap([s * size * u for u in found], slope))
        # (F + λ)⁻¹ = 1/λ − F/λ² + …: the error is at most ‖F‖/λ.
        assert errors[-1] <= 1 / s
    assert order_of(errors, steps) == pytest.approx(-1.0, abs=0.01)


@pytest.mark.statement("N4")
@given(
    problem=problems(("tame", "bottleneck", "singular"), max_depth=3, max_width=4),
    log_strength=st.floats(-3, 3),
)
def test_damping_shortens(problem: Problem, log_strength: float) -> None:
    net, task = problem.net, problem.task
    weak, strong = (ln.natural_gradient(net, task, damping=10.0 ** (log_strength + d)) for d in (0, 1))
    free = ln.natural_gradient(net, task, "minimum-norm")
    lengths = [float(np.linalg.norm(ln.flatten(u))) for u in (free, weak, strong)]
    slack = 1 + tolerances.solve(F64, net.n_parameters, 1e3)
    assert lengths[2] <= lengths[1] * slack
    assert lengths[1] <= lengths[0] * slack


@pytest.mark.statement("C1", "C2")
@given(problem=square_problems(max_size=4, max_depth=4, max_log_condition=1.0))
def test_flows_start_at_the_start(problem: Problem) -> None:
    net, task = problem.net, problem.task
    bound = tolerances.solve(F64, net.depth * net.widths[0], 1e3)
    tolerances.assert_close(ln.flow.natural_total(net, task, 0.0)[0], net.total, bound)
    for now, start in zip(ln.flow.natural_weights(net, task, 0.0), net.weights, strict=True):
        tolerances.assert_close(now[0], start, bound)


def calm(problem: Problem) -> tuple[ln.LinearNetwork, ln.Task]:
    """Return the network with a teacher near its total weight, so that the flow never breaks."""
    near = problem.net.total @ (
        np.eye(problem.net.widths[0]) + 0.3 * np.tanh(problem.task.teacher) / problem.net.widths[0]
    )
    return problem.net, ln.Task(near, problem.task.input_cov, problem.task.noise_cov)


@pytest.mark.statement("C1", "C2")
@given(problem=square_problems(max_size=4, max_depth=4, max_log_condition=0.7))
def test_flows_end_at_the_teacher(problem: Problem) -> None:
    net, task = calm(problem)
    late = 40.0  # e^{-40} is below eps
    bound = tolerances.solve(F64, net.depth * net.widths[0], 10 ** (0.7 * 2 * net.depth))
    tolerances.assert_close(ln.flow.natural_total(net, task, late)[0], task.teacher, bound)
    ends = ln.flow.natural_weights(net, task, [late, 2 * late])
    final = ln.LinearNetwork([w[1] for w in ends])
    tolerances.assert_close(final.total, task.teacher, bound)
    assert float(ln.excess_loss(final, task)) <= bound * (
        1 + np.linalg.norm(task.teacher) ** 2 * np.linalg.norm(task.input_cov)
    )
    for w in ends:
        assert np.abs(w[1] - w[0]).max() <= bound * max(np.abs(w).max(), 1)


@pytest.mark.statement("C1", "C2")
@given(
    problem=square_problems(max_size=4, max_depth=4, max_log_condition=0.7),
    first=st.floats(0.01, 2),
    rest=st.floats(0.01, 2),
)
def test_flows_compose(problem: Problem, first: float, rest: float) -> None:
    net, task = calm(problem)
    halfway = ln.LinearNetwork([w[0] for w in ln.flow.natural_weights(net, task, first)])
    twice, once = (
        ln.flow.natural_weights(halfway, task, rest),
        ln.flow.natural_weights(net, task, first + rest),
    )
    bound = tolerances.solve(F64, net.depth * net.widths[0], 10 ** (0.7 * 2 * net.depth))
    for a, b in zip(twice, once, strict=True):
        tolerances.assert_close(a, b, bound)
    total = ln.flow.natural_total(halfway, task, rest), ln.flow.natural_total(net, task, first + rest)
    tolerances.assert_close(*total, bound)


@pytest.mark.statement("C2", "N1")
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_the_flow_leaves_along_minus_the_natural_gradient(depth: int) -> None:
    problem = make_problem("tame", depth, (3,) * (depth + 1))
    net, task = calm(problem)
    speed = ln.natural_gradient(net, task)
    steps = [1e-2, 1e-3, 1e-4]
    errors = []
    for h in steps:
        moved = ln.flow.natural_weights(net, task, h)
        errors.append(gap([(w - m[0]) / h for w, m in zip(net.weights, moved, strict=True)], speed))
    assert order_of(errors, steps) == pytest.approx(1.0, abs=0.05)
    assert errors[-1] < 1e-3


@pytest.mark.statement("D1", "C2")
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_small_steps_follow_the_flow(depth: int) -> None:
    net, task = calm(make_problem("tame", depth, (3,) * (depth + 1)))
    end = [w[0] for w in ln.flow.natural_weights(net, task, 1.0)]
    errors, counts = [], [50, 100, 200]
    for count in counts:
        walker = net
        for _ in range(count):
            walker = ln.descent.natural_step(walker, task, 1.0 / count)
        errors.append(gap(walker.weights, end))
    # Euler's method is of first order.
    assert order_of(errors, [1 / c for c in counts]) == pytest.approx(1.0, abs=0.1)


@pytest.mark.statement("D1", "X5")
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_plain_and_exact_steps_agree_to_first_order(depth: int) -> None:
    net, task = calm(make_problem("tame", depth, (3,) * (depth + 1)))
    steps = [1e-1, 1e-2, 1e-3]
    errors = []
    for eta in steps:
        plain, exact = ln.descent.natural_step(net, task, eta), ln.descent.exact_step(net, task, eta)
        errors.append(float(np.linalg.norm(plain.total - exact.total)))
        wanted = net.total + eta * (task.teacher - net.total)
        tolerances.assert_close(exact.total, wanted, tolerances.solve(F64, 3 * depth, 10.0**depth))
    assert order_of(errors, steps) == pytest.approx(2.0, abs=0.1)


@pytest.mark.statement("C3")
def test_the_time_of_a_break_tends_to_infinity_as_the_negative_ratio_vanishes() -> None:
    net = ln.LinearNetwork([[[1.0]], [[1.0]]])
    times = [float(ln.flow.breakdown_time(net, ln.Task([[-r]]))) for r in (1.0, 1e-3, 1e-6, 1e-12)]
    assert times == sorted(times)
    # log(1 + 1/r): the last one is log(1e12).
    assert times[-1] == pytest.approx(12 * np.log(10), rel=1e-10)
    assert np.isinf(ln.flow.breakdown_time(net, ln.Task([[1e-12]])))


@pytest.mark.statement("G1", "N2", "F2")
@given(problem=problems(max_depth=4, max_width=4))
def test_at_the_teacher_nothing_moves(problem: Problem) -> None:
    net = problem.net
    total = net.total
    if net.has_biases:
        task = ln.Task(total[:, :-1], problem.task.input_cov, None, total[:, -1], problem.task.input_mean)
    else:
        task = ln.Task(total, problem.task.input_cov, problem.task.noise_cov)
    # What remains is the rounding of the total weight, amplified by the layers.
    norms = float(np.prod([np.linalg.norm(m, 2) or 1.0 for m in net.maps]))
    factor = task.moments(net.has_biases).factor
    noise = float(np.linalg.norm(np.linalg.inv(task.noise_factor), 2))
    scale = norms * (np.linalg.norm(factor, 2) if factor.size else 0) * noise
    assert float(ln.excess_loss(net, task)) <= (tolerances.product(F64, sum(net.widths), 10 * scale)) ** 2
    assert float(ln.loss(net, task)) == pytest.approx(float(task.floor(net.has_biases)), rel=1e-12)


@pytest.mark.statement("G1", "N2")
@pytest.mark.parametrize("gauge", ["layerwise", "minimum-norm"])
def test_exactly_zero_errors_and_zero_weights_give_zero(gauge: str) -> None:
    for weights in ([np.eye(2), 2 * np.eye(2)], [np.zeros((3, 2)), np.zeros((2, 3))], [np.zeros((2, 2))]):
        net = ln.LinearNetwork(weights)
        still = ln.natural_gradient(net, ln.Task(net.total), gauge)
        assert not any(u.any() for u in still)
    # All layers zero: no layer can move the function to first order, whatever the teacher.
    net = ln.LinearNetwork([np.zeros((3, 2)), np.zeros((2, 3))])
    assert not any(u.any() for u in ln.natural_gradient(net, ln.Task(np.eye(2)), gauge))


@pytest.mark.statement("N2")
def test_the_answer_jumps_where_a_rank_drops() -> None:
    task = ln.Task(np.eye(2))
    steps = [1e-2, 1e-3, 1e-4]
    small = [ln.natural_gradient(ln.LinearNetwork([np.eye(2), np.diag([2.0, s])]), task)[0] for s in steps]
    # The layer above a vanishing singular value must move like 1/σ …
    assert order_of([float(np.abs(u).max()) for u in small], steps) == pytest.approx(-1.0, abs=0.01)
    # … but at zero it does not move there at all, and the layer itself takes the whole error.
    net = ln.LinearNetwork([np.eye(2), np.diag([2.0, 0.0])])
    first, second = ln.natural_gradient(net, task)
    assert first[1, 1] == 0
    assert second[1, 1] == pytest.approx(-1.0)


@pytest.mark.statement("X9")
@given(seed=seeds, power=st.sampled_from([-60, -20, 20, 60]))
def test_sizes_of_layers_far_from_one(seed: int, power: int) -> None:
    problem = make_problem("bottleneck", seed, (4, 2, 3, 4))
    factor = 2.0**power
    scaled = ln.LinearNetwork(
        [problem.net.weights[0] * factor, problem.net.weights[1], problem.net.weights[2] / factor]
    )
    plain, found = (ln.natural_gradient(n, problem.task) for n in (problem.net, scaled))
    wanted = [plain[0] * factor, plain[1], plain[2] / factor]
    for a, b in zip(found, wanted, strict=True):
        tolerances.assert_close(a, b, tolerances.chain(F64, 1e3, 1e3))


@pytest.mark.statement("N2", "G1")
@pytest.mark.parametrize("biases", [False, True])
def test_many_samples_tend_to_the_population(biases: bool) -> None:
    rng = np.random.default_rng(11)
    mean, root = np.array([0.5, -1.0, 0.2]), np.array([[1.0, 0, 0], [0.5, 1, 0], [0, 0.3, 0.8]])
    teacher, offset = rng.standard_normal((2, 3)), rng.standard_normal(2)
    population = ln.Task(teacher, root @ root.T + np.outer(mean, mean), None, offset, mean)
    net = ln.LinearNetwork.random((3, 4, 2), rng=3, biases=biases)
    exact = ln.natural_gradient(net, population)
    sizes, errors = [100, 1000, 10_000, 100_000], []
    for n in sizes:
        trials = []
        for _ in range(8):
            x = rng.standard_normal((n, 3)) @ root.T + mean
            y = x @ teacher.T + offset + 0.1 * rng.standard_normal((n, 2))
            trials.append(gap(ln.natural_gradient(net, ln.Task.from_data(x, y)), exact))
        errors.append(float(np.mean(trials)))
    # Sampling errors fall like N^{-1/2}; eight trials leave the slope an uncertainty of about 0.05.
    assert order_of(errors, sizes) == pytest.approx(-0.5, abs=0.15)


SINGLE: dict[str, Callable[[ln.LinearNetwork, ln.Task], Direction]] = {
    "gradient": ln.gradient,
    "natural_gradient": ln.natural_gradient,
    "minimum_norm": lambda n, t: ln.natural_gradient(n, t, "minimum-norm"),
    "damped": lambda n, t: ln.natural_gradient(n, t, damping=0.5),
    "factored": lambda n, t: ln.natural_gradient(n, t, damping=0.5, damping_kind="factored"),
    "block_diagonal": lambda n, t: ln.natural_gradient(n, t, mask="block-diagonal"),
    "fisher": lambda n, t: [ln.fisher(n, t)],
    "hessian": lambda n, t: [ln.hessian(n, t)],
    "total": lambda n, t: [n.total, *n.before, *n.after],
    "induced_change": lambda n, t: [ln.induced_change(n, ln.gradient(n, t))],
    "natural_total": lambda n, t: [ln.flow.natural_total(n, t, [0.1, 1.0])],
    "balance": lambda n, t: [*ln.flow.balance(n)],
    "natural_step": lambda n, t: ln.descent.natural_step(n, t, 0.1).layers,
}


@pytest.mark.statement("X9")
@pytest.mark.parametrize("name", sorted(SINGLE))
@pytest.mark.parametrize("rung", ["tame", "biases"])
def test_single_precision_is_kept_and_is_double_precision_rounded(name: str, rung: str) -> None:
    function = SINGLE[name]
    for seed in range(4):
        problem = make_problem(rung, seed, (3, 4, 3), dtype=np.float32)
        net = problem.net
        biases = None if net.biases is None else [b.astype(F64) for b in net.biases]
        wide = ln.LinearNetwork([w.astype(F64) for w in net.weights], biases)
        factor = problem.task.moments(net.has_biases).factor
        kappa = (
            sum(condition_on_range(m, min(m.shape)) for m in net.maps) + float(np.linalg.cond(factor)) ** 2
        )
        for a, b in zip(function(net, problem.task), function(wide, problem.task), strict=True):
            assert a.dtype == np.float32
            assert b.dtype == np.float64
            scale = float(np.abs(b).max()) or 1.0
            error = float(np.abs(a - b).max()) / scale
            assert error <= tolerances.chain(np.float32, kappa, 10.0)


@pytest.mark.statement("C2", "X5")
def test_single_precision_in_closed_forms_of_layers() -> None:
    net, task = calm(make_problem("tame", 1, (3, 3, 3)))
    single = ln.LinearNetwork([w.astype(np.float32) for w in net.weights])
    wide = ln.LinearNetwork([w.astype(F64) for w in single.weights])
    moved = zip(
        ln.flow.natural_weights(single, task, [0.5, 2.0]),
        ln.flow.natural_weights(wide, task, [0.5, 2.0]),
        strict=True,
    )
    stepped = zip(
        ln.descent.exact_step(single, task, 0.5).weights,
        ln.descent.exact_step(wide, task, 0.5).weights,
        strict=True,
    )
    for a, b in (*moved, *stepped):
        assert a.dtype == np.float32
        tolerances.assert_close(a, b, tolerances.solve(np.float32, 6, 10.0))


@pytest.mark.statement("N3", "C4")
def test_gauges_differ_although_their_effect_does_not() -> None:
    # The negative control of every test above that names a gauge.
    problem = make_problem("tame", 0, (3, 4, 3))
    first, second = (ln.natural_gradient(problem.net, problem.task, g) for g in ("layerwise", "minimum-norm"))
    assert gap(first, second) > 0.01
    changes = [ln.induced_change(problem.net, u) for u in (first, second)]
    tolerances.assert_close(*changes, tolerances.solve(F64, 12, 100.0))
