"""A web server on this machine that misbehaves in every way that a mirror does."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import re
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from linnat.data.published import STEMS, PublishedFile, PublishedSet, content_sha256

RNG = np.random.default_rng(0)
SHAPES = ((300, 28, 28), (300,), (40, 28, 28), (40,))
ENTRIES = {
    stem: RNG.integers(0, 256 if len(shape) == 3 else 10, shape).astype(np.uint8)
    for stem, shape in zip(STEMS, SHAPES, strict=True)
}


def encode(entries: np.ndarray) -> bytes:
    lengths = struct.pack(f">{entries.ndim}I", *entries.shape)
    return bytes([0, 0, 8, entries.ndim]) + lengths + entries.tobytes()


CONTENT = {f"{stem}.gz": gzip.compress(encode(entries), mtime=0) for stem, entries in ENTRIES.items()}
FILES = tuple(
    PublishedFile(
        stem,
        len(CONTENT[f"{stem}.gz"]),
        hashlib.sha256(CONTENT[f"{stem}.gz"]).hexdigest(),
        len(encode(entries)),
        content_sha256(entries),
    )
    for stem, entries in ENTRIES.items()
)
IMAGES = f"{STEMS[0]}.gz"


def small_set(*mirrors: str) -> PublishedSet:
    """Return a set like MNIST, of 300 + 40 images, that only the test's server has."""
    return PublishedSet("mnist", "for tests", FILES, mirrors)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serve /BEHAVIOUR/FILE; `server.seen` is the list of (behaviour, file, Range) asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        _, behaviour, name = self.path.split("/")
        wanted = self.headers.get("Range")
        self.server.seen.append((behaviour, name, wanted))  # type: ignore[attr-defined]
        self.close_connection = True
        content = CONTENT[name]
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and behaviour != "norange" else 0
        getattr(self, behaviour)(content, first)

    norange = lambda self, content, first: self.good(content, 0)  # noqa: E731

    def head(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()

    def start(self, content: bytes, first: int) -> bytes:
        size = len(content)
        if first:
            self.head(206, size - first, Content_Range=f"bytes {first}-{size - 1}/{size}")
        else:
            self.head(200, size)
        return content[first:]

    def good(self, content: bytes, first: int) -> None:
        self.wfile.write(self.start(content, first))

    def cut(self, content: bytes, first: int) -> None:
        self.wfile.write(self.start(content, first)[: 1 + len(content) // 3])

    def empty(self, content: bytes, first: int) -> None:
        self.start(content, first)

    def empty_norange(self, content: bytes, first: int) -> None:
        self.start(content, 0)

    def cut_norange(self, content: bytes, first: int) -> None:
        self.cut(content, 0)

    def stall(self, content: bytes, first: int) -> None:
        self.wfile.write(self.start(content, first)[: len(content) // 2 - first])
        self.server.stop.wait(20)  # type: ignore[attr-defined]

    def drip(self, content: bytes, first: int) -> None:
        for byte in self.start(content, first):
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if self.server.stop.wait(0.02):  # type: ignore[attr-defined]
                return

    def slow(self, content: bytes, first: int) -> None:
        rest = self.start(content, first)
        for place in range(0, len(rest), 1000):
            self.wfile.write(rest[place : place + 1000])
            time.sleep(0.01)

    def silent(self, content: bytes, first: int) -> None:
        self.server.stop.wait(20)  # type: ignore[attr-defined]

    def page(self, content: bytes, first: int) -> None:
        self.head(200, 21, Content_Type="text/html")
        self.wfile.write(b"<html>Not here</html>")

    def unmeasured_page(self, content: bytes, first: int) -> None:
        self.head(200, None, Content_Type="text/html", Connection="close")
        self.wfile.write(b"<html>Please log in</html>" * 9)

    def long_page(self, content: bytes, first: int) -> None:
        self.head(200, len(content))  # as long as the file
        self.wfile.write(b"<" * len(content))

    def missing(self, content: bytes, first: int) -> None:
        self.send_error(404)

    def broken(self, content: bytes, first: int) -> None:
        self.send_error(500)

    def longer(self, content: bytes, first: int) -> None:
        self.head(200, len(content) + 5)
        self.wfile.write(content + b"12345")

    def shorter(self, content: bytes, first: int) -> None:
        self.head(200, len(content) - 5)
        self.wfile.write(content[:-5])

    def unmeasured(self, content: bytes, first: int) -> None:
        self.head(200, None, Connection="close")
        self.wfile.write(content)

    def unmeasured_long(self, content: bytes, first: int) -> None:
        self.head(200, None, Connection="close")
        self.wfile.write(content + bytes(100_000))

    def wrong(self, content: bytes, first: int) -> None:
        other = content[:40] + bytes([content[40] ^ 1]) + content[41:]
        self.wfile.write(self.start(other, first))

    def other_range(self, content: bytes, first: int) -> None:
        self.head(206, len(content) - 3, Content_Range=f"bytes 3-{len(content) - 1}/{len(content)}")
        self.wfile.write(content[3:])

    def unpacked(self, content: bytes, first: int) -> None:
        # A server that calls a .gz file gzip-encoded, so that clients unpack it on the way.
        self.head(200, len(content), Content_Encoding="gzip")
        self.wfile.write(content)

    def flaky(self, content: bytes, first: int) -> None:
        if self.server.seen.count(self.server.seen[-1]) > 1:  # type: ignore[attr-defined]
            self.good(content, first)  # the first time there is no answer at all

    def moved(self, content: bytes, first: int) -> None:
        self.head(302, 0, Connection="close", Location=self.path.replace("moved", "good"))

    def log_message(self, *rest: Any) -> None:
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Threads that end with the test; clients that hang up are what is tested."""

    daemon_threads = True

    def handle_error(self, *rest: Any) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Any]:
    """Yield a server; `server.url(behaviour)` is a mirror."""
    server: Any = Server(("127.0.0.1", 0), Handler)
    server.seen, server.stop = [], threading.Event()
    server.url = lambda behaviour: f"http://127.0.0.1:{server.server_address[1]}/{behaviour}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
