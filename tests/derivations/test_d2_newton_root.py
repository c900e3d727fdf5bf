"""D2: Newton's root, overshoot, contraction and convergence against iterations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq

from derivations import _newton, d1_exact_map, d2_newton_root
from derivations._core import DerivationError
from linnat.exact import descent
from tests import tolerances
from tests.derivations._oracles import layerwise, mutant, network, positive_ratio, total

pytestmark = pytest.mark.statement("D2")
DERIVED = d2_newton_root.functions()
SCALAR = d1_exact_map.functions()["scalar_map"]


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_the_root_of_the_map_is_newtons_step(depth: int) -> None:
    y, eta = np.linspace(0.3, 4.0, 50), 0.8
    derived = DERIVED["newton"](y, eta, depth) ** -float(depth)
    assert np.allclose(SCALAR(y ** -float(depth), eta, depth), derived, rtol=1e-12)


def test_whole_networks_take_newtons_step() -> None:
    depth, eta = 3, 0.7
    weights = network([3] * (depth + 1), 5)
    teacher = positive_ratio(weights, 6)
    y = np.linalg.eigvals(np.linalg.solve(teacher, total(weights))) ** (1 / depth)
    stepped = [w + eta * v for w, v in zip(weights, layerwise(weights, teacher), strict=True)]
    found = np.sort(np.linalg.eigvals(np.linalg.solve(teacher, total(stepped))).real ** (1 / depth))
    tolerances.assert_close(found, np.sort(DERIVED["newton"](y.real, eta, depth)), 1e-9)


@pytest.mark.parametrize("depth", [2, 3, 4, 9])
@pytest.mark.parametrize("g", [1e3, 5.0, 0.2])
def test_the_overshoot_limit_is_where_a_step_lands_on_one(depth: int, g: float) -> None:
    limit = DERIVED["monotone_limit"](g, depth)
    top = 0.999 * depth / (1 - g) if g < 1 else float(depth)
    assert brentq(lambda eta: SCALAR(g, eta, depth) - 1, 1e-9, top, xtol=1e-14) == pytest.approx(
        limit, rel=1e-9
    )


def test_the_limits_at_a_thousand() -> None:
    assert [round(float(DERIVED["monotone_limit"](1e3, n)), 4) for n in (2, 3, 4)] == [0.0613, 0.0270, 0.0185]
    assert [float(DERIVED["first_landing"](1e3, 1.0, n)) for n in (2, 3, 4)] == pytest.approx(
        [250.5, 3.72597e4, 3.953336e6], rel=1e-4
    )


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_steps_below_the_limit_are_monotone_and_above_it_are_not(depth: int) -> None:
    g = np.array([1e3, 2.0, 0.01])
    limit = DERIVED["monotone_limit"](1e3, depth)
    for eta, monotone in ((0.99 * limit, True), (1.05 * limit, False)):
        path = [g]
        for _ in range(20):
            path.append(SCALAR(path[-1], eta, depth))
        signs = np.sign(np.array(path) - 1)
        assert bool(np.all(signs == signs[0])) == monotone


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
@pytest.mark.parametrize("eta", [0.05, 0.5, 1.0, 1.5, 1.95])
def test_every_positive_mode_converges_at_the_local_rate(depth: int, eta: float) -> None:
    g = np.geomspace(1e-6, 1e6, 41)
    for _ in range(3000):
        g = SCALAR(g, eta, depth)
    assert np.abs(g - 1).max() < 1e-9
    error = SCALAR(1 + 1e-7, eta, depth) - 1
    assert abs(error / 1e-7 - (1 - eta)) < 1e-5


def test_a_step_of_two_has_cycles() -> None:
    y = 3.0
    assert DERIVED["newton"](DERIVED["newton"](y, 2.0, 2), 2.0, 2) == pytest.approx(y, rel=1e-14)
    assert DERIVED["newton"](y, 2.0, 2) == pytest.approx(1 / y, rel=1e-14)


@pytest.mark.parametrize("norm", [2, "fro", 1])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_contraction_holds_in_any_norm(norm: object, depth: int) -> None:
    rng = np.random.default_rng(depth)
    for rho in (0.2, 0.7, 0.99):
        x = rng.standard_normal((4, 4))
        x *= rho / np.linalg.norm(x, norm)  # type: ignore[call-overload]
        for eta in (0.1, 0.6, 1.0):
            y = np.eye(4) - eta / depth * x
            after = np.linalg.solve(np.linalg.matrix_power(y, depth), np.eye(4) - x)
            found = np.linalg.norm(np.eye(4) - after, norm)  # type: ignore[call-overload]
            assert found <= DERIVED["contraction"](rho, eta) + tolerances.solve(np.float64, 4, 100.0)


def test_the_contraction_fails_outside_its_condition() -> None:
    assert abs(1 - SCALAR(-0.9, 1.0, 2)) > DERIVED["contraction"](1.9, 1.0)
    assert abs(1 - SCALAR(0.9, 1.5, 2)) > DERIVED["contraction"](0.1, 1.5)


def test_half_planes_are_the_basins_of_the_square_root() -> None:
    rng = np.random.default_rng(0)
    start = rng.standard_normal(500) + 1j * rng.standard_normal(500)
    for eta in (0.4, 1.0, 1.7):
        y = start
        for _ in range(2000):
            y = DERIVED["newton"](y, eta, 2)
        assert np.abs(y - np.sign(start.real)).max() < 1e-8


def test_cube_roots_have_no_such_sectors() -> None:
    y = np.exp(1j * np.linspace(-np.pi / 3, np.pi / 3, 401)[1:-1]) * 0.4
    for _ in range(200):
        y = DERIVED["newton"](y, 1.0, 3)
    assert np.abs(y**3 - 1).max() < 1e-8
    assert np.any(np.abs(y - 1) > 1)


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("eta", [0.3, 1.0, 1.8])
def test_almost_every_complex_start_converges(depth: int, eta: float) -> None:
    rng = np.random.default_rng(depth)
    y = rng.standard_normal(400) + 1j * rng.standard_normal(400)
    for _ in range(1000):
        y = DERIVED["newton"](y, eta, depth)
    assert np.abs(y**depth - 1).max() < 1e-8


def test_a_step_of_two_and_more_leaves_the_roots() -> None:
    y = np.exp(0.1j) * np.ones(1)
    for _ in range(500):
        y = DERIVED["newton"](y, 2.2, 3)
    assert np.abs(y**3 - 1).max() > 1e-3


def test_negative_modes_stay_for_even_depth_and_jump_for_odd() -> None:
    g = -np.geomspace(0.3, 30, 25)
    even, odd = g, g
    for _ in range(400):
        even, odd = SCALAR(even, 0.9, 4), SCALAR(odd, 0.9, 3)
        assert np.all(even < 0)
    assert np.abs(odd - 1).max() < 1e-8


@pytest.mark.parametrize("name", ["newton", "overshoot_limit", "landing"])
def test_a_wrong_formula_is_not_derived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = mutant(2)(getattr(d2_newton_root, name))
    monkeypatch.setattr(d2_newton_root, name, wrong)
    with pytest.raises(DerivationError):
        d2_newton_root.derive()


def test_a_wrong_bound_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_newton, "bound", mutant(0.5)(_newton.bound))
    with pytest.raises(DerivationError):
        d2_newton_root.derive()


def test_exact_agrees() -> None:
    g = np.array([1e3, 7.0, 0.3, 1e-4])
    for depth in (2, 3, 8):
        tolerances.assert_close(descent.monotone_limit(g, depth), DERIVED["monotone_limit"](g, depth), 1e-12)
        exact = descent.first_step_factor(g, 0.8, depth)
        tolerances.assert_close(exact, DERIVED["first_landing"](g, 0.8, depth), 1e-12)
