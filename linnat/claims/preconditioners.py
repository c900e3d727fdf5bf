"""Where are practical preconditioners exact? Statements O1, O2, O3, on networks of identity and of bent units."""

from __future__ import annotations

import numpy as np

from linnat._checks import Array
from linnat.claims._core import CONSTANT, Case, Claim, Measure, Measures, relative
from linnat.claims.matrices import _anything, _case
from linnat.dense import fisher as dense_fisher
from linnat.dense import natural as dense_natural
from linnat.exact.network import LinearNetwork, induced_change, unflatten
from linnat.exact.task import Task
from linnat.nonlinear import passes
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners import Ekfac, Kfac, OnlineNaturalGradient, Prong
from linnat.nonlinear.preconditioners.online import OnlineState
from linnat.nonlinear.preconditioners.prong import from_white, to_white, white_gradient
from linnat.nonlinear.statistics import Statistics, gather

EPS = float(np.finfo(float).eps)
DAMPINGS = (1e-8, 1e-10)
WIDE, BOTTLENECK = (3, 4, 5, 3), (4, 2, 4)
ROWS = 30


def check_online(case: Case, widths: tuple[int, ...] = WIDE) -> Measures:
    """Measure the step's induced change against the dense solution, and how its error falls with the damping."""
    net, theta, x, y, linear, task = _linear(case.rng, widths)
    gradient = passes.gradient(net, theta, x, y)[1]
    wanted = induced_change(linear, dense_natural.natural_gradient(linear, task, gauge="minimum-norm"))
    errors = []
    for damping in DAMPINGS:
        online = OnlineNaturalGradient(damping=damping)
        state, _ = online.update(online.init(net), _exact_noise(net, theta, x))
        errors.append(
            relative(induced_change(linear, unflatten(online.apply(state, gradient), linear)), wanted)
        )
    order = np.log(errors[0] / errors[1]) / np.log(DAMPINGS[0] / DAMPINGS[1])
    return [
        Measure("order of the error in λ against 1/2", abs(float(order) - 0.5), 0.02, "stated"),
        Measure("induced change against dense J⁺, λ = 1e-10", errors[1], _first_order(state), "stated"),
    ]


def _first_order(state: OnlineState) -> float:
    """Return √λ (1/α² + 1/β²), the largest over layers and non-zero eigenvalues; twice that, for the next order."""
    worst = 0.0
    for pair in zip(state.factors.inputs, state.factors.outputs, strict=True):
        values = [np.linalg.eigvalsh(matrix) for matrix in pair]
        worst = max(worst, sum(1 / float(v[v > 1e-9 * v[-1]].min()) for v in values))
    return 2 * float(DAMPINGS[1] ** 0.5) * worst


def check_kronecker(case: Case, share: float = 1.0) -> Measures:
    """Measure K-FAC's blocks for identity units; EKFAC's diagonal against the best one; traces."""
    net, theta, x, _, linear, task = _linear(case.rng, WIDE)
    state, _ = Kfac().update(Kfac().init(net), _exact_noise(net, theta, x))
    exact = dense_fisher.gauss_newton(linear, task)
    measures: Measures = []
    pairs = zip(state.factors.inputs, state.factors.outputs, net.slices, strict=True)
    gaps = [relative(np.kron(a, g), exact[part, part]) for a, g, part in pairs]
    measures.append(
        Measure("K-FAC's blocks for identity units", max(gaps), CONSTANT * EPS * net.n_parameters)
    )
    return [*measures, *_best_diagonal(case.rng, share)]


