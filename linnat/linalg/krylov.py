"""How is a least-squares problem solved by products alone? LSQR, for one system or a stack of them at once.

Golub–Kahan bidiagonalisation (Paige & Saunders 1982): it works with A, not with AᵀA, so that the condition is not
squared. Vectors are flat, (…, n); each system of a stack stops by itself. The arithmetic is NumPy's throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from linnat._checks import Array

Product = Callable[[Array], Array]


class LsqrResult(NamedTuple):
    """The outcome of `lsqr`.

    Attributes
    ----------
    x : array (…, n)
        The least-squares solution of least norm, as far as it has converged.
    iterations : integer array (…)
    converged : boolean array (…)
        By the recurrences; the caller knows which residual matters and computes it.
    """

    x: Array
    iterations: Array
    converged: Array


def lsqr(
    apply: Product,
    adjoint: Product,
    b: Array,
    *,
    tol: float,
    limit: int,
    norm: float = 1.0,
    outside: Array | float = 0.0,
) -> LsqrResult:
    """Minimise ‖A x − b‖, and among the minimisers ‖x‖.

    Parameters
    ----------
    apply, adjoint : callable
        x (…, n) ↦ A x (…, m) and u ↦ Aᵀ u.
    b : array (…, m)
    tol : float
        A system has converged when ‖Aᵀ r‖ ≤ tol ‖A‖ ‖r‖ (least squares) or ‖r‖ ≤ tol ‖b‖ (a consistent system).
    limit : int
        Largest number of iterations.
    norm : float
        ‖A‖, or a bound.
    outside : float or array (…)
        Norm of the part of the residual that is left out of b, orthogonal to it; added to ‖r‖.

    Returns
    -------
    LsqrResult

    Examples
    --------
    >>> matrix = np.array([[2.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    >>> lsqr(lambda x: x @ matrix.T, lambda u: u @ matrix, np.array([2.0, 4.0, 1.0]), tol=1e-12, limit=9).x.round(9)
    array([1., 1.])
    """
    size = _norm(b)
    beta = size
    u = b * _reciprocal(beta)
    v = adjoint(u)
    alpha = _norm(v)
    v = v * _reciprocal(alpha)
    w, x = v, np.zeros_like(v)
    phibar, rhobar = beta, alpha
    rest = np.asarray(outside, dtype=b.dtype)[..., None]
    active = alpha * beta > tol * norm * np.hypot(beta, rest)
    iterations = np.zeros(active.shape, int)
    # A system that has stopped goes on with harmless numbers: its w is no longer added.
    while active.any() and iterations.max() < limit:
        iterations += active
        u = apply(v) - alpha * u
        beta = _norm(u)
        u = u * _reciprocal(beta)
        v_next = adjoint(u) - beta * v
        alpha = _norm(v_next)
        v = v_next * _reciprocal(alpha)
        rho = np.hypot(rhobar, beta)
        inverse = _reciprocal(rho)
        c, s = rhobar * inverse, beta * inverse
        theta, rhobar = s * alpha, -c * alpha
        phi, phibar = c * phibar, s * phibar
        x = x + np.where(active, phi * inverse, 0) * w
        w = v - (theta * inverse) * w
        done = (phibar * alpha * np.abs(c) <= tol * norm * np.hypot(phibar, rest)) | (phibar <= tol * size)
        active = active & ~done
    return LsqrResult(x, iterations[..., 0], ~active[..., 0])


def _norm(x: Array) -> Array:
    return np.asarray(np.sqrt(np.einsum("...i,...i->...", x, x))[..., None])


def _reciprocal(value: Array) -> Array:
    return np.divide(1, value, out=np.zeros_like(value), where=value > 0)
