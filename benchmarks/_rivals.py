"""What is a rival? A function of a case that returns a natural gradient, with what it needs and what it solves.

NumPy's own are here: the dense pseudo-inverse and the hand-written closed form, which is a floor and no rival.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks._problems import Arrays, Case

LAYERWISE, SHORTEST = "layerwise", "minimum norm"
DENSE, OPERATOR, FACTORS, FLOOR = "dense", "operators and CG", "K-FAC", "floor"
TOLERANCE = 1e-10  # CG stops at this relative residual of F u = ∇ℓ …
LIMIT = 500  # … or after this many iterations
MEMORY = 1.5e9  # bytes
SECONDS = 60.0
SPEED = 2e10  # flops per second, at least


@dataclass(frozen=True)
class Rival:
    """A way to a natural gradient.

    Attributes
    ----------
    name : str
    kind : str
        DENSE, OPERATOR, FACTORS or FLOOR.
    gauge : str
        Which of the solutions it gives.
    packages : tuple of str
        What must be installed.
    prepare : function
        Of a case: does what is done once for a network's shape and for the data, and returns the function to be timed,
        which goes from weights and data to the direction.
    cost : function
        Of a case: bytes and flops, roughly and rather too few; beyond MEMORY or SECONDS it is not started.
    """

    name: str
    kind: str
    gauge: str
    packages: tuple[str, ...]
    prepare: Callable[[Case], Callable[[], object]]
    cost: Callable[[Case], tuple[float, float]] = lambda case: (0.0, 0.0)

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]

    def refused(self, case: Case) -> str:
        """Return why it is not started on this case, or nothing."""
        if self.missing:
            return f"not installed: {', '.join(self.missing)}"
        size, flops = self.cost(case)
        if size > MEMORY:
            return f"skipped: a matrix of {size / 1e9:.1f} GB"
        if flops > SECONDS * SPEED:
            return f"skipped: {flops:.1e} flops, more than {SECONDS:.0f} s"
        return ""


def as_arrays(result: object) -> Arrays:
    """Return a direction as NumPy arrays, whatever library made it."""
    return [np.asarray(piece) for piece in result]  # type: ignore[attr-defined]


def parameters(case: Case) -> int:
    """Return P."""
    return sum(w.size for w in case.weights)


def numpy_rivals() -> list[Rival]:
    """Return the dense solvers and the floor."""
    return [
        Rival("NumPy pinv of F, P × P", DENSE, SHORTEST, (), _pinv_fisher, _cost(parameters, 20.0)),
        Rival("NumPy pinv of J Jᵀ", DENSE, SHORTEST, (), _pinv_kernel, _cost(_outputs, 20.0)),
        Rival("NumPy solve with J Jᵀ", DENSE, SHORTEST, (), _solve_kernel, _cost(_outputs, 2.0)),
        Rival("NumPy closed form", FLOOR, LAYERWISE, (), closed_form),
    ]


def _outputs(case: Case) -> int:
    return case.widths[0] * case.widths[-1]


def _cost(size: Callable[[Case], int], flops: float) -> Callable[[Case], tuple[float, float]]:
    return lambda case: (8.0 * size(case) ** 2, flops * float(size(case)) ** 3)


def _sides(case: Case) -> tuple[Arrays, Arrays, np.ndarray]:
    """Return A_i F, B_i and E F with F = rowsᵀ/√N."""
    signal = [case.rows.T / np.sqrt(len(case.rows))]
    for weight in case.weights:
        signal.append(weight @ signal[-1])
    after = [np.eye(case.widths[-1])]
    for weight in case.weights[:0:-1]:
        after.append(after[-1] @ weight)
    return signal[:-1], after[::-1], case.targets.T / np.sqrt(len(case.rows)) - signal[-1]


def _pinv_fisher(case: Case) -> Callable[[], Arrays]:
    def solve() -> Arrays:
        inputs, outputs, error = _sides(case)
        # Row-major vec: row (a, b) of the outputs, column (c, d) of a layer.
        jacobian = np.concatenate(
            [
                np.einsum("ac,db->abcd", b, a).reshape(error.size, -1)
                for a, b in zip(inputs, outputs, strict=True)
            ],
            axis=1,
        )
        fisher, gradient = jacobian.T @ jacobian, -jacobian.T @ error.ravel()
        solution = np.linalg.pinv(fisher, rcond=1e-13, hermitian=True) @ gradient
        cuts = np.cumsum([w.size for w in case.weights])[:-1]
        return [u.reshape(w.shape) for u, w in zip(np.split(solution, cuts), case.weights, strict=True)]

    return solve


def _kernel(inputs: Arrays, outputs: Arrays) -> np.ndarray:
    """Return J Jᵀ for row-major vec."""
    return np.asarray(sum(np.kron(b @ b.T, a.T @ a) for a, b in zip(inputs, outputs, strict=True)))


def _pinv_kernel(case: Case) -> Callable[[], Arrays]:
    def solve() -> Arrays:
        inputs, outputs, error = _sides(case)
        inverse = np.linalg.pinv(_kernel(inputs, outputs), rcond=1e-13, hermitian=True)
        middle = (inverse @ error.ravel()).reshape(error.shape)
        return [-b.T @ middle @ a.T for a, b in zip(inputs, outputs, strict=True)]

    return solve


def _solve_kernel(case: Case) -> Callable[[], Arrays]:
    def solve() -> Arrays:
        inputs, outputs, error = _sides(case)
        middle = np.linalg.solve(_kernel(inputs, outputs), error.ravel()).reshape(error.shape)
        return [-b.T @ middle @ a.T for a, b in zip(inputs, outputs, strict=True)]

    return solve


def closed_form(case: Case) -> Callable[[], Arrays]:
    """N1 as one writes it down: products A_i and B_i, two solves per layer; pseudo-inverses where they are not square.

    The teacher is given: S and Σ drop out of N1 where (J) holds.
    """
    depth, square = len(case.weights), len(set(case.widths)) == 1

    def solve() -> Arrays:
        weights = case.weights
        before, after = [weights[0]], [weights[-1]]
        for weight in weights[1:]:
            before.append(weight @ before[-1])
        for weight in weights[-2:0:-1]:
            after.append(after[-1] @ weight)
        error, after = (before[-1] - case.teacher) / depth, after[::-1]
        result = []
        for i in range(depth):
            piece = error
            if i < depth - 1:
                piece = np.linalg.solve(after[i], piece) if square else np.linalg.pinv(after[i]) @ piece
            if i > 0:
                a = before[i - 1]
                piece = np.linalg.solve(a.T, piece.T).T if square else piece @ np.linalg.pinv(a)
            result.append(piece)
        return result

    return solve
