"""Do the derived natural gradients (N1–N4, N6, X1) solve F v = −∇ℓ where they claim to? Are they linnat's?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import linnat as ln
from derivations import (
    n1_layerwise,
    n2_staircase,
    n3_gauges,
    n4_damping,
    n6_kfac,
    x1_least_norms,
)
from derivations._core import DerivationError
from linnat import dense
from tests import tolerances
from tests.derivations import _definitions as definitions
from tests.derivations._definitions import Case

PROBLEMS = definitions.problems()
CASES = definitions.cases()
WIDE = ("square", "wide", "one layer", "two layers")
named_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
named_problems = pytest.mark.parametrize(("name", "problem"), PROBLEMS, ids=[name for name, _ in PROBLEMS])

staircase = n2_staircase.functions()["natural_gradient"]
layerwise = n1_layerwise.functions()["natural_gradient"]
minimum_norm = n3_gauges.functions()["minimum_norm"]
sylvester = n3_gauges.functions()["sylvester"]
damped = n4_damping.functions()["damped"]


def fisher_and_descent(case: Case) -> tuple[np.ndarray, np.ndarray]:
    jacobian = definitions.jacobian(case)
    return jacobian.T @ jacobian, -definitions.stack(definitions.gradient(case))


def close(found: Sequence[np.ndarray], other: Sequence[np.ndarray], case: Case, sign: float = 1.0) -> None:
    tolerances.assert_close(
        definitions.stack(found),
        sign * definitions.stack(other),
        definitions.bound(case) * amplification(case),
    )


def amplification(case: Case) -> float:
    """‖J⁺‖‖Ẽ‖/‖v‖: the cancellation between the error and the direction, p = 1."""
    values = np.linalg.svd(definitions.jacobian(case), compute_uv=False)
    smallest = values[values > 1e-9 * values[0]][-1]
    size = np.linalg.norm(definitions.stack(minimum_norm(*case.arguments)))
    return max(1.0, float(np.linalg.norm(definitions.whitened_error(case)) / smallest / size))


@pytest.mark.statement("N2")
@named_cases
def test_staircase_solves_for_any_widths_ranks_and_inputs(case: Case) -> None:
    matrix, descent = fisher_and_descent(case)
    definitions.assert_solves(matrix, staircase(*case.arguments), descent, case)


@pytest.mark.statement("N2", "X1")
@named_cases
def test_staircase_is_orthogonal_to_null_directions_in_the_block_diagonal_metric(case: Case) -> None:
    jacobian = definitions.jacobian(case)
    metric = definitions.block_diagonal(jacobian.T @ jacobian, case)
    _, values, rows = np.linalg.svd(jacobian)
    rank = int(np.sum(values > 1e-9 * values[0]))
    found = definitions.stack(staircase(*case.arguments))
    scale = np.linalg.norm(metric, 2) * np.linalg.norm(found)
    assert np.linalg.norm(rows[rank:] @ (metric @ found)) <= definitions.bound(case) * scale


@pytest.mark.statement("N2")
@named_problems
def test_staircase_is_linnats(name: str, problem: definitions.Problem) -> None:
    case = definitions.case_of(name, problem)
    found = staircase(*case.arguments)
    close(found, ln.natural_gradient(problem.net, problem.task), case, -1.0)
    close(found, dense.natural.natural_gradient(problem.net, problem.task, rtol=1e-10), case, -1.0)


@pytest.mark.statement("N1")
@named_cases
def test_layerwise_solves_exactly_on_wide_networks(case: Case) -> None:
    matrix, descent = fisher_and_descent(case)
    found = layerwise(*case.arguments)
    error = definitions.residual(matrix, definitions.stack(found), descent)
    wide = case.name in WIDE or case.name == "singular S"
    assert (error <= definitions.bound(case)) == wide, error
    if not wide:
        assert error > 1e-3
        assert definitions.stack(found) @ descent > 0  # downhill all the same


@pytest.mark.statement("N1")
def test_layerwise_without_one_over_depth_does_not_solve() -> None:
    case = CASES[0]
    matrix, descent = fisher_and_descent(case)
    found = len(case.weights) * definitions.stack(layerwise(*case.arguments))
    assert definitions.residual(matrix, found, descent) > 1e-2


@pytest.mark.statement("N3")
@named_cases
def test_all_gauges_move_the_total_weight_alike(case: Case) -> None:
    jacobian = definitions.jacobian(case)
    projection = jacobian @ np.linalg.lstsq(jacobian, definitions.whitened_error(case), rcond=1e-10)[0]
    scale = np.linalg.norm(definitions.whitened_error(case))
    for found in (staircase(*case.arguments), minimum_norm(*case.arguments)):
        error = np.linalg.norm(jacobian @ definitions.stack(found) - projection)
        assert error <= definitions.bound(case) * scale * amplification(case)


@pytest.mark.statement("N3")
@named_cases
def test_minimum_norm_is_the_least_squares_solution_of_least_norm(case: Case) -> None:
    reference = np.linalg.lstsq(definitions.jacobian(case), definitions.whitened_error(case), rcond=1e-10)[0]
    bound = definitions.bound(case) * amplification(case)
    tolerances.assert_close(definitions.stack(minimum_norm(*case.arguments)), reference, bound)


@pytest.mark.statement("N3")
@named_problems
def test_minimum_norm_is_linnats(name: str, problem: definitions.Problem) -> None:
    case = definitions.case_of(name, problem)
    found = minimum_norm(*case.arguments)
    close(found, ln.natural_gradient(problem.net, problem.task, gauge="minimum-norm"), case, -1.0)
    close(
        found,
        dense.natural.natural_gradient(problem.net, problem.task, "minimum-norm", rtol=1e-10),
        case,
        -1.0,
    )


@pytest.mark.statement("N3")
@pytest.mark.parametrize("name", ["bottleneck", "zero layer", "singular S", "two layers"])
def test_sylvester_form_is_the_minimum_norm_for_two_layers(name: str) -> None:
    case = next(c for c in CASES if c.name == name)
    close(sylvester(*case.arguments), minimum_norm(*case.arguments), case)


@pytest.mark.statement("N4")
@pytest.mark.parametrize("damping", [1e-3, 1.0, 1e3])
@named_cases
def test_damped_solves_the_damped_system(case: Case, damping: float) -> None:
    matrix, descent = fisher_and_descent(case)
    found = damped(*case.arguments, damping)
    definitions.assert_solves(matrix + damping * np.eye(len(matrix)), found, descent, case)


@pytest.mark.statement("N4")
@named_problems
def test_damped_is_linnats(name: str, problem: definitions.Problem) -> None:
    case = definitions.case_of(name, problem)
    found = damped(*case.arguments, 0.1)
    close(found, ln.natural_gradient(problem.net, problem.task, damping=0.1), case, -1.0)
    close(found, dense.natural.natural_gradient(problem.net, problem.task, damping=0.1), case, -1.0)


@pytest.mark.statement("N4")
def test_damping_tends_to_the_minimum_norm_with_error_of_order_one() -> None:
    case = CASES[0]
    limit = definitions.stack(minimum_norm(*case.arguments))
    strengths = np.geomspace(1e-4, 1e-6, 3)
    errors = [np.linalg.norm(definitions.stack(damped(*case.arguments, s)) - limit) for s in strengths]
    order = np.polyfit(np.log(strengths), np.log(errors), 1)[0]
    assert 0.95 < order < 1.05


@pytest.mark.statement("N4")
def test_factored_damping_is_an_approximation() -> None:
    case = next(c for c in CASES if c.name == "one layer")
    exact = definitions.stack(damped(*case.arguments, 0.1))
    factored = definitions.stack(n4_damping.functions()["factored"](*case.arguments, 0.1))
    error = np.linalg.norm(factored - exact) / np.linalg.norm(exact)
    assert 1e-3 < error < 1.0
    # Without damping the one block is the exact F.
    close(n4_damping.functions()["factored"](*case.arguments, 0.0), staircase(*case.arguments), case)


@pytest.mark.statement("N6")
@named_cases
def test_kfac_step_solves_with_the_diagonal_blocks_alone(case: Case) -> None:
    matrix, descent = fisher_and_descent(case)
    blocks = definitions.block_diagonal(matrix, case)
    definitions.assert_solves(blocks, n6_kfac.functions()["kfac_step"](*case.arguments), descent, case)


@pytest.mark.statement("N6")
@named_cases
def test_kfac_factors_are_the_diagonal_blocks(case: Case) -> None:
    matrix, _ = fisher_and_descent(case)
    size = sum(max(w.shape) for w in case.weights)
    for place, (left, right) in zip(
        definitions.layer_slices(case), n6_kfac.functions()["factors"](*case.arguments), strict=True
    ):
        bound = tolerances.product(np.float64, size, float(np.linalg.cond(case.noise_cov)))
        tolerances.assert_close(np.kron(left, right), matrix[place, place], bound)


@pytest.mark.statement("N6")
@pytest.mark.parametrize("name", ["square", "bottleneck"])
def test_kfac_step_is_linnats_block_diagonal_mask(name: str) -> None:
    problem = dict(PROBLEMS)[name]
    case = definitions.case_of(name, problem)
    found = n6_kfac.functions()["kfac_step"](*case.arguments)
    close(found, ln.natural_gradient(problem.net, problem.task, mask="block-diagonal"), case, -1.0)


@pytest.mark.statement("X1")
@named_cases
def test_block_form_is_the_quadratic_form_of_the_diagonal_blocks(case: Case) -> None:
    matrix, _ = fisher_and_descent(case)
    blocks = definitions.block_diagonal(matrix, case)
    direction = [np.cos(np.arange(w.size) + i).reshape(w.shape) for i, w in enumerate(case.weights)]
    vector = definitions.stack(direction)
    form = x1_least_norms.functions()["block_quadratic_form"]
    found = form(case.weights, direction, case.input_cov, case.noise_cov)
    bound = tolerances.product(np.float64, vector.size, float(np.linalg.cond(case.noise_cov)))
    assert abs(found - vector @ blocks @ vector) <= bound * np.linalg.norm(blocks, 2) * (vector @ vector)


@pytest.mark.statement("X1")
def test_staircase_follows_changes_of_hidden_coordinates_and_minimum_norm_does_not() -> None:
    case = CASES[0]
    rng = np.random.default_rng(5)
    changes = [
        np.eye(3),
        *(np.eye(3) + 0.3 * rng.standard_normal((3, 3)) for _ in case.weights[1:]),
        np.eye(3),
    ]
    transform = x1_least_norms.functions()["transform"]
    moved = Case("moved", transform(case.weights, changes), case.error, case.input_cov, case.noise_cov)
    expected = definitions.stack(transform(staircase(*case.arguments), changes))
    bound = max(definitions.bound(case), definitions.bound(moved)) * np.prod(
        [np.linalg.cond(c) for c in changes]
    )
    tolerances.assert_close(definitions.stack(staircase(*moved.arguments)), expected, bound)
    expected = definitions.stack(transform(minimum_norm(*case.arguments), changes))
    assert tolerances.relative_error(definitions.stack(minimum_norm(*moved.arguments)), expected) > 1e-2


@pytest.mark.statement("N2")
def test_the_proof_refuses_wrong_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    right = n2_staircase.staircase
    monkeypatch.setattr(n2_staircase, "staircase", lambda i, depth: right(i, depth) * (2 if i == 1 else 1))
    with pytest.raises(DerivationError):
        n2_staircase.derive()


@pytest.mark.statement("N1")
def test_the_proof_refuses_a_missing_one_over_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    right = n1_layerwise.layerwise
    monkeypatch.setattr(n1_layerwise, "layerwise", lambda i, depth: depth * right(i, depth))
    with pytest.raises(DerivationError):
        n1_layerwise.derive()
