"""Does the report say on what each rank rests? Ranks of the solvers, singular values of an oracle, gaps, warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

import linnat as ln
from linnat.data import load_data
from tests import tolerances
from tests.strategies import Problem, conditioned, integer_rank, make_problem, problems

pytestmark = pytest.mark.statement("N2", "X9")

EXACT = ("tame", "bottleneck", "rank-deficient", "singular", "biases")
FIELDS = ("ranks", "kept", "dropped", "cut_off", "gap", "undetermined")


@given(problems(EXACT, max_depth=4, max_width=4))
def test_the_ranks_are_those_of_every_solver(problem: Problem) -> None:
    report, found = ln.rank_report(problem.net, problem.task), ln.ranks(problem.net, problem.task)
    assert report.before.ranks.tolist() == found.before.tolist()
    assert report.after.ranks.tolist() == found.after.tolist()
    for side in report:
        assert (np.isnan(side.kept) == (side.ranks == 0)).all()
        assert not side.undetermined.any()
        # Nothing dropped lies above what is kept, and no gap is below a decade unless a warning says so.
        assert (side.gap >= 1).all()
        both = ~np.isnan(side.kept) & ~np.isnan(side.dropped)
        assert (side.dropped[both] <= side.kept[both] / 10).all()


def test_the_singular_values_are_those_of_an_oracle() -> None:
    # Each layer on an orthonormal basis of what reaches it, by plain SVDs.
    rng = np.random.default_rng(1)
    weights = [conditioned(rng, 5, 4, 30.0), conditioned(rng, 3, 5, 50.0), conditioned(rng, 4, 3, 20.0)]
    report = ln.rank_report(ln.LinearNetwork(weights), ln.Task(np.zeros((4, 4))))
    basis = np.eye(4)
    for i, weight in enumerate(weights[:2], 1):
        left, values, _ = np.linalg.svd(weight @ basis, full_matrices=False)
        basis = left[:, : min(weight.shape[0], basis.shape[1])]
        wanted = values[min(weight.shape[0], len(values)) - 1] / np.linalg.norm(weight, 2)
        assert report.before.kept[i] == pytest.approx(wanted, rel=tolerances.solve(np.float64, 8, 50.0))
    basis = np.eye(4)
    for i, weight in ((1, weights[2]), (0, weights[1])):
        left, values, _ = np.linalg.svd(weight.T @ basis, full_matrices=False)
        rank = min(weight.shape[1], len(values))
        wanted = values[rank - 1] / np.linalg.norm(weight, 2)
        assert report.after.kept[i] == pytest.approx(wanted, rel=tolerances.solve(np.float64, 8, 50.0))
        basis = left[:, :rank]
    # Negative control: the singular values of the layers themselves are others.
    own = np.linalg.svd(weights[1], compute_uv=False)
    assert abs(report.before.kept[2] * own[0] / own[-1] - 1) > 1e-3


def test_a_gap_is_measured_in_decades() -> None:
    for size in (1e-3, 1e-6):
        net = ln.LinearNetwork([np.diag([1.0, size, 1e-18]), np.eye(3)])
        side = ln.rank_report(net, ln.Task(np.eye(3))).before
        assert side.ranks.tolist() == [3, 2]
        assert side.kept[1] == pytest.approx(size)
        assert side.dropped[1] == pytest.approx(1e-18)
        assert side.gap[1] == pytest.approx(np.log10(size / 1e-18))
        assert side.dropped[1] < side.cut_off[1] < side.kept[1]
    by_rtol = ln.rank_report(net, ln.Task(np.eye(3)), rtol=1e-4).before
    assert by_rtol.ranks.tolist() == [3, 1]
    assert by_rtol.gap[1] == pytest.approx(6.0)
    assert by_rtol.cut_off[1] == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("values", "rtol"), [([1.0, 3e-4, 1e-4], 2e-4), ([1.0, 2e-4], 1e-4), ([1.0, 6e-5], 1e-4)]
)
def test_a_gap_below_a_decade_warns(values: list[float], rtol: float) -> None:
    net = ln.LinearNetwork([np.diag(values), np.eye(len(values))])
    with pytest.warns(ln.RankWarning, match="^the rank before layer 2 is undetermined: kept .* cut-off"):
        report = ln.rank_report(net, ln.Task(np.eye(len(values))), rtol)
    assert report.before.undetermined.tolist() == [False, True]
    assert report.before.ranks.tolist() == ln.ranks(net, ln.Task(np.eye(len(values))), rtol).before.tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not ln.rank_report(net, ln.Task(np.eye(len(values))), 1e-7).before.undetermined.any()


def test_what_the_solvers_warn_of_is_undetermined_here() -> None:
    outcomes = set()
    for size in np.geomspace(1e-17, 1e-11, 25):
        net, task = ln.LinearNetwork([np.diag([1.0, size]), np.eye(2)]), ln.Task(np.eye(2))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ln.ranks(net, task)
        warned = bool(caught)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            report = ln.rank_report(net, task)
        assert len(caught) == report.before.undetermined.any() == warned
        outcomes.add((warned, int(report.before.ranks[1])))
    assert {(False, 1), (True, 1), (True, 2), (False, 2)} == outcomes


def test_the_input_is_what_the_task_decided_on() -> None:
    rng = np.random.default_rng(0)
    net = ln.LinearNetwork.random((4, 3, 2), rng=rng)
    population = ln.Task(np.zeros((2, 4)), np.diag([9.0, 3.0, 9e-5, 0.0]), rtol=1e-3)
    side = ln.rank_report(net, population).before
    assert int(side.ranks[0]) == population.rank == 2
    assert side.kept[0] == pytest.approx(1 / 3)
    assert side.dropped[0] == pytest.approx(1e-5)
    assert side.cut_off[0] == 1e-3
    with pytest.warns(ln.RankWarning, match="before layer 1 is undetermined"):
        ln.rank_report(net, ln.Task(np.zeros((2, 4)), np.diag([9.0, 3.0, 9e-5, 0.0]), rtol=2e-5))
    x = rng.standard_normal((20, 4))
    x[:, 3] = x[:, 0] - x[:, 1]
    task = ln.Task.from_data(x, rng.standard_normal((20, 2)))
    side = ln.rank_report(net, task).before
    values = np.linalg.svd(x, compute_uv=False)
    assert int(side.ranks[0]) == task.rank == 3
    assert side.kept[0] == pytest.approx(values[2] / values[0])
    assert side.dropped[0] <= side.cut_off[0] / 3
    biased = ln.LinearNetwork.random((4, 3, 2), rng=rng, biases=True)
    side = ln.rank_report(biased, task).before
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    assert int(side.ranks[0]) == 4
    assert side.kept[0] == pytest.approx(values[2] / values[0])


def test_stacks_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    second = np.stack([integer_rank(rng, 3, 3, r) for r in (3, 2, 3, 1)]).reshape(2, 2, 3, 3)
    net = ln.LinearNetwork([rng.standard_normal((2, 1, 3, 3)), second, rng.standard_normal((3, 3))])
    task = ln.Task(np.eye(3), np.stack([np.eye(3), np.diag([1.0, 4.0, 0.0])]))
    report = ln.rank_report(net, task)
    for a, b in np.ndindex(2, 2):
        alone = ln.rank_report(
            ln.LinearNetwork([w[a, b] for w in net.weights]), ln.Task(np.eye(3), task.input_cov[b])
        )
        for side, single in zip(report, alone, strict=True):
            for name in FIELDS:
                whole = getattr(side, name)
                assert whole.shape == (2, 2, 3)
                np.testing.assert_allclose(whole[a, b], getattr(single, name), rtol=0.1, atol=1e-15)


def test_float32_and_zero_layers() -> None:
    problem = make_problem("tame", 1, (3, 4, 3, 2), dtype=np.float32)
    report = ln.rank_report(problem.net, problem.task)
    # Cut-offs of the layers are those of float32; that of S is the task's, which is float64.
    assert (report.before.cut_off[1:] > 1e-7).all()
    assert report.before.cut_off[0] < 1e-12
    empty = ln.rank_report(ln.LinearNetwork([np.zeros((3, 2)), np.ones((2, 3))]), ln.Task(np.zeros((2, 2))))
    assert empty.before.ranks.tolist() == [2, 0]
    assert np.isnan(empty.before.kept[1])
    assert empty.before.gap[1] == np.inf


def test_bad_input() -> None:
    net, task = ln.LinearNetwork([np.eye(2)]), ln.Task(np.eye(2))
    with pytest.raises(ln.InputError, match="^net: expected a LinearNetwork"):
        ln.rank_report([np.eye(2)], task)  # type: ignore[arg-type]
    with pytest.raises(ln.InputError, match="^rtol: expected a finite number in"):
        ln.rank_report(net, task, rtol=-1.0)


@pytest.mark.slow
def test_the_rank_of_real_inputs(find_data: Callable[[str], Path]) -> None:
    data = load_data(find_data("mnist"))
    task = ln.Task.from_data(data.x, data.x)
    net = ln.LinearNetwork.random((784, 30, 784), rng=0)
    side = ln.rank_report(net, task).before
    # 712 of 784 pixels vary; the others are zero in every image.
    assert side.ranks.tolist() == [712, 30]
    assert side.gap[0] > 5
