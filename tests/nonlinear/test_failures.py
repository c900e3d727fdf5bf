"""What happens when something goes wrong? An error or a defined behaviour, and the state before it is as it was."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest

from linnat._checks import InputError
from linnat.nonlinear import curvature, passes
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers import Adam, Batch, GradientDescent, Rmsprop, as_batch
from linnat.nonlinear.output import DivergenceError
from linnat.nonlinear.passes import Workspace
from linnat.nonlinear.preconditioners import (
    Diagonal,
    Ekfac,
    Kfac,
    KfacTridiagonal,
    OnlineNaturalGradient,
    Prong,
    Tonga,
    UnitWise,
)
from linnat.nonlinear.statistics import gather
from tests.nonlinear.test_optimisers import METHODS
from tests.nonlinear.test_preconditioners import minibatch, multilayer

PRECONDITIONERS = [
    Kfac(),
    Kfac(balanced=False),
    KfacTridiagonal(),
    Ekfac(),
    Ekfac(moments="mean"),
    OnlineNaturalGradient(strategy="cholesky"),
    OnlineNaturalGradient(strategy="eigen"),
    OnlineNaturalGradient(strategy="woodbury"),
    Prong(),
    Prong(scale="batch"),
    Prong(scale="fisher"),
    Diagonal(),
    UnitWise(),
    UnitWise(kind="full"),
    Tonga(),
    Tonga(centred=False),
]
BUFFERS = {"gradient", "scratch", "point", "work", "metric", "buffers"}
each_preconditioner = pytest.mark.parametrize(
    "method", PRECONDITIONERS, ids=lambda m: re.sub(r"\W+", " ", repr(m))[:60]
)
each_optimiser = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


def assert_same(one: Any, two: Any, name: str = "") -> None:
    """Hold two states to the last bit, but for buffers."""
    if name in BUFFERS or isinstance(one, (Network, Workspace)):
        return
    if isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, two, err_msg=name)
    elif isinstance(one, tuple):
        assert len(one) == len(two), name
        names = getattr(one, "_fields", ("",) * len(one))
        for field, a, b in zip(names, one, two, strict=True):
            assert_same(a, b, field or name)
    else:
        assert one == two or (one != one and two != two), name


def test_a_state_that_was_touched_is_told() -> None:
    net, theta, x, _, rng = multilayer(0)
    state, _ = Kfac().update(Kfac().init(net), minibatch(net, theta, x, rng))
    other = copy.deepcopy(state)
    assert_same(state, other)
    other.factors.inputs[1][0, 0] += 1e-12
    with pytest.raises(AssertionError, match="inputs"):
        assert_same(state, other)


@each_preconditioner
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_batch_of_one_is_enough(method: Any, dtype: Any) -> None:
    net, theta, x, y, rng = multilayer(3, rows=1)
    theta = theta.astype(dtype)
    gradient = passes.gradient(net, theta, x, y)[1]
    state = method.init(net, dtype)
    for _ in range(3):
        state, _ = method.update(state, minibatch(net, theta, x, rng))
    step = method.apply(state, gradient)
    assert step.dtype == dtype
    assert np.isfinite(step).all()
    assert float(step @ gradient) > 0
    if (
        isinstance(method, Tonga) and method.centred
    ):  # one row is its own mean: nothing but the damping is left
        assert step == pytest.approx(gradient / method.damping, rel=1e-6)


@each_preconditioner
def test_units_that_never_change_and_dead_ones_are_no_harm(method: Any) -> None:
    rng = np.random.default_rng(0)
    net = Network((5, 6, 4, 3), "relu", "bernoulli")
    theta = 0.5 * rng.standard_normal(net.n_parameters)
    net.blocks(theta)[0][-1, :2] = -100.0  # two units that are never on
    x, y = rng.standard_normal((30, 5)), rng.integers(0, 2, (30, 3)).astype(float)
    x[:, 1], x[:, 2] = 0.0, 3.0  # inputs without variance
    _, work = passes.prepare(net, theta, x)
    assert not work.hidden[0][:, :2].any()
    gradient = passes.gradient(net, theta, x, y)[1]
    state, _ = method.update(method.init(net), minibatch(net, theta, x, rng))
    step = method.apply(state, gradient)
    assert np.isfinite(step).all()
    assert float(step @ gradient) > 0


@each_preconditioner
@pytest.mark.parametrize("least", [1e-300, 1e-18])
def test_a_singular_factor_is_an_error_that_leaves_the_state_or_none_at_all(
    method: Any, least: float
) -> None:
    # Two rows: every factor and block is singular; damping far below rounding cannot mend that.
    net, theta, x, y, rng = multilayer(0, rows=2)
    options = {"epsilon": least} if isinstance(method, Prong) else {"damping": least}
    options |= (
        {} if isinstance(method, (Diagonal, Tonga)) else {"period": 1} if hasattr(method, "period") else {}
    )
    gradient = passes.gradient(net, theta, x, y)[1]
    mild, harsh = method, type(method)(**{**vars(method), **options})
    state, _ = mild.update(mild.init(net), minibatch(net, theta, *multilayer(1)[2:3], rng))
    state, _ = mild.update(state, minibatch(net, theta, x, rng))
    kept, batch = copy.deepcopy(state), minibatch(net, theta, x, rng)
    woodbury = getattr(method, "strategy", "") == "woodbury"
    harsh = type(method)(**{**vars(harsh), "decay": 0.5 if woodbury else 0.0})
    after, told = outcome(harsh, state, batch)
    if after is None:
        assert re.match(
            r"(inputs and outputs|(inputs|outputs|units|factor \d) of layer \d): expected .*found .*more damping",
            told,
        )
        assert_same(state, kept)
        # And it can go on with what it has.
        state, _ = mild.update(state, batch)
        assert np.isfinite(mild.apply(state, gradient)).all()
    else:
        with np.errstate(over="ignore"):
            assert not np.isnan(harsh.apply(after, gradient)).any()


def outcome(method: Any, state: Any, batch: Any) -> tuple[Any, str]:
    """Return the state after an update and nothing, or None and the error's words."""
    try:
        return method.update(state, batch)[0], ""
    except InputError as error:
        return None, str(error)


