"""Does factored damping cost what N7 says: more than exact damping everywhere, √λ at the weak end, never less?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import linnat as ln
from linnat.dense import fisher as by_definition
from linnat.dense import natural as dense
from tests import tolerances
from tests.strategies import Problem, make_problem, problems

pytestmark = pytest.mark.statement("N7")

MASKS = (None, "block-diagonal")
CORRECTIONS = ("trace", "none", "weak")
RUNGS = ("tame", "bottleneck", "rank-deficient", "singular", "biases")


def top(problem: Problem) -> float:
    return float(np.linalg.norm(by_definition.root_jacobian(problem.net, problem.task), 2)) ** 2


def polynomial(coefficients: np.ndarray, step: float) -> float:
    return float(coefficients @ step ** np.arange(3))


@given(problems(RUNGS, max_depth=4, max_width=4), st.floats(-3, 3), st.sampled_from(CORRECTIONS))
def test_it_is_shorter_than_exact_damping_and_no_nearer_than_its_floor(
    problem: Problem, log_strength: float, correction: str
) -> None:
    size = top(problem)
    assume(size > 0)
    found = ln.factored_damping_error(
        problem.net, problem.task, [size * 10**log_strength], "block-diagonal", correction=correction
    )
    error, floor = float(found.relative[0]), float(found.floor[0])
    slack = tolerances.solve(np.float64, problem.net.n_parameters)
    assert floor - slack <= error <= 1 + slack
    # What no π undoes: one half at λ = σ², for every pair of singular vectors at most.
    assert 0 <= floor <= 0.5 + slack


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("rung", RUNGS)
def test_what_the_series_leaves_is_of_the_next_order(rung: str, mask: Any, correction: str) -> None:
    problem = make_problem(rung, 3, (3, 4, 2) if rung in ("tame", "biases") else None)
    net, task = problem.net, problem.task
    options = {"mask": mask, "correction": correction}
    series = ln.factored_damping_series(net, task, **options)
    reach = max(abs(series.weak[2] / series.weak[1]), 1.0)
    for coefficients, start, power in (
        (series.weak, 0.02 / reach, 2),
        (series.strong, 0.02 / top(problem), -2),
    ):
        left = []
        for step in (start, 0.5 * start):
            error = float(ln.factored_damping_error(net, task, [step**power], **options).relative[0])
            left.append(abs(error - polynomial(coefficients, step)))
        assert left[0] / left[1] == pytest.approx(8.0, rel=0.2), (power, left)


def test_one_scalar_layer_by_hand() -> None:
    """β = α = 1, π = 1: factored 1/(1 + s)², exact 1/(1 + s²)."""
    net, task = ln.LinearNetwork([[[2.0]]]), ln.Task([[3.0]])
    strengths = np.array([1e-6, 1e-2, 1.0, 4.0, 1e6])
    root = np.sqrt(strengths)
    found = ln.factored_damping_error(net, task, strengths, "block-diagonal")
    np.testing.assert_allclose(found.relative, 2 * root / (1 + root) ** 2, rtol=1e-12)
    # Here π = 1 is the best for the only pair: the floor is reached.
    np.testing.assert_allclose(found.floor, found.relative, rtol=1e-12)
    series = ln.factored_damping_series(net, task)
    np.testing.assert_allclose(series.weak, [0, 2, -4], atol=1e-12)
    np.testing.assert_allclose(series.strong, [0, 2, -4], atol=1e-12)


@pytest.mark.parametrize("widths", [(3, 4, 2), (4, 2, 3, 3), (3, 3, 3, 3)])
def test_the_weak_correction_has_the_least_first_order_error(widths: tuple[int, ...]) -> None:
    for seed in range(5):
        problem = make_problem("tame", seed, widths)
        found = {
            c: float(
                ln.factored_damping_series(problem.net, problem.task, "block-diagonal", correction=c).weak[1]
            )
            for c in CORRECTIONS
        }
        assert found["weak"] <= min(found["trace"], found["none"]) * (1 + 1e-12)


def test_with_the_correction_the_scale_of_the_moments_drops_out_and_without_it_does_not() -> None:
    rng = np.random.default_rng(0)
    net, teacher = ln.LinearNetwork.random((3, 4, 2), rng=rng), rng.standard_normal((2, 3))
    one = ln.Task(teacher, np.diag([1.0, 2.0, 3.0]), np.diag([1.0, 2.0]))
    other = ln.Task(teacher, 1e-4 * np.diag([1.0, 2.0, 3.0]), 1e-4 * np.diag([1.0, 2.0]))
    for correction in CORRECTIONS:
        pair = [
            ln.factored_damping_error(net, t, [0.1], correction=correction).relative for t in (one, other)
        ]
        same = abs(float(pair[1][0] / pair[0][0]) - 1)
        assert (same < 1e-9) == (correction != "none"), (correction, same)


@pytest.mark.parametrize(("ranks", "rank_s"), [((2, 1), None), ((1, 2), None), ((3, 3), 2), ((0, 2), None)])
def test_singular_factors_have_a_limit_and_it_is_that_of_their_pseudo_inverses(
    ranks: tuple[int, ...], rank_s: int | None
) -> None:
    rung = "rank-deficient" if rank_s is None else "singular"
    options = {"layer_ranks": ranks} if rank_s is None else {"input_rank": rank_s}
    problem = make_problem(rung, 1, (3, 3, 3), **options)
    net, task = problem.net, problem.task
    wanted = ln.natural_gradient(net, task, mask="block-diagonal")
    values = np.linalg.svd(by_definition.root_jacobian(net, task), compute_uv=False)
    bottom = float(values[values > 1e-10 * values[0]].min()) ** 2
    for share in (1e-8, 1e-12, 1e-40, 1e-300):
        found = ln.natural_gradient(
            net, task, damping=share * bottom, damping_kind="factored", mask="block-diagonal"
        )
        tolerances.assert_close(ln.flatten(found), ln.flatten(wanted), 100 * share**0.5 + 1e-12)


def test_a_gradient_from_elsewhere_has_no_limit() -> None:
    """Negative control: outside of the factors' ranges, 1/√λ."""
    outer, slope, norms = np.diag([1.0, 0.0]), np.ones((2, 2)), []
    for damping in (1e-8, 1e-12):
        root = damping**0.5
        norms.append(np.linalg.norm(np.linalg.solve(outer + root * np.eye(2), slope) / (1 + root)))
    assert norms[1] / norms[0] == pytest.approx(100, rel=1e-2)


