"""Is the function where C7 says? Against integrated networks of several shapes, quadruple precision, and limits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import mpmath as mp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

import linnat as ln
from linnat.dense import exponential as by_definition
from linnat.dense.jacobian import parameters, total, with_parameters
from linnat.families import Categorical, Family, Gaussian, as_family, one_hot
from linnat.linalg.exponentials import softplus
from tests import tolerances
from tests.strategies import seeds

pytestmark = pytest.mark.statement("C7")

COV = np.array([[2.0, 0.5], [0.5, 1.0]])
SCALAR = ("bernoulli", "poisson", "gaussian")
times = st.floats(0, 50)


def labels_for(family: Family, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw targets, not separable for more samples than inputs."""
    if family.name == "gaussian":
        return rng.standard_normal(shape)
    if family.name == "categorical":
        return one_hot(rng.integers(0, shape[-1], shape[:-1]), shape[-1])
    return rng.integers(0, 2 if family.name == "bernoulli" else 4, shape).astype(float)


def network(widths: tuple[int, ...], predictor: np.ndarray, rng: np.random.Generator) -> ln.LinearNetwork:
    """Return layers that multiply out to a predictor (d, C), or to what a bottleneck can realise of it."""
    after, later = np.eye(widths[-1]), []
    for n, m in reversed(list(pairwise(widths))[1:]):
        left, _, right = np.linalg.svd(rng.standard_normal((m, n)), full_matrices=False)
        layer = (left * np.geomspace(2, 0.5, min(m, n))) @ right
        # Logits of sum zero, so that C − 1 hidden units are enough.
        layer = layer - layer.mean(axis=0) if not later and m > 2 else layer
        later.insert(0, layer)
        after = after @ layer
    return ln.LinearNetwork([np.linalg.lstsq(after, predictor.T, rcond=1e-10)[0], *later])


def centred(z: np.ndarray, family: Family) -> np.ndarray:
    return z - z.mean(axis=-1, keepdims=True) if family.name == "categorical" else z


# Hidden widths of at least min(d, C), softmax min(d, C − 1): 3 inputs.
SHAPES: tuple[tuple[Family, tuple[tuple[int, ...], ...]], ...] = (
    (as_family("bernoulli"), ((3, 1), (3, 1, 1), (3, 4, 5, 1))),
    (as_family("poisson"), ((3, 1), (3, 4, 2, 1))),
    (Gaussian(COV), ((3, 2), (3, 2, 2), (3, 5, 2))),
    (as_family("categorical"), ((3, 3), (3, 2, 3), (3, 4, 2, 3))),
)


@pytest.mark.parametrize(("family", "shapes"), SHAPES, ids=lambda p: p.name if isinstance(p, Family) else "")
def test_deep_networks_of_several_shapes_are_on_one_path(
    family: Family, shapes: tuple[tuple[int, ...], ...]
) -> None:
    rng = np.random.default_rng(11)
    x, grid = rng.standard_normal((6, 3)), np.array([0.4, 2.0])
    outputs = shapes[0][-1]
    y, w = labels_for(family, (6, outputs), rng), 0.7 * rng.standard_normal((3, outputs))
    w, paths = centred(w, family), []
    for widths in shapes:
        net = network(widths, w, rng)
        np.testing.assert_allclose(total(net).T, w, atol=1e-12)
        model = by_definition.network_model(net, x)
        states = by_definition.natural_flow(model, parameters(net), y, family, grid, rtol=1e-8, atol=1e-10)
        path = np.array([total(with_parameters(net, state)).T for state in states])
        paths.append(centred(x @ path, family))
        score = np.einsum("nd,tnc->tdc", x, family.score(x @ path, y))
        begun = x.T @ family.score(x @ w, y)
        most = 1e-7 * np.abs(begun).max()
        np.testing.assert_allclose(score, np.exp(-grid)[:, None, None] * begun, rtol=0, atol=most)
    exact = centred(x @ ln.geodesics.predictor(grid, x, y, w, family), family)
    for path in paths:
        np.testing.assert_allclose(path, exact, rtol=0, atol=1e-6)


