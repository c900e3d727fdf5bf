"""Which solution of F v = −∇ℓ is the shortest? Statement N3.

v_i = B_iᵀ M A_iᵀ with Σ_j B_j B_jᵀ M A_j A_jᵀ = T, where T is the part of the error that the network can
express; S and Σ enter through T only, and not at all where T = E. Two layers: a Sylvester equation. More: any
solution from layer-by-layer solves (X9), less its projection on the null space of J (`linnat.exact.kernel`).
Whatever the projection's error, it changes nothing that the network computes; and its condition is that of
angles between layers, not of J.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from linnat._checks import Array, ConvergenceError, InputError, as_choice, as_count, as_scalar, representable
from linnat.exact.balanced import balanced_solution
from linnat.exact.cells import Found, solve_on_cells
from linnat.exact.chains import Chains, Problem, groups, make_problem
from linnat.exact.jacobian import jacobian_rank
from linnat.exact.kernel import (
    Kernel,
    coordinates,
    directions,
    exchange,
    make_kernel,
    off_kernel,
    overlaps,
    qr_cost,
)
from linnat.exact.network import Direction, LinearNetwork
from linnat.exact.remainder import remainder
from linnat.exact.staircase import (
    bare_error,
    change_of_total,
    expressible_error,
    project_on_range,
    range_basis,
    staircase,
)
from linnat.exact.task import Task
from linnat.linalg import kernels as k
from linnat.linalg.kernels import frobenius, transpose
from linnat.linalg.krylov import lsqr
from linnat.linalg.memory import refuse_beyond_memory
from linnat.linalg.solve import symmetric_sylvester

METHODS = ("auto", "kernel-qr", "kernel-lsqr", "range-lsqr")
# An iteration of LSQR takes as long as so many flops of a QR for each layer, and as so many times n³ more.
CALLS, PRODUCTS = 7.5e5, 30.0
EASY = 20  # iterations, and two more for each layer: what well-conditioned layers take
TOLERANCE = 256.0  # times eps
DEEP = 6  # layers, from which on LSQR on J first makes up for itself
ON_RANGE = 1000  # iterations of it, at most
RESTARTS = 4
INDUCED = 1e-8  # relative error of the induced change, up to which nothing is refined unless asked for
GAIN = 1e4  # more than two steps of refinement ever make it better


class Solution(NamedTuple):
    """A minimum-norm natural gradient and how it was found.

    Attributes
    ----------
    direction : tuple of arrays (…, n_i, n_{i-1})
        An ascent direction like `net.layers`.
    method : array of str (…)
        "direct" (one layer), "sylvester" (two), "balanced" (diagonal), "kernel-qr", "kernel-lsqr" or
        "range-lsqr" (LSQR on J).
    iterations : integer array (…)
        Of LSQR, those on J that "kernel-lsqr" may start with included; 0 for direct methods.
    residual : array (…)
        ‖Σ B̃_i v_i Ã_i − T̃‖ / ‖Ẽ‖: of the equation that every gauge solves.
    tilt : array (…)
        The largest ‖v_i M_iᵀ − W_{i+1}ᵀ v_{i+1}‖ / (‖v_i‖‖M_i‖ + ‖W_{i+1}‖‖v_{i+1}‖): of the equation that singles
        out the shortest solution, the derivative of the conserved balance (C4).
    rank : integer array (…)
        Of J, which is that of F (statement F1).
    """

    direction: Direction
    method: Array
    iterations: Array
    residual: Array
    tilt: Array
    rank: Array


class Options(NamedTuple):
    """What `solve_minimum_norm` lets the user choose."""

    method: str = "auto"
    limit: int = 20_000
    refinements: int | None = None


Solver = Callable[[Problem, Chains], tuple[Found, Array]]


@representable("net, task")
def solve_minimum_norm(
    net: LinearNetwork,
    task: Task,
    *,
    method: str = "auto",
    tol: float | None = None,
    max_iterations: int = 20_000,
    refinements: int | None = None,
    rtol: float | None = None,
) -> Solution:
    """Return the minimum-norm natural gradient with the method, the residuals and the rank (statement N3).

    Parameters
    ----------
    net : LinearNetwork
    task : Task
        Leading axes of both broadcast.
    method : "auto", "kernel-qr", "kernel-lsqr" or "range-lsqr"
        The null space of J is projected out by a QR of it, layer by layer, or by LSQR, matrix-free; or LSQR on J
        itself. By default two layers are a Sylvester equation, balanced ones a division, and others "kernel-lsqr" for
        about half as long as "kernel-qr" would take, then that, if its factors fit into memory ("kernel-lsqr" up to
        `max_iterations` otherwise); "kernel-qr" at once where this is no longer than 20 + 2 L iterations (n up to 13
        for L = 6, 14 for L = 24). One layer is solved directly, whatever is asked for.
    tol : float, optional
        LSQR stops when ‖Eᵀv‖ ≤ tol ‖v‖, E the exchanges, which span the null space; 256 eps by default. Those of deep
        networks are nearly dependent: v keeps more of the null space by the inverse of their least singular value.
    max_iterations : int
    refinements : int, optional
        Steps of iterative refinement, where the null space is projected out, by remainders to twice the working
        precision. A step brings `residual` to its floor eps ‖J‖‖v‖ / ‖Ẽ‖, 3 to 100 times lower, and the direction
        nearer to the shortest one too, while `residual` has digits; a step without any ruins it. By default none where
        the residual is below 1e-8 or in single precision, and up to two where they bring it below, κ(J) between about
        1e7 and 1e10: the induced change is right to 1e-8 wherever a direction in double precision can say it so well.
    rtol : float, optional
        See `natural_gradient`.

    Returns
    -------
    Solution

    Raises
    ------
    ConvergenceError
        If LSQR has not reached `tol`; `.estimate` is the direction, a solution of F u = ∇ℓ but not the shortest.
    InputError
        For bad arguments, and where "kernel-qr" would exceed the stated share of memory.

    Warns
    -----
    RankWarning
        Where a rank is undetermined at working precision.

    Notes
    -----
    "kernel-qr" goes from layer to layer (`linnat.linalg.block_qr`): about 12 n⁶ flops and 2 n⁴ numbers per hidden layer
    of width n, whatever the condition. "kernel-lsqr": about 8 n³ flops per hidden layer and iteration, which grow
    like L² and with the condition of the layers, since the exchanges of distant layers become nearly dependent (an
    eigenvalue 1e-6 of their Gram matrix for 24 Gaussian layers), which relaxation over the layers and incomplete
    factorisations leave as it is (1.0 to 1.3 times fewer iterations). From six layers on it therefore starts from the
    solution of "range-lsqr", what that leaves of the error made up for layer by layer, unless this is longer than the
    layerwise one, as where κ(J) is beyond the precision. Iterations, and residuals, of Gaussian layers plus identity:

    ==============  ==============  =======================
    n, L            "kernel-lsqr"   without its start
    ==============  ==============  =======================
    64, 6           432, 3e-14      581, 2e-12
    64, 8           422, 4e-13      732, 8e-12
    32, 12          1155, 2e-10     1962, 8e-9
    ==============  ==============  =======================

    The projection alone, 8 × 8 layers of condition κ:

    =====  =======================  ======  ======  =======  ======  ======
    κ      L                        4       8       16       32      64
    =====  =======================  ======  ======  =======  ======  ======
    1e2    "kernel-lsqr", number    59      180     794      5321
    1e4    "kernel-lsqr", number    60      277     1774     > 2e4
    1e8    "kernel-lsqr", number    66      646     3059     > 2e4
    all    one QR of all, seconds   0.02    0.05    0.4
    all    "kernel-qr", seconds     0.003   0.02    0.03     0.05    0.13
    =====  =======================  ======  ======  =======  ======  ======

    Errors of both go with Σκ(W_i), not with κ(J). "range-lsqr", on J in singular bases with rows of length one, takes
    some 45 iterations at any depth, but loses digits with κ(J). Relative errors with four 6 × 6 layers of condition
    1e4, κ(J) = 1e10: LSQR, LSMR, CRAIG on J 1e-7 or worse after 1000 to 3000 iterations, the same with rows scaled
    1e-7 after 110, CG on J Jᵀ 5e-6, MINRES none; "range-lsqr" 8e-11 after 54, "kernel-lsqr" 1e-12 after 35,
    "kernel-qr" 1e-12.

    The rows of length one are a preconditioner of J Jᵀ, its diagonal in singular bases, exact for the spectrum of
    balanced layers (S1). Iterations of CG on J Jᵀ to a residual of 1e-12, without one, with the nearest Kronecker
    product, and with this one: 263, 98 and 46 for four 6 × 6 layers of condition 1e2; 1963, 333 and 71 for six Gaussian
    16 × 16 layers plus identity; of 64 × 64, more than 5000 for the first two and 160, right to 2e-8 only, since CG
    squares J.

    Examples
    --------
    >>> found = solve_minimum_norm(LinearNetwork([[[2.0]], [[1.0]]]), Task([[3.0]]))
    >>> found.direction, str(found.method)
    ((array([[-0.2]]), array([[-0.4]])), 'sylvester')
    """
    as_choice(method, "method", METHODS)
    options = Options(
        method,
        as_count(max_iterations, "max_iterations"),
        None if refinements is None else as_count(refinements, "refinements", low=0),
    )
    problem, batch = make_problem(net, task)
    eps = float(np.finfo(net.dtype).eps)
    accuracy = TOLERANCE * eps if tol is None else as_scalar(tol, "tol", low=0.0)

    def solve(part: Problem, chains: Chains) -> tuple[Found, Array]:
        found = shortest(part, chains, options, accuracy)
        return found, _residual(part, chains, found.pieces)

    return collect(problem, batch, rtol, solve)


def minimum_norm(problem: Problem, chains: Chains) -> list[Array]:
    """Return the solution of least Euclidean norm by the automatic choice of `solve_minimum_norm`."""
    eps = float(np.finfo(problem.factor.dtype).eps)
    return shortest(problem, chains, Options(), TOLERANCE * eps).pieces


def collect(problem: Problem, batch: tuple[int, ...], rtol: float | None, solve: Solver) -> Solution:
    """Solve group by group and put the records together."""
    size = problem.maps[0].shape[0] if batch else 1
    whole: list[Array] = []
    names, counts, rank = np.empty(size, "<U12"), np.zeros(size, int), np.empty(size, int)
    residual, tilt = np.empty(size), np.empty(size)
    for index, part, chains in groups(problem, batch, rtol):
        found, residual[index] = solve(part, chains)
        whole = whole or [np.empty((size, *p.shape[-2:]), p.dtype) for p in found.pieces]
        for target, piece in zip(whole, found.pieces, strict=True):
            target[index] = piece
        names[index], counts[index], rank[index] = found.method, found.iterations, jacobian_rank(chains)
        tilt[index] = _tilt(part, found.pieces)
    direction = tuple(-w.reshape(*batch, *w.shape[-2:]) for w in whole)
    return Solution(direction, *(a.reshape(batch) for a in (names, counts, residual, tilt, rank)))


def shortest(problem: Problem, chains: Chains, options: Options, tol: float) -> Found:
    """Return the shortest solution, a descent direction."""
    if problem.depth == 1:
        return Found([_widen(expressible_error(problem, chains), range_basis(problem))], "direct")
    method = options.method
    if problem.depth == 2 and method == "auto":
        return Found(_two_layers(problem, chains), "sylvester")
    if method == "range-lsqr":
        return solve_on_cells(problem, chains, 0.0, tol, options.limit)
    if method == "auto":
        diagonal = balanced_solution(problem, chains, expressible_error(problem, chains))
        if diagonal is not None:
            return Found(diagonal, "balanced")
    kernel = make_kernel(problem, chains)
    if kernel.size == 0:
        return Found(_particular(problem, chains), "direct")
    if _takes_qr(kernel, method):
        found = Found(_project_by_qr(kernel, _particular(problem, chains)), "kernel-qr")
    else:
        start = _start(problem, chains, tol, _patience(kernel, method, options.limit))
        found = _project(kernel, start.pieces, method, tol, options.limit, int(np.max(start.iterations)))
        found = found._replace(iterations=found.iterations + start.iterations)
    if options.refinements is None:
        return _refined_where_it_serves(problem, chains, kernel, found, options, tol)
    for _ in range(options.refinements):
        found = _refined(problem, chains, kernel, found, options, tol)
    return found


def _refined(
    problem: Problem, chains: Chains, kernel: Kernel, found: Found, options: Options, tol: float
) -> Found:
    """Return the solution after a step of iterative refinement."""
    left = remainder(problem, found.pieces, bare_error(problem, chains), _inputs(problem, chains))
    longer = _add(found.pieces, _particular(problem, chains, left))
    # What the factorisation has had to do once it does again, without iterations before it.
    method = found.method if found.method == "kernel-qr" else options.method
    again = _project(kernel, longer, method, tol, options.limit)
    return again._replace(iterations=found.iterations + again.iterations)


def _refined_where_it_serves(
    problem: Problem, chains: Chains, kernel: Kernel, found: Found, options: Options, tol: float
) -> Found:
    """Return the solution, refined where the induced change is not right to INDUCED and two steps make it so."""
    if problem.factor.dtype != np.float64:
        return found
    residual, refined = _residual(problem, chains, found.pieces), found
    missed = (residual > INDUCED) & (residual < GAIN * INDUCED)
    for _ in range(2):
        if not missed.any():
            break
        try:
            refined = _refined(problem, chains, kernel, refined, options, tol)
        except ConvergenceError:  # nobody asked for it: the solution stays
            break
        again = _residual(problem, chains, refined.pieces)
        mended = missed & (again <= INDUCED)
        pieces = [
            np.where(mended[..., None, None], b, a) for a, b in zip(found.pieces, refined.pieces, strict=True)
        ]
        found = Found(pieces, found.method, np.where(mended, refined.iterations, found.iterations))
        # Another step where this one has not been at the floor.
        missed, residual = missed & ~mended & (again < residual / 2), again
    return found


def _two_layers(problem: Problem, chains: Chains) -> list[Array]:
    target, basis = expressible_error(problem, chains), range_basis(problem)
    inner = problem.maps[0] if basis is None else k.matmul(problem.maps[0], basis)
    ranks = chains.output_ranks[0], chains.input_ranks[1]
    first, second = symmetric_sylvester(problem.weights[1], inner, target, *ranks)
    return [_widen(first, basis), second]


def _takes_qr(kernel: Kernel, method: str) -> bool:
    """Return whether the factorisation is asked for, or left to choose and cheaper than the fewest iterations."""
    return method == "kernel-qr" or (method == "auto" and _worth(kernel) < EASY + 2 * len(kernel.frames))


def _patience(kernel: Kernel, method: str, limit: int) -> int:
    """Return after how many iterations the factorisation is tried."""
    return min(limit, _worth(kernel)) if method == "auto" else limit


def _worth(kernel: Kernel) -> int:
    """Return how many iterations of LSQR take half as long as the factorisation."""
    depth = len(kernel.frames)
    width = math.sqrt(kernel.size / (depth - 1))
    return int(qr_cost(kernel)[0] / (2.0 * depth * (CALLS + PRODUCTS * width**3)))


def _start(problem: Problem, chains: Chains, tol: float, limit: int) -> Found:
    """Return a solution near the shortest one: for deep networks LSQR on J, and a solution of what that leaves.

    It comes within eps κ(J) of the shortest one in iterations that hardly grow with the depth; the exchanges, nearly
    dependent where layers are many, then have little left to take away.
    """
    plain = _particular(problem, chains)
    if problem.depth < DEEP:
        return Found(plain, "")
    try:
        found = solve_on_cells(problem, chains, 0.0, tol, min(limit, ON_RANGE))
        pieces, count = found.pieces, found.iterations
    except ConvergenceError as error:
        estimate: Sequence[Array] = error.estimate  # type: ignore[assignment]
        pieces, count = [-p for p in estimate], min(limit, ON_RANGE)
    left = remainder(problem, pieces, bare_error(problem, chains), _inputs(problem, chains))
    pieces = _add(pieces, _particular(problem, chains, left))
    longer = _length(pieces) > _length(plain)
    return Found(
        [np.where(longer[..., None, None], a, b) for a, b in zip(plain, pieces, strict=True)], "", count
    )


def _length(pieces: list[Array]) -> Array:
    return np.asarray(np.linalg.norm(np.stack([frobenius(v) for v in pieces]), axis=0))


def _project(
    kernel: Kernel, start: list[Array], method: str, tol: float, limit: int, spent: int = 0
) -> Found:
    """Project on the complement of the null space: by the method asked for, or by the cheaper one that succeeds.

    `spent` iterations were made before.
    """
    if _takes_qr(kernel, method):
        return Found(_project_by_qr(kernel, start), "kernel-qr")
    first = max(_patience(kernel, method, limit) - spent, 1)
    try:
        return _project_by_lsqr(kernel, start, tol, first)
    except ConvergenceError as error:
        if method == "kernel-lsqr":
            raise
        try:
            return Found(_project_by_qr(kernel, start), "kernel-qr")
        except InputError:  # it does not fit into memory
            if first + spent >= limit:
                raise error from None
            estimate: Sequence[Array] = error.estimate  # type: ignore[assignment]
    found = _project_by_lsqr(kernel, [-p for p in estimate], tol, limit - spent - first)
    return found._replace(iterations=found.iterations + first)


def _particular(problem: Problem, chains: Chains, error: Array | None = None) -> list[Array]:
    """Return a solution whose layers share the error by 1/‖u_i‖², u_i that of N2: near a singular layer N2 is long."""
    equal = staircase(problem, chains, error=error)
    norms = np.stack([frobenius(v) for v in equal])
    # c_i ∝ 1/‖u_i‖² in place of 1/L: the shortest combination Σ c_i = 1 of orthogonal u_i.
    smallest = norms.min(axis=0)
    inverse = np.divide(smallest, norms, out=np.ones_like(norms), where=norms > 0) ** 2
    if chains.left.drops or chains.right.drops:
        common = inverse if inverse.ndim == 1 else np.exp(np.log(np.maximum(inverse, 1e-300)).mean(axis=1))
        return equal if smallest.min() == 0 else staircase(problem, chains, error=error, weights=common)
    share = problem.depth * inverse / inverse.sum(axis=0)
    return [v * c[..., None, None].astype(v.dtype) for v, c in zip(equal, share, strict=True)]


def _project_by_qr(kernel: Kernel, start: list[Array]) -> list[Array]:
    count = qr_cost(kernel)[1] * math.prod(kernel.batch)
    remedy = "Use method='kernel-lsqr', which needs no dense matrix."
    refuse_beyond_memory("net", count, start[0].itemsize, remedy)
    x = coordinates(kernel, start)
    return _add(start, directions(kernel, off_kernel(kernel, x) - x))


def _project_by_lsqr(kernel: Kernel, start: list[Array], tol: float, limit: int) -> Found:
    """Project on the complement of the odd exchanges, which are orthonormal, and by LSQR on that of the even ones."""

    def off_odd(x: Array) -> Array:
        return x - exchange(kernel, overlaps(kernel, x, kernel.odd), kernel.odd)

    def apply(z: Array) -> Array:
        return off_odd(exchange(kernel, z, kernel.even))

    def adjoint(x: Array) -> Array:
        return overlaps(kernel, x, kernel.even)

    start, power = _unit(start)  # norms are sums of squares
    x = coordinates(kernel, start)
    inside = off_odd(x)
    beyond = np.sqrt(sum(frobenius(v) ** 2 for v in _add(start, directions(kernel, -x))))
    count, converged = np.zeros(x.shape[:-1], int), np.zeros(x.shape[:-1], bool)
    if not kernel.even:
        converged[...] = True  # two layers: no exchange is left
    for _ in range(RESTARTS):
        left = limit - int(count.max(initial=0))
        if converged.all() or left <= 0:
            break
        run = lsqr(apply, adjoint, inside, tol=tol / 2, limit=left, outside=beyond)
        inside = off_odd(inside - apply(run.x))
        count = count + run.iterations
        size = np.hypot(np.linalg.norm(inside, axis=-1), beyond)
        converged = np.linalg.norm(adjoint(inside), axis=-1) <= tol * size
    pieces = [np.ldexp(v, power) for v in _add(start, directions(kernel, inside - x))]
    if not converged.all():
        worst = float(np.max(np.linalg.norm(adjoint(inside), axis=-1) / size))
        raise ConvergenceError(
            f"minimum norm: LSQR left a part {worst:.2g} of the direction along the null space of J after "
            f"{int(count.max())} iterations, tol is {tol:.2g}; raise max_iterations or tol",
            tuple(-p for p in pieces),
        )
    return Found(pieces, "kernel-lsqr", count)


def _add(first: list[Array], second: list[Array]) -> list[Array]:
    return [a + b for a, b in zip(first, second, strict=True)]


def _residual(problem: Problem, chains: Chains, pieces: list[Array]) -> Array:
    """Return ‖Σ B̃_i v_i Ã_i − T̃‖ / ‖Ẽ‖."""
    count = chains.right.ranks[0]
    error = problem.whiten(problem.error_factor)[..., :count]
    change = problem.whiten(change_of_total(problem, pieces, problem.factor))[..., :count]
    left = project_on_range(chains, error - change)
    return _quotient(frobenius(left), frobenius(error))


def _inputs(problem: Problem, chains: Chains) -> Array | None:
    """Return what `bare_error` is an error on: the columns of F, or None for all inputs."""
    return None if chains.right.links[0] is None else problem.factor[..., : chains.right.ranks[0]]


def _tilt(problem: Problem, pieces: list[Array]) -> Array:
    """Return the largest relative ‖v_i M_iᵀ − W_{i+1}ᵀ v_{i+1}‖: zero for directions in the range of Jᵀ."""
    worst = np.zeros(problem.maps[0].shape[:-2])
    # A quotient: one scale for all pieces and one for all layers keep every product within the range of the dtype.
    pieces, matrices = _unit(pieces)[0], _unit([*problem.maps, *problem.weights])[0]
    maps, weights = matrices[: problem.depth], matrices[problem.depth :]
    for i in range(problem.depth - 1):
        own, above = pieces[i], pieces[i + 1]
        matrix, weight = maps[i], weights[i + 1]
        gap = frobenius(own @ transpose(matrix) - transpose(weight) @ above)
        size = frobenius(own) * frobenius(matrix) + frobenius(weight) * frobenius(above)
        worst = np.maximum(worst, _quotient(gap, size))
    return worst


def _unit(group: Sequence[Array]) -> tuple[list[Array], int]:
    """Return all matrices divided by one power of two near the largest entry, and the power."""
    largest = max(float(np.abs(a).max(initial=0.0)) for a in group)
    power = math.frexp(largest)[1] if 0 < largest < math.inf else 0
    return [np.ldexp(a, -power) for a in group], power


def _quotient(value: Array, size: Array) -> Array:
    return np.divide(value, size, out=np.zeros_like(value), where=size > 0)


def _widen(matrix: Array, basis: Array | None) -> Array:
    return matrix if basis is None else k.matmul(matrix, transpose(basis))
