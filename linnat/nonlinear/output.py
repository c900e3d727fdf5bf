"""What comes out of a minibatch in a training loop? Mean loss and errors at the outputs, in place and without checks.

`linnat.families` says the same with every check and at every accuracy; here numbers of a running network are taken as
they are, written over, and looked at once, afterwards: a loss that is not finite raises.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from linnat._checks import Array, InputError
from linnat.families import Family, Gaussian
from linnat.nonlinear._crew import walk
from linnat.nonlinear._pieces import Sum, Visit, pulled_back
from linnat.nonlinear._relay import relay
from linnat.nonlinear.activations import ACTIVATIONS, BLOCK, beside, row_blocks
from linnat.nonlinear.network import Network
from linnat.nonlinear.passes import Workspace, run_back, run_forward

SAFE = 1e-3  # of the largest number: rounding of sums stays below


class DivergenceError(InputError, ArithmeticError):
    """A loss or gradient that is not finite; nothing of the state before the step has been changed."""


def output_errors(family: Family, outputs: Array, targets: Array, errors: Array, scale: float = 1.0) -> None:
    """Write E[T(y) | z] − T(y), the derivatives of each row's loss by its natural parameters, into `errors`.

    Parameters
    ----------
    family : Family
    outputs, targets, errors : array (N, n_L)
        `errors` is overwritten.
    scale : float
        Multiplies all of them.

    Examples
    --------
    >>> from linnat.families import as_family
    >>> errors = np.empty((1, 2))
    >>> output_errors(as_family("categorical"), np.zeros((1, 2)), np.array([[1.0, 0.0]]), errors)
    >>> errors
    array([[-0.5,  0.5]])
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if isinstance(family, Gaussian) and family.cov is not None:
            np.multiply(family.score(outputs, targets), -scale, out=errors)
            return
        # Block by block: all passes over numbers that are in the cache.
        for rows in row_blocks(errors):
            part = errors[rows]
            _means(family, outputs[rows], part)
            part -= targets[rows]
            if scale != 1.0:
                part *= scale


def _means(family: Family, outputs: Array, out: Array) -> None:
    """Write E[T(y) | z] of a block of rows."""
    if family.name == "gaussian":
        out[...] = outputs
    elif family.name == "categorical":
        np.subtract(outputs, outputs.max(axis=1, keepdims=True), out=out)
        np.exp(out, out=out)
        out /= out.sum(axis=1, keepdims=True)
    elif family.name == "bernoulli":
        np.negative(outputs, out=out)
        np.exp(out, out=out)
        out += 1.0
        np.divide(1.0, out, out=out)
    else:
        np.exp(outputs, out=out)


def sampled_errors(family: Family, outputs: Array, errors: Array, rng: np.random.Generator) -> None:
    """Write E[T(y) | z] − T(y) for targets y drawn from the model into `errors`.

    In place for Bernoulli outputs and for Gaussian ones without covariance; by the family's own functions elsewhere.

    Parameters
    ----------
    family : Family
    outputs, errors : array (N, n_L)
        `errors` is overwritten; C-ordered, like every workspace.
    rng : Generator

    Examples
    --------
    >>> from linnat.families import as_family
    >>> errors = np.empty((1, 2))
    >>> sampled_errors(as_family("bernoulli"), np.array([[50.0, -50.0]]), errors, np.random.default_rng(0))
    >>> np.abs(errors).max() < 1e-20
    np.True_
    """
    if isinstance(family, Gaussian) and family.cov is None:
        rng.standard_normal(dtype=errors.dtype.type, out=errors)
        return  # z − y, and the noise is symmetric
    if family.name != "bernoulli" or outputs.dtype != errors.dtype:
        chosen = family.sample(outputs, rng)
        np.negative(family.score(outputs, chosen), out=errors)
        return
    # The rarer label has probability 1/(1 + e^|z|): a waiting time beyond log(1 + e^|z|), however rare it is. Then
    # the error is 1/(1 + e^{-|z|}), otherwise minus the probability of the rare label, each with the sign of z.
    rng.standard_exponential(dtype=errors.dtype.type, out=errors)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for rows in row_blocks(errors):
            part = errors[rows]
            odds = np.abs(outputs[rows], out=beside(part))
            np.exp(odds, out=odds)
            odds += 1.0
            np.exp(part, out=part)
            np.greater(part, odds, out=part)  # 1 for the rare label
            np.reciprocal(odds, out=odds)
            np.subtract(part, odds, out=part)
            # So far the error for z ≥ 0, where the rare label is 0.
            np.copysign(1.0, outputs[rows], out=odds)
            part *= odds


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
        elif family.name == "bernoulli":
            total = sum(_log_normalisers(outputs[block], scratch[block]) for block in row_blocks(scratch))
        else:
            np.exp(outputs, out=scratch)
            total = float(scratch.sum(dtype=np.float64))
        return (total - inner) / rows


