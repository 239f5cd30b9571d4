r"""Grade mathematics: extract the last ``\boxed{...}`` of a response and compare it with the reference.

What the writing alone decides, numbers and words above all, is decided here. The rest goes to
algebra in a worker process, because it can hang, crash or take all memory on what a model writes.
``docs/tasks/mathematics.md`` says what counts as equal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipo.distributed.processes import own_cores
from pipo.errors import TaskError
from pipo.graders.answer_lists import listings_differ, same_text
from pipo.graders.answer_text import (
    based,
    number,
    readings,
    relates_numbers,
    same_in_base,
    same_label,
    same_word,
    word,
)
from pipo.graders.final_form import unfinished
from pipo.graders.quantities import is_text_only, without_units
from pipo.graders.thought import answer_part
from pipo.graders.typesetting import repaired, tidy
from pipo.graders.units import units_differ
from pipo.graders.worker_pool import Limits, WorkerPool
from pipo.records.problems import Reward

MATH_WORKER = Path(__file__).with_name("math_worker.py")
# Far above any real answer; what is longer is noise that would only burn a worker's time.
MAX_ANSWER_CHARS = 2000

# An answer, its reference, and the question if the form of the answer counts.
_Asked = tuple[str, str, str | None]

# An escaped character is consumed as one token, so ``\{`` and ``\}`` never count as braces.
_BRACE_TOKEN = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


def last_boxed(response: str) -> str | None:
    r"""The content of the last ``\boxed{...}`` whose braces balance, stripped; None without any.

    Of nested boxes the inner one is the last. A box that is cut off is no box; an empty one is.
    """
    start = end = -1
    if "\\boxed" not in response:  # the common case for an untrained model, at C speed
        return None
    open_braces: list[int] = []  # where the content starts for a box, -1 for any other brace
    for token in _BRACE_TOKEN.finditer(response):
        text = token.group()
        if text.startswith("\\boxed"):
            open_braces.append(token.end())
        elif text == "{":
            open_braces.append(-1)
        elif text == "}" and open_braces:
            opened = open_braces.pop()
            if opened > start:
                start, end = opened, token.start()
    return response[start:end].strip() if start >= 0 else None


def quick_verdict(answer: str, reference: str) -> bool | None:
    """Whether the two are equal, if that is clear without algebra; None if it takes a worker."""
    if answer == reference:
        return True
    other_unit = units_differ(answer, reference)
    answer, reference = tidy(answer), tidy(reference)
    if same_text(answer, reference):
        return True
    if (same := same_label(answer, reference)) is not None:
        return same
    if other_unit or relates_numbers(answer) or (both := without_units(answer, reference)) is None:
        return False
    answer, reference = both
    a, b = number(answer), number(reference)
    if a is not None and b is not None:
        return a.equals(b)
    if (of := word(reference)) is not None:
        return same_word(answer, of)
    if is_text_only(answer) or is_text_only(reference):
        return False
    if (same := same_in_base(answer, reference)) is not None:
        return same
    return False if listings_differ(answer, reference) else None


class MathGrader:
    r"""Grades responses by their last ``\boxed{...}``: 1.0 if it equals the reference, else 0.0.

    A box in the thought (``pipo/graders/thought.py``) does not count. A response without a box, or with an
    empty one, has no answer and scores 0. An answer that
    the worker cannot finish scores 0 too, and ``Reward.error`` says why; the others go on.

    Args:
        workers: processes at most, None for this process's share of the node's cores; they start with the
            first answer that needs one.
        cpu_s: seconds of processor time for one answer.
        wall_s: seconds of wall-clock time, far above those: an answer that takes longer, tried once more,
            was let down by the machine (``Reward.infrastructure``).
        program: the worker program. Another one that keeps to the protocol of ``worker_pool``
            and answers as ``math_worker`` does may take its place (the tests use one that hangs).

    Raises:
        TaskError: an option is out of range.
    """

    def __init__(
        self, *, workers: int | None, cpu_s: float, wall_s: float, program: Path = MATH_WORKER
    ) -> None:
        if workers is not None and workers < 1:
            raise TaskError(f"grader workers must be at least 1, got {workers}")
        try:
            limits = Limits(cpu_s=cpu_s, wall_s=wall_s)
        except ValueError as error:
            raise TaskError(f"grader {error}") from error
        self._options = {"workers": workers, "cpu_s": cpu_s, "wall_s": wall_s, "program": program}
        most = own_cores() if workers is None else workers
        self._pool = WorkerPool(program=program, workers=most, limits=limits)
        #: What ``begin`` found out without algebra, None where a worker is at it.
        self._begun: dict[_Asked, Reward | None] = {}

    def grade(self, response: str, reference: str, question: str | None = None) -> Reward:
        """The verdict on one response; see ``grade_batch``."""
        return self.grade_batch([(response, reference)], [question])[0]

    def grade_batch(
        self, pairs: Sequence[tuple[str, str]], questions: Sequence[str | None] | None = None
    ) -> list[Reward]:
        """One verdict per pair of response and reference, in order.

        Equal answers to the same problem, frequent within a group of samples, are graded once.

        Args:
            pairs: responses with their references.
            questions: the problem of each pair. An answer to it must be in final form, see
                ``final_form``. Where it is None, as by default for all, only the value counts.
        """
        read = _read(pairs, [None] * len(pairs) if questions is None else questions)
        verdicts = self._compare([(a, r, question) for a, r, question in read if a])
        self._begun.clear()
        return [verdicts[a, r, question] if a else Reward(score=0.0) for a, r, question in read]

    def begin(self, pairs: Sequence[tuple[str, str]], questions: Sequence[str | None]) -> None:
        """Let the workers begin on what ``grade_batch`` will be asked about, in the same words."""
        hard: list[_Asked] = []
        for answer, reference, question in _read(pairs, questions):
            key = (answer or "", reference, question)
            if answer and key not in self._begun:
                self._begun[key] = _quick(*key)
                hard += [key] if self._begun[key] is None else []
        if hard:
            self._pool.begin([_request(answer, reference) for answer, reference, _ in hard])

    def same(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether the two answers of each pair mean the same, in order.

        Neither is a reference, so it is enough that one of them, taken as the reference, makes the
        other right. A comparison that cannot be finished counts as a difference.
        """
        both = [(a.strip(), b.strip()) for a, b in pairs]
        asked = [(x, y, None) for a, b in both for x, y in ((a, b), (b, a)) if a and b]
        verdicts = self._compare(asked)
        return [
            a == b or bool(a and b and max(verdicts[a, b, None].score, verdicts[b, a, None].score) == 1.0)
            for a, b in both
        ]

    def unreadable(self, references: Sequence[str]) -> list[str]:
        """The references that algebra cannot read, so that only their own text is right."""
        distinct = [
            r for r in dict.fromkeys(references) if not any(f(tidy(r)) for f in (number, word, based))
        ]
        outcomes = self._pool.run([_request(r, r) for r in distinct])
        return [
            reference
            for reference, outcome in zip(distinct, outcomes, strict=True)
            if is_text_only(tidy(reference))
            or (outcome.reply is None and not outcome.infrastructure)
            or (outcome.reply is not None and not json.loads(outcome.reply)["readable"])
        ]

    def close(self) -> None:
        """End the worker processes. They start again when they are needed."""
        self._begun.clear()
        self._pool.close()

    def _compare(self, asked: Sequence[_Asked]) -> dict[_Asked, Reward]:
        """The verdict on each answer; none is empty."""
        verdicts: dict[_Asked, Reward] = {}
        hard: list[_Asked] = []
        for key in dict.fromkeys(asked):
            verdict = self._begun[key] if key in self._begun else _quick(*key)
            if verdict is None:
                hard.append(key)
            else:
                verdicts[key] = verdict
        replies = self._ask([(answer, reference) for answer, reference, _ in hard])
        verdicts.update(zip(hard, replies, strict=True))
        return verdicts

    def _ask(self, pairs: list[tuple[str, str]]) -> list[Reward]:
        outcomes = self._pool.run([_request(answer, reference) for answer, reference in pairs])
        rewards: list[Reward] = []
        for (answer, _), outcome in zip(pairs, outcomes, strict=True):
            if outcome.reply is None:
                lost = {"error": outcome.error, "infrastructure": outcome.infrastructure}
                rewards.append(Reward(score=0.0, answer=answer, **lost))
            else:
                verdict: dict[str, Any] = json.loads(outcome.reply)
                rewards.append(Reward(score=float(verdict["equal"]), answer=answer, error=verdict["error"]))
        return rewards

    def __getstate__(self) -> dict[str, Any]:
        return self._options  # processes cannot be pickled; the copy starts its own

    def __setstate__(self, options: dict[str, Any]) -> None:
        self.__init__(**options)


