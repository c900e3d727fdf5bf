"""What is the natural gradient of a deep linear convolutional network? Statement X7."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from scipy.integrate import solve_ivp

from linnat._checks import Array
from linnat.claims._core import CONSTANT, Case, Claim, Measure, Measures, relative
from linnat.exact import convolution
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task

SHAPES = (((1, 1, 1), 5), ((1, 1, 1, 1), 4), ((2, 3, 2), 4), ((3, 1, 2), 3), ((2, 2, 2), 3))  # channels, n
RTOL = 1e-9

Velocity = Callable[[Sequence[Array], Array], Sequence[Array]]


def layer_matrix(kernel: Array, size: int) -> Array:
    """Return the matrix of one layer on signals stacked channel by channel, entry by entry from the definition."""
    outputs, inputs, length = kernel.shape
    matrix = np.zeros((outputs, size, inputs, size))
    for p in range(size):
        for q in range(length):
            matrix[:, p, :, (p - q) % size] += kernel[:, :, q]
    return matrix.reshape(outputs * size, inputs * size)


def dense_total(kernels: Sequence[Array], size: int) -> Array:
    """Multiply the layers' matrices."""
    total = np.eye(kernels[0].shape[1] * size)
    for kernel in kernels:
        total = layer_matrix(kernel, size) @ total
    return total


def dense_jacobian(kernels: Sequence[Array], size: int) -> Array:
    """Return ∂ vec W/∂ kernels, column by column: W is linear in each kernel."""
    columns = []
    for i, kernel in enumerate(kernels):
        for entry in range(kernel.size):
            unit = np.zeros(kernel.size)
            unit[entry] = 1.0
            changed = [*kernels[:i], unit.reshape(kernel.shape), *kernels[i + 1 :]]
            columns.append(dense_total(changed, size).ravel())
    return np.array(columns).T


def split(vector: Array, kernels: Sequence[Array]) -> list[Array]:
    """Cut a vector into kernels."""
    ends = np.cumsum([k.size for k in kernels])[:-1]
    return [p.reshape(k.shape) for p, k in zip(np.split(vector, ends), kernels, strict=True)]


def check_convolution(case: Case, candidate: Velocity = convolution.natural_gradient) -> Measures:
    """Check F u = ∇ℓ and the gauge against dense circulant layers; flows against an integrator; the discrete map."""
    measures: Measures = []
    for channels, size in SHAPES:
        kernels = [case.rng.standard_normal((b, a, size)) / np.sqrt(a * size) for a, b in pairwise(channels)]
        target = case.rng.standard_normal((channels[-1], channels[0], size))
        measures += _solution(
            kernels, target, candidate, f"{'-'.join(map(str, channels))} channels, n = {size}"
        )
    if candidate is convolution.natural_gradient:
        measures += _flow(case.rng, 1, 5) + _flow(case.rng, 2, 3)
        measures.append(_breaks(case.rng))
    return measures


def _solution(kernels: list[Array], target: Array, candidate: Velocity, name: str) -> Measures:
    size = target.shape[-1]
    jacobian = dense_jacobian(kernels, size)
    error = (layer_matrix(target, size) - dense_total(kernels, size)).ravel()
    left, values, right = np.linalg.svd(jacobian, full_matrices=False)
    keep = values > 1e-12 * values[0]
    condition = float(values[0] / values[keep][-1])
    limit = CONSTANT * float(np.finfo(float).eps) * len(error)
    found = np.concatenate([u.ravel() for u in candidate(kernels, target)])
    gradient = -jacobian.T @ error
    size_of = values[0] ** 2 * np.linalg.norm(found) + np.linalg.norm(gradient)
    backward = float(np.linalg.norm(jacobian.T @ (jacobian @ found) - gradient) / size_of)
    measures = [Measure(f"backward error of F u = ∇ℓ, {name}", backward, limit)]
    if candidate is convolution.natural_gradient:
        # X1: blockdiag(F) u is orthogonal to the null space of F.
        null = np.eye(len(found)) - right[keep].T @ right[keep]
        blocks, start = np.zeros(len(found)), 0
        for kernel in kernels:
            part = slice(start, start + kernel.size)
            blocks[part] = jacobian[:, part].T @ (jacobian[:, part] @ found[part])
            start += kernel.size
        gap = float(np.linalg.norm(null @ blocks) / (values[0] ** 2 * np.linalg.norm(found)))
        measures.append(Measure(f"gauge: blockdiag(F) u in range F, {name}", gap, limit * condition))
        shortest = np.concatenate(
            [u.ravel() for u in convolution.natural_gradient(kernels, target, "minimum-norm")]
        )
        wanted = -right[keep].T @ ((left[:, keep].T @ error) / values[keep])
        measures.append(Measure(f"minimum norm, {name}", relative(shortest, wanted), limit * condition**2))
    return measures


