"""Draw the figures: ``python -m figures [NAME…] [--quick] [--out DIR]``.

Exit status 1 where a claim fails, 2 for a name that no figure has.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from figures._common import HERE, OUT, ClaimError


def names() -> list[str]:
    """Return the names of all figures, from the files of this folder."""
    stems = (path.stem for path in HERE.glob("*_*.py"))
    return sorted((s for s in stems if re.match(r"[a-z]\d", s)), key=_natural)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw what is asked for and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m figures", description="Draw the figures after checking what they claim."
    )
    parser.add_argument(
        "name", nargs="*", metavar="NAME", help="a figure, or the beginning of its name (n2); all by default"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer seeds and points, for a check in under a minute"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for PNG, PDF and data (figures/out; figures/out/quick with --quick)"
    )
    options = parser.parse_args(arguments)
    known = names()
    chosen = [n for n in known if not options.name or any(_asked(n, name) for name in options.name)]
    unknown = [name for name in options.name if not any(_asked(n, name) for n in known)]
    if unknown:
        print(f"figures: no figure {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    out = options.out or (OUT / "quick" if options.quick else OUT)
    mpl.use("agg")
    failed = []
    for name in chosen:
        begin = time.perf_counter()
        print(name, flush=True)
        try:
            importlib.import_module(f"figures.{name}").main(options.quick, out)
        except ClaimError as error:
            failed.append(name)
            print(f"    FAILED: {error}")
        print(f"    {time.perf_counter() - begin:.1f} s", flush=True)
    print(f"failed: {', '.join(failed)}" if failed else f"{len(chosen)} figures in {out}")
    return 1 if failed else 0


def _asked(name: str, asked: str) -> bool:
    return name == asked or name.startswith(f"{asked.lower()}_")


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


if __name__ == "__main__":
    raise SystemExit(main())
