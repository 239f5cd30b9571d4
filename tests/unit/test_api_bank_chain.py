"""API-Bank's plans as episodes: rows written for this test in both forms, and real ones if given."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipo.graders.api_bank import Tool, same_call, search
from pipo.graders.tool_calls import ToolCall
from pipo.records.problems import Message, Reply, Reward
from pipo.tasks.api_bank_chain import NOT_RECORDED, ApiBankChainTask, ChainExample
from pipo.tasks.published_file import PublishedFile


def tool(name: str, description: str, parameter: str) -> dict[str, Any]:
    return {"name": name, "description": description, "input_parameters": {parameter: {"type": "str"}}}


STAFF = tool("Staff", "Lists who works in a shop.", "shop")
WAGE = tool("WageOf", "Tells what a person earns.", "person")
SUM = tool("Calculator", "Adds numbers.", "formula")


def api(name: str, given: Mapping[str, Any], output: Any) -> dict[str, Any]:
    return {"api_name": name, "input": given, "output": {"output": output, "exception": None}}


OWN = {
    "requirement": " What do they earn in the corner shop?",
    "response": "70",
    "apis": [
        api("ToolSearcher", {"keywords": "Staff"}, STAFF),
        api("Staff", {"shop": "corner"}, {"names": ["Ann", "Bob"]}),
        api("ToolSearcher", {"keywords": "WageOf"}, WAGE),
        api("WageOf", {"person": "Ann"}, {"wage": 30}),
        api("WageOf", {"person": "Bob"}, {"wage": 40}),
        api("ToolSearcher", {"keywords": "Calculator"}, [SUM]),
        api("Calculator", {"formula": "30+40"}, 70.0),
    ],
}


def toolrl(calls: int) -> dict[str, Any]:
    """The row of ToolRL's form for a call of the same plan, after so many others."""
    made = [each for each in OWN["apis"] if each["api_name"] != "ToolSearcher"]  # type: ignore[index]
    steps = [
        f"<tool_call>\n{json.dumps({'name': each['api_name'], 'parameters': each['input']})}\n</tool_call>\n"
        f"<obs> {each['output']!r} </obs>\n"
        for each in made[:calls]
    ]
    tools = "\n".join(
        f"{n}. {t['name']}: {t['description']}\nParameters: {t['input_parameters']}"
        for n, t in enumerate((STAFF, WAGE, SUM), start=1)
    )
    last = made[calls]
    return {
        "system": f"**Available Tools**\n{tools}\n\n**Steps**",
        "user": f"<user>{OWN['requirement']}</user>\n{''.join(steps)}\n<user> only one call </user>",
        "answer": repr([{"name": last["api_name"], "parameters": last["input"]}]),
        "other": {"sample_id": 7, "api_id": 2 * calls + 1},
    }


def task_of(path: Path) -> ApiBankChainTask:
    source = PublishedFile(path=str(path), hub_id=None, file="x.json", revision="main")
    return ApiBankChainTask(test=source, template="api_bank_chain", max_turns=12)


@pytest.fixture
def task(tmp_path: Path) -> ApiBankChainTask:
    (tmp_path / "level-3.json").write_text(json.dumps([OWN]))
    return task_of(tmp_path / "level-3.json")


class Episode:
    """A policy that makes one call a turn."""

    def __init__(self, task: ApiBankChainTask, example: ChainExample) -> None:
        self._environment = task.environment(example)
        self._said: tuple[Message, ...] = ()

    def say(self, text: str) -> Reply:
        self._said = (*self._said, Message(role="assistant", content=text))
        reply = self._environment.step(self._said)
        self._said = (*self._said, *reply.messages)
        return reply

    def call(self, name: str, **given: Any) -> dict[str, Any]:
        """What the call is answered."""
        reply = self.say(f"<tool_call>\n{json.dumps({'name': name, 'parameters': given})}\n</tool_call>")
        (message,) = reply.messages
        assert message.role == "tool"
        answer = json.loads(message.content.strip().removeprefix("<obs>").removesuffix("</obs>"))
        assert reply.tool_errors == (answer["exception"] is not None)
        return answer

    def find(self, *names: str) -> None:
        for name in names:
            assert self.call("ToolSearcher", keywords=name)["output"]["name"] == name

    def end(self) -> Reward:
        """The verdict, after an answer to the user."""
        reply = self.say("<response> 70 </response>")
        assert not reply.messages
        assert reply.reward is not None
        return reply.reward


