"""Which optimisers are compared? By name, every setting a number or a word in a flat table, search spaces as data.

`sgd`, `momentum`, `nesterov`, `rmsprop` and `adam` are the baselines. A method's defaults are sensible and untuned; its
space says what `linnat compare --tune` draws: log-uniform ranges and choices, the batch among them. Two settings belong
to every method: `batch`, the rows of one update, and `doubling`, the updates after which the batch has doubled (0:
never). `halving` is the updates after which a rate has fallen to one half, hyperbolically (0: never).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from linnat._checks import InputError, as_choice, as_count, as_scalar, fail
from linnat.nonlinear.optimisers import (
    Adam,
    GradientDescent,
    KrylovSubspaceDescent,
    LbfgsBursts,
    NaturalConjugateGradient,
    Optimiser,
    Preconditioned,
    Rmsprop,
    TruncatedNewton,
)
from linnat.nonlinear.preconditioners import Ekfac, Kfac, OnlineNaturalGradient, Prong, Tonga
from linnat.nonlinear.schedules import Exponential, Growing, Hyperbolic, Schedule, as_steps

Setting: TypeAlias = float | int | str
Settings: TypeAlias = Mapping[str, Setting]

COMMON = ("batch", "doubling")


class Range(NamedTuple):
    """Log-uniform between two positive numbers."""

    low: float
    high: float


class Choice(NamedTuple):
    """One of some values, all equally likely."""

    values: tuple[Setting, ...]


Space: TypeAlias = Mapping[str, Range | Choice]


@dataclass(frozen=True)
class Method:
    """An optimiser by name.

    Attributes
    ----------
    name, title : str
        On the command line; for a reader.
    words : str
        What it is, in one line.
    defaults : mapping
        Every setting there is, with the value that an untuned run takes.
    space : mapping
        What is searched.
    build : callable
        From complete settings to the optimiser.
    baseline : bool
        Whether the others are measured against it.
    label : str
        Beside its curve, where the title is too long.
    """

    name: str
    title: str
    words: str
    defaults: Settings
    space: Space
    build: Callable[[Mapping[str, Any]], Optimiser[Any]]
    baseline: bool = False
    label: str = ""


def complete(method: Method, given: Settings) -> dict[str, Setting]:
    """Return all settings of a method: its defaults, overwritten by what is given.

    Raises
    ------
    InputError
        For a setting that the method does not have, a word for a number, or a value that the optimiser refuses.

    Examples
    --------
    >>> complete(METHODS["sgd"], {"rate": 0.5})
    {'rate': 0.5, 'halving': 0, 'batch': 100, 'doubling': 0}
    """
    settings = dict(method.defaults)
    for name, value in given.items():
        if name not in settings:
            fail(f"setting of {method.name}", "one of " + ", ".join(settings), repr(name))
        settings[name] = _like(settings[name], value, f"{method.name}.{name}")
    as_count(settings["batch"], f"{method.name}.batch")
    as_count(settings["doubling"], f"{method.name}.doubling", low=0)
    try:
        method.build(settings)
    except InputError as error:
        raise InputError(f"settings of {method.name}: {error}") from None
    return settings


def batch(settings: Settings) -> int | Schedule:
    """Return the rows of an update, for the training loop.

    Examples
    --------
    >>> batch({"batch": 100, "doubling": 0}), batch({"batch": 100, "doubling": 50}).at(100)
    (100, 400.0)
    """
    rows, doubling = int(settings["batch"]), int(settings["doubling"])
    return Exponential(float(rows), 2.0, doubling) if doubling else rows


def as_methods(text: str) -> tuple[Method, ...]:
    """Return methods from names between commas, each once.

    Raises
    ------
    InputError
        For a name that is not known.

    Examples
    --------
    >>> [method.title for method in as_methods("sgd, kfac")]
    ['SGD', 'K-FAC']
    """
    chosen = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not chosen:
        fail("--optimisers", "names between commas", repr(text), f"There are: {', '.join(METHODS)}.")
    return tuple(METHODS[as_choice(name, "--optimisers", tuple(METHODS))] for name in dict.fromkeys(chosen))


def _like(default: Setting, value: object, name: str) -> Setting:
    """Return a value of the default's type, from text too."""
    if isinstance(default, str):
        if not isinstance(value, str):
            fail(name, "a word", repr(value))
        return value
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        fail(name, "a number", repr(value))
    number = as_scalar(number, name)
    if isinstance(default, int):
        if number != int(number):
            fail(name, "an integer", repr(value))
        return int(number)
    return number


def _rate(s: Mapping[str, Any]) -> float | Schedule:
    return Hyperbolic(s["rate"], s["halving"]) if s["halving"] else float(s["rate"])


