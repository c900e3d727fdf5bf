"""When does the layerwise natural flow meet a singular matrix, and how often does that happen?

Statements C3 and X4. W(t) moves on the line (1 − c) W(0) + c W*, c = 1 − e^{-t}. It is singular at t =
log(1 + 1/|μ|) for every real μ < 0 in spec(W(0)⁻¹ W*): there a layerwise flow through a hidden layer that
is just wide enough ends.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import numpy as np

from linnat._checks import Array, ConditionError, RngLike, as_count, as_rng, as_scalar, representable
from linnat.exact.conditions import is_onto
from linnat.exact.network import LinearNetwork
from linnat.exact.ratio import Ratio, analyse, analyse_matrix, as_pair, square_chain
from linnat.exact.task import Task


class Frequency(NamedTuple):
    """A probability and its standard error (0 where it is exact)."""

    probability: float
    error: float


@representable("net, task", inf=True)
def breakdown_time(net: LinearNetwork, task: Task, *, rtol: float | None = None) -> Array:
    """Return when the layerwise natural flow ends (C3).

    Parameters
    ----------
    net : LinearNetwork
    task : Task
    rtol : float, optional
        Singular values of W* below rtol times the largest count as 0; n eps by default.

    Returns
    -------
    array (…)
        min log(1 + 1/|μ|) over the real μ < 0 in spec(W(0)⁻¹ W*); inf where there is none, for one layer,
        and where every hidden layer is wider than min(n_L, rank S) (one more each with biases): such networks
        pass singular W from generic starts.

    Raises
    ------
    ConditionError
        Where (J) fails at the start: the flow then stays on a manifold of lower rank (X2).

    Notes
    -----
    Until then every layer stays finite, and where the most negative μ is semisimple also in the limit, where
    the speed diverges like (t_s − t)^{−(1−1/L)}; in a Jordan block of size m the layers grow like
    (t_s − t)^{1/L−(m−1)}. Complex pairs never end the flow; a pair within rounding of the real axis counts as real.
    With rectangular W, the rank must drop for a μ: a generic start never meets that. One
    eigendecomposition, about 10 n³ flops.

    Examples
    --------
    >>> net = LinearNetwork([[[1.0]], [[-1.0]]])
    >>> bool(np.isclose(breakdown_time(net, Task([[1.0]])), np.log(2)))
    True
    """
    network, problem = as_pair(net, task)
    if rtol is not None:
        as_scalar(rtol, "rtol", low=0.0)
    batch = np.broadcast_shapes(network.batch_shape, problem.batch_shape)
    if network.depth == 1:
        return np.full(batch, np.inf)
    widths = set(network.widths)
    rank = problem.moments(network.has_biases).rank
    if len(widths) == 1 and np.all(np.asarray(rank) == network.widths[0] + network.has_biases):
        return first_break(analyse(square_chain(network, problem, "C3"), rtol))
    require_onto(network, problem)
    return line_break(network, problem)


def first_break(ratio: Ratio) -> Array:
    """Return the earliest breakdown time from the spectrum of G, (…)."""
    return _earliest(ratio.values, ratio.on_axis)


def require_onto(net: LinearNetwork, task: Task) -> None:
    """Raise ConditionError naming X2 unless (J) holds."""
    if not np.all(is_onto(net, task)):
        raise ConditionError(
            "net: C1 needs (J), which fails: at every hidden layer the part above must have rank n_L or the "
            "part below the rank of S. "
            "The total weight then moves on the manifold of its rank: X2."
        )


def line_break(net: LinearNetwork, task: Task, *, narrow: bool = False) -> Array:
    """Return when W(t) S^½ first loses rank if a hidden layer is just wide enough to feel it (always with `narrow`)."""
    moments = task.moments(net.has_biases)
    # In float64 from the layers on: in float32 the product of singular layers is not singular. With biases the
    # affine maps [W c; 0 1] decide (X10): their last row is that of the factor.
    start, target = moments.factor, moments.target
    for matrix in net.maps:
        start = matrix.astype(np.float64) @ start
    if net.has_biases:
        target = _with_row(target, moments.factor[..., -1:, :])
    shape = np.broadcast_shapes(start.shape, target.shape)
    count = math.prod(shape[:-2])
    start, target = (np.broadcast_to(m, shape).reshape(count, *shape[-2:]) for m in (start, target))
    ranks = np.broadcast_to(moments.rank, shape[:-2]).ravel()
    times = np.full(len(start), np.inf)
    offset = int(net.has_biases)
    for rank in np.unique(ranks):
        chosen = ranks == rank
        size = min(net.widths[-1] + offset, int(rank))
        if not size:
            continue  # S = 0: there is no line to leave
        if narrow or any(n + offset == size for n in net.widths[1:-1]):
            times[chosen] = _pencil_break(start[chosen][..., : int(rank)], target[chosen][..., : int(rank)])
    return times.reshape(shape[:-2])


def _with_row(matrix: Array, row: Array) -> Array:
    shape = np.broadcast_shapes(matrix.shape[:-2], row.shape[:-2])
    return np.concatenate([np.broadcast_to(m, (*shape, *m.shape[-2:])) for m in (matrix, row)], axis=-2)


def _pencil_break(start: Array, target: Array) -> Array:
    """Return the first t at which e^{-t} start + (1 − e^{-t}) target, (N, m, k), loses rank."""
    rows, columns = start.shape[-2:]
    if rows < columns:
        start, target = np.swapaxes(start, -1, -2), np.swapaxes(target, -1, -2)
    basis, triangle = np.linalg.qr(start)
    values = np.linalg.svd(triangle, compute_uv=False)
    eps = 8 * max(rows, columns) * float(np.finfo(np.float64).eps)
    if (values[:, -1] <= eps * values[:, 0]).any():
        raise ConditionError(
            "net: C3 needs a start whose total weight has full rank on the range of S. A flow from weights of "
            "lower rank: X2."
        )
    matrix = np.linalg.solve(triangle, np.swapaxes(basis, -1, -2) @ target)
    norm = np.linalg.norm(matrix, axis=(-1, -2))
    slack = eps * norm * values[:, 0] / values[:, -1]
    eigenvalues, on_axis = analyse_matrix(matrix, slack)
    if rows != columns:
        # The whole pencil must drop its rank, not only its projection.
        shifted = target[:, None] - eigenvalues.real[..., None, None] * start[:, None]
        least = np.linalg.svd(shifted, compute_uv=False)[..., -1]
        scale = (norm[:, None] + np.abs(eigenvalues)) * values[:, :1]
        on_axis = on_axis & (least <= math.sqrt(eps) * scale)
    zero = np.abs(eigenvalues) <= slack[:, None]
    return _earliest(np.where(zero, 0.0, eigenvalues), on_axis)


def _earliest(values: Array, on_axis: Array) -> Array:
    negative = on_axis & (values.real < 0)
    size = np.where(negative, -values.real, 1.0)
    return cast(Array, np.where(negative, np.log1p(1 / size), np.inf).min(axis=-1))


def expected_breaks(size: Any) -> float:
    """Return the expected number of breakdown times for independent Gaussian W(0), W* (X4).

    Parameters
    ----------
    size : int
        n, of n × n matrices.

    Returns
    -------
    float
        √π Γ((n+1)/2) / (2 Γ(n/2)): half the expected number of real generalised eigenvalues (Edelman,
        Kostlan, Shub 1994).

    Examples
    --------
    >>> round(expected_breaks(1), 12)
    0.5
    """
    n = as_count(size, "size")
    return 0.5 * math.sqrt(math.pi) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2))


def break_probability(size: Any, *, samples: Any = 10_000, rng: RngLike | None = None) -> Frequency:
    """Return the probability that the layerwise flow breaks for independent Gaussian W(0), W* (X4).

    Parameters
    ----------
    size : int
        n, of n × n matrices.
    samples : int
        Draws, where no closed form is used (n > 3).
    rng : Generator or int
        Needed for n > 3.

    Returns
    -------
    Frequency
        Exact, with error 0, for n ≤ 3; else a frequency with its binomial standard error.

    Notes
    -----
    1/2, 1/4 + π/8, 5/8 + 1/π² for n = 1, 2, 3: det G < 0 (probability ½) breaks for every n; eigenvalues
    that are all real are distributed as tan(φ/2) of the circular orthogonal ensemble, whose chance to lie
    in a half-circle is ½ − 1/π, ¼ − 2/π².

    Examples
    --------
    >>> break_probability(1)
    Frequency(probability=0.5, error=0.0)
    """
    n, count = as_count(size, "size"), as_count(samples, "samples")
    if n <= 3:
        return Frequency((0.5, 0.25 + math.pi / 8, 0.625 + 1 / math.pi**2)[n - 1], 0.0)
    generator = as_rng(rng)
    broken, block = 0, max(1, 500_000 // n**2)
    for start in range(0, count, block):
        pair = generator.standard_normal((2, min(block, count - start), n, n))
        values = np.linalg.eigvals(np.linalg.solve(pair[0], pair[1]))
        broken += int(((values.imag == 0) & (values.real < 0)).any(axis=-1).sum())
    # The add-one estimate keeps the error positive when every draw breaks.
    smooth = (broken + 1) / (count + 2)
    return Frequency(broken / count, math.sqrt(smooth * (1 - smooth) / count))
