"""How are the moments of data on many machines found? The same roots, joined in a tree that Dask runs.

Each block of rows becomes its root where it lies, eight roots become one by a QR (statement X9), and the root of all
rows travels to the caller: what moves is p² numbers for each block, p = 1 + n_0 + n_L. The tree is fixed by the blocks,
so that the result has the same bits however many workers there are and whichever of them die.

Dask is imported only when a function of this module is called.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np

from linnat._checks import InputError, as_scalar, fail
from linnat.exact.streaming import Progress, Rows, as_chunk, finish, reporter, root_of_chunk
from linnat.linalg.tsqr import Part, join

Compute: TypeAlias = Callable[[Any, Sequence[Any], Callable[[Any], None]], Any]

FAN_IN = 8
POLL = 0.2  # seconds between two looks at how far the blocks are
ON_THIS_MACHINE = ("threads", "synchronous", "processes")


class SchedulerError(InputError, ConnectionError):
    """A Dask scheduler does not answer, has no workers, or was lost."""


def fold_dask(
    x: Any,
    y: Any,
    outputs: int | None = None,
    *,
    scheduler: Any = None,
    timeout: float = 10.0,
    progress: Progress | bool | None = None,
) -> Rows:
    """Return what one pass leaves of Dask arrays; see `Task.from_dask`.

    Parameters
    ----------
    x, y : dask.array.Array (N, n_0), (N, n_L)
    outputs : int, optional
        n_L, where it is known beforehand.
    scheduler, timeout, progress
        See `Task.from_dask`.

    Returns
    -------
    Rows
    """
    dask = need("dask")
    patience = as_scalar(timeout, "timeout", low=0.0, open_low=True)
    report = reporter(progress)
    pairs, sizes = _blocks(x, y)
    if outputs is not None and y.shape[1] != outputs:
        fail("y", f"{outputs} columns, as noise_cov says", f"{y.shape[1]}")
    leaf, node = dask.delayed(_leaf, pure=False), dask.delayed(_node, pure=False)
    leaves = roots = [leaf(k, *pair) for k, pair in enumerate(pairs)]
    waiting = {root.key: size for root, size in zip(leaves, sizes, strict=True)}

    def finished(key: Any) -> None:
        if waiting.pop(key, None) is not None:
            rows = sum(size for size in sizes) - sum(waiting.values())
            report(len(leaves) - len(waiting), len(leaves), 0 if math.isnan(rows) else int(rows))

    while len(roots) > 1:
        roots = [node(roots[i : i + FAN_IN]) for i in range(0, len(roots), FAN_IN)]
    try:
        with _runner(scheduler, patience) as compute:
            whole = compute(roots[0], leaves, finished)
            for key in list(waiting):
                finished(key)
    finally:
        report(-1, len(leaves), 0)
    if not whole.rows:
        fail("x", "at least one row", "empty blocks")
    return finish([whole], int(x.shape[1]), y is x)


def need(name: str) -> Any:
    """Import a module of the extra `distributed`, or say how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        found = f"no module {name}"
        fail("from_dask", "the packages dask and distributed", found, "Install linnat[distributed].")


def _leaf(k: int, x: Any, y: Any = None) -> Part:
    """Return the root of block k; without y, that of a block that is its own target."""
    if len(x) == 0 and (y is None or len(y) == 0):  # a filter has left nothing
        return Part(np.zeros((0, 1 + x.shape[1] + (0 if y is None else y.shape[1]))), 0)
    return root_of_chunk(*as_chunk(k, (x, x if y is None else y)))


def _node(parts: Sequence[Part]) -> Part:
    filled = [part for part in parts if part.rows]
    return join(filled) if filled else parts[0]


def _blocks(x: Any, y: Any) -> tuple[Iterator[tuple[Any, ...]], tuple[float, ...]]:
    """Return the pairs of blocks of rows, or single blocks where y is x, and their lengths (NaN where unknown)."""
    kind = need("dask.array").Array
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, kind):
            fail(name, "a Dask array", type(value).__name__, "For arrays in memory there is Task.from_data.")
        if value.ndim != 2:
            fail(name, "2 dimension(s)", f"shape {value.shape}")
        if 0 in value.shape:
            fail(name, "a non-empty array", f"shape {value.shape}")
    # Equal numbers of rows are known here, or (nan) seen by each leaf.
    known = x.shape[0] == x.shape[0] and y.shape[0] == y.shape[0]
    if known and x.shape[0] != y.shape[0]:
        fail("y", f"{x.shape[0]} rows, one for each of x", f"{y.shape[0]}")
    tall = [value.rechunk({1: -1}) if value.numblocks[1] > 1 else value for value in (x, y)]
    if known and tall[0].chunks[0] != tall[1].chunks[0]:
        tall[1] = tall[1].rechunk({0: tall[0].chunks[0]})
    if tall[0].numblocks[0] != tall[1].numblocks[0]:
        fail("y", f"{tall[0].numblocks[0]} blocks of rows, as in x", f"{tall[1].numblocks[0]}")
    columns = [list(value.to_delayed()[:, 0]) for value in (tall[:1] if y is x else tall)]
    return zip(*columns, strict=True), tall[0].chunks[0]