def test_a_bottleneck_and_gradient_flow_leave_the_path() -> None:
    # Negative controls: (J) fails for softmax with one hidden unit; gradient flow depends on depth.
    rng, family = np.random.default_rng(2), Categorical()
    x, y = rng.standard_normal((6, 3)), one_hot(rng.integers(0, 3, 6), 3)
    net = network((3, 1, 3), rng.standard_normal((3, 3)), rng)
    model = by_definition.network_model(net, x)
    for flow in (by_definition.natural_flow, by_definition.gradient_flow):
        state = flow(model, parameters(net), y, family, 2.0)[0]
        exact = ln.geodesics.predictor(2.0, x, y, total(net).T, family)[0]
        assert np.abs(centred(model.outputs(state) - x @ exact, family)).max() > 0.1


def test_layers_just_wide_enough_may_break_where_the_path_goes_on() -> None:
    # Scalar layers, w from −1 to its optimum 0.99: J = (w_2, w_1) vanishes at w = 0 from a balanced start, as in C3.
    x, y = np.array([[1.0], [1.0], [1.0], [-0.5]]), np.array([[1.0], [1.0], [0.0], [0.0]])

    def path(times: list[float]) -> np.ndarray:
        return ln.geodesics.predictor(times, x, y[:, 0], [-1.0])[:, 0]

    crossing = scipy.optimize.brentq(lambda t: path([t])[0], 0.0, 1.0, xtol=1e-14)
    balanced, unbalanced = (ln.LinearNetwork([[[-a]], [[1 / a]]]) for a in (1.0, 0.5))
    model, precise = by_definition.network_model(balanced, x), {"rtol": 1e-10, "atol": 1e-12}
    # An integrator may stop at the singularity or step over it, as rounding wills; up to it |θ'| ~ (t_s − t)^{−1/2}.
    before = crossing - np.array([1e-2, 1e-4])
    states = by_definition.natural_flow(model, parameters(balanced), y, "bernoulli", before, **precise)
    speeds = [float(np.linalg.norm(by_definition.natural_gradient(model, s, y, "bernoulli"))) for s in states]
    assert np.abs(np.abs(states[:, 0]) - np.abs(states[:, 1])).max() < 1e-7
    assert abs(speeds[1] / speeds[0] - 10.0) < 0.2
    end = by_definition.natural_flow(
        model, parameters(unbalanced), y, "bernoulli", [crossing, 1.0], **precise
    )
    assert abs(float(model.outputs(end[0])[0, 0])) < 1e-7
    assert abs(float(model.outputs(end[1])[0, 0]) - path([1.0])[0]) < 1e-7


def test_another_link_leaves_the_path() -> None:
    # Negative control: Bernoulli targets with mean 1 − exp(−e^z); its Fisher matrix is μ'²/(μ(1 − μ)).
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((5, 1)), np.array([1.0, 0, 1, 0, 0])

    def parts(w: float) -> tuple[float, float]:
        z = x[:, 0] * w
        mean = -np.expm1(-np.exp(z))
        slope, variance = np.exp(z - np.exp(z)), mean * (1 - mean)
        gradient = float(((mean - y) * slope / variance * x[:, 0]).sum())
        return gradient, float((slope**2 / variance * x[:, 0] ** 2).sum())

    def direction(state: np.ndarray) -> np.ndarray:
        gradient, fisher = parts(float(state[0]))
        return np.array([gradient / fisher])

    end = by_definition.flow(direction, [0.5], 1.0)[0, 0]
    assert abs(parts(end)[0] / parts(0.5)[0] / np.exp(-1.0) - 1) > 0.05


