r"""Mathematics with a final answer in ``\boxed{}``: MATH, MATH500, AIME, AMC, Minerva, OlympiadBench."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipo.errors import TaskError
from pipo.graders.math import MAX_ANSWER_CHARS, last_boxed
from pipo.graders.typesetting import repaired
from pipo.records.problems import Dropped, Example, Prompt, Split
from pipo.tasks.boxed import BoxedTask
from pipo.tasks.row_task import RowTask
from pipo.tasks.rows import Row, Source, UnusableRow


@dataclass(frozen=True, kw_only=True)
class MathFields:
    r"""What the columns of a set of problems are called and how its answers are written."""

    question: str
    """Column of the problem."""
    answer: str
    """Column of the answer: a text, a number, or a list of them (several are answered in any order)."""
    answer_form: Literal["plain", "boxed"]
    """``plain`` if that column is the answer itself, ``boxed`` if the answer is the last ``\boxed{...}`` in
    it, as in a whole solution.
    """
    level: str | None
    """Column of the difficulty or subject, for reports; None for none."""
    context: str | None
    """Column of the text that stands before the question in some rows; None for none."""

    def __post_init__(self) -> None:
        if self.answer_form not in ("plain", "boxed"):
            raise ValueError(f"answer_form must be plain or boxed, got {self.answer_form!r}")

    def columns(self) -> list[str]:
        """The columns that every row must have."""
        return [name for name in (self.question, self.answer, self.level, self.context) if name is not None]


class MathTask(RowTask[Example], BoxedTask):
    r"""Problems from any file or hub data set; the last ``\boxed{...}`` of a response is its answer.

    Args:
        name: short name of the set.
        train: the training rows; None for a set that only serves to evaluate.
        train_fields: what their columns are called; None without training rows.
        test: the held-out rows.
        test_fields: what their columns are called.
        template: the prompt, see ``pipo.tasks.template``.
        grader_workers: processes for answers that take algebra; None for the share of the cores.
        grader_cpu_s: seconds of processor time that one such answer may take.
        grader_wall_s: seconds of wall-clock time, far above those, after which the machine is at fault.

    Raises:
        TaskError: an option is out of range, or rows come without the names of their columns; later, a
            split cannot be read.
    """

    version = "2"

    def __init__(
        self,
        *,
        name: str,
        train: Source | None,
        train_fields: MathFields | None,
        test: Source,
        test_fields: MathFields,
        template: str,
        grader_workers: int | None,
        grader_cpu_s: float,
        grader_wall_s: float,
    ) -> None:
        RowTask.__init__(self, train=train, test=test, template=template)
        BoxedTask.__init__(
            self, grader_workers=grader_workers, grader_cpu_s=grader_cpu_s, grader_wall_s=grader_wall_s
        )
        if (train is None) != (train_fields is None):
            raise TaskError("train and train_fields belong together: give both or neither")
        self.name = name
        self._fields: dict[Split, MathFields | None] = {"train": train_fields, "test": test_fields}
        self.prompt.render({"question": ""})  # a template that does not fit shows now
        self._text_only: dict[Split, tuple[Dropped, ...]] = {}

    def make_example(self, split: Split, number: int, row: Row) -> Example:
        """One problem."""
        fields = self._fields[split]
        assert fields is not None  # rows without fields were refused
        missing = [column for column in fields.columns() if column not in row.fields]
        if missing:
            raise UnusableRow(
                f"{row.place}: no field {', '.join(map(repr, missing))}; there are {sorted(row.fields)}; "
                f"say what they are called in source.{split}_fields"
            )
        question = row.text(fields.question).strip()
        return _example(f"{self.name}/{split}/{number}", row, fields, question)

    def to_grade(self, number: int, row: Row) -> Example:
        r"""The problem of a row in the columns of either split, or under the usual names of such columns.

        The column of the answer decides how it is written: of MATH's rows, ``answer`` is the answer itself,
        and the answer is the last box of ``solution``. The problem may be blank; then there is nothing with
        which an answer could be compared besides the reference.
        """
        refused: UnusableRow | None = None
        for fields in self._forms():
            if fields.question not in row.fields or row.fields.get(fields.answer) is None:
                continue
            context = fields.context if fields.context in row.fields else None
            asked = row.fields[fields.question]
            try:
                question = "" if isinstance(asked, str) and not asked.strip() else row.text(fields.question)
                graded = replace(fields, level=None, context=context)
                return _example(f"{self.name}/{number}", row, graded, question.strip())
            except UnusableRow as error:
                refused = refused or error
        if refused is None:
            test = self._fields["test"]
            assert test is not None
            refused = UnusableRow(
                f"{row.place}: a problem needs the fields {test.question!r} and {test.answer!r}; there are "
                f"{sorted(row.fields)}; say what they are called in source.test_fields"
            )
        raise refused

    def _forms(self) -> list[MathFields]:
        """The columns of the splits, then the usual ones of problems and answers."""
        test = self._fields["test"]
        assert test is not None
        answers = ((test.answer, test.answer_form), ("answer", "plain"), ("solution", "boxed"))
        usual = [
            replace(test, question=question, answer=answer, answer_form=form)
            for question in (test.question, "problem", "question")
            for answer, form in answers
        ]
        return [fields for fields in (test, self._fields["train"], *usual) if fields is not None]

    def render(self, example: Example) -> Prompt:
        """The problem with the instruction."""
        return self.prompt.render({"question": example.question})

    def doubtful(self, split: Split) -> Sequence[Dropped]:
        """Problems whose reference algebra cannot read: there only the same text is right."""
        if split not in self._text_only:
            self._text_only[split] = self._find_text_only(split)
        return self._text_only[split]

    def _find_text_only(self, split: Split) -> tuple[Dropped, ...]:
        examples = self.examples(split)
        texts = set(self._grader.unreadable([e.answer for e in examples]))
        return tuple(
            Dropped(
                place=e.uid, reason=f"its answer is compared as text, algebra cannot read {e.answer!r:.100}"
            )
            for e in examples
            if e.answer in texts
        )


def _example(uid: str, row: Row, fields: MathFields, question: str) -> Example:
    if fields.context is not None and row.fields[fields.context] is not None:
        question = f"{row.text(fields.context).strip()}\n\n{question}"
    return Example(uid=uid, question=question, answer=_answer(row, fields), level=_level(row, fields))


def _answer(row: Row, fields: MathFields) -> str:
    """The reference of a row, several as a list.

    Raises:
        UnusableRow: there is none.
    """
    value = row.fields[fields.answer]
    values = value if isinstance(value, list) else [value]
    answers = [_one_answer(row, fields, v) for v in values]
    if not answers:
        raise UnusableRow(f"{row.place}: field {fields.answer!r} is an empty list")
    answer = ", ".join(answers)
    if len(answer) > MAX_ANSWER_CHARS:
        raise UnusableRow(
            f"{row.place}: field {fields.answer!r} has {len(answer)} characters; the grader reads "
            f"{MAX_ANSWER_CHARS}, so that no response could be right"
        )
    return answer


def _one_answer(row: Row, fields: MathFields, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UnusableRow(
            f"{row.place}: field {fields.answer!r} must hold a text, a number or a list of them, "
            f"got {value!r:.80}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise UnusableRow(f"{row.place}: field {fields.answer!r} is {value}, which is no answer")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 27.0 in JSON is the integer 27
    text = str(value)
    if fields.answer_form == "boxed":
        boxed = last_boxed(text) or last_boxed(repaired(text))
        if not boxed:
            raise UnusableRow(
                f"{row.place}: field {fields.answer!r} has no \\boxed{{...}} with an answer; is "
                "answer_form=plain meant?"
            )
        return repaired(boxed)
    text = repaired(text)
    if not text:
        raise UnusableRow(f"{row.place}: field {fields.answer!r} is blank")
    return text


def _level(row: Row, fields: MathFields) -> str:
    """``Level 5`` and 5 alike as "5"; "" where it is unknown (``Level ?``)."""
    if fields.level is None or row.fields[fields.level] is None:
        return ""
    if isinstance(row.fields[fields.level], float) and math.isnan(row.fields[fields.level]):
        return ""  # what a table has where a value is missing
    level = str(row.fields[fields.level]).strip().removeprefix("Level ")
    return "" if level == "?" else level
