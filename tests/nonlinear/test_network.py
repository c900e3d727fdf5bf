"""Is a parameter vector what the package's order says, and where does training start?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat._checks import InputError
from linnat.exact.network import LinearNetwork, flatten, unflatten
from linnat.nonlinear.activations import ACTIVATIONS, BLOCK, activate, multiply_by_bend, multiply_by_slope
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network
from tests import tolerances

EPS = float(np.finfo(float).eps)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(0, 10**6))
def test_the_order_is_the_package_s(widths: list[int], seed: int) -> None:
    net = Network(widths)
    vector = np.random.default_rng(seed).standard_normal(net.n_parameters)
    layers = net.layers(vector)
    linear = LinearNetwork([m[:, :-1] for m in layers], [m[:, -1] for m in layers])
    assert linear.n_parameters == net.n_parameters
    assert np.array_equal(flatten(linear.layers), vector)
    for a, b in zip(layers, unflatten(vector, linear), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(net.vector(layers), vector)
    assert all(np.shares_memory(m, vector) for m in layers)
    several = np.stack([vector, 2 * vector])
    for many, one in zip(net.layers(several), layers, strict=True):
        assert np.array_equal(many[1], 2 * one)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (((3,),), "widths: expected a sequence of at least two positive integers"),
        (((3, 0),), "widths: expected an integer ≥ 1, found 0"),
        ((("34"),), "widths: expected a sequence"),
        (((3, 4, 2), "gelu"), "activations: expected one of 'identity', 'tanh'"),
        (((3, 4, 2), ["tanh"] * 3), "activations: expected one name, or 1"),
        (((3, 4, 2), 3), "activations: expected one name"),
        (((3, 4, 2), "tanh", "cauchy"), "family: expected a Family or one of 'gaussian'"),
    ],
)
def test_bad_architectures(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Network(*args)


def test_bad_layers() -> None:
    net = Network((3, 2))
    with pytest.raises(InputError, match="layers: expected 1 arrays, found 0"):
        net.vector([])
    with pytest.raises(InputError, match=r"layers\[0\]: expected shape \(2, 4\), found shape \(2, 3\)"):
        net.vector([np.ones((2, 3))])


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_units_and_their_derivatives(name: str) -> None:
    z = np.linspace(-4, 4, 2 * BLOCK // 1000 * 7 + 3)[:, None] * np.ones((1, 1000)) + 0.01
    z = z[: BLOCK // 1000 * 3]  # several blocks, the last one not full
    value, slope, bend = z.copy(), np.ones_like(z), np.ones_like(z)
    activate(name, value, np.zeros(1000))
    multiply_by_slope(name, value, slope)
    multiply_by_bend(name, value, bend)
    plain: dict[str, Any] = {
        "identity": lambda t: t,
        "tanh": np.tanh,
        "logistic": lambda t: 1 / (1 + np.exp(-t)),
        "relu": lambda t: np.where(t.real > 0, t, 0),
        "softplus": lambda t: np.log(1 + np.exp(t)),
    }
    function = plain[name]
    assert np.abs(value - function(z)).max() <= 8 * EPS * 4
    assert np.abs(slope - np.imag(function(z + 1e-40j)) / 1e-40).max() <= 16 * EPS
    step = 1e-4
    ends = [np.imag(function(z + s * step + 1e-40j)) / 1e-40 for s in (1, -1)]
    assert np.abs(bend - (ends[0] - ends[1]) / (2 * step)).max() <= tolerances.difference(2, step, 1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_units_far_out(name: str, dtype: Any) -> None:
    z = np.array([[-1e4, -800.0, -60.0, 0.0, 60.0, 800.0, 1e4]], dtype)
    value = z.copy()
    activate(name, value)
    slope, bend = np.ones_like(value), np.ones_like(value)
    multiply_by_slope(name, value, slope)
    multiply_by_bend(name, value, bend)
    assert np.isfinite([value, slope, bend]).all()
    assert value.dtype == dtype
    if name in ("logistic", "softplus"):  # small values keep their relative precision
        assert value[0, 2] == pytest.approx(np.exp(-60.0), rel=40 * float(np.finfo(dtype).eps))
        assert slope[0, 2] == pytest.approx(np.exp(-60.0), rel=80 * float(np.finfo(dtype).eps))


def test_starts() -> None:
    net = Network((30, 20, 3, 25), ["tanh", "logistic"], "bernoulli")
    sparse = net.layers(initial(net, "sparse", rng=0))
    assert [(m[:, :-1] != 0).sum(axis=1).tolist() for m in sparse] == [[15] * 20, [15] * 3, [3] * 25]
    assert [float(m[0, -1]) for m in sparse] == [0.5, 0.0, 0.0]
    many = initial(Network((400, 300), "logistic"), "sparse", rng=1)
    scale = many[many != 0].std()
    assert scale == pytest.approx(1.0, abs=5 / np.sqrt(2 * 15 * 300))
    for layer in net.layers(initial(net, "orthogonal", rng=0, gain=2.0)):
        weights = layer[:, :-1]
        gram = weights @ weights.T if len(weights) <= weights.shape[1] else weights.T @ weights
        assert np.abs(gram - 4 * np.eye(len(gram))).max() <= tolerances.backward(float, 30)
    for layer in net.layers(initial(net, "glorot", rng=0)):
        limit = np.sqrt(6 / (layer.shape[0] + layer.shape[1] - 1))
        assert 0.8 * limit < np.abs(layer[:, :-1]).max() <= limit
    first, second, third = (m[:, :-1] for m in net.layers(initial(net, "balanced", rng=0)))
    for after, before in ((second, first), (third, second)):
        assert np.abs(after.T @ after - before @ before.T).max() <= tolerances.backward(float, 30) * 4
    assert np.linalg.matrix_rank(third @ second @ first) == 3


def test_starts_are_reproducible_and_refuse_nonsense() -> None:
    net = Network((5, 4, 2))
    assert np.array_equal(initial(net, rng=3), initial(net, rng=np.random.default_rng(3)))
    assert not np.array_equal(initial(net, rng=3), initial(net, rng=4))
    assert initial(net, rng=3, dtype=np.float32).dtype == np.float32
    with pytest.raises(InputError, match="kind: expected one of 'sparse'"):
        initial(net, "he", rng=0)
    with pytest.raises(InputError, match="gain: expected"):
        initial(net, gain=0.0, rng=0)
    with pytest.raises(InputError, match="incoming: expected 15, since 'glorot'"):
        initial(net, "glorot", rng=0, incoming=3)
