"""What does a training loop keep? Its position, how rows are drawn, when it was told to stop, its file."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, fail
from linnat._files import read_npz, remove_leftovers, write_npz
from linnat.nonlinear._rooms import with_room
from linnat.nonlinear.checkpoint import pack, unpack
from linnat.nonlinear.network import Network
from linnat.nonlinear.record import Row, as_table, from_table
from linnat.nonlinear.schedules import Schedule

ORDER, DRAWS, METRIC = 0, 1, 2  # streams of random numbers, beside the seed
AVERAGE_TENTH = 0.1  # the average is touched once in a tenth of its memory


class Position(NamedTuple):
    """Where a run stands.

    Attributes
    ----------
    state : the optimiser's
    average : array (P,) or None
    updates, examples : int
    seconds : float
    rows : tuple of Row
    status : "running", "finished", "diverged" or "interrupted"
    message : str
    """

    state: Any
    average: Array | None
    updates: int
    examples: int
    seconds: float
    rows: tuple[Row, ...]
    status: str
    message: str = ""


class Draw:
    """Rows of every update: without replacement, one permutation for each pass over the data.

    Parameters
    ----------
    x, y : array (N, n_0), (N, n_L)
    batch : schedule
    seed : int
    metric : array (M, n_0) or None
        Where rows for the metric are drawn from, with replacement.
    """

    def __init__(self, x: Array, y: Array, batch: Schedule, seed: int, metric: Array | None = None) -> None:
        self.x, self.y, self.batch, self.seed, self.metric = x, y, batch, seed, metric
        self._epoch, self._order = -1, np.empty(0, np.intp)
        self._buffers: dict[str, Array] = {}

    def __call__(self, update: int, examples: int) -> tuple[Array, Array, Array | None, int]:
        """Return x, y, the metric's rows, and the number of examples seen after them; arrays are buffers."""
        count = min(max(1, round(self.batch.at(update))), len(self.x))
        places = self._places(examples, count)
        x = self._taken("x", self.x, places)
        y = x if self.y is self.x else self._taken("y", self.y, places)
        metric = None
        if self.metric is not None:
            chosen = np.random.default_rng((self.seed, METRIC, update)).integers(0, len(self.metric), count)
            metric = self._taken("metric", self.metric, chosen)
        return x, y, metric, examples + count

    def rng(self, update: int) -> np.random.Generator:
        """Return the generator of an update's own draws."""
        return np.random.default_rng((self.seed, DRAWS, update))

    def _places(self, examples: int, count: int) -> Array:
        epoch, first = divmod(examples, len(self.x))
        head = self._permutation(epoch)[first : first + count]
        if len(head) == count:
            return head
        return np.concatenate([head, self._permutation(epoch + 1)[: count - len(head)]])

    def _permutation(self, epoch: int) -> Array:
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, ORDER, epoch)).permutation(len(self.x))
            self._epoch = epoch
        return self._order

    def _taken(self, name: str, rows: Array, places: Array) -> Array:
        kept, count = self._buffers.get(name), len(places)
        room = with_room(0 if kept is None else len(kept), count)
        if kept is None or len(kept) != room:
            kept = self._buffers[name] = np.empty((room, rows.shape[1]), rows.dtype)
        # Places are within bounds: "clip" spares the copy that the default makes for safety.
        return np.take(rows, places, axis=0, out=kept[:count], mode="clip")


def average(mean: Array, theta: Array, count: int, decay: float) -> None:
    """Move a running average, in place, after update number `count`.

    Every update has weight 1 − β, the first ones those of a plain mean. While the memory 1/(1 − β) is long the mean is
    touched once in a tenth of it, with the weight of as many updates: what it costs is then not seen.
    """
    memory = min(float(count), 1.0 / (1.0 - decay)) if decay < 1.0 else float(count)
    stride = max(1, int(AVERAGE_TENTH * memory))
    if count % stride:
        return
    weight = min(1.0, stride / memory)
    difference = theta - mean
    difference *= weight
    mean += difference


class Interruption:
    """While it lasts, SIGINT and SIGTERM ask for a stop instead of forcing one; a second one forces it.

    Only in the main thread, where Python handles signals; elsewhere nothing is changed.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Stored:
    """The file of a run.

    Parameters
    ----------
    path : Path
    described : str
        What the run is, in words: a file of another run is refused.
    arrays : sequence of arrays or None
        Start and data; a digest of them is kept.
    every : float
        Seconds between writings.
    """

    def __init__(self, path: Path, described: str, arrays: Sequence[Array | None], every: float) -> None:
        if not path.parent.is_dir():
            fail("checkpoint", "a file in an existing folder", path)
        self.path, self.described, self.every = path, described, every
        self.digest = digest(arrays)
        self._written = time.monotonic()

    def load(self, net: Network) -> Position | None:
        """Return the position that the file holds, if there is one."""
        remove_leftovers(self.path)
        if not self.path.exists():
            return None
        arrays = read_npz(self.path, "checkpoint")
        try:
            about = json.loads(bytes(arrays["about"]).decode())
            rows = from_table(arrays["rows"])
            kept = about["described"], about["digest"]
            numbers = about["updates"], about["examples"], about["seconds"]
            status, message = about["status"], about["message"]
        except (KeyError, ValueError, TypeError) as error:
            fail("checkpoint file", "one of a training run", f"{self.path} ({type(error).__name__}: {error})")
        if kept != (self.described, self.digest):
            what = "other start or data" if kept[0] == self.described else f"a run of {kept[0]}"
            fail("checkpoint file", f"one of this run, {self.described}", what, "Delete it to begin anew.")
        state, mean = unpack(arrays, net)
        return Position(state, mean, *numbers, rows, status if status == "diverged" else "running", message)

    def keep(self, position: Position) -> None:
        """Write the position if it is time."""
        if time.monotonic() - self._written >= self.every:
            self.write(position)

    def write(self, position: Position) -> None:
        """Write the position, atomically."""
        about = {
            "described": self.described,
            "digest": self.digest,
            "updates": position.updates,
            "examples": position.examples,
            "seconds": position.seconds,
            "status": position.status,
            "message": position.message,
        }
        arrays = pack((position.state, position.average))
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        arrays["rows"] = as_table(position.rows)
        write_npz(self.path, arrays)
        self._written = time.monotonic()


def digest(arrays: Sequence[Array | None]) -> str:
    """Return a digest of shapes, types and bytes."""
    found = hashlib.sha256()
    seen: set[int] = set()
    for array in arrays:
        found.update(b"none" if array is None else f"{array.shape} {array.dtype}".encode())
        if array is not None and id(array) not in seen:
            seen.add(id(array))
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
