"""Who does the work of a training step? Threads that share it, each with linear algebra of one thread.

BLAS shares a product among threads of its own; what stands between two products is then left to one of them, while the
others wait actively and take the processor from whoever else would help. Here it is the other way round: rows,
layers or stretches of a vector are shared, BLAS runs in one thread, and elementwise functions, which NumPy computes
without holding the interpreter, are shared with the products. A crew has as many members as NumPy's BLAS had threads.

It takes threadpoolctl to tell BLAS so; without it, or where the work is too little to be worth a handover, everything
runs where it was called. Shares are cut by sizes alone and results are put together in their order: numbers depend on
the number of threads in their last bits, as with BLAS's own, and on nothing else.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from math import inf
from queue import SimpleQueue
from typing import Any, TypeVar

from linnat.hardware import blas_threads

Result = TypeVar("Result")
Item = TypeVar("Item")

WORTH = 1e8  # flops: a millisecond, some ten times what a handover takes
KERNEL = 8  # rows or columns in the innermost loops of BLAS, or a divisor of them
PASS = 100.0  # flops that a number costs in an elementwise walk through memory, about

_working = threading.Lock()
_local = threading.local()  # .size: of the crew that this thread may call upon


@contextmanager
def crew(work: float) -> Iterator[None]:
    """Hold BLAS to one thread while so many flops are done, and have shares done by a crew.

    Without it each call of `each` does so for itself; around a whole step it keeps products in between, too small to be
    shared, from waking BLAS's threads. It does nothing for too little work, within a share, or while another thread has
    its crew at work: whoever comes then does what he has to do by himself.
    """
    if work < WORTH or _size() is not None:
        yield
        return
    control = blas_threads()
    before = 1 if control is None else int(control.num_threads)
    if control is None or before < 2 or not _working.acquire(blocking=False):
        yield
        return
    lock = _working
    try:
        control.set_num_threads(1)
        _local.size = before
        yield
    finally:
        _local.size = None
        control.set_num_threads(before)
        lock.release()


def members(work: float) -> int:
    """Return among how many so many flops are to be shared; one within a share.

    Examples
    --------
    >>> members(1000.0)
    1
    """
    if work < WORTH:
        return 1
    size, control = _size(), blas_threads()
    if size is None:
        size = 1 if control is None else int(control.num_threads)
    return max(1, size)


def _size() -> int | None:
    return getattr(_local, "size", None)


def shares(size: int, count: int, step: int = 1) -> list[slice]:
    """Return slices that cut a size into nearly equal parts, none of them empty; long ones at multiples of a step.

    Examples
    --------
    >>> shares(5, 2), shares(1, 2)
    ([slice(0, 2, None), slice(2, 5, None)], [slice(0, 1, None)])
    >>> shares(100, 2, 8)
    [slice(0, 48, None), slice(48, 100, None)]
    """
    count = max(1, min(count, size))
    unit = step if size >= 4 * step * count else 1
    ends = [k * size // (count * unit) * unit for k in range(count)]
    return [slice(a, b) for a, b in pairwise((*ends, size))]


def row_shares(rows: int, count: int) -> list[slice]:
    """Return slices of rows for so many threads, cut where BLAS's kernels end: its innermost loop is over so many rows.

    Of 100 rows, a product of layers takes 48 and 52 in a tenth less time than 50 and 50.

    Examples
    --------
    >>> row_shares(1000, 3)
    [slice(0, 328, None), slice(328, 664, None), slice(664, 1000, None)]
    """
    return shares(rows, count, KERNEL)


def each(
    tasks: Sequence[Callable[[], Result]], count: int, costs: Sequence[float] | None = None
) -> list[Result]:
    """Run tasks in so many threads and return what they return, in their order.

    Parameters
    ----------
    tasks : sequence of callables
        Independent of each other: none writes what another one touches.
    count : int
        From `members`; 1 runs them one after the other.
    costs : sequence of float, optional
        The dearest begin.

    Raises
    ------
    Exception
        What a task raises, the first of them, after all have ended.

    Examples
    --------
    >>> each([lambda: 1, lambda: 2], 2)
    [1, 2]
    """
    if count == 1 or len(tasks) == 1:
        return [task() for task in tasks]
    if _size() is None:
        with crew(inf):
            return _shared(tasks, count, costs)
    return _shared(tasks, count, costs)


def _shared(tasks: Sequence[Callable[[], Result]], count: int, costs: Sequence[float] | None) -> list[Result]:
    if _size() in (None, 1):
        return [task() for task in tasks]
    results: list[Any] = [None] * len(tasks)
    left = deque(range(len(tasks)) if costs is None else sorted(range(len(tasks)), key=lambda k: -costs[k]))
    failed: list[BaseException] = []

    def work() -> None:
        before, _local.size = _size(), 1
        try:
            for k in taken(left):
                results[k] = tasks[k]()
        except BaseException as error:
            failed.append(error)
        finally:
            _local.size = before

    ticket, called = object(), list[_Helper]()
    try:
        for helper in _helpers(count - 1):
            # A context of its own for each: NumPy's handling of overflow is in it.
            helper.todo.put((ticket, partial(contextvars.copy_context().run, work)))
            called.append(helper)
        work()
    finally:
        for helper in called:
            _await(helper, ticket, failed)
    if failed:
        raise failed[0]
    return results


def walk(size: int, visit: Callable[[slice], float], block: int) -> float:
    """Visit a vector of some length block by block, in threads where it is long; return the sum of what visits return.

    Examples
    --------
    >>> walk(5, lambda part: float(part.stop - part.start), 2)
    5.0
    """

    def stretch(part: slice) -> float:
        stops = (*range(part.start, part.stop, block), part.stop)
        return sum(visit(slice(a, b)) for a, b in pairwise(stops))

    count = members(PASS * size)
    return sum(each([partial(stretch, part) for part in shares(size, count)], count))


def taken(left: deque[Item]) -> Iterator[Item]:
    """Take one after another from what several threads take from, until nothing is left.

    Examples
    --------
    >>> left = deque("abc")
    >>> next(taken(left)), list(taken(left))
    ('a', ['b', 'c'])
    """
    while True:
        try:
            item = left.popleft()
        except IndexError:
            return
        yield item


class _Helper:
    """A thread that waits for work: two queues, which cost a handover half of what a future does."""

    def __init__(self) -> None:
        self.todo: SimpleQueue[tuple[object, Callable[[], None]]] = SimpleQueue()
        self.done: SimpleQueue[None] = SimpleQueue()
        self.last: object = None  # of the jobs, by its ticket
        threading.Thread(target=self._serve, name="linnat", daemon=True).start()

    def _serve(self) -> None:
        while True:
            ticket, job = self.todo.get()
            job()
            del job  # nor does a thread that waits hold on to anybody's arrays
            self.last = ticket
            self.done.put(None)


def _await(helper: _Helper, ticket: object, failed: list[BaseException]) -> None:
    """Wait for a helper, come what may: until it has ended it works on arrays of ours."""
    while True:
        try:
            # Looked at every time: an interrupt may come after a word has been taken from the queue.
            while helper.last is not ticket:
                helper.done.get()
            return
        except KeyboardInterrupt as error:
            failed.append(error)


@cache
def _helpers(count: int) -> tuple[_Helper, ...]:
    return tuple(_Helper() for _ in range(count))


def _forget() -> None:
    """In a forked child there are no threads, and whoever held the lock is not there to give it back."""
    global _working, _local
    _helpers.cache_clear()
    _working, _local = threading.Lock(), threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
