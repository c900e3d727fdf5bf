"""Does imbalance protect? The bound against dense Jacobians, along integrated flows, and where it says nothing (X3)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linnat as ln
from linnat.dense import jacobian as by_definition
from linnat.dense.flow import gradient_flow, natural_flow, total_along
from tests import tolerances
from tests.strategies import seeds

pytestmark = pytest.mark.statement("X3")


def least(net: ln.LinearNetwork) -> float:
    """Return λ_min(JJᵀ) of the derivative of the total weight."""
    jacobian = by_definition.total_jacobian(net)
    values = np.linalg.svd(jacobian, compute_uv=False)
    return float(values[-1] ** 2) if len(values) == len(jacobian) else 0.0


def draw(seed: int, inputs: int, hidden: int, outputs: int, biases: bool = False) -> ln.LinearNetwork:
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((hidden, inputs)), 2 * rng.standard_normal((outputs, hidden))]
    return ln.LinearNetwork(
        weights, [rng.standard_normal(hidden), rng.standard_normal(outputs)] if biases else None
    )


small = st.integers(1, 4)


@given(seeds, small, st.integers(1, 9), small, st.booleans())
def test_it_is_below_the_least_eigenvalue(
    seed: int, inputs: int, hidden: int, outputs: int, biases: bool
) -> None:
    net = draw(seed, inputs, hidden, outputs, biases)
    size = float(sum(np.sum(layer**2) for layer in net.layers))
    bound = float(ln.imbalance_bound(net))
    assert 0 <= bound <= least(net) + tolerances.backward(np.float64, hidden) * size
    # Generic weights with a wide hidden layer: positive.
    if hidden >= inputs + biases + outputs:
        assert bound > 0


@given(seeds, small, small)
def test_it_is_sharp_where_both_layers_live_apart(seed: int, inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = np.zeros((inputs + outputs, inputs)), np.zeros((outputs, inputs + outputs))
    first[:inputs], second[:, inputs:] = (
        rng.standard_normal((inputs, inputs)),
        rng.standard_normal((outputs, outputs)),
    )
    net = ln.LinearNetwork([first, second])
    size = float(np.sum(first**2) + np.sum(second**2))
    assert abs(float(ln.imbalance_bound(net)) - least(net)) <= tolerances.backward(np.float64, 8) * size


def test_other_eigenvalues_are_not_below() -> None:
    # Negative control: the largest eigenvalues in place of the n_2-th and the n_0-th.
    wrong = 0
    for seed in range(20):
        net = draw(seed, 3, 6, 3)
        values = np.linalg.eigvalsh(ln.flow.balance(net)[0])
        wrong += max(values[-1], 0) + max(-values[0], 0) > 1.01 * least(net)
    assert wrong >= 15


@pytest.mark.parametrize("biases", [False, True])
def test_the_flow_passes_a_singular_weight_and_goes_no_further_than_the_bound(biases: bool) -> None:
    rng = np.random.default_rng(4)
    net = draw(4, 2, 5, 2, biases)
    # det W* < 0 < det W(0) or the reverse: W is singular on the way.
    teacher = net.total[:, :2] @ np.diag([-1.0, 1.2])
    task = ln.Task(
        teacher, np.diag([1.0, 0.5]), np.diag([1.0, 2.0]), rng.standard_normal(2) if biases else None
    )
    bound, distance = float(ln.imbalance_bound(net)), float(ln.distance_bound(net, task))
    assert bound > 0.1
    times = np.array([0.3, 0.6, 1.0, 3.0, 8.0])
    layers = natural_flow(net, task, times, "minimum-norm")
    totals = total_along(net, layers)
    assert np.linalg.det(totals[0][:, :2]) * np.linalg.det(totals[-1][:, :2]) < 0
    line = ln.flow.natural_total(net, task, times, "minimum-norm")
    np.testing.assert_allclose(totals, line, rtol=0, atol=1e-6)
    moved = [
        float(
            np.sqrt(
                sum(np.sum((layer[k] - start) ** 2) for layer, start in zip(layers, net.layers, strict=True))
            )
        )
        for k in range(len(times))
    ]
    assert max(moved) <= distance
    for k in range(len(times)):
        state = net.replace_layers([layer[k] for layer in layers])
        assert abs(float(ln.imbalance_bound(state)) - bound) <= 1e-6 * bound
        assert least(state) >= bound * (1 - 1e-6)


def test_the_layerwise_gauge_is_not_protected() -> None:
    # Negative control: it does not conserve C, and from the same kind of start it breaks.
    net = ln.LinearNetwork([np.diag([0.2, 0.3]), np.diag([3.0, 4.0])])
    task = ln.Task(np.diag([-1.0, 1.0]))
    assert float(ln.imbalance_bound(net)) > 5
    assert np.isfinite(ln.flow.breakdown_time(net, task))
    layers = natural_flow(net, task, [0.3])
    later = ln.imbalance_bound(net.replace_layers([layer[0] for layer in layers]))
    assert abs(float(later) / float(ln.imbalance_bound(net)) - 1) > 0.05
    # Gradient flow conserves it too.
    layers = gradient_flow(net, task, [0.3])
    later = ln.imbalance_bound(net.replace_layers([layer[0] for layer in layers]))
    assert abs(float(later) / float(ln.imbalance_bound(net)) - 1) < 1e-6


def test_balanced_layers_are_not_protected() -> None:
    net = ln.LinearNetwork.balanced(np.random.default_rng(0).standard_normal((3, 3)), 2)
    assert float(ln.imbalance_bound(net)) == 0.0
    assert float(ln.distance_bound(net, ln.Task(np.eye(3)))) == np.inf
    # Rounding alone would have made it positive.
    assert abs(np.linalg.eigvalsh(ln.flow.balance(net)[0])).max() > 0
    assert float(ln.imbalance_bound(draw(0, 2, 5, 2), rtol=10.0)) == 0.0


def test_the_distance_ignores_directions_without_inputs() -> None:
    net = draw(1, 3, 6, 2)
    teacher = np.random.default_rng(0).standard_normal((2, 3))
    bound = float(ln.imbalance_bound(net))
    error = teacher - net.total
    found = float(ln.distance_bound(net, ln.Task(teacher, np.diag([1.0, 4.0, 0.0]))))
    assert found == pytest.approx(np.linalg.norm(error[:, :2]) / np.sqrt(bound), rel=1e-12)
    found = float(ln.distance_bound(net, ln.Task(teacher, np.diag([1.0, 4.0, 1e-3]))))
    assert found == pytest.approx(np.linalg.norm(error) / np.sqrt(bound), rel=1e-12)


def test_stacks_equal_a_loop_and_float32_is_kept() -> None:
    net = ln.LinearNetwork.random((2, 5, 3), rng=0, batch_shape=(4, 1))
    task = ln.Task(np.ones((3, 2)), np.stack([np.eye(2), np.diag([1.0, 0.0])]))
    bounds, distances = ln.imbalance_bound(net), ln.distance_bound(net, task)
    assert bounds.shape == (4, 1)
    assert distances.shape == (4, 2)
    for a, b in np.ndindex(4, 2):
        single = ln.LinearNetwork([w[a, 0] for w in net.weights])
        np.testing.assert_allclose(bounds[a, 0], ln.imbalance_bound(single), rtol=1e-12)
        alone = ln.distance_bound(single, ln.Task(task.teacher, task.input_cov[b]))
        np.testing.assert_allclose(distances[a, b], alone, rtol=1e-12)
    low = ln.LinearNetwork([w[0, 0].astype(np.float32) for w in net.weights])
    assert ln.imbalance_bound(low).dtype == ln.distance_bound(low, task).dtype == np.float32


def test_bad_input() -> None:
    with pytest.raises(ln.InputError, match="^net: expected a LinearNetwork"):
        ln.imbalance_bound([np.eye(2)])  # type: ignore[arg-type]
    for depth in (1, 3):
        with pytest.raises(ln.ConditionError, match=f"^net: expected two layers, found {depth}. X3"):
            ln.imbalance_bound(ln.LinearNetwork([np.eye(2)] * depth))
    net = ln.LinearNetwork([np.eye(2)] * 2)
    with pytest.raises(ln.InputError, match="^rtol"):
        ln.imbalance_bound(net, rtol=-1)
    with pytest.raises(ln.InputError, match="^task"):
        ln.distance_bound(net, ln.Task(np.eye(3)))
