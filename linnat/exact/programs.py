"""Which point of a polyhedron does a limit pick? Linear programs with their whole optimal face, and least distances.

Kernels of C8 that know no data: a linear program by HiGHS with the constraints that are tight on all of its optimal
face (Goldman and Tucker's strictly complementary partition), the centroid of that face to which exponential penalties
lead (Cominetti and San Martín 1994), and the point of a polyhedron nearest to the origin (Lawson and Hanson's least
distance programming). A solver names the active set; numbers are then solved for anew, so that its tolerances do not
remain.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linprog, nnls

from linnat._checks import Array, ConvergenceError

MAX_STEPS = 200
ZERO = 1e-5
QUADRATIC = 1e-6  # decrement below which Newton's step is taken without a search: rounding would decide it


class Face(NamedTuple):
    """An optimal vertex of min ⟨c, z⟩ s.t. R z ≥ h, and what holds on the whole optimal face.

    Attributes
    ----------
    point : array (k,)
    dual : array (M,)
        Optimal multipliers, Rᵀλ = c, λ ≥ 0; of a vertex, so not unique where the face of the dual is larger.
    tight : boolean array (M,)
        R_n z = h_n for every optimal z.
    """

    point: Array
    dual: Array
    tight: Array


class Centroid(NamedTuple):
    """The limit and the next term of minimisers of t⟨c, z⟩ + Σ exp(t(h_n − R_n z)), as points t · point + offset.

    Attributes
    ----------
    point, offset : arrays (k,)
    levels : tuple of boolean arrays (M,)
        The constraints tight on the optimal face; those that bound the least slack from below there; and so on.
    """

    point: Array
    offset: Array
    levels: tuple[Array, ...]


class Distance(NamedTuple):
    """The least point of R z ≥ h: z = Rᵀλ.

    Attributes
    ----------
    point : array (k,)
    dual : array (M,)
    """

    point: Array
    dual: Array


def optimal_face(rows: Array, right: Array, cost: Array, cut: float) -> Face | None:
    """Solve min ⟨c, z⟩ s.t. R z ≥ h; None where the constraints contradict each other (to 1/cut in the size of z).

    A slack below cut may be zero without a multiplier; a second program decides. Multipliers of a vertex are exact up
    to rounding, far below cut: what is below ZERO · cut times the largest counts as none.
    """
    found = _highs(cost, A_ub=-rows, b_ub=-right, bounds=(None, None))
    if found is None or np.abs(found.x).max() > 1 / cut:
        return None
    dual = np.maximum(-found.ineqlin.marginals, 0.0)
    support = dual > ZERO * cut * dual.max()
    doubtful = (rows @ found.x - right <= cut) & ~support
    tight = support | _never_slack(rows, right, support, doubtful, cut) if doubtful.any() else support
    return Face(found.x, dual, tight)


def _never_slack(rows: Array, right: Array, support: Array, doubtful: Array, cut: float) -> Array:
    """Return which doubtful constraints are tight wherever the supported ones are.

    Of all points (z, κ), κ ≤ 1/cut, of the cone over the face one is sought with as many slacks ≥ 1 as there can be.
    """
    size, count = rows.shape[1], int(doubtful.sum())
    others = ~support & ~doubtful
    homogeneous = np.column_stack([rows, -right])
    slack = np.zeros((len(rows), count))
    slack[np.flatnonzero(doubtful), np.arange(count)] = 1.0
    found = _highs(
        np.concatenate([np.zeros(size + 1), -np.ones(count)]),
        A_eq=np.column_stack([homogeneous[support], slack[support]]),
        b_eq=np.zeros(int(support.sum())),
        A_ub=np.column_stack([-homogeneous, slack])[doubtful | others],
        b_ub=np.zeros(int((doubtful | others).sum())),
        bounds=[(None, None)] * size + [(1.0, 1 / cut)] + [(0.0, 1.0)] * count,
    )
    if found is None:
        raise ConvergenceError("linear program: its optimal face could not be determined.")
    tight = np.zeros(len(rows), bool)
    tight[doubtful] = found.x[size + 1 :] < 0.5
    return tight


def _highs(cost: Array, **problem: Any) -> Any:
    """Run HiGHS's dual simplex; None for infeasible. Presolve alone cannot always tell infeasible from unbounded."""
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    for presolve in (True, False):
        found = linprog(cost, method="highs-ds", options=options | {"presolve": presolve}, **problem)
        if found.status == 0:
            return found
    if found.status == 2:
        return None
    raise ConvergenceError(f"linear program: {found.message}")


