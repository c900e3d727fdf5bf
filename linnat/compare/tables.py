"""Which numbers does a reader see? The tables of a comparison, as text cells that the terminal and the report share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from linnat.compare.methods import METHODS, Setting
from linnat.compare.progress import duration
from linnat.compare.results import Record, Search
from linnat.compare.summary import Reach, Spread, Summary, best_baseline, reach, summarise


class Table(NamedTuple):
    """Cells in rows; where a cell has two lines, the second one is less important.

    Attributes
    ----------
    head : tuple of str
    rows : tuple of tuples of str
    best : frozenset of (row, column)
        Cells that hold the best of their column.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()


def number(value: float, digits: int = 4) -> str:
    """Return a number as text.

    Examples
    --------
    >>> number(12.34567), number(123456.0), number(float("nan"))
    ('12.35', '123,456', '–')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "never"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def count(value: float) -> str:
    """Return a count, or the median of counts, as text.

    Examples
    --------
    >>> count(1234.5), count(float("inf"))
    ('1,234', 'never')
    """
    return f"{value:,.0f}" if math.isfinite(value) else number(value)


def spread(numbers: Spread, digits: int = 4) -> str:
    """Return the median and, where they differ, the least and the largest.

    Examples
    --------
    >>> spread(Spread(2.0, 1.5, 2.25)), spread(Spread(2.0, 2.0, 2.0))
    ('2 (1.5 … 2.25)', '2')
    """
    middle, low, high = (number(value, digits) for value in numbers)
    return middle if low == high else f"{middle} ({low} … {high})"


def summaries(record: Record) -> list[Summary]:
    """Return one summary for each method, in the order in which they were asked for."""
    return [summarise(name, record.curves) for name in record.plan.optimisers]


def baselines(record: Record) -> list[str]:
    """Return the baselines among the methods."""
    return [name for name in record.plan.optimisers if METHODS[name].baseline]


def ends(record: Record) -> Table:
    """Return the table of final losses, with clock and updates."""
    found = summaries(record)
    head = ("", "training loss", "training squared error", "test loss", "test squared error")
    rows = [
        (
            METHODS[s.method].title,
            *map(spread, (s.train_loss, s.train_squared, s.test_loss, s.test_squared)),
            clock(s.seconds.middle),
            count(s.updates.middle),
            count(s.examples.middle),
            state(record, s),
        )
        for s in found
    ]
    best = set()
    for column, name in enumerate(("train_loss", "train_squared", "test_loss", "test_squared"), start=1):
        middles = [getattr(s, name).middle for s in found]
        known = [m for m in middles if not math.isnan(m)]
        best |= {(k, column) for k, m in enumerate(middles) if known and m == min(known)}
    return Table((*head, "clock", "updates", "rows seen", "runs"), tuple(rows), frozenset(best))


def state(record: Record, summary: Summary) -> str:
    """Return how a method's runs ended, in words."""
    counts = {
        name: sum(c.method == summary.method and c.status == name for c in record.curves)
        for name in ("finished", "diverged", "failed", "missing")
    }
    words = {"finished": "finished", "diverged": "diverged", "failed": "failed", "missing": "not done"}
    return ", ".join(f"{total} {words[name]}" for name, total in counts.items() if total)


def to_target(record: Record, baseline: str) -> Table | None:
    """Return what each method needs to get to a baseline's final training loss; None where that has not finished."""
    end = summarise(baseline, record.curves)
    if not end.finished:
        return None
    target = end.train_loss.middle
    own = full(record, end)
    rows = []
    for name in record.plan.optimisers:
        found = own if name == baseline else reach(name, record.curves, target)
        rows.append(
            (
                METHODS[name].title,
                clock(found.seconds),
                _share(found.seconds, own.seconds),
                count(found.updates),
                _share(found.updates, own.updates),
                f"{found.reached} of {found.runs}",
            )
        )
    return Table(
        ("", "clock", f"of {METHODS[baseline].title}'s", "updates", "of its", "runs that get there"),
        tuple(rows),
    )


