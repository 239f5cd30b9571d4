r"""Check that an answer is in final form: no operation left undone that the reference has done.

An answer may have the reference's value and still be none: ``\sum_{k=1}^{60} k`` for 1830, or the question's
own formula. It is judged by its form and against the question's formulas; its value is compared elsewhere.
``docs/tasks/mathematics.md`` has the rules.
"""

from __future__ import annotations

import re
from functools import lru_cache

from pipo.graders.answer_text import word
from pipo.graders.latex_terms import Writing, factors, monomials, primes, rational, writing
from pipo.graders.latex_tree import Node, TooDeepFormula, UnreadableFormula, read_formula
from pipo.graders.quantities import without_units
from pipo.graders.question_formulas import Question, compact, read_question, requests_of, sides
from pipo.graders.typesetting import tidy
from pipo.graders.undone import has_power, is_constant, is_literal, undone

# Kinds that count only where the question asks for another form.
_ON_REQUEST = {"expansion", "product of sums", "reduction", "root below a fraction bar"}
_COMMANDS = re.compile(
    r"\\(?:sum|prod|i*int|oint|lim|cap|[dt]?binom|choose|partial|det|gcd|lcm|log|ln|lg|max|min|"
    r"l?floor|l?ceil|b?mod|pmod|(?:arc)?(?:sin|cos|tan|cot|sec|csc))(?![A-Za-z])|!"
)
_REPEATING = re.compile(r"\.\d*\\(?:overline|bar|dot)")
_ROUNDED = re.compile(r"\\(?:approx|approxeq|simeq|sim)(?![A-Za-z])\s*-?[\d.,]*\d\s*$")
# How many more leaves than the reference an answer may have where the question says "simplify".
_SLACK = 2


def unfinished(answer: str, reference: str, question: str) -> str | None:
    """What an answer leaves undone or copies, in words; None if it is in final form.

    Args:
        answer: the content of the box.
        reference: the right answer.
        question: the problem; it may be empty.
    """
    values = without_units(tidy(answer), tidy(reference))
    if values is None or word(values[0]) is not None or word(values[1]) is not None:
        return None
    tidied, of = values[0] if "." in values[1] else _exact(values[0]), values[1]
    if _REPEATING.search(answer) and _REPEATING.search(question) and not _REPEATING.search(reference):
        return "a formula of the question"  # tidied, it is a fraction
    gold = _read(of)
    try:
        tree = read_formula(tidied)
    except TooDeepFormula:
        return "nested too deeply"
    except UnreadableFormula:
        return _unreadable(tidied, of, read_question(question))
    if gold is None:
        return None
    tree = _without_name(tree, gold)
    if writing(tree) in _writings(gold):
        return None
    requests, last = requests_of(question), tree
    if tree.kind == "relation" and _is_equal(tree.parts[-1], _value(gold)):
        last = tree.parts[-1]  # 3 + 4 = 7, or 2x = 10 where 2x is asked for
    return (
        _unsolved(last, gold, requests)
        or _undone(_value(last), _value(gold), requests)
        or _not_as_asked(_value(last), _value(gold), requests)
        or _copied(tree, gold, read_question(question))
    )


def _exact(answer: str) -> str:
    r"""An answer without what it is rounded to: ``\frac{7}{12} \approx 0.58``."""
    exact = _ROUNDED.sub("", answer).strip()
    return answer if re.fullmatch(r"[A-Za-z]?", exact) else exact


def _without_name(tree: Node, gold: Node) -> Node:
    """``P(4,9)`` as the point that it names, where a point is asked for."""
    is_named = tree.kind == "times" and len(tree.parts) == 2 and tree.parts[0].kind == "name"
    return tree.parts[1] if is_named and gold.label == "()" == tree.parts[1].label else tree


@lru_cache(maxsize=1024)
def _read(reference: str) -> Node | None:
    """The tree of a tidied reference; None if it cannot be read."""
    try:
        return read_formula(reference)
    except UnreadableFormula:
        return None


def _unreadable(answer: str, reference: str, question: Question) -> str | None:
    """The verdict on what is no formula for this module, by commands and text."""
    if more := set(_COMMANDS.findall(answer)) - set(_COMMANDS.findall(reference)):
        return f"{min(more)} left undone"
    return "a formula of the question" if compact(answer) in question.texts else None


def _writings(gold: Node) -> set[Writing]:
    """How an answer may be written that is written as the reference: with or without what it is equal to."""
    return {writing(gold), writing(_value(gold))}


def _value(tree: Node) -> Node:
    """What a solved equation says, also of each element of a list."""
    if tree.kind == "relation" and set(tree.label.split()) <= {"=", "in"} and _is_solved(tree):
        return tree.parts[-1]
    if tree.kind == "list":
        return Node("list", tree.label, tuple(map(_value, tree.parts)))
    return tree


def _is_equal(node: Node, other: Node) -> bool:
    """Whether two formulas are written alike, or multiplied out; further algebra is for others."""
    if writing(node) == writing(other):
        return True
    return sorted(map(repr, monomials(node))) == sorted(map(repr, monomials(other)))


# Copies.


