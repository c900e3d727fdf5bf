"""By which other routes is the limit on separable data found? An integrated flow, and the tilted loss minimised.

Rows a (N, K, D): margins a·w of the right class over each of K others (K = 1 for two classes); wrong probabilities
p_k = e^{−m_k}/(1 + Σ e^{−m}), weights q = e^t p. Nothing here knows a linear program. In logarithms: at t = 1e6 no e^t
is formed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from linnat._checks import Array, ConvergenceError

STEPS = 80
INTEGRATOR = 1e-10


class Separable(NamedTuple):
    """A random separable problem.

    Attributes
    ----------
    x : array (N, d)
    labels : array (N,)
        ±1, or classes.
    initial : array (d,) or (d, C)
    rows : array (N, K, D)
    """

    x: Array
    labels: Array
    initial: Array
    rows: Array


def two_classes(rng: np.random.Generator, samples: int, inputs: int) -> Separable:
    """Draw Gaussian data with labels of a random hyperplane, and a Gaussian start."""
    x, teacher = rng.standard_normal((samples, inputs)), rng.standard_normal(inputs)
    labels = np.where(x @ teacher > 0, 1.0, -1.0)
    return Separable(x, labels, rng.standard_normal(inputs), (labels[:, None] * x)[:, None, :])


def many_classes(rng: np.random.Generator, samples: int, inputs: int, classes: int) -> Separable:
    """Draw Gaussian data with the classes of a random linear classifier."""
    x, teacher = rng.standard_normal((samples, inputs)), rng.standard_normal((inputs, classes))
    labels = np.argmax(x @ teacher, axis=1)
    rows = np.zeros((samples, classes - 1, inputs, classes))
    for n, label in enumerate(labels):
        for k, other in enumerate(c for c in range(classes) if c != label):
            rows[n, k, :, label], rows[n, k, :, other] = x[n], -x[n]
    initial = rng.standard_normal((inputs, classes))
    return Separable(x, labels, initial, rows.reshape(samples, classes - 1, -1))


def log_weights(rows: Array, w: Array, time: float) -> Array:
    """Return log(e^t p), (N, K)."""
    return _from_margins(rows @ w, time)


def _from_margins(margins: Array, time: float) -> Array:
    low = np.minimum(margins.min(axis=1, keepdims=True), 0.0)
    total = np.exp(low) + np.exp(low - margins).sum(axis=1, keepdims=True)
    return np.asarray(time - margins + low - np.log(total))


def _curvature(rows: Array, weights: Array, time: float) -> Array:
    """Return e^t times the Hessian of the summed loss, which is the Fisher matrix."""
    mean = np.einsum("nk,nkd->nd", weights, rows)
    return np.asarray(np.einsum("nk,nkd,nke->de", weights, rows, rows) - np.exp(-time) * mean.T @ mean)


def tilted_path(rows: Array, initial: Array, times: Array) -> Array:
    """Return the row-space part of w(t), (T, D): the minimum of Σ losses + e^{−t}⟨Σ q(0) a, w⟩ by Newton's method.

    From one time to the next along dw/dt = F⁻¹(−∇ℓ), in steps that double where that is accurate; each minimum is
    converged.
    """
    flat = rows.reshape(-1, rows.shape[-1])
    _, values, right = np.linalg.svd(flat, full_matrices=False)
    basis = right[values > 1e-10 * values[0]].T
    local = rows @ basis
    w = basis.T @ initial
    start = np.einsum("nk,nkd->d", np.exp(log_weights(local, w, 0.0)), local)
    time, path = 0.0, []
    for goal in times:
        while time < goal:
            weights = np.exp(log_weights(local, w, time))
            step = min(goal - time, max(0.1, time))
            velocity = np.linalg.solve(_curvature(local, weights, time), start)
            while not _newton_step(local, w + step * velocity, start, time + step)[1] < 0.3 * weights.sum():
                step /= 2
                if step < 1e-9 * (1 + time):
                    raise ConvergenceError(
                        f"tilted loss: its curvature is lost in rounding at t = {time:.6g}.", w
                    )
            w, time = w + step * velocity, time + step
            w = _newton(local, w, start, time)
        path.append(basis @ w)
    return np.array(path)


def _newton_step(rows: Array, w: Array, start: Array, time: float) -> tuple[Array, float]:
    """Return Newton's step and its decrement; an infinite one where the curvature is singular in floating point."""
    weights = np.exp(np.minimum(log_weights(rows, w, time), 700.0))
    downhill = np.einsum("nk,nkd->d", weights, rows) - start
    try:
        step = np.linalg.solve(_curvature(rows, weights, time), downhill)
    except np.linalg.LinAlgError:
        return np.zeros_like(w), np.inf
    decrement = float(downhill @ step)
    return step, decrement if decrement >= 0 else np.inf


