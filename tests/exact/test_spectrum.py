"""Are the eigenvalues of F those of the matrix by definition, by every route? Is the log-determinant their product?"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given

import linnat as ln
from linnat.dense import fisher as by_definition
from linnat.exact import spectrum
from tests import tolerances
from tests.strategies import Problem, make_problem, problems

pytestmark = pytest.mark.statement("F1", "S1")

LADDER = problems(max_depth=4, max_width=4, max_log_condition=2.0)
ROUTES = ("parameters", "samples", "singular-values")


@given(LADDER)
def test_all_routes_give_the_eigenvalues_of_the_definition(problem: Problem) -> None:
    net, task = problem.net, problem.task
    matrix = by_definition.score_covariance(net, task)
    count = min(net.n_parameters, net.widths[-1] * task.moments(net.has_biases).factor.shape[1])
    wanted = np.linalg.eigvalsh(matrix)[::-1][:count]
    slack = tolerances.spectrum(np.float64, len(matrix), problem.noise_condition**2) * wanted.max(
        initial=1e-300
    )
    for route in ROUTES:
        found = ln.fisher_eigenvalues(net, task, route)
        assert found.route == route
        assert int(found.rank) == int(ln.fisher_rank(net, task))
        np.testing.assert_allclose(found.values, wanted, rtol=0, atol=slack)
        assert (found.values[int(found.rank) :] == 0).all()
        assert (found.values >= 0).all()


def test_the_cheaper_route_is_taken_and_said() -> None:
    cases = {((20, 1, 20), 20): "parameters", ((4, 9, 2), 4): "samples", ((9, 9, 9), 2): "samples"}
    for (widths, rank), route in cases.items():
        net = ln.LinearNetwork.random(widths, rng=0)
        cov = np.diag(np.arange(widths[0]) < rank).astype(float)
        found = ln.fisher_eigenvalues(net, ln.Task(np.zeros((widths[-1], widths[0])), cov))
        assert found.route == route
        other = "samples" if route == "parameters" else "parameters"
        again = ln.fisher_eigenvalues(net, ln.Task(np.zeros((widths[-1], widths[0])), cov), other)
        bound = tolerances.spectrum(np.float64, net.n_parameters) * found.values[0]
        np.testing.assert_allclose(found.values, again.values, rtol=0, atol=bound)


def test_another_matrix_has_other_eigenvalues() -> None:
    # Negative control: the diagonal blocks alone, whose traces agree.
    problem = make_problem("tame", 1, (3, 4, 3))
    matrix = by_definition.score_covariance(problem.net, problem.task)
    blocks = matrix.copy()
    blocks[:12, 12:] = blocks[12:, :12] = 0
    assert np.trace(blocks) == pytest.approx(np.trace(matrix))
    found = ln.fisher_eigenvalues(problem.net, problem.task).values
    assert tolerances.relative_error(np.linalg.eigvalsh(blocks)[::-1][:9], found) > 1e-2


@given(problems(("tame", "bottleneck", "rank-deficient", "singular", "biases"), max_depth=4, max_width=4))
def test_the_log_determinant_is_that_of_the_definition(problem: Problem) -> None:
    net, task = problem.net, problem.task
    found = ln.fisher_logdet(net, task)
    rank = int(found.rank)
    jacobian = by_definition.root_jacobian(net, task)
    values = np.linalg.svd(jacobian, compute_uv=False)[:rank]
    condition = values[0] / values[-1] if rank else 1.0
    wanted = 2 * float(np.log(values).sum())
    bound = rank * tolerances.solve(np.float64, max(jacobian.shape), condition * problem.noise_condition)
    assert abs(float(found.value) - wanted) <= bound + 1e-300
    assert rank == int(ln.fisher_rank(net, task))


def test_one_layer_has_a_closed_form() -> None:
    # F = S ⊗ Π: log det⁺ F = n_L log det⁺ S − ρ log det Σ.
    rng = np.random.default_rng(2)
    root = rng.standard_normal((4, 3))
    noise = np.diag([1.0, 2.0, 5.0])
    task = ln.Task(rng.standard_normal((3, 4)), root @ root.T, noise)
    found = ln.fisher_logdet(ln.LinearNetwork.random((4, 3), rng=rng), task)
    wanted = 3 * np.linalg.slogdet(root.T @ root)[1] - 3 * np.log(10.0)
    assert int(found.rank) == 9
    assert float(found.value) == pytest.approx(wanted, rel=1e-12)


def test_singular_values_keep_what_a_square_loses() -> None:
    # Balanced factors of condition 1e6 (their product would have lost its smallest singular value): κ(J) = 1e6.
    values = np.geomspace(1.0, 1e-6, 4) ** 2
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((4, 4)))[0] for _ in range(2))
    root = np.sqrt(values)
    net, task = ln.LinearNetwork([root[:, None] * right, left * root]), ln.Task(np.zeros((4, 4)))
    wanted = np.sort(ln.balanced_spectrum(values, 2, 4, 4).ravel())[::-1]
    condition = float(np.sqrt(wanted[0] / wanted[-1]))
    assert condition == pytest.approx(1e6)
    by_values = ln.fisher_eigenvalues(net, task, "singular-values").values
    np.testing.assert_allclose(by_values, wanted, rtol=tolerances.solve(np.float64, 32, condition))
    by_square = ln.fisher_eigenvalues(net, task, "samples").values
    lost = np.abs(by_square / wanted - 1).max()
    assert lost > 10 * np.abs(by_values / wanted - 1).max()
    found = float(ln.fisher_logdet(net, task).value)
    assert abs(found - np.log(wanted).sum()) <= 16 * tolerances.solve(np.float64, 32, condition)


def test_a_log_determinant_without_digits_warns() -> None:
    # 12 Gaussian layers: every rank is full and proved to be, yet products have lost the smallest singular values.
    rng = np.random.default_rng(1)
    weights = [np.diag([1.0, 1e-6]) @ np.linalg.qr(rng.standard_normal((2, 2)))[0] for _ in range(6)]
    net, task = ln.LinearNetwork(weights), ln.Task(np.eye(2))
    with pytest.warns(ln.RankWarning, match="log-determinant of the Fisher matrix has no digits"):
        assert int(ln.fisher_logdet(net, task).rank) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ln.fisher_logdet(ln.LinearNetwork(weights[:2]), task)


def test_stacks_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    first = rng.standard_normal((3, 1, 3, 3))
    first[1, 0, 2] = first[1, 0, 0]
    net = ln.LinearNetwork([first, rng.standard_normal((3, 3))])
    task = ln.Task(np.eye(3), np.stack([np.eye(3), np.diag([1.0, 4.0, 0.0])]))
    determinants = ln.fisher_logdet(net, task)
    assert determinants.value.shape == determinants.rank.shape == (3, 2)
    for route in ROUTES:
        found = ln.fisher_eigenvalues(net, task, route)
        assert found.values.shape == (3, 2, 9)
        for a, b in np.ndindex(3, 2):
            single = ln.LinearNetwork([first[a, 0], net.weights[1][a, 0]])
            one = ln.Task(np.eye(3), task.input_cov[b])
            alone = ln.fisher_eigenvalues(single, one, route)
            assert found.rank[a, b] == alone.rank
            padded = np.zeros(9)
            padded[: len(alone.values)] = alone.values
            np.testing.assert_allclose(found.values[a, b], padded, rtol=0, atol=1e-13 * padded[0])
            own = ln.fisher_logdet(single, one)
            assert determinants.rank[a, b] == own.rank
            np.testing.assert_allclose(determinants.value[a, b], own.value, rtol=1e-11)


def test_nothing_varies_without_inputs() -> None:
    net, task = ln.LinearNetwork.random((2, 3, 2), rng=0), ln.Task(np.eye(2), np.zeros((2, 2)))
    for route in ROUTES:
        assert ln.fisher_eigenvalues(net, task, route).values.shape == (0,)
    assert ln.fisher_logdet(net, task) == (0.0, 0)


def test_float32_is_kept() -> None:
    problem = make_problem("tame", 1, (3, 4, 2), dtype=np.float32)
    wanted = ln.fisher_eigenvalues(make_problem("tame", 1, (3, 4, 2)).net, problem.task).values
    for route in ROUTES:
        found = ln.fisher_eigenvalues(problem.net, problem.task, route).values
        assert found.dtype == np.float32
        np.testing.assert_allclose(
            found, wanted, rtol=0, atol=tolerances.spectrum(np.float32, 20) * wanted[0]
        )
    assert ln.fisher_logdet(problem.net, problem.task).value.dtype == np.float32


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    net, task = ln.LinearNetwork.random((2, 3, 2), rng=0), ln.Task(np.eye(2))
    with pytest.raises(ln.InputError, match=r"^route: expected one of 'auto', 'parameters'"):
        ln.fisher_eigenvalues(net, task, "sample")
    with pytest.raises(ln.InputError, match="^rtol"):
        ln.fisher_logdet(net, task, rtol=-1.0)
    large = ln.LinearNetwork([np.zeros((400, 400))]), ln.Task(np.zeros((400, 400)))
    for route in ("samples", "singular-values"):
        with pytest.raises(ln.InputError, match="eigsh on fisher_operator"):
            ln.fisher_eigenvalues(*large, route)
    assert set(ROUTES) | {"auto"} == set(spectrum.ROUTES)
