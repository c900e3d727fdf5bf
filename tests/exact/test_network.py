"""Networks: products against plain loops, affine maps against samples, files, immutability, bad input."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat._checks import InputError
from linnat.exact.network import (
    LinearNetwork,
    as_direction,
    as_network,
    as_widths,
    flatten,
    induced_change,
    unflatten,
)
from tests import tolerances
from tests.strategies import Problem, make_problem, problems, seeds

pytestmark = pytest.mark.statement("X10")


def respond(net: LinearNetwork, x: np.ndarray) -> np.ndarray:
    """Run samples through the layers, one at a time."""
    for i, weight in enumerate(net.weights):
        x = x @ weight.T + (0 if net.biases is None else net.biases[i])
    return x


@given(problems(), seeds)
def test_the_total_weight_is_the_response(problem: Problem, seed: int) -> None:
    net = problem.net
    x = np.random.default_rng(seed).standard_normal((7, net.widths[0]))
    if net.has_biases:
        linear, offset = net.total[:, :-1], net.total[:, -1]
    else:
        linear, offset = net.total, np.zeros(net.widths[-1])
    scale = np.prod([np.linalg.norm(m, 2) for m in net.maps]) * (1 + np.linalg.norm(x, axis=1).max())
    size = sum(net.widths) * max(net.widths)
    assert np.abs(x @ linear.T + offset - respond(net, x)).max() <= tolerances.product(
        np.float64, size, scale
    )


@given(problems())
def test_before_and_after_split_the_total(problem: Problem) -> None:
    net = problem.net
    assert len(net.before) == len(net.after) == net.depth
    maps = [np.linalg.norm(m, 2) for m in net.maps]
    for i in range(net.depth):
        joined = net.after[i] @ net.layers[i] @ net.before[i]
        wanted = net.total.copy()
        if net.has_biases:  # later biases reach the output without passing through layer i
            wanted[:, -1] -= sum(
                (net.after[j] @ net.biases[j] for j in range(i + 1, net.depth)), np.zeros(len(wanted))
            )
        scale = np.prod(maps) * net.depth
        assert np.abs(joined - wanted).max() <= tolerances.product(np.float64, sum(net.widths), scale)
    assert (net.after[-1] == np.eye(net.widths[-1])).all()
    assert (net.before[0] == np.eye(net.widths[0] + net.has_biases)).all()


@given(problems(), seeds)
def test_induced_change_is_the_derivative(problem: Problem, seed: int) -> None:
    net = problem.net
    rng = np.random.default_rng(seed)
    direction = tuple(rng.standard_normal(layer.shape) for layer in net.layers)
    change = induced_change(net, direction)
    summed = sum(b @ d @ a for b, d, a in zip(net.after, direction, net.before, strict=True))
    # Against Σ|terms|: layers multiply in another order there, and a product of them may be zero by cancellation.
    sizes = np.array([np.linalg.norm(layer, 2) for layer in net.layers])
    scale = sum(np.linalg.norm(d, 2) * np.prod(np.delete(sizes, i)) for i, d in enumerate(direction))
    bound = tolerances.product(np.float64, 4 * sum(net.widths), scale)
    assert np.abs(change - summed).max() <= bound
    step = 1e-4
    moved = [
        net.replace_layers([w + s * step * d for w, d in zip(net.layers, direction, strict=True)]).total
        for s in (1, -1)
    ]
    norms = [np.linalg.norm(m, 2) + np.linalg.norm(d, 2) for m, d in zip(net.maps, direction, strict=True)]
    slope = (moved[0] - moved[1]) / (2 * step)
    assert np.abs(slope - change).max() <= tolerances.difference(2, step, net.depth**3 * np.prod(norms))


def test_induced_change_rejects_what_is_not_like_the_layers() -> None:
    net = LinearNetwork.random((3, 2, 4), rng=0)
    with pytest.raises(InputError, match=r"^direction: expected a sequence of 2 arrays"):
        induced_change(net, [np.ones((2, 3))])
    with pytest.raises(
        InputError, match=r"^direction\[1\]: expected shape \(…, 4, 2\), found shape \(2, 4\)"
    ):
        induced_change(net, [np.ones((2, 3)), np.ones((2, 4))])
    with pytest.raises(InputError, match="^net: expected a LinearNetwork, found list"):
        induced_change([np.ones((2, 2))], [np.ones((2, 2))])  # type: ignore[arg-type]


@given(problems(), st.sampled_from(["F", "C"]), seeds)
def test_flatten_and_unflatten_are_inverse(problem: Problem, order: str, seed: int) -> None:
    net = problem.net
    vector = np.random.default_rng(seed).standard_normal((2, net.n_parameters))
    direction = unflatten(vector, net, order)
    assert [d.shape for d in direction] == [(2, *layer.shape) for layer in net.layers]
    assert (flatten(direction, order) == vector).all()
    parts = [d[0].ravel(order=order) for d in direction]  # type: ignore[call-overload]
    assert (np.concatenate(parts) == vector[0]).all()


def test_flatten_of_bad_input() -> None:
    net = LinearNetwork.random((2, 3), rng=0)
    with pytest.raises(InputError, match="^direction: expected at least one array"):
        flatten([])
    for call in (lambda: flatten([np.ones((2, 2))], "A"), lambda: unflatten(np.ones(6), net, "K")):
        with pytest.raises(InputError, match="^order: expected one of 'F', 'C'"):
            call()
    with pytest.raises(InputError, match="^vector: expected length 6, found length 5"):
        unflatten(np.ones(5), net)


@given(seeds, st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2))
def test_balanced_networks_are_balanced(seed: int, rows: int, columns: int, depth: int, extra: int) -> None:
    total = np.random.default_rng(seed).standard_normal((rows, columns))
    net = LinearNetwork.balanced(total, depth, min(rows, columns) + extra)
    assert net.depth == depth
    size = depth * max(net.widths)
    tolerances.assert_close(net.total, total, tolerances.backward(np.float64, size))
    for below, above in zip(net.weights[:-1], net.weights[1:], strict=True):
        gap = above.T @ above - below @ below.T
        assert np.abs(gap).max() <= tolerances.backward(np.float64, size) * np.linalg.norm(below, 2) ** 2


def test_balanced_networks_of_low_rank_and_narrow_width() -> None:
    net = LinearNetwork.balanced(np.zeros((2, 3)), 3)
    assert net.widths == (3, 2, 2, 2)
    assert not net.total.any()
    with pytest.raises(InputError, match="^width: expected an integer ≥ 2"):
        LinearNetwork.balanced(np.ones((2, 3)), 3, 1)


def test_random_networks() -> None:
    net = LinearNetwork.random((30, 40, 50), rng=0, biases=True, batch_shape=(20,), dtype=np.float32)
    assert net.dtype == np.float32
    assert net.batch_shape == (20,)
    assert net.n_parameters == 40 * 31 + 50 * 41
    for weight, fan_in in zip(net.weights, (30, 40), strict=True):
        # The variance of n Gaussian numbers has relative standard deviation (2/n)^½.
        error = float(weight.astype(np.float64).var()) * fan_in - 1
        assert abs(error) <= np.sqrt(2) * tolerances.monte_carlo(weight.size)
    same = LinearNetwork.random((30, 40, 50), rng=0, biases=True, batch_shape=(20,), dtype=np.float32)
    assert all((a == b).all() for a, b in zip(net.layers, same.layers, strict=True))
    with pytest.raises(TypeError, match="rng"):
        LinearNetwork.random((3, 3))  # type: ignore[call-arg]


def test_layers_broadcast_like_a_loop() -> None:
    rng = np.random.default_rng(0)
    net = LinearNetwork(
        [rng.standard_normal((5, 1, 3, 2)), rng.standard_normal((4, 2, 3))],
        [rng.standard_normal(3), np.ones(2)],
    )
    assert net.batch_shape == (5, 4)
    assert net.total.shape == (5, 4, 2, 3)
    direction = [rng.standard_normal((5, 4, 3, 3)), rng.standard_normal((2, 4))]
    change = induced_change(net, direction)
    for place in np.ndindex(5, 4):
        single = LinearNetwork([w[place] for w in net.weights], [b[place] for b in net.biases or ()])
        tolerances.assert_close(net.total[place], single.total, tolerances.product(np.float64, 8))
        part = induced_change(single, [direction[0][place], direction[1]])
        tolerances.assert_close(change[place], part, tolerances.product(np.float64, 16, 10))
        for a, b in zip((*net.before, *net.after), (*single.before, *single.after), strict=True):
            tolerances.assert_close(a[place], b, tolerances.product(np.float64, 8))


def test_types() -> None:
    single, double = np.ones((2, 2), np.float32), np.ones((2, 2))
    assert LinearNetwork([single, single]).total.dtype == np.float32
    assert LinearNetwork([single, double]).dtype == np.float64
    assert LinearNetwork([single], [np.ones(2)]).dtype == np.float64
    assert LinearNetwork([[[1, 2], [3, 4]]]).dtype == np.float64


def test_nothing_is_shared_and_nothing_can_be_changed() -> None:
    weight = np.ones((2, 2))
    net = LinearNetwork([weight])
    weight[0, 0] = 5
    assert net.weights[0][0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        net.weights[0][0, 0] = 5
    with pytest.raises(AttributeError):
        net.weights = ()  # type: ignore[misc]


def test_computed_fields_may_be_written_without_touching_the_network() -> None:
    net = LinearNetwork([np.ones((2, 2)), np.ones((2, 2))], [np.ones(2), np.ones(2)])
    before = net.total.copy()
    net.total[:] = 7
    assert (net.total == before).all()


def test_awkward_memory_just_works() -> None:
    base = np.arange(36.0).reshape(6, 6)
    strided, flipped, readonly = base[::2, ::3], base[::-1, ::-1][:2, :3].T, base[:3, :2].copy()
    readonly.flags.writeable = False
    for a in (strided, flipped, readonly, np.asfortranarray(readonly)):
        net = LinearNetwork([a, a.T])
        assert (net.total == a.T @ a).all()


def test_extreme_shapes_just_work() -> None:
    assert LinearNetwork([np.zeros((1, 1))]).total == 0
    net = LinearNetwork([np.zeros((4, 1)), np.ones((2, 4))])
    assert net.widths == (1, 4, 2)
    assert (net.total == 0).all()


BAD_NETWORKS: list[tuple[Any, str]] = [
    ([], "^weights: expected at least one layer, found an empty sequence"),
    (np.ones((2, 2)), "^weights: expected a sequence of matrices, found one matrix. For one layer"),
    (3, "^weights: expected a sequence of matrices, found int"),
    (None, "^weights: expected a sequence of matrices, found NoneType"),
    ([np.ones(3)], r"^weights\[0\]: expected at least 2 dimension\(s\), found shape \(3,\)"),
    (
        [np.ones((2, 3)), np.ones((2, 3))],
        r"^weights\[1\]: expected 2 columns, the width of layer 1, found shape \(2, 3\)",
    ),
    (
        [np.ones((2, 2)), [[1, np.nan], [0, 1]]],
        r"^weights\[1\]: expected finite numbers, found nan at index \(0, 1\)",
    ),
    ([[[np.inf]]], r"^weights\[0\]: expected finite numbers, found inf"),
    ([np.ones((2, 2)) * 1j], r"^weights\[0\]: expected real numbers .*, found dtype complex128"),
    ([np.array([[None]])], r"^weights\[0\]: expected real numbers .*, found dtype object"),
    ([np.ones((0, 2))], r"^weights\[0\]: expected a non-empty array, found shape \(0, 2\)"),
    (
        [np.ones((3, 2, 2)), np.ones((4, 2, 2))],
        r"^weights: expected leading axes that broadcast, found \(3,\) and \(4,\)",
    ),
]


@pytest.mark.parametrize(("weights", "message"), BAD_NETWORKS)
def test_bad_weights(weights: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LinearNetwork(weights)


@pytest.mark.parametrize(
    ("biases", "message"),
    [
        ([], "^biases: expected 1 vectors, one per layer, found 0"),
        (3, "^biases: expected a sequence of vectors, found int"),
        ([np.ones(3)], r"^biases\[0\]: expected length 2, found shape \(3,\)"),
        ([1.0], r"^biases\[0\]: expected at least 1 dimension"),
        ([[0.0, np.nan]], r"^biases\[0\]: expected finite numbers, found nan at index \(1,\)"),
    ],
)
def test_bad_biases(biases: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LinearNetwork([np.eye(2)], biases)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((3,), r"^widths: expected at least \(n_0, n_1\), found \(3,\)"),
        ((3, 0), "^widths: expected an integer ≥ 1, found 0"),
        ((3, 2.0), "^widths: expected an integer ≥ 1, found float"),
        (4, "^widths: expected a sequence of positive integers, found 4"),
    ],
)
def test_bad_widths(widths: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_widths(widths)


def test_what_is_no_network() -> None:
    net = LinearNetwork([np.eye(2)])
    assert as_network(net) is net
    with pytest.raises(InputError, match=r"^net: expected a LinearNetwork, found list. Wrap the weights"):
        as_network([np.eye(2)])


def test_replace_layers_keeps_the_kind() -> None:
    net = make_problem("biases", 0).net
    moved = net.replace_layers([2 * layer for layer in net.layers])
    assert moved.has_biases
    assert all((b == 2 * a).all() for a, b in zip(net.layers, moved.layers, strict=True))
    with pytest.raises(InputError, match="^layers"):
        net.replace_layers(net.weights)
    assert as_direction(net.layers, net)[0].shape == net.layers[0].shape


@pytest.mark.parametrize("rung", ["tame", "biases"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_files_keep_every_bit(tmp_path: Path, rung: str, dtype: Any) -> None:
    net = make_problem(rung, 0, dtype=dtype).net
    net.save(tmp_path / "net.npz")
    read = LinearNetwork.load(str(tmp_path / "net.npz"))
    assert read.dtype == net.dtype
    assert read.has_biases == net.has_biases
    assert all((a == b).all() for a, b in zip(net.layers, read.layers, strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["net.npz"]


def test_more_than_nine_layers_keep_their_order(tmp_path: Path) -> None:
    net = LinearNetwork([np.full((1, 1), float(i)) for i in range(1, 13)])
    net.save(tmp_path / "net.npz")
    assert [float(w[0, 0]) for w in LinearNetwork.load(tmp_path / "net.npz").weights] == list(range(1, 13))


def test_saving_replaces_a_file_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.npz"
    LinearNetwork([np.eye(2)]).save(path)
    before = path.read_bytes()

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(InputError, match="no space left"):
        LinearNetwork([np.ones((2, 2))]).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.npz"]


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    with pytest.raises(
        InputError, match=r"^network file: expected an existing .npz file, found no such file: .*net.npz"
    ):
        LinearNetwork.load(path)
    with pytest.raises(InputError, match="^network file: .* no such file"):
        LinearNetwork.load(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"^network file: expected a complete .npz archive .*net.npz"):
        LinearNetwork.load(path)
    path.write_text("these are not weights")
    with pytest.raises(InputError, match=r"^network file: expected a complete .npz archive .*net.npz"):
        LinearNetwork.load(path)
    with path.open("wb") as stream:
        np.save(stream, np.eye(2))
    with pytest.raises(InputError, match="^network file: expected an .npz archive, found a single array"):
        LinearNetwork.load(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, share: float) -> None:
    path = tmp_path / "net.npz"
    LinearNetwork.random((20, 20, 20), rng=0).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"^network file: expected a complete .npz archive") as error:
        LinearNetwork.load(path)
    assert "\n" not in str(error.value)


def test_corrupt_files(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    LinearNetwork.random((20, 20, 20), rng=0).save(path)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 3] ^= 0xFF
    path.write_bytes(bytes(whole))
    with pytest.raises(InputError, match=r"^network file: expected a complete .npz archive"):
        LinearNetwork.load(path)


def test_a_compressed_file_with_a_broken_stream(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    np.savez_compressed(path, W1=np.random.default_rng(0).standard_normal((30, 30)))
    whole = bytearray(path.read_bytes())
    whole[200:260] = b"\x00" * 60
    path.write_bytes(bytes(whole))
    with pytest.raises(InputError, match=r"^network file: expected a complete .npz archive"):
        LinearNetwork.load(path)


def test_files_with_pickles_are_not_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "net.npz", W1=np.array([[{}]], dtype=object))
    with pytest.raises(InputError, match="^network file: .*(pickle|Object arrays)"):
        LinearNetwork.load(path)


@pytest.mark.parametrize(
    "names",
    [
        ["W2"],
        ["W1", "W3"],
        ["W1", "b2"],
        ["W1", "W2", "b1"],
        ["x", "y"],
        ["W0", "W1"],
        ["W1", "extra"],
        ["W1", "W"],
    ],
)
def test_files_with_other_arrays(tmp_path: Path, names: list[str]) -> None:
    path = write(
        tmp_path / "net.npz", **{name: np.eye(2) if name[0] == "W" else np.ones(2) for name in names}
    )
    with pytest.raises(InputError, match=r"^network file: expected arrays W1 … WL \(and b1 … bL\), found"):
        LinearNetwork.load(path)


def test_files_without_arrays(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w"):
        pass
    path.write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="^network file: expected arrays W1"):
        LinearNetwork.load(path)


def test_files_with_members_that_are_no_arrays(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("W1", "plain text")
    with pytest.raises(InputError):
        LinearNetwork.load(path)


def test_files_with_bad_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "net.npz", W1=np.array([[1.0, np.nan]]))
    with pytest.raises(InputError, match=r"weights\[0\]: expected finite numbers"):
        LinearNetwork.load(path)
    path = write(tmp_path / "net.npz", W1=np.ones((2, 3)), W2=np.ones((2, 3)))
    with pytest.raises(InputError, match=r"weights\[1\]: expected 2 columns"):
        LinearNetwork.load(path)
