r"""Extract the formulas of a question, and what it asks to be done with them (factor, expand, ...)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from pipo.graders.latex_terms import Writing, rational, writing
from pipo.graders.latex_tree import Node, UnreadableFormula, read_formula
from pipo.graders.typesetting import tidy
from pipo.graders.undone import is_literal, undone

# A question longer than this is a page of data; its formulas beyond are not read.
_LONGEST = 20_000

_DRAWING = re.compile(r"\[asy\].*?\[/asy\]|```asy.*?```", re.DOTALL)
_ENVIRONMENTS = r"(?:align|aligned|equation|gather|gathered|eqnarray|multline|cases|split)\*?"
_FORMULA = re.compile(
    r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]"
    rf"|\\begin\{{{_ENVIRONMENTS}\}}(.+?)\\end\{{{_ENVIRONMENTS}\}}",
    re.DOTALL,
)
_ENVIRONMENT = re.compile(
    rf"\\(?:begin|end)\s*\{{{_ENVIRONMENTS}\}}(?:\{{[^{{}}]*\}})?|\\(?:hline|tag\*?\{{[^{{}}]*\}})"
)
_ROWS = re.compile(r"\\\\(?:\s*\[[^\]]*\])?|\\q?quad(?![A-Za-z])")
_FORM = re.compile(rf"\bin the form:?\s*[\"“]?\s*((?:{_FORMULA.pattern}))", re.DOTALL)
_MATRIX = re.compile(r"\\begin\s*\{[A-Za-z]*(?:matrix|array)\}")
_REQUESTS = {
    "expansion": re.compile(
        r"\b(?:expand(?:ed|ing)?|expansion|multipl(?:y|ied) out|multipl(?:y|ied) and simplif\w+)\b"
    ),
    "product of sums": re.compile(
        r"\b(?:expand(?:ed|ing)?|expansion|multiply|simplif(?:y|ied|ying)|simplest)\b"
        r"|\b(?:find|compute|evaluate|what is) the product\b"
    ),
    "factorization": re.compile(r"\b(?:factor(?:ed|ing|i[sz]e|i[sz]ed|i[sz]ing|i[sz]ation)?)\b"),
    "reduction": re.compile(
        r"\b(?:simplif(?:y|ied|ying)|simplest|lowest terms|irreducible|reduced? (?:form|fraction))\b"
    ),
    "root below a fraction bar": re.compile(
        r"\brationali[sz]e|\brational denominator|\bsimplest radical form"
    ),
    "solution for one variable": re.compile(r"\bslope[- ]intercept|\bsolve for\b|\bin terms of\b"),
}


@dataclass(frozen=True)
class Question:
    """The formulas of a question."""

    formulas: frozenset[Writing]
    """The writing of the question's formulas, their lines, what stands between commas, and their sides."""
    inner: frozenset[Writing]
    """The writing of every operation inside a formula."""
    values: frozenset[Fraction]
    """Values of the operations on numbers alone."""
    texts: frozenset[str]
    """Formulas that could not be parsed, as text without blanks."""


@lru_cache(maxsize=1024)
def read_question(question: str) -> Question:
    """The formulas of a question; it is read once for all answers to it."""
    text = _DRAWING.sub(" ", question[:_LONGEST])
    formulas: set[Writing] = set()
    inner: set[Writing] = set()
    values: set[Fraction] = set()
    texts: set[str] = set()
    for formula in _lines(text):
        try:
            tree = read_formula(formula)
        except UnreadableFormula:
            texts.add(compact(formula))
            continue
        for node in (tree, *sides(tree)):
            formulas.add(writing(node))
        _collect(tree, inner, values)
    return Question(frozenset(formulas), frozenset(inner), frozenset(values), frozenset(texts))


@lru_cache(maxsize=1024)
def requests_of(question: str) -> frozenset[str]:
    """The forms a question asks for, by the kinds of ``undone`` they forbid."""
    text = _DRAWING.sub(" ", question[:_LONGEST])
    prose = text.lower()
    requests = {kind for kind, asks in _REQUESTS.items() if asks.search(prose)}
    for asked in _FORM.finditer(text):
        requests |= _of_form(asked[1])
    return frozenset(requests)


def _of_form(text: str) -> set[str]:
    """What ``in the form $y = mx + b$`` forbids: another variable's equation, brackets, roots below a bar."""
    try:
        form = read_formula(_lines(text)[0])
    except (UnreadableFormula, IndexError):
        return set()
    found: set[str] = set()
    if form.kind == "relation":
        zero = form.parts[-1] == Node("number", "0")
        found.add("right side zero" if zero else "solution for one variable")
        form = form.parts[0] if zero else form.parts[-1]
    if form.kind == "add":
        found |= {"expansion", "product of sums"} - undone(form)
    if _has_root(form):
        found |= {"root below a fraction bar"} - undone(form)
    return found


def _has_root(node: Node) -> bool:
    return node.kind == "root" or any(map(_has_root, node.parts))


def compact(text: str) -> str:
    """A text without blanks and braces, to compare what cannot be read."""
    return re.sub(r"[\s{}]", "", text)


def _lines(text: str) -> list[str]:
    """The tidied formulas of a text, line by line."""
    found: list[str] = []
    for match in _FORMULA.finditer(text):
        whole = _ENVIRONMENT.sub(" ", next(group for group in match.groups() if group is not None))
        if _MATRIX.search(whole):
            parts = [whole]
        else:
            whole = whole.replace("&", " ")
            parts = [whole, *_ROWS.split(whole)]
        found += [tidy(part.strip(" \n\t.,;:?")) for part in parts]
    return [line for line in dict.fromkeys(found) if line]


def sides(tree: Node) -> list[Node]:
    """What stands between the commas of a formula, and the sides of each relation."""
    elements = list(tree.parts) if tree.kind == "list" and tree.label in ("", "{}") else []
    relations = [node for node in (tree, *elements) if node.kind == "relation"]
    return elements + [side for relation in relations for side in relation.parts]


def _collect(node: Node, inner: set[Writing], values: set[Fraction]) -> None:
    if node.kind == "power" or not is_literal(node):
        inner.add(writing(node))
        if (value := rational(node)) is not None:
            values.add(value)
    for part in node.parts:
        _collect(part, inner, values)
