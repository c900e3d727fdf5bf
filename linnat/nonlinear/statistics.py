"""What does a minibatch tell a preconditioner? What enters each layer, and the errors that come back to it.

The gradient of one row's loss in layer i is δ_i h̃_{i−1}ᵀ. Targets drawn from the model make the mean of its outer
products an estimate of the Fisher matrix (O0, Monte-Carlo); the data's targets make it the empirical Fisher matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from linnat._checks import Array, RngLike, as_choice, as_rng, fail
from linnat.nonlinear.network import Network
from linnat.nonlinear.output import sampled_errors
from linnat.nonlinear.passes import Workspace, backward


class Statistics(NamedTuple):
    """Signals and errors of a minibatch; views of a workspace, valid until its next pass.

    Attributes
    ----------
    signals : tuple of arrays (N, n_{i−1})
        h_0 … h_{L−1}.
    errors : tuple of arrays (N, n_i)
        δ_1 … δ_L: derivatives of each row's own loss (not of the mean) with respect to W_i h_{i−1} + b_i.
    theta : array (P,) or None
        The parameters that they belong to; few preconditioners ask for them.
    """

    signals: tuple[Array, ...]
    errors: tuple[Array, ...]
    theta: Array | None = None

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return int(self.signals[0].shape[0])


def turn(rows: int, most: int | None, update: int) -> slice:
    """Return which rows of a minibatch feed the statistics of an update: at most so many, taken in turn.

    Parameters
    ----------
    rows : int
        N, of the minibatch.
    most : int or None
        All rows where there are no more, or for None.
    update : int
        From 0; ⌈N/most⌉ updates cover all rows.

    Examples
    --------
    >>> [turn(5, 2, update) for update in range(4)]
    [slice(0, 2, None), slice(2, 4, None), slice(3, 5, None), slice(0, 2, None)]
    """
    count = rows if most is None else min(rows, most)
    start = min(update % -(-rows // count) * count, rows - count)
    return slice(start, start + count)


def gather(
    net: Network,
    theta: Array,
    work: Workspace,
    targets: Array | str = "sampled",
    rng: RngLike | None = None,
) -> Statistics:
    """Run a backward pass for statistics; needs the forward pass of `theta`.

    Parameters
    ----------
    net : Network
    theta : array (P,)
    work : Workspace
        Its errors are overwritten: gradients must have been taken out before.
    targets : "sampled" or array (N, n_L)
        Drawn from the model (the Fisher matrix), or given (the empirical Fisher matrix).
    rng : Generator or int
        For "sampled".

    Returns
    -------
    Statistics

    Raises
    ------
    InputError
        Where outputs or errors are not finite: nothing that a preconditioner holds has been touched.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> theta, work = np.zeros(2), Workspace(net, 1)
    >>> from linnat.nonlinear.passes import forward
    >>> _ = forward(net, theta, np.array([[3.0]]), work)
    >>> gather(net, theta, work, np.array([[2.0]])).errors[0]
    array([[-2.]])
    """
    if isinstance(targets, str):
        as_choice(targets, "targets", ("sampled",))
        if rng is None:
            fail("rng", "a generator or seed for sampled targets", None)
        outputs = work.outputs
        if not (np.isfinite(outputs.min()) and np.isfinite(outputs.max())):
            fail("outputs", "finite numbers", "inf or NaN", "The step before diverged.")
        sampled_errors(net.family, outputs, work.errors[-1], as_rng(rng))
        work.back(net, theta)
    else:
        backward(net, theta, work, -net.family.score(work.outputs, targets))
    for i, error in enumerate(work.errors, start=1):
        # One reduction instead of a mask: NaN and inf both survive a sum of squares.
        if not np.isfinite(np.vdot(error, error)):
            fail(f"errors of layer {i}", "finite numbers", "inf or NaN", "The step before diverged.")
    return Statistics(tuple(work.signals), tuple(work.errors), theta)
