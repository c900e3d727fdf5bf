"""How do threads share a gradient? Whoever is back with his rows begins with the layers that nobody waits for.

Processors are not equally fast: on a busy or a virtual machine one is a quarter behind. Rows are cut evenly all the
same, since a product with fewer rows costs more for each of them; but the gradient of a layer can be made as soon as
all shares have its errors, while the slower ones are still on their way back through the layers below. So nobody
waits, and a step is handed over once. What a piece of the gradient holds does not depend on who makes it, nor when.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from linnat._checks import Array
from linnat.nonlinear._crew import each, members, shares
from linnat.nonlinear.network import Network
from linnat.nonlinear.passes import Visit, Workspace, make_piece, pieces, visit_piece

Back = Callable[[slice, Callable[[int], None]], Any]


def relay(
    net: Network,
    work: Workspace,
    back: Back,
    fine: Callable[[list[Any]], bool],
    out: Array | None = None,
    visit: Visit | None = None,
    *,
    with_square: bool = True,
) -> tuple[list[Any], bool, float, float]:
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
    visit : callable(part, piece), optional
        As for `passes.pulled_back`. None is visited before `fine` has agreed.
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
    # Taken in this order: who waits for rows knows that somebody has them.
    rows: list[Callable[[], None]] = [partial(run.rows, k, part) for k, part in enumerate(run.parts)]
    tasks = [*rows, *[run.piece] * len(run.pieces), *[run.rest] * run.count]
    each(tasks, run.count)
    square = sum(run.squares) if run.agreed and with_square else np.nan
    return run.found, bool(run.agreed), square, sum(run.visited)


class _Relay:
    """What has been done, and what may be begun; guarded by a bell that tells whoever waits."""

    def __init__(
        self,
        net: Network,
        work: Workspace,
        back: Back,
        fine: Callable[[list[Any]], bool],
        out: Array | None,
        visit: Visit | None,
        with_square: bool,
    ) -> None:
        self.count = members(6.0 * work.rows * net.n_parameters)
        self.parts, self.pieces = shares(work.rows, self.count), pieces(net.shapes, self.count)
        self.found: list[Any] = [None] * len(self.parts)
        self.squares, self.visited = [0.0] * len(self.pieces), [0.0] * len(self.pieces)
        self.agreed: bool | None = None  # until all rows are back
        self._work, self._back, self._fine = work, back, fine
        self._out, self._visit, self._with_square = out, visit, with_square
        # Where pieces lie that are not to be visited yet; alone, one has all rows back before the first piece.
        self._early = work.gradient if out is None and self.count > 1 else out
        self._bell = threading.Condition()
        self._failed = False
        self._under_way, self._missing = len(self.parts), [len(self.parts)] * net.depth
        self._left = sorted(range(len(self.pieces)), key=lambda k: -self.pieces[k].layer)
        self._kept: list[tuple[int, Array]] = []

    @property
    def _over(self) -> bool:
        return self._failed or self.agreed is False

    def rows(self, k: int, part: slice) -> None:
        """Bring a share of the rows back; the last one asks whether all is fine."""
        try:
            self.found[k] = self._back(part, self._told)
            with self._bell:
                self._under_way -= 1
                last = self._under_way == 0
            if last:
                agreed = self._fine(self.found)
                with self._bell:
                    self.agreed = agreed
                    self._bell.notify_all()
        except BaseException:
            with self._bell:
                self._failed = True
                self._bell.notify_all()
            raise

    def _told(self, layer: int) -> None:
        with self._bell:
            self._missing[layer] -= 1
            if self._missing[layer] == 0:
                self._bell.notify_all()

    def piece(self) -> None:
        """Make a piece: the next from above while rows are under way, then the largest that is left."""
        with self._bell:
            if self._over:
                return
            k = max(self._left, key=lambda k: self.pieces[k].size) if self.agreed else self._left[0]
            self._left.remove(k)
            self._bell.wait_for(lambda: self._over or self._missing[self.pieces[k].layer] == 0)
            if self._over:
                return
            out = self._out if self.agreed else self._early
        with np.errstate(over="ignore", invalid="ignore"):
            flat = make_piece(self._work, self.pieces[k], out)
            if self._with_square:
                self.squares[k] = float(np.vdot(flat, flat))
        with self._bell:
            if self.agreed is None:
                self._kept.append((k, flat))
            if not self.agreed:
                return
        self._use(k, flat)

    def rest(self) -> None:
        """Visit what was made before all rows were back."""
        with self._bell:
            self._bell.wait_for(lambda: self._over or self.agreed is not None)
        while True:
            with self._bell:
                if self._over or not self._kept:
                    return
                k, flat = self._kept.pop()
            self._use(k, flat)

    def _use(self, k: int, flat: Array) -> None:
        if self._visit is not None:
            self.visited[k] = visit_piece(self.pieces[k], flat, self._visit)
