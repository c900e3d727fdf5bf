"""Is the tilted minimum right where probabilities leave the range of the type? Against mpmath, and by its laws (C7)."""

from __future__ import annotations

from typing import Any

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linnat as ln
from linnat.exact import tilted
from linnat.families import one_hot
from linnat.linalg.exponentials import log_softmax, softplus
from tests import tolerances
from tests.strategies import seeds

pytestmark = pytest.mark.statement("C7")


def means(x: Any, w: Any, family: str) -> Any:
    """Return the means of all samples in many digits."""
    z = x * w
    if family == "poisson":
        return z.apply(mp.exp)
    if family == "bernoulli":
        return z.apply(lambda a: 1 / (1 + mp.exp(-a)))
    out = mp.matrix(z.rows, z.cols)
    for n in range(z.rows):
        top = max(z[n, c] for c in range(z.cols))
        powers = [mp.exp(z[n, c] - top) for c in range(z.cols)]
        for c in range(z.cols):
            out[n, c] = powers[c] / mp.fsum(powers)
    return out


def correction(
    x: np.ndarray, y: np.ndarray, start: np.ndarray, family: str, time: float, w: np.ndarray
) -> np.ndarray:
    """Return Newton's correction of w, (d, C), by the textbook formula in enough digits, iterated to convergence."""
    (count, inputs), outputs = x.shape, w.shape[1]
    free = outputs - 1 if family == "categorical" else outputs
    with mp.workdps(int(100 + 1.5 * time)):
        rows, state = mp.matrix(x.tolist()), mp.matrix(w.tolist())
        goal = mp.matrix(y.tolist())
        goal = goal + mp.exp(-mp.mpf(time)) * (means(rows, mp.matrix(start.tolist()), family) - goal)
        for _ in range(30):
            mu = means(rows, state, family)
            gradient, hessian = mp.matrix(inputs * free, 1), mp.matrix(inputs * free, inputs * free)
            for n in range(count):
                for c in range(free):
                    for j in range(inputs):
                        gradient[c * inputs + j] += rows[n, j] * (goal[n, c] - mu[n, c])
                    for e in range(free):
                        if family == "categorical":
                            v = mu[n, c] * ((c == e) - mu[n, e])
                        else:
                            v = (mu[n, c] * ((1 - mu[n, c]) if family == "bernoulli" else 1)) * (c == e)
                        for j in range(inputs):
                            for k in range(inputs):
                                hessian[c * inputs + j, e * inputs + k] += v * rows[n, j] * rows[n, k]
            move = mp.lu_solve(hessian, gradient)
            for c in range(free):
                for j in range(inputs):
                    state[j, c] += move[c * inputs + j]
            if max(abs(a) for a in move) < mp.mpf(10) ** -25:
                break
        else:
            raise AssertionError("the oracle did not converge")
        moved = state - mp.matrix(w.tolist())
    return np.array([[float(moved[j, c]) for c in range(outputs)] for j in range(inputs)])


