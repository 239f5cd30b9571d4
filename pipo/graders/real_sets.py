r"""Parse and compare sets of real numbers: intervals, unions, inequalities solved for a variable.

Imports nothing of the project: the grading workers run it. A set is what its members are: two are the
same if they agree on all of their ends and on a point between each two of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import mpmath
from answer_lists import chain, listing, peeled, split_at
from formula_trees import UnreadableError, names
from formula_values import Point, TooLargeError, UndefinedError, as_mp, evaluate
from formulas import read

_DIGITS = 60
_OPERATION = re.compile(r"\\(?:cup|cap|setminus|smallsetminus|backslash)(?![A-Za-z])|(?<=[})R])\s*-\s*(?=⟨)")
_REALS = re.compile(r"\\(?:mathbb|mathbf|Bbb)\s*(?:\{\s*R\s*\}|R)")
_POSITIVE = re.compile(_REALS.pattern + r"\s*[_^]\s*\{?\s*(?P<sign>[+-]|>\s*0|<\s*0)\s*\}?")
_EMPTY = re.compile(r"\\(?:emptyset|varnothing)|\\\{\s*\\\}")
_BUILDER = re.compile(
    r"(?:\\\{\s*)?(?P<name>[A-Za-z])\s*(?:\\in\s*(?P<within>[^:|]+?))?\s*(?::|\||\\mid|\\colon)\s*(?P<rest>[^|]+?)(?:\\\})?"
)
_INEQUALITY = re.compile(
    r"[<>]|\\(?:leqslant|geqslant|leqq|geqq|leq?|geq?|lt|gt|neq?)(?![A-Za-z])|"
    r"\\(?:cup|cap|setminus|smallsetminus|backslash|emptyset|varnothing)(?![A-Za-z])"
)
_BELOW: dict[str, Callable[[int], bool]] = {
    "<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    ">": lambda order: order > 0,
    ">=": lambda order: order >= 0,
    "=": lambda order: order == 0,
    "!=": lambda order: order != 0,
}


@dataclass(frozen=True)
class RealSet:
    """A set of real numbers."""

    has: Callable[[Any], bool]
    """Number -> whether it is a member of the set."""
    ends: tuple[Any, ...]
    """End points, where membership can change, infinities aside."""
    name: str | None = None
    """Variable that stands for a member; None without one."""


def looks_like_set(text: str) -> bool:
    """Whether a tidied answer can only be a set: an inequality, a union, a half-open or closed interval."""
    if _INEQUALITY.search(text) or _REALS.match(text) or _BUILDER.fullmatch(text):
        return True
    found = listing(text)
    return len(found.elements) == 2 and (
        found.brackets in ("[]", "(]", "[)") or (found.brackets == "()" and "\\infty" in text)
    )


def real_set(text: str) -> RealSet | None:
    """The set that a tidied answer describes; None for anything else."""
    with mpmath.workdps(_DIGITS):
        try:
            return _read(peeled(text))
        except (UnreadableError, UndefinedError, TooLargeError):
            return None


def same_set(a: RealSet, b: RealSet) -> bool:
    """Whether two sets have the same members and, if both name one, by the same name."""
    if a.name != b.name and a.name is not None and b.name is not None:
        return False
    with mpmath.workdps(_DIGITS):
        ends = sorted({*a.ends, *b.ends})
        between = [(x + y) / 2 for x, y in pairwise(ends)]
        outside = [ends[0] - 1, ends[-1] + 1] if ends else [mpmath.mpf(0)]
        return all(a.has(x) == b.has(x) for x in [*ends, *between, *outside])


def _read(text: str) -> RealSet:
    if (match := _POSITIVE.fullmatch(text)) is not None:
        return _compared(">" if match["sign"][0] in "+>" else "<", mpmath.mpf(0))
    if _REALS.fullmatch(text):
        return RealSet(lambda _: True, ())
    if _EMPTY.fullmatch(text):
        return RealSet(lambda _: False, ())
    if (match := _BUILDER.fullmatch(text)) is not None:
        condition = _read(match["rest"])
        if condition.name not in (None, match["name"]):
            raise UnreadableError("a condition on another variable")
        return _joined(_read(match["within"]), condition, "\\cap") if match["within"] else condition
    parts, signs = split_at(text, _OPERATION)
    if signs:
        found = _read(peeled(parts[0]))
        for sign, part in zip(signs, parts[1:], strict=True):
            found = _joined(found, _read(peeled(part)), sign.strip())
        return found
    shape = listing(text)
    if shape.brackets == "{}":
        return _points(shape.elements)
    if len(shape.elements) == 2 and shape.brackets:
        return _interval(shape.brackets, *map(_number, shape.elements))
    if shape.brackets == "()":
        return _read(shape.elements[0]) if len(shape.elements) == 1 else _fail("a point")
    if len(shape.elements) > 1:
        return _alternatives([_read(element) for element in shape.elements])
    return _inequality(text)


def _fail(what: str) -> RealSet:
    raise UnreadableError(what)


def _points(elements: tuple[str, ...]) -> RealSet:
    points = tuple(map(_number, elements))
    return RealSet(lambda x: any(_order(x, point) == 0 for point in points), points)


def _interval(brackets: str, low: Any, high: Any) -> RealSet:
    if not low < high:
        raise UnreadableError("a point, no interval")
    from_low, to_high = (
        _BELOW[">" if brackets[0] == "(" else ">="],
        _BELOW["<" if brackets[1] == ")" else "<="],
    )
    ends = tuple(end for end in (low, high) if mpmath.isfinite(end))
    return RealSet(lambda x: from_low(_order(x, low)) and to_high(_order(x, high)), ends)


def _compared(sign: str, end: Any, name: str | None = None) -> RealSet:
    decide = _BELOW[sign]
    return RealSet(lambda x: decide(_order(x, end)), (end,) if mpmath.isfinite(end) else (), name)


def _joined(a: RealSet, b: RealSet, operation: str) -> RealSet:
    if a.name and b.name and a.name != b.name:
        raise UnreadableError("conditions on two variables")
    if operation == "\\cup":
        has: Callable[[Any], bool] = lambda x: a.has(x) or b.has(x)  # noqa: E731
    elif operation == "\\cap":
        has = lambda x: a.has(x) and b.has(x)  # noqa: E731
    else:
        has = lambda x: a.has(x) and not b.has(x)  # noqa: E731
    return RealSet(has, a.ends + b.ends, a.name or b.name)


def _alternatives(sets: list[RealSet]) -> RealSet:
    """``x<0, x>1`` is one or the other; ``x>0, x<1`` can only mean both, since one always holds."""
    one, both = sets[0], sets[0]
    for other in sets[1:]:
        one, both = _joined(one, other, "\\cup"), _joined(both, other, "\\cap")
    everything = RealSet(lambda _: True, ())
    return both if same_set(one, everything) else one


def _inequality(text: str) -> RealSet:
    sides = chain(text)
    if sides.signs == ("in",) and re.fullmatch("[A-Za-z]", sides.sides[0]):
        found = _read(sides.sides[1])
        return RealSet(found.has, found.ends, sides.sides[0])
    at = [
        i
        for i, side in enumerate(sides.sides)
        if re.fullmatch(r"[A-Za-z]|\\[a-z]+", side) and _is_variable(side)
    ]
    if len(at) != 1 or not sides.signs or not set(sides.signs) <= set(_BELOW):
        raise UnreadableError("no inequality in one variable")
    mirrored = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
    found: RealSet | None = None
    for i, side in enumerate(sides.sides):
        if i == at[0]:
            continue
        if abs(i - at[0]) != 1:
            raise UnreadableError("more than two bounds")
        sign = sides.signs[at[0]] if i > at[0] else mirrored.get(sides.signs[i], sides.signs[i])
        bound = _compared(sign, _number(side), sides.sides[at[0]])
        found = bound if found is None else _joined(found, bound, "\\cap")
    return found or _fail("no bound")


def _is_variable(text: str) -> bool:
    return read(text)[0] == "name"


def _number(text: str) -> Any:
    tree = read(text)
    if names(tree):
        raise UnreadableError("an end that is no number")
    value = evaluate(tree, Point("", "medium", imaginary=False))
    return as_mp(value)


def _order(a: Any, b: Any) -> int:
    """-1, 0 or 1 as a number is smaller, the same to 50 digits, or larger."""
    if a == b or (mpmath.isfinite(a - b) and abs(a - b) <= mpmath.mpf(10) ** -50 * max(abs(a), abs(b))):
        return 0
    return -1 if a < b else 1
