r"""Evaluate sums, products, integrals and limits by sympy, as math-verify parses them.

Imports nothing of the project: the grading workers run it. sympy is loaded with the first such formula.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from formula_trees import MINUS_ONE, Tree, UnreadableError

_OPERATION = re.compile(
    r"\\(?:sum|prod|i?int|oint|lim|det|choose|bmod|mod)(?![A-Za-z])|\\frac\s*\{\s*(?:d|\\partial)\s*\}|\{vmatrix\}"
)
_SAME = "sin cos tan cot sec csc sinh cosh tanh coth exp floor ceiling factorial binomial"
_CALLS = {
    "Abs": "abs",
    "log": "ln",
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "asinh": "arsinh",
    "acosh": "arcosh",
    "atanh": "artanh",
    **{
        name: name
        for name in [
            "sin",
            "cos",
            "tan",
            "cot",
            "sec",
            "csc",
            "sinh",
            "cosh",
            "tanh",
            "coth",
            "exp",
            "floor",
            "ceiling",
        ]
    },
    **{name: name for name in _SAME.split()},
}


def is_computed(text: str) -> bool:
    """Whether a formula holds an operation that ``formulas`` leaves to sympy."""
    return _OPERATION.search(text) is not None


def computed(text: str) -> Tree:
    """The tree of what a formula comes to.

    Raises:
        UnreadableError: it cannot be read, or not be worked out.
    """
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy

    try:
        found: Any = latex2sympy(
            text,
            is_real=None,
            normalization_config=NormalizationConfig(malformed_operators=True, nits=True, boxed="none"),
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
        return _tree(found.doit())
    except Exception as error:  # the grammar raises Exception itself, sympy whatever it likes
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def _tree(found: Any) -> Tree:
    kind = type(found).__name__
    if getattr(found, "is_Rational", False):
        return ("number", Fraction(int(found.p), int(found.q)))
    if getattr(found, "is_Float", False):
        return ("number", Fraction(str(found)))
    if getattr(found, "is_Symbol", False):
        return ("constant", "e") if found.name == "e" else ("name", found.name)
    constants = {"Pi": "pi", "Exp1": "e", "Infinity": "infty"}
    if kind in constants:
        return ("constant", constants[kind])
    if kind == "NegativeInfinity":
        return ("multiply", (MINUS_ONE, ("constant", "infty")))
    if kind == "ImaginaryUnit":
        return ("name", "i")
    parts = tuple(map(_tree, getattr(found, "args", ())))
    if kind in ("Add", "Mul"):
        return ("add" if kind == "Add" else "multiply", parts)
    if kind == "Pow":
        return ("power", *parts)
    if kind in _CALLS:
        return ("call", _CALLS[kind], parts)
    raise UnreadableError(f"sympy leaves a {kind}")
