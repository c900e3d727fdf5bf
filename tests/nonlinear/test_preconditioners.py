"""Is each approximation exact where it should be, and is it what its own definition says elsewhere?"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import linnat as ln
from linnat._checks import InputError
from linnat.nonlinear import curvature, passes
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners import Ekfac, Kfac, KfacTridiagonal, OnlineNaturalGradient
from linnat.nonlinear.preconditioners.online import absorb, residual
from linnat.nonlinear.statistics import Statistics, gather
from tests import tolerances

ALL = (Kfac(), KfacTridiagonal(), Ekfac(), OnlineNaturalGradient())


def linear_problem(widths: tuple[int, ...], seed: int, rows: int = 40) -> tuple[Any, ...]:
    """Return identity units as both kinds of network, data, and statistics with the model's exact noise."""
    rng = np.random.default_rng(seed)
    net = Network(widths, "identity", "gaussian")
    theta = initial(net, "orthogonal", rng=rng) + 0.1 * rng.standard_normal(net.n_parameters)
    x, y = rng.standard_normal((rows, widths[0])), rng.standard_normal((rows, widths[-1]))
    layers = net.layers(theta)
    linear = ln.LinearNetwork([m[:, :-1] for m in layers], [m[:, -1] for m in layers])
    return net, theta, x, y, linear, ln.Task.from_data(x, y), exact_noise(net, theta, x)


def exact_noise(net: Network, theta: Any, x: Any) -> Statistics:
    """Return statistics whose errors have the covariance of the model's noise exactly: one copy of the rows per output.

    Independent of the signals row by row, as for a linear network; only for identity units.
    """
    outputs = net.widths[-1]
    _, work = passes.prepare(net, theta, np.tile(x, (outputs, 1)))
    score = np.repeat(np.eye(outputs), len(x), axis=0) * np.sqrt(outputs)
    passes.backward(net, theta, work, score)
    return Statistics(tuple(work.signals), tuple(work.errors))


def minibatch(net: Network, theta: Any, x: Any, rng: Any) -> Statistics:
    _, work = passes.prepare(net, theta, x)
    return gather(net, theta, work, "sampled", rng)


def multilayer(seed: int = 0, rows: int = 30) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    net = Network((5, 6, 4, 3), ["tanh", "logistic"], "bernoulli")
    theta = initial(net, "glorot", rng=rng) + 0.1 * rng.standard_normal(net.n_parameters)
    return net, theta, rng.standard_normal((rows, 5)), rng.integers(0, 2, (rows, 3)).astype(float), rng


@pytest.mark.statement("N6", "O2")
@given(st.integers(0, 10**6))
def test_identity_units_kfac_is_the_exact_block_diagonal(seed: int) -> None:
    net, theta, x, _, linear, task, batch = linear_problem((4, 5, 3, 2), seed)
    state, _ = Kfac().update(Kfac().init(net), batch)
    true = curvature.true_fisher(net, theta, x)
    for i, (a, g) in enumerate(zip(state.factors.inputs, state.factors.outputs, strict=True), start=1):
        block = np.kron(a, g)
        size = tolerances.product(float, 200) * np.abs(block).max()
        assert np.abs(block - true.block(i, i)).max() <= size
        assert np.abs(block - ln.fisher_block(linear, task, i, i)).max() <= size
    # EKFAC has nothing to mend: signals and errors are independent.
    ekfac, _ = Ekfac().update(Ekfac().init(net), batch)
    for (left, right), moments, i in zip(ekfac.bases, ekfac.moments, range(1, 4), strict=True):
        basis = np.kron(left, right)
        block = (basis * moments.ravel()) @ basis.T
        assert np.abs(block - true.block(i, i)).max() <= tolerances.backward(float, 200) * np.abs(block).max()


