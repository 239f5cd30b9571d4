"""Lengths of responses: they fall off exponentially, and what would be longer than the limit is cut."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """A geometric distribution that is cut."""

    rate: float
    """Of the decay, per token; 0: all have the full length."""
    limit: int
    """Longest, in tokens."""

    @staticmethod
    def of(mean: float, limit: int) -> Lengths:
        """The one with this mean.

        Example:
            >>> short = Lengths.of(1000.0, 4096)
            >>> round(sum(short.alive(t) for t in range(4096)))
            1000
        """
        low, high = 0.0, 50.0
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if _mean(middle, limit) > mean else (low, middle)
        return Lengths(rate=low if low > 1e-12 else 0.0, limit=limit)

    def alive(self, token: int) -> float:
        """Share of responses that have more than so many tokens."""
        return math.exp(-self.rate * token) if token < self.limit else 0.0

    def quantile(self, share: float) -> int:
        """Length that this share of the responses does not exceed."""
        if self.rate == 0:
            return self.limit
        return min(self.limit, 1 + int(-math.log(max(1 - share, 1e-300)) / self.rate))

    def any_alive(self, token: int, rows: float) -> float:
        """Probability that one of so many responses has more than so many tokens."""
        return 1 - (1 - self.alive(token)) ** rows

    def most_held(self, prompt: float) -> float:
        """Tokens per response, of those that still grow with their prompts, when they are most."""
        return max(self.alive(t) * (prompt + t + 1) for t in range(self.limit))


def _mean(rate: float, limit: int) -> float:
    """Sum of exp(-rate t) over t below the limit."""
    return limit if rate < 1e-12 else -math.expm1(-rate * limit) / -math.expm1(-rate)
