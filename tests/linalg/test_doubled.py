"""Are products to twice the precision what rational numbers say?"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat.linalg.doubled import Pair, add, as_pair, matmul, two_sum


def exactly(pair: Pair) -> list[Fraction]:
    return [Fraction(float(a)) + Fraction(float(b)) for a, b in zip(*(x.ravel() for x in pair), strict=True)]


def drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> Pair:
    high = rng.standard_normal(shape) * 10.0 ** rng.integers(-8, 8, shape)
    return two_sum(high, high * 2.0**-54 * rng.uniform(-1, 1, shape))


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 7, 30, 65]))
def test_products_against_rational_numbers(seed: int, terms: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = drawn(rng, (3, terms)), drawn(rng, (terms, 2))
    left, right = np.array(exactly(a)).reshape(3, terms), np.array(exactly(b)).reshape(terms, 2)
    found = np.array(exactly(matmul(a, b))).reshape(3, 2)
    sizes = np.abs(a.high).max(axis=1)[:, None] * np.abs(b.high).max(axis=0)
    error = np.abs((found - left @ right).astype(float)) / sizes
    assert error.max() <= terms**2.5 * 2.0**-78


@given(st.integers(0, 10**6))
def test_sums_against_rational_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = drawn(rng, (20,))
    b = two_sum(-a.high * (1 + 2.0**-40 * rng.standard_normal(20)), a.low)
    found, pairs = exactly(add(a, b)), zip(exactly(a), exactly(b), strict=True)
    for value, (x, y) in zip(found, pairs, strict=True):
        assert abs(value - (x + y)) <= (abs(x) + abs(y)) * Fraction(2) ** -103


def test_leading_axes_zeros_and_inputs_that_stay() -> None:
    rng = np.random.default_rng(0)
    a, b = drawn(rng, (4, 1, 3, 5)), drawn(rng, (2, 5, 2))
    a.high[1], a.low[1] = 0.0, 0.0
    kept = a.high.copy(), b.high.copy()
    product = matmul(a, b)
    assert product.high.shape == product.low.shape == (4, 2, 3, 2)
    assert not product.high[1].any()
    single = matmul(Pair(a.high[2, 0], a.low[2, 0]), Pair(b.high[1], b.low[1]))
    assert np.array_equal(single.high, product.high[2, 1])
    assert np.array_equal(kept[0], a.high)
    assert np.array_equal(kept[1], b.high)


@pytest.mark.parametrize("terms", [4, 33, 200])
def test_what_cancels_is_left(terms: int) -> None:
    rng = np.random.default_rng(terms)
    row = rng.standard_normal((1, terms))
    a = np.concatenate([row, -row * (1 + 2.0**-50)], axis=1)
    b = np.ones((2 * terms, 1))
    exact = sum(Fraction(float(v)) for v in a[0])
    found = exactly(matmul(as_pair(a), as_pair(b)))[0]
    assert abs(found - exact) <= (2 * terms) ** 2.5 * Fraction(2) ** -78 * Fraction(float(np.abs(a).max()))
    # A product in one precision has two digits of it at the most.
    assert abs(Fraction(float((a @ b)[0, 0])) - exact) > abs(exact) / 100 > 10**6 * abs(found - exact)