def test_rtol_decides_the_ranks_and_is_validated() -> None:
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    net = ln.LinearNetwork([turn @ np.diag([1.0, 0.5, 1e-6]), np.eye(3)])
    task, options = ln.Task(rng.standard_normal((3, 3))), {"damping": 1e-30, "damping_kind": "factored"}
    cut = ln.natural_gradient(net, task, rtol=1e-3, **options)
    limit = ln.natural_gradient(net, task, rtol=1e-3, mask="block-diagonal")
    tolerances.assert_close(2 * ln.flatten(cut), ln.flatten(limit), 1e-6)
    whole = ln.natural_gradient(net, task, **options)
    assert np.linalg.norm(ln.flatten(whole)) > 1e3 * np.linalg.norm(ln.flatten(cut))
    for bad in (-1.0, np.nan, "much"):
        with pytest.raises(ln.InputError, match="^rtol"):
            ln.natural_gradient(net, task, rtol=bad, **options)
        with pytest.raises(ln.InputError, match="^rtol"):
            ln.factored_damping_error(net, task, [1.0], rtol=bad)
        with pytest.raises(ln.InputError, match="^rtol"):
            ln.factored_damping_series(net, task, rtol=bad)


def test_exact_blocks_are_those_of_the_definition() -> None:
    for rung, widths in (("tame", (3, 4, 2)), ("bottleneck", (4, 2, 3, 3)), ("biases", (2, 3, 2))):
        problem = make_problem(rung, 5, widths)
        net, task, strength = problem.net, problem.task, 0.3
        exact = ln.flatten(dense.natural_gradient(net, task, damping=strength, mask="block-diagonal"))
        found = ln.natural_gradient(
            net, task, damping=strength, damping_kind="factored", mask="block-diagonal"
        )
        wanted = np.linalg.norm(ln.flatten(found) - exact) / np.linalg.norm(exact)
        error = float(ln.factored_damping_error(net, task, [strength], "block-diagonal").relative[0])
        assert abs(error - wanted) <= tolerances.solve(np.float64, net.n_parameters, 1e2)


