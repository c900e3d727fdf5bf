"""Does a training loop work in the buffers that it has? No array is allocated, and none changes place."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from linnat.hardware import blas_threads
from linnat.nonlinear import _blas, _crew
from linnat.nonlinear._blas import adds_products
from linnat.nonlinear._pieces import Sum
from linnat.nonlinear._rooms import room
from linnat.nonlinear.activations import ACTIVATIONS, activate, multiply_by_slope
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers import Adam, Batch, GradientDescent, Preconditioned
from linnat.nonlinear.output import sampled_errors
from linnat.nonlinear.passes import Workspace, forward
from linnat.nonlinear.preconditioners import Ekfac, Kfac, OnlineNaturalGradient
from linnat.nonlinear.preconditioners._factors import blend, damped_inverse, inverse_factor
from linnat.nonlinear.preconditioners.online import Deflated, apply_inverse
from linnat.nonlinear.statistics import gather, turn
from tests import tolerances

WIDTHS, ROWS = (400, 500, 320, 500, 400), 600
# Vectors of one layer, slices, and the buffers of 8,192 numbers through which NumPy converts while it sums in float64.
# The smallest array of rows has 128 · 320 numbers of 4 bytes.
SMALL = 150_000
METHODS = (
    GradientDescent(0.01),
    GradientDescent(0.01, 0.9),
    GradientDescent(0.01, 0.9, nesterov=True),
    Adam(),
    Preconditioned(Kfac(period=1000), 0.01),
    Preconditioned(Kfac(period=1000), 0.01, 0.9, rule="clipped"),
    Preconditioned(Ekfac(period=1000), 0.01, rows=None),
    Preconditioned(Ekfac(period=1000, moments="mean"), 0.01),
    Preconditioned(OnlineNaturalGradient(period=1000, strategy="cholesky"), 0.01),
    Preconditioned(OnlineNaturalGradient(period=1000, strategy="eigen", cutoff=0.5), 0.01),
)


def problem(unit: str = "logistic", rows: int = ROWS) -> tuple[Network, Any, Batch]:
    rng = np.random.default_rng(0)
    net = Network(WIDTHS, unit, "bernoulli")
    theta = initial(net, "glorot", rng=rng, dtype=np.float32)
    x = rng.random((rows, WIDTHS[0]), dtype=np.float32)
    return net, theta, Batch(x, x)


def peak(method: Any, unit: str, rows: int = ROWS) -> int:
    """Return how many bytes were added at most in two updates that renew nothing: the least of three pairs.

    Chance decides which thread makes the largest piece of a gradient, and so when a room grows for the last time.
    """
    net, theta, batch = problem(unit, rows)
    state, rng = method.init(net, theta), np.random.default_rng(1)
    for _ in range(4):
        state, _ = method.step(state, batch, rng)
    found = []
    tracemalloc.start()
    try:
        for _ in range(3):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(2):
                state, _ = method.step(state, batch, rng)
            found.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    return min(found)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Give BLAS so many threads; each may have vectors and NumPy's buffers of its own."""
    control = blas_threads()
    if control is None:
        pytest.skip("threadpoolctl does not know the BLAS of NumPy")
    before = control.num_threads
    control.set_num_threads(request.param)
    yield int(request.param)
    control.set_num_threads(before)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: repr(m)[:90])
