"""Is the null space of J complete, orthonormal in pieces, and free of what the network computes? (F1, N3)"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

import linnat as ln
from linnat.dense import fisher as by_definition
from linnat.exact.chains import groups, make_problem
from linnat.exact.jacobian import jacobian_rank
from linnat.exact.kernel import (
    Kernel,
    _columns,
    _own,
    coordinates,
    dense_kernel,
    directions,
    exchange,
    make_kernel,
    off_kernel,
    overlaps,
    qr_cost,
)
from linnat.linalg.block_qr import factor_bidiagonal
from tests import tolerances
from tests.strategies import Problem, problems
from tests.strategies import make_problem as draw

pytestmark = pytest.mark.statement("F1", "N3")


def kernel_of(problem: Problem) -> tuple[Kernel, Any]:
    parts, batch = make_problem(problem.net, problem.task)
    ((_, part, chains),) = groups(parts, batch)
    return make_kernel(part, chains), chains


def deep(problem: Problem) -> bool:
    return problem.net.depth > 1


@given(problems(max_depth=5, max_width=4, max_log_condition=3.0).filter(deep))
def test_exchanges_are_null_directions_and_as_many_as_there_are(problem: Problem) -> None:
    kernel, chains = kernel_of(problem)
    p, q = chains.output_ranks, chains.input_ranks
    assert kernel.size == sum(a * b for a, b in zip(p, q, strict=True)) - jacobian_rank(chains)
    if kernel.size == 0:
        return
    matrix = dense_kernel(kernel)
    columns = [ln.flatten(directions(kernel, column)) for column in matrix.T]
    values = np.linalg.svd(np.stack(columns, axis=1), compute_uv=False)
    assert values[-1] > 1e-10  # linearly independent
    # Each is a unit vector, and J takes it to zero within rounding of the layers on their ranges.
    np.testing.assert_allclose(np.linalg.norm(columns, axis=1), 1, atol=tolerances.backward(np.float64, 32))
    jacobian = by_definition.root_jacobian(problem.net, problem.task)
    scale = np.linalg.norm(jacobian) * problem.condition_sum
    assert (
        np.linalg.norm(jacobian @ np.stack(columns, axis=1), 2) <= tolerances.backward(np.float64, 64) * scale
    )
    # Negative control: half an exchange changes the function, if the network can change it at all.
    if jacobian_rank(chains) and problem.net.depth == 2:
        half = directions(kernel, matrix[:, 0])
        half[1] = 0 * half[1]
        moved = np.linalg.norm(jacobian @ ln.flatten(half))
        assert moved > 1e-12 * np.linalg.norm(jacobian) * np.linalg.norm(half[0]) or not half[0].any()


@pytest.mark.parametrize("widths", [(3, 4, 2), (3, 4, 5, 2), (5, 2, 5, 3), (4, 4, 4, 4, 4, 4)])
@pytest.mark.parametrize("rung", ["tame", "biases"])
def test_every_second_exchange_is_orthonormal(widths: tuple[int, ...], rung: str) -> None:
    kernel, _ = kernel_of(draw(rung, 3, widths))
    matrix = dense_kernel(kernel)
    bound = tolerances.backward(np.float64, kernel.size)
    place = 0
    for i, cosine in enumerate(kernel.cosine):
        block = matrix[:, place : place + cosine.size]
        np.testing.assert_allclose(block.T @ block, np.eye(cosine.size), atol=bound)
        place += cosine.size
        if i % 2 == 0:
            z = np.random.default_rng(i).standard_normal(cosine.size)
            only = exchange(kernel, z, [i])
            np.testing.assert_allclose(overlaps(kernel, only, [i]), z, atol=bound)
    # All of them together are not: their angles are the condition that is left.
    gram = matrix.T @ matrix
    assert np.abs(gram - np.eye(len(gram))).max() > 1e-3 or len(widths) == 3
    assert np.linalg.norm(gram, 2) <= 2 + bound


@given(problems(max_depth=6, max_width=4, max_log_condition=3.0).filter(lambda p: p.net.depth > 2))
def test_projecting_off_the_kernel_layer_by_layer_is_one_dense_projection(problem: Problem) -> None:
    kernel, _ = kernel_of(problem)
    x = np.random.default_rng(problem.seed).standard_normal(kernel.length)
    basis = np.linalg.qr(dense_kernel(kernel))[0] if kernel.size else np.zeros((kernel.length, 0))
    wanted = x - basis @ (basis.T @ x)
    # The range of N, not N itself: its condition is that of the angles between exchanges.
    values = np.linalg.svd(dense_kernel(kernel), compute_uv=False) if kernel.size else np.ones(1)
    bound = tolerances.solve(np.float64, kernel.length, values[0] / values[-1]) * np.linalg.norm(x)
    np.testing.assert_allclose(off_kernel(kernel, x), wanted, rtol=0, atol=bound)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_the_cost_is_counted(batch: tuple[int, ...]) -> None:
    net = ln.LinearNetwork.random((3, 4, 5, 4, 4, 2), rng=1, batch_shape=batch)
    parts, shape = make_problem(net, ln.Task(np.ones((2, 3))))
    ((_, part, chains),) = groups(parts, shape)
    kernel = make_kernel(part, chains)
    turns = factor_bidiagonal(_own(kernel, 0), _columns(kernel))
    flops, numbers = qr_cost(kernel)
    held = sum(turn.factor.size for turn in turns) // max(1, int(np.prod(batch)))
    assert held <= numbers <= 3 * held
    # A QR of all rows of a column, and its application to the next one.
    following = [*(turn.size for turn in turns[1:]), 0]
    each = [2 * t.rows * t.size * (t.size + 2 * after) for t, after in zip(turns, following, strict=True)]
    assert 0 < flops == sum(each)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_overlaps_are_the_transpose_of_exchange(batch: tuple[int, ...]) -> None:
    net = ln.LinearNetwork.random((3, 4, 5, 4, 2), rng=1, batch_shape=batch)
    parts, shape = make_problem(net, ln.Task(np.ones((2, 3))))
    ((_, part, chains),) = groups(parts, shape)
    kernel, rng = make_kernel(part, chains), np.random.default_rng(0)
    for members in (kernel.odd, kernel.even, range(3)):
        size = sum(kernel.cosine[i].shape[-2] * kernel.cosine[i].shape[-1] for i in members)
        z, x = rng.standard_normal((*batch, size)), rng.standard_normal((*batch, kernel.length))
        one = (exchange(kernel, z, members) * x).sum(axis=-1)
        two = (overlaps(kernel, x, members) * z).sum(axis=-1)
        scale = np.linalg.norm(z) * np.linalg.norm(x)
        np.testing.assert_allclose(one, two, atol=tolerances.product(np.float64, 64) * scale)
    x = rng.standard_normal((*batch, kernel.length))
    back = coordinates(kernel, directions(kernel, x))
    np.testing.assert_allclose(back, x, atol=tolerances.backward(np.float64, 16))
    assert dense_kernel(kernel).shape == (*batch, kernel.length, kernel.size)
