"""Is the Fisher matrix what the definition says, and what is the Hessian beyond it? Statements F1, F2, S1."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from linnat._checks import Array
from linnat.claims._conditions import (
    always,
    balanced,
    every,
    full_factors,
    geometry,
    small,
    white,
    without_biases,
)
from linnat.claims._core import Case, Claim, Measure, Measures, bound, relative
from linnat.claims._oracles import (
    Expansion,
    affordable,
    along,
    jacobian,
    least_squares,
    loss_of,
    norm,
    null_direction,
    random_direction,
    residual,
    sides,
    whitened,
)
from linnat.claims.ladder import layer, task_for
from linnat.dense.fisher import empirical_fisher, sampled_fisher, score_covariance
from linnat.dense.fisher import hessian as dense_hessian
from linnat.dense.sample import of_data
from linnat.exact.fisher import balanced_spectrum, fisher_rank, hessian
from linnat.exact.network import LinearNetwork, flatten
from linnat.exact.operators import fisher_operator
from linnat.exact.task import Task

Operator = Callable[[LinearNetwork, Task, Array], Array]
Matrix = Callable[[LinearNetwork, Task], Array]
TARGETS = 64
DENSE_SCORES = 120  # parameters, for oracles that sum over points and shifted parameters


def _apply(net: LinearNetwork, task: Task, vector: Array) -> Array:
    return np.asarray(fisher_operator(net, task) @ vector)


def check_fisher(case: Case, candidate: Operator = _apply) -> Measures:
    """Compare quadratic forms with the curvature of the divergence, then the matrix with score covariances."""
    net, task = case.net, case.task
    measures = [_divergence(case, candidate), _invisible(case, candidate)]
    if affordable(net, task):
        solution = least_squares(jacobian(net, task), np.zeros(len(jacobian(net, task))))
        g = geometry(net, task)
        if solution.condition < 1e10 and g.sides < 1e10:
            gap = float(abs(int(fisher_rank(net, task)) - solution.rank))
            measures.append(Measure("rank F, an integer", gap, 0.5, "stated"))
    if net.n_parameters <= DENSE_SCORES:
        matrix = np.stack([candidate(net, task, e) for e in np.eye(net.n_parameters)])
        covariance = score_covariance(net, task)
        root = np.linalg.cond(np.linalg.cholesky(task.noise_cov))
        # Targets are f(x) plus noise: the noise is known to eps ‖f(x)‖.
        output = float(np.linalg.norm(whitened(net, task, net.layers)))
        condition = root**2 * (_product_size(case) + output * net.widths[0])
        measures.append(Measure("covariance of scores", relative(matrix, covariance), bound(case, condition)))
        sample = sampled_fisher(net, task, TARGETS, case.rng)
        error, spread = np.linalg.norm(matrix - sample.estimate), np.linalg.norm(sample.stderr)
        gap = float(error / spread) if spread else float(error)
        measures.append(Measure("covariance of sampled scores, in standard errors", gap, 4.0, "stated"))
    return measures


def _divergence(case: Case, candidate: Operator) -> Measure:
    net, task = case.net, case.task
    here = whitened(net, task, net.layers)
    worst, noise = 0.0, 1.0
    for _ in range(3):
        step = random_direction(case)

        def divergence(layers: list[Array]) -> Array:
            return np.asarray(0.5 * ((whitened(net, task, layers) - here) ** 2).sum())

        expansion: Expansion = along(case, step, divergence, 2 * net.depth)
        curvature = 2 * float(expansion.coefficients[2])
        form = float(flatten(step) @ candidate(net, task, flatten(step)))
        size = sum(p * float(np.linalg.norm(d)) for p, d in zip(sides(net, task), step, strict=True)) ** 2
        rounding = expansion.peak / expansion.radius**2
        worst = max(worst, relative(form, curvature, size or rounding))
        noise = max(noise, rounding / size if size else 1.0)
    return Measure("curvature of the divergence", worst, bound(case, noise))


def _invisible(case: Case, candidate: Operator) -> Measure:
    net, task = case.net, case.task
    worst = 0.0
    for i in range(1, net.depth):
        step = null_direction(case, i)
        parts = sides(net, task)
        size = max(parts) * sum(p * float(np.linalg.norm(d)) for p, d in zip(parts, step, strict=True))
        image = float(np.linalg.norm(candidate(net, task, flatten(step))))
        worst = max(worst, image / size if size else image)
    return Measure("null directions (X W_i, −W_{i+1} X)", worst, bound(case))


def check_hessian(case: Case, candidate: Matrix = hessian) -> Measures:
    """Compare with second Taylor coefficients of the loss and differences; then H = F at the optimum; blocks."""
    net, task = case.net, case.task
    matrix = candidate(net, task)
    loss = loss_of(case)
    worst, noise = 0.0, 1.0
    for _ in range(4):
        step = random_direction(case)
        expansion = along(case, step, loss, 2 * net.depth)
        form, truth = flatten(step) @ matrix @ flatten(step), 2 * expansion.coefficients[2]
        size = float(np.linalg.norm(matrix)) * norm(step) ** 2
        worst = max(worst, abs(float(form - truth)) / size if size else 0.0)
        noise = max(noise, expansion.peak / expansion.radius**2 / size if size else 1.0)
    rows = 1.0 if case.samples is None else float(np.sqrt(len(case.samples[0])))
    measures = [Measure("second derivatives of the loss", worst, bound(case, noise * rows))]
    if net.n_parameters <= DENSE_SCORES and case.samples is None:
        truth = dense_hessian(net, task)
        # Differences of unit steps round like the loss of a network one unit larger in every layer.
        reach = float(np.prod([np.linalg.norm(w, 2) + 1.0 for w in net.layers]))
        reach *= float(np.linalg.norm(case.task.moments(net.has_biases).factor, 2))
        moved = (reach + float(np.linalg.norm(residual(net, task)))) ** 2 * float(
            np.linalg.cond(task.noise_cov)
        )
        condition = max(noise, moved / (float(np.linalg.norm(matrix)) or 1.0))
        measures.append(Measure("second differences", relative(matrix, truth), bound(case, condition)))
    measures.append(_at_optimum(case, candidate))
    measures += _blocks(case)
    return measures


def _at_optimum(case: Case, candidate: Matrix) -> Measure:
    """H = F where the network is the teacher."""
    net, task = case.net, case.task
    total = net.total[:, : net.widths[0]]
    shift = net.total[:, -1] if net.has_biases else None
    reached = Task(
        total, task.input_cov, task.noise_cov, shift, task.input_mean if task.input_mean.any() else None
    )
    root = jacobian(net, reached)
    gap = np.linalg.norm(candidate(net, reached) - root.T @ root)
    size = np.linalg.norm(root) ** 2
    return Measure(
        "H = F at the optimum", float(gap / size) if size else float(gap), bound(case, _product_size(case))
    )


def _product_size(case: Case) -> float:
    """How much larger the product of the layers' norms is than J: the cancellation in W* − W at the optimum."""
    net = case.net
    whole = float(np.prod([np.linalg.norm(w, 2) for w in net.weights]))
    least = min(float(np.linalg.norm(w, 2)) for w in net.weights) or 1.0
    size = max(sides(net, case.task)) or 1.0
    return (
        whole / least * float(np.linalg.norm(case.task.moments(net.has_biases).factor, 2)) / size
    ) ** 2 + 1.0


