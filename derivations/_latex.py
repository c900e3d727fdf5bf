"""Unicode mathematics as LaTeX in ASCII: names, formulas, and the words of steps with formulas among them."""

from __future__ import annotations

import re
import unicodedata

_GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta kappa lamda mu nu xi pi rho sigma tau phi chi psi omega"
)
GREEK = {
    unicodedata.lookup(f"GREEK {size} LETTER {name.upper()}"): "\\" + case(name).replace("amda", "ambda")
    for size, case in (("SMALL", str.lower), ("CAPITAL", str.title))
    for name in _GREEK_NAMES.split()
}
_CAPITALS_OF_LATIN = r"\Alpha \Beta \Epsilon \Zeta \Eta \Kappa \Mu \Nu \Rho \Tau \Chi"
_ACCENT = {
    "\u0303": r"\tilde",
    "\u0302": r"\hat",
    "\u0304": r"\bar",
    "\u0307": r"\dot",
    "\u0332": r"\underline",
}
_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁱʲᵏˡⁿ", "0123456789+-()ijkln", strict=True))
_SUPER |= {"ᵀ": r"\top", "′": r"\prime", "*": "*"}
_SUB = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ᵢⱼₖₗₘₙ", "0123456789+-()ijklmn", strict=True))
_SYMBOL = {
    letter: rf"\mathrm{{{name[1]}}}" if name in _CAPITALS_OF_LATIN.split() else name
    for letter, name in GREEK.items()
}
_TABLE = r"""
− -  · \cdot  ⋅ \cdot  × \times  ⊗ \otimes  ⊕ \oplus  ± \pm  ∓ \mp  ∘ \circ  ⊙ \odot  ≤ \le
≥ \ge  ≠ \ne  ≈ \approx  ≡ \equiv  ∼ \sim  ~ \sim  ∝ \propto  ≪ \ll  ≫ \gg  ≻ \succ  ⪰ \succeq
≺ \prec  ⪯ \preceq  ∈ \in  ∉ \notin  ⊂ \subset  ⊆ \subseteq  ⊇ \supseteq  ∪ \cup  ∩ \cap
∅ \emptyset  ⊥ \perp  → \to  ↦ \mapsto  ← \leftarrow  ↔ \leftrightarrow  ⇒ \Rightarrow
⇐ \Leftarrow  ⇔ \Leftrightarrow  ∇ \nabla  ∂ \partial  ∫ \int  ∮ \oint  ∑ \sum  ∏ \prod  √ \surd
∞ \infty  ℓ \ell  ‖ \|  ⟨ \langle  ⟩ \rangle  ⌈ \lceil  ⌉ \rceil  ⌊ \lfloor  ⌋ \rfloor  … \ldots
⋯ \cdots  ∀ \forall  ∃ \exists  ½ \tfrac{1}{2}  ℝ \mathbb{R}  ℕ \mathbb{N}  𝒯 \mathcal{T}
𝒫 \mathcal{P}  ∎ \square  ϕ \phi
"""
_COMMANDS = _TABLE.split()
_SYMBOL |= dict(zip(_COMMANDS[::2], _COMMANDS[1::2], strict=True))
_SYMBOL |= {char: "\\" + char for char in "{}%#&$"} | {"\\": r"\backslash"}
_TEXT = {char: "\\" + char for char in "&%#_{}$"}
_TEXT |= {"^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "\\": r"\textbackslash{}", "…": r"\ldots{}"}
_TEXT |= {"–": "--", "—": "---", "“": "``", "”": "''", "‘": "`", "’": "'", "\u00a0": "~", "§": r"\S{}"}
_TEXT_ACCENT = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u0327": "c"}
_PREFIXES = "adj artanh blockdiag cos Cov det diag eps log sin tr vec"  # mathematics before mathematics
_OTHERS = "arg cosh cov exp im ker max min null rank range sign sinh span spec sqrt tanh trace unvec"
_FUNCTIONS = frozenset(_PREFIXES.split() + _OTHERS.split())
_OPERAND = re.compile(
    r"[({\[]*\d+|\d+\.\d+|\w…\w|d?[A-Z]{1,3}|[A-Z][cvxyz]|\d*[A-Za-z]?[!%']?(/\(?\d*[A-Za-z]?\)?)*"
)
_OPERATORS = frozenset("=+<>~−·⋅×⊗⊕±≤≥≠≈∈⊆⊇→↦⇔⇒∪∩/|") | {"<=", ">="}
_TOKEN = re.compile(r"(?:[_^]\{(?:[^{}]|\{[^{}]*\})*\}|[_^]\([^()]*\)|\S)+")


def math(source: str) -> str:
    """Return Unicode mathematics such as ``B̃_i⁺ΔP_{k+1}`` as LaTeX in ASCII, without delimiters."""
    chars = "".join(c if c in _SYMBOL else unicodedata.normalize("NFD", c) for c in source)
    pieces: list[str] = []
    scripts: set[str] = set()
    at = 0
    while at < len(chars):
        char = chars[at]
        if char in _ACCENT and pieces:
            pieces[-1] = rf"{_ACCENT[char]}{{{pieces[-1]}}}"
            at += 1
            continue
        if char in "_^" or char in _SUB or char in _SUPER:
            kind, argument, at = _script(chars, at)
            pieces.append(("{}" if kind in scripts else "") + f"{kind}{{{argument}}}")
            scripts = scripts | {kind} if kind not in scripts else {kind}
            continue
        scripts = set()
        run = re.compile("[A-Za-z]+").match(chars, at)
        if run and run[0] in _FUNCTIONS:
            pieces.append(rf"\operatorname{{{run[0]}}}")
            at = run.end()
        elif run and len(run[0]) > 3:
            pieces.append(rf"\text{{{run[0]}}}")
            at = run.end()
        else:
            pieces.append(_symbol(char))
            at += 1
    return _join(pieces)


def formula(source: str) -> str:
    """Return LaTeX in which every remaining Unicode character is a command."""
    chars = (c if c.isascii() or c in _SYMBOL else unicodedata.normalize("NFD", c) for c in source)
    pieces: list[str] = []
    for char in "".join(chars):
        if char in _ACCENT and pieces:
            pieces[-1] = rf"{_ACCENT[char]}{{{pieces[-1]}}}"
        elif char.isascii():
            pieces.append(char)
        elif char in _SUPER or char in _SUB:
            pieces.append(f"^{{{_SUPER[char]}}}" if char in _SUPER else f"_{{{_SUB[char]}}}")
        else:
            pieces.append(_symbol(char))
    return _join(pieces)


def text(source: str) -> str:
    """Return running text as LaTeX in ASCII: words escaped, what is mathematics among them between $ signs."""
    tokens = _TOKEN.findall(source)
    kinds = [_is_math(token) for token in tokens]
    for i in reversed(range(len(tokens))):
        if not kinds[i]:
            follows = tokens[i].lstrip("(") in _PREFIXES.split() and kinds[i + 1 : i + 2] == [True]
            near = any(other in _OPERATORS for other in tokens[max(i - 1, 0) : i + 2])
            kinds[i] = follows or (near and _is_operand(tokens[i]))
    out: list[str] = []
    run: list[str] = []

    def close() -> None:
        if run:
            out.append(_dollars(" ".join(run)))
            run.clear()

    for token, kind in zip(tokens, kinds, strict=True):
        depth = _depth(" ".join(run))
        if not kind and not (depth > 0 and _is_operand(token)):
            close()
            out.append(_escape(token))
            continue
        if token[0] == "(" and _depth(token) > 0 and depth <= 0 and run and run[-1] not in _OPERATORS:
            close()  # a parenthesis of the sentence
        run.append(token)
        if token[-1] in ",;:." and _depth(" ".join(run)) <= 0:
            close()
    close()
    return " ".join(out)


def _script(chars: str, at: int) -> tuple[str, str, int]:
    """Return the kind of the script at a position, its content and where it ends."""
    for kind, table in (("^", _SUPER), ("_", _SUB)):
        if chars[at] in table:
            end = at
            while end < len(chars) and (chars[end] in table or (chars[end] == "½" and end > at)):
                end += 1
            return kind, _join([table.get(c, "1/2") for c in chars[at:end]]), end
    kind = chars[at]
    argument = re.compile(
        r"\{((?:[^{}]|\{[^{}]*\})*)\}|\(([^()]*)\)|(min|max|[ijklL1]{2}|[xy]{2}|\d+|[−+-]?\w[\u0300-\u036f]*|.)|"
    ).match(chars, at + 1)
    assert argument is not None
    if argument[2] is not None:
        inside = math(argument[2])
        return kind, inside if kind == "_" else f"({inside})", argument.end()
    return kind, math(argument[1] or argument[3] or ""), argument.end()


def _symbol(char: str) -> str:
    if char in _SYMBOL:
        return _SYMBOL[char]
    if char.isascii():
        return char
    if char in _TEXT:
        return rf"\text{{{_TEXT[char]}}}"
    raise ValueError(f"no LaTeX for U+{ord(char):04X} {char}")


def _join(pieces: list[str]) -> str:
    """Join pieces, with a space where a command of this table would swallow the letter after it."""
    out = ""
    command = False
    for piece in pieces:
        out += " " + piece if command and piece[0].isalpha() else piece
        command = bool(re.fullmatch(r"\\[A-Za-z]+", piece))
    return out


def _bare(token: str) -> str:
    return token.strip("()[],;:.")


def _is_math(token: str) -> bool:
    if any(c in "_^=+*<>|~\\" or not (c.isascii() or c in _TEXT or _is_latin(c)) for c in token):
        return True
    bare = _bare(token)
    if re.search(r"\([a-z]{3,}$", bare) or not bare:
        return False
    called = re.search(r"(?<![A-Za-z])([A-Za-z]+)\(", bare)
    if called and (len(called[1]) == 1 or called[1] in _FUNCTIONS):
        return True
    return _is_operand(token) and (bool(re.fullmatch("[B-HJ-Zb-z]", bare)) or "/" in bare or "…" in bare)


def _is_operand(token: str) -> bool:
    """A number, a letter or a quotient of such: mathematics next to an operator."""
    return bool(_OPERAND.fullmatch(_bare(token)))


def _is_latin(char: str) -> bool:
    base = unicodedata.normalize("NFD", char)
    return len(base) == 2 and base[0].isascii() and base[1] in _TEXT_ACCENT and base[1] not in _ACCENT


def _depth(run: str) -> int:
    return sum(c in "([{⟨" for c in run) - sum(c in ")]}⟩" for c in run)


def _dollars(run: str) -> str:
    """Return a run of mathematics between $ signs, sentence marks and unmatched parentheses outside."""
    before = after = ""
    while run:
        if run[-1] in ",;:." or (run[-1] == ")" and run.count(")") > run.count("(")):
            run, after = run[:-1], run[-1] + after
        elif run[0] == "(" and run.count("(") > run.count(")"):
            run, before = run[1:], before + "("
        else:
            break
    suffix = re.search(r"(-[a-z]{2,}|'s)$", run)
    if suffix:
        run, after = run[: suffix.start()], suffix[0] + after
    return before + (f"${math(run)}$" if run else "") + after


def _escape(token: str) -> str:
    out = ""
    for char in token:
        base = unicodedata.normalize("NFD", char)
        if char in _TEXT or char.isascii():
            out += _TEXT.get(char, char)
        elif _is_latin(char):
            out += rf"\{_TEXT_ACCENT[base[1]]}{{{base[0]}}}"
        else:
            raise ValueError(f"no LaTeX for U+{ord(char):04X} {char}")
    return out