def test_stacks_equal_a_loop_and_float32_is_near_float64() -> None:
    rng = np.random.default_rng(3)
    weights = [rng.standard_normal((3, 4, 3)), rng.standard_normal((3, 2, 4))]
    weights[0][1, 3] = 0.0  # another rank in one of them
    weights[1][2] = 0.0  # no gradient in layer 1
    stack, task = ln.LinearNetwork(weights), ln.Task(rng.standard_normal((2, 1, 2, 3)))
    for mask in MASKS:
        found = ln.factored_damping_series(stack, task, mask)
        assert found.weak.shape == found.strong.shape == (2, 3, 3)
        errors = ln.factored_damping_error(stack, task, [0.1, 1.0], mask)
        assert errors.relative.shape == errors.floor.shape == (2, 3, 2)
        for i, j in np.ndindex(2, 3):
            net, single = ln.LinearNetwork([w[j] for w in weights]), ln.Task(task.teacher[i, 0])
            alone = ln.factored_damping_series(net, single, mask)
            tolerances.assert_close(found.weak[i, j], alone.weak, 1e-10)
            tolerances.assert_close(found.strong[i, j], alone.strong, 1e-10)
            floor = ln.factored_damping_error(net, single, [0.1, 1.0], mask).floor
            np.testing.assert_allclose(errors.floor[i, j], floor, atol=1e-12)
    low = ln.LinearNetwork([w[0].astype(np.float32) for w in weights])
    high, single = ln.LinearNetwork([w.astype(np.float64) for w in low.weights]), ln.Task(task.teacher[0, 0])
    pair = [
        ln.factored_damping_error(net, single, [0.1, 1.0], "block-diagonal").relative for net in (low, high)
    ]
    tolerances.assert_close(pair[0], pair[1], tolerances.solve(np.float32, 10, 10.0))
    step = ln.natural_gradient(low, single, damping=0.1, damping_kind="factored")
    assert all(s.dtype == np.float32 for s in step)


def test_at_the_teacher_there_is_nothing_to_damp() -> None:
    net = ln.LinearNetwork([np.eye(2), 2 * np.eye(2)])
    for mask in MASKS:
        found = ln.factored_damping_series(net, ln.Task(2 * np.eye(2)), mask)
        assert not found.weak.any()
        assert not found.strong.any()
        assert not ln.factored_damping_error(net, ln.Task(2 * np.eye(2)), [1.0], mask).relative.any()


def test_bad_input() -> None:
    net, task = ln.LinearNetwork.random((3, 4, 2), rng=0), ln.Task(np.ones((2, 3)))
    for function in (ln.factored_damping_series, lambda *a, **k: ln.factored_damping_error(*a, [1.0], **k)):
        with pytest.raises(ln.InputError, match="^correction: expected one of"):
            function(net, task, correction="pi")
        with pytest.raises(ln.InputError, match="^net"):
            function([np.eye(3)], task)
        with pytest.raises(ln.InputError, match="^task"):
            function(net, ln.Task(np.eye(3)))
        with pytest.raises(ln.ConditionError, match="N4"):
            function(net, task, mask=np.array([[0, 1], [1, 0]]))
        with pytest.raises(ln.InputError, match="^mask"):
            function(net, task, mask="tridiagonal")
    for bad in ([0.0], [-1.0, 1.0], [[1.0]], [np.inf], [np.nan], [1j], "1", []):
        with pytest.raises(ln.InputError, match="^dampings"):
            ln.factored_damping_error(net, task, bad)
