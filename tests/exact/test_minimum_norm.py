"""Is the minimum-norm natural gradient the shortest solution, by every method, at every condition and size? N3, S1."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linnat as ln
from linnat.data.sets import load_data
from linnat.dense import fisher as by_definition
from linnat.dense import natural as dense
from linnat.exact import minimum_norm as module
from linnat.exact.minimum_norm import TOLERANCE
from linnat.exact.staircase import change_of_total
from linnat.linalg import memory
from tests import tolerances
from tests.mp_solves import minimum_norm_truth, onto_truth
from tests.strategies import (
    Problem,
    condition_on_range,
    conditioned,
    covariance,
    make_problem,
    orthogonal,
    problems,
)

pytestmark = pytest.mark.statement("N3", "X9")

METHODS = ("kernel-qr", "kernel-lsqr", "range-lsqr")
F64 = np.float64


def column(direction: Any) -> np.ndarray:
    return ln.flatten([np.asarray(d, dtype=F64) for d in direction])


def condition_of(problem: Problem) -> float:
    values = np.linalg.svd(by_definition.root_jacobian(problem.net, problem.task), compute_uv=False)
    kept = values[values > 1e-12 * values[0]]
    return float(kept[0] / kept[-1]) if len(kept) else 1.0


def network(widths: tuple[int, ...], condition: float, seed: int, dtype: Any = F64) -> ln.LinearNetwork:
    rng = np.random.default_rng(seed)
    shapes = zip(widths[1:], widths[:-1], strict=True)
    return ln.LinearNetwork([conditioned(rng, m, n, condition).astype(dtype) for m, n in shapes])


def teacher(net: ln.LinearNetwork, seed: int = 0) -> ln.Task:
    shape = (net.widths[-1], net.widths[0])
    return ln.Task(np.random.default_rng(seed).standard_normal(shape).astype(net.dtype))


def condition_sum(net: ln.LinearNetwork) -> float:
    return sum(condition_on_range(w.astype(F64), min(w.shape)) for w in net.weights)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_every_method_is_the_dense_pseudo_inverse(method: str, rung: str, seed: int) -> None:
    options = {"layer_condition": 8.0, "input_condition": 8.0} if rung == "ill-conditioned" else {}
    problem = make_problem(rung, seed, **options)
    found = ln.solve_minimum_norm(problem.net, problem.task, method=method)
    wanted = dense.natural_gradient(problem.net, problem.task, "minimum-norm")
    kappa = condition_of(problem)
    bound = tolerances.solve(F64, problem.net.n_parameters, kappa**2) + TOLERANCE * np.finfo(F64).eps * kappa
    tolerances.assert_close(column(found.direction), column(wanted), bound)
    assert found.rank == np.linalg.matrix_rank(
        by_definition.root_jacobian(problem.net, problem.task), rtol=1e-12
    )
    same = column(ln.natural_gradient(problem.net, problem.task, "minimum-norm"))
    tolerances.assert_close(column(found.direction), same, bound)


@given(problems(max_depth=5, max_width=4, max_log_condition=4.0), st.sampled_from(METHODS[:2]))
def test_residuals_are_what_they_say(problem: Problem, method: str) -> None:
    net, task = problem.net, problem.task
    found = ln.solve_minimum_norm(net, task, method=method)
    jacobian, error = by_definition.root_jacobian(net, task), by_definition.root_residual(net, task)
    v = -column(found.direction)
    basis = np.linalg.svd(jacobian)[0][:, : int(found.rank)]
    size = np.linalg.norm(error)
    residual = np.linalg.norm(basis.T @ (jacobian @ v - error)) / size if size else 0.0
    slack = tolerances.backward(F64, net.n_parameters) * (
        1 + np.linalg.norm(jacobian) * np.linalg.norm(v) / (size or 1)
    )
    # The oracle's range of J turns by eps κ(J).
    assert abs(residual - float(found.residual)) <= slack * condition_of(problem)
    assert (
        float(found.tilt)
        <= (2 * TOLERANCE + 32 * net.n_parameters) * np.finfo(F64).eps * problem.condition_sum
    )


def test_the_method_follows_the_network() -> None:
    rng = np.random.default_rng(0)
    cases = {
        "direct": ln.LinearNetwork.random((3, 2), rng=rng),
        "sylvester": ln.LinearNetwork.random((3, 4, 2), rng=rng),
        "kernel-qr": ln.LinearNetwork.random((3, 4, 4, 2), rng=rng),
        "kernel-lsqr": ln.LinearNetwork.random((24, 24, 24, 24, 24), rng=rng),
        "balanced": ln.LinearNetwork.balanced(rng.standard_normal((3, 4)), 3),
    }
    for name, net in cases.items():
        found = ln.solve_minimum_norm(net, teacher(net))
        assert found.method == name
        assert (found.iterations > 0) == (name == "kernel-lsqr")
        assert float(found.residual) < 1e-12
        assert float(found.tilt) < 1e-12


@pytest.mark.statement("S1")
@pytest.mark.parametrize("widths", [(4, 4), (4, 6), (6, 4), (2, 5)])
@pytest.mark.parametrize("depth", [3, 5])
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("singular", [False, True])
def test_balanced_networks_are_solved_by_a_division(
    widths: tuple[int, int], depth: int, rank: int, singular: bool
) -> None:
    # A total weight of full or low rank, balanced layers turned by rotations, and one layer out of balance as control.
    rng = np.random.default_rng(depth)
    total = rng.standard_normal((widths[0], rank)) @ rng.standard_normal((rank, widths[1]))
    thin = ln.LinearNetwork.balanced(np.eye(rank) * np.arange(1.0, rank + 1), depth, width=7)
    left, right = (orthogonal(rng, n)[:, :rank] for n in widths)
    turns = [orthogonal(rng, 7) for _ in range(depth - 1)]
    weights = [thin.weights[0] @ right.T, *thin.weights[1:-1], left @ thin.weights[-1]]
    for i, turn in enumerate(turns):
        weights[i], weights[i + 1] = turn @ weights[i], weights[i + 1] @ turn.T
    net = ln.LinearNetwork(weights)
    cov = np.diag([1.0, 2.0, *np.zeros(widths[1] - 2)]) if singular else covariance(rng, widths[1], 3.0)
    task = ln.Task(total, cov, covariance(rng, widths[0], 3.0))
    found = ln.solve_minimum_norm(net, task, rtol=1e-10)
    wanted = column(dense.natural_gradient(net, task, "minimum-norm", rtol=1e-8))
    tolerances.assert_close(column(found.direction), wanted, tolerances.solve(F64, net.n_parameters, 1e3))
    # On a part of the inputs the layers need not be balanced: the first one counts on range S only.
    assert (found.method == "balanced") or singular
    other = ln.LinearNetwork([*weights[:-1], 1.1 * weights[-1]])
    assert ln.solve_minimum_norm(other, task, rtol=1e-10).method == "kernel-qr"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "widths", [(4, 4, 4, 4), (3, 4, 5, 2), (4, 2, 4, 3), (3, 3, 3, 3, 3), (3, 3, 3), (3, 4, 2)]
)
def test_accuracy_against_decimals_at_layer_conditions_up_to_1e7(widths: tuple[int, ...], dtype: Any) -> None:
    """Errors go with the sum of the layers' conditions, not with κ(J), which is its power: up to 1e16 here."""
    for exponent in (0, 1, 2, 3) if dtype == np.float32 else (0, 2, 4, 7):
        net = network(widths, 10.0**exponent, exponent, dtype)
        task = teacher(net)
        wanted = column(minimum_norm_truth(net, task))
        bound = tolerances.chain(dtype, condition_sum(net))
        for method in METHODS[:2]:
            found = ln.solve_minimum_norm(net, task, method=method)
            assert found.direction[0].dtype == dtype
            # LSQR stops at 256 eps along each unit null direction.
            stop = 2 * TOLERANCE * np.finfo(dtype).eps if found.method == "kernel-lsqr" else 0.0
            tolerances.assert_close(
                column(found.direction), wanted, bound + stop, f"{method} at 1e{exponent}"
            )


