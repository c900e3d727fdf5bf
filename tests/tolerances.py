"""How large may an error be? The only place with constants: constant × eps(dtype) × size × condition^p.

A failing test is met by explaining the power p, never by a larger constant. The size is the number of terms
that meet in one entry of the result (a width, or depth × width for a chain); constants cover the growth factor
of the kernels and the two or three operations of one step, which first-order analysis leaves out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# Products, sums and transposes: each entry is a sum of `size` rounded terms (gamma_n of Higham, 2002, section 3.1), and
# both sides of an identity are rounded.
PRODUCT = 8.0
# QR, SVD, eigh, Cholesky: backward stable with a low-degree polynomial of the size, in practice below 10 × size.
FACTORISATION = 32.0
# A chain of factorisations and solves. In 480 trials over square, wide and bottlenecked chains (conditions up to 1e8,
# depths up to 13) the largest error was 0.22 of eps × Σκ × cancellation, 1.3 after exact rank drops; no size enters.
CHAIN = 4.0


def eps(dtype: Any) -> float:
    """Return the spacing of floating-point numbers above 1."""
    return float(np.finfo(np.dtype(dtype)).eps)


def product(dtype: Any, size: int, condition: float = 1.0) -> float:
    """Return the bound for an identity between sums and products.

    The condition is Σ|terms| / |result|, the cancellation, with p = 1; 1 when the error is measured against Σ|terms|.
    """
    return PRODUCT * eps(dtype) * size * condition


def solve(dtype: Any, size: int, condition: float = 1.0) -> float:
    """Return the bound for the solution of a linear system or a pseudo-inverse of full rank, p = 1."""
    return FACTORISATION * eps(dtype) * size * condition


def backward(dtype: Any, size: int) -> float:
    """Return the bound for a backward error ‖Ax − b‖ / (‖A‖‖x‖ + ‖b‖), or a residual of a factorisation, p = 0."""
    return FACTORISATION * eps(dtype) * size


def least_squares(dtype: Any, size: int, condition: float, residual: float = 1.0) -> float:
    """Return the bound for a least-squares solution relative to itself.

    By Wedin (1973) the error is eps (κ + κ² ‖r‖ / (‖A‖‖x‖)): p = 1 for a consistent system, p = 2 times the relative
    residual otherwise.
    """
    return FACTORISATION * eps(dtype) * size * condition * (1.0 + condition * residual)


def spectrum(dtype: Any, size: int, condition: float = 1.0) -> float:
    """Return the bound for an eigenvalue relative to itself: backward error × λ_max / λ (Weyl), p = 1."""
    return FACTORISATION * eps(dtype) * size * condition


def chain(dtype: Any, condition_sum: float, cancellation: float = 1.0) -> float:
    """Return the bound of X9 without drift: eps × Σκ(layer) × cancellation, p = 1 in each.

    The condition is the *sum* over layers (and the factors of S and Σ where they do not cancel), not the product: each
    layer's backward error eps ‖W_i‖ enters the result through W_i⁺ once.
    """
    return CHAIN * eps(dtype) * condition_sum * cancellation


def difference(order: int, step: float, scale: float = 1.0) -> float:
    """Return the bound for a central difference of even order: truncation step^order + rounding eps / step."""
    return scale * (step**order + 16.0 * eps(np.float64) / step)


def monte_carlo(samples: int, deviations: float = 5.0) -> float:
    """Return the bound for a mean in units of its standard deviation; 5 deviations err once in two million."""
    return deviations / math.sqrt(samples)


def relative_error(value: Any, reference: Any) -> float:
    """Return ‖value − reference‖ / ‖reference‖ (Frobenius), absolute where the reference is zero."""
    found, wanted = np.asarray(value, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    assert found.shape == wanted.shape, f"shapes {found.shape} and {wanted.shape}"
    # Scaled, so that entries near the ends of the range neither overflow nor vanish when squared.
    largest = float(np.abs(wanted).max())
    if largest == 0:
        return float(np.linalg.norm(found))
    return float(np.linalg.norm((found - wanted) / largest) / np.linalg.norm(wanted / largest))


def assert_close(value: Any, reference: Any, bound: float, what: str = "relative error") -> None:
    """Fail unless the relative error in the Frobenius norm is within the bound; NaN fails."""
    error = relative_error(value, reference)
    assert error <= bound, f"{what} {error:.3g} exceeds {bound:.3g}"