def _newton(rows: Array, w: Array, start: Array, time: float) -> Array:
    def losses(place: Array) -> float:
        # e^t Σ log(1 + Σe^{−m}): of the size of q where all is well, of that of −m e^t where a margin is negative.
        margins = rows @ place
        logs = _from_margins(margins, time)
        wrong = np.exp(logs - time).sum(axis=1)
        low = np.minimum(margins.min(axis=1), 0.0)
        plain = np.log(np.exp(low) + np.exp(low[:, None] - margins).sum(axis=1)) - low
        with np.errstate(over="ignore"):
            small = np.exp(logs).sum(axis=1) * (1 + wrong / 2 + wrong**2 / 3)
            return float(np.where(wrong > 1e-5, np.exp(min(time, 700.0)) * plain, small).sum())

    for _ in range(STEPS):
        step, decrement = _newton_step(rows, w, start, time)
        now, rounding, length = losses(w), 1e-15 * (1 + time), 1.0
        if decrement > 1e3 * rounding * now:
            # Differences of ⟨G, w⟩ are formed from the step: the sum is of size t and would hide them.
            while not losses(w + length * step) - now <= -length * (float(start @ step) + 1e-4 * decrement):
                length /= 2
                if length < 1e-12:
                    break
        w = w + length * step
        if decrement < now * max(1e-22, (10 * rounding) ** 2):
            break
    return w


def integrated_path(rows: Array, initial: Array, times: Array) -> tuple[Array, Array]:
    """Integrate the natural flow with the state q = e^t p, in logarithms; return row-space parts (T, D), q (T, N, K).

    v = F⁻¹(−∇ℓ) from q alone; w(t) from the margins t − log q + log(1 − Σ_k q e^{−t}) by least squares.
    """
    count, others, size = rows.shape
    flat = rows.reshape(-1, size)
    _, values, right = np.linalg.svd(flat, full_matrices=False)
    basis = right[values > 1e-10 * values[0]].T
    local = rows @ basis

    def rate(time: float, state: Array) -> Array:
        weights = np.exp(state.reshape(count, others))
        velocity = np.linalg.solve(_curvature(local, weights, time), np.einsum("nk,nkd->d", weights, local))
        changes = local @ velocity
        return np.asarray(
            1 - changes + np.exp(-time) * (weights * changes).sum(axis=1, keepdims=True)
        ).ravel()

    begin = log_weights(rows, initial, 0.0).ravel()
    options = {"rtol": INTEGRATOR, "atol": INTEGRATOR}
    run = solve_ivp(rate, (0.0, float(times[-1])), begin, "DOP853", t_eval=times, **options)
    if not run.success:
        raise RuntimeError(run.message)
    logs = run.y.T.reshape(-1, count, others)
    weights = np.exp(logs)
    clock = np.asarray(times)[:, None, None]
    margins = clock - logs + np.log1p(-(weights * np.exp(-clock)).sum(axis=2, keepdims=True))
    found = np.linalg.lstsq(flat @ basis, margins.reshape(len(times), -1).T)[0]
    return (basis @ found).T, weights
