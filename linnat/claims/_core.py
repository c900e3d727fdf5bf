"""What is a claim, and what is said about it? The dataclasses that checks, runner and report share.

A check measures: it returns `Measure`s, pairs of an error and the bound that it must keep. The bound is
constant × eps × size × condition^p, computed from the instance (`bound`); nothing else decides a verdict.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from linnat._checks import Array, RngLike, as_rng
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task

# The statements of this release, in the order of the theory.
ORDER = (
    *("G1", "F1", "F2", "N1", "N2", "N3", "N4", "N5", "N6", "N7", "N8", "S1", "X1", "X9", "X10"),
    *("C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9", "C10", "X2", "X3", "X4", "X6", "X7", "X8"),
    *("D1", "D2", "D3", "X5"),
    *("O0", "O1", "O2", "O3", "O4", "O5"),
)

Verdict = Literal["holds", "fails", "undecided", "not applicable", "skipped", "caught", "missed"]

# One constant for every identity that is exact up to rounding.
CONSTANT = 30.0
# A check whose bound is larger than this could not fail by much: it decides nothing, and says so.
DECISIVE = 0.1


class Case(NamedTuple):
    """One instance on which a claim is checked.

    Attributes
    ----------
    net, task : LinearNetwork, Task
    rng : Generator
        For directions, samples and steps; seeded per claim and problem.
    samples : (x, y) or None
        The data rows behind the task, where there are any.
    """

    net: LinearNetwork
    task: Task
    rng: np.random.Generator
    samples: tuple[Array, Array] | None = None


class Measure(NamedTuple):
    """An error and the bound that it must keep.

    Attributes
    ----------
    quantity : str
        What was compared, in words.
    error, bound : float
        Both relative to the scale of the quantity, unless the words say otherwise.
    kind : "rounding" or "stated"
        What the bound is made of: rounding, or what the statement itself says (an integer, a number of standard
        errors, the next order of an expansion). Only a bound on rounding can be too large to decide anything.
    """

    quantity: str
    error: float
    bound: float
    kind: Literal["rounding", "stated"] = "rounding"

    @property
    def ratio(self) -> float:
        """Error over bound; infinite where the error is not a number."""
        if not math.isfinite(self.error):
            return math.inf
        return self.error / self.bound if self.bound > 0 else math.inf

    @property
    def decisive(self) -> bool:
        """Whether an error that kept the bound could not have been of order one."""
        return self.kind != "rounding" or self.bound <= DECISIVE


Measures: TypeAlias = list[Measure]


@dataclass(frozen=True)
class Claim:
    """A statement, how it is checked, and an input on which the same check must fail.

    Attributes
    ----------
    identifier, title : str
        Such as "N2" and "Staircase natural gradient".
    statement, latex : str
        One line in words, and the formula.
    source, conditions : str
        Where it comes from; when it holds.
    function : str
        The public name that computes it.
    oracle : str
        The other route.
    reason : str
        Where the bound comes from, with the power p of the condition.
    check : callable(Case) -> list of Measure
    applicable : callable(net, task) -> None or str
        The condition that is not met, in words.
    counterexample : callable(Generator) -> list of Measure
        The same check on an input outside of the conditions; at least one measure must exceed its bound.
    broken : str
        What the counter-example is, in words.
    about_networks : bool
        False where the statement is about an ensemble or scalars and not about one network.
    """

    identifier: str
    title: str
    statement: str
    latex: str
    source: str
    conditions: str
    function: str
    oracle: str
    reason: str
    check: Callable[[Case], Measures] = field(repr=False)
    applicable: Callable[[LinearNetwork, Task], str | None] = field(repr=False)
    counterexample: Callable[[np.random.Generator], Measures] = field(repr=False)
    broken: str
    about_networks: bool = True

    def run(self, net: LinearNetwork, task: Task, rng: RngLike = 0) -> Measures:
        """Check the claim on one network.

        Examples
        --------
        >>> import linnat.claims as claims
        >>> from linnat.exact.task import Task
        >>> net = LinearNetwork.random((3, 2), rng=0)
        >>> gradient = claims.registry()[0]
        >>> all(m.ratio <= 1 for m in gradient.run(net, Task(np.ones((2, 3)))))
        True
        """
        return self.check(Case(net, task, as_rng(rng)))


@dataclass(frozen=True)
class Row:
    """The outcome of one claim on one problem.

    Attributes
    ----------
    identifier, problem, rung : str
        The claim, the problem's name, the rung of the ladder ("digits", "yours" for data; "counter-example").
    verdict : str
        "holds", "fails", "undecided" (the bound leaves no digit, or a rank is undetermined), "not applicable",
        "skipped"; of a counter-example "caught" or "missed".
    quantity : str
        The measure closest to its bound.
    error, bound : float
        NaN where nothing was measured.
    seconds : float
    note : str
        The unmet condition, what went wrong, or why nothing was decided.
    """

    identifier: str
    problem: str
    rung: str
    verdict: Verdict
    quantity: str = ""
    error: float = math.nan
    bound: float = math.nan
    seconds: float = 0.0
    note: str = ""

    @property
    def ratio(self) -> float:
        """Error over bound."""
        if math.isnan(self.bound):
            return math.nan
        return Measure(self.quantity, self.error, self.bound).ratio


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes
    ----------
    claims : tuple of Claim
    rows : tuple of Row
        One for each claim and problem.
    counterexamples : tuple of Row
        One for each claim: "caught" where the check failed, as it must.
    notes : tuple of str
        Ranks and cut-offs of real data, and what was skipped.
    seed : int or None
    seconds : float
    """

    claims: tuple[Claim, ...]
    rows: tuple[Row, ...]
    counterexamples: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    seed: int | None = None
    seconds: float = 0.0

    @property
    def failures(self) -> tuple[Row, ...]:
        """The rows that fail, and the counter-examples that were missed."""
        wrong = [row for row in self.rows if row.verdict == "fails"]
        blind = [row for row in self.counterexamples if row.verdict == "missed"]
        return (*wrong, *blind)

    @property
    def passed(self) -> bool:
        """Whether no claim failed and every counter-example was caught."""
        return not self.failures

    def of(self, identifier: str) -> tuple[Row, ...]:
        """Return the rows of one claim."""
        return tuple(row for row in self.rows if row.identifier == identifier)

    def to_json(self) -> str:
        """Return everything as JSON; numbers that are not finite become null or the text "infinity"."""
        document: dict[str, Any] = {
            "passed": self.passed,
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
            "claims": [_describe(claim) for claim in self.claims],
            "rows": [_plain_row(row) for row in self.rows],
            "counterexamples": [_plain_row(row) for row in self.counterexamples],
        }
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        from linnat.claims.report import render

        return render(self)