DEEP = [((5,) * 7, 0), ((5,) * 13, 1), ((4,) * 25, 0), ((3, 5, 5, 5, 5, 5, 4), 2)]


@pytest.mark.parametrize(("widths", "seed"), DEEP)
def test_accuracy_of_deep_gaussian_networks(widths: tuple[int, ...], seed: int) -> None:
    net = ln.LinearNetwork.random(widths, rng=seed)
    task = teacher(net, seed)
    wanted = column(onto_truth(net, task))
    bound = tolerances.chain(F64, condition_sum(net))
    found = column(ln.solve_minimum_norm(net, task, method="kernel-qr").direction)
    tolerances.assert_close(found, wanted, bound)
    # Its start, LSQR on J, is right to eps κ(J) only; what is left of it must be known better than that.
    options = {"method": "kernel-lsqr", "tol": 8 * tolerances.eps(F64)}
    iterated = column(ln.solve_minimum_norm(net, task, **options).direction)
    tolerances.assert_close(iterated, wanted, bound)
    # The rival: a singular value decomposition of J has lost the digits of κ(J).
    jacobian = by_definition.root_jacobian(net, task)
    rival = -np.linalg.pinv(jacobian, rcond=1e-15) @ by_definition.root_residual(net, task)
    if net.depth >= 12:
        assert tolerances.relative_error(rival, wanted) > 100 * tolerances.relative_error(found, wanted)


