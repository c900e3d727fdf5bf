"""What do the figures share?

The style, colours, claims that carry their numbers, and files that are the same at every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

Array: TypeAlias = NDArray[Any]
Data: TypeAlias = Mapping[str, Array]

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
STYLE = HERE / "linnat.mplstyle"
HEAVY = 190_000  # bytes of a picture

# Okabe and Ito (2008): told apart by colour-blind readers, and of different lightness in grey.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#666666"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))


class ClaimError(RuntimeError):
    """What a figure was to show does not hold; the message carries the measured number."""


def claim(
    sentence: str, measured: Any, *, at_most: float | None = None, at_least: float | None = None
) -> None:
    """Print a claim with its number, or raise where it fails.

    Parameters
    ----------
    sentence : str
        What is measured.
    measured : float or array
        Every entry is held to the bounds; a NaN fails.
    at_most, at_least : float, optional
        At least one of them.

    Raises
    ------
    ClaimError
        With the entry that is furthest out.
    """
    values = np.atleast_1d(np.asarray(measured, dtype=float))
    if (at_most is None and at_least is None) or not values.size:
        raise ClaimError(f"{sentence}: nothing to hold it to")
    high, low = float(values.max()), float(values.min())
    if at_most is not None and not high <= at_most:
        raise ClaimError(f"{sentence}: {high:.6g}, at most {at_most:.6g} was claimed")
    if at_least is not None and not low >= at_least:
        raise ClaimError(f"{sentence}: {low:.6g}, at least {at_least:.6g} was claimed")
    shown = (
        f"{high:.3g}" if at_least is None else f"{low:.3g}" if at_most is None else f"{low:.3g} … {high:.3g}"
    )
    bounds = [
        f"≥ {at_least:.3g}" if at_least is not None else "",
        f"≤ {at_most:.3g}" if at_most is not None else "",
    ]
    print(f"    {sentence}: {shown} ({', '.join(filter(None, bounds))})")


def publish(
    script: str, out: Path, data: Data, check: Callable[[Data], None], draw: Callable[[Data], Figure]
) -> None:
    """Check the claims on the data, draw, and write NAME.png, NAME.pdf and NAME.npz.

    Parameters
    ----------
    script : str
        `__file__` of the figure's script, which gives the name.
    out : Path
    data : mapping of arrays
        All that the claims and the picture need.
    check, draw : functions of the data
    """
    check(data)
    name = Path(script).stem
    out.mkdir(parents=True, exist_ok=True)
    with plt.style.context(STYLE), mpl.rc_context({"backend": "agg"}):
        figure = draw(data)
        figure.savefig(out / f"{name}.png", metadata={"Software": None}, pil_kwargs={"optimize": True})
        plain = {"CreationDate": None, "Creator": None, "Producer": None}
        figure.savefig(out / f"{name}.pdf", metadata=plain)
        plt.close(figure)
    _lighten(out / f"{name}.png")
    arrays: dict[str, Any] = dict(data)
    np.savez_compressed(out / f"{name}.npz", **arrays)


def _lighten(path: Path) -> None:
    """Write a heavy picture with 256 colours, which is more than its lines have, in a third of the bytes.

    Clusters of colours, not boxes of them: a scale of colours keeps its ends.
    """
    if path.stat().st_size > HEAVY:
        with Image.open(path) as picture:
            few = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2)
            few.save(path, optimize=True, dpi=picture.info.get("dpi"))


def label_panels(axes: Any) -> None:
    """Put bold letters a, b, … above the upper left corners."""
    for letter, axis in zip("abcdefghij", np.ravel(axes), strict=False):
        axis.annotate(
            letter,
            (0, 1),
            xytext=(-6, 6),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="baseline",
            fontweight="bold",
            fontsize=9,
        )


def decades(axis: Axes, step: int = 1) -> None:
    """Tick a logarithmic y axis at every `step`-th decade, without minor labels."""
    axis.yaxis.set_major_locator(mpl.ticker.LogLocator(base=10.0**step, numticks=50))
    axis.yaxis.set_minor_locator(mpl.ticker.NullLocator())


def rotation(size: int, rng: np.random.Generator) -> Array:
    """Draw an orthogonal matrix by the QR of a Gaussian one, signs fixed (Haar)."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return np.asarray(q * np.sign(np.diag(r)))
