"""What are the gradient, the Fisher matrix and the Hessian by definition? Statements G1, F1, F2, N6, X10.

The Fisher matrix is reached by four roads that share no formula: the covariance of the score over exactly
integrated targets, the same over sampled targets (with a standard error), the curvature of the
Kullback–Leibler divergence, and the Gauss–Newton product of Jacobians. Beside them stand two matrices that
are something else: the empirical Fisher, over the targets of the data, and the Hessian.

Differences are exact here. The output is affine in each single parameter, so the loss and the divergence are
at most quadratic in each: a central first difference and a mixed central second difference

    [f(+h, +k) − f(+h, −k) − f(−h, +k) + f(−h, −k)] / (4 h k)

have no truncation error for any step. The step is 1 by default; what is left is rounding, eps × loss at the
shifted points.

Scale: means over samples, ½ squared error in the metric Π = Σ⁻¹; matrices are P × P in the order of
`jacobian.parameters`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg

from linnat._checks import Array, RngLike, as_count, as_rng, as_scalar, fail
from linnat.dense.jacobian import check_room, output_jacobian, outputs, outputs_at, parameters, split
from linnat.dense.sample import Sample, as_sample, of_data
from linnat.exact.network import LinearNetwork, as_network
from linnat.exact.task import Task


class SampledFisher(NamedTuple):
    """A Monte Carlo estimate of the Fisher matrix.

    Attributes
    ----------
    estimate : array (P, P)
    stderr : array (P, P)
        Standard error of each entry; its expectation falls like n_targets^{-1/2}.
    """

    estimate: Array
    stderr: Array


def loss(net: LinearNetwork, data: Task | Sample) -> float:
    """Return ½ E (y − f(x))ᵀ Π (y − f(x)), summed over points.

    Parameters
    ----------
    net : LinearNetwork
    data : Task or Sample
        A task made from data must be given by its rows, `sample.of_data(x, y)`: its moments do not carry
        them.

    Returns
    -------
    float

    Raises
    ------
    InputError
        For arguments that do not fit, and for a Task made from data.

    Examples
    --------
    >>> loss(LinearNetwork([[[1.0]]]), Task([[3.0]]))
    2.5
    """
    if isinstance(data, Task) and data.n_samples is not None:
        remedy = "Give the rows: sample.of_data(x, y, noise_cov)."
        fail("data", "population moments", "a Task made from data", remedy)
    points = fitting_sample(net, data)
    spread = np.trace(scipy.linalg.solve(points.noise_cov, points.target_cov, assume_a="pos"))
    return float(_misfit(parameters(net)[None], net, points)[0] + 0.5 * spread)


def gradient(net: LinearNetwork, data: Task | Sample, step: float = 1.0) -> tuple[Array, ...]:
    """Return ∂ℓ/∂θ by central differences, exact for every step since ℓ is quadratic in each parameter (G1).

    Parameters
    ----------
    net : LinearNetwork
    data : Task or Sample
    step : float
        Positive.

    Returns
    -------
    tuple of arrays like `net.layers`
        An ascent direction.

    Notes
    -----
    2 P evaluations of the loss. Rounding: eps × loss at the shifted points / step.

    Examples
    --------
    >>> gradient(LinearNetwork([[[1.0]]]), Task([[3.0]]))[0]
    array([[-2.]])
    """
    points, start = fitting_sample(net, data), parameters(net)
    width = as_scalar(step, "step", low=0.0, open_low=True)
    shifts = width * np.eye(len(start))
    values = _misfit(np.concatenate([start + shifts, start - shifts]), net, points)
    return split((values[: len(start)] - values[len(start) :]) / (2 * width), net)


def scores(net: LinearNetwork, x: Array, y: Array, noise_cov: Array) -> Array:
    """Return the score ∂ log N(y; f(x), Σ)/∂θ of every row, J(x)ᵀ Π (y − f(x)).

    Parameters
    ----------
    net : LinearNetwork
    x : array (N, n_0)
    y : array (N, n_L)
    noise_cov : array (n_L, n_L)

    Returns
    -------
    array (N, P)

    Examples
    --------
    >>> import numpy as np
    >>> scores(LinearNetwork([[[2.0]], [[3.0]]]), np.ones((1, 1)), np.array([[7.0]]), np.eye(1))
    array([[3., 2.]])
    """
    points = of_data(x, y, noise_cov)
    if points.y.shape[1] != as_network(net).widths[-1]:
        fail("y", f"{net.widths[-1]} columns, the output width", f"shape {points.y.shape}")
    return _scores(net, points.x, points.y, points.noise_cov)


def _scores(net: LinearNetwork, x: Array, y: Array, noise_cov: Array) -> Array:
    residual = y - outputs(net, x)
    dual = scipy.linalg.solve(noise_cov, residual.T, assume_a="pos").T
    score: Array = np.einsum("nop,no->np", output_jacobian(net, x), dual)
    return score


def score_covariance(net: LinearNetwork, data: Task | Sample) -> Array:
    """Return the Fisher matrix E[s sᵀ], targets integrated exactly over the model y | x ~ N(f(x), Σ) (F1).

    Parameters
    ----------
    net : LinearNetwork
    data : Task or Sample
        Its targets play no role.

    Returns
    -------
    array (P, P)

    Notes
    -----
    The score is affine in y, so the targets f(x) ± √n_L C e_j, Σ = C Cᵀ, give its second moment exactly.
    O(N n_L P²) flops.

    Examples
    --------
    >>> score_covariance(LinearNetwork([[[2.0]], [[3.0]]]), Task([[0.0]])).round(12)
    array([[9., 6.],
           [6., 4.]])
    """
    points = fitting_sample(net, data)
    model = points._replace(y=outputs(net, points.x), target_cov=points.noise_cov)
    return _uncentred_covariance(net, model)


def sampled_fisher(net: LinearNetwork, data: Task | Sample, n_targets: int, rng: RngLike) -> SampledFisher:
    """Return the Fisher matrix over targets drawn from the model, with its standard error (N6).

    Parameters
    ----------
    net : LinearNetwork
    data : Task or Sample
        Its targets play no role; its inputs are integrated exactly.
    n_targets : int
        At least 2; targets drawn at each point.
    rng : Generator or int

    Returns
    -------
    SampledFisher

    Examples
    --------
    >>> sampled_fisher(LinearNetwork([[[2.0]]]), Task([[0.0]]), 100, rng=0).estimate.shape
    (1, 1)
    """
    points, count, generator = fitting_sample(net, data), as_count(n_targets, "n_targets", low=2), as_rng(rng)
    factor, mean = np.linalg.cholesky(points.noise_cov), outputs(net, points.x)
    size = len(parameters(net))
    check_room((3, size, size), "the Fisher matrix")
    first, second = np.zeros((size, size)), np.zeros((size, size))
    for _ in range(count):
        targets = mean + generator.standard_normal(mean.shape) @ factor.T
        score = _scores(net, points.x, targets, points.noise_cov)
        draw = (points.weights * score.T) @ score
        first, second = first + draw / count, second + draw**2 / count
    variance = np.maximum(second - first**2, 0.0) / (count - 1)
    return SampledFisher(first, np.sqrt(variance))


def kl_divergence(net: LinearNetwork, other: LinearNetwork, data: Task | Sample) -> float:
    """Return E_x KL(p_θ(y | x) ‖ p_θ'(y | x)) of two Gaussian models with the same noise.

    Parameters
    ----------
    net, other : LinearNetwork
        Of the same widths and kind.
    data : Task or Sample
        Its targets play no role.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If the two networks are not of the same widths and kind.

    Examples
    --------
    >>> kl_divergence(LinearNetwork([[[2.0]]]), LinearNetwork([[[5.0]]]), Task([[0.0]]))
    4.5
    """
    points = fitting_sample(net, data)
    if as_network(other, "other").widths != net.widths or other.has_biases != net.has_biases:
        fail("other", f"widths {net.widths}, biases {net.has_biases}", f"{other.widths}, {other.has_biases}")
    model = points._replace(y=outputs(net, points.x))
    return float(_misfit(parameters(other)[None], net, model)[0])


def kl_curvature(net: LinearNetwork, data: Task | Sample, step: float = 1.0) -> Array:
    """Return the Hessian at δ = 0 of KL(p_θ ‖ p_{θ+δ}): the Fisher matrix by its meaning (F1).

    Parameters
    ----------
    net : LinearNetwork
    data : Task or Sample
        Its targets play no role.
    step : float
        Positive; differences are exact for every step.

    Returns
    -------
    array (P, P)

    Notes
    -----
    2 P² evaluations of the divergence.

    Examples
    --------
    >>> kl_curvature(LinearNetwork([[[2.0]], [[3.0]]]), Task([[0.0]]))
    array([[9., 6.],
           [6., 4.]])
    """
    points = fitting_sample(net, data)
    model = points._replace(y=outputs(net, points.x))
    return _second_differences(lambda vectors: _misfit(vectors, net, model), parameters(net), step)


def gauss_newton(net: LinearNetwork, data: Task | Sample) -> Array:
    """Return the generalised Gauss–Newton matrix E[J(x)ᵀ Π J(x)] (F1).

    Parameters
    ----------
    net : LinearNetwork
    data : Task or Sample
        Its targets play no role.

    Returns
    -------
    array (P, P)

    Examples
    --------
    >>> gauss_newton(LinearNetwork([[[2.0]], [[3.0]]]), Task([[0.0]]))
    array([[9., 6.],
           [6., 4.]])
    """
    jacobian = root_jacobian(net, data)
    check_room((jacobian.shape[1],) * 2, "the Fisher matrix")
    return jacobian.T @ jacobian


def empirical_fisher(net: LinearNetwork, data: Sample) -> Array:
    """Return E[s sᵀ] over the targets of the data: not the Fisher matrix, whatever its name (N6).

    Parameters
    ----------
    net : LinearNetwork
    data : Sample
        The rows themselves: the matrix needs fourth moments, which a Task does not carry.

    Returns
    -------
    array (P, P)

    Raises
    ------
    InputError
        For a Task.

    Examples
    --------
    >>> from linnat.dense.sample import of_data
    >>> empirical_fisher(LinearNetwork([[[2.0]]]), of_data([[1.0]], [[2.0]]))
    array([[0.]])
    """
    if isinstance(data, Task):
        fail("data", "a Sample", "a Task", "Fourth moments are needed: give the rows, sample.of_data(x, y).")
    return _uncentred_covariance(net, fitting_sample(net, data))


def hessian(net: LinearNetwork, data: Task | Sample, step: float = 1.0) -> Array:
    """Return the Hessian of the loss by mixed second differences, exact for every step (F2).

    Parameters
    ----------
    net : LinearNetwork
    data : Task or Sample
    step : float
        Positive.

    Returns
    -------
    array (P, P)

    Notes
    -----
    2 P² evaluations of the loss. Rounding: eps × loss at the shifted points / step².

    Examples
    --------
    >>> hessian(LinearNetwork([[[2.0]], [[3.0]]]), Task([[0.0]]))
    array([[ 9., 12.],
           [12.,  4.]])
    """
    points = fitting_sample(net, data)
    return _second_differences(lambda vectors: _misfit(vectors, net, points), parameters(net), step)


def root_jacobian(net: LinearNetwork, data: Task | Sample) -> Array:
    """Return J with F = JᵀJ: the output Jacobians of all points, each times √weight C⁻¹, Σ = C Cᵀ (F1).

    Parameters
    ----------
    net : LinearNetwork
    data : Task or Sample

    Returns
    -------
    array (N n_L, P)

    Examples
    --------
    >>> root_jacobian(LinearNetwork([[[2.0]], [[3.0]]]), Task([[0.0]])).shape
    (2, 2)
    """
    points = fitting_sample(net, data)
    jacobian = output_jacobian(net, points.x)
    white = _whiten_rows(jacobian.transpose(0, 2, 1), points)
    return white.transpose(0, 2, 1).reshape(-1, jacobian.shape[-1])


def root_residual(net: LinearNetwork, data: Task | Sample) -> Array:
    """Return r = √weight C⁻¹ (y − f(x)) of all points, in the order of `root_jacobian`: ∇ℓ = −Jᵀ r.

    Parameters
    ----------
    net : LinearNetwork
    data : Task or Sample

    Returns
    -------
    array (N n_L,)

    Examples
    --------
    >>> root_residual(LinearNetwork([[[1.0]]]), Task([[3.0]])).round(12) ** 2
    array([2., 2.])
    """
    points = fitting_sample(net, data)
    residual = points.y - outputs(net, points.x)
    return _whiten_rows(residual[:, None, :], points).ravel()


def fitting_sample(net: LinearNetwork, data: Task | Sample) -> Sample:
    """Return the points of `data` if their widths are those of the network, a single one."""
    points, widths = as_sample(data), as_network(net).widths
    if net.batch_shape:
        fail(
            "net",
            "a single network",
            f"leading axes {net.batch_shape}",
            "Loop over them: the oracles are dense.",
        )
    found = points.x.shape[1], points.y.shape[1]
    if found != (widths[0], widths[-1]):
        expected = f"{widths[0]} inputs and {widths[-1]} outputs, as the network"
        fail("data", expected, f"{found[0]} and {found[1]}")
    return points


def _misfit(vectors: Array, net: LinearNetwork, points: Sample) -> Array:
    """Return ½ E |C⁻¹(y − f(x))|² for a stack of vectors (K, P), without the spread of the targets."""
    residual = points.y - outputs_at(vectors, net, points.x)
    factor = np.linalg.cholesky(points.noise_cov)
    white = scipy.linalg.solve_triangular(factor, residual.reshape(-1, residual.shape[-1]).T, lower=True)
    squares = (white**2).sum(axis=0).reshape(residual.shape[:-1])
    misfit: Array = 0.5 * squares @ points.weights
    return misfit


def _second_differences(function: Callable[[Array], Array], start: Array, step: float) -> Array:
    width, size = as_scalar(step, "step", low=0.0, open_low=True), len(start)
    check_room((12, size, size), "the stack of shifted parameters", "Use a smaller network.")
    result, shifts = np.empty((size, size)), width * np.eye(size)
    for a in range(size):
        up, down = start + shifts[a], start - shifts[a]
        stack = np.concatenate([up + shifts[a:], up - shifts[a:], down + shifts[a:], down - shifts[a:]])
        plus_plus, plus_minus, minus_plus, minus_minus = function(stack).reshape(4, -1)
        result[a, a:] = result[a:, a] = (plus_plus - plus_minus - minus_plus + minus_minus) / (4 * width**2)
    return result


def _uncentred_covariance(net: LinearNetwork, points: Sample) -> Array:
    """Return E[s sᵀ] with targets y ± √n_L K e_j, K Kᵀ the covariance of the targets at each point."""
    size, outputs_count = len(parameters(net)), points.y.shape[1]
    check_room((2, size, size), "the Fisher matrix")
    values, vectors = np.linalg.eigh(points.target_cov)
    spread = np.sqrt(outputs_count * np.maximum(values, 0.0)) * vectors
    matrix = np.zeros((size, size))
    for shift in [*spread.T, *(-spread.T)]:
        score = _scores(net, points.x, points.y + shift, points.noise_cov)
        matrix += (points.weights * score.T) @ score / (2 * outputs_count)
    return matrix


def _whiten_rows(rows: Array, points: Sample) -> Array:
    """Return √weight C⁻¹ r for rows r on the output side, (N, K, n_L)."""
    factor = np.linalg.cholesky(points.noise_cov)
    white = scipy.linalg.solve_triangular(factor, rows.reshape(-1, rows.shape[-1]).T, lower=True).T
    scaled: Array = np.sqrt(points.weights)[:, None, None] * white.reshape(rows.shape)
    return scaled
