"""What does one finite step do? Statements D1 and X5."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from linnat._checks import Array, ConditionError
from linnat.claims import _rational as rational
from linnat.claims._conditions import error_left, every, geometry, square
from linnat.claims._core import DECISIVE, Case, Claim, Measure, Measures, bound, relative
from linnat.claims._oracles import residual, whitened
from linnat.claims.ladder import layer
from linnat.claims.natural import cancellation
from linnat.dense.natural import natural_gradient as dense_natural_gradient
from linnat.exact.descent import (
    exact_step,
    natural_step,
    natural_total_step,
    scalar_map,
    spectrum,
)
from linnat.exact.natural import natural_gradient
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task

Step = Callable[[LinearNetwork, Task, float], LinearNetwork]
ETAS = (0.3, 1.0)
DENSE = 60


def check_step(case: Case, candidate: Step = natural_step) -> Measures:
    """D1: the layers after a step multiply out to the formula; exact rationals; eigenvalues follow the scalar map."""
    net, task = case.net, case.task
    g = geometry(net, task)
    condition = g.sides * cancellation(case)
    measures = []
    for eta in ETAS:
        moved = candidate(net, task, eta)
        gap = relative(moved.total, natural_total_step(net, task, eta))
        measures.append(
            Measure(f"product of the layers after a step, η = {eta:g}", gap, bound(case, condition))
        )
        limit = bound(case, condition * sensitivity(net, task))
        if limit <= DECISIVE:
            gap = _spectra(_ratio_values(moved, task), scalar_map(spectrum(net, task), eta, net.depth))
            measures.append(Measure(f"spectrum follows the scalar map, η = {eta:g}", gap, limit))
    if net.n_parameters <= DENSE and candidate is natural_step:
        moved, dense = natural_step(net, task, 0.5), dense_natural_gradient(net, task)
        loop = net.replace_layers([w - 0.5 * u for w, u in zip(net.layers, dense, strict=True)])
        measures.append(Measure("dense step", relative(moved.total, loop.total), bound(case, condition)))
    if candidate is natural_step and not net.has_biases and net.depth <= 4 and rational.affordable(net):
        measures.append(_rational_step(case))
    return measures


def _rational_step(case: Case) -> Measure:
    """Both sides in exact arithmetic: Π_i (W_i + η v_i) and W [I + (η/L)(W⁻¹W* − I)]^L, η = ½."""
    net, task = case.net, case.task
    sides, half = rational.sides(net, task), Fraction(1, 2)
    size = net.widths[0]
    moved = total = rational.identity(size)
    for weight, step in zip(net.weights, rational.staircase(sides), strict=True):
        moved = (rational.exact(weight) + half * step) @ moved
        total = rational.exact(weight) @ total
    # The teacher that the instance holds is W* F; S > 0, so F is invertible.
    factor = rational.exact(task.input_factor)
    goal = rational.exact(task.plain.target) @ rational.inverse(factor)
    one = rational.identity(size)
    factor = one + (half / net.depth) * (rational.inverse(total) @ goal - one)
    for _ in range(net.depth):
        total = total @ factor
    return Measure(
        "exact rational arithmetic, difference",
        float(sum(abs(d) for d in (moved - total).ravel())),
        1e-300,
        "stated",
    )


def _ratio_values(net: LinearNetwork, task: Task) -> Array:
    """Eigenvalues of W⁻¹W* from the multiplied-out maps."""
    whole = net.maps[0]
    for matrix in net.maps[1:]:
        whole = matrix @ whole
    goal = np.eye(len(whole))
    goal[: task.n_outputs] = task.goal(net.has_biases)
    return np.asarray(np.linalg.eigvals(np.linalg.solve(whole, goal)))


def _spectra(first: Array, second: Array) -> float:
    """Compare two spectra through their power sums, which do not need an order."""
    size = float(np.abs(second).max())
    powers = np.arange(1, len(first) + 1)
    sums = [((values[:, None] / size) ** powers).sum(axis=0) for values in (first, second)]
    return float(np.abs(sums[0] - sums[1]).max() / len(first))


def sensitivity(net: LinearNetwork, task: Task) -> float:
    """How far the ratio after a step may be from singular: the condition of the step's bracket, to the power L."""
    values = spectrum(net, task)
    brackets = np.abs(1 + np.multiply.outer(ETAS, values - 1) / net.depth)
    return float((brackets.max() / brackets.min()) ** net.depth) if brackets.min() > 0 else np.inf


