"""Vectors stack columns; a Kronecker product acts as (A ⊗ B) vec X = vec(B X Aᵀ)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat._checks import InputError
from linnat.linalg.kron import kron, kron_apply
from linnat.linalg.vec import unvec, vec
from tests import tolerances
from tests.strategies import seeds

sizes = st.integers(1, 5)


@given(seeds, sizes, sizes)
def test_vec_and_unvec_are_inverse(seed: int, m: int, n: int) -> None:
    matrix = np.random.default_rng(seed).standard_normal((2, 3, m, n))
    flat = vec(matrix)
    assert (unvec(flat, (m, n)) == matrix).all()
    assert (flat[1, 2] == matrix[1, 2].ravel(order="F")).all()
    for a in range(m):
        for b in range(n):
            assert flat[0, 0, a + b * m] == matrix[0, 0, a, b]


@given(seeds, sizes, sizes, sizes, sizes)
def test_kronecker_products(seed: int, m: int, n: int, p: int, q: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, x = rng.standard_normal((m, n)), rng.standard_normal((p, q)), rng.standard_normal((q, n))
    assert (kron(a, b) == np.kron(a, b)).all()
    bound = tolerances.product(
        np.float64, n * q, 10 * np.linalg.norm(a) * np.linalg.norm(b) * np.linalg.norm(x)
    )
    assert np.abs(kron(a, b) @ vec(x) - vec(kron_apply(a, b, x))).max() <= bound


def test_kronecker_products_of_stacks() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 1, 2, 4)), rng.standard_normal((5, 3, 2))
    found = kron(a, b)
    assert found.shape == (3, 5, 6, 8)
    assert (found[2, 4] == np.kron(a[2, 0], b[4])).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unvec(np.ones(5), (2, 3)), r"^vector: expected length 6 for shape \(2, 3\), found length 5"),
        (lambda: vec(np.ones(3)), "^matrix: expected at least 2 dimension"),
        (
            lambda: kron_apply(np.ones((2, 3)), np.ones((4, 5)), np.ones((3, 5))),
            r"^x: expected shape \(…, 5, 3\), found shape \(3, 5\)",
        ),
        (lambda: kron([[np.nan]], [[1.0]]), "^a: expected finite numbers"),
    ],
)
def test_bad_input(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
