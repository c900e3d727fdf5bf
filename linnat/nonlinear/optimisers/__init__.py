"""Optimisers: one contract, every setting data. See `Optimiser`.

`GradientDescent` (plain, momentum, Nesterov), `Rmsprop` and `Adam` are the baselines; `Preconditioned` takes any
preconditioner (O1–O3); `TruncatedNewton`, which is Hessian-free with Gauss–Newton, `KrylovSubspaceDescent` and
`NaturalConjugateGradient` work with products of a curvature matrix (statements O4, O5); `minimise` is SciPy's L-BFGS or
nonlinear conjugate gradients on all rows, `LbfgsBursts` a few of its iterations on each minibatch.
"""

from __future__ import annotations

from linnat.nonlinear.optimisers._contract import Batch, Optimiser, Report, as_batch
from linnat.nonlinear.optimisers.bursts import LbfgsBursts
from linnat.nonlinear.optimisers.first_order import Adam, GradientDescent, Rmsprop
from linnat.nonlinear.optimisers.full_batch import Minimum, minimise
from linnat.nonlinear.optimisers.preconditioned import Preconditioned
from linnat.nonlinear.optimisers.subspace import KrylovSubspaceDescent, NaturalConjugateGradient
from linnat.nonlinear.optimisers.truncated_newton import TruncatedNewton

__all__ = [
    "Adam",
    "Batch",
    "GradientDescent",
    "KrylovSubspaceDescent",
    "LbfgsBursts",
    "Minimum",
    "NaturalConjugateGradient",
    "Optimiser",
    "Preconditioned",
    "Report",
    "Rmsprop",
    "TruncatedNewton",
    "as_batch",
    "minimise",
]
