"""Does the loop do what it promises: every row once a pass, the right losses, exact resumption, honest ends?"""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from linnat._checks import InputError
from linnat.nonlinear import Network, passes
from linnat.nonlinear._loop import Draw, average
from linnat.nonlinear.optimisers import (
    Adam,
    GradientDescent,
    Preconditioned,
)
from linnat.nonlinear.output import DivergenceError
from linnat.nonlinear.preconditioners import (
    Kfac,
)
from linnat.nonlinear.record import Row, read_csv, write_csv
from linnat.nonlinear.schedules import Constant, Exponential
from linnat.nonlinear.training import Budget, train
from tests.nonlinear._training import NET, OPTIMISERS, problem


def bits(rows: tuple[Row, ...], *, clock: bool = False) -> bytes:
    """Return the numbers of rows as bytes, in which NaN equals itself."""
    return np.array([row if clock else row._replace(seconds=0.0) for row in rows], np.float64).tobytes()


class Stopping:
    """An optimiser that sends a signal to its own process before an update."""

    def __init__(self, inner: Any, update: int) -> None:
        self.inner, self.update, self.count = inner, update, 0
        self.rate = getattr(inner, "rate", None)

    def __repr__(self) -> str:
        return repr(self.inner)

    def init(self, net: Network, theta: np.ndarray) -> Any:
        return self.inner.init(net, theta)

    def step(self, state: Any, batch: Any, rng: Any) -> Any:
        if self.count == self.update:
            os.kill(os.getpid(), signal.SIGINT)
        self.count += 1
        return self.inner.step(state, batch, rng)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_interrupted_run_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    split, theta = problem()
    settings: dict[str, Any] = {"budget": Budget(updates=14), "batch": 16, "evaluations": 4, "seed": 3}
    whole = train(NET, OPTIMISERS[name], split, theta, **settings)
    assert whole.status == "finished"
    path = tmp_path / "run.npz"
    for stop in (4, 3):
        part = train(NET, Stopping(OPTIMISERS[name], stop), split, theta, checkpoint=path, **settings)
        assert part.status == "interrupted"
    assert part.rows[-1].update < 10
    again = train(NET, OPTIMISERS[name], split, theta, checkpoint=path, **settings)
    assert again.status == "finished"
    assert bits(again.rows) == bits(whole.rows)
    np.testing.assert_array_equal(again.theta, whole.theta)
    np.testing.assert_array_equal(again.averaged, whole.averaged)
    # What is finished is not done again.
    finished = train(NET, Stopping(OPTIMISERS[name], 0), split, theta, checkpoint=path, **settings)
    assert finished.status == "finished"
    assert bits(finished.rows, clock=True) == bits(again.rows, clock=True)


CHILD = """
import sys
import numpy as np
from tests.nonlinear._training import NET, OPTIMISERS, problem
from linnat.nonlinear.training import Budget, train
split, theta = problem(np.float32)
print("ready", flush=True)
run = train(NET, OPTIMISERS["kfac"], split, theta, budget=Budget(updates=1000), batch=16, evaluations=7,
            checkpoint=sys.argv[1], checkpoint_every=0.01)
np.savez(sys.argv[2], theta=run.theta, averaged=run.averaged, rows=np.array(run.rows)[:, [0, 1, *range(3, 15)]])
"""


