"""Approximate natural gradients: one file each, one contract.

A preconditioner is a frozen dataclass of its settings with three functions:

* ``init(net, dtype)`` returns a state;
* ``update(state, statistics)`` returns the next state and what it did (`Info`); the state that was given must not be
  used again, since its arrays may be written over, unless an error is raised: then it is as it was;
  statistics are of the dtype of the state (others promote what is computed from them);
* ``apply(state, gradient)`` returns the preconditioned gradient, an ascent direction like the gradient itself.

Some can do more: change their damping between updates (`Adjustable`), work on the rows that a gradient is made of
(`Rowwise`).

Statements O1 (`online`), O2 (`kfac`, `kfac_tridiagonal`, `ekfac`), O3 (`prong`), O4 (`tonga`); `diagonal` and
`unitwise` beside them. At identity units each is exact where its docstring says so; tests hold it there.
"""

from __future__ import annotations

from linnat.nonlinear.preconditioners._contract import Adjustable, Info, Preconditioner, Rowwise
from linnat.nonlinear.preconditioners._factors import SingularFactorError
from linnat.nonlinear.preconditioners.diagonal import Diagonal
from linnat.nonlinear.preconditioners.ekfac import Ekfac
from linnat.nonlinear.preconditioners.kfac import Kfac
from linnat.nonlinear.preconditioners.kfac_tridiagonal import KfacTridiagonal
from linnat.nonlinear.preconditioners.online import OnlineNaturalGradient
from linnat.nonlinear.preconditioners.prong import Prong
from linnat.nonlinear.preconditioners.tonga import Tonga
from linnat.nonlinear.preconditioners.unitwise import UnitWise

__all__ = [
    "Adjustable",
    "Diagonal",
    "Ekfac",
    "Info",
    "Kfac",
    "KfacTridiagonal",
    "OnlineNaturalGradient",
    "Preconditioner",
    "Prong",
    "Rowwise",
    "SingularFactorError",
    "Tonga",
    "UnitWise",
]
