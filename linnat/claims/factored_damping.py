"""What does damping the factors in place of their product cost? Statement N7."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from linnat._checks import Array
from linnat.claims._conditions import determined, every, geometry, small
from linnat.claims._core import Case, Claim, Measure, Measures, bound
from linnat.claims._oracles import jacobian, minimum_norm, residual, stack
from linnat.claims.ladder import layer, task_for
from linnat.claims.natural import cancellation
from linnat.exact.factored import factored_damping_error
from linnat.exact.factored_series import DampingSeries, factored_damping_series
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task

Series = Callable[[LinearNetwork, Task, str | None], DampingSeries]
MAX_PARAMETERS = 120
STEP = 0.05  # of the radius in which the series converges
MAX_CONDITION = 300.0


class Dense(NamedTuple):
    """The factors of every layer and what damping needs of the whole matrix, from plain products.

    Attributes
    ----------
    outer, inner : tuples of arrays
        Λ̃_i and Λ_{i−1}.
    pi : tuple of float
    slopes : tuple of arrays (n_i, m_i)
        −∂ℓ/∂W_i.
    jacobian : array (n_L ρ, P)
    """

    outer: tuple[Array, ...]
    inner: tuple[Array, ...]
    pi: tuple[float, ...]
    slopes: tuple[Array, ...]
    jacobian: Array


def check_factored(case: Case, candidate: Series | None = None) -> Measures:
    """Measure the error, its floor and the order of what the series leaves, against dense solves."""
    net, task = case.net, case.task
    dense = _dense(net, task)
    if not any(s.any() for s in dense.slopes):
        return [Measure("the gradient vanishes: nothing to damp", 0.0, 1.0, "stated")]
    measures = []
    for mask in (None, "block-diagonal"):
        measures += _errors(case, dense, mask)
        measures += _order(case, dense, mask, candidate or factored_damping_series)
    return measures


def _errors(case: Case, dense: Dense, mask: str | None) -> Measures:
    """Compare with dense solves where λ is of the size of ‖F‖, and with what no π can do better."""
    net, task, words = case.net, case.task, mask or "whole matrix"
    top = float(np.linalg.norm(dense.jacobian, 2)) ** 2
    strengths = top * np.array([1e-2, 1.0, 1e2])
    found = factored_damping_error(net, task, strengths, mask)
    wanted = np.array([_relative(dense, float(s), mask, net.depth) for s in strengths])
    limit = bound(case, _condition(dense, float(strengths[0])) * cancellation(case))
    gap = float(np.abs(found.relative - wanted).max())
    measures = [Measure(f"error of factored damping, {words}", gap, limit)]
    if mask is not None:
        floor = np.array([_floor(dense, float(s)) for s in strengths])
        measures.append(Measure("floor of every π", float(np.abs(found.floor - floor).max()), limit))
        measures.append(Measure("floor above the error", max(0.0, float((floor - wanted).max())), limit))
    return measures


def _order(case: Case, dense: Dense, mask: str | None, candidate: Series) -> Measures:
    """Measure by how much half of √λ (or of 1/√λ) makes what the series leaves smaller: by 8."""
    net, task, words = case.net, case.task, mask or "whole matrix"
    least = minimum_norm(net, task)
    if max(least.condition, geometry(net, task).sides) > MAX_CONDITION or not least.rank:
        return []
    series, measures = candidate(net, task, mask), []
    weak, strong = _radii(dense, least.vector, mask, net.depth)
    for name, coefficients, start, power in (
        ("weak", series.weak, weak, 2.0),
        ("strong", series.strong, strong, -2.0),
    ):
        steps = start * np.array([1.0, 0.5])
        errors = np.array([_relative(dense, float(s**power), mask, net.depth) for s in steps])
        left = np.abs(errors - np.polynomial.polynomial.polyval(steps, coefficients))
        rounding = bound(case, _condition(dense, float(steps[1] ** power)) * cancellation(case))
        ratio = max(0.0, float(left[1]) - rounding) / max(float(left[0]), rounding)
        measures.append(Measure(f"{name} series, {words}: rest at half the step", ratio, 0.2, "stated"))
        if mask is None and name == "weak":
            continue  # its second coefficient, a scalar product, may happen to be small
        share = max(0.0, float(left[0]) - rounding) / max(float(abs(errors[0] - errors[1])), rounding)
        measures.append(Measure(f"{name} series, {words}: rest over change", share, 8 * STEP**2, "stated"))
    return measures


@lru_cache(maxsize=4)
def _dense(net: LinearNetwork, task: Task) -> Dense:
    factor, whole = task.moments(net.has_biases).factor, task.noise_factor
    error = residual(net, task)
    outer, inner, pi, slopes = [], [], [], []
    for after, before in zip(net.after, net.before, strict=True):
        back, signal = np.linalg.solve(whole, after), before @ factor
        outer.append(back.T @ back)
        inner.append(signal @ signal.T)
        means = float(np.trace(inner[-1])) / len(signal), float(np.trace(outer[-1])) / back.shape[1]
        pi.append((means[0] / means[1]) ** 0.5 if min(means) > 0 else 1.0)
        slopes.append(back.T @ error @ signal.T)
    return Dense(tuple(outer), tuple(inner), tuple(pi), tuple(slopes), jacobian(net, task))


def _factored(dense: Dense, damping: float) -> Array:
    """Return (Λ̃ + √λ/π)⁻¹ (−∂ℓ/∂W) (Λ + π√λ)⁻¹ of all layers, stacked."""
    parts = []
    for outer, inner, pi, slope in zip(*dense[:4], strict=True):
        root = damping**0.5
        left = np.linalg.solve(outer + root / pi * np.eye(len(outer)), slope)
        parts.append(stack(np.linalg.solve(inner + root * pi * np.eye(len(inner)), left.T).T))
    return np.concatenate(parts)


def _exact(dense: Dense, damping: float, mask: str | None) -> Array:
    """Return (F + λ)⁻¹ or (blockdiag F + λ)⁻¹ times the stacked −∂ℓ/∂W."""
    slope = np.concatenate([stack(s) for s in dense.slopes])
    if mask is None:
        matrix = dense.jacobian.T @ dense.jacobian
        solution: Array = np.linalg.solve(matrix + damping * np.eye(len(matrix)), slope)
        return solution
    blocks = [np.kron(inner, outer) for outer, inner in zip(dense.outer, dense.inner, strict=True)]
    parts = zip(blocks, dense.slopes, strict=True)
    return np.concatenate([np.linalg.solve(b + damping * np.eye(len(b)), stack(s)) for b, s in parts])


def _relative(dense: Dense, damping: float, mask: str | None, depth: int) -> float:
    exact = _exact(dense, damping, mask)
    share = 1.0 if mask else 1.0 / depth
    return float(np.linalg.norm(share * _factored(dense, damping) - exact) / np.linalg.norm(exact))


def _floor(dense: Dense, damping: float) -> float:
    """Return the norm of 2√λσ/(σ + √λ)² exact, over that of exact, with σ² the eigenvalues of F_ii."""
    short, whole, root = 0.0, 0.0, damping**0.5
    for outer, inner, slope in zip(dense.outer, dense.inner, dense.slopes, strict=True):
        values, vectors = np.linalg.eigh(np.kron(inner, outer))
        sigma = np.sqrt(np.maximum(values, 0.0))
        exact = vectors.T @ stack(slope) / (values + damping)
        short += float(np.sum((2 * root * sigma / (sigma + root) ** 2 * exact) ** 2))
        whole += float(np.sum(exact**2))
    return (short / whole) ** 0.5 if whole else 0.0


def _condition(dense: Dense, damping: float) -> float:
    """Return the condition of what is solved: of both damped factors and of F + λ."""
    root, worst = damping**0.5, 1.0 + float(np.linalg.norm(dense.jacobian, 2)) ** 2 / damping
    for outer, inner, pi in zip(*dense[:3], strict=True):
        sides = float(np.linalg.norm(outer, 2)) * pi, float(np.linalg.norm(inner, 2)) / pi
        worst = max(worst, (1 + sides[0] / root) * (1 + sides[1] / root))
    return worst


def _radii(dense: Dense, shortest: Array, mask: str | None, depth: int) -> tuple[float, float]:
    """Return steps of √λ and 1/√λ, a small share of what the series converge in."""
    reach, spread = 0.0, 0.0
    for outer, inner, pi in zip(*dense[:3], strict=True):
        low, high = zip(*(_ends(matrix) for matrix in (outer, inner)), strict=True)
        if min(high) > 0:
            reach = max(reach, 1 / (pi * low[0]) + pi / low[1])
            spread = max(spread, pi * high[0] + high[1] / pi)
    weak, strong = STEP / reach, STEP / spread
    if mask is None and depth > 1:
        # ‖d + …‖ has a branch point where the terms in √λ are of the size of the constant d.
        blocks = _factored(dense, (1e-6 / reach) ** 2) / depth
        apart = float(np.linalg.norm(blocks - shortest) / np.linalg.norm(blocks))
        weak, strong = weak * (min(1.0, apart) if apart > 1e-4 else 1.0), strong * (1 - 1 / depth)
    return weak, strong


def _ends(matrix: Array) -> tuple[float, float]:
    """Return the smallest non-zero and the largest eigenvalue."""
    values = np.linalg.eigvalsh(matrix)
    kept = values[values > 1e-10 * values[-1]]
    return (float(kept[0]), float(kept[-1])) if kept.size else (0.0, 0.0)


def _few(net: LinearNetwork, task: Task) -> str | None:
    if net.n_parameters <= MAX_PARAMETERS:
        return None
    return f"needs at most {MAX_PARAMETERS} parameters for dense damped solves, has {net.n_parameters}"


def _without_root(net: LinearNetwork, task: Task, mask: str | None) -> DampingSeries:
    """Factored damping as if its error were of order λ: no term in √λ."""
    series = factored_damping_series(net, task, mask)
    return series._replace(weak=series.weak * np.array([1.0, 0.0, 1.0]))


def _broken(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(4, 3, 3.0, rng), layer(3, 4, 3.0, rng)])
    return check_factored(Case(net, task_for(net, rng), rng), _without_root)


CLAIMS = (
    Claim(
        "N7",
        "Factored damping",
        "√λ on each factor shrinks every part of the step more than λ on the block, half of it at λ = σ² whatever π; "
        "its error begins with √λ, not with λ, and its limit is N1's formula",
        r"\frac{\sigma^2+\lambda}{(\beta+\sqrt\lambda/\pi)(\alpha+\pi\sqrt\lambda)} \le "
        r"\frac{\sigma^2+\lambda}{(\sigma+\sqrt\lambda)^2},\quad "
        r"v_{\text{factored}} = \tfrac1L\left[u - \sqrt\lambda\left(\tfrac1\pi\tilde\Lambda^+u + \pi u\Lambda^+\right)"
        r"+ O(\lambda)\right],\quad v = J^+\tilde E - \lambda F^+J^+\tilde E + O(\lambda^2)",
        "new; damping by π: Martens & Grosse 2015",
        "λ > 0",
        "factored_damping_error",
        "dense solves with both damped factors, with F + λI and with its blocks",
        "condition of the damped factors and of F + λI × cancellation in E, p = 1; series: the next power of √λ",
        check_factored,
        every(small, _few, determined),
        _broken,
        "the error called one of order λ: its term in √λ left out",
    ),
)
