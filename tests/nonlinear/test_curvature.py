"""Are the five matrices what their names say? Against all targets, KL divergences, differences, the exact F."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh

from linnat._checks import InputError
from linnat.exact.fisher import fisher as linear_fisher
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from linnat.nonlinear import curvature, passes
from linnat.nonlinear.network import Network
from tests import tolerances
from tests.nonlinear import _reference as reference
from tests.nonlinear.test_passes import FAMILIES, UNITS, case, reference_outputs

pytestmark = pytest.mark.statement("O0")
cases = st.tuples(st.integers(0, 10**6), st.sampled_from(FAMILIES), st.integers(1, 3), st.sampled_from(UNITS))


def every(net: Network, theta: Any, x: Any, y: Any) -> dict[str, curvature.Curvature]:
    return {
        "fisher": curvature.true_fisher(net, theta, x),
        "monte-carlo": curvature.monte_carlo_fisher(net, theta, x, 3, rng=0),
        "empirical": curvature.empirical_fisher(net, theta, x, y),
        "gauss-newton": curvature.gauss_newton(net, theta, x, y),
        "hessian": curvature.hessian(net, theta, x, y),
    }


@pytest.mark.parametrize("family", ["bernoulli", "categorical"])
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_the_fisher_matrix_is_the_mean_over_all_targets(family: str, seed: int, depth: int) -> None:
    net, theta, x, _, _ = case(seed, family, depth, "tanh")
    outputs = net.widths[-1]
    labels = np.array(list(itertools.product((0.0, 1.0), repeat=outputs)))
    labels = np.eye(outputs) if family == "categorical" else labels
    wanted = np.zeros((net.n_parameters,) * 2)
    for row in x:
        for y in labels:
            args = (net.widths, net.activations, family, [row], [y])
            slope = reference.complex_step(lambda t, args=args: reference.mean_loss(t, *args), theta)
            chance = np.exp(-reference.mean_loss(theta, *args))
            wanted += chance * np.outer(slope, slope) / len(x)
    found = curvature.true_fisher(net, theta, x).dense()
    assert np.abs(found - wanted).max() <= tolerances.product(float, 100) * max(1.0, np.abs(wanted).max())


@given(cases)
def test_the_fisher_matrix_is_the_second_order_of_the_divergence(drawn: tuple[int, str, int, str]) -> None:
    net, theta, x, _, rng = case(*drawn)
    net = Network(net.widths, ["tanh" if u == "relu" else u for u in net.activations], net.family)
    direction = rng.standard_normal(net.n_parameters)
    direction /= np.linalg.norm(direction)
    here = curvature.true_fisher(net, theta, x)
    form = direction @ here.product(direction)
    z = passes.prepare(net, theta, x)[1].outputs

    def ratio(step: float) -> float:
        moved = [passes.prepare(net, theta + s * step * direction, x)[1].outputs for s in (1, -1)]
        return float(sum(net.family.kl(z, other).mean() for other in moved)) / step**2

    # Both signs together leave an error of order step²; Richardson's weights remove it.
    value = (4 * ratio(1e-3) - ratio(2e-3)) / 3
    scale = form + np.linalg.norm(here.dense(), 2)
    assert abs(value - form) <= 1e-6 * scale * (1 + np.exp(np.abs(z).max())) + 1e-9


@given(cases)
def test_products_blocks_and_structures_agree_with_the_definition(drawn: tuple[int, str, int, str]) -> None:
    net, theta, x, y, rng = case(*drawn)
    jac = reference.jacobian(theta, net.widths, net.activations, x)
    z = reference_outputs(net, theta, x)
    matrices = every(net, theta, x, y)
    information, score = net.family.fisher(z), net.family.score(z, y)
    wanted = {
        "fisher": np.einsum("nkp,nkl,nlq->pq", jac, information, jac) / len(x),
        "empirical": np.einsum("nkp,nk,nl,nlq->pq", jac, score, score, jac) / len(x),
    }
    drawn_targets = matrices["monte-carlo"].targets
    sampled = [net.family.score(z, t) for t in drawn_targets]
    wanted["monte-carlo"] = sum(np.einsum("nkp,nk,nl,nlq->pq", jac, s, s, jac) for s in sampled) / (
        3 * len(x)
    )
    directions = rng.standard_normal((net.n_parameters, 2))
    for kind, matrix in matrices.items():
        dense = matrix.dense()
        size = tolerances.product(float, 40 * max(4, net.n_parameters)) * max(1.0, float(np.abs(dense).max()))
        if kind in wanted:
            assert np.abs(dense - wanted[kind]).max() <= size * (1 + np.abs(jac).max()) ** 2
        assert np.abs(matrix.product(directions) - dense @ directions).max() <= size * 4
        assert np.abs(matrix.product(directions[:, 0]) - dense @ directions[:, 0]).max() <= size * 4
        assert np.abs(matrix.operator() @ directions - dense @ directions).max() <= size * 4
        assert np.abs(matrix.diagonal() - np.diagonal(dense)).max() <= size
        assert np.array_equal(matrix.dense("diagonal"), np.diag(matrix.diagonal()))
        assert np.abs(dense - dense.T).max() <= size
        for structure, keep in masks(net).items():
            kept = np.where(keep, dense, 0)
            assert np.abs(matrix.dense(structure) - kept).max() <= size
            assert np.abs(matrix.product(directions, structure) - kept @ directions).max() <= size * 4
            assert (
                np.abs(matrix.operator(structure) @ directions[:, 1] - kept @ directions[:, 1]).max()
                <= size * 4
            )


def masks(net: Network) -> dict[str, Any]:
    layer = np.concatenate([np.full(a * b, i) for i, (a, b) in enumerate(net.shapes)])
    unit = np.concatenate([np.tile(np.arange(a), b) for a, b in net.shapes])
    same = layer[:, None] == layer
    return {
        "layers": same,
        "tridiagonal": np.abs(layer[:, None] - layer) <= 1,
        "units": same & (unit[:, None] == unit),
        "full": np.ones_like(same),
        "diagonal": np.eye(len(layer), dtype=bool),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_hessian_and_gauss_newton_by_differences(family: str) -> None:
    net, theta, x, y, _ = case(21, family, 3, "softplus")
    net = Network(net.widths, ["tanh", "softplus", "softplus"], family)
    theta = theta[: net.n_parameters]
    step = 1e-3
    wanted = np.stack(
        [
            sum(
                w
                * (
                    passes.gradient(net, theta + k * step * unit, x, y)[1]
                    - passes.gradient(net, theta - k * step * unit, x, y)[1]
                )
                / step
                for k, w in ((1, 2 / 3), (2, -1 / 12))
            )
            for unit in np.eye(net.n_parameters)
        ]
    )
    found = curvature.hessian(net, theta, x, y).dense()
    assert np.abs(found - wanted).max() <= tolerances.difference(4, step, 100.0) * max(
        1, np.abs(wanted).max()
    )
    # The network linearised before its output units has no other curvature than theirs: its Hessian is Gauss–Newton's.
    linear = Network(net.widths, [*net.activations[:-1], "identity"], family)
    before = reference.jacobian(theta, linear.widths, linear.activations, x)
    start = reference_outputs(linear, theta, x)

    def loss(move: Any) -> Any:
        heads = (np.log(1 + np.exp(z + j @ move)) for z, j in zip(start, before, strict=True))
        return sum(reference.LOSSES[family](h, t) for h, t in zip(heads, y, strict=True)) / len(x)

    bent = np.stack(
        [
            sum(
                w
                * (
                    reference.complex_step(loss, k * step * unit)
                    - reference.complex_step(loss, -k * step * unit)
                )
                / step
                for k, w in ((1, 2 / 3), (2, -1 / 12))
            )
            for unit in np.eye(net.n_parameters)
        ]
    )
    matrix = curvature.gauss_newton(net, theta, x, y).dense()
    assert np.abs(matrix - bent).max() <= tolerances.difference(4, step, 100.0) * max(1, np.abs(bent).max())
    # Another link: neither the Fisher matrix nor the Hessian.
    assert np.abs(matrix - curvature.true_fisher(net, theta, x).dense()).max() > 1e-3 * np.abs(matrix).max()
    assert np.abs(matrix - found).max() > 1e-3 * np.abs(matrix).max()


@pytest.mark.statement("O4")
@given(st.integers(0, 10**6), st.sampled_from(FAMILIES), st.integers(1, 3))
def test_canonical_link_gauss_newton_is_fisher(seed: int, family: str, depth: int) -> None:
    net, theta, x, y, _ = case(seed, family, depth)
    gn, true = curvature.gauss_newton(net, theta, x, y).dense(), curvature.true_fisher(net, theta, x).dense()
    assert np.abs(gn - true).max() <= tolerances.product(float, 40) * max(1.0, np.abs(true).max())
    # With targets at their means the residual vanishes, and with it what distinguishes the Hessian.
    means = net.family.mean(passes.prepare(net, theta, x)[1].outputs)
    if family != "categorical" or np.abs(means.sum(axis=1) - 1).max() < 4e-16:
        full = curvature.hessian(net, theta, x, means).dense()
        assert np.abs(full - true).max() <= tolerances.product(float, 80) * max(1.0, np.abs(true).max())


@pytest.mark.statement("F1")
@given(st.integers(0, 10**6))
def test_identity_units_give_the_exact_fisher_matrix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    widths = [int(n) for n in rng.integers(1, 5, 4)]
    net = Network(widths, "identity", "gaussian")
    theta = rng.standard_normal(net.n_parameters)
    layers = net.layers(theta)
    x = rng.standard_normal((12, widths[0]))
    linear = LinearNetwork([m[:, :-1] for m in layers], [m[:, -1] for m in layers])
    task = Task.from_data(x, rng.standard_normal((12, widths[-1])))
    wanted = linear_fisher(linear, task)
    found = curvature.true_fisher(net, theta, x).dense()
    assert np.abs(found - wanted).max() <= tolerances.product(float, 400) * np.abs(wanted).max()


def test_sampled_targets_are_unbiased_with_the_error_of_their_number() -> None:
    net, theta, x, _, _ = case(4, "categorical", 2)
    true = curvature.true_fisher(net, theta, x).dense()
    means, errors = [], []
    for count in (10, 250):
        runs = np.array(
            [curvature.monte_carlo_fisher(net, theta, x, count, rng=s).dense() for s in range(30)]
        )
        spread = runs.std(axis=0) / np.sqrt(len(runs))
        means.append(np.abs(runs.mean(axis=0) - true).max() / max(spread.max(), 1e-300))
        errors.append(np.sqrt(((runs - true) ** 2).mean()))
    assert max(means) <= 5
    assert errors[0] / errors[1] == pytest.approx(5, rel=0.3)
    # Negative control: the data's targets are no sample of the model.
    wrong = curvature.empirical_fisher(net, theta, x, np.eye(net.widths[-1])[np.zeros(len(x), int)]).dense()
    assert np.sqrt(((wrong - true) ** 2).mean()) > 5 * errors[1]


def test_describe_says_which_matrix() -> None:
    net = Network((3, 4, 3), "tanh", "categorical")
    theta = np.random.default_rng(0).standard_normal(net.n_parameters)
    x, y = np.random.default_rng(1).standard_normal((5, 3)), np.eye(3)[[0, 1, 2, 1, 0]]
    bounds = {"fisher": 10, "monte-carlo": 15, "empirical": 5, "gauss-newton": 31, "hessian": 31}
    for kind, matrix in every(net, theta, x, y).items():
        told = matrix.describe(rank=True)
        assert (told.kind, told.rows, told.size, told.rank_bound) == (kind, 5, 31, bounds[kind])
        assert told.rank == np.linalg.matrix_rank(matrix.dense())
        assert told.rank <= told.rank_bound
        assert "mean of one row" in str(told)
        assert f"rank {told.rank}" in str(told)
        assert "≤" in str(matrix.describe())


def test_an_operator_has_the_spectrum() -> None:
    net = Network((6, 8, 5), "tanh", "bernoulli")
    theta = 0.5 * np.random.default_rng(0).standard_normal(net.n_parameters)
    matrix = curvature.true_fisher(net, theta, np.random.default_rng(1).standard_normal((40, 6)))
    values = eigsh(
        matrix.operator(), k=3, which="LM", return_eigenvectors=False, v0=np.ones(net.n_parameters)
    )
    wanted = scipy.linalg.eigvalsh(matrix.dense())[-3:]
    assert np.abs(np.sort(values) - wanted).max() <= 1e-10 * wanted[-1]


def test_float32_and_bad_input() -> None:
    net = Network((3, 4, 2), "tanh", "bernoulli")
    theta = np.random.default_rng(0).standard_normal(net.n_parameters)
    x, y = np.random.default_rng(1).standard_normal((5, 3)), np.ones((5, 2))
    for kind, matrix in every(net, theta.astype(np.float32), x, y).items():
        assert matrix.dense().dtype == np.float32
        wanted = every(net, theta, x, y)[kind].dense()
        if kind != "monte-carlo":
            assert (
                np.abs(matrix.dense() - wanted).max()
                <= tolerances.product(np.float32, 50) * np.abs(wanted).max()
            )
    matrix = curvature.true_fisher(net, theta, x)
    with pytest.raises(InputError, match="structure: expected one of 'full', 'layers'"):
        matrix.dense("block")
    with pytest.raises(InputError, match="j: expected a layer number from 1 to 2, found 3"):
        matrix.block(1, 3)
    with pytest.raises(InputError, match="direction: expected shape"):
        matrix.product(np.ones(3))
    with pytest.raises(InputError, match="samples: expected an integer ≥ 1"):
        curvature.monte_carlo_fisher(net, theta, x, 0, rng=0)
    with pytest.raises(InputError, match="rng: expected"):
        curvature.monte_carlo_fisher(net, theta, x, 1, rng=None)  # type: ignore[arg-type]
