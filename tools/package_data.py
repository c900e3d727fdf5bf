"""Write what is generated from the sources: `python tools/package_data.py [--check]`.

1. `linnat/claims/derivations.json`: the rendered steps of every derivation, from `python -m derivations --json`.
2. `linnat/claims/coverage.json`: for each statement its claim, derivation, tests and figures.
3. The claims table of README.md, between its two markers.

Tests are found by the arguments of `pytest.mark.statement`, derivations and figures by their constant STATEMENTS,
all by reading syntax trees: nothing is imported to be counted. With `--check` nothing is written, and the exit
status is 1 if a file is stale.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- claims table: begin -->", "<!-- claims table: end -->"
HEADER = ("identifier", "statement", "function", "derivation", "test", "figure")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the generated files, or with `--check` say which are stale; return the exit status."""
    parser = argparse.ArgumentParser(prog="tools/package_data.py", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if a file is stale"
    )
    options = parser.parse_args(arguments)
    outdated = stale({**derivation_files(), **coverage_files()})
    for path, text in outdated.items():
        print(f"{'stale' if options.check else 'written'}: {path.relative_to(ROOT)}")
        if not options.check:
            path.write_text(text, encoding="utf-8")
    if not outdated:
        print("all generated files are up to date")
    elif options.check:
        print("run: python tools/package_data.py")
    return int(options.check and bool(outdated))


def stale(files: Mapping[Path, str]) -> dict[Path, str]:
    """Return the files that are absent or differ from the given text."""
    return {p: t for p, t in files.items() if not p.exists() or p.read_text(encoding="utf-8") != t}


def derivation_files() -> dict[Path, str]:
    """Run all derivations and return {path: text} of the rendered steps."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "derivations.json"
        command = [sys.executable, "-m", "derivations", "--json", str(written)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if run.returncode:
            raise SystemExit(f"python -m derivations failed: {run.stderr.strip().splitlines()[-1]}")
        return {ROOT / "linnat" / "claims" / "derivations.json": written.read_text(encoding="utf-8")}


def coverage_files() -> dict[Path, str]:
    """Return {path: text} of the coverage table and of the README that shows it."""
    claims = registered_claims()
    coverage = cover(claims)
    readme = ROOT / "README.md"
    text = json.dumps(coverage, ensure_ascii=False, indent=1) + "\n"
    return {
        ROOT / "linnat" / "claims" / "coverage.json": text,
        readme: insert_table(readme.read_text(encoding="utf-8"), render_table(claims, coverage)),
    }


def registered_claims() -> Sequence[Any]:
    """Return the claims of the package, in its order."""
    sys.path.insert(0, str(ROOT))
    try:
        from linnat.claims import registry
    finally:
        sys.path.remove(str(ROOT))
    return registry()


def cover(claims: Iterable[Any], root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Return {identifier: {claim, derivation, tests, figures}}; what is missing is empty.

    Raises
    ------
    ValueError
        If a test, derivation or figure names a statement that has no claim.
    """
    columns = {
        "derivation": statements_declared(root, "derivations"),
        "tests": statements_tested(root),
        "figures": statements_declared(root, "figures"),
    }
    table: dict[str, dict[str, Any]] = {}
    for claim in claims:
        row: dict[str, Any] = {"claim": f"{claim.check.__module__}.{claim.check.__qualname__}"}
        table[claim.identifier] = row | {
            name: found.pop(claim.identifier, []) for name, found in columns.items()
        }
    unknown = {identifier: places for found in columns.values() for identifier, places in found.items()}
    if unknown:
        raise ValueError(f"statements without a claim: {unknown}")
    return table


def statements_declared(root: Path, folder: str) -> dict[str, list[str]]:
    """Return {identifier: files} from the constants STATEMENTS of a folder's modules."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / folder).glob("*.py")):
        for identifier in declared(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(identifier, []).append(path.relative_to(root).as_posix())
    return found


def statements_tested(root: Path) -> dict[str, list[str]]:
    """Return {identifier: tests} from the marks of all test modules; a mark of a whole module gives its file."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        name = path.relative_to(root).as_posix()
        for suffix, identifier in marked(ast.parse(path.read_text(encoding="utf-8"))):
            places = found.setdefault(identifier, [])
            if name + suffix not in places:
                places.append(name + suffix)
    return found


def declared(tree: ast.Module) -> tuple[str, ...]:
    """Return the value of the module constant STATEMENTS, () if there is none."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == "STATEMENTS" for t in targets):
            return tuple(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    return ()


def marked(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (test, identifier) for every statement mark of a test module; the test is "" for a mark of the module."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets
        ):
            yield from (("", identifier) for identifier in identifiers(node.value))
    yield from _marked_definitions(tree.body, "")


def _marked_definitions(body: Iterable[ast.stmt], prefix: str) -> Iterator[tuple[str, str]]:
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        name = f"{prefix}::{node.name}"
        for decorator in node.decorator_list:
            yield from ((name, identifier) for identifier in identifiers(decorator))
        if isinstance(node, ast.ClassDef):
            yield from _marked_definitions(node.body, name)


def identifiers(expression: ast.expr) -> Iterator[str]:
    """Yield the arguments of every `pytest.mark.statement(…)` within an expression, also inside `pytest.param`."""
    for node in ast.walk(expression):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.statement":
            yield from (ast.literal_eval(argument) for argument in node.args)


def render_table(claims: Iterable[Any], coverage: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the claims table in Markdown; a missing cell is a dash."""
    rows = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    for claim in claims:
        row = coverage[claim.identifier]
        cells = [
            f"**{claim.identifier}**",
            claim.statement.replace("*", "\\*"),
            f"`{claim.function}`",
            links(row["derivation"]),
            links(row["tests"]),
            links(row["figures"]),
        ]
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(rows)


def links(places: Iterable[str]) -> str:
    """Return Markdown links to the distinct files of these places, a dash if there are none."""
    files = dict.fromkeys(place.partition("::")[0] for place in places)
    return ", ".join(f"[{_short(file)}]({file})" for file in files) or "—"


def _short(file: str) -> str:
    path = Path(file)
    if path.parts[0] == "tests" and len(path.parts) > 2:
        return f"{path.parent.name}/{path.stem.removeprefix('test_')}"
    return path.stem.removeprefix("test_")


def insert_table(text: str, table: str) -> str:
    """Return the README's text with the table between its two markers.

    Raises
    ------
    ValueError
        Unless each marker occurs exactly once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"README.md must contain {BEGIN} and then {END}, once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    sys.exit(main())
