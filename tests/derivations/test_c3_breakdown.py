"""C3: the derived times against determinants along the line, and the exponents at the singularity."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import brentq

from derivations import c2_layers, c3_breakdown
from derivations._core import DerivationError
from linnat import FlowBreakdownError, LinearNetwork, Task
from linnat.exact import breakdown, flow
from tests.derivations._oracles import integrate, layerwise, mutant, network, positive_ratio, shortest, total

pytestmark = pytest.mark.statement("C3")
DERIVED = c3_breakdown.functions()
LAYERS = c2_layers.functions()


def crossings(start: np.ndarray, teacher: np.ndarray) -> list[float]:
    """Find the sign changes of det W along C1's line in q = e^{−t}, with neither eigenvalues nor logarithms."""
    grid = np.linspace(0, 1, 4001)[1:]

    def det(q: float) -> float:
        return float(np.linalg.det(q * start + (1 - q) * teacher))

    values = [det(q) for q in grid]
    return sorted(
        -np.log(brentq(det, a, b, xtol=1e-14))
        for a, b, x, y in zip(grid, grid[1:], values, values[1:], strict=False)
        if x * y < 0
    )


@pytest.mark.parametrize("seed", range(8))
def test_the_times_are_the_zeros_of_the_determinant(seed: int) -> None:
    rng = np.random.default_rng(seed)
    start, teacher = rng.standard_normal((2, 4, 4))
    found = crossings(start, teacher)
    derived = DERIVED["singular_times"](start, teacher)
    assert len(found) == len(derived)
    assert np.allclose(found, derived, rtol=1e-7, atol=1e-9)
    assert DERIVED["breakdown_time"](start, teacher) == (derived[0] if len(derived) else np.inf)


def test_complex_pairs_never_break() -> None:
    assert DERIVED["breakdown_time"](np.eye(2), np.array([[-1.0, -3.0], [3.0, -1.0]])) == np.inf
    assert DERIVED["breakdown_time"](np.eye(2), np.diag([-1.0, -2.0])) == pytest.approx(
        np.log(1.5), rel=1e-14
    )


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_semisimple_modes_keep_finite_weights_and_the_stated_speed(depth: int) -> None:
    weights = network([2] * (depth + 1), 3)
    basis = np.array([[1.0, 0.5], [0.3, 1.0]])
    teacher = total(weights) @ np.linalg.solve(basis.T, (basis * [-2.0, 1.5]).T).T
    end = DERIVED["breakdown_time"](total(weights), teacher)
    speeds, sizes = [], []
    for gap in (1e-6, 1e-8, 1e-10):
        layers = [layer[0] for layer in LAYERS["natural_weights"](weights, teacher, np.array([end - gap]))]
        h = gap / 100
        later = [layer[0] for layer in LAYERS["natural_weights"](weights, teacher, np.array([end - gap + h]))]
        speeds.append(np.sqrt(sum(np.sum((b - a) ** 2) for a, b in zip(layers, later, strict=True))) / h)
        sizes.append(np.array(layers))
    assert abs(np.log(speeds[1] / speeds[0]) / np.log(100) - (1 - 1 / depth)) < 0.02
    # Finite: what is left to move shrinks like gap^{1/L}.
    moves = [np.linalg.norm(b - a) for a, b in itertools.pairwise(sizes)]
    assert abs(np.log(moves[0] / moves[1]) / np.log(100) - 1 / depth) < 0.02


@pytest.mark.parametrize("depth", [2, 3])
def test_defective_modes_do_not_keep_finite_weights(depth: int) -> None:
    end = np.log(1 + 1 / 2.0)
    sizes = [LAYERS["jordan_root"](end - gap, -2.0, 2, depth)[0, 1] for gap in (1e-5, 1e-7)]
    assert abs(np.log(sizes[1] / sizes[0]) / np.log(100) - (1 - 1 / depth)) < 0.01


def test_a_narrow_layer_forces_the_break_and_wide_ones_avoid_it() -> None:
    for widths, breaks in (([2, 2, 2], True), ([2, 5, 2, 5, 2], True), ([2, 4, 4, 2], False)):
        weights = network(widths, 6)
        teacher = total(weights) @ np.array([[-1.0, 0.3], [0.2, 1.5]])
        end = DERIVED["breakdown_time"](total(weights), teacher)
        assert end < np.inf
        early = integrate(weights, lambda w, goal=teacher: layerwise(w, goal), [end * (1 - 1e-4)])[0]
        halves = [np.linalg.svd(total(early[:k]), compute_uv=False)[-1] for k in range(1, len(early))]
        assert (min(halves) < 0.1) == breaks


def test_the_minimum_norm_gauge_passes_from_unbalanced_layers_only() -> None:
    weights, teacher = [np.array([[0.5]]), np.array([[2.0]])], np.array([[-1.0]])
    final = integrate(weights, lambda w: shortest(w, teacher), [3.0])[0]
    assert total(final)[0, 0] == pytest.approx(-1 + 2 * np.exp(-3), rel=1e-7)
    squared = [1.0, 1.0]
    late = integrate([np.array([[s]]) for s in squared], lambda w: shortest(w, teacher), [np.log(2) - 1e-4])[
        0
    ]
    assert abs(late[0][0, 0]) < 0.02
    assert abs(late[1][0, 0]) < 0.02


def test_positive_spectra_never_break() -> None:
    weights = network([3, 3, 3], 0)
    assert DERIVED["breakdown_time"](total(weights), positive_ratio(weights, 1)) == np.inf


def test_a_wrong_time_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c3_breakdown, "stopping", mutant(-1)(c3_breakdown.stopping))
    with pytest.raises(DerivationError):
        c3_breakdown.derive()


@pytest.mark.parametrize("seed", range(6))
def test_exact_agrees(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = network([3, 3, 3], seed)
    teacher = rng.standard_normal((3, 3))
    net, task = LinearNetwork(weights), Task(teacher)
    derived = DERIVED["breakdown_time"](total(weights), teacher)
    assert float(breakdown.breakdown_time(net, task)) == pytest.approx(derived, rel=1e-9)
    if derived < np.inf:
        with pytest.raises(FlowBreakdownError) as caught:
            flow.natural_weights(net, task, [1.01 * derived])
        assert float(np.min(caught.value.time)) == pytest.approx(derived, rel=1e-9)
