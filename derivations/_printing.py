"""How formulas are printed: operators are named in Unicode (B̃⁺, Λ, W₂ᵀ) and LaTeX is read off the name."""

from __future__ import annotations

import re
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.printing.latex import LatexPrinter
from sympy.printing.pretty.pretty import PrettyPrinter
from sympy.printing.pretty.stringpict import prettyForm

from derivations import _latex


class DerivationError(AssertionError):
    """A step of a derivation does not hold."""


_SUPER = {"⁺": "+", "ᵀ": r"\top", "½": "1/2", "⁻": "-", "¹": "1", "²": "2", "*": "*", "′": r"\prime"}
_SUB = {chr(0x2080 + d): str(d) for d in range(10)} | {"ᵢ": "i", "ⱼ": "j"}


def _parts(name: str) -> tuple[str, str, str]:
    """Split a Unicode name into base, subscript and superscript."""
    base = sub = sup = ""
    for char in name:
        if char in _SUB:
            sub += char
        elif char in _SUPER and base:
            sup += char
        else:
            base += char
    return base, sub, sup


def _name_latex(name: str, index: str = "") -> str:
    base, sub, sup = _parts(name)
    out = _latex.math(base)
    below = ",".join(part for part in ("".join(_SUB[c] for c in sub), index) if part)
    above = "".join(_SUPER[c] for c in sup)
    return out + (f"_{{{below}}}" if below else "") + (f"^{{{above}}}" if above else "")


class _Latex(LatexPrinter):  # type: ignore[misc,unused-ignore]
    def _print_Symbol(self, expr: Any, style: str = "plain") -> str:
        if expr.is_commutative is False or not expr.name.isascii():
            return _name_latex(expr.name)
        return str(super()._print_Symbol(expr))

    def _print_Function(self, expr: Any, exp: Any = None) -> str:
        if isinstance(expr, AppliedUndef) and expr.is_commutative is False:
            return _name_latex(expr.func.__name__, ",".join(self._print(a) for a in expr.args))
        return str(super()._print_Function(expr, exp))


class _Plain(PrettyPrinter):  # type: ignore[misc,unused-ignore]
    def _print_Symbol(self, e: Any, bold_name: bool = False) -> Any:
        if e.is_commutative is False:
            return prettyForm(e.name, binding=prettyForm.ATOM)
        return super()._print_Symbol(e, bold_name)

    def _print_Function(self, e: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(e, AppliedUndef) and e.is_commutative is False:
            index = ",".join(str(a).replace(" ", "") for a in e.args)
            base, sub, sup = _parts(e.func.__name__)
            simple = len(index) == 1
            return prettyForm(
                f"{base}{sub}{'_' + index if simple else '_(' + index + ')'}{sup}", binding=prettyForm.ATOM
            )
        return super()._print_Function(e, *args, **kwargs)


def plain(expression: Any) -> str:
    """Return an expression as Unicode text (several lines for sums, fractions and matrices)."""
    printer = _Plain({"use_unicode": True, "wrap_line": False, "order": "none"})
    return str(printer.doprint(sp.sympify(expression)))


def latex(expression: Any) -> str:
    """Return an expression, or a formula in LaTeX, as LaTeX in ASCII without delimiters."""
    if isinstance(expression, str):
        return _latex.formula(expression)
    return _latex.formula(str(_Latex({"order": "none"}).doprint(sp.sympify(expression))))


_UNLATEX = (
    (r"\tilde{B}", "B̃"),
    (r"\tilde{A}", "Ã"),
    (r"\tilde{E}", "Ẽ"),
    (r"\tilde{W}", "W̃"),
    (r"\tilde{\Lambda}", "Λ̃"),
    (r"\tilde B", "B̃"),
    (r"\tilde A", "Ã"),
    (r"\tilde E", "Ẽ"),
    (r"\tilde W", "W̃"),
    (r"\hat{F}", "F̂"),
    (r"\hat{S}", "Ŝ"),
    (r"\hat{x}", "x̂"),
    (r"\hat S", "Ŝ"),
    (r"\hat s", "ŝ"),
    (r"\sim", "∼"),
    (r"\cosh", "cosh"),
    (r"\tanh", "tanh"),
    (r"\det", "det"),
    (r"\varphi", "φ"),
    (r"\bar h", "h̄"),
    (r"^{\top}", "ᵀ"),
    (r"^\top", "ᵀ"),
    ("^{+}", "⁺"),
    ("^+", "⁺"),
    ("^{-1}", "⁻¹"),
    ("^{1/2}", "^½"),
    ("^{-1/2}", "^−½"),
    ("^{2}", "²"),
    ("^2", "²"),
    (r"\supseteq", "⊇"),
    (r"\subseteq", "⊆"),
    (r"\sum", "Σ"),
    (r"\partial", "∂"),
    (r"\otimes", "⊗"),
    (r"\Leftrightarrow", "⇔"),
    (r"\iff", "⇔"),
    (r"\Rightarrow", "⇒"),
    (r"\cdots", "⋯"),
    (r"\ldots", "…"),
    (r"\dots", "…"),
    (r"\cdot", "·"),
    (r"\leq", "≤"),
    (r"\geq", "≥"),
    (r"\le", "≤"),
    (r"\ge", "≥"),
    (r"\neq", "≠"),
    (r"\ne", "≠"),
    (r"\lVert", "‖"),
    (r"\rVert", "‖"),
    (r"\|", "‖"),
    (r"\lceil", "⌈"),
    (r"\rceil", "⌉"),
    (r"\lfloor", "⌊"),
    (r"\rfloor", "⌋"),
    (r"\infty", "∞"),
    (r"\to", "→"),
    (r"\mapsto", "↦"),
    (r"\operatorname", ""),
    (r"\mathrm", ""),
    (r"\mathbb", ""),
    (r"\quad", "  "),
    (r"\qquad", "    "),
    (r"\top", "ᵀ"),
    (r"\left", ""),
    (r"\right", ""),
    (r"\,", " "),
    (r"\;", " "),
    (r"\ ", " "),
    (r"\langle", "⟨"),
    (r"\rangle", "⟩"),
    (r"\hat\Lambda", "Λ̂"),
    (r"\nabla", "∇"),
    (r"\prime", "′"),
    (r"\Big", ""),
    (r"\oplus", "⊕"),
    (r"\in", "∈"),
    (r"\int", "∫"),
    (r"\times", "×"),
    (r"\ell", "ℓ"),
    (r"\sqrt", "√"),
    (r"\max", "max"),
    (r"\min", "min"),
)


def unlatex(source: str) -> str:
    """Return a LaTeX formula as plain Unicode text, approximately: for reading on a terminal only."""
    source = re.sub(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)", source)
    source = re.sub(r"\\(?:mathrm|operatorname|text)\{([^{}]*)\}", r"\1", source)
    for old, new in sorted(_UNLATEX, key=lambda pair: -len(pair[0])):
        source = source.replace(old, new)
    for letter, name in sorted(_latex.GREEK.items(), key=lambda pair: -len(pair[1])):
        source = source.replace(name, letter)
    for char in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789":
        source = source.replace("{" + char + "}", char)
    return source
