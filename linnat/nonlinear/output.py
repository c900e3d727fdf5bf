"""What comes out of a minibatch in a training loop? Mean loss and errors at the outputs, in place and without checks.

`linnat.families` says the same with every check and at every accuracy; here numbers of a running network are taken as
they are, written over, and looked at once, afterwards: a loss that is not finite raises.
"""

from __future__ import annotations

import numpy as np

from linnat._checks import Array, InputError
from linnat.families import Family, Gaussian
from linnat.nonlinear.activations import activate
from linnat.nonlinear.network import Network
from linnat.nonlinear.passes import Workspace, forward, pullback


class DivergenceError(InputError, ArithmeticError):
    """A loss or gradient that is not finite; nothing of the state before the step has been changed."""


def output_errors(family: Family, outputs: Array, targets: Array, errors: Array) -> None:
    """Write E[T(y) | z] − T(y), the derivatives of each row's loss by its natural parameters, into `errors`.

    Parameters
    ----------
    family : Family
    outputs, targets, errors : array (N, n_L)
        `errors` is overwritten.

    Examples
    --------
    >>> from linnat.families import as_family
    >>> errors = np.empty((1, 2))
    >>> output_errors(as_family("categorical"), np.zeros((1, 2)), np.array([[1.0, 0.0]]), errors)
    >>> errors
    array([[-0.5,  0.5]])
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if isinstance(family, Gaussian):
            np.subtract(outputs, targets, out=errors)
            if family.cov is not None:
                np.negative(family.score(outputs, targets), out=errors)
            return
        if family.name == "categorical":
            np.subtract(outputs, outputs.max(axis=1, keepdims=True), out=errors)
            np.exp(errors, out=errors)
            errors /= errors.sum(axis=1, keepdims=True)
        else:
            errors[...] = outputs
            if family.name == "bernoulli":
                activate("logistic", errors)
            else:
                np.exp(errors, out=errors)
        errors -= targets


def mean_loss(family: Family, outputs: Array, targets: Array, scratch: Array) -> float:
    """Return the mean over rows of the families' loss; `scratch` (N, n_L) is overwritten.

    Sums are in float64, whatever the dtype.

    Examples
    --------
    >>> from linnat.families import as_family
    >>> z, y = np.array([[0.0, 3.0]]), np.array([[1.0, 0.0]])
    >>> round(mean_loss(as_family("bernoulli"), z, y, np.empty_like(z)), 6)
    3.741735
    """
    rows = len(outputs)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if isinstance(family, Gaussian):
            np.subtract(outputs, targets, out=scratch)
            other = scratch if family.cov is None else -family.score(outputs, targets)
            return float(np.einsum("nk,nk->", scratch, other, dtype=np.float64)) / (2 * rows)
        inner = float(np.einsum("nk,nk->", outputs, targets, dtype=np.float64))
        if family.name == "categorical":
            top = outputs.max(axis=1, keepdims=True)
            np.subtract(outputs, top, out=scratch)
            np.exp(scratch, out=scratch)
            total = float((np.log(scratch.sum(axis=1, dtype=np.float64)) + top[:, 0]).sum())
        else:
            scratch[...] = outputs
            if family.name == "bernoulli":
                activate("softplus", scratch)
            else:
                np.exp(scratch, out=scratch)
            total = float(scratch.sum(dtype=np.float64))
        return (total - inner) / rows


def step_gradient(
    net: Network, theta: Array, x: Array, y: Array, work: Workspace, out: Array, *, with_loss: bool = True
) -> float:
    """Write the gradient of the mean loss into `out` and return the loss (NaN unless asked for); nothing is checked.

    Parameters
    ----------
    net : Network
    theta : array (P,)
    x : array (N, n_0)
    y : array (N, n_L)
    work : Workspace
        Of N rows; all of one dtype.
    out : array (P,)
        Overwritten.
    with_loss : bool
        The loss costs one more pass over the outputs.

    Examples
    --------
    >>> net, out = Network((1, 1), family="gaussian"), np.empty(2)
    >>> x, y = np.array([[1.0], [2.0]]), np.array([[2.0], [3.0]])
    >>> step_gradient(net, np.array([2.0, 0.0]), x, y, Workspace(net, 2), out), out
    (0.25, array([1. , 0.5]))
    """
    # A loss that explodes is told once, by `check_finite`, and not by warnings on the way.
    with np.errstate(over="ignore", invalid="ignore"):
        outputs = forward(net, theta, x, work)
        last = work.errors[-1]
        value = mean_loss(net.family, outputs, y, last) if with_loss else np.nan
        output_errors(net.family, outputs, y, last)
        last *= 1.0 / len(x)
        work.back(net, theta)
        pullback(net, work, out)
    return value


def check_finite(value: float, gradient: Array) -> None:
    """Raise DivergenceError unless loss and gradient are finite."""
    # The sum of squares is NaN or inf where any entry is: one pass, no mask.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(value) and np.isfinite(np.vdot(gradient, gradient))
    if not finite:
        found = "inf or NaN in the gradient" if np.isfinite(value) else f"loss {value:.6g}"
        raise DivergenceError(
            f"loss: expected a finite loss and gradient, found {found}. "
            "The step before was too long: lower the rate or raise the damping; parameters are as they were."
        )
