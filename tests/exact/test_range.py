"""What happens at the ends of the floating-point range? A right number or one clear error: no NaN, no warning."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import linnat as ln
from linnat import _checks
from linnat._checks import RangeError, representable
from linnat.linalg.kernels import frobenius

F64, F32 = np.float64, np.float32
EPS = {F64: float(np.finfo(F64).eps), F32: float(np.finfo(F32).eps)}
Call = Callable[[ln.LinearNetwork, ln.Task], Any]

# With all layers multiplied by c and the teacher by c^L a result is multiplied by c^degree.
DEGREES: dict[str, tuple[Call, Callable[[int], int]]] = {
    "excess_loss": (ln.excess_loss, lambda depth: 2 * depth),
    "gradient": (ln.gradient, lambda depth: 2 * depth - 1),
    "fisher": (ln.fisher, lambda depth: 2 * depth - 2),
    "fisher_block": (lambda n, t: ln.fisher_block(n, t, 1, n.depth), lambda depth: 2 * depth - 2),
    "fisher_operator": (
        lambda n, t: ln.fisher_operator(n, t) @ np.ones(n.n_parameters),
        lambda depth: 2 * depth - 2,
    ),
    "hessian": (ln.hessian, lambda depth: 2 * depth - 2),
    "hessian_operator": (
        lambda n, t: ln.hessian_operator(n, t) @ np.ones(n.n_parameters),
        lambda depth: 2 * depth - 2,
    ),
    "fisher_norm2": (lambda n, t: ln.fisher_norm2(n, t, n.layers), lambda depth: 2 * depth),
    "fisher_diagonal": (ln.fisher_diagonal, lambda depth: 2 * depth - 2),
    "fisher_trace": (ln.fisher_trace, lambda depth: 2 * depth - 2),
    "fisher_eigenvalues": (ln.fisher_eigenvalues, lambda depth: 2 * depth - 2),
    "natural_gradient": (ln.natural_gradient, lambda depth: 1),
    "masked": (lambda n, t: ln.natural_gradient(n, t, mask="block-diagonal"), lambda depth: 1),
    "minimum_norm": (lambda n, t: ln.natural_gradient(n, t, "minimum-norm"), lambda depth: 1),
    "solve_minimum_norm": (lambda n, t: ln.solve_minimum_norm(n, t).direction, lambda depth: 1),
    "range_lsqr": (
        lambda n, t: ln.solve_minimum_norm(n, t, method="range-lsqr").direction,
        lambda depth: 1,
    ),
    "total": (lambda n, t: n.total, lambda depth: depth),
    "induced_change": (lambda n, t: ln.induced_change(n, n.layers), lambda depth: depth),
    "balance": (lambda n, t: ln.flow.balance(n), lambda depth: 2),
    "imbalance_bound": (lambda n, t: ln.imbalance_bound(n), lambda depth: 2),
    "distance_bound": (ln.distance_bound, lambda depth: 1),
    "natural_total": (lambda n, t: ln.flow.natural_total(n, t, [0.0, 1.0]), lambda depth: depth),
    "natural_total_shortest": (
        lambda n, t: ln.flow.natural_total(n, t, [0.0, 1.0], "minimum-norm"),
        lambda depth: depth,
    ),
    "natural_loss": (lambda n, t: ln.flow.natural_loss(n, t, [0.0, 1.0]), lambda depth: 2 * depth),
    "natural_weights": (lambda n, t: ln.flow.natural_weights(n, t, [0.0, 1.0]), lambda depth: 1),
    "breakdown_time": (ln.flow.breakdown_time, lambda depth: 0),
    "fisher_length": (ln.flow.fisher_length, lambda depth: depth),
    "natural_step": (lambda n, t: ln.descent.natural_step(n, t, 0.5).layers, lambda depth: 1),
    "natural_total_step": (lambda n, t: ln.descent.natural_total_step(n, t, 0.5), lambda depth: depth),
    "exact_step": (lambda n, t: ln.descent.exact_step(n, t, 0.5).layers, lambda depth: 1),
    "spectrum": (lambda n, t: np.abs(ln.descent.spectrum(n, t)), lambda depth: 0),
}
# Not homogeneous, or no matter of size.
OTHERS: dict[str, Call] = {
    "loss": ln.loss,
    "before": lambda n, t: (n.before, n.after),
    "fisher_rank": ln.fisher_rank,
    "fisher_logdet": ln.fisher_logdet,
    "damped": lambda n, t: ln.natural_gradient(n, t, damping=0.5),
    "damped_mask": lambda n, t: ln.natural_gradient(n, t, damping=0.5, mask="block-diagonal"),
    "factored": lambda n, t: ln.natural_gradient(n, t, damping=0.5, damping_kind="factored"),
    "solve_damped": lambda n, t: ln.solve_damped(n, t, 0.5),
    "range_lsqr": lambda n, t: ln.solve_damped(n, t, 0.5, method="range-lsqr"),
    "ranks": ln.ranks,
    "rank_report": lambda n, t: ln.rank_report(n, t).before.ranks,
    "is_onto": ln.is_onto,
    "has_full_ranks": ln.has_full_ranks,
    "error_estimate": lambda n, t: np.minimum(ln.error_estimate(n, t).relative, 1),
}
# Modules of the core whose public functions of a network and a task must stand above.
CORE = (
    "loss",
    "fisher",
    "operators",
    "spectrum",
    "natural",
    "minimum_norm",
    "damping",
    "chains",
    "conditions",
)
CORE += ("rank_report", "flow", "breakdown", "descent", "imbalance")


def numbers(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from numbers(item)
    elif np.asarray(value).dtype.kind in "fc":
        yield np.asarray(value)


def draw(widths: tuple[int, ...], dtype: Any, sizes: list[float], biases: bool = False) -> ln.LinearNetwork:
    rng = np.random.default_rng(3)
    shapes = list(itertools.pairwise(widths))
    weights = [
        (rng.standard_normal((b, a)) * s).astype(dtype) for (a, b), s in zip(shapes, sizes, strict=True)
    ]
    offsets = [(rng.standard_normal(b) * s).astype(dtype) for (_, b), s in zip(shapes, sizes, strict=True)]
    return ln.LinearNetwork(weights, offsets if biases else None)


def make_task(widths: tuple[int, ...], teacher: float, inputs: float, white: bool) -> ln.Task:
    rng = np.random.default_rng(1)
    goal = rng.standard_normal((widths[-1], widths[0])) * teacher
    if white:
        return ln.Task(goal)
    a, b = (rng.standard_normal((n, n)) for n in (widths[0], widths[-1]))
    return ln.Task(goal, (a @ a.T) * inputs, (b @ b.T + np.eye(len(b))) / inputs)


SCALES = [(F64, 10.0**p) for p in (-300, -150, 150, 300)] + [(F32, 10.0**p) for p in (-30, 30)]


@pytest.mark.statement("X9")
@pytest.mark.parametrize("where", ["first", "all", "opposite", "teacher", "moments"])
@pytest.mark.parametrize("name", sorted({*DEGREES, *OTHERS}))
@pytest.mark.filterwarnings("ignore::linnat.RankWarning")
def test_sizes_at_the_ends_of_the_range_give_numbers_or_one_error(name: str, where: str) -> None:
    call = OTHERS.get(name) or DEGREES[name][0]
    met = 0
    for (dtype, scale), widths in itertools.product(SCALES, [(3, 3, 3), (3, 4, 3), (4, 2, 3, 4)]):
        sizes = [1.0] * (len(widths) - 1)
        if where in ("first", "opposite"):
            sizes[0] = scale
        if where == "opposite":
            sizes[-1] = 1 / scale
        if where == "all":
            sizes = [scale] * len(sizes)
        net = draw(widths, dtype, sizes, biases=widths[1] == 4)
        teacher, inputs = scale if where == "teacher" else 1.0, scale if where == "moments" else 1.0
        task = make_task(widths, teacher, inputs, white=where != "moments")
        try:
            found = call(net, task)
        except ln.InputError:
            continue
        met += 1
        infinite = name in ("breakdown_time", "distance_bound")
        assert all(np.isfinite(a).all() or (infinite and not np.isnan(a).any()) for a in numbers(found))
    # The test has seen numbers, not only errors.
    assert met or (name, where) == ("damped_mask", "opposite")


@pytest.mark.statement("X9")
@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("name", sorted(DEGREES))
def test_what_can_be_represented_is_right(name: str, dtype: Any) -> None:
    # Powers of two change no digit, so that only sizes matter. Everything is held to what the total weight allows:
    # where that is not a normal number of the dtype the question is not the same any more.
    call, degree = DEGREES[name]
    limits = np.finfo(dtype)
    low, high = math.log2(float(limits.tiny)) + 8, math.log2(float(limits.max)) - 8
    powers = (-400, -250, -120, 120, 250, 400) if dtype is F64 else (-50, -30, 30, 50)
    met = 0
    for widths, power in itertools.product([(3, 3, 3), (3, 4, 3), (3, 3, 3, 3), (5, 2, 3, 4)], powers):
        depth = len(widths) - 1
        if not low < depth * power < high:
            continue
        try:
            wanted = list(
                numbers(call(draw(widths, dtype, [1.0] * depth), make_task(widths, 1.0, 1.0, True)))
            )
        except ln.ConditionError:
            continue
        shift = degree(depth) * power
        sizes = [
            math.log2(float(np.abs(a[(a != 0) & np.isfinite(a)]).max(initial=1e-6))) + shift for a in wanted
        ]
        task = make_task(widths, 2.0 ** (depth * power), 1.0, True)
        net = draw(widths, dtype, [2.0**power] * depth)
        if not all(low < size < high for size in sizes):
            continue
        met += 1
        for a, b in zip(wanted, numbers(call(net, task)), strict=True):
            assert a.shape == b.shape
            same = np.ldexp(b, -shift) if np.isfinite(b).all() else b
            finite = np.where(np.isfinite(a), a, 0)
            assert (np.isinf(a) == np.isinf(b)).all()
            gap = np.abs(np.where(np.isfinite(a), same, 0) - finite).max()
            assert gap <= 64 * EPS[dtype] * max(widths) * 100 * np.abs(finite).max()
    assert met


def test_every_public_function_of_the_core_is_in_the_sweep() -> None:
    public = {name: getattr(ln, name) for name in ln.__all__ if name not in ("claims", "dense", "verify")}
    for module in (ln.flow, ln.descent):
        names = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
        public |= {name: getattr(module, name) for name in names}
    met = 0
    for name, function in public.items():
        if not inspect.isfunction(function) or function.__module__.removeprefix("linnat.exact.") not in CORE:
            continue
        if {"net", "task"} <= set(inspect.signature(function).parameters):
            met += 1
            assert name in DEGREES or name in OTHERS, f"{name} is not swept"
            assert hasattr(function, "__wrapped__"), f"{name} is not guarded"
    assert met > 25


def test_the_guard_names_what_is_at_fault() -> None:
    big = ln.LinearNetwork([np.full((2, 2), 1e200)] * 2)
    with pytest.raises(
        RangeError, match=r"^net, task: expected sizes .* range of float64 in gradient"
    ) as caught:
        ln.gradient(big, ln.Task(np.eye(2)))
    assert str(caught.value).endswith("Rescale them.")
    single = ln.LinearNetwork([np.full((2, 2), 1e30, F32)] * 2)
    with pytest.raises(RangeError, match=r"float32 in fisher_trace.* or use float64\.$"):
        ln.fisher_trace(single, ln.Task(np.eye(2)))
    with pytest.raises(RangeError, match=r"^weights: .* in total"):
        _ = single.total
    with pytest.raises(RangeError, match=r"^net, task, vector: .* in matmat"):
        _ = ln.fisher_operator(single, ln.Task(np.eye(2))) @ np.ones(8)
    with pytest.raises(RangeError, match=r"^teacher, .* in Task"):
        ln.Task(np.full((2, 2), 1e200), 1e300 * np.eye(2))
    with pytest.raises(RangeError, match=r"^task: .* in floor"):
        ln.Task(np.ones((1, 1)), teacher_bias=[1e200]).floor()
    assert issubclass(RangeError, (ln.InputError, OverflowError))
    assert issubclass(RangeError, ValueError)


def test_the_guard_lets_through_what_is_meant() -> None:
    @representable("x")
    def plain(x: Any) -> Any:
        return x

    @representable("x", inf=True)
    def lasting(x: Any) -> Any:
        return x

    @representable("x", nan=True)
    def anything(x: Any) -> Any:
        return x

    values = {"nan": np.array([np.nan]), "inf": (np.ones(2), [np.array([[np.inf]])])}
    for function, refused in ((plain, {"nan", "inf"}), (lasting, {"nan"}), (anything, set())):
        for kind, value in values.items():
            if kind in refused:
                with pytest.raises(RangeError, match="inf or NaN in the result"):
                    function(value)
            else:
                assert function(value) is value
    assert plain("text") == "text"
    assert plain((np.array(["a"]), 3, None))[1] == 3
    assert not _checks.is_in_range(float("nan"))

    @representable("x")
    def squared(x: Any) -> Any:
        return x**2

    # Without the guard it warns, and warnings are errors here.
    with pytest.raises(RuntimeWarning, match="overflow"):
        squared.__wrapped__(np.array([1e200]))  # type: ignore[attr-defined]
    with pytest.raises(RangeError, match="overflow"):
        squared(np.array([1e200]))


def test_norms_of_numbers_whose_squares_leave_the_range() -> None:
    matrix = np.array([[3.0, 0.0], [0.0, 4.0]])
    for scale in (2.0**900, 2.0**-900, 1.0):
        assert float(frobenius(matrix * scale)) == 5.0 * scale
    stack = np.stack([matrix * 2.0**900, matrix * 2.0**-900, 0 * matrix])
    assert (frobenius(stack) == [5.0 * 2.0**900, 5.0 * 2.0**-900, 0.0]).all()
    assert frobenius(np.full((1, 1), np.inf)) == np.inf
    assert frobenius(np.zeros((2, 0, 3))).shape == (2,)


@pytest.mark.statement("C5")
def test_modes_over_six_hundred_decades() -> None:
    # L = 2, γ = 0 is the logistic equation: s = ŝ / (1 + (ŝ/s_0 − 1) e^{−2ŝt}).
    start, target = 1e-300, 1e30
    exponents = np.array([0.0, 1.0, 700.0, 755.0, 760.0, 765.0, 800.0])
    found = ln.modes.gradient_mode(exponents / (2 * target), start, target, 2)
    logs = np.log(start) - np.log(target) + exponents
    wanted = np.log(target) - np.logaddexp(0, -logs)
    assert np.abs(np.log(found) - wanted).max() <= 8 * 1500 * EPS[F64]
    assert (found > 0).all()
    with pytest.raises(RangeError, match="^times, start, target: "):
        ln.modes.gradient_mode(1e300, start, 1e300, 2)
    up, down = (ln.modes.mode_time(s, a, b, 2) for s, a, b in ((1e20, start, target), (1e-150, 1e30, 1e-160)))
    assert float(up) == pytest.approx((np.log(1e20) - np.log(start)) / (2 * target), rel=1e-9)
    # From far above, s falls like 1/(2t).
    assert float(down) == pytest.approx(0.5e150, rel=1e-9)


@pytest.mark.statement("D1", "D2")
def test_one_step_of_modes_that_are_hundreds_of_decades_away() -> None:
    for sign, kind in itertools.product((1.0, -1.0), (float, complex)):
        g = np.array([sign * 1e300, sign * 1e-300], kind)
        # g⁺ = g (1 + η (g − 1)/L)^{−L} → (L/η)^L g^{1−L}, and (1 − η/L)^{−L} g.
        moved = ln.descent.scalar_map(g, 1.0, 2)
        assert moved[0] == pytest.approx(4 * sign * 1e-300, rel=1e-12)
        assert moved[1] == pytest.approx(4 * sign * 1e-300, rel=1e-12)
        assert (ln.descent.scalar_map(g[:1], 1.0, 5) == 0).all()
        factor = ln.descent.first_step_factor(g, 1.0, 2)
        assert factor[0] == pytest.approx(0.25 * sign * 1e300, rel=1e-12)
        assert factor[1] == pytest.approx(0.25 * sign * 1e300, rel=1e-12)
        with pytest.raises(RangeError, match="^g, eta: "):
            ln.descent.first_step_factor(g, 1.0, 3)
    assert ln.descent.scalar_map(-1.0, 1.0, 2) == np.inf
