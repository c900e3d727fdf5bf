"""Where does natural flow go on separable data? Against flows and tilted losses; laws, faces, bad input (C8)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

import linnat as ln
from linnat.claims._separable import (
    INTEGRATOR,
    Separable,
    integrated_path,
    log_weights,
    many_classes,
    tilted_path,
    two_classes,
)
from linnat.exact import programs, separable
from tests import tolerances
from tests.strategies import seeds

pytestmark = pytest.mark.statement("C8")

FAR = np.array([3.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e6])
NEAR = FAR[:4]


def draw(seed: int, samples: int, inputs: int) -> Separable:
    return two_classes(np.random.default_rng([8, seed]), samples, inputs)


def program_of(problem: Separable) -> separable.LimitProgram:
    return separable.limit_program(problem.x, problem.labels, problem.initial)


def rounding(problem: Separable, program: separable.LimitProgram) -> float:
    """Return the bound for numbers of the program: p = 1 in κ of the data and of the active constraints."""
    values = np.linalg.svd(problem.rows[:, 0], compute_uv=False)
    condition = values[0] / values[values > 1e-10 * values[0]][-1]
    return tolerances.solve(np.float64, max(problem.x.shape), float(condition) * program.condition)


@given(seeds, st.integers(1, 25), st.integers(1, 6))
def test_the_solution_carries_its_certificate(seed: int, samples: int, inputs: int) -> None:
    problem = draw(seed, samples, inputs)
    found, rows = program_of(problem), problem.rows[:, 0]
    bound = rounding(problem, found)
    start = 1 / (1 + np.exp(rows @ problem.initial))
    # Strong duality: both feasible, and complementary.
    assert (rows @ found.direction >= 1 - bound).all()
    assert (found.dual >= 0).all()
    np.testing.assert_allclose(
        rows.T @ found.dual, rows.T @ start, rtol=0, atol=bound * np.linalg.norm(rows.T @ start)
    )
    np.testing.assert_allclose(found.slack, rows @ found.direction - 1, atol=bound)
    assert not found.slack[found.active].any()
    assert ((found.dual > 0) == found.active).all()
    downhill = rows.T @ start / samples
    assert found.value == pytest.approx(float(downhill @ found.direction), rel=bound)
    assert found.value == pytest.approx(found.dual.mean(), rel=1e-12)
    # Random data are not degenerate.
    assert found.unique
    assert not found.degenerate
    assert found.active.sum() == found.rank == min(samples, inputs)
    unit = separable.limit_direction(problem.x, problem.labels, problem.initial)
    np.testing.assert_allclose(unit * np.linalg.norm(found.direction), found.direction, rtol=1e-12)


def check_rate(problem: Separable, times: np.ndarray) -> separable.LimitProgram:
    """Hold the tilted minimum at all times to the proved rate, and to the expansion with its first correction."""
    found = program_of(problem)
    path = tilted_path(problem.rows, problem.initial, times)
    noise = rounding(problem, found) * (1 + times) * np.linalg.norm(found.direction)
    distance = np.linalg.norm(path - times[:, None] * found.direction, axis=1)
    settled = times >= found.bound_from
    assert (distance[settled] <= found.bound + noise[settled]).all()
    options = problem.x, problem.labels, problem.initial
    line = separable.predictor_expansion(times, *options)
    leading = np.linalg.norm(separable.predictor_expansion(times, *options, corrected=True) - line, axis=1)
    # C/t with C = ‖offset‖: sharp up to the exponentially small terms, here two of the leading one.
    small = leading < 0.03 * found.smallest_dual * np.linalg.norm(found.offset)
    assert (np.linalg.norm(path - line, axis=1)[small] <= 2 * leading[small] + noise[small]).all()
    sharp = np.linalg.norm(found.offset) + 2 * leading + noise
    assert (distance[small] <= sharp[small]).all()
    assert small[-1]
    return found


def test_the_two_limits_agree_on_an_open_set_of_problems_and_differ_on_another() -> None:
    problems = [draw(seed, 20, 4) for seed in range(40)]
    inside = [separable.support_cone(p.x, p.labels, p.initial).inside for p in problems]
    assert 10 <= sum(inside) <= 35


@pytest.mark.parametrize("block", [0, 1, 2, *(pytest.param(b, marks=pytest.mark.slow) for b in range(3, 10))])
def test_a_hundred_problems_against_flow_and_tilted_minimum(block: int) -> None:
    for seed in range(10 * block, 10 * block + 10):
        rng = np.random.default_rng(seed)
        inputs = int(rng.integers(1, 7))
        problem = draw(seed, int(rng.integers(1, 41)), inputs)
        found = check_rate(problem, FAR)
        # The flow integrated in q = e^t p, to t = 100, where it is settled.
        path, weights = integrated_path(problem.rows, problem.initial, NEAR)
        tilted = tilted_path(problem.rows, problem.initial, NEAR)
        scale = np.linalg.norm(found.direction) * found.condition * np.linalg.cond(problem.rows[:, 0])
        np.testing.assert_allclose(path, tilted, rtol=0, atol=1e4 * INTEGRATOR * scale / found.smallest_dual)
        if found.smallest_slack > 0.3:
            np.testing.assert_allclose(weights[-1, :, 0], found.dual, rtol=1e-5, atol=1e-12)
        # e^tℓ → value: exactly, V − Σq = Σ q s.
        q = np.exp(log_weights(problem.rows, tilted_path(problem.rows, problem.initial, FAR[2:3])[0], FAR[2]))
        assert (q[:, 0] * (1 + found.slack)).mean() == pytest.approx(found.value, rel=1e-9)


def test_the_path_of_the_predictor_goes_there() -> None:
    for seed in range(4):
        problem = draw(seed, 20, 3)
        found = program_of(problem)
        times = np.array([1e4, 1e6])
        path = ln.geodesics.predictor(times, problem.x, (problem.labels + 1) / 2, problem.initial)
        line = times[:, None] * found.direction + found.offset
        scale = np.linalg.norm(line, axis=1, keepdims=True)
        extra = np.exp(-times * min(1.0, found.smallest_slack))[:, None]
        assert (np.abs(path - line) / scale <= rounding(problem, found) + 1e3 * extra).all()
        # Negative control: the maximum margin in place of u*, where it is another.
        if not separable.support_cone(problem.x, problem.labels, problem.initial).inside:
            widest = separable.maximum_margin(problem.x, problem.labels).direction
            assert np.abs(path[-1] / times[-1] - widest).max() > 1e-3


@given(seeds, st.integers(2, 15), st.integers(2, 5))
def test_a_linear_map_of_the_inputs_maps_the_limit_but_not_the_maximum_margin(
    seed: int, samples: int, inputs: int
) -> None:
    problem = draw(seed, samples, inputs)
    found, rng = program_of(problem), np.random.default_rng(seed)
    change = rng.standard_normal((inputs, inputs)) + 3 * np.eye(inputs)
    moved = separable.limit_program(
        problem.x @ change, problem.labels, np.linalg.solve(change, problem.initial)
    )
    bound = rounding(problem, found) * np.linalg.cond(change)
    if samples >= inputs:
        tolerances.assert_close(change @ moved.direction, found.direction, bound)
        tolerances.assert_close(change @ moved.offset, found.offset, bound / found.smallest_dual)
    assert (moved.active == found.active).all()
    order = rng.permutation(samples)
    shuffled = separable.limit_program(problem.x[order], problem.labels[order], problem.initial)
    tolerances.assert_close(shuffled.direction, found.direction, bound)
    # A later start on the same path has the same limit.
    later = tilted_path(problem.rows, problem.initial, np.array([1.5]))[0]
    again = separable.limit_program(problem.x, problem.labels, later)
    tolerances.assert_close(again.direction, found.direction, 10 * bound)
    # ... and is 1.5 ahead; the start itself is known to the convergence of the oracle.
    ahead = found.offset + 1.5 * found.direction
    tolerances.assert_close(again.offset, ahead, 1e5 * bound / found.smallest_dual)


@given(seeds, st.integers(1, 5), st.integers(0, 4))
def test_independent_data_have_equal_margins(seed: int, samples: int, more: int) -> None:
    problem = draw(seed, samples, samples + more)
    found = separable.equal_margin_limit(problem.x, problem.labels, problem.initial)
    general = program_of(problem)
    bound = rounding(problem, general)
    tolerances.assert_close(found.direction, general.direction, bound)
    tolerances.assert_close(found.offset, general.offset, bound / general.smallest_dual)
    rows = problem.rows[:, 0]
    np.testing.assert_allclose(rows @ found.direction, 1, atol=bound)
    assert general.active.all()
    assert general.smallest_slack == np.inf
    times = np.array([0.5, 5.0, 50.0])
    margins = ln.geodesics.margins(times, rows @ problem.initial)
    rest = np.log1p(-np.exp(-times)[:, None] / (1 + np.exp(rows @ problem.initial)))
    np.testing.assert_allclose(margins, times[:, None] + found.margin_offset + rest, rtol=1e-13, atol=1e-13)


def test_starts_broadcast_and_single_precision_is_kept() -> None:
    problem = draw(3, 2, 4)
    starts = np.random.default_rng(0).standard_normal((3, 2, 4))
    stacked = separable.equal_margin_limit(problem.x, problem.labels, starts)
    assert stacked.offset.shape == (3, 2, 4)
    for a, b in np.ndindex(3, 2):
        single = separable.equal_margin_limit(problem.x, problem.labels, starts[a, b])
        np.testing.assert_allclose(stacked.offset[a, b], single.offset, rtol=1e-13)
        np.testing.assert_allclose(stacked.margin_offset[a, b], single.margin_offset, rtol=1e-13)
    low = problem.x.astype(np.float32)
    before = low.copy()
    for result in (
        separable.limit_program(low, problem.labels),
        separable.equal_margin_limit(low, problem.labels),
        separable.maximum_margin(low, problem.labels),
        separable.categorical_limit(low, [0, 1]),
    ):
        assert result.direction.dtype == np.float32
    assert separable.predictor_expansion([1.0, 2.0], low, problem.labels, corrected=True).dtype == np.float32
    high = separable.limit_program(low.astype(np.float64), problem.labels).direction
    np.testing.assert_allclose(separable.limit_program(low, problem.labels).direction, high, rtol=1e-6)
    np.testing.assert_array_equal(low, before)


def test_what_spans_less_than_the_inputs_is_solved_in_the_row_space() -> None:
    rng = np.random.default_rng(5)
    flat, labels = rng.standard_normal((9, 2)), np.ones(9)
    flat *= np.sign(flat @ [1.0, 0.5])[:, None]
    basis = np.linalg.qr(rng.standard_normal((5, 2)))[0]
    start = rng.standard_normal(5)
    found = separable.limit_program(flat @ basis.T, labels, start)
    small = separable.limit_program(flat, labels, basis.T @ start)
    assert found.rank == 2
    np.testing.assert_allclose(found.direction, basis @ small.direction, rtol=1e-11)
    np.testing.assert_allclose(found.offset, basis @ small.offset, rtol=1e-10)
    for power in (-120, 120):
        scaled = separable.limit_program(flat * 10.0**power, labels, basis.T @ start * 10.0**-power)
        np.testing.assert_allclose(scaled.direction * 10.0**power, small.direction, rtol=1e-11)


@pytest.mark.parametrize("scale", [-700.0, -40.0, 40.0, 700.0, 5000.0])
def test_starts_far_out(scale: float) -> None:
    problem = draw(11, 3, 3)
    rows = problem.rows[:, 0]
    start = np.linalg.solve(rows, scale * np.array([1.0, 0.99, 0.98]))
    found = separable.limit_program(problem.x, problem.labels, start)
    # Independent data: m = t + log(1 + e^{m(0)}) whatever underflows.
    line = separable.equal_margin_limit(problem.x, problem.labels, start)
    np.testing.assert_allclose(found.direction, line.direction, rtol=1e-9)
    np.testing.assert_allclose(rows @ found.offset, np.logaddexp(0, rows @ start), rtol=1e-9, atol=1e-9)
    assert np.isfinite(found.dual).all()


# Degenerate programs: a face of solutions, and multipliers that are not unique.


def test_a_face_of_solutions_leads_to_its_centroid_and_not_to_the_maximum_margin() -> None:
    rows = np.array([[1.0, 0.0], [2.0, 1.0], [3.0, -1.0]])
    found = separable.limit_program(rows, np.ones(3))
    np.testing.assert_allclose(found.direction, [1.0, 0.5], atol=1e-14)
    assert not found.unique
    assert found.degenerate
    assert found.bound == np.inf
    np.testing.assert_array_equal(found.active, [True, False, False])
    # G_0 is in the cone of the support vector, û is a solution of the program, and yet not the limit.
    cone = separable.support_cone(rows, np.ones(3))
    assert cone.inside
    widest = separable.maximum_margin(rows, np.ones(3))
    np.testing.assert_allclose(widest.direction, [1.0, 0.0], atol=1e-14)
    times = np.array([5.0, 10.0, 18.0])
    path = tilted_path(rows[:, None, :], np.zeros(2), times)
    # The oracle's curvature across the face falls like e^{−1.5t}.
    np.testing.assert_allclose(path[:, 1] / path[:, 0], 0.5, rtol=1e-6)
    error = np.linalg.norm(path - times[:, None] * found.direction - found.offset, axis=1)
    assert (error <= 5 * np.exp(-times) + [0, 0, 1e-6]).all()


def test_nested_faces() -> None:
    # G_0 ∥ e_1; on the face u_1 = 1 the second coordinate is fixed by a first pair of slacks, the third by another.
    rows = np.array(
        [
            [1.0, 0.0, 0.0],
            [2.0, 1.0, 0.0],
            [2.5, -1.0, 0.0],
            [4.0, 0.5, 1.0],
            [5.0, -0.5, -1.0],
        ]
    )
    found = separable.limit_program(rows, np.ones(5))
    # Level 1: u_1 = 1. Level 2: 2 + u_2 = 2.5 − u_2. Level 3: 4.125 + u_3 = 4.875 − u_3.
    np.testing.assert_allclose(found.direction, [1.0, 0.25, 0.375], atol=1e-12)
    times = np.array([2.0, 4.0, 6.0, 8.0])
    path = tilted_path(rows[:, None, :], np.zeros(3), times)
    error = np.linalg.norm(path - times[:, None] * found.direction - found.offset, axis=1)
    assert error[-1] <= 1e-2
    assert (np.diff(np.log(error)) < -0.8).all()
    unfair = np.linalg.norm(path - times[:, None] * np.array([1.0, 0.25, 0.0]) - found.offset, axis=1)
    assert unfair[-1] > 1.0


def test_multipliers_that_are_not_unique_have_the_largest_entropy() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [2.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
    found = separable.limit_program(rows, np.ones(5))
    assert found.unique
    assert found.degenerate
    np.testing.assert_array_equal(found.active, [True, True, False, True, True])
    np.testing.assert_allclose(found.direction, [1.0, 0.0], atol=1e-14)
    assert found.dual[0] == pytest.approx(found.dual[1], rel=1e-12)
    problem = Separable(rows, np.ones(5), np.zeros(2), rows[:, None, :])
    times = np.array([20.0, 30.0, 1e3])
    np.testing.assert_allclose(
        tilted_path(problem.rows, problem.initial, times),
        times[:, None] * found.direction + found.offset,
        rtol=1e-12,
        atol=1e-7,
    )
    weights = np.exp(log_weights(problem.rows, times[1] * found.direction + found.offset, times[1]))[:, 0]
    np.testing.assert_allclose(weights, found.dual, atol=1e-11)
    assert check_rate(problem, FAR).degenerate
    # The same samples twice: the same limit, half of each multiplier's share.
    plain = draw(2, 8, 3)
    once = program_of(plain)
    twice = separable.limit_program(np.repeat(plain.x, 2, axis=0), np.repeat(plain.labels, 2), plain.initial)
    tolerances.assert_close(twice.direction, once.direction, rounding(plain, once))
    tolerances.assert_close(twice.dual, np.repeat(once.dual, 2), 10 * rounding(plain, once))
    assert twice.degenerate
    assert twice.unique
    assert not once.degenerate


@pytest.mark.parametrize(("pair", "unique"), [((0, 1), True), ((3, 8), False)])
def test_real_digits(pair: tuple[int, int], unique: bool) -> None:
    images, classes = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    kept = np.isin(classes, pair)
    x = np.column_stack([images[kept] / 16, np.ones(kept.sum())])
    labels = np.where(classes[kept] == pair[0], 1.0, -1.0)
    found, best = separable.limit_program(x, labels), separable.maximum_margin(x, labels)
    rows, size = labels[:, None] * x, np.linalg.norm(found.direction)
    # Duality certifies u* as a solution; pixels that no image uses leave the rank below 65.
    assert found.unique == unique
    assert found.rank < x.shape[1]
    assert (rows @ found.direction >= 1 - 1e-10).all()
    np.testing.assert_allclose(rows.T @ found.dual, rows.sum(axis=0) / 2, atol=1e-10 * np.abs(rows).sum())
    assert abs(found.direction @ best.direction) * best.margin / size < 0.3
    if unique:
        times = np.array([40.0]) / found.smallest_slack
        path = ln.geodesics.predictor(times, x, (labels + 1) / 2, np.zeros(65))
        line = separable.predictor_expansion(times, x, labels)
        tolerances.assert_close(path, line, tolerances.solve(np.float64, 400, 1e3 * found.condition))
    else:
        # One pixel is used by two images only, with opposite labels and equal weights at the start: G_0 does not see
        # it, and the limit gives both the same slack.
        used = np.flatnonzero((x != 0).sum(axis=0) == 2)
        pairs = [np.flatnonzero(x[:, pixel]) for pixel in used]
        assert any(np.ptp(found.slack[list(two)]) < 1e-9 and found.slack[two[0]] > 1 for two in pairs)


@given(seeds, st.integers(1, 8), st.integers(1, 3))
@example(4488054, 6, 3)  # a sample twice, on a face: three active rows of rank 2
def test_small_integers_with_all_their_coincidences(seed: int, samples: int, inputs: int) -> None:
    rows = np.random.default_rng(seed).integers(-1, 4, (samples, inputs)).astype(float)
    rows[:, 0] = np.abs(rows[:, 0]) + 1
    found = separable.limit_program(rows, np.ones(samples))
    assert (rows @ found.direction >= 1 - 1e-12).all()
    assert found.dual.mean() == pytest.approx(found.value, rel=1e-12)
    np.testing.assert_allclose(rows.T @ found.dual, rows.sum(axis=0) / 2, atol=1e-11)
    slack = min(1.0, found.smallest_slack)
    times = (np.array([12.0, 40.0]) if found.unique else np.array([9.0, 12.0])) / slack
    path = tilted_path(rows[:, None, :], np.zeros(inputs), times)
    error = np.linalg.norm(path - times[:, None] * found.direction - found.offset, axis=1)
    # Exponentially small; on a face the oracle's own curvature is lost soon after.
    assert found.unique or error[0] <= 0.2 * (1 + np.linalg.norm(found.offset))
    assert error[1] <= (1e-9 * times[1] if found.unique else 0.3 * error[0] + 1e-6)


@pytest.mark.parametrize("slack", [0.0, 1e-10, 3e-9, 2e-8, 1e-6])
def test_an_active_set_in_doubt_warns(slack: float) -> None:
    rows = np.array([[1.0, 1.0], [1.0, -1.0], [1.0 + slack, -1e-3]])
    if slack in (0.0, 1e-6):
        found = separable.limit_program(rows, np.ones(3))
        assert found.degenerate == (slack == 0)
        assert found.smallest_slack == pytest.approx(slack, rel=1e-5) if slack else found.active.all()
        return
    with pytest.warns(ln.RankWarning, match="active set undetermined"):
        found = separable.limit_program(rows, np.ones(3))
    np.testing.assert_allclose(found.direction, [1.0, 0.0], atol=1e-4)


@pytest.mark.parametrize("ahead", [17.0, 20.0, 25.0])
def test_a_multiplier_in_doubt_warns(ahead: float) -> None:
    # q*_2 = σ(−ahead) beside q*_1 of order one.
    rows = np.array([[1.0, 1.0], [1.0, -1.0], [9.0, 9.0]])
    start = np.array([ahead / 2, -ahead / 2])
    with pytest.warns(ln.RankWarning, match="active set undetermined"):
        separable.limit_program(rows, np.ones(3), start)
    # Without the third row the data are independent, and nothing is in doubt.
    found = separable.limit_program(rows[:2], np.ones(2), start)
    np.testing.assert_allclose(found.dual, 1 / (1 + np.exp([0.0, ahead])), rtol=1e-12)


# Classes.


@pytest.mark.parametrize("shape", [(8, 3, 3), (14, 2, 4), (5, 6, 3), (20, 3, 2)])
def test_classes_against_flow_and_tilted_minimum(shape: tuple[int, int, int]) -> None:
    problem = many_classes(np.random.default_rng([3, *shape]), *shape)
    found = separable.categorical_limit(problem.x, problem.labels, problem.initial, shape[2])
    assert found.direction.shape == (shape[1], shape[2])
    np.testing.assert_allclose(found.direction.sum(axis=1), 0, atol=1e-12 * np.abs(found.direction).max())
    scores = problem.x @ found.direction
    right = np.take_along_axis(scores, problem.labels[:, None], axis=1)
    wrong = np.arange(shape[2]) != problem.labels[:, None]
    assert (right - scores)[wrong].min() == pytest.approx(1, abs=1e-10)
    np.testing.assert_allclose((right - scores - 1)[wrong], found.slack[wrong], atol=1e-9)
    assert np.isinf(found.slack[~wrong]).all()
    assert not found.dual[~wrong].any()
    times = 40 / min(1.0, found.smallest_slack) * np.array([1.0, 1e3])
    path = tilted_path(problem.rows, problem.initial.ravel(), times)
    line = times[:, None, None] * found.direction + found.offset
    tolerances.assert_close(
        path.reshape(line.shape), line, tolerances.solve(np.float64, 60, 100 * found.condition)
    )
    if found.smallest_slack > 0.1:
        flow, weights = integrated_path(problem.rows, problem.initial.ravel(), np.array([50.0, 100.0]))
        np.testing.assert_allclose(
            flow[1], tilted_path(problem.rows, problem.initial.ravel(), NEAR)[-1], atol=1e-4
        )
        np.testing.assert_allclose(weights[1].sum(), found.dual.sum(), rtol=1e-3)


def test_two_classes_are_the_logistic_case() -> None:
    problem = draw(7, 12, 3)
    found = program_of(problem)
    initial = np.stack([np.zeros(3), problem.initial], axis=1)
    pair = separable.categorical_limit(problem.x, ((problem.labels + 1) / 2).astype(int), initial)
    bound = rounding(problem, found)
    tolerances.assert_close(pair.direction[:, 1] - pair.direction[:, 0], found.direction, bound)
    tolerances.assert_close(pair.offset[:, 1] - pair.offset[:, 0], found.offset, bound / found.smallest_dual)
    tolerances.assert_close(pair.dual.sum(axis=1), found.dual, bound)
    assert pair.value == pytest.approx(found.value, rel=bound)
    # A class without samples keeps away from all of them.
    third = separable.categorical_limit(problem.x, ((problem.labels + 1) / 2).astype(int), n_classes=3)
    assert third.direction.shape == (3, 3)


# Maximum margin and the cone.


@given(seeds, st.integers(1, 20), st.integers(1, 5))
def test_the_maximum_margin_against_another_solver(seed: int, samples: int, inputs: int) -> None:
    problem = draw(seed, samples, inputs)
    rows = problem.rows[:, 0]
    found = separable.maximum_margin(problem.x, problem.labels)
    size = np.linalg.norm(found.direction)
    bound = tolerances.solve(np.float64, samples + inputs, float(size * np.linalg.norm(rows, 2)))
    np.testing.assert_allclose(rows.T @ found.dual, found.direction, atol=bound * size)
    assert (found.dual >= 0).all()
    assert (rows @ found.direction >= 1 - bound).all()
    # No duality gap: certified whatever any solver says.
    assert found.dual.sum() == pytest.approx(size**2, rel=bound)
    assert (found.support >= (found.dual > 0)).all()
    assert found.margin == pytest.approx(1 / size)
    other = minimize(
        lambda u: 0.5 * u @ u,
        found.direction * 1.5,
        jac=lambda u: u,
        constraints={"type": "ineq", "fun": lambda u: (rows @ u - 1) / size, "jac": lambda u: rows / size},
        method="SLSQP",
        options={"ftol": 1e-14 * size**2, "maxiter": 500},
    )
    if other.success:
        np.testing.assert_allclose(other.x, found.direction, rtol=0, atol=1e-5 * size)


@given(seeds, st.integers(2, 25), st.integers(2, 5))
def test_the_limits_agree_exactly_in_the_cone(seed: int, samples: int, inputs: int) -> None:
    problem = draw(seed, samples, inputs)
    found, best = program_of(problem), separable.maximum_margin(problem.x, problem.labels)
    cone = separable.support_cone(problem.x, problem.labels, problem.initial)
    apart = np.linalg.norm(found.direction - best.direction) / np.linalg.norm(best.direction)
    assert cone.inside == (apart <= rounding(problem, found))
    assert (cone.coefficients[~best.support] == 0).all()
    rows = problem.rows[:, 0]
    downhill = rows.T @ (1 / (1 + np.exp(rows @ problem.initial))) / samples
    off = np.linalg.norm(rows.T @ cone.coefficients - downhill) / np.linalg.norm(downhill)
    assert off == pytest.approx(cone.residual, abs=1e-9)
    # A start far out along û has G_0 from support vectors alone: where they span the inputs it is in their cone.
    if best.support.sum() == inputs <= samples:
        slack = (rows @ best.direction - 1)[~best.support].min(initial=np.inf)
        weak = best.dual[best.support].min() / best.dual.max()
        if slack > 0.05 and weak > 0.01:
            turned = 60 / min(slack, 1) * best.direction
            turned -= np.linalg.lstsq(rows[best.support], np.log(best.dual[best.support]))[0]
            assert separable.support_cone(problem.x, problem.labels, turned).inside
            same = separable.limit_program(problem.x, problem.labels, turned)
            tolerances.assert_close(same.direction, best.direction, 100 * rounding(problem, found))


def test_gradient_flow_goes_to_the_maximum_margin_and_natural_flow_does_not() -> None:
    problem = draw(9, 12, 3)
    rows = problem.rows[:, 0]

    def normalised(_: float, w: np.ndarray) -> np.ndarray:
        q = np.exp(-np.logaddexp(0, rows @ w))
        return rows.T @ q / np.logaddexp(0, -rows @ w).sum()

    run = solve_ivp(normalised, (0, 3e3), problem.initial, "LSODA", rtol=1e-9, atol=1e-9)
    end = run.y[:, -1] / np.linalg.norm(run.y[:, -1])
    best = separable.maximum_margin(problem.x, problem.labels)
    limit = separable.limit_direction(problem.x, problem.labels, problem.initial)
    assert end @ best.direction * best.margin > 1 - 1e-5
    assert limit @ best.direction * best.margin < 0.9


# Networks: independent of depth; the null space belongs to the gauge.


def deep_path(
    widths: tuple[int, ...], problem: Separable, times: np.ndarray, gauge: str = "layerwise"
) -> Any:
    """Integrate the natural flow of the layers of a deep linear classifier; return totals (T, d) and the start."""
    net = ln.LinearNetwork.random((*widths, 1), rng=2)
    rows = problem.rows[:, 0]

    def slope(time: float, vector: np.ndarray) -> np.ndarray:
        state = net.replace_layers(ln.unflatten(vector, net))
        q = np.exp(log_weights(problem.rows, state.total[0], time))[:, 0]
        metric = (rows * (q * (1 - q * np.exp(-time)))[:, None]).T @ rows
        change = np.linalg.lstsq(metric, rows.T @ q, rcond=1e-10)[0]
        task = ln.Task(state.total + change, 0.5 * (metric + metric.T))
        return -ln.flatten(ln.natural_gradient(state, task, gauge=gauge))

    run = solve_ivp(slope, (0, times[-1]), ln.flatten(net.layers), "DOP853", times, rtol=1e-9, atol=1e-10)
    totals = [net.replace_layers(ln.unflatten(v, net)).total[0] for v in run.y.T]
    return np.array(totals), net.total[0]


@pytest.mark.parametrize("widths", [(2,), (2, 3), (2, 4, 3)])
def test_every_depth_has_the_limit_of_its_start(widths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((6, 2))
    labels = np.sign(x @ [1.0, 0.7])
    problem = Separable(x, labels, np.zeros(2), (labels[:, None] * x)[:, None, :])
    times = np.array([2.0, 6.0])
    path, start = deep_path(widths, problem, times)
    found = separable.limit_program(x, labels, start)
    np.testing.assert_allclose(path, tilted_path(problem.rows, start, times), atol=1e-5)
    line, corrected = (
        separable.predictor_expansion(6.0, x, labels, start, corrected=c)[0] for c in (False, True)
    )
    assert (
        np.linalg.norm(path[-1] - line) <= 2 * np.linalg.norm(corrected - line) < np.linalg.norm(found.offset)
    )


def test_the_null_space_part_is_the_gauges() -> None:
    problem = draw(1, 2, 4)
    times = np.array([3.0, 6.0])
    (one, start), (other, _) = (
        deep_path((4, 5), problem, times, gauge) for gauge in ("layerwise", "minimum-norm")
    )
    rows = problem.rows[:, 0]
    inside = np.linalg.pinv(rows) @ rows
    line = separable.equal_margin_limit(problem.x, problem.labels, start)
    np.testing.assert_allclose(one @ inside, other @ inside, atol=1e-5)
    np.testing.assert_allclose(
        one @ inside, times[:, None] * line.direction + line.offset, atol=3 * np.exp(-3.0)
    )
    outside = np.eye(4) - inside
    assert np.linalg.norm((one - other) @ outside) > 1e-2


# Bad input.

X = np.array([[1.0, 0.0], [0.5, 1.0], [-1.0, -2.0]])
Y = np.array([1, 1, -1])


@pytest.mark.parametrize(
    "x",
    [
        [[1.0, 0.0], [-1.0, 0.0]],  # contradictory
        [[1.0, 1.0], [-1.0, 1.0], [0.0, -1.0]],
        [[1.0, 0.0], [0.0, 0.0]],  # a sample without inputs
        [[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]],
        [[0.0, 0.0], [0.0, 0.0]],
    ],
)
def test_inseparable_data_are_refused(x: list[list[float]]) -> None:
    labels = np.ones(len(x))
    for call in (
        lambda: separable.limit_program(x, labels),
        lambda: separable.limit_direction(x, labels),
        lambda: separable.maximum_margin(x, labels),
        lambda: separable.support_cone(x, labels),
        lambda: separable.predictor_expansion(1.0, x, labels),
        lambda: separable.categorical_limit(x, np.zeros(len(x))),
    ):
        with pytest.raises(ln.ConditionError, match="separates strictly.*C7"):
            call()


def test_quasi_separable_data_are_refused() -> None:
    # a·u ≥ 0 can be had, but for two opposite samples only with equality; also when rounding blurs it.
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    rows = np.array([[1.0, 0.0, 0.0], [-2.0, 0.0, 0.0], [0.3, 1.0, 0.2], [0.1, 0.5, -1.0]]) @ turn
    for call in (separable.limit_program, separable.maximum_margin):
        with pytest.raises(ln.ConditionError, match="separates strictly"):
            call(rows, np.ones(4))


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"^x: expected finite", lambda: separable.limit_program([[np.nan, 1.0]], [1])),
        (r"^x: expected finite", lambda: separable.maximum_margin([[np.inf, 1.0]], [1])),
        (r"^x: expected 2 dimension", lambda: separable.limit_program([1.0, 2.0], [1, 1])),
        (r"^x: expected a non-empty", lambda: separable.limit_program(np.zeros((0, 2)), [])),
        (r"^x: .*complex", lambda: separable.limit_program(X + 0j, Y)),
        (r"^labels: expected shape \(3,\)", lambda: separable.limit_program(X, [1, 1])),
        (
            r"^labels: expected \+1 or -1, found 0.0. For 0 and 1",
            lambda: separable.limit_program(X, [1, 0, 1]),
        ),
        (r"^labels: .*dtype", lambda: separable.limit_program(X, ["a", "b", "c"])),
        (r"^initial: expected shape \(2\), found", lambda: separable.limit_program(X, Y, [1.0])),
        (r"^initial: expected shape \(2\)", lambda: separable.limit_program(X, Y, np.ones((1, 2)))),
        (r"^initial: expected finite", lambda: separable.support_cone(X, Y, [np.nan, 0.0])),
        (
            r"^initial: expected shape \(…, 2\)",
            lambda: separable.equal_margin_limit(X[:2], Y[:2], np.ones(3)),
        ),
        (r"^rtol: expected a finite number in", lambda: separable.limit_program(X, Y, rtol=-1.0)),
        (r"^rtol: expected a finite number in", lambda: separable.limit_program(X, Y, rtol=0.5)),
        (r"^x: expected 3 independent rows, found rank 2. C8", lambda: separable.equal_margin_limit(X, Y)),
        (r"^times: expected times ≥ 0", lambda: separable.predictor_expansion(-1.0, X, Y)),
        (
            r"^corrected: expected one solution",
            lambda: separable.predictor_expansion(1.0, [[1, 0], [2, 1], [3, -1]], np.ones(3), corrected=True),
        ),
        (r"^labels: expected classes 0, 1, 2", lambda: separable.categorical_limit(X, [0, 1, -1])),
        (r"^labels: expected classes 0, 1, 2", lambda: separable.categorical_limit(X, [0, 1, 0.5])),
        (r"^labels: expected shape", lambda: separable.categorical_limit(X, [0, 1])),
        (
            r"^labels: expected classes below n_classes = 2",
            lambda: separable.categorical_limit(X, [0, 1, 2], None, 2),
        ),
        (r"^n_classes: expected an integer ≥ 2", lambda: separable.categorical_limit(X, [0, 0, 0], None, 1)),
        (
            r"^initial: expected shape \(2, 2\)",
            lambda: separable.categorical_limit(X, [0, 0, 1], np.zeros((3, 2))),
        ),
    ],
)
def test_bad_input(message: str, call: Any) -> None:
    with pytest.raises(ln.InputError, match=message):
        call()


def test_the_ends_of_the_range() -> None:
    for scale in (1e-300, 1e300):
        unit = separable.limit_direction(scale * X, Y)
        np.testing.assert_allclose(unit, separable.limit_direction(X, Y), rtol=1e-12)
    with pytest.raises(ln.RangeError, match="^x, initial: .*float32 in limit_program"):
        separable.limit_program((1e-39 * X).astype(np.float32), Y)


def test_the_kernels_say_what_they_cannot_solve() -> None:
    with pytest.raises(ln.ConvergenceError, match="no minimum"):
        programs.minimise_exponentials(np.array([[1.0]]), np.array([-1.0]), np.zeros(1))
    assert programs.least_distance(np.array([[1.0], [-1.0]]), np.ones(2)) is None
    assert programs.optimal_face(np.array([[1.0], [-1.0]]), np.ones(2), np.ones(1), 1e-8) is None


def test_a_start_beyond_what_the_sums_resolve_is_refused() -> None:
    x, labels = [[1.0, 0.0], [2.0, 1.0], [-2.0, 3.0]], [1, 1, -1]
    near = separable.limit_program(x, labels, [10.0, 10.0])
    np.testing.assert_allclose(near.direction, [1.0, 1 / 3], rtol=1e-9)
    with pytest.raises(ln.ConditionError, match=r"^initial: expected errors .* found ratios down to e\^-90"):
        separable.limit_program(x, labels, [30.0, 30.0])
    # The path itself exists, and its direction is the one that near starts have.
    path = ln.geodesics.predictor(1e6, x, [1.0, 1.0, 0.0], [30.0, 30.0])[0]
    np.testing.assert_allclose(path / 1e6, [1.0, 1 / 3], atol=1e-4)
