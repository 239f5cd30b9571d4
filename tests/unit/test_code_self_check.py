"""Known programs through the whole of each programming task, on own rows and on the real ones."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipo.errors import TaskError
from pipo.graders.code import CodeGrader
from pipo.graders.code_tests import AssertTests, CallTests
from pipo.records.problems import Reward
from pipo.tasks.code import CodeExample, CodeTask
from pipo.tasks.mbpp import SPLITS
from tests.code_rows import DATA, make_task
from tests.verdicts import verdict


@pytest.fixture(scope="module")
def grader() -> Iterator[CodeGrader]:
    grader = CodeGrader(
        reward="fraction",
        workers=2,
        timeout_s=30.0,  # the machine may be busy; what is graded here ends by itself
        total_s=300.0,
        batch_s=3600.0,
        max_timeouts=1,
        wall_factor=100.0,
        cpu_s=20,
        memory_mb=1024,
        output_kb=4096,
        float_tolerance=0.0,
    )
    yield grader
    grader.close()


def fenced(program: str) -> str:
    return f"```python\n{program}\n```"


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def real(name: str) -> Path:
    folder = os.environ.get("PIPO_DATA_DIR")
    if folder is None:
        pytest.skip(
            "PIPO_DATA_DIR is not set: a folder with the rows of the data sets, see docs/tasks/code.md"
        )
    return Path(folder) / name


def failures(examples: Sequence[CodeExample], rewards: Sequence[Reward]) -> dict[str, str | None]:
    return {e.uid: r.error or r.feedback for e, r in zip(examples, rewards, strict=True) if r.score < 1}


def returns_none(example: CodeExample) -> str:
    """The obvious mutant: every function and class of the solution, and nothing in them."""
    names = re.findall(r"^(?:def|class)[ \t]+(\w+)", example.answer, re.MULTILINE)
    return "\n".join(f"def {name}(*args, **kwargs):\n    return None" for name in names)


def test_own_rows(grader: CodeGrader) -> None:
    programs: dict[str, list[tuple[int, str, float]]] = {
        # (problem, program, share of its tests that it passes)
        "taco": [
            (0, "print(2 * int(input()))", 1.0),
            (0, "print(4)", 0.5),
            (1, "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())))", 1.0),
            (2, "x = float(input()) / 3\nprint(x if x < 1 else round(x))", 1.0),
            (3, "def add(a: List[int], b) -> int:\n    return a + b", 1.0),
            (3, "class Solution:\n    def add(self, a, b):\n        return 3", 0.5),
            (4, "def digits(n):\n    return [int(c) for c in str(n)]", 1.0),
            (5, "def lengths(words):\n    return {len(w): k for k, w in words.items()}", 1.0),
            (0, "print(", 0.0),
        ],
        "livecodebench": [
            (0, "print(int(input()) + 1)", 1.0),
            (1, "print(int(input()) ** 2)", 1.0),
            (1, "print(1)", 0.5),
            (
                2,
                "class Solution:\n    def join(self, words: List[str], m):\n        return m.join(words)",
                1.0,
            ),
        ],
        "humaneval": [
            (0, "def last(items):\n    return items[-1]", 1.0),
            (0, "def last(items):\n    return items[0]", 0.0),
            (1, "def halves(numbers):\n    return [twice(n) // 4 for n in numbers]", 1.0),
        ],
        "mbpp": [
            (0, "def inc(x):\n    return x + 1", 1.0),
            (0, "def inc(x):\n    return 1", 1 / 3),
            (1, "def root(x):\n    return x ** 0.5", 1.0),
        ],
    }
    for kind, cases in programs.items():
        task = make_task(kind, DATA / f"{kind}_small.jsonl", grader)
        examples = [task.examples("test")[number] for number, _, _ in cases]
        rewards = task.grade(examples, [fenced(program) for _, program, _ in cases])
        assert [r.score for r in rewards] == pytest.approx([share for _, _, share in cases])
        assert [r.error for r in rewards] == [None] * len(cases)
        # What a failing program is told names the first test that failed.
        assert all((r.feedback is None) == (r.score == 1) for r in rewards)
    task = make_task("mbpp", DATA / "mbpp_small.jsonl", grader)
    (tree,) = task.examples("train")
    assert verdict(task, tree, fenced(tree.answer)).score == 1.0


def humaneval(grader: CodeGrader) -> tuple[CodeTask, list[CodeExample], list[str]]:
    file = real("humaneval.jsonl")
    task = make_task("humaneval", file, grader)
    examples = list(task.examples("test"))
    assert (len(examples), len(task.dropped("test"))) == (164, 0)
    return task, examples, [row["canonical_solution"] for row in rows(file)]


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_humaneval_solutions_complete_their_prompts(grader: CodeGrader, step: int) -> None:
    task, examples, solutions = humaneval(grader)
    assert failures(examples[::step], task.grade(examples[::step], solutions[::step])) == {}


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_humaneval_written_again_and_mutants(grader: CodeGrader, step: int) -> None:
    task, examples, _ = humaneval(grader)
    examples = examples[::step]
    # As a chat model answers: the function alone, without the prompt's imports and helpers.
    names = [e.tests.entry_point for e in examples if isinstance(e.tests, AssertTests)]
    alone = [e.answer[e.answer.index(f"def {name}(") :] for e, name in zip(examples, names, strict=True)]
    assert failures(examples, task.grade(examples, [fenced(program) for program in alone])) == {}
    mutants = task.grade(examples, ["    return None"] * len(examples))
    assert {r.score for r in mutants} == {0.0}


@pytest.mark.parametrize(
    ("file", "size", "step"),
    [
        ("mbpp.jsonl", 974, 40),
        pytest.param("mbpp.jsonl", 974, 1, marks=pytest.mark.slow),
        pytest.param("mbpp_sanitized.jsonl", 427, 1, marks=pytest.mark.slow),
    ],
)
def test_mbpp_solutions_and_mutants(
    grader: CodeGrader, monkeypatch: pytest.MonkeyPatch, file: str, size: int, step: int
) -> None:
    monkeypatch.setitem(SPLITS, "test", range(1, 975))  # all splits: each row is checked
    task = make_task("mbpp", real(file), grader)
    examples = list(task.examples("test"))
    assert (len(examples), len(task.dropped("test"))) == (size, 0)
    examples = examples[::step]
    assert failures(examples, task.grade(examples, [fenced(e.answer) for e in examples])) == {}
    mutants = task.grade(examples, [fenced(returns_none(e)) for e in examples])
    assert [e.uid for e, r in zip(examples, mutants, strict=True) if r.score == 1] == []


def test_mbpp_splits() -> None:
    task = make_task("mbpp", real("mbpp.jsonl"))
    assert (len(task.examples("train")), len(task.examples("test"))) == (374, 500)


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_taco_programs_pass_their_tests(grader: CodeGrader, step: int) -> None:
    task = make_task("taco", real("taco_test_reconstructed.jsonl"), grader)
    examples = list(task.examples("test"))
    assert (len(examples), len(task.dropped("test"))) == (83, 0)
    assert Counter(isinstance(e.tests, CallTests) for e in examples) == {False: 70, True: 13}
    # The 12 problems with a special judge among them too: the program printed what the samples show.
    examples = examples[::step]
    assert failures(examples, task.grade(examples, [fenced(e.answer) for e in examples])) == {}
    mutants = task.grade(examples, [fenced(returns_none(e) or "input()") for e in examples])
    assert [e.uid for e, r in zip(examples, mutants, strict=True) if r.score == 1] == []


def test_taco_rows_with_every_column() -> None:
    task = make_task("taco", real("taco_train_quoted_rows.jsonl"))
    (usable,) = task.examples("test")
    assert (usable.level, usable.starter_code) == ("EASY", "")
    # The other row's question is not published with it.
    assert [d.reason for d in task.dropped("test")] == [
        "field 'question' must be a text that is not blank, got None"
    ]


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_livecodebench_agrees_with_official_verdicts(grader: CodeGrader, step: int) -> None:
    file = real("livecodebench_v6_reconstructed.jsonl")
    task = make_task("livecodebench", file, grader)
    examples = list(task.examples("test"))
    assert (len(examples), len(task.dropped("test"))) == (72, 0)
    graded = [row["_official_graded"] for row in rows(file)][::step]
    rewards = task.grade(examples[::step], [fenced(program["code_list"][0]) for program in graded])
    table = Counter(
        (official["graded_list"][0], r.score == 1) for official, r in zip(graded, rewards, strict=True)
    )
    assert table[True, False] == 0
    assert {r.error for r in rewards} == {None}
    if step == 1:
        # 12 programs that the hidden tests refute pass here, where the tests are the printed samples alone.
        assert table == {(True, True): 18, (False, False): 42, (False, True): 12}


def test_livecodebench_with_and_without_hidden_tests() -> None:
    task = make_task("livecodebench", real("livecodebench_full_3rows.jsonl"), since=None)
    assert (len(task.examples("test")), len(task.dropped("test"))) == (3, 0)
    public = make_task("livecodebench", real("livecodebench_v1_public.jsonl"), since=None)
    with pytest.raises(
        TaskError, match=r"none of the 60 rows can be used; .*: no field 'private_test_cases'"
    ):
        public.examples("test")
