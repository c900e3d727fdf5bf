"""Does the flow through a bottleneck do what X2 says? Against layers, integrators, extended precision and limits."""

from __future__ import annotations

from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import linnat as ln
from linnat.data import load_data
from linnat.dense.flow import natural_flow, total_along
from tests import tolerances
from tests.strategies import make_problem, orthogonal, seeds

pytestmark = pytest.mark.statement("X2")


def dense(path: ln.bottleneck.Path, at: int = -1) -> np.ndarray:
    return (path.left[..., at, :, :] * path.values[..., at, None, :]) @ np.swapaxes(
        path.right[..., at, :, :], -1, -2
    )


def velocity(matrix: np.ndarray, goal: np.ndarray, rank: int) -> np.ndarray:
    left, values, right = np.linalg.svd(matrix)
    p, q = left[:, :rank] @ left[:, :rank].T, right[:rank].T @ right[:rank]
    error = goal - (left[:, :rank] * values[:rank]) @ right[:rank]
    return p @ error + error @ q - p @ error @ q


def draw(seed: int, rows: int, columns: int, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(s) for s in ((rows, rank), (columns, rank), (rows, columns)))


@pytest.mark.parametrize("widths", [(4, 1, 3), (5, 2, 4), (4, 3, 2, 5), (4, 2, 2, 3), (3, 5, 2, 6, 4)])
def test_layers_of_any_depth_multiply_out_to_the_path(widths: tuple[int, ...]) -> None:
    problem = make_problem("bottleneck", 3, widths)
    times = np.array([0.0, 0.4, 1.5])
    claimed = ln.bottleneck.natural_total(problem.net, problem.task, times, 1e-11)
    for gauge in ("layerwise", "minimum-norm") if len(widths) < 5 else ("layerwise",):
        layers = natural_flow(problem.net, problem.task, times, gauge, rtol=1e-9)
        tolerances.assert_close(total_along(problem.net, layers), claimed, 1e-7)
    # Negative control: C1's line.
    net, goal = problem.net, problem.task.teacher
    line = goal + np.exp(-times)[:, None, None] * (net.total - goal)
    assert tolerances.relative_error(line[1:], claimed[1:]) > 1e-2


def test_singular_inputs_and_biases() -> None:
    rng = np.random.default_rng(0)
    net = ln.LinearNetwork([rng.standard_normal((2, 5)), rng.standard_normal((4, 2))])
    task = ln.Task(rng.standard_normal((4, 5)), np.diag([3.0, 2, 1, 0.5, 0]))
    layers = natural_flow(net, task, [0.7])
    on_range = np.diag([1.0, 1, 1, 1, 0])
    claimed = ln.bottleneck.natural_total(net, task, 0.7, 1e-11)
    tolerances.assert_close(total_along(net, layers) @ on_range, claimed, 1e-7)
    mean = rng.standard_normal(4)
    net = ln.LinearNetwork([rng.standard_normal((2, 4)), rng.standard_normal((3, 2))],
                           [rng.standard_normal(2), rng.standard_normal(3)])  # fmt: skip
    task = ln.Task(rng.standard_normal((3, 4)), 2 * np.eye(4) + np.outer(mean, mean), np.diag([1.0, 2, 3]),
                   rng.standard_normal(3), mean)  # fmt: skip
    assert ln.bottleneck.width(net, task) == 2
    claimed = ln.bottleneck.natural_total(net, task, [0.0, 0.7], 1e-11)
    tolerances.assert_close(claimed[0], net.total, tolerances.solve(np.float64, 5, 30.0))
    tolerances.assert_close(total_along(net, natural_flow(net, task, [0.7])), claimed[1:], 1e-7)


def test_layers_of_lower_rank_are_a_bottleneck_of_their_rank() -> None:
    rng = np.random.default_rng(6)
    first = rng.integers(-2, 3, (3, 4)).astype(float)
    first[2] = first[0] + first[1]
    second = rng.integers(-2, 3, (4, 3)).astype(float)
    second[:, 2] = second[:, 0] - second[:, 1]
    net, task = ln.LinearNetwork([first, second]), ln.Task(3 * rng.standard_normal((4, 4)))
    assert ln.bottleneck.width(net, task) == 2
    # At the start only: the velocity is the tangential part of the error at rank 2.
    step = -ln.induced_change(net, ln.natural_gradient(net, task))
    tolerances.assert_close(
        step, velocity(net.total, task.teacher, 2), tolerances.solve(np.float64, 8, 100.0)
    )
    early = ln.bottleneck.natural_total(net, task, 1e-6)[0]
    tolerances.assert_close((early - net.total) / 1e-6, step, 1e-4)


