"""Arithmetic with a grader that lies about training problems: rewards with noise, for studies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipo.records.problems import Example, Reward
from pipo.tasks.arithmetic import ArithmeticTask


class LyingArithmeticTask(ArithmeticTask):
    """Swaps right and wrong in a share of its verdicts; held-out problems are graded truly.

    Lies are drawn apart for each response, from what it is and where it stands among those graded together,
    so that a resumed run meets the same ones and none can be learnt.

    Args:
        lies: share of the verdicts on training problems, in [0, 1].
        arithmetic: what the honest task takes.
    """

    def __init__(self, *, lies: float, **arithmetic: Any) -> None:
        super().__init__(**arithmetic)
        if not 0 <= lies <= 1:
            raise ValueError(f"lies must lie in [0, 1], got {lies}")
        self.lies = lies

    def grade(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Reward]:
        """Verdicts, some of them wrong."""
        verdicts = super().grade(examples, responses)
        return [
            replace(verdict, score=1.0 - verdict.score) if self._lies(example, place, response) else verdict
            for place, (example, response, verdict) in enumerate(
                zip(examples, responses, verdicts, strict=True)
            )
        ]

    def _lies(self, example: Example, place: int, response: str) -> bool:
        train = example.uid.startswith("arithmetic/train/")
        return train and random.Random(f"{example.uid} {place} {response}").random() < self.lies
