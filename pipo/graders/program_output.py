"""Compare the printed output of a program with the expected one, token by token, with a tolerance.

Blanks at the ends of lines and empty lines at the ends of the text do not count, nor does how many
blanks separate two tokens. Then line by line and token by token: equal as text, or both numbers
and equal as numbers. An expected integer is met only exactly (``3.0`` meets it, ``3.0001`` does
not, at any size). An expected decimal fraction is met within the tolerance, absolute or
relative: contest problems grant it, usually 1e-6, because programs round and print differently.
With a tolerance of 0 that is the official rule of LiveCodeBench; TACO's own checker allows a
relative error of 1e-5 and reorders lines and numbers as sets besides, which lets wrong answers pass.
"""

from __future__ import annotations

import re
from decimal import Decimal

from pipo_sandbox import INT_DIGITS

# Longer tokens are text. Comparing takes linear time, but nothing that a program can compute is longer.
_MAX_NUMBER = INT_DIGITS + 400
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)


def same_output(printed: str, expected: str, float_tolerance: float) -> bool:
    """Whether the two texts say the same, by the rules of this module."""
    printed_lines, expected_lines = printed.strip().split("\n"), expected.strip().split("\n")
    if len(printed_lines) != len(expected_lines):
        return False
    tolerance = Decimal(float_tolerance)
    return all(
        _same_line(line, wanted, tolerance)
        for line, wanted in zip(printed_lines, expected_lines, strict=True)
    )


def _same_line(line: str, wanted: str, tolerance: Decimal) -> bool:
    if line == wanted:
        return True
    tokens, wanted_tokens = line.split(), wanted.split()
    if len(tokens) != len(wanted_tokens):
        return False
    return all(
        token == other or _same_number(token, other, tolerance)
        for token, other in zip(tokens, wanted_tokens, strict=True)
    )


def _same_number(token: str, wanted: str, tolerance: Decimal) -> bool:
    if max(len(token), len(wanted)) > _MAX_NUMBER:
        return False
    if not _NUMBER.fullmatch(token) or not _NUMBER.fullmatch(wanted):
        return False
    found, target = Decimal(token), Decimal(wanted)
    if found == target:
        return True
    if _INTEGER.fullmatch(wanted):
        return False
    return abs(found - target) <= tolerance * max(Decimal(1), abs(target))