def _best_diagonal(rng: np.random.Generator, share: float) -> Measures:
    net = Network((3, 4, 2), "tanh", "bernoulli")
    theta = initial(net, "glorot", rng=rng)
    _, work = passes.prepare(net, theta, rng.standard_normal((10, 3)))
    batch = gather(net, theta, work, "sampled", rng)
    ekfac = Ekfac(decay=0.0)
    state, _ = ekfac.update(ekfac.init(net), batch)
    slope, trace, excess = 0.0, 0.0, 0.0
    for i, (left, right) in enumerate(state.bases):
        rows = np.einsum("na,nb->nab", np.c_[batch.signals[i], np.ones(batch.rows)], batch.errors[i])
        rows = rows.reshape(batch.rows, -1)
        block, basis = rows.T @ rows / batch.rows, np.kron(left, right)
        kron = np.kron(state.factors.inputs[i], state.factors.outputs[i])
        fixed = np.diagonal(basis.T @ kron @ basis)
        moments = share * state.moments[i].ravel() + (1 - share) * fixed
        size = float(np.linalg.norm(block))
        slope = max(slope, float(np.abs(np.diagonal(basis.T @ block @ basis) - moments).max()) / size)
        trace = max(trace, abs(float(np.trace(block) - moments.sum())) / float(np.trace(block)))
        best = float(np.linalg.norm(block - (basis * moments) @ basis.T))
        excess = max(excess, (best - float(np.linalg.norm(block - kron))) / size)
    limit = CONSTANT * EPS * net.n_parameters
    return [
        Measure("gradient of the distance in EKFAC's diagonal", slope, limit),
        Measure("trace of EKFAC", trace, limit),
        Measure("EKFAC farther from the block than K-FAC", max(excess, 0.0), limit),
    ]


def check_white(case: Case, centred: bool = True) -> Measures:
    """Measure PRONG as a reparametrised network against PRONG as a preconditioner, and against dense solutions."""
    rng = case.rng
    net = Network((3, 4, 2), "tanh", "bernoulli")
    theta = initial(net, "glorot", rng=rng)
    x, y = rng.standard_normal((12, 3)) + 1.0, rng.integers(0, 2, (12, 2)).astype(float)
    method = Prong(epsilon=0.05)
    _, work = passes.prepare(net, theta, x)
    state, _ = method.update(method.init(net), gather(net, theta, work, "sampled", rng))
    if not centred:
        bare = tuple(w._replace(centre=np.zeros_like(w.centre)) for w in state.whitenings)
        state = state._replace(whitenings=bare)
    omega = to_white(state, theta)
    outputs, slope = white_gradient(state, omega, x, y)
    _, work = passes.prepare(net, theta, x)
    limit = (
        CONSTANT
        * EPS
        * net.n_parameters
        * max(float(w.scales[-1] / w.scales[0]) for w in state.whitenings) ** 2
    )
    moved = (theta - from_white(state, omega - 0.1 * slope)) / 0.1
    gradient = passes.gradient(net, theta, x, y)[1]
    dense = [
        _centred_step(layer, signal, method.epsilon)
        for layer, signal in zip(net.layers(gradient), work.signals, strict=True)
    ]
    return [
        Measure("outputs in white coordinates", relative(outputs, work.outputs), limit),
        Measure(
            "one step in white coordinates and its preconditioner",
            relative(moved, method.apply(state, gradient)),
            10 * limit,
        ),
        Measure("the step from data rows, dense", relative(moved, net.vector(dense)), 10 * limit),
    ]


def _centred_step(slope: Array, signal: Array, epsilon: float) -> Array:
    """Return (∂W − ∂b cᵀ)(Cov + ε)⁻¹ and what it leaves for b, from rows."""
    centre = signal.mean(axis=0)
    rows = np.concatenate([(signal - centre) / len(signal) ** 0.5, epsilon**0.5 * np.eye(len(centre))])
    triangle = np.asarray(np.linalg.qr(rows, mode="r"))
    centred = slope[:, :-1] - np.outer(slope[:, -1], centre)
    weights = np.linalg.solve(triangle, np.linalg.solve(triangle.T, centred.T)).T
    return np.column_stack([weights, slope[:, -1] - weights @ centre])


