"""What does factored damping cost? Statements N4, N7: √λ on each Kronecker factor, the approximation of K-FAC.

(Λ̃_i + (√λ/π) I) ⊗ (Λ_{i-1} + π√λ I) stands for Λ̃_i ⊗ Λ_{i-1} + λ I, and the diagonal blocks for the whole matrix. On a
pair of singular vectors of B̃_i and Ã_i with eigenvalues β and α, σ² = βα, it leaves

    (σ² + λ) / (β + √λ/π)(α + π√λ) = 1 − √λ (πβ + α/π) / (β + √λ/π)(α + π√λ) ≤ (σ² + λ)/(σ + √λ)²

of what exact damping of the block leaves: always less, half of it at λ = σ² for the best of all π. Both limits exist,
since the gradient has no part outside of the factors' ranges. λ → 0: N1's formula, with the pseudo-inverses of both
factors, against the minimum-norm gauge, reached with errors of order √λ and λ. λ → ∞: both are multiples of the
gradient, 1/(L λ) and 1/λ. `linnat.exact.factored_series` has the coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, ConditionError, as_choice, as_float_array, fail, representable
from linnat.exact.chains import Chains, Problem, groups, make_problem
from linnat.exact.damping import damped
from linnat.exact.loss import forward_signals, whitened_after
from linnat.exact.masks import layer_mask
from linnat.exact.minimum_norm import minimum_norm
from linnat.exact.network import LinearNetwork
from linnat.exact.staircase import staircase
from linnat.exact.task import Task
from linnat.linalg.kernels import frobenius, transpose

CORRECTIONS = ("trace", "none", "weak")


class Block(NamedTuple):
    """One layer in the singular vectors of B̃_i and Ã_i on their ranges.

    Attributes
    ----------
    left : array (…, n_i, p), right : array (…, m_i, q)
        Right singular vectors of B̃_i, left ones of Ã_i.
    outer : array (…, p, 1), inner : array (…, 1, q)
        Singular values.
    error : array (…, p, q)
        Ẽ in the other singular vectors.
    pi : array (…, 1, 1)
        π of the correction.
    """

    left: Array
    right: Array
    outer: Array
    inner: Array
    error: Array
    pi: Array

    def widen(self, core: Array) -> Array:
        """Return left · core · rightᵀ, a direction of the layer."""
        return np.asarray(self.left @ core @ transpose(self.right))

    def factored(self, damping: float) -> Array:
        """Return the factored-damped direction in the singular vectors."""
        root = np.sqrt(damping)
        outer, inner = (
            np.hypot(self.outer, np.sqrt(root / self.pi)),
            np.hypot(self.inner, np.sqrt(root * self.pi)),
        )
        # (b/r)/r and not b/r²: no small number is squared.
        return np.asarray((self.outer / outer / outer) * self.error * (self.inner / inner / inner))

    def exact(self, damping: float) -> Array:
        """Return the direction of the same block with λ itself on its diagonal."""
        value = self.outer * self.inner
        radius = np.hypot(value, np.sqrt(damping))
        return np.asarray(value / radius * (self.error / radius))

    def floor(self, damping: float) -> Array:
        """Return how much shorter `factored` is than `exact` for the best π of each pair of singular vectors."""
        root, value = np.sqrt(damping), self.outer * self.inner
        scale = value + root
        return np.asarray(2 * (root / scale) * (value / scale) * self.exact(damping))


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
    floor : array (…, T)
        What no choice of π goes below, were there one for each pair of singular vectors; against the block-diagonal
        matrix, 0 against the whole one.
    """

    relative: Array
    weak: Array
    strong: Array
    floor: Array


