r"""Compare the units of two answers: known measures differ, what is counted does not matter.

Only measures of a known table are compared; eggs and everything else that is counted are no units here, and
one unit is never converted into another.
"""

from __future__ import annotations

import re

from pipo.graders.answer_lists import listing
from pipo.graders.answer_text import number
from pipo.graders.typesetting import DEGREES, TEXT_COMMAND, tidy

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
    "pint": ("pint", "pt"),
    "quart": ("quart", "qt"),
    "cup": ("cup", ""),
    "teaspoon": ("teaspoon", "tsp"),
    "tablespoon": ("tablespoon", "tbsp"),
    "ton": ("ton", ""),
    "tonne": ("tonne", ""),
    "acre": ("acre", "ac"),
    "hectare": ("hectare", "ha"),
    "dm": ("decimeter decimetre", "dm"),
    "cl": ("centiliter centilitre", "cL cl"),
    "kl": ("kiloliter kilolitre", "kL kl"),
    "mph": ("mph", "mph"),
    "kph": ("kph kmph", "kph kmph"),
    "rpm": ("rpm", "rpm"),
    "kWh": ("", "kWh"),
    "MHz": ("megahertz", "MHz"),
    "GHz": ("gigahertz", "GHz"),
    "kHz": ("kilohertz", "kHz"),
    "eV": ("electronvolt", "eV"),
    "keV": ("", "keV"),
    "MeV": ("", "MeV"),
    "GeV": ("", "GeV"),
    "cal": ("calorie", "cal"),
    "kcal": ("kilocalorie", "kcal"),
    "MW": ("megawatt", "MW"),
    "mW": ("milliwatt", "mW"),
    "kPa": ("kilopascal", "kPa"),
    "atm": ("atmosphere", "atm"),
    "A": ("ampere amp", "A"),
    "mA": ("milliampere", "mA"),
    "ohm": ("ohm", ""),
    "angstrom": ("angstrom", ""),
    "erg": ("erg", "ergs"),
    "tesla": ("tesla", "T"),
    "AU": ("", "AU"),
    "parsec": ("parsec", "pc"),
    "am": ("am", ""),
    "pm": ("pm", ""),
}
_WORDS = {name: unit for unit, (names, _) in _NAMES.items() for name in names.split()}
_SYMBOLS = {symbol: unit for unit, (_, symbols) in _NAMES.items() for symbol in symbols.split()}
_BEFORE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_BEHIND = {"squared": 2, "cubed": 3}

_DEGREE_SIGN = re.compile(rf"{DEGREES}|\\degree(?![A-Za-z])|°")
_DOLLAR_SIGN = re.compile(r"\$?\s*[+-]?\s*(?:\\\$|\$(?=[^$]*$))")  # but $5$ is only LaTeX
_MARKED = re.compile(rf"(?P<value>.+?)(?P<unit>(?:{TEXT_COMMAND}\s*\{{|{_DEGREE_SIGN.pattern}).*)")
_BARE = re.compile(r"(?:[a-z]\s*=)?(?P<value>.*?[\d}])\s*(?P<unit>[A-Za-z][A-Za-z\d ./^{}*-]*)")
_EXPONENT = re.compile(r"\s*\^\s*(?:\{\s*(-?\d)\s*\}|(\d))")
_NOISE = re.compile(TEXT_COMMAND + r"(?![A-Za-z])|\\(?:cdot|times)(?![A-Za-z])|[{}*·]")
_PIECE = re.compile(r"\s*(?:(?P<name>[A-Za-z]+)(?P<power>\^?-?\d)?|(?P<over>/))\s*")

Unit = dict[str, int]


def units_differ(answer: str, reference: str) -> bool:
    r"""Whether two answers as written both have a known unit, and not the same.

    A degree sign alone may be meant as a temperature. Where both are made of the same characters, such as
    ``2mg`` and ``2 g m``, the letters may be variables.
    """
    a, b = unit_of(answer), unit_of(reference)
    if a is None or b is None or sorted(answer.replace(" ", "")) == sorted(reference.replace(" ", "")):
        return False
    either = (a, b)
    if {"degree": 1} in either and ({"celsius": 1} in either or {"fahrenheit": 1} in either):
        return False
    return a != b


def unit_of(answer: str) -> Unit | None:
    r"""The unit of an answer as written, as the power of each measure; None for none or an unknown one.

    It stands in ``\text{}`` or the like at the end, is a degree or dollar sign, or is bare behind a number.
    """
    text = tidy(answer)
    if len(listing(text).elements) > 1:
        return None
    found = _MARKED.fullmatch(text)
    if found is None and (found := _BARE.fullmatch(text)) is not None and not number(found["value"].strip()):
        found = None
    unit = parsed_unit(found["unit"]) if found else None
    if _DOLLAR_SIGN.match(answer.strip()):
        return {**(unit or {}), "dollar": 1}
    return unit


def parsed_unit(text: str) -> Unit | None:
    """The powers of the measures in the text of a unit; None if it holds anything else."""
    text = _EXPONENT.sub(lambda m: "^" + (m[1] or m[2]), _DEGREE_SIGN.sub(" degree ", text))
    text = _NOISE.sub(" ", text).replace(" ^", "^").replace(".", "").strip()
    unit: Unit = {}
    end, sign, factor, last = 0, 1, 1, None
    while end < len(text):
        piece = _PIECE.match(text, end)
        if piece is None:
            return None
        end, name = piece.end(), piece["name"]
        if piece["over"] or name == "per":
            sign = -1
        elif name in _BEFORE:
            factor = _BEFORE[name]
        elif name in _BEHIND and last is not None:
            unit[last] *= _BEHIND[name]
        elif (last := _known(name)) is not None:
            power = int((piece["power"] or "1").lstrip("^"))
            unit[last] = unit.get(last, 0) + sign * factor * power
            factor = 1
        else:
            return None
    if "celsius" in unit or "fahrenheit" in unit:
        unit.pop("degree", None)
    return unit or None


def _known(name: str) -> str | None:
    if name in _SYMBOLS:
        return _SYMBOLS[name]
    name = name.lower()
    forms = (name, name.removesuffix("s"), name.removesuffix("es"))
    return next((_WORDS[form] for form in forms if form in _WORDS), None)