def _linear(
    rng: np.random.Generator, widths: tuple[int, ...]
) -> tuple[Network, Array, Array, Array, LinearNetwork, Task]:
    net = Network(widths, "identity", "gaussian")
    theta = initial(net, "orthogonal", rng=rng) + 0.1 * rng.standard_normal(net.n_parameters)
    x, y = rng.standard_normal((ROWS, widths[0])), rng.standard_normal((ROWS, widths[-1]))
    layers = net.layers(theta)
    linear = LinearNetwork([m[:, :-1] for m in layers], [m[:, -1] for m in layers])
    return net, theta, x, y, linear, Task.from_data(x, y)


def _exact_noise(net: Network, theta: Array, x: Array) -> Statistics:
    """Return statistics whose errors have the covariance of the model's noise exactly: each row once per output."""
    outputs = net.widths[-1]
    _, work = passes.prepare(net, theta, np.tile(x, (outputs, 1)))
    passes.backward(net, theta, work, np.repeat(np.eye(outputs), len(x), axis=0) * np.sqrt(outputs))
    return Statistics(tuple(work.signals), tuple(work.errors))


def _broken_online(rng: np.random.Generator) -> Measures:
    return check_online(_case(rng), BOTTLENECK)


def _broken_white(rng: np.random.Generator) -> Measures:
    return check_white(_case(rng), centred=False)


def _broken_kronecker(rng: np.random.Generator) -> Measures:
    return check_kronecker(_case(rng), 0.0)


CLAIMS = (
    Claim(
        "O1",
        "Online natural gradient",
        "damped Kronecker factors from running averages: the natural gradient of identity units, up to order √λ",
        r"v_i = \tfrac1L (\tilde\Lambda_i + \sqrt\lambda I)^{-1} D_i (\Lambda_{i-1} + \sqrt\lambda I)^{-1}",
        "Bernacchia, Lengyel and Hennequin (2018)",
        "identity units, the model's noise, no bottleneck (N1); an approximation elsewhere",
        "nonlinear.preconditioners.OnlineNaturalGradient",
        "dense J⁺ on all parameters; order in λ fitted",
        "order 1/2 ± 0.02 in λ; error twice the first-order term √λ(1/α² + 1/β²)",
        check_online,
        _anything,
        _broken_online,
        "a bottleneck, where N1 is not the natural gradient",
        about_networks=False,
    ),
    Claim(
        "O2",
        "K-FAC and EKFAC",
        "K-FAC is the exact block for identity units; EKFAC's diagonal is the best one in its basis",
        r"\|F_{ii} - Q\,\mathrm{diag}(s^*) Q^\top\|_F \le \|F_{ii} - A_i \otimes G_i\|_F,\quad "
        r"s^* = \mathrm{diag}(Q^\top F_{ii} Q)",
        "Martens and Grosse (2015); George et al. (2018)",
        "any orthonormal basis; that a better matrix has a better inverse does not follow",
        "nonlinear.preconditioners.Ekfac",
        "per-row gradients, dense Fisher matrix of the linear network",
        "p = 0: sums of products of well-scaled numbers",
        check_kronecker,
        _anything,
        _broken_kronecker,
        "K-FAC's own eigenvalues in place of the second moments",
        about_networks=False,
    ),
    Claim(
        "O3",
        "Natural neural networks",
        "a gradient step with white, centred inputs of every layer is the input half of K-FAC: PRONG",
        r"\Delta W = -\eta (\partial_W - \partial_b c^\top)(\mathrm{Cov}\,h + \varepsilon I)^{-1},\quad "
        r"\Delta b = -\eta\, \partial_b - \Delta W c",
        "Desjardins et al. (2015)",
        "coordinates frozen; the function does not change with them",
        "nonlinear.preconditioners.Prong",
        "the network in white coordinates; solves with QR factors of the data rows",
        "p = 2 in the condition of the whitening",
        check_white,
        _anything,
        _broken_white,
        "whitening without centring",
        about_networks=False,
    ),
)