def centroid(rows: Array, cost: Array, face: Face, cut: float) -> Centroid:
    """Return where the minimisers of t⟨c, z⟩ + Σ exp(t(1 − R_n z)) go, as lines in t.

    Parameters
    ----------
    rows : array (M, k)
        Of full column rank.
    cost : array (k,)
        In the interior of the cone of the rows, so that the optimal face is bounded.
    face : Face
        Of the program with right-hand side 1.
    cut : float

    Notes
    -----
    On the face the least slack is maximised, then the least of those not yet fixed, and so on; constraints that are
    constant there do not count. The offset minimises at every level the sum of exponentials of that level. One or two
    linear programs for each level, at most k levels.
    """
    levels = [face.tight]
    point = np.linalg.lstsq(rows[face.tight], np.ones(int(face.tight.sum())))[0]
    offset = _first_offset(rows[face.tight], cost, face.dual[face.tight], cut)
    basis = _null_space(rows[face.tight], np.eye(rows.shape[1]), cut)
    while basis.shape[1]:
        inner = rows @ basis
        free = np.linalg.norm(inner, axis=1) > cut * np.linalg.norm(rows, axis=1)
        # max s over (x, s): R_n(point + basis x) ≥ s.
        stage = np.column_stack([inner[free], -np.ones(int(free.sum()))])
        ahead = np.append(np.zeros(basis.shape[1]), -1.0)
        best = optimal_face(stage, -(rows[free] @ point), ahead, cut)
        if best is None:
            raise ConvergenceError(
                "linear program: the centroid of its optimal face could not be determined."
            )
        tight = np.zeros(len(rows), bool)
        tight[np.flatnonzero(free)[best.tight]] = True
        chosen = np.linalg.lstsq(stage[best.tight], -(rows[tight] @ point))[0][:-1]
        span, coordinates = _row_space(inner[tight], cut)
        exponents = -(rows[tight] @ offset)
        shift = minimise_exponentials(
            coordinates, np.zeros(coordinates.shape[1]), exponents - exponents.max()
        )
        point, offset = point + basis @ chosen, offset + basis @ (span @ shift)
        basis = _null_space(inner[tight], basis, cut)
        levels.append(tight)
    return Centroid(point, offset, tuple(levels))


def _first_offset(rows: Array, cost: Array, dual: Array, cut: float) -> Array:
    """Return the least d with R_n d = −log λ_n, λ the optimal multipliers of largest entropy."""
    span, coordinates = _row_space(rows, cut)
    if coordinates.shape[0] == coordinates.shape[1]:
        multipliers = np.linalg.solve(coordinates.T, span.T @ cost)
        return np.asarray(-span @ np.linalg.solve(coordinates, np.log(multipliers)))
    # Multipliers of the vertex give the scale at which the search starts.
    scale = np.log(dual[dual > 0].mean())
    start = minimise_exponentials(coordinates, span.T @ cost / np.exp(scale), np.zeros(len(rows)))
    shift = np.linalg.lstsq(coordinates, np.full(len(rows), -scale))[0]
    return np.asarray(span @ (start + shift))


