"""Is the derived chain (X9) the pseudo-inverse of the product? Does it keep digits that the product loses?"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy as sp

import linnat as ln
from derivations import x9_chain
from derivations._core import inverse
from linnat import dense
from tests import tolerances
from tests.derivations import _definitions as definitions
from tests.strategies import conditioned

pytestmark = pytest.mark.statement("X9")

pseudo_inverses = x9_chain.functions()["pseudo_inverses"]
directions = x9_chain.functions()["directions"]


def factor(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    keep = values > 1e-10 * values[-1]
    return vectors[:, keep] * np.sqrt(values[keep])


@pytest.mark.parametrize("name", ["square", "wide", "two layers", "singular S"])
def test_chain_is_the_pseudo_inverse_of_the_product(name: str) -> None:
    case = next(c for c in definitions.cases() if c.name == name)
    f = factor(case.input_cov)
    found = pseudo_inverses(case.weights, f)
    for i, chain in enumerate(found):
        product = definitions.total(case.weights[:i]) @ f if i else f
        tolerances.assert_close(chain, np.linalg.pinv(product), definitions.bound(case))


@pytest.mark.parametrize("name", ["square", "wide", "two layers", "singular S"])
def test_both_sweeps_give_the_inner_directions(name: str) -> None:
    case = next(c for c in definitions.cases() if c.name == name)
    root_s, root_pi = definitions.roots(case)
    found = directions(case.weights, factor(case.input_cov), case.error)
    for i, direction in enumerate(found):
        before = definitions.total(case.weights[:i]) @ root_s if i else root_s
        after = root_pi @ definitions.total(case.weights[i + 1 :]) if i + 1 < len(case.weights) else root_pi
        inner = root_pi @ case.error @ root_s
        expected = np.linalg.pinv(after, rcond=1e-8) @ inner @ np.linalg.pinv(before, rcond=1e-8)
        lost = np.linalg.norm(np.linalg.pinv(after)) * np.linalg.norm(inner)
        lost *= np.linalg.norm(np.linalg.pinv(before, rcond=1e-8)) / np.linalg.norm(expected)
        tolerances.assert_close(direction, expected, definitions.bound(case) * max(1.0, lost))


@pytest.mark.parametrize("name", ["square", "wide", "two layers"])
def test_chain_directions_are_linnats_natural_gradient_times_the_depth(name: str) -> None:
    problem = dict(definitions.problems())[name]
    case = definitions.case_of(name, problem)
    found = directions(case.weights, factor(case.input_cov), case.error)
    exact = ln.natural_gradient(problem.net, problem.task)
    by_definition = dense.natural.natural_gradient(problem.net, problem.task)
    for u, one, other in zip(found, exact, by_definition, strict=True):
        tolerances.assert_close(u, -len(found) * one, definitions.bound(case) * 10)
        tolerances.assert_close(u, -len(found) * other, definitions.bound(case) * 10)


def test_another_factor_of_the_same_moment_gives_the_same_directions() -> None:
    case = next(c for c in definitions.cases() if c.name == "wide")
    f = factor(case.input_cov)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((f.shape[1], f.shape[1])))[0]
    for one, other in zip(
        directions(case.weights, f, case.error), directions(case.weights, f @ turn, case.error), strict=True
    ):
        tolerances.assert_close(other, one, definitions.bound(case) * 10)


def exactly(matrix: np.ndarray) -> sp.Matrix:
    return sp.Matrix([[sp.Rational(*Fraction(float(x)).as_integer_ratio()) for x in row] for row in matrix])


@pytest.mark.parametrize("seed", range(3))
def test_chain_keeps_digits_that_the_product_loses(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, depth, kappa = 4, 7, 1e3
    weights = [conditioned(rng, size, size, kappa) for _ in range(depth)]
    exact = sp.eye(size)
    for weight in weights[: depth - 1]:
        exact = exactly(weight) * exact
    reference = np.array(inverse(exact).evalf(40).tolist(), dtype=float)
    chain = pseudo_inverses(weights, np.eye(size))[-1]
    product = definitions.total(weights[:-1])
    condition = depth * kappa
    # δK_i = −Σ_j K_jΔ_jG_jK_i: conditions of layers add, times what the partial inverses lose together.
    partial = [np.linalg.norm(pseudo_inverses(weights, np.eye(size))[j], 2) for j in range(depth)]
    rest = [np.linalg.norm(pseudo_inverses(weights[j:], np.eye(size))[-1], 2) for j in range(depth)]
    cancellation = max(a * b for a, b in zip(partial, rest, strict=True)) / np.linalg.norm(reference, 2)
    tolerances.assert_close(chain, reference, tolerances.chain(np.float64, condition, size * cancellation))
    lost = tolerances.relative_error(np.linalg.pinv(product, rcond=1e-300), reference)
    assert lost > 1e3 * tolerances.relative_error(chain, reference)


def test_first_order_error_formula_predicts_a_perturbed_chain() -> None:
    rng = np.random.default_rng(4)
    weights = [conditioned(rng, 3, 3, 10.0) for _ in range(4)]
    steps = [rng.standard_normal((3, 3)) for _ in weights]
    size = 1e-6
    exact = pseudo_inverses([*weights, np.eye(3)], np.eye(3))[-1]
    moved = [w + size * s for w, s in zip(weights, steps, strict=True)]
    change = pseudo_inverses([*moved, np.eye(3)], np.eye(3))[-1] - exact
    predicted = np.zeros((3, 3))
    for j, (weight, step) in enumerate(zip(weights, steps, strict=True)):
        partial = definitions.total(weights[: j + 1])
        relative = np.linalg.solve(weight.T, step.T).T
        predicted -= size * np.linalg.solve(partial, relative @ partial @ exact)
    assert tolerances.relative_error(change, predicted) <= 1e3 * size
    assert tolerances.relative_error(change, -predicted) > 1.0
