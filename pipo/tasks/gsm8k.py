r"""GSM8K: grade-school word problems whose answer is one number (Cobbe et al., 2021)."""

from __future__ import annotations

from pipo.graders.math import MAX_ANSWER_CHARS
from pipo.records.problems import Example, Prompt, Split
from pipo.tasks.boxed import BoxedTask
from pipo.tasks.row_task import RowTask
from pipo.tasks.rows import Row, Source, UnusableRow

ANSWER_MARK = "####"


class Gsm8kTask(RowTask[Example], BoxedTask):
    r"""The problems of GSM8K; the last ``\boxed{...}`` of a response is its answer.

    Args:
        train: the training rows, with the fields ``question`` and ``answer``.
        test: the held-out rows.
        template: the prompt, see ``pipo.tasks.template``.
        fewshot: number of the template's worked problems before each question.
        grader_workers: processes for answers that are not plain numbers; None for the share of the cores.
        grader_cpu_s: seconds of processor time that one such answer may take.
        grader_wall_s: seconds of wall-clock time, far above those, after which the machine is at fault.

    Raises:
        TaskError: an option is out of range; later, a split cannot be read.
    """

    name = "gsm8k"
    version = "3"

    def __init__(
        self,
        *,
        train: Source | None,
        test: Source | None,
        template: str,
        fewshot: int,
        grader_workers: int | None,
        grader_cpu_s: float,
        grader_wall_s: float,
    ) -> None:
        RowTask.__init__(self, train=train, test=test, template=template)
        BoxedTask.__init__(
            self, grader_workers=grader_workers, grader_cpu_s=grader_cpu_s, grader_wall_s=grader_wall_s
        )
        self._fewshot = fewshot
        self.prompt.render({"question": ""}, worked=fewshot)  # a template that does not fit shows now

    def make_example(self, split: Split, number: int, row: Row) -> Example:
        """One problem; the final answer stands after the mark."""
        question, solution = row.text("question").strip(), row.text("answer")
        _, mark, gold = solution.rpartition(ANSWER_MARK)
        gold = gold.strip().replace(",", "")
        if not mark or not gold:
            raise UnusableRow(f"{row.place}: field 'answer' has no final answer after {ANSWER_MARK!r}")
        if len(gold) > MAX_ANSWER_CHARS:
            raise UnusableRow(
                f"{row.place}: the final answer has {len(gold)} characters; the grader reads "
                f"{MAX_ANSWER_CHARS}"
            )
        return Example(uid=f"gsm8k/{split}/{number}", question=question, answer=gold)

    def render(self, example: Example) -> Prompt:
        """The problem after the worked ones."""
        return self.prompt.render({"question": example.question}, worked=self._fewshot)
