"""Arithmetic that is asked again: a task that replies, for the embedded model."""

from __future__ import annotations

from collections.abc import Sequence

from pipo.records.problems import Example, Reward, Transcript
from pipo.tasks.arithmetic import ArithmeticTask

HALF = 0.5
"""Score of a right result that is not the first one."""


class AskedAgain(ArithmeticTask):
    """After a wrong result the expression is put again, twice at most; a later right result counts half."""

    max_turns = 3

    def reply(self, example: Example, transcript: Transcript) -> str | None:
        (verdict,) = self.grade([example], [transcript[-1].content])
        return None if verdict.score == 1 else f"\n{example.question}="

    def grade_transcripts(
        self, examples: Sequence[Example], transcripts: Sequence[Transcript]
    ) -> list[Reward]:
        found = super().grade_transcripts(examples, transcripts)
        pairs = zip(found, transcripts, strict=True)
        return [Reward(score=r.score * (HALF if len(t) > 1 else 1), answer=r.answer) for r, t in pairs]
