"""How is a comparison carried out? Trials, the choice of settings, runs; whatever has ended is left as it is."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from linnat._checks import InputError, fail
from linnat.compare.methods import METHODS, Setting, complete
from linnat.compare.plan import Plan, run_jobs, trial_jobs
from linnat.compare.pool import Event, Job
from linnat.compare.run import CURVE, FAILED, RESULT, TASK, read_json, write_json
from linnat.compare.summary import reported
from linnat.compare.tuning import Trial, best
from linnat.nonlinear.record import read_csv

Backend: TypeAlias = Callable[[Sequence[Job]], Iterator[Event]]
Told: TypeAlias = Callable[[Job, Event], None]


def carry_out(plan: Plan, out: Path, backend: Backend, told: Told) -> None:
    """Do what is left of a comparison.

    Parameters
    ----------
    plan : Plan
    out : Path
        Held by this process alone.
    backend : callable(jobs)
        Does them and yields what they say: `run_here` or `run_on_cluster` with their other arguments.
    told : callable(job, event)

    Raises
    ------
    InputError
        Where nothing can be written any more, or a folder holds another run.
    """
    trials = trial_jobs(plan, out)
    undecided = [name for name in plan.optimisers if plan.trials and not choice_file(out, name).exists()]
    _do([job for job in trials if job.task.method in undecided], backend, told)
    for name in undecided:
        decide(name, [job for job in trials if job.task.method == name], out)
    _do(run_jobs(plan, out, chosen(plan, out)), backend, told)


def chosen(plan: Plan, out: Path) -> dict[str, dict[str, Setting]]:
    """Return the complete settings with which each method runs: the best trial's, or its defaults."""
    settings: dict[str, dict[str, Setting]] = {}
    for name in plan.optimisers:
        known = read_json(choice_file(out, name)) if plan.trials else None
        given = plan.given.get(name, {}) if known is None else known["settings"]
        settings[name] = complete(METHODS[name], given)
    return settings


def choice_file(out: Path, name: str) -> Path:
    """Return where the choice of a method's settings is kept."""
    return out / "tuning" / f"{name}.json"


def decide(name: str, jobs: Sequence[Job], out: Path) -> Trial:
    """Choose a method's settings from its trials, and write down the choice and what it was made from."""
    trials = [judged(job, number) for number, job in enumerate(jobs)]
    winner = best(trials)
    if not math.isfinite(winner.loss):
        winner = trials[0]  # all have diverged: the defaults, and the report says so
    table = [{**t._asdict(), "loss": t.loss if math.isfinite(t.loss) else None} for t in trials]
    write_json(choice_file(out, name), {"trial": winner.number, "settings": winner.settings, "trials": table})
    return winner


def judged(job: Job, number: int) -> Trial:
    """Return what a trial came to: its loss on the validation rows at its end."""
    result = read_json(job.folder / RESULT) or read_json(job.folder / FAILED) or {"status": "missing"}
    loss = math.inf
    if result["status"] == "finished":
        loss = reported(read_csv(job.folder / CURVE)[-1]).test_loss
    return Trial(number, job.task.settings, loss if math.isfinite(loss) else math.inf, str(result["status"]))


def has_ended(job: Job) -> bool:
    """Return whether a run needs nothing more.

    Raises
    ------
    InputError
        Where its folder holds another run.
    """
    if not (job.folder / RESULT).exists():
        return False
    if read_json(job.folder / TASK) != job.task.to_json():
        fail("run", f"{job.name} in {job.folder}", f"another run; see its {TASK}")
    return True


def _do(jobs: Sequence[Job], backend: Backend, told: Told) -> None:
    todo = []
    for job in jobs:
        if has_ended(job):
            told(job, Event(-1, True, "there", share=1.0))
        else:
            todo.append(job)
    if not todo:
        return
    events = backend(todo)
    # Closed whatever happens, so that what is running is saved.
    with contextlib.closing(events):  # type: ignore[type-var]
        for event in events:
            if event.status == "unwritable":
                raise InputError(event.message)
            told(todo[event.job], event)
