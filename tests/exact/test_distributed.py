"""Trees of QRs on Dask: a real cluster, workers that die, schedulers that do not answer, bad input."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat._checks import InputError
from linnat.exact import distributed as module
from linnat.exact.distributed import SchedulerError
from linnat.exact.task import Task
from tests import tolerances
from tests.conftest import REPOSITORY
from tests.strategies import conditioned, seeds

pytestmark = pytest.mark.statement("X9")

F64 = np.float64
REASON = "needs the extra linnat[distributed]"


@pytest.fixture
def da() -> Any:
    """Return dask.array, or skip."""
    return pytest.importorskip("dask.array", reason=REASON)


@pytest.fixture(scope="module")
def distributed() -> Any:
    """Return dask.distributed, or skip."""
    return pytest.importorskip("distributed", reason=REASON)


@pytest.fixture(scope="module")
def cluster(distributed: Any) -> Iterator[Any]:
    """Return two worker processes on this machine."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as local:
        yield local


def draw(seed: int, samples: int, inputs: int = 4, outputs: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, inputs)) + 1
    return x, x @ rng.standard_normal((inputs, outputs)) + rng.standard_normal((samples, outputs))


def gram(task: Task) -> np.ndarray:
    assert task.root is not None
    return np.asarray(task.root.T @ task.root)


def assert_same_moments(task: Task, wanted: Task, blocks: int) -> None:
    assert (task.n_samples, task.n_inputs, task.n_outputs, task.rank) == (
        wanted.n_samples,
        wanted.n_inputs,
        wanted.n_outputs,
        wanted.rank,
    )
    bound = tolerances.backward(F64, task.n_inputs + task.n_outputs + 1) * (2 + np.log2(blocks))
    assert np.abs(gram(task) - gram(wanted)).max() <= bound * np.linalg.norm(gram(wanted))


def same_bits(first: Task, second: Task) -> bool:
    assert first.root is not None
    assert second.root is not None
    return first.root.tobytes() == second.root.tobytes()


# Trees, on Dask's own pools


@given(seeds, st.integers(1, 100), st.integers(1, 100), st.integers(1, 100))
def test_blocks_of_any_shape_give_the_moments_of_the_whole(
    seed: int, samples: int, rows: int, other: int
) -> None:
    da = pytest.importorskip("dask.array", reason=REASON)
    x, y = draw(seed, samples)
    # Columns in two blocks, and rows of y cut in other places.
    task = Task.from_dask(da.from_array(x, (rows, 3)), da.from_array(y, (other, 1)), scheduler="synchronous")
    assert_same_moments(task, Task.from_data(x, y), samples)
    tied = da.from_array(x, (rows, 4))
    assert_same_moments(Task.from_dask(tied, tied, scheduler="synchronous"), Task.from_data(x, x), samples)


def test_blocks_of_unknown_or_no_length(da: Any) -> None:
    x, y = draw(0, 90)
    lazy_x, lazy_y = da.from_array(x, (10, 4)), da.from_array(y, (10, 2))
    keep = np.arange(90) % 3 == 0
    keep[:30] = False  # whole blocks are empty
    mask = da.from_array(keep, 10)
    task = Task.from_dask(lazy_x[mask], lazy_y[mask], scheduler="synchronous")
    assert_same_moments(task, Task.from_data(x[keep], y[keep]), 9)
    other = keep.copy()
    other[60] = not other[60]
    with pytest.raises(InputError, match=r"^chunk 6: y: expected 4 rows, found 3"):
        Task.from_dask(lazy_x[mask], lazy_y[da.from_array(other, 10)], scheduler="synchronous")
    nothing = lazy_x[mask & ~mask]
    with pytest.raises(InputError, match="^x: expected at least one row, found empty blocks"):
        Task.from_dask(nothing, nothing, scheduler="synchronous")
    with pytest.raises(InputError, match="^y: expected 9 blocks of rows, as in x, found 5"):
        Task.from_dask(
            lazy_x[mask], da.from_array(y, (20, 2))[da.from_array(keep, 20)], scheduler="synchronous"
        )


