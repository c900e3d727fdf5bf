"""N8: do the derived exchanges span the null space by definition, and do both spaces give linnat's solution?"""

from __future__ import annotations

import numpy as np
import pytest

import linnat as ln
from derivations import n8_equal_routes
from derivations._core import DerivationError
from linnat import dense
from tests import tolerances
from tests.derivations import _definitions as definitions

pytestmark = pytest.mark.statement("N8")
DERIVED = n8_equal_routes.functions()
PROBLEMS = definitions.problems()
named_problems = pytest.mark.parametrize(("name", "problem"), PROBLEMS, ids=[name for name, _ in PROBLEMS])


def rank(matrix: np.ndarray) -> int:
    """Return the rank of columns of size one, or of a Jacobian."""
    values = np.linalg.svd(matrix, compute_uv=False)
    return int(np.sum(values > 1e-9 * max(1.0, values[0]))) if values.size else 0


@named_problems
def test_exchanges_span_the_null_space_and_it_is_linnats(name: str, problem: definitions.Problem) -> None:
    case = definitions.case_of(name, problem)
    jacobian = definitions.jacobian(case)
    columns = DERIVED["exchanges"](case.weights, case.input_cov, case.noise_cov)
    size = np.linalg.norm(jacobian, 2) * max(1.0, np.linalg.norm(columns, 2))
    assert np.linalg.norm(jacobian @ columns, 2) <= definitions.bound(case) * size
    nullity = jacobian.shape[1] - rank(jacobian)
    assert rank(columns) == nullity
    ours = ln.null_space(problem.net, problem.task)
    assert ours.dimension == nullity
    both = np.concatenate([columns, ours.exchanges, ours.outside], axis=1)
    assert rank(both) == nullity


@named_problems
def test_both_spaces_give_linnats_minimum_norm(name: str, problem: definitions.Problem) -> None:
    case = definitions.case_of(name, problem)
    ours = -definitions.stack(ln.natural_gradient(problem.net, problem.task, gauge="minimum-norm"))
    oracle = -definitions.stack(
        dense.natural.natural_gradient(problem.net, problem.task, "minimum-norm", rtol=1e-10)
    )
    values = np.linalg.svd(definitions.jacobian(case), compute_uv=False)
    kept = values[values > 1e-9 * values[0]]
    bound = definitions.bound(case) * (kept[0] / kept[-1]) ** 2  # F and JJᵀ are squares, p = 2
    for space in ("parameters", "samples"):
        found = definitions.stack(DERIVED["minimum_norm"](*case.arguments, space))
        tolerances.assert_close(found, ours, bound)
        tolerances.assert_close(found, oracle, bound)


def test_exchanges_alone_miss_a_direction_where_widths_fall_strictly() -> None:
    # Negative control: 4-3-2 with layers of full rank.
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((3, 4)), rng.standard_normal((2, 3))]
    columns = DERIVED["exchanges"](weights, np.eye(4), np.eye(2))
    assert rank(columns) - rank(columns[:, :9]) == 1


def test_a_wrong_exchange_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(n8_equal_routes, "exchange", lambda x, below, above: (x * below, above * x))
    with pytest.raises(DerivationError):
        n8_equal_routes.derive()
