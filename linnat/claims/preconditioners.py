"""Where are online natural gradients and whitening exact? Statements O1, O3, on identity and on bent units."""

from __future__ import annotations

import numpy as np

from linnat._checks import Array
from linnat.claims._core import CONSTANT, Case, Claim, Measure, Measures, relative
from linnat.claims._multilayer import EPS, always, instance, nowhere
from linnat.dense import fisher as dense_fisher
from linnat.dense import natural as dense_natural
from linnat.exact.network import LinearNetwork, induced_change, unflatten
from linnat.exact.task import Task
from linnat.nonlinear import curvature, passes
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners import OnlineNaturalGradient, Prong
from linnat.nonlinear.preconditioners.online import OnlineState, absorb, residual
from linnat.nonlinear.preconditioners.prong import SCALES, ProngState, from_white, to_white, white_gradient
from linnat.nonlinear.statistics import Statistics, gather

DAMPINGS = (1e-8, 1e-10)
BOTTLENECK = (4, 2, 4)
ROWS = 30
CORRECTIONS, DECAY = 10_000, 0.9
NETWORKS, SPREAD = 8, 0.03


def wide(rng: np.random.Generator) -> tuple[int, ...]:
    """Draw widths without a bottleneck."""
    return (3, *(int(n) for n in rng.integers(3, 6, int(rng.integers(1, 3)))), 3)


def check_online(case: Case, widths: tuple[int, ...] | None = None) -> Measures:
    """Measure the step's induced change against the dense solution, and how its error falls with the damping."""
    net, theta, x, y, linear, task = linear_problem(case.rng, wide(case.rng) if widths is None else widths)
    gradient = passes.gradient(net, theta, x, y)[1]
    wanted = induced_change(linear, dense_natural.natural_gradient(linear, task, gauge="minimum-norm"))
    errors = []
    for damping in DAMPINGS:
        online = OnlineNaturalGradient(damping=damping, cutoff=0.0)
        state, _ = online.update(online.init(net), exact_noise(net, theta, x))
        errors.append(
            relative(induced_change(linear, unflatten(online.apply(state, gradient), linear)), wanted)
        )
    order = np.log(errors[0] / errors[1]) / np.log(DAMPINGS[0] / DAMPINGS[1])
    return [
        Measure("order of the error in λ against 1/2", abs(float(order) - 0.5), 0.02, "stated"),
        Measure("induced change against dense J⁺, λ = 1e-10", errors[1], _first_order(state), "stated"),
        *_corrected(case.rng),
    ]


def _first_order(state: OnlineState) -> float:
    """Return √λ (1/α² + 1/β²), the largest over layers and non-zero eigenvalues; twice that, for the next order."""
    worst = 0.0
    for pair in zip(state.factors.inputs, state.factors.outputs, strict=True):
        values = [np.linalg.eigvalsh(matrix) for matrix in pair]
        worst = max(worst, sum(1 / float(v[v > 1e-9 * v[-1]].min()) for v in values))
    return 2 * float(DAMPINGS[1] ** 0.5) * worst


def _corrected(rng: np.random.Generator) -> Measures:
    """Measure inverses after 10⁴ corrections of rank two against direct ones, and the repair of one that is off.

    Each correction forgets the past by the factor 0.9, rounding included, so that the drift stays that of 1/(1 − 0.9)
    steps however many there were.
    """
    size = 5
    matrix, inverse = np.eye(size), np.eye(size)
    for rows in rng.standard_normal((CORRECTIONS, 2, size)):
        absorb(matrix, inverse, rows, DECAY)
    condition = float(np.linalg.cond(matrix))
    drift = CONSTANT * EPS * size * condition / (1 - DECAY)
    direct = np.linalg.solve(matrix, np.eye(size))
    net = Network((3, 4, 2), "tanh", "bernoulli")
    theta = initial(net, "glorot", rng=rng)
    _, work = passes.prepare(net, theta, rng.standard_normal((ROWS, 3)))
    method = OnlineNaturalGradient(damping=0.04, strategy="woodbury", period=1)
    state = method.init(net)
    for k in range(3):
        if k == 2:
            state.inverses[0][0][...] *= 1.5  # as if rounding had drifted
        state, info = method.update(state, gather(net, theta, work, "sampled", rng))
    pair = state.factors.inputs[0], state.inverses[0][0]
    left = residual(*pair, 4) if info.refreshed else float("inf")
    limit = CONSTANT * EPS * len(pair[0]) * float(np.linalg.cond(pair[0]))
    return [
        Measure("inverse after 10⁴ corrections against a direct one", relative(inverse, direct), drift),
        Measure("residual of an inverse that was off, repaired", left, limit),
    ]


