"""Is the null space of F whole, null, and as orthonormal as it says? Do all routes meet? (N8)"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import linnat as ln
from linnat.dense import fisher as by_definition
from linnat.dense import natural as dense
from linnat.linalg import memory
from linnat.linalg.solve import symmetric_sylvester
from tests import tolerances
from tests.strategies import Problem, make_problem, problems

pytestmark = pytest.mark.statement("N8")

METHODS = ("auto", "kernel-qr", "kernel-lsqr", "range-lsqr")


@given(problems(max_depth=5, max_width=4, max_log_condition=3.0))
def test_it_is_whole_and_null_whatever_the_widths_ranks_and_inputs(problem: Problem) -> None:
    net, task = problem.net, problem.task
    found = ln.null_space(net, task)
    assert found.dimension == net.n_parameters - int(ln.fisher_rank(net, task))
    whole = np.concatenate([found.exchanges, found.outside], axis=1)
    jacobian = by_definition.root_jacobian(net, task)
    scale = np.linalg.norm(jacobian) * problem.condition_sum
    assert np.linalg.norm(jacobian @ whole) <= tolerances.backward(np.float64, 64) * scale
    if not found.dimension:
        return
    assert np.linalg.svd(whole, compute_uv=False)[-1] > 1e-10  # independent
    gram, inner = whole.T @ whole, found.exchanges.shape[1]
    bound = tolerances.backward(np.float64, 32)
    np.testing.assert_allclose(gram[:, inner:], np.eye(len(gram))[:, inner:], atol=bound)
    np.testing.assert_allclose(np.diag(gram), 1, atol=bound)


@pytest.mark.parametrize("widths", [(3, 4, 2), (4, 3, 2), (3, 3, 3, 3), (2, 4, 3, 2)])
@pytest.mark.parametrize("rung", ["tame", "biases"])
def test_every_route_to_the_minimum_norm_meets(rung: str, widths: tuple[int, ...]) -> None:
    problem = make_problem(rung, 1, widths)
    net, task = problem.net, problem.task
    wanted = ln.flatten(dense.natural_gradient(net, task, "minimum-norm"))
    jacobian = by_definition.root_jacobian(net, task)
    values = np.linalg.svd(jacobian, compute_uv=False)
    kept = values[values > 1e-10 * values[0]]
    bound = tolerances.solve(np.float64, net.n_parameters, float(kept[0] / kept[-1]))
    for method in METHODS:
        found = ln.solve_minimum_norm(net, task, method=method)
        tolerances.assert_close(ln.flatten(found.direction), wanted, bound + 1e-12)
    basis = ln.null_space(net, task)
    frame = np.linalg.qr(np.concatenate([basis.exchanges, basis.outside], axis=1))[0]
    start = ln.flatten(ln.natural_gradient(net, task))
    tolerances.assert_close(start - frame @ (frame.T @ start), wanted, 100 * bound)
    # Negative control: without the exchanges it is another solution.
    outside = start - basis.outside @ (basis.outside.T @ start)
    assert tolerances.relative_error(outside, wanted) > 1e-3


@pytest.mark.parametrize(("ranks", "rank_s"), [((1, 2), None), ((2, 1), None), ((0, 0), None), ((3, 3), 1)])
def test_the_singular_sylvester_equation_is_the_limit_of_the_shifted_one(
    ranks: tuple[int, ...], rank_s: int | None
) -> None:
    """No NaN where σ_a = τ_b = 0, and v_1 = W₂ᵀM, v_2 = MW₁ᵀ converge like μ, also for a right side out of range."""
    rung = "rank-deficient" if rank_s is None else "singular"
    options = {"layer_ranks": ranks} if rank_s is None else {"input_rank": rank_s}
    problem = make_problem(rung, 2, (3, 3, 3), **options)
    first, second = problem.net.weights
    target = np.random.default_rng(0).standard_normal((3, 3))
    counts = problem.layer_ranks[1], problem.layer_ranks[0]
    limit = symmetric_sylvester(second, first, target, *counts)
    assert all(np.isfinite(part).all() for part in limit)
    size = 1 + max(np.linalg.norm(part) for part in limit)
    for shift in (1e-6, 1e-9, 1e-12):
        moved = symmetric_sylvester(second, first, target, *counts, shift=shift)
        gap = max(np.linalg.norm(a - b) for a, b in zip(limit, moved, strict=True))
        assert gap <= 1e3 * shift * size + tolerances.solve(np.float64, 3, 10.0) * size
    wanted = dense.natural_gradient(problem.net, problem.task, "minimum-norm")
    found = ln.solve_minimum_norm(problem.net, problem.task)
    assert str(found.method) == "sylvester"
    scale = float(np.linalg.norm(ln.flatten(wanted))) or 1.0
    assert np.linalg.norm(ln.flatten(found.direction) - ln.flatten(wanted)) <= 1e-10 * scale


def test_two_scalar_layers_by_hand() -> None:
    found = ln.null_space(ln.LinearNetwork([[[3.0]], [[4.0]]]), ln.Task([[1.0]]))
    np.testing.assert_allclose(np.abs(found.exchanges), [[0.6], [0.8]], rtol=1e-14)
    assert found.outside.shape == (2, 0)
    nothing = ln.null_space(ln.LinearNetwork([[[3.0]]]), ln.Task([[1.0]]))
    assert nothing.dimension == 0
    dead = ln.null_space(ln.LinearNetwork([[[0.0]], [[0.0]]]), ln.Task([[1.0]]))
    assert (dead.dimension, dead.exchanges.shape[1]) == (2, 0)


def test_the_loss_stands_still_along_it_and_not_along_half_an_exchange() -> None:
    problem = make_problem("tame", 4, (3, 4, 2))
    net, task = problem.net, problem.task
    basis = ln.null_space(net, task)
    for column in basis.exchanges.T[:4]:
        step = ln.unflatten(column, net)
        slopes = []
        for part in (step, (step[0], 0 * step[1])):
            gaps = [ln.LinearNetwork([w + s * d for w, d in zip(net.weights, part, strict=True)]).total
                    for s in (1e-4, -1e-4)]  # fmt: skip
            slopes.append(np.linalg.norm(gaps[0] - gaps[1]) / 2e-4)
        assert slopes[0] < 1e-10
        assert slopes[1] > 1e-3


def test_stacks_equal_a_loop_float32_is_kept_and_ranks_that_differ_are_named() -> None:
    net, task = ln.LinearNetwork.random((3, 4, 2), rng=0, batch_shape=(2, 2)), ln.Task(np.ones((2, 3)))
    found = ln.null_space(net, task)
    assert found.exchanges.shape == (2, 2, 20, 6)
    assert found.outside.shape[:3] == (2, 2, 20)
    for i, j in np.ndindex(2, 2):
        single = ln.null_space(ln.LinearNetwork([w[i, j] for w in net.weights]), task)
        for one, other in zip((found.exchanges[i, j], found.outside[i, j]), single, strict=True):
            # Bases may differ, spans may not.
            np.testing.assert_allclose(one @ np.linalg.pinv(one), other @ np.linalg.pinv(other), atol=1e-10)
    low = ln.null_space(ln.LinearNetwork([w[0, 0].astype(np.float32) for w in net.weights]), task)
    assert low.exchanges.dtype == low.outside.dtype == np.float32
    weights = [np.array(w[0]) for w in net.weights]
    weights[1][1] = 0.0
    with pytest.raises(ln.ConditionError, match=r"^net: expected networks of equal ranks.*N8"):
        ln.null_space(ln.LinearNetwork(weights), task)


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    net, task = ln.LinearNetwork.random((3, 4, 2), rng=0), ln.Task(np.ones((2, 3)))
    with pytest.raises(ln.InputError, match="^net: expected a LinearNetwork"):
        ln.null_space([np.eye(3)], task)  # type: ignore[arg-type]
    with pytest.raises(ln.InputError, match="^task"):
        ln.null_space(net, ln.Task(np.eye(3)))
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ln.InputError, match="^rtol"):
            ln.null_space(net, task, rtol=bad)
    monkeypatch.setattr(memory, "SHARE", 1e-12)
    with pytest.raises(ln.InputError, match="minimum-norm"):
        ln.null_space(net, task)
