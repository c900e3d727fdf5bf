"""What does `linnat data` do? It says which data sets there are and where they are, and fetches published ones."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from typing import Any

from linnat._checks import fail
from linnat.data.download import Progress, fetch
from linnat.data.places import look, places
from linnat.data.published import PUBLISHED


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the commands below `linnat data`."""
    commands = command.add_subparsers(title="commands", required=True, metavar="COMMAND")
    names = ", ".join(PUBLISHED)
    sub = _add(commands, "list", list_sets, "list the data sets and whether they are there, verified")
    sub.add_argument("--json", action="store_true", help="as JSON")
    sub = _add(commands, "where", where, "say where published sets are looked for and what is there")
    sub.add_argument("names", nargs="*", metavar="NAME", help=f"{names} (all by default)")
    sub.add_argument("--json", action="store_true", help="as JSON")
    sub = _add(commands, "fetch", fetch_sets, "download published sets, resume, verify them")
    sub.add_argument("names", nargs="+", metavar="NAME", help=names)
    sub.add_argument(
        "--mirror",
        action="append",
        default=[],
        metavar="URL",
        help="a folder to ask before the known mirrors",
    )
    sub.add_argument(
        "--timeout", type=float, default=10.0, metavar="S", help="seconds without an answer (default 10)"
    )


def _add(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], words: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=words, description=words.capitalize() + ".", allow_abbrev=False
    )
    command.add_argument(
        "--data", metavar="DIR", help="a folder with a subfolder for each set, looked in first"
    )
    command.set_defaults(run=run)
    return command


def list_sets(options: argparse.Namespace) -> int:
    """Run `linnat data list`."""
    rows = [("digits", "handwritten digits, 8 × 8, 1,437 + 360 (bundled with scikit-learn)", _digits())]
    rows += [(known.name, known.words, _state(known.name, options.data)) for known in PUBLISHED.values()]
    rows.append(("curves-like", "curves through three points, 28 × 28, 20,000 + 10,000; not CURVES", "drawn"))
    if options.json:
        print(json.dumps([dict(zip(("name", "what", "state"), row, strict=True)) for row in rows], indent=2))
    else:
        print("\n".join(f"{name:<14} {words}\n{'':<14} {state}" for name, words, state in rows))
    return 0


def where(options: argparse.Namespace) -> int:
    """Run `linnat data where`."""
    found = {}
    for name in _names(options.names or list(PUBLISHED)):
        found[name] = [(place, look(place, name)) for place in places(name, options.data)]
    if options.json:
        document = {
            name: [{"why": p.why, "folder": str(p.folder), "files": states} for p, states in rows]
            for name, rows in found.items()
        }
        print(json.dumps(document, indent=2))
        return 0
    for name, rows in found.items():
        print(name)
        for place, states in rows:
            print(f"  {place.folder} ({place.why}): {_summary(states)}")
    return 0


def fetch_sets(options: argparse.Namespace) -> int:
    """Run `linnat data fetch`."""
    for name in _names(options.names):
        progress, close = _bars()
        try:
            folder = fetch(
                name, options.data, mirrors=options.mirror, timeout=options.timeout, progress=progress
            )
        finally:
            close()
        print(f"{name}: verified, in {folder}")
    return 0


def _names(names: list[str]) -> list[str]:
    for name in names:
        if name not in PUBLISHED:
            fail("NAME", f"one of {', '.join(PUBLISHED)}", repr(name))
    return names


def _digits() -> str:
    there = importlib.util.find_spec("sklearn") is not None
    return "there" if there else "not installed: pip install 'linnat[data]'"


def _state(name: str, folder: str | None) -> str:
    """Return what `load_split` would find."""
    for place in places(name, folder):
        states = look(place, name)
        if "missing" not in states.values():
            return f"{_summary(states)}, in {place.folder}"
    return f"not there: linnat data fetch {name}"


def _summary(states: dict[str, str]) -> str:
    """Return one line about four files."""
    if set(states.values()) == {"verified"}:
        return "verified"
    if set(states.values()) == {"missing"}:
        return "nothing"
    groups = {state: [stem for stem in states if states[stem] == state] for state in states.values()}
    return "; ".join(f"{state}: {', '.join(stems)}" for state, stems in groups.items())


def _bars() -> tuple[Progress, Callable[[], None]]:
    """Return a function that draws a bar for each file on a terminal's stderr, and one that ends the last bar."""
    try:
        from tqdm import tqdm
    except ImportError:
        return (lambda name, done, total: None), (lambda: None)
    bars: dict[str, Any] = {}

    def close() -> None:
        for bar in bars.values():
            bar.close()

    def draw(name: str, done: int, total: int) -> None:
        if name not in bars:
            close()
            # Bytes that an earlier try brought do not count towards the rate.
            bars[name] = tqdm(
                desc=name,
                initial=done,
                total=total,
                unit="B",
                unit_scale=True,
                disable=None,
                dynamic_ncols=True,
            )
        bars[name].update(done - bars[name].n)

    return draw, close
