"""Does `linnat data` list, find and fetch, in words and as JSON, with the right status?"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import linnat.cli as cli
from linnat.data.published import PUBLISHED, STEMS
from tests.data.server import CONTENT, serving, small_set


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Serve a small set under the name mnist; nothing else is there."""
    monkeypatch.setattr("linnat.data.places.TREE", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LINNAT_DATA", raising=False)
    with serving() as found:
        monkeypatch.setitem(PUBLISHED, "mnist", small_set(found.url("missing")))
        yield found


def test_fetch_then_list_and_where(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "list"]) == 0
    assert "not there: linnat data fetch mnist" in capsys.readouterr().out
    assert cli.main(["data", "fetch", "mnist", "--mirror", server.url("good")[:-1]]) == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "cache" / "linnat" / "mnist"
    assert out == f"mnist: verified, in {folder}\n"
    assert err == ""  # bars are for terminals
    assert {name for name in CONTENT if (folder / name).is_file()} == set(CONTENT)
    assert cli.main(["data", "list", "--json"]) == 0
    rows = {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert rows["mnist"] == f"verified, in {folder}"
    assert rows["digits"] == "there"
    assert rows["curves-like"] == "drawn"
    assert set(rows) == {"digits", "mnist", "fashion-mnist", "curves-like"}
    (folder / f"{STEMS[0]}.gz").unlink()
    (folder / f"{STEMS[1]}.gz").write_bytes(b"mine")
    assert cli.main(["data", "where", "mnist", "--data", str(tmp_path / "d")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"  {tmp_path / 'd' / 'mnist'} (the folder given): nothing"
    assert f"missing: {STEMS[0]}; other content: {STEMS[1]}; verified: {STEMS[2]}, {STEMS[3]}" in lines[2]
    assert cli.main(["data", "where", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mnist"][0]["files"][STEMS[1]] == "other content"


@pytest.mark.parametrize(
    "arguments",
    [
        ["fetch", "mnist"],
        ["fetch", "digits"],
        ["fetch", "mnist", "--timeout", "0"],
        ["fetch", "mnist", "--mirror", "no address"],
        ["fetch", "mnist", "--data", "FILE"],
        ["where", "nothing"],
    ],
)
def test_bad_input_is_one_line_and_status_2(
    server: Any, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["data", *(str(tmp_path / "file") if a == "FILE" else a for a in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("linnat: ")
    assert err.count("\n") == 1


def test_a_bar_for_each_file_on_a_terminal(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(["data", "fetch", "mnist", "--mirror", server.url("good")]) == 0
    err = capsys.readouterr().err
    for name in CONTENT:
        assert f"{name}: 100%" in err


@pytest.mark.parametrize("missing", ["sklearn", "tqdm"])
def test_what_is_not_installed(
    server: Any, missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert cli.main(["data", "fetch", "mnist", "--mirror", server.url("good")]) == 0
    capsys.readouterr()
    if missing == "sklearn":
        assert cli.main(["data", "list"]) == 0
        assert "not installed: pip install 'linnat[data]'" in capsys.readouterr().out
