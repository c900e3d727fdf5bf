"""What does `linnat compare` do? It compares optimisers: tuned alike, over seeds, on the clock, with a report."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from linnat import hardware
from linnat._checks import as_choice, as_count, fail
from linnat.compare import plan as plans
from linnat.compare import results
from linnat.compare.dask_pool import run_on_cluster
from linnat.compare.locks import locked
from linnat.compare.methods import METHODS, Setting, as_methods, complete
from linnat.compare.plan import Plan
from linnat.compare.pool import run_here, variables
from linnat.compare.progress import Progress
from linnat.compare.report import write_report
from linnat.compare.run import write_json
from linnat.compare.sweep import Backend, carry_out
from linnat.compare.tables import render
from linnat.compare.tasks import load_problem

OUT = "linnat-compare"
OPTIMISERS = "sgd,nesterov,adam,online,kfac,ekfac"
BUDGET, SEEDS, TRIALS, EVALUATIONS = "4s", 3, 8, 30
LOG = "log.txt"  # what runs' processes print
PART = 5  # of the budget: what a trial has, if nothing is said


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = command.add_argument
    add("--data", metavar="DATA", help="digits (default), mnist, fashion-mnist, or what `linnat data` knows")
    words = "autoencoder (784-1000-500-250-30 and its mirror image), digits (a small one; default), classifier, or"
    add("--model", metavar="MODEL", help=f"{words} such as 784-100-10:tanh:categorical[:start]")
    add("--optimisers", metavar="A,B,…", help=f"of {', '.join(METHODS)} (default {OPTIMISERS})")
    add(
        "--budget",
        metavar="B",
        help="of a run: updates such as 2000u, or time such as 600s or 10m (default 4s)",
    )
    add("--seeds", type=int, metavar="N", help="runs of each optimiser (default 3)")
    words = "trials of the random search for settings, the same for each optimiser (default 8; 0: none)"
    add("--tune", type=int, nargs="?", const=8, metavar="TRIALS", help=words)
    add("--tune-budget", metavar="B", help="of a trial (default: a fifth of the budget)")
    words = "a setting of an optimiser, not searched, such as kfac.damping=0.1; may be repeated"
    add("--set", action="append", metavar="NAME.KEY=VALUE", help=words)
    add("--evaluations", type=int, metavar="N", help="of a run, beside start and end (default 30)")
    add("--dtype", choices=("float32", "float64"), help="of data and parameters (default float32)")
    add("--jobs", type=int, metavar="N", help="runs at once (default: as many as there are cores)")
    words = "of each run (default: the cores divided among the jobs; 1 where budgets are updates)"
    add("--threads", type=int, metavar="N", help=words)
    add("--dask", metavar="ADDRESS", help="do the runs on this Dask cluster, which sees the same files")
    add(
        "--resume",
        action="store_true",
        help="go on in --out with what it holds, or add optimisers and seeds to it",
    )
    add("--out", default=OUT, metavar="DIR", help=f"folder of all files (default {OUT})")
    add(
        "--blas-kernel",
        metavar="NAME",
        help="OpenBLAS kernels to run with, or auto: the fastest that is supported",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status: 1 where a run has failed, 130 where it was interrupted."""
    out = Path(options.out)
    with _terminated_like_interrupted(), locked(out, "--out"):
        plan, model = _plan(options, out)
        jobs = _jobs(options)
        write_json(out / plans.FILE, plan.to_json())
        is_terminal = sys.stderr.isatty()
        width = (lambda: shutil.get_terminal_size((100, 24)).columns) if is_terminal else None
        progress = Progress(plan, sys.stderr, width)
        interrupted = False
        with open(out / LOG, "a", encoding="utf-8") as log:  # the lock has shown that files can be made here
            try:
                carry_out(plan, out, _backend(options.dask, plan, jobs, log), progress)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                progress.close()
        return _conclude(plan, model, out, interrupted)


