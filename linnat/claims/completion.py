"""Which entries does a natural gradient move, if it sees some of them only? Statement C9."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from linnat._checks import Array
from linnat.claims._core import Case, Claim, Measure, Measures, bound, relative
from linnat.claims._oracles import push
from linnat.claims._paths import RTOL
from linnat.claims.ladder import layer
from linnat.dense.completion import completion_flow, completion_gradient, observed_jacobian, shrinking_flow
from linnat.dense.flow import total_along
from linnat.dense.jacobian import total_jacobian
from linnat.exact.completion import natural_step
from linnat.exact.network import Direction, LinearNetwork
from linnat.exact.task import Task

Frozen = Callable[[LinearNetwork, Array, Array, str], Direction]
SHARE = 0.6
MAX_PARAMETERS = 100
SMALL = 16  # parameters of a network whose dense flow is integrated
MAX_CONDITION = 3e3
EPSILON = 0.4  # W(0)/W* on the observed entries, of the rescaled flow


def population(net: LinearNetwork, target: Array, observed: Array, gauge: str) -> Direction:
    """The step of which is claimed that it leaves the unobserved entries where they are."""
    return natural_step(net, target, observed, "population", gauge).direction


def check_completion(case: Case, candidate: Frozen = population) -> Measures:
    """Measure steps in every gauge against dense ones, what they move, and the rescaled flow."""
    net, target = case.net, case.task.linear_teacher
    observed = _draw(case.rng, target.shape)
    condition = _condition(net, observed)
    white, measures = Task(target), []
    error = (target - net.total) * observed
    for gauge in ("minimum-norm", "layerwise"):
        moved = push(net, white, [-u for u in candidate(net, target, observed, gauge)])
        gap = relative(moved, error)
        measures.append(
            Measure(f"population, {gauge}: dW against P_Ω E", gap, bound(case, condition, power=2))
        )
    if candidate is not population:
        return measures
    for gauge in ("minimum-norm", "layerwise", "population"):
        step = natural_step(net, target, observed, gauge=gauge).direction
        moved = push(net, white, [-u for u in step])
        gap = relative(moved[observed], error[observed])
        words = f"observed entries, {gauge}: dW_Ω against E_Ω"
        measures.append(Measure(words, gap, bound(case, condition)))
        wanted = np.concatenate([u.ravel() for u in completion_gradient(net, target, observed, gauge=gauge)])
        gap = relative(np.concatenate([u.ravel() for u in step]), wanted)
        measures.append(Measure(f"  the step, {gauge}, by definition", gap, bound(case, condition, power=2)))
    if net.n_parameters <= SMALL and net.depth > 1 and np.any(net.total[observed]):
        measures += _rescaled(case, observed, condition)
    return measures


def _rescaled(case: Case, observed: Array, condition: float) -> Measures:
    """Follow the dense minimum-norm flow from W(0) = εW* on Ω, and the descent of ‖φ‖² for the time log(1/ε)."""
    net, times = case.net, np.array([0.5, 2.0])
    start = net.total
    target = start / EPSILON
    layers = completion_flow(net, target, observed, times, rtol=RTOL, atol=RTOL * 1e-2)
    share = 1 - (1 - EPSILON) * np.exp(-times)
    totals = total_along(net, layers)
    limit = 100 * RTOL * sum(net.widths) * condition**2
    line = share[:, None] * target[observed]
    measures = [Measure("observed entries along the dense flow", relative(totals[:, observed], line), limit)]
    resting = shrinking_flow(net, observed, np.log(share / EPSILON), rtol=RTOL, atol=RTOL * 1e-2)
    scale = EPSILON ** (-1 / net.depth)
    # The descent is homogeneous of degree one: φ(0) = ε^{−1/L}θ(0) needs a factor only.
    powers = share[:, None, None] ** (-1 / net.depth)
    gap = max(relative(a * powers, b * scale) for a, b in zip(layers, resting, strict=True))
    return [*measures, Measure("rescaled layers against the descent of their norm", gap, limit)]


def _draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw which entries are observed: a fixed share, at least one, and not all where there are two or more."""
    size = int(np.prod(shape))
    count = min(max(1, round(SHARE * size)), max(1, size - 1))
    mask = np.zeros(size, bool)
    mask[rng.permutation(size)[:count]] = True
    return mask.reshape(shape)


def _condition(net: LinearNetwork, observed: Array) -> float:
    """Return the largest condition number of J_Ω and of its blocks, on their ranges."""
    every = observed_jacobian(net, observed)
    ends = np.cumsum([w.size for w in net.weights])[:-1]
    return max(_of_range(part) for part in (every, *np.split(every, ends, axis=1)))


def _of_range(matrix: Array) -> float:
    values = np.linalg.svd(matrix, compute_uv=False)
    kept = values[values > 1e-11 * values[0]]
    return float(kept[0] / kept[-1]) if kept.size else 1.0


def _applies(net: LinearNetwork, task: Task) -> str | None:
    if net.has_biases:
        return "is about factorisations without biases"
    if net.n_parameters > MAX_PARAMETERS:
        return f"needs at most {MAX_PARAMETERS} parameters for the dense oracle"
    jacobian = total_jacobian(net)
    values = np.linalg.svd(jacobian, compute_uv=False)
    if len(values) < len(jacobian) or values[-1] <= 1e-11 * values[0]:
        return "needs (J)"
    condition = max(
        _of_range(p) for p in np.split(jacobian, np.cumsum([w.size for w in net.weights])[:-1], axis=1)
    )
    if max(condition, float(values[0] / values[-1])) > MAX_CONDITION:
        return f"needs layers of condition below {MAX_CONDITION:g}: J_ΩJ_Ωᵀ squares it"
    return None


def _observed_only(net: LinearNetwork, target: Array, observed: Array, gauge: str) -> Direction:
    return natural_step(net, target, observed, "observed", gauge).direction


def _broken(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(m, n, 4.0, rng) for n, m in itertools.pairwise((3, 4, 3))])
    return check_completion(Case(net, Task(rng.standard_normal((3, 3))), rng), _observed_only)


CLAIMS = (
    Claim(
        "C9",
        "Matrix completion: the gauge decides",
        "the population's natural gradient never moves unobserved entries; that of the observed ones moves them as the "
        "gauge says, and in the minimum-norm gauge descends the norm of the rescaled layers",
        r"(I-P_\Omega)Jv = 0;\quad J_\Omega v = e_\Omega;\quad "
        r"\varphi = \rho^{-1/L}\theta:\ d\varphi/d\log\rho = -\tfrac1L(I-J_\Omega^+J_\Omega)\varphi",
        "Kerekes, Mészáros and Huszár 2021 for the first; the rest new",
        "no biases; (J) for the population's metric, J_Ω onto for the observed entries'",
        "completion.natural_step",
        "J_Ω by unit perturbations, the shortest solutions in the null space; flows by DOP853",
        "step: p = 2, J_ΩJ_Ωᵀ squares κ(J_Ω); its image: p = 1; flows: tolerance of the integrator × κ²",
        check_completion,
        _applies,
        _broken,
        "the metric of the observed entries in place of the population's",
    ),
)
