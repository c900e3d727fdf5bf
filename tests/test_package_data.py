"""Are the generated files up to date, and is the generator right about what it reads?"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import linnat
from tools import package_data as generator


def names_of(files: dict[Path, str]) -> list[str]:
    return [path.name for path in files]


def test_the_coverage_table_and_the_readme_are_up_to_date() -> None:
    assert not names_of(generator.stale(generator.coverage_files())), "run: python tools/package_data.py"


@pytest.mark.slow
def test_the_rendered_derivations_are_up_to_date() -> None:
    assert not names_of(generator.stale(generator.derivation_files())), "run: python tools/package_data.py"


def test_every_place_named_by_the_coverage_table_exists() -> None:
    table = json.loads((generator.ROOT / "linnat/claims/coverage.json").read_text(encoding="utf-8"))
    for row in table.values():
        for place in [*row["derivation"], *row["tests"], *row["figures"]]:
            assert (generator.ROOT / place.partition("::")[0]).is_file(), place


def test_every_function_named_by_a_claim_is_public() -> None:
    for claim in generator.registered_claims():
        path = claim.function.partition("(")[0]
        place: object = linnat
        for part in path.removeprefix("linnat.").removeprefix("ln.").split("."):
            place = getattr(place, part)
        assert callable(place), claim.function


def test_the_citation_names_the_version() -> None:
    text = (generator.ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {linnat.__version__}\n" in text


def test_marks_are_read_from_modules_classes_functions_and_parameters() -> None:
    tree = ast.parse(
        "import pytest\n"
        "pytestmark = [pytest.mark.slow, pytest.mark.statement('N2', 'X9')]\n"
        "@pytest.mark.statement('C1')\n"
        "class TestFlow:\n"
        "    @pytest.mark.statement('C2')\n"
        "    def test_weights(self): ...\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.statement('D1'))])\n"
        "def test_step(x): ...\n"
    )
    assert list(generator.marked(tree)) == [
        ("", "N2"),
        ("", "X9"),
        ("::TestFlow", "C1"),
        ("::TestFlow::test_weights", "C2"),
        ("::test_step", "D1"),
    ]


def test_a_mention_is_not_a_mark() -> None:
    tree = ast.parse("'''pytest.mark.statement(\"N2\")'''\n# pytest.mark.statement('N2')\nx = 'STATEMENTS'\n")
    assert list(generator.marked(tree)) == []
    assert generator.declared(tree) == ()


def test_declared_statements_are_read_with_and_without_a_type() -> None:
    assert generator.declared(ast.parse("STATEMENTS = ('N2', 'N3')")) == ("N2", "N3")
    assert generator.declared(ast.parse("STATEMENTS: tuple[str, ...] = ('N2',)")) == ("N2",)


def fake_project(root: Path) -> None:
    for folder in ("derivations", "figures", "tests/exact"):
        (root / folder).mkdir(parents=True)
    (root / "derivations/n2_staircase.py").write_text("STATEMENTS = ('N2',)\n")
    (root / "tests/exact/test_natural.py").write_text(
        "import pytest\n"
        "@pytest.mark.statement('N2')\ndef test_a(): ...\n"
        "@pytest.mark.statement('N2')\ndef test_b(): ...\n"
    )


def fake_claim(identifier: str) -> SimpleNamespace:
    return SimpleNamespace(
        identifier=identifier, statement="a | W*", function="natural_gradient", check=fake_claim
    )


def test_the_table_shows_what_is_missing(tmp_path: Path) -> None:
    fake_project(tmp_path)
    claims = [fake_claim("N2"), fake_claim("C1")]
    coverage = generator.cover(claims, tmp_path)
    assert coverage["N2"] == {
        "claim": f"{__name__}.fake_claim",
        "derivation": ["derivations/n2_staircase.py"],
        "tests": ["tests/exact/test_natural.py::test_a", "tests/exact/test_natural.py::test_b"],
        "figures": [],
    }
    assert coverage["C1"]["tests"] == []
    first, second = generator.render_table(claims, coverage).splitlines()[2:]
    assert first == (
        "| **N2** | a \\| W\\* | `natural_gradient` | [n2_staircase](derivations/n2_staircase.py) "
        "| [exact/natural](tests/exact/test_natural.py) | — |"
    )
    assert second.endswith("| — | — | — |")


def test_a_statement_without_a_claim_is_an_error(tmp_path: Path) -> None:
    fake_project(tmp_path)
    with pytest.raises(ValueError, match="N2"):
        generator.cover([fake_claim("C1")], tmp_path)


def test_inserting_the_table_twice_changes_nothing() -> None:
    text = f"a\n{generator.BEGIN}\nold\n{generator.END}\nb\n"
    once = generator.insert_table(text, "new")
    assert once == f"a\n{generator.BEGIN}\nnew\n{generator.END}\nb\n"
    assert generator.insert_table(once, "new") == once


@pytest.mark.parametrize(
    "text", ["", generator.BEGIN, f"{generator.END}{generator.BEGIN}", generator.BEGIN * 2 + generator.END]
)
def test_missing_markers_are_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        generator.insert_table(text, "table")


def test_check_reports_a_stale_file_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "coverage.json"
    target.write_text("old")
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    monkeypatch.setattr(generator, "derivation_files", dict)
    monkeypatch.setattr(generator, "coverage_files", lambda: {target: "new"})
    assert generator.main(["--check"]) == 1
    assert target.read_text() == "old"
    assert generator.main([]) == 0
    assert target.read_text() == "new"
    assert generator.main(["--check"]) == 0