def test_random_starts_do_not_break() -> None:
    # Where the square layerwise flow breaks for at least half of the starts (X4), singular vectors have room to turn.
    closest = []
    for seed in range(6):
        left, right, goal = draw(seed, 4, 4, 3)
        path = ln.bottleneck.low_rank_flow(left, right, goal, np.linspace(0, 4, 41), 1e-8)
        closest.append(float(path.values[:, -1].min() / path.values[-1, 0]))
        run = solve_ivp(
            lambda _, w, goal=goal: velocity(w.reshape(4, 4), goal, 3).ravel(), (0.0, 4.0), (left @ right.T).ravel(),
            "DOP853", rtol=1e-9, atol=1e-11)  # fmt: skip
        tolerances.assert_close(dense(path), run.y[:, -1].reshape(4, 4), 1e-5)
    assert min(closest) > 1e-3


def test_without_a_goal_the_start_shrinks_and_steps_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right, goal = draw(0, 4, 3, 2)
    for rank in (1, 2):
        path = ln.bottleneck.low_rank_flow(left[:, :rank], right[:, :rank], 0 * goal, [0.0, 2.0])
        wanted = np.exp(-2.0) * left[:, :rank] @ right[:, :rank].T
        tolerances.assert_close(dense(path), wanted, tolerances.backward(np.float64, 16))
    monkeypatch.setattr("linnat.exact.low_rank.MAX_STEPS", 3)
    with pytest.raises(ln.ConvergenceError, match="^tolerance: 3 steps"):
        ln.bottleneck.low_rank_flow(left, right, goal, 5.0)


@settings(max_examples=10)
@given(seeds, st.integers(2, 6), st.integers(2, 6), st.integers(1, 3))
def test_laws_of_the_flow(seed: int, rows: int, columns: int, rank: int) -> None:
    rank = min(rank, rows - 1, columns - 1)
    left, right, goal = draw(seed, rows, columns, rank)
    first = ln.bottleneck.low_rank_flow(left, right, goal, [0.0, 0.3, 1.0], 1e-9)
    tolerances.assert_close(dense(first, 0), left @ right.T, tolerances.backward(np.float64, 8))
    # Composition: from 0.3 on for 0.7.
    middle = first.left[1] * first.values[1], first.right[1]
    second = ln.bottleneck.low_rank_flow(*middle, goal, 0.7, 1e-9)
    # Errors grow as the flow lets them: a start that differs by 1e-6 tells how.
    rng = np.random.default_rng(seed)
    other = (
        left * (1 + 1e-6 * rng.standard_normal(left.shape)),
        right * (1 + 1e-6 * rng.standard_normal(right.shape)),
    )
    beside = ln.bottleneck.low_rank_flow(*other, goal, [0.0, 0.3, 1.0], 1e-9)
    growth = max(1.0, *(tolerances.relative_error(dense(beside, k), dense(first, k)) / 1e-6 for k in (1, 2)))
    bound = 10 * growth * (float(first.error[-1] + second.error[-1]) + tolerances.backward(np.float64, 8))
    assert tolerances.relative_error(dense(second), dense(first)) <= bound
    assert (np.diff(first.excess) <= 1e-9 * first.excess[0]).all()
    # A rotation of both sides goes along.
    u, v = orthogonal(rng, rows), orthogonal(rng, columns)
    turned = ln.bottleneck.low_rank_flow(u @ left, v @ right, u @ goal @ v.T, [0.0, 0.3, 1.0], 1e-9)
    assert tolerances.relative_error(u @ dense(first, 1) @ v.T, dense(turned, 1)) <= bound


