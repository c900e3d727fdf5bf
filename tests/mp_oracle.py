"""What is the natural gradient of the very numbers given? N2 by its definition, in exact or multiple precision.

Floats are rational numbers; so is the staircase natural gradient N2, since the factors of S and Σ drop out:

    v_i = B_i^Π [ Σ_{k ≤ i ≤ l} ΔP_k E ΔQ_l / (l−k+1) ] K_i,
    K_i = S A_iᵀ (A_i S A_iᵀ)⁺,  P_k = B_k B_k^Π,  Q_l = K_l A_l,

with B^Π = B̃⁺Π^½ and oblique projectors P, Q. Products, elimination with complete pivoting and full-rank
factors do the rest: nothing is shared with the chains of X9. `Decimal` is used for speed (ten times faster
than `mpmath` in arrays of objects at 60 digits, four times at 200); `Fraction` checks it exactly on small
networks, `mpmath` by singular values.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from linnat.exact.network import LinearNetwork

Exact = np.ndarray[Any, np.dtype[Any]]

AGREEMENT = 1e-20


class UndeterminedError(ArithmeticError):
    """A pivot is neither clearly zero nor clearly non-zero at this precision."""


class Field(NamedTuple):
    """The numbers that the oracle computes with.

    Attributes
    ----------
    number : callable
        Converts a float, int or Fraction exactly (or to `digits`).
    zero_below, nonzero_above : number
        A pivot relative to its scale is zero below the first, non-zero above the second, undetermined between.
    """

    number: Callable[[Any], Any]
    zero_below: Any
    nonzero_above: Any


RATIONAL = Field(Fraction, Fraction(0), Fraction(0))


def decimal_field(digits: int) -> Field:
    """Return decimal numbers; the caller sets the precision of the context."""

    def convert(value: Any) -> Decimal:
        if isinstance(value, Fraction):
            return Decimal(value.numerator) / Decimal(value.denominator)
        return Decimal(value)

    return Field(convert, Decimal(10) ** (15 - digits), Decimal(10) ** (35 - digits))


class Truth(NamedTuple):
    """The natural gradient of exact inputs, rounded once.

    Attributes
    ----------
    direction : tuple of float64 arrays
        Ascent direction, like `net.layers`.
    cancellation : float
        ζ = max_i ‖B̃_i⁺‖ ‖Ẽ‖ ‖Ã_i⁺‖ / ‖v_i‖ in spectral norms; ‖Ẽ‖ that of Frobenius.
    digits : int
        Decimal digits used; 0 for rational numbers.
    ranks : tuple of (r(B̃_i), r(Ã_i))
    """

    direction: tuple[np.ndarray, ...]
    cancellation: float
    digits: int
    ranks: tuple[tuple[int, int], ...]


def convert(array: Any, field: Field) -> Exact:
    """Return an array of numbers of the field, converted without rounding."""
    objects = np.asarray(array, dtype=object)
    out = np.empty(objects.shape, dtype=object)
    out.flat = [field.number(value) for value in objects.flat]
    return out


def identity(size: int, field: Field) -> Exact:
    """Return the identity."""
    return convert([[int(i == j) for j in range(size)] for i in range(size)], field)


def largest(matrix: Exact) -> Any:
    """Return the largest absolute value of the entries."""
    return max((abs(value) for value in matrix.flat), default=0)


def solve(matrix: Exact, right: Exact) -> Exact:
    """Solve by elimination with partial pivoting."""
    size = len(matrix)
    work = np.concatenate([matrix, right], axis=1)
    for k in range(size):
        pivot = k + max(range(size - k), key=lambda j: abs(work[k + j, k]))
        if pivot != k:
            work[[k, pivot]] = work[[pivot, k]]
        work[k + 1 :, k:] -= np.outer(work[k + 1 :, k] / work[k, k], work[k, k:])
    out = work[:, size:]
    for k in reversed(range(size)):
        out[k] = (
            (out[k] - work[k, k + 1 : size] @ out[k + 1 :]) / work[k, k]
            if k + 1 < size
            else out[k] / work[k, k]
        )
    return out


def column_basis(matrix: Exact, scale: Any, field: Field) -> Exact:
    """Return linearly independent columns that span the range: elimination with complete pivoting.

    `scale` is the product of the norms of the factors that the matrix was made from: W_3 W_2 = 0 is told from a small
    product by it.
    """
    work, columns = matrix.copy(), list(range(matrix.shape[1]))
    for k in range(min(matrix.shape)):
        rest = np.abs(work[k:, k:])
        row, column = np.unravel_index(int(np.argmax(rest)), rest.shape)
        size = rest[row, column]
        if size <= field.zero_below * scale:
            return matrix[:, columns[:k]]
        if size < field.nonzero_above * scale:
            raise UndeterminedError
        row, column = int(row) + k, int(column) + k
        work[[k, row]] = work[[row, k]]
        work[:, [k, column]] = work[:, [column, k]]
        columns[k], columns[column] = columns[column], columns[k]
        work[k + 1 :, k:] -= np.outer(work[k + 1 :, k] / work[k, k], work[k, k:])
    return matrix[:, columns[: min(matrix.shape)]]


def staircase(
    weights: Sequence[Exact], maps: Sequence[Exact], cov: Exact, cross: Exact, noise: Exact, field: Field
) -> tuple[list[Exact], list[Exact], list[Exact], list[tuple[int, int]]]:
    """Return v_i (ascent), (A_i S A_iᵀ)⁺, B̃_i⁺B̃_i⁺ᵀ and ranks, by the definition.

    Parameters
    ----------
    weights, maps : W_i, and M_i with biases (W_i without)
    cov, cross : S and W* S
    noise : Σ
    """
    depth = len(weights)
    precision = solve(noise, identity(len(noise), field))
    before, before_scale = [identity(len(cov), field)], [field.number(1)]
    after, after_scale = [identity(len(noise), field)], [field.number(1)]
    for k in range(depth - 1):
        before.append(maps[k] @ before[-1])
        before_scale.append(before_scale[-1] * largest(maps[k]))
        after.append(after[-1] @ weights[depth - 1 - k])
        after_scale.append(after_scale[-1] * largest(weights[depth - 1 - k]))
    after, after_scale = after[::-1], after_scale[::-1]
    total = (maps[-1] @ before[-1])[: len(noise)]  # with biases M_L has one more row
    gap = total @ cov - cross  # −E S: the ascent direction
    inputs = [_input_side(a, cov, s, field) for a, s in zip(before, before_scale, strict=True)]
    outputs = [_output_side(b, noise, precision, s, field) for b, s in zip(after, after_scale, strict=True)]
    left = [b @ side.inverse for b, side in zip(after, outputs, strict=True)]
    right = [gap @ a.T @ side.gram_inverse @ a for a, side in zip(before, inputs, strict=True)]
    zero_left, zero_right = left[0] * 0, right[0] * 0
    steps_left = {k: left[k] - (left[k - 1] if k else zero_left) for k in _jumps([s.rank for s in outputs])}
    ranks_right = [s.rank for s in inputs]
    steps_right = {
        depth - 1 - j: right[depth - 1 - j] - (right[depth - j] if j else zero_right)
        for j in _jumps(ranks_right[::-1])
    }
    out = []
    for i in range(depth):
        middle = zero_right
        for k, p in steps_left.items():
            for l, q in steps_right.items():
                if k <= i <= l:
                    middle = middle + p @ q / field.number(l - k + 1)
        out.append(outputs[i].inverse @ middle @ inputs[i].inverse)
    grams = [s.gram_inverse for s in inputs]
    ranks = [(b.rank, a.rank) for a, b in zip(inputs, outputs, strict=True)]
    return out, grams, [s.gram_inverse for s in outputs], ranks


class _Side(NamedTuple):
    inverse: Exact
    gram_inverse: Exact
    rank: int


def _jumps(ranks: Sequence[int]) -> list[int]:
    """Return the places where a non-decreasing sequence of ranks grows, from 0 before its start."""
    return [k for k, rank in enumerate(ranks) if rank > (ranks[k - 1] if k else 0)]


def _input_side(before: Exact, cov: Exact, scale: Any, field: Field) -> _Side:
    """Return K = S Aᵀ (A S Aᵀ)⁺ and (A S Aᵀ)⁺ = C⁺ᵀ H⁻¹ C⁺ with C a basis of the range of A S."""
    product = before @ cov
    basis = column_basis(product, scale * largest(cov), field)
    if basis.shape[1] == 0:
        size = len(before)
        return _Side(product.T * 0, np.full((size, size), field.number(0)), 0)
    inverse = solve(basis.T @ basis, basis.T)
    core = inverse @ product @ before.T @ inverse.T
    gram = inverse.T @ solve(core, inverse)
    return _Side(product.T @ gram, gram, basis.shape[1])


def _output_side(after: Exact, noise: Exact, precision: Exact, scale: Any, field: Field) -> _Side:
    """Return B^Π = B̃⁺Π^½ from B = C R: Rᵀ(R Rᵀ)⁻¹(CᵀΠC)⁻¹CᵀΠ; and B̃⁺B̃⁺ᵀ."""
    basis = column_basis(after, scale, field)
    if basis.shape[1] == 0:
        size = after.shape[1]
        return _Side(after.T * 0, np.full((size, size), field.number(0)), 0)
    rows = solve(basis.T @ basis, basis.T @ after)
    weighted = solve(basis.T @ precision @ basis, basis.T @ precision)
    inverse = rows.T @ solve(rows @ rows.T, weighted)
    return _Side(inverse, inverse @ noise @ inverse.T, basis.shape[1])


def exact_moments(x: Any, y: Any, field: Field, biases: bool = False) -> tuple[Exact, Exact]:
    """Return S = XᵀX/N and E[y xᵀ] = YᵀX/N of float rows, without rounding of the rows."""
    rows, values = convert(x, field), convert(y, field)
    if biases:
        rows = np.concatenate([rows, convert(np.ones((len(rows), 1)), field)], axis=1)
    count = field.number(len(rows))
    return rows.T @ rows / count, values.T @ rows / count


def population_moments(teacher: Any, input_cov: Any, field: Field) -> tuple[Exact, Exact]:
    """Return S and W* S of float matrices (S = I for None)."""
    matrix = convert(teacher, field)
    cov = identity(matrix.shape[1], field) if input_cov is None else convert(input_cov, field)
    return cov, matrix @ cov


def task_moments(task: Any, biases: bool = False) -> Callable[[Field], tuple[Exact, Exact]]:
    """Return the moments of a population task from the floats that it was made from."""

    def moments(field: Field) -> tuple[Exact, Exact]:
        if not biases:
            assert not task.input_mean.any()
            return population_moments(task.teacher, task.input_cov, field)
        mean = task.input_mean[:, None]
        cov = np.block([[task.input_cov, mean], [mean.T, np.ones((1, 1))]])
        return population_moments(
            np.concatenate([task.teacher, task.teacher_bias[:, None]], axis=1), cov, field
        )

    return moments


def truth(
    net: LinearNetwork,
    moments: Callable[[Field], tuple[Exact, Exact]],
    noise_cov: Any = None,
    digits: int | None = None,
) -> Truth:
    """Return the natural gradient of the network's very floats; digits grow until two precisions agree.

    The first precision resolves every singular value that a product of such layers can have, so that two precisions
    cannot agree on a wrong rank.

    Parameters
    ----------
    net : LinearNetwork
        A single network.
    moments : callable
        Field → (S, W* S); with biases those of (x, 1).
    digits : int, optional
        First precision tried; guessed from the conditions of the layers otherwise.
    """
    attempt = _guess(net) if digits is None else digits
    previous: tuple[np.ndarray, ...] | None = None
    while attempt < 20000:
        try:
            found = _at_precision(net, moments, noise_cov, attempt)
        except UndeterminedError:
            previous = None
        else:
            if previous is not None and _agree(previous, found[0]):
                return found[1]
            previous = found[0]
        attempt = attempt * 4 // 3
    raise UndeterminedError("no agreement below 20000 digits")


def rational_truth(
    net: LinearNetwork, moments: Callable[[Field], tuple[Exact, Exact]], noise_cov: Any = None
) -> Truth:
    """Return the same in rational arithmetic, for small networks."""
    return _evaluate(net, moments, noise_cov, RATIONAL, 0)[1]


def _guess(net: LinearNetwork) -> int:
    spread = 0.0
    for weight in net.weights:
        values = np.linalg.svd(weight.astype(np.float64), compute_uv=False)
        if values[0] > 0:
            spread += math.log10(values[0] / max(values[-1], 1e-16 * values[0]))
    return int(80 + 1.1 * spread)


def _agree(first: tuple[Exact, ...], second: tuple[Exact, ...]) -> bool:
    return all(largest(a - b) <= Decimal(AGREEMENT) * largest(b) for a, b in zip(first, second, strict=True))


def _at_precision(
    net: LinearNetwork, moments: Callable[[Field], tuple[Exact, Exact]], noise_cov: Any, digits: int
) -> tuple[tuple[Exact, ...], Truth]:
    context = decimal.Context(prec=digits, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
    with decimal.localcontext(context):
        return _evaluate(net, moments, noise_cov, decimal_field(digits), digits)


def _evaluate(
    net: LinearNetwork,
    moments: Callable[[Field], tuple[Exact, Exact]],
    noise_cov: Any,
    field: Field,
    digits: int,
) -> tuple[tuple[Exact, ...], Truth]:
    weights = [convert(w, field) for w in net.weights]
    maps = [convert(m, field) for m in net.maps] if net.has_biases else weights
    cov, cross = moments(field)
    size = net.widths[-1]
    noise = identity(size, field) if noise_cov is None else convert(noise_cov, field)
    direction, grams_in, grams_out, ranks = staircase(weights, maps, cov, cross, noise, field)
    error = _whitened_error(weights, maps, cov, cross, noise, field)
    factor = 0.0
    for step, a, b in zip(direction, grams_in, grams_out, strict=True):
        length = largest(step)
        if length:
            # Ratios first: the norms themselves may leave the range of floats.
            scaled = float(np.linalg.norm(_floats(step / length)))
            norms = _root(_norm(a)) * _root(_norm(b)) * error
            factor = max(factor, float(norms / length) / scaled)
    rounded = tuple(_floats(step) for step in direction)
    return tuple(direction), Truth(rounded, factor, digits, tuple(ranks))


def _whitened_error(
    weights: list[Exact], maps: list[Exact], cov: Exact, cross: Exact, noise: Exact, field: Field
) -> Any:
    """Return ‖Ẽ‖ = (tr Π E S Eᵀ)^½, with E S = cross − W S and E S Eᵀ = (E S) S⁺ (E S)ᵀ."""
    total = weights[0] if maps[0] is weights[0] else maps[0]
    for matrix in maps[1:]:
        total = matrix @ total
    gap = cross - total[: len(noise)] @ cov
    basis = column_basis(cov, largest(cov), field)
    if basis.shape[1] == 0:
        return field.number(0)
    inverse = solve(basis.T @ basis, basis.T)
    core = inverse @ cov @ inverse.T
    pushed = gap @ inverse.T
    square = sum((solve(noise, pushed) * (pushed @ solve(core, identity(len(core), field)))).flat)
    return _root(abs(square))


def _root(value: Any) -> Any:
    return value.sqrt() if isinstance(value, Decimal) else Fraction(math.sqrt(value))


def _norm(matrix: Exact) -> Any:
    """Return the spectral norm, scaled so that only the ratio to the largest entry is a float."""
    scale = largest(matrix)
    if not scale:
        return scale
    return scale * type(scale)(float(np.linalg.norm(_floats(matrix / scale), 2)))


def _floats(matrix: Exact) -> np.ndarray:
    return np.array([float(value) for value in matrix.flat]).reshape(matrix.shape)