def _momentum(s: Mapping[str, Any]) -> float | Schedule:
    if s["momenta"]:
        steps = as_steps(s["momenta"], "momenta")
        if not all(0.0 <= value < 1.0 for value in steps.values):
            fail("momenta", "numbers in [0, 1)", s["momenta"])
        return steps
    return float(s["momentum"])


def _nesterov(s: Mapping[str, Any]) -> Optimiser[Any]:
    return GradientDescent(_rate(s), Growing(s["momentum"], s["period"]), nesterov=True)


def _preconditioned(preconditioner: Any, s: Mapping[str, Any]) -> Optimiser[Any]:
    return Preconditioned(
        preconditioner,
        _rate(s),
        s["momentum"],
        rule=s["rule"],
        every=s["every"],
        bound=s["bound"],
        damping=s["trust"],
        adapt=s["adapt"],
    )


def _online(s: Mapping[str, Any]) -> Optimiser[Any]:
    inner = OnlineNaturalGradient(s["damping"], s["decay"], s["period"], s["strategy"], s["cutoff"])
    return _preconditioned(inner, s)


def _kfac(s: Mapping[str, Any]) -> Optimiser[Any]:
    return _preconditioned(Kfac(s["damping"], s["decay"], s["period"]), s)


def _adaptive(s: Mapping[str, Any]) -> Optimiser[Any]:
    return Preconditioned(
        Kfac(s["damping"], s["decay"], s["period"]),
        _rate(s),
        _momentum(s),
        rule="rate" if s["warmup"] else "fitted",
        warmup=s["warmup"],
        every=s["every"],
        damping=s["trust"],
        adapt=s["adapt"],
        search=s["search"],
    )


def _ekfac(s: Mapping[str, Any]) -> Optimiser[Any]:
    return _preconditioned(
        Ekfac(s["damping"], s["decay"], s["period"], s["moments"], factored=bool(s["factored"])), s
    )


def _prong(s: Mapping[str, Any]) -> Optimiser[Any]:
    return Preconditioned(
        Prong(s["damping"], s["decay"], s["period"]), _rate(s), s["momentum"], every=s["every"]
    )


def _tonga(s: Mapping[str, Any]) -> Optimiser[Any]:
    return Preconditioned(Tonga(s["damping"], s["decay"], s["rank"]), _rate(s), s["momentum"], targets="data")


def _newton(s: Mapping[str, Any]) -> Optimiser[Any]:
    return TruncatedNewton(
        s["matrix"], iterations=s["iterations"], damping=s["damping"], warm=s["warm"], adapt=bool(s["adapt"])
    )


FIRST: Settings = {"halving": 0, "batch": 100, "doubling": 0}
# "fitted" needs neither rate nor momentum: far from the optimum of a large network it is what gets away at all.
KRONECKER: Settings = {
    "rule": "fitted",
    "rate": 0.3,
    "halving": 0,
    "momentum": 0.9,
    "damping": 0.01,
    "decay": 0.95,
    "period": 20,
    "every": 1,
    "bound": 0.1,
    "trust": 0.1,
    "adapt": 5,
    "batch": 200,
    "doubling": 0,
}
# After the warm-up, if there is one; `momenta`, in the words of `as_steps`, stand in the place of a momentum.
HEAVY: Settings = {"rate": 1e-3, "halving": 0, "momentum": 0.99, "momenta": ""}
FITTED = ("damping", "decay", "period", "every", "trust", "adapt", "batch", "doubling")
SMALL = Choice((50, 100, 200, 500))
LARGE = Choice((200, 500, 1000))
NATURAL: Space = {"damping": Range(1e-5, 0.1), "batch": Choice((500, 1000, 200))}

