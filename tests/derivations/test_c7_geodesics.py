"""C7: the derived paths against integrated flows, and the package against the derived gradient law."""

from __future__ import annotations

import numpy as np
import pytest

from derivations import _families, c7_geodesics
from derivations._core import DerivationError
from linnat import LinearNetwork
from linnat.dense import exponential as by_definition
from linnat.dense.jacobian import parameters
from linnat.exact import geodesics
from linnat.families import as_family, one_hot
from tests import tolerances

pytestmark = pytest.mark.statement("C7")
DERIVED = c7_geodesics.functions()
TIMES = np.array([0.0, 0.2, 1.0, 1.5])
TOLERANCES = {"rtol": 1e-9, "atol": 1e-11}


def data(family: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((6, 2)), rng.standard_normal(2)
    y = {
        "gaussian": rng.standard_normal(6),
        "bernoulli": rng.integers(0, 2, 6).astype(float),
        "poisson": rng.poisson(1.5, 6).astype(float),
    }[family]
    return x, y, w


@pytest.mark.parametrize("family", ["gaussian", "bernoulli", "poisson"])
def test_the_tilted_gradient_vanishes_along_the_closed_form_and_along_the_integrated_flow(
    family: str,
) -> None:
    x, y, w = data(family, 3)
    exact = geodesics.predictor(TIMES, x, y, w, family)
    net = LinearNetwork([np.array([[1.0, 0.2], [-0.3, 0.8]]), np.zeros((1, 2))])
    net = LinearNetwork([net.weights[0], np.linalg.solve(net.weights[0].T, w)[None, :]])
    model = by_definition.network_model(net, x)
    states = by_definition.natural_flow(model, parameters(net), y[:, None], family, TIMES, **TOLERANCES)
    dense = np.array([np.linalg.lstsq(x, model.outputs(state)[:, 0], rcond=None)[0] for state in states])
    size = np.linalg.norm(DERIVED["tilted_gradient"](family, w, 40.0, x, y, w)) + 1
    for k, time in enumerate(TIMES):
        rest = DERIVED["tilted_gradient"](family, exact[k], time, x, y, w)
        assert np.linalg.norm(rest) <= tolerances.backward(np.float64, 6) * size
        rest = DERIVED["tilted_gradient"](family, dense[k], time, x, y, w)
        assert np.linalg.norm(rest) <= 1e-8 * size
    # Negative control: gradient flow is on another path.
    states = by_definition.gradient_flow(model, parameters(net), y[:, None], family, TIMES, **TOLERANCES)
    other = np.linalg.lstsq(x, model.outputs(states[2])[:, 0], rcond=None)[0]
    assert np.linalg.norm(DERIVED["tilted_gradient"](family, other, TIMES[2], x, y, w)) > 1e-2 * size


def test_the_tilted_gradient_vanishes_for_classes() -> None:
    rng = np.random.default_rng(5)
    x, w, y = rng.standard_normal((7, 2)), rng.standard_normal((2, 3)), one_hot(rng.integers(0, 3, 7), 3)
    exact = geodesics.predictor(TIMES, x, y, w, "categorical")
    for k, time in enumerate(TIMES):
        rest = DERIVED["softmax_tilted_gradient"](exact[k], time, x, y, w)
        assert np.linalg.norm(rest) <= tolerances.backward(np.float64, 7)
    wrong = DERIVED["softmax_tilted_gradient"](exact[1], TIMES[2], x, y, w)
    assert np.linalg.norm(wrong) > 1e-2


@pytest.mark.parametrize("family", ["gaussian", "bernoulli", "poisson"])
def test_means_and_margins_agree_with_an_integrated_network(family: str) -> None:
    # Two independent samples: straight lines.
    x, y, w = (part[:2] for part in data(family, 4))
    net = LinearNetwork([np.eye(2), w[None, :]])
    model = by_definition.network_model(net, x)
    states = by_definition.natural_flow(model, parameters(net), y[:, None], family, TIMES, **TOLERANCES)
    found = np.array([as_family(family).mean(model.outputs(state))[:, 0] for state in states])
    start = as_family(family).mean((x @ w)[:, None])[:, 0]
    derived = DERIVED["mean_parameters"](TIMES, start, y)
    np.testing.assert_allclose(found, derived, rtol=1e-7)
    np.testing.assert_allclose(geodesics.mean_parameters(TIMES, start, y), derived, rtol=1e-14, atol=1e-15)
    if family == "bernoulli":
        signs = 2 * y - 1
        margins = np.array([model.outputs(state)[:, 0] for state in states]) * signs
        derived = DERIVED["margins"](TIMES, signs * (x @ w))
        np.testing.assert_allclose(margins, derived, rtol=1e-6)
        np.testing.assert_allclose(geodesics.margins(TIMES, signs * (x @ w)), derived, rtol=1e-12, atol=1e-13)


def test_a_wrong_path_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    right = c7_geodesics.mean_at
    monkeypatch.setattr(c7_geodesics, "mean_at", lambda t, start, target: right(2 * t, start, target))
    with pytest.raises(DerivationError):
        c7_geodesics.derive()


def test_a_wrong_margin_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    right = c7_geodesics.margin_at
    monkeypatch.setattr(c7_geodesics, "margin_at", lambda t, start: right(t, start) + t)
    with pytest.raises(DerivationError):
        c7_geodesics.derive()


def test_a_wrong_partition_function_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_families.FAMILIES, "poisson", 2 * _families.FAMILIES["poisson"])
    with pytest.raises(DerivationError, match="poisson"):
        c7_geodesics.derive()
