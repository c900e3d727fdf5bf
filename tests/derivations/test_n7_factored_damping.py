"""N7: is the derived factored damping linnat's, and does its series leave what the next power of √λ says?"""

from __future__ import annotations

import numpy as np
import pytest

import linnat as ln
from derivations import n7_factored_damping
from derivations._core import DerivationError
from linnat import dense
from tests import tolerances
from tests.derivations import _definitions as definitions

pytestmark = pytest.mark.statement("N7")
DERIVED = n7_factored_damping.functions()
PROBLEMS = definitions.problems()
named_problems = pytest.mark.parametrize(("name", "problem"), PROBLEMS, ids=[name for name, _ in PROBLEMS])


def blocks_by_definition(problem: definitions.Problem, damping: float) -> np.ndarray:
    found = dense.natural.natural_gradient(problem.net, problem.task, damping=damping, mask="block-diagonal")
    return definitions.stack(found)


@named_problems
def test_factored_damping_is_linnats(name: str, problem: definitions.Problem) -> None:
    case = definitions.case_of(name, problem)
    found = definitions.stack(DERIVED["factored"](*case.arguments, 0.1))
    ours = ln.natural_gradient(
        problem.net, problem.task, damping=0.1, damping_kind="factored", mask="block-diagonal"
    )
    tolerances.assert_close(found, -definitions.stack(ours), definitions.bound(case))
    strengths = [1e-2, 1.0]
    errors = ln.factored_damping_error(problem.net, problem.task, strengths, "block-diagonal").relative
    for strength, error in zip(strengths, errors, strict=True):
        exact = blocks_by_definition(problem, strength)
        gap = -definitions.stack(DERIVED["factored"](*case.arguments, strength)) - exact
        wanted = np.linalg.norm(gap) / np.linalg.norm(exact)
        assert abs(error - wanted) <= definitions.bound(case) * 1e2  # κ(F + λ), p = 1


@named_problems
def test_three_terms_leave_the_next_power(name: str, problem: definitions.Problem) -> None:
    case = definitions.case_of(name, problem)
    terms = [definitions.stack(t) for t in DERIVED["weak_terms"](*case.arguments)]
    start = 0.05 * np.linalg.norm(terms[0]) / np.linalg.norm(terms[1])
    left = []
    for step in start * np.array([1.0, 0.5]):
        found = definitions.stack(DERIVED["factored"](*case.arguments, step**2))
        left.append(np.linalg.norm(found - terms[0] - step * terms[1] - step**2 * terms[2]))
    assert left[0] / left[1] == pytest.approx(8.0, rel=0.15)


@named_problems
def test_the_series_is_linnats(name: str, problem: definitions.Problem) -> None:
    case = definitions.case_of(name, problem)
    zeroth, first, _ = (definitions.stack(t) for t in DERIVED["weak_terms"](*case.arguments))
    found = ln.factored_damping_series(problem.net, problem.task, "block-diagonal").weak
    wanted = np.linalg.norm(first) / np.linalg.norm(zeroth)
    tolerances.assert_close(found[1], wanted, definitions.bound(case) * 1e2)


def test_on_one_pair_the_best_correction_keeps_half_where_the_damping_is_the_eigenvalue() -> None:
    beta, alpha = 3.0, 0.25
    best = (alpha / beta) ** 0.5
    assert DERIVED["kept"](beta, alpha, beta * alpha, best) == pytest.approx(0.5, rel=1e-12)
    for factor in (0.5, 0.9, 1.1, 2.0):
        for damping in (1e-3, beta * alpha, 10.0):
            others = DERIVED["kept"](beta, alpha, damping, factor * best)
            assert others < DERIVED["kept"](beta, alpha, damping, best) < 1


def test_a_wrong_correction_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    right = n7_factored_damping.reach
    monkeypatch.setattr(n7_factored_damping, "reach", lambda *pi: -right(*pi))
    with pytest.raises(DerivationError):
        n7_factored_damping.derive()
