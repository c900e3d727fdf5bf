"""Are many runs done as one, whoever does them and whoever is killed meanwhile?"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from linnat import InputError
from linnat.compare import pool
from linnat.compare.dask_pool import run_on_cluster
from linnat.compare.pool import THREADS, Event, Job, run_here, variables
from linnat.compare.run import CHECKPOINT, RESULT, execute, read_json
from linnat.compare.tasks import load_problem
from tests.compare.test_run import MODEL, assert_same, make_task


def jobs_in(data: str, folder: Path, count: int = 3, **changes: object) -> list[Job]:
    tasks = [make_task(data, **{"seed": k, **changes}) for k in range(count)]
    return [Job(f"run {k}", folder / f"run-{k}", task) for k, task in enumerate(tasks)]


def children(parent: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    found.append(int(entry.name))
    return found


def workers_of(parent: int) -> list[int]:
    found = []
    for pid in children(parent):
        with contextlib.suppress(OSError):
            if b"linnat.compare.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def test_runs_here_are_those_of_one_process(small: str, tmp_path: Path) -> None:
    with open(tmp_path / "log.txt", "w") as log:
        events = list(run_here(jobs_in(small, tmp_path / "pool"), 2, variables(1), log))
    ends = [event for event in events if event.ended]
    assert sorted(event.job for event in ends) == [0, 1, 2]
    assert {event.status for event in ends} == {"finished"}
    assert any(event.share > 0 and event.train_loss for event in events if not event.ended)
    problem = load_problem(small, MODEL)
    for alone, pooled in zip(
        jobs_in(small, tmp_path / "alone"), jobs_in(small, tmp_path / "pool"), strict=True
    ):
        execute(alone.folder, alone.task, problem)
        assert_same(alone.folder, pooled.folder)


def test_threads_and_kernels_are_in_the_workers_environment(small: str, tmp_path: Path) -> None:
    with open(tmp_path / "log.txt", "w") as log:
        events = run_here(jobs_in(small, tmp_path, 1, updates=None, seconds=60.0), 1, variables(2), log)
        with contextlib.closing(events):
            next(events)
            (pid,) = workers_of(os.getpid())
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
            assert all(f"{name}=2" in environment for name in THREADS)
    # Closing it has stopped the worker, and the run is saved.
    assert not workers_of(os.getpid())
    assert (tmp_path / "run-0" / CHECKPOINT).exists()
    assert not (tmp_path / "run-0" / RESULT).exists()


def test_a_killed_worker_loses_nothing(small: str, tmp_path: Path) -> None:
    jobs, killed = jobs_in(small, tmp_path / "pool", 2, updates=400), 0
    ends = {}
    with open(tmp_path / "log.txt", "w") as log:
        for event in run_here(jobs, 2, variables(1), log, every=0.0):
            if not event.ended and event.share > 0.2 and not killed:
                os.kill(workers_of(os.getpid())[0], signal.SIGKILL)
                killed += 1
            if event.ended:
                ends[event.job] = event.status
    assert killed == 1
    assert ends == {0: "finished", 1: "finished"}
    problem = load_problem(small, MODEL)
    for alone, pooled in zip(jobs_in(small, tmp_path / "alone", 2, updates=400), jobs, strict=True):
        execute(alone.folder, alone.task, problem)
        assert_same(alone.folder, pooled.folder)


def test_a_run_whose_process_always_dies_fails_and_the_others_go_on(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, ends = jobs_in(small, tmp_path, 2, updates=None, seconds=0.5), {}
    doomed: set[int] = set()
    monkeypatch.setattr(pool, "ATTEMPTS", 2)
    with open(tmp_path / "log.txt", "w") as log:
        for event in run_here(jobs, 1, variables(1), log):
            if event.ended:
                ends[event.job] = event
            elif event.job == 0:
                (pid,) = workers_of(os.getpid())
                if pid not in doomed:
                    doomed.add(pid)
                    os.kill(pid, signal.SIGKILL)
    assert len(doomed) == 2
    assert ends[0].status == "failed"
    assert "2 times" in ends[0].message
    assert ends[1].status == "finished"


def test_what_goes_wrong_in_a_run_is_its_end_and_written_down(small: str, tmp_path: Path) -> None:
    jobs = [Job("bad", tmp_path / "bad", make_task(small, digest="0" * 64)), *jobs_in(small, tmp_path, 1)]
    with open(tmp_path / "log.txt", "w") as log:
        ends = {event.job: event for event in run_here(jobs, 1, variables(1), log) if event.ended}
    assert ends[0].status == "failed"
    assert "with hash 000000000000" in ends[0].message
    assert ends[1].status == "finished"
    failure = read_json(tmp_path / "bad" / "failed.json")
    assert failure is not None
    assert failure["message"] == ends[0].message


PARENT = """
import sys
from pathlib import Path
from linnat.compare.pool import run_here, variables
from tests.compare.test_pools import jobs_in
with open(Path(sys.argv[1]) / "log.txt", "w") as log:
    jobs = jobs_in(sys.argv[2], Path(sys.argv[1]), 1, updates=None, seconds=300.0)
    for event in run_here(jobs, 1, variables(1), log):
        print(event.job, flush=True)
