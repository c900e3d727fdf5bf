"""What are the minimum-norm and the damped natural gradient of the very numbers given? N3, N4 in decimal arithmetic.

F and ∇ℓ are rational functions of the floats given. F⁺∇ℓ = C (CᵀF C)⁻¹Cᵀ∇ℓ with C a basis of the columns of F; no
factor of S or Σ, no sweep, no singular value. Where every error can be expressed, the equation
Σ_j K_j M M_j = E of statement N3 is solved instead: n_L n_0 unknowns, for deeper networks.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from tests.mp_oracle import (
    Exact,
    Field,
    UndeterminedError,
    column_basis,
    convert,
    decimal_field,
    identity,
    largest,
    solve,
    task_moments,
)

Direction = tuple[np.ndarray, ...]


def minimum_norm_truth(net: LinearNetwork, task: Task, digits: int = 80) -> Direction:
    """Return F⁺∇ℓ, an ascent direction; digits grow until two precisions agree."""
    return _settled(lambda field: _solution(net, task, field, None), digits)


def damped_truth(net: LinearNetwork, task: Task, damping: float, digits: int = 80) -> Direction:
    """Return (F + λI)⁻¹∇ℓ."""
    return _settled(lambda field: _solution(net, task, field, damping), digits)


def onto_truth(net: LinearNetwork, task: Task, digits: int = 80) -> Direction:
    """Return the minimum norm where (J) holds and S is invertible: S and Σ drop out."""

    def attempt(field: Field) -> list[Exact]:
        weights, before, after = _products(net, field)
        error = convert(task.goal(net.has_biases), field) - (weights[-1] @ before[-1])[: net.widths[-1]]
        operator = sum(np.kron(a.T @ a, b @ b.T) for a, b in zip(before, after, strict=True))
        flat = solve(operator, error.ravel(order="F")[:, None])
        middle = flat.reshape(error.shape, order="F")
        return [-(b.T @ middle @ a.T) for a, b in zip(before, after, strict=True)]

    return _settled(attempt, digits)


def _products(net: LinearNetwork, field: Field) -> tuple[list[Exact], list[Exact], list[Exact]]:
    """Return the maps, A_i and B_i."""
    weights, maps = ([convert(w, field) for w in part] for part in (net.weights, net.maps))
    before, after = [identity(maps[0].shape[1], field)], [identity(net.widths[-1], field)]
    for i in range(net.depth - 1):
        before.append(maps[i] @ before[-1])
        after.append(after[-1] @ weights[net.depth - 1 - i])
    return maps, before, after[::-1]


def _solution(net: LinearNetwork, task: Task, field: Field, damping: float | None) -> list[Exact]:
    maps, before, after = _products(net, field)
    cov, cross = task_moments(task, net.has_biases)(field)
    precision = solve(convert(task.noise_cov, field), identity(net.widths[-1], field))
    gap = (maps[-1] @ before[-1])[: net.widths[-1]] @ cov - cross
    slope = np.concatenate(
        [(b.T @ precision @ gap @ a.T).ravel(order="F") for a, b in zip(before, after, strict=True)]
    )[:, None]
    pairs = list(zip(before, after, strict=True))
    fisher = np.block([[np.kron(a @ cov @ c.T, b.T @ precision @ d) for c, d in pairs] for a, b in pairs])
    if damping is None:
        basis = column_basis(fisher, largest(fisher), field)
        flat = basis @ solve(basis.T @ fisher @ basis, basis.T @ slope)
    else:
        flat = solve(fisher + field.number(damping) * identity(len(fisher), field), slope)
    shapes = [layer.shape for layer in net.layers]
    ends = np.cumsum([m * n for m, n in shapes])[:-1]
    return [p.reshape(s, order="F") for p, s in zip(np.split(flat[:, 0], ends), shapes, strict=True)]


def _settled(attempt: Callable[[Field], Sequence[Any]], digits: int) -> Direction:
    previous: Sequence[Any] | None = None
    while digits < 2000:
        context = decimal.Context(prec=digits, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
        with decimal.localcontext(context):
            try:
                found = attempt(decimal_field(digits))
                pairs = [] if previous is None else list(zip(found, previous, strict=True))
                agree = decimal.Decimal("1e-20")
                if pairs and all(largest(a - b) <= agree * largest(a) for a, b in pairs):
                    return tuple(np.array(f, dtype=np.float64) for f in found)
                previous = found
            except (UndeterminedError, decimal.InvalidOperation, decimal.DivisionByZero):
                previous = None
        digits = digits * 3 // 2
    raise UndeterminedError("no agreement below 2000 digits")
