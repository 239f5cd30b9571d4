r"""Units behind an answer: whether two answers name different ones.

Only measures of a known table are compared; eggs and everything else that is counted are no units here, and
one unit is never converted into another.
"""

from __future__ import annotations

import re

# The names of each unit in words, singular; then its symbols, whose case matters.
_NAMES = {
    "m": ("meter metre", "m"),
    "km": ("kilometer kilometre", "km"),
    "cm": ("centimeter centimetre", "cm"),
    "mm": ("millimeter millimetre", "mm"),
    "um": ("micrometer micrometre micron", "um"),
    "nm": ("nanometer nanometre", "nm"),
    "inch": ("inch", "in"),
    "foot": ("foot feet", "ft"),
    "yard": ("yard", "yd yds"),
    "mile": ("mile", "mi"),
    "g": ("gram gramme", "g"),
    "kg": ("kilogram", "kg"),
    "mg": ("milligram", "mg"),
    "pound": ("pound", "lb lbs"),
    "ounce": ("ounce", "oz"),
    "s": ("second", "s sec secs"),
    "ms": ("millisecond", "ms"),
    "minute": ("minute", "min mins"),
    "hour": ("hour", "h hr hrs"),
    "day": ("day", ""),
    "week": ("week", ""),
    "month": ("month", ""),
    "year": ("year", "yr yrs"),
    "dollar": ("dollar", "USD"),
    "cent": ("cent", ""),
    "euro": ("euro", "EUR"),
    "degree": ("degree", "deg"),
    "radian": ("radian", "rad"),
    "liter": ("liter litre", "L l"),
    "ml": ("milliliter millilitre", "mL ml"),
    "gallon": ("gallon", "gal"),
    "N": ("newton", "N"),
    "J": ("joule", "J"),
    "kJ": ("kilojoule", "kJ"),
    "W": ("watt", "W"),
    "kW": ("kilowatt", "kW"),
    "Pa": ("pascal", "Pa"),
    "Hz": ("hertz", "Hz"),
    "V": ("volt", "V"),
    "K": ("kelvin", "K"),
    "celsius": ("celsius", "C"),
    "fahrenheit": ("fahrenheit", "F"),
    "mol": ("mole", "mol"),
    "am": ("am", ""),
    "pm": ("pm", ""),
}
_WORDS = {name: unit for unit, (names, _) in _NAMES.items() for name in names.split()}
_SYMBOLS = {symbol: unit for unit, (_, symbols) in _NAMES.items() for symbol in symbols.split()}
_RATES = {"mph": {"mile": 1, "hour": -1}, "kph": {"km": 1, "hour": -1}, "kmh": {"km": 1, "hour": -1}}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}

_TEXT_COMMAND = r"\\(?:text|textrm|textbf|textit|textnormal|mbox|mathrm|mathbf|rm)"
_DEGREE = r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree|°"
_START = re.compile(rf"{_TEXT_COMMAND}\s*\{{|{_DEGREE}")
_BARE = re.compile(r"(?<=[\d.)}])\s*[A-Za-z][A-Za-z\d ./^{}*-]*")
_PIECE = re.compile(
    r"(?P<name>[A-Za-z]+)(?:\s*\^?\s*(?:\{\s*(?P<braced>-?\d)\s*\}|(?P<digit>-?\d)))?|(?P<over>/)|\\cdot(?![A-Za-z])|[*\s]"
)
_DOLLARS = re.compile(r"\s*[+-]?\s*\\\$")

Unit = dict[str, int]


def units_differ(answer: str, reference: str) -> bool:
    """Whether both tidied answers end in a known unit and not in the same one.

    ``^\\circ`` alone may be meant as a temperature.
    """
    a, b = _split(answer), _split(reference)
    if a is None or b is None or a == b:
        return False
    (unit, letters), (of_unit, of_letters) = a, b
    if letters and sorted(letters) == sorted(of_letters):
        return False  # mg may be a product, and m g a milligram
    if {"degree": 1} in (unit, of_unit) and "degree" in unit and "degree" in of_unit:
        return False
    return unit != of_unit
