r"""Find operations that a formula leaves undone: like terms, products of numbers, functions, sum signs.

Judged by the writing alone. Whether an operation should have been done depends on the reference, see
``final_form``: what it leaves undone too is left undone by right.
"""

from __future__ import annotations

from fractions import Fraction

from pipo.graders.latex_terms import Monomial, factors, is_text, monomials, primes, rational, writing
from pipo.graders.latex_tree import Node

IMAGINARY = "i"
_CONSTANTS = {"e", IMAGINARY, "\\pi", "\\infty"}


def undone(node: Node) -> set[str]:
    """The kinds of operation left undone anywhere in a formula."""
    found: set[str] = set()
    _visit(node, found, in_product=False)
    return found - {""}


def _visit(node: Node, found: set[str], *, in_product: bool) -> None:
    chained = node.kind in ("times", "over", "negative")
    if node.kind == "negative" and node.parts[0].kind == "negative":
        found.add("double minus")
    if node.kind == "call" and not (node.label == "conjugate" and node.parts[0].kind == "number"):
        found.add(node.label)
    elif node.kind == "set" and not _is_written_out(node):
        found.add("set operation")
    elif node.kind == "add" and _has_like_terms(node):
        found.add("sum of like terms")
    elif node.kind == "power":
        found |= _of_power(node)
    elif node.kind == "root":
        found |= _of_root(node.parts[0], rational(node.parts[1]))
    elif chained and not in_product:
        found |= _of_product(node)
    if node.kind == "over" and any(map(_has_fraction, node.parts)):
        found.add("fraction in a fraction")
    for part in node.parts:
        _visit(part, found, in_product=chained)


def _is_written_out(node: Node) -> bool:
    r"""Whether it is a union, or a set of numbers without some of them: ``\mathbb{R} \setminus \{0\}``."""
    if node.kind != "set" or node.label == "union":
        return node.kind == "set"
    points = [part.kind == "list" and part.label == "{}" for part in node.parts]
    return node.label == "difference" and points == [False, True]


def _has_like_terms(node: Node) -> bool:
    powers = [m.powers for m in monomials(node)]
    return len(set(powers)) < len(powers)


def _of_power(node: Node) -> set[str]:
    base, exponent = node.parts
    value = rational(exponent)
    found: set[str] = set()
    if base.kind in ("power", "root") and not is_text(base):
        found.add("power of a power")
    if value in (0, 1) or rational(base) == 1:
        found.add("trivial power")
    if base == Node("name", IMAGINARY) and value is not None and value > 1:
        found.add("power of i")
    if base.kind in ("matrix", "list"):
        found.add("matrix product")
    if base.kind == "add" and value is not None and value.denominator == 1 and value > 1:
        found |= {"product"} if is_constant(base) else {"expansion", "product of sums"}
    if value is not None and value.denominator > 1:
        found |= _of_root(base, Fraction(value.denominator))
    return found


def _of_root(inside: Node, index: Fraction | None) -> set[str]:
    """Whether a root can be drawn, in whole or of a factor, or of numbers above and below a fraction bar."""
    if index is None or index.denominator != 1 or index < 2:
        return set()
    inner = monomials(inside)
    if inside.kind == "root":
        return {"root"}
    if len(inner) > 1:
        nested = is_constant(inside) and any(part.kind == "root" for part in _all(inside))
        return {"root of a root"} if nested else set()
    number = inner[0].factor
    if number == 0 or any(abs(exponent) >= index for _, exponent in inner[0].powers):
        return {"root"}
    for part in (abs(number.numerator), number.denominator):
        split = primes(part)
        if split and any(count >= index for count in split.values()):
            return {"root"}
    return {"root"} if number == 1 and not inner[0].powers else set()


def _of_product(node: Node) -> set[str]:
    chain = factors(node)
    found: set[str] = set()
    for side in (chain.above, chain.below):
        numbers = [f for f in side if is_numeral(f)]
        roots = [f.parts[1] for f in side if f.kind == "root" and rational(f) is None and is_constant(f)]
        sums = [f for f in side if f.kind == "add" and is_constant(f)]
        bases = [writing(f.parts[0] if f.kind == "power" else f) for f in side if not is_numeral(f)]
        if len([f for f in numbers if rational(f) != 1]) > 1 and not is_scientific(numbers):
            found.add("product")
        if len(set(roots)) < len(roots) or len(sums) > 1 or len(set(bases)) < len(bases):
            found.add("product")
        if sums and any(_radicals(sums[0]) & _radicals(f) for f in side if f.kind == "root"):
            found.add("product")
        open_sums = [f for f in side if f.kind == "add" and not is_constant(f)]
        if open_sums and len(side) > 1:
            found.add("expansion")
        if len(open_sums) > 1 and not chain.below:
            found.add("product of sums")
        if len([f for f in side if f.kind in ("matrix", "list")]) > 1:
            found.add("matrix product")
    return found | _of_quotient(chain.above, chain.below)


def _of_quotient(above: list[Node], below: list[Node]) -> set[str]:
    if not below:
        return set()
    found: set[str] = set()
    bases = [
        {writing(f.parts[0] if f.kind == "power" else f) for f in s if not is_numeral(f)}
        for s in (above, below)
    ]
    if bases[0] & bases[1]:
        found.add("quotient")
    if any(part == Node("name", IMAGINARY) for f in below for part in _all(f)):
        found.add("quotient by a complex number")
    if any(part.kind == "root" for f in below for part in _all(f)):
        found.add("root below a fraction bar")
    divisor = _whole(below)
    if divisor > 1 and above:
        multiplied = (
            [m for f in above for m in monomials(f)] if len(above) == 1 else monomials(_product(above))
        )
        if _shares_factor(multiplied, divisor):
            found.add("reduction")
    return found


