"""Kernels: single matrices and stacks, any memory order, both types, against NumPy's own routines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat.linalg import kernels as k
from tests import tolerances
from tests.strategies import conditioned, seeds

LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "c": np.ascontiguousarray,
    "fortran": lambda a: np.copy(a, order="F"),
    "strided": lambda a: np.repeat(np.repeat(a, 2, axis=0), 3, axis=1)[::2, ::3],
    "reversed": lambda a: np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
}
sizes = st.integers(1, 7)
layouts = st.sampled_from(sorted(LAYOUTS))
dtypes = st.sampled_from([np.float32, np.float64])


@given(seeds, sizes, sizes, sizes, layouts, layouts, dtypes)
def test_products(seed: int, m: int, n: int, p: int, first: str, second: str, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((m, n)).astype(dtype), rng.standard_normal((n, p)).astype(dtype)
    found = k.matmul(LAYOUTS[first](a), LAYOUTS[second](b))
    wanted = a.astype(np.float64) @ b.astype(np.float64)
    assert found.dtype == dtype
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    assert np.abs(found - wanted).max() <= tolerances.product(dtype, n, scale)


def test_products_of_stacks_types_and_nothing() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 4, 5)), rng.standard_normal((5, 2))
    assert np.array_equal(k.matmul(a, b), a @ b)
    mixed = k.matmul(np.ones((2, 2), np.float32), np.ones((2, 2)))
    assert mixed.dtype == np.float64
    assert k.matmul(np.ones((3, 0)), np.ones((0, 2))).tolist() == np.zeros((3, 2)).tolist()
    assert k.matmul(np.ones((0, 3)), np.ones((3, 2))).shape == (0, 2)


@given(seeds, sizes, sizes, layouts, dtypes, st.booleans(), st.booleans())
def test_qr(seed: int, m: int, n: int, layout: str, dtype: Any, full: bool, stack: bool) -> None:
    a = LAYOUTS[layout](np.random.default_rng(seed).standard_normal((m, n)).astype(dtype))
    before = a.copy()
    basis, upper = (x[0] for x in k.qr(np.stack([a, a]), full=full)) if stack else k.qr(a, full=full)
    wide = m if full else min(m, n)
    assert basis.shape == (m, wide)
    assert upper.shape == (wide, n)
    assert basis.dtype == upper.dtype == dtype
    bound = tolerances.backward(dtype, m + n)
    assert np.abs(basis.T @ basis - np.eye(wide)).max() <= bound
    assert np.abs(basis @ upper - a).max() <= bound * np.linalg.norm(a)
    assert (np.tril(upper, -1) == 0).all()
    assert (a == before).all()


@given(seeds, sizes, sizes, st.booleans(), st.booleans(), layouts, layouts, dtypes, st.booleans())
def test_triangular_solves(
    seed: int,
    n: int,
    p: int,
    lower: bool,
    transposed: bool,
    layout: str,
    other: str,
    dtype: Any,
    stack: bool,
) -> None:
    rng = np.random.default_rng(seed)
    full = rng.standard_normal((n, n)) + 3 * n * np.eye(n)
    t = (np.tril(full) if lower else np.triu(full)).astype(dtype)
    x = rng.standard_normal((n, p)).astype(dtype)
    ordered = LAYOUTS[layout](t)
    bound = tolerances.solve(dtype, n, float(np.linalg.cond(t)))
    operator = t.T if transposed else t
    if stack:
        found = k.solve_triangular(
            np.stack([ordered] * 2), np.stack([operator @ x] * 2), lower=lower, transposed=transposed
        )[1]
        right = k.solve_triangular_right(np.stack([x.T @ t] * 2), np.stack([ordered] * 2), lower=lower)[1]
    else:
        given_b = LAYOUTS[other](operator @ x)
        found = k.solve_triangular(ordered, given_b, lower=lower, transposed=transposed)
        assert (given_b == operator @ x).all()
        right = k.solve_triangular_right(LAYOUTS[other](x.T @ t), ordered, lower=lower)
    tolerances.assert_close(found, x, bound)
    tolerances.assert_close(right, x.T, bound)
    assert found.dtype == right.dtype == dtype


columns = st.integers(1, 2 * k.NARROW)


@given(seeds, sizes, columns, layouts, layouts, dtypes, st.booleans())
def test_solves(seed: int, n: int, p: int, layout: str, other: str, dtype: Any, stack: bool) -> None:
    rng = np.random.default_rng(seed)
    a = LAYOUTS[layout](conditioned(rng, n, n, 10.0).astype(dtype))
    x = rng.standard_normal((n, p)).astype(dtype)
    before = a.copy()
    bound = tolerances.solve(dtype, n, 10.0)
    prepared = k.factor(np.stack([a, a]) if stack else a)

    def pick(array: np.ndarray) -> np.ndarray:
        return array[1] if stack else array

    def give(array: np.ndarray) -> np.ndarray:
        return np.stack([array, array]) if stack else LAYOUTS[other](array)

    right = LAYOUTS[other](a @ x)
    given_right = right.copy()
    k.solve(k.factor(a), right), k.solve(k.factor(a), right, transposed=True)
    assert (right == given_right).all()
    tolerances.assert_close(pick(k.solve(prepared, give(a @ x))), x, bound)
    tolerances.assert_close(pick(k.solve(prepared, give(a.T @ x), transposed=True)), x, bound)
    tolerances.assert_close(pick(k.solve_right(give(x.T @ a), prepared)), x.T, bound)
    assert (a == before).all()


@given(seeds, st.integers(1, 8), st.floats(0, 10), st.booleans())
def test_solves_report_the_condition(seed: int, n: int, log_condition: float, stack: bool) -> None:
    rng = np.random.default_rng(seed)
    a, x = conditioned(rng, n, n, 10**log_condition), rng.standard_normal((n, 2))
    given_a, given_b = (np.stack([m]) if stack else m for m in (a, a @ x))
    solution, condition = k.solve_checked(k.factor(given_a), given_a, given_b)
    found = float(np.ravel(condition)[0])
    inverse = np.linalg.inv(a)
    slack = 1 + tolerances.solve(np.float64, n, 10**log_condition)
    if stack:
        exact = float(np.linalg.norm(a) * np.linalg.norm(inverse))
        assert exact / slack <= found <= exact * slack
    else:
        # Higham's estimator is a lower bound, almost always within a factor of three of the truth.
        exact = float(np.linalg.norm(a, 1) * np.linalg.norm(inverse, 1))
        assert exact / (10 * slack) <= found <= exact * slack
    bound = tolerances.solve(np.float64, n, 10**log_condition)
    tolerances.assert_close(solution[0] if stack else solution, x, bound)
    direct, condition = k.inverse_checked(k.factor(given_a), given_a)
    tolerances.assert_close(direct[0] if stack else direct, inverse, 2 * bound)  # of both
    exact = float(np.linalg.norm(a, None if stack else 1) * np.linalg.norm(inverse, None if stack else 1))
    assert exact / slack <= float(np.ravel(condition)[0]) <= exact * slack


def test_solves_with_singular_matrices_report_an_infinite_condition() -> None:
    for singular in (np.zeros((3, 3)), np.diag([1.0, 0.0, 2.0])):
        assert np.isinf(k.solve_checked(k.factor(singular), singular, np.ones((3, 1)))[1])
        stack = np.stack([singular, np.eye(3)])
        condition = k.solve_checked(k.factor(stack), stack, np.ones((2, 3, 1)))[1]
        assert condition.shape == (2,)
        assert np.isinf(condition[0])
        assert np.isinf(k.inverse_checked(k.factor(singular), singular)[1])
        assert np.isinf(k.inverse_checked(k.factor(stack), stack)[1]).tolist() == [True, True]
    large = np.diag(np.arange(20.0))
    assert np.isinf(k.inverse_checked(k.factor(large), large)[1])


triangles = st.one_of(st.integers(1, 8), st.integers(60, 70))


@given(seeds, triangles, st.booleans(), layouts, st.booleans())
def test_norms_of_triangular_inverses(seed: int, n: int, lower: bool, layout: str, stack: bool) -> None:
    rng = np.random.default_rng(seed)
    full = rng.standard_normal((n, n)) / np.sqrt(n)
    full += np.where(np.diag(full) < 0, -1, 1) * np.eye(n)
    t = np.tril(full) if lower else np.triu(full)
    ordered = LAYOUTS[layout](t)
    found = float(
        np.ravel(k.inverse_norm_triangular(np.stack([ordered]) if stack else ordered, lower=lower))[0]
    )
    exact = 1 / float(np.linalg.svd(t, compute_uv=False)[-1])
    slack = 1 + tolerances.solve(np.float64, n, float(np.linalg.cond(t)))
    # Large single matrices: a power iteration, from below.
    assert exact * (1 / slack if n < k.SMALL or stack else 0.5) <= found <= exact * slack


@pytest.mark.parametrize("size", [3, 100])
def test_inverses_of_singular_triangles_are_infinite(size: int) -> None:
    for triangle in (np.zeros((size, size)), np.diag(np.arange(float(size)))):
        assert np.isinf(k.inverse_norm_triangular(triangle, lower=False))
        assert np.isinf(
            k.inverse_norm_triangular(np.stack([triangle, np.eye(size)]), lower=True)
        ).tolist() == [True, False]
    assert k.inverse_norm_triangular(np.zeros((0, 0)), lower=True) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [2, 64])
def test_inverses_of_nearly_singular_triangles_do_not_warn(size: int, dtype: Any) -> None:
    for tiny in (
        np.finfo(dtype).smallest_subnormal,
        np.finfo(dtype).tiny,
        np.finfo(dtype).tiny ** 0.6,
        np.finfo(dtype).tiny ** 0.4,
    ):
        triangle = np.diag(np.r_[np.ones(size - 1), tiny]).astype(dtype)
        for t in (triangle, np.stack([triangle, np.eye(size, dtype=dtype)])):
            assert np.ravel(k.inverse_norm_triangular(t, lower=True))[0] > 1e14


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms(dtype: Any) -> None:
    a = np.array([[1.0, -2.0], [3.0, 4.0]], dtype)
    bound = tolerances.backward(dtype, 2)
    assert float(k.two_norm(a)) == pytest.approx(float(np.linalg.norm(a, 2)), rel=bound)
    assert k.frobenius(a) == pytest.approx(np.sqrt(30), rel=bound)
    assert k.frobenius(np.stack([a, 2 * a])) == pytest.approx(np.sqrt(30) * np.array([1, 2]), rel=bound)
    assert np.isfinite(k.frobenius(np.full((2, 2), 1e30, np.float32)))
    assert k.two_norm(np.zeros((3, 0))) == 0
    assert k.two_norm(np.zeros((4, 0, 2))).shape == (4,)
    assert k.transpose(np.zeros((5, 2, 3))).shape == (5, 3, 2)
    large = np.random.default_rng(0).standard_normal((80, 90)).astype(dtype)
    exact = float(np.linalg.norm(large, 2))
    assert 0.8 * exact <= k.two_norm(large) <= exact * (1 + tolerances.backward(dtype, 90))
    assert k.two_norm(np.zeros((80, 80))) == 0
    # The squares of these entries overflow or vanish in single precision.
    for power in (-70, 60):
        scaled = float(k.two_norm((large * 2.0**power).astype(dtype)))
        assert scaled == pytest.approx(
            2.0**power * float(k.two_norm(large)), rel=tolerances.backward(dtype, 90)
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["F", "C"])
def test_products_are_written_where_they_are_wanted(order: Any, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 4)).astype(dtype), rng.standard_normal((4, 5)).astype(dtype)
    bound = tolerances.product(dtype, 8) * 10
    for left in (a, np.asfortranarray(a)):
        out = np.full((3, 5), np.nan, dtype, order=order)
        k.matmul_into(out, left, b)
        np.testing.assert_allclose(out, a @ b, atol=bound)
        k.matmul_into(out, left, b, add=True)
        np.testing.assert_allclose(out, 2 * (a @ b), atol=2 * bound)
    empty = np.ones((3, 5), dtype, order=order)
    k.matmul_into(empty, a[:, :0], b[:0], add=True)
    assert (empty == 1).all()
    k.matmul_into(empty, a[:, :0], b[:0])
    assert (empty == 0).all()
