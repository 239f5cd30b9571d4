r"""Parse the LaTeX of one formula into a syntax tree of ``formula_trees``.

Imports nothing of the project: the grading workers run it. Sums, integrals and limits are left to
``computed_formulas``.
"""

from __future__ import annotations

import re
from fractions import Fraction

from formula_trees import MINUS_ONE, ONE, Tree, UnreadableError

_GREEK = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi omicron
varpi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi
Sigma Upsilon Phi Psi Omega ell hbar partial angle triangle square star wp Re Im aleph
"""
_FUNCTION_NAMES = """
sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth arcsinh
arccosh arctanh arsinh arcosh artanh ln log lg exp
"""
_INVERTIBLE = "sin cos tan cot sec csc sinh cosh tanh"
_ACCENT_NAMES = "vec hat bar overline tilde widetilde widehat overrightarrow dot ddot underline"
_NAMES = frozenset(_GREEK.split())
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_INVERSES = {name: f"arc{name}" for name in _INVERTIBLE.split()}
_SYNONYMS = {
    "tg": "tan",
    "ctg": "cot",
    "cotan": "cot",
    "cosec": "csc",
    "arctg": "arctan",
    "arcctg": "arccot",
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "sh": "sinh",
    "ch": "cosh",
    "th": "tanh",
}
_SEVERAL = frozenset(["gcd", "lcm", "max", "min"])
_ACCENTS = frozenset(_ACCENT_NAMES.split())
# A letter before parentheses is a factor, P(1+r), unless it is what functions are called or these hold
# no more than a number or a letter: P(A), I(0).
_CALLED = re.compile(r"(?:[fghFGH]|\\(?:var)?phi|\\Phi|\\sigma|\\tau|\\zeta|\\Gamma)$")
_ONE_ARGUMENT = re.compile(r"\s*\(\s*(?:\d+|[A-Za-z])\s*\)")
_FONTS = (
    "text|textrm|textbf|textit|textnormal|textup|mbox|mathrm|mathbf|mathit|mathsf|mathcal|operatorname|rm"
)
_TOKEN = re.compile(
    rf"\s*(?:(?P<number>\d+(?:,\d{{3}})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    rf"|\\(?:{_FONTS})\*?\s*\{{(?P<text>[^{{}}]*)\}}|\\(?P<command>[A-Za-z]+|.)|(?P<char>\S))",
    re.DOTALL,
)
_MATRIX = re.compile(r"\{([pb]?matrix|array)\}(?:\s*\{[lcr| ]*\})?")
_DEGREE = re.compile(r"\s*(?:\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])|°)")
_PRIMES = re.compile(r"\s*(?:('+)|\^\s*\{?\s*((?:\\prime\s*)+)\}?)")
_BEFORE_FACTOR = re.compile(
    r"\s*\d+(?:\s+(?=[A-Za-z({]|\\(?!cdot|times|div|ast|end|rfloor|rceil)[a-z])|(?=i(?![A-Za-z])))"
)
_LIMIT = 60  # formulas nested deeper are noise


def read(text: str) -> Tree:
    """The tree of a formula.

    Raises:
        UnreadableError: it is none, or holds what this module does not know.
    """
    reader = _Reader(text)
    tree = reader.sum()
    if reader.peek() is not None:
        raise UnreadableError(f"{text!r} does not end as a formula")
    return tree


class _Reader:
    """A position in a text."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth, self._bars = text, 0, 0, 0

    def peek(self) -> str | None:
        r"""The token here: a number, a character, ``\command`` or ``\text`` for words; None at the end."""
        match = _TOKEN.match(self._text, self._at)
        return None if match is None else _kind(match)

    def take(self) -> str:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise UnreadableError("a formula that breaks off")
        self._at = match.end()
        self._last = match
        return _kind(match)

    def expect(self, *tokens: str) -> None:
        if self.take() not in tokens:
            raise UnreadableError(f"no {tokens[0]} where one is due")

    def sum(self) -> Tree:
        self._depth += 1
        if self._depth > _LIMIT:
            raise UnreadableError("too deep")
        terms = [self._signed()]
        while self.peek() in ("+", "-"):
            terms.append(self._signed())
        self._depth -= 1
        return terms[0] if len(terms) == 1 else ("add", tuple(terms))

    def _signed(self) -> Tree:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        tree = self._product()
        return ("multiply", (MINUS_ONE, tree)) if negative else tree

    def _product(self) -> Tree:
        factors = [self._implied()]
        while (sign := self.peek()) in ("*", "\\cdot", "\\times", "\\div", "/", ":", "\\ast"):
            self.take()
            negative = self.peek() == "-"
            if negative or self.peek() == "+":
                self.take()
            # 1/2 x is half of x; 1/2x is left as it is written, one over 2x.
            fraction = (
                sign == "/" and factors[-1][0] == "number" and _BEFORE_FACTOR.match(self._text, self._at)
            )
            factor = self._factor() if fraction else self._implied()
            factors.append(("power", factor, MINUS_ONE) if sign in ("\\div", "/", ":") else factor)
            factors += [MINUS_ONE] if negative else []
            if fraction:
                factors.append(self._implied())
        return factors[0] if len(factors) == 1 else ("multiply", tuple(factors))

    def _implied(self) -> Tree:
        """Factors without a sign between them; a number before a fraction is a mixed number."""
        start = self._at
        factors = [self._factor()]
        starts = [(start, self._at)]
        while self._continues():
            begin = self._at
            factors.append(self._factor())
            starts.append((begin, self._at))
            if len(factors) == 2 and self._mixed(*starts):
                factors = [("add", tuple(factors))]
        return factors[0] if len(factors) == 1 else ("multiply", tuple(factors))

    def _mixed(self, whole: tuple[int, int], part: tuple[int, int]) -> bool:
        first, second = (self._text[a:b].strip() for a, b in (whole, part))
        if re.fullmatch(r"[\d,.]+", first) and re.match(r"\d", second):
            raise UnreadableError(f"two numbers side by side: {first} {second}")
        proper = re.fullmatch(r"\\frac\s*(?:\{\s*\d+\s*\}|\d)\s*(?:\{\s*\d+\s*\}|\d)", second)
        return bool(re.fullmatch(r"\d+", first) and proper)

    def _continues(self) -> bool:
        token = self.peek()
        if token is None or token in ")]}+-*/:=<>,;!^_&'" or token == "\\\\":
            return False
        if token == "|":
            return self._bars == 0
        closing = (
            "\\rfloor",
            "\\rceil",
            "\\rvert",
            "\\rangle",
            "\\end",
            "\\cdot",
            "\\times",
            "\\div",
            "\\ast",
        )
        return token not in closing and token != "\\}"

    def _factor(self) -> Tree:
        tree = self._atom()
        while True:
            if (match := _DEGREE.match(self._text, self._at)) is not None:
                self._at = match.end()
                tree = ("degrees", tree)
            elif (token := self.peek()) == "^":
                self.take()
                tree = ("power", tree, self._argument())
            elif token == "!":
                self.take()
                if self.peek() == "!":
                    raise UnreadableError("a double factorial")
                tree = ("call", "factorial", (tree,))
            elif token == "\\%":
                self.take()
                tree = ("multiply", (tree, ("number", Fraction(1, 100))))
            else:
                return tree

    def _argument(self) -> Tree:
        r"""What stands behind ``^`` or ``\frac``: a group, or one character."""
        blanks = len(self._text) - len(self._text[self._at :].lstrip())
        here = self._text[blanks : blanks + 1]
        if here.isdigit():
            self._at = blanks + 1
            return ("number", Fraction(int(here)))
        if here == "{":
            return self._group("{", "}")
        if here == "-":  # x^-1 is no LaTeX, but what is meant is clear
            self.take()
            return ("multiply", (MINUS_ONE, self._argument()))
        return self._atom()

    def _group(self, opening: str, closing: str) -> Tree:
        self.expect(opening)
        bars, self._bars = self._bars, 0
        tree = self.sum()
        self.expect(closing)
        self._bars = bars
        return tree

    def _atom(self) -> Tree:
        token = self.peek()
        if token in ("(", "[", "{"):
            return self._group(token, {"(": ")", "[": "]", "{": "}"}[token])
        token = self.take()
        match = self._last
        if match["number"]:
            return self._number(match["number"])
        if match["text"] is not None:
            return self._words(" ".join(match["text"].split()))
        if match["command"]:
            return self._command(match["command"])
        if token == "|":
            self._bars += 1
            tree = self.sum()
            self.expect("|")
            self._bars -= 1
            return ("call", "abs", (tree,))
        if token.isalpha() and token.isascii():
            return self._name(token)
        raise UnreadableError(f"{token!r} in a formula")

    def _number(self, digits: str) -> Tree:
        if self.peek() == "_":
            raise UnreadableError("a number in a base")
        return ("number", Fraction(digits.replace(",", "")))

    def _words(self, words: str) -> Tree:
        function = _SYNONYMS.get(words, words)
        if function == "cis":
            angle = self._operand()
            sine = ("multiply", (("name", "i"), ("call", "sin", (angle,))))
            return ("add", (("call", "cos", (angle,)), sine))
        if function in _FUNCTIONS or function in _SEVERAL:
            return self._function(function)
        return self._name(words) if words else ONE

    def _name(self, name: str) -> Tree:
        """A variable with its primes and subscript, or a function of the problem with its arguments."""
        if self.peek() == "_":
            self.take()
            name += "_" + self._raw()
        while (match := _PRIMES.match(self._text, self._at)) is not None:
            self._at = match.end()
            name += "'" * (len(match[1]) if match[1] else match[2].count("\\prime"))
        if self.peek() == "(" and (
            _CALLED.match(re.split("[_']", name)[0])
            or (name not in ("e", "i") and _ONE_ARGUMENT.match(self._text, self._at))
        ):
            return ("named", name, self._arguments())
        if name == "e":
            return ("constant", "e")
        return ("name", name)

    def _raw(self) -> str:
        """A subscript as it is written."""
        token = self.take()
        if token != "{":
            return token if token != "\\text" else "".join((self._last["text"] or "").split())
        depth, start = 1, self._at
        while depth:
            if self._at >= len(self._text):
                raise UnreadableError("a subscript that breaks off")
            depth += {"{": 1, "}": -1}.get(self._text[self._at], 0)
            self._at += 1
        return re.sub(rf"\\(?:{_FONTS})(?![A-Za-z])|[\s{{}}]", "", self._text[start : self._at - 1])

    def _arguments(self) -> tuple[Tree, ...]:
        opening = self.take()
        if opening not in ("(", "{", "["):
            raise UnreadableError("no arguments")
        trees = [self.sum()]
        while self.peek() in (",", ";"):
            self.take()
            trees.append(self.sum())
        self.expect({"(": ")", "{": "}", "[": "]"}[opening])
        return tuple(trees)

    def _command(self, command: str) -> Tree:
        command = _SYNONYMS.get(command, command)
        if command in _FUNCTIONS or command in _SEVERAL:
            return self._function(command)
        if command == "frac":
            above, below = self._argument(), self._argument()
            return ("multiply", (above, ("power", below, MINUS_ONE)))
        if command in ("binom", "dbinom", "tbinom"):
            return ("call", "binomial", (self._argument(), self._argument()))
        if command == "sqrt":
            root = self._group("[", "]") if self.peek() == "[" else ("number", Fraction(2))
            return ("power", self._argument(), ("power", root, MINUS_ONE))
        if command in ("pi", "infty"):
            return ("constant", command) if self.peek() != "_" else self._name("\\" + command)
        if command in _NAMES:
            return self._name("\\" + command)
        if command in _ACCENTS:
            return self._name(f"{command}{{{self._raw()}}}")
        if command in ("lfloor", "lceil", "lvert"):
            tree = self.sum()
            self.expect("\\r" + command[1:])
            return ("call", {"lfloor": "floor", "lceil": "ceiling", "lvert": "abs"}[command], (tree,))
        if command == "begin":
            return self._matrix()
        raise UnreadableError(f"\\{command} in a formula")

    def _function(self, function: str) -> Tree:
        power: Tree | None = None
        base: tuple[Tree, ...] = ()
        while self.peek() in ("^", "_"):
            if self.take() == "^":
                power = self._argument()
            else:
                base = (self._argument(),)
        if function in _SEVERAL:
            return ("call", function, self._arguments())
        if power is not None and _is_minus_one(power) and function in _INVERSES:
            function, power = _INVERSES[function], None
        tree = ("call", function, (self._operand(), *base))
        return tree if power is None else ("power", tree, power)

    def _operand(self) -> Tree:
        r"""The argument of a function: a group, or the factors behind it: ``\sin 2x``, ``\sin \pi/4``."""
        if self.peek() in ("(", "{", "["):
            return self._atom()
        if negative := self.peek() == "-":
            self.take()
        factors = [MINUS_ONE] if negative else []
        factors.append(self._factor())
        while self._continues() and not self._ends_operand(factors[-1]):
            factors.append(self._factor())
        if (match := re.compile(r"\s*/\s*(\d+)").match(self._text, self._at)) is not None:
            self._at = match.end()
            factors.append(("number", Fraction(1, int(match[1]) or 1)))
        return factors[0] if len(factors) == 1 else ("multiply", tuple(factors))

    def _ends_operand(self, last: Tree) -> bool:
        token = self.peek() or ""
        if token in ("(", "["):
            return last[0] != "number"
        return token.removeprefix("\\") in _FUNCTIONS or token in ("\\sqrt", "\\text", "|")

    def _matrix(self) -> Tree:
        match = _MATRIX.match(self._text, self._at)
        if match is None:
            raise UnreadableError("an environment that is no matrix")
        self._at = match.end()
        rows: list[list[Tree]] = [[self.sum()]]
        while (token := self.take()) != "\\end":
            if token == "&":
                rows[-1].append(self.sum())
            elif token == "\\\\":
                if self.peek() != "\\end":
                    rows.append([self.sum()])
            else:
                raise UnreadableError(f"{token!r} in a matrix")
        self._at = self._text.index("}", self._at) + 1
        return ("matrix", tuple(map(tuple, rows)))


def _kind(match: re.Match[str]) -> str:
    if match["text"] is not None:
        return "\\text"
    return "\\" + match["command"] if match["command"] else match["number"] or match["char"]


def _is_minus_one(tree: Tree) -> bool:
    return tree in (MINUS_ONE, ("multiply", (MINUS_ONE, ONE)))
