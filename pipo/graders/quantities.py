r"""Parse quantities: numbers with units or words behind them, compound ones, several in one answer.

``6 \text{ feet } 2 \text{ inches}`` is one answer of two quantities, ``8 \text{ cm}, 15 \text{ cm}`` a list.
Words that change the number, ``tenths`` or ``or so``, are part of the answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipo.graders.answer_lists import Listing, listing, split_at
from pipo.graders.answer_text import number
from pipo.graders.typesetting import ELLIPSIS, TEXT
from pipo.graders.units import parsed_unit

_NUMERAL_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred
thousand million billion trillion quadrillion dozen gross score lakh crore
"""
# As plurals or as the last word. second is left out, as it is a unit, and quarter, as it is a coin.
_FRACTION_WORDS = """
half third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth
fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth fortieth fiftieth sixtieth
hundredth thousandth millionth billionth
"""
_OPERATION_WORDS = """
halves nil double triple quadruple twice thrice fold percent percentage squared cubed root sqrt
factorial choose mod modulo log reciprocal inverse power exponent base pi times multiplied divided
plus minus over add added subtract subtracted sum product negative infinity infinite
"""
_DOUBT_WORDS = """
and or not no non nor neither never none without except but if unless maybe perhaps possibly
probably approximately approx about around roughly nearly almost circa ish something else unknown
any either so etc
"""
_COMPARISON_WORDS = """
more less fewer greater smaller larger than least most above below under exceeding beyond up at
between to through until from out
"""
_DATE_WORDS = """
january february march april may june july august september october november december monday tuesday
wednesday thursday friday saturday sunday
"""
_NUMERALS, _FRACTIONS = frozenset(_NUMERAL_WORDS.split()), frozenset(_FRACTION_WORDS.split())
_CHANGING = frozenset(f"{_OPERATION_WORDS} {_DOUBT_WORDS} {_COMPARISON_WORDS} {_DATE_WORDS}".split())

_LARGE = re.compile(r"[a-z]+(?:illion|teen)(?:th)?s?|googol")
_SQUARED_UNITS = re.compile(r"units?\s+(?:squared|cubed)")
_ANY_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
_PRIME = r"'|\^\s*\{?\s*\\prime\s*\}?"
_DOUBLE_PRIME = rf"''|\"|(?:{_PRIME})\s*(?:{_PRIME})|\^\s*\{{?\s*\\prime\s*\\prime\s*\}}?"
_ANGLE = re.compile(
    rf"(?P<sign>-?)\s*(?P<degrees>[\d.]+)\s*\^\\circ\s*(?P<minutes>[\d.]+)\s*(?:{_PRIME})"
    rf"\s*(?:(?P<seconds>[\d.]+)\s*(?:{_DOUBLE_PRIME}))?"
)
_LENGTH = re.compile(rf"(?P<feet>[\d.]+)\s*(?:{_PRIME})\s*(?P<inches>[\d.]+)\s*(?:{_DOUBLE_PRIME})")
_GLUE = re.compile(r"\s*(?:\\cdot|\\times|\*|/|\^\s*\{?\s*-?\d+\s*\}?|\^\s*\\circ|\s)*\s*")
_DIGIT_IN_WORDS = re.compile(r"(?<![a-z^_{\d-])\d")  # not the 2 of cm2 or m^2
_BARE_UNIT = re.compile(r"(?P<value>.*?[\d})])\s*(?P<unit>[A-Za-z][A-Za-z\d ./^{}*-]*)")
_MAY_HAVE_UNITS = re.compile(r"[A-Za-z'\"]|\\circ")
_PLAIN = re.compile(r"(?<![A-Za-z\\])[A-Za-z]|\\(?!frac|sqrt|pi|circ|times|cdot|text|mathrm)[A-Za-z]")
# 7 \pmod{11} is a 7, and so is x \equiv 7 \pmod{11}
_MODULUS = re.compile(
    r"^(?:.*\\equiv(?![A-Za-z]))?\s*(?=-?[\d,]+\s*(?:\\pmod|\(\s*(?:\\(?:text|mathrm)\s*\{)?\s*\\?b?mod)(?![A-Za-z]))"
    r"|(?<=\d)\s*(?:\\pmod(?![A-Za-z])\s*(?:\{?\s*\d+\s*\}?)|\(\s*(?:\\(?:text|mathrm)\s*\{\s*mod\s*\}|\\b?mod|mod)\s*\d+\s*\))$"
)
_COMPOUND = re.compile(r"(?:[\d.]++\s*+[A-Za-z]++\.?+\s*+(?:(?:,|and)\s*+)?+)++")  # never goes back
_PAIR = re.compile(r"\s*([\d.]+)\s*([A-Za-z]+)\.?\s*(?:,|and)?")


