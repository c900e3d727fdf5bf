"""Optimisers: one contract, every setting data. See `Optimiser`.

`GradientDescent` (plain, momentum, Nesterov) and `Adam` are the baselines; `Preconditioned` takes any preconditioner;
`TruncatedNewton` solves with products of a curvature matrix (statements O4, O5).
"""

from __future__ import annotations

from linnat.nonlinear.optimisers._contract import Batch, Optimiser, Report
from linnat.nonlinear.optimisers.first_order import Adam, GradientDescent
from linnat.nonlinear.optimisers.preconditioned import Preconditioned
from linnat.nonlinear.optimisers.truncated_newton import TruncatedNewton

__all__ = ["Adam", "Batch", "GradientDescent", "Optimiser", "Preconditioned", "Report", "TruncatedNewton"]
