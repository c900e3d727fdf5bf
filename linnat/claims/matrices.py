"""Which matrix is it? Statement O0, on random multilayer networks: what each is, and where it is another."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from linnat._checks import Array
from linnat.claims._core import Case, Claim, Measure, Measures, relative
from linnat.claims._multilayer import (
    FAMILIES,
    OUTPUTS,
    ROWS,
    always,
    gradients,
    instance,
    nowhere,
    predictors,
    rounding,
)
from linnat.dense import multilayer
from linnat.nonlinear import curvature
from linnat.nonlinear.curvature import Curvature
from linnat.nonlinear.network import Network

SAMPLES = (4, 64)
REPEATS = 24
DEVIATIONS = 6.0
STEP = 1e-3
EPS_OF_DIFFERENCES = float(np.finfo(float).eps) / STEP

Matrix = Callable[[Network, Array, Array, Array], Array]


def check_matrices(case: Case, candidate: Matrix | None = None) -> Measures:
    """Measure every matrix against its definition, and where it coincides with the Fisher matrix."""
    measures: Measures = []
    for family in ("bernoulli", "categorical"):
        net, theta, x, y = instance(family, case.rng)
        found = (candidate or _fisher)(net, theta, x, y)
        wanted = multilayer.fisher(theta, net.widths, net.activations, family, x)
        rows = gradients(net, theta, x, y)
        given = curvature.empirical_fisher(net, theta, x, y).dense()
        at_mean = curvature.hessian(net, theta, x, net.family.mean(predictors(net, theta, x))).dense()
        pairs = (
            (f"Fisher matrix over all targets, {family}", found, wanted),
            ("empirical matrix by rows", given, rows.T @ rows / ROWS),
            ("empirical matrices, averaged over the model's targets", _averaged(net, theta, x), wanted),
            ("Hessian at zero residual", at_mean, wanted),
        )
        measures += [Measure(words, relative(a, b), rounding(net)) for words, a, b in pairs]
    measures += [_linear_in_parameters(case.rng), _anywhere(case.rng), _structures(case.rng)]
    return [*measures, *_divergence(case.rng, candidate), *_sampling(case.rng)]


def _fisher(net: Network, theta: Array, x: Array, y: Array) -> Array:
    return curvature.true_fisher(net, theta, x).dense()


def _labels(family: str) -> Array:
    if family == "categorical":
        return np.eye(OUTPUTS)
    return np.array(list(itertools.product((0.0, 1.0), repeat=OUTPUTS)))


def _averaged(net: Network, theta: Array, x: Array) -> Array:
    """Return the mean of empirical matrices over all targets of the model, with their probabilities."""
    total = np.zeros((len(theta),) * 2)
    name = net.family.name
    for row, z in zip(x, predictors(net, theta, x), strict=True):
        for label in _labels(name):
            chance = float(np.exp(-multilayer.LOSSES[name](z, label)))
            total += chance * curvature.empirical_fisher(net, theta, row[None], label[None]).dense()
    return total / len(x)


def _linear_in_parameters(rng: np.random.Generator) -> Measure:
    """Compare Hessian and Fisher matrix where the outputs are linear in θ: one layer, whatever the targets."""
    net = Network((2, OUTPUTS), family="categorical")
    theta, x = rng.standard_normal(net.n_parameters), rng.standard_normal((ROWS, 2))
    y = np.eye(OUTPUTS)[rng.integers(0, OUTPUTS, ROWS)]
    wanted = multilayer.fisher(theta, net.widths, net.activations, "categorical", x)
    found = curvature.hessian(net, theta, x, y).dense()
    return Measure("Hessian of one layer, any targets", relative(found, wanted), rounding(net))


def _anywhere(rng: np.random.Generator) -> Measure:
    """Compare the Hessian with differences of gradients, where residuals do not vanish: h⁴, and eps/h of rounding."""
    net, theta, x, y = instance("poisson", rng)
    wanted = multilayer.hessian(theta, net.widths, net.activations, "poisson", x, y)
    found = curvature.hessian(net, theta, x, y).dense()
    limit = 100 * (STEP**4 + EPS_OF_DIFFERENCES)
    return Measure("Hessian anywhere, by differences of gradients", relative(found, wanted), limit, "stated")


def _structures(rng: np.random.Generator) -> Measure:
    """Compare blocks and diagonals of all five matrices with the whole ones, masked."""
    net, theta, x, y = instance("poisson", rng)
    layer = np.concatenate([np.full(a * b, i) for i, (a, b) in enumerate(net.shapes)])
    unit = np.concatenate([np.tile(np.arange(a), b) for a, b in net.shapes])
    apart = np.abs(layer[:, None] - layer)
    masks = {
        "layers": apart == 0,
        "tridiagonal": apart <= 1,
        "units": (apart == 0) & (unit[:, None] == unit),
        "diagonal": np.eye(len(layer), dtype=bool),
    }
    probe, gap = rng.standard_normal(len(theta)), 0.0
    for matrix in every(net, theta, x, y, rng):
        whole = matrix.dense()
        for name, mask in masks.items():
            kept = np.where(mask, whole, 0.0)
            gap = max(gap, relative(matrix.dense(name), kept, float(np.linalg.norm(whole))))
            gap = max(gap, relative(matrix.product(probe, name), kept @ probe, float(np.linalg.norm(whole))))
    return Measure("blocks of layers, neighbours, units, and diagonals, of all five", gap, rounding(net))


def every(net: Network, theta: Array, x: Array, y: Array, rng: np.random.Generator) -> list[Curvature]:
    """Return all five matrices at one point."""
    return [
        curvature.true_fisher(net, theta, x),
        curvature.monte_carlo_fisher(net, theta, x, 3, rng=rng),
        curvature.empirical_fisher(net, theta, x, y),
        curvature.gauss_newton(net, theta, x, y),
        curvature.hessian(net, theta, x, y),
    ]


def _divergence(rng: np.random.Generator, candidate: Matrix | None) -> Measures:
    """Compare dᵀFd with KL(θ ‖ θ ± ε d)/ε², of every family; Richardson's weights leave an error of order ε⁴."""
    measures = []
    for family in FAMILIES:
        net, theta, x, y = instance(family, rng)
        direction = rng.standard_normal(len(theta))
        direction /= np.linalg.norm(direction)
        here = predictors(net, theta, x)

        def ratio(step: float, net: Network = net, theta: Array = theta, x: Array = x) -> float:
            ends = [predictors(net, theta + sign * step * direction, x) for sign in (1, -1)]  # noqa: B023
            return float(sum(net.family.kl(here, z).mean() for z in ends)) / step**2  # noqa: B023

        form = float(direction @ (candidate or _fisher)(net, theta, x, y) @ direction)
        wanted = (4 * ratio(STEP) - ratio(2 * STEP)) / 3
        # The next order, with derivatives of order one, and what the subtraction of predictors leaves.
        limit = 100 * (STEP**4 + EPS_OF_DIFFERENCES)
        words = f"second order of the divergence, {family}"
        measures.append(Measure(words, relative(form, wanted, 1.0), limit, "stated"))
    return measures


