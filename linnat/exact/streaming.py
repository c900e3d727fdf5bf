"""How are the moments of more data than memory holds found? One pass over chunks, which can be interrupted and resumed.

A deep linear network sees data only through the root of the rows [1, x, y] (statement X9), and roots of chunks are
joined by QR (`linnat.linalg.tsqr`): memory holds one chunk and log₂(chunks) roots, whatever the number of samples. The
state of a pass is a value: a chunk either is in it or is not, so that an interruption at any moment leaves a checkpoint
from which the rest of the pass gives the same bits.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from linnat._checks import Array, InputError, as_float_array, as_rows, as_scalar, fail
from linnat._files import read_npz, write_npz
from linnat.linalg.tsqr import Part, carry, collapse, root_of_rows

Progress: TypeAlias = Callable[[int, int | None, int], None]

BAR_AFTER, BAR_EVERY, BAR_WIDTH = 1.0, 0.1, 20  # seconds, seconds, characters
REMEDY = "Delete it to begin anew."


class Rows(NamedTuple):
    """What a pass leaves of the rows [1, x, y].

    Attributes
    ----------
    root : array (≤ 1 + n_0 + n_L, 1 + n_0 + n_L)
        R with Rᵀ R = E[[1, x, y]ᵀ [1, x, y]].
    inputs : int
        n_0.
    samples : int
        N.
    """

    root: Array
    inputs: int
    samples: int


class State(NamedTuple):
    """Where a pass stands.

    Attributes
    ----------
    chunks : int
        How many chunks are in it.
    inputs, outputs : int
        Columns of x and y; 0 before the first chunk.
    tied : bool
        In every chunk y was the same object as x: its columns are kept once.
    stack : tuple of Part
        The binary counter of roots.
    newest : pair of arrays, or None
        The last chunk, by which a checkpoint knows its place in the data.
    """

    chunks: int = 0
    inputs: int = 0
    outputs: int = 0
    tied: bool = True
    stack: tuple[Part, ...] = ()
    newest: tuple[Array, Array] | None = None

    @property
    def samples(self) -> int:
        """Number of rows in it."""
        return sum(part.rows for part in self.stack)


def fold_chunks(
    chunks: Iterable[Any],
    outputs: int | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    every: float = 60.0,
    progress: Progress | bool | None = None,
) -> Rows:
    """Return what one pass leaves of chunks (x, y); see `Task.from_chunks`.

    Parameters
    ----------
    chunks : iterable of pairs of arrays (N_k, n_0), (N_k, n_L)
    outputs : int, optional
        n_L, where it is known beforehand.
    checkpoint, every, progress
        See `Task.from_chunks`.

    Returns
    -------
    Rows

    Examples
    --------
    >>> fold_chunks([(np.eye(2), np.ones((2, 1)))] * 3).samples
    6
    """
    pause = as_scalar(every, "every", low=0.0)
    source, total = _iterable(chunks), len(chunks) if isinstance(chunks, Sequence) else None
    report = reporter(progress)
    state = State()
    rest: Iterator[tuple[int, Any]] = enumerate(source)
    path = None if checkpoint is None else _checkpoint_path(checkpoint)
    if path is not None and path.exists():
        state, digest = _load(path)
        rest = _skip(chunks, source, state.chunks, digest, path)
    saved, written = state.chunks, time.monotonic()
    try:
        for k, pair in rest:
            # One assignment: a chunk is in the state with all of its traces, or not at all.
            state = _add(state, k, as_chunk(k, pair), outputs)
            report(state.chunks, total, state.samples)
            if path is not None and time.monotonic() - written >= pause:
                _save(path, state)
                saved, written = state.chunks, time.monotonic()
    finally:
        report(-1, total, state.samples)
        # Also when a chunk was bad or the user stopped: what is done stays done.
        if path is not None and saved < state.chunks:
            _save(path, state)
    if not state.stack:
        fail("chunks", "at least one chunk (x, y)", "an empty iterable")
    return finish(state.stack, state.inputs, state.tied)


def finish(stack: Sequence[Part], inputs: int, tied: bool) -> Rows:
    """Return what is left of all rows; columns that were kept once are doubled."""
    whole = collapse(stack)
    return Rows(_untie(whole).root if tied else whole.root, inputs, whole.rows)


def as_chunk(k: int, pair: Any) -> tuple[Array, Array]:
    """Return a chunk (x, y) as two arrays with a row for each sample, or raise and name it by its number."""
    try:
        x, y = pair
    except (TypeError, ValueError):
        fail(f"chunk {k}", "a pair (x, y)", type(pair).__name__)
    rows = as_rows(x, f"chunk {k}: x")
    values = rows if y is x else as_rows(y, f"chunk {k}: y")
    if len(rows) != len(values):
        fail(f"chunk {k}: y", f"{len(rows)} rows", f"{len(values)}")
    return rows, values


def root_of_chunk(rows: Array, values: Array) -> Part:
    """Return the root of one chunk; columns of a y that is x are factored once."""
    return Part(root_of_rows(rows, None if values is rows else values), len(rows))


def _add(state: State, k: int, chunk: tuple[Array, Array], outputs: int | None) -> State:
    rows, values = chunk
    if outputs is not None and values.shape[1] != outputs:
        fail(f"chunk {k}: y", f"{outputs} columns, as noise_cov says", f"{values.shape[1]}")
    found = rows.shape[1], values.shape[1]
    if state.stack and found != (state.inputs, state.outputs):
        fail(f"chunk {k}", f"{state.inputs} and {state.outputs} columns", f"{found[0]} and {found[1]}")
    tied, stack = state.tied and values is rows, state.stack
    if state.tied and not tied:
        stack = tuple(_untie(part) for part in stack)
    part = root_of_chunk(rows, values)
    if values is rows and not tied:
        part = _untie(part)
    return State(k + 1, *found, tied, carry(stack, part), chunk)


def _untie(part: Part) -> Part:
    """Return the root of [1, x, x] from that of [1, x]."""
    return part._replace(root=np.concatenate([part.root, part.root[:, 1:]], axis=1))


def _iterable(chunks: Any) -> Iterator[Any]:
    try:
        return iter(chunks)
    except TypeError:
        fail("chunks", "an iterable of pairs (x, y)", type(chunks).__name__)


def _skip(
    chunks: Iterable[Any], source: Iterator[Any], done: int, digest: bytes, path: Path
) -> Iterator[tuple[int, Any]]:
    """Return the numbered chunks after those that are done, once the last of these is seen to be the same."""
    if isinstance(chunks, Sequence):
        last = [chunks[done - 1]] if len(chunks) >= done else []
        rest: Iterator[Any] = (chunks[k] for k in range(done, len(chunks)))
    else:
        last, rest = list(itertools.islice(source, done - 1, done)), source
    if not last:
        fail(f"chunks for {path}", f"at least the {done} that are in it", "fewer", REMEDY)
    if _digest(as_chunk(done - 1, last[0])) != digest:
        fail(
            f"chunk {done - 1}",
            f"the same as when {path} was written",
            "another",
            f"A pass is resumed on the same chunks in the same order. {REMEDY}",
        )
    return enumerate(rest, start=done)


def _digest(chunk: tuple[Array, Array]) -> bytes:
    rows, values = chunk
    state = hashlib.blake2b(digest_size=32)
    for array in (rows,) if values is rows else (rows, values):
        state.update(f"{array.dtype} {array.shape} ".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.digest()


def _checkpoint_path(checkpoint: str | os.PathLike[str]) -> Path:
    """Return the path, after a look at whether it can be written: better now than in an hour."""
    try:
        path = Path(checkpoint)
    except TypeError:
        fail("checkpoint", "a path", type(checkpoint).__name__)
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK) or path.is_dir():
        fail("checkpoint", "the path of a file in a folder that can be written", str(path))
    # A process that was killed while it wrote leaves its unfinished file behind.
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        leftover.unlink(missing_ok=True)
    return path


def _save(path: Path, state: State) -> None:
    if state.newest is None:
        return
    roots = {f"root{i}": part.root for i, part in enumerate(state.stack)}
    header = [state.chunks, state.inputs, state.outputs, int(state.tied)]
    counter = [(part.rows, part.level) for part in state.stack]
    digest = np.frombuffer(_digest(state.newest), np.uint8)
    pass_, stack = np.array(header, np.int64), np.array(counter, np.int64)
    write_npz(path, {"pass": pass_, "counter": stack, "digest": digest, **roots})


def _load(path: Path) -> tuple[State, bytes]:
    """Read a checkpoint; whatever is not one is an error before anything is read from the data."""
    arrays = read_npz(path, "checkpoint")
    try:
        done, inputs, outputs, tied = (int(n) for n in arrays["pass"])
        width = 1 + inputs + (0 if tied else outputs)
        stack = []
        for i, (rows, level) in enumerate(arrays["counter"].tolist()):
            root = as_float_array(arrays[f"root{i}"], f"root{i} in {path}", ndim=2)
            if root.shape[1] != width or len(root) > min(rows, width) or not 0 <= level < 63:
                raise ValueError
            stack.append(Part(root, rows, level))
        if not stack or done != sum(2**part.level for part in stack) or arrays["digest"].shape != (32,):
            raise ValueError
        return State(done, inputs, outputs, bool(tied), tuple(stack)), arrays["digest"].tobytes()
    except (KeyError, ValueError, TypeError) as error:
        found = error if isinstance(error, InputError) else f"other arrays in {path}"
        fail("checkpoint file", "one that from_chunks has written", found, REMEDY)


def reporter(progress: Progress | bool | None) -> Progress:
    """Return what is called after each chunk, and with -1 at the end."""
    if callable(progress):
        return lambda done, total, samples: progress(done, total, samples) if done >= 0 else None
    if progress not in (None, True, False):
        fail("progress", "True, False, None or a callable", type(progress).__name__)
    if progress or (progress is None and sys.stderr is not None and sys.stderr.isatty()):
        return _bar(0.0 if progress else BAR_AFTER)
    return lambda done, total, samples: None


def _bar(delay: float) -> Progress:
    """Return a function that redraws one line on stderr and erases it at the end."""
    begin = time.monotonic()
    drawn = begin + delay - BAR_EVERY
    visible = False

    def draw(done: int, total: int | None, samples: int) -> None:
        nonlocal drawn, visible
        now = time.monotonic()
        if done < 0:
            if visible:
                print("\r\033[K", end="", file=sys.stderr, flush=True)
            return
        if now - drawn < BAR_EVERY and done != total:
            return
        if now - begin < delay:
            return
        filled = BAR_WIDTH if not total else round(BAR_WIDTH * done / total)
        bar = ("█" * filled + "░" * (BAR_WIDTH - filled) + " ") if total else ""
        rate = samples / max(now - begin, 1e-9)
        line = f" {bar}{done}/{total or '?'} chunks  {samples:,} rows  {rate:,.0f} rows/s"
        width = shutil.get_terminal_size((80, 24)).columns
        print("\r" + line[: width - 1].ljust(width - 1), end="", file=sys.stderr, flush=True)
        drawn, visible = now, True

    return draw
