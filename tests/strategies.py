"""Which networks and tasks are tried? A ladder: tame, ill-conditioned, bottleneck, rank-deficient, singular, biases.

Hypothesis draws widths, spectra, ranks and an integer seed, never arrays of floats: a failing example is a short line
that anybody can rebuild with `make_problem`. Ranks on the rungs "rank-deficient" and "singular" are exact: the matrices
are products of small integers, so every entry is exact in float32 as in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task

RUNGS = ("tame", "ill-conditioned", "bottleneck", "rank-deficient", "singular", "biases")
GENERIC_RUNGS = ("tame", "ill-conditioned", "bottleneck", "biases")


@dataclass(frozen=True)
class Problem:
    """A network, a task, and what is known of them by construction.

    Attributes
    ----------
    conditions : tuple of float
        κ of each layer on its range, by construction (an upper bound where layers are integers: measured).
    layer_ranks : tuple of int
        Exact ranks of the W_i in exact arithmetic.
    input_condition, noise_condition : float
        κ of the factors of S and Σ (the square roots of κ(S), κ(Σ)).
    """

    rung: str
    seed: int
    net: LinearNetwork
    task: Task
    conditions: tuple[float, ...]
    layer_ranks: tuple[int, ...]
    input_rank: int
    input_condition: float
    noise_condition: float

    @property
    def condition_sum(self) -> float:
        """Σκ over layers and the factors of S and Σ: the condition in the bound of X9."""
        return sum(self.conditions) + self.input_condition + self.noise_condition


def orthogonal(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a Haar-distributed orthogonal matrix."""
    basis, upper = np.linalg.qr(rng.standard_normal((size, size)))
    return basis * np.sign(np.diag(upper))


def with_spectrum(rng: np.random.Generator, rows: int, columns: int, values: np.ndarray) -> np.ndarray:
    """Return a matrix with the given singular values and random singular vectors."""
    count = len(values)
    return (orthogonal(rng, rows)[:, :count] * values) @ orthogonal(rng, columns)[:, :count].T


def conditioned(rng: np.random.Generator, rows: int, columns: int, condition: float) -> np.ndarray:
    """Return a matrix of full rank with singular values from 1 down to 1/condition, geometrically spaced."""
    return with_spectrum(rng, rows, columns, np.geomspace(1.0, 1.0 / condition, min(rows, columns)))


def integer_rank(rng: np.random.Generator, rows: int, columns: int, rank: int) -> np.ndarray:
    """Return a matrix of small integers of exactly this rank, as floats."""
    if rank == 0:
        return np.zeros((rows, columns))
    # [I; random] and [I random] have full rank whatever is drawn; shuffles keep it.
    left = rng.integers(-2, 3, (rows, rank))
    left[:rank] = np.eye(rank, dtype=int)
    right = rng.integers(-2, 3, (rank, columns))
    right[:, :rank] = np.triu(right[:, :rank], 1) + np.eye(rank, dtype=int)
    product = rng.permutation(left, axis=0) @ rng.permutation(right, axis=1)
    return product.astype(np.float64)


def covariance(rng: np.random.Generator, size: int, condition: float) -> np.ndarray:
    """Return a symmetric positive definite matrix whose square root has this condition."""
    basis = orthogonal(rng, size) * np.geomspace(1.0, 1.0 / condition, size)
    matrix = basis @ basis.T
    return 0.5 * (matrix + matrix.T)


def default_widths(rung: str, rng: np.random.Generator) -> tuple[int, ...]:
    """Draw widths that belong to a rung: hidden layers wide enough, or a bottleneck."""
    inputs, outputs, depth = int(rng.integers(1, 6)), int(rng.integers(1, 6)), int(rng.integers(1, 6))
    low = max(inputs, outputs)
    if rung == "bottleneck":
        inputs, outputs, depth = inputs + 2, outputs + 2, max(depth, 2)
        low = 1
        hidden = [int(n) for n in rng.integers(low, 7, depth - 1)]
        hidden[int(rng.integers(depth - 1))] = int(rng.integers(1, min(inputs, outputs)))
    elif rung == "rank-deficient":
        hidden = [int(n) for n in rng.integers(2, 6, depth - 1)]
    else:
        hidden = [int(n) for n in rng.integers(low, low + 3, depth - 1)]
    return (inputs, *hidden, outputs)


