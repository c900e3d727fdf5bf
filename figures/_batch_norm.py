"""What is a batch-normalised network? Each hidden layer's a = W h becomes u = γ ∘ (a − E a)/√(Var a + e) + β.

The third of the reparametrisations that are compared (Ioffe and Szegedy 2015): parameters are W, β and γ, the output
layer is plain. Means and variances are those of the rows that are passed, and derivatives go through them: `gradient`
and `pushforward` are those of the whole map, so that each row's output depends on every other row. The vector ω of
parameters is that of the plain network, with β in the place of the biases, and then the γ of all hidden layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from figures._common import Array
from linnat.nonlinear import Network
from linnat.nonlinear.activations import activate, multiply_by_slope
from linnat.nonlinear.optimisers import Batch, Report
from linnat.nonlinear.output import check_finite, mean_loss, output_errors

SMALL = 1e-5  # e
CHUNK = 128  # directions at once


class Passed(NamedTuple):
    """What a forward pass leaves: signals h_0 … h_{L−1}, normalised (a − E a)/s and s of hidden layers, outputs."""

    signals: list[Array]
    normalised: list[Array]
    deviations: list[Array]
    outputs: Array


def start(net: Network, theta: Array) -> Array:
    """Return ω with the weights of θ, β = 0 and γ = 1."""
    omega = np.concatenate([theta, np.ones(sum(net.widths[1:-1]), theta.dtype)])
    for block in net.blocks(omega[: net.n_parameters])[:-1]:
        block[-1] = 0.0
    return omega


def gains(net: Network, vector: Array) -> list[Array]:
    """Return views of the γ of each hidden layer, (…, n_i), of a vector (…, P + Σ n_i)."""
    ends = net.n_parameters + np.cumsum([0, *net.widths[1:-1]])
    return [vector[..., a:b] for a, b in pairwise(ends)]


def forward(net: Network, omega: Array, x: Array) -> Passed:
    """Return outputs (N, n_L) and what the other passes need."""
    blocks, signal = net.blocks(omega[: net.n_parameters]), x
    passed = Passed([x], [], [], x)
    for block, gain, name in zip(blocks, gains(net, omega), net.activations, strict=False):
        before = signal @ block[:-1]
        before -= before.mean(axis=0)
        deviation = np.sqrt((before**2).mean(axis=0) + before.dtype.type(SMALL))
        before /= deviation
        signal = before * gain + block[-1]
        activate(name, signal)
        passed.signals.append(signal)
        passed.normalised.append(before)
        passed.deviations.append(deviation)
    return passed._replace(outputs=signal @ blocks[-1][:-1] + blocks[-1][-1])


def loss(net: Network, omega: Array, x: Array, y: Array) -> float:
    """Return the mean loss, statistics from the rows of x."""
    outputs = forward(net, omega, x).outputs
    return mean_loss(net.family, outputs, y, np.empty_like(outputs))


def gradient(net: Network, omega: Array, x: Array, y: Array) -> tuple[float, Array]:
    """Return the mean loss and its gradient in ω, through the statistics."""
    passed, out, size = forward(net, omega, x), np.empty_like(omega), net.n_parameters
    error = np.empty_like(passed.outputs)
    value = mean_loss(net.family, passed.outputs, y, error)
    output_errors(net.family, passed.outputs, y, error)
    error /= len(x)
    blocks, parts = net.blocks(omega[:size]), net.blocks(out[:size])
    slopes, scales = gains(net, out), gains(net, omega)
    for i in range(net.depth - 1, -1, -1):
        parts[i][-1] = error.sum(axis=0)
        if i < net.depth - 1:
            slopes[i][...] = (error * passed.normalised[i]).sum(axis=0)
            error = _projected(error * scales[i], passed, i)
        np.matmul(passed.signals[i].T, error, out=parts[i][:-1])
        if i > 0:
            error = error @ blocks[i][:-1].T
            multiply_by_slope(net.activations[i - 1], passed.signals[i], error)
    return value, out


def pushforward(net: Network, omega: Array, passed: Passed, directions: Array) -> Array:
    """Return the derivatives (K, N, n_L) of the outputs along directions (K, P + Σ n_i)."""
    size = net.n_parameters
    blocks, changes = net.blocks(omega[:size]), net.blocks(directions[:, :size])
    moved = None
    for i in range(net.depth):
        step = passed.signals[i] @ changes[i][:, :-1]
        if moved is not None:
            step += moved @ blocks[i][:-1]
        if i < net.depth - 1:
            step = _projected(step, passed, i) * gains(net, omega)[i]
            step += gains(net, directions)[i][:, None] * passed.normalised[i]
        step += changes[i][:, -1:]
        if i < net.depth - 1:
            slope = np.ones_like(passed.signals[i + 1])
            multiply_by_slope(net.activations[i], passed.signals[i + 1], slope)
            step *= slope
        moved = step
    return step


def _projected(step: Array, passed: Passed, i: int) -> Array:
    """Return what normalisation does to a change of a (…, N, n_i): self-adjoint, without mean and own direction."""
    own = passed.normalised[i]
    centred = step - step.mean(axis=-2, keepdims=True)
    centred -= own * (step * own).mean(axis=-2, keepdims=True)
    centred /= passed.deviations[i]
    return centred


def fisher(net: Network, omega: Array, x: Array) -> Array:
    """Return the Fisher matrix in ω: targets of the model in expectation, statistics from the rows of x."""
    passed, size = forward(net, omega, x), len(omega)
    root, unit = net.family.fisher_root(passed.outputs), np.eye(len(omega), dtype=omega.dtype)
    columns = np.empty((size, len(x) * root.shape[-1]), omega.dtype)
    for begin in range(0, size, CHUNK):
        moved = pushforward(net, omega, passed, unit[begin : begin + CHUNK])
        columns[begin : begin + CHUNK] = np.einsum("knc,ncr->knr", moved, root).reshape(len(moved), -1)
    out: Array = columns @ columns.T
    out /= len(x)
    return out


class NormalisedState(NamedTuple):
    """Network, ω (as `theta`), updates."""

    net: Network
    theta: Array
    updates: int


@dataclass(frozen=True)
class NormalisedDescent:
    """Gradient descent of a batch-normalised network, as an optimiser whose parameters are ω."""

    rate: float = 0.1

    def init(self, net: Network, theta: Array) -> NormalisedState:
        """Return the state at the weights of a plain network's θ."""
        return NormalisedState(net, start(net, theta), 0)

    def step(
        self, state: NormalisedState, batch: Batch, rng: np.random.Generator
    ) -> tuple[NormalisedState, Report]:
        """Return the state after an update, and what it did."""
        value, slope = gradient(state.net, state.theta, batch.x, batch.y)
        square = float(np.vdot(slope, slope))
        check_finite(value, square)
        size = square**0.5
        state.theta[...] -= self.rate * slope
        return state._replace(updates=state.updates + 1), Report(value, size, self.rate * size)
