"""How are many runs done at once on this machine? By worker processes, each with its share of the threads.

A worker is `python -m linnat.compare.worker`: it is told a run, tells how far it is, and is told the next. A worker
that dies takes nothing with it: its run goes on from its checkpoint in another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from linnat._checks import fail
from linnat.compare.run import CHECKPOINT_EVERY
from linnat.compare.tasks import Task
from linnat.hardware import VARIABLE

THREADS = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
ATTEMPTS = 3  # of a run whose process dies
PATIENCE = 120.0  # seconds for workers to save after they were told to stop


class Job(NamedTuple):
    """A run and its folder.

    Attributes
    ----------
    name : str
        For a reader.
    folder : Path
    task : Task
    """

    name: str
    folder: Path
    task: Task

    def order(self, wait: float = 0.0, every: float = CHECKPOINT_EVERY) -> str:
        """Return the line that a worker is told."""
        content = {
            "folder": str(self.folder),
            "task": self.task.to_json(),
            "wait": wait,
            "checkpoint_every": every,
        }
        return json.dumps(content, ensure_ascii=False) + "\n"


class Event(NamedTuple):
    """What a run says of itself.

    Attributes
    ----------
    job : int
        Its number among the jobs.
    ended : bool
    status, message : str
        At the end: "finished", "diverged", "failed", "unwritable".
    share, update, seconds : float
        On the way.
    loss, train_loss : float, or None
        On the last batch; on the training rows, when last evaluated.
    """

    job: int
    ended: bool
    status: str = "running"
    message: str = ""
    share: float = 0.0
    update: int = 0
    seconds: float = 0.0
    loss: float | None = None
    train_loss: float | None = None


class _Worker(NamedTuple):
    process: subprocess.Popen[str]
    job: int


def variables(threads: int) -> dict[str, str]:
    """Return what a run's process needs in its environment before NumPy is imported: threads, and this one's kernels.

    Examples
    --------
    >>> variables(2)["OPENBLAS_NUM_THREADS"]
    '2'
    """
    kernels = {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}
    return {**dict.fromkeys(THREADS, str(threads)), **kernels}


def event(job: int, answer: Mapping[str, Any]) -> Event:
    """Return a worker's answer as an event.

    Examples
    --------
    >>> event(3, {"kind": "end", "status": "finished", "message": ""}).ended
    True
    """
    rest = {key: value for key, value in answer.items() if key in Event._fields}
    return Event(job, answer["kind"] == "end", **rest)


def run_here(
    jobs: Sequence[Job],
    workers: int,
    changes: Mapping[str, str],
    log: IO[str],
    every: float = CHECKPOINT_EVERY,
) -> Iterator[Event]:
    """Do runs, `workers` at a time, and yield what they say; each ends with one event.

    Parameters
    ----------
    jobs : sequence of Job
    workers : int
    changes : mapping
        What is set in the environment of the workers.
    log : text file
        For what workers print.
    every : float
        Seconds between checkpoints.

    Notes
    -----
    Closing the iterator, or an exception in it, has the workers save their runs and stop.
    """
    inbox: queue.Queue[tuple[subprocess.Popen[str], dict[str, Any] | None]] = queue.Queue()
    waiting, attempts = list(range(len(jobs)))[::-1], [0] * len(jobs)
    busy: dict[int, _Worker] = {}

    def give(process: subprocess.Popen[str], job: int) -> None:
        attempts[job] += 1
        busy[process.pid] = _Worker(process, job)
        _tell(process, jobs[job].order(every=every))

    try:
        for _ in range(min(workers, len(jobs))):
            give(_start(changes, log, inbox), waiting.pop())
        while busy:
            # A short wait keeps the main thread open to signals on every system.
            try:
                process, answer = inbox.get(timeout=0.5)
            except queue.Empty:
                continue
            if process.pid not in busy:
                continue
            job = busy[process.pid].job
            if answer is None or answer.get("status") == "interrupted":
                del busy[process.pid]
                code = _dismiss(process)
                if attempts[job] >= ATTEMPTS:
                    yield Event(
                        job, True, "failed", f"its process ended {ATTEMPTS} times, lastly with status {code}"
                    )
                else:
                    waiting.append(job)
                if waiting:
                    give(_start(changes, log, inbox), waiting.pop())
                continue
            said = event(job, answer)
            if said.ended:
                del busy[process.pid]
                if waiting:
                    give(process, waiting.pop())
                else:
                    _dismiss(process)
            yield said
    finally:
        _stop([worker.process for worker in busy.values()])


def _start(
    changes: Mapping[str, str],
    log: IO[str],
    inbox: queue.Queue[tuple[subprocess.Popen[str], dict[str, Any] | None]],
) -> subprocess.Popen[str]:
    """Start a worker in a session of its own: Ctrl-C is for the process that is in front."""
    process = subprocess.Popen(
        [sys.executable, "-m", "linnat.compare.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        encoding="utf-8",
        env={**os.environ, **changes},
        start_new_session=True,
    )

    def read() -> None:
        # Half a line is no answer: its process was killed while it spoke.
        with process.stdout or contextlib.nullcontext(()) as answers, contextlib.suppress(ValueError):
            for line in answers:
                inbox.put((process, json.loads(line)))
        inbox.put((process, None))

    threading.Thread(target=read, daemon=True).start()
    return process


def _tell(process: subprocess.Popen[str], line: str) -> None:
    if process.stdin is None:
        fail("worker", "a pipe", None)
    with contextlib.suppress(OSError):  # where it has died its reader says so
        process.stdin.write(line)
        process.stdin.flush()


def _dismiss(process: subprocess.Popen[str]) -> int:
    """Let a worker go that has nothing left to do, or has gone; return its status."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    return process.wait()


def _stop(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Ask workers to save and stop; end those that do not."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(PATIENCE)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
        _dismiss(process)
