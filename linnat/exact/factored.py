"""What does factored damping cost? Statement N4: √λ on each Kronecker factor, the approximation of K-FAC.

(Λ̃_i + (√λ/π) I) ⊗ (Λ_{i-1} + π√λ I) stands for Λ̃_i ⊗ Λ_{i-1} + λ I, and the diagonal blocks for the whole matrix. Both
limits exist. λ → 0: N1's formula against the minimum-norm gauge, reached with errors of order √λ and λ. λ → ∞: both are
multiples of the gradient, 1/(L λ) and 1/λ.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, ConditionError, as_float_array, fail
from linnat.exact.chains import Problem, groups, make_problem
from linnat.exact.damping import damped
from linnat.exact.loss import forward_signals, whitened_after
from linnat.exact.masks import layer_mask
from linnat.exact.minimum_norm import minimum_norm
from linnat.exact.network import LinearNetwork
from linnat.exact.staircase import staircase
from linnat.exact.task import Task
from linnat.linalg.kernels import frobenius, transpose


class DampingError(NamedTuple):
    """How far factored damping is from exact damping.

    Attributes
    ----------
    relative : array (…, T)
        ‖u_factored − u_exact‖ / ‖u_exact‖ for each damping.
    weak : array (…)
        The limit λ → 0.
    strong : array (…)
        The limit λ → ∞: 1 − 1/L, or 0 against the block-diagonal matrix.
    """

    relative: Array
    weak: Array
    strong: Array


def factored_damping_error(
    net: LinearNetwork, task: Task, dampings: Any, mask: Any = None, rtol: float | None = None
) -> DampingError:
    """Return the relative error of factored damping as a function of λ, with its limits (statement N4).

    Parameters
    ----------
    net : LinearNetwork
    task : Task
        Leading axes of both broadcast.
    dampings : array (T,)
        λ > 0.
    mask : "block-diagonal", optional
        Compare with (blockdiag F + λI)⁻¹∇ℓ, which factored damping approximates block by block. By default with
        (F + λI)⁻¹∇ℓ, and factored damping is scaled by 1/L.
    rtol : float, optional
        See `natural_gradient`.

    Returns
    -------
    DampingError

    Notes
    -----
    Without mask the error tends to ‖N1 − minimum norm‖ / ‖minimum norm‖ as λ → 0, not to zero: weak factored damping
    picks the layerwise gauge where N1 holds, and no solution at all in a bottleneck. With the mask it tends to zero
    at both ends and is largest between, where λ is of the size of the eigenvalues.

    Examples
    --------
    >>> net = LinearNetwork([[[2.0]], [[1.0]]])
    >>> found = factored_damping_error(net, Task([[3.0]]), [1e-12, 1.0, 1e12], mask="block-diagonal")
    >>> found.relative.round(3) + 0.0, float(found.weak), float(found.strong)
    (array([0.   , 0.479, 0.   ]), 0.0, 0.0)
    """
    strengths = np.atleast_1d(as_float_array(dampings, "dampings")).astype(np.float64)
    if strengths.ndim != 1 or (strengths <= 0).any():
        fail("dampings", "a one-dimensional array of positive numbers", f"{strengths!r:.80}")
    problem, batch = make_problem(net, task)
    diagonal = is_diagonal(mask, problem.depth)
    size = problem.maps[0].shape[0] if batch else 1
    relative, weak = np.empty((size, len(strengths))), np.empty(size)
    for index, part, chains in groups(problem, batch, rtol):
        for t, strength in enumerate(strengths):
            exact = damped(part, chains, float(strength), "block-diagonal" if diagonal else None)
            relative[index, t] = _distance(factored(part, float(strength), mask), exact)
        blocks = staircase(part, chains, "block-diagonal")
        limit = blocks if diagonal else minimum_norm(part, chains)
        share = 1.0 if diagonal else 1.0 / part.depth
        weak[index] = _distance([share * v for v in blocks], limit)
    strong = np.full(batch, 0.0 if diagonal else 1 - 1 / problem.depth)
    return DampingError(relative.reshape(*batch, -1), weak.reshape(batch), strong)


def factored(problem: Problem, damping: float, mask: Any = None) -> list[Array]:
    """Return (1/L)(Λ̃_i + √λ/π I)⁻¹ (−∂ℓ/∂W_i)(Λ_{i-1} + π√λ I)⁻¹, π² = (tr Λ_{i-1}/n_{i-1})/(tr Λ̃_i/n_i).

    By the SVDs of B̃_i and Ã_i: neither factor is squared. Without the 1/L for the mask "block-diagonal".
    """
    diagonal = is_diagonal(mask, problem.depth)
    signals = forward_signals(problem)
    after = whitened_after(problem)
    error = problem.whiten(problem.target - problem.through_last(signals[-1]))
    share = 1.0 if diagonal else 1.0 / problem.depth
    result = []
    for signal, back in zip(signals, after, strict=True):
        outer = _mean_square(transpose(back))
        ratio = _mean_square(signal) / np.where(outer > 0, outer, 1)
        balance = np.sqrt(np.where(ratio > 0, ratio, 1))
        root = np.sqrt(damping)
        inner = (
            _filtered(back, root / balance) @ error @ transpose(_filtered(transpose(signal), root * balance))
        )
        result.append((share * inner).astype(signal.dtype))
    return result


def _filtered(matrix: Array, shift: Array) -> Array:
    """Return (XᵀX + μI)⁻¹ Xᵀ for X (…, m, n)."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    radius = np.hypot(values, np.sqrt(shift)[..., None])
    return np.asarray(transpose(right) @ ((values / radius / radius)[..., None] * transpose(left)))


def _mean_square(matrix: Array) -> Array:
    """Return tr(X Xᵀ)/n for X (…, n, m), the mean eigenvalue."""
    return np.asarray((matrix**2).sum(axis=(-1, -2)) / matrix.shape[-2])


def is_diagonal(mask: Any, depth: int) -> bool:
    """Return whether the mask keeps the diagonal blocks only; refuse other masks than that and the whole matrix."""
    matrix = layer_mask(mask, depth)
    diagonal = depth > 1 and bool((matrix == np.eye(depth)).all())
    if not diagonal and not matrix.all():
        raise ConditionError(
            "mask: factored damping is defined for the whole matrix and its diagonal blocks (N4)."
        )
    return diagonal


def _distance(found: list[Array], wanted: list[Array]) -> Array:
    gap = np.sqrt(sum(frobenius(a - b) ** 2 for a, b in zip(found, wanted, strict=True)))
    size = np.sqrt(sum(frobenius(b) ** 2 for b in wanted))
    return np.asarray(np.divide(gap, size, out=np.zeros_like(gap), where=size > 0))