def _copied(tree: Node, gold: Node, question: Question) -> str | None:
    right = _writings(gold) | {writing(side) for node in (gold, _value(gold)) for side in sides(node)}
    elements = tree.parts if tree.kind == "list" else ()
    for node in dict.fromkeys((tree, *elements, _value(tree), *map(_value, elements))):
        key = writing(node)
        if key in right or writing(_value(node)) in right or key == ("text", ""):
            continue
        if key in question.inner or (key in question.formulas and not _is_name(node)):
            return "a formula of the question"
        if has_power(node) and rational(node) in question.values:
            return "a formula of the question"  # 2^{-3} as 8^{-1}
    return None


def _is_name(node: Node) -> bool:
    """Whether it is a name, or several, which say the same wherever they stand."""
    if node.kind in ("name", "text", "index"):
        return True
    return node.kind in ("list", "negative", "relation") and all(
        p.kind == "number" or _is_name(p) for p in node.parts
    )


# Equations and inequalities.


def _unsolved(tree: Node, gold: Node, requests: frozenset[str]) -> str | None:
    """Whether there is an equation or inequality to solve where the reference has none."""
    relations = [node for node in (tree, *tree.parts) if node.kind == "relation"]
    wanted = [node for node in (gold, *gold.parts) if node.kind == "relation"]
    if any(not _is_solved(node) for node in wanted):
        return None
    several = any(len(_variables(node)) > 1 for node in wanted)
    if several and "solution for one variable" not in requests:
        return None
    for node in relations:
        if not _is_solved(node):
            return "an equation or inequality to solve"
    return None


def _is_solved(node: Node) -> bool:
    r"""Whether a variable stands alone: ``x = 5``, ``2 < x \le 7``, ``f(x) = x + 1``, ``1 + 1 = 2``."""
    inequality = set(node.label.split()) & {"<", ">", "<=", ">="}
    first, last = node.parts[0], node.parts[-1]
    if not inequality:
        return _is_left_side(first, last) or (last.kind == "name" and _is_left_side(last, first))
    alone = [part for part in node.parts if part.kind in ("name", "index")]
    return any(
        all(other is part or not (_variables(other) & _variables(part)) for other in node.parts)
        for part in alone
    )


def _is_left_side(node: Node, other: Node) -> bool:
    """Whether a side only says what the other is."""
    if is_constant(node):
        return is_constant(other)
    if node.kind in ("name", "index"):
        return not (_variables(node) & _variables(other))
    if node.kind == "list":
        return all(_is_left_side(part, other) for part in node.parts)
    applied = node.kind == "times" and node.parts[0].kind in ("name", "index", "call")  # f(x), \angle ABC, A'
    return applied and _is_application(node)


def _is_application(node: Node) -> bool:
    """Whether a product is rather a function with its argument, or a row of letters such as ``ABC``."""
    chain = factors(node)
    return not chain.below and all(
        f.kind in ("name", "index", "list", "add") or is_constant(f) for f in chain.above[1:]
    )


def _variables(node: Node) -> set[str]:
    if node.kind == "name":
        return set() if is_constant(node) else {node.label}
    return {name for part in node.parts for name in _variables(part)}


# Operations.


def _undone(tree: Node, gold: Node, requests: frozenset[str]) -> str | None:
    if is_literal(gold) and not is_literal(tree):
        return "not worked out"
    more = undone(tree) - undone(gold)
    if _has_power_of_e(gold):
        more -= {"hyperbolic function"}
    if refused := more - (_ON_REQUEST - requests):
        return f"{min(refused)} left undone"
    return None


def _has_power_of_e(node: Node) -> bool:
    return (node.kind == "power" and node.parts[0] == Node("name", "e")) or any(
        map(_has_power_of_e, node.parts)
    )


def _not_as_asked(tree: Node, gold: Node, requests: frozenset[str]) -> str | None:
    """Whether the question asks for a factored or a simplified form, and this is not it."""
    wanted = _sums(gold) if "factorization" in requests else 0
    if wanted and (_sums(tree) < wanted or (_has_common_factor(tree) and not _has_common_factor(gold))):
        return "not factored"
    if "right side zero" in requests and _is_zero_form(gold) and not _is_zero_form(tree):
        return "not in the form asked for"
    if "reduction" in requests and _leaves(tree) > _SLACK * _leaves(gold) + 1:
        return "not simplified"
    return None


def _is_zero_form(node: Node) -> bool:
    return node.kind == "relation" and Node("number", "0") in node.parts


def _sums(node: Node) -> int:
    """How many factors are sums; 0 for what is no product."""
    if node.kind in ("add", "number", "name"):
        return 0
    count = 0
    for factor in factors(node).above:
        power = factor.parts[1].label if factor.kind == "power" else "1"
        base = factor.parts[0] if factor.kind == "power" else factor
        sums = 1 if base.kind == "add" else _sums(base) if base.kind == "times" else 0
        count += sums * (int(power) if power.isdigit() and len(power) < 4 else 1)
    return count


def _has_common_factor(node: Node) -> bool:
    """Whether all terms of a factor that is a sum have a number or name in common."""
    return any(_common(f.parts[0] if f.kind == "power" else f) for f in factors(node).above)


def _common(node: Node) -> bool:
    if node.kind != "add":
        return False
    found = monomials(node)
    names = set.intersection(*({base for base, _ in m.powers} for m in found))
    numbers = [m.factor for m in found]
    whole = all(n.denominator == 1 and n for n in numbers)
    shared = whole and any(all(int(n) % p == 0 for n in numbers) for p in primes(abs(int(numbers[0]))) or {})
    return bool(names) or shared


def _leaves(node: Node) -> int:
    return sum(map(_leaves, node.parts)) if node.parts else 1
