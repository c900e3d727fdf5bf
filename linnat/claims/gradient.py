"""Is the gradient the derivative of the loss? Statement G1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from linnat.claims._conditions import always
from linnat.claims._core import Case, Claim, Measure, Measures, bound
from linnat.claims._oracles import along, coordinates, inner, loss_of, norm
from linnat.claims.ladder import layer, task_for
from linnat.exact.loss import gradient
from linnat.exact.network import Direction, LinearNetwork
from linnat.exact.task import Task

Gradient = Callable[[LinearNetwork, Task], Direction]


def check_gradient(case: Case, candidate: Gradient = gradient) -> Measures:
    """Compare slopes along coordinate or random directions with Cauchy integrals of the loss."""
    claimed = candidate(case.net, case.task)
    directions = coordinates(case)
    loss = loss_of(case)
    found, true, noise = [], [], 0.0
    for direction in directions:
        expansion = along(case, direction, loss, 2 * case.net.depth)
        length = norm(direction)
        found.append(inner(claimed, direction) / length)
        true.append(expansion.coefficients[1] / length)
        noise = max(noise, expansion.peak / (expansion.radius * length))
    # A random direction sees an error vector through one of P coordinates.
    share = np.sqrt(case.net.n_parameters / len(directions))
    size = max(norm(claimed), share * float(np.linalg.norm(true)))
    error = share * float(np.linalg.norm(np.subtract(found, true)))
    rows = 1 if case.samples is None else np.sqrt(len(case.samples[0]))
    return [
        Measure(
            "slopes of the loss",
            error / size if size else error,
            bound(case, rows * share * noise / size if size else 1),
        )
    ]


def _without_noise(net: LinearNetwork, task: Task) -> Direction:
    return gradient(net, Task(task.teacher, task.input_cov))


def _broken(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(4, 3, 2.0, rng), layer(3, 4, 2.0, rng)])
    return check_gradient(Case(net, task_for(net, rng), rng), _without_noise)


CLAIMS = (
    Claim(
        "G1",
        "Gradient",
        "the gradient in layer i is minus the back-propagated whitened error times what the input went through",
        r"\partial\ell/\partial W_i = -\tilde B_i^\top \tilde E \tilde A_i^\top",
        "Saxe et al. 2014, Bernacchia et al. 2018",
        "none",
        "gradient",
        "Cauchy integral of the loss (of the data rows) along lines",
        "rounding of the loss on the circle over the size of the gradient, p = 1",
        check_gradient,
        always,
        _broken,
        "the precision Π left out, with correlated noise",
    ),
)
