"""On which networks and data are natural gradients compared, and what is the right answer? Shared with no solver.

A case has layers, data rows and targets. The rows are as few as the inputs: the smallest data set with these second
moments, which is the cheapest for whoever works on rows. The truth is the change of the total weight that every natural
gradient induces (N3): minus the error W* − W where the network can express it, else minus its projection on the
range of J, E − Π_i (1 − P_i ⊗ Q_i) E, with projectors from singular vectors of explicit products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

LOWEST = 0.1  # eigenvalues of the input moments run from this to 1
BOTTLENECK = (784, 100, 30, 100, 784)
SIZES = ((4,) * 3, (16,) * 4, (64,) * 4, (256,) * 6, BOTTLENECK)
Arrays = list[np.ndarray]


@dataclass(frozen=True, eq=False)
class Case:
    """A network and its data.

    Attributes
    ----------
    weights : list of arrays (n_i, n_{i-1})
    rows, targets : arrays (N, n_0), (N, n_L)
        N = n_0, and `targets` = `rows` W*ᵀ: no noise.
    teacher : array (n_L, n_0)
    weights_are : str
        How the layers were drawn.
    """

    weights: Arrays
    rows: np.ndarray
    targets: np.ndarray
    teacher: np.ndarray
    weights_are: str

    @property
    def widths(self) -> tuple[int, ...]:
        """n_0 … n_L."""
        return (self.weights[0].shape[1], *(w.shape[0] for w in self.weights))

    @property
    def name(self) -> str:
        """The widths and the distribution of the weights."""
        return "-".join(map(str, self.widths)) + f", {self.weights_are}"

    @property
    def onto(self) -> bool:
        """Whether (J) holds generically: no hidden layer is narrower than input and output."""
        return min(self.widths) >= min(self.widths[0], self.widths[-1])

    @property
    def condition(self) -> float:
        """The largest condition number of a layer."""
        return max(float(np.linalg.cond(w)) for w in self.weights)


SPECTRA: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "tame": lambda rng, size: rng.uniform(0.5, 1.5, size),
    "moderate": lambda rng, size: np.exp(rng.uniform(np.log(0.2), np.log(2.0), size)),
}


def make_case(widths: Sequence[int], layers: str, seed: int = 0) -> Case:
    """Draw a case.

    Layers are "tame" (singular values uniform in [0.5, 1.5], random orthonormal vectors), "moderate" (singular values
    log-uniform in [0.2, 2]) or "Gaussian" of variance 1/n_{i-1}, plus the identity where all layers are square. The
    teacher is Gaussian of variance 1/n_0, or the identity for a bottleneck (an autoencoder). The input moments have a
    random eigenbasis and eigenvalues from 0.1 to 1.
    """
    rng = np.random.default_rng(seed)
    square = len(set(widths)) == 1
    weights = []
    for n, m in pairwise(widths):
        if layers in SPECTRA:
            left, right = (np.linalg.qr(rng.standard_normal((size, min(n, m))))[0] for size in (m, n))
            weights.append((left * SPECTRA[layers](rng, min(n, m))) @ right.T)
        else:
            weights.append(rng.standard_normal((m, n)) / np.sqrt(n) + (np.eye(n) if square else 0.0))
    inputs, outputs = widths[0], widths[-1]
    teacher = rng.standard_normal((outputs, inputs)) / np.sqrt(inputs)
    if min(widths) < min(inputs, outputs) and inputs == outputs:
        teacher = np.eye(inputs)
    basis = np.linalg.qr(rng.standard_normal((inputs, inputs)))[0]
    rows = np.sqrt(inputs * np.geomspace(LOWEST, 1.0, inputs))[:, None] * basis
    kind = "Gaussian + identity" if square and layers not in SPECTRA else layers
    return Case(weights, rows, rows @ teacher.T, teacher, kind)


def before_and_after(weights: Arrays) -> tuple[Arrays, Arrays]:
    """Return A_i and B_i as explicit products."""
    before, after = [np.eye(weights[0].shape[1])], [np.eye(weights[-1].shape[0])]
    for weight in weights[:-1]:
        before.append(weight @ before[-1])
    for weight in weights[:0:-1]:
        after.append(after[-1] @ weight)
    return before, after[::-1]


def truth(case: Case) -> np.ndarray:
    """Return the change of the total weight that a natural gradient (ascent) induces.

    Notes
    -----
    The projectors P_i ⊗ Q_i commute (their ranges are nested), so that the complement of the range of J is the product
    of the complements. S > 0, hence the whitening can be undone.
    """
    before, after = before_and_after(case.weights)
    error = case.teacher - case.weights[-1] @ before[-1]
    if case.onto:
        return -error
    # Rows are √N × eigenvalues^½ × an orthogonal matrix: this is S^½ up to a rotation, with a known inverse.
    scale = np.sqrt(len(case.rows))
    factor = case.rows.T / scale
    left = error @ factor
    for i, (a, b) in enumerate(zip(before, after, strict=True), 1):
        rows = _range((a @ factor).T, min(case.widths[:i]))
        columns = _range(b, min(case.widths[i:]))
        left = left - columns @ (columns.T @ left @ rows) @ rows.T
    return np.linalg.solve(factor.T, (left - error @ factor).T).T


def induced_change(case: Case, direction: Arrays) -> np.ndarray:
    """Return Σ B_i u_i A_i."""
    before, after = before_and_after(case.weights)
    return np.asarray(sum(b @ u @ a for a, b, u in zip(before, after, direction, strict=True)))


def relative_error(case: Case, direction: Arrays, expected: np.ndarray) -> float:
    """Return the relative error of the induced change; inf if it is not finite or has the wrong shapes."""
    if [u.shape for u in direction] != [w.shape for w in case.weights]:
        return float("inf")
    found = induced_change(case, [np.asarray(u, np.float64) for u in direction])
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return error if np.isfinite(error) else float("inf")


def _range(matrix: np.ndarray, rank: int) -> np.ndarray:
    """Return an orthonormal basis of the range of a matrix of known rank."""
    return np.linalg.svd(matrix, full_matrices=False)[0][:, :rank]
