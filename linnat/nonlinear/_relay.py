"""How do threads share a gradient? Whoever is back with his rows begins with the layers that nobody waits for.

Processors are not equally fast: on a busy or a virtual machine one is a quarter behind. Rows are cut evenly all the
same, since a product with fewer rows costs more for each of them; but the gradient of a layer can be made as soon as
all shares have its errors, while the slower ones are still on their way back through the layers below. So nobody
waits, and a step is handed over once. What a piece of the gradient holds does not depend on who makes it, nor when.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import numpy as np

from linnat._checks import Array
from linnat.nonlinear._crew import each, members, row_shares, taken
from linnat.nonlinear._pieces import Sum, Visit, make_piece, pieces, visit_piece
from linnat.nonlinear.network import Network
from linnat.nonlinear.passes import Workspace

PATIENCE = 0.05  # seconds, after which one looks again: whoever should ring may have been interrupted
Found = TypeVar("Found")
Back = Callable[[slice, Callable[[int], None]], Found]


def relay(
    net: Network,
    work: Workspace,
    back: Back[Found],
    fine: Callable[[list[Found]], bool],
    out: Array | None = None,
    visit: Visit | Sum | None = None,
    *,
    with_square: bool = True,
) -> tuple[list[Found], bool, float, float]:
    """Bring the rows back and make the gradient.

    Parameters
    ----------
    net : Network
    work : Workspace
    back : callable(rows, told)
        Fills signals and errors of some rows of the workspace, and calls `told(i)` when the errors of layer i are
        there, 0 … L − 1. Threads call it.
    fine : callable(found)
        Given what `back` returned, share by share: whether the gradient shall be made and visited. Asked once.
    out : array (P,), optional
        Where to write the gradient; None keeps it nowhere.
    visit : callable(part, piece) or Sum, optional
        As for `_pieces.pulled_back`. None is visited, and nothing added, before `fine` has agreed.
    with_square : bool
        The square costs one more pass over the gradient; without it NaN is returned in its place.

    Returns
    -------
    found : list
        What `back` returned.
    agreed : bool
        What `fine` returned; without, there is neither gradient nor square, and nothing was visited.
    square : float
        Sum of the gradient's squares.
    visited : float
        Sum of what the visits return.
    """
    run = _Relay(net, work, back, fine, out, visit, with_square)
    each([run.member] * run.count, run.count)
    square = sum(run.squares) if run.agreed and with_square else np.nan
    return run.found, bool(run.agreed), square, sum(run.visited)


class _Relay(Generic[Found]):
    """What has been done, and what may be begun; bells are rung for whoever waits for it."""

    def __init__(
        self,
        net: Network,
        work: Workspace,
        back: Back[Found],
        fine: Callable[[list[Found]], bool],
        out: Array | None,
        visit: Visit | Sum | None,
        with_square: bool,
    ) -> None:
        self.count = members(6.0 * work.rows * net.n_parameters)
        self._parts, self._pieces = row_shares(work.rows, self.count), pieces(net.shapes, self.count)
        self.found: list[Any] = [None] * len(self._parts)
        self.squares, self.visited = [0.0] * len(self._pieces), [0.0] * len(self._pieces)
        self.agreed: bool | None = None  # until all rows are back
        self._work, self._back, self._fine = work, back, fine
        self._out, self._with_square = out, with_square
        # A sum is added to by the product itself, unless somebody asks for the gradient as well.
        self._sum = (
            visit if isinstance(visit, Sum) and not with_square and visit.takes_products(work) else None
        )
        self._visit = visit.add if isinstance(visit, Sum) else visit
        # Where pieces lie that are not to be visited yet; alone, one has all rows back before the first piece.
        self._early = work.gradient if out is None and self.count > 1 else out
        self._failed = False
        self._lock, self._bells = threading.Lock(), deque[SimpleQueue[None]]()
        self._shares, self._under_way = deque(range(len(self._parts))), len(self._parts)
        self._missing = [len(self._parts)] * net.depth
        self._left = deque(range(len(self._pieces)))
        self._kept: deque[tuple[int, Array]] = deque()

    def member(self) -> None:
        """Bring shares of the rows back; then make pieces, from above; then use those that were made too early."""
        try:
            for k in taken(self._shares):
                self._rows(k)
            for k in taken(self._left):
                if not self._wait_for(self._pieces[k].layer):
                    return
                self._piece(k)
            if self._wait_for(None):
                for k, flat in taken(self._kept):
                    self._use(k, flat)
        except BaseException:
            self._failed = True
            self._ring()
            raise

    def _rows(self, k: int) -> None:
        if self._failed:
            return
        self.found[k] = self._back(self._parts[k], self._told)
        with self._lock:
            self._under_way -= 1
            last = self._under_way == 0
        if last:
            self.agreed = bool(self._fine(self.found))
            self._ring()

    def _told(self, layer: int) -> None:
        with self._lock:
            self._missing[layer] -= 1
        if self._missing[layer] == 0:
            self._ring()

    def _answer(self, layer: int | None) -> bool | None:
        """Return whether to go on with a layer's errors, or with all of them; None while that is open."""
        if self._failed or self.agreed is not None:
            return not self._failed and self.agreed
        return True if layer is not None and self._missing[layer] == 0 else None

    def _wait_for(self, layer: int | None) -> bool:
        """Wait for the errors of a layer, or of all; return False where nothing is to be done with them."""
        while (answer := self._answer(layer)) is None:
            # Queues are C: no interrupt comes between their lock and its release, as it may in a condition.
            bell: SimpleQueue[None] = SimpleQueue()
            self._bells.append(bell)
            if self._answer(layer) is None:  # and not: since before the bell hung
                with suppress(Empty):
                    bell.get(timeout=PATIENCE)
        return answer

    def _ring(self) -> None:
        for bell in taken(self._bells):
            bell.put(None)

    def _piece(self, k: int) -> None:
        """Make a piece, and use it if that is agreed."""
        piece, agreed = self._pieces[k], self.agreed
        with np.errstate(over="ignore", invalid="ignore"):
            if self._sum is not None:
                flat = self._sum.add_piece(self._work, piece, None if agreed else self._early)
            else:
                flat = make_piece(self._work, piece, self._out if agreed else self._early)
            if self._with_square:
                self.squares[k] = float(np.vdot(flat, flat))
        if agreed:
            self._use(k, flat)
        else:
            self._kept.append((k, flat))

    def _use(self, k: int, flat: Array) -> None:
        if self._sum is not None:
            self.visited[k] = self._sum.settle(self._pieces[k], flat)
        elif self._visit is not None:
            self.visited[k] = visit_piece(self._pieces[k], flat, self._visit)
