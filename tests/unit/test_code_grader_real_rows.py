"""Every canonical solution of HumanEval and MBPP passes through the judge, and obvious mutants fail.

The rows are adapted here in the plainest way: what counts is the grader, not a task.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipo.graders.code import CodeGrader
from pipo.graders.code_tests import AssertTests, ProgramJob

DATA = os.environ.get("PIPO_DATA_DIR")
pytestmark = pytest.mark.skipif(
    DATA is None, reason="PIPO_DATA_DIR does not name a folder with the data sets"
)

ALWAYS_EQUAL = (
    "class Equal(int):\n"
    "    def __eq__(self, other): return True\n"
    "    def __ne__(self, other): return False\n"
    "    __lt__ = __gt__ = __le__ = __ge__ = __eq__\n"
    "    def __hash__(self): return 0\n"
    "def abs(*_): return 0\n"
    "def set(*_): return Equal(0)\n"
)


@pytest.fixture(scope="module")
def grader() -> Iterator[CodeGrader]:
    grader = CodeGrader(
        reward="all_pass",
        workers=2,
        timeout_s=30.0,
        total_s=60.0,
        batch_s=3600.0,
        max_timeouts=1,
        wall_factor=100.0,
        cpu_s=30,
        memory_mb=1024,
        output_kb=1024,
        float_tolerance=0.0,
    )
    yield grader
    grader.close()


def rows(name: str) -> list[dict[str, Any]]:
    assert DATA is not None
    return [json.loads(line) for line in (Path(DATA) / name).read_text().splitlines()]


def human_eval(row: dict[str, Any], body: str) -> ProgramJob:
    # The prompt's own helpers are needed by three of the tests; its unfinished function does no harm.
    tests = AssertTests(
        setup=f"{row['prompt']}    pass\n",
        statements=(f"{row['test']}\ncheck(candidate)\n",),
        entry_point=row["entry_point"],
    )
    return ProgramJob(program=row["prompt"] + body, tests=tests)


def mbpp(row: dict[str, Any], program: str) -> ProgramJob:
    tests = AssertTests(setup=row["test_setup_code"], statements=tuple(row["test_list"]), entry_point=None)
    return ProgramJob(program=program, tests=tests)


def failing(grader: CodeGrader, jobs: list[ProgramJob]) -> dict[int, str | None]:
    rewards = grader.grade_batch(jobs)
    assert [reward.error for reward in rewards] == [None] * len(jobs)
    return {number: reward.feedback for number, reward in enumerate(rewards) if reward.score < 1.0}


def every_definition_returns(program: str, value: str) -> str:
    """A program with the same names, all functions returning one value."""
    kinds = ast.FunctionDef | ast.ClassDef
    names = [node.name for node in ast.parse(program).body if isinstance(node, kinds)]
    return ALWAYS_EQUAL + "".join(f"def {name}(*_, **__): return {value}\n" for name in names)


@pytest.mark.slow
def test_all_humaneval_solutions_pass(grader: CodeGrader) -> None:
    data = rows("humaneval.jsonl")
    assert len(data) == 164
    assert failing(grader, [human_eval(row, row["canonical_solution"]) for row in data]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("body", ["return None", "return True", "import os; os._exit(0)", "pass"])
def test_humaneval_mutants_fail(grader: CodeGrader, body: str) -> None:
    data = rows("humaneval.jsonl")
    assert len(failing(grader, [human_eval(row, f"    {body}\n") for row in data])) == 164


def test_some_mbpp_solutions_pass_and_their_mutants_fail(grader: CodeGrader) -> None:
    data = rows("mbpp.jsonl")[5::25]
    assert failing(grader, [mbpp(row, row["code"]) for row in data]) == {}
    mutants = [mbpp(row, every_definition_returns(row["code"], "Equal(-987)")) for row in data]
    assert len(failing(grader, mutants)) == len(data)


@pytest.mark.slow
def test_all_mbpp_solutions_pass(grader: CodeGrader) -> None:
    data = rows("mbpp.jsonl")
    assert len(data) == 974
    assert failing(grader, [mbpp(row, row["code"]) for row in data]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("value", ["None", "Equal(-987)"])
def test_mbpp_mutants_fail(grader: CodeGrader, value: str) -> None:
    data = rows("mbpp.jsonl")
    mutants = [mbpp(row, every_definition_returns(row["code"], value)) for row in data]
    assert len(failing(grader, mutants)) == 974
