"""C9: the derived steps against the package, the dense definition, and integrated flows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from derivations import c9_completion
from derivations._core import DerivationError
from linnat import LinearNetwork, completion
from linnat.dense import completion as by_definition
from tests import tolerances
from tests.derivations._oracles import integrate, network, total

pytestmark = pytest.mark.statement("C9")
DERIVED = c9_completion.functions()
GAUGES = ("minimum-norm", "layerwise", "population")


def problem(widths: tuple[int, ...], seed: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (widths[-1], widths[0])
    observed = (rng.permutation(shape[0] * shape[1]) < 0.6 * shape[0] * shape[1]).reshape(shape)
    return network(widths, seed), rng.standard_normal(shape), observed


@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize("widths", [(3, 2), (3, 3, 3), (2, 5, 3), (3, 4, 4, 2)])
def test_three_routes_give_one_step(widths: tuple[int, ...], gauge: str) -> None:
    for seed in range(5):
        weights, target, observed = problem(widths, seed)
        net = LinearNetwork(weights)
        found = DERIVED["completion_velocity"](weights, target - total(weights), observed, gauge)
        package = completion.natural_step(net, target, observed, gauge=gauge).direction
        dense = by_definition.completion_gradient(net, target, observed, gauge=gauge)
        every = by_definition.observed_jacobian(net, observed)
        blocks = [every, *np.split(every, np.cumsum([w.size for w in weights])[:-1], axis=1)]
        values = [np.linalg.svd(block, compute_uv=False) for block in blocks]
        condition = max(float(v[0] / v[v > 1e-11 * v[0]][-1]) for v in values)
        bound = tolerances.solve(np.float64, net.n_parameters, condition**2)
        for v, u, w in zip(found, package, dense, strict=True):
            scale = max(float(np.linalg.norm(w)), 1e-300)
            assert np.linalg.norm(v + u) <= bound * scale
            assert np.linalg.norm(v + w) <= bound * scale


def test_observed_entries_decay_alike_and_the_others_do_not() -> None:
    weights, target, observed = problem((3, 6, 3), 1)
    ends = []
    for gauge in GAUGES:

        def velocity(state: list[np.ndarray], gauge: str = gauge) -> Any:
            return DERIVED["completion_velocity"](state, target - total(state), observed, gauge)

        end = total(integrate(weights, velocity, [1.5])[0])
        line = target + np.exp(-1.5) * (total(weights) - target)
        np.testing.assert_allclose(end[observed], line[observed], rtol=0, atol=1e-8)
        ends.append(end[~observed])
    np.testing.assert_allclose(ends[2], total(weights)[~observed], rtol=0, atol=1e-8)
    assert np.abs(ends[0] - ends[2]).max() > 1e-2
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


def test_the_rescaled_flow_is_the_package_s() -> None:
    weights, _, observed = problem((3, 4, 3), 2)
    epsilon, t = 0.3, 1.2
    share = 1 - (1 - epsilon) * np.exp(-t)
    path = completion.natural_flow(LinearNetwork(weights), total(weights) / epsilon, observed, t, rtol=1e-9)
    tau = np.log(share / epsilon)
    wanted = integrate(weights, lambda state: DERIVED["rescaled_velocity"](state, observed), [tau])[0]
    for layer, phi in zip(path.layers, wanted, strict=True):
        np.testing.assert_allclose(layer[0] * (share / epsilon) ** (-1 / 2), phi, rtol=0, atol=1e-7)


def test_a_wrong_rate_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    right = c9_completion.rescaled_rate
    monkeypatch.setattr(
        c9_completion, "rescaled_rate", lambda projected, phi, depth: depth * right(projected, phi, depth)
    )
    with pytest.raises(DerivationError):
        c9_completion.derive()
