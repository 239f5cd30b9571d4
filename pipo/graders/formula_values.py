r"""Evaluate a formula at a point: exact for integers and fractions, else with the digits that are set.

Imports nothing of the project: the grading workers run it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import reduce
from math import ceil, comb, factorial, floor, gcd, isqrt, lcm
from typing import Any

import mpmath
from formula_trees import Tree
from mpmath import mp

# What takes more than so many bits is not computed: towers of powers would fill the machine.
_MAX_BITS = 1_000_000
_MAX_COUNT = 20_000
IMAGINARY = "i"
_ROUNDED = {"floor": mpmath.floor, "ceiling": mpmath.ceil}
_TRIGONOMETRIC = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tan": mpmath.tan,
    "cot": mpmath.cot,
    "sec": mpmath.sec,
    "csc": mpmath.csc,
    "arcsin": mpmath.asin,
    "arccos": mpmath.acos,
    "arctan": mpmath.atan,
    "arccot": mpmath.acot,
    "arcsec": mpmath.asec,
    "arccsc": mpmath.acsc,
    "sinh": mpmath.sinh,
    "cosh": mpmath.cosh,
    "tanh": mpmath.tanh,
    "coth": mpmath.coth,
    "arcsinh": mpmath.asinh,
    "arccosh": mpmath.acosh,
    "arctanh": mpmath.atanh,
    "arsinh": mpmath.asinh,
    "arcosh": mpmath.acosh,
    "artanh": mpmath.atanh,
    "exp": mpmath.exp,
    "ln": mpmath.log,
    "lg": mpmath.log10,
}

Value = Any  # Fraction, mpf or mpc


class UndefinedError(ArithmeticError):
    """A formula has no value at a point, or one that is not real where it must be."""


class TooLargeError(ArithmeticError):
    """A value takes more memory than any answer is worth."""


class Point:
    """Where formulas are evaluated.

    Args:
        name: seed of the values that variables get.
        kind: ``small`` (0 to 1), ``medium``, ``large``, ``negative``, ``mixed`` (either sign)
            or ``integer``.
        imaginary: whether ``i`` is the imaginary unit, and values may be complex.
        given: variables whose values are given.
    """

    def __init__(
        self, name: str, kind: str, *, imaginary: bool, given: Mapping[str, Value] | None = None
    ) -> None:
        self.name, self._kind, self.imaginary, self._given = name, kind, imaginary, given or {}

    def value(self, variable: str) -> Value:
        """What a variable stands for."""
        if variable in self._given:
            return self._given[variable]
        if variable == IMAGINARY and self.imaginary:
            return mpmath.mpc(0, 1)
        draw = random.Random(f"{self.name} {variable}")
        if self._kind == "integer":
            return Fraction(draw.randint(2, 40))
        kind = draw.choice(("medium", "negative")) if self._kind == "mixed" else self._kind
        low, high = {"small": (0, 1), "medium": (1, 4), "large": (10, 60), "negative": (-4, 0)}[kind]
        return low + (high - low) * Fraction(draw.randint(1, 9999), 10007)


def evaluate(tree: Tree, point: Point, angle: bool = False) -> Value:
    """The value of a tree with the digits that are set; degrees count as such in a trigonometric function.

    Raises:
        UndefinedError: it has none.
        TooLargeError: it would fill the machine.
    """
    kind: str = tree[0]
    if kind == "number":
        return tree[1]
    if kind == "name":
        return point.value(tree[1])
    if kind == "constant":
        return {"pi": mp.pi, "e": mp.e, "infty": mp.inf}[tree[1]] + mpmath.mpf(0)
    if kind == "degrees":
        value = evaluate(tree[1], point, angle)
        return product(value, mp.pi / 180) if angle else value
    if kind == "add":
        return reduce(total, (evaluate(part, point, angle) for part in tree[1]))
    if kind == "multiply":
        return reduce(product, (evaluate(part, point, angle) for part in tree[1]))
    if kind == "power":
        return power(evaluate(tree[1], point, angle), evaluate(tree[2], point, angle), point.imaginary)
    if kind == "named":
        values = [evaluate(part, point) for part in tree[2]]
        key = [str(v) if isinstance(v, Fraction) else mpmath.nstr(v, 20) for v in values]
        return Fraction(random.Random(f"{point.name} {tree[1]}({key})").randint(1, 9999), 1009)
    if kind == "call":
        inside = angle or tree[1] in _TRIGONOMETRIC
        return _call(tree[1], [evaluate(part, point, inside) for part in tree[2]], point.imaginary)
    raise UndefinedError(f"no value for a {kind}")


def as_mp(value: Value) -> Value:
    """A value as a number with the digits that are set."""
    return mpmath.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def total(a: Value, b: Value) -> Value:
    """The sum of two values."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a + b
    return _finite(as_mp(a) + as_mp(b))


