r"""Parse LaTeX into a tree of operations as written, with no arithmetic done.

A small tolerant reader of LaTeX. It keeps every operation as it stands, since it serves to see which
operations an answer has left undone; no arithmetic is done here. What it does not know becomes a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pipo.graders.latex_words import (
    BIG,
    BRACKETS,
    CLOSING,
    DERIVED,
    DERIVED_BY,
    FENCES,
    FUNCTIONS,
    INVERSE,
    MATRICES,
    MODULO,
    NUMBER,
    OVER,
    PLUS,
    SET_SIGNS,
    SIGNS,
    TEXT,
    TIMES,
    TOKEN,
)

# A formula nested deeper is no answer, and would only exhaust the stack: of operands within operands as they
# are read, and of the tree, where a product of many factors is deep too.
_MAX_DEPTH = 40
_MAX_TREE_DEPTH = 100
# Exact arithmetic on longer numbers takes time, and Python refuses to read those of 4,300 digits.
_LONGEST_NUMBER = 400
_HUGE = re.compile(r"[eE][+-]?\d{4}")


class UnreadableFormula(ValueError):
    """A text that is no formula this module can read."""


class TooDeepFormula(UnreadableFormula):
    """A formula nested too deeply, or with too many factors."""


@dataclass(frozen=True)
class Node:
    """One operation or leaf as written."""

    kind: str
    """Kind of operation or leaf: ``number``, ``name``, ``text``; ``add``, ``negative``, ``double`` (plus or
    minus), ``times``, ``over``, ``power``, ``root`` (the second part is its index), ``mixed``; ``call`` of a
    function or operator; ``relation``, ``list``, ``matrix``, ``set``, ``index``, ``degrees``, ``percent``.
    """
    label: str = ""
    """A number's or name's own writing; of a call the family, of a list its brackets, of a relation its
    signs.
    """
    parts: tuple[Node, ...] = ()
    """Operands of the operation."""


def negative(node: Node) -> Node:
    """The node with a minus sign before it."""
    return Node("negative", "", (node,))


ONE = Node("number", "1")


def read_formula(text: str) -> Node:
    r"""The tree of a tidied formula.

    Raises:
        UnreadableFormula: brackets do not match, or an operand is missing.
        TooDeepFormula: it nests too deeply.
    """
    tree = _read(text, depth=0)
    level, depth = [tree], 0
    while level := [part for node in level for part in node.parts]:
        depth += 1
        if depth > _MAX_TREE_DEPTH:
            raise TooDeepFormula("nested too deeply")
    return tree


def _read(text: str, depth: int) -> Node:
    tokens = [m["token"] for m in TOKEN.finditer(text)]
    reader = _Reader(tokens, depth)
    tree = reader.listing()
    if reader.position < len(tokens):
        raise UnreadableFormula(f"unexpected {tokens[reader.position]!r}")
    return tree


class _Reader:
    """Recursive descent over the tokens of one formula."""

    def __init__(self, tokens: list[str], depth: int) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = depth  # of operands within operands
        self.bars = 0  # how many |...| are open: a bar ends an operand there

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        if not token:
            raise UnreadableFormula("it ends too early")
        self.position += 1
        return token

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise UnreadableFormula(f"no {token!r} where one is needed")

    # Lists, relations, sums and products, from the loosest to the tightest.

    def listing(self) -> Node:
        parts = [self.relation()]
        while self.peek() in {",", ";"}:
            self.take()
            parts.append(self.relation())
        return parts[0] if len(parts) == 1 else Node("list", "", tuple(parts))

    def relation(self) -> Node:
        parts, signs = [self.sets()], []
        while self.peek() in SIGNS:
            signs.append(SIGNS[self.take()])
            if signs[-1] in "<>" and self.peek() == "=":
                signs[-1] += self.take()
            parts.append(self.sets())
        return Node("relation", " ".join(signs), tuple(parts)) if signs else parts[0]

    def sets(self) -> Node:
        left = self.sum()
        while self.peek() in SET_SIGNS:
            sign = SET_SIGNS[self.take()]
            left = Node("set", sign, (left, self.sum()))
        return left

    def sum(self) -> Node:
        terms: list[Node] = []
        while True:
            signs: list[str] = []
            while self.peek() in PLUS:
                signs.append(self.take())
            term = self.product()
            for sign in reversed(signs):
                if PLUS[sign] == 0:
                    term = Node("double", sign, (term,))
                elif PLUS[sign] < 0:
                    term = negative(term)
            terms.append(term)
            if self.peek() not in PLUS:
                break
        return terms[0] if len(terms) == 1 else Node("add", "", tuple(terms))

    def product(self) -> Node:
        left = self.factor()
        while True:
            token = self.peek()
            if token in TIMES:
                self.take()
                right = self.signed_factor()
                left = Node("times", "dot", (left, right))
            elif token in OVER or (token == ":" and self.between_numbers(left)):
                self.take()
                left = Node("over", "", (left, self.signed_factor()))
            elif token in MODULO:
                self.take()
                left = Node("call", "remainder", (left, self.factor()))
            elif token == "\\choose":
                self.take()
                left = Node("call", "combinatorics", (left, self.factor()))
            elif self.starts_factor(token):
                right = self.factor()
                left = _mixed(left, right) or Node("times", "", (left, right))
            else:
                return left

    def between_numbers(self, left: Node) -> bool:
        following = self.tokens[self.position + 1 : self.position + 2]
        return left.kind == "number" and any(map(NUMBER.fullmatch, following))

    def signed_factor(self) -> Node:
        sign = 1
        while self.peek() in {"+", "-"}:
            sign *= PLUS[self.take()]
        factor = self.factor()
        return negative(factor) if sign < 0 else factor

    def starts_factor(self, token: str) -> bool:
        if not token or token in CLOSING or token in {",", ";", "}", "&", "\\\\", ":", "\\%", "%"}:
            return False
        if token in SIGNS or token in PLUS or token in SET_SIGNS or token.startswith("\\end"):
            return False
        if token == "|" or token == "\\|" or token in {"\\rfloor", "\\rceil", "\\mid"}:
            return token == "|" and self.bars == 0
        return True

    # Operands.

    def factor(self) -> Node:
        node = self.base()
        while True:
            token = self.peek()
            if token == "^":
                self.take()
                node = self.powered(node, self.argument())
            elif token == "_":
                self.take()
                before = "before" if node == Node("text", "") else ""
                node = Node("index", before, (node, self.argument()))
            elif token == "!":
                self.take()
                node = Node("call", "combinatorics", (node,))
            elif token == "'":
                self.take()
                node = Node("call", "derivative", (node,))
            elif token in {"\\%", "%"}:
                self.take()
                node = Node("percent", "", (node,))
            elif token in {"°", "\\degree"}:
                self.take()
                node = Node("degrees", "", (node,))
            else:
                return node

    def powered(self, node: Node, exponent: Node) -> Node:
        if exponent.kind == "name" and exponent.label == "\\circ":
            return Node("degrees", "", (node,))
        if (exponent.kind == "name" and set(exponent.label) <= {"'"}) or exponent.label == "\\prime":
            return Node("call", "derivative", (node,))
        if exponent.kind == "name" and exponent.label in {"T", "\\top"} and node.kind == "matrix":
            return Node("call", "matrix function", (node,))
        return Node("power", "", (node, exponent))

    def argument(self) -> Node:
        """What a command or an exponent takes: a group, or else one character."""
        token = self.peek()
        if token == "{":
            return self.deeper(self.group)
        if NUMBER.fullmatch(token) and len(token) > 1:
            self.tokens[self.position : self.position + 1] = [token[0], token[1:]]
        if token in {"+", "-"}:  # x^-1, outside of TeX
            self.take()
            argument = self.deeper(self.argument)
            return negative(argument) if token == "-" else argument
        if token in TEXT or token in {"\\frac", "\\sqrt"}:
            return self.base()
        return _leaf(self.take())

    def group(self) -> Node:
        self.expect("{")
        if self.peek() == "}":
            self.take()
            return Node("text", "")
        bars, self.bars = self.bars, 0
        inner = self.listing()
        self.bars = bars
        self.expect("}")
        return inner

    def deeper(self, read: Callable[[], Node]) -> Node:
        """What is read within an operand."""
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise TooDeepFormula("nested too deeply")
        node = read()
        self.depth -= 1
        return node

    def base(self) -> Node:
        return self.deeper(self.operand_as_written)

    def operand_as_written(self) -> Node:
        token = self.peek()
        if token == "{":
            return self.group()
        if token in BRACKETS:
            return self.bracketed()
        if token == "|":
            return self.between_bars()
        self.take()
        if token in FENCES:
            closing, family = FENCES[token]
            inner = self.listing()
            self.expect(closing)
            return Node("call", family, (inner,))
        if token.startswith("\\begin"):
            return self.matrix(token)
        if token == "_":  # the first index of _nC_k
            below = self.argument()
            return Node("index", "before", (self.base(), below))
        if token in TEXT or token == "\\overline":
            return self.worded(token)
        name = token.lstrip("\\")
        special: dict[str, Callable[[], Node]] = {
            "frac": self.fraction,
            "sqrt": self.root,
            "binom": self.binomial,
        }
        if name.lstrip("dt") == "binom" or name in special:
            return special["binom" if name.endswith("binom") else name]()
        if name in BIG and token[0] == "\\":
            return self.big(BIG[name])
        if name in FUNCTIONS and len(token) > 1:
            return self.call(name)
        if token == "'" or not self.may_stand(token):
            raise UnreadableFormula(f"unexpected {token!r}")
        return _leaf(token)

    def may_stand(self, token: str) -> bool:
        known = token in SIGNS or token in PLUS or token in TIMES or token in OVER or token in SET_SIGNS
        return not known and token not in CLOSING | {"^", "}", ",", ";", "&", "\\\\", "!", "|", ":"}

    def bracketed(self) -> Node:
        opening = self.take()
        if self.peek() == BRACKETS[opening]:
            self.take()
            return Node("list", opening + "empty")
        bars, self.bars = self.bars, 0
        inner = self.listing()
        self.bars = bars
        closing = self.take()
        if closing not in CLOSING or (closing != BRACKETS[opening] and {opening, closing} - set("()[]")):
            raise UnreadableFormula(f"{opening!r} closed by {closing!r}")
        brackets = (opening + closing).replace("\\", "").replace("lbrace", "{").replace("rbrace", "}")
        if inner.kind == "list" and inner.label == "":
            return Node("list", brackets, inner.parts)
        return Node("list", brackets, (inner,)) if brackets == "{}" else inner

    def between_bars(self) -> Node:
        self.expect("|")
        self.bars += 1
        inner = self.listing()
        self.bars -= 1
        self.expect("|")
        return Node("call", "absolute value", (inner,))

    def matrix(self, token: str) -> Node:
        name = token[token.index("{") + 1 : token.index("}")]
        if name not in MATRICES:
            raise UnreadableFormula(f"environment {name}")
        entries: list[Node] = []
        rows = 1
        while True:
            entries.append(self.listing())
            after = self.take()
            if after.startswith("\\end"):
                break
            if after == "\\\\":
                rows += 1
                if self.peek().startswith("\\end"):
                    self.take()
                    break
            elif after != "&":
                raise UnreadableFormula(f"unexpected {after!r} in a matrix")
        matrix = Node("matrix", str(rows), tuple(entries))
        return Node("call", "matrix function", (matrix,)) if name[0] in "vV" else matrix

    def worded(self, command: str) -> Node:
        r"""What stands in ``\text{}`` or under a line: one upright letter is a name, other words text."""
        if self.peek() != "{":
            return Node("text", "")
        start = self.position
        depth = 0
        while True:
            token = self.take()
            depth += (token == "{") - (token == "}")
            if depth == 0:
                break
        inside = self.tokens[start + 1 : self.position - 1]
        if command == "\\overline":
            if not inside:
                return Node("text", "")
            return Node("call", "conjugate", (_read(" ".join(inside), self.depth),))
        words = "".join(inside)
        if command == "\\operatorname" and words in FUNCTIONS:
            return self.call(words)
        if words in FUNCTIONS and len(words) > 1 and command != "\\text":
            return self.call(words)
        if len(words) == 1 and command in {"\\mathrm", "\\mathbf", "\\rm"}:
            return _leaf(words)
        return Node("text", words)

    def fraction(self) -> Node:
        start = self.position
        above = self.argument()
        middle = self.position
        below = self.argument()
        if below.kind != "number" and above.kind != "number":
            texts = (self.tokens[start:middle], self.tokens[middle : self.position])
            a, b = (" ".join(t[1:-1] if t[0] == "{" else t) for t in texts)
            if DERIVED.fullmatch(a.strip()) and DERIVED_BY.fullmatch(b.strip()):
                return Node("call", "derivative", (above, below))
        return Node("over", "frac", (above, below))

    def root(self) -> Node:
        index = Node("number", "2")
        if self.peek() == "[":
            self.take()
            index = self.listing()
            self.expect("]")
        inside = self.bracketed() if self.peek() == "(" else self.argument()
        return Node("root", "", (inside, index))

    def binomial(self) -> Node:
        return Node("call", "combinatorics", (self.argument(), self.argument()))

    def call(self, name: str) -> Node:
        """A function with what it is applied to: brackets, or the product that follows."""
        index: list[Node] = []
        exponent = None
        while self.peek() in {"^", "_"}:
            if self.take() == "^":
                exponent = self.argument()
            else:
                index.append(self.argument())
        if exponent is not None and exponent == negative(ONE) and name in INVERSE:
            name, exponent = INVERSE[name], None
        inside = self.operand()
        if name == "exp":
            node = Node("power", "", (Node("name", "e"), inside))
        elif name == "abs":
            node = Node("call", "absolute value", (inside,))
        else:
            node = Node("call", FUNCTIONS[name], (Node("name", name), *index, inside))
        return node if exponent is None else Node("power", "", (node, exponent))

    def operand(self) -> Node:
        """What a function without brackets is applied to: the factors up to the next function or sign."""
        token = self.peek()
        if not self.starts_factor(token):
            return Node("text", "")
        first = self.factor()
        if token in BRACKETS:
            return first
        factors = [first]
        while self.starts_factor(self.peek()) and not self.starts_call(self.peek()):
            if self.peek() in TIMES | OVER | MODULO or self.peek() in BRACKETS or self.peek() in TEXT:
                break
            factors.append(self.factor())
        if self.peek() in OVER and len(factors) == 1 and first.kind in {"number", "name"}:
            self.take()
            return Node("over", "", (first, self.factor()))
        node = factors[0]
        for factor in factors[1:]:
            node = Node("times", "", (node, factor))
        return node

    def starts_call(self, token: str) -> bool:
        name = token.lstrip("\\")
        return (name in FUNCTIONS and len(token) > 1) or (name in BIG and token[0] == "\\")

    def big(self, family: str) -> Node:
        """A big operator with its bounds, applied to the product that follows."""
        bounds: list[Node] = []
        while self.peek() in {"^", "_", "\\limits", "\\nolimits"}:
            if self.take() in {"^", "_"}:
                bounds.append(self.argument())
        body = self.product() if self.starts_factor(self.peek()) else Node("text", "")
        return Node("call", family, (*bounds, body))


def _leaf(token: str) -> Node:
    if NUMBER.fullmatch(token) and len(token) <= _LONGEST_NUMBER and not _HUGE.search(token):
        return Node("number", token.replace(",", ""))
    return Node("name", {"\\partial": "\\partial", "∞": "\\infty", "π": "\\pi"}.get(token, token))


def _mixed(whole: Node, part: Node) -> Node | None:
    r"""A number and the fraction behind it as a mixed number such as ``1\frac45``; None if they are none."""
    if part.kind in ("percent", "degrees"):
        inside = _mixed(whole, part.parts[0])
        return inside and Node(part.kind, "", (inside,))
    if whole.kind != "number" or part.kind != "over" or part.label != "frac":
        return None
    digits = [node.label for node in (whole, *part.parts) if node.kind == "number" and node.label.isdigit()]
    proper = len(digits) == 3 and int(digits[1]) < int(digits[2])
    return Node("mixed", "", (whole, part)) if proper else None