def _log_normalisers(outputs: Array, scratch: Array) -> float:
    """Return Σ log(1 + e^z) of a block, each term to absolute rounding: a logarithm is faster than `log1p`."""
    np.abs(outputs, out=scratch)
    np.negative(scratch, out=scratch)
    np.exp(scratch, out=scratch)
    scratch += 1.0
    np.log(scratch, out=scratch)
    total = float(scratch.sum(dtype=np.float64))
    np.maximum(outputs, 0.0, out=scratch)
    return total + float(scratch.sum(dtype=np.float64))


def _step(
    net: Network,
    theta: Array,
    x: Array,
    y: Array,
    work: Workspace,
    with_loss: bool,
    fine: Callable[[float, float], bool],
    *,
    scale: float = 1.0,
    out: Array | None = None,
    visit: Visit | Sum | None = None,
    with_square: bool = True,
) -> tuple[float, bool, float, float]:
    """Run forward, and back with the errors of the mean loss times the scale; make the gradient if that is fine.

    Returns
    -------
    loss : float
        NaN without.
    agreed, square, visited
        As `_relay.relay`.
    """
    work.inputs, rows = x, len(x)

    def back(part: slice, told: Callable[[int], None]) -> tuple[float, list[float]]:
        piece, squares = work.part(part), [0.0] * net.depth

        def looked_at(layer: int) -> None:
            squares[layer] = _square(piece.errors[layer])  # while they are in the cache
            told(layer)

        # A loss that explodes is told once, by `check_finite`, and not by warnings on the way.
        with np.errstate(over="ignore", invalid="ignore"):
            signals = [_square(piece.inputs)]
            outputs, last = run_forward(net, theta, x[part], piece), piece.errors[-1]
            value = mean_loss(net.family, outputs, y[part], last) if with_loss else np.nan
            output_errors(net.family, outputs, y[part], last, scale / rows)
            run_back(net, theta, piece, looked_at)
            # A bounded unit's signals need not be looked at: a NaN in them is one in the errors.
            for name, h in zip(net.activations[:-1], piece.hidden[:-1], strict=True):
                signals.append(float(h.size) if ACTIVATIONS[name].bounded else _square(h))
            return value * len(outputs), [*signals, *squares]

    def loss(found: list[tuple[float, list[float]]]) -> float:
        return sum(value for value, _ in found) / rows

    def agreed(found: list[tuple[float, list[float]]]) -> bool:
        # No sum of squares of the gradient's entries is larger (Cauchy-Schwarz, Σ_i |h̃_{i-1}|² |δ_i|²); NaN or inf
        # where signals or errors are.
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.sum([part for _, part in found], axis=0)
            return fine(loss(found), float((squares[: net.depth] + rows) @ squares[net.depth :]))

    found, fit, square, visited = relay(net, work, back, agreed, out, visit, with_square=with_square)
    return loss(found), fit, square, visited


def _square(array: Array) -> float:
    flat = array.reshape(-1)
    return float(np.vdot(flat, flat))


