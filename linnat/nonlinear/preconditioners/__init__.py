"""Approximate natural gradients: one file each, one contract.

A preconditioner is a frozen dataclass of its settings with three functions:

* ``init(net, dtype)`` returns a state;
* ``update(state, statistics)`` returns the next state and what it did (`Info`); the state that was given must not be
  used again, since its arrays may be written over, unless an error is raised: then it is as it was;
* ``apply(state, gradient)`` returns the preconditioned gradient, an ascent direction like the gradient itself.

Statements O1 (`online`), O2 (`kfac`, `kfac_tridiagonal`, `ekfac`). At identity units each is exact where its docstring
says so; tests hold it there.
"""

from __future__ import annotations

from linnat.nonlinear.preconditioners._contract import Info, Preconditioner
from linnat.nonlinear.preconditioners.ekfac import Ekfac
from linnat.nonlinear.preconditioners.kfac import Kfac
from linnat.nonlinear.preconditioners.kfac_tridiagonal import KfacTridiagonal
from linnat.nonlinear.preconditioners.online import OnlineNaturalGradient

__all__ = ["Preconditioner", "Info", "OnlineNaturalGradient", "Kfac", "KfacTridiagonal", "Ekfac"]
