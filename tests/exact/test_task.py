"""Tasks: moments against exact sums, teachers against least squares, merging, floors, ill-conditioned rows, files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat._checks import InputError, RankWarning
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task, as_task
from tests import tolerances
from tests.mp_oracle import RATIONAL, exact_moments, rational_truth, solve
from tests.strategies import (
    RUNGS,
    Problem,
    conditioned,
    covariance,
    integer_rank,
    make_problem,
    problems,
    seeds,
)

pytestmark = pytest.mark.statement("X9", "X10")

F64 = np.float64


def floats(matrix: Any) -> np.ndarray:
    return np.array([[float(v) for v in row] for row in matrix])


def draw_data(seed: int, samples: int, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy affine data with a mean."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, inputs)) + rng.standard_normal(inputs)
    y = (
        x @ rng.standard_normal((inputs, outputs))
        + rng.standard_normal(outputs)
        + rng.standard_normal((samples, outputs))
    )
    return x, y


data_shapes = st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3))


@given(seeds, data_shapes)
def test_moments_of_data_are_means_over_samples(seed: int, shape: tuple[int, int, int]) -> None:
    x, y = draw_data(seed, *shape)
    task = Task.from_data(x, y)
    bound = tolerances.backward(F64, sum(shape))
    scale = np.linalg.norm(np.concatenate([x, y], axis=1)) ** 2 / len(x) + 1
    cov, cross = (floats(m) for m in exact_moments(x, y, RATIONAL))
    assert np.abs(task.input_cov - cov).max() <= bound * scale
    assert np.abs(task.input_factor @ task.input_factor.T - cov).max() <= bound * scale
    assert np.abs(task.plain.target @ task.input_factor.T - cross).max() <= bound * scale
    assert np.abs(task.input_mean - x.mean(axis=0)).max() <= bound * scale
    big, big_cross = (floats(m) for m in exact_moments(x, y, RATIONAL, biases=True))
    assert np.abs(task.augmented_factor @ task.augmented_factor.T - big).max() <= bound * scale
    assert np.abs(task.affine.target @ task.augmented_factor.T - big_cross).max() <= bound * scale
    assert (task.n_inputs, task.n_outputs, task.n_samples) == (shape[1], shape[2], shape[0])


@given(seeds, data_shapes)
def test_the_residual_is_what_least_squares_leaves(seed: int, shape: tuple[int, int, int]) -> None:
    x, y = draw_data(seed, *shape)
    task = Task.from_data(x, y)
    bound = tolerances.backward(F64, sum(shape)) * (np.linalg.norm(y) + np.linalg.norm(x)) ** 2
    ones = np.ones((len(x), 1))
    for biases, rows in ((False, x), (True, np.concatenate([x, ones], axis=1))):
        solution = np.linalg.lstsq(rows, y, rcond=None)[0]
        least = 0.5 * np.square(y - rows @ solution).sum() / len(x)
        assert abs(task.floor(biases) - least) <= bound
        residual = task.moments(biases).residual
        assert abs(0.5 * np.square(residual).sum() - least) <= bound
        goal = task.goal(biases).T
        found = 0.5 * np.square(y - rows @ goal).sum() / len(x)
        assert abs(found - least) <= bound * np.linalg.cond(rows)


@given(seeds, st.integers(1, 4), st.integers(1, 3))
def test_the_linear_teacher_is_the_least_squares_solution(seed: int, inputs: int, outputs: int) -> None:
    x, y = draw_data(seed, inputs + 6, inputs, outputs)
    task = Task.from_data(x, y)
    condition = float(np.linalg.cond(x))
    bound = tolerances.least_squares(F64, len(x), condition)
    tolerances.assert_close(task.goal(), np.linalg.lstsq(x, y, rcond=None)[0].T, bound)
    rows = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    wanted = np.linalg.lstsq(rows, y, rcond=None)[0].T
    bound = tolerances.least_squares(F64, len(x), float(np.linalg.cond(rows)))
    tolerances.assert_close(task.goal(biases=True), wanted, bound)


def test_a_teacher_without_bias_is_not_one_with_bias_cut_short() -> None:
    x, y = draw_data(0, 20, 3, 2)
    task = Task.from_data(x, y)
    assert tolerances.relative_error(task.goal(), task.goal(True)[:, :-1]) > 0.1
    # W* + c* m̄ᵀ S⁺
    formula = task.teacher + np.outer(task.teacher_bias, task.input_mean) @ np.linalg.pinv(task.input_cov)
    tolerances.assert_close(formula, task.goal(), tolerances.least_squares(F64, 20, float(np.linalg.cond(x))))


def test_fewer_samples_than_inputs_give_the_minimum_norm_teacher() -> None:
    x, y = draw_data(0, 3, 5, 2)
    task = Task.from_data(x, y)
    assert task.rank == 3
    assert task.affine.rank == 3
    bound = tolerances.least_squares(F64, 5, float(np.linalg.cond(x)), residual=0)
    tolerances.assert_close(task.goal(), np.linalg.lstsq(x, y, rcond=None)[0].T, bound)
    assert task.floor() <= tolerances.backward(F64, 8) * np.square(y).sum()
    assert task.floor(biases=True) <= tolerances.backward(F64, 8) * np.square(y).sum()


def test_a_single_sample_works() -> None:
    task = Task.from_data([[2.0, 0.0]], [[6.0]])
    assert task.rank == 1
    assert task.affine.rank == 1
    np.testing.assert_allclose(task.goal(), [[3.0, 0.0]], rtol=1e-15)
    # With a bias and no spread the constant alone fits: the minimum-norm slope is zero.
    np.testing.assert_allclose(task.goal(biases=True), [[0.0, 0.0, 6.0]], atol=1e-15)


def test_rows_of_zeros_work() -> None:
    task = Task.from_data(np.zeros((4, 3)), np.ones((4, 2)))
    assert task.rank == 0
    assert task.input_factor.shape == (3, 0)
    assert not task.goal().any()
    assert task.floor() == pytest.approx(1.0)
    assert task.floor(biases=True) == pytest.approx(0.0, abs=1e-15)
    np.testing.assert_allclose(task.goal(biases=True)[:, -1], 1.0, rtol=1e-14)


@given(seeds, st.integers(1, 5), st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_chunks_and_merges_give_the_moments_of_the_whole(seed: int, inputs: int, sizes: list[int]) -> None:
    x, y = draw_data(seed, sum(sizes), inputs, 2)
    ends = np.cumsum(sizes)
    chunks = [(x[e - n : e], y[e - n : e]) for e, n in zip(ends, sizes, strict=True)]
    whole = Task.from_data(x, y)
    merged = Task.from_data(*chunks[0])
    for pair in chunks[1:]:
        merged = merged.merge(Task.from_data(*pair))
    scale = np.linalg.norm(x) ** 2 + np.linalg.norm(y) ** 2 + 1
    bound = tolerances.backward(F64, sum(sizes)) * scale
    for other in (Task.from_chunks(iter(chunks)), merged):
        assert other.n_samples == whole.n_samples
        assert other.rank == whole.rank
        assert np.abs(other.input_cov - whole.input_cov).max() <= bound
        assert np.abs(other.floor() - whole.floor()) <= bound
        condition = float(np.linalg.cond(np.concatenate([np.ones((len(x), 1)), x], axis=1)))
        if len(x) > inputs + 1:
            limit = tolerances.least_squares(F64, sum(sizes), condition)
            tolerances.assert_close(other.goal(True), whole.goal(True), limit)


def test_blocks_of_rows_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw_data(0, 100, 4, 3)
    whole = Task.from_data(x, y)
    monkeypatch.setattr("linnat.linalg.tsqr.BLOCK_ROWS", 7)
    monkeypatch.setattr("linnat.linalg.tsqr.BLOCK_RATIO", 0)
    blocks = Task.from_data(x, y)
    tolerances.assert_close(blocks.goal(True), whole.goal(True), tolerances.least_squares(F64, 100, 10.0))
    tolerances.assert_close(blocks.input_cov, whole.input_cov, tolerances.backward(F64, 100))


def test_chunks_are_read_once_and_counted_from_zero() -> None:
    x, y = draw_data(0, 6, 2, 1)

    def chunks() -> Iterator[tuple[Any, Any]]:
        yield x, y
        yield x[:, :1], y

    with pytest.raises(InputError, match=r"^chunk 1: expected 2 and 1 columns, found 1 and 1"):
        Task.from_chunks(chunks())
    with pytest.raises(InputError, match=r"^chunk 0: y: expected 6 rows, found 5"):
        Task.from_chunks([(x, y[:5])])
    with pytest.raises(
        InputError, match=r"^chunk 1: x: expected finite numbers, found nan at index \(0, 0\)"
    ):
        Task.from_chunks([(x, y), (x * np.nan, y)])
    with pytest.raises(InputError, match=r"^chunk 0: expected a pair \(x, y\), found int"):
        Task.from_chunks([3])
    with pytest.raises(
        InputError, match=r"^chunks: expected at least one chunk \(x, y\), found an empty iterable"
    ):
        Task.from_chunks([])
    with pytest.raises(InputError, match="^chunk 0: x: expected a non-empty array"):
        Task.from_chunks([(np.zeros((0, 2)), np.zeros((0, 1)))])


def test_merging_needs_two_data_sets() -> None:
    x, y = draw_data(0, 6, 2, 1)
    task = Task.from_data(x, y)
    with pytest.raises(
        InputError, match="^merge: expected two tasks made from data, found population moments"
    ):
        task.merge(Task(np.ones((1, 2))))
    with pytest.raises(InputError, match="^other: expected a Task, found int"):
        task.merge(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="^other: expected 2 inputs, 1 outputs, found 1, 1"):
        task.merge(Task.from_data(x[:, :1], y))
    with pytest.raises(InputError, match="^other: expected the same noise_cov"):
        task.merge(Task.from_data(x, y, noise_cov=[[2.0]]))
    assert task.merge(task).n_samples == 12


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64])
def test_data_of_any_type_gives_float64_moments(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (50, 4)).astype(dtype), rng.integers(0, 2, (50, 3)).astype(dtype)
    task, double = Task.from_data(x, y), Task.from_data(x.astype(F64), y.astype(F64))
    for name in ("teacher", "input_cov", "input_mean", "teacher_bias"):
        assert getattr(task, name).dtype == np.float64
        assert (getattr(task, name) == getattr(double, name)).all()


def test_an_autoencoder_is_its_own_teacher() -> None:
    x, _ = draw_data(0, 30, 4, 1)
    task = Task.from_data(x, x)
    copy = Task.from_data(x, x.copy())
    bound = tolerances.least_squares(F64, 30, float(np.linalg.cond(x)), residual=0)
    for other in (task, copy):
        tolerances.assert_close(other.goal(), np.eye(4), bound)
        assert other.floor() <= tolerances.backward(F64, 30)


@given(problems(("tame", "singular")), seeds)
def test_population_moments_without_mean(problem: Problem, seed: int) -> None:
    task = problem.task
    assert task.n_samples is None
    assert task.rank == problem.input_rank
    factor = task.input_factor
    scale = max(float(np.linalg.norm(task.input_cov, 2)), 1e-300)
    gap = np.abs(factor @ factor.T - task.input_cov).max()
    assert gap <= tolerances.backward(F64, len(factor)) * scale
    assert (task.goal() == task.teacher).all()
    assert task.floor() == pytest.approx(task.n_outputs / 2)
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((task.n_outputs, 2))
    whitened = np.linalg.solve(np.linalg.cholesky(task.noise_cov), matrix)
    tolerances.assert_close(
        task.whiten(matrix), whitened, tolerances.solve(F64, len(matrix), problem.noise_condition)
    )


@given(seeds, st.integers(1, 4), st.integers(1, 3))
def test_population_moments_with_mean_equal_those_of_data(seed: int, inputs: int, outputs: int) -> None:
    x, y = draw_data(seed, inputs + 8, inputs, outputs)
    data = Task.from_data(x, y)
    population = Task(data.teacher, data.input_cov, None, data.teacher_bias, data.input_mean)
    condition = float(np.linalg.cond(np.concatenate([x, np.ones((len(x), 1))], axis=1)))
    # The covariance squares the condition: p = 2.
    bound = tolerances.least_squares(F64, len(x), condition)
    tolerances.assert_close(population.goal(), data.goal(), bound)
    tolerances.assert_close(population.goal(True), data.goal(True), bound)
    factors = [t.augmented_factor @ t.augmented_factor.T for t in (population, data)]
    tolerances.assert_close(*factors, tolerances.backward(F64, len(x)))
    # Noise replaces the residuals of data: the floors differ by what they should, the loss of the affine fit.
    offset = population.floor() - outputs / 2
    affine = data.floor(False) - data.floor(True)
    assert abs(offset - affine) <= bound * (abs(affine) + 1) * np.linalg.norm(y)


@pytest.mark.parametrize("biases", [False, True])
def test_the_floor_is_a_mean_over_samples_of_the_model(biases: bool) -> None:
    rng = np.random.default_rng(5)
    mean, noise = rng.standard_normal(3), covariance(rng, 2, 3.0)
    root = rng.standard_normal((3, 3))
    task = Task(
        rng.standard_normal((2, 3)), root @ root.T + np.outer(mean, mean), noise, rng.standard_normal(2), mean
    )
    count = 200_000
    x = rng.standard_normal((count, 3)) @ root.T + mean
    y = x @ task.teacher.T + task.teacher_bias + rng.standard_normal((count, 2)) @ np.linalg.cholesky(noise).T
    rows = np.concatenate([x, np.ones((count, 1))], axis=1) if biases else x
    errors = np.linalg.solve(np.linalg.cholesky(noise), (y - rows @ task.goal(biases).T).T)
    values = 0.5 * np.square(errors).sum(axis=0)
    deviation = tolerances.monte_carlo(count) * float(values.std())
    assert abs(values.mean() - task.floor(biases)) <= deviation


def test_the_floor_with_noise_is_in_its_metric() -> None:
    x, y = draw_data(0, 20, 3, 2)
    noise = covariance(np.random.default_rng(1), 2, 5.0)
    gap = (y - x @ np.linalg.lstsq(x, y, rcond=None)[0]).T
    wanted = 0.5 * np.sum(gap * np.linalg.solve(noise, gap)) / len(x)
    found = Task.from_data(x, y, noise).floor()
    assert abs(found - wanted) <= tolerances.solve(F64, 20, 25.0) * wanted


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_singular_covariances(rank: int) -> None:
    rng = np.random.default_rng(rank)
    factor = integer_rank(rng, 4, 4, 4)[:, :rank]
    task = Task(rng.standard_normal((2, 4)), factor @ factor.T)
    assert task.rank == rank
    assert task.input_factor.shape == (4, rank)


def test_the_rank_cut_off_is_an_argument() -> None:
    cov = np.diag([1.0, 1e-6, 1e-12])
    teacher = np.ones((1, 3))
    assert Task(teacher, cov).rank == 3
    assert Task(teacher, cov, rtol=1e-8).rank == 2
    assert Task(teacher, cov, rtol=1e-3).rank == 1
    x = np.diag([1.0, 1e-3, 1e-6])
    assert Task.from_data(x, x).rank == 3
    assert Task.from_data(x, x, rtol=1e-4).rank == 2
    assert Task.from_chunks([(x, x)], rtol=1e-2).rank == 1
    assert Task.from_data(x, x, rtol=1e-4).merge(Task.from_data(x, x)).rank == 2
    with pytest.raises(InputError, match="^rtol: expected a finite number in .*, found -1"):
        Task.from_data(x, x, rtol=-1.0)
    with pytest.raises(InputError, match="^rtol"):
        Task(teacher, cov, rtol=np.nan)


def test_an_undetermined_rank_of_the_inputs_warns_where_the_task_is_made() -> None:
    cov, teacher = np.diag([1.0, 9e-15, 4e-15]), np.ones((1, 3))
    with pytest.warns(
        RankWarning, match="^the rank of input_cov is undetermined: 2 values are kept"
    ) as caught:
        Task(teacher, cov)
    assert [w.filename for w in caught] == [__file__]
    assert Task(teacher, cov, rtol=5e-15).rank == 2
    x = np.diag([1.0, 9e-16, 6e-16])
    for make in (Task.from_data, lambda x, y: Task.from_chunks([(x, y)])):
        with pytest.warns(RankWarning, match="^the rank of the rows of x is undetermined: 2 values are kept"):
            make(x, x)
    assert Task.from_data(x, x, rtol=7e-16).rank == 2


def test_ranks_of_a_stack_may_differ() -> None:
    covs = np.stack([np.diag([4.0, 0, 0]), np.diag([1.0, 9, 0]), np.zeros((3, 3))])
    task = Task(np.ones((2, 3)), covs)
    assert np.asarray(task.rank).tolist() == [1, 2, 0]
    assert task.batch_shape == (3,)
    factors = task.input_factor
    assert factors.shape == (3, 3, 2)
    np.testing.assert_allclose(factors @ np.swapaxes(factors, -1, -2), covs, atol=1e-15)


def test_broadcast_tasks_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    teachers, means = rng.standard_normal((3, 1, 2, 4)), rng.standard_normal((5, 4))
    covs = np.stack([covariance(rng, 4, 3.0) for _ in range(5)]) + means[:, :, None] * means[:, None]
    noises = np.stack([covariance(rng, 2, 3.0) for _ in range(5)])
    task = Task(teachers, covs, noises, rng.standard_normal(2), means)
    assert task.batch_shape == (3, 5)
    for a, b in np.ndindex(3, 5):
        single = Task(teachers[a, 0], covs[b], noises[b], task.teacher_bias, means[b])
        for biases in (False, True):
            bound = tolerances.solve(F64, 8, 1e3)
            tolerances.assert_close(
                np.broadcast_to(task.goal(biases), (3, 5, 2, 4 + biases))[a, b], single.goal(biases), bound
            )
            assert abs(np.broadcast_to(task.floor(biases), (3, 5))[a, b] - single.floor(biases)) <= bound * 10


def graded_rows(seed: int, samples: int, inputs: int, condition: float) -> np.ndarray:
    """Return rows like images: columns of very different scale, some of them constant zero."""
    rng = np.random.default_rng(seed)
    rows = conditioned(rng, samples, inputs, condition)
    rows[:, inputs // 2] = 0.0
    return rows


@pytest.mark.parametrize("condition", [1e2, 1e5, 1e8])
@pytest.mark.parametrize("seed", range(3))
def test_ill_conditioned_rows_lose_their_condition_once(condition: float, seed: int) -> None:
    x = graded_rows(seed, 24, 7, condition)
    rng = np.random.default_rng(100 + seed)
    y = x @ rng.standard_normal((7, 2))
    keep = np.arange(7) != 3
    cov, cross = exact_moments(x[:, keep], y, RATIONAL)
    wanted = np.zeros((2, 7))
    wanted[:, keep] = floats(solve(cov, cross.T).T)
    task = Task.from_data(x, y)
    assert task.rank == 6
    spread = float(np.linalg.cond(x[:, keep]))
    # y is linear in x up to rounding: Wedin's residual term is eps κ².
    bound = tolerances.least_squares(F64, 24, spread, residual=tolerances.eps(F64))
    tolerances.assert_close(task.goal(), wanted, bound)
    # The rival forms XᵀX and loses κ²: where κ² eps > 1 nothing is left.
    if condition >= 1e8:
        textbook = np.linalg.pinv(x.T @ x) @ (x.T @ y)
        assert tolerances.relative_error(textbook.T, wanted) > 10 * bound


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_the_whole_way_from_rows_to_the_natural_gradient_of_one_layer(noise: float) -> None:
    # One layer, exact rational arithmetic: v = W* − W whatever S.
    rng = np.random.default_rng(0)
    x = graded_rows(0, 12, 4, 1e4)[:, [0, 1, 3]]
    y = x @ rng.standard_normal((3, 2)) + noise * rng.standard_normal((12, 2))
    net = LinearNetwork([rng.standard_normal((2, 3))])
    exact = rational_truth(net, partial(exact_moments, x, y))
    condition = float(np.linalg.cond(x))
    residual = noise * np.sqrt(24) / np.linalg.norm(x)
    found = net.total - Task.from_data(x, y).goal()
    tolerances.assert_close(found, exact.direction[0], tolerances.least_squares(F64, 12, condition, residual))


def test_images_of_digits(mnist_folder: Path) -> None:
    import gzip

    with gzip.open(mnist_folder / "t10k-images-idx3-ubyte.gz") as stream:
        x = (
            np.frombuffer(stream.read(), np.uint8, offset=16).reshape(10000, 784)[:2000].astype(np.float32)
            / 255
        )
    with gzip.open(mnist_folder / "t10k-labels-idx1-ubyte.gz") as stream:
        y = np.eye(10)[np.frombuffer(stream.read(), np.uint8, offset=8)[:2000]]
    task = Task.from_data(x, y)
    values = np.linalg.svd(x.astype(F64), compute_uv=False)
    rank = int((values > values[0] * 2000 * np.finfo(F64).eps).sum())
    assert task.rank == rank < 784
    factor_values = np.linalg.svd(task.input_factor, compute_uv=False)
    gap = np.abs(factor_values - values[:rank] / np.sqrt(2000)).max()
    assert gap <= tolerances.backward(F64, 784) * factor_values[0]
    fit = x @ task.goal().T
    gradient = x.T.astype(F64) @ (fit - y) / 2000
    # Orthogonality of the residuals: a backward error.
    scale = (
        np.linalg.norm(x, 2)
        * (np.linalg.norm(x, 2) * np.linalg.norm(task.goal(), 2) + np.linalg.norm(y, 2))
        / 2000
    )
    assert np.linalg.norm(gradient, 2) <= tolerances.backward(F64, 784) * scale
    least = 0.5 * np.square(fit - y).sum() / 2000
    assert abs(task.floor() - least) <= tolerances.backward(F64, 784) * scale


@pytest.mark.parametrize("rung", RUNGS)
def test_files_keep_population_tasks(tmp_path: Path, rung: str) -> None:
    task = make_problem(rung, 0).task
    task.save(tmp_path / "task.npz")
    read = Task.load(tmp_path / "task.npz")
    assert_same(task, read)


@pytest.mark.parametrize("noise", [None, [[2.0, 1.0], [1.0, 3.0]]])
@pytest.mark.parametrize("rtol", [None, 1e-3])
def test_files_keep_the_square_root_form(tmp_path: Path, noise: Any, rtol: float | None) -> None:
    x, y = draw_data(0, 15, 3, 2)
    task = Task.from_data(x, y, noise, rtol=rtol)
    task.save(str(tmp_path / "task.npz"))
    read = Task.load(str(tmp_path / "task.npz"))
    assert_same(task, read)
    assert read.n_samples == 15
    assert_same(task.merge(task), read.merge(read))


def assert_same(first: Task, second: Task) -> None:
    """Fail unless two tasks agree in every bit."""
    for name in (
        "teacher",
        "teacher_bias",
        "input_cov",
        "input_mean",
        "noise_cov",
        "noise_factor",
        "linear_teacher",
    ):
        assert (getattr(first, name) == getattr(second, name)).all(), name
    for biases in (False, True):
        for a, b in zip(first.moments(biases), second.moments(biases), strict=True):
            assert (np.asarray(a) == np.asarray(b)).all()
    assert first.white_noise == second.white_noise
    assert first.rtol == second.rtol


def test_files_that_are_no_tasks(tmp_path: Path) -> None:
    path = tmp_path / "task.npz"
    with pytest.raises(InputError, match=r"^task file: expected an existing .npz file, found no such file"):
        Task.load(path)
    np.savez(path, W1=np.eye(2))
    with pytest.raises(InputError, match="^task file: expected arrays written by Task.save, found .*W1"):
        Task.load(path)
    np.savez(path, root=np.eye(3), n_samples=3, n_inputs=2)
    with pytest.raises(InputError, match=r"^task file: expected a root with columns \[1, x, y\]"):
        Task.load(path)
    np.savez(path, root=np.eye(4), n_samples=0, n_inputs=2)
    with pytest.raises(
        InputError, match=r"^n_samples in .*: expected a finite number in \[1, inf\], found 0"
    ):
        Task.load(path)
    np.savez(path, root=np.full((4, 4), np.nan), n_samples=3, n_inputs=2)
    with pytest.raises(InputError, match="^root in .* finite numbers"):
        Task.load(path)
    x, y = draw_data(0, 15, 3, 2)
    Task.from_data(x, y).save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="^task file: expected a complete .npz archive"):
        Task.load(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"root": np.eye(4), "n_samples": np.ones(3), "n_inputs": 2},
        {"root": np.eye(4), "n_samples": np.nan, "n_inputs": 2},
        {"root": np.eye(4), "n_samples": 3, "n_inputs": np.array("two")},
        {"root": np.zeros((4, 4)), "n_samples": 3, "n_inputs": 2},
        {"root": np.eye(4), "n_samples": 3, "n_inputs": 2, "rtol": np.ones(2)},
        {"root": np.eye(4), "n_samples": 3, "n_inputs": 2, "rtol": -1.0},
        {"teacher": np.eye(2), "input_cov": np.eye(3), "teacher_bias": np.ones(2), "input_mean": np.ones(2)},
        {
            "teacher": np.eye(2),
            "input_cov": np.eye(2),
            "teacher_bias": np.ones(2),
            "input_mean": np.array(["a", "b"]),
        },
    ],
)
def test_files_with_wrong_contents_give_one_clear_error(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.savez(tmp_path / "task.npz", **arrays)
    with pytest.raises(InputError) as error:
        Task.load(tmp_path / "task.npz")
    assert "\n" not in str(error.value)
    assert "expected" in str(error.value)


EYE = np.eye(2)
BAD_TASKS: list[tuple[Callable[[], Any], str]] = [
    (lambda: Task(np.ones(3)), r"^teacher: expected at least 2 dimension\(s\), found shape \(3,\)"),
    (lambda: Task([[np.nan]]), r"^teacher: expected finite numbers, found nan at index \(0, 0\)"),
    (lambda: Task([[1j]]), "^teacher: expected real numbers .*, found dtype complex128"),
    (lambda: Task(np.array([[None]])), "^teacher: expected real numbers .*, found dtype object"),
    (lambda: Task(np.ones((0, 2))), "^teacher: expected a non-empty array"),
    (lambda: Task(EYE, np.eye(3)), r"^input_cov: expected shape \(…, 2, 2\), found shape \(3, 3\)"),
    (
        lambda: Task(EYE, [[1, 0.5], [0, 1]]),
        "^input_cov: expected a symmetric matrix, found .*0.5.* Symmetrise",
    ),
    (
        lambda: Task(EYE, [[1, 2], [2, 1]]),
        r"^input_cov: expected a positive semi-definite matrix, found eigenvalue -1 ",
    ),
    (lambda: Task(EYE, [[1, np.inf], [np.inf, 1]]), "^input_cov: expected finite numbers, found inf"),
    (lambda: Task(EYE, None, np.eye(3)), r"^noise_cov: expected shape \(…, 2, 2\), found shape \(3, 3\)"),
    (
        lambda: Task(EYE, None, np.diag([1.0, 0.0])),
        "^noise_cov: expected a positive definite matrix, found smallest eigenvalue 0",
    ),
    (
        lambda: Task(EYE, None, np.diag([1.0, -2.0])),
        "^noise_cov: expected a positive definite matrix, found smallest eigenvalue -2",
    ),
    (lambda: Task(EYE, None, [[1, 1], [0, 1]]), "^noise_cov: expected a symmetric matrix"),
    (lambda: Task(EYE, teacher_bias=np.ones(3)), r"^teacher_bias: expected length 2, found shape \(3,\)"),
    (lambda: Task(EYE, teacher_bias=[1.0, np.nan]), "^teacher_bias: expected finite numbers"),
    (lambda: Task(EYE, EYE, input_mean=np.ones(3)), r"^input_mean: expected length 2, found shape \(3,\)"),
    (
        lambda: Task(EYE, EYE, input_mean=[2.0, 0.0]),
        "^input_cov minus the outer product of input_mean: expected a positive semi-definite .* eigenvalue -3 ",
    ),
    (
        lambda: Task(np.ones((3, 2, 2)), np.stack([EYE] * 4)),
        r"expected leading axes that broadcast, found \(3,\) and \(4,\)",
    ),
    (
        lambda: Task.from_data(np.ones((3, 2)), np.ones((2, 1))),
        "^y: expected 3 rows, one for each of x, found 2",
    ),
    (
        lambda: Task.from_data(np.ones(3), np.ones((3, 1))),
        r"^x: expected 2 dimension\(s\), found shape \(3,\)",
    ),
    (
        lambda: Task.from_data(np.ones((3, 1)), np.ones(3)),
        r"^y: expected 2 dimension\(s\), found shape \(3,\)",
    ),
    (lambda: Task.from_data(np.ones((0, 1)), np.ones((0, 1))), "^x: expected a non-empty array"),
    (lambda: Task.from_data([[np.inf]], [[1.0]]), "^x: expected finite numbers, found inf"),
    (lambda: Task.from_data([[1.0]], [["a"]]), "^y: expected real numbers"),
    (lambda: Task.from_data(EYE, EYE, noise_cov=np.eye(3)), "^noise_cov: expected shape"),
    (lambda: as_task(EYE), "^task: expected a Task, found ndarray. Make one"),
]


@pytest.mark.parametrize(("make", "message"), BAD_TASKS)
def test_bad_input(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("lengths", [(3, 4), (4, 3)])
def test_batches_of_biases_and_means_must_broadcast(lengths: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="leading axes that broadcast"):
        Task(EYE, 9 * EYE, None, np.ones((lengths[0], 2)), np.ones((lengths[1], 2)))


def test_nothing_is_shared_and_nothing_can_be_changed() -> None:
    teacher = np.ones((2, 2))
    task = Task(teacher)
    teacher[0, 0] = 5
    assert task.teacher[0, 0] == 1
    for array in (task.teacher, task.input_cov, task.input_factor, task.plain.target, task.noise_factor):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 2
    with pytest.raises(AttributeError):
        task.teacher = teacher  # type: ignore[misc]
    x, y = draw_data(0, 5, 2, 2)
    copies = x.copy(), y.copy()
    Task.from_data(x, y)
    assert (x == copies[0]).all()
    assert (y == copies[1]).all()


def test_scale_does_not_matter() -> None:
    # Moments of rows of size 1e±100 neither overflow nor vanish; ranks are relative.
    x, y = draw_data(0, 9, 3, 2)
    for power in (-100, 100):
        task = Task.from_data(x * 10.0**power, y)
        assert task.rank == 3
        wanted = np.linalg.lstsq(x, y, rcond=None)[0].T * 10.0**-power
        tolerances.assert_close(
            task.goal(), wanted, tolerances.least_squares(F64, 9, float(np.linalg.cond(x)))
        )


def test_exact_sums_are_an_oracle_at_all() -> None:
    # The negative control of this file: the centred second moment is not the uncentred one.
    x, y = draw_data(0, 9, 3, 2)
    cov = floats(exact_moments(x, y, RATIONAL)[0])
    assert tolerances.relative_error(np.cov(x.T, bias=True), cov) > 0.01
    assert exact_moments([[0.5]], [[1.0]], RATIONAL)[0][0, 0] == Fraction(1, 4)
