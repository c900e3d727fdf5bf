"""What does a comparison consist of? A table of plain values, kept in its folder, and the runs that follow from it.

What was begun in a folder is gone on with there: optimisers and seeds can be added, nothing else can change, or
numbers that cannot be compared would stand side by side.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from linnat._checks import InputError, as_count, fail
from linnat.compare.methods import METHODS, Setting, as_methods, complete
from linnat.compare.pool import Job
from linnat.compare.run import read_json
from linnat.compare.tasks import Task
from linnat.compare.tuning import SEED, drawn

FILE = "plan.json"
GROWING = ("optimisers", "seeds", "given")


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Attributes
    ----------
    data, digest, model : str
    optimisers : tuple of str
    updates, seconds : int or float, or None
        The budget of a run: one of them.
    seeds : int
        0 … seeds − 1.
    trials : int
        Of the search for settings, for each optimiser; 0 for none.
    trial_updates, trial_seconds : int or float, or None
        The budget of a trial.
    given : dict of dicts
        Settings that take the place of a method's defaults.
    dtype : str
    evaluations, evaluation_rows : int
    averaging : float or None
    threads : int
        Of each run.
    """

    data: str
    digest: str
    model: str
    optimisers: tuple[str, ...]
    updates: int | None
    seconds: float | None
    seeds: int
    trials: int
    trial_updates: int | None
    trial_seconds: float | None
    given: dict[str, dict[str, Setting]] = field(default_factory=dict)
    dtype: str = "float32"
    evaluations: int = 30
    evaluation_rows: int = 10_000
    averaging: float | None = 0.99
    threads: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "optimisers": list(self.optimisers)}

    @staticmethod
    def from_json(values: Any) -> Plan:
        """Return the plan of plain values.

        Raises
        ------
        InputError
            For values that `to_json` has not written.
        """
        names = {f.name for f in fields(Plan)}
        if not isinstance(values, dict) or set(values) != names:
            fail("plan", "the values of a comparison: " + ", ".join(sorted(names)), str(values)[:80])
        as_methods(",".join(values["optimisers"]))
        return Plan(**{**values, "optimisers": tuple(values["optimisers"])})

    def command(self) -> str:
        """Return the command line that does the same anew.

        Examples
        --------
        >>> Plan("mnist", "", "autoencoder", ("sgd",), 200, None, 3, 0, None, None).command()
        'linnat compare --data mnist --model autoencoder --optimisers sgd --budget 200u --seeds 3 --tune 0 --threads 1'
        """
        said = ["--data", self.data, "--model", self.model, "--optimisers", ",".join(self.optimisers)]
        said += ["--budget", self.budget(), "--seeds", str(self.seeds), "--tune", str(self.trials)]
        if self.trials:
            said += ["--tune-budget", self.trial_budget()]
        for name, settings in self.given.items():
            said += [part for key, value in settings.items() for part in ("--set", f"{name}.{key}={value}")]
        if self.evaluations != Plan.evaluations:
            said += ["--evaluations", str(self.evaluations)]
        if self.dtype != Plan.dtype:
            said += ["--dtype", self.dtype]
        return shlex.join(["linnat", "compare", *said, "--threads", str(self.threads)])

    def budget(self) -> str:
        """Return the budget of a run as it is written on the command line."""
        return written(self.updates, self.seconds)

    def trial_budget(self) -> str:
        """Return the budget of a trial."""
        return written(self.trial_updates, self.trial_seconds)


def written(updates: int | None, seconds: float | None) -> str:
    """Return a budget as text.

    Examples
    --------
    >>> written(2000, None), written(None, 2.5)
    ('2000u', '2.5s')
    """
    return f"{updates}u" if updates is not None else f"{seconds:g}s"