def check_white(case: Case, centred: bool = True) -> Measures:
    """Measure PRONG as a reparametrised network against PRONG as a preconditioner, dense solutions, conditioning."""
    measures: Measures = []
    for scale in SCALES:
        measures += _both_views(case.rng, scale, centred)
    return [*measures, _white_block(case.rng), *_conditioned(case.rng)]


def _both_views(rng: np.random.Generator, scale: str, centred: bool) -> Measures:
    net, theta, x, y = instance("bernoulli", rng, rows=12)
    x = x + 1.0
    method = Prong(epsilon=0.05, scale=scale)
    _, work = passes.prepare(net, theta, x)
    state, _ = method.update(method.init(net), gather(net, theta, work, "sampled", rng))
    if not centred:
        bare = tuple(w._replace(centre=np.zeros_like(w.centre)) for w in state.whitenings)
        state = state._replace(whitenings=bare)
    omega = to_white(state, theta)
    outputs, slope = white_gradient(state, omega, x, y)
    _, work = passes.prepare(net, theta, x)
    limit = CONSTANT * EPS * net.n_parameters * _condition(state)
    moved = (theta - from_white(state, omega - 0.1 * slope)) / 0.1
    gradient = passes.gradient(net, theta, x, y)[1]
    dense = [
        _centred_step(layer, signal, method.epsilon, white.outer**2)
        for layer, signal, white in zip(net.layers(gradient), work.signals, state.whitenings, strict=True)
    ]
    words = {"none": "", "batch": ", PRONG+ by variances", "fisher": ", PRONG+ by the Fisher diagonal"}[scale]
    return [
        Measure(f"outputs in white coordinates{words}", relative(outputs, work.outputs), limit),
        Measure(
            f"one step in white coordinates and its preconditioner{words}",
            relative(moved, method.apply(state, gradient)),
            10 * limit,
        ),
        Measure(f"the step from data rows, dense{words}", relative(moved, net.vector(dense)), 10 * limit),
    ]


def _condition(state: ProngState) -> float:
    """Return the square of the whitening's condition, scales of outputs included."""
    inner = max(float(w.scales[-1] / w.scales[0]) for w in state.whitenings)
    outer = max(float(w.outer.max() / w.outer.min()) for w in state.whitenings)
    return (inner * outer) ** 2


def _changed(state: ProngState) -> Array:
    """Return the derivatives of the parameters with respect to white ones, one row for each."""
    start = np.zeros(state.net.n_parameters)
    origin = from_white(state, start)
    return np.stack([from_white(state, unit) - origin for unit in np.eye(len(start))])


def _white_block(rng: np.random.Generator) -> Measure:
    """Compare a layer's block in white coordinates with I ⊗ G, for identity units: the input half of its condition."""
    epsilon = 1e-10
    net, theta, x, _, linear, task = linear_problem(rng, wide(rng))
    method = Prong(epsilon=epsilon)
    batch = exact_noise(net, theta, x)
    state, _ = method.update(method.init(net), batch)
    inside = _changed(state)[net.slices[0], net.slices[0]]
    white = inside @ dense_fisher.gauss_newton(linear, task)[net.slices[0], net.slices[0]] @ inside.T
    errors = batch.errors[0]
    wanted = np.kron(np.eye(net.widths[0] + 1), errors.T @ errors / batch.rows)
    least = float(state.whitenings[0].scales[0] ** 2)
    limit = 2 * epsilon / least + CONSTANT * EPS * net.n_parameters * float(np.linalg.cond(inside)) ** 2
    return Measure("white block of identity units against I ⊗ G", relative(white, wanted), limit, "stated")


def _conditioned(rng: np.random.Generator) -> Measures:
    """Return the condition of the Fisher matrix of small tanh networks after whitening over before.

    Inputs have standard deviations from 1 to 0.03 in random directions. Measured, not proved: the output half stays.
    """
    ratios = []
    for _ in range(NETWORKS):
        net = Network((3, 4, 2), "tanh", "bernoulli")
        theta = initial(net, "glorot", rng=rng)
        basis = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        x = rng.standard_normal((60, 3)) @ (basis * np.geomspace(1.0, SPREAD, 3)) @ basis.T
        method = Prong(epsilon=1e-10)
        _, work = passes.prepare(net, theta, x)
        state, _ = method.update(method.init(net), gather(net, theta, work, "sampled", rng))
        change, matrix = _changed(state), curvature.true_fisher(net, theta, x).dense()
        ratios.append(float(np.linalg.cond(change @ matrix @ change.T) / np.linalg.cond(matrix)))
    mean = float(np.exp(np.mean(np.log(ratios))))
    return [
        Measure(
            "condition of F, white over canonical: worst of eight tanh networks", max(ratios), 1.0, "stated"
        ),
        Measure("geometric mean of the eight", mean, 0.2, "stated"),
    ]


