"""Networks and oracles for the derived formulas: loops over layers, unit and complex steps.

The loss of a linear network is a polynomial and the total weight is linear in each layer, so that unit
differences of it and complex steps of the loss are exact to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tests import tolerances
from tests.strategies import Problem, make_problem

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Case:
    """A network, its error W* − W, S and Σ (with biases: Ŝ and one more column of the error)."""

    name: str
    weights: Arrays
    error: np.ndarray
    input_cov: np.ndarray
    noise_cov: np.ndarray
    biases: Arrays = field(default_factory=list)

    @property
    def arguments(self) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray]:
        return self.weights, self.error, self.input_cov, self.noise_cov


def case_of(name: str, problem: Problem) -> Case:
    """Return the plain arrays of a problem, with the error from a loop over the layers."""
    weights = [np.array(w) for w in problem.net.weights]
    task = problem.task
    return Case(name, weights, task.linear_teacher - total(weights), task.input_cov, task.noise_cov)


def problems() -> list[tuple[str, Problem]]:
    """Named problems: every rung of the ladder without biases, at mild conditions."""
    return [
        ("square", make_problem("tame", 1, (3, 3, 3, 3))),
        ("wide", make_problem("tame", 2, (3, 5, 4, 2))),
        ("one layer", make_problem("tame", 3, (3, 2))),
        ("bottleneck", make_problem("bottleneck", 4, (4, 2, 4))),
        ("narrow on the way", make_problem("bottleneck", 5, (5, 3, 4, 2))),
        ("ranks 2, 1, 2", make_problem("rank-deficient", 6, (3, 3, 3, 3), layer_ranks=(2, 1, 2))),
        ("zero layer", make_problem("rank-deficient", 7, (3, 2, 3), layer_ranks=(2, 0))),
        ("singular S", make_problem("singular", 8, (4, 4, 3), input_rank=2)),
        ("two layers", make_problem("tame", 9, (3, 4, 2))),
    ]


def cases() -> list[Case]:
    return [case_of(name, problem) for name, problem in problems()]


def total(weights: Sequence[np.ndarray]) -> np.ndarray:
    out = np.eye(weights[0].shape[1])
    for weight in weights:
        out = weight @ out
    return out


def loss(weights: Sequence[np.ndarray], case: Case) -> complex:
    """Return ½ tr[Π(W* − W)S(W* − W)ᵀ] for any weights, complex ones included."""
    error = case.error + total(case.weights) - total(weights)
    return complex(0.5 * np.sum(np.linalg.solve(case.noise_cov, error) * (error @ case.input_cov)))


def gradient(case: Case) -> Arrays:
    """Return ∂ℓ/∂W_i by complex steps."""
    out = []
    for i, weight in enumerate(case.weights):
        slopes = np.empty(weight.shape)
        for entry in np.ndindex(*weight.shape):
            moved = [w.astype(complex) for w in case.weights]
            moved[i][entry] += 1e-150j
            slopes[entry] = loss(moved, case).imag / 1e-150
        out.append(slopes)
    return out


def roots(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return S^½ and Π^½, both symmetric; eigenvalues of S that are rounding errors of zero are zero."""
    values, vectors = np.linalg.eigh(case.input_cov)
    values = np.where(values > 1e-12 * values.max(initial=0.0), values, 0.0)
    root_s = (vectors * np.sqrt(values)) @ vectors.T
    values, vectors = np.linalg.eigh(case.noise_cov)
    return root_s, (vectors / np.sqrt(values)) @ vectors.T


def unit_steps(case: Case) -> list[tuple[int, np.ndarray]]:
    """Return (layer, unit matrix) for every parameter, columns stacked, W_1 first."""
    out = []
    for i, weight in enumerate(case.weights):
        rows, columns = weight.shape
        for place in range(rows * columns):
            unit = np.zeros(rows * columns)
            unit[place] = 1.0
            out.append((i, unit.reshape((rows, columns), order="F")))
    return out