@pytest.mark.statement("N7", "O2")
@pytest.mark.parametrize("damping", [1e-6, 1e-2, 10.0])
def test_identity_units_damped_kfac_is_the_closed_form(damping: float) -> None:
    net, theta, x, y, linear, task, batch = linear_problem((4, 5, 3, 2), 3)
    gradient = passes.gradient(net, theta, x, y)[1]
    kfac = Kfac(damping=damping)
    found = kfac.apply(kfac.update(kfac.init(net), batch)[0], gradient)
    wanted = ln.flatten(
        ln.natural_gradient(linear, task, damping=damping, damping_kind="factored", mask="block-diagonal")
    )
    condition = 10.0 / damping**0.5
    assert np.linalg.norm(found - wanted) <= tolerances.solve(float, 40, condition) * np.linalg.norm(wanted)


@pytest.mark.statement("N1", "O1")
@pytest.mark.parametrize("strategy", ["cholesky", "eigen"])
def test_identity_units_online_is_the_exact_natural_gradient(strategy: str) -> None:
    net, theta, x, y, linear, task, batch = linear_problem((3, 4, 5, 3), 5)
    gradient = passes.gradient(net, theta, x, y)[1]
    wanted = ln.flatten(ln.natural_gradient(linear, task))
    errors = []
    for damping in (1e-6, 1e-8, 1e-10):
        online = OnlineNaturalGradient(damping=damping, strategy=strategy, cutoff=0.0)
        found = online.apply(online.update(online.init(net), batch)[0], gradient)
        errors.append(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    # Factored damping errs by order √λ.
    assert errors[2] < 1e-3
    assert np.diff(np.log10(errors)) == pytest.approx([-1, -1], abs=0.05)
    # In a bottleneck it is not the natural gradient, however small the damping.
    net, theta, x, y, linear, task, batch = linear_problem((4, 2, 4), 6)
    online = OnlineNaturalGradient(damping=1e-10, strategy=strategy, cutoff=0.0)
    state, _ = online.update(online.init(net), batch)
    found = online.apply(state, passes.gradient(net, theta, x, y)[1])
    wanted = ln.flatten(ln.natural_gradient(linear, task))
    moved = ln.induced_change(linear, ln.unflatten(found, linear)) - ln.induced_change(
        linear, ln.unflatten(wanted, linear)
    )
    assert np.abs(moved).max() > 1e-2 * np.abs(wanted).max()


def test_eigen_tells_ranks() -> None:
    net, _, _, _, _, _, batch = linear_problem((3, 6, 2), 1)
    online = OnlineNaturalGradient(strategy="eigen")
    _, info = online.update(online.init(net), batch)
    assert info.refreshed
    # Six units behind three inputs and a bias; errors of two outputs.
    assert info.ranks == ((4, 2), (4, 2))


@pytest.mark.statement("O2")
@given(st.integers(0, 10**6))
def test_ekfac_is_the_best_diagonal_in_its_basis(seed: int) -> None:
    net, theta, x, _, rng = multilayer(seed, rows=12)
    batch = minibatch(net, theta, x, rng)
    ekfac = Ekfac(decay=0.0)
    state, _ = ekfac.update(ekfac.init(net), batch)
    for i, ((left, right), moments) in enumerate(zip(state.bases, state.moments, strict=True)):
        wide = np.c_[batch.signals[i], np.ones(batch.rows)]
        rows = np.einsum("na,nb->nab", wide, batch.errors[i]).reshape(batch.rows, -1)
        block = rows.T @ rows / batch.rows
        basis = np.kron(left, right)
        scale = np.linalg.norm(block)
        size = tolerances.backward(float, len(block)) * scale
        assert np.abs(np.diagonal(basis.T @ block @ basis) - moments.ravel()).max() <= size
        assert abs(np.trace(block) - moments.sum()) <= size * 4
        kron = np.kron(state.factors.inputs[i], state.factors.outputs[i])
        best = np.linalg.norm(block - (basis * moments.ravel()) @ basis.T)
        assert best <= np.linalg.norm(block - kron) + size
        other = moments.ravel() * (1 + 0.3 * rng.standard_normal(moments.size))
        assert best <= np.linalg.norm(block - (basis * other) @ basis.T) + size
        # A stale basis keeps the trace, too.
        turned = scipy.linalg.qr(rng.standard_normal(left.shape))[0]
        stale = (wide @ turned) ** 2
        assert (
            abs((stale.T @ (batch.errors[i] @ right) ** 2).sum() / batch.rows - np.trace(block)) <= size * 4
        )


def test_a_batch_of_one_is_its_own_kronecker_product() -> None:
    net, theta, x, y, _ = multilayer(2, rows=1)
    _, work = passes.prepare(net, theta, x)
    batch = gather(net, theta, work, y)
    state, _ = Kfac().update(Kfac().init(net), batch)
    matrix = curvature.empirical_fisher(net, theta, x, y)
    for i, (a, g) in enumerate(zip(state.factors.inputs, state.factors.outputs, strict=True), start=1):
        assert np.abs(np.kron(a, g) - matrix.block(i, i)).max() <= tolerances.product(float, 8)


@pytest.mark.statement("N7", "O2")
@pytest.mark.parametrize("damping", [1e-4, 1e-1])
def test_ekfac_with_factored_damping_is_kfac_but_for_the_moments(damping: float) -> None:
    net, theta, x, y, rng = multilayer(7)
    gradient, batch = passes.gradient(net, theta, x, y)[1], minibatch(net, theta, x, rng)
    ekfac, kfac = Ekfac(damping, factored=True), Kfac(damping)
    state, _ = ekfac.update(ekfac.init(net), batch)
    wanted = []
    for (left, right), moments, a, g, part in zip(
        state.bases, state.moments, state.factors.inputs, state.factors.outputs, net.slices, strict=True
    ):
        ratio = np.sqrt(np.trace(a) / len(a) / (np.trace(g) / len(g)))
        inner, outer = damping**0.5 * ratio * np.eye(len(a)), damping**0.5 / ratio * np.eye(len(g))
        basis, kron = np.kron(left, right), np.kron(a, g)
        matrix = (basis * moments.ravel()) @ basis.T + np.kron(a + inner, g + outer) - kron
        wanted.append(np.linalg.solve(matrix, gradient[part]))
    condition = max(np.linalg.norm(m) for m in state.moments) / damping + 1.0
    size = tolerances.solve(float, 90, condition) * np.linalg.norm(np.concatenate(wanted))
    assert np.linalg.norm(ekfac.apply(state, gradient) - np.concatenate(wanted)) <= size
    products = tuple(
        np.outer(np.diagonal(left.T @ a @ left), np.diagonal(right.T @ g @ right))
        for (left, right), a, g in zip(state.bases, state.factors.inputs, state.factors.outputs, strict=True)
    )
    same = kfac.apply(kfac.update(kfac.init(net), batch)[0], gradient)
    found = ekfac.apply(state._replace(moments=products), gradient)
    assert np.linalg.norm(found - same) <= tolerances.solve(float, 90, condition) * np.linalg.norm(same)


@pytest.mark.statement("O2")
@pytest.mark.parametrize("seed", range(4))
def test_directions_that_its_rows_lack_make_ekfac_leap_unless_damping_is_factored(seed: int) -> None:
    net, rng = Network((30, 6, 4), "tanh", "categorical"), np.random.default_rng(seed)
    x, y = rng.standard_normal((400, 30)), np.eye(4)[rng.integers(4, size=400)]
    theta = initial(net, "glorot", rng=rng)
    gradient, batch = passes.gradient(net, theta, x, y)[1], minibatch(net, theta, x[:12], rng)
    lengths = []
    for factored in (False, True):
        ekfac = Ekfac(1e-6, factored=factored)
        state, _ = ekfac.update(ekfac.init(net), batch)
        lengths.append(np.linalg.norm(ekfac.apply(state, gradient)) * 1e-6 / np.linalg.norm(gradient))
    # Twelve rows span twelve of thirty inputs and all errors: elsewhere the step is the gradient over λ.
    assert lengths[0] > 0.3
    assert lengths[1] < 0.15 * lengths[0]


@pytest.mark.statement("O2")
def test_of_a_multiple_eigenvalue_ekfac_takes_any_basis() -> None:
    # Rows ±(1, 0) with errors ±1 and ±(0, 1) with ±3: A = diag(1/2, 1/2, 1) has every basis of its first plane.
    signals = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    batch = Statistics((signals,), (np.array([[1.0], [-1.0], [3.0], [-3.0]]),))
    ekfac = Ekfac(damping=1.0, decay=0.0, early=False)
    state, _ = ekfac.update(ekfac.init(Network((2, 1), family="gaussian")), batch)
    for angle, second in ((0.0, 1 / 2), (np.pi / 4, 5 / 2)):
        c, s = np.cos(angle), np.sin(angle)
        basis = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        inner = basis.T @ state.factors.inputs[0] @ basis
        assert np.abs(inner - np.diag([0.5, 0.5, 1.0])).max() <= tolerances.product(float, 3)
        turned, _ = ekfac.update(state._replace(bases=((basis, np.eye(1)),)), batch)
        step = ekfac.apply(turned, np.array([1.0, 0.0, 0.0]))
        assert np.abs(step - [1 / (1 + second), 0.0, 0.0]).max() <= tolerances.product(float, 9)


def test_ekfac_moments_of_the_mean_gradient() -> None:
    net, theta, x, _, rng = multilayer(1)
    batch = minibatch(net, theta, x, rng)
    ekfac = Ekfac(decay=0.0, moments="mean")
    state, _ = ekfac.update(ekfac.init(net), batch)
    for i, ((left, right), moments) in enumerate(zip(state.bases, state.moments, strict=True)):
        wide = np.c_[batch.signals[i], np.ones(batch.rows)]
        mean = left.T @ (wide.T @ batch.errors[i] / batch.rows) @ right
        assert np.abs(moments - batch.rows * mean**2).max() <= tolerances.product(float, 100) * moments.max()


@pytest.mark.statement("O2")
@pytest.mark.parametrize("period", [1, 2])
def test_ekfac_carries_its_moments_into_a_new_basis(period: int) -> None:
    net, theta, x, _, rng = multilayer(5)
    ekfac = Ekfac(period=period, decay=0.75, early=False)
    state = ekfac.init(net)
    wanted = [np.zeros(0)] * net.depth
    for k in range(5):
        batch = minibatch(net, theta, x, rng)
        before, (state, info) = state, ekfac.update(state, batch)
        assert info.refreshed == (k % period == 0)
        for i, (left, right) in enumerate(state.bases):
            wide, basis = np.c_[batch.signals[i], np.ones(batch.rows)], np.kron(left, right)
            rows = np.einsum("na,nb->nab", wide, batch.errors[i]).reshape(batch.rows, -1)
            new = np.mean((rows @ basis) ** 2, axis=0)
            if k:
                # The factor of each pair of directions, against K-FAC's moments, as one diagonal matrix.
                kron, old = (
                    np.kron(state.factors.inputs[i], state.factors.outputs[i]),
                    np.kron(*before.bases[i]),
                )
                mean = np.trace(kron) / len(kron)
                factor = (wanted[i] + mean) / (np.diagonal(old.T @ kron @ old) + mean)
                turned = np.diagonal(basis.T @ (old * factor) @ old.T @ basis)
                kept = np.maximum(turned * (np.diagonal(basis.T @ kron @ basis) + mean) - mean, 0)
                share = min(1 - 1 / (k + 1), 0.75)
                new = share * kept + (1 - share) * new
            wanted[i] = new
            size = tolerances.backward(float, new.size) * new.max() * (1 + new.max() / new.mean())
            assert np.abs(state.moments[i].ravel() - new).max() <= size
            assert state.moments[i].min() >= 0


@pytest.mark.statement("O2")
def test_ekfac_with_a_basis_always_new_still_averages() -> None:
    net, theta, x, _, rng = multilayer(6, rows=2000)
    everything = minibatch(net, theta, x, rng)
    errors = []
    for decay in (0.95, 0.0):
        ekfac = Ekfac(period=1, decay=decay)
        state, found = ekfac.init(net), []
        for _ in range(200):
            state, _ = ekfac.update(state, minibatch(net, theta, x[rng.choice(len(x), 20)], rng))
            sides = zip(state.bases, state.moments, everything.signals, everything.errors, strict=True)
            for (left, right), moments, signals, back in sides:
                true = ((signals @ left[:-1] + left[-1]) ** 2).T @ (back @ right) ** 2 / everything.rows
                found.append(np.linalg.norm(moments - true) / np.linalg.norm(true))
        errors.append(np.mean(found[-300:]))
    # A window of 20 minibatches of independent rows leaves 1/√39 of one's error; with what turning costs, below 1/3.
    assert errors[0] < errors[1] / 3


@pytest.mark.statement("O2")
@given(st.integers(0, 10**6))
def test_the_tridiagonal_chain_is_what_its_definition_says(seed: int) -> None:
    net, theta, x, _, rng = multilayer(seed)
    method = KfacTridiagonal(damping=0.05)
    state, _ = method.update(method.init(net), minibatch(net, theta, x, rng))
    precision = np.stack([method.apply(state, unit) for unit in np.eye(net.n_parameters)])
    assert np.abs(precision - precision.T).max() <= tolerances.backward(float, 90) * np.abs(precision).max()
    values = np.linalg.eigvalsh(precision)
    assert values[0] > 0
    matrix = scipy.linalg.cho_solve(scipy.linalg.cho_factor(precision), np.eye(len(precision)))
    size = tolerances.solve(float, 90, values[-1] / values[0]) * np.abs(matrix).max()
    inputs, outputs = method.damped(state)
    for i, (first, second) in enumerate(zip(net.slices, net.slices[1:], strict=False)):
        kept = np.kron(state.between[i][0], state.between[i][1])
        assert np.abs(matrix[first, second] - kept).max() <= size
        assert np.abs(matrix[first, first] - np.kron(inputs[i], outputs[i])).max() <= size
    last = net.slices[-1]
    assert np.abs(matrix[last, last] - np.kron(inputs[-1], outputs[-1])).max() <= size
    # The blocks of the precision matrix beyond the neighbours are zero.
    assert np.abs(precision[net.slices[0], net.slices[2]]).max() == 0.0


@pytest.mark.statement("O2")
def test_two_layers_leave_nothing_out_of_the_chain() -> None:
    net, theta, x, _, _, _, batch = linear_problem((3, 4, 2), 8)
    method = KfacTridiagonal(damping=1e-12)
    state, _ = method.update(method.init(net), batch)
    full = curvature.true_fisher(net, theta, x).dense()
    first, second = net.slices
    assert np.abs(np.kron(*state.between[0]) - full[first, second]).max() <= tolerances.product(float, 100)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_corrected_inverses_stay_inverses(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    matrix, inverse = np.eye(12, dtype=dtype), np.eye(12, dtype=dtype)
    steps = 10_000 if dtype is np.float64 else 1000
    for _ in range(steps):
        absorb(matrix, inverse, rng.standard_normal((4, 12)).astype(dtype) / 2, 0.95)
    condition = np.linalg.cond(matrix)
    direct = np.linalg.inv(matrix.astype(np.float64))
    # Rounding of one step is forgotten like old data: drift of some steps' worth, whatever their number.
    bound = tolerances.solve(dtype, 12, condition) * 20
    assert np.linalg.norm(inverse - direct) <= bound * np.linalg.norm(direct)
    assert residual(matrix, inverse, 4) <= bound * condition


@pytest.mark.statement("O1")
def test_woodbury_follows_the_averages_and_repairs_itself() -> None:
    net, theta, x, _, rng = multilayer(0)
    method = OnlineNaturalGradient(damping=0.04, strategy="woodbury", period=5, coordinates=3)
    state = method.init(net)
    for _ in range(300):
        state, info = method.update(state, minibatch(net, theta, x, rng))
    assert not info.refreshed
    pairs = zip(
        (*state.factors.inputs, *state.factors.outputs), (0,) * 3 + (1,) * 3, (0, 1, 2) * 2, strict=True
    )
    for matrix, side, layer in pairs:
        inverse = state.inverses[layer][side]
        assert np.linalg.norm(matrix @ inverse - np.eye(len(matrix))) <= tolerances.solve(
            float, len(matrix), np.linalg.cond(matrix)
        )
        # What stands for the damping keeps the least eigenvalue near √λ = 0.2.
        assert np.linalg.eigvalsh(matrix)[0] >= 0.1
    state.inverses[0][0][...] *= 1.5
    state, info = dataclasses.replace(method, period=1).update(state, minibatch(net, theta, x, rng))
    assert info.refreshed
    matrix, inverse = state.factors.inputs[0], state.inverses[0][0]
    assert np.linalg.norm(matrix @ inverse - np.eye(len(matrix))) <= tolerances.solve(
        float, len(matrix), np.linalg.cond(matrix)
    )


@pytest.mark.parametrize("method", ALL, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("early", [False, True])
def test_averages_are_means_and_then_windows(early: bool, method: Any) -> None:
    net, theta, x, _, rng = multilayer(0)
    method = dataclasses.replace(method, decay=0.75, early=early)
    state, seen = method.init(net), []
    for k in range(6):
        batch = minibatch(net, theta, x, rng)
        seen.append(batch.errors[1].T @ batch.errors[1] / batch.rows)
        state, info = method.update(state, batch)
        assert info.refreshed == (k in ((0, 1, 3) if early else (0,)))
        if k == 3:
            mean = sum(seen) / 4
            assert np.abs(state.factors.outputs[1] - mean).max() <= tolerances.product(float, 30)
    wanted = mean
    for new in seen[4:]:
        wanted = 0.75 * wanted + 0.25 * new
    assert np.abs(state.factors.outputs[1] - wanted).max() <= tolerances.product(float, 30)


@pytest.mark.parametrize(
    "method", [*ALL, OnlineNaturalGradient(strategy="woodbury")], ids=lambda m: f"{type(m).__name__}"
)
def test_directions_ascend_in_float32_too(method: Any) -> None:
    net, theta, x, y, rng = multilayer(4)
    theta = theta.astype(np.float32)
    gradient = passes.gradient(net, theta, x, y)[1]
    state = method.init(net, np.float32)
    if not getattr(state, "inverses", ()):
        with pytest.raises(InputError, match="state: expected a state that has seen a minibatch"):
            method.apply(state, gradient)
    for _ in range(3):
        state, _ = method.update(state, minibatch(net, theta, x, rng))
    kept = gradient.copy()
    step = method.apply(state, gradient)
    assert step.dtype == np.float32
    assert np.array_equal(gradient, kept)
    assert float(step @ gradient) > 0


def test_statistics_refuse_what_diverged_and_leave_the_state() -> None:
    net, theta, x, y, rng = multilayer(0)
    method = Kfac()
    state, _ = method.update(method.init(net), minibatch(net, theta, x, rng))
    kept = [m.copy() for m in (*state.factors.inputs, *state.factors.outputs)]
    _, work = passes.prepare(net, theta, x)
    theta[net.slices[1]] = np.nan
    with pytest.raises(InputError, match="errors of layer 1: expected finite numbers"):
        gather(net, theta, work, y)
    for before, after in zip(kept, (*state.factors.inputs, *state.factors.outputs), strict=True):
        assert np.array_equal(before, after)
    with pytest.raises(InputError, match="rng: expected a generator or seed"):
        gather(net, theta, work)
    with pytest.raises(InputError, match="targets: expected one of 'sampled'"):
        gather(net, theta, work, "data", rng)


def test_a_singular_factor_needs_damping() -> None:
    net, theta, x, _, rng = multilayer(0, rows=2)
    method = Kfac(damping=1e-300)
    with pytest.raises(
        InputError, match=r"(inputs|outputs) of layer 1: expected a factor that is positive definite"
    ):
        method.update(method.init(net), minibatch(net, theta, x, rng))


@pytest.mark.parametrize("method", [Kfac, KfacTridiagonal, Ekfac, OnlineNaturalGradient])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"damping": 0.0}, "damping: expected"),
        ({"damping": np.nan}, "damping: expected"),
        ({"decay": 1.0}, r"decay: expected a number in \[0, 1\)"),
        ({"decay": -0.1}, "decay: expected"),
        ({"period": 0}, "period: expected an integer ≥ 1"),
    ],
)
def test_bad_settings(method: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        method(**change)
