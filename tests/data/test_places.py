"""Are published sets looked for where the page says, in that order, and is what is there described rightly?"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from linnat import InputError
from linnat.data import load_data, load_split
from linnat.data.places import cache_folder, find_set, look, own_name, places
from linnat.data.published import PUBLISHED, STEMS, is_published, read_published
from tests.data.server import CONTENT, ENTRIES, encode, small_set


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Empty folders for every kind of place, with a small set published as mnist."""
    monkeypatch.setitem(PUBLISHED, "mnist", small_set())
    monkeypatch.setattr("linnat.data.places.TREE", tmp_path / "tree")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "setup.cfg").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("LINNAT_DATA", str(tmp_path / "variable"))
    return {
        "given": tmp_path / "given",
        "variable": tmp_path / "variable",
        "cache": tmp_path / "caches" / "linnat",
        "shared": tmp_path / "shared",
    }


def put(folder: Path, stems: tuple[str, ...] = STEMS, zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        content = CONTENT[f"{stem}.gz"]
        (folder / (f"{stem}.gz" if zipped else stem)).write_bytes(
            content if zipped else gzip.decompress(content)
        )
    return folder


def test_the_first_complete_place_answers(roots: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="linnat data fetch mnist") as caught:
        load_split("mnist", folder=roots["given"])
    for root in roots.values():
        assert str(root / "mnist") in str(caught.value)
    for kind in ("shared", "cache", "variable", "given"):  # last to first
        put(roots[kind] / "mnist", zipped=kind != "cache")
        found = find_set("mnist", roots["given"])
        assert {file.parent for file in found} == {roots[kind] / "mnist"}
        assert load_split("mnist", folder=roots["given"]).x.shape == (300, 784)
        assert len(load_data("mnist", folder=roots["given"]).x) == 300


def test_an_incomplete_place_is_passed_over_and_named(roots: dict[str, Path]) -> None:
    put(roots["variable"] / "mnist", STEMS[:2])
    assert len(load_data("mnist").x) == 300  # needs no test set
    with pytest.raises(
        InputError, match="variable.mnist .LINNAT_DATA, which lacks t10k-images-idx3-ubyte and"
    ):
        load_split("mnist")
    put(roots["cache"] / "mnist")
    assert find_set("mnist")[0].parent == roots["cache"] / "mnist"


def test_a_sets_own_folder_may_be_named(roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    place = put(roots["given"] / "mnist")
    assert find_set("mnist", place)[0].parent == place
    monkeypatch.setenv("LINNAT_DATA", str(place))
    assert find_set("mnist")[0].parent == place
    with pytest.raises(InputError, match="the IDX files of fashion-mnist"):
        find_set("fashion-mnist", place)


def test_what_is_there_is_described(roots: dict[str, Path]) -> None:
    folder = put(roots["given"] / "mnist", STEMS[:3])
    (folder / f"{STEMS[1]}.gz").write_bytes(CONTENT[f"{STEMS[3]}.gz"])
    (folder / f"{STEMS[2]}.gz").write_bytes(CONTENT[f"{STEMS[2]}.gz"][:100])
    states = look(places("mnist", roots["given"])[0], "mnist")
    assert states == dict(zip(STEMS, ("verified", "other content", "other content", "missing"), strict=True))


def test_content_counts_and_not_compression(tmp_path: Path) -> None:
    file = small_set().files[0]
    again = tmp_path / "again.gz"
    again.write_bytes(gzip.compress(encode(ENTRIES[STEMS[0]]), compresslevel=1))
    assert again.read_bytes() != CONTENT[f"{STEMS[0]}.gz"]
    assert is_published(again, file)
    assert read_published(again, file).shape == (300, 28, 28)
    # The same bytes with another type are another file, and so are more bytes.
    other = bytearray(encode(ENTRIES[STEMS[0]]))
    other[2] = 9
    for content in (bytes(other), encode(ENTRIES[STEMS[0]]) + b"\0"):
        again.write_bytes(gzip.compress(content))
        assert not is_published(again, file)
        with pytest.raises(InputError, match="expected the published file|found more"):
            read_published(again, file)


def test_a_file_that_claims_more_than_the_published_one_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 1, 45, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(301 * 784))
    with pytest.raises(InputError, match="^IDX file: expected at most 235216 bytes of entries, found 235984"):
        read_published(path, small_set().files[0])


def test_the_name_of_ones_own_set(roots: dict[str, Path]) -> None:
    assert own_name(put(roots["given"] / "mnist")) == "mnist"
    (roots["given"] / "mnist" / f"{STEMS[3]}.gz").write_bytes(b"mine")
    assert own_name(roots["given"] / "mnist") == "own-mnist"
    assert own_name(roots["given"]) == "given"


def test_the_cache_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / "x" / "linnat"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "linnat"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "linnat"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "linnat"


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache_folder() is None
    assert "the cache" not in [place.why for place in places("mnist")]
