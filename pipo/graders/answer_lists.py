r"""Split an answer into list elements, enclosing brackets, and the sides of an equation or inequality.

Pure functions on tidied answers (see ``typesetting``). Imports nothing of the project: the grading workers
use it too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_GROUPED = re.compile(r"(?<![0-9])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])")
_TEXT = re.compile(r"\\(?:text|textrm|textbf|mbox|mathrm|mathbf)\s*\{([^{}]*)\}")
_RELATION = re.compile(r"[<>≤≥]|\\(?:le|leq|ge|geq|lt|gt|ne|neq|in|subset)(?![A-Za-z])")
_NAMED = re.compile(
    r"^[A-Z]\s*\(|\)\s*=|=\s*(?:\(|\[|\\\{)|\\(?:cup|cap|mathbb|setminus|backslash)(?![A-Za-z])"
)
_SIGN = re.compile(
    r"\\(?:leqslant|geqslant|leqq|geqq|leq?|geq?|lt|gt|neq?|approxeq|approx|simeq|sim|in)(?![A-Za-z])|[<>=≈]"
)
_SIGNS = {
    "=": "=",
    "<": "<",
    ">": ">",
    "lt": "<",
    "gt": ">",
    "in": "in",
    "≈": "~",
    **dict.fromkeys(["le", "leq", "leqslant", "leqq"], "<="),
    **dict.fromkeys(["ge", "geq", "geqslant", "geqq"], ">="),
    **dict.fromkeys(["ne", "neq"], "!="),
    **dict.fromkeys(["approx", "approxeq", "simeq", "sim"], "~"),
}


@dataclass(frozen=True)
class Listing:
    r"""A tidied answer as a list."""

    brackets: str
    """Brackets around the whole list: ``""``, ``{}``, ``()``, ``[]``, ``(]`` or ``[)``."""
    elements: tuple[str, ...]
    """Texts between the commas and semicolons of the list."""

    @property
    def count(self) -> int:
        r"""Number of elements; one with ``\pm`` stands for two."""
        return sum(2 if "\\pm" in element else 1 for element in self.elements)


def listing(text: str) -> Listing:
    """The elements of a tidied answer and what encloses them."""
    body = _marked(text)
    pairs = {"(": ")]", "[": ")]", "⟨": "⟩"}
    brackets, inner = "", body
    if body[:1] in pairs and body[-1:] in pairs[body[0]] and _encloses(body):
        brackets, inner = body[0] + body[-1], body[1:-1]
    brackets = "{}" if brackets == "⟨⟩" else brackets
    if brackets and inner.count(",") == 1 and _GROUPED.fullmatch(inner):
        return Listing(brackets, tuple(inner.split(",")))  # (12,102) is a pair
    return Listing(brackets, tuple(_unmarked(e) for e in _split(inner)))


def peeled(text: str) -> str:
    """A tidied answer without the bare braces around all of it."""
    text = text.strip()
    while text[:1] == "{" and text[-1:] == "}" and text[-2:] != "\\}" and _encloses(_marked(text)):
        text = text[1:-1].strip()
    return text


@dataclass(frozen=True)
class Chain:
    """An equation or inequality."""

    sides: tuple[str, ...]
    """Texts between the signs."""
    signs: tuple[str, ...]
    """Its signs: ``=``, ``~`` for about equal, ``!=``, ``<``, ``<=``, ``>``, ``>=`` or ``in``."""


def chain(text: str) -> Chain:
    """The sides of a tidied equation or inequality; any other answer is its only side."""
    body = _marked(text)
    depths = _depths(body)
    sides, signs, start = list[str](), list[str](), 0
    for match in _SIGN.finditer(body):
        if depths[match.start()] == 0:
            sides.append(_unmarked(body[start : match.start()]))
            signs.append(_SIGNS[match[0].lstrip("\\")])
            start = match.end()
    return Chain((*sides, _unmarked(body[start:])), tuple(signs))


def split_at(text: str, signs: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """What stands between the matches of a pattern outside of all brackets, and these matches."""
    body = _marked(text)
    depths = _depths(body)
    parts, found, start = list[str](), list[str](), 0
    for match in signs.finditer(body):
        if depths[match.start()] == 0:
            parts.append(_unmarked(body[start : match.start()]))
            found.append(match[0])
            start = match.end()
    return [*parts, _unmarked(body[start:])], found


def _marked(text: str) -> str:
    return text.replace("\\{", "⟨").replace("\\}", "⟩")


def _unmarked(text: str) -> str:
    return text.replace("⟨", "\\{").replace("⟩", "\\}").strip()


def _depths(text: str) -> list[int]:
    """How many brackets are open after each character."""
    depth, depths = 0, []
    for character in text:
        depth += (character in "([{⟨") - (character in ")]}⟩")
        depths.append(depth)
    return depths


def _encloses(text: str) -> bool:
    """Whether the bracket that opens first is the one that closes last."""
    return 0 not in _depths(text)[:-1]


def _split(text: str) -> list[str]:
    parts, start = [], 0
    grouped = {i for m in _GROUPED.finditer(text) for i in range(*m.span())}
    for i, depth in enumerate(_depths(text)):
        if text[i] in ",;" and depth == 0 and i not in grouped:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def fits(brackets: str, others: str) -> bool:
    """Whether two kinds of brackets may enclose the same.

    A pair may come without its parentheses, a set without its braces; nothing else is exchangeable.
    """
    return brackets == others or any({brackets, others} <= forms for forms in ({"", "()"}, {"", "{}"}))


def listings_differ(answer: str, reference: str) -> bool:
    r"""Whether two tidied answers cannot be equal because one lists more or is another kind of bracket.

    Inequalities and equations are left to algebra, and so is a number such as ``1,234`` that may be a pair.
    """
    texts = (answer, reference)
    if any(_RELATION.search(text) or _GROUPED.search(text) or _NAMED.search(text) for text in texts):
        return False
    a, b = listing(answer), listing(reference)
    if "\\begin" in answer + reference and {a.count, b.count} != {1}:
        return False  # a column may be a point
    if a.count != b.count:
        return True
    if a.count == 1:
        return False  # parentheses around one value say nothing
    return not fits(a.brackets, b.brackets)


def same_text(answer: str, reference: str) -> bool:
    r"""Whether two tidied answers are written alike: blanks and needless braces aside, sets in any order."""
    if compact(_unlabelled(answer)) == compact(_unlabelled(reference)):
        return True
    a, b = listing(answer), listing(reference)
    sets = {a.brackets, b.brackets} <= {"", "{}"}
    return sets and sorted(map(compact, a.elements)) == sorted(map(compact, b.elements))


def _unlabelled(text: str) -> str:
    r"""What stands in a ``\text{...}`` that is all of an answer."""
    match = _TEXT.fullmatch(text)
    return match[1] if match else text


def compact(text: str) -> str:
    """A tidied answer without the blanks and braces that mean nothing."""
    # Some blanks mean something: \pi r is not \pir, 1 2 is not 12.
    text = re.sub(r"(\\[A-Za-z]+|\d) (?=[A-Za-z\d])", "\\1\0", peeled(text)).replace(" ", "")
    return re.sub(r"(?<![A-Za-z\d}])\{([A-Za-z0-9])\}(?![\d{])", r"\1", text).replace("\0", " ")
