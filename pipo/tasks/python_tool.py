"""Python as a tool of the policy: a task with one answer becomes one of several turns, with code in between.

A turn that calls is answered with what the code shows; the first one that does not is the answer, and the
task grades it as it grades a response of one turn. Variables and imports stay for as long as the episode.

Two forms of a call are read. As chat templates of Qwen and others have it, of which a turn may have several::

    <tool_call>
    {"name": "python", "arguments": {"code": "print(1 + 1)"}}
    </tool_call>

And as blocks of Markdown that begin with three backticks and ``python``, which models without a chat template
can write.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal

from pipo_sandbox import SandboxError

from pipo.errors import TaskError
from pipo.graders.python_tool import PythonLimits, PythonSession, PythonTool
from pipo.graders.thought import answer_part
from pipo.records.options import Count
from pipo.records.problems import (
    Dropped,
    E,
    Message,
    Prompt,
    Reply,
    Reward,
    Split,
    Transcript,
)
from pipo.tasks.base import Task
from pipo.tasks.blocks import blocks, is_python
from pipo.tasks.environment import Environment
from pipo.tasks.rows import Row

CallForm = Literal["auto", "tool_call", "fenced"]
NAME = "python"
PYTHON: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": (
            "Runs Python code. Returns what it prints, the value of a last expression and the last line of "
            "an error. Variables and imports stay for later calls."
        ),
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The code."}},
            "required": ["code"],
        },
    },
}
"""The tool as chat templates show it."""
_SHOWN = (
    "and end your message there; you are shown what it prints, the value of a last expression and the last "
    "line of an error. Variables and imports stay. A message without code to run is your answer."
)
_INSTRUCTIONS: Mapping[CallForm, str] = {
    "tool_call": (
        "You may run Python code before you answer. Write\n<tool_call>\n"
        '{"name": "python", "arguments": {"code": "print(1 + 1)"}}\n</tool_call>\n' + _SHOWN
    ),
    "fenced": "You may run Python code before you answer. Write\n```python\nprint(1 + 1)\n```\n" + _SHOWN,
}
_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a turn."""

    code: str | None
    """What is to be run; None when the call cannot be read."""
    problem: str
    """What is wrong with it, for the policy; empty when it can be read."""
    fenced: bool
    """Whether it is a block of Markdown."""


def read_calls(turn: str, form: CallForm) -> list[Call]:
    """The calls of a turn, in order; none stands in a thought."""
    said = answer_part(turn)
    if form != "fenced" and (tagged := _TAGGED.findall(said)):
        return [_tagged(text) for text in tagged]
    if form == "tool_call":
        return []
    return [
        Call(code=textwrap.dedent(body.strip("\n")), problem="", fenced=True)  # in a list it is indented
        for info, body in blocks(said)
        if is_python(info) and body.strip()
    ]


def _tagged(text: str) -> Call:
    wanted = '{"name": "python", "arguments": {"code": "..."}}'
    try:
        value = json.loads(text, strict=False)  # line breaks inside of the code
    except (ValueError, RecursionError):
        return Call(code=None, problem=f"the call is not valid JSON; wanted is {wanted}", fenced=False)
    if not isinstance(value, dict) or value.get("name") != NAME:
        named = value.get("name") if isinstance(value, dict) else None
        said = f"there is no tool {named!r:.40}" if isinstance(named, str) else "the call names no tool"
        return Call(code=None, problem=f"{said}; the only one is {NAME!r}", fenced=False)
    arguments = value.get("arguments")
    if not isinstance(arguments, dict) or not isinstance(arguments.get("code"), str):
        return Call(code=None, problem=f"the call has no code; wanted is {wanted}", fenced=False)
    return Call(code=arguments["code"], problem="", fenced=False)


class PythonEnvironment(Environment):
    """Runs the code of a turn; a turn without any ends the episode, and the task grades it.

    Args:
        session: the interpreter.
        form: of a call.
    """

    def __init__(self, session: PythonSession, form: CallForm) -> None:
        self._session = session
        self._form: CallForm = form

    def step(self, transcript: Transcript) -> Reply:
        """What the code shows."""
        calls = read_calls(transcript[-1].content, self._form)
        try:
            shown = iter(self._session.run([call.code for call in calls if call.code is not None]))
        except SandboxError as error:
            return Reply(reward=Reward(score=0.0, error=str(error), infrastructure=True))
        messages, errors = [], 0
        for call in calls:
            if call.code is None:
                text, failed = f"error: {call.problem}", True
            else:
                one = next(shown)
                text, failed = one.text, one.failed
            errors += failed
            messages.append(_message(call, text))
        return Reply(messages=tuple(messages), tool_calls=len(calls), tool_errors=errors)

    def close(self) -> None:
        """End the interpreter."""
        self._session.close()


