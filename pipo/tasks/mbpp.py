"""MBPP: short functions described in a sentence and by the asserts that test them (Austin et al., 2021)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipo.graders.code_tests import AssertTests
from pipo.graders.thought import answer_part
from pipo.records.problems import Split
from pipo.tasks.code import CodeExample, CodeTask
from pipo.tasks.program import find_definition
from pipo.tasks.rows import Row, UnusableRow

# The authors' splits, by task_id. 1-10 are for worked problems in prompts, 511-600 for validation.
SPLITS = {"train": range(601, 975), "test": range(11, 511)}

# Around a program in the authors' own prompts, and so in the answer of a model that was shown some.
_BEGIN, _DONE = re.compile(r"^[ \t]*\[BEGIN\]", re.MULTILINE), re.compile(r"^[ \t]*\[DONE\]", re.MULTILINE)
_CALLED = re.compile(r"[A-Za-z_]\w*(?=\()")


class MbppTask(CodeTask):
    """The problems of MBPP, in the fields of the full or of the sanitized edition.

    A row belongs to a split by its ``task_id``, so one file may hold all; rows of other splits are left out.
    See :class:`CodeTask` for the options.
    """

    name = "mbpp"
    version = "2"
    ungraded: Mapping[str, Any] = {
        "text": "not given",
        "test_setup_code": "",
        "code": "not given",
        "test_imports": [],
    }

    def make_example(self, split: Split, number: int, row: Row) -> CodeExample:
        """One problem. ``challenge_test_list`` is not used: few rows have one, and no prompt shows it."""
        task_id = row.value("task_id")
        if not isinstance(task_id, int):
            raise UnusableRow(f"{row.place}: field 'task_id' must be a whole number, got {task_id!r:.80}")
        if task_id not in SPLITS[split]:
            own = SPLITS[split]
            raise UnusableRow(f"{row.place}: task_id {task_id} is not in {split} ({own[0]} to {own[-1]})")
        return _problem(f"mbpp/{task_id}", row)

    def to_grade(self, number: int, row: Row) -> CodeExample:
        """One problem, whatever split it is of: also of those that the authors keep for prompts."""
        return _problem(f"mbpp/row {number}", self.filled(row))

    def program(self, example: CodeExample, response: str) -> str | None:
        """The last block that defines what the asserts call, see :func:`pipo.tasks.program.find_definition`.

        What a model writes around ``[BEGIN]`` and ``[DONE]``, the marks of the authors' prompts, is left out.
        """
        assert isinstance(example.tests, AssertTests)
        answer = answer_part(response)
        marked = _BEGIN.split(_DONE.split(answer, 1)[0])[-1]
        names = {name for statement in example.tests.statements for name in _CALLED.findall(statement)}
        return find_definition(marked, names)


def _problem(uid: str, row: Row) -> CodeExample:
    sanitized = "prompt" in row.fields
    setup = "\n".join(_texts(row, "test_imports")) if sanitized else _setup(row)
    asserts = _texts(row, "test_list")
    if not asserts:
        raise UnusableRow(f"{row.place}: field 'test_list' has no tests")
    return CodeExample(
        uid=uid,
        question=row.text("prompt" if sanitized else "text").strip(),
        answer=row.text("code"),
        tests=AssertTests(setup=setup, statements=asserts, entry_point=None),
    )


def _setup(row: Row) -> str:
    value = row.value("test_setup_code")
    if not isinstance(value, str):
        raise UnusableRow(f"{row.place}: field 'test_setup_code' must be a text, got {value!r:.80}")
    return value


def _texts(row: Row, field: str) -> tuple[str, ...]:
    value: Any = row.value(field)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise UnusableRow(f"{row.place}: field {field!r} must be a list of texts, got {value!r:.80}")
    return tuple(item.strip() for item in value)
