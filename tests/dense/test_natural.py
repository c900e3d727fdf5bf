"""Are the dense solves natural gradients in the gauge they claim? Against null-space minimisation and the theorems."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given

from linnat import _checks
from linnat.dense import fisher, natural
from linnat.dense.sample import of_data, of_task
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from tests import tolerances
from tests.strategies import Problem, make_problem, problems

pytestmark = pytest.mark.statement("N1", "N2", "N3", "N4", "N5", "N6", "X1", "X10")

GAUGES = ("layerwise", "minimum-norm")
# Solvable but uphill (α = -5), and not solvable: found by search over symmetric masks with unit diagonal.
UPHILL = [
    [1, 1, 0, 0, 1, 1, 0],
    [1, 1, 1, 1, 0, 0, 1],
    [0, 1, 1, 0, 0, 0, 0],
    [0, 1, 0, 1, 1, 1, 0],
    [1, 0, 0, 1, 1, 0, 0],
    [1, 0, 0, 1, 0, 1, 0],
    [0, 1, 0, 0, 0, 0, 1],
]
INCONSISTENT = [
    [1, 1, 0, 0, 0, 0],
    [1, 1, 0, 0, 1, 1],
    [0, 0, 1, 0, 0, 1],
    [0, 0, 0, 1, 0, 1],
    [0, 1, 0, 0, 1, 0],
    [0, 1, 1, 1, 0, 1],
]


def stack(direction: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate([d.flatten(order="F") for d in direction])


def backward_error(problem: Problem, direction: tuple[np.ndarray, ...]) -> float:
    """Return ‖Fu − ∇ℓ‖ / (‖F‖‖u‖ + ‖∇ℓ‖) with F and ∇ℓ by definition."""
    matrix = fisher.score_covariance(problem.net, problem.task)
    net, task = problem.net, problem.task
    jacobian, residual = fisher.root_jacobian(net, task), fisher.root_residual(net, task)
    gradient, vector = -jacobian.T @ residual, stack(direction)
    scale = np.linalg.norm(matrix, 2) * np.linalg.norm(vector) + np.linalg.norm(gradient)
    return float(np.linalg.norm(matrix @ vector - gradient) / scale) if scale else 0.0


def jacobian_condition(problem: Problem) -> float:
    """Return the largest condition of the Jacobian of a layer, or of all, on its range."""
    jacobian = fisher.root_jacobian(problem.net, problem.task)
    sizes = np.cumsum([layer.size for layer in problem.net.layers])[:-1]
    worst = 1.0
    for block in [jacobian, *np.split(jacobian, sizes, axis=1)]:
        values = np.linalg.svd(block, compute_uv=False)
        kept = values[values > max(block.shape) * np.finfo(float).eps * values[0]]
        worst = max(worst, float(kept[0] / kept[-1])) if len(kept) else worst
    return worst


def whitened_chains(problem: Problem) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Return Ã_i, B̃_i and Ẽ as products, with eigendecomposed roots: good for tame problems only."""
    net, task = problem.net, problem.task
    goal = task.goal(net.has_biases)
    mean = task.input_mean[:, None]
    second = (
        np.block([[task.input_cov, mean], [mean.T, np.ones((1, 1))]]) if net.has_biases else task.input_cov
    )
    values, vectors = np.linalg.eigh(second)
    values[values < 64 * np.finfo(float).eps * values[-1]] = 0.0
    root = vectors * np.sqrt(values)
    white = np.linalg.cholesky(task.noise_cov)
    before = [chain @ root for chain in net.before]
    after = [np.linalg.solve(white, chain) for chain in net.after]
    return before, after, np.linalg.solve(white, (goal - net.total) @ root)


