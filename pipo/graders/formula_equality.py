r"""Numerical equivalence of two formulas: exact for fractions, else at fixed random points.

Imports nothing of the project: the grading workers run it. Integers and fractions are compared exactly.
Everything else is computed with more and more digits, until a difference has shown itself or 600 digits
agree. Formulas with variables are compared at points drawn once for all, where both are defined among the
real numbers; with an ``i`` among the complex ones. That two different formulas agree at all of these points
is as good as impossible.
"""

from __future__ import annotations

from fractions import Fraction

import mpmath
from formula_trees import Tree, names
from formula_values import IMAGINARY, Point, UndefinedError, Value, as_mp, evaluate, power, product, total

# Two numbers are compared with more and more digits, two formulas at their first point and at further ones.
_DIGITS = (40, 70, 500, 600)
_DIGITS_FIRST, _DIGITS_FURTHER = (40, 70, 150), (40, 70)
_KINDS = ("small", "medium", "large", "integer", "medium", "integer")
_KINDS_BELOW_ZERO = ("mixed", "mixed", "mixed", "negative")


def same_value(a: Tree, b: Tree) -> bool:
    """Whether two trees have the same value: two numbers, or two formulas wherever both have one.

    Raises:
        TooLargeError: that would take too much memory.
    """
    if "matrix" in (a[0], b[0]):
        return _same_matrix(a, b)
    variables = names(a) | names(b)
    imaginary = IMAGINARY in variables
    if not variables - {IMAGINARY}:
        modes = (True,) if imaginary else (False, True)
        found = (_agree(a, b, Point("", "medium", imaginary=mode), _DIGITS) for mode in modes)
        return next((verdict for verdict in found if verdict is not None), False)
    strict = _has_bars(a) != _has_bars(b)
    for mode in (True,) if imaginary else (False, True):
        agreed = 0
        for i, kind in enumerate(_KINDS + (_KINDS_BELOW_ZERO if strict or imaginary else ())):
            point = Point(f"{i}", kind, imaginary=mode)
            verdict = _agree(a, b, point, _DIGITS_FURTHER if agreed else _DIGITS_FIRST, strict=strict)
            if verdict is False:
                return False
            agreed += verdict is True
        if agreed >= 2:
            return strict or imaginary or _agree_below_zero(a, b)
    return False


def _agree_below_zero(a: Tree, b: Tree) -> bool:
    r"""Whether two formulas that agree where all variables are positive agree elsewhere too.

    Where they are not defined for variables of different signs, such as ``\sqrt{m/n}``, these are taken to be
    positive.
    """
    points = [Point(f"{i}", kind, imaginary=False) for i, kind in enumerate(_KINDS_BELOW_ZERO)]
    verdicts = [_agree(a, b, point, _DIGITS_FURTHER) for point in points]
    return None in verdicts or all(verdicts)


def _same_matrix(a: Tree, b: Tree) -> bool:
    if a[0] != b[0] or [len(row) for row in a[1]] != [len(row) for row in b[1]]:
        return False
    entries = zip(sum(a[1], ()), sum(b[1], ()), strict=True)
    return all(same_value(x, y) for x, y in entries)


def _has_bars(tree: Tree) -> bool:
    return "'abs'" in repr(tree)


def _agree(a: Tree, b: Tree, point: Point, digits: tuple[int, ...], strict: bool = False) -> bool | None:
    """Whether two trees agree at a point; None where one is undefined (if ``strict``, where both are)."""
    first: Value = None
    difference: Value = None
    for precision in digits:
        with mpmath.workdps(precision):
            values = [_or_none(tree, point) for tree in (a, b)]
            if None in values:
                return False if strict and values != [None, None] else None
            first, second = values
            if isinstance(first, Fraction) and isinstance(second, Fraction):
                return first == second
            first, second = as_mp(first), as_mp(second)
            if mpmath.isinf(first) or mpmath.isinf(second):
                return bool(first == second)
            before, difference = difference, first - second
            # A difference that stays with more digits is one; rounding errors do not stay.
            if before is not None and difference and abs(difference - before) < abs(difference) / 1000:
                return False
    with mpmath.workdps(digits[-1]):
        return bool(abs(difference) <= mpmath.mpf(10) ** (-digits[-1] // 2) * max(1, abs(first)))


def _or_none(tree: Tree, point: Point) -> Value:
    # None where it is undefined
    try:
        return evaluate(tree, point)
    except UndefinedError:
        return None


def proportion(a: Tree, b: Tree) -> Value | None:
    """The constant that makes ``b`` into ``a`` wherever both are defined; None if there is none.

    Two formulas without variables, or that vanish everywhere, have none.
    """
    variables = names(a) | names(b)
    if not variables - {IMAGINARY}:
        return None
    ratios: list[Value] = []
    values: list[Value] = []
    with mpmath.workdps(60):
        for i, kind in enumerate(_KINDS):
            point = Point(f"{i}", kind, imaginary=IMAGINARY in variables)
            first, second = _or_none(a, point), _or_none(b, point)
            if first is None or second is None:
                continue
            if _vanishes(first) and _vanishes(second):
                continue  # by chance, as x^2+y^2-25 at (3,4)
            if _vanishes(first) or _vanishes(second):
                return None
            values.append(first)
            ratios.append(product(first, power(second, Fraction(-1), True)))
        # 0x-5 and 0x-7 are proportional, but say nothing of x.
        varies = not all(_vanishes(total(v, -values[0]), abs(as_mp(v))) for v in values)
        alike = (
            len(ratios) >= 2
            and varies
            and all(_vanishes(total(r, -ratios[0]), abs(as_mp(ratios[0]))) for r in ratios)
        )
    return ratios[0] if alike else None


def _vanishes(value: Value, scale: Value = 1) -> bool:
    return value == 0 if isinstance(value, Fraction) else bool(abs(value) < scale * mpmath.mpf(10) ** -40)


def same_zeros(a: Tree, b: Tree) -> bool:
    """Whether two formulas of the same variables vanish for the same value of each that both are linear in.

    A variable that both hold as a factor tells nothing, and one at least must tell something.
    """
    if names(a) != names(b):
        return False
    told = False
    for variable in sorted(name for name in names(a) if not name.endswith("()")):
        zeros = [
            (_zero(a, variable, f"{i}", kind), _zero(b, variable, f"{i}", kind))
            for i, kind in enumerate((*_KINDS[:3], "negative"))
        ]
        with mpmath.workdps(60):
            defined = [(x, y) for x, y in zeros if x is not None and y is not None]
            if len(defined) < 2 or all(_vanishes(x) and _vanishes(y) for x, y in defined):
                continue
            if not all(_vanishes(total(x, -y), max(1, abs(as_mp(x)))) for x, y in defined):
                return False
            told = True
    return told


def _zero(tree: Tree, variable: str, name: str, kind: str) -> Value:
    """Where a formula that is linear in a variable vanishes; None if it is not linear in it."""
    places = [Fraction(1, 3), Fraction(5, 7), Fraction(22, 9)]
    with mpmath.workdps(60):
        points = [Point(name, kind, imaginary=False, given={variable: place}) for place in places]
        values = [_or_none(tree, point) for point in points]
        if None in values:
            return None
        slope = product(total(values[1], -values[0]), 1 / (places[1] - places[0]))
        other = product(total(values[2], -values[0]), 1 / (places[2] - places[0]))
        if _vanishes(slope) or not _vanishes(total(slope, -other), abs(as_mp(slope))):
            return None
        return total(places[0], product(-values[0], power(slope, Fraction(-1), False)))
