"""Does the command line print what was asked for, and end with the right status?"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import linnat.cli as cli
from linnat import LinearNetwork
from linnat.claims import Report, Row, registry

NAMES = [claim.identifier for claim in registry()]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    rng = np.random.default_rng(0)
    LinearNetwork.random((4, 2, 3), rng=1).save(tmp_path / "net.npz")
    x = rng.standard_normal((30, 4))
    np.savez(tmp_path / "d.npz", x=x, y=x @ rng.standard_normal((4, 3)))
    return str(tmp_path / "net.npz"), str(tmp_path / "d.npz")


def start(*arguments: str, traced: bool = True, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "linnat", *arguments]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "COLUMNS": "90"} | options.pop("env", {})
    if not traced:
        environment = {key: value for key, value in environment.items() if not key.startswith("COVERAGE_")}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def test_verify_random_problems(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "n5", "--seed", "2"]) == 0
    out, err = capsys.readouterr()
    assert "✓ N5" in out
    assert "seed 2" in out
    assert "\033" not in out
    assert err == ""


def test_verify_your_network_as_json(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "--weights", files[0], "--data", files[1], "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"]
    assert {row["rung"] for row in document["rows"]} == {"yours"}
    assert {row["identifier"] for row in document["rows"]} == set(NAMES)


def test_a_failing_claim_gives_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import linnat.claims

    failed = Row("N2", "p", "tame", "fails", "q", 1.0, 1e-9, note="q: 1 exceeds 1e-09")
    claim = registry()[NAMES.index("N2")]
    monkeypatch.setattr(linnat.claims, "verify", lambda *args, **options: Report((claim,), (failed,), ()))
    assert cli.main(["verify"]) == 1
    assert "1 FAIL" in capsys.readouterr().out


def test_colour_on_demand(capsys: pytest.CaptureFixture[str], files: tuple[str, str]) -> None:
    cli.main(["verify", "N2", "--weights", files[0], "--data", files[1], "--colour", "always", "--verbose"])
    assert "\033[32m✓" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "Q9"],
        ["verify", "N2", "--data", "no-such-file"],
        ["verify", "--weights", "absent.npz", "--data", "digits"],
        ["verify", "--weights", "NET"],
        ["verify", "--weights", "NET", "--data", "digits"],
        ["verify", "--weights", "DATA", "--data", "DATA"],
        ["verify", "--weights", "NET", "--data", "NET"],
        ["verify", "--data", "NAN"],
        ["verify", "--data", "TEXT"],
        ["verify", "--data", "FOLDER"],
        ["show", "Z1"],
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "nan.npz", x=np.full((3, 2), np.nan), y=np.ones((3, 1)))
    (tmp_path / "text").write_text("hello")
    places = {
        "NET": files[0],
        "DATA": files[1],
        "NAN": str(tmp_path / "nan.npz"),
        "TEXT": str(tmp_path / "text"),
        "FOLDER": str(tmp_path),
    }
    assert cli.main([places.get(a, a) for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("linnat: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["verify", "--seed", "-1"], ["verify", "--seed", "x"], ["nonsense"]]
)
def test_bad_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("linnat: ")
    assert err.count("\n") == 1
    assert "--help" in err


def test_claims_lists_every_statement_with_its_coverage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"claim": "x", "derivation": ["derivations/n2.py"], "tests": ["a", "b"], "figures": []}
    monkeypatch.setattr(cli, "read_package_data", lambda name: {"N2": row})
    assert cli.main(["claims"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if re.match(r"[A-Z]\d", line)] == NAMES
    assert "derivation ✓ 1 · tests ✓ 2 · figures missing" in out
    assert "no entry in the package data" in out
    assert cli.main(["claims", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [claim["identifier"] for claim in listed] == NAMES
    assert listed[NAMES.index("N2")]["coverage"] == row


def test_show_prints_the_steps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [
        {"text": "the blocks", "kind": "definition", "plain": "", "latex": ""},
        {"text": "they add up", "kind": "proved", "plain": "a = b\nc", "latex": r"\alpha"},
    ]
    monkeypatch.setattr(
        cli, "read_package_data", lambda name: {"N2": {"title": "T", "source": "new", "steps": steps}}
    )
    assert cli.main(["show", "n2"]) == 0
    plain = capsys.readouterr().out
    assert "  1   the blocks" in plain
    assert "  2 ∎ they add up\n        a = b\n        c" in plain
    assert cli.main(["show", "N2", "--latex"]) == 0
    assert r"\alpha" in capsys.readouterr().out
    assert cli.main(["show", "C1"]) == 0
    assert "C1: no entry in the package data" in capsys.readouterr().out


def test_package_data_that_is_absent_or_broken_is_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "FOLDER", tmp_path)
    assert cli.read_package_data("coverage.json") == {}
    for text in ("{", "[1]"):
        (tmp_path / "coverage.json").write_text(text)
        assert cli.read_package_data("coverage.json") == {}


def test_info_names_versions_and_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--quick"]) == 0
    assert re.search(r"numpy +\d+\.\d+", capsys.readouterr().out)
    assert cli.main(["info", "--quick", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"linnat", "Python", "BLAS of numpy", "BLAS of scipy"} <= set(facts)


def test_cite_has_six_balanced_entries(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cite"]) == 0
    text = capsys.readouterr().out
    assert len(re.findall(r"^@\w+\{\w+,$", text, re.MULTILINE)) == 6
    assert text.count("{") == text.count("}")


def test_progress_is_drawn_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    draw = cli._progress()
    draw(1, 4, "N2  tame 3-2")
    err = capsys.readouterr().err
    assert err.startswith("\r")
    assert "1/4" in err
    assert "\n" not in err


def test_progress_goes_to_a_terminal_only(files: tuple[str, str]) -> None:
    arguments = ("verify", "N2", "--weights", files[0], "--data", files[1])
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "linnat", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=slave, timeout=120, check=False)
    os.close(slave)
    told = os.read(master, 10_000).decode()
    os.close(master)
    assert done.returncode == 0
    assert "N2" in told
    assert told.endswith("\033[K")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    process = start("claims")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read()
    process.wait(60)
    process.stderr.close()
    assert "Traceback" not in err
    assert "Exception" not in err


def test_an_interrupt_is_one_line() -> None:
    # Not traced: a KeyboardInterrupt between two steps of coverage's tracer leaves its lock taken, a deadlock of its
    # own. And a parent that ignores interrupts, as a shell's background job does, must not hand that down.
    with start("verify", "C1", "C6", "--verbose", traced=False, preexec_fn=_heed_interrupts) as process:
        time.sleep(4)
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    # CPython ends with the signal itself where the interrupt fell into code that was being `exec`uted on import.
    assert process.returncode in (130, -signal.SIGINT)
    assert err.strip() == "linnat: interrupted"


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_an_ascii_terminal_is_no_error(files: tuple[str, str]) -> None:
    process = start(
        "verify",
        "N2",
        "--weights",
        files[0],
        "--data",
        files[1],
        env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "N2" in out


def test_info_measures_unless_it_is_to_be_quick(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bool] = []

    def facts(*, measured: bool = False) -> dict[str, str]:
        asked.append(measured)
        return {"advice": "none"}

    monkeypatch.setattr("linnat.hardware.facts", facts)
    assert [cli.main(["info", *more]) for more in ([], ["--quick"], ["--no-measure"])] == [0, 0, 0]
    assert asked == [True, False, False]
    assert "advice" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["verify", "N2"], ["compare"], ["compare-curvature"]])
def test_unknown_kernels_are_refused_before_anything_runs(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command, "--blas-kernel", "Nonsense"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("linnat: kernel: expected one of auto,")
    assert captured.err.count("\n") == 1
