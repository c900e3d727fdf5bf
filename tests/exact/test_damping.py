"""Does damping solve its equation by every method and at every strength, and what does factoring it cost? (N4)"""

from __future__ import annotations

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
from linnat.exact.minimum_norm import TOLERANCE
from linnat.linalg import memory
from tests import tolerances
from tests.mp_solves import damped_truth
from tests.strategies import Problem, conditioned, covariance, make_problem, problems

pytestmark = pytest.mark.statement("N4")

METHODS = ("auto", "range-qr", "svd", "range-lsqr")
F64 = np.float64
STOP = 2 * TOLERANCE * np.finfo(F64).eps


def column(direction: Any) -> np.ndarray:
    return ln.flatten([np.asarray(d, dtype=F64) for d in direction])


def top(net: ln.LinearNetwork, task: ln.Task) -> float:
    """Return ‖F‖."""
    return float(np.linalg.norm(by_definition.root_jacobian(net, task), 2)) ** 2


def moments(rng: np.random.Generator, kind: str, size: int, condition: float = 3.0) -> Any:
    if kind == "white":
        return 2.0 * np.eye(size)
    if kind == "singular":
        return np.diag([1.0, 2.0, *np.zeros(size - 2)])
    return covariance(rng, size, condition)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0, 1e4])
@pytest.mark.parametrize("seed", range(3))
def test_every_method_solves_the_damped_equation(method: str, rung: str, seed: int, strength: float) -> None:
    options = {"layer_condition": 8.0, "input_condition": 8.0} if rung == "ill-conditioned" else {}
    problem = make_problem(rung, seed, **options)
    net, task = problem.net, problem.task
    damping = strength * (top(net, task) or 1.0)
    found = ln.solve_damped(net, task, damping, method=method)
    wanted = column(dense.natural_gradient(net, task, damping=damping))
    kappa = 1 + 1 / strength
    bound = tolerances.solve(F64, net.n_parameters, kappa) + STOP * kappa**0.5
    tolerances.assert_close(column(found.direction), wanted, bound)
    assert float(found.residual) <= bound
    # Exact damping stays in the range of Jᵀ: the balance is conserved (C4).
    assert float(found.tilt) <= bound
    same = column(ln.natural_gradient(net, task, damping=damping))
    tolerances.assert_close(column(found.direction), same, 2 * bound)


@pytest.mark.parametrize("widths", [(3, 4, 2), (4, 2, 3), (3, 3, 3)])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize(("inputs", "outputs", "sylvester"), [
    ("white", "white", True), ("white", "full", True), ("full", "white", True), ("singular", "white", True),
    ("full", "full", False), ("singular", "full", False),
])  # fmt: skip
def test_two_layers_are_a_sylvester_equation_where_one_side_is_white(
    widths: tuple[int, ...], biases: bool, inputs: str, outputs: str, sylvester: bool
) -> None:
    rng = np.random.default_rng(1)
    net = ln.LinearNetwork.random(widths, rng=rng, biases=biases)
    shape = (widths[-1], widths[0])
    cov = moments(rng, inputs, widths[0])
    task = ln.Task(rng.standard_normal(shape), np.eye(widths[0]) if biases and inputs == "white" else cov,
                   moments(rng, outputs, widths[-1]))  # fmt: skip
    for strength in (1e-6, 1.0, 1e6):
        white = inputs == outputs == "white"
        assert ln.solve_damped(net, task, strength).method == ("sylvester" if white else "range-qr")
        if not sylvester:
            with pytest.raises(ln.ConditionError, match="two layers, and S or Σ"):
                ln.solve_damped(net, task, strength, method="sylvester")
        found = ln.solve_damped(net, task, strength, method="sylvester" if sylvester else "auto")
        wanted = column(damped_truth(net, task, strength))
        kappa = 1 + (top(net, task) / strength) ** 0.5
        error = tolerances.relative_error(column(found.direction), wanted)
        assert error <= tolerances.solve(F64, sum(widths), kappa)