def test_the_tolerance_is_kept_and_the_order_is_four() -> None:
    left, right, goal = draw(5, 6, 5, 2)
    run = solve_ivp(lambda _, w: velocity(w.reshape(6, 5), goal, 2).ravel(), (0.0, 2.0), (left @ right.T).ravel(),
                    "DOP853", rtol=1e-12, atol=1e-13)  # fmt: skip
    truth = run.y[:, -1].reshape(6, 5)
    for tolerance in (1e-5, 1e-7, 1e-9):
        path = ln.bottleneck.low_rank_flow(left, right, goal, 2.0, tolerance)
        # The estimates are those of the coarser of two results: errors are well below their sum.
        assert tolerances.relative_error(dense(path), truth) <= float(path.error[-1]) <= 1e4 * tolerance
    from linnat.exact import low_rank

    outer, diagonal, inner = np.linalg.svd(goal)
    start = low_rank.factorise(outer.T @ left, inner @ right)
    gaps = [low_rank._doubled(start, diagonal, step)[1] for step in (0.1, 0.05, 0.025)]
    orders = np.log2(np.array(gaps[:-1]) / gaps[1:])
    assert (orders > 4.5).all()  # a local error of order five
    assert (orders < 5.6).all()


@pytest.mark.parametrize("small", [1e-3, 1e-7, 1e-11])
def test_small_singular_values_do_no_harm(small: float) -> None:
    left, right, goal = draw(2, 3, 3, 2)
    left, right = np.linalg.qr(left)[0] * [1.0, small], np.linalg.qr(right)[0]
    # Below σ_r the path depends on its start like a fractional power: the tolerance must see σ_r.
    path = ln.bottleneck.low_rank_flow(left, right, goal, 0.5, min(1e-10, 0.1 * small))

    # Koch and Lubich's equations, with S⁻¹: steps as small as σ_r at the start.
    def slope(_: float, y: np.ndarray) -> np.ndarray:
        u, s, v = y[:6].reshape(3, 2), y[6:10].reshape(2, 2), y[10:].reshape(3, 2)
        gv, gu = goal @ v, goal.T @ u
        du = (gv - u @ (u.T @ gv)) @ np.linalg.solve(s, np.eye(2))
        dv = (gu - v @ (v.T @ gu)) @ np.linalg.solve(s.T, np.eye(2))
        return np.concatenate([du.ravel(), (u.T @ gv).ravel(), dv.ravel()])

    start = np.concatenate([(left / [1.0, small]).ravel(), np.diag([1.0, small]).ravel(), right.ravel()])
    run = solve_ivp(slope, (0.0, np.expm1(0.5)), start, "DOP853", rtol=1e-11, atol=1e-3 * small,
                    first_step=1e-3 * small)  # fmt: skip
    end = run.y[:, -1]
    truth = np.exp(-0.5) * end[:6].reshape(3, 2) @ end[6:10].reshape(2, 2) @ end[10:].reshape(3, 2).T
    tolerances.assert_close(dense(path), truth, 1e-8)


@settings(max_examples=10)
@given(seeds, st.integers(2, 6), st.integers(2, 6))
def test_rank_one_is_the_same_by_closed_form(seed: int, rows: int, columns: int) -> None:
    left, right, goal = draw(seed, rows, columns, 1)
    path = ln.bottleneck.rank_one_flow(left, right, goal, [0.0, 0.2, 1.0, 3.0])
    truth = solve_ivp(
        lambda _, w: velocity(w.reshape(rows, columns), goal, 1).ravel(), (0.0, 1.0), (left @ right.T).ravel(),
        "DOP853", t_eval=[0.2, 1.0], rtol=1e-11, atol=1e-13)  # fmt: skip
    smallest = float(path.values.min() / np.linalg.norm(goal))
    for k, w in enumerate(truth.y.T, 1):
        # The path may come close to zero, where it is sensitive.
        assert (
            tolerances.relative_error(dense(path, k), w.reshape(rows, columns))
            <= 1e-7 / min(1.0, smallest) ** 2
        )


