"""PyTorch, curvlinops and nngeometry: the same training step, and K-FAC of the same minibatch, in float32."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks._training_problem import RATE, Problem

Pairs = list[tuple[np.ndarray, np.ndarray]]


def model_of(problem: Problem) -> tuple[Any, Any]:
    """Return the network as a module with the same parameters, and the rows."""
    import torch

    layers: list[Any] = []
    widths = list(pairwise(problem.net.widths))
    for (n, m), block, unit in zip(
        widths, problem.net.blocks(problem.theta), problem.net.activations, strict=True
    ):
        linear = torch.nn.Linear(n, m)
        linear.weight.data = torch.from_numpy(block[:-1].T.copy())
        linear.bias.data = torch.from_numpy(block[-1].copy())
        layers.append(linear)
        if unit == "logistic":
            layers.append(torch.nn.Sigmoid())
    return torch.nn.Sequential(*layers), torch.from_numpy(problem.x)


def mean_loss(model: Any, rows: Any) -> Any:
    """Return the mean over rows of −log p."""
    import torch

    total = torch.nn.functional.binary_cross_entropy_with_logits(model(rows), rows, reduction="sum")
    return total / len(rows)


def step(problem: Problem, compiled: bool) -> tuple[Callable[[], object], Callable[[], np.ndarray]]:
    """Return a step of SGD, eager or by `torch.compile`, and a function that returns its gradient (P,)."""
    import torch

    model, rows = model_of(problem)
    loss = torch.compile(mean_loss) if compiled else mean_loss
    optimiser = torch.optim.SGD(model.parameters(), RATE, fused=True)

    def call() -> None:
        optimiser.zero_grad(set_to_none=False)
        loss(model, rows).backward()
        optimiser.step()

    def gradient() -> np.ndarray:
        model.zero_grad()
        loss(model, rows).backward()
        return flat(problem, [(m.weight.grad, m.bias.grad) for m in model if hasattr(m, "weight")])

    return call, gradient


def flat(problem: Problem, layers: Any) -> np.ndarray:
    """Return pairs of weights (m, n) and biases (m,) in linnat's order."""
    out = np.empty(problem.net.n_parameters, np.float32)
    for block, (weight, bias) in zip(problem.net.blocks(out), layers, strict=True):
        block[:-1], block[-1] = weight.detach().numpy().T, bias.detach().numpy()
    return out


class Curvlinops:
    """K-FAC of curvlinops, with the data's targets and joint weights and biases."""

    name, packages = "curvlinops", ("torch", "curvlinops")

    def __init__(self, problem: Problem, damping: float) -> None:
        import torch
        from curvlinops import FisherType, KFACLinearOperator

        self.model, rows = model_of(problem)
        self.parameters, self.damping = list(self.model.parameters()), damping
        self.operator = KFACLinearOperator(
            self.model,
            torch.nn.BCEWithLogitsLoss(),
            self.parameters,
            [(rows, rows)],
            check_deterministic=False,
            fisher_type=FisherType.EMPIRICAL,
            separate_weight_and_bias=False,
            num_per_example_loss_terms=1,
            num_data=len(rows),
        )
        # Its mean is one over outputs, too; the rest of that scale is taken out of G here.
        self.scale, self.vector = problem.net.widths[-1], [p.detach().clone() for p in self.parameters]

    def factors(self) -> object:
        """Compute A and G of all layers."""
        return self.operator.compute_kronecker_factors()

    def arrays(self) -> Pairs:
        """Return A and G as arrays."""
        inputs, outputs = self.operator._input_covariances, self.operator._gradient_covariances
        return [(inputs[k].numpy(), outputs[k].numpy() * self.scale) for k in inputs]

    def direction(self) -> object:
        """Invert the damped factors, and apply them to a vector."""
        from curvlinops import KFACInverseLinearOperator

        damping = self.damping / self.scale
        inverse = KFACInverseLinearOperator(self.operator, damping=damping, use_heuristic_damping=True)
        return inverse @ self.vector


class _Whole:
    """Rows as a data set that hands them out at once: collated row by row they would take longer than the work."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, places: list[int]) -> tuple[Any, Any]:
        return self.rows.detach(), self.rows


class Nngeometry:
    """K-FAC of nngeometry, of the rows' own losses: with the data's targets."""

    name, packages = "nngeometry", ("torch", "nngeometry")

    def __init__(self, problem: Problem, damping: float) -> None:
        import torch
        from nngeometry.backend import TorchHooksJacobianBackend
        from nngeometry.layercollection import LayerCollection
        from nngeometry.object import PMatKFAC, PVector

        self.model, rows = model_of(problem)
        self.damping = damping
        loader = torch.utils.data.DataLoader(
            _Whole(rows), batch_size=len(rows), collate_fn=lambda batch: batch
        )

        def losses(x: Any, y: Any) -> Any:
            terms = torch.nn.functional.binary_cross_entropy_with_logits(self.model(x), y, reduction="none")
            return terms.sum(1, keepdim=True)

        backend = TorchHooksJacobianBackend(
            layer_collection=LayerCollection.from_model(self.model), model=self.model, function=losses
        )
        self.build = lambda: PMatKFAC(generator=backend, examples=loader)
        self.vector = PVector.from_model(self.model)
        self.matrix: Any = None

    def factors(self) -> object:
        """Compute A and G of all layers."""
        self.matrix = self.build()
        return self.matrix

    def arrays(self) -> Pairs:
        """Return A and G as arrays."""
        return [(a.numpy(), g.numpy()) for a, g in self.matrix.data.values()]

    def direction(self) -> object:
        """Invert the damped factors, and apply them to a vector."""
        return self.matrix.inverse(regul=self.damping).mv(self.vector)
