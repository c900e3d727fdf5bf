"""How do the layers move when the total weight moves on a line? Principal powers of I + c (G − I).

Statements C2, X5 and X10. If W becomes W [I + c (G − I)], the layers of the layerwise gauge become A_{i+1}
R A_i⁻¹ with the principal root R = [I + c (G − I)]^{1/L}. One factorisation of G serves every c: an
eigendecomposition where its eigenvalue condition numbers are small, else a complex Schur form, on which
roots are taken by the recurrences of Björck–Hammarling and Smith and which is carried through the layers by
QR (C_i of W_i U_i = U_{i+1} C_i), so that triangular solves replace A_i⁻¹.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import numpy as np
from scipy import linalg

from linnat._checks import Array
from linnat.exact.ratio import Chain, Ratio, null_basis, staircase

EIGEN_LIMIT = 1e4  # largest eigenvalue condition number for which the eigendecomposition is used
WORKSPACE = 1 << 22  # complex numbers per block of times on the Schur route


def move_layers(chain: Chain, ratio: Ratio, fractions: Array, log_rest: Array) -> tuple[Array, ...]:
    """Return W_i + A_{i+1} (R(c) − I) A_i⁻¹ for every layer and every fraction c.

    Parameters
    ----------
    chain : Chain
    ratio : Ratio
    fractions : array (T,)
        c; for a flow 1 − e^{-t}.
    log_rest : array (T,)
        log(1 − c), used where an eigenvalue of G is 0; for a flow −t.

    Returns
    -------
    tuple over layers of arrays (…, T, n, n)

    Notes
    -----
    2 T L n³ flops beyond one factorisation of G and L solves.
    """
    size = ratio.matrix.shape[-1]
    batch = ratio.matrix.shape[:-2]
    maps = [np.broadcast_to(m, (*batch, size, size)).reshape(-1, size, size) for m in chain.maps]
    flat = Ratio(*(np.reshape(field, (-1, *field.shape[len(batch) :])) for field in ratio))
    left, right, certified = _eigenbases(maps, flat)
    if certified.all():
        layers = _move_by_eigenvectors(maps, left, right, flat.values, fractions, log_rest)
    else:
        layers = [np.empty((len(flat.matrix), len(fractions), size, size)) for _ in maps]
        if certified.any():
            first, second, third = ([m[certified] for m in group] for group in (maps, left, right))
            parts = _move_by_eigenvectors(first, second, third, flat.values[certified], fractions, log_rest)
            for layer, part in zip(layers, parts, strict=True):
                layer[certified] = part
        goals = np.broadcast_to(chain.goal, (*batch, size, size)).reshape(-1, size, size)
        for place in np.flatnonzero(~certified):
            one = [m[place] for m in maps]
            single = Ratio(*(field[place] for field in flat))
            parts = _move_by_schur(one, single, goals[place], fractions, log_rest)
            for layer, part in zip(layers, parts, strict=True):
                layer[place] = part
    return tuple(layer.reshape(*batch, *layer.shape[1:]) for layer in layers)


def log_segment(values: Array, fractions: Array, log_rest: Array) -> Array:
    """Return the principal log(1 + c (μ − 1)) (…, T, n), accurate for small c and, where μ = 0, for c → 1."""
    step = fractions[:, None] * (values[..., None, :] - 1)
    small = 0.5 * np.log1p(np.where(np.abs(step) < 0.5, 2 * step.real + step.real**2 + step.imag**2, 0.0))
    zero = values[..., None, :] == 0
    size = np.where(zero | (np.abs(step) < 0.5), 1.0, np.abs(1 + step))
    modulus = np.where(np.abs(step) < 0.5, small, np.log(size))
    modulus = np.where(zero, log_rest[:, None], modulus)
    return cast(Array, modulus + 1j * np.where(zero, 0.0, np.arctan2(step.imag, 1 + step.real)))


def _expm1(exponent: Array) -> Array:
    """Return e^z − 1 without cancellation in the real part."""
    x, y = exponent.real, exponent.imag
    return cast(Array, np.expm1(x) * np.cos(y) - 2 * np.sin(y / 2) ** 2 + 1j * np.exp(x) * np.sin(y))


def _eigenbases(maps: list[Array], ratio: Ratio) -> tuple[list[Array], list[Array], Array]:
    """Return real bases X_1 … X_{L+1}, A_i V with columns of length 1, X_i⁻¹, and where they may be used."""
    real = np.where(ratio.values.imag[..., None, :] < 0, -ratio.vectors.imag, ratio.vectors.real)
    identity = np.eye(real.shape[-1])
    usable = ~ratio.defective
    # Columns of a conjugate pair share one scale, so that the pair keeps its 2 × 2 rotation block.
    basis = real / _pair_lengths(real, ratio.values)
    left: list[Array] = [basis]
    right: list[Array] = []
    largest = np.zeros(len(real))
    for matrix in maps:
        safe = usable & (np.abs(basis).max(axis=(-1, -2)) > 0)
        try:
            inverse = np.linalg.solve(np.where(safe[:, None, None], basis, identity), identity)
        except np.linalg.LinAlgError:
            return left, right, np.zeros(len(real), dtype=bool)
        lengths = np.linalg.norm(inverse, axis=-1) * np.linalg.norm(basis, axis=-2)
        largest = np.maximum(largest, lengths.max(axis=-1))
        moved = matrix @ basis
        scale = _pair_lengths(moved, ratio.values)
        left[-1] = moved  # W_i X_i, the left factor of layer i
        right.append(inverse)
        basis = moved / scale
        left.append(basis)
    return left[:-1], right, usable & (largest <= EIGEN_LIMIT)


def _pair_lengths(basis: Array, values: Array) -> Array:
    """Return column lengths (…, 1, n), one for both columns of a conjugate pair."""
    lengths = np.linalg.norm(basis, axis=-2)
    partner = np.roll(lengths, -1, axis=-1), np.roll(lengths, 1, axis=-1)
    other = np.where(values.imag > 0, partner[0], np.where(values.imag < 0, partner[1], 0.0))
    return cast(Array, np.hypot(lengths, other)[..., None, :])


def _move_by_eigenvectors(
    maps: list[Array], left: list[Array], right: list[Array], values: Array, fractions: Array, log_rest: Array
) -> list[Array]:
    root = _expm1(log_segment(values, fractions, log_rest) / len(maps))
    weights = np.where(values.imag[..., None, :] < 0, -root.imag, root.real)  # (N, T, n), real coordinates
    above, below = values.imag > 0, values.imag < 0
    times, size = weights.shape[-2:]
    layers = []
    for matrix, columns, rows in zip(maps, left, right, strict=True):
        if size <= times:
            layers.append(_combine(matrix, weights, columns, rows, above, below))
        else:
            layers.append(matrix[:, None] + _apply(weights, columns, rows, above, below))
    return layers


def _combine(matrix: Array, weights: Array, columns: Array, rows: Array, above: Array, below: Array) -> Array:
    """Return W_i plus a sum over eigenvalues of coefficient × fixed matrix, as one product."""
    count, times, size = weights.shape
    # [x y] [ρ σ; −σ ρ] [z; w] = ρ (x z + y w) + σ (x w − y z)
    outer = np.swapaxes(columns, -1, -2)[..., :, None] * rows[..., None, :]
    if above.any():
        ahead, behind = np.roll(outer, -1, axis=1), np.swapaxes(np.roll(columns, 1, axis=-1), -1, -2)
        cross = behind[..., :, None] * rows[..., None, :]
        back = np.swapaxes(columns, -1, -2)[..., :, None] * np.roll(rows, 1, axis=1)[..., None, :]
        outer = np.where(above[..., None, None], outer + ahead, outer)
        outer = np.where(below[..., None, None], cross - back, outer)
    fixed = np.concatenate([matrix[:, None], outer], axis=1).reshape(count, size + 1, size * size)
    weights = np.concatenate([np.ones((count, times, 1)), weights], axis=-1)
    return cast(Array, (weights @ fixed).reshape(count, times, size, size))


def _apply(weights: Array, columns: Array, rows: Array, above: Array, below: Array) -> Array:
    """Form D(c) X⁻¹ for every c, then multiply: no array of n³ numbers."""
    scale = np.where(below[:, None], np.roll(weights, 1, axis=-1), weights)
    turn = np.where(above[:, None], np.roll(weights, -1, axis=-1), np.where(below[:, None], -weights, 0.0))
    partner = np.where(above[..., None], np.roll(rows, -1, axis=1), np.roll(rows, 1, axis=1))
    scaled = scale[..., None] * rows[:, None] + turn[..., None] * partner[:, None]
    return cast(Array, columns[:, None] @ scaled)


def _move_by_schur(
    maps: list[Array], ratio: Ratio, goal: Array, fractions: Array, log_rest: Array
) -> list[Array]:
    """Move the layers of one network through U T Uᴴ = G and U_{i+1} C_i = W_i U_i."""
    unitary, triangle, diagonal = _schur(ratio, goal)
    block = max(1, WORKSPACE // (len(triangle) ** 2 * _largest_prime(len(maps))))
    pieces = []
    for start in range(0, len(fractions), block):
        part = slice(start, start + block)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # a defective 0 diverges
            pieces.append(_schur_block(maps, unitary, triangle, diagonal, fractions[part], log_rest[part]))
    return [np.concatenate(layer) for layer in zip(*pieces, strict=True)]


def _schur(ratio: Ratio, goal: Array) -> tuple[Array, Array, Array]:
    """Return U, T, diag T with exact zeros on the diagonal where G has the eigenvalue 0."""
    size = len(ratio.matrix)
    if not ratio.nullity:
        triangle, unitary = linalg.schur(ratio.matrix, output="complex")
        return unitary, triangle, np.diagonal(triangle).copy()
    rotation, sizes = staircase(ratio.matrix, null_basis(goal, int(ratio.nullity)), float(ratio.slack))
    top = sum(sizes)
    turned = (rotation.T @ ratio.matrix @ rotation).astype(np.complex128)
    edges = np.cumsum([0, *sizes])
    for first, last in pairwise(edges):
        turned[first:, first:last] = 0
    rotation = rotation.astype(np.complex128)
    if top < size:
        inner, unitary = linalg.schur(turned[top:, top:], output="complex")
        turned[:top, top:], turned[top:, top:] = turned[:top, top:] @ unitary, inner
        rotation[:, top:] = rotation[:, top:] @ unitary
    return rotation, turned, np.diagonal(turned).copy()


def _schur_block(
    maps: list[Array], unitary: Array, triangle: Array, diagonal: Array, fractions: Array, log_rest: Array
) -> list[Array]:
    logs = log_segment(diagonal, fractions, log_rest).T  # (n, T)
    segment = fractions * np.triu(triangle, 1)[..., None]
    root = triangular_root(segment, logs, len(maps))
    rows = np.arange(len(triangle))
    root[rows, rows] = _expm1(logs / len(maps))
    excess = np.ascontiguousarray(np.moveaxis(root, -1, 0))  # R − I, (T, n, n)
    layers = []
    for matrix in maps:
        above, factor = linalg.qr(matrix @ unitary)
        moved = factor @ excess
        layers.append(matrix + (above @ moved @ unitary.conj().T).real)
        columns = moved.reshape(-1, len(factor)).T
        excess = linalg.solve_triangular(factor, columns, trans="T", check_finite=False).T.reshape(
            moved.shape
        )
        unitary = above
    return layers


def triangular_root(segment: Array, logs: Array, degree: int) -> Array:
    """Return principal roots of degree L of upper triangular matrices, many at once.

    Parameters
    ----------
    segment : complex array (n, n, T)
        The part above the diagonal.
    logs : complex array (n, T)
        Principal logarithms of the diagonal.
    degree : int

    Returns
    -------
    complex array (n, n, T)

    Notes
    -----
    One recurrence per prime factor of L (Björck–Hammarling 1983 for 2, Smith 2003 beyond): p n³/3 complex
    operations per matrix.
    """
    root = segment
    for prime in _prime_factors(degree):
        logs = logs / prime
        root = _prime_root(root, np.exp(logs), prime)
    rows = np.arange(len(logs))
    root = root.copy()
    root[rows, rows] = np.exp(logs)
    return root


def _prime_root(power: Array, diagonal: Array, prime: int) -> Array:
    size, times = diagonal.shape
    powers = np.zeros((prime - 1, size, size, times), np.complex128)  # R, R², …, R^{p−1}
    own = diagonal[None] ** np.arange(prime)[:, None, None]  # r_i^k, (p, n, T)
    for k in range(prime - 1):
        powers[k, np.arange(size), np.arange(size)] = own[k + 1]
    for j in range(size):
        for i in range(j - 1, -1, -1):
            inner = np.einsum("mt,kmt->kt", powers[0, i, i + 1 : j], powers[:, i + 1 : j, j])
            rest = power[i, j] - (own[prime - 2 :: -1, i] * inner).sum(axis=0)
            total = (own[:, i] * own[::-1, j]).sum(axis=0)
            entry = np.divide(rest, total, out=np.zeros_like(rest), where=rest != 0)
            powers[0, i, j] = entry
            for k in range(1, prime - 1):
                powers[k, i, j] = own[1, i] * powers[k - 1, i, j] + entry * own[k, j] + inner[k - 1]
    return cast(Array, powers[0])


def _prime_factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors


def _largest_prime(number: int) -> int:
    return max([2, *_prime_factors(number)])
