"""Arithmetic whose problems change in the middle of a run: easy levels first, others later, for studies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipo.errors import TaskError
from pipo.records.problems import Example, Split
from pipo.tasks.arithmetic import ArithmeticTask


class ChangingArithmeticTask(ArithmeticTask):
    """Training problems of some levels, then of others; held out are problems of the later ones.

    They come in this order with ``shuffle=false``.

    Args:
        levels: weights of the levels at the beginning.
        later_levels: weights of the levels after the change.
        before_change: training problems before the change.
        train_problems: training problems in all.
        arithmetic: what the plain task takes besides.
    """

    def __init__(
        self,
        *,
        levels: Mapping[Any, float],
        later_levels: Mapping[Any, float],
        before_change: int,
        train_problems: int,
        **arithmetic: Any,
    ) -> None:
        if not 0 < before_change < train_problems:
            raise TaskError(
                f"before_change must lie between 0 and train_problems={train_problems}, got {before_change}"
            )
        super().__init__(levels=later_levels, train_problems=train_problems - before_change, **arithmetic)
        first = ArithmeticTask(levels=levels, train_problems=before_change, **arithmetic).examples("train")
        later = [
            replace(example, uid=f"arithmetic/train/{number}")
            for number, example in enumerate(super().examples("train"), start=before_change)
        ]
        self._in_order = (*first, *later)

    def examples(self, split: Split) -> tuple[Example, ...]:
        """Training problems in the order of the change; held-out ones of the later levels."""
        return self._in_order if split == "train" else tuple(super().examples(split))
