"""Are loss, gradient, Fisher matrix and Hessian what the definitions say? Against `linnat.dense`, on the ladder."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given

import linnat as ln
from linnat.dense import fisher as by_definition
from linnat.dense import jacobian as perturbed
from linnat.dense.sample import Sample, of_data, of_task
from tests import tolerances
from tests.strategies import Problem, integer_rank, make_problem, problems

pytestmark = pytest.mark.statement("G1", "F1", "F2", "S1", "X10")

LADDER = problems(max_depth=4, max_width=4, max_log_condition=3.0)


def column(direction: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate([d.flatten(order="F") for d in direction])


def size_of(problem: Problem) -> int:
    return sum(problem.net.widths)


def layer_slices(net: ln.LinearNetwork) -> list[slice]:
    ends = np.cumsum([0] + [layer.size for layer in net.layers])
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]


def magnitude(problem: Problem) -> float:
    """Return the loss after unit steps when nothing cancels: the scale of rounding of exact differences."""
    return by_definition.loss(*absolutes(problem, 2.0))


def absolutes(problem: Problem, shift: float = 0.0) -> tuple[ln.LinearNetwork, Sample]:
    """Return the network and the points without signs, the targets opposite: nothing cancels in them."""
    net, points = problem.net, of_task(problem.task)
    absolute = net.replace_layers([np.abs(layer) + shift for layer in net.layers])
    return absolute, points._replace(x=np.abs(points.x), y=-np.abs(points.y))


@given(LADDER)
def test_loss_is_the_mean_over_points(problem: Problem) -> None:
    wanted = by_definition.loss(problem.net, problem.task)
    bound = tolerances.product(np.float64, size_of(problem), problem.noise_condition**2) * magnitude(problem)
    assert abs(float(ln.loss(problem.net, problem.task)) - wanted) <= bound
    floor = float(problem.task.floor(problem.net.has_biases))
    assert abs(float(ln.excess_loss(problem.net, problem.task)) - (wanted - floor)) <= bound


@given(LADDER)
def test_gradient_is_the_difference_quotient_of_the_loss(problem: Problem) -> None:
    found = column(ln.gradient(problem.net, problem.task))
    bound = tolerances.product(np.float64, size_of(problem), problem.noise_condition**2) * magnitude(problem)
    np.testing.assert_allclose(
        found, column(by_definition.gradient(problem.net, problem.task)), rtol=0, atol=bound
    )
    # The oracle's second road, −Jᵀ r, takes no unit steps: its rounding is that of the products themselves.
    jacobian = by_definition.root_jacobian(problem.net, problem.task)
    residual = by_definition.root_residual(problem.net, problem.task)
    absolute, points = absolutes(problem)
    scale = np.linalg.norm(by_definition.root_jacobian(absolute, points))
    scale *= np.linalg.norm(by_definition.root_residual(absolute, points))
    bound = tolerances.product(np.float64, size_of(problem), problem.noise_condition**2)
    assert np.linalg.norm(found + jacobian.T @ residual) <= bound * scale


@pytest.mark.parametrize("biases", [False, True])
def test_loss_and_gradient_of_data_are_those_of_its_rows(rng: np.random.Generator, biases: bool) -> None:
    x, y = rng.standard_normal((11, 3)) + 0.5, rng.standard_normal((11, 2))
    x[:, 2] = x[:, 0] - x[:, 1]
    noise = np.array([[2.0, 0.5], [0.5, 1.0]])
    net = ln.LinearNetwork.random((3, 4, 2), rng=rng, biases=biases)
    task, rows = ln.Task.from_data(x, y, noise), of_data(x, y, noise)
    bound = tolerances.solve(np.float64, len(x), 10.0)
    tolerances.assert_close(ln.loss(net, task), by_definition.loss(net, rows), bound)
    tolerances.assert_close(column(ln.gradient(net, task)), column(by_definition.gradient(net, rows)), bound)
    tolerances.assert_close(ln.fisher(net, task), by_definition.score_covariance(net, rows), bound)
    tolerances.assert_close(ln.hessian(net, task), by_definition.hessian(net, rows), 10 * bound)


@given(LADDER)
def test_fisher_matrix_is_the_covariance_of_the_score(problem: Problem) -> None:
    found = ln.fisher(problem.net, problem.task)
    bound = tolerances.product(np.float64, size_of(problem), problem.noise_condition**2)
    tolerances.assert_close(found, by_definition.score_covariance(problem.net, problem.task), bound)


def test_fisher_matrix_is_the_curvature_of_the_divergence(problem: Problem) -> None:
    found = ln.fisher(problem.net, problem.task)
    bound = tolerances.product(np.float64, size_of(problem), problem.noise_condition**2) * magnitude(problem)
    np.testing.assert_allclose(
        found, by_definition.kl_curvature(problem.net, problem.task), rtol=0, atol=bound
    )


def test_wrong_fisher_matrices_are_found_out(rung: str) -> None:
    # Negative controls: factors in the other order, and rows stacked in place of columns.
    widths = (4, 2, 3) if rung == "bottleneck" else (3, 4, 3)
    problem = make_problem(rung, 1, widths, **({"layer_ranks": (2, 1)} if rung == "rank-deficient" else {}))
    net, task = problem.net, problem.task
    wanted = by_definition.score_covariance(net, task)
    jacobian = by_definition.root_jacobian(net, task)
    transposed = np.concatenate(
        [
            jacobian[:, part]
            .reshape(len(jacobian), *layer.shape[::-1])
            .transpose(0, 2, 1)
            .reshape(len(jacobian), -1)
            for part, layer in zip(layer_slices(net), net.layers, strict=True)
        ],
        axis=1,
    )
    assert tolerances.relative_error(transposed.T @ transposed, wanted) > 1e-3
    blocks = np.zeros_like(wanted)
    for part in layer_slices(net):
        blocks[part, part] = wanted[part, part]
    assert tolerances.relative_error(blocks, wanted) > 1e-3


def test_blocks_and_products_are_those_of_the_whole_matrix(
    problem: Problem, rng: np.random.Generator
) -> None:
    net, task = problem.net, problem.task
    whole, parts = ln.fisher(net, task), layer_slices(net)
    bound = tolerances.product(np.float64, size_of(problem), problem.noise_condition**2)
    scale = np.abs(whole).max()
    for i, rows in enumerate(parts, 1):
        for j, columns in enumerate(parts, 1):
            block = ln.fisher_block(net, task, i, j)
            np.testing.assert_allclose(block, whole[rows, columns], rtol=0, atol=bound * scale)
    vector = rng.standard_normal(len(whole))
    operator = ln.fisher_operator(net, task)
    assert operator.shape == whole.shape
    for found in (operator @ vector, operator.T @ vector):
        slack = bound * np.abs(whole).sum(axis=1).max() * np.abs(vector).max()
        np.testing.assert_allclose(found, whole @ vector, rtol=0, atol=slack)


@pytest.mark.parametrize("seed", range(6))
def test_rank_is_that_of_the_dense_jacobian(rung: str, seed: int) -> None:
    problem = make_problem(rung, seed, **({"layer_condition": 8.0} if rung == "ill-conditioned" else {}))
    jacobian = by_definition.root_jacobian(problem.net, problem.task)
    values = np.linalg.svd(jacobian, compute_uv=False)
    rank = int((values > 1e-10 * values[0]).sum()) if values[0] > 0 else 0
    assert int(ln.fisher_rank(problem.net, problem.task)) == rank


def test_rank_stays_below_the_dimension_of_the_model_where_ranks_drop() -> None:
    # F1's counter-example: layer ranks 3, 2, 3 in 4-4-4-4.
    rng = np.random.default_rng(5)
    net = ln.LinearNetwork([integer_rank(rng, 4, 4, rank) for rank in (3, 2, 3)])
    task = ln.Task(np.eye(4))
    assert int(np.linalg.matrix_rank(net.total)) == 2
    assert int(ln.fisher_rank(net, task)) == int(np.linalg.matrix_rank(perturbed.total_jacobian(net))) == 13
    assert int(ln.fisher_rank(ln.LinearNetwork.random((4, 4, 4, 4), rng=0), task)) == 16


@given(problems(("tame", "bottleneck", "rank-deficient", "singular"), max_depth=4, max_width=4))
def test_rescaling_neighbours_is_a_null_direction(problem: Problem) -> None:
    net = problem.net
    if net.depth == 1:
        return
    rng, matrix = np.random.default_rng(problem.seed), ln.fisher(net, problem.task)
    for i in range(net.depth - 1):
        mixer = rng.standard_normal((net.widths[i + 1],) * 2)
        steps = [np.zeros_like(w) for w in net.weights]
        steps[i], steps[i + 1] = mixer @ net.weights[i], -net.weights[i + 1] @ mixer
        null = column(tuple(steps))
        bound = tolerances.backward(np.float64, len(null)) * problem.noise_condition**2
        assert np.linalg.norm(matrix @ null) <= bound * np.linalg.norm(matrix) * np.linalg.norm(null)


def test_hessian_is_the_second_difference_of_the_loss(problem: Problem) -> None:
    found = ln.hessian(problem.net, problem.task)
    bound = tolerances.product(np.float64, size_of(problem), problem.noise_condition**2) * magnitude(problem)
    np.testing.assert_allclose(found, by_definition.hessian(problem.net, problem.task), rtol=0, atol=bound)
    if problem.net.depth > 1 and 0 not in problem.layer_ranks and problem.input_rank:
        assert tolerances.relative_error(found, ln.fisher(problem.net, problem.task)) > 1e-3


@given(LADDER)
def test_hessian_is_the_second_difference_on_the_whole_ladder(problem: Problem) -> None:
    found = ln.hessian(problem.net, problem.task)
    bound = tolerances.product(np.float64, size_of(problem), problem.noise_condition**2) * magnitude(problem)
    np.testing.assert_allclose(found, by_definition.hessian(problem.net, problem.task), rtol=0, atol=bound)


def test_hessian_equals_the_fisher_matrix_without_error_and_for_one_layer() -> None:
    problem = make_problem("tame", 3, (3, 4, 4, 2))
    task = ln.Task(problem.net.total, problem.task.input_cov, problem.task.noise_cov)
    tolerances.assert_close(ln.hessian(problem.net, task), ln.fisher(problem.net, task), 1e-14)
    single = make_problem("biases", 3, (3, 2))
    np.testing.assert_array_equal(ln.hessian(single.net, single.task), ln.fisher(single.net, single.task))


def test_blocks_away_from_the_diagonal_are_not_small() -> None:
    # ‖F_ij‖² ≤ ‖F_ii‖‖F_jj‖ always; at balanced weights with white inputs and noise all norms are equal.
    def norms(net: ln.LinearNetwork, task: ln.Task) -> np.ndarray:
        matrix, parts = ln.fisher(net, task), layer_slices(net)
        return np.array([[np.linalg.norm(matrix[rows, columns], 2) for columns in parts] for rows in parts])

    problem = make_problem("tame", 4, (3, 4, 5, 2))
    free = norms(problem.net, problem.task)
    assert (free**2 <= np.outer(np.diag(free), np.diag(free)) * (1 + 1e-12)).all()
    assert free.max() > 1.01 * free.min()
    balanced = norms(ln.LinearNetwork.balanced(problem.net.total, 3), ln.Task(np.zeros((2, 3))))
    np.testing.assert_allclose(balanced, balanced[0, 0], rtol=tolerances.spectrum(np.float64, 16))


def test_canonical_correlations_between_layers_are_one() -> None:
    problem = make_problem("tame", 6, (3, 4, 5, 3))
    matrix, parts = ln.fisher(problem.net, problem.task), layer_slices(problem.net)

    def inverse_root(block: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(block)
        keep = values > 1e-10 * values[-1]
        return (vectors[:, keep] / np.sqrt(values[keep])) @ vectors[:, keep].T

    for i, rows in enumerate(parts):
        for j in range(i + 1, len(parts)):
            columns = parts[j]
            one, two = inverse_root(matrix[rows, rows]), inverse_root(matrix[columns, columns])
            correlation = one @ matrix[rows, columns] @ two
            values = np.linalg.svd(correlation, compute_uv=False)
            assert (np.minimum(np.abs(values), np.abs(values - 1)) < 1e-9).all()
            assert (values > 0.5).sum() == 9
    # In a bottleneck some are between 0 and 1 or absent: not all n_L n_0 of them are one.
    narrow = make_problem("bottleneck", 6, (4, 2, 4))
    assert int(ln.fisher_rank(narrow.net, narrow.task)) < 16


@pytest.mark.parametrize(
    ("widths", "depth"), [((3, 3), 1), ((3, 3), 2), ((4, 2), 3), ((2, 4), 4), ((3, 3), 8)]
)
def test_balanced_spectrum_is_that_of_the_dense_jacobian(widths: tuple[int, int], depth: int) -> None:
    rng = np.random.default_rng(depth)
    total = rng.standard_normal(widths[::-1])
    net = ln.LinearNetwork.balanced(total, depth)
    found = np.sort(ln.balanced_spectrum(np.linalg.svd(total, compute_uv=False), depth, *widths).ravel())
    wanted = np.linalg.svd(perturbed.total_jacobian(net), compute_uv=False) ** 2
    np.testing.assert_allclose(
        found, np.sort(wanted), rtol=0, atol=tolerances.spectrum(np.float64, 64) * found[-1]
    )
    exponent = 2 - 2 / depth
    values = np.sort(np.linalg.svd(total, compute_uv=False))
    # Square: κ = (s_1/s_n)^{2−2/L}; rectangular: L (s_1/s_min)^{2−2/L} for L ≥ 2.
    ratio = (values[-1] / values[0]) ** exponent * (1 if widths[0] == widths[1] else depth)
    np.testing.assert_allclose(found[-1] / found[0], ratio, rtol=1e-10)


def test_a_thousand_networks_at_once_equal_a_loop() -> None:
    problem = make_problem("biases", 2, (2, 3, 2))
    stack = ln.LinearNetwork.random((2, 3, 2), rng=4, biases=True, batch_shape=(2, 3))
    functions = (ln.loss, ln.excess_loss, ln.fisher, ln.hessian, ln.fisher_rank)
    for function in functions:
        found = np.asarray(function(stack, problem.task))
        for index in np.ndindex(2, 3):
            single = stack_entry(stack, index)
            wanted = np.asarray(function(single, problem.task))
            assert found[index].shape == wanted.shape
            np.testing.assert_allclose(found[index], wanted, rtol=1e-13, atol=1e-13)
    for whole, part in zip(
        ln.gradient(stack, problem.task), ln.gradient(stack_entry(stack, (1, 2)), problem.task), strict=True
    ):
        np.testing.assert_allclose(whole[1, 2], part, rtol=1e-13, atol=1e-13)


def stack_entry(net: ln.LinearNetwork, index: tuple[int, ...]) -> ln.LinearNetwork:
    biases = None if net.biases is None else [b[index] for b in net.biases]
    return ln.LinearNetwork([w[index] for w in net.weights], biases)


def test_float32_is_kept(rung: str) -> None:
    problem = make_problem(
        rung, 2, dtype=np.float32, **({"layer_condition": 8.0} if rung == "ill-conditioned" else {})
    )
    bound = tolerances.product(
        np.float32, size_of(problem), problem.noise_condition**2 * problem.input_condition
    )
    matrix = ln.fisher(problem.net, problem.task)
    assert matrix.dtype == np.float32
    tolerances.assert_close(matrix, by_definition.score_covariance(problem.net, problem.task), bound)
    for value in (ln.hessian(problem.net, problem.task), *ln.gradient(problem.net, problem.task)):
        assert value.dtype == np.float32
    assert ln.loss(problem.net, problem.task).dtype == np.float32


def test_bad_arguments_are_refused() -> None:
    net, task = ln.LinearNetwork.random((2, 3, 2), rng=0), ln.Task(np.eye(2))
    for function in (
        ln.loss,
        ln.excess_loss,
        ln.gradient,
        ln.fisher,
        ln.hessian,
        ln.fisher_operator,
        ln.fisher_rank,
    ):
        with pytest.raises(ln.InputError):
            function([np.eye(2)], task)  # type: ignore[arg-type]
        with pytest.raises(ln.InputError):
            function(net, np.eye(2))  # type: ignore[arg-type]
        with pytest.raises(ln.InputError):
            function(net, ln.Task(np.ones((2, 3))))
    for bad in (0, 3, 1.0, True):
        with pytest.raises(ln.InputError):
            ln.fisher_block(net, task, bad, 1)  # type: ignore[arg-type]
    with pytest.raises(ln.InputError, match="batch shape"):
        ln.fisher_operator(ln.LinearNetwork.random((2, 2), rng=0, batch_shape=(2,)), task)
    for values, message in (([1.0, 2.0, 3.0], "at most"), ([-1.0], "values ≥ 0"), ([np.nan], "finite")):
        with pytest.raises(ln.InputError, match=message):
            ln.balanced_spectrum(values, 2, 2, 2)
    with pytest.raises(ln.InputError, match="depth"):
        ln.balanced_spectrum([1.0], 0, 2, 2)
    wide = ln.LinearNetwork([np.zeros((400, 400))])
    with pytest.raises(ln.InputError, match="fisher_operator"):
        ln.fisher(wide, ln.Task(np.zeros((400, 400))))
    with pytest.raises(ln.InputError, match="hessian_operator"):
        ln.hessian(wide, ln.Task(np.zeros((400, 400))))
