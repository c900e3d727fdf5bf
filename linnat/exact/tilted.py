"""Where is the minimum of a convex loss when its targets move? Newton's method over a grid of times (statement C7).

ℓ(w) − e^{−t}⟨∇ℓ(w(0)), w⟩ is the loss with the targets τ(t) = (1 − e^{−t}) y + e^{−t} μ(0): its minimum exists at all
finite times, and on separable data w(t) grows like t. Probabilities are then of the size e^{−t}, below any number of
the type, and they may be of order one on other rows, so scores and weights are kept as logarithms, and Newton's system
is written row by row in units of its own weight: rows X_B, chosen by pivoting on weight × (distance to those chosen),
are the unknowns, X = M X_B, and

    K δ = h,   K_jk = Σ_n (v_n/v_j) M_nj M_nk,   h_j = Σ_n M_nj s_n/v_j,

s the score and v the weight of a row. Entries of M beyond the heavier rows of B are exactly zero, so ratios v_n/v_j are
bounded by the pivoting and K is as well conditioned as a pivoted QR allows, whatever the range of the weights.
Steps are damped by log(1 + r)/r, r the largest change of a predictor: all these losses have |A'''| ≤ A'' in the range
of the change, for which the loss then decreases from anywhere (Sun & Tran-Dinh 2019, generalised self-concordance).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from linnat._checks import Array, ConvergenceError
from linnat.linalg.exponentials import log_softmax, softplus

RANK_RTOL = 1e-10
CLIP = 690.0  # exponents: far beyond what a damped step resolves, within the type
LEAST_STEP = 1e-290
MAX_NEWTON = 200
UNKNOWN = 1e-3  # error of a predictor by rounding; a minimum that is known no better is not one
MAX_STEPS = 20_000


class Rows(NamedTuple):
    """The loss at one state, to second order, as weighted rows; numbers of any size as sign and logarithm.

    Attributes
    ----------
    design : array (R, D)
        Derivative of each row's predictor in the unknowns.
    log_weight : array (R,)
    score : (sign, log) of arrays (R,)
        Of −∂(tilted loss)/∂(predictor).
    drift : (sign, log) of arrays (R,)
        ∂score/∂t at a fixed state.
    group : int
        Number of consecutive rows of one sample: Fisher diag v − vvᵀ within it; 0 for independent rows.
    """

    design: Array
    log_weight: Array
    score: tuple[Array, Array]
    drift: tuple[Array, Array]
    group: int


class Loss(Protocol):
    """What the path needs of a loss: rows at a state, and the unknowns' number."""

    def rows(self, unknowns: Array, time: float) -> Rows:
        """Return the loss at a state, to second order."""


class Logistic(NamedTuple):
    """Bernoulli targets: features (N, D), targets y and starting predictors z_0 (N,)."""

    features: Array
    targets: Array
    start: Array

    def rows(self, unknowns: Array, time: float) -> Rows:
        """Return a row for each sample, its score on the side where probabilities are small."""
        z = self.features @ unknowns
        upper = z > 0
        label = np.where(upper, 1 - self.targets, self.targets)
        begun = np.where(upper, -softplus(self.start), -softplus(-self.start))
        target = _mixture(_log(label), begun, time)
        sign, size = _difference(target, -softplus(np.abs(z)))
        drift = _difference(_log(label), begun)
        side = np.where(upper, -1.0, 1.0)
        return Rows(
            self.features,
            -softplus(z) - softplus(-z),
            (side * sign, size),
            (side * drift[0], drift[1] - time),
            0,
        )


class LogLinear(NamedTuple):
    """Poisson targets: features (N, D), targets y and starting predictors z_0 (N,)."""

    features: Array
    targets: Array
    start: Array

    def rows(self, unknowns: Array, time: float) -> Rows:
        """Return a row for each sample."""
        z = self.features @ unknowns
        target = _mixture(_log(self.targets), self.start, time)
        sign, size = _difference(_log(self.targets), self.start)
        return Rows(self.features, z, _difference(target, z), (sign, size - time), 0)


