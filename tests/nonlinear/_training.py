"""A small problem, and an optimiser of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from linnat.nonlinear import Network, initial
from linnat.nonlinear.optimisers import (
    Adam,
    GradientDescent,
    KrylovSubspaceDescent,
    NaturalConjugateGradient,
    Preconditioned,
    TruncatedNewton,
)
from linnat.nonlinear.preconditioners import (
    Diagonal,
    Ekfac,
    Kfac,
    KfacTridiagonal,
    OnlineNaturalGradient,
    Prong,
    Tonga,
    UnitWise,
)
from linnat.nonlinear.schedules import Exponential
from linnat.nonlinear.training import Split

NET = Network((6, 5, 3), "tanh", "bernoulli")


def problem(dtype: Any = np.float64) -> tuple[Split, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 6)).astype(dtype)
    y = (x[:, :3] + 0.3 * rng.standard_normal((64, 3)) > 0).astype(dtype)
    return Split(x[:50], y[:50], x[50:], y[50:]), initial(NET, "glorot", rng=1, dtype=dtype)


OPTIMISERS = {
    "sgd": GradientDescent(0.1),
    "nesterov": GradientDescent(Exponential(0.1, 0.5, 10), 0.9, nesterov=True),
    "adam": Adam(1e-2),
    "online": Preconditioned(OnlineNaturalGradient(1e-2, period=3, strategy="cholesky"), 0.1),
    "online-eigen": Preconditioned(OnlineNaturalGradient(1e-2, period=3, strategy="eigen"), 0.1),
    "online-woodbury": Preconditioned(OnlineNaturalGradient(1e-2, period=3, strategy="woodbury"), 0.1),
    "kfac": Preconditioned(Kfac(1e-2, period=3), 0.1, 0.9),
    "kfac-fitted": Preconditioned(Kfac(1e-2, period=3), rule="fitted"),
    "kfac-search": Preconditioned(Kfac(1e-2, period=3), rule="fitted", search=3),
    "kfac-tridiagonal": Preconditioned(KfacTridiagonal(1e-1), 0.1, rule="clipped"),
    "ekfac": Preconditioned(Ekfac(1e-2, period=4), 0.1),
    "prong": Preconditioned(Prong(1e-2), 0.1),
    "diagonal": Preconditioned(Diagonal(1e-2), 0.1),
    "unitwise": Preconditioned(UnitWise(1e-2, kind="full"), 0.1),
    "tonga": Preconditioned(Tonga(1e-1, rank=5), 0.1, targets="data"),
    "newton": TruncatedNewton(iterations=5),
    "krylov": KrylovSubspaceDescent(size=3, iterations=3),
    "ncg": NaturalConjugateGradient(),
}