def as_budget(text: str, name: str = "--budget") -> tuple[int | None, float | None]:
    """Return (updates, seconds), one of them None, from text such as 2000u, 600s, 10m or 1.5h.

    Raises
    ------
    InputError
        For anything else, and for nothing.

    Examples
    --------
    >>> as_budget("2000u"), as_budget("10m")
    ((2000, None), (None, 600.0))
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([usmh])\s*", text, re.ASCII)
    if not found or float(found[1]) <= 0 or (found[2] == "u" and "." in found[1]):
        fail(name, "updates such as 2000u, or time such as 600s, 10m or 1h", repr(text))
    number = float(found[1])
    if found[2] == "u":
        return int(number), None
    return None, number * {"s": 1, "m": 60, "h": 3600}[found[2]]


def read_plan(out: Path) -> Plan | None:
    """Return the comparison that a folder holds, None where there is none.

    Raises
    ------
    InputError
        Where the folder holds files, but no comparison.
    """
    values = read_json(out / FILE)
    if values is not None:
        return Plan.from_json(values)
    if out.is_dir():
        others = [entry.name for entry in out.iterdir() if entry.name not in ("lock", "log.txt")]
        if others:
            remedy = "Give an empty folder, or one that does not exist."
            fail("--out", "a folder of a comparison", f"other files in {out}", remedy)
    return None


def merged(known: Plan, wanted: Plan, *, resume: bool) -> Plan:
    """Return the plan to go on with where one was begun already.

    Parameters
    ----------
    known, wanted : Plan
        What the folder holds; what is asked for.
    resume : bool
        Whether optimisers and seeds may be added.

    Raises
    ------
    InputError
        Where they differ and may not.
    """
    union = tuple(dict.fromkeys((*known.optimisers, *wanted.optimisers)))
    added = replace(
        wanted,
        optimisers=union,
        seeds=max(known.seeds, wanted.seeds),
        given={**wanted.given, **known.given},
    )
    changed = [
        f.name
        for f in fields(Plan)
        if f.name not in GROWING and getattr(known, f.name) != getattr(wanted, f.name)
    ]
    changed += [
        f"settings of {m}"
        for m in wanted.given
        if m in known.optimisers and known.given.get(m) != wanted.given[m]
    ]
    if changed:
        pairs = [
            f"{n} {getattr(known, n)!r} instead of {getattr(wanted, n)!r}" if hasattr(known, n) else n
            for n in changed
        ]
        remedy = "Give another --out; only optimisers and seeds can be added to a comparison."
        fail("--out", "a folder of the same comparison", ", ".join(pairs), remedy)
    if not resume and (set(known.optimisers), known.seeds) != (set(wanted.optimisers), wanted.seeds):
        begun = f"{', '.join(known.optimisers)} with {known.seeds} seeds"
        remedy = "Give --resume to add to it, or another --out."
        fail("--out", "a folder of the same comparison", f"one of {begun}", remedy)
    return added


def trial_jobs(plan: Plan, out: Path) -> list[Job]:
    """Return the trials of all methods, number by number."""
    return [
        Job(f"{name}, trial {k}", out / "tuning" / name / f"trial-{k:02d}", _trial(plan, name, k))
        for k in range(plan.trials)
        for name in plan.optimisers
    ]


def run_jobs(plan: Plan, out: Path, settings: Mapping[str, Mapping[str, Setting]]) -> list[Job]:
    """Return the runs of all methods, seed by seed.

    Parameters
    ----------
    plan : Plan
    out : Path
    settings : mapping
        Complete settings of each method.
    """
    return [
        Job(
            f"{name}, seed {seed}",
            out / "runs" / name / f"seed-{seed:02d}",
            _task(plan, name, dict(settings[name]), seed, plan.updates, plan.seconds, validation=False),
        )
        for seed in range(plan.seeds)
        for name in plan.optimisers
    ]


def check(plan: Plan) -> None:
    """Raise for a plan that cannot be carried out."""
    as_count(plan.seeds, "--seeds")
    if plan.seeds > SEED:
        fail("--seeds", f"at most {SEED}", plan.seeds)
    as_count(plan.trials, "--tune", low=0)
    as_count(plan.threads, "--threads")
    for name, settings in plan.given.items():
        if name not in plan.optimisers:
            raise InputError(
                f"--set: expected a setting of one of {', '.join(plan.optimisers)}, found {name}."
            )
        complete(METHODS[name], settings)


def _trial(plan: Plan, name: str, number: int) -> Task:
    settings = drawn(METHODS[name], number, plan.given.get(name, {}))
    return _task(plan, name, settings, SEED, plan.trial_updates, plan.trial_seconds, validation=True)


def _task(
    plan: Plan,
    name: str,
    settings: dict[str, Setting],
    seed: int,
    updates: int | None,
    seconds: float | None,
    *,
    validation: bool,
) -> Task:
    return Task(
        data=plan.data,
        digest=plan.digest,
        model=plan.model,
        method=name,
        settings=settings,
        seed=seed,
        updates=updates,
        seconds=seconds,
        validation=validation,
        dtype=plan.dtype,
        # A trial is judged by its end.
        evaluations=0 if validation else plan.evaluations,
        evaluation_rows=plan.evaluation_rows,
        averaging=plan.averaging,
        threads=plan.threads,
    )
