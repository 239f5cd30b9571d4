r"""Base of tasks whose answer is the last ``\boxed{...}`` of a response; answers compared for votes."""

from __future__ import annotations

from collections.abc import Sequence

from pipo.graders.math import MathGrader
from pipo.records.problems import Example, Reward
from pipo.tasks.base import Task


class BoxedTask(Task[Example]):
    """Grades the last box with the mathematics grader; subclasses bring problems and prompts.

    Args:
        grader_workers: processes for answers that are not plain numbers; None for the share of the cores.
        grader_cpu_s: seconds of processor time that one such answer may take.
        grader_wall_s: seconds of wall-clock time, far above those, after which the machine is at fault.
    """

    votes = True

    def __init__(self, *, grader_workers: int | None, grader_cpu_s: float, grader_wall_s: float) -> None:
        self._grader = MathGrader(workers=grader_workers, cpu_s=grader_cpu_s, wall_s=grader_wall_s)

    def grade(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Reward]:
        """1.0 if the last box equals the reference and is in final form, else 0.0; in parallel."""
        pairs = [(response, e.answer) for e, response in zip(examples, responses, strict=True)]
        return self._grader.grade_batch(pairs, [e.question for e in examples])

    def begin_grading(self, examples: Sequence[Example], responses: Sequence[str]) -> None:
        """Let the worker processes begin on the answers that take algebra."""
        pairs = [(response, e.answer) for e, response in zip(examples, responses, strict=True)]
        self._grader.begin(pairs, [e.question for e in examples])

    def same_answers(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether the grader takes one answer of a pair for the other."""
        return self._grader.same(pairs)

    def close(self) -> None:
        """End the grader's processes."""
        self._grader.close()
