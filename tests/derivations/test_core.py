"""Do the tools of the proofs refuse what is false, and are their rules true of exact matrices?"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sympy as sp

from derivations import __main__ as program
from derivations import _core, _latex, _network
from derivations._core import Algebra, Derivation, DerivationError, Step

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = tuple(
    sorted(path.stem for path in (ROOT / "derivations").glob("*_*.py") if re.match(r"[a-z]\d", path.stem))
)


def derivation() -> Derivation:
    return Derivation("T0", "a test", "nowhere")


def test_prove_accepts_an_identity_and_records_it() -> None:
    d = derivation()
    x = sp.Symbol("x")
    d.prove("binomial", (x + 1) ** 2, x**2 + 2 * x + 1)
    assert [step.kind for step in d.steps] == ["proved"]
    assert "binomial" in d.text()
    assert r"\begin{enumerate}" in d.latex()


@pytest.mark.parametrize("factor", [-1, 2, 0])
def test_prove_refuses_a_wrong_factor(factor: int) -> None:
    x = sp.Symbol("x")
    with pytest.raises(DerivationError, match="expected 0"):
        derivation().prove("wrong", factor * sp.sin(2 * x), 2 * sp.sin(x) * sp.cos(x))


def test_prove_refuses_a_wrong_matrix_and_a_wrong_order() -> None:
    a, b = _core.operators("A B")
    with pytest.raises(DerivationError):
        derivation().prove("order", a * b, b * a, Algebra().reduce)
    with pytest.raises(DerivationError):
        derivation().prove("matrix", sp.Matrix([[1, 2]]), sp.Matrix([[1, 3]]))


def test_check_refuses_false_and_undecided_conditions() -> None:
    with pytest.raises(DerivationError, match="does not hold"):
        derivation().check("no", condition=False)
    with pytest.raises(DerivationError, match="undecided"):
        derivation().check("perhaps", sp.Symbol("x") > 0)


def test_rules_need_one_word_on_the_left() -> None:
    a, b = _core.operators("A B")
    for left in (a + b, 2 * a, sp.S.One):
        with pytest.raises(DerivationError):
            Algebra().rule(left, b)


def test_negative_powers_and_missing_transposes_are_refused() -> None:
    a = _core.operators("A")[0]
    with pytest.raises(DerivationError, match="inverse"):
        Algebra().reduce(a**-1)
    with pytest.raises(DerivationError, match="transpose"):
        Algebra().transpose(a)


def test_rules_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _core.operators("A B")
    rules = Algebra()
    rules.rule(a, b)
    rules.rule(b, a)
    monkeypatch.setattr(Algebra, "_LIMIT", 50)
    with pytest.raises(DerivationError, match="terminate"):
        rules.reduce(a)


def test_nested_projectors_wait_for_a_decided_order() -> None:
    (p,) = _core.families("P")
    rules = Algebra()
    rules.nested(p)
    i, j = sp.symbols("i j", integer=True)
    assert rules.reduce(p(i + 1) * p(i)) == p(i)
    assert rules.reduce(p(i) * p(j)) == p(i) * p(j)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_exact_pseudo_inverse_is_sympys(rank: int) -> None:
    matrix = _core.of_rank(4, 3, rank, 5)
    assert matrix.rank() == rank
    assert _core.pinv(matrix) == matrix.pinv()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_moore_penrose_rules_hold_for_matrices_of_any_rank(rank: int) -> None:
    names = _core.operators("A A⁺ Aᵀ A⁺ᵀ")
    rules = Algebra()
    rules.moore_penrose(*names)
    a = _core.of_rank(4, 3, rank, 2)
    plus = _core.pinv(a)
    assert len(rules.rules) == 8
    assert rules.verify(dict(zip(names, (a, plus, a.T, plus.T), strict=True)))
    wrong = dict(zip(names, (a, plus + _core.integers(3, 4, 1), a.T, plus.T), strict=True))
    assert not rules.verify(wrong)


def composable(words: Any, matrices: dict[Any, sp.Matrix]) -> bool:
    return all(matrices[x].cols == matrices[y].rows for x, y in itertools.pairwise(words))


@pytest.mark.parametrize("index", range(7))
def test_network_rules_hold_on_random_words(index: int) -> None:
    name, example = _network.ladder()[index]
    matrices = example.symbols()
    rules = _network.algebra()
    draw = random.Random(index)
    letters = [key for key in matrices if matrices[key].rows and matrices[key].cols]
    tried = changed = 0
    while tried < 150:
        word = [draw.choice(letters)]
        while len(word) < 5:
            following = [x for x in letters if matrices[x].rows == matrices[word[-1]].cols]
            word.append(draw.choice(following))
        expression = sp.Mul(*word)
        reduced = rules.reduce(expression)
        tried += 1
        changed += reduced != expression
        value = _core.evaluate(expression, matrices)
        assert _core.evaluate(reduced, matrices, like=value) == value, (name, expression, reduced)
    assert changed > 20


def test_trace_is_invariant_under_rotation_and_transposition() -> None:
    a, at, b, bt = _core.operators("A Aᵀ B Bᵀ")
    rules = Algebra()
    rules.transposes((a, at), (b, bt))
    assert rules.trace(a * b * bt - b * bt * a) == 0
    assert rules.trace(a * b - bt * at) == 0
    assert rules.trace(a * b - at * b) != 0


def test_kron_and_vec_agree() -> None:
    a, x, b = _core.integers(2, 3, 1), _core.integers(4, 3, 2), _core.integers(2, 4, 3)
    assert _core.vec(b * x * a.T) == _core.kron(a, b) * _core.vec(x)
    assert _core.unvec(_core.vec(x), 4, 3) == x
    assert _core.vec(b * x * a.T) != _core.kron(b, a) * _core.vec(x.T)


def test_names_are_printed_in_unicode_and_in_latex() -> None:
    (p,) = _core.families("B̃⁺")
    symbol = _core.operators("Λ̃₁ᵀ")[0]
    assert _core.plain(p(sp.Symbol("i")) * symbol) == "B̃_i⁺⋅Λ̃₁ᵀ"
    assert _core.latex(p(sp.Symbol("i"))) == r"\tilde{B}_{i}^{+}"
    assert _core.latex(symbol) == r"\tilde{\Lambda}_{1}^{\top}"
    assert _core.unlatex(r"\tilde{B}_i^{+} \le \lceil L/2\rceil") == "B̃_i⁺ ≤ ⌈ L/2⌉"


@functools.cache
def recorded(family: str) -> tuple[tuple[Derivation, ...], tuple[tuple[str, Any, Any, Any], ...]]:
    """Return the derivations of a family and the arguments of its proved steps."""
    steps: list[tuple[str, Any, Any, Any]] = []
    original = Derivation.prove

    def prove(
        self: Derivation, text: str, lhs: Any, rhs: Any = 0, simplify: Any = None, formula: Any = None
    ) -> None:
        steps.append((text, lhs, rhs, simplify))
        original(self, text, lhs, rhs, simplify, formula)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Derivation, "prove", prove)
        derived = importlib.import_module(f"derivations.{family}").derive()
    return derived, tuple(steps)


def test_running_text_is_escaped_for_latex() -> None:
    d = derivation()
    d.define("R&D at s^{2/L} ~ 50% of W_1")
    assert r"R\&D at $s^{2/L} \sim 50\%$ of $W_{1}$" in d.latex()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("B̃_{i+1}W_{i+1} = 0, so", r"$\tilde{B}_{i+1}W_{i+1} = 0$, so"),
        ("a step (as ‖Ã⁺ᵀ‖ ≤ 2) of N2", r"a step (as $\|\tilde{A}^{+\top}\| \le 2$) of N2"),
        ("Fisher–Rao “ends”", "Fisher--Rao ``ends''"),
        ("C_j + δC_j, Δ", r"$C_{j} + \delta C_{j}$, $\Delta$"),
    ],
)
def test_mathematics_among_words_is_set_as_mathematics(words: str, expected: str) -> None:
    assert _latex.text(words) == expected


def test_names_and_formulas_are_latex_in_ascii() -> None:
    assert _core.latex(sp.Symbol("Σ_{k≤i}ΔP_k", commutative=False)) == r"\Sigma_{k\le i}\Delta P_{k}"
    assert _core.latex(r"‖\tilde{E}‖ ≤ λx̂") == r"\|\tilde{E}\| \le \lambda\hat{x}"
    with pytest.raises(ValueError, match=r"U\+5B57"):
        _core.latex("字")


def is_sound(source: str) -> bool:
    """ASCII, with braces balanced and an even number of $ signs on every line, escaped ones aside."""
    bare = re.sub(r"\\[{}$\\]", "", source)
    depths = list(itertools.accumulate((c == "{") - (c == "}") for c in bare))
    dollars = all(line.count("$") % 2 == 0 for line in bare.splitlines())
    return source.isascii() and dollars and depths[-1] == 0 and min(depths) >= 0


# A few seconds each, up to ten; a minute and more together.
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_latex_of_every_statement_is_ascii_and_balanced(family: str) -> None:
    for d in recorded(family)[0]:
        assert is_sound(d.latex())


@pytest.mark.parametrize("wrong", ["$Σ$", "$x_{1$", "}{", "$x"])
def test_unsound_latex_is_noticed(wrong: str) -> None:
    assert is_sound(r"\{ $x_{1}$ \$")
    assert not is_sound(wrong)


def vanishes(rest: Any) -> bool:
    return all(entry == 0 for entry in rest) if isinstance(rest, sp.MatrixBase) else bool(rest == 0)


def mutations(lhs: Any, rhs: Any) -> list[tuple[Any, Any]]:
    """Return wrong versions of lhs = rhs: a changed sign on the right, a missing term on the left."""
    lhs, rhs = sp.sympify(lhs), sp.sympify(rhs)
    if isinstance(lhs, sp.MatrixBase):
        zero = all(entry == 0 for entry in lhs)
        return (
            [(lhs, rhs + sp.ones(*lhs.shape) if rhs != 0 else sp.ones(*lhs.shape))]
            if zero
            else [(2 * lhs, rhs)]
        )
    if rhs != 0:
        return [(lhs, -rhs), (lhs, 2 * rhs)]
    terms = sp.Add.make_args(sp.expand(lhs))
    return [(sp.Add(*terms[1:]), 0)] if len(terms) > 1 else []


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_proved_step_fails_when_a_sign_or_a_term_is_changed(family: str) -> None:
    _, steps = recorded(family)
    assert steps
    changed = 0
    for text, lhs, rhs, simplify in steps:
        for wrong_lhs, wrong_rhs in mutations(lhs, rhs):
            if vanishes(_core.residual(lhs, 0, simplify)) and sp.sympify(rhs) != 0:
                continue  # both sides are zero: a sign changes nothing
            with pytest.raises(DerivationError):
                derivation().prove(text, wrong_lhs, wrong_rhs, simplify)
            changed += 1
    assert changed >= 0.7 * len(steps)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_states_what_it_proves(family: str) -> None:
    module = importlib.import_module(f"derivations.{family}")
    derived, _ = recorded(family)
    assert tuple(d.identifier for d in derived) == module.STATEMENTS
    assert module.functions.__doc__
    assert module.functions()
    assert all(callable(function) for function in module.functions().values())
    for d in derived:
        kinds = {step.kind for step in d.steps}
        assert "proved" in kinds
        assert all(isinstance(step, Step) and step.text for step in d.steps)
        assert re.search(r"\S", d.text())


def run(*arguments: str, seed: str = "0") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "derivations", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_program_runs_one_identifier_in_any_case() -> None:
    done = run("n6")
    assert done.returncode == 0
    assert done.stdout.startswith("N6 ")
    assert "N1 " not in {line[:3] for line in done.stdout.splitlines()}
    done = run("N6", "--latex")
    assert r"\begin{enumerate}" in done.stdout
    assert "derived" not in done.stdout
    assert "1 statement derived" in done.stderr


def test_the_program_refuses_an_unknown_identifier() -> None:
    done = run("Q7")
    assert done.returncode == 2
    assert "no derivation of Q7" in done.stderr


def test_the_program_fails_when_a_step_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Derivation, text: str, *_: Any, **__: Any) -> None:
        raise DerivationError(f"{self.identifier}: {text}")

    monkeypatch.setattr(Derivation, "check", refuse)
    assert program.main(["N6"]) == 1
    assert "N6" in capsys.readouterr().err


@pytest.mark.slow
def test_the_json_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    texts = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.json"
        assert run("X1", "N2", "--json", str(path), seed=seed).returncode == 0
        texts.append(path.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    record = json.loads(texts[0])
    assert list(record) == ["N2", "X1"]
    for statement in record.values():
        assert set(statement) == {"title", "source", "steps"}
        assert all(set(step) == {"text", "kind", "plain", "latex"} for step in statement["steps"])
