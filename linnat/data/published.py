"""Which files are MNIST and Fashion-MNIST? Names, sizes, checksums of the published files, and who serves them.

A file is known by its content: the sha256 of the IDX bytes, the same for a plain file and for a gzip file of any
compression. The sha256 of the published gzip files is what a download is held against.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from linnat._checks import Array, fail
from linnat.data.idx import read_idx

STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class PublishedFile(NamedTuple):
    """One file of a published set.

    Attributes
    ----------
    stem : str
        Its name without `.gz`.
    size : int
        Bytes of the gzip file.
    sha256 : str
        Of the gzip file.
    content_size, content_sha256
        Bytes and sha256 of the IDX file in it.
    """

    stem: str
    size: int
    sha256: str
    content_size: int
    content_sha256: str


class PublishedSet(NamedTuple):
    """A set of images that anybody can download.

    Attributes
    ----------
    name, words : str
    files : tuple of PublishedFile
        Training images and labels, test images and labels.
    mirrors : tuple of str
        Addresses of folders with these files, ending in a slash; all are asked, in this order.
    """

    name: str
    words: str
    files: tuple[PublishedFile, ...]
    mirrors: tuple[str, ...]


MNIST = PublishedSet(
    "mnist",
    "handwritten digits, 28 × 28, 60,000 + 10,000 (LeCun, Cortes, Burges; CC BY-SA 3.0)",
    (
        PublishedFile(
            STEMS[0],
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            47040016,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        PublishedFile(
            STEMS[1],
            28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            60008,
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        PublishedFile(
            STEMS[2],
            1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            7840016,
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        PublishedFile(
            STEMS[3],
            4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            10008,
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://raw.githubusercontent.com/fgnt/mnist/master/",
    ),
)

FASHION_MNIST = PublishedSet(
    "fashion-mnist",
    "articles of clothing, 28 × 28, 60,000 + 10,000 (Zalando Research; MIT)",
    (
        PublishedFile(
            STEMS[0],
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            47040016,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        PublishedFile(
            STEMS[1],
            29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            60008,
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        PublishedFile(
            STEMS[2],
            4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            7840016,
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        PublishedFile(
            STEMS[3],
            5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            10008,
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
)

PUBLISHED = {known.name: known for known in (MNIST, FASHION_MNIST)}


def read_published(path: Path, known: PublishedFile) -> Array:
    """Read one published file, plain or gzip, and hold its content against the checksum.

    Raises
    ------
    InputError
        For a file that cannot be read, or has other content.
    """
    entries = read_idx(path, ndim=3 if "images" in known.stem else 1, max_bytes=known.content_size)
    found = content_sha256(entries) if entries.dtype == np.uint8 else f"type {entries.dtype}"
    if found != known.content_sha256:
        fail(
            str(path),
            f"the published file (sha256 of the IDX bytes {known.content_sha256})",
            f"other content ({found})",
            "Delete it and fetch it again; if it is data of your own, give the path of its folder as its name.",
        )
    return entries


def content_sha256(entries: Array) -> str:
    """Return the sha256 of the IDX file that holds an array of bytes.

    Examples
    --------
    >>> content_sha256(np.zeros(3, np.uint8))[:16]
    'c51ace58717b2767'
    """
    lengths = np.array(entries.shape, ">u4").tobytes()
    digest = hashlib.sha256(bytes([0, 0, 8, entries.ndim]) + lengths)
    digest.update(np.ascontiguousarray(entries).data)
    return digest.hexdigest()


def is_published(path: Path, known: PublishedFile) -> bool:
    """Return whether a file, plain or gzip, has the published content, whatever the compression."""
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found in (known.sha256, known.content_sha256):
            return True
        digest, left = hashlib.sha256(), known.content_size + 1
        with gzip.open(path) as stream:
            while left > 0 and (piece := stream.read(min(left, 1 << 20))):
                digest.update(piece)
                left -= len(piece)
    except (OSError, EOFError, zlib.error):
        return False
    return digest.hexdigest() == known.content_sha256
