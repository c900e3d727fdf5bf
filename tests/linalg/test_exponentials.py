"""Are logistic functions and softmax right at both ends? Against mpmath and each other."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat.linalg.exponentials import (
    exponential_excess,
    log_softmax,
    log_sum_exp,
    sigmoid,
    softmax,
    softmax_divergence,
    softplus,
)
from tests import tolerances

pytestmark = pytest.mark.statement("C7")
numbers = st.floats(-700, 700)


@given(numbers)
def test_logistic_functions(z: float) -> None:
    most = tolerances.product(np.float64, 1, 1 + abs(z))
    with mp.workdps(400):
        wanted = 1 / (1 + mp.exp(-mp.mpf(z)))
        assert abs(sigmoid(np.array(z)) - wanted) <= most * wanted
        wanted = mp.log(1 + mp.exp(mp.mpf(z)))
        assert abs(softplus(np.array(z)) - wanted) <= most * wanted
    # As a softmax of two.
    pair = np.array([0.0, z])
    p, complement = softmax(pair)
    np.testing.assert_allclose(
        [p[1], complement[1]], [sigmoid(pair[1:])[0], sigmoid(-pair[1:])[0]], rtol=most
    )
    np.testing.assert_allclose(log_sum_exp(pair), softplus(np.array(z)), rtol=most)
    np.testing.assert_allclose(
        log_softmax(pair), [-softplus(np.array(z)), -softplus(np.array(-z))], rtol=most
    )


@given(st.floats(-700, 700), st.floats(-1e3, 1e3))
def test_the_excess_is_never_negative_and_right_for_small_arguments(z: float, u: float) -> None:
    u = min(u, 700 - z)
    p, q = np.exp(z), np.exp(z + u)
    found = exponential_excess(np.array(p), np.array(q), np.array(u))
    assert found >= 0
    if abs(u) < 1:
        with mp.workdps(700):
            wanted = mp.mpf(float(p)) * (mp.expm1(mp.mpf(u)) - mp.mpf(u))
            assert abs(found - wanted) <= tolerances.product(np.float64, 1, 1 + abs(z)) * wanted + mp.mpf(
                1e-307
            )


def test_no_overflow_ties_and_many_classes() -> None:
    z = np.array([[1e4, -1e4, 1e4], [0.0, 0.0, 0.0]])
    p, complement = softmax(z)
    np.testing.assert_allclose(p, [[0.5, 0, 0.5], [1 / 3] * 3], rtol=1e-15)
    np.testing.assert_allclose(p + complement, 1, rtol=1e-15)
    np.testing.assert_array_equal(log_softmax(z)[0, 1], -2e4 - np.log(2))
    assert softmax_divergence(z, z + 5.0).max() == 0.0
    assert softmax(z.astype(np.float32))[0].dtype == np.float32
    # Negative control: the textbook formula overflows.
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.isnan(np.exp(z[0]) / np.exp(z[0]).sum()).any()