def changes_number(words: str) -> bool:
    """Whether words behind a number are more than the name of what is counted or measured."""
    if _SQUARED_UNITS.fullmatch(words.strip()):
        return False
    found = _ANY_WORD.findall(words.lower())
    for word, following in zip(found, [*found[1:], "of"], strict=False):
        numeral = word in _NUMERALS or (word.removesuffix("s") in _NUMERALS and word != "zeros")
        if word in _CHANGING or numeral:
            return True
        if (word.endswith("s") and word[:-1] in _FRACTIONS) or (word in _FRACTIONS and following == "of"):
            return True
        if _LARGE.fullmatch(word) or (word.startswith("quarter") and "of" in found):
            return True
        parts = word.split("-")  # twenty-one is a number, five-dollar bills are not
        if len(parts) > 1 and (
            parts[-1].removesuffix("s") in _NUMERALS | _FRACTIONS | {"second"}
            or not _CHANGING.isdisjoint(parts)
        ):
            return True
    return False


def is_text_only(text: str) -> bool:
    r"""Whether a tidied answer has no value that could be compared: an open list, ``5 \text{ or so}``."""
    inside = " ".join(TEXT.findall(text))
    if (match := _BARE_UNIT.fullmatch(text)) is not None and re.fullmatch(
        r"[A-Za-z]{3,}[A-Za-z ]*", match["unit"]
    ):
        inside += " " + match["unit"]
    return bool(changes_number(inside) or _DIGIT_IN_WORDS.search(inside) or ELLIPSIS.search(text))


@dataclass(frozen=True)
class Quantity:
    """A number, or whatever stands for one, and the unit behind it."""

    value: str
    """The number as it is written, with its name: ``x=8``."""
    unit: str
    """Unit or thing counted, in one spelling; "" for a plain number."""
    known: bool
    """Whether the unit is a measure that is compared with others."""


def quantities(text: str, *, bare: bool) -> list[Quantity] | None:
    """What one element of a tidied answer consists of; None where words say more than a unit.

    Letters behind a number that are not marked as text are only a unit if ``bare``.
    """
    if (match := _ANGLE.fullmatch(text)) is not None:
        found = [
            ("degree^1", match["degrees"]),
            ("minute^1", match["minutes"]),
            ("second^1", match["seconds"]),
        ]
        return [Quantity(match["sign"] + value, unit, True) for unit, value in found if value]
    if (match := _LENGTH.fullmatch(text)) is not None:
        return [Quantity(match["feet"], "foot^1", True), Quantity(match["inches"], "inch^1", True)]
    if _COMPOUND.fullmatch(text):
        pairs = [(value, unit) for value, word in _PAIR.findall(text) if (unit := _unit(word)) is not None]
        if len(pairs) == len(_PAIR.findall(text)) > 1:
            return [Quantity(value, *unit) for value, unit in pairs]
    values, words = split_at(text, TEXT)
    if not words:
        return _with_bare_unit(text) if bare else [Quantity(text, "", False)]
    several: list[Quantity] = []
    value, unit = values[0], ""
    for behind, word in zip(values[1:], words, strict=True):
        inside = TEXT.fullmatch(word)
        unit += f" {inside[1] if inside else ''}"
        if _GLUE.fullmatch(behind):
            unit += behind
            continue
        if (quantity := _quantity(value, unit)) is None:
            return None
        several.append(quantity)
        value, unit = behind.removeprefix(",").strip(), ""
    if not unit.strip():
        return None
    last = _quantity(value, unit)
    return None if last is None else [*several, last]


def _quantity(value: str, unit: str) -> Quantity | None:
    unit = re.sub(r"^\s*,?\s*and\b|\band\s*$|[,.&;:]\s*$", "", unit.strip()).strip()
    key = _unit(unit)
    return (
        None
        if key is None or not re.search(r"[\d})A-Za-z]\s*(?:\^\\circ)?\s*$", value)
        else Quantity(value.strip(), *key)
    )


