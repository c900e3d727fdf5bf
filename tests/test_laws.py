"""Which changes of the problem leave the answer as it was? Bases, scales, merging, transposition, direct sums, shifts.

A law relates two runs of the package, so that neither needs an oracle; each has a negative control where it must fail.
Errors of layer i are measured against ‖B̃_i⁺‖ ‖Ẽ‖ ‖Ã_i⁺‖, the size of the terms that u_i is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import linnat as ln
from tests import tolerances
from tests.strategies import (
    Problem,
    condition_on_range,
    conditioned,
    make_problem,
    orthogonal,
    problems,
    seeds,
)

LINEAR = ("tame", "bottleneck", "rank-deficient", "singular")
EVERY = (*LINEAR, "biases")
GAUGES = ("layerwise", "minimum-norm")
Direction = Sequence[np.ndarray]


class Scale(NamedTuple):
    """The size of the terms of each layer, and the bound relative to it."""

    layers: tuple[float, ...]
    whole: float
    bound: float


def scale_of(net: ln.LinearNetwork, task: ln.Task, *, change: float = 1.0) -> Scale:
    """Return the sizes and the bound of X9: eps × Σκ × drift × what rounding the total weight costs.

    `change` is the condition of a change of basis, which is rounded as well.
    """
    factor = task.moments(net.has_biases).factor
    white = np.linalg.inv(task.noise_factor)
    ranks = ln.ranks(net, task)
    ins = [inverse_norm(a @ factor, int(r)) for a, r in zip(net.before, ranks.before, strict=True)]
    outs = [inverse_norm(white @ b, int(r)) for b, r in zip(net.after, ranks.after, strict=True)]
    norms = [np.linalg.norm(m, 2) or 1.0 for m in net.maps]
    gap = np.linalg.norm(white @ (task.goal(net.has_biases) - net.total) @ factor, 2)
    rounding = np.prod(norms) * np.linalg.norm(factor, 2) * np.linalg.norm(white, 2)
    size = float(gap + rounding)
    kappas = [
        condition_on_range(m, int(np.linalg.matrix_rank(m, tol=1e-9 * n)))
        for m, n in zip(net.maps, norms, strict=True)
    ]
    # Population moments arrive squared, p = 2. Drift: rectangular layers and drops of rank pass on their condition, and
    # thin layers of condition 1 may be nearly orthogonal: what is left of their product has a rounding of its factors.
    moments = condition_on_range(factor, max(np.linalg.matrix_rank(factor), 0) if factor.size else 0) ** 2
    moments += float(np.linalg.cond(task.noise_factor)) ** 2
    square = all(m.shape == (len(net.maps[0]),) * 2 and np.linalg.matrix_rank(m) == len(m) for m in net.maps)
    lost = [np.prod(norms[:i]) * inverse_norm(a, int(ranks.before[i])) for i, a in enumerate(net.before)]
    lost += [np.prod(norms[i + 1 :]) * inverse_norm(b, int(ranks.after[i])) for i, b in enumerate(net.after)]
    drift = 1.0 if square else float(max(np.prod(kappas), *lost))
    layers = tuple(size * a * b for a, b in zip(ins, outs, strict=True))
    bound = tolerances.chain(net.dtype, (sum(kappas) + moments) * change**2, drift)
    return Scale(layers, size, bound)


def inverse_norm(matrix: np.ndarray, rank: int) -> float:
    """Return 1 / σ_rank, 0 for rank 0."""
    return 1 / float(np.linalg.svd(matrix, compute_uv=False)[rank - 1]) if rank else 0.0


def assert_layers(found: Direction, wanted: Direction, scale: Scale) -> None:
    """Fail unless each layer agrees within the bound."""
    for i, (a, b, size) in enumerate(zip(found, wanted, scale.layers, strict=True), 1):
        error = float(np.abs(a - b).max())
        assert error <= scale.bound * size, f"layer {i}: {error:.3g} exceeds {scale.bound * size:.3g}"


def agree(found: Direction, wanted: Direction, scale: Scale) -> bool:
    """Return whether each layer agrees within the bound."""
    return all(
        np.abs(a - b).max() <= scale.bound * s for a, b, s in zip(found, wanted, scale.layers, strict=True)
    )


def effect(net: ln.LinearNetwork, task: ln.Task, direction: Direction) -> np.ndarray:
    """Return the change of the whitened total weight, Π^½ dW S^½ up to rotations: unique whatever the gauge."""
    change = ln.induced_change(net, direction) @ task.moments(net.has_biases).factor
    return task.whiten(change)


def effect_bound(net: ln.LinearNetwork, task: ln.Task, scale: Scale) -> float:
    """Return the bound for `effect`: each layer's error passes through B_i and A_i."""
    factor, white = task.moments(net.has_biases).factor, np.linalg.inv(task.noise_factor)
    ways = zip(net.before, net.after, scale.layers, strict=True)
    return scale.bound * (
        scale.whole
        + sum(np.linalg.norm(white @ b, 2) * np.linalg.norm(a @ factor, 2) * s for a, b, s in ways)
    )