def test_killed_at_random_moments_the_numbers_are_the_same(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"}

    def start(checkpoint: str, out: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", CHILD, str(tmp_path / checkpoint), str(tmp_path / out)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, cwd=root)

    with start("whole.npz", "whole-out.npz") as child:
        child.communicate(timeout=100)
    assert child.returncode == 0
    chance = random.Random(5)
    killed = 0
    for _ in range(4):
        with start("killed.npz", "killed-out.npz") as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(chance.uniform(0.02, 0.2))
            child.kill()
        killed += child.returncode == -signal.SIGKILL
    assert killed >= 2
    with start("killed.npz", "killed-out.npz") as child:
        child.communicate(timeout=100)
    assert child.returncode == 0
    assert list(tmp_path.glob(".*.part")) == []
    with np.load(tmp_path / "whole-out.npz") as whole, np.load(tmp_path / "killed-out.npz") as resumed:
        for name in whole.files:
            assert whole[name].tobytes() == resumed[name].tobytes(), name


def test_every_row_once_a_pass_in_an_order_of_its_own() -> None:
    x = np.arange(10.0)[:, None]
    draw = Draw(x, x, Constant(4.0), 7)
    seen, examples = [], 0
    for update in range(5):
        rows, same, _, examples = draw(update, examples)
        assert same is rows
        seen.extend(rows[:, 0].tolist())
    assert examples == 20
    assert sorted(seen[:10]) == sorted(seen[10:]) == x[:, 0].tolist()
    assert seen[:10] != seen[10:]
    other = Draw(x, x.copy(), Constant(4.0), 8)
    first, targets, _, _ = other(0, 0)
    assert first[:, 0].tolist() != seen[:4]
    np.testing.assert_array_equal(first, targets)


def test_batches_that_grow_take_all_rows_in_the_end() -> None:
    x = np.arange(10.0)[:, None]
    draw = Draw(x, x, Exponential(2.0, 2.0), 0)
    sizes, examples = [], 0
    for update in range(4):
        rows, _, _, examples = draw(update, examples)
        sizes.append(len(rows))
    assert sizes == [2, 4, 8, 10]
    assert examples == 24


def test_rows_of_the_metric_are_drawn_apart_and_in_a_way_of_their_own() -> None:
    x, unlabelled = np.zeros((10, 1)), np.arange(100.0)[:, None]
    draw = Draw(x, x, Constant(5.0), 1, unlabelled)
    one, two = draw(0, 0)[2].copy(), draw(1, 5)[2].copy()
    assert one.shape == (5, 1)
    assert (one != two).any()
    np.testing.assert_array_equal(draw(0, 0)[2], one)


def test_the_losses_are_those_of_the_definition() -> None:
    split, theta = problem()
    run = train(
        NET, GradientDescent(0.2), split, theta, budget=Budget(updates=9), batch=10, evaluation_rows=20
    )
    last, middle = run.rows[-1], run.rows[3]
    assert last.train_loss == pytest.approx(passes.loss(NET, run.theta, split.x, split.y), rel=1e-14)
    assert last.test_loss == pytest.approx(passes.loss(NET, run.theta, split.x_test, split.y_test), rel=1e-14)
    z = split.x.copy()
    for layer, bent in zip(NET.layers(run.theta), (True, False), strict=True):
        z = z @ layer[:, :-1].T + layer[:, -1]
        z = np.tanh(z) if bent else z
    squared = np.mean(np.sum((1 / (1 + np.exp(-z)) - split.y) ** 2, axis=1))
    assert last.train_squared == pytest.approx(squared, rel=1e-13)
    assert (last.evaluated_rows, middle.evaluated_rows, run.rows[0].evaluated_rows) == (50, 20, 50)
    assert run.averaged is not None
    averaged = passes.loss(NET, run.averaged, split.x, split.y)
    assert last.averaged_train_loss == pytest.approx(averaged, rel=1e-14)


def test_the_average_is_a_mean_first_and_a_window_then() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((400, 3))
    mean, slow = np.zeros(3), np.zeros(3)
    for count, point in enumerate(points, start=1):
        average(mean, point, count, 0.9)
        slow += max(1.0 / count, 0.1) * (point - slow)
    # A memory of ten updates is touched at each: the textbook recursion itself.
    np.testing.assert_allclose(mean, slow, rtol=1e-13)
    constant = np.zeros(3)
    for count in range(1, 2001):
        average(constant, np.ones(3), count, 0.999)
    np.testing.assert_allclose(constant, 1.0, rtol=1e-12)


def test_a_long_average_has_the_spread_of_a_mean_of_as_many() -> None:
    rng = np.random.default_rng(1)
    mean, kept = np.zeros(2000), []
    for count in range(1, 1201):
        average(mean, rng.standard_normal(2000), count, 0.99)
        kept.append(mean.var())
    # β = 0.99 at every update leaves variance (1 − β)/(1 + β); every tenth update stands for ten, which leaves
    # w/(2 − w) with w = 1/10. Standard error of a variance of 2000 numbers: 3 %.
    assert kept[-1] == pytest.approx(0.1 / 1.9, rel=0.15)


def test_divergence_is_told_with_the_parameters_before_it(tmp_path: Path) -> None:
    split, theta = problem()
    path = tmp_path / "run.npz"
    net = Network((6, 5, 3), "identity", "gaussian")
    for _ in range(2):
        run = train(
            net, GradientDescent(1e6), split, theta, budget=Budget(updates=500), batch=50, checkpoint=path
        )
        assert run.status == "diverged"
        assert "loss" in run.message
        assert np.isfinite(run.theta).all()
        assert run.rows[-1].update < 500


def test_an_optimiser_that_refuses_the_first_update_is_an_error_and_no_result() -> None:
    split, theta = problem()
    net = Network((6, 5, 3), "identity", "gaussian")
    with pytest.raises(DivergenceError):
        train(net, GradientDescent(1.0), split, 1e200 * theta, budget=Budget(updates=5), evaluations=0)


def test_seconds_count_training_alone_and_end_it() -> None:
    split, theta = problem()
    before = time.perf_counter()
    run = train(NET, GradientDescent(1e-3), split, theta, budget=Budget(seconds=0.2), batch=10, evaluations=3)
    assert run.status == "finished"
    assert 0.2 <= run.rows[-1].seconds <= time.perf_counter() - before
    assert len(run.rows) == 5
    marks = [row.seconds for row in run.rows]
    assert marks == sorted(marks)


def test_a_larger_budget_goes_on(tmp_path: Path) -> None:
    split, theta = problem()
    path = tmp_path / "run.npz"
    short = train(NET, Adam(), split, theta, budget=Budget(updates=5), batch=9, checkpoint=path)
    longer = train(NET, Adam(), split, theta, budget=Budget(updates=12), batch=9, checkpoint=path)
    assert bits(longer.rows[: len(short.rows)], clock=True) == bits(short.rows, clock=True)
    whole = train(NET, Adam(), split, theta, budget=Budget(updates=12), batch=9)
    np.testing.assert_array_equal(longer.theta, whole.theta)


@pytest.mark.parametrize("change", ["seed", "optimiser", "batch", "data", "start", "family"])
def test_a_checkpoint_of_another_run_is_refused_and_left(change: str, tmp_path: Path) -> None:
    split, theta = problem()
    path = tmp_path / "run.npz"
    settings: dict[str, Any] = {"budget": Budget(updates=3), "batch": 9, "checkpoint": path}
    train(NET, GradientDescent(0.1), split, theta, **settings)
    before = path.read_bytes()
    net, method = NET, GradientDescent(0.2 if change == "optimiser" else 0.1)
    if change == "seed":
        settings["seed"] = 1
    elif change == "batch":
        settings["batch"] = 10
    elif change == "data":
        split = split._replace(x=split.x + 1e-12)
    elif change == "start":
        theta = theta + 1e-12
    elif change == "family":
        net = Network((6, 5, 3), "tanh", "poisson")
    with pytest.raises(InputError, match="checkpoint file"):
        train(net, method, split, theta, **settings)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"\x00" * 300])
