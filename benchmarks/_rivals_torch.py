"""PyTorch, curvlinops and nngeometry: from weights and rows to a natural gradient, in float64.

The loss is the mean over rows of half the squared error. K-FAC solves with each diagonal block: by N6 it gives
L times N1, and is divided by L.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks._problems import Case
from benchmarks._rivals import (
    DENSE,
    FACTORS,
    LAYERWISE,
    LIMIT,
    OPERATOR,
    SHORTEST,
    TOLERANCE,
    Rival,
    parameters,
)

REGULARISATION = 1e-8  # nngeometry's default for the dense matrix, which is singular


def torch_rivals() -> list[Rival]:
    """Return everything that is built on PyTorch."""
    return [
        Rival("PyTorch jvp, vjp and CG", OPERATOR, SHORTEST, ("torch",), _autograd),
        Rival("curvlinops GGN and its CG", OPERATOR, SHORTEST, ("torch", "curvlinops"), _ggn),
        Rival("curvlinops K-FAC inverse", FACTORS, LAYERWISE, ("torch", "curvlinops"), _kfac),
        Rival("nngeometry dense", DENSE, SHORTEST, ("torch", "nngeometry"), _dense, _dense_cost),
        Rival("nngeometry K-FAC", FACTORS, LAYERWISE, ("torch", "nngeometry"), _blocks),
    ]


def conjugate_gradient(product: Callable[[Any], Any], right: Any) -> Any:
    """Solve F u = g from u = 0 for a flat tensor: textbook CG, no preconditioner."""
    solution, residual = right * 0, right.clone()
    conjugate, size = residual.clone(), float(residual @ residual)
    goal = TOLERANCE**2 * size
    for _ in range(LIMIT):
        if size <= goal:
            break
        image = product(conjugate)
        step = size / float(conjugate @ image)
        solution += step * conjugate
        residual -= step * image
        previous, size = size, float(residual @ residual)
        conjugate = residual + (size / previous) * conjugate
    return solution


def _autograd(case: Case) -> Callable[[], object]:
    import torch
    from torch.func import jvp, vjp

    weights = tuple(torch.from_numpy(w) for w in case.weights)
    rows, targets = torch.from_numpy(case.rows), torch.from_numpy(case.targets)
    sizes = [w.numel() for w in weights]

    def outputs(*layers: Any) -> Any:
        signal = rows
        for layer in layers:
            signal = signal @ layer.T
        return signal

    def split(vector: Any) -> Any:
        return tuple(v.view_as(w) for v, w in zip(vector.split(sizes), weights, strict=True))

    def solve() -> object:
        predicted, pull = vjp(outputs, *weights)

        def back(signal: Any) -> Any:
            return torch.cat([v.reshape(-1) for v in pull(signal / len(rows))])

        def product(vector: Any) -> Any:
            # Not `linearize`: it traces the network anew for new weights, which takes longer than most solves.
            return back(jvp(outputs, weights, split(vector))[1])

        with torch.no_grad():
            return split(conjugate_gradient(product, back(predicted - targets)))

    return solve


def _module(case: Case) -> tuple[Any, Any, Any]:
    import torch

    layers = [torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=torch.float64) for w in case.weights]
    for layer, weight in zip(layers, case.weights, strict=True):
        layer.weight.data = torch.from_numpy(weight.copy())
    return torch.nn.Sequential(*layers), torch.from_numpy(case.rows), torch.from_numpy(case.targets)


def _gradient(model: Any, rows: Any, targets: Any) -> Any:
    import torch

    loss = torch.nn.functional.mse_loss(
        model(rows), targets
    )  # the scale of curvlinops' matrices for this loss
    return torch.autograd.grad(loss, list(model.parameters()))


def _ggn(case: Case) -> Callable[[], object]:
    import torch
    from curvlinops import CGInverseLinearOperator, GGNLinearOperator

    model, rows, targets = _module(case)
    weights = list(model.parameters())

    def solve() -> object:
        operator = GGNLinearOperator(
            model,
            torch.nn.MSELoss(),
            weights,
            [(rows, targets)],
            check_deterministic=False,
            num_data=len(rows),
        )
        inverse = CGInverseLinearOperator(
            operator,
            max_iter=LIMIT,
            tolerance=TOLERANCE,
            stop_updating_after=TOLERANCE,
            eps=1e-40,  # of squares: the default ends at a residual of 1e-5
            max_tridiag_iter=0,
        )
        with torch.no_grad():
            with torch.enable_grad():
                gradient = _gradient(model, rows, targets)
            return inverse @ list(gradient)

    return solve


def _kfac(case: Case) -> Callable[[], object]:
    import torch
    from curvlinops import FisherType, KFACInverseLinearOperator, KFACLinearOperator

    model, rows, targets = _module(case)
    weights = list(model.parameters())
    scale = len(case.weights)

    def solve() -> object:
        operator = KFACLinearOperator(
            model,
            torch.nn.MSELoss(),
            weights,
            [(rows, targets)],
            check_deterministic=False,
            fisher_type=FisherType.TYPE2,
            num_per_example_loss_terms=1,
            num_data=len(rows),
        )
        # Exact damping with a strength of zero would divide by zero; Cholesky fails where a factor is singular.
        direction = KFACInverseLinearOperator(operator) @ list(_gradient(model, rows, targets))
        return [u.detach() / scale for u in direction]

    return solve


def _loader(rows: Any, targets: Any) -> Any:
    import torch

    data = torch.utils.data.TensorDataset(rows, targets)
    return torch.utils.data.DataLoader(data, batch_size=len(rows))


def _plain_gradient(model: Any, rows: Any, targets: Any) -> Any:
    from nngeometry.object import PVector

    model.zero_grad()
    ((model(rows) - targets).square().sum() / (2 * len(rows))).backward()
    return PVector.from_model_grad(model)


def _dense(case: Case) -> Callable[[], object]:
    from nngeometry.metrics import FIM
    from nngeometry.object import PMatDense

    model, rows, targets = _module(case)
    loader = _loader(rows, targets)

    def solve() -> object:
        fisher = FIM(model=model, loader=loader, representation=PMatDense, variant="regression")
        solution = fisher.solve(_plain_gradient(model, rows, targets), regul=REGULARISATION)
        return [value[0].detach() for value in solution.to_dict().values()]

    return solve


def _dense_cost(case: Case) -> tuple[float, float]:
    count = float(parameters(case))
    return 2 * 8.0 * count**2, 2.0 * count**2 * case.widths[-1] * len(case.rows) + count**3 / 3


def _blocks(case: Case) -> Callable[[], object]:
    from nngeometry.metrics import FIM
    from nngeometry.object import PMatKFAC

    model, rows, targets = _module(case)
    loader = _loader(rows, targets)
    scale = len(case.weights)

    def solve() -> object:
        fisher = FIM(model=model, loader=loader, representation=PMatKFAC, variant="regression")
        solution = fisher.solve(_plain_gradient(model, rows, targets), regul=0.0)
        return [value[0].detach() / scale for value in solution.to_dict().values()]

    return solve
