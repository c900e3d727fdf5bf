"""Does a crew of threads do what one thread does? The same numbers, the same failures, and BLAS as it was."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from linnat.hardware import blas_threads
from linnat.nonlinear import _blas, _crew, _relay, _rooms, output, passes
from linnat.nonlinear._crew import crew, each, members, shares, walk
from linnat.nonlinear._pieces import Sum
from linnat.nonlinear._rooms import room
from linnat.nonlinear.activations import ACTIVATIONS, activate
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers import Adam, Batch, GradientDescent, Preconditioned, Rmsprop, TruncatedNewton
from linnat.nonlinear.output import DivergenceError, step_gradient, step_through
from linnat.nonlinear.passes import Workspace
from linnat.nonlinear.preconditioners import Ekfac, Kfac, OnlineNaturalGradient, Prong
from tests import tolerances

WIDTHS, ROWS = (30, 40, 7, 40, 30), 55


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give BLAS three threads, and everything to the crew however small."""
    control = blas_threads()
    if control is None:
        pytest.skip("threadpoolctl does not know the BLAS of NumPy")
    before = control.num_threads
    control.set_num_threads(3)
    if control.num_threads != 3:
        control.set_num_threads(before)
        pytest.skip("BLAS takes no more threads")
    monkeypatch.setattr(_crew, "WORTH", 0.0)
    yield control
    assert control.num_threads == 3
    control.set_num_threads(before)


def problem(dtype: Any = np.float64, unit: str = "relu") -> tuple[Network, Any, Batch]:
    rng = np.random.default_rng(0)
    net = Network(WIDTHS, ("tanh", "identity", unit, "identity"), "bernoulli")
    x = rng.random((ROWS, WIDTHS[0])).astype(dtype)
    return net, initial(net, "glorot", rng=rng, dtype=dtype), Batch(x, x)


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_crew, "WORTH", np.inf)


def delay_a_share(monkeypatch: pytest.MonkeyPatch, work: Workspace, seconds: float) -> list[int]:
    """Have the share with the first row wait after each layer on its way back; return a list of those that are back."""
    back, done = output.run_back, list[int]()

    def late(net: Network, theta: Any, part: Workspace, told: Callable[[int], None]) -> None:
        def slowly(layer: int) -> None:
            told(layer)
            if np.shares_memory(part.errors[0], work.errors[0][:1]):
                time.sleep(seconds)

        back(net, theta, part, slowly)
        done.append(1)

    monkeypatch.setattr(output, "run_back", late)
    return done


METHODS: dict[str, Callable[[], Any]] = {
    "descent": lambda: GradientDescent(0.1),
    "momentum": lambda: GradientDescent(0.1, 0.9),
    "nesterov": lambda: GradientDescent(0.1, 0.9, nesterov=True),
    "descent, added": lambda: GradientDescent(0.1, with_norms=False),
    "momentum, added": lambda: GradientDescent(0.1, 0.9, with_norms=False),
    "nesterov, added": lambda: GradientDescent(0.1, 0.9, nesterov=True, with_norms=False),
    "rmsprop": lambda: Rmsprop(0.01),
    "adam": lambda: Adam(0.01),
    "kfac": lambda: Preconditioned(Kfac(), 0.1, rule="clipped"),
    "fitted": lambda: Preconditioned(Kfac(), rule="fitted", model_rows=20),
    "ekfac": lambda: Preconditioned(Ekfac(), 0.1),
    "online": lambda: Preconditioned(OnlineNaturalGradient(), 0.1),
    "prong": lambda: Preconditioned(Prong(), 0.1),
    "newton": lambda: TruncatedNewton(iterations=5),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_crew_takes_the_same_steps(name: str, threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where a ReLU comes to life, EKFAC steps along directions of whose basis rounding decides.
    net, theta, batch = problem(unit="softplus" if name == "ekfac" else "relu")
    found, handed = [], []
    wait = _crew._await
    monkeypatch.setattr(_crew, "_await", lambda *given: (handed.append(len(found)), wait(*given))[1])
    for shared in (True, True, False):
        if not shared:
            alone(monkeypatch)
        method, rng = METHODS[name](), np.random.default_rng(3)
        state = method.init(net, theta)
        for _ in range(5):
            state, report = method.step(state, batch, rng)
        found.append((state.theta, report))
    # Which thread does what is chance; what comes out is not.
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1], equal_nan=True)
    # Five steps, each well conditioned (damping 0.01): rounding of sums in another order grows with them.
    moved = np.abs(found[2][0] - theta).max()
    assert set(handed) == {0, 1}  # something was handed over to helpers, and nothing when alone
    assert np.abs(found[0][0] - found[2][0]).max() <= tolerances.solve(float, 200, 1e4) * moved
    assert found[0][1].loss == pytest.approx(found[2][1].loss, rel=1e-11)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
