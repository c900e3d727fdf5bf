"""Do convolutional networks fall apart into frequencies? Against circulant layers by definition (X7)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linnat as ln
from linnat.dense import fisher as by_definition
from linnat.exact import convolution as conv
from tests import tolerances
from tests.strategies import seeds

pytestmark = pytest.mark.statement("X7")


def matrix(kernel: np.ndarray, size: int) -> np.ndarray:
    """Return the layer's matrix by applying it to unit signals with np.roll."""
    outputs, inputs, length = kernel.shape
    out = np.zeros((outputs, size, inputs, size))
    for q in range(length):
        out += kernel[:, None, :, None, q] * np.roll(np.eye(size), q, axis=0)[None, :, None, :]
    return out.reshape(outputs * size, inputs * size)


def embedding(kernels: list[np.ndarray], size: int) -> np.ndarray:
    """Return the derivative of all entries of all layers in the kernels."""
    sizes = [k.shape[0] * k.shape[1] * size * size for k in kernels]
    columns, start = [], 0
    for kernel, count in zip(kernels, sizes, strict=True):
        for entry in range(kernel.size):
            unit, column = np.zeros(kernel.size), np.zeros(sum(sizes))
            unit[entry] = 1
            column[start : start + count] = matrix(unit.reshape(kernel.shape), size).flatten(order="F")
            columns.append(column)
        start += count
    return np.array(columns).T


