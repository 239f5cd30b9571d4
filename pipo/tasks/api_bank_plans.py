"""Read API-Bank's level 3 as plans: what the user wants, and the calls that get there, with their results.

Two forms of rows are read. API-Bank's own (``level-3.json``), a plan a row: ``requirement``, and ``apis``
with ``api_name``, ``input`` and ``output``, searches for tools among them. ToolRL's
(``level-3-api_processed.json``), a call a row: the tools and the calls before it stand in its prompt,
searches are left out, and the result of a plan's last call is not known.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipo.graders.api_bank import PlannedCall, Tool
from pipo.graders.tool_calls import ToolCall, UnreadableCalls, as_call
from pipo.tasks.rows import Row, UnusableRow

SEARCHER = "ToolSearcher"
"""The tool that finds the others."""

_TOOL = re.compile(r"^\d+\. (\w+): (.*)\nParameters: (\{.*\})$", re.MULTILINE)
_ASKED = re.compile(r"<user>(.*?)</user>", re.DOTALL)
_STEP = re.compile(r"<tool_call>(.*?)</tool_call>\s*<obs>(.*?)</obs>", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan, or the beginning of one."""

    key: str
    """The same for all rows of one plan."""
    asked: str
    """What the user wants."""
    calls: tuple[PlannedCall, ...]
    """The calls, in order, without searches."""
    tools: tuple[Tool, ...]
    """The tools that they call."""


def read_plan(number: int, row: Row) -> Plan:
    """The plan of a row, in ToolRL's form up to the row's own call.

    Raises:
        UnusableRow: the row gives none.
    """
    plan = _own_form(number, row) if "apis" in row.fields else _toolrl_form(row)
    known = {tool.name for tool in plan.tools}
    if lost := [each.call.name for each in plan.calls if each.call.name not in known]:
        raise UnusableRow(f"{row.place}: its plan calls {lost[0]}, a tool that it does not describe")
    if not plan.calls:
        raise UnusableRow(f"{row.place}: its plan has no call")
    return plan


def _own_form(number: int, row: Row) -> Plan:
    calls, tools = [], []
    apis = row.value("apis")
    for place, api in enumerate(apis if isinstance(apis, list) else [apis], start=1):
        where = f"{row.place}: field 'apis', call {place}"
        if not isinstance(api, Mapping) or not isinstance(api.get("output"), Mapping):
            raise UnusableRow(f"{where}: must have api_name, input and output, got {api!r:.80}")
        output = api["output"].get("output")
        if api.get("api_name") == SEARCHER:
            tools += [_tool(each, where) for each in (output if isinstance(output, list) else [output])]
            continue
        call = _call({"name": api.get("api_name"), "parameters": api.get("input")}, where)
        exception = api["output"].get("exception")
        calls.append(PlannedCall(call=call, recorded=True, output=output, exception=exception))
    return Plan(key=str(number), asked=row.text("requirement").strip(), calls=(*calls,), tools=(*tools,))


def _toolrl_form(row: Row) -> Plan:
    user, other = row.text("user"), row.value("other")
    asked = _ASKED.search(user)
    if asked is None or not isinstance(other, Mapping) or "sample_id" not in other:
        raise UnusableRow(f"{row.place}: must have <user> in field 'user' and sample_id in field 'other'")
    calls = []
    for place, (call, result) in enumerate(_STEP.findall(user), start=1):
        where = f"{row.place}: field 'user', call {place}"
        shown = _literal(result, where)
        if not isinstance(shown, Mapping):
            raise UnusableRow(f"{where}: its result must be an object, got {shown!r:.80}")
        calls.append(
            PlannedCall(
                call=_call(_json(call, where), where),
                recorded=True,
                output=shown.get("output"),
                exception=shown.get("exception"),
            )
        )
    answer = row.value("answer")
    answer = _literal(answer, f"{row.place}: field 'answer'") if isinstance(answer, str) else answer
    for last in answer if isinstance(answer, list) else [answer]:
        call = _call(last, f"{row.place}: field 'answer'")
        calls.append(PlannedCall(call=call, recorded=False, output=None, exception=None))
    tools = [
        Tool(name=name, description=description, parameters=_literal(parameters, f"{row.place}: {name}"))
        for name, description, parameters in _TOOL.findall(row.text("system"))
    ]
    return Plan(key=str(other["sample_id"]), asked=asked[1].strip(), calls=(*calls,), tools=(*tools,))


def _tool(value: Any, where: str) -> Tool:
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise UnusableRow(f"{where}: what a search finds must be a tool, got {value!r:.80}")
    return Tool(
        name=value["name"],
        description=str(value.get("description", "")),
        parameters=value.get("input_parameters") or {},
    )


def _call(value: Any, where: str) -> ToolCall:
    try:
        return as_call(value, "it")
    except UnreadableCalls as error:
        raise UnusableRow(f"{where}: {error}") from error


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableRow(f"{where}: not JSON ({error})") from error


def _literal(text: str, where: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise UnusableRow(f"{where}: not a Python literal ({error})") from error