def test_refinement_makes_the_residual_smaller_and_the_direction_no_worse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = ln.LinearNetwork.random((5,) * 13, rng=0)
    task = teacher(net)
    wanted = column(onto_truth(net, task))
    plain, refined = (ln.solve_minimum_norm(net, task, refinements=n) for n in (0, 1))
    assert float(refined.residual) < 0.1 * float(plain.residual)
    errors = [tolerances.relative_error(column(s.direction), wanted) for s in (plain, refined)]
    assert errors[1] < 2 * errors[0]
    # A remainder in working precision takes its rounding errors through J⁺.
    monkeypatch.setattr(
        module, "remainder", lambda problem, v, error, x: error - change_of_total(problem, v, x)
    )
    spoilt = ln.solve_minimum_norm(net, task, refinements=1)
    assert float(spoilt.residual) < 0.5 * float(plain.residual)
    assert tolerances.relative_error(column(spoilt.direction), wanted) > 100 * errors[1]


@pytest.mark.parametrize(("depth", "size", "condition"), [(3, 8, 1e5), (4, 8, 1e4), (4, 20, 1e4)])
def test_the_induced_change_is_right_by_default(depth: int, size: int, condition: float) -> None:
    net = network((size,) * (depth + 1), condition, 0)
    task = teacher(net, 1)
    gap = net.total - task.teacher
    plain, default = (ln.solve_minimum_norm(net, task, refinements=n) for n in (0, None))
    direction = ln.natural_gradient(net, task, "minimum-norm")
    lost = [tolerances.relative_error(ln.induced_change(net, s.direction), gap) for s in (plain, default)]
    assert lost[1] <= 1e-8 < lost[0]
    assert float(default.residual) <= 1e-8
    assert all(np.array_equal(a, b) for a, b in zip(direction, default.direction, strict=True))
    assert tolerances.relative_error(column(default.direction), column(plain.direction)) < 1e-10


def test_networks_of_a_stack_are_refined_one_by_one() -> None:
    nets = [network((8,) * 5, condition, 0) for condition in (1e2, 1e4, 1e6)]
    stack = ln.LinearNetwork([np.stack(layers) for layers in zip(*(n.layers for n in nets), strict=True)])
    task = ln.Task(np.random.default_rng(1).standard_normal((8, 8)))
    plain, default = (ln.solve_minimum_norm(stack, task, refinements=n) for n in (0, None))
    same = [
        all(np.array_equal(a[i], b[i]) for a, b in zip(plain.direction, default.direction, strict=True))
        for i in range(3)
    ]
    assert same == [True, False, True]
    assert plain.residual[1] > 1e-8 >= default.residual[1]


