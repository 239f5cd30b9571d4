"""Arithmetic that is asked again: a task with environments, for the embedded model."""

from __future__ import annotations

from collections.abc import Sequence

from pipo.records.problems import Example, Message, Reply, Reward, Transcript
from pipo.tasks.arithmetic import ArithmeticTask
from pipo.tasks.environment import Environment

HALF = 0.5
"""Score of a right result that is not the first one."""


class AskedAgain(ArithmeticTask):
    """After a wrong result the expression is put again, twice at most; a later right result counts half."""

    max_turns = 3

    def environment(self, example: Example) -> Environment:
        return PutsAgain(self, example)

    def grade_transcripts(
        self, examples: Sequence[Example], transcripts: Sequence[Transcript]
    ) -> list[Reward]:
        found = super().grade_transcripts(examples, transcripts)
        pairs = zip(found, transcripts, strict=True)
        return [Reward(score=r.score * (HALF if len(t) > 1 else 1), answer=r.answer) for r, t in pairs]


class PutsAgain(Environment):
    """Counts every result as a call, and a wrong one as a call that failed."""

    def __init__(self, task: ArithmeticTask, example: Example) -> None:
        self.task, self.example = task, example

    def step(self, transcript: Transcript) -> Reply:
        (verdict,) = self.task.grade([self.example], [transcript[-1].content])
        if verdict.score == 1:
            return Reply(tool_calls=1)
        again = Message(role="user", content=f"\n{self.example.question}=")
        return Reply(messages=(again,), tool_calls=1, tool_errors=1)
