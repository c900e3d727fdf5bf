"""Are the rivals asked for the right thing? Each that is installed must induce the right change of the total weight."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import linnat as ln
from benchmarks import __main__ as main
from benchmarks import _rivals, rivals
from benchmarks._problems import Case, induced_change, make_case, relative_error, truth
from benchmarks._rivals import DENSE, FACTORS, FLOOR, OPERATOR, Rival, as_arrays
from benchmarks._timing import Row
from linnat import hardware
from linnat.dense.natural import natural_gradient as oracle

ROOT = Path(__file__).resolve().parent.parent.parent
SQUARE, NARROW = (5, 5, 5, 5), (7, 5, 3, 5, 7)
RIVALS = {rival.name: rival for rival in rivals.all_rivals()}


def direction(rival: Rival, case: Case) -> list[np.ndarray]:
    if rival.missing:
        pytest.skip(f"not installed: {', '.join(rival.missing)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return as_arrays(rival.prepare(case)())


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_is_right_where_the_network_can_express_the_error(name: str) -> None:
    rival, case = RIVALS[name], make_case(SQUARE, "tame")
    found = direction(rival, case)
    assert [u.dtype for u in found] == [np.float64] * 3
    # CG ends at a residual of 1e-10, nngeometry's dense solver adds 1e-8: times κ(F) below 100.
    assert relative_error(case, found, truth(case)) < (1e-6 if rival.kind in (OPERATOR, DENSE) else 1e-12)


@pytest.mark.parametrize("name", [n for n, r in RIVALS.items() if r.gauge == _rivals.SHORTEST])
def test_rivals_solve_the_gauge_that_is_said(name: str) -> None:
    case = make_case(SQUARE, "tame")
    expected = direction(RIVALS["minimum norm"], case)
    for found, wanted in zip(direction(RIVALS[name], case), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6 * np.linalg.norm(wanted))


@pytest.mark.parametrize("name", RIVALS)
def test_factors_and_floors_are_wrong_in_a_bottleneck_and_the_error_shows_it(name: str) -> None:
    rival, case = RIVALS[name], make_case(NARROW, "tame")
    if rival.missing:
        pytest.skip(f"not installed: {', '.join(rival.missing)}")
    if "solve with" in name:
        pytest.skip("J Jᵀ is singular")
    found, _ = rivals._try(case, rival, truth(case))
    if rival.kind in (FACTORS, FLOOR):
        assert found.note.startswith("failed") or found.error > 1e-2
    else:
        assert found.error < 1e-6


@pytest.mark.parametrize("widths", [(4, 4, 4), NARROW, (6, 3, 5, 6), (3, 5, 4), (4, 6, 2)])
def test_the_truth_is_what_the_dense_oracle_induces(widths: tuple[int, ...]) -> None:
    case = make_case(widths, "Gaussian", seed=3)
    net, task = (
        ln.LinearNetwork(case.weights),
        ln.Task(case.teacher, case.rows.T @ case.rows / len(case.rows)),
    )
    found = [np.asarray(u) for u in oracle(net, task)]
    assert relative_error(case, found, truth(case)) < 1e-9
    np.testing.assert_allclose(induced_change(case, found), ln.induced_change(net, found), atol=1e-12)


def test_a_wrong_direction_has_a_large_error() -> None:
    case = make_case(SQUARE, "tame")
    right = direction(RIVALS["layerwise"], case)
    expected = truth(case)
    assert relative_error(case, [2 * u for u in right], expected) == pytest.approx(1.0)
    assert relative_error(case, [u * np.nan for u in right], expected) == np.inf
    assert relative_error(case, right[:2], expected) == np.inf


def test_cases_are_what_they_are_said_to_be() -> None:
    case = make_case((6, 6, 6), "tame")
    assert case.condition <= 3
    moments = np.linalg.eigvalsh(case.rows.T @ case.rows / len(case.rows))
    np.testing.assert_allclose(moments, np.geomspace(0.1, 1, 6))
    np.testing.assert_allclose(case.targets, case.rows @ case.teacher.T)
    assert case.name == "6-6-6, tame"
    narrow = make_case(NARROW, "Gaussian")
    assert (narrow.onto, case.onto) == (False, True)
    assert np.array_equal(narrow.teacher, np.eye(7))


def test_what_is_absent_or_too_large_is_refused_with_a_reason() -> None:
    case, rival = make_case(SQUARE, "tame"), RIVALS["NumPy solve with J Jᵀ"]
    assert rival.refused(case) == ""
    assert (
        replace(rival, packages=("numpy", "no_such_package")).refused(case)
        == "not installed: no_such_package"
    )
    assert "GB" in replace(rival, cost=lambda case: (1e10, 0.0)).refused(case)
    assert "flops" in replace(rival, cost=lambda case: (0.0, 1e15)).refused(case)
    found, call = rivals._try(case, replace(rival, packages=("no_such_package",)), truth(case))
    assert (found.note, found.seconds, call) == ("not installed: no_such_package", (), None)


def test_a_rival_that_fails_ends_nothing() -> None:
    def prepare(case: Case) -> Any:
        raise ArithmeticError("no luck. None at all")

    case = make_case(SQUARE, "tame")
    found, call = rivals._try(case, Rival("x", DENSE, "layerwise", (), prepare), truth(case))
    assert found.note == "failed: ArithmeticError: no luck"
    assert call is None


def test_no_rival_is_started_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "block_times", lambda calls, **_: {n: np.array([1.0]) for n in calls})
    some = [RIVALS[n] for n in ("layerwise", "minimum norm", "NumPy closed form", "NumPy solve with J Jᵀ")]
    found = rivals.measure(make_case(SQUARE, "tame"), some, deadline=0.0)
    assert [bool(f.seconds) for f in found] == [True, True, True, False]
    assert found[3].note.startswith("skipped: the comparison has taken")


def test_promises_are_judged_by_error_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case((64, 64, 64), "tame")
    own = rivals.Found("layerwise", "linnat", "layerwise", 1e-15, (1.0, 1.0))
    fast = rivals.Found("fast", DENSE, "minimum norm", 1e-9, (99.0,))
    slow = rivals.Found("slow", OPERATOR, "minimum norm", 1e-2, (200.0,))
    wrong = rivals.Found("wrong", FACTORS, "layerwise", 1e-2, (200.0,))
    absent = rivals.Found("absent", FACTORS, "layerwise", note="not installed: absent")
    rows = rivals.judge(case, [own, own._replace(name="minimum norm"), fast, slow, wrong, absent])
    assert [(r.name.split(": ")[1], r.ratio, r.met) for r in rows] == [
        ("fast", 99.0, False),
        ("slow", 200.0, True),
    ]
    assert "at least" in rows[1].unit
    assert rivals.judge(make_case(SQUARE, "tame"), [own, own, fast]) == []
    text = "\n".join(rivals.describe(case, [own, own, fast, slow, wrong, absent]))
    assert "not solved in 500 iterations" in text
    assert "not installed: absent" in text
    assert "inaccurate" in text


def test_a_small_comparison_with_numpy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [RIVALS[n] for n in ("layerwise", "minimum norm", "NumPy closed form")]
    monkeypatch.setattr(rivals, "all_rivals", lambda: few)
    monkeypatch.setattr(rivals, "block_times", lambda calls, **_: {n: np.array([1.0, 2.0]) for n in calls})
    outcome = rivals.run([(4, 4), (5, 3, 5)])
    assert [case["case"] for case in outcome.data["cases"]] == [
        "4-4, tame",
        "4-4, moderate",
        "4-4, Gaussian + identity",
        "5-3-5, Gaussian",
    ]
    assert "floor: NumPy closed form" in outcome.text
    json.dumps(outcome.data)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--threads", "0"],
        ["--threads", "x"],
        ["--out", "/no/such/folder/file"],
        ["--kern"],
        ["--kernels", "Nonsense"],
    ],
)
def test_bad_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_kernels_are_the_own_choice_and_the_fastest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hardware, "measure", lambda: ())
    monkeypatch.setattr(hardware, "recommended", lambda timings: "SkylakeX")
    assert main._choices("auto") == [main.OWN_CHOICE, "SkylakeX"]
    monkeypatch.setattr(hardware, "recommended", lambda timings: None)
    assert main._choices("auto") == [main.OWN_CHOICE]
    assert "one run serves both" in capsys.readouterr().out
    assert main._choices("Haswell,SkylakeX") == [main.OWN_CHOICE, "Haswell", "SkylakeX"]


def test_runs_are_set_side_by_side() -> None:
    def run(ratio: float) -> dict[str, Any]:
        row = Row("a promise", ratio, (ratio, ratio), 2.0, "×")
        return {"benchmarks": {"name": {"rows": [row._asdict()]}}}

    text = main.side_by_side({"own choice": run(1.5), "SkylakeX": run(0.75)})
    assert text.splitlines()[-1].split() == ["a", "promise", "1.50", "0.75"]


def test_results_are_written_with_their_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import broadcast_against_loop

    row = Row("a promise", 1.5, (1.4, 1.6), 2.0, "×")
    monkeypatch.setattr(broadcast_against_loop, "run", lambda: [row])
    assert main.main(["broadcast_against_loop", "--out", str(tmp_path / "run")]) == 0
    document = json.loads((tmp_path / "run.json").read_text())
    assert document["environment"]["BLAS of numpy"]
    assert document["benchmarks"]["broadcast_against_loop"]["rows"][0]["met"]
    text = (tmp_path / "run.txt").read_text()
    assert "a promise" in text
    assert text.strip() == capsys.readouterr().out.strip()


def test_an_unknown_name_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected one of broadcast_against_loop" in done.stderr
