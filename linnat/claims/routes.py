"""Do all routes to one result give the same? Statement N8."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from linnat._checks import Array
from linnat.claims._conditions import determined, every, geometry, small
from linnat.claims._core import Case, Claim, Measure, Measures, bound, relative
from linnat.claims._oracles import Solution, jacobian, minimum_norm, norm, residual, stack
from linnat.claims.ladder import layer, task_for
from linnat.claims.natural import cancellation
from linnat.exact.damping import METHODS as DAMPED
from linnat.exact.damping import solve_damped
from linnat.exact.minimum_norm import METHODS, solve_minimum_norm
from linnat.exact.natural import natural_gradient
from linnat.exact.network import LinearNetwork, flatten
from linnat.exact.null_space import NullSpace, null_space
from linnat.exact.spectrum import ROUTES, fisher_eigenvalues, fisher_logdet
from linnat.exact.task import Task

Basis = Callable[[LinearNetwork, Task], NullSpace]
MAX_PARAMETERS = 60
MAX_CONDITION = 1e5  # of J: the dense routes square it


def check_routes(case: Case, candidate: Basis = null_space) -> Measures:
    """Compare every route to the minimum norm, to the damped solution and to the spectrum with one SVD of J."""
    matrix, least = jacobian(case.net, case.task), minimum_norm(case.net, case.task)
    measures = _null_space(case, matrix, least, candidate(case.net, case.task))
    measures += _spectra(case, matrix, least)
    if least.rank and least.condition <= MAX_CONDITION:
        measures += _solutions(case, matrix, least)
    return measures


def _null_space(case: Case, matrix: Array, least: Solution, basis: NullSpace) -> Measures:
    """Measure that it is null, orthonormal where it says so, whole, and what is left of N2 without it."""
    net, condition = case.net, sum(geometry(case.net, case.task).layers)
    whole = np.concatenate([basis.exchanges, basis.outside], axis=1)
    size = float(np.linalg.norm(matrix, 2)) or 1.0
    gram = whole.T @ whole
    inner = basis.exchanges.shape[1]
    mixed = float(np.abs(gram[:, inner:] - np.eye(len(gram))[:, inner:]).max(initial=0.0))
    units = float(np.abs(np.diag(gram) - 1).max(initial=0.0))
    measures = [
        Measure("J takes it to zero", float(np.linalg.norm(matrix @ whole)) / size, bound(case, condition)),
        Measure("units, and orthonormal outside of the ranges", max(mixed, units), bound(case)),
    ]
    if least.condition > MAX_CONDITION:
        return measures
    values = np.linalg.svd(whole, compute_uv=False)
    independent = int((values > 1e-8).sum())
    measures.append(
        Measure(
            "dimension against P − rank J", abs(independent - (net.n_parameters - least.rank)), 0.5, "stated"
        )
    )
    start = flatten(natural_gradient(net, case.task))
    left = start
    frame = np.linalg.qr(whole)[0]
    for _ in range(2):
        left = left - frame @ (frame.T @ left)
    scale = max(1.0, float(np.linalg.norm(start)) / (float(np.linalg.norm(least.vector)) or 1.0))
    limit = bound(case, least.condition * condition * scale * cancellation(case))
    measures.append(
        Measure("N2 less its null part: the minimum norm", _gap(case, left, -least.vector), limit)
    )
    return measures


def _solutions(case: Case, matrix: Array, least: Solution) -> Measures:
    """Compare all methods with J⁺Ẽ, and the parameter and the sample space with each other."""
    net, task, right = case.net, case.task, stack(residual(case.net, case.task))
    limit = bound(case, least.condition * sum(geometry(net, task).layers) * cancellation(case))
    measures = []
    for method in METHODS:
        found = flatten(solve_minimum_norm(net, task, method=method).direction)
        measures.append(Measure(f"minimum norm by {method}", _gap(case, found, -least.vector), limit))
    spaces = {
        "parameters": _on_range(matrix.T @ matrix, matrix.T @ right, least.rank),
        "samples": matrix.T @ _on_range(matrix @ matrix.T, right, least.rank),
    }
    squared = bound(case, least.condition**2 * cancellation(case))
    for name, vector in spaces.items():
        measures.append(
            Measure(f"minimum norm in the space of {name}", _gap(case, vector, least.vector), squared)
        )
    top = float(np.linalg.norm(matrix, 2)) ** 2
    strength = 1e-3 * top
    by_samples = matrix.T @ np.linalg.solve(matrix @ matrix.T + strength * np.eye(len(matrix)), right)
    moved = matrix.T @ matrix + strength * np.eye(matrix.shape[1])
    by_parameters = np.linalg.solve(moved, matrix.T @ right)
    limit = bound(case, 1e3 * net.depth**2 * cancellation(case))
    gap = _gap(case, by_parameters, by_samples)
    measures.append(Measure("damped, space of parameters against samples", gap, limit))
    for method in DAMPED:
        if method == "sylvester" and not (net.depth == 2 and task.white_noise):
            continue
        damped = flatten(solve_damped(net, task, strength, method=method).direction)
        measures.append(Measure(f"damped by {method}", _gap(case, damped, -by_samples), limit))
    return measures


def _spectra(case: Case, matrix: Array, least: Solution) -> Measures:
    """Compare the eigenvalues of F and of JJᵀ, and the log-determinant, with the singular values of J."""
    values = np.linalg.svd(matrix, compute_uv=False)[: least.rank]
    top = float(values[0]) ** 2 if len(values) else 1.0
    measures = []
    for route in ROUTES[1:]:
        found = fisher_eigenvalues(case.net, case.task, route)
        gap = float(np.abs(found.values[: len(values)] - values**2).max(initial=0.0)) / top
        measures.append(Measure(f"spectrum of F by {route}", gap, bound(case)))
    if len(values) and least.condition <= MAX_CONDITION:
        wanted = 2 * float(np.log(values).sum())
        gap = abs(float(fisher_logdet(case.net, case.task).value) - wanted) / len(values)
        measures.append(Measure("log-determinant, per eigenvalue", gap, bound(case, least.condition)))
    return measures


def _on_range(matrix: Array, right: Array, rank: int) -> Array:
    """Return A⁺ b by the `rank` largest eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    kept = vectors[:, len(values) - rank :]
    solution: Array = kept @ ((kept.T @ right) / values[len(values) - rank :])
    return solution


