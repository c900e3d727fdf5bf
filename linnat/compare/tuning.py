"""How are settings chosen? One random search, the same for every method: rule, number of trials, budget.

Trial 0 of every method is its untuned default, trial k draws from the method's space with random numbers that depend on
k alone, so that no method is searched more luckily than another and an added method changes nothing. Trials train on
five sixths of the training rows from a start of their own and are judged by the loss on the others; the test set is
never looked at. A trial that diverged is worse than any that did not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linnat._checks import as_count
from linnat.compare.methods import Choice, Method, Range, Setting, Settings, complete

SEED = 1_000_000  # of the trials' starts, order of rows and rows held out: none of the comparison's own


class Trial(NamedTuple):
    """What a trial came to.

    Attributes
    ----------
    number : int
    settings : dict
    loss : float
        On the validation rows; inf where it diverged or failed.
    status : str
    """

    number: int
    settings: dict[str, Setting]
    loss: float
    status: str


def drawn(method: Method, trial: int, given: Settings | None = None) -> dict[str, Setting]:
    """Return the complete settings of a trial.

    Parameters
    ----------
    method : Method
    trial : int
    given : mapping, optional
        Settings that are fixed: not searched.

    Examples
    --------
    >>> from linnat.compare.methods import METHODS
    >>> drawn(METHODS["sgd"], 0) == dict(METHODS["sgd"].defaults), round(drawn(METHODS["sgd"], 1)["rate"], 4)
    (True, 0.0502)
    >>> drawn(METHODS["sgd"], 1, {"rate": 0.5})["rate"]
    0.5
    """
    number, fixed = as_count(trial, "trial", low=0), dict(given or {})
    if number == 0:
        return complete(method, fixed)
    rng = np.random.default_rng((SEED, number))
    found: dict[str, Setting] = {}
    for name, place in method.space.items():
        share = float(rng.random())
        if isinstance(place, Range):
            found[name] = math.exp(math.log(place.low) + share * math.log(place.high / place.low))
        elif isinstance(place, Choice):
            found[name] = place.values[int(share * len(place.values))]
    return complete(method, {**found, **fixed})


def best(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the least loss, the earlier one of equals.

    Examples
    --------
    >>> best([Trial(0, {}, float("inf"), "diverged"), Trial(1, {}, 2.0, "finished")]).number
    1
    """
    return min(trials, key=lambda t: (t.loss if not math.isnan(t.loss) else math.inf, t.number))
