"""Benchmark task read from a file: expressions and answers, the same for us and for the peer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from bench.workload import FILES
from pipo.records.problems import Example, Message, Prompt, Reward, Split
from pipo.tasks.base import Task
from pipo.tasks.verdicts import one_by_one


class ExpressionsTask(Task):
    """Lines of ``{"prompt": "37*85=", "answer": "3145"}``; what the pattern finds must be the answer.

    Args:
        folder: holds ``prompts.jsonl`` and ``eval_prompts.jsonl``.
        pattern: regular expression with one group, the answer in a response.
    """

    name = "expressions"
    version = "1"
    template = "expressions/1"
    votes = True

    def __init__(self, *, folder: str, pattern: str) -> None:
        self._examples = {split: _read(Path(folder) / name, split) for split, name in FILES.items()}
        self._pattern = re.compile(pattern)

    def examples(self, split: Split) -> Sequence[Example]:
        """All lines of the split's file, in their order."""
        return self._examples[split]

    def render(self, example: Example) -> Prompt:
        """The prompt as it stands in the file."""
        return Prompt(messages=(Message(role="user", content=example.question),), text=example.question)

    def grade(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Reward]:
        """1 if the pattern finds the answer."""
        return one_by_one(self._verdict, examples, responses)

    def _verdict(self, example: Example, response: str) -> Reward:
        match = self._pattern.search(response)
        answer = None if match is None else match.group(1)
        return Reward(score=float(answer == example.answer), answer=answer)


def _read(path: Path, split: Split) -> tuple[Example, ...]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return tuple(
        Example(uid=f"{split}/{number}", question=row["prompt"], answer=row["answer"])
        for number, row in enumerate(rows)
    )