_ALL = (
    Method(
        "sgd",
        "SGD",
        "stochastic gradient descent",
        {"rate": 0.03, **FIRST},
        {"rate": Range(1e-3, 1.0), "batch": SMALL},
        lambda s: GradientDescent(_rate(s)),
        True,
    ),
    Method(
        "momentum",
        "momentum",
        "gradient descent with momentum",
        {"rate": 0.01, "momentum": 0.9, **FIRST},
        {"rate": Range(1e-4, 0.3), "momentum": Choice((0.9, 0.95, 0.99)), "batch": SMALL},
        lambda s: GradientDescent(_rate(s), s["momentum"]),
        True,
    ),
    Method(
        "nesterov",
        "Nesterov",
        "Nesterov's acceleration; momentum min(1 − 2^(−1−log2(⌊t/250⌋+1)), largest)",
        {"rate": 0.01, "momentum": 0.99, "period": 250, **FIRST},
        {"rate": Range(1e-4, 0.3), "momentum": Choice((0.9, 0.99, 0.995)), "batch": SMALL},
        _nesterov,
        True,
    ),
    Method(
        "rmsprop",
        "RMSprop",
        "gradients divided by the root of their running mean square",
        {"rate": 1e-3, **FIRST},
        {"rate": Range(1e-4, 0.03), "batch": SMALL},
        lambda s: Rmsprop(_rate(s)),
        True,
    ),
    Method(
        "adam",
        "Adam",
        "Adam with its published decays",
        {"rate": 3e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, **FIRST},
        {"rate": Range(1e-4, 0.03), "batch": SMALL},
        lambda s: Adam(_rate(s), s["beta1"], s["beta2"], s["epsilon"]),
        True,
    ),
    Method(
        "online",
        "online natural gradient",
        "Kronecker factors of each layer, 1/L (Bernacchia et al. 2018)",
        {**KRONECKER, "period": 100, "strategy": "eigen", "cutoff": 0.1},
        NATURAL,
        _online,
        label="online NG",
    ),
    Method(
        "kfac",
        "K-FAC",
        "Kronecker factors of each layer, factored damping (Martens and Grosse 2015)",
        KRONECKER,
        NATURAL,
        _kfac,
    ),
    Method(
        "ekfac",
        "EKFAC",
        "second moments in K-FAC's eigenbasis (George et al. 2018)",
        {**KRONECKER, "moments": "rows", "period": 50, "factored": 1},
        NATURAL,
        _ekfac,
    ),
    Method(
        "kfac-adaptive",
        "K-FAC, adaptive",
        "K-FAC whose damping is searched on the way (Martens and Grosse 2015, section 6.6)",
        {**{name: KRONECKER[name] for name in FITTED}, "search": 20, "warmup": 0, **HEAVY},
        NATURAL,
        _adaptive,
    ),
    Method(
        "prong",
        "PRONG",
        "white, centred inputs of every layer (Desjardins et al. 2015); damping is its ε",
        {"rate": 0.003, "momentum": 0.9, "damping": 0.1, "decay": 0.95, "period": 100, "every": 10, **FIRST},
        {"rate": Range(1e-4, 0.3), "damping": Range(1e-3, 1.0), "batch": SMALL},
        _prong,
    ),
    Method(
        "tonga",
        "TONGA",
        "low-rank covariance of rows' gradients (Le Roux et al. 2008)",
        {"rate": 0.01, "momentum": 0.0, "damping": 0.1, "decay": 0.95, "rank": 20, **FIRST, "batch": 50},
        {"rate": Range(1e-3, 1.0), "damping": Range(1e-3, 1.0), "batch": Choice((20, 50, 100))},
        _tonga,
    ),
    Method(
        "truncated-newton",
        "truncated Newton",
        "Hessian-free: conjugate gradients on the damped curvature matrix (Martens 2010)",
        {
            "matrix": "fisher",
            "iterations": 30,
            "damping": 1.0,
            "warm": 0.95,
            "adapt": 1,
            "batch": 500,
            "doubling": 0,
        },
        {"damping": Range(0.03, 30.0), "iterations": Choice((10, 30, 100)), "batch": LARGE},
        _newton,
    ),
    Method(
        "krylov",
        "Krylov subspace descent",
        "BFGS in a Krylov space of the curvature matrix (Vinyals and Povey 2012)",
        {"matrix": "gauss-newton", "size": 20, "iterations": 20, "batch": 500, "doubling": 0},
        {"size": Choice((5, 10, 20)), "iterations": Choice((5, 10, 20)), "batch": LARGE},
        lambda s: KrylovSubspaceDescent(s["size"], s["iterations"], s["matrix"]),
        label="Krylov",
    ),
    Method(
        "ncg",
        "natural conjugate gradient",
        "BFGS in the plane of natural gradient and last step (Pascanu and Bengio 2014)",
        {"damping": 0.1, "solver_iterations": 30, "iterations": 10, "batch": 500, "doubling": 0},
        {"damping": Range(1e-2, 10.0), "solver_iterations": Choice((10, 30, 100)), "batch": LARGE},
        lambda s: NaturalConjugateGradient(s["damping"], s["solver_iterations"], s["iterations"]),
        label="natural CG",
    ),
    Method(
        "lbfgs",
        "L-BFGS",
        "bursts of L-BFGS on large minibatches (Le et al. 2011)",
        {"iterations": 5, "batch": 1000, "doubling": 0},
        {"iterations": Choice((3, 5, 10, 20)), "batch": Choice((500, 1000, 2000))},
        lambda s: LbfgsBursts(s["iterations"]),
    ),
)
METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}
