"""How many digits does the natural gradient keep? Statement X9: never multiply, never square."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from linnat.claims import _rational as rational
from linnat.claims._conditions import Condition, determined, every, geometry
from linnat.claims._core import Case, Claim, Measure, Measures, bound
from linnat.claims._oracles import norm
from linnat.claims.ladder import task_for
from linnat.claims.natural import cancellation
from linnat.exact.conditions import error_estimate
from linnat.exact.natural import natural_gradient
from linnat.exact.network import Direction, LinearNetwork
from linnat.exact.task import Task

Solver = Callable[[LinearNetwork, Task], Direction]


def check_digits(case: Case, candidate: Solver = natural_gradient) -> Measures:
    """Compare with the exact rational solution of the same instance; then with the package's estimate."""
    net, task = case.net, case.task
    claimed = candidate(net, task)
    sides = rational.sides(net, task)
    true = [-rational.rounded(v) for v in rational.staircase(sides)]
    size = norm(true)
    gap = norm([a - b for a, b in zip(claimed, true, strict=True)])
    error = gap / size if size else gap
    condition = sum(geometry(net, task).layers) * _growth(case, sides, size)
    estimate = float(error_estimate(net, task).relative)
    return [
        Measure("u against exact rational arithmetic", error, bound(case, condition)),
        Measure("u within its error estimate", error, max(estimate, bound(case, 1.0, size=0.01))),
    ]


def _growth(case: Case, sides: rational.Sides, size: float) -> float:
    """Return ζ = max_i ‖B̃_i⁺‖ ‖Ẽ‖ ‖Ã_i⁺‖ / ‖u‖ times the cancellation in Ẽ, from the exact pseudo-inverses."""
    error = float(np.linalg.norm(rational.rounded(sides.error)))
    pairs = zip(sides.after_inverse, sides.before_inverse, strict=True)
    reach = max(
        float(np.linalg.norm(rational.rounded(b)) * np.linalg.norm(rational.rounded(a))) for b, a in pairs
    )
    return reach * error / size * cancellation(case) if size else 1.0


def _exact_ranks(net: LinearNetwork, task: Task) -> str | None:
    g, sides = geometry(net, task), rational.sides(net, task)
    if list(g.before) == sides.before_ranks and list(g.after) == sides.after_ranks:
        return None
    return "needs layers whose exact ranks are those at working precision"


def _small_enough(net: LinearNetwork, task: Task) -> str | None:
    if net.dtype == np.float64 and rational.affordable(net):
        return None
    return f"needs float64 and widths up to {rational.MAX_WIDTH} for exact rational arithmetic"


APPLICABLE: Condition = every(_small_enough, determined, _exact_ranks)


def products(net: LinearNetwork, task: Task) -> Direction:
    """N1 by the product route: A_i, B_i multiplied out, then pseudo-inverted."""
    factor = task.moments(net.has_biases).factor
    error = np.linalg.solve(task.noise_factor, task.moments(net.has_biases).target - net.total @ factor)
    pairs = zip(net.after, net.before, strict=True)
    sides = [(np.linalg.solve(task.noise_factor, b), a @ factor) for b, a in pairs]
    return tuple(-np.linalg.pinv(b) @ error @ np.linalg.pinv(a) / net.depth for b, a in sides)


def _broken(rng: np.random.Generator) -> Measures:
    net = LinearNetwork.random((6,) * 13, rng=rng)
    return check_digits(Case(net, task_for(net, rng), rng), products)


CLAIMS = (
    Claim(
        "X9",
        "Never multiply",
        "chains of per-layer factors keep all digits but those that single layers and cancellation cost",
        r"\|\delta v\|/\|v\| \lesssim \mathrm{eps}\,\textstyle\sum_i\kappa(W_i)\cdot\zeta,\quad "
        r"\zeta = \max_i\|\tilde B_i^+\|\|\tilde E\|\|\tilde A_i^+\|/\|v\|",
        "new",
        "ranks that are determined at working precision",
        "error_estimate",
        "exact rational arithmetic on the same floating-point numbers",
        "Σκ(layer) × ζ × cancellation in E, p = 1; and the package's own estimate",
        check_digits,
        APPLICABLE,
        _broken,
        "products of twelve Gaussian layers, multiplied out before they are inverted",
    ),
)
