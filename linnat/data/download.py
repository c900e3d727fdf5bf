"""How are published files fetched? From several mirrors, resumed, verified, never half a file under its final name.

pooch, the usual downloader of data files, begins every interrupted file anew and knows one address for each, so this is
the smallest download on top of requests that does neither. Bytes go to a hidden `.part` file beside the target, which
outlives whatever interrupts the download and is continued by the next try, from the same mirror or another one (HTTP
Range); a mirror that ignores ranges starts it anew. When all bytes are there, their sha256 decides: the file
gets its name, or what was fetched is thrown away. A lock keeps two downloads into one folder apart.
"""

from __future__ import annotations

import hashlib
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnat._checks import InputError, as_choice, as_scalar, fail
from linnat.data.places import VARIABLE, FolderLike, cache_folder, expand, find_file, look, places
from linnat.data.published import PUBLISHED, PublishedFile, PublishedSet, is_published
from linnat.data.sets import MissingExtra

if TYPE_CHECKING:
    import requests

Progress = Callable[[str, int, int], None]
CHUNK = 1 << 16
TRIES = 20  # of one file from one mirror, as long as each brings something
LOWEST_RATE = 1000  # bytes a second, below which a mirror counts as stalled
GZIP = b"\x1f\x8b"


class _Unusable(Exception):
    """A mirror cannot serve a file; `silent` where it does not answer or stalls, and is not asked for other files."""

    def __init__(self, reason: str, *, silent: bool = False) -> None:
        super().__init__(reason)
        self.silent = silent


class _Cut(Exception):
    """A stream broke off."""


def fetch(
    name: str,
    folder: FolderLike | None = None,
    *,
    mirrors: Sequence[str] = (),
    timeout: float = 10.0,
    progress: Progress | None = None,
) -> Path:
    """Make sure that a published set is there: download what lacks, unless a place holds it all.

    Parameters
    ----------
    name : {"mnist", "fashion-mnist"}
    folder : path, optional
        The set goes to a folder of its name in it; to the user's cache by default.
    mirrors : sequence of str
        Addresses of folders with the files, asked before the known ones.
    timeout : float
        Seconds without an answer, or without 1 kB a second, after which a mirror is given up.
    progress : callable(file name, bytes there, bytes in all), optional

    Returns
    -------
    Path
        The folder that holds the set, every file verified.

    Raises
    ------
    InputError
        Where no mirror could serve a file (says why, and what to do by hand), the folder cannot be written, or it
        holds other files under these names.
    MissingExtra
        Without requests and filelock.
    """
    known = PUBLISHED[as_choice(name, "name", tuple(PUBLISHED))]
    root = cache_folder() if folder is None else expand(folder)
    if root is None:
        fail("folder", "a folder to download to", "a user without a home")
    target = root if root.name == name else root / name
    for place in places(name, folder):
        states = look(place, name)
        if set(states.values()) == {"verified"}:
            return place.folder
        if "missing" not in states.values():
            _refuse(place.folder, [stem for stem, state in states.items() if state != "verified"])
        if place.folder == target:
            break
    return fetch_set(known, target, mirrors=(*mirrors, *known.mirrors), timeout=timeout, progress=progress)


def fetch_set(
    known: PublishedSet,
    folder: Path,
    *,
    mirrors: Sequence[str] | None = None,
    timeout: float = 10.0,
    pause: float = 0.5,
    progress: Progress | None = None,
) -> Path:
    """Download the files of a set that are not yet in a folder; `pause` seconds lie between two tries at a mirror."""
    seconds = as_scalar(timeout, "timeout", low=0, open_low=True)
    alive = [address.rstrip("/") + "/" for address in (known.mirrors if mirrors is None else mirrors)]
    filelock = _extra()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".download.lock", timeout=0):
            for file in known.files:
                present = find_file(folder, file.stem)
                if present is None:
                    _fetch_file(file, folder, known, alive, seconds, pause, progress)
                elif not is_published(present, file):
                    _refuse(folder, [present.name])
    except filelock.Timeout:
        fail("folder", f"no other download into {folder}", "one under way", "Wait until it has ended.")
    except OSError as error:
        raise InputError(
            f"folder: expected a folder that can be written, found {folder} ({error.strerror or error})."
        ) from None
    return folder


def _fetch_file(
    file: PublishedFile,
    folder: Path,
    known: PublishedSet,
    alive: list[str],
    timeout: float,
    pause: float,
    progress: Progress | None,
) -> None:
    name = f"{file.stem}.gz"
    part, reasons = folder / f".{name}.part", []

    def report(done: int) -> None:
        if progress is not None:
            progress(name, done, file.size)

    for mirror in tuple(alive):
        try:
            _complete(mirror + name, file, part, timeout, pause, report)
        except _Unusable as error:
            reasons.append(f"{mirror}: {error}")
            if error.silent:
                alive.remove(mirror)
        else:
            os.replace(part, folder / name)
            return
    names = ", ".join(f"{other.stem}.gz" for other in known.files)
    fail(
        "download",
        f"{name} ({file.size} bytes) from a mirror of {known.name}",
        "; ".join(reasons) or "no mirror that answers",
        f"Without a connection: copy {names} to {folder}, or to a folder {known.name} in a folder that the "
        f"environment variable {VARIABLE} names. What has been fetched is kept: the same command goes on from there.",
    )


