"""BFCL's multi-turn categories: requests one after another, served by calls on simulated systems."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from pipo_sandbox import SandboxError

from pipo.errors import TaskError
from pipo.graders.bfcl_turns import executable
from pipo.graders.bfcl_worlds import Case, Simulators, Step, World
from pipo.records.problems import Example, Message, Prompt, Reply, Reward, Split, Transcript
from pipo.records.text import json_text
from pipo.tasks.bfcl_multi_turn_rows import DOCUMENTS, calls_of, functions_of, requests_of
from pipo.tasks.environment import Environment
from pipo.tasks.row_task import RowTask
from pipo.tasks.rows import Row, RowSource, UnusableRow

CATEGORIES = ("multi_turn_base", "multi_turn_long_context", "multi_turn_miss_func", "multi_turn_miss_param")
# The leaderboard's limit: a step beyond it ends the conversation.
MOST_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class MultiTurnExample(Example):
    """Requests with the systems that they are about."""

    requests: tuple[str, ...]
    """What the user says, turn by turn."""
    functions: str
    """Descriptions of the functions that are known from the beginning, a line of JSON each."""
    case: Case
    """What simulators and checker are told."""


class BfclMultiTurnTask(RowTask[MultiTurnExample]):
    """The problems of one category; a conversation is right or wrong by the leaderboard's own checker.

    A turn of the policy that makes calls is answered by their results, one without ends the user's turn. The
    next request follows, after the last one the verdict. More than 20 steps with calls in a turn end the
    conversation, as on the leaderboard.

    Args:
        category: which one, see ``CATEGORIES``.
        train: rows to train on, each with its answer as ``ground_truth``; None for none.
        test: the rows, with ``id``, ``question``, ``initial_config``, ``involved_classes`` and, where
            functions come late, ``missed_function``.
        answers: rows with the fields ``id`` and ``ground_truth``, the calls of each turn.
        template: the prompt, see ``pipo.tasks.template``.
        simulators: runs the calls and checks conversations.
        max_turns: how often the policy may speak.

    Raises:
        TaskError: there is no such category; later, the rows cannot be read, or there are no simulators.
    """

    version = "1"

    def __init__(
        self,
        *,
        category: str,
        train: RowSource | None,
        test: RowSource,
        answers: RowSource,
        template: str,
        simulators: Simulators,
        max_turns: int,
    ) -> None:
        if category not in CATEGORIES:
            raise TaskError(f"category {category!r}: must be one of {', '.join(CATEGORIES)}")
        super().__init__(train=train, test=test, template=template)
        self.name = f"bfcl_{category}"
        self.max_turns = max_turns
        self._answers = answers
        self._simulators = simulators
        self._truths: dict[str, Row] | None = None

    def make_example(self, split: Split, number: int, row: Row) -> MultiTurnExample:
        """One problem."""
        identity = row.text("id")
        if not re.fullmatch(rf"({'|'.join(CATEGORIES)})_\d+", identity):
            raise UnusableRow(f"{row.place}: {identity!r} is no id of a multi-turn problem")
        classes, config = row.value("involved_classes"), row.value("initial_config")
        if not isinstance(classes, list) or not set(classes) <= set(DOCUMENTS):
            known = ", ".join(DOCUMENTS)
            raise UnusableRow(f"{row.place}: field 'involved_classes' must list some of {known}")
        if not isinstance(config, dict):
            raise UnusableRow(f"{row.place}: field 'initial_config' must be an object")
        described, late = functions_of(row, classes)
        requests = requests_of(row, late)
        truth = calls_of(row, self._truth(identity, row), len(requests))
        world = {"id": identity, "initial_config": config, "involved_classes": classes}
        return MultiTurnExample(
            uid=f"{self.name}/{identity}",
            question="\n\n".join([described, json_text(config), *requests]),
            answer="\n".join(f"[{', '.join(calls)}]" for calls in truth),
            requests=requests,
            functions=described,
            case=Case(world=json.dumps(world), truth=truth),
        )

    def _truth(self, identity: str, row: Row) -> Any:
        """The right calls, from the row itself or from the file of answers."""
        if (own := row.fields.get("ground_truth")) is not None:
            return own
        if self._truths is None:
            held = [row for row in self._answers.rows() if isinstance(row.fields.get("id"), str)]
            self._truths = {row.text("id"): row for row in held}
        if identity not in self._truths:
            raise UnusableRow(f"{row.place}: {self._answers.name} has no answer with the id {identity!r}")
        return self._truths[identity].value("ground_truth")

    def render(self, example: MultiTurnExample) -> Prompt:
        """Instructions and functions first, then the first request."""
        return self.prompt.render({"functions": example.functions, "question": example.requests[0]})

    def environment(self, example: MultiTurnExample) -> MultiTurnConversation:
        """The user and the systems of one conversation."""
        return MultiTurnConversation(example, self._simulators.world(example.case))

    def grade(self, examples: Sequence[MultiTurnExample], responses: Sequence[str]) -> list[Reward]:
        """The verdicts on conversations of one response each."""
        return self.grade_transcripts(
            examples, [(Message(role="assistant", content=response),) for response in responses]
        )

    def grade_transcripts(
        self, examples: Sequence[MultiTurnExample], transcripts: Sequence[Transcript]
    ) -> list[Reward]:
        """The verdicts on whole conversations, which are gone through once more."""
        return [self._replayed(e, t) for e, t in zip(examples, transcripts, strict=True)]

    def _replayed(self, example: MultiTurnExample, transcript: Transcript) -> Reward:
        turns = len(example.requests)
        said = [end for end, message in enumerate(transcript, start=1) if message.role == "assistant"]
        reached = _turns_ended([bool(executable(transcript[end - 1].content)) for end in said])
        if reached < turns:
            return Reward(score=0.0, feedback=f"the conversation was cut in turn {reached + 1} of {turns}")
        conversation = self.environment(example)
        try:
            replies = (conversation.step(transcript[:end]) for end in said)
            return next(reply.reward for reply in replies if reply.reward is not None)
        finally:
            conversation.close()

    def close(self) -> None:
        """End the simulators."""
        self._simulators.close()


class MultiTurnConversation(Environment):
    """One conversation: results for calls, and the next request where there are none.

    Args:
        example: the problem.
        world: its systems.
    """

    def __init__(self, example: MultiTurnExample, world: World) -> None:
        self._example, self._world = example, world
        self._turns: list[list[Step]] = [[]]

    def step(self, transcript: Transcript) -> Reply:
        """Results of the calls in the newest turn; without any the next request, or the verdict."""
        try:
            return self._step(executable(transcript[-1].content))
        except SandboxError as error:
            return Reply(reward=Reward(score=0.0, error=str(error), infrastructure=True))

    def _step(self, calls: Step) -> Reply:
        if not calls:
            return self._next_request()
        results = self._world.step(calls)
        self._turns[-1].append(self._world.steps[-1])
        failed = sum(map(_failed, results))
        if len(self._turns[-1]) > MOST_STEPS:
            return Reply(reward=self._verdict(), tool_calls=len(calls), tool_errors=failed)
        # The line breaks part them where there is no chat template.
        messages = tuple(Message(role="tool", content=f"\n{result}\n") for result in results)
        return Reply(messages=messages, tool_calls=len(calls), tool_errors=failed)

    def _next_request(self) -> Reply:
        if len(self._turns) == len(self._example.requests):
            return Reply(reward=self._verdict())
        request = self._example.requests[len(self._turns)]
        self._turns.append([])
        return Reply(messages=(Message(role="user", content=f"\n\n{request}\n"),))

    def _verdict(self) -> Reward:
        found = self._world.verdict(self._turns)
        return Reward(score=float(found.right), feedback=found.reason or None)

    def close(self) -> None:
        """Forget the systems."""
        self._world.close()


def _failed(result: str) -> bool:
    """Whether a call failed: the leaderboard's word for what raised, or what the systems themselves say."""
    return result.startswith(("Error during execution", '{"error"'))


def _turns_ended(called: Sequence[bool]) -> int | float:
    """How many turns have ended, from whether each response makes calls; all, after too many steps in one."""
    ended = steps = 0
    for calls in called:
        steps = steps + 1 if calls else 0
        if steps > MOST_STEPS:
            return inf
        ended += not calls
    return ended
