"""When is another matrix the Fisher matrix, and what do its users see of damping? Statement O4."""

from __future__ import annotations

import numpy as np

from linnat._checks import Array
from linnat.claims._core import CONSTANT, Case, Claim, Measure, Measures, relative
from linnat.claims._multilayer import (
    EPS,
    FAMILIES,
    ROWS,
    always,
    gradients,
    instance,
    nowhere,
    predictors,
    rounding,
)
from linnat.dense import multilayer
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from linnat.nonlinear import curvature, passes
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners import Tonga
from linnat.nonlinear.statistics import gather


def check_links(case: Case, unit: str = "identity") -> Measures:
    """Measure Gauss–Newton against JᵀA''J by definition; what another link adds; Krylov spaces; TONGA; the exact F."""
    measures: Measures = []
    for family in FAMILIES:
        net, theta, x, y = instance(family, case.rng, unit)
        wanted = _fisher(net, theta, x)
        found = curvature.gauss_newton(net, theta, x, y).dense()
        words = f"Gauss–Newton and Fisher matrix, {family}"
        measures.append(Measure(words, relative(found, wanted), rounding(net)))
    matrix = wanted / np.linalg.norm(wanted, 2)
    measures += [_krylov(matrix, case.rng), _linear(case.rng), _residual(case.rng)]
    return [*measures, *_tonga(case.rng)]


def _fisher(net: Network, theta: Array, x: Array) -> Array:
    """Return mean_n J_nᵀ ∇²A J_n, from Jacobians by complex steps."""
    jac = multilayer.jacobian(theta, net.widths, net.activations, x)
    information = net.family.fisher(predictors(net, theta, x))
    return np.asarray(np.einsum("nkp,nkl,nlq->pq", jac, information, jac) / len(x))


def _residual(rng: np.random.Generator) -> Measure:
    """Compare G − F of tanh output units, another link, with Kᵀ diag((A' − T) φ'') K, K the Jacobian before them."""
    net, theta, x, y = instance("poisson", rng, "tanh")
    before = Network(net.widths, [*net.activations[:-1], "identity"], net.family)
    jac = multilayer.jacobian(theta, before.widths, before.activations, x)
    unit = np.tanh(predictors(before, theta, x))
    bend = -2 * unit * (1 - unit**2) * (np.exp(unit) - y)
    wanted = np.einsum("nkp,nk,nkq->pq", jac, bend, jac) / ROWS
    fisher = curvature.true_fisher(net, theta, x).dense()
    found = curvature.gauss_newton(net, theta, x, y).dense() - fisher
    size = float(np.linalg.norm(fisher))
    return Measure(
        "what another link adds: the residual's curvature", relative(found, wanted, size), rounding(net)
    )


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
    return Measure("identity units: the closed form F1", relative(found, exact), rounding(net))


def _tonga(rng: np.random.Generator) -> Measures:
    """Compare TONGA's matrices with the empirical Fisher matrix of each layer, centred and not, by rows."""
    net, theta, x, y = instance("bernoulli", rng, rows=9)
    rows = gradients(net, theta, x, y)
    probe, damping = rng.standard_normal(len(theta)), 0.05
    measures = []
    for centred in (False, True):
        method = Tonga(damping, decay=0.0, rank=len(x), centred=centred)
        _, work = passes.prepare(net, theta, x)
        state, _ = method.update(method.init(net), gather(net, theta, work, y))
        own = rows - rows.mean(axis=0) if centred else rows
        wanted, step = np.zeros((len(theta),) * 2), np.zeros_like(theta)
        for where in net.slices:
            wanted[where, where] = own[:, where].T @ own[:, where] / len(x)
            step[where] = np.linalg.solve(
                wanted[where, where] + damping * np.eye(where.stop - where.start), probe[where]
            )
        found = np.zeros_like(wanted)
        for i, where in enumerate(net.slices, start=1):
            found[where, where] = method.matrix(state, i)
        size = float(np.linalg.norm(rows) ** 2 / len(x))
        kind = "centred" if centred else "uncentred"
        condition = 1 + float(np.linalg.norm(wanted, 2)) / damping
        measures += [
            Measure(
                f"TONGA's {kind} matrix, empirical by rows", relative(found, wanted, size), rounding(net)
            ),
            Measure(
                f"TONGA's {kind} step, solved densely",
                relative(method.apply(state, probe), step),
                rounding(net) * condition,
            ),
        ]
    return measures


def _broken_link(rng: np.random.Generator) -> Measures:
    return check_links(nowhere(rng), "tanh")


CLAIMS = (
    Claim(
        "O4",
        "Gauss–Newton is Fisher",
        "canonical links make the Gauss–Newton matrix the Fisher matrix; damping leaves Krylov spaces as they are; "
        "TONGA's matrix is the empirical one",
        r"J_s^\top \nabla_s^2 \ell\, J_s = F + J_s^\top \mathrm{diag}((A' - T)\varphi'') J_s,\quad "
        r"\mathcal K_k(F, g) = \mathcal K_k(F + \lambda I, g)",
        "Pascanu and Bengio (2014); Le Roux, Manzagol and Bengio (2008)",
        "identity output units: the network puts out natural parameters",
        "nonlinear.curvature.gauss_newton",
        "Jacobians and rows by complex steps, information matrices of the families; the closed form F1",
        "p = 0; Krylov spaces: p = 1 in the condition of the normalised Krylov matrix; TONGA's step: p = 1",
        check_links,
        always,
        _broken_link,
        "tanh output units, another link",
        about_networks=False,
    ),
)
