"""What has come out? Every run as CSV and JSON, and a manifest that says how to get it again.

runs.csv        one line for each run: how it ended, its last numbers
curves.csv      every evaluation of every run
results.json    the same and the trials, in one file
manifest.json   command, versions, processor, kernels, threads, seeds, data and its hash, all settings
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from linnat._checks import InputError
from linnat._files import write_text
from linnat.compare.methods import Setting
from linnat.compare.plan import Plan, run_jobs
from linnat.compare.pool import Job
from linnat.compare.run import CURVE, FAILED, RESULT, environment, read_json, write_json
from linnat.compare.summary import Curve, Reported, reported
from linnat.compare.sweep import choice_file, chosen
from linnat.nonlinear.record import Row, read_csv

RUNS, CURVES, RESULTS, MANIFEST = "runs.csv", "curves.csv", "results.json", "manifest.json"


class Search(NamedTuple):
    """How a method's settings were found.

    Attributes
    ----------
    method : str
    settings : dict
        With which it runs.
    trial : int or None
        The one that was chosen; None where nothing was searched.
    trials : tuple of dict
        number, settings, loss (None where it diverged or failed), status.
    """

    method: str
    settings: dict[str, Setting]
    trial: int | None
    trials: tuple[dict[str, Any], ...]


class Record(NamedTuple):
    """All that a comparison has come to so far.

    Attributes
    ----------
    plan : Plan
    model : str
        The network, in words.
    curves : tuple of Curve
    searches : tuple of Search
    environments : tuple of dict
        Every one in which runs ended, once.
    """

    plan: Plan
    model: str
    curves: tuple[Curve, ...]
    searches: tuple[Search, ...]
    environments: tuple[dict[str, str], ...]

    @property
    def missing(self) -> int:
        """Runs that have not ended."""
        return sum(curve.status in ("missing", "failed") for curve in self.curves)


def collect(plan: Plan, model: str, out: Path) -> Record:
    """Read what is in the folder of a comparison.

    Parameters
    ----------
    plan : Plan
    model : str
        The network, in words.
    out : Path

    Raises
    ------
    InputError
        For a file that is not what was written there.
    """
    settings = chosen(plan, out)
    curves, environments = [], []
    for job in run_jobs(plan, out, settings):
        result = read_json(job.folder / RESULT)
        curves.append(_curve(job, result))
        if result is not None and result["environment"] not in environments:
            environments.append(result["environment"])
    searches = []
    for name in plan.optimisers:
        found = read_json(choice_file(out, name)) if plan.trials else None
        trials = tuple(found["trials"]) if found is not None else ()
        searches.append(Search(name, settings[name], None if found is None else found["trial"], trials))
    return Record(plan, model, tuple(curves), tuple(searches), tuple(environments))


def write(record: Record, out: Path) -> None:
    """Write the four files of a record.

    Parameters
    ----------
    record : Record
    out : Path

    Raises
    ------
    InputError
        For a file that cannot be written.
    """
    ends = [{**_named(curve), **_numbers(curve.points[-1:])} for curve in record.curves]
    write_text(out / RUNS, table(ends))
    lines = [{**_named(c), **_numbers((p,))} for c in record.curves for p in c.points]
    write_text(out / CURVES, table(lines))
    write_json(out / MANIFEST, manifest(record))
    content = {
        "plan": record.plan.to_json(),
        "runs": [{**_named(c), "curve": [_plain(p._asdict()) for p in c.points]} for c in record.curves],
        "searches": [search._asdict() for search in record.searches],
    }
    write_json(out / RESULTS, content)


def manifest(record: Record) -> dict[str, Any]:
    """Return what is needed to get the numbers again."""
    plan = record.plan
    return {
        "command": plan.command(),
        "data": plan.data,
        "sha256 of the data": plan.digest,
        "model": plan.model,
        "network": record.model,
        "dtype": plan.dtype,
        "budget": plan.budget(),
        "seeds": list(range(plan.seeds)),
        "trials": plan.trials,
        "budget of a trial": plan.trial_budget() if plan.trials else None,
        "threads of a run": plan.threads,
        "settings": {search.method: search.settings for search in record.searches},
        "bit for bit": "repeatable with these versions, kernels and threads"
        if plan.updates is not None
        else "not repeatable: budgets are times",
        # None has ended yet: then this is where they would have been run.
        "environments of the runs": list(record.environments) or [environment()],
    }


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return lines as CSV under the names of the first one; numbers are read back bit for bit.

    Examples
    --------
    >>> print(table([{"method": "sgd", "train_loss": 0.1}]), end="")
    method,train_loss
    sgd,0.1
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if lines:
        names = max((list(line) for line in lines), key=len)
        writer.writerow(names)
        writer.writerows([line.get(name, "") for name in names] for line in lines)
    return text.getvalue()


def _curve(job: Job, result: dict[str, Any] | None) -> Curve:
    method, seed = job.task.method, job.task.seed
    if result is None:
        failure = read_json(job.folder / FAILED)
        if failure is None:
            return Curve(method, seed, "missing", "", ())
        return Curve(method, seed, "failed", str(failure["message"]), ())
    rows: tuple[Row, ...] = read_csv(job.folder / CURVE)
    if not rows:
        raise InputError(f"run: expected evaluations, found none in {job.folder / CURVE}.")
    return Curve(method, seed, str(result["status"]), str(result["message"]), tuple(map(reported, rows)))


def _named(curve: Curve) -> dict[str, Any]:
    return {"method": curve.method, "seed": curve.seed, "status": curve.status, "message": curve.message}


def _numbers(points: Sequence[Reported]) -> dict[str, Any]:
    return points[0]._asdict() if points else {}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with None for what JSON cannot say."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