def staircase(problem: Problem, exponent: int = 1) -> tuple[np.ndarray, ...]:
    """Return N2 from products and SVD projectors, u = −v; `exponent` 0 forgets the division by l − k + 1."""
    before, after, error = whitened_chains(problem)
    depth, rtol = len(before), 1e-9
    inverse_before = [np.linalg.pinv(a, rcond=rtol) for a in before]
    inverse_after = [np.linalg.pinv(b, rcond=rtol) for b in after]
    left = [np.zeros((len(error), len(error))), *[b @ i for b, i in zip(after, inverse_after, strict=True)]]
    right = [i @ a for a, i in zip(before, inverse_before, strict=True)]
    right.append(np.zeros((error.shape[1],) * 2))
    direction = []
    for i in range(1, depth + 1):
        part = np.zeros_like(error)
        for k in range(1, i + 1):
            for j in range(i, depth + 1):
                block = (left[k] - left[k - 1]) @ error @ (right[j - 1] - right[j])
                part += block / (j - k + 1) ** exponent
        direction.append(-inverse_after[i - 1] @ part @ inverse_before[i - 1])
    return tuple(direction)


def layerwise_by_null_space(problem: Problem) -> np.ndarray:
    """Minimise uᵀ blockdiag(F) u over the solutions u_0 + ker F, and then ‖u‖: X1 to the letter."""
    matrix = fisher.gauss_newton(problem.net, problem.task)
    gradient = stack(fisher.gradient(problem.net, problem.task))
    block = matrix * natural.block_mask(problem.net, "block-diagonal")
    values, vectors = np.linalg.eigh(matrix)
    null = vectors[:, values < 1e-10 * values[-1]]
    start = np.linalg.lstsq(matrix, gradient, rcond=1e-10)[0]
    # The cut is relative to blockdiag(F): within ker F that may be zero, and its rounding is not to be inverted.
    values, vectors = np.linalg.eigh(null.T @ block @ null)
    keep = values > 1e-10 * np.linalg.norm(block, 2)
    inside = null @ vectors[:, keep]
    best = start - inside @ ((inside.T @ (block @ start)) / values[keep])
    values, vectors = np.linalg.eigh(block)
    kept = vectors[:, values > 1e-10 * values[-1]]
    return kept @ (kept.T @ best)


@pytest.mark.parametrize("gauge", GAUGES)
@given(problem=problems(max_depth=4, max_width=4, max_log_condition=4.0))
def test_both_gauges_solve_the_system(gauge: str, problem: Problem) -> None:
    size = sum(layer.size for layer in problem.net.layers)
    direction = natural.natural_gradient(problem.net, problem.task, gauge)
    assert backward_error(problem, direction) <= tolerances.backward(np.float64, size)


@pytest.mark.parametrize("rung", ["tame", "bottleneck", "rank-deficient", "singular", "biases"])
@pytest.mark.parametrize("seed", range(4))
def test_layerwise_is_the_solution_of_least_block_diagonal_norm(rung: str, seed: int) -> None:
    problem = make_problem(rung, seed)
    found = stack(natural.natural_gradient(problem.net, problem.task))
    # The comparison squares the condition twice: it works with F and with blockdiag(F) within its null space.
    bound = tolerances.solve(np.float64, len(found), jacobian_condition(problem) ** 4)
    tolerances.assert_close(found, layerwise_by_null_space(problem), min(bound, 1e-4))


@pytest.mark.parametrize("seed", range(8))
def test_layerwise_is_the_staircase(rung: str, seed: int) -> None:
    options = {"layer_condition": 8.0} if rung == "ill-conditioned" else {}
    problem = make_problem(rung, seed, **options)
    found = stack(natural.natural_gradient(problem.net, problem.task))
    bound = tolerances.solve(np.float64, len(found), jacobian_condition(problem) ** 2)
    tolerances.assert_close(found, stack(staircase(problem)), bound)


