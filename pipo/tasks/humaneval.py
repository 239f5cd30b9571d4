"""HumanEval: functions to complete from signature and description (Chen et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipo.graders.code_tests import AssertTests
from pipo.records.problems import Split
from pipo.tasks.code import CodeExample, CodeTask, ProgramGrader
from pipo.tasks.program import complete_function, preamble
from pipo.tasks.rows import Row, Source, UnusableRow


class HumanEvalTask(CodeTask):
    """The 164 problems of HumanEval. A base model continues the code of the prompt, as in the original.

    Args:
        test: the rows.
        template: the prompt, see :class:`CodeTask`; ``question`` is the code to complete.
        grader: runs the programs.
    """

    name = "humaneval"
    version = "2"

    ungraded: Mapping[str, Any] = {"task_id": "HumanEval/unknown", "canonical_solution": "not given"}

    def __init__(self, *, test: Source, template: str, grader: ProgramGrader) -> None:
        super().__init__(train=None, test=test, template=template, grader=grader)

    def make_example(self, split: Split, number: int, row: Row) -> CodeExample:
        """One problem. Its ``check`` function is one test: the asserts in it share loops and variables."""
        prompt, function, checks = row.text("prompt"), row.text("entry_point"), row.text("test")
        if "def check(" not in checks:
            raise UnusableRow(f"{row.place}: field 'test' defines no function check")
        if f"def {function}(" not in prompt:
            raise UnusableRow(f"{row.place}: field 'prompt' does not begin the function {function}")
        _, _, tail = row.text("task_id").rpartition("/")
        # Some checks call a helper that only the prompt defines.
        setup = f"{preamble(prompt, function)}\n{checks}"
        return CodeExample(
            uid=f"humaneval/{tail}",
            question=prompt,
            answer=prompt + row.text("canonical_solution"),
            tests=AssertTests(setup=setup, statements=("check(candidate)",), entry_point=function),
        )

    def program(self, example: CodeExample, response: str) -> str | None:
        """The prompt's code with the completion, see :func:`pipo.tasks.program.complete_function`."""
        assert isinstance(example.tests, AssertTests)
        assert example.tests.entry_point is not None
        return complete_function(example.question, response, example.tests.entry_point)