class Softmax(NamedTuple):
    """Categorical targets: features (N, d), targets y and starting logits z_0 (N, C), basis (C, C − 1) of 1^⊥."""

    features: Array
    targets: Array
    start: Array
    basis: Array

    def logits(self, unknowns: Array) -> Array:
        """Return z, (N, C), of unknowns (d (C − 1),)."""
        return np.asarray(self.features @ unknowns.reshape(-1, self.basis.shape[1]) @ self.basis.T)

    def rows(self, unknowns: Array, time: float) -> Rows:
        """Return C − 1 rows for each sample: the log-odds against its most probable class."""
        z = self.logits(unknowns)
        count, classes = z.shape
        top = z.argmax(axis=1)
        others = np.arange(classes - 1) + (np.arange(classes - 1) >= top[:, None])
        begun, wanted = log_softmax(self.start), _log(self.targets)
        target = _mixture(wanted, begun, time)

        def pick(array: Array) -> Array:
            return np.take_along_axis(array, others, axis=1).ravel()

        model = pick(log_softmax(z))
        sign, size = _difference(pick(wanted), pick(begun))
        odds = self.basis[others] - self.basis[top][:, None, :]
        design = np.einsum("nd,ncb->ncdb", self.features, odds).reshape(count * (classes - 1), -1)
        return Rows(design, model, _difference(pick(target), model), (sign, size - time), classes - 1)


class System(NamedTuple):
    """Newton's system of one state: the rows B, X = M X_B, K, the right sides of score and drift.

    `terms` is the largest sum of |terms| of the score's side: what cancels there is known to eps times this only.
    """

    chosen: Array
    ratios: Array
    matrix: Array
    score: Array
    drift: Array
    terms: float


def follow(loss: Loss, start: Array, times: Array) -> Array:
    """Return the minimum of the tilted loss at each time, from the start at t = 0.

    Parameters
    ----------
    loss : Loss
    start : array (D,)
        Unknowns at time 0, their own minimum.
    times : array (T,)
        Ascending.

    Returns
    -------
    array (T, D)

    Raises
    ------
    ConvergenceError
        If Newton's method or the steps in time do not end, with the last state.

    Notes
    -----
    Between the times the state is predicted along dw/dt, the natural gradient itself, with steps that double while
    Newton's first correction stays small. Each costs O(R D²) flops for R rows.

    Examples
    --------
    >>> loss = Logistic(np.array([[1.0]]), np.array([1.0]), np.zeros(1))
    >>> follow(loss, np.zeros(1), np.array([0.0, 1.0, 1e4])).ravel().round(9)
    array([0.00000000e+00, 1.48988013e+00, 1.00006931e+04])
    """
    state, now, found = start.copy(), 0.0, np.empty((len(times), len(start)))
    tangent, speed = _tangent(loss, state, now)
    # Saturated on the wrong side, margins move by |m| within a time of e^{−|m|}: the first step is as small.
    step = min(0.25, 1 / max(speed, 1e-9))
    for k, goal in enumerate(times):
        for _ in range(MAX_STEPS):
            if now >= goal:
                break
            ahead = min(step, goal - now)
            then = goal if ahead == goal - now else now + ahead
            known = ahead > max(LEAST_STEP, 16 * np.finfo(float).eps * now)
            candidate, first = _newton(loss, state + ahead * tangent, then, 1e-2, 4.0 if known else np.inf)
            if first > 4.0 and known:
                step = 0.5 * ahead
                continue
            step = max(step, 2.0 * ahead) if first < 1.0 else step
            state, now = candidate, then
            tangent, _ = _tangent(loss, state, now)
        else:
            raise ConvergenceError(f"The path stopped at time {now:.6g}: steps of {step:.3g}.", state)
        if goal > 0:
            state, _ = _newton(loss, state, goal, 0.0, np.inf)
            tangent, _ = _tangent(loss, state, now)
        found[k] = state
    return found


def _newton(loss: Loss, state: Array, time: float, tolerance: float, most: float) -> tuple[Array, float]:
    """Return the minimum at a time, to rounding where the tolerance is 0, and the first change of a predictor.

    It gives up at once where that is larger than `most`.
    """
    first, last = np.inf, np.inf
    for k in range(MAX_NEWTON):
        rows = loss.rows(state, time)
        correction, _, change, _, terms = _solve(rows)
        first = change if k == 0 else first
        if first > most:
            return state, first
        size = 1 + float(np.abs(rows.design @ state).max())
        rounding = 64 * np.finfo(float).eps * size * max(1.0, terms)
        # Newton's corrections shrink quadratically until they are rounding errors, which do not shrink.
        if change <= max(tolerance, rounding) or (change <= 1e3 * rounding and change >= 0.5 * last):
            if tolerance == 0 and rounding > UNKNOWN:
                raise ConvergenceError(
                    f"Newton's method at time {time:.6g}: rounding leaves predictors undetermined by {rounding:.2g}. "
                    "Where a face of directions is optimal (separable.limit_program: not unique) a part of w rests on "
                    "numbers far below the others; ask for earlier times.",
                    state + correction,
                )
            return state + correction, first
        damping = np.log1p(change) / change
        state, last = state + damping * correction, change
    raise ConvergenceError(f"Newton's method at time {time:.6g}: corrections of {last:.3g}.", state)


