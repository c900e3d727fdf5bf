"""How does a matrix of rank r follow a constant velocity? Dynamical low-rank approximation in factors (X2).

dZ/ds = P_Z G, P_Z the orthogonal projection on the tangent space of the matrices of rank r at Z = U S Vᵀ:

    P_Z G = G V Vᵀ − U Uᵀ G V Vᵀ + U Uᵀ G.

Koch and Lubich 2007. Each of the three terms is integrated exactly by itself (projector splitting, Lubich and Oseledets
2014), which needs no S⁻¹: errors do not grow as singular values vanish. Symmetric steps are composed to order four with
Suzuki's weights, whose partial sums stay within [0, 1]. For r = 1 there is a closed form.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np

from linnat._checks import Array, ConvergenceError

WEIGHT = 1 / (4 - 4 ** (1 / 3))
WEIGHTS = (WEIGHT, WEIGHT, 1 - 4 * WEIGHT, WEIGHT, WEIGHT)
LONGEST = 2.0  # of a step in t
MAX_STEPS = 100_000
MAX_PANELS = 200_000
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(20)


class Factors(NamedTuple):
    """Z = U S Vᵀ with orthonormal U (n, r), V (m, r) and any S (r, r)."""

    left: Array
    core: Array
    right: Array


class Walk(NamedTuple):
    """W at the times asked for.

    Attributes
    ----------
    states : list of Factors
    error : array (T,)
        Sum of the local error estimates up to each time, relative to ‖W‖.
    steps : int
    """

    states: list[Factors]
    error: Array
    steps: int


def factorise(left: Array, right: Array) -> Factors:
    """Return left rightᵀ in factored form."""
    (first, upper), (second, lower) = np.linalg.qr(left), np.linalg.qr(right)
    return Factors(first, upper @ lower.T, second)


def follow(start: Factors, diagonal: Array, times: Array, tolerance: float) -> Walk:
    """Return W(t) = e^{-t} Z(e^t − 1), the solution of dW/dt = P_W (G − W), for a diagonal G.

    Parameters
    ----------
    start : Factors
    diagonal : array (min(n, m),)
        The diagonal of G (n, m).
    times : array (T,)
        In any order.
    tolerance : float
        Of the difference between one step and two half steps, relative to ‖W‖.

    Returns
    -------
    Walk

    Notes
    -----
    The flow of Z is autonomous, so each step starts afresh at Z = W and scales the result by e^{-h}. 45 QRs of
    n × r per step.
    """
    state, now, spent, steps = start, 0.0, 0.0, 0
    size = max(float(np.linalg.norm(start.core)), float(np.finfo(float).tiny))
    step = 0.1 * size / (size + float(np.linalg.norm(diagonal)))
    states: list[Factors] = [start] * len(times)
    error = np.zeros(len(times))
    for place in np.argsort(times, kind="stable"):
        while now < times[place]:
            steps += 1
            if steps > MAX_STEPS:
                raise ConvergenceError(f"tolerance: {MAX_STEPS} steps reached time {now:.6g} only.", state)
            ahead = min(step, float(times[place]) - now)
            fine, gap = _doubled(state, diagonal, ahead)
            if gap <= tolerance or ahead <= 4 * np.spacing(now):
                state, spent = fine, spent + gap
                now = float(times[place]) if ahead < step else now + ahead
            growth = 0.9 * (tolerance / gap) ** 0.2 if gap > 0 else 4.0
            # A step that was cut short to end at a time asked for says nothing against a longer one.
            kept = step if gap <= tolerance else 0.0
            step = max(min(ahead * min(4.0, max(0.2, growth)), LONGEST), kept if ahead < step else 0.0)
        states[place], error[place] = state, spent
    return Walk(states, error, steps)


def _doubled(state: Factors, diagonal: Array, step: float) -> tuple[Factors, float]:
    """Return the state after two half steps, and its distance to that after a whole one, relative."""
    half, whole = float(np.expm1(step / 2)), float(np.expm1(step))
    coarse = _composed(state, diagonal, whole)
    fine = _composed(_composed(state, diagonal, half), diagonal, half)
    size = float(np.linalg.norm(fine.core))
    gap = distance(fine, coarse) / size if size > 0 else np.inf
    return fine, gap if np.isfinite(gap) else np.inf


def distance(first: Factors, second: Factors) -> float:
    """Return the Frobenius norm of the difference, without forming it or squaring anything."""
    rank = len(first.core)
    upper = np.linalg.qr(np.concatenate([first.left, second.left], axis=1))[1]
    lower = np.linalg.qr(np.concatenate([first.right, second.right], axis=1))[1]
    middle = upper[:, :rank] @ first.core @ lower[:, :rank].T
    return float(np.linalg.norm(middle - upper[:, rank:] @ second.core @ lower[:, rank:].T))


def _composed(state: Factors, diagonal: Array, length: float) -> Factors:
    """Return W(h) after five symmetric steps of Z, from s = 0 to s = e^h − 1 = `length`."""
    for weight in WEIGHTS:
        state = _symmetric(state, diagonal, weight * length)
    return state._replace(core=state.core / (1 + length))


def _symmetric(state: Factors, diagonal: Array, length: float) -> Factors:
    """Take one step K, S, L, S, K of lengths ½, ½, 1, ½, ½: of order two, its own inverse for −length."""
    left, core, right = state
    half = 0.5 * length
    pushed = _times(diagonal, right, len(left))
    left, core = np.linalg.qr(left @ core + half * pushed)
    core = core - half * (left.T @ pushed)
    right, lower = np.linalg.qr(right @ core.T + length * _times(diagonal, left, len(right)))
    pushed = _times(diagonal, right, len(left))
    core = lower.T - half * (left.T @ pushed)
    left, core = np.linalg.qr(left @ core + half * pushed)
    return Factors(left, core, right)


def _times(diagonal: Array, matrix: Array, rows: int) -> Array:
    """Return G M for a diagonal G with so many rows."""
    product = np.zeros((rows, matrix.shape[1]))
    product[: len(diagonal)] = diagonal[:, None] * matrix[: len(diagonal)]
    return product


class RankOne(NamedTuple):
    """The closed form for r = 1, W = σ e^{-t} u vᵀ.

    Attributes
    ----------
    tau : array (T,)
    scale : array (T,)
        The singular value of W.
    left, right : arrays (T, n), (T, m)
        u and v.
    """

    tau: Array
    scale: Array
    left: Array
    right: Array


class Growth(NamedTuple):
    """f(τ) = ‖e^{Kτ}(u_0, v_0)‖²/2 = Σ_k c_k e^{2 λ_k τ}: weights c_k > 0 and exponents λ_k."""

    weights: Array
    exponents: Array

    def log_root(self, tau: Array) -> Array:
        """Return ½ log f."""
        with np.errstate(divide="ignore"):
            powers = np.log(self.weights) + 2 * self.exponents * tau[..., None]
        top = powers.max(axis=-1)
        return cast(Array, 0.5 * (top + np.log(np.exp(powers - top[..., None]).sum(axis=-1))))


def growth_of(start: Factors, diagonal: Array) -> Growth:
    """Return f for a start of rank one; parts of u_0, v_0 below rounding count as zero."""
    count = len(diagonal)
    alpha, beta = start.left[:, 0] * np.sign(start.core[0, 0]), start.right[:, 0]
    plus, minus = (alpha[:count] + beta[:count]) / 2, (alpha[:count] - beta[:count]) / 2
    rest = 0.5 * ((alpha[count:] ** 2).sum() + (beta[count:] ** 2).sum())
    weights = np.concatenate([plus**2, minus**2, [rest]])
    exponents = np.concatenate([diagonal, -diagonal, [0.0]])
    weights[weights <= (4 * np.finfo(float).eps) ** 2] = 0.0
    return Growth(weights, exponents)


def last_time(start: Factors, diagonal: Array) -> float:
    """Return the time at which a path of rank one reaches zero: infinite unless only decaying parts are there."""
    growth = growth_of(start, diagonal)
    exponents = growth.exponents[growth.weights > 0]
    if (exponents >= 0).any():
        return np.inf
    slowest, fastest = float(-exponents.max()), float(-exponents.min())
    # Panels short for the fastest exponent; what is left at τ decays no faster than like e^{-λτ} with λτ < 120.
    linear = np.linspace(0, 120 / fastest, 121)
    longer = np.geomspace(120 / fastest, 120 / slowest, 2 + int(120 * np.log(fastest / slowest)))
    edges = np.concatenate([linear, longer[1:] if slowest < fastest else []])
    pieces = _panel_logs(growth, edges)
    return float(np.log1p(abs(start.core[0, 0]) * np.exp(pieces).sum()))


def rank_one(start: Factors, diagonal: Array, times: Array) -> RankOne:
    """Return the path of a matrix of rank one in closed form, e^t − 1 = σ_0 ∫_0^τ f^½.

    Notes
    -----
    All c_k are positive, so f has no zero with |Im τ| < π/(4 λ_max) and f^½ is analytic there: Gauss–Legendre with 20
    nodes on panels of length 1/λ_max is exact to rounding (3.4^{-40}). Logarithms throughout.
    """
    growth, size = growth_of(start, diagonal), abs(float(start.core[0, 0]))
    tau = np.zeros(len(times))
    moving = times > 0
    if moving.any() and diagonal.max() > 0:
        # log(e^t − 1), also where e^t overflows.
        wanted = times[moving] + np.log(-np.expm1(-times[moving])) - np.log(size)
        tau[moving] = _invert(growth, wanted, 1 / float(diagonal.max()))
    elif moving.any():
        tau[moving] = np.expm1(times[moving]) / size
    top = float(diagonal.max(initial=0.0))
    up, down = np.exp((diagonal - top) * tau[:, None]), np.exp((-diagonal - top) * tau[:, None])
    flat = np.exp(-top * tau)[:, None]
    count = len(diagonal)
    alpha, beta = start.left[:, 0] * np.sign(start.core[0, 0]), start.right[:, 0]
    plus, minus = (alpha[:count] + beta[:count]) / 2, (alpha[:count] - beta[:count]) / 2
    left = np.concatenate([plus * up + minus * down, flat * alpha[count:]], axis=1)
    right = np.concatenate([plus * up - minus * down, flat * beta[count:]], axis=1)
    scale = size * np.exp(growth.log_root(tau) - times)
    return RankOne(tau, scale, *(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (left, right)))


def _panel_logs(growth: Growth, edges: Array) -> Array:
    """Return log ∫ f^½ over each panel."""
    middle, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
    logs = growth.log_root(middle[:, None] + half[:, None] * NODES) + np.log(NODE_WEIGHTS)
    top = logs.max(axis=-1)
    with np.errstate(divide="ignore"):
        return cast(Array, np.log(half) + top + np.log(np.exp(logs - top[:, None]).sum(axis=-1)))


def _invert(growth: Growth, wanted: Array, panel: float) -> Array:
    """Return τ with log ∫_0^τ f^½ = wanted, by a table of panels and Newton's iteration within one."""
    edges, sums = np.array([0.0]), np.array([-np.inf])
    while sums[-1] < wanted.max():
        more = edges[-1] + panel * np.arange(0, min(max(16, len(edges)), 1024) + 1)
        logs = _panel_logs(growth, more)
        edges = np.concatenate([edges, more[1:]])
        sums = np.concatenate([sums, np.logaddexp.accumulate(np.concatenate([sums[-1:], logs]))[1:]])
        if len(edges) > MAX_PANELS:
            raise ConvergenceError(
                f"times: e^t − 1 = ∫σ was not reached after {MAX_PANELS} panels; ask for earlier times.",
                edges[-1],
            )
    place = np.searchsorted(sums, wanted, side="left").clip(1) - 1
    low, base = edges[place], sums[place]
    scale = wanted + np.log(
        -np.expm1(np.minimum(base - wanted, 0.0))
    )  # log of what the panel itself must give
    # The integrand is log-convex: from the right end Newton's iteration comes down monotonically.
    tau = np.full(len(wanted), panel)
    for _ in range(60):
        inside = _panel_logs_between(growth, low, tau)
        step = -np.expm1(scale - inside) * np.exp(inside - growth.log_root(low + tau))
        new = np.clip(tau - step, tau / 8, panel)
        done = np.abs(new - tau) <= 2 * np.finfo(float).eps * (low + tau)
        tau = new
        if done.all():
            break
    return cast(Array, low + tau)


def _panel_logs_between(growth: Growth, low: Array, width: Array) -> Array:
    """Return log ∫ f^½ from low to low + width, for each pair."""
    half = 0.5 * width
    logs = growth.log_root((low + half)[:, None] + half[:, None] * NODES) + np.log(NODE_WEIGHTS)
    top = logs.max(axis=-1)
    return cast(Array, np.log(half) + top + np.log(np.exp(logs - top[:, None]).sum(axis=-1)))
