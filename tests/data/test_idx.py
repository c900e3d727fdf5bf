"""Does the IDX reader read what is there, refuse what is not, and never allocate more than a file can hold?"""

from __future__ import annotations

import gzip
import math
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat import InputError
from linnat.data import idx_chunks, load_data, read_idx
from linnat.data.idx import CHUNK
from linnat.exact.task import Task

CODES = {8: "u1", 9: "i1", 11: "i2", 12: "i4", 13: "f4", 14: "f8"}


def encode(array: np.ndarray, code: int = 8) -> bytes:
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.dtype(CODES[code]).newbyteorder(">")).tobytes()


def check_message(error: InputError) -> None:
    assert "\n" not in str(error)


def write(folder: Path, content: bytes, *, zipped: bool = False) -> Path:
    path = folder / "file"
    path.write_bytes(gzip.compress(content, compresslevel=1, mtime=0) if zipped else content)
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


def peak_while_reading(path: Path, **options: int) -> int:
    """Return the most memory held at a time, with whatever the reader returns or raises."""
    tracemalloc.start()
    try:
        array = read_idx(path, **options)
        del array
    except InputError as error:
        check_message(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def reads_or_refuses(path: Path) -> None:
    """The one promise: an array no larger than the file's content, or one clear line."""
    content = path.read_bytes()
    try:
        array = read_idx(path)
    except InputError as error:
        check_message(error)
        return
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    assert array.dtype.isnative
    assert array.nbytes + 4 + 4 * array.ndim == len(content)
    kind = np.dtype(CODES[content[2]]).newbyteorder(">")
    assert array.astype(kind).tobytes() == content[4 + 4 * array.ndim :]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("lengths", [(60000, 1000, 1000), (4, 100, 10)])
def test_a_header_that_claims_gigabytes_allocates_next_to_nothing(
    tmp_path: Path, zipped: bool, lengths: tuple[int, ...]
) -> None:
    # A gzip file may hold 1032 times its size: of gzip files the first claim is refused unread, the second is not.
    path = write(tmp_path, bytes([0, 0, 8, 3]) + struct.pack(">3I", *lengths) + b"abc", zipped=zipped)
    assert peak_while_reading(path) < CHUNK
    with pytest.raises(InputError, match="header"):
        read_idx(path)


def test_a_small_gzip_file_that_expands_far_beyond_its_header_is_not_unpacked(tmp_path: Path) -> None:
    path = write(tmp_path, encode(np.zeros((2, 2, 2))) + bytes(50_000_000), zipped=True)
    with pytest.raises(InputError, match="more"):
        read_idx(path)
    assert peak_while_reading(path) < 2_000_000


def test_a_gzip_file_that_keeps_what_its_header_promises_is_held_to_a_limit(tmp_path: Path) -> None:
    path = write(tmp_path, encode(np.zeros((500, 100, 1000), np.uint8)), zipped=True)
    assert path.stat().st_size < CHUNK
    with pytest.raises(
        InputError, match="^IDX file: expected at most 47040000 bytes of entries, found 50000000"
    ):
        read_idx(path, max_bytes=47_040_000)
    assert peak_while_reading(path, max_bytes=47_040_000) < CHUNK


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("code", [8, 14])
def test_reading_takes_little_more_memory_than_the_entries(tmp_path: Path, zipped: bool, code: int) -> None:
    array = np.random.default_rng(0).integers(0, 100, (40, 30, 1000)).astype(CODES[code])
    path = write(tmp_path, encode(array, code), zipped=zipped)
    assert peak_while_reading(path) < 9 / 8 * array.nbytes + 2_200_000
    found = read_idx(path)
    np.testing.assert_array_equal(found, array)
    found[0] = 1  # its own memory


@pytest.mark.parametrize(
    "lengths", [(0,), (0, 2**32 - 1, 2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1, 2**32 - 1, 0)]
)
def test_no_entries_with_any_lengths(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    path = write(tmp_path, bytes([0, 0, 8, len(lengths)]) + struct.pack(f">{len(lengths)}I", *lengths))
    if len(lengths) == 1:
        assert read_idx(path).shape == lengths
    else:
        with pytest.raises(InputError, match="^IDX file: expected lengths that an array can have"):
            read_idx(path)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("code", CODES)
def test_a_file_cut_at_any_length_is_refused(tmp_path: Path, code: int, zipped: bool) -> None:
    whole = write(tmp_path, encode(np.arange(12).reshape(2, 3, 2), code), zipped=zipped).read_bytes()
    for length in range(len(whole)):
        path = write(tmp_path, whole[:length])
        with pytest.raises(InputError) as caught:
            read_idx(path)
        check_message(caught.value)


@given(
    start=st.binary(min_size=2, max_size=2) | st.just(b"\0\0"),
    code=st.sampled_from([*CODES, 0, 7, 10, 255]),
    lengths=st.lists(st.integers(0, 4) | st.integers(0, 2**32 - 1), max_size=9),
    axes=st.none() | st.integers(0, 255),
    surplus=st.integers(-9, 9),
    zipped=st.booleans(),
)
def test_headers_and_bodies_that_may_not_fit(
    tmp_path_factory, start: bytes, code: int, lengths: list, axes: int | None, surplus: int, zipped: bool
) -> None:
    header = start + bytes([code, len(lengths) if axes is None else axes])
    header += struct.pack(f">{len(lengths)}I", *lengths)
    wanted = math.prod(lengths) * np.dtype(CODES.get(code, "u1")).itemsize + surplus
    body = bytes(range(256)) * 8
    folder = tmp_path_factory.mktemp("idx")
    path = write(folder, header + body[: max(0, min(wanted, len(body)))], zipped=zipped)
    assert peak_while_reading(path) < CHUNK
    reads_or_refuses(path)


@given(data=st.data(), code=st.sampled_from(list(CODES)), zipped=st.booleans())
def test_flipped_missing_and_repeated_bytes(
    tmp_path_factory, data: st.DataObject, code: int, zipped: bool
) -> None:
    path = write(tmp_path_factory.mktemp("idx"), encode(np.arange(60).reshape(3, 4, 5), code), zipped=zipped)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["change", "delete", "repeat", "insert"])):
            case "change":
                content[place] = data.draw(st.integers(0, 255))
            case "delete":
                del content[place : place + data.draw(st.integers(1, 9))]
                content = content or bytearray(b"\0")
            case "repeat":
                content += content[place:]
            case "insert":
                content[place:place] = data.draw(st.binary(max_size=9))
    path.write_bytes(bytes(content))
    reads_or_refuses(path)


