"""Chunks of arrays on disk and of IDX files: the same numbers as when read at once, and one clear error otherwise."""

from __future__ import annotations

import gzip
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linnat._checks import InputError
from linnat.data import idx_chunks, read_idx, row_chunks
from linnat.exact.task import Task
from tests import tolerances

CODES = {"u1": 0x08, "i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}


def write_idx(
    path: Path, array: np.ndarray, kind: str = "u1", zipped: bool = False, tail: bytes = b""
) -> Path:
    header = bytes([0, 0, CODES[kind], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(kind).tobytes() + tail
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


def images_and_labels(
    folder: Path, zipped: bool, count: int = 23
) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    pixels, classes = rng.integers(0, 256, (count, 3, 2)), rng.integers(0, 4, count)
    classes[0] = 4
    images = write_idx(folder / "images", pixels, zipped=zipped)
    return images, write_idx(folder / "labels", classes, zipped=zipped), pixels, classes


# Rows


@pytest.mark.parametrize("rows", [1, 4, 10, 99])
def test_rows_are_cut_without_loss(rows: int) -> None:
    x, y = np.arange(20.0).reshape(10, 2), np.arange(30).reshape(10, 3)
    chunks = row_chunks(x, y, rows)
    assert len(chunks) == -(-10 // rows) == len(list(chunks))
    assert (np.concatenate([a for a, _ in chunks]) == x).all()
    assert (np.concatenate([b for _, b in chunks]) == y).all()
    assert max(len(a) for a, _ in chunks) <= rows
    assert (chunks[-1][1][-1] == y[-1]).all()
    assert [len(a) for a, _ in chunks[1:]] == [len(a) for a, _ in chunks][1:]
    with pytest.raises(IndexError):
        chunks[len(chunks)]


def test_an_autoencoder_reads_its_rows_once() -> None:
    x = np.ones((5, 2))
    assert all(a is b for chunks in (row_chunks(x, rows=2), row_chunks(x, x, 2)) for a, b in chunks)


@pytest.mark.parametrize("kind", ["<f4", ">f8", "u1"])
@pytest.mark.parametrize("offset", [0, 80])
def test_memory_maps_are_read_and_not_mapped(tmp_path: Path, kind: str, offset: int) -> None:
    values = np.random.default_rng(0).integers(0, 99, (50, 3)).astype(kind)
    file = tmp_path / "rows.bin"
    file.write_bytes(b"x" * offset + values.tobytes())
    mapped = np.memmap(file, kind, "r", offset, (50, 3))
    read = [x for x, _ in row_chunks(mapped, rows=7)]
    assert (np.concatenate(read) == values).all()
    assert read[0].dtype == values.dtype
    assert not any(isinstance(x, np.memmap) or isinstance(x.base, mmap.mmap) for x in read)
    # Views, other orders and private copies are cut from the map itself.
    assert (np.concatenate([x for x, _ in row_chunks(mapped[5:], rows=7)]) == values[5:]).all()
    assert (np.concatenate([x for x, _ in row_chunks(mapped.T, rows=2)]) == values.T).all()
    private = np.memmap(file, kind, "c", offset, (50, 3))
    private[3] = 0
    assert not row_chunks(private, rows=2)[1][0][1].any()
    ordered = np.memmap(file, kind, "r", offset, (50, 3), order="F")
    assert (np.concatenate([x for x, _ in row_chunks(ordered, rows=7)]) == ordered).all()


def test_a_map_of_a_file_that_has_shrunk_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones((50, 3)))
    chunks = row_chunks(np.load(tmp_path / "rows.npy", mmap_mode="r"), rows=10)
    content = (tmp_path / "rows.npy").read_bytes()
    (tmp_path / "rows.npy").write_bytes(content[:1000])
    with pytest.raises(
        InputError, match=r"^x: expected rows 40 to 50 in .*rows\.npy, found a file that ends before"
    ):
        chunks[4]


def test_arrays_that_cannot_be_cut() -> None:
    x = np.ones((4, 2))
    for args, message in (
        (([[1.0]],), r"^x: expected an array that can be sliced, shape \(N, n\), found list"),
        ((x, np.ones(4)), r"^y: expected an array that can be sliced, .*, found shape \(4,\)"),
        ((x, x[:3]), "^y: expected 4 rows, one for each of x, found 3"),
        ((x[:0],), "^x: expected a non-empty array"),
        ((x, x, 0), "^rows: expected an integer"),
    ):
        with pytest.raises(InputError, match=message):
            row_chunks(*args)


def test_masks_are_refused_and_not_dropped() -> None:
    x = np.arange(40.0).reshape(20, 2) % 7
    masked = np.ma.masked_array(x, np.zeros(x.shape, bool))
    whole = Task.from_chunks(row_chunks(masked, rows=8))
    assert (whole.input_cov == Task.from_chunks(row_chunks(x, rows=8)).input_cov).all()
    masked[9, 1] = np.ma.masked
    for chunks, name in ((row_chunks(masked, rows=8), "x"), (row_chunks(x, masked, rows=8), "y")):
        with pytest.raises(InputError, match=f"^chunk 1: {name}: expected numbers without a mask"):
            Task.from_chunks(chunks)


# IDX


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 23, 100])
def test_idx_files_in_chunks_are_the_files(tmp_path: Path, zipped: bool, rows: int) -> None:
    images, labels, pixels, classes = images_and_labels(tmp_path, zipped)
    chunks = list(idx_chunks(images, labels, rows))
    assert len(chunks) == -(-23 // rows)
    x, y = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    assert (x * 256 == pixels.reshape(23, -1)).all()
    assert (y == np.eye(5)[classes]).all()
    assert all(a is b for a, b in idx_chunks(images, rows=rows))
    assert next(idx_chunks(images, labels, rows, n_classes=7))[1].shape[1] == 7


@pytest.mark.parametrize("kind", CODES)
def test_idx_files_of_every_type(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 99, (9, 4))
    file = write_idx(tmp_path / "values", values, kind)
    x = np.concatenate([x for x, _ in idx_chunks(file, rows=4)])
    assert x.dtype.isnative
    assert (x * (256 if kind == "u1" else 1) == read_idx(file)).all()


def test_bad_idx_files(tmp_path: Path) -> None:
    images, labels, _, classes = images_and_labels(tmp_path, False)
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: idx_chunks(tmp_path / "none"), "^IDX file: expected an existing file, found no such file"),
        (lambda: idx_chunks(labels), "^images in .*labels: expected at least one image"),
        (lambda: idx_chunks(images, images), r"^IDX file: expected labels \(1 axis\), found 3 axes"),
        (
            lambda: idx_chunks(images, write_idx(tmp_path / "few", classes[:5])),
            "^labels in .*few: expected 23, one for each image, found 5",
        ),
        (
            lambda: idx_chunks(images, write_idx(tmp_path / "wide", classes, ">i4")),
            "^labels in .*wide: expected bytes, found type int32",
        ),
        (lambda: list(idx_chunks(images, labels, n_classes=3)), "^labels: expected classes below 3, found 4"),
    ]
    for call, message in calls:
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize("zipped", [False, True])
def test_damage_is_an_error_when_it_is_met(tmp_path: Path, zipped: bool) -> None:
    _, _, pixels, _ = images_and_labels(tmp_path, False)
    whole = write_idx(tmp_path / "whole", pixels, zipped=zipped).read_bytes()
    short, long = tmp_path / "short", write_idx(tmp_path / "long", pixels, zipped=zipped, tail=b"x")
    short.write_bytes(whole[:-8] if zipped else whole[:-1])
    chunks = idx_chunks(short, rows=5)
    assert len(next(chunks)[0]) == 5
    with pytest.raises(InputError, match=r"^IDX file: expected .*short"):
        list(chunks)
    with pytest.raises(
        InputError, match="^IDX file: expected 23 entries, as the header of .*long says, found more"
    ):
        list(idx_chunks(long, rows=5))
    huge = bytes([0, 0, 8, 2]) + struct.pack(">2I", 2**32 - 1, 2**32 - 1) + b"abc"
    (tmp_path / "huge").write_bytes(gzip.compress(huge) if zipped else huge)
    with pytest.raises(InputError, match=r"truncated"):
        list(idx_chunks(tmp_path / "huge"))


def test_images_of_digits_in_chunks(mnist_folder: Path) -> None:
    def find(kind: str) -> Path:
        return next(mnist_folder.glob(f"t10k-{kind}*"))

    images, labels = find("images"), find("labels")
    task = Task.from_chunks(idx_chunks(images, labels, rows=2048))
    x = read_idx(images).reshape(10000, -1) / 256
    whole = Task.from_data(x, np.eye(10)[read_idx(labels)])
    assert task.n_samples == 10000
    assert task.rank == whole.rank < 784
    tolerances.assert_close(task.input_cov, whole.input_cov, tolerances.backward(np.float64, 784))