@pytest.mark.parametrize(
    "make",
    [
        lambda v: Kfac(damping=v),
        lambda v: KfacTridiagonal(damping=v),
        lambda v: Ekfac(damping=v),
        lambda v: OnlineNaturalGradient(damping=v),
        lambda v: Prong(epsilon=v),
        lambda v: Diagonal(damping=v),
        lambda v: UnitWise(damping=v),
        lambda v: Tonga(damping=v),
    ],
)
def test_damping_zero_is_refused_where_matrices_may_be_singular(make: Any) -> None:
    for value in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(
            InputError, match=r"^(damping|epsilon): expected a finite number in \(0\.0, inf\]"
        ):
            make(value)


def test_woodbury_needs_a_past() -> None:
    with pytest.raises(
        InputError, match=r"decay: expected a number in \(0, 1\): woodbury corrects what there was"
    ):
        OnlineNaturalGradient(strategy="woodbury", decay=0.0)


@each_preconditioner
def test_other_dtypes_are_refused_or_keep_the_gradient_s(method: Any) -> None:
    net, theta, x, y, rng = multilayer(0)
    for bad in (np.int64, np.float16, complex, "text"):
        with pytest.raises(InputError, match="dtype: expected float32 or float64"):
            method.init(net, bad)
    # Rows of the other dtype are legal: the step is the gradient's.
    single = theta.astype(np.float32)
    for kind, vector in ((np.float32, theta), (np.float64, single)):
        state, _ = method.update(method.init(net, kind), minibatch(net, vector, x, rng))
        for gradient in (passes.gradient(net, v, x, y)[1] for v in (theta, single)):
            step = method.apply(state, gradient)
            assert step.dtype == gradient.dtype
            assert float(step @ gradient) > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_what_is_not_finite_reaches_no_preconditioner(bad: float) -> None:
    net, theta, x, y, _ = multilayer(0)
    theta[net.slices[2]] = bad
    _, work = passes.prepare(net, np.ones_like(theta), x)
    passes.forward(net, theta, x, work)
    with pytest.raises(InputError, match="inf or NaN|finite"):
        gather(net, theta, work, y)


@each_optimiser
@pytest.mark.parametrize("place", ["x", "y", "both"])
def test_rows_that_are_not_finite_leave_the_state(method: Any, place: str) -> None:
    net, theta, x, y, rng = multilayer(0)
    state, _ = method.step(method.init(net, theta), Batch(x, y), rng)
    kept, bad_x, bad_y = copy.deepcopy(state), x.copy(), y.copy()
    bad_x[3, 1] = np.nan if place != "y" else bad_x[3, 1]
    bad_y[2, 0] = np.nan if place != "x" else bad_y[2, 0]
    with pytest.raises(DivergenceError, match="loss: expected a finite loss and gradient"):
        method.step(state, Batch(bad_x, bad_y), rng)
    assert_same(state, kept)
    state, report = method.step(state, Batch(x, y), rng)
    assert np.isfinite(report.loss)


@pytest.mark.parametrize("make", [GradientDescent, Adam, Rmsprop])
def test_a_gradient_that_is_not_finite_is_told_without_the_loss(make: Any) -> None:
    net, theta, x, y, rng = multilayer(0)
    x[0, 0] = np.nan
    method = make(with_loss=False)
    state = method.init(net, theta)
    with pytest.raises(DivergenceError, match="found inf or NaN in the gradient"):
        method.step(state, Batch(x, y), rng)
    assert_same(state, method.init(net, theta))


