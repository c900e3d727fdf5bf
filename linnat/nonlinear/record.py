"""What is written down about a training run? One row for each evaluation: losses, squared errors, clock, updates.

Two numbers are told apart everywhere: the *loss*, mean over rows of the family's −log p(y|z), which is what is
minimised; and the *squared error*, mean over rows of ‖E[y|z] − y‖², summed over outputs, which is what the literature
on autoencoders reports. Both at the parameters themselves and at their running average.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from linnat._checks import Array, InputError, as_path, fail
from linnat._files import write_text
from linnat.nonlinear.network import Network
from linnat.nonlinear.output import mean_loss
from linnat.nonlinear.passes import Workspace, forward

BLOCK_ROWS = 1000  # rows of one forward pass: large enough for the full speed of its products


class Row(NamedTuple):
    """One evaluation.

    Attributes
    ----------
    update : int
        Updates done.
    examples : int
        Rows that gradients have seen, with repetition.
    seconds : float
        Clock of training alone: drawing of rows, updates, averaging; neither evaluations nor checkpoints.
    evaluated_rows : int
        Rows of the training set behind the training columns.
    train_loss, train_squared, test_loss, test_squared : float
        Loss and squared error, means over rows; NaN without a test set.
    averaged_train_loss, averaged_train_squared, averaged_test_loss, averaged_test_squared : float
        The same at the running average of the parameters; NaN where there is none.
    batch_loss : float
        Loss on the rows of the last update, before it; NaN before the first.
    rate, damping : float
        In use at the last update; NaN where the optimiser has none.
    """

    update: int
    examples: int
    seconds: float
    evaluated_rows: int
    train_loss: float
    train_squared: float
    test_loss: float
    test_squared: float
    averaged_train_loss: float
    averaged_train_squared: float
    averaged_test_loss: float
    averaged_test_squared: float
    batch_loss: float
    rate: float
    damping: float


COUNTS = ("update", "examples", "evaluated_rows")


def as_table(rows: Sequence[Row]) -> Array:
    """Return rows as numbers (rows, columns) in float64; counts stay exact below 2⁵³."""
    return np.array(rows, np.float64).reshape(len(rows), len(Row._fields))


def from_table(table: Array) -> tuple[Row, ...]:
    """Return the rows of a table.

    Examples
    --------
    >>> row = Row(*range(15))
    >>> from_table(as_table([row])) == (row,)
    True
    """
    kinds = [int if name in COUNTS else float for name in Row._fields]
    return tuple(Row._make(kind(v) for kind, v in zip(kinds, numbers, strict=True)) for numbers in table)


def write_csv(path: object, rows: Sequence[Row]) -> None:
    """Write rows as CSV, atomically; numbers are printed so that they are read back bit for bit.

    Raises
    ------
    InputError
        For a file that cannot be written; what was there before is left.
    """
    target = as_path(path)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows([repr(v) for v in row] for row in rows)
    write_text(target, text.getvalue())


def read_csv(path: object) -> tuple[Row, ...]:
    """Read rows that `write_csv` has written.

    Raises
    ------
    InputError
        For a file that is missing, has other columns, or numbers that are none.
    """
    source: Path = as_path(path)
    try:
        lines = list(csv.reader(source.read_text(encoding="utf-8").splitlines()))
        if not lines or tuple(lines[0]) != Row._fields:
            fail("path", f"a CSV file with columns {', '.join(Row._fields)}", source)
        numbers = [[float(cell) for cell in line] for line in lines[1:]]
        return from_table(np.array(numbers).reshape(len(numbers), len(Row._fields)))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"path: expected a CSV file of a training record, found {source} ({error})."
        ) from None


def evaluate(net: Network, theta: Array, x: Array, y: Array) -> tuple[float, float]:
    """Return loss and squared error, means over rows.

    Parameters
    ----------
    net : Network
    theta : array (P,)
    x, y : array (N, n_0), (N, n_L)
        In the dtype of the parameters.

    Returns
    -------
    loss, squared : float
        inf or NaN where the network's outputs are not finite.

    Examples
    --------
    >>> net = Network((1, 1), family="gaussian")
    >>> evaluate(net, np.array([2.0, 0.0]), np.array([[1.0], [2.0]]), np.array([[2.0], [3.0]]))
    (0.25, 0.5)
    """
    size = min(BLOCK_ROWS, len(x))
    work = Workspace(net, size, theta.dtype)
    loss = squared = 0.0
    for start in range(0, len(x), size):
        part, targets = x[start : start + size], y[start : start + size]
        if len(part) < size:
            work = Workspace(net, len(part), theta.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = forward(net, theta, part, work)
            loss += len(part) * mean_loss(net.family, outputs, targets, work.errors[-1])
        if not np.isfinite(loss):
            return loss, float("nan")
        error = net.family.mean(outputs) - targets
        squared += float(np.einsum("nk,nk->", error, error, dtype=np.float64))
    return loss / len(x), squared / len(x)