def test_n1_solves_wide_networks_and_fails_in_a_bottleneck_and_in_between() -> None:
    def n1(problem: Problem) -> tuple[np.ndarray, ...]:
        before, after, error = whitened_chains(problem)
        return tuple(
            -np.linalg.pinv(b) @ error @ np.linalg.pinv(a) / len(before)
            for a, b in zip(before, after, strict=True)
        )

    wide = make_problem("tame", 1, (3, 4, 5, 2))
    tolerances.assert_close(
        stack(n1(wide)),
        stack(natural.natural_gradient(wide.net, wide.task)),
        tolerances.solve(np.float64, 64, 1e3),
    )
    for widths in ((5, 2, 5), (6, 3, 4, 2)):
        narrow = make_problem("bottleneck", 1, widths)
        assert backward_error(narrow, n1(narrow)) > 1e-3
        assert backward_error(narrow, natural.natural_gradient(narrow.net, narrow.task)) < 1e-13
        # A staircase without its steps is no natural gradient either.
        assert backward_error(narrow, staircase(narrow, exponent=0)) > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_minimum_norm_is_orthogonal_to_the_null_space(rung: str, seed: int) -> None:
    problem = make_problem(rung, seed, layer_condition=8.0)
    found = stack(natural.natural_gradient(problem.net, problem.task, "minimum-norm"))
    _, values, right = np.linalg.svd(fisher.root_jacobian(problem.net, problem.task))
    rank = int((values > len(found) * np.finfo(float).eps * values[0]).sum())
    bound = tolerances.solve(np.float64, len(found), jacobian_condition(problem)) * np.linalg.norm(found)
    assert np.linalg.norm(right[rank:] @ found) <= bound
    matrix, gradient = (
        fisher.gauss_newton(problem.net, problem.task),
        fisher.gradient(problem.net, problem.task),
    )
    solved = natural.solve(matrix, stack(gradient), 1e-11)
    tolerances.assert_close(
        solved.vector, found, tolerances.solve(np.float64, len(found), jacobian_condition(problem) ** 2)
    )
    assert solved.rank == rank


@pytest.mark.parametrize("seed", range(3))
def test_gauges_differ_in_the_weights_and_agree_in_the_function(seed: int) -> None:
    problem = make_problem("biases", seed, (3, 5, 4, 2))
    jacobian = fisher.root_jacobian(problem.net, problem.task)
    one, two = (stack(natural.natural_gradient(problem.net, problem.task, gauge)) for gauge in GAUGES)
    bound = tolerances.solve(np.float64, len(one), jacobian_condition(problem))
    tolerances.assert_close(jacobian @ one, jacobian @ two, bound)
    assert tolerances.relative_error(one, two) > 0.01
    assert np.linalg.norm(two) < np.linalg.norm(one)
    block = fisher.gauss_newton(problem.net, problem.task) * natural.block_mask(problem.net, "block-diagonal")
    assert one @ block @ one < two @ block @ two


def test_damping_goes_from_the_minimum_norm_gauge_to_the_gradient() -> None:
    problem = make_problem("tame", 4, (3, 4, 2))
    net, task = problem.net, problem.task
    gradient, limit = (
        stack(fisher.gradient(net, task)),
        stack(natural.natural_gradient(net, task, "minimum-norm")),
    )
    small = np.geomspace(1e-4, 1e-6, 5)
    errors = [np.linalg.norm(stack(natural.natural_gradient(net, task, damping=s)) - limit) for s in small]
    assert abs(np.polyfit(np.log(small), np.log(errors), 1)[0] - 1) < 0.01
    large = 1e12
    tolerances.assert_close(large * stack(natural.natural_gradient(net, task, damping=large)), gradient, 1e-9)
    matrix = fisher.score_covariance(net, task)
    damped = stack(natural.natural_gradient(net, task, "minimum-norm", damping=0.3))
    tolerances.assert_close(
        matrix @ damped + 0.3 * damped, gradient, tolerances.solve(np.float64, len(damped), 100.0)
    )
    masked = stack(natural.natural_gradient(net, task, damping=0.3, mask="block-diagonal"))
    kept = matrix * natural.block_mask(net, "block-diagonal")
    tolerances.assert_close(
        kept @ masked + 0.3 * masked, gradient, tolerances.solve(np.float64, len(masked), 100.0)
    )
    assert tolerances.relative_error(masked, damped) > 0.01


