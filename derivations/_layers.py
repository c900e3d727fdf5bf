"""What the flow and descent derivations share: exact rational networks and principal powers of matrices.

Exact networks are lists of SymPy matrices W_1, …, W_L; numbers are NumPy arrays. `principal_power` goes through
the eigenvectors: it is for diagonalisable matrices only, which generic ones are; defective ones have exact
formulas of their own in c2_layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Algebra, inverse, kron, pinv, product, unvec, vec

Array = NDArray[Any]


def before(layers: Sequence[sp.Matrix], index: int) -> sp.Matrix:
    """Return A_i = W_{i−1}⋯W_1 for i = 1…L+1."""
    return product(list(layers[: index - 1])[::-1], layers[0].cols)


def after(layers: Sequence[sp.Matrix], index: int) -> sp.Matrix:
    """Return B_i = W_L⋯W_{i+1} for i = 0…L."""
    return product(list(layers[index:])[::-1], layers[-1].rows)


def jacobian(layers: Sequence[sp.Matrix], factor: sp.Matrix | None = None) -> sp.Matrix:
    """Return J of vec(W F) in all weights by its definition, F the identity if no factor is given."""
    right = sp.eye(layers[0].cols) if factor is None else factor
    return sp.Matrix.hstack(
        *(kron((before(layers, i) * right).T, after(layers, i)) for i in range(1, len(layers) + 1))
    )


def layerwise(layers: Sequence[sp.Matrix], teacher: sp.Matrix) -> list[sp.Matrix]:
    """Return v_i = (1/L) B_i⁺ (W* − W) A_i⁺, exactly."""
    depth = len(layers)
    error = teacher - before(layers, depth + 1)
    return [pinv(after(layers, i)) * error * pinv(before(layers, i)) / depth for i in range(1, depth + 1)]


def least_norm(layers: Sequence[sp.Matrix], teacher: sp.Matrix) -> list[sp.Matrix]:
    """Return the layers of J⁺ vec(W* − W), exactly."""
    depth = len(layers)
    vector = pinv(jacobian(layers)) * vec(teacher - before(layers, depth + 1))
    out, start = [], 0
    for layer in layers:
        stop = start + layer.rows * layer.cols
        out.append(unvec(vector[start:stop, :], layer.rows, layer.cols))
        start = stop
    return out


def rotation(p: int, q: int, size: int = 2, plane: tuple[int, int] = (0, 1)) -> sp.Matrix:
    """Return the rational rotation with cosine (p² − q²)/(p² + q²) in one coordinate plane."""
    c, s = sp.Rational(p * p - q * q, p * p + q * q), sp.Rational(2 * p * q, p * p + q * q)
    out = sp.eye(size)
    a, b = plane
    out[a, a], out[a, b], out[b, a], out[b, b] = c, -s, s, c
    return out


def bases(widths: Sequence[int]) -> list[sp.Matrix]:
    """Return a rational orthogonal matrix U_i for every width, all different."""
    out = []
    for index, n in enumerate(widths):
        basis = rotation(2 + index, 1, n) if n > 1 else sp.eye(1)
        out.append(basis * rotation(3, 2, n, (1, 2)) if n > 2 else basis)
    return out


def balanced_layers(roots: Sequence[int], widths: Sequence[int]) -> list[sp.Matrix]:
    """Return balanced rational layers U_i D U_{i−1}ᵀ whose W has the singular values roots**L."""
    u = bases(widths)
    layers = []
    for index in range(1, len(widths)):
        diagonal = sp.zeros(widths[index], widths[index - 1])
        for a, root in enumerate(roots):
            diagonal[a, a] = root
        layers.append(u[index] * diagonal * u[index - 1].T)
    return layers


def conjugated(eigenvalues: Sequence[Any], basis: sp.Matrix) -> sp.Matrix:
    """Return basis · diag(eigenvalues) · basis⁻¹."""
    return basis * sp.diag(*eigenvalues) * inverse(basis)


def powers(algebra: Algebra, family: Any) -> None:
    """Declare that a family is the powers of one operator: G(p)G(q) = G(p + q), G(0) = 1."""

    def join(one: Any, other: Any) -> Any:
        if getattr(one, "func", None) == family and getattr(other, "func", None) == family:
            return family(sp.expand(one.args[0] + other.args[0]))
        return None

    def identity(one: Any) -> Any:
        if getattr(one, "func", None) != family:
            return None
        exponent = sp.expand(one.args[0])
        if exponent == 0:
            return sp.S.One
        return family(exponent) if exponent != one.args[0] else None

    algebra.rewrite(2, join)
    algebra.rewrite(1, identity)


def principal_power(matrix: Array, exponent: float) -> Array:
    """Return the principal power of a real diagonalisable matrix without eigenvalues on (−∞, 0]."""
    values, vectors = np.linalg.eig(matrix)
    if np.any((values.imag == 0) & (values.real <= 0)):
        raise ValueError(f"eigenvalues {values} meet (-inf, 0]: there is no principal power")
    powered = vectors * (values.astype(complex) ** exponent)
    return np.asarray(np.linalg.solve(vectors.T.astype(complex), powered.T).T.real)


def prefixes(weights: Sequence[Array]) -> list[Array]:
    """Return A_1 = I, A_2 = W_1, …, A_{L+1} = W."""
    out = [np.eye(weights[0].shape[1])]
    for weight in weights:
        out.append(weight @ out[-1])
    return out