def test_a_damaged_checkpoint_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    split, theta = problem()
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="checkpoint"):
        train(NET, Adam(), split, theta, budget=Budget(updates=3), checkpoint=path)


FULL = """
import resource, sys
import numpy as np
from tests.nonlinear._training import NET, OPTIMISERS, problem
from linnat.nonlinear.training import Budget, train
split, theta = problem()
def run(updates):
    train(NET, OPTIMISERS["kfac"], split, theta, budget=Budget(updates=updates), checkpoint=sys.argv[1])
run(3)
before = open(sys.argv[1], "rb").read()
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    run(6)
except ValueError as error:
    print(type(error).__name__, error)
print(open(sys.argv[1], "rb").read() == before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX systems do")
def test_a_full_disk_is_a_clear_error_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", FULL, str(tmp_path / "run.npz")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=100, check=False)
    assert done.stdout.splitlines()[0].startswith("InputError path: expected a file that can be written"), (
        done
    )
    assert done.stdout.splitlines()[1] == "True"
    assert list(tmp_path.glob(".*.part")) == []


def test_a_second_signal_stops_at_once() -> None:
    class Impatient(Stopping):
        def step(self, state: Any, batch: Any, rng: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5.0)

    split, theta = problem()
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(NET, Impatient(Adam(), 0), split, theta, budget=Budget(updates=3))
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_run_in_another_thread_leaves_signals_alone() -> None:
    split, theta = problem()
    found = []
    work = threading.Thread(
        target=lambda: found.append(train(NET, Adam(), split, theta, budget=Budget(updates=3)).status)
    )
    work.start()
    work.join()
    assert found == ["finished"]


def test_progress_is_told_seldom_and_at_the_end() -> None:
    split, theta = problem()
    told: list[float] = []
    train(
        NET,
        Adam(),
        split,
        theta,
        budget=Budget(updates=300),
        batch=5,
        progress=lambda share, row: told.append(share),
    )
    assert told[-1] == 1.0
    assert len(told) < 100


def test_a_record_comes_back_bit_for_bit(tmp_path: Path) -> None:
    split, theta = problem()
    run = train(NET, Adam(), split, theta, budget=Budget(updates=7), averaging=None)
    write_csv(tmp_path / "record.csv", run.rows)
    back = read_csv(tmp_path / "record.csv")
    assert np.array(back).tobytes() == np.array(run.rows).tobytes()
    assert isinstance(back[0].update, int)
    (tmp_path / "record.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="columns"):
        read_csv(tmp_path / "record.csv")
    with pytest.raises(InputError, match="path"):
        read_csv(tmp_path / "none.csv")


def test_memory_stays_flat() -> None:
    class Watched(Stopping):
        sizes: ClassVar[list[int]] = []

        def step(self, state: Any, batch: Any, rng: Any) -> Any:
            if self.count in (200, 1000):
                gc.collect()
                self.sizes.append(tracemalloc.get_traced_memory()[0])
            return super().step(state, batch, rng)

    split, theta = problem(np.float32)
    tracemalloc.start()
    try:
        method = Watched(Preconditioned(Kfac(1e-2), 0.01), -1)
        train(NET, method, split, theta, budget=Budget(updates=1001), batch=16, evaluations=0)
    finally:
        tracemalloc.stop()
    before, after = Watched.sizes
    # The smallest object that an update could leave behind has 16 bytes; NumPy's own cache of small blocks is bounded.
    assert after - before < 12 * 800


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kfac"])
def test_memory_stays_flat_over_a_hundred_thousand_updates(name: str) -> None:
    resource = pytest.importorskip("resource")
    split, theta = problem(np.float32)
    sizes = []

    def keep(share: float, row: Any) -> None:
        sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    budget = Budget(updates=100_000)
    run = train(NET, OPTIMISERS[name], split, theta, budget=budget, batch=16, evaluations=50, progress=keep)
    assert run.status == "finished"
    # Peak resident memory, in KiB: nothing is added after the first tenth.
    assert sizes[-1] - sizes[len(sizes) // 10] < 4_000


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"budget": Budget()}, "budget"),
        ({"budget": Budget(3, 2.0)}, "budget"),
        ({"budget": Budget(updates=-1)}, "budget.updates"),
        ({"budget": Budget(seconds=float("nan"))}, "budget.seconds"),
        ({"batch": "many"}, "batch"),
        ({"seed": -1}, "seed"),
        ({"evaluations": -1}, "evaluations"),
        ({"averaging": 1.5}, "averaging"),
        ({"checkpoint": "/nonexistent/folder/run.npz"}, "checkpoint"),
        ({"metric": np.zeros((3, 2))}, "x: expected 6 columns"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], name: str) -> None:
    split, theta = problem()
    with pytest.raises(InputError, match=name):
        train(NET, Adam(), split, theta, **{"budget": Budget(updates=1), **change})


def test_bad_rows_are_named() -> None:
    split, theta = problem()
    for bad, name in (
        (split._replace(y=split.y[:-1]), "y"),
        (split._replace(y=split.y + 0.5), "y"),
        (split._replace(x=split.x[:, :3]), "x"),
        (split._replace(y_test=None), "split"),
    ):
        with pytest.raises(InputError, match=name):
            train(NET, Adam(), bad, theta, budget=Budget(updates=1))
