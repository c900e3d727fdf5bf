"""Is the oracle right? Rational numbers, singular value decompositions in mpmath, the dense Fisher equation."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings

from linnat.exact.network import LinearNetwork
from tests import tolerances
from tests.mp_oracle import (
    RATIONAL,
    UndeterminedError,
    column_basis,
    convert,
    decimal_field,
    exact_moments,
    population_moments,
    rational_truth,
    solve,
    task_moments,
    truth,
)
from tests.strategies import Problem, make_problem, problems

pytestmark = pytest.mark.statement("N2", "X9", "X10")


@settings(max_examples=15)
@given(problems(("tame", "bottleneck", "rank-deficient", "singular", "biases"), max_depth=3, max_width=3))
def test_decimal_equals_rational(problem: Problem) -> None:
    moments = task_moments(problem.task, problem.net.has_biases)
    exact = rational_truth(problem.net, moments, problem.task.noise_cov)
    rounded = truth(problem.net, moments, problem.task.noise_cov)
    assert exact.ranks == rounded.ranks
    for a, b in zip(exact.direction, rounded.direction, strict=True):
        assert np.abs(a - b).max() <= tolerances.eps(np.float64) * np.abs(b).max()
    assert abs(exact.cancellation - rounded.cancellation) <= 1e-9 * exact.cancellation


@given(problems())
def test_it_solves_the_dense_fisher_equation(problem: Problem) -> None:
    net, task = problem.net, problem.task
    found = truth(net, task_moments(task, net.has_biases), task.noise_cov)
    factor = task.moments(net.has_biases).factor
    white = np.linalg.inv(np.linalg.cholesky(task.noise_cov))
    jacobian = [np.kron((a @ factor).T, white @ b) for a, b in zip(net.before, net.after, strict=True)]
    matrix = np.concatenate(jacobian, axis=1)
    gap = net.total @ factor - task.goal(net.has_biases) @ factor
    solution = np.concatenate([v.T.ravel() for v in found.direction])
    response = matrix @ solution - (white @ gap).T.ravel()
    scale = np.linalg.norm(matrix, 2) * (
        np.linalg.norm(matrix, 2) * np.linalg.norm(solution) + np.linalg.norm(gap)
    )
    size = matrix.shape[0] * problem.input_condition * problem.noise_condition
    assert np.linalg.norm(matrix.T @ response) <= tolerances.product(np.float64, 1, size) * max(scale, 1e-300)


def layerwise_by_svd(problem: Problem, digits: int) -> list[mpmath.matrix]:
    """Return N2 in mpmath: symmetric roots, singular values, whitened projectors; nothing shared with the oracle."""
    net, task = problem.net, problem.task
    mp = mpmath.mp.clone()
    mp.dps = digits

    def matrix(a: np.ndarray) -> mpmath.matrix:
        return mp.matrix(a.tolist())

    def root(a: mpmath.matrix, power: float) -> mpmath.matrix:
        values, vectors = mp.eigsy(a)
        top = max(values)
        scaled = mp.diag([mp.mpf(0) if v < top * mp.mpf(10) ** (-digits / 2) else v**power for v in values])
        return vectors * scaled * vectors.T

    def pinv(a: mpmath.matrix) -> mpmath.matrix:
        left, values, right = mp.svd_r(a, full_matrices=False)
        # Relative to 1, the size of the layers: a product that vanishes leaves noise of size 10^-digits only.
        inverse = mp.diag([mp.mpf(0) if v < mp.mpf(10) ** (-digits / 2) else 1 / v for v in values])
        return right.T * inverse * left.T

    half, white = root(matrix(task.input_cov), mp.mpf(1) / 2), root(matrix(task.noise_cov), -mp.mpf(1) / 2)
    weights = [matrix(w) for w in net.weights]
    before, after = [half], [white]
    for w in weights[:-1]:
        before.append(w * before[-1])
    for w in reversed(weights[1:]):
        after.insert(0, after[0] * w)
    gap = white * (weights[-1] * before[-1] - matrix(task.teacher) * half)
    ins, outs = [pinv(a) for a in before], [pinv(b) for b in after]
    p = [mp.zeros(net.widths[-1])] + [b * inv for b, inv in zip(after, outs, strict=True)]
    q = [inv * a for a, inv in zip(before, ins, strict=True)] + [mp.zeros(net.widths[0])]
    result = []
    for i in range(net.depth):
        middle = gap * 0
        for k in range(i + 1):
            for l in range(i, net.depth):
                middle += (p[k + 1] - p[k]) * gap * (q[l] - q[l + 1]) / (l - k + 1)
        result.append(outs[i] * middle * ins[i])
    return result


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["tame", "bottleneck", "rank-deficient", "singular"])
def test_it_equals_singular_value_decompositions_in_mpmath(kind: str, seed: int) -> None:
    widths = {"bottleneck": (3, 2, 3), "rank-deficient": (3, 3, 2, 3)}.get(kind, (3, 3, 2))
    problem = make_problem(kind, seed, widths)
    found = truth(problem.net, task_moments(problem.task), problem.task.noise_cov)
    for ours, theirs in zip(found.direction, layerwise_by_svd(problem, 50), strict=True):
        other = np.array([[float(x) for x in row] for row in theirs.tolist()])
        assert np.abs(ours - other).max() <= tolerances.eps(np.float64) * np.abs(other).max() + 1e-20


def test_hand_computed_case() -> None:
    # w_2 w_1 = 2, teacher 3: v = E / (2 B), E / (2 A) with E = 1; the ascent direction is its negative.
    net = LinearNetwork([[[2.0]], [[1.0]]])
    found = truth(net, lambda f: population_moments([[3.0]], None, f))
    assert found.direction[0] == -0.5
    assert found.direction[1] == -0.25
    assert found.ranks == ((1, 1), (1, 1))
    assert found.cancellation == pytest.approx(2.0)


def test_rank_drops_of_products_are_seen() -> None:
    # W_3 W_2 = 0 with neither zero: no error block can be expressed by layer 1; layers 2 and 3 do what they can.
    second, third = np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 2.0]])
    net = LinearNetwork([np.eye(2), second, third])
    found = truth(net, lambda f: population_moments(np.eye(2), None, f))
    assert found.ranks == ((0, 2), (1, 2), (2, 1))
    assert not found.direction[0].any()


def test_moments_of_rows_are_exact() -> None:
    x, y = np.array([[0.1, 1.0], [0.2, 3.0]]), np.array([[1.0], [2.0]])
    cov, cross = exact_moments(x, y, RATIONAL, biases=True)
    assert cov[0, 0] == (Fraction(0.1) ** 2 + Fraction(0.2) ** 2) / 2
    assert cross[0, 2] == Fraction(3, 2)


def test_linear_systems_are_solved_exactly() -> None:
    matrix = convert([[0.0, 2.0], [3.0, 1.0]], RATIONAL)
    right = convert([[1.0], [1.0]], RATIONAL)
    assert (matrix @ solve(matrix, right) == right).all()


def test_an_undetermined_pivot_is_refused() -> None:
    with localcontext(prec=60):
        field = decimal_field(60)
        matrix = convert(np.eye(2), field)
        matrix[1, 1] = Decimal(10) ** -30
        with pytest.raises(UndeterminedError):
            column_basis(matrix, Decimal(1), field)
        matrix[1, 1] = Decimal(10) ** -50
        assert column_basis(matrix, Decimal(1), field).shape == (2, 1)
        matrix[1, 1] = Decimal(10) ** -10
        assert column_basis(matrix, Decimal(1), field).shape == (2, 2)