def test_updates_allocate_no_array(method: Any, threads: int) -> None:
    assert peak(method, "logistic") < SMALL * threads


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_nor_do_gradients_of_few_rows_that_are_added(
    momentum: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    added, add = [], Sum.add_piece
    monkeypatch.setattr(Sum, "add_piece", lambda *given: (added.append(1), add(*given))[1])
    assert peak(GradientDescent(0.01, momentum, with_norms=False), "logistic", _blas.FEW) < SMALL * threads
    assert bool(added) == adds_products(_blas.FEW, np.float32)


@pytest.mark.parametrize("unit", ["tanh", "relu", "softplus", "identity"])
def test_nor_do_other_units(unit: str, threads: int) -> None:
    assert peak(METHODS[4], unit) < SMALL * threads


def test_an_allocation_is_seen() -> None:
    # More rows need another workspace.
    net, theta, batch = problem()
    longer = np.concatenate([batch.x, batch.x[:1]])
    method, rng = GradientDescent(0.01), np.random.default_rng(0)
    state, _ = method.step(method.init(net, theta), batch, rng)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        method.step(state, Batch(longer, longer), rng)
        assert tracemalloc.get_traced_memory()[1] - before > 10 * SMALL
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", METHODS, ids=lambda m: repr(m)[:90])
def test_arrays_stay_where_they_are(method: Any) -> None:
    net, theta, batch = problem()
    state, rng = method.init(net, theta), np.random.default_rng(1)
    for _ in range(4):
        state, _ = method.step(state, batch, rng)
    before = places(state)
    for _ in range(2):
        state, _ = method.step(state, batch, rng)
    assert before
    assert places(state) == before


def test_a_batch_that_grows_gets_room_to_grow_on() -> None:
    net, theta, batch = problem(rows=2 * ROWS)
    method, rng = GradientDescent(0.01), np.random.default_rng(0)
    state, found = method.init(net, theta), []
    for rows in (ROWS, ROWS + 1, ROWS + 2, ROWS + ROWS // 4, ROWS - 1, ROWS // 5, ROWS // 5 + 1):
        state, _ = method.step(state, Batch(batch.x[:rows], batch.y[:rows]), rng)
        assert state.work is not None
        assert state.work.rows == rows
        found.append(places(state)[-1])  # of the errors, which follow upon the signals
    assert len({found[1], found[2], found[3], found[4]}) == 1
    assert len({found[0], found[1], found[5], found[6]}) == 4

    start, alone = method.init(net, theta), method.init(net, theta)
    for rows in (ROWS, ROWS + 1, ROWS + 2):
        part = Batch(batch.x[:rows], batch.y[:rows])
        start = method.step(start, part, rng)[0]
        alone = method.step(alone._replace(work=None), part, rng)[0]
    assert np.array_equal(start.theta, alone.theta)


@pytest.mark.parametrize("count", [1, 2])
def test_nobody_holds_on_to_a_workspace(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    control = blas_threads()
    if control is None:
        pytest.skip("threadpoolctl does not know the BLAS of NumPy")
    monkeypatch.setattr(_crew, "WORTH", 0.0)
    threads = control.num_threads
    control.set_num_threads(count)
    net, theta, batch = problem()
    longer = np.concatenate([batch.x, batch.x])
    gc.disable()  # what only the collector of cycles frees has been held on to
    try:
        for method in (GradientDescent(0.01), Preconditioned(Kfac(0.1), rule="fitted")):
            rng = np.random.default_rng(0)
            state, _ = method.step(method.init(net, theta), batch, rng)
            old = weakref.ref(state.work)
            for _ in range(2):
                state, _ = method.step(state, Batch(longer, longer), rng)
            assert old() is None
    finally:
        gc.enable()
        control.set_num_threads(threads)


def places(value: Any) -> list[int]:
    """Return the addresses of all arrays of a state, of workspaces too."""
    if isinstance(value, np.ndarray):
        return [value.ctypes.data]
    if isinstance(value, Workspace):
        return [h.ctypes.data for h in (*value.hidden, *value.errors)]
    if isinstance(value, (tuple, list)) and not isinstance(value, Network):
        return [place for part in value for place in places(part)]
    return []


def test_squares_are_symmetric_updates_in_place() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((128, 257)).astype(np.float32)
    out = np.empty((257, 257), np.float32)
    place = out.ctypes.data
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        np.matmul(rows.T, rows, out=out)
        assert tracemalloc.get_traced_memory()[1] - before < 10_000
    finally:
        tracemalloc.stop()
    assert out.ctypes.data == place
    assert np.array_equal(out, out.T)
    exact = rows.T.astype(float) @ rows.astype(float)
    assert np.abs(out - exact).max() <= tolerances.product(np.float32, 128) * np.abs(exact).max()


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_blocks_and_what_scratch_holds_change_nothing(name: str) -> None:
    rng = np.random.default_rng(0)
    z, bias = 3 * rng.standard_normal((700, 130)), rng.standard_normal(130)
    one, two = z.copy(), z.copy()
    slopes = np.ones_like(z), np.ones_like(z)
    activate(name, one, bias)
    multiply_by_slope(name, one, slopes[0])
    for k in range(len(z)):
        room("block", float, (130,))[0][...] = np.nan
        activate(name, two[k : k + 1], bias)
        room("block", float, (130,))[0][...] = np.nan
        multiply_by_slope(name, two[k : k + 1], slopes[1][k : k + 1])
    # The ends of a block are computed by other instructions than its middle.
    assert np.abs(one - two).max() <= tolerances.product(float, 1) * np.abs(one).max()
    assert np.abs(slopes[0] - slopes[1]).max() <= tolerances.product(float, 1)


@pytest.mark.parametrize("family", ["bernoulli", "gaussian", "categorical", "poisson"])
def test_sampled_errors_have_the_law_of_the_family(family: str) -> None:
    # Means are zero, covariances the Fisher matrix of the natural parameters.
    net = Network((1, 3), family=family)
    z = np.array([1.5, -2.0, 0.3])
    rows = 200_000
    errors = np.empty((rows, 3))
    sampled_errors(net.family, np.tile(z, (rows, 1)), errors, np.random.default_rng(0))
    fisher = np.asarray(net.family.fisher(z))
    spread = np.sqrt(np.diagonal(fisher) / rows)
    assert (np.abs(errors.mean(axis=0)) <= 5 * spread).all()
    products = errors[:, :, None] * errors[:, None, :]
    noise = products.std(axis=0) / np.sqrt(rows)
    assert (np.abs(products.mean(axis=0) - fisher) <= 5 * noise + 1e-12).all()


def test_rare_labels_keep_their_probability() -> None:
    # e^{-20}: float32 uniform numbers could not tell it from the next few.
    rows, z = 4000, -9.0
    net = Network((1, 1), family="bernoulli")
    outputs, errors = np.full((rows, 500), z, np.float32), np.empty((rows, 500), np.float32)
    sampled_errors(net.family, outputs, errors, np.random.default_rng(3))
    p = 1 / (1 + np.exp(-z))
    found, expected = int((errors < -0.5).sum()), errors.size * p
    assert abs(found - expected) <= 5 * np.sqrt(expected)
    usual = errors[errors > -0.5]
    assert np.abs(usual / p - 1).max() <= 1e-5


def test_rows_take_turns() -> None:
    for rows, most in ((10, 3), (9, 3), (5, 128), (7, None), (1, 1)):
        count = -(-rows // (most or rows))
        seen = {i for update in range(4, 4 + count) for i in range(rows)[turn(rows, most, update)]}
        assert seen == set(range(rows))
        assert all(len(range(rows)[turn(rows, most, k)]) == min(rows, most or rows) for k in range(2 * count))


@pytest.mark.parametrize("targets", ["sampled", "data"])
def test_part_of_the_rows_is_what_the_preconditioner_sees(targets: str) -> None:
    net, theta, batch = problem(rows=10)
    method = Preconditioned(Kfac(decay=0.0), 0.0, rows=4, targets=targets)
    state, rng = method.init(net, theta), np.random.default_rng(5)
    for k, part in enumerate((slice(0, 4), slice(4, 8), slice(6, 10), slice(0, 4))):
        other = np.random.default_rng(5)
        other.bit_generator.state = rng.bit_generator.state
        state, _ = method.step(state, batch, rng)
        work = Workspace(net, 4, np.float32)
        forward(net, theta, batch.x[part], work)
        wanted = gather(net, theta, work, "sampled" if targets == "sampled" else batch.y[part], other)
        for matrix, error in zip(state.inner.factors.outputs, wanted.errors, strict=True):
            exact = error.T @ error / 4
            size = tolerances.product(np.float32, 200) * np.abs(exact).max()
            assert np.abs(matrix - exact).max() <= size, k


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 64, 65, 131, 300])
def test_inverses_by_halves(dtype: Any, size: int) -> None:
    rng = np.random.default_rng(size)
    rows = rng.standard_normal((2 * size, size))
    matrix = (rows.T @ rows / size).astype(dtype)
    matrix += np.eye(size, dtype=dtype)
    inverse = inverse_factor(matrix)
    condition = np.linalg.cond(matrix.astype(float))
    assert not np.triu(inverse, 1).any()
    assert np.linalg.norm(inverse @ matrix @ inverse.T - np.eye(size), 2) <= tolerances.solve(
        dtype, size, condition
    )
    matrix[-1, -1] = -1.0
    with pytest.raises(np.linalg.LinAlgError):
        inverse_factor(matrix)
    matrix[-1, -1] = 3.0
    whole = damped_inverse(matrix, 0.1, "matrix").astype(float)
    exact = np.linalg.inv(matrix.astype(float) + 0.1 * np.eye(size))
    bound = tolerances.solve(dtype, size, np.linalg.cond(exact))
    assert np.linalg.norm(whole - exact, 2) <= bound * np.linalg.norm(exact, 2)
    assert np.array_equal(whole, whole.T)


def test_a_cutoff_errs_by_no_more_than_it_says() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    values = 10.0 ** np.linspace(2, -8, 60)
    matrix, root = (basis * values) @ basis.T, 0.1
    exact = (basis / (values + root)) @ basis.T
    seen = []
    for cutoff in (0.0, 1e-3, 0.1, 0.5):
        online = OnlineNaturalGradient(damping=root**2, strategy="eigen", cutoff=cutoff)
        found, rank = online._inverse(matrix, "matrix")
        out = np.empty((60, 60))
        apply_inverse(found, np.eye(60), out)
        # Relative to what each direction should be: |P (M + √λ) − I|.
        error = np.linalg.norm(out @ (matrix + root * np.eye(60)) - np.eye(60), 2)
        assert error <= cutoff + tolerances.solve(float, 60, values[0] / root)
        thin = isinstance(found, Deflated)
        seen.append(thin)
        assert rank > 0
        assert (error > max(0.2 * cutoff, 1e-9)) == thin
        assert np.linalg.norm(out - exact, 2) <= max(cutoff, 1e-9) / root
    # More than half of the eigenvalues are above 1e-3 · 0.1: nothing would be saved, and nothing is left out.
    assert seen == [False, False, True, True]


def test_blending_walks_in_blocks() -> None:
    rng = np.random.default_rng(0)
    mean, fresh = rng.standard_normal((2, 500, 200))
    wanted = 0.75 * mean + 0.5 * fresh
    blend(mean, fresh.copy(), 0.75, 0.5)
    assert np.abs(mean - wanted).max() <= tolerances.product(float, 2) * np.abs(wanted).max()