@pytest.mark.parametrize("name", METHODS)
def test_a_copied_state_goes_on_like_the_first(name: str, copied: Callable[[Any], Any], threads: Any) -> None:
    net, theta, batch = problem()
    few, method, rng = Batch(batch.x[:40], batch.y[:40]), METHODS[name](), np.random.default_rng(3)
    state, ends = method.init(net, theta), []
    for rows in (batch, few, batch, few):
        state, _ = method.step(state, rows, rng)
    for own, seeded in ((copied(state), copy.deepcopy(rng)), (state, rng)):
        after = own
        for rows in (few, batch):
            after, report = method.step(after, rows, seeded)
        ends.append((after.theta, report))
    assert not np.shares_memory(ends[0][0], ends[1][0])
    assert np.array_equal(ends[0][0], ends[1][0])
    assert np.array_equal(ends[0][1], ends[1][1], equal_nan=True)


def test_passes_in_shares(threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, theta, batch = problem()
    direction = np.random.default_rng(1).standard_normal(net.n_parameters)
    found = []
    for shared in (True, False):
        if not shared:
            alone(monkeypatch)
        work = Workspace(net, ROWS)
        out = np.empty_like(theta)
        value, square = step_gradient(net, theta, batch.x, batch.y, work, out)
        assert square == pytest.approx(out @ out, rel=1e-13)
        passes.forward(net, theta, batch.x, work)
        found.append((value, out, passes.fisher_product(net, theta, work, direction), work.outputs.copy()))
    for one, two in zip(*found, strict=True):
        size = np.abs(two).max()
        assert np.abs(one - two).max() <= tolerances.product(float, 60) * 10 * size


def test_no_gradient_is_larger_than_the_bound_that_lets_it_be_used(threads: Any) -> None:
    net, theta, batch = problem()
    bounds: list[float] = []

    def fine(value: float, bound: float) -> bool:
        bounds.append(bound)
        return True

    for scale in (1.0, 0.01):
        for weight in (0.1, 1.0, 10.0):
            work = Workspace(net, ROWS)
            told = output._step(net, weight * theta, batch.x, batch.y, work, True, fine, scale=scale)
            assert 0 < told[2] <= bounds[-1] < np.inf
    assert len(bounds) == 6


@pytest.mark.parametrize("matrix", ["fisher", "gauss_newton", "hessian"])
@pytest.mark.parametrize("shape", [(), (2, 1)])
@pytest.mark.parametrize("output", ["identity", "tanh"])
def test_products_in_shares(
    matrix: str, shape: tuple[int, ...], output: str, threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    # 55 rows among three: shares of different sizes, which a mean of their means would weigh alike.
    net = Network(WIDTHS, ("tanh", "logistic", "softplus", output), "bernoulli")
    theta, x = initial(net, "glorot", rng=rng), rng.random((ROWS, WIDTHS[0]))
    directions, work = rng.standard_normal((*shape, net.n_parameters)), Workspace(net, ROWS)
    product, given = getattr(passes, f"{matrix}_product"), () if matrix == "fisher" else (x,)
    passes.forward(net, theta, x, work)
    handed: list[object] = []
    wait = _crew._await
    monkeypatch.setattr(_crew, "_await", lambda *given: (handed.append(given), wait(*given))[1])
    shared = product(net, theta, work, *given, directions)
    assert handed
    before, signals = directions.copy(), [h.copy() for h in work.hidden]
    alone(monkeypatch)
    single = product(net, theta, work, *given, directions)
    assert shared.shape == (*shape, net.n_parameters)
    assert np.abs(shared - single).max() <= tolerances.product(float, 60) * 10 * np.abs(single).max()
    assert np.array_equal(directions, before)
    assert all(np.array_equal(h, s) for h, s in zip(work.hidden, signals, strict=True))


def test_pieces_make_the_gradient(threads: Any) -> None:
    net, theta, batch = problem()
    whole, seen = np.empty_like(theta), np.zeros(net.n_parameters, int)
    work, found = Workspace(net, ROWS), np.full_like(theta, np.nan)
    value, square = step_gradient(net, theta, batch.x, batch.y, work, whole)

    def visit(part: slice, piece: Any) -> float:
        found[part] = piece
        seen[part] += 1
        piece[...] = np.nan
        return 1.0

    told = step_through(net, theta, batch.x, batch.y, work, visit)
    assert (seen == 1).all()
    assert np.array_equal(found, whole)
    assert told[:2] == (value, square)
    assert told[2] > net.depth  # layers were cut


def test_whoever_is_back_begins_with_the_layers_above(threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, theta, batch = problem()
    whole, found, work = np.empty_like(theta), np.full_like(theta, np.nan), Workspace(net, ROWS)
    value, square = step_gradient(net, theta, batch.x, batch.y, work, whole)
    make, made, visits = _relay.make_piece, [], []
    shares_back = delay_a_share(monkeypatch, work, 0.03)

    def noted(work: Workspace, piece: Any, out: Any) -> Any:
        made.append((piece.layer, len(shares_back)))
        return make(work, piece, out)

    def visit(part: slice, piece: Any) -> float:
        visits.append(len(shares_back))
        found[part] = piece
        piece[...] = np.nan
        return 1.0

    monkeypatch.setattr(_relay, "make_piece", noted)
    told = step_through(net, theta, batch.x, batch.y, work, visit)
    assert any(count == 2 for _, count in made)  # one of three shares is late, and nobody waits for it
    assert made[0][0] == net.depth - 1
    assert set(visits) == {3}
    assert np.array_equal(found, whole)
    assert told == (value, square, float(len(visits)))
    made.clear()
    shares_back.clear()
    out = np.empty_like(theta)
    assert step_gradient(net, theta, batch.x, batch.y, work, out) == (value, square)
    assert np.array_equal(out, whole)
    assert any(count == 2 for _, count in made)


@pytest.fixture(params=["BLAS", "NumPy"])
def adder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who adds products."""
    if request.param == "NumPy":
        monkeypatch.setattr(_blas, "_gemm", lambda kind: None)
    elif _blas._gemm(np.dtype(float)) is None:
        pytest.skip("the BLAS of NumPy is not one that is known")
    return str(request.param)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", [-1.0, 0.5])
def test_a_gradient_is_added_where_it_goes(
    shared: bool, dtype: Any, factor: float, adder: str, threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, theta, batch = problem(dtype)
    if not shared:
        alone(monkeypatch)
    work, gradient, eps = Workspace(net, ROWS, dtype), np.empty_like(theta), np.finfo(dtype).eps
    value, square = step_gradient(net, theta, batch.x, batch.y, work, gradient)
    begun = np.random.default_rng(5).standard_normal(len(theta)).astype(dtype)
    seen, args = np.zeros(len(theta), int), (net, theta, batch.x, batch.y, work)

    def visit(part: slice, held: Any) -> float:
        assert np.shares_memory(held, vector)
        seen[part] += 1
        return float(held.sum())

    for keep in (1.0, 0.5, 0.0):
        for with_square in (True, False):
            vector = begun.copy() if keep else np.full_like(begun, np.nan)
            given = Sum(vector, factor, keep, visit)
            told = step_through(*args, given, scale=0.1, with_square=with_square)
            expected = 0.1 * factor * gradient + (keep * begun if keep else 0.0)
            most = 8 * eps * (np.abs(begun) + ROWS * np.abs(gradient).max())
            assert (np.abs(vector - expected) <= most).all()
            assert told[0] == value
            assert told[1] == pytest.approx(0.01 * square if with_square else np.nan, rel=1e-5, nan_ok=True)
            assert told[2] == pytest.approx(
                float(vector.sum()), abs=float(len(theta) * eps * np.abs(vector).sum())
            )
    assert (seen == 6).all()


@pytest.mark.parametrize("keep", [1.0, 0.9, 0.0])
def test_nothing_is_added_before_all_rows_are_back(
    keep: float, adder: str, threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # θ itself is what is added to, and slower shares still run back through it.
    net, theta, batch = problem()
    work, gradient, found = Workspace(net, ROWS), np.empty_like(theta), []
    step_gradient(net, theta, batch.x, batch.y, work, gradient)
    early, settle, wait = [], Sum.settle, _relay._Relay._wait_for

    def settled(self: Sum, piece: Any, flat: Any) -> float:
        early.append(not np.shares_memory(flat, self.vector))
        return settle(self, piece, flat)

    def added() -> Any:
        early.clear()
        moving = theta.copy()
        step_through(net, moving, batch.x, batch.y, work, Sum(moving, -1.0, keep), with_square=False)
        return moving

    monkeypatch.setattr(Sum, "settle", settled)
    monkeypatch.setattr(_relay._Relay, "_wait_for", lambda self, layer: wait(self, None))
    found.append(added())
    assert not any(early)
    monkeypatch.setattr(_relay._Relay, "_wait_for", wait)
    delay_a_share(monkeypatch, work, 0.01)
    found.append(added())
    assert any(early) == (adder == "BLAS")
    most = tolerances.product(float, 60) * np.abs(theta).max()
    assert np.abs(found[0] - (keep * theta - gradient)).max() <= most
    # What is made early and kept beside is to the last bit what comes of adding in place.
    assert np.array_equal(*found)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("first", [True, False])
def test_a_share_that_fails_lets_nobody_wait(
    kind: type[BaseException], first: bool, threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, theta, batch = problem()
    work, back, seen = Workspace(net, ROWS), output.run_back, []

    def fails(net: Network, theta: Any, part: Workspace, told: Callable[[int], None]) -> None:
        if np.shares_memory(part.errors[0], work.errors[0][:1]) == first:
            time.sleep(0.02)
            raise kind("of a share")
        back(net, theta, part, told)

    monkeypatch.setattr(output, "run_back", fails)
    for run in (step_through, step_gradient):
        with pytest.raises(kind, match="of a share"):
            run(
                net,
                theta,
                batch.x,
                batch.y,
                work,
                np.empty_like(theta) if run is step_gradient else seen.append,
            )
    assert not seen
    monkeypatch.undo()
    assert np.isfinite(step_gradient(net, theta, batch.x, batch.y, work, np.empty_like(theta))[0])


@pytest.mark.parametrize("where", ["x", "theta", "huge"])
def test_nothing_is_visited_where_the_gradient_is_not_finite(where: str, threads: Any) -> None:
    net, theta, batch = problem()
    x, theta = batch.x.copy(), theta.copy()
    if where == "x":
        x[40, 3] = np.nan
    else:
        theta[100 if where == "theta" else slice(None)] = np.nan if where == "theta" else 1e200
    seen = []

    def visit(part: slice, piece: Any) -> float:
        seen.append(part)
        return 0.0

    with pytest.raises(DivergenceError):
        step_through(net, theta, x, batch.y, Workspace(net, ROWS), visit)
    before = theta.copy()
    onto = Sum(theta, 1.0, 0.5, visit)
    with pytest.raises(DivergenceError):
        step_through(net, theta, x, batch.y, Workspace(net, ROWS), onto, with_square=False)
    assert not seen
    assert np.array_equal(theta, before, equal_nan=True)


def test_a_bound_beyond_the_largest_number_is_no_divergence() -> None:
    # Signals of 1e160 against errors of 1e-160: squares of neither can be multiplied carelessly, the gradient is 1.
    net = Network((1, 1), family="gaussian")
    x, y = np.array([[1e160]]), np.array([[0.0]])
    theta = np.array([1e-320, 1e-3])
    seen = []

    def visit(part: slice, piece: Any) -> float:
        seen.append(piece.copy())
        return 0.0

    with pytest.raises(DivergenceError):
        step_through(net, theta, x, y, Workspace(net, 1), visit)
    assert not seen
    x = np.array([[1e154]])
    value, square, _ = step_through(net, np.array([0.0, 1e-154]), x, y, Workspace(net, 1), visit)
    assert np.isfinite(value)
    assert square == pytest.approx(1.0)
    assert np.allclose(np.concatenate(seen), [1.0, 1e-154], rtol=1e-15)
    held = np.array([4.0, 0.0])
    given = np.array([0.0, 1e-154]), x, y, Workspace(net, 1), Sum(held, keep=0.5)
    assert step_through(net, *given, with_square=False)[0] == value
    assert np.allclose(held, [3.0, 1e-154], rtol=1e-15)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_bounded_units_are_bounded(name: str) -> None:
    z = np.array([[-1e30, -1.5, 0.0, 1.5, 1e30]])
    with np.errstate(over="ignore"):
        activate(name, z)
    assert ACTIVATIONS[name].bounded == bool(np.abs(z).max() <= 1)


@pytest.mark.parametrize("step", [1, 8])
def test_shares_cover_everything_once(step: int) -> None:
    for size in range(1, 300):
        for count in range(1, 13):
            parts = shares(size, count, step)
            assert [k for part in parts for k in range(size)[part]] == list(range(size))
            assert all(part.stop > part.start for part in parts)
            assert len(parts) == min(count, size)
            if size >= 4 * step * count:
                assert all(part.start % step == 0 for part in parts)
                assert max(p.stop - p.start for p in parts) - size / count < 2 * step


def test_an_interrupt_that_comes_with_the_last_word_is_no_reason_to_wait() -> None:
    helper, ticket, failed = SimpleNamespace(last=None), object(), list[BaseException]()

    def get() -> None:
        helper.last = ticket
        raise KeyboardInterrupt  # the word has been taken from the queue, and another one will not come

    helper.done = SimpleNamespace(get=get)
    _crew._await(helper, ticket, failed)  # type: ignore[arg-type]
    assert [type(error) for error in failed] == [KeyboardInterrupt]


def test_a_sum_whose_gradient_is_not_finite_says_so_and_nothing_else(
    threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Early pieces are made of errors that nobody has looked at: here sums of both infinities.
    net, made = Network((1, 4), family="gaussian"), []
    theta, add = np.full(8, 1e300), Sum.add_piece
    x = np.where(np.arange(40) % 2, 1e20, -1e20)[:, None]

    def noted(self: Sum, work: Workspace, piece: Any, beside: Any) -> Any:
        made.append(beside is not None)
        return add(self, work, piece, beside)

    monkeypatch.setattr(Sum, "add_piece", noted)
    before, given = theta.copy(), (x, np.zeros((40, 4)), Workspace(net, 40))
    delay_a_share(monkeypatch, given[2], 0.03)
    onto = Sum(theta, -1.0)
    with np.errstate(all="raise"), pytest.raises(DivergenceError):
        step_through(net, theta, *given, onto, with_square=False)
    assert np.array_equal(theta, before)
    assert all(made)


def test_the_first_failure_is_raised_and_the_rest_is_done(threads: Any) -> None:
    done = []

    def task(k: int) -> int:
        if k == 4:
            raise ValueError("task 4")
        time.sleep(0.001)
        done.append(k)
        return k

    with pytest.raises(ValueError, match="task 4"):
        each([lambda k=k: task(k) for k in range(9)], 3)
    assert threads.num_threads == 3
    assert len(done) >= 2
    assert each([lambda k=k: k for k in range(9)], 3, [float(k % 4) for k in range(9)]) == list(range(9))


@pytest.mark.parametrize("kind", [IndexError, StopIteration, KeyError])
def test_no_failure_is_taken_for_the_end(kind: type[Exception], threads: Any) -> None:
    def task() -> None:
        raise kind("of the task's own")

    with pytest.raises(kind):
        each([task, task, task, task], 3)
    with pytest.raises(kind):
        each([time.monotonic, task], 2)


def test_what_an_interrupted_call_left_behind_is_passed_over(threads: Any) -> None:
    assert each([lambda: 1, lambda: 2], 2) == [1, 2]
    (helper,) = _crew._helpers(1)
    ended = threading.Event()

    def late() -> None:
        time.sleep(0.05)
        ended.set()

    helper.todo.put((object(), late))  # of a call that did not stay for its end
    assert each([lambda: 1, ended.is_set], 2)[0] == 1
    assert ended.is_set()


def test_an_interrupt_waits_for_the_others(threads: Any) -> None:
    ended = []

    def slow() -> None:
        time.sleep(0.05)
        ended.append(True)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        each([slow, slow, interrupted, interrupted], 3)
    assert ended == [True, True]
    assert threads.num_threads == 3
    assert each([lambda: 1, lambda: 2], 3) == [1, 2]


def test_shares_are_not_shared_again(threads: Any) -> None:
    inside = each([lambda: (members(1e12), threads.num_threads) for _ in range(6)], 3)
    assert inside == [(1, 1)] * 6
    with crew(1e12):
        assert members(1e12) == 3
        assert threads.num_threads == 1
        with crew(1e12):
            assert members(1e12) == 3
    assert threads.num_threads == 3


def test_two_crews_do_not_disturb_each_other(threads: Any) -> None:
    counts: list[int] = []
    started, go_on = threading.Event(), threading.Event()

    def other() -> None:
        started.wait(5)
        counts.append(members(1e12))
        counts.extend(each([lambda: 7, lambda: 8], 3))
        go_on.set()

    thread = threading.Thread(target=other)
    thread.start()
    with crew(1e12):
        started.set()
        assert go_on.wait(5)
    thread.join(5)
    assert counts == [1, 7, 8]


def test_overflow_is_handled_as_the_caller_asked(threads: Any) -> None:
    def overflow() -> float:
        return float(np.float64(1e308) * np.array(10.0))

    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        each([overflow, overflow, overflow], 3)
    with np.errstate(over="ignore"):
        assert each([overflow, overflow, overflow], 3) == [np.inf] * 3


def test_rooms_are_each_thread_s_own(threads: Any) -> None:
    barrier = threading.Barrier(3)

    def enter() -> int:
        (array,) = room("test", float, (10,))
        barrier.wait(5)
        return int(array.ctypes.data)

    assert len(set(each([enter, enter, enter], 3))) == 3
    first = room("test", np.float32, (5,))[0]
    assert not np.shares_memory(first, room("test", float, (5,))[0])
    assert not np.shares_memory(first, room("other", np.float32, (5,))[0])


def test_a_room_that_has_grown_holds_on_to_nothing() -> None:
    small = room("growing", float, (10,))[0]
    large = room("growing", float, (1000,))[0]
    gone = weakref.ref(small)
    assert np.shares_memory(room("growing", float, (10,))[0], large)
    del small
    assert gone() is None
    for n in range(1, 1000):  # every batch another size
        assert room("growing", float, (n,))[0].shape == (n,)
    assert len(_rooms._rooms.ways) <= _rooms.WAYS


def test_shares_cut_evenly() -> None:
    for size in (1, 2, 3, 10, 101):
        for count in (1, 2, 3, 7):
            parts = shares(size, count)
            lengths = [part.stop - part.start for part in parts]
            assert [i for part in parts for i in range(size)[part]] == list(range(size))
            assert min(lengths) >= 1
            assert max(lengths) - min(lengths) <= 1
            assert len(parts) == min(size, count)


def test_walks_visit_everything_once(threads: Any) -> None:
    seen = np.zeros(1000, int)

    def visit(part: slice) -> float:
        seen[part] += 1
        return float(part.stop - part.start)

    assert walk(1000, visit, 64) == 1000.0
    assert (seen == 1).all()


FORK = """
import multiprocessing
from linnat.hardware import blas_threads
from linnat.nonlinear import _crew

def three():
    return _crew.each([lambda: 1, lambda: 2, lambda: 3], 3)

def child(queue):
    queue.put(three())

blas_threads().set_num_threads(3)
_crew.WORTH = 0.0
assert three() == [1, 2, 3]
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=child, args=(queue,))
process.start()
assert queue.get(timeout=20) == [1, 2, 3]
process.join(20)
assert process.exitcode == 0
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_forked_child_has_a_crew_of_its_own(threads: Any) -> None:
    # In a process of its own: other libraries' threads do not survive a fork.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_without_control_of_blas_everything_runs_where_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_crew, "blas_threads", lambda: None)
    monkeypatch.setattr(_crew, "WORTH", 0.0)
    here = threading.current_thread()
    with crew(1e12):
        assert members(1e12) == 1
        assert each([threading.current_thread, threading.current_thread], 3) == [here, here]
