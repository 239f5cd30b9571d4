r"""Normalise LaTeX answers: drop sizes, fonts, blanks and needless braces, one spelling for each command.

Pure functions on the content of a box or on a reference. ``tidy`` is where every comparison begins.
"""

from __future__ import annotations

import re
from functools import lru_cache

from pipo.graders.answer_lists import peeled
from pipo.graders.unicode_signs import without_signs

TEXT_COMMAND = r"\\(?:text|textrm|textbf|textit|textsf|texttt|textup|textnormal|mbox|mathrm|mathbf|rm)"
TEXT = re.compile(TEXT_COMMAND + r"\s*\{([^{}]*)\}")
ELLIPSIS = re.compile(r"\.\.|…|\\(?:ldots|cdots|dots|dotsc|vdots)(?![A-Za-z])")
DEGREES = r"\^\s*(?:\\circ|\{\s*\\circ\s*\})"

# What a word behind a number multiplies it by.
_MULTIPLES = {
    "hundreds?": "10^{2}",
    "thousands?": "10^{3}",
    "millions?": "10^{6}",
    "billions?": "10^{9}",
    "trillions?": "10^{12}",
    "dozen": "12",
    "tenths": "10^{-1}",
    "hundredths": "10^{-2}",
    "thousandths": "10^{-3}",
    "millionths": "10^{-6}",
    "halves": r"\frac{1}{2}",
    "thirds": r"\frac{1}{3}",
    "fourths": r"\frac{1}{4}",
    "fifths": r"\frac{1}{5}",
    "sixths": r"\frac{1}{6}",
    "sevenths": r"\frac{1}{7}",
    "eighths": r"\frac{1}{8}",
    "ninths": r"\frac{1}{9}",
    "twelfths": r"\frac{1}{12}",
}
# Commands written in a doubtful way: two backslashes, or a control character where JSON ate the first letter.
_EATEN = {
    "\a": "alpha angle approx",
    "\b": "begin beta bar binom bmod boxed boldsymbol bullet backslash",
    "\t": "text textbf textrm times theta tau tan tanh tfrac triangle tbinom tilde",
    "\n": "neq notin nabla",
    "\v": "vec vert varepsilon varphi vartheta varnothing",
    "\f": "frac forall",
    "\r": "right rho rangle rceil rfloor rvert rightarrow",
}
_LOST = re.compile(
    "|".join(
        f"{re.escape(sign)}(?=(?:{'|'.join(word[1:] for word in words.split())})(?![A-Za-z]))"
        for sign, words in _EATEN.items()
    )
)
_DOUBLED = re.compile(r"\\{2,}(?=[A-Za-z]{2}|[%${},!;:()])")
_NO_LETTER = r"(?![A-Za-z])"

