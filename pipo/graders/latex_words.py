r"""Tables of LaTeX commands and signs for ``latex_tree``, and what kind of operation each is."""

from __future__ import annotations

import re

_TRIG = ("sin", "cos", "tan", "cot", "sec", "csc")
FUNCTIONS = {
    **dict.fromkeys(_TRIG, "trigonometry"),
    **{f"arc{name}": "inverse trigonometry" for name in _TRIG},
    **{f"{name}h": "hyperbolic function" for name in _TRIG},
    **dict.fromkeys(["arsinh", "arcosh", "artanh"], "inverse hyperbolic function"),
    **dict.fromkeys(["log", "ln", "lg"], "logarithm"),
    **dict.fromkeys(["max", "min", "sup", "inf"], "extremum"),
    **dict.fromkeys(["gcd", "lcm"], "divisor"),
    **dict.fromkeys(["det", "tr", "rank"], "matrix function"),
    **dict.fromkeys(["floor", "ceil"], "rounding"),
    **dict.fromkeys(["Re", "Im", "arg"], "complex part"),
    **dict.fromkeys(["exp", "abs", "Pr"], ""),
    "proj": "projection",
}
BIG = {
    "sum": "sum",
    "prod": "product",
    "lim": "limit",
    "limsup": "limit",
    "liminf": "limit",
    **dict.fromkeys(["int", "iint", "iiint", "oint"], "integral"),
    **dict.fromkeys(["bigcup", "bigcap"], "set operation"),
}
INVERSE = {name: f"arc{name}" for name in _TRIG}
FENCES = {"\\lfloor": ("\\rfloor", "rounding"), "\\lceil": ("\\rceil", "rounding"), "\\|": ("\\|", "norm")}
BRACKETS = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle", "\\lbrace": "\\rbrace"}
CLOSING = {")", "]", "\\}", "\\rangle", "\\rbrace"}
SIGNS = {
    **dict.fromkeys(["=", "\\equiv", "\\approx", "\\cong", "\\simeq", "\\sim", "\\to", "\\mapsto"], "="),
    **dict.fromkeys(["<", "\\lt"], "<"),
    **dict.fromkeys([">", "\\gt"], ">"),
    **dict.fromkeys(["\\le", "\\leq", "\\leqslant", "≤"], "<="),
    **dict.fromkeys(["\\ge", "\\geq", "\\geqslant", "≥"], ">="),
    **dict.fromkeys(["\\ne", "\\neq", "≠"], "!="),
    **dict.fromkeys(["\\in", "\\subset", "\\subseteq"], "in"),
}
TIMES = {"\\cdot", "\\times", "*", "\\ast", "·", "×"}  # noqa: RUF001
OVER = {"/", "\\div", "÷"}
PLUS = {"+": 1, "-": -1, "−": -1, "\\pm": 0, "\\mp": 0}  # noqa: RUF001
SET_SIGNS = {"\\cup": "union", "\\cap": "intersection", "\\setminus": "difference"}
MODULO = {"\\bmod", "\\mod", "\\pmod"}
TEXT = {
    f"\\{name}"
    for name in [
        "text",
        "textrm",
        "textbf",
        "textit",
        "textnormal",
        "mbox",
        "mathrm",
        "mathbf",
        "operatorname",
        "rm",
    ]
}
MATRICES = {"matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix", "array", "smallmatrix"}

TOKEN = re.compile(
    r"\s*(?P<token>\\(?:begin|end)\s*\{[A-Za-z]+\*?\}(?:\{[lcr| ]*\})?|\\[A-Za-z]+\*?|\\.|"
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+|"
    r"(?:arc)?(?:sin|cos|tan)(?![A-Za-z])|(?:sqrt|log|ln|exp|gcd|lcm|max|min|floor|ceil|abs)(?=\s*[({])|\S)",
    re.DOTALL,
)
NUMBER = re.compile(r"[\d,]*\.?\d+(?:[eE][+-]?\d+)?")
DERIVED = re.compile(r"(?:d|\\partial)(?:\s*\^\s*\{?\s*\d\s*\}?)?(?P<of>\s*\\?[A-Za-z]+)?")
DERIVED_BY = re.compile(r"(?:(?:d|\\partial)\s*\\?[A-Za-z]+(?:\s*\^\s*\{?\s*\d\s*\}?)?\s*)+")