def make_problem(
    rung: str,
    seed: int,
    widths: tuple[int, ...] | None = None,
    *,
    layer_condition: float | None = None,
    input_condition: float | None = None,
    noise_condition: float | None = None,
    layer_ranks: tuple[int, ...] | None = None,
    input_rank: int | None = None,
    dtype: Any = np.float64,
) -> Problem:
    """Build the problem of a rung from integers and conditions; what is not given is drawn from the seed."""
    if rung not in RUNGS:
        raise ValueError(f"rung {rung!r} is not one of {RUNGS}")
    rng = np.random.default_rng(seed)
    sizes = default_widths(rung, rng) if widths is None else widths
    tame = 3.0
    ill = {"ill-conditioned": 10.0 ** rng.uniform(1, 5)}.get(rung, tame)
    kappa = ill if layer_condition is None else layer_condition
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    exact = rung == "rank-deficient"
    full = tuple(min(shape) for shape in shapes)
    if layer_ranks is None:
        layer_ranks = tuple(int(rng.integers(max(0, r - 2), r + 1)) for r in full) if exact else full
    if exact:
        weights = [integer_rank(rng, m, n, r) for (m, n), r in zip(shapes, layer_ranks, strict=True)]
    else:
        weights = [conditioned(rng, m, n, kappa) for m, n in shapes]
    biases = [rng.standard_normal(m).astype(dtype) for m, _ in shapes] if rung == "biases" else None
    net = LinearNetwork([w.astype(dtype) for w in weights], biases)
    noise = tame if noise_condition is None else noise_condition
    cov, rank, input_kappa = _input_cov(rung, rng, sizes[0], input_condition or min(ill, 100.0), input_rank)
    mean = None
    if rung == "biases":
        mean = rng.standard_normal(sizes[0])
        cov = cov + np.outer(mean, mean)
        input_kappa = float(np.sqrt(np.linalg.cond(cov)))
    task = Task(
        rng.standard_normal((sizes[-1], sizes[0])),
        cov,
        covariance(rng, sizes[-1], noise),
        rng.standard_normal(sizes[-1]) if rung == "biases" else None,
        mean,
    )
    return Problem(
        rung=rung,
        seed=seed,
        net=net,
        task=task,
        conditions=tuple(condition_on_range(w, r) for w, r in zip(weights, layer_ranks, strict=True)),
        layer_ranks=layer_ranks,
        input_rank=rank,
        input_condition=input_kappa,
        noise_condition=noise,
    )


def _input_cov(
    rung: str, rng: np.random.Generator, size: int, condition: float, rank: int | None
) -> tuple[np.ndarray, int, float]:
    if rung != "singular":
        return covariance(rng, size, condition), size, condition
    rank = int(rng.integers(min(1, size - 1), size)) if rank is None else rank
    factor = integer_rank(rng, size, max(rank, 1), rank)
    return factor @ factor.T, rank, condition_on_range(factor, rank)


def condition_on_range(matrix: np.ndarray, rank: int) -> float:
    """Return σ_1 / σ_rank, 1 for rank 0."""
    if rank == 0:
        return 1.0
    values = np.linalg.svd(matrix, compute_uv=False)
    return float(values[0] / values[rank - 1])


seeds = st.integers(0, 2**32 - 1)
small_widths = st.integers(1, 5)


@st.composite
def widths_of(draw: st.DrawFn, rung: str, max_depth: int = 5, max_width: int = 5) -> tuple[int, ...]:
    """Draw widths that belong to a rung."""
    bottleneck = rung == "bottleneck"
    depth = draw(st.integers(2 if bottleneck else 1, max_depth))
    ends = st.integers(2 if bottleneck else 1, max_width)
    inputs, outputs = draw(ends), draw(ends)
    if rung in ("rank-deficient", "bottleneck"):
        hidden = draw(st.lists(st.integers(1, max_width), min_size=depth - 1, max_size=depth - 1))
    else:
        low = max(inputs, outputs)
        hidden = draw(st.lists(st.integers(low, low + 2), min_size=depth - 1, max_size=depth - 1))
    if bottleneck:
        place = draw(st.integers(0, depth - 2))
        hidden[place] = draw(st.integers(1, min(inputs, outputs) - 1))
    return (inputs, *hidden, outputs)


@st.composite
def problems(
    draw: st.DrawFn,
    rungs: tuple[str, ...] = RUNGS,
    max_depth: int = 5,
    max_width: int = 5,
    max_log_condition: float = 5.0,
    dtype: Any = np.float64,
) -> Problem:
    """Draw a problem of one of the rungs; examples shrink towards the first rung, short chains and small widths."""
    rung = draw(st.sampled_from(rungs))
    widths = draw(widths_of(rung, max_depth, max_width))
    options: dict[str, Any] = {}
    if rung == "ill-conditioned":
        options["layer_condition"] = 10.0 ** draw(st.floats(0.5, max_log_condition))
        options["input_condition"] = 10.0 ** draw(st.floats(0.0, min(2.0, max_log_condition)))
    if rung == "rank-deficient":
        full = [min(pair) for pair in zip(widths[1:], widths[:-1], strict=True)]
        options["layer_ranks"] = tuple(draw(st.integers(0, r)) for r in full)
    if rung == "singular":
        options["input_rank"] = draw(st.integers(0, widths[0] - 1))
    return make_problem(rung, draw(seeds), widths, dtype=dtype, **options)


@st.composite
def square_problems(
    draw: st.DrawFn, max_size: int = 5, max_depth: int = 5, min_depth: int = 1, max_log_condition: float = 2.0
) -> Problem:
    """Draw a problem with square invertible layers and S > 0: the setting of C2, C3, D1, D2, X5."""
    size, depth = draw(st.integers(1, max_size)), draw(st.integers(min_depth, max_depth))
    condition = 10.0 ** draw(st.floats(0.0, max_log_condition))
    return make_problem("tame", draw(seeds), (size,) * (depth + 1), layer_condition=condition)
