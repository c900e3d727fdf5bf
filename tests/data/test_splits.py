"""Are splits what was published, at the scale that they state, with a digest that names the data?"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from linnat import InputError
from linnat.data import Split, curves_like, load_data, load_split, read_idx, validation_split


def own_folder(folder: Path, **changes: np.ndarray) -> Path:
    """Write four IDX files of 12 and 5 images, 3 × 2 pixels; changes replace files."""
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (12, 3, 2)),
        "train_labels": np.arange(12) % 4,
        "t10k_images": rng.integers(0, 256, (5, 3, 2)),
        "t10k_labels": np.arange(5) % 4,
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        part, kind = name.split("_")
        stem = f"{part}-{kind}-idx{3 if kind == 'images' else 1}-ubyte"
        (folder / f"{stem}.gz").write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))
    return folder


def test_digits_have_a_fixed_split_of_balanced_classes() -> None:
    split = load_split()
    assert split.name == "digits"
    whole = load_data("digits")
    np.testing.assert_array_equal(np.concatenate([split.x, split.x_test]), whole.x)
    np.testing.assert_array_equal(np.concatenate([split.labels, split.labels_test]), whole.labels)
    assert np.bincount(split.labels_test).min() >= 33
    assert split.x.dtype == np.float32


def test_mnist_is_the_published_one(mnist_folder: Path) -> None:
    split = load_split("mnist", folder=mnist_folder)
    assert split.x.shape == (60000, 784)
    assert split.x_test.shape == (10000, 784)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(split.labels_test), counts)
    # The sum of all training pixels, a known number, in bytes.
    assert int(np.rint(split.x * np.float32(255)).sum(dtype=np.float64)) == 1567298545
    pixels = read_idx(mnist_folder / "t10k-images-idx3-ubyte.gz").reshape(10000, -1)
    np.testing.assert_array_equal(split.x_test, (pixels / 255).astype(np.float32))
    assert split.x.max() == 1
    assert split.x.flags.c_contiguous


@pytest.mark.slow
def test_fashion_mnist_is_the_published_one(fashion_mnist_folder: Path) -> None:
    split = load_split("fashion-mnist", folder=fashion_mnist_folder, divisor=256)
    np.testing.assert_array_equal(np.bincount(split.labels), 6000)
    assert int(split.x.sum(dtype=np.float64) * 256) == 3431114169
    assert int(split.x_test.sum(dtype=np.float64) * 256) == 573469082
    np.testing.assert_array_equal(split.x, load_data(fashion_mnist_folder).x)


def test_the_two_scales_and_the_digest_of_the_bytes(tmp_path: Path) -> None:
    folder = own_folder(tmp_path / "mine")
    literature, exact = load_split(folder, np.float64), load_split(folder, np.float64, divisor=256)
    assert (exact.x * 256 == np.rint(exact.x * 256)).all()
    np.testing.assert_allclose(literature.x * 255, exact.x * 256, rtol=1e-15)
    assert literature.digest == exact.digest == load_split(folder).digest
    changed = own_folder(tmp_path / "other", t10k_labels=np.array([0, 1, 2, 3, 1]))
    assert load_split(changed).digest != exact.digest


def test_the_digest_depends_on_shapes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wide = own_folder(
        tmp_path / "a", train_images=rng.integers(0, 256, (12, 2, 3)), t10k_images=np.ones((5, 2, 3))
    )
    same = own_folder(
        tmp_path / "b", train_images=rng.integers(0, 256, (12, 6, 1)), t10k_images=np.ones((5, 6, 1))
    )
    assert load_split(wide).digest != load_split(same).digest


def test_curves_have_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linnat.data.splits.curves_like", lambda: curves_like(50, 20))
    split = load_split("curves-like", np.float64)
    assert split.x.shape == (50, 784)
    assert split.x_test.shape == (20, 784)
    assert split.x.dtype == np.float64
    np.testing.assert_array_equal(split.x, load_split("curves-like").x)
    assert split.labels is None
    assert split.labels_test is None
    held = validation_split(split, 7)
    assert held.labels is None
    assert held.x_test.shape == (7, 784)


@pytest.mark.slow
def test_curves_are_as_many_as_curves_had() -> None:
    split = load_split("curves-like")
    assert split.x.shape == (20_000, 784)
    assert split.x_test.shape == (10_000, 784)
    assert load_data("curves-like").x.shape == (20_000, 784)


@pytest.mark.parametrize("seed", [0, 5])
def test_validation_rows_are_training_rows_held_out(seed: int) -> None:
    x = np.arange(120.0).reshape(60, 2)
    split = Split(x, np.arange(60), x + 1000, np.arange(60) + 1000, "s", "d")
    held = validation_split(split, rng=seed)
    assert len(held.x_test) == 10
    together = np.concatenate([held.labels, held.labels_test])
    np.testing.assert_array_equal(np.sort(together), np.arange(60))
    np.testing.assert_array_equal(held.x, x[held.labels])
    np.testing.assert_array_equal(held.x_test, x[held.labels_test])
    assert (np.diff(held.labels) > 0).all()
    again = validation_split(split, rng=seed)
    assert again.digest == held.digest != split.digest
    np.testing.assert_array_equal(again.labels_test, held.labels_test)
    assert validation_split(split, rng=seed + 1).digest != held.digest
    held.x[:] = -1
    assert (split.x >= 0).all()


@pytest.mark.parametrize("size", [0, 60, 61, 1.5])
def test_a_validation_split_leaves_something_on_both_sides(size: int) -> None:
    x = np.ones((60, 2))
    with pytest.raises(InputError, match="^size: expected"):
        validation_split(Split(x, None, x, None, "s", "d"), size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t10k_labels": np.arange(4)}, "^labels in .*t10k.*: expected 5 bytes, one for each image, found 4"),
        ({"train_labels": np.arange(13)}, "^labels in .*train.*: expected 12 bytes"),
        ({"t10k_images": np.ones((5, 2, 3))}, r"^images in .*: expected images of shape \(3, 2\)"),
        ({"t10k_images": np.ones((5, 6))}, r"^IDX file: expected images \(3 axes\), found 2 axes"),
        ({"train_images": np.ones((0, 3, 2)), "train_labels": np.ones(0)}, "at least one, found shape"),
    ],
)
def test_files_that_do_not_fit_are_one_error(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_split(own_folder(tmp_path / "mine", **changes))


def test_what_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = own_folder(tmp_path / "mine")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"^data: expected t10k-labels-idx1-ubyte \(plain or .gz\)"):
        load_split(folder)
    for name in ("none", ""):
        with pytest.raises(
            InputError, match="^data: expected one of digits, mnist, fashion-mnist, curves-like"
        ):
            load_split(name)
    with pytest.raises(InputError, match="^divisor: expected 255 or 256, found 100"):
        load_split(folder, divisor=100)
    with pytest.raises(InputError, match="^dtype: expected float32 or float64"):
        load_split(folder, np.int8)


def test_other_content_under_a_published_name_is_refused(tmp_path: Path) -> None:
    own_folder(tmp_path / "mnist")
    with pytest.raises(InputError, match="expected the published file .* give the path of its folder"):
        load_split("mnist", folder=tmp_path)
    assert load_split(tmp_path / "mnist").name == "own-mnist"
