"""How good is each approximation of the natural gradient, on this network and these data?

Against the exact damped solution v = (F + λ I)⁻¹ g with the dense Fisher matrix (small networks), for each
preconditioner and damping: the cosine of the angle between the two directions, the ratio of their lengths, the decrease
of the quadratic model that the direction achieves at its own best length as a fraction of the exact one, and the
divergence KL(p_θ ‖ p_{θ−d}) that it moves the model at that length, as a fraction of the exact one's. The first two
also layer by layer. A nearer matrix need not have a nearer inverse (George et al. 2018): this measures what one uses.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from linnat._checks import Array, RngLike, as_count, as_float_array, as_rng, fail
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

    def apply(self, state: None, gradient: Array) -> Array:
        """Return the gradient over λ."""
        scaled: Array = gradient / self.damping
        return scaled


METHODS: dict[str, Preconditioner[Any]] = {
    "gradient": Gradient(),
    "diagonal": Diagonal(),
    "unit-wise": UnitWise(kind="full"),
    "quasi-diagonal": UnitWise(),
    "prong": Prong(),
    "tonga": Tonga(rank=200, centred=False),
    "online": OnlineNaturalGradient(),
    "kfac": Kfac(),
    "kfac-tridiagonal": KfacTridiagonal(),
    "ekfac": Ekfac(),
}


class Quality(NamedTuple):
    """How good one method is at one damping.

    Attributes
    ----------
    method : str
    damping : float
    cosine, length : float
        Of the angle to the exact damped natural gradient; ratio of lengths.
    decrease : float
        Of the quadratic model at the best length along the direction, over the largest possible: in [0, 1].
    divergence : float
        KL moved at that length, over that of the exact step.
    layer_cosines, layer_lengths : tuple of float
        Layer by layer, against the layer's part of the exact direction.
    """

    method: str
    damping: float
    cosine: float
    length: float
    decrease: float
    divergence: float
    layer_cosines: tuple[float, ...]
    layer_lengths: tuple[float, ...]


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
        For each damping and method.

    Raises
    ------
    InputError
        For networks that are too large, a gradient that vanishes, bad input.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> data = [[1.0], [-1.0]], [[1.0], [1.0]]
    >>> found = compare(net, [0.0, 0.0], *data, methods={"diagonal": Diagonal()}, dampings=[0.5])
    >>> round(found[0].cosine, 6), round(found[0].decrease, 6)
    (1.0, 1.0)
    """
    if net.n_parameters > LIMIT:
        fail("net", f"at most {LIMIT} parameters, for the dense Fisher matrix", net.n_parameters)
    chosen = METHODS if methods is None else dict(methods)
    values = as_float_array(dampings, "dampings", ndim=1)
    if (values <= 0).any():
        fail("dampings", "numbers > 0", float(values.min()))
    count, generator = as_count(draws, "draws"), as_rng(rng)
    theta, work = passes.prepare(net, parameters, x)
    _, gradient = passes.gradient(net, theta, x, y)
    if not gradient.any():
        fail("parameters", "a point where the gradient does not vanish", "zero")
    matrix = curvature.true_fisher(net, theta, x).dense().astype(np.float64)
    seeds = [int(s) for s in generator.integers(2**32, size=count)]
    rows = []
    for damping in values:
        lower = scipy.linalg.cho_factor(matrix + float(damping) * np.eye(len(matrix)), lower=True)
        exact = scipy.linalg.cho_solve(lower, gradient.astype(np.float64))
        base = _moved(net, theta, work.outputs, exact, x)
        for name, method in chosen.items():
            state = _fed(_damped(method, float(damping)), net, theta, x, seeds)
            direction = state[0].apply(state[1], gradient).astype(np.float64)
            rows.append(
                _quality(
                    name,
                    float(damping),
                    net,
                    theta,
                    work.outputs,
                    x,
                    gradient,
                    matrix,
                    exact,
                    base,
                    direction,
                )
            )
    return rows


def table(rows: Sequence[Quality], quantity: str = "decrease") -> str:
    """Return a plain table, methods by dampings, of one quantity.

    Examples
    --------
    >>> print(table([Quality("kfac", 0.1, 0.9, 1.1, 0.95, 1.0, (), ())], "cosine"))
    method        λ = 0.1
    kfac           0.9000
    """
    if quantity not in ("cosine", "length", "decrease", "divergence"):
        fail("quantity", "one of 'cosine', 'length', 'decrease', 'divergence'", repr(quantity))
    dampings = sorted({row.damping for row in rows})
    names = list(dict.fromkeys(row.method for row in rows))
    width = max(10, *(len(name) for name in names))
    head = f"{'method':<{width}}" + "".join(f"{f'λ = {d:g}':>11}" for d in dampings)
    found = {(row.method, row.damping): getattr(row, quantity) for row in rows}
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


def _fed(
    method: Preconditioner[Any], net: Network, theta: Array, x: Any, seeds: Sequence[int]
) -> tuple[Preconditioner[Any], Any]:
    state = method.init(net, theta.dtype)
    _, work = passes.prepare(net, theta, x)
    for seed in seeds:
        state, _ = method.update(state, gather(net, theta, work, "sampled", seed))
    return method, state


def _moved(net: Network, theta: Array, outputs: Array, direction: Array, x: Any) -> float:
    _, work = passes.prepare(net, theta - direction.astype(theta.dtype), x)
    return float(np.mean(net.family.kl(outputs, work.outputs)))


def _quality(
    name: str,
    damping: float,
    net: Network,
    theta: Array,
    outputs: Array,
    x: Any,
    gradient: Array,
    matrix: Array,
    exact: Array,
    base: float,
    direction: Array,
) -> Quality:
    slope = gradient.astype(np.float64)
    along = float(slope @ direction)
    bent = float(direction @ (matrix @ direction) + damping * direction @ direction)
    best = along / bent if bent > 0 else 0.0
    pairs = [(direction[part], exact[part]) for part in net.slices]
    divergence = _moved(net, theta, outputs, best * direction, x) / base if base > 0 else float("nan")
    return Quality(
        name,
        damping,
        _cosine(direction, exact),
        float(np.linalg.norm(direction) / np.linalg.norm(exact)),
        along * best / float(slope @ exact),
        divergence,
        tuple(_cosine(a, b) for a, b in pairs),
        tuple(float(np.linalg.norm(a) / max(np.linalg.norm(b), np.finfo(float).tiny)) for a, b in pairs),
    )


def _cosine(one: Array, two: Array) -> float:
    sizes = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float(one @ two) / sizes if sizes > 0 else float("nan")
