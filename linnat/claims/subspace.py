"""Do subspace methods take the step that they promise? Statement O5, on random multilayer networks."""

from __future__ import annotations

import numpy as np

from linnat._checks import Array
from linnat.claims._core import Case, Claim, Measure, Measures, relative
from linnat.claims._multilayer import always, gradients, instance, nowhere
from linnat.dense import multilayer
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers import Batch, NaturalConjugateGradient, TruncatedNewton

DAMPING = 0.3
SOLVER = 1e-5  # conjugate gradients stop at a relative progress of 1e-12 of their model


def check_subspace(case: Case, unlabelled: bool = True) -> Measures:
    """Measure solutions with the metric of other rows, dense by definition; steps in the plane and what they leave."""
    net, theta, x, y = instance("bernoulli", case.rng)
    y = 0.25 + 0.5 * y  # means, not labels: labels that a plane separates have their minimum at infinity
    other = case.rng.standard_normal((9, 2)) + 0.5
    metric = other if unlabelled else x
    slope = _gradient(net, theta, x, y)
    dense = multilayer.fisher(theta, net.widths, net.activations, "bernoulli", other)
    exact = np.linalg.solve(dense + DAMPING * np.eye(len(theta)), slope)
    newton = TruncatedNewton(iterations=400, tolerance=1e-12, damping=DAMPING, adapt=False)
    state, _ = newton.step(newton.init(net, theta), Batch(x, y, metric), case.rng)
    words = "truncated Newton, metric of unlabelled rows"
    measures = [Measure(words, relative(-state.solution, exact), SOLVER, "stated")]
    method = NaturalConjugateGradient(DAMPING, 400, 200)
    plane_state = method.init(net, theta)
    for k in range(2):
        before, last = plane_state.theta.copy(), plane_state.last.copy()
        plane_state, _ = method.step(plane_state, Batch(x, y, metric), case.rng)
        step = plane_state.theta - before
        dense = multilayer.fisher(before, net.widths, net.activations, "bernoulli", other)
        start = _gradient(net, before, x, y)
        natural = np.linalg.solve(dense + DAMPING * np.eye(len(theta)), start)
        plane = np.linalg.qr(np.column_stack([natural, last] if k else [natural]))[0]
        outside = float(np.linalg.norm(step - plane @ (plane.T @ step)) / np.linalg.norm(step))
        measures.append(Measure(f"step {k + 1} outside of its plane", outside, 2e-3, "stated"))
        slope = _gradient(net, plane_state.theta, x, y)
        left = float(np.linalg.norm(plane.T @ slope) / np.linalg.norm(start))
        measures.append(Measure(f"slope left in the plane, step {k + 1}", left, 2e-3, "stated"))
    return measures


def _gradient(net: Network, theta: Array, x: Array, y: Array) -> Array:
    return np.asarray(gradients(net, theta, x, y).mean(axis=0))


def _broken(rng: np.random.Generator) -> Measures:
    return check_subspace(nowhere(rng), unlabelled=False)


CLAIMS = (
    Claim(
        "O5",
        "Metric without targets, search in a plane",
        "the metric needs no targets; natural conjugate gradients search the plane of direction and last step",
        r"(F_{x'} + \lambda I)\,u = \nabla\ell_{x,y},\quad "
        r"\theta^+ = \theta + \arg\min_{s \in \mathrm{span}(u, d)} \ell(\theta + s)",
        "Pascanu and Bengio (2014)",
        "solved and searched to the end; truncated solutions lie elsewhere",
        "nonlinear.optimisers.NaturalConjugateGradient",
        "dense Fisher matrix over all targets, gradients by complex steps",
        "what the iterations stop at: 1e-5 for the solution, 2e-3 for planes and slopes",
        check_subspace,
        always,
        _broken,
        "the metric of the labelled rows in place of the others'",
        about_networks=False,
    ),
)
