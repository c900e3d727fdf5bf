"""JAX: products with F by jvp and vjp in CG, and the hand-written closed form; float64, compiled beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks._problems import Case
from benchmarks._rivals import FLOOR, LAYERWISE, LIMIT, OPERATOR, SHORTEST, TOLERANCE, Rival


def jax_rivals() -> list[Rival]:
    """Return the operator and the floor."""
    return [
        Rival("JAX jvp, vjp and CG", OPERATOR, SHORTEST, ("jax",), _operator),
        Rival("JAX closed form", FLOOR, LAYERWISE, ("jax",), _closed_form),
    ]


def _compiled(function: Callable[..., Any], *arguments: Any) -> Callable[[], object]:
    import jax

    arguments = jax.tree.map(jax.numpy.asarray, arguments)
    run = jax.jit(function).lower(*arguments).compile()
    return lambda: jax.block_until_ready(run(*arguments))


def _operator(case: Case) -> Callable[[], object]:
    import jax

    jax.config.update("jax_enable_x64", True)

    def solve(weights: Any, rows: Any, targets: Any) -> Any:
        def outputs(layers: Any) -> Any:
            signal = rows
            for layer in layers:
                signal = signal @ layer.T
            return signal

        predicted, push = jax.linearize(outputs, weights)
        pull = jax.linear_transpose(push, weights)

        def back(signal: Any) -> Any:
            return pull(signal / len(rows))[0]

        gradient = back(predicted - targets)
        return jax.scipy.sparse.linalg.cg(lambda v: back(push(v)), gradient, tol=TOLERANCE, maxiter=LIMIT)[0]

    return _compiled(solve, case.weights, case.rows, case.targets)


def _closed_form(case: Case) -> Callable[[], object]:
    import jax

    jax.config.update("jax_enable_x64", True)
    from jax import numpy as jnp

    depth, square = len(case.weights), len(set(case.widths)) == 1

    def solve(weights: Any, teacher: Any) -> Any:
        before, after = [weights[0]], [weights[-1]]
        for weight in weights[1:]:
            before.append(weight @ before[-1])
        for weight in weights[-2:0:-1]:
            after.append(after[-1] @ weight)
        error, after = (before[-1] - teacher) / depth, after[::-1]
        result = []
        for i in range(depth):
            piece = error
            if i < depth - 1:
                piece = jnp.linalg.solve(after[i], piece) if square else jnp.linalg.pinv(after[i]) @ piece
            if i > 0:
                a = before[i - 1]
                piece = jnp.linalg.solve(a.T, piece.T).T if square else piece @ jnp.linalg.pinv(a)
            result.append(piece)
        return result

    return _compiled(solve, case.weights, case.teacher)
