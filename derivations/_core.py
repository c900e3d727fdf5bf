"""Recorded steps of a proof, and the tools that all proofs share, under one name.

A `Derivation` is a list of steps. `define` introduces notation or an assumption, `prove` demands that a
symbolic difference reduces to exactly zero, `check` demands that an exact finite computation holds; the
latter two raise `DerivationError`. The operator algebra is in `_algebra`, exact matrices in `_exact`,
printing in `_printing` and `_latex`; all their names are found here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import sympy as sp

from derivations._algebra import Algebra, evaluate, families, from_words, operators, words
from derivations._exact import integers, inverse, kron, of_rank, pinv, product, unvec, vec
from derivations._latex import text as words_latex
from derivations._printing import DerivationError, latex, plain, unlatex

__all__ = [
    "Algebra",
    "Derivation",
    "DerivationError",
    "Kind",
    "Step",
    "equation",
    "evaluate",
    "families",
    "from_words",
    "integers",
    "inverse",
    "kron",
    "latex",
    "of_rank",
    "operators",
    "pinv",
    "plain",
    "product",
    "residual",
    "unlatex",
    "unvec",
    "vec",
    "words",
]

Kind = Literal["definition", "proved", "checked"]


@dataclass(frozen=True)
class Step:
    """One line of a derivation: what it says, its formula (SymPy object, LaTeX string or None), its kind."""

    text: str
    formula: Any
    kind: Kind

    def plain(self) -> str:
        """The formula as Unicode text, on one or several lines; empty where there is none."""
        if self.formula is None:
            return ""
        return unlatex(self.formula) if isinstance(self.formula, str) else plain(self.formula)

    def latex(self) -> str:
        """The formula as LaTeX without delimiters; empty where there is none."""
        return "" if self.formula is None else latex(self.formula)


class Derivation:
    """The steps that lead to one statement.

    Parameters
    ----------
    identifier : str
        The statement's identifier, such as "N2".
    title : str
        What is derived, in one line.
    source : str
        Where the statement comes from.
    """

    def __init__(self, identifier: str, title: str, source: str) -> None:
        self.identifier = identifier
        self.title = title
        self.source = source
        self.steps: list[Step] = []

    def define(self, text: str, formula: Any = None) -> None:
        """Record notation or an assumption."""
        self.steps.append(Step(text, formula, "definition"))

    def prove(
        self,
        text: str,
        lhs: Any,
        rhs: Any = 0,
        simplify: Callable[[Any], Any] | None = None,
        formula: Any = None,
    ) -> None:
        """Record lhs = rhs, or raise `DerivationError` unless lhs − rhs simplifies to exactly zero.

        Parameters
        ----------
        text : str
            What the step says.
        lhs, rhs : sympy expression or matrix
            The two sides; rhs = 0 stands for the zero of lhs's shape.
        simplify : callable, optional
            Applied to the difference (`Algebra.reduce`, say); by default expansion, then `sympy.simplify`.
        formula : sympy object or str, optional
            What to print in place of lhs = rhs.
        """
        rest = residual(lhs, rhs, simplify)
        if not _is_zero(rest):
            raise DerivationError(f"{self.identifier}: {text}: the difference is {plain(rest)}, expected 0")
        self.steps.append(Step(text, equation(lhs, rhs) if formula is None else formula, "proved"))

    def check(self, text: str, condition: bool, formula: Any = None) -> None:
        """Record a finite exact check, or raise `DerivationError` where it fails.

        Parameters
        ----------
        text : str
            What was checked.
        condition : bool
            The outcome: a Python or SymPy boolean that is decided.
        formula : sympy object or str, optional
            What to print.
        """
        if condition not in (True, False):
            raise DerivationError(f"{self.identifier}: {text}: undecided condition {condition}")
        if not condition:
            raise DerivationError(f"{self.identifier}: {text}: does not hold")
        self.steps.append(Step(text, formula, "checked"))

    def text(self) -> str:
        """The derivation as readable plain mathematics."""
        lines = [f"{self.identifier}  {self.title}", f"    source: {self.source}"]
        marks = {"definition": " ", "proved": "∎", "checked": "✓"}
        for number, step in enumerate(self.steps, 1):
            lines.append(f"{number:3d} {marks[step.kind]} {step.text}")
            lines += ["          " + line for line in step.plain().splitlines()]
        return "\n".join(lines)

    def latex(self) -> str:
        """The derivation as LaTeX: a paragraph heading and an enumeration of its steps."""
        head = rf"\paragraph{{{self.identifier}. {words_latex(self.title)}}} ({words_latex(self.source)})"
        lines = [head, r"\begin{enumerate}"]
        for step in self.steps:
            lines.append(rf"\item {words_latex(step.text)} \emph{{({step.kind})}}")
            if step.formula is not None:
                lines.append(rf"\[ {step.latex()} \]")
        return "\n".join([*lines, r"\end{enumerate}"])


def residual(lhs: Any, rhs: Any = 0, simplify: Callable[[Any], Any] | None = None) -> Any:
    """Return lhs − rhs, simplified; rhs = 0 fits every shape."""
    lhs, rhs = sp.sympify(lhs), sp.sympify(rhs)
    difference = lhs if rhs == 0 else lhs - rhs
    if simplify is not None:
        return simplify(difference)
    if isinstance(difference, sp.MatrixBase):
        return difference.applyfunc(_simplify)
    return _simplify(difference)


def equation(lhs: Any, rhs: Any) -> Any:
    """Return lhs = rhs as an unevaluated SymPy equation (lhs alone where rhs is not comparable)."""
    lhs, rhs = sp.sympify(lhs), sp.sympify(rhs)
    if isinstance(lhs, sp.MatrixBase) and rhs == 0:
        rhs = sp.zeros(*lhs.shape)
    return sp.Eq(lhs, rhs, evaluate=False)


def _simplify(expression: Any) -> Any:
    expanded = sp.expand(expression)
    return expanded if expanded == 0 else sp.simplify(expanded)


def _is_zero(rest: Any) -> bool:
    if isinstance(rest, sp.MatrixBase):
        return all(entry == 0 for entry in rest)
    if isinstance(rest, sp.MatrixExpr):
        return isinstance(rest, sp.ZeroMatrix)
    return bool(rest == 0)
