"""Student's t: the probability below a value, and the value below which a probability lies.

By the incomplete beta function (Abramowitz and Stegun, 26.7.1), which mpmath has, as torch does not. SciPy
has it, too, but where SciPy is installed, torchmetrics and transformers import its signal processing and its
optimisers at every start.
"""

from __future__ import annotations

import math
from functools import cache

import mpmath


def below(freedom: int, value: float) -> float:
    """The probability of less than ``value``; nan of nan.

    Args:
        freedom: degrees of freedom, > 0.
        value: infinite ones are values, too.

    Example:
        With one degree of freedom, half plus atan(1) / pi is below 1.

        >>> below(1, 1.0)
        0.75
    """
    if math.isnan(value):
        return value
    square = mpmath.mpf(value) ** 2
    if square < 1:  # what lies between 0 and the value, as the tails are half each to many digits
        within = mpmath.betainc(0.5, freedom / 2, 0, square / (freedom + square), regularized=True)
        return float((1 + mpmath.sign(value) * within) / 2)
    tails = mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + square), regularized=True)
    return float(tails / 2 if value < 0 else 1 - tails / 2)


@cache
def quantile(freedom: int, probability: float) -> float:
    """The value below which there is this probability, of at least a half and below 1."""
    highest = 1.0
    while below(freedom, highest) < probability:
        highest *= 2
    return float(
        mpmath.findroot(
            lambda value: below(freedom, float(value)) - probability, (0.0, highest), solver="anderson"
        )
    )
