"""Which numbers is a network trained and tested on? Splits of training and test rows, and a digest that names them.

Scale: bytes are divided by 255, as in the literature, so that pixels lie in [0, 1] and squared errors compare with
published ones. `load_data` divides by 256 instead: exact in binary, so that the integer dependencies between pixels and
with them the rank of E[x xᵀ] survive (712 for MNIST); `divisor=256` gives the same numbers here. Squared errors at
the two scales differ by the factor (256/255)² = 1.0079. Digits have 17 levels and are divided by 16, curves are drawn
in [0, 1].
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, RngLike, as_count, as_dtype, as_path, as_rng, fail
from linnat.data.curves import curves_like
from linnat.data.idx import read_idx
from linnat.data.places import FolderLike, expand, find_file, find_set, own_name
from linnat.data.published import PUBLISHED, STEMS, read_published
from linnat.data.sets import bundled_digits

NAMES = ("digits", "mnist", "fashion-mnist", "curves-like")
DIGITS_TRAIN = 1437  # four fifths


class Split(NamedTuple):
    """Training and test rows of a data set.

    Attributes
    ----------
    x : array (N, n_0)
    labels : integer array (N,), or None
    x_test : array (M, n_0)
    labels_test : integer array (M,), or None
    name : str
        Of the set; says what was held out.
    digest : str
        sha256 of the data as published, before any scale: for manifests.
    """

    x: Array
    labels: Array | None
    x_test: Array
    labels_test: Array | None
    name: str
    digest: str


def load_split(
    name: str | os.PathLike[str] = "digits",
    dtype: Any = np.float32,
    *,
    folder: FolderLike | None = None,
    divisor: int = 255,
) -> Split:
    """Load a data set as training and test rows.

    Parameters
    ----------
    name : str or path
        "digits" (the first 1,437 rows of scikit-learn's 1,797 train, the rest test), "mnist" or "fashion-mnist" (the
        published split, checksums verified), "curves-like" (20,000 + 10,000, see `curves_like`), or the path of a
        folder with four such IDX files of your own.
    dtype : float32 or float64
    folder : path, optional
        Looked in for published sets before LINNAT_DATA and the cache.
    divisor : 255 or 256
        Of bytes: as in the literature, or exact.

    Returns
    -------
    Split

    Raises
    ------
    InputError
        Where files are not found, not complete, or not what their set's name says; says where it looked.
    MissingExtra
        For digits without scikit-learn.

    Examples
    --------
    >>> split = load_split("digits")
    >>> split.x.shape, split.x_test.shape, float(split.x.max())
    ((1437, 64), (360, 64), 1.0)
    """
    kind = as_dtype(dtype)
    text = os.fspath(as_path(name, "data"))
    if as_count(divisor, "divisor") not in (255, 256):
        fail("divisor", "255 or 256", divisor)
    if text == "digits":
        pixels, classes = bundled_digits()
        train, test = slice(DIGITS_TRAIN), slice(DIGITS_TRAIN, None)
        return _scaled((pixels[train], classes[train], pixels[test], classes[test]), text, kind, 16)
    if text == "curves-like":
        x, x_test = curves_like()
        return Split(x.astype(kind), None, x_test.astype(kind), None, text, _digest(x, x_test))
    if text in PUBLISHED:
        known = PUBLISHED[text]
        files = find_set(text, folder)
        arrays = tuple(read_published(f, k) for f, k in zip(files, known.files, strict=True))
        return _scaled(arrays, text, kind, divisor)
    path = expand(text)
    if not os.fspath(name) or not path.is_dir():
        fail("data", f"one of {', '.join(NAMES)}, or the path of a folder with IDX files", repr(text))
    return _scaled(_own_arrays(path), own_name(path), kind, divisor)


def validation_split(split: Split, size: int | None = None, rng: RngLike = 0) -> Split:
    """Hold out training rows in place of the test rows, which do not take part.

    Parameters
    ----------
    split : Split
    size : int, optional
        Rows held out; one in six by default: 50,000 and 10,000 of MNIST.
    rng : Generator or int
        Draws the rows; those that stay keep their order.

    Returns
    -------
    Split
        `x_test` and `labels_test` are the rows held out; `digest` is that of the split's digest and their numbers.

    Examples
    --------
    >>> split = validation_split(load_split("digits"), 400)
    >>> len(split.x), len(split.x_test), split.name
    (1037, 400, 'digits, 400 rows held out')
    """
    total = len(split.x)
    count = total // 6 if size is None else as_count(size, "size")
    if not 0 < count < total:
        fail("size", f"fewer than the {total} rows for training, and at least one", count)
    held = np.sort(as_rng(rng).permutation(total)[:count])
    stay = np.ones(total, bool)
    stay[held] = False
    labels = split.labels
    digest = hashlib.sha256(split.digest.encode() + held.astype("<i8").tobytes()).hexdigest()
    return Split(
        split.x[stay],
        None if labels is None else labels[stay],
        split.x[held],
        None if labels is None else labels[held],
        f"{split.name}, {count} rows held out",
        digest,
    )


def _own_arrays(folder: Path) -> tuple[Array, Array, Array, Array]:
    """Read a user's four files, which need to be images of bytes and as many labels."""
    files = []
    for stem in STEMS:
        file = find_file(folder, stem)
        if file is None:
            fail("data", f"{stem} (plain or .gz)", f"no such file in {folder}")
        files.append(file)
    arrays = [read_idx(file, ndim=ndim) for file, ndim in zip(files, (3, 1, 3, 1), strict=True)]
    for file, array in zip(files, arrays, strict=True):
        if array.dtype != np.uint8 or array.size == 0:
            fail(f"data in {file}", "bytes, at least one", f"shape {array.shape} of type {array.dtype}")
    for i in (0, 2):
        if len(arrays[i]) != len(arrays[i + 1]):
            expected = f"{len(arrays[i])} bytes, one for each image"
            fail(f"labels in {files[i + 1]}", expected, len(arrays[i + 1]))
    if arrays[0].shape[1:] != arrays[2].shape[1:]:
        expected = f"images of shape {arrays[0].shape[1:]}, as for training"
        fail(f"images in {files[2]}", expected, f"{arrays[2].shape[1:]}")
    return arrays[0], arrays[1], arrays[2], arrays[3]


def _scaled(arrays: tuple[Array, ...], name: str, dtype: np.dtype[Any], divisor: int) -> Split:
    x, labels, x_test, labels_test = arrays
    return Split(
        _pixels(x, dtype, divisor),
        labels.astype(np.intp),
        _pixels(x_test, dtype, divisor),
        labels_test.astype(np.intp),
        name,
        _digest(*arrays),
    )


def _pixels(images: Array, dtype: np.dtype[Any], divisor: int) -> Array:
    rows = images.reshape(len(images), -1).astype(dtype)
    rows /= dtype.type(divisor)
    return rows


def _digest(*arrays: Array) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{plain.dtype.str}{plain.shape}".encode())
        digest.update(plain.data)
    return digest.hexdigest()
