"""Does every public function meet what is odd but legal, and refuse in one clear line what is not?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import linnat as ln
from linnat import dense
from linnat.data import load_data, read_idx

NET = ln.LinearNetwork.random((3, 3, 3), rng=0)
TASK = ln.Task(np.diag([1.0, 2.0, 3.0]))
STACK = ln.LinearNetwork.random((3, 3, 3), rng=0, batch_shape=(2,))
RAGGED = [[1.0], [2.0, 3.0]]
MASKED = np.ma.masked_array(np.eye(3), mask=np.eye(3, dtype=bool))

REFUSED: list[tuple[str, Callable[[], Any]]] = [
    (r"^weights\[0\]: expected numbers without a mask", lambda: ln.LinearNetwork([MASKED])),
    (r"^x: expected numbers without a mask", lambda: ln.Task.from_data(MASKED, np.eye(3))),
    (r"^x: expected numbers without a mask", lambda: ln.Task.from_data([list(r) for r in MASKED], np.eye(3))),
    (r"^weights\[0\]: expected numbers without a mask", lambda: ln.LinearNetwork([[MASKED[0], MASKED[1]]])),
    (
        r"^net: expected a single network, found leading axes \(2,\)",
        lambda: dense.fisher.hessian(STACK, TASK),
    ),
    (
        r"^net: expected a single network, found leading axes \(2,\)",
        lambda: dense.fisher.score_covariance(STACK, TASK),
    ),
    (r"^weights, biases: .*broadcast", lambda: ln.LinearNetwork([np.zeros((2, 3, 3))], [np.zeros((5, 3))])),
    (r"^mask: .*inhomogeneous", lambda: ln.natural_gradient(NET, TASK, mask=RAGGED)),
    (r"^mask: .*inhomogeneous", lambda: dense.natural.block_mask(NET, RAGGED)),  # type: ignore[arg-type]
    (r"^mask: .*complex", lambda: dense.natural.block_mask(NET, np.eye(2) + 0j)),
    (r"^g: .*inhomogeneous", lambda: ln.descent.scalar_map(RAGGED, 1.0, 2)),
    (r"^start: .*inhomogeneous", lambda: ln.descent.root_basin(RAGGED, 1.0, 2)),
    (r"^excess, eps: .*broadcast", lambda: ln.flow.time_to(np.ones(2), np.ones(3))),
    (r"^gauge: expected one of .*array\(\[\[1\., 0\.\]", lambda: ln.natural_gradient(NET, TASK, np.eye(2))),  # type: ignore[arg-type]
    (r"^order: expected one of 'F', 'C'", lambda: ln.flatten([np.eye(2)], np.eye(2))),  # type: ignore[arg-type]
    (r"^net: expected a LinearNetwork", lambda: ln.unflatten(np.zeros(18), None)),  # type: ignore[arg-type]
    (r"^net: expected a LinearNetwork", lambda: dense.jacobian.total(None)),  # type: ignore[arg-type]
    (r"^net: expected a LinearNetwork", lambda: dense.jacobian.total_jacobian(None)),  # type: ignore[arg-type]
    (r"^claims: expected identifiers", lambda: ln.verify(3)),  # type: ignore[arg-type]
    (r"^data: expected the path", lambda: load_data(3)),  # type: ignore[arg-type]
    (r"^data: expected the name of a data set or a path", lambda: load_data("")),
    (r"^path: expected the path of a file", lambda: ln.LinearNetwork.load(None)),  # type: ignore[arg-type]
    (r"^path: expected the path of a file", lambda: NET.save("a\0b")),
    (r"^IDX file: expected the path of a file", lambda: read_idx(None)),  # type: ignore[arg-type]
    (r"^rtol: ", lambda: ln.flow.breakdown_time(ln.LinearNetwork([np.eye(3)]), TASK, rtol=np.nan)),
    (r"^rtol: ", lambda: ln.flow.natural_weights(ln.LinearNetwork([np.eye(3)]), TASK, 0.0, rtol=-1.0)),
    (r"^jacobian: expected finite", lambda: dense.natural.least_squares(np.full((2, 2), np.inf), np.ones(2))),
    (r"^residual: expected length 3", lambda: dense.natural.least_squares(np.eye(3), np.ones(2))),
    (r"^matrix: expected a symmetric", lambda: dense.natural.solve(np.array([[2.0, 1], [0, 2]]), np.ones(2))),
    (r"^y: expected 3 rows", lambda: dense.fisher.scores(NET, np.eye(3), np.ones((1, 3)), np.eye(3))),
    (r"^y: expected 3 columns", lambda: dense.fisher.scores(NET, np.eye(3), np.ones((3, 2)), np.eye(2))),
    (
        r"^noise_cov: .*eigenvalue -1",
        lambda: dense.fisher.scores(NET, np.eye(3), np.eye(3), np.diag([1.0, 1, -1])),
    ),
]


@pytest.mark.parametrize(("message", "call"), REFUSED, ids=[f"{i}" for i in range(len(REFUSED))])
def test_bad_input_is_one_clear_line(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ln.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", ["a", (-1,), (1.5,), None, (0,), 2.5, (True,)])
def test_leading_axes_are_positive_integers(shape: Any) -> None:
    with pytest.raises(ln.InputError, match="^batch_shape: expected"):
        ln.LinearNetwork.random((3, 3), rng=0, batch_shape=shape)
    assert ln.LinearNetwork.random((3, 3), rng=0, batch_shape=(2, 1)).batch_shape == (2, 1)


def test_a_text_file_is_not_called_a_pickle_to_trust(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    path.write_text("hello")
    with pytest.raises(ln.InputError, match="^network file: .*not an archive") as caught:
        ln.LinearNetwork.load(path)
    assert "allow_pickle" not in str(caught.value)


def test_a_mask_that_hides_nothing_is_no_mask() -> None:
    assert ln.LinearNetwork([np.ma.masked_array(np.eye(3))]).depth == 1


def test_the_change_of_one_layer_has_all_leading_axes_and_its_own_memory() -> None:
    nets, step = ln.LinearNetwork.random((3, 2), rng=0, batch_shape=(5,)), np.ones((2, 3))
    change = ln.induced_change(nets, [step])
    assert change.shape == (5, 2, 3)
    change[...] = 0
    assert (step == 1).all()


@pytest.mark.statement("C1", "C3")
@pytest.mark.parametrize("widths", [(1, 1, 1), (2, 1, 2), (3, 3, 3), (2, 5, 5, 5)])
def test_inputs_that_are_always_zero_leave_the_total_weight(widths: tuple[int, ...]) -> None:
    net = ln.LinearNetwork.random(widths, rng=0)
    task = ln.Task(np.ones((widths[-1], widths[0])), np.zeros((widths[0], widths[0])))
    assert ln.flow.breakdown_time(net, task) == np.inf
    np.testing.assert_array_equal(ln.flow.natural_total(net, task, [0.0, 1.0])[1], net.total)
    assert (ln.flow.natural_loss(net, task, [0.0, 1.0]) == 0).all()


@pytest.mark.statement("C3")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_singular_start_is_found_in_single_precision_too(dtype: Any) -> None:
    net = ln.LinearNetwork.random((4, 3, 3), rng=0, dtype=dtype)
    rank_one = ln.LinearNetwork([np.repeat(net.weights[0][:1], 3, axis=0), net.weights[1]])
    with pytest.raises(ln.ConditionError, match="full rank"):
        ln.flow.breakdown_time(rank_one, ln.Task(np.ones((3, 4))))


@pytest.mark.statement("C2", "X10")
def test_the_rank_that_lacks_is_that_of_the_inputs_with_their_constant() -> None:
    net = ln.LinearNetwork.random((2, 2, 2), rng=0, biases=True)
    x = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])  # spans the plane; not with (1, 1, 1)
    task = ln.Task.from_data(x, x)
    assert task.rank == 2
    with pytest.raises(ln.ConditionError, match=r"found rank 2 of 3 in \(x, 1\)"):
        ln.descent.spectrum(net, task)


@pytest.mark.statement("C1")
def test_verify_calls_a_singular_square_start_not_applicable() -> None:
    net = ln.LinearNetwork.random((5, 5, 5), rng=0)
    first = net.weights[0].copy()
    first[-1] = first[0]
    report = ln.verify("C1", ln.LinearNetwork([first, net.weights[1]]), ln.Task(np.eye(5)))
    assert report.passed
    assert [row.verdict for row in report.rows] == ["not applicable"]
    assert "full rank" in report.rows[0].note