def test_damping_that_meets_a_negative_eigenvalue_of_a_mask_is_refused() -> None:
    net, mask = LinearNetwork([[[1.0]], [[1.0]]]), np.array([[0, 1], [1, 0]])
    with pytest.raises(_checks.ConditionError, match="N5"):
        natural.natural_gradient(net, Task([[0.0]]), damping=1.0, mask=mask)
    solved = stack(natural.natural_gradient(net, Task([[0.0]]), damping=2.0, mask=mask))
    np.testing.assert_allclose(solved, np.array([1.0, 1.0]) / 3, atol=1e-15)


def rate(problem: Problem, mask: object) -> tuple[float, float]:
    """Return α with dW̃ = −α Ẽ by least squares, and how far the change is from that multiple."""
    net, task = problem.net, problem.task
    jacobian, residual = fisher.root_jacobian(net, task), fisher.root_residual(net, task)
    array = mask if mask is None or isinstance(mask, str) else np.array(mask)
    change = -jacobian @ stack(natural.natural_gradient(problem.net, problem.task, mask=array))
    alpha = float(change @ residual / (residual @ residual))
    return alpha, float(np.linalg.norm(change - alpha * residual) / np.linalg.norm(residual))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6, 7])
def test_masks_move_the_whole_error_at_their_rate(depth: int) -> None:
    problem = make_problem("tame", depth, (2,) * (depth + 1), layer_condition=1.5)
    expected = {"block-diagonal": depth, "block-tridiagonal": math.ceil(depth / 3)}
    bound = tolerances.solve(np.float64, 8 * depth, jacobian_condition(problem) ** 2)
    for mask, alpha in {None: 1, **expected}.items():
        found, remainder = rate(problem, mask)
        assert abs(found - alpha) <= bound, mask
        assert remainder <= bound, mask


def test_a_mask_can_go_uphill_and_another_has_no_solution() -> None:
    problem = make_problem("tame", 1, (2,) * 8, layer_condition=1.5)
    found, remainder = rate(problem, UPHILL)
    assert abs(found + 5) < 1e-8
    assert remainder < 1e-8
    shallow = make_problem("tame", 1, (2,) * 7, layer_condition=1.5)
    for gauge in GAUGES:
        with pytest.raises(_checks.ConditionError, match="N5"):
            natural.natural_gradient(shallow.net, shallow.task, gauge, mask=np.array(INCONSISTENT))


def test_both_gauges_solve_a_masked_system_that_has_many_solutions() -> None:
    # Tridiagonal with 5 = 3 + 2 layers: M is singular and M c = 1 solvable.
    problem = make_problem("tame", 1, (2,) * 6, layer_condition=1.5)
    layerwise, minimal = (
        stack(natural.natural_gradient(problem.net, problem.task, gauge, mask="block-tridiagonal"))
        for gauge in GAUGES
    )
    kept = fisher.gauss_newton(problem.net, problem.task) * natural.block_mask(
        problem.net, "block-tridiagonal"
    )
    gradient = stack(fisher.gradient(problem.net, problem.task))
    for solution in (layerwise, minimal):
        tolerances.assert_close(kept @ solution, gradient, 1e-12)
    assert np.linalg.norm(minimal) < 0.999 * np.linalg.norm(layerwise)


def test_in_a_bottleneck_a_block_diagonal_step_is_no_multiple_of_the_natural_gradient() -> None:
    problem = make_problem("bottleneck", 2, (5, 2, 4))
    jacobian = fisher.root_jacobian(problem.net, problem.task)
    full, block = (
        stack(natural.natural_gradient(problem.net, problem.task, mask=m)) for m in (None, "block-diagonal")
    )
    one, two = jacobian @ full, jacobian @ block
    assert np.linalg.norm(two - one * (one @ two) / (one @ one)) > 0.01 * np.linalg.norm(two)


