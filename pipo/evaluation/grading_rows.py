"""Rows that bring their responses along: read one by one, matched with their problems, and written graded.

A row of an evaluation's ``samples.jsonl`` (or a training run's) names its problem by ``uid``; any other row
holds the problem itself, in the task's own data fields, and one more field, ``response``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipo.errors import ConfigError
from pipo.evaluation.results import Sample
from pipo.evaluation.voting import majority_values
from pipo.records.problems import Example, Reward, Split
from pipo.tasks.base import Task
from pipo.tasks.rows import Row, UnusableRow, json_value

RESPONSE = "response"
_LONG_NUMBER = re.compile(r"[0-9]{600}")  # Python converts at least so many digits, whatever its limit is
# What tells a row of an evaluation, and one of a training run, from one of a data set.
_EVALUATED = {"part", "uid", "prompt", "answer", "samples"}
_TRAINED = {"iteration", "uid", "prompt", "reference", RESPONSE}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a file."""

    place: str
    """Where the line stands, for messages."""
    fields: dict[str, Any]
    """The row as it is written again; where the line holds none, the line, so that it is not lost."""
    row: dict[str, Any]
    """The row as tasks read it, see :func:`pipo.tasks.rows.json_value`."""
    problem: str | None
    """Why the line holds no row; None when it holds one."""
    end: int
    """Bytes of the file that are read after this line."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row on its way."""

    line: Line
    """Line that was read."""
    task: Task | None = None
    """Task that grades the row; None when there is nothing to grade."""
    example: Example | None = None
    """Problem of the row; None when there is nothing to grade."""
    responses: tuple[str, ...] = ()
    """Responses to grade."""
    problem: str | None = None
    """Why there is nothing to grade; None when there is something."""


def read_lines(path: Path) -> Iterator[Line]:
    """The rows of a file of JSON Lines, and the lines that are none.

    Raises:
        ConfigError: the file cannot be read.
    """
    end = 0
    try:
        with path.open("rb") as file:  # by bytes: other characters than these may end a line of text
            for number, raw in enumerate(file, start=1):
                end += len(raw)
                if line := raw.removeprefix(b"\xef\xbb\xbf").strip():
                    yield _parsed(line, f"line {number}", end)
    except OSError as error:
        raise ConfigError(f"samples={path}: cannot be read ({error.strerror})") from error


def check_file(path: Path) -> None:
    """Refuse a file that has nothing to grade.

    Raises:
        ConfigError: it cannot be read, is empty, or not one line is a row; the message has the first reason.
    """
    first: Line | None = None
    for line in read_lines(path):
        first = first or line
        if line.problem is None:
            return
    if first is None:
        raise ConfigError(f"samples={path}: no rows")
    raise ConfigError(
        f"samples={path}: no line is a row; {first.place}: {first.problem} (one JSON object a line)"
    )


def dumped(value: Any) -> bytes:
    """A value as one line of JSON: text as text, except where it is no Unicode; numbers however long."""
    with _numbers_of_any_length():
        try:
            return json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # an unpaired surrogate
            return json.dumps(value).encode()


def _parsed(raw: bytes, place: str, end: int) -> Line:
    """The row in a line, or the line as it is and why it is no row."""
    try:
        text = raw.decode()
        with _numbers_of_any_length():
            value = json.loads(text)
        row = json_value(text) if _LONG_NUMBER.search(text) else value
    except json.JSONDecodeError as error:
        problem = f"malformed JSON ({error.msg}, column {error.colno})"
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 text ({error.reason}, byte {error.start + 1})"
    except RecursionError:
        problem = "JSON that is nested too deeply"
    else:
        if isinstance(value, dict):
            return Line(place=place, fields=value, row=row, problem=None, end=end)
        problem = f"must be a JSON object, got {str(value)[:40]!r}"
    fields = {"line": raw.decode(errors="replace")}
    return Line(place=place, fields=fields, row=fields, problem=problem, end=end)


