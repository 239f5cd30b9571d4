r"""Normal forms of LaTeX formulas: compare writings, take sums and products apart into monomials.

Two formulas have the same :func:`writing` if they differ only by typesetting, by the order of their terms and
factors, and by brackets and signs that say nothing. :func:`monomials` serves to find like terms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from pipo.graders.latex_tree import ONE, Node

# Larger numbers are not factored, longer products not multiplied out: they count as they stand.
_LARGEST_FACTORED = 10**10
_MOST_TERMS = 64
_LARGEST_POWER = 20
_MOST_BITS = 4000

Writing = tuple[object, ...]
_MIRRORED = {">": "<", ">=": "<="}


def writing(node: Node) -> Writing:
    """A key that formulas written alike have in common."""
    if node.kind == "number":
        return ("number", Fraction(node.label))
    if node.kind in ("name", "text"):
        return (node.kind, node.label.lower() if node.kind == "text" else node.label)
    if node.kind in ("degrees", "percent"):
        return writing(node.parts[0])
    if node.kind == "add":
        return ("add", *_ordered(_of_term(sign, term) for sign, term in terms(node)))
    if node.kind == "negative" and node.parts[0].kind == "negative":
        return ("double minus", writing(node.parts[0].parts[0]))
    if node.kind in ("negative", "times", "over"):
        return _of_term(1, node)
    if node.kind == "root":
        return ("power", writing(node.parts[0]), _of_term(1, Node("over", "", (ONE, node.parts[1]))))
    if node.kind == "relation":
        return _of_relation(node)
    parts = [writing(part) for part in node.parts]
    if node.kind == "set" and node.label in ("union", "intersection"):
        return ("set", node.label, *_ordered(parts))
    if node.kind == "list" and node.label in ("", "{}"):
        return ("list", *_ordered(parts))
    return (node.kind, node.label, *parts)


def _ordered(keys: Iterable[Writing]) -> list[Writing]:
    return sorted(keys, key=repr)


def _of_relation(node: Node) -> Writing:
    signs = node.label.split()
    sides = [writing(part) for part in node.parts]
    if set(signs) == {"="}:
        return ("relation", "=", *_ordered(sides))
    if set(signs) <= set(_MIRRORED):
        signs, sides = [_MIRRORED[sign] for sign in reversed(signs)], sides[::-1]
    return ("relation", " ".join(signs), *sides)


def _of_term(sign: int, node: Node) -> Writing:
    chain = factors(node)
    if chain.units and any(factor.kind in ("number", "mixed") for factor in chain.above):
        chain.above.append(ONE)  # a half times eleven is not eleven halves
    above, below = (_ordered(map(writing, side)) for side in (chain.above, chain.below))
    if sign * chain.sign > 0 and len(above) == 1 and not below:
        return above[0]
    return ("product", sign * chain.sign, tuple(above), tuple(below))


@dataclass
class Factors:
    """A product or quotient taken apart; words are left out, and so are the ones above a bar, ``units``."""

    sign: int = 1
    """Sign of the whole, 1 or -1."""
    units: int = 0
    """How many ones stand above bars."""
    above: list[Node] = field(default_factory=list[Node])
    """Factors of the numerator."""
    below: list[Node] = field(default_factory=list[Node])
    """Factors of the denominator."""


def factors(node: Node) -> Factors:
    """The factors of a product as written, through nested fractions and signs, without the 1 above a bar."""
    found = Factors()
    _collect(node, found, over=False)
    return found


def _collect(node: Node, found: Factors, *, over: bool) -> None:
    if node.kind == "negative" and node.parts[0].kind != "negative":
        found.sign = -found.sign
        _collect(node.parts[0], found, over=over)
    elif node.kind == "times":
        for part in node.parts:
            _collect(part, found, over=over)
    elif node.kind == "over":
        if node.parts[0] == ONE:
            found.units += 1
        else:
            _collect(node.parts[0], found, over=over)
        _collect(node.parts[1], found, over=not over)
    elif not is_text(node):
        (found.below if over else found.above).append(node)


def is_text(node: Node) -> bool:
    """Whether it is a word, such as a unit, or a power of one."""
    return node.kind == "text" or (node.kind in ("power", "index") and is_text(node.parts[0]))


def terms(node: Node) -> list[tuple[int, Node]]:
    """The terms of a sum with their signs, through brackets that do nothing."""
    if node.kind == "negative" and node.parts[0].kind != "negative":
        return [(-sign, term) for sign, term in terms(node.parts[0])]
    if node.kind == "add":
        return [one for part in node.parts for one in terms(part)]
    return [(1, node)]


@dataclass(frozen=True)
class Monomial:
    """A number times powers of what is no number."""

    factor: Fraction
    """Rational factor in front."""
    powers: tuple[tuple[Writing, Fraction], ...] = ()
    """The exponent of each base, a base being a prime under a root, or another writing."""

    def times(self, other: Monomial) -> Monomial:
        """The product."""
        powers = dict(self.powers)
        for base, exponent in other.powers:
            powers[base] = powers.get(base, Fraction(0)) + exponent
        return _normal(self.factor * other.factor, powers)

    def to_the(self, exponent: Fraction) -> Monomial | None:
        """A power; None if it is no monomial that can be written down."""
        powers = {base: e * exponent for base, e in self.powers}
        bits = max(self.factor.numerator.bit_length(), self.factor.denominator.bit_length())
        if self.factor == 0 or abs(exponent) > _LARGEST_POWER or bits > _MOST_BITS:
            return None
        if exponent.denominator == 1:
            return _normal(self.factor ** int(exponent), powers)
        if self.factor < 0:
            return None
        split = [primes(self.factor.numerator), primes(self.factor.denominator)]
        if split[0] is None or split[1] is None:
            return None
        for sign, found in zip((1, -1), split, strict=True):
            for prime, count in (found or {}).items():
                base: Writing = ("number", Fraction(prime))
                powers[base] = powers.get(base, Fraction(0)) + sign * count * exponent
        return _normal(Fraction(1), powers)


def _normal(factor: Fraction, powers: dict[Writing, Fraction]) -> Monomial:
    """Whole powers of numbers go into the factor, so that roots of the same number are alike."""
    kept: dict[Writing, Fraction] = {}
    for base, exponent in powers.items():
        if base[0] == "number" and isinstance(base[1], Fraction):
            whole = exponent.numerator // exponent.denominator
            factor, exponent = factor * base[1] ** whole, exponent - whole
        if exponent:
            kept[base] = exponent
    return Monomial(factor, tuple(sorted(kept.items(), key=repr)))


def primes(number: int) -> dict[int, int] | None:
    """The prime factors of a positive number with their multiplicity; None if it is too large."""
    if number > _LARGEST_FACTORED:
        return None
    found: dict[int, int] = {}
    divisor = 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found[divisor] = found.get(divisor, 0) + 1
            number //= divisor
        divisor += 1
    if number > 1:
        found[number] = 1
    return found


def monomials(node: Node) -> list[Monomial]:
    """A formula multiplied out, like terms not yet collected; what is no product or sum stays whole."""
    if node.kind == "add":
        return [m for part in node.parts for m in monomials(part)]
    if node.kind == "negative":
        return [Monomial(-m.factor, m.powers) for m in monomials(node.parts[0])]
    if node.kind == "number":
        return [Monomial(Fraction(node.label))]
    if node.kind in ("degrees", "text"):
        return monomials(node.parts[0]) if node.parts else [Monomial(Fraction(1))]
    if node.kind == "mixed":
        return [Monomial(sum((m.factor for part in node.parts for m in monomials(part)), Fraction(0)))]
    return _multiplied(node) or [Monomial(Fraction(1), ((writing(node), Fraction(1)),))]


def _multiplied(node: Node) -> list[Monomial] | None:
    """Monomials of a product, quotient, power or root; None if it stays whole."""
    if node.kind == "times":
        left, right = (monomials(part) for part in node.parts)
        if len(left) * len(right) > _MOST_TERMS:
            return None
        return [a.times(b) for a in left for b in right]
    if node.kind == "over":
        above, below = monomials(node.parts[0]), monomials(node.parts[1])
        inverse = below[0].to_the(Fraction(-1)) if len(below) == 1 else None
        if inverse is None:
            inverse = Monomial(Fraction(1), ((writing(node.parts[1]), Fraction(-1)),))
        return [m.times(inverse) for m in above]
    if node.kind in ("power", "root"):
        exponent = rational(node.parts[1])
        if exponent is not None and node.kind == "root":
            exponent = 1 / exponent if exponent else None
        inside = monomials(node.parts[0])
        if exponent is None:
            return None
        if len(inside) > 1:
            return [Monomial(Fraction(1), ((writing(node.parts[0]), exponent),))]
        power = inside[0].to_the(exponent)
        return None if power is None else [power]
    return None


def rational(node: Node) -> Fraction | None:
    """The value of a formula of numbers alone, roots that come out included; None for any other."""
    found = monomials(node)
    return sum((m.factor for m in found), Fraction(0)) if not any(m.powers for m in found) else None
