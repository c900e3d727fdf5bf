"""Sylvester equations by two SVDs and filtered solves, against dense systems."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from linnat.linalg.solve import filtered_solve, symmetric_sylvester
from tests import tolerances
from tests.strategies import integer_rank, seeds

sizes = st.integers(1, 4)
F64 = np.float64


@given(seeds, sizes, sizes, sizes, sizes, st.just(0.0) | st.floats(1e-3, 2), st.data())
def test_sylvester_against_the_dense_system(
    seed: int, m: int, p: int, q: int, n: int, shift: float, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    rank_k, rank_h = data.draw(st.integers(0, min(m, p))), data.draw(st.integers(0, min(q, n)))
    k, h = integer_rank(rng, m, p, rank_k), integer_rank(rng, q, n, rank_h)
    target = rng.standard_normal((m, n))
    found = symmetric_sylvester(k, h, target, rank_k, rank_h, shift=shift)
    operator = np.kron(np.eye(n), k @ k.T) + np.kron((h.T @ h).T, np.eye(m)) + shift * np.eye(m * n)
    values, vectors = np.linalg.eigh(operator)
    keep = values > 1e-9 * max(values[-1], 1e-300)
    inverse = np.where(keep, 1 / np.where(keep, values, 1), 0)
    middle = ((vectors * inverse) @ (vectors.T @ target.ravel(order="F"))).reshape((m, n), order="F")
    spread = float(values[-1] / values[keep].min()) if keep.any() else 1.0
    bound = (
        tolerances.solve(F64, m * n, spread) * (1 + np.linalg.norm(middle)) * (1 + np.linalg.norm(operator))
    )
    assert np.abs(found.outer - k.T @ middle).max() <= bound
    assert np.abs(found.inner - middle @ h.T).max() <= bound


def test_sylvester_of_stacks_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    k, h, target = (
        rng.standard_normal((3, 4, 2)),
        rng.standard_normal((3, 2, 5)),
        rng.standard_normal((3, 4, 5)),
    )
    shift = np.array([0.0, 0.5, 2.0])
    found = symmetric_sylvester(k, h, target, 2, 2, shift=shift)
    for i in range(3):
        single = symmetric_sylvester(k[i], h[i], target[i], 2, 2, shift=float(shift[i]))
        tolerances.assert_close(found.outer[i], single.outer, tolerances.solve(F64, 20, 100.0))
        tolerances.assert_close(found.inner[i], single.inner, tolerances.solve(F64, 20, 100.0))


def test_sylvester_does_not_square_small_singular_values() -> None:
    # k = h = 1e-200: the squares underflow, the quotients do not.
    tiny = np.array([[1e-200]])
    found = symmetric_sylvester(tiny, tiny, np.array([[1.0]]), 1, 1)
    assert np.isclose(found.outer[0, 0], 0.5e200, rtol=1e-14)


@given(seeds, st.integers(1, 5), st.integers(1, 5), st.floats(0, 2), st.data())
def test_filtered_solves(seed: int, m: int, n: int, damping: float, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    rank = data.draw(st.integers(0, min(m, n)))
    matrix, target = integer_rank(rng, m, n, rank), rng.standard_normal(m)
    found = filtered_solve(matrix, target, rank, damping)
    if damping > 1e-3:
        wanted = np.linalg.solve(matrix.T @ matrix + damping * np.eye(n), matrix.T @ target)
    else:
        damping = 0.0
        found, wanted = filtered_solve(matrix, target, rank), np.linalg.pinv(matrix, rcond=1e-10) @ target
    condition = np.linalg.norm(matrix) ** 2 / damping + 1 if damping else 1e4
    bound = tolerances.solve(F64, m + n, condition) * (1 + np.linalg.norm(wanted))
    assert np.abs(found - wanted).max() <= bound


def test_filtered_solves_of_nothing_and_of_stacks() -> None:
    assert filtered_solve(np.zeros((3, 0)), np.ones(3), 0).shape == (0,)
    assert not filtered_solve(np.ones((3, 2)), np.ones(3), 0).any()
    matrices, targets = np.random.default_rng(0).standard_normal((4, 3, 2)), np.ones((4, 3))
    found = filtered_solve(matrices, targets, 2, 0.1)
    for i in range(4):
        tolerances.assert_close(
            found[i], filtered_solve(matrices[i], targets[i], 2, 0.1), tolerances.solve(F64, 3, 100.0)
        )


@given(seeds, sizes, sizes, sizes, sizes, st.booleans(), st.floats(1e-2, 1e2))
def test_sylvester_with_a_root_on_one_side_against_the_dense_system(
    seed: int, m: int, p: int, q: int, n: int, outputs: bool, size: float
) -> None:
    rng = np.random.default_rng(seed)
    k, h = integer_rank(rng, m, p, min(m, p)), integer_rank(rng, q, n, min(q, n))
    root = size * (rng.standard_normal((m, m) if outputs else (n, n)) + 3 * np.eye(m if outputs else n))
    target = rng.standard_normal((m, n))
    side = {"left_root": root} if outputs else {"right_root": root}
    found = symmetric_sylvester(k, h, target, min(m, p), min(q, n), **side)
    left = k @ k.T + (root @ root.T if outputs else 0)
    right = h.T @ h + (0 if outputs else root.T @ root)
    operator = np.kron(np.eye(n), left) + np.kron(right.T, np.eye(m))
    middle = np.linalg.solve(operator, target.ravel(order="F")).reshape((m, n), order="F")
    bound = tolerances.solve(F64, m + n + p + q, np.linalg.cond(operator)) * np.linalg.norm(middle)
    assert np.abs(found.outer - k.T @ middle).max() <= bound * np.linalg.norm(k)
    assert np.abs(found.inner - middle @ h.T).max() <= bound * np.linalg.norm(h)


def test_sylvester_keeps_its_digits_beside_a_large_root() -> None:
    # M ≈ T / size²: the leading rows of the singular vectors of [K G] have no digits there, K itself has.
    rng = np.random.default_rng(5)
    k, h, target = (rng.standard_normal(s) for s in ((3, 2), (2, 4), (3, 4)))
    size = 1e9
    found = symmetric_sylvester(k, h, target, 2, 2, left_root=size * np.eye(3))
    tolerances.assert_close(found.outer * size**2, k.T @ target, tolerances.solve(F64, 3))
    tolerances.assert_close(found.inner * size**2, target @ h.T, tolerances.solve(F64, 3))
