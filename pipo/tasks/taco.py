"""TACO: problems of programming contests with hidden tests (Li et al., 2023).

Every column of a row is a string or null; ``input_output`` and ``solutions`` are JSON. Tests without
``fn_name`` are for a program from standard input to standard output, those with it for a function. The second
kind comes in the conventions of APPS, where most of these rows were first published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipo.graders.code_tests import CallTests, ProgramTests, StdinTests
from pipo.graders.integers import int_text, read_json
from pipo.records.problems import Split
from pipo.tasks.code import CodeExample, CodeTask, contest_prelude, with_prelude
from pipo.tasks.rows import Row, UnusableRow

# The reward of the method's authors recurses deeper; TACO's own harness knows two modules more, and numpy.
TACO_PRELUDE = contest_prelude(600_000, "time", "fractions")
_NUMPY = re.compile(r"\bnp\.")

_DEFINES_A_FUNCTION = re.compile(r"^[ \t]*(?:class|def)\s", re.MULTILINE)


class TacoTask(CodeTask):
    """The problems of TACO; see :class:`CodeTask` for the options."""

    name = "taco"
    version = "2"

    ungraded: Mapping[str, Any] = {"question": "not given", "starter_code": ""}

    def make_example(self, split: Split, number: int, row: Row) -> CodeExample:
        """One problem; its level is the difficulty."""
        question = row.text("question").strip()
        starter_code = _text_or_null(row, "starter_code")
        solutions = row.fields.get("solutions")
        return CodeExample(
            uid=f"taco/{split}/{number}",
            question=question,
            answer=_first_solution(row.place, solutions) if solutions else "",
            level=_text_or_null(row, "difficulty") if "difficulty" in row.fields else "",
            tests=read_tests(row, starter_code),
            starter_code=starter_code.strip("\n"),
        )

    def runnable(self, program: str) -> str:
        """The program with the names of both harnesses: that of the method's authors, and TACO's own."""
        numpy = "import numpy as np; " if _NUMPY.search(program) else ""  # slow to load, and seldom used
        return with_prelude(program, numpy + TACO_PRELUDE)


def read_tests(row: Row, starter_code: str) -> ProgramTests:
    """The tests of a row.

    Raises:
        UnusableRow: they cannot be run.
    """
    data = row.value("input_output")
    if not isinstance(data, dict):  # as text, in the data set; some copies hold what the text says
        data = _parsed(row.place, "input_output", row.text("input_output"))
    inputs, outputs = (data.get(key) if isinstance(data, dict) else None for key in ("inputs", "outputs"))
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise UnusableRow(f"{row.place}: field 'input_output' must hold the lists 'inputs' and 'outputs'")
    if not inputs or len(inputs) != len(outputs):
        raise UnusableRow(
            f"{row.place}: field 'input_output' has {len(inputs)} inputs and {len(outputs)} outputs; "
            "as many are needed, at least one"
        )
    function = data.get("fn_name")
    if function:
        return CallTests(
            function=function,
            arguments=_arguments(row.place, inputs),
            expected=tuple(_expected(value) for value in outputs),
            maybe_wrapped=True,
        )
    if _DEFINES_A_FUNCTION.search(starter_code):
        raise UnusableRow(
            f"{row.place}: its tests are free text: a function is asked for (starter_code), but "
            "'input_output' has no fn_name that says how to call it"
        )
    return StdinTests(
        inputs=tuple(_lines(row.place, "inputs", value) for value in inputs),
        outputs=tuple(_lines(row.place, "outputs", value) for value in outputs),
    )


def _arguments(place: str, inputs: list[Any]) -> tuple[tuple[Any, ...], ...]:
    for values in inputs:
        if not isinstance(values, list):
            raise UnusableRow(
                f"{place}: with fn_name, each of 'inputs' must be a list of arguments, got {values!r:.80}"
            )
    return tuple(tuple(_int_keys(value) for value in values) for values in inputs)


def _expected(output: Any) -> Any:
    """The value of a call. Many rows wrap it into a list of its own, others do not, and none says which."""
    if isinstance(output, list) and len(output) == 1:
        return [_int_keys(output[0])]
    return _int_keys(output)


def _int_keys(value: Any) -> Any:
    """JSON made strings of the integer keys of a dict; a list of dicts is a value of several results."""
    if isinstance(value, list):
        return [_int_keys(item) if isinstance(item, dict) else item for item in value]
    if isinstance(value, dict) and value and all(re.fullmatch(r"-?\d{1,18}", key) for key in value):
        return {int(key): item for key, item in value.items()}
    return value


def _lines(place: str, name: str, value: Any) -> str:
    """What a program reads or prints: text, a number, or a list with one of them a line."""
    if isinstance(value, list):
        return "\n".join(_word(place, name, item) for item in value)
    return _word(place, name, value)


def _word(place: str, name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return int_text(value)
    if isinstance(value, float):
        return str(value)
    raise UnusableRow(f"{place}: each of {name!r} must be text or lines of text, got {value!r:.80}")


def _first_solution(place: str, solutions: Any) -> str:
    programs = _parsed(place, "solutions", solutions) if isinstance(solutions, str) else solutions
    if not isinstance(programs, list) or not all(isinstance(program, str) for program in programs):
        raise UnusableRow(f"{place}: field 'solutions' must be a list of programs, got {solutions!r:.80}")
    return programs[0] if programs else ""


def _text_or_null(row: Row, field: str) -> str:
    value = row.value(field)
    if value is not None and not isinstance(value, str):
        raise UnusableRow(f"{row.place}: field {field!r} must be a text or null, got {value!r:.80}")
    return value or ""


def _parsed(place: str, field: str, text: str) -> Any:
    try:
        return read_json(text)
    # ValueError covers malformed JSON and integers of more digits than are read.
    except (ValueError, RecursionError) as error:
        raise UnusableRow(f"{place}: field {field!r} is not JSON ({error})") from error
