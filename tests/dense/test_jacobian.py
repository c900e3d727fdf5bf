"""Is the Jacobian the derivative? Against multiple-precision differences, loops, and products of layers."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest

from linnat import _checks
from linnat.dense import jacobian
from linnat.exact.network import LinearNetwork, flatten
from tests import tolerances
from tests.strategies import Problem, make_problem

pytestmark = pytest.mark.statement("G1", "F1", "X10")


def looped_output(layers: list[list[list[object]]], x: list[object], biases: bool) -> list[object]:
    """Apply a network to one input with scalar arithmetic of any type."""
    signal = x
    for layer in layers:
        extended = [*signal, 1] if biases else signal
        signal = [sum(a * b for a, b in zip(row, extended, strict=True)) for row in layer]
    return signal


def precise_jacobian(net: LinearNetwork, x: np.ndarray) -> np.ndarray:
    """Return the derivative of the outputs at one input by central differences with 60 digits."""
    with mpmath.workdps(60):
        step = mpmath.mpf(10) ** -20
        layers = [[[mpmath.mpf(float(v)) for v in row] for row in layer] for layer in net.layers]
        inputs = [mpmath.mpf(float(v)) for v in x]
        columns = []
        for layer in layers:
            for b, a in itertools.product(range(len(layer[0])), range(len(layer))):
                centre = layer[a][b]
                layer[a][b] = centre + step
                plus = looped_output(layers, inputs, net.has_biases)
                layer[a][b] = centre - step
                minus = looped_output(layers, inputs, net.has_biases)
                layer[a][b] = centre
                columns.append([float((p - m) / (2 * step)) for p, m in zip(plus, minus, strict=True)])
        return np.array(columns).T


def test_outputs_equal_scalar_loops(problem: Problem, rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, problem.net.widths[0]))
    layers = [layer.tolist() for layer in problem.net.layers]
    wanted = [looped_output(layers, row.tolist(), problem.net.has_biases) for row in x]
    bound = tolerances.product(np.float64, sum(problem.net.widths), 10.0)
    tolerances.assert_close(jacobian.outputs(problem.net, x), wanted, bound)


def test_output_jacobian_equals_differences_in_sixty_digits(
    problem: Problem, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((2, problem.net.widths[0]))
    found = jacobian.output_jacobian(problem.net, x)
    for row, value in zip(x, found, strict=True):
        tolerances.assert_close(
            value, precise_jacobian(problem.net, row), cancellation_bound(problem.net, row)
        )


def cancellation_bound(net: LinearNetwork, x: np.ndarray) -> float:
    """Return the product bound with Σ|terms| / |result| measured by running the absolute values."""
    absolute = net.replace_layers([np.abs(layer) for layer in net.layers])
    size = np.linalg.norm(jacobian.output_jacobian(absolute, np.abs(x)[None]))
    reference = np.linalg.norm(jacobian.output_jacobian(net, x[None]))
    return tolerances.product(np.float64, sum(net.widths), max(1.0, size / reference if reference else 1.0))


def test_output_jacobian_equals_exact_unit_differences(problem: Problem, rng: np.random.Generator) -> None:
    net = problem.net
    x = rng.standard_normal((2, net.widths[0]))
    start = jacobian.parameters(net)
    shifts = np.eye(len(start))
    plus, minus = (jacobian.outputs_at(start + sign * shifts, net, x) for sign in (1, -1))
    bound = tolerances.product(np.float64, sum(net.widths)) * max(
        np.abs(plus).max(), np.abs(minus).max(), 1.0
    )
    np.testing.assert_allclose(
        jacobian.output_jacobian(net, x), np.moveaxis((plus - minus) / 2, 0, -1), rtol=0, atol=bound
    )


def test_total_jacobian_is_the_kronecker_product_of_the_chains(problem: Problem) -> None:
    net = problem.net
    pairs = zip(net.before, net.after, strict=True)
    wanted = np.concatenate([np.kron(before.T, after) for before, after in pairs], axis=1)
    found = jacobian.total_jacobian(net)
    bound = tolerances.product(np.float64, sum(net.widths)) * max(np.abs(wanted).max(), 1.0)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound)


def test_transposed_factors_are_not_the_total_jacobian() -> None:
    # Negative control: B ⊗ Aᵀ is the Jacobian of vec(Wᵀ), rows stacked.
    net = make_problem("tame", 1, (3, 4, 2)).net
    pairs = zip(net.before, net.after, strict=True)
    wrong = np.concatenate([np.kron(after, before.T) for before, after in pairs], axis=1)
    assert tolerances.relative_error(jacobian.total_jacobian(net), wrong) > 0.1


def test_total_weight_equals_the_product_of_layers(problem: Problem) -> None:
    scale = np.prod([max(1.0, np.linalg.norm(layer, 2)) for layer in problem.net.layers])
    bound = tolerances.product(np.float64, sum(problem.net.widths)) * scale
    np.testing.assert_allclose(jacobian.total(problem.net), problem.net.total, rtol=0, atol=bound)


def test_parameters_are_stacked_by_columns_and_split_undoes_it(problem: Problem) -> None:
    net = problem.net
    vector = jacobian.parameters(net)
    np.testing.assert_array_equal(vector, flatten(net.layers))
    for found, wanted in zip(jacobian.split(np.stack([vector, 2 * vector]), net), net.layers, strict=True):
        np.testing.assert_array_equal(found, np.stack([wanted, 2 * wanted]))
    again = jacobian.with_parameters(net, vector)
    assert again.has_biases == net.has_biases
    np.testing.assert_array_equal(jacobian.parameters(again), vector)


def test_row_stacking_is_another_order() -> None:
    net = make_problem("tame", 2, (3, 2)).net
    assert not np.array_equal(jacobian.parameters(net), flatten(net.layers, order="C"))


def test_float32_networks_are_computed_in_float64() -> None:
    net = make_problem("tame", 1, (3, 4, 2), dtype=np.float32).net
    assert jacobian.output_jacobian(net, np.ones((1, 3), np.float32)).dtype == np.float64


def test_the_memory_guard_names_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    net = LinearNetwork.random((4, 4, 4), rng=0)
    jacobian.output_jacobian(net, np.ones((1, 4)))
    monkeypatch.setattr(jacobian, "_physical_memory", lambda: 4000)
    with pytest.raises(_checks.InputError, match=r"1 × 4 × 32 numbers.*linnat\.fisher_operator"):
        jacobian.output_jacobian(net, np.ones((1, 4)))


def test_the_memory_is_guessed_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert jacobian._physical_memory() > 2**20

    def missing(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(jacobian.os, "sysconf", missing)
    assert jacobian._physical_memory() == 8 * 2**30


def test_bad_arguments_are_refused() -> None:
    net = LinearNetwork.random((2, 2), rng=0)
    with pytest.raises(_checks.InputError, match=r"x: expected 2 columns"):
        jacobian.outputs(net, np.ones((1, 3)))
    with pytest.raises(_checks.InputError, match=r"vector: expected length 4"):
        jacobian.split(np.ones(3), net)
    with pytest.raises(_checks.InputError, match=r"net: expected a single network"):
        jacobian.parameters(LinearNetwork.random((2, 2), rng=0, batch_shape=(3,)))
    with pytest.raises(_checks.InputError, match=r"net: expected a LinearNetwork"):
        jacobian.parameters([np.eye(2)])  # type: ignore[arg-type]