def _blocks(case: Case) -> Measures:
    """‖F_ij‖² ≤ ‖F_ii‖‖F_jj‖; balanced and white: equal norms; full factors: canonical correlations are 1."""
    net, task = case.net, case.task
    root = jacobian(net, task)
    parts = np.split(root, np.cumsum([w.size for w in net.layers])[:-1], axis=1)
    norms = np.array([[np.linalg.norm(a.T @ b, 2) for b in parts] for a in parts])
    diagonal = np.sqrt(np.outer(np.diag(norms), np.diag(norms)))
    excess = float((norms - diagonal).max()) / (float(norms.max()) or 1.0)
    measures = [Measure("‖F_ij‖² ≤ ‖F_ii‖‖F_jj‖, excess", max(excess, 0.0), bound(case))]
    if balanced(net, task) is None and white(net, task) is None and not net.has_biases:
        spread = float(norms.max() - norms.min()) / (float(norms.max()) or 1.0)
        measures.append(
            Measure("blocks of equal norm when balanced", spread, bound(case, geometry(net, task).sides))
        )
    if full_factors(net, task) is None and net.depth > 1:
        bases = [least_squares(p, np.zeros(len(p))) for p in parts]
        ranges = [
            p @ (s.right.T / np.linalg.norm(p @ s.right.T, axis=0)) for p, s in zip(parts, bases, strict=True)
        ]
        cosines = [np.linalg.svd(a.T @ b, compute_uv=False) for a, b in itertools.pairwise(ranges)]
        gap = max(float(np.abs(np.where(c > 0.5, c - 1, c)).max()) for c in cosines)
        measures.append(
            Measure("canonical correlations of layers are 1", gap, bound(case, geometry(net, task).sides))
        )
    return measures