def test_a_refinement_that_does_not_converge_leaves_the_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network((20,) * 5, 1e4, 0)
    task = teacher(net, 1)
    plain = ln.solve_minimum_norm(net, task, refinements=0)

    def fails(*_: object) -> None:
        raise ln.ConvergenceError("no step", ())

    monkeypatch.setattr(module, "_refined", fails)
    found = ln.solve_minimum_norm(net, task)
    assert all(np.array_equal(a, b) for a, b in zip(found.direction, plain.direction, strict=True))
    with pytest.raises(ln.ConvergenceError, match="no step"):
        ln.solve_minimum_norm(net, task, refinements=1)


@pytest.mark.parametrize("method", [None, "range-lsqr"])
def test_six_gaussian_layers_plus_identity(method: str | None) -> None:
    rng = np.random.default_rng(0)
    net = ln.LinearNetwork([np.eye(64) + rng.standard_normal((64, 64)) / 8 for _ in range(6)])
    task = teacher(net)
    begin = time.perf_counter()
    found = ln.solve_minimum_norm(net, task, method=method or "auto")
    assert time.perf_counter() - begin < 60
    change = ln.induced_change(net, found.direction)
    tolerances.assert_close(-change, task.teacher - net.total, 1e-8)
    assert float(found.residual) < 1e-10
    assert float(found.tilt) < 1e-10
    assert found.rank == 64 * 64
    layerwise = column(ln.natural_gradient(net, task))
    assert np.linalg.norm(column(found.direction)) < 0.2 * np.linalg.norm(layerwise)


def test_stacks_of_networks_of_different_ranks() -> None:
    rng = np.random.default_rng(3)
    nets = [ln.LinearNetwork.random((3, 4, 4, 2), rng=rng) for _ in range(3)]
    weights = [np.stack([n.weights[i] for n in nets]) for i in range(3)]
    weights[1][1] = weights[2][1] = 0
    weights[1][2] *= 1e-3
    stack, task = ln.LinearNetwork(weights), ln.Task(rng.standard_normal((2, 1, 2, 3)))
    for method in METHODS:
        found = ln.solve_minimum_norm(stack, task, method=method)
        assert found.method.shape == found.rank.shape == found.residual.shape == (2, 3)
        assert (found.rank[:, 1] == 0).all()
        for i in range(2):
            for j in range(3):
                alone = ln.LinearNetwork([w[j] for w in weights])
                single = ln.solve_minimum_norm(alone, ln.Task(task.teacher[i, 0]), method=method)
                assert single.rank == found.rank[i, j]
                wanted = column(single.direction)
                ours = column([d[i, j] for d in found.direction])
                tolerances.assert_close(ours, wanted, 2 * TOLERANCE * np.finfo(F64).eps * 100)


def test_an_iteration_that_does_not_converge_hands_over_a_solution() -> None:
    net = network((6,) * 6, 1e3, 0)
    task = teacher(net)
    with pytest.raises(ln.ConvergenceError, match=r"LSQR.*max_iterations") as caught:
        ln.solve_minimum_norm(net, task, method="kernel-lsqr", max_iterations=3)
    estimate = caught.value.estimate
    # Not the shortest, but a solution: the network changes as it should.
    bound = tolerances.solve(F64, 36, condition_sum(net)) * np.linalg.norm(column(estimate))
    assert np.abs(ln.induced_change(net, estimate) + task.teacher - net.total).max() <= bound
    shortest = column(ln.solve_minimum_norm(net, task).direction)
    assert np.linalg.norm(shortest) < np.linalg.norm(column(estimate))
    with pytest.raises(ln.ConvergenceError, match="LSQR on J"):
        ln.solve_minimum_norm(net, task, method="range-lsqr", max_iterations=3)


