"""Where are published sets of images looked for, and what is there?

In this order: the folder that is given, the folder named by the environment variable LINNAT_DATA, the user's cache,
and `shared` beside a source tree. A folder holds each set in a subfolder of its name, or is that subfolder. The first
place with all the files that are wanted answers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from linnat._checks import as_path, fail
from linnat.data.published import PUBLISHED, STEMS, is_published

VARIABLE = "LINNAT_DATA"
TREE = Path(__file__).resolve().parent.parent.parent
FolderLike = str | os.PathLike[str]


class Place(NamedTuple):
    """A folder that may hold a set, and why it is looked at."""

    why: str
    folder: Path


def cache_folder() -> Path | None:
    """Return the folder of the user's cache that downloads go to; None for a user without a home."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/AppData/Local")
    else:
        usual = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
        named = os.environ.get("XDG_CACHE_HOME", "")
        # The specification has relative paths ignored.
        root = named if os.path.isabs(named) else os.path.expanduser(usual)
    return Path(root) / "linnat" if os.path.isabs(root) else None


def places(name: str, folder: FolderLike | None = None) -> tuple[Place, ...]:
    """Return the folders in which a set is looked for, first to last.

    Examples
    --------
    >>> [place.folder.as_posix() for place in places("mnist", "/data")][:1]
    ['/data/mnist']
    """
    roots: list[tuple[str, Path]] = []
    if folder is not None:
        roots.append(("the folder given", expand(folder)))
    if os.environ.get(VARIABLE):
        roots.append((VARIABLE, expand(os.environ[VARIABLE])))
    cache = cache_folder()
    if cache is not None:
        roots.append(("the cache", cache))
    if (TREE / "setup.cfg").is_file():
        roots.append(("beside the source tree", TREE.parent / "shared"))
    found: list[Place] = []
    for why, root in roots:
        found.append(Place(why, root / name))
        # The set's own folder may be given, but only under its own name: another set must not answer for it.
        if root.name == name and why in ("the folder given", VARIABLE):
            found.append(Place(why, root))
    return tuple(found)


def expand(folder: FolderLike) -> Path:
    """Return a path with `~` replaced by the user's home."""
    return Path(os.path.expanduser(as_path(folder, "folder")))


def find_file(folder: Path, stem: str) -> Path | None:
    """Return the file of that name, plain or gzip, also spelt with a dot before idx."""
    for name in (stem, stem.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
    return None


def find_set(name: str, folder: FolderLike | None = None, stems: Sequence[str] = STEMS) -> tuple[Path, ...]:
    """Return these files of a published set, from the first folder that holds them all.

    Raises
    ------
    InputError
        Where none does; says where it looked, what lacks, and what to do.
    """
    looked = []
    for place in places(name, folder):
        files = [find_file(place.folder, stem) for stem in stems]
        lacks = [stem for stem, file in zip(stems, files, strict=True) if file is None]
        if not lacks:
            return tuple(file for file in files if file is not None)
        partly = f", which lacks {' and '.join(lacks)}" if len(lacks) < len(stems) else ""
        looked.append(f"{place.folder} ({place.why}{partly})")
    fail(
        "data",
        f"the IDX files of {name} in one of {', '.join(looked) or 'no folder at all'}",
        "none",
        f"Get them with `linnat data fetch {name}`, or set {VARIABLE} to the folder that holds the folder {name}.",
    )


def look(place: Place, name: str) -> dict[str, str]:
    """Return for each file of a set what is in one place: "verified", "other content" or "missing"."""
    states = {}
    for known in PUBLISHED[name].files:
        file = find_file(place.folder, known.stem)
        if file is None:
            states[known.stem] = "missing"
        else:
            states[known.stem] = "verified" if is_published(file, known) else "other content"
    return states


def own_name(folder: Path) -> str:
    """Return the name of a user's own set: that of its folder, unless it would pass for a published set and is none."""
    name = folder.resolve().name or "own"
    if name in PUBLISHED and "other content" in look(Place("", folder), name).values():
        return f"own-{name}"
    return name