def check_exact_step(case: Case, candidate: Step = exact_step) -> Measures:
    """X5: the layers after the step multiply out to W + ηE; it refuses where the bracket meets the negative axis."""
    net, task = case.net, case.task
    values, error = spectrum(net, task), residual(net, task)
    condition = geometry(net, task).sides * cancellation(case)
    measures = []
    refused = 0
    for eta in (0.2, 1.0):
        ends = 1 + eta * (values - 1)
        if blocked(values, eta):
            refused += _accepts(candidate, net, task, eta)
            continue
        spread = float(np.abs(ends).max() / np.abs(ends).min()) if np.abs(ends).min() > 0 else np.inf
        limit = bound(case, condition * spread)
        if limit > DECISIVE:
            measures.append(Measure(f"W⁺ = W + ηE, η = {eta:g} (not computed)", 0.0, limit))
            continue
        moved = candidate(net, task, eta)
        change = whitened(net, task, moved.layers) - whitened(net, task, net.layers)
        measures.append(Measure(f"W⁺ = W + ηE, η = {eta:g}", relative(change, eta * error), limit))
    if not measures or refused:
        measures.append(Measure("steps taken where no principal root exists", float(refused), 0.5, "stated"))
    return measures


def blocked(values: Array, eta: float) -> bool:
    """Say whether I + η (W⁻¹W* − I) has an eigenvalue on (−∞, 0]."""
    ends = 1 + eta * (values - 1)
    return bool(((np.abs(ends.imag) <= 1e-12 * np.abs(ends)) & (ends.real <= 0)).any())


def _accepts(candidate: Step, net: LinearNetwork, task: Task, eta: float) -> int:
    if net.depth == 1:
        return 0
    try:
        candidate(net, task, eta)
    except ConditionError:
        return 0
    return 1


def square_pair(rng: np.random.Generator) -> Case:
    """Draw two square layers and a teacher with real positive ratios."""
    net = LinearNetwork([layer(3, 3, 3.0, rng), 2.0 * layer(3, 3, 3.0, rng)])
    turn = layer(3, 3, 2.0, rng)
    ratio = np.diag([1.6, 2.0, 0.7])
    return Case(net, Task(net.total @ np.linalg.solve(turn.T, (turn @ ratio).T).T), rng)


def _shortest_step(net: LinearNetwork, task: Task, eta: float) -> LinearNetwork:
    direction = natural_gradient(net, task, "minimum-norm")
    return net.replace_layers([w - eta * u for w, u in zip(net.layers, direction, strict=True)])


def _broken_step(rng: np.random.Generator) -> Measures:
    return check_step(square_pair(rng), _shortest_step)


def _broken_exact(rng: np.random.Generator) -> Measures:
    return check_exact_step(square_pair(rng), natural_step)


CLAIMS = (
    Claim(
        "D1",
        "Exact discrete map",
        "a step multiplies the total weight by a power of a polynomial in W⁻¹W*; eigenvalues move on their own",
        r"W^+ = W[I + \tfrac\eta L(W^{-1}W^* - I)]^L,\quad g \mapsto g(1+\eta(g-1)/L)^{-L}",
        "new",
        "square invertible layers, S > 0, layerwise gauge",
        "descent.natural_step",
        "layers moved and multiplied out, also in exact rationals and by dense solves",
        "κ(B̃)κ(Ã) × cancellation in E, p = 1; spectrum: × condition of the step's bracket",
        check_step,
        every(error_left, square),
        _broken_step,
        "a step in the minimum-norm gauge",
    ),
    Claim(
        "X5",
        "Exact finite step",
        "a step by principal roots moves the total weight by ηE exactly; η = 1 arrives",
        r"W_i^+ = A_{i+1}[I + \eta(W^{-1}W^*-I)]^{1/L}A_i^{-1} \Rightarrow W^+ = W + \eta E",
        "new",
        "square invertible layers, S > 0; no eigenvalue of the bracket on (−∞, 0]",
        "descent.exact_step",
        "layers after the step multiplied out",
        "κ(B̃)κ(Ã) × condition of the bracket × cancellation in E, p = 1",
        check_exact_step,
        every(error_left, square),
        _broken_exact,
        "the first-order step, which overshoots",
    ),
)