def _read(
    pairs: Sequence[tuple[str, str]], questions: Sequence[str | None]
) -> list[tuple[str | None, str, str | None]]:
    """The answer in each response, with its reference and its question."""
    return [
        (last_boxed(answer_part(response)), repaired(reference), question)
        for (response, reference), question in zip(pairs, questions, strict=True)
    ]


def _quick(answer: str, reference: str, question: str | None) -> Reward | None:
    """The verdict, if it is clear without algebra."""
    if len(answer) > MAX_ANSWER_CHARS:
        error = f"answer of {len(answer)} characters, more than {MAX_ANSWER_CHARS}"
        return Reward(score=0.0, answer=answer[:100], error=error)
    if (equal := quick_verdict(answer, reference)) is False or not _is_final(answer, reference, question):
        return Reward(score=0.0, answer=answer)
    return Reward(score=1.0, answer=answer) if equal else None


def _is_final(answer: str, reference: str, question: str | None) -> bool:
    """Whether the form of an answer lets it count; what is written as the reference always does."""
    if question is None or same_text(tidy(answer), tidy(reference)):
        return True
    return unfinished(answer, reference, question) is None


def _request(answer: str, reference: str) -> bytes:
    answer, reference = tidy(answer), tidy(reference)
    answer, reference = without_units(answer, reference) or (answer, reference)
    request = [
        readings(answer, other_has_percent=reference.endswith("\\%")),
        readings(reference, other_has_percent=answer.endswith("\\%")),
    ]
    return json.dumps(request).encode()
