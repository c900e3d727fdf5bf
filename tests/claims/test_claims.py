"""Does every claim hold on every rung and fail on its counter-example? Is a verdict decided by the measure alone?"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import Counter

import numpy as np
import pytest

import linnat.claims as claims
from linnat import LinearNetwork, RankWarning, Task
from linnat.claims._core import ORDER, Measure, Report, bound, relative, worst
from linnat.claims._run import check

REGISTRY = claims.registry()
NAMES = [claim.identifier for claim in REGISTRY]
pytestmark = pytest.mark.filterwarnings("ignore::linnat.RankWarning")


def of(identifier: str) -> claims.Claim:
    return REGISTRY[NAMES.index(identifier)]


def test_every_statement_of_the_release_has_one_claim_in_order() -> None:
    assert tuple(NAMES) == ORDER
    assert len(set(NAMES)) >= 24


@pytest.mark.parametrize("claim", REGISTRY, ids=NAMES)
def test_a_claim_says_everything_in_one_line(claim: claims.Claim) -> None:
    for word in (
        "title",
        "statement",
        "latex",
        "source",
        "conditions",
        "function",
        "oracle",
        "reason",
        "broken",
    ):
        text = getattr(claim, word)
        assert text.strip() == text
        assert text
        assert "\n" not in text


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("claim", REGISTRY, ids=NAMES)
def test_every_claim_holds_on_the_ladder(claim: claims.Claim, seed: int) -> None:
    problems = claims.ladder(seed) if claim.about_networks else claims.ladder(seed)[:1]
    if not claim.about_networks:
        claim = dataclasses.replace(claim, applicable=lambda net, task: None)
    rows = [check(claim, problem, [seed, k]) for k, problem in enumerate(problems)]
    failures = [row for row in rows if row.verdict == "fails"]
    assert not failures
    counts = Counter(row.verdict for row in rows)
    assert counts["holds"] >= 1
    assert counts["undecided"] <= 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("claim", REGISTRY, ids=NAMES)
def test_every_counterexample_fails_by_orders_of_magnitude(claim: claims.Claim, seed: int) -> None:
    measures = claim.counterexample(np.random.default_rng(seed))
    key = max(measures, key=lambda m: (m.decisive, m.ratio))
    assert key.decisive
    assert key.ratio > 10


def test_the_ladder_reaches_every_rung_and_is_a_function_of_the_seed() -> None:
    first, second, other = claims.ladder(3), claims.ladder(3), claims.ladder(4)
    rungs = {problem.rung for problem in first}
    wanted = {
        "tame",
        "square",
        "ill-conditioned",
        "bottleneck",
        "rank-deficient",
        "singular S",
        "biases",
        "balanced",
    }
    assert rungs == wanted
    for a, b, c in zip(first, second, other, strict=True):
        np.testing.assert_array_equal(a.net.weights[0], b.net.weights[0])
        assert a.name == c.name
    assert any(
        not np.array_equal(a.net.weights[0], c.net.weights[0]) for a, c in zip(first, other, strict=True)
    )


def test_every_rung_applies_to_every_claim_that_needs_no_condition() -> None:
    for identifier in ("G1", "F1", "N2", "N6"):
        claim = of(identifier)
        assert all(claim.applicable(p.net, p.task) is None for p in claims.ladder(0))


@pytest.mark.parametrize(
    ("identifier", "widths", "words"),
    [
        ("N1", (5, 2, 5), "N2 applies"),
        ("C1", (5, 2, 5), "needs \\(J\\)"),
        ("C2", (3, 4, 3), "square layers"),
        ("C3", (3, 3), "two layers"),
        ("S1", (3, 3, 3), "balanced"),
        ("C5", (3, 3, 3), "balanced"),
        ("X10", (3, 3, 3), "biases"),
        ("N3", (3, 3), "two layers"),
        ("X9", (30, 30), "rational"),
        ("X4", (3, 3), "random networks"),
    ],
)
def test_an_unmet_condition_is_named(identifier: str, widths: tuple[int, ...], words: str) -> None:
    net = LinearNetwork.random(widths, rng=0)
    unmet = of(identifier).applicable(net, Task(np.eye(widths[-1], widths[0])))
    assert unmet is not None
    assert pytest.importorskip("re").search(words, unmet)


def test_conditions_of_square_statements_name_the_singular_part() -> None:
    singular = LinearNetwork([np.diag([1.0, 0.0]), np.eye(2)])
    assert "layer 1" in str(of("C2").applicable(singular, Task(2 * np.eye(2))))
    flat = Task(2 * np.eye(2), input_cov=np.diag([1.0, 0.0]))
    assert "S > 0" in str(of("C2").applicable(LinearNetwork([np.eye(2), np.eye(2)]), flat))
    at_optimum = LinearNetwork([np.eye(2), np.eye(2)])
    assert "optimum" in str(of("C2").applicable(at_optimum, Task(np.eye(2))))


def test_a_wrong_closed_form_fails_and_an_exception_is_a_failure() -> None:
    problem = claims.ladder(0)[0]
    claim = of("G1")
    wrong = dataclasses.replace(claim, check=lambda case: [Measure("q", 1.0, 1e-9)])
    row = check(wrong, problem, [0])
    assert row.verdict == "fails"
    assert "exceeds" in row.note

    def broken(case: claims.Case) -> list[Measure]:
        raise ZeroDivisionError("by\nnought")

    row = check(dataclasses.replace(claim, check=broken), problem, [0])
    assert (row.verdict, row.note) == ("fails", "ZeroDivisionError: by")


def test_a_bound_that_leaves_no_digit_is_undecided_but_still_can_fail() -> None:
    problem = claims.ladder(0)[0]
    claim = of("G1")
    vague = dataclasses.replace(claim, check=lambda case: [Measure("q", 0.01, 5.0)])
    assert check(vague, problem, [0]).verdict == "undecided"
    beyond = dataclasses.replace(claim, check=lambda case: [Measure("q", 6.0, 5.0)])
    assert check(beyond, problem, [0]).verdict == "fails"
    stated = dataclasses.replace(claim, check=lambda case: [Measure("q", 1.0, 4.0, "stated")])
    assert check(stated, problem, [0]).verdict == "holds"


def test_not_a_number_is_beyond_every_bound() -> None:
    assert Measure("q", math.nan, 1.0).ratio == math.inf
    assert Measure("q", 0.0, 0.0).ratio == math.inf
    assert worst([Measure("a", 0.5, 1.0), Measure("b", 2.0, 1.0)]).quantity == "b"
    assert relative(0.0, 0.0) == 0.0
    assert relative(1.0, 0.0) == math.inf


def test_the_bound_is_constant_eps_size_condition_to_the_power() -> None:
    net = LinearNetwork.random((3, 4), rng=0)
    case = claims.Case(net, Task(np.ones((4, 3))), np.random.default_rng(0))
    assert bound(case, 10.0, power=2) == pytest.approx(100 * bound(case))
    assert bound(case, 0.1) == bound(case)
    single = LinearNetwork.random((3, 4), rng=0, dtype=np.float32)
    assert bound(case._replace(net=single)) == pytest.approx(bound(case) * 2**29)


def test_an_undetermined_rank_is_no_failure() -> None:
    weak = LinearNetwork([np.diag([1.0, 1e-15]), np.eye(2)])
    problem = claims.Problem("weak", "yours", weak, Task(2 * np.ones((2, 2))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankWarning)
        verdicts = {check(claim, problem, [0]).verdict for claim in REGISTRY}
    assert "fails" not in verdicts


def test_a_float32_network_is_held_to_float32() -> None:
    net = LinearNetwork.random((4, 5, 3), rng=1, dtype=np.float32)
    problem = claims.Problem("single", "yours", net, Task(np.random.default_rng(2).standard_normal((3, 4))))
    rows = [check(claim, problem, [0]) for claim in REGISTRY]
    assert not [row for row in rows if row.verdict == "fails"]
    assert sum(row.verdict == "holds" for row in rows) >= 8


def test_a_report_without_rows_passes_and_a_missed_counterexample_does_not() -> None:
    assert Report((), (), ()).passed
    missed = claims.Row("N2", "N1", "counter-example", "missed")
    assert not Report((), (), (missed,)).passed