@contextmanager
def _numbers_of_any_length() -> Iterator[None]:
    """A row is written as it was read, also with an integer of more digits than Python likes to convert."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


class Matcher:
    """Finds the problem of each row.

    Args:
        tasks: by the name of the part of a benchmark; a single task stands under None, and is every row's.
    """

    def __init__(self, tasks: Mapping[str | None, Task]) -> None:
        self._tasks = tasks
        self._examples: dict[tuple[int, Split], dict[str, Example]] = {}  # two parts may have one task's name

    def entry(self, number: int, line: Line) -> Entry:
        """A row with its problem and what is to be graded, or why there is nothing.

        Raises:
            TaskError: the problems of the task cannot be read.
        """
        if line.problem is not None:
            return Entry(line=line, problem=f"{line.place}: {line.problem}")
        try:
            task, example, responses = self._match(number, Row(line.place, line.row))
        except UnusableRow as error:
            return Entry(line=line, problem=str(error))
        return Entry(line=line, task=task, example=example, responses=responses)

    def _match(self, number: int, row: Row) -> tuple[Task, Example, tuple[str, ...]]:
        fields = row.fields
        if fields.keys() >= _EVALUATED:
            task = self._task(row)
            return task, self._known(task, "test", row, fields["answer"]), _sampled(row)
        if fields.keys() >= _TRAINED:
            task = self._task(row)
            return task, self._known(task, "train", row, fields["reference"]), (_response(row.place, fields),)
        if None not in self._tasks:
            raise UnusableRow(
                f"{row.place}: not a row of an evaluation's samples.jsonl; name its grader by task="
            )
        response = _response(row.place, fields)
        own = {name: value for name, value in fields.items() if name != RESPONSE}
        task = self._tasks[None]
        return task, task.to_grade(number, Row(row.place, own)), (response,)

    def _task(self, row: Row) -> Task:
        part = row.fields.get("part")
        task = self._tasks.get(None) or self._tasks.get(str(part))
        if task is None:
            raise UnusableRow(
                f"{row.place}: its part {part!r:.80} is none of {', '.join(map(str, self._tasks))}"
            )
        return task

    def _known(self, task: Task, split: Split, row: Row, reference: Any) -> Example:
        """The problem with the row's uid, if it is still the one that was answered."""
        if (key := (id(task), split)) not in self._examples:
            self._examples[key] = {example.uid: example for example in task.examples(split)}
        uid = row.fields["uid"]
        example = self._examples[key].get(uid) if isinstance(uid, str) else None
        if example is None:
            raise UnusableRow(f"{row.place}: {task.name} ({split}) has no problem {uid!r:.80}")
        # The reference alone may be written otherwise now, and so may the question; not both.
        asked = _letters(example.question) in _letters(str(row.fields["prompt"]))
        if not asked and example.answer != reference:
            raise UnusableRow(
                f"{row.place}: {uid} is another problem now: its question is not in the prompt, and its "
                f"answer is {example.answer!r:.40}, not {reference!r:.40}"
            )
        return example


def _letters(text: str) -> str:
    """A text without its blanks, which a tokenizer may not give back as they were."""
    return "".join(text.split())


def _response(place: str, fields: Mapping[str, Any]) -> str:
    if RESPONSE not in fields:
        raise UnusableRow(f"{place}: no field {RESPONSE!r}; there are {sorted(fields)}")
    if not isinstance(response := fields[RESPONSE], str):
        raise UnusableRow(f"{place}: field {RESPONSE!r} must be a text, got {response!r:.80}")
    return response


def _sampled(row: Row) -> tuple[str, ...]:
    samples = row.fields["samples"]
    if not isinstance(samples, list) or not samples or not all(isinstance(s, dict) for s in samples):
        raise UnusableRow(f"{row.place}: field 'samples' must be a list of responses, got {samples!r:.80}")
    return tuple(_response(f"{row.place}, sample {i}", sample) for i, sample in enumerate(samples, start=1))


def recorded_scores(entry: Entry) -> list[Any]:
    """What each response of an evaluation's row scored before, None where that is missing; else nothing."""
    fields = entry.line.fields
    return [sample.get("score") for sample in fields["samples"]] if fields.keys() >= _EVALUATED else []


def graded_row(entry: Entry, verdicts: Sequence[Reward]) -> dict[str, Any]:
    """A row with its verdict added; of several responses each has its own, and the row their mean."""
    fields = dict(entry.line.fields)
    if not verdicts:
        return fields | {"score": None, "solved": False, "error": entry.problem, "feedback": None}
    if fields.keys() >= _EVALUATED:
        fields["samples"] = [s | _sample(v) for s, v in zip(fields["samples"], verdicts, strict=True)]
        if fields.get("majority") is not None and entry.task is not None:
            fields["majority"] = _majority(entry.task, entry.responses, verdicts)
    score = sum(verdict.score for verdict in verdicts) / len(verdicts)
    errors = [_error(verdict) for verdict in verdicts]
    failed = [f"sample {i}: {e}" for i, e in enumerate(errors, start=1) if e is not None]
    return fields | {
        "score": score,
        "solved": all(verdict.solved for verdict in verdicts),
        "error": errors[0] if len(verdicts) == 1 else "; ".join(failed) or None,
        "feedback": verdicts[0].feedback if len(verdicts) == 1 else None,
    }


def _sample(verdict: Reward) -> dict[str, Any]:
    return {
        "score": verdict.score,
        "solved": verdict.solved,
        "answer": verdict.answer,
        "error": verdict.error,
        "infrastructure": verdict.infrastructure,
        "feedback": verdict.feedback,
    }


def _error(verdict: Reward) -> str | None:
    return f"infrastructure error: {verdict.error}" if verdict.infrastructure else verdict.error


def _majority(task: Task, responses: Sequence[str], verdicts: Sequence[Reward]) -> float:
    """The vote of the responses, by their new verdicts."""
    voters = [
        Sample.of(response, verdict, finished=True, length=0)
        for response, verdict in zip(responses, verdicts, strict=True)
    ]
    return majority_values([voters], task.same_answers)[0]
