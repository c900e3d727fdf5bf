"""Is the natural gradient a solution, and the one of its gauge? Against dense solves by definition, on the ladder."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import linnat as ln
from linnat.dense import fisher as by_definition
from linnat.dense import natural as dense
from linnat.dense.sample import of_data
from tests import tolerances
from tests.strategies import Problem, covariance, integer_rank, make_problem, problems

pytestmark = pytest.mark.statement("N1", "N2", "N3", "N4", "N5", "N6", "X1", "X10")

GAUGES = ("layerwise", "minimum-norm")
# Found by search over symmetric masks with unit diagonal: solvable with α = −5, and not solvable.
UPHILL = np.array(
    [
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 1, 1, 0, 0, 1],
        [0, 1, 1, 0, 0, 0, 0],
        [0, 1, 0, 1, 1, 1, 0],
        [1, 0, 0, 1, 1, 0, 0],
        [1, 0, 0, 1, 0, 1, 0],
        [0, 1, 0, 0, 0, 0, 1],
    ]
)
INCONSISTENT = np.array(
    [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 1],
        [0, 0, 1, 0, 0, 1],
        [0, 0, 0, 1, 0, 1],
        [0, 1, 0, 0, 1, 0],
        [0, 1, 1, 1, 0, 1],
    ]
)


def column(direction: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate([d.flatten(order="F") for d in direction])


def tamed(rung: str, seed: int, **options: Any) -> Problem:
    """Return a problem of a rung that a dense solve can resolve: ill-conditioned layers have condition 8."""
    if rung == "ill-conditioned":
        options = {"layer_condition": 8.0, "input_condition": 8.0} | options
    return make_problem(rung, seed, **options)


def condition(problem: Problem) -> float:
    """Return the condition of the oracle: the largest one of a layer's Jacobian, or of all, on its range."""
    jacobian = by_definition.root_jacobian(problem.net, problem.task)
    ends = np.cumsum([layer.size for layer in problem.net.layers])[:-1]
    worst = 1.0
    for block in [jacobian, *np.split(jacobian, ends, axis=1)]:
        values = np.linalg.svd(block, compute_uv=False)
        kept = values[values > max(block.shape) * np.finfo(float).eps * values[0]]
        worst = max(worst, float(kept[0] / kept[-1])) if len(kept) else worst
    return worst


def backward_error(problem: Problem, direction: tuple[np.ndarray, ...], damping: float = 0.0) -> float:
    """Return ‖(F + λ)u − ∇ℓ‖ / (‖F + λ‖‖u‖ + ‖∇ℓ‖) with F and ∇ℓ by definition."""
    matrix = by_definition.score_covariance(problem.net, problem.task)
    matrix = matrix + damping * np.eye(len(matrix))
    jacobian = by_definition.root_jacobian(problem.net, problem.task)
    gradient = -jacobian.T @ by_definition.root_residual(problem.net, problem.task)
    vector = column(direction)
    scale = np.linalg.norm(matrix, 2) * np.linalg.norm(vector) + np.linalg.norm(gradient)
    return (
        float(np.linalg.norm(matrix @ vector - gradient) / scale) if scale else float(np.linalg.norm(vector))
    )


def size_of(problem: Problem) -> int:
    return sum(layer.size for layer in problem.net.layers)


@pytest.mark.parametrize("gauge", GAUGES)
@given(problem=problems(max_depth=5, max_width=4, max_log_condition=4.0))
def test_both_gauges_solve_the_fisher_equation(gauge: str, problem: Problem) -> None:
    direction = ln.natural_gradient(problem.net, problem.task, gauge)
    assert backward_error(problem, direction) <= tolerances.backward(np.float64, size_of(problem))


@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize("seed", range(10))
def test_every_gauge_is_the_dense_solution_of_its_definition(gauge: str, rung: str, seed: int) -> None:
    problem = tamed(rung, seed)
    found = column(ln.natural_gradient(problem.net, problem.task, gauge))
    wanted = column(dense.natural_gradient(problem.net, problem.task, gauge))
    # The oracle forms products: its own error goes with the square of their condition (residual outside of the range).
    tolerances.assert_close(
        found, wanted, tolerances.solve(np.float64, size_of(problem), condition(problem) ** 2)
    )