@contextlib.contextmanager
def _runner(scheduler: Any, timeout: float) -> Iterator[Compute]:
    """Yield a function that computes one delayed value where `scheduler` says; close what was opened for it."""
    if scheduler is None or (isinstance(scheduler, str) and scheduler in ON_THIS_MACHINE):
        yield lambda value, leaves, finished: _compute_here(value, scheduler, finished)
        return
    distributed = need("distributed")
    with contextlib.ExitStack() as opened:
        if isinstance(scheduler, distributed.Client):
            client = scheduler
        elif scheduler == "local":
            local = distributed.LocalCluster(threads_per_worker=1, dashboard_address=":0")
            client = _connect(distributed, opened.enter_context(local), timeout, opened)
        elif isinstance(scheduler, (str, distributed.deploy.Cluster)):
            client = _connect(distributed, scheduler, timeout, opened)
        else:
            kinds = ", ".join(repr(name) for name in (*ON_THIS_MACHINE, "local"))
            expected = f"an address, a Client, a Cluster, or one of {kinds}"
            fail("scheduler", expected, f"{type(scheduler).__name__} {scheduler!r:.80}")
        if client.asynchronous:
            fail("scheduler", "a Client that waits for results", "an asynchronous one")
        yield lambda value, leaves, finished: _compute(client, value, leaves, finished, timeout)


def _connect(distributed: Any, where: Any, timeout: float, opened: contextlib.ExitStack) -> Any:
    """Return a client of a scheduler that answers within `timeout` seconds."""
    import asyncio

    try:
        if isinstance(where, str) and not where.startswith("tls://"):
            # In a thread, since a notebook has an event loop of its own.
            with ThreadPoolExecutor(1) as other:
                other.submit(
                    lambda: asyncio.run(asyncio.wait_for(_knock(distributed, where, timeout), timeout))
                ).result()
        client = distributed.Client(where, timeout=timeout, set_as_default=False)
    except Exception as error:
        # Another server's first bytes are read as lengths: a MemoryError, a struct.error, …
        found = "a server of another kind"
        if isinstance(error, OSError):
            found = f"no answer within {timeout:g} s"
        elif isinstance(error, (ValueError, TypeError, ImportError)):
            found = str(error)
        raise SchedulerError(
            f"scheduler: expected a Dask scheduler at {where}, found {found}. "
            "Start one with `dask scheduler`, or pass scheduler='local'."
        ) from None
    return opened.enter_context(client)


async def _knock(distributed: Any, address: str, timeout: float) -> None:
    """Wait until the scheduler has greeted; a client would wait for ever for a server that says nothing."""
    (await distributed.comm.connect(address, timeout=timeout)).abort()


def _wait(future: Any, blocks: list[Any], finished: Callable[[Any], None]) -> Any:
    """Return the result, and report blocks when they are done; their roots are let go at once."""
    while True:
        try:
            return future.result(timeout=POLL)
        except TimeoutError:
            if future.done():  # since the poll gave up; or what was computed has timed out itself
                return future.result()
        for block in [block for block in blocks if block.done()]:
            if block.status == "finished":
                finished(block.key)
            blocks.remove(block)


def _compute_here(value: Any, scheduler: Any, finished: Callable[[Any], None]) -> Any:
    """Compute in one of Dask's own pools."""
    dask = need("dask")
    with need("dask.callbacks").Callback(posttask=lambda key, *rest: finished(key)):
        return dask.compute(value, scheduler=scheduler)[0]


def _compute(
    client: Any, value: Any, leaves: Sequence[Any], finished: Callable[[Any], None], timeout: float
) -> Any:
    address = client.scheduler.address if client.scheduler is not None else "a closed client"
    try:
        client.wait_for_workers(1, timeout=timeout)
    except (TimeoutError, OSError, ValueError, RuntimeError):
        raise SchedulerError(
            f"scheduler: expected at least one worker at {address}, found none within {timeout:g} s. "
            "Start some with `dask worker`, or give a longer timeout."
        ) from None
    future, *blocks = client.compute([value, *leaves])
    try:
        return _wait(future, blocks, finished)
    except CancelledError:
        raise SchedulerError(
            f"scheduler: expected an answer from {address}, found the connection lost. Run the pass again."
        ) from None
