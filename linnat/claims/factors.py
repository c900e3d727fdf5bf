"""Is K-FAC exact in deep linear networks? Statement N6."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from linnat._checks import Array
from linnat.claims._conditions import always, geometry
from linnat.claims._core import Case, Claim, Measure, Measures, bound, relative
from linnat.claims.ladder import layer, task_for
from linnat.claims.natural import cancellation
from linnat.dense.sample import of_task
from linnat.exact.fisher import fisher_block
from linnat.exact.loss import gradient
from linnat.exact.natural import natural_gradient
from linnat.exact.network import LinearNetwork

ROWS = 4096
TARGETS = 20_000
DENSE_BLOCK = 400

# E[δ_i δ_iᵀ] of the errors that reach each layer, given the noise (or residuals) at the output as columns and weights.
Factors = tuple[list[Array], list[Array]]


def check_factors(case: Case, backward: Callable[[Case], list[Array]] | None = None) -> Measures:
    """Compare K-FAC's factors with the diagonal blocks, and solve with them."""
    net, task = case.net, case.task
    inputs = input_factors(case)
    outputs = (
        output_factors(net, np.linalg.cholesky(task.noise_cov), task.noise_cov)
        if backward is None
        else backward(case)
    )
    measures = []
    blocks = [layer.size for layer in net.layers]
    root = float(np.linalg.cond(task.noise_cov)) + (
        1.0 if case.samples is None else np.sqrt(len(case.samples[0]))
    )
    if max(blocks) <= DENSE_BLOCK:
        gap = 0.0
        for i, (before, after) in enumerate(zip(inputs, outputs, strict=True), 1):
            gap = max(gap, relative(np.kron(before, after), fisher_block(net, task, i, i)))
        condition = root * _products(net, inputs, outputs)
        measures.append(Measure("F_ii = E[hhᵀ] ⊗ E[δδᵀ]", gap, bound(case, condition)))
    claimed, slope = natural_gradient(net, task, mask="block-diagonal"), gradient(net, task)
    gap = 0.0
    for u, g, before, after in zip(claimed, slope, inputs, outputs, strict=True):
        size = float(np.linalg.norm(after) * np.linalg.norm(u) * np.linalg.norm(before) + np.linalg.norm(g))
        gap = max(gap, float(np.linalg.norm(after @ u @ before - g)) / size if size else 0.0)
    condition = sum(geometry(net, task).layers) * cancellation(case) * root
    measures.append(Measure("E[δδᵀ] u E[hhᵀ] = ∂ℓ/∂W, backward", gap, bound(case, condition)))
    if backward is None:
        measures.append(_sampled(case, outputs))
    return measures


def input_factors(case: Case) -> list[Array]:
    """Return E[h_{i−1} h_{i−1}ᵀ] of what enters each layer (and a one for biases), from the rows or points."""
    net = case.net
    sums: list[Array] = [np.zeros((m, m)) for m in (layer.shape[1] for layer in net.layers)]
    for rows, weights in _points(case):
        signal = rows.T
        for i, matrix in enumerate(net.layers):
            if net.has_biases:
                signal = np.concatenate([signal, np.ones((1, signal.shape[1]))])
            sums[i] += (signal * weights) @ signal.T
            signal = matrix @ signal
    return sums


def output_factors(net: LinearNetwork, noise: Array, noise_cov: Array, weight: float = 1.0) -> list[Array]:
    """Return E[δ_i δ_iᵀ] of the errors Π ε back-propagated to each layer's output, for columns ε of `noise`."""
    delta = np.linalg.solve(noise_cov, noise)
    factors = [weight * delta @ delta.T]
    for matrix in reversed(net.weights[1:]):
        delta = matrix.T @ delta
        factors.append(weight * delta @ delta.T)
    return factors[::-1]


def _points(case: Case) -> Iterator[tuple[Array, Array]]:
    if case.samples is None:
        points = of_task(case.task)
        yield points.x, points.weights
        return
    x = case.samples[0]
    for start in range(0, len(x), ROWS):
        rows = np.asarray(x[start : start + ROWS], np.float64)
        yield rows, np.full(len(rows), 1.0 / len(x))


def _products(net: LinearNetwork, inputs: Sequence[Array], outputs: Sequence[Array]) -> float:
    """How much larger products of norms are than the norm of the product of layers, on either side, squared."""
    sizes = [float(np.linalg.norm(w)) for w in net.layers]
    worst = 1.0
    for i in range(net.depth):
        before = float(np.prod(sizes[:i])) ** 2 * float(np.linalg.norm(inputs[0]))
        after = float(np.prod(sizes[i + 1 :])) ** 2 * float(np.linalg.norm(outputs[-1]))
        size = float(np.linalg.norm(inputs[i]) * np.linalg.norm(outputs[i]))
        worst = max(worst, before * after / size if size else 1.0)
    return worst


def _sampled(case: Case, outputs: Sequence[Array]) -> Measure:
    """Targets sampled from the model: the error falls like samples^{−½}, with the constant of the Gaussian."""
    net, noise_cov = case.net, case.task.noise_cov
    noise = np.linalg.cholesky(noise_cov) @ case.rng.standard_normal((net.widths[-1], TARGETS))
    found = output_factors(net, noise, noise_cov, 1.0 / TARGETS)
    worst = 0.0
    for estimate, true in zip(found, outputs, strict=True):
        spread = np.sqrt((np.trace(true) ** 2 + np.linalg.norm(true) ** 2) / TARGETS)
        worst = max(worst, float(np.linalg.norm(estimate - true) / spread) if spread else 0.0)
    return Measure("E[δδᵀ] from sampled targets, in standard errors", worst, 5.0, "stated")


def _of_residuals(case: Case) -> list[Array]:
    """The factors of the empirical Fisher: residuals of the data in place of the model's noise."""
    points = of_task(case.task)
    wrong = (points.y - points.x @ case.net.total.T).T * np.sqrt(points.weights)
    noisy = np.concatenate([wrong, np.linalg.cholesky(case.task.noise_cov)], axis=1)
    return output_factors(case.net, noisy, case.task.noise_cov)


def _broken(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(4, 3, 2.0, rng), layer(2, 4, 2.0, rng)])
    return check_factors(Case(net, task_for(net, rng), rng), _of_residuals)


CLAIMS = (
    Claim(
        "N6",
        "K-FAC is exact here",
        "K-FAC's factors under the model's own noise are the diagonal blocks of F; its step is the block-diagonal one",
        r"F_{ii} = E[h_{i-1}h_{i-1}^\top]\otimes E[\delta_i\delta_i^\top]",
        "Bernacchia et al. 2018, Martens",
        "targets from the model (integrated or sampled), not from the data",
        "fisher_block",
        "data rows propagated forwards and the model's noise backwards",
        "κ(Σ) × product of the layers' norms over the norm of their product, p = 1; sampling: five standard errors",
        check_factors,
        always,
        _broken,
        "the data's targets in place of the model's (empirical Fisher)",
    ),
)
