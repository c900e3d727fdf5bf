"""Which data sets are there, and where are they looked for?

`digits` comes with scikit-learn (extra `data`). `mnist` and `fashion-mnist` are four IDX files in a folder, looked for
in the environment variable LINNAT_DATA and then in the user's cache. Anything else is a path: a folder with such
files, one IDX file of images, or an `.npz` file with x (N, n_0) and y (N, n_L).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from linnat._checks import Array, InputError, as_path, as_rows, fail
from linnat._files import read_npz
from linnat.data.idx import read_idx

IMAGE_SETS = ("mnist", "fashion-mnist")
SUFFIXES = ("", ".gz")
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


def load_data(name: str | os.PathLike[str]) -> DataSet:
    """Load a data set by name (digits, mnist, fashion-mnist) or by path.

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
    if text in IMAGE_SETS:
        return load_images(find_images(text), text)
    path = Path(text).expanduser()
    if path.is_dir():
        return load_images(path, path.name or text)
    if not path.exists():
        known = ", ".join(("digits", *IMAGE_SETS))
        fail("data", f"one of {known}, or the path of a folder, an IDX or an .npz file", repr(text))
    return load_npz(path) if path.suffix == ".npz" else _load_image_file(path)


def load_digits() -> DataSet:
    """Load scikit-learn's 1,797 digits, 8 × 8 pixels of 17 levels, scaled to [0, 1] by a power of two.

    Examples
    --------
    >>> load_digits().x.shape
    (1797, 64)
    """
    try:
        from sklearn.datasets import load_digits as bundled
    except ImportError:
        raise MissingExtra("install linnat[data] (scikit-learn bundles the digits)") from None
    x, labels = bundled(return_X_y=True)
    return DataSet("digits", np.asarray(x, np.float64) / 16, labels=np.asarray(labels, np.intp))


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


def find_images(name: str) -> Path:
    """Return the folder of a named set of images: LINNAT_DATA, then the cache."""
    places = []
    root = os.environ.get("LINNAT_DATA")
    if root:
        places += [Path(root).expanduser() / name, Path(root).expanduser()]
    cache = os.environ.get("XDG_CACHE_HOME")
    places.append((Path(cache) if cache else Path.home() / ".cache") / "linnat" / name)
    for place in places:
        # LINNAT_DATA may be the set's own folder, but only under its own name: another set must not answer for it.
        if place.name == name and _find(place, "train-images-idx3-ubyte") is not None:
            return place
    looked = ", ".join(str(place) for place in places if place.name == name)
    remedy = "Set LINNAT_DATA to the folder that holds it, or give the path itself."
    fail("data", f"the IDX files of {name} in one of {looked}", "none", remedy)


def load_images(folder: str | os.PathLike[str], name: str) -> DataSet:
    """Load the training images and labels (train-images-idx3-ubyte, train-labels-idx1-ubyte, plain or gzip)."""
    place = Path(folder)
    images, labels = (_find(place, f"train-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
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


def _load_image_file(path: Path) -> DataSet:
    return DataSet(path.name, _pixels(path))


def _pixels(path: Path) -> Array:
    images = read_idx(path, ndim=3)
    if images.size == 0:
        fail(f"images in {path}", "at least one image", f"shape {images.shape}")
    if images.dtype != np.uint8:
        return as_rows(images.reshape(len(images), -1).astype(np.float64), f"images in {path}")
    pixels: Array = images.reshape(len(images), -1).astype(np.float32)
    pixels *= BYTE
    return pixels


def _find(folder: Path, stem: str) -> Path | None:
    """Return the file of that name, plain or gzip, also spelt with a dot before idx."""
    for name in (stem, stem.replace("-idx", ".idx")):
        for suffix in SUFFIXES:
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
    return None