@pytest.mark.parametrize("family", ["bernoulli", "poisson", "categorical", "gaussian"])
def test_a_nonlinear_network_moves_its_means_on_straight_lines(family: str) -> None:
    # tanh, 2-4-C with biases, 3 samples: the Jacobian on them has full row rank.
    rng, model_family = np.random.default_rng(7), as_family(family)
    x, outputs = rng.standard_normal((3, 2)), 3 if family == "categorical" else 1
    y = labels_for(model_family, (3, outputs), rng)

    def forward(theta: np.ndarray) -> np.ndarray:
        hidden = np.tanh(x @ theta[:8].reshape(2, 4) + theta[8:12])
        return hidden @ theta[12 : 12 + 4 * outputs].reshape(4, outputs) + theta[12 + 4 * outputs :]

    start = rng.standard_normal(12 + 5 * outputs)
    model, grid = by_definition.function_model(forward), np.array([0.5, 1.0])
    jacobian = model.jacobian(start).reshape(3 * outputs, -1)
    assert np.linalg.matrix_rank(jacobian, tol=1e-6) == 3 * outputs
    states = by_definition.natural_flow(model, start, y, family, grid, rtol=1e-7, atol=1e-9)
    found = np.array([model_family.mean(forward(state)) for state in states])
    begun = model_family.mean(forward(start))
    lines = np.stack(
        [ln.geodesics.mean_parameters(grid, begun[:, c], y[:, c]) for c in range(outputs)], axis=-1
    )
    np.testing.assert_allclose(found, lines, atol=1e-6)


@given(seeds, st.integers(1, 4), times)
def test_independent_samples_have_margins_in_closed_form(seed: int, count: int, time: float) -> None:
    rng = np.random.default_rng(seed)
    x, w, y = rng.standard_normal((count, 4)), rng.standard_normal(4), rng.integers(0, 2, count)
    signs, singular = 2 * y - 1, np.linalg.svd(x, compute_uv=False)
    found = ln.geodesics.predictor(time, x, y, w)[0]
    wanted = ln.geodesics.margins(time, signs * (x @ w))[0]
    size = np.abs(found).max() * singular[0]
    most = tolerances.solve(np.float64, 4, singular[0] / singular[-1]) * (1 + size)
    np.testing.assert_allclose(signs * (x @ found), wanted, rtol=0, atol=most)
    mean = as_family("bernoulli").mean(x @ found)
    line = ln.geodesics.mean_parameters(time, as_family("bernoulli").mean(x @ w), y)[0]
    np.testing.assert_allclose(mean, line, rtol=0, atol=most)
    # The null-space component is that of the start.
    null = np.linalg.svd(x)[2][count:]
    np.testing.assert_allclose(null @ found, null @ w, rtol=0, atol=most)


@given(seeds, st.sampled_from(SCALAR), st.integers(1, 4), st.integers(1, 12), times)
def test_the_gradient_law_holds(seed: int, family: str, inputs: int, count: int, time: float) -> None:
    rng, model = np.random.default_rng(seed), as_family(family)
    x, w = rng.standard_normal((count, inputs)), rng.standard_normal(inputs)
    y = labels_for(model, (count, 1), rng)
    found = ln.geodesics.predictor(time, x, y[:, 0], w, family)[0]
    gradient, start = (x.T @ model.score((x @ v)[:, None], y)[:, 0] for v in (found, w))
    # Scores are differences of means: errors of predictors, eps (1 + |z|), times their derivatives.
    means = [np.abs(model.mean((x @ v)[:, None])).max() + np.abs(y).max() for v in (found, w)]
    size = (1 + np.abs(x @ found).max() + np.abs(x @ w).max()) * np.abs(x).max() * sum(means)
    most = tolerances.backward(np.float64, count * inputs) * size
    np.testing.assert_allclose(gradient, np.exp(-time) * start, rtol=0, atol=most)


@given(seeds, st.sampled_from(("bernoulli", "poisson", "categorical", "gaussian")), times, times)
def test_times_compose(seed: int, family: str, one: float, two: float) -> None:
    rng = np.random.default_rng(seed)
    model, outputs = as_family(family), 3 if family == "categorical" else 1
    x, w = rng.standard_normal((9, 2)), rng.standard_normal((2, outputs))
    y = labels_for(model, (9, outputs), rng)
    middle, end = ln.geodesics.predictor([one, one + two], x, y, w, family)
    again = ln.geodesics.predictor(two, x, y, middle, family)[0]
    # Errors of w at the first time are damped by the second flow where data overlap; separated ones stay.
    condition = np.linalg.cond(x) * (1 + np.abs(end).max())
    np.testing.assert_allclose(again, end, rtol=0, atol=tolerances.solve(np.float64, 9, condition) * 10)