def test_small_singular_values_survive_a_tree(da: Any) -> None:
    rng = np.random.default_rng(0)
    x = np.linalg.qr(rng.standard_normal((4000, 5)))[0] @ conditioned(rng, 5, 5, 1e10)
    lazy = da.from_array(x, (40, 5))
    found = np.linalg.svd(
        Task.from_dask(lazy, lazy[:, :1], scheduler="synchronous").input_factor, compute_uv=False
    )
    wanted = np.linalg.svd(x / np.sqrt(4000), compute_uv=False)
    bound = tolerances.backward(F64, 7) * (1 + np.log2(100)) * wanted[0]
    assert np.abs(found - wanted).max() <= bound
    squared = (lazy.T @ lazy / 4000).compute(scheduler="synchronous")
    assert abs(np.sqrt(np.abs(np.linalg.eigvalsh(squared)[0])) - wanted[-1]) > bound


def test_every_pool_gives_the_same_bits(da: Any) -> None:
    x, y = draw(0, 1000)
    arrays = da.from_array(x.astype(np.float32), (13, 4)), da.from_array(y, (50, 2))
    noise = np.diag([1.0, 4.0])
    first = Task.from_dask(*arrays, noise, rtol=1e-12, scheduler="synchronous")
    assert (first.noise_cov == noise).all()
    assert first.rtol == 1e-12
    for pool in ("threads", None):
        assert same_bits(Task.from_dask(*arrays, noise, scheduler=pool), first)


# A cluster


def test_a_cluster_gives_the_same_bits(da: Any, distributed: Any, cluster: Any) -> None:
    x, y = draw(0, 3000)
    arrays = da.from_array(x, (100, 4)), da.from_array(y, (100, 2))
    wanted = Task.from_dask(*arrays, scheduler="synchronous")
    for scheduler in (cluster, cluster.scheduler_address, cluster.scheduler_address.removeprefix("tcp://")):
        assert same_bits(Task.from_dask(*arrays, scheduler=scheduler), wanted)
    with distributed.Client(cluster, set_as_default=False) as client:
        assert same_bits(Task.from_dask(*arrays, scheduler=client), wanted)
        assert client.status == "running"  # what was not opened is not closed
    assert cluster.status.name == "running"


def test_progress_is_told_block_by_block(da: Any, cluster: Any) -> None:
    x, y = draw(3, 60)
    blocks = [(a, b) for a, b in zip((10, 20, 5, 25), (10, 20, 5, 25), strict=True)]
    sizes = tuple(a for a, _ in blocks)
    first, second = da.from_array(x, chunks=(sizes, 4)), da.from_array(y, chunks=(sizes, 2))
    wanted = Task.from_dask(first, second, scheduler="synchronous", progress=False)
    for scheduler in ("threads", "synchronous", cluster):
        seen: list[tuple[int, int | None, int]] = []
        found = Task.from_dask(
            first, second, scheduler=scheduler, progress=lambda *state, seen=seen: seen.append(state)
        )
        assert (gram(found) == gram(wanted)).all()
        assert [state[0] for state in seen] == [1, 2, 3, 4]
        assert {state[1] for state in seen} == {4}
        assert seen[-1][2] == 60
        rows = [b[2] - a[2] for a, b in zip([(0, 4, 0), *seen], seen, strict=False)]
        assert sorted(rows) == sorted(sizes)
    with pytest.raises(InputError, match="^progress: expected True"):
        Task.from_dask(first, second, progress="yes")  # type: ignore[arg-type]


def test_progress_of_blocks_of_unknown_length(da: Any) -> None:
    x, y = draw(4, 40)
    first, second = da.from_array(x, chunks=(10, 4)), da.from_array(y, chunks=(10, 2))
    keep = first[:, 0] > -10  # all of them, which Dask does not know
    seen: list[tuple[int, int | None, int]] = []
    Task.from_dask(
        first[keep], second[keep], scheduler="synchronous", progress=lambda *state: seen.append(state)
    )
    assert seen == [(k, 4, 0) for k in (1, 2, 3, 4)]


def test_progress_while_a_cluster_works(da: Any, cluster: Any, tmp_path: Path) -> None:
    places = da.arange(24, chunks=1)[:, None] * da.ones((1, 1), chunks=1)
    x = da.map_blocks(slow_block, places, str(tmp_path), chunks=((25,) * 24, (6,)), dtype=F64)
    seen: list[int] = []
    task = Task.from_dask(x, x, scheduler=cluster, progress=lambda done, total, rows: seen.append(rows))
    assert task.n_samples == 600
    assert seen == sorted(seen)
    assert (len(seen), seen[-1]) == (24, 600)


