"""Are forward, backward and all products right? Against complex steps through a textbook loss, and each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat._checks import InputError
from linnat.exact.loss import gradient as linear_gradient
from linnat.exact.network import LinearNetwork, flatten
from linnat.exact.task import Task
from linnat.families import Gaussian
from linnat.nonlinear import passes
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network
from tests import tolerances
from tests.nonlinear import _reference as reference

UNITS = ("identity", "tanh", "logistic", "relu", "softplus")
FAMILIES = ("gaussian", "bernoulli", "categorical", "poisson")
EPS = float(np.finfo(float).eps)


def targets(family: str, rows: int, outputs: int, rng: np.random.Generator) -> Any:
    if family == "gaussian":
        return rng.standard_normal((rows, outputs))
    if family == "bernoulli":
        return rng.integers(0, 2, (rows, outputs)).astype(float)
    if family == "poisson":
        return rng.poisson(2.0, (rows, outputs)).astype(float)
    return np.eye(outputs)[rng.integers(0, outputs, rows)]


def case(seed: int, family: str, depth: int = 3, output_unit: str = "identity") -> tuple[Any, ...]:
    """Return a network of random widths and units with parameters, inputs and targets."""
    rng = np.random.default_rng(seed)
    widths = [int(n) for n in rng.integers(1, 5, depth + 1)]
    widths[-1] = max(widths[-1], 2) if family == "categorical" else widths[-1]
    units = [str(u) for u in rng.choice(UNITS, depth - 1)] + [output_unit]
    net = Network(widths, units, family)
    theta = 0.7 * rng.standard_normal(net.n_parameters)
    rows = int(rng.integers(1, 5))
    return net, theta, rng.standard_normal((rows, widths[0])), targets(family, rows, widths[-1], rng), rng


cases = st.tuples(st.integers(0, 10**6), st.sampled_from(FAMILIES), st.integers(1, 4), st.sampled_from(UNITS))


@given(cases)
def test_loss_and_gradient_are_those_of_the_textbook(drawn: tuple[int, str, int, str]) -> None:
    net, theta, x, y, _ = case(*drawn)
    value, found = passes.gradient(net, theta, x, y)
    args = (net.widths, net.activations, net.family.name, x, y)
    wanted = reference.mean_loss(theta, *args)
    slope = reference.complex_step(lambda t: reference.mean_loss(t, *args), theta)
    size = 20 * net.depth * max(net.widths)
    scale = 1 + np.abs(wanted) + np.exp(np.abs(reference_outputs(net, theta, x)).max())
    assert abs(value - wanted) <= tolerances.product(float, size) * scale
    assert abs(value - passes.loss(net, theta, x, y)) <= tolerances.product(float, 4) * scale
    assert np.abs(found - slope).max() <= tolerances.product(float, size) * scale * (1 + np.abs(slope).max())


def reference_outputs(net: Network, theta: Any, x: Any) -> Any:
    return np.array([reference.output(theta, net.widths, net.activations, row) for row in x])


@given(cases)
def test_jacobian_and_its_products(drawn: tuple[int, str, int, str]) -> None:
    net, theta, x, _, rng = case(*drawn)
    wanted = reference.jacobian(theta, net.widths, net.activations, x)
    found = passes.jacobian(net, theta, x)
    scale = max(1.0, float(np.abs(wanted).max()))
    tolerance = tolerances.product(float, 20 * net.depth * max(net.widths)) * scale
    assert np.abs(found - wanted).max() <= tolerance
    direction = rng.standard_normal(net.n_parameters)
    cotangents = rng.standard_normal((len(x), net.widths[-1]))
    _, work = passes.prepare(net, theta, x)
    forward = passes.pushforward(net, theta, work, direction)
    assert np.abs(forward - wanted @ direction).max() <= tolerance * net.n_parameters
    passes.backward(net, theta, work, cotangents)
    back = passes.pullback(net, work)
    assert np.abs(back - np.einsum("nkp,nk->p", wanted, cotangents)).max() <= tolerance * len(x) * 4
    rows = passes.row_gradients(net, work)
    assert np.abs(rows.sum(axis=0) - back).max() <= tolerance * len(x) * 4
    # Adjoint: ⟨J d, c⟩ = ⟨d, Jᵀ c⟩.
    assert abs((forward * cotangents).sum() - direction @ back) <= tolerance * net.n_parameters * 8


@given(cases)
def test_many_directions_are_multiplied_as_one_by_one(drawn: tuple[int, str, int, str]) -> None:
    net, theta, x, y, rng = case(*drawn)
    _, work = passes.prepare(net, theta, x)
    many = rng.standard_normal((2, 3, net.n_parameters))
    cotangents = rng.standard_normal((2, 3, len(x), net.widths[-1]))
    args = net, theta, work
    for function, given_, one in (
        (passes.pushforward, many, lambda d: passes.pushforward(*args, d)),
        (passes.fisher_product, many, lambda d: passes.fisher_product(*args, d)),
        (
            lambda *a: passes.gauss_newton_product(*a[:3], y, a[3]),
            many,
            lambda d: passes.gauss_newton_product(*args, y, d),
        ),
        (
            lambda *a: passes.hessian_product(*a[:3], y, a[3]),
            many,
            lambda d: passes.hessian_product(*args, y, d),
        ),
        (passes.vector_jacobian_product, cotangents, lambda c: passes.vector_jacobian_product(*args, c)),
    ):
        kept = given_.copy()
        found = function(*args, given_)
        assert np.array_equal(given_, kept)
        wanted = np.array([[one(d) for d in row] for row in given_])
        size = tolerances.product(float, 20 * net.depth * max(4, *net.widths)) * max(
            1.0, np.abs(wanted).max()
        )
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= size
    jac = passes.jacobian(net, theta, x)
    wanted = np.einsum("abnk,nkp->abp", cotangents, jac)
    size = tolerances.product(float, 20 * net.depth * max(4, *net.widths)) * max(1.0, np.abs(jac).max())
    assert np.abs(found - wanted).max() <= size * 4 * len(x)


@given(cases)
def test_hessian_products_are_differences_of_gradients(drawn: tuple[int, str, int, str]) -> None:
    net, theta, x, y, rng = case(*drawn)
    direction = rng.standard_normal(net.n_parameters)
    direction /= np.linalg.norm(direction)
    _, work = passes.prepare(net, theta, x)
    if not smooth_here(net, theta, x, direction):
        return
    found = passes.hessian_product(net, theta, work, y, direction)
    step, stencil = 2e-3, ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))
    wanted = np.zeros_like(theta)
    for k, weight in stencil:
        ahead = passes.gradient(net, theta + k * step * direction, x, y)[1]
        behind = passes.gradient(net, theta - k * step * direction, x, y)[1]
        wanted += weight * (ahead - behind) / step
    size = 1 + np.abs(passes.gradient(net, theta, x, y)[1]).max() + np.abs(found).max()
    # Order 6; derivatives of order seven of tanh, exp and their compositions reach thousands.
    assert np.abs(found - wanted).max() <= tolerances.difference(6, step, scale=100.0) * size


def smooth_here(net: Network, theta: Any, x: Any, direction: Any) -> bool:
    """Whether no ReLU changes sides within the stencil."""

    def sides(t: Any) -> Any:
        _, work = passes.prepare(net, t, x)
        return [h > 0 for h, u in zip(work.hidden, net.activations, strict=True) if u == "relu"]

    here = sides(theta)
    ends = [sides(theta + s * direction) for s in np.linspace(-7e-3, 7e-3, 15)]
    return all((a == b).all() for end in ends for a, b in zip(here, end, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("output_unit", UNITS)
def test_hessian_products_are_symmetric_and_linear(family: str, output_unit: str) -> None:
    net, theta, x, y, rng = case(3, family, 4, output_unit)
    _, work = passes.prepare(net, theta, x)
    a, b = rng.standard_normal((2, net.n_parameters))
    ha, hb = (passes.hessian_product(net, theta, work, y, v) for v in (a, b))
    scale = np.linalg.norm(ha) * np.linalg.norm(b) + np.linalg.norm(hb) * np.linalg.norm(a)
    assert abs(a @ hb - b @ ha) <= tolerances.product(float, net.n_parameters) * scale
    both = passes.hessian_product(net, theta, work, y, 2 * a - b)
    assert np.linalg.norm(both - 2 * ha + hb) <= tolerances.product(float, 40) * (
        2 * np.linalg.norm(ha) + np.linalg.norm(hb)
    )


@pytest.mark.statement("G1", "X10")
def test_identity_units_are_the_linear_network() -> None:
    rng = np.random.default_rng(5)
    net = Network((4, 3, 5, 2), "identity", "gaussian")
    theta = initial(net, "glorot", rng=rng) + 0.1 * rng.standard_normal(net.n_parameters)
    x, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 2))
    layers = net.layers(theta)
    linear = LinearNetwork([m[:, :-1] for m in layers], [m[:, -1] for m in layers])
    wanted = flatten(linear_gradient(linear, Task.from_data(x, y)))
    found = passes.gradient(net, theta, x, y)[1]
    assert np.linalg.norm(found - wanted) <= tolerances.solve(float, 30, 100.0) * np.linalg.norm(wanted)


def test_a_gaussian_with_covariance() -> None:
    rng = np.random.default_rng(0)
    cov = np.array([[2.0, 0.5], [0.5, 1.0]])
    net = Network((3, 4, 2), "tanh", Gaussian(cov))
    theta = rng.standard_normal(net.n_parameters)
    x, y = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    jac = reference.jacobian(theta, net.widths, net.activations, x)
    residual = y - reference_outputs(net, theta, x)
    wanted = -np.einsum("nkp,nk->p", jac, np.linalg.solve(cov, residual.T).T) / 6
    value, found = passes.gradient(net, theta, x, y)
    assert np.abs(found - wanted).max() <= tolerances.product(float, 200) * np.abs(wanted).max()
    squares = np.einsum("nk,nk->n", residual, np.linalg.solve(cov, residual.T).T)
    assert value == pytest.approx(0.5 * squares.mean(), rel=1e-13)


@pytest.mark.parametrize("unit", UNITS)
def test_float32_is_kept(unit: str) -> None:
    rng = np.random.default_rng(1)
    net = Network((5, 4, 3), unit, "bernoulli")
    theta = initial(net, "glorot", rng=rng)
    x, y = rng.standard_normal((8, 5)), rng.integers(0, 2, (8, 3)).astype(float)
    value, wanted = passes.gradient(net, theta, x, y)
    short, found = passes.gradient(net, theta.astype(np.float32), x, y)
    assert found.dtype == np.float32
    size = tolerances.product(np.float32, 20)
    assert abs(short - value) <= size * (1 + value)
    assert np.abs(found - wanted).max() <= size * (1 + np.abs(wanted).max())


def test_a_workspace_can_be_used_again_and_inputs_stay() -> None:
    net, theta, x, y, rng = case(11, "bernoulli", 3)
    kept = theta.copy(), x.copy(), y.copy()
    work = passes.Workspace(net, len(x))
    other = rng.standard_normal(net.n_parameters)
    passes.forward(net, other, x, work)
    passes.backward(net, other, work, np.ones_like(work.outputs))
    passes.forward(net, theta, x, work)
    passes.backward(net, theta, work, net.family.score(work.outputs, y) / -len(x))
    assert np.array_equal(passes.pullback(net, work), passes.gradient(net, theta, x, y)[1])
    for before, after in zip(kept, (theta, x, y), strict=True):
        assert np.array_equal(before, after)
    out = np.empty(net.n_parameters)
    assert passes.pullback(net, work, out) is out


@pytest.mark.parametrize("rows", [1, 10, 11, 200, 201])
def test_errors_run_back_for_few_rows_as_for_many(rows: int) -> None:
    # Up to 200 rows, and no more than half of a layer's outputs, BLAS gets the product the other way round.
    rng = np.random.default_rng(rows)
    net = Network((3, 5, 20, 400, 4), ["tanh", "logistic", "identity"], "gaussian")
    theta = initial(net, "glorot", rng=rng)
    x, last = rng.standard_normal((rows, 3)), rng.standard_normal((rows, 4))
    work = passes.Workspace(net, rows)
    passes.forward(net, theta, x, work)
    passes.backward(net, theta, work, last)
    slopes = 1.0 - work.hidden[0] ** 2, work.hidden[1] * (1.0 - work.hidden[1]), np.ones((rows, 400))
    wanted = last
    for i in (2, 1, 0):
        wanted = np.einsum("nk,jk,nj->nj", wanted, net.blocks(theta)[i + 1][:-1], slopes[i])
        assert np.abs(work.errors[i] - wanted).max() <= tolerances.product(float, 430) * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": np.zeros(3)}, r"parameters: expected 20 numbers for widths \(3, 2, 4\), found shape"),
        ({"parameters": np.full(20, np.nan)}, "parameters: expected finite numbers, found nan at index"),
        ({"parameters": np.zeros((2, 20))}, "parameters: expected one vector"),
        ({"parameters": np.full(20, 1e300)}, "parameters: expected a network with finite outputs"),
        ({"x": np.zeros((5, 2))}, r"x: expected 3 columns, found shape \(5, 2\)"),
        ({"x": np.zeros((0, 3))}, "x: expected a non-empty array"),
        ({"x": np.full((5, 3), np.inf)}, "x: expected finite numbers"),
        ({"x": np.zeros((5, 3), complex)}, "x: expected real numbers"),
        ({"y": np.zeros((4, 4))}, r"y: expected shape \(5, 4\), found shape \(4, 4\)"),
        ({"y": np.full((5, 4), 2.0)}, "y: expected labels 0 or 1, or probabilities, found 2.0"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    net = Network((3, 2, 4), "identity", "bernoulli")
    good = {"parameters": np.zeros(20), "x": np.ones((5, 3)), "y": np.ones((5, 4))} | change
    with pytest.raises(InputError, match=message):
        passes.gradient(net, good["parameters"], good["x"], good["y"])


def test_pytorch_agrees() -> None:
    torch = pytest.importorskip("torch")
    net, theta, x, y, rng = case(7, "categorical", 4)
    direction = rng.standard_normal(net.n_parameters)
    unit = {
        "identity": lambda z: z,
        "tanh": torch.tanh,
        "logistic": torch.sigmoid,
        "relu": torch.relu,
        "softplus": torch.nn.functional.softplus,
    }

    def value(vector: Any) -> Any:
        signal = torch.tensor(x)
        for where, (rows, columns), name in zip(net.slices, net.shapes, net.activations, strict=True):
            block = vector[where].reshape(columns, rows)
            signal = unit[name](signal @ block[:-1] + block[-1])
        return -(torch.tensor(y) * torch.log_softmax(signal, dim=1)).sum(dim=1).mean()

    point = torch.tensor(theta)
    _, wanted = torch.autograd.functional.hvp(value, point, torch.tensor(direction))
    slope = torch.autograd.functional.jacobian(value, point).numpy()
    _, work = passes.prepare(net, theta, x)
    found = passes.hessian_product(net, theta, work, y, direction)
    tolerance = tolerances.product(float, 20 * max(net.widths))
    assert np.abs(found - wanted.numpy()).max() <= tolerance * (1 + np.abs(found).max())
    assert np.abs(passes.gradient(net, theta, x, y)[1] - slope).max() <= tolerance * (1 + np.abs(slope).max())
