"""Base of programming tasks: extract the program from a response and run the data set's tests on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pipo.graders.code_tests import AssertTests, CallTests, ProgramJob, ProgramTests
from pipo.records.problems import Example, Prompt, Reward
from pipo.tasks.program import find_program
from pipo.tasks.row_task import RowTask
from pipo.tasks.rows import Source

NO_PROGRAM = Reward(
    score=0.0,
    feedback="The response holds no program. Put all of it into one block that begins with ```python.",
)

# What the harnesses of programming contests put in front of a program, as one line: later lines move by one.
# All that these modules export, in this order: a later one hides what an earlier one calls the same.
_STARRED = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io "
    "sys json builtins typing"
)
_MODULES = _STARRED.replace("builtins typing", "").split()


def contest_prelude(recursion: int, *modules: str) -> str:
    """The names that the harness of LiveCodeBench gives to a program; those of TACO add depth and modules."""
    stars = [f"from {module} import *" for module in _STARRED.split()]
    return "; ".join(
        [*stars, f"import {', '.join([*_MODULES, *modules])}", f"sys.setrecursionlimit({recursion})"]
    )


CONTEST_PRELUDE = contest_prelude(50_000)
"""That of LiveCodeBench."""

_FUTURE_IMPORT = re.compile(r"^from __future__ import .*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class CodeExample(Example):
    """A programming problem; its ``answer`` is a program that solves it, empty if the data set has none."""

    tests: ProgramTests
    """Tests that a program must pass."""
    starter_code: str = ""
    """Code that the program begins with; empty for none."""


class ProgramGrader(Protocol):
    """Judges programs, see :class:`pipo.graders.code.CodeGrader`."""

    def begin(self, jobs: Sequence[ProgramJob]) -> None:
        """Programs that ``grade_batch`` will be asked about, which may run from now on."""
        ...

    def grade_batch(self, jobs: Sequence[ProgramJob]) -> list[Reward]:
        """One verdict per program, in order."""
        ...

    def close(self) -> None:
        """End the worker processes."""
        ...


class CodeTask(RowTask[CodeExample]):
    """Grades programs; subclasses say what a row means and how a program is read from a response.

    The grader's ``reward`` decides what the score is: the fraction of the tests that pass, for training,
    or 1 only when all do. The accuracy (pass@k) is the same for both: it counts full scores only.

    Args:
        train: the training rows; None for a data set that only serves to evaluate.
        test: the held-out rows; None for a data set that only serves to train.
        template: the prompt; it may use ``question``, ``starter_code``, ``function`` (the name that the tests
            call, empty where there is none) and ``asserts`` (test statements, if the tests are such).
        grader: runs the programs.

    Raises:
        TaskError: an option is out of range; later, a split cannot be read.
    """

    def __init__(
        self, *, train: Source | None, test: Source | None, template: str, grader: ProgramGrader
    ) -> None:
        super().__init__(train=train, test=test, template=template)
        # A template that does not fit shows now.
        self.prompt.render({"question": "", "starter_code": "", "function": "", "asserts": ()})
        self._grader = grader

    def program(self, example: CodeExample, response: str) -> str | None:
        """The program in a response; None when there is none."""
        return find_program(response)

    def runnable(self, program: str) -> str:
        """What is run for a program: the program, and what the data set's judge puts in front of it."""
        return program

    def render(self, example: CodeExample) -> Prompt:
        """The problem, with what the template may show of its tests."""
        tests = example.tests
        function = tests.function if isinstance(tests, CallTests) else ""
        if isinstance(tests, AssertTests):
            function = tests.entry_point or ""
        values = {
            "question": example.question,
            "starter_code": example.starter_code,
            "function": function,
            "asserts": tests.statements if isinstance(tests, AssertTests) else (),
        }
        return self.prompt.render(values)

    def grade(self, examples: Sequence[CodeExample], responses: Sequence[str]) -> list[Reward]:
        """The grader's verdicts on the programs in the responses, in parallel; ``answer`` is the program."""
        jobs = self._jobs(examples, responses)
        verdicts = iter(self._grader.grade_batch([job for _, job in jobs if job is not None]))
        return [NO_PROGRAM if job is None else replace(next(verdicts), answer=p) for p, job in jobs]

    def begin_grading(self, examples: Sequence[CodeExample], responses: Sequence[str]) -> None:
        """Let the programs in the responses run."""
        self._grader.begin([job for _, job in self._jobs(examples, responses) if job is not None])

    def _jobs(
        self, examples: Sequence[CodeExample], responses: Sequence[str]
    ) -> list[tuple[str | None, ProgramJob | None]]:
        """The program in each response, and what is run for it; None where there is none."""
        programs = [self.program(e, r) for e, r in zip(examples, responses, strict=True)]
        return [
            (program, None if program is None else ProgramJob(program=self.runnable(program), tests=e.tests))
            for e, program in zip(examples, programs, strict=True)
        ]

    def close(self) -> None:
        """End the grader's processes."""
        self._grader.close()


def with_prelude(program: str, prelude: str = CONTEST_PRELUDE) -> str:
    """A contest program with the names that its judge would have given it."""
    futures = [found.end() for found in _FUTURE_IMPORT.finditer(program)]
    if not futures:
        return f"{prelude}\n{program}"
    # Such an import must come before every other statement.
    return f"{program[: futures[-1]]}\n{prelude}{program[futures[-1] :]}"
