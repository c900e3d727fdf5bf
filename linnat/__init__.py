"""Exact natural gradient in deep linear networks: theory and verification.

Public names, in the order in which data flows:

* networks and tasks: `LinearNetwork`, `Task`, the module `families`, `flatten`, `unflatten`, `induced_change`;
* loss, Fisher matrix and Hessian: `loss`, `excess_loss`, `gradient`, `fisher`, `fisher_block`,
  `fisher_rank`, `fisher_operator`, `fisher_diagonal`, `fisher_trace`, `fisher_norm2`, `hessian`,
  `hessian_operator`, `fisher_eigenvalues`, `fisher_logdet`, `balanced_spectrum`;
* natural gradient: `natural_gradient`, `solve_minimum_norm`, `solve_damped`, `factored_damping_error`,
  `factored_damping_series`, `mask_coefficients`, `ranks`, `rank_report`, `is_onto`, `has_full_ranks`, `error_estimate`;
* over time: the modules `bottleneck`, `completion`, `convolution`, `empirical`, `flow`, `geodesics`,
  `invariance`, `modes`, `descent`, `online`, `noise`, `separable`; `imbalance_bound`, `distance_bound`;
* in practice: multilayer networks and their curvature matrices, `nonlinear`;
* oracles by definition: `dense`; statements and their checks: `claims`, `verify`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from linnat import families
from linnat._checks import (
    ConditionError,
    ConvergenceError,
    FlowBreakdownError,
    InputError,
    RangeError,
    RankWarning,
)
from linnat.exact import (
    bottleneck,
    completion,
    convolution,
    descent,
    empirical,
    flow,
    geodesics,
    invariance,
    modes,
    noise,
    online,
    separable,
)
from linnat.exact.chains import Ranks, ranks
from linnat.exact.conditions import ErrorEstimate, error_estimate, has_full_ranks, is_onto
from linnat.exact.damping import solve_damped
from linnat.exact.distributed import SchedulerError
from linnat.exact.factored import DampingError, factored_damping_error
from linnat.exact.factored_series import DampingSeries, factored_damping_series
from linnat.exact.fisher import balanced_spectrum, fisher, fisher_block, fisher_rank, hessian
from linnat.exact.imbalance import distance_bound, imbalance_bound
from linnat.exact.loss import excess_loss, gradient, loss
from linnat.exact.masks import mask_coefficients
from linnat.exact.minimum_norm import Solution, solve_minimum_norm
from linnat.exact.moments import Moments
from linnat.exact.natural import natural_gradient
from linnat.exact.network import LinearNetwork, flatten, induced_change, unflatten
from linnat.exact.null_space import NullSpace, null_space
from linnat.exact.operators import (
    fisher_diagonal,
    fisher_norm2,
    fisher_operator,
    fisher_trace,
    hessian_operator,
)
from linnat.exact.rank_report import RankReport, SideReport, rank_report
from linnat.exact.spectrum import LogDet, Spectrum, fisher_eigenvalues, fisher_logdet
from linnat.exact.task import Task

if TYPE_CHECKING:
    from linnat import claims, dense, nonlinear
    from linnat.claims import verify

__version__ = "0.1.0"

__all__ = [
    "ConditionError",
    "ConvergenceError",
    "DampingError",
    "DampingSeries",
    "ErrorEstimate",
    "FlowBreakdownError",
    "InputError",
    "LinearNetwork",
    "LogDet",
    "Moments",
    "NullSpace",
    "RangeError",
    "RankReport",
    "RankWarning",
    "Ranks",
    "SchedulerError",
    "SideReport",
    "Solution",
    "Spectrum",
    "Task",
    "balanced_spectrum",
    "bottleneck",
    "claims",
    "completion",
    "dense",
    "convolution",
    "descent",
    "distance_bound",
    "empirical",
    "error_estimate",
    "excess_loss",
    "factored_damping_error",
    "families",
    "factored_damping_series",
    "fisher",
    "fisher_block",
    "fisher_diagonal",
    "fisher_eigenvalues",
    "fisher_logdet",
    "fisher_norm2",
    "fisher_operator",
    "fisher_rank",
    "fisher_trace",
    "flatten",
    "flow",
    "geodesics",
    "gradient",
    "has_full_ranks",
    "hessian",
    "hessian_operator",
    "imbalance_bound",
    "induced_change",
    "invariance",
    "is_onto",
    "loss",
    "mask_coefficients",
    "modes",
    "natural_gradient",
    "null_space",
    "nonlinear",
    "noise",
    "online",
    "rank_report",
    "ranks",
    "separable",
    "solve_damped",
    "solve_minimum_norm",
    "unflatten",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import these when they are first asked for: most programs need none of them."""
    import importlib

    if name in ("claims", "dense", "nonlinear"):
        return importlib.import_module(f"linnat.{name}")
    if name == "verify":
        return importlib.import_module("linnat.claims").verify
    raise AttributeError(f"module 'linnat' has no attribute {name!r}")