@pytest.mark.parametrize("family", ["bernoulli", "poisson", "categorical"])
def test_the_start_and_the_end(family: str) -> None:
    rng, model = np.random.default_rng(3), as_family(family)
    outputs = 3 if family == "categorical" else 1
    x, w = rng.standard_normal((30, 2)), rng.standard_normal((2, outputs))
    y = labels_for(model, (30, outputs), rng)
    found = ln.geodesics.predictor([0.0, 1e4], x, y, w, family)
    np.testing.assert_array_equal(found[0], w)
    # Maximum likelihood: no gradient left, whatever the start.
    assert np.abs(x.T @ model.score(x @ found[1], y)).max() < 1e-12
    other = ln.geodesics.predictor(1e4, x, y, 0 * w, family)[0]
    np.testing.assert_allclose(centred(x @ other, model), centred(x @ found[1], model), atol=1e-12)


def test_margins_against_many_digits() -> None:
    grid = [0.0, 1e-300, 1e-12, 0.3, 20.0, 1e3, 1e4, 1e6]
    starts = [-700.0, -30.0, -1e-3, 0.0, 2.0, 700.0]
    found = ln.geodesics.margins(grid, starts)
    with mp.workdps(700):
        for i, time in enumerate(map(mp.mpf, grid)):
            for j, start in enumerate(map(mp.mpf, starts)):
                truth = time + mp.log(mp.exp(start) - mp.expm1(-time)) if time or start else mp.mpf(0)
                # Sums of logarithms, rounded to eps times their sizes.
                size = 1 + abs(time) + abs(mp.log(-mp.expm1(-time)) if time else 0) + abs(start)
                assert abs(found[i, j] - truth) <= tolerances.product(np.float64, 2) * size
    np.testing.assert_array_equal(found[0], starts)


@given(seeds, st.floats(0, 700))
def test_class_probabilities_are_those_of_the_margins(seed: int, time: float) -> None:
    rng = np.random.default_rng(seed)
    p, label = rng.dirichlet(np.ones(4), 5), rng.integers(0, 4, 5)
    found = ln.geodesics.class_probabilities([0.0, time], p, label)
    assert found.shape == (5, 2, 4)
    np.testing.assert_allclose(found[:, 0], p, rtol=1e-15)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-14)
    right = np.take_along_axis(p, label[:, None], axis=1)[:, 0]
    margin = ln.geodesics.margins(time, np.log(right) - np.log1p(-right))[0]
    wrong = found[np.arange(5), 1].sum(axis=-1) - found[np.arange(5), 1, label]
    np.testing.assert_allclose(wrong, np.exp(-softplus(margin)), rtol=0, atol=1e-14)
    others = np.delete(found[0, 1], label[0]) / np.delete(p[0], label[0])
    np.testing.assert_allclose(others, np.exp(-time), rtol=1e-13 * (1 + time))


def test_classes_with_independent_samples_follow_class_probabilities() -> None:
    rng = np.random.default_rng(0)
    x, w, label = rng.standard_normal((3, 4)), rng.standard_normal((4, 3)), np.array([2, 0, 1])
    grid = [0.0, 0.7, 5.0]
    found = Categorical().mean(x @ ln.geodesics.predictor(grid, x, label, w, "categorical"))
    wanted = ln.geodesics.class_probabilities(grid, Categorical().mean(x @ w), label)
    np.testing.assert_allclose(np.swapaxes(found, 0, 1), wanted, rtol=1e-12)