def dense(kernels: list[np.ndarray], target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return F and ∇ℓ in the kernels, from the dense Fisher matrix of the circulant layers."""
    size = target.shape[-1]
    net = ln.LinearNetwork([matrix(k, size) for k in kernels])
    task, chain = ln.Task(matrix(target, size)), embedding(kernels, size)
    gradient = ln.flatten(by_definition.gradient(net, task))
    return chain.T @ by_definition.gauss_newton(net, task) @ chain, chain.T @ gradient


def draw(seed: int, channels: tuple[int, ...], size: int) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    kernels = [rng.standard_normal((b, a, size)) / np.sqrt(a) for a, b in pairwise(channels)]
    return kernels, rng.standard_normal((channels[-1], channels[0], size))


def near(seed: int, channels: int, size: int, depth: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw kernels and a target near the identity: so is W(0)⁻¹W* (to 0.9) at every frequency, and nothing breaks."""
    rng = np.random.default_rng(seed)
    unit = np.zeros((channels, channels, size))
    unit[..., 0] = np.eye(channels)

    def beside(distance: float) -> np.ndarray:
        other = rng.standard_normal(unit.shape)
        return unit + distance * other / np.linalg.norm(np.fft.fft(other), 2, axis=(0, 1)).max()

    return [beside(0.08) for _ in range(depth)], beside(0.4)


def flat(direction: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate([d.ravel() for d in direction])


@settings(max_examples=15)
@given(seeds, st.lists(st.integers(1, 3), min_size=2, max_size=4), st.integers(1, 4))
def test_it_solves_the_dense_system_in_both_gauges(seed: int, channels: list[int], size: int) -> None:
    kernels, target = draw(seed, tuple(channels), size)
    fisher, gradient = dense(kernels, target)
    values, vectors = np.linalg.eigh(fisher)
    norm = values[-1]
    keep = values > 1e-9 * norm
    condition = norm / values[keep][0]
    for gauge in ("layerwise", "minimum-norm"):
        u = flat(conv.natural_gradient(kernels, target, gauge))
        error = np.linalg.norm(fisher @ u - gradient) / (norm * np.linalg.norm(u) + np.linalg.norm(gradient))
        assert error <= tolerances.backward(np.float64, target.size * 4)
        if gauge == "minimum-norm":
            null = vectors[:, ~keep]
            assert np.linalg.norm(null.T @ u) <= tolerances.solve(np.float64, 16, condition) * np.linalg.norm(
                u
            )
        else:
            blocks = np.zeros_like(fisher)
            start = 0
            for k in kernels:
                part = slice(start, start + k.size)
                blocks[part, part] = fisher[part, part]
                start += k.size
            null = vectors[:, ~keep]
            gap = np.linalg.norm(null.T @ (blocks @ u)) / (norm * np.linalg.norm(u))
            assert gap <= tolerances.solve(np.float64, 16, condition)


def test_the_loss_is_that_of_the_layers() -> None:
    kernels, target = draw(0, (2, 3, 1), 5)
    net = ln.LinearNetwork([matrix(k, 5) for k in kernels])
    wanted = float(ln.excess_loss(net, ln.Task(matrix(target, 5))))
    assert float(conv.excess_loss(kernels, target)) == pytest.approx(wanted, rel=1e-13)
    np.testing.assert_allclose(matrix(conv.total(kernels), 5), net.total, atol=1e-13)


def test_bottlenecks_of_channels_need_the_staircase() -> None:
    # Negative control: N1, the error shared equally by pseudo-inverses at every frequency, is not the natural gradient.
    kernels, target = draw(3, (3, 1, 3), 4)
    fisher, gradient = dense(kernels, target)
    first, second = (np.moveaxis(np.fft.fft(k), -1, 0) for k in kernels)
    error = np.moveaxis(np.fft.fft(target), -1, 0) - second @ first
    steps = np.linalg.pinv(second) @ error / 2, error @ np.linalg.pinv(first) / 2
    u = -flat(tuple(np.fft.ifft(np.moveaxis(s, 0, -1)).real for s in steps))
    assert np.linalg.norm(fisher @ u - gradient) > 0.05 * np.linalg.norm(gradient)
    with pytest.raises(ln.ConditionError, match="X2"):
        conv.natural_total(kernels, target, 1.0)


@settings(max_examples=10)
@given(seeds, st.integers(1, 2), st.integers(1, 6), st.integers(1, 3))
def test_laws_of_the_flow(seed: int, channels: int, size: int, depth: int) -> None:
    kernels, target = near(seed, channels, size, depth)
    assert float(conv.breakdown_time(kernels, target)) == np.inf
    layers = conv.natural_weights(kernels, target, [0.0, 0.4, 30.0])
    bound = tolerances.solve(np.float64, 4 * size, 30.0)
    for layer, kernel in zip(layers, kernels, strict=True):
        tolerances.assert_close(layer[0], kernel, bound)
    totals, start = conv.natural_total(kernels, target, [0.0, 0.4, 30.0]), conv.total(kernels)
    for k, decay in enumerate(np.exp([0.0, -0.4, -30.0])):
        tolerances.assert_close(conv.total([layer[k] for layer in layers]), totals[k], bound)
        # Where the total is far smaller than what it is made of, so are the digits it can have.
        size = 1.0 + np.linalg.norm(start - target) / np.linalg.norm(totals[k])
        tolerances.assert_close(totals[k], target + decay * (start - target), bound * size)
    later = conv.natural_weights([layer[1] for layer in layers], target, 0.3)
    for one, two in zip(conv.natural_weights(kernels, target, 0.7), later, strict=True):
        tolerances.assert_close(one, two, bound)
    # A step of the kernels is the exact map of the total kernel; a small one follows the flow.
    tolerances.assert_close(
        conv.total(conv.natural_step(kernels, target, 0.8)),
        conv.natural_total_step(kernels, target, 0.8),
        bound,
    )


def test_layers_follow_the_dense_flow() -> None:
    kernels, target = near(1, 2, 3, 2)
    state = [k.copy() for k in kernels]

    def velocity(layers: list[np.ndarray]) -> list[np.ndarray]:
        # −u of the dense system in the gauge blockdiag(F), by its stationarity conditions.
        fisher, gradient = dense(layers, target)
        half = len(gradient) // 2
        values, vectors = np.linalg.eigh(fisher)
        null = vectors[:, values < 1e-9 * values[-1]]
        u = vectors @ np.where(values > 1e-9 * values[-1], (vectors.T @ gradient) / values, 0.0)
        blocks = fisher * np.kron(np.eye(2), np.ones((half, half)))
        u = u - null @ np.linalg.lstsq(null.T @ blocks @ null, null.T @ blocks @ u, rcond=None)[0]
        return [-p.reshape(k.shape) for p, k in zip(np.split(u, 2), layers, strict=True)]

    steps, h = 8, 0.5 / 8
    for _ in range(steps):  # RK4: order four
        k1 = velocity(state)
        k2 = velocity([s + h / 2 * v for s, v in zip(state, k1, strict=True)])
        k3 = velocity([s + h / 2 * v for s, v in zip(state, k2, strict=True)])
        k4 = velocity([s + h * v for s, v in zip(state, k3, strict=True)])
        state = [
            s + h / 6 * (a + 2 * b + 2 * c + d) for s, a, b, c, d in zip(state, k1, k2, k3, k4, strict=True)
        ]
    for layer, end in zip(conv.natural_weights(kernels, target, 0.5), state, strict=True):
        tolerances.assert_close(layer[0], end, h**4)


@settings(max_examples=20)
@given(seeds, st.integers(1, 7))
def test_one_channel_breaks_at_real_negative_ratios_only(seed: int, size: int) -> None:
    kernels, target = draw(seed, (1, 1, 1), size)
    time = float(conv.breakdown_time(kernels, target))
    ratios = conv.ratio(kernels, target)
    real = ratios[[0] if size % 2 else [0, size // 2]].real
    ends = np.log1p(1 / np.abs(real[real < 0]))
    assert time == pytest.approx(float(ends.min(initial=np.inf)), rel=1e-9)
    if np.isfinite(time):
        # There the line loses a frequency.
        spectrum = np.fft.fft(target + np.exp(-time) * (conv.total(kernels) - target))
        assert np.abs(spectrum).min() <= 1e-9 * np.abs(spectrum).max() + 1e-9
        with pytest.raises(ln.FlowBreakdownError, match="C3"):
            conv.natural_weights(kernels, target, 1.01 * time)


def test_a_real_negative_ratio_at_an_inner_frequency_breaks_too() -> None:
    # Of measure zero: constructed. ŵ*(1) = −2 ŵ(1), conjugate at −1.
    kernels = [np.array([[[2.0, 0.5, 0.2, 0.1]]]), np.array([[[1.0, 0.2, 0.1, 0.3]]])]
    spectrum = np.fft.fft(conv.total(kernels)[0, 0])
    goal = spectrum * np.array([1.5, -2.0, 1.2, -2.0])
    target = np.fft.ifft(goal).real[None, None]
    assert float(conv.breakdown_time(kernels, target)) == pytest.approx(np.log(1.5), rel=1e-9)


def test_finite_support_is_another_model() -> None:
    rng = np.random.default_rng(0)
    size, short = 6, [rng.standard_normal((1, 1, 3)), rng.standard_normal((1, 1, 2))]
    target = rng.standard_normal((1, 1, size))
    full = [np.concatenate([k, np.zeros((1, 1, size - k.shape[-1]))], axis=-1) for k in short]
    fisher, gradient = dense(short, target)
    u = flat(conv.finite_natural_gradient(short, target))
    size_of = np.linalg.norm(fisher, 2) * np.linalg.norm(u) + np.linalg.norm(gradient)
    assert np.linalg.norm(fisher @ u - gradient) <= tolerances.backward(np.float64, 8) * size_of
    # Coprime polynomials: the error on the support of w, all of it, and nothing beyond.
    change = conv.finite_change(short, target)
    error = target - conv.total(full)
    np.testing.assert_allclose(change[..., :4], error[..., :4], atol=1e-10)
    np.testing.assert_allclose(change[..., 4:], 0, atol=1e-10)
    # The formula of full kernels, cut to the support, moves the total kernel elsewhere: by how much is stated.
    cut = [d[..., : k.shape[-1]] for d, k in zip(conv.natural_gradient(full, target), short, strict=True)]
    relative = np.linalg.norm(fisher @ flat(tuple(cut)) - gradient) / np.linalg.norm(gradient)
    assert 0.1 < relative < 10
    # A shared root: one direction is lost, the value at the root does not move.
    shared = [np.array([[[1.0, -1.5, 0.5]]]), np.array([[[2.0, -2.0]]])]  # both vanish at z = 1
    change = conv.finite_change(shared, target)
    assert abs(change.sum()) <= 1e-12
    assert np.linalg.matrix_rank(dense(shared, target)[0], tol=1e-9) == 3


@settings(max_examples=20)
@given(seeds, st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_short_kernels_without_common_roots_express_every_error_on_their_support(
    seed: int, lengths: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    support = sum(m - 1 for m in lengths) + 1
    kernels = [rng.standard_normal((1, 1, m)) for m in lengths]
    target = rng.standard_normal((1, 1, support + 2))
    padded = [np.concatenate([k, np.zeros((1, 1, support + 2 - k.shape[-1]))], axis=-1) for k in kernels]
    error = target - conv.total(padded)
    roots = [np.roots(k[0, 0][::-1]) for k in kernels]
    gaps = [abs(a - b) for i, one in enumerate(roots) for other in roots[:i] for a in one for b in other]
    if min(gaps, default=1.0) < 0.02:
        return
    change = conv.finite_change(kernels, target)
    wanted = np.concatenate([error[..., :support], np.zeros((1, 1, 2))], axis=-1)
    np.testing.assert_allclose(change, wanted, rtol=0, atol=1e-10 * np.abs(error).max())


def test_finite_support_follows_the_line_until_two_layers_share_a_root() -> None:
    # (z − a)(z − b) with real roots towards one with complex roots: no real kernels of two entries realise it.
    layers = [np.array([[[-1.0, 1.0]]]), np.array([[[-3.0, 1.0]]])]  # roots 1, 3: w = 3 − 4z + z²
    target = np.array([[[5.0, -4.0, 1.0, 7.0]]])  # discriminant 16 − 20 < 0; at w_0 = 4 the roots meet
    time, h, gaps = 0.0, 1e-3, []
    start = conv.total([np.pad(k, ((0, 0), (0, 0), (0, 2))) for k in layers])
    while time < np.log(2) - 0.02:
        steps = conv.finite_natural_gradient(layers, target)
        layers = [k - h * u for k, u in zip(layers, steps, strict=True)]
        time += h
        line = np.array([5 - 2 * np.exp(-time), -4.0, 1.0])
        gaps.append(
            np.abs(conv.total([np.pad(k, ((0, 0), (0, 0), (0, 2))) for k in layers])[0, 0, :3] - line).max()
        )
    assert start[0, 0, 0] == pytest.approx(3.0)
    assert max(gaps) < 0.02
    roots = [-k[0, 0, 0] / k[0, 0, 1] for k in layers]
    assert abs(roots[0] - roots[1]) < 0.5


def test_stacks_equal_a_loop_and_float32_is_kept() -> None:
    rng = np.random.default_rng(2)
    kernels = [rng.standard_normal((2, 1, 2, 3, 4)), rng.standard_normal((3, 2, 2, 4))]
    target = rng.standard_normal((2, 3, 2, 3, 4))
    found = conv.natural_gradient(kernels, target)
    losses, ends = conv.excess_loss(kernels, target), conv.breakdown_time(kernels, target)
    assert found[0].shape == (2, 3, 2, 3, 4)
    assert losses.shape == ends.shape == (2, 3)
    for a, b in np.ndindex(2, 3):
        single = [kernels[0][a, 0], kernels[1][b]]
        for one, many in zip(conv.natural_gradient(single, target[a, b]), found, strict=True):
            tolerances.assert_close(many[a, b], one, tolerances.solve(np.float64, 8, 1e4))
        assert losses[a, b] == pytest.approx(float(conv.excess_loss(single, target[a, b])))
        assert ends[a, b] == pytest.approx(float(conv.breakdown_time(single, target[a, b])), rel=1e-8)
    low = [k.astype(np.float32) for k in kernels]
    assert {u.dtype for u in conv.natural_gradient(low, target)} == {np.dtype(np.float32)}
    assert conv.total(low).dtype == np.float32
    short, goal = near(0, 1, 4, 2)
    assert conv.natural_total([k.astype(np.float32) for k in short], goal, 1.0).dtype == np.float32
    assert conv.finite_natural_gradient([k.astype(np.float32) for k in short], goal)[0].dtype == np.float32


def test_bad_input() -> None:
    kernels, target = draw(0, (1, 2, 1), 4)
    for call, name in (
        (lambda: conv.total([]), "kernels"),
        (lambda: conv.total("kernel"), "kernels"),
        (lambda: conv.total([np.ones(3)]), r"kernels\[0\]"),
        (lambda: conv.total([kernels[0], np.ones((1, 3, 4))]), r"kernels\[1\]: expected 2 input channels"),
        (lambda: conv.natural_gradient([kernels[0], kernels[1][..., :3]], target), r"kernels\[1\].*X7"),
        (lambda: conv.natural_gradient([k[..., :3] for k in kernels], target), r"kernels\[0\].*X7"),
        (lambda: conv.natural_gradient([1j * kernels[0], kernels[1]], target), r"kernels\[0\]"),
        (lambda: conv.natural_gradient([np.nan * kernels[0], kernels[1]], target), r"kernels\[0\]"),
        (lambda: conv.natural_gradient(kernels, np.ones((2, 1, 4))), "target"),
        (lambda: conv.natural_gradient(kernels, np.inf * target), "target"),
        (lambda: conv.natural_gradient(kernels, target, "euclidean"), "gauge"),
        (lambda: conv.natural_total(kernels, target, -1.0), "times"),
        (lambda: conv.natural_step(kernels, target, 0.0), "eta"),
        (lambda: conv.ratio(kernels, target), "kernels"),
        (lambda: conv.finite_natural_gradient([np.ones((1, 1, 5))], np.ones((1, 1, 4))), r"kernels\[0\]"),
        (lambda: conv.finite_natural_gradient(kernels, target, rtol=-1.0), "rtol"),
    ):
        with pytest.raises(ln.InputError, match=f"^{name}"):
            call()
    with pytest.raises(ln.ConditionError, match="ŵ"):
        conv.ratio([np.zeros((1, 1, 2))], np.ones((1, 1, 2)))


def test_what_overflows_is_one_clear_error() -> None:
    kernels, target = [np.full((1, 1, 4), 1e200)] * 2, np.ones((1, 1, 4))
    for call in (conv.excess_loss, conv.ratio):
        with pytest.raises(ln.RangeError, match="stay within the range of float64"):
            call(kernels, target)
    with pytest.raises(ln.RangeError, match="stay within the range of float64"):
        conv.total(kernels)
