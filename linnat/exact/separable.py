"""Where does the natural flow of a classifier go on separable data? Statement C8.

Data x_n with labels y_n = ±1, rows a_n = y_n x_n, logistic loss ℓ(w) = (1/N) Σ log(1 + exp(−a_n·w)),
G_0 = −∇ℓ(w(0)). Under the natural flow ∇ℓ(w(t)) = e^{−t} ∇ℓ(w(0)) (C7), so that q_n(t) = e^t σ(−a_n·w(t)) obeys
(1/N) Σ q_n a_n = G_0 at all times: it is feasible for the dual of

    min ⟨G_0, u⟩  s.t.  a_n·u ≥ 1,

and w(t)/t tends to the solution u*, q to the multipliers q*, e^tℓ to the value: not to the maximum-margin direction of
gradient flow (Soudry et al. 2018; Ji and Telgarsky 2019). Where the rows do not span the inputs only the row-space part
of w is determined, and all vectors here lie in the row space; what the null space gets depends on the gauge of a deep
network. Setting: Kerekes, Mészáros, Huszár 2021; the program is new. Computed in float64, in coordinates in which the
data are white.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import (
    Array,
    ConditionError,
    ConvergenceError,
    RankWarning,
    as_count,
    as_float_array,
    as_rows,
    as_scalar,
    as_times,
    fail,
    representable,
)
from linnat.exact.programs import (
    Centroid,
    centroid,
    cone_coefficients,
    least_distance,
    optimal_face,
)

CUT = 1e-8  # below it a slack may be zero
UNRESOLVED = -20.0  # logarithms of multipliers so far below the largest are lost in the sums of G_0
DOUBT = 10.0  # within this factor above the cut-off the active set is undetermined
ROUNDING = (
    1e-4  # what was taken for zero but is not below this share of the cut-off leaves it undetermined, too
)


class LimitProgram(NamedTuple):
    """The limit of the natural flow on separable data: w(t) = t u* + offset + exponentially small.

    Attributes
    ----------
    direction : array (d,), or (d, C) for C classes
        u*, with least margin 1; in the row space. Not of unit length.
    offset : array like direction
        The constant term, −A_I⁻¹ log q*_I at a non-degenerate vertex; ‖offset‖ is the constant C of ‖w/t − u*‖ ≤ C/t.
    value : float
        ⟨G_0, u*⟩ = (1/N) Σ q*_n, the limit of e^t ℓ(w(t)).
    dual : array (N,), or (N, C)
        q*, the limit of e^t σ(−a_n·w(t)): (1/N) Σ q*_n a_n = G_0; of largest entropy where it is not unique.
    active : boolean array like dual
        Constraints that are tight on the whole optimal face: q*_n > 0 exactly there.
    slack : array like dual
        a_n·u* − 1: the probability of an error on sample n falls like e^{−t(1 + slack)}.
    unique : bool
        Whether the program has one solution; otherwise u* is the centroid of the optimal face.
    degenerate : bool
        Whether the vertex is not one of exactly `rank` active constraints with positive multipliers.
    rank : int
        Of the data (of the constraints, for C classes).
    smallest_dual, smallest_slack : float
        Least active multiplier over the largest, and least slack of an inactive constraint: how far from degeneracy.
    condition : float
        Of the active constraints in coordinates in which the data are white, the factor of rounding errors.
    bound, bound_from : float
        ‖w(t)/t − u*‖ ≤ bound/t for all t ≥ bound_from, proved and far from sharp; infinite where u* is not unique.
    """

    direction: Array
    offset: Array
    value: float
    dual: Array
    active: Array
    slack: Array
    unique: bool
    degenerate: bool
    rank: int
    smallest_dual: float
    smallest_slack: float
    condition: float
    bound: float
    bound_from: float


class EqualMargins(NamedTuple):
    """The row-space part of w(t) for independent data, w(t) = t · direction + offset + O(e^{−t}).

    Attributes
    ----------
    direction : array (d,)
        A⁺1, the interpolator with all margins 1.
    offset : array (…, d)
        A⁺ log(1 + e^{m(0)}).
    margin_offset : array (…, N)
        log(1 + e^{m_n(0)}): m_n(t) = t + margin_offset + O(e^{−t}).
    """

    direction: Array
    offset: Array
    margin_offset: Array


class MaximumMargin(NamedTuple):
    """The limit direction of gradient flow.

    Attributes
    ----------
    direction : array (d,)
        û = argmin ‖u‖ s.t. a_n·u ≥ 1.
    margin : float
        1/‖û‖, the largest least distance of the data from a hyperplane through the origin.
    dual : array (N,)
        û = Σ dual_n a_n, dual ≥ 0.
    support : boolean array (N,)
        a_n·û = 1: the support vectors, also those with multiplier 0.
    """

    direction: Array
    margin: float
    dual: Array
    support: Array


class SupportCone(NamedTuple):
    """Whether G_0 is a non-negative combination of support vectors.

    Attributes
    ----------
    inside : bool
        Then û solves C8's program; where its solution is unique both flows have one limit.
    coefficients : array (N,)
        λ ≥ 0 on the support vectors with Σ λ_n a_n nearest to G_0.
    residual : float
        ‖G_0 − Σ λ_n a_n‖ / ‖G_0‖.
    """

    inside: bool
    coefficients: Array
    residual: float


class _Rows(NamedTuple):
    """Constraints A = W Tᵀ, W white of full column rank; logarithms of the first multipliers σ(−m(0)); N."""

    white: Array
    back: Array  # u = back @ z
    log_start: Array
    samples: int


@representable("x, initial")
def limit_direction(x: Any, labels: Any, initial: Any = None, rtol: float | None = None) -> Array:
    """Return lim w(t)/‖w(t)‖ of the natural flow on separable data (C8).

    Parameters
    ----------
    x : array (N, d)
    labels : array (N,)
        ±1.
    initial : array (d,), optional
        w(0), the predictor at the start (of a deep network its total weight); 0 by default.
    rtol : float, optional
        See `limit_program`.

    Returns
    -------
    array (d,)
        Of length 1.

    Examples
    --------
    >>> limit_direction([[1.0, 0.0], [3.0, 4.0]], [1, -1]).round(6)
    array([ 0.707107, -0.707107])
    """
    direction = limit_program(x, labels, initial, rtol).direction
    direction = direction / np.abs(direction).max()
    return np.asarray(direction / np.linalg.norm(direction))


@representable("x, initial", inf=True)
def limit_program(x: Any, labels: Any, initial: Any = None, rtol: float | None = None) -> LimitProgram:
    """Solve min ⟨G_0, u⟩ s.t. y_n x_n·u ≥ 1, to which the natural flow on separable data goes (C8).

    Parameters
    ----------
    x : array (N, d)
        Add a column of ones for an intercept.
    labels : array (N,)
        ±1.
    initial : array (d,), optional
        w(0); 0 by default.
    rtol : float, optional
        Slacks below it may be zero, 1e-8 by default; a second program then decides.

    Returns
    -------
    LimitProgram

    Raises
    ------
    ConditionError
        Where no hyperplane through the origin separates the data strictly; for starts so far on the wrong side of some
        samples that the others are lost in G_0.

    Warns
    -----
    RankWarning
        Where a slack or a multiplier is so close to the cut-off that the active set is undetermined.

    Notes
    -----
    HiGHS finds the vertex, direct solves its numbers. If several u are optimal, w(t)/t tends to the centroid of the
    optimal face (Cominetti and San Martín 1994): the least slack is maximised there, then the next, until one point is
    left; these programs are solved one after the other. One singular value decomposition, O(N d²), and the simplex
    method.

    Examples
    --------
    >>> program = limit_program([[1.0, 0.0], [2.0, 1.0], [-2.0, 3.0]], [1, 1, -1])
    >>> program.direction.round(6), program.active, round(program.value, 6)
    (array([1.      , 0.333333]), array([ True, False,  True]), 0.722222)
    """
    signed = _as_signed(x, labels)
    rows, dtype = _white_rows(signed, _as_initial(initial, signed.shape[1:]), len(signed)), signed.dtype
    return _solve(rows, _as_cut(rtol), dtype)


@representable("x, initial", inf=True)
def categorical_limit(
    x: Any, labels: Any, initial: Any = None, n_classes: int | None = None, rtol: float | None = None
) -> LimitProgram:
    """Solve min ⟨G_0, u⟩ s.t. (u_{y_n} − u_c)·x_n ≥ 1 for c ≠ y_n, the limit of the natural flow with a softmax (C8).

    Parameters
    ----------
    x : array (N, d)
    labels : integer array (N,)
        Classes 0 … C − 1.
    initial : array (d, C), optional
        w(0), as in `geodesics.predictor`; 0 by default.
    n_classes : int, optional
        C; the largest label plus one by default.
    rtol : float, optional
        See `limit_program`.

    Returns
    -------
    LimitProgram
        Directions (d, C) with Σ_c u_c = 0 (the softmax does not see the rest), dual, active and slack (N, C) with
        q_nc the limit of e^t p_nc; in the column of the right class dual 0, active False, slack infinite.

    Raises
    ------
    ConditionError
        Where no linear classifier is strictly right on all data.

    Notes
    -----
    N(C − 1) constraints in dimension (C − 1)d at most. Two classes are the logistic case with w = w_1 − w_0.

    Examples
    --------
    >>> categorical_limit([[2.0], [-1.0]], [0, 1]).direction
    array([[ 0.5, -0.5]])
    """
    inputs = as_rows(x, "x")
    count = None if n_classes is None else as_count(n_classes, "n_classes", low=2)
    classes, count = _as_classes(labels, len(inputs), count)
    start = _as_initial(initial, (inputs.shape[1], count)).astype(np.float64)
    scores = inputs.astype(np.float64) @ start
    top = scores.max(axis=1, keepdims=True)
    log_probability = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
    wrong = np.arange(count) != classes[:, None]
    sample, other = np.nonzero(wrong)
    chosen = np.eye(count)[classes[sample]] - np.eye(count)[other]
    signed = (inputs[sample][:, :, None].astype(np.float64) * chosen[:, None, :]).reshape(len(sample), -1)
    rows = _as_white(signed, log_probability[wrong], len(inputs))
    flat = _solve(rows, _as_cut(rtol), inputs.dtype)
    dual, active = np.zeros(wrong.shape, inputs.dtype), np.zeros(wrong.shape, bool)
    slack = np.full(wrong.shape, np.inf, inputs.dtype)
    dual[wrong], active[wrong], slack[wrong] = flat.dual, flat.active, flat.slack
    shape = (inputs.shape[1], count)
    return flat._replace(
        direction=flat.direction.reshape(shape),
        offset=flat.offset.reshape(shape),
        dual=dual,
        active=active,
        slack=slack,
    )


@representable("times, x, initial")
def predictor_expansion(
    times: Any, x: Any, labels: Any, initial: Any = None, corrected: bool = False, rtol: float | None = None
) -> Array:
    """Return t u* + offset, with the leading exponentially small term if asked for (C8).

    Parameters
    ----------
    times : array (T,) or float
    x : array (N, d)
    labels : array (N,)
    initial : array (d,), optional
    corrected : bool
        Add −(Σ q*_n a_n a_nᵀ)⁻¹ Σ ρ_n a_n, ρ_n = q*_n − e^t σ(−m_n) on the line: of the orders e^{−t} and e^{−t·slack}.
    rtol : float, optional
        See `limit_program`.

    Returns
    -------
    array (T, d)
        The row-space part of w(t); the correction is the error of the line up to its square.

    Raises
    ------
    ConditionError
        Where the data are not separable; with `corrected`, where the program has more than one solution.

    Examples
    --------
    >>> predictor_expansion(3.0, [[1.0]], [1]).round(6)
    array([[3.693147]])
    >>> float(np.log(2 * np.exp(3.0) - 1).round(6)), predictor_expansion(3.0, [[1.0]], [1], corrected=True).round(6)
    (3.667939, array([[3.668858]]))
    """
    moments, signed = as_times(times), _as_signed(x, labels)
    rows = _white_rows(signed, _as_initial(initial, signed.shape[1:]), len(signed))
    line = _solve(rows, _as_cut(rtol), np.dtype(np.float64))
    path = moments[:, None] * line.direction + line.offset
    if corrected:
        if not line.unique:
            raise ConditionError(
                "corrected: expected one solution of the program, found a face of them. "
                "C8's first correction is for a unique vertex; corrected=False gives the line."
            )
        path = path + _correction(moments, rows, line, signed.astype(np.float64))
    return np.asarray(path.astype(signed.dtype, copy=False))


@representable("x, initial")
def equal_margin_limit(x: Any, labels: Any, initial: Any = None, rtol: float | None = None) -> EqualMargins:
    """Return the limit for independent data, N ≤ d, in closed form: all margins grow alike (C8).

    Parameters
    ----------
    x : array (N, d)
        Of rank N.
    labels : array (N,)
    initial : array (…, d), optional
        Starts; leading axes give stacks of offsets.
    rtol : float, optional
        Singular values of x below rtol times the largest count as zero; max(N, d) eps by default.

    Returns
    -------
    EqualMargins

    Raises
    ------
    ConditionError
        Where the rows of x are dependent: C8's linear program applies.

    Notes
    -----
    The remainder of the margins is log(1 − e^{−t} σ(−m_n(0))), exactly. One singular value decomposition, O(N² d).

    Examples
    --------
    >>> equal_margin_limit([[2.0, 0.0, 0.0], [0.0, 4.0, 0.0]], [1, -1]).direction
    array([ 0.5 , -0.25,  0.  ])
    """
    signed = _as_signed(x, labels)
    start = _as_initial(initial, signed.shape[1:], stacked=True)
    default = max(signed.shape) * float(np.finfo(signed.dtype).eps)
    cut = default if rtol is None else as_scalar(rtol, "rtol", low=0.0)
    left, values, right = np.linalg.svd(signed.astype(np.float64), full_matrices=False)
    rank = int((values > cut * values[0]).sum())
    if rank < len(signed):
        raise ConditionError(
            f"x: expected {len(signed)} independent rows, found rank {rank}. "
            "C8's linear program applies: limit_program."
        )
    margins = np.logaddexp(0.0, start.astype(np.float64) @ signed.astype(np.float64).T)
    back = (right.T / values) @ left.T
    parts = (back.sum(axis=1), margins @ back.T, margins)
    return EqualMargins(*(np.asarray(part.astype(signed.dtype, copy=False)) for part in parts))


@representable("x")
def maximum_margin(x: Any, labels: Any, rtol: float | None = None) -> MaximumMargin:
    """Return û = argmin ‖u‖ s.t. y_n x_n·u ≥ 1, the direction in which gradient flow goes (C8).

    Parameters
    ----------
    x : array (N, d)
    labels : array (N,)
    rtol : float, optional
        A constraint with slack below it belongs to a support vector; 1e-8 by default.

    Returns
    -------
    MaximumMargin

    Raises
    ------
    ConditionError
        Where the data are not strictly separable.

    Notes
    -----
    Lawson and Hanson's least distance programming: an active-set method, exact up to rounding. Deep linear networks
    have the same limit as one layer under gradient flow (Ji and Telgarsky 2019).

    Examples
    --------
    >>> maximum_margin([[1.0, 1.0], [2.0, 0.5]], [1, 1]).direction
    array([0.5, 0.5])
    """
    signed, cut = _as_signed(x, labels), _as_cut(rtol)
    rows = signed.astype(np.float64)
    found = least_distance(rows, np.ones(len(rows)))
    if found is None or np.linalg.norm(found.point) * np.linalg.norm(rows, 2) > 1 / cut:
        raise _inseparable()
    support = rows @ found.point - 1 <= cut
    point, dual = (part.astype(signed.dtype, copy=False) for part in found)
    return MaximumMargin(point, float(1 / np.linalg.norm(found.point)), dual, support)


@representable("x, initial")
def support_cone(x: Any, labels: Any, initial: Any = None, rtol: float | None = None) -> SupportCone:
    """Decide whether the natural flow can have gradient flow's limit: is G_0 in the cone of the support vectors? (C8)

    Parameters
    ----------
    x : array (N, d)
    labels : array (N,)
    initial : array (d,), optional
    rtol : float, optional
        Relative residual up to which G_0 counts as inside, and slack of a support vector; 1e-8 by default.

    Returns
    -------
    SupportCone

    Raises
    ------
    ConditionError
        Where the data are not strictly separable.

    Notes
    -----
    û solves C8's program ⇔ G_0 = Σ λ_n a_n with λ ≥ 0 on the constraints tight at û (Karush–Kuhn–Tucker). It is then
    the limit if the solution is unique; from a face of solutions the natural flow takes the centroid instead.

    Examples
    --------
    >>> [support_cone([[1.0, 0.0], [3.0, k]], [1, 1]).inside for k in (1.0, 0.0)]
    [False, True]
    """
    best, cut = maximum_margin(x, labels, rtol), _as_cut(rtol)
    signed = _as_signed(x, labels).astype(np.float64)
    start = _as_initial(initial, signed.shape[1:]).astype(np.float64)
    logarithms = -np.logaddexp(0.0, signed @ start)
    shift = float(logarithms.max())
    downhill = signed.T @ np.exp(logarithms - shift) / len(signed)
    coefficients = np.zeros(len(signed))
    inner, residual = cone_coefficients(signed[best.support], downhill)
    coefficients[best.support] = inner * np.exp(shift)
    return SupportCone(residual <= cut, coefficients, residual)


def _solve(rows: _Rows, cut: float, dtype: Any) -> LimitProgram:
    """Solve the program in white coordinates and scale it back."""
    line = _line(rows, cut)
    active = line.levels[0]
    tight = rows.white[active]
    logarithms = -tight @ line.offset
    dual = np.zeros(len(active))
    dual[active] = np.exp(logarithms)
    slack = rows.white @ line.point - 1.0
    misfit = float(np.abs(slack[active]).max())
    slack[active] = 0.0
    values = np.linalg.svd(tight, compute_uv=False)[: tight.shape[1]]
    unique = len(line.levels) == 1
    bound, since = _bound(rows, active, dual) if unique else (np.inf, np.inf)
    program = LimitProgram(
        direction=(rows.back @ line.point).astype(dtype, copy=False),
        offset=(rows.back @ line.offset).astype(dtype, copy=False),
        value=float(dual.sum() / rows.samples),
        dual=dual.astype(dtype, copy=False),
        active=active,
        slack=slack.astype(dtype, copy=False),
        unique=unique,
        degenerate=not (unique and len(tight) == tight.shape[1]),
        rank=rows.white.shape[1],
        smallest_dual=float(np.exp(logarithms.min() - logarithms.max())),
        smallest_slack=float(slack[~active].min()) if not active.all() else float("inf"),
        condition=float(values[0] / values[values > cut * values[0]][-1]),
        bound=bound,
        bound_from=since,
    )
    least = np.inf if active.all() else min(program.smallest_dual, program.smallest_slack)
    if least < DOUBT * cut or misfit > ROUNDING * cut:
        warnings.warn(
            f"active set undetermined: least multiplier {program.smallest_dual:.2g} (relative), least slack "
            f"{program.smallest_slack:.2g}, cut-off {cut:.2g}; slacks taken for zero up to {misfit:.2g}.",
            RankWarning,
            stacklevel=4,
        )
    return program


def _line(rows: _Rows, cut: float) -> Centroid:
    """Return the limit in white coordinates, in units of G_0."""
    samples, rank = rows.white.shape
    if samples == rank:
        # Independent: G_0 has one representation, q* = σ(−m(0)), whatever the sizes of its terms.
        point, offset = np.linalg.solve(rows.white, np.stack([np.ones(samples), -rows.log_start], axis=1)).T
        return Centroid(point, offset, (np.ones(samples, bool),))
    shift = float(rows.log_start.max())
    cost = rows.white.T @ np.exp(rows.log_start - shift)
    size = float(np.linalg.norm(cost))
    try:
        face = optimal_face(rows.white, np.ones(samples), cost / size, cut) if size > 0 else None
        line = None if face is None else centroid(rows.white, cost / size, face, cut)
    except ConvergenceError as error:
        least = float((rows.log_start - shift).min())
        if least > UNRESOLVED:
            raise
        raise ConditionError(
            "initial: expected errors σ(−m_n(0)) of sizes that float64 resolves beside each other, found ratios down "
            f"to e^{least:.4g}: G_0 then lies on the edge of its cone ({error}). Start nearer to 0, or follow "
            "geodesics.predictor, which keeps logarithms."
        ) from None
    if line is None:
        raise _inseparable()
    # exp(−R d) are the multipliers of the scaled cost: those of G_0 are larger by size · e^shift.
    return line._replace(offset=line.offset - (shift + np.log(size)) * line.point)


def _bound(rows: _Rows, active: Array, dual: Array) -> tuple[float, float]:
    """Return C and the time from which ‖w(t) − t u*‖ ≤ C.

    With V = Σ q*: q_n(t) ≤ V, so a_n·w ≥ t − log 2V once e^t ≥ 2V; and Σ q*_n (a_n·w − t) = Σ q_n a_n·w − tV ≤ M/e,
    −q log q being at most 1/e. Both bound Σ q*_n |a_n·w − t|.
    """
    chosen = dual[active]
    if chosen.min() < np.finfo(np.float64).tiny:
        return np.inf, np.inf
    total = float(chosen.sum())
    since = max(0.0, float(np.log(2.0 * total)))
    solved = np.linalg.lstsq(rows.white[active], np.eye(len(chosen)))[0]
    with np.errstate(over="ignore"):
        sensitivity = float((np.linalg.norm(rows.back @ solved, axis=0) / chosen).max())
    return sensitivity * (len(rows.white) / np.e + 2 * total * since), since


def _correction(times: Array, rows: _Rows, line: LimitProgram, signed: Array) -> Array:
    """Return Newton's step of the tilted loss from the line, by differences that do not cancel.

    On the line m_n = t (1 + slack_n) + a_n·offset, and log q*_n = −a_n·offset where n is active.
    """
    ahead = times[:, None] * (1 + line.slack) + signed @ line.offset
    scale = float(-(signed @ line.offset)[line.active].min())
    wrong = -np.logaddexp(0.0, ahead)
    tight = np.exp(np.where(line.active, wrong - signed @ line.offset - scale, -np.inf))
    others = np.exp(np.where(line.active, -np.inf, times[:, None] + wrong - scale))
    weights = np.exp(-(signed @ line.offset)[line.active] - scale)
    triangle = np.asarray(np.linalg.qr(np.sqrt(weights)[:, None] * rows.white[line.active], mode="r"))
    half = np.linalg.solve(triangle.T, ((tight - others) @ rows.white).T)
    return np.asarray(-(rows.back @ np.linalg.solve(triangle, half)).T)


def _white_rows(signed: Array, initial: Array, samples: int) -> _Rows:
    rows = signed.astype(np.float64)
    return _as_white(rows, -np.logaddexp(0.0, rows @ initial.astype(np.float64)), samples)


def _as_white(signed: Array, log_start: Array, samples: int) -> _Rows:
    """Return rows A = W Tᵀ with WᵀW = M, and the way back u = A⁺W z."""
    left, values, right = np.linalg.svd(signed, full_matrices=False)
    keep = values > max(signed.shape) * np.finfo(np.float64).eps * values[0]
    scale = np.sqrt(len(signed))
    if not keep.any():
        raise _inseparable()
    return _Rows(scale * left[:, keep], right[keep].T * (scale / values[keep]), log_start, samples)


def _inseparable() -> ConditionError:
    return ConditionError(
        "x, labels: expected data that a hyperplane through the origin separates strictly, found none. Without it the "
        "predictor stays finite, or some margins stay 0; the path of C7 exists all the same. Add a column of ones for "
        "an intercept."
    )


def _as_signed(x: Any, labels: Any) -> Array:
    inputs = as_rows(x, "x")
    signs = as_float_array(labels, "labels")
    if signs.shape != inputs.shape[:1]:
        fail("labels", f"shape ({len(inputs)},), one for each row of x", f"shape {signs.shape}")
    wrong = np.abs(signs) != 1
    if wrong.any():
        fail("labels", "+1 or -1", float(signs[wrong][0]), "For 0 and 1 pass 2 * labels - 1.")
    return np.asarray(inputs * signs[:, None].astype(inputs.dtype))


def _as_initial(initial: Any, shape: tuple[int, ...], stacked: bool = False) -> Array:
    if initial is None:
        return np.zeros(shape)
    start = as_float_array(initial, "initial")
    if start.shape[-len(shape) :] != shape or (start.ndim > len(shape) and not stacked):
        fail(
            "initial",
            f"shape {'(…, ' if stacked else '('}{', '.join(map(str, shape))})",
            f"shape {start.shape}",
        )
    return start


def _as_classes(labels: Any, samples: int, count: int | None) -> tuple[Array, int]:
    numbers = as_float_array(labels, "labels")
    if numbers.shape != (samples,):
        fail("labels", f"shape ({samples},), one for each row of x", f"shape {numbers.shape}")
    classes = numbers.astype(np.int64)
    if (classes != numbers).any() or (classes < 0).any():
        fail("labels", "classes 0, 1, 2, …", float(numbers[(classes != numbers) | (classes < 0)][0]))
    if count is None:
        count = max(2, int(classes.max()) + 1)
    if classes.max() >= count:
        fail("labels", f"classes below n_classes = {count}", int(classes.max()))
    return classes, count


def _as_cut(rtol: float | None) -> float:
    return CUT if rtol is None else as_scalar(rtol, "rtol", low=1e-12, high=1e-2)