@given(problems(("tame", "bottleneck", "rank-deficient", "singular", "biases"), max_depth=4, max_width=4))
def test_layerwise_is_the_dense_solution_on_the_whole_ladder(problem: Problem) -> None:
    found = column(ln.natural_gradient(problem.net, problem.task))
    wanted = column(dense.natural_gradient(problem.net, problem.task))
    bound = tolerances.solve(np.float64, size_of(problem), condition(problem) ** 2)
    tolerances.assert_close(found, wanted, bound)


def n1(problem: Problem) -> tuple[np.ndarray, ...]:
    """Return −(1/L) B̃_i⁺ Ẽ Ã_i⁺ from pseudo-inverses of products (no biases)."""
    net, task = problem.net, problem.task
    values, vectors = np.linalg.eigh(task.input_cov)
    root, white = vectors * np.sqrt(np.maximum(values, 0)), np.linalg.cholesky(task.noise_cov)
    error = np.linalg.solve(white, (task.teacher - net.total) @ root)
    pairs = zip(net.after, net.before, strict=True)
    inverses = [(np.linalg.pinv(np.linalg.solve(white, b)), np.linalg.pinv(a @ root)) for b, a in pairs]
    return tuple(-b @ error @ a / net.depth for b, a in inverses)


def test_n1_where_it_holds_and_where_it_fails() -> None:
    wide = make_problem("tame", 1, (3, 4, 5, 2))
    assert bool(ln.has_full_ranks(wide.net, wide.task))
    found = ln.natural_gradient(wide.net, wide.task)
    tolerances.assert_close(
        column(found), column(n1(wide)), tolerances.solve(np.float64, 64, condition(wide))
    )
    for widths in ((5, 2, 5), (6, 3, 4, 2)):
        narrow = make_problem("bottleneck", 1, widths)
        assert not bool(ln.has_full_ranks(narrow.net, narrow.task))
        assert backward_error(narrow, ln.natural_gradient(narrow.net, narrow.task)) < 1e-13
        assert backward_error(narrow, n1(narrow)) > 1e-3
    # In between (J) still holds: N1's condition is only sufficient for the total weight to go straight.
    between = make_problem("bottleneck", 1, (6, 3, 4, 2))
    assert bool(ln.is_onto(between.net, between.task))


def test_wrong_solutions_are_found_out() -> None:
    # Negative controls: a missing 1/L, one layer's sign, gauges exchanged.
    problem = make_problem("tame", 2, (3, 4, 4, 2))
    direction = ln.natural_gradient(problem.net, problem.task)
    assert backward_error(problem, tuple(3 * d for d in direction)) > 0.1
    assert backward_error(problem, (-direction[0], *direction[1:])) > 0.1
    wanted = column(dense.natural_gradient(problem.net, problem.task, "minimum-norm"))
    assert tolerances.relative_error(column(direction), wanted) > 1e-2


@pytest.mark.parametrize("seed", range(3))
def test_gauges_move_the_function_alike_and_are_shortest_in_their_own_norms(rung: str, seed: int) -> None:
    problem = tamed(rung, seed)
    net, task = problem.net, problem.task
    one, two = (ln.natural_gradient(net, task, gauge) for gauge in GAUGES)
    factor = task.moments(net.has_biases).factor
    moved = [ln.induced_change(net, u) @ factor for u in (one, two)]
    scale = condition(problem) ** 2
    tolerances.assert_close(moved[0], moved[1], tolerances.solve(np.float64, size_of(problem), scale))
    block = by_definition.gauss_newton(net, task) * dense.block_mask(net, "block-diagonal")
    u, v = column(one), column(two)
    slack = 1 + tolerances.solve(np.float64, size_of(problem), scale)
    assert np.linalg.norm(v) <= slack * np.linalg.norm(u)
    assert u @ block @ u <= slack * (v @ block @ v)


