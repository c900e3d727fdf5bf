"""What do all preconditioners promise?"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from linnat._checks import Array
from linnat.nonlinear.network import Network
from linnat.nonlinear.passes import Workspace
from linnat.nonlinear.statistics import Statistics

State = TypeVar("State")


class Info(NamedTuple):
    """What an update did.

    Attributes
    ----------
    refreshed : bool
        Whether inverses or eigenbases were recomputed.
    ranks : tuple of pairs of int, or ()
        Numerical ranks of the two factors of each layer, where they were computed.
    """

    refreshed: bool
    ranks: tuple[tuple[int, int], ...] = ()


class Preconditioner(Protocol[State]):
    """The contract; see the package."""

    def init(self, net: Network, dtype: Any = ...) -> State:
        """Return the state before the first minibatch."""
        ...

    def update(self, state: State, statistics: Statistics) -> tuple[State, Info]:
        """Return the state after a minibatch."""
        ...

    def apply(self, state: State, gradient: Array, *, out: Array | None = None) -> Array:
        """Return the preconditioned gradient (P,), in `out` if that is given."""
        ...


@runtime_checkable
class Adjustable(Preconditioner[State], Protocol[State]):
    """A preconditioner whose damping can be changed between updates, by `dataclasses.replace`."""

    @property
    def damping(self) -> float:
        """λ."""
        ...

    def refreshed(self, state: State) -> State:
        """Return the state with all that depends on the damping made of the present averages; that given stays."""
        ...


@runtime_checkable
class Rowwise(Preconditioner[State], Protocol[State]):
    """A preconditioner that can work on what a gradient is made of, which costs less where rows are few."""

    def cost_by_rows(self, net: Network, rows: int) -> float:
        """Return about how much of the work of `apply` it takes."""
        ...

    def apply_to_rows(self, state: State, work: Workspace, *, out: Array) -> Array:
        """Write what `apply` makes of `pullback(net, work)`; the workspace is left as it is."""
        ...
