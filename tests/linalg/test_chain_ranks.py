"""Ranks decided layer by layer: exact drops, products that vanish, nearly parallel rows, undetermined cases."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat._checks import RankWarning
from linnat.linalg.chain_ranks import decide_ranks, examine_ranks, perturbed
from tests.strategies import conditioned, integer_rank, seeds
from tests.test_strategies import exact_rank

pytestmark = pytest.mark.statement("X9")


@given(
    seeds,
    st.lists(st.integers(1, 5), min_size=2, max_size=6),
    st.sampled_from([np.float32, np.float64]),
    st.data(),
)
def test_exact_drops_are_found(seed: int, widths: list[int], dtype: Any, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    factors, chain, ranks = [], np.eye(widths[0]), [widths[0]]
    for m, n in zip(widths[1:], widths[:-1], strict=True):
        factors.append(integer_rank(rng, m, n, data.draw(st.integers(0, min(m, n)))))
        chain = factors[-1] @ chain
        ranks.append(exact_rank(chain))
    chain_ranks = decide_ranks(None, [f.astype(dtype) for f in factors])
    assert chain_ranks == tuple(ranks)
    examined = examine_ranks(None, [f.astype(dtype) for f in factors])
    assert (widths[0], *(d.rank for d in examined)) == chain_ranks
    assert not any(d.undetermined for d in examined)


def test_a_product_that_vanishes_is_seen() -> None:
    first = np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]]) / 3
    second = np.array([[1.0, -1, 2], [2, -2, 1], [0, 0, 1]]) / 7
    assert decide_ranks(None, [first, second]) == (3, 1, 0)
    # The rival cut-off, relative to the largest singular value of the image itself, keeps a singular value of noise.
    basis = np.linalg.svd(first)[0][:, :1]
    image = second @ basis
    assert np.linalg.matrix_rank(image) == 1


@pytest.mark.parametrize("gap", [2.0**-10, 2.0**-20, 2.0**-30])
def test_nearly_parallel_rows_fool_no_cut_off(gap: float) -> None:
    outer = np.array([[1.0, 2, 3], [1, 2, 3 + gap]]).T
    inner = (np.outer([1.0, 1, 1], [1, 1]) + np.outer([2.0, -1, 0], [1, -1])).T
    assert exact_rank(inner @ outer) == 1
    assert decide_ranks(None, [outer, inner]) == (2, 2, 1)


def test_ill_conditioned_layers_keep_their_rank() -> None:
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for condition in (1e2, 1e5, 1e8):
            factors = [conditioned(rng, 5, 5, condition) for _ in range(8)]
            assert decide_ranks(None, factors) == (5,) * 9


def test_undetermined_ranks_warn_and_rtol_decides() -> None:
    factors = [np.diag([1.0, 1e-14])]
    with pytest.warns(RankWarning, match="the rank of factor 1 .* undetermined.*pass rtol"):
        decide_ranks(None, factors)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decide_ranks(None, factors, rtol=1e-15) == (2, 2)
        assert decide_ranks(None, factors, rtol=1e-13) == (2, 1)
        assert decide_ranks(None, [np.diag([1.0, 1e-18])]) == (2, 1)
        assert decide_ranks(None, [np.diag([1.0, 1e-10])]) == (2, 2)


def test_a_decision_says_on_what_it_rests() -> None:
    kept, dropped, full, none = examine_ranks(
        None,
        [
            2 * np.diag([1.0, 1e-3, 1e-18]),
            np.diag([1.0, 1e-2, 1.0]),
            np.diag([1.0, 0.5, 1]),
            np.zeros((2, 3)),
        ],
    )
    assert (kept.rank, dropped.rank, full.rank, none.rank) == (2, 2, 2, 0)
    assert kept.kept == pytest.approx(1e-3)
    assert kept.dropped == pytest.approx(1e-18)
    assert kept.gap == pytest.approx(15)
    assert dropped.kept == pytest.approx(1e-2)
    assert np.isnan(dropped.dropped)
    assert dropped.gap == pytest.approx(np.log10(1e-2 / dropped.cut_kept))
    assert full.kept == pytest.approx(0.5)
    assert np.isnan(none.kept)
    assert none.gap == np.inf
    # Both cut-offs are kept, and yet less than a decade lies between the sides.
    near = examine_ranks(None, [np.diag([1.0, 4e-3, 1e-3])], rtol=2e-3)[0]
    assert near.rank == 2
    assert near.undetermined
    assert near.gap == pytest.approx(np.log10(4.0))


def test_the_start_is_part_of_the_chain() -> None:
    start = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert decide_ranks(start, [np.eye(3)]) == (1, 1)
    assert decide_ranks(start, [np.diag([0.0, 1.0, 1.0])]) == (1, 0)
    assert decide_ranks(np.zeros((3, 2)), [np.eye(3), np.eye(3)]) == (0, 0, 0)
    assert decide_ranks(start, []) == (1,)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_scale_does_not_matter(scale: float) -> None:
    factors = [scale * integer_rank(np.random.default_rng(3), 4, 4, 3), np.eye(4) / scale]
    assert decide_ranks(None, factors) == (4, 3, 3)


def test_decisions_are_repeatable() -> None:
    factors = [np.diag([1.0, 3e-14]), np.eye(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len({decide_ranks(None, factors) for _ in range(5)}) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_perturbed_copies_differ_in_their_last_bits(dtype: Any) -> None:
    matrix = np.random.default_rng(0).standard_normal((3, 4)).astype(dtype)
    copies = perturbed(matrix, 5, np.random.default_rng(1))
    assert copies.shape == (6, 3, 4)
    assert copies.dtype == dtype
    assert (copies[0] == matrix).all()
    relative = np.abs(copies[1:] / matrix - 1)
    assert (relative > 0).all()
    assert relative.max() <= 4 * np.finfo(dtype).eps
