"""Do the table of the papers' experiments and the scripts give the same verdicts?"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "experiments.md"


def verdicts() -> dict[str, str]:
    """Return {script: verdict} of the docstrings."""
    found = {}
    for path in sorted((ROOT / "figures").glob("[a-z][0-9]*_*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        match = re.search(r"^Verdict: (reproduced|partly|not)\b", text, re.MULTILINE)
        assert match or "Verdict" not in text, path.name
        if match:
            found[path.stem] = match.group(1)
    return found


def rows() -> list[list[str]]:
    """Return the cells of the table."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_verdict_has_a_row_and_no_row_is_without_script() -> None:
    assert {row[4].strip("`") for row in rows()} == set(verdicts())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[-1].strip("`"))
def test_the_row_gives_the_script_s_verdict(row: list[str]) -> None:
    assert len(row) == 5
    assert all(row)
    assert verdicts()[row[4].strip("`")] == row[3]
    assert (ROOT / "figures" / "out" / f"{row[4].strip('`')}.png").is_file()