def test_rank_one_against_extended_precision() -> None:
    left, right, goal = draw(9, 3, 2, 1)
    path = ln.bottleneck.rank_one_flow(left, right, goal, [1e-6, 2.5])
    mp.mp.dps = 25
    k = mp.matrix(np.block([[np.zeros((3, 3)), goal], [goal.T, np.zeros((2, 2))]]).tolist())
    values, vectors = mp.eigsy(k)
    u0, v0 = (mp.matrix((x / 1).ravel().tolist()) for x in (left, right))
    size = mp.norm(u0) * mp.norm(v0)
    x0 = mp.matrix([*(u0 / mp.norm(u0)), *(v0 / mp.norm(v0))])
    inside = vectors.T * x0

    def sigma(tau: mp.mpf) -> mp.mpf:
        return size * mp.sqrt(
            sum(c**2 * mp.exp(2 * e * tau) for c, e in zip(inside, values, strict=True)) / 2
        )

    for at, t in enumerate((mp.mpf(1e-6), mp.mpf("2.5"))):
        first = t / size if t < 1 else (t + 1) / values[len(values) - 1]
        tau = mp.findroot(
            lambda x, t=t: mp.log(mp.quad(sigma, mp.linspace(0, x, 6)) / mp.expm1(t)),
            (first / 2, 2 * first),
            solver="illinois",
        )
        moved = vectors * mp.matrix([mp.exp(e * tau) * c for c, e in zip(inside, values, strict=True)])
        a, b = moved[:3], moved[3:]
        scale = mp.exp(-t) * sigma(tau) / (mp.norm(a) * mp.norm(b))
        truth = np.array([[float(scale * x * y) for y in b] for x in a])
        bound = tolerances.product(np.float64, 8, float(1 + t + tau * values[len(values) - 1]))
        tolerances.assert_close(dense(path, at), truth, bound)
    mp.mp.dps = 15


def test_rank_one_at_extreme_times_and_scales() -> None:
    left, right, goal = draw(3, 4, 4, 1)
    outer, values, inner = np.linalg.svd(goal)
    best = values[0] * np.outer(outer[:, 0], inner[0])
    for scale in (1e-150, 1.0, 1e150):
        path = ln.bottleneck.rank_one_flow(scale * left, right, goal, [0.0, 1e-300, 1e4])
        tolerances.assert_close(dense(path, 1) / scale, left @ right.T, tolerances.backward(np.float64, 8))
        tolerances.assert_close(dense(path, 2), best, tolerances.product(np.float64, 8, 1e4))


def test_rank_one_that_shrinks_to_zero_says_when() -> None:
    # u_0 v_0ᵀ = −u_1 v_1ᵀ: only the decaying part. σ = σ_0 e^{−sτ}, whose integral is σ_0/s.
    left, right = np.array([[2.0], [0.0]]), np.array([[-1.0], [0.0]])
    with pytest.raises(ln.FlowBreakdownError, match="X2") as caught:
        ln.bottleneck.rank_one_flow(left, right, np.diag([3.0, 1.0]), 1.0)
    assert caught.value.time == pytest.approx(np.log1p(2 / 3), rel=1e-13)
    path = ln.bottleneck.rank_one_flow(left, right, np.diag([3.0, 1.0]), 0.5)
    # C1's scalar line until then.
    assert float(path.values[0, 0]) == pytest.approx(-(3 + np.exp(-0.5) * (-2 - 3)), rel=1e-12)
    # A tiny part along the second pair turns it round in time: it passes zero at a distance.
    tilt = np.array([[0.0], [1e-2]])
    turned = ln.bottleneck.rank_one_flow(left + tilt, right, np.diag([3.0, 1.0]), [0.5, 5.0])
    assert turned.values.min() > 0
    run = solve_ivp(lambda _, w: velocity(w.reshape(2, 2), np.diag([3.0, 1.0]), 1).ravel(), (0.0, 5.0),
                    ((left + tilt) @ right.T).ravel(), "DOP853", rtol=1e-11, atol=1e-14)  # fmt: skip
    tolerances.assert_close(dense(turned), run.y[:, -1].reshape(2, 2), 1e-5)