def step_gradient(
    net: Network, theta: Array, x: Array, y: Array, work: Workspace, out: Array, *, with_loss: bool = True
) -> tuple[float, float]:
    """Write the gradient of the mean loss into `out`; return the loss and the gradient's square. Nothing is checked.

    Parameters
    ----------
    net : Network
    theta : array (P,)
    x : array (N, n_0)
    y : array (N, n_L)
    work : Workspace
        Of N rows; all of one dtype.
    with_loss : bool
        The loss costs one more pass over the outputs; without it NaN is returned in its place.
    out : array (P,)
        Overwritten.

    Examples
    --------
    >>> net, out = Network((1, 1), family="gaussian"), np.empty(2)
    >>> x, y = np.array([[1.0], [2.0]]), np.array([[2.0], [3.0]])
    >>> step_gradient(net, np.array([2.0, 0.0]), x, y, Workspace(net, 2), out), out
    ((0.25, 1.25), array([1. , 0.5]))
    """
    value, _, square, _ = _step(net, theta, x, y, work, with_loss, lambda value, bound: True, out=out)
    return value, square


def step_through(
    net: Network,
    theta: Array,
    x: Array,
    y: Array,
    work: Workspace,
    visit: Visit | Sum,
    *,
    scale: float = 1.0,
    with_loss: bool = True,
    with_square: bool = True,
) -> tuple[float, float, float]:
    """Hand the gradient of the mean loss piece by piece to whoever makes a step of it, without ever holding it whole.

    Parameters
    ----------
    net, theta, x, y, work, with_loss
        As for `step_gradient`.
    visit : callable(part, piece) or Sum
        Told where a piece lies in (P,) and what it holds, which it may overwrite; threads call it, in any order. Or
        what the gradient is added to, by BLAS itself where it can and the square is not asked for: the vector of the
        sum may be `theta`.
    scale : float
        Pieces hold the gradient times it: a rate costs nothing in the errors, and one more pass in the gradient.

    Returns
    -------
    loss : float
        NaN without.
    square : float
        Of the gradient, times the scale's; NaN without, which spares one pass over the gradient.
    visited : float
        Sum of what the visits return.

    Raises
    ------
    DivergenceError
        Unless loss and gradient are finite; no visit has been made then.

    Examples
    --------
    >>> net, theta = Network((1, 1), family="gaussian"), np.array([2.0, 0.0])
    >>> x, y = np.array([[1.0], [2.0]]), np.array([[2.0], [3.0]])
    >>> def visit(part, piece):
    ...     theta[part] -= piece
    ...     return float(abs(piece).max())
    >>> step_through(net, theta, x, y, Workspace(net, 2), visit), theta
    ((0.25, 1.25, 1.0), array([ 1. , -0.5]))
    """
    most = SAFE * float(np.finfo(theta.dtype).max)

    def fine(value: float, bound: float) -> bool:
        return (np.isfinite(value) or not with_loss) and bound < most

    value, agreed, square, visited = _step(
        net, theta, x, y, work, with_loss, fine, scale=scale, visit=visit, with_square=with_square
    )
    if agreed:
        return value, square, visited
    # So large, or not finite: the gradient is made once to be looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        check_finite(value if with_loss else 0.0, pulled_back(net, work, None)[0])
    square, visited = pulled_back(net, work, None, visit.add if isinstance(visit, Sum) else visit)
    return value, square if with_square else np.nan, visited


def square_of(vector: Array) -> float:
    """Return the sum of squares of (P,)."""

    def visit(part: slice) -> float:
        return float(np.vdot(vector[part], vector[part]))

    with np.errstate(over="ignore", invalid="ignore"):
        return walk(len(vector), visit, BLOCK)


def check_finite(value: float, square: float) -> None:
    """Raise DivergenceError unless a loss and the sum of a gradient's squares are finite."""
    # The sum of squares is NaN or inf where any entry is: one pass, no mask.
    if not (np.isfinite(value) and np.isfinite(square)):
        found = "inf or NaN in the gradient" if np.isfinite(value) else f"loss {value:.6g}"
        raise DivergenceError(
            f"loss: expected a finite loss and gradient, found {found}. "
            "The step before was too long: lower the rate or raise the damping; parameters are as they were."
        )
