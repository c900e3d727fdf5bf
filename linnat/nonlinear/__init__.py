"""What one does in practice: multilayer networks, their curvature matrices, and products with them.

Stages: `activations`, `network` (architecture, parameters in one vector); `initial` (where training starts); `passes`
(forward, backward, products with Jacobian, Gauss–Newton, Fisher and Hessian); `curvature` (the five matrices that are
confused with each other, statement O0); `statistics` and `preconditioners` (O1–O3), `schedules` and `optimisers`
(O4, O5); `training` (one loop for all of them), `record`, `checkpoint`. Nothing here knows the closed forms of
`linnat.exact`: that both agree for identity units is a test.
"""

from __future__ import annotations

from linnat.nonlinear import curvature, optimisers, passes, preconditioners, record, schedules, training
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network

__all__ = [
    "Network",
    "initial",
    "passes",
    "curvature",
    "preconditioners",
    "schedules",
    "optimisers",
    "training",
    "record",
]
