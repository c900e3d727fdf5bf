"""Which small images do the experiments of the literature see?

MNIST where `linnat.data` finds it, every image averaged over the cells of a coarser grid (area by area, so that a cell
of 2.8 × 2.8 pixels weighs the pixels it cuts by their share); otherwise scikit-learn's digits in the same way, and
pictures say so.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from figures._common import Array
from linnat.data.sets import load_data, one_hot


class Images(NamedTuple):
    """Images in [0, 1], in the order of the set.

    Attributes
    ----------
    x : array (N, size²)
    y : array (N, 10)
        One-hot labels.
    name : str
        "MNIST", or "digits" where MNIST was not found.
    """

    x: Array
    y: Array
    name: str


def small_images(rows: int, size: int) -> Images:
    """Return the first rows of MNIST, or of the digits, averaged down to size × size pixels."""
    try:
        data = load_data("mnist")
        name = "MNIST"
    except (
        ValueError
    ):  # not found: the message says where it was looked for, the picture that it was not there
        data, name = load_data("digits"), "digits"
    x = np.asarray(data.x[:rows], dtype=float)
    side = round(x.shape[1] ** 0.5)
    cells = averages(side, size)
    if name == "MNIST":
        x *= 256 / 255
    images = np.einsum("ai,nij,bj->nab", cells, x.reshape(-1, side, side), cells, optimize=True)
    labels = np.asarray(data.labels)[:rows]
    return Images(images.reshape(len(x), size * size), one_hot(labels, 10).astype(float), name)


def averages(fine: int, coarse: int) -> Array:
    """Return the (coarse, fine) matrix of shares of fine cells in coarse ones, rows of sum one."""
    ends = np.arange(coarse + 1) * fine / coarse
    low, high = ends[:-1, None], ends[1:, None]
    left = np.arange(fine)
    overlap = np.minimum(high, left + 1) - np.maximum(low, left)
    shares: Array = np.maximum(overlap, 0.0) * coarse / fine
    return shares


def source(name: str, size: int) -> str:
    """Return what a picture says of its data."""
    if name == "MNIST":
        return f"MNIST, {size} × {size} pixels"
    return f"digits stretched to {size} × {size} pixels: MNIST was not found"
