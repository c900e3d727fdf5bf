"""Chains of small square matrices: multiplied back, and every layer that must not be divided by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat.linalg import square_chain
from linnat.linalg.chain_ranks import CERTAIN
from linnat.linalg.square_chain import divide_by_others
from tests import tolerances
from tests.strategies import conditioned, seeds

SIZE, DEPTH = 6, 4
places = pytest.mark.parametrize("place", range(DEPTH))


def chain(rng: np.random.Generator, size: int, conditions: list[float]) -> list[np.ndarray]:
    return [conditioned(rng, size, size, condition) for condition in conditions]


def product(matrices: list[np.ndarray], size: int) -> np.ndarray:
    whole = np.eye(size)
    for matrix in matrices:
        whole = matrix @ whole
    return whole


def defect(matrices: list[np.ndarray], goal: np.ndarray, share: float, found: list[np.ndarray]) -> float:
    """Return the largest ‖B_i v_i A_i − share E‖ relative to the terms that meet in it."""
    size, wide = len(goal), [w.astype(np.float64) for w in matrices]
    error = share * (goal - product(wide, size))
    worst = 0.0
    for i, piece in enumerate(found):
        below, above = product(wide[:i], size), product(wide[i + 1 :], size)
        terms = np.linalg.norm(above) * np.linalg.norm(piece) * np.linalg.norm(below)
        scale = terms + np.linalg.norm(goal) + np.prod([np.linalg.norm(w) for w in wide])
        worst = max(worst, float(np.linalg.norm(above @ piece @ below - error) / scale))
    return worst


@given(seeds, st.integers(1, 9), st.integers(1, 5), st.sampled_from([np.float32, np.float64]), st.booleans())
def test_every_layer_gets_the_error_divided_by_the_others(
    seed: int, size: int, depth: int, dtype: Any, fortran: bool
) -> None:
    rng = np.random.default_rng(seed)
    matrices = [w.astype(dtype) for w in chain(rng, size, [2.0] * depth)]
    goal = rng.standard_normal((size, size)).astype(dtype)
    given_ones = [np.array(a, order="F" if fortran else "C") for a in (*matrices, goal)]
    found = divide_by_others(given_ones[:-1], given_ones[-1], -0.5, CERTAIN)
    assert found is not None
    assert all((a == kept).all() for a, kept in zip(given_ones, (*matrices, goal), strict=True))
    assert [v.dtype for v in found] == [dtype] * depth
    assert not any(np.shares_memory(v, other) for v in found for other in given_ones)
    bound = tolerances.solve(dtype, size * depth, 2.0**depth)
    assert defect(matrices, goal, -0.5, found) <= bound
    wrong = [2 * v for v in found]
    assert defect(matrices, goal, -0.5, wrong) > 100 * tolerances.eps(dtype)


@places
@pytest.mark.parametrize("condition", [1e13, 1e18])
def test_no_layer_is_divided_by_whose_condition_leaves_doubt(place: int, condition: float) -> None:
    rng = np.random.default_rng(place)
    matrices = chain(rng, SIZE, [10.0] * DEPTH)
    matrices[place] = conditioned(rng, SIZE, SIZE, condition)
    assert divide_by_others(matrices, np.eye(SIZE), 1.0, CERTAIN) is None
    matrices[place] = np.diag(np.arange(SIZE) + 0.0)
    assert divide_by_others(matrices, np.eye(SIZE), 1.0, CERTAIN) is None


@places
def test_what_no_bound_proves_is_estimated(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, estimates = square_chain._CALLS["d"], 0

    def gecon(*args: Any) -> Any:
        nonlocal estimates
        estimates += 1
        return calls.gecon(*args)

    monkeypatch.setitem(square_chain._CALLS, "d", calls._replace(gecon=gecon))
    rng, goal = np.random.default_rng(place), np.eye(SIZE)
    assert divide_by_others(chain(rng, SIZE, [10.0] * DEPTH), goal, 1.0, CERTAIN) is not None
    assert estimates == 0
    conditions = [1e5 if place in (i, 0) else 10.0 for i in range(DEPTH)]
    conditions[place] = 1e9
    matrices = chain(rng, SIZE, conditions)
    found = divide_by_others(matrices, goal, 1.0, CERTAIN)
    assert found is not None
    assert defect(matrices, goal, 1.0, found) <= tolerances.solve(np.float64, SIZE * DEPTH, 1e9)
    assert (estimates > 0) == (place in (0, DEPTH - 1))  # layers after the first; the last


@given(seeds, st.integers(1, 20), st.floats(0, 8))
def test_noise_reaches_the_norm_of_an_inverse(seed: int, size: int, log_condition: float) -> None:
    matrix = conditioned(np.random.default_rng(seed), size, size, 10.0**log_condition)
    noise, factor = square_chain._noise(size, "d")
    inverse = np.linalg.inv(matrix)
    reached = np.linalg.norm(inverse @ noise, np.inf)
    assert reached / factor < np.linalg.norm(inverse, 1) <= factor * reached


@pytest.mark.parametrize("size", [1e-200, 1e-100, 1e100, 1e200])
def test_sizes_out_of_range_prove_nothing(size: float) -> None:
    singular = np.diag([1.0, 1e-30])
    for place in range(3):
        matrices = [size * np.eye(2) for _ in range(3)]
        matrices[place] = size * singular
        with np.errstate(all="ignore"):
            assert divide_by_others(matrices, np.eye(2), 1.0, CERTAIN) is None
