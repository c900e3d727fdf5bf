"""Is natural gradient flow Newton flow of the function, for every exponential family and any depth? Statement C7."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeAlias

import numpy as np

from linnat._checks import Array
from linnat.claims._conditions import at_most, determined, every, geometry, onto
from linnat.claims._core import CONSTANT, Case, Claim, Measure, Measures, bound, relative
from linnat.claims.ladder import layer, task_for
from linnat.dense import exponential as by_definition
from linnat.dense.jacobian import parameters, total_jacobian
from linnat.exact.geodesics import margins, predictor
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from linnat.families import Family, Gaussian, as_family, one_hot

Velocity: TypeAlias = Callable[[by_definition.Model, Array, Array, Family], Array]

PARAMETERS = 60
MAX_CONDITION = 1e4
RTOL = 1e-8


def check_geodesics(case: Case, velocity: Velocity = by_definition.natural_gradient) -> Measures:
    """C7: at the network, in each family, dG = H dw is the gradient itself; once, integrated, the closed forms."""
    x = _inputs(case)
    measures = [_law(case, x, family, velocity) for family in _families(case)]
    if velocity is by_definition.natural_gradient:
        measures += _integrated()
    return measures


def _families(case: Case) -> Iterator[Family]:
    yield Gaussian(case.task.noise_cov)
    yield as_family("bernoulli")
    yield as_family("poisson")
    if case.net.widths[-1] > 1:
        yield as_family("categorical")


def _inputs(case: Case) -> Array:
    """Draw rows in the range of S, of a scale at which outputs are of order one."""
    factor = case.task.input_factor.astype(np.float64)
    rows: Array = case.rng.standard_normal((case.net.widths[0] + 2, factor.shape[1])) @ factor.T
    outputs = np.abs(rows @ case.net.total[:, : case.net.widths[0]].T.astype(np.float64)).max()
    scaled: Array = rows / max(1.0, float(outputs))
    return scaled


def _law(case: Case, x: Array, family: Family, velocity: Velocity) -> Measure:
    """Compare the change of the gradient in w that a velocity makes, with the gradient."""
    net = case.net
    model, theta = by_definition.network_model(net, x), parameters(net)
    z = model.outputs(theta)
    y = _targets(family, z, case.rng)
    inputs = np.column_stack([x, np.ones(len(x))]) if net.has_biases else x
    moved = (total_jacobian(net) @ velocity(model, theta, y, family)).reshape(inputs.shape[1], -1)
    change = inputs.T @ np.einsum("nce,ne->nc", family.fisher(z), inputs @ moved)
    gradient = -inputs.T @ family.score(z, y)
    values = np.linalg.svd(by_definition.fisher_root(model, theta, family), compute_uv=False)
    kept = values[values > 1e-8 * values[0]]
    # F⁺ scales the gradient in the right singular vectors of the root, known to eps κ: p = 1.
    most = bound(case, float(kept[0] / kept[-1]))
    return Measure(f"H dw/dt = −G, {family.name}", relative(change, gradient), most)


def _targets(family: Family, z: Array, rng: np.random.Generator) -> Array:
    if family.name == "categorical":
        return one_hot(rng.integers(0, z.shape[1], len(z)), z.shape[1])
    if family.name == "gaussian":
        return np.asarray(z + rng.standard_normal(z.shape))
    return np.asarray(rng.integers(0, 2, z.shape), dtype=np.float64)


@cache
def _integrated() -> Measures:
    """Integrate a network on overlapping data and one on independent samples, by the dense natural gradient."""
    rng = np.random.default_rng(7)
    net = LinearNetwork([rng.standard_normal((3, 2)), rng.standard_normal((1, 3))])
    x, y = rng.standard_normal((5, 2)), np.array([1.0, 0, 0, 1, 0])
    start, end = net.total[0], 0.8
    measures = []
    for rows, labels in ((x, y), (x[:2], y[:2])):
        model = by_definition.network_model(net, rows)
        state = by_definition.natural_flow(
            model, parameters(net), labels[:, None], "bernoulli", end, rtol=RTOL, atol=1e-2 * RTOL
        )
        z = model.outputs(state[0])[:, 0]
        most = CONSTANT * RTOL * sum(net.widths) * float(np.linalg.cond(rows))
        exact = rows @ predictor(end, rows, labels, start)[0]
        measures.append(
            Measure(f"integrated 2-3-1 against the tilted minimum, N = {len(rows)}", relative(exact, z), most)
        )
    signs = 2 * labels - 1
    closed = margins(end, signs * (rows @ start))[0]
    measures.append(Measure("margins of independent samples", relative(closed, signs * z), most))
    return measures


def _conditioned(net: LinearNetwork, task: Task) -> str | None:
    sides = geometry(net, task).sides
    return (
        None
        if sides <= MAX_CONDITION
        else f"needs products of condition up to {MAX_CONDITION:.0e}, as F is dense"
    )


def _broken(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(1, 3, 1.0, rng), layer(2, 1, 1.0, rng)])
    return check_geodesics(Case(net, task_for(net, rng), rng))


CLAIMS = (
    Claim(
        "C7",
        "Newton flow of the function",
        "canonical links: the gradient in the predictor shrinks like e^{−t} at any depth; means move on straight lines",
        r"X^\top(\mu(t)-y) = e^{-t} X^\top(\mu(0)-y); \quad m(t) = \log((1+e^{m(0)})e^t-1)",
        "one layer: Amari 1998; setting: Kerekes et al. 2021; depth, closed forms new",
        "canonical link, Fisher of the training inputs, (J); margins: independent samples",
        "geodesics.predictor",
        "dense Fisher by enumerating the model's targets; layers moved by DOP853",
        "κ of the root of F, p = 1; flow: tolerance of the integrator × κ(X)",
        check_geodesics,
        every(at_most(PARAMETERS), onto, determined, _conditioned),
        _broken,
        "one hidden unit between three inputs and two outputs",
    ),
)
