"""What is the natural gradient when only some entries of the total weight are observed? Statement C9.

The loss is ½ Σ (W* − W)²_{ab} over the observed entries (a, b) ∈ Ω: with all of them that of `Task(W*)`. Two metrics:
that of the population, F = JᵀJ with J the derivative of all entries, and that of the observed entries, F_Ω = J_ΩᵀJ_Ω,
J_Ω the rows of J that belong to Ω. F_Ω is singular in function space, so that what happens to the unobserved entries is
the gauge's to say. Nothing of size P × P is formed: J_ΩJ_Ωᵀ has one row for every observed entry, and its entries are
Σ_i (B_iB_iᵀ)_{aa'} (A_iᵀA_i)_{bb'}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import lapack

from linnat._checks import (
    Array,
    ConditionError,
    as_choice,
    as_matrix,
    as_scalar,
    check_broadcast,
    fail,
    representable,
)
from linnat.exact.conditions import is_onto
from linnat.exact.natural import natural_gradient
from linnat.exact.network import Direction, LinearNetwork, as_network
from linnat.exact.task import Task
from linnat.linalg.memory import refuse_beyond_memory

GAUGES = ("minimum-norm", "layerwise", "population")
METRICS = ("observed", "population")


class Step(NamedTuple):
    """A natural gradient of the observed entries.

    Attributes
    ----------
    direction : tuple of arrays (…, n_i, n_{i-1})
        An ascent direction like `net.weights`.
    rank : integer array (…)
        Of J_Ω as the gauge saw it; |Ω| where J_Ω is onto.
    residual : array (…)
        ‖J_Ω v − e‖ / ‖e‖ on the observed entries, v = −direction: 0 up to rounding where J_Ω is onto.
    """

    direction: Direction
    rank: Array
    residual: Array


class Problem(NamedTuple):
    """A stack of networks (B, …), their targets, and the places of the observed entries, columns after columns."""

    weights: tuple[Array, ...]
    target: Array
    rows: Array
    columns: Array
    batch: tuple[int, ...]


def make_problem(net: LinearNetwork, target: Any, observed: Any) -> Problem:
    """Check the arguments, broadcast their leading axes and flatten them to one."""
    network = as_network(net)
    if network.has_biases:
        raise ConditionError("net: C9 is about factorisations W_L ⋯ W_1, found biases. Leave them out.")
    shape = (network.widths[-1], network.widths[0])
    goal, seen = as_matrix(target, "target").astype(np.float64), np.asarray(observed)
    if seen.dtype != np.bool_ or seen.ndim < 2:
        fail("observed", "a boolean array (…, n_L, n_0)", f"dtype {seen.dtype}, shape {seen.shape}")
    for name, found in (("target", goal.shape), ("observed", seen.shape)):
        if found[-2:] != shape:
            fail(name, f"shape (…, {shape[0]}, {shape[1]})", f"shape {found}")
    counts = seen.sum(axis=(-1, -2))
    if np.min(counts) == 0:
        fail("observed", "at least one observed entry", "none")
    if np.min(counts) != np.max(counts):
        remedy = "Treat matrices with other counts one by one."
        fail(
            "observed", "equally many entries throughout a stack", f"{counts.min()} to {counts.max()}", remedy
        )
    batch = check_broadcast([network.batch_shape, goal.shape[:-2], seen.shape[:-2]], "net, target, observed")
    size = int(np.prod(batch))
    flat = np.broadcast_to(seen, (*batch, *shape)).reshape(size, *shape)
    _, columns, rows = np.nonzero(np.swapaxes(flat, -1, -2))
    weights = [w.astype(np.float64) for w in network.weights]
    return Problem(
        tuple(np.broadcast_to(w, (*batch, *w.shape[-2:])).reshape(size, *w.shape[-2:]) for w in weights),
        np.broadcast_to(goal, (*batch, *shape)).reshape(size, *shape),
        rows.reshape(size, -1),
        columns.reshape(size, -1),
        batch,
    )


@representable("net, target")
def natural_step(
    net: LinearNetwork,
    target: Any,
    observed: Any,
    metric: str = "observed",
    gauge: str = "minimum-norm",
    rtol: float | None = None,
) -> Step:
    """Return a natural gradient for the loss on the observed entries (statement C9).

    Parameters
    ----------
    net : LinearNetwork
        The factors W_1 … W_L, without biases.
    target : array (…, n_L, n_0)
        W*. What stands at unobserved entries has no effect.
    observed : boolean array (…, n_L, n_0)
        Ω; equally many entries throughout a stack. Leading axes broadcast.
    metric : "observed" or "population"
        F_Ω or F.
    gauge : "minimum-norm", "layerwise" or "population"
        Which of the solutions of F_Ω u = ∇ℓ: the shortest; the shortest in blockdiag(F_Ω), and of those the shortest;
        the one that changes the total weight least, which is the shortest solution of F u = ∇ℓ. With the metric
        "population", where all solutions make the same change, "minimum-norm" or "layerwise" (see
        `linnat.natural_gradient`).
    rtol : float, optional
        Singular values of J_Ω (in the gauge "layerwise" of its blocks) below rtol times the largest count as zero;
        √(|Ω| eps) by default, which is as far as J_ΩJ_Ωᵀ resolves them.

    Returns
    -------
    Step

    Raises
    ------
    InputError
        For arguments of the wrong kind.
    ConditionError
        In the gauge "population" where (J) fails: then no step leaves the unobserved entries where they are.

    Notes
    -----
    O(L |Ω|²) for J_ΩJ_Ωᵀ and an eigendecomposition of it, O(|Ω|³); L of them in the gauge "layerwise". Source: new; the
    population metric Kerekes, Mészáros and Huszár 2021.

    Examples
    --------
    Two diagonal layers, the upper row observed: the shortest step moves the other entries as well.

    >>> net = LinearNetwork([np.diag([1.0, 2.0]), np.array([[1.0, 1.0], [1.0, 0.0]])])
    >>> step = natural_step(net, [[3.0, 2.0], [0.0, 0.0]], [[True, True], [False, False]])
    >>> step.direction[0].round(3) + 0.0
    array([[-0.667,  0.   ],
           [-0.667,  0.   ]])
    """
    as_choice(metric, "metric", METRICS)
    as_choice(gauge, "gauge", GAUGES if metric == "observed" else GAUGES[:2])
    problem = make_problem(net, target, observed)
    cut = None if rtol is None else as_scalar(rtol, "rtol", low=0.0)
    error = residual(problem, problem.weights)
    if metric == "population" or gauge == "population":
        if gauge == "population":
            require_onto(problem)
            gauge = "minimum-norm"
        pieces = population_velocity(problem, problem.weights, error, gauge)
        rank = np.full(len(error), error.shape[-1])
        if metric == "population":
            rank = _gram_rank(gram(problem, problem.weights), cut)
    else:
        multipliers, rank = _multipliers(problem, problem.weights, error, gauge, cut)
        pieces = pull(problem, problem.weights, multipliers)
    left = np.linalg.norm(at_observed(problem, change(problem.weights, pieces)) - error, axis=-1)
    size = np.linalg.norm(error, axis=-1)
    quotient = np.divide(left, size, out=np.zeros_like(left), where=size > 0)
    shaped = tuple((-v).reshape(*problem.batch, *v.shape[-2:]).astype(net.dtype, copy=False) for v in pieces)
    return Step(shaped, rank.reshape(problem.batch), quotient.reshape(problem.batch))


def velocity(
    problem: Problem, weights: Sequence[Array], error: Array, metric: str, gauge: str
) -> list[Array]:
    """Return v with J_Ω v = error in the metric and gauge; a `numpy.linalg.LinAlgError` where J_Ω is not onto."""
    if metric == "population" or gauge == "population":
        return population_velocity(
            problem, weights, error, "minimum-norm" if gauge == "population" else gauge
        )
    if gauge == "minimum-norm":
        return pull(problem, weights, [solve_definite(gram(problem, weights), error)] * len(weights))
    parts = grams(problem, weights)
    try:
        return pull(problem, weights, [solve_definite(part, error) / len(parts) for part in parts])
    except np.linalg.LinAlgError:
        multipliers, _ = _share(parts, error, None)
        return pull(problem, weights, multipliers)


def population_velocity(problem: Problem, weights: Sequence[Array], error: Array, gauge: str) -> list[Array]:
    """Return the natural gradient of the population metric for an error that is zero where nothing is observed."""
    net = LinearNetwork(weights)
    return [-u for u in natural_gradient(net, Task(total(weights) + scatter(problem, error)), gauge)]


def require_onto(problem: Problem) -> None:
    """Raise where (J) fails."""
    net = LinearNetwork(problem.weights)
    if not is_onto(net, Task(np.zeros_like(problem.target))).all():
        raise ConditionError(
            "net: the gauge 'population' needs (J), hidden layers that can express every matrix (C9); "
            "use the gauge 'minimum-norm' or 'layerwise', or the metric 'population'."
        )


def total(weights: Sequence[Array]) -> Array:
    """Multiply the layers."""
    product = weights[0]
    for weight in weights[1:]:
        product = weight @ product
    return product


def residual(problem: Problem, weights: Sequence[Array]) -> Array:
    """Return e = (W* − W) at the observed entries, (B, |Ω|)."""
    return at_observed(problem, problem.target - total(weights))


def at_observed(problem: Problem, matrix: Array) -> Array:
    """Return the observed entries, (B, |Ω|)."""
    return matrix[np.arange(len(problem.rows))[:, None], problem.rows, problem.columns]


def scatter(problem: Problem, values: Array) -> Array:
    """Return the matrices with these values at the observed entries and zeros elsewhere."""
    matrix = np.zeros_like(problem.target)
    matrix[np.arange(len(problem.rows))[:, None], problem.rows, problem.columns] = values
    return matrix


def change(weights: Sequence[Array], pieces: Sequence[Array]) -> Array:
    """Return Σ_i B_i v_i A_i."""
    signal, moved = weights[0], pieces[0]
    for weight, piece in zip(weights[1:], pieces[1:], strict=True):
        moved = weight @ moved + piece @ signal
        signal = weight @ signal
    return moved


def sides(weights: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Return A_1 … A_L and B_1 … B_L."""
    size, outputs = weights[0].shape[-1], weights[-1].shape[-2]
    below = [np.broadcast_to(np.eye(size), (len(weights[0]), size, size))]
    above = [np.broadcast_to(np.eye(outputs), (len(weights[0]), outputs, outputs))]
    for weight in weights[:-1]:
        below.append(weight @ below[-1])
    for weight in weights[:0:-1]:
        above.append(above[-1] @ weight)
    return below, above[::-1]


