"""A data set so small that processes which train on it are mostly starting."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest


def write_idx(path: Path, array: np.ndarray) -> None:
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of 400 + 100 images of 5 × 5 pixels: blobs at one of four places."""
    folder, rng = tmp_path_factory.mktemp("small"), np.random.default_rng(0)
    row, column = np.mgrid[:5, :5]
    for name, count in (("train", 400), ("t10k", 100)):
        labels = rng.integers(0, 4, count)
        centres = np.array([(1, 1), (1, 3), (3, 1), (3, 3)])[labels] + rng.normal(0, 0.4, (count, 2))
        squares = (row - centres[:, :1, None]) ** 2 + (column - centres[:, 1:, None]) ** 2
        write_idx(folder / f"{name}-images-idx3-ubyte", np.uint8(255 * np.exp(-squares / 2)))
        write_idx(folder / f"{name}-labels-idx1-ubyte", labels.astype(np.uint8))
    return str(folder)
