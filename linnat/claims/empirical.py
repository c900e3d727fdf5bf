"""What is the empirical Fisher matrix, and where does its natural gradient lead? Statement X6."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp

from linnat._checks import Array
from linnat.claims._conditions import error_left, every, geometry, without_biases
from linnat.claims._core import CONSTANT, Case, Claim, Measure, Measures, bound, relative
from linnat.claims._oracles import integrate, residual, whitened
from linnat.claims.ladder import layer, task_for
from linnat.dense.fisher import empirical_fisher, gauss_newton, gradient
from linnat.dense.sample import Sample
from linnat.exact import empirical
from linnat.exact.conditions import is_onto
from linnat.exact.fisher import fisher
from linnat.exact.network import Direction, LinearNetwork, flatten, unflatten
from linnat.exact.task import Task

MAX_DIMENSIONS, MAX_PARAMETERS, FLOW_PARAMETERS = 7, 60, 16
RTOL, SAMPLES, DEVIATIONS = 1e-9, 4000, 5.5

Matrix = Callable[[LinearNetwork, Task], Array]


def gaussian_points(net: LinearNetwork, task: Task, noise: Array) -> Sample:
    """Return weighted (x, y) that integrate every polynomial of degree five over Gaussian x and ν exactly."""
    factor = task.input_factor
    rank, outputs = factor.shape[1], net.widths[-1]
    nodes, weights = np.array([-np.sqrt(3), 0.0, np.sqrt(3)]), np.array([1 / 6, 2 / 3, 1 / 6])
    places = np.array(list(itertools.product(range(3), repeat=rank + outputs)))
    z, w = nodes[places], weights[places].prod(axis=1)
    x = z[:, :rank] @ factor.T
    y = x @ task.teacher.T + z[:, rank:] @ np.linalg.cholesky(noise).T
    return Sample(x, y, w / w.sum(), task.noise_cov, np.zeros((outputs, outputs)))


def check_empirical(case: Case, candidate: Matrix = empirical.fisher) -> Measures:
    """Compare with exact quadrature and with samples; K-FAC's gap; the solution; the flow of the layers."""
    net, task = case.net, case.task
    claimed = candidate(net, task)
    exact = empirical_fisher(net, gaussian_points(net, task, task.noise_cov))
    limit = bound(case)
    measures = [Measure("Gaussian quadrature, exact to degree five", relative(claimed, exact), limit)]
    measures.append(_sampled(case, claimed, exact))
    if candidate is not empirical.fisher:
        return measures
    measures.append(_kfac(case, exact))
    measures.append(_equation(case.rng.uniform(0.1, 4.0, 3), float(case.rng.uniform(0.2, 2.0))))
    if not bool(is_onto(net, task)) or geometry(net, task).sides > 1e4:
        return measures
    ascent, size = flatten(empirical.natural_gradient(net, task)), float(np.linalg.norm(exact, 2))
    goal = flatten(gradient(net, task))
    gap = float(
        np.linalg.norm(exact @ ascent - goal) / (size * np.linalg.norm(ascent) + np.linalg.norm(goal))
    )
    # The solution goes through a total weight: rounding of W over that of the change.
    change = np.linalg.norm(empirical.induced_change(net, task))
    start = np.linalg.norm(whitened(net, task, net.layers)) + change
    measures.append(Measure("backward error of EF u = ∇ℓ", gap, limit * float(start / change)))
    if net.n_parameters <= FLOW_PARAMETERS:
        measures.append(_flow(case))
    return measures


def _sampled(case: Case, claimed: Array, exact: Array) -> Measure:
    """Compare the trace over drawn rows with the claimed one, in standard errors: the error falls like N^{−½}."""
    net, task, rng = case.net, case.task, case.rng
    x = rng.standard_normal((SAMPLES, task.input_factor.shape[1])) @ task.input_factor.T
    y = (
        x @ task.teacher.T
        + rng.standard_normal((SAMPLES, net.widths[-1])) @ np.linalg.cholesky(task.noise_cov).T
    )
    residuals = np.linalg.solve(task.noise_cov, (y - x @ net.total.T).T).T
    squares = np.zeros(SAMPLES)
    for before, after in zip(net.before, net.after, strict=True):
        squares += ((x @ before.T) ** 2).sum(axis=1) * ((residuals @ after) ** 2).sum(axis=1)
    error = squares.std(ddof=1) / np.sqrt(SAMPLES)
    gap = float(abs(squares.mean() - np.trace(claimed)))
    return Measure(
        "trace over 4,000 samples, in standard errors",
        gap / float(error) if gap > 0 else 0.0,  # without weights nothing varies, and the trace is zero
        DEVIATIONS,
        "stated",
    )


