"""Losses of multilayer networks as one reads them in a textbook, for complex parameters too.

Nothing here is shared with linnat: layers are lists of [W_i b_i], sums are Python's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

UNITS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda z: z,
    "tanh": np.tanh,
    "logistic": lambda z: 1 / (1 + np.exp(-z)),
    "relu": lambda z: np.where(z.real > 0, z, 0),
    "softplus": lambda z: np.log(1 + np.exp(z)),
}
LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "gaussian": lambda z, y: 0.5 * ((y - z) ** 2).sum(),
    "bernoulli": lambda z, y: (np.log(1 + np.exp(z)) - y * z).sum(),
    "categorical": lambda z, y: np.log(np.exp(z).sum()) - (y * z).sum(),
    "poisson": lambda z, y: (np.exp(z) - y * z).sum(),
}
STEP = 1e-40


def output(theta: Any, widths: Sequence[int], units: Sequence[str], row: Any) -> Any:
    """Return the natural parameters of one row."""
    signal, start = row, 0
    for (inputs, outputs), unit in zip(pairwise(widths), units, strict=True):
        size = outputs * (inputs + 1)
        layer = theta[start : start + size].reshape((outputs, inputs + 1), order="F")
        signal = UNITS[unit](layer[:, :-1] @ signal + layer[:, -1])
        start += size
    return signal


def mean_loss(theta: Any, widths: Sequence[int], units: Sequence[str], family: str, x: Any, y: Any) -> Any:
    losses = [LOSSES[family](output(theta, widths, units, a), b) for a, b in zip(x, y, strict=True)]
    return sum(losses) / len(losses)


def complex_step(function: Callable[[Any], Any], theta: Any) -> Any:
    """Return the derivatives with respect to each parameter, on the last axis: no subtraction, no error."""
    columns = []
    for k in range(len(theta)):
        moved = theta.astype(complex)
        moved[k] += 1j * STEP
        columns.append(np.imag(function(moved)) / STEP)
    return np.stack(columns, axis=-1)


def jacobian(theta: Any, widths: Sequence[int], units: Sequence[str], x: Any) -> Any:
    return np.stack([complex_step(lambda t, row=row: output(t, widths, units, row), theta) for row in x])
