"""How good is each approximation of the natural gradient, on this network and these data?

Against the exact damped solution v = (F + λ I)⁻¹ g with the dense Fisher matrix (small networks), for each
preconditioner and damping: the cosine of the angle between the two directions, the ratio of their lengths, the decrease
of the quadratic model that the direction achieves at its own best length as a fraction of the exact one, and at that
length the divergence KL(p_θ ‖ p_{θ−d}) that the model really moves, beside the one that the matrix foretells, and what
the loss really loses. Layer by layer: cosine, length, and the decrease that the layer's part alone achieves of what
that layer alone could. A nearer matrix need not have a nearer inverse (George et al. 2018): this measures what one
uses. `linnat.nonlinear.trajectories` does it along the way of a training run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from linnat._checks import Array, RngLike, as_choice, as_count, as_float_array, as_layer, as_rng, fail
from linnat.nonlinear import curvature, passes
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners import (
    Diagonal,
    Ekfac,
    Info,
    Kfac,
    KfacTridiagonal,
    OnlineNaturalGradient,
    Preconditioner,
    Prong,
    Tonga,
    UnitWise,
)
from linnat.nonlinear.statistics import Statistics, gather

LIMIT = 6000  # parameters, of the dense matrix
DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclasses.dataclass(frozen=True)
class Gradient:
    """No preconditioner: the gradient over λ, the limit of all others for large damping."""

    damping: float = 1.0

    def init(self, net: Network, dtype: Any = np.float64) -> None:
        """Return nothing: there is no state."""

    def update(self, state: None, statistics: Statistics) -> tuple[None, Info]:
        """Do nothing."""
        return None, Info(False)

    def apply(self, state: None, gradient: Array, *, out: Array | None = None) -> Array:
        """Return the gradient over λ."""
        return np.divide(gradient, self.damping, out=out)


METHODS: dict[str, Preconditioner[Any]] = {
    "gradient": Gradient(),
    "diagonal": Diagonal(),
    "unit-wise": UnitWise(kind="full"),
    "quasi-diagonal": UnitWise(),
    "prong": Prong(),
    "tonga": Tonga(rank=200, centred=False),
    "online": OnlineNaturalGradient(strategy="cholesky"),
    "kfac": Kfac(),
    "kfac-tridiagonal": KfacTridiagonal(),
    "ekfac": Ekfac(),
}


EXACT = "exact"
UNDAMPED = (
    Gradient,
    Diagonal,
    Ekfac,
    Tonga,
)  # their damping is in `apply` alone: one state serves all of them


class Quality(NamedTuple):
    """How good one method is at one damping.

    Attributes
    ----------
    method : str
        "exact" is the exact damped natural gradient itself.
    damping : float
    cosine, length : float
        Of the angle to the exact damped natural gradient; ratio of lengths.
    decrease : float
        Of the quadratic model at the best length along the direction, over the largest possible: in [0, 1].
    divergence : float
        KL moved at that length, over that of the exact step.
    moved, foretold : float
        KL moved at that length; ½ dᵀFd, which it is to second order.
    reduction : float
        Of the loss at that length: negative where the step is too long for the model.
    layer_cosines, layer_lengths : tuple of float
        Layer by layer, against the layer's part of the exact direction.
    layer_decreases : tuple of float
        Of the quadratic model, by the layer's part alone at its own best length, over the largest that the layer alone
        can achieve: in [0, 1], and below 1 for "exact", whose parts belong together.
    """

    method: str
    damping: float
    cosine: float
    length: float
    decrease: float
    divergence: float
    moved: float
    foretold: float
    reduction: float
    layer_cosines: tuple[float, ...]
    layer_lengths: tuple[float, ...]
    layer_decreases: tuple[float, ...]


QUANTITIES = ("cosine", "length", "decrease", "divergence", "moved", "foretold", "reduction")
BY_LAYER = {"cosine": "layer_cosines", "length": "layer_lengths", "decrease": "layer_decreases"}


def compare(
    net: Network,
    parameters: Any,
    x: Any,
    y: Any,
    *,
    methods: Mapping[str, Preconditioner[Any]] | None = None,
    dampings: Sequence[float] = DAMPINGS,
    draws: int = 8,
    rng: RngLike = 0,
) -> list[Quality]:
    """Compare preconditioners with the exact damped natural gradient at one point.

    Parameters
    ----------
    net : Network
        At most 6000 parameters.
    parameters : array (P,)
    x, y : array (N, n_0), (N, n_L)
    methods : mapping from names to preconditioners, optional
        All of this package by default. Their damping is set to λ (PRONG's ε to √λ, its share of the input factor),
        their running averages to plain means over the draws.
    dampings : sequence of float
        λ > 0.
    draws : int
        Passes over the rows with new sampled targets that feed each preconditioner.
    rng : Generator or int

    Returns
    -------
    list of Quality
        For each damping, "exact" and each method.

    Raises
    ------
    InputError
        For networks that are too large, a gradient that vanishes, bad input.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> data = [[1.0], [-1.0]], [[1.0], [1.0]]
    >>> found = compare(net, [0.0, 0.0], *data, methods={"diagonal": Diagonal()}, dampings=[0.5])
    >>> [(row.method, round(row.cosine, 6), round(row.decrease, 6)) for row in found]
    [('exact', 1.0, 1.0), ('diagonal', 1.0, 1.0)]
    """
    if net.n_parameters > LIMIT:
        fail("net", f"at most {LIMIT} parameters, for the dense Fisher matrix", net.n_parameters)
    chosen = METHODS if methods is None else dict(methods)
    values = as_float_array(dampings, "dampings", ndim=1)
    if (values <= 0).any():
        fail("dampings", "numbers > 0", float(values.min()))
    count, generator = as_count(draws, "draws"), as_rng(rng)
    if EXACT in chosen:
        fail("methods", f"names other than {EXACT!r}, which is the exact solution's", EXACT)
    theta, work = passes.prepare(net, parameters, x)
    value, gradient = passes.gradient(net, theta, x, y)
    if not gradient.any():
        fail("parameters", "a point where the gradient does not vanish", "zero")
    matrix = curvature.true_fisher(net, theta, x).dense().astype(np.float64)
    place = Place(net, theta, x, y, work.outputs, value, gradient.astype(np.float64), matrix)
    seeds = [int(s) for s in generator.integers(2**32, size=count)]
    damped = list(map(float, values))
    directions = {name: _directions(method, damped, place, seeds) for name, method in chosen.items()}
    rows = []
    for k, damping in enumerate(damped):
        truth = _truth(place, damping)
        rows.append(_quality(EXACT, truth.direction, place, truth))
        rows += [_quality(name, found[k], place, truth) for name, found in directions.items()]
    return rows


def table(rows: Sequence[Quality], quantity: str = "decrease", layer: int | None = None) -> str:
    """Return a plain table, methods by dampings, of one quantity, of the whole step or of a layer numbered from 1.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> found = compare(net, [0.0, 0.0], [[1.0]], [[1.0]], methods={"kfac": Kfac()}, dampings=[0.1])
    >>> print(table(found, "cosine"))
    method        λ = 0.1
    exact          1.0000
    kfac           1.0000
    """
    as_choice(quantity, "quantity", tuple(BY_LAYER) if layer is not None else QUANTITIES)

    def value(row: Quality) -> float:
        if layer is None:
            return float(getattr(row, quantity))
        parts = getattr(row, BY_LAYER[quantity])
        return float(parts[as_layer(layer, "layer", len(parts)) - 1])

    dampings = sorted({row.damping for row in rows})
    names = list(dict.fromkeys(row.method for row in rows))
    width = max(10, *(len(name) for name in names))
    head = f"{'method':<{width}}" + "".join(f"{f'λ = {d:g}':>11}" for d in dampings)
    found = {(row.method, row.damping): value(row) for row in rows}
    lines = [
        f"{name:<{width}}" + "".join(_cell(found.get((name, damping), float("nan"))) for damping in dampings)
        for name in names
    ]
    return "\n".join([head, *lines])


def to_json(rows: Sequence[Quality]) -> str:
    """Return the rows as JSON."""
    return json.dumps([row._asdict() for row in rows], indent=2)


def _cell(value: float) -> str:
    return f"{value:>11.4f}" if 1e-3 <= abs(value) < 1e4 else f"{value:>11.2e}"


def _damped(method: Preconditioner[Any], damping: float) -> Preconditioner[Any]:
    """Return the method with this damping, means over the draws in place of windows, one refresh at the end."""
    names = {field.name for field in dataclasses.fields(method)}  # type: ignore[arg-type]
    change: dict[str, Any] = {"decay": 1.0 - 1e-12} if "decay" in names else {}
    if "damping" in names:
        change["damping"] = damping
    elif "epsilon" in names:
        change["epsilon"] = damping**0.5
    if "period" in names:
        change["period"] = 1
    return dataclasses.replace(method, **change)  # type: ignore[type-var]


def _directions(
    method: Preconditioner[Any], dampings: Sequence[float], place: Place, seeds: Sequence[int]
) -> list[Array]:
    """Return the method's direction for each damping, after one update for each draw of the targets."""
    net, theta, gradient = place.net, place.theta, place.slope.astype(place.theta.dtype)
    _, work = passes.prepare(net, theta, place.x)
    state, found = None, []
    for damping in dampings:
        own = _damped(method, damping)
        if state is None or not isinstance(method, UNDAMPED):
            state = own.init(net, theta.dtype)
            for seed in seeds:
                state, _ = own.update(state, gather(net, theta, work, "sampled", seed))
        found.append(own.apply(state, gradient).astype(np.float64))
    return found


class Place(NamedTuple):
    """Where directions are compared: data, outputs, loss, gradient and dense Fisher matrix."""

    net: Network
    theta: Array
    x: Any
    y: Any
    outputs: Array
    loss: float
    slope: Array
    matrix: Array


class Truth(NamedTuple):
    """What is exact at one damping: direction, its decrease, the layers' own, and the KL that it moves."""

    damping: float
    direction: Array
    decrease: float
    layer_decreases: tuple[float, ...]
    moved: float


def _truth(place: Place, damping: float) -> Truth:
    def solved(matrix: Array, slope: Array) -> Array:
        lower = scipy.linalg.cho_factor(matrix + damping * np.eye(len(matrix)), lower=True)
        return np.asarray(scipy.linalg.cho_solve(lower, slope))

    slope, matrix = place.slope, place.matrix
    direction = solved(matrix, slope)
    own = tuple(float(slope[p] @ solved(matrix[p, p], slope[p])) for p in place.net.slices)
    return Truth(damping, direction, float(slope @ direction), own, _moved(place, direction)[0])


def _moved(place: Place, step: Array) -> tuple[float, float]:
    """Return the KL and the loss that a step costs."""
    net, theta = place.net, place.theta - step.astype(place.theta.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        work = passes.Workspace(net, len(place.outputs), theta.dtype)
        passes.forward(net, theta, net.as_inputs(place.x, theta.dtype), work)
        if not np.isfinite(work.outputs).all():
            return float("inf"), float("-inf")
        divergence = float(np.mean(net.family.kl(place.outputs, work.outputs)))
        loss = float(np.mean(net.family.loss(work.outputs, passes.as_targets(net, place.y, work))))
    return divergence, place.loss - loss


def _quality(name: str, direction: Array, place: Place, truth: Truth) -> Quality:
    slope, matrix, slices = place.slope, place.matrix, place.net.slices

    def best(part: slice) -> tuple[float, float]:
        """Return the best length along a part of the direction, and the decrease there."""
        own = direction[part]
        along = float(slope[part] @ own)
        bent = float(own @ (matrix[part, part] @ own) + truth.damping * own @ own)
        return (along / bent, along**2 / bent) if bent > 0 else (0.0, 0.0)

    length, decrease = best(slice(None))
    step = length * direction
    moved, reduction = _moved(place, step)
    pairs = [(direction[part], truth.direction[part]) for part in slices]
    return Quality(
        name,
        truth.damping,
        _cosine(direction, truth.direction),
        float(np.linalg.norm(direction) / np.linalg.norm(truth.direction)),
        decrease / truth.decrease,
        moved / truth.moved if truth.moved > 0 else float("nan"),
        moved,
        0.5 * float(step @ (matrix @ step)),
        reduction,
        tuple(_cosine(a, b) for a, b in pairs),
        tuple(float(np.linalg.norm(a) / max(np.linalg.norm(b), np.finfo(float).tiny)) for a, b in pairs),
        tuple(
            best(part)[1] / own if own > 0 else float("nan")
            for part, own in zip(slices, truth.layer_decreases, strict=True)
        ),
    )


def _cosine(one: Array, two: Array) -> float:
    sizes = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float(one @ two) / sizes if sizes > 0 else float("nan")
