"""Which claims are there? Every module of this package that has `CLAIMS`, in the order of the theory."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

import linnat.claims
from linnat.claims._core import ORDER, Claim


@cache
def registry() -> tuple[Claim, ...]:
    """Return every claim, in the order of the theory.

    Examples
    --------
    >>> [claim.identifier for claim in registry()][:4]
    ['G1', 'F1', 'F2', 'N1']
    """
    found: dict[str, Claim] = {}
    for module in pkgutil.iter_modules(linnat.claims.__path__):
        if module.name.startswith("_"):
            continue
        content = importlib.import_module(f"{linnat.claims.__name__}.{module.name}")
        found |= {claim.identifier: claim for claim in getattr(content, "CLAIMS", ())}
    return tuple(sorted(found.values(), key=lambda claim: ORDER.index(claim.identifier)))
