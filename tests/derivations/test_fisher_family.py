"""Are the derived gradient, Fisher matrix, its rank and the Hessian (G1, F1, F2) those of the definition?"""

from __future__ import annotations

import numpy as np
import pytest

import linnat as ln
from derivations import f1_fisher, f2_hessian, g1_gradient
from linnat import dense
from tests import tolerances
from tests.derivations import _definitions as definitions
from tests.derivations._definitions import Case

PROBLEMS = definitions.problems()
CASES = definitions.cases()
named_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
named_problems = pytest.mark.parametrize(("name", "problem"), PROBLEMS, ids=[name for name, _ in PROBLEMS])


def size(case: Case) -> int:
    return sum(max(w.shape) for w in case.weights)


@pytest.mark.statement("G1")
@named_cases
def test_gradient_is_the_complex_step_of_the_loss(case: Case) -> None:
    found = g1_gradient.functions()["gradient"](*case.arguments)
    scale = np.linalg.norm(definitions.jacobian(case), 2) * np.linalg.norm(definitions.whitened_error(case))
    error = np.linalg.norm(definitions.stack(found) - definitions.stack(definitions.gradient(case)))
    assert error <= tolerances.product(np.float64, size(case)) * scale


@pytest.mark.statement("G1")
def test_gradient_with_the_other_sign_is_not() -> None:
    case = CASES[0]
    found = definitions.stack(g1_gradient.functions()["gradient"](*case.arguments))
    assert np.linalg.norm(found + definitions.stack(definitions.gradient(case))) > np.linalg.norm(found)


@pytest.mark.statement("G1")
@named_problems
def test_gradient_is_linnats(name: str, problem: definitions.Problem) -> None:
    case = definitions.case_of(name, problem)
    found = definitions.stack(g1_gradient.functions()["gradient"](*case.arguments))
    scale = np.linalg.norm(definitions.jacobian(case), 2) * np.linalg.norm(definitions.whitened_error(case))
    for other in (ln.gradient(problem.net, problem.task), dense.fisher.gradient(problem.net, problem.task)):
        assert (
            np.linalg.norm(found - definitions.stack(other))
            <= tolerances.product(np.float64, size(case)) * scale
        )


@pytest.mark.statement("F1")
@named_cases
def test_fisher_is_the_gram_matrix_of_unit_steps(case: Case) -> None:
    found = f1_fisher.functions()["fisher"](case.weights, case.input_cov, case.noise_cov)
    jacobian = definitions.jacobian(case)
    tolerances.assert_close(found, jacobian.T @ jacobian, _squared(case))


def _squared(case: Case) -> float:
    """F is a product of J with itself, J a chain: rounding relative to ‖J‖², κ of Π^½ once per factor."""
    noise = float(np.linalg.cond(case.noise_cov))
    return tolerances.product(np.float64, size(case), noise)


@pytest.mark.statement("F1")
@named_problems
def test_fisher_is_linnats_and_the_score_covariance(name: str, problem: definitions.Problem) -> None:
    case = definitions.case_of(name, problem)
    found = f1_fisher.functions()["fisher"](case.weights, case.input_cov, case.noise_cov)
    for other in (
        ln.fisher(problem.net, problem.task),
        dense.fisher.score_covariance(problem.net, problem.task),
    ):
        tolerances.assert_close(found, other, _squared(case))


@pytest.mark.statement("F1")
def test_fisher_with_the_two_factors_exchanged_is_another_matrix() -> None:
    case = next(c for c in CASES if c.name == "square")
    block = f1_fisher.functions()["fisher_block"](case.weights, case.input_cov, case.noise_cov, 1, 2)
    before, after = case.weights[0], case.weights[2] @ case.weights[1]
    left = case.input_cov @ before.T
    right = after.T @ np.linalg.solve(case.noise_cov, case.weights[2])
    assert tolerances.relative_error(block, np.kron(left, right)) <= _squared(case)
    assert tolerances.relative_error(block, np.kron(right, left)) > 0.1


@pytest.mark.statement("F1")
@named_problems
def test_rank_formula_counts_the_singular_values_of_the_jacobian(
    name: str, problem: definitions.Problem
) -> None:
    case = definitions.case_of(name, problem)
    p, q = ranks(case)
    values = np.linalg.svd(definitions.jacobian(case), compute_uv=False)
    counted = int(np.sum(values > 1e-9 * values[0]))
    assert f1_fisher.functions()["rank"](p, q) == counted
    assert int(ln.fisher_rank(problem.net, problem.task)) == counted


def ranks(case: Case) -> tuple[list[int], list[int]]:
    root_s, root_pi = definitions.roots(case)
    p, q = [], []
    for i in range(len(case.weights)):
        before = definitions.total(case.weights[:i]) @ root_s if i else root_s
        after = root_pi @ definitions.total(case.weights[i + 1 :]) if i + 1 < len(case.weights) else root_pi
        p.append(int(np.linalg.matrix_rank(after, tol=1e-9)))
        q.append(int(np.linalg.matrix_rank(before, tol=1e-9)))
    return p, q


@pytest.mark.statement("F1")
def test_rank_without_the_second_sum_is_wrong() -> None:
    p, q = ranks(next(c for c in CASES if c.name == "bottleneck"))
    assert f1_fisher.functions()["rank"](p, q) != sum(a * b for a, b in zip(p, q, strict=True))


@pytest.mark.statement("F2")
@named_cases
def test_hessian_is_the_second_difference_of_the_loss(case: Case) -> None:
    found = f2_hessian.functions()["hessian"](*case.arguments)
    reference = definitions.hessian(case)
    scale = np.linalg.norm(definitions.jacobian(case)) ** 2 + np.linalg.norm(reference - found + found)
    noise = float(np.linalg.cond(case.noise_cov))
    assert np.linalg.norm(found - reference) <= tolerances.product(np.float64, size(case), noise) * scale


@pytest.mark.statement("F2")
@named_problems
def test_hessian_is_linnats(name: str, problem: definitions.Problem) -> None:
    case = definitions.case_of(name, problem)
    found = f2_hessian.functions()["hessian"](*case.arguments)
    reference = ln.hessian(problem.net, problem.task)
    scale = np.linalg.norm(definitions.jacobian(case)) ** 2 + np.linalg.norm(reference)
    noise = float(np.linalg.cond(case.noise_cov))
    assert np.linalg.norm(found - reference) <= tolerances.product(np.float64, size(case), noise) * scale


@pytest.mark.statement("F2")
def test_hessian_is_not_the_fisher_matrix_away_from_the_teacher() -> None:
    case = CASES[0]
    fisher = f1_fisher.functions()["fisher"](case.weights, case.input_cov, case.noise_cov)
    assert tolerances.relative_error(f2_hessian.functions()["hessian"](*case.arguments), fisher) > 1e-3
    at_teacher = (case.weights, 0 * case.error, case.input_cov, case.noise_cov)
    tolerances.assert_close(f2_hessian.functions()["hessian"](*at_teacher), fisher, _squared(case))
