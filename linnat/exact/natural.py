"""What is the natural gradient of a deep linear network? Statements N1–N6, X9.

It is a solution u of F u = ∇ℓ; F is singular for every depth above one, so a solution is named by its gauge:

* "layerwise" (N1, N2): u_i = −B̃_i⁺ [Σ_{k ≤ i ≤ l} ΔP_k Ẽ ΔQ_l / (l − k + 1)] Ã_i⁺, for any widths and
  ranks. Where no rank drops this is N1, −(1/L) B_i⁺ E A_i⁺. Of all solutions it is the shortest in the
  metric blockdiag(F) (X1).
* "minimum-norm" (N3): the shortest solution in the Euclidean norm.

No product of layers is inverted, no factor is squared (X9). Directions are ascent directions: a flow or step
moves along −u.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from linnat._checks import Array, ConditionError, as_choice, as_scalar, representable
from linnat.exact.chains import Problem, groups, make_problem
from linnat.exact.damping import damped
from linnat.exact.factored import factored
from linnat.exact.masks import layer_mask
from linnat.exact.minimum_norm import minimum_norm
from linnat.exact.network import Direction, LinearNetwork
from linnat.exact.staircase import square
from linnat.exact.task import Task
from linnat.exact.thin_staircase import layerwise

GAUGES = ("layerwise", "minimum-norm")
DAMPING_KINDS = ("exact", "factored")


@representable("net, task")
def natural_gradient(
    net: LinearNetwork,
    task: Task,
    gauge: str = "layerwise",
    damping: float = 0.0,
    damping_kind: str = "exact",
    mask: Any = None,
    rtol: float | None = None,
) -> Direction:
    """Return a solution u of F u = ∇ℓ, of (F + λI) u = ∇ℓ, or of the same with blocks of F left out.

    Parameters
    ----------
    net : LinearNetwork
    task : Task
        Leading axes of both broadcast.
    gauge : "layerwise" or "minimum-norm"
        Which of the solutions (see the module); without effect if `damping` > 0, where the solution is unique.
    damping : float
        λ ≥ 0, added to the exact F (mean over samples, ½ squared error in the metric Σ⁻¹).
    damping_kind : "exact" or "factored"
        "factored" adds π√λ and √λ/π to the two factors of each diagonal block instead, π² being the ratio of their mean
        eigenvalues, and scales by 1/L like N1 (not with the mask "block-diagonal"): an approximation.
    mask : "block-diagonal", "block-tridiagonal" or 0/1 array (L, L), optional
        Which blocks F_ij are kept (statement N5).
    rtol : float, optional
        A singular value of a layer on what reaches it counts as zero below rtol times the layer's norm. By
        default below a small multiple of eps, or where it is not stable under perturbation of the layers in
        their last bits.

    Returns
    -------
    tuple of arrays (…, n_i, n_{i-1})
        An ascent direction like `net.layers`, in the network's dtype; one column wider with biases (X10).

    Raises
    ------
    InputError
        For arguments of the wrong kind.
    ConditionError
        For an inconsistent mask (N5), and for a mask with the gauge "minimum-norm".
    ConvergenceError
        Where a large minimum-norm or damped solve neither converges nor fits into memory; carries the estimate.

    Warns
    -----
    RankWarning
        Where a rank is undetermined at working precision.

    Notes
    -----
    Layerwise: about 8 n³ flops per layer for square layers (one LU, four triangular solves), about 18 n³
    where QR sweeps are needed, thin ones where a rank drops. Minimum norm: two SVDs for L = 2, a solution by layers
    less its projection on the null space of J beyond (`solve_minimum_norm`, which reports the method and the
    residuals). Exact damping: two SVDs for
    L = 2 where S or Σ is a multiple of the identity, an SVD of J or LSQR elsewhere (`solve_damped`).

    The layerwise u is discontinuous where a rank drops: the rank decision is part of its definition. `ranks`
    reports it and `error_estimate` the rounding error.

    Examples
    --------
    >>> net = LinearNetwork([[[2.0]], [[1.0]]])
    >>> natural_gradient(net, Task([[3.0]]))
    (array([[-0.5]]), array([[-0.25]]))
    >>> natural_gradient(net, Task([[3.0]]), gauge="minimum-norm")
    (array([[-0.2]]), array([[-0.4]]))
    """
    as_choice(gauge, "gauge", GAUGES)
    as_choice(damping_kind, "damping_kind", DAMPING_KINDS)
    strength = as_scalar(damping, "damping", low=0.0)
    if mask is not None and isinstance(net, LinearNetwork):
        layer_mask(mask, net.depth)
    if mask is not None and gauge == "minimum-norm":
        raise ConditionError("mask: only the gauge 'layerwise' is defined with a mask (statement N5).")
    problem, batch = make_problem(net, task)
    result = _compute(problem, batch, gauge, strength, damping_kind, mask, rtol)
    return tuple([r.reshape(*batch, *r.shape[-2:]) for r in result] if batch else result)


def _compute(
    problem: Problem,
    batch: tuple[int, ...],
    gauge: str,
    damping: float,
    kind: str,
    mask: Any,
    rtol: float | None,
) -> list[Array]:
    """Return u = −v with one leading axis for the batch."""
    if damping == 0 and gauge == "layerwise" and rtol is None:
        fast = square(problem, mask)
        if fast is not None:
            return fast
    result: list[Array] = []
    thin = damping == 0 and gauge == "layerwise" and mask is None
    for index, part, chains in groups(problem, batch, rtol, thin=thin):
        if damping > 0 and kind == "factored":
            pieces = factored(part, chains, damping, mask)
        elif damping > 0:
            pieces = damped(part, chains, damping, mask)
        elif gauge == "minimum-norm":
            pieces = minimum_norm(part, chains)
        else:
            pieces = layerwise(part, chains, mask)
        if index is ...:
            return [-piece for piece in pieces]
        if not result:
            shapes = [(len(problem.maps[0]), *p.shape[1:]) for p in pieces]
            result = [np.empty(shape, p.dtype) for shape, p in zip(shapes, pieces, strict=True)]
        for whole, piece in zip(result, pieces, strict=True):
            whole[index] = -piece
    return result
