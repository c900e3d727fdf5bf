"""Are the numbers of the tables those of the runs?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat.compare import tables
from linnat.compare.bands import band
from linnat.compare.summary import best_baseline, reach, reported, spread, summarise
from linnat.nonlinear.record import Row
from tests.compare._records import curve, record

NAN = math.nan


def row(plain: float, averaged: float) -> Row:
    return Row(7, 700, 0.5, 100, plain, 1.0, 2.0, 3.0, averaged, 10.0, 20.0, 30.0, 0.0, NAN, NAN)


def test_the_average_is_reported_where_its_training_loss_is_lower_whatever_the_test_loss() -> None:
    assert reported(row(5.0, 4.0))[:7] == (7, 700, 0.5, 4.0, 10.0, 20.0, 30.0)
    assert reported(row(4.0, 5.0))[:7] == (7, 700, 0.5, 4.0, 1.0, 2.0, 3.0)
    assert not reported(row(4.0, NAN)).averaged
    assert reported(row(NAN, 5.0)).averaged
    assert not reported(row(NAN, NAN)).averaged


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9))
def test_spread_is_numpys_median_and_range(numbers: list[float]) -> None:
    assert spread(numbers) == pytest.approx((np.median(numbers), min(numbers), max(numbers)))


def test_only_finished_runs_are_in_the_medians() -> None:
    runs = [curve("sgd", 0), curve("sgd", 1), curve("sgd", 2, "diverged", rate=0.01), curve("adam", 0)]
    found = summarise("sgd", runs)
    assert (found.runs, found.finished, found.diverged) == (3, 2, 1)
    ends = [runs[k].points[-1].train_loss for k in (0, 1)]
    assert found.train_loss.high == max(ends)
    assert found.train_loss.middle == pytest.approx(sum(ends) / 2)
    assert found.updates.middle == 1000


def test_reach_is_the_upper_median_of_first_passages() -> None:
    runs = [curve("sgd", seed) for seed in range(3)]
    target = 1 + 100 / 36 * 1.1  # seed 1 is there at k = 5, seed 0 before, seed 2 later
    firsts = [next(p.seconds for p in run.points if p.train_loss <= target + 1e-12) for run in runs]
    found = reach("sgd", runs, target + 1e-12)
    assert found.seconds == sorted(firsts)[1] == 2.5
    assert found.updates == 250
    assert (found.runs, found.reached) == (3, 3)


def test_a_run_that_diverges_later_has_not_arrived() -> None:
    runs = [curve("sgd", 0), curve("sgd", 1, "diverged"), curve("sgd", 2, "diverged")]
    found = reach("sgd", runs, 50.0)
    assert (found.runs, found.reached) == (3, 1)
    assert math.isinf(found.seconds)


def test_runs_that_have_not_been_done_count_for_nothing() -> None:
    runs = [curve("sgd", 0), curve("sgd", 1, "missing"), curve("sgd", 2, "failed")]
    assert reach("sgd", runs, 50.0).runs == 1
    assert math.isinf(reach("adam", runs, 50.0).updates)


def test_the_best_baseline_is_the_one_that_ends_lowest() -> None:
    runs = [curve("sgd", 0, rate=0.5), curve("adam", 0), curve("kfac", 0, rate=9.0)]
    found = [summarise(name, runs) for name in ("sgd", "adam", "kfac")]
    best = best_baseline(found, ("sgd", "adam"))
    assert best is not None
    assert best.method == "adam"
    assert best_baseline(found, ("nesterov",)) is None


@pytest.mark.parametrize("axis", ["update", "seconds"])
def test_a_band_holds_every_run_and_its_median_is_one_of_them(axis: str) -> None:
    runs = [curve("sgd", seed) for seed in range(3)]
    found = band(runs, axis, "train_loss")
    assert found is not None
    assert found.runs == 3
    assert (found.low <= found.middle).all()
    assert (found.middle <= found.high).all()
    for run, wanted in zip(runs, (found.low, found.middle, found.high), strict=True):
        for point in run.points[1:]:
            place = np.searchsorted(found.places, getattr(point, axis))
            assert wanted[place] == pytest.approx(point.train_loss, rel=1e-12)


def test_a_band_ends_where_the_shortest_run_does_and_takes_none_that_diverged() -> None:
    runs = [curve("sgd", 0, steps=20), curve("sgd", 1, steps=10), curve("sgd", 2, "diverged", steps=3)]
    found = band(runs, "update", "train_loss")
    assert found is not None
    assert found.places[-1] == 500
    assert band([curve("sgd", 2, "diverged")], "update", "train_loss") is None


def test_the_headline_compares_with_the_best_baseline() -> None:
    text = tables.headline(record())
    assert text.startswith("K-FAC ends lowest")
    # Adam at rate 0.8 ends at 1 + 100/17²; 1 + 1.5 k reaches that at k = 32/3, so at the evaluation k = 11 of 20.
    assert "Adam, the best baseline, in 0.55× of its clock and 0.55× of its updates" in text


def test_no_baseline_and_no_run_have_headlines_too() -> None:
    assert "ends lowest" in tables.headline(record({"kfac": 1.0}))
    nothing = tuple(curve("sgd", seed, "missing") for seed in range(3))
    assert tables.headline(record({"sgd": 1.0}, extra=nothing)) == "No run has finished yet."


def test_the_table_of_ends_counts_every_run() -> None:
    extra = (curve("sgd", 0, "diverged"), curve("sgd", 1, "failed"), curve("sgd", 2, "missing"))
    found = tables.ends(record(extra=extra))
    assert found.rows[0][-1] == "1 diverged, 1 failed, 1 not done"
    assert found.rows[0][1] == "– (– … –)" or found.rows[0][1] == "–"
    assert (3, 1) in found.best


def test_a_baseline_needs_at_most_its_own_budget_for_its_own_loss() -> None:
    found = tables.to_target(record(), "adam")
    assert found is not None
    rows = {row[0]: row for row in found.rows}
    assert rows["Adam"][2] == "1×"
    assert rows["SGD"][1:5] == ("never", "–", "never", "–")
    assert tables.to_target(record(extra=tuple(curve("sgd", s, "diverged") for s in range(3))), "sgd") is None