def test_a_bad_block_is_named_by_the_worker_that_meets_it(da: Any, cluster: Any) -> None:
    x, y = draw(0, 3000)
    x[1999, 3] = np.nan
    with pytest.raises(
        InputError, match=r"^chunk 19: x: expected finite numbers, found nan at index \(99, 3\)"
    ):
        Task.from_dask(da.from_array(x, (100, 4)), da.from_array(y, (100, 2)), scheduler=cluster)


def slow_block(place: Any, folder: str, block_info: Any = None) -> np.ndarray:
    """Draw one block of rows, slowly, and leave a trace with the worker's process id."""
    number = block_info[None]["chunk-location"][0]
    time.sleep(0.05)
    with open(os.path.join(folder, f"{number}"), "a", encoding="utf-8") as trace:
        trace.write(f"{os.getpid()}\n")
    return np.random.default_rng(number).standard_normal(block_info[None]["chunk-shape"])


KILLER = """
import os, signal, sys, time
folder, pids = sys.argv[1], [int(p) for p in sys.argv[2:]]
end = time.monotonic() + 30
while len(os.listdir(folder)) < 12 and time.monotonic() < end:
    time.sleep(0.01)
for pid in pids:
    os.kill(pid, signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_worker_that_is_killed_changes_no_bit(da: Any, distributed: Any, tmp_path: Path) -> None:
    def rows(folder: Path) -> Any:
        folder.mkdir()
        places = da.arange(40 * 25, chunks=25)[:, None]
        return da.map_blocks(slow_block, places, str(folder), chunks=((25,) * 40, (6,)), dtype=F64)

    wanted = Task.from_data(
        *(2 * [np.concatenate([np.random.default_rng(k).standard_normal((25, 6)) for k in range(40)])])
    )
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        calm = rows(tmp_path / "calm")
        undisturbed = Task.from_dask(calm, calm, scheduler=cluster)
        victim = cluster.workers[0].pid
        stormy = rows(tmp_path / "stormy")
        killer = subprocess.Popen([sys.executable, "-c", KILLER, str(tmp_path / "stormy"), str(victim)])
        disturbed = Task.from_dask(stormy, stormy, scheduler=cluster)
        assert killer.wait(10) == 0
    runs = {f.name: f.read_text().split() for f in (tmp_path / "stormy").iterdir()}
    processes = {pid for pids in runs.values() for pid in pids}
    # It was at work when it was killed, and what it held was computed again.
    assert str(victim) in processes
    assert len(processes) >= 2
    assert any(len(pids) > 1 for pids in runs.values())
    assert same_bits(disturbed, undisturbed)
    assert_same_moments(disturbed, wanted, 40)


LOCAL = """
import sys
import dask.array as da
import numpy as np
from linnat.exact.task import Task
if __name__ == "__main__":
    x = da.from_array(np.random.default_rng(0).standard_normal((400, 3)), (50, 3))
    Task.from_dask(x, x, scheduler="local").save(sys.argv[1])