@pytest.mark.parametrize("widths", [(3, 3, 3), (3, 4, 2), (3, 3, 3, 3), (4, 2, 3, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_accuracy_against_decimals(widths: tuple[int, ...], dtype: Any) -> None:
    """Errors go with ‖F‖^½/λ^½ or less, the condition of [J; √λ]: λ down to 1e-14 ‖F‖ (1e-6 in float32)."""
    rng = np.random.default_rng(0)
    pairs = zip(widths[1:], widths[:-1], strict=True)
    net = ln.LinearNetwork([conditioned(rng, m, n, 10.0).astype(dtype) for m, n in pairs])
    task = ln.Task(rng.standard_normal((widths[-1], widths[0])).astype(dtype))
    scale = float(np.linalg.norm(ln.fisher(net, task).astype(F64), 2))
    errors = []
    for power in (0, 2, 4, 6) if dtype == np.float32 else (0, 4, 8, 11, 14):
        damping = float(dtype(scale * 10.0**-power))
        wanted = column(damped_truth(net, task, damping))
        kappa = 10.0 ** (power / 2)
        for method in METHODS:
            found = ln.solve_damped(net, task, damping, method=method)
            assert found.direction[0].dtype == dtype
            bound = tolerances.solve(dtype, sum(widths), kappa)
            stop = 2 * TOLERANCE * float(np.finfo(dtype).eps) * kappa if found.method == "range-lsqr" else 0.0
            errors.append(tolerances.relative_error(column(found.direction), wanted))
            assert errors[-1] <= bound + stop, (method, power, errors[-1])
    assert max(errors) > 0


def test_a_large_network_is_damped_without_a_dense_matrix() -> None:
    rng = np.random.default_rng(0)
    net = ln.LinearNetwork.random((48,) * 7, rng=rng)
    task = ln.Task(rng.standard_normal((48, 48)), covariance(rng, 48, 10.0), covariance(rng, 48, 10.0))
    size = float(np.linalg.norm(net.after[0], 2)) ** 2
    counts = []
    for share in (1e-8, 1e-4, 1.0):
        found = ln.solve_damped(net, task, share * size)
        assert found.method == "range-lsqr"
        assert float(found.residual) < 1e-11
        assert float(found.tilt) < 1e-11
        counts.append(int(found.iterations))
    assert 600 > counts[0] > counts[1] > counts[2]


def test_damping_of_balanced_layers_in_white_moments_takes_one_iteration() -> None:
    rng = np.random.default_rng(0)
    net, task = (
        ln.LinearNetwork.balanced(rng.standard_normal((5, 4)), 4),
        ln.Task(rng.standard_normal((5, 4))),
    )
    found = ln.solve_damped(net, task, 1e-3, method="range-lsqr")
    assert found.iterations <= 2
    other = ln.solve_damped(net, ln.Task(task.teacher, covariance(rng, 4, 3.0)), 1e-3, method="range-lsqr")
    assert other.iterations > 5


@pytest.mark.parametrize("method", METHODS)
def test_stacks_equal_a_loop(method: str) -> None:
    rng = np.random.default_rng(3)
    nets = [ln.LinearNetwork.random((3, 4, 4, 2), rng=rng) for _ in range(3)]
    weights = [np.stack([n.weights[i] for n in nets]) for i in range(3)]
    weights[1][1] = weights[2][1] = 0
    stack, task = ln.LinearNetwork(weights), ln.Task(rng.standard_normal((2, 1, 2, 3)))
    found = ln.solve_damped(stack, task, 0.1, method=method)
    for i in range(2):
        for j in range(3):
            single = ln.solve_damped(
                ln.LinearNetwork([w[j] for w in weights]), ln.Task(task.teacher[i, 0]), 0.1, method=method
            )
            wanted, ours = column(single.direction), column([d[i, j] for d in found.direction])
            tolerances.assert_close(ours, wanted, 100 * STOP)


@pytest.mark.parametrize(
    ("damping", "options", "message"),
    [
        (0.0, {}, "damping"),
        (-1.0, {}, "damping"),
        (np.nan, {}, "damping"),
        (1.0, {"method": "cg"}, "method: expected one of"),
        (1.0, {"tol": -1.0}, "tol"),
        (1.0, {"max_iterations": 0}, "max_iterations"),
    ],
)
def test_bad_arguments_are_named(damping: float, options: dict[str, Any], message: str) -> None:
    net = ln.LinearNetwork.random((3, 3, 3, 3), rng=0)
    with pytest.raises(ln.InputError, match=message):
        ln.solve_damped(net, ln.Task(np.eye(3)), damping, **options)


def test_an_iteration_that_does_not_converge_hands_over_its_estimate() -> None:
    net, task = ln.LinearNetwork.random((6,) * 6, rng=0), ln.Task(np.eye(6))
    with pytest.raises(ln.ConvergenceError, match=r"LSQR.*max_iterations") as caught:
        ln.solve_damped(net, task, 1e-6, method="range-lsqr", max_iterations=3)
    assert [e.shape for e in caught.value.estimate] == [w.shape for w in net.weights]


def test_without_convergence_the_automatic_choice_is_a_factorisation_while_it_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, task = ln.LinearNetwork.random((20,) * 5, rng=0), ln.Task(np.eye(20))
    wanted = ln.solve_damped(net, task, 1e-2)
    assert wanted.method == "range-lsqr"
    found = ln.solve_damped(net, task, 1e-2, max_iterations=3)
    assert found.method == "range-qr"
    tolerances.assert_close(column(found.direction), column(wanted.direction), 1e-10)
    monkeypatch.setattr(memory, "SHARE", 1e-9)
    with pytest.raises(ln.ConvergenceError, match="max_iterations"):
        ln.solve_damped(net, task, 1e-2, max_iterations=3)


def by_hand(
    net: ln.LinearNetwork, task: ln.Task, damping: float, mask: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return factored and exact damping from dense matrices."""
    precision, factored = np.linalg.inv(task.noise_cov), []
    for before, after, slope in zip(net.before, net.after, ln.gradient(net, task), strict=True):
        inner, outer = before @ task.input_cov @ before.T, after.T @ precision @ after
        pi = np.sqrt((np.trace(inner) / len(inner)) / (np.trace(outer) / len(outer)))
        left = np.linalg.solve(outer + np.sqrt(damping) / pi * np.eye(len(outer)), slope)
        step = np.linalg.solve(inner + pi * np.sqrt(damping) * np.eye(len(inner)), left.T).T
        factored.append(step if mask else step / net.depth)
    matrix = by_definition.gauss_newton(net, task)
    matrix = matrix * dense.block_mask(net, mask) if mask else matrix
    exact = np.linalg.solve(matrix + damping * np.eye(len(matrix)), ln.flatten(ln.gradient(net, task)))
    return ln.flatten(factored), exact


@pytest.mark.parametrize("mask", [None, "block-diagonal"])
@pytest.mark.parametrize("widths", [(3, 2), (3, 4, 2), (4, 2, 3, 3)])
def test_the_error_of_factored_damping_by_hand_and_at_both_ends(
    widths: tuple[int, ...], mask: str | None
) -> None:
    problem = make_problem("tame", 2, widths)
    net, task = problem.net, problem.task
    size = top(net, task)
    strengths = size * np.array([1e-3, 1e-1, 1.0, 1e2])
    found = ln.factored_damping_error(net, task, strengths, mask)
    for strength, error in zip(strengths, found.relative, strict=True):
        wanted = tolerances.relative_error(*by_hand(net, task, float(strength), mask))
        assert abs(error - wanted) <= tolerances.solve(F64, net.n_parameters, 1e4)
    # Both limits exist; the weak one is reached like √λ, the strong one like 1/√λ.
    values = np.linalg.svd(by_definition.root_jacobian(net, task), compute_uv=False)
    bottom = float(values[values > 1e-10 * values[0]].min()) ** 2
    for end, limit, exponent in ((bottom * 1e-7, found.weak, 0.5), (size * 1e7, found.strong, -0.5)):
        steps = end * np.array([1.0, 1e-1]) if exponent > 0 else end * np.array([1.0, 1e1])
        gaps = np.abs(ln.factored_damping_error(net, task, steps, mask).relative - limit)
        assert np.log(gaps[1] / gaps[0]) / np.log(steps[1] / steps[0]) == pytest.approx(exponent, abs=0.1)
    assert float(found.strong) == pytest.approx(0 if mask or net.depth == 1 else 1 - 1 / net.depth)
    if mask or net.depth == 1:
        assert float(found.weak) < 1e-12
        assert found.relative.max() > 0.01
    else:
        # Weak factored damping picks the layerwise gauge or, in a bottleneck, no solution at all.
        assert float(found.weak) > 0.01


@given(problems(("tame", "bottleneck", "rank-deficient", "singular", "biases"), max_depth=4, max_width=4),
       st.floats(-4, 4))  # fmt: skip
def test_errors_of_factored_damping_are_numbers(problem: Problem, log_strength: float) -> None:
    found = ln.factored_damping_error(problem.net, problem.task, [10.0**log_strength])
    assert np.isfinite(found.relative).all()
    assert np.isfinite(found.weak)
    assert (found.relative >= 0).all()


def test_errors_of_factored_damping_of_stacks_and_bad_strengths() -> None:
    net = ln.LinearNetwork.random((3, 4, 2), rng=0, batch_shape=(2,))
    task = ln.Task(np.ones((2, 3)))
    found = ln.factored_damping_error(net, task, [0.1, 1.0, 10.0])
    assert found.relative.shape == (2, 3)
    assert found.weak.shape == found.strong.shape == (2,)
    single = ln.factored_damping_error(ln.LinearNetwork([w[1] for w in net.weights]), task, [0.1, 1.0, 10.0])
    tolerances.assert_close(found.relative[1], single.relative, 1e-12)
    for bad in ([0.0], [-1.0, 1.0], [[1.0]], [np.inf]):
        with pytest.raises(ln.InputError, match="dampings"):
            ln.factored_damping_error(net, task, bad)
    with pytest.raises(ln.ConditionError, match="N4"):
        ln.factored_damping_error(net, task, [1.0], mask=np.array([[0, 1], [1, 0]]))


@pytest.mark.slow
def test_the_autoencoder_of_mnist(mnist_folder: Path) -> None:
    pixels = load_data(mnist_folder).x[:5000]
    task = ln.Task.from_data(pixels, pixels)
    net = ln.LinearNetwork.random((784, 100, 30, 100, 784), rng=0)
    found = ln.solve_damped(net, task, 1.0)
    assert found.method == "range-lsqr"
    assert float(found.residual) < 1e-11
    assert float(found.tilt) < 1e-12


@pytest.mark.parametrize("power", [2, 3])
@pytest.mark.parametrize("condition", [1e2, 1e5])
def test_rows_of_one_length_keep_the_digits(condition: float, power: int) -> None:
    rng = np.random.default_rng(1)
    net = ln.LinearNetwork([conditioned(rng, 3, 3, condition) for _ in range(3)])
    task = ln.Task(rng.standard_normal((3, 3)))
    damping = float(ln.fisher_eigenvalues(net, task).values[0]) / condition**power
    wanted = column(damped_truth(net, task, damping))
    errors = {
        method: tolerances.relative_error(
            column(ln.solve_damped(net, task, damping, method=method).direction), wanted
        )
        for method in ("auto", "range-qr", "range-lsqr", "svd")
    }
    # The rows of J themselves are known to eps κ(products) of their lengths; scaled, nothing else is lost (p = 1).
    bound = tolerances.solve(F64, 9, condition ** (power / 2))
    assert max(errors[name] for name in ("auto", "range-qr")) <= bound
    assert errors["range-lsqr"] <= bound + STOP
    # Negative control: without the scaling digits are lost, the more the smaller the singular values that count.
    assert condition == 1e2 or errors["svd"] > 10 * errors["range-qr"]


@pytest.mark.parametrize("method", ["range-qr", "svd"])
def test_a_factorisation_beyond_memory_is_refused(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = ln.LinearNetwork.random((5, 6, 6, 5), rng=0)
    task = ln.Task(np.eye(5), np.diag(np.arange(1.0, 6.0)))
    monkeypatch.setattr(memory, "SHARE", 1e-9)
    with pytest.raises(ln.InputError, match="Use method='range-lsqr'"):
        ln.solve_damped(net, task, 0.1, method=method)


def test_a_damping_below_the_range_of_single_precision_is_left_to_the_iteration() -> None:
    net = ln.LinearNetwork.random((3, 4, 4, 3), rng=0, dtype=np.float32)
    task = ln.Task(np.eye(3), np.diag([1.0, 2.0, 3.0]))
    assert ln.solve_damped(net, task, 1e-30).method == "range-qr"
    assert ln.solve_damped(net, task, 1e-100).method == "range-lsqr"


@given(problems(max_depth=4, max_width=4, max_log_condition=3.0))
def test_damped_diagonal_blocks_need_no_dense_matrix(problem: Problem) -> None:
    net, task = problem.net, problem.task
    size = top(net, task) or 1.0
    for strength in (1e-3, 1.0, 1e3):
        found = ln.natural_gradient(net, task, damping=strength * size, mask="block-diagonal")
        slope = ln.gradient(net, task)
        kappa = (1 + 1 / strength) * problem.noise_condition
        for i, (u, g) in enumerate(zip(found, slope, strict=True), 1):
            block = ln.fisher_block(net, task, i, i)
            wanted = np.linalg.solve(block + strength * size * np.eye(len(block)), ln.flatten([g]))
            bound = (
                tolerances.solve(F64, net.n_parameters, kappa)
                * np.linalg.norm(ln.flatten(slope))
                / (strength * size)
            )
            assert np.abs(ln.flatten([u]) - wanted).max() <= bound


def test_damped_diagonal_blocks_of_a_large_network_fit() -> None:
    net = ln.LinearNetwork.random((150, 150, 150, 150), rng=0)
    task = ln.Task(np.eye(150))
    found = ln.natural_gradient(net, task, damping=1.0, mask="block-diagonal")
    # (blockdiag F + λ) u = ∇ℓ, layer by layer.
    before, after = net.before, net.after
    for u, g, a, b in zip(found, ln.gradient(net, task), before, after, strict=True):
        left = (b.T @ b) @ u @ (a @ a.T) + u
        tolerances.assert_close(left, g, tolerances.solve(F64, 150, 10.0))
    with pytest.raises(ln.InputError, match="memory.*'block-diagonal'"):
        ln.natural_gradient(net, task, damping=1.0, mask="block-tridiagonal")
