"""What does a direction leave of the error? To twice the working precision, for refinement (statement N3).

Where J is ill-conditioned, Σ B_i v_i A_i cancels: in working precision its rounding is as large as what rounding the
entries of v has changed, and a step of refinement by such a remainder spoils v by eps κ(J). The true remainder is what
those last bits induce; the shortest step that makes up for it is no longer than they are, so that v keeps its digits.
"""

from __future__ import annotations

import numpy as np

from linnat._checks import Array
from linnat.exact.chains import Problem
from linnat.linalg.doubled import add, as_pair, matmul


def remainder(problem: Problem, pieces: list[Array], error: Array, start: Array | None) -> Array:
    """Return E X − Σ B_i v_i A_i X for X = `start` (None: the identity), rounded once, given E X."""

    def wide(matrix: Array) -> Array:
        return np.asarray(matrix, dtype=np.float64)

    signal = None if start is None else as_pair(wide(start))
    change = as_pair(wide(pieces[0]))
    if signal is not None:
        change = matmul(change, signal)
    for i in range(1, problem.depth):
        step = as_pair(wide(problem.maps[i - 1]))
        signal = step if signal is None else matmul(step, signal)
        change = add(
            matmul(as_pair(wide(problem.weights[i])), change), matmul(as_pair(wide(pieces[i])), signal)
        )
    left = (wide(error) - change.high) - change.low
    return left.astype(error.dtype)