def product(a: Value, b: Value) -> Value:
    """The product of two values; zero times anything is zero."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a * b
    return Fraction(0) if a == 0 or b == 0 else _finite(as_mp(a) * as_mp(b))


def _finite(value: Value) -> Value:
    if mpmath.isnan(value):
        raise UndefinedError("not a number")
    return value


def power(base: Value, exponent: Value, imaginary: bool) -> Value:
    """A power of a value; an odd root of a negative number is real unless values may be ``imaginary``."""
    if base == 0:
        if exponent == 0 or mpmath.re(as_mp(exponent)) < 0:
            raise UndefinedError("a division by zero")
        return Fraction(0)
    if isinstance(exponent, Fraction) and isinstance(base, Fraction):
        if exponent.denominator == 1:
            if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length()) > _MAX_BITS:
                if abs(base) == 1:
                    return base ** int(exponent % 2)
                raise TooLargeError("a power with too many digits")
            return base**exponent
        if exponent.denominator == 2 and base > 0 and abs(exponent) < 100:
            above, below = isqrt(base.numerator), isqrt(base.denominator)
            if above**2 == base.numerator and below**2 == base.denominator:
                return Fraction(above, below) ** exponent.numerator
    if not imaginary and not isinstance(base, mpmath.mpc) and base < 0:
        if not isinstance(exponent, Fraction) or exponent.denominator % 2 == 0 or exponent.denominator > 99:
            raise UndefinedError("a root of a negative number")
        root = power(-base, exponent, imaginary)
        return -root if exponent.numerator % 2 else root
    if isinstance(exponent, Fraction) and exponent.denominator == 2 and abs(exponent) < 100:
        return mpmath.sqrt(as_mp(base)) ** exponent.numerator
    base, exponent = as_mp(base), as_mp(exponent)
    if mpmath.isfinite(base) and mpmath.isfinite(exponent) and abs(exponent) * abs(mpmath.log(base)) > 1e8:
        raise TooLargeError("a power with too many digits")
    return _finite(mpmath.power(base, exponent))


def _call(function: str, values: list[Value], imaginary: bool) -> Value:
    if function in ("floor", "ceiling", "factorial", "binomial", "gcd", "lcm", "max", "min", "abs"):
        return _counting(function, values)
    if function == "log" or len(values) == 2:
        logarithm = _call("ln", values[:1], imaginary)
        base = _call("ln", [values[1] if len(values) == 2 else Fraction(10)], imaginary)
        return product(logarithm, power(base, Fraction(-1), imaginary))
    value = as_mp(values[0])
    if abs(value) > mpmath.mpf(10) ** 8 and mpmath.isfinite(value):
        if function in ("exp", "sinh", "cosh"):
            raise TooLargeError("an exponential with too many digits")
        if mpmath.mag(value) > 4000:
            raise TooLargeError("an argument with too many digits")
    try:
        result = _FUNCTIONS[function](value)
    except (ValueError, ZeroDivisionError) as error:
        raise UndefinedError(str(error)) from error
    if isinstance(result, mpmath.mpc) and not imaginary:
        raise UndefinedError("not real")
    return _finite(result)


def _counting(function: str, values: list[Value]) -> Value:
    """Functions whose values at whole numbers are whole."""
    if any(isinstance(v, mpmath.mpc) for v in values):
        if function == "abs":
            return abs(values[0])
        raise UndefinedError("not real")
    if function == "abs":
        return abs(values[0])
    if function in ("max", "min"):
        return {"max": max, "min": min}[function](values)
    if function in ("floor", "ceiling"):
        value = values[0]
        if not isinstance(value, Fraction) and not mpmath.isfinite(value):
            raise UndefinedError("not finite")
        rounded = {"floor": floor, "ceiling": ceil} if isinstance(value, Fraction) else _ROUNDED
        return Fraction(int(rounded[function](value)))
    whole = all(isinstance(v, Fraction) and v.denominator == 1 for v in values)
    if function in ("gcd", "lcm"):
        if not whole:
            raise UndefinedError("not whole")
        return Fraction((gcd if function == "gcd" else lcm)(*map(int, values)))
    if any(abs(v) > _MAX_COUNT for v in values):
        raise TooLargeError("a factorial with too many digits")
    if whole and all(v >= 0 for v in values):
        return Fraction((factorial if function == "factorial" else comb)(*map(int, values)))
    return _finite((mpmath.factorial if function == "factorial" else mpmath.binomial)(*map(as_mp, values)))
