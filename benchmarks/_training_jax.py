"""JAX: the same training step, compiled as one function that may write over its parameters, in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._training_problem import RATE, Problem


def step(problem: Problem) -> tuple[Callable[[], object], Callable[[], np.ndarray]]:
    """Return a step of SGD, and a function that returns its gradient (P,) at the first parameters."""
    import jax
    import jax.numpy as jnp

    rows = jnp.asarray(problem.x)
    first = [
        (jnp.asarray(b[:-1], jnp.float32), jnp.asarray(b[-1])) for b in problem.net.blocks(problem.theta)
    ]

    def loss(layers: Any) -> Any:
        signal = rows
        for (weight, bias), unit in zip(layers, problem.net.activations, strict=True):
            signal = signal @ weight + bias
            if unit == "logistic":
                signal = jax.nn.sigmoid(signal)
        return jnp.mean(jnp.sum(jax.nn.softplus(signal) - signal * rows, axis=1))

    slope = jax.jit(jax.grad(loss))

    def update(layers: Any) -> Any:
        return jax.tree.map(lambda p, g: p - RATE * g, layers, jax.grad(loss)(layers))

    run = jax.jit(update, donate_argnums=0)
    state = [jax.tree.map(jnp.copy, first)]

    def call() -> None:
        state[0] = jax.block_until_ready(run(state[0]))

    def gradient() -> np.ndarray:
        out = np.empty(problem.net.n_parameters, np.float32)
        for block, (weight, bias) in zip(problem.net.blocks(out), slope(first), strict=True):
            block[:-1], block[-1] = np.asarray(weight), np.asarray(bias)
        return out

    return call, gradient