def grams(problem: Problem, weights: Sequence[Array]) -> list[Array]:
    """Return J_{Ω,i}J_{Ω,i}ᵀ for every layer, (B, |Ω|, |Ω|)."""
    count = problem.rows.shape[-1]
    remedy = "Observe fewer entries, or treat the members of a stack one by one."
    refuse_beyond_memory("observed", len(problem.rows) * count**2, 8, remedy, copies=len(weights) + 2)
    below, above = sides(weights)
    parts = []
    for a, b in zip(below, above, strict=True):
        outer = _gather(b @ np.swapaxes(b, -1, -2), problem.rows)
        outer *= _gather(np.swapaxes(a, -1, -2) @ a, problem.columns)
        parts.append(outer)
    return parts


def gram(problem: Problem, weights: Sequence[Array]) -> Array:
    """Return J_ΩJ_Ωᵀ."""
    parts = grams(problem, weights)
    for part in parts[1:]:
        parts[0] += part
    return parts[0]


def pull(problem: Problem, weights: Sequence[Array], multipliers: Sequence[Array]) -> list[Array]:
    """Return v_i = B_iᵀ M_i A_iᵀ, M_i the matrix with the multipliers at the observed entries."""
    below, above = sides(weights)
    matrices = [scatter(problem, m) for m in multipliers]
    parts = zip(above, matrices, below, strict=True)
    return [np.swapaxes(b, -1, -2) @ m @ np.swapaxes(a, -1, -2) for b, m, a in parts]