def moved_total(case: Case, steps: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
    weights = [w.copy() for w in case.weights]
    for layer, unit in steps:
        weights[layer] = weights[layer] + unit
    return total(weights)


def jacobian(case: Case) -> np.ndarray:
    """Return d vec(Π^½ W S^½) / d parameters from unit steps."""
    root_s, root_pi = roots(case)
    base = total(case.weights)
    columns = [
        (root_pi @ (moved_total(case, [step]) - base) @ root_s).flatten(order="F")
        for step in unit_steps(case)
    ]
    return np.stack(columns, axis=1)


def whitened_error(case: Case) -> np.ndarray:
    root_s, root_pi = roots(case)
    return (root_pi @ case.error @ root_s).flatten(order="F")


def hessian(case: Case) -> np.ndarray:
    """Return JᵀJ minus the error times second differences of W over unit steps in two layers."""
    root_s, root_pi = roots(case)
    pairing = root_pi.T @ (root_pi @ case.error @ root_s) @ root_s.T
    j = jacobian(case)
    out = j.T @ j
    steps = unit_steps(case)
    base = total(case.weights)
    single = [moved_total(case, [step]) for step in steps]
    for p, one in enumerate(steps):
        for q, two in enumerate(steps):
            if one[0] != two[0]:
                out[p, q] -= np.sum(pairing * (moved_total(case, [one, two]) - single[p] - single[q] + base))
    return out


def layer_slices(case: Case) -> list[slice]:
    ends = np.cumsum([w.size for w in case.weights])
    return [slice(end - w.size, end) for end, w in zip(ends, case.weights, strict=True)]


def block_diagonal(matrix: np.ndarray, case: Case, mask: np.ndarray | None = None) -> np.ndarray:
    """Return the matrix with the blocks outside of the mask (by default the diagonal) replaced by zero."""
    kept = np.eye(len(case.weights)) if mask is None else np.asarray(mask)
    out = np.zeros_like(matrix)
    for i, rows in enumerate(layer_slices(case)):
        for j, columns in enumerate(layer_slices(case)):
            out[rows, columns] = kept[i, j] * matrix[rows, columns]
    return out


def stack(direction: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(d).flatten(order="F") for d in direction])


def condition(case: Case) -> float:
    """Return the largest κ(B̃_i)κ(Ã_i) on the ranges: what products of layers cost, p = 1."""
    root_s, root_pi = roots(case)
    worst = 1.0
    for i in range(len(case.weights)):
        before = total(case.weights[:i]) @ root_s if i else root_s
        after = root_pi @ (
            total(case.weights[i + 1 :]) if i + 1 < len(case.weights) else np.eye(len(root_pi))
        )
        worst = max(worst, on_range(before) * on_range(after))
    return worst


def on_range(matrix: np.ndarray) -> float:
    values = np.linalg.svd(matrix, compute_uv=False)
    values = values[values > 1e-10 * max(values.max(initial=0.0), 1e-300)]
    return float(values[0] / values[-1]) if values.size else 1.0


def residual(matrix: np.ndarray, vector: np.ndarray, right: np.ndarray) -> float:
    """Return ‖Av − b‖ / (‖A‖‖v‖ + ‖b‖)."""
    scale = np.linalg.norm(matrix, 2) * np.linalg.norm(vector) + np.linalg.norm(right)
    return float(np.linalg.norm(matrix @ vector - right) / scale) if scale else 0.0


def bound(case: Case) -> float:
    """The bound for formulas that invert products of layers: eps × size × κ(B̃)κ(Ã), p = 1."""
    return tolerances.solve(np.float64, sum(max(w.shape) for w in case.weights), condition(case))


def assert_solves(matrix: np.ndarray, direction: Sequence[np.ndarray], right: np.ndarray, case: Case) -> None:
    error = residual(matrix, stack(direction), right)
    assert error <= bound(case), f"{case.name}: backward error {error:.3g} exceeds {bound(case):.3g}"
