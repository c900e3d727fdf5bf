"""C8: the derived limit, by listing vertices, against the package, an integrated flow and the steps' own numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp

from derivations import c8_separable
from derivations._core import DerivationError
from linnat.exact import separable
from tests import tolerances
from tests.derivations._oracles import mutant

pytestmark = pytest.mark.statement("C8")
DERIVED = c8_separable.functions()

SHAPES = [(3, 2), (9, 2), (8, 3), (14, 3), (10, 4)]


def draw(shape: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return separable data, labels and a start."""
    rng = np.random.default_rng([seed, *shape])
    x, teacher = rng.standard_normal(shape), rng.standard_normal(shape[1])
    return x, np.sign(x @ teacher), rng.standard_normal(shape[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_program_of_the_package_finds_the_listed_vertex(shape: tuple[int, int]) -> None:
    for seed in range(6):
        x, y, start = draw(shape, seed)
        rows = y[:, None] * x
        found = separable.limit_program(x, y, start)
        u, dual, offset = DERIVED["limit"](rows, start)
        bound = tolerances.solve(
            np.float64, max(shape), np.linalg.cond(rows[found.active]) * np.linalg.cond(rows)
        )
        tolerances.assert_close(found.direction, u, bound)
        tolerances.assert_close(found.dual, dual, bound)
        # p = 1 in the least multiplier: offset = −A_I⁻¹ log q*.
        tolerances.assert_close(found.offset, offset, bound / found.smallest_dual)
        assert not found.degenerate
        widest = separable.maximum_margin(x, y).direction
        tolerances.assert_close(widest, DERIVED["maximum_margin"](rows), bound)
        same = np.linalg.norm(u - widest) <= 1e-8 * np.linalg.norm(u)
        assert separable.support_cone(x, y, start).inside == same


def test_margins_of_independent_data() -> None:
    x, y, start = draw((2, 3), 0)
    times = np.array([0.0, 1.0, 5.0, 20.0])
    rows = y[:, None] * x
    paths = DERIVED["margins"](times, rows @ start)
    np.testing.assert_allclose(paths[0], rows @ start, atol=1e-14)
    line = separable.equal_margin_limit(x, y, start)
    rest = paths - times[:, None] - line.margin_offset
    # The remainder is log(1 − e^{−t}σ(−m(0))).
    expected = np.log1p(-np.exp(-times)[:, None] / (1 + np.exp(rows @ start)))
    np.testing.assert_allclose(rest, expected, atol=1e-13)
    for seed in range(3):
        x, y, start = draw((4, 4), seed)
        u, dual, offset = DERIVED["limit"](y[:, None] * x, start)
        line = separable.equal_margin_limit(x, y, start)
        bound = tolerances.solve(np.float64, 4, np.linalg.cond(x))
        tolerances.assert_close(line.direction, u, bound)
        tolerances.assert_close(line.offset, offset, bound)
        tolerances.assert_close(dual, 1 / (1 + np.exp(y * (x @ start))), bound)


def test_the_derived_vertex_is_where_an_integrated_flow_goes() -> None:
    x, y, start = draw((7, 2), 4)
    rows = y[:, None] * x

    def slope(_: float, w: Any) -> Any:
        p = 1 / (1 + np.exp(rows @ w))
        fisher = (rows * (p * (1 - p))[:, None]).T @ rows
        return np.linalg.solve(fisher, rows.T @ p)

    run = solve_ivp(slope, (0.0, 14.0), start, "DOP853", rtol=1e-11, atol=1e-11)
    u, dual, offset = DERIVED["limit"](rows, start)
    slack = float((rows @ u - 1)[dual == 0].min())
    # Up to the exponentially small terms; the maximum margin in place of u* is off by 14 ‖û − u*‖.
    gap = np.linalg.norm(run.y[:, -1] - 14.0 * u - offset)
    assert gap <= 50 * np.exp(-14.0 * min(1.0, slack))
    assert np.linalg.norm(run.y[:, -1] - 14.0 * DERIVED["maximum_margin"](rows) - offset) > 10 * gap


def test_exact_and_float_vertices_agree() -> None:
    rows = sp.Matrix([[1, 0, 1], [2, 1, 0], [0, 2, 1], [3, -1, 1], [1, 1, 1]])
    cost = rows.T * sp.ones(5, 1) / 2
    u, dual = c8_separable.best_vertex(rows, cost)
    found = separable.limit_program(np.array(rows.tolist(), float), np.ones(5))
    np.testing.assert_allclose(found.direction, np.array(u.tolist(), float)[:, 0], rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found.dual[found.active], np.array(dual.tolist(), float)[:, 0], rtol=1e-13)
    widest, support = c8_separable.largest_margin(rows)
    best = separable.maximum_margin(np.array(rows.tolist(), float), np.ones(5))
    np.testing.assert_allclose(best.direction, np.array(widest.tolist(), float)[:, 0], rtol=1e-13, atol=1e-14)
    assert tuple(np.flatnonzero(best.support)) == support


def test_inseparable_data_have_no_vertex() -> None:
    rows = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]])
    for name, arguments in (("limit", (rows, np.zeros(2))), ("maximum_margin", (rows,))):
        with pytest.raises(ValueError, match="not separable"):
            DERIVED[name](*arguments)


@pytest.mark.parametrize("name", ["weight", "margin_of"])
def test_a_wrong_weight_is_not_derived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c8_separable, name, mutant(2)(getattr(c8_separable, name)))
    with pytest.raises(DerivationError):
        c8_separable.derive()


def test_a_wrong_vertex_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    right = c8_separable.largest_margin
    monkeypatch.setattr(c8_separable, "largest_margin", lambda rows: (2 * right(rows)[0], right(rows)[1]))
    with pytest.raises(DerivationError):
        c8_separable.derive()