def check_spectrum(case: Case, depth: int | None = None) -> Measures:
    """Compare the formula with the squared singular values of the dense Jacobian."""
    net, task = case.net, case.task
    values = np.linalg.svd(net.total, compute_uv=False)
    count = net.depth if depth is None else depth
    claimed = np.sort(balanced_spectrum(values, count, net.widths[0], net.widths[-1]).ravel())[::-1]
    true = np.zeros(len(claimed))
    found = np.linalg.svd(jacobian(net, task), compute_uv=False) ** 2
    true[: len(found)] = found[: len(true)]
    measures = [
        Measure("eigenvalues of J Jᵀ", float(np.abs(claimed - true).max() / (true[0] or 1.0)), bound(case))
    ]
    least = values[-1] / values[0] if values[0] > 0 else 0.0
    if len(set(net.widths)) == 1 and least > 1e-6 and net.depth > 1:
        law = least ** -(2 - 2 / net.depth)
        measures.append(Measure("κ = (s₁/s_n)^{2−2/L}", relative(true[0] / true[-1], law), bound(case, law)))
    return measures


def _empirical(net: LinearNetwork, task: Task, rng: np.random.Generator) -> Operator:
    rows = rng.standard_normal((200, net.widths[0])) @ np.linalg.cholesky(task.input_cov).T
    noise = rng.standard_normal((200, net.widths[-1])) @ np.linalg.cholesky(task.noise_cov).T
    matrix = empirical_fisher(net, of_data(rows, rows @ task.teacher.T + noise, task.noise_cov))
    return lambda _, __, vector: matrix @ vector


def _broken_fisher(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(4, 3, 2.0, rng), layer(2, 4, 2.0, rng)])
    task = task_for(net, rng, distance=2.0)
    return check_fisher(Case(net, task, rng), _empirical(net, task, rng))


def _broken_hessian(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(3, 3, 2.0, rng), layer(2, 3, 2.0, rng)])

    def fisher_as_hessian(net: LinearNetwork, task: Task) -> Array:
        return jacobian(net, task).T @ jacobian(net, task)

    return check_hessian(Case(net, task_for(net, rng), rng), fisher_as_hessian)


def _broken_spectrum(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(3, 3, 5.0, rng), layer(3, 3, 5.0, rng)])
    return check_spectrum(Case(net, Task(np.eye(3)), rng))


CLAIMS = (
    Claim(
        "F1",
        "Fisher matrix",
        "F = JᵀJ in Kronecker blocks; its rank counts what each layer adds; singular for every depth above one",
        r"F_{ij} = (A_i S A_j^\top)\otimes(B_i^\top \Pi B_j),\quad "
        r"\operatorname{rank}F = \sum_i r(\tilde B_i)r(\tilde A_i) - \sum_{i<L} r(\tilde B_i)r(\tilde A_{i+1})",
        "Bernacchia et al. 2018; rank formula new",
        "none",
        "fisher",
        "curvature of the divergence; covariance of scores, integrated and sampled; rank of J",
        "rounding of the divergence on the circle over its curvature, p = 1; sampling: four standard errors",
        check_fisher,
        always,
        _broken_fisher,
        "the empirical Fisher, of the data's targets, called exact",
    ),
    Claim(
        "F2",
        "Hessian",
        "H is F plus blocks between layers that carry the error; neither is near block-diagonal",
        r"H = F + R,\quad R_{ii} = 0,\quad R = 0 \text{ where } \tilde E = 0",
        "Bernacchia et al. 2018",
        "H: none; equal norms of blocks: balanced and white; canonical correlations 1: N1's condition",
        "hessian",
        "second Taylor coefficients of the loss; differences; blocks of the dense J",
        "rounding of the loss on the circle over ‖H‖, p = 1; correlations: κ(Ã)κ(B̃), p = 1",
        check_hessian,
        small,
        _broken_hessian,
        "H = F claimed away from the optimum",
    ),
    Claim(
        "S1",
        "Spectrum at balanced weights",
        "eigenvalues of F are sums over layers of powers of two singular values of the total weight",
        r"\lambda_{ab} = \sum_{i=1}^L s_a^{2(i-1)/L} s_b^{2(L-i)/L}",
        "Arora et al. 2018, Saxe et al. 2014",
        "balanced weights, S = I, Π = I",
        "balanced_spectrum",
        "singular values of the dense Jacobian",
        "eigenvalues are perfectly conditioned relative to the largest, p = 0; their ratio: p = 1 in κ(F)",
        check_spectrum,
        every(without_biases, white, balanced, small),
        _broken_spectrum,
        "layers that are not balanced",
    ),
)