def minimise_exponentials(rows: Array, linear: Array, exponents: Array) -> Array:
    """Return argmin ⟨g, z⟩ + Σ exp(e_n − R_n z), R of full column rank, by Newton's method with a line search."""
    z = np.zeros(rows.shape[1])

    def objective(place: Array) -> float:
        with np.errstate(over="ignore"):
            return float(linear @ place + np.exp(exponents - rows @ place).sum())

    value = objective(z)
    for _ in range(MAX_STEPS):
        weights = np.exp(exponents - rows @ z)
        triangle = np.asarray(np.linalg.qr(np.sqrt(weights)[:, None] * rows, mode="r"))
        downhill = rows.T @ weights - linear
        try:
            half = np.linalg.solve(triangle.T, downhill)
            step, decrement = np.linalg.solve(triangle, half), float(half @ half)
        except np.linalg.LinAlgError:
            raise ConvergenceError("sum of exponentials: no minimum at finite distance.", z) from None
        if decrement <= QUADRATIC**2 * max(1.0, abs(value)):
            # Two more steps square the error twice; this one is the last but rounding.
            z = z + step
            if decrement <= QUADRATIC**4 * max(1.0, abs(value)):
                return z
            value = objective(z)
            continue
        length, trial = 1.0, objective(z + step)
        while not trial <= value - 1e-4 * length * decrement:
            length /= 2
            if length < 1e-12:
                raise ConvergenceError("sum of exponentials: no descent; the problem has no minimum.", z)
            trial = objective(z + length * step)
        z, value = z + length * step, trial
    raise ConvergenceError("sum of exponentials: Newton's method did not converge.", z)


def least_distance(rows: Array, right: Array) -> Distance | None:
    """Solve min ‖z‖ s.t. R z ≥ h > 0 by non-negative least squares; None where the constraints contradict each other.

    The least distance to (0, …, 0, 1) in the cone of the columns of [Rᵀ; hᵀ]: its residual is proportional to (z, −1).
    Run twice, the second time scaled to ‖z‖ = 1, where 1 − hᵀα does not cancel.
    """
    scale = float(np.linalg.norm(rows, 2))
    size = len(rows) * np.finfo(np.float64).eps
    if scale == 0:
        return None
    alpha = np.zeros(len(rows))
    for _ in range(2):
        target = np.append(np.zeros(rows.shape[1]), 1.0)
        try:
            alpha = nnls(np.vstack([rows.T / scale, right]), target, maxiter=30 * len(rows))[0]
        except RuntimeError:
            raise ConvergenceError("least distance: non-negative least squares did not converge.") from None
        gap = 1.0 - float(right @ alpha)
        if gap <= size:
            return None
        scale = scale / float(np.linalg.norm(rows.T @ alpha / (scale * gap)))
    support = alpha > 0
    point = np.linalg.lstsq(rows[support], right[support])[0]
    dual = np.zeros(len(rows))
    dual[support] = np.linalg.lstsq(rows[support].T, point)[0]
    return Distance(point, dual)


def cone_coefficients(rows: Array, vector: Array) -> tuple[Array, float]:
    """Return λ ≥ 0 with Rᵀλ nearest to the vector, and the distance relative to its length."""
    size = float(np.linalg.norm(vector))
    try:
        coefficients, distance = nnls(rows.T, vector / size, maxiter=30 * len(rows))
    except RuntimeError:
        raise ConvergenceError("cone: non-negative least squares did not converge.") from None
    return size * coefficients, float(distance)


def _row_space(matrix: Array, cut: float) -> tuple[Array, Array]:
    """Return an orthonormal basis V (k, r) of the row space, and the rows in it, R V (M, r)."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    keep = values > cut * values[0]
    return right[keep].T, left[:, keep] * values[keep]


def _null_space(matrix: Array, basis: Array, cut: float) -> Array:
    """Return an orthonormal basis of the null space of rows that are given in the coordinates of `basis`."""
    _, values, right = np.linalg.svd(matrix)
    rank = int((values > cut * values[0]).sum())
    return np.asarray(basis @ right[rank:].T)
