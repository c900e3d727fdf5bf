"""Do claims about multilayer networks hold whatever the architecture? Depths, widths and units are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linnat.claims as claims
from linnat.claims._multilayer import instance, nowhere

pytestmark = pytest.mark.statement("O0", "O1", "O2", "O3", "O4", "O5")
REGISTRY = {claim.identifier: claim for claim in claims.registry()}


@pytest.mark.parametrize(
    "identifier",
    ["O2", "O3", "O4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("O0", "O1", "O5"))],
)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_claims_hold_for_every_architecture(identifier: str, seed: int) -> None:
    for measure in REGISTRY[identifier].check(nowhere(np.random.default_rng(seed))):
        assert measure.error <= measure.bound, measure


def test_architectures_are_drawn() -> None:
    seen = {instance("poisson", np.random.default_rng(seed))[0].widths for seed in range(40)}
    assert len(seen) >= 5
    assert {len(widths) for widths in seen} == {3, 4}


def test_sampling_would_tell_a_wrong_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    from linnat.claims import matrices
    from linnat.nonlinear import curvature

    right = curvature.monte_carlo_fisher

    def fewer(net: object, theta: object, x: object, samples: int, *, rng: object) -> object:
        return right(net, theta, x, max(1, samples // 3), rng=rng)  # type: ignore[arg-type]

    monkeypatch.setattr(curvature, "monte_carlo_fisher", fewer)
    found = matrices._sampling(np.random.default_rng(0))
    assert max(m.ratio for m in found[:2]) > 1
