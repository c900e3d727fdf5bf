"""Is a product added to what is there, as the words say, however the numbers lie in memory?"""

from __future__ import annotations

import threading
from math import inf
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnat.nonlinear import _blas
from linnat.nonlinear._blas import add_product, adds_products
from linnat.nonlinear._crew import crew


@pytest.fixture(params=["BLAS", "NumPy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Do it by BLAS's function, and without."""
    if request.param == "NumPy":
        monkeypatch.setattr(_blas, "_gemm", lambda kind: None)
    return str(request.param)


def expected(left: Any, right: Any, out: Any, factor: float, keep: float) -> tuple[Any, Any]:
    """Return the sum in twice the precision, row by row, and the sum of absolute values."""
    wide = np.longdouble
    total = (0.0 if keep == 0.0 else wide(keep) * out.astype(wide)) + np.zeros(out.shape, wide)
    size = np.abs(total)
    for a, b in zip(left.astype(wide), right.astype(wide), strict=True):
        total += factor * np.multiply.outer(a, b)
        size += np.abs(factor * np.multiply.outer(a, b))
    return total, size


def held(left: Any, right: Any, out: Any, factor: float, keep: float) -> None:
    """Hold each entry to the rounding of its own sum."""
    before, kind = (left.copy(), right.copy()), out.dtype.type
    total, size = expected(left, right, out, kind(factor), kind(keep))
    add_product(left, right, out, factor, keep)
    assert (np.abs(out - total) <= (len(left) + 4) * np.finfo(out.dtype).eps * size).all()
    assert np.array_equal(left, before[0])
    assert np.array_equal(right, before[1])


@given(
    shape=st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(1, 4)),
    factor=st.sampled_from([1.0, -1.0, 0.0, 0.3]),
    keep=st.sampled_from([0.0, 1.0, 0.9, -2.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**16),
)
def test_small_ones(shape: tuple[int, int, int], factor: float, keep: float, dtype: Any, seed: int) -> None:
    rng, (count, m, n) = np.random.default_rng(seed), shape
    left, right, out = (rng.standard_normal(s).astype(dtype) for s in ((count, m), (count, n), (m, n)))
    held(left, right, out, factor, keep)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("keep", [1.0, 0.0, 0.95])
def test_as_they_lie(dtype: Any, keep: float, way: str, rng: np.random.Generator) -> None:
    def drawn(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    count, m, n = 300, 70, 40
    ways = {
        "whole": (drawn(count, m), drawn(count, n), drawn(m, n)),
        "columns of more": (
            drawn(count, m + 9)[:, 4:-5],
            drawn(count, n + 3)[:, 3:],
            drawn(m, n + 2)[:, 1:-1],
        ),
        "every other row": (drawn(2 * count, m)[::2], drawn(3 * count, n)[::3], drawn(2 * m, n)[::2]),
        "turned": (drawn(m, count).T, drawn(count, n), drawn(m, n)),
        "backwards": (drawn(count, m)[::-1], drawn(count, n)[:, ::-1], drawn(m, n)),
        "one row for all": (np.broadcast_to(drawn(1, m), (count, m)), drawn(count, n), drawn(m, n)),
        "one column": (drawn(count, 5)[:, 2:3], drawn(count, 1), drawn(1, 1)),
        "one sample": (drawn(9, m)[4:5], drawn(1, n), drawn(m, n)),
        "out turned": (drawn(count, m), drawn(count, n), drawn(n, m).T),
    }
    for left, right, out in ways.values():
        held(left, right, out, -0.7, keep)


def test_what_is_not_kept_is_not_read(way: str) -> None:
    out = np.full((2, 3), np.nan)
    add_product(np.ones((4, 2)), np.ones((4, 3)), out, keep=0.0)
    assert np.array_equal(out, np.full((2, 3), 4.0))


def test_what_lies_beside_is_not_written(way: str, rng: np.random.Generator) -> None:
    whole = np.full((30, 50), 7.0)
    add_product(rng.random((20, 10)), rng.random((20, 30)), whole[5:15, 10:40])
    whole[5:15, 10:40] = 7.0
    assert (whole == 7.0).all()


def test_other_dtypes_and_read_only_sums(way: str) -> None:
    out = np.ones((2, 2), np.longdouble)
    add_product(np.ones((3, 2)), np.ones((3, 2)), out)
    assert np.array_equal(out, np.full((2, 2), 4.0))
    swapped = np.ones((2, 2), np.dtype(float).newbyteorder())
    add_product(np.ones((3, 2), swapped.dtype), np.ones((3, 2), swapped.dtype), swapped)
    assert np.array_equal(swapped, np.full((2, 2), 4.0))
    fixed = np.ones((2, 2))
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        add_product(np.ones((3, 2)), np.ones((3, 2)), fixed)
    assert np.array_equal(fixed, np.ones((2, 2)))


def test_numbers_between_their_places(way: str, rng: np.random.Generator) -> None:
    parts = []
    for shape in ((20, 3), (20, 4), (3, 4)):
        part = np.zeros(8 * shape[0] * shape[1] + 1, np.uint8)[1:].view(float).reshape(shape)
        assert not part.flags.aligned
        part[...] = rng.standard_normal(shape)
        parts.append(part)
    held(*parts, -0.7, 0.9)


def test_only_a_library_that_is_known_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def held(library: Any) -> bool:
        monkeypatch.setattr(_blas, "blas_threads", lambda: library)
        _blas._gemm.cache_clear()
        return _blas._gemm(np.dtype(float)) is not None

    functions = SimpleNamespace(cblas_dgemm64_=SimpleNamespace())
    try:
        assert held(SimpleNamespace(internal_api="openblas", dynlib=functions))
        assert not held(SimpleNamespace(internal_api="mkl", dynlib=functions))
        # Without the suffix nobody knows how long its integers are.
        short = SimpleNamespace(cblas_dgemm=functions)
        assert not held(SimpleNamespace(internal_api="openblas", dynlib=short))
        assert not held(None)
        assert not adds_products(10, float)
    finally:
        monkeypatch.undo()
        _blas._gemm.cache_clear()


def test_others_go_on_meanwhile() -> None:
    if _blas._gemm(np.dtype(float)) is None:
        pytest.skip("BLAS's function is not there")
    size, seen, done = 1500, [], threading.Event()
    left, right, out = (np.ones((size, size)) for _ in range(3))

    def multiply() -> None:
        add_product(left, right, out)
        done.set()

    thread = threading.Thread(target=multiply)
    with crew(inf):  # one thread of BLAS
        thread.start()
        while not done.is_set():
            seen.append(done.wait(0.001))
        thread.join()
    assert len(seen) > 3  # a product of 7 · 10⁹ flops; a thread that holds the interpreter lets nobody count
    assert (out == size + 1.0).all()
