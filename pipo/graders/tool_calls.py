"""Parse responses in ToolRL's format: thought, tool calls as JSON, answer to the user.

A whole response looks like this; calls, answer or both follow the thought::

    <think> ... </think>
    <tool_call>
    {"name": "GetNews", "parameters": {"page": 1}}
    </tool_call>
    <response> ... </response>
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pipo.graders.thought import CLOSING, OPENING, find_tag, tag_pattern

THINK, TOOL_CALL, RESPONSE = "think", "tool_call", "response"

_OPENING, _CLOSING = tag_pattern(OPENING), tag_pattern(CLOSING)
_TAGS = tag_pattern([*OPENING, *CLOSING, f"<{TOOL_CALL}>", f"<{RESPONSE}>"])
_SPACE = re.compile(r"\s*")


class UnreadableCalls(ValueError):
    """What stands between the tags is not a sequence of tool calls. The message says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """One call of a tool."""

    name: str
    """Name of the tool."""
    parameters: Mapping[str, Any]
    """Parameter name -> value, as JSON gives them."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a response holds."""

    fields: tuple[str, ...]
    """Names of the fields in the order in which they stand."""
    clean: bool
    """Whether every field is closed and nothing but white space stands outside of them."""
    calls: tuple[ToolCall, ...]
    """All tool calls, in order; empty when there is none or when one cannot be read."""
    problem: str | None
    """Why the calls cannot be read; None when they can."""
    text: str
    """Text between the tags of the calls, for reports; empty without calls."""


def read_response(response: str) -> Reading:
    """Fields and calls of a response, however broken.

    ``pipo/graders/thought.py`` says what is thought: all up to its last end, and all that follows one without
    an end. It may speak about the other fields without opening them; tags inside the JSON strings of a call
    or inside an answer are text. A response that closes a thought which it did not open began inside of it,
    because its prompt opened it; that is as good as a thought with both tags.
    """
    closing = find_tag(_CLOSING, response)
    if closing is None:
        found = _read_fields(response, 0, [], clean=True)
    else:
        thought = response[: closing.start()]
        whole = thought.lstrip().startswith("<think>") or find_tag(_OPENING, thought) is None
        found = _read_fields(response, closing.end(), [THINK], clean=whole and closing[0] == "</think>")
    while isinstance(found, int):
        found = _read_fields(response, found, [THINK], clean=False)
    return found


def _read_fields(text: str, position: int, fields: list[str], *, clean: bool) -> Reading | int:
    """What follows a thought; where a further thought ends if there is one, since then all is thought."""
    calls: list[ToolCall] = []
    blocks: list[str] = []
    problem: str | None = None
    while (tag := find_tag(_TAGS, text, position)) is not None:
        clean = clean and not text[position : tag.start()].strip()
        start = tag.end()
        if tag[0] in CLOSING:
            return start
        if tag[0] in OPENING:
            closing = find_tag(_CLOSING, text, start)
            if closing is not None:
                return closing.end()
            fields.append(THINK)
            clean, position = False, len(text)
            break
        field = tag[0][1:-1]
        fields.append(field)
        end = text.find(f"</{field}>", start)
        if field == TOOL_CALL:
            try:
                found, end = _read_block(text, start)
                calls += found
            except UnreadableCalls as error:
                problem, clean = problem or str(error), False
            blocks.append(text[start : end if end >= 0 else len(text)].strip())
        if end < 0:
            clean, position = False, len(text)
            break
        position = end + len(f"</{field}>")
    clean = clean and not text[position:].strip()
    readable = tuple(calls) if problem is None else ()
    return Reading(fields=tuple(fields), clean=clean, calls=readable, problem=problem, text="\n".join(blocks))


def _read_block(text: str, position: int) -> tuple[list[ToolCall], int]:
    """The calls from ``position`` up to the closing tag, and where that tag starts."""
    calls: list[ToolCall] = []
    while True:
        position = _end_of_space(text, position)
        if text.startswith(f"</{TOOL_CALL}>", position):
            return calls, position
        value, position = _decode(text, position, f"tool call {len(calls) + 1}")
        calls.append(as_call(value, f"tool call {len(calls) + 1}"))


def _end_of_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None  # it matches the empty text too
    return match.end()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _decode(text: str, position: int, place: str) -> tuple[Any, int]:
    """One JSON value."""
    try:
        return _DECODER.raw_decode(text, position)
    except RecursionError as error:
        raise UnreadableCalls(f"{place} is nested too deeply") from error
    except ValueError as error:  # malformed, NaN, or a number of more digits than Python reads
        raise UnreadableCalls(f"{place} is not valid JSON") from error


def as_call(value: Any, place: str) -> ToolCall:
    """A JSON value as a tool call.

    Raises:
        UnreadableCalls: it is no object with ``name`` and ``parameters`` of the right types.
    """
    if not isinstance(value, dict):
        raise UnreadableCalls(f"{place} is not a JSON object")
    if not isinstance(value.get("name"), str):
        raise UnreadableCalls(f"{place} has no name")
    if not isinstance(value.get("parameters"), dict):
        raise UnreadableCalls(f"{place} has no object of parameters")
    return ToolCall(name=value["name"], parameters=value["parameters"])


def equal_values(a: Any, b: Any) -> bool:
    """Equality of JSON values: numbers by value, but true is not 1, as it is for Python."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal_values(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal_values, a, b))
    return a == b


def equal_calls(a: ToolCall, b: ToolCall) -> bool:
    """Whether two calls have the same name and the same parameters with the same values."""
    return a.name == b.name and equal_values(dict(a.parameters), dict(b.parameters))


def same_calls(predicted: Sequence[ToolCall], expected: Sequence[ToolCall]) -> bool:
    """Whether the two hold equal calls equally often, in whatever order."""
    if len(predicted) != len(expected):
        return False
    left = list(predicted)
    for call in expected:  # equality is transitive, so taking the first equal one is never a mistake
        match = next((i for i, other in enumerate(left) if equal_calls(call, other)), None)
        if match is None:
            return False
        left.pop(match)
    return True


def render_calls(calls: Sequence[ToolCall]) -> str:
    """Calls as they stand between the tags, one JSON object a line."""
    return "\n".join(
        json.dumps({"name": call.name, "parameters": dict(call.parameters)}, ensure_ascii=False)
        for call in calls
    )
