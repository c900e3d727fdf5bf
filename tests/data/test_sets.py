"""Are data sets found where they should be, read as they are, and refused where they are not what they claim?"""

from __future__ import annotations

import builtins
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from linnat import InputError
from linnat.data import DataSet, MissingExtra, load_data, load_digits
from linnat.exact.task import Task


def image_folder(folder: Path, images: int = 6, labels: int | None = None, zipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(images * 9, dtype=np.uint8)
    names = np.arange(images if labels is None else labels, dtype=np.uint8) % 3
    files = {
        "train-images-idx3-ubyte": bytes([0, 0, 8, 3]) + struct.pack(">3I", images, 3, 3) + pixels.tobytes(),
        "train-labels-idx1-ubyte": bytes([0, 0, 8, 1]) + struct.pack(">I", len(names)) + names.tobytes(),
    }
    for name, content in files.items():
        path = folder / (name + ".gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)
    return folder


def test_digits_are_exact_fractions_with_the_known_rank() -> None:
    digits = load_digits()
    assert digits.x.shape == (1797, 64)
    np.testing.assert_array_equal(digits.x * 16, np.round(digits.x * 16))
    assert Task.from_data(digits.x, digits.targets(10)).rank == 61
    assert digits.targets(64) is digits.x
    np.testing.assert_array_equal(digits.targets(10).sum(axis=1), 1)


def test_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtra, match=r"install linnat\[data\]"):
        load_digits()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_of_idx_files(tmp_path: Path, zipped: bool) -> None:
    data = load_data(image_folder(tmp_path / "mine", zipped=zipped))
    assert data.x.shape == (6, 9)
    assert data.n_classes == 3
    np.testing.assert_array_equal(data.x[0] * 256, np.arange(9))
    np.testing.assert_array_equal(data.targets(3)[:3], np.eye(3))


def test_one_file_of_images_is_for_autoencoding(tmp_path: Path) -> None:
    data = load_data(image_folder(tmp_path) / "train-images-idx3-ubyte")
    assert data.labels is None
    assert data.targets(9) is data.x
    with pytest.raises(InputError, match="9 outputs"):
        data.targets(3)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_other_content_under_a_published_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = image_folder(tmp_path / name)
    monkeypatch.setenv("LINNAT_DATA", str(tmp_path))
    with pytest.raises(InputError, match="expected the published file .* found other content") as caught:
        load_data(name)
    assert "\n" not in str(caught.value)
    # As data of one's own it is welcome, but under another name.
    assert load_data(folder).name == f"own-{name}"
    assert load_data(image_folder(tmp_path / "mine")).name == "mine"


def test_a_set_under_another_name_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LINNAT_DATA", str(image_folder(tmp_path / "mnist")))
    with pytest.raises(InputError, match="fashion-mnist"):
        load_data("fashion-mnist")


@pytest.mark.parametrize("missing", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_folder_that_lacks_a_file_names_it(tmp_path: Path, missing: str) -> None:
    (image_folder(tmp_path / "f") / missing).unlink()
    with pytest.raises(InputError, match=missing):
        load_data(tmp_path / "f")


def test_images_and_labels_must_be_equally_many(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="6 bytes, one for each image"):
        load_data(image_folder(tmp_path, images=6, labels=5))


def test_interchanged_files_are_recognised(tmp_path: Path) -> None:
    folder = image_folder(tmp_path)
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    images.rename(folder / "x")
    labels.rename(images)
    (folder / "x").rename(labels)
    with pytest.raises(InputError, match="interchanged"):
        load_data(folder)


def test_npz_with_x_and_y(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.ones((5, 2)), y=np.arange(5))
    data = load_data(path)
    assert data.targets(1).shape == (5, 1)
    with pytest.raises(InputError, match="1 outputs"):
        data.targets(2)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.ones((3, 2))}, "arrays x and y"),
        ({"x": np.ones((3, 2)), "y": np.ones((4, 1))}, "3 rows"),
        ({"x": np.full((3, 2), np.nan), "y": np.ones((3, 1))}, "finite"),
        ({"x": np.ones(3), "y": np.ones((3, 1))}, "dimension"),
        ({"x": np.array([["a"]]), "y": np.ones((1, 1))}, "real numbers"),
        ({"x": np.ones((0, 2)), "y": np.ones((0, 1))}, "non-empty"),
    ],
)
def test_bad_npz_files_are_one_error(tmp_path: Path, arrays: dict, words: str) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=words) as caught:
        load_data(path)
    assert "\n" not in str(caught.value)


def test_truncated_and_pickled_npz_files_are_input_errors(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.ones((50, 2)), y=np.ones((50, 1)))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="unreadable"):
        load_data(path)
    np.savez(path, x=np.array([{}], dtype=object), y=np.ones(1))
    with pytest.raises(InputError, match="unreadable"):
        load_data(path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="digits, mnist, fashion-mnist"):
        load_data("no-such-set")


@pytest.mark.slow
def test_mnist_has_rank_712(mnist_folder: Path) -> None:
    pixels = load_data(mnist_folder)
    task = Task.from_data(pixels.x, pixels.targets(10))
    assert pixels.x.shape == (60000, 784)
    assert task.rank == 712
    values = np.linalg.svd(task.input_factor, compute_uv=False)
    assert 2.0e5 < values[0] / values[-1] < 2.5e5


def test_targets_of_a_set_without_labels_are_the_inputs() -> None:
    data = DataSet("mine", np.ones((2, 3)))
    assert data.n_classes == 0
    assert data.targets(3) is data.x
