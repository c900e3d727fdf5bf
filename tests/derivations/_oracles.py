"""Oracles for the flow and descent derivations, from the definitions: products, unit perturbations, integrators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

Array = NDArray[np.float64]


def total(weights: Sequence[Array]) -> Array:
    """Multiply the layers."""
    out = np.eye(weights[0].shape[1])
    for weight in weights:
        out = weight @ out
    return out


def split(vector: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Cut a vector into layers, row by row."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(vector, ends), shapes, strict=True)]


def jacobian(weights: Sequence[Array]) -> Array:
    """Return the derivative of W (row by row) in the parameters: W is linear in each layer, so unit layers give it."""
    columns = []
    for index, weight in enumerate(weights):
        for entry in range(weight.size):
            unit = np.zeros(weight.size)
            unit[entry] = 1.0
            columns.append(
                total([*weights[:index], unit.reshape(weight.shape), *weights[index + 1 :]]).ravel()
            )
    return np.array(columns).T


def layerwise(weights: Sequence[Array], teacher: Array) -> list[Array]:
    """Return v_i = (1/L) B_i⁺(W* − W)A_i⁺."""
    depth, error = len(weights), teacher - total(weights)
    out = []
    for index in range(depth):
        before = total(weights[:index]) if index else np.eye(weights[0].shape[1])
        after = total(weights[index + 1 :]) if index + 1 < depth else np.eye(weights[-1].shape[0])
        out.append(np.linalg.pinv(after) @ error @ np.linalg.pinv(before) / depth)
    return out


def shortest(weights: Sequence[Array], teacher: Array) -> list[Array]:
    """Return the layers of J⁺ vec(W* − W)."""
    vector = np.linalg.lstsq(jacobian(weights), (teacher - total(weights)).ravel(), rcond=None)[0]
    return split(vector, [weight.shape for weight in weights])


def gradient(weights: Sequence[Array], teacher: Array) -> list[Array]:
    """Return −∇ℓ for white inputs and noise."""
    vector = jacobian(weights).T @ (teacher - total(weights)).ravel()
    return split(vector, [weight.shape for weight in weights])


def integrate(
    weights: Sequence[Array], velocity: Callable[[list[Array]], list[Array]], times: Sequence[float]
) -> list[list[Array]]:
    """Integrate the flow of all layers with SciPy and return the layers at the times."""
    shapes = [weight.shape for weight in weights]

    def slope(_: float, vector: Array) -> Array:
        return np.concatenate([part.ravel() for part in velocity(split(vector, shapes))])

    start = np.concatenate([weight.ravel() for weight in weights])
    run = solve_ivp(slope, (0.0, max(times)), start, "DOP853", times, rtol=1e-11, atol=1e-12)
    assert run.success, run.message
    return [split(vector, shapes) for vector in run.y.T]


def network(widths: Sequence[int], seed: int) -> list[Array]:
    """Draw Gaussian layers of variance 1/n_{i−1}."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((b, a)) / np.sqrt(a) for a, b in pairwise(widths)]


def positive_ratio(weights: Sequence[Array], seed: int) -> Array:
    """Return a teacher for which W⁻¹W* has a positive spectrum in random coordinates: its flow never breaks."""
    rng = np.random.default_rng(seed)
    size = len(weights[0])
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0] + 0.3 * rng.standard_normal((size, size))
    spectrum = np.exp(rng.uniform(-1.5, 1.5, size))
    return total(weights) @ np.linalg.solve(basis.T, (basis * spectrum).T).T


def mutant(change: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a function that multiplies a formula's value by a constant: a mistake a proof must notice."""

    def spoil(function: Callable[..., Any]) -> Callable[..., Any]:
        def spoiled(*arguments: Any) -> Any:
            return change * function(*arguments)

        return spoiled

    return spoil
