"""Does `linnat compare` do what it was told, once, whatever happens to it?"""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import linnat.cli as cli
from linnat import compare_command
from linnat.compare.results import Record
from linnat.compare.run import CURVE, NETWORK, RESULT
from linnat.nonlinear.record import read_csv
from tests.compare.test_run import assert_same

MODEL = "25-10-25:logistic:bernoulli:sparse"


def arguments(data: str, out: Path, *more: str, **changes: str) -> list[str]:
    options = {
        "data": data,
        "model": MODEL,
        "optimisers": "sgd,kfac",
        "budget": "40u",
        "seeds": "2",
        "tune": "2",
        "jobs": "1",
        "evaluations": "4",
    } | changes
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    return ["compare", *words, "--out", str(out), *more]


def run_folders(out: Path) -> list[Path]:
    return sorted(path.parent for path in (out / "runs").rglob(RESULT))


@pytest.fixture(autouse=True)
def plain_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing within this process, but where `done` was made: pictures have tests of their own."""

    def write(record: Record, out: Path) -> Path:
        (out / "report.html").write_text("")
        return out / "report.html"

    monkeypatch.setattr(compare_command, "write_report", write)


@pytest.fixture(scope="module")
def done(small: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "out"
    assert cli.main(arguments(small, out)) == 0
    return out


def test_it_leaves_everything_and_the_settings_of_the_best_trial(done: Path) -> None:
    names = {path.name for path in done.iterdir()}
    assert names >= {"plan.json", "manifest.json", "results.json", "runs.csv", "curves.csv", "report.html"}
    assert len(run_folders(done)) == 4
    for method in ("sgd", "kfac"):
        choice = json.loads((done / "tuning" / f"{method}.json").read_text())
        losses = [trial["loss"] for trial in choice["trials"]]
        assert len(losses) == 2
        assert choice["trial"] == int(np.argmin(losses))
        task = json.loads((done / "runs" / method / "seed-00" / "task.json").read_text())
        assert task["settings"] == choice["settings"] == choice["trials"][choice["trial"]]["settings"]
        rows = read_csv(done / "runs" / method / "seed-00" / CURVE)
        assert [row.update for row in rows] == [0, 8, 16, 24, 32, 40]


def test_budgets_in_updates_are_bit_for_bit_the_same_whatever_the_jobs(
    small: str, done: Path, tmp_path: Path
) -> None:
    assert cli.main(arguments(small, tmp_path / "two", jobs="2")) == 0
    assert [p.relative_to(done) for p in run_folders(done)] == [
        p.relative_to(tmp_path / "two") for p in run_folders(tmp_path / "two")
    ]
    for folder in run_folders(done):
        assert_same(folder, tmp_path / "two" / folder.relative_to(done))
    plans = [json.loads((out / "plan.json").read_text()) for out in (done, tmp_path / "two")]
    assert plans[0] == plans[1]


def test_what_has_ended_is_not_repeated_and_more_can_be_added(
    small: str,
    done: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for f in run_folders(done) for p in f.iterdir()}
    assert cli.main(arguments(small, done)) == 0
    assert capsys.readouterr().err == ""
    assert cli.main(arguments(small, done, seeds="3")) == 2
    assert "Give --resume to add to it" in capsys.readouterr().err
    assert cli.main(arguments(small, done, "--resume", budget="41u")) == 2
    assert "updates 40 instead of 41" in capsys.readouterr().err
    assert cli.main(["compare", "--out", str(done), "--resume", "--optimisers", "adam", "--jobs", "1"]) == 0
    err = capsys.readouterr().err
    assert "adam, trial 1: finished" in err
    assert "sgd" not in err
    assert len(run_folders(done)) == 6
    for path, (content, moment) in before.items():
        if path.name != "lock":
            assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, moment)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--optimisers", "sgd,lion"], "--optimisers"),
        (["--budget", "soon"], "--budget"),
        (["--tune-budget", "0s"], "--tune-budget"),
        (["--seeds", "0"], "--seeds"),
        (["--tune", "-1"], "--tune"),
        (["--jobs", "0"], "--jobs"),
        (["--threads", "0"], "--threads"),
        (["--set", "sgd.rate"], "--set"),
        (["--set", "lion.rate=1"], "--set"),
        (["--set", "sgd.speed=1"], "setting of sgd"),
        (["--set", "adam.rate=1"], "--set"),
        (["--model", "25-4:tanh:cauchy"], "--model"),
        (["--data", "nowhere"], "data"),
        (["--resume"], "--resume"),
        (["--evaluations", "-1"], "--evaluations"),
        (["--out", "/proc/none"], "--out"),
        (["--blas-kernel", "Fast"], "kernel"),
    ],
)
def test_bad_input_is_one_line(
    more: list[str],
    complaint: str,
    small: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([*arguments(small, tmp_path / "out"), *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert complaint in err
    assert not (tmp_path / "out" / "runs").exists()


def start(*words: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "linnat", *words]
    environment = os.environ | {"COLUMNS": "100"}
    return subprocess.Popen(command, text=True, env=environment, start_new_session=True, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interruption_saves_says_how_to_go_on_and_loses_nothing(
    number: int,
    small: str,
    tmp_path: Path,
) -> None:
    out = tmp_path / "my runs"
    words = arguments(small, out, tune="0", seeds="1", budget="3s", optimisers="nesterov,kfac", jobs="2")
    process = start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(list((out / "runs").glob("*/*/task.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"nothing is lost; go on with: linnat compare --out '{out}' --resume" in err
    assert "Traceback" not in err
    assert (out / "report.html").exists()
    kept = list((out / "runs").glob("*/*/checkpoint.npz"))
    assert kept
    assert cli.main(["compare", "--out", str(out), "--resume", "--jobs", "1"]) == 0
    for folder in run_folders(out):
        rows = read_csv(folder / CURVE)
        assert 3.0 <= rows[-1].seconds < 6.0
        assert (np.diff([row.seconds for row in rows]) > 0).all()


@pytest.mark.slow
def test_a_killed_comparison_goes_on_to_the_same_numbers(small: str, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(*arguments(small, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((out / "tuning").glob("*/*/result.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (out / "report.html").exists()
    deadline = time.monotonic() + 60
    while cli.main(arguments(small, out)) != 0:  # its worker may still be about to leave
        assert time.monotonic() < deadline
    for folder in run_folders(done):
        if "adam" not in folder.parts:
            assert_same(folder, out / folder.relative_to(done))


def test_a_second_comparison_in_the_same_folder_is_refused_and_one_beside_it_is_not(
    small: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = arguments(small, tmp_path / "one", budget="60s", tune="0")
    first = start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "one" / "runs").rglob("task.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert cli.main(words) == 2
        assert f"in use by process {first.pid}" in capsys.readouterr().err
        assert cli.main(arguments(small, tmp_path / "two", tune="0", seeds="1")) == 0
    finally:
        first.send_signal(signal.SIGINT)
        first.wait(60)
    assert first.returncode == 130


def test_a_run_that_fails_is_named_and_tried_again(
    small: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    words = arguments(small, out, tune="0", seeds="1")
    blocked = out / "runs" / "kfac" / "seed-00" / NETWORK
    assert cli.main(arguments(small, out, tune="0", seeds="1", optimisers="sgd")) == 0
    blocked.mkdir(parents=True)  # a folder where a file must go
    assert cli.main([*words, "--resume"]) == 1
    out_text, err = capsys.readouterr()
    assert "1 failed" in out_text
    assert "1 run failed: kfac, seed 0" in err
    assert "network.npz" in err
    blocked.rmdir()
    assert cli.main([*words, "--resume"]) == 0
    assert "1 failed" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_terminal_gets_a_bar(small: str, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    words = arguments(small, tmp_path / "out", tune="0", seeds="1", budget="1s", optimisers="sgd")
    process = start(*words, stdout=subprocess.DEVNULL, stderr=follower)
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(leader)
    assert process.wait(60) == 0
    text = seen.decode()
    assert "█" in text
    assert "updates/s" in text
    assert " left" in text
    assert "loss " in text
    assert text.rstrip().endswith("\033[K") or "finished" in text


@pytest.mark.slow
def test_the_manifest_s_command_does_the_same_anew(small: str, done: Path, tmp_path: Path) -> None:
    words = shlex.split(json.loads((done / "manifest.json").read_text())["command"])
    assert words[:2] == ["linnat", "compare"]
    assert cli.main([*words[1:], "--out", str(tmp_path / "out"), "--jobs", "2"]) == 0
    for folder in run_folders(done):
        assert_same(folder, tmp_path / "out" / folder.relative_to(done))
