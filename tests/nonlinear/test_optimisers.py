"""Does every optimiser do what its formula says? Step by step against textbook loops and dense solutions."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat._checks import InputError
from linnat.families import Gaussian
from linnat.nonlinear import curvature, passes
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers import (
    Adam,
    Batch,
    GradientDescent,
    KrylovSubspaceDescent,
    NaturalConjugateGradient,
    Preconditioned,
    Rmsprop,
    TruncatedNewton,
    minimise,
)
from linnat.nonlinear.optimisers.subspace import orthonormal, search
from linnat.nonlinear.optimisers.truncated_newton import conjugate_gradients
from linnat.nonlinear.output import DivergenceError, mean_loss, output_errors, step_gradient
from linnat.nonlinear.passes import Workspace
from linnat.nonlinear.preconditioners import (
    Diagonal,
    Ekfac,
    Kfac,
    KfacTridiagonal,
    OnlineNaturalGradient,
    Prong,
)
from linnat.nonlinear.schedules import Constant, Exponential, Growing, Hyperbolic, Steps, as_steps
from linnat.nonlinear.statistics import gather
from tests import tolerances
from tests.nonlinear.test_passes import FAMILIES, targets

METHODS = (
    GradientDescent(0.1, 0.9),
    GradientDescent(0.1, 0.9, nesterov=True),
    Rmsprop(0.01),
    Adam(0.01),
    Preconditioned(Kfac(), 0.1),
    Preconditioned(Ekfac(), rule="fitted"),
    Preconditioned(Diagonal(), 0.5, 0.5, rule="clipped"),
    TruncatedNewton(),
    TruncatedNewton(matrix="hessian", solver="minres"),
    KrylovSubspaceDescent(5, 8),
    KrylovSubspaceDescent(4, 8, "fisher"),
    KrylovSubspaceDescent(4, 8, "hessian"),
    NaturalConjugateGradient(),
)


def problem(family: Any = "bernoulli", seed: int = 0, rows: int = 20) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    net = Network((4, 5, 3), "tanh", family)
    theta = initial(net, "glorot", rng=rng)
    name = net.family.name
    return net, theta, Batch(rng.standard_normal((rows, 4)), targets(name, rows, 3, rng)), rng


@given(st.sampled_from(FAMILIES), st.integers(0, 10**6), st.sampled_from([np.float32, np.float64]))
def test_fast_losses_and_errors_are_the_families(family: str, seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    z = (3 * rng.standard_normal((7, 3))).astype(dtype)
    y = targets(family, 7, 3, rng).astype(dtype)
    net = Network((2, 3), family=family)
    errors = np.empty_like(z)
    output_errors(net.family, z, y, errors)
    wanted = -net.family.score(z, y)
    size = tolerances.product(dtype, 8)
    assert errors.dtype == dtype
    assert np.abs(errors - wanted).max() <= size * (1 + np.abs(wanted).max())
    losses = net.family.loss(z.astype(float), y.astype(float))
    scale = np.abs(losses).mean() + np.abs(z * y).sum(axis=1).mean() + 1
    assert abs(mean_loss(net.family, z, y, errors) - losses.mean()) <= size * scale * 4


def test_fast_losses_far_out_and_with_covariance() -> None:
    cov = np.array([[2.0, 0.5], [0.5, 1.0]])
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((2, 5, 2))
    family, errors = Gaussian(cov), np.empty((5, 2))
    assert mean_loss(family, z, y, errors) == pytest.approx(float(family.loss(z, y).mean()), rel=1e-14)
    output_errors(family, z, y, errors)
    assert np.allclose(errors, -family.score(z, y), rtol=1e-14)
    far = np.array([[800.0, -800.0, 0.0]])
    for name in ("bernoulli", "categorical"):
        net = Network((1, 3), family=name)
        label, out = np.array([[1.0, 0.0, 0.0]]), np.empty((1, 3))
        output_errors(net.family, far, label, out)
        assert np.isfinite(out).all()
        wanted = float(net.family.loss(far, label)[0])
        assert mean_loss(net.family, far, label, out) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loop_s_gradient_is_the_checked_one(family: str) -> None:
    net, theta, batch, _ = problem(family)
    out = np.empty_like(theta)
    value, square = step_gradient(net, theta, batch.x, batch.y, Workspace(net, 20), out)
    assert square == pytest.approx(out @ out, rel=1e-14)
    wanted, slope = passes.gradient(net, theta, batch.x, batch.y)
    assert value == pytest.approx(wanted, rel=1e-13)
    assert np.abs(out - slope).max() <= tolerances.product(float, 40) * np.abs(slope).max()
    assert np.isnan(step_gradient(net, theta, batch.x, batch.y, Workspace(net, 20), out, with_loss=False)[0])


def run(method: Any, net: Network, theta: Any, batch: Batch, steps: int = 5, seed: int = 0) -> list[Any]:
    rng, state, path = np.random.default_rng(seed), method.init(net, theta), []
    for _ in range(steps):
        state, report = method.step(state, batch, rng)
        path.append((state.theta.copy(), report))
    return path


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_norms_may_be_left_out(momentum: float) -> None:
    net, theta, batch, rng = problem()
    found = []
    for with_norms in (True, False):
        method = GradientDescent(0.3, momentum, with_norms=with_norms)
        state = method.init(net, theta)
        for _ in range(3):
            state, report = method.step(state, batch, rng)
        found.append((state.theta, report))
    # The one writes the gradient down, the other never has it.
    most = np.abs(found[0][0]).max()
    assert np.abs(found[0][0] - found[1][0]).max() <= tolerances.product(float, 60) * most
    assert found[0][1].loss == pytest.approx(found[1][1].loss, rel=tolerances.product(float, 60))
    assert np.isfinite(found[0][1][:3]).all()
    assert np.isnan(found[1][1][1:3]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("rate", [0.0, 1e-25, 1e-6, 0.3, 1e3, 1e8, -0.1])
def test_the_norm_of_the_gradient_is_told_at_any_rate(rate: float, momentum: float, dtype: Any) -> None:
    net, theta, batch, rng = problem()
    rows, theta = Batch(batch.x.astype(dtype), batch.y.astype(dtype)), theta.astype(dtype)
    method = GradientDescent(rate, momentum)
    state, report = method.step(method.init(net, theta), rows, rng)
    brief = GradientDescent(rate, momentum, with_norms=False)
    other, _ = brief.step(brief.init(net, theta), rows, rng)
    slope = passes.gradient(net, theta, rows.x, rows.y)[1]
    error = tolerances.product(dtype, 60)
    assert report.gradient_norm == pytest.approx(np.linalg.norm(slope), rel=error)
    step = np.abs(slope).max() * abs(rate)
    for found in (state.theta, other.theta):
        assert np.abs(found - (theta - rate * slope)).max() <= error * (np.abs(theta).max() + step)
        assert (rate != 0.0) or np.array_equal(found, theta)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_the_textbook_s(nesterov: bool) -> None:
    net, theta, batch, _ = problem()
    rates, momenta = Exponential(0.3, 0.5, 2), Growing(0.9, period=2)
    path = run(GradientDescent(rates, momenta, nesterov), net, theta, batch, 6)
    velocity = np.zeros_like(theta)
    for k, (found, report) in enumerate(path):
        rate, momentum = 0.3 * 0.5 ** (k / 2), min(1 - 2 ** (-1 - np.log2(k // 2 + 1)), 0.9)
        point = theta + momentum * velocity if nesterov else theta
        value, slope = passes.gradient(net, point, batch.x, batch.y)
        velocity = momentum * velocity - rate * slope
        theta = theta + velocity
        assert np.abs(found - theta).max() <= tolerances.product(float, 200)
        assert report.loss == pytest.approx(value, rel=1e-12)
        assert report.gradient_norm == pytest.approx(np.linalg.norm(slope), rel=1e-10)
        assert report.step_norm == pytest.approx(np.linalg.norm(velocity), rel=1e-10)


def test_adam_is_the_textbook_s() -> None:
    net, theta, batch, _ = problem()
    path = run(Adam(0.02, 0.8, 0.95, 1e-6), net, theta, batch, 6)
    first = second = np.zeros_like(theta)
    for k, (found, _) in enumerate(path, start=1):
        slope = passes.gradient(net, theta, batch.x, batch.y)[1]
        first, second = 0.8 * first + 0.2 * slope, 0.95 * second + 0.05 * slope**2
        theta = theta - 0.02 * (first / (1 - 0.8**k)) / (np.sqrt(second / (1 - 0.95**k)) + 1e-6)
        # A division by the root of a small moment: rounding of the gradient over ε.
        assert np.abs(found - theta).max() <= tolerances.product(float, 200) * 100


def test_rmsprop_is_the_textbook_s() -> None:
    net, theta, batch, _ = problem()
    second = np.zeros_like(theta)
    path = run(Rmsprop(Exponential(0.02, 0.5, 2), 0.8, 1e-6), net, theta, batch, 6)
    for k, (found, report) in enumerate(path):
        value, slope = passes.gradient(net, theta, batch.x, batch.y)
        second = 0.8 * second + 0.2 * slope**2
        step = 0.02 * 0.5 ** (k / 2) * slope / (np.sqrt(second) + 1e-6)
        theta = theta - step
        assert np.abs(found - theta).max() <= tolerances.product(float, 200) * 100
        assert report.loss == pytest.approx(value, rel=1e-12)
        assert report.step_norm == pytest.approx(np.linalg.norm(step), rel=1e-8)


@pytest.mark.parametrize("name", ["sgd", "nesterov", "rmsprop", "adam"])
def test_pytorch_agrees(name: str) -> None:
    torch = pytest.importorskip("torch")
    net, theta, batch, _ = problem()
    parameter = torch.nn.Parameter(torch.tensor(theta))
    ours: Any
    if name == "adam":
        ours, theirs = Adam(0.01), torch.optim.Adam([parameter], 0.01)
    elif name == "rmsprop":
        ours, theirs = Rmsprop(0.01, 0.95), torch.optim.RMSprop([parameter], 0.01, alpha=0.95)
    else:
        # PyTorch scales its velocity by the rate outside; with a constant rate both are one.
        ours, theirs = GradientDescent(0.1, 0.9), torch.optim.SGD([parameter], 0.1, momentum=0.9)
    for found, _ in run(ours, net, theta, batch, 5):
        parameter.grad = torch.tensor(
            passes.gradient(net, parameter.detach().numpy().copy(), batch.x, batch.y)[1]
        )
        theirs.step()
        assert np.abs(found - parameter.detach().numpy()).max() <= 1e-10


@pytest.mark.statement("O1", "O2")
@pytest.mark.parametrize(
    "inner", [Kfac(), Ekfac(), OnlineNaturalGradient(), Diagonal()], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("chosen", ["sampled", "data"])
def test_preconditioned_descent_is_its_parts(inner: Any, chosen: str) -> None:
    net, theta, batch, _ = problem()
    rng, state, velocity = np.random.default_rng(7), inner.init(net), np.zeros_like(theta)
    path = run(Preconditioned(inner, 0.05, 0.5, targets=chosen, every=2), net, theta, batch, 5, seed=7)
    for k, (found, _) in enumerate(path):
        slope = passes.gradient(net, theta, batch.x, batch.y)[1]
        _, work = passes.prepare(net, theta, batch.x)
        if k % 2 == 0:
            state, _ = inner.update(
                state, gather(net, theta, work, batch.y if chosen == "data" else "sampled", rng)
            )
        velocity = 0.5 * velocity - 0.05 * inner.apply(state, slope)
        theta = theta + velocity
        assert np.abs(found - theta).max() <= tolerances.solve(float, 20, 1e4)


def test_clipping_bounds_the_length_in_the_metric() -> None:
    net, theta, batch, _ = problem()
    inner = Kfac()
    free = run(Preconditioned(inner, 1.0), net, theta, batch, 1)[0][0] - theta
    bound = run(Preconditioned(inner, 1.0, rule="clipped", bound=1e-4), net, theta, batch, 1)[0][0] - theta
    slope = passes.gradient(net, theta, batch.x, batch.y)[1]
    assert abs(float(slope @ free)) > 1e-4
    scale = float(bound @ free) / float(free @ free)
    assert scale**2 * abs(float(slope @ free)) == pytest.approx(1e-4, rel=1e-10)
    loose = run(Preconditioned(inner, 1.0, rule="clipped", bound=1e9), net, theta, batch, 1)[0][0] - theta
    assert np.array_equal(loose, free)


@pytest.mark.statement("O2")
def test_fitted_steps_minimise_the_exact_model() -> None:
    net, theta, batch, _ = problem()
    method = Preconditioned(Kfac(decay=0.5, period=1), rule="fitted", adapt=0, damping=0.03)
    rng, state = np.random.default_rng(0), method.init(net, theta)
    for k in range(4):
        before, last = state.theta.copy(), state.velocity.copy()
        state, report = method.step(state, batch, rng)
        step = state.theta - before
        slope = passes.gradient(net, before, batch.x, batch.y)[1]
        matrix = curvature.true_fisher(net, before, batch.x).dense() + 0.03 * np.eye(len(theta))
        natural = method.preconditioner.apply(state.inner, slope)
        for direction in (natural, last):
            rest = direction @ (matrix @ step + slope)
            assert abs(rest) <= 1e-9 * np.linalg.norm(direction) * np.linalg.norm(slope)
        assert report.products == 1 + (k > 0)
        # In the span of both.
        span = np.column_stack([natural, last]) if k else natural[:, None]
        assert np.linalg.norm(step - span @ np.linalg.lstsq(span, step)[0]) <= 1e-9 * np.linalg.norm(step)


@pytest.mark.statement("O2")
@pytest.mark.parametrize("search", [1, 2])
def test_the_damping_that_the_model_likes_best_is_kept(search: int) -> None:
    net, theta, batch, _ = problem()
    method = Preconditioned(Kfac(1e-1, period=1), rule="fitted", adapt=0, damping=1e-3, search=search)
    rng, state, present, moved = np.random.default_rng(0), method.init(net, theta), 1e-1, 0
    for k in range(12):
        before, last = state.theta.copy(), state.velocity.copy()
        state, report = method.step(state, batch, rng)
        slope = passes.gradient(net, before, batch.x, batch.y)[1]
        matrix = curvature.true_fisher(net, before, batch.x).dense() + 1e-3 * np.eye(len(theta))
        models = {}
        for factor in ((19 / 20) ** search, 1.0, (20 / 19) ** search) if k % search == 0 else (1.0,):
            solved = []
            factors = zip(state.inner.factors.inputs, state.inner.factors.outputs, net.slices, strict=True)
            for a, g, part in factors:
                ratio = np.sqrt(np.trace(a) / len(a) / (np.trace(g) / len(g)))
                root = np.sqrt(present * factor)
                both = np.kron(a + root * ratio * np.eye(len(a)), g + root / ratio * np.eye(len(g)))
                solved.append(np.linalg.solve(both, slope[part]))
            natural = np.concatenate(solved)
            span = np.column_stack([natural, last]) if k else natural[:, None]
            step = span @ np.linalg.lstsq(span.T @ matrix @ span, -span.T @ slope)[0]
            models[present * factor] = float(slope @ step + 0.5 * step @ matrix @ step), step
        best = min(models, key=lambda damping: models[damping][0])
        assert state.found == pytest.approx(best, rel=1e-14)
        step = models[best][1]
        assert np.linalg.norm(state.theta - before - step) <= 1e-8 * np.linalg.norm(step)
        assert report.products == 1 + (k > 0)
        moved += state.found != present
        present = state.found
    assert moved  # the search goes somewhere


@pytest.mark.parametrize(
    "inner", [Kfac(), KfacTridiagonal(), Ekfac(), OnlineNaturalGradient()], ids=lambda m: type(m).__name__
)
def test_a_search_takes_what_the_method_with_that_damping_would(inner: Any) -> None:
    net, theta, batch, _ = problem()
    ways = {}
    start = inner.damping
    for factor in (19 / 20, 1.0, 20 / 19):
        method = Preconditioned(dataclasses.replace(inner, damping=start * factor), rule="fitted", adapt=0)
        ways[start * factor] = run(method, net, theta, batch, 1, seed=3)[0][0]
    method = Preconditioned(inner, rule="fitted", adapt=0, search=1)
    state, _ = method.step(method.init(net, theta), batch, np.random.default_rng(3))
    closest = min(ways, key=lambda damping: abs(damping / state.found - 1))
    assert closest == pytest.approx(state.found, rel=1e-14)
    assert np.array_equal(state.theta, ways[closest])


def test_a_search_stops_in_time() -> None:
    net, theta, batch, _ = problem()
    method = Preconditioned(Kfac(1.02e-8), rule="fitted", search=1)
    state = method.init(net, theta)
    for seed in range(5):
        state, _ = method.step(state, batch, np.random.default_rng(seed))
        assert state.found is not None
        assert state.found >= 1.02e-8 * (1 - 1e-12)


@pytest.mark.parametrize(
    ("inner", "options", "said"),
    [
        (Kfac(), {"rule": "rate"}, "0 for other rules than 'fitted'"),
        (Prong(), {}, "cannot be changed"),
        (Diagonal(), {}, "cannot be changed"),
        (Kfac(), {"search": -1}, "search"),
    ],
)
def test_searches_that_cannot_be(inner: Any, options: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Preconditioned(inner, **{"rule": "fitted", "search": 5, **options})


@pytest.mark.statement("O2")
@pytest.mark.parametrize("rule", ["rate", "clipped"])
def test_a_warmup_is_fitted_and_the_rule_begins_from_rest(rule: str) -> None:
    net, theta, batch, _ = problem()
    rate, momentum, inner = Hyperbolic(0.3, 10), 0.9, Kfac(1e-2)
    fitted = Preconditioned(inner, rule="fitted", damping=0.3, search=2)
    method = Preconditioned(inner, rate, momentum, rule=rule, damping=0.3, search=2, warmup=5)
    one, two = fitted.init(net, theta), method.init(net, theta)
    rngs = [np.random.default_rng(4) for _ in range(2)]
    for _ in range(5):
        (one, told), (two, same) = fitted.step(one, batch, rngs[0]), method.step(two, batch, rngs[1])
        assert np.array_equal(told, same, equal_nan=True)
    assert np.array_equal(one.theta, two.theta)
    assert two.found is not None
    assert two.found != inner.damping
    expected, velocity, damped = two.theta.copy(), np.zeros_like(theta), Kfac(two.found)
    for k in range(5, 12):
        slope = passes.gradient(net, expected, batch.x, batch.y)[1]
        two, report = method.step(two, batch, rngs[1])
        natural = damped.apply(two.inner, slope)
        if k == 7:  # the eighth minibatch renews the inverses: in the damping that was found
            pairs = zip(two.inner.inverses, damped.refreshed(two.inner).inverses, strict=True)
            assert all(np.array_equal(m, n) for one_layer in pairs for m, n in zip(*one_layer, strict=True))
        step = rate.at(k)
        if rule == "clipped":
            step /= max(1.0, (step**2 * float(natural @ slope) / method.bound) ** 0.5)
        velocity = momentum * velocity - step * natural
        expected += velocity
        assert np.abs(two.theta - expected).max() <= tolerances.solve(float, 60, 1e3) * np.abs(theta).max()
        assert report.products == 0
        assert two.found == damped.damping  # searched during the warm-up only


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rule": "fitted", "warmup": 3}, "warmup: expected 0"),
        ({"warmup": -1}, "warmup"),
        ({"warmup": 3, "with_loss": False}, "with_loss: expected True"),
    ],
)
def test_warmups_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Preconditioned(Kfac(), **options)


def test_woodbury_cannot_change_its_damping() -> None:
    net, theta, batch, rng = problem()
    method = Preconditioned(OnlineNaturalGradient(strategy="woodbury"), rule="fitted", search=1)
    state = method.init(net, theta)
    with pytest.raises(InputError, match="cholesky"):
        method.step(state, batch, rng)
    assert np.array_equal(state.theta, theta)


def test_damping_follows_the_reduction_ratio() -> None:
    net, theta, batch, _ = problem()
    for method in (
        Preconditioned(Kfac(), rule="fitted", adapt=1, damping=10.0),
        TruncatedNewton(damping=10.0),
    ):
        before = 10.0
        for _, report in run(method, net, theta, batch, 6):
            factor = 19 / 20 if isinstance(method, Preconditioned) else 2 / 3
            wanted = before
            if report.ratio > 0.75:
                wanted = before * factor
            elif report.ratio < 0.25:
                wanted = before / factor
            assert report.damping == pytest.approx(wanted)
            before = wanted


def test_damping_that_falls_stops_in_time() -> None:
    method = Preconditioned(Kfac(), rule="fitted", adapt=5)
    assert method._adapted(1.1e-8, 1.0) == 1e-8
    assert method._adapted(1e-9, 1.0) == 1e-9  # as it was given
    assert method._adapted(1e-8, float("nan")) == pytest.approx(1e-8 * (20 / 19) ** 5)


@pytest.mark.statement("O4", "O5")
@pytest.mark.parametrize("solver", ["cg", "minres"])
@pytest.mark.parametrize("matrix", ["fisher", "gauss-newton", "hessian"])
def test_truncated_newton_solves_when_it_is_not_truncated(matrix: str, solver: str) -> None:
    net, theta, batch, _ = problem("gaussian")
    damping = 0.5 if matrix != "hessian" else 3.0
    method = TruncatedNewton(matrix, solver, 400, 1e-12, damping, adapt=False)
    dense = {
        "fisher": curvature.true_fisher(net, theta, batch.x),
        "gauss-newton": curvature.gauss_newton(net, theta, batch.x, batch.y),
        "hessian": curvature.hessian(net, theta, batch.x, batch.y),
    }[matrix].dense()
    slope = passes.gradient(net, theta, batch.x, batch.y)[1]
    system = dense + damping * np.eye(len(theta))
    wanted = -np.linalg.solve(system, slope)
    rng = np.random.default_rng(0)
    state, report = method.step(method.init(net, theta), batch, rng)
    assert np.linalg.norm(state.solution - wanted) <= 1e-6 * np.linalg.norm(wanted)
    model = slope @ wanted + 0.5 * wanted @ system @ wanted
    after = passes.loss(net, theta + wanted, batch.x, batch.y)
    assert after < report.loss
    if np.allclose(state.theta, theta + wanted, rtol=1e-6):
        assert report.ratio == pytest.approx((after - report.loss) / model, rel=1e-3)


@pytest.mark.statement("O4")
def test_hessian_free_is_truncated_natural_gradient() -> None:
    net, theta, batch, _ = problem("categorical")
    paths = [run(TruncatedNewton(matrix), net, theta, batch, 4) for matrix in ("fisher", "gauss-newton")]
    for (one, _), (two, _) in zip(*paths, strict=True):
        assert np.abs(one - two).max() <= tolerances.solve(float, 40, 1e4)


@pytest.mark.statement("O5")
def test_the_metric_can_come_from_unlabelled_rows() -> None:
    net, theta, batch, rng = problem()
    other = rng.standard_normal((35, 4))
    slope = passes.gradient(net, theta, batch.x, batch.y)[1]
    dense = curvature.true_fisher(net, theta, other).dense() + 0.3 * np.eye(len(theta))
    method = TruncatedNewton(iterations=300, tolerance=1e-12, damping=0.3, adapt=False)
    state, _ = method.step(method.init(net, theta), batch._replace(metric=other), rng)
    wanted = -np.linalg.solve(dense, slope)
    assert np.linalg.norm(state.solution - wanted) <= 1e-6 * np.linalg.norm(wanted)
    inner = Kfac()
    preconditioned = Preconditioned(inner, 1.0)
    state, _ = preconditioned.step(
        preconditioned.init(net, theta), batch._replace(metric=other), np.random.default_rng(3)
    )
    _, work = passes.prepare(net, theta, other)
    fed, _ = inner.update(inner.init(net), gather(net, theta, work, "sampled", 3))
    assert np.allclose(state.theta - theta, -inner.apply(fed, slope), rtol=1e-10)


def test_one_newton_step_solves_a_linear_layer() -> None:
    rng = np.random.default_rng(0)
    net = Network((3, 2), family="gaussian")
    x, y = rng.standard_normal((2, 30, 3))
    method = TruncatedNewton(damping=1e-14, tolerance=0.0)
    state, _ = method.step(method.init(net, np.zeros(8)), Batch(x, y[:, :2].copy()), rng)
    wanted = np.linalg.lstsq(np.c_[x, np.ones(30)], y[:, :2])[0]
    assert np.abs(net.blocks(state.theta)[0] - wanted).max() <= 1e-9


def test_conjugate_gradients() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    matrix = (basis * np.geomspace(1, 1e-2, 30)) @ basis.T
    target = rng.standard_normal(30)
    kept, count = conjugate_gradients(lambda v: matrix @ v, target, np.zeros(30), 200, 0.0)
    wanted = np.linalg.solve(matrix, target)
    assert np.linalg.norm(kept[-1] - wanted) <= 1e-8 * np.linalg.norm(wanted)
    values = [0.5 * k @ matrix @ k - target @ k for k in kept]
    assert np.all(np.diff(values) <= 1e-12 * abs(values[-1]))
    # A loose tolerance ends early; negative curvature ends at once, with what there is.
    assert conjugate_gradients(lambda v: matrix @ v, target, np.zeros(30), 200, 1e-2)[1] < count
    kept, count = conjugate_gradients(lambda v: -matrix @ v, target, np.zeros(30), 200, 0.0)
    assert count == 2
    assert not kept[-1].any()


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{type(m).__name__}")
def test_every_optimiser_learns_and_repeats_itself(method: Any) -> None:
    net, theta, batch, _ = problem(rows=40)
    path = run(method, net, theta, batch, 30)
    assert path[-1][1].loss < 0.92 * path[0][1].loss
    again = run(method, net, theta, batch, 30)
    assert np.array_equal(path[-1][0], again[-1][0])
    short = Batch(batch.x.astype(np.float32), batch.y.astype(np.float32))
    single = run(method, net, theta.astype(np.float32), short, 3)
    assert single[-1][0].dtype == np.float32
    assert np.isfinite(single[-1][0]).all()


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{type(m).__name__}")
def test_a_loss_that_is_not_finite_leaves_the_state(method: Any) -> None:
    net, theta, batch, rng = problem("poisson")
    state, _ = method.step(method.init(net, theta), batch, rng)
    kept = copy.deepcopy(state)
    bad = Batch(np.full_like(batch.x, 1e300), batch.y)
    net.blocks(state.theta)[1][-1] = 1e10
    net.blocks(kept.theta)[1][-1] = 1e10
    with (
        pytest.raises(DivergenceError, match="loss: expected a finite loss and gradient"),
        np.errstate(all="ignore"),
    ):
        method.step(state, bad, rng)
    for name, value in kept._asdict().items():
        if name in ("theta", "velocity", "first", "second", "updates", "damping"):
            assert np.array_equal(getattr(state, name), value), name


@pytest.mark.statement("O4")
def test_krylov_steps_lie_in_the_krylov_space_and_minimise_there() -> None:
    net, theta, batch, rng = problem()
    method = KrylovSubspaceDescent(4, 200, "fisher")
    state = method.init(net, theta)
    for k in range(3):
        before, last = state.theta.copy(), state.last.copy()
        state, report = method.step(state, batch, rng)
        slope = passes.gradient(net, before, batch.x, batch.y)[1]
        matrix = curvature.true_fisher(net, before, batch.x).dense()
        vectors = [np.linalg.matrix_power(matrix, m) @ slope for m in range(4)] + [last] * (k > 0)
        damped = [np.linalg.matrix_power(matrix + 0.7 * np.eye(len(theta)), m) @ slope for m in range(4)]
        for span in (orthonormal(vectors), orthonormal([*damped, last] if k else damped)):
            step = state.theta - before
            assert np.linalg.norm(step - span @ (span.T @ step)) <= 1e-6 * np.linalg.norm(step)
        # Stationary in the space: the gradient after the step has no part there.
        after = passes.gradient(net, state.theta, batch.x, batch.y)[1]
        assert np.linalg.norm(span.T @ after) <= 1e-4 * np.linalg.norm(slope)
        assert report.products == 3


@pytest.mark.statement("O5")
def test_natural_conjugate_gradients_search_their_plane() -> None:
    net, theta, batch, rng = problem()
    method = NaturalConjugateGradient(0.2, 400, 200)
    state = method.init(net, theta)
    for k in range(3):
        before, last = state.theta.copy(), state.last.copy()
        state, _ = method.step(state, batch, rng)
        slope = passes.gradient(net, before, batch.x, batch.y)[1]
        matrix = curvature.true_fisher(net, before, batch.x).dense() + 0.2 * np.eye(len(theta))
        natural = np.linalg.solve(matrix, slope)
        plane = orthonormal([natural, last] if k else [natural])
        step = state.theta - before
        # The solver stops at a relative progress of 5e-4 in its model.
        assert np.linalg.norm(step - plane @ (plane.T @ step)) <= 5e-2 * np.linalg.norm(step)
        after = passes.gradient(net, state.theta, batch.x, batch.y)[1]
        assert abs(step @ after) <= 1e-3 * np.linalg.norm(step) * np.linalg.norm(slope)


def test_a_search_can_have_rows_of_its_own() -> None:
    net, theta, batch, rng = problem()
    other = (rng.standard_normal((15, 4)), rng.integers(0, 2, (15, 3)).astype(float))
    method = KrylovSubspaceDescent(3, 200)
    state, _ = method.step(method.init(net, theta), batch._replace(search=other), rng)
    basis = orthonormal([state.last])
    slope = passes.gradient(net, state.theta, *other)[1]
    assert abs(float((basis.T @ slope)[0])) <= 1e-4
    assert passes.loss(net, state.theta, *other) < passes.loss(net, theta, *other)
    assert not search(net, theta, np.zeros((len(theta), 0)), other, 5).size
    assert orthonormal([np.zeros(3)]).shape == (3, 0)


@pytest.mark.parametrize("method", ["l-bfgs", "cg"])
def test_full_batch_methods_find_the_minimum_of_a_convex_loss(method: str) -> None:
    rng = np.random.default_rng(0)
    net, x, y = (
        Network((4, 3), family="poisson"),
        rng.standard_normal((60, 4)),
        rng.poisson(2.0, (60, 3)).astype(float),
    )
    theta, told = np.zeros(net.n_parameters), []
    found = minimise(
        net, theta, x, y, method, iterations=3000, tolerance=1e-7, progress=lambda k, v: told.append(v)
    )
    value, slope = passes.gradient(net, found.theta, x, y)
    assert found.converged
    assert found.loss == pytest.approx(value, rel=1e-12)
    assert np.abs(slope).max() <= 1e-7
    assert told
    assert told[-1] < told[0]
    # Strictly convex: Newton's method arrives at the same place.
    newton = TruncatedNewton("hessian", iterations=200, tolerance=0.0, damping=0.0, adapt=False, warm=0.0)
    state = newton.init(net, theta)
    for _ in range(8):
        state, _ = newton.step(state, Batch(x, y), rng)
    assert np.abs(state.theta - found.theta).max() <= 1e-6
    short = minimise(net, theta, x, y, method, iterations=2)
    assert not short.converged
    assert short.iterations == 2
    with pytest.raises(InputError, match="method: expected one of 'l-bfgs', 'cg'"):
        minimise(net, theta, x, y, "newton")


def test_schedules() -> None:
    assert Constant(2.0).at(7) == 2.0
    assert Exponential(1.0, 0.5, 10, floor=0.3).at(100) == 0.3
    assert Hyperbolic(2.0, 5).at(15) == 0.5
    assert [Steps((3.0, 2.0, 1.0), (2, 4)).at(k) for k in range(6)] == [3, 3, 2, 2, 1, 1]
    growing = Growing(0.99, final=0.9, last=10, total=1000)
    assert [growing.at(k) for k in (0, 989, 990)] == [0.5, 1 - 2 ** (-1 - np.log2(4)), 0.9]
    assert Growing(0.9).at(10**6) == 0.9
    assert [as_steps("0.9, 2:0.5 ,4 : 0", "momenta").at(k) for k in (0, 1, 2, 3, 4)] == [
        0.9,
        0.9,
        0.5,
        0.5,
        0.0,
    ]
    assert as_steps("0.9", "momenta").at(7) == 0.9
    for make, message in (
        (lambda: Steps((1.0,), (2,)), "boundaries: expected"),
        (lambda: Steps((1.0, 2.0, 3.0), (4, 4)), "boundaries: expected"),
        (lambda: as_steps("0.9; 3: 0.5", "momenta"), "momenta: expected 'value, update: value, …'"),
        (lambda: as_steps("0.9, 3: 0.5, 3: 0.2", "momenta"), "momenta: expected updates that increase"),
        (lambda: as_steps("0.9, 0: 0.5", "momenta"), "momenta: expected updates that increase"),
        (lambda: as_steps("nan, 3: 0.5", "momenta"), "values: expected"),
        (lambda: Growing(0.9, final=0.5), "total: expected given if and only if"),
        (lambda: Exponential(1.0, 0.0), "factor: expected"),
        (lambda: Hyperbolic(1.0, 0), "halving: expected"),
        (lambda: Constant(np.nan), "value: expected"),
        (lambda: GradientDescent(rate="fast"), "rate: expected"),
        (lambda: GradientDescent(momentum=1.0), "momentum: expected"),
        (lambda: Rmsprop(decay=1.0), "decay: expected"),
        (lambda: Rmsprop(epsilon=0.0), "epsilon: expected"),
        (lambda: Adam(beta2=1.0), "beta2: expected"),
        (lambda: Preconditioned(Kfac(), rule="wolfe"), "rule: expected one of"),
        (lambda: Preconditioned(Kfac(), targets="true"), "targets: expected one of"),
        (lambda: TruncatedNewton(matrix="empirical"), "matrix: expected one of"),
        (lambda: TruncatedNewton(damping=-1.0), "damping: expected"),
        (lambda: KrylovSubspaceDescent(0), "size: expected"),
        (lambda: KrylovSubspaceDescent(matrix="empirical"), "matrix: expected one of"),
        (lambda: NaturalConjugateGradient(iterations=0), "iterations: expected"),
    ):
        with pytest.raises(InputError, match=message):
            make()
