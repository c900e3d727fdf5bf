"""Which real data? Digits, MNIST and its relatives in IDX files, `.npz` files with x and y; where they are looked for.

Rows are samples. `load_split` gives training and test rows at the scale of the literature (bytes divided by 255).
`load_data` gives the rows of theory: bytes divided by 256, a power of two, so that the integer dependencies between
pixels, and with them the rank of E[x xᵀ], survive the conversion to floating point.
"""

from __future__ import annotations

from linnat.data.chunks import RowChunks, idx_chunks, row_chunks
from linnat.data.curves import curve_points, curves_like, draw_curves
from linnat.data.idx import read_idx
from linnat.data.sets import IMAGE_SETS, DataSet, MissingExtra, load_data, load_digits, load_images, load_npz
from linnat.data.splits import Split, load_split, validation_split

__all__ = [
    "DataSet",
    "IMAGE_SETS",
    "MissingExtra",
    "RowChunks",
    "Split",
    "curve_points",
    "curves_like",
    "draw_curves",
    "idx_chunks",
    "load_data",
    "load_digits",
    "load_images",
    "load_npz",
    "load_split",
    "read_idx",
    "row_chunks",
    "validation_split",
]