def _flow(rng: np.random.Generator, channels: int, size: int) -> Measures:
    """Integrate dense layerwise velocities of two layers; compare C2, and one step with D1."""
    unit = np.zeros((channels, channels, size))
    unit[..., 0] = np.eye(channels)
    kernels = [unit + 0.2 * rng.standard_normal(unit.shape) / np.sqrt(size) for _ in range(2)]
    target = unit + 0.4 * rng.standard_normal(unit.shape) / np.sqrt(size)

    def slope(_: float, vector: Array) -> Array:
        state = split(vector, kernels)
        first, second = (layer_matrix(k, size) for k in state)
        error = layer_matrix(target, size) - second @ first
        steps = np.linalg.solve(second, error) / 2, np.linalg.solve(first.T, error.T).T / 2
        # The kernels are the columns at position 0 of circulant blocks.
        blocks = [s.reshape(channels, size, channels, size)[..., 0] for s in steps]
        return np.concatenate([np.moveaxis(b, 1, 2).ravel() for b in blocks])

    start = np.concatenate([k.ravel() for k in kernels])
    run = solve_ivp(slope, (0.0, 1.0), start, "DOP853", rtol=RTOL, atol=RTOL * 1e-2)
    claimed = np.concatenate([w[0].ravel() for w in convolution.natural_weights(kernels, target, 1.0)])
    spread = np.linalg.cond(dense_total(kernels, size))
    name = f"{channels} channel{'s' if channels > 1 else ''}"
    step = convolution.total(convolution.natural_step(kernels, target, 0.7))
    mapped = convolution.natural_total_step(kernels, target, 0.7)
    limit = CONSTANT * float(np.finfo(float).eps) * size * channels * spread
    return [
        Measure(
            f"kernels moved by DOP853, {name}", relative(claimed, run.y[:, -1]), CONSTANT * RTOL * spread
        ),
        Measure(f"discrete map, {name}", relative(step, mapped), limit),
    ]


def _breaks(rng: np.random.Generator) -> Measure:
    """Compare breakdown with the signs of real ratios, and where the line loses a frequency."""
    wrong = 0.0
    for n in (3, 4, 5, 6):
        kernels = rng.standard_normal((2, 40, 1, 1, n))
        target = rng.standard_normal((40, 1, 1, n))
        times = convolution.breakdown_time(list(kernels), target)
        start = np.fft.fft(kernels[0, :, 0, 0]) * np.fft.fft(kernels[1, :, 0, 0])
        ratios = (np.fft.fft(target[:, 0, 0]) / start)[:, [0] if n % 2 else [0, n // 2]].real
        ends = np.where(ratios < 0, np.log1p(1 / np.maximum(np.abs(ratios), 1e-300)), np.inf).min(axis=1)
        wrong += float((np.isfinite(times) != np.isfinite(ends)).sum())
        both = np.isfinite(times) & np.isfinite(ends)
        wrong += float((np.abs(times[both] - ends[both]) > 1e-9 * ends[both]).sum())
    return Measure("breakdown times that disagree with the sign of ŵ*/ŵ at 0 and n/2", wrong, 0.5, "stated")


def _truncated(kernels: Sequence[Array], target: Array) -> Sequence[Array]:
    """The full-length formula cut to the first two entries: what kernels of finite support do not obey."""
    full = convolution.natural_gradient(kernels, target)
    return [np.concatenate([u[..., :2], 0 * u[..., 2:]], axis=-1) for u in full]


def _broken(rng: np.random.Generator) -> Measures:
    return check_convolution(Case(LinearNetwork([np.eye(1)]), Task(np.eye(1)), rng), _truncated)


def _not_dense(net: LinearNetwork, task: Task) -> str:
    return "is about convolutional networks"


CLAIMS = (
    Claim(
        "X7",
        "Convolutional networks",
        "with full kernels the staircase, the line and the discrete map hold at every frequency by itself",
        r"\hat v_i(k) = \hat B_i^+ \Big[\sum \frac{\Delta P_a \hat E \Delta Q_b}{b-a+1}\Big] \hat A_i^+,\quad "
        r"\text{breaks} \iff \hat w^*(k)/\hat w(k) < 0 \text{ for a } k",
        "new",
        "circular, kernels of full length, white input and noise; the last part for one channel and two layers or more",
        "convolution.natural_gradient",
        "Jacobian of block-circulant layers by unit kernels; kernels moved by DOP853",
        "backward error: p = 0; gauge: κ(J), p = 1; minimum norm: p = 2; flow: tolerance × κ(W)",
        check_convolution,
        _not_dense,
        _broken,
        "the formula cut to kernels of two entries",
        about_networks=False,
    ),
)