def test_kfac_over_sampled_targets_converges_to_the_block_diagonal_solution() -> None:
    problem = make_problem("tame", 9, (3, 4, 2))
    exact = stack(natural.natural_gradient(problem.net, problem.task, mask="block-diagonal"))
    gradient = stack(fisher.gradient(problem.net, problem.task))
    mask, counts, errors = natural.block_mask(problem.net, "block-diagonal"), [16, 64, 256, 1024], []
    for count in counts:
        sampled = [
            fisher.sampled_fisher(problem.net, problem.task, count, seed).estimate for seed in range(6)
        ]
        steps = [natural.solve(matrix * mask, gradient, 1e-9).vector for matrix in sampled]
        errors.append(np.sqrt(np.mean([np.linalg.norm(step - exact) ** 2 for step in steps])))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope + 0.5) < 0.2, slope


def test_the_natural_gradient_of_rows_is_that_of_their_task(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((9, 3)) @ np.diag([1.0, 1.0, 0.0]), rng.standard_normal((9, 2))
    net = LinearNetwork.random((3, 4, 2), rng=3, biases=True)
    for gauge in GAUGES:
        rows = stack(natural.natural_gradient(net, of_data(x, y), gauge, rtol=1e-7))
        moments = stack(natural.natural_gradient(net, Task.from_data(x, y), gauge, rtol=1e-7))
        tolerances.assert_close(rows, moments, tolerances.solve(np.float64, len(rows), 1e4))


def test_zero_error_and_zero_weights_are_not_special() -> None:
    problem = make_problem("tame", 1, (2, 3, 2))
    points = of_task(problem.task)
    for gauge in GAUGES:
        solved = natural.natural_gradient(
            problem.net, points._replace(y=fisher.outputs(problem.net, points.x)), gauge
        )
        assert all((block == 0).all() for block in solved)
        zero = LinearNetwork([np.zeros((3, 2)), np.zeros((2, 3))])
        assert all((block == 0).all() for block in natural.natural_gradient(zero, problem.task, gauge))


def test_the_rank_cut_is_an_argument() -> None:
    net = LinearNetwork([np.diag([1.0, 1e-6])])
    task = Task(np.zeros((2, 2)), np.diag([1.0, 1e-12]))
    full = natural.natural_gradient(net, task)[0]
    np.testing.assert_allclose(full, net.weights[0], atol=1e-9)
    np.testing.assert_allclose(
        natural.natural_gradient(net, task, rtol=1e-3)[0], np.diag([1.0, 0.0]), atol=1e-12
    )


def test_bad_arguments_are_refused() -> None:
    net, task = LinearNetwork.random((2, 3, 2), rng=0), Task(np.eye(2))
    for mask in ([[1, 0], [1, 1]], [[1, 2], [2, 1]], [[1]]):
        with pytest.raises(_checks.InputError, match=r"mask: expected a symmetric array"):
            natural.natural_gradient(net, task, mask=np.array(mask))
    with pytest.raises(_checks.InputError, match=r"mask: expected one of"):
        natural.natural_gradient(net, task, mask="band")
    with pytest.raises(_checks.InputError, match=r"gauge: expected one of"):
        natural.natural_gradient(net, task, "best")
    with pytest.raises(_checks.InputError, match=r"damping"):
        natural.natural_gradient(net, task, damping=-1.0)
    with pytest.raises(_checks.InputError, match=r"rtol"):
        natural.natural_gradient(net, task, rtol=-1.0)
    with pytest.raises(_checks.InputError, match=r"matrix: expected shape \(2, 2\)"):
        natural.solve(np.eye(3), np.ones(2))
