"""Does natural gradient complete a matrix of which it sees some entries? The metric and the gauge decide. Statement C9.

The factors of W = W_L ⋯ W_1 follow a flow for the loss ½ Σ (W* − W)²_{ab} over the observed entries (a, b) ∈ Ω.

* *Population metric*: while (J) holds the unobserved entries never move, in any gauge and at any depth. No bias to low
  rank: it does not complete the matrix.
* *Metric of the observed entries*: these follow e^{−t} while J_Ω is onto; the others go where the gauge says. In the
  gauge "population" they stay. In the minimum-norm gauge depth and small weights lead to low rank: with
  ρ = 1 − (1 − ε)e^{−t} and W(0) = εW* on Ω, the rescaled layers φ = ρ^{−1/L}θ follow
  dφ/d log ρ = −(1/L)(I − J_Ω⁺J_Ω)φ, gradient descent of ‖φ‖²/2L on the manifold of the networks that fit the observed
  entries, for a time log(1/ε). It is at rest where Σ‖W_i‖² is stationary among these: for L = 2 the nuclear norm, for
  L ≥ 3 Schatten's 2/L of W. So it completes the matrix, the better the smaller and deeper it starts. In the gauge
  "layerwise" each layer is shortened for itself, which is a weaker condition: hardly any bias.
* *Gradient flow* from small weights has the bias of depth as well (Arora and others 2019), and slows down with it.

Population metric: Kerekes, Mészáros and Huszár 2021; what the gauges do is new. Here Σ‖W_i‖² of balanced layers is
`schatten`.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple, NoReturn

import numpy as np
import scipy.integrate

from linnat._checks import (
    Array,
    ConditionError,
    ConvergenceError,
    FlowBreakdownError,
    as_choice,
    as_count,
    as_float_array,
    as_matrix,
    as_scalar,
    as_times,
    fail,
    representable,
)
from linnat.exact.conditions import is_onto
from linnat.exact.network import Direction, LinearNetwork
from linnat.exact.observed import (
    GAUGES,
    METRICS,
    Problem,
    Step,
    at_observed,
    gram,
    make_problem,
    natural_step,
    pull,
    require_onto,
    residual,
    scatter,
    solve_definite,
    total,
    velocity,
)
from linnat.exact.task import Task
from linnat.linalg import chebyshev

__all__ = [
    "GradientPath",
    "NaturalPath",
    "Step",
    "effective_rank",
    "gradient_flow",
    "natural_flow",
    "natural_step",
    "natural_total",
    "schatten",
    "stationarity",
    "unobserved_error",
]


class NaturalPath(NamedTuple):
    """A natural flow for the observed entries.

    Attributes
    ----------
    layers : tuple of arrays (…, T, n_i, n_{i-1})
    drift : array (…, T)
        ‖W − (W* − e^{−t}(W* − W(0)))‖ on the observed entries over ‖W* − W(0)‖ there: the integrator's error, since
        the flow is exact.
    evaluations : int
        Of the velocity.
    """

    layers: Direction
    drift: Array
    evaluations: int


class GradientPath(NamedTuple):
    """A gradient flow for the observed entries.

    Attributes
    ----------
    layers : tuple of arrays (…, T, n_i, n_{i-1})
    residual : array (…, T)
        ‖W* − W‖ over ‖W* − W(0)‖, on the observed entries.
    evaluations : int
        Of the velocity.
    """

    layers: Direction
    residual: Array
    evaluations: int


@representable("net, target")
def natural_total(net: LinearNetwork, target: Any, observed: Any, times: Any) -> Array:
    """Return the total weight under the natural flow of the population metric: unobserved entries stay (C9).

    Parameters
    ----------
    net : LinearNetwork
        The start, without biases.
    target : array (…, n_L, n_0)
    observed : boolean array (…, n_L, n_0)
    times : array (T,) or float
        Infinity is allowed.

    Returns
    -------
    array (…, T, n_L, n_0)
        W(0) + (1 − e^{−t})(W* − W(0)) on the observed entries, W(0) on the others; the same in every gauge, also for
        the metric of the observed entries in the gauge "population".

    Raises
    ------
    ConditionError
        Where (J) fails at the start (X2).

    Notes
    -----
    While (J) holds along the path: hidden layers wider than the matrix keep it generically (C3, X3). Source: Kerekes,
    Mészáros and Huszár 2021.

    Examples
    --------
    >>> natural_total(LinearNetwork([[[1.0, 2.0]]]), [[5.0, 0.0]], [[True, False]], np.inf)
    array([[[5., 2.]]])
    """
    problem, shares = make_problem(net, target, observed), -np.expm1(-_times(times))
    if not is_onto(LinearNetwork(problem.weights), Task(np.zeros_like(problem.target))).all():
        raise ConditionError("net: (J) fails at the start, so that W leaves the line; X2 applies.")
    start = total(problem.weights)
    step = scatter(problem, residual(problem, problem.weights))
    path = start[:, None] + shares[:, None, None] * step[:, None]
    shaped = path.reshape(*problem.batch, *path.shape[1:])
    return np.asarray(shaped.astype(net.dtype, copy=False))


@representable("net, target")
def natural_flow(
    net: LinearNetwork,
    target: Any,
    observed: Any,
    times: Any,
    metric: str = "observed",
    gauge: str = "minimum-norm",
    *,
    rtol: float = 1e-6,
    max_evaluations: int = 20_000,
) -> NaturalPath:
    """Integrate the natural flow of the layers (C9).

    Parameters
    ----------
    net : LinearNetwork
        The start, without biases.
    target : array (…, n_L, n_0)
    observed : boolean array (…, n_L, n_0)
    times : array (T,) or float
        In ascending order; infinity is allowed.
    metric, gauge
        See `natural_step`.
    rtol : float
        Of the integrator, per step, in the root mean square over all layers of the stack.
    max_evaluations : int
        Of the velocity; a few hundred are usual.

    Returns
    -------
    NaturalPath

    Raises
    ------
    FlowBreakdownError
        Where J_Ω ceases to be onto, so that no step moves all observed entries along their lines.
    ConditionError
        In the population's metric or gauge where (J) fails.
    ConvergenceError
        If `max_evaluations` do not suffice, as where the gauge "layerwise" meets a singular W (C3) and integrators
        step to and fro.

    Notes
    -----
    In z = 1 − e^{−t} the flow is dθ/dz = v(θ) with J_Ω v = e(0), the whole of it on [0, 1]: DOP853, a few hundred
    evaluations. Each costs O(L |Ω|²) and a Cholesky factorisation of J_ΩJ_Ωᵀ, |Ω|³/3 flops (L in the gauge
    "layerwise"); 50 × 50, rank 3, |Ω| = 900, three layers: about 10 s on one core. Nothing of size P × P. Errors in
    weak directions go with κ(J_Ω)², since J_ΩJ_Ωᵀ is factorised; `drift` shows them.

    Examples
    --------
    Rank one, three of four entries observed, from small weights: the fourth is found.

    >>> net = LinearNetwork.balanced(1e-6 * np.array([[1.0, 0.2], [0.0, 1.0]]), 3)
    >>> target, observed = np.array([[2.0, 4.0], [1.0, 2.0]]), np.array([[True, True], [True, False]])
    >>> path = natural_flow(net, target, observed, np.inf)
    >>> w = LinearNetwork([layer[0] for layer in path.layers]).total
    >>> bool(abs(w[1, 1] - 2.0) < 0.02), bool(path.drift[0] < 1e-6)
    (True, True)
    """
    as_choice(metric, "metric", METRICS)
    as_choice(gauge, "gauge", GAUGES if metric == "observed" else GAUGES[:2])
    problem, moments = make_problem(net, target, observed), _times(times)
    accuracy = as_scalar(rtol, "rtol", low=1e-13)
    if metric == "population" or gauge == "population":
        require_onto(problem)
    ends, shares, error = -np.expm1(-moments), _shapes(problem), residual(problem, problem.weights)

    limit, used, last = as_count(max_evaluations, "max_evaluations"), itertools.count(1), [0.0]

    def slope(z: float, vector: Array) -> Array:
        last[0] = z
        if next(used) > limit:
            raise ConvergenceError(
                f"The integrator has not passed t = {-np.log1p(-z):.6g} after {limit} evaluations. The flow may meet a "
                "singular W there (C3): ask for earlier times, or use another gauge.",
                _split(vector, shares),
            )
        try:
            return _join(velocity(problem, _split(vector, shares), error, metric, gauge))
        except np.linalg.LinAlgError:
            return np.full_like(vector, np.nan)  # the integrator takes shorter steps

    start = _join(problem.weights)
    if not np.isfinite(slope(0.0, start)).all():
        _refuse(0.0)
    options = {"method": "DOP853", "t_eval": ends, "rtol": accuracy, "atol": 0.1 * accuracy * _scale(problem)}
    run = scipy.integrate.solve_ivp(slope, (0.0, max(float(ends[-1]), 1e-300)), start, **options)
    if not run.success:
        _refuse(float(-np.log1p(-last[0])))  # steps shrink towards it
    states = [_split(vector, shares) for vector in run.y.T]
    misses = [z * error - (error - residual(problem, state)) for z, state in zip(ends, states, strict=True)]
    return NaturalPath(_path(problem, states, net), _relative(problem, misses, error), int(run.nfev))


@representable("net, target")
def gradient_flow(
    net: LinearNetwork,
    target: Any,
    observed: Any,
    times: Any,
    *,
    tol: float = 0.0,
    rtol: float = 1e-4,
    max_evaluations: int = 1_000_000,
) -> GradientPath:
    """Integrate gradient flow of the layers for the observed entries.

    Parameters
    ----------
    net : LinearNetwork
        The start, without biases.
    target : array (…, n_L, n_0)
    observed : boolean array (…, n_L, n_0)
    times : array (T,) or float
        In ascending order.
    tol : float
        A stack stops where ‖W* − W‖ on the observed entries has fallen below tol times its first value throughout.
    rtol : float
        Of the integrator, per step, in the root mean square over all layers of the stack.
    max_evaluations : int

    Returns
    -------
    GradientPath

    Raises
    ------
    ConvergenceError
        If `max_evaluations` do not suffice.

    Notes
    -----
    A stabilised method of second order whose cost grows with the square root of stiffness times time. 4 L n³ flops per
    evaluation.

    Examples
    --------
    >>> net = LinearNetwork([[[1.0, 2.0]]])
    >>> gradient_flow(net, [[5.0, 0.0]], [[True, False]], 20.0).layers[0].round(3)
    array([[[5., 2.]]])
    """
    problem, moments = make_problem(net, target, observed), as_times(times)
    _ascending(moments)
    accuracy, stop = as_scalar(rtol, "rtol", low=1e-13), as_scalar(tol, "tol", low=0.0)
    limit, shapes = as_count(max_evaluations, "max_evaluations"), _shapes(problem)
    first = residual(problem, problem.weights)

    def slope(vector: Array) -> Array:
        weights = _split(vector, shapes)
        return _join(pull(problem, weights, [residual(problem, weights)] * len(weights)))

    def done(vector: Array) -> bool:
        left = residual(problem, _split(vector, shapes))
        return bool((_lengths(left) <= stop * _lengths(first)).all())

    def radius(vector: Array) -> float:
        return _radius(problem, _split(vector, shapes))

    state, states, count, now = _join(problem.weights), [], 0, 0.0
    atol = 0.1 * accuracy * _scale(problem)
    for time in moments:
        if time > now and not done(state):
            run = chebyshev.integrate(
                slope,
                state,
                float(time) - now,
                radius,
                rtol=accuracy,
                atol=atol,
                done=done,
                max_evaluations=limit - count,
            )
            state, count, now = run.state, count + run.evaluations, float(time)
        states.append(_split(state, shapes))
    left = [residual(problem, weights) for weights in states]
    return GradientPath(_path(problem, states, net), _relative(problem, left, first), count)


@representable("total_weight, target")
def unobserved_error(total_weight: Any, target: Any, observed: Any) -> Array:
    """Return ‖W − W*‖ / ‖W*‖ on the unobserved entries: the error of generalisation.

    Parameters
    ----------
    total_weight, target : arrays (…, m, n)
    observed : boolean array (…, m, n)

    Returns
    -------
    array (…)
        1 where nothing is learned from W(0) = 0; absolute where the target vanishes there.

    Examples
    --------
    >>> float(unobserved_error([[1.0, 0.5]], [[1.0, 2.0]], [[True, False]]))
    0.75
    """
    value, goal = as_matrix(total_weight, "total_weight"), as_matrix(target, "target")
    seen = np.asarray(observed)
    if seen.dtype != np.bool_:
        fail("observed", "a boolean array", f"dtype {seen.dtype}")
    if seen.shape[-2:] != value.shape[-2:] or goal.shape[-2:] != value.shape[-2:]:
        fail("target, observed", f"shape (…, {value.shape[-2]}, {value.shape[-1]})", (goal.shape, seen.shape))
    if seen.all(axis=(-1, -2)).any():
        fail("observed", "at least one unobserved entry", "none")
    hidden = ~seen
    error = np.sqrt((((value - goal) * hidden) ** 2).sum(axis=(-1, -2)))
    size = np.sqrt(((goal * hidden) ** 2).sum(axis=(-1, -2)))
    return np.asarray(error / np.where(size > 0, size, 1.0))


@representable("matrix")
def effective_rank(matrix: Any) -> Array:
    """Return exp of the entropy of the normalised singular values (Roy and Vetterli 2007).

    Parameters
    ----------
    matrix : array (…, m, n)

    Returns
    -------
    array (…)
        From 1 to min(m, n); 0 for a zero matrix.

    Examples
    --------
    >>> float(effective_rank(np.eye(3)).round(12))
    3.0
    """
    values = np.linalg.svd(as_matrix(matrix, "matrix"), compute_uv=False)
    sums = values.sum(axis=-1)
    share = values / np.where(sums > 0, sums, 1.0)[..., None]
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=-1)
    return np.asarray(np.where(sums > 0, np.exp(entropy), 0.0))


@representable("matrix")
def schatten(matrix: Any, depth: int) -> Array:
    """Return L Σ s^{2/L}, the least Σ‖W_i‖² of all factorisations of a matrix into L layers.

    Parameters
    ----------
    matrix : array (…, m, n)
    depth : int

    Returns
    -------
    array (…)
        ‖W‖² for L = 1, twice the nuclear norm for L = 2; attained by balanced layers.

    Examples
    --------
    >>> float(schatten(np.diag([4.0, 9.0]), 2))
    26.0
    """
    values = np.linalg.svd(as_matrix(matrix, "matrix"), compute_uv=False)
    count = as_count(depth, "depth")
    return np.asarray(count * (values ** (2 / count)).sum(axis=-1))


@representable("net")
def stationarity(net: LinearNetwork, observed: Any) -> Array:
    """Return ‖(I − J_Ω⁺J_Ω)θ‖ / ‖θ‖: how far layers are from stationary Σ‖W_i‖² among those of equal observed entries.

    Parameters
    ----------
    net : LinearNetwork
        Without biases.
    observed : boolean array (…, n_L, n_0)

    Returns
    -------
    array (…)
        From 0, the rest point of the minimum-norm gauge (statement C9), to 1; 0 where all layers are 0.

    Raises
    ------
    ConditionError
        Where J_Ω is not onto.

    Examples
    --------
    >>> net = LinearNetwork([[[3.0, 4.0]]])
    >>> float(stationarity(net, [[True, False]]))
    0.8
    """
    shape = (net.widths[-1], net.widths[0]) if isinstance(net, LinearNetwork) else (1, 1)
    problem = make_problem(net, np.zeros(shape), observed)
    # J_Ω θ = L W_Ω (Euler).
    seen = net.depth * at_observed(problem, total(problem.weights))
    try:
        multipliers = solve_definite(gram(problem, problem.weights), seen)
    except np.linalg.LinAlgError:
        raise ConditionError(
            "net: J_Ω is not onto; no step moves the observed entries at will (C9)."
        ) from None
    shortest = pull(problem, problem.weights, [multipliers] * net.depth)
    rest = sum(((w - v) ** 2).sum(axis=(-1, -2)) for w, v in zip(problem.weights, shortest, strict=True))
    size = np.asarray(sum((w**2).sum(axis=(-1, -2)) for w in problem.weights))
    return np.asarray(np.sqrt(np.asarray(rest) / np.where(size > 0, size, 1.0))).reshape(problem.batch)


def _times(value: Any) -> Array:
    """Return times ≥ 0 in ascending order; infinity is allowed."""
    try:
        given = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        given = as_float_array(value, "times")  # raises with the reason
    infinite = given == np.inf
    times = as_times(np.where(infinite, 0.0, given))
    times[infinite] = np.inf
    _ascending(times)
    return times


def _ascending(times: Array) -> None:
    if (times[1:] < times[:-1]).any():
        fail("times", "times in ascending order", [float(t) for t in times[:6]])


def _refuse(time: float) -> NoReturn:
    raise FlowBreakdownError(
        f"times: beyond t = {time:.6g} no step moves all observed entries along their lines (C9). "
        "Observe fewer, use more or wider layers, or start elsewhere.",
        time,
    )


def _shapes(problem: Problem) -> list[tuple[int, ...]]:
    return [w.shape for w in problem.weights]


def _join(pieces: Any) -> Array:
    return np.concatenate([p.ravel() for p in pieces])


def _split(vector: Array, shapes: list[tuple[int, ...]]) -> list[Array]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(vector, ends), shapes, strict=True)]


def _scale(problem: Problem) -> float:
    """Return the root mean square of the smallest layer that is not zero, for absolute tolerances."""
    sizes = [float(np.sqrt(np.mean(w**2))) for w in problem.weights]
    return min([size for size in sizes if size > 0], default=1.0)


def _lengths(values: Array) -> Array:
    return np.asarray(np.linalg.norm(values, axis=-1))


def _relative(problem: Problem, values: list[Array], first: Array) -> Array:
    """Return ‖value‖ / ‖first‖ as (…, T)."""
    lengths, size = np.stack([_lengths(v) for v in values], axis=-1), _lengths(first)[:, None]
    return np.asarray(lengths / np.where(size > 0, size, 1.0)).reshape(*problem.batch, -1)


def _path(problem: Problem, states: list[list[Array]], net: LinearNetwork) -> Direction:
    """Return the layers as (…, T, n_i, n_{i-1})."""
    layers = (np.stack(layer, axis=1) for layer in zip(*states, strict=True))
    return tuple(p.reshape(*problem.batch, *p.shape[1:]).astype(net.dtype, copy=False) for p in layers)


def _radius(problem: Problem, weights: list[Array]) -> float:
    """Return a bound of the spectral radius of the Hessian: Σ_i Π_{k≠i} ‖W_k‖² + (L−1) ‖E‖ max Π_{k≠i,j} ‖W_k‖."""
    norms = np.stack([np.linalg.norm(w, 2, axis=(-1, -2)) for w in weights], axis=-1)
    depth = norms.shape[-1]
    one = np.stack([np.prod(np.delete(norms, i, axis=-1), axis=-1) for i in range(depth)], axis=-1)
    pairs = [(i, j) for i in range(depth) for j in range(i)]
    two = [np.prod(np.delete(norms, pair, axis=-1), axis=-1) for pair in pairs]
    bend = (depth - 1) * np.max(two, axis=0) if two else np.zeros(len(norms))
    error = _lengths(residual(problem, weights))
    return float(((one**2).sum(axis=-1) + error * bend).max())