_CLOSED_UP = re.compile(r"(\\\\)|\\!\s*|(?<=\d)\\,(?=\d{3}(?!\d))")
_SPACING = re.compile(
    r"\\\\\[[\d.]+[a-z]{2}\]|(\\\\)|\\[,;:>/@ ]|~|(?<![A-Za-z}\]])\{\s*\}"
    r"|\\(?:q?quad|enspace|enskip|(?:neg)?(?:thin|med|thick)space|space|hfill|newline|nonumber|notag|relax|null|"
    r"noindent|(?:math)?strut|allowbreak|nobreak|(?:no)?limits)(?![A-Za-z])"
    r"|\\(?:[hvm]space\*?|[hv]?phantom|label|tag\*?)\s*\{[^{}]*\}|\\(?:hskip|kern|mskip)\s*-?[\d.]+\s*[a-z]{2}"
)
_WRAPPERS = re.compile(
    r"(\\\\)|\\?\$|\\[()\[\]]|\\(?:left|right|middle|[Bb]igg?[lrm]?|(?:display|text|script)style)(?![A-Za-z])\.?"
    r"|\\color\s*\{[^{}]*\}|\\textcolor\s*\{[^{}]*\}"
)
_FRAMES = re.compile(
    r"\\(?:boxed|fbox|boldsymbol|bm|ensuremath|emph|underline|mathit|mathsf|mathtt|mathnormal|mathord|smash)\s*\{"
)
_MAX_FRAMES = 50  # more of them are noise that would only burn time
_FUNCTIONS = "(?:arc)?(?:sin|cos|tan|cot)h?|ln|log|exp"
_ALL_REALS = r"(?i:all|any)\s+real(?:s|\s+numbers?|\s+values?(?:\s+of)?)?"
# 1011 \text{ base } 2, 1011_{\text{base }2}
_BASE = rf"(?<=[0-9A-F])\s*_?\s*\{{?\s*(?:{TEXT_COMMAND}\s*\{{\s*(?:in\s+)?base\s*\}}|base\s)\s*(\d+)\s*\}}?$"
# \frac{\pi}{3} + 2 \pi k, k \in \mathbb{Z}
_INTEGERS = (
    rf"(?:\s*[,;(]|(?<=\S)\s*{TEXT_COMMAND}\s*\{{)\s*(?:{TEXT_COMMAND}\s*\{{)?\s*(?:(?:for|where|with)(?:\s+(?:any|all))?)?\s*\}}?"
    rf"\s*[k-n]\s*(?:\\in\s*\\(?:mathbb|Bbb|mathbf)\s*(?:\{{\s*Z\s*\}}|Z)"
    rf"|{TEXT_COMMAND}\s*\{{\s*(?:is\s+)?(?:an\s+|any\s+)?integers?\s*\}})\s*\)?$"
)
_ANNOUNCED = r"(?:(?:the\s+)?(?:final\s+)?answer(?:\s*:|\s+is:?)|point)"
_NO_SOLUTION = r"(?i:no\s+(?:real\s+)?solutions?|(?:the\s+)?empty\s+set)"
_REALS = r"\\mathbb{R}"
_SPELLINGS = [
    (re.compile(r"\\[dtc]frac" + _NO_LETTER), r"\\frac"),
    (re.compile(r"\\[dt]binom" + _NO_LETTER), r"\\binom"),
    (re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"^([^{}]*)\\choose(?![A-Za-z])([^{}]*)$"), r"\\binom{\1}{\2}"),
    (re.compile(r"\{\s*\\rm\s+([^{}]*)\}"), r"\\mathrm{\1}"),
    (re.compile(r"^\(\s*([0-9A-F]+)\s*\)\s*_"), r"\1_"),
    (re.compile(r"(?<=[0-9A-F])_\s*\{\s*\(\s*(\d+|[a-z]+)\s*\)\s*\}$"), r"_{\1}"),
    (re.compile(rf"(?<=\d)\s*{TEXT_COMMAND}\s*\{{\s*to\s*\}}\s*(?=\d)"), ":"),
    (re.compile(rf"{TEXT_COMMAND}\s*\{{\s*infinity\s*\}}|^infinity$", re.IGNORECASE), r"\\infty "),
    (re.compile(rf"^(?:{TEXT_COMMAND}\s*\{{\s*DNE\s*\}}|DNE)$", re.IGNORECASE), r"\\text{does not exist}"),
    (re.compile(r"(?<=:\d\d)\s*([ap])\.?m\.?$", re.IGNORECASE), r"\\text{ \1m}"),
    (re.compile(_BASE), r"_{\1}"),
    (re.compile(_INTEGERS), ""),
    (re.compile(rf"^{TEXT_COMMAND}\s*\{{\s*{_ANNOUNCED}\s*\}}", re.IGNORECASE), ""),
    (re.compile(r"\\var(epsilon|phi|theta|rho|sigma)" + _NO_LETTER), r"\\\1"),
    (re.compile(r"\\(?:lbrace|lcurly)" + _NO_LETTER), r"\\{"),
    (re.compile(r"\\(?:rbrace|rcurly)" + _NO_LETTER), r"\\}"),
    (re.compile(r"\\(?:lbrack)" + _NO_LETTER), "["),
    (re.compile(r"\\(?:rbrack)" + _NO_LETTER), "]"),
    (re.compile(r"\\(?:langle|lparen)" + _NO_LETTER), "("),
    (re.compile(r"\\(?:rangle|rparen)" + _NO_LETTER), ")"),
    (re.compile(r"\\colon" + _NO_LETTER), ":"),
    (re.compile(r"\\imath" + _NO_LETTER), "{i}"),
    (re.compile(rf"(?<=\d)\s*(?:\^\s*\{{?\s*)?{TEXT_COMMAND}\s*\{{\s*(?:st|nd|rd|th)\s*\}}\s*\}}?"), ""),
    (re.compile(r"\\not\s*="), r"\\ne "),
    (re.compile(r"\\infin" + _NO_LETTER), r"\\infty"),
    (re.compile(r"\\(?:mathbb|Bbb)\s*([A-Z])" + _NO_LETTER), r"\\mathbb{\1}"),
    (re.compile(r"\\Bbb\s*\{"), r"\\mathbb{"),
    (re.compile(r"\\(?:R|Reals)" + _NO_LETTER), r"\\mathbb{R}"),
    (re.compile(r"\\ang\s*\{([^{}]*)\}"), r"\1^\\circ"),
    (re.compile(r"\\(?:degree|textdegree)" + _NO_LETTER + r"|\^\s*\\degree"), r"^\\circ"),
    (re.compile(r"\^\s*\{\s*\\circ\s*\}"), r"^\\circ"),
    (re.compile(r"\\(?:lvert|rvert|vert)" + _NO_LETTER), "|"),
    (re.compile(TEXT_COMMAND + r"\s*\{\s*(\\[A-Za-z]+)\s*\}"), r"\1 "),
    (re.compile(TEXT_COMMAND + r"\s*\{\s*degrees?\s*\}"), r"^\\circ"),
    (re.compile(r"\^\\circ\s*([CFK])(?![A-Za-z])"), r"^\\circ \\text{\1}"),
    (re.compile(TEXT_COMMAND + r"\s*\{\s*([:,;])\s*\}"), r"\1"),
    (re.compile(TEXT_COMMAND.replace("|rm", "") + r"\s+([A-Za-z])(?![A-Za-z])"), r"\\mathrm{\1}"),
    (re.compile(r"\\operatorname\*"), r"\\operatorname"),
    (re.compile(rf"({TEXT_COMMAND}\s*\{{[^{{}}]*?[^\s{{}}])\s+(?:and|or)\s*\}}(?=\s*\S)"), r"\1}, "),
    (re.compile(rf"(?:{TEXT_COMMAND}|\\operatorname)\s*\{{\s*({_FUNCTIONS})\s*\}}"), r"\\\1 "),
    (re.compile(rf"{TEXT_COMMAND}\s*\{{\s*{_ALL_REALS}\s*[a-z]?\s*\}}(?:\s*[a-z]$)?|^{_ALL_REALS}$"), _REALS),
    (re.compile(rf"{TEXT_COMMAND}\s*\{{\s*{_NO_SOLUTION}\s*\}}"), r"\\emptyset "),
    (re.compile(r"(?<![\d.,/])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.,/])"), r"\1\\frac{\2}{\3}"),
    # The point A(4,9); with C and P it may be something else.
    (re.compile(r"^(?:[ABD-OQ-Z]|[A-Z]'+)\s*(?=\([^()=|]*,[^()=|]*\)$)"), ""),
    (re.compile(r"\\(le|ge)(?:qslant|qq)" + _NO_LETTER), r"\\\1"),
]
_BARE_FUNCTION = re.compile(
    rf"(?P<text>{TEXT_COMMAND}\s*\{{[^{{}}]*\}})|(?<![A-Za-z\\_])(?:{_FUNCTIONS}|sqrt|pi|infty)(?![a-z])"
)
_RAISED_IN_TEXT = re.compile(
    rf"(?P<command>{TEXT_COMMAND})\s*\{{(?P<words>(?:[^{{}}]|\^\s*\{{[^{{}}]*\}})*)\}}"
)
_EXPONENT = re.compile(r"\^\s*\{\s*(-?\d)\s*\}")
_UPRIGHT = re.compile(r"(?:" + TEXT_COMMAND + r"|\\operatorname)\s*\{\s*([ei])\s*\}")
_TEXT_SUBSCRIPT = re.compile(r"_\s*\{\s*" + TEXT_COMMAND + r"\s*\{([^{}]*)\}\s*\}")
_TEXT_NUMBER = re.compile(TEXT_COMMAND + r"\s*\{(\s*[+-]?[.0-9][^{}]*)\}")
_LIST_SIGN = re.compile(r"\s*(?:[,;]|\band\b|\bor\b)\s*")
_JOINING_WORD = re.compile(
    r"(?:,?\s*" + TEXT_COMMAND + r"\s*\{\s*(?:and|or)\s*\}|(?:,|(?<=[\w)\]}]))\s+(?:and|or)(?=[\s\\]))\s*"
)
_PERCENT = re.compile(
    r"\\?%|" + TEXT_COMMAND + r"\s*\{\s*(?:percent|per cent|pct)\s*\}|(?<=\d)\s+(?:percent|per cent)\b"
)
_MULTIPLE = re.compile(
    rf"(?:(?<![\d.,}}])(?P<digits>\d{{1,9}})|(?<=[\d}}]))\s*(?P<text>{TEXT_COMMAND}\s*\{{\s*)?\b(?P<word>"
    + "|".join(_MULTIPLES)
    + r")\b(?!\s+of\b)"
)
_EMPTY_TEXT = re.compile(TEXT_COMMAND + r"\s*\{\s*\}")
_NUMPY = re.compile(r"\bnp\.(?=(?:arc)?(?:sin|cos|tan)\b)")
_MEMBER = re.compile(r"(?:[A-Za-z]|\\[a-z]+|\([A-Za-z](?:\s*,\s*[A-Za-z])+\))\s*\\in(?![A-Za-z])\s*")
_BARE_POINT = re.compile(r"(?<=\d)\.(?![\d.])")
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?\s*(\d+)\s*\}?")


