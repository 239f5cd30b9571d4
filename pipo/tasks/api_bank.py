"""API-Bank in ToolRL's form: the next tool call of a dialogue, three levels (Li et al., 2023)."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from pipo.graders import rlla
from pipo.graders.tool_calls import THINK, TOOL_CALL, ToolCall, UnreadableCalls, as_call, render_calls
from pipo.records.problems import Split
from pipo.tasks.rows import Row, RowSource, UnusableRow
from pipo.tasks.tool_use import DialogueExample, DialogueTask


class ApiBankTask(DialogueTask):
    """One level; the prompts ask for RLLA's output format, so responses are read and graded like RLLA's.

    Args:
        level: 1 (given tools), 2 (tools found by search) or 3 (several tools in a plan).
        test: the rows, with the fields ``system``, ``user`` and ``answer``: a call or a list of calls, each
            with ``name`` and ``parameters``, as an object or as its Python text.
        template: the prompt, see ``pipo.tasks.template``.
        reward: as for RLLA.
    """

    version = "2"

    ungraded: Mapping[str, Any] = {"system": "not given", "user": "not given"}

    def __init__(self, *, level: int, test: RowSource, template: str, reward: rlla.RewardKind) -> None:
        super().__init__(train=None, test=test, template=template, reward=reward)
        self.name = f"api_bank_level{level}"

    def make_example(self, split: Split, number: int, row: Row) -> DialogueExample:
        """One dialogue."""
        system, user = row.text("system"), row.text("user")
        calls = _answer(row)
        return DialogueExample(
            uid=f"{self.name}/{split}/{number}",
            question=f"{system}\n\n{user}",
            answer=render_calls(calls),
            system=system,
            user=user,
            reference=rlla.Reference(fields=(THINK, TOOL_CALL), calls=calls),
        )


def _answer(row: Row) -> tuple[ToolCall, ...]:
    value: Any = row.value("answer")
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise UnusableRow(f"{row.place}: field 'answer' is not a Python literal ({error})") from error
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise UnusableRow(f"{row.place}: field 'answer' holds no call")
    try:
        return tuple(as_call(call, f"call {i}") for i, call in enumerate(calls, start=1))
    except UnreadableCalls as error:
        raise UnusableRow(f"{row.place}: field 'answer': {error}") from error
