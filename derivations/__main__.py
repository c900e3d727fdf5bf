"""Run the derivations: ``python -m derivations [ID…] [--latex] [--json FILE]``; exit status 1 on failure."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from derivations._core import Derivation, DerivationError


def modules() -> list[ModuleType]:
    """Return the family modules of this folder, ordered by letter and number."""
    stems = (path.stem for path in Path(__file__).parent.glob("*_*.py"))
    names = [stem for stem in stems if re.match(r"[a-z]\d", stem)]
    return [importlib.import_module(f"derivations.{name}") for name in sorted(names, key=_natural)]


def run(identifiers: Sequence[str] = ()) -> Iterator[Derivation]:
    """Yield the derivations of these identifiers (any case), of all statements if none is named.

    Parameters
    ----------
    identifiers : sequence of str
        Statement identifiers; empty for all.

    Raises
    ------
    DerivationError
        Where a step does not hold, or a derivation proves and checks nothing.
    KeyError
        For an identifier that no family derives.
    """
    wanted = {identifier.upper() for identifier in identifiers}
    found = modules()
    known = {statement for module in found for statement in module.STATEMENTS}
    if wanted - known:
        there_are = ", ".join(sorted(known, key=_natural))
        raise KeyError(f"no derivation of {', '.join(sorted(wanted - known))}; there are {there_are}")
    for module in found:
        if wanted and not wanted & set(module.STATEMENTS):
            continue
        derived = module.derive()
        if sorted(d.identifier for d in derived) != sorted(module.STATEMENTS):
            raise DerivationError(f"{module.__name__} does not derive its STATEMENTS, one for one")
        for derivation in derived:
            if not any(step.kind != "definition" for step in derivation.steps):
                raise DerivationError(f"{derivation.identifier}: no step is proved or checked")
            if not wanted or derivation.identifier in wanted:
                yield derivation


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or write the derivations; return the exit status (0, 1 on a failed step, 2 on bad input)."""
    parser = argparse.ArgumentParser(prog="python -m derivations", description=__doc__)
    parser.add_argument(
        "identifiers", nargs="*", metavar="ID", help="statement identifiers, any case; all if none"
    )
    parser.add_argument("--latex", action="store_true", help="print LaTeX")
    parser.add_argument("--json", metavar="FILE", help="write the steps as JSON instead of printing them")
    options = parser.parse_args(arguments)
    begin = time.perf_counter()
    record: dict[str, object] = {}
    count = 0
    try:
        for derivation in run(options.identifiers):
            count += 1
            record[derivation.identifier] = _record(derivation)
            if not options.json:
                print(derivation.latex() if options.latex else derivation.text(), end="\n\n", flush=True)
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    except DerivationError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    if options.json:
        Path(options.json).write_text(
            json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
    print(
        f"{count} statement{'s' * (count != 1)} derived in {time.perf_counter() - begin:.1f} s",
        file=sys.stderr,
    )
    return 0


def _record(derivation: Derivation) -> dict[str, object]:
    steps = [
        {"text": step.text, "kind": step.kind, "plain": step.plain(), "latex": step.latex()}
        for step in derivation.steps
    ]
    return {"title": derivation.title, "source": derivation.source, "steps": steps}


def _natural(name: str) -> tuple[str, int, str]:
    match = re.match(r"([A-Za-z]+)(\d+)(.*)", name)
    if match is None:
        return (name, 0, "")
    return (match[1].upper(), int(match[2]), match[3])


if __name__ == "__main__":
    sys.exit(main())
