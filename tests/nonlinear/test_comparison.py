"""Is quality measured right? Against the exact solution offered as a method, and formulas written out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import linnat.cli as cli
from linnat._checks import InputError
from linnat.nonlinear import curvature, passes
from linnat.nonlinear.comparison import EXACT, METHODS, Gradient, compare, table, to_json
from linnat.nonlinear.network import Network
from linnat.nonlinear.preconditioners import Ekfac, Info, Kfac
from tests.nonlinear.test_preconditioners import linear_problem, multilayer

pytestmark = pytest.mark.statement("O2")


@dataclasses.dataclass(frozen=True)
class Exact:
    """The exact natural gradient as a method, with a factor."""

    matrix: Any
    damping: float = 1.0
    factor: float = 1.0

    def init(self, net: Network, dtype: Any = np.float64) -> None: ...

    def update(self, state: None, statistics: Any) -> tuple[None, Info]:
        return None, Info(False)

    def apply(self, state: None, gradient: Any) -> Any:
        return self.factor * np.linalg.solve(self.matrix + self.damping * np.eye(len(gradient)), gradient)


def test_the_exact_solution_has_full_marks() -> None:
    net, theta, x, y, _ = multilayer(0)
    matrix = curvature.true_fisher(net, theta, x).dense()
    methods = {"own": Exact(matrix), "twice": Exact(matrix, factor=2.0), "gradient": Gradient()}
    rows = {
        (r.method, r.damping): r for r in compare(net, theta, x, y, methods=methods, dampings=[0.01, 1.0])
    }
    assert {name for name, _ in rows} == {EXACT, *methods}
    for name, length in (("own", 1.0), ("twice", 2.0), (EXACT, 1.0)):
        for damping in (0.01, 1.0):
            row = rows[name, damping]
            assert [row.cosine, row.decrease, row.divergence] == pytest.approx([1, 1, 1], rel=1e-8)
            assert row.length == pytest.approx(length, rel=1e-8)
            assert row.layer_cosines == pytest.approx([1] * 3, rel=1e-8)
            assert row.layer_lengths == pytest.approx([length] * 3, rel=1e-8)
            assert row.moved == pytest.approx(rows[EXACT, damping].moved, rel=1e-8)
    # Written out for the gradient.
    gradient = passes.gradient(net, theta, x, y)[1]
    system = matrix + 0.01 * np.eye(len(theta))
    exact = np.linalg.solve(system, gradient)
    row = rows["gradient", 0.01]
    assert row.cosine == pytest.approx(
        gradient @ exact / np.linalg.norm(gradient) / np.linalg.norm(exact), rel=1e-9
    )
    share = (gradient @ gradient) ** 2 / (gradient @ system @ gradient) / (gradient @ exact)
    assert row.decrease == pytest.approx(share, rel=1e-9)
    step = (gradient @ gradient) / (gradient @ system @ gradient) * gradient
    z = [passes.prepare(net, theta - d, x)[1].outputs for d in (np.zeros_like(theta), step, exact)]
    moved = [net.family.kl(z[0], other).mean() for other in z[1:]]
    assert row.divergence == pytest.approx(moved[0] / moved[1], rel=1e-8)
    assert row.moved == pytest.approx(moved[0], rel=1e-8)
    assert row.foretold == pytest.approx(0.5 * step @ matrix @ step, rel=1e-9)
    assert row.reduction == pytest.approx(
        passes.loss(net, theta, x, y) - passes.loss(net, theta - step, x, y), rel=1e-8
    )
    for part, found in zip(net.slices, row.layer_decreases, strict=True):
        own, block = gradient[part], system[part, part]
        wanted = (own @ own) ** 2 / (own @ block @ own) / (own @ np.linalg.solve(block, own))
        assert found == pytest.approx(wanted, rel=1e-9)


def test_small_steps_move_what_the_matrix_foretells() -> None:
    net, theta, x, y, _ = multilayer(1)
    gaps = []
    for damping in (1e3, 1e4):
        rows = compare(net, theta, x, y, dampings=[damping], draws=2)
        gaps.append(max(abs(row.moved / row.foretold - 1) for row in rows))
        assert all(row.reduction > 0 for row in rows)
    # Steps of length 1/λ: the next order falls with it.
    assert gaps[1] < 1e-3
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.5)


def test_a_state_without_damping_serves_all_of_them() -> None:
    net, theta, x, y, _ = multilayer(1)
    together = compare(net, theta, x, y, dampings=[0.01, 0.1], draws=2)
    apart = [row for d in (0.01, 0.1) for row in compare(net, theta, x, y, dampings=[d], draws=2)]
    assert together == apart


def test_identity_units_the_two_layer_limits() -> None:
    net, theta, x, y, _, _, _ = linear_problem((3, 4, 2), 1)
    rows = {r.method: r for r in compare(net, theta, x, y, dampings=[1e4], draws=2)}
    # Large damping: every method is the gradient. Exactly damped ones over λ, factored ones too.
    for name, row in rows.items():
        if name not in ("prong",):  # its ε is √λ, and the output half is missing
            assert row.cosine == pytest.approx(1.0, abs=0.1), name
        assert 0 <= row.decrease <= 1 + 1e-9
    assert rows["gradient"].length == pytest.approx(1.0, abs=1e-2)


def test_marks_are_shares_and_reproducible() -> None:
    net, theta, x, y, _ = multilayer(2)
    one, two = (compare(net, theta, x, y, dampings=[0.1], draws=3, rng=5) for _ in range(2))
    assert one == two
    assert {row.method for row in one} == {EXACT, *METHODS}
    for row in one:
        assert all(0 < share <= 1 + 1e-9 for share in row.layer_decreases)
        assert 0 < row.cosine <= 1 + 1e-9
        assert 0 < row.decrease <= 1 + 1e-9
        assert row.decrease >= row.cosine**2 * 1e-3
    assert json.loads(to_json(one))[0]["method"] == one[0].method
    text = table(one)
    assert len(text.splitlines()) == 2 + len(METHODS)
    assert "λ = 0.1" in text
    assert table(one, "decrease", 2) != table(one, "decrease", 3)
    # The two types draw other targets from the same seed: few draws tell them apart.
    short, long = (
        compare(net, start, x, y, methods={"kfac": Kfac(), "ekfac": Ekfac()}, dampings=[0.1], draws=50)
        for start in (theta.astype(np.float32), theta)
    )
    assert [r.cosine for r in short] == pytest.approx([r.cosine for r in long], abs=2e-2)


def test_bad_input() -> None:
    net, theta, x, y, _ = multilayer(0)
    with pytest.raises(InputError, match="dampings: expected numbers > 0"):
        compare(net, theta, x, y, dampings=[0.0])
    with pytest.raises(InputError, match="draws: expected an integer ≥ 1"):
        compare(net, theta, x, y, draws=0)
    with pytest.raises(InputError, match="net: expected at most 6000 parameters"):
        compare(Network((100, 100), family="gaussian"), np.zeros(10100), x, y)
    with pytest.raises(InputError, match="parameters: expected a point where the gradient does not vanish"):
        compare(Network((2, 1), family="gaussian"), np.zeros(3), [[1.0, 2.0]], [[0.0]])
    with pytest.raises(InputError, match="quantity: expected one of"):
        table([], "speed")
    with pytest.raises(InputError, match="quantity: expected one of 'cosine', 'length', 'decrease'"):
        table([], "moved", 1)
    with pytest.raises(InputError, match="layer: expected a layer number from 1 to 3"):
        table(compare(net, theta, x, y, dampings=[1.0], draws=1), "cosine", 4)
    with pytest.raises(InputError, match="methods: expected names other than 'exact'"):
        compare(net, theta, x, y, methods={"exact": Kfac()})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "net.npz",
        W1=rng.standard_normal((3, 4)), b1=np.zeros(3), W2=rng.standard_normal((2, 3)), b2=np.zeros(2),
    )  # fmt: skip
    np.savez(tmp_path / "d.npz", x=rng.standard_normal((30, 4)), y=rng.integers(0, 2, (30, 2)).astype(float))
    own = ["--weights", str(tmp_path / "net.npz"), "--data", str(tmp_path / "d.npz"), "--family", "bernoulli"]
    assert cli.main(["compare-curvature", *own, "--damping", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "4-3-2 tanh, bernoulli, 30 of 30 rows of d, the way of momentum" in out
    assert "kfac-tridiagonal" in out
    assert out.count("after ") == 1
    way = [
        "--points",
        "0,3",
        "--optimiser",
        "kfac",
        "--rate",
        "0.1",
        "--batch",
        "10",
        "--rows",
        "20",
        "--layers",
    ]
    assert cli.main(["compare-curvature", *own, *way, "--damping", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "20 of 30 rows of d, the way of kfac" in out
    assert "after 3 updates, loss" in out
    assert out.count("layer 2: cosine") == 2
    assert cli.main(["compare-curvature", *own, "--damping", "0.1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told) == 1 + len(METHODS)
    assert told[0]["update"] == 0
    assert told[0]["method"] == EXACT
    np.savez(tmp_path / "bare.npz", W1=np.ones((2, 2)))
    for change, message in (
        (["--weights", str(tmp_path / "bare.npz")], "--weights: expected arrays W1 … WL and b1 … bL"),
        (["--weights", str(tmp_path / "no.npz")], "no such file"),
        (["--widths", "4,x"], "--widths: expected integers between commas"),
        (["--data", str(tmp_path / "d.npz"), "--widths", "3,2"], "--data: expected 3 inputs"),
        (["--rows", "0"], "--rows: expected a positive number"),
        (["--batch", "0"], "--batch: expected a positive number"),
        (["--points", "3,x"], "--points: expected integers between commas"),
        (["--points", "3,3"], "points: expected increasing numbers of updates"),
        (["--damping", "-1"], "dampings: expected numbers > 0"),
    ):
        assert cli.main(["compare-curvature", *change]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