@pytest.mark.parametrize(("rows", "columns", "rank"), [(4, 3, 1), (3, 5, 2), (4, 4, 2)])
def test_eigenvalues_are_those_of_differences(rows: int, columns: int, rank: int) -> None:
    rng = np.random.default_rng(rows)
    goal = rng.standard_normal((rows, columns))
    left, values, right = np.linalg.svd(goal)
    found = ln.bottleneck.equilibria(values, rank)
    step = 1e-5
    for subset, excess, slowest in zip(*found, strict=True):
        u, s, v = left[:, subset], values[subset], right[subset]
        at = (u * s) @ v
        assert (
            np.abs(velocity(at, goal, rank)).max()
            <= tolerances.backward(np.float64, rows + columns) * values[0]
        )
        claimed = ln.bottleneck.linearised_eigenvalues(values, subset, (rows, columns))
        assert len(claimed) == rank * (rows + columns - rank)
        assert float(excess) == pytest.approx(0.5 * ((goal - at) ** 2).sum(), rel=1e-12)
        assert float(slowest) == pytest.approx(-claimed[0], abs=1e-12)
        outer, inner = np.linalg.svd(u)[0], np.linalg.svd(v)[2]
        basis = [
            np.outer(outer[:, a], inner[b])
            for a in range(rows)
            for b in range(columns)
            if a < rank or b < rank
        ]
        matrix = np.array([[((velocity(at + step * x, goal, rank) - velocity(at - step * x, goal, rank)) * y).sum()
                            / (2 * step) for y in basis] for x in basis])  # fmt: skip
        growth = (values[0] / s.min()) ** 3
        found_values = np.sort(np.linalg.eigvals(matrix).real)[::-1]
        bound = tolerances.difference(2, step, 100 * growth)
        np.testing.assert_allclose(found_values, claimed, rtol=0, atol=bound)


def test_the_best_approximation_alone_attracts_at_its_rate() -> None:
    rng = np.random.default_rng(7)
    values = np.array([4.0, 3.0, 2.2, 1.0])
    left, right = orthogonal(rng, 5)[:, :4], orthogonal(rng, 4)
    goal = (left * values) @ right
    times = np.array([18.0, 26.0])
    for seed in range(2):
        first, second, _ = draw(seed, 5, 4, 2)
        path = ln.bottleneck.low_rank_flow(first, second, goal, times, 1e-8)
        best = (left[:, :2] * values[:2]) @ right[:2]
        gaps = [np.linalg.norm(dense(path, k) - best) for k in range(2)]
        measured = np.log(gaps[0] / gaps[1]) / (times[1] - times[0])
        # The next rate is 1 − s_4/s_2 or 1 − s_3/s_1: e^{−0.18 · 18} of the first.
        assert measured == pytest.approx(float(ln.bottleneck.rate(values, 2)), rel=0.02)
    # A start on a saddle stays on it; beside it, leaves at its positive eigenvalue.
    kept = [0, 2]
    top = ln.bottleneck.linearised_eigenvalues(values, kept, (5, 4))[0]
    assert float(top) == pytest.approx(3.0 / 2.2 - 1)
    start = left[:, kept] * values[kept]
    push = 1e-7 * left[:, [1]] * [0.0, 1.0]
    path = ln.bottleneck.low_rank_flow(start + push, right[kept].T, goal, [0.0, 8.0, 12.0], 1e-12)
    saddle = start @ right[kept]
    gaps = [np.linalg.norm(dense(path, k) - saddle) for k in range(3)]
    assert np.log(gaps[2] / gaps[1]) / 4 == pytest.approx(float(top), rel=0.01)


