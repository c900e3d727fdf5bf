"""Does the floor of the layerwise natural gradient count the BLAS and LAPACK calls that are made?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import linnat as ln
from benchmarks.natural_against_gradient import NETWORKS, _operations
from linnat.linalg import kernels, square_chain

SHAPES: dict[str, Callable[..., tuple[str, int, int, int]]] = {
    "matmul": lambda a, b: ("gemm", a.shape[0], b.shape[1], a.shape[1]),
    "qr": lambda a, full=False: ("qr", *a.shape, a.shape[0] if full else min(a.shape)),
    "solve_triangular": lambda t, b, **_: ("trsm", *b.shape, len(t)),
    "factor": lambda a: ("lu", *a.shape, len(a)),
    "solve": lambda a, b, **_: ("solve", *b.shape, len(b)),
}


def made(monkeypatch: pytest.MonkeyPatch, widths: tuple[int, ...]) -> Counter[Any]:
    """Return the calls that one natural gradient makes, without products and solves of single vectors."""
    rng = np.random.default_rng(0)
    net, task = (
        ln.LinearNetwork.random(widths, rng=rng),
        ln.Task(rng.standard_normal((widths[-1], widths[0]))),
    )
    calls: Counter[Any] = Counter()

    def recorded(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            shape = SHAPES[name](*args, **options)
            calls[shape] += shape[2] > 1
            return kernel(*args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "DIRECT", 0)  # small ones stand for large ones
        for name in SHAPES:
            patch.setattr(kernels, name, recorded(name, getattr(kernels, name)))
        ln.natural_gradient(net, task)
    return +calls


def scaled(widths: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(width // 8 for width in widths)


@pytest.mark.parametrize(
    "widths",
    [scaled(widths) for widths, _ in NETWORKS.values()]
    + [
        (20, 10, 6, 10, 20),
        (12, 6, 9, 4, 12),
        (8, 16, 8),
        (12, 9, 6, 9),
        (6, 9, 12, 15),
        (8, 8, 8),
        (8, 5, 8),
    ],
)
def test_the_floor_counts_what_is_done(monkeypatch: pytest.MonkeyPatch, widths: tuple[int, ...]) -> None:
    found, expected = made(monkeypatch, widths), _operations(widths)
    drops = min(widths[1:-1], default=max(widths)) < max(widths[0], widths[-1])
    if drops:  # LUs of square factors serve the certificate of their rank only
        found = Counter({call: count for call, count in found.items() if call[0] != "lu"})
    assert found == expected


def test_small_square_layers_take_the_same_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    size, calls = 8, square_chain._CALLS["d"]
    found: Counter[str] = Counter()

    def recorded(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            found[name] += args[-1].shape[-1] == size if name == "getrf" else args[2].shape[-1] == size
            return kernel(*args, **options)

        return call

    counted = {name: recorded(name, getattr(calls, name)) for name in ("gemm", "getrf", "getrs")}
    monkeypatch.setitem(square_chain._CALLS, "d", calls._replace(**counted))
    for widths in ((size,) * 3, (size,) * 6):
        found.clear()
        net = ln.LinearNetwork.random(widths, rng=0)
        ln.natural_gradient(net, ln.Task(np.eye(size)))
        expected = _operations(widths)
        names = {"gemm": "gemm", "lu": "getrf", "solve": "getrs"}
        assert found == {names[call[0]]: count for call, count in expected.items()}


def test_another_count_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = (16, 16, 8, 16, 16)
    wrong = _operations(widths)
    wrong["qr", 16, 16, 16] += 1
    found = made(monkeypatch, widths)
    assert {c: n for c, n in found.items() if c[0] == "qr"} != {
        c: n for c, n in wrong.items() if c[0] == "qr"
    }