def repaired(text: str) -> str:
    r"""LaTeX whose backslashes were escaped once too often, ``\\frac``, or eaten as a control character.

    The ends of rows in a matrix stay.
    """
    text = _LOST.sub(lambda m: "\\" + _EATEN[m[0]][0], text)
    if "\\\\" not in text:
        return text.strip()
    if "\\\\begin" in text:
        return text.replace("\\\\", "\\").strip()
    return text.strip() if "\\begin" in text else _DOUBLED.sub(r"\\", text).strip()


@lru_cache(maxsize=4096)
def tidy(text: str) -> str:
    r"""The same answer without what only typesets it.

    Dollar signs, spacing, sizing and colours go; signs become commands, ``\dfrac`` becomes ``\frac``, ``and``
    and ``or`` between answers become commas, ``million`` becomes its power of ten, ``x \in`` before a set,
    braces around all of it and a full stop at the end go.
    """
    text = without_signs(repaired(text))
    text = _CLOSED_UP.sub(lambda m: m[1] or "", text)
    text = _SPACING.sub(lambda m: m[1] or " ", text)
    text = _WRAPPERS.sub(lambda m: m[1] or "", text).strip()
    text = _unframed(text).rstrip("\\ ") if not text.endswith(("\\{", "\\}")) else _unframed(text)
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    text = _RAISED_IN_TEXT.sub(_with_exponents_outside, text)
    text = _NUMPY.sub(r"\\", text)
    text = _BARE_FUNCTION.sub(lambda m: m["text"] or f"\\{m[0]} ", text)
    text = re.sub(r"\{\s*([,;:])\s*\}", r"\1", text)
    if "\\begin" not in text:
        text = text.replace("&", " ")
    if (whole := _TEXT_NUMBER.fullmatch(text.strip())) is not None:
        text = whole[1]
    if (whole := TEXT.fullmatch(text.strip())) is not None:
        text = _listed(whole[1], text)
    if _UPRIGHT.fullmatch(text.strip()) is None:
        text = _UPRIGHT.sub(r"{\1}", text)
    text = _TEXT_SUBSCRIPT.sub(lambda m: f"_{{{m[1].strip()}}}", text)
    text = _JOINING_WORD.sub(", ", text)
    text = _PERCENT.sub(r"\\%", text)
    text = _MULTIPLE.sub(_multiplied, text)
    text = _EMPTY_TEXT.sub("", text)
    text = _REPEATING.sub(_as_fraction, text)
    text = peeled(" ".join(text.split()))
    if not ELLIPSIS.search(text):
        text = _BARE_POINT.sub("", text.rstrip(".,; "))
    return _MEMBER.sub("", text, count=1) if _MEMBER.match(text) else text