def bound(case: Case, condition: float = 1.0, *, power: float = 1.0, size: float | None = None) -> float:
    """Return constant × eps × size × condition^p for the instance; size is Σ_i max(n_i, n_{i-1}) unless given."""
    eps = float(np.finfo(case.net.dtype).eps)
    widths = case.net.widths
    extent = sum(max(m, n) + 1 for m, n in itertools.pairwise(widths)) if size is None else size
    return CONSTANT * eps * extent * float(max(condition, 1.0) ** power)


def relative(value: Array | float, truth: Array | float, scale: float = 0.0) -> float:
    """Return ‖value − truth‖ / max(‖truth‖, scale) in the Frobenius norm, 0 where both vanish."""
    difference = float(np.linalg.norm(np.asarray(value) - np.asarray(truth)))
    size = max(float(np.linalg.norm(np.asarray(truth))), scale)
    if difference == 0.0:
        return 0.0
    return difference / size if size > 0 else math.inf


def worst(measures: Sequence[Measure]) -> Measure:
    """Return the measure furthest beyond its bound; where all keep it, the rounding error closest to its own."""
    return max(measures, key=lambda m: (m.ratio > 1, m.decisive, m.kind == "rounding", m.ratio))


def _describe(claim: Claim) -> dict[str, Any]:
    words = (
        "identifier",
        "title",
        "statement",
        "latex",
        "source",
        "conditions",
        "function",
        "oracle",
        "reason",
        "broken",
    )
    return {word: getattr(claim, word) for word in words}


def _plain_row(row: Row) -> dict[str, Any]:
    content = asdict(row) | {"ratio": row.ratio}
    for key in ("error", "bound", "ratio"):
        if math.isnan(content[key]):
            content[key] = None
        elif math.isinf(content[key]):
            content[key] = "infinity"
    return content
