"""How is a report read? A table grouped by statement, as wide as there is room, in colour where that is wanted."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from linnat.claims._core import Claim, Report, Row

MARKS = {"holds": "✓", "fails": "✗", "undecided": "?", "not applicable": "–", "skipped": "–"}
COLOURS = {"holds": "32", "fails": "1;31", "undecided": "33", "not applicable": "2", "skipped": "33"}
BOLD, DIM, GREEN, RED = "1", "2", "32", "1;31"
NARROW, WIDE = 72, 120


class Style(NamedTuple):
    """How to print.

    Attributes
    ----------
    width : int
        Columns.
    colour : bool
    verbose : bool
        One line per problem below each statement.
    """

    width: int = 100
    colour: bool = False
    verbose: bool = False

    def paint(self, text: str, code: str) -> str:
        """Return the text in colour, or as it is."""
        return f"\033[{code}m{text}\033[0m" if self.colour and text else text


def render(report: Report, style: Style | None = None) -> str:
    """Return the report as text.

    Parameters
    ----------
    report : Report
    style : Style, optional
        100 columns, plain, by default.

    Returns
    -------
    str
        One block per statement, then what failed, notes, and a line that sums up.
    """
    look = Style() if style is None else style
    look = look._replace(width=max(40, min(look.width, WIDE)))
    blocks = [_header(look), look.paint("─" * look.width, DIM)]
    for claim in report.claims:
        blocks += _block(report, claim, look)
    blocks.append(look.paint("─" * look.width, DIM))
    blocks += _failures(report, look)
    blocks += [line for note in report.notes for line in wrap(note, look.width, "  ")]
    blocks += _summary(report, look)
    return "\n".join(line.rstrip() for line in blocks)


def summary_of(rows: Iterable[Row]) -> str:
    """Return the verdict of a statement over its problems: the gravest one that says something."""
    found = {row.verdict for row in rows}
    for verdict in ("fails", "holds", "undecided", "skipped"):
        if verdict in found:
            return verdict
    return "not applicable"


def headline(rows: Sequence[Row]) -> Row | None:
    """Return the row to show for a statement: a failure, else the one closest to its bound."""
    measured = [row for row in rows if row.verdict in ("holds", "fails") and not math.isnan(row.bound)]
    return max(measured, key=lambda row: (row.verdict == "fails", row.ratio), default=None)


def cells(text: str) -> int:
    """Return how many columns a text takes: combining marks take none."""
    return sum(not unicodedata.combining(letter) for letter in text)


def pad(text: str, width: int, right: bool = False) -> str:
    """Pad or shorten a text to a number of columns."""
    while cells(text) > width:
        text = text[:-2].rstrip() + "…"
    space = " " * (width - cells(text))
    return space + text if right else text + space


def wrap(text: str, width: int, indent: str = "", hanging: str | None = None) -> list[str]:
    """Break a text into lines of at most `width` columns, without splitting words."""
    later = indent if hanging is None else hanging
    lines, current = [], indent
    for word in text.split():
        joined = current + (" " if current.strip() else "") + word
        if cells(joined) > width and current.strip():
            lines.append(current)
            joined = later + word
        current = joined
    return [*lines, current] if current.strip() else lines


def number(value: float) -> str:
    """Return a short number: 3e-15, 0.02, 12, 8e6."""
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞"
    if value == 0 or 0.095 <= value < 1000:
        return f"{value:.2g}" if value < 100 else f"{value:.0f}"
    digits, power = f"{value:.0e}".split("e")
    return f"{digits}e{int(power)}"


def _title_width(look: Style) -> int:
    return look.width - (36 if look.width < NARROW else 58)


def _header(look: Style) -> str:
    cols = ["    ", pad("statement", 4 + _title_width(look))]
    if look.width >= NARROW:
        cols.append(pad("problems", 10, right=True))
    cols += [pad(name, 7, right=True) for name in ("error", "bound", "ratio")]
    if look.width >= NARROW:
        cols.append(pad("counter-ex.", 12, right=True))
    return look.paint(" ".join(["  ", *cols[1:]]), BOLD)


def _block(report: Report, claim: Claim, look: Style) -> list[str]:
    rows = report.of(claim.identifier)
    verdict, key = summary_of(rows), headline(rows)
    mark = look.paint(MARKS[verdict], COLOURS[verdict])
    name = look.paint(pad(claim.identifier, 4), BOLD)
    line = [
        mark,
        name + look.paint(pad(claim.title, _title_width(look)), BOLD if verdict == "fails" else "0"),
    ]
    if look.width >= NARROW:
        line.append(pad(_counts(rows), 10, right=True))
    values = (key.error, key.bound, key.ratio) if key is not None else (math.nan,) * 3
    line += [pad(number(value), 7, right=True) for value in values]
    if look.width >= NARROW:
        line.append(_caught(report, claim.identifier, look))
    lines = [" " + " ".join(line)]
    lines += [look.paint(text, DIM) for text in _details(claim, rows, key, verdict, look)]
    if look.verbose:
        lines += [_row_line(row, look) for row in rows]
    return lines


def _counts(rows: Sequence[Row]) -> str:
    held = sum(row.verdict == "holds" for row in rows)
    tried = sum(row.verdict in ("holds", "fails", "undecided") for row in rows)
    if not tried:
        return ""
    return str(held) if held == tried else f"{held} of {tried}"


def _caught(report: Report, identifier: str, look: Style) -> str:
    row = next((r for r in report.counterexamples if r.identifier == identifier), None)
    if row is None:
        return ""
    caught = row.verdict == "caught"
    text = f"fails {number(row.ratio)}×" if caught else "MISSED"
    return look.paint(pad(text, 12, right=True), GREEN if caught else RED)


def _details(claim: Claim, rows: Sequence[Row], key: Row | None, verdict: str, look: Style) -> list[str]:
    indent = " " * 7
    if verdict in ("not applicable", "skipped", "undecided"):
        note = next((row.note for row in rows if row.verdict == verdict), "")
        return wrap(f"{verdict}: {note}" if note else verdict, look.width, indent)
    against = f"against {claim.oracle}"
    if not look.verbose:
        return [indent + pad(against, look.width - len(indent))]
    lines = wrap(claim.statement, look.width, indent)
    lines += wrap(against, look.width, indent)
    lines += wrap(f"bound: {claim.reason}", look.width, indent)
    if key is not None:
        place = key.problem if key.rung == "yours" else f"{key.rung} {key.problem}"
        lines += wrap(f"at worst: {key.quantity} ({place})", look.width, indent)
    return [*lines, *wrap(f"counter-example: {claim.broken}", look.width, indent)]


def _row_line(row: Row, look: Style) -> str:
    mark = look.paint(MARKS[row.verdict], COLOURS[row.verdict])
    place = pad(f"{row.rung} {row.problem}", min(40, look.width // 3))
    if math.isnan(row.bound):
        note = pad(f"{row.verdict}: {row.note}", look.width - cells(place) - 10)
        return f"      {mark} {look.paint(place + ' ' + note, DIM)}"
    room = look.width - cells(place) - 27
    values = " ".join(pad(number(value), 7, right=True) for value in (row.error, row.bound))
    quantity = f"{pad(row.quantity, room)} " if room >= 8 else ""
    return f"      {mark} {place} {quantity}{values}"


def _failures(report: Report, look: Style) -> list[str]:
    lines: list[str] = []
    for row in report.failures:
        if row.rung == "counter-example":
            text = f"✗ {row.identifier}: counter-example missed ({row.problem}): {row.note}"
        else:
            text = f"✗ {row.identifier} on {row.rung} {row.problem}: {row.note}"
        lines += [look.paint(line, RED) for line in wrap(text, look.width, " ", "   ")]
    return lines


def _summary(report: Report, look: Style) -> list[str]:
    verdicts = Counter(summary_of(report.of(claim.identifier)) for claim in report.claims)
    checks = Counter(row.verdict for row in report.rows)
    caught = sum(row.verdict == "caught" for row in report.counterexamples)
    words = {
        "holds": "hold",
        "fails": "FAIL",
        "undecided": "undecided",
        "not applicable": "not applicable",
        "skipped": "skipped",
    }
    parts = [f"{verdicts[v]} {words[v]}" for v in words if verdicts[v]]
    tried = checks["holds"] + checks["fails"] + checks["undecided"]
    open_ones = f", {checks['undecided']} undecided: no digit left" if checks["undecided"] else ""
    count = len(report.claims)
    seed = "" if report.seed is None else f", seed {report.seed}"
    text = (
        f"{count} statement{'s' if count != 1 else ''}: {', '.join(parts)} ({tried} checks{open_ones}); "
        f"{caught} of {len(report.counterexamples)} counter-examples caught; {report.seconds:.1f} s{seed}"
    )
    code = GREEN if report.passed else RED
    return [look.paint(line, code) for line in wrap(text, look.width, " ")]
