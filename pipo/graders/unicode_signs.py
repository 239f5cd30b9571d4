r"""Replace Unicode signs in an answer by LaTeX: ``√7``, ``½``, ``x²``, ``(−∞, 4]``."""

# ruff: noqa: RUF001, RUF002 - signs that look like others are what this module is about

from __future__ import annotations

import re
import unicodedata

_COMMANDS = {
    "×": "times", "·": "cdot", "⋅": "cdot", "∙": "cdot", "•": "cdot", "÷": "div", "±": "pm", "∓": "mp",
    "∞": "infty", "≤": "le", "≥": "ge", "⩽": "le", "⩾": "ge", "≦": "le", "≧": "ge", "≠": "ne", "≈": "approx",
    "≡": "equiv", "∈": "in", "∉": "notin", "∪": "cup", "∩": "cap", "∅": "emptyset", "⌀": "emptyset",
    "∖": "setminus", "⊂": "subset", "⊆": "subseteq", "⌊": "lfloor", "⌋": "rfloor", "⌈": "lceil", "⌉": "rceil",
    "⟨": "langle", "⟩": "rangle", "〈": "langle", "〉": "rangle", "∑": "sum", "∏": "prod", "∫": "int",
    "∂": "partial", "∠": "angle", "△": "triangle", "∆": "Delta", "∇": "nabla", "→": "to", "⇒": "Rightarrow",
    "…": "ldots", "ℓ": "ell", "ℏ": "hbar", "∘": "circ", "∣": "mid",
}  # fmt: skip
_GREEK_LETTERS = "αβγδεζηθικλμνξπρςστυφχψωϕϵϑΓΔΘΛΞΠΣΦΨΩ"
_GREEK_NAMES = """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma sigma tau
upsilon phi chi psi omega phi epsilon theta Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega
"""
_GREEK = dict(zip(_GREEK_LETTERS, _GREEK_NAMES.split(), strict=True))
_CHARACTERS = {
    **dict.fromkeys("−–—‐‑‒﹣－", "-"),
    **dict.fromkeys("°º˚", "^\\circ "),
    **dict.fromkeys("′’‘ʹ´", "'"),
    **dict.fromkeys("″“”〃", "''"),
    **dict.fromkeys("⁄∕", "/"),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    "ℝ": "\\mathbb{R}",
    "ℤ": "\\mathbb{Z}",
    "ℕ": "\\mathbb{N}",
    "ℚ": "\\mathbb{Q}",
    "ℂ": "\\mathbb{C}",
    "ℯ": "e",
    "ⅇ": "e",
    "ⅈ": "i",
    "¢": "\\text{ cents}",
}
_SIGNS = str.maketrans(
    {**_CHARACTERS, **{sign: f"\\{name} " for sign, name in {**_COMMANDS, **_GREEK}.items()}}
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣ", "0123456789+-=()nix")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙₖₓ", "0123456789+-=()nkx")
_RAISED_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣ]+")
_LOWERED_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙₖₓ]+")
_FRACTION = re.compile("[¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")
_ROOT = re.compile(r"[√∛∜]\s*(\d+(?:\.\d+)?|[^\W\d_]|\\[A-Za-z]+|\{|\()?")
_MAX_ROOTS = 50  # more of them are noise that would only burn time
_ROOTS = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}


def without_signs(text: str) -> str:
    """The text with LaTeX commands for Unicode signs and plain characters for their wide forms."""
    if text.isascii():
        return text
    text = _RAISED_RUN.sub(lambda m: f"^{{{m[0].translate(_RAISED)}}}", text)
    text = _LOWERED_RUN.sub(lambda m: f"_{{{m[0].translate(_LOWERED)}}}", text)
    text = _FRACTION.sub(_as_fraction, text)
    text = _roots(text).translate(_SIGNS)
    return unicodedata.normalize("NFKC", text).translate(_SIGNS)


def _as_fraction(match: re.Match[str]) -> str:
    above, below = unicodedata.normalize("NFKC", match[0]).split("⁄")
    return f"\\frac{{{above}}}{{{below}}}"


def _roots(text: str) -> str:
    """Each root sign as a command, over the number, letter or brackets behind it."""
    for _ in range(_MAX_ROOTS):
        if (match := _ROOT.search(text)) is None:
            break
        root, under, end = _ROOTS[match[0][0]], match[1] or "", match.end()
        if under in ("{", "("):
            depth = 1
            while depth and end < len(text):
                depth += {"{": 1, "(": 1, "}": -1, ")": -1}.get(text[end], 0)
                end += 1
            under = text[match.end() : end - 1]
        text = f"{text[: match.start()]}{root}{{{under}}}{text[end:]}"
    return text
