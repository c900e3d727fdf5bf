"""Are the families what they say? Against mpmath at extreme predictors, by what the metric means, by sampling (C7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import linnat as ln
from linnat.dense.exponential import outcomes
from linnat.families import Bernoulli, Categorical, Family, Gaussian, Poisson, as_family, one_hot
from tests import tolerances
from tests.strategies import seeds

pytestmark = pytest.mark.statement("C7")

COV = np.array([[2.0, 0.5], [0.5, 1.0]])
FAMILIES: tuple[Family, ...] = (Gaussian(COV), Bernoulli(), Categorical(), Poisson())
DIGITS = 700  # 1 − p is 1e-608 where logits of ±700 meet
TINY = 1e-307
scales = st.floats(-1.0, 2.84)

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)


def target(family: Family, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return admissible targets that are not labels."""
    if family.name == "gaussian":
        return rng.standard_normal(shape)
    if family.name == "categorical":
        return rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    return rng.random(shape) * (1 if family.name == "bernoulli" else 5)


def softmax(z: np.ndarray) -> tuple[list[Any], Any]:
    """Return probabilities and the log-partition in many digits."""
    powers = [mp.exp(mp.mpf(float(a))) for a in z]
    return [a / mp.fsum(powers) for a in powers], mp.log(mp.fsum(powers))


def off(value: Any, truth: Any) -> float:
    """Return the relative error, absolute below the smallest normal numbers."""
    return float(abs(mp.mpf(float(value)) - truth) / max(abs(truth), mp.mpf(TINY)))


def bound(*z: np.ndarray, size: int = 4) -> float:
    """Return the tolerance: a logarithm of size |z| is rounded to eps |z| before it is exponentiated, p = 1."""
    return tolerances.product(np.float64, size, 1 + sum(float(np.abs(a).max()) for a in z))


def draw(seed: int, decade: float, size: int = 4) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).standard_normal(size) * 10**decade, -700, 700)


@given(seeds, scales)
def test_categorical_against_many_digits(seed: int, decade: float) -> None:
    z, family = draw(seed, decade), Categorical()
    y = np.eye(4)[seed % 4] if seed % 2 else np.random.default_rng(seed).dirichlet(np.ones(4))
    with mp.workdps(DIGITS):
        p, partition = softmax(z)
        most = bound(z)
        assert max(map(off, family.mean(z), p)) <= most
        assert off(family.log_partition(z), partition) <= most
        loss = -mp.fsum([mp.mpf(float(a)) * mp.log(b) for a, b in zip(y, p, strict=True)])
        assert off(family.loss(z, y), loss) <= most
        fisher, root = family.fisher(z), family.fisher_root(z)
        for i in range(4):
            for j in range(4):
                assert off(fisher[i, j], p[i] * ((i == j) - p[j])) <= most
                assert off(root[i, j], (i == j) * mp.sqrt(p[i]) - p[i] * mp.sqrt(p[j])) <= most
        if seed % 2:  # for labels the score does not cancel
            score = [mp.mpf(float(a)) - b for a, b in zip(y, p, strict=True)]
            assert max(map(off, family.score(z, y), score)) <= most


@given(seeds, scales)
def test_bernoulli_and_poisson_against_many_digits(seed: int, decade: float) -> None:
    z = draw(seed, decade)
    one, counts = Bernoulli(), Poisson()
    with mp.workdps(DIGITS):
        for a in z:
            p, most = 1 / (1 + mp.exp(-mp.mpf(float(a)))), bound(z[:1] * 0 + a, size=1)
            assert off(one.mean([a])[0], p) <= most
            assert off(one.mean([-a])[0], 1 - p) <= most
            assert off(one.log_partition([a]), mp.log(1 + mp.exp(mp.mpf(float(a))))) <= most
            assert off(one.loss([a], [1.0]), -mp.log(p)) <= most
            assert off(one.loss([a], [0.0]), -mp.log(1 - p)) <= most
            assert off(one.score([a], [1.0])[0], 1 - p) <= most
            assert off(one.fisher([a])[0, 0], p * (1 - p)) <= most
            assert off(one.fisher_root([a])[0, 0], mp.sqrt(p * (1 - p))) <= most
            rate = mp.exp(mp.mpf(float(a)))
            assert off(counts.mean([a])[0], rate) <= most
            assert off(counts.fisher_root([a])[0, 0], mp.sqrt(rate)) <= most