def _kfac(case: Case, exact: Array) -> Measure:
    """Subtract K-FAC, by its definition as a product of two second moments over the quadrature points."""
    net, task = case.net, case.task
    points = gaussian_points(net, task, task.noise_cov)
    back = np.linalg.solve(task.noise_cov, (points.y - points.x @ net.total.T).T).T
    worst, start = 0.0, 0
    for i, gap in enumerate(empirical.kfac_gap(net, task)):
        inputs, errors = points.x @ net.before[i].T, back @ net.after[i]
        first = (points.weights * inputs.T) @ inputs
        second = (points.weights * errors.T) @ errors
        part = slice(start, start + len(gap))
        worst = max(worst, relative(np.kron(first, second) + gap, exact[part, part]))
        start += len(gap)
    return Measure("blocks less K-FAC's two factors", worst, bound(case))


def _flow(case: Case) -> Measure:
    """Move the layers along −u by dense solves; compare the singular values of the whitened error."""
    net, task = case.net, case.task

    def velocity(state: LinearNetwork) -> Direction:
        matrix = empirical_fisher(state, gaussian_points(state, task, task.noise_cov))
        vector = np.linalg.lstsq(matrix, -flatten(gradient(state, task)), rcond=1e-11)[0]
        return unflatten(vector, state)

    times = np.array([0.3, 0.6])
    states = integrate(velocity, net, times, RTOL)
    modes = np.linalg.svd(residual(net, task), compute_uv=False)
    claimed = empirical.mode_flow(times, modes)
    found = [np.linalg.svd(residual(state, task), compute_uv=False) for state in states]
    spread = geometry(net, task).sides ** 2
    return Measure(
        "modes of the moved layers", relative(claimed, np.array(found)), CONSTANT * RTOL * 10 * spread
    )


def _equation(modes: Array, noise: float) -> Measure:
    """Integrate the equation of the modes, each rate from its definition."""

    def slope(_: float, d: Array) -> Array:
        share = float((d**2 / (noise + 2 * d**2)).sum())
        return -d / ((1 + share) * (noise + 2 * d**2))

    run = solve_ivp(slope, (0.0, 3.0), modes, "DOP853", rtol=RTOL, atol=RTOL * 1e-2)
    gap = relative(empirical.mode_flow(3.0, modes, noise)[0], run.y[:, -1])
    return Measure("integrated equation of the modes", gap, CONSTANT * RTOL * 10)


def _few(net: LinearNetwork, task: Task) -> str | None:
    if task.n_samples is not None:
        return "needs population moments: data are not Gaussian"
    if int(np.max(task.rank)) + net.widths[-1] > MAX_DIMENSIONS or net.n_parameters > MAX_PARAMETERS:
        return f"needs a product quadrature: at most {MAX_DIMENSIONS} inputs and outputs, {MAX_PARAMETERS} parameters"
    return "needs inputs of mean 0" if task.input_mean.any() else None


def _true_fisher(net: LinearNetwork, task: Task) -> Array:
    return np.asarray(fisher(net, task))


def _broken(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(3, 2, 3.0, rng), layer(2, 3, 3.0, rng)])
    case = Case(net, task_for(net, rng), rng)
    measures = check_empirical(case, _true_fisher)
    same = relative(_true_fisher(net, case.task), gauss_newton(net, case.task))
    return [*measures, Measure("the true Fisher matrix by definition", same, bound(case))]


CLAIMS = (
    Claim(
        "X6",
        "Empirical Fisher",
        "averaged over the data's targets the Fisher matrix gains terms in the error; its flow is slow far away",
        r"EF = \tilde J^\top[I\otimes(\tilde\Sigma_\nu+\tilde E\tilde E^\top)"
        r" + \mathrm{vec}\tilde E\,\mathrm{vec}\tilde E^\top + \mathrm{swap}]\tilde J,\quad "
        r"\dot d_a = -\frac{(1-\kappa)d_a}{s^2+2d_a^2}",
        "new",
        "Gaussian x of mean 0, Gaussian noise, no biases; flow: (J), noise of the data a multiple of the model's",
        "empirical.fisher",
        "dense scores over a product quadrature exact to degree five; samples; layers moved by DOP853",
        "quadrature: p = 0; solution: rounding of W over that of the change; flow: tolerance × (κ(B̃)κ(Ã))², p = 2",
        check_empirical,
        every(without_biases, error_left, _few),
        _broken,
        "the true Fisher matrix in its place",
    ),
)
