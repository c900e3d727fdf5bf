"""Which starts cannot break the flow in the minimum-norm gauge? Statement X3."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from linnat.claims._core import Case, Claim, Measure, Measures, bound, relative
from linnat.claims._oracles import residual
from linnat.claims._paths import natural_path, path_bound, whitened_total
from linnat.claims.ladder import layer, task_for
from linnat.dense.jacobian import total_jacobian
from linnat.exact.flow import balance
from linnat.exact.imbalance import distance_bound, imbalance_bound
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task

Bound = Callable[[LinearNetwork], float]
END = 2.0
MAX_ROWS = 64  # of the dense Jacobian: n_L times the columns of [W c]


def _claimed(net: LinearNetwork) -> float:
    return float(imbalance_bound(net))


def check_imbalance(case: Case, candidate: Bound = _claimed) -> Measures:
    """Measure the bound against the dense Jacobian; along an integrated flow from a wide start it stays, and holds."""
    measures = [_excess(case, candidate, "c above λ_min(JJᵀ)")]
    wide = _widened(case)
    measures.append(_excess(wide, candidate, "c above λ_min(JJᵀ), wide hidden layer"))
    if candidate is _claimed and wide.net.n_parameters <= 200:
        measures += _along(wide)
    return measures


def _excess(case: Case, candidate: Bound, words: str) -> Measure:
    """Return by how much the bound exceeds the least eigenvalue, relative to ‖W_1‖² + ‖W_2‖²."""
    jacobian = total_jacobian(case.net)
    values = np.linalg.svd(jacobian, compute_uv=False)
    least = float(values[-1]) ** 2 if len(values) == len(jacobian) else 0.0
    size = float(sum(np.sum(part**2) for part in case.net.layers)) or 1.0
    return Measure(words, max(0.0, candidate(case.net) - least) / size, bound(case))


def _widened(case: Case) -> Case:
    """Return a start with n_1 = n_0 + n_2 + 2 of generic weights between the same ends: c > 0."""
    inputs, outputs = case.net.widths[0], case.net.widths[-1]
    hidden = inputs + outputs + 2
    weights = [layer(hidden, inputs, 4.0, case.rng), 2 * layer(outputs, hidden, 4.0, case.rng)]
    sizes = (hidden, outputs)
    biases = [0.5 * case.rng.standard_normal(n) for n in sizes] if case.net.has_biases else None
    return case._replace(net=LinearNetwork(weights, biases))


def _along(case: Case) -> Measures:
    """Follow the flow in the minimum-norm gauge: C1's line, c, and the distance."""
    net, task = case.net, case.task
    path = natural_path(net, task, "minimum-norm", END)
    least, error = imbalance_bound(net), residual(net, task)
    drift, gap, moved = 0.0, 0.0, 0.0
    start = whitened_total(case, net)
    for k, time in enumerate(path.times):
        state = path.state(k, net)
        drift = max(drift, relative(imbalance_bound(state), least))
        gap = max(gap, relative(whitened_total(case, state), start - np.expm1(-time) * error))
        steps = zip(state.layers, net.layers, strict=True)
        moved = max(moved, float(np.sqrt(sum(np.sum((a - b) ** 2) for a, b in steps))))
    return [
        Measure("c along the integrated flow", drift, path_bound(case)),
        Measure("integrated layers multiply out to the line", gap, path_bound(case)),
        Measure("distance travelled over its bound", moved / float(distance_bound(net, task)), 1.0, "stated"),
        Measure("no c > 0 from a generic wide start (1 if so)", float(least <= 0), 0.5, "stated"),
    ]


def _two_layers(net: LinearNetwork, task: Task) -> str | None:
    if net.depth != 2:
        return "needs exactly two layers"
    rows = net.widths[-1] * net.layers[0].shape[-1]
    return None if rows <= MAX_ROWS else f"needs at most {MAX_ROWS} entries of W for the dense Jacobian"


def _largest(net: LinearNetwork) -> float:
    """The largest eigenvalues of C and −C in place of the n_2-th and the n_0-th."""
    values = np.linalg.eigvalsh(balance(net)[0])
    return float(max(values[-1], 0.0) + max(-values[0], 0.0))


def _broken(rng: np.random.Generator) -> Measures:
    net = LinearNetwork([layer(7, 3, 9.0, rng), 2 * layer(3, 7, 9.0, rng)])
    return check_imbalance(Case(net, task_for(net, rng), rng), _largest)


CLAIMS = (
    Claim(
        "X3",
        "Imbalance protects",
        "what two layers are out of balance bounds JJᵀ from below for all times: the minimum-norm flow never breaks",
        r"\lambda_{\min}(JJ^\top) \ge [\lambda_{n_2}(C)]_+ + [\lambda_{n_0}(-C)]_+ = c,\quad "
        r"\|\theta(\infty)-\theta(0)\| \le \|E(0)\|/\sqrt c",
        "new",
        "two layers, minimum-norm gauge; c > 0 for generic weights with n_1 ≥ n_0 + n_2",
        "imbalance_bound",
        "dense Jacobian by unit perturbations; layers moved by DOP853",
        "bound: p = 0 in the norms of the layers; flow: tolerance of the integrator × κ(B̃)κ(Ã)",
        check_imbalance,
        _two_layers,
        _broken,
        "the largest eigenvalues of C in place of the n_2-th and n_0-th",
    ),
)
