"""Which real data? Digits, MNIST and its relatives in IDX files, `.npz` files with x and y; where they are looked for.

Rows are samples. Images keep exact values: bytes divided by 256, a power of two, so that the integer dependencies
between pixels, and with them the rank of E[x xᵀ], survive the conversion to floating point.
"""

from __future__ import annotations

from linnat.data.chunks import RowChunks, idx_chunks, row_chunks
from linnat.data.idx import read_idx
from linnat.data.sets import IMAGE_SETS, DataSet, MissingExtra, load_data, load_digits, load_images, load_npz

__all__ = [
    "DataSet",
    "IMAGE_SETS",
    "MissingExtra",
    "RowChunks",
    "idx_chunks",
    "load_data",
    "load_digits",
    "load_images",
    "load_npz",
    "read_idx",
    "row_chunks",
]
