"""Which matrix is it? Statements O0 and O4, on random multilayer networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from linnat._checks import Array
from linnat.claims._core import CONSTANT, Case, Claim, Measure, Measures, relative
from linnat.dense import multilayer
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from linnat.nonlinear import curvature
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network

EPS = float(np.finfo(float).eps)
ROWS, OUTPUTS = 4, 3
SAMPLES = (4, 64)
REPEATS = 12
DEVIATIONS = 6.0

Matrix = Callable[[Network, Array, Array, Array], Array]


def check_matrices(case: Case, candidate: Matrix | None = None) -> Measures:
    """Measure the Fisher matrix against all targets, sampled ones against their rate, the Hessian on its two cases."""
    measures: Measures = []
    for family in ("bernoulli", "categorical"):
        net, theta, x, y = _instance(family, case.rng)
        found = _fisher(net, theta, x, y) if candidate is None else candidate(net, theta, x, y)
        wanted = multilayer.fisher(theta, net.widths, net.activations, family, x)
        measures.append(
            Measure(f"Fisher matrix over all targets, {family}", relative(found, wanted), _bound(net))
        )
        rows = multilayer.row_gradients(theta, net.widths, net.activations, family, x, y)
        given = curvature.empirical_fisher(net, theta, x, y).dense()
        measures.append(
            Measure("empirical matrix by rows", relative(given, rows.T @ rows / ROWS), _bound(net))
        )
        mean = net.family.mean(
            np.array([multilayer.outputs(theta, net.widths, net.activations, a) for a in x])
        )
        at_mean = curvature.hessian(net, theta, x, mean).dense()
        measures.append(Measure("Hessian at zero residual", relative(at_mean, wanted), _bound(net)))
    return [*measures, *_sampling(case.rng)]


def _fisher(net: Network, theta: Array, x: Array, y: Array) -> Array:
    return curvature.true_fisher(net, theta, x).dense()


def _sampling(rng: np.random.Generator) -> Measures:
    """Return how the mean square error of sampled matrices falls with their number, against the rate 1/k.

    The fall is measured in its own standard errors: the log of a mean square over R repeats has variance of about 2/R.
    """
    net, theta, x, _ = _instance("bernoulli", rng)
    wanted = multilayer.fisher(theta, net.widths, net.activations, "bernoulli", x)
    errors = []
    for count in SAMPLES:
        runs = [curvature.monte_carlo_fisher(net, theta, x, count, rng=rng).dense() for _ in range(REPEATS)]
        errors.append(np.array([np.sum((run - wanted) ** 2) for run in runs]))
    fall = np.log(errors[0].mean() / errors[1].mean()) - np.log(SAMPLES[1] / SAMPLES[0])
    spread = sum(float(np.var(e) / np.mean(e) ** 2) for e in errors) / REPEATS
    return [
        Measure(
            "fall of the sampling error, in standard errors", abs(fall) / spread**0.5, DEVIATIONS, "stated"
        )
    ]


def _instance(
    family: str, rng: np.random.Generator, unit: str = "identity"
) -> tuple[Network, Array, Array, Array]:
    hidden = [str(name) for name in rng.choice(("tanh", "logistic", "softplus"), 2)]
    net = Network((2, 3, 2, OUTPUTS), [*hidden, unit], family)
    theta = initial(net, "glorot", rng=rng) + 0.2 * rng.standard_normal(net.n_parameters)
    x = rng.standard_normal((ROWS, 2))
    return net, theta, x, _targets(family, rng)


def _targets(family: str, rng: np.random.Generator) -> Array:
    if family == "bernoulli":
        return rng.integers(0, 2, (ROWS, OUTPUTS)).astype(float)
    if family == "categorical":
        return np.asarray(np.eye(OUTPUTS)[rng.integers(0, OUTPUTS, ROWS)])
    if family == "poisson":
        return rng.poisson(1.0, (ROWS, OUTPUTS)).astype(float)
    return rng.standard_normal((ROWS, OUTPUTS))


def _bound(net: Network) -> float:
    """Entries are sums over rows, targets and layers of products of well-scaled numbers: p = 0."""
    return CONSTANT * EPS * net.n_parameters


def check_links(case: Case, unit: str = "identity") -> Measures:
    """Measure Gauss–Newton against JᵀA''J by definition; damped Krylov spaces; identity units against the exact F."""
    measures: Measures = []
    for family in ("gaussian", "bernoulli", "categorical", "poisson"):
        net, theta, x, y = _instance(family, case.rng, unit)
        jac = multilayer.jacobian(theta, net.widths, net.activations, x)
        z = np.array([multilayer.outputs(theta, net.widths, net.activations, row) for row in x])
        wanted = np.einsum("nkp,nkl,nlq->pq", jac, net.family.fisher(z), jac) / ROWS
        found = curvature.gauss_newton(net, theta, x, y).dense()
        measures.append(
            Measure(f"Gauss–Newton and Fisher matrix, {family}", relative(found, wanted), _bound(net))
        )
    matrix = wanted / np.linalg.norm(wanted, 2)
    measures.append(_krylov(matrix, case.rng))
    measures.append(_linear(case.rng))
    return measures


def _krylov(matrix: Array, rng: np.random.Generator, steps: int = 3) -> Measure:
    """Return the sine of the largest angle between the spaces of F and F + I/2, orthonormalised step by step."""
    start = matrix @ rng.standard_normal(len(matrix))
    spaces = []
    for damping in (0.0, 0.5):
        basis = start[:, None] / np.linalg.norm(start)
        for _ in range(steps):
            # Twice: once leaves the rounding of the first.
            new = matrix @ basis[:, -1] + damping * basis[:, -1]
            for _ in range(2):
                new = new - basis @ (basis.T @ new)
            basis = np.column_stack([basis, new / np.linalg.norm(new)])
        spaces.append(basis)
    gap = spaces[1] - spaces[0] @ (spaces[0].T @ spaces[1])
    krylov = np.column_stack([np.linalg.matrix_power(matrix, k) @ start for k in range(steps + 1)])
    condition = float(np.linalg.cond(krylov / np.linalg.norm(krylov, axis=0)))
    return Measure(
        "Krylov spaces of F and F + I/2",
        float(np.linalg.norm(gap, 2)),
        CONSTANT * EPS * len(matrix) * condition,
    )


def _linear(rng: np.random.Generator) -> Measure:
    """Compare the Fisher matrix of identity units with that of the closed form."""
    from linnat.exact.fisher import fisher

    net = Network((3, 2, 4, 2), "identity", "gaussian")
    theta = initial(net, "glorot", rng=rng) + 0.2 * rng.standard_normal(net.n_parameters)
    x, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    layers = net.layers(theta)
    linear = LinearNetwork([m[:, :-1] for m in layers], [m[:, -1] for m in layers])
    exact = fisher(linear, Task.from_data(x, y))
    found = curvature.true_fisher(net, theta, x).dense()
    return Measure("identity units: the closed form F1", relative(found, exact), _bound(net))


def _anything(net: LinearNetwork, task: Task) -> str | None:
    return "about multilayer networks"


def _broken_matrix(rng: np.random.Generator) -> Measures:
    def empirical(net: Network, theta: Array, x: Array, y: Array) -> Array:
        return curvature.empirical_fisher(net, theta, x, y).dense()

    return check_matrices(_case(rng), empirical)


def _broken_link(rng: np.random.Generator) -> Measures:
    return check_links(_case(rng), "tanh")


def _case(rng: np.random.Generator) -> Case:
    net: Any = LinearNetwork([[[1.0]]])
    return Case(net, Task([[1.0]]), rng)


CLAIMS = (
    Claim(
        "O0",
        "Which matrix",
        "Fisher, sampled, empirical, Gauss–Newton, Hessian: one scale and order; where they coincide",
        r"F = \mathrm{E}_n J_n^\top \nabla^2 A\, J_n = \mathrm{E}_n \mathrm{E}_{y\sim p}[g g^\top],\quad "
        r"H = F + \mathrm{E}_n \textstyle\sum_k (\nabla A - T)_k \nabla^2 z_k",
        "Amari (1998); Martens (2014)",
        "canonical link; the empirical matrix equals F only for targets that follow the model",
        "nonlinear.curvature.true_fisher",
        "complex steps through a textbook network, every target with its probability",
        "p = 0: sums of products of well-scaled numbers; sampling: 6 standard errors",
        check_matrices,
        _anything,
        _broken_matrix,
        "the empirical Fisher matrix in place of the true one",
        about_networks=False,
    ),
    Claim(
        "O4",
        "Gauss–Newton is Fisher",
        "for canonical links the Gauss–Newton matrix is the Fisher matrix; damping leaves Krylov spaces as they are",
        r"J_s^\top \nabla_s^2 \ell\, J_s = F,\quad \mathcal K_k(F, g) = \mathcal K_k(F + \lambda I, g)",
        "Pascanu and Bengio (2014)",
        "identity output units: the network puts out natural parameters",
        "nonlinear.curvature.gauss_newton",
        "Jacobian by complex steps, information matrices of the families; the closed form F1 for identity units",
        "p = 0; Krylov spaces: p = 1 in the condition of the normalised Krylov matrix",
        check_links,
        _anything,
        _broken_link,
        "tanh output units, another link",
        about_networks=False,
    ),
)
