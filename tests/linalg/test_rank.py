"""Ranks and what is built on them: exact integer ranks, Penrose's four equations, factors of covariances."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat._checks import InputError, RankWarning
from linnat.linalg.rank import matrix_rank, psd_factor, pseudo_inverse
from tests import tolerances
from tests.strategies import condition_on_range, conditioned, integer_rank, seeds

sizes = st.integers(1, 6)


@given(seeds, sizes, sizes, st.data())
def test_exact_ranks_are_found(seed: int, m: int, n: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, min(m, n)))
    assert matrix_rank(integer_rank(np.random.default_rng(seed), m, n, rank)) == rank


def test_the_cut_off_is_relative_and_an_argument() -> None:
    matrix = np.diag([1e-200, 1e-210, 0.0])
    assert matrix_rank(matrix) == 2
    assert matrix_rank(matrix, rtol=1e-8) == 1
    assert matrix_rank(matrix.astype(np.float32)) == 0
    assert matrix_rank(np.stack([np.eye(2), np.ones((2, 2))])).tolist() == [2, 1]
    with pytest.raises(InputError, match="^rtol"):
        matrix_rank(matrix, rtol=-1)


@given(seeds, sizes, sizes, st.data())
def test_pseudo_inverses_obey_penrose(seed: int, m: int, n: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, min(m, n)))
    a = integer_rank(np.random.default_rng(seed), m, n, rank)
    inverse = pseudo_inverse(a)
    condition = condition_on_range(a, rank)
    bound = tolerances.backward(np.float64, m + n) * condition
    size, inverse_size = np.linalg.norm(a), np.linalg.norm(inverse)
    assert np.abs(a @ inverse @ a - a).max() <= bound * max(size, 1)
    assert np.abs(inverse @ a @ inverse - inverse).max() <= bound * max(inverse_size, 1)
    for product in (a @ inverse, inverse @ a):
        assert np.abs(product - product.T).max() <= bound


def test_pseudo_inverses_with_a_cut_off() -> None:
    a = np.diag([1.0, 1e-6])
    assert pseudo_inverse(a, rtol=1e-3).tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert pseudo_inverse(np.stack([a, 2 * a])).shape == (2, 2, 2)
    assert not pseudo_inverse(np.zeros((2, 3))).any()


@given(seeds, sizes, st.data())
def test_factors_of_covariances(seed: int, n: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, n))
    root = integer_rank(np.random.default_rng(seed), n, max(rank, 1), rank)
    matrix = root @ root.T
    found = psd_factor(matrix)
    assert found.rank == rank
    assert found.factor.shape == (n, rank)
    scale = float(np.abs(matrix).max())
    assert np.abs(found.factor @ found.factor.T - matrix).max() <= tolerances.backward(np.float64, n) * max(
        scale, 1
    )
    lengths = np.linalg.norm(found.factor, axis=0)
    assert (np.diff(lengths) <= tolerances.backward(np.float64, n) * max(lengths, default=0)).all()


def test_factors_with_a_cut_off_and_of_stacks() -> None:
    assert psd_factor(np.diag([1.0, 1e-6]), rtol=1e-3).rank == 1
    found = psd_factor(np.stack([np.diag([4.0, 0.0]), np.eye(2)]))
    assert np.asarray(found.rank).tolist() == [1, 2]
    assert found.factor[0].tolist() == [[2.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(("values", "narrow"), [
    ([1.0, 9e-15, 4e-15], True),
    ([1.0, 9e-15, 8e-16], False),
    ([1.0, 9e-15, 0.0], False),
    ([1.0, 1e-3, 9e-4], False),  # both count
    ([0.0, 0.0, 0.0], False),
])  # fmt: skip
def test_a_gap_of_less_than_a_decade_warns(values: list[float], narrow: bool) -> None:
    matrix = np.diag(values)
    message = "^the rank of matrix is undetermined: 2 values are kept, the smallest 9e-15, the largest dropped is 4e-15"
    with pytest.warns(RankWarning, match=message) if narrow else contextlib.nullcontext():
        psd_factor(matrix)
    psd_factor(matrix, rtol=5e-15)  # decided
    stack = np.stack([np.eye(3), matrix])
    with (
        pytest.warns(RankWarning, match=r"\(matrix \(1,\) of the stack\)")
        if narrow
        else contextlib.nullcontext()
    ):
        psd_factor(stack)


def test_indefinite_covariances_are_named() -> None:
    with pytest.raises(
        InputError, match="^input_cov: expected a positive semi-definite matrix, found eigenvalue -1 "
    ):
        psd_factor(np.diag([1.0, -1.0]), name="input_cov")


def test_small_singular_values_keep_relative_accuracy() -> None:
    # The rule acts on singular values, never on their squares: 1e-10 survives although 1e-20 is below eps.
    assert matrix_rank(conditioned(np.random.default_rng(0), 4, 4, 1e10)) == 4