def _centred_step(slope: Array, signal: Array, epsilon: float, scale: Array) -> Array:
    """Return r² ∘ (∂W − ∂b cᵀ)(Cov + ε)⁻¹ and what it leaves for b, r² ∘ ∂b − ΔW c, from rows."""
    centre = signal.mean(axis=0)
    rows = np.concatenate([(signal - centre) / len(signal) ** 0.5, epsilon**0.5 * np.eye(len(centre))])
    triangle = np.asarray(np.linalg.qr(rows, mode="r"))
    centred = slope[:, :-1] - np.outer(slope[:, -1], centre)
    weights = scale[:, None] * np.linalg.solve(triangle, np.linalg.solve(triangle.T, centred.T)).T
    return np.column_stack([weights, scale * slope[:, -1] - weights @ centre])


def linear_problem(
    rng: np.random.Generator, widths: tuple[int, ...]
) -> tuple[Network, Array, Array, Array, LinearNetwork, Task]:
    """Return identity units as both kinds of network, parameters, inputs, targets, and their task."""
    net = Network(widths, "identity", "gaussian")
    theta = initial(net, "orthogonal", rng=rng) + 0.1 * rng.standard_normal(net.n_parameters)
    x, y = rng.standard_normal((ROWS, widths[0])), rng.standard_normal((ROWS, widths[-1]))
    layers = net.layers(theta)
    linear = LinearNetwork([m[:, :-1] for m in layers], [m[:, -1] for m in layers])
    return net, theta, x, y, linear, Task.from_data(x, y)


def exact_noise(net: Network, theta: Array, x: Array) -> Statistics:
    """Return statistics whose errors have the covariance of the model's noise exactly: each row once per output."""
    outputs = net.widths[-1]
    _, work = passes.prepare(net, theta, np.tile(x, (outputs, 1)))
    passes.backward(net, theta, work, np.repeat(np.eye(outputs), len(x), axis=0) * np.sqrt(outputs))
    return Statistics(tuple(work.signals), tuple(work.errors))


def _broken_online(rng: np.random.Generator) -> Measures:
    return check_online(nowhere(rng), BOTTLENECK)


def _broken_white(rng: np.random.Generator) -> Measures:
    return check_white(nowhere(rng), centred=False)


CLAIMS = (
    Claim(
        "O1",
        "Online natural gradient",
        "damped Kronecker factors from running averages: the natural gradient of identity units, up to order √λ; "
        "inverses by corrections do not drift away",
        r"v_i = \tfrac1L (\tilde\Lambda_i + \sqrt\lambda I)^{-1} D_i (\Lambda_{i-1} + \sqrt\lambda I)^{-1}",
        "Bernacchia, Lengyel and Hennequin (2018)",
        "identity units, the model's noise, no bottleneck (N1); an approximation elsewhere",
        "nonlinear.preconditioners.OnlineNaturalGradient",
        "dense J⁺ on all parameters; order in λ fitted; direct inverses",
        "order 1/2 ± 0.02 in λ; error twice the first-order term √λ(1/α² + 1/β²); inverses: p = 1",
        check_online,
        always,
        _broken_online,
        "a bottleneck, where N1 is not the natural gradient",
        about_networks=False,
    ),
    Claim(
        "O3",
        "Natural neural networks",
        "a gradient step with white, centred inputs of every layer is the input half of K-FAC: PRONG; PRONG+ scales "
        "its outputs; the Fisher matrix is better conditioned",
        r"\Delta W = -\eta\, r^2 \circ (\partial_W - \partial_b c^\top)(\mathrm{Cov}\,h + \varepsilon I)^{-1},\quad "
        r"\Delta b = -\eta\, r^2 \circ \partial_b - \Delta W c",
        "Desjardins et al. (2015)",
        "coordinates frozen; the function does not change with them; conditioning is measured, not proved",
        "nonlinear.preconditioners.Prong",
        "the network in white coordinates; solves with QR factors of the data rows; dense Fisher matrices",
        "p = 2 in the condition of the whitening; conditioning: a fifth of it in the mean",
        check_white,
        always,
        _broken_white,
        "whitening without centring",
        about_networks=False,
    ),
)