@representable("net, task, dampings")
def factored_damping_error(
    net: LinearNetwork,
    task: Task,
    dampings: Any,
    mask: Any = None,
    rtol: float | None = None,
    correction: str = "trace",
) -> DampingError:
    """Return the relative error of factored damping as a function of λ, with its limits (statement N7).

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
    correction : "trace", "none" or "weak"
        π² = (tr Λ_{i-1}/n_{i-1})/(tr Λ̃_i/n_i), as in K-FAC; π = 1; or the π with the least error as λ → 0,
        π⁴ = ‖Λ̃_i⁺ u_i‖² / ‖u_i Λ_{i-1}⁺‖² with the undamped u_i.

    Returns
    -------
    DampingError

    Notes
    -----
    Without mask the error tends to ‖N1 − minimum norm‖ / ‖minimum norm‖ as λ → 0, not to zero: weak factored damping
    picks the layerwise gauge where N1 holds, and no solution at all in a bottleneck. With the mask it tends to zero
    at both ends, like √λ and 1/√λ (`factored_damping_series`), and is largest between, where λ is of the size of the
    eigenvalues. Two SVDs a layer; without mask a `solve_damped` for each λ besides.

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
    as_choice(correction, "correction", CORRECTIONS)
    problem, batch = make_problem(net, task)
    diagonal = is_diagonal(mask, problem.depth)
    share, size = layer_share(problem, mask), problem.maps[0].shape[0] if batch else 1
    relative, weak = np.empty((size, len(strengths))), np.empty(size)
    floor = np.zeros_like(relative)
    for index, part, chains in groups(problem, batch, rtol):
        blocks = decompose(part, chains, correction)
        for t, strength in enumerate(strengths.tolist()):
            exact = (
                [b.exact(strength) for b in blocks]
                if diagonal
                else _coordinates(part, chains, blocks, strength)
            )
            relative[index, t] = _distance([share * b.factored(strength) for b in blocks], exact)
            if diagonal:
                floor[index, t] = _quotient(_norm([b.floor(strength) for b in blocks]), _norm(exact))
        if diagonal:
            weak[index] = 0.0
        else:
            shortest = minimum_norm(part, chains)
            weak[index] = _distance([share * v for v in staircase(part, chains, "block-diagonal")], shortest)
    strong = np.full(batch, 0.0 if diagonal else 1 - 1 / problem.depth)
    return DampingError(
        relative.reshape(*batch, -1), weak.reshape(batch), strong, floor.reshape(*batch, len(strengths))
    )


def factored(problem: Problem, chains: Chains, damping: float, mask: Any = None) -> list[Array]:
    """Return (1/L)(Λ̃_i + √λ/π I)⁻¹ (−∂ℓ/∂W_i)(Λ_{i-1} + π√λ I)⁻¹, π² = (tr Λ_{i-1}/n_{i-1})/(tr Λ̃_i/n_i).

    By the SVDs of B̃_i and Ã_i: neither factor is squared. Without the 1/L for the mask "block-diagonal".
    """
    share = layer_share(problem, mask)
    dtype = problem.factor.dtype
    blocks = decompose(problem, chains)
    return [b.widen(share * b.factored(damping)).astype(dtype, copy=False) for b in blocks]


def decompose(problem: Problem, chains: Chains, correction: str = "trace") -> list[Block]:
    """Return every layer in the singular vectors of B̃_i and Ã_i that the ranks of the chains leave."""
    signals = forward_signals(problem)
    error = problem.whiten(problem.target - problem.through_last(signals[-1]))
    result = []
    for signal, back, p, q in zip(
        signals, whitened_after(problem), chains.output_ranks, chains.input_ranks, strict=True
    ):
        u, b, left = np.linalg.svd(back, full_matrices=False)
        right, a, v = np.linalg.svd(signal, full_matrices=False)
        rotated = transpose(u[..., :p]) @ error @ transpose(v[..., :q, :])
        outer, inner = b[..., :p, None], a[..., None, :q]
        if correction == "trace":
            pi = np.sqrt(_ratio(_mean_square(signal), _mean_square(transpose(back))))
        elif correction == "weak":
            undamped = rotated / outer / inner
            pi = np.sqrt(_ratio(frobenius(undamped / outer / outer), frobenius(undamped / inner / inner)))
        else:
            pi = np.ones(error.shape[:-2], error.dtype)
        columns = right[..., :q]
        result.append(Block(transpose(left[..., :p, :]), columns, outer, inner, rotated, pi[..., None, None]))
    return result


def layer_share(problem: Problem, mask: Any) -> float:
    """Return what the layers' steps are multiplied by: 1/L, or 1 for the block-diagonal matrix."""
    return 1.0 if is_diagonal(mask, problem.depth) else 1.0 / problem.depth


def is_diagonal(mask: Any, depth: int) -> bool:
    """Return whether the mask keeps the diagonal blocks only; refuse other masks than that and the whole matrix."""
    matrix = layer_mask(mask, depth)
    diagonal = bool((matrix == np.eye(depth)).all()) and (depth > 1 or mask is not None)
    if not diagonal and not matrix.all():
        raise ConditionError(
            "mask: factored damping is defined for the whole matrix and its diagonal blocks (N4)."
        )
    return diagonal


def _coordinates(problem: Problem, chains: Chains, blocks: Sequence[Block], damping: float) -> list[Array]:
    """Return the exactly damped direction in the singular vectors of the blocks: it has no part beyond them."""
    pieces = damped(problem, chains, damping)
    return [transpose(b.left) @ v @ b.right for b, v in zip(blocks, pieces, strict=True)]


def _mean_square(matrix: Array) -> Array:
    """Return tr(X Xᵀ)/n for X (…, n, m), the mean eigenvalue."""
    return np.asarray((matrix**2).sum(axis=(-1, -2)) / matrix.shape[-2])


def _ratio(first: Array, second: Array) -> Array:
    """Return first/second, 1 where one of them is zero."""
    sound = (first > 0) & (second > 0)
    return np.divide(first, second, out=np.ones_like(first), where=sound)


def _norm(parts: Sequence[Array]) -> Array:
    return np.asarray(np.sqrt(sum(frobenius(p) ** 2 for p in parts)))


def _distance(found: Sequence[Array], wanted: Sequence[Array]) -> Array:
    return _quotient(_norm([a - b for a, b in zip(found, wanted, strict=True)]), _norm(wanted))


def _quotient(gap: Array, size: Array) -> Array:
    return np.asarray(np.divide(gap, size, out=np.zeros_like(gap), where=size > 0))