def change_basis(net: ln.LinearNetwork, bases: Sequence[np.ndarray]) -> ln.LinearNetwork:
    """Return W_i → C_i W_i C_{i-1}⁻¹ with C_0 = C_L = I and the hidden bases given; biases C_i b_i."""
    weights = list(net.weights)
    biases = None if net.biases is None else list(net.biases)
    for i, basis in enumerate(bases):
        weights[i] = basis @ weights[i]
        weights[i + 1] = np.linalg.solve(basis.T, weights[i + 1].T).T
        if biases is not None:
            biases[i] = basis @ biases[i]
    return ln.LinearNetwork(weights, biases)


def carry(direction: Direction, bases: Sequence[np.ndarray], *, biases: bool) -> list[np.ndarray]:
    """Return u_i → C_i u_i C_{i-1}⁻¹."""
    moved = [d.copy() for d in direction]
    for i, basis in enumerate(bases):
        moved[i] = basis @ moved[i]
        inner = moved[i + 1][:, :-1] if biases else moved[i + 1]
        rest = [moved[i + 1][:, -1:]] if biases else []
        moved[i + 1] = np.concatenate([np.linalg.solve(basis.T, inner.T).T, *rest], axis=1)
    return moved


@pytest.mark.statement("X1", "N3")
@pytest.mark.parametrize("gauge", GAUGES)
@given(problem=problems(EVERY), seed=seeds)
def test_orthogonal_changes_of_hidden_bases(gauge: str, problem: Problem, seed: int) -> None:
    net, task = problem.net, problem.task
    rng = np.random.default_rng(seed)
    bases = [orthogonal(rng, n) for n in net.widths[1:-1]]
    moved = change_basis(net, bases)
    wanted = carry(ln.natural_gradient(net, task, gauge), bases, biases=net.has_biases)
    scale = scale_of(net, task)
    if gauge == "minimum-norm":  # its terms mix all layers: the smallest singular value of J rules
        scale = scale._replace(layers=(sum(scale.layers),) * net.depth)
    assert_layers(ln.natural_gradient(moved, task, gauge), wanted, scale)
    for a, b in zip(
        ln.gradient(moved, task), carry(ln.gradient(net, task), bases, biases=net.has_biases), strict=True
    ):
        size = np.prod([np.linalg.norm(m, 2) + 1 for m in net.maps]) ** 2 * 1e3
        assert np.abs(a - b).max() <= tolerances.product(np.float64, sum(net.widths), size)


