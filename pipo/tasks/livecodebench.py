"""LiveCodeBench: contest problems with dates, to take those after a model's training (Jain et al., 2024)."""

from __future__ import annotations

import base64
import binascii
import pickletools
import zlib
from collections.abc import Mapping
from datetime import date
from typing import Any

from pipo.errors import TaskError
from pipo.graders.code_tests import CallTests, ProgramTests, StdinTests
from pipo.graders.integers import read_json
from pipo.records.problems import Split
from pipo.tasks.code import CodeExample, CodeTask, ProgramGrader, with_prelude
from pipo.tasks.program import between_last_fences
from pipo.tasks.rows import Row, Source, UnusableRow

MAX_TESTS_BYTES = 1 << 28
"""Compressed tests that grow beyond this are not read: a few kilobytes can stand for gigabytes."""

# The pickle of one text consists of these; PUT and MEMOIZE number it for later use, which there is none of.
_TEXT = ("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_AROUND_TEXT = ("PROTO", "FRAME", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "STOP")


class LiveCodeBenchTask(CodeTask):
    """The problems of LiveCodeBench, graded with the public and the private tests of a row.

    Args:
        test: the rows.
        template: the prompt, see :class:`CodeTask`.
        grader: runs the programs.
        since: day of the earliest contest, as YYYY-MM-DD; rows of earlier ones are left out. None for all.

    Raises:
        TaskError: ``since`` is not a day; later, the rows cannot be read.
    """

    name = "livecodebench"
    version = "2"

    ungraded: Mapping[str, Any] = {
        **dict.fromkeys(("platform", "question_id", "question_content", "difficulty"), "not given"),
        **{"starter_code": "", "metadata": "{}"},
    }

    def __init__(self, *, test: Source, template: str, grader: ProgramGrader, since: str | None) -> None:
        super().__init__(train=None, test=test, template=template, grader=grader)
        try:
            self._since = date.min if since is None else date.fromisoformat(since)
        except ValueError as error:
            raise TaskError(f"since must be a day such as 2025-01-04, got {since!r}") from error

    def make_example(self, split: Split, number: int, row: Row) -> CodeExample:
        """One problem; its level is the difficulty."""
        day = row.text("contest_date")
        try:
            held = date.fromisoformat(day[:10])
        except ValueError as error:
            raise UnusableRow(f"{row.place}: field 'contest_date' is no date: {day!r:.40}") from error
        if held < self._since:
            raise UnusableRow(f"{row.place}: contest_date {held} is before {self._since}")
        return _problem(row)

    def to_grade(self, number: int, row: Row) -> CodeExample:
        """One problem, of whatever day."""
        return _problem(self.filled(row))

    def program(self, example: CodeExample, response: str) -> str | None:
        """What stands between the last two fences, as in the official harness."""
        return between_last_fences(response)

    def runnable(self, program: str) -> str:
        """The program with the names that the official harness gives."""
        return with_prelude(program)


def _problem(row: Row) -> CodeExample:
    starter_code = row.value("starter_code")
    if not isinstance(starter_code, str):
        raise UnusableRow(f"{row.place}: field 'starter_code' must be a text, got {starter_code!r:.80}")
    return CodeExample(
        uid=f"livecodebench/{row.text('platform')}/{row.text('question_id')}",
        question=row.text("question_content").strip(),
        answer="",
        level=row.text("difficulty"),
        tests=read_tests(row),
        starter_code=starter_code.rstrip(),
    )


def read_tests(row: Row) -> ProgramTests:
    """The public and the private tests of a row.

    Raises:
        UnusableRow: it has not both, or they cannot be run.
    """
    cases = _cases(row, "public_test_cases", row.text("public_test_cases"))
    private = row.text("private_test_cases")
    plain = private.lstrip().startswith("[")
    cases += _cases(row, "private_test_cases", private if plain else unpacked(row.place, private))
    kinds = {case["testtype"] for case in cases}
    if kinds == {"stdin"}:
        return StdinTests(
            inputs=tuple(case["input"] for case in cases), outputs=tuple(case["output"] for case in cases)
        )
    if kinds != {"functional"}:
        raise UnusableRow(f"{row.place}: testtype must be stdin or functional in all, got {sorted(kinds)}")
    metadata = _json(row.place, "metadata", row.text("metadata"))
    function = metadata.get("func_name") if isinstance(metadata, dict) else None
    if not isinstance(function, str) or not function:
        raise UnusableRow(f"{row.place}: functional tests need func_name in field 'metadata'")
    return CallTests(
        function=function,
        arguments=tuple(_arguments(row.place, case["input"]) for case in cases),
        expected=tuple(_json(row.place, "output of a test", case["output"]) for case in cases),
        maybe_wrapped=False,
    )


def unpacked(place: str, packed: str) -> str:
    """Private tests, which are published as base64 of zlib of the pickle of a JSON text.

    Nothing is unpickled. A pickle is a program that may call anything; the one of a text consists of that
    text and framing, and any other is refused.

    Args:
        place: for messages.
        packed: the published field.

    Raises:
        UnusableRow: it is something else, or too large.
    """
    where = f"{place}: field 'private_test_cases'"
    try:
        stream = zlib.decompressobj()
        pickled = stream.decompress(base64.b64decode(packed, validate=True), MAX_TESTS_BYTES)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise UnusableRow(f"{where} is neither JSON nor base64 of compressed data ({error})") from error
    if not stream.eof:
        raise UnusableRow(f"{where} is cut, or has more than {MAX_TESTS_BYTES >> 20} MiB uncompressed")
    try:
        opcodes = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(pickled)]
    except ValueError as error:
        raise UnusableRow(f"{where} is not a pickle ({error})") from error
    others = [name for name, _ in opcodes if name not in _TEXT + _AROUND_TEXT]
    if others:
        raise UnusableRow(f"{where} is the pickle of more than a text ({others[0]}), which is not read")
    texts = [str(argument) for name, argument in opcodes if name in _TEXT]
    if len(texts) != 1:
        raise UnusableRow(f"{where} must be the pickle of one text, got {len(texts)}")
    return texts[0]


def _cases(row: Row, field: str, text: str) -> list[dict[str, str]]:
    cases = _json(row.place, field, text)
    keys = ("input", "output", "testtype")
    if not isinstance(cases, list) or not all(
        isinstance(case, dict) and all(isinstance(case.get(key), str) for key in keys) for case in cases
    ):
        raise UnusableRow(f"{row.place}: field {field!r} must be a JSON list of tests with the texts {keys}")
    if not cases:
        raise UnusableRow(f"{row.place}: field {field!r} has no tests")
    return cases


def _arguments(place: str, text: str) -> tuple[Any, ...]:
    """One argument a line, as JSON."""
    return tuple(_json(place, "input of a test", line) for line in text.split("\n") if line.strip())


def _json(place: str, what: str, text: str) -> Any:
    try:
        return read_json(text)
    # ValueError covers malformed JSON and integers of more digits than are read.
    except (ValueError, RecursionError) as error:
        raise UnusableRow(f"{place}: {what} is not JSON: {text[:60]!r} ({error})") from error