def _message(call: Call, text: str) -> Message:
    if call.fenced:  # a model without a chat template reads it as it stands here
        return Message(role="user", content=f"\n```output\n{text}\n```\n")
    return Message(role="tool", content=text)


class PythonToolTask(Task[E], Generic[E]):
    """A task whose policy may run Python before it answers.

    Args:
        task: puts the problems and grades the answers.
        call: how the policy is told to call, and which calls are read: ``tool_call``, ``fenced``, or ``auto``
            for ``tool_call`` with a chat template and ``fenced`` without one, where both are read.
        max_turns: how often the policy may speak, the answer included.
        limits: what the calls may take.

    Raises:
        TaskError: the task has several turns of its own.
    """

    def __init__(self, *, task: Task[E], call: CallForm, max_turns: Count, limits: PythonLimits) -> None:
        if task.max_turns is not None:
            raise TaskError(f"{task.name} has an environment of its own, so it takes no tool")
        self.name, self.votes, self.reward_names = task.name, task.votes, task.reward_names
        self.version, self.template = f"{task.version}-python1", f"{task.template}+python/1"
        self.max_turns = max_turns
        self._task = task
        self._form: CallForm = call
        self._tool = PythonTool(limits=limits, turns=max_turns)

    def environment(self, example: E) -> Environment:
        """An interpreter, which starts with the first call."""
        return PythonEnvironment(PythonSession(self._tool), self._form)

    def examples(self, split: Split) -> Sequence[E]:
        """The task's."""
        return self._task.examples(split)

    def dropped(self, split: Split) -> Sequence[Dropped]:
        """The task's."""
        return self._task.dropped(split)

    def doubtful(self, split: Split) -> Sequence[Dropped]:
        """The task's."""
        return self._task.doubtful(split)

    def to_grade(self, number: int, row: Row) -> E:
        """The task's."""
        return self._task.to_grade(number, row)

    def render(self, example: E) -> Prompt:
        """The task's prompt, with how to call in front of it."""
        return self._with_tool(self._task.render(example))

    def render_with_hint(self, example: E, *, solution: str | None, feedback: str | None) -> Prompt:
        """The same of the task's prompt for a self-teacher."""
        return self._with_tool(self._task.render_with_hint(example, solution=solution, feedback=feedback))

    def grade(self, examples: Sequence[E], responses: Sequence[str]) -> list[Reward]:
        """The task's verdicts on answers; a turn that calls is none."""
        return self._task.grade(examples, [self._answer(response) for response in responses])

    def begin_grading(self, examples: Sequence[E], responses: Sequence[str]) -> None:
        """Let the task begin on answers."""
        self._task.begin_grading(examples, [self._answer(response) for response in responses])

    def begins_early(self) -> bool:
        """Whether the task does."""
        return self._task.begins_early()

    def same_answers(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """The task's."""
        return self._task.same_answers(pairs)

    def close(self) -> None:
        """End every interpreter, and what the task has started."""
        self._tool.close()
        self._task.close()

    def _answer(self, turn: str) -> str:
        return "" if read_calls(turn, self._form) else turn

    def _with_tool(self, prompt: Prompt) -> Prompt:
        chat: CallForm = "fenced" if self._form == "fenced" else "tool_call"
        plain: CallForm = "tool_call" if self._form == "tool_call" else "fenced"
        return Prompt(
            messages=_instructed(prompt.messages, _INSTRUCTIONS[chat]),
            text=f"{_INSTRUCTIONS[plain]}\n\n{prompt.text}",
            tools=() if chat == "fenced" else (PYTHON,),
        )


def _instructed(messages: Sequence[Message], instruction: str) -> tuple[Message, ...]:
    """A conversation with an instruction at the end of its system turn."""
    if messages[0].role == "system":
        first = replace(messages[0], content=f"{messages[0].content}\n\n{instruction}")
        return (first, *messages[1:])
    return (Message(role="system", content=instruction), *messages)
