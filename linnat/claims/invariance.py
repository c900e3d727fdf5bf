"""How far is natural gradient from being independent of the parametrisation? Statement C10."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from linnat._checks import Array
from linnat.claims._conditions import geometry
from linnat.claims._core import Case, Claim, Measure, Measures, bound, relative
from linnat.claims._oracles import jacobian, least_squares, push, residual, stack
from linnat.claims.ladder import layer, task_for
from linnat.dense.fisher import gradient as dense_gradient
from linnat.dense.jacobian import output_jacobian, outputs, parameters, total, total_jacobian
from linnat.exact.invariance import (
    change_coordinates,
    coordinate_deviation,
    damping_deviation,
    depth_deviation,
    minibatch_deviation,
    second_order,
)
from linnat.exact.natural import natural_gradient
from linnat.exact.network import Direction, LinearNetwork
from linnat.exact.task import Task

Velocity = Callable[[LinearNetwork, Task], Direction]
MAX_PARAMETERS = 150
MAX_CONDITION = 1e4
STEPS = (1e-2, 5e-3)
DRAWS = 20_000


def shortest(net: LinearNetwork, task: Task) -> Direction:
    """The velocity of which is claimed that it moves the function alike in all parametrisations."""
    return natural_gradient(net, task, "minimum-norm")


def check_invariance(case: Case, candidate: Velocity = shortest) -> Measures:
    """Measure velocities in other parametrisations; orders and coefficients of what finite steps and damping break."""
    net, task, rng = case.net, case.task, case.rng
    wanted = push(net, task, candidate(net, task))
    others = [change_coordinates(net, [layer(n, n, 3.0, rng) for n in net.widths[1:-1]])]
    turn = layer(net.widths[-1], net.widths[-1], 3.0, rng)
    others.append(LinearNetwork([*net.weights[:-1], np.linalg.solve(turn, net.weights[-1]), turn]))
    others.append(LinearNetwork([net.total]))
    # The error is a difference of total weights: near the optimum their rounding is all that is left of it.
    error = float(np.linalg.norm(residual(net, task)))
    size = (
        float(np.linalg.norm(stack(residual(net.replace_layers([0 * w for w in net.layers]), task)))) + error
    )
    condition = 10.0 * geometry(net, task).sides * (size / error if error > 0 else np.inf)
    words = ("other hidden coordinates", "one layer more", "one layer")
    measures = [
        Measure(
            f"dW in the flow, {word}",
            relative(push(o, task, candidate(o, task)), wanted),
            bound(case, condition),
        )
        for word, o in zip(words, others, strict=True)
    ]
    if candidate is not shortest or bound(case, condition) > 1e-3:
        return measures  # near the optimum no coefficient of the error has digits
    measures.append(Measure("dW in the flow, θ = sinh ξ", _stretched(case, wanted), bound(case, condition)))
    measures += [*_finite(case), *_damped(case)]
    if net.widths == (2,) * (net.depth + 1) and net.depth > 1:
        measures += [*_minibatches(case), *_empirical(case)]
    return measures


def _stretched(case: Case, wanted: Array) -> float:
    """Return the error of dW for θ = sinh ξ: the shortest step in ξ by a singular value decomposition."""
    slopes = np.sqrt(1 + parameters(case.net) ** 2)  # h'(ξ) = cosh ξ
    root = jacobian(case.net, case.task) * slopes
    found = least_squares(root, stack(residual(case.net, case.task))).image
    return relative(-found, stack(wanted))


def _finite(case: Case) -> Measures:
    """Take steps by the layerwise and the shortest direction, and by the layerwise one of θ = sinh ξ."""
    net, task = case.net, case.task
    own, least = natural_gradient(net, task), natural_gradient(net, task, "minimum-norm")
    bends = [w / (1 + w**2) for w in net.weights]
    claimed = [second_order(net, own), second_order(net, least)]
    claimed.append(claimed[0] + coordinate_deviation(net, own, bends))
    length = max(float(np.abs(u).max()) for u in (*own, *least)) or 1.0
    found = []
    for step in STEPS:
        eta = step / length
        ends = [[w - eta * u for w, u in zip(net.weights, d, strict=True)] for d in (own, least)]
        pairs = zip(net.weights, own, strict=True)
        ends.append([np.sinh(np.arcsinh(w) - eta * u / np.sqrt(1 + w**2)) for w, u in pairs])
        found.append([total(LinearNetwork(end)) / eta**2 for end in ends])
    measures = []
    for k, words in ((1, "two gauges"), (2, "θ and ξ")):
        goal = claimed[k] - claimed[0]
        gaps = [f[k] - f[0] for f in found]
        scale = max(float(np.linalg.norm(goal)), 1e-3 * float(np.linalg.norm(claimed[0])))
        if scale <= 1e-6 * length**2:
            continue  # gauges that agree: balanced and aligned, or one layer
        # One Richardson step leaves the next order but one.
        coefficient = 2 * gaps[1] - gaps[0]
        measures.append(
            Measure(
                f"one step, {words}: coefficient of η²", relative(coefficient, goal, scale), 0.05, "stated"
            )
        )
    if net.depth > 1 and net.widths == (net.widths[0],) * (net.depth + 1):
        goal = depth_deviation(net.total, task.linear_teacher, net.depth)
        # Square layers: (L−1)/(2L) EW⁻¹E is what the sum over pairs of layers gives.
        singular = np.linalg.svd(net.total, compute_uv=False)
        spread = float(singular[0] / singular[-1]) if singular[-1] > 0 else np.inf
        power = bound(case, max(geometry(net, task).sides, spread), power=2)
        measures.append(Measure("one step, depths L and 1: EW⁻¹E", relative(claimed[0], goal), power))
    return measures


def _damped(case: Case) -> Measures:
    """Measure the order in λ and its coefficient by the singular values of the dense Jacobian."""
    net, task = case.net, case.task
    left, values, _ = np.linalg.svd(jacobian(net, task), full_matrices=False)
    error = left.T @ stack(residual(net, task))
    levels = 1e-3 * values[-1] ** 2 * np.array([1.0, 0.5])
    lost = [np.linalg.norm(error * lam / (values**2 + lam)) for lam in levels]
    order = float(np.log2(lost[0] / lost[1]))
    white = Task(task.linear_teacher, task.input_cov, task.noise_cov)
    claimed = stack(_whitened(task, damping_deviation(net, white)))
    coefficient = left @ (error * (1 / (values**2 + levels[1])))
    return [
        Measure("damping: order in λ, less 1", abs(order - 1), 2e-3, "stated"),
        Measure("damping: coefficient of λ", relative(claimed, coefficient), 2e-3, "stated"),
    ]


def _whitened(task: Task, matrix: Array) -> Array:
    return np.asarray(np.linalg.solve(np.linalg.cholesky(task.noise_cov), matrix @ task.input_factor))


def _minibatches(case: Case) -> Measures:
    """Average one step of two layers against one layer over minibatches, at two sizes, in standard errors."""
    net, task, rng = case.net, case.task, case.rng
    weight, measures = net.total, []
    first = net.weights[0]
    second = weight @ np.linalg.solve(first, np.eye(2))
    for batch in (2, 8):
        x = rng.standard_normal((DRAWS, batch, 2)) @ task.input_factor.T
        noise = rng.standard_normal((DRAWS, batch, 2)) @ np.linalg.cholesky(task.noise_cov).T
        r = x @ (task.linear_teacher - weight).T + noise
        moved = np.linalg.solve(task.input_cov, np.swapaxes(x, 1, 2) @ r / batch)
        moved = np.swapaxes(moved, 1, 2)  # R, the same in all parametrisations
        one, two = np.linalg.solve(second, moved) / 2, np.linalg.solve(first.T, np.swapaxes(moved, 1, 2)) / 2
        gaps = (
            (second + np.swapaxes(two, 1, 2)) @ (first + one) - weight - moved
        )  # η = 1: two layers are quadratic
        goal = minibatch_deviation(weight, task, batch, 2)
        spread = gaps.std(axis=0) / np.sqrt(DRAWS)
        off = float(np.abs((gaps.mean(axis=0) - goal) / spread).max())
        measures.append(
            Measure(f"minibatches of {batch}: mean deviation, in standard errors", off, 5.0, "stated")
        )
    return measures


def _empirical(case: Case) -> Measures:
    """Compare shortest empirical steps in two parametrisations, with many samples and with few."""
    net, task, rng = case.net, case.task, case.rng
    other = change_coordinates(net, [layer(n, n, 3.0, rng) for n in net.widths[1:-1]])
    gaps = []
    for count in (8, 3):
        x = rng.standard_normal((count, 2)) @ task.input_factor.T
        y = x @ task.linear_teacher.T + rng.standard_normal((count, 2)) @ np.linalg.cholesky(task.noise_cov).T
        steps = [_empirical_change(o, x, y, task.noise_cov) for o in (net, other)]
        gaps.append((relative(steps[1][0], steps[0][0]), max(s[1] for s in steps)))
    limit = bound(case, gaps[0][1], power=2)
    return [
        Measure("empirical Fisher, 8 samples for 4 entries: dW in other coordinates", gaps[0][0], limit),
        Measure(
            "empirical Fisher, 3 samples: dW is the same (1 if so)", float(gaps[1][0] < 1e-6), 0.5, "stated"
        ),
    ]


def _empirical_change(net: LinearNetwork, x: Array, y: Array, noise: Array) -> tuple[Array, float]:
    """Return J u for the shortest u with (Σ g gᵀ) u = Σ g, by gradients sample by sample, and their condition."""
    weighted = np.linalg.solve(noise, (y - outputs(net, x)).T).T
    gradients = np.einsum("ncp,nc->np", output_jacobian(net, x), weighted)
    rank = min(len(x), 4)
    left, values, right = np.linalg.svd(gradients, full_matrices=False)
    step = right[:rank].T @ (left[:, :rank].T @ np.ones(len(x)) / values[:rank])
    return np.asarray(total_jacobian(net) @ step), float(values[0] / values[rank - 1])


def _applies(net: LinearNetwork, task: Task) -> str | None:
    if net.has_biases:
        return "is written without biases (X10)"
    if net.n_parameters > MAX_PARAMETERS:
        return f"needs at most {MAX_PARAMETERS} parameters for the dense oracle"
    g = geometry(net, task)
    if g.rank < net.widths[0]:
        return "needs S > 0"
    if any(a < net.widths[-1] and b < g.rank for a, b in zip(g.after[:-1], g.before[1:], strict=True)):
        return "needs (J)"
    return None if g.sides <= MAX_CONDITION else f"needs conditions below {MAX_CONDITION:g}"


def _gradient(net: LinearNetwork, task: Task) -> Direction:
    return dense_gradient(net, task)


def _broken(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(4, 3, 4.0, rng), layer(3, 4, 4.0, rng)])
    return check_invariance(Case(net, task_for(net, rng), rng), _gradient)


CLAIMS = (
    Claim(
        "C10",
        "Invariance, and where it is lost",
        "the flow of the population metric is the same in all parametrisations; steps part them by η², damping by λ, "
        "minibatches by η²/b in the mean; the empirical Fisher only with fewer than n_L n_0 samples",
        r"J_\xi w = Jv;\quad W^+_L - W^+_M = \tfrac{\eta^2}2(\tfrac1M-\tfrac1L)EW^{-1}E + O(\eta^3);\quad "
        r"dW = E - \lambda(JJ^\top)^{-1}E + O(\lambda^2)",
        "Kerekes, Mészáros and Huszár 2021 for the flow; orders and coefficients new",
        "(J), S > 0, no biases; square layers for the coefficients in depth",
        "invariance.second_order",
        "steps multiplied out, singular values of the dense Jacobian, averages over minibatches, gradients by sample",
        "flow: p = 1 in κ(B̃)κ(Ã); coefficients: the next order as stated; means: 5 standard errors",
        check_invariance,
        _applies,
        _broken,
        "the gradient in place of the natural gradient",
    ),
)
