"""RLLA, ToolRL's data: dialogues in which tools are called or the user is answered (arXiv:2504.13958)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipo.graders import rlla
from pipo.graders.tool_calls import THINK, read_response, render_calls
from pipo.records.problems import Example, Prompt, Reward, Split
from pipo.tasks.row_task import RowTask
from pipo.tasks.rows import Row, RowSource, UnusableRow
from pipo.tasks.verdicts import one_by_one


@dataclass(frozen=True, kw_only=True)
class DialogueExample(Example):
    """A dialogue with tools, up to the assistant's turn."""

    system: str
    """Instructions, tools and output format."""
    user: str
    """The dialogue so far."""
    reference: rlla.Reference
    """Fields and calls that a response is compared with."""


class DialogueTask(RowTask[DialogueExample]):
    """Dialogues that bring their own prompt; a response is a thought, then tool calls or an answer or both.

    Args:
        train: the training rows.
        test: the held-out rows.
        template: the prompt, see ``pipo.tasks.template``.
        reward: ``graded`` for ToolRL's reward in [0, 1], ``calls`` for 1 if every call is right and else 0.

    Raises:
        TaskError: an option is unknown; later, a split cannot be read.
    """

    def __init__(
        self, *, train: RowSource | None, test: RowSource | None, template: str, reward: rlla.RewardKind
    ) -> None:
        super().__init__(train=train, test=test, template=template)
        self._reward: rlla.RewardKind = reward

    def render(self, example: DialogueExample) -> Prompt:
        """The row's own prompt."""
        return self.prompt.render({"system": example.system, "user": example.user})

    def grade(self, examples: Sequence[DialogueExample], responses: Sequence[str]) -> list[Reward]:
        """The reward that was chosen."""
        return one_by_one(lambda e, r: rlla.grade(r, e.reference, self._reward), examples, responses)


class ToolUseTask(DialogueTask):
    """RLLA, in either of two forms of its rows.

    As trained on: ``prompt`` (a system and a user message) and ``reward_model`` (with ``ground_truth``). Raw:
    ``instruction``, ``input`` and ``output``.
    """

    name = "tool_use"
    version = "2"

    def make_example(self, split: Split, number: int, row: Row) -> DialogueExample:
        """One dialogue."""
        if "prompt" in row.fields:
            system, user, output = *_messages(row), _ground_truth(row)
        elif "instruction" in row.fields:
            system, user, output = row.text("instruction"), row.text("input"), row.text("output")
        else:
            raise UnusableRow(
                f"{row.place}: must have the fields prompt and reward_model, or instruction, input and "
                f"output; there are {sorted(row.fields)}"
            )
        reading = read_response(output)
        if not reading.clean or reading.fields[:1] != (THINK,) or len(reading.fields) < 2:
            reason = reading.problem or f"its fields are {list(reading.fields)}"
            raise UnusableRow(f"{row.place}: the reference response is not in the output format ({reason})")
        return DialogueExample(
            uid=f"tool_use/{split}/{number}",
            question=f"{system}\n\n{user}",
            answer=render_calls(reading.calls) or "no call",
            system=system,
            user=user,
            reference=rlla.Reference(fields=reading.fields, calls=reading.calls),
        )


def _messages(row: Row) -> tuple[str, str]:
    """Texts of the system and of the user message."""
    messages = row.value("prompt")
    turns = [
        (m["role"], m["content"])
        for m in (messages if isinstance(messages, list) else [])
        if isinstance(m, dict) and isinstance(m.get("content"), str) and "role" in m
    ]
    if [role for role, _ in turns] != ["system", "user"]:
        raise UnusableRow(
            f"{row.place}: field 'prompt' must be a system and a user message, each with role and content"
        )
    return turns[0][1], turns[1][1]


def _ground_truth(row: Row) -> str:
    model = row.value("reward_model")
    truth = model.get("ground_truth") if isinstance(model, dict) else None
    if not isinstance(truth, str):
        raise UnusableRow(f"{row.place}: field 'reward_model' must hold a text 'ground_truth'")
    return truth