def test_the_plan(task: ApiBankChainTask) -> None:
    (example,) = task.examples("test")
    assert (example.uid, example.question) == ("api_bank_chain/test/0", OWN["requirement"].strip())  # type: ignore[attr-defined]
    episode = Episode(task, example)

    episode.find("Staff")
    assert episode.call("Staff", shop="corner")["output"] == {"names": ["Ann", "Bob"]}
    episode.find("WageOf", "Calculator")
    assert episode.call("WageOf", person="Bob")["output"] == {"wage": 40}, "in any order"
    assert episode.call("WageOf", person="Ann")["output"] == {"wage": 30}
    assert episode.call("Calculator", formula="30 + 40")["output"] == 70.0
    reward = episode.end()

    assert reward.score == 1.0
    assert reward.noted == {
        "calls_made": 4,
        "calls_planned": 4,
        "tools_found": ["Calculator", "Staff", "WageOf"],
    }


def test_what_does_not_count(task: ApiBankChainTask) -> None:
    (example,) = task.examples("test")
    episode = Episode(task, example)

    assert "search for it with ToolSearcher" in episode.call("Staff", shop="corner")["exception"]
    assert episode.call("ToolSearcher", keywords="zzz")["exception"] == "no tool has any of these words"
    assert "only parameter is keywords" in episode.call("ToolSearcher", words="Staff")["exception"]
    episode.find("Staff", "WageOf", "Calculator")
    assert episode.call("Staff", shop="other")["exception"] == "no result of this call is recorded"
    assert episode.call("WageOf", person="Ann")["output"] == {"wage": 30}, "answered, though it was guessed"
    episode.call("Staff", shop="corner")
    episode.call("WageOf", person="Bob")
    episode.call("Calculator", formula="30+40")
    broken = episode.say('<tool_call>\n{"name": "Staff"}\n</tool_call>')
    assert (broken.tool_calls, broken.tool_errors) == (1, 1)
    reward = episode.end()

    assert (reward.score, reward.feedback) == (0.0, "3 of 4 needed calls were made.")
    episode.call("WageOf", person="Ann")
    assert episode.end().score == 1.0, "made again, once its value was shown"


def test_what_a_call_of_the_same_turn_returns_has_not_been_read(task: ApiBankChainTask) -> None:
    (example,) = task.examples("test")
    episode = Episode(task, example)
    episode.find("Staff", "WageOf", "Calculator")

    def calls(*wanted: tuple[str, dict[str, str]]) -> Reply:
        lines = [json.dumps({"name": name, "parameters": given}) for name, given in wanted]
        return episode.say("<tool_call>\n" + "\n".join(lines) + "\n</tool_call>")

    wages = [("WageOf", {"person": person}) for person in ("Ann", "Bob")]
    guessed = calls(("Staff", {"shop": "corner"}), *wages, ("Calculator", {"formula": "30+40"}))
    assert (guessed.tool_calls, guessed.tool_errors) == (4, 0), "all are answered"
    assert guessed.reward is not None
    assert guessed.reward.feedback == "1 of 4 needed calls were made."
    assert calls(*wages, ("Calculator", {"formula": "30+40"})).reward is not None
    assert episode.end().score == 1.0, "made again, once their values were shown"


def test_rows_in_toolrls_form_are_put_together(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(toolrl(calls)) for calls in (1, 3, 0)))
    task = task_of(path)
    (example,) = task.examples("test")
    assert example.uid == "api_bank_chain/test/7"
    assert [each.call.name for each in example.calls] == ["Staff", "WageOf", "WageOf", "Calculator"]

    episode = Episode(task, example)
    episode.find("Staff", "WageOf", "Calculator")
    episode.call("Staff", shop="corner")
    episode.call("WageOf", person="Ann")
    episode.call("WageOf", person="Bob")
    assert episode.call("Calculator", formula="30+40")["output"] == NOT_RECORDED
    assert episode.end().score == 1.0