"""


def test_a_cluster_is_started_for_the_time_of_a_call(da: Any, distributed: Any, tmp_path: Path) -> None:
    script, result = tmp_path / "local.py", tmp_path / "task.npz"
    script.write_text(LOCAL, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, str(script), str(result)], check=True, env=environment, timeout=60)
    x = np.random.default_rng(0).standard_normal((400, 3))
    assert_same_moments(Task.load(result), Task.from_data(x, x), 8)


# Schedulers that do not answer


def test_a_dead_scheduler_is_a_clear_error_within_seconds(da: Any, distributed: Any) -> None:
    x = da.ones((10, 2), chunks=5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    begin = time.monotonic()
    message = rf"^scheduler: expected a Dask scheduler at {address}, found no answer within 1 s\. Start one"
    with pytest.raises(SchedulerError, match=message) as caught:
        Task.from_dask(x, x, scheduler=address, timeout=1)
    assert time.monotonic() - begin < 10
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, ConnectionError)


def test_a_server_that_is_no_scheduler_is_an_error_too(da: Any, distributed: Any) -> None:
    x = da.ones((10, 2), chunks=5)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(
            SchedulerError, match="^scheduler: expected a Dask scheduler at .*, found no answer"
        ):
            Task.from_dask(x, x, scheduler=f"tcp://127.0.0.1:{mute.getsockname()[1]}", timeout=1)
    with pytest.raises(
        SchedulerError, match="^scheduler: expected a Dask scheduler at nonsense://nowhere, found"
    ):
        Task.from_dask(x, x, scheduler="nonsense://nowhere", timeout=1)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", bytes(64)],
    ids=["http", "ssh", "zeros"],
)
def test_what_another_server_says_is_not_taken_for_lengths(da: Any, distributed: Any, answer: bytes) -> None:
    x = da.ones((10, 2), chunks=5)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def serve() -> None:
            with other.accept()[0] as peer, contextlib.suppress(OSError):
                peer.sendall(answer)
                while peer.recv(1024):  # until the other side has gone
                    pass

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        message = "^scheduler: expected a Dask scheduler at .*, found a server of another kind"
        with pytest.raises(SchedulerError, match=message):
            Task.from_dask(x, x, scheduler=f"tcp://127.0.0.1:{other.getsockname()[1]}", timeout=5)
        server.join(10)


def test_a_scheduler_without_workers_is_an_error(da: Any, distributed: Any) -> None:
    x = da.ones((10, 2), chunks=5)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        pytest.raises(
            SchedulerError, match="^scheduler: expected at least one worker at .*, found none within 1 s"
        ),
    ):
        Task.from_dask(x, x, scheduler=cluster, timeout=1)


SERVER = """
import sys, time
import distributed
if __name__ == "__main__":
    cluster = distributed.LocalCluster(1, processes=False, protocol="tcp://", dashboard_address=":0")
    with cluster:
        print(cluster.scheduler_address, flush=True)
        time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_scheduler_that_dies_on_the_way_is_an_error(da: Any, distributed: Any, tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER, encoding="utf-8")
    folder = tmp_path / "trace"
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(script)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=REPOSITORY
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            places = da.arange(4000, chunks=10)[:, None]
            x = da.map_blocks(slow_block, places, str(folder), chunks=((10,) * 400, (3,)), dtype=F64)
            killer = subprocess.Popen([sys.executable, "-c", KILLER, str(folder), str(server.pid)])
            begin = time.monotonic()
            message = r"^scheduler: expected an answer from tcp://.*, found the connection lost"
            with pytest.raises(SchedulerError, match=message):
                Task.from_dask(x, x, scheduler=address, timeout=2)
            assert time.monotonic() - begin < 20
            assert killer.wait(10) == 0
        finally:
            server.kill()


# Bad input


def test_bad_arrays(da: Any) -> None:
    x = da.ones((10, 2), chunks=5)
    for args, message in (
        ((np.ones((10, 2)), x), "^x: expected a Dask array, found ndarray. For arrays in memory"),
        ((x, x[:, 0]), r"^y: expected 2 dimension\(s\), found shape \(10,\)"),
        ((x, x[:7]), "^y: expected 10 rows, one for each of x, found 7"),
        ((x[:0], x[:0]), "^x: expected a non-empty array"),
        ((x, x > 0), "^chunk [01]: y: expected real numbers"),
        ((x, x, np.eye(3)), "^y: expected 3 columns, as noise_cov says, found 2"),
        ((x, x, -np.eye(2)), "^noise_cov: expected a positive definite matrix"),
    ):
        with pytest.raises(InputError, match=message):
            Task.from_dask(*args, scheduler="synchronous")
    for options, message in (
        ({"scheduler": 3}, "^scheduler: expected an address, a Client, a Cluster, or one of .*, found int 3"),
        ({"timeout": 0}, "^timeout: expected a finite number in"),
        ({"rtol": -1}, "^rtol"),
    ):
        with pytest.raises(InputError, match=message):
            Task.from_dask(x, x, **options)  # type: ignore[arg-type]


def test_an_asynchronous_client_is_refused(da: Any, distributed: Any) -> None:
    import asyncio

    x = da.ones((10, 2), chunks=5)

    async def main() -> None:
        async with distributed.Client(
            processes=False, n_workers=0, dashboard_address=":0", asynchronous=True
        ) as client:
            with pytest.raises(InputError, match="^scheduler: expected a Client that waits for results"):
                Task.from_dask(x, x, scheduler=client)

    asyncio.run(main())


@pytest.mark.parametrize("missing", ["dask", "distributed"])
def test_a_missing_package_is_named_with_its_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        InputError, match=rf"^from_dask: expected .*, found no module {missing}\. Install linnat\[dist"
    ):
        module.need(missing)
    if missing == "dask":
        with pytest.raises(InputError, match="^from_dask: expected the packages dask and distributed"):
            Task.from_dask(1, 2)