def problems() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, str]]:
    """Return x, y, initial predictor and family, of which the limits differ in kind."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((7, 2)), 0.5 * rng.standard_normal((2, 1))
    separable = (x @ rng.standard_normal((2, 1)) > 0).astype(float)
    overlap = np.array([[1, 0, 1, 0, 1, 1, 0.0]]).T
    # Two inputs: on the first they overlap, where the second is zero; along the second they are separated.
    mixed = x.copy()
    mixed[:4] = [[1, 0], [1.5, 0], [-0.5, 0], [0.7, 0]]
    mixed[4:, 1] = (2 * overlap[4:, 0] - 1) * np.abs(mixed[4:, 1])
    equal = np.array([[1, 1], [1, -1], [1, 1], [2, 0], [1, 0.5], [-1, -1], [-1, 1.0]])
    few = np.array([[2, 1, 0, 0, 0, 0, 0.0]]).T
    constant = np.column_stack([np.ones(7), x[:, 0]])
    classes = np.column_stack([np.ones(7), x[:, 0] + np.array([6, 6, 6, 0, 0, 0, 0])])
    logits = 0.5 * rng.standard_normal((2, 3))
    three = one_hot([0, 0, 0, 1, 2, 1, 2], 3)
    # Dependent rows and one of zeros, of weight 1/4 at all times: neither may count as a direction.
    whole = np.array([[0, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, -1], [1, 0, -1], [-1, -1, 1], [-1, 1, 0.0]])
    start = np.array([[-0.3, 0.1, 0.1]]).T
    return {
        "overlapping": (x, overlap, w, "bernoulli"),
        "soft": (x, rng.random((7, 1)), w, "bernoulli"),
        "separable": (x, separable, w, "bernoulli"),
        "quasi-separable": (mixed, overlap, w, "bernoulli"),
        "whole numbers": (whole, np.array([[0, 0, 1, 0, 1, 1, 0.0]]).T, start, "bernoulli"),
        "several optima": (equal, np.array([[1, 1, 1, 1, 1, 0, 0.0]]).T, w, "bernoulli"),
        "wrong side": (x, separable, -150 * w, "bernoulli"),
        "counts": (x, rng.poisson(2.0, (7, 1)).astype(float), w, "poisson"),
        "few counts": (x, few, w, "poisson"),
        "no counts": (constant, 0 * few, w, "poisson"),
        "one class apart": (classes, three, logits, "categorical"),
        "classes apart": (x[:, :2], one_hot((x @ logits).argmax(axis=1), 3), 0.1 * logits, "categorical"),
    }


@pytest.mark.parametrize("name", problems())
@pytest.mark.parametrize("time", [1.0, 60.0, 400.0, pytest.param(1e4, marks=pytest.mark.slow)])
def test_against_many_digits(name: str, time: float) -> None:
    x, y, start, family = problems()[name]
    found = ln.geodesics.predictor(time, x, y, start, family)[0]
    moved = correction(x, y, start, family, time, found)
    moved = moved - moved.mean(axis=1, keepdims=True) if family == "categorical" else moved
    # Predictors are rounded to eps (1 + |z|), from the start too; w to that times ‖x⁺‖.
    size = 1 + np.abs(x).max() * (np.abs(found).max() + np.abs(start).max())
    least = np.linalg.svd(x, compute_uv=False)[-1]
    assert np.abs(moved).max() <= tolerances.solve(np.float64, len(x)) * size / least


@pytest.mark.parametrize("name", ["separable", "quasi-separable", "one class apart", "few counts"])
def test_a_wrong_time_is_seen(name: str) -> None:
    # Negative control of the oracle.
    x, y, start, family = problems()[name]
    found = ln.geodesics.predictor(1.1, x, y, start, family)[0]
    assert np.abs(correction(x, y, start, family, 1.0, found)).max() > 1e-4


@pytest.mark.parametrize("time", [1e2, 1e4, 1e6])
def test_scaled_weights_are_dual_feasible_at_large_times(time: float) -> None:
    # Σ q_n a_n = Σ σ(−a_n·w(0)) a_n with q_n = e^t σ(−a_n·w(t)), rows a_n = ±x_n: all of order one, in logarithms.
    x, y, start, _ = problems()["separable"]
    rows = (2 * y - 1) * x
    found = ln.geodesics.predictor(time, x, y[:, 0], start[:, 0])[0]
    scaled, begun = np.exp(time - softplus(rows @ found)), np.exp(-softplus(rows @ start[:, 0]))
    # Logarithms of q are rounded to eps |a·w|.
    most = (
        tolerances.product(np.float64, 7, 1 + np.abs(rows @ found).max()) * scaled.max() * np.abs(rows).max()
    )
    np.testing.assert_allclose(rows.T @ scaled, rows.T @ begun, rtol=0, atol=most)


def test_classes_at_large_times() -> None:
    # The same for softmax: Σ_n x_n (p_nc − y_nc) e^t keeps its start, whatever is left of p.
    x, y, start, family = problems()["classes apart"]
    found = ln.geodesics.predictor(1e4, x, y, start, family)[0]
    label, logs = y.argmax(axis=1), log_softmax(x @ found)
    scaled = np.where(y == 1, 0.0, np.exp(np.minimum(1e4 + logs, 100)))
    scaled[np.arange(len(x)), label] = -scaled.sum(axis=1)
    begun = np.exp(log_softmax(x @ start)) - y
    most = tolerances.product(np.float64, 7, np.abs(x @ found).max()) * np.abs(scaled).max() * np.abs(x).max()
    np.testing.assert_allclose(x.T @ scaled, x.T @ begun, rtol=0, atol=most)


@given(seeds, st.sampled_from(("bernoulli", "poisson", "categorical")))
def test_whole_numbers_of_every_kind_of_separation(seed: int, family: str) -> None:
    # Entries −1, 0, 1: dependent rows and partial separation are the rule. The flow composes, to large times.
    rng = np.random.default_rng(seed)
    count, inputs = int(rng.integers(1, 15)), int(rng.integers(1, 5))
    outputs = 3 if family == "categorical" else 1
    x, start = rng.integers(-1, 2, (count, inputs)).astype(float), rng.standard_normal((inputs, outputs))
    labels = rng.integers(0, 3 if family != "bernoulli" else 2, count)
    y = one_hot(labels, 3) if outputs == 3 else labels[:, None].astype(float)
    middle, end = ln.geodesics.predictor([40.0, 1e3], x, y, start, family)
    again = ln.geodesics.predictor(960.0, x, y, middle, family)[0]
    assert np.abs(x @ (again - end)).max() <= 1e-9 * (1 + np.abs(end).max())


def test_a_grid_of_times_is_each_time_alone() -> None:
    x, y, start, family = problems()["one class apart"]
    grid = np.array([0.0, 1e-6, 0.5, 3.0, 40.0, 1e3, 1e4])
    together = ln.geodesics.predictor(grid, x, y, start, family)
    for time, found in zip(grid, together, strict=True):
        alone = ln.geodesics.predictor(time, x, y, start, family)[0]
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-11 * (1 + np.abs(found).max()))


def test_newton_decreases_from_far_away() -> None:
    # From a state that has nothing to do with the minimum, where a full step would diverge.
    loss = tilted.Logistic(np.array([[1.0], [0.5]]), np.array([1.0, 0.0]), np.zeros(2))
    right = tilted.follow(loss, np.zeros(1), np.array([2.0]))[0]
    for far in (30.0, -30.0):
        state, _ = tilted._newton(loss, np.array([far]), 2.0, 0.0, np.inf)
        np.testing.assert_allclose(state, right, rtol=1e-12)


def test_what_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, start, _ = problems()["separable"]
    monkeypatch.setattr(tilted, "MAX_NEWTON", 1)
    with pytest.raises(ln.ConvergenceError, match="Newton's method at time") as caught:
        ln.geodesics.predictor(3.0, x, y[:, 0], start[:, 0])
    assert np.shape(caught.value.estimate) == (2,)
    monkeypatch.undo()
    monkeypatch.setattr(tilted, "MAX_STEPS", 2)
    with pytest.raises(ln.ConvergenceError, match="The path stopped at time"):
        ln.geodesics.predictor(30.0, x, y[:, 0], start[:, 0])


def test_differences_of_exponentials() -> None:
    sign, size = tilted._difference(
        np.array([0.0, -1e4, -np.inf, 5.0]), np.array([-1e-9, -1e4 - 1, -3.0, 5.0])
    )
    np.testing.assert_array_equal(sign, [1, 1, -1, 0])
    np.testing.assert_allclose(size[:3], [np.log(1e-9), -1e4 + np.log(-np.expm1(-1.0)), -3.0], rtol=1e-9)
    assert size[3] == -np.inf