def _gap(case: Case, found: Array, wanted: Array) -> float:
    return relative(found, wanted, 1e-8 * float(norm(case.net.layers)))


def _few(net: LinearNetwork, task: Task) -> str | None:
    if net.n_parameters <= MAX_PARAMETERS:
        return None
    return f"needs at most {MAX_PARAMETERS} parameters for dense routes, has {net.n_parameters}"


def _deep(net: LinearNetwork, task: Task) -> str | None:
    return None if net.depth > 1 else "needs at least two layers: one layer has one route"


def _without_the_last(net: LinearNetwork, task: Task) -> NullSpace:
    """The null space without the exchanges at the last hidden layer."""
    found = null_space(net, task)
    last = net.layers[-1].size
    moved = np.abs(found.exchanges[-last:]).max(axis=0) > 0
    return found._replace(exchanges=found.exchanges[:, ~moved])


def _broken(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(3, 3, 3.0, rng), layer(3, 3, 3.0, rng), layer(3, 3, 3.0, rng)])
    return check_routes(Case(net, task_for(net, rng), rng), _without_the_last)


CLAIMS = (
    Claim(
        "N8",
        "Equal routes",
        "exchanges between neighbours, with what lies outside of the ranges, are the whole null space of F; the "
        "spaces of parameters and of samples have one spectrum and one solution",
        r"\ker J = \bigoplus_i \ker J_i \oplus \{(X_i M_i,\, -W_{i+1} X_i)\},\quad "
        r"J^\top (JJ^\top)^+ = (J^\top J)^+ J^\top",
        "new; identities of the pseudo-inverse: Penrose 1955",
        "any widths, ranks and S; two layers or more",
        "null_space",
        "one dense SVD of J; dense solves in both spaces",
        "solutions: κ(J) × Σκ(layer) × cancellation in E, p = 1; in either space: κ(J)², p = 2 in κ(J); spectra: p = 0",
        check_routes,
        every(_deep, small, _few, determined),
        _broken,
        "the exchanges at one hidden layer left out",
    ),
)
