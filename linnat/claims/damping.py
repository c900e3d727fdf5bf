"""What does damping solve? Statement N4."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from linnat.claims._conditions import geometry, small
from linnat.claims._core import Case, Claim, Measure, Measures, bound, relative
from linnat.claims._oracles import jacobian, minimum_norm, norm, pull, push, residual, sides
from linnat.claims.ladder import layer, task_for
from linnat.claims.natural import cancellation
from linnat.dense.natural import natural_gradient as dense_natural_gradient
from linnat.exact.loss import gradient
from linnat.exact.natural import natural_gradient
from linnat.exact.network import Direction, LinearNetwork, flatten
from linnat.exact.task import Task

Damped = Callable[[LinearNetwork, Task, float], Direction]


def _exact(net: LinearNetwork, task: Task, damping: float) -> Direction:
    return natural_gradient(net, task, damping=damping)


def _factored(net: LinearNetwork, task: Task, damping: float) -> Direction:
    return natural_gradient(net, task, damping=damping, damping_kind="factored")


def check_damping(case: Case, candidate: Damped = _exact) -> Measures:
    """Measure the residual for weak and strong damping, the dense solution, and both limits."""
    net, task = case.net, case.task
    top = max(sides(net, task)) ** 2 or 1.0
    slope = gradient(net, task)
    measures = []
    for share in (1e-6, 1e-2, 1.0):
        claimed = candidate(net, task, share * top)
        change = pull(net, task, push(net, task, claimed) + residual(net, task))
        left = norm([c + share * top * u for c, u in zip(change, claimed, strict=True)])
        size = top * norm(claimed) * net.depth + norm(slope)
        gap = left / size if size else left
        measures.append(Measure(f"(F + λI) u = ∇ℓ, λ = {share:g} ‖F‖", gap, bound(case, cancellation(case))))
    if net.n_parameters <= 400:
        claimed, dense = (
            candidate(net, task, 1e-2 * top),
            dense_natural_gradient(net, task, damping=1e-2 * top),
        )
        gap = relative(flatten(claimed), flatten(dense), 1e-8 * norm(net.layers))
        measures.append(
            Measure("dense damped solve", gap, bound(case, 1e2 * net.depth**2 * cancellation(case)))
        )
    measures += _limits(case, candidate, top)
    return measures


def _limits(case: Case, candidate: Damped, top: float) -> Measures:
    """λ → ∞: gradient/λ to first order in ‖F‖/λ; λ → 0: the minimum-norm gauge to first order in λ/λ_min(F)."""
    net, task = case.net, case.task
    slope = flatten(gradient(net, task))
    strong = 1e16 * top
    spread = float(np.linalg.norm(jacobian(net, task), 2)) ** 2 / strong
    size = 1e-8 * float(norm(net.layers))
    gap = relative(strong * flatten(candidate(net, task, strong)), slope, size)
    measures = [Measure("λ → ∞: gradient/λ", gap, spread + bound(case, cancellation(case)))]
    least = minimum_norm(net, task)
    if least.rank and least.condition < 1e4 and not geometry(net, task).undetermined:
        bottom = float(np.linalg.norm(jacobian(net, task), 2) / least.condition) ** 2
        weak = 1e-6 * bottom
        gap = relative(flatten(candidate(net, task, weak)), -least.vector, size)
        rounding = bound(case, least.condition * cancellation(case), power=1)
        measures.append(Measure("λ → 0: minimum norm", gap, weak / bottom + rounding / 1e-6**0.5, "stated"))
    return measures


def _broken(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(4, 3, 3.0, rng), layer(3, 4, 3.0, rng)])
    return check_damping(Case(net, task_for(net, rng), rng), _factored)


CLAIMS = (
    Claim(
        "N4",
        "Damping",
        "the exactly damped solution lies in the range of Jᵀ and runs from the minimum-norm gauge to the gradient",
        r"(F + \lambda I)v = -\nabla\ell:\quad v_i = \tilde B_i^\top\Lambda\tilde A_i^\top,\quad "
        r"\sum_j \tilde B_j\tilde B_j^\top\Lambda\tilde A_j^\top\tilde A_j + \lambda\Lambda = \tilde E",
        "new",
        "λ > 0",
        "natural_gradient",
        "residual of (F + λI) u = ∇ℓ by complex steps; dense solve; both limits",
        "cancellation in E, p = 1; dense: κ(F + λI); limits: first order in ‖F‖/λ and λ/λ_min",
        check_damping,
        small,
        _broken,
        "factored damping (√λ on each factor) called exact",
    ),
)
