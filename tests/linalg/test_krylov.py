"""LSQR, for one system and for stacks, against dense least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat.linalg.krylov import lsqr
from tests import tolerances
from tests.strategies import conditioned, integer_rank, seeds


def run(matrix: np.ndarray, b: np.ndarray, **options: Any) -> Any:
    """Run LSQR with products of a matrix or a stack."""

    def apply(x: np.ndarray) -> np.ndarray:
        return (matrix @ x[..., None])[..., 0]

    def adjoint(u: np.ndarray) -> np.ndarray:
        return (np.swapaxes(matrix, -1, -2) @ u[..., None])[..., 0]

    settings = {"tol": 4 * tolerances.eps(matrix.dtype), "limit": 500, "norm": float(np.abs(matrix).sum())}
    return lsqr(apply, adjoint, b, **{**settings, **options})


@given(seeds, st.integers(1, 6), st.integers(1, 6), st.data())
def test_least_squares_of_least_norm(seed: int, m: int, n: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    matrix = integer_rank(rng, m, n, data.draw(st.integers(0, min(m, n))))
    b = rng.standard_normal(m)
    found = run(matrix, b)
    values = np.linalg.svd(matrix, compute_uv=False)
    kept = values[values > 1e-10]
    condition = float(kept[0] / kept[-1]) if len(kept) else 1.0
    wanted = np.linalg.pinv(matrix, rcond=1e-10) @ b
    scale = np.linalg.norm(b) / (kept[-1] if len(kept) else 1.0)
    assert found.converged
    assert np.linalg.norm(found.x - wanted) <= tolerances.solve(np.float64, m + n, condition**2) * scale


def test_systems_of_a_stack_stop_by_themselves() -> None:
    rng = np.random.default_rng(0)
    matrices = np.stack([conditioned(rng, 8, 8, c) for c in (1.0, 1e2, 1e3)])
    b = rng.standard_normal((3, 8))
    b[1] = 0
    found = run(matrices, b, norm=1.0)
    assert found.converged.all()
    assert found.iterations[1] == 0
    assert not found.x[1].any()
    assert 0 < found.iterations[0] < found.iterations[2]
    for i in (0, 2):
        alone = run(matrices[i], b[i], norm=1.0)
        assert alone.iterations == found.iterations[i]
        bound = tolerances.solve(np.float64, 8, np.linalg.cond(matrices[i]) ** 2)
        tolerances.assert_close(found.x[i], alone.x, bound)
        tolerances.assert_close(found.x[i], np.linalg.solve(matrices[i], b[i]), bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_error_goes_with_the_condition_not_with_its_square(dtype: Any) -> None:
    rng = np.random.default_rng(1)
    for condition in (1e1, 1e2, 1e3):
        matrix = conditioned(rng, 12, 12, condition).astype(dtype)
        wanted = rng.standard_normal(12)
        b = (matrix.astype(np.float64) @ wanted).astype(dtype)
        found = run(matrix, b, norm=1.0)
        assert found.x.dtype == dtype
        exact = np.linalg.solve(matrix.astype(np.float64), b.astype(np.float64))
        tolerances.assert_close(found.x, exact, tolerances.solve(dtype, 12, condition))


def test_an_iteration_cut_short_says_so() -> None:
    rng = np.random.default_rng(2)
    matrix, b = conditioned(rng, 20, 20, 1e6), rng.standard_normal(20)
    found = run(matrix, b, limit=5)
    assert not found.converged
    assert found.iterations == 5
    assert np.linalg.norm(b - matrix @ found.x) < np.linalg.norm(b)


def test_a_residual_that_is_left_out_loosens_the_rule() -> None:
    rng = np.random.default_rng(3)
    matrix, b = conditioned(rng, 20, 10, 1e2), rng.standard_normal(20)
    strict, loose = run(matrix, b, tol=1e-6, norm=1.0), run(matrix, b, tol=1e-6, norm=1.0, outside=1e4)
    assert loose.iterations < strict.iterations