def make_plan(options: argparse.Namespace, known: Plan | None) -> tuple[Plan, str]:
    """Return the plan that is asked for, and the network in words; with --resume what is not said is as it was."""
    base = known if options.resume else None
    updates, seconds = (
        plans.as_budget(options.budget or BUDGET)
        if base is None or options.budget
        else (base.updates, base.seconds)
    )
    trial_updates, trial_seconds = _trial_budget(options, base, updates, seconds)
    data = options.data or (base.data if base else "digits")
    model = options.model or (base.model if base else "digits")
    dtype = options.dtype or (base.dtype if base else "float32")
    names = options.optimisers or (",".join(base.optimisers) if base else OPTIMISERS)
    problem = load_problem(data, model, dtype)
    plan = Plan(
        data=data,
        digest=problem.digest,
        model=model,
        optimisers=tuple(method.name for method in as_methods(names)),
        updates=updates,
        seconds=seconds,
        seeds=_said(options.seeds, base.seeds if base else None, SEEDS),
        trials=_said(options.tune, base.trials if base else None, TRIALS),
        trial_updates=trial_updates,
        trial_seconds=trial_seconds,
        given=_given(options.set or []),
        dtype=dtype,
        evaluations=_said(options.evaluations, base.evaluations if base else None, EVALUATIONS),
        # Another number of jobs in another sitting does not change the runs.
        threads=_said(options.threads, known.threads if known else None, _threads(options, updates)),
    )
    plans.check(plan)
    as_count(plan.evaluations, "--evaluations", low=0)
    return plan, problem.model.describe()


def _plan(options: argparse.Namespace, out: Path) -> tuple[Plan, str]:
    known = plans.read_plan(out)
    if known is None:
        if options.resume:
            fail("--resume", f"a comparison in {out}", "none", "Leave out --resume to begin one.")
        return make_plan(options, None)
    plan, model = make_plan(options, known)
    return plans.merged(known, plan, resume=options.resume), model


def _said(said: int | None, before: int | None, default: int) -> int:
    return next(value for value in (said, before, default) if value is not None)


def _trial_budget(
    options: argparse.Namespace, base: Plan | None, updates: int | None, seconds: float | None
) -> tuple[int | None, float | None]:
    if options.tune_budget:
        return plans.as_budget(options.tune_budget, "--tune-budget")
    if base is not None:
        return base.trial_updates, base.trial_seconds
    if updates is not None:
        return max(1, updates // PART), None
    return None, (seconds or 0.0) / PART


def _given(texts: Sequence[str]) -> dict[str, dict[str, Setting]]:
    found: dict[str, dict[str, Setting]] = {}
    for text in texts:
        matched = re.fullmatch(r"([a-z-]+)\.(\w+)=(.+)", text.strip())
        if matched is None:
            fail("--set", "NAME.KEY=VALUE, such as kfac.damping=0.1", repr(text))
        method = METHODS[as_choice(matched[1], "--set", tuple(METHODS))]
        found.setdefault(method.name, {})[matched[2]] = complete(method, {matched[2]: matched[3]})[matched[2]]
    return found


def _jobs(options: argparse.Namespace) -> int:
    return (
        as_count(options.jobs, "--jobs") if options.jobs is not None else int(hardware.processor()["cores"])
    )


def _threads(options: argparse.Namespace, updates: int | None) -> int:
    """Return the threads of a run: budgets in updates are repeatable whatever the number of jobs."""
    if updates is not None or options.dask:
        return 1
    return max(1, int(hardware.processor()["cores"]) // _jobs(options))


def _backend(address: str | None, plan: Plan, jobs: int, log: IO[str]) -> Backend:
    changes = variables(plan.threads)
    if address is not None:
        return lambda todo: run_on_cluster(todo, address, changes)
    return lambda todo: run_here(todo, jobs, changes, log)


def _conclude(plan: Plan, model: str, out: Path, interrupted: bool) -> int:
    """Write and print what there is."""
    record = results.collect(plan, model, out)
    results.write(record, out)
    report = write_report(record, out)
    print(render(record))
    print(f"\n{report}")
    again = f"linnat compare --out {shlex.quote(str(out))} --resume"
    if interrupted:
        print(f"linnat: interrupted, nothing is lost; go on with: {again}", file=sys.stderr)
        return 130
    failed = [f"{c.method}, seed {c.seed}: {c.message}" for c in record.curves if c.status == "failed"]
    if failed:
        count = "1 run" if len(failed) == 1 else f"{len(failed)} runs"
        print(f"linnat: {count} failed: {failed[0]}", file=sys.stderr)
        print(f"linnat: to try again: {again}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Have SIGTERM do what Ctrl-C does, where signals can be handled at all."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
