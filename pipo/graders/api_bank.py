"""API-Bank's plans: when a call is the planned one, which results it needs, and which tool a search finds.

A call is the planned one by the rules of the API's own checker (``check_api_call_correctness`` in API-Bank's
``lv3_apis``): equal arguments, converted to the types that the tool declares, but

* ``EmailReminder`` may have any ``content``;
* of ``AddMeeting``, more than half of the words of both ``meeting_topic`` are shared;
* blanks in a ``Calculator``'s ``formula`` do not count.

API-Bank's ``ToolSearcher`` compares embeddings of a sentence model. Here words are compared.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipo.graders.tool_calls import ToolCall, equal_values

_ANY = {("EmailReminder", "content")}
_WORDS = {("AddMeeting", "meeting_topic")}
_FORMULAS = {("Calculator", "formula")}
_SHARED_WORDS = 0.5
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", re.ASCII)

Value = str | float
"""A text or a number inside of arguments and results."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool that can be found."""

    name: str
    """Its name."""
    description: str
    """What it does."""
    parameters: Mapping[str, Mapping[str, Any]]
    """Parameter -> ``type`` and ``description``."""


@dataclass(frozen=True, kw_only=True)
class PlannedCall:
    """A call of a plan."""

    call: ToolCall
    """Tool and arguments."""
    recorded: bool
    """Whether its result is known."""
    output: Any
    """What it returned; None when it is not known."""
    exception: Any
    """What it raised; None for nothing."""


def same_call(made: ToolCall, planned: ToolCall, tool: Tool) -> bool:
    """Whether a call is the planned one."""
    if made.name != planned.name or made.parameters.keys() != planned.parameters.keys():
        return False
    return all(
        _same(made.parameters[name], value, (planned.name, name), _type(tool, name))
        for name, value in planned.parameters.items()
    )


def _type(tool: Tool, parameter: str) -> str:
    return str(tool.parameters.get(parameter, {}).get("type", "str"))


def _same(a: Any, b: Any, place: tuple[str, str], kind: str) -> bool:
    if place in _ANY:
        return isinstance(a, str)
    if place in _WORDS:
        first, second = ({*value.split(" ")} if isinstance(value, str) else set[str]() for value in (a, b))
        return len(first & second) > _SHARED_WORDS * len(first | second)
    if place in _FORMULAS:
        return isinstance(a, str) and a.replace(" ", "") == str(b).replace(" ", "")
    return equal_values(_typed(a, kind), _typed(b, kind))


def _typed(value: Any, kind: str) -> Any:
    """A value as its parameter's type; itself where that is not possible."""
    if not isinstance(value, str):
        return value
    try:
        if kind in ("int", "float"):
            return float(value)
        if kind.startswith("list"):
            return json.loads(value.replace("'", '"'))
    except (ValueError, RecursionError):
        return value
    return value


def needed(plan: Sequence[PlannedCall], tools: Mapping[str, Tool], asked: str) -> list[frozenset[Value]]:
    """For each call the values of its arguments that only results of earlier calls have.

    Args:
        plan: calls in a right order.
        tools: by name.
        asked: what the user says.
    """
    given: set[Value] = {float(number) for number in _NUMBER.findall(asked)}
    results: set[Value] = set()
    found = []
    for planned in plan:
        used = set(_arguments(planned.call, tools[planned.call.name]))
        new = {value for value in used - given if not (isinstance(value, str) and value in asked)}
        found.append(frozenset(new & results))
        results |= set(values(planned.output))
    return found


def _arguments(call: ToolCall, tool: Tool) -> Iterator[Value]:
    for name, value in call.parameters.items():
        place = (call.name, name)
        if place in _FORMULAS:
            yield from map(float, _NUMBER.findall(str(value)))
        elif place not in _ANY | _WORDS:
            yield from values(_typed(value, _type(tool, name)))


def values(result: Any) -> Iterator[Value]:
    """The texts and numbers in a JSON value."""
    if isinstance(result, Mapping):
        for each in result.values():
            yield from values(each)
    elif isinstance(result, list | tuple):
        for each in result:
            yield from values(each)
    elif isinstance(result, str):
        yield result
    elif isinstance(result, int | float) and not isinstance(result, bool):
        yield float(result)


def search(keywords: str, tools: Mapping[str, Tool]) -> Tool | None:
    """The tool that suits some words best; None when it shares none with any.

    A word counts by its rarity among the tools, and twice in a name.
    """
    names = {tool.name: _words(tool.name) for tool in tools.values()}
    all_words = {tool.name: names[tool.name] | _words(tool.description) for tool in tools.values()}
    spread = Counter(word for found in all_words.values() for word in found)
    asked = sorted(_words(keywords))

    def score(name: str) -> float:
        return sum(
            math.log(1 + len(tools) / spread[word]) * (2 if word in names[name] else 1)
            for word in asked
            if word in all_words[name]
        )

    best = max(sorted(tools), key=score, default=None)
    return None if best is None or score(best) == 0 else tools[best]


def _words(text: str) -> set[str]:
    """Words without case and plural; names are parted at their capitals."""
    return {word.lower().removesuffix("s") for word in _WORD.findall(text)}