@given(content=st.binary(max_size=64), zipped=st.booleans(), headed=st.booleans())
def test_any_bytes_give_an_array_or_an_input_error(
    tmp_path_factory, content: bytes, zipped: bool, headed: bool
) -> None:
    if headed:
        content = b"\0\0" + content
    reads_or_refuses(write(tmp_path_factory.mktemp("idx"), content, zipped=zipped))


def test_a_signalling_nan_is_refused_without_a_warning(tmp_path: Path) -> None:
    # Warnings are errors here; a cast of such a number makes one.
    content = bytes([0, 0, 13, 3]) + struct.pack(">3I", 1, 1, 2) + bytes.fromhex("7f800001 3f800000")
    path = write(tmp_path, content)
    with pytest.raises(
        InputError, match=r"^images in .*: expected finite numbers, found nan at index \(0, 0\)"
    ):
        load_data(path)
    ((x, _),) = idx_chunks(path)
    assert np.isnan(x).tolist() == [[True, False]]
    with pytest.raises(InputError, match="finite numbers"):
        Task.from_chunks(idx_chunks(path))


@pytest.mark.skipif(sys.platform == "win32", reason="resource is POSIX")
def test_bombs_do_not_grow_the_process(tmp_path: Path) -> None:
    # What tracemalloc does not see: the memory of the whole process, from the operating system.
    bombs = {
        "claim": bytes([0, 0, 8, 3]) + struct.pack(">3I", 1000, 1000, 190) + b"abc" * 70_000,
        "expands": encode(np.zeros((2, 2, 2))) + bytes(50_000_000),
    }
    for name, content in bombs.items():
        (tmp_path / name).write_bytes(gzip.compress(content, compresslevel=1))
    script = (
        "import resource, sys; from linnat import InputError; from linnat.data import read_idx\n"
        "most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nstart = most()\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        read_idx(path)\n        sys.exit(path)\n    except InputError:\n        pass\n"
        "print((most() - start) // (1024 if sys.platform == 'darwin' else 1))"
    )
    command = [sys.executable, "-c", script, *(str(tmp_path / name) for name in bombs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 8_000  # kB; the bombs hold 50 MB and claim 190
