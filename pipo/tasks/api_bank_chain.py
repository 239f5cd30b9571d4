"""API-Bank's level 3 as episodes: tools are found by search, and later calls need what earlier ones returned.

API-Bank scores level 3 call by call, each after the right calls before it (``task=api_bank`` does that). Here
the policy is on its own. It sees one tool, the searcher; what it finds can be called. Nothing is executed: a
call that is a planned one is answered with the result that API-Bank recorded, any other with an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipo.graders.api_bank import PlannedCall, Tool, Value, needed, same_call, search, values
from pipo.graders.tool_calls import ToolCall, read_response, render_calls
from pipo.records.options import Count
from pipo.records.problems import Example, Message, Prompt, Reply, Reward, Split, Transcript
from pipo.records.text import json_text
from pipo.tasks.api_bank_plans import SEARCHER, read_plan
from pipo.tasks.environment import Environment
from pipo.tasks.row_task import RowTask
from pipo.tasks.rows import Row, RowSource
from pipo.tasks.verdicts import one_by_one

NOT_RECORDED = "done; the result is not recorded"
"""What a planned call is answered whose result is not known."""


@dataclass(frozen=True, kw_only=True)
class ChainExample(Example):
    """What a user wants, and the plan that gets there."""

    plan: str
    """The same for all rows of one plan."""
    calls: tuple[PlannedCall, ...]
    """The plan."""
    tools: tuple[Tool, ...]
    """The tools that it calls."""


class ChainEnvironment(Environment):
    """Searches for tools and answers planned calls from the recording.

    Args:
        example: the plan.
        tools: all that a search can find, by name.
    """

    def __init__(self, example: ChainExample, tools: Mapping[str, Tool]) -> None:
        self._calls, self._tools = example.calls, tools
        self._needed = needed(example.calls, tools, example.question)
        self._found: set[str] = set()
        self._shown: set[Value] = set()
        self._unread: set[Value] = set()
        self._made: set[int] = set()
        self._answered: list[ToolCall] = []

    def step(self, transcript: Transcript) -> Reply:
        """What the calls of a turn return; a turn without one ends the episode."""
        self._shown |= self._unread  # what a turn's calls return is read when the next one is written
        self._unread.clear()
        reading = read_response(transcript[-1].content)
        if reading.problem is not None:
            answers = [({"exception": reading.problem}, True)]
        else:
            answers = [self._answer(call) for call in reading.calls]
        return Reply(
            messages=tuple(
                Message(role="tool", content=f"\n<obs> {json_text(answer)} </obs>\n") for answer, _ in answers
            ),
            reward=self._verdict(),
            tool_calls=len(answers),
            tool_errors=sum(failed for _, failed in answers),
        )

    def _answer(self, call: ToolCall) -> tuple[Mapping[str, object], bool]:
        """What the policy is told, and whether the call failed."""
        if call.name == SEARCHER:
            return self._search(call)
        if call.name not in self._found:
            said = f"{call.name} is none of the tools found so far; search for it with {SEARCHER}"
            return _failure(call, said)
        same = [
            number
            for number, planned in enumerate(self._calls)
            if same_call(call, planned.call, self._tools[call.name])
        ]
        if not same:
            return _failure(call, "no result of this call is recorded")
        # Of two equal calls of a plan the second is made with the second call.
        number = next((n for n in same if n not in self._made), same[-1])
        if self._needed[number] <= self._shown:  # else it was guessed, and does not count yet
            self._made.add(number)
        planned = self._calls[number]
        self._unread |= set(values(planned.output))
        self._answered.append(call)
        output = planned.output if planned.recorded else NOT_RECORDED
        answer = {"api_name": call.name, "input": dict(call.parameters), "output": output}
        return {**answer, "exception": planned.exception}, planned.exception is not None

    def _search(self, call: ToolCall) -> tuple[Mapping[str, object], bool]:
        keywords = call.parameters.get("keywords")
        if not isinstance(keywords, str) or len(call.parameters) != 1:
            return _failure(call, "its only parameter is keywords, a text")
        tool = search(keywords, self._tools)
        if tool is None:
            return _failure(call, "no tool has any of these words")
        self._found.add(tool.name)
        found = {"name": tool.name, "description": tool.description, "input_parameters": tool.parameters}
        answer = {"api_name": SEARCHER, "input": dict(call.parameters), "output": found}
        return {**answer, "exception": None}, False

    def _verdict(self) -> Reward:
        made, planned = len(self._made), len(self._calls)
        return Reward(
            score=float(made == planned),
            answer=render_calls(self._answered) or None,
            feedback=f"{made} of {planned} needed calls were made.",
            noted={"calls_made": made, "calls_planned": planned, "tools_found": sorted(self._found)},
        )


def _failure(call: ToolCall, said: str) -> tuple[Mapping[str, object], bool]:
    answer = {"api_name": call.name, "input": dict(call.parameters), "output": None, "exception": said}
    return answer, True


class ApiBankChainTask(RowTask[ChainExample]):
    """Plans of API-Bank's level 3, only to evaluate.

    Grading: 1 if every call of the plan was made, each after the results were shown from which its arguments
    come; else 0. Further calls cost nothing but turns. ``Reward.noted`` says how many calls were made.

    Args:
        test: the rows, see ``pipo.tasks.api_bank_plans``.
        template: the prompt, see ``pipo.tasks.template``.
        max_turns: how often the policy may speak; the longest plan takes eight calls, searches included.
    """

    name = "api_bank_chain"
    version = "1"

    def __init__(self, *, test: RowSource, template: str, max_turns: Count) -> None:
        super().__init__(train=None, test=test, template=template)
        self.max_turns = max_turns
        self._plans: dict[Split, tuple[ChainExample, ...]] = {}

    def make_example(self, split: Split, number: int, row: Row) -> ChainExample:
        """The plan of a row."""
        plan = read_plan(number, row)
        return ChainExample(
            uid=f"{self.name}/{split}/{plan.key}",
            question=plan.asked,
            answer=render_calls([each.call for each in plan.calls]),
            plan=plan.key,
            calls=plan.calls,
            tools=plan.tools,
        )

    def examples(self, split: Split) -> Sequence[ChainExample]:
        """The plans, each as the row with most of its calls has it."""
        if split not in self._plans:
            longest: dict[str, ChainExample] = {}
            for example in super().examples(split):
                kept = longest.get(example.plan)
                if kept is None or len(example.calls) > len(kept.calls):
                    longest[example.plan] = example
            self._plans[split] = tuple(longest.values())
        return self._plans[split]

    def render(self, example: ChainExample) -> Prompt:
        """What the user wants, and how to call the searcher."""
        return self.prompt.render({"asked": example.question})

    def environment(self, example: ChainExample) -> Environment:
        """A search over the tools of all plans, and the recording of this one."""
        # A run has read its plans. Where rows with a response are graded, this one is alone.
        plans = (*self._plans.get("test", ()), example)
        return ChainEnvironment(example, {tool.name: tool for plan in plans for tool in plan.tools})

    def grade(self, examples: Sequence[ChainExample], responses: Sequence[str]) -> list[Reward]:
        """The verdict on episodes of one turn, as where the first one was cut."""
        return one_by_one(self._after_one_turn, examples, responses)

    def _after_one_turn(self, example: ChainExample, response: str) -> Reward:
        reply = self.environment(example).step((Message(role="assistant", content=response),))
        assert reply.reward is not None  # every step gives one
        return reply.reward
