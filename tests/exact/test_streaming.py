"""Passes over chunks: order, memory, types, checkpoints, processes that are killed, progress, bad input."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat._checks import InputError
from linnat.data import row_chunks
from linnat.exact import streaming
from linnat.exact.task import Task
from tests import tolerances
from tests.conftest import REPOSITORY
from tests.mp_oracle import RATIONAL, exact_moments
from tests.strategies import conditioned, seeds

pytestmark = pytest.mark.statement("X9")

F64 = np.float64
Pair = tuple[np.ndarray, np.ndarray]


def draw_chunks(seed: int, count: int, rows: int = 5, inputs: int = 3, outputs: int = 2) -> list[Pair]:
    rng = np.random.default_rng(seed)
    draws = [
        (rng.standard_normal((rows, inputs)) + 1, rng.standard_normal((rows, outputs))) for _ in range(count)
    ]
    return draws


def same_bits(first: Task, second: Task) -> bool:
    return (
        first.n_samples == second.n_samples
        and first.root is not None
        and second.root is not None
        and first.root.tobytes() == second.root.tobytes()
    )


def gram(task: Task) -> np.ndarray:
    """Return E[[1, x, y]ᵀ[1, x, y]]."""
    assert task.root is not None
    return np.asarray(task.root.T @ task.root)


# Order


@given(seeds, st.integers(1, 33))
def test_the_order_of_chunks_matters_within_the_stated_bound(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    rows = conditioned(rng, 7 * count, 5, 1e7) * rng.choice([1.0, 1e4], (7 * count, 1))
    chunks = [(part[:, :3], part[:, 3:]) for part in np.split(rows, count)]
    one_shot = gram(Task.from_data(rows[:, :3], rows[:, 3:]))
    ones = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
    for order in (range(count), range(count)[::-1], rng.permutation(count)):
        ordered = [chunks[k] for k in order]
        chain = Task.from_data(*ordered[0])
        for pair in ordered[1:]:
            chain = Task.from_data(*pair).merge(chain)
        tasks = [Task.from_data(*pair) for pair in ordered]
        while len(tasks) > 1:
            tasks = [a.merge(b) for a, b in zip(tasks[::2], tasks[1::2], strict=False)] + tasks[
                len(tasks) // 2 * 2 :
            ]
        for task, height in ((Task.from_chunks(ordered), 1 + np.log2(count)), (chain, count), (tasks[0], 7)):
            bound = tolerances.backward(F64, 6) * (1 + height) * np.linalg.norm(one_shot)
            assert np.abs(gram(task) - one_shot).max() <= bound
            assert np.abs(gram(task) - ones.T @ ones / len(rows)).max() <= bound


def test_small_singular_values_survive_a_thousand_chunks() -> None:
    rng = np.random.default_rng(0)
    x = np.linalg.qr(rng.standard_normal((4000, 5)))[0] @ conditioned(rng, 5, 5, 1e10)
    y = x @ np.ones((5, 1))
    task = Task.from_chunks(row_chunks(x, y, rows=4))
    wanted = np.linalg.svd(x / np.sqrt(4000), compute_uv=False)
    found = np.linalg.svd(task.input_factor, compute_uv=False)
    bound = tolerances.backward(F64, 6) * (1 + np.log2(1000)) * wanted[0]
    assert np.abs(found - wanted).max() <= bound
    assert task.rank == 5
    # The rival sums XᵀX chunk by chunk: the smallest value drowns.
    squared = sum(part.T @ part for part, _ in row_chunks(x, y, rows=4)) / 4000
    assert abs(np.sqrt(np.abs(np.linalg.eigvalsh(squared)[0])) - wanted[-1]) > bound


def test_merging_is_symmetric_in_the_rank_cut_off() -> None:
    x = np.diag([1.0, 1e-3, 1e-6])
    first, second = Task.from_data(x, x, rtol=1e-4), Task.from_data(x, x)
    assert first.merge(second).rank == second.merge(first).rank == 2
    assert first.merge(Task.from_data(x, x, rtol=1e-2)).rtol == 1e-2


@pytest.mark.parametrize("rows", [1000, 300_000])
@pytest.mark.parametrize("inputs", [2, 3, 10])
def test_dependent_columns_are_seen_however_many_rows_there_are(rows: int, inputs: int) -> None:
    # Integers: the dependence is exact, what the singular value is above zero is rounding alone.
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (300_000, inputs)).astype(F64)
    x[:, -1] = 3 * x[:, 0] if inputs == 2 else x[:, 0] + x[:, 1]
    task = Task.from_chunks(row_chunks(x, rng.standard_normal((300_000, 1)), rows))
    assert (task.rank, task.affine.rank) == (inputs - 1, inputs)
    # Errors of centred rows are those of the mean.
    shifted = Task.from_chunks(row_chunks(x + 1e6, x[:, :1], rows))
    assert (shifted.rank, shifted.affine.rank) == (inputs, inputs)
    assert Task.from_chunks(row_chunks(x + 1e6, x[:, :1], rows), rtol=0.0).affine.rank == inputs + 1


# Types and memory


def test_single_precision_is_summed_in_double() -> None:
    rng = np.random.default_rng(0)
    x = (1000 + rng.standard_normal((3000, 2))).astype(np.float32)
    task = Task.from_chunks(row_chunks(x, rows=50))
    cov, _ = exact_moments(x.astype(F64), x.astype(F64), RATIONAL)
    wanted = np.array([[float(v) for v in row] for row in cov])
    tolerances.assert_close(task.input_cov, wanted, tolerances.backward(F64, 3) * 8)
    rival = sum((part.T @ part for part, _ in row_chunks(x, rows=50)), np.float32(0)) / np.float32(3000)
    assert tolerances.relative_error(rival, wanted) > 1e6 * tolerances.relative_error(task.input_cov, wanted)


def test_types_may_change_between_chunks() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, (40, 3)), rng.integers(0, 9, (40, 2))
    types = ["<f4", "<f8", ">f4", ">f8", "u1", "<i8", ">i2", "i1"]
    chunks = [(x[5 * k : 5 * k + 5].astype(t), y[5 * k : 5 * k + 5].astype(t)) for k, t in enumerate(types)]
    doubles = [(a.astype(F64), b.astype(F64)) for a, b in chunks]
    assert same_bits(Task.from_chunks(chunks), Task.from_chunks(doubles))


def test_columns_of_an_autoencoder_are_kept_once_until_they_differ() -> None:
    x, noise = (pair[0] for pair in draw_chunks(0, 2, rows=20))
    halves = x[:10], x[10:]
    tied = Task.from_chunks((half, half) for half in halves)
    loose = Task.from_chunks((half, half.copy()) for half in halves)
    bound = tolerances.backward(F64, 7) * np.linalg.norm(gram(loose))
    assert np.abs(gram(tied) - gram(loose)).max() <= bound
    late = [(halves[0], halves[0]), (halves[1], noise[:10]), (halves[0], halves[0])]
    copies = [(a.copy(), b.copy()) for a, b in late]
    for order in ([0, 1, 2], [1, 0, 2], [0, 2, 1]):
        found, wanted = (gram(Task.from_chunks([c[k] for k in order])) for c in (late, copies))
        assert np.abs(found - wanted).max() <= bound * 4
        assert np.abs(wanted[1:4, 4:] - wanted[1:4, 1:4]).max() > 0.01


def peak_memory(count: int) -> int:
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        Task.from_chunks(
            (rng.standard_normal((2000, 20)), rng.standard_normal((2000, 3))) for _ in range(count)
        )
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_depend_on_the_number_of_chunks() -> None:
    few, many = peak_memory(4), peak_memory(64)
    roots = 8 * 24**2 * 4  # four more digits in the counter
    assert many <= few + 4 * roots < 8 * 2000 * 23 * 64


CHILD_MEMORY = """
import sys
import numpy as np
from linnat.data import row_chunks
from linnat.exact.task import Task
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
rows = np.load(sys.argv[1], mmap_mode="r")
Task.from_chunks(row_chunks(rows[:4096], rows=1024))
before = peak()
task = Task.from_chunks(row_chunks(rows, rows=1024))
print(peak() - before, task.n_samples)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_memory_map_larger_than_its_share_is_read_piece_by_piece(tmp_path: Path) -> None:
    file = tmp_path / "rows.npy"
    rows = np.lib.format.open_memmap(file, "w+", np.float64, (4_000_000, 4))  # 128 MB, sparse on disk
    rows[-1] = 1.0
    del rows
    run = subprocess.run(
        [sys.executable, "-c", CHILD_MEMORY, str(file)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    grown, samples = map(int, run.stdout.split())
    assert samples == 4_000_000
    assert grown < 16_000  # KiB


# Checkpoints


class Counted(Sequence[Pair]):
    """A sequence that remembers which chunks were read."""

    def __init__(self, chunks: list[Pair]) -> None:
        self.chunks, self.read = chunks, list[int]()

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, k: Any) -> Any:
        self.read.append(k)
        return self.chunks[k]


def stop_after(chunks: list[Pair], count: int) -> Iterator[Pair]:
    yield from chunks[:count]
    raise KeyboardInterrupt


@given(st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_an_interrupted_pass_resumes_to_the_same_bits(count: int, stop: int, sequence: bool) -> None:
    import tempfile

    chunks = draw_chunks(count, count)
    stop = min(stop, count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pass.npz"
        with pytest.raises(KeyboardInterrupt):
            Task.from_chunks(stop_after(chunks, stop), checkpoint=path, every=1e9)
        assert os.listdir(folder) == ["pass.npz"]
        source = Counted(chunks)
        calls: list[tuple[int, int | None, int]] = []
        task = Task.from_chunks(
            source if sequence else iter(chunks),
            checkpoint=path,
            progress=lambda *call: calls.append(call),
        )
        # What was folded is not folded again, and only its last chunk is looked at.
        assert calls == [(k, count if sequence else None, 5 * k) for k in range(stop + 1, count + 1)]
        assert source.read == ([stop - 1, *range(stop, count)] if sequence else [])
        assert same_bits(task, Task.from_chunks(chunks))
        # A pass that is complete is not repeated; chunks that come later are added.
        assert same_bits(Task.from_chunks(chunks, checkpoint=path), task)
        more = chunks + draw_chunks(99, 3)
        assert same_bits(Task.from_chunks(more, checkpoint=path), Task.from_chunks(more))


def test_a_tied_pass_resumes_too(tmp_path: Path) -> None:
    chunks = [(x, x) for x, _ in draw_chunks(0, 5)]
    path = tmp_path / "pass"
    with pytest.raises(KeyboardInterrupt):
        Task.from_chunks(stop_after(chunks, 3), checkpoint=path)
    assert same_bits(Task.from_chunks(chunks, checkpoint=path), Task.from_chunks(chunks))
    mixed = [*chunks, (chunks[0][0], -chunks[0][0]), *chunks]
    assert same_bits(Task.from_chunks(mixed, checkpoint=path), Task.from_chunks(mixed))
    assert same_bits(Task.from_chunks(mixed, checkpoint=path), Task.from_chunks(mixed))


def test_a_checkpoint_is_written_every_so_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(1000.0))
    monkeypatch.setattr(streaming.time, "monotonic", lambda: next(clock))
    path, seen = tmp_path / "pass", []

    def look(done: int, total: int | None, samples: int) -> None:
        seen.append(int(np.load(path)["pass"][0]) if path.exists() else 0)

    Task.from_chunks(draw_chunks(0, 12), checkpoint=path, every=3.0, progress=look)
    assert seen[0] == 0
    assert len(set(seen)) in (4, 5, 6)
    assert int(np.load(path)["pass"][0]) == 12


CHILD_PASS = """
import sys
import numpy as np
from linnat.exact.task import Task
def chunks():
    for k in range(60):
        rng = np.random.default_rng(k)
        yield rng.standard_normal((300, 8)), rng.standard_normal((300, 3))
def report(done, total, samples):
    print(done, flush=True)
Task.from_chunks(chunks(), checkpoint=sys.argv[1], every=float(sys.argv[2]), progress=report).save(sys.argv[3])
"""


def run_pass(checkpoint: Path, every: float, result: Path, kill_at: int | None = None) -> list[int]:
    """Run a pass in a process of its own, kill it after some chunk, and return the chunks that it reported."""
    command = [sys.executable, "-c", CHILD_PASS, str(checkpoint), str(every), str(result)]
    reported: list[int] = []
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            reported.append(int(line))
            if reported[-1] == kill_at:
                os.kill(child.pid, signal.SIGKILL)
                break
    assert child.returncode == (0 if kill_at is None else -signal.SIGKILL)
    return reported


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("every", [0.0, 0.01])
def test_killed_processes_resume_to_the_same_bits(tmp_path: Path, every: float) -> None:
    whole, pieces = tmp_path / "whole.npz", tmp_path / "pieces.npz"
    run_pass(tmp_path / "undisturbed", 1e9, whole)
    checkpoint = tmp_path / "pass"
    starts = []
    for kill_at in (7, 23, 40):
        starts.append(run_pass(checkpoint, every, pieces, kill_at)[0])
        assert not pieces.exists()
    starts.append(run_pass(checkpoint, every, pieces)[0])
    assert starts[0] == 1
    assert starts == sorted(starts)
    if every == 0.0:
        # At most the chunk under way is lost each time.
        assert all(start >= kill_at for start, kill_at in zip(starts[1:], (7, 23, 40), strict=True))
    assert same_bits(Task.load(whole), Task.load(pieces))
    # What a killed writer left is cleared away by the next.
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "pass[1].npz"
    leftover, other = tmp_path / ".pass[1].npz.0123.part", tmp_path / ".another.0123.part"
    for file in (leftover, other):
        file.write_bytes(b"half")
    Task.from_chunks(draw_chunks(0, 2), checkpoint=path)
    assert sorted(os.listdir(tmp_path)) == [other.name, path.name]


def test_nan_in_chunk_1000_is_named_and_costs_nothing(tmp_path: Path) -> None:
    chunks = draw_chunks(0, 1003, rows=2)
    broken = list(chunks)
    broken[1000] = (chunks[1000][0] * [[1, 1, np.nan], [1, 1, 1]], chunks[1000][1])
    path = tmp_path / "pass"
    message = r"^chunk 1000: x: expected finite numbers, found nan at index \(0, 2\)\.$"
    with pytest.raises(InputError, match=message):
        Task.from_chunks(broken, checkpoint=path)
    source = Counted(chunks)
    assert same_bits(Task.from_chunks(source, checkpoint=path), Task.from_chunks(chunks))
    assert source.read == [999, 1000, 1001, 1002]
    with pytest.raises(InputError, match=message):
        Task.from_chunks(iter(broken))


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    chunks, path = draw_chunks(0, 6), tmp_path / "pass"
    Task.from_chunks(chunks[:4], checkpoint=path)
    before = path.read_bytes()
    changed = [*chunks[:3], (chunks[3][0] + 1e-15, chunks[3][1]), *chunks[4:]]
    for source in (changed, iter(changed)):
        with pytest.raises(
            InputError,
            match=r"^chunk 3: expected the same as when .*pass was written, found another\. .* Delete it",
        ):
            Task.from_chunks(source, checkpoint=path)
    for few in (chunks[:3], iter(chunks[:3]), []):
        with pytest.raises(
            InputError, match=r"^chunks for .*pass: expected at least the 4 that are in it, found fewer"
        ):
            Task.from_chunks(few, checkpoint=path)
    with pytest.raises(InputError, match="^chunk 4: expected 3 and 2 columns, found 2 and 2"):
        Task.from_chunks([*chunks[:4], (np.ones((2, 2)), np.ones((2, 2)))], checkpoint=path)
    assert path.read_bytes() == before


def damage(arrays: dict[str, np.ndarray], key: str, value: Any) -> dict[str, np.ndarray]:
    return {k: v for k, v in (arrays | {key: value}).items() if v is not None}


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    chunks, path = draw_chunks(0, 6), tmp_path / "pass.npz"
    Task.from_chunks(chunks[:3], checkpoint=path)
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"not an archive"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"^checkpoint file: expected .*pass\.npz"):
            Task.from_chunks(chunks, checkpoint=path)
        assert path.read_bytes() == content
    path.write_bytes(whole)
    arrays = dict(np.load(path))
    bad = [
        ("pass", None),
        ("pass", np.zeros(3)),
        ("pass", np.array([4, 3, 2, 0])),
        ("pass", np.array([3, 4, 2, 0])),
        ("counter", arrays["counter"] * [1, -1]),
        ("counter", arrays["counter"][:0]),
        ("root0", None),
        ("root0", arrays["root0"] * np.nan),
        ("root0", np.tile(arrays["root0"], (9, 1))),
        ("digest", arrays["digest"][:5]),
    ]
    for key, value in bad:
        np.savez(path, **damage(arrays, key, value))
        with pytest.raises(
            InputError, match="^checkpoint file: expected one that from_chunks has written, found .*Delete"
        ):
            Task.from_chunks(chunks, checkpoint=path)
    np.savez(path, **arrays)
    assert same_bits(Task.from_chunks(chunks, checkpoint=path), Task.from_chunks(chunks))


def test_a_checkpoint_that_cannot_be_written_is_seen_at_once(tmp_path: Path) -> None:
    def never() -> Iterator[Pair]:
        pytest.fail("a chunk was read")
        yield

    for path in (tmp_path / "missing" / "pass", tmp_path):
        with pytest.raises(InputError, match="^checkpoint: expected the path of a file in a folder"):
            Task.from_chunks(never(), checkpoint=path)
    with pytest.raises(InputError, match="^checkpoint: expected a path, found int"):
        Task.from_chunks(never(), checkpoint=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="^every: expected a finite number in .*, found -1"):
        Task.from_chunks(never(), checkpoint=tmp_path / "pass", every=-1)
    for wrong in ({"noise_cov": -np.eye(2)}, {"rtol": -1.0}, {"progress": "yes"}):
        with pytest.raises(InputError, match=f"^{next(iter(wrong))}"):
            Task.from_chunks(never(), **wrong)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([], "^chunks: expected at least one chunk"),
        (3, "^chunks: expected an iterable of pairs .*, found int"),
        ([(np.ones((2, 2)), np.ones(2))], r"^chunk 0: y: expected 2 dimension\(s\), found shape \(2,\)"),
        ([(np.ones((0, 2)), np.ones((0, 1)))], "^chunk 0: x: expected a non-empty array"),
        ([(np.ones((2, 2), bool), np.ones((2, 1)))], "^chunk 0: x: expected real numbers"),
        ([(np.ones((2, 2)), np.ones((3, 1)))], "^chunk 0: y: expected 2 rows, found 3"),
        (
            [(np.ma.masked_equal(np.eye(2), 0.0), np.ones((2, 1)))],
            "^chunk 0: x: expected numbers without a mask, found masked entries",
        ),
        ([(np.ones((2, 2)), np.ones((2, 1)), 0)], r"^chunk 0: expected a pair \(x, y\), found tuple"),
        (np.ones((4, 3)), r"^chunk 0: expected a pair \(x, y\), found ndarray"),
        ([(np.ones((2, 2)), np.ones((2, 1)))], "^chunk 0: y: expected 2 columns, as noise_cov says, found 1"),
    ],
)
def test_bad_chunks(tmp_path: Path, chunks: Any, message: str) -> None:
    noise = np.eye(2) if "noise_cov" in message else None
    with pytest.raises(InputError, match=message):
        Task.from_chunks(chunks, noise, checkpoint=tmp_path / "pass")
    assert os.listdir(tmp_path) == []


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = draw_chunks(0, 4)
    monkeypatch.setattr(streaming, "BAR_EVERY", 0.0)
    for stream, progress, drawn in (
        (io.StringIO(), None, False),
        (Terminal(), False, False),
        (Terminal(), None, False),  # too short a pass
        (Terminal(), True, True),
        (io.StringIO(), True, True),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        Task.from_chunks(chunks, progress=progress)
        assert bool(stream.getvalue()) == drawn
        if drawn:
            assert "█" * 20 + " 4/4 chunks  20 rows" in stream.getvalue()
            assert stream.getvalue().endswith("\r\033[K")
    monkeypatch.setattr(streaming, "BAR_AFTER", 0.0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    Task.from_chunks(iter(chunks))
    assert " 4/? chunks" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    # The line is erased also when the pass ends badly.
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyboardInterrupt):
        Task.from_chunks(stop_after(chunks, 2), progress=True)
    assert sys.stderr.getvalue().endswith("\r\033[K")  # type: ignore[attr-defined]


def test_a_program_without_stderr_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert Task.from_chunks(draw_chunks(0, 2)).n_samples == 10