@pytest.mark.parametrize("seed", range(3))
def test_layerwise_is_equivariant_under_changes_of_hidden_bases(seed: int) -> None:
    # X1: W_i → C_i W_i C_{i-1}⁻¹ with hidden C_i; square hidden layers keep blockdiag(F) non-singular.
    problem = make_problem("tame", seed, (3, 3, 3, 3))
    net, task, rng = problem.net, problem.task, np.random.default_rng(seed)
    general = [np.eye(3), *(rng.standard_normal((3, 3)) + 2 * np.eye(3) for _ in range(2)), np.eye(3)]
    rotations = [np.eye(3), *(np.linalg.qr(c)[0] for c in general[1:3]), np.eye(3)]

    def move(arrays: tuple[np.ndarray, ...], change: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        return tuple(np.linalg.solve(change[i].T, (change[i + 1] @ w).T).T for i, w in enumerate(arrays))

    bound = tolerances.solve(np.float64, 27, 1e4)
    for gauge, change, kept in (
        ("layerwise", general, True),
        ("layerwise", rotations, True),
        ("minimum-norm", rotations, True),
        ("minimum-norm", general, False),
    ):
        other = ln.LinearNetwork(move(net.weights, change))
        wanted = column(move(ln.natural_gradient(net, task, gauge), change))
        error = tolerances.relative_error(column(ln.natural_gradient(other, task, gauge)), wanted)
        assert error <= bound if kept else error > 1e-3, (gauge, kept, error)


@pytest.mark.parametrize("strength", [1e-3, 0.3, 100.0])
@pytest.mark.parametrize("seed", range(4))
def test_damping_solves_the_damped_equation(rung: str, seed: int, strength: float) -> None:
    problem = tamed(rung, seed)
    net, task = problem.net, problem.task
    found = ln.natural_gradient(net, task, damping=strength)
    assert backward_error(problem, found, strength) <= tolerances.backward(np.float64, size_of(problem))
    values = np.linalg.svd(by_definition.root_jacobian(net, task), compute_uv=False)
    kappa = (values[0] ** 2 + strength) / strength
    wanted = column(dense.natural_gradient(net, task, damping=strength))
    tolerances.assert_close(column(found), wanted, tolerances.solve(np.float64, size_of(problem), kappa))
    same = ln.natural_gradient(net, task, "minimum-norm", damping=strength)
    for a, b in zip(found, same, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("widths", [(3, 4, 2), (4, 2, 4), (3, 4, 4, 2), (3, 2)])
@pytest.mark.parametrize("white", [True, False])
def test_damping_runs_from_the_minimum_norm_gauge_to_the_gradient(
    widths: tuple[int, ...], white: bool
) -> None:
    problem = make_problem("tame", 3, widths)
    net = problem.net
    task = ln.Task(problem.task.teacher) if white else problem.task
    limit = column(ln.natural_gradient(net, task, "minimum-norm"))
    strengths = np.geomspace(1e-5, 1e-7, 5)
    errors = [
        tolerances.relative_error(column(ln.natural_gradient(net, task, damping=s)), limit) for s in strengths
    ]
    assert abs(np.polyfit(np.log(strengths), np.log(errors), 1)[0] - 1) < 0.02
    far = 1e13 * column(ln.natural_gradient(net, task, damping=1e13))
    tolerances.assert_close(far, column(ln.gradient(net, task)), 1e-9)


@pytest.mark.parametrize("rung", ["tame", "bottleneck", "singular"])
def test_factored_damping_is_its_definition_and_an_approximation(rung: str) -> None:
    problem = make_problem(rung, 2, (4, 2, 3) if rung == "bottleneck" else (3, 4, 3))
    net, task, strength = problem.net, problem.task, 0.2
    gradient, precision = ln.gradient(net, task), np.linalg.inv(task.noise_cov)
    wanted = []
    for before, after, slope in zip(net.before, net.after, gradient, strict=True):
        inner, outer = before @ task.input_cov @ before.T, after.T @ precision @ after
        pi = np.sqrt((np.trace(inner) / len(inner)) / (np.trace(outer) / len(outer)))
        left = np.linalg.solve(outer + np.sqrt(strength) / pi * np.eye(len(outer)), slope)
        wanted.append(
            np.linalg.solve(inner + pi * np.sqrt(strength) * np.eye(len(inner)), left.T).T / net.depth
        )
    found = ln.natural_gradient(net, task, damping=strength, damping_kind="factored")
    tolerances.assert_close(column(found), column(tuple(wanted)), tolerances.solve(np.float64, 32, 1e3))
    exact = ln.natural_gradient(net, task, damping=strength)
    assert tolerances.relative_error(column(found), column(exact)) > 0.01
    diagonal = ln.natural_gradient(
        net, task, damping=strength, damping_kind="factored", mask="block-diagonal"
    )
    tolerances.assert_close(column(diagonal), net.depth * column(found), 1e-14)
    mask = np.array([[0, 1], [1, 0]])
    with pytest.raises(ln.ConditionError, match="N4"):
        ln.natural_gradient(net, task, damping=strength, damping_kind="factored", mask=mask)


MASKS = ("block-diagonal", "block-tridiagonal")


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("seed", range(6))
def test_masks_solve_the_masked_equation(rung: str, seed: int, mask: str) -> None:
    problem = tamed(rung, seed)
    net, task = problem.net, problem.task
    found = column(ln.natural_gradient(net, task, mask=mask))
    bound = tolerances.solve(np.float64, size_of(problem), condition(problem) ** 2)
    tolerances.assert_close(found, column(dense.natural_gradient(net, task, mask=mask)), bound)
    damped = column(ln.natural_gradient(net, task, mask=mask, damping=0.3))
    wanted = column(dense.natural_gradient(net, task, mask=mask, damping=0.3))
    largest = np.linalg.norm(by_definition.gauss_newton(net, task), 2)
    tridiagonal = mask == "block-tridiagonal"
    # Partitions keep F_M semi-definite; a band may make it indefinite, with eigenvalues that come near −λ.
    matrix = by_definition.gauss_newton(net, task) * dense.block_mask(net, mask) + 0.3 * np.eye(len(found))
    kappa = np.linalg.cond(matrix) if tridiagonal else (largest + 0.3) / 0.3
    tolerances.assert_close(damped, wanted, tolerances.solve(np.float64, size_of(problem), kappa))


def test_arbitrary_masks_equal_the_dense_solution_or_are_refused_by_both() -> None:
    rng, refused, solved = np.random.default_rng(0), 0, 0
    for trial in range(60):
        problem = make_problem(
            "bottleneck" if trial % 2 else "tame", trial, (2, 1, 2, 3, 2) if trial % 2 else (2,) * 7
        )
        net, depth = problem.net, problem.net.depth
        upper = np.triu(rng.integers(0, 2, (depth, depth)), 1)
        mask = upper + upper.T + np.diag(rng.integers(0, 6, depth) > 0)
        try:
            wanted = column(dense.natural_gradient(net, problem.task, mask=mask))
        except ln.ConditionError:
            refused += 1
            with pytest.raises(ln.ConditionError, match="N5"):
                ln.natural_gradient(net, problem.task, mask=mask)
            continue
        solved += 1
        found = column(ln.natural_gradient(net, problem.task, mask=mask))
        # 20: the condition of these small masks where they are singular or not.
        bound = tolerances.solve(np.float64, size_of(problem), 20 * condition(problem) ** 2)
        tolerances.assert_close(found, wanted, bound)
    assert min(refused, solved) >= 5, (refused, solved)


def test_damping_with_a_mask_may_meet_an_eigenvalue_or_nothing_at_all() -> None:
    # F_M = [[0, 1], [1, 0]] has the eigenvalue −1.
    net, mask = ln.LinearNetwork([[[1.0]], [[1.0]]]), np.array([[0, 1], [1, 0]])
    with pytest.raises(ln.ConditionError, match="N5"):
        ln.natural_gradient(net, ln.Task([[0.0]]), damping=1.0, mask=mask)
    solved = column(ln.natural_gradient(net, ln.Task([[0.0]]), damping=2.0, mask=mask))
    np.testing.assert_allclose(solved, np.array([1.0, 1.0]) / 3, atol=1e-15)
    zero = ln.LinearNetwork([np.zeros((3, 2)), np.zeros((2, 3))])
    for u in ln.natural_gradient(zero, ln.Task(np.eye(2)), damping=1.0, mask="block-diagonal"):
        assert (u == 0).all()


@pytest.mark.parametrize("depth", range(1, 9))
def test_masks_move_the_error_at_their_rate(depth: int) -> None:
    problem = make_problem("tame", depth, (2,) * (depth + 1), layer_condition=1.5)
    net, task = problem.net, problem.task
    error = task.teacher - net.total
    rates = {
        None: 1.0,
        "full": 1.0,
        "block-diagonal": float(depth),
        "block-tridiagonal": float(math.ceil(depth / 3)),
    }
    for mask, alpha in rates.items():
        change = ln.induced_change(net, ln.natural_gradient(net, task, mask=mask))
        tolerances.assert_close(-change, alpha * error, tolerances.solve(np.float64, 8, 1e3))
        assert abs(ln.mask_coefficients(mask, depth)[1] - alpha) < 1e-12


def test_a_mask_can_go_uphill_and_another_has_no_solution() -> None:
    problem = make_problem("tame", 1, (2,) * 8, layer_condition=1.5)
    change = ln.induced_change(problem.net, ln.natural_gradient(problem.net, problem.task, mask=UPHILL))
    tolerances.assert_close(-change, -5 * (problem.task.teacher - problem.net.total), 1e-10)
    assert abs(ln.mask_coefficients(UPHILL, 7)[1] + 5) < 1e-10
    shallow = make_problem("tame", 1, (2,) * 7, layer_condition=1.5)
    with pytest.raises(ln.ConditionError, match="N5"):
        ln.natural_gradient(shallow.net, shallow.task, mask=INCONSISTENT)
    with pytest.raises(ln.ConditionError, match="N5"):
        ln.mask_coefficients(INCONSISTENT, 6)


def test_in_a_bottleneck_block_diagonal_is_no_multiple_of_the_natural_gradient() -> None:
    # Block (k, l) moves at rate l − k + 1; in wide networks that is L times the natural gradient everywhere.
    wide, narrow = make_problem("tame", 2, (3, 4, 3)), make_problem("bottleneck", 2, (5, 2, 4))
    for problem, equal in ((wide, True), (narrow, False)):
        net, task = problem.net, problem.task
        full, block = (
            ln.induced_change(net, ln.natural_gradient(net, task, mask=m)) for m in (None, "block-diagonal")
        )
        error = tolerances.relative_error(block, net.depth * full)
        assert error < 1e-12 if equal else error > 1e-2


def test_kfac_with_exact_factors_is_the_block_diagonal_natural_gradient() -> None:
    # N6: the factors under the model's noise; with the data's targets they are others.
    problem = make_problem("tame", 4, (3, 4, 2))
    net, task = problem.net, problem.task
    precision, gradient = np.linalg.inv(task.noise_cov), ln.gradient(net, task)
    kfac = []
    for before, after, slope in zip(net.before, net.after, gradient, strict=True):
        inner, outer = before @ task.input_cov @ before.T, after.T @ precision @ after
        kfac.append(np.linalg.pinv(outer, rcond=1e-10) @ slope @ np.linalg.pinv(inner, rcond=1e-10))
    found = column(ln.natural_gradient(net, task, mask="block-diagonal"))
    tolerances.assert_close(
        found, column(tuple(kfac)), tolerances.solve(np.float64, 32, condition(problem) ** 2)
    )
    points = of_data(
        *(np.random.default_rng(s).standard_normal((40, n)) for s, n in ((0, 3), (1, 2))), task.noise_cov
    )
    data_task = ln.Task.from_data(points.x, points.y, task.noise_cov)
    empirical = by_definition.empirical_fisher(net, points) * dense.block_mask(net, "block-diagonal")
    wrong = dense.solve(empirical, column(ln.gradient(net, data_task)), 1e-10).vector
    right = column(ln.natural_gradient(net, data_task, mask="block-diagonal"))
    assert tolerances.relative_error(wrong, right) > 0.05


def centred(net: ln.LinearNetwork, task: ln.Task) -> tuple[np.ndarray, ...]:
    """Return N1 with the biases eliminated: weights see Cov(h), the centring of PRONG."""
    precision, cov = (
        np.linalg.inv(task.noise_cov),
        task.input_cov - np.outer(task.input_mean, task.input_mean),
    )
    mean, signal, result = task.input_mean, np.eye(net.widths[0]), []
    for i, slope in enumerate(ln.gradient(net, task)):
        outer = np.linalg.pinv(net.after[i].T @ precision @ net.after[i], rcond=1e-10) / net.depth
        inner = np.linalg.pinv(signal @ cov @ signal.T, rcond=1e-10)
        weight = outer @ (slope[:, :-1] - np.outer(slope[:, -1], mean)) @ inner
        result.append(np.column_stack([weight, outer @ slope[:, -1] - weight @ mean]))
        mean, signal = net.weights[i] @ mean + net.biases[i], net.weights[i] @ signal
    return tuple(result)


def test_biases_are_centring() -> None:
    problem = make_problem("biases", 3, (3, 3, 2))
    found, wanted = (
        column(ln.natural_gradient(problem.net, problem.task)),
        column(centred(problem.net, problem.task)),
    )
    tolerances.assert_close(found, wanted, tolerances.solve(np.float64, 32, condition(problem) ** 2))


def test_centring_is_another_gauge_where_a_hidden_covariance_is_singular() -> None:
    # Cov(h_1) is 4 × 4 of rank 3. Directions (z, −zᵀh̄) with Cov z = 0 change nothing: the pseudo-inverse of E[ĥĥᵀ]
    # leaves them out, that of Cov(h) leaves out (z, 0). Both solve the Fisher equation.
    problem = make_problem("biases", 3, (3, 4, 2))
    found, other = ln.natural_gradient(problem.net, problem.task), centred(problem.net, problem.task)
    for direction in (found, other):
        assert backward_error(problem, direction) <= 10 * tolerances.backward(np.float64, size_of(problem))
    tolerances.assert_close(found[0], other[0], tolerances.solve(np.float64, 32, condition(problem) ** 2))
    assert tolerances.relative_error(found[1], other[1]) > 1e-2
    assert np.linalg.norm(found[1]) < np.linalg.norm(other[1])


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("gauge", GAUGES)
def test_data_with_singular_moments(gauge: str, biases: bool) -> None:
    rng = np.random.default_rng(7)
    x, y = integer_rank(rng, 12, 4, 2) + 1.0, rng.standard_normal((12, 3))
    noise, net = covariance(rng, 3, 2.0), ln.LinearNetwork.random((4, 5, 3), rng=rng, biases=biases)
    task = ln.Task.from_data(x, y, noise)
    found = column(ln.natural_gradient(net, task, gauge))
    wanted = column(dense.natural_gradient(net, of_data(x, y, noise), gauge, rtol=1e-10))
    tolerances.assert_close(found, wanted, tolerances.solve(np.float64, len(found), 1e3))


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("gauge", GAUGES)
def test_digits_through_a_bottleneck(gauge: str, biases: bool) -> None:
    # Real data with singular S: three of the 64 pixels never light up.
    datasets = pytest.importorskip(
        "sklearn.datasets", reason="scikit-learn bundles the digits: install linnat[data]"
    )
    digits = datasets.load_digits()
    task = ln.Task.from_data(digits.data / 16, np.eye(10)[digits.target])
    assert task.rank == 61
    net = ln.LinearNetwork.random((64, 6, 10), rng=0, biases=biases)
    found = column(ln.natural_gradient(net, task, gauge))
    # The oracle takes S, not its factor: eigenvalues of S are cut, and its error goes with κ(S), a square.
    wanted = column(dense.natural_gradient(net, task, gauge, rtol=1e-6))
    values = np.linalg.svd(task.moments(biases).factor, compute_uv=False)
    kappa = (values[0] / values[values > 1e-10 * values[0]][-1]) ** 2
    tolerances.assert_close(found, wanted, tolerances.solve(np.float64, 64, float(kappa)))


@pytest.mark.parametrize("gauge", GAUGES)
def test_a_stack_of_networks_equals_a_loop(gauge: str) -> None:
    rng = np.random.default_rng(3)
    # Different ranks in one stack: they are grouped.
    weights = [
        np.stack([integer_rank(rng, m, n, rank) for rank in ranks])
        for (m, n), ranks in zip(
            ((4, 3), (3, 4), (2, 3)), ((3, 1, 3, 2), (3, 3, 2, 0), (2, 1, 2, 2)), strict=True
        )
    ]
    stack, task = ln.LinearNetwork(weights), make_problem("tame", 1, (3, 2)).task
    for options in ({}, {"damping": 0.3}, {"mask": "block-diagonal"} if gauge == "layerwise" else {}):
        found = ln.natural_gradient(stack, task, gauge, **options)
        for place in range(4):
            single = ln.LinearNetwork([w[place] for w in weights])
            for whole, part in zip(found, ln.natural_gradient(single, task, gauge, **options), strict=True):
                np.testing.assert_allclose(
                    whole[place], part, rtol=1e-10, atol=1e-11 * max(1, np.abs(part).max())
                )


@pytest.mark.parametrize("gauge", GAUGES)
def test_float32_is_kept(gauge: str, rung: str) -> None:
    problem = tamed(rung, 3, dtype=np.float32)
    found = ln.natural_gradient(problem.net, problem.task, gauge)
    assert all(u.dtype == np.float32 for u in found)
    wanted = column(dense.natural_gradient(problem.net, problem.task, gauge))
    bound = tolerances.solve(np.float32, size_of(problem), condition(problem))
    assert bound < 0.3, "the problem is too ill-conditioned for float32 to say anything"
    tolerances.assert_close(column(found).astype(np.float64), wanted, bound)


def test_zero_error_zero_weights_and_width_one_simply_work() -> None:
    for gauge in GAUGES:
        problem = make_problem("tame", 1, (2, 3, 2))
        still = ln.natural_gradient(problem.net, ln.Task(problem.net.total), gauge)
        assert max(np.abs(u).max() for u in still) < 1e-14
        zero = ln.LinearNetwork([np.zeros((3, 2)), np.zeros((2, 3))])
        assert all((u == 0).all() for u in ln.natural_gradient(zero, problem.task, gauge))
        thin = ln.LinearNetwork([[[2.0]], [[3.0]], [[1.0]]])
        task = ln.Task([[1.0]])
        assert_solves(thin, task, column(ln.natural_gradient(thin, task, gauge)))
        silent = ln.Task(np.ones((2, 2)), np.zeros((2, 2)))
        assert all((u == 0).all() for u in ln.natural_gradient(problem.net, silent, gauge))


def assert_solves(net: ln.LinearNetwork, task: ln.Task, vector: np.ndarray) -> None:
    matrix = by_definition.score_covariance(net, task)
    residual = np.linalg.norm(matrix @ vector - column(ln.gradient(net, task)))
    scale = np.linalg.norm(matrix, 2) * np.linalg.norm(vector)
    assert residual <= tolerances.backward(np.float64, len(vector)) * scale


def test_the_rank_cut_is_an_argument() -> None:
    net, task = ln.LinearNetwork([np.eye(2), np.diag([1.0, 1e-5])]), ln.Task(np.eye(2))
    cut = ln.natural_gradient(net, task, rtol=1e-3)
    # With the weak direction cut away, the second mode can only be changed by the last layer.
    np.testing.assert_allclose(cut[0], np.zeros((2, 2)), atol=1e-14)
    np.testing.assert_allclose(cut[1], np.diag([0.0, 1e-5 - 1.0]), atol=1e-14)
    full = ln.natural_gradient(net, task)
    np.testing.assert_allclose(full[0], np.diag([0.0, (1e-5 - 1.0) / 2e-5]), rtol=1e-10)


def test_inputs_are_not_changed_and_read_only_arrays_work() -> None:
    problem = make_problem("biases", 2, (3, 4, 2))
    copies = [layer.copy() for layer in problem.net.layers]
    for gauge in GAUGES:
        ln.natural_gradient(problem.net, problem.task, gauge)
    for layer, copy in zip(problem.net.layers, copies, strict=True):
        np.testing.assert_array_equal(layer, copy)


def test_bad_arguments_are_refused() -> None:
    net, task = ln.LinearNetwork.random((2, 3, 2), rng=0), ln.Task(np.eye(2))
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"gauge": "best"}, "gauge"),
        ({"damping": -1.0}, "damping"),
        ({"damping": np.nan}, "damping"),
        ({"damping": 0.1, "damping_kind": "loose"}, "damping_kind"),
        ({"mask": "band"}, "mask"),
        ({"mask": np.eye(3)}, "mask"),
        ({"mask": [[1, 2], [2, 1]]}, "mask"),
        ({"mask": [[1, 0], [1, 1]]}, "mask"),
        ({"rtol": -1.0}, "rtol"),
        ({"gauge": "minimum-norm", "mask": "block-diagonal"}, "mask.*N5"),
    ]
    for options, message in refusals:
        with pytest.raises(ln.InputError, match=message):
            ln.natural_gradient(net, task, **options)
    with pytest.raises(ln.InputError):
        ln.natural_gradient([np.eye(2)], task)  # type: ignore[arg-type]
    with pytest.raises(ln.InputError):
        ln.natural_gradient(net, ln.Task(np.eye(3)))
