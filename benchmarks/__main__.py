"""`python -m benchmarks [NAME …]`: run the benchmarks, print their tables, write them to files.

With `--kernels` every benchmark runs twice, in processes of their own: with the OpenBLAS kernels that the library picks
and with the fastest that the processor supports. With `--threads` all libraries have that many threads and processors.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks._timing import Outcome, environment, table
from linnat import hardware

POOLS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
OWN_CHOICE = "own choice"


def main(arguments: list[str] | None = None) -> int:
    """Run the named benchmarks, or all; return 2 for bad usage, else the status of the last process that failed."""
    options = _parse(arguments)
    if options.kernels is None and options.threads is None:
        return _run(options.names, options.out)
    return _run_in_children(options)


def known() -> list[str]:
    """Return the names of the benchmarks."""
    return sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_"))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known()))
    parser.add_argument("--out", type=Path, metavar="FILE", help="write FILE.json and FILE.txt, too")
    parser.add_argument(
        "--kernels",
        nargs="?",
        const="auto",
        metavar="NAMES",
        help="run with the library's own choice and with these OpenBLAS kernels (A,B; the fastest by default)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads and processors of all libraries")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in known():
            parser.error(f"NAME: expected one of {', '.join(known())}, found {name!r}")
    if options.threads is not None and not 1 <= options.threads <= hardware.processor()["cores"]:
        parser.error(f"--threads: expected 1 to {hardware.processor()['cores']}, found {options.threads}")
    if options.out is not None and not options.out.absolute().parent.is_dir():
        parser.error(f"--out: expected a file in a folder that exists, found {options.out}")
    if options.kernels in known():  # `--kernels NAME` means the benchmark, like `NAME --kernels`
        options.names, options.kernels = [options.kernels, *options.names], "auto"
    if options.kernels not in (None, "auto"):
        try:
            options.kernels = ",".join(hardware.supported(name) for name in options.kernels.split(","))
        except ValueError as error:
            parser.error(f"--kernels: {error}")
    options.names = options.names or known()
    return options


def _run(names: list[str], out: Path | None) -> int:
    facts = environment()
    document: dict[str, Any] = {"environment": facts, "benchmarks": {}}
    text = ["\n".join(f"{name}: {value}" for name, value in facts.items())]
    print(text[0], flush=True)
    for name in names:
        module = importlib.import_module(f"benchmarks.{name}")
        found = module.run()
        outcome = found if isinstance(found, Outcome) else Outcome(found)
        title = (module.__doc__ or name).splitlines()[0]
        text.append(table(title, outcome.rows, outcome.text))
        print("\n" + text[-1], flush=True)
        rows = [row._asdict() | {"met": row.met} for row in outcome.rows]
        document["benchmarks"][name] = {"title": title, "rows": rows, "data": outcome.data}
        _write(out, document, "\n\n".join(text))
    return 0


def _write(out: Path | None, document: Mapping[str, Any], text: str) -> None:
    if out is not None:
        content = json.dumps(document, indent=1, ensure_ascii=False)
        out.with_name(out.name + ".json").write_text(content + "\n", encoding="utf-8")
        out.with_name(out.name + ".txt").write_text(text + "\n", encoding="utf-8")


def _run_in_children(options: argparse.Namespace) -> int:
    """Run once for each choice of kernels; then set the ratios side by side."""
    variables = {k: v for k, v in os.environ.items() if k != hardware.VARIABLE or options.kernels is None}
    if options.threads is not None:
        variables |= dict.fromkeys(POOLS, str(options.threads))
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    runs: dict[str, Any] = {}
    texts, status = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for kernel in _choices(options.kernels):
            file = Path(folder) / "run"
            command = [sys.executable, "-m", "benchmarks", *options.names, "--out", str(file)]
            chosen = {} if kernel == OWN_CHOICE else {hardware.VARIABLE: kernel}
            print(f"\nKernels: {kernel}\n", flush=True)
            status = subprocess.run(command, env=variables | chosen, check=False).returncode or status
            if file.with_name("run.json").exists():
                runs[kernel] = json.loads(file.with_name("run.json").read_text(encoding="utf-8"))
                texts.append(f"Kernels: {kernel}\n\n" + file.with_name("run.txt").read_text(encoding="utf-8"))
                file.with_name("run.json").unlink()
    if len(runs) > 1:
        texts.append(side_by_side(runs))
        print("\n" + texts[-1])
    _write(options.out, {"runs": runs}, "\n".join(texts))
    return status


def _choices(asked: str | None) -> list[str]:
    """Return the kernels to run with, by the names that were asked for or by measurement."""
    if asked is None:
        return [os.environ.get(hardware.VARIABLE, OWN_CHOICE)]
    if asked != "auto":
        return [OWN_CHOICE, *asked.split(",")]
    best = hardware.recommended(hardware.measure())
    if best is None:
        print(
            "The library's own choice of kernels is the fastest that the processor supports: one run serves both."
        )
    return [OWN_CHOICE] if best is None else [OWN_CHOICE, best]


def side_by_side(runs: Mapping[str, Any]) -> str:
    """Return the ratios under each choice of kernels, row by row."""
    lines = ["Ratios by kernels", "", " " * 70 + "".join(f"{kernel:>14}" for kernel in runs)]
    first = next(iter(runs.values()))["benchmarks"]
    for name, content in first.items():
        for i, row in enumerate(content["rows"]):
            values = []
            for run in runs.values():
                others = run["benchmarks"].get(name, {"rows": []})["rows"]
                values.append(f"{others[i]['ratio']:14.2f}" if i < len(others) else f"{'—':>14}")
            lines.append(f"  {(row['name'] or row['unit'])[:67]:68}" + "".join(values))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
