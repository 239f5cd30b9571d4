r"""Equivalence of two answers: lists by elements, equations by sides, formulas by values.

Imports nothing of the project: the grading workers run it. ``docs/tasks/mathematics.md`` says what counts as
equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import mpmath
from answer_lists import Chain, Listing, chain, compact, fits, listing, peeled
from computed_formulas import computed, is_computed
from formula_equality import proportion, same_value, same_zeros
from formula_trees import MINUS_ONE, Tree, UnreadableError, names, numbers
from formula_values import Point, TooLargeError, UndefinedError, as_mp, evaluate
from formulas import read
from real_sets import looks_like_set, real_set, same_set

_TEXT = re.compile(r"\\(?:text|textrm|textbf|textit|textnormal|mbox|mathrm|mathbf)\s*\{([^{}]*)\}")
_CALL = re.compile(r"(?:[A-Za-z]|\\[A-Za-z]+)[_^'{}A-Za-z\d-]*\s*\(.*\)")  # P(X=2), f^{-1}(3)
_POINT = re.compile(r"[A-Z]'*\s*(?=\()")
_COLUMN = re.compile(r"\\begin\s*\{[pb]matrix\}((?:(?!\\begin).)*)\\end\s*\{[pb]matrix\}", re.DOTALL)
_VALUES = re.compile(r"[A-Za-z]\s*\(\s*[a-z]\s*\)")  # f(x) is y, and a(n) is a_n
_SAME_AS_VALUES = re.compile(r"y|[A-Za-z]\s*_\s*\{?\s*[a-z]\s*\}?")
_DECIMAL = re.compile(r"-?\d*\.?(?P<decimals>\d*)")
_TIME = re.compile(r"\d{1,2}:\d\d")
_ORDERED = ("()", "[]", "(]", "[)")


@lru_cache(maxsize=256)
def formula(text: str) -> Tree:
    """The tree of a formula, with its sums, integrals and limits worked out.

    Raises:
        UnreadableError: it is none.
    """
    return computed(text) if is_computed(text) else read(text)


def readable(text: str) -> bool:
    """Whether an answer has a value, or is words."""
    text = peeled(text)
    if label(text) is not None or (looks_like_set(text) and real_set(text) is not None):
        return True
    first, *others = listing(text).elements
    if others:
        return all(map(readable, [first, *others]))
    sides = chain(text).sides
    if len(sides) > 1:
        return all(map(readable, sides))
    if first != text:
        return readable(first)
    try:
        formula(text)
    except UnreadableError:
        return False
    return True


def label(text: str) -> str | None:
    r"""The words of ``\text{...}`` that is all of an answer; None for anything else."""
    match = _TEXT.fullmatch(text)
    if match is None or not re.search("[A-Za-z]{2}", match[1]):
        return None
    return " ".join(match[1].lower().split())


def equal(answer: str, reference: str) -> bool:
    """Whether an answer equals a reference.

    Only the reference says which of an equation's sides is asked for: ``2x+3y=5`` is more than ``5``.
    """
    answer, reference = (_without_name(peeled(text)) for text in (answer, reference))
    if compact(answer) == compact(reference):
        return True
    words = label(answer), label(reference)
    if words != (None, None):
        return " ".join(answer.lower().split()) == words[1] or words[0] in (words[1], reference.lower())
    if looks_like_set(answer) or looks_like_set(reference):
        a, b = real_set(answer), real_set(reference)
        if a is not None and b is not None:
            return same_set(a, b)
    if (verdict := _equal_named(answer, reference)) is not None:
        return verdict
    a, b = listing(answer), listing(reference)
    sides, others = chain(answer), chain(reference)
    if (sides.signs and len(a.elements) == 1) or (others.signs and len(b.elements) == 1):
        return _equal_chains(sides, others)
    if len(a.elements) > 1 or len(b.elements) > 1:
        return _equal_lists(_as_point(a), _as_point(b))
    if a.brackets or b.brackets:
        return equal(*a.elements, *b.elements)
    return _equal_formulas(answer, reference)


def _without_name(text: str) -> str:
    """``P(4,9)`` as the point that it names."""
    point = _POINT.sub("", text, count=1) if _POINT.match(text) else text
    return point if len(listing(point).elements) > 1 and listing(point).brackets == "()" else text


def _equal_formulas(answer: str, reference: str) -> bool:
    if _TIME.fullmatch(answer) and _TIME.fullmatch(reference):
        return False  # 4:30 is no ratio
    try:
        return _decided(same_value, formula(answer), formula(reference))
    except UnreadableError:
        return False


def _decided(question: Callable[[Tree, Tree], bool], a: Tree, b: Tree) -> bool:
    try:
        return question(a, b)
    except TooLargeError:
        return a == b


def _equal_lists(a: Listing, b: Listing) -> bool:
    if len(a.elements) != len(b.elements) or not fits(a.brackets, b.brackets):
        return False
    if a.brackets in _ORDERED or b.brackets in _ORDERED:
        return all(map(equal, a.elements, b.elements))
    return _matches(a.elements, b.elements)


def _as_point(found: Listing) -> Listing:
    """A column of a matrix as the point with its entries."""
    column = _COLUMN.fullmatch(found.elements[0]) if len(found.elements) == 1 else None
    if column is None or "&" in column[1]:
        return found
    entries = re.split(r"\\\\", column[1].removesuffix("\\\\"))
    return Listing("()", tuple(entry.strip() for entry in entries))


def _matches(answers: Sequence[str], references: Sequence[str]) -> bool:
    """Whether each answer equals another reference."""
    left = list(references)
    for answer in answers:
        found = next((i for i, reference in enumerate(left) if equal(answer, reference)), None)
        if found is None:
            return False
        del left[found]
    return not left


def _named_values(text: str) -> list[tuple[str, str]] | None:
    """Names and values of ``(a,b)=(4,9)`` or ``a=4, b=9``; None for anything else."""
    found = listing(text)
    if found.brackets not in ("", "{}", "()"):
        return None
    pairs: list[tuple[str, str]] = []
    for element in found.elements:
        sides = chain(element)
        if sides.signs != ("=",):
            return None
        left, right = map(listing, sides.sides)
        if left.brackets == "()" and right.brackets == "()" and len(left.elements) == len(right.elements) > 1:
            alone = len(found.elements) == 1
            pairs += (
                zip(left.elements, right.elements, strict=True)
                if alone
                else [(sides.sides[0], sides.sides[1])]
            )
        elif _is_name(sides.sides[0]):
            pairs.append((sides.sides[0], sides.sides[1]))
        else:
            return None
    return [(compact(name), value) for name, value in pairs] if len(pairs) > 1 else None


def _equal_named(answer: str, reference: str) -> bool | None:
    """The verdict where several values have names on either side; None where none have."""
    a, b = _named_values(answer), _named_values(reference)
    if a is None and b is None:
        return None
    if a is not None and b is not None:
        if _distinct(a) and _distinct(b):
            return len(a) == len(b) and all(name in dict(b) and equal(v, dict(b)[name]) for name, v in a)
        if len({name for name, _ in a + b}) > 1:
            return None  # solutions in several groups: element by element
        return _matches([v for _, v in a], [v for _, v in b])
    named, plain = (a, reference) if a is not None else (b or [], answer)
    values, others = [v for _, v in named], listing(plain)
    if any("=" in element for element in others.elements):
        return None
    if len(values) != len(others.elements):
        return False
    left, right = (values, others.elements) if a is not None else (others.elements, values)
    if _distinct(named):
        return others.brackets in ("", "()") and all(map(equal, left, right))
    return others.brackets in ("", "{}") and _matches(left, right)


def _distinct(named: list[tuple[str, str]]) -> bool:
    return len(dict(named)) == len(named)


def _is_name(text: str) -> bool:
    """Whether a side of an equation only names what the other side is the value of."""
    try:
        tree = read(text)
    except UnreadableError:
        return _TEXT.sub("", text).strip() == "" or _CALL.fullmatch(text) is not None
    return bool(names(tree)) and not numbers(tree)


def _equal_chains(a: Chain, b: Chain) -> bool:
    if not set(a.signs + b.signs) <= {"=", "~"}:
        return _equal_inequalities(a, b)
    if not a.signs:
        value = _value(b)
        return value is not None and _is_name(b.sides[0]) and equal(a.sides[0], value)
    value = _value(a)
    if value is None:
        return False
    if not b.signs:
        if a.signs[-1] == "~" and "." in b.sides[0] and equal(a.sides[-1], b.sides[0]):
            return True
        # x^2-4=0 is not the value 0, but x+y=0 says what x+y is.
        named = not _has_names(a.sides[0]) or compact(value) != "0" or _is_sum_of_names(a.sides[0])
        return named and equal(value, b.sides[0])
    of = _value(b)
    if of is None:
        return False
    if compact(a.sides[0]) == compact(b.sides[0]) and _is_name(a.sides[0]):
        return equal(value, of)
    lefts = a.sides[0], b.sides[0]
    if any(map(_VALUES.fullmatch, lefts)) and any(map(_SAME_AS_VALUES.fullmatch, lefts)):
        return equal(value, of)
    if len(a.sides) == len(b.sides) == 2:
        return _equal_equations(a, b)
    return len(a.sides) == len(b.sides) and all(map(equal, a.sides, b.sides))


def _is_sum_of_names(text: str) -> bool:
    try:
        tree = read(text)
    except UnreadableError:
        return _is_name(text)
    return all(part[0] in ("name", "named") for part in (tree[1] if tree[0] == "add" else [tree]))


def _has_names(text: str) -> bool:
    try:
        return bool(names(formula(text)))
    except UnreadableError:
        return True


def _value(sides: Chain) -> str | None:
    """The last side that is exact; None if sides without variables differ, or are not about the same."""
    exact = sides.sides[: next((i + 1 for i, sign in enumerate(sides.signs) if sign == "~"), None)]
    if len(exact) == 1 and _is_name(exact[0]):
        exact = sides.sides[:2]  # x \approx 1.4
    constants = [side for side in exact if not _has_names(side)]
    if not all(map(_equal_formulas, constants, constants[1:])):
        return None
    if constants and len(exact) < len(sides.sides) and not _rounds(constants[-1], sides.sides[-1]):
        return None
    return exact[-1]


def _rounds(exact: str, rounded: str) -> bool:
    """Whether a number is another one up to a unit of its last digit."""
    written = _DECIMAL.fullmatch(rounded)
    try:
        if written is None or not written[0]:
            return _equal_formulas(exact, rounded)
        value = as_mp(evaluate(formula(exact), Point("", "medium", imaginary=False)))
        return bool(abs(value - mpmath.mpf(rounded)) < mpmath.mpf(10) ** -len(written["decimals"]))
    except (UnreadableError, UndefinedError, TooLargeError, ValueError):
        return False


def _equal_equations(a: Chain, b: Chain) -> bool:
    """Whether two equations are the same up to a constant factor, or say the same of one variable."""
    try:
        trees = [formula(side) for side in a.sides + b.sides]
    except UnreadableError:
        return all(map(equal, a.sides, b.sides))
    difference, other = (_minus(trees[i], trees[i + 1]) for i in (0, 2))
    try:
        if proportion(difference, other) is not None:
            return True
        if same_zeros(difference, other):
            return True
    except TooLargeError:
        return False
    # Identities and equations between numbers say nothing but what their sides are.
    return any(
        _decided(same_value, trees[0], trees[i]) and _decided(same_value, trees[1], trees[j])
        for i, j in ((2, 3), (3, 2))
    )


def _minus(a: Tree, b: Tree) -> Tree:
    return ("add", (a, ("multiply", (MINUS_ONE, b))))


def _equal_inequalities(a: Chain, b: Chain) -> bool:
    """Whether two inequalities have the same sides, or are the same up to a positive factor."""
    a, b = _ascending(a), _ascending(b)
    if a.signs != b.signs:
        return False
    if all(map(equal, a.sides, b.sides)):
        return True
    if len(a.sides) > 2 or a.signs == ("in",):
        return False
    try:
        first, second = (_minus(formula(c.sides[0]), formula(c.sides[1])) for c in (a, b))
        factor = proportion(first, second)
    except (UnreadableError, TooLargeError, UndefinedError):
        return False
    return factor is not None and (a.signs == ("!=",) or factor > 0)


def _ascending(sides: Chain) -> Chain:
    """An inequality with its smaller side first."""
    if not set(sides.signs) <= {">", ">=", "="} or set(sides.signs) == {"="}:
        return sides
    signs = tuple(sign.replace(">", "<") for sign in reversed(sides.signs))
    return Chain(tuple(reversed(sides.sides)), signs)