def test_gaussian_ignores_its_covariance_and_is_the_line_of_least_squares() -> None:
    rng = np.random.default_rng(1)
    x, y, w = rng.standard_normal((8, 3)), rng.standard_normal((8, 2)), rng.standard_normal((3, 2))
    found = ln.geodesics.predictor([0.3, 2.0], x, y, w, Gaussian(COV))
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    line = best + np.exp(-np.array([0.3, 2.0]))[:, None, None] * (w - best)
    np.testing.assert_allclose(found, line, rtol=1e-12)
    # C1 for the same data.
    task = ln.Task.from_data(x, y, noise_cov=COV)
    totals = ln.flow.natural_total(ln.LinearNetwork([w.T]), task, [0.3, 2.0])
    np.testing.assert_allclose(np.swapaxes(found, -1, -2), totals, rtol=1e-10)


def test_stacks_equal_a_loop_float32_is_kept_inputs_are_not_changed() -> None:
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((2, 6, 3)), rng.integers(0, 2, (2, 6))
    w, grid = rng.standard_normal((4, 1, 3)), [3.0, 0.0, 0.5]
    kept = x.copy(), y.copy(), w.copy()
    found = ln.geodesics.predictor(grid, x, y, w)
    assert found.shape == (4, 2, 3, 3)
    for a, b in np.ndindex(4, 2):
        np.testing.assert_array_equal(found[a, b], ln.geodesics.predictor(grid, x[b], y[b], w[a, 0]))
    for before, after in zip(kept, (x, y, w), strict=True):
        np.testing.assert_array_equal(before, after)
    # Several outputs are several problems.
    both = np.stack([y[0], 1 - y[0]], axis=-1)
    start = rng.standard_normal((3, 2))
    together = ln.geodesics.predictor(grid, x[0], both, start)
    for c in range(2):
        single = ln.geodesics.predictor(grid, x[0], both[:, c], start[:, c])
        np.testing.assert_allclose(together[..., c], single, rtol=1e-11)
    low = [a.astype(np.float32) for a in (x, w)]
    assert ln.geodesics.predictor(grid, low[0], y, low[1]).dtype == np.float32
    assert ln.geodesics.margins(1.0, low[1]).dtype == np.float32
    assert ln.geodesics.mean_parameters(1.0, low[1], [1, 0, 1]).dtype == np.float32
    assert ln.geodesics.mean_parameters([1.0, 2.0], w, [1, 0, 1]).shape == (4, 1, 2, 3)


def test_dependent_and_vanishing_inputs() -> None:
    x = np.array([[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]])
    found = ln.geodesics.predictor([1.0, 1e4], x, [1, 0, 1], [0.5, 0.5])
    # Only the direction (1, 2) is seen; (2, −1) keeps its start.
    np.testing.assert_allclose(found @ [2.0, -1.0], 0.5, rtol=1e-12)
    np.testing.assert_array_equal(ln.geodesics.predictor([5.0], 0 * x, [1, 0, 1], [0.5, 0.5]), [[0.5, 0.5]])
    # A cut-off that drops the smaller direction.
    x = np.diag([1.0, 1e-3])
    kept = ln.geodesics.predictor(2.0, x, [1, 1], rtol=1e-2)
    assert kept[0, 1] == 0.0
    assert kept[0, 0] > 0
    assert ln.geodesics.predictor(2.0, x, [1, 1])[0, 1] > 100


