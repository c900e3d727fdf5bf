"""Where is the function at time t when the loss is not a square? Statement C7.

Exponential family with canonical link, Fisher matrix of the training inputs under the model's own targets: natural
gradient flow is Newton's flow of the function, and the gradient with respect to the linear predictor w obeys

    ∇ℓ(w(t)) = e^{−t} ∇ℓ(w(0)),    that is    Xᵀ(μ(t) − y) = e^{−t} Xᵀ(μ(0) − y),

for one layer (an m-geodesic of information geometry, Amari 1998) and for every deep linear network while J is onto, of
whatever depth and widths. So w(t) is the minimum of the convex loss with targets (1 − e^{−t}) y + e^{−t} μ(0), at all
times; where the rows of X are independent, N ≤ d, or the Jacobian of any network has full row rank on the training
inputs, the mean of every sample moves on a straight line. J is onto generically if all hidden widths are at least
min(d, C), for softmax min(d, C − 1); where they are no wider, layers may lose a rank on the way, and their flow ends
there (C3) while w(t) goes on. Setting: Kerekes, Mészáros & Huszár (2021). float64 inside; float32 is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg

from linnat._checks import (
    Array,
    as_float_array,
    as_matrix,
    as_scalar,
    as_times,
    check_broadcast,
    fail,
    representable,
)
from linnat.exact.separable import limit_direction as limit_direction
from linnat.exact.tilted import Logistic, LogLinear, Softmax, follow
from linnat.families import Categorical, Family, as_family, one_hot
from linnat.linalg.rank import default_rtol


@representable("initial, targets")
def mean_parameters(times: Any, initial: Any, targets: Any) -> Array:
    """Return the means of the training samples at the given times: straight lines (C7).

    Parameters
    ----------
    times : scalar or array (T,)
        ≥ 0.
    initial : array (…, N)
        Means μ(0) of the model at the training inputs.
    targets : array (…, N)
        y; leading axes broadcast.

    Returns
    -------
    array (…, T, N)
        y + e^{−t}(μ(0) − y), of positive terms where y and μ(0) are: relatively accurate at all times.

    Raises
    ------
    InputError
        For shapes that do not fit, bad times, anything that is not finite.

    Notes
    -----
    Every network of which the Jacobian has full row rank on the training inputs, any family: for linear predictors
    N ≤ d independent rows. Elsewhere only their projection on the column space of X does, see `predictor`.

    Examples
    --------
    >>> mean_parameters([0.0, np.log(2.0)], [0.5, 0.5], [1.0, 0.0])
    array([[0.5 , 0.5 ],
           [0.75, 0.25]])
    """
    moments = as_times(times)[:, None]
    start = as_float_array(initial, "initial", min_ndim=1)
    goal = as_float_array(targets, "targets", min_ndim=1)
    if start.shape[-1] != goal.shape[-1]:
        fail("targets", f"{start.shape[-1]} samples on the last axis, as initial", f"shape {goal.shape}")
    check_broadcast([start.shape[:-1], goal.shape[:-1]], "targets")
    path = np.exp(-moments) * start[..., None, :] - np.expm1(-moments) * goal[..., None, :]
    return np.asarray(path).astype(start.dtype, copy=False)


@representable("initial")
def class_probabilities(times: Any, initial: Any, labels: Any) -> Array:
    """Return class probabilities at the given times for hard labels: e_y + e^{−t}(p(0) − e_y) (C7).

    Parameters
    ----------
    times : scalar or array (T,)
        ≥ 0.
    initial : array (…, C)
        p(0), a point of the simplex for each sample.
    labels : integer array (…)
        From 0 to C − 1.

    Returns
    -------
    array (…, T, C)
        The wrong classes keep their proportions and shrink like e^{−t}.

    Raises
    ------
    InputError
        For points off the simplex, labels out of range, shapes that do not fit.

    Notes
    -----
    Under the condition of `mean_parameters`; beyond t = 745 the wrong classes underflow to zero: `margins` does not.

    Examples
    --------
    >>> class_probabilities(np.log(2.0), [0.5, 0.3, 0.2], 0)
    array([[0.75, 0.15, 0.1 ]])
    """
    start = Categorical().targets(initial, "initial")
    goal = one_hot(labels, start.shape[-1])
    check_broadcast([start.shape[:-1], goal.shape[:-1]], "labels")
    return mean_parameters(times, start, goal)


@representable("initial")
def margins(times: Any, initial: Any) -> Array:
    """Return margins at the given times for hard labels: log((1 + e^{m(0)}) e^t − 1) (C7).

    Parameters
    ----------
    times : scalar or array (T,)
        ≥ 0.
    initial : array (…, N)
        Margins at time 0: ±z for labels ±1, log(p_y/(1 − p_y)) for one of several classes. Any finite size.

    Returns
    -------
    array (…, T, N)
        t + log(1 + e^{m(0)}) + O(e^{−t}): all margins become equal in proportion.

    Raises
    ------
    InputError
        For bad times, anything that is not finite.

    Notes
    -----
    Under the condition of `mean_parameters`. Computed as t + log(e^{m(0)} + 1 − e^{−t}), no term of which overflows.

    Examples
    --------
    >>> margins([0.0, 1e4], [-3.0, 700.0])
    array([[-3.00000000e+00,  7.00000000e+02],
           [ 1.00000486e+04,  1.07000000e+04]])
    """
    moments = as_times(times)[:, None]
    start = as_float_array(initial, "initial", min_ndim=1)
    begun = start.astype(np.float64)[..., None, :]
    with np.errstate(divide="ignore"):
        grown = np.log(-np.expm1(-moments))
    return np.asarray(moments + np.logaddexp(begun, grown)).astype(start.dtype, copy=False)


@representable("x, initial")
def predictor(
    times: Any, x: Any, y: Any, initial: Any = None, family: Any = "bernoulli", *, rtol: float | None = None
) -> Array:
    """Return the linear predictor at the given times: the minimum of the tilted convex loss (C7).

    Parameters
    ----------
    times : scalar or array (T,)
        ≥ 0, in any order; tried up to 1e6.
    x : array (…, N, d)
        Training inputs. Not standardised, no constant added: a bias is a column of ones.
    y : array (…, N) or (…, N, C)
        Targets of the family: labels 0 and 1 or probabilities, class labels from 0 to C − 1 or points of the simplex
        (…, N, C), counts or rates, real numbers. The leading axes are those of x.
    initial : array (…, d) or (…, d, C), optional
        Predictor at time 0, with the axis C if y has it, and for classes; zero by default. Leading axes broadcast.
        Of a deep linear network it is the transposed total weight.
    family : Family or str
        "bernoulli", "categorical", "poisson", "gaussian" or an instance from `linnat.families`.
    rtol : float, optional
        Singular values of x up to rtol times the largest count as zero; max(N, d) · eps by default.

    Returns
    -------
    array (…, T, d) or (…, T, d, C)
        w(t); predictors of the samples are x @ w(t).

    Raises
    ------
    InputError
        For shapes that do not fit, targets outside of the family, bad times.
    ConvergenceError
        If Newton's method does not end, or ends where rounding leaves predictors undetermined; carries its last state.

    Notes
    -----
    Unique modulo null(x), and for classes modulo the gauge of softmax. Returned is the one of which the components
    there are those of `initial`; those of a deep network depend on its gauge. With Gaussian targets it is
    w(0) + (1 − e^{−t}) X⁺(y − X w(0)) whatever their covariance. Errors of predictors are of the size
    eps (1 + ‖x‖‖w‖): scores are logarithms, so that margins of order t are as good at t = 1e4 as at t = 1.
    O(N d²) flops for each of some 100 Newton steps, C³ times that for classes; a start that is wrong by a margin of
    |m| takes another |m|/log 2 steps. On separable data with a degenerate program, mostly where u* is not unique
    (`separable.limit_program`), w(t) along the face rests on probabilities far below the others; some such problems
    with small whole numbers, about one in thirty, end with a ConvergenceError beyond t of some hundreds.

    Examples
    --------
    >>> predictor([0.0, 1.0, 1e4], [[1.0], [2.0]], [1.0, 1.0]).round(6)
    array([[0.00000000e+00],
           [9.30765000e-01],
           [9.99959454e+03]])
    """
    model, moments = as_family(family), as_times(times)
    rows = as_matrix(x, "x")
    targets, start, squeezed = _arguments(rows, y, initial, model)
    cut = default_rtol(rows) if rtol is None else as_scalar(rtol, "rtol", low=0.0)
    lead = check_broadcast([rows.shape[:-2], start.shape[:-2]], "initial")
    begin = np.broadcast_to(start, (*lead, *start.shape[-2:])).astype(np.float64)
    order = np.argsort(moments, kind="stable")
    path = np.empty((*lead, len(moments), *start.shape[-2:]))
    for index in np.ndindex(*lead):
        data, wanted = (np.broadcast_to(a, (*lead, *a.shape[-2:]))[index] for a in (rows, targets))
        problem = data.astype(np.float64), wanted.astype(np.float64), begin[index]
        path[index][order] = _single(moments[order], *problem, model, cut)
    result = path[..., 0] if squeezed else path
    return result.astype(start.dtype, copy=False)


def _arguments(rows: Array, y: Any, initial: Any, family: Family) -> tuple[Array, Array, bool]:
    """Return targets (…, N, C), start (…, d, C), and whether the last axis is to be dropped."""
    inputs = rows.shape[-1]
    values = as_float_array(y, "y", min_ndim=1)
    start = None if initial is None else as_float_array(initial, "initial", min_ndim=1)
    labelled = values.shape == rows.shape[:-1]
    if not labelled and values.shape[:-1] != rows.shape[:-1]:
        fail("y", f"shape {rows.shape[:-1]} or that with an axis of outputs, as x {rows.shape}", values.shape)
    classes = family.name == "categorical"
    if labelled and classes:
        if start is None or start.ndim < 2:
            fail("initial", "shape (…, d, C) beside class labels", None if start is None else start.shape,
                 "Or give y as points of the simplex: linnat.families.one_hot.")  # fmt: skip
        values = one_hot(values, start.shape[-1])
    elif labelled:
        values = values[..., None]
    family.targets(values)
    outputs, squeezed = values.shape[-1], labelled and not classes
    if start is None:
        start = np.zeros((inputs, outputs), rows.dtype)
    elif squeezed:
        start = start[..., None]
    if start.ndim < 2 or start.shape[-2:] != (inputs, outputs):
        wanted = f"(…, {inputs})" if squeezed else f"(…, {inputs}, {outputs})"
        fail("initial", f"shape {wanted}", f"shape {np.shape(initial)}")
    family.mean(np.zeros(outputs) if family.name != "poisson" else rows.astype(float) @ start)
    return values, start, squeezed


def _single(times: Array, x: Array, y: Array, start: Array, family: Family, rtol: float) -> Array:
    """Return w(t), (T, d, C), for one problem: w(0) + B (a(t) − a(0)), a the unknowns of the features x B."""
    left, values, right = np.linalg.svd(x, full_matrices=False)
    keep = values > rtol * values[0]
    begun = x @ start
    if not keep.any():
        return np.broadcast_to(start, (len(times), *start.shape)).copy()
    if family.name == "gaussian":
        best = (right[keep].T / values[keep]) @ (left[:, keep].T @ (y - begun))
        return np.asarray(start - np.expm1(-times)[:, None, None] * best)
    if keep.sum() == x.shape[1]:
        # Columns are only scaled: rows that depend on each other in x, as whole numbers do, still do so exactly.
        size = np.linalg.norm(x, axis=0)
        features, back, origin = x / size, np.diag(1 / size), size[:, None] * start
    else:
        back = right[keep].T / values[keep]
        features, origin = x @ back, values[keep][:, None] * (right[keep] @ start)
    if family.name == "categorical":
        basis = scipy.linalg.helmert(y.shape[1]).T
        first = origin @ basis
        path = follow(Softmax(features, y, begun, basis), first.ravel(), times)
        return np.asarray(start + back @ ((path.reshape(-1, *first.shape) - first) @ basis.T))
    kind = Logistic if family.name == "bernoulli" else LogLinear
    paths = [follow(kind(features, y[:, c], begun[:, c]), origin[:, c], times) for c in range(y.shape[1])]
    return np.asarray(start + back @ (np.stack(paths, axis=-1) - origin))