def solve_definite(matrices: Array, right: Array) -> Array:
    """Solve positive definite systems (B, n, n), one right-hand side (B, n) each; `LinAlgError` where one is not."""
    solutions = np.empty_like(right)
    for k, (matrix, values) in enumerate(zip(matrices, right, strict=True)):
        # Symmetric: its transpose is itself, and in LAPACK's order.
        root, solutions[k], info = lapack.dposv(matrix.T, values, lower=1)
        pivots = np.diagonal(root)
        # Pivots squared are eigenvalues up to a factor: below rounding the matrix counts as singular.
        if info != 0 or pivots.min() ** 2 <= len(pivots) * np.finfo(np.float64).eps * pivots.max() ** 2:
            raise np.linalg.LinAlgError("Matrix is not positive definite")
    return solutions


def _multipliers(
    problem: Problem, weights: Sequence[Array], error: Array, gauge: str, rtol: float | None
) -> tuple[list[Array], Array]:
    """Return λ_i with v_i = J_{Ω,i}ᵀ λ_i, and the rank of J_Ω."""
    if gauge == "layerwise":
        return _share(grams(problem, weights), error, rtol)
    basis, values, keep = _eigen(gram(problem, weights), rtol)
    inside = np.where(keep, (np.swapaxes(basis, -1, -2) @ error[..., None])[..., 0], 0.0)
    scaled = np.divide(inside, values, out=np.zeros_like(inside), where=keep)
    return [(basis @ scaled[..., None])[..., 0]] * len(weights), keep.sum(axis=-1)


