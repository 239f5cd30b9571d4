"""Progress bars of an evaluation: one for each part in a terminal, none elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from pipo.evaluation.results import ProblemResult


class EvaluationBars:
    """A context with one bar for each part that is begun.

    Args:
        console: where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            redirect_stderr=sys.stderr.isatty(),  # so that warnings stand above the bars
            disable=not console.is_interactive,  # a terminal that can move its cursor
        )

    def __enter__(self) -> EvaluationBars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def part(self, name: str, total: int, done: Sequence[ProblemResult]) -> PartBar:
        """A new bar.

        Args:
            name: of the part.
            total: its problems.
            done: those that are evaluated already.
        """
        task = self._bars.add_task(name, total=total, completed=len(done), status="")
        return PartBar(self._bars, task, done)


class PartBar:
    """The bar of one part; called with each batch of evaluated problems."""

    def __init__(self, bars: Progress, task: TaskID, done: Sequence[ProblemResult]) -> None:
        self._bars, self._task = bars, task
        self._rates = [problem.solved / len(problem.samples) for problem in done]
        self._tokens, self._begun = 0, time.monotonic()

    def __call__(self, problems: Sequence[ProblemResult]) -> None:
        """Go on by one batch."""
        self._rates += [problem.solved / len(problem.samples) for problem in problems]
        self._tokens += sum(sample.length for problem in problems for sample in problem.samples)
        speed = self._tokens / (time.monotonic() - self._begun)
        status = f"{speed:,.0f} tok/s  pass@1 {100 * np.mean(self._rates):.1f}"
        self._bars.update(self._task, completed=len(self._rates), status=status)
