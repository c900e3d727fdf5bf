"""Which starts cannot break the flow? Two unbalanced layers, in the minimum-norm gauge. Statement X3.

C = W_2ᵀW_2 − W_1W_1ᵀ is conserved (C4), and W_2ᵀW_2 ⪰ C, W_1W_1ᵀ ⪰ −C: what C has of positive eigenvalues keeps W_2,
what it has of negative ones keeps W_1 from losing rank. With biases W_1 stands for [W_1 b_1] (X10).
"""

from __future__ import annotations

import numpy as np

from linnat._checks import Array, ConditionError, as_scalar, representable
from linnat.exact.chains import make_problem
from linnat.exact.flow import balance
from linnat.exact.network import LinearNetwork, as_network
from linnat.exact.task import Task
from linnat.linalg.kernels import frobenius


@representable("net")
def imbalance_bound(net: LinearNetwork, rtol: float | None = None) -> Array:
    """Return c = [λ_{n_2}(C)]₊ + [λ_{n_0}(−C)]₊ ≤ λ_min(JJᵀ), for all times of the flow (statement X3).

    Parameters
    ----------
    net : LinearNetwork
        Two layers.
    rtol : float, optional
        Eigenvalues of C below rtol (‖W_1‖² + ‖W_2‖²) count as zero; 8 n_1 eps by default.

    Returns
    -------
    array (…)
        λ_k is the k-th largest eigenvalue, 0 where there are fewer than k; n_0 + 1 in place of n_0 with biases. J is
        the derivative of the total weight itself (S = I, Π = I). 0 promises nothing. If c > 0 the natural gradient
        flow in the minimum-norm gauge exists for all times, C1 holds for it, also through singular W, and the
        parameters move by `distance_bound` at most.

    Raises
    ------
    ConditionError
        For other depths: X3 is about two layers.

    Notes
    -----
    JJᵀ = I ⊗ W_2W_2ᵀ + W_1ᵀW_1 ⊗ I has the eigenvalues σ_a(W_2)² + σ_b(W_1)², and σ_{n_2}(W_2)² ≥ λ_{n_2}(C) by Weyl's
    inequality. Positive for generic weights with n_1 ≥ n_0 + n_2: then C has n_2 positive and n_0 negative eigenvalues.
    About 4/3 n_1³ flops. Source: new.

    Examples
    --------
    >>> float(imbalance_bound(LinearNetwork([[[1.0], [0.0]], [[0.0, 2.0]]])))
    5.0
    """
    network = as_network(net)
    if network.depth != 2:
        raise ConditionError(
            f"net: expected two layers, found {network.depth}. X3 is about two layers; see C3."
        )
    first, second = network.layers[0], network.weights[1]
    size = (first**2).sum(axis=(-1, -2)) + (second**2).sum(axis=(-1, -2))
    default = 8 * network.widths[1] * float(np.finfo(network.dtype).eps)
    cut = (default if rtol is None else as_scalar(rtol, "rtol", low=0.0)) * size
    values = np.linalg.eigvalsh(balance(network)[0])
    return np.asarray(
        _counted(values[..., ::-1], network.widths[2], cut) + _counted(-values, first.shape[-1], cut)
    ).astype(network.dtype, copy=False)


@representable("net, task", inf=True)
def distance_bound(net: LinearNetwork, task: Task, rtol: float | None = None) -> Array:
    """Return ‖E(0)‖/√c ≥ ‖θ(∞) − θ(0)‖, how far the parameters move in the minimum-norm gauge (statement X3).

    Parameters
    ----------
    net : LinearNetwork
        Two layers.
    task : Task
    rtol : float, optional
        See `imbalance_bound`.

    Returns
    -------
    array (…)
        Infinite where c = 0. E = W* − W on the range of S, in the Frobenius norm; with biases [W* − W, c* − c].

    Raises
    ------
    ConditionError
        For other depths than two.

    Notes
    -----
    ‖v‖² = eᵀ(JJᵀ)⁻¹e ≤ ‖E(0)‖² e^{−2t}/c, integrated over time. Source: new.

    Examples
    --------
    >>> float(distance_bound(LinearNetwork([[[1.0], [0.0]], [[0.0, 2.0]]]), Task([[5.0]])).round(12))
    2.2360679775
    """
    least = imbalance_bound(net, rtol)
    problem, batch = make_problem(net, task)
    left, values, _ = np.linalg.svd(problem.factor, full_matrices=False)
    # In a stack the columns of F beyond the rank of S are exactly zero: no singular value that counts is near rounding.
    inside = left * (values > np.finfo(net.dtype).eps * values[..., :1])[..., None, :]
    error = (problem.error @ inside).reshape(*batch, net.widths[-1], -1)
    start = frobenius(error)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(least > 0, start / np.sqrt(least), np.inf)).astype(net.dtype, copy=False)


def _counted(descending: Array, count: int, cut: Array) -> Array:
    """Return [λ_count]₊, 0 where there are fewer eigenvalues or it is not above rounding."""
    if count > descending.shape[-1]:
        return np.zeros(descending.shape[:-1], descending.dtype)
    value = descending[..., count - 1]
    return np.where(value > cut, value, 0)