def _share(parts: Sequence[Array], error: Array, rtol: float | None) -> tuple[list[Array], Array]:
    """Share the error among the layers with the least Σ‖y_i‖²: y_i = Π_iλ, Σ Π_i λ = e, Π_i on range J_{Ω,i}."""
    frames = [_eigen(part, rtol) for part in parts]
    shared = sum((basis * keep[..., None, :]) @ np.swapaxes(basis, -1, -2) for basis, _, keep in frames)
    basis, values, keep = _eigen(np.asarray(shared), rtol)
    inside = (np.swapaxes(basis, -1, -2) @ error[..., None])[..., 0]
    common = basis @ np.divide(inside, values, out=np.zeros_like(inside), where=keep)[..., None]
    multipliers = []
    for own, sizes, kept in frames:
        inside = (np.swapaxes(own, -1, -2) @ common)[..., 0]
        scaled = np.divide(inside, sizes, out=np.zeros_like(inside), where=kept)
        multipliers.append((own @ scaled[..., None])[..., 0])
    return multipliers, keep.sum(axis=-1)


def _eigen(matrix: Array, rtol: float | None) -> tuple[Array, Array, Array]:
    """Return eigenvectors, eigenvalues and which of these count: above (rtol √λ_max)², and above rounding."""
    values, vectors = np.linalg.eigh(matrix)
    cut = max(matrix.shape[-1] * float(np.finfo(np.float64).eps), 0.0 if rtol is None else rtol**2)
    return vectors, values, values > cut * np.maximum(values[..., -1:], 0.0)


def _gram_rank(matrix: Array, rtol: float | None) -> Array:
    return np.asarray(_eigen(matrix, rtol)[2].sum(axis=-1))


def _gather(matrices: Array, places: Array) -> Array:
    """Return M[p, p'] for all pairs of places, (B, |Ω|, |Ω|)."""
    if len(matrices) == 1:
        return np.asarray(matrices[0].take(places[0], axis=0).take(places[0], axis=1)[None])
    rows = np.take_along_axis(matrices, places[:, :, None], axis=1)
    return np.take_along_axis(rows, places[:, None, :], axis=2)