"""


def test_workers_of_a_killed_parent_save_and_end(small: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), small],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path.cwd(),
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    (worker,) = workers_of(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()
    assert (tmp_path / "run-0" / CHECKPOINT).exists()


distributed = pytest.importorskip("distributed", reason="needs linnat[distributed]")


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
    ) as running:
        yield running


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_on_a_cluster_a_killed_worker_loses_nothing(cluster, small: str, tmp_path: Path) -> None:
    jobs = jobs_in(small, tmp_path / "cluster", 3, updates=500)
    ends: dict[int, Event] = {}
    killed: list[int] = []
    events = run_on_cluster(jobs, cluster.scheduler_address, variables(1), every=0.0)
    for event in events:
        if not event.ended and event.share > 0.2 and not killed:
            # The worker whose child does this run, with SIGKILL; the nanny starts another one.
            pids = [worker.pid for worker in cluster.workers.values() if workers_of(worker.pid)]
            killed.append(pids[0])
            os.kill(pids[0], signal.SIGKILL)
        if event.ended:
            assert event.job not in ends
            ends[event.job] = event
    assert killed
    assert {job: event.status for job, event in ends.items()} == dict.fromkeys(range(3), "finished")
    problem = load_problem(small, MODEL)
    for alone, shared in zip(jobs_in(small, tmp_path / "alone", 3, updates=500), jobs, strict=True):
        execute(alone.folder, alone.task, problem)
        assert_same(alone.folder, shared.folder)


@pytest.mark.filterwarnings("ignore")
def test_on_a_cluster_stopping_saves_what_runs(cluster, small: str, tmp_path: Path) -> None:
    jobs = jobs_in(small, tmp_path, 3, updates=None, seconds=300.0)
    events = run_on_cluster(jobs, cluster.scheduler_address, variables(1))
    with contextlib.closing(events):
        assert not next(events).ended
    assert any((job.folder / CHECKPOINT).exists() for job in jobs)
    assert not any((job.folder / RESULT).exists() for job in jobs)
    assert not [pid for worker in cluster.workers.values() for pid in workers_of(worker.pid)]


@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_that_is_not_there_is_a_clear_error(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linnat.compare.dask_pool.CONNECT", 0.5)
    with pytest.raises(InputError, match="--dask: expected the address of a Dask scheduler"):
        list(run_on_cluster(jobs_in(small, tmp_path, 1), "tcp://127.0.0.1:9", variables(1)))


def test_two_comparisons_at_once_do_not_meet(small: str, tmp_path: Path) -> None:
    """Two pools in two folders, at the same time: the runs of each are what they are alone."""

    def go(folder: Path) -> None:
        folder.mkdir()
        with open(folder / "log.txt", "w") as log:
            list(run_here(jobs_in(small, folder, 2), 1, variables(1), log))

    threads = [threading.Thread(target=go, args=(tmp_path / name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, two in zip(
        jobs_in(small, tmp_path / "one", 2), jobs_in(small, tmp_path / "two", 2), strict=True
    ):
        assert_same(one.folder, two.folder)
    files = [
        sorted(str(p.relative_to(tmp_path / n)) for p in (tmp_path / n).rglob("*")) for n in ("one", "two")
    ]
    assert files[0] == files[1]


def test_a_seeds_start_is_not_another_ones(small: str, tmp_path: Path) -> None:
    problem = load_problem(small, MODEL)
    first, second = jobs_in(small, tmp_path, 2)
    execute(first.folder, first.task, problem)
    execute(second.folder, second.task, problem)
    with np.load(first.folder / "network.npz") as a, np.load(second.folder / "network.npz") as b:
        assert not np.array_equal(a["W1"], b["W1"])