def test_rows_that_give_no_plan(tmp_path: Path) -> None:
    odd = [
        {**OWN, "apis": [api("Staff", {"shop": "corner"}, None)]},
        {**OWN, "apis": [api("ToolSearcher", {"keywords": "Staff"}, STAFF)]},
        {**OWN, "apis": ["Staff"]},
        {**toolrl(1), "user": "no user"},
        {**toolrl(1), "answer": "nothing"},
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([OWN, *odd]))
    task = task_of(path)

    assert len(task.examples("test")) == 1
    reasons = [each.reason for each in task.dropped("test")]
    for reason, said in zip(
        reasons,
        [
            "its plan calls Staff, a tool that it does not describe",
            "its plan has no call",
            "must have api_name, input and output",
            "must have <user> in field 'user'",
            "field 'answer': not a Python literal",
        ],
        strict=True,
    ):
        assert said in reason


@pytest.mark.parametrize(
    ("name", "planned", "made", "same"),
    [
        (
            "Place",
            {"lat": "40.70", "n": "3", "names": ["A"]},
            {"lat": 40.7, "n": 3.0, "names": "['A']"},
            True,
        ),
        ("Place", {"code": "040"}, {"code": "40"}, False),
        ("Place", {"code": "040"}, {"code": "040", "n": 1}, False),
        ("Place", {"n": 1}, {"n": True}, False),
        ("EmailReminder", {"content": "a", "to": "x"}, {"content": "b", "to": "x"}, True),
        ("EmailReminder", {"content": "a", "to": "x"}, {"to": "x"}, False),
        ("AddMeeting", {"meeting_topic": "Team Meeting"}, {"meeting_topic": "Our Team Meeting"}, True),
        ("AddMeeting", {"meeting_topic": "Team Meeting"}, {"meeting_topic": "Meeting"}, False),
        ("Calculator", {"formula": "30 / 3"}, {"formula": "30/3"}, True),
        ("Calculator", {"formula": "30/3"}, {"formula": "20/2"}, False),
    ],
)
def test_when_a_call_is_the_planned_one(
    name: str, planned: Mapping[str, Any], made: Mapping[str, Any], same: bool
) -> None:
    kinds = {"lat": "float", "n": "int", "names": "list(str)", "code": "str"}
    used = Tool(name=name, description="", parameters={k: {"type": kind} for k, kind in kinds.items()})
    wanted = ToolCall(name=name, parameters=planned)

    assert same_call(ToolCall(name=name, parameters=made), wanted, used) is same
    assert not same_call(ToolCall(name="Other", parameters=made), wanted, used)


def test_searches_go_by_words() -> None:
    tools = {
        name: Tool(name=name, description=description, parameters={})
        for name, description in {
            "GetWeatherForCoordinates": "Retrieves current weather information.",
            "NearbyRestaurants": "Retrieves restaurants around a place.",
            "AddMeeting": "Makes a reservation for a meeting.",
        }.items()
    }
    asked = {
        "getWeatherForCoordinates": "GetWeatherForCoordinates",
        "a nearby restaurant": "NearbyRestaurants",
    }
    asked |= {"weather": "GetWeatherForCoordinates", "reservation": "AddMeeting", "movie": None}

    found = {keywords: search(keywords, tools) for keywords in asked}

    assert {keywords: best and best.name for keywords, best in found.items()} == asked


def test_real_plans_are_right_as_they_stand() -> None:
    folder = os.environ.get("PIPO_DATA_DIR")
    if folder is None:
        pytest.skip("PIPO_DATA_DIR is not set: a folder with api_bank/level-3-api_processed.jsonl")
    task = task_of(Path(folder) / "api_bank/level-3-api_processed.jsonl")
    examples = task.examples("test")
    assert len(examples) >= 37
    assert not task.dropped("test")

    for example in examples:
        episode = Episode(task, example)
        episode.find(*dict.fromkeys(each.call.name for each in example.calls))
        for each in example.calls:
            assert episode.call(each.call.name, **each.call.parameters)["exception"] is None
        assert episode.end().score == 1.0, example.uid