def _tangent(loss: Loss, state: Array, time: float) -> tuple[Array, float]:
    """Return dw/dt and how fast a predictor moves at most."""
    _, tangent, _, speed, _ = _solve(loss.rows(state, time))
    return tangent, speed


def _solve(rows: Rows) -> tuple[Array, Array, float, float, float]:
    """Return Newton's correction, dw/dt, how far each of them moves a predictor at most, and the system's terms."""
    system = _system(rows)
    changes = np.linalg.solve(system.matrix, np.stack([system.score, system.drift], axis=1))
    unknowns = np.linalg.solve(rows.design[system.chosen], changes)
    moved = system.ratios @ changes
    if rows.group:
        by_sample = moved.reshape(-1, rows.group, 2)
        moved = np.maximum(by_sample.max(axis=1), 0) - np.minimum(by_sample.min(axis=1), 0)
    largest = np.abs(moved).max(axis=0)
    return unknowns[:, 0], unknowns[:, 1], float(largest[0]), float(largest[1]), system.terms


def _system(rows: Rows) -> System:
    """Write Newton's system in units of the chosen rows' weights."""
    chosen = _pivots(rows.design, rows.log_weight)
    ratios = np.linalg.solve(rows.design[chosen].T, rows.design.T).T
    lead = rows.log_weight[:, None] - rows.log_weight[chosen]
    # A row heavier than a chosen one is a combination of chosen rows that are heavier still: what the pivoting leaves
    # there, and where other classes meet, is rounding, which scores of heavier rows would multiply.
    ratios[np.abs(ratios) < RANK_RTOL] = 0.0
    ratios[chosen] = np.eye(len(chosen))
    scaled = ratios * np.exp(np.minimum(lead, CLIP))
    matrix = scaled.T @ ratios
    if rows.group:
        shape = (-1, rows.group, len(chosen))
        means = (ratios * np.exp(rows.log_weight)[:, None]).reshape(shape).sum(axis=1)
        matrix -= scaled.reshape(shape).sum(axis=1).T @ means
    score, drift = (
        ratios * sign[:, None] * np.exp(np.minimum(size[:, None] - rows.log_weight[chosen], CLIP))
        for sign, size in (rows.score, rows.drift)
    )
    terms = float(np.abs(score).sum(axis=0).max())
    return System(chosen, ratios, matrix, score.sum(axis=0), drift.sum(axis=0), terms)


def _pivots(design: Array, log_weight: Array) -> Array:
    """Choose independent rows, each the one of largest weight × squared distance to the span of those before."""
    rest, size = design.copy(), (design**2).sum(axis=1)
    left = size.copy()
    chosen: list[int] = []
    for _ in range(design.shape[1]):
        counts = left > RANK_RTOL**2 * size
        if not counts.any():
            counts = left == left.max()
        with np.errstate(divide="ignore"):
            merit = np.where(counts, log_weight + np.log(left), -np.inf)
        merit[chosen] = -np.inf
        best = int(merit.argmax())
        chosen.append(best)
        unit = rest[best] / np.linalg.norm(rest[best])
        rest -= np.outer(rest @ unit, unit)
        left = (rest**2).sum(axis=1)
        left[chosen] = 0.0
    return np.array(chosen)


def _log(values: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(values))


def _mixture(target: Array, start: Array, time: float) -> Array:
    """Return log((1 − e^{−t}) y + e^{−t} μ(0)) from the logarithms of y and μ(0)."""
    if time == 0:
        return start
    return np.asarray(np.logaddexp(np.log(-np.expm1(-time)) + target, start - time))


def _difference(one: Array, two: Array) -> tuple[Array, Array]:
    """Return sign and logarithm of e^one − e^two."""
    high = np.maximum(one, two)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = np.where(np.isneginf(high), 0.0, np.abs(one - two))
        return np.sign(one - two), np.asarray(high + np.log(-np.expm1(-gap)))
