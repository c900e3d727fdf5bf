"""How does one see who is faster? Losses against updates and against the clock, median and range over seeds.

Labels stand beside the curves; dashes and markers tell them apart without colour. Runs that diverged are drawn as far
as they went, thin, with a cross at their end. Needs matplotlib (the extra `figures`), and no display.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from linnat._checks import InputError
from linnat.compare.bands import band, line
from linnat.compare.methods import METHODS
from linnat.compare.results import Record
from linnat.compare.summary import Curve

# Dark enough for lines and text on white; the report has lighter ones for dark pages.
LIGHT = ("#0072B2", "#B94F00", "#00785A", "#9B4F86", "#8A6200", "#3D3D3D", "#C0304A")
DARK = ("#56B4E9", "#FF9E4A", "#3ECFA3", "#E29CC8", "#EFC050", "#D4D4D4", "#FF8A98")
DASHES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (10, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
OFFSET = 6  # points between the end of a curve and its label
INK, PAPER = "#010203", "#fdfdfe"  # the report puts its own colours in their place
AXES = {"update": "updates", "seconds": "seconds of training (evaluation not counted)"}
LOSSES = {
    "train_loss": "training loss",
    "train_squared": "training squared error",
    "test_loss": "test loss",
    "test_squared": "test squared error",
}
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "linnat",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


class MissingMatplotlib(InputError):
    """Pictures need a package that is not installed."""


class Look(NamedTuple):
    """How a method's curve is drawn."""

    colour: str
    dashes: Any
    marker: str


def look(place: int) -> Look:
    """Return how the method at this place among all is drawn: no two of the first 35 alike.

    Examples
    --------
    >>> len({look(k)[:2] for k in range(35)})
    35
    """
    return Look(LIGHT[place % len(LIGHT)], DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)])


def draw(record: Record, losses: Sequence[str] = ("train_loss", "train_squared")) -> Any:
    """Return a figure: a row for each loss, against updates on the left and seconds on the right.

    Parameters
    ----------
    record : Record
    losses : sequence of "train_loss", "train_squared", "test_loss", "test_squared"

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        Without matplotlib.
    """
    mpl = _matplotlib()
    with mpl.rc_context(STYLE):
        figure = importlib.import_module("matplotlib.figure").Figure(
            figsize=(9.6, 3.3 * len(losses)), dpi=100
        )
        importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
        axes = figure.subplots(len(losses), len(AXES), squeeze=False)
        for row, loss in zip(axes, losses, strict=True):
            for ax, (axis, words) in zip(row, AXES.items(), strict=True):
                _panel(ax, record, axis, loss)
                ax.set_xlabel(words)
                ax.set_title(f"{LOSSES[loss]} against {words.split()[0]}")
        figure.subplots_adjust(0.06, 0.075 if len(losses) > 1 else 0.14, 0.88, 0.95, wspace=0.52, hspace=0.34)
        for ax, axis, loss in ((axes[r, c], a, l) for r, l in enumerate(losses) for c, a in enumerate(AXES)):
            _label(figure, ax, _ends(record, axis, loss))
    return figure


def as_svg(figure: Any) -> str:
    """Return a figure as an SVG element in the colours of its page: `currentColor`, and --c0, --c1, … for curves."""
    mpl, text = _matplotlib(), io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    found = text.getvalue()
    found = found[found.index("<svg") :].replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    for k, colour in enumerate(LIGHT):
        found = found.replace(colour.lower(), f"var(--c{k})")
    # Identifiers must not meet those of another picture on the same page.
    mark = uuid.uuid5(uuid.NAMESPACE_OID, found).hex[:8]
    found = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>p{mark}-", found)
    # The page decides the size.
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        r"\1",
        re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", found, count=1),
        count=1,
    )


