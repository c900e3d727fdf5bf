"""Where does the natural flow go on separable data? Statement C8."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from linnat._checks import Array
from linnat.claims._core import CONSTANT, Case, Claim, Measure, Measures
from linnat.claims._separable import (
    INTEGRATOR,
    Separable,
    integrated_path,
    log_weights,
    many_classes,
    tilted_path,
    two_classes,
)
from linnat.exact.network import LinearNetwork
from linnat.exact.separable import (
    LimitProgram,
    categorical_limit,
    equal_margin_limit,
    limit_program,
    maximum_margin,
    predictor_expansion,
    support_cone,
)
from linnat.exact.task import Task

SHAPES = ((4, 6), (5, 5), (12, 3), (25, 2), (30, 5), (40, 4))
CLASSES = ((12, 3, 3), (10, 2, 4))
FAR = 1e6
EPS = float(np.finfo(np.float64).eps)

Candidate = Callable[[Separable], Array]


def _claimed(problem: Separable) -> Array:
    return _program(problem).direction.ravel()


def _program(problem: Separable) -> LimitProgram:
    if problem.initial.ndim == 1:
        return limit_program(problem.x, problem.labels, problem.initial)
    return categorical_limit(problem.x, problem.labels, problem.initial, problem.initial.shape[1])


def check_limit(
    case: Case, candidate: Candidate = _claimed, problems: Sequence[Separable] | None = None
) -> Measures:
    """Compare with the tilted loss minimised at times up to 1e6 and with integrated flows; certify both programs."""
    if problems is None:
        problems = [two_classes(case.rng, *shape) for shape in SHAPES]
        problems += [many_classes(case.rng, *shape) for shape in CLASSES]
    measures = [_far(problem, candidate) for problem in problems]
    if candidate is _claimed:
        for problem in problems:
            measures += _along(problem)
        for problem in problems[: len(SHAPES)]:
            measures += [*_first_term(problem), *_margins(problem)]
        measures.append(_integrated(problems[2]))
        measures += _independent(problems[0])
    return [max((m for m in measures if m.quantity == q), key=lambda m: m.ratio)
            for q in dict.fromkeys(m.quantity for m in measures)]  # fmt: skip


def _rounding(problem: Separable, program: LimitProgram) -> float:
    """Return constant × eps × size × condition: of the data, of the active constraints and of log q*."""
    values = np.linalg.svd(problem.rows.reshape(-1, problem.rows.shape[-1]), compute_uv=False)
    condition = float(values[0] / values[values > 1e-10 * values[0]][-1]) * program.condition
    return float(CONSTANT * EPS * problem.rows.size * condition)


def _settled(program: LimitProgram) -> float:
    """Return the unit of time in which exponentially small terms fall by 1/e."""
    return float(1 / min(1.0, program.smallest_slack))


def _far(problem: Separable, candidate: Candidate) -> Measure:
    program = _program(problem)
    w = tilted_path(problem.rows, problem.initial.ravel(), np.array([FAR]))[0]
    wrong = w - FAR * candidate(problem) - program.offset.ravel()
    size = FAR * float(np.linalg.norm(program.direction))
    error = float(np.linalg.norm(wrong)) / size
    return Measure("w = t u* + offset at t = 1e6, relative", error, _rounding(problem, program))


def _along(problem: Separable) -> Measures:
    """Follow the tilted minimum: the proved rate, dual feasibility, the value of the program."""
    program = _program(problem)
    slack, dual = (part[np.isfinite(program.slack)] for part in (program.slack, program.dual))
    flat = problem.rows.reshape(-1, problem.rows.shape[-1])
    weights = np.exp(log_weights(problem.rows, problem.initial.ravel(), 0.0))
    downhill, count = flat.T @ weights.ravel(), len(problem.rows)
    times = program.bound_from + np.array([0.0, 1.0, 8.0, 40.0]) * _settled(program)
    rate, gap = 0.0, 0.0
    for time, w in zip(times, tilted_path(problem.rows, problem.initial.ravel(), times), strict=True):
        rate = max(rate, float(np.linalg.norm(w - time * program.direction.ravel())) / program.bound)
        q = np.exp(log_weights(problem.rows, w, time)).ravel()
        # V − Σq = Σ q s at every time.
        gap = max(gap, abs(program.value - float(q @ (1 + slack)) / count) / program.value / (1 + time))
    kkt = float(np.linalg.norm(flat.T @ dual - downhill) / np.linalg.norm(downhill))
    feasible = max(0.0, -float((flat @ program.direction.ravel() - 1).min()), -float(dual.min()))
    bound = _rounding(problem, program)
    return [
        Measure("‖w/t − u*‖ over the proved bound/t, t from log 2V", rate, 1.0, "stated"),
        Measure("value − (1/N) Σ q(1 + slack) along the path", gap, bound),
        Measure("q* against the dual's equality, u* against the constraints", max(kkt, feasible), bound),
    ]


def _first_term(problem: Separable) -> Measures:
    """Hold what the line leaves to its leading term, where that is small but above rounding."""
    program = _program(problem)
    times = np.array([10.0, 14.0]) * _settled(program)
    found = tilted_path(problem.rows, problem.initial, times)
    line, corrected = (
        predictor_expansion(times, problem.x, problem.labels, problem.initial, corrected)
        for corrected in (False, True)
    )
    leading = np.linalg.norm(corrected - line, axis=1)
    noise = _rounding(problem, program) * (1 + times) * np.linalg.norm(program.direction)
    small = leading < 0.03 * np.linalg.norm(program.offset) * program.smallest_dual
    rest = np.linalg.norm(found - corrected, axis=1) / (leading + noise)
    return [
        Measure(
            "rest beyond the leading exponential over it", float(rest[small].max(initial=0.0)), 0.5, "stated"
        )
    ]


def _integrated(problem: Separable) -> Measure:
    program, times = _program(problem), np.array([20.0, 60.0, 100.0])
    found = integrated_path(problem.rows, problem.initial, times)[0]
    line, corrected = (
        predictor_expansion(times, problem.x, problem.labels, problem.initial, corrected)
        for corrected in (False, True)
    )
    allowed = 2 * np.linalg.norm(corrected - line, axis=1)
    gaps = np.maximum(np.linalg.norm(found - line, axis=1) - allowed, 0.0) / np.linalg.norm(line, axis=1)
    condition = _rounding(problem, program) / (CONSTANT * EPS)
    tolerance = CONSTANT * INTEGRATOR * condition / program.smallest_dual
    return Measure("flow integrated in q = e^t p, t ≤ 100", float(gaps.max()), tolerance, "stated")


def _margins(problem: Separable) -> Measures:
    """Certify û by its multipliers; the limits agree if and only if G_0 is in the cone."""
    best, program = maximum_margin(problem.x, problem.labels), _program(problem)
    rows = problem.rows[:, 0]
    scale = float(np.linalg.norm(best.direction))
    stationary = float(np.linalg.norm(rows.T @ best.dual - best.direction)) / scale
    gap = abs(float(best.dual.sum()) / scale**2 - 1)
    infeasible = max(0.0, 1 - float((rows @ best.direction).min()), -float(best.dual.min()))
    apart = float(np.linalg.norm(best.direction - program.direction)) / scale > 1e-7
    inside = support_cone(problem.x, problem.labels, problem.initial).inside
    return [
        Measure("maximum margin: stationarity, gap, constraints", max(stationary, gap, infeasible),
                _rounding(problem, program)),
        Measure("equal limits without G_0 in the cone, or reverse", float(apart == inside), 0.5, "stated"),
    ]  # fmt: skip


def _independent(problem: Separable) -> Measures:
    program = _program(problem)
    closed = equal_margin_limit(problem.x, problem.labels, problem.initial)
    parts = ((closed.direction, program.direction), (closed.offset, program.offset))
    error = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in parts)
    start = problem.rows[:, 0] @ problem.initial
    times = np.array([3.0, 30.0])
    margins = tilted_path(problem.rows, problem.initial, times) @ problem.rows[:, 0].T
    exact = times[:, None] + closed.margin_offset + np.log1p(-np.exp(-times)[:, None] / (1 + np.exp(start)))
    gap = float(np.abs(margins - exact).max() / times.max())
    return [
        Measure(
            "N ≤ d: A⁺1 and margins t + log(1 + e^{m(0)}) + …", max(error, gap), _rounding(problem, program)
        )
    ]


def _widest(problem: Separable) -> Array:
    return maximum_margin(problem.x, problem.labels).direction


def _broken(rng: np.random.Generator) -> Measures:
    drawn = (two_classes(rng, *SHAPES[2]) for _ in range(200))
    apart = next(p for p in drawn if support_cone(p.x, p.labels, p.initial).residual > 0.01)
    return check_limit(Case(LinearNetwork([np.eye(1)]), Task(np.eye(1)), rng), _widest, [apart])


def _not_data(net: LinearNetwork, task: Task) -> str:
    return "is about separable data, not about one network"


CLAIMS = (
    Claim(
        "C8",
        "The limit on separable data",
        "natural flow goes to the solution of a linear program that depends on the start, not to the maximum margin",
        r"w/t \to u^* = \arg\min \langle G_0, u\rangle\ \text{s.t.}\ a_n\cdot u \ge 1,\quad "
        r"w = t u^* - A_I^{-1}\log q^*_I + O(e^{-t\min(1, s)}),\quad e^t\ell \to \langle G_0, u^*\rangle",
        "Kerekes et al. 2021 (setting); new",
        "strictly separable data, row-space part of w; û = u* ⇔ G_0 in the cone of the support vectors if u* is unique",
        "separable.limit_program",
        "tilted loss minimised in log-space to t = 1e6; flow integrated in q = e^t p; multipliers as certificates",
        "p = 1 in κ(data) κ(active constraints)",
        check_limit,
        _not_data,
        _broken,
        "the maximum-margin direction in place of u*",
        about_networks=False,
    ),
)