def _sampling(rng: np.random.Generator) -> Measures:
    """Return bias and mean square error of sampled matrices, in standard errors of what enumeration foretells.

    With k targets for each of N rows E‖F̂ − F‖² = V/k, V = Σ_n (E‖g_n‖⁴ − ‖F_n‖²)/N², and for a direction d
    Var dᵀF̂d = v/k, v = Σ_n (E(g_nᵀd)⁴ − (dᵀF_n d)²)/N²: the error falls like k^{−1/2}.
    """
    net, theta, x, _ = instance("bernoulli", rng)
    direction = rng.standard_normal(len(theta))
    wanted, spread, along = _moments(net, theta, x, direction)
    measures, total, draws = [], 0.0, 0
    for count in SAMPLES:
        runs = [curvature.monte_carlo_fisher(net, theta, x, count, rng=rng).dense() for _ in range(REPEATS)]
        errors = np.array([np.sum((run - wanted) ** 2) for run in runs])
        # On the scale of logarithms, where a mean that is too large does not enlarge its own standard error.
        deviation = float(errors.std(ddof=1) / errors.mean()) / REPEATS**0.5
        gap = abs(float(np.log(errors.mean() * count / spread))) / deviation
        words = f"mean square error of {count} sampled targets against V/k, in standard errors"
        measures.append(Measure(words, gap, DEVIATIONS, "stated"))
        total += count * sum(float(direction @ (run - wanted) @ direction) for run in runs)
        draws += count * REPEATS
    bias = abs(total / draws) / (along / draws) ** 0.5
    return [*measures, Measure("bias of sampled targets, in standard errors", bias, DEVIATIONS, "stated")]


def _moments(net: Network, theta: Array, x: Array, direction: Array) -> tuple[Array, float, float]:
    """Return F, V and v by enumeration of all labels."""
    total, spread, along = np.zeros((len(theta),) * 2), 0.0, 0.0
    labels = _labels("bernoulli")
    for row, z in zip(x, predictors(net, theta, x), strict=True):
        chances = np.exp([-multilayer.LOSSES["bernoulli"](z, label) for label in labels])
        rows = gradients(net, theta, np.tile(row, (len(labels), 1)), labels)
        own = (rows.T * chances) @ rows
        total += own / len(x)
        spread += float(chances @ np.sum(rows**2, axis=1) ** 2 - np.sum(own**2)) / len(x) ** 2
        along += float(chances @ (rows @ direction) ** 4 - (direction @ own @ direction) ** 2) / len(x) ** 2
    return total, spread, along


def _broken_matrix(rng: np.random.Generator) -> Measures:
    def empirical(net: Network, theta: Array, x: Array, y: Array) -> Array:
        return curvature.empirical_fisher(net, theta, x, y).dense()

    return check_matrices(nowhere(rng), empirical)


CLAIMS = (
    Claim(
        "O0",
        "Which matrix",
        "Fisher, sampled, empirical, Gauss–Newton, Hessian: one scale and order; where they coincide",
        r"F = \mathrm{E}_n J_n^\top \nabla^2 A\, J_n = \mathrm{E}_n \mathrm{E}_{y\sim p}[g g^\top],\quad "
        r"H = F + \mathrm{E}_n \textstyle\sum_k (\nabla A - T)_k \nabla^2 z_k,\quad "
        r"\mathrm{E}\|\hat F_k - F\|^2 = V/k",
        "Amari (1998); Martens (2014)",
        "canonical link; the empirical matrix equals F only for targets that follow the model",
        "nonlinear.curvature.true_fisher",
        "complex steps through a textbook network, every target with its probability; divergences, differences",
        "p = 0: sums of products of well-scaled numbers; sampling: 6 standard errors; differences: order h⁴",
        check_matrices,
        always,
        _broken_matrix,
        "the empirical Fisher matrix in place of the true one",
        about_networks=False,
    ),
)
