"""Which data sets are there, as inputs and targets? Training rows only; `load_split` has the test rows too.

`digits` comes with scikit-learn (extra `data`). `mnist` and `fashion-mnist` are IDX files with known checksums, looked
for where `linnat.data.places` says. `curves-like` is drawn. Anything else is a path: a folder with IDX files, one IDX
file of images, or an `.npz` file with x (N, n_0) and y (N, n_L).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from linnat._checks import Array, InputError, as_path, as_rows, fail
from linnat._files import read_npz
from linnat.data.curves import curves_like
from linnat.data.idx import read_idx
from linnat.data.places import FolderLike, expand, find_file, find_set, own_name
from linnat.data.published import PUBLISHED, STEMS, read_published

IMAGE_SETS = tuple(PUBLISHED)
BYTE = np.float32(1 / 256)  # a power of two: exact


class MissingExtra(InputError):
    """A data set needs a package that is not installed."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Inputs and what is to be predicted from them, one sample in a row.

    Attributes
    ----------
    name : str
    x : array (N, n_0)
    y : array (N, n_L), or None
        Given targets; None for sets of images.
    labels : integer array (N,), or None
        Class labels of images.
    """

    name: str
    x: Array
    y: Array | None = None
    labels: Array | None = None

    @property
    def n_classes(self) -> int:
        """Number of classes, 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def targets(self, n_outputs: int) -> Array:
        """Return targets of the wanted width: y, or one-hot labels, or the images themselves (the same object as x)."""
        if self.y is not None and self.y.shape[1] == n_outputs:
            return self.y
        if self.y is None and self.labels is not None and n_outputs == self.n_classes:
            return one_hot(self.labels, n_outputs)
        if self.y is None and n_outputs == self.x.shape[1]:
            return self.x
        offered = [self.y.shape[1]] if self.y is not None else [self.n_classes or None, self.x.shape[1]]
        widths = " or ".join(str(n) for n in offered if n)
        fail("network", f"{widths} outputs, to fit the data {self.name}", f"{n_outputs}")


def one_hot(labels: Array, n_classes: int) -> Array:
    """Return the (N, n_classes) indicator matrix of integer labels."""
    return np.eye(n_classes, dtype=np.float32)[labels]


def load_data(name: str | os.PathLike[str], *, folder: FolderLike | None = None) -> DataSet:
    """Load a data set by name (digits, mnist, fashion-mnist, curves-like) or by path.

    Parameters
    ----------
    name : str or path
    folder : path, optional
        Looked in for published sets before LINNAT_DATA and the cache.

    Raises
    ------
    InputError
        Where nothing is found, or what is found is not such data; says where it looked.
    MissingExtra
        For digits without scikit-learn.
    """
    text = os.fspath(as_path(name, "data"))
    if not os.fspath(name):
        fail("data", "the name of a data set or a path", "an empty one")
    if text == "digits":
        return load_digits()
    if text == "curves-like":
        return DataSet(text, curves_like()[0])
    if text in PUBLISHED:
        files = find_set(text, folder, STEMS[:2])
        images, labels = (read_published(f, k) for f, k in zip(files, PUBLISHED[text].files, strict=False))
        return DataSet(text, _exact(images), labels=labels.astype(np.intp))
    path = expand(text)
    if path.is_dir():
        return load_images(path, own_name(path))
    if not path.exists():
        known = ", ".join(("digits", *IMAGE_SETS, "curves-like"))
        fail("data", f"one of {known}, or the path of a folder, an IDX or an .npz file", repr(text))
    return load_npz(path) if path.suffix == ".npz" else DataSet(path.name, _pixels(path))


def bundled_digits() -> tuple[Array, Array]:
    """Return scikit-learn's digits as bytes: pixels (1797, 64) from 0 to 16, labels (1797,)."""
    try:
        from sklearn.datasets import load_digits as bundled
    except ImportError:
        raise MissingExtra("install linnat[data] (scikit-learn bundles the digits)") from None
    x, labels = bundled(return_X_y=True)
    return np.asarray(x).astype(np.uint8), np.asarray(labels).astype(np.uint8)


def load_digits() -> DataSet:
    """Load scikit-learn's 1,797 digits, 8 × 8 pixels of 17 levels, scaled to [0, 1] by a power of two.

    Examples
    --------
    >>> load_digits().x.shape
    (1797, 64)
    """
    x, labels = bundled_digits()
    return DataSet("digits", x.astype(np.float64) / 16, labels=labels.astype(np.intp))


def load_npz(path: str | os.PathLike[str]) -> DataSet:
    """Load an `.npz` file with x (N, n_0) and y (N, n_L); one-dimensional y is one column."""
    file = Path(path)
    arrays = read_npz(file, "data")
    if not {"x", "y"} <= set(arrays):
        fail("data file", "arrays x and y", f"{sorted(arrays)} in {file}")
    y = arrays["y"]
    x, y = as_rows(arrays["x"], f"x in {file}"), as_rows(y[:, None] if y.ndim == 1 else y, f"y in {file}")
    if len(x) != len(y):
        fail(f"y in {file}", f"{len(x)} rows, one for each of x", f"{len(y)}")
    return DataSet(file.stem, x, y)


def load_images(folder: FolderLike, name: str) -> DataSet:
    """Load training images and labels of a user's own (train-images-idx3-ubyte, …, plain or gzip)."""
    place = Path(folder)
    images, labels = (find_file(place, stem) for stem in STEMS[:2])
    if images is None:
        fail("data", "train-images-idx3-ubyte (plain or .gz)", f"no such file in {place}")
    if labels is None:
        fail("data", "train-labels-idx1-ubyte (plain or .gz)", f"no such file in {place}")
    x, classes = _pixels(images), read_idx(labels, ndim=1)
    if classes.dtype != np.uint8 or len(classes) != len(x):
        fail(
            f"labels in {labels}",
            f"{len(x)} bytes, one for each image",
            f"{len(classes)} of type {classes.dtype}",
        )
    return DataSet(name, x, labels=classes.astype(np.intp))


def _pixels(path: Path) -> Array:
    images = read_idx(path, ndim=3)
    if images.size == 0:
        fail(f"images in {path}", "at least one image", f"shape {images.shape}")
    if images.dtype != np.uint8:
        with np.errstate(invalid="ignore"):  # NaN is refused in the next line
            rows = images.reshape(len(images), -1).astype(np.float64)
        return as_rows(rows, f"images in {path}")
    return _exact(images)


def _exact(images: Array) -> Array:
    """Return bytes as fractions of 256."""
    pixels: Array = images.reshape(len(images), -1).astype(np.float32)
    pixels *= BYTE
    return pixels
