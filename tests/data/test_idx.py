"""Does the IDX reader read what is there, refuse what is not, and never allocate more than a file can hold?"""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat import InputError
from linnat.data import read_idx

CODES = {8: "u1", 9: "i1", 11: "i2", 12: "i4", 13: "f4", 14: "f8"}


def encode(array: np.ndarray, code: int = 8) -> bytes:
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.dtype(CODES[code]).newbyteorder(">")).tobytes()


def check_message(error: InputError) -> None:
    assert "\n" not in str(error)


def write(folder: Path, content: bytes, *, zipped: bool = False) -> Path:
    path = folder / "file"
    path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)
    return path


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_type_is_read_in_native_order(tmp_path: Path, code: int, zipped: bool) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    found = read_idx(write(tmp_path, encode(array, code), zipped=zipped), ndim=3)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.dtype(CODES[code])
    assert found.dtype.isnative


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c[:-1], "truncated"),
        (lambda c: c[:-5], "truncated"),
        (lambda c: c + b"\0", "more"),
        (lambda c: c[:9], "header"),
        (lambda c: c[:2], "header"),
        (lambda c: b"", "header"),
        (lambda c: b"\x01" + c[1:], "header"),
        (lambda c: c[:2] + b"\x07" + c[3:], "header"),
        (lambda c: c[:3] + b"\x00" + c[4:], "header"),
        (lambda c: c[:3] + b"\x01" + c[4:], "interchanged"),
        (lambda c: c[:4] + b"\xff\xff\xff\xff" + c[8:], "header"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, change, words: str, zipped: bool) -> None:
    path = write(tmp_path, change(encode(np.arange(24).reshape(2, 3, 4))), zipped=zipped)
    with pytest.raises(InputError, match="IDX file") as caught:
        read_idx(path, ndim=3)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_gzip_stream_is_an_input_error(tmp_path: Path) -> None:
    path = write(tmp_path, encode(np.random.default_rng(0).integers(0, 256, (5, 9, 9))), zipped=True)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="unreadable"):
        read_idx(path)


def test_missing_file_and_folder_are_input_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(InputError, match="no such file"):
            read_idx(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_header_that_claims_gigabytes_allocates_next_to_nothing(tmp_path: Path, zipped: bool) -> None:
    path = write(
        tmp_path, bytes([0, 0, 8, 3]) + struct.pack(">3I", 60000, 1000, 1000) + b"abc", zipped=zipped
    )
    tracemalloc.start()
    with pytest.raises(InputError):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_small_gzip_file_that_expands_far_beyond_its_header_is_not_unpacked(tmp_path: Path) -> None:
    path = write(tmp_path, encode(np.zeros((2, 2, 2))) + bytes(200_000_000), zipped=True)
    tracemalloc.start()
    with pytest.raises(InputError, match="more"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@given(content=st.binary(max_size=64), zipped=st.booleans(), headed=st.booleans())
def test_any_bytes_give_an_array_or_an_input_error(
    tmp_path_factory, content: bytes, zipped: bool, headed: bool
) -> None:
    if headed:
        content = b"\0\0" + content
    path = write(tmp_path_factory.mktemp("idx"), content, zipped=zipped)
    try:
        array = read_idx(path)
    except InputError as error:
        check_message(error)
    else:
        assert array.nbytes <= len(content)


@given(data=st.data())
def test_any_single_changed_byte_gives_an_array_or_an_input_error(
    tmp_path_factory, data: st.DataObject
) -> None:
    zipped = data.draw(st.booleans())
    path = write(tmp_path_factory.mktemp("idx"), encode(np.arange(60).reshape(3, 4, 5)), zipped=zipped)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        array = read_idx(path)
    except InputError as error:
        check_message(error)
    else:
        assert array.nbytes <= 1032 * len(content)
