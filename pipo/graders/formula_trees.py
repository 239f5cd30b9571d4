"""Syntax trees of formulas for evaluation, with the names and numbers in them.

Imports nothing of the project: the grading workers run it. A tree is a tuple that begins with its kind:
``("number", Fraction)``, ``("name", text)``, ``("constant", text)``, ``("degrees", tree)``,
``("call", function, trees)``, ``("named", function, trees)`` for a function that the problem defines,
``("matrix", rows)``, ``("add" | "multiply", trees)`` and ``("power", base, exponent)``.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

Tree = tuple[Any, ...]

ONE: Tree = ("number", Fraction(1))
MINUS_ONE: Tree = ("number", Fraction(-1))


class UnreadableError(ValueError):
    """A text is no formula that this module knows."""


def names(tree: Tree) -> frozenset[str]:
    """The variables of a tree and, with ``()``, the functions that the problem defines."""
    if tree[0] == "name":
        return frozenset([tree[1]])
    found = frozenset([tree[1] + "()"]) if tree[0] == "named" else frozenset[str]()
    return found.union(*(names(part) for part in _parts(tree)))


def numbers(tree: Tree) -> bool:
    """Whether a number or a constant stands in a tree, other than as an argument or the sign of a term."""
    if tree[0] in ("number", "constant"):
        return tree != MINUS_ONE
    return tree[0] != "named" and any(map(numbers, _parts(tree)))


def _parts(tree: Tree) -> tuple[Tree, ...]:
    kind = tree[0]
    if kind in ("add", "multiply"):
        return tree[1]
    if kind in ("call", "named"):
        return tree[2]
    if kind == "power":
        return tree[1:]
    if kind == "matrix":
        return tuple(entry for row in tree[1] for entry in row)
    return (tree[1],) if kind == "degrees" else ()