def _complete(
    url: str, file: PublishedFile, part: Path, timeout: float, pause: float, report: Callable[[int], None]
) -> None:
    """Bring the partial file to its end from one mirror, and verify it."""
    fruitless = 0
    for _ in range(TRIES):
        had = part.stat().st_size if part.exists() else 0
        try:
            if had < file.size:
                _append(url, file, part, had, timeout, report)
        except _Cut as error:
            fruitless += (part.stat().st_size if part.exists() else 0) <= had
            if fruitless > 1:
                raise _Unusable(str(error)) from None
            time.sleep(pause)
            continue
        with part.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found == file.sha256:
            return
        part.unlink()
        if had == 0:  # this mirror alone is at fault
            raise _Unusable(f"other content (sha256 {found})")
    raise _Unusable(f"broken off {TRIES} times")


def _append(
    url: str, file: PublishedFile, part: Path, had: int, timeout: float, report: Callable[[int], None]
) -> None:
    """Ask for the bytes that lack and write them, as they come."""
    # As it is: a server that unpacks or packs for the way would change lengths and content.
    headers = {"Accept-Encoding": "identity", "User-Agent": "linnat"}
    if had:
        headers["Range"] = f"bytes={had}-"
    with _answer(url, headers, timeout) as response:
        place = _first_byte(response, file.size, had)
        watch = _Watch(timeout)
        piece = _read(response, file.size - place, watch)
        if not piece:
            raise _Cut(f"broken off after {place} bytes")
        if place == 0 and not piece.startswith(GZIP[: len(piece)]):
            raise _Unusable("a page in place of the file")
        with part.open("r+b" if place else "wb") as stream:
            stream.seek(place)
            stream.truncate()
            while piece:
                stream.write(piece)
                place += len(piece)
                report(place)
                piece = _read(response, file.size - place, watch)
            stream.flush()
            os.fsync(stream.fileno())
    if place < file.size:
        raise _Cut(f"broken off after {place} bytes")


def _first_byte(response: requests.Response, size: int, had: int) -> int:
    """Return where in the file an answer begins; whatever cannot be this file is refused before anything is written."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length", str(size))
        if length != str(size):
            raise _Unusable(f"{length} bytes in place of {size}")
        return 0
    if response.status_code == 206 and had:
        stated = response.headers.get("Content-Range", "")
        if not re.fullmatch(rf"bytes {had}-\d+/({size}|\*)", stated.strip()):
            raise _Unusable(f"another range ({stated or 'none stated'})")
        return had
    raise _Unusable(f"status {response.status_code}")


class _Watch:
    """Tells a stream that stalls, also one that drips."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.since, self.read = seconds, time.monotonic(), 0

    def saw(self, count: int) -> None:
        """Note bytes; raise _Unusable where too few came since the last look."""
        self.read += count
        passed = time.monotonic() - self.since
        if passed >= self.seconds:
            if self.read < LOWEST_RATE * passed:
                raise _Unusable(f"less than {LOWEST_RATE} bytes a second", silent=True)
            self.since, self.read = time.monotonic(), 0


def _read(response: requests.Response, left: int, watch: _Watch) -> bytes:
    """Return some of the bytes left, none at the end."""
    import urllib3

    if left <= 0:
        return b""
    try:
        # Whatever has arrived, undecoded: `read` would wait for a whole chunk however slowly it comes.
        piece: bytes = response.raw.read1(min(CHUNK, left), decode_content=False)
    except (urllib3.exceptions.ReadTimeoutError, TimeoutError) as error:
        raise _Unusable(_reason(error, watch.seconds), silent=True) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _Cut(_reason(error, watch.seconds)) from None
    if piece:
        watch.saw(len(piece))
    return piece


def _answer(url: str, headers: dict[str, str], timeout: float) -> requests.Response:
    """Return the answer of a server, its body unread.

    In a thread, which is left behind when time is up: looking up a name takes what it takes, and each address of a name
    has a time limit of its own.
    """
    import requests
    import urllib3

    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(requests.get(url, headers=headers, stream=True, timeout=timeout))
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        found = answers.get(timeout=1.5 * timeout)
    except queue.Empty:
        raise _Unusable(f"no answer within {timeout:g} s", silent=True) from None
    if isinstance(found, requests.ConnectionError) and "aborted" in str(found):
        raise _Cut("connection broken off before an answer")  # worth a second try
    if isinstance(found, Exception):
        raise _Unusable(_reason(found, timeout), silent=True)
    response: requests.Response = found
    return response


def _reason(error: Exception, timeout: float) -> str:
    """Return a few words for what went wrong on the way."""
    text = " ".join(str(error).split())
    for sign, words in (
        ("resolve", "its name is not found"),
        ("refused", "connection refused"),
        ("unreachable", "network unreachable"),
        ("timed out", f"no answer within {timeout:g} s"),
        ("IncompleteRead", "connection broken off"),
        ("reset", "connection broken off"),
        ("CERTIFICATE", "its certificate is not trusted"),
    ):
        if sign in text:
            return words
    return text[:120] or type(error).__name__


def _refuse(folder: Path, names: Sequence[str]) -> None:
    fail(
        "data",
        f"no files but the published ones in {folder}",
        f"other content in {', '.join(names)}",
        "Delete them and fetch again, or move them to a folder with another name.",
    )


def _extra() -> Any:
    """Return filelock, or say what is to be installed."""
    try:
        import filelock
        import requests  # noqa: F401
    except ImportError:
        raise MissingExtra("install linnat[data] (requests and filelock download files)") from None
    return filelock
