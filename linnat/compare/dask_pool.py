"""How are many runs done on a cluster? A Dask cluster that exists: each run is one task, in a process of its own there.

Runs write where they are told to, so that the folder must be one file system for all machines, and so must the data.
A worker that is killed takes nothing with it: the run's process notices that nobody listens, saves and ends; Dask gives
the task to another worker, which goes on from the checkpoint.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from linnat._checks import InputError, fail
from linnat.compare.pool import ATTEMPTS, PATIENCE, Event, Job, event
from linnat.compare.run import CHECKPOINT_EVERY

CONNECT = 20.0  # seconds
HANDOVER = 60.0  # seconds that a run waits for the process of a killed worker to leave its folder
POLL = 0.5


def run_on_cluster(
    jobs: Sequence[Job], address: str, changes: Mapping[str, str], every: float = CHECKPOINT_EVERY
) -> Iterator[Event]:
    """Do runs on a cluster and yield what they say; each ends with one event.

    Parameters
    ----------
    jobs : sequence of Job
    address : str
        Of the scheduler, such as tcp://127.0.0.1:8786.
    changes : mapping
        What is set in the environment of the runs' processes, beside the worker's own.
    every : float
        Seconds between checkpoints.

    Raises
    ------
    InputError
        Without dask.distributed, or where no scheduler answers.

    Notes
    -----
    Closing the iterator, or an exception in it, has the runs saved and stopped.
    """
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        fail("--dask", "linnat[distributed] (Dask)", "it is not installed")
    try:
        client = distributed.Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        fail(
            "--dask", "the address of a Dask scheduler, such as tcp://127.0.0.1:8786", f"{address} ({reason})"
        )
    topic = f"linnat-{uuid.uuid4().hex}"
    inbox: queue.Queue[Event] = queue.Queue()
    client.subscribe_topic(topic, lambda said: inbox.put(event(said[1]["number"], said[1])))
    futures: list[Any] = []
    try:
        for number, job in enumerate(jobs):
            arguments = (number, job.order(HANDOVER, every), topic, dict(changes))
            key = f"{topic}-{number}"
            future = client.submit(obey_on_worker, *arguments, key=key, retries=ATTEMPTS, pure=False)
            future.add_done_callback(_callback(number, inbox))
            futures.append(future)
        yield from _until_all_ended(len(jobs), inbox)
    finally:
        client.cancel(futures)
        client.run(end_children, topic)
        client.unsubscribe_topic(topic)
        client.close()


def _until_all_ended(count: int, inbox: queue.Queue[Event]) -> Iterator[Event]:
    ended: set[int] = set()
    while len(ended) < count:
        try:
            said = inbox.get(timeout=POLL)
        except queue.Empty:
            continue
        if said.job in ended:
            continue
        if said.ended:
            ended.add(said.job)
        yield said


def _callback(number: int, inbox: queue.Queue[Event]) -> Any:
    def done(future: Any) -> None:
        if future.status == "finished":
            inbox.put(event(number, future.result()))
        elif future.status != "cancelled":
            inbox.put(Event(number, True, "failed", f"Dask: {future.exception()!r}"))

    return done


def obey_on_worker(number: int, order: str, topic: str, changes: Mapping[str, str]) -> dict[str, Any]:
    """Do one run in a process of its own, on a Dask worker; return its last answer.

    Raises
    ------
    RuntimeError
        Where the process died: Dask tries again.
    """
    distributed: Any = importlib.import_module("distributed")
    worker = distributed.get_worker()
    process = subprocess.Popen(
        [sys.executable, "-m", "linnat.compare.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, **changes},
        start_new_session=True,
    )
    known = children(worker, topic)
    known[number] = process
    try:
        return _listen(process, order, lambda answer: worker.log_event(topic, {**answer, "number": number}))
    finally:
        known.pop(number, None)
        end(process)


def children(worker: Any, topic: str) -> dict[int, subprocess.Popen[str]]:
    """Return the processes of one comparison that a Dask worker has started, kept with the worker."""
    found: dict[int, subprocess.Popen[str]] = worker.__dict__.setdefault(f"_{topic}", {})
    return found


def end_children(topic: str, dask_worker: Any) -> None:
    """Have the processes of one comparison save and end; runs on every worker."""
    for process in list(children(dask_worker, topic).values()):
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Have a process save and end, or end it."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _listen(
    process: subprocess.Popen[str], order: str, say: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    if process.stdin is None or process.stdout is None:
        raise InputError("worker: expected pipes, found none.")
    with contextlib.suppress(OSError):  # where it has died there is nothing to read either
        process.stdin.write(order)
        process.stdin.flush()
    with contextlib.suppress(ValueError):  # half a line, or a pipe that was closed
        for line in process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if answer["kind"] == "end":
                if answer["status"] == "interrupted":
                    break
                return answer
            say(answer)
    raise RuntimeError(f"the process of a run ended with status {process.wait()}")
