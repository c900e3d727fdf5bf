"""C2: the derived layers against the integrated layerwise flow, diagonalisable and defective."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from derivations import c2_layers
from derivations._core import DerivationError
from linnat import LinearNetwork, Task
from linnat.dense.flow import natural_flow
from linnat.exact import flow
from tests import tolerances
from tests.derivations._oracles import integrate, layerwise, mutant, network, positive_ratio, total

pytestmark = pytest.mark.statement("C2")
DERIVED = c2_layers.functions()
TIMES = [0.2, 1.0, 3.0]
INTEGRATOR = 1e-7


@pytest.mark.parametrize(("size", "depth"), [(1, 3), (2, 2), (2, 5), (4, 3)])
def test_the_layers_are_those_of_the_integrator(size: int, depth: int) -> None:
    weights = network([size] * (depth + 1), 7 + depth)
    teacher = positive_ratio(weights, 11)
    found = integrate(weights, lambda w: layerwise(w, teacher), TIMES)
    derived = DERIVED["natural_weights"](weights, teacher, np.array(TIMES))
    for index in range(depth):
        tolerances.assert_close(derived[index], np.array([layers[index] for layers in found]), INTEGRATOR)


def test_complex_pairs_are_no_obstacle() -> None:
    weights = network([2, 2, 2], 1)
    teacher = total(weights) @ np.array([[-1.0, -2.0], [2.0, -1.0]])
    found = integrate(weights, lambda w: layerwise(w, teacher), TIMES)
    derived = DERIVED["natural_weights"](weights, teacher, np.array(TIMES))
    for index in range(2):
        tolerances.assert_close(derived[index], np.array([layers[index] for layers in found]), INTEGRATOR)


def test_times_compose() -> None:
    weights = network([3, 3, 3, 3], 4)
    teacher = positive_ratio(weights, 2)
    half = [layer[0] for layer in DERIVED["natural_weights"](weights, teacher, np.array([0.7]))]
    twice = DERIVED["natural_weights"](half, teacher, np.array([0.5]))
    once = DERIVED["natural_weights"](weights, teacher, np.array([1.2]))
    condition = max(np.linalg.cond(weight) for weight in weights) ** 3
    for one, two in zip(once, twice, strict=True):
        tolerances.assert_close(two, one, tolerances.solve(np.float64, 9, condition))


@pytest.mark.parametrize(("size", "depth", "mu"), [(2, 2, 0.0), (3, 3, 0.5), (2, 4, -2.0)])
def test_a_jordan_block_has_the_derived_root(size: int, depth: int, mu: float) -> None:
    time = 0.3
    block = mu * np.eye(size) + np.eye(size, k=1)
    g = np.exp(-time) * np.eye(size) - np.expm1(-time) * block
    root = DERIVED["jordan_root"](time, mu, size, depth)
    tolerances.assert_close(
        np.linalg.matrix_power(root, depth), g, tolerances.product(np.float64, size * depth, 10)
    )
    principal = mpmath.matrix(g.tolist())
    logarithm = np.array(mpmath.expm(mpmath.logm(principal) / depth).tolist(), dtype=complex).real
    tolerances.assert_close(root, logarithm, 1e-9)


def test_semisimple_zero_modes_converge_and_defective_ones_diverge() -> None:
    depth, times = 3, (8.0, 10.0)
    semisimple = [DERIVED["jordan_root"](t, 0.0, 1, depth)[0, 0] for t in times]
    assert abs(np.log(semisimple[1] / semisimple[0]) / 2 + 1 / depth) < 1e-9
    defective = [DERIVED["jordan_root"](t, 0.0, 2, depth)[0, 1] for t in times]
    assert abs(np.log(defective[1] / defective[0]) / 2 - (1 - 1 / depth)) < 1e-3


def test_negative_modes_have_no_principal_root_after_their_time() -> None:
    weights = [np.eye(2), np.eye(2)]
    with pytest.raises(ValueError, match="principal"):
        DERIVED["natural_weights"](weights, -np.eye(2), np.array([2.0]))


@pytest.mark.parametrize("name", ["exponent", "mode"])
def test_a_wrong_formula_is_not_derived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c2_layers, name, mutant(2)(getattr(c2_layers, name)))
    with pytest.raises(DerivationError):
        c2_layers.derive()


def test_exact_and_dense_agree_for_any_covariances() -> None:
    weights = network([3, 3, 3, 3], 4)
    teacher = positive_ratio(weights, 2)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 6))
    net, task = LinearNetwork(weights), Task(teacher, a @ a.T / 6, b @ b.T / 6)
    derived = DERIVED["natural_weights"](weights, teacher, np.array(TIMES))
    condition = float(np.prod([np.linalg.cond(w) for w in weights])) ** 2
    for one, exact, dense in zip(
        derived, flow.natural_weights(net, task, TIMES), natural_flow(net, task, TIMES), strict=True
    ):
        tolerances.assert_close(exact, one, tolerances.solve(np.float64, 9, condition))
        tolerances.assert_close(dense, one, INTEGRATOR)


def test_exact_agrees_on_jordan_blocks() -> None:
    size, depth, time = 2, 3, 1.5
    for mu in (0.0, 0.7):
        teacher = mu * np.eye(size) + np.eye(size, k=1)
        net = LinearNetwork([np.eye(size)] * depth)
        for layer in flow.natural_weights(net, Task(teacher), [time]):
            # Defective eigenvalues: the perturbation eps of M moves them by √eps, the layers by about as much.
            tolerances.assert_close(layer[0], DERIVED["jordan_root"](time, mu, size, depth), 1e-7)
