r"""Compare answers as text, before any algebra: numbers, rounding, bases, words, labels.

Pure functions on the content of a box or on a reference. They cost microseconds, and they settle what
algebra libraries are too generous about: rounded numbers, bases, repeated elements, words, open lists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from pipo.graders.answer_lists import listing
from pipo.graders.typesetting import DEGREES, TEXT

# Exact arithmetic on 10^n takes memory in proportion to n; no data set holds larger numbers.
_MAX_EXPONENT = 400

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
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
_BASED = re.compile(
    r"(?P<digits>[0-9A-F]+)_\s*(?:(?P<one>[0-9])|\{\s*(?:(?P<many>[0-9]{1,2})|(?P<word>[a-z]+))\s*\})"
)
_BASE_NAMES = "two three four five six seven eight nine ten eleven twelve"
_BASES = {name: base for base, name in enumerate(_BASE_NAMES.split(), 2)} | {"sixteen": 16}
_LABEL = re.compile(r"(?!sqrt|sin|cos|tan|log|exp)[a-z]{3,}[a-z .'#-]*\d[\w ,.:/-]*")
_MIXED = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<whole>[0-9]+)(?:\s*\\frac\s*(?:\{\s*(?P<a>[0-9]+)\s*\}\s*\{\s*(?P<b>[0-9]+)\s*\}"
    r"|(?P<c>[0-9])\s*(?P<d>[0-9]))|\s+(?P<e>[0-9]+)\s*/\s*(?P<f>[0-9]+))"
)
_EQUALS = re.compile(r"(=|\\(?:approx|approxeq|simeq|sim)(?![A-Za-z])|≈)")


@dataclass(frozen=True)
class Number:
    """A number as written."""

    value: Fraction
    """Value of the number, the percent sign left out."""
    percent: bool
    """Whether the number has a percent sign."""

    def equals(self, other: Number) -> bool:
        """By value, exactly; a percentage is the number before its sign or a hundredth of it."""
        if self.percent == other.percent:
            return self.value == other.value
        percent, plain = (self, other) if self.percent else (other, self)
        return plain.value in (percent.value, percent.value / 100)


def number(text: str) -> Number | None:
    r"""The value of a tidied answer that is nothing but a number; None for anything else.

    That is an integer, a decimal, ``4.5e33``, ``4.5 \times 10^{33}``, a fraction of integers or a mixed
    number: ``1\frac45`` or ``1 4/5``. A percent or degree sign may follow. Commas count between groups of
    three digits only.
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
    if match := _MIXED.fullmatch(text):
        above, below = (int(match[a] or match[b] or match[c]) for a, b, c in ("ace", "bdf"))
        value = int(match["whole"]) + Fraction(above, below or 1)
        return Number(-value if match["sign"] == "-" else value, False) if below else None
    return None


def word(text: str) -> str | None:
    r"""A tidied answer that is words, in lower case and without ``\text{}``; None for anything else.

    Words are what stands in ``\text{}`` as a whole, or four letters or more in a row: fewer may be a
    product of variables. Parentheses around a choice, ``(C)``, do not count.
    """
    inside = TEXT.fullmatch(text)
    bare = _bare(text)
    if inside or re.fullmatch(r"[A-Za-z]{4,}(?:[ '-][A-Za-z]+)*", bare):
        return bare if re.fullmatch(r"[A-Za-z][A-Za-z '-]*", bare) else None
    return None


def same_word(answer: str, reference_word: str) -> bool:
    """Whether a tidied answer is a word, as :func:`word` gives it."""
    return _bare(answer) == reference_word


def _bare(text: str) -> str:
    text = TEXT.sub(r"\1", text).strip(" .")
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    return " ".join(text.lower().split())


def same_label(answer: str, reference: str) -> bool | None:
    r"""Whether two tidied answers are the same name with a number: ``May 14``, ``\text{Room 12B}``.

    None if either is no such name.
    """
    labels = [_LABEL.fullmatch(_bare(text)) for text in (answer, reference)]
    return None if None in labels else _bare(answer) == _bare(reference)


def based(text: str) -> tuple[str, int] | None:
    """Digits and base of a tidied ``52_8``; None for anything else."""
    match = _BASED.fullmatch(text)
    if match is None or not re.search("[0-9]", match["digits"]) or match["word"] not in (None, *_BASES):
        return None
    base = int(match["one"] or match["many"] or _BASES[match["word"]])
    return (match["digits"], base) if base > 10 or match["digits"].isdigit() else None


def same_in_base(answer: str, reference: str) -> bool | None:
    """Whether two tidied answers, at least one of them with a base, are the same; None if neither has one.

    The base may go without saying, since the question names it; another one is wrong. A single digit with a
    base is no answer to a reference without one: no question asks for its base.
    """
    (digits, base), (of_digits, of_base) = (
        based(last) or (last, None) for last in map(_last_in_base, (answer, reference))
    )
    if base is None and of_base is None:
        return None
    if digits != of_digits:
        return False
    if base is None or of_base is None:
        several = len(digits) > 1 and all(int(digit, 16) < (base or 0) for digit in digits)
        return base is None or base == 10 or several
    return base == of_base


def _last_in_base(text: str) -> str:
    """The last side of ``x = 1011_2`` or ``11 = 1011_2``; any other text as it is."""
    *before, last = (side.strip() for side in text.split("="))
    if before and (of := based(last)) is not None:
        values = [int(of[0], of[1]) if _is_in_base(*of) else None]
        for side in before:
            if re.fullmatch(r"[A-Za-z]", side) is None:
                digits, base = based(side) or (side, 10)
                values.append(int(digits, base) if _is_in_base(digits, base) else None)
        return last if None not in values and len(set(values)) == 1 else text
    return text


def _is_in_base(digits: str, base: int) -> bool:
    digit_values = [int(digit, 16) for digit in digits] if re.fullmatch("[0-9A-F]+", digits) else [base]
    return 1 < base <= 16 and max(digit_values) < base


def relates_numbers(text: str) -> bool:
    r"""Whether a tidied answer is not one value but two numbers: ``6 \approx 7`` or ``6 = 7``.

    ``\frac{7}{12} \approx 0.583`` is one value and what it rounds to.
    """
    parts = _EQUALS.split(text)  # every other one is the sign
    for left, sign, right in zip(parts[::2], parts[1::2], parts[2::2], strict=False):
        a, b = number(left.strip()), number(right.strip())
        if a is not None and b is not None and not (a.equals(b) if sign == "=" else _rounds(a, b, right)):
            return True
    return False


def _rounds(exact: Number, rounded: Number, text: str) -> bool:
    """Whether a decimal is what a number is about, up to one unit of its last digit."""
    _, point, decimals = text.strip().partition(".")
    close = abs(exact.value - rounded.value) * 10 ** len(decimals) < 1
    return bool(point) and decimals.isdigit() and exact.percent == rounded.percent and close


def readings(text: str, *, other_has_percent: bool) -> list[str]:
    r"""A tidied answer as LaTeX for algebra, in each way it may be meant.

    ``2e-1`` may be a fifth or hold Euler's number; ``20\%`` may be 20 or a fifth, unless the other side is a
    percentage too.
    """
    percent = text.endswith("\\%")
    text = text.removesuffix("\\%").strip()
    forms = [text]
    if (match := _NUMBER.fullmatch(text)) and match["e"]:
        mantissa = re.split("[eE]", text)[0]
        forms.append(f"{mantissa} \\times 10^{{{int(match['e'])}}}")
    forms = [_both_signs(form) for form in forms]
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
