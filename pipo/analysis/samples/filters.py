"""Filters of responses: by reward, by iteration, by the words in them, by part."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipo.analysis.samples.sources import Entry
from pipo.errors import ConfigError

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_COMPARED = re.compile(rf"(<=|>=|<|>|=|==|!=)?\s*({_NUMBER})", re.IGNORECASE)
_BETWEEN = re.compile(rf"({_NUMBER})?\s*\.\.\s*({_NUMBER})?", re.IGNORECASE)


@dataclass(frozen=True)
class Numbers:
    """Some numbers, as they were typed: ``1``, ``<1``, ``>=0.5``, ``!=0``, ``10..40``, ``10..``."""

    typed: str
    """The same text."""

    def __post_init__(self) -> None:
        if not (_COMPARED.fullmatch(self.typed) or (_BETWEEN.fullmatch(self.typed) and len(self.typed) > 2)):
            raise ConfigError(f"{self.typed!r}: a number is needed, as 1, <1, >=0.5, !=0, 10..40 or 10..")

    def has(self, value: float) -> bool:
        """Whether a number is among them."""
        if between := _BETWEEN.fullmatch(self.typed):
            low, high = between.groups()
            return (low is None or value >= float(low)) and (high is None or value <= float(high))
        compared = _COMPARED.fullmatch(self.typed)
        assert compared is not None
        sign, bound = compared[1] or "=", float(compared[2])
        if sign in ("<", "<="):
            return value < bound or (sign == "<=" and value == bound)
        if sign in (">", ">="):
            return value > bound or (sign == ">=" and value == bound)
        return (value != bound) if sign == "!=" else (value == bound)


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What is asked of a response; what is not asked for is None or empty."""

    reward: Numbers | None = None
    """Rewards."""
    iteration: Numbers | None = None
    """Iterations."""
    part: str | None = None
    """Training, held-out, or a part of an evaluation."""
    text: str = ""
    """Words in prompt, response or verdict."""

    def passes(self, entry: Entry) -> bool:
        """Whether an entry is as asked for, but for the words, which are not in it."""
        for wanted, value in ((self.reward, entry.reward), (self.iteration, entry.iteration)):
            if wanted is not None and (value is None or not wanted.has(value)):
                return False
        return self.part is None or entry.part == self.part

    def __str__(self) -> str:
        """Those that are asked for, in a few words."""
        said: Iterable[str] = (
            f"reward {self.reward.typed}" if self.reward else "",
            f"iteration {self.iteration.typed}" if self.iteration else "",
            self.part or "",
            f"text {self.text!r}" if self.text else "",
        )
        return " · ".join(each for each in said if each)
