"""Does a dense matrix fit? Refuse before allocating, and say what to use instead."""

from __future__ import annotations

import os

from linnat._checks import InputError

SHARE = 0.4  # of the machine's physical memory, for one matrix and the copies that its factorisation makes


def physical_memory() -> int:
    """Return the machine's physical memory in bytes (8 GiB where the system does not say)."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30


def refuse_beyond_memory(name: str, entries: int, itemsize: int, remedy: str, copies: int = 1) -> None:
    """Raise InputError if `copies` arrays of this many entries exceed the stated share of memory."""
    needed, limit = entries * itemsize * copies, SHARE * physical_memory()
    if needed > limit:
        raise InputError(
            f"{name}: expected a matrix within {limit / 2**30:.1f} GiB ({SHARE:.0%} of memory), "
            f"found {needed / 2**30:.1f} GiB needed. {remedy}"
        )