@pytest.mark.statement("X1")
@given(st.integers(1, 4), st.integers(2, 5), seeds)
def test_any_change_of_hidden_bases_where_the_blocks_are_regular(size: int, depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = make_problem("tame", seed, (size + 2, *(size,) * (depth - 1), size + 1))
    bases = [conditioned(rng, size, size, 3.0) for _ in range(depth - 1)]
    moved = change_basis(problem.net, bases)
    wanted = carry(ln.natural_gradient(problem.net, problem.task), bases, biases=False)
    scale = scale_of(moved, problem.task, change=3.0)
    assert_layers(ln.natural_gradient(moved, problem.task), wanted, scale)


@pytest.mark.statement("X1")
def test_wide_layers_and_minimum_norms_know_the_basis() -> None:
    # The negative control: singular blocks (hidden layers wider than both ends), or the other gauge.
    rng = np.random.default_rng(0)
    for widths, gauge in (((3, 5, 3), "layerwise"), ((3, 3, 3), "minimum-norm")):
        problem = make_problem("tame", 1, widths)
        bases = [conditioned(rng, widths[1], widths[1], 3.0)]
        moved = change_basis(problem.net, bases)
        wanted = carry(ln.natural_gradient(problem.net, problem.task, gauge), bases, biases=False)
        found = ln.natural_gradient(moved, problem.task, gauge)
        assert not agree(found, wanted, scale_of(moved, problem.task, change=3.0))
        assert max(tolerances.relative_error(a, b) for a, b in zip(found, wanted, strict=True)) > 0.01


@pytest.mark.statement("N3", "C1")
@pytest.mark.parametrize("gauge", GAUGES)
@given(problem=problems(EVERY, max_depth=4, max_width=4), seed=seeds)
def test_the_effect_on_the_function_never_knows_hidden_bases(gauge: str, problem: Problem, seed: int) -> None:
    net, task = problem.net, problem.task
    rng = np.random.default_rng(seed)
    bases = [conditioned(rng, n, n, 3.0) for n in net.widths[1:-1]]
    moved = change_basis(net, bases)
    first = effect(net, task, ln.natural_gradient(net, task, gauge))
    second = effect(moved, task, ln.natural_gradient(moved, task, gauge))
    bound = max(effect_bound(n, task, scale_of(n, task, change=3.0)) for n in (net, moved))
    assert np.abs(first - second).max(initial=0) <= bound


@pytest.mark.statement("N3")
@given(problem=problems(EVERY, max_depth=4, max_width=4))
def test_both_gauges_have_the_same_effect(problem: Problem) -> None:
    net, task = problem.net, problem.task
    first, second = (effect(net, task, ln.natural_gradient(net, task, gauge)) for gauge in GAUGES)
    assert np.abs(first - second).max(initial=0) <= effect_bound(net, task, scale_of(net, task))


@pytest.mark.statement("N2", "G1")
@given(problem=problems(("tame", "bottleneck")), seed=seeds)
def test_changes_of_inputs_and_outputs(problem: Problem, seed: int) -> None:
    net, task = problem.net, problem.task
    rng = np.random.default_rng(seed)
    g, h = (
        conditioned(rng, net.widths[0], net.widths[0], 3.0),
        conditioned(rng, net.widths[-1], net.widths[-1], 3.0),
    )
    weights = list(net.weights)
    weights[0] = np.linalg.solve(g.T, weights[0].T).T
    weights[-1] = h @ weights[-1]
    teacher = h @ np.linalg.solve(g.T, task.teacher.T).T
    covs = [m @ c @ m.T for m, c in ((g, task.input_cov), (h, task.noise_cov))]
    moved, other = ln.LinearNetwork(weights), ln.Task(teacher, *((c + c.T) / 2 for c in covs))
    wanted = list(ln.natural_gradient(net, task))
    wanted[0] = np.linalg.solve(g.T, wanted[0].T).T
    wanted[-1] = h @ wanted[-1]
    assert_layers(ln.natural_gradient(moved, other), wanted, scale_of(moved, other, change=9.0))
    assert float(ln.excess_loss(moved, other)) == pytest.approx(float(ln.excess_loss(net, task)), rel=1e-9)
    # A gradient is a covector: it moves the other way.
    slope, pulled = ln.gradient(net, task)[0], ln.gradient(moved, other)[0]
    if net.depth > 1:
        size = np.abs(slope).max() * np.linalg.cond(g) + 1
        assert np.abs(pulled - slope @ g.T).max() <= tolerances.solve(np.float64, sum(net.widths), 1e4 * size)


@pytest.mark.statement("N2", "G1", "F1")
@pytest.mark.parametrize("gauge", GAUGES)
@given(problem=problems(EVERY, max_depth=4, max_width=4), power=st.integers(-8, 8))
def test_scales_of_inputs_and_noise_cancel(gauge: str, problem: Problem, power: int) -> None:
    net, task = problem.net, problem.task
    factor = 4.0**power  # its root is exact
    if problem.rung == "biases":
        scaled = ln.Task(
            task.teacher, task.input_cov, factor * task.noise_cov, task.teacher_bias, task.input_mean
        )
    else:
        scaled = ln.Task(task.teacher, factor * task.input_cov, factor * task.noise_cov)
    first, second = (ln.natural_gradient(net, t, gauge) for t in (task, scaled))
    scale = scale_of(net, task)
    if gauge == "minimum-norm":
        scale = scale._replace(layers=(sum(scale.layers),) * net.depth)
    assert_layers(second, first, scale)


@pytest.mark.statement("G1", "F1")
@given(problem=problems(LINEAR, max_depth=4, max_width=4), power=st.integers(-5, 5))
def test_scales_of_the_gradient_and_of_the_fisher_matrix(problem: Problem, power: int) -> None:
    net, task = problem.net, problem.task
    factor = 4.0**power
    more = ln.Task(task.teacher, factor * task.input_cov, task.noise_cov)
    noisier = ln.Task(task.teacher, task.input_cov, factor * task.noise_cov)
    bound = tolerances.solve(np.float64, sum(net.widths), 1e3)
    fisher = ln.fisher(net, task)
    size = np.abs(fisher).max()
    assert np.abs(ln.fisher(net, more) / factor - fisher).max() <= bound * size
    assert np.abs(ln.fisher(net, noisier) * factor - fisher).max() <= bound * size
    norms = (
        np.prod([np.linalg.norm(w, 2) + 1 for w in net.weights]) ** 2
        * (1 + np.linalg.norm(task.input_cov, 2))
        * 10
    )
    norms *= 1 + np.linalg.norm(task.teacher)
    for g, up, down in zip(
        ln.gradient(net, task), ln.gradient(net, more), ln.gradient(net, noisier), strict=True
    ):
        assert np.abs(up / factor - g).max() <= bound * norms
        assert np.abs(down * factor - g).max() <= bound * norms


@pytest.mark.statement("N2")
@given(problem=problems(LINEAR), seed=seeds)
def test_scales_of_the_layers(problem: Problem, seed: int) -> None:
    # W_i → c_i W_i with the teacher following: u_i → c_i u_i, at any widths and ranks (powers of two are exact).
    net, task = problem.net, problem.task
    factors = 2.0 ** np.random.default_rng(seed).integers(-6, 7, net.depth)
    moved = ln.LinearNetwork([c * w for c, w in zip(factors, net.weights, strict=True)])
    other = ln.Task(np.prod(factors) * task.teacher, task.input_cov, task.noise_cov)
    wanted = [c * u for c, u in zip(factors, ln.natural_gradient(net, task), strict=True)]
    assert_layers(ln.natural_gradient(moved, other), wanted, scale_of(moved, other))


@pytest.mark.statement("N2", "N3")
@pytest.mark.parametrize("gauge", GAUGES)
@given(problem=problems(LINEAR, max_depth=4, max_width=4), seed=seeds)
def test_the_answer_is_affine_in_the_teacher(gauge: str, problem: Problem, seed: int) -> None:
    net, task = problem.net, problem.task
    rng = np.random.default_rng(seed)
    other = rng.standard_normal(task.teacher.shape)
    tasks = [
        ln.Task(t, task.input_cov, task.noise_cov)
        for t in (task.teacher, other, 0.25 * task.teacher + 0.75 * other)
    ]
    first, second, mean = (ln.natural_gradient(net, t, gauge) for t in tasks)
    scales = [scale_of(net, t) for t in tasks]
    layers = tuple(sum(s) for s in zip(*(s.layers for s in scales), strict=True))
    if gauge == "minimum-norm":
        layers = (sum(layers),) * net.depth
    wanted = [0.25 * a + 0.75 * b for a, b in zip(first, second, strict=True)]
    assert_layers(mean, wanted, scales[0]._replace(layers=layers))


@pytest.mark.statement("N2", "G1", "N3")
@pytest.mark.parametrize("gauge", GAUGES)
@given(problem=problems(("tame", "bottleneck", "rank-deficient"), max_depth=4, max_width=4))
def test_transposition_reverses_the_chain(gauge: str, problem: Problem) -> None:
    # Ẽ → Ẽᵀ: S and Π change places.
    net, task = problem.net, problem.task
    swapped = [np.linalg.inv(c) for c in (task.noise_cov, task.input_cov)]
    other = ln.Task(task.teacher.T, *((c + c.T) / 2 for c in swapped))
    mirror = ln.LinearNetwork([w.T for w in reversed(net.weights)])
    wanted = [u.T for u in reversed(ln.natural_gradient(net, task, gauge))]
    scale = scale_of(mirror, other, change=max(problem.input_condition, problem.noise_condition))
    if gauge == "minimum-norm":
        scale = scale._replace(layers=(sum(scale.layers),) * net.depth)
    assert_layers(ln.natural_gradient(mirror, other, gauge), wanted, scale)
    assert float(ln.excess_loss(mirror, other)) == pytest.approx(
        float(ln.excess_loss(net, task)), rel=1e-9, abs=1e-12
    )


@pytest.mark.statement("G1", "N2", "C1")
@given(problem=problems(("tame", "bottleneck", "singular"), max_depth=5), data=st.data())
def test_merging_layers(problem: Problem, data: st.DataObject) -> None:
    net, task = problem.net, problem.task
    assume(net.depth >= 2)
    place = data.draw(st.integers(0, net.depth - 2))
    below, above = net.weights[place], net.weights[place + 1]
    merged = ln.LinearNetwork([*net.weights[:place], above @ below, *net.weights[place + 2 :]])
    assert float(ln.loss(merged, task)) == pytest.approx(float(ln.loss(net, task)), rel=1e-10)
    joint = ln.gradient(merged, task)[place]
    first, second = ln.gradient(net, task)[place : place + 2]
    size = 1e3 * (1 + max(np.abs(first).max(), np.abs(second).max(), np.abs(joint).max()))
    bound = tolerances.solve(np.float64, sum(net.widths), size)
    assert np.abs(first - above.T @ joint).max() <= bound
    assert np.abs(second - joint @ below.T).max() <= bound
    if ln.is_onto(net, task) and ln.is_onto(merged, task):
        # The step of the function is −E whatever the depth.
        steps = [effect(n, task, ln.natural_gradient(n, task)) for n in (net, merged)]
        limit = max(effect_bound(n, task, scale_of(n, task)) for n in (net, merged))
        assert np.abs(steps[0] - steps[1]).max(initial=0) <= limit
        gap = task.whiten((net.total - task.goal()) @ task.input_factor)
        assert np.abs(steps[0] - gap).max(initial=0) <= limit


@pytest.mark.statement("N1", "N2")
@given(problem=problems(LINEAR, max_depth=4), data=st.data())
def test_identity_layers_inserted(problem: Problem, data: st.DataObject) -> None:
    net, task = problem.net, problem.task
    place = data.draw(st.integers(0, net.depth))
    weights = [*net.weights[:place], np.eye(net.widths[place]), *net.weights[place:]]
    longer = ln.LinearNetwork(weights)
    assert float(ln.loss(longer, task)) == pytest.approx(float(ln.loss(net, task)), rel=1e-12)
    plain, deep = ln.natural_gradient(net, task), list(ln.natural_gradient(longer, task))
    if ln.has_full_ranks(net, task) and ln.has_full_ranks(longer, task):
        scale = scale_of(net, task)
        inserted = deep.pop(place)
        share = net.depth / (net.depth + 1)
        assert_layers(deep, [share * u for u in plain], scale)
        assert inserted.shape == (net.widths[place],) * 2
    if net.depth > 1 and 0 < place < net.depth:
        steps = [effect(n, task, ln.natural_gradient(n, task)) for n in (net, longer)]
        limit = max(effect_bound(n, task, scale_of(n, task)) for n in (net, longer))
        assert np.abs(steps[0] - steps[1]).max(initial=0) <= limit


@pytest.mark.statement("G1", "N1", "F1")
@given(problem=problems(("tame",), max_depth=1))
def test_one_layer_is_linear_regression(problem: Problem) -> None:
    net, task = problem.net, problem.task
    gap = net.total - task.teacher
    scale = scale_of(net, task)
    for gauge in GAUGES:
        assert_layers(ln.natural_gradient(net, task, gauge), [gap], scale)
    slope = np.linalg.solve(task.noise_cov, gap @ task.input_cov)
    bound = tolerances.solve(np.float64, sum(net.widths), problem.noise_condition**2)
    assert np.abs(ln.gradient(net, task)[0] - slope).max() <= bound * 100 * np.abs(gap).max()
    fisher = np.kron(task.input_cov, np.linalg.inv(task.noise_cov))
    tolerances.assert_close(ln.fisher(net, task), fisher, bound)
    tolerances.assert_close(ln.hessian(net, task), fisher, bound)


@pytest.mark.statement("N2")
@pytest.mark.parametrize("rungs", [("tame", "tame"), ("bottleneck", "tame"), ("rank-deficient", "singular")])
@given(seed=seeds)
def test_independent_problems_side_by_side(rungs: tuple[str, str], seed: int) -> None:
    widths = {
        "tame": (3, 3, 3, 2),
        "bottleneck": (3, 1, 2, 3),
        "rank-deficient": (2, 3, 2, 2),
        "singular": (3, 3, 3, 3),
    }
    parts = [make_problem(rung, seed + i, widths[rung]) for i, rung in enumerate(rungs)]

    def join(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.block([[a, np.zeros((len(a), b.shape[1]))], [np.zeros((len(b), a.shape[1])), b]])

    net = ln.LinearNetwork([join(a, b) for a, b in zip(*(p.net.weights for p in parts), strict=True)])
    fields = [join(*(getattr(p.task, name) for p in parts)) for name in ("teacher", "input_cov", "noise_cov")]
    task = ln.Task(*fields)
    wanted = [join(a, b) for a, b in zip(*(ln.natural_gradient(p.net, p.task) for p in parts), strict=True)]
    assert_layers(ln.natural_gradient(net, task), wanted, scale_of(net, task))
    total = sum(float(ln.excess_loss(p.net, p.task)) for p in parts)
    assert float(ln.excess_loss(net, task)) == pytest.approx(total, rel=1e-9, abs=1e-12)


@pytest.mark.statement("X10")
@pytest.mark.parametrize("gauge", GAUGES)
@given(problem=problems(LINEAR, max_depth=4, max_width=4))
def test_biases_of_zero_on_centred_data_stay_zero(gauge: str, problem: Problem) -> None:
    net, task = problem.net, problem.task
    with_biases = ln.LinearNetwork(net.weights, [np.zeros(n) for n in net.widths[1:]])
    plain, found = ln.natural_gradient(net, task, gauge), ln.natural_gradient(with_biases, task, gauge)
    scale = scale_of(with_biases, task)
    if gauge == "minimum-norm":
        scale = scale._replace(layers=(sum(scale.layers),) * net.depth)
    padded = [np.concatenate([u, np.zeros((len(u), 1))], axis=1) for u in plain]
    assert_layers(found, padded, scale)


@pytest.mark.statement("X10")
@given(problem=problems(("biases",)), seed=seeds)
def test_shifts_of_the_inputs_move_biases_only(problem: Problem, seed: int) -> None:
    net, task = problem.net, problem.task
    shift = np.random.default_rng(seed).standard_normal(net.widths[0])
    assert net.biases is not None
    first = net.biases[0] - net.weights[0] @ shift
    moved = ln.LinearNetwork(net.weights, [first, *net.biases[1:]])
    mean = task.input_mean + shift
    cov = task.input_cov - np.outer(task.input_mean, task.input_mean) + np.outer(mean, mean)
    other = ln.Task(
        task.teacher, (cov + cov.T) / 2, task.noise_cov, task.teacher_bias - task.teacher @ shift, mean
    )
    wanted = [u.copy() for u in ln.natural_gradient(net, task)]
    wanted[0][:, -1] -= wanted[0][:, :-1] @ shift
    scale = scale_of(moved, other, change=1 + float(np.linalg.norm(shift)) * float(np.linalg.norm(mean)))
    assert_layers(ln.natural_gradient(moved, other), wanted, scale)
    # The negative control: without biases the same shift changes the answer.
    bare = ln.LinearNetwork(net.weights)
    before, after = ln.natural_gradient(bare, task), ln.natural_gradient(bare, other)
    assert any(not np.allclose(a, b, rtol=1e-6, atol=0) for a, b in zip(before, after, strict=True))


@pytest.mark.statement("X10")
def test_one_layer_with_a_bias_is_one_without_on_inputs_with_a_one() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((20, 3)) + 1, rng.standard_normal((20, 2))
    weight, bias = rng.standard_normal((2, 3)), rng.standard_normal(2)
    rows = np.concatenate([x, np.ones((20, 1))], axis=1)
    affine, linear = ln.Task.from_data(x, y), ln.Task.from_data(rows, y)
    first, second = (
        ln.LinearNetwork([weight], [bias]),
        ln.LinearNetwork([np.concatenate([weight, bias[:, None]], axis=1)]),
    )
    bound = tolerances.solve(np.float64, 20, float(np.linalg.cond(rows)) ** 2)
    tolerances.assert_close(
        ln.natural_gradient(first, affine)[0], ln.natural_gradient(second, linear)[0], bound
    )
    tolerances.assert_close(ln.gradient(first, affine)[0], ln.gradient(second, linear)[0], bound)
    assert float(ln.loss(first, affine)) == pytest.approx(float(ln.loss(second, linear)), rel=1e-12)


@pytest.mark.statement("C1", "N3")
@pytest.mark.parametrize("gauge", GAUGES)
@given(problem=problems(EVERY, max_depth=4, max_width=4))
def test_the_slope_along_the_answer_is_at_most_twice_the_excess_loss(gauge: str, problem: Problem) -> None:
    # ⟨∇ℓ, u⟩ = uᵀFu = ‖T‖² ≤ ‖Ẽ‖² = 2 (ℓ − floor), with equality where J is onto.
    net, task = problem.net, problem.task
    found = ln.natural_gradient(net, task, gauge)
    slope = sum(float((g * u).sum()) for g, u in zip(ln.gradient(net, task), found, strict=True))
    twice = 2 * float(ln.excess_loss(net, task))
    scale = scale_of(net, task)
    bound = effect_bound(net, task, scale) * (scale.whole + 1)
    assert -bound <= slope <= twice + bound
    if ln.is_onto(net, task):
        assert abs(slope - twice) <= bound
    square = float((effect(net, task, found) ** 2).sum())
    assert abs(slope - square) <= 4 * bound


@pytest.mark.statement("N2")
def test_the_order_and_the_repetition_of_data_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 3))
    net = ln.LinearNetwork.random((4, 2, 3), rng=1, biases=True)
    order = rng.permutation(30)
    tasks = [
        ln.Task.from_data(x, y),
        ln.Task.from_data(x[order], y[order]),
        ln.Task.from_data(np.tile(x, (3, 1)), np.tile(y, (3, 1))),
    ]
    first, second, third = (ln.natural_gradient(net, t) for t in tasks)
    scale = scale_of(net, tasks[0])
    assert_layers(second, first, scale)
    assert_layers(third, first, scale)


def test_sizes_of_terms_are_sizes() -> None:
    # The bound itself: an answer perturbed in its sixth digit is refused on every rung.
    for rung in EVERY:
        problem = make_problem(rung, 3)
        found = ln.natural_gradient(problem.net, problem.task)
        if not any(u.any() for u in found):
            continue
        wrong = [u * (1 + 1e-6) for u in found]
        assert not agree(wrong, found, scale_of(problem.net, problem.task))