def _radicals(node: Node) -> set[object]:
    """The primes under the roots of a formula."""
    return {base for m in monomials(node) for base, _ in m.powers if base[0] == "number"}


def _has_fraction(node: Node) -> bool:
    """Whether a sum or product holds a fraction, exponents and arguments aside."""
    return node.kind == "over" or (
        node.kind in ("add", "times", "negative", "mixed") and any(map(_has_fraction, node.parts))
    )


def _product(parts: list[Node]) -> Node:
    node = parts[0]
    for part in parts[1:]:
        node = Node("times", "", (node, part))
    return node


def _whole(below: list[Node]) -> int:
    """The whole number among the factors below a fraction bar."""
    number = 1
    for factor in below:
        value = rational(factor) if is_numeral(factor) else None
        if value is not None and value.denominator == 1:
            number *= int(value)
    return abs(number)


def _shares_factor(multiplied: list[Monomial], divisor: int) -> bool:
    numbers = [m.factor for m in multiplied]
    return all(n.denominator == 1 for n in numbers) and any(
        all(int(n) % prime == 0 for n in numbers) for prime in primes(divisor) or {}
    )


def _all(node: Node) -> list[Node]:
    return [node, *(inner for part in node.parts for inner in _all(part))]


def is_constant(node: Node) -> bool:
    """Whether it holds no variable."""
    return all(part.label in _CONSTANTS for part in _all(node) if part.kind == "name")


def is_numeral(node: Node) -> bool:
    """Whether it is a number as written, or a power of one by one."""
    if node.kind in ("degrees", "percent", "negative"):
        return is_numeral(node.parts[0])
    if node.kind == "power":
        base, exponent = node.parts
        return rational(base) is not None and is_numeral(base) and _is_whole(exponent)
    return node.kind in ("number", "mixed")


def _is_whole(exponent: Node) -> bool:
    exponent = exponent.parts[0] if exponent.kind == "negative" else exponent
    return exponent.kind == "number" and exponent.label.isdigit()


def is_scientific(numbers: list[Node]) -> bool:
    r"""Whether the factors are those of ``8 \times 10^3``."""
    if len(numbers) != 2:
        return False
    first, second = numbers
    ten = second.kind == "power" and second.parts[0] == Node("number", "10")
    return first.kind == "number" and ten


def is_literal(node: Node) -> bool:
    r"""Whether it is a plain value: a number, a fraction of two, a name, a number of names, a list of such.

    ``2^{10}`` is one and ``\frac{6}{8}`` too: other writings of a number, and no working.
    """
    if node.kind == "negative" and node.parts[0].kind == "negative":
        return False
    if node.kind in ("degrees", "percent", "negative", "double", "relation", "index"):
        return node.label != "before" and all(map(is_literal, node.parts))
    if node.kind in ("list", "matrix") or _is_written_out(node):
        return all(map(is_literal, node.parts))
    if node.kind in ("number", "mixed", "name", "text"):
        return True
    if node.kind == "power":
        base, exponent = node.parts
        simple = base.kind in ("name", "text") or (base.kind == "over" and is_literal(base))
        return is_numeral(node) or (simple and is_numeral(exponent))
    return node.kind in ("times", "over") and _is_simple_product(node)


def has_power(node: Node) -> bool:
    r"""Whether a number is raised to a power, other than in ``8 \times 10^3``."""
    above, below = _raw_factors(node)
    if is_scientific(above) and not below:
        return False
    return any(part.kind == "power" and is_constant(part) for part in _all(node))


def _is_simple_product(node: Node) -> bool:
    above, below = _raw_factors(node)
    if _is_repeating(above) or _is_compound(above):
        return True
    sides = [[f for f in side if not _is_unit(f)] for side in (above, below)]
    if sides[0] and sides[0][-1].kind in ("matrix", "list"):  # a fraction before it may stand there
        return (
            is_literal(sides[0][-1])
            and len(sides[0]) < 3
            and len(sides[1]) == 1
            and all(is_numeral(f) for f in sides[0][:-1] + sides[1])
        )
    if not all(is_numeral(f) for side in sides for f in side):
        return False
    if is_scientific(sides[0]):
        return not sides[1]
    decimals = any("." in f.label for side in sides for f in side)
    return len(sides[0]) < 2 and len(sides[1]) < 2 and not (sides[1] and decimals)


def _is_compound(above: list[Node]) -> bool:
    r"""Whether every number has a unit of its own, as in ``6 \text{ ft } 2 \text{ in}``."""
    numbers, units = above[::2], above[1::2]
    return len(numbers) == len(units) and all(map(is_numeral, numbers)) and all(map(is_text, units))


def _is_repeating(above: list[Node]) -> bool:
    r"""Whether it is a number with repeating decimals, ``0.1\overline{6}``."""
    return above[-1].label == "conjugate" and above[-1].parts[0].kind == "number" and len(above) < 4


def _is_unit(node: Node) -> bool:
    return node.kind in ("name", "text") or (node.kind in ("power", "index") and _is_unit(node.parts[0]))


def _raw_factors(node: Node) -> tuple[list[Node], list[Node]]:
    """Factors above and below as written, ones included."""
    if node.kind == "negative":
        return _raw_factors(node.parts[0])
    if node.kind in ("times", "over"):
        (a, b), (c, d) = (_raw_factors(part) for part in node.parts)
        return (a + c, b + d) if node.kind == "times" else (a + d, b + c)
    return [node], []
