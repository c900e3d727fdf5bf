"""Is everything written down, and read back as it was?"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from linnat import InputError
from linnat.compare.locks import locked
from linnat.compare.plan import Plan, as_budget, check, merged, read_plan, run_jobs, trial_jobs
from linnat.compare.pool import Event
from linnat.compare.progress import Progress
from linnat.compare.results import CURVES, MANIFEST, RESULTS, RUNS, write
from linnat.compare.run import write_json
from tests.compare._records import curve, record

PLAN = Plan("digits", "ab" * 32, "digits", ("sgd", "kfac"), 100, None, 2, 3, 20, None)


def test_files_hold_every_run_and_every_evaluation_bit_for_bit(tmp_path: Path) -> None:
    made = record(extra=(curve("sgd", 1, "diverged", steps=4), curve("adam", 0, "failed")))
    write(made, tmp_path)
    runs = list(csv.DictReader((tmp_path / RUNS).read_text().splitlines()))
    assert len(runs) == 12
    assert {run["status"] for run in runs} == {"finished", "diverged", "failed"}
    lines = list(csv.DictReader(io.StringIO((tmp_path / CURVES).read_text())))
    assert len(lines) == sum(len(c.points) for c in made.curves)
    points = {(c.method, c.seed, p.update): p for c in made.curves for p in c.points}
    for line in lines:
        point = points[line["method"], int(line["seed"]), int(line["update"])]
        assert float(line["train_loss"]) == point.train_loss
        assert float(line["test_squared"]) == point.test_squared
    content = json.loads((tmp_path / RESULTS).read_text())
    assert sum(len(run["curve"]) for run in content["runs"]) == len(lines)
    assert Plan.from_json(content["plan"]) == made.plan


def test_the_manifest_says_how_to_get_it_again(tmp_path: Path) -> None:
    made = record()
    write(made, tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_text())
    assert content["command"] == made.plan.command()
    assert content["sha256 of the data"] == made.plan.digest
    assert content["seeds"] == [0, 1, 2]
    assert content["settings"]["kfac"]["damping"] == 0.01
    assert content["environments of the runs"] == list(made.environments)
    assert "not repeatable" in content["bit for bit"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("2000u", (2000, None)), ("600s", (None, 600.0)), (" 1.5 h", (None, 5400.0)), ("10m", (None, 600.0))],
)
def test_budgets_are_read(text: str, wanted: tuple) -> None:
    assert as_budget(text) == wanted


@pytest.mark.parametrize("text", ["", "600", "u", "-5s", "0u", "0s", "1.5u", "5 days", "1e3s", "nan s", "١u"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--budget: expected updates such as 2000u"):
        as_budget(text)


def test_the_same_plan_goes_on_and_another_is_refused() -> None:
    assert merged(PLAN, PLAN, resume=False) == PLAN
    for change in ({"optimisers": ("sgd", "adam")}, {"seeds": 3}, {"optimisers": ("sgd",)}):
        with pytest.raises(InputError, match="--resume to add to it"):
            merged(PLAN, replace(PLAN, **change), resume=False)
    added = merged(PLAN, replace(PLAN, optimisers=("adam", "sgd"), seeds=5), resume=True)
    assert added.optimisers == ("sgd", "kfac", "adam")
    assert added.seeds == 5
    assert merged(PLAN, replace(PLAN, seeds=1), resume=True).seeds == 2


@pytest.mark.parametrize(
    "change",
    [{"updates": 101}, {"model": "autoencoder"}, {"trials": 4}, {"digest": "cd" * 32}, {"dtype": "float64"}],
)
def test_what_cannot_be_added_is_refused_with_resume_too(change: dict) -> None:
    with pytest.raises(InputError, match="only optimisers and seeds can be added"):
        merged(PLAN, replace(PLAN, **change), resume=True)


def test_given_settings_of_a_method_that_has_run_cannot_change() -> None:
    known = replace(PLAN, given={"sgd": {"rate": 0.1}})
    assert merged(known, replace(PLAN, given={"sgd": {"rate": 0.1}}), resume=True) == known
    assert merged(known, PLAN, resume=True) == known
    with pytest.raises(InputError, match="settings of sgd"):
        merged(known, replace(PLAN, given={"sgd": {"rate": 0.2}}), resume=True)
    added = merged(known, replace(PLAN, optimisers=("adam",), given={"adam": {"rate": 0.01}}), resume=True)
    assert set(added.given) == {"sgd", "adam"}


def test_a_plan_is_read_back_and_other_folders_are_left_alone(tmp_path: Path) -> None:
    assert read_plan(tmp_path / "new") is None
    with locked(tmp_path / "new", "--out"):
        assert read_plan(tmp_path / "new") is None
    write_json(tmp_path / "new" / "plan.json", PLAN.to_json())
    assert read_plan(tmp_path / "new") == PLAN
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"")
    with pytest.raises(InputError, match="other files in"):
        read_plan(tmp_path / "photos")
    (tmp_path / "new" / "plan.json").write_text('{"data": ')
    with pytest.raises(InputError, match="unreadable"):
        read_plan(tmp_path / "new")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"seeds": 0}, "--seeds"), ({"trials": -1}, "--tune"), ({"given": {"adam": {"rate": 1.0}}}, "--set")],
)
def test_plans_that_cannot_be_are_refused(change: dict, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        check(replace(PLAN, **change))


def test_folders_of_runs_are_all_different_and_seeds_come_before_methods(tmp_path: Path) -> None:
    settings = {name: {"rate": 1.0} for name in PLAN.optimisers}
    jobs = [*trial_jobs(PLAN, tmp_path), *run_jobs(PLAN, tmp_path, settings)]
    assert len({job.folder for job in jobs}) == len(jobs) == 2 * (3 + 2)
    assert [job.name for job in jobs[:2]] == ["sgd, trial 0", "kfac, trial 0"]
    assert all(job.task.validation == ("tuning" in job.folder.parts) for job in jobs)


def test_progress_tells_what_is_left_and_every_end() -> None:
    now, text = [0.0], io.StringIO()
    plan = replace(PLAN, trials=0, optimisers=("sgd",), seeds=2)
    first, second = run_jobs(plan, Path("x"), {"sgd": {"rate": 1.0}})
    progress = Progress(plan, text, lambda: 100, lambda: now[0])
    assert progress.left() is None
    progress(first, Event(0, False, share=0.0))
    now[0] = 10.0
    progress(first, Event(0, False, share=0.5, update=50, seconds=5.0, loss=3.25, train_loss=3.0))
    assert progress.left() == pytest.approx(30.0)  # half of one of two in ten seconds
    assert "loss 3.25" in text.getvalue()
    assert "10 updates/s" in text.getvalue()
    assert "30 s left" in text.getvalue()
    progress(first, Event(0, True, "finished"))
    assert "sgd, seed 0: finished, training loss 3" in text.getvalue()
    progress(second, Event(1, True, "diverged", "too long a step"))
    assert "sgd, seed 1: diverged, too long a step" in text.getvalue()
    assert progress.left() == 0.0


def test_what_other_sittings_have_done_is_no_pace() -> None:
    now, text = [0.0], io.StringIO()
    plan = replace(PLAN, trials=0, optimisers=("sgd",), seeds=4)
    jobs = run_jobs(plan, Path("x"), {"sgd": {"rate": 1.0}})
    progress = Progress(plan, text, None, lambda: now[0])
    for job in jobs[:2]:
        progress(job, Event(-1, True, "there", share=1.0))
    progress(jobs[2], Event(0, False, share=0.25))  # its checkpoint
    now[0] = 10.0
    progress(jobs[2], Event(0, False, share=0.5))
    assert progress.left() == pytest.approx(60.0)  # 1.5 of a run left at 0.25 in ten seconds
    assert text.getvalue() == ""
