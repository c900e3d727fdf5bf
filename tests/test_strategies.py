"""Do the strategies keep their promises? Exact ranks, spectra, widths, determinism, every rung reached."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from tests import tolerances
from tests.strategies import (
    RUNGS,
    Problem,
    conditioned,
    covariance,
    integer_rank,
    make_problem,
    orthogonal,
    problems,
    seeds,
    square_problems,
)


def exact_rank(matrix: np.ndarray) -> int:
    """Return the rank by elimination in rational numbers."""
    rows = [[Fraction(float(entry)) for entry in row] for row in matrix]
    rank = 0
    for column in range(matrix.shape[1]):
        pivot = next((k for k in range(rank, len(rows)) if rows[k][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for k in range(rank + 1, len(rows)):
            factor = rows[k][column] / rows[rank][column]
            rows[k] = [a - factor * b for a, b in zip(rows[k], rows[rank], strict=True)]
        rank += 1
    return rank


def test_exact_rank_itself() -> None:
    assert exact_rank(np.array([[1.0, 2.0], [2.0, 4.0]])) == 1
    assert exact_rank(np.array([[1.0, 2.0], [2.0, np.nextafter(4.0, 5.0)]])) == 2
    assert exact_rank(np.zeros((2, 3))) == 0


@given(seeds, st.integers(1, 6), st.integers(1, 6), st.data())
def test_integer_matrices_have_exactly_the_rank(
    seed: int, rows: int, columns: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, min(rows, columns)))
    matrix = integer_rank(np.random.default_rng(seed), rows, columns, rank)
    assert matrix.shape == (rows, columns)
    assert exact_rank(matrix) == rank
    assert (matrix == np.round(matrix)).all()
    assert (matrix == matrix.astype(np.float32)).all()


@given(seeds, st.integers(1, 8), st.integers(1, 8), st.floats(0, 8))
def test_spectra_are_as_asked(seed: int, rows: int, columns: int, log_condition: float) -> None:
    matrix = conditioned(np.random.default_rng(seed), rows, columns, 10**log_condition)
    values = np.linalg.svd(matrix, compute_uv=False)
    wanted = np.geomspace(1, 10**-log_condition, min(rows, columns))
    assert np.abs(values - wanted).max() <= tolerances.backward(np.float64, rows + columns)


@given(seeds, st.integers(1, 8))
def test_orthogonal_matrices_are(seed: int, size: int) -> None:
    matrix = orthogonal(np.random.default_rng(seed), size)
    assert np.abs(matrix @ matrix.T - np.eye(size)).max() <= tolerances.backward(np.float64, size)


@given(seeds, st.integers(1, 6), st.floats(0, 3))
def test_covariances_are_definite(seed: int, size: int, log_condition: float) -> None:
    matrix = covariance(np.random.default_rng(seed), size, 10**log_condition)
    assert (matrix == matrix.T).all()
    values = np.linalg.eigvalsh(matrix)
    wanted = np.geomspace(10 ** (-2 * log_condition), 1, size) if size > 1 else np.ones(1)
    assert np.abs(values - wanted).max() <= tolerances.backward(np.float64, size)


@given(problems())
def test_problems_fit_together(problem: Problem) -> None:
    net, task = problem.net, problem.task
    assert (net.widths[0], net.widths[-1]) == (task.n_inputs, task.n_outputs)
    assert len(problem.conditions) == len(problem.layer_ranks) == net.depth
    assert problem.condition_sum >= net.depth
    assert net.has_biases == (problem.rung == "biases")
    assert task.rank == problem.input_rank


@given(problems(("rank-deficient", "singular")))
def test_declared_ranks_are_exact(problem: Problem) -> None:
    for weight, rank in zip(problem.net.weights, problem.layer_ranks, strict=True):
        if problem.rung == "rank-deficient":
            assert exact_rank(weight) == rank
        else:
            assert rank == min(weight.shape)
    if problem.rung == "singular":
        assert exact_rank(problem.task.input_cov) == problem.input_rank < problem.net.widths[0]


@given(problems(("bottleneck",)))
def test_bottlenecks_are_narrower_than_both_ends(problem: Problem) -> None:
    widths = problem.net.widths
    assert min(widths[1:-1]) < min(widths[0], widths[-1])


@given(problems(("tame", "ill-conditioned", "singular", "biases")))
def test_the_other_rungs_meet_the_condition_of_N1(problem: Problem) -> None:
    widths = problem.net.widths
    assert all(n >= max(widths[0], widths[-1]) for n in widths[1:-1])


@given(square_problems())
def test_square_problems_are_square_and_invertible(problem: Problem) -> None:
    assert len(set(problem.net.widths)) == 1
    assert all(np.linalg.cond(w) < 1e3 for w in problem.net.weights)
    assert problem.task.rank == problem.net.widths[0]


@pytest.mark.parametrize("rung", RUNGS)
def test_the_same_seed_gives_the_same_problem(rung: str) -> None:
    first, second, third = (make_problem(rung, seed) for seed in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(first.net.layers, second.net.layers, strict=True))
    assert (first.task.teacher == second.task.teacher).all()
    assert first.net.widths != third.net.widths or any(
        (a != b).any() for a, b in zip(first.net.layers, third.net.layers, strict=True)
    )


@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_is_reached(rung: str) -> None:
    found = find(problems(), lambda p: p.rung == rung, settings=settings(database=None, max_examples=500))
    assert found.rung == rung


def test_rank_drops_are_reached() -> None:
    def drops(problem: Problem) -> bool:
        full = [min(w.shape) for w in problem.net.weights]
        return sum(r < f for r, f in zip(problem.layer_ranks, full, strict=True)) >= 2

    find(problems(("rank-deficient",)), drops, settings=settings(database=None, max_examples=500))


def test_float32_problems_keep_their_type() -> None:
    assert make_problem("rank-deficient", 0, dtype=np.float32).net.dtype == np.float32


def test_an_unknown_rung_is_refused() -> None:
    with pytest.raises(ValueError, match="'ladder' is not one of"):
        make_problem("ladder", 0)
