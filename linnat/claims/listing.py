"""How are statements listed and shown, and on what does the package run? Text of `linnat claims`, `show`, `info`."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from linnat import hardware
from linnat.claims._core import Claim
from linnat.claims.citations import package_version
from linnat.claims.report import BOLD, DIM, GREEN, WIDE, Style, pad, wrap

COLUMNS = ("derivation", "tests", "figures")
KINDS = {"definition": " ", "proved": "∎", "checked": "✓"}
STALE = "no entry in the package data: run `python tools/package_data.py` in a checkout"


def list_claims(claims: Iterable[Claim], coverage: Mapping[str, Any], look: Style) -> str:
    """Return every statement with formula, source, conditions, function and coverage."""
    look = look._replace(width=max(40, min(look.width, WIDE)))
    lines: list[str] = []
    for claim in claims:
        lines.append(look.paint(pad(claim.identifier, 5) + claim.title, BOLD))
        lines += wrap(claim.statement, look.width, "     ")
        facts = {
            "formula": claim.latex,
            "conditions": claim.conditions,
            "source": claim.source,
            "function": f"linnat.{claim.function}",
            "oracle": claim.oracle,
            "fails for": claim.broken,
            "coverage": _coverage(coverage.get(claim.identifier), look),
        }
        for key, value in facts.items():
            first, *rest = wrap(value, look.width, f"     {pad(key, 10)}", " " * 16) or [""]
            lines.append(first.replace(pad(key, 10), look.paint(pad(key, 10), DIM), 1))
            lines += rest
        lines.append("")
    return "\n".join(line.rstrip() for line in lines[:-1])


def describe_all(claims: Iterable[Claim], coverage: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the same as plain objects."""
    words = (
        "identifier",
        "title",
        "statement",
        "latex",
        "source",
        "conditions",
        "function",
        "oracle",
        "reason",
        "broken",
    )
    return [{w: getattr(c, w) for w in words} | {"coverage": coverage.get(c.identifier)} for c in claims]


def show_claim(claim: Claim, derivations: Mapping[str, Any], look: Style, *, latex: bool = False) -> str:
    """Return one statement with the steps of its derivation."""
    look = look._replace(width=max(40, min(look.width, WIDE)))
    head = list_claims([claim], {}, look).splitlines()
    lines = [line for line in head if "coverage" not in line and STALE not in line]
    entry = derivations.get(claim.identifier)
    lines += ["", look.paint("Derivation", BOLD)]
    if not isinstance(entry, Mapping) or not entry.get("steps"):
        return "\n".join([*lines, f"  {claim.identifier}: {STALE}"])
    lines[-1] += look.paint(f"  {entry.get('title', '')}", DIM)
    for number, step in enumerate(entry["steps"], 1):
        lines += _step(number, step, look, latex)
    legend = "∎ proved for symbols   ✓ checked on exact instances   otherwise a definition"
    return "\n".join(line.rstrip() for line in [*lines, "", look.paint(legend, DIM)])


def environment(*, measured: bool = False) -> dict[str, str]:
    """Return versions, BLAS libraries, kernels and threads; with `measured` also the speed of other kernels."""
    facts = {"linnat": package_version(), "Python": f"{platform.python_version()} ({platform.platform()})"}
    for name in ("numpy", "scipy", "sklearn", "sympy", "matplotlib"):
        facts[name] = _version_of(name)
    return facts | hardware.facts(measured=measured)


def _coverage(row: Any, look: Style) -> str:
    if not isinstance(row, Mapping):
        return STALE
    parts = [look.paint("claim ✓", GREEN)]
    for column in COLUMNS:
        places: Sequence[str] = row.get(column) or ()
        parts.append(f"{column} ✓ {len(places)}" if places else f"{column} missing")
    return " · ".join(parts)


def _step(number: int, step: Mapping[str, Any], look: Style, latex: bool) -> list[str]:
    mark = KINDS.get(str(step.get("kind")), " ")
    lines = wrap(str(step.get("text", "")), look.width, f"{number:>3} {mark}", " " * 6)
    formula = str(step.get("latex" if latex else "plain") or "")
    return lines + [look.paint(f"        {line}", DIM) for line in formula.splitlines()]


def _version_of(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        return "not installed"
    return str(getattr(importlib.import_module(name), "__version__", "unknown"))
