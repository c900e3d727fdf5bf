"""Is a run done once, and is nothing of it lost, whatever happens to its process?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from linnat import InputError
from linnat.compare.locks import Busy, locked
from linnat.compare.methods import METHODS, complete
from linnat.compare.pool import Job, variables
from linnat.compare.run import CHECKPOINT, CURVE, FAILED, NETWORK, RESULT, execute, note_failure, read_json
from linnat.compare.tasks import Problem, Task, load_problem
from linnat.nonlinear.record import read_csv

MODEL = "25-10-25:logistic:bernoulli:sparse"


def make_task(data: str, method: str = "nesterov", updates: int | None = 60, **changes: object) -> Task:
    problem = load_problem(data, MODEL)
    settings = complete(METHODS[method], {"rate": 0.02, "batch": 50})
    return replace(Task(data, problem.digest, MODEL, method, settings, 3, updates, None), **changes)


@pytest.fixture(scope="module")
def problem(small: str) -> Problem:
    return load_problem(small, MODEL)


def numbers(folder: Path) -> tuple[list[tuple[float, ...]], dict[str, np.ndarray]]:
    """Return all that must not differ: the curve without its clock, and the parameters."""
    rows = [tuple(v for k, v in row._asdict().items() if k != "seconds") for row in read_csv(folder / CURVE)]
    with np.load(folder / NETWORK) as arrays:
        return rows, dict(arrays)


def assert_same(first: Path, second: Path) -> None:
    (rows, arrays), (others, other) = numbers(first), numbers(second)
    np.testing.assert_array_equal(rows, others)
    assert arrays.keys() == other.keys()
    assert all(arrays[name].tobytes() == other[name].tobytes() for name in arrays)


def test_what_a_run_leaves(small: str, problem: Problem, tmp_path: Path) -> None:
    task = make_task(small)
    assert execute(tmp_path, task, problem).status == "finished"
    assert {p.name for p in tmp_path.iterdir()} == {"task.json", CURVE, NETWORK, RESULT, "lock"}
    with np.load(tmp_path / NETWORK) as arrays:
        assert [arrays[n].shape for n in ("W1", "b1", "W2", "b2")] == [(10, 25), (10,), (25, 10), (25,)]
    found = read_json(tmp_path / RESULT)
    assert found is not None
    assert "BLAS of numpy" in found["environment"]
    assert Task.from_json(read_json(tmp_path / "task.json")) == task


def test_a_trial_leaves_no_network(small: str, problem: Problem, tmp_path: Path) -> None:
    trial = load_problem(small, MODEL, validation=True)
    execute(tmp_path, make_task(small, updates=3, validation=True), trial)
    assert not (tmp_path / NETWORK).exists()


def test_a_run_that_has_ended_is_not_done_again(small: str, problem: Problem, tmp_path: Path) -> None:
    execute(tmp_path, make_task(small), problem)
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.name != "lock"}
    calls = []
    assert execute(tmp_path, make_task(small), problem, lambda *a: calls.append(a)).status == "finished"
    assert not calls
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.name != "lock"} == before


def test_another_run_in_the_folder_is_refused(small: str, problem: Problem, tmp_path: Path) -> None:
    execute(tmp_path, make_task(small), problem)
    with pytest.raises(InputError, match="updates 60 instead of 61"):
        execute(tmp_path, make_task(small, updates=61), problem)


def test_other_data_is_refused(small: str, problem: Problem, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data: expected .* with hash"):
        execute(tmp_path, make_task(small, digest="0" * 64), problem)


def test_a_folder_in_use_is_left_alone(small: str, problem: Problem, tmp_path: Path) -> None:
    with locked(tmp_path, "run"), pytest.raises(Busy):
        execute(tmp_path, make_task(small), problem)
    assert not (tmp_path / "task.json").exists()


def test_a_diverged_run_has_ended_and_says_why(small: str, tmp_path: Path) -> None:
    model = "25-10-25:identity:gaussian"
    task = make_task(small, "sgd", model=model, settings=complete(METHODS["sgd"], {"rate": 100.0}))
    outcome = execute(tmp_path, task, load_problem(small, model))
    assert outcome.status == "diverged"
    assert "finite" in outcome.message
    assert read_csv(tmp_path / CURVE)[0].train_loss > 0
    assert execute(tmp_path, task, load_problem(small, model)) == outcome


def test_a_failure_is_written_down_and_gone_after_the_next_attempt(
    small: str, problem: Problem, tmp_path: Path
) -> None:
    note_failure(tmp_path, "no memory")
    assert read_json(tmp_path / FAILED) == {"status": "failed", "message": "no memory"}
    execute(tmp_path, make_task(small, updates=3), problem)
    assert not (tmp_path / FAILED).exists()


def begin(folder: Path, task: Task, **options: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "linnat.compare.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables(1)},
        **options,
    )
    assert process.stdin is not None
    process.stdin.write(Job("run", folder, task).order(every=0.0))
    process.stdin.flush()
    return process


@pytest.mark.parametrize("method", ["nesterov", "ekfac"])
def test_killed_runs_go_on_bit_for_bit(method: str, small: str, problem: Problem, tmp_path: Path) -> None:
    task = make_task(small, method, updates=400)
    execute(tmp_path / "whole", task, problem)
    rng, kills = np.random.default_rng(5), 0
    for _ in range(20):
        process = begin(tmp_path / "killed", task)
        try:
            assert process.stdout is not None
            process.stdout.readline()  # it is on its way: imports and data are behind it
            time.sleep(float(rng.uniform(0.0, 0.1)))
            kills += process.poll() is None and not (tmp_path / "killed" / RESULT).exists()
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        if kills >= 2 or (tmp_path / "killed" / RESULT).exists():
            break
    assert kills >= 1
    assert (tmp_path / "killed" / CHECKPOINT).exists() or (tmp_path / "killed" / RESULT).exists()
    assert execute(tmp_path / "killed", task, problem).status == "finished"
    assert not list((tmp_path / "killed").glob("*.part"))
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_a_run_that_nobody_listens_to_is_saved_and_ends(small: str, problem: Problem, tmp_path: Path) -> None:
    task = make_task(small, updates=None, seconds=300.0)
    process = begin(tmp_path, task)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["kind"] == "progress"
    process.stdout.close()
    process.wait(30)
    assert process.stdin is not None
    process.stdin.close()
    assert (tmp_path / CHECKPOINT).exists()
    assert not (tmp_path / RESULT).exists()
    with locked(tmp_path, "run"):
        pass


LIMITED = """
import json, resource, sys
from pathlib import Path
from linnat.compare.run import execute
from linnat.compare.tasks import Task, load_problem
from linnat.compare.worker import obey
order = json.loads(sys.stdin.readline())
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
print(json.dumps(obey(order, {}, lambda answer: None)._asdict()))
"""


@pytest.mark.parametrize(("size", "status"), [(5_000, "failed"), (0, "unwritable")])
def test_a_full_disk_is_a_clear_error_and_no_half_files(
    size: int, status: str, small: str, tmp_path: Path
) -> None:
    order = Job("run", tmp_path / "run", make_task(small, updates=20)).order(every=0.0)
    # Coverage would want to write, too.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    command = [sys.executable, "-c", LIMITED, str(size)]
    run = subprocess.run(command, input=order, capture_output=True, text=True, check=True, env=environment)
    answer = json.loads(run.stdout)
    assert answer["status"] == status
    assert "File too large" in answer["message"]
    assert "\n" not in answer["message"]
    assert not list((tmp_path / "run").glob("*.part")) + list((tmp_path / "run").glob(".*.part"))
    assert not (tmp_path / "run" / RESULT).exists()
    assert "Traceback" not in run.stderr
