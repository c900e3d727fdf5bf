"""Where do the ways meet? One claim per statement: closed form, oracle by another route, counter-example; `verify`.

A claim has an identifier, a statement in words and in LaTeX, its source and conditions, an oracle that shares
nothing with the closed form, a bound of the form constant × eps × size × condition^p, and an input on which the same
check must fail.
"""

from __future__ import annotations

from linnat.claims._core import Case, Claim, Measure, Report, Row
from linnat.claims._registry import registry
from linnat.claims._run import verify
from linnat.claims.ladder import Problem, ladder
from linnat.claims.real import real_problems

__all__ = [
    "Case",
    "Claim",
    "Measure",
    "Problem",
    "Report",
    "Row",
    "ladder",
    "real_problems",
    "registry",
    "verify",
]
