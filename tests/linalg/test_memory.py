"""Dense matrices that do not fit are refused before anything is allocated."""

from __future__ import annotations

import os

import pytest

from linnat._checks import InputError
from linnat.linalg import memory


def test_large_matrices_are_refused_with_a_remedy() -> None:
    entries = 10**15
    with pytest.raises(
        InputError,
        match=r"^net: expected a matrix within .* GiB \(40% of memory\), found .* GiB needed. Use it.",
    ):
        memory.refuse_beyond_memory("net", entries, 8, "Use it.")
    memory.refuse_beyond_memory("net", 10, 8, "Use it.")


def test_copies_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "physical_memory", lambda: 1000)
    memory.refuse_beyond_memory("net", 50, 8, "")
    with pytest.raises(InputError):
        memory.refuse_beyond_memory("net", 50, 8, "", copies=2)
    with pytest.raises(InputError):
        memory.refuse_beyond_memory("net", 51, 8, "")


def test_memory_of_a_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.physical_memory() > 2**20

    def unknown(_: str) -> int:
        raise ValueError

    monkeypatch.setattr(os, "sysconf", unknown)
    assert memory.physical_memory() == 8 * 2**30