def test_digits_find_their_principal_components_at_the_predicted_rate() -> None:
    data = load_data("digits")
    task = ln.Task.from_data(data.x, data.x)
    cov = data.x.T @ data.x / len(data.x)
    eigenvalues = np.linalg.eigvalsh(cov)[::-1]
    values = ln.bottleneck.target_values(task)
    np.testing.assert_allclose(values[:20], np.sqrt(eigenvalues[:20]), rtol=1e-10)
    predicted = 1 - np.sqrt(eigenvalues[3] / eigenvalues[2])
    assert float(ln.bottleneck.rate(values, 3)) == pytest.approx(predicted, rel=1e-9)
    net = ln.LinearNetwork.random((64, 3, 64), rng=0)
    times = np.array([0.0, 8 / predicted, 12 / predicted])
    path = ln.bottleneck.natural_path(net, task, times, 1e-8)
    floor = 0.5 * (values[3:] ** 2).sum()
    gaps = path.excess[1:] - floor
    assert np.log(gaps[0] / gaps[1]) / (2 * (times[2] - times[1])) == pytest.approx(predicted, rel=0.01)
    principal = np.linalg.eigh(cov)[1][:, -3:]
    end = ln.bottleneck.natural_total(net, task, 20 / predicted, 1e-8)[-1]
    on_range = task.input_factor @ np.linalg.pinv(task.input_factor)
    np.testing.assert_allclose(end, principal @ principal.T @ on_range, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_mnist_moments_at_the_predicted_rate(mnist_folder: Path) -> None:
    data = load_data(mnist_folder)
    x = data.x[:20_000].astype(np.float64)
    task = ln.Task.from_data(x, x)
    values = ln.bottleneck.target_values(task)
    predicted = float(ln.bottleneck.rate(values, 4))
    net = ln.LinearNetwork.random((784, 4, 784), rng=0)
    path = ln.bottleneck.natural_path(net, task, np.array([10.0, 14.0]) / predicted, 1e-9)
    left, best, right = np.linalg.svd(task.plain.target, full_matrices=False)
    wanted = (left[:, :4] * best[:4]) @ right[:4]
    gaps = [np.linalg.norm(dense(path, k) - wanted) for k in range(2)]
    assert np.log(gaps[0] / gaps[1]) / (4 / predicted) == pytest.approx(predicted, rel=0.01)


def test_stacks_equal_a_loop_and_float32_is_kept() -> None:
    net = ln.LinearNetwork.random((4, 2, 3), rng=0, batch_shape=(2, 1))
    task = ln.Task(np.random.default_rng(1).standard_normal((3, 3, 4)))
    totals = ln.bottleneck.natural_total(net, task, [0.0, 0.5])
    assert totals.shape == (2, 3, 2, 3, 4)
    for a, b in np.ndindex(2, 3):
        single = ln.LinearNetwork([w[a, 0] for w in net.weights])
        alone = ln.bottleneck.natural_total(single, ln.Task(task.teacher[b]), [0.0, 0.5])
        np.testing.assert_allclose(totals[a, b], alone, rtol=1e-9, atol=1e-12)
    low = ln.LinearNetwork([w[0, 0].astype(np.float32) for w in net.weights])
    path = ln.bottleneck.natural_path(low, ln.Task(task.teacher[0]), 0.5)
    assert {f.dtype for f in path} == {np.dtype(np.float32)}
    assert ln.bottleneck.natural_total(low, ln.Task(task.teacher[0]), 0.5).dtype == np.float32
    assert ln.bottleneck.rate(np.array([2, 1], np.float32), 1).dtype == np.float32
    assert ln.bottleneck.linearised_eigenvalues(np.array([2, 1], np.float32), [0], (2, 2)).dtype == np.float32


def test_where_nothing_is_confined_c1_is_named() -> None:
    for widths in ((3, 4, 3), (3, 3), (3, 3, 3)):
        with pytest.raises(ln.ConditionError, match="C1"):
            ln.bottleneck.natural_total(ln.LinearNetwork.random(widths, rng=0), ln.Task(np.eye(3)), 1.0)
    # rank S = 2 is no more than the layers pass on.
    with pytest.raises(ln.ConditionError, match="C1"):
        ln.bottleneck.width(
            ln.LinearNetwork.random((3, 2, 3), rng=0), ln.Task(np.eye(3), np.diag([1.0, 1, 0]))
        )
    # The layers can express rank 2, the total weight has rank 1: N2 says where it goes.
    net = ln.LinearNetwork([np.diag([1.0, 0.0, 0.0])[:2], np.eye(3)[:, :2]])
    with pytest.raises(ln.ConditionError, match="N2"):
        ln.bottleneck.width(net, ln.Task(np.eye(3)))
    left, right, goal = draw(0, 3, 3, 2)
    with pytest.raises(ln.ConditionError, match="independent columns"):
        ln.bottleneck.low_rank_flow(left * [1.0, 0.0], right, goal, 1.0)
    with pytest.raises(ln.ConditionError, match="C1"):
        ln.bottleneck.low_rank_flow(*draw(0, 3, 2, 2), 1.0)
    with pytest.raises(ln.ConditionError, match="s_2 > 0"):
        ln.bottleneck.rate([1.0, 0.0], 2)
    with pytest.raises(ln.ConditionError, match="positive singular values"):
        ln.bottleneck.linearised_eigenvalues([1.0, 0.0], [1], (2, 2))


def test_bad_input() -> None:
    net, task = ln.LinearNetwork.random((3, 1, 3), rng=0), ln.Task(np.eye(3))
    left, right, goal = draw(0, 3, 4, 1)
    for call, name in (
        (lambda: ln.bottleneck.natural_path([np.eye(3)], task, 1.0), "net"),
        (lambda: ln.bottleneck.natural_path(net, ln.Task(np.eye(2)), 1.0), "task"),
        (lambda: ln.bottleneck.natural_path(net, task, -1.0), "times"),
        (lambda: ln.bottleneck.natural_path(net, task, [np.nan]), "times"),
        (lambda: ln.bottleneck.natural_total(net, task, 1.0, tolerance=0.0), "tolerance"),
        (lambda: ln.bottleneck.natural_total(net, task, 1.0, tolerance="fine"), "tolerance"),
        (lambda: ln.bottleneck.low_rank_flow(left + 0j, right, goal, 1.0), "left"),
        (lambda: ln.bottleneck.low_rank_flow(left, right[:3], goal, 1.0), "right"),
        (lambda: ln.bottleneck.low_rank_flow(left, np.ones((4, 2)), goal, 1.0), "right"),
        (lambda: ln.bottleneck.low_rank_flow(left, right, [goal, goal], 1.0), "goal"),
        (lambda: ln.bottleneck.low_rank_flow(left, right, np.full((3, 4), np.inf), 1.0), "goal"),
        (lambda: ln.bottleneck.rank_one_flow(np.eye(3)[:, :2], np.eye(4)[:, :2], goal, 1.0), "left"),
        (lambda: ln.bottleneck.target_values(np.eye(2)), "task"),
        (lambda: ln.bottleneck.rate([1.0, 2.0], 1), "values"),
        (lambda: ln.bottleneck.rate([2.0, 1.0], 3), "rank"),
        (lambda: ln.bottleneck.rate([2.0, -1.0], 1), "values"),
        (lambda: ln.bottleneck.equilibria([2.0, 2.0, 1.0], 1), "values"),
        (lambda: ln.bottleneck.equilibria(np.arange(60.0, 0, -1), 20), "values, rank"),
        (lambda: ln.bottleneck.linearised_eigenvalues([2.0, 1.0], [0, 0], (2, 2)), "subset"),
        (lambda: ln.bottleneck.linearised_eigenvalues([2.0, 1.0], 0, (2, 2)), "subset"),
        (lambda: ln.bottleneck.linearised_eigenvalues([2.0, 1.0], [0], (3, 3)), "shape"),
        (lambda: ln.bottleneck.linearised_eigenvalues([2.0, -1.0], [0], (2, 2)), "values"),
    ):
        with pytest.raises(ln.InputError, match=f"^{name}"):
            call()


def test_the_ends_of_the_range() -> None:
    net, task = ln.LinearNetwork([np.ones((1, 3)), np.ones((3, 1))]), ln.Task(np.diag([3.0, 2.0, 1.0]))
    large, side = ln.LinearNetwork([1e200 * w for w in net.weights]), 1e200 * np.ones((2, 1))
    for call in (
        lambda: ln.bottleneck.natural_path(large, task, 1.0),
        lambda: ln.bottleneck.natural_total(large, task, 1.0),
        lambda: ln.bottleneck.low_rank_flow(side, side, np.eye(2), 1.0),
        lambda: ln.bottleneck.rank_one_flow(side, side, np.eye(2), 1.0),
        lambda: ln.bottleneck.equilibria([1e200, 1.0], 1),
        lambda: ln.bottleneck.linearised_eigenvalues([2.0, 1e-310], [1], (2, 2)),
    ):
        with pytest.raises(ln.RangeError):
            call()
    with pytest.raises(ln.ConvergenceError, match="^times: .* after 200000 panels"):
        ln.bottleneck.natural_path(net, task, 1e300)
    with pytest.raises(ln.InputError, match="^shape: expected two sizes"):
        ln.bottleneck.linearised_eigenvalues([2.0, 1.0], [0], 5)  # type: ignore[arg-type]