def test_without_convergence_the_automatic_choice_is_a_factorisation_while_it_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = network((24,) * 5, 1e2, 0)
    task = teacher(net)
    wanted = ln.solve_minimum_norm(net, task)
    assert wanted.method == "kernel-lsqr"
    found = ln.solve_minimum_norm(net, task, max_iterations=3)
    assert found.method == "kernel-qr"
    tolerances.assert_close(column(found.direction), column(wanted.direction), 1e-10)
    monkeypatch.setattr(memory, "SHARE", 1e-9)
    with pytest.raises(ln.ConvergenceError, match="max_iterations"):
        ln.solve_minimum_norm(net, task, max_iterations=3)


def test_iterations_that_a_factorisation_ends_go_on_where_it_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = ln.LinearNetwork.random((16,) * 8, rng=0)
    task = teacher(net)
    factorised = ln.solve_minimum_norm(net, task)
    assert factorised.method == "kernel-qr"
    assert factorised.iterations > 0
    monkeypatch.setattr(memory, "SHARE", 1e-9)
    iterated = ln.solve_minimum_norm(net, task)
    assert iterated.method == "kernel-lsqr"
    assert iterated.iterations > factorised.iterations
    bound = tolerances.chain(F64, condition_sum(net)) + 512 * tolerances.eps(F64)
    tolerances.assert_close(column(iterated.direction), column(factorised.direction), bound)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "svd"}, "method: expected one of"),
        ({"tol": -1.0}, "tol"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"refinements": -1}, "refinements"),
        ({"rtol": "small"}, "rtol"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    net = ln.LinearNetwork.random((3, 3, 3, 3), rng=0)
    with pytest.raises(ln.InputError, match=message):
        ln.solve_minimum_norm(net, teacher(net), **options)


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("depth", [4, 16, 32])
def test_deep_chains_are_solved_without_iterations(depth: int, condition: float) -> None:
    # Iterations would grow like L² and with the condition of the layers, to 5000 at 32 layers of condition 100.
    net = network((5,) * (depth + 1), condition, 2)
    found = ln.solve_minimum_norm(net, teacher(net))
    assert found.iterations == 0
    assert found.method == ("balanced" if condition == 1 else "kernel-qr")
    assert found.tilt <= tolerances.backward(F64, 25)
    if depth == 4:
        other = ln.solve_minimum_norm(net, teacher(net), method="kernel-lsqr")
        bound = 2 * TOLERANCE * tolerances.chain(F64, condition_sum(net))
        tolerances.assert_close(column(found.direction), column(other.direction), bound)


@pytest.mark.parametrize("method", ["kernel-qr", "kernel-lsqr", "range-lsqr"])
@pytest.mark.parametrize("widths", [(4, 4, 4), (5, 3, 4), (3, 7, 2), (6, 2, 6)])
def test_two_layers_by_every_method(widths: tuple[int, ...], method: str) -> None:
    for biases in (False, True):
        net = ln.LinearNetwork.random(widths, rng=1, biases=biases)
        task = teacher(net)
        found, wanted = ln.solve_minimum_norm(net, task, method=method), ln.solve_minimum_norm(net, task)
        assert (str(found.method), str(wanted.method)) == (method, "sylvester")
        assert found.iterations == 0 or method == "range-lsqr"
        bound = 2 * TOLERANCE * tolerances.chain(F64, condition_sum(net))
        tolerances.assert_close(column(found.direction), column(wanted.direction), bound)


@pytest.mark.slow
@pytest.mark.parametrize("width", [45, 60])
def test_the_factorisation_of_wide_layers(width: int) -> None:
    """n_L n_0 = 2025 and 3600: what the automatic choice falls back on where iterations do not converge."""
    net = ln.LinearNetwork.random((width,) * 4, rng=0)
    task = teacher(net)
    wanted = ln.solve_minimum_norm(net, task)
    assert wanted.method == "kernel-lsqr"
    found = ln.solve_minimum_norm(net, task, max_iterations=3)
    assert found.method == "kernel-qr"
    bound = 2 * TOLERANCE * tolerances.chain(F64, condition_sum(net))
    tolerances.assert_close(column(found.direction), column(wanted.direction), bound)
    assert found.tilt <= tolerances.backward(F64, width)


def test_a_qr_beyond_memory_is_refused() -> None:
    net = ln.LinearNetwork.random((300,) * 5, rng=0)
    with pytest.raises(ln.InputError, match="kernel-lsqr"):
        ln.solve_minimum_norm(net, teacher(net), method="kernel-qr")


@pytest.mark.parametrize(("method", "limit"), [("kernel-lsqr", 1.3), ("range-lsqr", 1.0)])
def test_iterations_grow_slowly_with_the_width(method: str, limit: float) -> None:
    """Exponents of n over widths 8 … 32, Gaussian layers, depth 4: below one and a third, and no power of κ(J)."""
    widths, counts = [8, 16, 32], []
    for n in widths:
        runs = [
            ln.solve_minimum_norm(net, teacher(net), method=method)
            for net in (gaussian(n, s) for s in range(3))
        ]
        counts.append(float(np.median([int(r.iterations) for r in runs])))
    slope = np.polyfit(np.log(widths), np.log(counts), 1)[0]
    assert 0 < slope < limit, (counts, slope)


def gaussian(n: int, seed: int) -> ln.LinearNetwork:
    return ln.LinearNetwork.random((n,) * 5, rng=seed)


@pytest.mark.slow
@pytest.mark.parametrize("biases", [False, True])
def test_the_autoencoder_of_mnist(mnist_folder: Path, biases: bool) -> None:
    """784-100-30-100-784 on S of rank below 784 and condition 5e10: 44,000 equations in 7,000 null directions."""
    pixels = load_data(mnist_folder).x[:10_000]
    task = ln.Task.from_data(pixels, pixels)
    net = ln.LinearNetwork.random((784, 100, 30, 100, 784), rng=0, biases=biases)
    found = ln.solve_minimum_norm(net, task)
    assert found.method == "kernel-lsqr"
    assert found.iterations < 100
    level = math.sqrt(784) * np.finfo(F64).eps * 32
    assert float(found.residual) < level
    assert float(found.tilt) < level
    layerwise = ln.natural_gradient(net, task)
    factor = task.moments(biases).factor
    changes = [ln.induced_change(net, u) @ factor for u in (found.direction, layerwise)]
    tolerances.assert_close(changes[0], changes[1], 100 * level)
    assert np.linalg.norm(column(found.direction)) < np.linalg.norm(column(layerwise))
    other = ln.solve_minimum_norm(net, task, method="range-lsqr")
    tolerances.assert_close(column(other.direction), column(found.direction), 1e-9)
    # Negative control: a direction that is a little too long is told.
    assert float(found.residual) < 1e-3 * np.linalg.norm(1e-6 * changes[0]) / np.linalg.norm(changes[0])


def test_deep_networks_start_with_lsqr_on_j(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    net = ln.LinearNetwork([rng.standard_normal((8, 8)) / 8**0.5 + np.eye(8) for _ in range(10)])
    task = ln.Task(rng.standard_normal((8, 8)))
    factored = ln.solve_minimum_norm(net, task, method="kernel-qr")
    found = ln.solve_minimum_norm(net, task, method="kernel-lsqr")
    monkeypatch.setattr(module, "DEEP", 99)
    bare = ln.solve_minimum_norm(net, task, method="kernel-lsqr")
    condition = sum(float(np.linalg.cond(w)) for w in net.weights)
    change = np.linalg.norm(column(found.direction) - column(factored.direction))
    assert change <= tolerances.solve(F64, 80, condition) * np.linalg.norm(column(factored.direction))
    # The start is of use: fewer iterations, and what is left of the error is smaller.
    assert found.iterations < bare.iterations
    assert found.residual < bare.residual
    assert found.tilt <= TOLERANCE * np.finfo(F64).eps
