"""Are products, diagonals, traces and step norms those of the matrices by definition? Against `linnat.dense`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from scipy.sparse.linalg import eigsh, lobpcg

import linnat as ln
from linnat.dense import fisher as by_definition
from linnat.dense.sample import of_data
from linnat.exact import operators
from tests import tolerances
from tests.strategies import RUNGS, Problem, make_problem, problems

pytestmark = pytest.mark.statement("F1", "F2")

LADDER = problems(max_depth=4, max_width=4, max_log_condition=3.0)
PRODUCTS = {
    "fisher": (operators._fisher_by_inputs, operators._fisher_by_outputs, by_definition.score_covariance),
    "hessian": (operators._hessian_by_inputs, operators._hessian_by_outputs, by_definition.hessian),
}


def scale_of(problem: Problem) -> float:
    """Return the largest entry of F or H when nothing cancels, and at least the rounding of unit differences."""
    net = problem.net
    absolute = net.replace_layers([np.abs(layer) + 2.0 for layer in net.layers])
    task = ln.Task(
        -np.abs(problem.task.teacher),
        problem.task.input_cov,
        problem.task.noise_cov,
        -np.abs(problem.task.teacher_bias),
        problem.task.input_mean,
    )
    return float(by_definition.loss(absolute, task))


def bound_of(problem: Problem) -> float:
    return tolerances.product(np.float64, sum(problem.net.widths), problem.noise_condition**2)


@given(LADDER)
def test_products_are_those_of_the_definition(problem: Problem) -> None:
    net, task = problem.net, problem.task
    vectors = np.random.default_rng(problem.seed).standard_normal((net.n_parameters, 3))
    slack = bound_of(problem) * scale_of(problem) * net.n_parameters * np.abs(vectors).max()
    for name, (by_inputs, by_outputs, oracle) in PRODUCTS.items():
        wanted = oracle(net, task) @ vectors
        single = operators._single(net, task)
        ways = [operators._operator(net, single, way(single)) for way in (by_inputs, by_outputs)]
        for way in (*ways, getattr(ln, f"{name}_operator")(net, task)):
            assert way.shape == (net.n_parameters,) * 2
            np.testing.assert_allclose(way @ vectors, wanted, rtol=0, atol=slack)
            np.testing.assert_allclose(way.T @ vectors, wanted, rtol=0, atol=slack)
            np.testing.assert_allclose(way @ vectors[:, 0], wanted[:, 0], rtol=0, atol=slack)
            np.testing.assert_allclose(way.rmatvec(vectors[:, 1]), wanted[:, 1], rtol=0, atol=slack)


def test_products_with_data_are_those_of_its_rows(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((9, 4)) + 0.5, rng.standard_normal((9, 2))
    noise = np.array([[2.0, 0.5], [0.5, 1.0]])
    task = ln.Task.from_data(x, y, noise)
    for widths in ((4, 3, 2), (4, 5, 2), (4, 2)):
        net = ln.LinearNetwork.random(widths, rng=rng, biases=True)
        vectors = rng.standard_normal((net.n_parameters, 2))
        points = by_definition.fitting_sample(net, of_data(x, y, noise))
        bound = tolerances.solve(np.float64, len(x), 30.0)
        tolerances.assert_close(
            ln.fisher_operator(net, task) @ vectors, by_definition.gauss_newton(net, points) @ vectors, bound
        )
        tolerances.assert_close(
            ln.hessian_operator(net, task) @ vectors, by_definition.hessian(net, points) @ vectors, 10 * bound
        )


def test_the_hessian_is_not_the_fisher_matrix(rung: str) -> None:
    # Negative control: away from the optimum the two operators differ, at it and for one layer they do not.
    problem = make_problem(rung, 2, (3, 4, 4, 3) if rung != "bottleneck" else (3, 2, 3, 3))
    net, task = problem.net, problem.task
    vector = np.random.default_rng(0).standard_normal(net.n_parameters)
    found = ln.hessian_operator(net, task) @ vector
    if 0 not in problem.layer_ranks and problem.input_rank:
        assert tolerances.relative_error(found, ln.fisher_operator(net, task) @ vector) > 1e-3
    if not net.has_biases:
        there = ln.Task(net.total, task.input_cov, task.noise_cov)
        scale = float(np.linalg.norm(ln.fisher(net, there))) * float(np.linalg.norm(vector))
        gap = ln.hessian_operator(net, there) @ vector - ln.fisher_operator(net, there) @ vector
        assert np.linalg.norm(gap) <= tolerances.product(np.float64, 64, problem.noise_condition**2) * scale


def test_the_hessian_is_the_derivative_of_the_gradient(problem: Problem) -> None:
    # The gradient is a polynomial of degree 2L - 1 along a line: the error of the difference falls like h².
    net, task = problem.net, problem.task
    rng = np.random.default_rng(3)
    step = ln.unflatten(rng.standard_normal(net.n_parameters), net)
    found = ln.hessian_operator(net, task) @ ln.flatten(step)

    def slope(h: float) -> np.ndarray:
        moved = net.replace_layers([a + h * d for a, d in zip(net.layers, step, strict=True)])
        return ln.flatten(ln.gradient(moved, task))

    errors = [np.linalg.norm((slope(h) - slope(-h)) / (2 * h) - found) for h in (1e-2, 1e-3)]
    floor = 1e-9 * max(np.linalg.norm(found), np.linalg.norm(slope(1e-2)))
    assert errors[1] <= max(errors[0] / 50, floor)


@pytest.mark.parametrize("name", ["fisher", "hessian"])
def test_wide_blocks_are_cut(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem("biases", 1, (3, 5, 4, 2))
    operator = getattr(ln, f"{name}_operator")(problem.net, problem.task)
    vectors = np.random.default_rng(0).standard_normal((problem.net.n_parameters, 11))
    whole = operator @ vectors
    monkeypatch.setattr(operators, "WORKSPACE", 40)
    cut = getattr(ln, f"{name}_operator")(problem.net, problem.task)
    bound = tolerances.product(np.float64, 16)
    tolerances.assert_close(cut @ vectors, whole, bound)
    tolerances.assert_close(np.stack([operator @ v for v in vectors.T], axis=1), whole, bound)


def test_the_cheaper_side_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in ("_fisher_by_inputs", "_fisher_by_outputs"):
        way = getattr(operators, name)
        monkeypatch.setattr(operators, name, lambda p, n=name, w=way: called.append(n) or w(p))
    ln.fisher_operator(ln.LinearNetwork.random((9, 9, 1), rng=0), ln.Task(np.ones((1, 9))))
    ln.fisher_operator(ln.LinearNetwork.random((1, 9, 9), rng=0), ln.Task(np.ones((9, 1))))
    few = ln.Task.from_data(np.eye(9)[:2], np.ones((2, 9)))
    ln.fisher_operator(ln.LinearNetwork.random((9, 9, 9), rng=0), few)
    assert called == ["_fisher_by_outputs", "_fisher_by_inputs", "_fisher_by_inputs"]


@given(LADDER)
def test_diagonal_and_trace(problem: Problem) -> None:
    net, task = problem.net, problem.task
    wanted = np.diagonal(by_definition.score_covariance(net, task))
    found = ln.fisher_diagonal(net, task)
    assert [d.shape for d in found] == [layer.shape for layer in net.layers]
    slack = bound_of(problem) * max(float(np.abs(wanted).max()), 1e-300)
    np.testing.assert_allclose(ln.flatten(found), wanted, rtol=0, atol=slack)
    trace = float(ln.fisher_trace(net, task))
    assert abs(trace - wanted.sum()) <= slack * len(wanted)
    assert abs(trace - np.trace(by_definition.hessian(net, task))) <= (
        bound_of(problem) * scale_of(problem) * len(wanted)
    )


def test_a_transposed_diagonal_is_found_out() -> None:
    # Negative control: rows in place of columns.
    problem = make_problem("tame", 3, (3, 4, 2))
    wanted = np.diagonal(by_definition.score_covariance(problem.net, problem.task))
    found = ln.fisher_diagonal(problem.net, problem.task)
    assert tolerances.relative_error(ln.flatten(found, order="C"), wanted) > 1e-2


@given(LADDER)
def test_the_step_norm_is_twice_the_divergence(problem: Problem) -> None:
    net, task = problem.net, problem.task
    step = ln.unflatten(np.random.default_rng(problem.seed).standard_normal(net.n_parameters), net)
    found = float(ln.fisher_norm2(net, task, step))
    vector = ln.flatten(step)
    wanted = float(vector @ by_definition.score_covariance(net, task) @ vector)
    assert abs(found - wanted) <= bound_of(problem) * len(vector) * max(wanted, 1e-300)
    # By its meaning: the divergence of the moved model, to second order.
    errors = []
    for h in (1e-2, 1e-3):
        pair = [
            by_definition.kl_divergence(
                net,
                net.replace_layers([a + s * h * d for a, d in zip(net.layers, step, strict=True)]),
                task,
            )
            for s in (1.0, -1.0)
        ]
        errors.append(abs(sum(pair) / h**2 - found))
    assert errors[1] <= max(errors[0] / 30, 1e-7 * scale_of(problem))


def test_the_natural_step_has_the_norm_that_the_loss_says() -> None:
    # uᵀFu = uᵀ∇ℓ = 2 ℓ where (J) holds: the Fisher length of the path, squared.
    problem = make_problem("tame", 5, (3, 5, 3))
    step = ln.natural_gradient(problem.net, problem.task)
    excess = float(ln.excess_loss(problem.net, problem.task))
    bound = tolerances.solve(np.float64, 16, problem.condition_sum**2)
    assert abs(float(ln.fisher_norm2(problem.net, problem.task, step)) - 2 * excess) <= bound * excess
    # Not so in a bottleneck.
    narrow = make_problem("bottleneck", 5, (4, 1, 4))
    step = ln.natural_gradient(narrow.net, narrow.task)
    assert float(ln.fisher_norm2(narrow.net, narrow.task, step)) < 1.9 * float(
        ln.excess_loss(narrow.net, narrow.task)
    )


def test_leading_axes_broadcast() -> None:
    rng = np.random.default_rng(0)
    net = ln.LinearNetwork.random((3, 4, 2), rng=rng, batch_shape=(2, 1))
    task = ln.Task(
        rng.standard_normal((2, 3)), np.stack([np.eye(3), np.diag([1.0, 4.0, 0.0])]), np.diag([1.0, 3.0])
    )
    steps = [rng.standard_normal((5, 1, 1, 4, 3)), rng.standard_normal((2, 4))]
    diagonal, trace = ln.fisher_diagonal(net, task), ln.fisher_trace(net, task)
    norms = ln.fisher_norm2(net, task, steps)
    assert [d.shape for d in diagonal] == [(2, 2, 4, 3), (2, 2, 2, 4)]
    assert trace.shape == (2, 2)
    assert norms.shape == (5, 2, 2)
    for a, b in np.ndindex(2, 2):
        single = ln.LinearNetwork([w[a, 0] for w in net.weights])
        one = ln.Task(task.teacher, task.input_cov[b], task.noise_cov)
        for whole, part in zip(diagonal, ln.fisher_diagonal(single, one), strict=True):
            np.testing.assert_allclose(whole[a, b], part, rtol=1e-13)
        np.testing.assert_allclose(trace[a, b], ln.fisher_trace(single, one), rtol=1e-13)
        own = ln.fisher_norm2(single, one, [steps[0][:, 0, 0], steps[1]])
        np.testing.assert_allclose(norms[:, a, b], own, rtol=1e-13)


@pytest.mark.parametrize("rung", RUNGS)
def test_float32_is_kept(rung: str) -> None:
    options = {"layer_condition": 8.0} if rung == "ill-conditioned" else {}
    problem = make_problem(rung, 2, dtype=np.float32, **options)
    net, task = problem.net, problem.task
    vector = np.random.default_rng(0).standard_normal(net.n_parameters)
    step = ln.unflatten(vector, net)
    operator = ln.fisher_operator(net, task)
    values = [operator @ vector, ln.hessian_operator(net, task) @ vector, *ln.fisher_diagonal(net, task)]
    values += [ln.fisher_trace(net, task), ln.fisher_norm2(net, task, step)]
    assert {value.dtype for value in values} == {np.dtype(np.float32)}
    assert operator.dtype == np.float32
    matrix = by_definition.score_covariance(net, task)
    bound = tolerances.product(
        np.float32, sum(net.widths), problem.noise_condition**2 * problem.input_condition
    )
    slack = bound * float(np.linalg.norm(matrix)) * float(np.linalg.norm(vector))
    assert np.linalg.norm(values[0] - matrix @ vector) <= slack


def test_bad_input() -> None:
    net, task = ln.LinearNetwork.random((2, 3, 2), rng=0), ln.Task(np.eye(2))
    functions: list[Any] = [ln.fisher_operator, ln.hessian_operator, ln.fisher_diagonal, ln.fisher_trace]
    for function in functions:
        with pytest.raises(ln.InputError, match="^net: expected a LinearNetwork"):
            function([np.eye(2)], task)
        with pytest.raises(ln.InputError, match="^task: expected 2 inputs and 2 outputs"):
            function(net, ln.Task(np.eye(3)))
    for operator in (ln.fisher_operator(net, task), ln.hessian_operator(net, task)):
        with pytest.raises(ValueError, match="dimension mismatch"):
            operator @ np.ones(5)
        with pytest.raises(ln.InputError, match="^vector: expected finite numbers, found nan"):
            operator @ np.full(12, np.nan)
        with pytest.raises(ln.InputError, match="^vector: expected real numbers"):
            operator @ np.ones(12, complex)
    stack = ln.LinearNetwork.random((2, 3, 2), rng=0, batch_shape=(4,))
    for function in functions[:2]:
        with pytest.raises(ln.InputError, match="^net, task: expected one network and one task"):
            function(stack, task)
    with pytest.raises(ln.InputError, match=r"^direction\[1\]: expected shape"):
        ln.fisher_norm2(net, task, [np.ones((3, 2)), np.ones((3, 2))])
    with pytest.raises(ln.InputError, match="^net, task and direction: expected leading axes that broadcast"):
        ln.fisher_norm2(stack, task, [np.ones((3, 3, 2)), np.ones((2, 3))])


@pytest.mark.slow
@pytest.mark.statement("S1")
def test_the_spectrum_of_a_million_parameters() -> None:
    # Balanced layers, white inputs and noise: every eigenvalue is known in closed form (S1).
    size, depth = 512, 4
    rng = np.random.default_rng(0)
    values = 2.0 / np.sqrt(np.arange(1.0, size + 1))
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    net = ln.LinearNetwork.balanced((left * values) @ right, depth)
    task = ln.Task(np.zeros((size, size)))
    assert net.n_parameters > 1_000_000
    wanted = np.sort(ln.balanced_spectrum(values, depth, size, size).ravel())[::-1]
    operator = ln.fisher_operator(net, task)
    began = time.perf_counter()
    start = operator @ rng.standard_normal(net.n_parameters)
    found, vectors = eigsh(operator, 3, v0=start, tol=1e-9)
    assert time.perf_counter() - began < 60
    residual = operator @ vectors - vectors * found
    assert np.abs(residual).max() <= 1e-8 * wanted[0]
    # λ_ab = λ_ba are double, and one Krylov space sees one copy of each; a block sees both.
    np.testing.assert_allclose(np.sort(found)[::-1], wanted[[0, 1, 3]], rtol=1e-12)
    assert wanted[1] == pytest.approx(wanted[2], rel=1e-14)
    block = operator @ (operator @ rng.standard_normal((net.n_parameters, 5)))
    both, _ = lobpcg(operator, block, tol=1e-2, maxiter=12, largest=True)
    np.testing.assert_allclose(np.sort(both)[::-1][:3], wanted[:3], rtol=1e-4)


@pytest.mark.slow
def test_few_samples_of_a_million_parameters() -> None:
    # The sample space is small: J Jᵀ has N n_L = 60 rows, summed from Kronecker products of plain sums.
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((12, 784)), rng.standard_normal((12, 5))
    net, task = ln.LinearNetwork.random((784, 700, 650, 5), rng=rng), ln.Task.from_data(x, y)
    assert net.n_parameters > 1_000_000
    rows = x.T / np.sqrt(len(x))
    gram = sum(
        np.kron((a @ rows).T @ (a @ rows), b @ b.T) for a, b in zip(net.before, net.after, strict=True)
    )
    wanted = np.linalg.eigvalsh(gram)[::-1]
    operator = ln.fisher_operator(net, task)
    found = eigsh(operator, 6, v0=rng.standard_normal(net.n_parameters), return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(found)[::-1], wanted[:6], rtol=1e-10)
    # The Hessian has negative curvature here; its eigenvector is checked by differences of the gradient.
    curved = ln.hessian_operator(net, task)
    least, vector = eigsh(
        curved, 1, which="SA", v0=operator @ rng.standard_normal(net.n_parameters), tol=1e-4
    )
    assert least[0] < -1e-3 * wanted[0]
    step = ln.unflatten(vector[:, 0], net)
    ends = [
        ln.flatten(
            ln.gradient(net.replace_layers([a + s * d for a, d in zip(net.layers, step, strict=True)]), task)
        )
        for s in (1e-4, -1e-4)
    ]
    quotient = (ends[0] - ends[1]) / 2e-4
    assert np.linalg.norm(quotient - least[0] * vector[:, 0]) <= 1e-2 * abs(least[0])


def test_sums_of_products_go_where_they_are_wanted() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 3, 5)), rng.standard_normal((5, 2))
    wanted = np.einsum("ijk,kl->ijl", a, b)
    bound = tolerances.product(np.float64, 5) * 10
    np.testing.assert_allclose(operators.contract(a, b), wanted, atol=bound)
    out = np.full(wanted.shape, np.nan)  # what was there does not matter
    assert operators.contract(a, b, out) is out
    np.testing.assert_allclose(out, wanted, atol=bound)
    operators.contract(a, b, out, add=True)
    np.testing.assert_allclose(out, 2 * wanted, atol=2 * bound)
    # None stands for the identity.
    assert operators.contract(None, b) is b
    assert operators.contract(a, None) is a
    place = np.zeros_like(b)
    operators.contract(None, b, place)
    operators.contract(b, None, place, add=True)
    assert (place == 2 * b).all()
    assert not np.shares_memory(place, b)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("name", ["fisher_operator", "hessian_operator"])
def test_a_product_leaves_its_vector_alone_and_blocks_are_columns(name: str, depth: int) -> None:
    # White inputs and noise: the identities at both ends are skipped, and single columns are not copied.
    net = ln.LinearNetwork.random((4, 3, 5, 2)[: depth + 1], rng=depth)
    task = ln.Task(np.ones((net.widths[-1], 4)))
    operator, rng = getattr(ln, name)(net, task), np.random.default_rng(0)
    block = rng.standard_normal((net.n_parameters, 3))
    kept = block.copy()
    singles = np.stack([operator @ np.ascontiguousarray(column) for column in block.T], axis=1)
    found = operator @ block
    assert (block == kept).all()
    assert not np.shares_memory(found, block)
    scale = float(np.abs(singles).max())
    np.testing.assert_allclose(found, singles, rtol=0, atol=tolerances.product(np.float64, 16) * scale)
    np.testing.assert_allclose(operator @ np.asfortranarray(block), singles, rtol=0, atol=1e-13 * scale)


@pytest.mark.parametrize("columns", [1, 2, 10])
def test_blocks_are_cut_without_loss(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net = ln.LinearNetwork.random((4, 3, 5, 2), rng=0)
    task = ln.Task(np.ones((2, 4)))
    block = np.random.default_rng(0).standard_normal((net.n_parameters, 5))
    wanted = ln.hessian_operator(net, task) @ block
    monkeypatch.setattr(operators, "COLUMNS", columns * net.n_parameters)
    found = ln.hessian_operator(net, task) @ block
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13 * float(np.abs(wanted).max()))
