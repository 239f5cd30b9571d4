r"""Answers as text: what their writing alone decides, before any algebra.

Pure functions on the content of a box or on a reference. They cost microseconds, and they settle what
algebra libraries are too generous about: rounded numbers, bases, repeated elements, words, open lists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

# Exact arithmetic on 10^n takes memory in proportion to n; no data set holds larger numbers.
_MAX_EXPONENT = 400
_MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
# After a number these words change its value, so what they stand in is no unit.
_NOT_UNITS = frozenset(
    [
        "and",
        "choose",
        "cubed",
        "dozen",
        "factorial",
        "half",
        "maybe",
        "minus",
        "mod",
        "modulo",
        "not",
        "or",
        "over",
        "pi",
        "plus",
        "root",
        "sqrt",
        "squared",
        "times",
        "to",
    ]
)

_NUMBER_WORD = re.compile(
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    "(?:thir|four|fif|six|seven|eigh|nine)teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
)

_CLOSED_UP = re.compile(r"(\\\\)|\\!\s*|(?<=\d)\\,(?=\d{3}(?!\d))")
_SPACING = re.compile(r"(\\\\)|\\[,;: ]|\\q?quad(?![A-Za-z])|~")
_WRAPPERS = re.compile(r"(\\\\)|\\?\$|\\[()\[\]]|\\(?:left|right|displaystyle)(?![A-Za-z])")
TEXT_COMMAND = r"\\(?:text|textrm|textbf|textit|textnormal|mbox|mathrm|mathbf|rm)"
_TEXT = re.compile(TEXT_COMMAND + r"\s*\{([^{}]*)\}")
_TEXT_SUBSCRIPT = re.compile(r"_\s*\{\s*" + TEXT_COMMAND + r"\s*\{([^{}]*)\}\s*\}")
_TEXT_NUMBER = re.compile(TEXT_COMMAND + r"\s*\{(\s*[+-]?[.0-9][^{}]*)\}")
_JOINING_WORD = re.compile(
    r"(?:,?\s*" + TEXT_COMMAND + r"\s*\{\s*(?:and|or)\s*\}|(?:,|(?<=[\w)\]}]))\s+(?:and|or)(?=[\s\\]))\s*"
)
_PERCENT = re.compile(r"\\?%|" + TEXT_COMMAND + r"\s*\{\s*percent\s*\}|(?<=\d)\s+percent\b")
_MAGNITUDE = re.compile(
    rf"(?<=\d)\s*(?P<text>{TEXT_COMMAND}\s*\{{\s*)?\b(?P<word>" + "|".join(_MAGNITUDES) + r")\b"
)
_EMPTY_TEXT = re.compile(TEXT_COMMAND + r"\s*\{\s*\}")
_NUMPY = re.compile(r"\bnp\.(?=(?:arc)?(?:sin|cos|tan)\b)")
_MEMBER = re.compile(r"[A-Za-z]\s*\\in(?![A-Za-z])\s*")
_BARE_POINT = re.compile(r"(?<=\d)\.(?![\d.])")

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
DEGREES = r"\^\s*(?:\\circ|\{\s*\\circ\s*\})"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<digits>{_DIGITS})"
    r"(?:[eE](?P<e>[+-]?[0-9]{1,6})|\s*(?:\\times|\\cdot|\*|×)\s*10\s*\^\s*(?P<power>\{\s*[+-]?[0-9]{1,6}\s*\}|[0-9]))?"  # noqa: RUF001
    rf"\s*(?:(?P<percent>\\%)|{DEGREES})?"
)
_FRACTION = re.compile(
    r"(?P<sign>[+-]?)\s*(?:\\frac\s*(?:\{\s*(?P<a>-?[0-9]+)\s*\}\s*\{\s*(?P<b>[0-9]+)\s*\}|(?P<c>[0-9])\s*(?P<d>[0-9]))"
    r"|(?P<e>[0-9]+)\s*/\s*(?P<f>[0-9]+))"
)
_POWER_OF_TEN = re.compile(r"(?P<sign>[+-]?)\s*10\s*\^\s*(?P<power>\{\s*[+-]?[0-9]{1,6}\s*\}|[0-9])")
_BASED = re.compile(r"(?P<digits>[0-9A-F]+)_\s*(?:(?P<one>[0-9])|\{\s*(?P<many>[0-9]{1,2})\s*\})")
_UNIT_WORDS = re.compile(rf"([+-]?\s*(?:{_DIGITS}))\s+([A-Za-z]{{3,}}(?:\s+[A-Za-z]+)*)")
_NUMBER_IN_WORDS = re.compile(r"(?<![a-z^_{\d])\d")  # not the 2 of cm2 or m^2
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
_RELATION = re.compile(r"[<>≤≥]|\\(?:le|leq|ge|geq|lt|gt|ne|neq|in|subset)(?![A-Za-z])")
_EQUALS = re.compile(r"(=|\\(?:approx|approxeq|simeq|sim)(?![A-Za-z])|≈)")
_GROUPED = re.compile(r"(?<![0-9])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])")
_ELLIPSIS = re.compile(r"\.\.|…|\\(?:ldots|cdots|dots|vdots)(?![A-Za-z])")


def tidy(text: str) -> str:
    r"""The same answer without what only typesets it.

    Dollar signs, spacing and sizing commands go; ``\dfrac`` becomes ``\frac``, ``and`` and ``or``
    between answers become commas, ``million`` becomes its power of ten, ``x \in`` before a set and
    a full stop at the end go.
    """
    text = _CLOSED_UP.sub(lambda m: m[1] or "", text)
    text = _SPACING.sub(lambda m: m[1] or " ", text)
    text = _WRAPPERS.sub(lambda m: m[1] or "", text)
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text).replace("{,}", ",")
    if (whole := _TEXT_NUMBER.fullmatch(text.strip())) is not None:
        text = whole[1]
    text = _TEXT_SUBSCRIPT.sub(lambda m: f"_{{{m[1].strip()}}}", text)
    text = _JOINING_WORD.sub(", ", text)
    text = _PERCENT.sub(r"\\%", text)
    text = _MAGNITUDE.sub(lambda m: f" \\times 10^{{{_MAGNITUDES[m['word']]}}} {m['text'] or ''}", text)
    text = _EMPTY_TEXT.sub("", text)
    text = _NUMPY.sub(r"\\", text)
    text = " ".join(text.split())
    if not _ELLIPSIS.search(text):
        text = _BARE_POINT.sub("", text.rstrip(".,; "))
    return _MEMBER.sub("", text, count=1) if _MEMBER.match(text) else text


@dataclass(frozen=True)
class Number:
    """A number as written.

    Attributes:
        value: without the percent sign.
        percent: whether it has one.
    """

    value: Fraction
    percent: bool

    def equals(self, other: Number) -> bool:
        """By value, exactly; a percentage is the number before its sign or a hundredth of it."""
        if self.percent == other.percent:
            return self.value == other.value
        percent, plain = (self, other) if self.percent else (other, self)
        return plain.value in (percent.value, percent.value / 100)


def number(text: str) -> Number | None:
    r"""The value of a tidied answer that is nothing but a number; None for anything else.

    That is an integer, a decimal, ``4.5e33``, ``4.5 \times 10^{33}`` or a fraction of integers. A percent
    or degree sign may follow. Commas count between groups of three digits only.
    """
    if match := _NUMBER.fullmatch(text):
        exponent = int(match["e"] or (match["power"] or "0").strip("{} "))
        if abs(exponent) > _MAX_EXPONENT:
            return None
        value = Fraction(Decimal(match["sign"] + match["digits"].replace(",", "")))
        return Number(value * Fraction(10) ** exponent, match["percent"] is not None)
    if match := _POWER_OF_TEN.fullmatch(text):
        exponent = int(match["power"].strip("{} "))
        if abs(exponent) > _MAX_EXPONENT:
            return None
        return Number((-1 if match["sign"] == "-" else 1) * Fraction(10) ** exponent, False)
    if match := _FRACTION.fullmatch(text):
        above, below = (int(match[a] or match[b] or match[c]) for a, b, c in ("ace", "bdf"))
        return Number(Fraction(-above if match["sign"] == "-" else above, below), False) if below else None
    return None


def word(text: str) -> str | None:
    r"""A tidied answer that is words, in lower case and without ``\text{}``; None for anything else.

    Words are what stands in ``\text{}`` as a whole, or four letters or more in a row: fewer may be a
    product of variables. Parentheses around a choice, ``(C)``, do not count.
    """
    inside = _TEXT.fullmatch(text)
    bare = _bare(text)
    if inside or re.fullmatch(r"[A-Za-z]{4,}(?:[ '-][A-Za-z]+)*", bare):
        return bare if re.fullmatch(r"[A-Za-z][A-Za-z '-]*", bare) else None
    return None


def same_word(answer: str, reference_word: str) -> bool:
    """Whether a tidied answer is a word, as :func:`word` gives it."""
    return _bare(answer) == reference_word


def _bare(text: str) -> str:
    text = _TEXT.sub(r"\1", text).strip(" .")
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    return " ".join(text.lower().split())


def based(text: str) -> tuple[str, int] | None:
    """Digits and base of a tidied ``52_8``; None for anything else."""
    match = _BASED.fullmatch(text)
    if match is None or not re.search("[0-9]", match["digits"]):
        return None
    base = int(match["one"] or match["many"])
    return (match["digits"], base) if base > 10 or match["digits"].isdigit() else None


def same_in_base(answer: str, reference: str) -> bool | None:
    """Whether two tidied answers, at least one of them with a base, are the same; None if neither has one.

    The base may go without saying, since the question names it; another one is wrong. A single digit with a
    base is no answer to a reference without one: no question asks for its base.
    """
    (digits, base), (of_digits, of_base) = (based(text) or (text, None) for text in (answer, reference))
    if base is None and of_base is None:
        return None
    if digits != of_digits:
        return False
    if base is None or of_base is None:
        several = len(digits) > 1 and all(int(digit, 16) < (base or 0) for digit in digits)
        return base is None or base == 10 or several
    return base == of_base


def drop_unit_words(text: str) -> str:
    """``18 eggs`` as ``18``: bare words after a tidied number, which algebra would multiply."""
    match = _UNIT_WORDS.fullmatch(text)
    return match[1] if match and not _change_the_number(set(match[2].lower().split())) else text


def is_text_only(text: str) -> bool:
    r"""Whether a tidied answer has no value that could be compared: an open list, ``5 \text{ or so}``."""
    inside = " ".join(_TEXT.findall(text)).lower()
    if match := _UNIT_WORDS.fullmatch(text):
        inside = match[2].lower()
    says_more = _change_the_number(set(re.findall("[a-z]+", inside))) or _NUMBER_IN_WORDS.search(inside)
    return bool(says_more or _ELLIPSIS.search(text))


def _change_the_number(words: set[str]) -> bool:
    """Whether words behind a number are more than a unit: ``squared``, or another number."""
    return bool(words & _NOT_UNITS or (words and all(map(_NUMBER_WORD.fullmatch, words))))


def relates_numbers(text: str) -> bool:
    r"""Whether a tidied answer is not one value but two numbers: ``6 \approx 7`` or ``6 = 7``."""
    parts = _EQUALS.split(text)  # every other one is the sign
    for left, sign, right in zip(parts[::2], parts[1::2], parts[2::2], strict=False):
        a, b = number(left.strip()), number(right.strip())
        if a is not None and b is not None and (sign != "=" or not a.equals(b)):
            return True
    return False


@dataclass(frozen=True)
class Listing:
    r"""A tidied answer as a list.

    Attributes:
        brackets: what encloses all of it: ``""``, ``{}``, ``()``, ``[]``, ``(]`` or ``[)``.
        elements: what stands between its commas and semicolons.
    """

    brackets: str
    elements: tuple[str, ...]

    @property
    def count(self) -> int:
        r"""Number of elements; one with ``\pm`` stands for two."""
        return sum(2 if "\\pm" in element else 1 for element in self.elements)


def listing(text: str) -> Listing:
    """The elements of a tidied answer and what encloses them."""
    body = text.replace("\\{", "⟨").replace("\\}", "⟩")
    pairs = {"(": ")]", "[": ")]", "⟨": "⟩"}
    brackets, inner = "", body
    if body[:1] in pairs and body[-1:] in pairs[body[0]] and _encloses(body):
        brackets, inner = body[0] + body[-1], body[1:-1]
    brackets = "{}" if brackets == "⟨⟩" else brackets
    elements = [e.replace("⟨", "\\{").replace("⟩", "\\}").strip() for e in _split(inner)]
    return Listing(brackets, tuple(elements))


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


def listings_differ(answer: str, reference: str) -> bool:
    r"""Whether two tidied answers cannot be equal because one lists more or is another kind of bracket.

    Inequalities are left to algebra, and so is a number such as ``1,234`` that may be a pair.
    """
    if any(_RELATION.search(text) or _GROUPED.search(text) for text in (answer, reference)):
        return False
    a, b = listing(answer), listing(reference)
    if a.count != b.count:
        return True
    if a.count == 1:
        return False  # parentheses around one value say nothing
    # A pair may come without its parentheses, a set without its braces; nothing else is exchangeable.
    open_forms = {"", "()"}, {"", "{}"}
    return a.brackets != b.brackets and not any({a.brackets, b.brackets} <= forms for forms in open_forms)


def same_text(answer: str, reference: str) -> bool:
    r"""Whether two tidied answers are written alike: blanks and needless braces aside, sets in any order."""
    if _compact(answer) == _compact(reference):
        return True
    a, b = listing(answer), listing(reference)
    sets = {a.brackets, b.brackets} <= {"", "{}"}
    return sets and sorted(map(_compact, a.elements)) == sorted(map(_compact, b.elements))


def _compact(text: str) -> str:
    # Some blanks mean something: \pi r is not \pir, 1 2 is not 12.
    text = re.sub(r"(\\[A-Za-z]+|\d) (?=[A-Za-z\d])", "\\1\0", text).replace(" ", "")
    return re.sub(r"(?<![A-Za-z])\{([A-Za-z0-9])\}", r"\1", text).replace("\0", " ")


def readings(text: str, *, other_has_percent: bool) -> list[str]:
    r"""A tidied answer as LaTeX for algebra, in each way it may be meant.

    Decimals become fractions, so that algebra compares exactly. ``2e-1`` may be a fifth or hold
    Euler's number; ``20\%`` may be 20 or a fifth, unless the other side is a percentage too.
    """
    text = drop_unit_words(text)
    percent = text.endswith("\\%")
    text = text.removesuffix("\\%").strip()
    forms = [text]
    if (match := _NUMBER.fullmatch(text)) and match["e"]:
        mantissa = re.split("[eE]", text)[0]
        forms.append(f"{mantissa} \\times 10^{{{int(match['e'])}}}")
    forms = [_DECIMAL.sub(_as_fraction, _both_signs(form)) for form in forms]
    if percent and not other_has_percent:
        forms += [f"\\frac{{{form}}}{{100}}" for form in forms]
    return forms


def _both_signs(text: str) -> str:
    r"""``1 \pm \sqrt{2}`` as the two answers it stands for, also within a list."""
    found = listing(text)
    if "\\pm" not in text or "\\mp" in text or found.brackets not in ("", "{}"):
        return text
    elements: list[str] = []
    for element in found.elements:
        signs = "+-" if element.count("\\pm") == 1 else ""
        elements += [element.replace("\\pm", sign) for sign in signs] or [element]
    return ", ".join(elements)


def _as_fraction(match: re.Match[str]) -> str:
    whole, decimals = match.groups()
    return f"{{\\frac{{{int(whole + decimals)}}}{{{10 ** len(decimals)}}}}}"