@given(seeds, scales, st.floats(-9.0, 2.8))
def test_divergences_against_many_digits(seed: int, decade: float, distance: float) -> None:
    z = draw(seed, decade)
    other = np.clip(z + draw(seed + 1, distance), -700, 700)
    # The difference of two predictors is rounded to eps |z|, and its square enters: relative to the difference, p = 1.
    moves = np.abs(other - z)
    assume(moves.any())
    gap = moves[moves > 0].min()
    with mp.workdps(DIGITS):
        p, q = softmax(z)[0], softmax(other)[0]
        truth = mp.fsum([a * mp.log(a / b) for a, b in zip(p, q, strict=True)])
        # Sums of (a − ⟨p, a⟩)² of nearly equal moves cancel down to their spread.
        spread = np.ptp(other - z) or gap
        assert off(Categorical().kl(z, other), truth) <= bound(z, other) * (1 + 1 / spread)
        truth = mp.mpf(0)
        for a, b in zip(z, other, strict=True):
            r, s = (1 / (1 + mp.exp(-mp.mpf(float(c)))) for c in (a, b))
            truth += r * mp.log(r / s) + (1 - r) * mp.log((1 - r) / (1 - s))
        assert off(Bernoulli().kl(z, other), truth) <= bound(z, other) * (1 + 1 / gap)
        rates = [
            (mp.exp(mp.mpf(float(a))), mp.mpf(float(a)), mp.mpf(float(b)))
            for a, b in zip(z, other, strict=True)
        ]
        truth = mp.fsum([mp.exp(b) - r - r * (b - a) for r, a, b in rates])
        assert off(Poisson().kl(z, other), truth) <= bound(z, other)


def test_probabilities_below_the_range_of_the_type_are_zero_and_their_logarithms_are_not() -> None:
    z = np.array([700.0, -700.0])
    assert Categorical().mean(z)[1] == 0.0
    assert Categorical().loss(z, [0.0, 1.0]) == 1400.0
    assert Categorical().fisher_root(z)[1, 1] == pytest.approx(np.exp(-700.0), rel=1e-12)
    assert Bernoulli().loss([-700.0], [1.0]) == 700.0
    assert 0 < Bernoulli().mean([-690.0])[0] < 1e-299


