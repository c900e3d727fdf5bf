"""What is one run? A table of plain values that says everything which its numbers depend on, and the data behind it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from linnat._checks import InputError, as_dtype, fail
from linnat.compare.methods import Setting
from linnat.compare.models import Model, as_model
from linnat.compare.tuning import SEED
from linnat.data import load_split, validation_split
from linnat.data.sets import one_hot
from linnat.nonlinear.training import Budget, Split


@dataclass(frozen=True)
class Task:
    """One run.

    Attributes
    ----------
    data, digest : str
        Name or path of the data, and the hash of its content.
    model, method : str
    settings : dict
        Complete.
    seed : int
    updates, seconds : int or float, or None
        The budget.
    validation : bool
        Whether the run is a trial, judged on a part of the training rows.
    dtype : str
    evaluations, evaluation_rows : int
    averaging : float or None
    threads : int
        Of the linear algebra: last bits depend on it.
    """

    data: str
    digest: str
    model: str
    method: str
    settings: dict[str, Setting]
    seed: int
    updates: int | None
    seconds: float | None
    validation: bool = False
    dtype: str = "float32"
    evaluations: int = 30
    evaluation_rows: int = 10_000
    averaging: float | None = 0.99
    threads: int = 1

    @property
    def budget(self) -> Budget:
        """The budget, for the training loop."""
        return Budget(self.updates, self.seconds)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Any) -> Task:
        """Return the task of plain values.

        Raises
        ------
        InputError
            For values that `to_json` has not written.
        """
        names = {field.name for field in fields(Task)}
        if not isinstance(values, dict) or set(values) != names:
            fail("task", "the values of a run: " + ", ".join(sorted(names)), str(values)[:80])
        return Task(**values)


class Problem(NamedTuple):
    """Data and model of a comparison.

    Attributes
    ----------
    model : Model
    split : Split
    name, digest : str
        Of the data.
    """

    model: Model
    split: Split
    name: str
    digest: str


def load_problem(data: str, model: str, dtype: str = "float32", *, validation: bool = False) -> Problem:
    """Return rows, targets and model.

    Parameters
    ----------
    data : str
        Name or path, for `linnat.data.load_split`.
    model : str
        For `linnat.compare.models.as_model`.
    dtype : "float32" or "float64"
    validation : bool
        Whether a sixth of the training rows, held back, takes the place of the test set, which is left out.

    Raises
    ------
    InputError
        For data that is not there, a model that does not fit it, data without a test set.

    Examples
    --------
    >>> load_problem("digits", "digits").model.network.widths
    (64, 50, 25, 8, 25, 50, 64)
    """
    kind = as_dtype(dtype)
    found = load_split(data, dtype=kind)
    classes = 0 if found.labels is None else int(found.labels.max()) + 1
    chosen = as_model(model, found.x.shape[1], classes)

    def part(x: Any, labels: Any) -> tuple[Any, Any]:
        rows = np.ascontiguousarray(x)
        return rows, rows if chosen.autoencoder else one_hot(labels, classes).astype(kind, copy=False)

    rows = validation_split(found, rng=SEED) if validation else found
    pairs = (*part(rows.x, rows.labels), *part(rows.x_test, rows.labels_test))
    return Problem(chosen, Split(*pairs), found.name, found.digest)


def check_same_data(task: Task, problem: Problem) -> None:
    """Raise where the data is not what the comparison began with."""
    if task.digest != problem.digest:
        raise InputError(
            f"data: expected {task.data} with hash {task.digest[:12]}…, as when the comparison began, "
            f"found {problem.digest[:12]}…."
        )
