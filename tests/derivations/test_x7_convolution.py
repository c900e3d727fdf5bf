"""X7: the derived frequencies against circulant layers, and against the package."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import circulant

from derivations import x7_convolution
from derivations._core import DerivationError
from linnat.exact import convolution
from tests import tolerances
from tests.derivations._oracles import integrate, jacobian, mutant, total

pytestmark = pytest.mark.statement("X7")
DERIVED = x7_convolution.functions()


def draw(depth: int, size: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    unit = np.eye(size)[0]
    return [unit + 0.3 * rng.standard_normal(size) for _ in range(depth)], unit + 0.5 * rng.standard_normal(
        size
    )


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_direction_solves_the_dense_system(depth: int) -> None:
    kernels, target = draw(depth, 5, depth)
    layers = [circulant(k) for k in kernels]
    embed = np.zeros((depth * 25, depth * 5))
    for i in range(depth):
        for q in range(5):
            embed[25 * i : 25 * i + 25, 5 * i + q] = circulant(np.eye(5)[q]).ravel()
    big = jacobian(layers) @ embed
    error = (circulant(target) - total(layers)).ravel()
    found = np.concatenate(DERIVED["natural"](kernels, target))
    bound = tolerances.solve(np.float64, 25, np.linalg.cond(total(layers)))
    tolerances.assert_close(big @ found, error, bound)


def test_kernels_follow_the_root_and_the_package_agrees() -> None:
    kernels, target = draw(3, 4, 7)
    assert DERIVED["breakdown"](kernels, target) == np.inf

    def velocity(layers: list[np.ndarray]) -> list[np.ndarray]:
        return [v[None] for v in DERIVED["natural"]([k[0] for k in layers], target)]

    states = integrate([k[None] for k in kernels], velocity, [1.0])[0]
    claimed = DERIVED["kernels"](kernels, target, 1.0)
    found = convolution.natural_weights([k[None, None] for k in kernels], target[None, None], 1.0)
    for state, kernel, package in zip(states, claimed, found, strict=True):
        tolerances.assert_close(state[0], kernel, 1e-8)
        tolerances.assert_close(package[0, 0, 0], kernel, tolerances.solve(np.float64, 4, 30.0))


def test_the_end_is_that_of_the_package() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        kernels, target = list(rng.standard_normal((2, 1 + seed % 5))), rng.standard_normal(1 + seed % 5)
        found = float(convolution.breakdown_time([k[None, None] for k in kernels], target[None, None]))
        assert found == pytest.approx(DERIVED["breakdown"](kernels, target), rel=1e-10)


@pytest.mark.parametrize("name", ["rotated", "ratio"])
def test_a_wrong_formula_is_not_derived(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x7_convolution, name, mutant(2)(getattr(x7_convolution, name)))
    with pytest.raises(DerivationError):
        x7_convolution.derive()
