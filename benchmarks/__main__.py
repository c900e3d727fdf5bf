"""`python -m benchmarks [NAME …]`: run the benchmarks and print their tables."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import benchmarks
from benchmarks._timing import environment, table


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; return 2 for an unknown name."""
    known = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_"))
    for name in names:
        if name not in known:
            print(f"benchmark: expected one of {', '.join(known)}, found {name!r}", file=sys.stderr)
            return 2
    print(environment())
    for name in names or known:
        module = importlib.import_module(f"benchmarks.{name}")
        print("\n" + table((module.__doc__ or name).splitlines()[0], module.run()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
