"""How do singular modes move under gradient flow and its partial corrections? Statements C5 and C6."""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

from linnat._checks import Array
from linnat.claims._conditions import aligned, balanced, every, white, without_biases
from linnat.claims._core import CONSTANT, Case, Claim, Measure, Measures, relative
from linnat.claims._paths import RTOL
from linnat.claims.ladder import aligned_problem
from linnat.dense.flow import fractional_flow, gradient_flow
from linnat.exact.modes import gradient_mode, mode_time, partial_mode
from linnat.exact.network import LinearNetwork

GAMMAS = (0.25, 0.5, 1.0)
MAX_PARAMETERS = 80
TIMES = np.array([0.2, 0.7, 1.5])


def check_gradient_modes(case: Case) -> Measures:
    """C5: modes of the integrated layers under gradient flow, and the scalar equation for other starts and depths."""
    return [*_of_network(case, 0.0), _of_equation(case, (0.0,))]


def check_partial_modes(case: Case) -> Measures:
    """C6: the same under F^{−γ}."""
    measures = [measure for gamma in GAMMAS for measure in _of_network(case, gamma)]
    return [*measures, _of_equation(case, GAMMAS)]


def _of_network(case: Case, gamma: float) -> Measures:
    net, task = case.net, case.task
    left, start, right = np.linalg.svd(net.total, full_matrices=False)
    target = np.diag(left.T @ task.teacher @ right.T)
    # At most half-way to where a negative mode would end; times in units of the fastest mode.
    times = TIMES / max(1.0, net.depth * float(max(start.max(), np.abs(target).max())) ** (2 - 2 / net.depth))
    claimed = (
        partial_mode(times, start, target, net.depth, gamma)
        if gamma
        else gradient_mode(times, start, target, net.depth)
    )
    if net.n_parameters <= MAX_PARAMETERS:
        options = {"rtol": RTOL, "atol": RTOL * 1e-3}
        layers = (
            gradient_flow(net, task, times, **options)
            if gamma == 0
            else fractional_flow(net, task, times, gamma, **options)
        )
        found = np.stack(
            [_modes(left, net.replace_layers([w[k] for w in layers]), right) for k in range(len(times))],
            axis=-1,
        )
        oracle = "integrated layers"
    else:
        pairs = zip(start, target, strict=True)
        found = np.stack([_integrated(s, g, net.depth, gamma, times) for s, g in pairs])
        oracle = "integrated equation"
    spread = max(1.0, float(start.max() / start.min())) ** 2
    gap = relative(claimed, found)
    return [Measure(f"modes of the {oracle}, γ = {gamma:g}", gap, CONSTANT * RTOL * spread * net.depth)]


def _modes(left: Array, net: LinearNetwork, right: Array) -> Array:
    """Return the modes of the total weight in a fixed basis, with what it has outside of them added to the first."""
    inside = left.T @ net.total @ right.T
    modes: Array = np.diag(inside).copy()
    modes[0] += np.linalg.norm(net.total - (left * modes) @ right)
    return modes


def _integrated(start: float, target: float, depth: int, gamma: float, times: Array) -> Array:
    """Integrate ṡ = (L s^{2−2/L})^{1−γ} (ŝ − s)."""

    def rate(_: float, s: Array) -> Array:
        return (depth * np.maximum(s, 0) ** (2 - 2 / depth)) ** (1 - gamma) * (target - s)

    run = solve_ivp(rate, (0.0, float(times[-1])), [start], "DOP853", t_eval=times, rtol=1e-10, atol=1e-14)
    path: Array = run.y[0]
    return path


def _of_equation(case: Case, gammas: tuple[float, ...]) -> Measure:
    """Compare with the integrated equation from below, above and towards 0; and the inverse function, mode_time."""
    worst = 0.0
    for gamma in gammas:
        for depth in (1, 2, 3, 5):
            start, above = float(case.rng.uniform(0.05, 0.9)), float(case.rng.uniform(1.1, 2.0))
            for s, goal in ((start, 1.3), (above, 1.0)):
                claimed = partial_mode(TIMES, s, goal, depth, gamma)
                worst = max(worst, relative(claimed, _integrated(s, goal, depth, gamma, TIMES)))
                back = float(mode_time(claimed[0], s, goal, depth, gamma))
                worst = max(worst, abs(back - TIMES[0]) / TIMES[0])
    return Measure("integrated scalar equation, depths 1, 2, 3, 5", worst, CONSTANT * RTOL)


def _unbalanced(rng: np.random.Generator) -> Case:
    problem = aligned_problem(2, 2, 2, rng)
    first, second = problem.net.weights
    return Case(LinearNetwork([3.0 * first, second / 3.0]), problem.task, rng)


def _broken_gradient(rng: np.random.Generator) -> Measures:
    return check_gradient_modes(_unbalanced(rng))


def _broken_partial(rng: np.random.Generator) -> Measures:
    return check_partial_modes(_unbalanced(rng))


APPLICABLE = every(without_biases, white, balanced, aligned)

CLAIMS = (
    Claim(
        "C5",
        "Modes under gradient flow",
        "balanced, aligned, white: singular modes decouple; closed form for every depth",
        r"\dot s = L s^{2-2/L}(\hat s - s),\quad t = L^{-1}\hat s^{-p}[\Phi(x)-\Phi(x_0)],\ "
        r"\Phi = \tfrac{x^a}{a}{}_2F_1(1,a;1+a;x)",
        "Saxe et al. 2014, Huh 2020; closed form new",
        "balanced weights, aligned with the teacher, S = I, Π = I, s > 0",
        "modes.gradient_mode",
        "layers moved along −∇ℓ by DOP853; the scalar equation integrated",
        "tolerance of the integrator × (s_max/s_min)², p = 2",
        check_gradient_modes,
        APPLICABLE,
        _broken_gradient,
        "the same total weight in unbalanced layers",
    ),
    Claim(
        "C6",
        "Modes under partial correction",
        "the preconditioner F^{−γ} runs from gradient flow to the natural one: closed form for every γ",
        r"\dot s = (L s^{2-2/L})^{1-\gamma}(\hat s - s)",
        "Huh 2020; closed form new",
        "balanced weights, aligned with the teacher, S = I, Π = I, s > 0",
        "modes.partial_mode",
        "layers moved along −F^{−γ}∇ℓ (dense powers) by DOP853; the scalar equation",
        "tolerance of the integrator × (s_max/s_min)², p = 2",
        check_partial_modes,
        APPLICABLE,
        _broken_partial,
        "the same total weight in unbalanced layers",
    ),
)