def save_png(figure: Any, path: Path) -> None:
    """Write a figure as a PNG file, atomically.

    Raises
    ------
    InputError
        For a file that cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with _matplotlib().rc_context(STYLE):
            figure.savefig(temporary, format="png", dpi=160, facecolor="white", metadata={"Software": None})
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"picture: expected a file that can be written, found {path} ({error}).") from None
    finally:
        temporary.unlink(missing_ok=True)


def _matplotlib() -> Any:
    try:
        return importlib.import_module("matplotlib")
    except ImportError:
        raise MissingMatplotlib(
            "pictures: expected matplotlib, found none. Install linnat[figures]."
        ) from None


def _panel(ax: Any, record: Record, axis: str, loss: str) -> None:
    ticker = importlib.import_module("matplotlib.ticker")
    ax.set_yscale("log")
    if axis == "update":
        ax.set_xscale("log")
    for place, name in enumerate(record.plan.optimisers):
        style, own = look(place), _of(record, name)
        found = band(own, axis, loss)
        if found is not None:
            ax.fill_between(found.places, found.low, found.high, color=style.colour, alpha=0.18, linewidth=0)
            every = max(1, len(found.places) // 6)
            # Markers start at different places, so that curves on top of each other are both seen.
            marks = slice((place * every) // max(1, len(record.plan.optimisers)), None, every)
            ax.plot(
                found.places,
                found.middle,
                color=style.colour,
                linestyle=style.dashes,
                linewidth=1.6,
                marker=style.marker,
                markersize=3.6,
                markevery=marks,
            )
        for curve in own:
            if curve.status == "diverged":
                x, y = line(curve, axis, loss)
                ax.plot(x, y, color=style.colour, linestyle=style.dashes, linewidth=0.7)
                ax.plot(x[-1:], y[-1:], color=style.colour, marker="x", markersize=7, markeredgewidth=1.6)
    for one in (ax.yaxis, ax.xaxis) if axis == "update" else (ax.yaxis,):
        low, high = (float(end) for end in one.get_view_interval())
        few = high < 30 * low
        one.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5) if few else (1,)))
        one.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))
        one.set_minor_locator(ticker.LogLocator(subs=tuple(range(1, 10))))
        one.set_minor_formatter(ticker.NullFormatter())
    ax.grid(visible=True, which="major", color=INK, alpha=0.12, linewidth=0.5)


def _of(record: Record, name: str) -> list[Curve]:
    return [curve for curve in record.curves if curve.method == name]


def _ends(record: Record, axis: str, loss: str) -> list[tuple[float, float, str, str]]:
    """Return where labels belong: x, y, words, colour."""
    ends = []
    for place, name in enumerate(record.plan.optimisers):
        own, colour, words = _of(record, name), look(place).colour, METHODS[name].label or METHODS[name].title
        found = band(own, axis, loss)
        if found is not None:
            ends.append((float(found.places[-1]), float(found.middle[-1]), words, colour))
            continue
        lines = [line(curve, axis, loss) for curve in own if curve.status == "diverged"]
        for x, y in sorted(lines, key=lambda pair: -len(pair[0]))[:1]:
            if len(x):
                ends.append((float(x[-1]), float(y[-1]), f"{words} (diverged)", colour))
    return ends


def _label(figure: Any, ax: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write labels to the right of the curves' ends, moved up until none covers another."""
    _ = ax.get_xlim(), ax.get_ylim()  # settles them: the curves are all there
    renderer, pixels = figure.canvas.get_renderer(), figure.dpi / 72  # in a point
    placed: list[tuple[float, float, float, float]] = []
    for x, y, words, colour in sorted(ends, key=lambda end: end[1]):
        options = {"textcoords": "offset points", "annotation_clip": False, "color": colour, "fontsize": 7.5}
        ground = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
        text = ax.annotate(words, (x, y), (OFFSET, 0), va="center", fontweight="bold", bbox=ground, **options)
        box = text.get_window_extent(renderer)
        low = box.y0
        for left, right, bottom, top in sorted(placed, key=lambda other: other[2]):
            if box.x0 < right and left < box.x1 and low < top and bottom < low + box.height:
                low = top + 1
        shift = (low - box.y0) / pixels
        text.set_position((OFFSET, shift))
        if shift > 4:
            leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
            options["arrowprops"] = leader
            ax.annotate("", (x, y), (OFFSET - 1, shift), **options)
        placed.append((box.x0, box.x1, low, low + box.height))
