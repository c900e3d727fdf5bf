"""Do the derived masked directions (N5) solve F_M v = −∇ℓ at the derived rates, for any widths?"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import linnat as ln
from derivations import _masks, n5_masks
from derivations._core import DerivationError
from linnat import dense
from tests import tolerances
from tests.derivations import _definitions as definitions

pytestmark = pytest.mark.statement("N5")

masked = n5_masks.functions()["masked_gradient"]
rate = n5_masks.functions()["mask_rate"]
PROBLEMS = definitions.problems()


def band(depth: int, width: int) -> np.ndarray:
    place = np.arange(depth)
    return (np.abs(place[:, None] - place) <= width).astype(int)


def as_array(depth: int, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    mask = np.eye(depth, dtype=int)
    for i, j in pairs:
        mask[i - 1, j - 1] = mask[j - 1, i - 1] = 1
    return mask


@pytest.mark.parametrize("width", [0, 1, 2])
@pytest.mark.parametrize(("name", "problem"), PROBLEMS, ids=[name for name, _ in PROBLEMS])
def test_bands_solve_with_the_kept_blocks(name: str, problem: definitions.Problem, width: int) -> None:
    case = definitions.case_of(name, problem)
    mask = band(len(case.weights), width)
    jacobian = definitions.jacobian(case)
    matrix = definitions.block_diagonal(jacobian.T @ jacobian, case, mask)
    found = masked(*case.arguments, mask)
    definitions.assert_solves(matrix, found, -definitions.stack(definitions.gradient(case)), case)


@pytest.mark.parametrize(("depth", "width"), [(d, k) for d in range(1, 13) for k in range(4)])
def test_bands_have_the_rate_of_least_squares(depth: int, width: int) -> None:
    c, *_ = np.linalg.lstsq(band(depth, width).astype(float), np.ones(depth), rcond=1e-9)
    assert rate(band(depth, width)) == -(-depth // (2 * width + 1))
    assert abs(c.sum() - rate(band(depth, width))) <= tolerances.solve(np.float64, depth, 1e3)
    coefficients, alpha = ln.mask_coefficients(band(depth, width), depth)
    assert abs(alpha - rate(band(depth, width))) <= tolerances.solve(np.float64, depth, 1e3)
    assert coefficients.shape == (depth,)


def test_wide_networks_move_along_the_error_at_the_rate_of_the_mask() -> None:
    case = definitions.case_of(*PROBLEMS[0])
    mask = band(3, 1)
    change = definitions.jacobian(case) @ definitions.stack(masked(*case.arguments, mask))
    error = np.linalg.norm(change - rate(mask) * definitions.whitened_error(case))
    assert error <= definitions.bound(case) * np.linalg.norm(definitions.whitened_error(case)) * 3


def test_bottlenecks_do_not_move_along_the_natural_gradient() -> None:
    problem = dict(PROBLEMS)["bottleneck"]
    case = definitions.case_of("bottleneck", problem)
    jacobian = definitions.jacobian(case)
    natural = jacobian @ definitions.stack(masked(*case.arguments, np.ones((2, 2), dtype=int)))
    blocks = jacobian @ definitions.stack(masked(*case.arguments, np.eye(2, dtype=int)))
    cosine = natural @ blocks / np.linalg.norm(natural) / np.linalg.norm(blocks)
    assert cosine < 0.999


@pytest.mark.parametrize("name", ["square", "bottleneck", "ranks 2, 1, 2"])
def test_masks_are_linnats(name: str) -> None:
    problem = dict(PROBLEMS)[name]
    case = definitions.case_of(name, problem)
    mask = band(len(case.weights), 1)
    found = definitions.stack(masked(*case.arguments, mask))
    jacobian = definitions.jacobian(case)
    for u in (
        ln.natural_gradient(problem.net, problem.task, mask=mask),
        dense.natural.natural_gradient(problem.net, problem.task, mask=mask, rtol=1e-10),
    ):
        change = jacobian @ (found + definitions.stack(u))
        assert np.linalg.norm(change) <= definitions.bound(case) * np.linalg.norm(
            jacobian, 2
        ) * np.linalg.norm(found)


def test_the_inconsistent_mask_is_refused_and_has_no_solution() -> None:
    mask = as_array(6, n5_masks.INCONSISTENT)
    assert rate(mask) is None
    _, _, rank, _ = np.linalg.lstsq(mask.astype(float), np.ones(6), rcond=1e-9)
    assert rank < 6
    assert np.linalg.lstsq(np.column_stack([mask, np.ones(6)]), np.zeros(6), rcond=1e-9)[2] == rank + 1
    with pytest.raises(ValueError, match="no solution"):
        masked([np.ones((1, 1))] * 6, np.ones((1, 1)), np.eye(1), np.eye(1), mask)
    with pytest.raises(ln.ConditionError, match="N5"):
        ln.mask_coefficients(mask, 6)


def test_the_uphill_mask_raises_the_loss() -> None:
    mask = as_array(7, n5_masks.UPHILL)
    assert rate(mask) == -5
    weights = [np.full((1, 1), 1.0 + 0.1 * i) for i in range(7)]
    case = definitions.Case("thin", weights, np.full((1, 1), 2.0), np.eye(1), np.eye(1))
    slope = definitions.stack(definitions.gradient(case)) @ definitions.stack(masked(*case.arguments, mask))
    assert abs(slope - 5 * case.error[0, 0] ** 2) <= definitions.bound(case) * 5 * case.error[0, 0] ** 2 * 10


def test_no_mask_of_five_layers_goes_uphill_in_floating_point_either() -> None:
    pairs = list(itertools.combinations(range(5), 2))
    for bits in itertools.product((0, 1), repeat=len(pairs)):
        mask = np.eye(5)
        for (i, j), one in zip(pairs, bits, strict=True):
            mask[i, j] = mask[j, i] = one
        c = np.linalg.lstsq(mask, np.ones(5), rcond=1e-9)[0]
        assert np.abs(mask @ c - 1).max() < 1e-9
        assert c.sum() > 1 - 1e-9


def test_the_proof_refuses_windows_that_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(n5_masks, "centres", lambda depth, width: [*_masks.centres(depth, width), depth])
    with pytest.raises(DerivationError):
        n5_masks.derive()
