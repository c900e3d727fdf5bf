"""Where does natural gradient flow go, how do the layers get there, and when does it end? Statements C1–C4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from linnat._checks import Array
from linnat.claims._conditions import (
    deep,
    error_left,
    every,
    geometry,
    onto,
    regular_start,
    square,
    without_biases,
)
from linnat.claims._core import Case, Claim, Measure, Measures, bound, relative
from linnat.claims._oracles import affordable, minimum_norm, norm, push, residual, sides
from linnat.claims._paths import (
    RTOL,
    crossing,
    horizon,
    integrable,
    natural_path,
    path_bound,
    steady,
    whitened_total,
)
from linnat.claims.ladder import layer, task_for
from linnat.claims.natural import cancellation, growth
from linnat.dense.flow import gradient_flow, integrate
from linnat.exact.flow import (
    balance,
    breakdown_time,
    fisher_length,
    natural_loss,
    natural_total,
    natural_weights,
)
from linnat.exact.loss import gradient
from linnat.exact.natural import natural_gradient
from linnat.exact.network import Direction, LinearNetwork
from linnat.exact.task import Task

Total = Callable[[LinearNetwork, Task, Any, str], Array]
Weights = Callable[[LinearNetwork, Task, Any], tuple[Array, ...]]
GAUGES = ("layerwise", "minimum-norm")


def check_total(case: Case, candidate: Total = natural_total) -> Measures:
    """C1: the velocity of the total weight, and the integrated layers multiplied out, in both gauges."""
    net, task = case.net, case.task
    error = residual(net, task)
    measures = []
    for gauge in GAUGES:
        if gauge == "minimum-norm" and not affordable(net, task):
            continue
        step = natural_gradient(net, task, gauge)
        condition = sum(geometry(net, task).layers) * (growth(case, step) + cancellation(case))
        if gauge == "minimum-norm":
            condition = max(condition, minimum_norm(net, task).condition * cancellation(case))
        gap = relative(push(net, task, step), -error)
        measures.append(Measure(f"dW̃/dt = Ẽ, {gauge}", gap, bound(case, condition)))
        small = net.n_parameters <= 120 if gauge == "minimum-norm" else steady(net, task)
        if small and integrable(net, task):
            measures += _line(case, candidate, gauge)
    return measures


def _line(case: Case, candidate: Total, gauge: str) -> Measures:
    """Compare the integrated layers with the line, loss with e^{−2t}, distance with √(2ℓ₀)(1 − e^{−t})."""
    net, task = case.net, case.task
    end = 1.0 if candidate is not natural_total else horizon(net, task)
    path = natural_path(net, task, gauge, end)
    factor = task.moments(net.has_biases).factor
    claimed = np.linalg.solve(task.noise_factor, candidate(net, task, path.times, gauge) @ factor)
    start, worst = whitened_total(case, net), 0.0
    size = float(np.linalg.norm(residual(net, task)))
    for k in range(len(path.times)):
        reached = whitened_total(case, path.state(k, net))
        worst = max(worst, float(np.linalg.norm(reached - claimed[k])) / size)
    measures = [Measure(f"integrated layers multiply out to the line, {gauge}", worst, path_bound(case))]
    if candidate is natural_total:
        left = 0.5 * float(np.linalg.norm(residual(path.state(-1, net), task))) ** 2
        law = float(natural_loss(net, task, path.times[-1:], gauge)[0])
        covered = float(np.linalg.norm(whitened_total(case, path.state(-1, net)) - start)) / (
            1 - np.exp(-path.times[-1])
        )
        measures.append(Measure(f"excess loss e^{{−2t}}, {gauge}", relative(left, law), path_bound(case)))
        gap = relative(covered, float(fisher_length(net, task)))
        measures.append(Measure(f"Fisher length √(2ℓ₀), {gauge}", gap, path_bound(case)))
    return measures


def check_layers(case: Case, candidate: Weights = natural_weights) -> Measures:
    """C2: closed form against the integrated layers; composition of times; the product is the line."""
    net, task = case.net, case.task
    end = horizon(net, task)
    measures = []
    if integrable(net, task):
        path = natural_path(net, task, "layerwise", end)
        claimed = candidate(net, task, path.times)
        gap = max(relative(a, b) for a, b in zip(claimed, path.layers, strict=True))
        measures.append(Measure("integrated layers", gap, path_bound(case)))
    times = np.array([0.4 * end, end])
    whole = candidate(net, task, times)
    middle = net.replace_layers([w[0] for w in whole])
    rest = candidate(middle, task, times[1:] - times[:1])
    condition = geometry(net, task).sides
    gap = max(relative(a[0], b[1]) for a, b in zip(rest, whole, strict=True))
    measures.append(Measure("composition of times", gap, bound(case, condition)))
    total = whitened_total(case, net.replace_layers([w[1] for w in whole]))
    start, size = whitened_total(case, net), float(np.linalg.norm(residual(net, task)))
    gap = float(np.linalg.norm(total - start + np.expm1(-end) * residual(net, task))) / size if size else 0.0
    measures.append(
        Measure("the layers' product is the line", gap, bound(case, condition * cancellation(case)))
    )
    return measures


def check_breakdown(case: Case, candidate: Callable[[LinearNetwork, Task], Any] = breakdown_time) -> Measures:
    """C3: the time at which an integrator finds the total weight singular; that it finds none where there is none."""
    net, task = case.net, case.task
    time = float(candidate(net, task))
    latest = 2.0 if np.isinf(time) else 1.5 * time
    found = crossing(net, task, latest)
    if np.isinf(time):
        return [
            Measure("no singular W on the way (1 if there is one)", float(np.isfinite(found)), 0.5, "stated")
        ]
    gap = abs(found - time) / time if np.isfinite(found) else np.inf
    # Beside the integrator's tolerance the next order of the polynomial that extrapolates det W over some 1e-2.
    return [Measure("time at which the integrated W is singular", gap, path_bound(case) + 1e-7)]


def check_balance(
    case: Case, candidate: Callable[[LinearNetwork, Task], Direction] | None = None
) -> Measures:
    """C4: W_{i+1}ᵀu_{i+1} = u_i W_iᵀ for directions in range Jᵀ; the balance along integrated flows."""
    net, task = case.net, case.task
    directions: list[tuple[str, Direction]] = []
    if candidate is not None:
        directions.append(("candidate", candidate(net, task)))
    else:
        directions.append(("gradient", gradient(net, task)))
        if affordable(net, task):
            size = max(norm(gradient(net, task)), 1e-300)
            directions.append(("minimum norm", natural_gradient(net, task, "minimum-norm")))
            directions.append(("damped", natural_gradient(net, task, damping=size)))
    measures = []
    for name, step in directions:
        worst = 0.0
        pairs = zip(net.weights[1:], net.layers, step, step[1:], strict=False)
        for above, whole, lower, upper in pairs:
            flux = above.T @ upper[:, : above.shape[1]] - lower @ whole.T
            scale = float(
                np.linalg.norm(above) * np.linalg.norm(upper) + np.linalg.norm(whole) * np.linalg.norm(lower)
            )
            worst = max(worst, float(np.linalg.norm(flux)) / scale if scale else 0.0)
        condition = 1.0 if name == "gradient" else sum(geometry(net, task).layers) * cancellation(case)
        if name == "minimum norm":
            condition = max(condition, minimum_norm(net, task).condition * cancellation(case))
        measures.append(Measure(f"W_{{i+1}}ᵀ u_{{i+1}} = u_i W_iᵀ, {name}", worst, bound(case, condition)))
    # Far from the origin of a steep loss the trial steps of an explicit method overflow.
    steep = max(sides(net, task)) ** 2 > 1e3
    if candidate is None and net.n_parameters <= 60 and integrable(net, task) and not steep:
        measures.append(_conserved(case))
    return measures


def _conserved(case: Case) -> Measure:
    net = case.net
    end = 0.3 / max(norm(gradient(net, case.task)) / (norm(net.layers) or 1.0), 1e-3)
    layers = gradient_flow(net, case.task, [end], rtol=RTOL, atol=RTOL * 1e-3)
    after = balance(net.replace_layers([layer[0] for layer in layers]))
    size = norm(net.layers) ** 2 or 1.0
    gap = max(float(np.linalg.norm(a - b)) / size for a, b in zip(after, balance(net), strict=True))
    return Measure("balance along integrated gradient flow", gap, path_bound(case))


def _tame(net: LinearNetwork, task: Task) -> str | None:
    return None if integrable(net, task) else "needs few parameters and κ(B̃)κ(Ã) ≤ 1e6 for the integrator"


def _straight(net: LinearNetwork, task: Task, times: Any, gauge: str) -> Array:
    path: Array = net.total - np.expm1(-np.asarray(times))[:, None, None] * (task.linear_teacher - net.total)
    return path


def _broken_total(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(2, 4, 2.0, rng), layer(4, 2, 2.0, rng)])
    return check_total(Case(net, task_for(net, rng), rng), _straight)


def _square(rng: np.random.Generator, spread: float) -> Case:
    net = LinearNetwork([layer(3, 3, 3.0, rng) for _ in range(2)])
    ratio = np.diag([-1.5, 1.5, 2.0]) if spread < 0 else np.eye(3) + spread * np.diag([1.0, 0.5, 0.2])
    turn = layer(3, 3, 2.0, rng)
    teacher = net.total @ np.linalg.solve(turn.T, (turn @ ratio).T).T
    return Case(net, Task(teacher), rng)


def _shortest_layers(net: LinearNetwork, task: Task, times: Any) -> tuple[Array, ...]:
    """The layers in the minimum-norm gauge, integrated."""
    return integrate(
        net, lambda state: natural_gradient(state, task, "minimum-norm"), times, rtol=RTOL, atol=RTOL * 1e-3
    )


def _broken_layers(rng: np.random.Generator) -> Measures:
    return check_layers(_square(rng, 0.8), _shortest_layers)


def _reciprocal(net: LinearNetwork, task: Task) -> float:
    values = np.linalg.eigvals(np.linalg.solve(net.total, task.linear_teacher))
    return float(np.log1p(np.abs(values.real).max()))


def _broken_breakdown(rng: np.random.Generator) -> Measures:
    return check_breakdown(_square(rng, -1.0), _reciprocal)


def _broken_balance(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(3, 3, 3.0, rng), 2.0 * layer(3, 3, 3.0, rng)])
    return check_balance(Case(net, task_for(net, rng), rng), natural_gradient)


CLAIMS = (
    Claim(
        "C1",
        "Total weight",
        "where (J) holds the total weight goes straight to the teacher at rate 1, in every gauge and at any depth",
        r"W(t)S^{1/2} = W^*S^{1/2} + e^{-t}(W(0)-W^*)S^{1/2},\quad \ell(t) = e^{-2t}\ell(0)",
        "Bernacchia et al. 2018; rest new",
        "(J) along the path: hidden widths ≥ min(n_L, ρ), generically",
        "flow.natural_total",
        "layers moved by DOP853 in both gauges and multiplied out; velocity by complex steps",
        "tolerance of the integrator × κ(B̃)κ(Ã), p = 1; velocity: Σκ(layer) × growth",
        check_total,
        every(error_left, onto, regular_start),
        _broken_total,
        "the straight line in a 4-2-4 bottleneck",
    ),
    Claim(
        "C2",
        "Layer weights",
        "every layer at time t in closed form, by a principal power of W(0)⁻¹W(t)",
        r"W_i(t) = A_{i+1}(0)\,G(t)^{1/L}A_i(0)^{-1},\quad G(t) = W(0)^{-1}W(t)",
        "new",
        "square invertible layers, S > 0, layerwise gauge, before the flow breaks",
        "flow.natural_weights",
        "layers moved by DOP853; composition of times",
        "tolerance of the integrator × κ(B̃)κ(Ã), p = 1; composition: κ(B̃)κ(Ã), p = 1",
        check_layers,
        every(error_left, square),
        _broken_layers,
        "the flow in the minimum-norm gauge",
    ),
    Claim(
        "C3",
        "When it breaks",
        "the layerwise flow ends at the first real negative eigenvalue of W(0)⁻¹W*, and at no other",
        r"t_s = \min_{\mu<0}\log(1+1/|\mu|),\quad \mu\in\operatorname{spec}(W(0)^{-1}W^*)\cap\mathbb R",
        "new",
        "square invertible layers, S > 0, layerwise gauge, two layers or more",
        "flow.breakdown_time",
        "layers moved by DOP853 until their product is singular",
        "tolerance of the integrator × κ(B̃)κ(Ã), and the fifth order of the extrapolated determinant",
        check_breakdown,
        every(deep, without_biases, error_left, square, _tame),
        _broken_breakdown,
        "log(1 + |μ|) in place of log(1 + 1/|μ|)",
    ),
    Claim(
        "C4",
        "Balance",
        "gradient, minimum-norm and damped flows conserve the balance of layers; the layerwise one does not",
        r"W_{i+1}^\top W_{i+1} - W_iW_i^\top = \text{const}",
        "new",
        "velocity in the range of Jᵀ; two layers or more",
        "flow.balance",
        "W_{i+1}ᵀu_{i+1} = u_iW_iᵀ; layers moved along gradient flow by DOP853",
        "gradient: p = 0; others: κ(J) or Σκ(layer) × cancellation in E, p = 1",
        check_balance,
        deep,
        _broken_balance,
        "the layerwise gauge from unbalanced layers",
    ),
)