def _listed(words: str, text: str) -> str:
    r"""``\text{B, D and E}`` as a list of words; any other text as it is."""
    items = [item for item in _LIST_SIGN.split(words.strip()) if item]
    if len(items) < 2 or not all(re.fullmatch(r"[A-Za-z][A-Za-z .'-]*", item) for item in items):
        return text
    return ", ".join(f"\\text{{{item}}}" for item in items)


def _multiplied(match: re.Match[str]) -> str:
    r"""``5 \text{ million dollars}`` as ``5 \times 10^{6} \text{ dollars}``, ``5 \text{ halves}`` as 5/2."""
    digits, behind = match["digits"], match["text"] or ""
    factor = next(factor for pattern, factor in _MULTIPLES.items() if re.fullmatch(pattern, match["word"]))
    part = re.fullmatch(r"\\frac\{1\}(.*)", factor)
    if digits and part is not None:
        return f"\\frac{{{digits}}}{part[1]} {behind}"
    if digits and factor.isdigit():
        return f"{int(factor) * int(digits)} {behind}"
    return f"{digits or ''} \\times {factor} {behind}"


def _with_exponents_outside(match: re.Match[str]) -> str:
    r"""``\mathrm{m s^{-1}}`` as ``\mathrm{m s}^{-1}``."""
    command = match["command"]
    return f"{command}{{{_EXPONENT.sub(lambda m: f'}}^{{{m[1]}}}{command}{{', match['words'])}}}"


def _as_fraction(match: re.Match[str]) -> str:
    r"""``0.1\overline{6}`` as the fraction it is."""
    whole, fixed, repeating = match.groups()
    nines = (10 ** len(repeating) - 1) * 10 ** len(fixed)
    above = int((whole + fixed + repeating) or 0) - int((whole + fixed) or 0)
    return f"\\frac{{{above}}}{{{nines}}}"


def _unframed(text: str) -> str:
    r"""What ``\boxed{...}`` and other commands that only change the looks hold."""
    for _ in range(_MAX_FRAMES):
        if (match := _FRAMES.search(text)) is None:
            break
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            end += 1
        text = text[: match.start()] + text[match.end() : end - 1 if not depth else end] + text[end:]
    return text.strip()
