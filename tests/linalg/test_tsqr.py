"""Blocks of rows, merged by QR, give the R factor of all rows without squaring the condition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat.linalg import tsqr
from linnat.linalg.tsqr import Part, carry, collapse, join, root_of_rows
from tests import tolerances
from tests.strategies import conditioned, seeds


@given(seeds, st.integers(1, 30), st.integers(1, 4), st.integers(0, 3), st.integers(1, 30))
def test_roots_are_square_roots_of_the_moments(seed: int, n: int, p: int, q: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, p)), rng.standard_normal((n, q))
    rows = np.concatenate([np.ones((n, 1)), x, y], axis=1)
    wanted = rows.T @ rows / n
    bound = tolerances.backward(np.float64, n + p + q) * np.linalg.norm(wanted)
    root = root_of_rows(x, y if q else None)
    assert np.abs(root.T @ root - wanted).max() <= bound
    assert root.shape == (min(n, 1 + p + q), 1 + p + q)
    assert (np.tril(root, -1) == 0).all()
    first = min(cut, n - 1)
    if first > 0:
        halves = [(x[s], y[s] if q else None) for s in (slice(first), slice(first, None))]
        merged = join([Part(root_of_rows(*half), len(half[0])) for half in halves]).root
        assert np.abs(merged.T @ merged - wanted).max() <= bound


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut rows into blocks of ten."""
    for name, value in (("BLOCK_ROWS", 10), ("BLOCK_RATIO", 1)):
        monkeypatch.setattr(tsqr, name, value)


@pytest.mark.usefixtures("small_blocks")
def test_blocks_keep_small_singular_values() -> None:
    x = conditioned(np.random.default_rng(0), 64, 6, 1e10)
    root = root_of_rows(x, None)
    rows = np.concatenate([np.ones((64, 1)), x], axis=1) / 8
    found, wanted = (np.linalg.svd(m, compute_uv=False) for m in (root, rows))
    assert np.abs(found - wanted).max() <= tolerances.backward(np.float64, 64) * wanted[0]
    # The rival squares: eigenvalues below eps are noise.
    squared = np.sqrt(np.abs(np.linalg.eigvalsh(rows.T @ rows))[::-1])
    assert abs(squared[-1] - wanted[-1]) > 10 * abs(found[-1] - wanted[-1])


def test_integers_of_one_byte_do_not_overflow() -> None:
    x = np.full((300, 1), 255, np.uint8)
    root = root_of_rows(x, None)
    np.testing.assert_allclose(root.T @ root, [[1, 255], [255, 255**2]], rtol=1e-14)


def parts_of(rows: np.ndarray, ends: list[int]) -> list[Part]:
    """Return the roots of consecutive pieces."""
    return [Part(root_of_rows(piece, None), len(piece)) for piece in np.split(rows, ends) if len(piece)]


@given(seeds, st.integers(1, 40))
def test_the_counter_holds_a_part_for_each_binary_digit(seed: int, count: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((count, 2))
    stack: tuple[Part, ...] = ()
    for part in parts_of(rows, list(range(1, count))):
        stack = carry(stack, part)
    assert [part.level for part in stack] == [b for b in range(6, -1, -1) if count >> b & 1]
    assert collapse(stack).rows == count


@pytest.mark.usefixtures("small_blocks")
@given(seeds, st.lists(st.integers(0, 200), max_size=12))
def test_any_tree_gives_the_root_of_all_rows(seed: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    rows = conditioned(rng, 200, 4, 1e6) + rng.standard_normal(4)
    parts = parts_of(rows, sorted(cuts))
    stack: tuple[Part, ...] = ()
    for part in parts:
        stack = carry(stack, part)
    backwards, chain = parts[-1], parts[0]
    for part in parts[-2::-1]:
        backwards = join([part, backwards])
    for part in parts[1:]:
        chain = join([chain, part])
    shuffled = join([parts[i] for i in rng.permutation(len(parts))])
    full = np.concatenate([np.ones((200, 1)), rows], axis=1) / np.sqrt(200)
    wanted = full.T @ full
    # A row passes through at most 12 joins, and before through a block and five digits: a backward error each.
    bound = tolerances.backward(np.float64, 5) * (len(parts) + 6) * np.linalg.norm(wanted)
    for found in (collapse(stack), backwards, chain, shuffled):
        assert found.rows == 200
        assert np.abs(found.root.T @ found.root - wanted).max() <= bound