@each_optimiser
def test_rows_that_do_not_fit_leave_the_state(method: Any) -> None:
    net, theta, x, y, rng = multilayer(0)
    state, _ = method.step(method.init(net, theta), Batch(x, y), rng)
    kept = copy.deepcopy(state)
    single = x.astype(np.float32)
    for batch, message in (
        (
            Batch(single, y),
            "x: expected dtype float64, that of the parameters, found float32. as_batch converts.",
        ),
        (Batch(x, y.astype(int)), "y: expected dtype float64"),
        (Batch(x, y, single), "metric: expected dtype float64"),
        (Batch(x, y, None, (single, y)), "x: expected dtype float64"),
        (Batch(x[:, :4], y), r"x: expected an array of rows and 5 columns, found shape \(30, 4\)"),
        (Batch(x, y[:, :1]), r"y: expected an array of rows and 3 columns, found shape \(30, 1\)"),
        (Batch(x, y[:, 0]), r"y: expected an array of rows and 3 columns, found shape \(30,\)"),
        (Batch(x[:7], y), "y: expected 7 rows, as x has, found 30"),
        (Batch(x[:0], y[:0]), r"x: expected an array of rows and 5 columns, found shape \(0, 5\)"),
        (Batch([[1.0] * 5], y), "x: expected an array of rows"),
    ):
        with pytest.raises(InputError, match=message):
            method.step(state, batch, rng)
        assert_same(state, kept)


@each_optimiser
def test_a_batch_of_one_row_is_a_batch(method: Any) -> None:
    net, theta, x, y, rng = multilayer(0)
    state = method.init(net, theta)
    for k in range(3):
        state, report = method.step(state, Batch(x[k : k + 1], y[k : k + 1]), rng)
        assert np.isfinite(report.loss)
        assert np.isfinite(state.theta).all()


def test_an_exploding_loss_ends_in_an_error_and_finite_parameters() -> None:
    rng = np.random.default_rng(0)
    net = Network((4, 5, 2), "softplus", "poisson")
    theta = 0.3 * rng.standard_normal(net.n_parameters)
    x, y = rng.standard_normal((20, 4)), rng.poisson(2.0, (20, 2)).astype(float)
    method = GradientDescent(50.0)
    state = kept = method.init(net, theta)
    failed = ""
    for _ in range(100):
        kept = copy.deepcopy(state)
        try:
            state, _ = method.step(state, Batch(x, y), rng)
        except DivergenceError as error:
            failed = str(error)
            break
    assert "lower the rate or raise the damping" in failed
    assert_same(state, kept)
    assert np.isfinite(state.theta).all()


@pytest.mark.parametrize(
    ("family", "value", "message"),
    [
        ("bernoulli", 2.0, "y: expected labels 0 or 1, or probabilities, found 2"),
        ("bernoulli", -1.0, r"y: expected .*Labels ±1 become \(y \+ 1\)/2"),
        ("categorical", -0.5, "y: expected probabilities ≥ 0"),
        ("categorical", 2.0, "y: expected probabilities of sum 1"),
        ("poisson", -1.0, "y: expected"),
        ("gaussian", np.nan, "y: expected finite numbers"),
    ],
)
def test_labels_out_of_range(family: str, value: float, message: str) -> None:
    net = Network((2, 3, 2), "tanh", family)
    x, y = np.ones((3, 2)), np.tile([1.0, 0.0], (3, 1))
    y[1, 0] = value
    theta = np.zeros(net.n_parameters)
    for call in (
        lambda: as_batch(net, x, y),
        lambda: as_batch(net, x, np.tile([1.0, 0.0], (3, 1)), search=(x, y)),
        lambda: passes.gradient(net, theta, x, y),
        lambda: curvature.empirical_fisher(net, theta, x, y),
        lambda: curvature.hessian(net, theta, x, y),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_a_batch_is_checked_once_and_converted() -> None:
    net = Network((2, 3, 2), "tanh", "categorical")
    x, y = np.arange(6).reshape(3, 2), np.eye(2)[[0, 1, 1]]
    batch = as_batch(net, x, y, np.float32, metric=x[:2], search=(x, y))
    assert {a.dtype for a in (batch.x, batch.y, batch.metric, *batch.search)} == {np.dtype(np.float32)}
    ready = np.ascontiguousarray(batch.x), np.ascontiguousarray(batch.y)
    again = as_batch(net, *ready, np.float32)
    assert np.shares_memory(again.x, ready[0])
    for change, message in (
        ({"x": x[:2]}, "y: expected 2 rows, as x has, found 3"),
        ({"x": x + 0j}, "x: expected real numbers"),
        ({"x": x[:, :1]}, "x: expected 2 columns"),
        ({"y": np.ones((3, 1))}, "y: expected at least two classes"),
        ({"y": [0, 1, 1]}, r"y: expected 2 dimension\(s\)"),
        ({"dtype": int}, "dtype: expected float32 or float64"),
        ({"metric": x[:, :1]}, "x: expected 2 columns"),
    ):
        with pytest.raises(InputError, match=message):
            as_batch(**{"net": net, "x": x, "y": y, **change})
