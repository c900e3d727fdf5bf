"""Do downloads end with the published files, or with one clear error and what has been fetched? A bad server says."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linnat import InputError
from linnat.data import MissingExtra, load_split, read_idx
from linnat.data.download import fetch, fetch_set
from linnat.data.published import MNIST, PUBLISHED, STEMS
from tests.data.server import CONTENT, ENTRIES, IMAGES, serving, small_set

PART = f".{IMAGES}.part"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as found:
        yield found


def get(server: Any, folder: Path, *behaviours: str, timeout: float = 5.0) -> None:
    mirrors = [server.url(behaviour) for behaviour in behaviours]
    fetch_set(small_set(*mirrors), folder, timeout=timeout, pause=0.0)


def check(folder: Path) -> None:
    """All files are there, as they are served, and nothing else but the lock."""
    assert {path.name for path in folder.iterdir()} - {".download.lock"} == set(CONTENT)
    for name, content in CONTENT.items():
        assert (folder / name).read_bytes() == content
    for stem, entries in ENTRIES.items():
        np.testing.assert_array_equal(read_idx(folder / f"{stem}.gz"), entries)


@pytest.mark.parametrize(
    "behaviour", ["good", "norange", "unmeasured", "unpacked", "moved", "flaky", "unmeasured_long"]
)
def test_files_arrive(server: Any, tmp_path: Path, behaviour: str) -> None:
    get(server, tmp_path / "new" / "folder", behaviour)
    check(tmp_path / "new" / "folder")


def test_a_broken_connection_is_resumed_where_it_broke(server: Any, tmp_path: Path) -> None:
    get(server, tmp_path, "cut")
    check(tmp_path)
    size = len(CONTENT[IMAGES])
    third = 1 + size // 3
    asked = [wanted for _, name, wanted in server.seen if name == IMAGES]
    assert asked == [None, f"bytes={third}-", f"bytes={2 * third}-"]


def test_the_next_mirror_goes_on_where_one_broke(server: Any, tmp_path: Path) -> None:
    get(server, tmp_path, "stall", "good", timeout=0.3)
    check(tmp_path)
    half = len(CONTENT[IMAGES]) // 2
    assert server.seen[:2] == [("stall", IMAGES, None), ("good", IMAGES, f"bytes={half}-")]
    # A mirror that stalls is not asked for the other files.
    assert [behaviour for behaviour, _, _ in server.seen] == ["stall"] + 4 * ["good"]


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("page", "21 bytes in place of"),
        ("unmeasured_page", "a page in place of the file"),
        ("long_page", "a page in place of the file"),
        ("missing", "status 404"),
        ("broken", "status 500"),
        ("longer", "bytes in place of"),
        ("shorter", "bytes in place of"),
        ("wrong", "other content"),
        ("other_range", "status 206"),
        ("empty", "broken off"),
        ("empty_norange", "broken off"),
        ("cut_norange", "broken off"),
        ("silent", "no answer within 0.4 s"),
        ("stall", "no answer within 0.4 s"),
        ("drip", "less than 1000 bytes a second"),
    ],
)
def test_a_bad_mirror_is_named_and_left_for_the_next(
    server: Any, tmp_path: Path, behaviour: str, reason: str
) -> None:
    begin = time.monotonic()
    with pytest.raises(InputError, match=f"^download: expected .*{reason}") as caught:
        get(server, tmp_path / "alone", behaviour, timeout=0.4)
    assert time.monotonic() - begin < 5
    text = str(caught.value)
    assert "\n" not in text
    assert all(name in text for name in CONTENT)
    assert str(tmp_path / "alone") in text
    assert "LINNAT_DATA" in text
    assert not any((tmp_path / "alone" / name).exists() for name in CONTENT)
    get(server, tmp_path / "both", behaviour, "good", timeout=0.4)
    check(tmp_path / "both")


def test_a_mirror_that_is_silent_is_asked_once(server: Any, tmp_path: Path) -> None:
    get(server, tmp_path, "silent", "good", timeout=0.3)
    assert [behaviour for behaviour, _, _ in server.seen].count("silent") == 1


@pytest.mark.parametrize(
    "junk", [b"\x1f\x8bjunk of an earlier day", b"x" * len(CONTENT[IMAGES]), b"y" * 10**6]
)
def test_a_spoilt_part_is_found_out_and_fetched_anew(server: Any, tmp_path: Path, junk: bytes) -> None:
    (tmp_path / PART).write_bytes(junk)
    get(server, tmp_path, "good")
    check(tmp_path)


def test_a_wrong_answer_leaves_the_part_as_it_is(server: Any, tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(CONTENT[IMAGES][:5000])
    for behaviour in (
        "page",
        "unmeasured_page",
        "long_page",
        "missing",
        "broken",
        "longer",
        "other_range",
        "empty",
        "empty_norange",
    ):
        with pytest.raises(InputError, match="^download"):
            get(server, tmp_path, behaviour)
        assert (tmp_path / PART).read_bytes() == CONTENT[IMAGES][:5000]
    get(server, tmp_path, "good")
    assert server.seen[-4][2] == "bytes=5000-"
    check(tmp_path)


def test_a_finished_part_needs_no_mirror_and_finished_files_none(server: Any, tmp_path: Path) -> None:
    get(server, tmp_path, "good")
    (tmp_path / IMAGES).rename(tmp_path / PART)
    asked = len(server.seen)
    get(server, tmp_path, "good")
    assert len(server.seen) == asked
    check(tmp_path)


def test_a_process_killed_at_any_moment_leaves_no_half_file(server: Any, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from linnat.data.download import fetch_set\n"
        "from tests.data.server import small_set\n"
        "fetch_set(small_set(sys.argv[1]), Path(sys.argv[2]))"
    )
    size = len(CONTENT[IMAGES])
    for share in (0.1, 0.3):  # of the first file: the second process goes on where the first was killed
        command = [sys.executable, "-c", script, server.url("slow"), str(tmp_path)]
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        part, deadline = tmp_path / PART, time.monotonic() + 60
        while time.monotonic() < deadline and not (part.exists() and part.stat().st_size > share * size):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        assert share * size < part.stat().st_size < size
        assert not (tmp_path / IMAGES).exists()
    kept = part.stat().st_size
    get(server, tmp_path, "good")
    assert ("good", IMAGES, f"bytes={kept}-") in server.seen
    check(tmp_path)


def test_two_downloads_into_one_folder_keep_apart(server: Any, tmp_path: Path) -> None:
    from filelock import FileLock

    with (
        FileLock(tmp_path / ".download.lock"),
        pytest.raises(InputError, match="^folder: expected no other download into"),
    ):
        get(server, tmp_path, "good")
    assert server.seen == []
    get(server, tmp_path, "good")
    check(tmp_path)


def test_files_of_ones_own_are_not_overwritten(server: Any, tmp_path: Path) -> None:
    (tmp_path / STEMS[1]).write_bytes(b"mine")
    with pytest.raises(InputError, match=f"found other content in {STEMS[1]}"):
        get(server, tmp_path, "good")
    assert (tmp_path / STEMS[1]).read_bytes() == b"mine"


def test_a_folder_that_cannot_be_written_is_one_error(server: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"^folder: expected a folder that can be written, found .*file"):
        get(server, tmp_path / "file", "good")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of processes are POSIX")
def test_a_full_disk_is_one_error_and_is_resumed(server: Any, tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; from pathlib import Path; from linnat.data.download import fetch_set\n"
        "from tests.data.server import small_set; from linnat import InputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "try:\n    fetch_set(small_set(sys.argv[1]), Path(sys.argv[2]))\n"
        "except InputError as error:\n    print(error)"
    )
    command = [sys.executable, "-B", "-c", script, server.url("good"), str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("folder: expected a folder that can be written")
    assert "File too large" in done.stdout
    assert (tmp_path / PART).stat().st_size == 100_000
    get(server, tmp_path, "good")
    check(tmp_path)


def test_offline_is_one_error_within_seconds(tmp_path: Path) -> None:
    begin = time.monotonic()
    # Nothing listens there; the name is reserved for never being found (RFC 6761).
    known = small_set("http://127.0.0.1:9/", "http://mnist.invalid/")
    with pytest.raises(InputError, match="connection refused; http://mnist.invalid/: ") as caught:
        fetch_set(known, tmp_path, timeout=2.0)
    assert time.monotonic() - begin < 8
    assert "copy train-images-idx3-ubyte.gz" in str(caught.value)


def test_progress_reaches_the_size_of_each_file(server: Any, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    known = small_set(server.url("cut"))
    fetch_set(known, tmp_path, pause=0.0, progress=lambda *call: calls.append(call))
    for file in known.files:
        done = [count for name, count, total in calls if name == f"{file.stem}.gz" and total == file.size]
        assert done == sorted(done)
        assert done[-1] == file.size


def test_by_name_to_the_cache_and_not_twice(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PUBLISHED, "mnist", small_set(server.url("good")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LINNAT_DATA", raising=False)
    monkeypatch.setattr("linnat.data.places.TREE", tmp_path)
    place = fetch("mnist")
    assert tmp_path in place.parents
    check(place)
    asked = len(server.seen)
    assert fetch("mnist") == place
    assert len(server.seen) == asked
    check(fetch("mnist", tmp_path / "where it is wanted"))
    assert len(server.seen) == asked + 4
    assert load_split("mnist").x.shape == (300, 784)
    # Other files that would answer first are not hidden behind a download.
    first = tmp_path / "first" / "mnist"
    first.mkdir(parents=True)
    for stem in STEMS:
        (first / stem).write_bytes(b"mine")
    with pytest.raises(InputError, match=f"^data: expected no files but the published ones in {first}"):
        fetch("mnist", first.parent)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest, **options):
        if name.startswith("filelock"):
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtra, match=r"install linnat\[data\]"):
        fetch_set(small_set(), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"), [({"timeout": 0}, "^timeout: "), ({"timeout": float("nan")}, "^timeout: ")]
)
def test_bad_arguments(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fetch_set(small_set(), tmp_path, **options)
    with pytest.raises(InputError, match="^name: expected one of 'mnist', 'fashion-mnist'"):
        fetch("digits")


def test_the_table_of_published_files_is_that_of_the_files(mnist_folder: Path) -> None:
    for file in MNIST.files:
        assert (mnist_folder / f"{file.stem}.gz").stat().st_size == file.size
        assert f"{file.sha256}  {file.stem}.gz" in (mnist_folder / "SHA256SUMS").read_text()