def full(record: Record, summary: Summary) -> Reach:
    """Return what a method itself needs to get to its median final loss: the first time, at most its whole budget."""
    first = reach(summary.method, record.curves, summary.train_loss.middle)
    seconds, updates = min(first.seconds, summary.seconds.middle), min(first.updates, summary.updates.middle)
    return first._replace(seconds=seconds, updates=updates)


def clock(seconds: float) -> str:
    """Return seconds on the clock as text.

    Examples
    --------
    >>> clock(0.25), clock(125.0), clock(float("inf"))
    ('0.25 s', '2 min 05 s', 'never')
    """
    if not math.isfinite(seconds):
        return number(seconds)
    return f"{number(seconds, 3)} s" if seconds < 60 else duration(seconds)


def settings(searches: Sequence[Search]) -> Table:
    """Return the settings with which each method runs, and where they come from."""
    rows = []
    for search in searches:
        searched = {k: v for k, v in search.settings.items() if k in METHODS[search.method].space}
        others = {k: v for k, v in search.settings.items() if k not in searched}
        if search.trial is None:
            origin = "not tuned"
        elif all(trial["loss"] is None for trial in search.trials):
            origin = f"defaults: all {len(search.trials)} trials diverged or failed"
        else:
            origin = f"trial {search.trial} of 0 … {len(search.trials) - 1}" + (
                " (the defaults)" if search.trial == 0 else ""
            )
        rows.append((METHODS[search.method].title, _pairs(searched), _pairs(others), origin))
    return Table(("", "searched", "fixed", "chosen"), tuple(rows))


def trials(search: Search) -> Table:
    """Return one method's trials, the best first."""
    ordered = sorted(search.trials, key=lambda t: (t["loss"] is None, t["loss"] or 0.0, t["number"]))
    space = METHODS[search.method].space
    rows = tuple(
        (
            str(trial["number"]),
            number(trial["loss"]) if trial["loss"] is not None else str(trial["status"]),
            _pairs({k: v for k, v in trial["settings"].items() if k in space}),
        )
        for trial in ordered
    )
    return Table(("trial", "validation loss", "settings"), rows)


def headline(record: Record) -> str:
    """Return the result in one or two sentences."""
    found = [s for s in summaries(record) if s.finished]
    if not found:
        return "No run has finished yet."
    first = min(found, key=lambda s: s.train_loss.middle)
    title = METHODS[first.method].title
    text = (
        f"{title[0].upper()}{title[1:]} ends lowest: training loss {spread(first.train_loss)}, "
        f"squared error {spread(first.train_squared)}."
    )
    base = best_baseline(found, baselines(record))
    if base is None or base.method == first.method:
        return text
    own = full(record, base)
    got = reach(first.method, record.curves, base.train_loss.middle)
    name = METHODS[base.method].title
    if math.isinf(got.seconds):
        return text
    return (
        f"{text} It reaches the final loss of {name}, the best baseline, "
        f"in {_share(got.seconds, own.seconds)} of its clock and {_share(got.updates, own.updates)} of its updates."
    )


def render(record: Record) -> str:
    """Return the table of ends and the headline, for the terminal."""
    table = ends(record)
    shown = [0, 1, 2, 3, 5, 6, 8]
    lines = [[row[k] for k in shown] for row in (table.head, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, "", headline(record)])


def _pairs(values: dict[str, Setting]) -> str:
    return ", ".join(f"{k} {number(v, 3) if isinstance(v, float) else v}" for k, v in values.items())


def _share(part: float, whole: float) -> str:
    """Return a quotient as a fraction that a reader can take in."""
    if math.isinf(part) or math.isinf(whole) or whole <= 0:
        return "–"
    quotient = part / whole
    return f"{quotient:.2g}×" if quotient >= 0.1 or quotient == 0 else f"1/{1 / quotient:.0f}"
