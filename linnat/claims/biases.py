"""Are biases the same theorems in the affine group? Statement X10."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from linnat._checks import Array
from linnat.claims._conditions import full_factors, geometry, square, with_biases
from linnat.claims._core import Case, Claim, Measure, Measures, bound, relative
from linnat.claims.ladder import layer, task_for
from linnat.claims.natural import cancellation, check_staircase, reach
from linnat.exact.loss import gradient
from linnat.exact.natural import natural_gradient
from linnat.exact.network import Direction, LinearNetwork


class Hidden(NamedTuple):
    """Mean and covariance of what enters a layer."""

    mean: Array
    cov: Array


def check_biases(case: Case, candidate: Callable[[Case], Direction] | None = None) -> Measures:
    """N2 in x̂ = (x, 1); eliminating b centres the inputs; spectra gain the eigenvalue 1; the plain teacher."""
    net, task = case.net, case.task
    measures = check_staircase(case) if candidate is None else []
    if full_factors(net, task) is None:
        claimed = natural_gradient(net, task)
        eliminated = centred(case) if candidate is None else candidate(case)
        # Where Cov(h) is singular the two differ by what no input sees: compare what the layer's inputs see.
        seen = [a @ task.augmented_factor for a in net.before]
        pairs = list(zip(claimed, eliminated, seen, strict=True))
        gap = max(relative(e @ a, u @ a, 1e-8 * float(np.linalg.norm(u))) for u, e, a in pairs)
        condition = geometry(net, task).sides ** 2 * reach(case, claimed) * cancellation(case)
        measures.append(Measure("eliminating b centres the inputs", gap, bound(case, condition)))
    if square(net, task) is None:
        measures.append(_spectrum(case))
    measures.append(_plain_teacher(case))
    return measures


def centred(case: Case) -> Direction:
    """Return v_W = (1/L) Λ̃⁺(G_W − G_b h̄ᵀ) Cov(h)⁺ and v_b = (1/L) Λ̃⁺ G_b − v_W h̄, as gradients are signed."""
    net = case.net
    result = []
    for i, slope in enumerate(gradient(net, case.task)):
        hidden, metric = _hidden(case, i), _metric(case, i)
        weight, offset = slope[:, :-1], slope[:, -1:]
        inner = weight - offset @ hidden.mean[None, :]
        step = metric @ inner @ _pinv(hidden.cov) / net.depth
        result.append(
            np.concatenate([step, metric @ offset / net.depth - step @ hidden.mean[:, None]], axis=1)
        )
    return tuple(result)


def uncentred(case: Case) -> Direction:
    """Return the same with the second moment in place of the covariance, weights and biases apart."""
    net = case.net
    result = []
    for i, slope in enumerate(gradient(net, case.task)):
        hidden, metric = _hidden(case, i), _metric(case, i)
        second = hidden.cov + np.outer(hidden.mean, hidden.mean)
        step = metric @ slope[:, :-1] @ _pinv(second) / net.depth
        result.append(np.concatenate([step, metric @ slope[:, -1:] / net.depth], axis=1))
    return tuple(result)


def _hidden(case: Case, i: int) -> Hidden:
    """Propagate mean and covariance of the inputs to layer i (from 0), unit by unit."""
    net, task = case.net, case.task
    mean: Array = task.input_mean
    cov: Array = task.input_cov - np.outer(mean, mean)
    for weight, offset in zip(net.weights[:i], (net.biases or ())[:i], strict=True):
        mean, cov = weight @ mean + offset, weight @ cov @ weight.T
    return Hidden(mean, cov)


def _metric(case: Case, i: int) -> Array:
    """Return Λ̃_i⁺ = (B_iᵀ Π B_i)⁺."""
    after = case.net.after[i]
    return _pinv(after.T @ np.linalg.solve(case.task.noise_cov, after))


def _pinv(matrix: Array) -> Array:
    inverse: Array = np.linalg.pinv(0.5 * (matrix + matrix.T), rcond=1e-12, hermitian=True)
    return inverse


def _spectrum(case: Case) -> Measure:
    """spec M(0)⁻¹M* = spec W(0)⁻¹W* ∪ {1}: compared as polynomials, through their traces of powers."""
    net, task = case.net, case.task
    size = net.widths[0]
    affine = net.maps[0]
    for m in net.maps[1:]:
        affine = m @ affine
    goal = np.eye(size + 1)
    goal[:size] = task.goal(True)
    large, small = np.linalg.solve(affine, goal), np.linalg.solve(affine[:size, :size], task.teacher)
    gap, powers = 0.0, (np.eye(size + 1), np.eye(size))
    for _ in range(size + 1):
        powers = powers[0] @ large, powers[1] @ small
        scale = float(np.linalg.norm(powers[0])) * np.sqrt(size)
        gap = max(gap, abs(float(np.trace(powers[0]) - np.trace(powers[1]) - 1.0)) / scale)
    condition = float(np.linalg.cond(affine)) * float(np.prod(geometry(net, task).layers))
    return Measure("spec M⁻¹M* = spec W⁻¹W* ∪ {1}", gap, bound(case, condition))


def _plain_teacher(case: Case) -> Measure:
    """(W* + c* m̄ᵀS⁺) S = E[y xᵀ]: what a network without biases is measured against."""
    task = case.task
    moment = task.teacher @ task.input_cov + np.outer(task.teacher_bias, task.input_mean)
    scale = float(np.linalg.norm(task.linear_teacher) * np.linalg.norm(task.input_cov))
    gap = relative(task.linear_teacher @ task.input_cov, moment, scale)
    return Measure("teacher without biases: normal equations", gap, bound(case, np.sqrt(task.n_inputs)))


def _broken(rng: np.random.Generator) -> Measures:
    weights = [layer(4, 3, 2.0, rng), layer(2, 4, 2.0, rng)]
    net = LinearNetwork(weights, [rng.standard_normal(4), rng.standard_normal(2)])
    return check_biases(Case(net, task_for(net, rng), rng), uncentred)


CLAIMS = (
    Claim(
        "X10",
        "Biases",
        "with biases everything holds in x̂ = (x, 1); eliminating a bias centres the inputs of its layer",
        r"v_{W_i} = -\tfrac1L\tilde\Lambda_i^+(G_{W_i} - G_{b_i}\bar h^\top)\operatorname{Cov}(h_{i-1})^+,\quad "
        r"v_{b_i} = -\tfrac1L\tilde\Lambda_i^+ G_{b_i} - v_{W_i}\bar h",
        "new; centring: Desjardins et al. 2015",
        "a network with biases; the elimination: N1's condition",
        "natural_gradient",
        "dense solution in (x, 1); centred moments propagated by layers; normal equations",
        "N2's; elimination: (κ(B̃)κ(Ã))² × cancellation, since it squares",
        check_biases,
        with_biases,
        _broken,
        "second moments in place of covariances (no centring)",
    ),
)