def _unit(words: str) -> tuple[str, bool] | None:
    """A unit in one spelling and whether it is a known one; None for what is none."""
    if (measures := parsed_unit(words)) is not None:
        return " ".join(f"{name}^{power}" for name, power in sorted(measures.items())), True
    # Two letters may be the ends of a line, one letter is a variable.
    if changes_number(words) or not re.fullmatch(r"(?=.*[A-Za-z]{3})[A-Za-z '.,()/-]+", words.strip()):
        return None
    name = " ".join(words.lower().split())
    return name.removesuffix("s"), False


def _with_bare_unit(text: str) -> list[Quantity] | None:
    """A number with a unit, or words of three letters or more, that is not marked as text."""
    if (match := _BARE_UNIT.fullmatch(text)) is None:
        return [Quantity(text, "", False)]
    value, words = match["value"], match["unit"].strip()
    if number(re.sub(r"^[A-Za-z]\s*=\s*", "", value).strip()) is None:
        return [Quantity(text, "", False)]
    measures = parsed_unit(words)
    separate = re.fullmatch(r"[A-Za-z]{3,}(?:\s+[A-Za-z]+)*", words) and text[len(value) :][:1] == " "
    if measures is None and not separate:
        return [Quantity(text, "", False)]
    key = _unit(words)
    return None if key is None else [Quantity(value, *key)]


def without_units(answer: str, reference: str) -> tuple[str, str] | None:
    """Two tidied answers without the units behind their numbers; None if their quantities cannot be the same.

    Several quantities of different units become a list in the order of the reference's units.
    """
    if "mod" not in reference:
        answer = _MODULUS.sub("", answer) if _MODULUS.search(answer) else answer
    if not _MAY_HAVE_UNITS.search(answer + reference):
        return answer, reference
    sides = [listing(text) for text in (answer, reference)]
    others = (reference, answer)
    found = [
        [quantities(element, bare=_PLAIN.search(TEXT.sub("", other)) is None) for element in side.elements]
        for side, other in zip(sides, others, strict=True)
    ]
    groups = [[group for group in side if group is not None] for side in found]
    if [len(side) for side in groups] != [len(side) for side in found]:
        return answer, reference
    if any(len(group) > 1 for side in groups for group in side):
        return _compounds(
            [q for group in groups[0] for q in group], [q for group in groups[1] for q in group]
        )
    flat = [[group[0] for group in side] for side in groups]
    units = [[q.unit for q in side] for side in flat]
    known = [{q.unit for q in side if q.known} for side in flat]
    if len(flat[0]) > 1 and all(known) and known[0] != known[1]:
        return None
    several = [len(side) > 1 and all(side) and len(set(side)) == len(side) for side in units]
    if len(flat[0]) != len(flat[1]) or not any(several) or "=" in answer + reference:
        return _rebuilt(sides[0], flat[0]), _rebuilt(sides[1], flat[1])
    if all(several) and sorted(units[0]) == sorted(units[1]):
        flat[0] = [next(q for q in flat[0] if q.unit == unit) for unit in units[1]]
    return _tuple(flat[0]), _tuple(flat[1])


def _compounds(answer: list[Quantity], reference: list[Quantity]) -> tuple[str, str] | None:
    """Answers of several quantities as lists of numbers; None if their units are not the same."""
    if len(answer) != len(reference):
        answer, reference = ([q for q in side if q.value != "0"] for side in (answer, reference))
    units = [q.unit for q in reference]
    if sorted(units) != sorted(q.unit for q in answer):
        return None
    if len(set(units)) == len(units):
        answer = [next(q for q in answer if q.unit == unit) for unit in units]
    elif units != [q.unit for q in answer]:
        return None
    return _tuple(answer), _tuple(reference)


def _tuple(values: list[Quantity]) -> str:
    return f"({', '.join(q.value for q in values)})" if len(values) != 1 else values[0].value


def _rebuilt(side: Listing, values: list[Quantity]) -> str:
    opening, closing = {"": ("", ""), "{}": ("\\{", "\\}")}.get(side.brackets, tuple(side.brackets))
    return f"{opening}{', '.join(q.value for q in values)}{closing}"
