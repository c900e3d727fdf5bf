"""Chains in factored form: factors multiply to the chain, bases are nested, inverses are pseudo-inverses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat.linalg.chain import Sweep, extend_inverse, generic_ranks, solve_outer, sweep
from tests import tolerances
from tests.strategies import condition_on_range, conditioned, integer_rank, seeds

pytestmark = pytest.mark.statement("X9")
F64 = np.float64


def products(start: np.ndarray | None, factors: list[np.ndarray]) -> list[np.ndarray]:
    out = [np.eye(factors[0].shape[-1]) if start is None else start]
    for matrix in factors:
        out.append(matrix @ out[-1])
    return out


def outer_of(found: Sweep, rows: int) -> np.ndarray:
    return np.eye(rows) if found.outer is None else found.outer


def check(start: np.ndarray | None, factors: list[np.ndarray], ranks: tuple[int, ...]) -> None:
    """Fail unless the sweep reproduces every H_j, its ranges and its pseudo-inverse."""
    found = sweep(start, factors, ranks)
    chain = products(start, factors)
    norms = np.cumprod([np.linalg.norm(m, 2) or 1.0 for m in [chain[0], *factors]])
    conditions = [condition_on_range(h, r) for h, r in zip(chain, ranks, strict=True)]
    size = len(factors) * max(max(m.shape) for m in chain)
    assert found.ranks == ranks
    assert found.drops == (ranks[-1] < ranks[0])
    inverse = None
    start_rank = ranks[0]
    z = outer_of(found, start_rank)
    assert np.abs(z.T @ z - np.eye(start_rank)).max() <= tolerances.backward(F64, size)
    for j, (h, rank) in enumerate(zip(chain, ranks, strict=True)):
        basis = np.eye(h.shape[0])[:, :rank] if found.bases[j] is None else found.bases[j][:, :rank]
        assert np.abs(basis.T @ basis - np.eye(rank)).max(initial=0) <= tolerances.backward(F64, size)
        inverse = extend_inverse(inverse, found.links[j], rank)
        middle = np.eye(rank) if inverse is None else inverse
        pseudo = (z[:, :rank] @ middle) @ basis.T
        if start is not None and start.shape[1] > start_rank:
            pseudo = np.concatenate([pseudo, np.zeros((start.shape[1] - start_rank, h.shape[0]))])
        wanted = np.linalg.pinv(h, rcond=0.1 / conditions[j]) if rank else np.zeros(h.T.shape)
        # The reference multiplies: it loses ‖W_j‖⋯‖W_1‖ / σ_min(H_j).
        loss = norms[j] * max(np.linalg.norm(wanted, 2), 1 / norms[j]) * conditions[j]
        assert np.abs(pseudo - wanted).max() <= tolerances.solve(F64, size, loss) * max(
            np.linalg.norm(wanted), 1e-300
        )
        # Row spaces are leading columns of one Z: nested by construction.
        projector = z[:, :rank] @ z[:, :rank].T
        exact = (wanted @ h)[:start_rank, :start_rank]
        assert np.abs(projector - exact).max(initial=0) <= tolerances.solve(F64, size, loss)
        x = np.arange(1.0, 1 + 2 * start_rank).reshape(start_rank, 2)
        solved = solve_outer(found.links[: j + 1], x, rank)
        reference = x[:rank] if inverse is None else inverse.T @ x[:rank]
        scale = max(np.linalg.norm(reference), 1.0)
        assert np.abs(solved - reference).max(initial=0) <= tolerances.solve(F64, size, loss) * scale


shapes = st.lists(st.integers(1, 5), min_size=2, max_size=5)


@given(seeds, shapes, st.booleans())
def test_generic_chains(seed: int, widths: list[int], with_start: bool) -> None:
    rng = np.random.default_rng(seed)
    factors = [conditioned(rng, m, n, 4.0) for m, n in zip(widths[1:], widths[:-1], strict=True)]
    rank = widths[0]
    start = None
    if with_start:
        rank = max(1, widths[0] - seed % 2)
        start = np.concatenate(
            [conditioned(rng, widths[0], rank, 4.0), np.zeros((widths[0], widths[0] - rank))], axis=1
        )
    check(start, factors, generic_ranks(rank, widths[1:]))


@given(seeds, shapes, st.data())
def test_chains_with_exact_drops_of_rank(seed: int, widths: list[int], data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    factors = []
    for m, n in zip(widths[1:], widths[:-1], strict=True):
        factors.append(integer_rank(rng, m, n, data.draw(st.integers(0, min(m, n)))))
    chain = products(None, factors)
    # Integers below 2^53: NumPy's rank of the exact product is safe.
    ranks = tuple(int(np.linalg.matrix_rank(h)) for h in chain)
    check(None, factors, ranks)


def test_generic_ranks_are_running_minima() -> None:
    assert generic_ranks(5, [7, 3, 6, 2]) == (5, 5, 3, 3, 2)
    assert generic_ranks(2, []) == (2,)


def test_certificates() -> None:
    rng = np.random.default_rng(0)
    good = [conditioned(rng, 4, 4, 100.0) for _ in range(5)]
    assert sweep(None, good, (4,) * 6).certain.all()
    bad = [*good[:2], conditioned(rng, 4, 4, 1e15), *good[2:]]
    assert not sweep(None, bad, (4,) * 7).certain.all()
    singular = [*good[:2], integer_rank(rng, 4, 4, 3)]
    assert not sweep(None, singular, (4,) * 4).certain.all()


def test_a_certificate_is_given_up_where_row_spaces_drift() -> None:
    # Each stage passes on its condition: 4 × 4 layers on two columns, graded, lose certainty together.
    graded = np.diag([1.0, 1.0, 1e-5, 1e-5])
    start = np.eye(4)[:, 2:]
    assert sweep(start, [graded], (2, 2)).certain.all()
    assert not sweep(start, [graded] * 4, (2,) * 5).certain.all()


def test_stacks_equal_a_loop() -> None:
    rng = np.random.default_rng(1)
    widths = (4, 5, 3, 5)
    factors = [rng.standard_normal((6, m, n)) for m, n in zip(widths[1:], widths[:-1], strict=True)]
    ranks = generic_ranks(4, widths[1:])
    whole = sweep(None, factors, ranks)
    for i in range(6):
        single = sweep(None, [f[i] for f in factors], ranks)
        a, b = whole.outer[i][:, :3], single.outer[:, :3]
        assert np.abs(a @ a.T - b @ b.T).max() <= tolerances.solve(F64, 20, 1e3)
