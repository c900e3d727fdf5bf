"""What does one step of size η do? The exact discrete natural gradient: Newton's iteration for the L-th root.

Statements D1, D2 and X5, and X10 for biases. Steps move along −u, u the natural gradient in the layerwise
gauge. On square invertible chains with S > 0 the total weight obeys W⁺ = W [I + (η/L)(G − I)]^L, G = W⁻¹
W*, so that every eigenvalue of G obeys `scalar_map`. Basins of that map decide which L-th root the layers
end in.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from linnat._checks import Array, ConditionError, as_count, as_float_array, as_scalar, fail, representable
from linnat.exact.natural import natural_gradient
from linnat.exact.network import LinearNetwork
from linnat.exact.online import online_loss as online_loss
from linnat.exact.ratio import analyse, as_pair, ratio_matrix, square_chain
from linnat.exact.roots import move_layers
from linnat.exact.task import Task


class Basin(NamedTuple):
    """Where iterates end.

    Attributes
    ----------
    root : integer array (…)
        m of the root e^{2πim/L}, 0 ≤ m < L; −1 where nothing was reached.
    steps : integer array (…)
        Steps until then; the number of steps made where nothing was reached.
    """

    root: Array
    steps: Array


@representable("net, task, eta")
def natural_step(net: LinearNetwork, task: Task, eta: Any) -> LinearNetwork:
    """Return the network after one natural gradient step, W_i − η u_i (D1).

    Parameters
    ----------
    net : LinearNetwork
        Any widths and ranks.
    task : Task
    eta : float
        η > 0.

    Returns
    -------
    LinearNetwork

    Notes
    -----
    Layerwise gauge (N2). On square invertible chains the total weight then is `natural_total_step`. One
    natural gradient.

    Examples
    --------
    >>> natural_step(LinearNetwork([[[1.0]], [[1.0]]]), Task([[3.0]]), 1.0).total
    array([[4.]])
    """
    network, problem = as_pair(net, task)
    step = as_scalar(eta, "eta", low=0.0, open_low=True)
    direction = natural_gradient(network, problem)
    dtype = network.dtype.type
    moved = [w - dtype(step) * u for w, u in zip(network.layers, direction, strict=True)]
    return network.replace_layers(moved)


@representable("net, task, eta")
def natural_total_step(net: LinearNetwork, task: Task, eta: Any) -> Array:
    """Return the total weight after one natural gradient step, W [I + (η/L)(W⁻¹W* − I)]^L (D1).

    Parameters
    ----------
    net : LinearNetwork
        Square invertible layers.
    task : Task
        With S > 0.
    eta : float
        η > 0.

    Returns
    -------
    array (…, n, n)
        One column wider with biases.

    Raises
    ------
    ConditionError
        For layers that are not square and invertible, or singular S.

    Notes
    -----
    L solves and L products: (8/3 + 2) L n³ flops. Source: new.

    Examples
    --------
    >>> natural_total_step(LinearNetwork([[[1.0]], [[1.0]]]), Task([[3.0]]), 1.0)
    array([[4.]])
    """
    network, problem = as_pair(net, task)
    step = as_scalar(eta, "eta", low=0.0, open_low=True)
    chain = square_chain(network, problem, "D1")
    ratio = ratio_matrix(chain)
    identity = np.eye(ratio.shape[-1])
    factor = identity + (step / network.depth) * (ratio - identity)
    total = network.total.astype(np.float64)
    for _ in range(network.depth):
        # With biases the last row of the factor is that of the identity, and [W c] keeps its shape.
        total = total @ factor
    return total.astype(network.dtype)


@representable("net, task, eta")
def exact_step(net: LinearNetwork, task: Task, eta: Any) -> LinearNetwork:
    """Return the network after a finite step whose total weight is W + η (W* − W) exactly (X5).

    Parameters
    ----------
    net : LinearNetwork
        Square invertible layers.
    task : Task
        With S > 0.
    eta : float
        η > 0; 1 arrives in one step.

    Returns
    -------
    LinearNetwork
        W_i⁺ = A_{i+1} [I + η (W⁻¹W* − I)]^{1/L} A_i⁻¹, principal power.

    Raises
    ------
    ConditionError
        Where I + η (W⁻¹W* − I) has an eigenvalue on (−∞, 0], for layers that are not square and invertible,
        and for singular S.

    Notes
    -----
    One eigendecomposition and 2 L n³ flops. Source: new.

    Examples
    --------
    >>> exact_step(LinearNetwork([[[1.0]], [[1.0]]]), Task([[9.0]]), 1.0).weights
    (array([[3.]]), array([[3.]]))
    """
    network, problem = as_pair(net, task)
    step = as_scalar(eta, "eta", low=0.0, open_low=True)
    if network.depth == 1:
        return natural_step(network, problem, step)
    chain = square_chain(network, problem, "X5")
    ratio = analyse(chain)
    ends = 1 + step * (ratio.values - 1)
    # Within rounding of 0, too: the bracket I + η (G − I) is known to η × slack only.
    blocked = ratio.on_axis & (ends.real <= step * ratio.slack[..., None])
    if blocked.any():
        worst = float(ends.real[blocked].min())
        raise ConditionError(
            f"eta: X5 needs I + η (W⁻¹W* − I) without eigenvalues on (−∞, 0], found {worst:.6g}. "
            "The natural gradient step of D1 (descent.natural_step) exists."
        )
    rest = np.log1p(-min(step, 0.5)) if step >= 1 else np.log1p(-step)
    layers = move_layers(chain, ratio, np.array([step]), np.array([rest]))
    rows = network.widths[0]
    return network.replace_layers([layer[..., 0, :rows, :].astype(network.dtype) for layer in layers])


@representable("net, task")
def spectrum(net: LinearNetwork, task: Task, *, rtol: float | None = None) -> Array:
    """Return the eigenvalues of W⁻¹ W*, on which a step acts by `scalar_map` (D1).

    Parameters
    ----------
    net : LinearNetwork
        Square invertible layers.
    task : Task
        With S > 0.
    rtol : float, optional
        Singular values of W* below rtol times the largest count as 0; n eps by default.

    Returns
    -------
    complex array (…, n)
        With biases (…, n + 1): one eigenvalue more, 1.

    Examples
    --------
    >>> spectrum(LinearNetwork([np.eye(2)]), Task(np.diag([3.0, 2.0]))).real
    array([3., 2.])
    """
    network, problem = as_pair(net, task)
    return analyse(square_chain(network, problem, "D1"), rtol).values


@representable("g, eta", inf=True)
def scalar_map(g: Any, eta: Any, depth: Any) -> Array:
    """Return g⁺ = g (1 + η (g − 1)/L)^{−L}, one step of an eigenvalue of W⁻¹ W* (D1).

    Parameters
    ----------
    g : array (…), real or complex
    eta : float
        η > 0.
    depth : int

    Returns
    -------
    array (…)
        inf where the step makes W singular. The fixed point 1 is the optimum; 0 is a mode with target 0,
        which shrinks by (1 − η/L)^L at each step.

    Examples
    --------
    >>> scalar_map([1.0, 4.0], 1.0, 2)
    array([1.  , 0.64])
    """
    values, count = _as_plane(g, "g"), as_count(depth, "depth")
    step = as_scalar(eta, "eta", low=0.0, open_low=True)
    bracket = 1 + (step / count) * (values - 1)
    singular = bracket == 0
    inverse = 1 / np.where(singular, 1, bracket)
    # g divided first, so that a large g does not meet the power of a large bracket.
    moved = values * inverse * _power(inverse, count - 1)
    return np.asarray(np.where(singular & (values != 0), np.inf, moved).astype(values.dtype))


@representable("g, eta")
def first_step_factor(g: Any, eta: Any, depth: Any) -> Array:
    """Return how far the first step lands from the target, W⁺/W* = g⁻¹ (1 + η (g − 1)/L)^L (D2).

    Parameters
    ----------
    g : array (…), real or complex
        W*/W at the start, not 0.
    eta : float
        η > 0.
    depth : int

    Returns
    -------
    array (…)
        1 is the target; large for large g: starting too small is not safe.

    Examples
    --------
    >>> float(first_step_factor(1000.0, 1.0, 2).round())
    251.0
    """
    values, count = _as_plane(g, "g"), as_count(depth, "depth")
    step = as_scalar(eta, "eta", low=0.0, open_low=True)
    if (values == 0).any():
        fail("g", "numbers ≠ 0", 0.0, "A mode with target 0 shrinks by (1 − η/L)^L at each step.")
    bracket = 1 + (step / count) * (values - 1)
    return np.asarray(bracket / values * _power(bracket, count - 1))


@representable("g")
def monotone_limit(g: Any, depth: Any) -> Array:
    """Return η₁(g) = L (g^{1/L} − 1)/(g − 1), the largest step that does not overshoot at once (D2).

    Parameters
    ----------
    g : array (…)
        W*/W ≥ 0.
    depth : int

    Returns
    -------
    array (…)
        η₁; 1 at g = 1, L at g = 0. Convergence is monotone for η ≤ min(1, η₁) at the largest g.

    Examples
    --------
    >>> [float(monotone_limit(1000.0, depth).round(3)) for depth in (2, 3, 4)]
    [0.061, 0.027, 0.019]
    """
    values, count = as_float_array(g, "g"), as_count(depth, "depth")
    if (values < 0).any():
        fail("g", "ratios ≥ 0", float(values.min()), "A negative g has no monotone step.")
    with np.errstate(divide="ignore"):
        logs = np.log(values)
    excess = np.where(np.abs(values - 1) < 0.5, values - 1, np.expm1(logs))
    logs = np.where(np.abs(excess) < 0.5, np.log1p(np.maximum(excess, -0.5)), logs)
    at_one = excess == 0
    limit = np.where(at_one, 1.0, count * np.expm1(logs / count) / np.where(at_one, 1.0, excess))
    return np.asarray(limit.astype(values.dtype))


def basin(g: Any, eta: Any, depth: Any, steps: Any = 200, *, tol: Any = 1e-8) -> Basin:
    """Return which L-th root the layers end in, for ratios g = W*/W at the start (D2).

    Parameters
    ----------
    g : array (…), real or complex
    eta : float
        η > 0; convergence needs η < 2, at the local rate |1 − η|.
    depth : int
    steps : int
        At most so many.
    tol : float
        Relative distance to the root that counts as reached.

    Returns
    -------
    Basin
        root = m: each layer is multiplied by e^{2πim/L} times the principal g^{1/L} in the end. −1: not
        within `steps`, because the iteration is slow, or never (g real and negative for L even, g = 0, or a
        step that makes W singular).

    Notes
    -----
    The layers' common factor x obeys x⁺ = x + (η/L)(g x^{1−L} − x), x_0 = 1: `root_basin` from the start
    g^{−1/L}.

    Examples
    --------
    >>> basin([4.0, -4.0], 1.0, 2).root
    array([ 0, -1])
    """
    values = _as_plane(g, "g").astype(np.complex128)
    return _iterate(np.ones_like(values), values, eta, depth, steps, tol)


def root_basin(start: Any, eta: Any, depth: Any, steps: Any = 200, *, tol: Any = 1e-8) -> Basin:
    """Return which L-th root of 1 relaxed Newton's iteration z⁺ = z + (η/L)(z^{1−L} − z) reaches (D2).

    Parameters
    ----------
    start : array (…), real or complex
        z_0, a layer in units of the principal root of its target.
    eta, depth, steps, tol
        As in `basin`.

    Returns
    -------
    Basin
        Half-planes for L = 2, Newton's fractal for L ≥ 3.

    Notes
    -----
    O(steps) complex powers for each start still on its way.

    Examples
    --------
    >>> root_basin([1.0 + 2.0j, -3.0 + 1.0j, 1.0j], 1.0, 2).root
    array([ 0,  1, -1])
    """
    z = _as_plane(start, "start").astype(np.complex128)
    return _iterate(z, np.ones_like(z), eta, depth, steps, tol)


def _iterate(start: Array, target: Array, eta: Any, depth: Any, steps: Any, tol: Any) -> Basin:
    """Iterate x⁺ = x + (η/L)(g x^{1−L} − x) where it is still on its way."""
    step, count = as_scalar(eta, "eta", low=0.0, open_low=True), as_count(depth, "depth")
    limit, close = as_count(steps, "steps"), as_scalar(tol, "tol", low=0.0, high=0.1, open_low=True)
    root, taken = np.full(start.size, -1), np.full(start.size, limit)
    place = np.flatnonzero((target != 0) & (start != 0))
    x, g = start.ravel()[place], target.ravel()[place]
    principal = g ** (1.0 / count)
    for made in range(limit + 1):
        index = np.rint(np.angle(x / principal) * count / (2 * np.pi)).astype(int) % count
        near = np.abs(x / principal - np.exp(2j * np.pi * index / count)) <= close
        root[place[near]], taken[place[near]] = index[near], made
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            following = x * (1 - step / count) + (step / count) * (g / _power(x, count - 1))
        onward = ~near & np.isfinite(following) & (following != 0)
        place, x, g, principal = place[onward], following[onward], g[onward], principal[onward]
        if not x.size:
            break
    return Basin(root.reshape(start.shape), taken.reshape(start.shape))


def _power(x: Array, exponent: int) -> Array:
    """Return x^k by products alone: real numbers stay real, on which iterates may never leave the axis."""
    result = np.ones_like(x)
    while exponent:
        if exponent & 1:
            result = result * x
        x, exponent = (x * x if exponent > 1 else x), exponent >> 1
    return result


def _as_plane(value: Any, name: str) -> Array:
    """Return finite real or complex numbers."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        return as_float_array(value, name)  # says what is wrong
    if array.dtype.kind != "c":
        return as_float_array(value, name)
    if array.size == 0 or not np.isfinite(array).all():
        fail(name, "finite complex numbers", "an empty array" if array.size == 0 else "inf or NaN")
    return array
