"""Is the projection on the range of a block bidiagonal matrix that of a QR of the whole matrix?"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat.linalg.block_qr import factor_bidiagonal, project_on_bidiagonal
from tests import tolerances

pytestmark = pytest.mark.statement("N3")


def draw(
    rng: np.random.Generator,
    rows: list[int],
    columns: list[int],
    batch: tuple[int, ...] = (),
    dtype: Any = np.float64,
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray | None]], np.ndarray]:
    """Return D_1, the pairs (E_j, D_{j+1}), and the whole matrix."""
    whole = np.zeros((*batch, sum(rows), sum(columns)), dtype)
    above, left = np.cumsum([0, *rows]), np.cumsum([0, *columns])
    own, below = [], []
    for j, size in enumerate(columns):
        for group, i in ((own, j), (below, j + 1)):
            block = rng.standard_normal((*batch, rows[i], size)).astype(dtype)
            whole[..., above[i] : above[i + 1], left[j] : left[j + 1]] = block
            group.append(block)
    return own[0], list(zip(below, [*own[1:], None], strict=True)), whole


def split(vector: np.ndarray, rows: list[int]) -> list[np.ndarray]:
    return np.split(vector, np.cumsum(rows)[:-1], axis=-1)


def by_one_qr(whole: np.ndarray, vector: np.ndarray) -> np.ndarray:
    basis = np.linalg.qr(whole)[0]
    return (basis @ (np.swapaxes(basis, -1, -2) @ vector[..., None]))[..., 0]


@given(
    sizes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    batch=st.sampled_from([(), (2,), (2, 3)]),
)
def test_the_projection_is_that_of_one_qr(
    sizes: list[tuple[int, int]], seed: int, batch: tuple[int, ...]
) -> None:
    # A layer has at least as many rows as its own and the next block have columns: then the rank is full.
    columns = [s for s, _ in sizes]
    rows = [
        a + b + extra
        for (a, b), extra in zip(
            itertools.pairwise([0, *columns, 0]), [e for _, e in sizes] + [1], strict=True
        )
    ]
    rng = np.random.default_rng(seed)
    first, pairs, whole = draw(rng, rows, columns, batch)
    vector = rng.standard_normal((*batch, sum(rows)))
    turns = factor_bidiagonal(first, pairs)
    assert [turn.size for turn in turns] == columns
    found = np.concatenate(project_on_bidiagonal(turns, split(vector, rows)), axis=-1)
    wanted = by_one_qr(whole, vector) if whole.shape[-1] else 0 * vector
    bound = tolerances.backward(np.float64, sum(rows)) * np.linalg.norm(vector)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound)
    # What is left is orthogonal to every column, and projecting twice changes nothing.
    gap = np.swapaxes(whole, -1, -2) @ (vector - found)[..., None]
    assert np.abs(gap).max(initial=0.0) <= bound * max(np.abs(whole).sum(), 1)
    again = np.concatenate(project_on_bidiagonal(turns, split(found, rows)), axis=-1)
    np.testing.assert_allclose(again, found, rtol=0, atol=bound)


def test_larger_blocks_than_those_of_the_kernel() -> None:
    rows, columns = [150, 200, 170], [100, 140]
    rng = np.random.default_rng(0)
    first, pairs, whole = draw(rng, rows, columns)
    vector = rng.standard_normal(sum(rows))
    turns = factor_bidiagonal(first, iter(pairs))
    found = np.concatenate(project_on_bidiagonal(turns, split(vector, rows)))
    tolerances.assert_close(found, by_one_qr(whole, vector), tolerances.backward(np.float64, sum(rows)))
    # Negative control: one factor forgotten is another projection.
    other = turns[0]._replace(factor=turns[0].factor * np.float64(1.0), blocks=0 * turns[0].blocks)
    wrong = np.concatenate(project_on_bidiagonal((other, turns[1]), split(vector, rows)))
    assert tolerances.relative_error(wrong, found) > 0.1


def test_single_precision_is_kept() -> None:
    rows, columns = [4, 6, 5], [3, 4]
    rng = np.random.default_rng(1)
    first, pairs, whole = draw(rng, rows, columns, dtype=np.float32)
    vector = rng.standard_normal(sum(rows)).astype(np.float32)
    found = project_on_bidiagonal(factor_bidiagonal(first, pairs), split(vector, rows))
    assert {part.dtype for part in found} == {np.dtype(np.float32)}
    wanted = by_one_qr(whole.astype(np.float64), vector.astype(np.float64))
    tolerances.assert_close(np.concatenate(found), wanted, tolerances.backward(np.float32, sum(rows)))