@families
@given(seed=seeds)
def test_the_score_is_the_derivative_of_the_loss_and_the_fisher_matrix_of_the_score(
    family: Family, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    z, y, step = rng.standard_normal(2), target(family, (2,), rng), 1e-4
    slopes, changes = [], []
    for unit in step * np.eye(2):
        slopes.append((family.loss(z + unit, y) - family.loss(z - unit, y)) / (2 * step))
        changes.append((family.score(z + unit, y) - family.score(z - unit, y)) / (2 * step))
    most = tolerances.difference(2, step, 1e2)
    np.testing.assert_allclose(-np.array(slopes), family.score(z, y), rtol=0, atol=most)
    np.testing.assert_allclose(-np.array(changes), family.fisher(z), rtol=0, atol=most)
    root = family.fisher_root(z)
    np.testing.assert_allclose(root @ root.T, family.fisher(z), rtol=0, atol=1e-12)
    np.testing.assert_allclose(family.fisher_product(z, y), family.fisher(z) @ y, rtol=0, atol=1e-12)


@families
@given(seed=seeds)
def test_it_is_the_distribution_of_its_outcomes(family: Family, seed: int) -> None:
    # Means and Fisher matrices as sums over outcomes, probabilities by scipy.
    z = np.random.default_rng(seed).standard_normal(2)
    targets, weights = outcomes(z, family)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(weights @ targets, family.mean(z), rtol=1e-10, atol=1e-12)
    scores = family.score(z, targets)
    np.testing.assert_allclose(weights @ scores, 0, atol=1e-10)
    np.testing.assert_allclose((scores * weights[:, None]).T @ scores, family.fisher(z), atol=1e-9)


@families
@given(seed=seeds)
def test_kl_means_the_expected_gain_and_the_metric_to_second_order(family: Family, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z, direction = rng.standard_normal(2), rng.standard_normal(2)
    targets, weights = outcomes(z, family)
    other = z + direction
    gain = weights @ (family.loss(other, targets) - family.loss(z, targets))
    np.testing.assert_allclose(family.kl(z, other), gain, rtol=1e-9, atol=1e-12)
    form = 0.5 * direction @ family.fisher(z) @ direction
    # The third derivative is at most the second times the range r of the change, so the next term is at most r.
    for h in (1e-2, 1e-3):
        r = 2 * h * np.abs(direction).max()
        assert abs(float(family.kl(z, z + h * direction)) / (form * h**2) - 1) <= r
    assert family.kl(z, z) == 0


@families
def test_the_link_undoes_the_mean(family: Family) -> None:
    z = np.random.default_rng(0).standard_normal((5, 2)) * 3
    found = family.link(family.mean(z))
    wanted = z - z.mean(axis=-1, keepdims=True) if isinstance(family, Categorical) else z
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@families
def test_a_loss_is_its_floor_at_the_target(family: Family) -> None:
    rng = np.random.default_rng(2)
    y = family.mean(rng.standard_normal((6, 2)))
    best, z = family.link(y), rng.standard_normal((6, 2))
    # Fenchel: loss(z, y) − min = KL(y ‖ z).
    gap = family.loss(z, y) - family.loss(best, y)
    np.testing.assert_allclose(gap, family.kl(best, z), rtol=1e-9, atol=1e-12)


def test_the_gauge_of_softmax() -> None:
    family, rng = Categorical(), np.random.default_rng(1)
    z = rng.standard_normal((3, 4))
    moved = z + rng.standard_normal((3, 1)) * 100
    y = target(family, (3, 4), rng)
    for function in (family.mean, family.centre, family.fisher):
        np.testing.assert_allclose(function(moved), function(z), rtol=0, atol=1e-13 * 100)
    np.testing.assert_allclose(family.loss(moved, y), family.loss(z, y), rtol=1e-12)
    np.testing.assert_allclose(family.fisher(z) @ np.ones(4), 0, atol=1e-15)
    np.testing.assert_allclose(family.centre(z).sum(axis=-1), 0, atol=1e-15)
    # Two classes are Bernoulli of the difference.
    two = np.stack([np.zeros(4), z[0]], axis=-1)
    np.testing.assert_allclose(family.mean(two)[:, 1], Bernoulli().mean(z[0]), rtol=1e-14)


@families
def test_samples_have_the_mean_and_the_covariance(family: Family) -> None:
    z, count = np.array([0.7, -0.4]), 200_000
    y = family.sample(np.broadcast_to(z, (count, 2)), 5)
    truth = family.cov if isinstance(family, Gaussian) else family.fisher(z)
    spread = np.sqrt(np.diag(truth))
    assert (np.abs(y.mean(axis=0) - family.mean(z)) <= tolerances.monte_carlo(count) * spread).all()
    np.testing.assert_allclose(np.cov(y.T), truth, atol=0.05)
    np.testing.assert_array_equal(y, family.sample(np.broadcast_to(z, (count, 2)), np.random.default_rng(5)))


def test_rare_labels_are_drawn_with_their_probability() -> None:
    z = np.full((200_000, 1), -6.0)
    p = float(Bernoulli().mean([-6.0])[0])
    for found in (Bernoulli().sample(z, 0).mean(), 1 - Bernoulli().sample(-z, 0).mean()):
        assert abs(found - p) <= tolerances.monte_carlo(len(z)) * np.sqrt(p)
    assert Bernoulli().sample(np.full((1000, 1), -700.0), 0).max() == 0.0
    rare = Categorical().sample(np.broadcast_to([0.0, -6.0, -800.0], (200_000, 3)), 1).mean(axis=0)
    assert abs(rare[1] - p) <= tolerances.monte_carlo(len(z)) * np.sqrt(p)
    assert rare[2] == 0.0


def test_a_wrong_probability_is_seen() -> None:
    # Negative control: the logistic function by its textbook formula loses the complement.
    naive = 1 / (1 + np.exp(-40.0))
    with mp.workdps(DIGITS):
        truth = 1 - 1 / (1 + mp.exp(-mp.mpf(40)))
        assert off(1 - naive, truth) > 1e-2
        assert off(Bernoulli().mean([-40.0])[0], truth) < 1e-13
    # And the empirical second moment of scores is not the Fisher matrix.
    y = np.array([[1.0], [1.0], [0.0]])
    score = Bernoulli().score([2.0], y)
    assert abs((score**2).mean() - Bernoulli().fisher([2.0])[0, 0]) > 0.1


@families
def test_broadcasting_equals_a_loop_float32_is_kept_inputs_are_not_changed(family: Family) -> None:
    rng = np.random.default_rng(4)
    z, y = rng.standard_normal((3, 1, 2)), target(family, (4, 2), rng)
    before = z.copy(), y.copy()
    for function in (family.loss, family.score, family.kl):
        second = z[:, 0] if function == family.kl else y
        together = function(z, second)
        for i, j in np.ndindex(together.shape[:2]):
            np.testing.assert_array_equal(together[i, j], function(z[i, 0], second[j]))
    for single in (family.mean, family.log_partition, family.fisher, family.fisher_root):
        np.testing.assert_array_equal(single(z)[1, 0], single(z[1, 0]))
        assert single(z.astype(np.float32)).dtype == np.float32
    assert family.loss(z.astype(np.float32), y).dtype == np.float32
    assert family.sample(z.astype(np.float32), 0).dtype == np.float32
    np.testing.assert_array_equal(before[0], z)
    np.testing.assert_array_equal(before[1], y)


def test_names() -> None:
    for family in FAMILIES:
        assert as_family(family.name).name == family.name
        assert as_family(family) is family
    np.testing.assert_array_equal(Gaussian().fisher([0.0, 0.0]), np.eye(2))
    np.testing.assert_array_equal(one_hot([[0], [2]], 3), [[[1, 0, 0]], [[0, 0, 1]]])


BAD: tuple[tuple[str, Callable[[], Any]], ...] = (
    ("^family: expected a Family or one of 'gaussian'.*found 'probit'", lambda: as_family("probit")),
    ("^family", lambda: as_family(3)),
    ("^y: expected labels 0 or 1.*found -1.0. Labels ±1", lambda: Bernoulli().loss([0.0], [-1.0])),
    ("^y: expected labels 0 or 1.*found 2.0.$", lambda: Bernoulli().loss([0.0], [2.0])),
    ("^y: expected probabilities of sum 1.*found 1.5", lambda: Categorical().loss([0.0, 0.0], [1.0, 0.5])),
    ("^y: expected probabilities ≥ 0, found -0.5", lambda: Categorical().score([0.0, 0.0], [1.5, -0.5])),
    ("^y: expected at least two classes.*one_hot", lambda: Categorical().targets([1.0])),
    ("^z: expected at least two classes", lambda: Categorical().mean([1.0])),
    ("^y: expected counts ≥ 0, found -1.0", lambda: Poisson().loss([0.0], [-1.0])),
    ("^z: expected log-rates up to 700.8", lambda: Poisson().mean([750.0])),
    ("^z: expected log-rates up to 79.7", lambda: Poisson().mean(np.array([80.0], np.float32))),
    ("^z: expected rates e\\^z up to 2\\^53", lambda: Poisson().sample([100.0], 0)),
    ("^y: expected 2 coordinates", lambda: Bernoulli().loss([0.0, 0.0], [1.0])),
    (
        "^y: expected leading axes that broadcast",
        lambda: Bernoulli().loss(np.zeros((3, 1)), np.zeros((2, 1))),
    ),
    ("^z: expected finite numbers, found nan", lambda: Bernoulli().mean([np.nan])),
    ("^z: expected finite numbers, found inf", lambda: Categorical().mean([np.inf, 0.0])),
    ("^z: expected real numbers", lambda: Bernoulli().mean([1j])),
    ("^z: expected a non-empty array", lambda: Bernoulli().mean([])),
    ("^z: expected at least 1 dimension", lambda: Bernoulli().mean(0.0)),
    ("^z: expected 2 coordinates, the size of Σ", lambda: Gaussian(COV).mean([1.0])),
    ("^cov: expected a positive definite matrix", lambda: Gaussian([[1.0, 0.0], [0.0, 0.0]])),
    ("^cov: expected a symmetric matrix", lambda: Gaussian([[1.0, 0.5], [0.0, 1.0]])),
    ("^cov", lambda: Gaussian([1.0])),
    ("^mean: expected probabilities in", lambda: Bernoulli().link([1.0])),
    ("^mean: expected probabilities > 0", lambda: Categorical().link([1.0, 0.0])),
    ("^mean: expected rates > 0", lambda: Poisson().link([0.0])),
    ("^labels: expected labels from 0 to 2, found 3", lambda: one_hot([0, 3], 3)),
    ("^labels: expected labels from 0 to 2, found -1", lambda: one_hot([-1], 3)),
    ("^labels: expected whole numbers, found 0.5", lambda: one_hot([0.5], 3)),
    ("^n_classes", lambda: one_hot([0], 1)),
    ("^rng", lambda: Bernoulli().sample([0.0], "seed")),
)


@pytest.mark.parametrize(("message", "call"), BAD, ids=[str(k) for k in range(len(BAD))])
def test_bad_input(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ln.InputError, match=message):
        call()