BAD: tuple[tuple[str, tuple[Any, ...], dict[str, Any]], ...] = (
    ("^times: expected times ≥ 0", (-1.0, [[1.0]], [1.0]), {}),
    ("^times: expected finite", (np.inf, [[1.0]], [1.0]), {}),
    ("^x: expected at least 2 dimension", (1.0, [1.0], [1.0]), {}),
    ("^x: expected finite", (1.0, [[np.nan]], [1.0]), {}),
    ("^x: expected real", (1.0, [[1j]], [1.0]), {}),
    ("^x: expected a non-empty", (1.0, np.zeros((0, 2)), [1.0]), {}),
    ("^y: expected shape \\(1,\\)", (1.0, [[1.0]], [1.0, 0.0]), {}),
    ("^y: expected labels 0 or 1.*Labels ±1", (1.0, [[1.0]], [-1.0]), {}),
    ("^y: expected counts", (1.0, [[1.0]], [-1.0]), {"family": "poisson"}),
    ("^y: expected probabilities of sum 1", (1.0, [[1.0]], [[0.5, 0.1]]), {"family": "categorical"}),
    ("^labels: expected labels from 0 to 1, found 2", (1.0, [[1.0]], [2], [[0.0, 0.0]], "categorical"), {}),
    ("^initial: expected shape \\(…, d, C\\) beside class", (1.0, [[1.0]], [2]), {"family": "categorical"}),
    ("^initial: expected shape \\(…, 1\\)", (1.0, [[1.0]], [1.0], [1.0, 2.0]), {}),
    ("^initial: expected shape \\(…, 1, 2\\)", (1.0, [[1.0]], [[1.0, 0.0]], [[1.0]]), {}),
    ("^initial: expected leading", (1.0, np.ones((2, 1, 1)), np.ones((2, 1)), np.ones((3, 1))), {}),
    ("^family", (1.0, [[1.0]], [1.0], [0.0], "probit"), {}),
    ("^z: expected log-rates", (1.0, [[1.0]], [1.0], [1e3], "poisson"), {}),
    ("^rtol", (1.0, [[1.0]], [1.0]), {"rtol": -1.0}),
)


@pytest.mark.parametrize(("message", "arguments", "options"), BAD, ids=[str(k) for k in range(len(BAD))])
def test_bad_input(message: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    with pytest.raises(ln.InputError, match=message):
        ln.geodesics.predictor(*arguments, **options)


def test_bad_input_of_the_closed_forms() -> None:
    with pytest.raises(ln.InputError, match="^targets: expected 2 samples"):
        ln.geodesics.mean_parameters(1.0, [0.5, 0.5], [1.0])
    with pytest.raises(ln.InputError, match="^targets: expected leading axes"):
        ln.geodesics.mean_parameters(1.0, np.ones((2, 1)), np.ones((3, 1)))
    with pytest.raises(ln.InputError, match="^initial: expected finite"):
        ln.geodesics.margins(1.0, [np.nan])
    with pytest.raises(ln.InputError, match="^initial: expected probabilities of sum 1"):
        ln.geodesics.class_probabilities(1.0, [0.5, 0.2], 0)
    with pytest.raises(ln.InputError, match="^labels"):
        ln.geodesics.class_probabilities(1.0, [0.5, 0.5], 2)
    with pytest.raises(ln.InputError, match="^labels"):
        ln.geodesics.class_probabilities(1.0, [[0.5, 0.5]] * 2, [0, 1, 1])


def test_a_face_that_rounding_does_not_resolve_is_refused() -> None:
    x = [[2.0, -1.0, -1.0, 1.0], [0.0, -1.0, -2.0, 2.0], [2.0, -2.0, 1.0, 0.0], [-2.0, -2.0, -1.0, 2.0]]
    with pytest.raises(ln.ConvergenceError, match="rounding leaves predictors undetermined") as raised:
        ln.geodesics.predictor(1e4, x, [0.0, 1.0, 0.0, 1.0])
    assert raised.value.estimate is not None


@pytest.mark.slow
def test_a_face_of_directions_ends_right_or_says_so() -> None:
    """Small whole numbers, many of whose programs have faces of solutions: t u* + offset at t = 1e4, or an error."""
    rng, right, refused = np.random.default_rng(0), 0, 0
    for _ in range(150):
        d = int(rng.integers(2, 5))
        x = rng.integers(-2, 3, (int(rng.integers(d, 3 * d + 1)), d)).astype(float)
        teacher = rng.integers(-2, 3, d)
        x = x[x @ teacher != 0]
        if not len(x):
            continue
        labels = np.where(x @ teacher > 0, 1, -1)
        program = ln.separable.limit_program(x, labels)
        try:
            found = ln.geodesics.predictor(1e4, x, (labels + 1) / 2)[0]
        except ln.ConvergenceError:
            refused += 1
            continue
        np.testing.assert_allclose(found, 1e4 * program.direction + program.offset, atol=1e-2)
        right += 1
    assert right > 15 * refused > 0
