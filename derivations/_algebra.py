"""Algebra of non-commuting operators: words, rewriting rules, transposes, traces.

Every rule holds for all matrices of its kind, so a difference that reduces to zero *is*
zero; `evaluate` puts exact matrices in place of the symbols, so that the rules are tested. Products
carry no shapes: 1 stands for the identity of whatever size fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef, UndefinedFunction

from derivations._printing import DerivationError

Word = tuple[sp.Expr, ...]
Rewrite = Callable[..., sp.Expr | None]


def operators(names: str) -> tuple[sp.Symbol, ...]:
    """Return non-commuting symbols for the names separated by blanks."""
    return tuple(sp.Symbol(name, commutative=False) for name in names.split())


def families(names: str) -> tuple[UndefinedFunction, ...]:
    """Return indexed families of non-commuting operators, used as P(i) with integer or symbolic index i."""
    return tuple(sp.Function(name, commutative=False) for name in names.split())


def words(expression: Any) -> dict[Word, sp.Expr]:
    """Return the expanded expression as words of non-commuting factors with their scalar coefficients."""
    collected: dict[Word, sp.Expr] = {}
    for term in sp.Add.make_args(sp.expand(sp.sympify(expression))):
        scalar, factors = term.args_cnc()
        word: list[sp.Expr] = []
        for factor in factors:
            base, power = factor.as_base_exp()
            if not (power.is_Integer and power > 0):
                raise DerivationError(f"power {power} of a non-commuting symbol: declare an inverse by rules")
            word += [base] * int(power)
        key = tuple(word)
        collected[key] = collected.get(key, sp.S.Zero) + sp.Mul(*scalar)
    return collected


def from_words(collected: Mapping[Word, sp.Expr]) -> sp.Expr:
    """Return the sum of coefficient × word, dropping coefficients that simplify to zero."""
    total = []
    for word, coefficient in collected.items():
        simple = sp.simplify(coefficient)
        if simple != 0:
            total.append(sp.Mul(simple, *word))
    return sp.Add(*total)


class Algebra:
    """A rewriting system for words of non-commuting operators.

    Rules are kept in the order of their declaration and applied at the leftmost place where one fits until
    none does. Transposes are symbols of their own, paired by `transposes` or declared `symmetric`.
    """

    _LIMIT = 100_000

    def __init__(self) -> None:
        self._fixed: dict[Word, sp.Expr] = {}
        self._rewrites: list[tuple[int, Rewrite]] = []
        self._transpose: dict[Any, Any] = {}
        self._cache: dict[Word, tuple[tuple[Word, sp.Expr], ...]] = {}

    @property
    def rules(self) -> tuple[tuple[sp.Expr, sp.Expr], ...]:
        """The fixed rules as pairs (left side, right side)."""
        return tuple((sp.Mul(*word), right) for word, right in self._fixed.items())

    def rule(self, left: sp.Expr, right: Any) -> None:
        """Declare that the product `left` equals `right` for all operators of their kind."""
        found = list(words(left).items())
        if len(found) != 1 or found[0][1] != 1 or not found[0][0]:
            raise DerivationError(f"the left side of a rule is one word with coefficient 1, not {left}")
        self._fixed[found[0][0]] = sp.sympify(right)
        self._cache.clear()

    def rewrite(self, width: int, function: Rewrite) -> None:
        """Declare a rule for `width` neighbouring factors: function(*factors) → replacement or None."""
        self._rewrites.append((width, function))
        self._cache.clear()

    def transposes(self, *pairs: tuple[Any, Any]) -> None:
        """Declare that the two members of each pair (symbols or families) are transposes of each other."""
        for one, other in pairs:
            self._transpose[one], self._transpose[other] = other, one

    def symmetric(self, *members: Any) -> None:
        """Declare symbols or families to be symmetric."""
        self.transposes(*((member, member) for member in members))

    def nested(self, family: UndefinedFunction, increasing: bool = True) -> None:
        """Declare orthogonal projectors whose ranges grow (or shrink) with the index.

        P(i)P(j) = P(min(i, j)) for growing ranges, P(max(i, j)) for shrinking ones, wherever the assumptions
        on the indices decide which is smaller.
        """

        def smaller(one: sp.Expr, other: sp.Expr) -> sp.Expr | None:
            if not (_of(one, family) and _of(other, family)):
                return None
            gap = sp.expand(other.args[0] - one.args[0])
            if gap.is_nonnegative:
                return one if increasing else other
            if gap.is_nonpositive:
                return other if increasing else one
            return None

        self.rewrite(2, smaller)
        self.symmetric(family)

    def inverse(self, one: Any, other: Any) -> None:
        """Declare two symbols or families to be inverse to each other on both sides."""
        self._pattern((one, other), ())
        self._pattern((other, one), ())

    def orthonormal(self, member: Any, transposed: Any) -> None:
        """Declare orthonormal columns: UᵀU = 1 (and nothing about UUᵀ)."""
        self.transposes((member, transposed))
        self._pattern((transposed, member), ())

    def moore_penrose(self, a: Any, plus: Any, at: Any, plus_t: Any) -> None:
        """Declare a, its pseudo-inverse, its transpose and the transpose of the pseudo-inverse.

        The four Penrose equations and what they imply: AA⁺A = A, A⁺AA⁺ = A⁺, A⁺ᵀAᵀ = AA⁺, AᵀA⁺ᵀ = A⁺A,
        AᵀAA⁺ = Aᵀ, A⁺AAᵀ = Aᵀ, A⁺ᵀA⁺A = A⁺ᵀ, AA⁺A⁺ᵀ = A⁺ᵀ.
        """
        self.transposes((a, at), (plus, plus_t))
        for left, right in (
            ((a, plus, a), (a,)),
            ((plus, a, plus), (plus,)),
            ((plus_t, at), (a, plus)),
            ((at, plus_t), (plus, a)),
            ((at, a, plus), (at,)),
            ((plus, a, at), (at,)),
            ((plus_t, plus, a), (plus_t,)),
            ((a, plus, plus_t), (plus_t,)),
        ):
            self._pattern(left, right)

    def _pattern(self, left: Sequence[Any], right: Sequence[Any]) -> None:
        """Declare word → word for symbols, or for families at equal indices."""
        if all(isinstance(member, sp.Symbol) for member in (*left, *right)):
            self.rule(sp.Mul(*left), sp.Mul(*right))
            return

        def match(*factors: sp.Expr) -> sp.Expr | None:
            if not all(_of(factor, family) for factor, family in zip(factors, left, strict=True)):
                return None
            if any(sp.expand(factor.args[0] - factors[0].args[0]) != 0 for factor in factors):
                return None
            return sp.Mul(*(family(*factors[0].args) for family in right))

        self.rewrite(len(left), match)

    def reduce(self, expression: Any) -> sp.Expr:
        """Return the normal form: expanded, with every rule applied until none fits."""
        out: dict[Word, sp.Expr] = {}
        for word, coefficient in words(expression).items():
            for reduced, factor in self._normal(word):
                out[reduced] = out.get(reduced, sp.S.Zero) + coefficient * factor
        return from_words(out)

    def _normal(self, word: Word) -> tuple[tuple[Word, sp.Expr], ...]:
        if word in self._cache:
            return self._cache[word]
        pending: list[tuple[Word, sp.Expr]] = [(word, sp.S.One)]
        done: dict[Word, sp.Expr] = {}
        for _ in range(self._LIMIT):
            if not pending:
                break
            current, coefficient = pending.pop()
            step = self._step(current)
            if step is None:
                done[current] = done.get(current, sp.S.Zero) + coefficient
            else:
                pending += [(new, coefficient * factor) for new, factor in words(step).items() if factor != 0]
        else:
            raise DerivationError(f"the rules do not terminate on {sp.Mul(*word)}")
        self._cache[word] = tuple(done.items())
        return self._cache[word]

    def _step(self, word: Word) -> sp.Expr | None:
        for start in range(len(word)):
            for left, right in self._fixed.items():
                if word[start : start + len(left)] == left:
                    return sp.Mul(*word[:start]) * right * sp.Mul(*word[start + len(left) :])
            for width, function in self._rewrites:
                if start + width <= len(word):
                    right_side = function(*word[start : start + width])
                    if right_side is not None:
                        return sp.Mul(*word[:start]) * right_side * sp.Mul(*word[start + width :])
        return None

    def transpose(self, expression: Any) -> sp.Expr:
        """Return the transpose: words reversed, every factor replaced by its declared transpose."""
        return sp.Add(
            *(
                coefficient * sp.Mul(*(self._transposed(f) for f in reversed(word)))
                for word, coefficient in words(expression).items()
            )
        )

    def _transposed(self, factor: sp.Expr) -> sp.Expr:
        key = factor.func if isinstance(factor, AppliedUndef) else factor
        if key not in self._transpose:
            raise DerivationError(f"no transpose declared for {factor}")
        partner = self._transpose[key]
        return partner(*factor.args) if isinstance(factor, AppliedUndef) else partner

    def trace(self, expression: Any) -> sp.Expr:
        """Return a normal form of the trace: words reduced in every rotation, then the least rotation.

        Words that differ by rotation or by transposition have the same trace; zero is exact, but two equal
        traces may have different forms where a rule fits only in a rotation not yet reached.
        """
        out: dict[Word, sp.Expr] = {}
        pending = list(words(self.reduce(expression)).items())
        while pending:
            word, coefficient = pending.pop()
            rotations = [word[i:] + word[:i] for i in range(max(1, len(word)))]
            shorter = next((r for r in rotations if self._step(r) is not None), None)
            if shorter is not None:
                pending += [(new, coefficient * factor) for new, factor in self._normal(shorter)]
                continue
            if all(self._known(factor) for factor in word):
                turned = tuple(self._transposed(f) for f in reversed(word))
                rotations += [turned[i:] + turned[:i] for i in range(len(turned))]
            least = min(rotations, key=lambda r: tuple(sp.srepr(f) for f in r))
            out[least] = out.get(least, sp.S.Zero) + coefficient
        return from_words(out)

    def _known(self, factor: sp.Expr) -> bool:
        return (factor.func if isinstance(factor, AppliedUndef) else factor) in self._transpose

    def verify(self, matrices: Mapping[Any, sp.MatrixBase]) -> bool:
        """Return whether every fixed rule holds for these exact matrices."""
        return all(
            evaluate(left, matrices) == evaluate(right, matrices, 0 * evaluate(left, matrices))
            for left, right in self.rules
        )


def _of(factor: sp.Expr, family: Any) -> bool:
    return isinstance(factor, AppliedUndef) and factor.func == family


def evaluate(expression: Any, matrices: Mapping[Any, Any], like: Any = None) -> Any:
    """Return the expression with matrices in place of the operators.

    Parameters
    ----------
    expression : sympy expression
        Words of symbols and of family members with integer indices.
    matrices : mapping
        From symbol or family member, such as P(2), to a SymPy matrix (exact) or a NumPy array (float).
    like : matrix, optional
        Gives the shape of 1 and 0 where the expression alone does not.

    Returns
    -------
    matrix of the kind of its factors
    """
    total = None if like is None else 0 * like
    scalar = sp.S.Zero
    for word, coefficient in words(expression).items():
        if not word:
            scalar += coefficient
            continue
        value = matrices[word[0]]
        for factor in word[1:]:
            value = value @ matrices[factor]
        value = (float(coefficient) if isinstance(value, np.ndarray) else coefficient) * value
        total = value if total is None else total + value
    if total is None:
        raise DerivationError(f"the shape of {expression} is not known: pass like=")
    if scalar == 0:
        return total
    return total + (
        float(scalar) * np.eye(*total.shape)
        if isinstance(total, np.ndarray)
        else scalar * sp.eye(*total.shape)
    )
