"""How do rates, momenta and dampings change over updates? Schedules are data: compared, saved, printed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from linnat._checks import as_count, as_scalar, fail


@dataclass(frozen=True)
class Constant:
    """The same at every update.

    Examples
    --------
    >>> Constant(0.1).at(1000)
    0.1
    """

    value: float

    def __post_init__(self) -> None:
        as_scalar(self.value, "value")

    def at(self, update: int) -> float:
        """Return the value at an update, the first being 0."""
        return self.value


@dataclass(frozen=True)
class Exponential:
    """start · factor^(update/period), not below `floor`.

    Examples
    --------
    >>> Exponential(1.0, 0.5, period=10).at(20)
    0.25
    """

    start: float
    factor: float
    period: int = 1
    floor: float = 0.0

    def __post_init__(self) -> None:
        as_scalar(self.start, "start")
        as_scalar(self.factor, "factor", low=0.0, open_low=True)
        as_count(self.period, "period")
        as_scalar(self.floor, "floor", low=0.0)

    def at(self, update: int) -> float:
        """Return the value at an update, the first being 0."""
        return max(float(self.start * self.factor ** (update / self.period)), self.floor)


@dataclass(frozen=True)
class Hyperbolic:
    """start/(1 + update/halving): the decrease that averages noise away.

    Examples
    --------
    >>> Hyperbolic(1.0, 10).at(10)
    0.5
    """

    start: float
    halving: int

    def __post_init__(self) -> None:
        as_scalar(self.start, "start")
        as_count(self.halving, "halving")

    def at(self, update: int) -> float:
        """Return the value at an update, the first being 0."""
        return self.start / (1.0 + update / self.halving)


@dataclass(frozen=True)
class Steps:
    """values[k] from update boundaries[k − 1] on.

    Examples
    --------
    >>> rates = Steps((0.1, 0.01), (100,))
    >>> rates.at(99), rates.at(100)
    (0.1, 0.01)
    """

    values: tuple[float, ...]
    boundaries: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.boundaries) + 1 or list(self.boundaries) != sorted(
            set(self.boundaries)
        ):
            fail("boundaries", "one increasing number fewer than values", (self.values, self.boundaries))
        for value in self.values:
            as_scalar(value, "values")

    def at(self, update: int) -> float:
        """Return the value at an update, the first being 0."""
        return self.values[sum(update >= boundary for boundary in self.boundaries)]


@dataclass(frozen=True)
class Growing:
    """Momentum min(1 − 2^{−1 − log₂(⌊update/period⌋ + 1)}, largest) of Sutskever et al. (2013).

    With `final`, the last `last` updates of `total` take that value instead.

    Examples
    --------
    >>> [Growing(0.99).at(update) for update in (0, 250, 750)]
    [0.5, 0.75, 0.875]
    """

    largest: float
    period: int = 250
    final: float | None = None
    last: int = 1000
    total: int | None = None

    def __post_init__(self) -> None:
        as_scalar(self.largest, "largest", low=0.0, high=1.0)
        as_count(self.period, "period")
        if (self.final is None) != (self.total is None):
            fail("total", "given if and only if final is", self.total)

    def at(self, update: int) -> float:
        """Return the value at an update, the first being 0."""
        if self.final is not None and self.total is not None and update >= self.total - self.last:
            return self.final
        return min(1.0 - 0.5 / (update // self.period + 1), self.largest)


def as_steps(text: str, name: str) -> Steps:
    """Return a schedule from words: the first value, then updates and the values that hold from them on.

    Parameters
    ----------
    text : str
        "0.99, 1400: 0.995, 2500: 0.998".
    name : str
        Of the argument.

    Raises
    ------
    InputError
        For anything else, or updates that do not increase.

    Examples
    --------
    >>> as_steps("0.99, 1400: 0.995", "momenta")
    Steps(values=(0.99, 0.995), boundaries=(1400,))
    """
    first, *others = text.split(",")
    try:
        pairs = [(int(update), float(value)) for update, value in (part.split(":") for part in others)]
        values, boundaries = (
            (float(first), *(value for _, value in pairs)),
            tuple(update for update, _ in pairs),
        )
    except ValueError:
        fail(name, "'value, update: value, …' such as '0.99, 1400: 0.995'", repr(text))
    if any(a >= b for a, b in pairwise((0, *boundaries))):
        fail(name, "updates that increase", repr(text))
    return Steps(values, boundaries)


Schedule: TypeAlias = Constant | Exponential | Hyperbolic | Steps | Growing


def as_schedule(value: object, name: str) -> Schedule:
    """Return a schedule; a number is a constant one."""
    if isinstance(value, (Constant, Exponential, Hyperbolic, Steps, Growing)):
        return value
    return Constant(as_scalar(value, name))
