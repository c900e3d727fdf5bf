"""C1–C4, X4 and X10 against integrated definitions, mpmath, simulation, and their own composition."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import linnat as ln
from linnat import flow
from linnat.exact import roots
from linnat.exact.ratio import analyse, square_chain
from tests import tolerances

# The integrator runs at rtol 1e-11; its global error over these paths stays two orders above that.
INTEGRATED = 1e-9


def _augment(layer: np.ndarray, biases: bool) -> np.ndarray:
    if not biases:
        return layer
    bottom = np.zeros((1, layer.shape[1]))
    bottom[0, -1] = 1
    return np.vstack([layer, bottom])


def _by_definition(net, task, times):
    """Integrate v_i = (1/L) B_i⁻¹ E A_i⁻¹ with products and inverses written out."""
    shapes = [layer.shape for layer in net.layers]
    biases, depth = net.has_biases, net.depth

    def split(state):
        edges = np.cumsum([0, *(m * n for m, n in shapes)])
        return [state[a:b].reshape(s) for a, b, s in zip(edges[:-1], edges[1:], shapes, strict=True)]

    def velocity(_, state):
        layers = split(state)
        rows = shapes[0][0]
        maps = [_augment(m, biases) for m in layers]
        before = [np.eye(len(maps[0][0]))]
        for m in maps:
            before.append(m @ before[-1])
        error = task.goal(biases) - before[-1][:rows]
        out = []
        for i in range(depth):
            after = np.eye(rows)
            for layer in layers[i + 1 :]:
                after = layer[:, :rows] @ after
            out.append(np.linalg.solve(after, error) @ np.linalg.pinv(before[i]) / depth)
        return np.concatenate([o.ravel() for o in out])

    start = np.concatenate([layer.ravel() for layer in net.layers])
    run = solve_ivp(velocity, (0, max(times)), start, "DOP853", t_eval=times, rtol=1e-11, atol=1e-13)
    return [np.stack(parts) for parts in zip(*(split(y) for y in run.y.T), strict=True)]


def _square_case(size, depth, seed, biases=False, white=True):
    """Return a start and a task whose flow exists for all times."""
    rng = np.random.default_rng(seed)
    while True:
        net = ln.LinearNetwork.random((size,) * (depth + 1), rng=rng, biases=biases)
        turn = np.eye(size) + rng.standard_normal((size, size)) / math.sqrt(size)
        teacher = net.total[:, :size] @ turn
        x = rng.standard_normal((40, size)) + (0.5 if biases else 0.0)
        y = x @ teacher.T + biases * rng.standard_normal(size)
        task = ln.Task(teacher) if white and not biases else ln.Task.from_data(x, y)
        if np.isinf(flow.breakdown_time(net, task)):
            return net, task


def _multiply(layers, biases):
    total = layers[0]
    for layer in layers[1:]:
        total = layer[..., : total.shape[-2]] @ total
        if biases:
            total[..., -1] += layer[..., -1]
    return total


def _condition(net, task, statement="C2"):
    """Return what enters the error bound: Σκ(map) × the largest eigenvalue condition along the chain."""
    chain = square_chain(net, task, statement)
    ratio = analyse(chain)
    basis = ratio.vectors
    worst = 1.0
    for m in chain.maps:
        basis = basis / np.linalg.norm(basis, axis=0)
        worst = max(worst, float(np.linalg.cond(basis)))
        basis = m @ basis
    return float(chain.condition) * worst


@pytest.mark.statement("C1")
@pytest.mark.parametrize("widths", [(3, 3), (3, 4, 2), (2, 5, 5, 3), (3, 3, 3)])
@pytest.mark.parametrize("gauge", ["layerwise", "minimum-norm"])
def test_total_weight_follows_the_line_of_an_integrated_flow(widths, gauge):
    rng = np.random.default_rng(sum(widths))
    while True:
        net = ln.LinearNetwork.random(widths, rng=rng)
        x = rng.standard_normal((30, widths[0]))
        change = rng.standard_normal((widths[0], widths[0])) / math.sqrt(widths[0])
        task = ln.Task.from_data(x, x @ (net.total @ (np.eye(widths[0]) + change)).T)
        if np.isinf(flow.breakdown_time(net, task)):
            break
    times = [0.0, 0.4, 1.5]
    layers = ln.dense.flow.integrate(net, lambda m: ln.natural_gradient(m, task, gauge), times)
    line = flow.natural_total(net, task, times, gauge)
    assert line.shape == (3, widths[-1], widths[0])
    np.testing.assert_allclose(_multiply(layers, False), line, rtol=1e-6, atol=1e-7)
    # The negative control: gradient flow does not follow it.
    plain = ln.dense.flow.integrate(net, lambda m: ln.gradient(m, task), times)
    if len(widths) > 2:
        assert np.abs(_multiply(plain, False) - line).max() > 1e-2


@pytest.mark.statement("C1")
def test_singular_second_moment_moves_the_total_weight_on_its_range_only():
    rng = np.random.default_rng(5)
    net = ln.LinearNetwork.random((4, 6, 3), rng=rng)
    x = rng.standard_normal((40, 2)) @ rng.standard_normal((2, 4))
    task = ln.Task.from_data(x, x @ rng.standard_normal((4, 3)))
    times = [0.0, 0.3, 2.0]
    line = flow.natural_total(net, task, times)
    layers = ln.dense.flow.integrate(net, lambda m: ln.natural_gradient(m, task), times)
    factor = task.input_factor
    np.testing.assert_allclose(_multiply(layers, False) @ factor, line @ factor, atol=1e-7)
    outside = np.linalg.svd(factor.T)[2][2:].T
    np.testing.assert_allclose(line @ outside, np.broadcast_to(net.total @ outside, (3, 3, 2)), atol=1e-14)


@pytest.mark.statement("C1")
def test_loss_length_and_time_agree_with_each_other_and_with_the_loss():
    net, task = _square_case(3, 3, 2, white=False)
    times = np.array([0.0, 0.7, 1.9])
    losses = flow.natural_loss(net, task, times)
    layers = flow.natural_weights(net, task, times)
    measured = [
        float(ln.excess_loss(ln.LinearNetwork([layer[k] for layer in layers]), task)) for k in range(3)
    ]
    np.testing.assert_allclose(losses, measured, rtol=tolerances.solve(float, 3, _condition(net, task)))
    np.testing.assert_allclose(flow.time_to(losses[0], losses), times, atol=1e-13)
    assert flow.time_to(0.0, 1.0) == 0
    assert flow.time_to(1e300, 1e-300) == pytest.approx(300 * math.log(10))
    # The Fisher speed is √(2 ℓ), so the length is ∫ √(2 ℓ) dt.
    fine = np.linspace(0, 40, 20_001)
    speed = np.sqrt(2 * flow.natural_loss(net, task, fine))
    length = float(((speed[1:] + speed[:-1]) / 2 * np.diff(fine)).sum())
    assert float(flow.fisher_length(net, task)) == pytest.approx(length, rel=1e-6)


@pytest.mark.statement("C2", "X10")
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize(("size", "depth"), [(1, 2), (2, 3), (3, 2), (3, 5), (5, 4)])
def test_layers_against_the_integrated_definition(size, depth, biases):
    net, task = _square_case(size, depth, 7 * size + depth, biases, white=False)
    times = np.array([0.0, 0.05, 0.6, 2.5])
    closed = flow.natural_weights(net, task, times)
    for layer, start, integrated in zip(closed, net.layers, _by_definition(net, task, times), strict=True):
        assert layer.shape == (4, size, size + biases)
        np.testing.assert_array_equal(layer[0], start)
        assert np.abs(layer - integrated).max() <= INTEGRATED * np.abs(integrated).max() * 10
    np.testing.assert_allclose(
        _multiply(closed, biases),
        flow.natural_total(net, task, times),
        rtol=0,
        atol=tolerances.solve(float, size, _condition(net, task)) * np.abs(net.total).max() * 10,
    )


@pytest.mark.statement("C2")
@pytest.mark.parametrize("route", ["eigenvectors", "schur"])
@pytest.mark.parametrize("depth", [2, 3, 4, 6, 7])
def test_layers_against_mpmath(route, depth, monkeypatch):
    if route == "schur":
        monkeypatch.setattr(roots, "EIGEN_LIMIT", 0.0)
    net, task = _square_case(4, depth, depth)
    times = [1e-6, 0.8, 30.0]
    closed = flow.natural_weights(net, task, times)
    with mp.workdps(40):
        weights = [mp.matrix(w.tolist()) for w in net.weights]
        before = [mp.eye(4)]
        for w in weights:
            before.append(w * before[-1])
        ratio = mp.inverse(before[-1]) * mp.matrix(task.teacher.tolist())
        values, vectors = mp.eig(ratio)
        for k, t in enumerate(times):
            powers = [(mp.exp(-t) + (1 - mp.exp(-mp.mpf(t))) * v) ** (mp.mpf(1) / depth) for v in values]
            root = vectors * mp.diag(powers) * mp.inverse(vectors)
            for i in range(depth):
                exact = before[i + 1] * root * mp.inverse(before[i])
                exact = np.array([[float(mp.re(exact[a, b])) for b in range(4)] for a in range(4)])
                error = np.abs(closed[i][k] - exact).max() / np.abs(exact).max()
                assert error <= tolerances.solve(float, 4, _condition(net, task))


@pytest.mark.statement("C2")
def test_composition_of_times_and_broadcasting():
    net, task = _square_case(3, 3, 11)
    first = flow.natural_weights(net, task, 0.9)
    later = ln.LinearNetwork([layer[0] for layer in first])
    onward = flow.natural_weights(later, task, 0.4)
    direct = flow.natural_weights(net, task, 1.3)
    bound = tolerances.solve(float, 3, _condition(net, task) + _condition(later, task))
    for a, b in zip(onward, direct, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * np.abs(b).max())
    # A stack of networks, some on either route, equals a loop over them.
    cases = [_square_case(3, 3, seed) for seed in range(4)]
    cases.append(
        (ln.LinearNetwork([np.eye(3)] * 3), ln.Task(np.eye(3) + np.eye(3, k=1)))
    )  # not diagonalisable
    weights = [np.stack([c[0].weights[i] for c in cases]) for i in range(3)]
    stack, tasks = ln.LinearNetwork(weights), ln.Task(np.stack([c[1].teacher for c in cases]))
    times = [0.0, 0.3, 1.0, 2.0]
    together = flow.natural_weights(stack, tasks, times)
    for k, (one, own) in enumerate(cases):
        for layer, alone in zip(together, flow.natural_weights(one, own, times), strict=True):
            np.testing.assert_allclose(layer[k], alone, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(flow.breakdown_time(stack, tasks), np.full(5, np.inf))
    # More times than rows takes the product of matrices, fewer the other order of operations.
    many = flow.natural_weights(net, task, [0.5, 0.6, 0.7, 0.8, 0.9])[1][0]
    np.testing.assert_allclose(many, flow.natural_weights(net, task, 0.5)[1][0], rtol=1e-12, atol=1e-13)


@pytest.mark.statement("C2")
def test_zero_eigenvalues_semisimple_decay_and_defective_diverge():
    rng = np.random.default_rng(3)
    start, depth = np.eye(4) + 0.2 * rng.standard_normal((4, 4)), 3
    mix = np.eye(4) + 0.3 * rng.standard_normal((4, 4))
    semisimple = start @ start @ start @ mix @ np.diag([0.0, 0.0, 2.0, 3.0]) @ np.linalg.inv(mix)
    net = ln.LinearNetwork([start] * depth)
    assert np.isinf(flow.breakdown_time(net, ln.Task(semisimple)))
    early, late, end = (m for m in flow.natural_weights(net, ln.Task(semisimple), [30.0, 33.0, 3000.0])[1])
    # e^{-t/L} in units of e^{-30/L}: two points and the limit determine the rate.
    rate = np.linalg.norm(late - end) / np.linalg.norm(early - end)
    assert rate == pytest.approx(math.exp(-3 / depth), rel=1e-6)
    nilpotent = np.diag([0.0, 0.0, 2.0, 3.0])
    nilpotent[0, 1] = 1.0
    defective = start @ start @ start @ mix @ nilpotent @ np.linalg.inv(mix)
    task = ln.Task(defective)
    assert np.isinf(flow.breakdown_time(net, task))
    layers = flow.natural_weights(net, task, [0.0, 1.0, 30.0, 33.0])
    sizes = np.linalg.norm(layers[1], axis=(-1, -2))
    assert sizes[3] / sizes[2] == pytest.approx(math.exp(3 * (1 - 1 / depth)), rel=1e-3)
    for layer, integrated in zip(layers, _by_definition(net, task, [0.0, 1.0]), strict=True):
        np.testing.assert_allclose(layer[:2], integrated, atol=1e-7)
    with pytest.raises(ln.ConditionError, match="defective eigenvalue 0"):
        flow.natural_weights(net, task, 3000.0)


@pytest.mark.statement("C3")
@pytest.mark.parametrize("depth", [2, 3])
def test_the_flow_ends_where_the_spectrum_says(depth):
    rng = np.random.default_rng(depth)
    while True:
        net = ln.LinearNetwork.random((3,) * (depth + 1), rng=rng)
        task = ln.Task(rng.standard_normal((3, 3)))
        end = float(flow.breakdown_time(net, task))
        if np.isfinite(end):
            break
    # Independent: the first zero of det W(t) on the line, by bisection on a fine grid of c = 1 − e^{-t}.
    grid = np.linspace(0, 1, 20_001)
    line = net.total + grid[:, None, None] * (task.teacher - net.total)
    signs = np.sign(np.linalg.det(line))
    place = int(np.argmax(signs[1:] != signs[:-1]))
    assert -math.log1p(-grid[place]) <= end <= -math.log1p(-grid[place + 1])
    with pytest.raises(ln.FlowBreakdownError) as caught:
        flow.natural_weights(net, task, [0.0, end])
    assert caught.value.time == pytest.approx(end)
    with pytest.raises(ln.FlowBreakdownError):
        flow.natural_total(net, task, end + 1)
    # The layers stay finite, the speed diverges like (t_s − t)^{−(1−1/L)}.
    gaps = np.array([1e-4, 1e-6])
    layers = flow.natural_weights(net, task, end - gaps)
    assert all(np.abs(layer).max() < 1e3 for layer in layers)
    speeds = []
    for k in range(2):
        step = ln.natural_gradient(ln.LinearNetwork([layer[k] for layer in layers]), task)
        speeds.append(math.sqrt(sum(float((u**2).sum()) for u in step)))
    assert math.log(speeds[1] / speeds[0]) / math.log(1e2) == pytest.approx(1 - 1 / depth, abs=0.05)


@pytest.mark.statement("C3")
def test_complex_pairs_pass_and_pairs_within_rounding_of_the_axis_do_not():
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    net = ln.LinearNetwork([np.eye(2)] * 2)
    assert np.isinf(flow.breakdown_time(net, ln.Task(turn)))
    assert np.isinf(flow.breakdown_time(net, ln.Task(-np.eye(2) + 1e-6 * turn)))
    assert float(flow.breakdown_time(net, ln.Task(-np.eye(2) + 1e-17 * turn))) == pytest.approx(math.log(2))
    # W(0) = −W*: every eigenvalue is −1, and rounding would scatter them into the plane.
    rng = np.random.default_rng(0)
    for _ in range(20):
        net = ln.LinearNetwork.random((5, 5, 5), rng=rng)
        assert float(flow.breakdown_time(net, ln.Task(-net.total))) == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.statement("C3")
def test_width_decides_and_one_narrow_layer_suffices():
    rng = np.random.default_rng(1)
    target = -np.eye(3) + 0.1 * rng.standard_normal((3, 3))
    task = ln.Task(target)
    narrow, wide = ln.LinearNetwork.random((3, 6, 3, 3), rng=2), ln.LinearNetwork.random((3, 6, 5, 3), rng=2)
    flip = np.sign(np.linalg.det(narrow.total)) == np.sign(np.linalg.det(target))
    if flip:
        task = ln.Task(target * np.array([-1.0, 1.0, 1.0]))
    end = float(flow.breakdown_time(narrow, task))
    assert np.isfinite(end)
    assert np.isinf(flow.breakdown_time(wide, task))
    assert np.isinf(flow.breakdown_time(ln.LinearNetwork([np.eye(3)]), ln.Task(-np.eye(3))))

    def rise(net, time):
        layers = ln.dense.flow.integrate(net, lambda m: ln.natural_gradient(m, task), [time], rtol=1e-9)
        step = ln.natural_gradient(ln.LinearNetwork([layer[0] for layer in layers]), task)
        return math.sqrt(sum(float((u**2).sum()) for u in step))

    assert rise(narrow, end - 1e-5) > 5 * rise(narrow, end - 1e-2)


@pytest.mark.statement("C3")
def test_minimum_norm_flow_is_refused_from_balanced_starts_only():
    task = ln.Task(np.diag([-1.0, 2.0]))
    balanced = ln.LinearNetwork.balanced(np.eye(2), 2)
    with pytest.raises(ln.FlowBreakdownError):
        flow.natural_total(balanced, task, 1.0, "minimum-norm")
    lopsided = ln.LinearNetwork([np.eye(2) * 3, np.eye(2) / 3])
    assert flow.natural_total(lopsided, task, 1.0, "minimum-norm").shape == (1, 2, 2)
    with pytest.raises(ln.FlowBreakdownError):
        flow.natural_total(lopsided, task, 1.0)


@pytest.mark.statement("C4")
def test_balance_is_conserved_by_gradient_and_minimum_norm_flow_and_not_layerwise():
    rng = np.random.default_rng(9)
    for biases in (False, True):
        net = ln.LinearNetwork.random((3, 4, 5, 2), rng=rng, biases=biases)
        x = rng.standard_normal((30, 3)) + 0.3
        task = ln.Task.from_data(x, rng.standard_normal((30, 2)))
        start = flow.balance(net)
        assert [c.shape for c in start] == [(4, 4), (5, 5)]
        for ascent, conserved in (
            (lambda m: ln.gradient(m, task), True),  # noqa: B023
            (lambda m: ln.natural_gradient(m, task, "minimum-norm"), True),  # noqa: B023
            (lambda m: ln.natural_gradient(m, task), False),  # noqa: B023
        ):
            layers = ln.dense.flow.integrate(net, ascent, [1.0], rtol=1e-8, atol=1e-10)
            end = flow.balance(net.replace_layers([layer[0] for layer in layers]))
            change = max(float(np.abs(a - b).max()) for a, b in zip(start, end, strict=True))
            assert (change < 1e-6) if conserved else (change > 1e-2)
    assert all(
        np.abs(c).max() < 1e-14 for c in flow.balance(ln.LinearNetwork.balanced(np.diag([2.0, 1.0]), 3))
    )


@pytest.mark.statement("X4")
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_breaks_of_gaussian_problems(size):
    rng, draws = np.random.default_rng(size), 4000
    net = ln.LinearNetwork(
        [rng.standard_normal((draws, size, size)), np.broadcast_to(np.eye(size), (size, size))]
    )
    task = ln.Task(rng.standard_normal((draws, size, size)))
    broken = float(np.isfinite(flow.breakdown_time(net, task)).mean())
    frequency = flow.break_probability(size, samples=20_000, rng=1)
    error = math.hypot(frequency.error, math.sqrt(broken * (1 - broken) / draws))
    assert abs(broken - frequency.probability) <= 5 * error
    assert frequency.error == 0 if size <= 3 else 0 < frequency.error < 0.005
    values = np.linalg.eigvals(np.linalg.solve(net.total, task.teacher))
    counts = ((values.imag == 0) & (values.real < 0)).sum(axis=1)
    deviation = counts.std() / math.sqrt(draws)
    assert abs(counts.mean() - flow.expected_breaks(size)) <= 5 * deviation


def test_float32_stays_float32_and_is_as_good_as_its_input():
    net, task = _square_case(3, 3, 21)
    small = ln.LinearNetwork([w.astype(np.float32) for w in net.weights])
    exact = flow.natural_weights(
        ln.LinearNetwork([w.astype(np.float64) for w in small.weights]), task, [0.5, 2.0]
    )
    for a, b in zip(flow.natural_weights(small, task, [0.5, 2.0]), exact, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=tolerances.product(np.float32, 1), atol=1e-7)
    assert flow.natural_total(small, task, 1.0).dtype == np.float32
    assert flow.natural_loss(small, task, 1.0).dtype == np.float32


def test_bad_input_names_argument_and_statement():
    net, task = ln.LinearNetwork([np.eye(2)] * 2), ln.Task(np.eye(2))
    for times in (-1.0, [np.inf], [[1.0]]):
        with pytest.raises(ln.InputError, match="times"):
            flow.natural_weights(net, task, times)
    with pytest.raises(ln.InputError, match="gauge"):
        flow.natural_total(net, task, 1.0, "other")
    with pytest.raises(ln.InputError, match="task"):
        flow.natural_total(net, ln.Task(np.eye(3)), 1.0)
    with pytest.raises(ln.ConditionError, match="layer 2 is singular"):
        flow.natural_weights(ln.LinearNetwork([np.eye(2), np.ones((2, 2))]), task, 1.0)
    with pytest.raises(ln.ConditionError, match=r"square.*C1"):
        flow.natural_weights(ln.LinearNetwork.random((2, 3, 2), rng=0), task, 1.0)
    with pytest.raises(ln.ConditionError, match="positive definite"):
        flow.natural_weights(net, ln.Task(np.eye(2), np.diag([1.0, 0.0])), 1.0)
    bottleneck = ln.LinearNetwork.random((4, 2, 4), rng=0)
    for call in (flow.natural_total, flow.natural_loss):
        with pytest.raises(ln.ConditionError, match="X2"):
            call(bottleneck, ln.Task(np.eye(4)), 1.0)
    for call in (flow.breakdown_time, flow.fisher_length):
        with pytest.raises(ln.ConditionError, match="X2"):
            call(bottleneck, ln.Task(np.eye(4)))
    with pytest.raises(ln.ConditionError, match="full rank"):
        flow.breakdown_time(ln.LinearNetwork([np.ones((2, 2)), np.eye(3, 2), np.eye(2, 3)]), task)
    for arguments, name in (((-1.0, 1.0), "excess"), ((1.0, 0.0), "eps")):
        with pytest.raises(ln.InputError, match=name):
            flow.time_to(*arguments)
    with pytest.raises(ln.InputError, match="rng"):
        flow.break_probability(5)
    with pytest.raises(ln.InputError, match="size"):
        flow.expected_breaks(0)


@pytest.mark.parametrize(("widths", "seed"), [((3, 3, 7, 5, 3), 0), ((2, 2, 4, 2), 1), ((3, 3, 3), 4)])
def test_biases_neither_break_a_flow_nor_save_one(widths: tuple[int, ...], seed: int) -> None:
    net = ln.LinearNetwork.random(widths, rng=seed, biases=True)
    rng = np.random.default_rng(100 + seed)
    task = ln.Task(rng.standard_normal((widths[-1], widths[0])), teacher_bias=rng.standard_normal(widths[-1]))
    time = float(ln.flow.breakdown_time(net, task))
    assert np.isfinite(time)
    linear = ln.LinearNetwork(net.weights)
    assert time == pytest.approx(float(ln.flow.breakdown_time(linear, ln.Task(task.teacher))), rel=1e-9)

    def speed(end: float) -> float:
        run = solve_ivp(
            lambda _, state: (
                -ln.flatten(ln.natural_gradient(net.replace_layers(ln.unflatten(state, net)), task))
            ),
            (0, end),
            ln.flatten(net.layers),
            rtol=1e-8,
            atol=1e-10,
        )
        last = net.replace_layers(ln.unflatten(run.y[:, -1], net))
        return float(np.linalg.norm(ln.flatten(ln.natural_gradient(last, task))))

    # The speed diverges at that very time, like (t_s − t)^{−(1−1/L)} with L ≥ 2.
    assert speed(time * (1 - 1e-6)) > 20 * speed(time * (1 - 1e-2))
