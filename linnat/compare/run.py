"""How is one run done, so that nothing of it can be lost? In a folder of its own, which no other process enters.

    task.json        what the run is
    checkpoint.npz   where it stands; gone when it has ended
    curve.csv        every evaluation
    network.npz      parameters at the end, W1 b1 … WL bL (not of trials)
    result.json      how it ended; written last
    failed.json      why the last attempt failed; the next one tries again

A run that has ended is never done again, one that was stopped, killed or failed goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from linnat import __version__, hardware
from linnat._checks import InputError, fail
from linnat._files import remove_leftovers, write_npz, write_text
from linnat.compare.locks import locked
from linnat.compare.methods import METHODS, batch
from linnat.compare.models import start
from linnat.compare.tasks import Problem, Task, check_same_data
from linnat.nonlinear.network import Network
from linnat.nonlinear.record import Row, write_csv
from linnat.nonlinear.training import Run, train

TASK, RESULT, FAILED = "task.json", "result.json", "failed.json"
CHECKPOINT, CURVE, NETWORK = "checkpoint.npz", "curve.csv", "network.npz"
ENDED = ("finished", "diverged")
CHECKPOINT_EVERY = 30.0  # seconds

Told = Callable[[float, Row], None]


class Outcome(NamedTuple):
    """How a run ended.

    Attributes
    ----------
    status : "finished", "diverged", "interrupted" or "failed"
    message : str
        Why it diverged or failed.
    """

    status: str
    message: str = ""


def execute(
    folder: Path,
    task: Task,
    problem: Problem,
    told: Told | None = None,
    *,
    checkpoint_every: float = CHECKPOINT_EVERY,
    wait: float = 0.0,
) -> Outcome:
    """Do a run, or what is left of it.

    Parameters
    ----------
    folder : Path
        Of this run alone.
    task : Task
    problem : Problem
        Of the task's data and model.
    told : callable(share of the budget, latest row), optional
    checkpoint_every : float
        Seconds.
    wait : float
        Seconds to wait for a process that is about to leave the folder.

    Returns
    -------
    Outcome
        "finished", "diverged" or "interrupted".

    Raises
    ------
    InputError
        Where another process has the folder, it holds another run, the data has changed, or a file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from linnat.compare.tasks import load_problem
    >>> model = "64-10:tanh:categorical"
    >>> problem = load_problem("digits", model)
    >>> task = Task("digits", problem.digest, model, "sgd", dict(METHODS["sgd"].defaults), 0, 5, None)
    >>> with tempfile.TemporaryDirectory() as name:
    ...     print(execute(Path(name) / "run", task, problem), (Path(name) / "run" / "result.json").exists())
    Outcome(status='finished', message='') True
    """
    check_same_data(task, problem)
    with locked(folder, "run", wait=wait):
        _claim(folder, task)
        known = read_json(folder / RESULT)
        if known is not None:
            _tidy(folder)
            return Outcome(str(known["status"]), str(known["message"]))
        method, settings = METHODS[task.method], task.settings
        dtype = problem.split.x.dtype
        run = train(
            problem.model.network,
            method.build(settings),
            problem.split,
            start(problem.model, task.seed, dtype),
            budget=task.budget,
            batch=batch(settings),
            seed=task.seed,
            evaluations=task.evaluations,
            evaluation_rows=task.evaluation_rows,
            averaging=task.averaging,
            checkpoint=folder / CHECKPOINT,
            checkpoint_every=checkpoint_every,
            progress=told,
        )
        if run.status in ENDED:
            _close(folder, task, problem.model.network, run)
        return Outcome(run.status, run.message)


def note_failure(folder: Path, message: str) -> None:
    """Write down why an attempt failed."""
    write_text(
        folder / FAILED, json.dumps({"status": "failed", "message": message}, ensure_ascii=False) + "\n"
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON file's table, None where there is no such file.

    Raises
    ------
    InputError
        For a file that holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"file: expected a JSON table, found {path} unreadable ({error}).") from None
    if not isinstance(content, dict):
        fail("file", "a JSON table", f"{type(content).__name__} in {path}")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; numbers that are not finite have no place in it."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def environment() -> dict[str, str]:
    """Return on what a run was computed.

    Examples
    --------
    >>> "numpy" in environment()
    True
    """
    import platform

    import scipy

    versions = {
        "linnat": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }
    return {**versions, **hardware.facts()}


def _claim(folder: Path, task: Task) -> None:
    """Write what the run is, or check that it is this one."""
    wanted, known = task.to_json(), read_json(folder / TASK)
    if known is None:
        write_json(folder / TASK, wanted)
    elif known != json.loads(json.dumps(wanted)):
        other = sorted(key for key in {*wanted, *known} if known.get(key) != wanted.get(key))
        said = ", ".join(f"{key} {known.get(key)!r} instead of {wanted.get(key)!r}" for key in other)
        fail("run", f"a folder for this run, or a new one, instead of {folder}", said)
    for name in (TASK, RESULT, FAILED, CURVE, NETWORK, CHECKPOINT):
        remove_leftovers(folder / name)


def _close(folder: Path, task: Task, net: Network, run: Run) -> None:
    """Write what has come out; the result last, since it says that all is there."""
    write_csv(folder / CURVE, run.rows)
    if not task.validation:
        layers = net.layers(run.theta)
        arrays = {f"W{i}": np.ascontiguousarray(layer[:, :-1]) for i, layer in enumerate(layers, start=1)}
        arrays |= {f"b{i}": layer[:, -1].copy() for i, layer in enumerate(layers, start=1)}
        write_npz(folder / NETWORK, arrays)
    content = {
        "status": run.status,
        "message": run.message,
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": environment(),
    }
    write_json(folder / RESULT, content)
    _tidy(folder)


def _tidy(folder: Path) -> None:
    for name in (CHECKPOINT, FAILED):
        with contextlib.suppress(OSError):
            (folder / name).unlink()
