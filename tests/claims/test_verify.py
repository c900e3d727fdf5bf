"""Does `verify` choose, run and report what it was asked for?"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

import linnat.claims as claims
from linnat import InputError, LinearNetwork, Task
from linnat.claims import _run
from linnat.claims.report import Style, cells, number, pad, render, wrap
from linnat.data import DataSet, MissingExtra

ANSI = re.compile(r"\033\[[0-9;]*m")


@pytest.fixture(scope="module")
def report() -> claims.Report:
    return claims.verify(["N2", "C2", "X4"], rng=3)


def own(widths: tuple[int, ...] = (5, 2, 5), **options) -> tuple[LinearNetwork, Task]:
    rng = np.random.default_rng(0)
    return LinearNetwork.random(widths, rng=1, **options), Task(rng.standard_normal((widths[-1], widths[0])))


def test_the_report_covers_random_problems_and_digits(report: claims.Report) -> None:
    assert report.passed
    assert {row.rung for row in report.of("N2")} >= {"tame", "bottleneck", "digits"}
    assert [row.rung for row in report.of("X4")] == ["ensemble"]
    assert [row.verdict for row in report.counterexamples] == ["caught"] * 3
    assert any("rank 61" in note for note in report.notes)


def test_the_same_seed_gives_the_same_numbers() -> None:
    first, second, other = (claims.verify("G1", rng=seed) for seed in (1, 1, 2))
    assert [row.error for row in first.rows] == [row.error for row in second.rows]
    assert [row.error for row in first.rows] != [row.error for row in other.rows]
    assert claims.verify("G1", rng=np.random.default_rng(1)).seed is None


def test_json_holds_every_row_and_nothing_that_json_lacks(report: claims.Report) -> None:
    document = json.loads(report.to_json(), parse_constant=lambda word: pytest.fail(word))
    assert document["passed"] is True
    assert len(document["rows"]) == len(report.rows)
    assert {claim["identifier"] for claim in document["claims"]} == {"N2", "C2", "X4"}
    skipped = [row for row in document["rows"] if row["verdict"] == "not applicable"]
    assert skipped
    assert all(row["error"] is None and row["note"] for row in skipped)


def test_an_infinite_error_is_written_as_a_word(report: claims.Report) -> None:
    row = claims.Row("N2", "p", "tame", "fails", "q", np.inf, 1.0)
    document = json.loads(dataclasses.replace(report, rows=(row,)).to_json())
    assert document["rows"][0]["error"] == "infinity"
    assert document["passed"] is False


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("verbose", [False, True])
def test_the_table_fits_the_width_with_and_without_colour(
    report: claims.Report, width: int, verbose: bool
) -> None:
    plain = render(report, Style(width, False, verbose))
    coloured = render(report, Style(width, True, verbose))
    assert max(cells(line) for line in plain.splitlines()) <= max(width, 40)
    assert "\033" not in plain
    assert "\033" in coloured
    assert [line.rstrip() for line in ANSI.sub("", coloured).splitlines()] == plain.splitlines()
    assert "3 statements: 3 hold" in " ".join(plain.split())


def test_the_table_shows_failures_and_missed_counterexamples(report: claims.Report) -> None:
    row = claims.Row("N2", "5-2-5", "bottleneck", "fails", "q", 1.0, 1e-9, note="q: 1 exceeds 1e-09")
    missed = claims.Row("C2", "the other gauge", "counter-example", "missed", note="the check did not fail")
    text = render(dataclasses.replace(report, rows=(*report.rows, row), counterexamples=(missed,)))
    assert "✗ N2" in text
    assert "N2 on bottleneck 5-2-5: q: 1 exceeds 1e-09" in text
    assert "C2: counter-example missed (the other gauge)" in text
    assert "MISSED" in text


def test_str_of_a_report_is_the_table(report: claims.Report) -> None:
    assert str(report) == render(report)


def test_numbers_are_short() -> None:
    shown = [number(v) for v in (0.0, 3e-15, 0.02, 0.5, 12.0, 523.0, 8e12, np.inf, np.nan)]
    assert shown == ["0", "3e-15", "2e-2", "0.5", "12", "523", "8e12", "∞", ""]


def test_texts_are_padded_shortened_and_wrapped_by_columns() -> None:
    assert pad("x̂", 3) == "x̂  "
    assert pad("abcdef", 4) == "abc…"
    assert pad("a", 3, right=True) == "  a"
    assert wrap("one two three", 9, "  ") == ["  one two", "  three"]
    assert wrap("", 9) == []


def test_only_the_users_network_is_checked() -> None:
    net, task = own()
    found = claims.verify(network=net, task=task)
    assert found.passed
    assert {row.rung for row in found.rows} == {"yours"}
    verdicts = {row.identifier: row for row in found.rows}
    assert verdicts["N2"].verdict == "holds"
    assert verdicts["N1"].verdict == "not applicable"
    assert "rank 5 after layer 1" in verdicts["N1"].note
    assert "N1" in str(found)


def test_a_users_network_with_biases_and_data() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 4)) + 1.0
    found = claims.verify(
        network=LinearNetwork.random((4, 5, 2), rng=1, biases=True), data=DataSet("mine", x, x[:, :2] - 3.0)
    )
    assert found.passed
    assert {r.identifier for r in found.rows if r.verdict == "holds"} >= {"X10", "N2", "G1"}


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_targets_that_are_exactly_linear_and_a_network_at_the_optimum(shift: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 3))
    weights = [rng.standard_normal((4, 3)), rng.standard_normal((2, 4))]
    y = x @ (weights[1] @ weights[0] + shift).T
    found = claims.verify(network=LinearNetwork(weights), data=DataSet("mine", x, y))
    assert found.passed, found.failures


@pytest.mark.parametrize(
    "net",
    [
        LinearNetwork([np.zeros((2, 3)), np.zeros((3, 2))]),
        LinearNetwork([np.ones((1, 3)), np.ones((3, 1))]),
        LinearNetwork([np.eye(3)]),
    ],
    ids=["zero weights", "width one", "depth one"],
)
def test_unusual_networks_do_not_fail(net: LinearNetwork) -> None:
    found = claims.verify(network=net, task=Task(np.diag([1.0, 2.0, -3.0])))
    assert found.passed, found.failures


def test_a_large_network_falls_back_on_cheaper_oracles() -> None:
    net, task = own((100, 40, 100))
    found = claims.verify(["G1", "N2", "N3", "X1"], network=net, task=task)
    verdicts = {row.identifier: row.verdict for row in found.rows}
    assert verdicts == {"G1": "holds", "N2": "holds", "N3": "not applicable", "X1": "holds"}


def test_what_takes_too_long_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_run, "OWN_SECONDS", -1.0)
    net, task = own()
    found = claims.verify("N2", network=net, task=task)
    assert [row.verdict for row in found.rows] == ["skipped"]
    assert found.passed
    assert "skipped" in str(found)


def test_digits_that_cannot_be_loaded_are_skipped_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> DataSet:
        raise MissingExtra("install linnat[data]")

    monkeypatch.setattr(_run, "load_data", missing)
    found = claims.verify("N5")
    assert found.passed
    assert "digits: skipped: install linnat[data]" in found.notes


def test_progress_is_told() -> None:
    told: list[tuple[int, int, str]] = []
    net, task = own()
    claims.verify(["N1", "N2"], net, task, progress=lambda *args: told.append(args))
    assert len(told) == 3
    assert told[0][1] == 4
    assert "N1" in told[0][2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"claims": "Q7"}, "Q7"),
        ({"claims": []}, "at least one"),
        ({"claims": [3]}, "identifiers"),
        ({"network": np.eye(2)}, "LinearNetwork"),
        ({"network": own()[0]}, "exactly one"),
        ({"network": own()[0], "task": own()[1], "data": "digits"}, "both"),
        ({"task": own()[1]}, "beside the task"),
        ({"network": own()[0], "task": Task(np.eye(3))}, "5 inputs and 5 outputs"),
        ({"network": own()[0], "data": "digits"}, "64 inputs"),
        ({"network": own()[0], "task": np.eye(5)}, "Task"),
        ({"network": LinearNetwork([np.ones((2, 5, 5))]), "task": own()[1]}, "leading axes"),
        ({"network": own()[0], "task": Task(np.ones((2, 5, 5)))}, "leading axes"),
        ({"rng": -1}, "rng"),
        ({"rng": "seed"}, "rng"),
        ({"data": "nowhere"}, "digits, mnist"),
    ],
)
def test_bad_input_is_one_error(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        claims.verify(**options)


def test_a_network_that_fits_neither_labels_nor_pixels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="10 or 64 outputs"):
        claims.verify(network=LinearNetwork.random((64, 3), rng=0), data="digits")
