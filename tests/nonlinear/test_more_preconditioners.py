"""PRONG in both views, the diagonal, single units, TONGA: each against its own definition, dense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat._checks import InputError
from linnat.nonlinear import curvature, passes
from linnat.nonlinear.optimisers import Batch, Preconditioned
from linnat.nonlinear.preconditioners import Diagonal, Kfac, Prong, Tonga, UnitWise
from linnat.nonlinear.preconditioners.prong import SCALES, from_white, to_white, white_gradient
from linnat.nonlinear.statistics import gather
from tests import tolerances
from tests.nonlinear.test_preconditioners import linear_problem, minibatch, multilayer


def prepared(method: Any, seed: int = 0, **options: Any) -> tuple[Any, ...]:
    net, theta, x, y, rng = multilayer(seed, **options)
    state, _ = method.update(method.init(net), minibatch(net, theta, x, rng))
    return net, theta, x, y, rng, state


@pytest.mark.statement("O3")
@given(st.integers(0, 10**6), st.sampled_from(SCALES))
def test_white_coordinates_leave_the_function(seed: int, scale: str) -> None:
    net, theta, _, _, rng, state = prepared(Prong(epsilon=0.01, scale=scale), seed)
    omega = to_white(state, theta)
    size = tolerances.solve(float, 12, 100.0)
    assert np.abs(from_white(state, omega) - theta).max() <= size * np.abs(theta).max()
    other = rng.standard_normal((7, 5))
    outputs, _ = white_gradient(state, omega, other, np.ones((7, 3)))
    _, work = passes.prepare(net, theta, other)
    assert np.abs(outputs - work.outputs).max() <= size * (1 + np.abs(work.outputs).max())


@pytest.mark.statement("O3")
@given(st.integers(0, 10**6), st.sampled_from(SCALES))
def test_a_step_in_white_coordinates_is_a_preconditioned_step(seed: int, scale: str) -> None:
    method = Prong(epsilon=0.01, scale=scale)
    net, theta, x, y, _, state = prepared(method, seed)
    _, slope = white_gradient(state, to_white(state, theta), x, y)
    # By differences: the white gradient is one.
    direction = np.random.default_rng(seed).standard_normal(net.n_parameters)
    direction /= np.linalg.norm(direction)
    ends = [
        passes.loss(net, from_white(state, to_white(state, theta) + s * direction), x, y)
        for s in (1e-4, -1e-4)
    ]
    # White directions move the function by up to the standard deviations over √ε: third derivatives likewise.
    assert abs((ends[0] - ends[1]) / 2e-4 - slope @ direction) <= tolerances.difference(2, 1e-4, 100.0)
    # Several steps with the coordinates held are as many preconditioned ones: amortisation.
    here, there, white = theta, theta, to_white(state, theta)
    for _ in range(3):
        white = white - 0.3 * white_gradient(state, white, x, y)[1]
        here = here - 0.3 * method.apply(state, passes.gradient(net, here, x, y)[1])
        _, work = passes.prepare(net, there, x)
        score = net.family.score(work.outputs, passes.as_targets(net, y, work))
        passes.backward(net, there, work, score / -work.rows)
        errors = [e.copy() for e in work.errors]
        there = there - 0.3 * method.apply_to_rows(state, work, out=np.empty_like(there))
        assert all(np.array_equal(e, old) for e, old in zip(work.errors, errors, strict=True))
    error = tolerances.solve(float, 12, 1e3) * np.abs(here).max()
    assert np.abs(from_white(state, white) - here).max() <= error
    assert np.abs(there - here).max() <= error


@pytest.mark.statement("O3")
def test_few_rows_are_made_white_in_the_place_of_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    net, theta, x, y, _ = multilayer(3)
    assert Prong().cost_by_rows(net, 2) < 1 < Prong().cost_by_rows(net, 200)
    method, batch = Preconditioned(Prong(epsilon=0.01), 0.1, 0.5, every=3), Batch(x[:2], y[:2])
    to_rows, found, called = Prong.apply_to_rows, [], []
    monkeypatch.setattr(Prong, "apply_to_rows", lambda *a, **k: (called.append(1), to_rows(*a, **k))[1])
    for cost in (0.5, 1.5):
        monkeypatch.setattr(Prong, "cost_by_rows", lambda self, net, rows, cost=cost: cost)
        rng, state = np.random.default_rng(0), method.init(net, theta)
        for _ in range(7):
            state, report = method.step(state, batch, rng)
        found.append((state.theta, report.gradient_norm))
    # Updates 0, 3 and 6 feed the moments, with other errors in the place of the data's.
    assert len(called) == 4
    error = tolerances.solve(float, 12, 1e3)
    assert np.abs(found[0][0] - found[1][0]).max() <= error * np.abs(theta).max()
    assert found[0][1] == pytest.approx(found[1][1], rel=error)


@pytest.mark.statement("O3")
def test_batch_scales_give_every_unit_variance_one() -> None:
    epsilon = 1e-10
    net, theta, x, _, _, state = prepared(Prong(epsilon=epsilon, scale="batch"))
    _, work = passes.prepare(net, theta, x)
    white = net.blocks(to_white(state, theta))
    for signal, layer, old, coordinates in zip(
        work.signals, white, net.blocks(theta), state.whitenings, strict=True
    ):
        before = signal @ old[:-1] + old[-1]
        entering = (signal - coordinates.centre) @ coordinates.basis / coordinates.scales
        normal = entering @ layer[:-1] + layer[-1]
        assert normal.var(axis=0) == pytest.approx(1.0, rel=1e-6)
        assert np.allclose(normal * coordinates.outer, before, rtol=1e-9, atol=1e-9)
    # Without the parameters there is nothing to take variances of, and the state stays.
    method = Prong(scale="batch")
    _, work = passes.prepare(net, theta, x)
    bare = gather(net, theta, work, "sampled", 0)._replace(theta=None)
    with pytest.raises(InputError, match="statistics: expected parameters beside signals and errors"):
        method.update(method.init(net), bare)


@pytest.mark.statement("O3")
def test_prong_is_the_input_half_of_kfac() -> None:
    epsilon = 1e-9
    net, theta, x, y, _, state = prepared(Prong(epsilon=epsilon))
    gradient = passes.gradient(net, theta, x, y)[1]
    found = Prong(epsilon=epsilon).apply(state, gradient)
    layers = zip(net.layers(found), net.layers(gradient), state.factors.inputs, strict=True)
    for layer, slope, inner in layers:
        wanted = np.linalg.solve(inner, slope.T).T
        error = np.abs(layer - wanted).max() / np.abs(wanted).max()
        assert error <= 1e3 * epsilon * np.linalg.cond(inner)


@pytest.mark.statement("O3", "X10")
def test_identity_units_white_inputs_condition_the_block() -> None:
    net, theta, x, _, _, _, batch = linear_problem((4, 5, 3, 2), 2)
    method = Prong(epsilon=1e-10)
    state, _ = method.update(method.init(net), batch)
    before = curvature.true_fisher(net, theta, x).block(1, 1)
    # The block in (V, d): the same matrix between the derivatives of the change of coordinates.
    change = np.stack(
        [from_white(state, unit) - from_white(state, np.zeros_like(theta)) for unit in np.eye(len(theta))]
    )
    first = net.slices[0]
    inside = change[first, first]
    white = inside @ before @ inside.T
    outer = batch.errors[0].T @ batch.errors[0] / batch.rows
    wanted = np.kron(np.eye(5), outer)
    assert np.abs(white - wanted).max() <= 1e-6 * np.abs(wanted).max()
    values = np.linalg.eigvalsh(white)
    kept = values[values > 1e-9 * values[-1]]
    outer_values = np.linalg.eigvalsh(outer)
    outer_kept = outer_values[outer_values > 1e-9 * outer_values[-1]]
    assert kept[-1] / kept[0] == pytest.approx(outer_kept[-1] / outer_kept[0], rel=1e-5)


def test_the_diagonal_is_the_diagonal() -> None:
    net, theta, x, y, _ = multilayer(3)
    _, work = passes.prepare(net, theta, x)
    state, _ = Diagonal().update(Diagonal().init(net), gather(net, theta, work, y))
    wanted = curvature.empirical_fisher(net, theta, x, y).diagonal()
    assert np.abs(state.moments - wanted).max() <= tolerances.product(float, 30) * wanted.max()
    gradient = passes.gradient(net, theta, x, y)[1]
    assert np.allclose(Diagonal().apply(state, gradient), gradient / (wanted + 0.01), rtol=1e-12)


@given(st.integers(0, 10**6))
def test_units_are_solved_whole_and_quasi_diagonally(seed: int) -> None:
    net, theta, x, y, _ = multilayer(seed)
    _, work = passes.prepare(net, theta, x)
    batch = gather(net, theta, work, y)
    gradient = np.random.default_rng(seed).standard_normal(net.n_parameters)
    matrix = curvature.empirical_fisher(net, theta, x, y)
    full, quasi = UnitWise(kind="full"), UnitWise()
    states = [method.update(method.init(net), batch)[0] for method in (full, quasi)]
    found = [net.layers(m.apply(s, gradient)) for m, s in zip((full, quasi), states, strict=True)]
    for i, slope in enumerate(net.layers(gradient)):
        blocks = matrix.unit_blocks(i + 1) + 0.01 * np.eye(slope.shape[1])
        size = tolerances.solve(float, 10, np.linalg.cond(blocks).max())
        wanted = np.linalg.solve(blocks, slope[:, :, None])[:, :, 0]
        assert np.abs(found[0][i] - wanted).max() <= size * np.abs(wanted).max()
        for block, row, step in zip(blocks, slope, found[1][i], strict=True):
            # Each weight meets the bias alone: its share of a system of two.
            total = row[-1] / block[-1, -1]
            for k in range(len(row) - 1):
                pair = block[np.ix_([k, -1], [k, -1])]
                alone = np.linalg.solve(pair, row[[k, -1]])
                assert abs(step[k] - alone[0]) <= size * (1 + abs(alone[0]))
                total -= block[k, -1] / block[-1, -1] * alone[0]
            assert abs(step[-1] - total) <= size * 10 * (1 + abs(total))


@pytest.mark.parametrize("kind", ["full", "quasi-diagonal"])
def test_units_do_not_mind_complements_of_their_inputs(kind: str) -> None:
    # h ↦ 1 − h of an input: w ↦ −w, b ↦ b + w. The step does the same, but for the damping, which is not invariant.
    net, theta, x, y, _ = multilayer(5, rows=60)
    flipped, turned = x.copy(), theta.copy()
    flipped[:, 0] = 1 - x[:, 0]
    layer = net.layers(turned)[0]
    layer[:, -1] += layer[:, 0]
    layer[:, 0] *= -1
    gaps = []
    for damping in (1e-6, 1e-8):
        method = UnitWise(damping=damping, kind=kind)

        def step(inputs: Any, vector: Any, method: UnitWise = method) -> Any:
            _, work = passes.prepare(net, vector, inputs)
            state, _ = method.update(method.init(net), gather(net, vector, work, y))
            return net.layers(method.apply(state, passes.gradient(net, vector, inputs, y)[1]))[0]

        first, second = step(x, theta), step(flipped, turned)
        second[:, -1] += second[:, 0]
        second[:, 0] *= -1
        gaps.append(np.abs(second - first).max() / np.abs(first).max())
    assert gaps[1] < 1e-4
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.1)


@pytest.mark.statement("O4")
@given(st.integers(0, 10**6), st.booleans())
def test_tonga_is_the_empirical_matrix_by_layers(seed: int, centred: bool) -> None:
    net, theta, x, y, rng = multilayer(seed, rows=9)
    _, work = passes.prepare(net, theta, x)
    batch = gather(net, theta, work, y)
    method = Tonga(decay=0.0, centred=centred, damping=0.05)
    state, _ = method.update(method.init(net), batch)
    whole = curvature.empirical_fisher(net, theta, x, y)
    gradient = passes.gradient(net, theta, x, y)[1]
    probe = rng.standard_normal(net.n_parameters)
    step = method.apply(state, probe)
    for i, where in enumerate(net.slices, start=1):
        wanted = whole.block(i, i)
        if centred:
            wanted = wanted - np.outer(gradient[where], gradient[where])
        size = tolerances.backward(float, len(wanted)) * (1 + np.abs(whole.block(i, i)).max())
        assert np.abs(method.matrix(state, i) - wanted).max() <= size
        solved = np.linalg.solve(wanted + 0.05 * np.eye(len(wanted)), probe[where])
        assert np.abs(step[where] - solved).max() <= size * 1e3 * np.abs(solved).max()


@pytest.mark.statement("O4")
def test_tonga_keeps_the_largest_eigenpairs_of_the_window() -> None:
    net, theta, x, _, rng = multilayer(0, rows=6)
    method = Tonga(decay=0.8, rank=200, centred=False)
    state, dense = method.init(net), 0.0
    for k in range(1, 9):
        batch = minibatch(net, theta, x, rng)
        rows = np.einsum("na,nb->nab", np.c_[batch.signals[0], np.ones(6)], batch.errors[0]).reshape(6, -1)
        old = min(1 - 1 / k, 0.8)
        dense = old * dense + (1 - old) * rows.T @ rows / 6
        state, _ = method.update(state, batch)
    assert (
        np.abs(method.matrix(state, 1) - dense).max() <= tolerances.backward(float, 60) * np.abs(dense).max()
    )
    few = Tonga(decay=0.8, rank=4, centred=False)
    state, _ = few.update(few.init(net), batch)
    assert all(len(v) <= 4 for v in state.values)
    values = np.linalg.eigvalsh(rows.T @ rows / 6)[::-1]
    assert state.values[0] == pytest.approx(values[:4], rel=1e-12)
    with pytest.raises(InputError, match="layer: expected a number from 1 to 3, found 4"):
        few.matrix(state, 4)


@pytest.mark.parametrize(
    "method",
    [
        Prong(),
        Prong(scale="batch"),
        Prong(scale="fisher"),
        Diagonal(),
        UnitWise(),
        UnitWise(kind="full"),
        Tonga(),
    ],
)
def test_directions_ascend_in_float32_too(method: Any) -> None:
    net, theta, x, y, rng = multilayer(4)
    theta = theta.astype(np.float32)
    gradient = passes.gradient(net, theta, x, y)[1]
    state = method.init(net, np.float32)
    with pytest.raises(InputError, match="state: expected a state that has seen a minibatch"):
        method.apply(state, gradient)
    for _ in range(3):
        state, _ = method.update(state, minibatch(net, theta, x, rng))
    step = method.apply(state, gradient)
    assert step.dtype == np.float32
    assert float(step @ gradient) > 0


def test_zero_variance_units_are_capped_by_epsilon() -> None:
    net, theta, x, y, rng = multilayer(0)
    x[:, 2] = 3.0
    method = Prong(epsilon=1e-3)
    state, _ = method.update(method.init(net), minibatch(net, theta, x, rng))
    step = method.apply(state, passes.gradient(net, theta, x, y)[1])
    assert np.isfinite(step).all()
    assert state.whitenings[0].scales.min() == pytest.approx(1e-3**0.5, rel=1e-6)
    assert np.isfinite(
        Kfac().apply(Kfac().update(Kfac().init(net), minibatch(net, theta, x, rng))[0], step)
    ).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prong(epsilon=0.0), "epsilon: expected"),
        (lambda: Prong(period=0), "period: expected"),
        (lambda: Prong(scale="batches"), "scale: expected one of 'none', 'batch', 'fisher'"),
        (lambda: Diagonal(damping=-1.0), "damping: expected"),
        (lambda: UnitWise(kind="rows"), "kind: expected one of 'full', 'quasi-diagonal'"),
        (lambda: Tonga(rank=0), "rank: expected"),
        (lambda: Tonga(decay=1.0), "decay: expected"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
